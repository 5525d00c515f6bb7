"""The receiver process: ``python -m vineyard_arrow.migration.receiver``, with an order on stdin.

An ordinary client of its own instance. It listens for one sender, receives payload straight into
memory of its lease, and puts everything at once. What has come stays for a sender that connects
again, as long as this process lives.
"""

from __future__ import annotations

import contextlib
import time

from ..config import client_config
from ..errors import (
    AccessDeniedError,
    DeadlineExceededError,
    ProtocolError,
    VineyardArrowError,
)
from ..ipc.attached import Attached
from . import protocol as m
from .endpoint import Listening, Progress, ReceiveOrder, failed, report, run
from .landing import Landing, find_copy
from .line import Line, find_codec
from .transports import DroppedError, Listener, find_transport

PROGRESS_NBYTES = 8 << 20  # of payload between two reports: each wakes who reads them
STRANGER_S = 5.0  # so long a connection may take to prove itself, while the sender waits


class Receiver:
    """One object on its way, over one connection or several."""

    def __init__(self, attached: Attached, listener: Listener, order: ReceiveOrder) -> None:
        self._attached = attached
        self._listener = listener
        self._token = bytes.fromhex(order.token)
        self._timeout_s = order.timeout_s
        self._landing: Landing | None = None
        self._position = 0

    def receive(self) -> int:
        """Wait for the sender, until all is here; return the id."""
        deadline = time.monotonic() + self._timeout_s
        while True:
            line = self._admitted(deadline)
            before = self._position
            try:
                done = self._converse(line)
                with contextlib.suppress(VineyardArrowError):  # it is there all the same
                    line.send(m.Done(done))
                return done
            except DroppedError:
                if self._position > before:
                    deadline = time.monotonic() + self._timeout_s
            except VineyardArrowError as error:
                report(failed(error))  # before the sender hears of it, and says so
                line.fail(error)
                raise
            finally:
                line.close()

    def _admitted(self, deadline: float) -> Line:
        """The next connection that knows the token; others are told off."""
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise DeadlineExceededError("no sender came in time")
            line = Line(self._listener.accept(left))
            line.channel.set_timeout(min(left, STRANGER_S))
            try:
                line.admit(self._token)
                line.channel.set_timeout(self._timeout_s)
                return line
            except (DroppedError, DeadlineExceededError, ProtocolError, AccessDeniedError) as error:
                line.fail(error)
                line.close()

    def _converse(self, line: Line) -> int:
        offer = line.expect(m.Offer)
        codec = find_codec(offer.codec)
        landing = self._landing
        if landing is not None and landing.offer != offer:
            raise ProtocolError("the sender came back with another object")
        if landing is None or landing.payload is None:
            copy = find_copy(self._attached, offer.root)
            if copy is not None:
                return copy
            landing = self._landing = Landing(self._attached, offer)
            line.send(m.Ready(0, True))
            while landing.payload is None:
                landing.add(line.expect(m.Manifest).entries)
        else:
            line.send(m.Ready(self._position, False))
        line.inbound.payload = landing.payload
        line.inbound.position = self._position
        told = self._position
        report(Progress(told, offer.nbytes))
        while self._position < offer.nbytes:
            self._position = line.receive_payload(codec)
            if self._position >= min(told + PROGRESS_NBYTES, offer.nbytes):
                told = self._position
                report(Progress(told, offer.nbytes))
        return int(landing.publish())


def receive(order: ReceiveOrder) -> int:
    """Receive one object; return its id."""
    attached = Attached(
        client_config(socket=order.socket, timeout_s=order.timeout_s, autostart=False)
    )
    listener = find_transport(order.transport).listen(order.host)
    try:
        report(Listening(listener.address))
        return Receiver(attached, listener, order).receive()
    finally:
        listener.close()


if __name__ == "__main__":
    run(receive)
