"""An instance as a member of a cluster: its number, its lease, and what it owns there.

When the lease is lost (the instance was cut off for too long, or etcd lost its data) the instance
is **fenced**: its writes are refused here before the cluster would. As soon as the cluster can be
reached it takes the same lease again and puts back what it owned; only what others took meanwhile
(a name, say) stays lost, and what was committed in the moment before an etcd lost its data, if the
mirror had not shown it yet. Knows no daemon.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial

from msgspec.structs import replace

from ..errors import LeaseLostError, MetadataUnavailableError, VineyardArrowError
from .backend import (
    TIMEOUT_S,
    Backend,
    Changes,
    Committed,
    Conflict,
    Item,
    Lease,
    Put,
    Transaction,
    Verdict,
    absent,
    unchanged,
)
from .groups import GroupCommit
from .mirror import Mirror
from .records import (
    InstanceRecord,
    Layout,
    announce,
    is_owned,
    refer_again,
    register,
    republish,
)

log = logging.getLogger("vineyard_arrow.metadata")
PAUSE_S = 0.5
AGAIN_KEYS = 256  # put back at once, so that each is begun before its deadline
AGAIN_S = 60.0
MAX_NUMBER = 1 << 24


class Membership:
    """Joins a cluster at once, and stays in it until `close`.

    Parameters
    ----------
    backend : Backend
        Stays the caller's to close, after this.
    layout : Layout
        The cluster.
    about : InstanceRecord
        What to say of this instance; ``iid`` and ``number`` are given by the cluster.
    ttl_s : float
        After how long without a word others count it out, in seconds.
    on_change : callable, optional
        See `Mirror`.
    on_conflict : callable, optional
        Called once with each key that another took while this was fenced, from a thread of this.

    Raises
    ------
    MetadataUnavailableError, AccessDeniedError, MetadataFullError
        If it cannot join within ``timeout_s``.
    """

    def __init__(
        self,
        backend: Backend,
        layout: Layout,
        about: InstanceRecord,
        ttl_s: float,
        *,
        timeout_s: float = TIMEOUT_S,
        on_change: Callable[[Changes], None] = lambda changes: None,
        on_conflict: Callable[[str], None] = lambda key: None,
    ) -> None:
        deadline = time.monotonic() + timeout_s
        self._backend = backend
        self._layout = layout
        self._ttl_s = ttl_s
        self._on_change, self._on_conflict = on_change, on_conflict
        self._changed = threading.Condition()  # guards what follows
        self._owned: dict[str, Item] = {}  # to be put back; without the instance's own record
        # By the key of a member that another owns: own objects, and what refers to it again.
        self._foreign: dict[str, dict[str, Transaction]] = {}
        self._fenced_since: float | None = None
        self._closed = False
        self._joined = 0  # how often
        number = next_number(backend, layout, timeout_s)
        self._lease = self._grant(0, deadline)
        self.record = replace(about, iid=self._lease.id, number=number)
        self._own_key = layout.instance(self.record.iid)
        try:
            self._register(deadline)
        except BaseException:
            with contextlib.suppress(VineyardArrowError):
                self._lease.revoke(0)
            raise
        self._groups = GroupCommit(backend)
        self.mirror = Mirror(backend, layout.prefix, self._heard)
        self._thread = threading.Thread(target=self._run, daemon=True, name="metadata-member")
        self._thread.start()

    @property
    def fenced(self) -> bool:
        """Whether the cluster counted this instance out, or must have done so by now."""
        return self.fenced_since is not None

    @property
    def fenced_since(self) -> float | None:
        """Since when (`time.monotonic`) the instance counts as counted out; None if not."""
        since = self._fenced_since
        if since is None and self._lease.lost:
            return min(time.monotonic(), self._lease.alive_until)
        return since

    def submit(self, transaction: Transaction, timeout_s: float = TIMEOUT_S) -> Future[Verdict]:
        """Commit, together with others; see `GroupCommit.submit`.

        Raises
        ------
        LeaseLostError
            If the instance is fenced.
        """
        if self.fenced:
            raise LeaseLostError(
                "the cluster counted this instance out: it was not heard in time",
                "it joins again by itself when the cluster can be reached",
            )
        return self._groups.submit(transaction, timeout_s)

    def commit(self, transaction: Transaction, timeout_s: float = TIMEOUT_S) -> Verdict:
        """Commit and wait until the mirror shows it."""
        deadline = time.monotonic() + timeout_s
        shown = threading.Lock()
        shown.acquire()

        def decided(future: Future[Verdict]) -> None:
            verdict = None if future.exception() else future.result()
            if isinstance(verdict, Committed):
                self.mirror.when(verdict.revision, shown.release)
            else:
                shown.release()

        future = self.submit(transaction, timeout_s)
        future.add_done_callback(decided)
        shown.acquire(timeout=max(0.0, timeout_s))  # woken once, not for the verdict and again
        verdict = future.result()
        if isinstance(verdict, Committed):
            self.mirror.wait(verdict.revision, deadline - time.monotonic())
        return verdict

    def announce(self, rpc: str) -> Future[Verdict]:
        """Say where the instance serves over TCP; whenever it joins again it says so, too."""
        self.record = replace(self.record, rpc=rpc)
        return self._groups.submit(announce(self._layout, self.record))

    def wait_joined(self, timeout_s: float) -> None:
        """Return when the instance is not fenced; MetadataUnavailableError if not in time."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._closed or not self.fenced, timeout_s):
                raise MetadataUnavailableError(
                    f"this instance did not join the cluster again within {timeout_s:g} s"
                )

    def close(self, timeout_s: float = TIMEOUT_S) -> None:
        """Leave the cluster: what the instance owns there goes. May be called twice."""
        with self._changed:
            first, self._closed = not self._closed, True
            self._changed.notify_all()
        self.mirror.close()  # so that nobody waits for a list
        self._thread.join()
        self._groups.close()
        if first:
            try:
                self._lease.revoke(timeout_s)
            except VineyardArrowError as error:
                log.warning("the cluster was left without a word, until its lease ends: %s", error)

    # ---- what is heard

    def _heard(self, changes: Changes) -> None:
        """Note what the instance owns. What goes with its own record is to be put back."""
        gone = any(e.key == self._own_key and e.item is None for e in changes.events)
        taken: list[str] = []
        again: list[Transaction] = []
        with self._changed:
            for event in changes.events:
                if event.key == self._own_key:
                    continue
                if event.item is None:
                    if not (gone or self._fenced_since is not None):
                        self._forget(event.key)
                    continue
                again += self._foreign.get(event.key, {}).values()
                if is_owned(self._layout, event.item, self.record):
                    self._note(event.item)
                elif self._forget(event.key):
                    taken.append(event.key)
            if gone:
                self._fence()
        for transaction in again:  # conflicts where nothing was lost
            with contextlib.suppress(MetadataUnavailableError):
                self._groups.submit(transaction, AGAIN_S)
        for key in taken:
            self._on_conflict(key)
        self._on_change(changes)

    def _note(self, item: Item) -> None:
        self._owned[item.key] = item
        for member, transaction in refer_again(self._layout, item, self.record.iid).items():
            self._foreign.setdefault(member, {})[item.key] = transaction

    def _forget(self, key: str) -> bool:
        """Whether it was the instance's."""
        item = self._owned.pop(key, None)
        if item is None:
            return False
        for member in refer_again(self._layout, item, self.record.iid):
            references = self._foreign.get(member, {})
            references.pop(key, None)
            if not references:
                self._foreign.pop(member, None)
        return True

    def _lost(self, joined: int) -> None:
        with self._changed:
            if joined == self._joined:  # else it is an earlier lease of the same id
                self._fence()

    def _fence(self) -> None:
        if self._fenced_since is None:
            self._fenced_since = min(time.monotonic(), self._lease.alive_until)
        self._changed.notify_all()

    # ---- the thread that joins again

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._fenced_since is not None or self._closed)
                if self._closed:
                    return
            try:
                self._join_again()
            except VineyardArrowError as error:
                log.info("the cluster cannot be joined again yet: %s", error)
                with self._changed:
                    self._changed.wait_for(lambda: self._closed, PAUSE_S)

    def _join_again(self) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        # A lease that ended by our clock alone may still be there, and its keys.
        self._lease.revoke()
        self._lease = self._grant(self.record.iid, deadline)
        self._register(deadline)
        # An etcd that lost its data may have got as far as it was, so that no watch notices.
        self.mirror.relist(deadline - time.monotonic())
        with self._changed:
            owned = list(self._owned.values())
        verdicts = self._commit_all([republish(self._layout, i, self.record.iid) for i in owned])
        for item, verdict in zip(owned, verdicts, strict=True):
            if isinstance(verdict, Conflict) and not self._is_back(item.key):
                with self._changed:
                    known = self._forget(item.key)
                if known:
                    self._on_conflict(item.key)
        with self._changed:
            again = [t for references in self._foreign.values() for t in references.values()]
        for _ in self._commit_all(again):  # conflicts where nothing was lost
            pass
        with self._changed:
            self._fenced_since = None
            if self._lease.lost:
                self._fence()
            self._changed.notify_all()
        log.warning("joined the cluster again, with %d keys", len(owned))

    def _commit_all(self, transactions: list[Transaction]) -> Iterator[Verdict]:
        """Verdicts of any number; ends with an error where one fails, or this is closed."""
        for i in range(0, len(transactions), AGAIN_KEYS):
            if self._closed:
                raise MetadataUnavailableError("this instance leaves the cluster")
            some = transactions[i : i + AGAIN_KEYS]
            for future in [self._groups.submit(each) for each in some]:
                yield future.result()

    def _grant(self, lease: int, deadline: float) -> Lease:
        with self._changed:
            self._joined += 1
        lost = partial(self._lost, self._joined)
        left = deadline - time.monotonic()
        return self._backend.grant(self._ttl_s, lost, lease=lease, timeout_s=left)

    def _register(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if isinstance(self._backend.commit(register(self._layout, self.record), left), Conflict):
            raise LeaseLostError(f"{self._own_key!r} is there already")

    def _is_back(self, key: str) -> bool:
        """Whether a key that was not put back is there, and the instance's."""
        found = self._backend.range(key).items
        return bool(found) and is_owned(self._layout, found[0], self.record)


def next_number(backend: Backend, layout: Layout, timeout_s: float = TIMEOUT_S) -> int:
    """A number from 1 to 2^24 - 1 for a new instance, given to no other until they are used up.

    Raises
    ------
    MetadataUnavailableError
        If there was none in time.
    """
    deadline = time.monotonic() + timeout_s
    while (left := deadline - time.monotonic()) > 0:
        found = backend.range(layout.counter, timeout_s=left).items
        # Anywhere at first: an etcd that lost its data must not give numbers of live instances.
        last = int(found[0].value.split()[0]) if found else int.from_bytes(os.urandom(3))
        number = last % (MAX_NUMBER - 1) + 1
        compare = unchanged(found[0]) if found else absent(layout.counter)
        # With something of its own: another that counts on would write the same number.
        put = Put(layout.counter, f"{number} {os.urandom(16).hex()}".encode())
        if isinstance(backend.commit(Transaction((compare,), (put,)), left), Committed):
            return number
    raise MetadataUnavailableError("no number for this instance could be had in time")
