"""Memory: what is accounted and committed for a payload, and what is kept when it is gone."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from measure import GIB, KIB, MIB, once, report

LARGE = "memory: accounted / payload"
SMALL = "memory, small buffers: (accounted - 4 KiB an object) / payload"
PARTS = "memory: accounted / what is new"
GIVEN_BACK = "memory: committed 5 s after all is deleted / at the peak"

IDLE_S = 5.0


def table_of(nbytes: int, columns: str = "abcd") -> pa.Table:
    """A table with buffers of ``nbytes`` each."""
    return pa.table({c: np.ones(nbytes, np.uint8) for c in columns})


def size_of(nbytes: int) -> str:
    for unit, factor in (("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if nbytes >= factor:
            return f"{nbytes / factor:.4g} {unit}"
    return f"{nbytes} B"


def growth(client: Any, function: Callable[[], Any]) -> tuple[int, int]:
    """Accounted and committed bytes that a function adds."""
    client.memory_trim()
    before = client.status()
    function()
    client.memory_trim()
    after = client.status()
    return (
        after.memory_used - before.memory_used,
        after.memory_committed - before.memory_committed,
    )


@pytest.mark.benchmark(group=LARGE)
@pytest.mark.parametrize(
    ("what", "nbytes"),
    [("4 x 512 KiB", 512 * KIB), ("4 x 512 KiB + 1 B", 512 * KIB + 1), ("4 x 16 MiB", 16 * MIB)],
)
def test_large(benchmark, any_store, what, nbytes):
    client, table = any_store.client, table_of(nbytes)
    used, committed = once(benchmark, lambda: growth(client, lambda: client.put(table)))
    report(
        benchmark,
        f"{what} on {any_store.pages}; committed: {size_of(committed)}",
        size_of(used),
        size_of(table.nbytes),
        used / table.nbytes,
        "<= 1.01",
    )


@pytest.mark.benchmark(group=SMALL)
@pytest.mark.parametrize("nbytes", [20, 5 * KIB, 20 * KIB, 64 * KIB + 1, 300 * KIB])
def test_small(benchmark, any_store, nbytes):
    client, table, count = any_store.client, table_of(nbytes), 200
    used, committed = once(
        benchmark, lambda: growth(client, lambda: client.put_many([table] * count))
    )
    payload = table.nbytes * count
    report(
        benchmark,
        f"{count} x 4 x {size_of(nbytes)} on {any_store.pages}; committed: {size_of(committed)}",
        size_of(used),
        size_of(payload),
        max(0, used - count * 4 * KIB) / payload,
        "<= 1.25",
    )


@pytest.mark.benchmark(group=PARTS)
def test_parts_of_tables(benchmark, store):
    client, table = store.client, table_of(16 * MIB)
    rows = table.num_rows
    new = pa.array(np.zeros(rows, np.uint8))

    def measure() -> dict[str, tuple[int, int]]:
        out = {}
        tenth = table.slice(rows // 2, rows // 10)
        out["a slice of a table in ordinary memory"] = (
            growth(client, lambda: client.put(tenth))[0],
            tenth.nbytes,
        )
        client.put(table, name="stored")
        stored = client.get("stored")
        for what, part, payload in (
            ("a stored table with a column appended", stored.append_column("e", new), rows),
            ("two columns of a stored table", stored.select(["a", "c"]), 0),
            ("a slice of a stored table", stored.slice(rows // 2, rows // 10), 0),
        ):
            out[what] = growth(client, lambda p=part: client.put(p))[0], payload
        return out

    for what, (used, payload) in once(benchmark, measure).items():
        target = "<= 1.01" if payload else "<= 0"
        ratio = used / payload if payload else float(used)
        report(benchmark, what, size_of(used), size_of(payload), ratio, target)


@pytest.mark.benchmark(group=GIVEN_BACK)
def test_given_back(benchmark, stores):
    def measure() -> dict[str, tuple[int, int]]:
        peaks = {}
        for store in stores.values():
            table = table_of(128 * MIB)
            oids = [store.client.put(table), store.client.put(table)]
            peaks[store.pages] = store.client.status().memory_committed
            store.client.delete(oids)
        time.sleep(IDLE_S)
        return {
            s.pages: (s.client.status().memory_committed, peaks[s.pages]) for s in stores.values()
        }

    for pages, (committed, peak) in once(benchmark, measure).items():
        report(
            benchmark,
            f"1 GiB on {pages}",
            size_of(committed),
            size_of(peak),
            committed / peak,
            "<= 0.1",
        )
