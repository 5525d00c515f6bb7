"""Metadata in this process: the backend that needs no server.

Same semantics as etcd's, revisions and all. With a file (SQLite), keys without a lease survive
a restart. Knows nothing of what it keeps.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..errors import (
    AccessDeniedError,
    ConfigError,
    InvalidObjectError,
    LeaseLostError,
    MetadataCompactedError,
    MetadataFullError,
    MetadataUnavailableError,
)
from .backend import (
    TIMEOUT_S,
    Backend,
    Changes,
    Committed,
    Compare,
    Condition,
    Conflict,
    Event,
    Item,
    Lease,
    Snapshot,
    Transaction,
    Verdict,
    Watch,
    check_each,
    check_transaction,
)

KEPT_REVISIONS = 10_000


class EmbeddedBackend(Backend):
    """A store in memory, or in memory and a file.

    Parameters
    ----------
    path : Path, optional
        Where keys without a lease are kept; made if it isn't there. One process at a time.

    Raises
    ------
    ConfigError
        If the file is none of ours, or another process has it open.
    AccessDeniedError
        If it cannot be opened for writing.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._changed = threading.Condition()  # guards all below
        self._items: dict[str, Item] = {}
        self._keys: list[str] = []  # sorted
        self._history: deque[tuple[Changes, tuple[Item | None, ...]]] = deque()
        self._leases: dict[int, _EmbeddedLease] = {}
        self._lease_ids = itertools.count(time.time_ns())  # never one of an earlier process
        self._revision = 1
        self._closed = False
        self._file = None if path is None else _File(path)
        if self._file is not None:
            self._revision, items = self._file.load()
            self._items = {item.key: item for item in items}
            self._keys = sorted(self._items)
        self._compacted = self._revision

    # ---- reading

    def range(
        self,
        key: str,
        *,
        prefix: bool = False,
        revision: int | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> Snapshot:
        """See `Backend.range`."""
        with self._changed:
            self._check_open()
            if revision is None or revision == self._revision:
                return Snapshot(self._range(key, prefix), self._revision)
            if revision > self._revision:
                raise InvalidObjectError(f"revision {revision} is still to come")
            if revision < self._compacted:
                raise MetadataCompactedError(f"revision {revision} is no longer kept")
            then = {item.key: item for item in self._range(key, prefix)}
            for changes, before in reversed(self._history):
                if changes.revision <= revision:
                    break
                for event, item in zip(changes.events, before, strict=True):
                    if event.key == key or (prefix and event.key.startswith(key)):
                        then.pop(event.key, None)
                        if item is not None:
                            then[event.key] = item
            return Snapshot(tuple(then[k] for k in sorted(then)), revision)

    def _range(self, key: str, prefix: bool) -> tuple[Item, ...]:
        if not prefix:
            return (self._items[key],) if key in self._items else ()
        found = []
        for i in range(bisect.bisect_left(self._keys, key), len(self._keys)):
            if not self._keys[i].startswith(key):
                break
            found.append(self._items[self._keys[i]])
        return tuple(found)

    # ---- writing

    def commit(
        self, transaction: Transaction, timeout_s: float = TIMEOUT_S, *, in_doubt: bool = False
    ) -> Verdict:
        """See `Backend.commit`."""
        check_transaction(transaction)
        with self._changed:
            self._check_open()
            self._check_leases(transaction)
            verdict = self._commit(transaction)
            if in_doubt and isinstance(verdict, Conflict):
                return self._carried_out(transaction) or verdict
            return verdict

    def _carried_out(self, transaction: Transaction) -> Committed | None:
        found = [self._items.get(put.key) for put in transaction.puts]
        for put, item in zip(transaction.puts, found, strict=True):
            if item is None or (item.value, item.lease) != (put.value, put.lease):
                return None
        revisions = {item.mod_revision for item in found if item is not None}
        if len(revisions) > 1 or any(key in self._items for key in transaction.deletes):
            return None
        return Committed(max(revisions, default=self._revision))

    def commit_each(
        self, transactions: Sequence[Transaction], timeout_s: float = TIMEOUT_S
    ) -> list[Verdict]:
        """See `Backend.commit_each`."""
        check_each(transactions)
        with self._changed:
            self._check_open()
            for transaction in transactions:
                self._check_leases(transaction)
            return [self._commit(transaction) for transaction in transactions]

    def _check_leases(self, transaction: Transaction) -> None:
        for put in transaction.puts:
            if put.lease and put.lease not in self._leases:
                raise LeaseLostError(f"there is no lease {put.lease}")

    def _commit(self, transaction: Transaction) -> Verdict:
        failed = tuple(c for c in transaction.compares if not self._holds(c))
        if failed:
            return Conflict(self._revision, failed)
        new: dict[str, Item | None] = {
            key: None for key in transaction.deletes if key in self._items
        }
        for put in transaction.puts:
            new[put.key] = Item(put.key, put.value, self._revision + 1, put.lease)
        self._apply(new)
        return Committed(self._revision)

    def _holds(self, compare: Compare) -> bool:
        item = self._items.get(compare.key)
        match compare.condition:
            case Condition.EXISTS:
                return item is not None
            case Condition.ABSENT:
                return item is None
            case Condition.UNCHANGED:
                return item is not None and item.mod_revision == compare.mod_revision
            case Condition.EMPTY:
                i = bisect.bisect_left(self._keys, compare.key)
                return i == len(self._keys) or not self._keys[i].startswith(compare.key)

    def _apply(self, new: dict[str, Item | None]) -> None:
        """Make the next revision of these keys, None for those that go."""
        if not new:
            return
        if self._file is not None:
            self._file.write(self._revision + 1, new)  # may fail, and nothing happened then
        before = []
        for key, item in sorted(new.items()):
            old = self._items.get(key)
            before.append(old)
            if item is None:
                del self._items[key]
                del self._keys[bisect.bisect_left(self._keys, key)]
            else:
                if old is None:
                    bisect.insort(self._keys, key)
                self._items[key] = item
        self._revision += 1
        events = tuple(Event(key, item) for key, item in sorted(new.items()))
        self._history.append((Changes(self._revision, events), tuple(before)))
        if len(self._history) > KEPT_REVISIONS:
            self._compacted = self._history.popleft()[0].revision
        self._changed.notify_all()

    def compact(self, revision: int, timeout_s: float = TIMEOUT_S) -> None:
        """See `Backend.compact`."""
        with self._changed:
            self._check_open()
            while self._history and self._history[0][0].revision <= revision:
                self._history.popleft()
            self._compacted = max(self._compacted, min(revision, self._revision))

    # ---- leases and watches

    def grant(
        self,
        ttl_s: float,
        on_lost: Callable[[], None],
        *,
        lease: int = 0,
        timeout_s: float = TIMEOUT_S,
    ) -> Lease:
        """See `Backend.grant`."""
        with self._changed:
            self._check_open()
            lease = lease or next(self._lease_ids)
            if lease in self._leases:
                raise LeaseLostError(f"lease {lease} is another's")
            self._leases[lease] = _EmbeddedLease(self, lease, ttl_s, on_lost)
            return self._leases[lease]

    def revoke(self, lease: int, timeout_s: float = TIMEOUT_S) -> None:
        """See `Backend.revoke`."""
        if (ended := self.end_lease(lease)) is not None:
            # From a thread of its own, as when a server says so: the caller may hold locks.
            threading.Thread(target=ended.on_lost, daemon=True).start()

    def end_lease(self, lease: int) -> _EmbeddedLease | None:
        """Remove a lease and its keys; None if there is none."""
        with self._changed:
            self._check_open()
            ended = self._leases.pop(lease, None)
            if ended is not None:
                self._apply({key: None for key, item in self._items.items() if item.lease == lease})
            return ended

    def is_alive(self, lease: _EmbeddedLease) -> bool:
        """Whether it is still one of this open store."""
        with self._changed:
            return not self._closed and self._leases.get(lease.id) is lease

    def watch(self, prefix: str, after: int) -> Watch:
        """See `Backend.watch`."""
        return _EmbeddedWatch(self, prefix, after)

    def next_changes(self, watch: _EmbeddedWatch, timeout_s: float) -> Changes | None:
        """See `Watch.next`."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not (self._closed or watch.closed):
                if watch.after < self._compacted:
                    raise MetadataCompactedError(f"revision {watch.after + 1} is no longer kept")
                if found := self._first_after(watch):
                    return found
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    break
            return None

    def _first_after(self, watch: _EmbeddedWatch) -> Changes | None:
        """The next changes for a watch, which is moved past what it doesn't want to see."""
        start = len(self._history) - max(0, self._revision - watch.after)
        for changes, _ in itertools.islice(self._history, max(0, start), None):
            watch.after = changes.revision
            wanted = tuple(e for e in changes.events if e.key.startswith(watch.prefix))
            if wanted:
                return Changes(changes.revision, wanted)
        return None

    def wake(self) -> None:
        """Let all that wait look again."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """See `Backend.close`."""
        with self._changed:
            if not self._closed and self._file is not None:
                self._file.close()
            self._closed = True
            self._changed.notify_all()

    def _check_open(self) -> None:
        if self._closed:
            raise MetadataUnavailableError("this store of metadata is closed")


class _EmbeddedLease(Lease):
    alive_until = math.inf

    def __init__(
        self, backend: EmbeddedBackend, lease: int, ttl_s: float, on_lost: Callable[[], None]
    ) -> None:
        self._backend = backend
        self.id, self.ttl_s, self.on_lost = lease, ttl_s, on_lost

    @property
    def lost(self) -> bool:
        return not self._backend.is_alive(self)

    def revoke(self, timeout_s: float = TIMEOUT_S) -> None:
        self._backend.end_lease(self.id)


class _EmbeddedWatch(Watch):
    unavailable_since = None

    def __init__(self, backend: EmbeddedBackend, prefix: str, after: int) -> None:
        self._backend = backend
        self.prefix, self.after, self.closed = prefix, after, False

    def next(self, timeout_s: float) -> Changes | None:
        return self._backend.next_changes(self, timeout_s)

    def close(self) -> None:
        self.closed = True
        self._backend.wake()


class _File:
    """Keys without a lease, in SQLite."""

    def __init__(self, path: Path) -> None:
        import sqlite3  # a store in memory alone starts sooner without

        self._failed = sqlite3.DatabaseError
        try:
            self._db = sqlite3.connect(
                path, timeout=0, isolation_level=None, check_same_thread=False
            )
        except sqlite3.OperationalError as error:
            raise AccessDeniedError(
                f"cannot open {path}: {error}", "name a file in a folder that you can write to"
            ) from None
        try:
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            with self._changing():
                for table in (
                    "item (key TEXT PRIMARY KEY, value BLOB, mod_revision INTEGER)",
                    "newest (revision INTEGER)",
                ):
                    self._db.execute(f"CREATE TABLE IF NOT EXISTS {table}")
        except self._failed as error:
            self._db.close()
            raise ConfigError(
                f"{path} cannot be used for metadata: {error}",
                "only one daemon may use it; name another file",
            ) from None

    def load(self) -> tuple[int, list[Item]]:
        rows = self._db.execute("SELECT key, value, mod_revision FROM item").fetchall()
        (newest,) = self._db.execute("SELECT max(revision) FROM newest").fetchone()
        return newest or 1, [Item(*row) for row in rows]

    def write(self, revision: int, new: dict[str, Item | None]) -> None:
        """Record a revision. A key that got a lease is gone after a restart, so it goes here."""
        try:
            with self._changing():
                for key, item in new.items():
                    if item is None or item.lease:
                        self._db.execute("DELETE FROM item WHERE key = ?", (key,))
                    else:
                        self._db.execute(
                            "INSERT OR REPLACE INTO item VALUES (?, ?, ?)",
                            (key, item.value, revision),
                        )
                self._db.execute("DELETE FROM newest")
                self._db.execute("INSERT INTO newest VALUES (?)", (revision,))
        except self._failed as error:
            raise MetadataFullError(
                f"the file of metadata cannot be written: {error}", "make room on its disk"
            ) from None

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def close(self) -> None:
        self._db.close()
