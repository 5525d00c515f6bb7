"""Graphs of rustworkx: made of ours, and made into ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ...errors import InvalidGraphError
from ..adjacency import ends_of
from ..graph import Graph
from ..inputs import edges_of
from ..schema import Triple
from .common import attributes_of, column_of, imported, property_of, table_of

if TYPE_CHECKING:
    from ...client import Client

__all__ = ["from_rustworkx", "to_rustworkx"]


def to_rustworkx(
    graph: Graph, triple: Triple | str | None = None, *, weight: str | None = None
) -> Any:
    """The edges of a triple, between vertices of one label, as a graph of rustworkx; a copy.

    Nodes and edges have the numbers that they have here. What rustworkx keeps with each is a
    dictionary of its properties (of a node the oid, too), without those that are null.

    Parameters
    ----------
    weight : str, optional
        Keep with each edge the value of that property alone, so ``weight_fn=float`` will do.

    Returns
    -------
    rustworkx.PyDiGraph or PyGraph, with parallel edges

    Raises
    ------
    LibraryNotFoundError
        If rustworkx is not installed.
    LabelNotFoundError
        If edges have no such property.
    InvalidGraphError
        If the ends of the triple are of two labels.
    """
    rustworkx = imported("rustworkx")
    edges = edges_of(graph, triple)
    made = (rustworkx.PyDiGraph if edges.directed else rustworkx.PyGraph)(multigraph=True)
    vertices = graph.vertices(edges.triple[0])
    columns = {name: vertices[name] for name in vertices.column_names}
    made.add_nodes_from(attributes_of(columns, edges.num_src))
    if weight is None:
        values = attributes_of(edges.columns, edges.num_edges)
    else:
        values = property_of(edges.columns, weight).to_pylist()
    src, dst = (ids.tolist() for ids in ends_of(edges))
    made.add_edges_from(list(zip(src, dst, values, strict=True)))
    return made


def from_rustworkx(
    graph: Any,
    *,
    oid: str = "oid",
    value: str = "value",
    vertex_label: str = "vertex",
    edge_label: str = "edge",
    client: Client | None = None,
    **options: Any,
) -> Graph:
    """A graph with the nodes and edges of one of rustworkx; all is copied.

    Vertex ids follow the order of nodes, without the gaps of removed ones. Parallel edges stay
    in their order.

    Parameters
    ----------
    graph : rustworkx.PyDiGraph or PyGraph
    oid : str
        The key of the nodes' dictionaries that has their oid; if it is not there, the oid is the
        node's index.
    value : str
        The property for what nodes or edges hold if it is no dictionary. None is null.
    client : Client, optional
        In whose pool to build.
    **options
        Others of `Graph.from_tables`.

    Raises
    ------
    InvalidGraphError
        If oids are repeated, or values make no Arrow column.
    """
    rustworkx = imported("rustworkx")
    indices = list(graph.node_indices())
    vertices = _columns(graph.nodes(), value, "nodes")
    oids = vertices.setdefault(oid, pa.array(indices, pa.int64()))
    place = {index: at for at, index in enumerate(indices)}
    found = graph.weighted_edge_list()
    edges = {
        name: oids.take(pa.array([place[edge[side]] for edge in found], pa.int64()))
        for side, name in enumerate(("src", "dst"))
    }
    properties = _columns([edge[2] for edge in found], value, "edges")
    for name in edges.keys() & properties.keys():
        raise InvalidGraphError(
            f"edges have a property {name!r}, which is to name their ends", "rename it"
        )
    return Graph.from_tables(
        {vertex_label: vertices},
        {(vertex_label, edge_label, vertex_label): edges | properties},
        oid=oid,
        directed=isinstance(graph, rustworkx.PyDiGraph),
        client=client,
        **options,
    )


def _columns(values: Any, name: str, what: str) -> dict[str, pa.Array]:
    values = list(values)
    if all(isinstance(each, dict) for each in values):
        return table_of(values, what)
    if all(each is None for each in values):
        return {}
    return {name: column_of(values, what)}
