"""Reads that are killed half-way go on where they were: nothing that was done is read again."""

from __future__ import annotations

import functools
import gc
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from drivers_harness import gone
from drivers_harness import nothing_left as nothing_left
from fsspec.implementations.local import LocalFileSystem

from vineyard_arrow.client import Client
from vineyard_arrow.drivers.resuming import RESUME
from vineyard_arrow.errors import (
    ConfigError,
    ConnectionLostError,
    DamagedFileError,
    FileError,
)
from vineyard_arrow.objects import ObjectMeta

ROWS, GROUPS, FILES = 40_000, 2, 6


def made(n: int) -> pa.Table:
    random = np.random.default_rng(n)
    texts = pa.array([f"row {i}" for i in random.integers(0, 99, ROWS)])
    return pa.table(
        {"id": np.arange(n * ROWS, (n + 1) * ROWS), "x": random.random(ROWS), "s": texts}
    )


TABLES = [made(n) for n in range(FILES)]
TABLE = pa.concat_tables(TABLES)


class Watched(LocalFileSystem):
    """Notes of which files data were read, and lets none of those in ``broken`` be.

    Data is what lies in the first half of a file; what tells of columns is at the end.
    """

    cachable = False

    def __init__(self) -> None:
        super().__init__()
        self.read: set[str] = set()
        self.broken: set[str] = set()

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        return _File(path, self)

    def touched(self, path: str) -> None:
        if path in self.broken:
            raise ConnectionResetError(104, "Connection reset by peer")
        self.read.add(os.path.basename(path))


class _File(io.FileIO):
    def __init__(self, path: str, watch: Watched) -> None:
        super().__init__(path)
        self._watch, self._nbytes = watch, os.path.getsize(path)

    def read(self, size: int = -1) -> bytes:
        if size and self.tell() < self._nbytes // 2:
            self._watch.touched(str(self.name))
        return super().read(size)

    def __del__(self) -> None:
        self.close()  # Arrow lets go of it without


# A reader that is stuck in the middle of file 3, for the parent to kill.
STUCK = """
import sys, threading, vineyard_arrow
from test_drivers_resume import Watched
class Stuck(Watched):
    def touched(self, path):
        if path.endswith("3.parquet"):
            print("stuck", flush=True)
            threading.Event().wait()
client = vineyard_arrow.connect(sys.argv[1], autostart=False)
client.read(sys.argv[2], filesystem=Stuck(), resume="all")
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.mkdir()
    for n, table in enumerate(TABLES):
        pq.write_table(table, path / f"{n}.parquet", row_group_size=ROWS // GROUPS)
    return path


def kept(client: Client, name: str = "all") -> list[ObjectMeta]:
    return client.list_objects(labels={RESUME: name})


def broken_off(client: Client, data: Path, **options: Any) -> None:
    """A read that fails at file 4, when those before it are done."""
    files = Watched()
    files.broken = {str(data / "4.parquet")}
    with pytest.raises(FileError, match=r"4\.parquet"):
        client.read(str(data), filesystem=files, retries=0, **options)


def test_a_reader_that_was_killed(daemon: Any, client: Client, data: Path) -> None:
    command = [sys.executable, "-c", STUCK, str(daemon.socket), str(data)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "stuck\n"
        # Those before it are done, or being done by other threads.
        assert gone(lambda: len(kept(client)) >= 3 * GROUPS)
        reader.send_signal(signal.SIGKILL)
    assert gone(lambda: len(client.status().clients) == 1)
    there = len(kept(client))
    assert there < FILES * GROUPS
    files = Watched()
    oid = client.read(str(data), filesystem=files, resume="all", name="done")
    assert client.get("done") == TABLE
    assert not {"0.parquet", "1.parquet", "2.parquet"} & files.read
    assert "3.parquet" in files.read
    assert client.get_meta(oid).copied == 0
    assert client.status().objects == 1
    assert client.get_meta(oid).nbytes <= TABLE.nbytes * 1.1


def test_an_error_says_what_is_kept(client: Client, data: Path) -> None:
    files = Watched()
    files.broken = {str(data / "4.parquet")}
    with pytest.raises(FileError) as failed:
        client.read(str(data), filesystem=files, retries=0, resume="all")
    (note,) = failed.value.__notes__
    del failed  # its frames hold what was read
    gc.collect()
    assert note.startswith(f"{len(kept(client))} of {FILES * GROUPS} fragments (")
    assert "resume='all'" in note
    assert len(kept(client)) >= 4 * GROUPS
    assert not kept(client, "other")
    client.delete([meta.id for meta in kept(client)])
    assert client.status().memory_used == 0


def test_without_a_name_nothing_is_kept(client: Client, data: Path) -> None:
    broken_off(client, data)
    assert client.status().objects == 0


def test_all_the_same_without_a_break(client: Client, data: Path) -> None:
    oid = client.read(data, resume="all", labels={"a": "b"})
    assert client.get(oid) == TABLE
    assert client.get_meta(oid).labels == {"a": "b"}
    assert client.get_meta(oid).copied == 0
    assert client.status().objects == 1


def test_a_file_that_has_changed_is_read_anew(client: Client, data: Path) -> None:
    broken_off(client, data, resume="all")
    other = TABLES[1].set_column(1, "x", pc.negate(TABLES[1]["x"]))
    pq.write_table(other, data / "1.parquet", row_group_size=ROWS // GROUPS)
    os.utime(data / "1.parquet", ns=(1, 1))
    files = Watched()
    oid = client.read(str(data), filesystem=files, resume="all")
    assert client.get(oid) == pa.concat_tables([TABLES[0], other, *TABLES[2:]])
    assert "1.parquet" in files.read
    assert not {"0.parquet", "2.parquet"} & files.read
    assert client.status().objects == 1


@pytest.mark.parametrize(
    "options",
    [
        {"columns": ["x"]},
        {"columns": ["x", "id"]},
        {"filter": pc.field("id") > 50_000},
        {"filter": pc.field("id").isin(list(range(0, 900, 2)))},
        {"filter": pc.field("id").isin(list(range(0, 902, 2)))},
        {"schema": pa.schema([("id", pa.int32()), ("x", pa.float64())])},
    ],
    ids=["column", "columns", "filter", "in", "in more", "schema"],
)
def test_what_is_asked_for_otherwise_is_read_anew(
    client: Client, data: Path, options: dict[str, Any]
) -> None:
    broken_off(client, data, resume="all")
    broken_off(client, data, resume="all", filter=pc.field("id").isin([*range(0, 400, 2), 399, 4]))
    files = Watched()
    oid = client.read(str(data), filesystem=files, resume="all", **options)
    assert client.get(oid) == client.get(client.read(data, **options))
    assert files.read
    assert not kept(client)


def test_the_same_filter_goes_on(client: Client, data: Path) -> None:
    options: dict[str, Any] = {"filter": pc.field("x") < 0.5, "columns": ["id"], "resume": "all"}
    broken_off(client, data, **options)
    options["filter"] = pc.field("x") < 0.5
    files = Watched()
    oid = client.read(str(data), filesystem=files, **options)
    assert client.get(oid) == TABLE.filter(pc.field("x") < 0.5).select(["id"])
    assert "0.parquet" not in files.read
    assert client.get_meta(oid).copied == 0


def test_text_whose_types_are_guessed(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.mkdir()
    lines = [["n", *map(str, range(20_000))], ["n", "1"], ["n", *map(str, range(20_000)), "6.5"]]
    for n, each in enumerate(lines):
        (path / f"{n}.csv").write_text("\n".join(each) + "\n")
    (path / "2.csv").write_text("\n".join([*lines[2], "7,8"]))
    with pytest.raises(DamagedFileError, match=r"2\.csv"):
        client.read(path, resume="all")
    assert len(kept(client)) == 2
    (path / "2.csv").write_text("\n".join(lines[2]))
    oid = client.read(path, resume="all", schema="unify")
    assert client.get(oid)["n"].to_pylist() == [float(x) for each in lines for x in each[1:]]
    assert client.status().objects == 1


def test_two_of_a_name_do_each_other_no_harm(client: Client, daemon: Any, data: Path) -> None:
    broken_off(client, data, resume="all")
    got: list[Any] = []

    def read() -> None:
        with daemon.connect() as own:
            oid = own.read(data, resume="all")
            got.append(own.get(oid).equals(TABLE))

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [True] * 3
    client.delete([meta.id for meta in kept(client)])
    assert client.status().objects == 3


def test_a_daemon_that_dies_is_an_error(make_daemon: Any, data: Path) -> None:
    daemon = make_daemon("--memory-limit", "128MiB")
    with daemon.connect() as own:
        broken_off(own, data, resume="all")
        daemon.kill()
        with pytest.raises(ConnectionLostError):
            own.read(data, resume="all")


class Tagged(Watched):
    """Tells no times, but tags."""

    tags: ClassVar[dict[str, str]] = {}

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        told = super().info(path, **options)
        if told["type"] == "file":
            del told["mtime"]
            told["ETag"] = self.tags.get(os.path.basename(path), "first")
        return told


def test_a_tag_tells_of_changes_too(
    client: Client, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = Tagged()
    files.broken = {str(data / "4.parquet")}
    with pytest.raises(FileError, match=r"4\.parquet"):
        client.read(str(data), filesystem=files, retries=0, resume="all")
    monkeypatch.setitem(Tagged.tags, "1.parquet", "second")
    files = Tagged()
    assert client.get(client.read(str(data), filesystem=files, resume="all")) == TABLE
    assert "1.parquet" in files.read
    assert not {"0.parquet", "2.parquet"} & files.read


class Quiet(SimpleHTTPRequestHandler):
    """A server that tells neither tags nor ranges."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def web(data: Path) -> Iterator[str]:
    handler = functools.partial(Quiet, directory=str(data))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_what_tells_no_changes_is_refused(client: Client, web: str) -> None:
    with pytest.raises(ConfigError, match="nothing tells when it changes"):
        client.read(f"{web}/0.parquet", resume="all")
    assert client.status().objects == 0


def test_bad_names_and_options(client: Client, data: Path) -> None:
    for name in ("", 3):
        with pytest.raises(ConfigError, match="resume="):
            client.read(data, resume=name)
    with pytest.raises(ConfigError, match="resume"):
        client.scan(data, resume="all")


def test_by_the_command(client: Client, daemon: Any, data: Path) -> None:
    def put(*more: str) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, "-m", "vineyard_arrow", "--socket", str(daemon.socket)]
        command = [*program, "put", str(data), "--name", "all", "--resume", "all", *more]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    whole = (data / "4.parquet").read_bytes()
    (data / "4.parquet").write_bytes(whole[:4] + b"\xff" * 100 + whole[104:])
    done = put()
    assert done.returncode == 1
    assert "fragments (" in done.stderr
    assert len(kept(client)) >= 4 * GROUPS
    (data / "4.parquet").write_bytes(whole)
    assert put().returncode == 0
    assert client.get("all") == TABLE
    assert not kept(client)
    assert put(str(data)).returncode == 2
