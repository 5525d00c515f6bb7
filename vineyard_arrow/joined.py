"""Global tables, frames and tensors are made here, of partitions on several instances.

Partitions are looked at where they live: their owner says whether the cluster knows them, and
what they are. How the whole is described is in `types.distributed`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .composition import create_global
from .distributed import GlobalDataFrame, GlobalTable, GlobalTensor, Place, kind_of, shape_of
from .errors import InvalidObjectError, ObjectNotFoundError
from .ipc import protocol as p
from .objects import ObjectID, ObjectMeta

if TYPE_CHECKING:
    from .client import Client

__all__ = ["create_of_partitions", "same_kind"]


def create_of_partitions(
    client: Client,
    partitions: Sequence[Any],
    *,
    key: str | None,
    bounds: Sequence[tuple[Any, Any]] | None,
    offsets: Sequence[Sequence[int]] | None,
    name: str | None,
    labels: Mapping[str, str],
    timeout_s: float,
) -> ObjectMeta:
    """See `Client.create_global`."""
    if isinstance(partitions, str | int) or not isinstance(partitions, Sequence) or not partitions:
        raise InvalidObjectError("a global object of no partitions", "give a list of them")
    for what, given in (("bounds", bounds), ("offsets", offsets)):
        if given is not None and len(given) != len(partitions):
            raise InvalidObjectError(
                f"{len(given)} {what} for {len(partitions)} partitions", "give one for each"
            )
    found, ids, sizes = _looked_at(client, partitions, timeout_s)
    emptied = [_empty(value) for value in found]
    kind = _same(emptied)
    _check_key(emptied[0], kind, key, bounds)
    places, start = [], 0
    for i, value in enumerate(found):
        shape = shape_of(value)
        offset = (start, *[0] * (len(shape) - 1)) if offsets is None else tuple(offsets[i])
        both: Any = None if bounds is None else tuple(bounds[i])
        places.append(Place(sizes.get(i, 0), shape, offset, both))
        start += shape[0]
    cls = {"table": GlobalTable, "numpy": GlobalTensor}.get(kind, GlobalDataFrame)
    cls.of([ObjectID(0)] * len(places), places, emptied[0], key, None)  # checks that they fit
    new = [i for i in range(len(found)) if i not in ids]
    ids |= zip(new, client.put_many([found[i] for i in new]), strict=True)
    try:
        from .types.distributed import described

        sizes |= {i: client.get_meta(ids[i]).nbytes for i in new}
        places = [
            Place(sizes[i], each.shape, each.offset, each.bounds) for i, each in enumerate(places)
        ]
        meta = described(client, cls.of([*ids.values()], places, emptied[0], key, None))
        for i in range(len(places)):
            meta.add_member(str(i), ids[i])
        return create_global(client, meta, name, labels, timeout_s)
    except BaseException:
        if new:
            client.delete([ids[i] for i in new])
        raise


def _looked_at(
    client: Client, partitions: Sequence[Any], timeout_s: float
) -> tuple[list[Any], dict[int, ObjectID], dict[int, int]]:
    """All values, and ids and sizes of those that are in a store, by index."""
    from .fetching import owner_of, reached

    values, ids, sizes = [], {}, {}
    with contextlib.ExitStack() as stack:
        clients = {client.instance: client}
        for i, given in enumerate(partitions):
            if not isinstance(given, int | str):
                kind_of(given)
                values.append(given)
                continue
            object_id = ids[i] = ObjectID(client._resolve(given))
            number = object_id.instance
            if number not in clients:
                clients[number] = stack.enter_context(reached(client, owner_of(client, object_id)))
            try:
                meta = clients[number].get_meta(object_id)
                if number != client.instance:
                    _await_known(client, i, meta, timeout_s)
            except ObjectNotFoundError as error:
                raise ObjectNotFoundError(f"partition {i}: {error.message}", error.hint) from None
            values.append(clients[number].get(object_id))
            sizes[i] = meta.nbytes
    return values, ids, sizes


def _await_known(client: Client, index: int, meta: ObjectMeta, timeout_s: float) -> None:
    """Until this instance has heard of a partition that another has persisted."""
    assert meta.id is not None
    if not meta.persisted:
        raise ObjectNotFoundError(
            f"{meta.id} is on instance {meta.id.instance:06x}, which has not persisted it",
            "persist it there first: persist(id) of a client of that instance",
        )
    with contextlib.suppress(ObjectNotFoundError):  # known, but not here
        client._a.ask(p.Find(int(meta.id), None, timeout_s), timeout_s)


def _check_key(
    empty: Any, kind: str, key: str | None, bounds: Sequence[tuple[Any, Any]] | None
) -> None:
    """Raise unless bounds are of something that the partitions have."""
    if bounds is None:
        if key is not None:
            raise InvalidObjectError(f"no bounds of {key!r}", "give both bounds and key")
        return
    if key is None:
        if kind != "pandas":
            raise InvalidObjectError("bounds are of a column", "name it by key")
        return
    names = list(empty.schema.names if kind == "table" else getattr(empty, "columns", ()))
    if key not in names and not (kind == "pandas" and key == empty.index.name):
        raise InvalidObjectError(
            f"the partitions have no column {key!r}", f"bounds are of one of {names}"
        )


def _empty(value: Any) -> Any:
    kind = kind_of(value)
    if kind == "table":
        return value.schema.empty_table()
    if kind == "numpy":
        return np.empty((0,) * value.ndim, value.dtype)
    return value.iloc[:0].copy() if kind == "pandas" else value.clear()


def same_kind(values: Sequence[Any]) -> str:
    """The kind of values that may be partitions of one whole; InvalidObjectError if they differ."""
    return _same([_empty(value) for value in values])


def _same(emptied: Sequence[Any]) -> str:
    """The kind of all of them; InvalidObjectError if they differ."""
    first = emptied[0]
    kind = kind_of(first)
    for i, each in enumerate(emptied):
        same = kind_of(each) == kind
        if same and kind == "table":
            same = each.schema.equals(first.schema)
        elif same and kind == "numpy":
            same = each.dtype == first.dtype and each.ndim == first.ndim
        elif same and kind == "pandas":
            same = each.dtypes.equals(first.dtypes)
        elif same:
            same = each.schema == first.schema
        if not same:
            raise InvalidObjectError(f"partition {i} is of another type or schema than the first")
    return kind
