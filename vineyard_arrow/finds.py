"""Finds: who asks for an object or a name, and is told when it is there.

Knows no sockets. Single-threaded.
"""

from __future__ import annotations

from collections.abc import Callable

from .errors import DeadlineExceededError, ObjectNotFoundError, ProtocolError
from .ipc import protocol as p
from .metadata.catalog import Catalog
from .objects import ObjectID
from .sessions import Session
from .streaming import Streaming
from .waits import Timer, Wait, Waits


class Finds:
    """Answers now what is there, later what is not there yet.

    Parameters
    ----------
    catalog, streaming
        Where objects, names and streams are known.
    instance
        The number that ids of this store begin with.
    call_later
        ``call_later(seconds, function)`` of the event loop.
    take_mail
        Publishes what lies in outboxes.
    waiting
        Called when somebody begins or ceases to wait.
    name_elsewhere
        The object that a name of the cluster points to, or None.
    elsewhere
        The error for an object that is on another instance, or None.
    """

    def __init__(
        self,
        catalog: Catalog,
        streaming: Streaming,
        instance: int,
        call_later: Callable[[float, Callable[[], None]], Timer],
        take_mail: Callable[[], None],
        waiting: Callable[[], None],
        name_elsewhere: Callable[[str], int | None],
        elsewhere: Callable[[int], ObjectNotFoundError | None],
    ) -> None:
        self._catalog = catalog
        self._streaming = streaming
        self._instance = instance
        self._take_mail = take_mail
        self._name_elsewhere, self._elsewhere = name_elsewhere, elsewhere
        self._waits = Waits(call_later, waiting, self._expired)

    @property
    def waiting(self) -> int:
        """How many wait."""
        return self._waits.count(p.Find)

    def find(self, session: Session, number: int, m: p.Find) -> p.Found | None:
        """What was asked for, or None: the session is told later."""
        key = m.id if m.id is not None else m.name
        if key is None:
            raise ProtocolError("find needs an id or a name")
        found = self._catalog.find_name(key) if isinstance(key, str) else key
        if found is not None and self._catalog.is_readable(found):
            return p.Found(found)
        if isinstance(key, str) and (found := self._name_elsewhere(key)) is not None:
            return p.Found(found)
        if isinstance(key, int) and (error := self._elsewhere(key)) is not None:
            raise error
        if not m.timeout_s > 0:  # nor for NaN
            raise self.missing(key)
        self._waits.add(session, number, m, key)
        # From here on writers kick; what was left before that is here now, or in an outbox.
        self._take_mail()
        return None

    def published(self, object_id: int, name: str | None) -> None:
        """Tell who waits for an object or its name."""
        if self.waiting:
            for key in (object_id,) if name is None else (object_id, name):
                for wait in self._waits.on(key):
                    self._waits.answer(wait, p.Found(object_id))

    def left(self, session: Session) -> None:
        """A connection is gone."""
        self._waits.leave(session)

    def _expired(self, wait: Wait) -> None:
        shown = wait.key if isinstance(wait.key, str) else ObjectID(wait.key)
        error = DeadlineExceededError(f"{shown} did not appear within {wait.request.timeout_s:g} s")
        self._waits.answer(wait, p.failure(error))

    def missing(self, key: int | str) -> ObjectNotFoundError:
        """The error for an id or a name that is not there."""
        shown = repr(key if isinstance(key, str) else str(ObjectID(key)))
        if self._streaming.has(key):
            return ObjectNotFoundError(
                f"no {'name' if isinstance(key, str) else 'object'} {shown}",
                f"{shown} is a stream: open_stream({shown})",
            )
        if isinstance(key, str):
            return self._catalog.no_name(key, "get(..., timeout_s=) waits for one")
        if (error := self._elsewhere(key)) is not None:
            return error
        hint = "it may have been deleted"
        if key >> 40 != self._instance:
            hint = "its id is of another instance: was the daemon restarted since?"
        return ObjectNotFoundError(f"no object {ObjectID(key)}", hint)
