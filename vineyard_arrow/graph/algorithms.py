"""Algorithms on the edges of one triple: ranks, searches, components, triangles, communities.

They read the index where it lies, in native code, on several threads and without the GIL;
Ctrl-C ends them. Results are Arrow arrays in the order of the vertices, ready to be columns of
the vertex table; they are the same, bit by bit, for any number of threads. Random walks and
samples are in `sampling`.

What all functions take alike:

graph : Graph or Adjacency
    Its two ends must have one label.
triple : tuple of str or str, optional
    Which edges of a graph: needed unless it has one triple.
threads : int, optional
    Default: two, or one if there is one core.

and raise: LabelNotFoundError for a triple, InvalidGraphError for ends of two labels. An
undirected graph has each edge in both directions, and is treated like that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from ..errors import InvalidGraphError, InvalidObjectError, NotConvergedError
from . import _algorithms as native
from .adjacency import Adjacency
from .arrays import Array
from .inputs import Source, edges_of, nullable, run_of, vertices_of, weights_of
from .schema import Triple

__all__ = [
    "BreadthFirst",
    "DegreeStatistics",
    "ShortestPaths",
    "bfs",
    "clustering",
    "core_number",
    "degree",
    "degree_statistics",
    "label_propagation",
    "pagerank",
    "shortest_paths",
    "strongly_connected_components",
    "triangles",
    "weakly_connected_components",
]

Triples = Triple | str | None
Direction = Literal["out", "in", "both"]


class BreadthFirst(NamedTuple):
    """What a breadth-first search found; null where it didn't come.

    Attributes
    ----------
    levels : pyarrow.Array
        int32: edges from the nearest source.
    parents : pyarrow.Array or None
        The index's uint type; null for sources too.
    """

    levels: pa.Array
    parents: pa.Array | None


class ShortestPaths(NamedTuple):
    """Shortest paths; null where none leads.

    Attributes
    ----------
    distances : pyarrow.Array
        float64: weights summed from the nearest source on.
    parents : pyarrow.Array or None
        The index's uint type; null for sources too.
    """

    distances: pa.Array
    parents: pa.Array | None


@dataclass(frozen=True, slots=True)
class DegreeStatistics:
    """Degrees in figures.

    Attributes
    ----------
    vertices : int
    edges : int
        Sum of the degrees.
    min, max : int
    mean, std, median : float
        0 if there are no vertices; the deviation is that of the population.
    isolated : int
        Vertices of degree 0.
    histogram : pyarrow.Table
        ``degree``, ``count``: how many vertices have each degree that occurs, ascending.
    """

    vertices: int
    edges: int
    min: int
    max: int
    mean: float
    std: float
    median: float
    isolated: int
    histogram: pa.Table


def pagerank(
    graph: Source,
    *,
    triple: Triples = None,
    alpha: float = 0.85,
    personalization: Any = None,
    weight: Any = None,
    max_iter: int = 100,
    tol: float = 1e-6,
    threads: int | None = None,
) -> pa.Array:
    """Rank of each vertex: where a reader is who follows links at random.

    With probability ``alpha`` the reader takes an out-edge (as likely as it weighs), otherwise
    jumps anywhere, or where `personalization` says; from a vertex without out-edges always
    (Page, Brin, Motwani and Winograd 1999). Parallel edges count each. O(edges) an iteration;
    takes 16 bytes a vertex, and with weights 8 an edge: they are put into the order of in-edges.

    Parameters
    ----------
    alpha : float
        The damping factor, 0 to 1: called like that in networkx.
    personalization : mapping of vertex id to number, or array of a number a vertex
        Not negative, not all 0; scaled to the sum 1. Also where dangling vertices lead.
    weight : str or array, optional
        An edge property, or a number for each edge id.
    max_iter : int
    tol : float
        Stop when the ranks, which sum to 1, change by less than this in an iteration, added over
        all vertices. 0: do ``max_iter`` iterations.

    Returns
    -------
    pyarrow.DoubleArray
        They sum to 1.

    Raises
    ------
    NotConvergedError
        If ``max_iter`` iterations don't get to ``tol``.
    """
    edges, run = edges_of(graph, triple), run_of(threads)
    if not 0 <= alpha <= 1:
        raise InvalidObjectError(f"alpha is {alpha}", "it is a probability, 0 to 1")
    if max_iter < 1 or not tol >= 0:
        raise InvalidObjectError(f"max_iter {max_iter}, tol {tol}", "take at least 1 and 0")
    weights = weights_of(edges, weight, run)
    n = edges.num_src
    teleport = _distribution(edges, personalization)
    ranks = np.full(n, 1 / n) if n else np.empty(0)
    if n:
        done, change = native.pagerank(
            run, edges.out_indptr, edges.in_indptr, edges.in_indices, edges.edge_ids,
            edges.in_edge_ids, weights, teleport, ranks, alpha, max_iter, tol,
        )  # fmt: skip
        if tol > 0 and not change < tol:
            raise NotConvergedError(
                f"after {done} iterations ranks still change by {change:.3g} in sum",
                "raise max_iter or tol, or lower alpha; tol=0 takes what max_iter gives",
            )
    return pa.array(ranks)


def _distribution(edges: Adjacency, wanted: Any) -> Array | None:
    if wanted is None:
        return None
    if isinstance(wanted, Mapping):
        ids = vertices_of(edges, list(wanted), "personalization of")
        values: Array = np.zeros(edges.num_src)
        values[ids] = list(wanted.values())
    else:
        values = np.ascontiguousarray(wanted, np.float64)
    if values.shape != (edges.num_src,):
        raise InvalidGraphError(
            f"personalization has shape {values.shape} for {edges.num_src} vertices"
        )
    total = values.sum()
    if not (values >= 0).all() or not 0 < total < math.inf:
        raise InvalidGraphError("personalization needs numbers >= 0 that are not all 0")
    result: Array = values / total
    return result


def bfs(
    graph: Source,
    source: Any,
    *,
    triple: Triples = None,
    parents: bool = True,
    threads: int | None = None,
) -> BreadthFirst:
    """Levels and parents of a breadth-first search along out-edges.

    Turns its direction while the frontier is large (Beamer, Asanovic and Patterson 2012).
    O(vertices + edges) at most, often a small part of the edges; takes 4 bytes a vertex.

    Parameters
    ----------
    source : int or sequence of int
        Vertices on level 0.
    parents : bool
        Whether to tell parents: the smallest in-neighbour one level nearer. Costs little.

    Raises
    ------
    VertexNotFoundError
        If a source is no vertex.
    """
    edges, run = edges_of(graph, triple), run_of(threads)
    sources = vertices_of(edges, source, "source").astype(edges.out_indices.dtype)
    levels, above = native.bfs(run, *_rows(edges), sources, parents)
    return BreadthFirst(nullable(levels, levels >= 0), _vertices(above))


def shortest_paths(
    graph: Source,
    source: Any,
    *,
    weight: Any,
    triple: Triples = None,
    delta: float | None = None,
    parents: bool = True,
    threads: int | None = None,
) -> ShortestPaths:
    """Distances and parents on the shortest paths from a source along out-edges.

    Delta-stepping (Meyer and Sanders 2003). For random weights O(vertices + edges + the largest
    distance / delta); takes some 20 bytes a vertex. Weights are read where they lie and
    added as float64: integers are exact up to 2^53.

    Parameters
    ----------
    source : int or sequence of int
        Vertices at distance 0.
    weight : str or array
        An edge property, or a number for each edge id: finite, not negative.
    delta : float, optional
        Width of a bucket, in the unit of weights. Smaller: fewer edges are looked at twice, but
        threads wait for each other more often. Default: by the mean weight and degree.
    parents : bool
        Whether to tell parents: the smallest in-neighbour on a shortest path that is nearer to
        the source. Where edges of weight 0 leave none, one at the same distance.

    Raises
    ------
    VertexNotFoundError
        If a source is no vertex.
    InvalidGraphError
        If a weight is negative, infinite, null or not a number.
    """
    edges, run = edges_of(graph, triple), run_of(threads)
    sources = vertices_of(edges, source, "source").astype(edges.out_indices.dtype)
    weights = weights_of(edges, weight, run)
    if delta is None:
        delta = _default_delta(edges, weights)
    if not 0 < delta < math.inf:
        raise InvalidObjectError(f"delta is {delta}", "it is positive and finite")
    distances, above = native.shortest_paths(
        run, *_rows(edges), edges.edge_ids, edges.in_edge_ids, weights, sources, delta, parents
    )
    return ShortestPaths(nullable(distances, np.isfinite(distances)), _vertices(above))


def _default_delta(edges: Adjacency, weights: Array | None) -> float:
    """Falls with the degree; the factor is measured, on R-MAT graphs with evenly spread weights."""
    mean = float(weights.mean(dtype=np.float64)) if weights is not None and weights.size else 0.0
    degree = len(edges.out_indices) / max(1, edges.num_src)
    return (mean if 0 < mean < math.inf else 1.0) * 0.16 / max(1.0, degree)


def weakly_connected_components(
    graph: Source, *, triple: Triples = None, threads: int | None = None
) -> pa.Array:
    """The component of each vertex where the direction of edges doesn't matter.

    Numbered 0, 1, ... by their first vertices; the index's uint type. Afforest (Sutton, Ben-Nun
    and Barak 2018): about O(vertices) if there is one large component, O(edges) at most; takes
    two ids a vertex.
    """
    edges = edges_of(graph, triple)
    return pa.array(native.components(run_of(threads), *_rows(edges), False))


def strongly_connected_components(
    graph: Source, *, triple: Triples = None, threads: int | None = None
) -> pa.Array:
    """The component of each vertex whose members reach each other.

    Numbered 0, 1, ... by their first vertices; the index's uint type. Trimming and a search both
    ways for the giant one (Slota, Rajamanickam and Madduri 2014) in parallel, then Tarjan's
    algorithm (1972) for the rest on one thread, without recursion. O(vertices + edges); takes
    some 40 bytes a vertex.
    """
    edges = edges_of(graph, triple)
    return pa.array(native.components(run_of(threads), *_rows(edges), True))


def triangles(graph: Source, *, triple: Triples = None, threads: int | None = None) -> pa.Array:
    """How many triangles each vertex is a corner of: int64.

    In the simple undirected view: each neighbour once, whatever the directions and number of
    edges, without self-loops. The graph has a third of the sum. Rows are led to the higher
    degree (Latapy 2008): O(edges^1.5); takes up to five ids an edge and 8 bytes a vertex and
    thread.
    """
    edges = edges_of(graph, triple)
    return pa.array(native.triangles(run_of(threads), *_rows(edges), not edges.directed)[0])


def clustering(graph: Source, *, triple: Triples = None, threads: int | None = None) -> pa.Array:
    """The clustering coefficient of each vertex: float64.

    Triangles at it over pairs of its neighbours, 2 t / (d (d - 1)), 0 if there are no pairs
    (Watts and Strogatz 1998), in the simple undirected view. Cost and memory of `triangles`.
    """
    edges = edges_of(graph, triple)
    corners, degrees = native.triangles(run_of(threads), *_rows(edges), not edges.directed)
    pairs = degrees.astype(np.float64) * (degrees - 1) / 2
    return pa.array(np.divide(corners, pairs, out=np.zeros(len(pairs)), where=pairs > 0))


def core_number(graph: Source, *, triple: Triples = None, threads: int | None = None) -> pa.Array:
    """The largest k for which a vertex lies where everyone has k neighbours there: int64.

    In the simple undirected view (see `triangles`). Peeling by levels (Kabir and Madduri 2017):
    O(edges + vertices times levels); takes two ids an edge.
    """
    edges = edges_of(graph, triple)
    return pa.array(native.core_numbers(run_of(threads), *_rows(edges), not edges.directed))


def label_propagation(
    graph: Source,
    *,
    triple: Triples = None,
    seed: int = 0,
    max_iter: int = 100,
    threads: int | None = None,
) -> pa.Array:
    """The community of each vertex: the label most frequent around it.

    Raghavan, Albert and Kumara 2007: at first each vertex is its own; then vertices take over
    the label that most edges to them, in either direction, come from, until around no vertex
    another is more frequent, or ``max_iter`` iterations are done. Parallel edges count each,
    self-loops don't. Vertices are updated in 16 random batches an iteration, which makes the
    result a function of ``seed`` alone.

    Numbered 0, 1, ... by their first vertices; the index's uint type. O(edges) the first
    iterations, less once labels settle; takes three ids a vertex, and 4 bytes a vertex and thread.

    Parameters
    ----------
    seed : int
        Of the batches; taken modulo 2^64.
    max_iter : int
        At most that many iterations, from 0.

    Raises
    ------
    InvalidObjectError
        If ``max_iter`` is negative.
    """
    edges = edges_of(graph, triple)
    if max_iter < 0:
        raise InvalidObjectError(f"max_iter is {max_iter}", "take 0 or more")
    return pa.array(
        native.propagate_labels(
            run_of(threads), *_rows(edges), not edges.directed, seed & (2**64 - 1), max_iter
        )
    )


def degree(graph: Source, *, triple: Triples = None, direction: Direction = "out") -> pa.Array:
    """How many edges lead out of each vertex, into it, or both added: int64.

    Parallel edges count each. In an undirected graph the three are the same, and a self-loop
    counts once. O(vertices), no edge is looked at.

    Parameters
    ----------
    direction : {"out", "in", "both"}

    Raises
    ------
    InvalidObjectError
        If it is another one.
    """
    edges = edges_of(graph, triple)
    if direction not in ("out", "in", "both"):
        raise InvalidObjectError(f"direction {direction!r} is not one of 'out', 'in', 'both'")
    if direction == "both" and edges.directed:
        return pa.array(np.diff(edges.out_indptr) + np.diff(edges.in_indptr))
    return pa.array(np.diff(edges.in_indptr if direction == "in" else edges.out_indptr))


def degree_statistics(
    graph: Source, *, triple: Triples = None, direction: Direction = "out"
) -> DegreeStatistics:
    """Degrees in figures: see `degree`. O(vertices log vertices)."""
    degrees = degree(graph, triple=triple, direction=direction).to_numpy()
    values, counts = np.unique(degrees, return_counts=True)
    some = bool(len(degrees))
    return DegreeStatistics(
        vertices=len(degrees),
        edges=int(degrees.sum()),
        min=int(values[0]) if some else 0,
        max=int(values[-1]) if some else 0,
        mean=float(degrees.mean()) if some else 0.0,
        std=float(degrees.std()) if some else 0.0,
        median=float(np.median(degrees)) if some else 0.0,
        isolated=int(counts[0]) if some and values[0] == 0 else 0,
        histogram=pa.table({"degree": values, "count": counts.astype(np.int64)}),
    )


def _rows(edges: Adjacency) -> tuple[Array, Array, Array, Array]:
    return edges.out_indptr, edges.out_indices, edges.in_indptr, edges.in_indices


def _vertices(ids: Array | None) -> pa.Array | None:
    return None if ids is None else nullable(ids, ids != np.iinfo(ids.dtype).max)
