"""What is left of a cluster when instances or servers of etcd come to an end, room included."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Callable, Iterator

import pytest
from cluster_harness import (
    ETCDCTL,
    LEASE_S,
    SMALL,
    TABLE,
    Kept,
    agree,
    layout_of,
    until,
)
from conftest import QUICK_ETCD, Daemon
from metadata_conformance import WAIT_S
from test_metadata_etcd_faults import leader_of

from vineyard_arrow.client import Client
from vineyard_arrow.errors import (
    MetadataFullError,
    MetadataUnavailableError,
    ObjectInUseError,
    ObjectNotFoundError,
)
from vineyard_arrow.metadata.etcd.backend import EtcdBackend
from vineyard_arrow.metadata.etcd.client import rpc
from vineyard_arrow.metadata.etcd.server import EtcdServers
from vineyard_arrow.objects import ObjectMeta


@pytest.fixture
def join(
    etcd: EtcdServers, make_daemon: Callable[..., Daemon], request: pytest.FixtureRequest
) -> Callable[..., Daemon]:
    """Start an instance of a cluster of the test's own, at the session's etcd or another."""
    name = request.node.name.partition("[")[0][:64]

    def make(at: EtcdServers = etcd) -> Daemon:
        where = f"etcd://{at.address}/{name}"
        return make_daemon(*SMALL, "--meta", where, "--meta-lease-s", LEASE_S)

    return make


def make_tangle(a: Client, b: Client) -> ObjectMeta:
    """Objects of two instances with all there is: trees, copies, names, labels, a global one."""
    leaf = a.put(TABLE, name="leaf")
    tree = ObjectMeta("shop.basket")
    tree.add_member("items", leaf)
    root = a.create_metadata(tree)
    copy = a.shallow_copy(leaf)
    a.label(root.id, {"stage": "raw"})
    a.persist([root.id, copy])
    theirs = b.put(TABLE, name="theirs")
    b.label(theirs, {"year": "2026"})
    b.persist(theirs)
    until(lambda: b.exists(root.id) and b.exists("leaf"))
    meta = ObjectMeta("shop.sales")
    meta.add_member("north", root.id)
    meta.add_member("south", theirs)
    made = b.create_global(meta, name="sales", labels={"kind": "all"})
    until(lambda: a.exists("sales"))
    return made


def test_a_killed_instance_is_gone_within_its_lease(join, etcd, connect_etcd) -> None:
    first, second, third = join(), join(), join()
    backend = connect_etcd(etcd.address)
    client = backend.client
    with first.connect() as a, third.connect() as c:
        with second.connect() as b:
            made = make_tangle(b, a)
            number = b.instance
            lease = next(info.lease for info in b.instances() if info.number == number)
            until(lambda: c.exists("sales"))
            agree([a, b, c], backend)
            second.kill()
        request = rpc.LeaseTimeToLiveRequest(ID=lease, keys=True)
        told = client.call(client.leasestub.LeaseTimeToLive, request, WAIT_S)
        # All that is its own ends with this lease, which is no longer than was asked for.
        layout = layout_of(a)
        own = {key.decode().removeprefix(layout.prefix)[0] for key in told.keys}
        assert told.TTL < 0 or own == set("ions") | {"r"}
        assert told.grantedTTL in (0, int(LEASE_S))
        seen = [told.TTL]

        def ended() -> bool:
            seen.append(client.call(client.leasestub.LeaseTimeToLive, request, WAIT_S).TTL)
            return seen[-1] < 0

        until(ended)
        assert seen == sorted(seen, reverse=True)
        agree([a, c], backend)
        for each in (a, c):
            assert number not in {info.number for info in each.instances()}
            assert each.get_meta("sales").missing == ("north",)
            assert each.list_names().keys() == {"sales", "theirs"}
            assert not each.exists(made.members["north"].id)
        kept = Kept(layout, backend.range(layout.prefix, prefix=True).items)
        assert kept.edges == {(int(made.members["south"].id), int(made.id))}
        with pytest.raises(ObjectNotFoundError, match=f"{number:06x}"):
            a.get(made.members["north"].id, fetch=True)
        with pytest.raises(ObjectInUseError, match="sales"):
            a.delete("theirs")
        a.delete("sales")
        a.delete("theirs")
        agree([a, c], backend)


def test_all_is_put_back_into_an_etcd_without_data(own_etcd, join, connect_etcd) -> None:
    first, second = join(own_etcd), join(own_etcd)
    member = own_etcd.members[0]
    with first.connect() as a, second.connect() as b:
        made = make_tangle(a, b)
        backend = connect_etcd(own_etcd.address)
        agree([a, b], backend)
        layout = layout_of(a)

        def keys() -> dict[str, bytes]:
            items = backend.range(layout.prefix, prefix=True, timeout_s=WAIT_S).items
            return {i.key: i.value for i in items if i.key != layout.counter}

        before = keys()
        assert {key.removeprefix(layout.prefix)[0] for key in before} == set("iognsr")
        member.stop()
        shutil.rmtree(member.folder)
        member.start()
        own_etcd.wait(WAIT_S)
        until(lambda: keys() == before)
        until(lambda: not a.status().fenced and not b.status().fenced)
        agree([a, b], backend)
        for each in (a, b):
            assert each.get_meta("sales").missing == ()
            assert each.get_meta("sales").labels == {"kind": "all"}
        with pytest.raises(ObjectInUseError):
            b.delete("theirs")
        with pytest.raises(ObjectInUseError):
            a.delete(made.members["north"].id)
        b.delete("sales")
        b.delete("theirs")
        agree([a, b], backend)


def fill(backend: EtcdBackend) -> None:
    """Write until etcd takes nothing any more, be it small."""
    put = backend.client.kvstub.Put
    for i in range(100):
        for value in (bytes(500_000), b""):
            request = rpc.PutRequest(key=b"/others/%d" % i, value=value)
            backend.client.call(put, request, WAIT_S)


@pytest.mark.parametrize("own_etcd", [["--quota-backend-bytes=4000000"]], indirect=True)
def test_an_etcd_without_space(own_etcd, join, connect_etcd) -> None:
    backend = connect_etcd(own_etcd.address)
    client = backend.client

    def etcdctl(*arguments: str) -> str:
        command = [ETCDCTL, f"--endpoints={own_etcd.address}", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    first, second = join(own_etcd), join(own_etcd)
    with first.connect() as a, second.connect() as b:
        make_tangle(a, b)
        spare = b.put(TABLE)
        b.persist(spare)
        with pytest.raises(MetadataFullError):
            fill(backend)
        late = a.put(TABLE, name="late")
        with pytest.raises(MetadataFullError, match="space exceeded") as caught:
            a.persist(late)
        assert "etcdctl alarm disarm" in caught.value.hint
        with pytest.raises(MetadataFullError):
            a.put_name(a.get_name("leaf"), "another")
        # Deleting needs no space: etcd refuses it only while its file is beyond the quota.
        with contextlib.suppress(MetadataFullError):
            b.delete(spare)
        # What needs no etcd goes on: here, and of what was heard.
        assert not a.get_meta(late).persisted
        assert a.get("late") == a.get("leaf") == TABLE
        passing = a.put(TABLE)
        with pytest.raises(MetadataFullError):
            a.persist(passing)
        a.delete(passing)
        assert b.get_meta("sales").missing == ()
        # The lease is kept alive, so nobody is counted out.
        lease = next(info.lease for info in a.instances() if info.number == a.instance)
        assert (
            backend.client.call(
                client.leasestub.LeaseTimeToLive, rpc.LeaseTimeToLiveRequest(ID=lease), WAIT_S
            ).TTL
            >= 0
        )
        # As the hint says.
        etcdctl("del", "--prefix", "/others/")
        revision = backend.range("/").revision
        etcdctl("compact", "--physical", str(revision))
        etcdctl("defrag")
        etcdctl("alarm", "disarm")
        a.persist(late)
        b.delete("sales")
        a.put_name(a.get_name("leaf"), "another")
        agree([a, b], backend)


@pytest.fixture
def three() -> Iterator[EtcdServers]:
    """A majority that is slow to vote, as machines under load are."""
    options = [*QUICK_ETCD, "--heartbeat-interval=50", "--election-timeout=500"]
    with EtcdServers(3, unsafe=True, options=options) as servers:
        yield servers


def test_the_leader_of_three_is_killed_under_daemons(three, make_daemon, connect_etcd) -> None:
    # Nobody is counted out by an election, so the lease is longer than any.
    meta = ("--meta", f"etcd://{three.address}/leader", "--meta-lease-s", "30")
    with make_daemon(*SMALL, *meta).connect() as a, make_daemon(*SMALL, *meta).connect() as b:
        make_tangle(a, b)
        backend = connect_etcd(three.address)
        agree([a, b], backend)
        for _ in range(2):
            leader = leader_of(three, backend)
            three.members[leader].stop()
            oid = a.put(TABLE)
            until(lambda oid=oid: persisted(a, oid))
            until(lambda oid=oid: b.exists(oid))
            assert a.get("leaf") == TABLE
            agree([a, b], backend)
            assert not a.status().fenced
            assert not b.status().fenced
            three.members[leader].start()
            three.wait(WAIT_S)
        # No majority: an error in time, and work here. It heals by itself.
        two = three.members[:2]
        for member in two:
            member.stop()
        late = a.put(TABLE)
        with pytest.raises(MetadataUnavailableError) as caught:
            a.persist(late, timeout_s=0.5)
        assert "put and g" in caught.value.hint  # that they go on; in other words if etcd said why
        assert a.get(late) == TABLE
        for member in two:
            member.start()
        three.wait(WAIT_S)
        until(lambda: persisted(a, late))
        until(lambda: b.exists(late))
        agree([a, b], backend)


def persisted(client: Client, oid: object) -> bool:
    """Whether it is by now; for while servers elect one of them."""
    try:
        client.persist(oid)
    except MetadataUnavailableError:
        return False
    return True
