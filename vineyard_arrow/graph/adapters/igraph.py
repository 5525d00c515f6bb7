"""Graphs of igraph: made of ours, and made into ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ...errors import InvalidGraphError
from ..adjacency import ends_of
from ..graph import Graph
from ..inputs import edges_of
from ..schema import Triple
from .common import column_of, imported

if TYPE_CHECKING:
    from ...client import Client

__all__ = ["from_igraph", "to_igraph"]


def to_igraph(graph: Graph, triple: Triple | str | None = None) -> Any:
    """The edges of a triple, between vertices of one label, as a graph of igraph; all is copied.

    Vertices and edges have the numbers that they have here. Properties, the oid among them, are
    attributes under their names; what is null is None.

    Returns
    -------
    igraph.Graph

    Raises
    ------
    LibraryNotFoundError
        If igraph is not installed.
    InvalidGraphError
        If the ends of the triple are of two labels.
    """
    igraph = imported("igraph")
    edges = edges_of(graph, triple)
    ends = np.stack(ends_of(edges), axis=1).astype(np.int64)
    made = igraph.Graph(n=edges.num_src, edges=ends if len(ends) else [], directed=edges.directed)
    vertices = graph.vertices(edges.triple[0])
    for name in vertices.column_names:
        made.vs[name] = vertices[name].to_pylist()
    for name, column in edges.columns.items():
        made.es[name] = column.to_pylist()
    return made


def from_igraph(
    graph: Any,
    *,
    oid: str = "oid",
    vertex_label: str = "vertex",
    edge_label: str = "edge",
    client: Client | None = None,
    **options: Any,
) -> Graph:
    """A graph with the vertices, edges and attributes of one of igraph; all is copied.

    Vertices keep their numbers; edges are sorted by their ends, parallel ones stay in their
    order. Attributes of the graph are not kept.

    Parameters
    ----------
    graph : igraph.Graph
    oid : str
        The attribute of vertices that is their oid (often ``"name"``); if there is none of that
        name, the number is.
    client : Client, optional
        In whose pool to build.
    **options
        Others of `Graph.from_tables`.

    Raises
    ------
    InvalidGraphError
        If oids are repeated, or an attribute makes no Arrow column.
    """
    vertices = {
        name: column_of(graph.vs[name], f"{name!r} of vertices") for name in graph.vs.attributes()
    }
    oids = vertices.setdefault(oid, pa.array(range(graph.vcount()), pa.int64()))
    ends = np.array(graph.get_edgelist(), np.int64).reshape(-1, 2)
    edges = {
        name: oids.take(pa.array(side)) for name, side in zip(("src", "dst"), ends.T, strict=True)
    }
    for name in graph.es.attributes():
        if name in edges:
            raise InvalidGraphError(
                f"edges have an attribute {name!r}, which is to name their ends", "rename it"
            )
        edges[name] = column_of(graph.es[name], f"{name!r} of edges")
    return Graph.from_tables(
        {vertex_label: vertices},
        {(vertex_label, edge_label, vertex_label): edges},
        oid=oid,
        directed=graph.is_directed(),
        client=client,
        **options,
    )
