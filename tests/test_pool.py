"""The shared-memory pool: a real Arrow pool whose blocks are published without a copy."""

from __future__ import annotations

import gc
import io
import itertools
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.dataset
import pyarrow.json
import pyarrow.parquet as pq
import pytest
from conftest import Daemon
from test_fork import in_child, until

from vineyard_arrow.client import Client
from vineyard_arrow.errors import StoreFullError

ROWS = 100_000
SHARED = 64 << 10


def buffers(value: Any) -> list[pa.Buffer]:
    """Every buffer of a table or an array."""
    columns = value.columns if isinstance(value, pa.Table) else [value]
    chunks = [c for column in columns for c in getattr(column, "chunks", [column])]
    return [b for chunk in chunks for b in chunk.buffers() if b is not None]


def offsets(client: Client, value: Any) -> list[int | None]:
    """Where in the store the large buffers of a value lie."""
    return [client._a._core.offset_of(b.address) for b in buffers(value) if b.size >= SHARED]


def built(client: Client, value: int = 1, rows: int = ROWS) -> pa.Table:
    array = pa.array([value] * rows, memory_pool=client.memory_pool)
    return pa.table({"a": array, "b": pc.add(array, 1, memory_pool=client.memory_pool)})


# ---- what reaches it


def by_csv(pool: pa.MemoryPool, folder: Path) -> pa.Table:
    text = "a,b\n" + "".join(f"{i},{i / 2}\n" for i in range(ROWS))
    options = pa.csv.ReadOptions(block_size=16 << 20)
    return pa.csv.read_csv(io.BytesIO(text.encode()), read_options=options, memory_pool=pool)


def by_json(pool: pa.MemoryPool, folder: Path) -> pa.Table:
    text = "".join(f'{{"a": {i}, "b": {i / 2}}}\n' for i in range(ROWS))
    options = pa.json.ReadOptions(block_size=16 << 20)
    return pa.json.read_json(io.BytesIO(text.encode()), read_options=options, memory_pool=pool)


def plain() -> pa.Table:
    return pa.table({"a": np.arange(ROWS), "b": np.arange(ROWS) / 2})


def by_dataset(pool: pa.MemoryPool, folder: Path) -> pa.Table:
    pq.write_table(plain(), folder / "x.parquet")
    return pa.dataset.dataset(folder / "x.parquet").to_table(memory_pool=pool)


def by_ipc(pool: pa.MemoryPool, folder: Path) -> pa.Table:
    options = pa.ipc.IpcWriteOptions(compression="lz4")  # else the file's own buffers are used
    with pa.ipc.new_stream(folder / "x.arrow", plain().schema, options=options) as writer:
        writer.write_table(plain())
    with pa.OSFile(str(folder / "x.arrow")) as file:
        return pa.ipc.open_stream(file, memory_pool=pool).read_all()


def by_compute(pool: pa.MemoryPool, folder: Path) -> pa.Table:
    a = pc.add(plain()["a"], 0, memory_pool=pool)
    return pa.table(
        {"a": a, "b": pc.divide(pc.cast(a, "float64", memory_pool=pool), 2, memory_pool=pool)}
    )


def by_list(pool: pa.MemoryPool, folder: Path) -> pa.Table:
    a = pa.array(range(ROWS), memory_pool=pool)
    return pa.table({"a": a, "b": pa.array([i / 2 for i in range(ROWS)], memory_pool=pool)})


def by_combining(pool: pa.MemoryPool, folder: Path) -> pa.Table:
    halves = [plain().slice(0, ROWS // 2), plain().slice(ROWS // 2)]
    return pa.concat_tables(halves).combine_chunks(memory_pool=pool)


def by_parquet(pool: pa.MemoryPool, folder: Path) -> pa.Table:
    pq.write_table(plain(), folder / "x.parquet")
    with pool:
        return pq.read_table(folder / "x.parquet")


def by_take(pool: pa.MemoryPool, folder: Path) -> pa.Table:
    with pool:
        return plain().sort_by([("a", "descending")]).take(np.arange(ROWS)[::-1])


WAYS = [
    by_csv, by_json, by_dataset, by_ipc, by_compute, by_list, by_combining, by_parquet, by_take,
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_tables_made_in_the_pool_are_put_without_a_copy(
    client: Client, way: Callable[..., pa.Table], tmp_path: Path
) -> None:
    table = way(client.memory_pool, tmp_path)
    assert table.equals(plain())
    assert None not in offsets(client, table)
    meta = client.get_meta(client.put(table, name="x"))
    assert meta.copied == 0
    assert meta.shared + meta.gathered == meta.nbytes
    assert meta.shared >= 16 * ROWS
    got = client.get("x")
    assert got.equals(table)
    assert set(offsets(client, got)) == set(offsets(client, table))


def test_a_parquet_file_goes_straight_into_the_store(
    client: Client, daemon: Daemon, tmp_path: Path
) -> None:
    rows = 1_000_000
    path = tmp_path / "large.parquet"
    random_numbers = np.random.default_rng(1)
    source = pa.table(
        {
            "i": random_numbers.integers(0, 1 << 60, rows),
            "f": random_numbers.random(rows),
            "s": pa.array(random_numbers.integers(0, 1000, rows)).cast("string"),
            "n": pa.array(np.arange(rows), mask=np.arange(rows) % 7 == 0),
        }
    )
    pq.write_table(source, path)
    assert path.stat().st_size > 8 << 20
    with client.memory_pool:
        table = pq.read_table(path)
    before = client.status()
    oid = client.put(table)
    after, meta = client.status(), client.get_meta(oid)
    assert (meta.copied, after.copied - before.copied) == (0, 0)
    assert meta.shared > 0.99 * meta.nbytes > 23 << 20

    def read() -> tuple[bool, list[int | None]]:
        with daemon.connect() as other:
            got = other.get(oid)
            return got.equals(source), offsets(other, got)

    equal, places = in_child(read)
    assert equal
    got = client.get(oid)
    assert places == offsets(client, got)
    for name in ("i", "f"):
        for ours, theirs in zip(table[name].chunks, got[name].chunks, strict=True):
            at = ours.buffers()[1].address + 8 * ours.offset
            assert at == theirs.buffers()[1].address + 8 * theirs.offset


# ---- it is a pool


def test_figures(client: Client) -> None:
    pool = client.memory_pool
    assert isinstance(pool, pa.MemoryPool)
    assert pool is client.memory_pool
    assert pool.backend_name == "vineyard"
    assert pool.bytes_allocated() == 0
    first = pa.allocate_buffer(1 << 20, memory_pool=pool)
    second = pa.allocate_buffer(128, memory_pool=pool)
    assert pool.bytes_allocated() == (1 << 20) + 128
    assert client._a._core.offset_of(first.address) is not None
    assert client._a._core.offset_of(second.address) is None
    assert first.address % 64 == second.address % 64 == 0
    del first
    assert pool.bytes_allocated() == 128
    assert pool.max_memory() == (1 << 20) + 128
    del second
    assert pool.bytes_allocated() == 0
    assert "max_memory=1048704" in repr(pool)
    with pytest.raises(TypeError):
        type(pool)()


def test_release_unused_gives_pages_back(client: Client) -> None:
    buffer = pa.allocate_buffer(8 << 20, memory_pool=client.memory_pool)
    np.frombuffer(buffer, dtype=np.uint8)[:] = 1
    del buffer
    assert client.status().memory_committed >= 8 << 20
    client.memory_pool.release_unused()
    assert client.status().memory_committed < 8 << 20


def test_it_is_the_default_for_a_block(client: Client, make_daemon: Callable[..., Daemon]) -> None:
    before = pa.default_memory_pool().backend_name
    pool = client.memory_pool

    def current() -> tuple[str, bool]:
        array = pc.add(plain()["a"], 1)
        return pa.default_memory_pool().backend_name, None not in offsets(client, array)

    assert before != "vineyard"
    with pool as entered:
        assert entered is pool
        assert current() == ("vineyard", True)
        with pool:
            assert current() == ("vineyard", True)
        assert current() == ("vineyard", True)
        with make_daemon("--memory-limit", "64MiB", "--pages", "small").connect() as other:
            with other.memory_pool:
                assert current() == ("vineyard", False)
            assert current() == ("vineyard", True)
        with pytest.raises(ZeroDivisionError), pool:
            1 / 0  # noqa: B018
        assert current() == ("vineyard", True)
    assert current() == (before, False)


def test_a_builder_grows_in_place(client: Client) -> None:
    buffer = pa.allocate_buffer(1 << 20, memory_pool=client.memory_pool, resizable=True)
    view = np.frombuffer(buffer, dtype=np.uint8)
    view[:] = 7
    del view
    address = buffer.address
    for nbytes in (2 << 20, 5 << 20, (5 << 20) + 1, 32 << 20):
        buffer.resize(nbytes)
        assert buffer.address == address
    assert (np.frombuffer(buffer, dtype=np.uint8)[: 1 << 20] == 7).all()
    buffer.resize(1 << 20, shrink_to_fit=True)
    assert buffer.address == address
    assert client.status().memory_used == 1 << 20
    # what it gave back is used again; then it can only grow elsewhere
    other = pa.allocate_buffer(1 << 20, memory_pool=client.memory_pool)
    assert other.address == address + (1 << 20)
    buffer.resize(4 << 20)
    assert buffer.address != address
    assert (np.frombuffer(buffer, dtype=np.uint8)[: 1 << 20] == 7).all()
    buffer.resize(100, shrink_to_fit=True)
    assert buffer.to_pybytes() == b"\x07" * 100
    buffer.resize(1 << 20)
    assert buffer.slice(0, 100).to_pybytes() == b"\x07" * 100
    del buffer, other
    assert client.status().memory_used == 0


def test_a_sealed_buffer_grows_elsewhere(client: Client) -> None:
    buffer = pa.allocate_buffer(1 << 20, memory_pool=client.memory_pool, resizable=True)
    np.frombuffer(buffer, dtype=np.uint8)[:] = 7
    oid = client.put(buffer)
    buffer.resize(2 << 20)
    np.frombuffer(buffer, dtype=np.uint8)[:] = 8
    assert set(client.get(oid).to_pybytes()) == {7}
    assert client.get_meta(oid).copied == 0


def test_arrows_threads_share_it(client: Client) -> None:
    pool = client.memory_pool
    expected = plain().sort_by([("a", "descending")])

    def work(seed: int) -> bool:
        numbers = random.Random(seed)
        for _ in range(6):
            rows = numbers.randrange(1, ROWS)
            array = pc.add(plain()["a"].slice(0, rows), seed, memory_pool=pool)
            total = pc.sum(array).as_py()
            if total != rows * (rows - 1) // 2 + rows * seed:
                return False
            if not plain().sort_by([("a", "descending")]).equals(expected):
                return False
        return True

    with pool, ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(16)))
        table = pa.csv.read_csv(
            io.BytesIO(("a,b\n" + "1,2\n" * 500_000).encode()),
            read_options=pa.csv.ReadOptions(block_size=1 << 18),
        )
        grouped = table.group_by("a").aggregate([("b", "sum")])
    assert grouped.to_pydict() == {"a": [1], "b_sum": [1_000_000]}
    assert client.get(client.put(table)).equals(table)
    del table, grouped
    gc.collect()
    client.clear()
    until(lambda: pool.bytes_allocated() == 0)
    until(lambda: client.status().memory_used == 0)


# ---- lives of blocks


def test_small_buffers_are_gathered(client: Client) -> None:
    pool = client.memory_pool
    edge = SHARED // 8
    table = pa.table(
        {
            "large": pa.array(range(edge), memory_pool=pool),
            "small": pa.array(range(edge), "int32", memory_pool=pool),
        }
    )
    meta = client.get_meta(client.put(table))
    assert (meta.copied, meta.shared, meta.gathered) == (0, SHARED, SHARED // 2)
    assert client.get(meta.id).equals(table)


def mappings() -> int:
    return len(Path("/proc/self/maps").read_text().splitlines())


def test_a_process_keeps_half_of_its_mappings(make_daemon: Callable[..., Daemon]) -> None:
    """Every protected range splits one: past a quarter of the kernel's limit, puts copy."""
    limit = int(Path("/proc/sys/vm/max_map_count").read_text())
    count = limit // 4 + 200
    daemon = make_daemon("--memory-limit", "50%", "--pages", "small")
    with daemon.connect() as client:
        before = mappings()
        block = pa.allocate_buffer(count * 2 * SHARED, memory_pool=client.memory_pool)
        pieces = [block.slice(i * 2 * SHARED, SHARED) for i in range(count)]
        oids = [oid for i in range(0, count, 1000) for oid in client.put_many(pieces[i : i + 1000])]
        assert client.get_meta(oids[0]).copied == 0
        assert client.get_meta(oids[-1]).copied == SHARED
        assert mappings() - before < limit // 2 + 100
        client.delete(oids)
        del block, pieces
        gc.collect()
        client.memory_trim()
        again = built(client)
        assert client.get_meta(client.put(again)).copied == 0


def test_a_block_lives_as_long_as_its_object(client: Client) -> None:
    table = built(client)
    oid = client.put(table)
    used = client.status().memory_used
    del table
    assert client.status().memory_used == used
    client.delete([client.put(built(client, 2)) for _ in range(5)])
    assert client.get(oid).equals(pa.table({"a": [1] * ROWS, "b": [2] * ROWS}))
    client.delete(oid)
    assert client.status().memory_used == 0


def test_a_block_outlives_its_object(client: Client) -> None:
    table = built(client)
    client.delete(client.put(table))
    client.delete([client.put(built(client, 2)) for _ in range(5)])
    assert table.equals(pa.table({"a": [1] * ROWS, "b": [2] * ROWS}))
    again = client.put(table)
    assert client.get_meta(again).copied == 0
    assert client.get(again).equals(table)
    client.delete(again)
    del table
    until(lambda: client.status().memory_used == 0)
    until(lambda: client.memory_pool.bytes_allocated() == 0)


def test_a_table_put_twice_is_stored_once(client: Client) -> None:
    table = built(client)
    first = client.put(table)
    used = client.status().memory_used
    second, third = client.put_many([table, table])
    assert client.status().memory_used == used
    for oid in (second, third):
        meta = client.get_meta(oid)
        assert (meta.copied, meta.gathered, meta.shared) == (0, 0, meta.nbytes)
    client.delete(first)
    assert client.status().memory_used == used
    del table
    client.delete(third)
    assert client.get(second).equals(pa.table({"a": [1] * ROWS, "b": [2] * ROWS}))
    client.delete(second)
    assert client.status().memory_used == 0


def test_slices_and_then_the_whole(client: Client) -> None:
    pool = client.memory_pool
    whole = pa.table({"a": pa.array(range(ROWS), memory_pool=pool)})
    parts = [whole.slice(i, 30_000) for i in (1, 20_000, 45_678, 70_000)]
    ids = client.put_many(parts)
    assert all(client.get_meta(oid).copied == 0 for oid in ids)
    oid = client.put(whole)
    assert client.get_meta(oid).copied == 0
    ids.append(oid)
    for part, stored in zip([*parts, whole], ids, strict=True):
        assert client.get(stored).equals(part)
    assert client.status().memory_used == -(-8 * ROWS // 4096) * 4096
    client.delete(ids[::2])
    del whole, parts
    client.delete(client.put(built(client, 3)))
    assert client.get(ids[1])["a"].to_pylist() == list(range(20_000, 50_000))
    assert client.get(ids[3])["a"].to_pylist() == list(range(70_000, 100_000))
    client.delete(ids[1::2])
    assert client.status().memory_used == 0


def test_derived_tables_store_what_is_new(client: Client) -> None:
    table = client.get(client.put(plain()))
    new = pa.array(np.arange(ROWS, dtype=np.int32))
    used = client.status().memory_used

    def stored(value: pa.Table) -> tuple[int, int, int]:
        meta = client.get_meta(client.put(value))
        assert client.get(meta.id).equals(value)
        return meta.copied, meta.gathered, meta.shared

    assert stored(table.append_column("c", new)) == (4 * ROWS, 0, 16 * ROWS)
    used += -(-4 * ROWS // 4096) * 4096
    assert client.status().memory_used == used
    assert stored(table.select(["b"])) == (0, 0, 8 * ROWS)
    assert stored(table.slice(5, 70_000)) == (0, 0, 16 * 70_000)
    assert stored(table.slice(5, 3)) == (0, 0, 48)
    assert stored(table.rename_columns(["x", "y"])) == (0, 0, 16 * ROWS)
    assert stored(pa.concat_tables([table, table.slice(7)])) == (0, 0, 16 * (2 * ROWS - 7))
    assert stored(table.replace_schema_metadata({"k": "v"})) == (0, 0, 16 * ROWS)
    assert client.status().memory_used == used


def test_another_writer_shares_what_it_read(client: Client, daemon: Daemon) -> None:
    oid = client.put(built(client))
    used = client.status().memory_used

    def derive() -> tuple[int, int]:
        with daemon.connect() as other:
            meta = other.get_meta(other.put(other.get(oid).select(["b"]), name="derived"))
            return meta.copied, meta.shared

    assert in_child(derive) == (0, 8 * ROWS)
    assert client.status().memory_used == used
    client.delete(oid)
    assert client.status().memory_used < used
    assert client.get("derived")["b"].to_pylist() == [2] * ROWS


def test_buffers_outlive_their_client(daemon: Daemon) -> None:
    with daemon.connect() as client:
        table = built(client)
        pool = client.memory_pool
        oid = client.put(table.select(["a"]))
    assert len(daemon.status().clients) == 1
    with daemon.connect() as second:
        second.delete(oid)
        assert second.get(second.put(table)).equals(table)
        second.clear()
    assert table.equals(pa.table({"a": [1] * ROWS, "b": [2] * ROWS}))
    more = pc.add(table["a"], 1, memory_pool=pool)
    assert more.equals(table["b"])
    del table, more, pool, client, second
    until(lambda: not daemon.status().clients)
    assert daemon.status().memory_used == 0


def test_a_full_pool_is_a_memory_error(make_daemon: Callable[..., Daemon]) -> None:
    with make_daemon("--memory-limit", "8MiB", "--pages", "small").connect() as client:
        pool = client.memory_pool
        oid = client.put(built(client))
        for attempt in (
            lambda: pa.allocate_buffer(9 << 20, memory_pool=pool),
            lambda: pc.add(pa.array(np.zeros(2_000_000)), 1, memory_pool=pool),
            lambda: pa.array(range(2_000_000), memory_pool=pool),
        ):
            with pytest.raises(MemoryError, match=r"no room for \d+ bytes: .*--memory-limit"):
                attempt()
        for full in (lambda: client.create_blob(9 << 20), lambda: client.put(np.zeros(2_000_000))):
            with pytest.raises(StoreFullError, match="no room for"):
                full()
        kept = []
        with pytest.raises(MemoryError, match="no room"):  # noqa: PT012
            while True:
                kept.append(pa.allocate_buffer(1 << 20, memory_pool=pool))
        assert len(kept) == 6
        assert client.get(oid).equals(pa.table({"a": [1] * ROWS, "b": [2] * ROWS}))
        assert client.get(client.put(kept[0])).size == 1 << 20
        kept.clear()
        client.clear()
        assert client.status().memory_used == 0
        assert pa.allocate_buffer(7 << 20, memory_pool=pool).size == 7 << 20


def test_large_blocks_of_streams_are_whole_huge_pages(huge_daemon: Any) -> None:
    """So the kernel need not split pages to seal them; charged in whole, and given back."""
    huge = 2 << 20
    with huge_daemon.connect() as client:
        pool = client._a.stream_pool
        blocks = [pa.allocate_buffer(n, memory_pool=pool) for n in (huge // 2, huge)]
        small = pa.allocate_buffer(huge // 4, memory_pool=pool)
        third = pa.allocate_buffer(huge // 2 + 1, memory_pool=pool)
        assert all(block.address % huge == 0 for block in (*blocks, third))
        spans = sorted((b.address, -(-b.size // huge) * huge) for b in (*blocks, third))
        assert all(a + n <= b for (a, n), (b, _) in itertools.pairwise(spans))
        assert client.status().memory_used == 3 * huge + huge // 4
        np.frombuffer(blocks[0], np.uint8)[:] = 7
        oid = client.put(pa.py_buffer(blocks[0]))
        assert client.status().memory_used == 3 * huge + huge // 4
        np.frombuffer(third, np.uint8)[:] = 1  # not sealed with its neighbour
        np.frombuffer(small, np.uint8)[:] = 1
        assert client.get(oid).size == huge // 2
        client.delete(oid)
        del blocks, small, third
        assert client.status().memory_used == 0


@pytest.mark.parametrize("pages", ["small", "huge"])
@pytest.mark.parametrize("of", ["objects", "streams"])
def test_a_part_of_a_large_block_seals_no_more_than_itself(
    daemon: Daemon, huge_daemon: Daemon, pages: str, of: str
) -> None:
    """Its owner goes on writing the rest."""
    with (daemon if pages == "small" else huge_daemon).connect() as client:
        pool = client.memory_pool if of == "objects" else client._a.stream_pool
        block = pa.allocate_buffer(4 << 20, memory_pool=pool)
        oid = client.put(block.slice(0, SHARED))
        assert client.get_meta(oid).copied == 0
        (ours,) = client.status().clients
        assert ours.sealed == SHARED
        np.frombuffer(block, np.uint8)[SHARED:] = 1
        assert client.get_meta(client.put(block)).copied == 0


def test_blocks_of_objects_take_no_more_than_they_need(huge_daemon: Any) -> None:
    with huge_daemon.connect() as client:
        sizes = [(512 << 10) + 1, (1 << 20) + 1, (3 << 20) + 5]
        blocks = [pa.allocate_buffer(n, memory_pool=client.memory_pool) for n in sizes]
        assert client.status().memory_used <= 1.01 * sum(sizes)
        client.delete(client.put_many(blocks))


def test_a_block_that_grows_to_half_a_huge_page(huge_daemon: Any) -> None:
    with huge_daemon.connect() as client:
        sink = pa.BufferOutputStream(client._a.stream_pool)
        pieces = [bytes([i]) * 100_000 for i in range(60)]
        for piece in pieces:
            sink.write(piece)
        value = sink.getvalue()
        assert value.address % (2 << 20) == 0
        oid = client.put(value)
        assert client.get_meta(oid).copied == 0
        del value, sink
        assert client.get(oid).to_pybytes() == b"".join(pieces)
        client.delete(oid)
        assert client.status().memory_used == 0
