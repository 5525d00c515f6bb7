"""PageRank and breadth-first search over fragments, by supersteps in processes of their own.

They give what `algorithms` gives of the whole graph, by its vertex ids.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..errors import InvalidObjectError, NotConvergedError, VertexNotFoundError
from .arrays import Array, as_ids
from .bsp import Worker, run
from .expand import expand
from .global_graph import GlobalGraph
from .graph import Graph
from .inputs import nullable
from .schema import Triple

if TYPE_CHECKING:
    from ..client import Client

__all__ = ["bfs", "pagerank"]

Source = Graph | GlobalGraph | int | str


def pagerank(
    graph: Source,
    k: int | None = None,
    *,
    triple: Triple | str | None = None,
    alpha: float = 0.85,
    max_iter: int = 100,
    tol: float = 1e-6,
    client: Client | None = None,
    timeout_s: float = 60.0,
) -> pa.DoubleArray:
    """Rank of each vertex, as `algorithms.pagerank` tells it.

    Parameters
    ----------
    graph, k, triple, client, timeout_s
        See `bsp.run`.
    alpha, max_iter, tol
        See `algorithms.pagerank`.

    Raises
    ------
    NotConvergedError
        If ``max_iter`` iterations don't get to ``tol``.
    """
    if not 0 <= alpha <= 1:
        raise InvalidObjectError(f"alpha is {alpha}", "it is a probability, 0 to 1")
    if max_iter < 1 or not tol >= 0:
        raise InvalidObjectError(f"max_iter {max_iter}, tol {tol}", "take at least 1 and 0")
    arguments = {"alpha": alpha, "max_iter": max_iter, "tol": tol}
    found = run(
        _pagerank,
        graph,
        k,
        triple=triple,
        arguments=arguments,
        client=client,
        timeout_s=timeout_s,
    )
    return pa.array(_joined(found))


def bfs(
    graph: Source,
    source: Any,
    k: int | None = None,
    *,
    triple: Triple | str | None = None,
    client: Client | None = None,
    timeout_s: float = 60.0,
) -> pa.Int32Array:
    """Levels of a breadth-first search along out-edges; null where none leads.

    Parameters
    ----------
    source : int or sequence of int
        Vertices on level 0, by their ids in the whole graph.
    graph, k, triple, client, timeout_s
        See `bsp.run`.

    Raises
    ------
    VertexNotFoundError
        If a source is no vertex.
    """
    sources = np.unique(as_ids([source] if isinstance(source, int | np.integer) else source))
    found = run(
        _bfs,
        graph,
        k,
        triple=triple,
        arguments={"sources": sources},
        client=client,
        timeout_s=timeout_s,
    )
    levels = _joined(found)
    return nullable(levels, levels >= 0)


def _joined(parts: Sequence[tuple[Array, Array]]) -> Array:
    """Values of all vertices, of what each worker has for its own."""
    ids, values = (np.concatenate(each) for each in zip(*parts, strict=True))
    whole = np.empty_like(values)
    whole[ids] = values
    return whole


def _pagerank(worker: Worker, alpha: float, max_iter: int, tol: float) -> tuple[Array, Array]:
    view = worker.view
    a, inner = view.adjacency, view.inner
    degrees = np.diff(a.out_indptr[inner.start : inner.stop + 1])
    gives = np.zeros(view.num_local)  # what a vertex passes on along each of its edges
    total = worker.sync(gives, [view.num_inner])[0]
    ranks = np.full(view.num_inner, 1 / max(total, 1))
    indptr = a.in_indptr[inner.start : inner.stop + 1]
    neighbors = a.in_indices[indptr[0] : indptr[-1]]
    rows = np.flatnonzero(np.diff(indptr))
    begins = (indptr[rows] - indptr[0]).astype(np.intp)
    change = math.inf
    for done in range(max_iter + 1):
        gives[inner] = np.divide(
            alpha * ranks, degrees, out=np.zeros(view.num_inner), where=degrees > 0
        )
        lost, changed = worker.sync(gives, [ranks[degrees == 0].sum(), change])
        if (done and changed < tol) or done == max_iter or not total:
            break
        before = ranks
        ranks = np.full(view.num_inner, (1 - alpha + alpha * lost) / total)
        if len(rows):
            ranks[rows] += np.add.reduceat(gives[neighbors], begins)
        change = float(np.abs(ranks - before).sum())
    if total and tol > 0 and not changed < tol:
        raise NotConvergedError(
            f"after {max_iter} iterations ranks still change by {changed:.3g} in sum",
            "raise max_iter or tol, or lower alpha; tol=0 takes what max_iter gives",
        )
    return view.ids, ranks


def _bfs(worker: Worker, sources: Array) -> tuple[Array, Array]:
    view = worker.view
    start, inner = view.inner.start, view.inner
    levels = np.full(view.num_inner, -1, np.int32)
    flags = np.zeros(view.num_local, bool)
    told = np.zeros(view.num_local, bool)  # what owners of outer vertices know already
    fresh = np.isin(view.ids, sources)
    found = worker.collect(flags, [int(fresh.sum())])[0]
    if found < len(sources):
        raise VertexNotFoundError(f"{len(sources) - int(found)} of the sources are no vertices")
    level = 0
    while True:
        levels[fresh] = level
        frontier = np.flatnonzero(fresh) + start
        batch = expand(
            view.adjacency, frontier, incoming=False, props=(), limit=None, sample=None,
            seed=0, batch_size=None, threads=1,
        )  # fmt: skip
        flags[:] = False
        flags[batch.column("dst").to_numpy()] = True
        flags &= ~told
        flags[inner] &= levels < 0
        told |= flags
        if not worker.collect(flags, [int(flags.sum())])[0]:
            return view.ids, levels
        fresh = flags[inner] & (levels < 0)
        level += 1
