"""One schema for many files, and tables made to fit it. Knows no files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyarrow import fs as pafs

from ..errors import ConfigError, SchemaMismatchError

__all__ = ["Policy", "expression_of", "fitted", "may_hold", "merged", "needed_for", "rows_where"]

Policy = Any  # "strict", "first", "unify" or a pyarrow.Schema


def merged(schemas: Sequence[tuple[str, pa.Schema]], policy: Policy) -> pa.Schema:
    """The schema that a policy makes of those of files.

    Parameters
    ----------
    schemas : sequence of (str, pyarrow.Schema)
        With the names of the files.
    policy : {"strict", "first", "unify"} or pyarrow.Schema

    Raises
    ------
    SchemaMismatchError
        If they cannot be one: says which file, and which column.
    """
    if isinstance(policy, pa.Schema):
        return policy
    if policy not in ("strict", "first", "unify"):
        raise ConfigError(
            f"schema={policy!r}", "it is 'strict', 'first', 'unify' or a pyarrow.Schema"
        )
    (name, first), *others = schemas
    out = first
    for other_name, other in others:
        if policy == "first" or other.equals(out):
            continue
        if policy == "strict":
            _check_same(name, first, other_name, other)
            continue
        try:
            out = pa.unify_schemas([out, other], promote_options="permissive")
        except pa.ArrowException as error:
            raise SchemaMismatchError(
                f"{other_name} does not go with the files before it: {error}",
                "schema=pa.schema(...) says what the columns are to be",
            ) from None
    return out


def _check_same(name: str, first: pa.Schema, other_name: str, other: pa.Schema) -> None:
    types = dict(zip(first.names, first.types, strict=True))
    others = dict(zip(other.names, other.types, strict=True))
    for column in {**types, **others}:
        here, there = types.get(column), others.get(column)
        if here != there:
            told = f"{there or 'missing'}, in {name} it is {here or 'missing'}"
            raise SchemaMismatchError(
                f"column {column!r} of {other_name} is {told}",
                "schema='unify' takes all columns and widens types, 'first' goes by the first file",
            )


def fitted(
    table: pa.Table, schema: pa.Schema, keys: Mapping[str, Any], pool: pa.MemoryPool, name: str
) -> pa.Table:
    """``table`` with the columns of ``schema``: cast, filled with nulls, or with ``keys``.

    What fits already is not copied.
    """
    columns = []
    for field in schema:
        if field.name in keys:
            value = pa.scalar(keys[field.name], field.type)
            columns.append(pa.chunked_array(_repeated(value, table, pool), field.type))
            continue
        index = table.schema.get_field_index(field.name)
        if index < 0:
            value = pa.scalar(None, field.type)
            columns.append(pa.chunked_array(_repeated(value, table, pool), field.type))
            continue
        column = table.column(index)
        if column.type != field.type:
            try:
                _check_cast(column.type)
                column = pc.cast(column, field.type, memory_pool=pool)
            except pa.ArrowException as error:
                if isinstance(error, MemoryError):
                    raise
                raise SchemaMismatchError(
                    f"column {field.name!r} of {name} is {table.column(index).type} and cannot be"
                    f" {field.type}: {error}",
                    "schema=pa.schema(...) says what the columns are to be",
                ) from None
        columns.append(column)
    if not columns:
        return table.select([])
    return pa.Table.from_arrays(columns, schema=schema)


def _check_cast(type: pa.DataType) -> None:
    """Refuse what Arrow 26 casts to other values than there are, without a word."""
    if pa.types.is_list_view(type) or pa.types.is_large_list_view(type):
        raise pa.ArrowNotImplementedError("Arrow casts no list views")
    for n in range(type.num_fields):
        _check_cast(type.field(n).type)


def _repeated(value: pa.Scalar, table: pa.Table, pool: pa.MemoryPool) -> list[pa.Array]:
    """A value once for each row, in chunks as those of the table."""
    lengths = [len(chunk) for chunk in table.column(0).chunks] if table.num_columns else []
    lengths = lengths or [table.num_rows]
    return [pa.repeat(value, length, memory_pool=pool) for length in lengths]


# ---- filters


def expression_of(filter: Any) -> ds.Expression | None:
    """A filter as an expression, also one in tuples, as `pyarrow.parquet` has them."""
    if filter is None or isinstance(filter, ds.Expression):
        return filter
    try:
        import pyarrow.parquet as pq

        return pq.filters_to_expression(filter)
    except Exception as error:
        raise ConfigError(
            f"filter={filter!r}: {error}",
            "for example pyarrow.compute.field('a') > 3, or [('a', '>', 3)]",
        ) from None


def needed_for(filter: ds.Expression, schema: pa.Schema) -> set[str]:
    """The columns that a filter looks at: those without which it makes no sense.

    Raises
    ------
    SchemaMismatchError
        If it makes no sense even with all.
    """
    if error := _unbound(filter, schema):
        raise SchemaMismatchError(
            f"the filter {filter} does not fit: {error}", f"there are {', '.join(schema.names)}"
        )
    return {
        name
        for i, name in enumerate(schema.names)
        if _unbound(filter, schema.remove(i)) is not None
    }


def _unbound(filter: ds.Expression, schema: pa.Schema) -> str | None:
    try:
        ds.InMemoryDataset(schema.empty_table()).scanner(filter=filter)
    except pa.ArrowException as error:
        return str(error).partition("\n")[0]
    return None


def may_hold(known: ds.Expression, filter: ds.Expression, schema: pa.Schema) -> bool:
    """Whether rows of which ``known`` is true may go with a filter. Nothing is read."""
    any_format = ds.IpcFileFormat()
    files = pafs.LocalFileSystem()
    fragment = any_format.make_fragment("any", files, known)
    alone = ds.FileSystemDataset([fragment], schema, any_format, files)
    return any(True for _ in alone.get_fragments(filter=filter))


def rows_where(table: pa.Table, filter: ds.Expression, pool: pa.MemoryPool) -> pa.Table:
    """The rows for which ``filter`` is true, built in ``pool``."""
    if not table.num_rows:
        return table
    mask = ds.InMemoryDataset(table).to_table(columns={"mask": filter}).column("mask")
    return pc.filter(table, mask, memory_pool=pool)
