"""Memory is accounted to the byte, reused while warm, given back when idle, and kept to a limit."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from conftest import Daemon, Gate
from test_fork import Child, in_child, until

from vineyard_arrow.client import Client
from vineyard_arrow.errors import ConfigError, StoreFullError

PAGE = 4096
KIB = 1 << 10
MIB = 1 << 20
ROWS = 100_000


def pages(nbytes: int) -> int:
    return -(-nbytes // PAGE) * PAGE


def zeros(nbytes: int) -> np.ndarray:
    return np.zeros(nbytes, dtype=np.uint8)


def used(client: Client) -> int:
    return client.status().memory_used


def committed(store: Client | Daemon) -> int:
    """Bytes of pages that payload has."""
    return sum(s.committed for s in store.status().segments if s.kind != "catalog")


def offset_of(client: Client, oid: int) -> int:
    return client._a._core.offset_of(client.get_blob(oid).address)


@pytest.mark.parametrize("nbytes", [0, 1, 4095, 4096, 4097, 64 * KIB - 1, 64 * KIB, 10 * MIB + 1])
def test_a_buffer_takes_its_pages(client: Client, nbytes: int) -> None:
    oid = client.put(pa.py_buffer(zeros(nbytes)))
    status = client.status()
    assert status.memory_used == pages(nbytes)
    assert client.get_meta(oid).nbytes == nbytes
    (own,) = status.clients
    assert (own.sealed, own.unsealed) == (pages(nbytes), 0)
    client.delete(oid)
    assert used(client) == 0


def test_every_large_buffer_is_an_extent_and_all_small_ones_are_one(client: Client) -> None:
    table = pa.table(
        {
            "large": np.arange(ROWS),
            "flags": pa.array(np.arange(ROWS) % 2 == 0, mask=np.arange(ROWS) % 3 == 0),
            "bytes": np.zeros(ROWS, np.int8),
        }
    )
    client.put(table)
    bits = -(-ROWS // 8)
    gathered = 2 * -(-bits // 64) * 64
    assert used(client) == pages(8 * ROWS) + pages(ROWS) + pages(gathered)


def test_a_shared_buffer_counts_once(client: Client) -> None:
    array = pa.array(np.arange(ROWS))
    client.put(pa.table({"a": array, "b": array}))
    assert used(client) == pages(8 * ROWS)
    client.put(client.get(client.list_objects()[0].id).select(["b"]))
    assert used(client) == pages(8 * ROWS)


def test_unsealed_memory_counts(client: Client) -> None:
    blob = client.create_blob(MIB + 1)
    assert used(client) == MIB + PAGE
    assert [c.unsealed for c in client.status().clients] == [MIB + PAGE]
    blob.seal()
    assert used(client) == MIB + PAGE
    assert [(c.sealed, c.unsealed) for c in client.status().clients] == [(MIB + PAGE, 0)]
    built = pa.array(range(ROWS), memory_pool=client.memory_pool)
    assert used(client) >= MIB + PAGE + pages(8 * ROWS)
    del built
    assert used(client) == MIB + PAGE


@pytest.mark.parametrize(
    "values",
    [
        pa.array(np.arange(ROWS)),
        pa.array([f"{i:020}" for i in range(ROWS)]),
        pa.array([[i, i] for i in range(ROWS)]),
        pa.array([{"x": i, "y": str(i)} for i in range(ROWS)]),
        pa.array([i % 2 == 0 for i in range(ROWS)]),
    ],
    ids=["int64", "string", "list", "struct", "bool"],
)
def test_a_slice_stores_its_own_rows(client: Client, values: pa.Array) -> None:
    part = values.slice(ROWS // 2, ROWS // 10)
    oid = client.put(part)
    assert client.get(oid).equals(part)
    assert client.get_meta(oid).nbytes <= values.nbytes / 10 + 2 * KIB
    assert used(client) <= values.nbytes / 10 + 4 * PAGE


@pytest.mark.parametrize("kind", [pa.string_view(), pa.binary_view()])
def test_a_slice_of_views_stores_its_own_rows(client: Client, kind: pa.DataType) -> None:
    values = pa.array([f"{i:020}".encode() for i in range(ROWS)]).cast("string").cast(kind)
    part = values.slice(ROWS // 2, ROWS // 10)
    nbytes = client.get_meta(client.put(part)).nbytes
    del values, part
    assert nbytes <= 2 * 36 * ROWS / 10


@pytest.mark.parametrize("kind", [pa.list_view(pa.int64()), pa.large_list_view(pa.string_view())])
def test_a_slice_of_list_views_stores_its_own_rows(client: Client, kind: pa.DataType) -> None:
    text = [f"a string that is long enough, {i}" for i in range(ROWS)]
    items = list(range(ROWS)) if kind.value_type == pa.int64() else text
    rows = [None if i % 7 == 0 else [] if i % 5 == 0 else [items[i]] * 2 for i in range(ROWS)]
    values = pa.array(rows, kind)
    part = pa.table({"x": values, "s": pa.StructArray.from_arrays([values], ["v"])}).slice(100, 50)
    oid = client.put(part)
    assert client.get(oid).equals(part)
    client.get(oid).validate(full=True)
    assert client.get_meta(oid).nbytes <= 50 * 2 * 200


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.string_view()),
        pa.large_list(pa.string_view()),
        pa.list_(pa.string_view(), 1),
        pa.map_(pa.int32(), pa.string_view()),
        pa.list_(pa.list_(pa.string_view())),
    ],
    ids=str,
)
def test_a_slice_of_lists_of_views_stores_its_own_rows(client: Client, kind: pa.DataType) -> None:
    text = [f"a string that is long enough, {i}" for i in range(ROWS)]
    if pa.types.is_map(kind):
        rows = [None if i % 7 == 0 else [(i, t)] for i, t in enumerate(text)]
    elif pa.types.is_list(kind) and pa.types.is_list(kind.value_type):
        rows = [None if i % 7 == 0 else [[t], []] for i, t in enumerate(text)]
    else:
        rows = [None if i % 7 == 0 else [t] for i, t in enumerate(text)]
    part = pa.array(rows, kind).slice(100, 50)
    oid = client.put(part)
    got = client.get(oid)
    got.validate(full=True)
    assert got.equals(part)
    assert client.get_meta(oid).nbytes <= 50 * 200


def test_a_slice_of_a_polars_frame_leaves_the_rest_of_the_text(client: Client) -> None:
    frame = pl.DataFrame({"s": [f"a string that is long enough, {i}" for i in range(ROWS)]})
    part = frame.slice(ROWS // 2, 20)
    oid = client.put(part)
    assert client.get(oid).equals(part)
    assert client.get_meta(oid).nbytes <= 20 * 100


@pytest.mark.parametrize("nbytes", [1, 80, KIB, 4 * KIB, 40 * KIB])
def test_small_objects_cost_little_more_than_their_bytes(client: Client, nbytes: int) -> None:
    count = 500
    values = [zeros(nbytes) for _ in range(count)]
    for value in values[: count // 2]:
        client.put(value)
    client.put_many(values[count // 2 :])
    status = client.status()
    assert status.objects == count
    assert status.memory_used <= count * (1.25 * nbytes + 4 * KIB)
    assert status.memory_used + status.metadata_used <= count * (1.25 * nbytes + 5 * KIB)


def test_large_objects_cost_their_bytes(client: Client) -> None:
    for nbytes in (512 * KIB, MIB + 1, 10 * MIB):
        client.put(zeros(nbytes))
    total = 512 * KIB + MIB + 1 + 10 * MIB
    assert used(client) <= 1.01 * total
    assert committed(client) <= 1.01 * total


# ---- reuse


@pytest.mark.parametrize("nbytes", [100, 100 * KIB, 10 * MIB])
def test_freed_memory_is_used_again(client: Client, nbytes: int) -> None:
    first = client.put(pa.py_buffer(zeros(nbytes)))
    place = offset_of(client, first)
    for _ in range(5):
        client.delete(first)
        first = client.put(pa.py_buffer(zeros(nbytes)))
        assert offset_of(client, first) == place
    assert committed(client) == pages(nbytes)


def test_pinned_memory_is_not_used_again(client: Client) -> None:
    oid = client.put(pa.py_buffer(np.ones(MIB, np.uint8)))
    blob = client.get_blob(oid)
    client.delete(oid)
    other = client.put(pa.py_buffer(zeros(MIB)))
    assert offset_of(client, other) != client._a._core.offset_of(blob.address)
    assert set(blob.to_pybytes()) == {1}
    assert used(client) == 2 * MIB
    status = client.status()
    assert (status.objects, status.deleted_pinned) == (1, 1)
    place = client._a._core.offset_of(blob.address)
    del blob
    until(lambda: used(client) == MIB)
    assert offset_of(client, client.put(pa.py_buffer(zeros(MIB)))) == place


def test_idle_memory_goes_back(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon("--memory-limit", "256MiB", "--pages", "small", "--idle-trim-s", "0.05")
    with daemon.connect() as client:
        client.delete(client.put_many([zeros(MIB) for _ in range(32)]))
        built = pa.array(range(ROWS), memory_pool=client.memory_pool)
        del built
        until(lambda: committed(client) <= 32 * MIB / 10)
        until(lambda: client.status().memory_warm == 0)
        assert client.get(client.put(1)) == 1


def test_the_last_reader_of_something_deleted_is_heard(
    make_daemon: Callable[..., Daemon], make_gate: Callable[[], Gate]
) -> None:
    """It only reads, says nothing, and nobody else speaks to the daemon meanwhile."""
    own = make_daemon("--memory-limit", "64MiB", "--pages", "small", "--idle-trim-s", "0.05")

    def blocks() -> int:
        """Bytes of pages of the daemon's files, seen without a message that would wake it."""
        files = {}
        for fd in os.listdir(f"/proc/{own.pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                found = os.stat(f"/proc/{own.pid}/fd/{fd}")
                files[found.st_dev, found.st_ino] = found.st_blocks * 512
        return sum(files.values())

    pinned, deleted, seen = make_gate(), make_gate(), make_gate()

    def read() -> bool:
        value = client.get("z")
        pinned.open()
        deleted.wait()
        read = bool(value.any())
        del value
        seen.wait()
        return read

    with own.connect() as client:
        oid = client.put(zeros(16 * MIB), name="z")
        reader = Child(read)
        pinned.wait()
        client.delete(oid)
        assert blocks() >= 16 * MIB
        deleted.open()
        until(lambda: blocks() < 16 * MIB)
        seen.open()
        assert reader.wait() is False


def test_trim_gives_memory_back_at_once(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon("--memory-limit", "256MiB", "--pages", "small", "--idle-trim-s", "1000")
    with daemon.connect() as client:
        keep = client.put(zeros(MIB))
        client.delete(client.put_many([zeros(MIB) for _ in range(32)]))
        assert committed(client) >= 33 * MIB
        client.memory_trim()
        status = client.status()
        assert status.memory_warm == 0
        assert committed(client) == MIB
        assert status.memory_committed >= MIB
        assert (client.get(keep) == zeros(MIB)).all()


def test_a_writer_that_leaves_gives_its_memory_back(client: Client, daemon: Daemon) -> None:
    def write() -> int:
        with daemon.connect() as own:
            own.delete(own.put(zeros(32 * MIB)))
            blob = own.create_blob(8 * MIB)
            blob.view()[:] = zeros(8 * MIB)
            return int(own.put(zeros(MIB)))

    client.close()
    oid = in_child(write)
    until(lambda: not daemon.status().clients)
    status = daemon.status()
    assert status.memory_used == status.memory_charged == MIB
    assert committed(daemon) == MIB
    with daemon.connect() as other:
        assert (other.get(oid) == zeros(MIB)).all()


# ---- limits


def test_a_limit_above_the_machine_is_refused(make_daemon: Callable[..., Daemon]) -> None:
    with pytest.raises(ConfigError, match=r"memory_limit is 100 TiB, but only .* available"):
        make_daemon("--memory-limit", "100TiB")


@pytest.mark.parametrize("limit", [64 * KIB, MIB])
def test_a_tiny_store(make_daemon: Callable[..., Daemon], limit: int) -> None:
    with make_daemon("--memory-limit", str(limit), "--pages", "small").connect() as client:
        assert client.status().memory_limit == limit
        assert client.get(client.put([1, "x"])) == [1, "x"]
        client.clear()
        oid = client.put(zeros(limit))
        assert used(client) == limit
        with pytest.raises(StoreFullError):
            client.put(1)
        assert (client.get(oid) == zeros(limit)).all()
        client.delete(oid)
        assert client.get(client.put(1)) == 1


def test_charges_never_pass_the_limit(make_daemon: Callable[..., Daemon]) -> None:
    with make_daemon("--memory-limit", "16MiB", "--pages", "small").connect() as client:
        ids = []
        with pytest.raises(StoreFullError):  # noqa: PT012
            while True:
                ids.append(
                    client.put(zeros(300 * KIB), seal="strict" if len(ids) % 3 else "shared")
                )
        status = client.status()
        assert status.memory_used == len(ids) * pages(300 * KIB)
        assert status.memory_used <= status.memory_charged <= 16 * MIB
        assert committed(client) <= 16 * MIB
        client.delete(ids)
        assert used(client) == 0
        client.put(zeros(16 * MIB))


# ---- kinds of pages, and many writers


def test_status_of_huge_pages(huge_daemon: Daemon) -> None:
    with huge_daemon.connect() as client:
        oid = client.put(zeros(5 * MIB))
        status = client.status()
        assert status.page_kind == "huge-tmpfs"
        assert status.memory_used == 5 * MIB
        assert committed(client) == 6 * MIB
        assert (client.get(oid) == zeros(5 * MIB)).all()
        client.delete(oid)
        client.memory_trim()
        assert committed(client) == 0


def test_many_short_lived_writers_take_few_segments(daemon: Daemon) -> None:
    def write(number: int) -> int:
        client = daemon.connect()
        return int(client.put(np.full(1000, number)))  # and is gone without closing

    ids = []
    for i in range(0, 64, 8):
        children = [Child(write, i + j) for j in range(8)]
        ids += [child.wait() for child in children]
    until(lambda: not daemon.status().clients)
    status = daemon.status()
    assert status.objects == 64
    assert status.memory_used == status.memory_charged == 64 * pages(8000)
    assert len([s for s in status.segments if s.kind == "lease"]) <= 16
    with daemon.connect() as client:
        assert [int(client.get(oid)[0]) for oid in ids] == list(range(64))
        client.delete(ids[1::2])
        assert used(client) == 32 * pages(8000)
        assert [int(client.get(oid)[-1]) for oid in ids[::2]] == list(range(0, 64, 2))
        client.clear()
    until(lambda: [s.kind for s in daemon.status().segments] == ["catalog"])
