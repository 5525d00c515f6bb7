"""The edges of one triple of a graph, as arrays: what algorithms work on.

It knows no store and no builder. What it holds are views: of mapped memory when the graph
came from a store, of the builder's memory otherwise; they keep it alive.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

    from .arrays import Array

__all__ = ["Adjacency", "edge_rows", "ends_of"]


@dataclass(frozen=True, slots=True, eq=False)
class Adjacency:
    """Out- and in-edges of one (source label, edge label, destination label) triple.

    Row ``v`` of the out-edges lies at *positions* ``out_indptr[v]`` to ``out_indptr[v + 1]``;
    so do in-edges. All arrays are read-only, and copied nowhere.

    Directed, the id of an edge is its out-position. Undirected, each edge lies in the rows of
    both its ends under one id (a self-loop once), so there are more positions than edges;
    in- and out-arrays are the same objects, and `edge_ids` says the id at a position.

    Attributes
    ----------
    triple : tuple of str
        Source label, edge label, destination label.
    num_src, num_dst : int
        Vertices of the two labels (the same label if undirected).
    num_edges : int
        Edges, each counted once.
    directed : bool
    out_indptr : numpy.ndarray
        int64[num_src + 1].
    out_indices : numpy.ndarray
        Destinations, ascending in each row: uint32, or uint64 when one of the labels needs it.
    in_indptr : numpy.ndarray
        int64[num_dst + 1].
    in_indices : numpy.ndarray
        Sources, ascending in each row, of the same dtype.
    in_edge_ids : numpy.ndarray
        Edge ids at in-positions: uint32, or uint64 when ``num_edges`` needs it. Parallel edges
        keep their order.
    columns : mapping of str to pyarrow.ChunkedArray or pyarrow.Array
        Edge properties, one value an edge, in the order of edge ids.
    edge_ids : numpy.ndarray or None
        Edge ids at out-positions if undirected; None if the position is the id.
    """

    triple: tuple[str, str, str]
    num_src: int
    num_dst: int
    num_edges: int
    directed: bool
    out_indptr: Array
    out_indices: Array
    in_indptr: Array
    in_indices: Array
    in_edge_ids: Array
    columns: Mapping[str, pa.ChunkedArray | pa.Array] = field(default_factory=dict)
    edge_ids: Array | None = None


def ends_of(edges: Adjacency) -> tuple[Array, Array]:
    """Sources and destinations in the order of edge ids, each edge once.

    Directed, the destinations are the index's own array; all else is new. Undirected, the source
    is the lower end.
    """
    rows = edge_rows(edges)
    if edges.edge_ids is None:
        return rows, edges.out_indices
    lower = rows <= edges.out_indices
    src, dst = (np.empty(edges.num_edges, edges.out_indices.dtype) for _ in range(2))
    ids = edges.edge_ids[lower]
    src[ids], dst[ids] = rows[lower], edges.out_indices[lower]
    return src, dst


def edge_rows(edges: Adjacency) -> Array:
    """The source at each out-position: a new array of the indices' dtype."""
    return np.repeat(
        np.arange(edges.num_src, dtype=edges.out_indices.dtype), np.diff(edges.out_indptr)
    )
