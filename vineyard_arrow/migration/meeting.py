"""How the two ends of a migration come together: one listens, the other one connects.

Which does which has nothing to do with who sends. An end that listens tells off whoever does not
know the token, and waits on; so both find each other again when a connection breaks off.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ..errors import (
    AccessDeniedError,
    DeadlineExceededError,
    ProtocolError,
    VineyardArrowError,
)
from .endpoint import Listening, Peer, Starter
from .line import Line
from .transports import Channel, DroppedError, find_transport

STRANGE = (DroppedError, DeadlineExceededError, ProtocolError, AccessDeniedError)
STRANGER_S = 5.0  # so long a connection may take to prove itself, while the other end waits


class Meeting:
    """Connections to the other end, one after the other.

    Parameters
    ----------
    starter : Starter
        Is told where this listens, if it does.
    greet : callable
        `Line.prove` or `Line.admit`.
    """

    def __init__(self, starter: Starter, greet: Callable[[Line, bytes], None]) -> None:
        self._starter = starter
        order = starter.job.order
        self._place = starter.job.place
        self._peer: Peer | None = None
        self._transport = find_transport(order.transport)
        self._token = bytes.fromhex(order.token)
        self._timeout_s = order.timeout_s
        self._greet = greet
        self._listener = None
        if order.peer is None and not starter.job.later:
            self._listener = self._transport.listen(self._place.host)
            starter.tell(Listening(self._listener.address))

    def next(self, deadline: float) -> Line:
        """A connection whose other end knows the token, by then (`time.monotonic`).

        Raises
        ------
        ConnectionLostError
            If nobody listens where this connects to.
        AccessDeniedError
            If who listens there is another.
        DeadlineExceededError
            If none came.
        """
        self._peer = self._peer or self._starter.peer(deadline)
        if self._peer is None:
            return self._awaited(deadline)
        channel = self._transport.connect(self._peer.address, self._timeout_s)
        line = Line(self._sealed(channel))
        try:
            self._greet(line, self._token)
        except VineyardArrowError as error:
            line.fail(error)
            line.close()
            raise
        return line

    def _awaited(self, deadline: float) -> Line:
        assert self._listener is not None
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise DeadlineExceededError("the other end of the migration did not come in time")
            channel = self._listener.accept(left)
            channel.set_timeout(min(left, STRANGER_S))
            try:
                line = Line(self._sealed(channel))
            except STRANGE:
                continue
            try:
                self._greet(line, self._token)
                line.channel.set_timeout(self._timeout_s)
                return line
            except STRANGE as error:
                line.fail(error)
                line.close()

    def _sealed(self, channel: Channel) -> Channel:
        """The channel, in TLS where there are certificates; closed if that fails."""
        certified = self._place.cert_file if self._peer is None else self._peer.authorities
        if certified is None:
            return channel
        from .sealing import SealedChannel, client_context, server_context

        try:
            if self._peer is None:
                return SealedChannel(channel, server_context(certified, self._place.key_file))
            host = self._peer.address.rpartition(":")[0]
            return SealedChannel(channel, client_context(certified), host)
        except VineyardArrowError:
            channel.close()
            raise

    def close(self) -> None:
        """Listen no more."""
        if self._listener is not None:
            self._listener.close()
