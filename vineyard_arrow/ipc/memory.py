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
from itertools import pairwise

from ..errors import InvalidObjectError, StoreFullError
from ..machine import format_size
from . import _core
from .hugepages import SharedFiles

PAGE = 4096
GIB = 1 << 30
MAX_RANGES = 64  # free ranges told to a writer that adopts a segment
CREDIT_CHUNK = 64 << 20

ExtentKey = tuple[int, int]  # segment id, offset


@dataclass(slots=True, eq=False)
class Writer:
    """A client as memory sees it: its table, its leased segment, extents it holds."""

    table: _core.HostTable
    segment: Segment | None = None
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
    owner: Writer | None = None
    charged: int = 0
    starts: list[int] = field(default_factory=list)  # of its extents, ascending
    lengths: dict[int, int] = field(default_factory=dict)
    refs: dict[int, int] = field(default_factory=dict)
    holders: set[Writer] = field(default_factory=set)  # who may have it mapped

    @property
    def sealed(self) -> int:
        return sum(self.lengths.values())

    @property
    def committed(self) -> int:
        return os.fstat(self.rw_fd).st_blocks * 512

    def gaps(self) -> Iterator[tuple[int, int]]:
        """Ranges without extents, ascending; none crosses the middle of a leased segment."""
        middle = self.offset + self.nbytes // 2
        stops = [(s, s + self.lengths[s]) for s in self.starts] + [
            (self.offset + self.nbytes, self.offset + self.nbytes)
        ]
        at = self.offset
        for start, end in stops:
            if at < middle < start:
                yield at, middle - at
                at = middle
            if at < start:
                yield at, start - at
            at = end


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
        self.catalog = self._create("catalog", catalog_nbytes, huge=False)

    # ---- segments

    def _create(self, kind: str, nbytes: int, *, huge: bool) -> Segment:
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
        segment = Segment(self._next_id, kind, offset, nbytes, rw, ro, huge)
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

    def lease(self, writer: Writer) -> tuple[Segment, list[tuple[int, int]]]:
        """A segment for ``writer``, and the ranges of it that are free."""
        orphans = [s for s in self.segments.values() if s.kind == "lease" and s.owner is None]
        # One of a dead writer first, the emptiest: address space is not endless.
        segment = min(orphans, key=lambda s: len(s.starts), default=None)
        if segment is None:
            segment = self._create("lease", self._lease_nbytes, huge=self._files.huge)
        segment.owner = writer
        segment.holders.add(writer)
        writer.segment = segment
        free = sorted(segment.gaps(), key=lambda r: -r[1])[:MAX_RANGES]
        first = min(CREDIT_CHUNK, self.limit // 16)
        if self.limit - self.charged >= first:
            self._grant(writer, first)
        return segment, free

    def make_strict(self, writer: Writer, nbytes: int) -> Segment:
        """A file for one object, charged at once; `writer` holds it until it is put."""
        nbytes = -(-nbytes // PAGE) * PAGE
        if nbytes > self.limit:
            raise self.full(nbytes)
        if self.limit - self.charged < nbytes:
            self.revoke_unused(nbytes)
        if self.limit - self.charged < nbytes:
            raise self.full(nbytes)
        segment = self._create("strict", nbytes, huge=False)
        segment.owner = writer
        self._charge(segment, nbytes)
        return segment

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
        return StoreFullError(
            f"no room for {format_size(nbytes)}: {format_size(self.charged)} of"
            f" {format_size(self.limit)} are in use or promised to writers"
            f" ({format_size(self.sealed)} sealed, {format_size(self.unsealed)} unsealed)",
            "delete objects, drop references to arrays of deleted ones, or start the daemon"
            " with a larger --memory-limit; `vineyard-arrow doctor` shows who holds what",
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

    @property
    def sealed(self) -> int:
        """Bytes of all sealed extents."""
        return sum(s.sealed for s in self.segments.values())

    @property
    def unsealed(self) -> int:
        """Bytes that writers have allocated and not sealed."""
        return sum(w.table.unsealed for w in self.writers)

    @property
    def committed(self) -> int:
        """Bytes of pages that the segments have."""
        return sum(s.committed for s in self.segments.values())

    # ---- extents

    def check_claims(self, writer: Writer, claims: Iterable[tuple[int, int]]) -> None:
        """Raise InvalidObjectError unless ``writer`` may seal all of ``claims``."""
        segment = writer.segment
        seen: list[tuple[int, int]] = []
        for offset, nbytes in claims:
            if segment is None or nbytes <= 0 or offset % PAGE or nbytes % PAGE:
                raise InvalidObjectError(f"claim of {nbytes} bytes at {offset} is not an extent")
            if not segment.offset <= offset <= offset + nbytes <= segment.offset + segment.nbytes:
                raise InvalidObjectError(f"claim at {offset} is outside of the caller's segment")
            i = bisect_right(segment.starts, offset) - 1
            before = segment.starts[i] + segment.lengths[segment.starts[i]] if i >= 0 else 0
            after = segment.starts[i + 1] if i + 1 < len(segment.starts) else 1 << 63
            if before > offset or offset + nbytes > after:
                raise InvalidObjectError(f"claim at {offset} overlaps a sealed extent")
            seen.append((offset, nbytes))
        seen.sort()
        for (a, n), (b, _) in pairwise(seen):
            if a + n > b:
                raise InvalidObjectError(f"claims at {a} and {b} overlap")

    def seal(self, writer: Writer, claims: Iterable[tuple[int, int]]) -> None:
        """Enter checked claims, with no references yet."""
        segment = writer.segment
        for offset, nbytes in claims:
            assert segment is not None
            insort(segment.starts, offset)
            segment.lengths[offset] = nbytes
            segment.refs[offset] = 0

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
        segment.starts, segment.lengths = [segment.offset], {segment.offset: segment.nbytes}
        segment.refs = {segment.offset: 0}

    def owns_strict(self, writer: Writer, segment_id: int | None) -> bool:
        """Whether this is a file that ``writer`` asked for and has not put yet."""
        segment = self.segments.get(segment_id) if segment_id is not None else None
        return segment is not None and segment.kind == "strict" and segment.owner is writer

    def discard_strict(self, segment_id: int | None) -> None:
        """Drop the file of a strict object that came to nothing, or has no bytes."""
        segment = self.segments.get(segment_id) if segment_id is not None else None
        if segment is not None and segment.kind == "strict" and not any(segment.refs.values()):
            self._retire(segment)

    def unseal(self, writer: Writer, claims: Iterable[tuple[int, int]]) -> None:
        """Take claims out again that nothing came to use."""
        segment = writer.segment
        for offset, _ in claims:
            assert segment is not None
            self._remove(segment, offset)

    def cover(self, ranges: Iterable[tuple[int, int]]) -> list[ExtentKey]:
        """The extents that hold all of ``ranges``; InvalidObjectError if some is not sealed."""
        keys: dict[ExtentKey, None] = {}
        for offset, nbytes in ranges:
            at, end = offset, offset + nbytes
            while at < end:
                segment = self.segment_at(at)  # a range may go on in the next one
                if segment is None:
                    raise InvalidObjectError(f"a buffer lies outside of the store, at {at}")
                i = bisect_right(segment.starts, at) - 1
                start = segment.starts[i] if i >= 0 else -1
                if i < 0 or at >= start + segment.lengths[start]:
                    raise InvalidObjectError(f"a buffer lies in memory that is not sealed, at {at}")
                keys[segment.id, start] = None
                at = start + segment.lengths[start]
        return list(keys)

    def cover_sealed(self, ranges: Iterable[tuple[int, int]]) -> list[ExtentKey]:
        """Like `cover`, leaving out what is not sealed (a put of it is under way)."""
        keys: dict[ExtentKey, None] = {}
        for r in ranges:
            with contextlib.suppress(InvalidObjectError):
                keys |= dict.fromkeys(self.cover([r]))
        return list(keys)

    def hold(self, keys: Iterable[ExtentKey]) -> None:
        """One more user of each extent."""
        for segment_id, start in keys:
            self.segments[segment_id].refs[start] += 1

    def drop(self, keys: Iterable[ExtentKey]) -> None:
        """One user less; an extent without any goes back to its writer, or to the machine."""
        for segment_id, start in keys:
            segment = self.segments[segment_id]
            segment.refs[start] -= 1
            if segment.refs[start] == 0:
                self._free(segment, start)

    def _remove(self, segment: Segment, start: int) -> int:
        del segment.starts[bisect_right(segment.starts, start) - 1]
        del segment.refs[start]
        return segment.lengths.pop(start)

    def _free(self, segment: Segment, start: int) -> None:
        nbytes = self._remove(segment, start)
        if segment.owner is not None:
            owner = segment.owner
            if owner.backlog or not owner.table.give_back(start, nbytes):
                owner.backlog.append((start, nbytes))
            return
        if segment.kind == "lease":
            _core.punch_hole(segment.rw_fd, start - segment.offset, nbytes)
            self._charge(segment, -nbytes)
        if not segment.starts:
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
                for start, nbytes in segment.gaps():
                    _core.punch_hole(segment.rw_fd, start - segment.offset, nbytes)
                self._charge(segment, segment.sealed - segment.charged)
            if not segment.starts:
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
