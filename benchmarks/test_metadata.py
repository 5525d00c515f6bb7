"""Metadata of a cluster in a real etcd, against bare transactions of etcd in the same run."""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from collections.abc import Iterator

import pyarrow as pa
import pytest
from measure import paired, ratio_of, report, time_of

from vineyard_arrow.metadata.backend import Committed
from vineyard_arrow.metadata.etcd.backend import EtcdBackend
from vineyard_arrow.metadata.etcd.client import rpc
from vineyard_arrow.metadata.etcd.server import EtcdServers
from vineyard_arrow.metadata.membership import Membership
from vineyard_arrow.metadata.records import InstanceRecord, Layout, ObjectRecord, persist

pytestmark = pytest.mark.benchmark(group="metadata")

CALLERS = 64
EACH = 8  # persists of one caller in a round
COLUMNS = 200
LAYOUT = Layout("bench")
ids = itertools.count(1)


@pytest.fixture(scope="module")
def member() -> Iterator[Membership]:
    with EtcdServers() as servers:
        backend = EtcdBackend(servers.address)
        made = Membership(backend, LAYOUT, InstanceRecord(0, 0, "here", 1), 30.0)
        yield made
        made.close()
        backend.close()


def data(columns: int) -> bytes:
    return (
        pa.schema([(f"column_{i}", pa.float64()) for i in range(columns)]).serialize().to_pybytes()
    )


def record(member: Membership, stream: bytes) -> ObjectRecord:
    return ObjectRecord(next(ids), member.record.iid, "vineyard.table", 1, 2, data=stream)


def persist_once(member: Membership, stream: bytes) -> None:
    assert isinstance(member.commit(persist(LAYOUT, record(member, stream))), Committed)


def bare(member: Membership, value: bytes) -> None:
    """One transaction of etcd, a compare and a put: through the same channel, nothing of ours."""
    client = member._backend.client
    key = f"/bare/{next(ids)}".encode()
    request = rpc.TxnRequest(
        compare=[rpc.Compare(key=key, target=rpc.Compare.VERSION, version=0)],
        success=[rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=value))],
    )
    assert client.kvstub.Txn(request, timeout=10).succeeded


@pytest.mark.parametrize("columns", [4, COLUMNS])
def test_persist(benchmark, member, columns):
    stream = data(columns)
    size = len(persist(LAYOUT, record(member, stream)).puts[0].value)

    def times(call, payload: bytes) -> float:
        taken = []
        for _ in range(15):
            start = time.perf_counter()
            call(member, payload)
            taken.append(time.perf_counter() - start)
        return statistics.median(taken)

    ours, theirs = paired(
        benchmark,
        lambda: times(persist_once, stream),
        lambda: times(bare, bytes(size)),
        rounds=5,
    )
    report(
        benchmark,
        f"persist {columns} columns, seen by the mirror / bare transaction of {size:,} bytes",
        time_of(ours),
        time_of(theirs),
        ratio_of(ours, theirs),
        "<= 3",
    )
    if columns == COLUMNS:
        report(
            benchmark,
            "key of a 200-column frame / 40 KB",
            f"{size:,} B",
            "40,000 B",
            size / 40e3,
            "<= 1",
        )


def test_many_callers(benchmark, member):
    stream = data(4)

    def rate(callers: int) -> float:
        """Seconds for one persist, when so many persist at once."""
        start = threading.Barrier(callers + 1)

        def run() -> None:
            start.wait()
            for _ in range(EACH):
                persist_once(member, stream)

        threads = [threading.Thread(target=run) for _ in range(callers)]
        for thread in threads:
            thread.start()
        start.wait()
        begun = time.perf_counter()
        for thread in threads:
            thread.join()
        return (time.perf_counter() - begun) / (callers * EACH)

    many, one = paired(benchmark, lambda: rate(CALLERS), lambda: rate(1), rounds=5)
    report(
        benchmark,
        f"persists a second by {CALLERS} callers / by one",
        f"{1 / statistics.median(many):,.0f}/s",
        f"{1 / statistics.median(one):,.0f}/s",
        ratio_of(one, many),
        ">= 5",
    )
