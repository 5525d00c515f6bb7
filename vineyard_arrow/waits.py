"""Requests that are answered later, each with a deadline.

Knows no sockets and not what is waited for. Single-threaded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from .sessions import Session

MAX_WAIT_S = 365 * 86400.0


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
        self._counts: Counter[type] = Counter()

    def count(self, kind: type) -> int:
        """How many wait with a request of this kind."""
        return self._counts[kind]

    def of(self, session: Session) -> Wait | None:
        """What a session waits for."""
        return self._waits.get(session)

    def all(self, kind: type) -> list[Wait]:
        """All that wait with a request of this kind."""
        return [wait for wait in self._waits.values() if type(wait.request) is kind]

    def add(self, session: Session, number: int, request: Any) -> None:
        """Answer within the request's ``timeout_s``; what the session waited for it gave up."""
        before = self._waits.get(session)
        if before is not None:
            self.forget(before)
        delay_s = max(min(request.timeout_s, MAX_WAIT_S), 0)
        timer = self._call_later(delay_s, lambda: self._expired(wait))
        wait = self._waits[session] = Wait(session, number, request, timer)
        self._counts[type(request)] += 1
        self._changed()

    def forget(self, wait: Wait) -> None:
        """Answer no more."""
        wait.timer.cancel()
        if self._waits.get(wait.session) is wait:
            del self._waits[wait.session]
            self._counts[type(wait.request)] -= 1
            self._changed()

    def answer(self, wait: Wait, reply: Any) -> None:
        """Answer now, and do the books later."""
        wait.session.send(wait.number, reply, [])
        self.forget(wait)
