"""Where a tree lands: memory of the receiver's lease, and the one put that publishes it.

Until then nobody sees anything of it, and if this process dies, its memory is the daemon's
again. Offsets keep their remainder by 64, so buffers are aligned as they were at the source.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from array import array
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import AccessDeniedError, InvalidObjectError, ProtocolError
from ..ipc import _core
from ..ipc import protocol as p
from ..objects import ObjectID
from . import protocol as m
from .tree import MAX_METADATA, Range

if TYPE_CHECKING:
    from ..ipc.attached import Attached

ORIGIN = "vineyard.origin"  # a label: the id of what an object is a copy of
_ALIGNMENT = 64
_ID = re.compile(rb"o[0-9a-f]{16}")


def find_copy(attached: Attached, root: int) -> int | None:
    """The copy of object ``root`` of another instance that is here already, or None."""
    reply, _ = attached.request(p.ListObjects("*", 1, {ORIGIN: str(ObjectID(root))}))
    return reply.objects[0].id if reply.objects else None


class Landing:
    """A tree on its way into the store.

    Parameters
    ----------
    attached : Attached
        The receiver's store.
    offer : Offer
        What is to come.

    Attributes
    ----------
    payload : Payload or None
        Memory for it, once the manifest is complete.
    """

    def __init__(self, attached: Attached, offer: m.Offer) -> None:
        if not offer.objects:
            raise ProtocolError("an offer of nothing")
        attached.lease()
        self.offer = offer
        self.payload: m.Payload | None = None
        self._attached = attached
        self._entries: list[m.Entry] = []
        self._plans: list[_core.Plan] = []
        self._pieces: list[memoryview] = []
        self._moves: list[tuple[int, int, int]] = []
        self._nbytes = self._metadata_nbytes = 0

    def add(self, entries: list[m.Entry]) -> None:
        """Reserve memory for what these objects bring; StoreFullError."""
        try:
            for entry in entries:
                self._add(entry)
        except MemoryError:
            raise self._attached.full(self.offer.nbytes) from None
        if len(self._entries) == self.offer.objects:
            if self._nbytes != self.offer.nbytes or self._entries[-1].id != self.offer.root:
                raise ProtocolError("the manifest is not that of the offer")
            self.payload = m.Payload(self._pieces)

    def _add(self, entry: m.Entry) -> None:
        self._nbytes += sum(nbytes for _, nbytes in entry.ranges)
        self._metadata_nbytes += len(entry.streams)
        if (
            len(self._entries) == self.offer.objects
            or self._nbytes > self.offer.nbytes
            or self._metadata_nbytes > MAX_METADATA
            or not all(nbytes for _, nbytes in entry.ranges)
        ):
            raise ProtocolError("the manifest is not that of the offer")
        plan = _core.Plan(self._attached._core)
        self._plans.append(plan)
        self._entries.append(entry)
        # As in a put: what is large has pages of its own, what is small shares some.
        apart: dict[Range, tuple[_core.Reserved, int]] = {}
        small: list[tuple[Range, int]] = []
        end = 0
        for place in entry.ranges:
            offset, nbytes = place
            rest = offset % _ALIGNMENT
            if nbytes >= _core.SEAL_THRESHOLD:
                apart[place] = plan.reserve(rest + nbytes), rest
            else:
                at = -(-end // _ALIGNMENT) * _ALIGNMENT + rest
                small.append((place, at))
                end = at + nbytes
        if small:
            gathered = plan.reserve(end)
            apart |= {place: (gathered, at) for place, at in small}
        for place in entry.ranges:
            extent, at = apart[place]
            self._moves.append((*place, extent.offset + at))
            self._pieces.append(memoryview(extent)[at : at + place[1]])

    def publish(self) -> ObjectID:
        """Put all of it at once; return the id of the root. The memory must not be written after.

        If a copy of the same object was put in the meantime, that one's.
        """
        attached = self._attached
        ids = attached._take_ids(len(self._entries))
        new = {entry.id: number for entry, number in zip(self._entries, ids, strict=True)}
        moves = memoryview(array("Q", chain.from_iterable(sorted(self._moves))))
        created_ns = time.time_ns()
        items = [
            self._item(entry, plan, new, moves, created_ns)
            for entry, plan in zip(self._entries, self._plans, strict=True)
        ]
        with _alone(attached.socket):
            found = find_copy(attached, self.offer.root)
            if found is not None:
                return ObjectID(found)
            attached._commit(self._plans, items)
        return ObjectID(ids[-1])

    def _item(
        self,
        entry: m.Entry,
        plan: _core.Plan,
        new: dict[int, int],
        moves: memoryview,
        created_ns: int,
    ) -> p.PutItem:
        try:
            streams = _core.relocate(entry.streams, self._attached._core.space, moves)
            members = [new[member] for member in entry.members]
            streams = rename_members(streams, new)
        except (RuntimeError, KeyError) as error:
            raise InvalidObjectError(f"{ObjectID(entry.id)} came damaged: {error}") from None
        copied = sum(nbytes for _, nbytes in entry.ranges)
        return p.PutItem(
            new[entry.id],
            entry.typename,
            streams,
            plan.claims,
            entry.nbytes,
            copied,
            0,
            max(0, entry.nbytes - copied),
            created_ns,
            members=members,
            signature=entry.signature,
            labels={ORIGIN: str(ObjectID(entry.id))} if entry.id == self.offer.root else {},
            vouched=entry.own,
        )


def rename_members(streams: bytes, new: dict[int, int]) -> bytes:
    """The messages of an object, with the ids of its members replaced; KeyError for another id."""
    place = _core.members_place(streams)
    if place is None:
        return streams
    begin, end = place

    def renamed(found: re.Match[bytes]) -> bytes:
        return str(ObjectID(new[int(found[0][1:], 16)])).encode()

    return streams[:begin] + _ID.sub(renamed, streams[begin:end]) + streams[end:]


@contextlib.contextmanager
def _alone(socket: Path) -> Iterator[None]:
    """No other receiver of this daemon puts meanwhile: the same object might come by two."""
    try:
        fd = os.open(socket.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise AccessDeniedError(f"cannot lock the folder of {socket}: {error}") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)  # the holder waits for its daemon with a deadline
        yield
    finally:
        os.close(fd)
