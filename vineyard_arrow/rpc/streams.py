"""Streams over TCP: a writer and a reader have a line each, and end with it."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pyarrow as pa

from ..errors import InvalidObjectError
from ..ipc.connection import seconds
from ..objects import ObjectID
from ..streams.info import id_and_name
from ..streams.line import Line, Steps
from ..streams.reader import BatchSource, StreamReader
from ..streams.writer import StreamWriter, as_schema, check_bounds, schema_bytes
from . import messages as m
from .remote import Remote, typed, typed_schema
from .transit import Chunk, batches_in, stream_of, tables_of

if TYPE_CHECKING:
    from ..ipc.attached import Attached


class _Request(msgspec.Struct, frozen=True, eq=False):
    """A message with payload; the reply to it is a pair, too."""

    message: Any
    chunks: Sequence[Chunk] = ()

    @property
    def timeout_s(self) -> float:
        return float(getattr(self.message, "timeout_s", 0.0))


class _Connection:
    """What `streams.line.Line` has its requests sent by."""

    def __init__(self, remote: Remote) -> None:
        self._line = remote.open_line()

    def request(self, request: Any, timeout_s: float | None = None) -> tuple[Any, Any]:
        if isinstance(request, _Request):
            return self._line.request(request.message, request.chunks, timeout_s), []
        return self._line.request(request, (), timeout_s)

    def close(self) -> None:
        self._line.close()


class _RemoteLine(Line):
    """That of a writer or reader here. In event loops a thread waits for it."""

    def __init__(self, remote: Remote, timeout_s: float | None) -> None:
        self.attached = cast("Attached", remote)  # of which `Line` needs what any store has
        self.timeout_s = remote.timeout_s if timeout_s is None else seconds(timeout_s)
        self.connection = cast(Any, _Connection(remote))
        self.pid = os.getpid()
        self._busy = threading.Lock()

    async def run_async(self, steps: Steps[Any]) -> Any:
        """Carry out steps in a thread."""
        import asyncio

        self.check()
        if not self._busy.acquire(blocking=False):
            raise InvalidObjectError("another thread or task is using this stream")

        def run() -> Any:
            try:
                return self._run(steps)
            finally:
                self._busy.release()

        return await asyncio.to_thread(run)


class RemoteWriter(StreamWriter):
    """A `StreamWriter` of a store elsewhere: what is written is sent there, and copied once."""

    def __init__(
        self,
        remote: Remote,
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
        self._line = line = _RemoteLine(remote, timeout_s)
        self._let_go = line.end_with(self, _nothing)
        message = m.NewStream(
            name,
            schema_bytes(self.schema),
            None if keep else max_batches,
            None if keep else max_bytes,
            keep,
            ephemeral,
        )
        try:
            reply, _ = line.connection.request(message)
        except BaseException:
            self._let_go()
            raise
        self._key = reply.id
        self.id, self.name = ObjectID(reply.id), name
        self._written = 0

    @property
    def memory_pool(self) -> Any:
        """The default pool of this process: nothing here is shared."""
        return pa.default_memory_pool()

    def _append(self, batch: pa.RecordBatch, timeout_s: float) -> Steps[None]:
        self._check_open()
        yield _Request(m.Write(seconds(timeout_s)), stream_of(self.schema, [batch]))
        self._written += 1


class _RemoteSource(BatchSource):
    """The batches of a reader of a store elsewhere."""

    def __init__(
        self, remote: Remote, key: int | str, timeout_s: float, batch_timeout_s: float | None
    ) -> None:
        self.line = line = _RemoteLine(remote, batch_timeout_s)
        self.let_go = line.end_with(self, _nothing)
        try:
            message = m.OldStream(*id_and_name(key), timeout_s)
            reply, _ = line.connection.request(message, timeout_s + remote.timeout_s)
            self.schema = typed_schema(reply.schema)
        except BaseException:
            self.let_go()
            raise
        self.id, self.name = ObjectID(reply.id), reply.name
        self.position = reply.first
        self.ended, self.failure = False, None

    def next(self, timeout_s: float) -> Steps[pa.RecordBatch | None]:
        """The next batch, or None at the end, again and again."""
        if self.ended or not self.let_go.alive:
            self._finish()
            return None
        reply, data = yield _Request(m.Next(seconds(timeout_s)))
        if reply.ended:
            self.ended, self.failure = True, reply.failure
            self._finish()
            return None
        (table,) = tables_of(data, [data.size])
        self.position = reply.position
        return batches_in(typed(table))[0]


def open_remote_stream(
    remote: Remote, key: int | str, timeout_s: float | None, batch_timeout_s: float | None
) -> StreamReader:
    """See `Client.open_stream`."""
    return StreamReader(_RemoteSource(remote, key, seconds(timeout_s or 0.0), batch_timeout_s))


def _nothing() -> None:
    """There is nothing to give back but the line."""
