"""Graphs as tables of vertices and of edges, for polars, DuckDB and whatever else reads Arrow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import pyarrow as pa

from ...errors import InvalidGraphError
from ..adjacency import ends_of
from ..graph import Graph
from ..schema import Triple
from ..vertices import id_dtype
from .common import Keys, chosen, imported

__all__ = ["Tables", "register_duckdb", "to_polars", "to_tables"]


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """Tables, or frames, of a graph.

    Attributes
    ----------
    vertices : dict of label to table
        A row for each vertex, in the order of ids.
    edges : dict of triple to table
        A row for each edge, in the order of ids: its ends, and its properties.
    """

    vertices: dict[str, Any]
    edges: dict[Triple, Any]


def to_tables(
    graph: Graph, *, keys: Keys = "oid", triples: Iterable[Triple | str] | None = None
) -> Tables:
    """Vertices and edges as `pyarrow.Table`; properties are not copied.

    Undirected, each edge is one row, from the lower vertex id to the higher.

    Parameters
    ----------
    keys : {"oid", "id"}
        What ``src`` and ``dst`` are. Oids: both are taken from the vertex tables, so copied; of
        several columns each is prefixed, as ``src_NAME``. These tables make the graph again.
        Vertex ids: ``dst`` of a directed graph is the index's own array and ``src`` is new, 4
        bytes an edge; vertex tables begin with a column ``id``, 4 bytes a vertex.
    triples : iterable of triples, optional
        Those to take, with the labels of their ends; the whole graph by default.

    Raises
    ------
    InvalidGraphError
        If a property has the name of one of these columns.
    """
    if keys not in get_args(Keys):
        raise InvalidGraphError(f"keys={keys!r} is not one of 'oid', 'id'")
    labels, taken = chosen(graph, triples)
    vertices = {}
    for label in labels:
        vertices[label] = graph.vertices(label)
        if keys == "id":
            count = vertices[label].num_rows
            ids = pa.array(np.arange(count, dtype=id_dtype(count)))
            vertices[label] = _before({"id": ids}, vertices[label], repr(label))
    edges = {}
    for triple in taken:
        ends: dict[str, Any] = {}
        for name, label, ids in zip(
            ("src", "dst"), triple[::2], ends_of(graph.adjacency(triple)), strict=True
        ):
            ends |= {name: pa.array(ids)} if keys == "id" else _oids(graph, label, ids, name)
        edges[triple] = _before(ends, graph.edge_columns(triple), "-".join(triple))
    return Tables(vertices, edges)


def to_polars(
    graph: Graph, *, keys: Keys = "oid", triples: Iterable[Triple | str] | None = None
) -> Tables:
    """What `to_tables` gives, as frames of polars.

    polars reads numbers, temporal values and large lists where they lie, and copies texts that
    are no views (16 bytes each) and dictionaries.
    """
    polars = imported("polars")
    tables = to_tables(graph, keys=keys, triples=triples)
    return Tables(
        {label: polars.from_arrow(table) for label, table in tables.vertices.items()},
        {triple: polars.from_arrow(table) for triple, table in tables.edges.items()},
    )


def register_duckdb(
    connection: Any,
    graph: Graph,
    *,
    keys: Keys = "oid",
    triples: Iterable[Triple | str] | None = None,
) -> list[str]:
    """Make the tables of `to_tables` views of a DuckDB connection, which scans them in place.

    A view is called as its vertex or edge label; ``SRC_EDGE_DST`` if another triple or a vertex
    label has that. It holds the graph's memory until ``connection.unregister(name)`` or the
    connection's end.

    Parameters
    ----------
    connection : duckdb.DuckDBPyConnection

    Returns
    -------
    list of str
        Names of the views, which have to be quoted if they are no plain words.
    """
    tables = to_tables(graph, keys=keys, triples=triples)
    names: dict[str, pa.Table] = dict(tables.vertices)
    labels = [*tables.vertices, *(triple[1] for triple in tables.edges)]
    for triple, table in tables.edges.items():
        name = triple[1] if labels.count(triple[1]) == 1 else "_".join(triple)
        if name in names:
            raise InvalidGraphError(f"two tables are to be {name!r}", "take them apart by triples=")
        names[name] = table
    for name, table in names.items():
        connection.register(name, table)
    return list(names)


def _oids(graph: Graph, label: str, ids: Any, name: str) -> dict[str, Any]:
    key = graph.schema.vertex(label).primary_key
    found = graph.oids(label, ids)
    if len(key) == 1:
        return {name: found}
    return {f"{name}_{each}": found[each] for each in key}


def _before(columns: dict[str, Any], table: pa.Table, what: str) -> pa.Table:
    for name in columns.keys() & set(table.column_names):
        raise InvalidGraphError(f"{what} has a property {name!r} already", "rename it")
    return pa.table(columns | dict(zip(table.column_names, table.columns, strict=True)))
