"""The client's end of the socket: one request, one reply, with a deadline.

Errors of the operating system become ours here. Knows no objects and maps nothing.
"""

from __future__ import annotations

import array
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from numbers import Real
from pathlib import Path
from typing import Any

from ..errors import (
    AccessDeniedError,
    ConnectionLostError,
    DeadlineExceededError,
    InvalidObjectError,
    ProtocolError,
    VineyardArrowError,
    from_code,
)
from . import protocol as p

RECV_NBYTES = 8 << 10
MAX_FDS = 253  # the kernel's own limit
MAX_TIMEOUT_S = 365 * 86400.0
_timeval = struct.Struct("@ll")


def _lost(reason: object) -> ConnectionLostError:
    return ConnectionLostError(
        f"the daemon is gone ({reason})", "data already mapped stays readable; connect() anew"
    )


def seconds(timeout_s: Any) -> float:
    """A timeout; InvalidObjectError if it is no number."""
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, Real):
        raise InvalidObjectError(
            f"timeout_s is a number of seconds, not a {type(timeout_s).__name__}"
        )
    return float(timeout_s)


class NotSentError(DeadlineExceededError):
    """The deadline passed before the request went out: the daemon knows nothing of it."""


class Connection:
    """A connected socket. Thread-safe: requests queue for it.

    Parameters
    ----------
    sock : socket.socket
        Connected; owned from here on.
    timeout_s : float
        Deadline of a request that names none.

    Attributes
    ----------
    on_retired : callable or None
        Called with the ids of segments that the daemon has retired.
    lost : str or None
        Why the connection is of no more use.
    """

    def __init__(self, sock: socket.socket, timeout_s: float) -> None:
        if sock.gettimeout() is not None:  # somebody set a default timeout
            sock.setblocking(True)
        self._sock = sock
        self._timeout_s = timeout_s
        self._kernel_timeout_s = 0.0
        self.on_retired: Callable[[list[int]], None] | None = None
        self._lock = threading.Lock()
        self._frames = p.FrameReader(requests=False)
        self._fds: list[int] = []  # came, but their message is not complete
        self._number = 0
        self.lost: str | None = None

    @classmethod
    def open(cls, path: Path, timeout_s: float) -> Connection:
        """Connect to the socket at ``path``.

        Raises
        ------
        FileNotFoundError, ConnectionRefusedError
            If no daemon listens there.
        AccessDeniedError
            If its permissions keep this user out.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection = cls(sock, timeout_s)
        try:
            connection._set_timeout(min(timeout_s, MAX_TIMEOUT_S))
            sock.connect(os.fspath(path))
        except PermissionError:
            sock.close()
            raise AccessDeniedError(
                f"user {os.geteuid()} may not connect to {path}",
                "ask its owner for `--mode 0660 --group NAME`, or start a store of your own",
            ) from None
        except BlockingIOError:
            sock.close()
            raise DeadlineExceededError(
                f"{path} did not accept a connection within {timeout_s:g} s"
            ) from None
        except BaseException:
            sock.close()
            raise
        return connection

    def fileno(self) -> int:
        """The descriptor; -1 once closed."""
        return self._sock.fileno()

    def peer_pid(self) -> int:
        """Pid of the daemon, from the kernel; 0 if it is in another pid namespace."""
        size = struct.calcsize("3i")
        credentials = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        return int(struct.unpack("3i", credentials)[0])

    def request(self, message: Any, timeout_s: float | None = None) -> tuple[Any, list[int]]:
        """Send ``message``, return the reply and the descriptors that came with it (owned).

        Raises
        ------
        VineyardArrowError
            What the daemon answered, if that is a failure.
        InvalidObjectError
            If ``message`` has a value of a wrong type; nothing is sent then.
        ConnectionLostError
            If the connection is, or breaks.
        DeadlineExceededError
            If no answer came in time; a later one will be ignored.
        """
        timeout_s = min(self._timeout_s if timeout_s is None else timeout_s, MAX_TIMEOUT_S)
        deadline = time.monotonic() + timeout_s
        if not self._lock.acquire(timeout=timeout_s):
            raise NotSentError("other requests of this process held the connection")
        try:
            if self.lost:
                raise _lost(self.lost)
            self._number = self._number % 0xFFFFFFFF + 1
            self._set_timeout(timeout_s)
            self._send(p.encode_request(self._number, message))
            reply, fds = self._receive(self._number, deadline)
        finally:
            self._lock.release()
        if isinstance(reply, p.Failure):
            raise from_code(reply.code, reply.message, reply.hint)
        return reply, fds

    def post(self, message: Any, timeout_s: float) -> int:
        """Send ``message`` and wait for nothing; return the number to `collect` its reply by.

        For event loops, which watch the descriptor until it is readable. One at a time.
        """
        with self._lock:
            if self.lost:
                raise _lost(self.lost)
            self._number = self._number % 0xFFFFFFFF + 1
            self._set_timeout(min(timeout_s, MAX_TIMEOUT_S))
            self._send(p.encode_request(self._number, message))
            return self._number

    def collect(self, number: int, timeout_s: float) -> Any:
        """The reply to what was posted, which has come or begun to; as `request` raises."""
        with self._lock:
            if self.lost:
                raise _lost(self.lost)
            reply, _ = self._receive(number, time.monotonic() + timeout_s)
        if isinstance(reply, p.Failure):
            raise from_code(reply.code, reply.message, reply.hint)
        return reply

    def _set_timeout(self, timeout_s: float) -> None:
        """Let the kernel end a blocking call: Python's own timeouts poll before each one."""
        if timeout_s != self._kernel_timeout_s:
            self._kernel_timeout_s = timeout_s
            timeval = _timeval.pack(int(timeout_s), max(1, int(timeout_s % 1 * 1e6)))
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)

    def _send(self, frame: bytes) -> None:
        try:
            self._sock.sendall(frame)
        except BlockingIOError:  # half a frame may be out: of no further use
            self._break("it stopped reading")
            raise DeadlineExceededError("the daemon did not take the request in time") from None
        except OSError as error:
            self._last_words()
            raise self._break(error) from None
        except BaseException:  # a signal handler raised, with half a frame out perhaps
            self._break("a request was interrupted")
            raise

    def _last_words(self) -> None:
        """Raise what the daemon said before it hung up, if it said why."""
        try:
            data = self._sock.recv(RECV_NBYTES, socket.MSG_DONTWAIT)
        except OSError:
            return
        for number, message in self._frames.feed(data):
            if number == p.UNASKED:
                self._unasked(message)

    def _receive(self, number: int, deadline: float) -> tuple[Any, list[int]]:
        waiting = False
        try:
            while True:
                waiting = True
                data, ancillary, _, _ = self._sock.recvmsg(
                    RECV_NBYTES, socket.CMSG_SPACE(4 * MAX_FDS), socket.MSG_CMSG_CLOEXEC
                )
                waiting = False
                for level, kind, payload in ancillary:
                    if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                        got = array.array("i")
                        got.frombytes(payload[: len(payload) // 4 * 4])
                        self._fds += got
                if not data:
                    raise self._break("it closed the connection")
                found = None
                for answered, message in self._frames.feed(data):
                    fds = self._take_fds(message)
                    if answered == number:
                        found = message, fds
                        continue
                    for fd in fds:  # of a request that gave up waiting
                        os.close(fd)
                    if answered == p.UNASKED:
                        self._unasked(message)
                if found is not None:
                    return found
                if time.monotonic() > deadline:
                    raise BlockingIOError
        except BlockingIOError:
            raise DeadlineExceededError("the daemon did not answer in time") from None
        except ProtocolError as error:
            raise self._break(error) from None
        except VineyardArrowError:
            raise
        except OSError as error:
            raise self._break(error) from None
        except BaseException:  # a signal handler raised: nothing is lost if we still waited
            if not waiting:
                self._break("a request was interrupted")
            raise

    def _take_fds(self, message: Any) -> list[int]:
        """The descriptors of a message, which came with its first byte."""
        n = p.DESCRIPTORS.get(type(message), 0)
        if isinstance(message, p.Segments):
            n = len(message.segments)
        if n > len(self._fds):
            raise ProtocolError(f"{type(message).__name__} came without its descriptors")
        fds, self._fds = self._fds[:n], self._fds[n:]
        return fds

    def _unasked(self, message: Any) -> None:
        if isinstance(message, p.Failure):
            self._break(message.message)
            raise from_code(message.code, message.message, message.hint)
        if isinstance(message, p.Retired) and self.on_retired is not None:
            self.on_retired(message.segments)

    def _break(self, reason: object) -> ConnectionLostError:
        self.lost = self.lost or str(reason) or type(reason).__name__
        self._sock.close()
        self._drop_fds()
        return _lost(self.lost)

    def close(self) -> None:
        """Close this end; later requests raise ConnectionLostError."""
        self.lost = self.lost or "closed"
        self.on_retired = None
        self._sock.close()
        self._drop_fds()

    def resume(self, fd: int) -> None:
        """After `close`, go on over another descriptor of the same socket (owned from here on)."""
        with self._lock:
            self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fd)
            self.lost = None

    def _drop_fds(self) -> None:
        """Close descriptors whose message has not come."""
        fds, self._fds = self._fds, []
        for fd in fds:
            os.close(fd)
