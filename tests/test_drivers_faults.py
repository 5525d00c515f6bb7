"""Bad files, full stores, broken connections and interrupts: said clearly, and nothing is left."""

from __future__ import annotations

import functools
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from drivers_harness import end_scans, gone
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from vineyard_arrow.client import Client
from vineyard_arrow.drivers.filesystems import file_errors
from vineyard_arrow.errors import (
    AccessDeniedError,
    ConfigError,
    DamagedFileError,
    DriverNotFoundError,
    FileError,
    InvalidObjectError,
    PathNotFoundError,
    StoreFullError,
    StreamFailedError,
)

TABLE = pa.table({"id": np.arange(80_000), "x": np.random.default_rng(1).random(80_000)})


@pytest.fixture(autouse=True)
def _nothing_left(client: Client) -> Iterator[None]:
    """No test here leaves an object, a stream, or memory that is not sealed."""
    yield
    end_scans()
    assert client.status().objects == 0
    assert not client.list_streams()
    assert gone(lambda: client.memory_pool.bytes_allocated() == 0)


def test_missing_paths(client: Client, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for url, message in (
        ("a.parquet", "no such file"),
        ("*.parquet", "matches nothing"),
        ("empty", "has no files"),
        ("none/*.csv", "matches nothing"),
    ):
        for read in (client.read, client.scan):
            with pytest.raises(PathNotFoundError, match=message):
                read(tmp_path / url)
    with pytest.raises(PathNotFoundError, match="no such directory"):
        client.write(TABLE, tmp_path / "none" / "a.parquet")
    with pytest.raises(PathNotFoundError):
        client.read("memory://nothing/here.parquet")


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl", "orc", "arrow", "arrows"])
def test_files_that_are_cut_off(client: Client, tmp_path: Path, ending: str) -> None:
    client.write(TABLE, tmp_path / f"a.{ending}")
    data = (tmp_path / f"a.{ending}").read_bytes()
    bad = tmp_path / f"b.{ending}"
    for size in (0, 3, len(data) // 2):
        if ending in ("csv", "jsonl") and size:
            continue  # is one with fewer rows
        bad.write_bytes(data[:size])
        with pytest.raises(DamagedFileError, match=rf"b\.{ending}: "):
            client.read(bad)
    bad.write_bytes(b"\x00garbage\xff" * 1000 if ending != "csv" else b"a,b\n1\n")
    with pytest.raises(DamagedFileError, match=rf"b\.{ending}: "):
        client.read(tmp_path / f"?.{ending}", schema="first")


@pytest.mark.parametrize("depth", [100, 500, 5_000])
def test_json_that_nests_too_deep(client: Client, tmp_path: Path, depth: int) -> None:
    path = tmp_path / "a.jsonl"
    fine = '{"a": "[[[", "b": 1}\n' * 2_000
    path.write_text(fine + '{"a": ' + "[" * depth + "]" * depth + "}\n" + fine)

    def scan_all() -> None:
        with client.scan(path) as reader:
            reader.read_all()

    for way in (lambda: client.read(path, columns=["a"]), scan_all):
        with pytest.raises((DamagedFileError, InvalidObjectError, StreamFailedError)):
            way()
    path.write_text(fine)
    oid = client.read(path)
    assert client.get(oid).num_rows == 2_000
    client.delete(oid)


def test_the_row_group_that_is_damaged_is_named(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(TABLE, path, row_group_size=20_000, use_dictionary=False)
    offset = pq.read_metadata(path).row_group(2).column(1).data_page_offset
    data = bytearray(path.read_bytes())
    data[offset : offset + 60] = b"\xff" * 60
    path.write_bytes(data)
    match = r"a\.parquet, row group 2: "
    with pytest.raises(DamagedFileError, match=match):
        client.read(path)
    with pytest.raises(DamagedFileError, match=match):
        client.read(path, filter=pc.field("id") >= 0)
    with client.scan(path) as reader, pytest.raises(StreamFailedError, match=match):
        reader.read_all()
    # What is not looked at does no harm.
    oid = client.read(path, filter=pc.field("id") < 20_000)
    assert client.get(oid) == TABLE.slice(0, 20_000)
    client.delete(oid)


def test_unreadable_files(client: Client, tmp_path: Path) -> None:
    class Closed(LocalFileSystem):
        def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
            raise PermissionError(13, "Permission denied", path)

    pq.write_table(TABLE, tmp_path / "a.parquet")
    with pytest.raises(AccessDeniedError, match=r"a\.parquet: permission denied"):
        client.read(str(tmp_path / "a.parquet"), filesystem=Closed())


def test_what_does_not_fit_leaves_nothing(make_daemon: Callable[..., Any], tmp_path: Path) -> None:
    big = pa.table({"x": np.random.default_rng(1).random(4_000_000)})
    for n in range(4):
        pq.write_table(big, tmp_path / f"{n}.parquet", use_dictionary=False)
    with make_daemon("--memory-limit", "64MiB").connect() as own:
        for filter in (None, pc.field("x") >= 0):
            with pytest.raises(StoreFullError, match=r"does not fit.*scan it"):
                own.read(tmp_path, filter=filter)
            # What other threads were decoding just then goes as they end.
            assert gone(lambda: own.memory_pool.bytes_allocated() == 0)
            assert own.status().objects == 0
        oid = own.read(tmp_path / "0.parquet")  # there is room again
        assert own.get(oid).num_rows == big.num_rows


@pytest.mark.parametrize("ending", ["csv", "arrow"])
def test_formats_that_do_not_fit(
    make_daemon: Callable[..., Any], tmp_path: Path, ending: str
) -> None:
    """Arrow's CSV reader would end the process where it gets no memory."""
    big = pa.table({"x": np.random.default_rng(1).random(3_000_000)})
    path = tmp_path / f"a.{ending}"
    with make_daemon("--memory-limit", "16MiB").connect() as own:
        own.write(big, path, row_group_rows=1 << 20)
        pool = own.memory_pool.spilling()
        with pytest.raises(StoreFullError):
            own.read(path)
        assert gone(lambda: own.memory_pool.bytes_allocated() + pool.bytes_allocated() == 0)
        assert own.status().objects == 0
        with own.scan(path) as reader:
            assert sum(batch.num_rows for batch in reader) == big.num_rows


def test_a_csv_file_that_just_fits(make_daemon: Callable[..., Any], tmp_path: Path) -> None:
    """What is parsed needs room beside what comes out of it; the store has none for it."""
    table = pa.table({"x": np.random.default_rng(1).random(1_800_000)})
    with make_daemon("--memory-limit", "16MiB").connect() as own:
        own.write(table, tmp_path / "a.csv")
        assert own.get(own.read(tmp_path / "a.csv")) == table
        assert own.memory_pool.spilling().spilled == 0


class Flaky(MemoryFileSystem):
    """Of which each file breaks off ``breaks`` times."""

    protocol = "flaky"
    breaks = 0
    cachable = False

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if mode == "rb" and Flaky.breaks:
            Flaky.breaks -= 1
            raise ConnectionResetError(104, "Connection reset by peer")
        return super()._open(path, mode, **options)


@pytest.fixture
def flaky() -> Iterator[Flaky]:
    files = Flaky()
    with files.open("/flaky/a.parquet", "wb") as file:
        pq.write_table(TABLE, file, row_group_size=20_000)
    yield files
    Flaky.breaks = 0
    files.rm("/flaky", recursive=True)


@pytest.mark.parametrize("breaks", [1, 2])
def test_what_breaks_off_is_read_again(client: Client, flaky: Flaky, breaks: int) -> None:
    Flaky.breaks = breaks
    oid = client.read("/flaky/a.parquet", filesystem=flaky)
    assert client.get(oid) == TABLE
    client.delete(oid)
    Flaky.breaks = breaks
    assert client.scan("/flaky/a.parquet", filesystem=flaky).read_all() == TABLE
    assert Flaky.breaks == 0


def test_what_stays_broken_is_an_error(client: Client, flaky: Flaky) -> None:
    Flaky.breaks = 100
    with pytest.raises(FileError, match=r"a\.parquet.*reset by peer"):
        client.read("/flaky/a.parquet", filesystem=flaky, retries=1)
    assert Flaky.breaks == 98


class Quiet(SimpleHTTPRequestHandler):
    """Serves its folder, and keeps to itself what it did."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_http(client: Client, tmp_path: Path) -> None:
    client.write(TABLE, tmp_path / "a.parquet")
    client.write(TABLE, tmp_path / "a.csv.gz")
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            for name in ("a.parquet", "a.csv.gz", "a.parquet?token=secret"):
                oid = client.read(f"{url}/{name}")
                assert client.get(oid) == TABLE
                client.delete(oid)
            with pytest.raises(PathNotFoundError) as none:
                client.read(f"{url}/b.parquet?token=secret")
            assert "secret" not in str(none.value)
            with pytest.raises(DriverNotFoundError, match=r"write .*to http:"):
                client.write(TABLE, f"{url}/b.parquet")
        finally:
            server.shutdown()
            thread.join()
    with pytest.raises(FileError, match="cannot be reached") as raised:  # nobody listens there now
        client.read(f"{url}/a.parquet?token=secret", retries=0)
    assert "secret" not in str(raised.value)


def test_what_is_missing_elsewhere_is_missing() -> None:
    class ClientError(Exception):
        __module__ = "botocore.exceptions"

    with pytest.raises(PathNotFoundError), file_errors("s3://bucket/key"):
        raise FileNotFoundError("key") from ClientError("NoSuchKey")


class Saying(BaseHTTPRequestHandler):
    """Answers with the number that is asked for."""

    def do_GET(self) -> None:
        self.send_response(int(self.path.strip("/").partition(".")[0]))
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_what_servers_say(client: Client) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Saying) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            for status, kind in (
                (404, PathNotFoundError),
                (410, PathNotFoundError),
                (401, AccessDeniedError),
                (403, AccessDeniedError),
                (500, FileError),
            ):
                with pytest.raises(kind) as raised:
                    client.read(f"http://127.0.0.1:{server.server_port}/{status}.csv?key=secret")
                assert type(raised.value) is kind
                assert "secret" not in str(raised.value)
        finally:
            server.shutdown()
            thread.join()


def test_errors_keep_secrets(client: Client) -> None:
    with pytest.raises(Exception) as failed:
        client.read("memory://user:secret@host/none.parquet?key=secret")
    assert "secret" not in str(failed.value)


# ---- writing


def failing() -> Iterator[pa.RecordBatch]:
    yield from TABLE.to_batches()
    raise RuntimeError("the source failed")


@pytest.mark.parametrize("url", ["a.parquet", "a.csv", "a.arrow", "d"])
def test_a_write_that_fails_leaves_what_was_there(client: Client, tmp_path: Path, url: str) -> None:
    options: dict[str, Any] = {"file_rows": 10_000} if url == "d" else {}
    for there in (False, True):
        if there:
            client.write(TABLE.slice(0, 5), tmp_path / url, **options)
        before = sorted(tmp_path.rglob("*"))
        reader = pa.RecordBatchReader.from_batches(TABLE.schema, failing())
        with pytest.raises(Exception, match="the source failed"):
            client.write(reader, tmp_path / url, overwrite=there, **options)
        assert sorted(tmp_path.rglob("*")) == before
    oid = client.read(tmp_path / url)
    assert client.get(oid).num_rows == 5
    client.delete(oid)


def test_a_format_that_cannot_hold_it(client: Client, tmp_path: Path) -> None:
    nested = pa.table({"m": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64()))})
    with pytest.raises(InvalidObjectError, match="csv file cannot hold this table"):
        client.write(nested, tmp_path / "a.csv")
    assert not list(tmp_path.iterdir())


def test_a_full_disk(client: Client, tmp_path: Path) -> None:
    class Full(LocalFileSystem):
        def mv(self, *names: str, **options: Any) -> None:
            raise OSError(28, "No space left on device")

    with pytest.raises(FileError, match="No space left"):
        client.write(TABLE, str(tmp_path / "a.parquet"), filesystem=Full())
    assert not list(tmp_path.iterdir())


class Small(MemoryFileSystem):
    """On which the first bytes of a file find room alone."""

    protocol = "small"
    cachable = False

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        file = super()._open(path, mode, **options)
        write = file.write

        def written(data: Any) -> int:
            if file.tell() + len(data) > 1000:
                raise OSError(28, "No space left on device")
            return write(data)

        file.write = written
        return file


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl", "orc", "arrow", "arrows"])
def test_a_disk_that_is_full_while_it_is_written(client: Client, ending: str) -> None:
    small = Small()
    with pytest.raises(FileError, match="No space left"):
        client.write(TABLE, f"/small.{ending}", filesystem=small)
    assert small.find("/") == []


@pytest.mark.parametrize("name", ["a\0b.parquet", "a\udcffb.parquet"])
def test_names_that_arrow_has_not(client: Client, tmp_path: Path, name: str) -> None:
    for do in (client.read, lambda url: client.write(TABLE, url)):
        with pytest.raises(ConfigError):
            do(str(tmp_path / name))
    assert not list(tmp_path.iterdir())


# ---- interrupts

INTERRUPTED = """
import sys, pyarrow as pa, vineyard_arrow
client = vineyard_arrow.connect(sys.argv[1], autostart=False)
def endless():
    while True:
        print("on", flush=True)
        yield pa.record_batch({"x": pa.array([1] * 200_000)})
if sys.argv[2] == "write":
    schema = pa.schema([("x", pa.int64())])
    reader = pa.RecordBatchReader.from_batches(schema, endless())
    client.write(reader, sys.argv[3])
else:
    client.read(sys.argv[3], progress=lambda *done: print("on", flush=True))
"""


@pytest.mark.parametrize("what", ["write", "read"])
def test_an_interrupt_leaves_nothing(
    daemon: Any, client: Client, tmp_path: Path, what: str
) -> None:
    if what == "read":
        path = tmp_path / "in"
        path.mkdir()
        pq.write_table(TABLE, path / "0.parquet", row_group_size=10)
    else:
        path = tmp_path / "out.parquet"
    command = [sys.executable, "-c", INTERRUPTED, str(daemon.socket), what, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as c:
        assert c.stdout is not None
        assert c.stderr is not None
        for _ in range(3):
            assert c.stdout.readline() == "on\n"
        c.send_signal(signal.SIGINT)
        c.stdout.close()
        said = c.stderr.read()
    assert "KeyboardInterrupt" in said or "BrokenPipe" in said
    assert not (tmp_path / "out.parquet").exists()
    assert not list(tmp_path.glob(".*partial"))
    assert gone(lambda: len(client.status().clients) == 1)
