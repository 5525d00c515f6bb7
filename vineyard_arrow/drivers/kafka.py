"""The drivers that read, scan and write topics of Kafka.

`messages` makes tables of messages and messages of tables, `kafka_source` and `kafka_sink` fetch
and send them. What is read is stored before a group is told that it has it, so nothing is lost by
whatever fails in between; it then comes again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from typing import Any

import pyarrow as pa

from ..errors import ConfigError, VineyardArrowError
from ..objects import ObjectID
from .kafka_link import Options, topic_of
from .kafka_sink import Sink
from .kafka_source import Batch, Size, Source, point_of
from .libraries import fits
from .messages import FORMATS, Decoder, Outgoing, encoder
from .registry import Request, driver
from .schemas import Policy
from .sql import empty
from .writers import reader_of

_BATCH_ROWS = 1 << 16
_BATCH_BYTES = 16 << 20
_LESS = "take less by start= and end="


def _register(kind: Any) -> Callable[[Any], Any]:
    """For the formats there are, and for those that are none, to say so."""

    def register(function: Any) -> Any:
        return driver(kind, scheme="kafka")(driver(kind, scheme="kafka", format=FORMATS)(function))

    return register


@_register("read")
def read_kafka(
    request: Request,
    *,
    start: Any = "earliest",
    end: Any = "latest",
    partitions: Sequence[int] | None = None,
    group: str | None = None,
    schema: Policy = "strict",
    metadata: bool | None = None,
    malformed: str = "error",
    options: Options = None,
    timeout_s: float = 30.0,
) -> ObjectID:
    """Read a topic of Kafka up to where it ends now, into the shared pool."""
    client, topic = request.client, topic_of(request.url)
    decoder = Decoder(request.format, schema, metadata, malformed, client.memory_pool)
    first, last = point_of(start, "start"), point_of(end, "end")
    offsets: dict[int, int] = {}
    tables, done = [], 0
    with (
        fits(topic.url, _LESS),
        Source(
            topic, options, timeout_s, group=group, start=first, partitions=partitions
        ) as source,
    ):
        ranges = source.ranges(last)
        offsets |= {partition: end for partition, (_, end) in ranges.items()}
        for batch in source.bounded(ranges, Size(_BATCH_ROWS, _BATCH_BYTES)):
            if batch.messages:
                tables.append(decoder.table(batch.messages))
                done += batch.nbytes
                request.done(done, done)
        table = decoder.one(tables)
        tables.clear()
        labels = {"kafka.topic": topic.name, "kafka.offsets": json.dumps(offsets)}
        if decoder.skipped:
            labels["kafka.skipped"] = str(decoder.skipped)
        kept = client.put(table, labels=labels)
    if group is not None:
        request.then(lambda: _commit(kept, offsets, topic, options, timeout_s, group))
    return kept


def _commit(
    kept: ObjectID,
    offsets: Mapping[int, int],
    topic: Any,
    options: Options,
    timeout_s: float,
    group: str,
) -> None:
    try:
        with Source(topic, options, timeout_s, group=group) as source:
            source.commit(offsets)
    except VineyardArrowError as error:
        told = f"{error.message}; {kept} is stored, but the group {group!r} was not told"
        raise type(error)(told, "delete it, or the same rows come again") from None


@_register("scan")
def scan_kafka(
    request: Request,
    *,
    follow: bool = False,
    start: Any = "earliest",
    end: Any = "latest",
    partitions: Sequence[int] | None = None,
    group: str | None = None,
    schema: Policy = "strict",
    metadata: bool | None = None,
    malformed: str = "error",
    batch_rows: int = _BATCH_ROWS,
    batch_bytes: int = _BATCH_BYTES,
    batch_s: float = 1.0,
    options: Options = None,
    timeout_s: float = 30.0,
) -> pa.RecordBatchReader:
    """Scan a topic of Kafka: up to where it ends now, or without end."""
    topic, size = topic_of(request.url), Size(batch_rows, batch_bytes, batch_s)
    decoder = Decoder(request.format, schema, metadata, malformed, request.client.memory_pool)
    first, last = point_of(start, "start"), point_of(end, "end")
    if follow and last != "latest":
        raise ConfigError("what is followed has no end", "end= without follow=True")
    if schema == "unify" and decoder.infers:
        raise ConfigError(
            "a scan has one schema, from its first batch on", "schema='strict', 'first' or a schema"
        )
    with ExitStack() as stack:
        source = stack.enter_context(
            Source(
                topic,
                options,
                timeout_s,
                group=group,
                start=first,
                partitions=partitions,
                follow=follow,
            )
        )
        batches = source.endless(size) if follow else source.bounded(source.ranges(last), size)
        tables = _tables(request, decoder, source, batches)
        # Its first rows tell the types, where they were not said.
        known = next((t for t in tables if t.num_rows), None) if decoder.infers else None
        columns = (decoder.one([]) if known is None else known).schema
        stack.pop_all()
    found = chain([] if known is None else [known], tables)
    closing = _closing(source, topic.url, found, columns)
    next(closing)  # from here on it closes the source, also if nobody reads
    return pa.RecordBatchReader.from_batches(columns, closing)


def _tables(
    request: Request, decoder: Decoder, source: Source, batches: Iterator[Batch]
) -> Iterator[pa.Table]:
    """A table of each batch. When the next is asked for, the one before is in the stream."""
    done = 0
    for batch in batches:
        table = decoder.table(batch.messages) if batch.messages else None
        if table is not None and table.num_rows:
            decoder.settle(table.schema)
        yield decoder.one([]) if table is None else table
        source.commit(batch.offsets)
        done += batch.nbytes
        request.done(done, done)


def _closing(
    source: Source, name: str, tables: Iterator[pa.Table], schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Batches of tables; the first of all, and those while nothing comes, have no rows."""
    with source, fits(name, _LESS):
        yield empty(schema)
        for table in tables:
            yield from table.combine_chunks().to_batches() or [empty(schema)]


@_register("write")
def write_kafka(
    request: Request,
    *,
    key: str | None = None,
    transactional_id: str | None = None,
    options: Options = None,
    timeout_s: float = 30.0,
) -> None:
    """Write a table or a stream to a topic of Kafka, and wait until all is taken."""
    topic, reader = topic_of(request.url), reader_of(request)
    encode = encoder(request.format, key, reader.schema)

    def messages() -> Iterator[Outgoing]:
        row = nbytes = 0
        for batch in reader:
            yield from encode(batch, row)
            row += batch.num_rows
            nbytes += batch.nbytes
            request.done(nbytes, nbytes)

    Sink(topic, options, timeout_s, transactional_id).write(messages())
