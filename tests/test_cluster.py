"""Instances of one cluster: real daemons that meet in a real etcd."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from conftest import Daemon

from vineyard_arrow import __version__
from vineyard_arrow.metadata.etcd.server import EtcdServers
from vineyard_arrow.objects import InstanceInfo

QUICK = ["--unsafe-no-fsync"]
SMALL = ("--memory-limit", "64MiB", "--pages", "small")


@pytest.fixture(scope="session")
def etcd() -> Iterator[EtcdServers]:
    """One server for all tests that do it no harm."""
    with EtcdServers(options=QUICK) as servers:
        yield servers


@pytest.fixture
def join(
    etcd: EtcdServers, make_daemon: Callable[..., Daemon], request: pytest.FixtureRequest
) -> Callable[..., Daemon]:
    """Start an instance of a cluster of the test's own."""

    def make(*options: str) -> Daemon:
        name = f"c{abs(hash(request.node.nodeid))}"
        return make_daemon(*SMALL, "--meta", f"etcd://{etcd.address}/{name}", *options)

    return make


class TestInstances:
    def test_alone(self, client) -> None:
        [info] = client.instances()
        assert isinstance(info, InstanceInfo)
        assert (info.number, info.version, info.rpc) == (client.instance, __version__, "")
        assert info.pid == client.status().pid
        assert client.status().meta == "embedded"
        assert client.status().cluster_instances == 1

    def test_two(self, join) -> None:
        first, second = join(), join("--rpc", "127.0.0.1:0")
        with first.connect() as a, second.connect() as b:
            infos = {info.number: info for info in b.instances()}
            assert set(infos) == {a.instance, b.instance}
            assert infos[a.instance].socket == str(first.socket)
            assert infos[b.instance].rpc == b.status().rpc
            assert (infos[b.instance].pid, infos[b.instance].rpc[:10]) == (second.pid, "127.0.0.1:")

    def test_own_etcd(self, make_daemon) -> None:
        first = make_daemon(*SMALL, "--meta", "etcd", "--start-etcd")
        where = first.status().meta
        second = make_daemon(*SMALL, "--meta", where)
        with second.connect() as client:
            assert [info.pid for info in client.instances()] == [first.pid, second.pid]
