"""Streams within one process: order, bounds, readers, ends, misuse, values, event loops."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from test_faults import until

from vineyard_arrow import Part, extension_types
from vineyard_arrow.client import Client
from vineyard_arrow.errors import (
    ConnectionLostError,
    DeadlineExceededError,
    InvalidObjectError,
    ObjectExistsError,
    ObjectNotFoundError,
    StoreFullError,
    StreamClosedError,
    StreamFailedError,
    VineyardArrowError,
)

SCHEMA = pa.schema([("i", pa.int64()), ("s", pa.string())])
MIB = 1 << 20


def batch_of(i: int, rows: int = 3) -> pa.RecordBatch:
    return pa.record_batch([pa.array([i] * rows), pa.array([f"row {i}"] * rows)], schema=SCHEMA)


def number_of(batch: pa.RecordBatch) -> int:
    return int(batch["i"][0].as_py())


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


# ---- order, cursors, what is kept


def test_batches_come_in_order_and_whole(client: Client) -> None:
    written = [batch_of(i, rows=1 + i % 5) for i in range(50)]
    with client.create_stream(SCHEMA, name="a") as writer:
        for batch in written:
            writer.write(batch)
        reader = client.open_stream("a")
        assert isinstance(reader, pa.RecordBatchReader)
        assert reader.schema == SCHEMA
    assert reader.read_all() == pa.Table.from_batches(written)
    assert list(reader) == []
    assert reader.read() is None


def test_readers_have_places_of_their_own(client: Client) -> None:
    with client.create_stream(SCHEMA) as writer:
        a, b = client.open_stream(writer.id), client.open_stream(str(writer.id))
        for i in range(10):
            writer.write(batch_of(i))
            assert number_of(a.read()) == i
        assert (a.position, b.position) == (10, 0)
        (info,) = client.list_streams()
        assert (info.batches, info.backlog) == (10, 10)  # b needs them all
        assert sorted(at for _, at in info.readers) == [0, 10]
        for i in range(6):
            assert number_of(next(b)) == i
        late = client.open_stream(writer.id)  # the oldest that is left: a and b are past the others
        assert late.position == 6
        assert client.list_streams()[0].backlog == 4
        writer.write(batch_of(10))
    assert [number_of(x) for x in b] == [6, 7, 8, 9, 10]
    assert [number_of(x) for x in a] == [10]
    assert number_of(late.read()) == 6
    late.close()  # what it has not read is left for whoever comes next
    assert [number_of(x) for x in client.open_stream(writer.id)] == [7, 8, 9, 10]
    assert client.list_streams() == []


def test_dropped_as_read_or_kept(client: Client) -> None:
    kept = client.create_stream(SCHEMA, keep=True, name="kept")
    passing = client.create_stream(SCHEMA, name="passing")
    for writer in (kept, passing):
        for i in range(5):
            writer.write(batch_of(i))
        with client.open_stream(writer.id) as reader:
            assert [number_of(reader.read()) for _ in range(3)] == [0, 1, 2]
    assert {s.name: s.backlog for s in client.list_streams()} == {"kept": 5, "passing": 2}
    for writer in (kept, passing):
        writer.close()
    assert [number_of(b) for b in client.open_stream("passing")] == [3, 4]
    for _ in range(2):
        assert [number_of(b) for b in client.open_stream("kept")] == [0, 1, 2, 3, 4]
    assert [s.name for s in client.list_streams()] == ["kept"]
    client.drop_stream("kept")


def test_a_batch_stays_while_the_writer_goes_on(client: Client) -> None:
    """Memory of what was let go is used again, but not under who still holds it."""
    schema = pa.schema([("x", pa.int64())])
    rows = 128 << 10  # sealed where it is built
    with client.create_stream(schema, max_batches=2) as writer:
        reader = client.open_stream(writer.id)
        held: dict[int, pa.RecordBatch] = {}
        for i in range(60):
            buffer = pa.allocate_buffer(rows * 8, memory_pool=client.memory_pool)
            np.frombuffer(buffer, np.int64)[:] = i
            column = pa.Array.from_buffers(pa.int64(), rows, [None, buffer])
            del buffer
            writer.write(pa.record_batch([column], schema=schema))
            del column
            batch = reader.read()
            if i % 7 == 0:
                held[i] = batch
            del batch
    assert len(held) == 9
    for i, batch in held.items():
        assert (batch["x"].to_numpy() == i).all()
    assert client.status().memory_used == len(held) * rows * 8
    used = client.status().memory_committed
    assert used < 30 * MIB, "memory that was let go is not used again"


def test_what_was_sealed_cannot_be_written(client: Client) -> None:
    with client.create_stream(pa.schema([("x", pa.int64())]), keep=True) as writer:
        buffer = pa.allocate_buffer(MIB, memory_pool=client.memory_pool)
        array = np.frombuffer(buffer, np.int64)
        array[:] = 7
        column = pa.Array.from_buffers(pa.int64(), len(array), [None, buffer])
        writer.write(pa.record_batch([column], names=["x"]))
        for line in Path("/proc/self/maps").read_text().splitlines():
            begin, end = (int(at, 16) for at in line.split()[0].split("-"))
            if begin <= array.ctypes.data < end:
                break
        assert line.split()[1].startswith("r--")
    client.drop_stream(writer.id)


# ---- bounds


@pytest.mark.parametrize("bounds", [{"max_batches": 3}, {"max_bytes": 3 * 10_000 * 8}])
def test_the_writer_waits_for_room(
    client: Client, pool: ThreadPoolExecutor, bounds: dict[str, int]
) -> None:
    schema = pa.schema([("x", pa.int64())])
    batch = pa.record_batch([pa.array(np.arange(10_000))], schema=schema)
    with client.create_stream(schema, **bounds) as writer:
        for _ in range(3):
            writer.write(batch)
        with pytest.raises(DeadlineExceededError, match="nobody came to read it"):
            writer.write(batch, timeout_s=0.01)
        reader = client.open_stream(writer.id)
        with pytest.raises(DeadlineExceededError, match=f"process {os.getpid()} read no further"):
            writer.write(batch, timeout_s=0.01)
        for _ in range(20):
            future = pool.submit(writer.write, batch)
            reader.read()
            future.result(60)
            assert client.list_streams()[0].backlog == 3
        reader.close()
        with pytest.raises(DeadlineExceededError):
            writer.write(batch, timeout_s=0.01)
    client.drop_stream(writer.id)


def test_a_batch_over_the_bound_comes_alone(client: Client, pool: ThreadPoolExecutor) -> None:
    with client.create_stream(SCHEMA, max_bytes=1000) as writer:
        reader = client.open_stream(writer.id)
        writer.write(batch_of(0))
        future = pool.submit(writer.write, batch_of(1, rows=1000))
        assert number_of(reader.read()) == 0
        future.result(60)
        future = pool.submit(writer.write, batch_of(2))
        assert reader.read().num_rows == 1000
        future.result(60)


def test_a_wait_without_polling_ends_at_once(client: Client, pool: ThreadPoolExecutor) -> None:
    with client.create_stream(SCHEMA) as writer:
        reader = client.open_stream(writer.id, batch_timeout_s=60)
        for i in range(100):
            future = pool.submit(reader.read)
            writer.write(batch_of(i))
            assert number_of(future.result(60)) == i
        with pytest.raises(DeadlineExceededError, match="no batch came"):
            reader.read(timeout_s=0.01)
        with pytest.raises(DeadlineExceededError):
            reader.read(timeout_s=0)
        writer.write(batch_of(100))
        assert number_of(reader.read()) == 100


def test_a_stream_that_comes_later(client: Client, pool: ThreadPoolExecutor) -> None:
    with pytest.raises(ObjectNotFoundError, match="no stream 'late'"):
        client.open_stream("late")
    with pytest.raises(DeadlineExceededError, match="'late' appeared within"):
        client.open_stream("late", timeout_s=0.01)
    waiting = [pool.submit(client.open_stream, "late", timeout_s=60) for _ in range(3)]
    with client.create_stream(SCHEMA, name="late") as writer:
        readers = [future.result(60) for future in waiting]
        writer.write(batch_of(1))
    assert [reader.read_all().num_rows for reader in readers] == [3, 3, 3]


def test_a_full_store(make_daemon: Callable[..., Any]) -> None:
    daemon = make_daemon("--memory-limit", "64MiB")
    schema = pa.schema([("x", pa.int64())])
    batch = pa.record_batch([pa.array(np.arange(MIB))], schema=schema)  # 8 MiB
    with daemon.connect() as client:
        writer = client.create_stream(schema, max_bytes=None)
        with pytest.raises(StoreFullError, match=r"no room .* in streams"):
            writer.write(pa.Table.from_batches([batch] * 20))
        written = client.list_streams()[0].batches
        assert 4 <= written <= 8
        reader = client.open_stream(writer.id)
        for _ in range(written):
            reader.read()
        writer.write(batch)  # there is room again
        writer.close()
        assert reader.read().equals(batch)
        reader.close()
        del reader
        status = client.status()
        assert (status.memory_used, status.streams, status.stream_batches) == (0, 0, 0)
    del batch


# ---- ends


def test_a_failure_is_passed_on(client: Client, pool: ThreadPoolExecutor) -> None:
    waiting = []

    def write() -> None:
        with client.create_stream(SCHEMA, name="f") as writer:
            waiting.append(reading.result(60))
            writer.write(batch_of(0))
            assert number_of(waiting[0].read()) == 0
            waiting.append(pool.submit(waiting[0].read))
            raise ZeroDivisionError("division")

    reading = pool.submit(client.open_stream, "f", timeout_s=60)
    late = pool.submit(client.open_stream, "f", timeout_s=60)
    with pytest.raises(ZeroDivisionError):
        write()
    reader = late.result(60)
    assert number_of(reader.read()) == 0
    for _ in range(2):
        with pytest.raises(StreamFailedError, match="f failed: ZeroDivisionError: division"):
            reader.read()
    with pytest.raises(StreamFailedError):
        waiting[1].result(60)
    assert client.list_streams() == []


def test_fail_says_why(client: Client) -> None:
    writer = client.create_stream(SCHEMA)
    writer.fail("the sensor broke")
    writer.fail("again")
    writer.close()
    with pytest.raises(StreamFailedError, match="the sensor broke"):
        client.open_stream(writer.id).read_all()


def test_a_writer_that_is_dropped_fails_its_stream(client: Client) -> None:
    writer = client.create_stream(SCHEMA, name="lost")
    writer.write(batch_of(1))
    del writer
    gc.collect()
    reader = client.open_stream("lost")
    assert number_of(reader.read()) == 1
    with pytest.raises(StreamFailedError, match=f"process {os.getpid()}, went away"):
        reader.read()


def test_a_reader_that_is_dropped_lets_go(client: Client, daemon: Any) -> None:
    writer = client.create_stream(SCHEMA)
    fds = daemon.fds
    for _ in range(3):
        reader = client.open_stream(writer.id)
        del reader
    gc.collect()
    until(lambda: client.list_streams()[0].readers == (), "readers stay")
    assert daemon.fds == fds
    writer.close()
    assert client.list_streams() == []  # it was read to its end, such as that is


def test_drop(client: Client, pool: ThreadPoolExecutor) -> None:
    writer = client.create_stream(SCHEMA, name="d", max_batches=2)
    reader, waiting_reader = client.open_stream("d"), client.open_stream("d")
    writer.write(batch_of(0))
    held = reader.read()
    waiting_reader.read()
    writer.write(batch_of(1))
    assert number_of(waiting_reader.read()) == 1
    read = pool.submit(waiting_reader.read)
    writer.write(batch_of(2))
    writer_waits = pool.submit(writer.write, batch_of(3))
    assert number_of(read.result(60)) == 2
    read = pool.submit(waiting_reader.read)
    client.drop_stream("d")
    for future in (read, writer_waits):
        with pytest.raises(StreamFailedError, match="it was dropped"):
            future.result(60)
    for call in (reader.read, lambda: writer.write(batch_of(4)), writer.close):
        with pytest.raises(StreamFailedError, match="it was dropped"):
            call()
    assert number_of(held) == 0
    with pytest.raises(ObjectNotFoundError):
        client.drop_stream("d")
    del held, read
    status = client.status()
    assert (status.memory_used, status.streams, status.stream_nbytes) == (0, 0, 0)


def test_a_writer_without_bounds_learns_of_a_drop(client: Client) -> None:
    writer = client.create_stream(SCHEMA, keep=True)
    writer.write(batch_of(0))
    client.drop_stream(writer.id)
    with pytest.raises(StreamFailedError, match="it was dropped"):
        writer.write(batch_of(1))


def test_clear_drops_streams(client: Client) -> None:
    writer = client.create_stream(SCHEMA)
    writer.write(batch_of(0))
    reader = client.open_stream(writer.id)
    client.clear()
    assert client.list_streams() == []
    assert client.status().memory_used == 0
    with pytest.raises(StreamFailedError):
        reader.read()


def test_a_closed_client(daemon: Any) -> None:
    client = daemon.connect()
    writer = client.create_stream(SCHEMA, name="c")
    writer.write(batch_of(0))
    reader = client.open_stream("c")
    held = reader.read()
    client.close()
    with pytest.raises(VineyardArrowError):
        writer.write(batch_of(1))
    with pytest.raises(VineyardArrowError):
        reader.read()
    assert number_of(held) == 0
    with daemon.connect() as other:
        until(lambda: all(s.state == "failed" for s in other.list_streams()), "it goes on")


def test_a_dead_daemon(make_daemon: Callable[..., Any], pool: ThreadPoolExecutor) -> None:
    daemon = make_daemon("--memory-limit", "64MiB")
    with daemon.connect() as client:
        writer = client.create_stream(SCHEMA, max_batches=1)
        reader = client.open_stream(writer.id)
        writer.write(batch_of(0))
        held = reader.read()
        waiting = pool.submit(reader.read)
        other = client.create_stream(SCHEMA, max_batches=1)
        other.write(batch_of(0))
        full = pool.submit(other.write, batch_of(1))
        until(lambda: daemon.status().streams == 2, "")
        daemon.kill()
        for future in (waiting, full):
            with pytest.raises(ConnectionLostError):
                future.result(60)
        for call in (reader.read, lambda: other.write(batch_of(1)), other.close):
            with pytest.raises(VineyardArrowError):
                call()
        assert number_of(held) == 0
        del held


# ---- misuse


def test_misuse(client: Client) -> None:
    with client.create_stream(SCHEMA, name="one") as writer:
        with pytest.raises(
            ObjectExistsError, match=f"'one' already .open, .* process {os.getpid()}"
        ):
            client.create_stream(SCHEMA, name="one")
        writer.write(batch_of(0))
    for call in (lambda: writer.write(batch_of(1)), lambda: writer.write(b"x")):
        with pytest.raises((StreamClosedError, InvalidObjectError)):
            call()
    with pytest.raises(StreamClosedError, match="was ended"):
        writer.write(batch_of(1))
    reader = client.open_stream("one")
    reader.close()
    reader.close()
    with pytest.raises(StreamClosedError, match="reader of stream one is closed"):
        reader.read()
    client.drop_stream("one")
    for options, wrong in (
        ({"max_batches": 0}, "max_batches"),
        ({"max_bytes": 1.5}, "max_bytes"),
        ({"keep": True, "max_batches": 3}, "keeps everything"),
        ({"name": ""}, "name"),
        ({"name": 3}, "str"),
        ({"name": "x" * 5000}, "4096"),
    ):
        with pytest.raises(InvalidObjectError, match=wrong):
            client.create_stream(SCHEMA, **options)
    for key in (-1, 2.5, None, True):
        with pytest.raises(InvalidObjectError, match="no stream"):
            client.open_stream(key)
    with client.create_stream(SCHEMA) as writer, client.open_stream(writer.id) as reader:
        with pytest.raises(InvalidObjectError, match="timeout_s is a number"):
            reader.read(timeout_s="1")
        with pytest.raises(InvalidObjectError, match="timeout_s is a number"):
            writer.write(batch_of(0), timeout_s="1")
    with pytest.raises(InvalidObjectError, match="this str makes no schema"):
        client.create_stream("int64")


def test_batches_are_no_objects(client: Client) -> None:
    table = pa.table({"i": [1]})
    oid = client.put(table)
    with client.create_stream(SCHEMA) as writer:
        writer.write(batch_of(0))
        reader = client.open_stream(writer.id)
        assert [m.id for m in client.list_objects()] == [oid]
        status = client.status()
        assert (status.objects, status.streams, status.stream_batches) == (1, 1, 1)
        assert status.stream_nbytes == 4096
        writer.write(batch_of(1))
        reader.read()
        (batch_id,) = reader._source._ids
        for call in (
            lambda: client.delete(batch_id),
            lambda: client.delete(batch_id, force=True),
            lambda: client.put_name(batch_id, "batch"),
            lambda: client.label(batch_id, {"a": "b"}),
            lambda: client.delete(writer.id),
        ):
            with pytest.raises(ObjectNotFoundError):
                call()
        assert number_of(reader.read()) == 1
    client.delete(oid)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (pa.table({"i": [1]}), r"1 fields \(i\) where the stream has 2 \(i, s\)"),
        (pa.table({"i": [1], "t": ["x"]}), "field 1 is named 't' where the stream has 's'"),
        (
            pa.table({"i": pa.array([1], pa.int32()), "s": ["x"]}),
            "field 'i' is int32 where the stream has int64",
        ),
        (pd.DataFrame({"i": [1]}), "field 's' of the stream is missing"),
        (pd.DataFrame({"i": [1], "s": ["x"], "u": [1]}), "a field 'u', which the stream has not"),
        (pd.DataFrame({"i": ["no"], "s": ["x"]}), "column i with type"),
        (pl.DataFrame({"i": [1.5], "s": ["x"]}), "field 'i' is double .* cannot be cast"),
        (pl.DataFrame({"i": [1], "s": ["x"]}).lazy(), "a LazyFrame cannot be written"),
        (b"bytes", "takes no bytes"),
        ([1, 2], "a list cannot be written"),
    ],
)
def test_what_is_not_of_the_schema(client: Client, value: Any, message: str) -> None:
    with client.create_stream(SCHEMA, keep=True) as writer:
        with pytest.raises(InvalidObjectError, match=message):
            writer.write(value)
        assert client.list_streams()[0].batches == 0
    client.drop_stream(writer.id)


# ---- values


@pytest.mark.parametrize(
    "value",
    [
        batch_of(1),
        pa.table(batch_of(1)),
        pa.table(batch_of(1)).to_reader(),
        pd.DataFrame({"s": ["row 1"] * 3, "i": [1] * 3}, index=[5, 6, 7]),
        pl.DataFrame({"s": ["row 1"] * 3, "i": np.array([1] * 3, np.int8)}),
        pa.table({"i": [1, 1, 1], "s": ["row 1"] * 3}, metadata={"k": "v"}),
    ],
    ids=["batch", "table", "reader", "pandas", "polars", "other metadata"],
)
def test_values(client: Client, value: Any) -> None:
    with client.create_stream(SCHEMA) as writer:
        writer.write(value)
        reader = client.open_stream(writer.id)
    assert reader.read_all().equals(pa.table(batch_of(1)), check_metadata=True)


def test_every_kind_of_column(client: Client) -> None:
    batch = pa.record_batch(
        {
            "d": pa.array(["x", None, "y"]).dictionary_encode(),
            "l": pa.array([[1], None, [2, 3]]),
            "v": pa.array(["a" * 40, "b", None], pa.string_view()),
            "t": pa.array([{"a": 1}] * 3),
            "n": pa.nulls(3),
        }
    )
    schema = batch.schema.with_metadata({"k": "v"})
    with client.create_stream(schema) as writer:
        writer.write(batch)
        writer.write(batch.slice(1))
        writer.write(batch.slice(3))  # no rows
        reader = client.open_stream(writer.id)
    assert reader.schema.equals(schema, check_metadata=True)
    got = [reader.read() for _ in range(3)]
    assert [g.to_pydict() for g in got] == [batch.slice(at).to_pydict() for at in (0, 1, 3)]
    assert all(g.schema.equals(schema, check_metadata=True) for g in got)


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.uint8()])
def test_bytes(client: Client, kind: pa.DataType) -> None:
    pieces = [b"one", bytearray(b"two"), memoryview(b"three"), pa.py_buffer(b""), b"x" * 100_000]
    with client.create_stream(pa.schema([("b", kind)])) as writer:
        for piece in pieces:
            writer.write(piece)
        reader = client.open_stream(writer.id)
    if kind == pa.uint8():
        got = [bytes(batch["b"].to_numpy()) for batch in reader]
    else:
        got = [row.as_py() for batch in reader for row in batch["b"]]
    assert got == [bytes(piece) for piece in pieces]


def test_a_column_without_nulls(client: Client) -> None:
    schema = pa.schema([pa.field("i", pa.int64(), nullable=False)])
    with client.create_stream(schema) as writer:
        writer.write(pa.table({"i": [1]}))
        with pytest.raises(InvalidObjectError, match="'i' has nulls"):
            writer.write(pa.table({"i": [None]}, schema=pa.schema([("i", pa.int64())])))
        assert client.open_stream(writer.id).read()["i"].to_pylist() == [1]


def test_what_is_in_the_store_is_not_copied(client: Client) -> None:
    oid = client.put(pa.table({"x": np.arange(MIB)}))
    with client.create_stream(pa.schema([("x", pa.int64())])) as writer:
        copied = client.status().copied
        writer.write(client.get(oid))
        batch = client.open_stream(writer.id).read()
        assert client.status().copied == copied
        assert batch["x"].buffers()[1].address == client.get(oid)["x"].chunk(0).buffers()[1].address
        client.delete(oid)
        assert batch["x"][MIB - 1].as_py() == MIB - 1


# ---- consumers


def test_consumers(client: Client, tmp_path: Any) -> None:
    duckdb = pytest.importorskip("duckdb")

    def stream() -> Any:
        with client.create_stream(SCHEMA) as writer:
            reader = client.open_stream(writer.id)
            for i in range(4):
                writer.write(batch_of(i))
        return reader

    assert pl.from_arrow(stream())["i"].sum() == 18
    assert pl.DataFrame(stream()).height == 12
    assert pa.table(stream()).num_rows == 12
    assert stream().read_pandas()["i"].sum() == 18
    flow = stream()
    with duckdb.connect() as connection:
        assert connection.sql("SELECT sum(i) FROM flow").fetchall() == [(18,)]
        assert connection.from_arrow(stream()).aggregate("count(*)").fetchall() == [(12,)]
    pq.write_table(stream().read_all(), tmp_path / "a.parquet")
    with pq.ParquetWriter(tmp_path / "b.parquet", SCHEMA) as file:
        for batch in stream():
            file.write_batch(batch)
    ds.write_dataset(stream(), tmp_path / "c", format="parquet")
    for name in ("a.parquet", "b.parquet", "c"):  # the last is written in any order
        got = pq.read_table(tmp_path / name)["i"].to_pylist()
        assert (sorted(got) if name == "c" else got) == [i // 3 for i in range(12)]
    del flow


def test_a_consumer_may_keep_only_the_c_stream(client: Client) -> None:
    with client.create_stream(SCHEMA) as writer:
        writer.write(batch_of(1))
        capsule = client.open_stream(writer.id).__arrow_c_stream__()
    gc.collect()

    class Producer:
        def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
            return capsule

    assert pa.table(Producer()).num_rows == 3


# ---- event loops


def test_asyncio(client: Client) -> None:
    async def write(writer: Any) -> None:
        async with writer:
            for i in range(50):
                await writer.write_async(batch_of(i))

    async def read(reader: Any) -> list[int]:
        return [number_of(batch) async for batch in reader]

    async def main() -> None:
        writer = client.create_stream(SCHEMA, max_batches=2)
        readers = [client.open_stream(writer.id) for _ in range(2)]
        async with asyncio.timeout(20):
            results = await asyncio.gather(write(writer), *(read(r) for r in readers))
        assert results[1:] == [list(range(50))] * 2

    asyncio.run(main())
    assert client.list_streams() == []


def test_asyncio_deadlines_and_cancellation(client: Client) -> None:
    async def main() -> None:
        writer = client.create_stream(SCHEMA, max_batches=1)
        reader = client.open_stream(writer.id)
        with pytest.raises(DeadlineExceededError):
            await reader.read_async(timeout_s=0.01)
        task = asyncio.ensure_future(reader.read_async())
        await asyncio.sleep(0)
        with pytest.raises(InvalidObjectError, match="another thread or task"):
            await reader.read_async()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await writer.write_async(batch_of(7))
        with pytest.raises(DeadlineExceededError):
            await writer.write_async(batch_of(8), timeout_s=0.01)
        assert number_of(await reader.read_async()) == 7
        await writer.write_async(batch_of(8))
        with contextlib.suppress(ValueError):
            async with writer:
                raise ValueError("mine")
        assert number_of(await reader.read_async()) == 8
        with pytest.raises(StreamFailedError, match="ValueError: mine"):
            await reader.read_async()

    asyncio.run(main())


def test_threads(client: Client) -> None:
    """Several threads write one stream, several read it: each batch comes once."""
    writer = client.create_stream(SCHEMA, max_batches=8)
    reader = client.open_stream(writer.id)
    got: list[int] = []
    errors: list[BaseException] = []

    def guarded(function: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            try:
                function()
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def read() -> None:
        while (batch := reader.read()) is not None:
            got.append(number_of(batch))

    readers = [guarded(read) for _ in range(3)]
    writers = [
        guarded(lambda k=k: [writer.write(batch_of(k * 100 + i)) for i in range(40)])
        for k in range(3)
    ]
    for thread in writers:
        thread.join(60)
    writer.close()
    for thread in readers:
        thread.join(60)
    assert errors == []
    assert sorted(got) == [k * 100 + i for k in range(3) for i in range(40)]


# ---- looks


def test_looks(client: Client) -> None:
    with client.create_stream(SCHEMA, name="<look>", max_batches=5) as writer:
        writer.write(batch_of(0))
        reader = client.open_stream("<look>")
        assert repr(writer) == f"<StreamWriter <look> {writer.id}: 1 batch written>"
        assert repr(reader) == f"<StreamReader <look> {writer.id}: at batch 0>"
        for each in (writer, reader, client.list_streams("<lo*")[0]):
            page = each._repr_html_()
            assert "&lt;look&gt;" in page
            assert "5 batches and" in page
            assert "s: string" in page
        assert client.list_streams("other*") == []
        reader.close()
        assert "closed" in repr(reader)
    client.drop_stream(writer.id)
    assert "closed" in writer._repr_html_()


def test_a_batch_of_another_schema_is_refused(client: Client) -> None:
    """Consumers in C go by the stream's schema, and would read outside of the buffers."""
    writer = client.create_stream(pa.schema([("a", pa.int64())]))
    reader = client.open_stream(writer.id)
    batch = pa.record_batch([pa.array([1] * 8, pa.int8())], ["a"])
    plan = client._a.plan_batch(Part("vineyard.stream.batch", batch.schema, (batch,)))
    client._a.append(writer._key, "a stream", plan)
    writer.close()
    with pytest.raises(InvalidObjectError, match="another schema"):
        reader.read()
    reader.close()


def test_columns_of_our_extension_types(client: Client) -> None:
    type_ = extension_types.TensorType(pa.float64(), b'{"shape":[2,1],"dtype":"<f8","order":"C"}')
    batch = pa.record_batch([pa.ExtensionArray.from_storage(type_, pa.array([1.0, 2.0]))], ["t"])
    with client.create_stream(batch.schema) as writer:
        reader = client.open_stream(writer.id)
        writer.write(batch)
    assert reader.read_all().column(0).type == type_
