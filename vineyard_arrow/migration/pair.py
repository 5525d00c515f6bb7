"""A migration from the side of who wants it: starts both processes and follows their reports.

`start_receiver` and `start_sender` each start one end beside its instance, and are all that a
service on another host needs to call. The ends find each other by address and token alone.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ..config import client_config
from ..errors import (
    ConnectionLostError,
    DeadlineExceededError,
    InvalidObjectError,
    VineyardArrowError,
    from_code,
)
from ..ipc.connection import seconds
from ..ipc.starter import child_environment
from ..objects import ObjectID
from . import endpoint as e
from .line import find_codec
from .transports import find_transport

if TYPE_CHECKING:
    from ..client import Client

Progress = Callable[[int, int], Any]
TOKEN_NBYTES = 32
_GRACE_S = 10.0  # for a process to report that its own deadline has passed


class End:
    """A sender or receiver process. Leaving the context ends it, whatever it is doing."""

    def __init__(self, role: str) -> None:
        self.role = role
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"vineyard_arrow.migration.{role}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            process_group=0,  # a Ctrl-C is for who migrates, and ends both through us
            cwd="/",
            env=child_environment(),
        )
        self.pid = self._process.pid
        self._said = b""

    def begin(self, order: e.Order) -> None:
        """Give the process its order."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is dead, as `next` will tell
            self._process.stdin.write(e.encode(order) + b"\n")

    def fileno(self) -> int:
        """What can be read when there is a report, for `select`."""
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    @property
    def has_report(self) -> bool:
        """Whether `next` returns at once."""
        return b"\n" in self._said or bool(select.select([self], [], [], 0)[0])

    def next(self, deadline: float) -> e.Report:
        """The next report, by then (`time.monotonic`).

        Raises
        ------
        VineyardArrowError
            What the process says went wrong.
        ConnectionLostError
            If it died.
        """
        while b"\n" not in self._said:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([self], [], [], left)[0]:
                raise DeadlineExceededError(f"the {self.role} of a migration says nothing")
            chunk = os.read(self.fileno(), 65536)
            if not chunk:
                status = self._process.wait()
                raise ConnectionLostError(
                    f"the {self.role} of a migration (process {self.pid}) died, status {status}",
                    "nothing of it is to be seen; migrate again",
                )
            self._said += chunk
        line, _, self._said = self._said.partition(b"\n")
        found: e.Report = e.decode_report(line)
        if isinstance(found, e.Failed):
            raise from_code(found.code, found.message, found.hint)
        return found

    def close(self) -> None:
        """End the process and wait for that."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def start_receiver(
    socket: Path, *, token: str, transport: str, timeout_s: float, host: str = e.LOOPBACK
) -> End:
    """Start a receiver for the store at ``socket``; its first report says where it listens.

    Parameters
    ----------
    socket : Path
        Of the instance that the object is to come to.
    token : str
        Hexadecimal; the sender must know it too.
    host : str
        To listen on. Nothing but the proof of the token is protected on the way: use networks
        that are trusted.
    """
    end = End("receiver")
    end.begin(e.ReceiveOrder(str(socket), host, token, transport, timeout_s))
    return end


def start_sender(
    socket: Path,
    object_id: int,
    *,
    address: str,
    token: str,
    transport: str,
    codec: str | None,
    timeout_s: float,
    end: End | None = None,
) -> End:
    """Start a sender of an object of the store at ``socket`` for the receiver at ``address``.

    ``end``: a sender process that waits for its order.
    """
    end = end or End("sender")
    end.begin(e.SendOrder(str(socket), object_id, address, token, transport, codec, timeout_s))
    return end


def migrate(
    source: Client,
    key: int | str,
    *,
    to: Client | str | os.PathLike[str],
    transport: str = "tcp",
    compression: str | None = None,
    progress: Progress | None = None,
    timeout_s: float | None = None,
) -> ObjectID:
    """Copy an object with all its members to another instance; see `Client.migrate`."""
    from ..client import Client

    root = source._resolve(key)
    source._a.describe(root)  # that it is there
    find_transport(transport)
    find_codec(compression)
    here = _socket_of(source)
    if isinstance(to, Client):
        there = _socket_of(to)
    elif isinstance(to, str | os.PathLike):
        there = client_config(socket=os.fspath(to)).socket
    else:
        raise InvalidObjectError(
            f"a {type(to).__name__} is no destination", "use a client or the path of a socket"
        )
    limit = source._a.timeout_s if timeout_s is None else seconds(timeout_s)
    if here.resolve() == there.resolve():
        return ObjectID(root)
    token = secrets.token_hex(TOKEN_NBYTES)
    with (
        End("sender") as sender,  # both start at once: that takes longest of all
        start_receiver(there, token=token, transport=transport, timeout_s=limit) as receiver,
    ):
        first = receiver.next(time.monotonic() + limit + _GRACE_S)
        assert isinstance(first, e.Listening)
        start_sender(
            here,
            root,
            address=first.address,
            token=token,
            transport=transport,
            codec=compression,
            timeout_s=limit,
            end=sender,
        )
        return follow(receiver, sender, progress, limit)


def follow(
    receiver: End, sender: End | None, progress: Progress | None, timeout_s: float
) -> ObjectID:
    """Wait until an object has come, or something went wrong at either end.

    ``sender`` is None if it was started elsewhere: what goes wrong there the receiver hears, or
    its own deadline passes. If the receiver is elsewhere, follow the sender in its place.

    Raises
    ------
    VineyardArrowError
        What that was. Nothing is to be seen at the destination then.
    DeadlineExceededError
        If neither end got on for ``timeout_s``.
    """
    watched = [receiver] if sender is None else [receiver, sender]
    lost: VineyardArrowError | None = None
    while True:
        deadline = time.monotonic() + timeout_s + _GRACE_S
        if not any(end.has_report for end in watched):
            select.select(watched, [], [], max(0.0, deadline - time.monotonic()))
        if sender is not None and sender in watched and sender.has_report:
            try:
                sender.next(deadline)  # it has finished: so has the receiver, or will
            except VineyardArrowError as error:
                lost = error
            watched.remove(sender)
        # The receiver reports before it hangs up, and knows better why.
        if lost is not None and not receiver.has_report:
            raise lost
        if not receiver.has_report and select.select(watched, [], [], 0)[0]:
            continue
        found = receiver.next(deadline)
        if isinstance(found, e.Finished):
            return ObjectID(found.object)
        if isinstance(found, e.Progress) and progress is not None:
            progress(found.done, found.total)


def _socket_of(client: Client) -> Path:
    """The socket of a client's daemon, to start an end beside it."""
    socket = client._a.socket
    if not isinstance(socket, Path):
        raise InvalidObjectError(
            f"{socket} is reached over RPC, and an end of a migration runs beside its daemon",
            "connect to its socket on its own host",
        )
    return socket
