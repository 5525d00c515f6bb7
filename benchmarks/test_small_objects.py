"""Many small objects: the rate, and that nothing leaks."""

from __future__ import annotations

import time
from typing import Any

import peers
import pytest
from measure import once, report, seconds, time_of
from stores import descriptors

pytestmark = pytest.mark.benchmark(group="10,000 small objects: put, get, delete")

OBJECTS = 10_000
SETTLE_S = 5.0


def held(client: Any) -> tuple[int, int]:
    """Bytes and pins of everybody, and of nobody any more."""
    status = client.status()
    return status.memory_used, sum(c.pins for c in status.clients) + status.deleted_pinned


def settled(store: Any, before: int) -> int:
    """Descriptors the daemon has more than before, once it has seen its clients leave."""
    deadline = time.monotonic() + SETTLE_S
    while (more := descriptors(store.pid) - before) > 0 and time.monotonic() < deadline:
        store.client.status()  # a round trip through its event loop
    return more


@pytest.mark.parametrize("processes", [1, 8])
def test_rate(benchmark, store, echo, crowd, processes):
    workers = crowd[:processes]
    store.client.status()
    fds = descriptors(store.pid)
    trip = echo.p50(1000)
    for worker in workers:
        worker.call(peers.attach, store.socket)
        worker.call(peers.put_get_delete, 10)

    def run() -> None:
        for worker in workers:
            worker.start(peers.put_get_delete, OBJECTS // processes)
        for worker in workers:
            worker.result()

    taken = once(benchmark, lambda: seconds(run))
    nbytes, pins = held(store.client)
    for worker in workers:
        worker.call(peers.detach)
    more = settled(store, fds)
    who = f"{processes} process" + "es" * (processes > 1)
    each = taken / OBJECTS
    report(
        benchmark,
        f"{who}, {OBJECTS / taken:,.0f} a second: time each / round trip",
        time_of(each),
        time_of(trip),
        each / trip,
    )
    report(
        benchmark,
        f"{who}, afterwards: bytes + pins + descriptors of the daemon left / 0",
        f"{nbytes} + {pins} + {more}",
        "0 + 0 + 0",
        float(nbytes + pins + max(0, more)),
        "<= 0",
    )
