"""How partitions of global objects are kept: by id in a table, as members if they are local."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from ..errors import InvalidObjectError, ObjectNotFoundError
from ..objects import ObjectID
from ..partitions import GlobalObject, Open
from ..registry import Encoder, StoredObject

__all__ = ["opener", "prefix_of", "put_partitions", "stored_partitions"]


def prefix_of(encoder: Encoder) -> dict[str, str]:
    """Of the names of members, where other values of the same object have some already."""
    return {"prefix": f"{len(encoder.parts)}/"} if encoder.members else {}


def put_partitions(value: GlobalObject[Any], encoder: Encoder, prefix: str) -> list[int]:
    """The ids of all partitions; those that are in no store yet are put."""
    ids = []
    for index, object_id in enumerate(value.object_ids):
        name = f"{prefix}{index}"
        if object_id is None:
            object_id = encoder.put_member(name, value[index])
        else:
            try:
                encoder.add_member(name, object_id)
            except ObjectNotFoundError:  # it may live elsewhere
                new_id = encoder.new_id
                if new_id is None or object_id.instance == ObjectID(new_id()).instance:
                    raise
        ids.append(int(object_id))
    return ids


def stored_partitions(
    numbers: Sequence[int], stored: StoredObject, prefix: str
) -> tuple[list[ObjectID], Open]:
    """Ids of partitions, and what opens them. A member is known by its record.

    In an object that was copied to another instance the table has the ids of the originals.
    """
    source, handles, ids = stored.source, {}, [ObjectID(number) for number in numbers]
    assert source is not None
    for index in range(len(ids)):
        name = f"{prefix}{index}"
        if name in stored.composed_of:
            ids[index] = ObjectID(stored.composed_of[name][0])  # a copy has members of its own
            with contextlib.suppress(ObjectNotFoundError):  # which is told when it is asked for
                handles[index] = source.get_object(ids[index])  # a pin: it stays, deleted or not
    get = opener(stored)

    def open_(index: int, object_id: ObjectID, fetch: bool) -> Any:
        return get(index, object_id, fetch, handles.get(index))

    return ids, open_


def opener(stored: StoredObject) -> Any:
    """What opens other objects as this one was got; ``handle`` is held on them already."""
    source = stored.source
    if source is None:
        raise InvalidObjectError("these parts came from no store: they have no partitions")
    options = {"mode": stored.mode, "trusted": stored.trusted}
    options["validate"] = "full" if stored.validate else "structure"

    def open_(index: int, object_id: ObjectID, fetch: bool, handle: Any = None) -> Any:
        if handle is None and fetch:
            return source.get_fetched(stored, object_id)
        return (handle or source.get_object(object_id)).get(**options)

    return open_
