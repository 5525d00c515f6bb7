"""Get: no round trip, no copy, whatever the size."""

from __future__ import annotations

import statistics

import numpy as np
import peers
import pyarrow as pa
import pytest
from measure import (
    GIB,
    KIB,
    once,
    p50,
    paired,
    ratio_of,
    report,
    rss_anon,
    time_of,
)

pytestmark = pytest.mark.benchmark(group="get")

COLUMNS = "abcd"
GETS = 500


def table_of(nbytes: int, columns: str = COLUMNS) -> pa.Table:
    rows = max(1, nbytes // len(columns) // 8)
    return pa.table({c: np.arange(rows, dtype=np.float64) for c in columns})


def test_yardstick(benchmark, echo):
    """How far apart the two bare round trips are; the first is what all is compared with."""
    apart, together = paired(benchmark, echo.p50, lambda: echo.p50(apart=False), rounds=10)
    report(
        benchmark,
        "bare round trip between two cores / on one",
        time_of(apart),
        time_of(together),
        ratio_of(apart, together),
    )


@pytest.mark.parametrize("by", ["id", "name"])
def test_round_trip(benchmark, store, echo, by):
    oid = store.client.put(table_of(KIB), name="table")
    key = oid if by == "id" else "table"
    ours, theirs = paired(
        benchmark, lambda: p50(lambda: store.client.get(key), GETS), echo.p50, rounds=20
    )
    report(
        benchmark,
        f"get of 4 columns by {by} / bare socket round trip",
        time_of(ours),
        time_of(theirs),
        ratio_of(ours, theirs),
        "<= 0.5",
    )


def test_eight_clients(benchmark, store, echo, crowd):
    oid = store.client.put(table_of(KIB))
    alone = [echo.p50() for _ in range(10)]
    for peer in crowd:
        peer.call(peers.attach, store.socket)

    def all_get() -> list[float]:
        for peer in crowd:
            peer.start(peers.get_for, oid, 1.0)
        return [peer.result() for peer in crowd]

    ours = once(benchmark, all_get)
    for peer in crowd:
        peer.call(peers.detach)
    alone += [echo.p50() for _ in range(10)]
    report(
        benchmark,
        f"the same, {len(crowd)} clients at once / round trip of one",
        time_of(ours),
        time_of(alone),
        statistics.median(ours) / statistics.median(alone),
        "<= 0.5",
    )


def test_size(benchmark, store):
    client = store.client
    small = client.put(table_of(KIB))
    large = client.put(table_of(GIB))
    ours, theirs = paired(
        benchmark,
        lambda: p50(lambda: client.get(large), GETS),
        lambda: p50(lambda: client.get(small), GETS),
        rounds=20,
    )
    report(
        benchmark,
        "get of 1 GiB / get of 1 KiB",
        time_of(ours),
        time_of(theirs),
        ratio_of(ours, theirs),
        "<= 1.5",
    )
    before = rss_anon(), pa.total_allocated_bytes()
    table = client.get(large)
    grown = max(0, rss_anon() - before[0]) + pa.total_allocated_bytes() - before[1]
    report(
        benchmark,
        "memory that a get of 1 GiB takes / 1 GiB",
        f"{grown:,} B",
        "1 GiB",
        grown / table.nbytes,
        "<= 0.0001",
    )


def test_wide(benchmark, store):
    columns = {f"column_{i}": np.arange(10.0) for i in range(1000)}
    oid = store.client.put(pa.table(columns))
    (ours,) = paired(benchmark, lambda: p50(lambda: store.client.get(oid), 10), rounds=20)
    report(
        benchmark,
        "get of 1,000 columns / 1 ms",
        time_of(ours),
        "1 ms",
        statistics.median(ours) / 1e-3,
        "<= 1",
    )


def test_chunks(benchmark, store, echo):
    oid = store.client.put(pa.concat_tables([table_of(KIB)] * 100))
    ours, theirs = paired(
        benchmark, lambda: p50(lambda: store.client.get(oid), 20), echo.p50, rounds=20
    )
    report(
        benchmark,
        "get of 4 columns in 100 chunks / round trip",
        time_of(ours),
        time_of(theirs),
        ratio_of(ours, theirs),
    )
