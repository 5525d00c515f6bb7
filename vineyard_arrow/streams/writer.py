"""The writing end of a stream."""

from __future__ import annotations

import contextlib
import os
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from ..errors import InvalidObjectError, StreamClosedError, VineyardArrowError
from ..ipc import protocol as p
from ..ipc.attached import Attached
from ..machine import counted
from ..objects import ObjectID
from ..registry import Part
from .info import html_of
from .line import Line, Steps
from .values import batches_of

DEFAULT_MAX_BYTES = 64 << 20
TYPENAME = "vineyard.stream.batch"


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
        ephemeral: bool = False,
    ) -> None:
        self.schema = as_schema(schema)
        check_bounds(max_bytes, max_batches, keep)
        attached.lease()
        self._line = Line(attached, timeout_s)
        words = attached.take_room()
        message = p.CreateStream(
            attached.number,
            words,
            name,
            schema_bytes(self.schema),
            None if keep else max_batches,
            None if keep else max_bytes,
            keep,
            ephemeral,
        )
        self._let_go = self._line.end_with(self, lambda: attached.give_room(words))
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
        state = "closed" if self.closed else f"{counted(self._written, 'batch')} written"
        return f"<StreamWriter {f'{self.name} ' * bool(self.name)}{self.id}: {state}>"

    def _repr_html_(self) -> str:
        return html_of(self._line.attached, self.id, repr(self))

    @property
    def closed(self) -> bool:
        """Whether nothing more can be written."""
        return not self._let_go.alive

    @property
    def memory_pool(self) -> Any:
        """A `pyarrow.MemoryPool` to build batches in, as `Client.memory_pool` is.

        On huge pages its blocks of 1 MiB and more are whole pages, which take a third of the
        time to seal, and up to twice the memory: right for what is soon read and dropped.
        """
        return self._line.attached.stream_pool

    # ---- writing

    def write(self, value: Any, *, timeout_s: float | None = None) -> None:
        """Append one or more batches; wait for room first, if the stream is full.

        Buffers that lie in the store are taken as they are, and those built in `memory_pool`
        (or the client's) are sealed where they lie; all others are copied once.

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
            if os.getpid() == self._line.pid:
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


def _one(request: Any) -> Steps[Any]:
    return (yield request)


def as_schema(schema: Any) -> pa.Schema:
    """A stream's schema, of what makes one; InvalidObjectError if nothing does."""
    if isinstance(schema, pa.Schema):
        return schema
    try:
        return pa.schema(schema)
    except (TypeError, ValueError) as error:
        raise InvalidObjectError(
            f"this {type(schema).__name__} makes no schema: {error}",
            "a stream has a pyarrow.Schema, such as that of a table: table.schema",
        ) from None


def schema_bytes(schema: pa.Schema) -> bytes:
    """A schema as Arrow writes it; InvalidObjectError if that could not be read."""
    try:
        written = schema.serialize()
        pa.ipc.read_schema(written)
    except (pa.ArrowException, OSError) as error:
        raise InvalidObjectError(
            f"Arrow cannot write this schema: {error}", "it nests too deep, maybe"
        ) from None
    return bytes(written)


def check_bounds(max_bytes: int | None, max_batches: int | None, keep: bool) -> None:
    """Refuse bounds that make no sense: InvalidObjectError."""
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
