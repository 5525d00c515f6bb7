"""Objects leave one real daemon as files, and come back in another as they were."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import Daemon
from types_harness import assert_same, composite
from values import ALL_VALUES

from vineyard_arrow import ObjectID, ObjectMeta, deserialize, serialize
from vineyard_arrow.client import Client, connect
from vineyard_arrow.errors import (
    AccessDeniedError,
    ConfigError,
    InvalidObjectError,
    ObjectExistsError,
    ObjectNotFoundError,
    PathExistsError,
    PathNotFoundError,
)
from vineyard_arrow.graph import GlobalGraph, Graph
from vineyard_arrow.graph.partition import partition
from vineyard_arrow.metadata.etcd.server import EtcdServers

MIB = 1 << 20


def manifest(folder: Path) -> Any:
    return json.loads((folder / "manifest.json").read_text())["content"]


def moved(key: Any, client: Client, there: Client, folder: Path, **options: Any) -> ObjectID:
    """The id of the copy of an object, by way of files."""
    serialize(key, folder, client=client, **options)
    (new,) = deserialize(folder, client=there, trusted=True)
    return new


# ---- values


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_every_value_comes_as_it_was(
    client: Client, there: Client, tmp_path: Path, compression: str | None
) -> None:
    ids = client.put_many([make() for _, make in ALL_VALUES])
    names = [name for name, _ in ALL_VALUES]
    root = composite(client, dict(zip(names, ids, strict=True)), a=1)
    new = moved(root, client, there, tmp_path / "out", compression=compression)
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


def test_tables_are_mapped_where_they_were_read_to(
    client: Client, there: Client, tmp_path: Path
) -> None:
    words = pa.array(["x", "y", None] * 20_000).dictionary_encode()
    tables = {
        "numbers": pa.table(
            {f"c{i}": np.arange(100_003, dtype=f"i{1 << i % 4}") for i in range(8)}
        ),
        "text": pa.table({"s": [f"text {i}" * (i % 4) for i in range(50_000)]}).slice(3),
        "chunks": pa.concat_tables([pa.table({"d": words}), pa.table({"d": words.slice(7)})]),
        "dictionaries": pa.table(
            {"d": pa.chunked_array([words, pa.array(["z"] * 9).dictionary_encode()])}
        ),
        "empty": pa.table({"a": pa.array([], pa.int8())}),
        "no columns": pa.table({}),
    }
    ids = {name: client.put(table) for name, table in tables.items()}
    root = composite(client, ids)
    members = there.get_meta(moved(root, client, there, tmp_path / "out")).members
    for name, table in tables.items():
        found = there.get(members[name].id, validate="full")
        assert found.equals(table, check_metadata=True)
        assert there.get_meta(members[name].id).copied == 0
        for column in found.columns:
            for chunk in column.chunks:
                assert all(b is None or b.address % 64 == 0 for b in chunk.buffers())
    numbers = there.get_meta(members["numbers"].id)
    assert numbers.shared == numbers.nbytes == 3_000_090
    assert there.get(members["dictionaries"].id)["d"].num_chunks == 2


def small_graph(client: Client) -> Graph:
    rng = np.random.default_rng(1)
    vertices = pa.table({"id": np.arange(1000), "w": rng.random(1000)})
    edges = pa.table({"src": rng.integers(0, 1000, 20_000), "dst": rng.integers(0, 1000, 20_000)})
    return Graph.from_tables({"v": vertices}, {("v", "e", "v"): edges}, oid="id", client=client)


def test_graphs(client: Client, there: Client, tmp_path: Path) -> None:
    graph = small_graph(client)
    there_graph = there.get(moved(client.put(graph), client, there, tmp_path / "out"))
    there_graph.validate()
    assert there_graph.vertices("v").equals(graph.vertices("v"))
    assert there_graph.num_edges() == graph.num_edges()


def test_members_that_are_there_twice_are_written_once(
    client: Client, there: Client, tmp_path: Path
) -> None:
    data = client.put(np.arange(MIB, dtype=np.int64))
    left = composite(client, {"data": data})
    right = composite(client, {"x": data, "again": data})
    done: list[tuple[int, int]] = []
    options = {"progress": lambda *each: done.append(each)}
    assert serialize([left, right], tmp_path / "out", client=client, **options) == [left, right]
    assert done == sorted(done)
    assert done[-1] == (8 * MIB, 8 * MIB)
    assert sum(each.stat().st_size for each in (tmp_path / "out").iterdir()) < 9 * MIB
    new = deserialize(tmp_path / "out", client=there)
    members = [member.id for oid in new for member in there.get_meta(oid).members.values()]
    assert len(set(members)) == 1
    assert there.get_meta(members[0]).parents == 3


# ---- the whole store


def test_the_whole_store_with_names_and_labels(
    client: Client, there: Client, tmp_path: Path
) -> None:
    oid = client.put([1, 2], name="pair")
    client.put_name(oid, "second name")
    client.label(oid, {"colour": "red"})
    inner = client.put(pa.table({"a": [1]}), name="inner")
    composite(client, {"inner": inner, "pair": oid})
    client.put("nameless")
    roots = serialize(None, tmp_path / "out", client=client)
    assert len(roots) == 4  # what has a name, and what is no member
    assert len(manifest(tmp_path / "out")["objects"]) == 4
    new = deserialize(tmp_path / "out", client=there)
    assert len(there.list_objects()) == len(new) == 4
    assert there.get("pair") == there.get("second name") == [1, 2]
    assert there.get_meta("pair").labels == {"colour": "red"}
    assert there.get_meta("inner").parents == 1


def test_what_goes_meanwhile_is_left_out(
    client: Client, there: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    oid = client.put("stays", name="stays")
    gone = client.put("goes")
    listed = client.list_objects()
    client.delete(gone)
    client.get("stays")  # what was left in the outbox is done
    monkeypatch.setattr(Client, "list_objects", lambda *_, **__: listed)
    assert serialize(None, tmp_path / "out", client=client) == [oid]


def test_names_that_are_taken(client: Client, there: Client, tmp_path: Path) -> None:
    serialize(client.put("new", name="n"), tmp_path / "out", client=client)
    old = there.put("old", name="n")
    with pytest.raises(ObjectExistsError, match="'n' is taken"):
        deserialize(tmp_path / "out", client=there)
    assert len(there.list_objects()) == 1
    (kept,) = deserialize(tmp_path / "out", client=there, names="keep")
    assert (there.get("n"), there.get(kept)) == ("old", "new")
    (replaced,) = deserialize(tmp_path / "out", client=there, names="replace")
    assert there.get_name("n") == replaced
    assert there.get(old) == "old"
    with pytest.raises(InvalidObjectError, match="'error', 'keep'"):
        deserialize(tmp_path / "out", client=there, names="ask")


def test_an_empty_store(client: Client, there: Client, tmp_path: Path) -> None:
    assert serialize(None, tmp_path / "out", client=client) == []
    assert deserialize(tmp_path / "out", client=there) == []


# ---- whose it is


class Private:
    """Pickled."""


def test_pickles_of_an_export_are_loaded_by_who_trusts_it(
    client: Client, there: Client, tmp_path: Path
) -> None:
    serialize(client.put(Private()), tmp_path / "out", client=client)
    (new,) = deserialize(tmp_path / "out", client=there)
    with pytest.raises(AccessDeniedError):
        there.get(new)
    assert isinstance(there.get(new, trusted=True), Private)
    (own,) = deserialize(tmp_path / "out", client=there, trusted=True)
    assert isinstance(there.get(own), Private)


# ---- files


PLAIN = """
import json, sys, pyarrow as pa
from pathlib import Path
folder = Path(sys.argv[1])
total = 0
for saved in json.loads((folder / "manifest.json").read_text())["content"]["objects"]:
    for part in saved["parts"]:
        for file in part:
            with pa.memory_map(str(folder / file["name"])) as source:
                table = pa.ipc.open_file(source).read_all()
                table.validate(full=True)
                if b"vineyard.type" in table.schema.metadata and "n" in table.column_names:
                    total += sum(table["n"].to_pylist())
            with open(folder / file["name"], "rb") as source:  # the same as a stream
                source.seek(8)
                assert pa.ipc.open_stream(source).read_all().equals(table)
assert not any(name.startswith("vineyard") for name in sys.modules)
print(total)
"""


@pytest.mark.parametrize("compression", [None, "lz4"])
def test_plain_arrow_reads_the_files(
    client: Client, tmp_path: Path, compression: str | None
) -> None:
    client.put(pa.table({"n": range(1000), "s": ["x"] * 1000}))
    client.put_many([np.arange(9), "text", pa.array(["a", "b"]).dictionary_encode()])
    serialize(None, tmp_path / "out", client=client, compression=compression)
    arguments = [sys.executable, "-c", PLAIN, str(tmp_path / "out")]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("499500\n", "")


def test_urls(client: Client, there: Client, tmp_path: Path) -> None:
    oid = client.put(pa.table({"a": range(100_000)}))
    for url in (f"file://{tmp_path}/by-url", "memory://exports/one", str(tmp_path / "path")):
        serialize(oid, url, client=client)
        with pytest.raises(PathExistsError):
            serialize(oid, url, client=client)
        (new,) = deserialize(url, client=there)
        assert there.get(new).equals(client.get(oid))
        assert there.get_meta(new).copied == 0
    with pytest.raises(PathNotFoundError, match="no export"):
        deserialize("memory://exports/none", client=there)
    with pytest.raises(ConfigError, match="pigeon"):
        serialize(oid, "pigeon://one", client=client)
    assert (tmp_path / "path").stat().st_mode & 0o777 == 0o700
    assert sorted(os.listdir(tmp_path)) == ["by-url", "path"]


def test_an_import_goes_by_shared_memory(
    client: Client, there: Client, make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    far = make_daemon("--memory-limit", "64MiB", "--rpc", "127.0.0.1:0")
    with far.connect() as local, connect(local.status().rpc) as remote:
        oid = remote.put(pa.table({"a": [1, 2]}))
        serialize(oid, tmp_path / "out", client=remote)  # but an export does without
        (new,) = deserialize(tmp_path / "out", client=there)
        assert there.get(new)["a"].to_pylist() == [1, 2]
        with pytest.raises(ConfigError, match="host of the store"):
            deserialize(tmp_path / "out", client=remote)


def test_bad_calls(client: Client, there: Client, tmp_path: Path) -> None:
    oid = client.put(1)
    with pytest.raises(ObjectNotFoundError):
        serialize(["nobody"], tmp_path / "out", client=client)
    with pytest.raises(ObjectNotFoundError):
        serialize(ObjectID(int(oid) + 99), tmp_path / "out", client=client)
    with pytest.raises(InvalidObjectError, match="'zstd', 'lz4'"):
        serialize(oid, tmp_path / "out", client=client, compression="rle")
    assert os.listdir(tmp_path) == []
    with pytest.raises(PathNotFoundError, match="no export"):
        deserialize(tmp_path, client=there)


# ---- objects of several instances


def test_partitions_of_other_instances_come_along(
    make_daemon: Callable[..., Daemon], there: Client, tmp_path: Path
) -> None:
    small = ("--memory-limit", "128MiB", "--pages", "small")
    with EtcdServers(options=["--unsafe-no-fsync"]) as etcd:
        meta = ("--meta", f"etcd://{etcd.address}/exports")
        first, second = make_daemon(*small, *meta), make_daemon(*small, *meta)
        with first.connect() as a, second.connect() as b:
            tables = [pa.table({"k": np.arange(i, i + 1000)}) for i in (0, 1000)]
            ids = [a.put(tables[0]), b.put(tables[1])]
            b.persist(ids[1])
            a.create_global(ids, name="whole")
            graph = small_graph(a)
            a.create_global(partition(graph, 2, client=a), name="fragments")
            described = ObjectMeta("test.everywhere", {"a": 1})
            for i, oid in enumerate(ids):
                described.add_member(f"m{i}", oid)
            a.create_global(described, name="everywhere")
            before = len(a.list_objects())
            serialize(["whole", "fragments", "everywhere"], tmp_path / "out", client=a)
            assert len(a.list_objects()) == before  # nothing was fetched to stay
            num_edges = graph.num_edges()
            del graph
            gc.collect()
    deserialize(tmp_path / "out", client=there)
    fragments = there.get("fragments")
    assert isinstance(fragments, GlobalGraph)
    assert (fragments.fnum, fragments.num_edges()) == (2, num_edges)
    assert fragments.to_graph(client=there).num_edges() == num_edges
    whole = there.get("whole")
    assert [whole[i].equals(tables[i]) for i in range(2)] == [True, True]
    everywhere = there.get_meta("everywhere")
    assert everywhere["a"] == 1
    assert not everywhere.is_global
    assert [
        there.get(m.id).equals(t) for m, t in zip(everywhere.members.values(), tables, strict=True)
    ] == [
        True,
        True,
    ]


# ---- the command line


def run_cli(daemon: Daemon, *arguments: str, status: int = 0) -> tuple[str, str]:
    command = [sys.executable, "-m", "vineyard_arrow", "--socket", str(daemon.socket), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status, done.stderr
    return done.stdout, done.stderr


def test_commands(
    client: Client, daemon: Daemon, there: Client, other_daemon: Daemon, tmp_path: Path
) -> None:
    oid = client.put([1, 2], name="pair")
    client.put(pa.table({"a": [1]}), name="table")
    out, _ = run_cli(daemon, "export", "pair", str(tmp_path / "one"))
    assert f"exported 1 object to {tmp_path}/one" in out
    assert str(oid) in out
    run_cli(daemon, "export", "pair", "table", str(tmp_path / "two"), "--compression", "zstd")
    out, _ = run_cli(daemon, "--json", "export", "--all", str(tmp_path / "all"))
    assert [each["names"] for each in json.loads(out)] == [["pair"], ["table"]]
    _, error = run_cli(daemon, "export", str(tmp_path / "none"), status=2)
    assert "--all" in error
    _, error = run_cli(daemon, "export", "pair", str(tmp_path / "one"), status=1)
    assert "is there already" in error
    out, _ = run_cli(other_daemon, "import", str(tmp_path / "one"))
    assert "imported 1 object" in out
    assert there.get("pair") == [1, 2]
    _, error = run_cli(other_daemon, "import", str(tmp_path / "all"), status=1)
    assert "'pair' is taken" in error
    run_cli(other_daemon, "import", str(tmp_path / "two"), "--names", "keep", "--trusted")
    assert there.get("table")["a"].to_pylist() == [1]


def test_a_terminal_sees_how_far_it_is(client: Client, daemon: Daemon, tmp_path: Path) -> None:
    client.put(np.zeros(80 * MIB, np.uint8), name="large")
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "vineyard_arrow", "--socket", str(daemon.socket)]
    process = subprocess.Popen(
        [*command, "export", "large", "out"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=follower,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "80"},
        text=True,
    )
    os.close(follower)
    seen = b""
    with contextlib.suppress(OSError):  # how a terminal ends
        while piece := os.read(leader, 65536):
            seen += piece
    os.close(leader)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert b"out" in seen
    assert b"%" in seen
    assert "exported 1 object to out" in out
