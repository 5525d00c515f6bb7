"""What the tasks of a workflow give each other, by name: for the managers of `dagster`, `kedro`
and `airflow` here. Knows none of them.

A name stands for the latest value put by it.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Literal

from ..client import connect
from ..errors import (
    ConfigError,
    ConnectionLostError,
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

NAME = "vineyard.output"  # a label of all these: the name that a value was put by
EVERY = 1 << 30  # objects of a list
_TRIES = 20  # of a read that others get in the way of


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
            old = client.put_name(new, name, overwrite=True)
        except BaseException:
            _delete(client, new)
            raise
        if old is not None:
            _delete(client, old)
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
        for attempt in range(_TRIES):
            try:
                key = client.get_name(name)
            except ObjectNotFoundError as error:
                raise ObjectNotFoundError(f"{name!r} is not there", _HINT) from error
            try:
                return client.get(key, as_=as_, mode=mode, fetch=True)
            except ObjectNotFoundError as error:  # perhaps replaced meanwhile
                if attempt == _TRIES - 1:
                    raise ObjectNotFoundError(
                        f"{name!r} is not there: {error.message}", _HINT
                    ) from error
        raise AssertionError

    def exists(self, name: str) -> bool:
        """Whether there is a value of this name; False without a daemon, too."""
        try:
            self.client().get_name(name)
        except (ConfigError, ObjectNotFoundError):
            return False
        return True

    def remove(self, key: str | ObjectID) -> None:
        """Delete a value, and the copies of it that other instances fetched, if it is there."""
        with contextlib.suppress(ConfigError, ObjectNotFoundError):
            client = self.client()
            _delete(client, client.get_name(key) if isinstance(key, str) else key)

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
