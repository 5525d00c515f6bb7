"""The daemon's part in a cluster: what others told, as the event loop may ask without waiting.

Threads of `metadata` hear and commit; what they have to say is queued here, and carried out on
the loop when the descriptor `fd` is readable. Without an etcd the cluster is this instance alone.
Knows no sockets and no catalog: who does is told by what `listen` was given.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from fnmatch import fnmatchcase
from queue import Empty, SimpleQueue

from .errors import InvalidObjectError, MetadataUnavailableError, VineyardArrowError
from .ipc import protocol as p
from .metadata.backend import Backend, Changes, Item, Transaction, Verdict
from .metadata.membership import Membership
from .metadata.records import (
    EdgeRecord,
    GlobalRecord,
    InstanceRecord,
    Layout,
    NameRecord,
    ObjectRecord,
    Record,
    parse,
)

log = logging.getLogger("vineyard_arrow.cluster")
JOIN_S = 10.0  # without a page of the first list
LOCAL_HINT = "what is in this instance's own memory can still be put and got"
MAX_REVISION = 1 << 63
LEAVE_S = 2.0  # to take leave of a cluster that may not answer
Outcome = Verdict | VineyardArrowError
Known = ObjectRecord | GlobalRecord


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
        self.names: dict[str, int] = {}  # of the cluster, as far as was heard
        self._names_of: dict[int, set[str]] = {}
        self._instances: dict[str, InstanceRecord] = {}  # by key
        self._by_number: dict[int, InstanceRecord] = {}
        self._listener: Callable[[Changes, bool], None] | None = None
        self._applied = 0
        self._later: list[tuple[int, int, Callable[[], None]]] = []  # a heap, by revision
        self._order = itertools.count()
        self._backend = backend
        self._queue: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._joined = False
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            self.member = Membership(backend, layout, about, ttl_s, on_change=self._changed)
        except BaseException:
            backend.close()
            os.close(self.fd)
            raise
        self._joined = True
        try:
            self.member.mirror.wait_listed(JOIN_S)
        except MetadataUnavailableError:
            self.close()
            raise
        self.drain()

    @property
    def number(self) -> int:
        """The number of this instance."""
        return self.member.record.number

    @property
    def iid(self) -> int:
        """The lease of this instance."""
        return self.member.record.iid

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
            try:
                function()
            except Exception:
                log.exception("what the cluster told was not carried out")

    def _changed(self, changes: Changes) -> None:
        # What goes while this instance is counted out comes again: it keeps what it has.
        fenced = self._joined and self.member.fenced
        self._post(lambda: self._apply(changes, fenced))

    # ---- on the loop

    def listen(self, listener: Callable[[Changes, bool], None]) -> None:
        """Have what changes told, and whether this instance was fenced then."""
        self._listener = listener

    def _apply(self, changes: Changes, fenced: bool) -> None:
        start = len(self.layout.prefix)
        for event in changes.events:
            if event.key.startswith("i/", start):
                self._note_instance(event.key, event.item)
            elif event.key.startswith("n/", start):
                self._note_name(event.key[start + 2 :], event.item)
        if self._listener is not None:
            self._listener(changes, fenced)
        # After a loss of etcd's data revisions begin anew, and what is waited for may never come.
        reached = changes.revision if changes.revision >= self._applied else MAX_REVISION
        self._applied = changes.revision
        while self._later and self._later[0][0] <= reached:
            heapq.heappop(self._later)[2]()

    def _note_instance(self, key: str, item: Item | None) -> None:
        gone = self._instances.pop(key, None)
        if gone is not None:
            self._by_number.pop(gone.number, None)
        record = self.parsed(item)
        if isinstance(record, InstanceRecord):
            self._instances[key] = self._by_number[record.number] = record

    def _note_name(self, name: str, item: Item | None) -> None:
        old = self.names.pop(name, None)
        if old is not None:
            same = self._names_of[old]
            same.discard(name)
            if not same:
                del self._names_of[old]
        record = self.parsed(item)
        if isinstance(record, NameRecord):
            self.names[name] = record.id
            self._names_of.setdefault(record.id, set()).add(name)

    def parsed(self, item: Item | None) -> Record | None:
        """The record that an item is; None for none, and for what makes no sense."""
        if item is None:
            return None
        try:
            return parse(self.layout, item)
        except InvalidObjectError as error:
            log.warning("what others wrote is passed over: %s", error)
            return None

    # ---- what is known

    def instance(self, number: int) -> InstanceRecord | None:
        """An instance by its number, if it is up."""
        return self._by_number.get(number)

    def item(self, object_id: int) -> Item | None:
        """The key of an object that the cluster knows."""
        mirror = self.member.mirror
        owner = self._by_number.get(object_id >> 40)
        found = mirror.get(self.layout.object(owner.iid, object_id)) if owner is not None else None
        return found or mirror.get(self.layout.globals(object_id))

    def find(self, object_id: int) -> Known | None:
        """An object that the cluster knows."""
        record = self.parsed(self.item(object_id))
        return record if isinstance(record, ObjectRecord | GlobalRecord) else None

    def objects(self) -> Iterator[Known]:
        """All objects that the cluster knows, those of this instance left out, by key."""
        own = f"{self.layout.prefix}o/{self.iid:016x}/"
        for kind in ("o/", "g/"):
            for item in self.member.mirror.snapshot(self.layout.prefix + kind).items:
                if not item.key.startswith(own):
                    record = self.parsed(item)
                    if isinstance(record, ObjectRecord | GlobalRecord):
                        yield record

    def name_item(self, name: str) -> Item | None:
        """The key of a name."""
        return self.member.mirror.get(self.layout.name(name))

    def names_of(self, object_id: int) -> list[str]:
        """Names in the cluster that point to an object, sorted."""
        return sorted(self._names_of.get(object_id, ()))

    def name_items(self, object_id: int) -> list[Item]:
        """The keys of these."""
        items = map(self.name_item, self.names_of(object_id))
        return [item for item in items if item is not None]

    def match_names(self, pattern: str) -> dict[str, int]:
        """Names in the cluster that ``pattern`` (as in a shell) matches."""
        return {n: i for n, i in self.names.items() if fnmatchcase(n, pattern)}

    def parents(self, member: int) -> list[int]:
        """Objects that refer to a member."""
        edges = self.member.mirror.snapshot(self.layout.edges(member)).items
        records = map(self.parsed, edges)
        return [r.parent for r in records if isinstance(r, EdgeRecord)]

    def place(self, object_id: int) -> str:
        """Where an object lives, in words."""
        owner = self._by_number.get(object_id >> 40)
        if owner is None:
            return f"instance {object_id >> 40:06x}, which is not there"
        where = f"{owner.socket} of {owner.host}" + (owner.rpc and f", rpc {owner.rpc}")
        return f"instance {owner.number:06x} ({where})"

    # ---- what is committed

    def commit(
        self,
        transactions: Sequence[Transaction],
        timeout_s: float,
        done: Callable[[list[Outcome]], None],
    ) -> None:
        """Commit in this order; ``done`` is called with all outcomes once they show here."""
        outcomes: list[Outcome | None] = [None] * len(transactions)
        left = len(transactions)

        def settle(place: int, outcome: Outcome) -> None:
            nonlocal left
            outcomes[place] = outcome
            left -= 1
            if not left:
                settled = [o for o in outcomes if o is not None]
                revisions = (o.revision for o in settled if not isinstance(o, VineyardArrowError))
                self._when(max(revisions, default=0), lambda: done(settled))

        for place, transaction in enumerate(transactions):

            def decided(future: Future[Verdict], place: int = place) -> None:
                self._post(lambda: settle(place, _outcome(future)))

            try:
                future = self.member.submit(transaction, timeout_s)
            except VineyardArrowError as error:
                future = Future()
                future.set_exception(error)
            future.add_done_callback(decided)

    def _when(self, revision: int, function: Callable[[], None]) -> None:
        if revision <= self._applied:
            function()
        else:
            heapq.heappush(self._later, (revision, next(self._order), function))

    def announce(self, rpc: str, told: Callable[[VineyardArrowError | None], None]) -> None:
        """Let the cluster know where this instance serves over TCP; ``told`` once it does."""

        def settle(outcome: Outcome) -> None:
            if isinstance(outcome, VineyardArrowError):
                told(outcome)
            else:
                self._when(outcome.revision, lambda: told(None))  # who asks here sees it, too

        def done(future: Future[Verdict]) -> None:
            self._post(lambda: settle(_outcome(future)))

        self.member.announce(rpc).add_done_callback(done)

    @property
    def fenced_s(self) -> float | None:
        """For how many seconds this instance counts as counted out; None if it does not."""
        since = self.member.fenced_since
        return None if since is None else time.monotonic() - since

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


def _outcome(future: Future[Verdict]) -> Outcome:
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, MetadataUnavailableError) and error.hint is None:
        return MetadataUnavailableError(error.message, LOCAL_HINT)
    if isinstance(error, VineyardArrowError):
        return error
    return VineyardArrowError(f"a commit failed: {error!r}")
