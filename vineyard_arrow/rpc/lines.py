"""The server's end of lines: requests in, replies out, over a store on this host.

A handler raises `VineyardArrowError` for what cannot be done, which is a reply, too. What a line
holds (pins, the end of a stream) is gone when it ends, however it ends.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from ..errors import (
    ConnectionLostError,
    DeadlineExceededError,
    InvalidObjectError,
    ProtocolError,
    StreamFailedError,
    VineyardArrowError,
)
from ..ipc import _core
from ..ipc import protocol as p
from ..ipc.attached import Attached
from ..registry import Part
from ..store import NOBODY, Draft
from ..streams import StreamReader, StreamWriter, open_stream
from . import messages as m
from .transit import Chunk, batches_in, nbytes_of, stream_of, tables_of

GLANCE_S = 1.0  # a wait looks that often whether its client is still there
NO_CHUNKS: tuple[Chunk, ...] = ()

Reply = tuple[Any, Sequence[Chunk]]


class Peer:
    """A client: what all of its lines share."""

    def __init__(self) -> None:
        self.pins: dict[int, _core.Pin] = {}
        self.numbers = itertools.count(1)
        self.lines = 0


class Peers:
    """The clients there are."""

    def __init__(self) -> None:
        self._peers: dict[bytes, Peer] = {}
        self._lock = threading.Lock()

    def joined(self, name: bytes) -> Peer:
        """One more line of a client."""
        with self._lock:
            peer = self._peers.setdefault(name, Peer())
            peer.lines += 1
            return peer

    def left(self, name: bytes, peer: Peer) -> None:
        """One line less; with the last one go its pins."""
        with self._lock:
            peer.lines -= 1
            if not peer.lines:
                self._peers.pop(name, None)
                peer.pins.clear()


class LineEnd:
    """One line. Made anew for each, and used by one thread.

    Parameters
    ----------
    attached : Attached
        The store.
    vouched : bool
        Whether a client that got here acts for the store's user.
    peers : Peers
    is_gone : callable
        Whether the client is.
    """

    def __init__(
        self, attached: Attached, vouched: bool, peers: Peers, is_gone: Callable[[], bool]
    ) -> None:
        self._a = attached
        self._vouched = vouched
        self._peers = peers
        self._is_gone = is_gone
        self._name = b""
        self._peer: Peer | None = None
        self._writer: StreamWriter | None = None
        self._reader: StreamReader | None = None

    def memory_for(self, message: Any, nbytes: int) -> pa.Buffer:
        """Where a message's payload is to be received: shared memory, at a multiple of 64 bytes.

        Raises
        ------
        StoreFullError
            If it does not fit.
        """
        if self._peer is None or not isinstance(message, m.Put | m.Write):
            raise ProtocolError(f"{type(message).__name__} takes no payload")
        pool = self._a.pool if isinstance(message, m.Put) else self._a.stream_pool
        try:
            return pa.allocate_buffer(nbytes, memory_pool=pool)
        except (MemoryError, OverflowError):
            raise self._a.full(nbytes) from None

    def handle(self, message: Any, data: pa.Buffer | None) -> Reply:
        """Carry out a request."""
        if self._peer is None and not isinstance(message, m.Greet):
            raise ProtocolError("the first word of a line is a greeting")
        handler = _HANDLERS.get(type(message))
        if handler is not None:
            return handler(self, message, data)
        return self._a.request(message)[0], NO_CHUNKS

    def close(self) -> None:
        """The line has ended."""
        if self._writer is not None and not self._writer.closed:
            with contextlib.suppress(VineyardArrowError):
                self._writer.fail("its writer's line was lost")
        if self._reader is not None:
            self._reader.close()
        if self._peer is not None:
            self._peers.left(self._name, self._peer)
            self._peer = None

    # ---- who is there

    def _greet(self, message: m.Greet, _: Any) -> Reply:
        if message.version != m.VERSION:
            raise ProtocolError(
                f"the client speaks version {message.version} over TCP, the store {m.VERSION}",
                "run the same release of vineyard-arrow on both sides",
            )
        if self._peer is not None:
            raise ProtocolError("already greeted")
        if message.instance not in (0, self._a.instance):
            raise ConnectionLostError(
                "the daemon was restarted", "connect() anew: its objects are others"
            )
        self._name, self._peer = message.peer, self._peers.joined(message.peer)
        uid = self._a.uid if self._vouched else NOBODY
        return m.Greeted(self._a.instance, uid), NO_CHUNKS

    # ---- objects

    def _pin(self, number: int | None) -> _core.Pin | None:
        assert self._peer is not None
        return None if number is None else self._peer.pins.get(number)

    def _hold(self, message: m.Hold, _: Any) -> Reply:
        assert self._peer is not None
        number = next(self._peer.numbers)
        self._peer.pins[number] = self._a.hold(message.id)
        return m.Held(number), NO_CHUNKS

    def _drop_pins(self, message: m.LetGo, _: Any) -> Reply:
        assert self._peer is not None
        for number in message.pins:
            self._peer.pins.pop(number, None)
        return p.Done(), NO_CHUNKS

    def _read(self, message: m.Read, _: Any) -> Reply:
        number = message.id
        if message.name is not None:
            number = self._a.find_name(message.name)
        elif number is None:
            raise ProtocolError("a read of nothing")
        raw = self._a.read(number, pin=self._pin(message.pin))
        heads, chunks = [], list[Chunk]()
        for part in raw.parts:
            stream = stream_of(part.table.schema, batches_in(part.table))
            heads.append(m.PartHead(part.typename, part.params, nbytes_of(stream)))
            chunks += stream
        return m.Parts(heads, raw.members, raw.uid, number), chunks

    def _look(self, message: m.Look, _: Any) -> Reply:
        *figures, parts, members, _ = self._a.describe(message.id, self._pin(message.pin))
        heads = [
            (typename, schema.serialize().to_pybytes(), rows, batches, params)
            for typename, schema, rows, batches, params in parts
        ]
        return m.Described(tuple(figures), heads, members), NO_CHUNKS

    def _put(self, message: m.Put, data: pa.Buffer | None) -> Reply:
        heads = [head for draft in message.objects for head in draft.parts]
        tables = iter(tables_of(data or pa.py_buffer(b""), [head.nbytes for head in heads]))
        drafts = []
        for draft in message.objects:
            if not draft.parts:
                raise InvalidObjectError("an object has at least one part")
            parts = []
            for head in draft.parts:
                table = next(tables)
                parts.append(Part(head.typename, table.schema, batches_in(table), head.params))
            drafts.append(
                Draft(
                    parts,
                    draft.name,
                    draft.members,
                    draft.signature,
                    draft.id,
                    draft.labels,
                    draft.vouched,
                    draft.overwrite,
                )
            )
        return m.Sealed(self._a.put(drafts, strict=message.strict)), NO_CHUNKS

    def _find(self, message: p.Find, _: Any) -> Reply:
        if message.timeout_s > 0:
            key = message.name if message.id is None else message.id
            if key is None:
                raise ProtocolError("a wait for nothing")
            found = self._patiently(message.timeout_s, lambda left: self._a.wait_for(key, left))
            return p.Found(found), NO_CHUNKS
        if message.id is None and message.name is not None:  # no need to ask the daemon
            return p.Found(self._a.find_name(message.name)), NO_CHUNKS
        return self._a.request(message)[0], NO_CHUNKS

    def _ask(self, message: p.Persist | p.CreateGlobal, _: Any) -> Reply:
        return self._a.ask(message, message.timeout_s), NO_CHUNKS

    def _patiently(self, timeout_s: float, step: Callable[[float], Any]) -> Any:
        """A wait in steps, so that it ends soon after its client has."""
        deadline = time.monotonic() + timeout_s
        while True:
            left = max(deadline - time.monotonic(), 0.0)
            try:
                return step(min(left, GLANCE_S))
            except DeadlineExceededError:
                if left <= GLANCE_S or self._is_gone():
                    raise

    # ---- streams

    def _new_stream(self, message: m.NewStream, _: Any) -> Reply:
        self._check_free()
        self._writer = StreamWriter(
            self._a,
            pa.ipc.read_schema(pa.py_buffer(message.schema)),
            name=message.name,
            max_bytes=message.max_nbytes,
            max_batches=message.max_batches,
            keep=message.keep,
            timeout_s=None,
            ephemeral=message.ephemeral,
        )
        return p.Opened(self._writer.id, message.name, b"", 0), NO_CHUNKS

    def _old_stream(self, message: m.OldStream, _: Any) -> Reply:
        self._check_free()
        key = message.id if message.name is None else message.name
        if key is None:
            raise ProtocolError("no stream is named")
        self._reader = reader = self._patiently(
            message.timeout_s, lambda left: open_stream(self._a, key, left, None)
        )
        schema = reader.schema.serialize().to_pybytes()
        return p.Opened(reader.id, reader.name, schema, reader.position), NO_CHUNKS

    def _check_free(self) -> None:
        if self._writer is not None or self._reader is not None:
            raise ProtocolError("this line has a stream already")

    def _write(self, message: m.Write, data: pa.Buffer | None) -> Reply:
        writer = self._writer
        if writer is None or data is None:
            raise ProtocolError("a batch of no stream")
        (table,) = tables_of(data, [data.size])
        for batch in batches_in(table):
            self._patiently(
                message.timeout_s,
                lambda left, batch=batch: writer.write(batch, timeout_s=left),  # type: ignore[misc]
            )
        return p.Done(), NO_CHUNKS

    def _end_stream(self, message: p.EndStream, _: Any) -> Reply:
        if self._writer is None:
            raise ProtocolError("no stream was made")
        if message.failure is None:
            self._writer.close()
        else:
            self._writer.fail(message.failure)
        return p.Done(), NO_CHUNKS

    def _next(self, message: m.Next, _: Any) -> Reply:
        reader = self._reader
        if reader is None:
            raise ProtocolError("no stream was opened")
        try:
            batch = self._patiently(message.timeout_s, lambda left: reader.read(timeout_s=left))
        except StreamFailedError:
            return m.Batch(True, reader.position, reader._source.failure), NO_CHUNKS
        if batch is None:
            return m.Batch(True, reader.position), NO_CHUNKS
        return m.Batch(False, reader.position), stream_of(batch.schema, [batch])


_HANDLERS: dict[type, Callable[[LineEnd, Any, pa.Buffer | None], Reply]] = {
    m.Greet: LineEnd._greet,
    m.Hold: LineEnd._hold,
    m.LetGo: LineEnd._drop_pins,
    m.Read: LineEnd._read,
    m.Look: LineEnd._look,
    m.Put: LineEnd._put,
    m.NewStream: LineEnd._new_stream,
    m.OldStream: LineEnd._old_stream,
    m.Write: LineEnd._write,
    m.Next: LineEnd._next,
    p.EndStream: LineEnd._end_stream,
    p.Find: LineEnd._find,
    p.Persist: LineEnd._ask,
    p.CreateGlobal: LineEnd._ask,
}
