"""Algorithms against networkx and slow oracles, on random multigraphs and on the odd ones."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import threading
from collections import Counter

import networkx as nx
import numpy as np
import pyarrow as pa
import pytest
from graph_edges import adjacency, networkx_of, rmat
from graph_oracle import LOCAL
from hypothesis import given, settings
from hypothesis import strategies as st

from vineyard_arrow import (
    InvalidGraphError,
    InvalidObjectError,
    LabelNotFoundError,
    NotConvergedError,
    VertexNotFoundError,
)
from vineyard_arrow.graph import Adjacency, Graph
from vineyard_arrow.graph import algorithms as ga
from vineyard_arrow.graph.sampling import random_walks

quick = settings(max_examples=60, deadline=None)


@st.composite
def graphs(draw: st.DrawFn) -> Adjacency:
    """Few vertices, so that parallel edges, self-loops, circles and dangling ends are common."""
    n = draw(st.integers(1, 12))
    ends = st.integers(0, n - 1)
    pairs = draw(st.lists(st.tuples(ends, ends), max_size=40))
    kinds = [np.float64, np.float32, np.int64, np.uint8, np.int32, np.uint64, np.int16]
    # Zeros and sums that floats hold exactly: every order of adding gives the same.
    weights = draw(st.lists(st.integers(0, 6), min_size=len(pairs), max_size=len(pairs)))
    return adjacency(
        n, pairs, directed=draw(st.booleans()), wide=draw(st.booleans()),
        wide_ids=draw(st.booleans()),
        w=np.array(weights, draw(st.sampled_from(kinds))),
    )  # fmt: skip


TRIANGLE = [(0, 1), (1, 2), (2, 0)]
FIXED = {
    "single vertex": adjacency(1, []),
    "self-loop": adjacency(1, [(0, 0)], w=[2.0]),
    "no edges": adjacency(5, []),
    "ten thousand parallel edges": adjacency(2, [(0, 1)] * 10_000, w=np.ones(10_000)),
    "path": adjacency(3000, [(i, i + 1) for i in range(2999)], w=np.ones(2999)),
    "circle": adjacency(3000, [(i, (i + 1) % 3000) for i in range(3000)], w=np.ones(3000)),
    "star": adjacency(500, [(0, i) for i in range(1, 500)], w=np.ones(499)),
    "two triangles": adjacency(7, TRIANGLE + [(a + 3, b + 3) for a, b in TRIANGLE], w=[1] * 6),
    "clique": adjacency(9, [(i, j) for i in range(9) for j in range(i)], w=np.ones(36)),
}


def simple(edges: Adjacency) -> nx.Graph:
    graph = nx.Graph(networkx_of(edges))
    graph.remove_edges_from(list(nx.selfloop_edges(graph)))
    return graph


def in_order(values: dict[int, object]) -> list[object]:
    return [values[v] for v in sorted(values)]


def numbered(parts: object) -> list[int]:
    names = {}
    for name, part in enumerate(sorted(parts, key=min)):
        names.update(dict.fromkeys(part, name))
    return in_order(names)


def check_everything(edges: Adjacency) -> None:
    """All that has one right answer."""
    graph, plain = networkx_of(edges), simple(edges)
    check_ranks(edges, graph)
    check_searches(edges, graph)
    undirected = graph.to_undirected() if edges.directed else graph
    assert ga.weakly_connected_components(edges).to_pylist() == numbered(
        nx.connected_components(undirected)
    )
    strong = nx.strongly_connected_components(graph) if edges.directed else None
    assert ga.strongly_connected_components(edges).to_pylist() == numbered(
        strong or nx.connected_components(graph)
    )
    assert ga.triangles(edges).to_pylist() == in_order(nx.triangles(plain))
    np.testing.assert_allclose(ga.clustering(edges), in_order(nx.clustering(plain)))
    assert ga.core_number(edges).to_pylist() == in_order(nx.core_number(plain))
    check_communities(edges)


def check_ranks(edges: Adjacency, graph: nx.MultiGraph) -> None:
    for weight in [None, *edges.columns]:
        for personal in (None, {0: 1, edges.num_src - 1: 2}):
            expected = nx.pagerank(
                graph, tol=1e-14, max_iter=1000, weight=weight, personalization=personal
            )
            got = ga.pagerank(
                edges, tol=1e-13, max_iter=1000, weight=weight, personalization=personal
            )
            np.testing.assert_allclose(got, in_order(expected), atol=1e-11)


def check_searches(edges: Adjacency, graph: nx.MultiGraph) -> None:
    n = edges.num_src
    for source in (0, n // 2):
        expected = nx.single_source_shortest_path_length(graph, source)
        levels, parents = ga.bfs(edges, source)
        assert levels.to_pylist() == [expected.get(v) for v in range(n)]
        for v, parent in enumerate(parents.to_pylist()):
            nearer = [u for u in pred(graph, v) if expected.get(u, n) == expected.get(v, 0) - 1]
            assert parent == min(nearer, default=None)
        for weight in edges.columns:
            check_paths(edges, graph, source, weight)


def pred(graph: nx.MultiGraph, v: int) -> list[int]:
    return list(graph.predecessors(v) if graph.is_directed() else graph.neighbors(v))


def check_paths(edges: Adjacency, graph: nx.MultiGraph, source: int, weight: str) -> None:
    expected = nx.single_source_dijkstra_path_length(graph, source, weight=weight)
    for delta in (None, 0.01, 1e-3, 1e6):  # one bucket, and many windows of buckets
        distances, parents = ga.shortest_paths(edges, source, weight=weight, delta=delta)
        assert distances.to_pylist() == [expected.get(v) for v in range(edges.num_src)]
    above = parents.to_pylist()
    for v in range(edges.num_src):
        assert (above[v] is None) == (v == source or v not in expected)
        if above[v] is not None:
            least = min(e[weight] for e in graph.get_edge_data(above[v], v).values())
            assert expected[above[v]] + least == expected[v]
        for _ in range(edges.num_src):  # the way up ends at the source, never in a circle
            v = source if above[v] is None else above[v]
        assert v == source or v not in expected


def check_communities(edges: Adjacency) -> None:
    """Nobody has a neighbourhood that would rather have another label."""
    labels = ga.label_propagation(edges, seed=3, max_iter=1000).to_pylist()
    assert labels == numbered([[v for v, k in enumerate(labels) if k == c] for c in set(labels)])
    graph = networkx_of(edges)
    for v in graph:
        votes = Counter()
        for a, b in graph.edges(keys=False):
            if v in (a, b) and a != b:
                votes[labels[b if v == a else a]] += 1
        assert votes[labels[v]] == max(votes.values(), default=0)


@quick
@given(graphs())
def test_random_multigraphs(edges: Adjacency) -> None:
    check_everything(edges)


@pytest.mark.parametrize(
    "name", ["single vertex", "self-loop", "no edges", "two triangles", "clique"]
)
def test_odd_graphs(name: str) -> None:
    check_everything(FIXED[name])


@pytest.mark.parametrize("name", ["ten thousand parallel edges", "path", "circle", "star"])
def test_long_and_wide_graphs(name: str) -> None:
    edges = FIXED[name]
    graph, plain = networkx_of(edges), simple(edges)
    source = 0
    hops = nx.single_source_shortest_path_length(graph, source)
    expected = [hops.get(v) for v in range(edges.num_src)]
    assert ga.bfs(edges, source).levels.to_pylist() == expected
    distances, parents = ga.shortest_paths(edges, source, weight="w")
    assert distances.to_pylist() == expected
    assert parents.to_pylist() == ga.bfs(edges, source).parents.to_pylist()
    assert ga.strongly_connected_components(edges).to_pylist() == numbered(
        nx.strongly_connected_components(graph)
    )
    assert ga.weakly_connected_components(edges).to_pylist() == [0] * edges.num_src
    assert ga.core_number(edges).to_pylist() == in_order(nx.core_number(plain))
    np.testing.assert_allclose(
        ga.pagerank(edges, tol=1e-12, max_iter=500),
        in_order(nx.pagerank(graph, tol=1e-14, max_iter=500)), atol=1e-10,
    )  # fmt: skip


def test_empty_graph() -> None:
    edges = adjacency(0, [], w=np.empty(0))
    assert ga.pagerank(edges).to_pylist() == ga.triangles(edges).to_pylist() == []
    assert ga.weakly_connected_components(edges) == pa.array([], pa.uint32())
    assert ga.strongly_connected_components(edges) == pa.array([], pa.uint32())
    assert len(ga.core_number(edges)) == len(ga.label_propagation(edges)) == 0
    assert len(ga.clustering(edges)) == len(ga.degree(edges)) == 0
    assert ga.bfs(edges, []).levels == pa.array([], pa.int32())
    assert len(ga.shortest_paths(edges, [], weight="w").distances) == 0
    figures = ga.degree_statistics(edges)
    assert (figures.vertices, figures.max, figures.mean, len(figures.histogram)) == (0, 0, 0, 0)
    with pytest.raises(VertexNotFoundError, match="no vertices"):
        ga.bfs(edges, 0)


@pytest.fixture(scope="module")
def large() -> Adjacency:
    """Large enough for several blocks, both directions of search and fused buckets."""
    pairs = rmat(12)
    return adjacency(1 << 12, pairs, w=np.random.default_rng(5).random(len(pairs)))


@pytest.mark.parametrize("directed", [True, False])
def test_large_graph(large: Adjacency, directed: bool) -> None:
    if not directed:
        src = np.repeat(np.arange(large.num_src), np.diff(large.out_indptr))
        pairs = np.stack([src, large.out_indices.astype(np.int64)]).T
        large = adjacency(large.num_src, pairs, directed=False, w=large.columns["w"].to_numpy())
    graph, plain = networkx_of(large), simple(large)
    n, hub = large.num_src, int(np.argmax(np.diff(large.out_indptr)))
    hops = nx.single_source_shortest_path_length(graph, hub)
    assert ga.bfs(large, hub).levels.to_pylist() == [hops.get(v) for v in range(n)]
    far = nx.single_source_dijkstra_path_length(graph, hub, weight="w")
    got = ga.shortest_paths(large, hub, weight="w").distances
    assert got.to_pylist() == [far.get(v) for v in range(n)]
    strong = nx.strongly_connected_components if directed else nx.connected_components
    weak = nx.weakly_connected_components if directed else nx.connected_components
    assert ga.strongly_connected_components(large).to_pylist() == numbered(strong(graph))
    assert ga.weakly_connected_components(large).to_pylist() == numbered(weak(graph))
    assert ga.triangles(large).to_pylist() == in_order(nx.triangles(plain))
    assert ga.core_number(large).to_pylist() == in_order(nx.core_number(plain))


@pytest.mark.parametrize("threads", [1, 4])
def test_wide_searches(threads: int) -> None:
    """Both directions, with more edges a step than one thread follows."""
    rng = np.random.default_rng(11)
    n = 200_000
    src, dst = rng.integers(0, n, (2, 1_000_000))
    sources = rng.choice(n, 8_000, replace=False)
    edges = adjacency(n, np.stack([src, dst], axis=1))
    levels, parents = np.full(n, n), np.full(n, n)
    levels[sources] = 0
    for level in range(n):
        reached = dst[levels[src] == level]
        fresh = reached[levels[reached] == n]
        if not len(fresh):
            break
        levels[fresh] = level + 1
    leads = levels[src] == levels[dst] - 1
    np.minimum.at(parents, dst[leads], src[leads])
    found = ga.bfs(edges, sources, threads=threads)
    assert (found.levels.fill_null(n).to_numpy() == levels).all()
    assert (found.parents.fill_null(n).to_numpy() == parents).all()
    assert ga.bfs(edges, sources, threads=threads, parents=False).levels == found.levels


def test_any_number_of_threads_gives_the_same(large: Adjacency) -> None:
    def everything(threads: int) -> list[object]:
        some = {"threads": threads}
        return [
            ga.pagerank(large, **some),
            ga.pagerank(large, weight="w", personalization=np.arange(large.num_src), **some),
            *ga.bfs(large, [1, 7], **some),
            *ga.shortest_paths(large, [1, 7], weight="w", **some),
            ga.weakly_connected_components(large, **some),
            ga.strongly_connected_components(large, **some),
            ga.triangles(large, **some),
            ga.clustering(large, **some),
            ga.core_number(large, **some),
            ga.label_propagation(large, seed=9, max_iter=5, **some),
        ]

    one = everything(1)
    for threads in (2, 5):
        assert everything(threads) == one
    assert ga.label_propagation(large, seed=1, max_iter=1) != ga.label_propagation(
        large, seed=2, max_iter=1
    )


def test_label_propagation_finds_communities() -> None:
    blocks = [(20 * b + i, 20 * b + j) for b in range(4) for i in range(20) for j in range(i)]
    bridges = [(20 * b, (20 * b + 20) % 80) for b in range(4)]
    labels = ga.label_propagation(adjacency(80, blocks + bridges), seed=1).to_numpy()
    assert labels.tolist() == np.repeat(np.arange(4), 20).tolist()


def test_degrees() -> None:
    edges = adjacency(5, [(0, 1), (0, 1), (1, 1), (3, 0)])
    assert ga.degree(edges).to_pylist() == [2, 1, 0, 1, 0]
    assert ga.degree(edges, direction="in").to_pylist() == [1, 3, 0, 0, 0]
    assert ga.degree(edges, direction="both").to_pylist() == [3, 4, 0, 1, 0]
    undirected = adjacency(3, [(0, 1), (1, 1)], directed=False)
    assert ga.degree(undirected, direction="both").to_pylist() == [1, 2, 0]
    got = ga.degree_statistics(edges)
    assert (got.vertices, got.edges, got.min, got.max, got.isolated) == (5, 4, 0, 2, 2)
    assert (got.mean, got.median, got.std) == (0.8, 1.0, pytest.approx(math.sqrt(0.56)))
    assert got.histogram.to_pydict() == {"degree": [0, 1, 2], "count": [2, 2, 1]}
    with pytest.raises(InvalidObjectError, match="sideways"):
        ga.degree(edges, direction="sideways")


def test_tiny_and_huge_weights() -> None:
    pairs = [(0, 1), (1, 2), (2, 3), (0, 3), (3, 4)]
    edges = adjacency(5, pairs, w=[1e-300, 1e300, 1e-300, 2e300, 0.0])
    # Sorted by ends, so the columns are too: 0-1, 0-3, 1-2, 2-3, 3-4.
    distances, parents = ga.shortest_paths(edges, 0, weight="w")
    assert distances.to_pylist() == [0, 1e-300, 1e300, 1e300, 1e300]
    assert parents.to_pylist() == [None, 0, 1, 2, 3]


@pytest.mark.parametrize("delta", [None, 1e-3, 0.1, 50.0])
def test_long_edges_beside_short_ones(delta: float | None) -> None:
    """What waits far away is settled in its turn, not when the way there has been walked."""
    n, rng = 2000, np.random.default_rng(3)
    pairs = [(i, i + 1) for i in range(n - 1)] + [(i, i + 300) for i in range(0, n - 300, 7)]
    edges = adjacency(
        n, pairs, w=np.append(np.ones(n - 1), rng.uniform(200, 299, len(pairs) - n + 1))
    )
    expected = nx.single_source_dijkstra_path_length(networkx_of(edges), 0, weight="w")
    got = ga.shortest_paths(edges, 0, weight="w", delta=delta).distances
    assert got.to_pylist() == in_order(expected)


def test_weights_that_need_preparing() -> None:
    expected = ga.pagerank(adjacency(3, TRIANGLE, w=[1.0, 2, 4]), weight="w")
    edges = adjacency(3, TRIANGLE)
    for weights in (
        [1, 2, 4],
        np.array([1, 2, 4], np.float16),
        pa.chunked_array([[1.0], [2.0, 4.0]]),
        pa.array([9, 1, 2, 4])[1:],
        np.array([1, 0, 2, 0, 4])[::2],
    ):
        assert ga.pagerank(edges, weight=weights) == expected


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1, -1, 1], "edge 1 weighs -1"),
        ([1.0, 1.0, math.nan], "edge 2 weighs nan"),
        ([math.inf, 1.0, 1.0], "edge 0 weighs inf"),
        (pa.array([1, None, None]), "2 of 3 values are null"),
        (["a", "b", "c"], "string is no type of weights"),
        ([True, True, True], "bool is no type of weights"),
        ([1, 1], "2 values for 3 edges"),
    ],
)
def test_bad_weights(weights: object, message: str) -> None:
    edges = adjacency(3, TRIANGLE)
    for call in (ga.pagerank, lambda e, **k: ga.shortest_paths(e, 0, **k)):
        with pytest.raises(InvalidGraphError, match=message):
            call(edges, weight=weights)


def test_bad_input() -> None:
    edges = adjacency(3, TRIANGLE, w=np.ones(3))
    for source in (3, -1, [0, 2**40], np.array([2**64 - 1], np.uint64)):
        with pytest.raises(VertexNotFoundError, match="label 'v'"):
            ga.bfs(edges, source)
    with pytest.raises(InvalidGraphError, match="dtype float64"):
        ga.bfs(edges, [0.5])
    with pytest.raises(LabelNotFoundError, match="they have 'w'"):
        ga.pagerank(edges, weight="wieght")
    with pytest.raises(LabelNotFoundError, match="knows"):
        ga.bfs(edges, 0, triple="knows")
    for bad in ({"alpha": 1.5}, {"alpha": math.nan}, {"max_iter": 0}, {"tol": -1}, {"threads": 0}):
        with pytest.raises(InvalidObjectError):
            ga.pagerank(edges, **bad)
    for bad in ([1, 2], [0, 0, 0], [1, -1, 1], [math.nan, 1, 1], {}):
        with pytest.raises(InvalidGraphError, match="personalization"):
            ga.pagerank(edges, personalization=bad)
    with pytest.raises(VertexNotFoundError):
        ga.pagerank(edges, personalization={3: 1.0})
    for delta in (0, -1, math.inf, math.nan):
        with pytest.raises(InvalidObjectError, match="delta"):
            ga.shortest_paths(edges, 0, weight="w", delta=delta)
    lopsided = adjacency(4, [(0, 1), (1, 0), (2, 1)])
    with pytest.raises(NotConvergedError, match="after 3 iterations"):
        ga.pagerank(lopsided, max_iter=3, tol=1e-9)
    assert ga.pagerank(lopsided, max_iter=3, tol=0).to_numpy().sum() == pytest.approx(1)


def test_two_labels_are_refused() -> None:
    edges = dataclasses.replace(adjacency(3, TRIANGLE), triple=("person", "likes", "film"))
    for call in (ga.pagerank, ga.triangles, ga.core_number, ga.label_propagation, ga.degree):
        with pytest.raises(InvalidGraphError, match="from 'person' to 'film'"):
            call(edges)


@pytest.mark.parametrize("directed", [True, False])
def test_a_graph_is_asked_for_its_triple(directed: bool) -> None:
    triple = ("v", "road", "v")
    roads = {"src": [10, 20, 20, 30], "dst": [20, 30, 30, 10], "km": [5, 9, 2, 1]}
    rail = {"src": [10], "dst": [30]}
    graph = Graph.from_tables(
        {"v": {"oid": [10, 20, 30]}}, {triple: roads, ("v", "rail", "v"): rail},
        directed=directed, client=LOCAL,
    )  # fmt: skip
    assert ga.bfs(graph, 0, triple="rail").levels.to_pylist() == [0, None, 1]
    got = ga.shortest_paths(graph, 0, weight="km", triple=triple)
    assert got.distances.to_pylist() == ([0, 5, 7] if directed else [0, 3, 1])
    assert got.parents.to_pylist() == ([None, 0, 1] if directed else [None, 2, 0])
    assert ga.pagerank(graph, weight="km", triple="road") == ga.pagerank(
        graph.adjacency(triple), weight="km"
    )
    assert random_walks(graph, 0, 1, triple="rail").to_pylist() == [[0, 2]]
    with pytest.raises(LabelNotFoundError, match="2 triples"):
        ga.triangles(graph)


def test_interrupted(large: Adjacency) -> None:
    """Ctrl-C ends a kernel that would run for hours."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job may ignore it
    try:
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
            ga.pagerank(large, max_iter=10**9, tol=0)
    finally:
        signal.signal(signal.SIGINT, before)
