"""Edges as plain NumPy arrays of their ends. The index itself is `Graph.adjacency`."""

from __future__ import annotations

from ..adjacency import ends_of
from ..arrays import Array
from ..graph import Graph
from ..schema import Triple

__all__ = ["to_numpy"]


def to_numpy(graph: Graph, triple: Triple | str | None = None) -> tuple[Array, Array]:
    """Sources and destinations of all edges, as vertex ids in the order of edge ids.

    Each edge is there once; undirected, its source is the lower end. ``numpy.stack`` makes an
    ``edge_index`` of the two.

    Returns
    -------
    src, dst : numpy.ndarray
        uint32, or uint64 where the index is. Directed, ``dst`` is the index's own array,
        read-only, and lives as long as it is referred to; ``src`` is new.
    """
    return ends_of(graph.adjacency(triple))
