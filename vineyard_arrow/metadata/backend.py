"""The interface of metadata backends: a small transactional key-value store with revisions.

It is what etcd can do, and no more. Every commit that changes something makes one **revision**
of the whole store; a key carries the revision that changed it last. Keys are text, ordered by
code points; values are bytes. A key on a **lease** goes when that ends, all keys of a lease in
one revision. Knows nothing of objects, and of no implementation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from functools import cached_property

from msgspec import Struct

from ..errors import InvalidObjectError

MAX_COMPARES = 64
MAX_OPERATIONS = 4096  # puts and deletes of one transaction
MAX_EACH_OPERATIONS = 64  # of a transaction that shares a round trip with others
MAX_NBYTES = 1 << 20  # of one transaction; etcd refuses requests of 1.5 MiB
TIMEOUT_S = 5.0


class Item(Struct, frozen=True):
    """One key as it was at some revision; ``lease`` is 0 for a key that stays."""

    key: str
    value: bytes
    mod_revision: int
    lease: int = 0


class Condition(Enum):
    """What a `Compare` asks of a key, or of all keys that start with it."""

    EXISTS = "exists"
    ABSENT = "is absent"
    UNCHANGED = "is unchanged"
    EMPTY = "starts no key"


class Compare(Struct, frozen=True):
    """A condition for a commit, best made by `exists`, `absent`, `unchanged` or `empty`."""

    key: str
    condition: Condition
    mod_revision: int = 0

    def __str__(self) -> str:
        return f"{self.key!r} {self.condition.value}"


def exists(key: str) -> Compare:
    """The key is there."""
    return Compare(key, Condition.EXISTS)


def absent(key: str) -> Compare:
    """The key is not there."""
    return Compare(key, Condition.ABSENT)


def unchanged(item: Item) -> Compare:
    """The key is there as it was read."""
    return Compare(item.key, Condition.UNCHANGED, item.mod_revision)


def empty(prefix: str) -> Compare:
    """No key starts with this."""
    return Compare(prefix, Condition.EMPTY)


class Put(Struct, frozen=True):
    """A key to set."""

    key: str
    value: bytes
    lease: int = 0


class Transaction(Struct, frozen=True, dict=True):
    """Puts and deletes that happen together, if all compares hold; each key at most once."""

    compares: tuple[Compare, ...] = ()
    puts: tuple[Put, ...] = ()
    deletes: tuple[str, ...] = ()

    @cached_property
    def written(self) -> frozenset[str]:
        """Keys that it puts or deletes."""
        return frozenset([p.key for p in self.puts]).union(self.deletes)

    @cached_property
    def nbytes(self) -> int:
        """About how large it is on the wire."""
        keys = [c.key for c in self.compares] + [p.key for p in self.puts] + [*self.deletes]
        return sum(map(len, keys)) + sum(len(p.value) for p in self.puts) + 24 * len(keys)


class Committed(Struct, frozen=True):
    """The transaction was carried out, at this revision."""

    revision: int


class Conflict(Struct, frozen=True):
    """It was not, and nothing changed: these compares did not hold at this revision."""

    revision: int
    failed: tuple[Compare, ...]


Verdict = Committed | Conflict


class Snapshot(Struct, frozen=True):
    """Items by ascending key, all as of one revision."""

    items: tuple[Item, ...]
    revision: int


class Event(Struct, frozen=True):
    """One change; ``item`` is None if the key was deleted or its lease ended."""

    key: str
    item: Item | None


class Changes(Struct, frozen=True):
    """All that one revision changed below a watched prefix, in the order of keys."""

    revision: int
    events: tuple[Event, ...]


class Lease(ABC):
    """A lease that is kept alive until it is revoked, lost, or its backend closed."""

    id: int
    ttl_s: float
    alive_until: float  # by `time.monotonic`, unless it ends before

    @property
    @abstractmethod
    def lost(self) -> bool:
        """Whether it must be counted as ended, by this process's own monotonic clock."""

    @abstractmethod
    def revoke(self, timeout_s: float = TIMEOUT_S) -> None:
        """End it, with its keys. ``on_lost`` is not called.

        Raises
        ------
        MetadataUnavailableError
            If that could not be said in time. It isn't kept alive any more, so it ends by itself.
        """


class Watch(ABC):
    """Changes below a prefix, in order of revisions, none left out, across lost connections.

    For one thread.
    """

    @abstractmethod
    def next(self, timeout_s: float) -> Changes | None:
        """The next revision that changed something; None if there was none in time.

        Raises
        ------
        MetadataCompactedError
            If revisions to come are no longer kept: list again, and watch from there.
        """

    @property
    @abstractmethod
    def unavailable_since(self) -> float | None:
        """Since when (`time.monotonic`) there is no server to listen to; None if there is one."""

    @abstractmethod
    def close(self) -> None:
        """Stop; a `next` that waits gives None. May be called twice, and by any thread."""


class Backend(ABC):
    """A store of metadata. For any number of threads; every call has a deadline.

    All calls may raise `MetadataUnavailableError` (nothing answered in time), `MetadataFullError`
    and `AccessDeniedError`.
    """

    @abstractmethod
    def range(
        self,
        key: str,
        *,
        prefix: bool = False,
        revision: int | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> Snapshot:
        """One key, or all keys that start with it, at the newest revision or at ``revision``.

        Raises
        ------
        MetadataCompactedError
            If that revision is no longer kept.
        InvalidObjectError
            If that revision is still to come.
        """

    def pages(self, prefix: str, timeout_s: float = TIMEOUT_S) -> Iterator[Snapshot]:
        """All keys that start with this, in pages as they come, all of one revision.

        ``timeout_s`` is for each page, so any number of keys can be read.
        """
        yield self.range(prefix, prefix=True, timeout_s=timeout_s)

    @abstractmethod
    def commit(
        self, transaction: Transaction, timeout_s: float = TIMEOUT_S, *, in_doubt: bool = False
    ) -> Verdict:
        """Carry a transaction out if its compares hold, whole or not at all.

        If an answer is lost, whether it was carried out is found out by reading its keys: all
        its puts, at one revision, are taken for its own. So puts of different writers to one key
        must differ in value or lease. ``in_doubt`` says that such an answer was lost before.

        Raises
        ------
        LeaseLostError
            If a put names a lease that is not there.
        InvalidObjectError
            If it is too large, or names a key twice.
        MetadataUnavailableError
            If in time no server carried it out, or none told.
        """

    @abstractmethod
    def commit_each(
        self, transactions: Sequence[Transaction], timeout_s: float = TIMEOUT_S
    ) -> list[Verdict]:
        """Commit small transactions in one round trip; each has its own verdict.

        All their compares are made before any of them is carried out, so none may write what
        another compares or writes (`groups` sees to that). Raises like `commit`, then for all of
        them: some may have been carried out.
        """

    @abstractmethod
    def grant(
        self,
        ttl_s: float,
        on_lost: Callable[[], None],
        *,
        lease: int = 0,
        timeout_s: float = TIMEOUT_S,
    ) -> Lease:
        """Make a lease, of that id or a new one, and keep it alive.

        ``on_lost`` is called once, from a thread of the backend, when the lease has ended without
        `Lease.revoke`, or must be counted as ended because nothing was heard for its time. It must
        not close the backend, which waits for that thread.

        Raises
        ------
        LeaseLostError
            If there is a lease of that id already.
        """

    @abstractmethod
    def revoke(self, lease: int, timeout_s: float = TIMEOUT_S) -> None:
        """End any lease by its id; nothing happens if it is not there."""

    @abstractmethod
    def watch(self, prefix: str, after: int) -> Watch:
        """Changes of all revisions greater than ``after``."""

    @abstractmethod
    def compact(self, revision: int, timeout_s: float = TIMEOUT_S) -> None:
        """Forget how keys were before ``revision``."""

    @abstractmethod
    def close(self) -> None:
        """Stop watches and keeping leases alive. Leases then end by themselves."""


def check_each(transactions: Sequence[Transaction]) -> None:
    """Raise InvalidObjectError for what no backend takes together."""
    for transaction in transactions:
        check_transaction(transaction)
        if len(transaction.puts) + len(transaction.deletes) > MAX_EACH_OPERATIONS:
            raise InvalidObjectError(
                f"a transaction with more than {MAX_EACH_OPERATIONS} keys is committed alone"
            )


def check_transaction(transaction: Transaction) -> None:
    """Raise InvalidObjectError for what no backend takes."""
    operations = len(transaction.puts) + len(transaction.deletes)
    if len(transaction.written) != operations:
        raise InvalidObjectError("a transaction writes a key twice")
    if "" in transaction.written or not all(c.key for c in transaction.compares):
        raise InvalidObjectError("a key is empty")
    figures = (
        (len(transaction.compares), MAX_COMPARES, "compares"),
        (operations, MAX_OPERATIONS, "keys"),
        (transaction.nbytes, MAX_NBYTES, "bytes"),
    )
    for number, most, what in figures:
        if number > most:
            raise InvalidObjectError(
                f"a transaction of metadata has {number:,} {what}, {most:,} at most",
                "compose objects of fewer members, or with less metadata",
            )
