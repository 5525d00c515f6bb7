"""The same table handed to another process in several ways, from call to answer.

The other ways always copy to fresh pages, as there is nobody to keep warm ones for them.
"""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable
from multiprocessing.shared_memory import SharedMemory

import numpy as np
import peers
import pyarrow as pa
import pytest
from measure import GIB, MIB, back_memory, paired, ratio_of, report, seconds, time_of

COLUMNS = "abcd"


def by_pickle(peer: peers.Peer, table: pa.Table) -> float:
    def send() -> None:
        peer.start(peers.receive_pickle)
        pickle.dump(table, peer.pipe, protocol=5)
        peer.pipe.flush()
        assert peer.result() == table.num_rows

    return seconds(send)


def by_shared_memory(peer: peers.Peer, table: pa.Table) -> float:
    start = time.perf_counter()
    block = SharedMemory(create=True, size=table.nbytes)
    columns, at = [], 0
    for name, column in zip(table.column_names, table.columns, strict=True):
        values = column.chunk(0).to_numpy()
        np.copyto(np.frombuffer(block.buf, values.dtype, len(values), at), values)
        columns.append((name, str(values.dtype), at, len(values)))
        at += values.nbytes
    assert peer.call(peers.receive_shared_memory, block.name, columns) == table.num_rows
    taken = time.perf_counter() - start
    block.close()
    block.unlink()
    return taken


def by_file(peer: peers.Peer, table: pa.Table) -> float:
    path = f"/dev/shm/vineyard-arrow-benchmark-{os.getpid()}.arrow"
    start = time.perf_counter()
    try:
        with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        assert peer.call(peers.receive_file, path) == table.num_rows
        return time.perf_counter() - start
    finally:
        os.unlink(path)


WAYS: dict[str, Callable[[peers.Peer, pa.Table], float]] = {
    "pickle 5 through a pipe": by_pickle,
    "multiprocessing.shared_memory": by_shared_memory,
    "an Arrow file in /dev/shm": by_file,
}


@pytest.mark.benchmark(group="handing a table of 4 columns to another process, from call to answer")
@pytest.mark.parametrize(("size", "nbytes"), [("64 MiB", 64 * MIB), ("1 GiB", GIB)])
def test_hand_over(benchmark, store, peer, size, nbytes):
    client = store.client
    rows = nbytes // 8 // len(COLUMNS)
    data = {c: np.random.default_rng(1).random(rows) for c in COLUMNS}
    table = pa.table(data)
    peer.call(peers.attach, store.socket)
    back_memory(2 * nbytes + GIB // 2)

    def ours_cold() -> float:
        client.memory_trim()
        return hand_over(table)

    def ours_warm() -> float:
        return hand_over(table)

    def ours_from_pool() -> float:
        arrays = {}
        for name, values in data.items():
            buffer = pa.allocate_buffer(values.nbytes, memory_pool=client.memory_pool)
            np.copyto(np.frombuffer(buffer, values.dtype), values)
            arrays[name] = pa.Array.from_buffers(pa.float64(), rows, [None, buffer])
        return hand_over(pa.table(arrays))

    def hand_over(value: pa.Table) -> float:
        start = time.perf_counter()
        oid = client.put(value)
        assert peer.call(peers.receive_object, oid) == rows
        taken = time.perf_counter() - start
        del value
        client.delete(oid)
        return taken

    times = paired(
        benchmark,
        ours_cold,
        ours_warm,
        ours_from_pool,
        *(lambda way=way: way(peer, table) for way in WAYS.values()),
        rounds=5 if nbytes < GIB else 2,
    )
    peer.call(peers.detach)
    cold, warm, pool, *others = times
    for way, theirs in zip(WAYS, others, strict=True):
        for kind, mine in (
            ("put to fresh pages", cold),
            ("put to warm pages", warm),
            ("built in the pool", pool),
        ):
            report(
                benchmark,
                f"{size}, {kind} / {way}",
                time_of(mine),
                time_of(theirs),
                ratio_of(mine, theirs),
            )
