"""The connection of a writer or a reader, and how steps that wait are carried out over it.

What may wait is written once, as a generator that yields requests and is sent the replies;
`Line.run` drives it for callers that block, `Line.run_async` for event loops.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import DeadlineExceededError, InvalidObjectError
from ..ipc.attached import Attached
from ..ipc.connection import Connection, seconds

if TYPE_CHECKING:
    import asyncio

_T = TypeVar("_T")
Steps = Generator[Any, Any, _T]  # yields requests, is sent the replies


class Line:
    """A connection of a writer or a reader: one thread or task at a time, in one process."""

    def __init__(self, attached: Attached, timeout_s: float | None) -> None:
        self.attached = attached
        self.timeout_s = attached.timeout_s if timeout_s is None else seconds(timeout_s)
        self.connection: Connection = attached.side_connection()
        self.pid = os.getpid()
        self._busy = threading.Lock()

    def end_with(self, owner: object, give_back: Callable[[], None]) -> weakref.finalize[..., Any]:
        """What ends the line, and calls ``give_back``: once, and at the latest with ``owner``."""
        return weakref.finalize(owner, _end, self.connection, give_back, self.pid)

    def check(self) -> None:
        """Raise in a process that was forked from the one that opened it."""
        if os.getpid() != self.pid:
            raise InvalidObjectError(
                f"this stream was opened by process {self.pid}",
                "open or create it in the process that uses it",
            )

    def run(self, steps: Steps[_T], timeout_s: float) -> _T:
        """Carry out steps, and block while they wait."""
        self.check()
        if not self._busy.acquire(timeout=seconds(timeout_s)):
            raise DeadlineExceededError("another thread or task was using this stream")
        try:
            return self._run(steps)
        finally:
            self._busy.release()

    def _run(self, steps: Steps[_T]) -> _T:
        reply = None
        while True:
            try:
                request = steps.send(reply)
            except StopIteration as done:
                return done.value  # type: ignore[no-any-return]
            reply, _ = self.connection.request(request, self._patience(request))

    def _patience(self, request: Any) -> float:
        """How long to wait for a reply: the daemon keeps the deadline, if it is there."""
        return seconds(getattr(request, "timeout_s", 0.0)) + self.attached.timeout_s

    async def run_async(self, steps: Steps[_T]) -> _T:
        """Carry out steps, and leave the event loop to others while they wait."""
        import asyncio

        self.check()
        if not self._busy.acquire(blocking=False):
            raise InvalidObjectError("another thread or task is using this stream")
        try:
            loop = asyncio.get_running_loop()
            reply = None
            while True:
                try:
                    request = steps.send(reply)
                except StopIteration as done:
                    return done.value  # type: ignore[no-any-return]
                number = self.connection.post(request, self.attached.timeout_s)
                await self._readable(loop, self._patience(request))
                reply = self.connection.collect(number, self.attached.timeout_s)
        finally:
            self._busy.release()

    async def _readable(self, loop: asyncio.AbstractEventLoop, timeout_s: float) -> None:
        import asyncio

        fd = self.connection.fileno()
        readable = loop.create_future()
        loop.add_reader(fd, lambda: None if readable.done() else readable.set_result(None))
        try:
            await asyncio.wait_for(readable, timeout_s)
        except TimeoutError:
            raise DeadlineExceededError("the daemon did not answer in time") from None
        finally:
            loop.remove_reader(fd)


def _end(connection: Connection, give_back: Callable[[], None], pid: int) -> None:
    connection.close()
    if os.getpid() == pid:
        give_back()
