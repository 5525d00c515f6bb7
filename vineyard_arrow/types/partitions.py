"""What values of several objects have in common: names of members, and what opens others."""

from __future__ import annotations

from typing import Any, NoReturn

from ..errors import InvalidObjectError
from ..objects import ObjectID
from ..partitions import Open
from ..registry import Encoder, StoredObject

__all__ = ["opener", "prefix_of", "refuse"]


def prefix_of(encoder: Encoder) -> dict[str, str]:
    """Of the names of members, where other values of the same object have some already."""
    return {"prefix": f"{len(encoder.parts)}/"} if encoder.members else {}


def refuse(value: Any, encoder: Encoder) -> NoReturn:
    """The builder of global objects, which are of the cluster and not of a store."""
    raise InvalidObjectError(
        f"a {type(value).__name__} is put by create_global", "give it this, or the object_ids"
    )


def opener(stored: StoredObject) -> Open:
    """What opens other objects as this one was got."""
    source = stored.source
    if source is None:
        raise InvalidObjectError("these parts came from no store: they have no partitions")
    options = {"mode": stored.mode, "trusted": stored.trusted}
    options["validate"] = "full" if stored.validate else "structure"

    def open_(index: int, object_id: ObjectID, fetch: bool) -> Any:
        if fetch:
            return source.get_fetched(stored, object_id)
        return source.get_object(object_id).get(**options)

    return open_
