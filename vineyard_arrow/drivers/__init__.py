"""Data in and out: what `Client.read`, `scan`, `write` and `partition` do, by drivers.

It puts what drivers read, names it, and pumps what they scan into a stream. What is behind a
url it leaves to them; see `registry` for how they are found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..errors import ConfigError, InvalidObjectError
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
    overwrite: bool,
    labels: Mapping[str, str] | None,
    progress: Progress | None,
    options: dict[str, Any],
) -> ObjectID:
    """See `Client.read`."""
    request = request_of(client, url, format, progress)
    kept = _kept(client, run("read", request, options), name, labels, overwrite)
    request.stored()
    return kept


def partition(
    client: Client,
    kind: str,
    value: Any,
    *,
    plan: bool,
    name: str | None,
    labels: Mapping[str, str] | None,
    options: dict[str, Any],
) -> Any:
    """See `Client.partition`, `repartition` and `concat`, which are the kinds."""
    from ..partitioning import Plan

    request = _in_parts(client, value)
    made = run(kind, request, options)
    if isinstance(made, Plan):
        return made if plan else made.run(name=name, labels=labels)
    if plan:
        found = find_driver(kind, request)
        raise ConfigError(f"{found!r} makes no plans", "leave plan out")
    return _kept(client, made, name, labels)


def _in_parts(client: Client, value: Any) -> Request:
    """The request about an object, a value, or several of either, that go by the first."""
    first = value[0] if isinstance(value, list | tuple) and value else value
    if isinstance(first, str | int) and not isinstance(first, bool):
        request = _about(Request(client), first)
        return request if first is value else replace(request, key=None, _value=value)
    return Request(client, typename=_typename_of(first), _value=value)


def _typename_of(value: Any) -> str | None:
    """The typename that a put of it would have, of what has drivers to cut it up."""
    for cls in type(value).__mro__:
        found = _TYPENAMES.get(f"{cls.__module__.partition('.')[0]}.{cls.__name__}")
        if found is not None:
            return found
    return "vineyard.table" if hasattr(value, "__arrow_c_stream__") else None


_TYPENAMES = {
    "pyarrow.Table": "vineyard.table",
    "pyarrow.RecordBatch": "vineyard.record_batch",
    "pandas.DataFrame": "vineyard.pandas.dataframe",
    "polars.DataFrame": "vineyard.polars.frame",
    "numpy.ndarray": "vineyard.tensor",
    "vineyard_arrow.Graph": "vineyard.graph",
    "vineyard_arrow.GlobalGraph": "vineyard.global_graph",
    "vineyard_arrow.GlobalTable": "vineyard.global_table",
    "vineyard_arrow.GlobalDataFrame": "vineyard.global_dataframe",
    "vineyard_arrow.GlobalTensor": "vineyard.global_tensor",
}


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
    client: Client,
    made: Any,
    name: str | None,
    labels: Mapping[str, str] | None,
    overwrite: bool = False,
) -> ObjectID:
    """The id of what a driver made: put, unless it is one already; or nothing is left."""
    if not isinstance(made, ObjectID):
        return client.put(made, name=name, overwrite=overwrite, labels=labels)
    try:
        if labels:
            client.label(made, labels)
        if name is not None:  # last: a name that has moved is not moved back
            client.put_name(made, name, overwrite=overwrite)
    except BaseException:
        client.delete(made)
        raise
    return made


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
