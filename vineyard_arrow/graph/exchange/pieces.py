"""The edges of a triple in pieces of bounded size, each edge once, with their columns.

It knows no file.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from ..adjacency import Adjacency
from ..arrays import Array, combined, taken

__all__ = ["PIECE", "Piece", "pieces", "rows_of"]

PIECE = 1 << 18
"""Edges of a piece, if nothing else is asked for."""
Piece = tuple[Array, Array, Array]
"""Ends on the side that orders the edges, the other ends, edge ids."""


def pieces(
    edges: Adjacency,
    *,
    incoming: bool = False,
    vertices: tuple[int, int] | None = None,
    size: int = PIECE,
) -> Iterator[Piece]:
    """Edges by their source, or by their destination if ``incoming``, in the order of the index.

    Undirected, an edge's source is its lower end. Pieces have ``size`` edges, the last one less;
    undirected ones may all have less.

    Parameters
    ----------
    vertices : (int, int), optional
        Only edges of the vertices from the first to before the second.
    """
    indptr = edges.in_indptr if incoming else edges.out_indptr
    indices = edges.in_indices if incoming else edges.out_indices
    ids = edges.in_edge_ids if incoming else edges.edge_ids
    first, last = (0, len(indptr) - 1) if vertices is None else vertices
    stop = int(indptr[last])
    for begin in range(int(indptr[first]), stop, size):
        end = min(begin + size, stop)
        low = int(np.searchsorted(indptr, begin, "right")) - 1
        high = int(np.searchsorted(indptr, end, "left"))
        counts = np.diff(np.clip(indptr[low : high + 1], begin, end))
        own = np.repeat(np.arange(low, high, dtype=indices.dtype), counts)
        other = indices[begin:end]
        eids = np.arange(begin, end, dtype=np.uint64) if ids is None else ids[begin:end]
        if not edges.directed:
            once = own >= other if incoming else own <= other
            own, other, eids = own[once], other[once], eids[once]
        yield own, other, eids


def rows_of(column: pa.Array | pa.ChunkedArray, rows: Array) -> pa.Array:
    """``column[rows]``: a slice of the same memory if the rows follow each other, else a copy."""
    if not len(rows):
        return combined(pa.chunked_array([], column.type), None)
    if int(rows[-1]) - int(rows[0]) == len(rows) - 1 and (np.diff(rows) == 1).all():
        part = column.slice(int(rows[0]), len(rows))
        return part if isinstance(part, pa.Array) else combined(part, pa.default_memory_pool())
    if isinstance(column, pa.ChunkedArray):
        column = combined(column, pa.default_memory_pool())
    return taken(column, np.ascontiguousarray(rows), pa.default_memory_pool())
