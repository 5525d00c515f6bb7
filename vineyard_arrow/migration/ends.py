"""Ends of migrations, from the side of who has them started, here or on another host.

`End` is what there is to see of one: reports, and its end. `ForkServer` starts those of this host.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from ..errors import (
    ConnectionLostError,
    DeadlineExceededError,
    from_code,
)
from ..ipc.starter import child_environment
from . import endpoint as e
from .forkserver import COMMAND

KEEP_S = 20.0  # a server that nobody asked for so long is not asked again
_KILL_S = 10.0


class End:
    """A sender or receiver. Leaving the context ends it, whatever it is doing.

    Parameters
    ----------
    role : {"sender", "receiver"}
    sock : socket.socket
        Where its reports come from, in lines.
    """

    def __init__(self, role: str, sock: socket.socket) -> None:
        self.role = role
        self._sock = sock
        self._said = b""
        self._reports: deque[e.Report] = deque()
        self._gone = False
        self._pid = 0
        self._handle: int | None = None  # of the process

    def begin(self, job: e.Job) -> None:
        """Give the process its job."""
        self._say(job)

    def meet(self, peer: e.Peer) -> None:
        """Tell it where the other end is, if its job says that this comes later."""
        self._say(peer)

    def _say(self, said: e.Job | e.Peer) -> None:
        with contextlib.suppress(OSError):  # it is dead, as `next` will tell
            self._sock.sendall(e.encode(said) + b"\n")

    def fileno(self) -> int:
        """What can be read when there may be a report, for `select`."""
        return self._sock.fileno()

    @property
    def has_report(self) -> bool:
        """Whether `next` returns, or raises, at once."""
        while not (self._reports or self._gone) and self._readable(0):
            self._read()
        return bool(self._reports) or self._gone

    def next(self, deadline: float) -> e.Report:
        """The next report, by then (`time.monotonic`).

        Raises
        ------
        VineyardArrowError
            What the process says went wrong.
        ConnectionLostError
            If it died.
        """
        while not self.has_report:
            if not self._readable(deadline - time.monotonic()):
                raise DeadlineExceededError(f"the {self.role} of a migration says nothing")
        if not self._reports:
            where = f" (process {self._pid})" if self._pid else ""
            raise ConnectionLostError(
                f"the {self.role} of a migration{where} died",
                "nothing of it is to be seen; migrate again",
            )
        found = self._reports.popleft()
        if isinstance(found, e.Failed):
            raise from_code(found.code, found.message, found.hint)
        return found

    def _readable(self, timeout_s: float) -> bool:
        return wait([self], timeout_s)

    def _read(self) -> None:
        try:
            chunk, fds, _, _ = socket.recv_fds(self._sock, 65536, 1)
        except ConnectionResetError:  # it died over unread words of ours
            chunk, fds = b"", []
        if fds:
            (self._handle,) = fds
        self._gone = not chunk
        *lines, self._said = (self._said + chunk).split(b"\n")
        for line in lines:
            found: e.Report = e.decode_report(line)
            if isinstance(found, e.Started):
                self._pid = found.pid
            else:
                self._reports.append(found)

    @property
    def pid(self) -> int:
        """Of the process, on its host; waits until there is one."""
        deadline = time.monotonic() + _KILL_S
        while not self._pid and not self._gone and self._readable(deadline - time.monotonic()):
            self._read()
        return self._pid

    def close(self) -> None:
        """End the process and wait for that. May be called twice."""
        if self._sock.fileno() < 0:
            return
        with contextlib.suppress(OSError):
            if self.pid and self._handle is not None:
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)
                wait([self._handle], _KILL_S)
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
        self._sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def wait(ends: Sequence[End | int], timeout_s: float) -> bool:
    """Wait until one of them can be read; whether that came to be."""
    poll = select.poll()  # takes any descriptor, where `select` takes the first 1,024
    for end in ends:
        poll.register(end, select.POLLIN)
    return bool(poll.poll(max(0.0, timeout_s) * 1000))


class ForkServer:
    """Starts ends on this host; started itself when first needed, and kept. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._asked = 0.0
        self._end: Callable[[], object] | None = None
        self._owner = 0  # the process that may ask it: a forked child has one of its own

    def prepare(self) -> None:
        """Have it started, without waiting for that."""
        with self._lock:
            self._prepare()

    def _prepare(self) -> socket.socket:
        now = time.monotonic()
        process, control = self._process, self._control
        fresh = now - self._asked < KEEP_S and self._owner == os.getpid()
        if control is None or process is None or not fresh or process.poll() is not None:
            self._close()
            control, theirs = socket.socketpair()
            with theirs:
                process = self._process = subprocess.Popen(
                    [sys.executable, "-c", COMMAND],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    process_group=0,  # a Ctrl-C is for who migrates, and ends all through us
                    cwd="/",
                    env=child_environment(),
                )
            self._control, self._owner = control, os.getpid()
            self._end = weakref.finalize(self, _end, process, control, self._owner)
        self._asked = now
        return control

    def start(self, role: str, job: e.Job | None = None) -> End:
        """Start an end, which carries out a job at once, or awaits one by `End.begin`."""
        ours, theirs = socket.socketpair()
        with theirs, self._lock:
            control = self._prepare()
            with contextlib.suppress(OSError):  # somebody killed it: the end is gone, too
                socket.send_fds(control, [b"+"], [theirs.fileno()])
        end = End(role, ours)
        if job is not None:
            end.begin(job)
        return end

    def close(self) -> None:
        """End it. Ends that it started live on; the next one starts it anew."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._end is not None:
            self._end()
        self._process = self._control = self._end = None


def _end(process: subprocess.Popen[bytes], control: socket.socket, owner: int) -> None:
    control.close()
    if owner == os.getpid():
        process.kill()
        process.wait()
