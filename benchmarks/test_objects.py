"""Objects of many parts: composites of 1,000 members, pandas frames of 200 columns."""

from __future__ import annotations

import gc
import statistics
import time
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from measure import paired, ratio_of, report, seconds, time_of

from vineyard_arrow import ObjectMeta

MEMBERS = 1000
ROWS, COLUMNS = 10_000, 200
ROUNDS = 49
LIMIT_S = 3e-3
FEW_LIMIT_S = 1e-3
METADATA_LIMIT = 40 << 10


# ---- composites


@pytest.fixture
def composite(store: Any) -> Any:
    """Id of an object of 1,000 tables."""
    members = store.client.put_many([pa.table({"a": np.arange(10) + i}) for i in range(MEMBERS)])
    meta = ObjectMeta("bench.composite")
    for i, member in enumerate(members):
        meta.add_member(f"m{i}", member)
    return store.client.create_metadata(meta).id


def all_at_once(part, stored):
    return stored.members()


def one_by_one(part, stored):
    return [stored.member(f"m{i}") for i in range(MEMBERS)]


HOW = {"a get of all, in one step": all_at_once, "a get of all, one by one": one_by_one}


@pytest.mark.benchmark(group="objects: a composite of 1,000 members")
@pytest.mark.parametrize("how", [*HOW, "get_object, and its metadata"])
def test_composite(benchmark, store, composite, how):
    client = store.client

    def ours() -> float:
        """Processor time: nothing is waited for."""
        start = time.thread_time()
        if how in HOW:
            client.get(composite, resolver=HOW[how])
        else:
            client.get_object(composite).meta.members  # noqa: B018
        return time.thread_time() - start

    gc.collect()
    (taken,) = paired(benchmark, ours, rounds=ROUNDS)
    ratio = statistics.median(taken) / LIMIT_S
    target = "" if how.endswith("one by one") else "<= 1"
    report(benchmark, f"{how} / 3 ms", time_of(taken), time_of(LIMIT_S), ratio, target)


# ---- frames


def few_dtypes() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    kinds = [
        pd.DataFrame(rng.random((ROWS, COLUMNS - 80))),
        pd.DataFrame(rng.integers(0, 9, (ROWS, 60))),
        pd.DataFrame(rng.random((ROWS, 20)) < 0.5),
    ]
    return named(pd.concat(kinds, axis=1))


def many_dtypes() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    makers = [
        lambda: rng.random(ROWS),
        lambda: rng.integers(0, 99, ROWS),
        lambda: pd.array([f"text {j % 97}" for j in range(ROWS)]),
        lambda: pd.Categorical.from_codes(rng.integers(0, 5, ROWS), list("abcde")),
        lambda: pd.date_range("2020", periods=ROWS, freq="s"),
        lambda: rng.random(ROWS) < 0.5,
        lambda: pd.array(rng.integers(0, 99, ROWS), dtype="Int32"),
        lambda: rng.random(ROWS).astype("f4"),
    ]
    return named(pd.DataFrame({i: makers[i % len(makers)]() for i in range(COLUMNS)}))


def named(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.set_axis([f"column {i}" for i in range(COLUMNS)], axis=1)


FRAMES = {"few dtypes": few_dtypes, "many dtypes": many_dtypes}
frames = pytest.mark.benchmark(group="objects: a pandas frame of 200 columns")


@frames
@pytest.mark.parametrize("kind", FRAMES)
def test_metadata(benchmark, store, kind):
    """Messages of all parts, and the description that is the root part's data."""
    client = store.client
    frame = FRAMES[kind]()
    (draft,) = client._encode(frame)
    parts = draft.parts
    plan = client._a._plan(parts)
    plan.place()
    nbytes = len(plan.streams()) + sum(batch.nbytes for batch in parts[0].batches)
    plan.abandon()
    benchmark.pedantic(lambda: client._encode(frame), rounds=9)
    ours, limit = f"{nbytes / 1024:.1f} KiB", f"{METADATA_LIMIT >> 10} KiB"
    report(benchmark, f"metadata, {kind} / 40 KiB", ours, limit, nbytes / METADATA_LIMIT, "<= 1")


@frames
def test_put_of_few_dtypes(benchmark, store):
    """Beyond the copy: what a put of the same blocks costs as plain buffers.

    Of the same sizes, that is, so that both are copied to the same warm pages; in processor time
    of all threads, since they copy as long as others let them.
    """
    client = store.client
    frame = few_dtypes()
    blocks = [pa.py_buffer(np.ones(b.values.nbytes, np.uint8)) for b in frame._mgr.blocks]

    def put(value: Any) -> float:
        start = time.process_time()
        made = client.put(value)
        taken = time.process_time() - start
        client.delete(made)
        return taken

    ours, copy = paired(benchmark, lambda: put(frame), lambda: put(blocks), rounds=ROUNDS)
    beyond = [a - b for a, b in zip(ours, copy, strict=True)]
    ratio = statistics.median(beyond) / FEW_LIMIT_S
    report(
        benchmark, "put, few dtypes, less the copy / 1 ms", time_of(beyond), "1 ms", ratio, "<= 1"
    )


@frames
def test_get_of_few_dtypes(benchmark, store):
    client = store.client
    oid = client.put(few_dtypes())
    (ours,) = paired(benchmark, lambda: seconds(client.get, oid), rounds=ROUNDS)
    ratio = statistics.median(ours) / FEW_LIMIT_S
    report(benchmark, "get, few dtypes / 1 ms", time_of(ours), "1 ms", ratio, "<= 1")


@frames
@pytest.mark.parametrize("what", ["put / from_pandas", "get / to_pandas"])
def test_many_dtypes(benchmark, store, what):
    client = store.client
    frame = many_dtypes()
    table = pa.Table.from_pandas(frame)
    oid = client.put(frame)

    def put() -> float:
        made = []
        taken = seconds(lambda: made.append(client.put(frame)))
        client.delete(made)
        return taken

    if what.startswith("put"):
        ours, theirs = put, lambda: seconds(pa.Table.from_pandas, frame)
    else:
        ours, theirs = lambda: seconds(client.get, oid), lambda: seconds(table.to_pandas)
    mine, yardstick = paired(benchmark, ours, theirs, rounds=ROUNDS // 2)
    ratio = ratio_of(mine, yardstick)
    report(benchmark, f"{what}, many dtypes", time_of(mine), time_of(yardstick), ratio, "<= 1.5")
