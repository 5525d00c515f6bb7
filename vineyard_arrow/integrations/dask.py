"""Global objects as Dask's frames and arrays, and back.

Workers read partitions from the instance beside them, which is that of their own default client
(``VINEYARD_ARROW_SOCKET``), without copying. A worker that is given a partition of another
instance fetches it. Scheduling is Dask's. See docs/distributed.md.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from .. import default_client
from ..distributed import GlobalTensor, Partition
from ..errors import InvalidObjectError, LibraryNotFoundError, ObjectNotFoundError
from ..fetching import owner_of, reached
from ..objects import ObjectID

try:
    import dask
    from dask.base import compute
    from dask.delayed import delayed as lazily
except ModuleNotFoundError as error:
    raise LibraryNotFoundError(
        "dask is needed for this, but it is not installed", "pip install 'vineyard-arrow[dask]'"
    ) from error

if TYPE_CHECKING:
    from ..client import Client, Key

__all__ = ["SharedPagesWarning", "from_global", "to_global"]


class SharedPagesWarning(UserWarning):
    """Pages of the store may make Dask pause or restart a worker that has memory to spare."""


def from_global(source: Client | str | os.PathLike[str], key: Key) -> Any:
    """A global object as a Dask frame or array, a partition for each of its own.

    With a ``distributed.Client``, partitions are opened at once, by workers beside them if there
    are any; that maps memory and copies nothing. Else they are opened when they are computed.
    Those of tables and polars frames become pandas frames over Arrow memory (``ArrowDtype``).

    With bounds, Dask knows the divisions: those of the index, or of the column they are of, which
    becomes the index.

    Parameters
    ----------
    source : Client, str or path
        A client, or the socket of an instance, that has the object.
    key : ObjectID, int or str
        Of a `GlobalTable`, `GlobalDataFrame` or `GlobalTensor`.

    Returns
    -------
    dask.dataframe.DataFrame or dask.array.Array

    Warns
    -----
    SharedPagesWarning
        If the partitions of a worker reach one of its ``distributed.worker.memory`` thresholds.

    Raises
    ------
    InvalidObjectError
        If the object is another.
    ObjectNotFoundError
        If partitions are gone with their instance; it says which.
    """
    whole = _global_of(source, key)
    parts = _opened(whole)
    if isinstance(whole, GlobalTensor):
        return _array(whole, parts)
    import dask.dataframe as dd

    return dd.from_delayed(
        parts,
        meta=_indexed(_pandas(whole.empty), whole.key),
        divisions=_divisions(whole),
        verify_meta=False,
    )


def to_global(
    collection: Any, *, name: str | None = None, client: Client | None = None
) -> ObjectID:
    """Compute a Dask frame or array; put its partitions where they are computed, or none of them.

    Where Dask knows divisions, the object has bounds: those of the index of each partition.

    Parameters
    ----------
    collection : dask.dataframe.DataFrame or dask.array.Array
    name : str, optional
        As in `Client.put`.
    client : Client, optional
        Who makes the object that ties the partitions; the default client, if not given.

    Returns
    -------
    ObjectID
        Of a `GlobalDataFrame` or `GlobalTensor`.
    """
    client = default_client() if client is None else client
    delayed = collection.to_delayed()
    offsets = None
    if isinstance(delayed, np.ndarray):
        starts = [np.cumsum([0, *sizes]) for sizes in collection.chunks]
        offsets = [
            tuple(int(starts[a][i]) for a, i in enumerate(at)) for at in np.ndindex(delayed.shape)
        ]
        delayed = delayed.ravel().tolist()
    known = getattr(collection, "known_divisions", False)
    defaults = collection.divisions[:-1] if known else [None] * len(delayed)
    scheduler = _scheduler()
    if scheduler is None:  # computed by this process, and put with the whole: all or nothing
        values = compute(*delayed)
        bounds = list(map(_bounds, values, defaults))
        return _whole(client, values, bounds, offsets, name)
    put = lazily(_put, pure=False)
    futures = scheduler.compute([put(*each) for each in zip(delayed, defaults, strict=True)])
    try:
        ids, found = zip(*scheduler.gather(futures), strict=True)
        return _whole(client, ids, found, offsets, name)
    except BaseException:
        _take_back(client, futures)
        raise


def _whole(
    client: Client, partitions: Sequence[Any], bounds: Sequence[Any], offsets: Any, name: str | None
) -> ObjectID:
    known = None if None in bounds else bounds
    meta = client.create_global(partitions, bounds=known, offsets=offsets, name=name)
    assert meta.id is not None
    return meta.id


def _scheduler() -> Any:
    """The current client of Dask's scheduler; None if there is none."""
    try:
        from distributed import get_client

        return get_client()
    except (ImportError, ValueError):
        return None


def _take_back(client: Client, futures: Sequence[Any]) -> None:
    """Delete partitions that were put, once nobody puts any more."""
    from distributed import wait

    wait(futures)
    for future in futures:
        if future.status == "finished":
            object_id = future.result()[0]
            if object_id.instance == client.instance:
                client.delete(object_id)
                continue
            with reached(client, owner_of(client, object_id)) as far:
                far.delete(object_id)


def _global_of(source: Any, key: Any) -> Any:
    from ..client import connect
    from ..distributed import GlobalDataFrame, GlobalTable

    if isinstance(source, str | os.PathLike):
        with connect(source, autostart=False) as client:
            return _global_of(client, key)
    whole = source.get(key)
    if not isinstance(whole, GlobalTable | GlobalDataFrame | GlobalTensor):
        raise InvalidObjectError(f"{key} is a {type(whole).__name__}, not a global object")
    missing = source.get_meta(key).missing
    if missing:
        gone = ", ".join(f"{index} ({whole.object_ids[int(index)]})" for index in missing)
        raise ObjectNotFoundError(
            f"partition {gone} of {key} is gone with its instance",
            "put it again, and make the global object anew; get(key) still gives the others",
        )
    return whole


def _divisions(whole: Any) -> tuple[Any, ...]:
    """The least key of each partition, and the greatest of the last; as many None if unknown."""
    bounds = [place.bounds for place in whole.places]
    if None in bounds:
        return (None,) * (len(whole) + 1)
    return (*(lower for lower, _ in bounds), bounds[-1][1])


def _opened(whole: Any) -> list[Any]:
    """What stands for the value of each partition in a Dask graph."""
    partitions, key = whole.partitions, whole.key
    scheduler = _scheduler()
    if scheduler is None:  # threads or processes of this host
        return [lazily(_read)(int(p.id or 0), key) for p in partitions]
    beside = scheduler.run(_worker)
    _warn_of_pages(beside, partitions)
    futures = []
    for p in partitions:
        workers = [address for address, (number, _) in beside.items() if number == p.instance]
        futures.append(
            scheduler.submit(
                _read,
                int(p.id or 0),
                key,
                workers=workers or None,
                allow_other_workers=bool(workers),
                pure=False,
            )
        )
    return futures


def _warn_of_pages(beside: dict[str, tuple[int, float]], partitions: Sequence[Partition]) -> None:
    """Say so if a worker that maps all that is beside it looks as if it ran out of memory."""
    for number in {p.instance for p in partitions}:
        limits = [limit for owner, limit in beside.values() if owner == number]
        nbytes = sum(p.nbytes for p in partitions if p.instance == number)
        if limits and nbytes / len(limits) > min(limits):
            warnings.warn(
                f"{nbytes:,} bytes of shared pages count as memory of {len(limits)} workers beside"
                f" instance {number:06x}, which Dask spills, pauses or restarts from"
                f" {min(limits):,.0f} on: raise or switch off distributed.worker.memory.target,"
                " spill, pause and terminate",
                SharedPagesWarning,
                stacklevel=4,
            )


# ---- on workers


def _worker(dask_worker: Any) -> tuple[int, float]:
    """The instance beside this worker, and the bytes from which Dask acts on its memory."""
    manager = dask_worker.memory_manager
    fractions = [
        getattr(manager, f"memory_{name}_fraction", None) for name in ("target", "spill", "pause")
    ]
    fractions.append(dask.config.get("distributed.worker.memory.terminate", None))
    given = [fraction for fraction in fractions if fraction]
    limit = manager.memory_limit
    acts = min(given) * limit if given and limit else float("inf")
    return default_client().instance, acts


def _read(object_id: int, key: str | None = None) -> Any:
    return _indexed(_pandas(default_client().get(object_id, fetch=True)), key)


def _indexed(frame: Any, key: str | None) -> Any:
    """The frame by the column that it is bounded by, in order, as Dask wants it."""
    if key is not None and frame.index.name != key:
        frame = frame.set_index(key)
    if key is not None and not frame.index.is_monotonic_increasing:
        frame = frame.sort_index()
    return frame


def _put(value: Any, default: Any) -> tuple[ObjectID, Any]:
    """Put a result where it was computed; its id, and `_bounds`."""
    client = default_client()
    object_id = client.put(value)
    try:
        client.persist(object_id)
        return object_id, _bounds(value, default)
    except BaseException:
        client.delete(object_id)
        raise


def _bounds(value: Any, default: Any) -> Any:
    """The least and the greatest of its index; ``default`` twice if it has no rows.

    None where that is None: Dask knows no divisions.
    """
    if default is None:
        return None
    return (value.index.min(), value.index.max()) if len(value) else (default, default)


def _pandas(value: Any) -> Any:
    """A table or polars frame as a pandas frame over the same memory; all else as it is."""
    import pandas as pd

    if type(value).__module__.partition(".")[0] == "polars":
        value = value.to_arrow()
    if isinstance(value, pa.Table | pa.RecordBatch):
        return value.to_pandas(types_mapper=pd.ArrowDtype)
    return value


def _array(whole: GlobalTensor, parts: Sequence[Any]) -> Any:
    import dask.array as da

    sizes = [len(each) for each in whole.chunks]
    blocks = np.empty(sizes, object)
    starts = [np.cumsum([0, *each]).tolist() for each in whole.chunks]
    for place, part in zip(whole.places, parts, strict=True):
        at = tuple(starts[axis].index(start) for axis, start in enumerate(place.offset))
        delayed = lazily(part) if not hasattr(part, "dask") else part
        blocks[at] = da.from_delayed(delayed, place.shape, dtype=whole.dtype)
    return da.block(blocks.tolist())
