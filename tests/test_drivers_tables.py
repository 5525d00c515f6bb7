"""Tables of Delta Lake, Iceberg and Lance, read, scanned and written: the same on each."""

from __future__ import annotations

import datetime as dt
import decimal
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from drivers_harness import gone, got
from drivers_harness import nothing_left as nothing_left
from tables_harness import KINDS, Place, make_place

from vineyard_arrow.client import Client
from vineyard_arrow.errors import (
    ConfigError,
    FileError,
    InvalidObjectError,
    PathNotFoundError,
    SchemaMismatchError,
    StreamFailedError,
    TableExistsError,
    VersionNotFoundError,
)

ROWS = 100_000
TABLE = pa.table(
    {
        "id": np.arange(ROWS),
        "x": np.random.default_rng(1).random(ROWS),
        "s": pa.array([f"row {n}" if n % 7 else None for n in range(ROWS)]),
        "month": np.arange(ROWS) % 3,
    }
)
PARTITIONED = [kind for kind in KINDS if kind != "lance"]


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    yield from make_place(request.param, tmp_path)


def read(client: Client, place: Place, **options: Any) -> pa.Table:
    return got(client, place.url, **place.options, **options)


def test_what_is_written_is_read(client: Client, place: Place) -> None:
    place.write(client, TABLE)
    done: list[int] = []
    oid = client.read(place.url, **place.options, name="n", progress=lambda d, _: done.append(d))
    assert client.get("n").sort_by("id") == TABLE
    assert client.get_meta(oid).copied == 0
    assert done == sorted(done)
    assert done[-1] == pytest.approx(TABLE.nbytes, rel=0.2)
    some = read(client, place, columns=["s", "id"])
    assert some.sort_by("id") == TABLE.select(["s", "id"])
    with client.scan(place.url, **place.options, columns=["id"]) as reader:
        assert reader.read_all().sort_by("id") == TABLE.select(["id"])
    with client.scan(place.url, **place.options) as reader:
        assert reader.schema == TABLE.schema  # and nobody reads it to its end
    place.write(client, client.scan(place.url, **place.options), mode="append")
    assert read(client, place, columns=["id"]).num_rows == 2 * ROWS


FILTERS: list[Any] = [
    pc.field("id") > ROWS - 7,
    [("month", "=", 2), ("id", "<", 50)],
    [[("s", "=", "row 8")], [("id", "in", [1, 2])]],
    pc.field("s").is_null() & (pc.field("id") < 100),
    ~(pc.field("x") < 0.9999),
    pc.field("id").isin([3, 5]) | pc.starts_with(pc.field("s"), "row 999"),
    (pc.field("id") + 1) * 2 == 12,
    pc.field("id") < 0,
]


def test_filters(client: Client, place: Place) -> None:
    place.write(client, TABLE.slice(0, ROWS // 2))
    place.write(client, TABLE.slice(ROWS // 2), mode="append")
    for filter in FILTERS:
        check_filter(client, place, filter)


def check_filter(client: Client, place: Place, filter: Any) -> None:
    wanted = TABLE.filter(pq.filters_to_expression(filter) if isinstance(filter, list) else filter)
    assert read(client, place, filter=filter).sort_by("id") == wanted
    some = read(client, place, columns=["x"], filter=filter)  # by what is not asked for
    assert some.sort_by("x") == wanted.select(["x"]).sort_by("x")
    with client.scan(place.url, **place.options, filter=filter) as reader:
        assert reader.read_all().sort_by("id") == wanted


def test_what_is_not_a_number_is_filtered_as_arrow_does(client: Client, place: Place) -> None:
    odd = pa.table({"n": [1, 2, 3], "f": [0.5, float("nan"), None]})
    place.write(client, odd)
    for filter in (pc.field("f") > 0, ~(pc.field("f") > 1), pc.field("f") != 0.5):
        assert read(client, place, filter=filter)["n"].to_pylist() == (
            odd.filter(filter)["n"].to_pylist()
        )


def test_what_makes_no_sense(client: Client, place: Place) -> None:
    place.write(client, TABLE.slice(0, 10))
    for options, error, said in (
        ({"columns": ["nope"]}, SchemaMismatchError, "no column 'nope'"),
        ({"columns": "id"}, ConfigError, "a list of names"),
        ({"filter": pc.field("nope") > 1}, SchemaMismatchError, "does not fit"),
        ({"filter": [("id", "~", 1)]}, ConfigError, "filter="),
        ({"version": 1, "timestamp": "2024-01-01"}, ConfigError, "leave one of them out"),
        ({"timestamp": "soon"}, ConfigError, "timestamp='soon'"),
        ({"limit": 3}, ConfigError, "it takes columns, filter, version"),
    ):
        for do in (client.read, client.scan):
            with pytest.raises(error, match=said):
                do(place.url, **place.options, **options)
    for options, said in (
        ({"mode": "upsert"}, "fail, create, append, replace"),
        ({"mode": "append", "schema": "first"}, "'unify', which adds columns"),
        ({"mode": "replace", "partition_by": ["nope"]}, "no column 'nope' to partition by"),
        ({"overwrite": True}, "it takes mode"),
    ):
        with pytest.raises(ConfigError, match=said):
            place.write(client, TABLE.slice(0, 1), **options)


def test_modes(client: Client, place: Place) -> None:
    one, two = (
        pa.table({"a": [1], "b": ["x"]}),
        pa.table({"b": ["y"], "a": pa.array([2], pa.int8())}),
    )
    place.write(client, one, mode="append")  # makes it
    for mode in ("fail", "create"):
        with pytest.raises(TableExistsError, match=r"already exists.*mode='append'"):
            place.write(client, two, mode=mode)
    place.write(client, two, mode="append")
    whole = read(client, place).sort_by("a")
    assert whole.to_pydict() == {"a": [1, 2], "b": ["x", "y"]}
    client.put(pa.table({"c": [1.5], "a": [7]}), name="n")
    place.write(client, "n", mode="replace")
    assert sorted(read(client, place).to_pylist()[0].items()) == [("a", 7), ("c", 1.5)]


def test_rows_that_do_not_go_with_a_table(client: Client, place: Place) -> None:
    place.write(client, pa.table({"a": [1], "b": ["x"]}))
    for rows, said in (
        (pa.table({"a": ["y"], "b": ["x"]}), "column 'a' of .* is string and cannot be int64"),
        (pa.table({"a": [2.5], "b": ["x"]}), "column 'a'"),
        (pa.table({"a": [2], "z": [1]}), "has no column 'z'"),
    ):
        with pytest.raises(SchemaMismatchError, match=said):
            place.write(client, rows, mode="append")
    place.write(client, pa.table({"a": [2]}), mode="append")
    assert read(client, place).sort_by("a").to_pydict() == {"a": [1, 2], "b": ["x", None]}
    assert client.status().objects == 1


def test_columns_are_added_if_asked_for(client: Client, place: Place) -> None:
    place.write(client, pa.table({"a": [1]}))
    more = pa.table({"a": [2], "z": ["new"]})
    if place.kind == "lance":
        with pytest.raises(ConfigError, match="add_columns"):
            place.write(client, more, mode="append", schema="unify")
        return
    place.write(client, more, mode="append", schema="unify")
    assert read(client, place).sort_by("a").to_pydict() == {"a": [1, 2], "z": [None, "new"]}


def test_nothing_is_a_table_too(client: Client, place: Place) -> None:
    place.write(client, TABLE.slice(0, 0))
    assert read(client, place) == TABLE.slice(0, 0)
    assert read(client, place, columns=["s"], filter=pc.field("id") > 1).column_names == ["s"]
    with client.scan(place.url, **place.options) as reader:
        assert reader.read_all() == TABLE.slice(0, 0)


# ---- types

MOMENT = dt.datetime(2024, 2, 29, 12, 30, 1)
SAME: dict[str, pa.Array] = {
    "int64": pa.array([1, -(2**62), None]),
    "int32": pa.array([1, None, -5], pa.int32()),
    "float": pa.array([1.5, None, 2.0], pa.float32()),
    "double": pa.array([1.25, None, -0.0]),
    "bool": pa.array([True, None, False]),
    "string": pa.array(["ä", None, ""]),
    "binary": pa.array([b"\0\xff", None, b""]),
    "date": pa.array([MOMENT.date(), None, dt.date(1969, 1, 1)]),
    "moment": pa.array([MOMENT, None, MOMENT], pa.timestamp("us")),
    "utc": pa.array([MOMENT, None, MOMENT], pa.timestamp("us", "UTC")),
    "decimal": pa.array([decimal.Decimal("1.25"), None, None], pa.decimal128(38, 2)),
    "struct": pa.array([{"a": 1, "b": "x"}, None, {"a": None, "b": "y"}]),
}
OTHER: dict[str, pa.Array] = {
    "list": pa.array([[1, None], None, []]),
    "map": pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int64())),
    "deep": pa.array([[{"a": [MOMENT]}], [None], []]),
    "fixed list": pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float32(), 2)),
    "int8": pa.array([1, None, 3], pa.int8()),
    "uint8": pa.array([200, None, 3], pa.uint8()),
    "uint64": pa.array([200, None, 3], pa.uint64()),
    "half": pa.array(np.array([1, 2, 3], np.float16)),
    "large": pa.array(["a", None, "c"], pa.large_string()),
    "view": pa.array(["a", None, "c" * 20], pa.string_view()),
    "views": pa.array([["a"], None, ["c" * 20]], pa.list_(pa.string_view())),
    "fixed": pa.array([b"ab", None, b"cd"], pa.binary(2)),
    "dictionary": pa.array(["a", None, "a"]).dictionary_encode(),
    "ns": pa.array([MOMENT, None, MOMENT], pa.timestamp("ns")),
    "seconds": pa.array([MOMENT, None, MOMENT], pa.timestamp("s")),
    "zone": pa.array([MOMENT, None, MOMENT], pa.timestamp("us", "Europe/Berlin")),
}


def test_types_that_all_have(client: Client, place: Place) -> None:
    table = pa.table(SAME)
    place.write(client, table)
    oid = client.read(place.url, **place.options)
    assert client.get(oid) == table
    assert client.get_meta(oid).copied == 0


def test_types_that_become_others(client: Client, place: Place) -> None:
    table = pa.table(OTHER)
    place.write(client, table)
    back = read(client, place)
    assert back.drop_columns("zone").to_pylist() == table.drop_columns("zone").to_pylist()
    moments = [None if v is None else v.timestamp() for v in table["zone"].to_pylist()]
    assert [None if v is None else v.timestamp() for v in back["zone"].to_pylist()] == moments
    if place.kind == "lance":
        changed = {n for n in OTHER if back.schema.field(n).type != table.schema.field(n).type}
        assert changed == {"view", "views"}
    else:
        assert not any("view" in str(t) or "large" in str(t) for t in back.schema.types)
    place.write(client, table, mode="append")
    assert read(client, place).num_rows == 6


def test_times_and_wide_decimals(client: Client, place: Place) -> None:
    time = pa.table({"t": pa.array([dt.time(1, 2, 3), None], pa.time64("us"))})
    wide = pa.table({"d": pa.array([decimal.Decimal("1.25"), None], pa.decimal256(60, 2))})
    for table, kinds in ((time, ("iceberg", "lance")), (wide, ("lance",))):
        if place.kind in kinds:
            place.write(client, table, mode="replace")
            assert read(client, place) == table
        else:
            with pytest.raises(InvalidObjectError, match="no such type"):
                place.write(client, table, mode="replace")


def test_types_that_are_told(client: Client, place: Place) -> None:
    odd: dict[str, pa.Array] = {
        "union": pa.UnionArray.from_dense(
            pa.array([0], pa.int8()), pa.array([0], pa.int32()), [pa.array([1])]
        ),
    }
    if place.kind != "lance":
        odd["duration"] = pa.array([1], pa.duration("us"))
        odd["nulls"] = pa.nulls(1)
        odd["view"] = pa.array([[1]], pa.list_view(pa.int64()))  # whose casts Arrow gets wrong
        odd["inner"] = pa.array([[1]], pa.list_(pa.duration("us")))
    for column in odd.values():
        with pytest.raises(InvalidObjectError, match=r"column 'odd' is .* have no such type"):
            place.write(client, pa.table({"ok": [1], "odd": column}))
    if place.kind != "lance":
        lossy = pa.table({"odd": pa.array([1], pa.timestamp("ns"))})
        with pytest.raises(SchemaMismatchError, match=r"column 'odd' of .*convert it before"):
            place.write(client, lossy)
    with pytest.raises(PathNotFoundError):
        read(client, place)  # nothing came of it


A = {"a": 1}
MAP = pa.map_(pa.string(), pa.struct({"a": pa.int64()}))


@pytest.mark.parametrize(
    ("column", "fine"),
    [
        (pa.array([[A], None]), pa.array([[A], []])),
        (pa.array([{"l": [[A], None]}, None]), pa.array([{"l": [[A], []]}, None])),
        (pa.array([[("k", A)], None], MAP), pa.array([[("k", A)], []], MAP)),
    ],
)
def test_nulls_that_pyiceberg_loses_are_told(
    client: Client, tmp_path: Path, column: pa.Array, fine: pa.Array
) -> None:
    for place in make_place("iceberg", tmp_path):
        table = pa.table({"id": [1, 2], "odd": column})
        with pytest.raises(InvalidObjectError, match=r"column 'odd' .*null lists or maps"):
            place.write(client, table)
        place.write(client, table.set_column(1, "odd", fine))
        assert read(client, place)["odd"].to_pylist() == fine.to_pylist()
        (file,) = place.data()
        there = pq.read_table(file)
        field = there.schema.field("odd")
        pq.write_table(there.set_column(1, field, column.cast(field.type)), file)  # as others do
        with pytest.raises(FileError, match="column 'odd'"):
            read(client, place)
        reader = client.scan(place.url, **place.options)
        with reader, pytest.raises(StreamFailedError, match="column 'odd'"):
            reader.read_all()
        assert read(client, place, columns=["id"])["id"].to_pylist() == [1, 2]


# ---- versions


def test_time_travel(client: Client, place: Place) -> None:
    times = []
    for rows, mode in (([1], "fail"), ([2], "append"), ([3], "replace")):
        place.write(
            client, pa.table({"a": rows} | ({"b": ["x"]} if rows == [3] else {})), mode=mode
        )
        times.append(dt.datetime.now(dt.UTC))
        assert gone(lambda: dt.datetime.now(dt.UTC) > times[-1] + dt.timedelta(milliseconds=20))
    versions = place.versions()
    for version, at, found in zip(versions, times, ([1], [1, 2], [3]), strict=True):
        assert sorted(read(client, place, version=version)["a"].to_pylist()) == found
        for told in (at, at.isoformat()):
            assert sorted(read(client, place, timestamp=told)["a"].to_pylist()) == found
    assert read(client, place, version=versions[0]).column_names == ["a"]
    with client.scan(place.url, **place.options, version=versions[0]) as reader:
        assert reader.read_all().to_pydict() == {"a": [1]}
    for wrong in ({"version": 12345}, {"timestamp": "2001-01-01"}):
        for do in (client.read, client.scan):
            with pytest.raises(VersionNotFoundError, match="has no version"):
                do(place.url, **place.options, **wrong)
    for nonsense in (1.5, True):
        with pytest.raises(ConfigError, match="version="):
            read(client, place, version=nonsense)
    with pytest.raises((VersionNotFoundError, ConfigError), match="nothere"):
        read(client, place, version="nothere")
    place.tag("first", versions[0])
    if place.kind != "delta":
        assert read(client, place, version="first").to_pydict() == {"a": [1]}


# ---- partitions


@pytest.mark.parametrize("kind", PARTITIONED)
def test_partitions(client: Client, tmp_path: Path, kind: str) -> None:
    for place in make_place(kind, tmp_path):
        place.write(client, TABLE, partition_by=["month"])
        assert read(client, place).sort_by("id").select(TABLE.column_names) == TABLE
        for n in range(3):
            shutil.rmtree(next(tmp_path.rglob(f"month={n}"))) if n != 1 else None
        some = read(client, place, columns=["id"], filter=pc.field("month") == 1)
        assert sorted(some["id"].to_pylist()) == list(range(1, ROWS, 3))  # nothing else is read
        with pytest.raises(ConfigError, match="is partitioned by 'month'"):
            place.write(client, TABLE, partition_by=["s"], mode="append")
        more = pa.table({"id": [-1], "month": [1]})
        place.write(client, more, mode="append", partition_by="month")
        some = read(client, place, columns=["id"], filter=[("month", "=", 1), ("id", "<", 2)])
        assert sorted(some["id"].to_pylist()) == [-1, 1]


def test_lance_has_no_partitions(client: Client, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="have no partitions"):
        client.write(TABLE, tmp_path / "t.lance", partition_by=["month"])
    assert not list(tmp_path.iterdir())


# ---- where


def test_drivers_are_listed(client: Client) -> None:
    for kind in ("read", "scan", "write"):
        names = {f for d in client.drivers(kind) for f in d.formats or ()}
        assert names >= set(KINDS)
    assert "timestamp" in next(d for d in client.drivers("read") if d.formats == ("delta",)).options


def test_urls(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some = TABLE.slice(0, 3)
    client.write(some, f"delta://{tmp_path}/d")
    client.write(some, f"lance://{tmp_path}/l")
    client.write(some, tmp_path / "m.lance")
    for url in (f"delta://{tmp_path}/d", f"delta+file://{tmp_path}/d", tmp_path / "d"):
        assert got(client, url) == some
    assert got(client, f"file://{tmp_path}/d", format="delta") == some
    monkeypatch.chdir(tmp_path)
    for url in ("d", f"lance://{tmp_path}/l", f"file://{tmp_path}/m.lance", "m.lance"):
        assert got(client, url) == some
    for url in ("delta://d", "lance://l", "iceberg://catalog", "delta+s3://b/t?key=secret"):
        with pytest.raises(ConfigError) as failed:
            client.read(url)
        assert "secret" not in str(failed.value)


def test_files_of_a_delta_table_are_no_table(client: Client, tmp_path: Path) -> None:
    client.write(TABLE, tmp_path / "d", format="delta")
    client.write(TABLE, tmp_path / "d", mode="append")  # seen by its log
    with pytest.raises(ConfigError, match=r"is a Delta table.*format='delta'"):
        client.read(tmp_path / "d", format="parquet")
    assert got(client, f"{tmp_path}/d/*.parquet").num_rows == 2 * ROWS
    with pytest.raises(ConfigError, match="is a Delta table"):
        client.write(TABLE, tmp_path / "d", format="parquet", file_rows=10_000, overwrite=True)


def test_environments_are_kept(client: Client, tmp_path: Path) -> None:
    before = dict(os.environ)
    client.write(TABLE.slice(0, 3), tmp_path / "d", format="delta")
    assert dict(os.environ) == before


def test_a_name_is_that_of_one_column(client: Client, place: Place) -> None:
    with pytest.raises(InvalidObjectError, match=r"the name 'a'.*rename"):
        place.write(client, pa.table([[1], [2]], names=["a", "a"]))
    if place.kind == "lance":  # could not read what has none
        with pytest.raises(InvalidObjectError, match="rename"):
            place.write(client, pa.table([[1], [2]], names=["a", ""]))
    assert not place.files()
