"""A migration from the side of who wants it: starts both ends and follows their reports.

An end is started at a `Site`: beside its instance, here or on another host. The ends find each
other by address and token alone.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any, Protocol

from ..errors import DeadlineExceededError, VineyardArrowError
from ..objects import ObjectID
from . import endpoint as e
from .ends import End, ForkServer, wait

Progress = Callable[[int, int], Any]
Find = Callable[[], e.Peer]  # waits until the other end listens
TOKEN_NBYTES = 32
GRACE_S = 10.0  # for a process to report that its own deadline has passed


class Site(Protocol):
    """Where an end can be started.

    Attributes
    ----------
    reached : bool
        Whether an end that listens there is reached from other hosts.
    vouched : bool
        Whether who has an end started there acts for its user.
    """

    reached: bool
    vouched: bool

    def prepare(self) -> None:
        """Do what takes long, without waiting for it."""

    def start(self, role: str, order: e.Order, find: Find | None = None) -> End:
        """Start an end; one that connects to what ``find`` returns, if that is given."""

    def peer(self, address: str) -> e.Peer:
        """Where to find an end that says it listens at ``address`` there."""


class Here:
    """The site of a store on this host.

    Parameters
    ----------
    server : ForkServer
    place : Place
    """

    reached = False
    vouched = True

    def __init__(self, server: ForkServer, place: e.Place) -> None:
        self._server = server
        self._place = place

    def prepare(self) -> None:
        """See `Site.prepare`."""
        self._server.prepare()

    def start(self, role: str, order: e.Order, find: Find | None = None) -> End:
        """See `Site.start`. It has opened its store when the other one is found."""
        end = self._server.start(role, e.Job(order, self._place, find is not None))
        try:
            if find is not None:
                end.meet(find())
        except BaseException:
            end.close()
            raise
        return end

    def peer(self, address: str) -> e.Peer:
        """See `Site.peer`."""
        return e.Peer(address)


def migrate(
    source: Site,
    root: int,
    target: Site,
    *,
    transport: str,
    codec: str | None,
    progress: Progress | None,
    timeout_s: float,
) -> ObjectID:
    """Copy an object with all its members from one site to another; return its id there."""
    token = secrets.token_hex(TOKEN_NBYTES)
    send = e.SendOrder(int(root), token, transport, codec, timeout_s)
    receive = e.ReceiveOrder(token, transport, timeout_s, vouched=source.vouched)
    # Where others can reach it listens: whoever is behind a firewall only ever connects.
    sender_listens = source.reached and not target.reached
    source.prepare()
    target.prepare()
    deadline = time.monotonic() + timeout_s + GRACE_S
    if sender_listens:
        with (
            source.start("sender", send) as sender,
            target.start(
                "receiver", receive, lambda: source.peer(listening(sender, deadline))
            ) as receiver,
        ):
            return follow(receiver, sender, progress, timeout_s)
    with (
        target.start("receiver", receive) as receiver,
        source.start("sender", send, lambda: target.peer(listening(receiver, deadline))) as sender,
    ):
        return follow(receiver, sender, progress, timeout_s)


def listening(end: End, deadline: float) -> str:
    """Where an end says it listens, which is its first report."""
    first = end.next(deadline)
    assert isinstance(first, e.Listening)
    return first.address


def follow(receiver: End, sender: End, progress: Progress | None, timeout_s: float) -> ObjectID:
    """Wait until an object has come, or something went wrong at either end.

    Raises
    ------
    VineyardArrowError
        What that was. Nothing is to be seen at the destination then.
    DeadlineExceededError
        If neither end got on for ``timeout_s``.
    """
    watched = [receiver, sender]
    lost: VineyardArrowError | None = None
    while True:
        deadline = time.monotonic() + timeout_s + GRACE_S
        while not any(end.has_report for end in watched):
            if not wait(watched, deadline - time.monotonic()):
                raise DeadlineExceededError("neither end of a migration says anything")
        if sender in watched and sender.has_report:
            try:
                sender.next(deadline)  # it has finished: so has the receiver, or will
            except VineyardArrowError as error:
                lost = error
            watched.remove(sender)
        # The receiver reports before it hangs up, and knows better why.
        if receiver.has_report:
            found = receiver.next(deadline)
            if isinstance(found, e.Finished):
                return ObjectID(found.object)
            if isinstance(found, e.Progress) and progress is not None:
                progress(found.done, found.total)
        elif lost is not None:
            raise lost
