"""Put: from the pool without a copy, else with one, against memcpy into the same pages."""

from __future__ import annotations

import mmap
import statistics

import numpy as np
import pyarrow as pa
import pytest
from measure import (
    GIB,
    HUGE_PAGE,
    KIB,
    MIB,
    PAGE,
    Pages,
    back_memory,
    paired,
    rate_of,
    ratio_of,
    report,
    seconds,
    time_of,
)

SIZES = {
    "80 B": 80,
    "1 KiB": KIB,
    "64 KiB": 64 * KIB,
    "1 MiB": MIB,
    "64 MiB": 64 * MIB,
    "1 GiB": GIB,
}
LARGE = 64 * MIB


def rounds_for(nbytes: int) -> int:
    return 100 if nbytes <= MIB else 9 if nbytes < GIB else 3


def beyond(ours: list[float], work: list[float], trips: list[float]) -> tuple[str, float]:
    """What a put takes on top of its work: for people, and in round trips."""
    extra = [a - b for a, b in zip(ours, work, strict=True)]
    return time_of(statistics.median(extra)), ratio_of(extra, trips)


# ---- what lies in the pool already ---------------------------------------------------------------


@pytest.mark.benchmark(group="put of a table built in the pool: nothing copied")
@pytest.mark.parametrize("size", ["64 KiB", "1 MiB", "64 MiB", "1 GiB"])
def test_from_pool(benchmark, any_store, echo, size):
    client, nbytes = any_store.client, SIZES[size]
    rows = max(64 * KIB, nbytes // 4) // 8  # of each column: below 64 KiB it would be gathered
    yardstick = Pages(any_store.files, nbytes + 16 * HUGE_PAGE)
    ranges: list[tuple[int, int]] = []
    copied = []
    small = pa.table({"x": [1]})

    def build() -> pa.Table:
        columns = {}
        for name in "abcd":
            buffer = pa.allocate_buffer(rows * 8, memory_pool=client.memory_pool)
            np.frombuffer(buffer, np.uint8)[:] = 1
            columns[name] = pa.Array.from_buffers(pa.float64(), rows, [None, buffer])
        return pa.table(columns)

    def protect() -> float:
        """What the kernel alone takes for the same ranges of touched pages of the same kind."""
        table = build()
        addresses = [column.chunk(0).buffers()[1].address for column in table.columns]
        first = min(addresses) // HUGE_PAGE * HUGE_PAGE
        ranges[:] = [(a - first, -(-rows * 8 // PAGE) * PAGE) for a in addresses]
        if max(offset + n for offset, n in ranges) > yardstick.nbytes:
            ranges[:] = [(i * ranges[0][1], n) for i, (_, n) in enumerate(ranges)]
        yardstick.protect(ranges, mmap.PROT_READ | mmap.PROT_WRITE)
        for offset, n in ranges:
            yardstick.bytes[offset : offset + n] = 1
        return seconds(yardstick.protect, ranges, mmap.PROT_READ)

    def put() -> float:
        table = build()
        # The caches hold nothing but the table now: a small put fetches the code, as
        # repetition does for the round trips it is compared with.
        client.delete(client.put(small))
        taken = seconds(lambda: client.put(table, name="table"))
        copied.append(client.get_meta("table").copied)
        client.delete("table")
        return taken

    ours, protection, trips = paired(
        benchmark, put, protect, lambda: echo.p50(50), rounds=min(30, rounds_for(nbytes))
    )
    yardstick.close()
    extra, ratio = beyond(ours, protection, trips)
    total = rows * 8 * 4
    what = f"{total // MIB} MiB" if total >= MIB else f"{total // KIB} KiB"
    report(
        benchmark,
        f"{what} on {any_store.pages}: put less mprotect ({time_of(protection)}) / round trip",
        extra,
        time_of(trips),
        ratio,
        "<= 3",
    )
    assert max(copied) == 0


# ---- what must be copied -------------------------------------------------------------------------


@pytest.mark.benchmark(group="put of a table in ordinary memory: one copy")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("pages", ["cold", "warm"])
def test_copying(benchmark, any_store, echo, size, pages):
    client, nbytes = any_store.client, SIZES[size]
    source = np.random.default_rng(1).integers(0, 255, nbytes, np.uint8)
    table = pa.table({"x": source})
    yardstick = Pages(any_store.files, nbytes)

    if pages == "cold":
        back_memory(2 * nbytes + GIB // 2)

    def copy() -> float:
        if pages == "cold":
            yardstick.cool()
        return seconds(np.copyto, yardstick.bytes[:nbytes], source)

    def put() -> float:
        if pages == "cold":
            client.memory_trim()
        taken = seconds(lambda: client.put(table, name="table"))
        client.delete("table")
        return taken

    ours, memcpy, trips = paired(
        benchmark, put, copy, lambda: echo.p50(20), rounds=rounds_for(nbytes)
    )
    yardstick.close()
    what = f"{size} to {pages} {any_store.pages}"
    if nbytes < LARGE:
        extra, ratio = beyond(ours, memcpy, trips)
        report(
            benchmark,
            f"{what}: put less memcpy ({time_of(memcpy)}) / round trip",
            extra,
            time_of(trips),
            ratio,
            "<= 3",
        )
    else:
        report(
            benchmark,
            f"{what}: speed / memcpy's",
            rate_of(nbytes, ours),
            rate_of(nbytes, memcpy),
            ratio_of(memcpy, ours),
            ">= 0.85" if any_store.huge else ">= 0.6",
        )


@pytest.mark.benchmark(group="put of a table in ordinary memory: one copy")
def test_put_many(benchmark, store, echo):
    client = store.client
    tables = [pa.table({c: np.arange(10) for c in "abcd"}) for _ in range(64)]

    def put() -> float:
        start = seconds(lambda: oids.extend(client.put_many(tables)))
        client.delete(oids)
        oids.clear()
        return start

    oids: list[int] = []
    ours, trips = paired(benchmark, put, lambda: echo.p50(50), rounds=50)
    report(
        benchmark,
        "put_many of 64 small tables / round trip",
        time_of(ours),
        time_of(trips),
        ratio_of(ours, trips),
        "<= 20",
    )
