"""Global objects come back from files dealt out over the instances of a cluster, or not at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from cluster_harness import LEASE_S, heard, persisted, rows, until
from conftest import Daemon, run_daemon
from test_export import small_graph
from test_export_faults import end, half
from types_harness import composite

from vineyard_arrow import ObjectMeta, deserialize, serialize
from vineyard_arrow.cli.report import UsageError
from vineyard_arrow.cli.saving import _instances
from vineyard_arrow.client import Client
from vineyard_arrow.errors import (
    ConfigError,
    ConnectionLostError,
    InvalidObjectError,
    ObjectExistsError,
    ObjectNotFoundError,
    StoreFullError,
)
from vineyard_arrow.graph import GlobalGraph
from vineyard_arrow.metadata.etcd.server import EtcdServers
from vineyard_arrow.saving import load
from vineyard_arrow.saving import manifest as m

SMALL = ("--memory-limit", "128MiB", "--pages", "small")
COUNT = 40_000  # rows of a partition
Clients = list[Client]


@pytest.fixture(scope="module")
def daemons(folder: Path) -> Iterator[dict[str, list[Daemon]]]:
    """Two clusters: of three instances, and of two."""
    made: dict[str, list[Daemon]] = {}
    with EtcdServers(options=["--unsafe-no-fsync"]) as etcd:
        try:
            for cluster, count in (("three", 3), ("two", 2)):
                meta = ("--meta", f"etcd://{etcd.address}/{cluster}")
                made[cluster] = []
                for i in range(count):
                    made[cluster].append(run_daemon(folder, f"{cluster}{i}", *SMALL, *meta))
            yield made
        finally:
            for several in made.values():
                for daemon in several:
                    daemon.stop()


def connected(daemons: list[Daemon]) -> Iterator[Clients]:
    clients = [daemon.connect() for daemon in daemons]
    try:
        until(lambda: all(len(c.instances()) == len(clients) for c in clients))
        yield clients
        emptied(clients)
        until(lambda: not any(c.status().memory_used for c in clients))
    finally:
        for client in clients:
            client.close()


@pytest.fixture
def three(daemons: dict[str, list[Daemon]]) -> Iterator[Clients]:
    yield from connected(daemons["three"])


@pytest.fixture
def two(daemons: dict[str, list[Daemon]]) -> Iterator[Clients]:
    yield from connected(daemons["two"])


def emptied(clients: Clients) -> None:
    for meta in clients[0].list_objects(cluster=True):
        if meta.is_global:
            clients[0].delete(meta.id)
    for client in clients:
        client.clear()


def counts(clients: Clients) -> list[int]:
    """Objects of each instance, and those of the cluster."""
    whole = [meta for meta in clients[0].list_objects(cluster=True) if meta.is_global]
    return [*(client.status().objects for client in clients), len(whole)]


TABLES = [rows(i * COUNT, COUNT) for i in range(5)]
WHERE = [0, 0, 1, 2, 1]  # the client that puts each


def dealt_table(clients: Clients, **options: Any) -> ObjectMeta:
    ids = []
    for table, i in zip(TABLES, WHERE, strict=True):
        ids.append(clients[i].put(table))
        clients[i].persist(ids[-1])
    return clients[0].create_global(ids, **options)


@pytest.fixture
def out(three: Clients, tmp_path: Path) -> Path:
    """An export of a table in five partitions on three instances, which are empty again."""
    dealt_table(three, name="whole", labels={"source": "made up"})
    serialize("whole", tmp_path / "out", client=three[0])
    emptied(three)
    return tmp_path / "out"


def places(clients: Clients, key: Any) -> list[int]:
    """The client of whose instance each partition is."""
    numbers = [client.instance for client in clients]
    return [numbers.index(oid.instance) for oid in clients[0].get(key).object_ids]


def test_as_they_were(three: Clients, out: Path) -> None:
    seen: list[tuple[int, int]] = []
    (new,) = deserialize(out, client=three[1], progress=lambda *both: seen.append(both))
    assert seen[-1][0] == seen[-1][1]
    meta = heard(three[0], "whole")
    assert (meta.id, meta.is_global, meta.labels) == (new, True, {"source": "made up"})
    assert places(three, new) == WHERE
    for oid, table, i in zip(three[0].get(new).object_ids, TABLES, WHERE, strict=True):
        assert three[i].get(oid) == table
        assert three[i].get_meta(oid).copied == 0
    assert counts(three) == [2, 2, 1, 1]  # nothing by the way
    whole = three[2].get("whole", timeout_s=60)
    assert pa.concat_tables(p.get(fetch=True) for p in whole.partitions) == pa.concat_tables(TABLES)


def test_fewer_instances(two: Clients, out: Path) -> None:
    deserialize(out, client=two[0])
    found = places(two, "whole")
    assert sorted(found) in ([0, 0, 0, 1, 1], [0, 0, 1, 1, 1])
    assert (found[0], found[2]) == (found[1], found[4])  # what was together is
    for oid, table, i in zip(
        two[0].get("whole", timeout_s=60).object_ids, TABLES, found, strict=True
    ):
        assert two[i].get(oid) == table


def test_over_some(two: Clients, out: Path) -> None:
    deserialize(out, client=two[0], over=two[1])
    assert places(two, "whole") == [1] * 5
    assert counts(two) == [0, 5, 1]
    assert two[0].status().memory_used == 0
    deserialize(out, client=two[0], over=two, names="replace")
    assert sorted(places(two, "whole")) in ([0, 0, 0, 1, 1], [0, 0, 1, 1, 1])
    with pytest.raises((ConfigError, ObjectNotFoundError)):
        deserialize(out, client=two[0], over=[1], names="keep")


def test_graphs(three: Clients, two: Clients, tmp_path: Path) -> None:
    graph = small_graph(three[0])
    three[0].partition(graph, 3, over=three, name="fragments")
    num_edges, num_vertices = graph.num_edges(), graph.num_vertices()
    serialize("fragments", tmp_path / "out", client=three[0])
    deserialize(tmp_path / "out", client=two[1])
    fragments = two[1].get("fragments")
    assert isinstance(fragments, GlobalGraph)
    assert sorted(places(two[::-1], "fragments")) in ([0, 0, 1], [0, 1, 1])
    for fid in range(3):
        fragments.fragment(fid, fetch=True).graph.validate()
    back = fragments.to_graph(client=two[1])
    assert (back.num_edges(), back.num_vertices()) == (num_edges, num_vertices)
    del graph, fragments, back


def test_what_partitions_and_others_share(two: Clients, tmp_path: Path) -> None:
    """Two partitions of one object, which is a member of an ordinary one, too."""
    a, b = two
    base = a.put(TABLES[0], name="base")
    parts = [composite(a, {"base": base}, n=n) for n in range(2)]
    apart = composite(a, {"part": parts[1], "base": base})
    meta = ObjectMeta("test.both", {"k": 1})
    for n, part in enumerate(parts):
        meta.add_member(f"p{n}", part)
    a.create_global(meta, name="both")
    a.put_name(parts[0], "first")
    serialize(["both", apart], tmp_path / "out", client=a)
    emptied(two)
    whole, alone = deserialize(tmp_path / "out", client=a, over=[b, a])
    found = a.get_meta(whole)
    assert (found["k"], found.is_global) == (1, True)
    ids = [member.id for member in found.members.values()]
    assert sorted(two_of.instance for two_of in ids) == sorted(c.instance for c in two)
    for n, oid in enumerate(ids):
        at = next(c for c in two if c.instance == oid.instance)
        assert at.get_meta(oid)["n"] == n
        assert at.get(at.get_meta(oid).members["base"].id) == TABLES[0]
    assert a.get_name("first") == ids[0]
    here = a.get_meta(alone)
    assert {member.id.instance for member in here.members.values()} == {a.instance}
    assert a.get_name("base") == here.members["base"].id


def test_all_of_a_store(three: Clients, tmp_path: Path) -> None:
    a = three[0]
    meta = dealt_table(three, name="whole")
    a.put_name(meta.id, "again")
    a.put([1, 2], name="alone")
    serialize(["whole", "alone"], tmp_path / "out", client=a)
    with pytest.raises(ObjectExistsError):
        deserialize(tmp_path / "out", client=a)
    kept, _ = deserialize(tmp_path / "out", client=a, names="keep")
    assert a.get_name("whole") == a.get_name("again") == meta.id
    assert a.get_meta(kept).names == ()
    new, _ = deserialize(tmp_path / "out", client=a, names="replace")
    assert a.get_name("whole") == a.get_name("again") == new
    assert heard(a, meta.id).names == ()


def test_a_name_of_the_cluster_stays_one(three: Clients, tmp_path: Path) -> None:
    a, b = three[:2]
    old = persisted(a, TABLES[0])
    a.put_name(old, "x")
    serialize("x", tmp_path / "out", client=a)
    until(lambda: b.exists("x"))
    (new,) = deserialize(tmp_path / "out", client=b, names="replace")
    assert new.instance == b.instance
    until(lambda: a.get_name("x") == new)


# ---- what goes wrong


def joining(clients: Clients) -> tuple[str, ...]:
    """Options of one more instance, which is soon forgotten."""
    return "--meta", clients[0].status().meta, "--meta-lease-s", LEASE_S


def test_an_instance_that_is_full(
    two: Clients, out: Path, make_daemon: Callable[..., Daemon]
) -> None:
    tiny = make_daemon("--memory-limit", "1MiB", "--pages", "small", *joining(two))
    with tiny.connect() as c:
        until(lambda: c.instance in {info.number for info in two[0].instances()})
        with pytest.raises(StoreFullError):
            deserialize(out, client=two[0], over=[two[1], c])
        assert counts([*two, c]) == [0, 0, 0, 0]
        assert c.status().memory_used == 0


@pytest.mark.parametrize("when", ["put", "persist"])
def test_an_instance_that_dies(
    two: Clients,
    out: Path,
    make_daemon: Callable[..., Daemon],
    monkeypatch: pytest.MonkeyPatch,
    when: str,
) -> None:
    daemon = make_daemon(*SMALL, *joining(two))
    with daemon.connect() as c:
        until(lambda: c.instance in {info.number for info in two[0].instances()})
        number, draft, persist = c.instance, load._Load._draft, Client.persist

        def drafted(self: Any, saved: Any, at: int, own: Any) -> Any:
            if at == number and when == "put":
                daemon.kill()
            return draft(self, saved, at, own)

        def persisted(self: Client, key: Any, **options: Any) -> None:
            if self.instance == number:
                daemon.kill()
            persist(self, key, **options)

        monkeypatch.setattr(load._Load, "_draft", drafted)
        monkeypatch.setattr(Client, "persist", persisted)
        with pytest.raises(ConnectionLostError):
            deserialize(out, client=two[0], over=[*two, number])
    assert counts(two) == [0, 0, 0]
    until(lambda: len(two[0].instances()) == 2)


def test_a_name_that_cannot_be_given(
    two: Clients, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = two[0].put("old", name="whole")
    put_name = Client.put_name

    def fail(self: Client, key: Any, name: str, **options: Any) -> Any:
        if key != old:
            raise ObjectExistsError("no")
        return put_name(self, key, name, **options)

    monkeypatch.setattr(Client, "put_name", fail)
    with pytest.raises(ObjectExistsError, match="no"):
        deserialize(out, client=two[0], names="replace")
    assert two[0].get_name("whole") == old
    assert counts(two) == [1, 0, 0]


def test_a_killed_import_leaves_nothing(
    two: Clients, three: Clients, daemons: dict[str, list[Daemon]], tmp_path: Path
) -> None:
    three[0].partition(np.zeros(2 << 20), 8, over=three, name="zeros")
    serialize("zeros", tmp_path / "out", client=three[0])
    end(half(daemons["two"][0], "import", "", tmp_path / "out"))
    until(lambda: all(len(c.status().clients) == 1 for c in two))
    assert counts(two) == [0, 0, 0]
    until(lambda: not any(c.status().memory_used for c in two))


@pytest.mark.parametrize("lie", ["data", "another in it"])
def test_manifests_that_lie(two: Clients, out: Path, lie: str) -> None:
    path = out / "manifest.json"
    content = m.decode(path.read_bytes())
    first, whole = content.objects[0], content.objects[-1]
    assert whole.is_global
    if lie == "data":
        whole.parts += first.parts
        first.parts = [[m.File("o0000000000000001-0-0.arrow", 1, first.files[0].checksum)]]
    else:
        first.is_global = True
    path.write_bytes(m.encode(content))
    with pytest.raises(InvalidObjectError, match=lie):
        deserialize(out, client=two[0])
    assert counts(two) == [0, 0, 0]


def test_over_tcp_alone(
    two: Clients, out: Path, make_daemon: Callable[..., Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    far = make_daemon(*SMALL, *joining(two), "--rpc", "127.0.0.1:0")
    with far.connect() as c:
        until(lambda: c.instance in {info.number for info in two[0].instances()})
        number, real = c.instance, two[0].instances()
        there = [replace(i, socket="/nowhere") if i.number == number else i for i in real]
        monkeypatch.setattr(Client, "instances", lambda self: there)
        deserialize(out, client=two[0], over=number)
        ids = two[0].get("whole", timeout_s=60).object_ids
        assert {oid.instance for oid in ids} == {number}
        assert [c.get(oid) == table for oid, table in zip(ids, TABLES, strict=True)] == [True] * 5
        assert two[0].status().memory_used == 0
        monkeypatch.undo()
        two[0].delete("whole")


def test_by_the_command(two: Clients, daemons: dict[str, list[Daemon]], out: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        socket = str(daemons["two"][0].socket)
        command = [sys.executable, "-m", "vineyard_arrow", "--socket", socket, "--json"]
        return subprocess.run(
            [*command, "import", str(out), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env=os.environ,
        )

    done = run("--over", f"{two[1].instance:06x}")
    assert done.returncode == 0, done.stderr
    assert "whole" in json.dumps(json.loads(done.stdout))
    assert places(two, "whole") == [1] * 5
    done = run("--over", "1", "--names", "keep")
    assert done.returncode == 2
    assert "--over: there is no instance 000001" in done.stderr
    assert _instances(two[0], "all") == [info.number for info in two[0].instances()]
    with pytest.raises(UsageError):
        _instances(two[0], "x")
