"""What a daemon does with each message: the one place where memory and catalog meet.

`Service.handle` maps (session, request) to a reply, with no I/O of its own: sockets are
`ipc.server`'s, the process `daemon`'s. Single-threaded.
"""

from __future__ import annotations

import fcntl
import heapq
import os
import struct
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from . import __version__
from .cluster import Cluster, Known
from .errors import (
    InvalidObjectError,
    ObjectNotFoundError,
    ProtocolError,
    StoreFullError,
    VineyardArrowError,
)
from .finds import Finds
from .ipc import _core
from .ipc import protocol as p
from .ipc.blocks import Block, Blocks
from .ipc.hugepages import SharedFiles
from .ipc.memory import Memory, Writer
from .metadata.catalog import MAX_NAME_NBYTES, Catalog, Record, check_labels
from .metadata.records import ObjectRecord
from .puts import Puts
from .sessions import NoReply, Session
from .sharing import Sharing, object_of
from .streaming import Streaming

IDS_PER_LEASE = 1 << 16
MAX_ID_LEASES = 1024  # so many ids a client may have taken and not used yet
MAX_SEGMENTS = 200  # descriptors in one reply: the kernel passes 253
TRIM_WAITS_S = (0.002, 0.01, 0.05, 0.2)
BUSY_WAITS_S = (0.2,) * 25  # beyond those, while writers have what a block lacks, but no turn


class Service:
    """A store: memory, catalog and sessions.

    Parameters
    ----------
    files : SharedFiles
        Where segments come from; closed with the service.
    limit : int
        Bytes of payload memory at most.
    max_objects : int
        Objects and names at most.
    idle_s : float
        Free memory stays warm that long.
    call_later : callable
        ``call_later(seconds, function)`` of the event loop; returns a handle with ``cancel``.
    watch : callable
        ``watch(fd, function)``: call when the descriptor is readable; None ends it.
    connect : callable
        Makes a connected socket pair, serves one end, returns (session, other end).
    cluster : Cluster
        That this instance is in; its descriptor is watched here. Whoever made it closes it.
    """

    def __init__(
        self,
        files: SharedFiles,
        limit: int,
        max_objects: int,
        idle_s: float,
        call_later: Callable[[float, Callable[[], None]], Any],
        watch: Callable[[int, Callable[[], None] | None], None],
        connect: Callable[[Session], tuple[Session, int]],
        stop: Callable[[], None],
        cluster: Cluster,
        rpc: Callable[[], str] = str,
        dashboard: Callable[[], str] = str,
    ) -> None:
        self._files = files
        self.rpc = rpc  # what `Status` says of it
        self.dashboard = dashboard  # likewise
        self._call_later = call_later
        self._watch = watch
        self._connect = connect
        self._stop = stop
        self.started = time.monotonic()
        self.memory = Memory(files, limit, idle_s, min(limit, 4 << 30) + (64 << 20))
        self.cluster = cluster
        self.instance = cluster.number
        self._next_id = 1
        self._next_client = 1
        self._slots = max_objects
        buckets = 1 << max(10, (2 * max_objects - 1).bit_length())
        self._index_fd = os.memfd_create("vineyard-index", os.MFD_CLOEXEC)
        os.ftruncate(self._index_fd, _core.index_nbytes(buckets, max_objects))
        catalog = self.memory.catalog
        self.index = _core.HostIndex(
            self._index_fd,
            buckets,
            max_objects,
            self.memory.space_nbytes,
            catalog.offset,
            catalog.nbytes,
            self.instance,
        )
        os.fchmod(self._index_fd, 0o400)  # a memfd is 0777: a reader could reopen it to write
        self._index_ro = os.open(f"/proc/self/fd/{self._index_fd}", os.O_RDONLY | os.O_CLOEXEC)
        self.arena = _core.MetadataArena(catalog.rw_fd, catalog.nbytes)
        self.catalog = Catalog(
            self.index, self.arena, catalog.offset, max_objects, self._pinned, self.memory.drop
        )
        self.blocks = Blocks(self.memory, files, watch, self._answer_all)
        self.sessions: set[Session] = set()
        self.streaming = Streaming(
            self.catalog,
            self.index,
            self.sessions,
            self._new_id,
            call_later,
            lambda: self.puts.take_mail(),
            self._after_delete,
            self._listen,
            self._count_waiting,
        )
        self.finds = Finds(
            self.catalog,
            self.streaming,
            self.instance,
            call_later,
            lambda: self.puts.take_mail(),
            self._count_waiting,
            cluster.names.get,
            lambda object_id: self.sharing.missing(object_id),
        )
        self.sharing = Sharing(
            cluster,
            self.catalog,
            self._messages_of,
            call_later,
            self.finds.published,
            self._again,
            self._after_delete,
        )
        self.puts = Puts(
            self.memory, self.catalog, self.sessions, self.finds.published, self.streaming
        )
        self._tidying = False
        self._closing = False
        watch(cluster.fd, cluster.drain)

    # ---- sessions

    def joined(self, session: Session) -> None:
        """A connection was made."""
        self.sessions.add(session)

    def left(self, session: Session) -> None:
        """A connection is gone: everything it held goes with it."""
        if not self._closing:
            self.puts.take_mail()  # its last words
        self.sessions.discard(session)
        self.streaming.left(session)
        self.finds.left(session)
        writer, session.writer = session.writer, None
        if writer is not None:
            if session.heard:
                self._watch(session.event_fd, None)
            os.close(session.event_fd)
            os.close(session.table_fd)
            if self._closing:  # the client lives on, with its unsealed memory: leave the pages
                return
            self.memory.writers.discard(writer)
            self.puts.forget(writer)
            self.catalog.reap()
            self.memory.leave(writer)
            self._tidy_soon()
            self._answer_all()

    def handle(self, session: Session, number: int, request: Any) -> None:
        """Carry out one request and send its reply."""
        self.puts.take_mail()
        if session.refused:  # it knows by now, and takes this as not done
            return
        try:
            method = _HANDLERS.get(type(request))
            if method is None or (session.writer is None and type(request) not in _UNATTACHED):
                raise ProtocolError(f"{type(request).__name__} is not allowed here")
            reply, fds = method(self, session, number, request)
        except NoReply:
            return
        except VineyardArrowError as error:
            reply, fds = p.failure(error), []
        if session.writer is not None and session.writer.retired:
            retired = self.memory.told_retired(session.writer)
            session.send(p.UNASKED, p.Retired(retired), [])
        session.send(number, reply, fds)

    def _again(self, session: Session, number: int, request: Any) -> None:
        """Carry out a request that had to wait."""
        if session in self.sessions:
            self.handle(session, number, request)

    def _attach(self, session: Session, pid: int, program: str) -> None:
        fds = [os.memfd_create("vineyard-client", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)]
        try:
            os.ftruncate(fds[0], _core.table_nbytes(self._slots))
            # The client may write it, not cut it short: we would die of SIGBUS.
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(fds[0], fcntl.F_ADD_SEALS, seals)
            fds.append(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
            session.writer = Writer(_core.HostTable(fds[0], self._slots), session.uid)
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
        session.table_fd, session.event_fd = fds
        session.number, self._next_client = self._next_client, self._next_client + 1
        session.pid, session.program = pid, program
        self.memory.writers.add(session.writer)
        if self.catalog.deleted_pinned:
            self._listen(session)

    def _listen(self, session: Session) -> None:
        """Heed the session's kicks. What it has kicked before is heard as well.

        Until it has a lease, or something deleted is pinned, it has nothing to say by them,
        and a connection that comes and goes is spared the watch.
        """
        if not session.heard:
            session.heard = True
            self._watch(session.event_fd, lambda: self._kicked(session))

    def _hello(self, session: Session, _: int, m: p.Hello) -> tuple[Any, list[int]]:
        if m.version != p.VERSION:
            raise ProtocolError(
                f"the client speaks version {m.version} of the protocol, the daemon {p.VERSION}",
                "run the same release of vineyard-arrow on both sides",
            )
        if session.writer is not None:
            raise ProtocolError("already attached")
        self._attach(session, session.pid or m.pid, m.program[:200])
        session.vouched = m.vouched
        catalog = self.memory.catalog
        welcome = p.Welcome(
            self.instance,
            session.number,
            catalog.id,
            self._take_ids(session),
            _core.SEAL_THRESHOLD,
            session.uid,
        )
        return welcome, [self._index_ro, session.table_fd, session.event_fd, catalog.ro_fd]

    def _take_ids(self, session: Session) -> tuple[int, int]:
        first = (self.instance << 40) + self._next_id
        self._next_id += IDS_PER_LEASE
        session.ids.insert(0, range(first, first + IDS_PER_LEASE))
        return first, IDS_PER_LEASE

    def _new_id(self) -> int:
        self._next_id += 1
        return (self.instance << 40) + self._next_id - 1

    def _lease_ids(self, session: Session, _: int, m: p.LeaseIds) -> tuple[Any, list[int]]:
        del session.ids[MAX_ID_LEASES:]
        return p.Ids(self._take_ids(session)), []

    def _fork(self, session: Session, number: int, m: p.Fork) -> tuple[Any, list[int]]:
        parent = session.writer
        assert parent is not None
        held = self.memory.cover_sealed(m.extents)
        child, fd = self._connect(session)
        self._attach(child, session.pid, f"{session.program} (forked)"[:200])
        assert child.writer is not None
        child.writer.table.copy_pins(parent.table, self.index.high_water)
        self.memory.hold(held)
        child.writer.held = held
        for segment in self.memory.segments.values():
            if parent in segment.holders:
                segment.holders.add(child.writer)
        forked = p.Forked(child.number, self._take_ids(child))
        session.send(number, forked, [fd, child.table_fd, child.event_fd])
        os.close(fd)  # else the child's end would never be the last one
        raise NoReply

    # ---- memory

    def _lease(self, session: Session, _: int, m: p.LeaseSegment) -> tuple[Any, list[int]]:
        writer = session.writer
        assert writer is not None
        if writer.segment is not None:
            raise ProtocolError("a client has one segment, and this one has it already")
        self.puts.allow(writer)
        segment, free = self.memory.lease(writer, m.avoid)
        self._listen(session)
        reply = p.Leased(
            segment.id, segment.offset, segment.nbytes, segment.huge, self.memory.idle_s, free
        )
        return reply, [segment.rw_fd, segment.ro_fd]

    def _segments(self, session: Session, _: int, m: p.GetSegments) -> tuple[Any, list[int]]:
        wanted = {m.segment: self.memory.segments.get(m.segment)}
        if wanted[m.segment] is None:
            raise ObjectNotFoundError(f"no segment {m.segment}")
        if m.object is not None:
            for record in self.catalog.closure(m.object):
                for key in record.extents:
                    segment = self.memory.segment_at(key)
                    if segment is not None and len(wanted) < MAX_SEGMENTS:
                        wanted[segment.id] = segment
        assert session.writer is not None
        reply, fds = [], []
        for s in wanted.values():
            assert s is not None
            if s.id == m.segment or session.writer not in s.holders:
                s.holders.add(session.writer)
                reply.append(p.Segment(s.id, s.offset, s.nbytes, s.huge))
                fds.append(s.ro_fd)
        return p.Segments(reply), fds

    def _strict(self, session: Session, _: int, m: p.MakeStrict) -> tuple[Any, list[int]]:
        assert session.writer is not None
        if m.nbytes <= 0:
            raise InvalidObjectError(f"a file of {m.nbytes} bytes")
        segment = self.memory.make_strict(session.writer, m.nbytes)
        reply = p.Segment(segment.id, segment.offset, segment.nbytes, segment.huge)
        return reply, [segment.rw_fd]

    def _drop_strict(self, session: Session, _: int, m: p.DropStrict) -> tuple[Any, list[int]]:
        assert session.writer is not None
        if self.memory.owns_strict(session.writer, m.segment):
            self.memory.discard_strict(m.segment)
        return p.Done(), []

    def _kicked(self, session: Session) -> None:
        """A client wants credit, or dropped the last pin of something deleted."""
        try:
            kicks = os.eventfd_read(session.event_fd)
        except BlockingIOError:
            return
        if kicks >= _core.CURSOR_KICK:
            self.streaming.moved()
            if kicks % _core.CURSOR_KICK == 0:
                return
        if session.writer is not None:
            session.writer.table.heard()
        self.puts.take_mail()
        self.catalog.reap()
        self._tidy_soon()
        if session.writer is not None and session.writer.table.wanted > 0 and not session.asking:
            self._try_credit(session, 0)

    def _try_credit(self, session: Session, attempt: int) -> None:
        """Grant, or make others trim and try again a few times, or refuse."""
        writer = session.writer
        session.asking = False
        self.streaming.settle()
        self.memory.flush_backlogs()
        if writer is None or self.memory.answer(writer):
            return
        if attempt == 0:
            table = writer.table
            if table.credit + table.warm >= table.wanted:
                table.answer(False)  # it has pages of its own to give up, and will
                return
            self.memory.ask_trim()
        if attempt < len(TRIM_WAITS_S):
            session.asking = True
            self._call_later(TRIM_WAITS_S[attempt], lambda: self._try_credit(session, attempt + 1))
            return
        writer.table.answer(False)

    def _answer_all(self) -> None:
        for session in self.sessions:
            if session.writer is not None and session.writer.table.wanted > 0:
                self.memory.answer(session.writer)

    def _tidy_soon(self) -> None:
        if not self._tidying:
            self._tidying = True
            self._call_later(self.memory.idle_s, self._tidy)

    def _tidy(self) -> None:
        """After deletes: free metadata pages, and extents that found a ring full."""
        self._tidying = False
        self.arena.trim()
        if not self.memory.flush_backlogs():
            self._tidy_soon()

    # ---- blocks of shared memory

    def _create_block(self, session: Session, number: int, m: p.CreateBlock) -> Any:
        self._try_block(session, number, m, 0)
        raise NoReply

    def _try_block(self, session: Session, number: int, m: p.CreateBlock, attempt: int) -> None:
        """Make a block and reply, or make writers trim and try again a few times, or refuse."""
        if session not in self.sessions:
            return
        self.streaming.settle()
        self.memory.flush_backlogs()
        try:
            reply, fds = self._opened(self.blocks.create(m.name, m.nbytes))
        except VineyardArrowError as error:
            hopeful = isinstance(error, StoreFullError) and m.nbytes <= self.memory.limit
            waits_s = TRIM_WAITS_S + BUSY_WAITS_S * self.memory.may_have(m.nbytes)
            if hopeful and attempt < len(waits_s):
                self.memory.ask_trim()
                again = partial(self._try_block, session, number, m, attempt + 1)
                self._call_later(waits_s[attempt], again)
                return
            reply, fds = p.failure(error), []
        session.send(number, reply, fds)

    def _opened(self, block: Block) -> tuple[Any, list[int]]:
        return p.Block(block.name, block.nbytes), [block.fd, block.hold_fd]

    def _open_block(self, session: Session, _: int, m: p.OpenBlock) -> tuple[Any, list[int]]:
        return self._opened(self.blocks.get(m.name))

    def _unlink_block(self, session: Session, _: int, m: p.UnlinkBlock) -> tuple[Any, list[int]]:
        self.blocks.unlink(m.name)
        return p.Done(), []

    # ---- streams

    def _stream(self, session: Session, number: int, m: Any) -> tuple[Any, list[int]]:
        reply = _STREAMING[type(m)](self.streaming, session, number, m)
        if reply is None:
            raise NoReply
        return reply, []

    # ---- objects

    def _pinned(self, slot: int) -> bool:
        """Whether anybody reads what is in the slot; if not, nobody has ever to come to it.

        A reader may have left a put that shares the object's memory before it dropped its
        pin. So outboxes are looked at after the pins: what they share is then counted.
        """
        if any(w.table.pins(slot) for w in self.memory.writers):
            return True
        self.puts.take_mail()
        return False

    def _messages_of(self, record: Record) -> bytes:
        """The messages of an object; they end what is stored of it (see `parts.h`)."""
        offset, nbytes = record.place
        data = os.pread(self.memory.catalog.rw_fd, nbytes, offset)
        (stream_nbytes,) = struct.unpack_from("<Q", data, 8)
        return data[nbytes - stream_nbytes :]

    def _put(self, session: Session, _: int, m: p.Put) -> tuple[Any, list[int]]:
        for item in m.items:
            if item.name is None or item.name not in self.cluster.names:
                continue
            if item.overwrite:
                self.sharing.check_movable(item.name, item.id)
            else:
                self.sharing.check_free(item.name)
        self.puts.put(session, m.items)
        return p.Done(), []

    def _delete(self, session: Session, number: int, m: p.Delete) -> tuple[Any, list[int]]:
        if self.sharing.delete(session, number, m) is None:
            self.catalog.delete(m.ids, force=m.force, deep=m.deep)
            self._after_delete()
        return p.Done(), []

    def _persist(self, session: Session, number: int, m: p.Persist) -> tuple[Any, list[int]]:
        return self.sharing.persist(session, number, m), []

    def _create_global(
        self, session: Session, number: int, m: p.CreateGlobal
    ) -> tuple[Any, list[int]]:
        return self.sharing.create_global(session, number, m, self._new_id()), []

    def _clear(self, session: Session, number: int, m: p.Clear) -> tuple[Any, list[int]]:
        self.sharing.clear(session, number, m)
        self.streaming.clear()
        self.catalog.clear()
        self.blocks.clear()
        self._after_delete()
        return p.Done(), []

    def _after_delete(self) -> None:
        if self.catalog.deleted_pinned:
            for session in self.sessions:
                if session.writer is not None:
                    self._listen(session)
        self._tidy_soon()
        self._answer_all()

    def _list_objects(self, session: Session, _: int, m: p.ListObjects) -> tuple[Any, list[int]]:
        wanted = m.labels.items()
        records = [
            r
            for r in self.catalog.match(m.pattern)
            if wanted <= r.labels.items() and m.signature in (0, r.signature)
        ]
        others = self.sharing.match(m) if m.cluster else []
        limit = max(m.limit, 0)
        found: list[Record | Known] = [*records, *others]
        chosen = (
            heapq.nlargest(limit, found, key=lambda r: (_about(r).created_ns, _about(r).id))
            if m.newest
            else sorted(found, key=lambda r: _about(r).id)[:limit]
        )
        infos = [self._info(r) if isinstance(r, Record) else self.sharing.info(r) for r in chosen]
        return p.Objects(infos, len(found)), []

    def _describe(self, session: Session, _: int, m: p.Describe) -> tuple[Any, list[int]]:
        record = self.catalog.get(m.id)
        info = self.sharing.describe(m.id) if record is None else self._info(record)
        if info is None:
            raise self.finds.missing(m.id)
        return info, []

    def _info(self, r: Record) -> p.ObjectInfo:
        pinned = [
            s.pid for s in self.sessions if s.writer is not None and s.writer.table.pins(r.slot)
        ]
        return p.ObjectInfo(
            r.id,
            r.typename,
            r.nbytes,
            r.stored,
            r.created_ns,
            r.pid,
            sorted(r.names),
            pinned,
            r.members,
            r.parents,
            r.labels,
            r.signature,
            r.persisted and self.sharing.is_known(r.id),
        )

    def _label(self, session: Session, number: int, m: p.Label) -> tuple[Any, list[int]]:
        if (reply := self.sharing.label(session, number, m)) is not None:
            return reply, []
        record = self.catalog.get(m.id)
        if record is None:
            raise self.finds.missing(m.id)
        labels = {k: v for k, v in {**record.labels, **m.labels}.items() if v}
        check_labels(labels)
        record.labels = labels
        return p.Done(), []

    # ---- names and waiting

    def _put_name(self, session: Session, number: int, m: p.PutName) -> tuple[Any, list[int]]:
        if (reply := self.sharing.put_name(session, number, m)) is not None:
            return reply, []
        before = self.catalog.find_name(m.name)
        self.puts.make_room(int(before is None), MAX_NAME_NBYTES)
        self.catalog.put_name(m.name, m.id, overwrite=m.overwrite)
        self.finds.published(m.id, m.name)
        return p.Moved(before), []

    def _drop_name(self, session: Session, number: int, m: p.DropName) -> tuple[Any, list[int]]:
        if (reply := self.sharing.drop_name(session, number, m)) is not None:
            return reply, []
        self.catalog.drop_name(m.name)
        return p.Done(), []

    def _list_names(self, session: Session, _: int, m: p.ListNames) -> tuple[Any, list[int]]:
        names = self.cluster.match_names(m.pattern) | self.catalog.list_names(m.pattern)
        return p.Names(dict(sorted(names.items()))), []

    def _find(self, session: Session, number: int, m: p.Find) -> tuple[Any, list[int]]:
        reply = self.finds.find(session, number, m)
        if reply is None:
            raise NoReply
        return reply, []

    def _count_waiting(self) -> None:
        self.index.set_waiters(self.finds.waiting + self.streaming.readers_waiting)

    # ---- the whole

    def _status(self, session: Session, _: int, m: p.GetStatus) -> tuple[Any, list[int]]:
        memory = self.memory
        self.streaming.settle()
        self.catalog.reap()
        self.blocks.reap()
        numbers = {s.writer: s.number for s in self.sessions if s.writer is not None}
        clients = [
            p.ClientInfo(
                s.number,
                s.pid,
                s.program,
                memory.sealed_of(w.segment) if w.segment else 0,
                w.table.unsealed,
                w.table.warm,
                w.segment.charged if w.segment else 0,
                w.table.total_pins(self.index.high_water),
            )
            for s in self.sessions
            if (w := s.writer) is not None
        ]
        segments = [
            p.SegmentInfo(
                s.id,
                s.kind,
                numbers.get(s.owner) if s.owner else None,
                s.offset,
                memory.sealed_of(s),
                s.committed,
                len(memory.extents_of(s)),
            )
            for s in memory.segments.values()
        ]
        status = p.Status(
            self.instance,
            os.getpid(),
            __version__,
            time.monotonic() - self.started,
            memory.limit,
            memory.sealed + memory.unsealed + memory.reserved,
            memory.committed + self.blocks.committed,
            memory.charged,
            sum(w.table.warm for w in memory.writers),
            self.arena.used,
            len(self.catalog),
            self.catalog.deleted_pinned,
            self.catalog.names,
            self.puts.count,
            self.puts.copied,
            self.puts.gathered,
            self.puts.shared,
            self._files.page_kind,
            self._files.protection,
            sorted(clients, key=lambda c: c.client),
            segments,
            len(self.blocks),
            memory.reserved,
            len(self.streaming),
            sum(len(stream.batches) for stream in self.streaming),
            sum(stream.stored for stream in self.streaming),
            self.rpc(),
            self.cluster.where,
            len(self.cluster.states()),
            self.cluster.fenced_s,
            self.cluster.unavailable_s,
            self.dashboard(),
        )
        return status, []

    def _list_instances(
        self, session: Session, _: int, m: p.ListInstances
    ) -> tuple[Any, list[int]]:
        return p.Instances(self.cluster.states()), []

    def _list_extents(self, session: Session, _: int, m: p.ListExtents) -> tuple[Any, list[int]]:
        self.catalog.reap()
        everything = [e for s in self.memory.segments.values() for e in self.memory.extents_of(s)]
        largest = heapq.nlargest(max(m.limit, 0), everything, key=lambda e: e[1])
        users: dict[int, list[int]] = {offset: [] for offset, _ in largest}
        for record in self.catalog.match("*"):
            for key in record.extents:
                if key in users:
                    users[key].append(record.id)
        extents = [(offset, nbytes, users[offset]) for offset, nbytes in sorted(largest)]
        return p.Extents(extents, len(everything)), []

    def _trim(self, session: Session, _: int, m: p.Trim) -> tuple[Any, list[int]]:
        self.memory.ask_trim()
        self.streaming.settle()
        self.catalog.reap()
        self.memory.flush_backlogs()
        self.arena.trim()
        return p.Done(), []

    def _stop_daemon(self, session: Session, _: int, m: p.Stop) -> tuple[Any, list[int]]:
        self._call_later(0, self._stop)
        return p.Done(), []

    def stop_serving(self) -> None:
        """From here on sessions only end; nothing is reclaimed, the kernel will do that."""
        self._closing = True

    def close(self) -> None:
        """Close every descriptor; what clients have mapped stays as it is."""
        self._watch(self.cluster.fd, None)
        for session in list(self.sessions):
            self.left(session)
        self.blocks.close()
        self.memory.close()
        os.close(self._index_fd)
        os.close(self._index_ro)


def _about(record: Record | Known) -> Record | ObjectRecord:
    return record if isinstance(record, Record) else object_of(record)


_STREAMING: dict[type, Callable[..., Any]] = {
    p.CreateStream: Streaming.create,
    p.OpenStream: Streaming.open,
    p.NextBatches: Streaming.next,
    p.AwaitRoom: Streaming.room,
    p.EndStream: Streaming.end,
    p.DropStream: Streaming.drop,
    p.ListStreams: Streaming.describe,
}
_HANDLERS: dict[type, Callable[..., tuple[Any, list[int]]]] = {
    p.Hello: Service._hello,
    p.LeaseSegment: Service._lease,
    p.GetSegments: Service._segments,
    p.MakeStrict: Service._strict,
    p.DropStrict: Service._drop_strict,
    p.Put: Service._put,
    p.Delete: Service._delete,
    p.Persist: Service._persist,
    p.CreateGlobal: Service._create_global,
    p.Clear: Service._clear,
    p.Find: Service._find,
    p.PutName: Service._put_name,
    p.DropName: Service._drop_name,
    p.Label: Service._label,
    p.ListNames: Service._list_names,
    p.ListObjects: Service._list_objects,
    p.Describe: Service._describe,
    p.LeaseIds: Service._lease_ids,
    p.Fork: Service._fork,
    p.CreateBlock: Service._create_block,
    p.OpenBlock: Service._open_block,
    p.UnlinkBlock: Service._unlink_block,
    **dict.fromkeys(_STREAMING, Service._stream),
    p.ListInstances: Service._list_instances,
    p.ListExtents: Service._list_extents,
    p.GetStatus: Service._status,
    p.Trim: Service._trim,
    p.Stop: Service._stop_daemon,
}
# What a connection may ask without attaching a process.
_UNATTACHED = {
    *(p.Hello, p.Find, p.GetStatus, p.Stop, p.ListObjects, p.ListNames, p.Trim, p.Clear),
    *(p.ListInstances, p.ListExtents, p.Persist, p.CreateGlobal),
    *_STREAMING,
}
