"""What the tasks of a workflow give each other, by name: for the managers of `dagster`, `kedro`
and `airflow` here. Knows none of them.

A name stands for the latest value put by it. It is free for a moment while that changes, so each
value also has it as a label, by which readers find it then.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Literal

from ..client import connect
from ..errors import (
    ConfigError,
    ConnectionLostError,
    ObjectExistsError,
    ObjectInUseError,
    ObjectNotFoundError,
)
from ..fetching import reached
from ..migration.landing import ORIGIN
from ..objects import ObjectID, ObjectMeta

if TYPE_CHECKING:
    from ..client import Client, Mode
    from ..registry import Form

__all__ = ["EVERY", "NAME", "Outputs"]

NAME = "vineyard.output"  # a label: the name that a value was put by
EVERY = 1 << 30  # objects of a list
_TRIES = 20  # of a step that others get in the way of


class Outputs:
    """Values by name in one store; pickled, it is where that is.

    A client is kept from the first use to `close`. What was read stays valid after that; but what
    is put while it is open shares the memory of what was read, and is copied later.

    Parameters
    ----------
    socket : str or path, optional
        As in `vineyard_arrow.connect`, also ``"host:port"``.
    """

    def __init__(self, socket: Any = None) -> None:
        self.socket = socket
        self._client: Client | None = None

    def client(self, *, start: Literal[False] | None = False) -> Client:
        """The client; ``start=None`` starts a daemon where the settings allow that.

        Raises
        ------
        ConfigError
            If no daemon listens, and none is started.
        """
        client = self._client
        if client is None or client._attached is None or not client._attached.alive:
            self.close()
            client = self._client = connect(self.socket, autostart=start)
        return client

    def close(self) -> None:
        """Close the client, until it is needed again."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def put(self, name: str, value: Any) -> ObjectMeta:
        """Store a value by a name, for the whole cluster; what had the name is deleted.

        Returns its metadata, as they were before it was named.

        The value is stored first: if that fails, the old one stays. Who still reads the old one
        keeps its memory. The old one also stays, without the name, if it is a member of others.

        Raises
        ------
        StoreFullError, InvalidObjectError
            As `Client.put`.
        """
        client = self.client(start=None)
        new = client.put(value, labels={NAME: name})
        try:
            client.persist(new)
            meta = client.get_meta(new)  # once it has the name, another's may replace it
        except BaseException:
            _delete(client, new)
            raise
        _take_name(client, name, new)
        return meta

    def get(self, name: str, *, as_: Form | None = None, mode: Mode = "ro") -> Any:
        """The value of a name, as `Client.get` gives it; fetched from another instance once.

        Raises
        ------
        ObjectNotFoundError
            If there is none, or no daemon.
        """
        try:
            client = self.client()
        except ConfigError as error:
            raise ObjectNotFoundError(f"{name!r} is not there: {error.message}", _HINT) from error
        why = "it is not in the store"
        for _ in range(_TRIES):
            key = _find(client, name)
            if key is None:
                break
            try:
                return client.get(key, as_=as_, mode=mode, fetch=True)
            except ObjectNotFoundError as error:  # perhaps replaced meanwhile
                why = error.message
        raise ObjectNotFoundError(f"{name!r} is not there: {why}", _HINT)

    def exists(self, name: str) -> bool:
        """Whether there is a value of this name; False without a daemon, too."""
        try:
            return _find(self.client(), name) is not None
        except ConfigError:
            return False

    def remove(self, key: str | ObjectID) -> None:
        """Delete a value, and the copies of it that other instances fetched, if it is there."""
        with contextlib.suppress(ConfigError):
            found = _find(self.client(), key) if isinstance(key, str) else key
            if found is not None:
                _delete(self.client(), found)

    def list(self, pattern: str) -> list[ObjectMeta]:
        """Values that have names which ``pattern`` matches, as in a shell; of the whole cluster."""
        try:
            found = self.client().list_objects(pattern, limit=EVERY, cluster=True)
        except ConfigError:
            return []
        return [meta for meta in found if NAME in meta.labels]

    def __getstate__(self) -> dict[str, Any]:
        return {"socket": self.socket, "_client": None}


_HINT = "the store keeps it while its daemon runs: run what makes it again, on the same store"


def _find(client: Client, name: str) -> ObjectID | None:
    with contextlib.suppress(ObjectNotFoundError):
        return client.get_name(name)
    found = client.list_objects(labels={NAME: name}, limit=EVERY, cluster=True)
    return max(found, key=lambda meta: meta.created).id if found else None


def _take_name(client: Client, name: str, new: ObjectID) -> None:
    """Let a name point to an object instead of another, which goes; or delete the new one."""
    elsewhere: list[ObjectID] = []
    is_last = False  # of this name
    try:
        for attempt in range(_TRIES):
            try:
                client.put_name(new, name)
                break
            except ObjectExistsError:
                if attempt == _TRIES - 1:
                    raise
            with contextlib.suppress(ObjectNotFoundError):
                old = client.get_name(name)
                if old.instance == client.instance:
                    # Its name goes with it: not with one that came meanwhile.
                    _delete(client, old)
                else:
                    elsewhere.append(old)
                if client.get_name(name) == old:
                    client.drop_name(name)
                is_last = True
    except BaseException:
        if not is_last:
            _delete(client, new)
        raise
    for old in elsewhere:
        _delete(client, old)


def _delete(client: Client, object_id: ObjectID) -> None:
    """Delete an object on the instance that owns it, and copies on others that can be reached.

    What is a member of another object stays.
    """
    instances = client.instances()
    for info in instances:
        there: Any = contextlib.nullcontext(client)
        if info.number != client.instance:
            there = reached(client, info)
        with contextlib.suppress(ConnectionLostError), there as far:
            ids = [object_id] if info.number == object_id.instance else []
            if len(instances) > 1:
                copies = far.list_objects(labels={ORIGIN: str(object_id)}, limit=EVERY)
                ids += [meta.id for meta in copies]
            for each in ids:
                with contextlib.suppress(ObjectNotFoundError, ObjectInUseError):
                    far.delete(each)
