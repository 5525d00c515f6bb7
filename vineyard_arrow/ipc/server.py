"""The daemon's UNIX socket: accepts, frames, passes descriptors. Knows no memory, no objects."""

from __future__ import annotations

import array
import contextlib
import logging
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import AccessDeniedError, ConfigError, ProtocolError, VineyardArrowError
from . import protocol as p
from .loop import Loop

log = logging.getLogger("vineyard_arrow.server")

_ucred = struct.Struct("3i")
_received = bytearray(256 << 10)  # of one connection at a time
MAX_UNSENT = 64 << 20  # a client that does not read its replies is cut off


class Connection:
    """One accepted socket on the event loop."""

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        on_message: Callable[[int, Any], None],
        on_close: Callable[[], None],
    ) -> None:
        sock.setblocking(False)
        self._loop = loop
        self._sock = sock
        self._on_message = on_message
        self._on_close = on_close
        self._frames = p.FrameReader(requests=True)
        self._unsent: list[tuple[memoryview, list[int]]] = []  # descriptors are duplicates
        self._unsent_nbytes = 0
        self._deaf = False
        loop.add_reader(sock.fileno(), self._readable)

    def send(self, number: int, message: Any, fds: list[int]) -> None:
        """Send a message with descriptors (the caller keeps its own)."""
        if self._deaf or self._sock.fileno() < 0:
            return
        try:
            frame = memoryview(p.encode(number, message))
        except ProtocolError as error:
            frame, fds = memoryview(p.encode(number, p.failure(error))), []
        if not self._unsent:
            sent = self._try_send(frame, fds)
            if sent == len(frame) or sent < 0:
                return
            frame, fds = frame[sent:], fds if sent == 0 else []
        self._unsent.append((frame, [os.dup(fd) for fd in fds]))
        self._unsent_nbytes += len(frame)
        if self._unsent_nbytes > MAX_UNSENT:
            log.warning("cutting off a client that does not read its replies")
            self._cut_off()
            return
        self._loop.add_writer(self._sock.fileno(), self._writable)

    def _try_send(self, frame: memoryview, fds: list[int]) -> int:
        """Bytes sent; 0 when the socket is full, -1 when it is gone."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            return self._sock.sendmsg([frame], rights, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return 0
        except OSError:
            self.close()
            return -1

    def _writable(self) -> None:
        while self._unsent:
            frame, fds = self._unsent[0]
            sent = self._try_send(frame, fds)
            if sent <= 0:
                return
            for fd in fds:
                os.close(fd)
            self._unsent_nbytes -= sent
            if sent < len(frame):
                self._unsent[0] = (frame[sent:], [])
            else:
                self._unsent.pop(0)
        self._loop.remove_writer(self._sock.fileno())

    def _readable(self) -> None:
        try:
            nbytes = self._sock.recv_into(_received)
        except BlockingIOError:
            return
        except OSError:
            nbytes = 0
        if not nbytes:
            self.close()
            return
        if self._deaf:
            return
        try:
            for number, message in self._frames.feed(memoryview(_received)[:nbytes]):
                self._on_message(number, message)
                if self._deaf or self._sock.fileno() < 0:
                    return
        except ProtocolError as error:
            self.refuse(error)

    def refuse(self, error: VineyardArrowError) -> None:
        """Tell the peer what it did wrong, and serve it no more."""
        log.warning("closing a connection: %s", error)
        self.send(p.UNASKED, p.failure(error), [])
        self._cut_off()

    def _cut_off(self) -> None:
        """Serve no more, but keep the session until the peer closes its end.

        Its process may go on with its segment mapped for writing, which so nobody else gets.
        """
        self._deaf = True
        self._drop_unsent()
        self._loop.remove_writer(self._sock.fileno())
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def _drop_unsent(self) -> None:
        for _, fds in self._unsent:
            for fd in fds:
                os.close(fd)
        self._unsent.clear()

    def close(self) -> None:
        """Close the socket and report it, once."""
        if self._sock.fileno() < 0:
            return
        self._loop.forget(self._sock.fileno())
        self._sock.close()
        self._drop_unsent()
        self._on_close()


def peer_of(sock: socket.socket) -> tuple[int, int]:
    """(pid, uid) of the process at the other end, from the kernel."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _ucred.size)
    pid, uid, _ = _ucred.unpack(credentials)
    return pid, uid


def check_peer(uid: int, mode: str) -> None:
    """Raise AccessDeniedError unless a process of ``uid`` may use the store."""
    if mode == "0600" and uid not in (os.geteuid(), 0):
        raise AccessDeniedError(
            f"this store belongs to user {os.geteuid()}, not to user {uid}",
            "its owner can open it to a group with --mode 0660 --group NAME",
        )


def listen(path: Path, mode: str, group: int | None) -> socket.socket:
    """A listening socket at ``path``; a socket left there by a dead daemon is replaced.

    Raises
    ------
    ConfigError
        If the path is in use, is no socket, or cannot be made.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        if path.exists() or path.is_symlink():
            if not path.is_socket():
                raise ConfigError(f"{path} exists and is no socket", "choose another --socket")
            try:
                sock.connect(os.fspath(path))
            except ConnectionRefusedError:
                path.unlink()
            else:
                raise ConfigError(f"a daemon is already serving {path}")
            sock.close()
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        old = os.umask(0o777)  # nobody may connect before the mode is set
        try:
            sock.bind(os.fspath(path))
        finally:
            os.umask(old)
        if group is not None:
            os.chown(path, -1, group)
        sock.listen(1024)
        os.chmod(path, int(mode, 8))
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise ConfigError(f"cannot listen at {path}: {error}") from None
    except BaseException:
        sock.close()
        raise
    return sock


def accept_all(
    loop: Loop,
    listener: socket.socket,
    accepted: Callable[[socket.socket], None],
) -> None:
    """Call ``accepted`` with every new connection."""

    def ready() -> None:
        try:
            sock, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            log.error("cannot accept: %s", error)
            loop.remove_reader(fd)  # out of descriptors: try again shortly
            loop.call_later(0.2, lambda: loop.add_reader(fd, ready))
            return
        accepted(sock)

    fd = listener.fileno()
    loop.add_reader(fd, ready)
