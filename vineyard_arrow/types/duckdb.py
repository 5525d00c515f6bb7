"""DuckDB relations, by their result.

A relation is a plan over a connection of one process, so what is stored is the table it
gives, ``{"names", "types"}`` describing its columns in DuckDB's own words. A get makes a
relation that scans the mapped table, on DuckDB's default connection. To query it on
another, see `vineyard_arrow.integrations.duckdb`.
"""

from __future__ import annotations

from typing import Any

import duckdb
import pyarrow as pa

from ..errors import InvalidObjectError
from ..registry import Encoder, Part, StoredObject, StoredPart, builtin_registry
from .arrow import build_table, resolve_table
from .pickling import pickle_part

__all__ = ["RELATION", "relation_over"]

RELATION = "vineyard.duckdb.relation"
# Types that DuckDB writes to Arrow as something it cannot read back: sent as text.
_AS_TEXT = frozenset({"bit", "time with time zone"})


@builtin_registry.builder(duckdb.DuckDBPyRelation)
def build_relation(relation: Any, encoder: Encoder) -> Part:
    """The result of a relation, which is executed for it."""
    if type(relation) is not duckdb.DuckDBPyRelation:
        return pickle_part(relation, encoder)
    names, types = relation.columns, relation.types
    for name, type_ in zip(names, types, strict=True):
        if type_.id not in _AS_TEXT and _has_text_inside(type_):
            raise InvalidObjectError(
                f"column {name!r} is a {type_}, which DuckDB does not give to Arrow as it is",
                "cast what is of type BIT or TIME WITH TIME ZONE in it to VARCHAR",
            )
    sent = ["VARCHAR" if type_.id in _AS_TEXT else str(type_) for type_ in types]
    result = _projected(relation, names, sent)
    part = build_table(pa.RecordBatchReader.from_stream(result).read_all(), encoder)
    params = part.params | {"names": names, "types": list(map(str, types))}
    return Part(RELATION, part.schema, part.batches, params)


@builtin_registry.resolver(RELATION)
def resolve_relation(part: StoredPart, stored: StoredObject) -> Any:
    """A relation over the mapped table, on DuckDB's default connection."""
    return relation_over(part.table, part.params, duckdb.default_connection())


@builtin_registry.resolver(RELATION, as_=pa.Table)
def table_of(part: StoredPart, stored: StoredObject) -> pa.Table:
    """The result as it is stored: what Arrow has no type for has become text."""
    return resolve_table(part, stored)


@builtin_registry.resolver("vineyard.table", as_=duckdb.DuckDBPyRelation)
def relation_of(part: StoredPart, stored: StoredObject) -> Any:
    """A table as a relation on the default connection: nothing is copied."""
    return duckdb.from_arrow(resolve_table(part, stored))


def relation_over(table: pa.Table, params: dict[str, Any], connection: Any) -> Any:
    """A relation of ``connection`` over a stored relation's table, scanned where it lies."""
    try:
        types = [str(duckdb.sqltype(type_)) for type_ in params["types"]]
    except (duckdb.Error, KeyError, TypeError) as error:  # it would become part of a statement
        raise InvalidObjectError(f"a stored relation has no types of DuckDB: {error}") from None
    names = params["names"]
    if len(set(names)) < len(names):  # which DuckDB before 2 does not find in a table
        table = table.rename_columns([str(i) for i in range(len(names))])
    return _projected(connection.from_arrow(table), names, types)


def _projected(relation: Any, names: list[str], types: list[str]) -> Any:
    """``relation`` with these column names and types; itself if it has them."""
    if relation.columns == names and list(map(str, relation.types)) == types:
        return relation
    columns = []
    for i, (name, have, want) in enumerate(zip(names, relation.types, types, strict=True)):
        # By position: names may come twice.
        value = f"#{i + 1}" if str(have) == want else f"CAST(#{i + 1} AS {want})"
        quoted = name.replace('"', '""')
        columns.append(f'{value} AS "{quoted}"')
    return relation.project(", ".join(columns))


def _has_text_inside(type_: Any) -> bool:
    if type_.id in _AS_TEXT:
        return True
    if type_.id not in ("list", "array", "struct", "map", "union"):
        return False
    return any(
        _has_text_inside(child) for _, child in type_.children if isinstance(child, type(type_))
    )
