"""Graphs from tables: against a graph of dictionaries, with every kind of id, and bad input."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from graph_oracle import LOCAL, Slow, assert_same, examples, fast, multigraphs
from hypothesis import given
from hypothesis import strategies as st

from vineyard_arrow.errors import (
    InvalidGraphError,
    LabelNotFoundError,
    PathNotFoundError,
    StoreFullError,
)
from vineyard_arrow.graph import Graph, arrays, vertices

PEOPLE = pa.table({"oid": [10, 20, 30], "name": ["Ann", "Bob", "Cy"]})
KNOWS = pa.table({"src": [10, 30, 10, 20], "dst": [20, 10, 20, 20], "since": [1, 2, 3, 4]})
TRIPLE = ("person", "knows", "person")


def people(edges: Any = KNOWS, table: Any = PEOPLE, **options: Any) -> Graph:
    return Graph.from_tables({"person": table}, {TRIPLE: edges}, client=LOCAL, **options)


# ---- the arrays


@given(multigraphs())
@examples(60)
def test_rows_are_those_of_the_oracle(slow: Slow) -> None:
    assert_same(fast(slow), slow)


@given(multigraphs(), st.integers(1, 3))
@examples(50)
def test_rows_with_wide_ids(slow: Slow, threads: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vertices, "WIDE_FROM", 5)
        graph = fast(slow, threads=threads)
        wide, a = np.dtype(np.uint64), graph.adjacency()
        assert (a.out_indices.dtype == wide) == (slow.num > 5)
        assert (a.in_edge_ids.dtype == wide) == (len(slow.pairs) > 5)
        assert_same(graph, slow)


def test_many_keys_are_added_in_the_order_of_the_edges() -> None:
    a, b = np.random.default_rng(2).integers(0, 300, (2, 100_000))
    edges = pa.table({"a": a, "b": b, "c": b, "d": a})
    graph = Graph.from_edges(edges, oid=("x", "y"), src=("a", "b"), dst=("c", "d"), client=LOCAL)
    wanted = dict.fromkeys(
        [*zip(a.tolist(), b.tolist(), strict=True), *zip(b.tolist(), a.tolist(), strict=True)]
    )
    found = graph.vertices()
    assert list(zip(found["x"].to_pylist(), found["y"].to_pylist(), strict=True)) == [*wanted]


@pytest.mark.parametrize(("directed", "threads"), [(True, 1), (False, 2), (True, 3)])
def test_many_edges_on_several_threads(directed: bool, threads: int) -> None:
    """Enough for all buckets, radix passes and threads; the oracle is NumPy's stable sort."""
    rng = np.random.default_rng(1)
    num, count = 50_000, 300_000
    src, dst = (num * rng.random((2, count)) ** 3).astype(np.int64)
    graph = Graph.from_tables(
        {"v": {"oid": np.arange(num)}},
        {("v", "e", "v"): {"src": src, "dst": dst, "row": np.arange(count)}},
        client=LOCAL,
        directed=directed,
        threads=threads,
        orig_row=True,
    )
    a = graph.adjacency()
    if not directed:
        src, dst = np.minimum(src, dst), np.maximum(src, dst)
    rows = np.lexsort((dst, src))
    assert (a.columns["row"].to_numpy() == rows).all()
    assert (graph.orig_row() == rows).all()
    src, dst = src[rows], dst[rows]
    ids = np.arange(count)
    if not directed:
        both = src != dst
        src, dst = np.append(src, dst[both]), np.append(dst, src[both])
        ids = np.append(ids, ids[both])
    order = np.lexsort((ids, dst, src))
    assert (a.out_indices == dst[order]).all()
    assert (np.diff(a.out_indptr) == np.bincount(src, minlength=num)).all()
    order = np.lexsort((ids, src, dst))
    assert (a.in_indices == src[order]).all()
    assert (a.in_edge_ids == ids[order]).all()
    graph.validate()


def test_ids_that_do_not_fit_one_word_with_their_row() -> None:
    """Past 64 bits for row, column and position together, edges are sorted as wider items."""
    num = vertices.MAX_VERTICES
    from vineyard_arrow.graph import _kernels

    rng = np.random.default_rng(2)
    src = rng.integers(0, 1000, 5000).astype(np.uint64)
    dst = rng.integers(0, num, 5000).astype(np.uint64)
    indptr, indices = np.empty(1001, np.int64), np.empty(5000, np.uint64)
    rows = np.empty(5000, np.uint32)
    assert _kernels.build_csr(src, dst, indptr, indices, rows, num, 2) == 5000
    order = np.lexsort((dst, src))
    assert (rows == order).all()
    assert (indices == dst[order]).all()
    # And one row holds it all: a single bucket, of many passes.
    assert _kernels.build_csr(src * 0, dst, indptr[:2], indices, rows, num, 2) == 5000
    assert (rows == np.argsort(dst, kind="stable")).all()


def test_ten_million_parallel_edges() -> None:
    """A build that is quadratic in them does not end."""
    count = 10_000_000
    ends = {"src": np.full(count, 7), "dst": np.full(count, 9)}
    graph = Graph.from_tables({"v": {"oid": [7, 9]}}, {("v", "e", "v"): ends}, client=LOCAL)
    assert graph.degree(0) == graph.degree(1, direction="in") == graph.num_edges() == count
    assert (graph.adjacency().in_edge_ids[-3:] == np.arange(count - 3, count)).all()


def test_empty_graphs() -> None:
    nothing = pa.table({"src": [], "dst": []})
    graph = Graph.from_tables({}, {}, client=LOCAL)
    assert (graph.num_vertices(), graph.num_edges(), graph.schema.edges) == (0, 0, ())
    with pytest.raises(LabelNotFoundError, match="no edges"):
        graph.edges()
    for table in ({"oid": []}, {"oid": pa.array([], pa.string())}, {"oid": [1]}):
        graph = people(nothing, pa.table(table))
        assert list(graph.edges()) == []
        assert graph.adjacency().out_indptr.tolist() == [0] * (1 + graph.num_vertices())
        graph.validate()
    graph = people(nothing, PEOPLE, directed=False)
    assert graph.degree(2) == 0
    graph.validate()
    graph = Graph.from_edges(nothing, client=LOCAL)
    assert graph.num_vertices() == 0


def test_a_single_vertex() -> None:
    for directed in (True, False):
        graph = people({"src": [5, 5], "dst": [5, 5]}, {"oid": [5]}, directed=directed)
        assert [(e.src, e.dst, e.eid) for e in graph.edges()] == [(0, 0, 0), (0, 0, 1)]
        assert graph.degree(0) == 2


# ---- original ids


OIDS: dict[str, pa.Array] = {
    **{
        str(type_): pa.array([3, 1, 2, 100, 7], type_)
        for type_ in (
            pa.int8(), pa.int16(), pa.int32(), pa.int64(),
            pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64(),
        )
    },
    "extremes": pa.array([0, -1, 2**63 - 1, -(2**63), 1], pa.int64()),
    "unsigned": pa.array([0, 2**64 - 1, 2**63, 2**63 - 1, 1], pa.uint64()),
    **{
        str(type_): pa.array(["", "a", "long enough to leave a view", "é", "a\0"], type_)
        for type_ in (pa.string(), pa.large_string(), pa.string_view())
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", OIDS)
def test_oids_of_every_type(kind: str) -> None:
    oids = OIDS[kind]
    slow = Slow(5, [(0, 1), (4, 2), (3, 3), (2, 1), (1, 2), (0, 1)])
    plain = oids.cast(pa.large_string()) if kind == "string_view" else oids
    graph = fast(slow, plain)
    assert_same(graph, slow)
    for given_ in (oids, oids[1:], pa.chunked_array([oids[:2], oids[2:]])):
        expected = list(range(5))[5 - len(given_) :]
        assert graph.ids("v", given_).to_pylist() == expected
    assert graph.ids("v", oids[3].as_py()) == 3
    assert (
        graph.oids("v", [4, 0, 0]).to_pylist() == oids.take([4, 0, 0]).to_pylist()
        if kind != "string_view"
        else True
    )
    # Vertices of that very type, of a slice, in chunks, and with a dictionary.
    chunks = pa.chunked_array([oids.slice(0, 3), oids.slice(3, 2)])
    edges = {"src": chunks, "dst": chunks}
    for table in (pa.table({"oid": oids}), pa.table({"oid": chunks})):
        graph = people(edges, table)
        assert [(e.src, e.dst) for e in graph.edges()] == [(i, i) for i in range(5)]
        graph.validate()
    if kind != "string_view":
        coded = pa.chunked_array([oids.dictionary_encode()])
        graph = people({"src": coded, "dst": chunks}, pa.table({"oid": coded}))
        assert graph.ids(None, coded).to_pylist() == list(range(5))
        assert graph.oids(None, 2) == oids[2].as_py()


def test_integers_of_equal_bits_are_not_equal() -> None:
    signed, unsigned = pa.array([-1, 5], pa.int64()), pa.array([2**64 - 1, 5], pa.uint64())
    graph = people({"src": [5], "dst": [5]}, {"oid": unsigned})
    assert graph.ids(None, signed, unknown="null").to_pylist() == [None, 1]
    graph = people({"src": [5], "dst": [5]}, {"oid": signed})
    assert graph.ids(None, unsigned, unknown="null").to_pylist() == [None, 1]


def test_several_columns_make_one_oid() -> None:
    flights = pa.table({"carrier": ["A", "A", "B"], "number": pa.array([1, 2, 1], pa.int16())})
    edges = pa.table(
        {"c": ["A", "B"], "n": [2, 1], "to_c": ["B", "A"], "to_n": [1, 1], "w": [5, 6]}
    )
    options: dict[str, Any] = {
        "oid": ["carrier", "number"], "src": ["c", "n"], "dst": ["to_c", "to_n"], "client": LOCAL,
    }  # fmt: skip
    graph = Graph.from_tables({"f": flights}, {("f", "next", "f"): edges}, **options)
    assert [(e.src, e.dst, e["w"]) for e in graph.edges()] == [(1, 2, 5), (2, 0, 6)]
    assert graph.ids("f", ("B", 1)) == 2
    assert graph.ids("f", [("A", 2), ("A", 1)]).to_pylist() == [1, 0]
    assert graph.ids("f", flights).to_pylist() == [0, 1, 2]
    assert graph.oids("f", 1) == ("A", 2)
    assert graph.oids("f", [2, 0]).to_pydict() == {"carrier": ["B", "A"], "number": [1, 1]}
    graph.validate()
    more = pa.concat_tables([edges, edges.set_column(1, "n", [[9, 9]])])
    grown = Graph.from_tables({"f": flights}, {("f", "next", "f"): more}, missing="add", **options)
    assert grown.vertices().to_pylist()[3:] == [
        {"carrier": "A", "number": 9}, {"carrier": "B", "number": 9},
    ]  # fmt: skip
    with pytest.raises(InvalidGraphError, match="2 columns"):
        Graph.from_tables(
            {"f": flights.select(["carrier"]).slice(1)},
            {("f", "next", "f"): edges},
            **{**options, "oid": "carrier"},
        )


@given(st.lists(st.integers(-(2**63), 2**63 - 1), unique=True, max_size=200), st.data())
@examples(60)
def test_integers_are_found_and_others_not(oids: list[int], data: st.DataObject) -> None:
    graph = people({"src": [], "dst": []}, {"oid": pa.array(oids, pa.int64())})
    others = data.draw(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20))
    place = {oid: i for i, oid in enumerate(oids)}
    asked = pa.array(oids + others, pa.int64())
    found = graph.ids(None, asked, unknown="null").to_pylist()
    assert found == [place.get(oid) for oid in oids + others]


@given(st.lists(st.text(max_size=20), unique=True, max_size=70), st.lists(st.text(), max_size=9))
@examples(30)
def test_texts_are_found_and_others_not(oids: list[str], others: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vertices, "WIDE_FROM", 50)  # slots with 40 bits for the id
        graph = people({"src": [], "dst": []}, {"oid": pa.array(oids, pa.string())})
    place = {oid: i for i, oid in enumerate(oids)}
    for type_ in (pa.string(), pa.large_string(), pa.string_view()):
        found = graph.ids(None, pa.array(oids + others, type_), unknown="null").to_pylist()
        assert found == [place.get(oid) for oid in oids + others]


# ---- where tables come from


def sources(folder: Path) -> Iterator[tuple[str, Any]]:
    yield "table", KNOWS
    yield "chunks", pa.concat_tables([KNOWS.slice(0, 1), KNOWS.slice(1)])
    yield "batch", KNOWS.to_batches()[0]
    yield "reader", KNOWS.to_reader(max_chunksize=1)
    yield "polars", pl.from_arrow(KNOWS)
    yield "lazy", pl.from_arrow(KNOWS).lazy()
    yield "pandas", KNOWS.to_pandas()
    yield "duckdb", duckdb.from_arrow(KNOWS)
    pq.write_table(KNOWS, folder / "knows.parquet")
    yield "path", folder / "knows.parquet"
    yield "text of a path", str(folder / "knows.parquet")
    yield "columns", KNOWS.to_pydict()


def test_anything_with_columns(tmp_path: Path) -> None:
    expected = [(0, 1, 1), (0, 1, 3), (1, 1, 4), (2, 0, 2)]
    for what, source in sources(tmp_path):
        graph = people(source, pl.from_arrow(PEOPLE))
        assert [(e.src, e.dst, e["since"]) for e in graph.edges()] == expected, what
    with pytest.raises(InvalidGraphError, match="int has no Arrow columns"):
        people(5)


def test_properties_of_every_type_follow_their_edges() -> None:
    count = 300
    rng = np.random.default_rng(0)
    values: dict[str, Any] = {
        "i8": pa.array(rng.integers(-99, 99, count), pa.int8()),
        "u16": pa.array(rng.integers(0, 99, count), pa.uint16()),
        "f4": pa.array(rng.random(count), pa.float32()),
        "null": pa.nulls(count),
        "holes": pa.array([None if i % 3 else i for i in range(count)], pa.int32()),
        "bit": pa.array([None if i % 7 == 0 else i % 2 == 0 for i in range(count)]),
        "text": pa.array([None if i % 5 == 0 else "x" * (i % 30) for i in range(count)]),
        "views": pa.array(["x" * (i % 30) for i in range(count)], pa.string_view()),
        "views with holes": pa.array([None, "x" * 40, "y"] * 100, pa.string_view()),
        "time": pa.array(rng.integers(0, 10**9, count), pa.timestamp("us", "UTC")),
        "money": pa.array(list(range(count)), pa.int64()).cast(pa.decimal128(25, 2)),
        "fixed": pa.array([b"%05d" % i for i in range(count)], pa.binary(5)),
        "list": pa.array([[i] * (i % 3) for i in range(count)]),
        "struct": pa.array([{"a": i, "b": str(i)} for i in range(count)]),
        "code": pa.array([f"c{i % 4}" for i in range(count)]).dictionary_encode(),
    }
    halves = {
        name: pa.chunked_array([array.slice(0, 100), array.slice(100)])
        for name, array in values.items()
    }
    order = rng.permutation(count)
    ends = {"src": pa.array(order), "dst": pa.array(order)}
    for columns in (values, halves):
        graph = people({**ends, **columns}, {"oid": np.arange(count)})
        rows = np.argsort(order)
        for name, array in values.items():
            expected = [array[i].as_py() for i in rows]
            assert graph.edge_columns()[name].to_pylist() == expected, name
            assert graph.edge_columns().schema.field(name).type == array.type
            assert [e[name] for e in graph.edges()] == expected, name


def test_from_edges_makes_the_vertices() -> None:
    edges = pa.table({"a": ["x", "z", "x"], "b": ["y", "x", "w"], "n": [1, 2, 3]})
    graph = Graph.from_edges(edges, src="a", dst="b", client=LOCAL)
    assert graph.vertices().to_pydict() == {"oid": ["x", "z", "y", "w"]}
    assert [(e.src, e.dst, e["n"]) for e in graph.edges()] == [(0, 2, 1), (0, 3, 3), (1, 0, 2)]
    views = pl.DataFrame({"src": ["x"], "dst": ["y"]})
    assert Graph.from_edges(views, client=LOCAL).ids(None, "y") == 1


# ---- ends that are not there


def test_missing_ends_by_policy() -> None:
    edges = pa.table({"src": [10, 99, 10], "dst": [20, 10, 98], "since": [1, 2, 3]})
    with pytest.raises(InvalidGraphError, match=r"'src' of .* 1 times: 99 \(row 1\).*missing="):
        people(edges)
    dropped = people(edges, missing="drop", orig_row=True)
    assert [(e.src, e.dst, e["since"]) for e in dropped.edges()] == [(0, 1, 1)]
    assert dropped.orig_row().tolist() == [0]
    added = people(edges, missing="add")
    assert added.vertices()["oid"].to_pylist() == [10, 20, 30, 99, 98]
    assert added.vertices()["name"].to_pylist() == ["Ann", "Bob", "Cy", None, None]
    assert [(e.src, e.dst) for e in added.edges()] == [(0, 1), (0, 4), (3, 0)]
    both = people(edges, missing="drop", directed=False)
    assert [(e.src, e.dst) for e in both.edges()] == [(0, 1)]
    with pytest.raises(InvalidGraphError, match="'ignore' is not one of"):
        people(edges, missing="ignore")


def test_null_ends() -> None:
    edges = pa.table({"src": [10, None, 10], "dst": [20, 20, 30]})
    for missing in ("error", "add"):
        with pytest.raises(InvalidGraphError, match=r"'src' .* null 1 times, first in rows \[1\]"):
            people(edges, missing=missing)
    assert people(edges, missing="drop").num_edges() == 2
    coded = edges.set_column(0, "src", edges["src"].dictionary_encode())
    assert people(coded, missing="drop").num_edges() == 2


@given(multigraphs(directed=True), st.data())
@examples(50)
def test_dropping_is_building_without_them(slow: Slow, data: st.DataObject) -> None:
    lost = data.draw(st.sets(st.integers(0, max(0, slow.num - 1))))
    kept = [v for v in range(slow.num) if v not in lost]
    ids = {v: i for i, v in enumerate(kept)}
    pairs = [(ids[s], ids[d]) for s, d in slow.pairs if s in ids and d in ids]
    edges = {side: [pair[i] for pair in slow.pairs] for i, side in enumerate(("src", "dst"))}
    table = pa.table({name: pa.array(ends, pa.int64()) for name, ends in edges.items()})
    graph = Graph.from_tables(
        {"v": {"oid": pa.array(kept, pa.int64())}}, {("v", "e", "v"): table},
        client=LOCAL, missing="drop",
    )  # fmt: skip
    assert_same(graph, Slow(len(kept), pairs))


# ---- bad input


def test_bad_oids() -> None:
    with pytest.raises(InvalidGraphError, match=r"2 duplicate oids in 'person': 1 \(row 2\)"):
        people(KNOWS, {"oid": [1, 2, 1, 2]})
    with pytest.raises(InvalidGraphError, match=r"duplicate oids .*'a' \(row 1\)"):
        people(KNOWS, {"oid": ["a", "a"]})
    with pytest.raises(InvalidGraphError, match=r"1 oids of 'person' are null .*rows \[1\]"):
        people(KNOWS, {"oid": [1, None]})
    with pytest.raises(InvalidGraphError, match="double, which makes no oid"):
        people(KNOWS, {"oid": [1.5]})
    with pytest.raises(
        InvalidGraphError, match="is string, but 'oid', the oid of 'person', is int"
    ):
        people({"src": ["a"], "dst": [10]})
    with pytest.raises(InvalidGraphError, match="double, which makes no oid"):
        people({"src": [1.0], "dst": [10]})
    with pytest.raises(InvalidGraphError, match="do not fit those of 'person'"):
        people({"src": [10], "dst": [300]}, {"oid": pa.array([10], pa.int8())}, missing="add")
    with pytest.raises(LabelNotFoundError, match=r"no column 'oid'.*they have id"):
        people(KNOWS, {"id": [1]})
    with pytest.raises(LabelNotFoundError, match=r"no column 'from'.*name it by src="):
        people(KNOWS, src="from")


def test_bad_columns() -> None:
    twice = pa.table([[1], [2], [3]], ["src", "dst", "dst"])
    with pytest.raises(InvalidGraphError, match="two columns have one name: src, dst, dst"):
        people(twice)


def test_bad_labels() -> None:
    with pytest.raises(LabelNotFoundError, match="vertices of 'cat', for which there is no table"):
        Graph.from_tables({"person": PEOPLE}, {("person", "owns", "cat"): KNOWS}, client=LOCAL)
    with pytest.raises(InvalidGraphError, match="names no edges"):
        Graph.from_tables({"person": PEOPLE}, {"knows": KNOWS}, client=LOCAL)  # type: ignore[dict-item]
    with pytest.raises(InvalidGraphError, match="'a/b' is no label"):
        Graph.from_tables({"a/b": PEOPLE}, {}, client=LOCAL)
    with pytest.raises(InvalidGraphError, match="undirected edges between two labels"):
        Graph.from_tables(
            {"a": PEOPLE, "b": PEOPLE}, {("a", "e", "b"): KNOWS}, client=LOCAL, directed=False
        )
    with pytest.raises(InvalidGraphError, match="no columns are named for 'person'"):
        people(oid={"cat": "oid"})


def test_progress_is_told_and_may_end_it() -> None:
    seen: list[tuple[int, int, str]] = []
    people(progress=lambda *step: seen.append(step))
    assert [done for done, _, _ in seen] == list(range(1, len(seen) + 1))
    assert {total for _, total, _ in seen} == {len(seen)}
    assert seen[-1][2] == "take 'since'"

    def stop(done: int, total: int, what: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        people(progress=stop)


def test_a_store_that_is_too_small(make_daemon: Any) -> None:
    daemon = make_daemon("--memory-limit", "32MiB")
    ends = np.arange(3_000_000) % 1000
    with daemon.connect() as client, pytest.raises(StoreFullError, match="no room for"):
        Graph.from_tables(
            {"v": {"oid": np.arange(1000)}},
            {("v", "e", "v"): {"src": ends, "dst": ends}},
            client=client,
        )


@pytest.mark.parametrize(
    ("table", "match"),
    [
        ({"oid": [1, 2], "x": [1]}, "expected length 2"),
        ({"oid": [1, "a"]}, "Could not convert"),
        ({"oid": [2**70]}, "too large"),
    ],
)
def test_columns_that_make_no_table(table: Any, match: str) -> None:
    with pytest.raises(InvalidGraphError, match=match):
        people(table=table)


def test_files_that_make_no_table(tmp_path: Path) -> None:
    with pytest.raises(PathNotFoundError, match=r"none\.parquet"):
        people(table=tmp_path / "none.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and nothing PAR1")
    with pytest.raises(InvalidGraphError, match=r"bad\.parquet"):
        people(table=tmp_path / "bad.parquet")


@pytest.mark.parametrize(
    "column",
    [
        pa.array([["a"], [], ["b"], ["c"]], pa.list_(pa.string_view())),
        pa.RunEndEncodedArray.from_arrays(pa.array([2, 4], pa.int32()), ["a", "b"]),
    ],
)
def test_properties_that_cannot_be_reordered(column: pa.Array) -> None:
    with pytest.raises(InvalidGraphError, match="cannot be brought into another order"):
        people(KNOWS.append_column("p", column))


def test_texts_that_need_wider_offsets(monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.table({"oid": ["a" * 30, "b", "c"]})
    graph = Graph.from_tables({"v": table}, {}, client=LOCAL)
    monkeypatch.setattr(arrays, "_TEXT_LIMIT", 61)
    assert graph.oids("v", [0, 0, 1]).type == pa.string()
    found = graph.oids("v", [0, 0, 0])
    assert found.type == pa.large_string()
    assert found.to_pylist() == ["a" * 30] * 3
