"""A get of 256 MiB from another instance of the cluster: by migration, and over Flight.

Both leave the table in fresh memory: migration in the store beside the client, where the next
get finds it, Flight in the client's process.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace

import peers
import pytest
from measure import MIB, back_memory, paired, rate_of, ratio_of, report
from stores import START_TIMEOUT_S, stop

from vineyard_arrow.client import Client, connect
from vineyard_arrow.ipc.starter import start_daemon
from vineyard_arrow.metadata.etcd.server import EtcdServers

ROUNDS = 15
TABLE_NBYTES = 256 * MIB


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
        ours, theirs = paired(benchmark, fetch, lambda: timed(far), rounds=ROUNDS)
    report(
        benchmark,
        f"get(fetch=True) {road} / get over Flight",
        rate_of(TABLE_NBYTES, ours),
        rate_of(TABLE_NBYTES, theirs),
        ratio_of(theirs, ours),
        ">= 2",
    )
