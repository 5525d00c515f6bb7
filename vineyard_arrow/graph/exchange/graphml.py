"""Graphs to GraphML, by way of networkx. Format: http://graphml.graphdrawing.org/specification.html"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ...errors import InvalidGraphError
from ..adapters.common import imported
from ..adapters.networkx import to_networkx
from ..files import PathLike, new_file
from ..graph import Graph
from ..vertices import is_text

__all__ = ["write_graphml"]

_NOT_XML = "[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]"


def write_graphml(graph: Graph, path: PathLike, *, overwrite: bool = False) -> None:
    """Write a graph with its properties as GraphML, for other programs to read.

    A node is named by its oid as text; by ``label/oid`` if there are several vertex labels, by
    its columns joined by ``/`` if the key has several. Oids are attributes too, in their types,
    and so are labels (``label``) where there are several. The whole graph is converted to one of
    networkx in between, which takes some hundred bytes a vertex and an edge.

    GraphML holds integers, floats, booleans and texts. Dates, times and timestamps are written as
    texts (``2026-11-25 12:00:00``), dictionary-encoded values as what they stand for, and what
    is null is left out. All else is refused.

    Raises
    ------
    PathExistsError
    InvalidGraphError
        If a property is of another type (lists, structs, binaries, decimals, durations), or a
        text of it has characters that XML has not: the property is named, nothing is written.
    LibraryNotFoundError
        If networkx is not installed.
    """
    nx = imported("networkx")
    plain = _plain(graph)
    several = len(graph.schema.vertices) > 1
    made = to_networkx(plain, keys="id")
    names: dict[Any, str] = {}
    for vertex in graph.schema.vertices:
        keys = [graph.vertices(vertex.name)[name].to_pylist() for name in vertex.primary_key]
        for i, key in enumerate(zip(*keys, strict=True)):
            node = (vertex.name, i) if several else i
            names[node] = (f"{vertex.name}/" if several else "") + _text(key)
    made = nx.relabel_nodes(made, names)
    with new_file(path, overwrite) as target:
        nx.write_graphml(made, target)
        content = target.read_bytes()
        if b"\r" in content:  # else readers take it for a line's end, as XML has it
            target.write_bytes(content.replace(b"\r", b"&#13;"))


def _text(key: tuple[Any, ...]) -> str:
    if len(key) == 1:
        return str(key[0])
    return "/".join(str(part).replace("%", "%25").replace("/", "%2F") for part in key)


def _plain(graph: Graph) -> Graph:
    """The same graph, with properties that GraphML can hold."""
    vertices = {}
    for vertex in graph.schema.vertices:
        own = graph._vertices[vertex.name]
        columns = _converted(
            dict(zip(own.table.column_names, own.table.columns, strict=True)), vertex.name
        )
        vertices[vertex.name] = replace(own, table=pa.table(columns))
    edges = {}
    for edge in graph.schema.edges:
        each = graph._edges_of(edge.triple)
        edges[edge.triple] = replace(each, columns=_converted(each.columns, "-".join(edge.triple)))
    return Graph(vertices, edges, graph.directed)


def _converted(columns: Mapping[str, Any], what: str) -> dict[str, Any]:
    for name in (what, *columns):
        if re.search(_NOT_XML, name):
            raise InvalidGraphError(f"{name!r} has a control character that XML has not")
    return {name: _column(column, f"{name!r} of {what}") for name, column in columns.items()}


def _column(column: Any, what: str) -> Any:
    type_ = column.type
    if pa.types.is_dictionary(type_):
        column, type_ = column.cast(type_.value_type), type_.value_type
    if pa.types.is_date(type_) or pa.types.is_time(type_) or pa.types.is_timestamp(type_):
        return column.cast(pa.string())
    if pa.types.is_float16(type_):
        return column.cast(pa.float32())
    if is_text(type_):
        bad = pc.match_substring_regex(column.cast(pa.large_string()), _NOT_XML)
        if pc.any(bad).as_py():
            row = pc.index(bad, True).as_py()
            raise InvalidGraphError(
                f"{what} has a control character that XML has not, first in row {row}",
                "replace it, or write another format",
            )
        return column
    if pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_boolean(type_):
        return column
    raise InvalidGraphError(
        f"GraphML cannot hold {what}, which is {type_}",
        "make it a text or a number, or leave it out of the graph",
    )
