"""The instances that a plan touches: read from, put to, and rid of all that was put if it fails.

It knows neither rows nor plans.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from ..client import Client
from ..errors import (
    ConfigError,
    ConnectionLostError,
    InvalidObjectError,
    ObjectNotFoundError,
    StoreFullError,
    VineyardArrowError,
)
from ..fetching import copied_to, reached
from ..objects import InstanceInfo, ObjectID

__all__ = ["Reach", "check_count", "numbers_of"]


class Reach:
    """A client of each instance that is asked for, as long as the block lasts.

    An error that leaves the block takes away what was put through this.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._clients = {client.instance: client}
        self._made: list[ObjectID] = []
        self._borrowed: list[ObjectID] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._stack:
            self._delete(self._borrowed if error is None else self._made + self._borrowed)
        if isinstance(error, MemoryError) and not isinstance(error, VineyardArrowError):
            raise StoreFullError(str(error)) from None  # the pool's words

    def _delete(self, ids: Sequence[ObjectID]) -> None:
        for object_id in reversed(ids):
            # Its instance may be what failed; what was borrowed may have been kept.
            with contextlib.suppress(VineyardArrowError):
                self.client(object_id.instance).delete(object_id)

    def client(self, number: int) -> Client:
        """A client of an instance.

        Raises
        ------
        ObjectNotFoundError
            If it is not in the cluster.
        ConnectionLostError
            If it is not reached.
        """
        if number not in self._clients:
            info = next((i for i in self._client.instances() if i.number == number), None)
            if info is None:
                raise ObjectNotFoundError(
                    f"instance {number:06x} is not in the cluster",
                    "it has left, or was started anew, and its objects are gone",
                )
            self._clients[number] = self._stack.enter_context(reached(self._client, info))
        return self._clients[number]

    def get(self, object_id: ObjectID) -> Any:
        """The value of an object, mapped where it is; over TCP if it cannot be."""
        return self.client(object_id.instance).get(object_id)

    def pool(self, number: int) -> Any:
        """Where to build what is to be put to an instance."""
        return self.client(number).memory_pool

    def put(self, number: int, values: Sequence[Any]) -> list[ObjectID]:
        """Put values to an instance, for the cluster to know."""
        try:
            ids = self.client(number).put_many(values)
            self._made += ids
            if number != self._client.instance and ids:
                self.client(number).persist(ids)
        except ConnectionLostError as error:
            raise ConnectionLostError(
                f"instance {number:06x}: {error.message}", "nothing is kept; plan anew without it"
            ) from error
        return ids

    def note(self, ids: Iterable[int]) -> None:
        """What else goes if the block fails: the first last."""
        self._made += map(ObjectID, ids)

    def placed(self, object_id: ObjectID | None, number: int) -> ObjectID:
        """The object on an instance, persisted: itself, or a copy, which may be there already."""
        assert object_id is not None
        to = self.client(number)
        if object_id.instance != number:
            source = self.client(object_id.instance)
            object_id, is_new = copied_to(to, source, object_id)
            if is_new:
                self._made.append(object_id)
        if number != self._client.instance:
            to.persist(object_id)
        return object_id

    def borrow(self, object_id: ObjectID, number: int) -> None:
        """Copy an object to an instance until the block ends, unless a copy is there."""
        copy, is_new = copied_to(self.client(number), self.client(object_id.instance), object_id)
        if is_new:
            self._borrowed.append(copy)


def numbers_of(over: Any) -> list[int] | None:
    """The instances that a user named, by number; each once.

    Raises
    ------
    ConfigError
        If they are none, or no instances.
    """
    if over is None:
        return None
    several = [over] if isinstance(over, int | InstanceInfo | Client) else over
    if not isinstance(several, Iterable) or isinstance(several, str | bytes):
        raise ConfigError(f"over={over!r} are no instances", "see Client.instances()")
    numbers = []
    for each in several:
        number = getattr(each, "number", getattr(each, "instance", each))
        if isinstance(number, bool) or not isinstance(number, int):
            raise ConfigError(f"over={each!r} is no instance", "see Client.instances()")
        numbers.append(int(number))
    if not numbers:
        raise ConfigError("over no instances", "see Client.instances()")
    return list(dict.fromkeys(numbers))


def check_count(n: Any, most: int = 65_536) -> int:
    """How many partitions were asked for.

    Raises
    ------
    InvalidObjectError
        If that is no number from 1 to ``most``.
    """
    try:
        count = n.__index__()
    except (AttributeError, TypeError):
        count = 0
    if isinstance(n, bool) or not 1 <= count <= most:
        raise InvalidObjectError(f"{n!r} partitions", f"take 1 to {most:,}")
    return int(count)
