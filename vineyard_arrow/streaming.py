"""Streams between processes, as the daemon serves them: who waits for what, and who is told.

Each writer and each reader has a connection of its own, whose end is its end. Batches do not
come over it: they are put by the client of the writer's process, like objects, and are found
by the readers in shared memory; what goes over it is ids, and waiting.

Knows no sockets. Single-threaded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from .errors import (
    DeadlineExceededError,
    InvalidObjectError,
    ObjectExistsError,
    ObjectNotFoundError,
    ProtocolError,
    StreamFailedError,
    VineyardArrowError,
)
from .ipc import _core
from .ipc import protocol as p
from .ipc.memory import Writer
from .ipc.streams import Reader, Stream
from .machine import counted
from .metadata.catalog import Catalog, Record, check_name, nearest
from .objects import ObjectID
from .sessions import Session
from .waits import Key, Timer, Wait, Waits

MAX_IDS = 256  # in one reply


@dataclass(slots=True, eq=False)
class _Role:
    """What a connection is to a stream: its writer's, or a reader's."""

    stream: Stream
    reader: Reader | None


class Streaming:
    """All streams of a store. Its handlers return a reply, or None if it comes later.

    Parameters
    ----------
    catalog, index
        Where batches are published, and where writers and readers see that somebody waits.
    sessions
        All sessions, as they come and go.
    new_id
        Gives a fresh id.
    call_later
        ``call_later(seconds, function)`` of the event loop.
    take_mail
        Publishes what lies in outboxes.
    freed
        Called when batches were let go.
    listen
        Called with the session of a client whose kicks must be heard from here on.
    waiting
        Called when readers begin or cease to wait.
    """

    def __init__(
        self,
        catalog: Catalog,
        index: _core.HostIndex,
        sessions: Iterable[Session],
        new_id: Callable[[], int],
        call_later: Callable[[float, Callable[[], None]], Timer],
        take_mail: Callable[[], None],
        freed: Callable[[], None],
        listen: Callable[[Session], None],
        waiting: Callable[[], None],
    ) -> None:
        self._catalog = catalog
        self._index = index
        self._sessions = sessions
        self._new_id = new_id
        self._take_mail = take_mail
        self._freed = freed
        self._listen = listen
        self._waiting = waiting
        self._streams: dict[int, Stream] = {}
        self._named: dict[str, Stream] = {}
        self._roles: dict[Session, _Role] = {}
        self._waits = Waits(call_later, self._count_waits, self._expired)
        self._fresh: set[Stream] = set()  # have batches that nobody was told of

    def __len__(self) -> int:
        return len(self._streams)

    def __iter__(self) -> Iterator[Stream]:
        return iter(self._streams.values())

    @property
    def readers_waiting(self) -> int:
        """How many readers wait for a batch."""
        return self._waits.count(p.NextBatches)

    # ---- streams

    def create(self, session: Session, _: int, m: p.CreateStream) -> Any:
        """Make a stream."""
        owner = self._client(session, m.client).writer
        assert owner is not None
        table, (first, second) = owner.table, m.words

        def tell(batches: int, nbytes: int) -> None:
            table.set_word(second, nbytes)
            table.set_word(first, batches)

        if m.name is not None:
            check_name(m.name)
            if m.name in self._named:
                other = self._named[m.name]
                raise ObjectExistsError(
                    f"there is a {other.label} already ({other.state}, written by process"
                    f" {other.pid})",
                    "a stream has one writer; drop_stream frees the name",
                )
        if not m.keep and 0 in (m.max_batches, m.max_nbytes):
            raise InvalidObjectError("a stream of no batches or no bytes")
        stream = Stream(
            self._new_id(),
            m.name,
            m.schema,
            m.max_batches,
            m.max_nbytes,
            m.keep,
            session.pid,
            owner,
            time.time_ns(),
            tell,
            m.ephemeral,
        )
        self._streams[stream.id] = stream
        if m.name is not None:
            self._named[m.name] = stream
        self._roles[session] = _Role(stream, None)
        if m.name is not None:
            self._let_in(m.name, stream)
        return p.Opened(stream.id, stream.name, stream.schema, 0)

    def _client(self, session: Session, number: int) -> Session:
        """The client that a writer or reader belongs to."""
        if session in self._roles or session.writer is not None:
            raise ProtocolError("this connection is in use")
        for other in self._sessions:
            if other.number == number and other.writer is not None and other.uid == session.uid:
                return other
        raise ProtocolError(f"no client {number} of this user")

    def open(self, session: Session, number: int, m: p.OpenStream) -> Any:
        """Read a stream, when it is there."""
        self._client(session, m.client)
        stream = self._find(m)
        if stream is None:
            if not m.timeout_s > 0:  # nor for NaN
                raise self._missing(m)
            return self._wait(session, number, m, m.id or 0 if m.name is None else m.name)
        return self._open(session, m, stream)

    def _open(self, session: Session, m: p.OpenStream, stream: Stream) -> p.Opened:
        client = self._client(session, m.client)
        owner = client.writer
        assert owner is not None
        table, word = owner.table, m.word
        self._let_go(stream)  # so that all who come now begin at the same place
        reader = stream.join(session.pid, owner, lambda: table.word(word))
        self._roles[session] = _Role(stream, reader)
        self._listen(client)
        return p.Opened(stream.id, stream.name, stream.schema, reader.at)

    def _let_in(self, name: str, stream: Stream) -> None:
        """Readers that have waited for a stream of this name."""
        for wait in self._waits.on(name):
            try:
                reply: Any = self._open(wait.session, wait.request, stream)
            except VineyardArrowError as error:
                reply = p.failure(error)
            self._waits.answer(wait, reply)

    def _find(self, m: p.OpenStream | p.DropStream) -> Stream | None:
        if m.name is not None and m.name in self._named:
            return self._named[m.name]
        return self._streams.get(m.id) if m.id is not None else None

    def has(self, key: int | str) -> bool:
        """Whether there is a stream of this id or name."""
        return key in self._streams or key in self._named

    def _missing(self, m: p.OpenStream | p.DropStream) -> ObjectNotFoundError:
        shown = repr(str(ObjectID(m.id or 0)) if m.name is None else m.name)
        if self._is_object(m):
            return ObjectNotFoundError(f"no stream {shown}", f"{shown} is an object: get({shown})")
        hint = "one that has ended goes with its last reader"
        if m.name is not None:
            near = nearest(m.name, self._named)
            later = "open_stream(..., timeout_s=) waits for one"
            hint = "; ".join(filter(None, [near, hint, later]))
        return ObjectNotFoundError(f"no stream {shown}", hint)

    def _is_object(self, m: p.OpenStream | p.DropStream) -> bool:
        named = None if m.name is None else self._catalog.find_name(m.name)
        return any(self._catalog.get(i) for i in (m.id, named) if i is not None)

    def drop(self, _session: Session, _: int, m: p.DropStream) -> Any:
        """Take a stream away from whoever writes or reads it."""
        stream = self._find(m)
        if stream is None:
            raise self._missing(m)
        self._drop(stream)
        return p.Done()

    def clear(self) -> None:
        """Drop all."""
        for stream in list(self._streams.values()):
            self._drop(stream)

    def _drop(self, stream: Stream) -> None:
        self._remove(stream)
        if not stream.over:
            stream.tell(p.LOST, p.LOST)
        stream.end("it was dropped")
        self._withdraw(stream.empty())
        self._tell(stream)

    def _remove(self, stream: Stream) -> None:
        self._streams.pop(stream.id, None)
        if stream.name is not None and self._named.get(stream.name) is stream:
            del self._named[stream.name]

    def describe(self, _session: Session, _: int, m: p.ListStreams) -> Any:
        """Describe streams with a name that the pattern matches; all, for "*"."""
        self.settle()
        return p.Streams(
            [
                p.StreamState(*stream.facts())
                for stream in self._streams.values()
                if m.pattern == "*" or (stream.name and fnmatchcase(stream.name, m.pattern))
            ]
        )

    # ---- writing

    def check_append(self, stream_id: int, owner: Writer) -> None:
        """Raise unless this client may append to the stream."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.owner is not owner or stream.over:
            why = "is gone" if stream is None else "is over" if stream.over else "is another's"
            raise StreamFailedError(f"stream o{stream_id:016x} {why}: nothing can be written")

    def append(self, stream_id: int, owner: Writer, record: Record) -> None:
        """Add a published batch, or withdraw it if its stream was dropped meanwhile."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.owner is not owner or stream.over:
            self._withdraw([record])
        else:
            stream.append(record)
            self._fresh.add(stream)

    def tell_readers(self) -> None:
        """Answer readers that wait for what was appended."""
        while self._fresh:
            self._tell(self._fresh.pop())

    def room(self, session: Session, number: int, m: p.AwaitRoom) -> Any:
        """Wait until enough was let go."""
        stream = self._role(session, writer=True).stream
        if stream.over:
            raise self._failed(stream)
        # Readers kick from here on; what they say until then is read below.
        self._index.set_room_waiters(self._waits.count(p.AwaitRoom) + 1)
        self._let_go(stream)
        if not self._has_room(stream, m):
            return self._wait(session, number, m, stream.id)
        self._count_waits()
        return p.Done()

    def _has_room(self, stream: Stream, m: p.AwaitRoom) -> bool:
        return stream.gone >= m.batches and stream.gone_nbytes >= m.nbytes

    def end(self, session: Session, _: int, m: p.EndStream) -> Any:
        """The writer ends the stream."""
        stream = self._role(session, writer=True).stream
        if stream.over:
            raise self._failed(stream)
        self._end(stream, m.failure)
        return p.Done()

    def _end(self, stream: Stream, failure: str | None) -> None:
        stream.end(failure)
        self._tell(stream)
        self._tidy(stream)

    # ---- reading

    def next(self, session: Session, number: int, m: p.NextBatches) -> Any:
        """Tell a reader what comes next, when there is something."""
        role = self._role(session, writer=False)
        self._let_go(role.stream)
        reply = self._batches(role, m)
        if reply is not None:
            return reply
        if not m.timeout_s > 0:
            raise self._late(role.stream, m)
        return self._wait(session, number, m, role.stream.id)

    def _batches(self, role: _Role, m: p.NextBatches) -> p.Batches | None:
        stream, reader = role.stream, role.reader
        assert reader is not None
        lives = stream.id in self._streams
        if (lives and m.cursor < stream.gone) or m.cursor > stream.written:
            raise ProtocolError(f"batch {m.cursor} is none that this reader can ask for")
        ids = stream.ids_from(m.cursor, MAX_IDS) if stream.batches else []
        ended = stream.over and (m.cursor + len(ids) >= stream.written or not stream.batches)
        if not ids and not ended:
            return None
        reader.told = max(reader.told, m.cursor + len(ids))
        return p.Batches(ids, ended, stream.failure if ended else None)

    def moved(self) -> None:
        """Readers have come further while a writer waits for it."""
        if self._waits.count(p.AwaitRoom):
            self.settle()

    def settle(self) -> None:
        """Let go of all that can be: somebody counts, or is short of memory."""
        for stream in list(self._streams.values()):
            self._let_go(stream)

    def _let_go(self, stream: Stream) -> None:
        gone = stream.let_go()
        if not gone:
            return
        self._withdraw(gone)
        if self._waits.count(p.AwaitRoom):
            self._tell(stream)

    def _withdraw(self, records: list[Record]) -> None:
        if records:
            self._catalog.withdraw(records)
            self._freed()

    # ---- sessions

    def left(self, session: Session) -> None:
        """A connection is gone; of a writer, a reader, or the client of either."""
        self._waits.leave(session)
        role = self._roles.pop(session, None)
        if role is not None:
            if role.reader is not None:
                self._leave(role.stream, role.reader)
            elif not role.stream.over:
                self._abandon(role.stream)
        if session.writer is None:
            return
        for stream in list(self._streams.values()):
            if stream.owner is session.writer and not stream.over:
                self._abandon(stream)
            for reader in [r for r in stream.readers if r.owner is session.writer]:
                self._leave(stream, reader)

    def _abandon(self, stream: Stream) -> None:
        why = f"its writer, process {stream.pid}, went away without closing it"
        self._end(stream, why)

    def _leave(self, stream: Stream, reader: Reader) -> None:
        reader.update()
        if len(stream.readers) > 1:
            stream.readers.discard(reader)
            self._let_go(stream)
        else:  # the last one: what it has read goes, the rest is for whoever comes next
            self._let_go(stream)
            stream.readers.discard(reader)
        self._tidy(stream)

    def _tidy(self, stream: Stream) -> None:
        if stream.finished:
            self._remove(stream)
            self._withdraw(stream.empty())

    def _role(self, session: Session, *, writer: bool) -> _Role:
        role = self._roles.get(session)
        if role is None or (role.reader is None) != writer:
            raise ProtocolError("this connection is no " + ("writer's" if writer else "reader's"))
        lives = role.stream.id in self._streams
        if role.reader is not None and lives and role.reader not in role.stream.readers:
            raise ProtocolError("the client of this reader is gone")
        return role

    # ---- waiting

    def _wait(self, session: Session, number: int, request: Any, key: Key) -> None:
        """Answer later; the caller's last step."""
        self._waits.add(session, number, request, key)
        self._take_mail()  # what was left before writers could know that somebody waits

    def _count_waits(self) -> None:
        self._index.set_room_waiters(self._waits.count(p.AwaitRoom))
        self._waiting()

    def _tell(self, stream: Stream) -> None:
        """Answer whoever waits for what a stream now has, or is."""
        for wait in self._waits.on(stream.id):
            role = self._roles.get(wait.session)
            if role is None:  # it wants to open what had no such id
                continue
            if role.reader is not None:
                reply = self._batches(role, wait.request)
                if reply is not None:
                    self._waits.answer(wait, reply)
            elif stream.over:
                self._waits.answer(wait, p.failure(self._failed(stream)))
            elif self._has_room(stream, wait.request):
                self._waits.answer(wait, p.Done())

    def _expired(self, wait: Wait) -> None:
        role = self._roles.get(wait.session)
        if isinstance(wait.request, p.OpenStream):
            error: VineyardArrowError = DeadlineExceededError(
                f"{self._missing(wait.request).message} appeared within"
                f" {wait.request.timeout_s:g} s"
            )
        else:
            assert role is not None
            error = self._late(role.stream, wait.request)
        self._waits.answer(wait, p.failure(error))

    def _late(self, stream: Stream, m: p.NextBatches | p.AwaitRoom) -> DeadlineExceededError:
        within = f"within {m.timeout_s:g} s"
        if isinstance(m, p.NextBatches):
            return DeadlineExceededError(f"{stream.label}: no batch came {within}")
        batches, nbytes = len(stream.batches), stream.written_nbytes - stream.gone_nbytes
        verb = "is" if batches == 1 else "are"
        backlog = f"{counted(batches, 'batch')} of {nbytes:,} bytes {verb} unread"
        slowest = min(stream.readers, key=lambda r: r.at, default=None)
        if slowest is None:
            return DeadlineExceededError(
                f"{stream.label} is full, and nobody came to read it {within}: {backlog}",
                "open it in the reader before, or allow more batches or bytes",
            )
        return DeadlineExceededError(
            f"{stream.label} is full, and process {slowest.pid} read no further {within}: {backlog}"
        )

    def _failed(self, stream: Stream) -> StreamFailedError:
        return StreamFailedError(f"{stream.label} failed: {stream.failure or 'it has ended'}")
