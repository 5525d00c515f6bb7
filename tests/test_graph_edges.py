"""Edges by index: iterators, slices, single answers, expansion; against a graph of dictionaries."""

from __future__ import annotations

import gc
import operator
import pickle
import weakref
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from graph_oracle import LOCAL, Slow, examples, fast, multigraphs
from hypothesis import given
from hypothesis import strategies as st

from vineyard_arrow.errors import InvalidGraphError, LabelNotFoundError, VertexNotFoundError
from vineyard_arrow.graph import Edge, Graph, vertices

WEIGHTS = pa.table(
    {
        "src": [0, 0, 1, 2, 2, 0],
        "dst": [1, 2, 2, 2, 0, 1],
        "weight": [1.0, 2.0, 3.0, None, 5.0, 6.0],
        "tag": list("abcdef"),
    }
)


@pytest.fixture
def graph() -> Graph:
    return Graph.from_tables({"v": {"oid": [0, 1, 2, 3]}}, {("v", "e", "v"): WEIGHTS}, client=LOCAL)


# ---- against the oracle


@given(multigraphs(), st.booleans())
@examples(60)
def test_every_answer_is_that_of_the_oracle(slow: Slow, wide: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vertices, "WIDE_FROM", 4 if wide else 1 << 32)
        graph = fast(slow)
    for v in range(slow.num):
        out = [(e.src, e.dst, e.eid) for e in graph.out_edges(v)]
        into = [(e.src, e.dst, e.eid) for e in graph.in_edges(v)]
        assert out == [(v, w, eid) for w, eid in slow.out[v]]
        assert into == [(w, v, eid) for w, eid in slow.into[v]]
        for direction, rows, made in (
            ("out", slow.out[v], graph.out_slice(v)),
            ("in", slow.into[v], graph.in_slice(v)),
        ):
            others = [w for w, _ in rows]
            assert graph.neighbors(v, direction=direction).tolist() == others
            assert graph.degree(v, direction=direction) == len(others) == len(made)
            assert made.neighbors.tolist() == others
            assert made.edge_ids.tolist() == [eid for _, eid in rows]
            assert made["row"].to_pylist() == [slow.rows[eid] for _, eid in rows]
            assert [e.eid for e in made] == [eid for _, eid in rows]
        for w in range(slow.num):
            assert graph.has_edge(v, w) == (w in {w for w, _ in slow.out[v]})
    everything = list(graph.edges())
    pairs = slow.pairs if slow.directed else [(min(p), max(p)) for p in slow.pairs]
    assert [(e.src, e.dst) for e in everything] == [pairs[row] for row in slow.rows]
    assert [e.eid for e in everything] == list(range(len(pairs)))
    assert [e["row"] for e in everything] == slow.rows
    lists = graph.adjacency_lists()
    assert [[each["dst"] for each in row] for row in lists.to_pylist()] == [
        [w for w, _ in slow.out[v]] for v in range(slow.num)
    ]


@given(multigraphs(), st.data())
@examples(60)
def test_expansion_is_that_of_the_oracle(slow: Slow, data: st.DataObject) -> None:
    frontier = data.draw(st.lists(st.integers(0, slow.num - 1), max_size=8)) if slow.num else []
    limit = data.draw(st.none() | st.integers(0, 20))
    size = data.draw(st.none() | st.integers(1, 10))
    graph = fast(slow)
    for direction, rows in (("out", slow.out), ("in", slow.into)):
        found = graph.expand(
            np.array(frontier, np.int64), direction=direction, props=["row"], limit=limit,
            batch_size=size,
        )  # fmt: skip
        if size is not None:
            batches = list(found)
            assert all(0 < batch.num_rows <= size for batch in batches)
            found = pa.Table.from_batches(batches, found.schema)
        here, there = ("src", "dst") if direction == "out" else ("dst", "src")
        expected = [
            {here: v, there: w, "eid": eid, "row": slow.rows[eid]}
            for v in frontier
            for w, eid in rows[v]
        ][:limit]
        assert found.to_pylist() == expected


@given(multigraphs(), st.integers(0, 6), st.integers(0, 2**63), st.data())
@examples(60)
def test_samples_are_edges_without_repeats(
    slow: Slow, sample: int, seed: int, data: st.DataObject
) -> None:
    frontier = data.draw(st.lists(st.integers(0, slow.num - 1), max_size=8)) if slow.num else []
    graph = fast(slow)

    def draw(**options: Any) -> list[dict[str, int]]:
        found = graph.expand(frontier, sample=sample, seed=seed, **options)
        return (
            found.to_pylist() if isinstance(found, pa.RecordBatch) else found.read_all().to_pylist()
        )

    drawn = draw()
    at = 0
    for v in frontier:
        count = min(sample, len(slow.out[v]))
        here = [(each["dst"], each["eid"]) for each in drawn[at : at + count]]
        assert {each["src"] for each in drawn[at : at + count]} <= {v}
        assert set(here) <= set(slow.out[v])
        assert len(set(here)) == count
        at += count
    assert at == len(drawn)
    assert draw(threads=1) == draw(batch_size=3) == drawn
    assert draw(limit=4) == drawn[:4]


def test_samples_are_fair() -> None:
    """Each of many neighbours about as often, by either way of drawing."""
    for degree, sample in ((500, 5), (60, 40)):
        graph = Graph.from_edges({"src": [0] * degree, "dst": range(1, degree + 1)}, client=LOCAL)
        draws = 4000
        found = graph.expand(np.zeros(draws, int), sample=sample, seed=1)
        counts = np.bincount(found["eid"].to_numpy(), minlength=degree)
        expected = draws * sample / degree
        assert counts.sum() == draws * sample
        assert abs(counts - expected).max() < 6 * np.sqrt(expected)
    assert graph.expand([0], sample=3, seed=1).equals(graph.expand([0], sample=3, seed=1))
    several = {tuple(graph.expand([0], sample=3)["eid"].to_pylist()) for _ in range(9)}
    assert len(several) > 1  # no seed: each call its own


def test_large_expansion_on_several_threads() -> None:
    rng = np.random.default_rng(3)
    src, dst = rng.integers(0, 1000, (2, 700_000))
    graph = Graph.from_edges({"src": src, "dst": dst, "w": rng.random(700_000)}, client=LOCAL)
    a = graph.adjacency()
    frontier = rng.permutation(graph.num_vertices())
    found = graph.expand(frontier, props=["w"], threads=3)
    degree = np.diff(a.out_indptr)[frontier]
    assert (found["src"].to_numpy() == np.repeat(frontier, degree)).all()
    ids = np.concatenate([np.arange(*a.out_indptr[v : v + 2]) for v in frontier])
    assert (found["eid"].to_numpy() == ids).all()
    assert (found["dst"].to_numpy() == a.out_indices[ids]).all()
    assert (found["w"].to_numpy() == a.columns["w"].to_numpy()[ids]).all()


@pytest.mark.parametrize("direction", ["out", "in"])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("limit", [None, 399_999])
def test_expansion_of_very_many_short_rows(direction: Any, threads: int, limit: Any) -> None:
    """More vertices than one thread takes, the last rows of the index among them."""
    rng = np.random.default_rng(5)
    num = 50_000
    src, dst = rng.integers(0, num, (2, 4 * num))
    vertices = {"oid": np.arange(num)}
    graph = Graph.from_tables(
        {"v": vertices}, {("v", "e", "v"): {"src": src, "dst": dst}}, client=LOCAL
    )  # fmt: skip
    a = graph.adjacency()
    out = direction == "out"
    indptr = a.out_indptr if out else a.in_indptr
    frontier = np.append(rng.integers(0, num, 150_000), np.arange(num - 9, num))
    found = graph.expand(frontier, direction=direction, threads=threads, limit=limit)
    degree = np.diff(indptr)[frontier]
    ends = np.cumsum(degree)
    at = np.arange(ends[-1]) + np.repeat(indptr[frontier] - (ends - degree), degree)
    at = at[:limit]
    here, there = ("src", "dst") if out else ("dst", "src")
    assert (found[here].to_numpy() == np.repeat(frontier, degree)[:limit]).all()
    assert (found[there].to_numpy() == (a.out_indices if out else a.in_indices)[at]).all()
    assert (found["eid"].to_numpy() == (at if out else a.in_edge_ids[at])).all()
    frontier[[70_000, 140_000]] = -1, num
    with pytest.raises(VertexNotFoundError, match=r"no vertex -1 .*frontier\[70000\]"):
        graph.expand(frontier, direction=direction, threads=threads)


# ---- the objects


def test_edges_are_values(graph: Graph) -> None:
    first, second, *_ = graph.edges()
    assert (first.src, first.dst, first.eid) == (0, 1, 0)
    assert first["weight"] == 1.0
    assert second["tag"] == "f"
    assert dict(first) == {"weight": 1.0, "tag": "a"}
    assert first.triple == ("v", "e", "v")
    assert repr(second) == "Edge(0, 1, eid=1)"
    same = next(graph.out_edges(0))
    assert first == same
    assert hash(first) == hash(same)
    assert first != second
    assert first != (0, 1, 0)
    assert [e["weight"] for e in graph.edges()][-1] is None
    for name in ("src", "eid", "weight"):
        with pytest.raises(AttributeError):
            setattr(first, name, 1)
    with pytest.raises(LabelNotFoundError, match=r"no property 'wait'.*they have weight, tag"):
        first["wait"]
    with pytest.raises(KeyError):
        first["wait"]
    with pytest.raises(TypeError, match="made by iterating"):
        Edge()
    with pytest.raises(TypeError, match="view of its graph"):
        pickle.dumps(first)
    with pytest.raises(TypeError, match="view of its graph"):
        pickle.dumps(graph.out_slice(0))


def test_properties_are_python_values() -> None:
    values: dict[str, pa.Array] = {
        str(type_): pa.array([0, 1, None, 100], type_)
        for type_ in (
            pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(),
            pa.uint64(), pa.float32(), pa.float64(), pa.float16(),
        )
    }  # fmt: skip
    values |= {
        "low": pa.array([-(2**63), 2**63 - 1, 0, 1]),
        "high": pa.array([2**64 - 1, 0, 1, 2], pa.uint64()),
        "bool": pa.array([True, None, False, True]),
        "time": pa.array([1, 2, None, 3], pa.timestamp("s")),
        "list": pa.array([[1], None, [], [2, 3]]),
    }
    table = pa.table({"src": range(4), "dst": range(4), **values})
    graph = Graph.from_edges(table, client=LOCAL)
    for name, array in values.items():
        got = [edge[name] for edge in graph.edges()]
        assert got == array.to_pylist(), name
        assert [type(x) for x in got] == [type(x) for x in array.to_pylist()], name


def test_iterators_know_their_length(graph: Graph) -> None:
    edges = graph.out_edges(0)
    assert operator.length_hint(edges) == 3
    next(edges)
    assert operator.length_hint(edges) == 2
    assert iter(edges) is edges
    both = graph.edges()
    assert operator.length_hint(both) == 6
    assert len(list(both)) == 6
    assert operator.length_hint(both) == 0
    assert next(both, None) is None
    assert operator.length_hint(graph.in_edges(3)) == 0


def test_slices_are_views(graph: Graph) -> None:
    a = graph.adjacency()
    made = graph.out_slice(2)
    assert np.shares_memory(made.neighbors, a.out_indices)
    assert np.shares_memory(graph.in_slice(2).edge_ids, a.in_edge_ids)
    assert np.shares_memory(graph.neighbors(2), a.out_indices)
    column = made["weight"]
    assert (
        column.buffers()[1].address == graph.edge_columns()["weight"].chunk(0).buffers()[1].address
    )
    assert (made.start, made.stop, made.vertex, made.incoming) == (4, 6, 2, False)
    assert made.to_arrow().to_pydict() == {
        "dst": [0, 2], "eid": [4, 5], "weight": [5.0, None], "tag": ["e", "d"],
    }  # fmt: skip
    assert graph.in_slice(2).to_arrow(["tag"]).to_pydict() == {
        "src": [0, 1, 2], "eid": [2, 3, 5], "tag": ["b", "c", "d"],
    }  # fmt: skip
    assert repr(made) == "<2 out-edges of vertex 2>"
    with pytest.raises(ValueError, match="read-only"):
        made.neighbors[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        a.in_indices[0] = 1
    with pytest.raises(ValueError):
        a.out_indptr.flags.writeable = True
    with pytest.raises(LabelNotFoundError):
        made["wait"]


def test_views_keep_the_graph_alive() -> None:
    def make() -> tuple[Any, ...]:
        graph = Graph.from_edges({"src": [0, 0], "dst": [1, 2], "w": [1, 2]}, client=LOCAL)
        alive = weakref.ref(graph)
        edge = next(graph.edges())
        return alive, edge, graph.out_slice(0), graph.out_edges(0), graph.neighbors(0)

    alive, edge, made, edges, neighbors = make()
    gc.collect()
    assert alive() is None
    assert edge["w"] == 1
    assert made["w"].to_pylist() == [1, 2]
    assert [e.dst for e in edges] == [1, 2]
    assert neighbors.tolist() == [1, 2]


def test_all_edges_are_there_at_once_too(graph: Graph) -> None:
    arrays = graph.arrow()
    a = graph.adjacency()
    for name, view in (
        ("out.indptr", a.out_indptr),
        ("out.indices", a.out_indices),
        ("in.indptr", a.in_indptr),
        ("in.indices", a.in_indices),
        ("in.edge_ids", a.in_edge_ids),
    ):
        assert np.shares_memory(arrays[name].to_numpy(), view)
    lists = graph.adjacency_lists()
    assert isinstance(lists, pa.LargeListArray)
    assert lists.values.field(0).buffers()[1].address == arrays["out.indices"].buffers()[1].address
    assert lists[2].as_py() == [
        {"dst": 0, "weight": 5.0, "tag": "e"}, {"dst": 2, "weight": None, "tag": "d"},
    ]  # fmt: skip
    assert graph.edge_columns().column_names == ["weight", "tag"]
    assert graph.orig_row() is None


# ---- several triples


def test_triples_are_named_where_there_are_several() -> None:
    people, cats = {"oid": [1, 2]}, {"oid": ["Tom", "Kit", "Leo"]}
    graph = Graph.from_tables(
        {"person": people, "cat": cats},
        {
            ("person", "owns", "cat"): {"src": [1, 2, 2], "dst": ["Leo", "Tom", "Kit"]},
            ("person", "likes", "cat"): {"src": [1], "dst": ["Tom"]},
            ("person", "likes", "person"): {"src": [2], "dst": [1]},
        },
        client=LOCAL,
    )
    owns = ("person", "owns", "cat")
    assert graph.num_vertices() == 5
    assert graph.num_edges() == 5
    assert graph.num_vertices("cat") == 3
    assert graph.num_edges("owns") == 3
    assert [e.dst for e in graph.out_edges(1, "owns")] == [0, 1]
    assert graph.neighbors(2, triple=owns, direction="in").tolist() == [0]
    assert graph.has_edge(0, 2, owns)
    assert not graph.has_edge(1, 2, owns)
    assert graph.expand([1, 0], label="owns")["dst"].to_pylist() == [0, 1, 2]
    assert graph.expand([2], triple=owns, direction="in")["src"].to_pylist() == [0]
    with pytest.raises(VertexNotFoundError, match="no vertex 2 in 'person', which has 2"):
        graph.out_edges(2, owns)
    with pytest.raises(VertexNotFoundError, match="no vertex 3 in 'cat', which has 3"):
        graph.in_edges(3, owns)
    with pytest.raises(LabelNotFoundError, match="the graph has 3 triples"):
        graph.out_edges(0)
    with pytest.raises(LabelNotFoundError, match="edge label 'likes' has 2 triples"):
        graph.edges("likes")
    with pytest.raises(LabelNotFoundError, match=r"no triple .*nearest: person-owns-cat"):
        graph.edges(("person", "own", "cat"))
    with pytest.raises(LabelNotFoundError, match="2 vertex labels"):
        graph.ids(None, 1)
    with pytest.raises(LabelNotFoundError, match=r"no vertex label 'cats'.*nearest: cat"):
        graph.vertices("cats")
    assert "(person)-[owns]->(cat) 3 edges" in str(graph.schema)


# ---- bad input


@pytest.mark.parametrize("v", [-1, 4, 2**31, 2**63, 2**100, -(2**70), np.int64(-1), np.uint64(4)])
def test_vertices_outside(graph: Graph, v: Any) -> None:
    for ask in (
        graph.out_edges, graph.in_edges, graph.neighbors, graph.degree, graph.out_slice,
        graph.in_slice, lambda v: graph.has_edge(v, 0), lambda v: graph.has_edge(0, v),
        graph.neighbourhood_svg,
    ):  # fmt: skip
        with pytest.raises(VertexNotFoundError, match="in 'v', which has 4"):
            ask(v)
    with pytest.raises(IndexError):
        graph.out_edges(v)
    if -(2**63) <= v < 2**63:
        with pytest.raises(VertexNotFoundError, match=r"which has 4 \(frontier\[1\]\)"):
            graph.expand([0, int(v)])
    with pytest.raises(VertexNotFoundError, match="in 'v', which has 4"):
        graph.oids(None, v)
    assert graph.oids(None, v, unknown="null") is None


def test_what_is_no_vertex(graph: Graph) -> None:
    for v in (1.0, "1", None):
        with pytest.raises(TypeError):
            graph.out_edges(v)  # type: ignore[arg-type]
    for frontier in ([1.0], ["a"], [True], [[1]], pa.array([1, None])):
        with pytest.raises(InvalidGraphError, match="vertex ids"):
            graph.expand(frontier)
    with pytest.raises(VertexNotFoundError):
        graph.expand(np.array([2**64 - 1], np.uint64))
    with pytest.raises(InvalidGraphError, match="direction 'both'"):
        graph.expand([0], direction="both")  # type: ignore[arg-type]
    with pytest.raises(LabelNotFoundError, match="no property 'x'"):
        graph.expand([0], props=["x"])
    for option in ({"limit": -1}, {"sample": -1}, {"batch_size": 0}):
        with pytest.raises(InvalidGraphError, match="="):
            graph.expand([0], **option)
    assert graph.expand([]).num_rows == 0
    assert graph.expand(pa.array([], pa.null())).num_rows == 0


def test_ids_and_oids(graph: Graph) -> None:
    with pytest.raises(VertexNotFoundError, match=r"2 of 3 oids are not in 'v': 8, 9"):
        graph.ids("v", [0, 8, 9])
    assert graph.ids("v", 9, unknown="null") is None
    assert graph.ids("v", []).to_pylist() == []
    assert graph.ids("v", np.array([3, 0], np.int32)).to_pylist() == [3, 0]
    assert graph.ids("v", pa.array([3, None]), unknown="null").to_pylist() == [3, None]
    assert graph.oids("v", np.array([9, 0]), unknown="null").to_pylist() == [None, 0]
    with pytest.raises(InvalidGraphError, match="oids for 'v' is string"):
        graph.ids("v", "a")
    with pytest.raises(InvalidGraphError, match="oids for 'v'"):
        graph.ids("v", [1, "a"])
    with pytest.raises(InvalidGraphError, match="unknown='drop'"):
        graph.ids("v", 1, unknown="drop")  # type: ignore[arg-type]


# ---- what notebooks show


def test_drawings(graph: Graph) -> None:
    import xml.etree.ElementTree as ElementTree

    drawn = ElementTree.fromstring(graph.neighbourhood_svg(0))
    circles = drawn.findall(".//{http://www.w3.org/2000/svg}circle")
    assert len(circles) == 3
    names = [each.text for each in drawn.findall(".//{http://www.w3.org/2000/svg}title")]
    assert names == ["v 0 (id 0)", "v 1 (id 1)", "v 2 (id 2)"]
    star = Graph.from_edges(
        {"src": ["<a>"] * 50, "dst": range(50)} | {"dst": [f"n{i}" for i in range(50)]},
        client=LOCAL,
    )
    text = star.neighbourhood_svg(0, hops=3, limit=10)
    assert "10 vertices, 9 edges; 41 more neighbours not drawn" in text
    assert "&lt;a&gt;" in text
    ElementTree.fromstring(text)
    assert "<td>v -e→ v</td>" in graph._repr_html_()
    assert repr(graph) == "<Graph: 4 vertices, 6 edges>"
    with pytest.raises(InvalidGraphError):
        graph.neighbourhood_svg(0, hops=-1)


@given(multigraphs())
@examples(20)
def test_any_neighbourhood_can_be_drawn(slow: Slow) -> None:
    graph = fast(slow)
    for v in range(slow.num):
        seen = {v}
        for _ in range(2):
            seen |= {w for u in seen for w, _ in slow.out[u]}
        assert graph.neighbourhood_svg(v, 2).count("<circle") == len(seen)
