"""What adapters have in common: imports, keys of vertices, tables of attributes.

It knows no library.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any, Literal, get_args

import pyarrow as pa

from ...errors import InvalidGraphError, LabelNotFoundError, LibraryNotFoundError
from ..arrays import combined
from ..graph import Graph
from ..schema import Triple

__all__ = [
    "Keys",
    "attributes_of",
    "chosen",
    "column_of",
    "imported",
    "keys_of",
    "one_chunk",
    "property_of",
    "table_of",
]

Keys = Literal["oid", "id"]
"""What names a vertex outside: its original id, or its number."""


def imported(name: str, package: str | None = None) -> Any:
    """A library, by the name of its module.

    Raises
    ------
    LibraryNotFoundError
        If it is not installed: with the command that does it.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if not f"{name}.".startswith(f"{error.name}."):  # something that the library needs
            raise
        raise LibraryNotFoundError(
            f"{name} is needed for this, but it is not installed", f"pip install {package or name}"
        ) from None


def chosen(
    graph: Graph, triples: Iterable[Triple | str] | None
) -> tuple[tuple[str, ...], tuple[Triple, ...]]:
    """Labels and triples to convert: all, or those triples and the labels of their ends."""
    if triples is None:
        schema = graph.schema
        return tuple(v.name for v in schema.vertices), tuple(e.triple for e in schema.edges)
    if isinstance(triples, str):
        triples = [triples]
    taken = tuple(dict.fromkeys(graph.schema.edge(each).triple for each in triples))
    ends = {label for src, _, dst in taken for label in (src, dst)}
    return tuple(v.name for v in graph.schema.vertices if v.name in ends), taken


# ---- from a graph


def keys_of(graph: Graph, label: str, keys: str) -> list[Any]:
    """A Python object for each vertex: its oid, a tuple of its oids, or its id."""
    if keys not in get_args(Keys):
        raise InvalidGraphError(f"keys={keys!r} is not one of 'oid', 'id'")
    if keys == "id":
        return list(range(graph.num_vertices(label)))
    columns = [
        graph.vertices(label)[name].to_pylist() for name in graph.schema.vertex(label).primary_key
    ]
    return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))


def property_of(columns: Mapping[str, Any], name: str) -> Any:
    """A column by its name.

    Raises
    ------
    LabelNotFoundError
    """
    if name not in columns:
        known = ", ".join(map(repr, columns)) or "none"
        raise LabelNotFoundError(f"there is no property {name!r}", f"there are {known}")
    return columns[name]


def one_chunk(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """A column as one array: as it lies if it is one chunk, else copied."""
    if not isinstance(column, pa.ChunkedArray):
        return column
    return combined(column, pa.default_memory_pool())


def attributes_of(columns: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """A dictionary for each row, without the nulls."""
    rows: list[dict[str, Any]] = [{} for _ in range(count)]
    for name, column in columns.items():
        for row, value in zip(rows, column.to_pylist(), strict=True):
            if value is not None:
                row[name] = value
    return rows


# ---- to a graph


def table_of(rows: Sequence[Mapping[str, Any]], what: str) -> dict[str, pa.Array]:
    """Columns of dictionaries; null where one has no such key."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {
        _checked(name, what): column_of([row.get(name) for row in rows], f"{name!r} of {what}")
        for name in names
    }


def column_of(values: Sequence[Any], what: str) -> pa.Array:
    """A column of Python objects.

    Raises
    ------
    InvalidGraphError
        If Arrow finds no one type for them.
    """
    try:
        return pa.array(values)
    except pa.ArrowMemoryError:
        raise
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise InvalidGraphError(f"{what}: {error}", "columns are of one Arrow type") from None


def _checked(name: Any, what: str) -> str:
    if not isinstance(name, str):
        raise InvalidGraphError(f"{name!r} of {what} is no text", "names of properties are texts")
    return name
