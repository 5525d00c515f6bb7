"""A store over TCP against stock Flight: small calls, and a large table got or put."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import peers
import pyarrow as pa
import pyarrow.flight as flight
import pytest
from measure import (
    GIB,
    MIB,
    Pages,
    back_memory,
    p50,
    paired,
    rate_of,
    ratio_of,
    report,
    seconds,
    time_of,
)

from vineyard_arrow.client import connect
from vineyard_arrow.ipc.hugepages import MemFiles
from vineyard_arrow.ipc.starter import start_daemon
from vineyard_arrow.rpc.client import RemoteClient

CALLS = 300
COLUMNS = "abcd"


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RemoteClient]:
    """A client over TCP, of a store of its own."""
    socket = tmp_path_factory.mktemp("r") / "s"
    options = ["--socket", str(socket), "--memory-limit", "2GiB", "--rpc", "127.0.0.1:0"]
    pid = start_daemon(options, Path(socket), 20)
    with connect(socket, autostart=False) as near:
        address = near.status().rpc
    with connect(address) as client:
        assert isinstance(client, RemoteClient)
        yield client
    os.kill(pid, signal.SIGTERM)


@pytest.fixture(scope="module")
def stock(peer: peers.Peer) -> Iterator[flight.FlightClient]:
    """A client of a bare Flight server that has a table of 1 GiB."""
    with flight.FlightClient(f"grpc://127.0.0.1:{peer.call(peers.serve_flight)}") as client:
        yield client
    peer.call(peers.stop_flight)


@pytest.mark.benchmark(group="a store over TCP: one call, bare Flight beside it")
def test_small_calls(benchmark: Any, remote: RemoteClient, stock: flight.FlightClient) -> None:
    action = flight.Action("echo", b"x" * 64)
    small = remote.put(pa.table({"i": np.arange(8)}), name="small")

    def of(function: Any) -> Any:
        return lambda: p50(function, CALLS)

    look, get, put, bare, fetch = paired(
        benchmark,
        of(lambda: remote.get_name("small")),
        of(lambda: remote.get(small)),
        of(lambda: remote.put(8)),
        of(lambda: list(stock.do_action(action))),
        of(lambda: stock.do_get(flight.Ticket(b"small")).read_all()),
        rounds=5,
    )
    remote.clear()
    rows = (
        ("name to id / action", look, bare, "<= 1.5"),
        ("get of 8 rows / DoGet of 8 rows", get, fetch, "<= 1.5"),
        ("put of an int / action", put, bare, "<= 1.5"),
    )
    for what, ours, theirs, target in rows:
        ratio = ratio_of(ours, theirs)
        report(benchmark, what, time_of(ours), time_of(theirs), ratio, target)


@pytest.mark.timeout(300)
@pytest.mark.benchmark(group="a store over TCP: 1 GiB, stock Flight and a copy beside it")
def test_large_get(benchmark: Any, remote: RemoteClient, stock: flight.FlightClient) -> None:
    """Both ends in fresh memory, as nobody keeps warm pages for a client over TCP."""
    pages = Pages(MemFiles(huge=False), GIB + 64 * MIB)
    remote.put(peers.flight_table(GIB), name="large")
    back_memory(2 * GIB)

    def ours() -> float:
        def get() -> None:
            assert remote.get("large").nbytes == GIB

        return seconds(get)

    def theirs() -> float:
        pages.cool()

        def get() -> None:
            at = 0
            for chunk in stock.do_get(flight.Ticket(b"large")):
                for column in chunk.data.columns:
                    data = np.frombuffer(column.buffers()[1], np.uint8)
                    pages.bytes[at : at + data.size] = data
                    at += data.size
            assert at == GIB

        return seconds(get)

    mine, stocks = paired(benchmark, ours, theirs, rounds=3)
    remote.clear()
    pages.close()
    report(
        benchmark,
        "get of 1 GiB, rate",
        rate_of(GIB, mine),
        rate_of(GIB, stocks),
        ratio_of(stocks, mine),
        ">= 0.8",
    )
