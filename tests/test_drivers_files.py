"""Files in and out: each format, in one go and as a stream, with nothing copied after decoding."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.dataset as ds
import pyarrow.feather
import pyarrow.orc
import pyarrow.parquet as pq
import pytest
from drivers_harness import end_scans

from vineyard_arrow.client import Client
from vineyard_arrow.errors import (
    ConfigError,
    InvalidObjectError,
    PathExistsError,
    SchemaMismatchError,
)

ROWS = 100_000
TABLE = pa.table(
    {
        "id": pa.array(np.arange(ROWS)),
        "x": pa.array(np.arange(ROWS) / 4),
        "s": pa.array([f"row {i}" for i in range(ROWS)]),
    }
)


def write_ipc(table: pa.Table, path: Path, opener: Any = pa.ipc.new_file) -> None:
    with opener(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=40_000)


WRITERS = {
    "parquet": lambda path: pq.write_table(TABLE, path, row_group_size=30_000),
    "pq": lambda path: pq.write_table(TABLE, path, compression="zstd"),
    "csv": lambda path: pyarrow.csv.write_csv(TABLE, path),
    "csv.gz": lambda path: pyarrow.csv.write_csv(
        TABLE, pa.CompressedOutputStream(str(path), "gzip")
    ),
    "tsv": lambda path: pyarrow.csv.write_csv(
        TABLE, path, pyarrow.csv.WriteOptions(delimiter="\t")
    ),
    "jsonl": lambda path: pl.from_arrow(TABLE).write_ndjson(path),
    "json.zst": lambda path: zst(path, pl.from_arrow(TABLE).write_ndjson().encode()),
    "orc": lambda path: pyarrow.orc.write_table(TABLE, path),
    "arrow": lambda path: write_ipc(TABLE, path),
    "arrows": lambda path: write_ipc(TABLE, path, pa.ipc.new_stream),
    "feather": lambda path: pyarrow.feather.write_feather(TABLE, path, compression="zstd"),
}


def zst(path: Path, data: bytes) -> None:
    with pa.CompressedOutputStream(str(path), "zstd") as out:
        out.write(data)


@pytest.fixture(autouse=True)
def _scans(client: Client) -> Iterator[None]:
    """The threads of a test's scans have ended before its client."""
    yield
    end_scans()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of each kind."""
    folder = tmp_path_factory.mktemp("files")
    for ending, write in WRITERS.items():
        write(folder / f"t.{ending}")
    return {ending: folder / f"t.{ending}" for ending in WRITERS}


@pytest.mark.parametrize("ending", WRITERS)
def test_a_file_is_decoded_where_it_stays(
    client: Client, files: dict[str, Path], ending: str
) -> None:
    oid = client.read(files[ending])
    meta = client.get_meta(oid)
    assert client.get(oid) == TABLE
    assert meta.copied == 0
    assert meta.shared >= TABLE.nbytes * 0.9


@pytest.mark.parametrize("ending", WRITERS)
def test_columns_and_filter(client: Client, files: dict[str, Path], ending: str) -> None:
    oid = client.read(
        files[ending], columns=["s", "x"], filter=(ds.field("id") >= 1000) & (pc.field("x") < 2e4)
    )
    assert client.get(oid) == TABLE.slice(1000, 79_000).select(["s", "x"])
    assert client.get_meta(oid).copied == 0
    oid = client.read(files[ending], columns=["x"])
    assert client.get(oid) == TABLE.select(["x"])
    with client.scan(files[ending], filter=[("id", "<", 5)], columns=["s"]) as reader:
        assert reader.read_all() == TABLE.slice(0, 5).select(["s"])


@pytest.mark.parametrize("ending", WRITERS)
def test_a_file_streams(client: Client, files: dict[str, Path], ending: str) -> None:
    with client.scan(files[ending], max_bytes=100_000) as reader:
        assert reader.schema == TABLE.schema
        assert reader.read_all() == TABLE


def test_urls(client: Client, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    path = files["parquet"]
    monkeypatch.chdir(path.parent)
    for url in (str(path), path.as_uri(), path.name):
        assert client.get(client.read(url)) == TABLE
    memory = fsspec.filesystem("memory")
    memory.pipe("/drivers/a.parquet", path.read_bytes())
    assert client.get(client.read("memory://drivers/a.parquet")) == TABLE
    assert client.get(client.read("memory://drivers/*.parquet")) == TABLE
    assert client.get(client.read("drivers/a.parquet", filesystem=memory)) == TABLE
    client.write(TABLE, "memory://drivers/b.parquet")
    assert client.get(client.read("memory://drivers/b.parquet")) == TABLE
    client.write(TABLE.slice(0, 9), "memory://drivers/by", partition_by="id")
    assert client.get(client.read("memory://drivers/by"))["x"] == TABLE["x"].slice(0, 9)
    client.write(TABLE.slice(0, 3), "memory://drivers/by", partition_by="id", overwrite=True)
    assert client.get(client.read("memory://drivers/by")).num_rows == 3
    memory.rm("/drivers", recursive=True)


def test_the_content_tells_where_the_name_does_not(
    client: Client, files: dict[str, Path], tmp_path: Path
) -> None:
    for ending in ("parquet", "arrow", "arrows", "orc"):
        path = tmp_path / ending
        path.write_bytes(files[ending].read_bytes())
        assert client.get(client.read(path)) == TABLE
    (tmp_path / "text").write_text("a;b\n1;2\n")
    with pytest.raises(ValueError, match=r"neither its name nor.*format= one of parquet, csv"):
        client.read(tmp_path / "text")
    options = pyarrow.csv.ParseOptions(delimiter=";")
    oid = client.read(tmp_path / "text", format="csv", parse_options=options)
    assert client.get(oid).to_pydict() == {"a": [1], "b": [2]}
    with pytest.raises(ConfigError, match="options of CSV"):
        client.read(files["orc"], parse_options=options)
    with pytest.raises(ConfigError, match=r"'xlsx' is no format.*orc"):
        client.read(files["orc"], format="xlsx")


def test_types_of_text_come_from_all_of_it(client: Client, tmp_path: Path) -> None:
    lines = ["v"] + ["1"] * 3_000_000 + ["1.5"]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    assert client.get(client.read(tmp_path / "a.csv"))["v"].type == pa.float64()
    with pytest.raises(ValueError, match=r"a\.csv.*1\.5.*schema=pa\.schema"):
        client.read(tmp_path / "a.csv", filter=pc.field("v") > 1)
    schema = pa.schema([("v", pa.float32())])
    oid = client.read(tmp_path / "a.csv", filter=pc.field("v") > 1, schema=schema)
    assert client.get(oid).to_pydict() == {"v": [1.5]}


def test_fields_that_turn_up_late_are_not_lost(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n' * 400_000 + '{"a": 2, "late": true}\n')
    got = client.get(client.read(path))
    assert got.schema.names == ["a", "late"]
    assert got["late"].null_count == 400_000
    with pytest.raises(ValueError, match=r"a\.jsonl: .*unexpected field.*schema=pa\.schema"):
        client.read(path, filter=pc.field("a") > 1)
    schema = pa.schema([("a", pa.int64()), ("late", pa.bool_())])
    oid = client.read(path, filter=pc.field("a") > 1, schema=schema)
    assert client.get(oid).to_pydict() == {"a": [2], "late": [True]}
    # A column that another file begins with is looked for in all of this one.
    (tmp_path / "b.jsonl").write_text('{"a": 3, "late": false}\n')
    got = client.get(client.read(tmp_path, schema="unify", columns=["late"]))
    assert got["late"].to_pylist()[399_999:] == [None, True, False]
    with client.scan(tmp_path, schema="unify", columns=["late"]) as reader:
        assert reader.read_all() == got


# ---- several files


def test_directories_globs_and_their_keys(client: Client, tmp_path: Path) -> None:
    for year in (2023, 2024):
        for place in ("a b", "c"):
            folder = tmp_path / f"year={year}" / f"place={place.replace(' ', '%20')}"
            folder.mkdir(parents=True)
            pq.write_table(pa.table({"v": [year, len(place)]}), folder / "1.parquet")
    (tmp_path / "_SUCCESS").write_text("")
    (tmp_path / ".hidden.parquet").write_text("no parquet")
    got = client.get(client.read(tmp_path))
    assert got.schema.names == ["v", "place", "year"] or got.schema.names == ["v", "year", "place"]
    assert got["year"].to_pylist() == [2023] * 4 + [2024] * 4
    assert got["place"].to_pylist() == ["a b", "a b", "c", "c"] * 2
    got = client.get(client.read(f"{tmp_path}/*/place=c/*.parquet", columns=["v", "year"]))
    assert got.to_pydict() == {"v": [2023, 1, 2024, 1], "year": [2023, 2023, 2024, 2024]}
    # Files that the filter rules out by their directories are not even opened for their rows.
    bad = tmp_path / "year=2023" / "place=c" / "1.parquet"
    damaged = bytearray(bad.read_bytes())
    damaged[4:40] = b"\xff" * 36
    bad.write_bytes(damaged)
    got = client.get(client.read(tmp_path, filter=pc.field("year") == 2024, columns=["v"]))
    assert got.to_pydict() == {"v": [2024, 3, 2024, 1]}
    assert client.get(client.read(f"{tmp_path}/**/*.parquet", filter=pc.field("year") > 2023))
    none = client.get(client.read(tmp_path, filter=pc.field("year") == 1))
    assert (none.num_rows, none.schema.names[0]) == (0, "v")


def drifting(folder: Path, ending: str) -> None:
    first = pa.table({"a": [1, 2], "b": ["x", "y"]})
    second = pa.table({"c": [True], "a": [0.5], "b": ["z"]})
    for name, table in (("1", first), ("2", second)):
        path = folder / f"{name}.{ending}"
        if ending == "parquet":
            pq.write_table(table, path)
        elif ending == "csv":
            pyarrow.csv.write_csv(table, path)
        else:
            pl.from_arrow(table).write_ndjson(path)


def test_many_small_files_make_few_chunks(client: Client, tmp_path: Path) -> None:
    rows = range(300)
    small = pa.table(
        {
            "a": rows,
            "s": [f"text {n}" for n in rows],
            "d": pa.array([f"key {n // 2}" for n in rows]).dictionary_encode(),
        }
    )
    union = pa.UnionArray.from_sparse(pa.array([0] * 300, pa.int8()), [pa.array(rows)])
    large = pa.concat_tables([small] * 50).combine_chunks()
    for folder, whole in (("a", small), ("b", small.append_column("u", union))):  # not to be joined
        (tmp_path / folder).mkdir()
        for n in range(30):
            write_ipc(whole[n * 10 : n * 10 + 10], tmp_path / folder / f"{n:02}.arrow")
    write_ipc(large, tmp_path / "a" / "large.arrow")
    table = client.get(client.read(tmp_path / "a"))
    assert table.equals(pa.concat_tables([small, large]))
    assert [column.num_chunks for column in table.columns] == [2, 2, 2]
    assert client.get(client.read(tmp_path / "b"))["a"].to_pylist() == list(rows)


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_schemas_that_drift(client: Client, tmp_path: Path, ending: str) -> None:
    drifting(tmp_path, ending)
    for read in (client.read, client.scan):
        with pytest.raises(SchemaMismatchError, match=r"column 'a' of .*/2\..* is double, in"):
            read(tmp_path)
        with pytest.raises(ConfigError, match="'strict', 'first', 'unify'"):
            read(tmp_path, schema="any")
    got = client.get(client.read(tmp_path, schema="unify"))
    assert got.to_pydict() == {"a": [1, 2, 0.5], "b": ["x", "y", "z"], "c": [None, None, True]}
    given = pa.schema([("c", pa.bool_()), ("a", pa.float32())])
    got = client.get(client.read(tmp_path, schema=given))
    assert got.schema == given
    assert got.to_pydict() == {"c": [None, None, True], "a": [1, 2, 0.5]}
    assert client.scan(tmp_path, schema=given).read_all() == got
    with pytest.raises(ValueError, match=r"2\."):  # half a one is no whole number
        client.read(tmp_path, schema="first")
    got = client.get(client.read(tmp_path, schema="first", columns=["b"]))
    assert got.to_pydict() == {"b": ["x", "y", "z"]}


def test_what_arrow_casts_wrongly_is_not_cast(client: Client, tmp_path: Path) -> None:
    views = pa.table({"a": pa.array([[1], [2, 3]], pa.list_view(pa.int64()))})
    write_ipc(views, tmp_path / "a.arrow")
    assert client.get(client.read(tmp_path / "a.arrow")).equals(views)
    with pytest.raises(SchemaMismatchError, match="list views"):
        client.read(tmp_path / "a.arrow", schema=pa.schema([("a", pa.large_list(pa.int64()))]))


def test_unknown_columns(client: Client, files: dict[str, Path]) -> None:
    with pytest.raises(SchemaMismatchError, match=r"no column 'y'.*there are id, x, s"):
        client.read(files["parquet"], columns=["y"])
    with pytest.raises(SchemaMismatchError, match=r"the filter \(y > 3\) does not fit"):
        client.read(files["parquet"], filter=pc.field("y") > 3)
    with pytest.raises(ConfigError, match=r"columns=\['x'\]"):
        client.read(files["parquet"], columns="x")
    with pytest.raises(ConfigError, match="filter="):
        client.read(files["parquet"], filter="x > 3")


def test_progress_ends_at_all_of_it(client: Client, files: dict[str, Path]) -> None:
    done: list[tuple[int, int]] = []
    client.read(files["parquet"], progress=lambda *told: done.append(told))
    assert len(done) == 4
    assert done == sorted(done)
    assert done[-1][0] == done[-1][1] > 0


# ---- writing


@pytest.mark.parametrize(
    "ending",
    ["parquet", "csv", "tsv", "csv.gz", "jsonl", "json.zst", "orc", "arrow", "feather", "arrows"],
)
def test_what_is_written_is_read_again(client: Client, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"t.{ending}"
    client.write(client.put(TABLE), path)
    assert client.get(client.read(path)) == TABLE
    with pytest.raises(PathExistsError, match="overwrite=True"):
        client.write(TABLE, path)
    client.write(TABLE.slice(0, 3), path, overwrite=True)
    assert client.get(client.read(path)) == TABLE.slice(0, 3)
    client.write(TABLE.slice(0, 0), path, overwrite=True)
    if not ending.startswith("json"):  # no line, no columns
        assert client.get(client.read(path)).schema.names == TABLE.schema.names
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_frames_readers_and_streams_are_written(client: Client, tmp_path: Path) -> None:
    frame = pl.DataFrame({"a": [1, 2]})
    for n, value in enumerate((frame, client.put(frame), frame.to_pandas())):
        client.write(value, tmp_path / f"{n}.parquet")
        assert client.get(client.read(tmp_path / f"{n}.parquet"))["a"].to_pylist() == [1, 2]
    with client.create_stream(TABLE.schema) as writer:
        reader = client.open_stream(writer.id)
        writer.write(TABLE)
    client.write(reader, tmp_path / "s.arrow")
    assert client.get(client.read(tmp_path / "s.arrow")) == TABLE
    with pytest.raises(InvalidObjectError, match="dict is no table"):
        client.write({}, tmp_path / "d.parquet")


def test_row_groups_and_compression(client: Client, tmp_path: Path) -> None:
    batches = [TABLE.slice(i, 700) for i in range(0, ROWS, 700)]
    path = tmp_path / "t.parquet"
    client.write(pa.concat_tables(batches), path, row_group_rows=30_000, compression="zstd")
    meta = pq.read_metadata(path)
    assert [meta.row_group(i).num_rows for i in range(meta.num_row_groups)] == [30_000] * 3 + [
        10_000
    ]
    assert meta.row_group(0).column(0).compression == "ZSTD"
    client.write(TABLE, tmp_path / "t.jsonl", compression="gzip")
    first = gzip.decompress((tmp_path / "t.jsonl").read_bytes()).split(b"\n", 1)[0]
    assert json.loads(first) == {"id": 0, "x": 0.0, "s": "row 0"}


def test_partitioned_directories(client: Client, tmp_path: Path) -> None:
    table = TABLE.slice(0, 1000).append_column("k", pa.array([i % 3 for i in range(1000)]))
    client.write(table, tmp_path / "d", partition_by=["k"])
    assert sorted(p.name for p in (tmp_path / "d").iterdir()) == ["k=0", "k=1", "k=2"]
    got = client.get(client.read(tmp_path / "d", filter=pc.field("k") == 1))
    assert got["id"].to_pylist() == list(range(1, 1000, 3))
    with pytest.raises(PathExistsError):
        client.write(table, tmp_path / "d", partition_by=["k"])
    client.write(table, tmp_path / "d", file_rows=100, overwrite=True, compression="zstd")
    files = list((tmp_path / "d").iterdir())
    assert {pq.read_metadata(p).num_rows for p in files} == {100}
    assert client.get(client.read(tmp_path / "d")).sort_by("id") == table
    assert [p.name for p in tmp_path.iterdir()] == ["d"]
    (tmp_path / "d" / "notes.txt").write_text("mine")
    with pytest.raises(PathExistsError, match="left alone"):
        client.write(table, tmp_path / "d", file_rows=100, overwrite=True)
    for options, message in (
        ({"partition_by": "q"}, "no column 'q'"),
        ({"partition_by": "k", "format": "json"}, "no directories are written of json"),
        ({"file_rows": 9, "format": "orc"}, "no directories are written of orc"),
        ({"file_rows": 0}, "positive"),
    ):
        with pytest.raises(ConfigError, match=message):
            client.write(table, tmp_path / "e", **options)
    with pytest.raises(ConfigError, match="tells no format"):
        client.write(table, tmp_path / "e")


@pytest.mark.parametrize("by", [["k", "k"], ["k", "v"], ["k", "missing"]])
def test_columns_that_make_no_partitions(client: Client, tmp_path: Path, by: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"partition_by=|no column .missing"):
        client.write(pa.table({"k": [1, 2], "v": [1, 2]}), tmp_path / "d", partition_by=by)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl", "orc", "arrow", "arrows"])
def test_compressions_that_there_are_not(client: Client, tmp_path: Path, ending: str) -> None:
    for compression in ("best", 3):
        with pytest.raises(ConfigError, match="compression="):
            client.write(TABLE, tmp_path / f"t.{ending}", compression=compression)
    with pytest.raises(ConfigError, match="not packed"):
        client.write(TABLE, tmp_path / "d", format="csv", file_rows=9, compression="zstd")
    assert list(tmp_path.iterdir()) == []


def test_columns_are_named_once(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    client.write(pa.table({"a": [1], "b": [2]}), path)
    for columns in (["a", "a"], []):
        for do in (client.read, client.scan):
            with pytest.raises(ConfigError, match="columns="):
                do(path, columns=columns)


@pytest.mark.parametrize("column", ["../x", "_x", ".x", "a=b", "a/b", "%41", ""])
def test_a_column_that_names_no_directory(client: Client, tmp_path: Path, column: str) -> None:
    table = pa.table({column: [1, 2], "b": [1, 2]})
    with pytest.raises(ConfigError, match="no directory can be called"):
        client.write(table, tmp_path / "out", format="parquet", partition_by=[column])
    assert list(tmp_path.iterdir()) == []


def test_hidden_files_are_not_replaced(client: Client, tmp_path: Path) -> None:
    table = pa.table({"a": [1, 2, 3]})
    out = tmp_path / "out"
    client.write(table, out, format="parquet", file_rows=2)
    (out / ".git").mkdir()
    (out / ".git" / "HEAD.json").write_text("{}")
    with pytest.raises(PathExistsError, match="no tables"):
        client.write(table, out, format="parquet", file_rows=2, overwrite=True)
    assert (out / ".git" / "HEAD.json").exists()


@pytest.mark.parametrize("options", [{}, {"file_rows": 1}])
def test_of_two_writers_one_is_refused(client: Client, tmp_path: Path, options: Any) -> None:
    table = pa.table({"a": [1]})
    path = tmp_path / "t.parquet"

    def batches() -> Iterator[pa.RecordBatch]:
        client.write(table, path, format="parquet", **options)  # another comes before
        yield pa.record_batch({"a": [2]})

    reader = pa.RecordBatchReader.from_batches(table.schema, batches())
    with pytest.raises(PathExistsError):
        client.write(reader, path, format="parquet", **options)
    assert client.get(client.read(path, format="parquet")) == table
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl", "orc", "arrow", "arrows"])
def test_names_of_columns_are_kept(client: Client, tmp_path: Path, ending: str) -> None:
    table = pa.table([pa.array([1, 2])] * 4, names=["", "column_0", "a", "A"])
    client.write(table, tmp_path / f"t.{ending}")
    assert client.get(client.read(tmp_path / f"t.{ending}")) == table
    twice = pa.table([pa.array([1, 2])] * 3, names=["a", "b", "a"])
    with pytest.raises(InvalidObjectError, match=r"the name 'a'.*rename"):
        client.write(twice, tmp_path / f"twice.{ending}")
    with pytest.raises(InvalidObjectError, match=r"the name 'a'.*rename"):
        client.write(twice, tmp_path / "d", file_rows=1)
    assert [p.name for p in tmp_path.iterdir()] == [f"t.{ending}"]


@pytest.mark.parametrize(
    "column",
    [
        pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]),
        pa.array([b"\xff"]),
    ],
)
def test_what_lines_of_json_cannot_hold(client: Client, tmp_path: Path, column: Any) -> None:
    with pytest.raises(InvalidObjectError, match="json file cannot hold"):
        client.write(pa.table({"c": column}), tmp_path / "t.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_the_word_for_null_is_no_partition(client: Client, tmp_path: Path) -> None:
    words = pa.array(["a", None, "__HIVE_DEFAULT_PARTITION__"])
    for column in (words, words.cast(pa.large_string()), words.dictionary_encode()):
        table = pa.table({"k": column, "v": [1, 2, 3]})
        with pytest.raises(InvalidObjectError, match="stands for null"):
            client.write(table, tmp_path / "d", partition_by="k")
        assert list(tmp_path.iterdir()) == []
    client.write(table.slice(0, 2), tmp_path / "d", partition_by="k")
    client.write(table, tmp_path / "e", partition_by="v")
    got = client.get(client.read(tmp_path / "d")).sort_by("v")
    assert got["k"].to_pylist() == ["a", None]


def test_an_orc_file_needs_a_column(client: Client, tmp_path: Path) -> None:
    with pytest.raises(InvalidObjectError, match="needs a column"):
        client.write(pa.table({"a": [1]}).select([]), tmp_path / "t.orc")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", ["parquet", "csv", "orc", "arrow"])
def test_a_file_that_names_a_column_twice(client: Client, tmp_path: Path, ending: str) -> None:
    """What is meant cannot be told; columns beside it can be read."""
    table = pa.table([[1, 2], [3, 4], [5, 6]], names=["a", "a", "b"])
    path = tmp_path / f"a.{ending}"
    writers = {
        "parquet": lambda: pq.write_table(table, path),
        "csv": lambda: pyarrow.csv.write_csv(table, path),
        "orc": lambda: pyarrow.orc.write_table(table, path),
        "arrow": lambda: write_ipc(table, path),
    }
    writers[ending]()
    for asked in ({}, {"columns": ["a"]}, {"filter": pc.field("a") > 1}, {"schema": "unify"}):
        for way in (client.read, client.scan):
            with pytest.raises(SchemaMismatchError, match="more than one column 'a'"):
                way(path, **asked)
    oid = client.read(path, columns=["b"])
    assert client.get(oid).to_pydict() == {"b": [5, 6]}
    client.delete(oid)
    with client.scan(path, columns=["b"]) as reader:
        assert reader.read_all().to_pydict() == {"b": [5, 6]}


@pytest.mark.parametrize("text", [b"", b" \n\n"])
def test_json_of_no_lines(client: Client, tmp_path: Path, text: bytes) -> None:
    """A table without rows as written; its columns are said by `schema=`."""
    (tmp_path / "a.jsonl").write_bytes(text)
    schema = pa.schema([("id", pa.int64()), ("s", pa.string())])
    for columns, wanted in ((None, schema), (["s"], schema.remove(0))):
        oid = client.read(tmp_path / "a.jsonl", schema=schema, columns=columns)
        assert client.get(oid) == wanted.empty_table()
        client.delete(oid)
        with client.scan(tmp_path / "a.jsonl", schema=schema, columns=columns) as reader:
            assert reader.read_all() == wanted.empty_table()
    (tmp_path / "b.jsonl").write_bytes(b'{"id": 1, "s": "x"}\n')
    with client.scan(tmp_path / "*.jsonl", schema=schema) as reader:
        assert reader.read_all().to_pydict() == {"id": [1], "s": ["x"]}


def test_batches_of_arrow_files_are_bounded(client: Client, tmp_path: Path) -> None:
    client.write(TABLE, tmp_path / "a.arrow", row_group_rows=30_000)
    with pa.ipc.open_file(tmp_path / "a.arrow") as reader:
        assert reader.num_record_batches == 4
