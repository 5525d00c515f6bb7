"""Where objects of a cluster live, and how they go from one instance to another.

An id says which instance owns it, the cluster where that is. What is reached by its socket is met
there, all else over TCP. A copy has a label with the id that it is a copy of, by which it is found
the next time.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from .config import client_config, cluster_keys
from .errors import (
    AccessDeniedError,
    ConfigError,
    ConnectionLostError,
    InvalidObjectError,
    ObjectNotFoundError,
)
from .ipc.connection import seconds
from .migration import endpoint as e
from .migration import pair
from .migration.ends import ForkServer
from .migration.landing import ORIGIN
from .migration.line import find_codec
from .migration.transports import find_transport
from .objects import InstanceInfo, ObjectID

if TYPE_CHECKING:
    from .client import Client
    from .rpc.remote import Remote

__all__ = ["copied_to", "fetched", "migrate", "owner_of", "reached"]


class Roads:
    """What a client keeps for the next time: a server of ends, and connections over TCP."""

    def __init__(self) -> None:
        self.server = ForkServer()
        self._far: dict[int, Client] = {}
        self._lock = threading.Lock()

    def over_tcp(self, client: Client, info: InstanceInfo) -> Client:
        """A client of an instance that is on another host; closed with this."""
        from .client import connect

        with self._lock:
            found = self._far.get(info.number)
            if found is None:
                keys = cluster_keys(client._keys)
                found = connect(
                    rpc=info.rpc,
                    timeout_s=client._a.timeout_s,
                    token=keys.token,
                    tls_root_certs=keys.tls_root_certs,
                )
                if found.instance != info.number:
                    found.close()
                    number = f"{info.number:06x}"
                    raise ConnectionLostError(
                        f"{info.rpc} is another instance here than {number} on {info.host}",
                        "start its daemon with an --rpc-advertise by which this host reaches it",
                    )
                self._far[info.number] = found
            return found

    def close(self) -> None:
        """End all of it."""
        self.server.close()
        with self._lock:
            for far in self._far.values():
                far.close()
            self._far.clear()


def _roads(client: Client) -> Roads:
    roads: Roads | None = client._roads
    if roads is None:
        roads = client._roads = Roads()
    return roads


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
    beside = _beside(client, info)
    if beside is not None:
        with beside:
            yield beside
        return
    if not info.rpc:
        raise ConnectionLostError(
            f"instance {info.number:06x} on {info.host} is not reached from here",
            "start its daemon with --rpc",
        )
    yield _roads(client).over_tcp(client, info)


def _beside(client: Client, info: InstanceInfo) -> Client | None:
    """A client of an instance on this host, or None."""
    from .client import connect

    if not Path(info.socket).exists():
        return None
    with contextlib.suppress(ConfigError, AccessDeniedError, ConnectionLostError):
        far = connect(info.socket, autostart=False, timeout_s=client._a.timeout_s)
        if far.instance == info.number:
            return far
        far.close()  # another host's has that path
    return None


# ---- migration


def migrate(
    source: Client,
    key: int | str,
    *,
    to: Client | int | InstanceInfo | str | os.PathLike[str],
    transport: str = "tcp",
    compression: str | None = None,
    progress: Callable[[int, int], Any] | None = None,
    timeout_s: float | None = None,
) -> ObjectID:
    """Copy an object with all its members to another instance; see `Client.migrate`."""
    root = ObjectID(source._resolve(key))
    source._a.describe(root)  # that it is there
    find_transport(transport)
    find_codec(compression)
    limit = source._a.timeout_s if timeout_s is None else seconds(timeout_s)
    _roads(source).server.prepare()  # while the other instance is reached
    with _destination(source, to) as site:
        if site is None:
            return root
        return pair.migrate(
            _site(source, source),
            root,
            site,
            transport=transport,
            codec=compression,
            progress=progress,
            timeout_s=limit,
        )


@contextlib.contextmanager
def _destination(source: Client, to: Any) -> Iterator[pair.Site | None]:
    """The site that ``to`` stands for; None for the source's own."""
    from .client import Client

    here = source._a.socket
    if isinstance(to, str | os.PathLike):
        socket = client_config(socket=os.fspath(to)).socket
        same = isinstance(here, Path) and here.resolve() == socket.resolve()
        yield None if same else pair.Here(_roads(source).server, e.Place(str(socket)))
    elif isinstance(to, Client):
        yield None if _is_same(source, to) else _site(source, to)
    else:
        info = _instance(source, to)
        if info.number == source.instance:
            yield None
        else:
            with reached(source, info) as far:
                yield _site(source, far)


def _is_same(one: Client, other: Client) -> bool:
    places = one._a.socket, other._a.socket
    if all(isinstance(place, Path) for place in places):
        return Path(places[0]).resolve() == Path(places[1]).resolve()
    return one.instance == other.instance


def _instance(client: Client, to: Any) -> InstanceInfo:
    """An instance of the cluster by its number or record."""
    number = to.number if isinstance(to, InstanceInfo) else to
    if isinstance(number, int) and not isinstance(number, bool):
        for info in client.instances():
            if info.number == number:
                return info if to is number else to
        raise InvalidObjectError(
            f"{number} is no destination: the cluster has no such instance",
            "instances() tells which there are",
        )
    raise InvalidObjectError(
        f"a {type(to).__name__} is no destination",
        "use the number or record of an instance, a client, or the path of a socket",
    )


def _site(owner: Client, client: Client) -> pair.Site:
    """The site of a client's store, for ends that end with ``owner``."""
    socket = client._a.socket
    if isinstance(socket, Path):
        return pair.Here(_roads(owner).server, e.Place(str(socket)))
    from .rpc.ends import There

    return There(cast("Remote", client._a))


def fetched(client: Client, object_id: ObjectID, timeout_s: float | None = None) -> ObjectID:
    """The id, in the client's store, of a copy of an object of another instance.

    Parameters
    ----------
    timeout_s : float, optional
        Wait that long for it to appear there.

    Raises
    ------
    ObjectNotFoundError
        If there is none, or its instance is not in the cluster.
    ConnectionLostError
        If that is not reached.
    """
    for meta in client.list_objects(labels={ORIGIN: str(object_id)}, limit=1):
        assert meta.id is not None
        return meta.id
    owner = owner_of(client, object_id)
    _roads(client).server.prepare()  # while that is reached
    with reached(client, owner) as far:
        if timeout_s:
            far._a.wait_for(object_id, timeout_s)
        else:
            far._a.describe(object_id)  # that it is there
        return pair.migrate(
            _site(client, far),
            object_id,
            _site(client, client),
            transport="tcp",
            codec=None,
            progress=None,
            timeout_s=client._a.timeout_s,
        )


def copied_to(to: Client, source: Client, object_id: ObjectID) -> tuple[ObjectID, bool]:
    """The id of a copy in the store of ``to``, and whether it is new."""
    for meta in to.list_objects(labels={ORIGIN: str(object_id)}, limit=1):
        assert meta.id is not None
        return meta.id, False
    return migrate(source, object_id, to=to), True
