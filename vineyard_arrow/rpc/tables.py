"""What stock Flight clients see: objects as tables, by name or id."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight

from ..client import Client
from ..errors import InvalidObjectError, ResolverNotFoundError, VineyardArrowError
from ..objects import ObjectID
from .transit import PIECE_NBYTES


def table_of(client: Client, key: int | str) -> pa.Table:
    """An object as a table; a column alone is one of the name ``data``.

    Raises
    ------
    ResolverNotFoundError
        If it cannot be had as one.
    """
    try:
        return client.get(key, as_=pa.Table, trusted=False)
    except ResolverNotFoundError:
        return pa.table({"data": client.get(key, as_=pa.ChunkedArray, trusted=False)})


def batches_of(table: pa.Table) -> Iterator[pa.RecordBatch]:
    """A table in batches of about 4 MiB, over its own memory."""
    rows = max(1, PIECE_NBYTES * table.num_rows // max(table.nbytes, 1))
    yield from table.to_batches(max_chunksize=rows)


def key_of(descriptor: flight.FlightDescriptor) -> str:
    """The name or id that a descriptor means: its path of one step, or its command."""
    if descriptor.descriptor_type == flight.DescriptorType.CMD:
        return text_of(descriptor.command)
    if len(descriptor.path) != 1:
        raise InvalidObjectError(
            f"a path of {len(descriptor.path)} steps", "it is the name of an object, as one step"
        )
    return text_of(descriptor.path[0])


def text_of(data: bytes) -> str:
    """A name or id that came as bytes."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InvalidObjectError(f"{data!r} is no name: not UTF-8") from None


def flight_info(
    client: Client, object_id: ObjectID, descriptor: flight.FlightDescriptor
) -> flight.FlightInfo:
    """What there is to know of an object before it is got."""
    table = table_of(client, object_id)
    endpoint = flight.FlightEndpoint(str(object_id).encode(), [])
    return flight.FlightInfo(table.schema, descriptor, [endpoint], table.num_rows, table.nbytes)


def list_infos(client: Client, pattern: str) -> Iterator[flight.FlightInfo]:
    """All objects that can be had as tables: each by its name, or if it has none by its id."""
    for meta in client.list_objects(pattern or "*", limit=1 << 20):
        descriptor: Any
        if meta.names:
            descriptor = flight.FlightDescriptor.for_path(meta.names[0])
        else:
            descriptor = flight.FlightDescriptor.for_command(str(meta.id))
        assert meta.id is not None
        try:
            yield flight_info(client, meta.id, descriptor)
        except VineyardArrowError:
            continue  # no table, or deleted meanwhile
