"""A store that is reached over TCP: what `ipc.attached.Attached` is on its own host.

What is got is copied to memory of this process, once. Thread-safe: each thread takes a line of
its own while it asks. Of no use in a forked child: gRPC's threads stay with the parent.
"""

from __future__ import annotations

import os
import secrets
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.flight as flight

from ..config import RemoteConfig
from ..errors import (
    ConnectionLostError,
    InvalidObjectError,
    ObjectNotFoundError,
    StoreFullError,
    VineyardArrowError,
)
from ..ipc import protocol as p
from ..ipc.connection import seconds
from ..registry import Part, StoredPart
from ..store import Draft
from . import messages as m
from .line import Line
from .transit import Chunk, nbytes_of, stream_of, tables_of
from .watch import Watch

MODES = ("ro", "cow", "copy")
_PID = os.getpid()  # whose threads gRPC's are
_NO_CHUNKS: tuple[Chunk, ...] = ()
_OPTIONS = [
    # Else stores that are connected to twice share a connection, and are cut off together.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


class RemoteRaw(msgspec.Struct, frozen=True, eq=False):
    """An object as it came."""

    parts: list[StoredPart]
    members: dict[str, tuple[int, str]]
    uid: int | None


class RemotePin:
    """A pin that the far end holds; dropped some time after this dies, without waiting."""

    __slots__ = ("__weakref__", "number")

    def __init__(self, number: int, dropped: deque[int]) -> None:
        self.number = number
        weakref.finalize(self, dropped.append, number).atexit = False


class Remote:
    """See the module's docstring. Made by `connect_remote`."""

    def __init__(self, config: RemoteConfig) -> None:
        self.socket = config.address
        self.timeout_s = config.timeout_s
        self._config = config
        self._closed = False
        self._instance = 0
        _check_fork()
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._watch = Watch()
        self._free: list[Line] = []
        self._dropped: deque[int] = deque()  # pins
        self._ids = iter(range(0))
        self._peer = secrets.token_bytes(16)
        token, tls = self._config.token, self._config.tls_root_certs
        headers = [] if token is None else [(b"authorization", b"Bearer " + token.encode())]
        self._options = flight.FlightCallOptions(headers=headers)
        self._flight = flight.FlightClient(
            f"grpc+{'tcp' if tls is None else 'tls'}://{self.socket}",
            tls_root_certs=tls,
            generic_options=_OPTIONS,
        )
        self._end = weakref.finalize(self, _end, self._free, self._watch, self._flight, self._pid)
        self._end.atexit = False
        self.uid: int
        self._give(self.open_line())  # so that who cannot connect learns it now

    @property
    def authorities(self) -> bytes | None:
        """Certificates in PEM that the store's is signed by; None without TLS."""
        return self._config.tls_root_certs

    def open_call(self, command: bytes) -> tuple[Any, Any]:
        """Writer and reader of a DoExchange of one's own; errors are Flight's."""
        self._check_open()
        descriptor = flight.FlightDescriptor.for_command(command)
        return self._flight.do_exchange(descriptor, self._options)  # type: ignore[no-any-return]

    # ---- lines

    def _check_open(self) -> None:
        if self._closed:
            raise VineyardArrowError("this client is closed", "connect() anew")
        _check_fork()

    def open_line(self) -> Line:
        """A line of one's own; to be closed."""
        self._check_open()
        line = Line(self._flight, self._options, self._watch, self.socket, self.timeout_s)
        try:
            reply, _ = line.request(m.Greet(m.VERSION, self._peer, self._instance))
        except BaseException:
            line.close()
            raise
        self._instance, self.uid = reply.instance, reply.uid
        return line

    def _line(self) -> Line:
        with self._lock:
            if self._free and os.getpid() == self._pid:
                return self._free.pop()
        return self.open_line()

    def _give(self, line: Line) -> None:
        with self._lock:
            if line.lost:  # so are all others, most likely: those that are are found out
                kept = [] if self._closed else [one for one in self._free if not one.lost]
                self._free[:] = kept
            elif not self._closed:
                self._free.append(line)
                return
        line.close()

    def call(
        self, message: Any, chunks: Sequence[Chunk] = _NO_CHUNKS, timeout_s: float | None = None
    ) -> tuple[Any, pa.Buffer]:
        """`Line.request` over a line that is free."""
        line = self._line()
        try:
            if self._dropped:
                pins = [self._dropped.popleft() for _ in range(len(self._dropped))]
                line.request(m.LetGo(pins))
            return line.request(message, chunks, timeout_s)
        except ConnectionLostError:
            with self._lock:
                lost, self._free[:] = list(self._free), []
            for one in lost:  # they share a connection
                one.close()
            raise
        finally:
            self._give(line)

    def request(self, message: Any, timeout_s: float | None = None) -> tuple[Any, list[int]]:
        """The reply to a message of `ipc.protocol`; InvalidObjectError if it is about memory."""
        if not isinstance(message, m.PASSED):
            raise InvalidObjectError(
                "shared memory cannot be had over TCP", "connect to the socket, on the store's host"
            )
        return self.call(message, timeout_s=timeout_s)[0], []

    # ---- the store

    @property
    def instance(self) -> int:
        """Number of the instance."""
        return self._instance

    @property
    def alive(self) -> bool:
        """Whether it can still be asked; a round trip."""
        try:
            self.request(p.Find(None, "", 0.0))
        except ObjectNotFoundError:
            return True
        except VineyardArrowError:
            return False
        return True

    @property
    def pool(self) -> Any:
        """The default pool of this process: nothing here is shared."""
        return pa.default_memory_pool()

    def ask(self, message: Any, timeout_s: float) -> Any:
        """The reply to a message that has a deadline of its own."""
        return self.request(message, timeout_s + self.timeout_s)[0]

    def take_id(self) -> int:
        """An id for an object to be put."""
        with self._lock:
            number = next(self._ids, None)
        if number is None:
            reply, _ = self.request(p.LeaseIds())
            first, count = reply.ids
            with self._lock:
                self._ids = iter(range(first + 1, first + count))
            return int(first)
        return number

    def put(self, objects: Sequence[Draft], *, strict: bool = False) -> list[int]:
        """Store and publish objects, all or none; return their ids. One round trip."""
        chunks: list[Chunk] = []
        heads = []
        for draft in objects:
            parts = [_packed(part, chunks) for part in draft.parts]
            heads.append(
                m.DraftHead(
                    parts,
                    draft.name,
                    draft.members,
                    int(draft.signature),
                    draft.id,
                    dict(draft.labels),
                    draft.vouched,
                    draft.overwrite,
                )
            )
        return list(self.call(m.Put(heads, strict), chunks)[0].ids)

    def read(
        self, key: int, mode: str = "ro", root: int | None = None, pin: RemotePin | None = None
    ) -> RemoteRaw:
        """The parts of object ``key``, in memory of this process."""
        return self._read(m.Read(int(key), None if pin is None else pin.number), mode)[1]

    def read_named(self, name: str, mode: str) -> tuple[int, RemoteRaw]:
        """The id ``name`` points to, and the parts of that object, in one round trip."""
        return self._read(m.Read(None, None, name), mode)

    def _read(self, message: m.Read, mode: str) -> tuple[int, RemoteRaw]:
        if mode not in MODES:
            raise InvalidObjectError(f"mode {mode!r} is not one of 'ro', 'cow', 'copy'")
        reply, data = self.call(message)
        tables = tables_of(data, [head.nbytes for head in reply.parts])
        parts = [
            StoredPart(head.typename, head.params, typed(table), mode != "ro")
            for head, table in zip(reply.parts, tables, strict=True)
        ]
        return reply.id, RemoteRaw(parts, reply.members, reply.uid)

    def read_each(self, keys: Iterable[int], mode: str, root: int) -> Iterator[RemoteRaw]:
        """`read` of each."""
        for key in keys:
            yield self.read(key, mode)

    def private(self, key: int, parts: Sequence[StoredPart]) -> Sequence[StoredPart]:
        """The same parts, writable: nobody else has their memory."""
        return [StoredPart(part.typename, part.params, part.table, True) for part in parts]

    def hold(self, key: int) -> RemotePin:
        """A pin on object ``key``: deleted or not, it is there until the pin dies."""
        return RemotePin(self.call(m.Hold(int(key)))[0].pin, self._dropped)

    def describe(self, key: int, pin: RemotePin | None = None) -> tuple[Any, ...]:
        """Header and parts of object ``key`` without its data."""
        reply, _ = self.call(m.Look(int(key), None if pin is None else pin.number))
        parts = [
            (typename, typed_schema(schema), rows, batches, params)
            for typename, schema, rows, batches, params in reply.parts
        ]
        return (*reply.figures, parts, reply.members, [])

    def find_name(self, name: str) -> int:
        """The id ``name`` points to; ObjectNotFoundError if there is no such name."""
        return int(self.request(p.Find(None, name, 0.0))[0].id)

    def wait_for(self, key: int | str, timeout_s: float) -> int:
        """Wait for an object or a name; return the id."""
        timeout_s = seconds(timeout_s)
        name = key if isinstance(key, str) else None
        message = p.Find(None if isinstance(key, str) else key, name, timeout_s)
        reply, _ = self.request(message, timeout_s + self.timeout_s)
        return int(reply.id)

    def full(self, nbytes: int) -> StoreFullError:
        """The error for what finds no room in this process."""
        return StoreFullError(f"this process has no room for {nbytes:,} bytes")

    def trim(self) -> None:
        """Give free warm memory back to the machine, everywhere in the store."""
        self.request(p.Trim())

    def release(self) -> None:
        """The client is closed: so are all lines."""
        self._closed = True
        self._end()


def _check_fork() -> None:
    if os.getpid() != _PID:
        raise VineyardArrowError(
            "a store over TCP cannot be asked in a child that was forked: gRPC has threads",
            "let multiprocessing spawn, or connect() in the children alone",
        )


def _end(lines: list[Line], watch: Watch, client: flight.FlightClient, pid: int) -> None:
    if os.getpid() == pid:
        for line in lines:
            line.close()
        lines.clear()
        watch.close()
        client.close()


def _packed(part: Part, chunks: list[Chunk]) -> m.PartHead:
    stream = stream_of(part.schema, part.batches)
    chunks += stream
    return m.PartHead(part.typename, part.params, nbytes_of(stream))


def typed_schema(data: bytes) -> pa.Schema:
    """A schema that came, with our extension types whether they are registered or not."""
    from ..extension_types import with_types

    return with_types(pa.ipc.read_schema(pa.py_buffer(data)))


def typed(table: pa.Table) -> pa.Table:
    """A table that came, likewise."""
    if not any(field.metadata for field in table.schema):
        return table
    from ..extension_types import with_types

    schema = with_types(table.schema)
    columns = [
        column
        if column.type == field.type
        else pa.chunked_array(
            [pa.ExtensionArray.from_storage(field.type, chunk) for chunk in column.chunks],
            field.type,
        )
        for column, field in zip(table.columns, schema, strict=True)
    ]
    return pa.Table.from_arrays(columns, schema=schema)
