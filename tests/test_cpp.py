"""The C++ client: a program built against pyarrow's own libraries reads what Python put."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from cpp_harness import Reader
from cpp_harness import reader as reader
from test_faults import until

from vineyard_arrow.client import Client
from vineyard_arrow.objects import ObjectMeta

pytestmark = pytest.mark.timeout(600)  # the first of them compiles
DEADLINE_S = 60.0


def talk(process: subprocess.Popen[str]) -> str:
    """The next line of a reader that is under way."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go_on(process: subprocess.Popen[str]) -> list[str]:
    """Let it go on to its end; the lines it still prints."""
    out, _ = process.communicate("\n", timeout=DEADLINE_S)
    assert process.returncode == 0
    return out.splitlines()


# ---- reading


def test_a_table_by_name_and_by_id(reader: Reader, daemon: Any, client: Client) -> None:
    table = pa.table(
        {
            "i": pa.array(range(100_000)),
            "x": pa.array([i / 4 if i % 7 else None for i in range(100_000)]),
            "s": [f"text {i}" for i in range(100_000)],
        },
    ).replace_schema_metadata({"mine": "kept"})
    oid = client.put(table, name="measured")
    lines = reader("show", daemon, "measured", str(oid))
    assert lines[: len(lines) // 2] == lines[len(lines) // 2 :]
    assert lines[:3] == [
        f"id {oid}",
        f"nbytes {client.get_meta(oid).nbytes}",
        "part vineyard.table 100000 1 ",
    ]
    total, mean = sum(range(100_000)), sum(v for v in table["x"].to_pylist() if v is not None)
    kind, name, type_, *seen = lines[3].split()
    assert (kind, name, type_, float(seen[0])) == ("column", "i", "int64", total)
    assert seen[1:] == ["mapped"]
    assert float(lines[4].split()[3]) == pytest.approx(mean, rel=1e-5)
    assert lines[4].endswith(" mapped")
    assert lines[5] == "column s string text 99999"


def test_slices_at_odd_offsets_chunks_and_dictionaries(
    reader: Reader, daemon: Any, client: Client
) -> None:
    client.put(pa.table({"i": pa.array(range(90_001)), "t": ["ab", "c", None] * 30_000 + ["z"]}))
    whole = pa.table({"i": pa.array(range(90_000)), "t": ["ab", "c", "d"] * 30_000})
    stored = client.get(client.put(whole))
    client.put(stored.slice(3, 45_001), name="odd")
    pieces = [stored.slice(i * 1000, 1000) for i in range(50)]
    client.put(pa.concat_tables(pieces), name="chunked")
    words = pa.chunked_array([pa.array(["x", "y", None] * 100).dictionary_encode()] * 3)
    client.put(pa.table({"w": words}), name="words")
    odd, chunked, words_ = (reader("show", daemon, key) for key in ("odd", "chunked", "words"))
    assert f"{sum(range(3, 45_004)):g} mapped" in odd[3]
    assert odd[4] == "column t string ab"  # row 45,003
    assert "part vineyard.table 50000 50 " in chunked
    assert float(chunked[3].split()[3]) == pytest.approx(sum(range(50_000)), rel=1e-5)
    assert "part vineyard.table 900 3 " in words_


def test_members_and_values(reader: Reader, daemon: Any, client: Client) -> None:
    inner = ObjectMeta("shop.box", {"size": 3})
    inner.add_member("items", client.put(pa.table({"i": [1, 2, 3]})))
    outer = ObjectMeta("shop.shelf")
    outer.add_member("box", inner)
    outer.add_member("weights", client.put(np.arange(6.0).reshape(2, 3)))
    client.create_metadata(outer, name="shelf")
    lines = reader("show", daemon, "shelf")
    words = [line.split() for line in lines if line.split()[0] in ("part", "member")]
    assert [w[:3] for w in words if w[0] == "member"] == [
        ["member", "box", "shop.box"],
        ["member", "items", "vineyard.table"],
        ["member", "weights", "vineyard.tensor"],
    ]
    assert 'part shop.box 0 0 {"vineyard.meta":{"size":3}}' in lines
    assert 'part vineyard.tensor 6 1 {"shape":[2,3],"dtype":"<f8","order":"C"}' in lines
    assert "column i int64 6 mapped" in lines
    assert "column data double 15 mapped" in lines


def test_every_kind_of_value_is_parsed(reader: Reader, daemon: Any, client: Client) -> None:
    values: dict[str, Any] = {
        "text": 'a "quote", \\, é, 日本, 𝄞, \x01\t\n, and /',
        "numbers": [0, -1, 2**63 - 1, -(2**63), 2**64 - 1, 1.5, -2.25e-300, 1e300, 0.1],
        "words": [None, True, False],
        "nested": {"a": [], "b": {}, "c": [[{"d": [1]}]]},
        "": "no key",
    }
    client.create_metadata(ObjectMeta("shop.values", values), name="values")
    (line,) = reader("params", daemon, "values")
    assert json.loads(line) == {"vineyard.meta": values}
    deep: Any = 1
    for _ in range(400):
        deep = [deep]
    client.create_metadata(ObjectMeta("shop.deep", {"deep": deep}), name="deep")
    assert reader("params", daemon, "deep") == ["error invalid a value nests too deeply"]


# ---- pins


def test_an_object_outlives_its_deletion_and_the_client(
    reader: Reader, daemon: Any, client: Client
) -> None:
    oid = client.put(pa.table({"i": pa.array(range(50_000))}), name="held")
    with reader.start("hold", daemon, "held") as process:
        first = talk(process)
        assert client.status().clients[-1].pins == 1
        client.delete(oid)
        client.put(pa.table({"i": pa.array([7] * 50_000)}))  # would reuse its memory
        assert client.status().deleted_pinned == 1
        assert go_on(process) == [first, "again not-found", first]
    until(lambda: client.status().deleted_pinned == 0, "its pin stays")
    assert client.status().memory_used == 400_000 // 4096 * 4096 + 4096


def test_a_killed_reader_leaves_no_pin(reader: Reader, daemon: Any, client: Client) -> None:
    oid = client.put(pa.table({"i": pa.array(range(50_000))}), name="held")
    with reader.start("hold", daemon, "held") as process:
        talk(process)
        client.delete(oid)
        assert client.status().deleted_pinned == 1
        process.kill()
    until(lambda: client.status().deleted_pinned == 0, "its pin stays")


def test_a_dead_daemon_is_an_error_and_memory_stays(
    reader: Reader, make_daemon: Callable[..., Any]
) -> None:
    daemon = make_daemon("--memory-limit", "64MiB", "--pages", "small")
    with daemon.connect() as client:
        client.put(pa.table({"i": pa.array(range(50_000))}), name="held")
    with reader.start("hold", daemon, "held") as process:
        first = talk(process)
        daemon.kill()
        assert go_on(process) == [first, "again connection-lost", first]
    (line,) = reader("show", daemon, "held")
    assert line.startswith("error connection-lost cannot connect to ")


def test_reading_what_is_deleted_and_put_anew(reader: Reader, daemon: Any, client: Client) -> None:
    with reader.start("race", daemon, "flicker") as process:
        for i in range(150):
            oid = client.put(pa.table({"a": [i] * 20_000, "b": [i] * 20_000}), name="flicker")
            client.delete(oid)
        client.put(pa.table({"a": [1] * 20_000, "b": [1] * 20_000}), name="flicker")
        while not any(c.pins for c in client.status().clients):  # it has seen one at least
            pass
        assert go_on(process) == ["torn 0", "errors 0", "some 1"]


def test_a_forked_child_has_no_pins(reader: Reader, daemon: Any, client: Client) -> None:
    oid = client.put(pa.table({"i": pa.array(range(50_000))}), name="held")
    with reader.start("fork", daemon, "held") as process:
        assert talk(process) == "child this client is a parent's: a forked child connects anew"
        assert talk(process) == "child rows 50000"
        assert talk(process) == "held"
        client.delete(oid)
        assert client.status().deleted_pinned == 1
        assert go_on(process) == ["rows 50000"]


# ---- errors


def test_what_is_not_there(reader: Reader, daemon: Any, client: Client) -> None:
    (line,) = reader("show", daemon, "nothing")
    assert line.startswith("error not-found no name 'nothing' (hint: ")
    (line,) = reader("show", daemon, "o0000000000000001")
    assert line.startswith("error not-found no object o0000000000000001 (hint: its id is of ano")


@pytest.fixture
def fake_daemon(folder: Path) -> Iterator[Callable[[bytes], Path]]:
    """A socket that sends some bytes to whoever connects, and holds on to the connection."""
    path = folder / "fake"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(os.fspath(path))
        listener.listen()
        listener.settimeout(DEADLINE_S)
        threads: list[threading.Thread] = []

        def answer(data: bytes) -> Path:
            def serve() -> None:
                peer, _ = listener.accept()
                with peer:
                    peer.settimeout(DEADLINE_S)
                    peer.sendall(data)
                    while peer.recv(4096):
                        pass

            threads.append(threading.Thread(target=serve))
            threads[-1].start()
            return path

        yield answer
        for thread in threads:
            thread.join(DEADLINE_S)
    path.unlink()


def frame(message: Any, number: int = 1) -> bytes:
    body = message if isinstance(message, bytes) else msgspec.msgpack.encode(message)
    return struct.pack("<II", len(body), number) + body


WELCOME = ["welcome", 1, 1, 1, [0, 0], 65536]


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (frame(WELCOME), "connection-lost the daemon is gone (it sent a message without its desc"),
        (struct.pack("<II", 1 << 30, 1), "connection-lost the daemon is gone (it sent an oversiz"),
        (frame(b"\xc1"), "connection-lost the daemon is gone (a value is damaged"),
        (frame(b"\xdd\xff\xff\xff\xff"), "connection-lost the daemon is gone (a value is damaged"),
        (frame(b"\x91" * 5000), "connection-lost the daemon is gone (a value nests too deeply"),
        (frame({"a": 1}), "connection-lost the daemon is gone (a list is too short"),
        (frame(["failure", "access-denied", "not you", "go"]), "access-denied not you (hint: go)"),
        (frame(["failure", "protocol", "no more", None], 0), "protocol no more"),
    ],
    ids=["no-fds", "oversized", "no-msgpack", "too-long", "deep", "a-map", "failure", "unasked"],
)
def test_a_peer_that_is_no_daemon(
    reader: Reader, fake_daemon: Callable[[bytes], Path], data: bytes, error: str
) -> None:
    (line,) = reader("show", fake_daemon(data), "x")
    assert line.startswith("error " + error)


@pytest.mark.parametrize(
    "data", [b"", frame(WELCOME)[:-1], frame(["done"], 7)], ids=["silence", "half", "another's"]
)
def test_no_answer_is_an_error_in_time(
    reader: Reader, fake_daemon: Callable[[bytes], Path], data: bytes
) -> None:
    began = time.monotonic()
    lines = reader("show", fake_daemon(data), "x", READER_TIMEOUT_S="0.2")
    assert lines == ["error deadline the daemon did not answer in time"]
    assert time.monotonic() - began >= 0.2
