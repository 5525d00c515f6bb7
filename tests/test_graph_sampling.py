"""Random walks and neighbour samples: what they may contain, how often, and that seeds hold."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from graph_edges import adjacency, rmat
from hypothesis import given, settings
from hypothesis import strategies as st

from vineyard_arrow import InvalidGraphError, InvalidObjectError, VertexNotFoundError
from vineyard_arrow.graph.adjacency import Adjacency
from vineyard_arrow.graph.sampling import random_walks, sample_neighbors

quick = settings(max_examples=60, deadline=None)


@st.composite
def graphs(draw: st.DrawFn) -> Adjacency:
    n = draw(st.integers(1, 12))
    ends = st.integers(0, n - 1)
    pairs = draw(st.lists(st.tuples(ends, ends), max_size=60))
    return adjacency(
        n, pairs, directed=draw(st.booleans()), wide=draw(st.booleans()),
        wide_ids=draw(st.booleans()),
        w=np.array(draw(st.lists(st.integers(0, 2), min_size=len(pairs), max_size=len(pairs)))),
    )  # fmt: skip


def edge_table(edges: Adjacency) -> list[tuple[int, int, int]]:
    """(source, destination, id) of every out-position."""
    src = np.repeat(np.arange(edges.num_src), np.diff(edges.out_indptr)).tolist()
    ids = np.arange(len(src)) if edges.edge_ids is None else edges.edge_ids
    return list(zip(src, edges.out_indices.tolist(), ids.tolist(), strict=True))


@quick
@given(graphs(), st.integers(0, 5), st.integers(), st.booleans())
def test_walks_follow_edges(edges: Adjacency, length: int, seed: int, weighted: bool) -> None:
    weights = edges.columns["w"].to_pylist() if weighted else [1] * edges.num_edges
    ways: dict[int, set[int]] = {}
    for u, v, i in edge_table(edges):
        if weights[i]:
            ways.setdefault(u, set()).add(v)
    starts = list(range(edges.num_src)) * 3
    walks = random_walks(edges, starts, length, weight="w" if weighted else None, seed=seed)
    assert (len(walks), walks.type.list_size) == (len(starts), length + 1)
    for start, walk in zip(starts, walks.to_pylist(), strict=True):
        assert walk[0] == start
        for u, v in itertools.pairwise(walk):
            assert v in ways[u] if u in ways else v is None


def test_steps_are_as_likely_as_weights() -> None:
    edges = adjacency(4, [(0, 1), (0, 2), (0, 3), (0, 3)], w=np.array([1, 0, 3, 4], np.int16))
    for weight, share in ((None, [0.25, 0.25, 0.5]), ("w", [1 / 8, 0, 7 / 8])):
        walks = random_walks(edges, np.zeros(20_000, int), 1, weight=weight, seed=4)
        counts = np.bincount(walks.flatten().to_numpy()[1::2], minlength=4)[1:]
        np.testing.assert_allclose(counts / 20_000, share, atol=0.015)


@quick
@given(
    graphs(), st.lists(st.integers(-1, 4), max_size=3), st.integers(), st.booleans(),
    st.sampled_from(["in", "out"]),
)  # fmt: skip
def test_samples(
    edges: Adjacency, fanouts: list[int], seed: int, replace: bool, direction: str
) -> None:
    incoming: dict[int, list[tuple[int, int]]] = {v: [] for v in range(edges.num_src)}
    for u, v, i in edge_table(edges):
        if direction == "in":
            incoming[v].append((u, i))
        else:
            incoming[u].append((v, i))
    nodes = sorted({0, edges.num_src // 2})[::-1]
    sample = sample_neighbors(
        edges, nodes, fanouts, direction=direction, replace=replace, seed=seed
    )
    assert sample.n_id[: len(nodes)].tolist() == nodes
    assert len(set(sample.n_id)) == len(sample.n_id)
    known = len(nodes)
    assert len(sample.hops) == len(fanouts)
    for fanout, hop in zip(fanouts, sample.hops, strict=True):
        assert hop.size[1] == known
        row, col = hop.edge_index
        for local in range(known):
            found = [
                (int(sample.n_id[r]), int(e))
                for r, c, e in zip(row, col, hop.e_id, strict=True)
                if c == local
            ]
            choices = incoming[sample.n_id[local]]
            assert set(found) <= set(choices)
            if replace and fanout >= 0:
                assert len(found) == (fanout if choices else 0)
            else:
                assert len(set(found)) == len(found)
                assert len(found) == (len(choices) if fanout < 0 else min(fanout, len(choices)))
        new = {int(r) for r in row if r >= known}
        known += len(new)
        assert new == set(range(hop.size[1], known))
        assert hop.size[0] == known
    assert known == len(sample.n_id)


@pytest.mark.parametrize(("degree", "k"), [(40, 3), (40, 20), (40, 39)])  # both ways to choose
def test_every_edge_is_as_likely(degree: int, k: int) -> None:
    trials = 4000
    pairs = [(i, degree + t) for t in range(trials) for i in range(degree)]
    edges = adjacency(degree + trials, pairs)
    hop = sample_neighbors(edges, np.arange(degree, degree + trials), [k], seed=1).hops[0]
    counts = np.bincount(hop.e_id // trials, minlength=degree)
    np.testing.assert_allclose(counts / trials, k / degree, atol=0.04)


def test_seeds_decide_and_threads_do_not() -> None:
    edges = adjacency(1 << 10, rmat(10), w=np.random.default_rng(1).random(16 << 10))
    starts = np.arange(1 << 10)

    def draw(seed: int, threads: int) -> list[object]:
        sample = sample_neighbors(edges, starts[:500], [5, 3], seed=seed, threads=threads)
        return [
            random_walks(edges, starts, 8, seed=seed, threads=threads).to_pylist(),
            random_walks(edges, starts, 8, weight="w", seed=seed, threads=threads).to_pylist(),
            sample.n_id.tolist(),
            [hop.edge_index.tolist() for hop in sample.hops],
            [hop.e_id.tolist() for hop in sample.hops],
        ]

    one = draw(7, 1)
    assert draw(7, 2) == draw(7, 3) == one
    assert all(a != b for a, b in zip(draw(8, 2), one, strict=True))


def test_bad_input() -> None:
    edges = adjacency(3, [(0, 1), (1, 2)], w=[1.0, -1.0])
    with pytest.raises(VertexNotFoundError, match="start 3"):
        random_walks(edges, [0, 3], 2)
    with pytest.raises(InvalidObjectError, match="-1 steps"):
        random_walks(edges, 0, -1)
    with pytest.raises(InvalidGraphError, match="edge 1 weighs -1"):
        random_walks(edges, 0, 2, weight="w")
    with pytest.raises(VertexNotFoundError, match="node -1"):
        sample_neighbors(edges, [-1], [2])
    with pytest.raises(InvalidObjectError, match="1 nodes are named twice"):
        sample_neighbors(edges, [1, 2, 1], [2])
    with pytest.raises(InvalidObjectError, match="-1 means all"):
        sample_neighbors(edges, [1], [2, -2])
    with pytest.raises(InvalidObjectError, match="sideways"):
        sample_neighbors(edges, [1], [2], direction="sideways")


def test_nothing_to_draw() -> None:
    edges = adjacency(2, [])
    assert random_walks(edges, [1, 0], 2).to_pylist() == [[1, None, None], [0, None, None]]
    assert random_walks(edges, [], 2).to_pylist() == []
    sample = sample_neighbors(edges, [1], [3, 3])
    assert (sample.n_id.tolist(), [hop.e_id.size for hop in sample.hops]) == ([1], [0, 0])
