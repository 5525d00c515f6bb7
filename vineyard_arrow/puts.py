"""Puts: claims checked, extents counted, objects published; by request or out of an outbox.

A client need not wait for a put that cannot be refused: it leaves the message in the outbox
of its client table. Whatever looks at the catalog calls `Puts.take_mail` first, so nobody
can tell the difference. What could be refused is decided beforehand: room in the index and
for metadata by an *allowance* of objects, which is room kept free of other puts; memory by
credit; names by going over the socket.

Knows no sockets. Single-threaded.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

from .errors import InvalidObjectError, ProtocolError, VineyardArrowError
from .ipc import _core
from .ipc import protocol as p
from .ipc.memory import Memory, Writer
from .metadata.catalog import MAX_NAME_NBYTES, Catalog, Record, check_labels
from .sessions import Session
from .streaming import Streaming

log = logging.getLogger("vineyard_arrow.puts")

ALLOWANCE = 256  # objects that a client may leave in its outbox between two visits
# Metadata is stored in pieces of many pages, which may end up half empty.
_PER_OUTBOX = 2 * _core.OUTBOX_NBYTES
_PER_PUT = 128 << 10
_MOST = (1 << 63) - 1


class Puts:
    """The way of objects into the catalog.

    Parameters
    ----------
    memory, catalog
        Where extents are counted and objects are known.
    sessions
        All sessions, as they come and go.
    published
        Called with the id and the name (or None) of each new object.
    streaming
        Where batches of streams go.

    Attributes
    ----------
    count, copied, gathered, shared : int
        Objects put so far, and bytes by what was done with them.
    """

    def __init__(
        self,
        memory: Memory,
        catalog: Catalog,
        sessions: Iterable[Session],
        published: Callable[[int, str | None], None],
        streaming: Streaming,
    ) -> None:
        self._memory = memory
        self._catalog = catalog
        self._sessions = sessions
        self._published = published
        self._streaming = streaming
        self._allowed = 0  # sum over all writers
        self.count = self.copied = self.gathered = self.shared = 0

    # ---- outboxes

    def take_mail(self) -> None:
        """Publish what lies in the outboxes."""
        mail = [
            s
            for s in self._sessions
            if (w := s.writer) is not None
            and w.segment is not None
            and not s.refused
            and w.table.has_mail
        ]
        for session in mail:  # a list: publishing wakes waiters, and finds some of them gone
            if session.writer is not None:
                self._take(session, session.writer)
        self._streaming.tell_readers()

    def _take(self, session: Session, writer: Writer) -> None:
        try:
            for body in writer.table.take_mail():
                message = p.decode_put(body)
                if any(
                    i.name is not None or i.strict is not None or i.members or i.labels
                    for i in message.items
                ):
                    raise ProtocolError("a put that may be refused was left in an outbox")
                self._spend(writer, len(message.items))
                self._put(session, writer, message.items)
        except Exception as error:  # nobody waits for an answer, least of all whom we serve now
            expected = isinstance(error, (ValueError, VineyardArrowError))
            log.warning("a bad put of process %d: %s", session.pid, error, exc_info=not expected)
            self.forget(writer)
            session.refused = True
            session.refuse(ProtocolError(f"the daemon refused a put that was left to it: {error}"))
        else:
            self.allow(writer)

    def _spend(self, writer: Writer, objects: int) -> None:
        if not 0 < objects <= writer.allowed:
            raise ProtocolError("no objects, or more than were allowed, were left in an outbox")
        writer.allowed -= objects
        self._allowed -= objects

    def allow(self, writer: Writer) -> None:
        """Fill the writer's allowance up, if index and metadata have room to spare."""
        if writer not in self._memory.writers:  # gone, of what its put has set off
            return
        more = ALLOWANCE - writer.allowed
        if not self._has_room(more, 0, len(self._memory.writers)):
            return self._disallow(writer)
        writer.table.allow(more)
        writer.allowed += more
        self._allowed += more

    def _disallow(self, writer: Writer) -> None:
        # The writer's word, so not more than it can have.
        left = min(max(writer.table.disallow(), 0), writer.allowed)
        writer.allowed -= left
        self._allowed -= left

    def forget(self, writer: Writer) -> None:
        """The writer may leave nothing any more."""
        writer.table.disallow()
        self._allowed -= writer.allowed
        writer.allowed = 0

    def _has_room(self, entries: int, nbytes: int, outboxes: int) -> bool:
        """Whether so much fits beside what may still come out of so many outboxes."""
        return (
            self._catalog.room - self._allowed >= entries
            and self._catalog.spare_nbytes >= outboxes * _PER_OUTBOX + nbytes
        )

    def make_room(self, entries: int, nbytes: int) -> None:
        """Take allowances back if they stand in the way of other objects and names.

        ``nbytes``: of their metadata, at most. StoreFullError when what has been left, or is
        just being left, still does.
        """
        nbytes = 2 * nbytes + _PER_PUT
        if self._has_room(entries, nbytes, len(self._memory.writers)):
            return
        for _ in range(2):
            for writer in self._memory.writers:
                self._disallow(writer)
            outboxes = sum(1 for writer in self._memory.writers if writer.allowed)
            # Without any, what is free in smaller pieces counts as well: try.
            if self._has_room(entries, nbytes if outboxes else 0, outboxes):
                return
            self.take_mail()
        if self._catalog.room - self._allowed < entries:
            raise self._catalog.full()
        raise self._catalog.arena_full()

    # ---- puts

    def put(self, session: Session, items: list[p.PutItem]) -> None:
        """Seal and publish objects, all or none; nothing is kept when it raises."""
        writer = session.writer
        assert writer is not None
        strict = [i.strict for i in items if self._memory.owns_strict(writer, i.strict)]
        try:
            for item in items:
                if item.stream:
                    self._streaming.check_append(item.stream, writer)
            self.make_room(
                sum(1 + self._is_fresh(item) for item in items),
                sum(2 * len(item.streams) + MAX_NAME_NBYTES for item in items),
            )
            self._put(session, writer, items)
        except BaseException:
            for segment_id in strict:
                self._memory.discard_strict(segment_id)
            raise
        self._streaming.tell_readers()
        if writer.allowed < ALLOWANCE // 2:
            self.allow(writer)

    def _is_fresh(self, item: p.PutItem) -> bool:
        """Whether an object brings a name that takes up room of its own."""
        return item.name is not None and self._catalog.find_name(item.name) is None

    def _put(self, session: Session, writer: Writer, items: list[p.PutItem]) -> None:
        for item in items:
            if not any(item.id in ids for ids in session.ids):
                raise InvalidObjectError(f"id {item.id:#x} is not one of the caller's")
            if item.stream and (item.name is not None or item.members or item.strict is not None):
                raise InvalidObjectError("a batch of a stream is no object by itself")
        named = [(i.name, i.overwrite) for i in items if i.name is not None]
        self._catalog.check_new(
            [i.id for i in items],
            [name for name, overwrite in named if not overwrite],
            [name for name, overwrite in named if overwrite],
        )
        for i, item in enumerate(items):
            check_labels(item.labels)
            if item.members:
                self._catalog.check_members(item.members, (before.id for before in items[:i]))
        claims = [c for item in items for c in item.claims]
        self._memory.seal(writer, claims)
        records: list[Record] = []
        try:
            for item in items:
                records.append(self._prepare(session, writer, item))
            used = {key for record in records for key in record.extents}
            for offset, _ in claims:
                if offset not in used:
                    raise InvalidObjectError(f"the claim at {offset} is of no object's use")
        except BaseException:
            for record in records:
                self._memory.untake(record.extents)
                self._catalog.discard(record)
            self._memory.unseal(claims)
            raise
        for record, item in zip(records, items, strict=True):
            self._memory.discard_strict(item.strict)  # if the object has no bytes to put there
            if item.stream:
                self._catalog.publish_unlisted(record)
            else:
                self._catalog.publish(record, item.name)
            self._count(item)
        # These set off anything: only once all are accounted for.
        for record, item in zip(records, items, strict=True):
            if item.stream:
                self._streaming.append(item.stream, writer, record)
            else:
                self._published(item.id, item.name)

    def _prepare(self, session: Session, writer: Writer, item: p.PutItem) -> Record:
        """All of a put but its publication: extents counted, metadata stored."""
        if item.strict is not None:
            if not self._memory.owns_strict(writer, item.strict):
                raise InvalidObjectError(f"segment {item.strict} is not the caller's to seal")
            self._memory.seal_strict(self._memory.segments[item.strict])
        keys, segments, stored = self._memory.take(item.streams)
        created = min(item.created_ns, time.time_ns())
        signature = item.signature or item.id
        try:
            place, name_place = self._catalog.store(
                item.streams,
                segments,
                (
                    item.nbytes,
                    created,
                    item.copied,
                    item.gathered,
                    item.shared,
                    self._user_of(session, segments) if item.vouched else _core.SEVERAL_USERS,
                    signature,
                ),
                item.name,
            )
        except BaseException:
            self._memory.untake(keys)
            raise
        return Record(
            item.id,
            item.typename,
            item.nbytes,
            stored,
            created,
            session.pid,
            keys,
            place,
            name_place,
            members=item.members,
            labels={k: v for k, v in item.labels.items() if v},
            signature=signature,
        )

    def _user_of(self, session: Session, segments: list[int]) -> int:
        """Whose an object is that lies in these segments: all who can write them count."""
        own = session.vouched
        if own and all(self._memory.segments[i].uid == session.uid for i in segments):
            return session.uid
        return _core.SEVERAL_USERS

    def _count(self, item: p.PutItem) -> None:
        # Clients' words: they must not grow beyond what a message can carry.
        self.count += 1
        self.copied = min(self.copied + item.copied, _MOST)
        self.gathered = min(self.gathered + item.gathered, _MOST)
        self.shared = min(self.shared + item.shared, _MOST)
