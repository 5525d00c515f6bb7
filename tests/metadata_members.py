"""What mirrors, group commit and membership do over any backend; subclassed like the suite."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import pytest
from metadata_conformance import WAIT_S, put

from vineyard_arrow.errors import (
    InvalidObjectError,
    LeaseLostError,
    MetadataUnavailableError,
    VineyardArrowError,
)
from vineyard_arrow.metadata.backend import (
    Backend,
    Changes,
    Committed,
    Conflict,
    Event,
    Item,
    Put,
    Transaction,
    absent,
    empty,
    exists,
)
from vineyard_arrow.metadata.groups import GroupCommit
from vineyard_arrow.metadata.membership import Membership, next_number
from vineyard_arrow.metadata.mirror import Mirror
from vineyard_arrow.metadata.records import (
    InstanceRecord,
    Layout,
    ObjectRecord,
    Reference,
    create_global,
    delete,
    persist,
    put_name,
)

ABOUT = InstanceRecord(0, 0, "here", 1)


def record(member: Membership, number: int, **more: object) -> ObjectRecord:
    iid = member.record.iid
    return ObjectRecord(member.record.number << 40 | number, iid, "t", 1, 2, data=b"d", **more)


def within(call: Callable[[], object], error: type[VineyardArrowError]) -> None:
    """That the call fails with this error, of itself: a deadline of its own is not hung on."""
    start = time.monotonic()
    with pytest.raises(error):
        call()
    assert time.monotonic() - start < WAIT_S


def wait_for(what: Callable[[], object]) -> None:
    """For what another thread or process does, without an event to wait for."""
    deadline = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < deadline, "it did not happen"
        threading.Event().wait(0.01)


class Slow:
    """A backend that begins a commit when it is let, to see what gathers meanwhile."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.begun, self.let = threading.Event(), threading.Event()
        self.sizes: list[int] = []

    def commit(self, transaction, timeout_s=5.0, *, in_doubt=False):
        self.sizes.append(1)
        self.begun.set()
        assert self.let.wait(WAIT_S)
        return self.backend.commit(transaction, timeout_s, in_doubt=in_doubt)

    def commit_each(self, transactions, timeout_s=5.0):
        self.sizes.append(len(transactions))
        return self.backend.commit_each(transactions, timeout_s)


class MembersConformance:
    """Subclasses give ``backend``, ``other`` and ``prefix`` as for `MetadataConformance`."""

    @pytest.fixture
    def layout(self, prefix: str) -> Layout:
        return Layout(f"c{prefix.strip('/')}")

    @pytest.fixture
    def groups(self, backend: Backend) -> Iterator[GroupCommit]:
        groups = GroupCommit(backend)
        yield groups
        groups.close()

    @pytest.fixture
    def slow(self, backend: Backend) -> Slow:
        return Slow(backend)

    @pytest.fixture
    def gather(self, slow: Slow) -> Iterator[Callable[[list[Transaction]], list[Future]]]:
        """Submit transactions that wait behind one that is on its way; then let all go."""
        groups = GroupCommit(slow)

        def submit(transactions: list[Transaction]) -> list[Future]:
            first = groups.submit(Transaction())
            assert slow.begun.wait(WAIT_S)
            futures = [groups.submit(t) for t in transactions]
            slow.let.set()
            assert isinstance(first.result(WAIT_S), Committed)
            return futures

        yield submit
        groups.close()

    @pytest.fixture
    def join(self, backend: Backend, layout: Layout) -> Iterator[Callable[..., Membership]]:
        made: list[Membership] = []

        def make(at: Backend | None = None, ttl_s: float = 3.0, **options: object) -> Membership:
            made.append(Membership(at or backend, layout, ABOUT, ttl_s, **options))
            return made[-1]

        yield make
        for each in made:
            each.close()

    # ---- group commit

    def test_callers_share_a_commit_and_have_verdicts_of_their_own(
        self, gather, slow, prefix
    ) -> None:
        slow.backend.commit(put(f"{prefix}3"))
        key = f"{prefix}{{}}".format
        futures = gather([Transaction((absent(key(i)),), (Put(key(i), b""),)) for i in range(20)])
        verdicts = [f.result(WAIT_S) for f in futures]
        assert [i for i, v in enumerate(verdicts) if isinstance(v, Conflict)] == [3]
        assert slow.sizes == [1, 20]
        revisions = {v.revision for v in verdicts if isinstance(v, Committed)}
        assert len(revisions) <= 19

    @pytest.mark.parametrize(
        ("first", "second", "outcome"),
        [
            (((), ("a",), ()), ((), ("a",), ()), Committed),
            (((), ("a",), ()), ((), (), ("a",)), Committed),
            (((), ("a",), ()), ((absent, "a"), ("b",), ()), Conflict),
            (((exists, "c"), ("a",), ()), ((), (), ("c",)), Committed),
            (((empty, "r/"), ("a",), ()), ((), ("r/1",), ()), Committed),
            (((), ("r/1",), ()), ((empty, "r/"), ("a",), ()), Conflict),
        ],
    )
    def test_what_depends_on_another_does_not_share_its_commit(
        self, gather, slow, prefix, first, second, outcome
    ) -> None:
        def make(compare, puts, deletes) -> Transaction:
            compares = (compare[0](prefix + compare[1]),) if compare else ()
            return Transaction(
                compares,
                tuple(Put(prefix + key, b"x") for key in puts),
                tuple(prefix + key for key in deletes),
            )

        slow.backend.commit(put(f"{prefix}c"))
        futures = gather([make(*first), make(*second)])
        assert isinstance(futures[0].result(WAIT_S), Committed)
        assert isinstance(futures[1].result(WAIT_S), outcome)
        assert slow.sizes == [1, 1, 1]

    def test_one_that_is_to_blame_does_not_spoil_the_others(self, gather, slow, prefix) -> None:
        bad = put(f"{prefix}bad", b"", 77)
        good = [put(f"{prefix}{i}") for i in range(5)]
        futures = gather([*good[:2], bad, *good[2:]])
        with pytest.raises(LeaseLostError):
            futures[2].result(WAIT_S)
        for future in (*futures[:2], *futures[3:]):
            assert isinstance(future.result(WAIT_S), Committed)
        assert len(slow.backend.range(prefix, prefix=True).items) == 5

    def test_a_group_whose_answer_was_lost(
        self, gather, slow, backend, prefix, monkeypatch
    ) -> None:
        def lose(transactions, timeout_s):
            backend.commit_each(transactions, timeout_s)
            raise MetadataUnavailableError("lost")

        monkeypatch.setattr(slow, "commit_each", lose)
        keys = [f"{prefix}{i}" for i in range(4)]
        backend.commit(put(keys[0]))
        futures = gather([Transaction((absent(k),), (Put(k, b"me"),)) for k in keys])
        verdicts = [f.result(WAIT_S) for f in futures]
        assert [isinstance(v, Committed) for v in verdicts] == [False, True, True, True]

    def test_large_ones_go_alone(self, gather, slow, prefix) -> None:
        large = Transaction(puts=tuple(Put(f"{prefix}{i}", b"") for i in range(100)))
        small = [put(f"{prefix}s{i}") for i in range(2)]
        heavy = [put(f"{prefix}h{i}", bytes(600_000)) for i in range(2)]
        for future in gather([large, *small, *heavy]):
            assert isinstance(future.result(WAIT_S), Committed)
        assert slow.sizes == [1, 1, 3, 1]

    def test_what_is_refused_at_once(self, groups, prefix) -> None:
        with pytest.raises(InvalidObjectError):
            groups.submit(Transaction(deletes=("a", "a")))
        groups.close()
        with pytest.raises(MetadataUnavailableError):
            groups.submit(put(f"{prefix}a"))

    def test_a_deadline_that_passed_while_waiting(self, slow, prefix) -> None:
        groups = GroupCommit(slow)
        first = groups.submit(put(f"{prefix}a"))
        assert slow.begun.wait(WAIT_S)
        late = groups.submit(put(f"{prefix}b"), timeout_s=0)
        slow.let.set()
        assert isinstance(first.result(WAIT_S), Committed)
        with pytest.raises(MetadataUnavailableError, match="not begun"):
            late.result(WAIT_S)
        groups.close()
        assert slow.backend.range(f"{prefix}b").items == ()

    # ---- mirror

    def test_a_mirror_is_what_the_store_is(self, backend, other, prefix) -> None:
        backend.commit(put(f"{prefix}before"))
        heard: list[Changes] = []
        mirror = Mirror(backend, prefix, heard.append)
        groups = GroupCommit(other)
        futures = [groups.submit(put(f"{prefix}{i % 7}", b"%d" % i)) for i in range(100)]
        last = futures[-1].result(WAIT_S).revision
        gone = other.commit(Transaction(deletes=(f"{prefix}3",))).revision
        mirror.wait(gone, WAIT_S)
        assert mirror.snapshot().items == other.range(prefix, prefix=True).items
        assert mirror.get(f"{prefix}3") is None
        assert mirror.get(f"{prefix}1").value == b"99"
        assert [i.key for i in mirror.snapshot(f"{prefix}b").items] == [f"{prefix}before"]
        assert mirror.unavailable_since is None
        # Whoever follows what it says has the same.
        items = {}
        for changes in heard:
            for event in changes.events:
                items[event.key] = event.item
        items = {k: v for k, v in items.items() if v is not None}
        assert items == {i.key: i for i in mirror.snapshot().items}
        assert [c.revision for c in heard] == sorted({c.revision for c in heard})
        assert last < gone <= mirror.revision
        groups.close()
        mirror.close()
        mirror.close()
        with pytest.raises(MetadataUnavailableError):
            mirror.wait(gone + 1, WAIT_S)

    def test_a_mirror_lists_anew_after_a_compaction(
        self, backend, other, prefix, monkeypatch
    ) -> None:
        heard: list[Changes] = []
        real, held = backend.watch, threading.Event()

        def watch(start: str, after: int):
            # Much happens, and is compacted, between the list and the watch.
            if not held.is_set():
                held.set()
                other.commit(put(f"{prefix}new"))
                now = other.commit(Transaction(deletes=(f"{prefix}old",))).revision
                other.compact(now)
            return real(start, after)

        backend.commit(put(f"{prefix}old"))
        monkeypatch.setattr(backend, "watch", watch)
        mirror = Mirror(backend, prefix, heard.append)
        wait_for(lambda: mirror.get(f"{prefix}new"))
        assert mirror.get(f"{prefix}old") is None
        assert [e.key for c in heard for e in c.events] == [
            f"{prefix}old",
            f"{prefix}new",
            f"{prefix}old",
        ]
        assert heard[-1].events[1] == Event(f"{prefix}old", None)
        mirror.close()

    def test_a_mirror_lists_anew_when_it_is_told_to(self, backend, prefix) -> None:
        heard: list[Changes] = []
        mirror = Mirror(backend, prefix, heard.append)
        mirror.relist(WAIT_S)
        mirror._items["stray"] = Item("stray", b"", 1)
        mirror.relist(WAIT_S)
        assert heard[-1].events == (Event("stray", None),)
        mirror.wait(backend.commit(put(f"{prefix}a")).revision, WAIT_S)
        assert heard[-1].events[0].key == f"{prefix}a"
        mirror.close()

    def test_what_is_told_may_fail(self, backend, prefix) -> None:
        mirror = Mirror(backend, prefix, lambda changes: 1 / 0)
        revision = backend.commit(put(f"{prefix}a")).revision
        mirror.wait(revision, WAIT_S)
        mirror.wait(backend.commit(put(f"{prefix}b")).revision, WAIT_S)
        mirror.close()

    # ---- membership

    def test_numbers_are_given_once(self, backend, other, layout) -> None:
        found: list[int] = [next_number(backend, layout)]
        backend.commit(put(layout.counter, b"%d x" % (found[0] % 1000 + 1)))
        found[0] = found[0] % 1000 + 1

        def take(at: Backend) -> None:
            found.extend(next_number(at, layout, WAIT_S) for _ in range(10))

        threads = [threading.Thread(target=take, args=(at,)) for at in (backend, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(found) == list(range(found[0], found[0] + 21))
        backend.commit(put(layout.counter, b"16777215 x"))
        assert next_number(backend, layout) == 1

    def test_members_see_each_other(self, join, other, layout) -> None:
        one, two = join(), join(other)
        assert two.record.number == one.record.number % 16777215 + 1
        made = record(one, 5, names=("n",))
        verdict = one.commit(persist(layout, made))
        assert one.mirror.get(layout.object(made.iid, made.id))
        two.mirror.wait(verdict.revision, WAIT_S)
        assert two.mirror.get(layout.name("n")).lease == one.record.iid
        taken = two.commit(put_name(layout, "n", made))
        assert taken.failed == (absent(layout.name("n")),)
        one.close()
        wait_for(lambda: two.mirror.get(layout.name("n")) is None)
        keys = [i.key for i in two.mirror.snapshot().items]
        assert keys == [layout.instance(two.record.iid), layout.counter]

    def test_who_was_counted_out_joins_again_with_what_is_its_own(
        self, join, other, layout
    ) -> None:
        lost: list[str] = []
        one, two = join(on_conflict=lost.append), join(other)
        iid = one.record.iid
        theirs = record(two, 1)
        kept, gone = record(one, 1, names=("kept", "taken")), record(one, 2)
        two.commit(persist(layout, theirs))
        one.commit(persist(layout, kept))
        one.commit(persist(layout, gone))
        one.commit(delete(layout, gone))
        whole = record(
            one, 3, members=(Reference(kept.id, iid), Reference(theirs.id, two.record.iid))
        )
        (step,) = create_global(layout, whole)
        one.commit(step)
        before = {i.key: i.value for i in one.mirror.snapshot().items}
        # It may join again before the name is taken, so that is held back.
        registered = threading.Event()
        grant, granted = one._backend.grant, threading.Event()

        def held(*arguments, **options):
            granted.set()
            assert registered.wait(WAIT_S)
            return grant(*arguments, **options)

        one._backend.grant = held
        other.revoke(iid)
        assert granted.wait(WAIT_S)
        assert one.fenced
        with pytest.raises(LeaseLostError, match="counted this instance out"):
            one.submit(persist(layout, record(one, 9)))
        wait_for(lambda: two.mirror.get(layout.instance(iid)) is None)
        left = {i.key for i in two.mirror.snapshot().items}
        assert layout.object(iid, kept.id) not in left
        assert layout.globals(whole.id) in left
        two.commit(put_name(layout, "taken", theirs))
        registered.set()
        one.wait_joined(WAIT_S)
        one.mirror.wait(one.commit(persist(layout, record(one, 10))).revision, WAIT_S)
        after = {i.key: i.value for i in one.mirror.snapshot().items}
        assert lost == [layout.name("taken")]
        assert after.pop(layout.object(iid, record(one, 10).id))
        assert after.pop(layout.name("taken")) != before.pop(layout.name("taken"))
        assert after == before
        two.mirror.wait(one.mirror.revision, WAIT_S)
        assert two.mirror.snapshot() == one.mirror.snapshot()
