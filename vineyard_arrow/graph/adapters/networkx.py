"""Graphs of networkx: made of ours, made into ours, and views that networkx reads ours by."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ...errors import InvalidGraphError
from ..adjacency import ends_of
from ..graph import Graph
from ..schema import Triple
from .common import Keys, attributes_of, chosen, column_of, imported, keys_of, table_of

if TYPE_CHECKING:
    from ...client import Client

__all__ = ["from_networkx", "networkx_view", "to_networkx"]

LABEL = "label"


def to_networkx(
    graph: Graph,
    *,
    keys: Keys = "oid",
    multigraph: bool = True,
    triples: Iterable[Triple | str] | None = None,
) -> Any:
    """A graph of networkx with the same vertices, edges and properties; all of it is copied.

    Properties are attributes of nodes and edges; what is null is left out. Parallel edges have
    their edge ids for keys. If several vertex labels are taken, a node is ``(label, key)`` and
    has its label as attribute ``label``; if several triples are, an edge has its edge label so,
    and its key is ``(edge label, edge id)``.

    Parameters
    ----------
    keys : {"oid", "id"}
        What nodes are: original ids, tuples of them if the primary key has several columns, or
        vertex ids. Oids that are keys are no attributes.
    multigraph : bool
        If not, of parallel edges the one of the highest id (of the last triple) stays.
    triples : iterable of triples, optional
        Those to take, with the labels of their ends; the whole graph by default.

    Returns
    -------
    networkx.MultiDiGraph, or MultiGraph, DiGraph, Graph

    Raises
    ------
    LibraryNotFoundError
        If networkx is not installed.
    InvalidGraphError
        If the attribute ``label`` is needed, and is a property already.
    """
    made = class_of(graph.directed, multigraph)()
    labels, taken = chosen(graph, triples)
    names = {label: node_keys(graph, label, keys, labels) for label in labels}
    for label in labels:
        columns = node_columns(graph, label, keys, labels)
        made.add_nodes_from(
            zip(names[label], attributes_of(columns, len(names[label])), strict=True)
        )
    for triple in taken:
        edges = graph.adjacency(triple)
        src, dst = (
            [names[label][v] for v in ids.tolist()]
            for label, ids in zip((triple[0], triple[2]), ends_of(edges), strict=True)
        )
        rows = attributes_of(edge_columns(graph, triple, taken), edges.num_edges)
        if multigraph:
            several = len(taken) > 1
            ids = ((triple[1], i) if several else i for i in range(edges.num_edges))
            made.add_edges_from(zip(src, dst, ids, rows, strict=True))
        else:
            last = dict(zip(zip(src, dst, strict=True), rows, strict=True))
            made.remove_edges_from(last)  # networkx would add to the attributes there are
            made.add_edges_from((u, v, row) for (u, v), row in last.items())
    return made


def networkx_view(
    graph: Graph,
    *,
    keys: Keys = "oid",
    multigraph: bool = True,
    triples: Iterable[Triple | str] | None = None,
) -> Any:
    """A frozen graph of networkx over the index: edges and properties are read where they lie.

    It equals what `to_networkx` gives, also in its parameters, and works wherever networkx only
    reads; what would change it raises `networkx.NetworkXError`, as after `networkx.freeze`. Its
    ``copy()`` is a graph of networkx' own. It keeps the memory that it reads.

    With ``keys="id"`` and one vertex label nothing is copied. Else a Python object for each
    vertex is made, and a dictionary from these to vertex ids; nothing for edges. Reading takes 2
    to 6 times as long as from dictionaries of Python, so convert for algorithms that look at
    each edge many times, or take those of `vineyard_arrow.graph.algorithms`.

    Returns
    -------
    networkx.MultiDiGraph, or MultiGraph, DiGraph, Graph

    Raises
    ------
    LibraryNotFoundError, InvalidGraphError
        As `to_networkx`.
    """
    imported("networkx")
    from .networkx_mappings import view_of

    return view_of(graph, keys, multigraph, triples)


def from_networkx(
    graph: Any,
    *,
    oid: str | tuple[str, ...] = "oid",
    vertex_label: str = "vertex",
    edge_label: str = "edge",
    label: str | None = None,
    client: Client | None = None,
    **options: Any,
) -> Graph:
    """A graph with the nodes, edges and attributes of one of networkx; all of it is copied.

    Vertex ids follow the order of nodes. Parallel edges stay in their order; their keys are not
    kept, nor are attributes of the graph. An attribute that a node or edge lacks is null.

    Parameters
    ----------
    graph : networkx.Graph, DiGraph, MultiGraph or MultiDiGraph
        Nodes are integers, texts, or tuples of these.
    oid : str or tuple of str
        Columns to keep the nodes in: several if they are tuples.
    vertex_label, edge_label : str
        Labels of vertices and edges.
    label : str, optional
        An attribute of nodes and edges that names their labels, where they have it; a node
        ``(label, key)`` is then the vertex ``key``. So comes back what `to_networkx` made of
        several labels: ``label="label"``.
    client : Client, optional
        In whose pool to build.
    **options
        Others of `Graph.from_tables`.

    Raises
    ------
    InvalidGraphError
        If nodes make no oids, or an attribute no Arrow column.
    """
    names = (oid,) if isinstance(oid, str) else tuple(oid)
    places: dict[Any, tuple[str, Any]] = {}
    vertices: dict[str, list[tuple[Any, dict[str, Any]]]] = {}
    for node, data in graph.nodes(data=True):
        of = str(data.get(label, vertex_label)) if label is not None else vertex_label
        if label is not None and isinstance(node, tuple) and len(node) == 2 and node[0] == of:
            places[node] = of, node[1]
        else:
            places[node] = of, node
        vertices.setdefault(of, []).append((places[node][1], _without(data, label)))
    edges: dict[Triple, list[tuple[Any, Any, dict[str, Any]]]] = {}
    for u, v, data in graph.edges(data=True):
        (src, u), (dst, v) = places[u], places[v]
        of = str(data.get(label, edge_label)) if label is not None else edge_label
        edges.setdefault((src, of, dst), []).append((u, v, _without(data, label)))
    if not vertices:
        vertices[vertex_label] = []
    if not edges and len(vertices) == 1:
        only = next(iter(vertices))
        edges[only, edge_label, only] = []
    return Graph.from_tables(
        {
            of: _table({names: [key for key, _ in rows]}, [row for _, row in rows], repr(of))
            for of, rows in vertices.items()
        },
        {
            triple: _table(
                {
                    _prefixed("src", names): [u for u, _, _ in rows],
                    _prefixed("dst", names): [v for _, v, _ in rows],
                },
                [row for _, _, row in rows],
                "-".join(triple),
            )
            for triple, rows in edges.items()
        },
        oid=names,
        src=_prefixed("src", names),
        dst=_prefixed("dst", names),
        directed=graph.is_directed(),
        client=client,
        **options,
    )


# ---- what the view has in common


def class_of(directed: bool, multigraph: bool) -> Any:
    """The class of networkx for such graphs."""
    nx = imported("networkx")
    if multigraph:
        return nx.MultiDiGraph if directed else nx.MultiGraph
    return nx.DiGraph if directed else nx.Graph


def node_keys(graph: Graph, label: str, keys: str, labels: tuple[str, ...]) -> list[Any]:
    """Nodes of one label, where those labels are taken."""
    plain = keys_of(graph, label, keys)
    return plain if len(labels) == 1 else [(label, key) for key in plain]


def node_columns(
    graph: Graph, label: str, keys: str, labels: tuple[str, ...]
) -> dict[str, pa.ChunkedArray | pa.Array]:
    """Attributes of the nodes of one label."""
    table = graph.vertices(label)
    own = graph.schema.vertex(label).primary_key if keys == "oid" else ()
    columns = {name: table[name] for name in table.column_names if name not in own}
    return columns if len(labels) == 1 else _labelled(columns, label, table.num_rows, label)


def edge_columns(
    graph: Graph, triple: Triple, taken: tuple[Triple, ...]
) -> dict[str, pa.ChunkedArray | pa.Array]:
    """Attributes of the edges of one triple, by edge id."""
    edges = graph.adjacency(triple)
    columns = dict(edges.columns)
    if len(taken) == 1:
        return columns
    return _labelled(columns, triple[1], edges.num_edges, "-".join(triple))


def _labelled(columns: dict[str, Any], label: str, count: int, what: str) -> dict[str, Any]:
    if LABEL in columns:
        raise InvalidGraphError(
            f"{what} has a property {LABEL!r}, so attributes cannot tell its label",
            "take one triple, by triples=, or rename the property",
        )
    ends = pa.array([count] if count else [], pa.int64())
    values = pa.array([label] if count else [], pa.string())
    return {LABEL: pa.RunEndEncodedArray.from_arrays(ends, values), **columns}


# ---- tables of dictionaries


def _without(data: dict[str, Any], name: str | None) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key != name}


def _prefixed(end: str, names: tuple[str, ...]) -> tuple[str, ...]:
    return (end,) if len(names) == 1 else tuple(f"{end}_{name}" for name in names)


def _table(
    ends: dict[tuple[str, ...], list[Any]], rows: list[dict[str, Any]], what: str
) -> dict[str, pa.Array]:
    """Columns of keys, and of attributes."""
    columns = {}
    for names, keys in ends.items():
        if len(names) > 1 and any(not isinstance(k, tuple) or len(k) != len(names) for k in keys):
            raise InvalidGraphError(f"nodes of {what} are no tuples of {', '.join(names)}")
        for place, name in enumerate(names):
            part = keys if len(names) == 1 else [key[place] for key in keys]
            columns[name] = column_of(part, f"{name!r} of {what}")
    attributes = table_of(rows, what)
    for name in columns.keys() & attributes.keys():
        raise InvalidGraphError(
            f"{what} has an attribute {name!r}, which is to name its ends or oids",
            "rename the attribute, or choose other columns by oid=",
        )
    return columns | attributes
