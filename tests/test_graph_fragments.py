"""Fragments of graphs: their union is the graph, each is whole by itself, alone or in a store."""

from __future__ import annotations

import dataclasses
import itertools
import pickle
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import Daemon
from graph_oracle import LOCAL, examples, fast, multigraphs
from hypothesis import given
from hypothesis import strategies as st
from test_fork import in_child

from vineyard_arrow.client import Client
from vineyard_arrow.errors import (
    InvalidGraphError,
    InvalidObjectError,
    LabelNotFoundError,
    ObjectInUseError,
    ObjectNotFoundError,
    StoreFullError,
    VertexNotFoundError,
)
from vineyard_arrow.graph import Fragment, GlobalGraph, Graph, vertices
from vineyard_arrow.graph.balance import balanced_cuts, moved_owners
from vineyard_arrow.graph.fragments import vertex_weights
from vineyard_arrow.graph.partition import partition
from vineyard_arrow.graph.vertex_map import MAX_FRAGMENTS, pack_gids, unpack_gids
from vineyard_arrow.objects import ObjectMeta
from vineyard_arrow.registry import Part

COUNTS = st.integers(1, 15)  # more than there are vertices, at times
BUYS, KNOWS = ("person", "buys", "thing"), ("person", "knows", "person")


@st.composite
def owners(draw: st.DrawFn) -> Any:
    """A number of fragments, and what gives vertices to them: ``by``."""
    k = draw(COUNTS)
    by = draw(st.sampled_from(["hash", "segment", "drawn"]))
    if by != "drawn":
        return k, by
    seed = draw(st.integers(0, 2**32))
    return k, lambda label, table: np.random.default_rng(seed).integers(0, k, table.num_rows)


def equal(left: Graph, right: Graph) -> None:
    """Fail unless both have the same tables, indices and columns."""
    assert str(left.schema) == str(right.schema)
    mine, theirs = left.members(), right.members()
    assert mine.keys() == theirs.keys()
    for name in mine:
        assert mine[name].equals(theirs[name]), name


def edges_of(graph: Graph) -> Counter[Any]:
    """Ends by their oids, and the property ``row``, of all edges."""
    a = graph.adjacency()
    oids = graph.vertices()["oid"].to_pylist()
    src, dst = ends_of(graph)
    rows = a.columns["row"].to_pylist()
    return Counter((oids[u], oids[v], row) for u, v, row in zip(src, dst, rows, strict=True))


def ends_of(graph: Graph) -> tuple[list[int], list[int]]:
    a = graph.adjacency()
    rows = np.repeat(np.arange(a.num_src), np.diff(a.out_indptr))
    if not a.directed:
        once = rows <= a.out_indices
        return rows[once].tolist(), a.out_indices[once].tolist()
    return rows.tolist(), a.out_indices.tolist()


def several(client: Any = LOCAL) -> Graph:
    """Two labels with oids of two kinds, two triples, properties of some types, nulls."""
    rng = np.random.default_rng(5)
    names = [f"person {i}" for i in range(40)]
    things = pa.table(
        {
            "oid": np.arange(25) * 3,
            "price": pa.array([None if i % 4 == 0 else i / 2 for i in range(25)]),
            "tags": pa.array([["x"] * (i % 3) for i in range(25)]),
        }
    )
    people = pa.table({"age": rng.integers(0, 99, 40), "oid": pa.array(names, pa.string_view())})
    knows = pa.table(
        {
            "src": [names[i] for i in rng.integers(0, 40, 120)],
            "dst": [names[i] for i in rng.integers(0, 40, 120)],
            "why": pa.array([None if i % 5 == 0 else f"reason {i}" for i in range(120)]),
        }
    )
    buys = pa.table(
        {
            "src": [names[i] for i in rng.integers(0, 40, 90)],
            "dst": rng.integers(0, 25, 90) * 3,
            "row": range(90),
        }
    )
    return Graph.from_tables(
        {"person": people, "thing": things},
        {KNOWS: knows, BUYS: buys},
        client=client,
        orig_row=True,
    )


# ---- virtual fragments


@examples(100)
@given(multigraphs(), COUNTS)
def test_ranges_are_the_graph(slow: Any, k: int) -> None:
    graph = fast(slow)
    fragments = graph.fragments(k)
    assert [(f.fid, f.fnum) for f in fragments] == [(fid, k) for fid in range(k)]
    assert [v for f in fragments for v in f.inner()] == list(range(slow.num))
    for direction, rows in (("out", slow.out), ("in", slow.into)):
        for fragment in fragments:
            indptr, indices = fragment.rows(direction=direction)
            for v, begin, end in zip(fragment.inner(), indptr[:-1], indptr[1:], strict=True):
                assert indices[begin:end].tolist() == [u for u, _ in rows[v]]
        positions = [p for f in fragments for p in f.positions(direction=direction)]
        assert positions == list(range(sum(map(len, rows.values()))))
    assert pa.concat_tables(f.vertices() for f in fragments).equals(graph.vertices())


@examples(200)
@given(st.lists(st.integers(1, 50), max_size=40), COUNTS)
def test_ranges_are_balanced(weights: list[int], k: int) -> None:
    cuts = balanced_cuts(np.array(weights, np.int64), k)
    assert (cuts[0], cuts[-1], len(cuts)) == (0, len(weights), k + 1)
    assert (np.diff(cuts) >= 0).all()
    loads = [sum(weights[a:b]) for a, b in itertools.pairwise(cuts)]
    assert max(loads) <= sum(weights) / k + max(weights, default=0)


def test_ranges_share_the_graphs_memory() -> None:
    graph = several()
    for fragment in graph.fragments(3):
        for triple in (KNOWS, BUYS):
            indptr, indices = fragment.rows(triple)
            assert np.shares_memory(indptr, graph.adjacency(triple).out_indptr)
            assert indices is graph.adjacency(triple).out_indices
        ours, theirs = (
            t["price"].chunk(0) for t in (fragment.vertices("thing"), graph.vertices("thing"))
        )
        assert ours.buffers()[1].address == theirs.buffers()[1].address
    with pytest.raises(LabelNotFoundError):
        graph.fragments(2)[0].inner()


def test_a_range_is_sent_by_the_graphs_id(daemon: Daemon, client: Client) -> None:
    with pytest.raises(InvalidGraphError, match="not got from a store"):
        pickle.dumps(several().fragments(2)[0])
    oid = client.put(several(client))
    sent = pickle.dumps(client.get(oid).fragments(3))
    assert len(sent) < 1500

    def look() -> Any:
        return [(f.fid, f.inner("person"), f.rows(KNOWS)[0].tolist()) for f in pickle.loads(sent)]

    fragments = client.get(oid).fragments(3)
    assert in_child(look) == [
        (f.fid, f.inner("person"), f.rows(KNOWS)[0].tolist()) for f in fragments
    ]


@pytest.mark.parametrize("k", [0, -1, 1.5, True, None, MAX_FRAGMENTS + 1])
def test_wrong_numbers(k: Any) -> None:
    graph = several()
    for cut in (graph.fragments, lambda k: partition(graph, k, client=LOCAL)):
        with pytest.raises(InvalidGraphError, match=f"{k} fragments"):
            cut(k)


# ---- fragments


@examples(80)
@given(multigraphs(), owners())
def test_the_union_is_the_graph(slow: Any, given_: Any) -> None:
    k, by = given_
    graph = fast(slow, orig_row=True)
    whole = partition(graph, k, by, client=LOCAL)
    assert (len(whole), whole.num_vertices(), whole.num_edges()) == (k, slow.num, len(slow.pairs))
    equal(whole.to_graph(client=LOCAL), graph)
    src, dst = ends_of(graph)
    owner = {int(v): f.fid for f in whole for v in f.vertex_map().ids.to_pylist()}
    oids = graph.vertices()["oid"].to_pylist()
    every = Counter((oids[u], oids[v], row) for u, v, row in zip(src, dst, slow.rows, strict=True))
    owned: Counter[Any] = Counter()
    for fragment in whole:
        fragment.validate()
        mine = Counter(
            (oids[u], oids[v], row)
            for u, v, row in zip(src, dst, slow.rows, strict=True)
            if fragment.fid in (owner[u], owner[v])
        )
        found = edges_of(fragment.graph)
        if not slow.directed:  # the lower local id is the source
            mine, found = (
                Counter((*sorted(e[:2]), e[2]) for e in c.elements()) for c in (mine, found)
            )
        assert found == mine
        rows = fragment.edge_columns()["row"].to_pylist()
        assert rows == fragment.graph.orig_row().tolist()
        owned.update(rows[i] for i in fragment.owned_edges())
    assert owned == Counter(e[2] for e in every.elements())


@examples(60)
@given(multigraphs(), owners())
def test_inner_and_outer_vertices_agree(slow: Any, given_: Any) -> None:
    k, by = given_
    graph = fast(slow)
    fragments = list(partition(graph, k, by, client=LOCAL))
    for f in fragments:
        ni, m = f.num_inner(), f.vertex_map()
        assert f.vertices().num_rows == ni
        assert f.graph.vertices().slice(0, ni)["oid"].equals(f.vertices()["oid"])
        lids = np.arange(ni + f.num_outer())
        gids = f.gids(None, lids)
        assert f.lids(None, gids).tolist() == lids.tolist()
        assert f.owner(None, lids).tolist() == unpack_gids(gids)[0].tolist()
        assert (f.owner(None, lids[ni:]) != f.fid).all()
        assert (np.diff(f.owner(None, lids[ni:])) >= 0).all()  # grouped
        assert [v for other in range(k) for v in f.outer(owner=other)] == list(f.outer())
        ends = {v for pair in zip(*ends_of(f.graph), strict=True) for v in pair}
        assert set(f.outer()) <= ends  # only those that edges need
        for other in fragments:
            theirs = other.oids(None, list(other.outer(owner=f.fid)))
            assert f.oids(None, m.mirrors_for(other.fid)).to_pylist() == theirs.to_pylist()
        for v in f.inner():  # rows of inner vertices are complete
            whole_id = m.ids[v].as_py()
            for direction, rows in (("out", slow.out), ("in", slow.into)):
                found = f.oids(None, f.graph.neighbors(v, direction=direction)).to_pylist()
                expected = graph.oids(None, [u for u, _ in rows[whole_id]]).to_pylist()
                assert sorted(found) == sorted(expected)


@examples(60)
@given(multigraphs(), owners())
def test_inner_and_cut_edges(slow: Any, given_: Any) -> None:
    k, by = given_
    for f in partition(fast(slow), k, by, client=LOCAL):
        ni, (src, dst) = f.num_inner(), map(np.array, ends_of(f.graph))
        src, dst = src.astype(int), dst.astype(int)
        inner = np.flatnonzero((src < ni) & (dst < ni))
        out, into = np.flatnonzero(dst >= ni), np.flatnonzero(src >= ni)
        if not slow.directed:
            out = into = np.union1d(out, into)
        assert f.inner_edges().tolist() == inner.tolist()
        assert f.cut_edges().tolist() == out.tolist()
        assert f.cut_edges(direction="in").tolist() == into.tolist()
        figures = f.figures()
        assert (figures.inner, figures.outer) == (ni, f.num_outer())
        assert figures.cut == f.graph.num_edges() - len(inner)


@pytest.mark.parametrize("by", ["hash", "segment"])
@pytest.mark.parametrize("k", [1, 3, 70])
def test_several_labels(by: Any, k: int) -> None:
    graph = several()
    whole = partition(graph, k, by, client=LOCAL)
    equal(whole.to_graph(client=LOCAL), graph)
    for fragment in whole:
        fragment.validate()
        for label in ("person", "thing"):
            ids = fragment.vertex_map(label).ids
            assert fragment.vertices(label).schema.equals(graph.vertices(label).schema)
            if label == "thing":
                assert fragment.vertices(label).equals(graph.vertices(label).take(ids))
    people = [f"person {i}" for i in (7, 39, 0)]
    gids = whole.gids("person", people)
    assert whole.oids("person", gids).to_pylist() == people
    assert whole.gids("person", ["nobody", "person 1"]).is_null().to_pylist() == [True, False]
    assert whole.oids("thing", []).to_pylist() == []
    with pytest.raises(VertexNotFoundError, match="no vertex"):
        whole.oids("person", pack_gids([0], [500]))


def test_equal_oids_go_together() -> None:
    narrow = Graph.from_tables(
        {"v": pa.table({"oid": pa.array([5, 9, 2], pa.int8())})}, {}, client=LOCAL
    )
    wide = Graph.from_tables({"w": pa.table({"oid": [9, 2, 1, 5]})}, {}, client=LOCAL)
    where = []
    for graph, label in ((narrow, "v"), (wide, "w")):
        whole = partition(graph, 7, client=LOCAL)
        where.append([int(unpack_gids(whole.gids(label, [oid]))[0][0]) for oid in (2, 5, 9)])
    assert where[0] == where[1]


@pytest.mark.parametrize(
    ("by", "message"),
    [
        ("range", "is not 'hash'"),
        (lambda label, table: [0, 1], "no integer for each of the 5"),
        (lambda label, table: [0.5] * 5, "no integer for each"),
        (lambda label, table: pa.array([0, None, 1, 1, 1]), "no integer for each"),
        (lambda label, table: [0, 1, 2, 1, 0], "fid 2 for vertex 2 of 'v'"),
        (lambda label, table: [0, 1, 1, -1, 0], "fid -1 for vertex 3"),
    ],
)
def test_what_gives_no_owners(by: Any, message: str) -> None:
    graph = Graph.from_tables({"v": {"oid": range(5)}}, {}, client=LOCAL)
    with pytest.raises(InvalidGraphError, match=message):
        partition(graph, 2, by, client=LOCAL)


@pytest.mark.parametrize("directed", [True, False])
def test_threads_make_no_difference(monkeypatch: pytest.MonkeyPatch, directed: bool) -> None:
    ends = np.random.default_rng(3).integers(0, 50, (2, 400))
    edges = {"src": ends[0], "dst": ends[1], "row": np.arange(400)}
    graph = Graph.from_edges(edges, client=LOCAL, directed=directed)
    made = []
    for grain, threads in ((1 << 20, 1), (1, 3), (1, 7)):
        monkeypatch.setattr(sys.modules[partition.__module__], "_GRAIN", grain)
        made.append(list(partition(graph, 4, client=LOCAL, threads=threads)))
    for fragments in made[1:]:
        for one, other in zip(made[0], fragments, strict=True):
            equal(one.graph, other.graph)


def test_wide_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vertices, "WIDE_FROM", 20)
    graph = several()
    assert graph.adjacency(KNOWS).out_indices.dtype == np.uint64
    whole = partition(graph, 3, client=LOCAL)
    equal(whole.to_graph(client=LOCAL), graph)
    for fragment in whole:
        fragment.validate()


def test_a_graph_of_nothing() -> None:
    whole = partition(Graph.from_tables({}, {}, client=LOCAL), 2, client=LOCAL)
    assert (whole.num_vertices(), whole.num_edges(), len(whole.repartition(3, client=LOCAL))) == (
        0,
        0,
        3,
    )
    assert whole.to_graph(client=LOCAL).schema.vertices == ()


def test_ids_outside() -> None:
    (fragment, _) = partition(several(), 2, client=LOCAL)
    count = fragment.graph.num_vertices("thing")
    for lid in (-1, count):
        with pytest.raises(VertexNotFoundError, match=f"no local id {lid} in fragment 0"):
            fragment.gids("thing", [lid])
    assert fragment.lids("thing", pack_gids([5, 0, 1], [0, 1 << 30, 1 << 30])).tolist() == [-1] * 3
    with pytest.raises(InvalidGraphError, match="no fragment 2"):
        fragment.outer("thing", 2)
    with pytest.raises(InvalidGraphError, match="direction"):
        fragment.cut_edges(KNOWS, direction="both")


# ---- in a store


def answers(fragment: Fragment) -> Any:
    return (
        fragment.fid,
        fragment.fnum,
        fragment.vertices("person")["age"].to_pylist(),
        fragment.oids("thing", list(fragment.outer("thing"))).to_pylist(),
        fragment.edge_columns(KNOWS)["why"].to_pylist(),
        [(e.src, e.dst, e["row"]) for e in fragment.graph.edges(BUYS)],
        fragment.vertex_map("person").mirrors.to_pylist(),
    )


def test_another_process_gets_the_same(daemon: Daemon, client: Client) -> None:
    whole = partition(several(client), 3, client=client)
    expected = [answers(fragment) for fragment in whole]
    alone = client.put(whole.fragment(1))
    client.create_global(whole, name="whole")

    def look() -> Any:
        with daemon.connect() as other:
            one = other.get(alone)
            one.validate()
            return [answers(one), *map(answers, other.get("whole"))]

    assert in_child(look) == [expected[1], *expected]
    assert client.get_meta("whole").typename == "vineyard.global_graph"
    assert client.get_meta(alone).typename == "vineyard.fragment"
    assert answers(pickle.loads(pickle.dumps(whole.fragment(2)))) == expected[2]


def big(client: Client) -> Graph:
    rng = np.random.default_rng(0)
    ends = rng.integers(0, 60_000, (2, 150_000))
    edges = pa.table({"src": ends[0], "dst": ends[1], "w": rng.random(150_000)})
    nodes = pa.table({"oid": np.arange(60_000), "x": rng.random(60_000)})
    return Graph.from_tables({"v": nodes}, {("v", "e", "v"): edges}, client=client)


def test_a_put_copies_only_what_is_small(client: Client) -> None:
    meta = client.create_global(partition(big(client), 2, client=client))
    for member in meta.members.values():
        metas = [client.get_meta(m.id) for m in client.get_meta(member.id).members.values()]
        graph = next(m for m in metas if m.typename == "vineyard.graph")
        metas += [client.get_meta(m.id) for m in graph.members.values()]
        assert sum(m.nbytes for m in metas) > 2 << 20
        assert sum(m.copied for m in metas) == 0


def test_one_by_one_and_tied_later(client: Client) -> None:
    ids = [client.put(fragment) for fragment in partition(several(client), 3, client=client)]
    whole = GlobalGraph([client.get(each) for each in ids])
    assert whole.object_ids == ids
    for members in (whole, list(whole), ids):
        meta = client.create_global(members)
        assert [m.id for m in meta.members.values()] == ids  # not put again
        got = client.get(meta.id)
        assert got.object_ids == ids
        assert got.figures == whole.figures
    assert got.where(ids[1]) == client.instance
    with pytest.raises(ObjectInUseError):
        client.delete(ids[0])
    equal(got.to_graph(client=client), several())
    with pytest.raises(InvalidGraphError, match="number 0 of 2 here"):
        GlobalGraph([client.get(each) for each in ids[:2]])
    with pytest.raises(InvalidGraphError, match="number 0 of 3"):
        GlobalGraph([client.get(ids[i]) for i in (1, 0, 2)])
    with pytest.raises(InvalidGraphError, match="no fragments"):
        GlobalGraph([])


def test_fragments_are_opened_when_asked_for(client: Client, requests: list[str]) -> None:
    got = client.get(client.create_global(partition(several(client), 4, client=client)).id)
    assert got._opened == {}
    assert (got.num_vertices(), got.num_edges()) == (65, 210)
    assert got[2].fid == got[-2].fid == 2
    assert list(got._opened) == [2]
    assert [f.fid for f in got[1:3]] == [1, 2]
    with pytest.raises(IndexError):
        got[4]
    assert "4 fragments" in repr(got)
    assert "Fragment 1 of 4" in repr(got[1])


def test_deleted_fragments_are_named(client: Client) -> None:
    meta = client.create_global(partition(several(client), 3, client=client))
    got, members = client.get(meta.id), meta.members
    assert got[1].fid == 1
    for force in (False, True):
        with pytest.raises(ObjectInUseError):
            client.delete(members["1"].id, force=force)
    client.delete(meta.id)
    client.delete(members["1"].id)
    assert got[1].fid == 1  # got before: it holds a pin
    late = f"fragment 0 \\({members['0'].id}\\) of this graph is gone"
    client.delete(members["0"].id)
    with pytest.raises(ObjectNotFoundError, match=late):
        got[0]
    assert got[2].fid == 2
    del got
    client.delete(members["2"].id)
    assert client.list_objects("vineyard.*") == []


def test_what_makes_no_whole(client: Client) -> None:
    whole = partition(several(client), 2, client=client)
    ids = [client.put(fragment) for fragment in whole]
    other = partition(Graph.from_edges({"src": [0], "dst": [1]}, client=client), 2, client=client)
    used = client.status().objects
    for bad, options, message in [
        (ids[:1], {}, "fragment 0 of 2 is number 0 of 1 here"),
        ([ids[1], whole[0]], {}, "fragment 1 of 2 is number 0 of 2 here"),
        ([ids[0], other[1]], {}, "its graph has other labels"),
        ([ids[0], pa.table({"x": [1]})], {}, "another kind than the first: table, not fragment"),
        (ids, {"offsets": [(0,), (1,)]}, "of a graph"),
    ]:
        with pytest.raises(InvalidObjectError, match=message) as caught:
            client.create_global(bad, **options)
        assert caught.value.hint
    with pytest.raises(InvalidObjectError, match="create_global"):
        client.put(whole)
    assert client.status().objects == used
    figures = [Part("vineyard.fragment", pa.schema([]), [], {"fid": 0, "fnum": 1, "figures": [1]})]
    with pytest.raises(InvalidGraphError, match="makes no sense"):
        client.create_global([client._put_parts(figures, {})])


def test_within_other_values(client: Client) -> None:
    whole = partition(several(client), 2, client=client)
    got = client.get(client.put([whole.fragment(0), whole.fragment(1)]))
    assert [answers(f) for f in got] == [answers(f) for f in whole]


def test_what_does_not_fit_leaves_nothing(
    make_daemon: Callable[..., Daemon], client: Client
) -> None:
    graph = big(client)
    with make_daemon("--memory-limit", "4MiB").connect() as small:
        with pytest.raises(StoreFullError):
            partition(graph, 3, client=small)
        assert small.status().objects == 0


# ---- hostile ones


def spoiled(fragment: Fragment, label: str = "person", **changes: Any) -> Fragment:
    maps = dict(fragment._maps)
    maps[label] = dataclasses.replace(maps[label], **changes)
    return Fragment(fragment.graph, fragment.fid, fragment.fnum, maps, fragment._tables)


def test_spoiled_fragments_are_found(client: Client) -> None:
    fragment = partition(several(client), 3, client=client)[1]
    fragment.validate()
    m = fragment.vertex_map("person")
    outer, mirrors = m.outer.to_pylist(), m.mirrors.to_pylist()
    uint64 = pa.uint64()
    bad = [
        (spoiled(fragment, ids=m.ids.cast(pa.int32())), "ids is of a wrong type"),
        (spoiled(fragment, ids=pa.array([0] * len(m.ids), pa.uint32())), "two inner vertices"),
        (spoiled(fragment, ids=m.ids[1:]), "inner and|no inner vertex"),
        (spoiled(fragment, outer=pa.array(outer[::-1], uint64)), "outer are not in order"),
        (spoiled(fragment, outer=pa.array([*outer[:-1], 9 << 40], uint64)), "no other fragment"),
        (
            spoiled(fragment, outer=pa.array([1 << 40, *outer[1:]], uint64)),
            "no other fragment|order",
        ),
        (spoiled(fragment, outer=pa.array([None, *outer[1:]], uint64)), "wrong type, or null"),
        (spoiled(fragment, outer=m.outer[1:]), "but the graph has"),
        (spoiled(fragment, mirrors=pa.array([*mirrors, 2 << 40 | 999], uint64)), "no inner vertex"),
        (
            spoiled(fragment, ids=m.ids[:-1], outer=pa.array([0, *outer], uint64)),
            "order|rows of|end",
        ),
        (Fragment(fragment.graph, 3, 3, fragment._maps, fragment._tables), "fragment 3 of 3"),
        (Fragment(fragment.graph, 1, 3, {}, fragment._tables), "other labels"),
    ]
    for each, message in bad:
        with pytest.raises(InvalidGraphError, match=message):
            each.validate()
        if each.fid == 1 and each._maps:
            oid = client.put(each)
            assert client.get(oid).fid == 1  # one's own is trusted
            for options in ({"trusted": False}, {"validate": "full"}):
                with pytest.raises(InvalidGraphError, match=message):
                    client.get(oid, **options)


def test_an_edge_without_an_inner_end_is_found() -> None:
    graph = Graph.from_edges({"src": [0, 1], "dst": [1, 2]}, client=LOCAL)
    good = partition(graph, 2, lambda label, table: [0, 1, 1], client=LOCAL)[0]
    good.validate()
    maps = {
        "vertex": dataclasses.replace(
            good.vertex_map(),
            ids=pa.array([], pa.uint32()),
            outer=pa.array([1 << 40, 1 << 40 | 1], pa.uint64()),
            mirrors=pa.array([], pa.uint64()),
        )
    }
    tables = {"vertex": good.vertices().slice(0, 0)}
    with pytest.raises(InvalidGraphError, match="no inner end"):
        Fragment(good.graph, 0, 2, maps, tables).validate()


def test_untrusted_global_graphs(client: Client) -> None:
    whole = partition(several(client), 2, client=client)
    got = client.get(client.create_global(whole).id, trusted=False, validate="full")
    assert [f.fid for f in got] == [0, 1]
    bad = client.put(spoiled(whole[0], mirrors=pa.array([5], pa.uint64())))
    oid = client.create_global([bad, got.object_ids[1]]).id
    graph = client.get(oid, trusted=False)
    with pytest.raises(InvalidGraphError, match="mirrors are not in order"):
        graph[0]
    meta = ObjectMeta("vineyard.global_graph")
    meta["fragments"] = {name: [1] for name in ("inner", "outer", "edges", "cut")}
    meta.add_member("0", client.put("no fragment"))
    with pytest.raises(InvalidGraphError, match="'no fragment', not fragment 0"):
        client.get(client.create_global(meta).id)[0]


@pytest.mark.parametrize("typename", ["vineyard.fragment", "vineyard.global_graph"])
def test_descriptions_that_make_no_sense(client: Client, typename: str) -> None:
    for params in ({}, {"fid": "x", "fnum": 1, "labels": []}, {"fid": 0, "fnum": 1, "labels": 5}):
        oid = client._put_parts([Part(typename, pa.schema([]), [], params)], {})
        with pytest.raises((InvalidGraphError, ObjectNotFoundError)):
            client.get(oid)


# ---- cut anew


@examples(50)
@given(
    multigraphs(), owners(), st.one_of(st.none(), COUNTS), st.sampled_from(["edges", "vertices"])
)
def test_cut_anew_it_is_the_same_graph(slow: Any, given_: Any, k: Any, balance: Any) -> None:
    graph = fast(slow)
    whole = partition(graph, *given_, client=LOCAL)
    anew = whole.repartition(k, balance=balance, client=LOCAL)
    assert len(anew) == (k or len(whole))
    equal(anew.to_graph(client=LOCAL), graph)
    weights = np.ones(slow.num, int) if balance == "vertices" else vertex_weights(graph, "v")
    loads = [int(weights[f.vertex_map().ids.to_numpy()].sum()) for f in anew]
    assert max(loads) <= sum(loads) / len(anew) + 1 + weights.max(initial=0)
    for f in anew:
        f.validate()


@examples(100)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9)), max_size=30), st.integers(1, 8))
def test_few_vertices_move(pairs: list[tuple[int, int]], k: int) -> None:
    owners, weights = (np.array([p[i] for p in pairs], np.int64) for i in (0, 1))
    then = moved_owners(owners, weights, k)
    assert ((then >= 0) & (then < k)).all()
    total, heaviest = weights.sum(), weights.max(initial=0)
    loads = np.bincount(then, weights, k)
    assert (loads <= -(-total // k) + heaviest).all()
    before = np.bincount(owners, weights, max(6, k))
    excess = sum(
        max(0, load - (-(-total // k) if fid < k else 0)) for fid, load in enumerate(before)
    )
    assert weights[then != owners].sum() <= excess


def test_what_need_not_change_is_kept(client: Client) -> None:
    # Three chains, which weigh 88, 58 and 28: the first gives to the third.
    starts = np.concatenate([np.arange(0, 29), np.arange(100, 119), np.arange(200, 209)])
    graph = Graph.from_edges({"src": starts, "dst": starts + 1}, client=client)

    def by(label: str, table: pa.Table) -> Any:
        return table["oid"].to_numpy() // 100

    old = client.get(client.create_global(partition(graph, 3, by, client=client)).id)
    anew = old.repartition(client=client)
    assert anew.object_ids == [None, old.object_ids[1], None]
    assert anew[1] is old[1]
    assert [f.num_inner() for f in anew] == [20, 20, 20]
    assert anew[0].oids(None, range(20)).equals(old[0].oids(None, range(20)))  # under their ids
    client.create_global(anew)
    assert len(client.list_objects("vineyard.fragment")) == 5
    more = anew.repartition(4, balance="vertices", client=client)
    assert more[1].fnum == 4
    with pytest.raises(InvalidGraphError, match="balance='degree'"):
        old.repartition(balance="degree")


def test_parts_of_two_partitions_are_not_joined() -> None:
    graph = several()
    a, b = (partition(graph, 2, by, client=LOCAL) for by in ("hash", "segment"))
    with pytest.raises(InvalidGraphError, match=r"do not own each vertex|outer vertices"):
        GlobalGraph([a[0], b[1]]).to_graph(client=LOCAL)
