"""Migration of 1 GiB between two daemons, against a bare socket into memory of the same kind.

A receiver's memory is always fresh, since it is a new writer, so the yardstick's pages are cold
too. A migration is timed from the call to the id. The first one of a client starts the process
that both ends are forked from, the next ones find it; the transfer itself is from the first
progress that is reported to the id.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
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
from stores import Store

ROUNDS = 5
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
