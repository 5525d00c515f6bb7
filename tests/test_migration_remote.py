"""Objects move to and from instances that are reached over TCP alone, as those of other hosts.

All daemons are real and of one cluster. They are on this host, so their sockets are hidden from
the client, by records of instances that name another path.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from rpc_harness import Served, serve, until

from vineyard_arrow import InstanceInfo, ObjectID, ObjectMeta
from vineyard_arrow.client import Client, connect
from vineyard_arrow.config import daemon_config
from vineyard_arrow.errors import (
    AccessDeniedError,
    ConfigError,
    ConnectionLostError,
    DeadlineExceededError,
    InvalidObjectError,
    ObjectNotFoundError,
    StoreFullError,
)
from vineyard_arrow.metadata.etcd.server import EtcdServers
from vineyard_arrow.migration import endpoint as e
from vineyard_arrow.migration import protocol as m
from vineyard_arrow.migration.landing import ORIGIN
from vineyard_arrow.migration.pair import listening
from vineyard_arrow.rpc.ends import There
from vineyard_arrow.rpc.supervisor import rpc_supervisor

TIMEOUT_S = 60.0
MIB = 1 << 20


@dataclass
class Cluster:
    """Two instances with a token and TLS, and one with neither."""

    near: Served
    far: Served
    open: Served

    @property
    def keys(self) -> dict[str, Any]:
        certs = (self.near.tls_root_certs or b"") + (self.far.tls_root_certs or b"")
        return {"token": self.near.token, "tls_root_certs": certs}

    def connect(self, served: Served, **options: Any) -> Client:
        return connect(served.daemon.socket, autostart=False, **(self.keys | options))


@pytest.fixture(scope="module")
def whole(folder: Path, etcd: EtcdServers) -> Iterator[Cluster]:
    options = ("--memory-limit", "256MiB", "--meta", f"etcd://{etcd.address}/apart")
    names = [f"{name}-{os.getpid()}" for name in ("near", "far", "open")]
    cluster = Cluster(
        serve(folder, names[0], *options, token=True, tls=True),
        serve(folder, names[1], *options, token=True, tls=True),
        serve(folder, names[2], *options),
    )
    yield cluster
    for served in (cluster.near, cluster.far, cluster.open):
        served.daemon.stop(signal.SIGTERM)


@pytest.fixture
def cluster(whole: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The cluster, empty before and after; clients reach other instances over TCP alone."""
    known = Client.instances

    def hidden(self: Client) -> list[InstanceInfo]:
        return [replace(info, socket="/nowhere/at/all") for info in known(self)]

    monkeypatch.setattr(Client, "instances", hidden)
    yield whole
    for served in (whole.near, whole.far, whole.open):
        with served.daemon.connect() as client:
            client.clear()
            client.memory_trim()
        rpc = served.rpc_pid

        def is_empty(served: Served = served, rpc: int = rpc) -> bool:
            s = served.daemon.status()
            held = (s.objects, s.deleted_pinned, s.memory_used)
            return not any(held) and [c.pid for c in s.clients] == [rpc]

        until(is_empty)


@pytest.fixture
def near(cluster: Cluster) -> Iterator[Client]:
    with cluster.connect(cluster.near) as client:
        yield client


@pytest.fixture
def far(cluster: Cluster) -> Iterator[Client]:
    with cluster.far.daemon.connect() as client:
        yield client


def table() -> pa.Table:
    return pa.table({"x": np.arange(MIB), "s": [f"text {i % 7}" for i in range(MIB)]})


def composite(client: Client, **members: Any) -> ObjectID:
    meta = ObjectMeta("test.composite")
    for name, member in members.items():
        meta.add_member(name, member)
    sealed = client.create_metadata(meta).id
    assert sealed is not None
    return sealed


# ---- to and fro


@pytest.mark.parametrize("transport", ["tcp", "flight"])
def test_to_a_number_and_back(near: Client, far: Client, transport: str) -> None:
    oid = composite(near, data=near.put(table()), again=near.put([1, 2]))
    seen: list[tuple[int, int]] = []
    new = near.migrate(
        oid,
        to=far.instance,
        transport=transport,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert new.instance == far.instance
    assert seen[-1][0] == seen[-1][1] > 8 * MIB
    members = far.get_meta(new).members
    assert far.get(members["data"].id, validate="full") == table()
    assert far.get(members["again"].id) == [1, 2]
    (info,) = [info for info in near.instances() if info.number == far.instance]
    assert near.migrate(oid, to=info) == new
    assert near.migrate(oid, to=near.instance) == oid
    assert [o.id for o in far.list_objects(labels={ORIGIN: str(oid)})] == [new]


def test_from_a_store_over_tcp(cluster: Cluster, near: Client, far: Client) -> None:
    """The client itself may be on a third host; and so may both instances be."""
    oid = far.put(table())
    with cluster.far.connect(**cluster.keys) as remote:
        new = remote.migrate(oid, to=near)  # its sender listens, our receiver connects
        assert near.get(new) == table()
        near.delete(new)
        again = remote.migrate(oid, to=near.instance)  # neither end is started here
        assert near.get(again) == table()
        assert remote.migrate(oid, to=far) == oid
        with cluster.near.connect(**cluster.keys) as other:
            assert remote.migrate(oid, to=other) == again


def test_fetching(cluster: Cluster, near: Client, far: Client) -> None:
    oid = far.put(table())
    got = near.get(oid, fetch=True)
    assert got == table()
    (meta,) = near.list_objects(labels={ORIGIN: str(oid)})
    assert meta.id is not None
    same = near.get(oid, fetch=True)
    assert same["x"].chunk(0).buffers()[1].address == got["x"].chunk(0).buffers()[1].address
    with cluster.near.connect(**cluster.keys) as remote:
        assert remote.get(oid, fetch=True) == table()
    del got, same
    assert near.status().objects == 1


def test_fetching_into_a_store_over_tcp(cluster: Cluster, near: Client, far: Client) -> None:
    oid = far.put([1, "two", 3.0])
    with cluster.near.connect(**cluster.keys) as remote:
        assert remote.get(oid, fetch=True) == [1, "two", 3.0]
    (meta,) = near.list_objects(labels={ORIGIN: str(oid)})
    assert meta.id is not None
    assert meta.id.instance == near.instance


def test_waiting_for_what_another_instance_makes(near: Client, far: Client) -> None:
    oid = ObjectID(far._new_id())
    with pytest.raises(ObjectNotFoundError):
        near.get(oid, fetch=True)
    with pytest.raises(DeadlineExceededError):
        near.get(oid, fetch=True, timeout_s=0.1)
    waiting = threading.Event()
    found: list[Any] = []

    def get() -> None:
        waiting.set()
        found.append(near.get(oid, fetch=True, timeout_s=TIMEOUT_S))

    thread = threading.Thread(target=get)
    thread.start()
    waiting.wait(TIMEOUT_S)
    part = far._encoded([1, 2]).parts
    from vineyard_arrow.store import Draft

    far._a.put([Draft(part, None, id=int(oid))])
    thread.join(TIMEOUT_S)
    assert found == [[1, 2]]


# ---- who may


def test_a_wrong_token_or_authority(cluster: Cluster, far: Client) -> None:
    oid = far.put(1)
    with (
        cluster.connect(cluster.near, token="wrong") as near,
        pytest.raises(AccessDeniedError, match="refuses"),
    ):
        near.get(oid, fetch=True)
    certs = cluster.near.tls_root_certs
    with (
        cluster.connect(cluster.near, tls_root_certs=certs, timeout_s=5) as near,
        pytest.raises((ConnectionLostError, DeadlineExceededError)),
    ):
        near.migrate(near.put(1), to=far.instance)
    assert [meta.id for meta in far.list_objects()] == [oid]


def test_keys_by_settings(
    cluster: Cluster, far: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in (("token", b"wrong"), ("ca", cluster.keys["tls_root_certs"])):
        (tmp_path / name).write_bytes(text)
        monkeypatch.setenv(f"VINEYARD_ARROW_RPC_{name.upper()}_FILE", str(tmp_path / name))
    oid = far.put(7)
    with cluster.near.daemon.connect() as near:
        with pytest.raises(AccessDeniedError):
            near.get(oid, fetch=True)
        (tmp_path / "token").write_text(f"{cluster.near.token}\n")
        assert near.get(oid, fetch=True) == 7
    (tmp_path / "token").unlink()
    with (
        cluster.near.daemon.connect() as near,
        pytest.raises(ConfigError, match="cannot be read"),
    ):
        near.migrate(near.put(1), to=far.instance)


class Private:
    """Pickled."""


def test_whose_word_counts(cluster: Cluster, near: Client, far: Client) -> None:
    assert isinstance(near.get(far.put(Private()), fetch=True), Private)
    with cluster.open.daemon.connect() as loose:
        oid = loose.put(Private())
        with cluster.near.daemon.connect() as plain, pytest.raises(AccessDeniedError):
            plain.get(oid, fetch=True)
        with cluster.near.daemon.connect() as plain:
            new = plain.migrate(plain.put(Private()), to=loose.instance)
        with pytest.raises(AccessDeniedError):
            loose.get(new)


def test_the_payload_is_sealed_where_rpc_is(cluster: Cluster, far: Client) -> None:
    """Who connects to an end that listens there hears nothing but TLS."""
    with cluster.far.connect() as remote:
        order = e.ReceiveOrder("00" * 32, "tcp", TIMEOUT_S)
        with There(remote._a).start("receiver", order) as end:  # type: ignore[arg-type]
            address = There(remote._a).peer(listening(end, _deadline())).address  # type: ignore[arg-type]
            host, _, port = address.rpartition(":")
            with socket.create_connection((host, int(port)), TIMEOUT_S) as stranger:
                stranger.sendall(b"GET / HTTP/1.1\r\n\r\n" * 10)
                heard = b""
                while chunk := stranger.recv(4096):
                    heard += chunk
    assert m.HEADER.pack(m.MAGIC, m.MESSAGE, 0, 0)[:4] not in heard


def _deadline() -> float:
    import time

    return time.monotonic() + TIMEOUT_S


# ---- what goes wrong


def test_bad_destinations(near: Client, far: Client) -> None:
    oid = near.put(1)
    for to in (1 << 23, True, 3.5, None):
        with pytest.raises(InvalidObjectError, match="no destination"):
            near.migrate(oid, to=to)  # type: ignore[arg-type]
    (info,) = [info for info in near.instances() if info.number == far.instance]
    with pytest.raises(ConnectionLostError, match="not reached"):
        near.migrate(oid, to=replace(info, rpc=""))


def test_a_far_store_that_is_full(near: Client, far: Client) -> None:
    kept = far.put(np.zeros(200 * MIB, np.uint8))
    with pytest.raises(StoreFullError):
        near.migrate(near.put(np.zeros(100 * MIB, np.uint8)), to=far.instance)
    assert [meta.id for meta in far.list_objects()] == [kept]


def ends_of(served: Served) -> list[int]:
    """Processes of migrations beside a store."""
    names = ("migration sender", "migration receiver")
    return [c.pid for c in served.daemon.status().clients if c.program in names]


@pytest.mark.parametrize("direction", ["there", "back"])
def test_a_far_end_is_killed(cluster: Cluster, near: Client, far: Client, direction: str) -> None:
    source = near if direction == "there" else far
    oid = source.put(np.zeros(64 * MIB, np.uint8))
    target = far if direction == "there" else near

    def kill(done: int, total: int) -> None:
        for pid in ends_of(cluster.far):
            os.kill(pid, signal.SIGKILL)

    with cluster.far.connect(**cluster.keys) as remote:
        one, to = (near, far.instance) if direction == "there" else (remote, near)
        with pytest.raises(ConnectionLostError):
            one.migrate(oid, to=to, progress=kill, timeout_s=TIMEOUT_S)
        assert target.list_objects() == []
        new = one.migrate(oid, to=to)
    assert target.get_meta(new).nbytes == 64 * MIB


def test_who_migrates_stops(cluster: Cluster, near: Client, far: Client) -> None:
    """The end there goes with the call."""
    oid = near.put(np.zeros(64 * MIB, np.uint8))

    class Stopped(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        near.migrate(oid, to=far.instance, progress=stop)
    until(lambda: not ends_of(cluster.far))
    assert far.list_objects() == []


# ---- where an instance serves


def test_what_is_advertised(tmp_path: Path) -> None:
    def told(rpc: str, **settings: Any) -> str:
        config = daemon_config(socket=tmp_path / "s", rpc=rpc, rpc_open=True, **settings)
        return rpc_supervisor(config, None, lambda error: None).advertised(config)  # type: ignore[arg-type]

    assert told("127.0.0.1:70") == "127.0.0.1:70"
    assert told("0.0.0.0:70", rpc_advertise="node7.example") == "node7.example:70"
    assert told("0.0.0.0:70", rpc_advertise="node7.example:71") == "node7.example:71"
    assert told("[::]:70", rpc_advertise="[fe80::1]:71") == "[fe80::1]:71"
    assert told("0.0.0.0:70") == f"{socket.gethostname()}:70"
    assert told("[::]:70", meta="etcd") == f"{socket.gethostname()}:70"
    for wrong in ("", "0.0.0.0", "[::]:5", "a b"):
        with pytest.raises(ConfigError, match="rpc_advertise"):
            daemon_config(socket=tmp_path / "s", rpc="0.0.0.0:1", rpc_advertise=wrong or ":")
