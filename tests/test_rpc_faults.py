"""Stores over TCP when something is wrong: tokens, certificates, garbage, and who dies when."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.flight as flight
import pytest
import trustme
from client_conformance import SCHEMA, TABLE, batch
from conftest import DEADLINE_S, stopped
from rpc_harness import Served, serve, until
from rpc_harness import served as served
from rpc_harness import shared_served as shared_served

from vineyard_arrow import (
    AccessDeniedError,
    ConnectionLostError,
    DeadlineExceededError,
    InvalidObjectError,
    ProtocolError,
    StreamFailedError,
)
from vineyard_arrow.ipc import protocol as p
from vineyard_arrow.rpc import messages as m
from vineyard_arrow.rpc.line import Line
from vineyard_arrow.rpc.remote import Remote
from vineyard_arrow.rpc.transit import stream_of
from vineyard_arrow.rpc.watch import Watch

MIB = 1 << 20


def kill(pid: int) -> None:
    pidfd = os.pidfd_open(pid)
    try:
        os.kill(pid, signal.SIGKILL)
        assert select.select([pidfd], [], [], DEADLINE_S)[0]
    finally:
        os.close(pidfd)


@pytest.fixture
def own(folder: Path) -> Iterator[Callable[..., Served]]:
    """Daemons of the test's own that serve over TCP."""
    made: list[Served] = []

    def make(*options: str, **more: bool) -> Served:
        name = f"faults-{os.getpid()}-{len(made)}"
        made.append(serve(folder, name, "--memory-limit", "256MiB", *options, **more))
        return made[-1]

    yield make
    for each in made:
        each.daemon.stop()
        for path in folder.glob("faults-*"):
            path.unlink()


# ---- who may come in


@pytest.mark.parametrize("token", [None, "wrong", "a-token/of+visible=character"])
def test_a_wrong_token(served: Served, token: str | None) -> None:
    with pytest.raises(AccessDeniedError, match="token") as caught:
        served.connect(token=token)
    assert "token=" in str(caught.value.hint)


def test_a_wrong_token_of_a_stock_client(served: Served) -> None:
    with flight.FlightClient(
        f"grpc+tls://{served.address}", tls_root_certs=served.tls_root_certs
    ) as client:
        for headers in ([], [(b"authorization", b"Bearer wrong")]):
            options = flight.FlightCallOptions(headers=headers, timeout=60)
            with pytest.raises(flight.FlightUnauthenticatedError):
                list(client.list_flights(options=options))


def test_a_wrong_certificate(served: Served) -> None:
    other = trustme.CA().cert_pem.bytes()
    with pytest.raises(ConnectionLostError, match=r"no store answers.*TLS"):
        served.connect(tls_root_certs=other, timeout_s=60)
    with pytest.raises(ConnectionLostError):  # no TLS at all
        served.connect(tls_root_certs=None, timeout_s=60)


# ---- what comes


def test_garbage_on_the_port(own: Callable[..., Served]) -> None:
    served = own()
    host, port = served.address.split(":")
    for data in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 4096, bytes(range(256))):
        with socket.create_connection((host, int(port)), 10) as sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(4096):
                pass
    with served.connect() as client:
        assert client.get(client.put(1)) == 1
    assert served.daemon.status().rpc == served.address


@pytest.fixture
def line(served: Served) -> Iterator[Line]:
    """A line on which anything can be said."""
    with served.connect() as client:
        remote = client._a
        assert isinstance(remote, Remote)
        made = remote.open_line()
        yield made
        made.close()


class _Raw(msgspec.Struct, array_like=True, tag="greet"):
    version: str


@pytest.mark.parametrize(
    "message",
    [
        p.Hello(p.VERSION, 1, "x"),  # is for sockets
        p.Stop(),
        m.Greet(m.VERSION, b"x", 0),  # a second one
        _Raw("x"),
        m.Next(1.0),  # without a stream
        m.Write(1.0),
        p.EndStream(),
    ],
)
def test_messages_out_of_place(line: Line, message: Any) -> None:
    with pytest.raises(ProtocolError):
        line.request(message)
    assert line.lost


def test_a_line_without_a_greeting(served: Served, line: Line) -> None:
    bare = Line(line._writer and _flight(served), _options(served), Watch(), "x", 10.0)
    with pytest.raises(ProtocolError, match="greeting"):
        bare.request(p.GetStatus())


def _flight(served: Served) -> flight.FlightClient:
    return flight.FlightClient(f"grpc+tls://{served.address}", tls_root_certs=served.tls_root_certs)


def _options(served: Served) -> flight.FlightCallOptions:
    return flight.FlightCallOptions(headers=[(b"authorization", f"Bearer {served.token}".encode())])


def test_another_version(served: Served) -> None:
    bare = Line(_flight(served), _options(served), Watch(), "x", 10.0)
    with pytest.raises(ProtocolError, match="same release"):
        bare.request(m.Greet(m.VERSION + 1, b"x", 0))


@pytest.mark.parametrize("wrong", ["garbage", "sizes", "cut", "payload"])
def test_payloads_that_are_none(served: Served, line: Line, wrong: str) -> None:
    stream = stream_of(TABLE.schema, TABLE.to_batches())
    data = b"".join(bytes(memoryview(chunk)) for chunk in stream)
    head = m.PartHead("vineyard.table", {}, len(data))
    error: type[Exception] = InvalidObjectError
    if wrong == "garbage":
        data = os.urandom(len(data))
    elif wrong == "sizes":
        head, error = m.PartHead("vineyard.table", {}, len(data) - 1), ProtocolError
    elif wrong == "cut":
        data = data[: len(data) // 2]
        head = m.PartHead("vineyard.table", {}, len(data))
    message: Any = m.Put([m.DraftHead([head])], False)
    if wrong == "payload":
        message, error = p.GetStatus(), ProtocolError
    with pytest.raises(error):
        line.request(message, [data])
    with served.connect() as client:
        assert client.list_objects() == []


def test_columns_that_reach_out_of_their_buffers(served: Served, line: Line) -> None:
    """A batch that says it has more rows than its buffers hold."""
    data = b"".join(bytes(memoryview(c)) for c in stream_of(SCHEMA, [batch(0, 1000)]))
    lie = data.replace(struct.pack("<q", 1000), struct.pack("<q", 2000))
    assert lie != data
    head = m.PartHead("vineyard.table", {}, len(lie))
    with pytest.raises(InvalidObjectError, match="no Arrow stream"):
        line.request(m.Put([m.DraftHead([head])], False), [lie])
    with served.connect() as client:
        assert client.list_objects() == []


# ---- who stops


def test_a_client_that_stops_reading_is_cut_off(
    own: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VINEYARD_ARROW_TIMEOUT_S", "1")
    served = own()
    monkeypatch.delenv("VINEYARD_ARROW_TIMEOUT_S")
    with served.daemon.connect() as near:
        near.put(np.zeros(8 * MIB), name="a")
        host, port = served.address.split(":")
        client = flight.FlightClient(f"grpc://{host}:{port}")
        reader = client.do_get(flight.Ticket(b"a"))
        reader.read_chunk()
        near.delete("a")
        assert near.status().deleted_pinned == 1
        until(lambda: near.status().deleted_pinned == 0)
        with pytest.raises(pa.ArrowException):
            reader.read_all()
        client.close()
        with served.connect() as far:  # others are served
            assert far.get(far.put(1)) == 1


def test_a_store_that_does_not_answer(own: Callable[..., Served]) -> None:
    served = own()
    with served.connect(timeout_s=1.0) as client:
        oid = client.put(TABLE)
        pid = served.rpc_pid
        with stopped(pid), pytest.raises(DeadlineExceededError, match="in time"):
            client.get(oid)
        assert client.get(oid).equals(TABLE)


# ---- who dies

PUT_FOREVER = """
import sys
import numpy as np, pyarrow as pa
from vineyard_arrow import connect
from vineyard_arrow.rpc import messages as m, line as lines
from vineyard_arrow.rpc.transit import pieces

client = connect(sys.argv[1])
line = client._a.open_line()
data = bytes(64 << 20)
head = m.PartHead("vineyard.table", {}, len(data))
first = next(pieces([data]))
line._writer.write_with_metadata(
    first, m.encode(m.Put([m.DraftHead([head], name="half")], False), len(data))
)
print("half", flush=True)
sys.stdin.read()
"""


def half_put(served: Served) -> subprocess.Popen[str]:
    """A process in the middle of a put of 64 MiB."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", PUT_FOREVER, served.address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "half\n"
    until(lambda: served.daemon.status().memory_used >= MIB)
    return process


def test_nothing_is_left_of_a_put_whose_client_dies(own: Callable[..., Served]) -> None:
    served = own()
    with half_put(served) as process:
        process.kill()
    until(lambda: served.daemon.status().memory_used == 0)
    status = served.daemon.status()
    assert (status.objects, status.names) == (0, 0)


def test_nothing_is_left_of_a_put_whose_server_dies(own: Callable[..., Served]) -> None:
    served = own()
    with half_put(served) as process:
        first = served.rpc_pid
        kill(first)
        until(lambda: served.daemon.status().memory_used == 0)
        process.kill()
    assert served.daemon.status().objects == 0
    until(lambda: served.address[0].isdigit())  # it serves again, at the same place
    assert served.rpc_pid != first
    with served.connect() as client:
        assert client.get(client.put(1)) == 1


def test_clients_heal_when_the_server_was_started_again(own: Callable[..., Served]) -> None:
    served = own()
    with served.connect() as client:
        oid = client.put(TABLE)
        kill(served.rpc_pid)
        with pytest.raises(ConnectionLostError):
            client.get(oid)
        until(lambda: served.address[0].isdigit())

        def healed() -> bool:
            try:
                return bool(client.get(oid).equals(TABLE))
            except ConnectionLostError:
                return False

        assert until(healed)


def test_a_dead_server_is_reported(own: Callable[..., Served]) -> None:
    served = own()
    place = served.address
    kill(served.rpc_pid)
    said = until(lambda: (s := served.address) != place and s)
    assert said == f"not at {place}: its process ended by signal 9"


def test_the_daemons_death_is_seen(own: Callable[..., Served]) -> None:
    served = own()
    with served.connect(timeout_s=DEADLINE_S) as client:
        oid = client.put(TABLE)
        got = client.get(oid)
        child = served.rpc_pid
        pidfd = os.pidfd_open(child)
        served.daemon.kill()
        with pytest.raises(ConnectionLostError, match="gone"):
            client.get(oid)
        assert got.equals(TABLE)
        assert select.select([pidfd], [], [], DEADLINE_S)[0], "the server outlives its daemon"
        os.close(pidfd)


def test_another_daemon_at_the_same_place_is_another_store(own: Callable[..., Served]) -> None:
    served = own()
    place = served.address
    with served.connect() as client:
        oid = client.put(1)
        served.daemon.kill()
        with pytest.raises(ConnectionLostError):
            client.get(oid)
        own("--rpc", place)

        def refused() -> str:
            with pytest.raises(ConnectionLostError) as caught:
                client.get(oid)
            return caught.value.message if "restarted" in caught.value.message else ""

        assert until(refused) == "the daemon was restarted"


STREAM = """
import sys, pyarrow as pa
from vineyard_arrow import connect
client = connect(sys.argv[1])
writer = client.create_stream(pa.schema([("i", pa.int64())]), name="s")
writer.write(pa.record_batch({"i": [0, 1, 2]}))
print("written", flush=True)
sys.stdin.read()
"""


def test_a_stream_fails_when_its_writer_dies(own: Callable[..., Served]) -> None:
    served = own()
    with (
        served.connect() as client,
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", STREAM, served.address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process,
    ):
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        reader = client.open_stream("s")
        assert reader.read(timeout_s=DEADLINE_S).equals(batch(0))
        process.kill()
        with pytest.raises(StreamFailedError, match="lost"):
            reader.read(timeout_s=DEADLINE_S)
