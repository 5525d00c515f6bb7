"""Exports that lie, are damaged or cut short, and processes that die over them: nothing is kept."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from conftest import Daemon

from vineyard_arrow import ObjectMeta, deserialize, serialize
from vineyard_arrow.client import Client
from vineyard_arrow.errors import (
    InvalidObjectError,
    ObjectExistsError,
    PathExistsError,
    PathNotFoundError,
    StoreFullError,
    VineyardArrowError,
)
from vineyard_arrow.saving import load
from vineyard_arrow.saving import manifest as m

MIB = 1 << 20
OTHER_LIMIT = "64MiB"
DEADLINE_S = 60.0


@pytest.fixture
def out(client: Client, tmp_path: Path) -> Path:
    """An export: a composite with a table and a list as its members."""
    meta = ObjectMeta("test.composite")
    meta.add_member("table", client.put(pa.table({"n": np.arange(20_000)}), name="table"))
    meta.add_member("list", client.put([1, "x"], name="list"))
    made = client.create_metadata(meta, name="root")
    serialize(made.id, tmp_path / "out", client=client)
    return tmp_path / "out"


def content_of(folder: Path) -> m.Content:
    return m.decode((folder / m.NAME).read_bytes())


def rewrite(folder: Path, content: m.Content) -> None:
    (folder / m.NAME).write_bytes(m.encode(content))


def refused(folder: Path, there: Client, match: str, kind: type[Exception] = InvalidObjectError):
    """The import fails like this, and leaves nothing."""
    with pytest.raises(kind, match=match):
        deserialize(folder, client=there)
    assert there.list_objects() == []
    assert there.list_names() == {}


def file_of(content: m.Content, typename: str) -> m.File:
    (saved,) = (each for each in content.objects if each.typename == typename)
    return saved.parts[0][0]


# ---- manifests that lie


def _path(name: str) -> Callable[[m.Content], None]:
    def change(content: m.Content) -> None:
        file_of(content, "vineyard.table").name = name

    return change


def _twice(content: m.Content) -> None:
    content.objects[0].parts.append(content.objects[1].parts[0])


def _name_twice(content: m.Content) -> None:
    content.objects[0].names = content.objects[1].names = ["same"]


def _object_twice(content: m.Content) -> None:
    content.objects[0].id = content.objects[1].id


def _size(nbytes: int) -> Callable[[m.Content], None]:
    def change(content: m.Content) -> None:
        file_of(content, "vineyard.table").nbytes = nbytes

    return change


def _checksum(content: m.Content) -> None:
    file_of(content, "vineyard.table").checksum = "xxh3_64:" + 16 * "0"


def _no_checksum(content: m.Content) -> None:
    file_of(content, "vineyard.table").checksum = "md5:0"


def _cycle(content: m.Content) -> None:
    content.objects[0].members = {"x": content.objects[-1].id}


def _itself(content: m.Content) -> None:
    content.objects[0].members = {"x": content.objects[0].id}


def _stranger(content: m.Content) -> None:
    content.objects[0].members = {"x": "o0000000000000001"}


def _root(content: m.Content) -> None:
    content.roots = ["o0000000000000001"]


def _no_id(content: m.Content) -> None:
    content.objects[0].id = "../o1"


def _no_files(content: m.Content) -> None:
    content.objects[0].parts = []


def _typename(content: m.Content) -> None:
    content.objects[0].typename = "vineyard.other"


def _swapped(content: m.Content) -> None:
    a, b = content.objects[:2]
    a.parts, b.parts = b.parts, a.parts


LIES = {
    "up": (_path("../o0000000000000001-0-0.arrow"), "no name of a file"),
    "absolute": (_path("/etc/passwd"), "no name of a file"),
    "manifest": (_path(m.NAME), "no name of a file"),
    "newline": (_path("o0000000000000001-0-0.arrow\n"), "no name of a file"),
    "file twice": (_twice, "is there twice"),
    "name twice": (_name_twice, "'same' is there twice"),
    "object twice": (_object_twice, "object is there twice"),
    "too large": (_size(1 << 60), "it has .* bytes, not"),
    "too small": (_size(64), "it has .* bytes, not 64"),
    "nothing": (_size(0), "size or checksum"),
    "negative": (_size(-1), "size or checksum"),
    "checksum": (_checksum, "o.*arrow of the export is damaged: its checksum"),
    "no checksum": (_no_checksum, "size or checksum"),
    "cycle": (_cycle, "member of itself"),
    "itself": (_itself, "member of itself"),
    "stranger": (_stranger, "is not in it"),
    "root": (_root, "no object of it"),
    "no id": (_no_id, "no object of it"),
    "no files": (_no_files, "has no files"),
    "typename": (_typename, "are of another object"),
    "swapped": (_swapped, "are of another object"),
}


@pytest.mark.parametrize("case", LIES)
def test_manifests_that_lie(there: Client, out: Path, case: str) -> None:
    change, match = LIES[case]
    content = content_of(out)
    change(content)
    rewrite(out, content)
    refused(out, there, match)


def test_members_too_deep(there: Client, out: Path) -> None:
    content = content_of(out)
    first = content.objects[0]
    for i in range(m.MAX_DEPTH + 1):
        file = m.File(f"o{i:016x}-9-0.arrow", 1, first.files[0].checksum)
        members = {"m": content.objects[-1].id}
        content.objects.append(m.Saved(f"o{i:016x}", "x", 0, [[file]], members))
    rewrite(out, content)
    refused(out, there, "over 1,000 deep")


def test_manifests_that_are_none(there: Client, out: Path) -> None:
    path = out / m.NAME
    text = path.read_bytes()
    for wrong, match in {
        b"": "cannot be read",
        b"{}": "cannot be read",
        b"[1]": "cannot be read",
        b"\xff": "cannot be read",
        b'{"version": ' + b"[" * 100_000: "cannot be read",
        text[:-9]: "cannot be read",
        text.replace(b'"version":1', b'"version":2'): "version 2",
        text.replace(b'"vineyard-arrow"', b'"other"'): "version 1",
        text.replace(b'"table"', b'"tabel"', 1): "checksum",
        text.replace(b'"roots"', b'"boots"'): "checksum",
    }.items():
        assert wrong != text
        path.write_bytes(wrong)
        refused(out, there, match)
    path.unlink()
    refused(out, there, "no export", PathNotFoundError)


# ---- files that are damaged


def test_files_that_are_damaged(there: Client, out: Path, tmp_path: Path) -> None:
    name = file_of(content_of(out), "vineyard.table").name
    path = out / name
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    refused(out, there, f"{name} of the export is damaged: it has")
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    path.write_bytes(flipped)
    refused(out, there, f"{name} of the export is damaged: its checksum")
    path.unlink()
    refused(out, there, f"{name} of the export is damaged: it is not there")
    path.mkdir()
    refused(out, there, "is no file")
    path.rmdir()
    os.mkfifo(path)
    refused(out, there, "is no file")
    path.unlink()
    (tmp_path / "elsewhere").write_bytes(data)
    path.symlink_to(tmp_path / "elsewhere")
    refused(out, there, "is no file")


def replace_file(folder: Path, typename: str, data: bytes) -> None:
    """Other bytes for the first file of an object, and a manifest that agrees."""
    content = content_of(folder)
    file = file_of(content, typename)
    (folder / file.name).write_bytes(data)
    file.nbytes, file.checksum = len(data), m.checksum(xxhash.xxh3_64_intdigest(data))
    rewrite(folder, content)


def test_files_of_something_else(there: Client, out: Path) -> None:
    replace_file(out, "vineyard.table", b"no Arrow at all")
    refused(out, there, "is no Arrow file")
    for params in (None, "[", '{"a":' * 5_000 + "1" + "}" * 5_000):
        metadata = params and {"vineyard.type": "vineyard.table", "vineyard.params": params}
        sink = pa.BufferOutputStream()
        table = pa.table({"a": [1]}).replace_schema_metadata(metadata)
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        replace_file(out, "vineyard.table", bytes(sink.getvalue()))
        refused(out, there, "does not say what it is of")
    sink = pa.BufferOutputStream()
    forged = {"vineyard.type": "vineyard.members", "vineyard.params": "{}"}
    pa.ipc.new_file(sink, pa.schema([], forged)).close()
    replace_file(out, "vineyard.table", bytes(sink.getvalue()))
    refused(out, there, "no object's own")


def test_garbage_with_the_right_checksum(there: Client, out: Path) -> None:
    data = (out / file_of(content_of(out), "vineyard.table").name).read_bytes()
    random_ = random.Random(1)
    outcomes = set()
    for _ in range(100):
        changed = bytearray(data)
        heads = [*range(600), *range(len(data) - 600, len(data))]
        for _ in range(3):
            changed[random_.choice(heads)] = random_.randrange(256)
        replace_file(out, "vineyard.table", bytes(changed))
        try:
            new = deserialize(out, client=there, names="keep")
        except VineyardArrowError:
            assert there.list_objects() == []
            outcomes.add("refused")
        else:
            there.delete(new)
            there.clear()
            outcomes.add("taken")
    assert outcomes == {"refused", "taken"}


def _offsets(*numbers: int) -> pa.Buffer:
    return pa.py_buffer(np.array(numbers, np.int32))


def _texts(text: bytes, *offsets: int) -> pa.Array:
    return pa.Array.from_buffers(
        pa.string(), len(offsets) - 1, [None, _offsets(*offsets), pa.py_buffer(text)]
    )


_KEYS = pa.array(["a", "b"])
OUT_OF_BOUNDS = {
    "offset of text": _texts(b"abc", 0, 3 << 20, 3),
    "offset of text in lists": pa.ListArray.from_arrays(
        pa.array([0, 2, 2], pa.int32()), _texts(b"abc", 0, -5, 3)
    ),
    "offset of a list": pa.Array.from_buffers(
        pa.list_(pa.int64()), 2, [None, _offsets(0, 1 << 30, 2)], children=[pa.array([1, 2])]
    ),
    "index": pa.DictionaryArray.from_arrays(pa.array([0, 2, 1]), _KEYS, safe=False),
    "negative index": pa.DictionaryArray.from_arrays(pa.array([0, -1, 1]), _KEYS, safe=False),
    "index of bad text": pa.DictionaryArray.from_arrays(pa.array([0]), _texts(b"a\xff", 0, 2)),
    "view": pa.Array.from_buffers(
        pa.string_view(),
        1,
        [None, pa.py_buffer(np.array([40, 0, 0, 1 << 28], np.int32)), pa.py_buffer(b"x" * 40)],
    ),
    "no UTF-8": _texts(b"a\xffc", 0, 2, 3),
    "cut letters": _texts("é".encode(), 0, 1, 2),
}


@pytest.mark.parametrize("what", OUT_OF_BOUNDS)
def test_values_that_would_crash_readers(there: Client, out: Path, what: str) -> None:
    batch = pa.record_batch({"a": OUT_OF_BOUNDS[what]})
    replace_file(out, "vineyard.table", ipc_file(pa.Table.from_batches([batch])))
    refused(out, there, "of the export makes no sense")


def test_names_of_columns_that_are_no_text(there: Client, out: Path) -> None:
    data = ipc_file(pa.table({"a name": [1]}))
    replace_file(out, "vineyard.table", data.replace(b"a name", b"a n\x80me"))
    refused(out, there, "of the export makes no sense")


def test_sound_values_of_another_writer(there: Client, out: Path) -> None:
    table = pa.table(
        {
            "text": ["a", None, "é"],
            "ascii": pa.array(["a", None, "b"], pa.large_string()),
            "key": pa.DictionaryArray.from_arrays(pa.array([1, None, 0], pa.uint8()), _KEYS),
            "no key": pa.array([None] * 3, pa.dictionary(pa.int8(), pa.string())),
            "list": [["é", None], [], None],
        }
    )
    for each in (table, table[:0]):
        replace_file(out, "vineyard.table", ipc_file(each))
        deserialize(out, client=there)
        assert there.get("table").equals(each)
        there.clear()


def test_who_trusts_takes_values_as_they_are(there: Client, out: Path) -> None:
    odd = pa.Array.from_buffers(pa.date64(), 2, [None, pa.py_buffer(np.array([1, 2]))])
    replace_file(out, "vineyard.table", ipc_file(pa.table({"a": odd})))
    refused(out, there, "trusted=True")
    deserialize(out, client=there, trusted=True)
    assert there.get("table")["a"].chunk(0).equals(odd)


def ipc_file(table: pa.Table) -> bytes:
    """A file of an export with the batches of a table."""
    metadata = {"vineyard.type": "vineyard.table", "vineyard.params": "{}"}
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema.with_metadata(metadata)) as writer:
        writer.write_table(table.replace_schema_metadata(metadata))
    return bytes(sink.getvalue())


def test_a_file_that_another_writer_made(there: Client, out: Path) -> None:
    """Buffers that lie at odd places are moved to 64 bytes, in the store's memory."""
    table = pa.table({f"c{i}": np.arange(20_001, dtype=np.int32) for i in range(3)})
    replace_file(out, "vineyard.table", ipc_file(table))
    deserialize(out, client=there)
    assert there.get("table").equals(table)
    assert there.get_meta("table").copied == 0
    assert all(c.chunk(0).buffers()[1].address % 64 == 0 for c in there.get("table").columns)


# ---- no room


def test_a_store_that_is_full(client: Client, there: Client, tmp_path: Path) -> None:
    ids = [client.put(np.zeros(40 * MIB, np.uint8)) for _ in range(2)]
    serialize(ids, tmp_path / "two", client=client)
    refused(tmp_path / "two", there, "no room", StoreFullError)
    assert there.status().memory_used == 0
    serialize(ids[0], tmp_path / "one", client=client)
    (new,) = deserialize(tmp_path / "one", client=there)  # nothing is held of the first
    assert there.get_meta(new).nbytes == 40 * MIB


def test_compressed_files_that_are_larger_than_the_store(
    client: Client, there: Client, tmp_path: Path
) -> None:
    oid = client.put(np.zeros(100 * MIB, np.uint8))
    serialize(oid, tmp_path / "out", client=client, compression="zstd")
    assert sum(each.stat().st_size for each in (tmp_path / "out").iterdir()) < MIB
    refused(tmp_path / "out", there, "no room", StoreFullError)
    assert there.status().memory_used == 0


def test_a_disk_that_is_full(client: Client, daemon: Daemon, tmp_path: Path) -> None:
    oid = client.put(np.zeros(8 * MIB, np.uint8))
    script = f"""
import resource, sys, vineyard_arrow
client = vineyard_arrow.connect({str(daemon.socket)!r}, autostart=False)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    vineyard_arrow.serialize({int(oid)}, {str(tmp_path / "out")!r}, client=client)
except vineyard_arrow.errors.FileError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert "File too large" in done.stdout, done.stderr
    assert os.listdir(tmp_path) == []
    with pytest.raises(PathNotFoundError):
        serialize(oid, tmp_path / "no" / "folder", client=client)


# ---- names


def test_a_name_that_is_taken_meanwhile(
    client: Client, there: Client, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there.put("old", name="list")
    monkeypatch.setattr(load, "_taken", lambda *_: {})
    with pytest.raises(ObjectExistsError):
        deserialize(out, client=there)
    assert len(there.list_objects()) == 1
    assert list(there.list_names()) == ["list"]


def test_names_that_cannot_be_given(
    there: Client, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = there.put("old", name="list")
    there.put_name(old, "table")
    put_name = Client.put_name

    def fail(self: Client, key: Any, name: str, **options: Any) -> Any:
        if name == "table" and key != old:
            raise ObjectExistsError("no")
        return put_name(self, key, name, **options)

    monkeypatch.setattr(Client, "put_name", fail)
    with pytest.raises(ObjectExistsError, match="no"):
        deserialize(out, client=there, names="replace")
    assert [each.id for each in there.list_objects()] == [old]
    assert there.list_names() == {"list": old, "table": old}


# ---- processes that die

HALF = """
import sys, vineyard_arrow
socket, what, key, folder = sys.argv[1:]
client = vineyard_arrow.connect(socket, autostart=False)

def wait(done, total):
    if done > 4 << 20:
        print("half", flush=True)
        sys.stdin.read()

if what == "export":
    vineyard_arrow.serialize(key, folder, client=client, progress=wait)
else:
    vineyard_arrow.deserialize(folder, client=client, progress=wait)
"""


def half(daemon: Daemon, what: str, key: str, folder: Path) -> subprocess.Popen[str]:
    """A process that is stopped with some of the bytes moved."""
    process = subprocess.Popen(
        [sys.executable, "-c", HALF, str(daemon.socket), what, key, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "half\n"
    return process


def end(process: subprocess.Popen[str], number: int = signal.SIGKILL) -> None:
    process.send_signal(number)
    process.communicate(timeout=DEADLINE_S)


def test_a_killed_export_leaves_nothing(client: Client, daemon: Daemon, tmp_path: Path) -> None:
    oid = client.put(np.zeros(16 * MIB, np.uint8))
    process = half(daemon, "export", str(oid), tmp_path / "out")
    try:
        with pytest.raises(PathExistsError, match="another process"):
            serialize(oid, tmp_path / "out", client=client)
        assert not (tmp_path / "out").exists()
    finally:
        end(process)
    assert not (tmp_path / "out").exists()
    serialize(oid, tmp_path / "out", client=client)
    assert os.listdir(tmp_path) == ["out"]
    assert len(os.listdir(tmp_path / "out")) == 2


def test_an_interrupted_export_leaves_nothing(
    client: Client, daemon: Daemon, tmp_path: Path
) -> None:
    oid = client.put(np.zeros(16 * MIB, np.uint8))
    end(half(daemon, "export", str(oid), tmp_path / "out"), signal.SIGINT)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_import_that_ends_early_leaves_nothing(
    client: Client, there: Client, other_daemon: Daemon, tmp_path: Path, number: int
) -> None:
    serialize(client.put(np.zeros(16 * MIB, np.uint8)), tmp_path / "out", client=client)
    end(half(other_daemon, "import", "", tmp_path / "out"), number)
    deadline = time.monotonic() + DEADLINE_S
    while len(other_daemon.status().clients) > 1 or other_daemon.status().memory_used:
        assert time.monotonic() < deadline, "memory is held"
    assert there.list_objects() == []
