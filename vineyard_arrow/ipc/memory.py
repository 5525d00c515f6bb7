"""The daemon's books on memory: segments, sealed extents, who holds them, who is charged.

The logical address space is one range of offsets. *Segments* (files) lie in it: the
daemon's own for metadata, one leased to each writer, one for each strictly sealed object.
An *extent* is a sealed piece of a segment, counted by the objects that use it and the
forked clients that inherited it. Every byte a segment may have committed is *charged*
against the limit, in advance, so a page fault never finds the machine short.

Knows no sockets, no objects; single-threaded.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ..errors import LARGER_THAN_STORE, InvalidObjectError, StoreFullError
from ..machine import format_size
from . import _core
from .hugepages import SharedFiles

PAGE = 4096
GIB = 1 << 30
MAX_RANGES = 64  # free ranges told to a writer that adopts a segment
CREDIT_CHUNK = 64 << 20

ExtentKey = int  # its offset in the store


@dataclass(slots=True, eq=False)
class Writer:
    """A client as memory sees it: its table, its leased segment, extents it holds."""

    table: _core.HostTable
    uid: int
    segment: Segment | None = None
    allowed: int = 0  # objects it may still leave in its outbox, or has just left there
    held: list[ExtentKey] = field(default_factory=list)
    backlog: deque[tuple[int, int]] = field(default_factory=deque)
    retired: list[int] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Segment:
    """A shared file at a fixed place in the address space."""

    id: int
    kind: str  # "catalog", "lease" or "strict"
    offset: int
    nbytes: int
    rw_fd: int
    ro_fd: int
    huge: bool
    uid: int  # whose processes may have written it
    owner: Writer | None = None
    charged: int = 0
    holders: set[Writer] = field(default_factory=set)  # who may have it mapped

    @property
    def end(self) -> int:
        """Offset of its end in the store."""
        return self.offset + self.nbytes

    @property
    def committed(self) -> int:
        return os.fstat(self.rw_fd).st_blocks * 512


class _Space:
    """Free ranges of the address space, first fit."""

    def __init__(self, nbytes: int) -> None:
        self._free = [(0, nbytes)]

    def take(self, nbytes: int) -> int:
        for i, (offset, length) in enumerate(self._free):
            if length >= nbytes:
                self._free[i : i + 1] = [(offset + nbytes, length - nbytes)][: length > nbytes]
                return offset
        raise StoreFullError(
            "the address space of the store is used up by the segments of its writers",
            "close clients that no longer write, or restart the daemon",
        )

    def give(self, offset: int, nbytes: int) -> None:
        insort(self._free, (offset, nbytes))
        merged: list[tuple[int, int]] = []
        for start, length in self._free:
            if merged and sum(merged[-1]) == start:
                merged[-1] = (merged[-1][0], merged[-1][1] + length)
            else:
                merged.append((start, length))
        self._free = merged


class Memory:
    """All segments of a store, its limit, and the extents in use."""

    def __init__(self, files: SharedFiles, limit: int, idle_s: float, catalog_nbytes: int) -> None:
        self.limit = limit
        self.idle_s = idle_s
        self._files = files
        # Twice the limit and some: fragmentation costs address space, never memory.
        self._lease_nbytes = 2 * (-(-limit // GIB) + 1) * GIB
        self.space_nbytes = max(4 << 40, min(self._lease_nbytes * 1024, 32 << 40))
        self._space = _Space(self.space_nbytes)
        self._next_id = 1
        self._names = 0
        self.segments: dict[int, Segment] = {}
        self._unmapping: dict[int, Segment] = {}  # retired, but mapped by readers
        self._by_offset: list[tuple[int, int]] = []  # (offset, id), ascending
        self.writers: set[Writer] = set()
        self.charged = 0
        self.reserved = 0  # of it, for what is no segment
        self._book = _core.ExtentBook()
        self.catalog = self._create("catalog", catalog_nbytes, os.geteuid(), huge=False)

    # ---- segments

    def _create(self, kind: str, nbytes: int, uid: int, *, huge: bool) -> Segment:
        self._names += 1
        name = f"{kind}-{self._names}"
        create = self._files.create if kind == "lease" else self._files.create_sealable
        rw, ro = create(name)
        try:
            os.ftruncate(rw, nbytes)
            if kind == "lease":
                self._files.seal_size(rw)
            elif kind == "strict":  # its writer must not cut it short under its readers
                fcntl.fcntl(rw, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
            span = -(-nbytes // (2 << 20)) * (2 << 20)
            offset = self._space.take(span)
        except BaseException:
            os.close(rw)
            os.close(ro)
            raise
        segment = Segment(self._next_id, kind, offset, nbytes, rw, ro, huge, uid)
        self._next_id += 1
        self.segments[segment.id] = segment
        insort(self._by_offset, (offset, segment.id))
        return segment

    def _retire(self, segment: Segment) -> None:
        """Nothing of it is in use: give back file and place, tell who has it mapped."""
        if segment.kind == "lease":  # a mapping elsewhere must not keep its pages
            _core.punch_hole(segment.rw_fd, 0, segment.nbytes)
        os.close(segment.rw_fd)
        os.close(segment.ro_fd)
        del self.segments[segment.id]
        self._by_offset.remove((segment.offset, segment.id))
        if segment.kind != "strict" or not segment.holders:
            # A sealed file cannot be punched: it stays charged until its readers unmap it.
            self._charge(segment, -segment.charged)
        span = -(-segment.nbytes // (2 << 20)) * (2 << 20)
        self._space.give(segment.offset, span)
        for holder in segment.holders:
            holder.retired.append(segment.id)
        if segment.charged:
            self._unmapping[segment.id] = segment

    def told_retired(self, writer: Writer) -> list[int]:
        """The segments that `writer` must unmap; it is taken to have done so."""
        ids, writer.retired = writer.retired, []
        for i in ids:
            self._unmapped(i, writer)
        return ids

    def _unmapped(self, segment_id: int, writer: Writer) -> None:
        segment = self._unmapping.get(segment_id)
        if segment is not None:
            segment.holders.discard(writer)
            if not segment.holders:
                self._charge(segment, -segment.charged)
                del self._unmapping[segment_id]

    def _charge(self, segment: Segment, nbytes: int) -> None:
        segment.charged += nbytes
        self.charged += nbytes

    def lease(
        self, writer: Writer, avoid: Iterable[int] = ()
    ) -> tuple[Segment, list[tuple[int, int]]]:
        """A segment for ``writer``, and the ranges of it that are free.

        ``avoid``: segments it must not get, since it still has blocks of its parent in them.
        """
        avoid = set(avoid)
        orphans = [
            s
            for s in self.segments.values()
            # Another user's objects in it would be this writer's to change.
            if s.kind == "lease" and s.owner is None and s.uid == writer.uid and s.id not in avoid
        ]
        # One of a dead writer first, the emptiest: address space is not endless.
        segment = min(orphans, key=lambda s: len(self.extents_of(s)), default=None)
        if segment is None:
            segment = self._create("lease", self._lease_nbytes, writer.uid, huge=self._files.huge)
        segment.owner = writer
        segment.holders.add(writer)
        writer.segment = segment
        free = sorted(self._gaps(segment), key=lambda r: -r[1])[:MAX_RANGES]
        first = min(CREDIT_CHUNK, self.limit // 16)
        if self.limit - self.charged >= first:
            self._grant(writer, first)
        return segment, free

    def make_strict(self, writer: Writer, nbytes: int) -> Segment:
        """A file for one object, charged at once; `writer` holds it until it is put."""
        nbytes = -(-nbytes // PAGE) * PAGE
        self._make_room(nbytes)
        segment = self._create("strict", nbytes, writer.uid, huge=False)
        segment.owner = writer
        self._charge(segment, nbytes)
        return segment

    def _make_room(self, nbytes: int) -> None:
        if nbytes <= self.limit and self.limit - self.charged < nbytes:
            self.revoke_unused(nbytes)
        if self.limit - self.charged < nbytes:
            raise self.full(nbytes)

    def reserve(self, nbytes: int) -> None:
        """Charge bytes that are in no segment; StoreFullError if there is no room."""
        self._make_room(nbytes)
        self.reserved += nbytes
        self.charged += nbytes

    def release(self, nbytes: int) -> None:
        """Undo `reserve`."""
        self.reserved -= nbytes
        self.charged -= nbytes

    def segment_at(self, offset: int) -> Segment | None:
        """The segment that covers ``offset``."""
        i = bisect_right(self._by_offset, (offset, 1 << 62)) - 1
        if i < 0:
            return None
        segment = self.segments[self._by_offset[i][1]]
        return segment if offset < segment.offset + segment.nbytes else None

    # ---- credit

    def full(self, nbytes: int) -> StoreFullError:
        """The error that says what is used and by whom."""
        hint = (
            "delete objects, drop references to arrays of deleted ones, unlink blocks, or start the"
            " daemon with a larger --memory-limit; `vineyard-arrow doctor` shows who holds what"
        )
        return StoreFullError(
            f"no room for {format_size(nbytes)}: {format_size(self.charged)} of"
            f" {format_size(self.limit)} are in use or promised to writers"
            f" ({format_size(self.sealed)} sealed, {format_size(self.unsealed)} unsealed,"
            f" {format_size(self.reserved)} in blocks of shared memory)",
            LARGER_THAN_STORE if nbytes > self.limit else hint,
        )

    def _grant(self, writer: Writer, nbytes: int) -> None:
        assert writer.segment is not None
        self._charge(writer.segment, nbytes)
        writer.table.grant(nbytes)

    def answer(self, writer: Writer) -> bool:
        """Grant what ``writer`` waits for, if there is room now; true when it was."""
        wanted = writer.table.wanted
        if wanted <= 0 or writer.segment is None:
            return True
        room = self.limit - self.charged
        if room < wanted:
            self.revoke_unused(wanted, keep=writer)
            room = self.limit - self.charged
        # What the writer has already counts: it lacks only the difference.
        if room + writer.table.credit < wanted:
            return False
        extra = min(max(wanted, CREDIT_CHUNK), room, wanted + max(0, room - wanted) // 4)
        self._grant(writer, max(extra, 0))
        writer.table.answer()
        return True

    def revoke_unused(self, nbytes: int, keep: Writer | None = None) -> None:
        """Take unused credit back from writers until ``nbytes`` are free, if it can be."""
        for writer in self.writers:
            short = nbytes - (self.limit - self.charged)
            if short <= 0:
                return
            if writer is not keep and writer.segment is not None:
                self._charge(writer.segment, -writer.table.revoke(short))

    def ask_trim(self) -> None:
        """Ask all writers to give their warm pages back."""
        for writer in self.writers:
            if writer.segment is not None:
                writer.table.ask_trim()

    def may_have(self, nbytes: int) -> bool:
        """Whether there is room once all writers have given back what they don't use."""
        return self.sealed + self.unsealed + self.reserved + nbytes <= self.limit

    @property
    def sealed(self) -> int:
        """Bytes of all sealed extents."""
        return sum(n for _, n in self._book.within(0, self.space_nbytes))

    @property
    def unsealed(self) -> int:
        """Bytes that writers have allocated and not sealed."""
        return sum(w.table.unsealed for w in self.writers)

    @property
    def committed(self) -> int:
        """Bytes of pages that the segments have."""
        return sum(s.committed for s in self.segments.values())

    # ---- extents

    def extents_of(self, segment: Segment) -> list[tuple[int, int]]:
        """Sealed extents (offset, bytes) of a segment, ascending."""
        return self._book.within(segment.offset, segment.end)

    def sealed_of(self, segment: Segment) -> int:
        """Bytes of a segment's sealed extents."""
        return sum(n for _, n in self.extents_of(segment))

    def _gaps(self, segment: Segment) -> Iterator[tuple[int, int]]:
        """Ranges without extents, ascending; none crosses the middle of a leased segment."""
        middle = segment.offset + segment.nbytes // 2
        at = segment.offset
        for start, nbytes in [*self.extents_of(segment), (segment.end, 0)]:
            if at < middle < start:
                yield at, middle - at
                at = middle
            if at < start:
                yield at, start - at
            at = start + nbytes

    def seal(self, writer: Writer, claims: list[tuple[int, int]]) -> None:
        """Enter extents of the writer's segment, with no users yet; all or none.

        Raises InvalidObjectError unless ``writer`` may seal all of them.
        """
        segment = writer.segment
        if not claims:
            return
        if segment is None:
            raise InvalidObjectError("a claim by a client that has no segment")
        try:
            self._book.seal(segment.id, segment.offset, segment.end, claims)
        except (ValueError, OverflowError) as error:
            raise InvalidObjectError(str(error)) from None

    def seal_strict(self, segment: Segment) -> None:
        """Seal a strict segment, for good, as one extent.

        Raises InvalidObjectError when a writable mapping of it still exists.
        """
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        try:
            fcntl.fcntl(segment.rw_fd, fcntl.F_ADD_SEALS, seals)
        except OSError as error:
            raise InvalidObjectError(
                f"the file cannot be sealed: {error}", "unmap every writable view of it first"
            ) from None
        segment.owner = None
        self._book.seal(segment.id, segment.offset, segment.end, [(segment.offset, segment.nbytes)])

    def owns_strict(self, writer: Writer, segment_id: int | None) -> bool:
        """Whether this is a file that ``writer`` asked for and has not put yet."""
        segment = self.segments.get(segment_id) if segment_id is not None else None
        return segment is not None and segment.kind == "strict" and segment.owner is writer

    def discard_strict(self, segment_id: int | None) -> None:
        """Drop the file of a strict object that came to nothing, or has no bytes."""
        segment = self.segments.get(segment_id) if segment_id is not None else None
        if segment is not None and segment.kind == "strict":
            self._book.unseal(self.extents_of(segment))
            if not self.extents_of(segment):
                self._retire(segment)

    def unseal(self, claims: list[tuple[int, int]]) -> None:
        """Take claims out again that nothing came to use."""
        self._book.unseal(claims)

    def take(self, streams: bytes) -> tuple[list[ExtentKey], list[int], int]:
        """Become a user of every extent that an object's messages need.

        Returns the extents, the ids of their segments, and the bytes of the extents.

        Raises
        ------
        InvalidObjectError
            If the messages are damaged, or a buffer is not in sealed memory.
        """
        try:
            return self._book.take(streams, self.space_nbytes)
        except (RuntimeError, ValueError) as error:
            raise InvalidObjectError(str(error)) from None

    def cover_sealed(self, ranges: Iterable[tuple[int, int]]) -> list[ExtentKey]:
        """The extents that hold ``ranges``, but those not sealed (a put is under way)."""
        keys: dict[ExtentKey, None] = {}
        for r in ranges:
            with contextlib.suppress(ValueError, OverflowError):
                keys |= dict.fromkeys(self._book.cover([r]))
        return list(keys)

    def hold(self, keys: Iterable[ExtentKey]) -> None:
        """One more user of each extent."""
        self._book.hold(keys)

    def untake(self, keys: Iterable[ExtentKey]) -> None:
        """One user less, of extents that others use or that were just claimed."""
        self._book.drop(keys)

    def drop(self, keys: Iterable[ExtentKey]) -> None:
        """One user less; an extent without any goes back to its writer, or to the machine."""
        orphans: set[Segment] = set()
        for start, nbytes in self._book.drop(keys):
            segment = self.segment_at(start)
            assert segment is not None
            owner = segment.owner
            if owner is None:
                orphans.add(segment)
                if segment.kind == "lease":
                    _core.punch_hole(segment.rw_fd, start - segment.offset, nbytes)
                    self._charge(segment, -nbytes)
            elif owner.backlog or not owner.table.give_back(start, nbytes):
                owner.backlog.append((start, nbytes))
        for segment in orphans:
            if self._book.empty(segment.offset, segment.end):
                self._retire(segment)

    def flush_backlogs(self) -> bool:
        """Send extents home that found the ring full; true when none is left."""
        left = False
        for writer in self.writers:
            while writer.backlog and writer.table.give_back(*writer.backlog[0]):
                writer.backlog.popleft()
            left |= bool(writer.backlog)
        return not left

    # ---- writers

    def leave(self, writer: Writer) -> None:
        """The writer is gone: what it held goes, what it did not seal is reclaimed."""
        self.writers.discard(writer)
        keys, writer.held = writer.held, []
        self.drop(keys)
        for segment in [s for s in self.segments.values() if s.owner is writer]:
            segment.owner = None
            if segment.kind == "lease":
                for start, nbytes in self._gaps(segment):
                    _core.punch_hole(segment.rw_fd, start - segment.offset, nbytes)
                self._charge(segment, self.sealed_of(segment) - segment.charged)
            if self._book.empty(segment.offset, segment.end):
                self._retire(segment)
        writer.segment = None
        self.told_retired(writer)
        for segment in self.segments.values():
            segment.holders.discard(writer)

    def close(self) -> None:
        """Close every descriptor."""
        for segment in self.segments.values():
            os.close(segment.rw_fd)
            os.close(segment.ro_fd)
        self.segments.clear()
        self._files.close()
