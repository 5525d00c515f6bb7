"""Stores over TCP: our own clients do what they do on the host, stock Flight clients get tables."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.flight as flight
import pytest
from client_conformance import TABLE, ClientConformance
from conftest import Daemon
from hypothesis import given, settings
from hypothesis import strategies as st
from rpc_harness import Served, check_empty, serve
from rpc_harness import served as served
from rpc_harness import shared_served as shared_served

from vineyard_arrow import (
    AccessDeniedError,
    ConfigError,
    InvalidObjectError,
    ObjectNotFoundError,
    ProtocolError,
    VineyardArrowError,
    connect,
)
from vineyard_arrow.client import Client
from vineyard_arrow.config import daemon_config, remote_config
from vineyard_arrow.rpc.client import RemoteClient
from vineyard_arrow.rpc.line import SMALL_NBYTES, Line
from vineyard_arrow.rpc.messages import Read, decode, encode
from vineyard_arrow.rpc.transit import nbytes_of, piece_bytes, pieces, stream_of, tables_of
from vineyard_arrow.rpc.watch import Watch


class TestOnTheHost(ClientConformance):
    @pytest.fixture
    def other(self, daemon: Daemon) -> Iterator[Client]:
        with daemon.connect() as client:
            yield client


class TestOverTcp(ClientConformance):
    @pytest.fixture
    def client(self, served: Served) -> Iterator[Client]:
        with served.connect() as client:
            yield client

    @pytest.fixture
    def other(self, served: Served) -> Iterator[Client]:
        with served.connect() as client:
            yield client


# ---- between both


def test_a_get_by_name_is_one_request(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    request = Line.request

    def counted(line: Line, message: Any, *arguments: Any) -> Any:
        asked.append(message)
        return request(line, message, *arguments)

    with served.connect() as far:
        oid = far.put(TABLE, name="t")
        monkeypatch.setattr(Line, "request", counted)
        assert far.get("t").equals(TABLE)
        assert [type(message) for message in asked] == [Read]
        assert far.get(str(oid)).equals(TABLE)  # not a name
        with pytest.raises(ObjectNotFoundError, match="another"):
            far.get("another")


@pytest.mark.parametrize("nbytes", [0, 1, SMALL_NBYTES - 1000, SMALL_NBYTES, SMALL_NBYTES + 1])
def test_payloads_with_their_message_and_after_it(shared_served: Served, nbytes: int) -> None:
    data = bytes(range(256)) * (nbytes // 256) + bytes(nbytes % 256)
    with shared_served.connect() as far:
        assert far.get(far.put(data)) == data


def test_a_payload_of_another_size_than_was_said() -> None:
    message = encode(Read(1, None), 3)
    assert decode(message + b"abc", requests=True) == (Read(1, None), 3, b"abc")
    assert decode(message, requests=True) == (Read(1, None), 3, b"")
    for wrong in (message + b"ab", message[:-1], message[:5]):
        with pytest.raises(ProtocolError):
            decode(wrong, requests=True)


def test_one_store_by_both_ways(served: Served) -> None:
    with served.connect() as far, served.daemon.connect() as near:
        assert far.instance == near.instance
        assert near.get(far.put({"t": TABLE}))["t"].equals(TABLE)
        assert far.get(near.put([TABLE, 1]))[0].equals(TABLE)
        with far.create_stream(TABLE.schema, name="s") as writer:
            writer.write(TABLE)
            reader = near.open_stream("s")
        assert reader.read_all().equals(TABLE)


def test_what_comes_lands_in_shared_memory(served: Served) -> None:
    with served.connect() as far, served.daemon.connect() as near:
        meta = near.get_meta(far.put(TABLE))
        assert meta.copied == 0
        assert meta.shared > TABLE.nbytes - 3 * 65536  # but for what is gathered
        buffers = [b for c in near.get(meta.id).columns for b in c.chunk(0).buffers() if b]
        assert not any(b.address % 64 for b in buffers)


def test_the_socket_is_preferred(served: Served, tmp_path: Path) -> None:
    options: dict[str, Any] = {"token": served.token, "tls_root_certs": served.tls_root_certs}
    with connect(served.daemon.socket, rpc=served.address, **options) as client:
        assert type(client) is Client
    with connect(tmp_path / "none", rpc=served.address, **options) as client:
        assert type(client) is RemoteClient


def test_memory_cannot_be_had(served: Served) -> None:
    from vineyard_arrow.shared_memory import SharedMemory

    with served.connect() as client, pytest.raises(InvalidObjectError, match="over TCP"):
        SharedMemory(create=True, size=10, client=client)


def test_a_closed_client(served: Served) -> None:
    client = served.connect()
    client.close()
    client.close()
    with pytest.raises(VineyardArrowError, match="closed"):
        client.put(1)


FORK = """
import os, sys, vineyard_arrow
from vineyard_arrow import connect
client = connect(sys.argv[1], token=sys.argv[2], tls_root_certs=sys.argv[3])
oid = client.put([1, 2])
pid = os.fork()
if pid == 0:
    try:
        client.get(oid)
    except vineyard_arrow.VineyardArrowError as error:
        os._exit(0 if "fork" in str(error) else 2)
    os._exit(1)
assert os.waitpid(pid, 0)[1] == 0
assert client.get(oid) == [1, 2]
"""


# ---- trust


def test_with_a_token_a_client_is_the_stores_user(served: Served) -> None:
    with served.connect() as far, served.daemon.connect() as near:
        assert near.get(far.put({1, 2})) == {1, 2}
        oid = far.put(Exception("pickled"))
        assert near.get_meta(oid).uid == os.geteuid()
        assert str(near.get(oid)) == str(far.get(oid)) == "pickled"


def test_without_one_it_is_nobody(folder: Path) -> None:
    served = serve(folder, "open")
    try:
        with served.connect() as far, served.daemon.connect() as near:
            oid = far.put(Exception("pickled"))
            assert near.get_meta(oid).uid is None
            for client in (near, far):
                with pytest.raises(AccessDeniedError, match="pickle"):
                    client.get(oid)
                assert str(client.get(oid, trusted=True)) == "pickled"
            assert far.get(far.put(TABLE)).equals(TABLE)
        check_empty(served)
    finally:
        served.daemon.stop(signal.SIGTERM)


# ---- stock Flight clients


@pytest.fixture
def stock(served: Served) -> Iterator[tuple[flight.FlightClient, flight.FlightCallOptions]]:
    client = flight.FlightClient(
        f"grpc+tls://{served.address}", tls_root_certs=served.tls_root_certs
    )
    token = f"Bearer {served.token}".encode()
    with client:
        yield client, flight.FlightCallOptions(headers=[(b"authorization", token)], timeout=60)


def test_stock_clients_put_list_and_get(served: Served, stock: Any) -> None:
    client, options = stock
    writer, reader = client.do_put(
        flight.FlightDescriptor.for_path("t"), TABLE.schema, options=options
    )
    writer.write_table(TABLE, max_chunksize=20_000)
    writer.done_writing()
    oid = reader.read().to_pybytes().decode()
    writer.close()
    with served.daemon.connect() as near:
        assert near.get("t").equals(TABLE)
        assert str(near.get_name("t")) == oid
        buffers = [b for c in near.get("t").columns for b in c.chunk(0).buffers() if b]
        assert not any(b.address % 64 for b in buffers)
        other = near.put(np.arange(3))
        (info,) = client.list_flights(b"t", options)
        assert (info.descriptor.path, info.total_records) == ([b"t"], len(TABLE))
        assert info.schema == TABLE.schema
        assert client.do_get(info.endpoints[0].ticket, options).read_all().equals(TABLE)
        assert client.do_get(flight.Ticket(b"t"), options).read_all().equals(TABLE)
        info = client.get_flight_info(flight.FlightDescriptor.for_command(str(other)), options)
        table = client.do_get(info.endpoints[0].ticket, options).read_all()
        assert table["data"].to_pylist() == [0, 1, 2]
        assert list(client.do_action(flight.Action("delete", b"t"), options)) == []
        assert not near.exists("t")
        (status,) = client.do_action(flight.Action("status", b""), options)
        assert b'"objects": 1' in status.body.to_pybytes()


def test_what_stock_clients_get_comes_in_small_batches(served: Served, stock: Any) -> None:
    client, options = stock
    table = pa.table({"a": np.arange(2 << 20)})
    with served.connect() as far:
        far.put(table, name="t")
    reader = client.do_get(flight.Ticket(b"t"), options)
    sizes = [chunk.data.nbytes for chunk in reader]
    assert max(sizes) <= 4 << 20
    assert sum(sizes) == table.nbytes


def test_what_stock_clients_are_told(served: Served, stock: Any) -> None:
    client, options = stock
    with pytest.raises(KeyError, match="no name 'nothing'"):
        client.get_flight_info(flight.FlightDescriptor.for_path("nothing"), options)
    with pytest.raises(pa.ArrowException, match="one step"):
        client.get_flight_info(flight.FlightDescriptor.for_path("a", "b"), options)
    with pytest.raises(pa.ArrowException, match="delete and status"):
        list(client.do_action(flight.Action("explode", b""), options))
    with served.connect() as far:
        oid = far.put(Exception("no table"))
    assert list(client.list_flights(b"*", options)) == []
    with pytest.raises(pa.ArrowException, match="holds a pickle"):
        client.do_get(flight.Ticket(str(oid).encode()), options).read_all()


def test_a_stock_put_under_a_name_that_is_taken(served: Served, stock: Any) -> None:
    client, options = stock
    with served.connect() as far:
        far.put(1, name="t")
        writer, _ = client.do_put(
            flight.FlightDescriptor.for_path("t"), TABLE.schema, options=options
        )
        with pytest.raises(pa.ArrowException, match="taken"):
            writer.close()
        assert far.get("t") == 1


# ---- settings


def test_only_loopback_goes_without_a_token(tmp_path: Path) -> None:
    socket = str(tmp_path / "s")
    assert daemon_config(socket=socket, rpc="localhost:0").rpc == ("localhost", 0)
    assert daemon_config(socket=socket, rpc="[::1]:70").rpc == ("::1", 70)
    with pytest.raises(ConfigError, match="everybody") as caught:
        daemon_config(socket=socket, rpc="0.0.0.0:70")
    assert "rpc_token_file" in str(caught.value.hint)
    assert daemon_config(socket=socket, rpc="0.0.0.0:70", rpc_open=True).rpc_open
    assert daemon_config(socket=socket, rpc="0.0.0.0:70", rpc_token_file="t").rpc_token_file
    with pytest.raises(ConfigError, match="both"):
        daemon_config(socket=socket, rpc="127.0.0.1:70", rpc_cert_file="c")


@pytest.mark.parametrize("address", ["", "host", "host:", ":1", "a:b:1", "h:99999", "h/x:1", 5])
def test_addresses_that_are_none(address: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="host:port"):
        remote_config(address)
    with pytest.raises(ConfigError):
        daemon_config(socket=str(tmp_path / "s"), rpc=address or "x")


def test_other_wrong_settings(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="token"):
        connect("localhost:1", token="")
    with pytest.raises(ConfigError, match="tls_root_certs"):
        connect("localhost:1", tls_root_certs=tmp_path / "none")
    with pytest.raises(ConfigError, match="token"):
        connect(tmp_path / "s", token="", autostart=False)


@pytest.mark.parametrize("why", ["taken", "no token", "no certificate"])
def test_a_daemon_that_cannot_serve_over_tcp_does_not_start(
    why: str, served: Served, folder: Path
) -> None:
    options = {
        "taken": ["--rpc", served.address],
        "no token": ["--rpc", "127.0.0.1:0", "--rpc-token-file", "/dev/null"],
        "no certificate": [
            *("--rpc", "127.0.0.1:0", "--rpc-cert-file", "/none", "--rpc-key-file", "/none"),
        ],
    }[why]
    said = {"taken": "cannot listen", "no token": "no token", "no certificate": "cannot be read"}
    from conftest import run_daemon

    with pytest.raises(ConfigError, match=said[why]):
        run_daemon(folder, "refused", *options)


# ---- in transit


def test_streams_in_pieces_are_the_same_tables() -> None:
    table = pa.table(
        {
            "a": np.arange(100_000),
            "d": pa.array(["p", "q"] * 50_000).dictionary_encode(),
            "l": pa.array([None, [1]] * 50_000),
            "v": pa.array(["longer than twelve"] * 100_000, pa.string_view()),
            "n": pa.nulls(100_000),
        }
    )
    tables = [table, table.slice(3), pa.concat_tables([table, table.slice(7)]), pa.table({})]
    streams = [stream_of(t.schema, t.to_batches()) for t in tables]
    data = b"".join(
        batch.column(0).buffers()[1].to_pybytes() for s in streams for batch in pieces(s)
    )
    assert len(data) == sum(map(nbytes_of, streams))
    got = tables_of(pa.py_buffer(data), [nbytes_of(s) for s in streams])
    for one, other in zip(tables, got, strict=True):
        other.validate(full=True)
        assert other.equals(one)


def test_a_forked_child_is_told(served: Served, tmp_path: Path) -> None:
    certs = tmp_path / "ca.pem"
    certs.write_bytes(served.tls_root_certs or b"")
    arguments = [served.address, str(served.token), str(certs)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK, *arguments],
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_a_host_without_a_port_is_no_socket(host: str) -> None:
    with pytest.raises(ConfigError, match="names no port"):
        connect(host, autostart=False)


def test_a_store_that_was_never_there() -> None:
    from vineyard_arrow import ConnectionLostError

    with pytest.raises(ConnectionLostError, match=r"no store answers.*refused") as caught:
        connect("127.0.0.1:1", timeout_s=60)
    assert "vineyard-arrow start --rpc 127.0.0.1:1" in str(caught.value)


def test_nothing_is_found_by_a_wrong_id(served: Served) -> None:
    with served.connect() as far, pytest.raises(ObjectNotFoundError):
        far.get(12345)


# ---- deadlines


def test_a_watch_cuts_what_is_late_and_nothing_else() -> None:
    watch, cut = Watch(), queue.SimpleQueue[str]()
    watch.set("cleared", 0.0, lambda: None)
    watch.clear("cleared")
    watch.set("renewed", 1e6, lambda: cut.put("renewed"))
    watch.set("late", 0.0, lambda: cut.put("late"))
    assert cut.get(timeout=60) == "late"
    watch.set("later", 0.0, lambda: cut.put("later"))  # wakes it, though it sleeps for long
    assert cut.get(timeout=60) == "later"
    assert cut.empty()
    watch.close()


@given(st.lists(st.sampled_from([0, 1, 63, 64, 65_535, 65_536, (4 << 20) + 5]), max_size=8))
@settings(max_examples=40, deadline=None)
def test_pieces_are_the_bytes_and_no_more_than_4_mib(sizes: list[int]) -> None:
    chunks = [bytes([i + 1]) * size for i, size in enumerate(sizes)]
    batches = list(pieces(chunks))
    assert b"".join(piece_bytes(b).to_pybytes() for b in batches) == b"".join(chunks)
    assert all(0 < b.num_rows <= 4 << 20 for b in batches)
