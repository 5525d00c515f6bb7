"""JSON messages of Kafka into the store, against confluent-kafka's consumer and pyarrow's reader.

The broker is librdkafka's mock cluster, in a process of its own: it costs both the same.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from measure import paired, ratio_of, report, seconds, time_of

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

PARTITIONS = 8
EACH = 40_000  # the cluster keeps 5 MiB of a partition


def _serve(pipe: Any) -> None:
    from kafka_broker import MockBroker

    broker = MockBroker()
    url = broker.topic(PARTITIONS)
    for partition in range(PARTITIONS):
        lines = [
            b'{"id": %d, "price": %d.25, "city": "city %d"}' % (n, n, n % 500) for n in range(EACH)
        ]
        broker.produce(url, lines, partition)
    pipe.send(url)
    pipe.recv()
    broker.stop()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A topic of small objects."""
    pytest.importorskip("confluent_kafka")
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,))
    process.start()
    yield ours.recv()
    ours.send(None)
    process.join()


def consume(url: str) -> Any:
    """The obvious way: all messages in a list, and of these a table."""
    import confluent_kafka as ck
    import pyarrow as pa
    import pyarrow.json

    servers, name = url.removeprefix("kafka://").split("/")
    consumer = ck.Consumer(
        {"bootstrap.servers": servers, "group.id": "plain", "fetch.wait.max.ms": 10}  # as ours
    )
    consumer.assign([ck.TopicPartition(name, p, 0) for p in range(PARTITIONS)])
    values: list[bytes] = []
    while left := PARTITIONS * EACH - len(values):  # known here: no end is waited for
        values += [m.value() for m in consumer.consume(min(1024, left), 1.0) if m.error() is None]
    consumer.close()
    return pyarrow.json.read_json(pa.BufferReader(b"\n".join(values)))


@pytest.mark.benchmark(group="messages of Kafka into the store / consume() into a pyarrow.Table")
def test_read(benchmark: Any, store: Any, url: str) -> None:
    rows = PARTITIONS * EACH

    def ours() -> float:
        taken = seconds(store.client.read, url)
        (meta,) = store.client.list_objects()
        assert meta.copied == 0
        assert store.client.get(meta.id).num_rows == rows
        store.client.delete(meta.id)
        return taken

    def plain() -> float:
        return seconds(lambda: consume(url))

    mine, theirs = paired(benchmark, ours, plain, rounds=3)
    report(
        benchmark,
        f"{rows:,} JSON objects, {rows / min(mine) / 1e3:,.0f} thousand a second",
        time_of(mine),
        time_of(theirs),
        ratio_of(mine, theirs),
        "<= 1.2",
    )
