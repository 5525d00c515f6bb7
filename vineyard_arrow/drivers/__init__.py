"""Data in and out: what `Client.read`, `scan`, `write` and `partition` do, by drivers.

It puts what drivers read, names it, and pumps what they scan into a stream. What is behind a
url it leaves to them; see `registry` for how they are found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..errors import InvalidObjectError
from ..objects import ObjectID
from .registry import (
    Driver,
    Progress,
    Request,
    driver,
    drivers,
    find_driver,
    request_of,
    run,
)

if TYPE_CHECKING:
    from ..client import Client
    from ..streams import StreamReader

__all__ = [
    "Driver",
    "Request",
    "driver",
    "drivers",
    "find_driver",
    "partition",
    "read",
    "scan",
    "write",
]


def read(
    client: Client,
    url: Any,
    *,
    format: str | None,
    name: str | None,
    labels: Mapping[str, str] | None,
    progress: Progress | None,
    options: dict[str, Any],
) -> ObjectID:
    """See `Client.read`."""
    made = run("read", request_of(client, url, format, progress), options)
    return _kept(client, made, name, labels)


def partition(
    client: Client,
    value: Any,
    *,
    name: str | None,
    labels: Mapping[str, str] | None,
    progress: Progress | None,
    options: dict[str, Any],
) -> ObjectID:
    """See `Client.partition`."""
    request = _about(Request(client, progress=progress), value)
    return _kept(client, run("partition", request, options), name, labels)


def write(
    client: Client,
    value: Any,
    url: Any,
    *,
    format: str | None,
    progress: Progress | None,
    options: dict[str, Any],
) -> None:
    """See `Client.write`."""
    run("write", _about(request_of(client, url, format, progress), value), options)


def scan(
    client: Client,
    url: Any,
    *,
    format: str | None,
    name: str | None,
    max_bytes: int,
    progress: Progress | None,
    options: dict[str, Any],
) -> StreamReader:
    """See `Client.scan`."""
    from .pump import pumped

    batches = run("scan", request_of(client, url, format, progress), options)
    return pumped(client, batches, name, max_bytes)


def _kept(
    client: Client, made: Any, name: str | None, labels: Mapping[str, str] | None
) -> ObjectID:
    """The id of what a driver made: put, unless it is one already; or nothing is left."""
    is_put = isinstance(made, ObjectID)
    object_id: ObjectID = made if is_put else client.put(made, name=name)
    try:
        if is_put and name is not None:
            client.put_name(object_id, name)
        if labels:
            client.label(object_id, labels)
    except BaseException:
        client.delete(object_id)
        raise
    return object_id


def _about(request: Request, value: Any) -> Request:
    """The request with its object: an id, a name, or a value that is not in the store."""
    if isinstance(value, str | int) and not isinstance(value, bool):
        meta = request.client.get_meta(value)
        return replace(request, key=meta.id, typename=meta.typename)
    columns = isinstance(value, pa.Table | pa.RecordBatch | pa.RecordBatchReader)
    if columns or hasattr(value, "__arrow_c_stream__"):
        return replace(request, typename="vineyard.table", _value=value)
    if value is None:
        raise InvalidObjectError("there is nothing to write", "give an id, a name or a value")
    return replace(request, _value=value)
