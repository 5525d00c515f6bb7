"""The reading end of a stream."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Self

import pyarrow as pa

from ..errors import InvalidObjectError, ObjectNotFoundError, StreamClosedError, StreamFailedError
from ..ipc import _core
from ..ipc import protocol as p
from ..ipc.attached import Attached
from ..ipc.connection import seconds
from ..objects import ObjectID
from .info import html_of, id_and_name
from .line import Line, Steps


class BatchSource:
    """The batches of a reader. Apart from it, as consumers in C++ may keep only this."""

    def __init__(
        self, attached: Attached, key: int | str, timeout_s: float, batch_timeout_s: float | None
    ) -> None:
        self.line = Line(attached, batch_timeout_s)
        self._word = word = attached.take_cursor()
        self.let_go = self.line.end_with(self, lambda: attached.give_cursor(word))
        try:
            message = p.OpenStream(attached.number, self._word, *id_and_name(key), timeout_s)
            reply, _ = self.line.connection.request(message, timeout_s + attached.timeout_s)
            from ..extension_types import with_types  # only once there is a reader

            self.schema = with_types(pa.ipc.read_schema(pa.py_buffer(reply.schema)))
            self._checked = self.schema  # what the last batch had: parsed once, so mostly the same
        except BaseException:
            self.let_go()
            raise
        self.id = ObjectID(reply.id)
        self.name: str | None = reply.name
        self.position: int = reply.first
        self._ids: deque[int] = deque()
        self.ended = False
        self.failure: str | None = None

    @property
    def label(self) -> str:
        return f"stream {self.name or self.id}"

    def next(self, timeout_s: float) -> Steps[pa.RecordBatch | None]:
        """The next batch, or None at the end, again and again."""
        missed = False
        while True:
            if not self._ids and (self.ended or not self.let_go.alive):
                self._finish()
                return None
            if not self._ids:
                reply = yield p.NextBatches(self.position, timeout_s)
                self._ids.extend(reply.ids)
                self.ended, self.failure = reply.ended, reply.failure
                continue
            try:
                batch = self.line.attached.read_batch(self._ids[0])
            except ObjectNotFoundError:
                if missed:
                    raise
                missed = True  # dropped since: the daemon knows why
                self._ids.clear()
                self.ended = False
                continue
            if not batch.schema.equals(self._checked):
                if not batch.schema.equals(self.schema):  # consumers in C go by the stream's
                    raise InvalidObjectError(
                        f"batch {self.position} of {self.label} is of another schema",
                        "it was not written by us",
                    )
                self._checked = batch.schema
            self._ids.popleft()
            self.position += 1
            self.line.attached._core.set_cursor(self._word, self.position)
            return batch

    def _finish(self) -> None:
        ended = self.ended
        self.let_go()
        if not ended:
            raise StreamClosedError(f"this reader of {self.label} is closed", "open it anew")
        if self.failure is not None:
            raise StreamFailedError(f"{self.label} failed: {self.failure}")

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

    def __init__(self, source: BatchSource) -> None:
        super().__init__(pa.RecordBatchReader.from_batches(source.schema, iter(source)))
        self._source = source
        self.id, self.name = source.id, source.name

    def __repr__(self) -> str:
        place = f"at batch {self.position}" if self._source.let_go.alive else "closed"
        return f"<StreamReader {f'{self.name} ' * bool(self.name)}{self.id}: {place}>"

    def _repr_html_(self) -> str:
        return html_of(self._source.line.attached, self.id, repr(self))

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


def open_stream(
    attached: Attached, key: int | str, timeout_s: float | None, batch_timeout_s: float | None
) -> StreamReader:
    """See `Client.open_stream`."""
    return StreamReader(BatchSource(attached, key, seconds(timeout_s or 0.0), batch_timeout_s))
