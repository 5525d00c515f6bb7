"""The daemon's books without sockets: memory, catalog, service, and the allocator below."""

from __future__ import annotations

import itertools
import mmap
import os
import random
import shutil
import struct
import subprocess
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_protocol import stream_of

from vineyard_arrow.cluster import Cluster
from vineyard_arrow.errors import (
    InvalidObjectError,
    ObjectExistsError,
    StoreFullError,
)
from vineyard_arrow.ipc import _core
from vineyard_arrow.ipc import protocol as p
from vineyard_arrow.ipc.hugepages import MemFiles
from vineyard_arrow.ipc.memory import PAGE, Memory, Segment, Writer
from vineyard_arrow.metadata.catalog import Catalog, Record
from vineyard_arrow.metadata.embedded import EmbeddedBackend
from vineyard_arrow.metadata.records import InstanceRecord, Layout
from vineyard_arrow.service import Service
from vineyard_arrow.sessions import Session

MIB = 1 << 20
SLOTS = 64
CREDIT, WANTED, RING_HEAD, RING_TAIL, RING = 0, 8, 128, 192, 4096  # of ClientTable in layout.h


class Table:
    """A client's end of its table."""

    def __init__(self) -> None:
        fd = os.memfd_create("table")
        nbytes = _core.table_nbytes(SLOTS)
        os.ftruncate(fd, nbytes)
        self.host = _core.HostTable(fd, SLOTS)
        self._map = mmap.mmap(fd, nbytes)
        os.close(fd)

    def get(self, at: int) -> int:
        return int(struct.unpack_from("<q", self._map, at)[0])

    def set(self, at: int, value: int) -> None:
        struct.pack_into("<q", self._map, at, value)

    def received(self) -> list[tuple[int, int]]:
        """Extents that came home."""
        head, tail = self.get(RING_HEAD), self.get(RING_TAIL)
        out = [
            struct.unpack_from("<QQ", self._map, RING + i % 4096 * 16) for i in range(tail, head)
        ]
        self.set(RING_TAIL, head)
        return out  # type: ignore[return-value]


class Player:
    """A writer that plays by the rules: takes credit for what it allocates."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.table = Table()
        self.writer = Writer(self.table.host, os.geteuid())
        memory.writers.add(self.writer)
        self.segment: Segment | None = None
        self.free: list[tuple[int, int]] = []

    def lease(self) -> None:
        self.segment, self.free = self.memory.lease(self.writer)

    def allocate(self, nbytes: int) -> int | None:
        """The offset of a range that it has credit for, or None when the store is full."""
        if self.table.get(CREDIT) < nbytes:
            self.table.set(WANTED, nbytes)
            if not self.memory.answer(self.writer):
                self.table.set(WANTED, 0)
                return None
            assert self.table.get(WANTED) == 0
        if self.table.get(CREDIT) < nbytes:
            return None
        for i, (offset, length) in enumerate(self.free):
            if length >= nbytes:
                self.table.set(CREDIT, self.table.get(CREDIT) - nbytes)
                self.free[i] = (offset + nbytes, length - nbytes)
                return offset
        return None

    def receive(self) -> None:
        """Takes home what came, and trims it at once."""
        for offset, nbytes in self.table.received():
            self.free.append((offset, nbytes))
            self.table.set(CREDIT, self.table.get(CREDIT) + nbytes)


@pytest.fixture
def memory() -> Iterator[Memory]:
    memory = Memory(MemFiles(huge=False), 64 * MIB, 1.0, MIB)
    yield memory
    memory.close()


def check_books(memory: Memory, players: list[Player]) -> None:
    segments = [*memory.segments.values(), *memory._unmapping.values()]
    assert memory.charged == sum(s.charged for s in segments)
    assert 0 <= memory.charged <= memory.limit
    for segment in memory.segments.values():
        extents = memory.extents_of(segment)
        assert all(a + n <= b for (a, n), (b, _) in itertools.pairwise(extents))
        sealed = memory.sealed_of(segment)
        if segment.kind == "lease" and segment.owner is None:
            assert segment.charged == sealed
        elif segment.kind == "lease":
            player = next(q for q in players if q.writer is segment.owner)
            coming = sum(n for _, n in player.writer.backlog)
            head, tail = player.table.get(RING_HEAD), player.table.get(RING_TAIL)
            if head == tail:
                credit = player.table.get(CREDIT)
                assert segment.charged == sealed + credit + coming
    step = 2 * MIB
    used = [(s.offset, -(-s.nbytes // step) * step) for s in memory.segments.values()]
    whole = sorted(used + memory._space._free)
    assert sum(n for _, n in whole) == memory.space_nbytes
    assert all(a + n == b for (a, n), (b, _) in itertools.pairwise(whole))


@pytest.mark.parametrize("seed", range(12))
def test_books_balance_whatever_happens(memory: Memory, seed: int) -> None:
    rng = random.Random(seed)
    players: list[Player] = []
    objects: list[list[int]] = []  # extents of each
    full = 0
    for _ in range(500):
        step = rng.randrange(12)
        if step == 0 and len(players) < 4:
            players.append(Player(memory))
            players[-1].lease()
        elif step == 1 and players and rng.random() < 0.3:
            gone = players.pop(rng.randrange(len(players)))
            memory.leave(gone.writer)
            assert gone.writer.segment is None
            assert gone.writer not in memory.writers
        elif step in (2, 3, 4, 5) and players:
            player = rng.choice(players)
            extents = []
            for _ in range(rng.randrange(1, 4)):
                nbytes = PAGE * rng.choice([1, 2, 16, 500, 3000])
                offset = player.allocate(nbytes)
                if offset is None:
                    full += 1
                    break
                extents.append((offset, nbytes))
            memory.seal(player.writer, extents)
            ranges = [(o + rng.randrange(n // 2), n // 2) for o, n in extents]
            if objects and rng.random() < 0.4:  # shares memory with another
                ranges += [(o, 8) for o in rng.choice(objects)]
            keys = memory.cover_sealed(ranges)
            assert {o for o, _ in extents} <= set(keys)
            memory.hold(keys)
            if keys:
                objects.append(keys)
        elif step == 6 and players:
            try:
                segment = memory.make_strict(rng.choice(players).writer, rng.randrange(1, 8 * MIB))
            except StoreFullError:
                full += 1
                continue
            if rng.random() < 0.7:
                memory.seal_strict(segment)
                for reader in players:
                    if rng.random() < 0.5:
                        segment.holders.add(reader.writer)
                objects.append(memory.cover_sealed([(segment.offset, segment.nbytes)]))
                memory.hold(objects[-1])
            elif rng.random() < 0.7:
                memory.discard_strict(segment.id)
        elif step in (7, 8) and objects:
            memory.drop(objects.pop(rng.randrange(len(objects))))
        elif step == 9 and players:
            rng.choice(players).receive()
            memory.flush_backlogs()
        elif step == 10 and players and objects:
            forked = rng.choice(players).writer
            keys = rng.choice(objects)
            memory.hold(keys)
            forked.held = [*forked.held, *keys]
        elif step == 11 and players:
            player = rng.choice(players)
            memory.told_retired(player.writer)
            memory.revoke_unused(rng.randrange(8 * MIB), keep=player.writer)
        check_books(memory, players)
    assert full > 0 or seed
    for player in players:
        memory.leave(player.writer)
        check_books(memory, players)
    for keys in objects:
        memory.drop(keys)
    check_books(memory, [])
    assert memory.charged == 0
    assert not memory._unmapping
    assert [s.kind for s in memory.segments.values()] == ["catalog"]
    assert len(memory._space._free) == 1


def test_a_full_ring_keeps_what_comes_home(memory: Memory) -> None:
    player = Player(memory)
    player.lease()
    assert player.segment is not None
    extents = [(player.segment.offset + i * 2 * PAGE, PAGE) for i in range(5000)]
    memory.limit = 1 << 30
    memory.seal(player.writer, extents)
    keys = memory.cover_sealed(extents)
    memory.hold(keys)
    memory.drop(keys)
    assert len(player.writer.backlog) == 5000 - 4096
    assert not memory.flush_backlogs()
    got = player.table.received()
    assert memory.flush_backlogs()
    got += player.table.received()
    assert got == extents
    memory.leave(player.writer)


def test_a_writer_that_leaves_with_a_full_ring(memory: Memory) -> None:
    """What is on its way home when the writer dies is free like the rest."""
    player = Player(memory)
    player.lease()
    offset = player.allocate(4 * MIB)
    assert offset is not None
    kept = (offset + MIB, PAGE)
    memory.seal(player.writer, [(offset, PAGE), kept])
    keys = memory.cover_sealed([(offset, 8), (kept[0], 8)])
    memory.hold(keys)
    memory.drop(keys[:1])
    assert player.table.get(RING_HEAD) == 1
    memory.leave(player.writer)
    assert memory.charged == PAGE
    heir = Player(memory)
    heir.lease()
    assert heir.segment is not None
    assert heir.segment.offset <= offset < heir.segment.offset + heir.segment.nbytes
    assert any(o <= offset < o + n for o, n in heir.free)
    assert not any(o <= kept[0] < o + n for o, n in heir.free)
    memory.drop(keys[1:])
    assert heir.table.received() == [kept]
    memory.leave(heir.writer)
    assert memory.charged == 0


def test_ranges_over_neighbouring_segments(memory: Memory) -> None:
    player = Player(memory)
    a, b = (memory.make_strict(player.writer, 2 * MIB) for _ in range(2))
    assert a.offset + a.nbytes == b.offset
    with pytest.raises(InvalidObjectError, match="not sealed"):
        memory.take(stream_of((a.offset, 8)))
    memory.seal_strict(a)
    with pytest.raises(InvalidObjectError, match="not sealed"):
        memory.take(stream_of((a.offset, 4 * MIB)))
    memory.seal_strict(b)
    keys, segments, stored = memory.take(stream_of((a.offset, 2 * MIB), (b.offset, 2 * MIB)))
    assert (keys, segments, stored) == ([a.offset, b.offset], [a.id, b.id], 4 * MIB)
    memory.drop(keys)
    memory.leave(player.writer)
    assert memory.charged == 0


def test_a_strict_segment_is_not_sealed_while_it_is_mapped(memory: Memory) -> None:
    player = Player(memory)
    segment = memory.make_strict(player.writer, PAGE)
    with (
        mmap.mmap(segment.rw_fd, PAGE),
        pytest.raises(InvalidObjectError, match="cannot be sealed"),
    ):
        memory.seal_strict(segment)
    memory.leave(player.writer)
    assert memory.charged == 0


# ---- the catalog


class Kept:
    """A catalog with a small arena, and what it dropped."""

    def __init__(self, max_objects: int, arena_nbytes: int) -> None:
        self.fds = [os.memfd_create("index"), os.memfd_create("arena")]
        buckets = 1 << max(10, (2 * max_objects - 1).bit_length())
        os.ftruncate(self.fds[0], _core.index_nbytes(buckets, max_objects))
        os.ftruncate(self.fds[1], arena_nbytes)
        self.pinned: set[int] = set()
        self.dropped: list[Any] = []
        self.arena = _core.MetadataArena(self.fds[1], arena_nbytes)
        self.catalog = Catalog(
            _core.HostIndex(self.fds[0], buckets, max_objects, 1 << 42, 0, arena_nbytes, 1),
            self.arena,
            0,
            max_objects,
            self.pinned.__contains__,
            self.dropped.append,
        )

    def put(self, object_id: int, name: str | None = None, nbytes: int = 100) -> Record:
        self.catalog.check_new([object_id], [] if name is None else [name])
        place, name_place = self.catalog.store(b"x" * nbytes, [], (0,) * 7, name)
        record = Record(object_id, "t", 0, 0, 0, 0, [(1, object_id)], place, name_place)
        self.catalog.publish(record, name)
        return record

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)


@pytest.mark.parametrize("seed", range(4))
def test_the_catalog_against_a_dict(seed: int) -> None:
    rng = random.Random(seed)
    kept = Kept(200, 4 * MIB)
    catalog = kept.catalog
    objects: dict[int, Record] = {}
    names: dict[str, int] = {}
    ids = itertools.count(1)
    for _ in range(3000):
        step = rng.randrange(8)
        name = f"n{rng.randrange(80)}"
        if step in (0, 1, 2):
            object_id = next(ids)
            wanted = name if rng.random() < 0.5 else None
            used = len(objects) + len(names) + catalog.deleted_pinned
            if wanted in names:
                with pytest.raises(ObjectExistsError):
                    kept.put(object_id, wanted)
            elif used + 1 + (wanted is not None) > 200:
                with pytest.raises(StoreFullError):
                    kept.put(object_id, wanted)
            else:
                objects[object_id] = kept.put(object_id, wanted, rng.randrange(1, 9000))
                if wanted is not None:
                    names[wanted] = object_id
                if rng.random() < 0.3:
                    kept.pinned.add(objects[object_id].slot)
        elif step in (3, 4) and objects:
            gone = rng.sample(sorted(objects), min(len(objects), rng.randrange(1, 3)))
            catalog.delete(gone)
            for object_id in gone:
                record = objects.pop(object_id)
                assert ([(1, object_id)] in kept.dropped) == (record.slot not in kept.pinned)
            names = {n: i for n, i in names.items() if i not in gone}
        elif step == 5 and kept.pinned:
            kept.pinned.discard(rng.choice(sorted(kept.pinned)))
            catalog.reap()
        elif step == 6 and name in names:
            catalog.drop_name(name)
            del names[name]
        elif step == 7 and rng.random() < 0.1:
            kept.arena.trim()
        assert len(catalog) == len(objects)
        assert catalog.list_names("*") == dict(sorted(names.items()))
    kept.pinned.clear()
    catalog.clear()
    catalog.reap()
    assert len(kept.dropped) == len({x[0] for x in kept.dropped})
    kept.arena.trim()
    assert (kept.arena.used, kept.arena.committed) == (0, 0)
    kept.close()


def test_a_full_arena_stores_neither_object_nor_name() -> None:
    kept = Kept(100, 64 << 10)
    used = kept.arena.used
    with pytest.raises(StoreFullError, match="metadata"):
        kept.catalog.store(b"x" * (65 << 10), [], (0,) * 7, None)
    # Room for the object, but not for its name.
    with pytest.raises(StoreFullError, match="metadata"):
        kept.catalog.store(b"x" * (60 << 10), [], (0,) * 7, "n" * (8 << 10))
    assert kept.arena.used == used
    kept.put(1, "name", 60 << 10)
    assert kept.catalog.find_name("name") == 1
    kept.catalog.clear()
    kept.close()


# ---- the service


def _refused(error: Exception) -> None:
    pytest.fail(f"refused: {error}")


class Desk:
    """A service and its sessions, with the event loop played by the test."""

    def __init__(self, **options: Any) -> None:
        self.timers: list[Any] = []
        settings = {"limit": 64 * MIB, "max_objects": 1000, "idle_s": 1.0} | options
        about = InstanceRecord(0, 0, "desk", os.getpid(), "", "", "")
        cluster = Cluster(EmbeddedBackend(), Layout("desk"), about, 10.0, "embedded")
        weakref.finalize(self, cluster.close)
        self.service = Service(
            MemFiles(huge=False),
            call_later=self.call_later,
            watch=lambda fd, function: None,
            connect=lambda parent: pytest.fail("no fork here"),
            stop=lambda: None,
            cluster=cluster,
            **settings,
        )

    def call_later(self, delay_s: float, function: Any) -> Any:
        class Timer:
            def cancel(self) -> None:
                pass

        self.timers.append(function)
        return Timer()

    def join(self) -> tuple[Session, list[Any]]:
        said: list[Any] = []
        session = Session(1, 0, lambda number, reply, fds: said.append(reply), _refused)
        self.service.joined(session)
        self.service.handle(session, 1, p.Hello(p.VERSION, 1, "desk"))
        self.service.handle(session, 2, p.LeaseSegment())
        return session, said

    def figures(self, session: Session) -> tuple[int, ...]:
        status, _ = self.service._status(session, 0, p.GetStatus())
        return (
            status.objects,
            status.names,
            status.memory_used,
            status.metadata_used,
            len([s for s in status.segments if s.kind == "strict"]),
        )


def item_of(session: Session, said: list[Any], i: int, **fields: Any) -> p.PutItem:
    welcome, leased = said[0], said[1]
    at = leased.offset + i * PAGE
    return p.PutItem(
        welcome.ids[0] + i, "t", stream_of((at, 8)), [(at, PAGE)], 8, 0, 0, 8, 0, **fields
    )


FAULTS = [
    ("memory", "take"),
    ("memory", "seal"),
    ("catalog", "store"),
    ("catalog", "check_new"),
]


@pytest.mark.parametrize(("part", "method"), FAULTS, ids=lambda x: x)
@pytest.mark.parametrize("error", [InvalidObjectError("refused"), OverflowError("too large")])
def test_a_put_that_fails_anywhere_is_undone(
    monkeypatch: pytest.MonkeyPatch, part: str, method: str, error: Exception
) -> None:
    """Not only for errors that are foreseen."""
    desk = Desk()
    session, said = desk.join()
    before = desk.figures(session)
    place = getattr(desk.service.puts, f"_{part}")
    real, calls = getattr(place, method), itertools.count()

    def failing(*args: Any) -> Any:
        if next(calls) == (1 if method in ("take", "store") else 0):
            raise error
        return real(*args)

    items = [item_of(session, said, i, name=f"n{i}") for i in range(3)]
    monkeypatch.setattr(place, method, failing)
    if isinstance(error, InvalidObjectError):
        desk.service.handle(session, 3, p.Put(items))
        assert isinstance(said[-1], p.Failure)
    else:
        with pytest.raises(OverflowError):
            desk.service.handle(session, 3, p.Put(items))
    monkeypatch.undo()
    assert desk.figures(session) == before
    desk.service.handle(session, 4, p.Put(items))
    assert said[-1] == p.Done()
    desk.service.close()


def test_a_waiter_that_vanishes_while_it_is_woken() -> None:
    desk = Desk()
    writer, said = desk.join()
    gone: list[Session] = []

    def vanish(number: int, reply: Any, fds: list[int]) -> None:
        for session in gone:
            desk.service.left(session)

    for _ in range(3):
        session = Session(1, 0, vanish, _refused)
        desk.service.joined(session)
        for number in range(3):
            desk.service.handle(session, number, p.Find(None, "wanted", 5.0))
        gone.append(session)
    desk.service.handle(writer, 3, p.Put([item_of(writer, said, 0, name="wanted")]))
    assert said[-1] == p.Done()
    assert not desk.service.finds.waiting
    desk.service.close()


def test_a_full_index_refuses_before_anything_is_done() -> None:
    desk = Desk(max_objects=4)
    session, said = desk.join()
    desk.service.handle(session, 3, p.Put([item_of(session, said, i) for i in range(3)]))
    assert said[-1] == p.Done()
    before = desk.figures(session)
    desk.service.handle(session, 4, p.Put([item_of(session, said, 3, name="one too many")]))
    assert (type(said[-1]), said[-1].code) == (p.Failure, "store-full")
    assert desk.figures(session) == before
    desk.service.handle(session, 5, p.Put([item_of(session, said, 3)]))
    assert said[-1] == p.Done()
    desk.service.close()


# ---- the allocator


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_the_allocator_against_a_map_of_pages(tmp_path: Path) -> None:
    here = Path(__file__).resolve().parent
    program = tmp_path / "oracle"
    package = here.parent / "vineyard_arrow"
    source = here / "native" / "allocator_oracle.cpp"
    flags = ["-std=c++20", "-O1", "-Wall", "-D_GLIBCXX_ASSERTIONS"]
    flags += [f"-I{package / 'ipc'}", f"-I{package / 'include'}"]
    subprocess.run(["g++", *flags, str(source), "-o", str(program)], check=True, timeout=150)
    done = subprocess.run([str(program), "60", "1500"], capture_output=True, text=True, timeout=150)
    assert done.stdout == "90000\n", done.stderr
