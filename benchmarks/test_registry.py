"""The registry: what builders and resolvers add to the native calls of a put and a get."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from measure import paired, report, time_of

import vineyard_arrow

pytestmark = pytest.mark.benchmark(group="registry: a table of 4 columns")

CALLS = 500
ROUNDS = 99
LIMIT_S = 3e-6


def each(function: Callable[[], Any]) -> float:
    """Processor time of a call, of many in a row: a clock's reading would be a tenth of one."""
    start = time.thread_time()
    for _ in range(CALLS):
        function()
    return (time.thread_time() - start) / CALLS


@pytest.fixture
def table() -> pa.Table:
    return pa.table({name: np.arange(32.0) for name in "abcd"})


def report_extra(benchmark: Any, what: str, extra: list[float]) -> None:
    ratio = statistics.median(extra) / LIMIT_S
    report(benchmark, f"{what} / 3 µs", time_of(extra), time_of(LIMIT_S), ratio, "<= 1")


def test_put(benchmark, store, table):
    """`Client._encode` is all of a put that the native calls and the socket are not."""
    (ours,) = paired(benchmark, lambda: each(lambda: store.client._encode(table)), rounds=ROUNDS)
    report_extra(benchmark, "put less native calls", ours)


@pytest.mark.parametrize("where", ["alone", "in a context"])
def test_get(benchmark, store, table, where):
    client = store.client
    oid = client.put(table)
    read = client._a.read

    def get() -> float:
        if where == "alone":
            return each(lambda: client.get(oid))
        with vineyard_arrow.resolver_context():
            return each(lambda: client.get(oid))

    ours, native = paired(benchmark, get, lambda: each(lambda: read(oid)), rounds=ROUNDS)
    extra = [a - b for a, b in zip(ours, native, strict=True)]
    report_extra(benchmark, f"get {where}, less the native read", extra)
