"""Graphs beside other libraries: building, algorithms, loops, slices, expansion.

R-MAT graphs with 16 edges a vertex, of the scale that ``--graph-scale`` says. A library that
would take too long is met at a smaller scale, ours too; its row says which. One row a library,
with the best times of both; the one that comes closest to ours (or is faster) has the target.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from libraries import Library, installed
from measure import once, report, seconds, time_of
from rmat import frontier_of, pairs, rmat, tables

from vineyard_arrow.graph import Graph, algorithms

TRIPLE = ("v", "e", "v")
TEXTS_SMALLER = 2  # scales by which graphs with texts are smaller
TRIANGLES_SMALLER = 4
LIMIT_S = 4.0  # no further round for what took so long in all
LOOP = 200_000  # steps of a timed loop
CALLS = 2000
Timed = Callable[[], float]

pytestmark = pytest.mark.timeout(600)


class World:
    """Graphs of all scales, ours and those of each library, made when they are asked for."""

    def __init__(self, client: Any, scale: int) -> None:
        self.client, self.scale = client, scale
        self.libraries = installed()
        self.tables = cache(tables)
        self.edges = cache(rmat)
        self.ours = cache(self._ours)
        self.theirs = cache(self._theirs)

    def build(self, vertices: pa.Table, edges: pa.Table) -> Graph:
        return Graph.from_tables({"v": vertices}, {TRIPLE: edges}, client=self.client)

    def with_method(self, method: str) -> list[Library]:
        return [each for each in self.libraries if getattr(each, method) is not None]

    def _ours(self, scale: int) -> Graph:
        """Over dense ids, so that vertices have the same ones everywhere."""
        src, dst = self.edges(scale)
        vertices = pa.table({"oid": np.arange(1 << scale)})
        return self.build(vertices, pa.table({"src": src, "dst": dst}))

    def _theirs(self, library: Library, scale: int) -> Any:
        return library.make(*self.edges(scale), 1 << scale)


@pytest.fixture(scope="module")
def world(store: Any, request: pytest.FixtureRequest) -> Iterator[World]:
    made = World(store.client, request.config.getoption("--graph-scale"))
    yield made
    del made
    gc.collect()


def bests(functions: list[Timed], rounds: int) -> list[float]:
    """The shortest of the times that each function reports; they run one after another."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(rounds):
        for function, taken in zip(functions, times, strict=True):
            if sum(taken) < LIMIT_S:
                taken.append(function())
    return [min(taken) for taken in times]


def compete(
    benchmark: Any,
    what: str,
    world: World,
    contests: dict[Library, tuple[int, Timed, Timed]],
    target: float,
    rounds: int,
) -> None:
    """Measure and report; ``contests`` has for each library a scale, its call and ours."""
    benchmark.group = f"graph: {what}"
    calls = [call for _, *both in contests.values() for call in both]
    gc.collect()
    times = once(benchmark, lambda: bests(calls, rounds))
    ratios = [ours / theirs for theirs, ours in zip(times[::2], times[1::2], strict=True)]
    for i, (library, (scale, *_)) in enumerate(contests.items()):
        report(
            benchmark, f"{library.name}, scale {scale}", time_of(times[2 * i + 1]),
            time_of(times[2 * i]), ratios[i], f"<= {target}" if ratios[i] == max(ratios) else "",
        )  # fmt: skip


def each(call: Callable[[], Any], calls: int = CALLS) -> float:
    def repeat() -> None:
        for _ in range(calls):
            call()

    return seconds(repeat) / calls


@pytest.mark.parametrize("kind", ["int64", "text"])
def test_build(benchmark: Any, world: World, kind: str) -> None:
    """From tables of oids to sorted rows both ways, where a library has them."""
    contests = {}
    for library in world.with_method("build"):
        scale = world.scale - max(library.smaller, TEXTS_SMALLER if kind == "text" else 0)
        given = world.tables(scale, kind == "text")
        theirs, ours = (
            partial(seconds, library.build, *given),
            partial(seconds, world.build, *given),
        )
        contests[library] = (scale, theirs, ours)
    compete(benchmark, f"build, {kind} oids", world, contests, 0.333, rounds=3)
    world.tables.cache_clear()


def hub_of(graph: Graph) -> int:
    return int(np.argmax(np.diff(graph.adjacency().out_indptr)))


def pagerank(graph: Graph, iterations: int) -> pa.Array:
    return algorithms.pagerank(graph, max_iter=iterations, tol=0)


def levels(graph: Graph, source: int) -> pa.Array:
    return algorithms.bfs(graph, source, parents=False).levels


@pytest.mark.parametrize(
    ("method", "what", "ours", "arguments"),
    [
        ("pagerank", "PageRank, 10 iterations", pagerank, lambda _: (10,)),
        ("bfs", "BFS, levels", levels, lambda graph: (hub_of(graph),)),
        ("parents", "BFS, parents", algorithms.bfs, lambda graph: (hub_of(graph),)),
        ("weak", "weak components", algorithms.weakly_connected_components, lambda _: ()),
        ("strong", "strong components", algorithms.strongly_connected_components, lambda _: ()),
    ],
)
def test_algorithm(
    benchmark: Any,
    world: World,
    method: str,
    what: str,
    ours: Callable[..., Any],
    arguments: Callable[[Graph], tuple[Any, ...]],
) -> None:
    contests = {}
    for library in world.with_method(method):
        scale = world.scale - library.smaller
        graph, other = world.ours(scale), world.theirs(library, scale)
        given = arguments(graph)
        theirs = partial(seconds, getattr(library, method), other, *given)
        contests[library] = (scale, theirs, partial(seconds, ours, graph, *given))
    compete(benchmark, what, world, contests, 1, rounds=5)


def test_triangles(benchmark: Any, world: World) -> None:
    """Theirs of a graph that is simple and undirected already; making it one isn't timed."""
    contests = {}
    for library in world.with_method("triangles"):
        scale = world.scale - max(library.smaller, TRIANGLES_SMALLER)
        other = library.undirected(*pairs(*world.edges(scale), 1 << scale), 1 << scale)
        ours = partial(seconds, algorithms.triangles, world.ours(scale))
        contests[library] = (scale, partial(seconds, library.triangles, other), ours)
    compete(benchmark, "triangles", world, contests, 1, rounds=5)


def loop(edges: Callable[[], Iterator[Any]], degree: int) -> float:
    """A step of a Python loop, done again and again over the same edges."""

    def drain() -> None:
        for _ in edges():
            pass

    return each(drain, LOOP // degree + 1) / degree


def test_loop(benchmark: Any, world: World) -> None:
    """Over what a library has for edges, those of the largest hub."""
    contests = {}
    for library in world.with_method("loop"):
        scale = world.scale - library.smaller
        graph = world.ours(scale)
        hub = hub_of(graph)
        calls = (
            partial(library.loop, world.theirs(library, scale), hub),
            partial(graph.out_edges, hub),
        )
        theirs, ours = (partial(loop, edges, graph.degree(hub)) for edges in calls)
        contests[library] = (scale, theirs, ours)
    compete(benchmark, "loop over edges, one edge", world, contests, 1, rounds=9)


def test_row(benchmark: Any, world: World) -> None:
    contests = {}
    for library in world.with_method("row"):
        scale = world.scale - library.smaller
        graph = world.ours(scale)
        v = int(np.argmax(np.diff(graph.adjacency().out_indptr) == 16))
        theirs = partial(each, partial(library.row, world.theirs(library, scale), v))
        contests[library] = (scale, theirs, partial(each, partial(neighbours, graph, v)))
    compete(benchmark, "neighbours of a vertex that has 16", world, contests, 1, rounds=9)


def neighbours(graph: Graph, v: int) -> Any:
    return graph.out_slice(v).neighbors


@pytest.mark.parametrize("wanted", [100_000, 1_000_000])
def test_expand(benchmark: Any, world: World, wanted: int) -> None:
    """SciPy and GraphBLAS have parallel edges as one."""
    graph = world.ours(world.scale)
    frontier = frontier_of(graph.adjacency().out_indptr, wanted)
    contests = {}
    for library in world.with_method("expand"):
        theirs = partial(seconds, library.expand, world.theirs(library, world.scale), frontier)
        contests[library] = (world.scale, theirs, partial(seconds, graph.expand, frontier))
    what = f"expand, {wanted:,} edges of {len(frontier):,} vertices"
    compete(benchmark, what, world, contests, 1, rounds=9)
