"""Derived graphs: against lists of vertices and edges, what they share in a store, bad input."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import networkx as nx
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from graph_oracle import LOCAL, Slow, examples, fast, multigraphs
from hypothesis import given
from hypothesis import strategies as st

from vineyard_arrow.client import Client
from vineyard_arrow.errors import (
    InvalidGraphError,
    LabelNotFoundError,
    StoreFullError,
    VertexNotFoundError,
)
from vineyard_arrow.graph import Graph, vertices

Triple = tuple[str, str, str]

# ---- graphs as lists


KEYS: dict[str, dict[str, Callable[[int], Any]]] = {
    "number": {"oid": lambda i: i * 7 - 3},
    "text": {"oid": lambda i: f"vertex {i}"},
    "pair": {"p": lambda i: i // 2, "q": lambda i: "xy"[i % 2]},
}


@dataclass
class Lists:
    """Vertices by serial number, with a property; edges between these, in the order of ids."""

    kind: str
    directed: bool
    vertices: dict[str, list[tuple[int, int | None]]]
    edges: dict[Triple, list[tuple[int, int, int | None]]]

    @property
    def key(self) -> list[str]:
        return list(KEYS[self.kind])

    def table(self, label: str) -> pa.Table:
        rows = self.vertices[label]
        types = {"number": [pa.int64()], "text": [pa.string()], "pair": [pa.int16(), pa.string()]}
        return pa.table(
            {
                **{
                    name: pa.array([of(i) for i, _ in rows], type_)
                    for (name, of), type_ in zip(
                        KEYS[self.kind].items(), types[self.kind], strict=True
                    )
                },
                "x": pa.array([x for _, x in rows], pa.int8()),
            }
        )

    def edge_table(self, edges: list[tuple[int, int, int | None]]) -> pa.Table:
        label = Lists(self.kind, True, {"ends": []}, {})
        columns: dict[str, Any] = {}
        for side, end in enumerate(("src", "dst")):
            label.vertices["ends"] = [(edge[side], None) for edge in edges]
            for name in self.key:
                columns[f"{end}_{name}"] = label.table("ends")[name]
        return pa.table({**columns, "w": pa.array([w for *_, w in edges], pa.int32())})

    @property
    def options(self) -> dict[str, Any]:
        src, dst = ([f"{end}_{name}" for name in self.key] for end in ("src", "dst"))
        return {"src": src, "dst": dst, "client": LOCAL}

    def build(self) -> Graph:
        tables = {label: self.table(label) for label in self.vertices}
        edges = {triple: self.edge_table(edges) for triple, edges in self.edges.items()}
        return Graph.from_tables(
            tables, edges, oid=self.key, directed=self.directed, **self.options
        )

    def places(self, label: str) -> dict[int, int]:
        return {serial: at for at, (serial, _) in enumerate(self.vertices[label])}

    def normal(self) -> Lists:
        """Edges sorted by the places of their ends; undirected, the lower end comes first."""
        for (src, _, dst), edges in self.edges.items():
            at, to = self.places(src), self.places(dst)
            if not self.directed:
                edges[:] = [(d, s, w) if at[s] > at[d] else (s, d, w) for s, d, w in edges]
            edges.sort(key=lambda edge: (at[edge[0]], to[edge[1]]))
        return self


def assert_is(graph: Graph, lists: Lists) -> None:
    graph.validate()
    assert list(graph._vertices) == list(lists.vertices)
    assert sorted(graph._edges) == sorted(lists.edges)
    assert graph.directed == lists.directed
    for label in lists.vertices:
        assert graph.vertices(label).equals(lists.table(label))
        count = len(lists.vertices[label])
        assert graph.num_vertices(label) == count
        oids = lists.table(label).select(lists.key)
        assert graph.ids(label, oids).to_pylist() == list(range(count))
    for triple, edges in lists.edges.items():
        a = graph.adjacency(triple)
        at, to = lists.places(triple[0]), lists.places(triple[2])
        src = np.repeat(np.arange(a.num_src), np.diff(a.out_indptr))
        if a.edge_ids is None:
            found = list(zip(src.tolist(), a.out_indices.tolist(), strict=True))
        else:
            rows = zip(a.edge_ids.tolist(), src.tolist(), a.out_indices.tolist(), strict=True)
            found = [(s, d) for _, s, d in sorted(rows) if s <= d]
        assert found == [(at[s], to[d]) for s, d, _ in edges]
        assert graph.edge_columns(triple)["w"].to_pylist() == [w for *_, w in edges]
        assert a.num_edges == len(edges) == graph.num_edges(triple)
        wide = any(graph.num_vertices(label) > vertices.WIDE_FROM for label in triple[::2])
        assert a.out_indices.dtype == a.in_indices.dtype == (np.uint64 if wide else np.uint32)


@st.composite
def graphs(draw: st.DrawFn) -> Lists:
    directed = draw(st.booleans())
    counts = {label: draw(st.integers(0, 7)) for label in "ab"}
    x = st.none() | st.integers(-3, 3)
    made = Lists(
        draw(st.sampled_from([*KEYS])),
        directed,
        {label: [(i, draw(x)) for i in range(count)] for label, count in counts.items()},
        {},
    )
    triples = [("a", "e", "a"), ("a", "e", "b"), ("b", "f", "a"), ("b", "f", "b")]
    for triple in draw(st.sets(st.sampled_from(triples))):
        if directed or triple[0] == triple[2]:
            made.edges[triple] = draw(edges_between(counts[triple[0]], counts[triple[2]]))
    return made.normal()


def edges_between(num_src: int, num_dst: int) -> Any:
    ends = [st.integers(0, max(0, num - 1)) for num in (num_src, num_dst)]
    edge = st.tuples(*ends, st.none() | st.integers(0, 99))
    return st.lists(edge, max_size=12 if num_src and num_dst else 0)


# ---- one step each, on both


def subgraph(graph: Graph, lists: Lists, data: st.DataObject) -> Graph:
    named = {}
    for label in data.draw(st.sets(st.sampled_from([*lists.vertices]))):
        rows = lists.vertices[label]
        mask = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
        lists.vertices[label] = [row for row, kept in zip(rows, mask, strict=True) if kept]
        if data.draw(st.booleans()):
            named[label] = data.draw(st.permutations(np.flatnonzero(mask).tolist()))
        else:
            named[label] = np.array(mask, bool)
    for triple, edges in lists.edges.items():
        at, to = lists.places(triple[0]), lists.places(triple[2])
        edges[:] = [(s, d, w) for s, d, w in edges if s in at and d in to]
    return graph.subgraph(named, client=LOCAL)


def sort_by(graph: Graph, lists: Lists, data: st.DataObject) -> Graph:
    label = data.draw(st.sampled_from([*lists.vertices]))
    down = data.draw(st.booleans())
    rows = lists.vertices[label]
    nulls = [row for row in rows if row[1] is None]
    others = [row for row in rows if row[1] is not None]
    others.sort(key=lambda row: -row[1] if down else row[1])  # type: ignore[operator]
    lists.vertices[label] = others + nulls
    return graph.sort_by("x", label, descending=down, client=LOCAL)


def reverse(graph: Graph, lists: Lists, data: st.DataObject) -> Graph:
    if lists.directed:
        lists.edges = {
            (dst, label, src): [(d, s, w) for s, d, w in edges]
            for (src, label, dst), edges in lists.edges.items()
        }
    return graph.reverse(client=LOCAL)


def to_undirected(graph: Graph, lists: Lists, data: st.DataObject) -> Graph:
    if any(src != dst for src, _, dst in lists.edges):
        with pytest.raises(InvalidGraphError, match="undirected edges between two labels"):
            graph.to_undirected(client=LOCAL)
        return graph
    lists.directed = False
    return graph.to_undirected(client=LOCAL)


def add_vertices(graph: Graph, lists: Lists, data: st.DataObject) -> Graph:
    label = data.draw(st.sampled_from([*lists.vertices]))
    old, more = lists.vertices[label], data.draw(st.lists(st.none() | st.integers(0, 9)))
    first = 1 + max((serial for serial, _ in old), default=-1)
    lists.vertices[label] = [(first + i, x) for i, x in enumerate(more)]
    table = lists.table(label)
    if all(x is None for x in more):
        table = table.drop_columns("x")
    lists.vertices[label] = old + lists.vertices[label]
    return graph.add_vertices(label, table, client=LOCAL)


def add_edges(graph: Graph, lists: Lists, data: st.DataObject) -> Graph:
    if not lists.edges:
        return graph
    triple = data.draw(st.sampled_from(sorted(lists.edges)))
    more = data.draw(edges_between(9, 9))
    missing = data.draw(st.sampled_from(["drop", "add"]))
    table = lists.edge_table(more)
    if all(w is None for *_, w in more):
        table = table.drop_columns("w")
    if missing == "add":
        for label in dict.fromkeys(triple[::2]):
            sides = [side for side in (0, 1) if triple[side * 2] == label]
            named = [edge[side] for side in sides for edge in more]  # type: ignore[misc]
            old = lists.places(label)
            new = [(end, None) for end in dict.fromkeys(named) if end not in old]
            lists.vertices[label] = lists.vertices[label] + new
    at, to = lists.places(triple[0]), lists.places(triple[2])
    lists.edges[triple] += [(s, d, w) for s, d, w in more if s in at and d in to]
    return graph.add_edges(triple, table, missing=missing, **lists.options)


STEPS = [subgraph, sort_by, reverse, to_undirected, add_vertices, add_edges]


@given(graphs(), st.lists(st.sampled_from(STEPS), min_size=1, max_size=3), st.data())
@examples(80)
def test_steps_are_those_of_lists(lists: Lists, steps: list[Any], data: st.DataObject) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vertices, "WIDE_FROM", data.draw(st.sampled_from([5, vertices.WIDE_FROM])))
        graph = first = lists.build()
        was = deepcopy(lists)
        for step in steps:
            graph = step(graph, lists, data)
            assert_is(graph, lists.normal())
        assert_is(first, was)  # which is as it was


@given(multigraphs(), st.data())
@examples(25)
def test_rows_that_were_kept_follow_their_edges(slow: Slow, data: st.DataObject) -> None:
    graph = fast(slow, orig_row=True)
    mask = data.draw(st.lists(st.booleans(), min_size=slow.num, max_size=slow.num))
    for made in (
        graph.reverse(client=LOCAL), graph.to_undirected(client=LOCAL),
        graph.subgraph(np.array(mask, bool), client=LOCAL),
        graph.sort_by("oid", descending=True, client=LOCAL),
    ):  # fmt: skip
        made.validate()
        assert made.orig_row() is not None
        assert made.edge_columns()["row"].to_pylist() == made.orig_row().tolist()
    ends = {"src": [], "dst": []}
    assert graph.add_edges("e", ends, client=LOCAL).orig_row() is None


@given(multigraphs(), st.data())
@examples(25)
def test_networkx_derives_the_same(slow: Slow, data: st.DataObject) -> None:
    kind: Any = nx.MultiDiGraph if slow.directed else nx.MultiGraph
    peer = kind()
    peer.add_nodes_from(range(slow.num))
    for row, pair in enumerate(slow.pairs):
        peer.add_edge(*pair, row)
    graph = fast(slow, np.arange(slow.num))
    some = data.draw(st.sets(st.integers(0, max(0, slow.num - 1)), max_size=slow.num))
    pairs = [
        (graph.subgraph(sorted(some), client=LOCAL), peer.subgraph(some)),
        (graph.reverse(client=LOCAL), peer.reverse() if slow.directed else peer),
    ]
    for made, expected in pairs:
        oids, rows = made.vertices()["oid"], made.edge_columns()["row"]
        assert oids.to_pylist() == sorted(expected)
        found = [(oids[e.src].as_py(), oids[e.dst].as_py(), rows[e.eid].as_py())
                 for e in made.edges()]  # fmt: skip
        if not slow.directed:
            found = [(min(s, d), max(s, d), row) for s, d, row in found]
        wanted = [(s, d) if slow.directed else (min(s, d), max(s, d)) for s, d, _ in expected.edges]
        wanted = [(*ends, row) for ends, (_, _, row) in zip(wanted, expected.edges, strict=True)]
        assert sorted(set(found)) == sorted(wanted)


# ---- a graph of two labels


PEOPLE = pa.table({"oid": [10, 20, 30], "name": ["Ann", "Bob", "Cy"], "age": [40, 30, None]})
CITIES = pa.table({"oid": ["x", "y"]})
KNOWS = pa.table({"src": [10, 10, 30], "dst": [20, 30, 20], "since": [2019, 2021, 2024]})
LIVES = pa.table({"src": [10, 20, 30], "dst": ["x", "y", "x"]})
K, L = ("person", "knows", "person"), ("person", "lives", "city")


def two(**options: Any) -> Graph:
    tables = {"person": PEOPLE, "city": CITIES}
    return Graph.from_tables(tables, {K: KNOWS, L: LIVES}, **{"client": LOCAL, **options})


def triples(graph: Graph) -> list[str]:
    return [each.label for each in graph.schema.edges]


def test_project_keeps_what_is_named() -> None:
    graph = two()
    assert graph.project().members() == graph.members()
    assert triples(graph.project(["person"])) == ["knows"]
    assert triples(graph.project(["person", "city"])) == ["knows", "lives"]
    assert triples(graph.project(["city"])) == []
    for name in (L, "lives"):
        made = graph.project([name])
        assert (list(made._vertices), triples(made)) == (["person", "city"], ["lives"])
    made = graph.project(["city", K])
    assert (list(made._vertices), triples(made)) == (["person", "city"], ["knows"])
    made = graph.project(properties={"person": ["age"], "knows": []})
    assert made.vertices("person").column_names == ["oid", "age"]
    assert (made.edge_columns("knows").column_names, made.num_edges("knows")) == ([], 3)
    made.validate()
    for properties in ({"person": ["name", "age"]}, {"city": []}):
        assert graph.project(properties=properties).members() == graph.members()
    with pytest.raises(LabelNotFoundError, match=r"no vertex label and no edges 'persn'.*person"):
        graph.project(["persn"])
    with pytest.raises(LabelNotFoundError, match=r"no triple"):
        graph.project([("city", "lives", "person")])
    with pytest.raises(LabelNotFoundError, match=r"'person' has no property 'size'.*it has oid"):
        graph.project(properties={"person": ["name", "size"]})
    with pytest.raises(InvalidGraphError, match="properties of 'city', which is not kept"):
        graph.project(["person"], {"city": ["oid"]})
    with pytest.raises(InvalidGraphError, match=r"use \['person'\]"):
        graph.project("person")


def test_columns_of_vertices_and_edges() -> None:
    graph = two()
    halves = pa.chunked_array([["a"], ["b", "c"]])
    made = graph.add_columns("person", {"rank": np.array([0.5, 0.3, 0.2]), "half": halves},
                             client=LOCAL)  # fmt: skip
    assert made.vertices("person").column_names == [*PEOPLE.column_names, "rank", "half"]
    assert made.vertices("person")["half"].num_chunks == 1
    assert made.ids("person", 30) == 2
    for name in (K, "knows"):
        made = made.add_columns(name, pl.DataFrame({str(name): [1, 2, 3]}), client=LOCAL)
    assert [e["knows"] for e in made.edges(K)] == [1, 2, 3]
    assert made.out_slice(0, K)[str(K)].to_pylist() == [1, 2]
    made.validate()
    assert graph.add_columns(K, {}, client=LOCAL).members() == graph.members()
    both = two().project(["person"]).to_undirected(client=LOCAL)
    both = both.add_columns(K, {"n": [1, 2, 3]}, client=LOCAL)
    assert [(e.src, e.dst, e["n"]) for e in both.edges()] == [(0, 1, 1), (0, 2, 2), (1, 2, 3)]
    assert [(e.dst, e["n"]) for e in both.out_edges(2)] == [(0, 2), (1, 3)]
    assert both.edge_columns()["since"].to_pylist() == [2019, 2021, 2024]


@pytest.mark.parametrize(
    ("part", "columns", "message"),
    [
        ("person", {"n": [1, 2]}, "2 values for the 3 vertices of 'person'"),
        ("lives", {"n": [1, 2, 3, 4]}, "4 values for the 3 edges of 'lives'"),
        ("person", {"n": []}, "0 values for the 3 vertices"),
        ("person", {"n": [1, 2, 3], "m": [1]}, "columns for 'person': .*3.*1"),
        ("person", {"n": 5}, "columns for 'person'"),
        ("person", [1, 2, 3], "a list has no Arrow columns"),
        ("person", {"name": [1, 2, 3]}, "vertices of 'person' have a property 'name' already"),
        ("person", {"oid": [1, 2, 3]}, r"property 'oid' already.*project\(properties=\.\.\.\)"),
        ("knows", {"since": [1, 2, 3]}, "edges of 'knows' have a property 'since' already"),
    ],
)
def test_bad_columns(part: str, columns: Any, message: str) -> None:
    with pytest.raises(InvalidGraphError, match=message):
        two().add_columns(part, columns, client=LOCAL)
    with pytest.raises(LabelNotFoundError):
        two().add_columns("nobody", columns, client=LOCAL)


def test_bad_vertices() -> None:
    graph = two()

    def add(table: Any, label: str = "person") -> Graph:
        return graph.add_vertices(label, table, client=LOCAL)

    for table, message in (
        ({"oid": [40, 20, 10]}, r"2 of the oids are in 'person' already: 20 \(row 1\), 10"),
        ({"oid": [40, 50, 40]}, r"1 duplicate oids in 'person': 40 \(row 2\)"),
        ({"oid": [40, None]}, r"1 oids of 'person' are null"),
        ({"oid": [40], "age": ["old"]}, "'age' of the vertices of 'person' is int64, not string"),
        ({"oid": ["a"]}, "'oid' of the vertices of 'person' is int64, not string"),
        (5, "int has no Arrow columns"),
    ):
        with pytest.raises(InvalidGraphError, match=message):
            add(table)
    with pytest.raises(LabelNotFoundError, match="new vertices of 'person' have no column 'oid'"):
        add({"id": [40]})
    with pytest.raises(LabelNotFoundError, match=r"no property 'size'.*add_columns"):
        add({"oid": [40], "size": [1]})
    with pytest.raises(LabelNotFoundError, match="no vertex label 'persons'"):
        add({"oid": [40]}, "persons")
    assert add({"oid": pa.array([], pa.int64())}).members() == graph.members()
    coded = pa.array(["z", "w"]).dictionary_encode()
    made = add({"oid": coded}, "city")
    assert made.vertices("city")["oid"].to_pylist() == ["x", "y", "z", "w"]
    assert made.ids("city", "w") == 3


def test_bad_edges() -> None:
    graph = two()

    def add(table: Any, triple: Any = K, **options: Any) -> Graph:
        return graph.add_edges(triple, table, client=LOCAL, **options)

    for table, message in (
        ({"src": [10], "dst": [99]}, r"'dst' of .* 1 times: 99 \(row 0\).*missing="),
        ({"src": [10], "dst": [None]}, r"null 1 times"),
        ({"src": [10], "dst": ["a"]}, "is string, but 'oid'"),
        ({"src": [10], "dst": [10], "since": ["a"]}, "'since' of the edges person-knows-person is"),
    ):
        with pytest.raises(InvalidGraphError, match=message):
            add(table)
    with pytest.raises(LabelNotFoundError, match=r"no property 'w'.*they have since"):
        add({"src": [10], "dst": [10], "w": [1]})
    with pytest.raises(LabelNotFoundError, match="no column 'dst'"):
        add({"src": [10]})
    with pytest.raises(LabelNotFoundError, match="no triple 'know'"):
        add(KNOWS, "know")
    with pytest.raises(InvalidGraphError, match="'ignore' is not one of"):
        add(KNOWS, missing="ignore")
    made = add({"a": [40], "dst": [10], "since": pa.array([1], pa.int8())}, src="a", missing="add")
    assert made.vertices("person")["oid"].to_pylist() == [10, 20, 30, 40]
    assert [(e.src, e.dst, e["since"]) for e in made.out_edges(3, K)] == [(3, 0, 1)]
    assert made.degree(3, L) == 0
    made.validate()


def test_labels_and_triples_are_added() -> None:
    graph = two()
    made = graph.add_label(
        {"land": {"id": [1, 2]}},
        {("city", "in", "land"): {"a": ["x"], "b": [2], "w": [0.5]},
         ("person", "likes", "person"): {"a": [10], "b": [30]}},
        oid="id", src="a", dst="b", client=LOCAL,
    )  # fmt: skip
    assert triples(made) == ["knows", "lives", "in", "likes"]
    assert [(e.src, e.dst, e["w"]) for e in made.edges("in")] == [(0, 1, 0.5)]
    assert [(e.src, e.dst) for e in made.edges("likes")] == [(0, 2)]
    made.validate()
    old = graph.members()
    assert {n for n, each in made.members().items() if each is old.get(n)} == {*old}
    made = graph.add_label(
        edges={("city", "in", "land"): {"src": ["x", "z"], "dst": [7, 7]}},
        missing="add", client=LOCAL,
    )  # fmt: skip
    made.validate()
    assert made.vertices("city")["oid"].to_pylist() == ["x", "y", "z"]
    assert made.vertices("land").to_pydict() == {"oid": [7]}
    assert made.in_slice(2, L).neighbors.tolist() == []
    assert graph.add_label(client=LOCAL).members() == old
    with pytest.raises(InvalidGraphError, match=r"a label 'city' already.*add_vertices"):
        graph.add_label({"city": CITIES}, client=LOCAL)
    with pytest.raises(InvalidGraphError, match=r"a triple .*knows.* already.*add_edges"):
        graph.add_label(edges={K: KNOWS}, client=LOCAL)
    with pytest.raises(LabelNotFoundError, match="vertices of 'land', for which there is no table"):
        graph.add_label(edges={("city", "in", "land"): LIVES}, client=LOCAL)
    with pytest.raises(InvalidGraphError, match="'a/b' is no label"):
        graph.add_label({"a/b": CITIES}, client=LOCAL)


def test_what_selects_vertices() -> None:
    graph = two()
    for chosen in (
        [2, 0], [0, 2, 2], np.array([2, 0], np.uint8), pa.array([0, 2]), pa.chunked_array([[2, 0]]),
        [True, False, True], pa.array([True, None, True]), pl.Series([True, False, True]),
        pa.chunked_array([[True], [None, True]]), pl.Series([2, 0]),
    ):  # fmt: skip
        made = graph.subgraph({"person": chosen}, client=LOCAL)
        assert made.vertices("person")["name"].to_pylist() == ["Ann", "Cy"]
        assert [(e.src, e.dst, e["since"]) for e in made.edges(K)] == [(0, 1, 2021)]
        assert [(e.src, e.dst) for e in made.edges(L)] == [(0, 0), (1, 0)]
        made.validate()
    assert graph.subgraph({"person": [True] * 3, "city": [1, 0]}).members() == graph.members()
    assert graph.subgraph({}).members() == graph.members()
    for chosen, message in (
        ([True], r"mask of shape \(1,\) for the 3 vertices of 'person'"),
        ([[True] * 3], "mask of shape"),
        ([0.5], "dtype float64"),
        (["a"], "dtype <U1"),
        (pa.array([1, None]), "1 of the vertex ids are null"),
    ):
        with pytest.raises(InvalidGraphError, match=message):
            graph.subgraph({"person": chosen}, client=LOCAL)
    for chosen, message in (
        ([0, 3], r"no vertex 3 in 'person', which has 3 \(1 of 2 ids"),
        ([-1], "no vertex -1"),
        (np.array([2**63], np.uint64), "no vertex"),
    ):
        with pytest.raises(VertexNotFoundError, match=message):
            graph.subgraph({"person": chosen}, client=LOCAL)
    with pytest.raises(LabelNotFoundError, match="2 vertex labels, none was named"):
        graph.subgraph([0], client=LOCAL)
    with pytest.raises(LabelNotFoundError, match="no vertex label 'dog'"):
        graph.subgraph({"dog": [0]}, client=LOCAL)


def test_what_vertices_are_sorted_by() -> None:
    names = pa.array(["c", "a", None, "b"])
    table = pa.table(
        {
            "oid": [1, 2, 3, 4],
            "text": names,
            "views": names.cast(pa.string_view()),
            "code": names.dictionary_encode(),
            "number": [3.0, 1.0, float("nan"), 2.0],
            "list": [[1]] * 4,
        }
    )
    graph = Graph.from_tables({"v": table}, {}, client=LOCAL)
    for name in ("text", "views", "code", "number"):
        made = graph.sort_by(name, client=LOCAL)
        assert made.vertices()["oid"].to_pylist() == [2, 4, 1, 3], name
        made = graph.sort_by(name, descending=True, client=LOCAL)
        assert made.vertices()["oid"].to_pylist() == [1, 4, 2, 3], name
        assert made.vertices().schema == table.schema
    with pytest.raises(InvalidGraphError, match="'list' is list"):
        graph.sort_by("list", client=LOCAL)
    with pytest.raises(LabelNotFoundError, match="'v' has no property 'size'"):
        graph.sort_by("size", client=LOCAL)
    with pytest.raises(LabelNotFoundError, match="2 vertex labels"):
        two().sort_by("name", client=LOCAL)


def test_properties_of_every_kind_follow() -> None:
    values = {
        "text": pa.array(["a", None, "b"]),
        "views": pa.array(["a", None, "b" * 20], pa.string_view()),
        "list": pa.array([[1], None, [2, 3]]),
        "code": pa.array(["u", "v", None]).dictionary_encode(),
        "uuid": pa.array([bytes([i] * 16) for i in range(3)], pa.uuid()),
        "bit": pa.array([True, None, False]),
        "null": pa.nulls(3),
    }
    graph = Graph.from_tables(
        {"v": pa.table({"oid": [1, 2, 3], **values})},
        {("v", "e", "v"): pa.table({"src": [3, 2, 1], "dst": [1, 1, 3], **values})},
        client=LOCAL,
    )
    more = graph.add_vertices("v", {"oid": [0]}, client=LOCAL)
    more = more.add_edges("e", {"src": [0], "dst": [0]}, client=LOCAL).sort_by("oid", client=LOCAL)
    more = more.reverse(client=LOCAL).to_undirected(client=LOCAL)
    more.validate()
    back = more.subgraph({"v": [1, 2, 3]}, client=LOCAL)
    for name, array in values.items():
        wanted = array.to_pylist()
        assert more.vertices()[name].to_pylist() == [None, *wanted], name
        assert back.vertices()[name].to_pylist() == wanted, name
        # By ends: 1-2 is the second row, 1-3 are the others, those out of 1 first.
        row = more.edge_columns()[name]
        assert row.type == array.type
        assert sorted(map(repr, row.to_pylist())) == sorted(map(repr, [None, *wanted])), name
        assert back.edge_columns()[name].to_pylist()[0] == wanted[1], name


def test_empty_graphs(client: Client) -> None:
    nothing = {"src": pa.array([], pa.int64()), "dst": pa.array([], pa.int64())}
    for directed in (True, False):
        empty = Graph.from_edges(nothing, client=client, directed=directed)
        for graph in (empty, client.get(client.put(empty))):
            for made in (
                graph.reverse(), graph.to_undirected(), graph.subgraph([]), graph.project(),
                graph.sort_by("oid"), graph.add_edges("edge", nothing),
                graph.add_columns("edge", {"w": []}), graph.subgraph(np.empty(0, bool)),
            ):  # fmt: skip
                made.validate()
                assert (made.num_vertices(), made.num_edges()) == (0, 0)
            made = graph.add_edges("edge", {"src": [1], "dst": [2]}, missing="add", client=client)
            assert [(e.src, e.dst) for e in made.edges()] == [(0, 1)]
            made = graph.add_vertices("vertex", {"oid": [5]}, client=client)
            assert made.ids(None, 5) == 0
            made.validate()
    graph = Graph.from_tables({}, {}, client=client).add_label({"v": {"oid": [1]}}, client=client)
    assert graph.num_vertices("v") == 1
    assert Graph({}, {}).reverse(client=client).members() == {}


# ---- in a store


NUM, COUNT = 30_000, 100_000  # every index array is larger than what a put gathers
E, F = ("v", "e", "v"), ("v", "f", "u")
E_ROWS = {f"v/e/v/{name}" for name in ("out.indptr", "out.indices")}
E_ALL = E_ROWS | {
    f"v/e/v/{name}" for name in ("in.indptr", "in.indices", "in.edge_ids", "columns/w")
}
F_ALL = {name.replace("v/e/v", "v/f/u") for name in E_ALL}
V_ALL = {"v/vertices", "v/oids/keys", "v/oids/ids"}


def large(client: Client) -> Graph:
    """A graph as a store gives it."""
    rng = np.random.default_rng(0)
    tables = {
        label: pa.table({"oid": np.arange(NUM) * 11, "x": rng.random(NUM)}) for label in ("v", "u")
    }
    edges = {}
    for triple in (E, F):
        src, dst = rng.integers(0, NUM, (2, COUNT)) * 11
        edges[triple] = pa.table({"src": src, "dst": dst, "w": rng.random(COUNT)})
    return client.get(client.put(Graph.from_tables(tables, edges, client=client)))


Make = Callable[[Graph, Any], Graph]
CASES: dict[str, tuple[Make, set[str]]] = {
    "project": (lambda g, _: g.project(["v"], {E: []}), set()),
    "project columns": (lambda g, _: g.project(properties={"v": []}), {"v/vertices"}),
    "vertex columns": (lambda g, c: g.add_columns("v", {"y": g.vertices("v")["x"]}, client=c),
                       {"v/vertices"}),
    "edge columns": (lambda g, c: g.add_columns(E, {"y": np.arange(COUNT)}, client=c),
                     {"v/e/v/columns/y"}),
    "vertices": (lambda g, c: g.add_vertices("u", {"oid": [-1]}, client=c),
                 {"u/vertices", "u/oids/keys", "u/oids/ids", "v/f/u/in.indptr"}),
    "edges": (lambda g, c: g.add_edges(E, {"src": [0], "dst": [11]}, client=c), E_ALL),
    "edges and vertices": (
        lambda g, c: g.add_edges(E, {"src": [0], "dst": [-1]}, missing="add", client=c),
        E_ALL | V_ALL | {"v/f/u/out.indptr"},
    ),
    "label": (lambda g, c: g.add_label(edges={("u", "e", "v"): {"src": [0], "dst": [0]}}, client=c),
              {name.replace("v/e/v", "u/e/v") for name in E_ALL if "columns" not in name}),
    "subgraph": (lambda g, c: g.subgraph({"u": np.arange(NUM - 1)}, client=c),
                 F_ALL | {"u/vertices", "u/oids/keys", "u/oids/ids"}),
    "sorted": (lambda g, c: g.sort_by("x", "v", client=c), E_ALL | F_ALL | V_ALL),
    "reversed": (lambda g, c: g.project(["v"]).reverse(client=c),
                 {"v/e/v/in.edge_ids", "v/e/v/columns/w"}),
    "undirected": (lambda g, c: g.project(["v"]).to_undirected(client=c),
                   E_ROWS | {"v/e/v/out.edge_ids", "v/e/v/columns/w"}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_put_copies_only_what_is_new(client: Client, case: str) -> None:
    make, new = CASES[case]
    graph = large(client)
    old = {oid for _, oid in graph._stored.values()}
    made = make(graph, client)
    members = client.get_meta(client.put(made)).members
    assert {name for name, member in members.items() if member.id not in old} == new
    gathered = {"edge columns": COUNT * 8}.get(case, 0)  # that one lay outside
    big = [client.get_meta(members[name].id) for name in new if "u/e/v" not in name]
    assert sum(meta.copied for meta in big) == gathered
    again = client.get_meta(client.put(made)).members
    assert {name: member.id for name, member in again.items()} == {
        name: member.id for name, member in members.items()
    }
    got = client.get(client.put(made))
    got.validate()
    assert got.schema == made.schema


def test_a_reverse_swaps_the_rows(client: Client) -> None:
    graph = large(client).project([E])
    made = graph.reverse(client=client)
    old, new = graph.arrow(), made.arrow()
    for name in ("indptr", "indices"):
        assert new[f"out.{name}"] is old[f"in.{name}"]
        assert new[f"in.{name}"] is old[f"out.{name}"]
    again = made.reverse(client=client)
    assert again.arrow()["in.edge_ids"].equals(old["in.edge_ids"])
    assert again.edge_columns().equals(graph.edge_columns())


def test_derived_graphs_outlive_their_parent(client: Client) -> None:
    oid = client.put(large(client).sort_by("x", "v", client=client))
    for each in client.list_objects("vineyard.graph"):
        if each.id != oid:
            client.delete(each.id)
    client.get(oid).validate()
    assert len(client.list_objects("vineyard.graph")) == 1


def test_a_store_that_is_too_small(make_daemon: Any) -> None:
    daemon = make_daemon("--memory-limit", "16MiB")
    ends = np.arange(1_500_000) % 1000
    edges = {("v", "e", "v"): {"src": ends, "dst": ends[::-1]}}
    graph = Graph.from_tables({"v": {"oid": np.arange(1000)}}, edges, client=LOCAL)
    with daemon.connect() as small:
        for make in (
            lambda: graph.to_undirected(client=small),
            lambda: graph.add_edges("e", {"src": [1], "dst": [1]}, client=small),
        ):
            with pytest.raises(StoreFullError, match="no room for"):
                make()
        assert small.status().objects == 0


def test_texts_are_not_read_as_numbers() -> None:
    graph = Graph.from_tables(
        {"v": {"oid": [1]}},
        {("v", "e", "v"): {"src": [1], "dst": [1], "t": ["a"]}},
        client=LOCAL,
    )
    with pytest.raises(
        InvalidGraphError, match="'oid' of the vertices of 'v' is int64, not string"
    ):
        graph.add_vertices("v", {"oid": ["2"]}, client=LOCAL)
    with pytest.raises(InvalidGraphError, match="'t' of the edges v-e-v is string, not int64"):
        graph.add_edges("e", {"src": [1], "dst": [1], "t": [5]}, client=LOCAL)


def test_rows_that_make_no_array() -> None:
    graph = Graph.from_tables({"v": {"oid": [1]}}, {}, client=LOCAL)
    with pytest.raises(InvalidGraphError, match="make no array"):
        graph.subgraph([[0], [0, 0]], client=LOCAL)
    with pytest.raises(InvalidGraphError, match="columns for 'v'"):
        graph.add_columns("v", {"x": [2**70]}, client=LOCAL)
