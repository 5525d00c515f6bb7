"""Streams: record batches from one writer to any number of readers, in other processes too.

Made by `Client.create_stream` and `Client.open_stream`. A batch lies in shared memory like
any object, and is mapped, not copied; the daemon says what comes next, and who must wait.
What blocks is written once, as a generator that yields requests and is sent the replies;
`_run` drives it for callers that block, `_run_async` for event loops.
"""

from __future__ import annotations

import contextlib
import html
import os
import threading
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import pyarrow as pa

from .errors import (
    DeadlineExceededError,
    InvalidObjectError,
    ObjectNotFoundError,
    StreamClosedError,
    StreamFailedError,
    VineyardArrowError,
)
from .ipc import _core
from .ipc import protocol as p
from .ipc.attached import Attached
from .ipc.connection import Connection
from .objects import ObjectID
from .registry import Part
from .stream_values import batches_of

if TYPE_CHECKING:
    import asyncio

DEFAULT_MAX_BYTES = 64 << 20
TYPENAME = "vineyard.stream.batch"

_T = TypeVar("_T")
Steps = Generator[Any, Any, _T]  # yields requests, is sent the replies


class _Line:
    """A connection of a writer or a reader: one thread or task at a time, in one process."""

    def __init__(self, attached: Attached, timeout_s: float | None) -> None:
        self.attached = attached
        self.timeout_s = attached.timeout_s if timeout_s is None else timeout_s
        self.connection: Connection = attached.side_connection()
        self._pid = os.getpid()
        self._busy = threading.Lock()

    def check(self) -> None:
        """Raise in a process that was forked from the one that opened it."""
        if os.getpid() != self._pid:
            raise InvalidObjectError(
                f"this stream was opened by process {self._pid}",
                "open or create it in the process that uses it",
            )

    def run(self, steps: Steps[_T], timeout_s: float) -> _T:
        """Carry out steps, and block while they wait."""
        self.check()
        if not self._busy.acquire(timeout=timeout_s):
            raise DeadlineExceededError("another thread or task was using this stream")
        try:
            return self._run(steps)
        finally:
            self._busy.release()

    def _run(self, steps: Steps[_T]) -> _T:
        reply = None
        while True:
            try:
                request = steps.send(reply)
            except StopIteration as done:
                return done.value  # type: ignore[no-any-return]
            reply, _ = self.connection.request(request, self._patience(request))

    def _patience(self, request: Any) -> float:
        """How long to wait for a reply: the daemon keeps the deadline, if it is there."""
        return float(getattr(request, "timeout_s", 0.0)) + self.attached.timeout_s

    async def run_async(self, steps: Steps[_T]) -> _T:
        """Carry out steps, and leave the event loop to others while they wait."""
        import asyncio

        self.check()
        if not self._busy.acquire(blocking=False):
            raise InvalidObjectError("another thread or task is using this stream")
        try:
            loop = asyncio.get_running_loop()
            reply = None
            while True:
                try:
                    request = steps.send(reply)
                except StopIteration as done:
                    return done.value  # type: ignore[no-any-return]
                number = self.connection.post(request, self.attached.timeout_s)
                await self._readable(loop, self._patience(request))
                reply = self.connection.collect(number, self.attached.timeout_s)
        finally:
            self._busy.release()

    async def _readable(self, loop: asyncio.AbstractEventLoop, timeout_s: float) -> None:
        import asyncio

        fd = self.connection.fileno()
        readable = loop.create_future()
        loop.add_reader(fd, lambda: None if readable.done() else readable.set_result(None))
        try:
            await asyncio.wait_for(readable, timeout_s)
        except TimeoutError:
            raise DeadlineExceededError("the daemon did not answer in time") from None
        finally:
            loop.remove_reader(fd)


class StreamWriter:
    """The writing end of a stream; made by `Client.create_stream`.

    A context manager: leaving the block ends the stream, an exception in it fails it. A writer
    that is dropped, or whose process dies, without having ended it, fails it too.

    Thread-safe. It is of no use in a forked child.

    Attributes
    ----------
    id : ObjectID
    name : str or None
    schema : pyarrow.Schema
    """

    def __init__(
        self,
        attached: Attached,
        schema: Any,
        *,
        name: str | None,
        max_bytes: int | None,
        max_batches: int | None,
        keep: bool,
        timeout_s: float | None,
    ) -> None:
        self.schema: pa.Schema = schema if isinstance(schema, pa.Schema) else pa.schema(schema)
        _check_bounds(max_bytes, max_batches, keep)
        attached.lease()
        self._line = _Line(attached, timeout_s)
        words = attached.take_room()
        message = p.CreateStream(
            attached.number,
            words,
            name,
            self.schema.serialize().to_pybytes(),
            None if keep else max_batches,
            None if keep else max_bytes,
            keep,
        )
        self._let_go = weakref.finalize(
            self, _let_go, self._line.connection, partial(attached.give_room, words), os.getpid()
        )
        try:
            reply, _ = self._line.connection.request(message)
        except BaseException:
            self._let_go()
            raise
        self._key: int = reply.id
        self.id = ObjectID(reply.id)
        self.name = name
        self._max_batches = message.max_batches
        self._max_nbytes = message.max_nbytes
        self._written = self._written_nbytes = 0
        self._words = words  # of them, what readers have let go

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self._written:,} batches written"
        return f"<StreamWriter {self.name or ''} {self.id}: {state}>"

    def _repr_html_(self) -> str:
        return _html_of(self._line.attached, self.id, repr(self))

    @property
    def closed(self) -> bool:
        """Whether nothing more can be written."""
        return not self._let_go.alive

    # ---- writing

    def write(self, value: Any, *, timeout_s: float | None = None) -> None:
        """Append one or more batches; wait for room first, if the stream is full.

        Buffers that lie in the store are taken as they are, and those built in
        `Client.memory_pool` are sealed where they lie; all others are copied once.

        Parameters
        ----------
        value : pyarrow.RecordBatch, Table, RecordBatchReader, a frame, or bytes
            Of the stream's schema. A table is written chunk by chunk. Frames (pandas, polars,
            anything with ``__arrow_c_stream__`` or ``__arrow_c_array__``) are cast to it,
            column by column and by name, if no value changes by that. Bytes: one row, if the
            schema's only column is of binary type; a batch of as many rows, if it is uint8.
        timeout_s : float, optional
            Deadline of each wait for room, that of `Client.create_stream` by default.

        Raises
        ------
        InvalidObjectError
            If it is not of the stream's schema: says which field. Nothing is written then,
            but earlier batches of the same reader or frame may have been.
        DeadlineExceededError
            If no reader made room in time. What is before in the stream stays.
        StreamClosedError
            After `close` or `fail`.
        StreamFailedError
            If the stream was dropped.
        StoreFullError
            If the store has no room.
        """
        timeout_s = self._line.timeout_s if timeout_s is None else timeout_s
        for batch in batches_of(value, self.schema):
            self._line.run(self._append(batch, timeout_s), timeout_s)

    async def write_async(self, value: Any, *, timeout_s: float | None = None) -> None:
        """As `write`, but the event loop goes on while this waits for room."""
        timeout_s = self._line.timeout_s if timeout_s is None else timeout_s
        for batch in batches_of(value, self.schema):
            await self._line.run_async(self._append(batch, timeout_s))

    def _append(self, batch: pa.RecordBatch, timeout_s: float) -> Steps[None]:
        self._check_open()
        attached, part = self._line.attached, Part(TYPENAME, self.schema, (batch,))
        plan = attached.plan_batch(part)
        nbytes = plan.payload_nbytes
        need, need_nbytes = self._lacks(nbytes)
        gone, gone_nbytes = map(attached._core.word, self._words)
        if need > gone or need_nbytes > gone_nbytes or gone == p.LOST:
            yield p.AwaitRoom(need, need_nbytes, timeout_s)
            self._check_open()
        try:
            attached.append(self._key, TYPENAME, plan)
        except InvalidObjectError as error:
            if "not sealed" not in error.message:
                raise
            attached.append(self._key, TYPENAME, attached.plan_batch(part), share=False)
        self._written += 1
        self._written_nbytes += nbytes

    def _lacks(self, nbytes: int) -> tuple[int, int]:
        """How many batches and bytes must have been let go before so many bytes can come.

        A batch that is larger than the bound comes alone.
        """
        batches = 0 if self._max_batches is None else self._written + 1 - self._max_batches
        over = 0 if self._max_nbytes is None else self._written_nbytes + nbytes - self._max_nbytes
        return max(batches, 0), min(max(over, 0), self._written_nbytes)

    def _check_open(self) -> None:
        if self.closed:
            raise StreamClosedError(
                f"stream {self.name or self.id} was ended by this writer",
                "create another one to go on writing",
            )

    # ---- the end

    def close(self) -> None:
        """End the stream: readers get what was written, then the end. May be called twice.

        Raises
        ------
        StreamFailedError
            If the stream was dropped meanwhile.
        """
        self._end(None)

    def fail(self, why: str) -> None:
        """End the stream by a failure: readers get what was written, then a StreamFailedError.

        Nothing happens if it has ended already.
        """
        self._end(str(why) or "its writer gave no reason")

    def _end(self, failure: str | None) -> None:
        if self.closed:
            return
        try:
            self._line.run(_one(p.EndStream(failure)), self._line.timeout_s)
        finally:
            if os.getpid() == self._line._pid:
                self._let_go()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
            return
        with contextlib.suppress(VineyardArrowError):  # the block's own error says more
            self.fail(f"{type(error).__name__}: {error}")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, traceback)


class _Source:
    """The batches of a reader. Apart from it, as consumers in C++ may keep only this."""

    def __init__(
        self, attached: Attached, key: int | str, timeout_s: float, batch_timeout_s: float | None
    ) -> None:
        self.line = _Line(attached, batch_timeout_s)
        self._word = word = attached.take_cursor()
        self.let_go = weakref.finalize(
            self, _let_go, self.line.connection, partial(attached.give_cursor, word), os.getpid()
        )
        try:
            message = p.OpenStream(attached.number, self._word, *_id_and_name(key), timeout_s)
            reply, _ = self.line.connection.request(message, timeout_s + attached.timeout_s)
            self.schema = pa.ipc.read_schema(pa.py_buffer(reply.schema))
        except BaseException:
            self.let_go()
            raise
        self.id = ObjectID(reply.id)
        self.name: str | None = reply.name
        self.position: int = reply.first
        self._ids: deque[int] = deque()
        self._ended = False
        self._failure: str | None = None

    @property
    def label(self) -> str:
        return f"stream {self.name or self.id}"

    def next(self, timeout_s: float) -> Steps[pa.RecordBatch | None]:
        """The next batch, or None at the end, again and again."""
        missed = False
        while True:
            if not self._ids and (self._ended or not self.let_go.alive):
                self._finish()
                return None
            if not self._ids:
                reply = yield p.NextBatches(self.position, timeout_s)
                self._ids.extend(reply.ids)
                self._ended, self._failure = reply.ended, reply.failure
                continue
            try:
                batch = self.line.attached.read_batch(self._ids[0])
            except ObjectNotFoundError:
                if missed:
                    raise
                missed = True  # dropped since: the daemon knows why
                self._ids.clear()
                self._ended = False
                continue
            self._ids.popleft()
            self.position += 1
            self.line.attached._core.set_cursor(self._word, self.position)
            return batch

    def _finish(self) -> None:
        ended = self._ended
        self.let_go()
        if not ended:
            raise StreamClosedError(f"this reader of {self.label} is closed", "open it anew")
        if self._failure is not None:
            raise StreamFailedError(f"{self.label} failed: {self._failure}")

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        while (
            batch := self.line.run(self.next(self.line.timeout_s), self.line.timeout_s)
        ) is not None:
            yield batch


class StreamReader(_core.BatchReader):
    """The reading end of a stream: a `pyarrow.RecordBatchReader`; made by `Client.open_stream`.

    So whatever takes one takes this: ``polars.from_arrow``, DuckDB, ``pyarrow.dataset``, and
    everything that knows ``__arrow_c_stream__``. Iterate over it, blocking, or in asyncio with
    ``async for``. Batches are mapped read-only, not copied; each stays as it is for as long as
    anything refers to it. Each reader has its own place in the stream.

    A wait for a batch that lasts too long raises DeadlineExceededError, and can be tried again;
    a writer that failed or died raises StreamFailedError, after all it has written. (By way of
    the C interface both reach a consumer as errors of its own.)

    Thread-safe. It is of no use in a forked child.

    Attributes
    ----------
    id : ObjectID
    name : str or None
    """

    def __init__(self, source: _Source) -> None:
        super().__init__(pa.RecordBatchReader.from_batches(source.schema, iter(source)))
        self._source = source
        self.id, self.name = source.id, source.name

    def __repr__(self) -> str:
        place = f"at batch {self.position}" if self._source.let_go.alive else "closed"
        return f"<StreamReader {self.name or ''} {self.id}: {place}>"

    def _repr_html_(self) -> str:
        return _html_of(self._source.line.attached, self.id, repr(self))

    @property
    def position(self) -> int:
        """Number of the batch that comes next, counted from 0 at the stream's beginning."""
        return self._source.position

    def read_next_batch(self) -> pa.RecordBatch:
        """The next batch; StopIteration at the end."""
        return self._next(self._source.line.timeout_s)

    def read(self, *, timeout_s: float | None = None) -> pa.RecordBatch | None:
        """The next batch, or None at the end; wait that long for it."""
        line = self._source.line
        timeout_s = line.timeout_s if timeout_s is None else timeout_s
        return line.run(self._source.next(timeout_s), timeout_s)

    def _next(self, timeout_s: float) -> pa.RecordBatch:
        batch = self._source.line.run(self._source.next(timeout_s), timeout_s)
        if batch is None:
            raise StopIteration
        return batch

    def __next__(self) -> pa.RecordBatch:
        return self._next(self._source.line.timeout_s)

    def __iter__(self) -> Self:
        return self

    async def read_async(self, *, timeout_s: float | None = None) -> pa.RecordBatch | None:
        """As `read`, but the event loop goes on while this waits."""
        line = self._source.line
        return await line.run_async(
            self._source.next(line.timeout_s if timeout_s is None else timeout_s)
        )

    async def __aiter__(self) -> AsyncIterator[pa.RecordBatch]:
        while (batch := await self.read_async()) is not None:
            yield batch

    def close(self) -> None:
        """Let go of the stream; batches that were read stay. May be called twice."""
        self._source.let_go()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What the daemon knows of a stream; see `Client.list_streams`.

    Attributes
    ----------
    state : {"open", "ended", "failed"}
    failure : str or None
        Why it failed.
    keep : bool
        Whether what was read stays.
    max_bytes, max_batches : int or None
        What may be unread before the writer waits.
    pid : int
        Of the writer.
    batches, nbytes : int
        Ever written; payload in bytes.
    backlog, backlog_nbytes : int
        Of them in the store.
    stored : int
        Bytes of shared memory that these take.
    readers : tuple of (int, int)
        The pid of each reader, and the number of the batch it needs next.
    """

    id: ObjectID
    name: str | None
    schema: pa.Schema
    state: str
    failure: str | None
    keep: bool
    max_bytes: int | None
    max_batches: int | None
    pid: int
    created: datetime
    batches: int
    nbytes: int
    backlog: int
    backlog_nbytes: int
    stored: int
    readers: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, s: p.StreamState) -> StreamInfo:
        """What a message of the daemon says."""
        return cls(
            ObjectID(s.id),
            s.name,
            pa.ipc.read_schema(pa.py_buffer(s.schema)),
            s.state,
            s.failure,
            s.keep,
            s.max_nbytes,
            s.max_batches,
            s.pid,
            datetime.fromtimestamp(s.created_ns / 1e9, UTC),
            s.batches,
            s.nbytes,
            s.backlog,
            s.backlog_nbytes,
            s.stored,
            tuple(s.readers),
        )

    def _repr_html_(self) -> str:
        bounds = [
            f"{bound:,} {what}"
            for bound, what in ((self.max_batches, "batches"), (self.max_bytes, "bytes"))
            if bound is not None
        ]
        readers = [f"process {pid}, at batch {at:,}" for pid, at in self.readers]
        rows = [
            ("id", str(self.id)),
            ("name", self.name or "\N{EM DASH}"),
            ("state", self.state + (f": {self.failure}" if self.failure else "")),
            ("written", f"{self.batches:,} batches, {self.nbytes:,} bytes, by process {self.pid}"),
            ("in the store", f"{self.backlog:,} batches, {self.stored:,} bytes of memory"),
            ("bounded by", "nothing: kept" if self.keep else " and ".join(bounds) or "nothing"),
            ("readers", "; ".join(readers) or "none"),
            ("created", self.created.isoformat(" ", "seconds")),
        ]
        cells = [(key, html.escape(value)) for key, value in rows]
        cells.append(("schema", f"<pre>{html.escape(self.schema.to_string())}</pre>"))
        body = "".join(f"<tr><th>{key}</th><td>{value}</td></tr>" for key, value in cells)
        return f"<table class='vineyard-stream'>{body}</table>"


def open_stream(
    attached: Attached, key: int | str, timeout_s: float | None, batch_timeout_s: float | None
) -> StreamReader:
    """See `Client.open_stream`."""
    return StreamReader(_Source(attached, key, timeout_s or 0.0, batch_timeout_s))


def drop_stream(attached: Attached, key: int | str) -> None:
    """See `Client.drop_stream`."""
    attached.request(p.DropStream(*_id_and_name(key)))


def list_streams(attached: Attached, pattern: str) -> list[StreamInfo]:
    """See `Client.list_streams`."""
    reply, _ = attached.request(p.ListStreams(pattern))
    return [StreamInfo.of(state) for state in reply.streams]


def _one(request: Any) -> Steps[Any]:
    return (yield request)


def _let_go(connection: Connection, give_back: Callable[[], None], pid: int) -> None:
    connection.close()
    if os.getpid() == pid:
        give_back()


def _id_and_name(key: Any) -> tuple[int | None, str | None]:
    """What a key may stand for: an id, a name, or a name that looks like an id."""
    if isinstance(key, str):
        try:
            return int(ObjectID(key)), key
        except ValueError:
            return None, key
    if isinstance(key, bool) or not isinstance(key, int) or not 0 <= key < 1 << 64:
        raise InvalidObjectError(f"{key!r} is no stream", "use its id or its name")
    return int(key), None


def _check_bounds(max_bytes: int | None, max_batches: int | None, keep: bool) -> None:
    for what, bound in (("max_bytes", max_bytes), ("max_batches", max_batches)):
        if bound is not None and (
            isinstance(bound, bool) or not isinstance(bound, int) or bound < 1
        ):
            raise InvalidObjectError(f"{what} is a positive number or None, not {bound!r}")
    if keep and (max_batches is not None or max_bytes not in (None, DEFAULT_MAX_BYTES)):
        raise InvalidObjectError(
            "a stream that keeps everything has no bounds but the store's",
            "leave max_bytes and max_batches out, or keep",
        )


def _html_of(attached: Attached, stream_id: int, otherwise: str) -> str:
    with contextlib.suppress(VineyardArrowError):
        for info in list_streams(attached, "*"):
            if info.id == stream_id:
                return info._repr_html_()
    return f"<code>{html.escape(otherwise)}</code>"
