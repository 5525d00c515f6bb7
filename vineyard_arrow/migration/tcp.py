"""The transport ``tcp``: a socket each. Payload goes from memory to memory by the kernel alone."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator, Sequence

from ..errors import ConfigError, ConnectionLostError, DeadlineExceededError
from .transports import DroppedError, transport

_MAX_DRAINED = 64 << 20
_MAX_PIECES = 512  # in one system call; the kernel takes 1,024


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (BlockingIOError, TimeoutError):  # SO_RCVTIMEO and SO_SNDTIMEO
        raise DeadlineExceededError("the other end of the migration neither sends nor reads") from (
            None
        )
    except OSError as error:
        raise DroppedError(f"a connection of the migration broke off: {error}") from None


class TcpChannel:
    """A connected socket.

    The sizes of its buffers are left to the kernel: 2.8 GB/s on loopback, where 4 MiB on either
    side give 2.2 (larger than the caches), and so does waiting for whole blocks.
    """

    def __init__(self, sock: socket.socket, timeout_s: float) -> None:
        self._sock = sock
        sock.setblocking(True)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.set_timeout(timeout_s)

    def set_timeout(self, timeout_s: float) -> None:
        """See `Channel.set_timeout`."""
        # Python's own timeouts poll before every call.
        limit = max(timeout_s, 1e-3)
        value = struct.pack("ll", int(limit), int(limit % 1 * 1e6))
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._sock.setsockopt(socket.SOL_SOCKET, option, value)

    def send(self, pieces: Sequence[memoryview | bytes]) -> None:
        """See `Channel.send`."""
        left = list(pieces)
        with _translated():
            while left:
                sent = self._sock.sendmsg(left[:_MAX_PIECES])
                done = 0
                while done < len(left) and sent >= len(left[done]):
                    sent -= len(left[done])
                    done += 1
                del left[:done]
                if sent:
                    left[0] = memoryview(left[0])[sent:]

    def receive_into(self, targets: Sequence[memoryview]) -> int:
        """See `Channel.receive_into`."""
        with _translated():
            if len(targets) == 1:
                return self._sock.recv_into(targets[0])
            return self._sock.recvmsg_into(targets)[0]

    def close(self) -> None:
        """See `Channel.close`."""
        # A socket that is closed over unread bytes resets the connection, and what we said
        # last may be lost. So let the other end close first, unless it does not.
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
            self.set_timeout(1.0)
            scratch = bytearray(1 << 20)
            for _ in range(_MAX_DRAINED // len(scratch)):
                if not self._sock.recv_into(scratch):
                    break
        self._sock.close()


class TcpListener:
    """A socket that listens."""

    def __init__(self, host: str) -> None:
        try:
            family, _, _, _, place = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
            self._sock = socket.socket(family, socket.SOCK_STREAM)
            self._sock.bind(place)
            self._sock.listen(8)
        except OSError as error:
            raise ConfigError(f"cannot listen on {host}: {error}") from None
        self.address = f"{host}:{self._sock.getsockname()[1]}"

    def accept(self, timeout_s: float) -> TcpChannel:
        """See `Listener.accept`."""
        self._sock.settimeout(max(timeout_s, 1e-3))
        try:
            return TcpChannel(self._sock.accept()[0], timeout_s)
        except TimeoutError:
            raise DeadlineExceededError(f"no sender came to {self.address}") from None

    def close(self) -> None:
        """See `Listener.close`."""
        self._sock.close()


@transport("tcp")
class TcpTransport:
    """Raw sockets."""

    def listen(self, host: str) -> TcpListener:
        """See `Transport.listen`."""
        return TcpListener(host)

    def connect(self, address: str, timeout_s: float) -> TcpChannel:
        """See `Transport.connect`."""
        host, _, port = address.rpartition(":")
        try:
            sock = socket.create_connection((host, int(port)), max(timeout_s, 1e-3))
        except TimeoutError:
            raise DeadlineExceededError(f"nobody answers at {address}") from None
        except OSError as error:
            raise ConnectionLostError(f"no receiver listens at {address}: {error}") from None
        return TcpChannel(sock, timeout_s)
