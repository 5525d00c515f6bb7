"""Group commit: transactions of many callers go to the backend together, one verdict each.

While one group is on its way, the next gathers: no timer, and one caller alone waits for nobody.
All compares of a group are made before any of its writes, so a transaction that touches what an
earlier one of the group writes starts the next group. Knows nothing of what is committed.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Set
from concurrent.futures import Future

from msgspec import Struct

from ..errors import MetadataUnavailableError, VineyardArrowError
from .backend import (
    MAX_EACH_OPERATIONS,
    MAX_NBYTES,
    TIMEOUT_S,
    Backend,
    Condition,
    Transaction,
    Verdict,
    check_transaction,
)

MAX_GROUP = 64


class _Waiting(Struct, eq=False):
    transaction: Transaction
    deadline: float
    future: Future[Verdict]


class _Group(Struct, eq=False):
    """Transactions of which none writes what another compares or writes."""

    waiting: list[_Waiting] = []
    written: set[str] = set()
    compared: set[str] = set()
    prefixes: list[str] = []  # compared to be empty
    nbytes: int = 0

    def add(self, waiting: _Waiting) -> bool:
        """Take a transaction, if it fits."""
        transaction = waiting.transaction
        writes = transaction.written
        prefixes = [c.key for c in transaction.compares if c.condition is Condition.EMPTY]
        compares = {c.key for c in transaction.compares if c.condition is not Condition.EMPTY}
        nbytes = self.nbytes + transaction.nbytes
        if self.waiting and not (
            len(self.waiting) < MAX_GROUP
            and nbytes <= MAX_NBYTES
            and is_small(transaction)
            and is_small(self.waiting[0].transaction)
            and writes.isdisjoint(self.written)
            and writes.isdisjoint(self.compared)
            and compares.isdisjoint(self.written)
            and not _any_starts(writes, self.prefixes)
            and not _any_starts(self.written, prefixes)
        ):
            return False
        self.waiting.append(waiting)
        self.written |= writes
        self.compared |= compares
        self.prefixes += prefixes
        self.nbytes = nbytes
        return True


def is_small(transaction: Transaction) -> bool:
    """Whether a group may have it; others are committed alone."""
    return len(transaction.puts) + len(transaction.deletes) <= MAX_EACH_OPERATIONS


def _any_starts(keys: Set[str], prefixes: list[str]) -> bool:
    starts = tuple(prefixes)
    return bool(starts) and any(key.startswith(starts) for key in keys)


class GroupCommit:
    """Commits for any number of threads by one thread of its own, in the order of submission.

    Parameters
    ----------
    backend : Backend
        Stays the caller's to close, after this.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._changed = threading.Condition()
        self._queue: deque[_Waiting] = deque()
        self._closed = False
        self._thread = threading.Thread(target=self._run, daemon=True, name="metadata-commit")
        self._thread.start()

    def submit(self, transaction: Transaction, timeout_s: float = TIMEOUT_S) -> Future[Verdict]:
        """Commit soon. The future has the verdict, or what `Backend.commit` raises.

        Callbacks of the future run in the committing thread: they should only pass on.

        Raises
        ------
        InvalidObjectError
            If no backend takes such a transaction.
        MetadataUnavailableError
            If this is closed.
        """
        check_transaction(transaction)
        future: Future[Verdict] = Future()
        with self._changed:
            if self._closed:
                raise _closed()
            self._queue.append(_Waiting(transaction, time.monotonic() + timeout_s, future))
            self._changed.notify()
        return future

    def commit(self, transaction: Transaction, timeout_s: float = TIMEOUT_S) -> Verdict:
        """Commit and wait; see `Backend.commit`."""
        return self.submit(transaction, timeout_s).result()

    def close(self) -> None:
        """Commit what was submitted, then stop. May be called twice."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    # ---- the thread

    def _run(self) -> None:
        while (group := self._next_group()) is not None:
            live = [w for w in group if w.future.set_running_or_notify_cancel()]
            now = time.monotonic()
            for waiting in live:
                if waiting.deadline <= now:
                    waiting.future.set_exception(
                        MetadataUnavailableError("a commit was not begun before its deadline")
                    )
            self._commit([w for w in live if w.deadline > now])

    def _next_group(self) -> list[_Waiting] | None:
        with self._changed:
            while not self._queue:
                if self._closed:
                    return None
                self._changed.wait()
            group = _Group()
            while self._queue and group.add(self._queue[0]):
                self._queue.popleft()
            return group.waiting

    def _commit(self, group: list[_Waiting]) -> None:
        if len(group) == 1:
            return self._commit_alone(group[0])
        if not group:
            return None
        left = min(w.deadline for w in group) - time.monotonic()
        try:
            verdicts = self._backend.commit_each([w.transaction for w in group], left)
        except VineyardArrowError:
            # One of them may be to blame, or the answer is lost: alone, each learns its own.
            for waiting in group:
                self._commit_alone(waiting, in_doubt=True)
            return None
        for waiting, verdict in zip(group, verdicts, strict=True):
            waiting.future.set_result(verdict)
        return None

    def _commit_alone(self, waiting: _Waiting, *, in_doubt: bool = False) -> None:
        left = max(0.0, waiting.deadline - time.monotonic())
        try:
            verdict = self._backend.commit(waiting.transaction, left, in_doubt=in_doubt)
        except Exception as error:
            waiting.future.set_exception(error)
        else:
            waiting.future.set_result(verdict)


def _closed() -> MetadataUnavailableError:
    return MetadataUnavailableError("this store of metadata is closed")
