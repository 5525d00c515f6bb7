"""The outbox: a put that nobody waits for is as good as any other, whatever befalls its writer.

`Box` is the slow twin of both ends of it, over a client table of one's own.
"""

from __future__ import annotations

import itertools
import mmap
import os
import random
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from test_faults import until
from test_ipc_memory import MIB, PAGE, Desk, item_of
from test_protocol import Wire, innocent, stream_of, wire  # noqa: F401  # fixtures

from vineyard_arrow.client import Client
from vineyard_arrow.errors import ProtocolError
from vineyard_arrow.ipc import _core
from vineyard_arrow.ipc import protocol as p
from vineyard_arrow.puts import ALLOWANCE
from vineyard_arrow.sessions import Session

NBYTES = _core.OUTBOX_NBYTES
LARGEST = NBYTES // 2
U64 = (1 << 64) - 1

# Places in a client table (layout.h).
OUT_HEAD, OUT_KICKED, OUT_TAIL, OUT_ALLOWANCE = 256, 264, 320, 328
OUTBOX = PAGE + 4096 * 16
PINS = OUTBOX + NBYTES


class Box:
    """The outbox of a client table, byte by byte."""

    def __init__(self, table_fd: int) -> None:
        self._map = mmap.mmap(table_fd, os.fstat(table_fd).st_size)

    def load(self, at: int) -> int:
        return int(struct.unpack_from("<Q", self._map, at)[0])

    def store(self, at: int, value: int) -> None:
        struct.pack_into("<Q", self._map, at, value & U64)

    @property
    def allowance(self) -> int:
        return self.load(OUT_ALLOWANCE)

    def write(self, data: bytes) -> int:
        """Write without moving the head; return where the head would then be."""
        head = self.load(OUT_HEAD)
        for i, byte in enumerate(data):
            self._map[OUTBOX + (head + i) % NBYTES] = byte
        return head + len(data)

    def leave(self, body: bytes, length: int | None = None) -> None:
        """Leave an entry, with any length in front; takes no allowance."""
        length = len(body) if length is None else length
        padded = body + b"\0" * (-len(body) % 8)
        self.store(OUT_HEAD, self.write(struct.pack("<Q", length) + padded))

    def put(self, *items: p.PutItem) -> bool:
        """Leave a put as a client does, if there is an allowance for it."""
        body = p.encode_body(p.Put(list(items)))
        used = self.load(OUT_HEAD) - self.load(OUT_TAIL)
        if self.allowance < len(items) or used + len(body) + 16 > NBYTES:
            return False
        self.store(OUT_ALLOWANCE, self.allowance - len(items))
        self.leave(body)
        return True

    def pin(self, slot: int, count: int) -> None:
        struct.pack_into("<I", self._map, PINS + 4 * slot, count)


class Clerk(Desk):
    """A desk whose clients have boxes, and whose refusals are kept."""

    def enter(self) -> tuple[Session, list[Any], Box, list[Exception]]:
        session, said = self.join()
        refusals: list[Exception] = []
        session.refuse = refusals.append
        return session, said, Box(session.table_fd), refusals

    def check_allowances(self) -> None:
        puts = self.service.puts
        assert puts._allowed == sum(w.allowed for w in self.service.memory.writers)


@pytest.fixture
def make_clerk() -> Iterator[Callable[..., Clerk]]:
    made: list[Clerk] = []

    def make(**options: Any) -> Clerk:
        made.append(Clerk(**options))
        return made[-1]

    yield make
    for clerk in made:
        clerk.service.close()


# ---- the ring


def test_mail_of_all_sizes_comes_out_in_order(make_clerk: Callable[..., Clerk]) -> None:
    """The native ends against a deque, around the ring hundreds of times."""
    clerk = make_clerk()
    session, _, box, _ = clerk.enter()
    theirs, ours = socket.socketpair()
    core = _core.Attachment(clerk.service._index_ro, ours.detach())
    core.set_table(session.table_fd, os.dup(session.event_fd))
    table = session.writer.table
    rng = random.Random(1)
    left: deque[bytes] = deque()
    used = taken = full = 0
    sizes = [1, 7, 8, 9, 15, 16, 17, LARGEST - 8, LARGEST - 1, LARGEST, LARGEST + 1]
    for i in range(4000):
        n = rng.choice([*sizes, rng.randrange(1, 3000), rng.randrange(1, LARGEST)])
        body = struct.pack("<I", i) * (n // 4) + b"end"[: n % 4]
        needs = 8 + (n + 7) // 8 * 8
        fits = n <= LARGEST and used + needs <= NBYTES
        assert core.leave(body, []) == fits, (n, used)
        if fits:
            left.append(body)
            used += needs
        full += not fits
        if rng.random() < 0.3:
            assert table.take_mail() == list(left)
            taken += len(left)
            left.clear()
            used = 0
        assert table.has_mail == bool(left)
        assert box.load(OUT_HEAD) - box.load(OUT_TAIL) == used
    assert taken > 1000
    assert full > 100
    assert box.load(OUT_HEAD) > 100 * NBYTES
    assert not core.leave(b"", [])
    assert box.allowance == ALLOWANCE
    theirs.close()


# ---- the daemon's end, with mail that comes at the worst moment


def test_a_kick_that_comes_too_late_does_not_silence_the_next(
    make_clerk: Callable[..., Clerk],
) -> None:
    """A request takes the mail between a writer's moving the head and its kick."""
    clerk = make_clerk()
    session, said, box, _ = clerk.enter()
    assert box.put(item_of(session, said, 0))
    clerk.service.handle(session, 3, p.GetStatus())
    box.store(OUT_KICKED, 1)
    os.eventfd_write(session.event_fd, 1)
    clerk.service._kicked(session)
    assert box.load(OUT_KICKED) == 0


def test_a_left_put_keeps_what_its_writer_lets_go_of(make_clerk: Callable[..., Clerk]) -> None:
    """Left while a delete is under way, just before the pin that it rests on was dropped."""
    clerk = make_clerk()
    session, said, box, refusals = clerk.enter()
    item = item_of(session, said, 0)
    clerk.service.handle(session, 3, p.Put([item]))
    sharing = p.PutItem(item.id + 1, "t", item.streams, [], 8, 0, 0, 8, 0)
    assert box.put(sharing)
    clerk.service.catalog.delete([item.id])
    extents = clerk.service.catalog.get(sharing.id).extents
    assert extents == [item.claims[0][0]]
    clerk.service.catalog.delete([sharing.id])
    assert clerk.figures(session)[:3] == (0, 0, 0)
    assert not refusals


def test_a_waiter_that_vanishes_while_deleted_objects_are_reaped(
    make_clerk: Callable[..., Clerk],
) -> None:
    clerk = make_clerk()
    session, said, box, _ = clerk.enter()
    before = clerk.figures(session)
    items = [item_of(session, said, i) for i in range(3)]
    clerk.service.handle(session, 3, p.Put(items[:2]))
    slots = [clerk.service.catalog.get(item.id).slot for item in items[:2]]
    for slot in slots:
        box.pin(slot, 1)
    clerk.service.handle(session, 4, p.Delete([item.id for item in items[:2]]))
    assert clerk.service.catalog.deleted_pinned == 2
    waiter, *_ = clerk.enter()
    clerk.service.handle(waiter, 3, p.Find(items[2].id, None, 5.0))
    waiter.send = lambda *_: clerk.service.left(waiter)
    for slot in slots:
        box.pin(slot, 0)
    assert box.put(items[2])
    clerk.service.catalog.reap()
    assert waiter not in clerk.service.sessions
    assert clerk.service.catalog.deleted_pinned == 0
    clerk.service.handle(session, 5, p.Delete([items[2].id]))
    assert clerk.figures(session) == before


@pytest.mark.parametrize("by", ["outbox", "socket"])
def test_a_session_that_ends_with_its_own_put(make_clerk: Callable[..., Clerk], by: str) -> None:
    """It waits for the very object, and its end is found closed; no allowance is lost."""
    clerk = make_clerk()
    session, said, box, _ = clerk.enter()
    items = [item_of(session, said, i) for i in range(ALLOWANCE)]
    clerk.service.handle(session, 3, p.Find(items[0].id, None, 5.0))
    session.send = lambda *_: clerk.service.left(session)
    if by == "outbox":
        assert box.put(items[0])
        clerk.service.puts.take_mail()
    else:
        assert box.put(*items[1:])
        clerk.service.handle(session, 4, p.Put(items[:1]))
    assert session not in clerk.service.sessions
    clerk.check_allowances()
    assert clerk.service.puts._allowed == 0


def test_a_refused_writer_gets_nothing_done_any_more(make_clerk: Callable[..., Clerk]) -> None:
    clerk = make_clerk()
    session, said, box, refusals = clerk.enter()
    other, heard, _, _ = clerk.enter()
    before = clerk.figures(other)
    box.leave(b"\xc1")
    # Told that it was refused, it takes this put as not done, and its memory as free.
    answers = len(said)
    clerk.service.handle(session, 3, p.Put([item_of(session, said, 0)]))
    assert [type(e) for e in refusals] == [ProtocolError]
    assert len(said) == answers
    assert clerk.figures(other) == before
    for body in (p.encode_body(p.Put([])), p.encode_body(p.Put([item_of(session, said, 1)]))):
        box.leave(body)
        clerk.service.handle(other, 3, p.GetStatus())
        clerk.service._kicked(session)
    box.store(OUT_HEAD, box.load(OUT_TAIL) + 3)
    for _ in range(3):
        clerk.service.handle(other, 3, p.GetStatus())
    assert len(refusals) == 1  # and one line in the log
    assert box.allowance == 0
    assert clerk.figures(other) == before
    clerk.check_allowances()
    clerk.service.handle(other, 4, p.Put([item_of(other, heard, 0)]))
    assert heard[-1] == p.Done()
    clerk.service.left(session)
    clerk.service.handle(other, 5, p.Clear())
    assert clerk.figures(other)[:4] == (0, 0, 0, 0)


# ---- an allowance is a promise


LARGE = stream_of() * 200  # no data, much metadata


def wide_item(session: Session, said: list[Any], i: int, **fields: Any) -> p.PutItem:
    return p.PutItem(said[0].ids[0] + i, "t", LARGE, [], 0, 0, 0, 0, 0, **fields)


@pytest.mark.parametrize("named", [False, True])
def test_metadata_of_others_leaves_room_for_what_was_allowed(
    make_clerk: Callable[..., Clerk], named: bool
) -> None:
    clerk = make_clerk(limit=MIB, max_objects=100_000)
    a, said, box, refusals = clerk.enter()
    b, heard, _, _ = clerk.enter()
    left: list[int] = []
    for i in itertools.count():
        name = f"n{i}" if named else None
        clerk.service.handle(b, 3, p.Put([wide_item(b, heard, i, name=name)]))
        if i % 100 == 0 or box.allowance == 0:
            for _ in range(4):
                mine = wide_item(a, said, len(left))
                if box.put(mine):  # left at any fullness: it must come in
                    left.append(mine.id)
        if heard[-1] != p.Done():
            break
    assert heard[-1].code == "store-full"
    assert clerk.service.arena.spare < len(LARGE) + (64 << 10)  # of all there is
    assert len(left) > 50
    clerk.service.handle(b, 3, p.GetStatus())
    assert not refusals
    assert all(clerk.service.catalog.get(i) is not None for i in left)
    clerk.check_allowances()
    # What is free is in small pieces now, in which an outbox might not fit.
    clerk.service.handle(
        b, 4, p.Delete([r.id for r in list(clerk.service.catalog.match("*"))[::2]])
    )
    clerk.service.arena.trim()
    clerk.service.handle(a, 4, p.Put([wide_item(a, said, 50_000)]))
    assert (said[-1], box.allowance) == (p.Done(), 0)
    clerk.service.handle(b, 5, p.Clear())
    clerk.service.arena.trim()
    clerk.service.handle(a, 5, p.Put([wide_item(a, said, 50_001)]))
    assert box.allowance == ALLOWANCE


@pytest.mark.parametrize("max_objects", [100, 700, 1100])
def test_no_put_is_refused_before_the_index_is_full(
    make_clerk: Callable[..., Clerk], max_objects: int
) -> None:
    """Random puts, names and deletes of several writers, and a count of entries."""
    clerk = make_clerk(max_objects=max_objects)
    clients = [clerk.enter() for _ in range(5)]
    rng = random.Random(max_objects)
    live: set[int] = set()
    names: set[str] = set()
    fresh = itertools.count(1)
    outcomes = {"left": 0, "done": 0, "store-full": 0}
    for step in range(3000):
        session, said, box, _ = rng.choice(clients)
        n = rng.choice([1, 1, 1, 2, 5, 40])
        items = [
            p.PutItem(said[0].ids[0] + next(fresh), "t", stream_of(), [], 0, 0, 0, 0, 0)
            for _ in range(n)
        ]
        items[0].name = name = f"n{step}" if rng.random() < 0.2 else None
        entries = n + (name is not None)
        if name is None and box.put(*items):
            outcome = "left"
        else:
            clerk.service.handle(session, 3, p.Put(items))
            outcome = "done" if said[-1] == p.Done() else said[-1].code
        outcomes[outcome] += 1
        fits = len(live) + len(names) + entries <= max_objects
        assert (outcome != "store-full") == fits, (step, outcome)
        if fits:
            live |= {item.id for item in items}
            names |= {name} - {None}
        if rng.random() < 0.02:
            gone = rng.sample(sorted(live), len(live) // 2)
            clerk.service.handle(session, 4, p.Delete(gone))
            live -= set(gone)
            names = set(clerk.service.catalog.list_names("*"))
    clerk.service.handle(session, 5, p.GetStatus())
    assert {r.id for r in clerk.service.catalog.match("*")} == live
    assert not any(refusals for *_, refusals in clients)
    assert outcomes["store-full"] > 20
    assert outcomes["left"] > 100 or max_objects == 100
    clerk.check_allowances()


# ---- hostile writers, real daemon


Attack = Callable[[Wire], Callable[[Box], None]]


def left_put(w: Wire, *items: p.PutItem) -> Callable[[Box], None]:
    return lambda box: box.leave(p.encode_body(p.Put(list(items))))


def claim(w: Wire, at: int) -> p.PutItem:
    return w.item(stream_of((at, 8)), [(at, PAGE)])


def with_head(distance: int) -> Attack:
    return lambda w: lambda box: box.store(OUT_HEAD, box.load(OUT_TAIL) + distance)


def with_length(length: int) -> Attack:
    return lambda w: lambda box: box.leave(b"x" * 64, length)


def raised(w: Wire) -> Callable[[Box], None]:
    def act(box: Box) -> None:
        box.store(OUT_ALLOWANCE, (1 << 63) - 1)
        for _ in range(ALLOWANCE + 1):
            box.leave(p.encode_body(p.Put([w.item(stream_of(), [])])))

    return act


ATTACKS: dict[str, Attack] = {
    "head behind": with_head(-8),
    "head far ahead": with_head(NBYTES + 8),
    "head at the end of time": with_head(-1),
    "half a length": with_head(4),
    "length 0": with_length(0),
    "length odd, past the head": with_length(73),
    "length of half the ring": with_length(LARGEST),
    "length over the largest": with_length(LARGEST + 1),
    "length wraps when rounded up": with_length(U64),
    "length near 2**63": with_length(1 << 63),
    "random bytes": lambda w: lambda box: box.leave(random.Random(2).randbytes(5000)),
    "another message": lambda w: lambda box: box.leave(p.encode_body(p.Clear())),
    "deep nesting": lambda w: lambda box: box.leave(b"\x92\xa3put" + b"\x91" * 100_000),
    "a put cut short": lambda w: lambda box: box.leave(p.encode_body(p.Put([]))[:-1]),
    "no objects": lambda w: left_put(w),
    "a name": lambda w: left_put(w, w.item(stream_of(), [], name="innocent")),
    "a strict segment": lambda w: left_put(w, w.item(stream_of(), [], strict=7)),
    "its own strict segment": lambda w: left_put(
        w, w.item(stream_of(), [], strict=w.request(p.MakeStrict(PAGE)).segment)
    ),
    "more objects than allowed": lambda w: left_put(
        w, *[w.item(stream_of(), []) for _ in range(ALLOWANCE + 1)]
    ),
    "an allowance raised": raised,
    "an id of another": lambda w: left_put(w, w.item(stream_of(), [], id=1 << 40 | 1)),
    "an id of 0": lambda w: left_put(w, w.item(stream_of(), [], id=0)),
    "an id twice": lambda w: left_put(w, *[w.item(stream_of(), [])] * 2),
    "a claim outside": lambda w: left_put(w, claim(w, w.leased.offset - PAGE)),
    "a claim of the whole store": lambda w: left_put(w, w.item(stream_of(), [(0, 1 << 62)])),
    "a negative claim": lambda w: left_put(w, w.item(stream_of(), [(-PAGE, PAGE)])),
    "a claim over 64 bits": lambda w: left_put(w, w.item(stream_of(), [(U64, U64)])),
    "a claim twice": lambda w: left_put(w, claim(w, w.at), claim(w, w.at)),
    "a claim of no use": lambda w: left_put(w, w.item(stream_of(), [(w.at, PAGE)])),
    "a buffer not sealed": lambda w: left_put(w, w.item(stream_of((w.at, 8)), [])),
    "damaged messages": lambda w: left_put(w, w.item(b"\xff" * 40, [(w.at, PAGE)])),
}


@pytest.mark.parametrize("kind", ATTACKS)
def test_a_hostile_outbox_harms_its_owner_only(
    wire: Wire,  # noqa: F811
    innocent: Client,  # noqa: F811
    daemon: Any,
    kind: str,
) -> None:
    wire.hello()
    wire.lease()
    before = innocent.status()
    box = Box(wire.fds[1])
    good = claim(wire, wire.at)
    assert box.put(good)
    kept = innocent.put(np.arange(50_000))  # left, too
    assert innocent.status().objects == before.objects + 2
    wire.at += PAGE
    ATTACKS[kind](wire)(box)
    assert innocent.status().objects == before.objects + 2 + (kind == "an allowance raised") * (
        ALLOWANCE
    )
    number, told = wire.receive()
    assert (number, told.code) == (p.UNASKED, "protocol")
    assert wire.is_cut()
    # It goes on all the same, but nobody listens.
    box.store(OUT_HEAD, box.load(OUT_TAIL))
    box.leave(p.encode_body(p.Put([claim(wire, wire.at)])))
    assert box.allowance == 0
    assert (innocent.get(kept) == np.arange(50_000)).all()
    for i in range(20):
        assert innocent.get(innocent.put(i)) == i
    with daemon.connect() as other:
        assert other.exists(good.id)
        other.delete([good.id])
    wire.close()
    until(lambda: len(daemon.status().clients) == 1, "the session stays")
    innocent.delete(kept)


def test_entries_written_while_they_are_read(innocent: Client, daemon: Any) -> None:  # noqa: F811
    """A writer scribbles over its whole table without end; the others do not notice."""
    for seed in range(10):
        with Wire(daemon.socket) as scribbler:
            scribbler.hello()
            box = Box(scribbler.fds[1])
            rng = random.Random(seed)
            stop = threading.Event()

            def scribble(box: Box = box, rng: Any = rng, stop: Any = stop) -> None:
                while not stop.is_set():
                    box.write(struct.pack("<Q", rng.choice([0, 9, 64, U64])) + rng.randbytes(40))
                    box.store(rng.choice([OUT_HEAD, OUT_TAIL, OUT_ALLOWANCE]), rng.randrange(300))

            thread = threading.Thread(target=scribble)
            thread.start()
            try:
                for i in range(30):
                    oid = innocent.put(i)
                    assert daemon.status().objects >= 2
                    assert innocent.get(oid) == i
                    innocent.delete(oid)
            finally:
                stop.set()
                thread.join()
