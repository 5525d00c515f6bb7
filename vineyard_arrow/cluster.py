"""The daemon's part in a cluster: who is in it, as the event loop may ask without waiting.

Threads of `metadata` hear and commit; what they have to say is queued here, and carried out on
the loop when the descriptor `fd` is readable. Without an etcd the cluster is this instance alone.
Knows no sockets.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue

from .errors import InvalidObjectError, VineyardArrowError
from .ipc import protocol as p
from .metadata.backend import Backend, Changes, Item, Verdict
from .metadata.membership import Membership
from .metadata.records import InstanceRecord, Layout, Record, parse

log = logging.getLogger("vineyard_arrow.cluster")
JOIN_S = 10.0
LEAVE_S = 2.0  # to take leave of a cluster that may not answer


class Cluster:
    """See the module's docstring.

    Parameters
    ----------
    backend : Backend
        Closed with this.
    layout : Layout
        The keys of the cluster.
    about : InstanceRecord
        What to say of this instance.
    ttl_s : float
        After how long without a word others count it out, in seconds.
    where : str
        What `Status` says of the backend.

    Raises
    ------
    MetadataUnavailableError, AccessDeniedError, MetadataFullError
        If it cannot be joined.
    """

    def __init__(
        self, backend: Backend, layout: Layout, about: InstanceRecord, ttl_s: float, where: str
    ) -> None:
        self.where = where
        self.layout = layout
        self._instances: dict[str, InstanceRecord] = {}  # by key, as far as was heard
        self._backend = backend
        self._queue: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            self.member = Membership(backend, layout, about, ttl_s, on_change=self._changed)
        except BaseException:
            backend.close()
            os.close(self.fd)
            raise
        try:
            self.member.mirror.wait(1, JOIN_S)
        except BaseException:
            self.close()
            raise
        self.drain()

    @property
    def number(self) -> int:
        """The number of this instance."""
        return self.member.record.number

    # ---- from other threads to the loop

    def _post(self, function: Callable[[], None]) -> None:
        self._queue.put(function)
        os.eventfd_write(self.fd, 1)

    def drain(self) -> None:
        """Carry out what was queued; to be called when `fd` is readable."""
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            return
        while True:
            try:
                function = self._queue.get_nowait()
            except Empty:
                return
            function()

    def _changed(self, changes: Changes) -> None:
        self._post(lambda: self._apply(changes))

    # ---- on the loop

    def _apply(self, changes: Changes) -> None:
        for event in changes.events:
            if event.key.startswith(self.layout.prefix + "i/"):
                record = self._parsed(event.item) if event.item is not None else None
                if isinstance(record, InstanceRecord):
                    self._instances[event.key] = record
                else:
                    self._instances.pop(event.key, None)

    def _parsed(self, item: Item) -> Record | None:
        try:
            return parse(self.layout, item)
        except InvalidObjectError as error:
            log.warning("what others wrote is passed over: %s", error)
            return None

    def announce(self, rpc: str, told: Callable[[VineyardArrowError | None], None]) -> None:
        """Let the cluster know where this instance serves over TCP; ``told`` once it does."""

        def done(future: Future[Verdict]) -> None:
            error = future.exception()
            self._post(lambda: told(error if isinstance(error, VineyardArrowError) else None))

        self.member.announce(rpc).add_done_callback(done)

    @property
    def unavailable_s(self) -> float | None:
        """For how many seconds the metadata of the cluster was not reached; None if it is."""
        since = self.member.mirror.unavailable_since
        return None if since is None else time.monotonic() - since

    def states(self) -> list[p.InstanceState]:
        """All instances that are known to be up, by number."""
        return [
            p.InstanceState(i.number, i.host, i.pid, i.socket, i.rpc, i.version, i.iid)
            for i in sorted(self._instances.values(), key=lambda i: i.number)
        ]

    def close(self) -> None:
        """Leave the cluster."""
        self.member.close(LEAVE_S)
        self._backend.close()
        os.close(self.fd)
