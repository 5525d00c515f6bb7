"""Random walks and samples of neighbourhoods, for embeddings and mini-batches.

Every random number is a hash of the seed and of what it is drawn for: results are the same for
any number of threads. Parameters that functions share are explained in `algorithms`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from ..errors import InvalidObjectError
from . import _algorithms as native
from .arrays import Array
from .inputs import Source, edges_of, nullable, run_of, vertices_of, weights_of
from .schema import Triple

__all__ = ["Hop", "Sample", "random_walks", "sample_neighbors"]


@dataclass(frozen=True, slots=True, eq=False)
class Hop:
    """The edges of one hop, in the shape of PyTorch Geometric's ``EdgeIndex``.

    Attributes
    ----------
    edge_index : numpy.ndarray
        int64[2, k]: the neighbour's local id, the vertex's local id.
    e_id : numpy.ndarray
        int64[k]: the edges' ids, which are rows of the edge columns.
    size : tuple of int
        How many local ids neighbours and vertices can have: ``n_id[: size[1]]`` are the vertices.
    """

    edge_index: Array
    e_id: Array
    size: tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Vertices around some, and the edges that led to them.

    Attributes
    ----------
    n_id : numpy.ndarray
        int64: the vertex of each local id. Those asked for come first, in their order.
    hops : tuple of Hop
        From the vertices asked for outwards. Layers of a network take them from the last to the
        first, as PyTorch Geometric's ``NeighborSampler`` lists them.
    """

    n_id: Array
    hops: tuple[Hop, ...]


def random_walks(
    graph: Source,
    starts: Any,
    length: int,
    *,
    triple: Triple | str | None = None,
    weight: Any = None,
    seed: int = 0,
    threads: int | None = None,
) -> pa.FixedSizeListArray:
    """Walks along out-edges, each step at random.

    O(length) a walk if steps are uniform. With weights a step is a binary search in the row's
    prefix sums, which each call computes first: O(edges) time and 8 bytes an edge, so ask for
    many walks at once.

    Parameters
    ----------
    starts : int or sequence of int
        Where each walk begins.
    length : int
        Steps of a walk.
    weight : str or array, optional
        An edge property, or a number for each edge id: a step is as likely as its edge weighs.
    seed : int

    Returns
    -------
    pyarrow.FixedSizeListArray
        A list of ``length + 1`` vertices for each walk, null from where no step was left. A walk
        depends on the seed, its place in ``starts`` and its start alone.

    Raises
    ------
    VertexNotFoundError
        If a start is no vertex.
    """
    edges, run = edges_of(graph, triple), run_of(threads)
    if length < 0:
        raise InvalidObjectError(f"walks of {length} steps", "take 0 or more")
    first = vertices_of(edges, starts, "start")
    walks = native.random_walks(
        run, edges.out_indptr, edges.out_indices, edges.edge_ids,
        weights_of(edges, weight, run), first, length, seed & (2**64 - 1),
    )  # fmt: skip
    steps = walks.reshape(-1)
    none = np.iinfo(steps.dtype).max
    return pa.FixedSizeListArray.from_arrays(nullable(steps, steps != none), length + 1)


def sample_neighbors(
    graph: Source,
    nodes: Any,
    num_neighbors: Sequence[int],
    *,
    triple: Triple | str | None = None,
    direction: Literal["in", "out"] = "in",
    replace: bool = False,
    seed: int = 0,
    threads: int | None = None,
) -> Sample:
    """Neighbours of some vertices, neighbours of those, and so on, for a mini-batch.

    As in GraphSAGE (Hamilton, Ying and Leskovec 2017), and as PyTorch Geometric's
    ``NeighborSampler`` has it: each hop draws for every vertex met so far. A draw is O(k^2) or
    O(degree), whichever is less; new local ids are given on one thread. Nothing is proportional
    to the graph.

    Parameters
    ----------
    nodes : int or sequence of int
        Distinct vertices.
    num_neighbors : sequence of int
        For each hop how many edges to draw for a vertex; all if it has fewer; -1: all.
    direction : {"in", "out"}
        Whether neighbours are sources of in-edges (messages flow along edges) or destinations of
        out-edges.
    replace : bool
        Draw with replacement: always ``num_neighbors`` edges, unless there are none.
    seed : int

    Raises
    ------
    VertexNotFoundError
        If a node is no vertex.
    InvalidObjectError
        If a node is named twice, or a number of neighbours is less than -1.
    """
    edges, run = edges_of(graph, triple), run_of(threads)
    first = vertices_of(edges, nodes, "node")
    if len(np.unique(first)) != len(first):
        raise InvalidObjectError(
            f"{len(first) - len(np.unique(first))} nodes are named twice", "name each once"
        )
    fanouts = np.array([int(k) for k in num_neighbors], np.int64)
    if (fanouts < -1).any():
        raise InvalidObjectError(f"num_neighbors {list(num_neighbors)}", "-1 means all")
    rows: tuple[Array, Array, Array | None]
    if direction == "in":
        rows = edges.in_indptr, edges.in_indices, edges.in_edge_ids
    elif direction == "out":
        rows = edges.out_indptr, edges.out_indices, edges.edge_ids
    else:
        raise InvalidObjectError(f"direction {direction!r} is not one of 'in', 'out'")
    met, found = native.sample_neighbors(run, *rows, first, fanouts, replace, seed & (2**64 - 1))
    return Sample(met, tuple(Hop(np.stack((row, col)), ids, size) for row, col, ids, size in found))
