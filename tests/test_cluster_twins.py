"""Instances of one name: of one host, one socket, one address, at once or one after the other.

An instance is known by its number and its lease, which nobody else ever has; the rest only says
where to look for it.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster_harness import LEASE_S, SMALL, TABLE, agree, until
from conftest import Daemon, run_daemon
from net_harness import own_files, run_in

from vineyard_arrow.errors import ConfigError, ConnectionLostError, ObjectNotFoundError
from vineyard_arrow.metadata.etcd.server import free_ports
from vineyard_arrow.objects import ObjectMeta


@pytest.fixture
def place(folder: Path, request: pytest.FixtureRequest) -> Path:
    """A folder for sockets."""
    path = folder / f"twins{abs(hash(request.node.name)) % 10**6}"
    path.mkdir()
    return path


@pytest.fixture
def options(etcd, request: pytest.FixtureRequest) -> tuple[str, ...]:
    return (*SMALL, "--meta", f"etcd://{etcd.address}/{request.node.name}", "--meta-lease-s")


@pytest.fixture
def run() -> Iterator[Callable[..., Daemon]]:
    """Start daemons by a function, and kill them in the end."""
    made: list[Daemon] = []

    def make(how: Callable[..., Daemon], *arguments: object) -> Daemon:
        made.append(how(*arguments))
        return made[-1]

    yield make
    for each in made:
        each.kill()


def run_alike(place: Path, number: int, *options: str) -> Daemon:
    """A daemon whose files are its own, under the same names."""
    real = place.with_name(f"{place.name}-{number}")
    real.mkdir()
    daemon = run_in(own_files(place, real), place / "s", *options)
    return Daemon(real / "s", daemon.pid)


def test_one_socket_of_one_host_at_once(run, place, options) -> None:
    """As of containers that are alike: files apart, all that tells of their place the same."""
    options = (*options, LEASE_S, "--rpc", "127.0.0.1:0")
    here = run(run_daemon, place, "s", *options)
    alike = [run(run_alike, place, number, *options) for number in range(2)]
    with here.connect() as a, alike[0].connect() as b, alike[1].connect() as c:
        clients = [a, b, c]
        for each in clients:
            until(lambda each=each: len(each.instances()) == 3)
            infos = each.instances()
            assert len({(info.host, info.socket) for info in infos}) == 1
            assert {info.number for info in infos} == {one.instance for one in clients}
            assert len({info.lease for info in infos}) == len({info.rpc for info in infos}) == 3
        ids = [each.put(TABLE, name=f"of {i}") for i, each in enumerate(clients)]
        meta = ObjectMeta("shop.sales")
        for i, (each, oid) in enumerate(zip(clients, ids, strict=True)):
            each.persist(oid)
            until(lambda oid=oid: a.exists(oid))
            meta.add_member(str(i), oid)
        a.create_global(meta, name="sales")
        for each, own in zip(clients, ids, strict=True):
            for oid in ids:
                assert each.where(oid).number == oid.instance
                until(lambda each=each, oid=oid: each.exists(oid))
                if oid != own:
                    with pytest.raises(ObjectNotFoundError, match=f"{oid.instance:06x}"):
                        each.get(oid)
                    # That path is another's here, so it comes over TCP.
                    assert each.get(oid, fetch=True) == TABLE
        alike[1].kill()
        gone = c.instance
        until(lambda: all(len(each.instances()) == 2 for each in (a, b)))
        for each in (a, b):
            assert each.get_meta("sales").missing == ("2",)
            assert gone not in {info.number for info in each.instances()}
            assert each.get("of 0" if each is a else "of 1") == TABLE


def test_one_socket_of_one_host_is_taken(run, place, options) -> None:
    run(run_daemon, place, "s", *options, LEASE_S)
    with pytest.raises(ConfigError, match="a daemon is already serving"):
        run_daemon(place, "s", *options, LEASE_S)


def test_who_comes_after_is_not_who_was_there(run, place, options, etcd, connect_etcd) -> None:
    """Killed, and started again at its socket and address before its lease has ended."""
    address = f"127.0.0.1:{free_ports(1)[0]}"
    first = run(run_daemon, place, "s", *options, "60", "--rpc", address)
    with first.connect() as a:
        lost = a.put(TABLE, name="lost")
        a.persist(lost)
        number, lease = a.instance, a.instances()[0].lease
    first.kill(signal.SIGKILL)
    until(lambda: port_is_free(address))
    second = run(run_daemon, place, "s", *options, LEASE_S, "--rpc", address)
    with second.connect() as b:
        assert b.instance != number
        infos = b.instances()
        assert {info.number for info in infos} == {number, b.instance}
        assert len({(info.host, info.socket, info.rpc) for info in infos}) == 1
        # It is still known, but nothing of the new one's is taken for it.
        assert b.get_name("lost") == lost
        with pytest.raises(ObjectNotFoundError, match=f"{number:06x}"):
            b.get("lost")
        with pytest.raises(ConnectionLostError, match=f"another instance here than {number:06x}"):
            b.get("lost", fetch=True)
        mine = b.put(TABLE)
        b.persist(mine)
        assert mine.instance != lost.instance
        backend = connect_etcd(etcd.address)
        backend.revoke(lease)  # as its end does
        until(lambda: not b.exists(lost))
        assert b.list_names() == {}
        assert [info.number for info in b.instances()] == [b.instance]
        agree([b], backend)


def port_is_free(address: str) -> bool:
    """Whether the process that served there has ended, too: it notices a moment later."""
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) != 0
