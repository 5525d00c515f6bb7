"""A process's attachment to one store: mapping, connection and lease, shared by its clients.

It moves parts (schemas with batches) in and out by id. It doesn't know what they mean.

After a fork the child has an attachment of its own: while the parent still holds pins, the
connection for the child is made *before* the fork, with a copy of the parent's pins, so
nothing the child inherited can be reclaimed under it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from mmap import mmap
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from .._compat import check_pyarrow
from ..config import ClientConfig
from ..errors import (
    LARGER_THAN_STORE,
    ConnectionLostError,
    DeadlineExceededError,
    InvalidObjectError,
    ObjectNotFoundError,
    StoreFullError,
    VineyardArrowError,
)
from ..objects import ObjectID
from ..registry import Part, StoredPart
from ..store import Draft
from . import protocol as p
from .connection import Connection, NotSentError, seconds
from .schemas import PLAIN, user_schema
from .starter import connect_or_start

if TYPE_CHECKING:
    import pyarrow as pa

check_pyarrow()

from . import _core, fork  # noqa: E402  # only once pyarrow is known to be the right one

_T = TypeVar("_T")
MODES = {"ro": 0, "cow": 1, "copy": 2}
READ_ATTEMPTS = 1000

_forked = threading.Condition()  # told at the end of a fork, of which there is one at a time
_json = msgspec.json.Encoder()


class _MemberIds(msgspec.Struct):
    ids: list[str]


_member_ids = msgspec.json.Decoder(_MemberIds).decode
_core.set_codec(PLAIN, user_schema, lambda data: _member_ids(data).ids, StoredPart)


def _item(
    object_id: int, draft: Draft, plan: _core.Plan, created_ns: int, strict: int | None = None
) -> p.PutItem:
    return p.PutItem(
        object_id,
        draft.parts[0].typename,
        *plan.figures(),
        created_ns,
        draft.name,
        strict,
        draft.members,
        draft.signature,
        labels=draft.labels,
        vouched=draft.vouched,
        overwrite=draft.overwrite,
    )


class _Words:
    """Free words of the table, for streams. Readers never get what was a writer's.

    The daemon may still write in that, when the writer has just gone.
    """

    def __init__(self) -> None:
        third = _core.NUM_WORDS // 3
        self.readers = deque(range(third))
        self.writers = deque((i, i + 1) for i in range(third, 3 * third, 2))

    @staticmethod
    def take(free: deque[_T]) -> _T:
        if not free:
            raise VineyardArrowError(
                "this process reads or writes as many streams as it can",
                "close those that are no longer needed",
            )
        return free.popleft()  # the one that was given back first


class Attached:
    """See the module's docstring. Made by `attach`, closed when its last client closes."""

    def __init__(
        self,
        config: ClientConfig,
        *,
        vouched: bool = True,
        released: Callable[[Attached], Any] | None = None,
    ) -> None:
        self.socket = config.socket
        self.timeout_s = config.timeout_s
        self._released = released or Attached.close
        self._vouched = vouched  # whether what is put is its user's word
        self.users = 0
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._pool: Any = None
        self._stream_pool: Any = None
        self._prepared: fork.Prepared | None = None
        self._lease_segment: int | None = None
        self._is_child = False  # of a fork: some pins may be in no table of ours
        self._inherited: list[int] = []  # leases of the processes we were forked from
        self._words = _Words()
        self._side: weakref.WeakSet[Connection] = weakref.WeakSet()
        connection = connect_or_start(config.socket, config.timeout_s, autostart=config.autostart)
        fds: list[int] = []  # ours to close
        try:
            welcome, fds = self._hello(connection)
            index_fd, table_fd, event_fd, catalog_fd = fds
            # The mapping owns a second descriptor of the socket: the daemon sees us leave
            # when the last Arrow buffer is gone, not when the last client is closed.
            fds.append(os.dup(connection.fileno()))
            self._core = _core.Attachment(index_fd, fds[-1])
            fds.pop()
            self._core.set_table(table_fd, event_fd)
            fds.remove(event_fd)
            offset, nbytes = self._core.catalog
            self._core.add_segment(welcome.catalog, offset, nbytes, catalog_fd, False)
            fds.remove(catalog_fd)
        except RuntimeError as error:
            connection.close()
            raise VineyardArrowError(
                f"cannot map the store: {error}", "is the address space limited (ulimit -v)?"
            ) from None
        except BaseException:
            connection.close()
            raise
        finally:
            for fd in fds:
                os.close(fd)
        self.uid = welcome.uid
        self._take(connection, welcome.client, welcome.ids)

    def _hello(self, connection: Connection) -> tuple[p.Welcome, list[int]]:
        program = os.path.basename(sys.argv[0]) if sys.argv and sys.argv[0] else "python"
        welcome, fds = connection.request(p.Hello(p.VERSION, os.getpid(), program, self._vouched))
        known = isinstance(welcome, p.Welcome)
        if not known or welcome.seal_threshold != _core.SEAL_THRESHOLD:
            for fd in fds:
                os.close(fd)
            raise VineyardArrowError(
                "client and daemon are different builds",
                "stop the daemon, or use the release that it runs",
            )
        return welcome, fds

    def _take(self, connection: Connection, number: int, ids: tuple[int, int]) -> None:
        self.connection = connection
        self.number = number  # what the daemon knows us by
        # Not our method: an attachment without users goes at once, not at a collection.
        connection.on_retired = self._core.remove_segments
        self._ids = iter(range(ids[0], ids[0] + ids[1]))

    @property
    def instance(self) -> int:
        """Number of the daemon's instance."""
        return int(self._core.instance)

    @property
    def alive(self) -> bool:
        """Whether daemon and connection still are."""
        return bool(self._core.daemon_alive) and self.connection.lost in (None, "forked")

    def check_alive(self) -> None:
        """Raise ConnectionLostError once the daemon is gone. No system call."""
        if not self._core.daemon_alive:
            raise ConnectionLostError(
                f"the daemon at {self.socket} is gone",
                "data already mapped stays readable; connect() anew",
            )

    def request(self, message: Any, timeout_s: float | None = None) -> tuple[Any, list[int]]:
        """`Connection.request`, after reconnecting if this is a fresh child."""
        if self.connection.lost == "forked":
            self._reconnect()
        return self.connection.request(message, timeout_s)

    # ---- reading

    def read(
        self, key: int, mode: str = "ro", root: int | None = None, pin: _core.Pin | None = None
    ) -> _core.Raw:
        """The parts of object ``key``; no round trip once its segments are mapped.

        One, if not, for all that ``root`` (``key`` by default) and its members lie in. With
        ``pin``, a pin on it, it is found even if it was deleted.

        Raises
        ------
        ObjectNotFoundError
            If there is no such object.
        """
        number = MODES.get(mode)
        if number is None:
            raise InvalidObjectError(f"mode {mode!r} is not one of 'ro', 'cow', 'copy'")
        raw: _core.Raw | None = self._glance(key, number, pin)
        if raw is None:
            raw = self._look(key, partial(self._core.read, key, number, pin), root)
        return raw

    def read_each(self, keys: Iterable[int], mode: str, root: int) -> Iterator[_core.Raw]:
        """`read` of each of many members of ``root``, in less time."""
        number = MODES[mode]
        for key in keys:
            yield self._glance(key, number) or self.read(key, mode, root)

    def _glance(self, key: int, number: int, pin: _core.Pin | None = None) -> _core.Raw | None:
        """An object, if nothing at all is in the way; what is, `_look` finds out."""
        if self._core.daemon_alive:
            try:
                found = self._core.read(key, number, pin)
            except (RuntimeError, ValueError):
                return None
            if type(found) is _core.Raw:
                return found
        return None

    def private(self, key: int, parts: Sequence[StoredPart]) -> Sequence[StoredPart]:
        """The parts of object ``key`` anew, mapped copy-on-write."""
        return self.read(key, "cow").parts

    def hold(self, key: int) -> _core.Pin:
        """A pin on object ``key``: deleted or not, it is there until the pin dies."""
        return self._look(key, lambda: self._core.hold(key))  # type: ignore[no-any-return]

    def describe(self, key: int, pin: _core.Pin | None = None) -> tuple[Any, ...]:
        """Header and parts of object ``key`` without its data."""

        def look() -> Any:
            found = self._core.describe(key, pin)
            return found if found is _core.MISS or found is _core.BUSY else [found]

        return self._look(key, look)[0]  # type: ignore[no-any-return]

    def messages(self, key: int, pin: _core.Pin) -> bytes:
        """The messages of object ``key``, as they are stored; what they refer to gets mapped."""
        return self._look(key, lambda: self._core.messages(key, pin))  # type: ignore[no-any-return]

    def _look(self, key: int, look: Callable[[], Any], root: int | None = None) -> Any:
        if self.connection.lost == "forked":
            self._reconnect()
        self.check_alive()
        for _ in range(READ_ATTEMPTS):
            try:
                found = look()
            except (RuntimeError, ValueError) as error:  # Arrow's words; bad text or JSON
                raise InvalidObjectError(
                    f"object {ObjectID(key)} cannot be read: {error}"
                ) from None
            if found is _core.BUSY:
                self._await_fork()
            elif found is _core.MISS:
                # The index can miss what is just being moved in it; the daemon cannot.
                self.request(p.Find(int(key), None, 0.0))
            elif type(found) is tuple:
                for segment in found:
                    self._map(segment, key if root is None else root)
            else:
                return found
        raise InvalidObjectError(f"object {ObjectID(key)} keeps changing place")

    def _map(self, segment: int, root: int | None = None) -> None:
        """Map a segment, and what else the object ``root`` lies in."""
        with self._lock:
            if self._core.has_segment(segment):
                return
            try:
                reply, fds = self.request(
                    p.GetSegments(segment, None if root is None else int(root))
                )
            except ObjectNotFoundError:
                return  # retired meanwhile: the object is gone, and looking again says so
            for place, fd in zip(reply.segments, fds, strict=True):
                try:
                    if self._core.has_segment(place.segment):
                        os.close(fd)
                    else:
                        self._core.add_segment(
                            place.segment, place.offset, place.nbytes, fd, place.huge
                        )
                except RuntimeError as error:
                    for left in fds[fds.index(fd) :]:
                        os.close(left)
                    raise VineyardArrowError(f"cannot map the store: {error}") from None

    def find_name(self, name: str) -> int:
        """The id ``name`` points to; ObjectNotFoundError if there is no such name."""
        if self.connection.lost == "forked":
            self._reconnect()
        self.check_alive()
        try:
            found = self._core.find_name(name.encode())
        except UnicodeEncodeError:
            raise ObjectNotFoundError(f"no name {name!r}") from None
        if found is _core.MISS:
            reply, _ = self.request(p.Find(None, name, 0.0))
            return int(reply.id)
        return int(found)

    def wait_for(self, key: int | str, timeout_s: float) -> int:
        """Wait for an object or a name, on a connection of its own; return the id."""
        timeout_s = seconds(timeout_s)
        if isinstance(key, str):
            message = p.Find(None, key, timeout_s)
        else:
            message = p.Find(key, None, timeout_s)
        return int(self.ask(message, timeout_s).id)

    def ask(self, message: Any, timeout_s: float) -> Any:
        """The reply to a message that has a deadline of its own, on a connection of its own."""
        self.check_alive()
        connection = self.open_connection()
        try:
            return connection.request(message, timeout_s + self.timeout_s)[0]
        finally:
            connection.close()

    def open_connection(self) -> Connection:
        """A further connection to the same daemon."""
        try:
            return Connection.open(self.socket, self.timeout_s)
        except OSError as error:
            raise ConnectionLostError(f"the daemon is gone ({error})") from None

    # ---- streams

    def side_connection(self) -> Connection:
        """A connection for a writer or a reader of a stream: gone with us, and not inherited."""
        if self.users == 0:
            raise VineyardArrowError("this client is closed", "connect() anew")
        if self.connection.lost == "forked":
            self._reconnect()
        self.check_alive()
        connection = self.open_connection()
        self._side.add(connection)
        return connection

    def take_cursor(self) -> int:
        """A word of our table for a reader, to be given back."""
        with self._lock:
            word = self._words.take(self._words.readers)
        self._core.set_cursor(word, 0)
        return word

    def take_room(self) -> tuple[int, int]:
        """Two words of our table for a writer, to be given back."""
        with self._lock:
            words = self._words.take(self._words.writers)
        for word in words:
            self._core.set_cursor(word, 0)
        return words

    def give_cursor(self, word: int) -> None:
        """The reader is gone."""
        self._words.readers.append(word)

    def give_room(self, words: tuple[int, int]) -> None:
        """The writer is gone."""
        self._words.writers.append(words)

    def read_batch(self, key: int) -> pa.RecordBatch:
        """A batch of a stream; ObjectNotFoundError if it was withdrawn."""
        return self._look(key, lambda: self._core.read_batch(key))[0]

    def plan_batch(self, part: Part) -> _core.Plan:
        """A batch on its way into a stream; its `payload_nbytes` are to be waited for."""
        self.lease()
        return self._plan((part,))

    def append(self, stream: int, typename: str, plan: _core.Plan, *, share: bool = True) -> None:
        """Put a batch of a stream; StoreFullError if it does not fit.

        InvalidObjectError with "not sealed" if it is to be planned anew, and not shared: what
        a forked child inherited is sealed by nobody.
        """
        try:
            plan.place(share)
            (object_id,) = self._take_ids(1)
        except MemoryError:
            plan.abandon()
            raise self.full(plan.payload_nbytes) from None
        figures = plan.figures()
        item = p.PutItem(object_id, typename, *figures, time.time_ns(), stream=stream)
        if not self._leave([plan], [item]):
            self._commit([plan], [item])

    # ---- writing

    def lease(self) -> None:
        """Make sure there is a segment to write in."""
        if self.connection.lost == "forked":
            self._reconnect()
        if self._core.has_lease:
            return
        with self._lock:
            if self._core.has_lease:
                return
            reply, (rw_fd, ro_fd) = self.request(p.LeaseSegment(self._inherited))
            try:
                self._lease_segment = reply.segment
                if not self._core.has_segment(reply.segment):
                    self._core.add_segment(
                        reply.segment, reply.offset, reply.nbytes, os.dup(ro_fd), reply.huge
                    )
                self._core.set_lease(
                    reply.segment,
                    rw_fd,
                    ro_fd,
                    reply.huge,
                    reply.idle_s,
                    self.timeout_s,
                    reply.free,
                )
            except RuntimeError as error:
                os.close(ro_fd)
                raise VineyardArrowError(f"cannot map a segment to write in: {error}") from None
            finally:
                os.close(rw_fd)

    @property
    def pool(self) -> Any:
        """The shared-memory pool."""
        self.lease()
        if self._pool is None:
            self._pool = self._core.make_pool()
        return self._pool

    @property
    def stream_pool(self) -> Any:
        """That of streams, whose larger blocks are whole huge pages."""
        self.lease()
        if self._stream_pool is None:
            self._stream_pool = self._core.make_pool(whole=True)
        return self._stream_pool

    def put(self, objects: Sequence[Draft], *, strict: bool = False) -> list[int]:
        """Store and publish objects, all or none; return their ids. At most one round trip.

        Raises
        ------
        StoreFullError
            If they do not fit; nothing is kept.
        ObjectExistsError
            If a name is taken.
        """
        try:
            if strict:
                return self._put_all_strict(objects)
            self.lease()
            try:
                return self._put(objects, share=True)
            except InvalidObjectError as error:
                # Memory in the store that nobody has sealed: what a forked child inherited.
                if "not sealed" not in error.message:
                    raise
                return self._put(objects, share=False)
        except MemoryError as error:
            if isinstance(error, StoreFullError):
                raise
            batches = [b for draft in objects for part in draft.parts for b in part.batches]
            raise self.full(sum(b.nbytes for b in batches)) from None

    def _put(self, objects: Sequence[Draft], *, share: bool) -> list[int]:
        plans: list[_core.Plan] = []
        items: list[p.PutItem] = []
        created_ns = time.time_ns()
        try:
            ids = iter(self._take_ids(sum(draft.id is None for draft in objects)))
            for draft in objects:
                object_id = next(ids) if draft.id is None else draft.id
                plan = self._plan(draft.parts)
                plans.append(plan)
                plan.place(share)
                items.append(_item(object_id, draft, plan, created_ns))
        except MemoryError:
            for plan in plans:  # now: the traceback keeps them
                plan.abandon()
            raise
        if not self._leave(plans, items):
            self._commit(plans, items)
        return [item.id for item in items]

    def _leave(self, plans: list[_core.Plan], items: list[p.PutItem]) -> bool:
        """Leave the put in the outbox, if nothing about it can be refused; no waiting then."""
        if self.connection.lost:
            return False
        for plan, item in zip(plans, items, strict=True):
            if item.name is not None or item.members or item.labels:
                return False
            if not plan.is_certain(not self._is_child):
                return False
        return self._core.leave(p.encode_body(p.Put(items)), plans)

    def _put_all_strict(self, objects: Sequence[Draft]) -> list[int]:
        done: list[int] = []
        try:
            for draft in objects:
                done.append(self._put_strict(draft))
        except BaseException:
            for object_id in reversed(done):  # members come before what they are members of
                with contextlib.suppress(VineyardArrowError):
                    self.request(p.Delete([object_id], deep=False))  # not what was there before
            raise
        return done

    def _put_strict(self, draft: Draft) -> int:
        plan = self._plan(draft.parts)
        reply, (rw_fd,) = self.request(p.MakeStrict(plan.standalone_nbytes))
        try:
            # The daemon refuses to seal while this mapping exists.
            with mmap(rw_fd, reply.nbytes) as target:
                plan.place_standalone(target, reply.offset)
            object_id = self.take_id() if draft.id is None else draft.id
            item = _item(object_id, draft, plan, time.time_ns(), reply.segment)
        except BaseException:
            self.request(p.DropStrict(reply.segment))
            raise
        finally:
            os.close(rw_fd)
        self._commit([plan], [item])
        return object_id

    def _plan(self, parts: Sequence[Part]) -> _core.Plan:
        plan = _core.Plan(self._core)
        try:
            for part in parts:
                params = _json.encode(part.params) if part.params else None
                plan.add_part(part.schema, part.typename, params, part.batches)
        except RuntimeError as error:
            raise InvalidObjectError(
                f"Arrow cannot write this {parts[0].typename}: {error}"
            ) from None
        return plan

    def _commit(self, plans: Iterable[_core.Plan], items: list[p.PutItem]) -> None:
        try:
            self.request(p.Put(items))
        except NotSentError:
            for plan in plans:
                plan.abandon()
            raise
        except (ConnectionLostError, DeadlineExceededError):
            for plan in plans:
                plan.forget()
            raise
        except VineyardArrowError:
            for plan in plans:
                plan.abandon()
            raise
        except BaseException:  # a signal handler raised: the daemon may have sealed them
            for plan in plans:
                plan.forget()
            raise
        for plan in plans:
            plan.confirm()

    def take_id(self) -> int:
        """An id for an object to be put."""
        if self.connection.lost == "forked":  # those at hand are the parent's
            self._reconnect()
        return self._take_ids(1)[0]

    def _take_ids(self, count: int) -> list[int]:
        """Fresh object ids."""
        ids = list(itertools.islice(self._ids, count))  # one step for other threads
        if len(ids) < count:
            with self._lock:
                ids += itertools.islice(self._ids, count - len(ids))
                while len(ids) < count:
                    reply, _ = self.request(p.LeaseIds())
                    self._ids = iter(range(reply.ids[0], reply.ids[0] + reply.ids[1]))
                    ids += itertools.islice(self._ids, count - len(ids))
        return ids

    def full(self, nbytes: int) -> StoreFullError:
        """The error for a put that found no room, with the daemon's view of why."""
        status, _ = self.request(p.GetStatus())
        return full_error(nbytes, status)

    def trim(self) -> None:
        """Give free warm memory back to the machine, everywhere in the store."""
        if self._core.has_lease:
            self._core.trim()
        self.request(p.Trim())

    # ---- fork

    def before_fork(self) -> None:
        """Make the child's connection, if the child will inherit anything pinned.

        From here until the fork is done other threads make no pins (see `_look`), so the
        copy that the daemon makes of ours is complete.
        """
        self._prepared = None
        self._core.forking = threading.get_ident()
        if os.getpid() != self._pid or not self.alive:
            return
        self._prepared = fork.prepare(self._core, self.connection)

    def after_fork_in_parent(self) -> None:
        """Leave the child's connection to the child."""
        if self._prepared is not None:
            self._prepared.discard()
            self._prepared = None
        self._end_fork()

    def _end_fork(self) -> None:
        self._core.forking = 0
        with _forked:
            _forked.notify_all()

    def _await_fork(self) -> None:
        """Wait while another thread forks."""
        with _forked:
            _forked.wait_for(lambda: not self._core.forking, self.timeout_s)

    def after_fork_in_child(self) -> None:
        """Let go of what is the parent's; take over the connection made for us."""
        global _forked
        _forked = threading.Condition()
        self._pid = os.getpid()
        self._is_child = True
        self._lock = threading.RLock()
        self._core.forking = 0
        self._pool = self._stream_pool = None
        self._close_side()
        self._words = _Words()
        if self._lease_segment is not None:
            self._inherited.append(self._lease_segment)
            self._lease_segment = None
        prepared, self._prepared = self._prepared, None
        sock_fd = fork.take_over(self._core, prepared)
        self.connection.close()
        if prepared is None:
            self.connection.lost = "forked"
        else:
            sock = socket.socket(fileno=os.dup(sock_fd))
            reply = prepared.reply
            self._take(Connection(sock, self.timeout_s), reply.client, reply.ids)

    def _reconnect(self) -> None:
        """A child that inherited nothing pinned attaches itself when it first needs to."""
        with self._lock:
            if self.connection.lost != "forked":
                return
            connection = self.open_connection()
            welcome, fds = self._hello(connection)
            index_fd, table_fd, event_fd, catalog_fd = fds
            os.close(index_fd)
            os.close(catalog_fd)
            try:
                if welcome.instance != self.instance:
                    os.close(event_fd)
                    raise ConnectionLostError(
                        "the daemon was restarted", "connect() anew: its objects are others"
                    )
                self._core.set_socket(os.dup(connection.fileno()))
                self._core.set_table(table_fd, event_fd)
                self._tell_segments(connection)
            finally:
                os.close(table_fd)
            self.uid = welcome.uid
            self._take(connection, welcome.client, welcome.ids)

    def _tell_segments(self, connection: Connection) -> None:
        """Let the daemon know which segments we inherited, and forget those that are gone."""
        for segment in self._core.segment_ids():
            try:
                _, fds = connection.request(p.GetSegments(segment))
            except ObjectNotFoundError:
                self._core.remove_segments([segment])
            else:
                for fd in fds:
                    os.close(fd)

    def release(self) -> None:
        """A client of it is closed."""
        self._released(self)

    def close(self) -> fork.Remnant | None:
        """End the connection for requests; mapped buffers keep theirs.

        Returns what the fork hooks must know from now on, if anything is still mapped.
        """
        self.connection.close()
        self._close_side()
        if self._pool is self._stream_pool is None and not self._core.in_use:
            return None
        return fork.Remnant(self._core, self.connection, self.timeout_s)

    def _close_side(self) -> None:
        for connection in list(self._side):
            connection.close()


def full_error(nbytes: int, status: p.Status) -> StoreFullError:
    """A StoreFullError that says what is used, by whom, and what to do."""
    from ..machine import counted, format_size

    heavy = sorted(status.clients, key=lambda c: -(c.sealed + c.unsealed))[:3]
    by = ", ".join(
        f"pid {c.pid} ({c.program}): {format_size(c.sealed + c.unsealed)}"
        for c in heavy
        if c.sealed + c.unsealed
    )
    return StoreFullError(
        f"no room for {format_size(nbytes)}: the store holds {format_size(status.memory_used)}"
        f" of {format_size(status.memory_limit)} in {counted(status.objects, 'object')}"
        + (
            f", and {status.deleted_pinned} deleted ones still read"
            if status.deleted_pinned
            else ""
        )
        + (f", and {format_size(status.block_nbytes)} in blocks" if status.blocks else "")
        + (f", and {format_size(status.stream_nbytes)} in streams" if status.stream_batches else "")
        + (f"; most by {by}" if by else ""),
        LARGER_THAN_STORE
        if nbytes > status.memory_limit
        else "delete objects, drop arrays of deleted ones, or start the daemon with a larger"
        " --memory-limit; `vineyard-arrow doctor` shows who holds what",
    )
