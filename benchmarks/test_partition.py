"""Partitions of a stored table of 256 MB: by hash against polars and pyarrow, and as slices.

Ours includes the plan and the put, so any process can map the partitions; the others leave theirs
in private memory. pyarrow has no hash of its own, so it is spared one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from measure import paired, ratio_of, report, seconds, time_of

ROWS = 8_000_000
PARTS = 8


@pytest.fixture(scope="module")
def table() -> pa.Table:
    random = np.random.default_rng(1)
    return pa.table(
        {
            "key": random.integers(0, 1 << 40, ROWS),
            "price": random.random(ROWS),
            "count": random.integers(0, 1000, ROWS),
            "day": np.arange(ROWS) // 10_000,
        }
    )


def with_polars(table: pa.Table) -> Any:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    keyed = frame.with_columns(part=pl.col("key").hash() % PARTS)
    return keyed.partition_by("part", include_key=False)


def with_pyarrow(table: pa.Table) -> Any:
    part = (table["key"].to_numpy() % PARTS).astype(np.uint8)
    order = np.argsort(part, kind="stable")
    starts = np.cumsum([0, *np.bincount(part, minlength=PARTS)]).tolist()
    return [table.take(pa.array(order[starts[i] : starts[i + 1]])) for i in range(PARTS)]


def cut(client: Any, oid: Any, copied: bool, **options: Any) -> float:
    """How long it takes; nothing is left of it."""
    made: list[Any] = []
    taken = seconds(lambda: made.append(client.partition(oid, PARTS, **options)))
    parts = client.get(made[0]).object_ids
    metas = [client.get_meta(each) for each in parts]
    assert sum(m.copied for m in metas) == 0  # gathered in the pool, or not at all
    assert client.partition(oid, PARTS, plan=True, **options).copied == 0 or copied
    del metas
    client.delete(made[0])
    client.delete(parts)
    return taken


OTHERS: dict[str, Callable[[pa.Table], Any]] = {"polars": with_polars, "pyarrow": with_pyarrow}


@pytest.mark.benchmark(
    group="256 MB of a stored table into 8 partitions by hash / in private memory"
)
@pytest.mark.parametrize("other", OTHERS)
def test_hash(benchmark: Any, store: Any, table: pa.Table, other: str) -> None:
    client, oid = store.client, store.client.put(table)
    cut(client, oid, True, by="key")  # pages are warm from here on, as the other's are
    mine, theirs = paired(
        benchmark,
        lambda: cut(client, oid, True, by="key"),
        lambda: seconds(OTHERS[other], table),
        rounds=5,
    )
    target = "<= 1.1" if other == "polars" else ""
    report(benchmark, other, time_of(mine), time_of(theirs), ratio_of(mine, theirs), target)


@pytest.mark.benchmark(group="256 MB of a stored table into 8 slices, 0 bytes copied / one copy")
@pytest.mark.parametrize("how", ["slices", "range"])
def test_slices(benchmark: Any, store: Any, table: pa.Table, how: str) -> None:
    client, oid = store.client, store.client.put(table)
    options = {"by": "day", "how": "range"} if how == "range" else {}

    def copy() -> float:
        return seconds(lambda: [pa.concat_arrays([c.chunk(0)] * 2) for c in table.columns]) / 2

    mine, theirs = paired(benchmark, lambda: cut(client, oid, False, **options), copy, rounds=5)
    report(benchmark, how, time_of(mine), time_of(theirs), ratio_of(mine, theirs))
