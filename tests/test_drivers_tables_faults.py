"""Tables that are damaged, full stores, others who write, interrupts: said, and nothing is left."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from drivers_harness import gone, got
from drivers_harness import nothing_left as nothing_left
from tables_harness import KINDS, Place, failing, make_place

from vineyard_arrow.client import Client
from vineyard_arrow.errors import (
    CommitConflictError,
    DamagedFileError,
    LibraryNotFoundError,
    PathNotFoundError,
    StoreFullError,
    StreamFailedError,
)

ROWS = 100_000
TABLE = pa.table({"id": np.arange(ROWS), "x": np.random.default_rng(1).random(ROWS)})


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    yield from make_place(request.param, tmp_path)


def read(client: Client, place: Place, **options: Any) -> pa.Table:
    return got(client, place.url, **place.options, **options)


def test_what_is_not_there(client: Client, place: Place) -> None:
    for do in (client.read, client.scan):
        with pytest.raises(PathNotFoundError, match="no such"):
            do(place.url, **place.options)
    assert not place.files()


def test_a_data_file_that_is_gone_is_named(client: Client, place: Place) -> None:
    place.write(client, TABLE)
    (file,) = place.data()
    file.rename(file.with_suffix(".away"))
    with pytest.raises(PathNotFoundError, match=file.name):
        read(client, place)
    with (
        client.scan(place.url, **place.options) as reader,
        pytest.raises(StreamFailedError, match=file.name),
    ):
        reader.read_all()
    file.write_bytes(b"garbage" * 100)
    with pytest.raises(DamagedFileError):
        read(client, place)


def test_metadata_that_are_damaged(client: Client, place: Place) -> None:
    place.write(client, TABLE.slice(0, 10))
    for file in place.metadata():
        file.write_bytes(b"{garbage" * 20)
    for do in (client.read, client.scan):
        with pytest.raises(DamagedFileError, match="damaged"):
            do(place.url, **place.options)


@pytest.mark.parametrize("mode", ["fail", "append", "replace"])
def test_a_write_that_fails_changes_nothing(client: Client, place: Place, mode: str) -> None:
    if mode != "fail":
        place.write(client, TABLE.slice(0, 5))
    before = place.files()
    with pytest.raises(ValueError, match=r"^the source failed$"):
        place.write(client, failing(TABLE, 2), mode=mode)
    assert place.files() == before
    if mode == "fail":
        place.write(client, TABLE.slice(0, 5))
    assert read(client, place).sort_by("id") == TABLE.slice(0, 5)


def test_what_others_commit_meanwhile(client: Client, place: Place) -> None:
    place.write(client, TABLE.slice(0, 5))

    def rows(mode: str) -> pa.RecordBatchReader:
        def made() -> Iterator[pa.RecordBatch]:
            yield from TABLE.slice(0, 7).to_batches()
            place.write(client, TABLE.slice(0, 3), mode=mode)

        return pa.RecordBatchReader.from_batches(TABLE.schema, made())

    with pytest.raises(CommitConflictError, match="write it again"):
        place.write(client, rows("replace"), mode="replace")
    assert read(client, place).num_rows == 3
    place.write(client, rows("append"), mode="append")  # these do not get in each other's way
    assert read(client, place).num_rows == 3 + 3 + 7


@pytest.mark.parametrize("mode", ["append", "replace"])
def test_a_table_that_others_make_meanwhile(client: Client, place: Place, mode: str) -> None:
    def made() -> Iterator[pa.RecordBatch]:
        place.write(client, TABLE.slice(0, 3))
        yield from TABLE.slice(0, 7).to_batches()

    with suppress(CommitConflictError):  # or it comes after
        place.write(client, pa.RecordBatchReader.from_batches(TABLE.schema, made()), mode=mode)
        assert read(client, place).num_rows in (7, 10)
        return
    assert read(client, place).num_rows == 3


def test_a_read_that_is_broken_off_leaves_nothing(client: Client, place: Place) -> None:
    place.write(client, TABLE)

    def stop(done: int, total: int) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        client.read(place.url, **place.options, progress=stop)
    assert client.status().objects == 0
    assert gone(lambda: client.memory_pool.bytes_allocated() == 0)


def test_what_does_not_fit_leaves_nothing(
    client: Client, make_daemon: Callable[..., Any], place: Place
) -> None:
    big = pa.table({"x": np.random.default_rng(1).random(1_000_000)})
    place.write(client, pa.concat_tables([big] * 5))  # some 40 MB
    with make_daemon("--memory-limit", "32MiB").connect() as own:
        for filter in (None, pc.field("x") >= 0):
            with pytest.raises(StoreFullError, match=r"does not fit.*scan it"):
                own.read(place.url, **place.options, filter=filter)
            assert own.memory_pool.bytes_allocated() == 0
            assert own.status().objects == 0
        reader = own.scan(place.url, **place.options, max_bytes=8 << 20)
        assert sum(len(batch) for batch in reader) == 5 * big.num_rows


def test_a_library_that_is_missing(
    client: Client, monkeypatch: pytest.MonkeyPatch, place: Place
) -> None:
    library = {"delta": "deltalake", "iceberg": "pyiceberg.catalog", "lance": "lance"}[place.kind]
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(
        LibraryNotFoundError, match=rf"pip install 'vineyard-arrow\[{place.kind}\]'"
    ):
        client.read(place.url, **place.options)


INTERRUPTED = """
import json, sys, pyarrow as pa, vineyard_arrow
client = vineyard_arrow.connect(sys.argv[1], autostart=False)
def endless():
    while True:
        print("on", flush=True)
        yield pa.record_batch({"x": pa.array([1] * 200_000)})
reader = pa.RecordBatchReader.from_batches(pa.schema([("x", pa.int64())]), endless())
client.write(reader, sys.argv[2], **json.loads(sys.argv[3]))
"""


def test_an_interrupt_leaves_nothing(daemon: Any, place: Place) -> None:
    before = place.files()
    command = [sys.executable, "-W", "ignore", "-c", INTERRUPTED, str(daemon.socket), place.url]
    with subprocess.Popen(
        [*command, json.dumps(place.options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for _ in range(3):
            assert process.stdout.readline() == "on\n"
        process.send_signal(signal.SIGINT)
        for _ in process.stdout:
            pass
        assert "KeyboardInterrupt" in process.stderr.read()
    assert place.files() == before
