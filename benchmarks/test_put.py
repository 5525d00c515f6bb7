"""Put: from the pool without a copy, else with one, against memcpy into the same pages."""

from __future__ import annotations

import mmap
import statistics
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from measure import (
    GIB,
    KIB,
    MIB,
    PAGE,
    Pages,
    back_memory,
    paired,
    protect,
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
    "256 KiB": 256 * KIB,
    "1 MiB": MIB,
    "64 MiB": 64 * MIB,
    "1 GiB": GIB,
}
LARGE = 64 * MIB
BURST = 5


def rounds_for(nbytes: int) -> int:
    return 20 if nbytes <= MIB else 9 if nbytes < GIB else 3


def burst(function: Callable[[], float], nbytes: int) -> Callable[[], float]:
    """Small work is done several times a round, as caches are warm for its yardsticks too."""
    if nbytes > MIB:
        return function
    return lambda: statistics.median([function() for _ in range(BURST)])


def beyond(ours: list[float], work: list[float], trips: list[float]) -> tuple[str, float]:
    """What a put takes on top of its work: for people, and in round trips."""
    extra = [a - b for a, b in zip(ours, work, strict=True)]
    return time_of(statistics.median(extra)), ratio_of(extra, trips)


# ---- what lies in the pool already ---------------------------------------------------------------


@pytest.mark.benchmark(group="put of a table built in the pool: nothing copied")
@pytest.mark.parametrize("size", ["256 KiB", "1 MiB", "64 MiB", "1 GiB"])
def test_from_pool(benchmark, any_store, echo, size):
    client, rows = any_store.client, SIZES[size] // 4 // 8
    buffers: list[pa.Buffer] = []
    copied: list[int] = []
    oids: list[int] = []

    def touch() -> None:
        for buffer in buffers:
            np.frombuffer(buffer, np.uint8)[:] = 1

    def protection() -> float:
        """What the kernel alone takes for the very pages that are put next."""
        buffers[:] = [
            pa.allocate_buffer(rows * 8, memory_pool=client.memory_pool) for _ in range(4)
        ]
        touch()
        ranges = [(b.address, -(-b.size // PAGE) * PAGE) for b in buffers]
        taken = seconds(protect, ranges, mmap.PROT_READ)
        protect(ranges, mmap.PROT_READ | mmap.PROT_WRITE)
        touch()
        return taken

    def table_of(buffers: list[pa.Buffer], rows: int) -> pa.Table:
        columns = [pa.Array.from_buffers(pa.float64(), rows, [None, b]) for b in buffers]
        return pa.table(columns, list("abcd"))

    def put() -> float:
        table = table_of(buffers, rows)
        buffers.clear()
        # The caches hold nothing but the table now. Puts of others fetch the code again, as
        # repetition does for the round trips it is compared with.
        for _ in range(BURST):
            small = [pa.allocate_buffer(64 * KIB, memory_pool=client.memory_pool) for _ in range(4)]
            client.delete(client.put(table_of(small, 8 * KIB)))
        taken = seconds(lambda: oids.append(client.put(table)))
        copied.append(client.get_meta(oids[0]).copied)
        client.delete(oids.pop())
        return taken

    ours, kernel, trips = paired(
        benchmark, put, protection, lambda: echo.p50(50), rounds=30 if SIZES[size] <= MIB else 7
    )
    extra, ratio = beyond(ours, kernel, trips)
    report(
        benchmark,
        f"{size} on {any_store.pages}: put less mprotect ({time_of(kernel)}) / round trip",
        extra,
        time_of(trips),
        ratio,
        "<= 3",
    )
    assert max(copied) == 0


# ---- what must be copied -------------------------------------------------------------------------


@pytest.mark.benchmark(group="put of a table in ordinary memory: one copy")
@pytest.mark.parametrize("size", ["80 B", "1 KiB", "64 KiB", "1 MiB", "64 MiB", "1 GiB"])
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
        taken = seconds(lambda: oids.append(client.put(table)))
        client.delete(oids.pop())
        return taken

    oids: list[int] = []
    ours, memcpy, trips = paired(
        benchmark,
        burst(put, nbytes),
        burst(copy, nbytes),
        lambda: echo.p50(20),
        rounds=rounds_for(nbytes),
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
def test_named(benchmark, store, echo):
    """A name may be taken: the only small put that waits for the daemon."""
    client, table = store.client, pa.table({"x": np.arange(128)})

    def put() -> float:
        taken = seconds(lambda: client.put(table, name="table"))
        client.delete("table")
        return taken

    ours, trips = paired(benchmark, burst(put, KIB), lambda: echo.p50(20), rounds=20)
    report(
        benchmark,
        "1 KiB with a name: put / round trip",
        time_of(ours),
        time_of(trips),
        ratio_of(ours, trips),
        "<= 3",
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
