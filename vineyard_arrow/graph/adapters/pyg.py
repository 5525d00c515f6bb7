"""Graphs of PyTorch Geometric: made of ours, and made into ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ...errors import InvalidGraphError
from ..graph import Graph
from ..inputs import edges_of
from ..schema import Triple
from .common import chosen, column_of, imported, property_of
from .tensors import has_tensor, tensor_of, to_tensors

if TYPE_CHECKING:
    from ...client import Client

__all__ = ["from_pyg", "to_pyg", "to_pyg_hetero"]

_EDGE = "edge_"


def to_pyg(
    graph: Graph,
    triple: Triple | str | None = None,
    *,
    x: Sequence[str] = (),
    edge_attr: Sequence[str] = (),
) -> Any:
    """The edges of a triple, between vertices of one label, as a ``Data``.

    Nodes are vertex ids. ``edge_index`` is a copy, sorted by source; undirected, it has each
    edge both ways. Each property of numbers or booleans without nulls (also of lists of one
    size) is a tensor: of vertices, integer oids too, under its name; of edges under ``edge_`` and
    its name, so ``weight`` is ``edge_weight``. Other properties are left out.

    Tensors of properties are copies, unless the graph was got by ``client.get(key,
    mode="cow")``: then they lie in its memory, private to this process, where a column is one
    chunk of numbers (of edges: that have a direction).

    Parameters
    ----------
    x, edge_attr : sequence of str
        Properties of vertices, and of edges, to put together as float32 features. A single one
        that has features already is taken as it is.

    Returns
    -------
    torch_geometric.data.Data

    Raises
    ------
    LibraryNotFoundError
        If torch_geometric or PyTorch is not installed.
    LabelNotFoundError
        If there is no such property.
    InvalidGraphError
        If features cannot be tensors, or the ends of the triple are of two labels.
    """
    imported("torch")
    data = imported("torch_geometric.data", "torch_geometric").Data()
    name = edges_of(graph, triple).triple
    _fill_nodes(data, graph, name[0], x)
    _fill_edges(data, graph, name, edge_attr)
    return data


def to_pyg_hetero(
    graph: Graph,
    triples: Iterable[Triple | str] | None = None,
    *,
    x: Mapping[str, Sequence[str]] | None = None,
    edge_attr: Mapping[Triple, Sequence[str]] | None = None,
) -> Any:
    """Several triples, by default all, with the labels of their ends, as a ``HeteroData``.

    Node types are vertex labels, edge types triples; each is filled as in `to_pyg`.

    Parameters
    ----------
    triples : iterable of triples, optional
    x, edge_attr : mapping of label, or triple, to sequence of str
        Properties to put together as features.

    Returns
    -------
    torch_geometric.data.HeteroData

    Raises
    ------
    LibraryNotFoundError, LabelNotFoundError, InvalidGraphError
        As `to_pyg`.
    """
    imported("torch")
    data = imported("torch_geometric.data", "torch_geometric").HeteroData()
    labels, taken = chosen(graph, triples)
    for label in labels:
        _fill_nodes(data[label], graph, label, (x or {}).get(label, ()))
    for triple in taken:
        _fill_edges(data[triple], graph, triple, (edge_attr or {}).get(triple, ()))
    return data


def from_pyg(
    data: Any,
    *,
    oid: str = "oid",
    vertex_label: str = "vertex",
    edge_label: str = "edge",
    client: Client | None = None,
    **options: Any,
) -> Graph:
    """A graph with the nodes, edges and attributes of a ``Data`` or ``HeteroData``; a copy.

    Node types are vertex labels, edge types triples. Attributes of nodes and of edges become
    properties, without ``edge_`` before their names: tensors of one axis numbers, of more lists
    of one size or tensors. Attributes of the whole are not kept. Both directions of an
    undirected graph are two edges.

    Parameters
    ----------
    data : torch_geometric.data.Data or HeteroData
    oid : str
        The attribute of nodes that is their oid; where there is none, the number is.
    vertex_label, edge_label : str
        Labels for a ``Data``, which has none.
    client : Client, optional
        In whose pool to build.
    **options
        Others of `Graph.from_tables`.

    Raises
    ------
    InvalidGraphError
        If oids are repeated, edges end at no node, or an attribute makes no column.
    """
    if hasattr(data, "node_types"):
        nodes = {label: data[label] for label in data.node_types}
        links = {triple: data[triple] for triple in data.edge_types}
    else:
        nodes, links = {vertex_label: data}, {(vertex_label, edge_label, vertex_label): data}
    vertices = {}
    for label, store in nodes.items():
        names = [name for name in store.keys() if store.is_node_attr(name)]  # noqa: SIM118
        if store is data:
            names = [name for name in names if not name.startswith(_EDGE)]
        vertices[label] = {name: _column(store[name], name) for name in names}
        vertices[label].setdefault(oid, pa.array(np.arange(store.num_nodes)))
    edges = {}
    for triple, store in links.items():
        ends = _ends(store, triple)
        for label, row in zip(triple[::2], ends, strict=True):
            _check_inside(row, len(vertices[label][oid]), triple, label)
        edges[triple] = {
            name: vertices[label][oid].take(pa.array(row))
            for name, label, row in zip(("src", "dst"), triple[::2], ends, strict=True)
        }
        names = [name for name in store.keys() if store.is_edge_attr(name)]  # noqa: SIM118
        if store is data:
            names = [name for name in names if name.startswith(_EDGE)]
        for name in names:
            if name != "edge_index":
                edges[triple][name.removeprefix(_EDGE)] = _column(store[name], name)
    return Graph.from_tables(vertices, edges, oid=oid, client=client, **options)


def _check_inside(ids: Any, count: int, triple: Triple, label: str) -> None:
    if len(ids) and not 0 <= ids.min() <= ids.max() < count:
        raise InvalidGraphError(
            f"edge_index of {'-'.join(triple)} goes from {ids.min()} to {ids.max()}, but"
            f" {label!r} has {count} nodes",
            "set num_nodes, or mend the edges",
        )


def _ends(store: Any, triple: Triple) -> Any:
    if store.get("edge_index") is not None:
        return store.edge_index.cpu().numpy()
    if store.num_edges:
        raise InvalidGraphError(
            f"{'-'.join(triple)} has no edge_index", "set it, of what adj or adj_t has"
        )
    return np.empty((2, 0), np.int64)


def _fill_nodes(store: Any, graph: Graph, label: str, x: Sequence[str]) -> None:
    table = graph.vertices(label)
    store.num_nodes = table.num_rows
    columns = {name: table[name] for name in table.column_names}
    for name, tensor in _tensors(columns, "x", x, graph._private).items():
        _set(store, name, tensor)


def _fill_edges(store: Any, graph: Graph, triple: Triple, attr: Sequence[str]) -> None:
    torch, edges = imported("torch"), graph.adjacency(triple)
    store.edge_index = torch.stack(to_tensors(graph, triple))
    # What a property is called is prefixed below.
    tensors = _tensors(edges.columns, "attr", attr, graph._private)
    for name, tensor in tensors.items():
        if edges.edge_ids is not None:
            tensor = tensor[torch.from_numpy(edges.edge_ids.astype(np.int64))]
        _set(store, _EDGE + name, tensor)


def _set(store: Any, name: str, tensor: Any) -> None:
    if name in store:
        raise InvalidGraphError(
            f"two tensors are to be {name!r}", f"rename the property {name.removeprefix(_EDGE)!r}"
        )
    store[name] = tensor


def _tensors(
    columns: Mapping[str, Any], features: str, names: Sequence[str], private: bool
) -> dict[str, Any]:
    torch = imported("torch")
    out = {
        name: tensor_of(column, repr(name), private)
        for name, column in columns.items()
        if name not in names and has_tensor(column)
    }
    if not names:
        return out
    if features in out:
        raise InvalidGraphError(f"a property is called {features!r}, as the features", "rename it")
    parts = [tensor_of(property_of(columns, name), repr(name), private) for name in names]
    if len(parts) == 1 and parts[0].ndim > 1:
        out[features] = parts[0]
    else:
        flat = [part.reshape(len(part), -1).to(torch.float32) for part in parts]
        out[features] = torch.cat(flat, dim=1)
    return out


def _column(value: Any, name: str) -> pa.Array:
    if not hasattr(value, "detach"):
        return column_of(list(value), repr(name))
    try:
        values = np.ascontiguousarray(value.detach().cpu().numpy())
    except TypeError as error:  # bfloat16 and its like
        raise InvalidGraphError(f"{name!r}: {error}", "cast it to float32") from None
    if values.ndim == 1:
        return pa.array(values)
    if values.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    return pa.FixedShapeTensorArray.from_numpy_ndarray(values)
