"""Partitions of tables, frames, arrays and graphs on one instance, against pandas and NumPy."""

from __future__ import annotations

import subprocess
import sys
from datetime import date
from decimal import Decimal
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vineyard_arrow.client import Client
from vineyard_arrow.distributed import GlobalDataFrame, GlobalTable, GlobalTensor
from vineyard_arrow.errors import (
    ConfigError,
    DriverNotFoundError,
    InvalidObjectError,
    ObjectExistsError,
    ObjectNotFoundError,
    ResolverNotFoundError,
    StoreFullError,
)
from vineyard_arrow.graph import GlobalGraph, Graph
from vineyard_arrow.partitioning.hashing import hashes
from vineyard_arrow.partitioning.placing import placed

MANY = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
ROWS = 40_000


def some(rows: int = ROWS, seed: int = 1) -> pa.Table:
    random = np.random.default_rng(seed)
    return pa.table(
        {
            "k": random.integers(0, 1000, rows),
            "v": random.random(rows),
            "s": pa.array([None if i % 11 == 0 else f"text {i % 97}" for i in range(rows)]),
        },
        metadata={"kept": "yes"},
    )


def parts_of(client: Client, oid: Any) -> list[Any]:
    return list(client.get(oid))


def ways(client: Client, oid: Any) -> tuple[int, int, int]:
    """Bytes copied, gathered and shared by the puts of the partitions."""
    metas = [client.get_meta(each) for each in client.get(oid).object_ids]
    return (
        sum(m.copied for m in metas),
        sum(m.gathered for m in metas),
        sum(m.shared for m in metas),
    )


def as_sorted(table: pa.Table) -> list[tuple[Any, ...]]:
    rows = zip(*(c.to_pylist() for c in table.columns), strict=True)
    return sorted(rows, key=repr)


@pytest.fixture
def stored(client: Client) -> tuple[Client, Any, pa.Table]:
    table = some()
    return client, client.put(table), table


# ---- tables


def test_slices_copy_nothing(stored: tuple[Client, Any, pa.Table]) -> None:
    client, oid, table = stored
    plan = client.partition(oid, 3, plan=True)
    assert (plan.copied, plan.moved, plan.in_place) == (0, 0, 0)
    assert client.status().objects == 1  # nothing is done by a plan
    made = plan.run(name="parts", labels={"a": "b"})
    whole = client.get("parts")
    assert isinstance(whole, GlobalTable)
    assert whole.object_ids == client.get(made).object_ids
    assert client.get_meta(made).labels == {"a": "b"}
    assert [p.num_rows for p in whole.partitions] == [13_333, 13_333, 13_334]
    assert pa.concat_tables(whole) == table
    assert whole.schema.metadata == {b"kept": b"yes"}
    copied, _, shared = ways(client, made)
    assert copied == 0
    assert shared > table.nbytes * 0.85  # bits and offsets of slices are computed
    again = plan.run()
    assert again != made
    assert pa.concat_tables(client.get(again)) == table


def test_what_is_whole_stays(stored: tuple[Client, Any, pa.Table]) -> None:
    client, oid, _ = stored
    made = client.partition(oid, 1)
    assert client.get(made).object_ids == [oid]


def test_rows_that_are_gathered_are_copied_once(stored: tuple[Client, Any, pa.Table]) -> None:
    client, oid, table = stored
    plan = client.partition(oid, 4, by="k", plan=True)
    assert plan.copied == plan.partitions[0].nbytes + sum(p.nbytes for p in plan.partitions[1:])
    assert abs(plan.copied - table.nbytes) < 100
    made = plan.run()
    copied, _, shared = ways(client, made)
    assert copied == 0  # they were built where they stay
    assert shared > table.nbytes * 0.6  # small buffers are gathered
    parts = parts_of(client, made)
    assert as_sorted(pa.concat_tables(parts)) == as_sorted(table)
    owners = hashes([table["k"].combine_chunks()]) % np.uint64(4)
    for i, part in enumerate(parts):
        assert part == table.take(np.flatnonzero(owners == i))  # in their order


def test_by_range(stored: tuple[Client, Any, pa.Table]) -> None:
    client, oid, table = stored
    whole = client.get(client.partition(oid, 8, by="k", how="range"))
    assert whole.key == "k"
    frame = table.to_pandas()
    end = -1
    for part in whole.partitions:
        lower, upper = part.place.bounds
        assert end < lower <= upper
        rows = frame[(frame.k >= lower) & (frame.k <= upper)]
        got = part.get().to_pandas()
        pd.testing.assert_frame_equal(got, rows.reset_index(drop=True))
        assert ROWS / 8 * 0.8 < len(got) < ROWS / 8 * 1.2
        end = upper
    given = client.get(client.partition(oid, by="k", bounds=[100, 500]))
    assert [p.place.bounds for p in given.partitions] == [(0, 99), (100, 499), (500, 999)]


def test_ranges_of_sorted_rows_copy_nothing(client: Client) -> None:
    table = some().sort_by("k")
    plan = client.partition(client.put(table), 5, by="k", how="range", plan=True)
    assert plan.copied == 0
    made = plan.run()
    assert ways(client, made)[0] == 0
    assert pa.concat_tables(client.get(made)) == table


def test_ranges_with_nulls_and_gaps(client: Client) -> None:
    nan = float("nan")
    table = pa.table({"x": pa.array([3.0, None, 1.0, nan, 2.0, 1.0])})
    whole = client.get(client.partition(table, by="x", bounds=[2.0, 2.5, 2.75, 9.0]))
    assert [p["x"].to_pylist() for p in whole[:4]] == [[1.0, 1.0], [2.0], [], [3.0]]
    last = whole[4]["x"].to_pylist()
    assert last[0] is None
    assert np.isnan(last[1])
    assert [p.place.bounds for p in whole.partitions] == [
        (1.0, 1.0),
        (2.0, 2.0),
        (2.5, 2.5),
        (3.0, 3.0),
        (9.0, 9.0),
    ]
    below = client.get(client.partition(table, by="x", bounds=[0.5]))
    assert [p.place.bounds for p in below.partitions] == [None, None]


def test_readers_and_large_numbers(client: Client) -> None:
    table = pa.table({"u": pa.array([1 << 63, 1, 2, (1 << 64) - 1], pa.uint64())})
    whole = client.get(client.partition(table.to_reader(), 2, by="u", how="range"))
    assert [p.place.bounds for p in whole.partitions] == [(1, 2), (1 << 63, (1 << 64) - 1)]
    batch = table.to_batches()[0]
    assert client.get(client.concat([batch, batch])) == pa.concat_tables([table, table])
    with pytest.raises(ResolverNotFoundError, match=r"client\.concat"):
        client.get(client.partition(table, 2), as_="polars")
    other = pa.table({"d": pa.array(["x", "y"]).dictionary_encode()})
    codes = client.concat([other, pa.table({"d": pa.array(["z", "y"]).dictionary_encode()})])
    assert client.get(codes)["d"].to_pylist() == ["x", "y", "z", "y"]


def test_equal_keys_stay_together(client: Client) -> None:
    table = pa.table({"x": [7] * 90 + [8] * 10})
    plan = client.partition(table, 10, by="x", how="range", plan=True)
    assert [p.rows for p in plan.partitions] == [90, 10]
    one = client.partition(pa.table({"x": [7] * 9}), 3, by="x", how="range")
    assert [p.num_rows for p in client.get(one).partitions] == [9]


def test_a_partition_for_each_value(client: Client) -> None:
    table = pa.table({"a": ["y", "x", None, "y"], "b": [1, 1, 2, 2], "c": [0, 1, 2, 3]})
    whole = client.get(client.partition(table, by="a"))
    assert [p["c"].to_pylist() for p in whole] == [[1], [0, 3], [2]]
    assert whole.key is None  # null has no bounds
    whole = client.get(client.partition(table, by="b"))
    assert [p.place.bounds for p in whole.partitions] == [(1, 1), (2, 2)]
    both = client.get(client.partition(table, by=["b", "a"]))
    assert [p["c"].to_pylist() for p in both] == [[1], [0], [3], [2]]


def test_in_turn_and_by_a_function(client: Client) -> None:
    table = pa.table({"x": range(7)})
    turned = client.get(client.partition(table, 3, how="round_robin"))
    assert [p["x"].to_pylist() for p in turned] == [[0, 3, 6], [1, 4], [2, 5]]

    def odd(rows: pa.Table) -> Any:
        return rows["x"].to_numpy() % 2

    halves = client.get(client.partition(table, 2, how=odd))
    assert [p["x"].to_pylist() for p in halves] == [[0, 2, 4, 6], [1, 3, 5]]


def test_balanced_by_bytes(client: Client) -> None:
    table = pa.table({"s": ["x" * 10_000] * 10 + ["y"] * 10_000, "k": range(10_010)})
    even = client.partition(table, 2, plan=True)
    assert [p.rows for p in even.partitions] == [5005, 5005]
    for options in ({}, {"by": "k", "how": "range"}):
        made = client.partition(table, 2, balance="bytes", **options)
        sizes = [p.get().nbytes for p in client.get(made).partitions]
        assert max(sizes) < 1.3 * min(sizes)


KEYS = st.one_of(
    st.lists(st.one_of(st.none(), st.integers(-5, 5)), min_size=1).map(
        lambda v: pa.array(v, pa.int32())
    ),
    st.lists(st.one_of(st.none(), st.floats(width=32)), min_size=1).map(
        lambda v: pa.array(v, pa.float64())
    ),
    st.lists(st.one_of(st.none(), st.text("abé\0", max_size=20)), min_size=1).map(
        lambda v: pa.array(v, pa.string())
    ),
    st.lists(st.one_of(st.none(), st.text("ab", max_size=30)), min_size=1).map(
        lambda v: pa.array(v, pa.string_view())
    ),
    st.lists(st.sampled_from([None, "x", "y"]), min_size=1).map(
        lambda v: pa.array(v, pa.string()).dictionary_encode()
    ),
    st.lists(st.one_of(st.none(), st.dates(date(1990, 1, 1))), min_size=1).map(
        lambda v: pa.array(v, pa.date32())
    ),
    st.lists(st.one_of(st.none(), st.decimals(-9, 9, places=1)), min_size=1).map(
        lambda v: pa.array(v, pa.decimal128(5, 1))
    ),
    st.lists(st.one_of(st.none(), st.booleans()), min_size=1).map(pa.array),
)


@MANY
@given(keys=KEYS, n=st.integers(1, 5), how=st.sampled_from(["hash", "range", "values"]))
def test_every_row_once(client: Client, keys: pa.Array, n: int, how: str) -> None:
    table = pa.table({"k": keys, "row": range(len(keys))})
    cut = len(keys) // 2
    options: dict[str, Any] = {"by": "k", "how": how}
    if how != "values":
        options["n"] = n
    whole = client.get(client.partition(table, **options))
    pieces = [client.put(table[:cut]), client.put(table[cut:])]
    tied = client.create_global(pieces)
    assert tied.id is not None
    again = client.get(client.repartition(tied.id, **options))
    frame = pd.DataFrame({"k": list(map(repr, keys.to_pylist()))})  # null, NaN are values too
    frame["k"] = frame["k"].replace("-0.0", "0.0")
    for made in (whole, again):  # cut by pieces or not, the same rows
        rows = [p["row"].to_pylist() for p in made]
        assert sorted(chain(*rows)) == list(range(len(keys)))
        assert all(r == sorted(r) for r in rows)
        values = keys.to_pylist()
        for p, part in zip(made, rows, strict=True):
            assert repr(p["k"].to_pylist()) == repr([values[i] for i in part])
        owner = {row: i for i, part in enumerate(rows) for row in part}
        owners = pd.Series([owner[i] for i in range(len(keys))])
        assert (owners.groupby(frame["k"]).nunique() == 1).all()
        if how == "values":
            assert len(made) == frame["k"].nunique()
        elif how == "hash":
            assert len(made) == n
    if how != "range":
        assert [p["row"] for p in whole] == [p["row"] for p in again]
    client.clear()


def test_the_hash_is_what_it_was() -> None:
    """These figures are promised: who changes them parts rows that were together."""
    columns: list[tuple[pa.Array, list[int]]] = GOLDEN
    for array, known in columns:
        assert hashes([array]).tolist() == known, array.type


def test_hashes_of_equal_values(client: Client) -> None:
    ints = [1, None, -1]
    expected = hashes([pa.array(ints, pa.int64())]).tolist()
    for type_ in (pa.int8(), pa.int32(), pa.duration("s"), pa.time64("us")):
        assert hashes([pa.array(ints, pa.int64()).cast(type_)]).tolist() == expected
    texts = pa.array(["a", "a longer text than fits in a view", None])
    expected = hashes([texts]).tolist()
    for type_ in (pa.large_string(), pa.binary(), pa.large_binary()):
        assert hashes([texts.cast(type_)]).tolist() == expected
    assert hashes([texts[1:]]).tolist() == expected[1:]
    assert len({*hashes([pa.array([0.0, -0.0, 1.0])]).tolist()}) == 2
    assert len({*hashes([pa.array([1, 1]), pa.array([1, 2])]).tolist()}) == 2
    a, b = pa.array([1]), pa.array([2])
    assert hashes([a, b]).tolist() != hashes([b, a]).tolist()
    code = (
        "import pyarrow as pa; from vineyard_arrow.partitioning.hashing import hashes;"
        "print(hashes([pa.array([1, None, -1])]).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(hashes([pa.array([1, None, -1])]).tolist())


# ---- frames


def test_pandas_keeps_its_index(client: Client) -> None:
    frame = pd.DataFrame(
        {"a": np.arange(30_000.0), "b": np.arange(30_000.0) * 2, "c": ["x", "y", "z"] * 10_000},
        index=pd.date_range("2026-01-01", periods=30_000, freq="min", name="when"),
    )
    frame.attrs["unit"] = "m"
    oid = client.put(frame)
    sliced = client.partition(oid, 3)
    whole = client.get(sliced)
    assert isinstance(whole, GlobalDataFrame)
    pd.testing.assert_frame_equal(pd.concat(whole), frame, check_freq=False)
    assert whole[0].attrs == {"unit": "m"}
    assert ways(client, sliced)[0] < 30_000 * 8  # not the two columns of one block
    hashed = client.get(client.partition(oid, 3, by="c"))
    pd.testing.assert_frame_equal(pd.concat(hashed).sort_index(), frame, check_freq=False)
    assert sum(part["c"].nunique() for part in hashed) == 3
    ranged = client.get(client.partition(oid, 4, how="range"))  # of the index
    assert ranged.key is None
    assert [p.place.bounds[0] for p in ranged.partitions] == [
        frame.index[i * 7500] for i in range(4)
    ]
    joins = client.concat(sliced, plan=True)
    assert (joins.shared, joins.copied > 0) == (0, True)
    back = client.get(client.concat(hashed))
    pd.testing.assert_frame_equal(back.sort_index(), frame, check_freq=False)


def test_polars(client: Client) -> None:
    frame = pl.DataFrame(
        {"a": range(1000), "s": [f"some text of its own {i % 7}" for i in range(1000)]}
    )
    oid = client.put(frame)
    whole = client.get(client.partition(oid, 4))
    assert pl.concat(list(whole)).equals(frame)
    hashed = client.get(client.partition(oid, 4, by="s"))
    assert pl.concat(list(hashed)).sort("a").equals(frame)
    assert sum(part["s"].n_unique() for part in hashed) == 7
    assert client.get(client.concat(hashed)).sort("a").equals(frame)


# ---- anew


def test_repartition_and_concat(stored: tuple[Client, Any, pa.Table]) -> None:
    client, oid, table = stored
    four = client.partition(oid, 4)
    three = client.repartition(four, 3)
    assert pa.concat_tables(client.get(three)) == table
    assert ways(client, three)[0] == 0
    same = client.repartition(four)
    assert client.get(same).object_ids == client.get(four).object_ids
    assert client.repartition(four, plan=True).in_place > 0
    one = client.concat(three, name="one")
    assert client.get("one") == table
    assert client.get_meta(one).copied == 0
    again = client.concat(oid, plan=True)
    assert (again.in_place, again.shared) == (0, client.get_meta(oid).nbytes)
    assert again.run() != oid
    both = client.concat([oid, table[:3], "one"])
    assert client.get(both) == pa.concat_tables([table, table[:3], table])
    ranged = client.partition(oid, 4, by="k", how="range")
    assert client.get(client.repartition(ranged)).key == "k"  # bounds stay with what stays
    assert client.get(client.repartition(client.get(ranged), 2)).key is None


# ---- arrays


@MANY
@given(data=st.data(), shape=st.lists(st.integers(0, 7), min_size=1, max_size=3))
def test_chunks(client: Client, data: st.DataObject, shape: list[int]) -> None:
    whole = np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape)
    if data.draw(st.booleans()):
        whole = np.asfortranarray(whole)

    def chunks() -> list[int]:
        return [data.draw(st.integers(1, 8)) for _ in shape]

    first = client.partition(client.put(whole), chunks=chunks())
    second = client.repartition(first, chunks=chunks())
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    third = client.repartition(second, data.draw(st.integers(1, 9)), axis=axis)
    for oid in (first, second, third):
        found = client.get(oid)
        assert isinstance(found, GlobalTensor)
        assert found.shape == whole.shape
        for part in found.partitions:
            at = tuple(
                slice(o, o + n) for o, n in zip(part.place.offset, part.place.shape, strict=True)
            )
            np.testing.assert_array_equal(part.get(), whole[at])
        np.testing.assert_array_equal(client.get(client.concat(oid)), whole)
    client.clear()


def test_blocks_of_rows_copy_nothing(client: Client) -> None:
    array = np.random.default_rng(1).random((4000, 100))
    oid = client.put(array)
    plan = client.partition(oid, 4, plan=True)
    assert (plan.shared, plan.copied) == (array.nbytes, 0)
    made = plan.run()
    assert ways(client, made) == (0, 0, array.nbytes)
    tiled = client.repartition(made, chunks=(1000, 50))
    assert ways(client, tiled) == (0, 0, array.nbytes)  # filled in the pool, once
    assert client.repartition(made, chunks=(1000, 50), plan=True).copied == array.nbytes
    np.testing.assert_array_equal(
        client.get(client.concat([array[:2], array[2:5]], axis=0)), array[:5]
    )
    np.testing.assert_array_equal(
        client.get(client.concat([array[:2], array[:2]], axis=1)), np.hstack([array[:2]] * 2)
    )


# ---- graphs


def test_graphs(client: Client) -> None:
    random = np.random.default_rng(1)
    vertices = pa.table({"id": range(500)})
    edges = pa.table({"a": random.integers(0, 500, 3000), "b": random.integers(0, 500, 3000)})
    graph = Graph.from_tables(
        {"v": vertices}, {("v", "e", "v"): edges}, oid="id", src="a", dst="b", client=client
    )
    oid = client.put(graph)
    plan = client.partition(oid, 3, how="range", plan=True)
    assert sum(p.rows for p in plan.partitions) == 500
    whole = client.get(plan.run(name="g"))
    assert isinstance(whole, GlobalGraph)
    assert [f.num_inner("v") for f in whole] == [p.rows for p in plan.partitions]
    assert whole.num_edges() == 3000
    anew = client.get(client.repartition("g", 2))
    assert (anew.fnum, anew.num_edges()) == (2, 3000)
    back = client.get(client.concat("g"))
    assert (back.num_vertices(), back.num_edges()) == (500, 3000)
    with pytest.raises(InvalidObjectError):
        client.partition(oid, 0)


# ---- plans and errors


def test_a_plan_is_printed(client: Client) -> None:
    table = pa.table({"k": [1] * 9 + [2], "v": range(10)})
    text = str(client.partition(client.put(table), 4, by="k", plan=True))
    lines = text.splitlines()
    assert lines[0] == "4 partitions of 10 rows in 1 pieces, by hash of k"
    assert lines[1].split() == [
        *("instance", "rows", "bytes", "in", "place", "shared", "copied", "moved"),
    ]
    assert f"{client.instance:06x}" in lines[2]
    assert lines[6].split()[:3] == ["sum", "10", "160"]
    assert "skewed: partition" in text
    assert "partitions are empty" in text


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"n": 0},
        {"n": -1},
        {"n": 1.5},
        {"n": True},
        {"n": 1 << 20},
        {"n": 2, "by": "nope"},
        {"n": 2, "by": 3},
        {"n": 2, "by": "k", "how": "magic"},
        {"n": 2, "how": "hash"},
        {"n": 2, "how": "values", "by": "k"},
        {"how": "hash", "by": "k"},
        {"n": 2, "how": "range", "by": ["k", "v"]},
        {"n": 2, "how": "range"},
        {"n": 2, "by": "k", "bounds": [1, 2]},
        {"by": "k", "bounds": [2, 1]},
        {"by": "k", "bounds": []},
        {"by": "k", "bounds": ["a"]},
        {"n": 2, "how": "round_robin", "by": "k"},
        {"n": 2, "balance": "edges"},
        {"n": 2, "by": "l"},
        {"n": 2, "how": lambda t: [0]},
        {"n": 2, "how": lambda t: [0, 1, 2]},
        {"n": 2, "how": lambda t: [0, -1, 1]},
        {"n": 2, "how": lambda t: [0.0, 1.0, 1.0]},
        {"n": 2, "how": lambda t: pa.array([0, None, 1])},
        {"n": 2, "how": lambda t: [[0], [0, 1], [1]]},
        {"n": 2, "how": lambda t: None},
    ],
)
def test_what_makes_no_sense(client: Client, options: dict[str, Any]) -> None:
    oid = client.put(pa.table({"k": [1, 2, 3], "v": [1, 2, 3], "l": [[1], [2], [3]]}))
    if options == {}:
        assert len(client.get(client.partition(oid))) == 1
        return
    with pytest.raises(InvalidObjectError):
        client.partition(oid, **options)
    assert client.status().objects == 1


def test_what_cannot_be(client: Client) -> None:
    table = some(100)
    oid = client.put(table)
    with pytest.raises(ConfigError, match="it takes n, by"):
        client.partition(oid, 2, colour="red")
    with pytest.raises(ConfigError, match="no instance"):
        client.partition(oid, 2, over=["north"])
    with pytest.raises(ObjectNotFoundError, match="not in the cluster"):
        client.partition(oid, 2, over=[12345])
    with pytest.raises(DriverNotFoundError):
        client.partition(client.put({"a": 1}), 2)
    with pytest.raises(DriverNotFoundError, match="and client"):
        client.repartition(oid, 2)
    with pytest.raises(DriverNotFoundError, match=r"vineyard\.table"):
        client.concat([])
    with pytest.raises(InvalidObjectError, match="mask"):
        client.partition(np.ma.masked_array([1, 2], [0, 1]), 2)
    with pytest.raises(InvalidObjectError):
        client.concat([oid, table.select(["k"])])
    with pytest.raises(InvalidObjectError):
        client.partition(np.zeros((2, 2)), chunks=(3,))
    with pytest.raises(InvalidObjectError):
        client.partition(np.zeros((2, 2)), chunks=((1, 2), 2))
    with pytest.raises(InvalidObjectError):
        client.partition(np.zeros((2, 2)), 2, axis=2)


def test_nothing_is_left(client: Client) -> None:
    oid = client.put(some(), name="taken")
    plan = client.partition(oid, 4, by="k", plan=True)
    with pytest.raises(ObjectExistsError):
        plan.run(name="taken")
    with pytest.raises(ObjectExistsError):
        client.concat(plan.run(name="parts"), name="taken")
    assert client.status().objects == 5
    client.delete("parts")
    client.delete(oid)
    with pytest.raises(ObjectNotFoundError):
        plan.run()


def test_a_full_store(make_daemon: Any) -> None:
    with make_daemon("--memory-limit", "24MiB", "--pages", "small").connect() as client:
        oid = client.put(pa.table({"k": np.arange(2 << 20)}))
        with pytest.raises(StoreFullError):
            client.partition(oid, 3, by="k")
        assert client.status().objects == 1
        assert len(client.get(client.partition(oid, 3))) == 3  # slices take no room


def test_interrupted(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    oid = client.put(some())
    plan = client.partition(oid, 4, by="k", plan=True)

    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Client, "create_global", interrupt)
    with pytest.raises(KeyboardInterrupt):
        plan.run()
    assert client.status().objects == 1


def test_instances_are_filled_evenly() -> None:
    assert placed([{1: 5}] * 4, [1]) == [1] * 4
    assert sorted(placed([{1: 5}] * 4, [1, 2])) == [1, 1, 2, 2]
    assert placed([{2: 9}, {1: 9}, {2: 9}, {1: 9}], [1, 2]) == [2, 1, 2, 1]
    assert placed([{}, {}], [1, 2]) in ([1, 2], [2, 1])


GOLDEN: list[tuple[pa.Array, list[int]]] = [
    (
        pa.array([0, 1, -1, None]),
        [7554142601024299614, 11101703429349865723, 10413839528683503139, 11400714819323198485],
    ),
    (
        pa.array([0.0, 1.5, float("nan"), None]),
        [7554142601024299614, 10482137942727703887, 10344705849964762084, 11400714819323198485],
    ),
    (
        pa.array(["", "a", "a text of 20 letters", None]),
        [15700384043399762497, 351513252095441961, 8061154636832704518, 11400714819323198485],
    ),
    (pa.array([True, False]), [11101703429349865723, 7554142601024299614]),
    (pa.array([date(2026, 11, 26)]), [179476341510134238]),
    (pa.array([Decimal("1.50")]), [16625573524022420604]),
]
