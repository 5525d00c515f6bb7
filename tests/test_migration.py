"""Objects move between two real daemons, by real pairs of processes, and come as they were."""

from __future__ import annotations

import gc
import os
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import Daemon
from test_fork import in_child
from types_harness import assert_same, composite
from values import ALL_VALUES

from vineyard_arrow import ObjectID
from vineyard_arrow.client import Client
from vineyard_arrow.errors import (
    AccessDeniedError,
    ConfigError,
    InvalidObjectError,
    ObjectNotFoundError,
    StoreFullError,
)
from vineyard_arrow.graph import Graph
from vineyard_arrow.ipc import protocol as p
from vineyard_arrow.migration import ends, forkserver, transports
from vineyard_arrow.migration.landing import ORIGIN

KIB, MIB = 1 << 10, 1 << 20


def used(client: Client) -> int:
    """Bytes of sealed extents."""
    return client.status().memory_used


# ---- values


def test_every_value_comes_as_it_was(client: Client, there: Client) -> None:
    ids = client.put_many([make() for _, make in ALL_VALUES])
    names = [name for name, _ in ALL_VALUES]
    root = composite(client, dict(zip(names, ids, strict=True)), a=1)
    new = client.migrate(root, to=there)
    client.clear()  # nothing of it is needed any more
    meta = there.get_meta(new)
    assert meta["a"] == 1
    assert list(meta.members) == names
    failed = {}
    for name, make in ALL_VALUES:
        try:
            assert_same(make(), there.get(meta.members[name].id))
        except Exception as error:
            failed[name] = repr(error)
    assert not failed
    assert all(m.id.instance == there.instance for m in meta.members.values())


def sliced() -> dict[str, pa.Table]:
    """Tables over buffers of others, at odd places."""
    long = pa.table(
        {
            "i": pa.array(range(100_003), pa.int32()),
            "s": [f"text {i}" * (i % 4) for i in range(100_003)],
            "b": pa.array([i % 3 == 0 or None for i in range(100_003)]),
        }
    )
    views = pa.table(
        {"v": pa.array(["short", "much longer than twelve bytes"] * 5000).cast("string_view")}
    )
    words = pa.array(["x", "y", None] * 20_000).dictionary_encode()
    return {
        "whole": long,
        "odd": long.slice(1, 70_001),
        "chunks": pa.concat_tables([long.slice(3, 40_000), long.slice(43_003)]),
        "views": views,
        "cut views": views.slice(101, 7),
        "dictionary": pa.table({"d": words}),
        "cut dictionary": pa.table({"d": words.slice(7, 30_001)}),
        "empty": long.slice(0, 0),
        "no columns": pa.table({}),
    }


@pytest.mark.parametrize("transport", ["tcp", "flight"])
def test_tables_of_shared_buffers(client: Client, there: Client, transport: str) -> None:
    stored = {}
    for name, table in sliced().items():
        stored[name] = client.put(table)
    kept = client.get(stored["whole"])
    shifted = client.put(kept.slice(1, 80_000))  # over the same memory, off 8 bytes
    assert client.get_meta(shifted).shared > 0
    root = composite(client, {**stored, "shifted": shifted})
    members = there.get_meta(client.migrate(root, to=there, transport=transport)).members
    for name, table in sliced().items():
        found = there.get(members[name].id, validate="full")
        assert found.equals(table)
    assert there.get(members["shifted"].id, validate="full").equals(kept.slice(1, 80_000))
    # What was shared is shared, and was sent once.
    assert used(there) <= used(client)
    assert (
        address_of(there.get(members["shifted"].id))
        == address_of(there.get(members["whole"].id)) + 4
    )


def address_of(table: pa.Table) -> int:
    """Where the first value of the first column lies."""
    chunk = table.column(0).chunk(0)
    return int(chunk.buffers()[1].address + chunk.offset * 4)


def test_buffers_stay_aligned(client: Client, there: Client) -> None:
    table = pa.table({f"c{i}": np.full(7, i, f"i{1 << i % 4}") for i in range(40)})
    found = there.get(client.migrate(client.put(table), to=there))
    assert found.equals(table)
    for column in found.columns:
        assert column.chunk(0).buffers()[1].address % 64 == 0


def test_members_that_are_there_twice_are_sent_once(client: Client, there: Client) -> None:
    data = client.put(np.arange(MIB, dtype=np.int64))
    left = composite(client, {"data": data})
    right = composite(client, {"x": data, "again": data})
    root = composite(client, {"left": left, "right": right, "data": data})
    totals = []
    new = client.migrate(root, to=there, progress=lambda done, total: totals.append((done, total)))
    assert totals[0] == (0, 8 * MIB)
    assert totals[-1] == (8 * MIB, 8 * MIB)
    assert totals == sorted(totals)
    top = there.get_meta(new).members
    inner = [there.get_meta(top[side].id).members for side in ("left", "right")]
    assert inner[0]["data"].id == inner[1]["x"].id == inner[1]["again"].id == top["data"].id
    assert there.get_meta(top["data"].id).parents == 4
    assert used(there) == used(client)


def test_a_thousand_small_objects(client: Client, there: Client) -> None:
    ids = client.put_many([{"number": i, "text": "x" * i} for i in range(1000)])
    root = composite(client, {f"m{i}": oid for i, oid in enumerate(ids)})
    members = there.get_meta(client.migrate(root, to=there)).members
    found = there.get_many([member.id for member in members.values()])
    assert found == [{"number": i, "text": "x" * i} for i in range(1000)]
    before = used(there)
    there.delete(next(iter(there.list_objects("test.composite"))).id, deep=False)
    there.delete(members["m7"].id)
    assert used(there) < before  # each has memory of its own


def test_graphs(client: Client, there: Client) -> None:
    rng = np.random.default_rng(1)
    vertices = pa.table({"id": np.arange(1000), "w": rng.random(1000)})
    edges = pa.table({"src": rng.integers(0, 1000, 20_000), "dst": rng.integers(0, 1000, 20_000)})
    graph = Graph.from_tables({"v": vertices}, {("v", "e", "v"): edges}, oid="id", client=client)
    there_graph = there.get(client.migrate(client.put(graph), to=there))
    there_graph.validate()
    assert there_graph.vertices("v").equals(client_table(graph))


def client_table(graph: Graph) -> pa.Table:
    return graph.vertices("v")


def test_strictly_sealed_objects(client: Client, there: Client) -> None:
    table = pa.table({"x": np.arange(100_000)})
    assert there.get(client.migrate(client.put(table, seal="strict"), to=there)).equals(table)


@pytest.mark.parametrize(("codec", "transport"), [("zstd", "flight"), ("lz4", "tcp")])
def test_compression(client: Client, there: Client, codec: str, transport: str) -> None:
    value = [np.zeros(9 * MIB // 8), np.random.default_rng(1).bytes(5 * MIB)]
    new = client.migrate(client.put(value), to=there, compression=codec, transport=transport)
    assert_same(there.get(new), value)


def test_objects_without_bytes(client: Client, there: Client) -> None:
    assert there.get(client.migrate(client.put(pa.schema([("a", "int8")])), to=there)) == pa.schema(
        [("a", "int8")]
    )


# ---- what it is at the destination


def test_twice_is_once(client: Client, there: Client, other_daemon: Daemon) -> None:
    oid = client.put([1, 2], name="pair")
    new = client.migrate("pair", to=there)
    assert client.migrate(oid, to=str(other_daemon.socket)) == new
    assert client.migrate(oid, to=other_daemon.socket, transport="flight") == new
    assert [o.id for o in there.list_objects(labels={ORIGIN: str(oid)})] == [new]
    assert there.list_names() == {}
    there.delete(new)
    again = client.migrate(oid, to=there)
    assert again != new
    assert there.get(again) == [1, 2]


def test_to_where_it_is(client: Client, daemon: Daemon, there: Client) -> None:
    oid = client.put(1)
    assert client.migrate(oid, to=daemon.socket) == oid
    assert client.migrate(oid, to=client) == oid
    assert there.get(client.migrate(oid, to=there)) == 1


def test_metadata_tells_where_it_came_from(client: Client, there: Client) -> None:
    oid = client.put(np.arange(10))
    there_meta = there.get_meta(client.migrate(oid, to=there))
    here = client.get_meta(oid)
    assert there_meta.labels == {ORIGIN: str(oid)}
    assert there_meta.signature == here.signature
    assert (there_meta.nbytes, there_meta.typename) == (here.nbytes, here.typename)
    assert there_meta.uid == os.geteuid()


def test_labels_of_a_put_are_bounded(client: Client) -> None:
    oid = client.put(1)
    pin = client._a.hold(int(oid))
    streams = client._a.messages(int(oid), pin)
    (other,) = client._a._take_ids(1)
    item = p.PutItem(other, "t", streams, [], 0, 0, 0, 0, 1, labels={"k": "v" * 100_000})
    with pytest.raises(InvalidObjectError, match="labels of over"):
        client._a.request(p.Put([item]))
    item.labels = {"k": "v", "none": ""}
    client._a.request(p.Put([item]))
    assert client.get_meta(ObjectID(other)).labels == {"k": "v"}


class Private:
    """Pickled."""


def test_what_others_wrote_is_not_ones_own_there(client: Client, there: Client) -> None:
    own = client.put(Private())
    # As the daemon says of objects whose memory another user can write.
    pin = client._a.hold(own)
    streams = client._a.messages(own, pin)
    (foreign,) = client._a._take_ids(1)
    item = p.PutItem(foreign, "vineyard.pickle", streams, [], 9, 0, 0, 9, 1, vouched=False)
    client._a.request(p.Put([item]))
    assert client.get_meta(foreign).uid is None
    root = composite(client, {"own": own, "foreign": foreign})
    members = there.get_meta(client.migrate(root, to=there)).members
    assert isinstance(there.get(members["own"].id), Private)
    with pytest.raises(AccessDeniedError):
        there.get(members["foreign"].id)
    del pin
    gc.collect()


# ---- the process that ends are forked from


def test_it_is_kept_for_the_next_time(client: Client, there: Client) -> None:
    first, second = client.put(1), client.put(2)
    client.migrate(first, to=there)
    server = client._roads.server
    process = server._process
    client.migrate(second, to=there)
    assert server._process is process
    assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert there.get(client.migrate(client.put(3), to=there)) == 3
    again = server._process
    assert again is not process
    client.close()
    assert again.poll() is not None


def test_it_is_not_asked_when_it_may_be_about_to_end(client: Client, there: Client) -> None:
    client.migrate(client.put(1), to=there)
    server = client._roads.server
    process = server._process
    server._asked -= ends.KEEP_S
    client.migrate(client.put(2), to=there)
    assert process.poll() is not None
    assert server._process is not process
    assert forkserver.IDLE_S > 2 * ends.KEEP_S


def test_a_forked_child_has_its_own(client: Client, there: Client) -> None:
    client.migrate(client.put(1), to=there)
    process = client._roads.server._process
    to = there._a.socket

    def move() -> Any:
        return client.migrate(client.put(2), to=to), client._roads.server._process.pid

    new, pid = in_child(move)
    assert there.get(new) == 2
    assert pid != process.pid
    assert process.poll() is None


# ---- what cannot be


def test_bad_calls(client: Client, there: Client) -> None:
    oid = client.put(1)
    with pytest.raises(ObjectNotFoundError):
        client.migrate(ObjectID(int(oid) + 99), to=there)
    with pytest.raises(ObjectNotFoundError):
        client.migrate("nobody", to=there)
    with pytest.raises(InvalidObjectError, match="no destination"):
        client.migrate(oid, to=7)
    with pytest.raises(ConfigError, match="flight, tcp"):
        client.migrate(oid, to=there, transport="pigeon")
    with pytest.raises(ConfigError, match="zstd"):
        client.migrate(oid, to=there, compression="rle")
    with pytest.raises(ConfigError, match="no daemon"):
        client.migrate(oid, to="/tmp/there-is-no-such-socket")
    assert there.list_objects() == []


def test_a_store_that_is_full(client: Client, there: Client) -> None:
    oid = client.put(np.zeros(600 * MIB, np.uint8))
    with pytest.raises(StoreFullError, match="larger than the store"):
        client.migrate(oid, to=there)
    assert there.list_objects() == []


MINE = """
from vineyard_arrow.migration import transport
from vineyard_arrow.migration.tcp import TcpTransport

@transport("mine")
class Mine(TcpTransport):
    def connect(self, address, timeout_s):
        print("connected", file=open({log!r}, "w"))
        return super().connect(address, timeout_s)
"""


def test_a_transport_of_another_package(
    client: Client, there: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    (tmp_path / "mine_transport.py").write_text(MINE.format(log=str(log)))
    info = tmp_path / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[vineyard_arrow.transports]\nmine = mine_transport\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(transports, "_plugins_loaded", False)
    monkeypatch.setattr(transports, "_transports", dict(transports._transports))
    assert there.get(client.migrate(client.put("mine"), to=there, transport="mine")) == "mine"
    assert log.read_text() == "connected\n"


def test_the_page(client: Client, there: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code of docs/migration.md runs as it stands."""
    monkeypatch.setattr(transports, "_transports", dict(transports._transports))
    text = (Path(__file__).parents[1] / "docs" / "migration.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    assert len(blocks) == 3
    names: dict[str, Any] = {"client": client, "there": there}
    for block in blocks:
        exec(block, names)
    assert "patient" in transports._transports
