"""What every metadata backend must do; test files of backends subclass `MetadataConformance`."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vineyard_arrow.errors import (
    InvalidObjectError,
    LeaseLostError,
    MetadataCompactedError,
    MetadataUnavailableError,
)
from vineyard_arrow.metadata.backend import (
    MAX_COMPARES,
    MAX_NBYTES,
    MAX_OPERATIONS,
    Backend,
    Changes,
    Committed,
    Compare,
    Condition,
    Conflict,
    Event,
    Item,
    Put,
    Transaction,
    absent,
    empty,
    exists,
    unchanged,
)

WAIT_S = 60.0
_numbers = itertools.count()


def put(key: str, value: bytes = b"", lease: int = 0) -> Transaction:
    return Transaction(puts=(Put(key, value, lease),))


def fail() -> None:
    pytest.fail("the lease was not to be lost")


KEYS = st.sampled_from(["a", "a/", "a/1", "a/2", "ab", "b", "é", "\U0001f600", "z/z"])
CONDITIONS = st.sampled_from([Condition.EXISTS, Condition.ABSENT, Condition.EMPTY])
COMPARES = st.builds(lambda key, condition: (key, condition), KEYS, CONDITIONS)
PUTS = st.dictionaries(KEYS, st.binary(max_size=3), max_size=4)
TRANSACTIONS = st.tuples(st.lists(COMPARES, max_size=2), PUTS, st.sets(KEYS, max_size=3))


class Model:
    """The slow, obvious store: a dictionary for every revision there was."""

    def __init__(self, prefix: str, revision: int) -> None:
        self.prefix = prefix
        self.history: dict[int, dict[str, Item]] = {revision: {}}

    @property
    def revision(self) -> int:
        return max(self.history)

    @property
    def items(self) -> dict[str, Item]:
        return self.history[self.revision]

    def holds(self, compare: Compare) -> bool:
        match compare.condition:
            case Condition.EXISTS:
                return compare.key in self.items
            case Condition.ABSENT:
                return compare.key not in self.items
            case Condition.EMPTY:
                return not any(key.startswith(compare.key) for key in self.items)
        raise AssertionError

    def commit(self, transaction: Transaction) -> Committed | Conflict:
        failed = tuple(c for c in transaction.compares if not self.holds(c))
        if failed:
            return Conflict(self.revision, failed)
        new = {k: v for k, v in self.items.items() if k not in transaction.deletes}
        changed = len(new) != len(self.items) or bool(transaction.puts)
        next_revision = self.revision + 1
        for each in transaction.puts:
            new[each.key] = Item(each.key, each.value, next_revision, each.lease)
        if changed:
            self.history[next_revision] = new
        return Committed(self.revision)

    def range(self, start: str, revision: int) -> tuple[Item, ...]:
        items = self.history[revision]
        return tuple(items[key] for key in sorted(items) if key.startswith(start))

    def changes(self, after: int) -> list[Changes]:
        out = []
        for revision in sorted(r for r in self.history if r > after):
            before, now = self.history[revision - 1], self.history[revision]
            keys = sorted(k for k in {*before, *now} if before.get(k) != now.get(k))
            out.append(Changes(revision, tuple(Event(k, now.get(k)) for k in keys)))
        return out


class MetadataConformance:
    """Subclasses give the fixtures ``backend`` and ``other``, two clients of one store."""

    @pytest.fixture
    def backend(self) -> Iterator[Backend]:
        raise NotImplementedError

    @pytest.fixture
    def other(self) -> Iterator[Backend]:
        raise NotImplementedError

    @pytest.fixture
    def prefix(self) -> str:
        """Of the keys of one test."""
        return f"/test-{next(_numbers)}/"

    # ---- keys and revisions

    def test_a_key_is_read_as_it_was_put(self, backend: Backend, prefix: str) -> None:
        verdict = backend.commit(put(f"{prefix}k", b"\0\xff"))
        assert isinstance(verdict, Committed)
        read = backend.range(f"{prefix}k")
        assert read.items == (Item(f"{prefix}k", b"\0\xff", verdict.revision),)
        assert read.revision == verdict.revision

    def test_what_is_not_there(self, backend: Backend, prefix: str) -> None:
        assert backend.range(f"{prefix}k").items == ()
        assert backend.range(prefix, prefix=True).items == ()

    def test_a_range_has_all_keys_of_its_prefix_in_order(
        self, backend: Backend, prefix: str
    ) -> None:
        keys = [f"{prefix}p{end}" for end in ("", "/", "a", "é", "\U0001f600", "￿")]
        for key in [*reversed(keys), f"{prefix}o", f"{prefix}q"]:
            backend.commit(put(key))
        assert [i.key for i in backend.range(f"{prefix}p", prefix=True).items] == sorted(keys)
        assert [i.key for i in backend.range(f"{prefix}p").items] == [f"{prefix}p"]

    def test_a_long_range_is_of_one_revision(
        self, backend: Backend, other: Backend, prefix: str
    ) -> None:
        puts = tuple(Put(f"{prefix}{i:05}", b"x" * 100) for i in range(2500))
        first = backend.commit(Transaction(puts=puts))
        other.commit(Transaction(deletes=tuple(p.key for p in puts[::2])))
        whole = backend.range(prefix, prefix=True)
        assert len(whole.items) == 1250
        pages = list(backend.pages(prefix))
        assert {page.revision for page in pages} == {whole.revision}
        assert tuple(item for page in pages for item in page.items) == whole.items
        assert isinstance(first, Committed)
        then = backend.range(prefix, prefix=True, revision=first.revision)
        assert then.revision == first.revision
        assert [i.key for i in then.items] == [p.key for p in puts]

    def test_a_revision_to_come_is_refused(self, backend: Backend, prefix: str) -> None:
        now = backend.range(prefix).revision
        with pytest.raises(InvalidObjectError, match="revision"):
            backend.range(prefix, revision=now + 1000)

    def test_a_commit_without_effect_makes_no_revision(self, backend: Backend, prefix: str) -> None:
        now = backend.range(prefix).revision
        gone = Transaction(deletes=(f"{prefix}never",))
        assert backend.commit(gone) == Committed(now)
        assert backend.commit(Transaction()) == Committed(now)

    # ---- transactions

    def test_compares(self, backend: Backend, prefix: str) -> None:
        a, b = f"{prefix}a", f"{prefix}b"
        backend.commit(put(a))
        (item,) = backend.range(a).items
        now = item.mod_revision
        stale = Compare(a, Condition.UNCHANGED, now - 1)
        held = (exists(a), absent(b), unchanged(item), empty(b), empty(f"{a}/"))
        failed = (absent(a), exists(b), stale, empty(prefix), Compare(b, Condition.UNCHANGED, now))
        for compare in held:
            assert backend.commit(Transaction((compare,))) == Committed(now)
        for compare in failed:
            assert backend.commit(Transaction((compare,), (Put(b, b""),))) == Conflict(
                now, (compare,)
            )
        mixed = Transaction((*held, *failed), (Put(b, b""),))
        assert backend.commit(mixed) == Conflict(now, failed)
        assert backend.range(b).items == ()

    def test_a_transaction_is_one_revision(self, backend: Backend, prefix: str) -> None:
        backend.commit(put(f"{prefix}old"))
        many = tuple(Put(f"{prefix}{i:04}", b"v") for i in range(MAX_OPERATIONS - 1))
        verdict = backend.commit(
            Transaction(tuple(absent(p.key) for p in many[:MAX_COMPARES]), many, (f"{prefix}old",))
        )
        assert isinstance(verdict, Committed)
        items = backend.range(prefix, prefix=True).items
        assert len(items) == MAX_OPERATIONS - 1
        assert {item.mod_revision for item in items} == {verdict.revision}

    @pytest.mark.parametrize(
        "transaction",
        [
            Transaction(puts=(Put("k", b""), Put("k", b""))),
            Transaction(puts=(Put("k", b""),), deletes=("k",)),
            Transaction(puts=(Put("", b""),)),
            Transaction((exists(""),)),
            Transaction(tuple(exists(f"{i}") for i in range(MAX_COMPARES + 1))),
            Transaction(puts=tuple(Put(f"{i}", b"") for i in range(MAX_OPERATIONS + 1))),
            Transaction(puts=(Put("k", bytes(MAX_NBYTES)),)),
        ],
        ids=["twice", "put and deleted", "empty", "empty compare", "compares", "puts", "bytes"],
    )
    def test_what_no_backend_takes(self, backend: Backend, transaction: Transaction) -> None:
        before = backend.range("k", prefix=True)
        with pytest.raises(InvalidObjectError):
            backend.commit(transaction)
        assert backend.range("k", prefix=True) == before

    def test_a_value_of_the_largest_size(self, backend: Backend, prefix: str) -> None:
        value = bytes(MAX_NBYTES - 200)
        backend.commit(put(f"{prefix}k", value))
        assert backend.range(f"{prefix}k").items[0].value == value

    def test_each_of_a_group_has_its_own_verdict(self, backend: Backend, prefix: str) -> None:
        backend.commit(put(f"{prefix}3"))
        group = [
            Transaction((absent(f"{prefix}{i}"),), (Put(f"{prefix}{i}", b""),)) for i in range(70)
        ]
        verdicts = backend.commit_each(group)
        conflicts = [i for i, v in enumerate(verdicts) if isinstance(v, Conflict)]
        assert conflicts == [3]
        assert verdicts[3].failed == (absent(f"{prefix}3"),)
        assert len(backend.range(prefix, prefix=True).items) == 70

    def test_one_of_two_wins(self, backend: Backend, other: Backend, prefix: str) -> None:
        verdicts = []

        def claim(mine: Backend, who: bytes) -> None:
            for i in range(30):
                key = f"{prefix}{i}"
                verdicts.append(mine.commit(Transaction((absent(key),), (Put(key, who),))))

        threads = [
            threading.Thread(target=claim, args=(each, who))
            for each, who in ((backend, b"1"), (other, b"2"))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(isinstance(v, Committed) for v in verdicts) == 30
        assert len(backend.range(prefix, prefix=True).items) == 30

    @settings(
        max_examples=25,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
        derandomize=True,
    )
    @given(drawn=st.lists(TRANSACTIONS, min_size=1, max_size=10))
    def test_it_does_as_a_dictionary_would(self, backend: Backend, drawn: list) -> None:
        prefix = f"/model-{next(_numbers)}/"
        start = backend.range(prefix).revision
        model = Model(prefix, start)
        for compares, puts, deletes in drawn:
            transaction = Transaction(
                tuple(Compare(prefix + key, condition) for key, condition in compares),
                tuple(Put(prefix + key, value) for key, value in puts.items()),
                tuple(prefix + key for key in sorted(deletes - puts.keys())),
            )
            assert backend.commit(transaction) == model.commit(transaction)
        for revision in model.history:
            for prefixed in (prefix, f"{prefix}a", f"{prefix}é"):
                read = backend.range(prefixed, prefix=True, revision=revision)
                assert read.items == model.range(prefixed, revision)
        watch = backend.watch(prefix, start)
        for changes in model.changes(start):
            assert watch.next(WAIT_S) == changes
        watch.close()

    # ---- leases

    def test_keys_end_with_their_lease_in_one_revision(self, backend: Backend, prefix: str) -> None:
        lease = backend.grant(60, fail)
        assert lease.id
        assert lease.ttl_s >= 1
        puts = tuple(Put(f"{prefix}{i}", b"", lease.id) for i in range(200))
        backend.commit(Transaction(puts=(*puts, Put(f"{prefix}stays", b""))))
        put_at = backend.range(prefix, prefix=True).items[0].mod_revision
        watch = backend.watch(prefix, put_at)
        assert not lease.lost
        lease.revoke()
        assert lease.lost
        changes = watch.next(WAIT_S)
        assert changes is not None
        assert {e.key for e in changes.events} == {p.key for p in puts}
        assert all(e.item is None for e in changes.events)
        assert [i.key for i in backend.range(prefix, prefix=True).items] == [f"{prefix}stays"]
        watch.close()

    def test_who_keeps_a_lease_learns_that_it_was_revoked(
        self, backend: Backend, other: Backend, prefix: str
    ) -> None:
        told = threading.Event()
        lease = backend.grant(3, told.set)
        backend.commit(put(f"{prefix}k", b"", lease.id))
        other.revoke(lease.id)
        assert told.wait(WAIT_S)
        assert lease.lost
        assert backend.range(f"{prefix}k").items == ()

    def test_a_key_that_is_put_again_leaves_its_lease(self, backend: Backend, prefix: str) -> None:
        lease = backend.grant(60, fail)
        backend.commit(put(f"{prefix}k", b"", lease.id))
        backend.commit(put(f"{prefix}k", b"mine"))
        lease.revoke()
        assert backend.range(f"{prefix}k").items[0].value == b"mine"

    def test_a_put_on_no_lease(self, backend: Backend, prefix: str) -> None:
        with pytest.raises(LeaseLostError):
            backend.commit(Transaction(puts=(Put(f"{prefix}a", b""), Put(f"{prefix}b", b"", 77))))
        assert backend.range(prefix, prefix=True).items == ()

    def test_a_lease_of_a_given_id(self, backend: Backend) -> None:
        first = backend.grant(60, fail)
        with pytest.raises(LeaseLostError):
            backend.grant(60, fail, lease=first.id)
        first.revoke()
        again = backend.grant(60, fail, lease=first.id)
        assert again.id == first.id
        again.revoke()
        backend.revoke(first.id)  # nothing happens

    # ---- watches

    def test_a_watch_sees_each_revision_once(
        self, backend: Backend, other: Backend, prefix: str
    ) -> None:
        start = backend.range(prefix).revision
        other.commit(put(f"{prefix}before"))
        watch = backend.watch(prefix, start)
        other.commit(put("/elsewhere"))
        other.commit(Transaction(puts=(Put(f"{prefix}b", b"1"), Put(f"{prefix}a", b"2"))))
        other.commit(Transaction(deletes=(f"{prefix}a",)))
        seen = [watch.next(WAIT_S) for _ in range(3)]
        assert [
            [(e.key[len(prefix) :], e.item and e.item.value) for e in c.events] for c in seen
        ] == [
            [("before", b"")],
            [("a", b"2"), ("b", b"1")],
            [("a", None)],
        ]
        assert [c.revision for c in seen] == sorted({c.revision for c in seen})
        assert watch.unavailable_since is None
        assert watch.next(0.01) is None
        watch.close()

    def test_a_watch_after_now_sees_what_comes(self, backend: Backend, prefix: str) -> None:
        now = backend.commit(put(f"{prefix}old")).revision
        watch = backend.watch(prefix, now)
        assert watch.next(0.01) is None
        revision = backend.commit(put(f"{prefix}new")).revision
        assert watch.next(WAIT_S).revision == revision
        watch.close()

    def test_what_was_compacted_is_said(self, backend: Backend, prefix: str) -> None:
        first = backend.commit(put(f"{prefix}k", b"1")).revision
        backend.commit(put(f"{prefix}k", b"2"))
        now = backend.commit(Transaction(deletes=(f"{prefix}k",))).revision
        backend.compact(now)
        with pytest.raises(MetadataCompactedError):
            backend.range(prefix, prefix=True, revision=first)
        watch = backend.watch(prefix, first)
        with pytest.raises(MetadataCompactedError):
            watch.next(WAIT_S)
        watch.close()
        # The delete was of the last revision before: its event may be gone too.
        watch = backend.watch(prefix, now - 1)
        with pytest.raises(MetadataCompactedError):
            watch.next(WAIT_S)
        watch.close()
        assert backend.range(prefix, prefix=True, revision=now).items == ()

    def test_close_ends_a_next_that_waits(self, backend: Backend, prefix: str) -> None:
        watch = backend.watch(prefix, backend.range(prefix).revision)
        thread = threading.Thread(target=watch.next, args=(WAIT_S * 10,))
        thread.start()
        watch.close()
        thread.join(WAIT_S)
        assert not thread.is_alive()
        assert watch.next(WAIT_S) is None

    def test_a_closed_backend_says_so(self, other: Backend, prefix: str) -> None:
        other.close()
        with pytest.raises(MetadataUnavailableError):
            other.range(prefix, timeout_s=0.5)
        with pytest.raises(MetadataUnavailableError):
            other.commit(put(f"{prefix}k"), timeout_s=0.5)
        other.close()
