"""Migration of 1 GiB between two daemons, against a bare socket into memory of the same kind.

A receiver's memory is always fresh, since it is a new writer, so the yardstick's pages are cold
too. A migration is timed from the call to the id. The first one of a client starts the process
that both ends are forked from, the next ones find it; the transfer itself is from the first
progress that is reported to the id.

Then a get of 256 MiB from another instance: by migration, and over Flight.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import peers
import psutil
import pyarrow as pa
import pytest
from measure import (
    GIB,
    MIB,
    Pages,
    back_memory,
    paired,
    rate_of,
    ratio_of,
    report,
    rss_anon,
)
from stores import START_TIMEOUT_S, Store, stop

from vineyard_arrow.client import Client, connect
from vineyard_arrow.ipc.starter import start_daemon
from vineyard_arrow.metadata.etcd.server import EtcdServers

ROUNDS = 5
TABLE_NBYTES = 256 * MIB
CASES = {"tcp": ("tcp", None), "flight": ("flight", None), "tcp, lz4": ("tcp", "lz4")}


def receive_raw(peer: Any, into: memoryview) -> float:
    """Seconds of a bare `recv_into` of what the peer sends."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer.start(peers.send_raw, listener.getsockname()[1], len(into))
        connection, _ = listener.accept()
        with connection:
            connection.recv(1, socket.MSG_PEEK)
            start = time.perf_counter()
            done = 0
            while done < len(into):
                done += connection.recv_into(into[done:])
            taken = time.perf_counter() - start
    peer.result()
    return taken


@pytest.fixture(scope="module")
def there(stores: dict[str, Store], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A second store on the best pages there are."""
    store = Store(tmp_path_factory.mktemp("t"), "auto", stores["auto"].files)
    yield store
    store.close()


@pytest.mark.benchmark(group="migration of 1 GiB on loopback")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("case", CASES)
def test_migration(benchmark, stores, there, peer, case):
    transport, codec = CASES[case]
    source = stores["auto"]
    oid = source.client.put(pa.table({"x": np.arange(GIB // 8)}))
    yardstick = Pages(there.files, GIB)
    transfers: list[float] = []
    extra: list[int] = []

    def migrate() -> float:
        back_memory(2 * GIB)
        first: list[float] = []
        before: dict[int, int] = {}

        def progress(done: int, total: int) -> None:
            if not first:
                first.append(time.perf_counter())
                before.update({pid: rss_anon(pid) for pid in pids_of_pair()})
            elif done % (128 * MIB) == 0 and done < total:
                extra.extend(rss_anon(pid) - nbytes for pid, nbytes in before.items())

        start = time.perf_counter()
        new = source.client.migrate(
            oid, to=there.client, transport=transport, compression=codec, progress=progress
        )
        end = time.perf_counter()
        there.client.delete(new)
        transfers.append(end - first[0])
        return end - start

    def migrate_first() -> float:
        source.client._roads.server.close()
        taken = migrate()
        transfers.pop()
        return taken

    def raw() -> float:
        back_memory(2 * GIB)
        yardstick.cool()
        return receive_raw(peer, memoryview(yardstick.bytes)[:GIB])

    source.client.migrate(source.client.put(0), to=there.client)
    others = [raw, migrate_first] if case == "tcp" else [raw]
    ours, theirs, *first = paired(benchmark, migrate, *others, rounds=ROUNDS)
    yardstick.close()
    for what, times, target in (
        ("a migration, end to end / recv_into", ours, ">= 0.8" if case == "tcp" else ""),
        *(("a client's first one / recv_into", times, "") for times in first),
        ("the transfer alone / recv_into", transfers[1:], ""),
    ):
        report(
            benchmark,
            f"{case}: {what}",
            rate_of(GIB, times),
            rate_of(GIB, theirs),
            ratio_of(theirs, times),
            target,
        )
    report(
        benchmark,
        f"{case}: memory of either process beside the object / MiB",
        f"{max(extra) / MIB:.0f} MiB",
        "",
        max(extra) / MIB,
        "<= 64",
    )


def pids_of_pair() -> list[int]:
    """The processes of the migration under way."""
    servers = [
        child
        for child in psutil.Process().children()
        if "vineyard_arrow.migration" in str(child.cmdline())
    ]
    return [end.pid for server in servers for end in server.children()]


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Client, Client]]:
    """Clients of two instances of one cluster that serve over TCP, too."""
    with EtcdServers(options=["--unsafe-no-fsync"]) as etcd, contextlib.ExitStack() as stack:
        clients = []
        for name in "ab":
            path = tmp_path_factory.mktemp(name) / "s"
            meta = f"etcd://{etcd.address}/benchmark"
            options = ["--socket", str(path), "--rpc", "127.0.0.1:0", "--meta", meta]
            stack.callback(stop, start_daemon(options, path, START_TIMEOUT_S))
            clients.append(stack.enter_context(connect(path, autostart=False)))
        yield clients[0], clients[1]


@pytest.mark.benchmark(group="get of 256 MiB from another instance, on loopback")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("road", ["by its socket", "by its RPC endpoint"])
def test_remote_get(benchmark, cluster, road, monkeypatch):
    here, there = cluster
    if road == "by its RPC endpoint":  # as if it were on another host
        known = Client.instances
        monkeypatch.setattr(
            Client, "instances", lambda self: [replace(i, socket="/none") for i in known(self)]
        )
    oid = there.put(peers.flight_table(TABLE_NBYTES))

    def timed(client: Client, **options: bool) -> float:
        back_memory(4 * TABLE_NBYTES)
        start = time.perf_counter()
        client.get(oid, **options)
        return time.perf_counter() - start

    def fetch() -> float:
        here.clear()
        here.memory_trim()
        return timed(here, fetch=True)

    with connect(there.status().rpc) as far:
        ours, theirs = paired(benchmark, fetch, lambda: timed(far), rounds=3 * ROUNDS)
    report(
        benchmark,
        f"get(fetch=True) {road} / get over Flight",
        rate_of(TABLE_NBYTES, ours),
        rate_of(TABLE_NBYTES, theirs),
        ratio_of(theirs, ours),
        ">= 2",
    )
