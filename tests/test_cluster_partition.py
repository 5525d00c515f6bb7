"""An instance that is cut off from etcd by the network, while others are not."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cluster_harness import ETCDCTL, LEASE_S, PATIENCE_S, SMALL, TABLE, agree, layout_of, until
from conftest import QUICK_ETCD, Daemon
from net_harness import NEAR, Hosts, Relay, run_in, start_in

from vineyard_arrow.client import Client
from vineyard_arrow.errors import LeaseLostError, MetadataUnavailableError, ObjectInUseError
from vineyard_arrow.metadata.etcd.server import EtcdServers, find_etcd
from vineyard_arrow.objects import ObjectID, ObjectMeta


@dataclass
class Split:
    """An instance beyond a network that can be cut, and one beside etcd."""

    lone: Daemon
    other: Daemon
    net: Hosts | Relay
    etcdctl: list[str]

    def keys(self, prefix: str) -> list[str]:
        command = [*self.etcdctl, "get", "--prefix", "--keys-only", prefix]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


@pytest.fixture
def namespaces(folder: Path, tmp_path: Path) -> Iterator[Split]:
    """etcd and the other on one host, the lone one on another."""
    hosts = Hosts()
    url, peer = f"http://{NEAR}:2379", f"http://{NEAR}:2380"
    etcd = start_in(
        hosts.near.enter,
        [
            str(find_etcd().path),
            f"--data-dir={tmp_path / 'etcd'}",
            f"--listen-client-urls={url}",
            f"--advertise-client-urls={url}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--log-level=error",
            *QUICK_ETCD,
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    made: list[Daemon] = []
    try:
        etcdctl = [*hosts.near.enter, str(ETCDCTL), f"--endpoints={url}"]
        until(
            lambda: (
                not subprocess.run([*etcdctl, "endpoint", "health"], capture_output=True).returncode
            )
        )
        meta = (*SMALL, "--meta", f"etcd://{NEAR}:2379/split", "--meta-lease-s", LEASE_S)
        for name, where in (("lone", hosts.far), ("other", hosts.near)):
            made.append(run_in(where.enter, folder / f"{name}-{os.getpid()}", *meta))
        yield Split(*made, hosts, etcdctl)
    finally:
        for daemon in made:
            daemon.kill()
        etcd.kill()
        etcd.wait()
        hosts.close()


@pytest.fixture
def relayed(etcd: EtcdServers, make_daemon: Callable[..., Daemon]) -> Iterator[Split]:
    """The lone instance reaches etcd through a relay."""
    relay = Relay(etcd.members[0].endpoint)
    try:
        cluster = f"split{time.monotonic_ns()}"
        made = [
            make_daemon(*SMALL, "--meta", f"etcd://{at}/{cluster}", "--meta-lease-s", LEASE_S)
            for at in (relay.address, etcd.address)
        ]
        yield Split(*made, relay, [str(ETCDCTL), f"--endpoints={etcd.address}"])
    finally:
        relay.close()


@pytest.fixture(params=["namespaces", "relayed"])
def split(request: pytest.FixtureRequest) -> Split:
    return request.getfixturevalue(request.param)


def shared_by(a: Client, b: Client) -> tuple[ObjectID, ObjectMeta]:
    """An object that ``a`` persisted, and a global one of it that ``b`` made."""
    kept = a.put(TABLE, name="kept")
    a.label(kept, {"stage": "raw"})
    a.persist(kept)
    until(lambda: b.exists(kept))
    meta = ObjectMeta("shop.sales")
    meta.add_member("here", b.put(TABLE))
    meta.add_member("beyond", kept)
    sales = b.create_global(meta, name="sales")
    until(lambda: a.exists("sales"))  # else it may not have heard of it before it is cut off
    return kept, sales


def fenced_at(client: Client) -> float:
    """When an instance fenced itself, by the clock that all processes of this host share."""
    times = []
    for _ in range(20):  # the one whose answer took least is nearest to the truth
        fenced_s = client.status().fenced_s
        assert fenced_s is not None
        times.append(time.monotonic() - fenced_s)
    return min(times)


def gone_at(client: Client, number: int) -> float:
    """When a client's instance was seen to count another out."""
    deadline = time.monotonic() + PATIENCE_S
    while any(info.number == number for info in client.instances()):
        assert time.monotonic() < deadline, "it is not counted out"
        time.sleep(0.005)
    return time.monotonic()


def test_who_is_cut_off_fences_itself_before_others_see_it_gone(split: Split) -> None:
    with split.lone.connect() as a, split.other.connect() as b:
        kept, sales = shared_by(a, b)
        prefix = layout_of(a).prefix
        lease = a.instances()[0].lease, a.instance
        split.net.cut()
        gone = gone_at(b, a.instance)
        assert a.status().fenced
        assert fenced_at(a) <= gone
        # Here work goes on, and what needs the others is refused at once.
        assert a.get(a.put(TABLE)) == TABLE == a.get("kept")
        assert a.get_meta("sales").missing == ()  # as it was heard last
        with pytest.raises(LeaseLostError, match="counted this instance out") as caught:
            a.persist(a.put(1))
        assert "joins again by itself" in caught.value.hint
        # There it is gone whole, in one revision.
        assert not b.exists(kept)
        assert b.list_names() == {"sales": sales.id}
        assert b.get_meta("sales").missing == ("beyond",)
        assert not [key for key in split.keys(prefix) if str(kept) in key]
        split.net.heal()
        until(lambda: not a.status().fenced)
        until(lambda: b.exists(kept) and "kept" in b.list_names())
        assert b.get_meta("kept").labels == {"stage": "raw"}
        assert b.get_meta("sales").missing == ()
        assert lease[0] in {info.lease for info in b.instances()}
        until(lambda: [key for key in split.keys(prefix) if f"r/{kept}/" in key])
        with pytest.raises(ObjectInUseError, match="sales"):
            a.delete(kept)
        late = a.put(TABLE)
        a.persist(late)
        until(lambda: b.exists(late))


def test_who_hears_no_answers_fences_itself_though_etcd_hears_it(
    relayed: Split, etcd, connect_etcd
) -> None:
    """What it sends arrives, so its lease may live on there, and its writes be carried out."""
    with relayed.lone.connect() as a, relayed.other.connect() as b:
        kept, _ = shared_by(a, b)
        doubtful = a.put(TABLE, name="doubtful")
        relayed.net.cut(there=False)
        with pytest.raises(MetadataUnavailableError):
            a.persist(doubtful, timeout_s=0.5)
        until(lambda: a.status().fenced)
        assert a.get("doubtful") == TABLE
        relayed.net.heal()
        until(lambda: not a.status().fenced)
        until(lambda: b.exists(kept))
        agree([a, b], connect_etcd(etcd.address))
        a.persist(doubtful)
        until(lambda: b.exists(doubtful))
        agree([a, b], connect_etcd(etcd.address))


def test_a_short_cut_is_not_noticed_by_others(relayed: Split, etcd, connect_etcd) -> None:
    """Shorter than the lease: what was asked for meanwhile is carried out, once."""
    with relayed.lone.connect() as a, relayed.other.connect() as b:
        kept, _ = shared_by(a, b)
        relayed.net.cut()
        relayed.net.heal()
        late = a.put(TABLE)
        a.persist(late)
        until(lambda: b.exists(late))
        assert b.exists(kept)
        agree([a, b], connect_etcd(etcd.address))
