"""A small event loop on epoll: readers, writers, timers, one thread.

asyncio would do, but costs more for each event than the daemon takes to serve it (a small
put took 1.5 times as long over it). Knows nothing of what it runs.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator

log = logging.getLogger("vineyard_arrow.loop")

Callback = Callable[[], object]
MAX_POLL_S = 3600.0  # epoll counts milliseconds in 31 bits


class Timer:
    """A call to come; `cancel` forgets it."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callback) -> None:
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        """Do not call. May be called twice, or too late."""
        self.callback = None


class Loop:
    """Runs callbacks until `stop`. An exception in one is logged and ends nothing."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._readers: dict[int, Callback] = {}
        self._writers: dict[int, Callback] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._stopping = False

    def add_reader(self, fd: int, callback: Callback) -> None:
        """Call when ``fd`` is readable, or its peer is gone."""
        self._change(fd, self._readers, callback)

    def remove_reader(self, fd: int) -> None:
        """No longer; nothing happens if it was not watched."""
        self._change(fd, self._readers, None)

    def add_writer(self, fd: int, callback: Callback) -> None:
        """Call when ``fd`` is writable."""
        self._change(fd, self._writers, callback)

    def remove_writer(self, fd: int) -> None:
        """No longer; nothing happens if it was not watched."""
        self._change(fd, self._writers, None)

    def forget(self, fd: int) -> None:
        """Neither any longer."""
        if (self._readers.pop(fd, None) or self._writers.pop(fd, None)) is not None:
            self._writers.pop(fd, None)
            self._epoll.unregister(fd)

    def _change(self, fd: int, table: dict[int, Callback], callback: Callback | None) -> None:
        known = fd in self._readers or fd in self._writers
        if callback is None:
            table.pop(fd, None)
        else:
            table[fd] = callback
        events = (select.EPOLLIN if fd in self._readers else 0) | (
            select.EPOLLOUT if fd in self._writers else 0
        )
        if events and known:
            self._epoll.modify(fd, events)
        elif events:
            self._epoll.register(fd, events)
        elif known:
            self._epoll.unregister(fd)

    def call_later(self, delay_s: float, callback: Callback) -> Timer:
        """Call once, ``delay_s`` seconds from now."""
        timer = Timer(callback)
        heapq.heappush(self._timers, (time.monotonic() + delay_s, next(self._order), timer))
        return timer

    def stop(self) -> None:
        """Leave `run` after the callback under way."""
        self._stopping = True

    def run(self) -> None:
        """Run until `stop`."""
        while not self._stopping:
            for fd, events in self._epoll.poll(self._run_timers()):
                # One callback may have closed what another waited for.
                if events & ~select.EPOLLOUT and fd in self._readers:
                    self._call(self._readers[fd])
                if events & ~select.EPOLLIN and fd in self._writers:
                    self._call(self._writers[fd])
                if self._stopping:
                    return

    def _run_timers(self) -> float:
        """Call what is due; return the seconds until the next, -1 if there is none."""
        while self._timers:
            due, _, timer = self._timers[0]
            if timer.callback is not None:
                left = due - time.monotonic()
                if left > 0:
                    return min(left, MAX_POLL_S)
            heapq.heappop(self._timers)
            if timer.callback is not None:
                self._call(timer.callback)
                if self._stopping:
                    return 0
        return -1

    def _call(self, callback: Callback) -> None:
        try:
            callback()
        except Exception:
            log.exception("a callback failed")

    @contextlib.contextmanager
    def stopped_by(self, *signals: int) -> Iterator[None]:
        """Within the block, these signals stop the loop."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        before = {number: signal.signal(number, lambda *_: None) for number in signals}
        old = signal.set_wakeup_fd(theirs.fileno())
        self.add_reader(ours.fileno(), self.stop)
        try:
            yield
        finally:
            self.remove_reader(ours.fileno())
            signal.set_wakeup_fd(old)
            for number, handler in before.items():
                signal.signal(number, handler)
            ours.close()
            theirs.close()

    def close(self) -> None:
        """Release the epoll descriptor."""
        self._epoll.close()
