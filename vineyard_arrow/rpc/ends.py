"""Ends of migrations over TCP: a client has one started beside the store, and follows it.

Each is a DoExchange call that stays open: its order goes there, its reports come back, and the end
of the call is the end of the process.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight

from ..errors import ConnectionLostError, ProtocolError, VineyardArrowError
from ..migration import endpoint as e
from ..migration.ends import End, ForkServer, wait
from ..migration.pair import Find
from ..store import NOBODY
from ..types.memory import BYTES
from . import messages as m
from .remote import Remote

GLANCE_S = 0.5  # whether who asked is still there


# ---- the client's side


class RemoteEnd(End):
    """An end whose reports come over a call."""

    def __init__(self, role: str, remote: Remote, order: e.Order) -> None:
        ours, self._theirs = socket.socketpair()
        super().__init__(role, ours)
        self._place = remote.socket
        self._writer, self._reader = remote.open_call(m.MIGRATION)
        self._thread = threading.Thread(target=self._relay, args=(order,), daemon=True)
        self._thread.start()

    def _relay(self, order: e.Order) -> None:
        with self._theirs as theirs, contextlib.suppress(OSError):
            try:
                self._writer.begin(BYTES)
                self._writer.write_metadata(e.encode(order))
                while True:
                    theirs.sendall(bytes(self._reader.read_chunk().app_metadata) + b"\n")
            except StopIteration:
                return
            except (flight.FlightError, pa.ArrowException, OSError) as error:
                why = str(error).partition(". gRPC client debug")[0].partition(". Detail:")[0]
                lost = ConnectionLostError(f"{self._place} started no {self.role}: {why}")
                theirs.sendall(e.encode(e.failed(lost)) + b"\n")

    def close(self) -> None:
        """See `End.close`."""
        with contextlib.suppress(Exception):
            self._reader.cancel()
        super().close()
        self._thread.join()
        with contextlib.suppress(Exception):  # else Arrow complains on standard error
            self._writer.close()


class There:
    """The site of a store that serves over TCP; see `migration.pair.Site`."""

    reached = True

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self.vouched = remote.uid != NOBODY

    def prepare(self) -> None:
        """See `Site.prepare`."""

    def start(self, role: str, order: e.Order, find: Find | None = None) -> End:
        """See `Site.start`."""
        if find is not None:
            order.peer = find()
        return RemoteEnd(role, self._remote, order)

    def peer(self, address: str) -> e.Peer:
        """The host is the one by which the store itself is reached."""
        host = self._remote.socket.rpartition(":")[0].strip("[]")
        certs = self._remote.authorities
        return e.Peer(
            f"{host}:{address.rpartition(':')[2]}", None if certs is None else certs.decode()
        )


# ---- the server's side


def serve_end(
    server: ForkServer, place: e.Place, context: Any, reader: Any, tell: Callable[[bytes], object]
) -> None:
    """Start the end that a call asks for, and tell its reports, until either is over."""
    try:
        order = e.decode_order(reader.read_chunk().app_metadata)
    except (StopIteration, TypeError, ValueError) as error:
        raise ProtocolError(f"no order of a migration: {error}") from None
    role = "sender" if isinstance(order, e.SendOrder) else "receiver"
    with server.start(role, e.Job(order, place)) as end:
        while True:
            while not end.has_report:
                wait([end], GLANCE_S)
                if context.is_cancelled():
                    return
            try:
                said: e.Report = end.next(0.0)
            except VineyardArrowError as error:
                said = e.failed(error)
            tell(e.encode(said))
            if isinstance(said, e.Finished | e.Failed):
                return
