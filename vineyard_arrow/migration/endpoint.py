"""What a sender and a receiver process have in common: a job comes to them, reports go out.

Both are lines of JSON on one socket, whose other end is who started the process. The last report
says how it ended. A process whose socket ends has lost who started it, and ends too. The token is
in the job, so no listing of processes shows it.
"""

from __future__ import annotations

import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from ..errors import DeadlineExceededError, StoreFullError, VineyardArrowError

LOOPBACK = "127.0.0.1"


class _Line(msgspec.Struct):
    pass


class Peer(_Line):
    """Where the other end listens; TLS by these authorities (PEM), if there are any."""

    address: str
    authorities: str | None = None


class SendOrder(_Line, tag="send"):
    """Send `object` to a receiver that knows the token; await it where there is no `peer`."""

    object: int
    token: str  # hexadecimal
    transport: str
    codec: str | None
    timeout_s: float
    peer: Peer | None = None


class ReceiveOrder(_Line, tag="receive"):
    """Receive one object from a sender that knows the token; await it where there is no `peer`.

    `vouched`: whether who sends it acts for the user who receives it.
    """

    token: str
    transport: str
    timeout_s: float
    peer: Peer | None = None
    vouched: bool = True


Order = SendOrder | ReceiveOrder


class Place(_Line):
    """Where a process works: known to who starts it, and never told by anybody else.

    `host`: to listen on. With `cert_file` and `key_file` who connects there speaks TLS.
    """

    socket: str
    host: str = LOOPBACK
    cert_file: str | None = None
    key_file: str | None = None
    vouched: bool = True


class Job(_Line):
    """An order, and where to carry it out. `later`: the peer of the order comes by itself."""

    order: Order
    place: Place
    later: bool = False


class Started(_Line, tag="started"):
    """The first report of a process. Comes with a descriptor of it (pidfd_open)."""

    pid: int


class Listening(_Line, tag="listening"):
    """An end awaits the other one there."""

    address: str


class Progress(_Line, tag="progress"):
    """So much of the payload has come."""

    done: int
    total: int


class Finished(_Line, tag="finished"):
    """All is well; `object` is the id at the destination."""

    object: int


class Failed(_Line, tag="failed"):
    """It has not worked."""

    code: str
    message: str
    hint: str | None


Report = Started | Listening | Progress | Finished | Failed
encode = msgspec.json.Encoder().encode
decode_order = msgspec.json.Decoder(Order).decode
decode_job = msgspec.json.Decoder(Job).decode
decode_peer = msgspec.json.Decoder(Peer).decode
decode_report = msgspec.json.Decoder(Report).decode


class Starter:
    """Who started this process, with the job that it is given.

    The process ends if that never comes, and, from `end_with` on, when the starter does.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._peers: queue.SimpleQueue[Peer] = queue.SimpleQueue()
        me = os.pidfd_open(os.getpid())
        socket.send_fds(sock, [encode(Started(os.getpid())) + b"\n"], [me])
        os.close(me)
        self._lines = self._read()
        self.job = decode_job(next(self._lines))

    def _read(self) -> Iterator[bytes]:
        said = b""
        while chunk := self._sock.recv(65536):
            *lines, said = (said + chunk).split(b"\n")
            yield from lines
        os._exit(1)  # whatever other threads wait for: the daemon tidies up

    def tell(self, said: Report) -> None:
        """Report to it."""
        self._sock.sendall(encode(said) + b"\n")

    def end_with(self) -> None:
        """Take what else it says, until it is gone, and end."""
        for line in self._lines:
            self._peers.put(decode_peer(line))

    def peer(self, deadline: float) -> Peer | None:
        """Where the other end listens, once that is known; None if that is to come here."""
        if not self.job.later:
            return self.job.order.peer
        try:
            return self._peers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise DeadlineExceededError("the other end of the migration did not start") from None


def run(sock: socket.socket, work: Callable[[Starter], int]) -> None:
    """Carry out the job that comes on ``sock`` by ``work``, report how that ended, and end."""
    starter = Starter(sock)
    threading.Thread(target=starter.end_with, daemon=True).start()
    try:
        last: Report = Finished(work(starter))
    except VineyardArrowError as error:
        last = failed(error)
    except MemoryError:
        last = failed(StoreFullError("no memory for a migration"))
    except Exception as error:  # a bug, or the machine: who waits must hear of it all the same
        last = failed(VineyardArrowError(f"a migration failed: {error!r}"))
    starter.tell(last)
    os._exit(0)  # threads of a transport may wait for a peer that does nothing


def failed(error: VineyardArrowError) -> Failed:
    """The report of an error."""
    return Failed(error.code, error.message, error.hint)


def attach(place: Place, timeout_s: float, *, vouched: bool = True) -> Any:
    """The store at a place."""
    from ..config import client_config
    from ..ipc.attached import Attached

    config = client_config(socket=place.socket, timeout_s=timeout_s, autostart=False)
    return Attached(config, vouched=vouched)
