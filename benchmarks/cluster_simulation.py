"""What a large cluster asks of etcd, and of each daemon: watch, lease and list traffic.

Usage: python benchmarks/cluster_simulation.py [--instances 25 100] [--rates 20 100 400]

A real etcd, and instances that are real `Membership`s (lease, watch, mirror) without a daemon, as
many as a machine takes. What is measured here, for one instance or one record, is then multiplied
to the size that is asked about; the table says which figure is which.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import platform
import statistics
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow as pa
from measure import rss_anon

from vineyard_arrow.metadata.backend import Changes, Committed, Item, Put, Snapshot, Transaction
from vineyard_arrow.metadata.embedded import EmbeddedBackend
from vineyard_arrow.metadata.etcd.backend import EtcdBackend
from vineyard_arrow.metadata.etcd.client import EtcdAddress, rpc
from vineyard_arrow.metadata.etcd.server import EtcdServers
from vineyard_arrow.metadata.membership import Membership
from vineyard_arrow.metadata.mirror import Mirror
from vineyard_arrow.metadata.records import InstanceRecord, Layout, ObjectRecord, persist

LAYOUT = Layout("simulated")
ABOUT = InstanceRecord(0, 0, "node-0001.example", 1, "/run/vineyard-arrow/store.sock", "node:7070")
TTL_S = 10.0  # as that of daemons
WORKERS = 4
ROUND_S = 4.0
BATCH = 1000  # records of a transaction that only fills etcd
GROUPED = 6400  # persists to measure the rate of group commit by
LEASES, LEASE_TTL_S, LEASES_S = 1000, 3.0, 6.0
CLUSTER, OBJECTS = 1000, 10_000_000
KEY_NBYTES = len(LAYOUT.object(1, 1))  # all that the event of a delete carries
SPAWN = multiprocessing.get_context("spawn")
ids = itertools.count(1)


@dataclass(frozen=True)
class Row:
    """A line of the table; ``how`` is "measured" or "computed"."""

    what: str
    value: str
    how: str = "measured"


@dataclass(frozen=True)
class Round:
    """What one rate of persists cost with so many instances watching."""

    watchers: int
    rate: float  # events/s that were reached
    etcd_cpu: float  # of one core
    etcd_sent: float  # bytes/s
    messages: float  # of watches/s, over all instances; one may carry several events
    watcher_cpu: float  # of one core, for each instance
    lag_ms: tuple[float, float]  # median and 99 %, submit to mirror

    @property
    def deliveries(self) -> float:
        """Events/s over all instances."""
        return self.rate * self.watchers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--instances", type=int, nargs="+", default=[25, 100])
    parser.add_argument("--rates", type=int, nargs="+", default=[20, 100, 400])
    parser.add_argument("--records", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--relist", type=int, default=100_000, help="records in etcd")
    given = parser.parse_args()
    with EtcdServers() as servers:
        print(f"{machine()}; etcd {version(servers)}\n")
        rows, nbytes = sizes()
        show("An object", rows)
        with simulated(servers, 0) as (member, _):
            rows, grouped = group_commit(member)
        show("Persist", rows)
        rounds = []
        for count in (0, *given.instances):
            with simulated(servers, count) as (member, workers):
                rounds += [one_round(servers, member, workers, count, r) for r in given.rates]
        show_rounds(rounds)
        keep_alive = leases(servers)
    with EtcdServers() as servers:
        rows, relist_s, db_nbytes = relist(servers, given.relist)
    show(f"A list of {given.relist:,} records from etcd", rows)
    rows, mirrored = memory(given.records)
    show("Memory of a mirror", rows)
    show(
        f"{CLUSTER:,} instances, {OBJECTS:,} objects",
        extrapolate(rounds, nbytes, grouped, keep_alive, relist_s, db_nbytes, mirrored),
    )


def machine() -> str:
    """What this runs on."""
    model = next(
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    versions = f"Python {platform.python_version()}, pyarrow {pa.__version__}"
    load = f"load {os.getloadavg()[0]:.1f}"
    return f"{os.cpu_count()} cores of {model}, Linux {platform.release()}, {load}; {versions}"


def version(servers: EtcdServers) -> str:
    """Of the server."""
    backend = EtcdBackend(servers.address)
    client = backend.client
    status = client.call(client.maintenancestub.Status, rpc.StatusRequest(), 5.0)
    backend.close()
    return f"{status.version} ({servers.program.path.name})"


# ---- objects


def record(iid: int, columns: int = 4, names: tuple[str, ...] = ()) -> ObjectRecord:
    """A table's, as it is persisted."""
    stream = pa.schema([(f"column_{i}", pa.float64()) for i in range(columns)]).serialize()
    created = time.time_ns()
    data = stream.to_pybytes()
    return ObjectRecord(next(ids), iid, "vineyard.table", 1 << 30, created, names=names, data=data)


def key_nbytes(transaction: Transaction) -> int:
    """Of keys and values that it puts."""
    return sum(len(put.key) + len(put.value) for put in transaction.puts)


def sizes() -> tuple[list[Row], int]:
    """Bytes that objects put into etcd; those of a table of 4 columns are the second result."""
    iid = 0x694D_9A00_1234_5678
    rows = []
    for columns in (4, 40, 200):
        nbytes = key_nbytes(persist(LAYOUT, record(iid, columns)))
        rows.append(Row(f"key and value, table of {columns} columns", f"{nbytes:,} B"))
    plain, named = record(iid), record(iid, names=("flights-2026-11",))
    more = key_nbytes(persist(LAYOUT, named)) - key_nbytes(persist(LAYOUT, plain))
    rows.append(Row("a name: one key more", f"{more:,} B"))
    return rows, key_nbytes(persist(LAYOUT, plain))


# ---- instances that watch


def instances(address: EtcdAddress, count: int, pipe: Connection) -> None:
    """A process of so many; each time it is asked it tells what came since, and its CPU time."""
    seen: list[tuple[int, int]] = []

    def note(changes: Changes) -> None:
        seen.append((changes.revision, time.monotonic_ns()))

    backends = [EtcdBackend(address) for _ in range(count)]
    members = [
        Membership(b, LAYOUT, ABOUT, TTL_S, timeout_s=60.0, on_change=note) for b in backends
    ]
    pipe.send("ready")
    while (revision := pipe.recv()) is not None:
        for member in members:
            member.mirror.wait(revision, 60.0)
        told, seen[:] = list(seen), []
        pipe.send((told, time.process_time()))
    for member, backend in zip(members, backends, strict=True):
        member.close()
        backend.close()


Workers = list[tuple[Any, Connection]]


@contextmanager
def simulated(servers: EtcdServers, count: int) -> Iterator[tuple[Membership, Workers]]:
    """An instance here that persists, and others in processes that watch."""
    workers: Workers = []
    for i in range(min(WORKERS, count)):
        here, there = SPAWN.Pipe()
        share = count // WORKERS + (i < count % WORKERS)
        process = SPAWN.Process(target=instances, args=(servers.address, share, there))
        process.start()
        workers.append((process, here))
    backend = EtcdBackend(servers.address)
    member = Membership(backend, LAYOUT, ABOUT, TTL_S)
    try:
        for _, pipe in workers:
            assert pipe.recv() == "ready"
        yield member, workers
    finally:
        for _, pipe in workers:
            pipe.send(None)
        for process, _ in workers:
            process.join()
        member.close()
        backend.close()


def ask(workers: Workers, revision: int) -> tuple[list[tuple[int, int]], float]:
    """When revisions came, at all instances, and the CPU time of their processes."""
    for _, pipe in workers:
        pipe.send(revision)
    told = [pipe.recv() for _, pipe in workers]
    return [each for seen, _ in told for each in seen], sum(cpu for _, cpu in told)


def one_round(
    servers: EtcdServers, member: Membership, workers: Workers, count: int, rate: int
) -> Round:
    """Persist at a rate for some seconds."""
    revision = member.mirror.revision
    _, cpu_before = ask(workers, revision)
    etcd_before, sent_before = cpu_of(servers), counted(servers, SENT)
    messages_before = counted(servers, TOLD)
    begun = time.monotonic()
    sent: list[tuple[int, Future[Any]]] = []
    for i in range(int(rate * ROUND_S)):
        time.sleep(max(0.0, begun + i / rate - time.monotonic()))
        sent.append((time.monotonic_ns(), submit(member)))
    last = max(future.result().revision for _, future in sent)
    seen, cpu = ask(workers, last)
    taken = time.monotonic() - begun
    begun_at: dict[int, int] = {}
    for when, future in reversed(sent):
        begun_at[future.result().revision] = when
    lags = [(when - begun_at[r]) / 1e6 for r, when in seen if r in begun_at] or [0.0, 0.0]
    return Round(
        count,
        len(sent) / taken,
        (cpu_of(servers) - etcd_before) / taken,
        (counted(servers, SENT) - sent_before) / taken,
        (counted(servers, TOLD) - messages_before) / taken,
        (cpu - cpu_before) / taken / max(1, count),
        (statistics.median(lags), statistics.quantiles(lags, n=100)[98]),
    )


def submit(member: Membership) -> Future[Any]:
    """Persist an object, without waiting."""
    return member.submit(persist(LAYOUT, record(member.record.iid)), 60.0)


def group_commit(member: Membership) -> tuple[list[Row], float]:
    """Persists a second, when many are always waiting."""
    begun = time.perf_counter()
    futures = [submit(member) for _ in range(GROUPED)]
    assert all(isinstance(future.result(), Committed) for future in futures)
    rate = GROUPED / (time.perf_counter() - begun)
    return [Row("persists of one instance by group commit", f"{rate:,.0f}/s")], rate


def cpu_of(servers: EtcdServers) -> float:
    """Seconds that the server has run."""
    fields = Path(f"/proc/{servers.members[0].pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


SENT = "etcd_network_client_grpc_sent_bytes_total"
TOLD = 'grpc_server_msg_sent_total{grpc_method="Watch"'
KEPT = 'grpc_server_msg_received_total{grpc_method="LeaseKeepAlive"'


def counted(servers: EtcdServers, metric: str) -> float:
    """What the server counts: bytes sent to clients, or keep-alives received."""
    url = f"http://{servers.members[0].endpoint}/metrics"
    with urllib.request.urlopen(url, timeout=10) as reply:
        for line in reply.read().decode().splitlines():
            if line.startswith(metric):
                return float(line.split()[-1])
    raise OSError(f"etcd does not count {metric}")


def leases(servers: EtcdServers) -> float:
    """Seconds of the server for one keep-alive."""
    backend = EtcdBackend(servers.address)
    held = [backend.grant(LEASE_TTL_S, lambda: None) for _ in range(LEASES)]
    cpu, kept = cpu_of(servers), counted(servers, KEPT)
    time.sleep(LEASES_S)
    cpu, kept = cpu_of(servers) - cpu, counted(servers, KEPT) - kept
    assert not any(lease.lost for lease in held)
    backend.close()
    what = f"CPU of etcd for a keep-alive, at {kept / LEASES_S:,.0f}/s"
    show("Leases", [Row(what, f"{cpu / kept * 1e6:.0f} µs")])
    return cpu / kept


# ---- lists, and what a mirror keeps


def relist(servers: EtcdServers, count: int) -> tuple[list[Row], float, int]:
    """How long a mirror takes to list, and how large etcd's file is: seconds and bytes a record."""
    backend = EtcdBackend(servers.address)
    for _ in range(0, count, BATCH):
        puts = [p for _ in range(BATCH) for p in persist(LAYOUT, record(1)).puts]
        backend.commit(Transaction(puts=tuple(Put(p.key, p.value) for p in puts)), 30.0)
    status = backend.client.call(backend.client.maintenancestub.Status, rpc.StatusRequest(), 5.0)
    etcd, here, begun = cpu_of(servers), time.process_time(), time.perf_counter()
    mirror = Mirror(backend, LAYOUT.prefix)
    mirror.wait(1, 120.0)
    taken = time.perf_counter() - begun
    etcd, here = cpu_of(servers) - etcd, time.process_time() - here
    assert len(mirror.snapshot().items) >= count
    mirror.close()
    backend.close()
    rows = [
        Row("time", f"{taken:.2f} s"),
        Row("CPU of etcd, and of the mirror's process", f"{etcd:.2f} s, {here:.2f} s"),
        Row("etcd's file, for a record", f"{status.dbSize / count:,.0f} B"),
    ]
    return rows, taken / count, status.dbSize // count


class Made(EmbeddedBackend):
    """Lists records that nobody else keeps."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._count = count

    def range(self, *_: object, **how: object) -> Snapshot:
        items = []
        for _ in range(self._count):
            (put,) = persist(LAYOUT, record(1)).puts
            items.append(Item(put.key, put.value, 1, put.lease))
        return Snapshot(tuple(items), 1)


def keep(count: int, pipe: Connection) -> None:
    """In a process of its own: what a mirror of so many records takes."""
    before = rss_anon()
    backend = Made(count)
    mirror = Mirror(backend, LAYOUT.prefix)
    mirror.wait(1, 600.0)
    mirror.close()
    peak = next(
        int(line.split()[1]) << 10
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM:")
    )
    pipe.send((rss_anon() - before, peak - before))
    backend.close()


def memory(counts: list[int]) -> tuple[list[Row], float]:
    """Bytes a record, of the largest."""
    rows, each = [], 0.0
    for count in counts:
        here, there = SPAWN.Pipe()
        process = SPAWN.Process(target=keep, args=(count, there))
        process.start()
        kept, peak = here.recv()
        process.join()
        each = kept / count
        rows.append(Row(f"a record of {count:,}", f"{each:,.0f} B"))
        rows.append(Row("while it lists", f"{peak / count:,.0f} B"))
    return rows, each


# ---- the sums


def beyond(rounds: list[Round], what: str, *, batched: bool = True) -> float:
    """What telling one instance costs, beside the persist: the median over rounds.

    Where instances are slow etcd puts several events into a message, which costs it less for each.
    """
    alone = [getattr(r, what) for r in rounds if not r.watchers]
    watched = [r for r in rounds if r.watchers]
    each = [
        (getattr(r, what) - a) / r.deliveries
        for r, a in zip(watched, itertools.cycle(alone))
        if batched or r.messages > r.deliveries * 0.9
    ]
    return statistics.median(each) if each else float("nan")


def extrapolate(
    rounds: list[Round],
    nbytes: int,
    grouped: float,
    keep_alive: float,
    relist_s: float,
    db_nbytes: int,
    mirrored: float,
) -> list[Row]:
    """The size that was asked about, from what was measured."""
    cpu = beyond(rounds, "etcd_cpu", batched=False)
    wire = beyond(rounds, "etcd_sent")
    here = statistics.median(r.watcher_cpu / r.rate for r in rounds if r.watchers)
    each = OBJECTS // CLUSTER

    def computed(what: str, value: str) -> Row:
        return Row(what, value, "computed")

    return [
        Row("a message to one instance: CPU of etcd", f"{cpu * 1e6:.1f} µs"),
        Row("an event to one instance: bytes sent", f"{wire:,.0f} B"),
        Row("an event at one instance: CPU there", f"{here * 1e6:.0f} µs"),
        computed("keys and values", f"{OBJECTS * nbytes / 1e9:,.1f} GB"),
        computed("etcd's file", f"{OBJECTS * db_nbytes / 1e9:,.1f} GB"),
        computed("mirror in each daemon", f"{OBJECTS * mirrored / 1e9:,.1f} GB"),
        computed("objects that fit a quota of 2 GiB", f"{(2 << 30) // db_nbytes:,}"),
        computed("objects that fit a quota of 8 GiB", f"{(8 << 30) // db_nbytes:,}"),
        computed("to persist all, at that rate", f"{OBJECTS / grouped / 60:,.0f} min"),
        computed("a list of all, by one instance", f"{relist_s * OBJECTS:,.0f} s"),
        computed("a persist, told to all: CPU of etcd", f"{CLUSTER * cpu * 1e3:,.0f} ms"),
        computed("a persist, told to all: bytes sent", f"{CLUSTER * wire / 1e3:,.0f} KB"),
        computed(
            "lone persists/s that one core of etcd tells all", f"{1 / (CLUSTER * cpu):,.0f}/s"
        ),
        computed("persists/s that 10 Gbit/s tell all", f"{1.25e9 / (CLUSTER * wire):,.0f}/s"),
        computed(
            f"an instance with {each:,} objects dies: bytes sent",
            f"{CLUSTER * each * (wire - nbytes + KEY_NBYTES) / 1e9:,.1f} GB",
        ),
        computed(
            f"keep-alives, {CLUSTER * 3 / TTL_S:.0f}/s (leases of {TTL_S:.0f} s): CPU of etcd",
            f"{CLUSTER * 3 / TTL_S * keep_alive:.1%} of a core",
        ),
    ]


def show(title: str, rows: list[Row]) -> None:
    print(f"{title}\n" + "\n".join(f"  {r.what:<58}{r.value:>28}  {r.how}" for r in rows) + "\n")


def show_rounds(rounds: list[Round]) -> None:
    print(
        "Watching (measured)\n"
        "  instances  events/s  messages/s  etcd CPU       sent  CPU each  lag p50     p99"
    )
    for r in rounds:
        print(
            f"  {r.watchers:>9}  {r.rate:>8.0f}  {r.messages:>10,.0f}  {r.etcd_cpu:>8.1%}"
            f"  {r.etcd_sent / 1e6:>4.1f} MB/s  {r.watcher_cpu:>8.2%}"
            f"  {r.lag_ms[0]:>4.0f} ms  {r.lag_ms[1]:>3.0f} ms"
        )
    print()


if __name__ == "__main__":
    main()
