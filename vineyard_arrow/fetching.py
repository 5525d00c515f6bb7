"""Where objects of a cluster live, and how they come from there.

An id says which instance owns it, the cluster where that is. What is reached by its socket
migrates; what is reached over TCP alone is got, and put here. Either copy has a label with the
id that it is a copy of, by which it is found the next time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import (
    AccessDeniedError,
    ConfigError,
    ConnectionLostError,
    ObjectNotFoundError,
)
from .migration.landing import ORIGIN
from .objects import InstanceInfo, ObjectID

if TYPE_CHECKING:
    from .client import Client

__all__ = ["fetched", "owner_of", "reached"]


def owner_of(client: Client, object_id: ObjectID) -> InstanceInfo:
    """See `Client.where`."""
    for info in client.instances():
        if info.number == object_id.instance:
            return info
    raise ObjectNotFoundError(
        f"{object_id} is of instance {object_id.instance:06x}, which is not in the cluster",
        "it has left, or was started anew, and its objects are gone",
    )


@contextlib.contextmanager
def reached(client: Client, info: InstanceInfo) -> Iterator[Client]:
    """A client of another instance: by its socket if that is on this host, else over TCP.

    Raises
    ------
    ConnectionLostError
        If it is reached by neither.
    """
    from .client import connect

    timeout_s = client._a.timeout_s
    far = None
    if Path(info.socket).exists():
        with contextlib.suppress(ConfigError, AccessDeniedError, ConnectionLostError):
            far = connect(info.socket, autostart=False, timeout_s=timeout_s)
        if far is not None and far.instance != info.number:  # another host's has that path
            far.close()
            far = None
    if far is None and info.rpc:
        far = connect(rpc=info.rpc, timeout_s=timeout_s)
        if far.instance != info.number:  # an address that means something else here
            far.close()
            raise ConnectionLostError(
                f"{info.rpc} is another instance here than {info.number:06x} on {info.host}",
                "start its daemon with an --rpc address that this host reaches it by",
            )
    if far is None:
        raise ConnectionLostError(
            f"instance {info.number:06x} on {info.host} is not reached from here",
            "start its daemon with --rpc",
        )
    with far:
        yield far


def fetched(client: Client, object_id: ObjectID) -> ObjectID:
    """The id, in the client's store, of a copy of an object of another instance.

    Raises
    ------
    ObjectNotFoundError
        If there is none, or its instance is not in the cluster.
    ConnectionLostError
        If that is not reached.
    """
    copy = _copy_of(object_id, client)
    if copy is not None:
        return copy
    with reached(client, owner_of(client, object_id)) as far:
        return copied_to(client, far, object_id)[0]


def copied_to(to: Client, source: Client, object_id: ObjectID) -> tuple[ObjectID, bool]:
    """The id of a copy in the store of ``to``, and whether it is new."""
    known = _copy_of(object_id, to)
    if known is not None:
        return known, False
    if all(isinstance(each._a.socket, Path) for each in (to, source)):
        return source.migrate(object_id, to=to), True
    copy = to.put(source.get(object_id))
    to.label(copy, {ORIGIN: str(object_id)})
    return copy, True


def _copy_of(object_id: ObjectID, client: Client) -> ObjectID | None:
    """The copy of an object that a store has already."""
    return next((m.id for m in client.list_objects(labels={ORIGIN: str(object_id)}, limit=1)), None)
