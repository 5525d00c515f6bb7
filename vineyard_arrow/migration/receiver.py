"""The receiver's part: one object, into its own instance, of which it is an ordinary client.

It receives payload straight into memory of its lease, and puts everything at once. What has come
stays for a sender that comes again, as long as this process lives.
"""

from __future__ import annotations

import contextlib
import time

from ..errors import ProtocolError, VineyardArrowError
from ..ipc.attached import Attached
from . import protocol as m
from .endpoint import Progress, ReceiveOrder, Starter, attach, failed
from .landing import Landing, find_copy
from .line import Line, find_codec
from .meeting import Meeting
from .transports import DroppedError

PROGRESS_NBYTES = 8 << 20  # of payload between two reports: each wakes who reads them


class Receiver:
    """One object on its way, over one connection or several."""

    def __init__(self, attached: Attached, meeting: Meeting, starter: Starter) -> None:
        self._attached = attached
        self._meeting = meeting
        self._tell = starter.tell
        self._timeout_s = starter.job.order.timeout_s
        self._landing: Landing | None = None
        self._position = 0

    def receive(self) -> int:
        """Wait for the sender, until all is here; return the id."""
        deadline = time.monotonic() + self._timeout_s
        while True:
            before = self._position
            line = None
            try:
                line = self._meeting.next(deadline)
                done = self._converse(line)
                with contextlib.suppress(VineyardArrowError):  # it is there all the same
                    line.send(m.Done(done))
                return done
            except DroppedError:
                if self._position > before:
                    deadline = time.monotonic() + self._timeout_s
                elif time.monotonic() > deadline:
                    raise
            except VineyardArrowError as error:
                self._tell(failed(error))  # before the sender hears of it, and says so
                if line is not None:
                    line.fail(error)
                raise
            finally:
                if line is not None:
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
        self._tell(Progress(told, offer.nbytes))
        while self._position < offer.nbytes:
            self._position = line.receive_payload(codec)
            if self._position >= min(told + PROGRESS_NBYTES, offer.nbytes):
                told = self._position
                self._tell(Progress(told, offer.nbytes))
        return int(landing.publish())


def receive(starter: Starter) -> int:
    """Receive one object; return its id."""
    order, place = starter.job.order, starter.job.place
    assert isinstance(order, ReceiveOrder)
    attached = attach(place, order.timeout_s, vouched=order.vouched and place.vouched)
    meeting = Meeting(starter, Line.admit)
    try:
        return Receiver(attached, meeting, starter).receive()
    finally:
        meeting.close()
