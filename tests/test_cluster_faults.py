"""Instances of a cluster when one is killed, with real daemons and a real etcd."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest
from cluster_harness import (
    ETCDCTL,
    LEASE_S,
    PATIENCE_S,
    SMALL,
    TABLE,
    Kept,
    agree,
    heard,
    layout_of,
    until,
)
from conftest import DEADLINE_S, Daemon, stopped

from vineyard_arrow.errors import (
    AccessDeniedError,
    ConfigError,
    LeaseLostError,
    MetadataUnavailableError,
    VineyardArrowError,
)
from vineyard_arrow.metadata.etcd.server import EtcdServers
from vineyard_arrow.objects import ObjectMeta

EXAMPLE = Path(__file__).parents[1] / "docs/examples/persisted.py"


@pytest.fixture
def join(
    etcd: EtcdServers, make_daemon: Callable[..., Daemon], request: pytest.FixtureRequest
) -> Callable[[], Daemon]:
    """Start an instance, with a short lease, of a cluster of the test's own."""
    where = f"etcd://{etcd.address}/{request.node.name.replace('[', '-').rstrip(']')}"
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
        with stopped(own_etcd.members[0].pid):
            assert client.get(client.put(TABLE)) == TABLE
            with pytest.raises(MetadataUnavailableError) as caught:
                client.persist(late, timeout_s=0.3)
            assert caught.value.hint
            until(lambda: client.status().fenced)
            with pytest.raises(LeaseLostError):
                client.persist(client.put(1))
            assert client.get("kept") == TABLE
        until(lambda: not client.status().fenced)
        client.persist(late)
        other = make_daemon(*SMALL, "--meta", where, "--meta-lease-s", LEASE_S)
        with other.connect() as b:
            assert b.get_name("kept") == kept
            assert {m.id for m in b.list_objects(cluster=True)} == {kept, late}


def test_records_come_back_to_an_etcd_without_data(own_etcd, make_daemon, connect_etcd) -> None:
    where = f"etcd://{own_etcd.address}/empty"
    member = own_etcd.members[0]
    with make_daemon(*SMALL, "--meta", where, "--meta-lease-s", LEASE_S).connect() as client:
        kept = client.put(TABLE, name="kept")
        client.persist(kept)
        member.stop()
        shutil.rmtree(member.folder)
        member.start()
        own_etcd.wait(DEADLINE_S)
        backend = connect_etcd(own_etcd.address)
        names = "/vineyard/empty/n/kept"
        until(lambda: backend.range(names).items)
        until(lambda: len(backend.range("/vineyard/empty/o/", prefix=True).items) == 1)
        assert client.get("kept") == TABLE


def test_a_daemon_killed_while_it_persists_leaves_nothing(join, etcd, connect_etcd) -> None:
    daemon = join()
    backend = connect_etcd(etcd.address)
    with daemon.connect() as client:
        prefix = f"/vineyard/{client.status().meta.rpartition('/')[2]}/"
        ids = client.put_many(range(300))

        def persist(oid: object) -> bool:
            try:
                client.persist(oid)
            except VineyardArrowError:
                return False
            return True

        with ThreadPoolExecutor(16) as pool:
            done = [pool.submit(persist, oid) for oid in ids]
            assert done[0].result()
            daemon.kill()
            assert not all(future.result() for future in done)
    left = [prefix + "number"]
    until(lambda: [i.key for i in backend.range(prefix, prefix=True).items] == left)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", [200, pytest.param(1000, marks=pytest.mark.stress)])
def test_persists_race_deletes(join, etcd, connect_etcd, number) -> None:
    with join().connect() as a, join().connect() as b:
        ids = a.put_many(range(number))
        kept_meta = ObjectMeta("kept")
        kept_meta.add_member("0", a.put(TABLE))
        a.create_global(kept_meta)  # whoever wins the race, there is one

        def persist(i: int) -> None:
            with contextlib.suppress(VineyardArrowError):  # deleted before
                if i % 5 == 0:
                    a.put_name(ids[i], f"early {i}")
                a.persist(ids[i])
                if i % 3 == 0:
                    (b if b.exists(ids[i]) else a).label(ids[i], {"i": str(i)})
                if i % 7 == 0:
                    (b if b.exists(ids[i]) else a).put_name(ids[i], f"late {i}")
                meta = ObjectMeta("one")
                meta.add_member("0", ids[i])
                maker = b if i % 2 and b.exists(ids[i]) else a
                made = maker.create_global(meta, name=f"global {i}" if i % 11 == 0 else None)
                if i % 4 < 2:
                    maker.delete(made.id)

        def delete(i: int) -> None:
            with contextlib.suppress(VineyardArrowError):  # referred to, or being persisted
                a.delete(ids[i])

        with ThreadPoolExecutor(8) as persists, ThreadPoolExecutor(8) as deletes:
            done = []
            for i in range(number):
                done += [persists.submit(persist, i), deletes.submit(delete, i)]
            for future in done:
                future.result(5 * PATIENCE_S)
        backend = connect_etcd(etcd.address)
        agree([a, b], backend)
        layout = layout_of(a)
        kept = Kept(layout, backend.range(layout.prefix, prefix=True).items)
        assert len(kept.edges) == len(kept.globals) > 0


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--meta-login-file", "root:wrong"),
        ("--meta-token-file", "wrong"),
        ("--meta-ca-file", "no certificate"),
    ],
)
def test_what_etcd_does_not_accept_ends_the_start(
    etcd, make_daemon, tmp_path, option, text
) -> None:
    path = tmp_path / "secret"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises((AccessDeniedError, ConfigError, MetadataUnavailableError)) as caught:
        make_daemon(*SMALL, "--meta", f"etcd://{etcd.address}/closed", option, str(path))
    assert caught.value.hint
