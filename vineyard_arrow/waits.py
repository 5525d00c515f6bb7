"""Requests that are answered later, each with a deadline.

Knows no sockets, and of what is waited for only what it is called. Single-threaded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from .sessions import Session

MAX_WAIT_S = 365 * 86400.0
Key = int | str  # an id or a name


class Timer(Protocol):
    """A call to come."""

    def cancel(self) -> None:
        """Do not call."""


@dataclass(slots=True, eq=False)
class Wait:
    """A request of a session that waits."""

    session: Session
    number: int
    request: Any
    key: Key  # what it waits for
    timer: Timer


class Waits:
    """What sessions wait for: one thing at a time each.

    Parameters
    ----------
    call_later
        ``call_later(seconds, function)`` of the event loop.
    changed
        Called when a wait begins or ends.
    expired
        Called with a wait whose deadline passed, to answer it.
    """

    def __init__(
        self,
        call_later: Callable[[float, Callable[[], None]], Timer],
        changed: Callable[[], None],
        expired: Callable[[Wait], None],
    ) -> None:
        self._call_later = call_later
        self._changed = changed
        self._expired = expired
        self._waits: dict[Session, Wait] = {}
        self._by_key: dict[Key, list[Wait]] = {}
        self._counts: Counter[type] = Counter()

    def count(self, kind: type) -> int:
        """How many wait with a request of this kind."""
        return self._counts[kind]

    def on(self, key: Key) -> Iterator[Wait]:
        """All that wait for this; those that cease to meanwhile are left out."""
        for wait in list(self._by_key.get(key, ())):
            if self._waits.get(wait.session) is wait:
                yield wait

    def add(self, session: Session, number: int, request: Any, key: Key) -> None:
        """Answer within the request's ``timeout_s``; what the session waited for it gave up."""
        self.leave(session)
        delay_s = max(min(request.timeout_s, MAX_WAIT_S), 0)
        timer = self._call_later(delay_s, lambda: self._expired(wait))
        wait = self._waits[session] = Wait(session, number, request, key, timer)
        self._by_key.setdefault(key, []).append(wait)
        self._counts[type(request)] += 1
        self._changed()

    def leave(self, session: Session) -> None:
        """The session waits for nothing any more."""
        wait = self._waits.pop(session, None)
        if wait is not None:
            self._forget(wait)

    def answer(self, wait: Wait, reply: Any) -> None:
        """Answer now, and do the books later."""
        del self._waits[wait.session]  # first: sending may find the session gone
        wait.session.send(wait.number, reply, [])
        self._forget(wait)

    def _forget(self, wait: Wait) -> None:
        wait.timer.cancel()
        same = self._by_key[wait.key]
        same.remove(wait)
        if not same:
            del self._by_key[wait.key]
        self._counts[type(wait.request)] -= 1
        self._changed()
