"""Streams between two processes: how fast batches pass, and how soon a waiting reader wakes.

The yardstick of the first is memcpy of the same sources into as many warm pages as the stream
may fill. Writer, reader and daemon share the machine: on two busy cores this measures the
scheduler as much as anything.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import peers
import pyarrow as pa
import pytest
from measure import MIB, Pages, p50, paired, rate_of, ratio_of, report, seconds, time_of

BATCHES, SOURCES = 1000, 64
WAKES = 200
WAYS = {
    "built in the pool": (1, True, False),
    "4 columns built in the pool": (4, True, False),
    "copied by write": (1, False, False),
    "built in the pool, summed up by the reader": (1, True, True),
}


@pytest.mark.benchmark(group="stream of 1,000 batches of 1 MiB to another process")
@pytest.mark.parametrize("way", WAYS)
def test_throughput(benchmark, any_store, peer, way):
    columns, pool, touch = WAYS[way]
    client, rows = any_store.client, MIB // 8 // columns
    sources = np.random.default_rng(1).random((SOURCES, columns, rows))
    schema = pa.schema([(f"c{i}", pa.float64()) for i in range(columns)])
    yardstick = Pages(any_store.files, SOURCES * MIB)
    targets = yardstick.bytes.view(np.float64).reshape(sources.shape)
    peer.call(peers.attach, any_store.socket)

    def column_of(writer: Any, values: np.ndarray) -> pa.Array:
        if pool:
            buffer = pa.allocate_buffer(values.nbytes, memory_pool=writer.memory_pool)
            np.copyto(np.frombuffer(buffer, np.float64), values)
        else:
            buffer = pa.py_buffer(values)
        return pa.Array.from_buffers(pa.float64(), rows, [None, buffer])

    # Medians of single batches too: a core that is taken away for a while does not show there.
    singles: dict[str, list[float]] = {"copy": [], "write": []}

    def copy() -> float:
        taken = [
            seconds(np.copyto, targets[i % SOURCES], sources[i % SOURCES]) for i in range(BATCHES)
        ]
        singles["copy"].append(statistics.median(taken))
        return sum(taken)

    def write(writer: Any, values: np.ndarray) -> None:
        arrays = [column_of(writer, column) for column in values]
        writer.write(pa.RecordBatch.from_arrays(arrays, schema=schema))

    def stream() -> float:
        writer = client.create_stream(schema, max_bytes=SOURCES * MIB)
        peer.start(peers.read_stream, writer.id, touch)
        while not client.list_streams()[0].readers:
            time.sleep(0.001)
        start = time.perf_counter()
        with writer:
            taken = [seconds(write, writer, sources[i % SOURCES]) for i in range(BATCHES)]
        assert peer.result() == BATCHES
        singles["write"].append(statistics.median(taken))
        return time.perf_counter() - start

    stream()  # the pages are warm from here on
    ours, memcpy = paired(benchmark, stream, copy, rounds=9)
    yardstick.close()
    peer.call(peers.detach)
    target = ">= 0.7" if any_store.huge else ">= 0.4"
    report(
        benchmark,
        f"{way}, {any_store.pages}: speed / memcpy's",
        rate_of(BATCHES * MIB, ours),
        rate_of(BATCHES * MIB, memcpy),
        ratio_of(memcpy, ours),
        target if way == "built in the pool" else "",
    )
    report(
        benchmark,
        f"{way}, {any_store.pages}: one batch less waits, speed / memcpy's",
        time_of(singles["write"][-9:]),
        time_of(singles["copy"][-9:]),
        ratio_of(singles["copy"][-9:], singles["write"][-9:]),
    )


@pytest.mark.benchmark(group="a reader that waits for a batch")
@pytest.mark.parametrize("pause_s", [0.0, 0.002])
def test_wake(benchmark, store, peer, echo, pause_s):
    """Batches to and fro by two streams: half a turn is one wake, as both ends only wait.

    With a pause before each, processors are idle and caches cold, for the yardstick too.
    """
    client, batch = store.client, pa.record_batch({"x": np.arange(128)})
    peer.call(peers.attach, store.socket)

    def after_pause(function: Callable[[], Any]) -> float:
        time.sleep(pause_s)
        return seconds(function)

    def wakes() -> float:
        with client.create_stream(batch.schema) as there:
            peer.start(peers.send_back, there.id, "back", batch.schema)
            back = client.open_stream("back", timeout_s=10)

            def turn() -> None:
                there.write(batch)
                back.read()

            taken = [after_pause(turn) for _ in range(WAKES)]
        assert peer.result() == WAKES
        back.close()
        return statistics.median(taken) / 2

    def trips() -> float:
        with echo.placed():
            return statistics.median([after_pause(echo.round_trip) for _ in range(WAKES)])

    ours, theirs = paired(benchmark, wakes, trips, rounds=7)
    peer.call(peers.detach)
    report(
        benchmark,
        f"from write to the batch in the other process{' after a pause' if pause_s else ''}"
        " / round trip",
        time_of(ours),
        time_of(theirs),
        ratio_of(ours, theirs),
        "<= 5",
    )


@pytest.mark.benchmark(group="a reader that waits for a batch")
def test_calls(benchmark, store, echo):
    """What a write and a read cost by themselves, when neither has to wait."""
    client, batch = store.client, pa.record_batch({"x": np.arange(128)})
    with client.create_stream(batch.schema) as writer:
        reader = client.open_stream(writer.id)

        reads: list[float] = []

        def write() -> float:
            taken = p50(lambda: writer.write(batch), 100)
            reads.append(p50(reader.read, 100))
            return taken

        writes, trips = paired(benchmark, write, lambda: echo.p50(50), rounds=20)
    reader.close()
    for what, times in (("write", writes), ("read", reads[1:])):
        report(
            benchmark,
            f"{what} of a batch of 1 KiB / round trip",
            time_of(times),
            time_of(trips),
            ratio_of(times, trips),
        )
