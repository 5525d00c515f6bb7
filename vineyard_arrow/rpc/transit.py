"""An object on its way out: its parts as Arrow IPC streams, one after the other, or as files.

Arrow's own writer makes the messages, whose bodies are sent from where they lie. Their buffers
are moved apart to 64 bytes on the way (the writer can only do 8), so a receiver that puts the
bytes in one aligned block has every buffer aligned, and copies nothing more. Knows no Flight.

Source of the layouts: format/Message.fbs and format/Schema.fbs of Arrow, and the internals of
FlatBuffers (https://flatbuffers.dev/internals/).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import pyarrow as pa

from ..errors import InvalidObjectError, ProtocolError
from ..types.memory import byte_batch

ALIGNMENT = 64
PIECE_NBYTES = 4 << 20  # of a batch on the wire: larger and smaller ones are slower
GATHER_NBYTES = 64 << 10  # neighbours that are smaller share a piece

_PADDING = bytes(ALIGNMENT)
_END = struct.pack("<iI", -1, 0)  # of an Arrow IPC stream
_OPTIONS = pa.ipc.IpcWriteOptions()  # Arrow looks at the environment for them else, each time
_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3  # MessageHeader
_MAGIC_NBYTES = 8  # at the start of a file
_FOOTER_DICTIONARIES, _FOOTER_BATCHES = 2, 3  # fields of Footer
_BLOCK = struct.Struct("<qi4xq")  # where a message lies, bytes of its metadata, and of its body

Chunk: TypeAlias = "bytes | pa.Buffer"


class _Sink:
    """What Arrow's writer wrote: bytes of its own, and buffers as they lie."""

    closed = False

    def __init__(self) -> None:
        self.written: list[Chunk] = []
        self._nbytes = 0

    def write(self, data: Chunk) -> None:
        if len(data):
            self.written.append(data)
            self._nbytes += len(data)

    def tell(self) -> int:
        return self._nbytes

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def stream_of(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> list[Chunk]:
    """An Arrow IPC stream whose buffers, and own end, lie at multiples of 64 bytes.

    Raises
    ------
    InvalidObjectError
        If Arrow cannot write the batches.
    """
    sink = _Sink()
    try:
        with pa.ipc.new_stream(pa.PythonFile(sink, mode="w"), schema, options=_OPTIONS) as writer:
            for batch in batches:
                writer.write_batch(batch)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InvalidObjectError(f"Arrow cannot write this: {error}") from None
    chunks: list[Chunk] = []
    for metadata, body in _messages(iter(sink.written)):
        chunks += _aligned(metadata, body)
    chunks.append(_END + _PADDING[len(_END) :])
    return chunks


def file_of(
    schema: pa.Schema, batches: Iterable[pa.RecordBatch], options: pa.ipc.IpcWriteOptions
) -> list[Chunk]:
    """An Arrow IPC file whose buffers lie at multiples of 64 bytes.

    Raises
    ------
    InvalidObjectError
        If Arrow cannot write the batches as a file.
    """
    sink = _Sink()
    try:
        with pa.ipc.new_file(pa.PythonFile(sink, mode="w"), schema, options=options) as writer:
            for batch in batches:
                writer.write_batch(batch)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InvalidObjectError(f"Arrow cannot write this: {error}") from None
    written = iter(sink.written)
    magic = b""
    while len(magic) < _MAGIC_NBYTES:
        magic += bytes(next(written))
    chunks: list[Chunk] = [magic]
    places: dict[int, list[tuple[int, int, int]]] = {}
    at = len(magic)
    for metadata, body in _messages(written):
        message = list(_aligned(metadata, body, at))
        head, nbytes = len(message[0]), nbytes_of(message)
        places.setdefault(_Message(metadata).kind, []).append((at, head, nbytes - head))
        chunks += message
        at += nbytes
    footer = bytearray(b"".join(map(bytes, written)))
    _Message(footer).set_blocks(_FOOTER_DICTIONARIES, places.get(_DICTIONARY_BATCH, []))
    _Message(footer).set_blocks(_FOOTER_BATCHES, places.get(_RECORD_BATCH, []))
    return [*chunks, _END, bytes(footer)]


def _messages(written: Iterator[Chunk]) -> Iterator[tuple[bytearray, dict[int, Chunk]]]:
    """Metadata of each message, and its buffers by where they were to lie in the body."""
    for _ in written:  # the mark before every message
        (length,) = struct.unpack("<i", bytes(next(written)))
        if not length:
            return
        metadata = bytearray()
        while len(metadata) < length:
            metadata += next(written)
        body: dict[int, Chunk] = {}
        at, nbytes = 0, _Message(metadata).body_nbytes
        while at < nbytes:
            body[at] = chunk = next(written)
            at += len(chunk)
        yield metadata, body


def _aligned(metadata: bytearray, body: dict[int, Chunk], at: int = 0) -> Iterator[Chunk]:
    """A message to lie at ``at``, a multiple of 8, whose buffers lie at multiples of 64 bytes."""
    message = _Message(metadata)
    end, chunks = 0, list[Chunk]()
    for place in message.buffer_places():
        offset, nbytes = struct.unpack_from("<qq", metadata, place)
        struct.pack_into("<q", metadata, place, end)
        if nbytes:
            padding = -nbytes % ALIGNMENT
            chunks += [body[offset], _PADDING[:padding]] if padding else [body[offset]]
            end += nbytes + padding
    message.set_body_nbytes(end)
    metadata += _PADDING[: -(at + 8 + len(metadata)) % ALIGNMENT]
    yield struct.pack("<ii", -1, len(metadata)) + metadata
    yield from chunks


class _Message:
    """The few fields of a message's metadata that are to be read and changed."""

    def __init__(self, data: bytearray) -> None:
        self._data = data
        self._root = struct.unpack_from("<I", data, 0)[0] if data else 0

    def _field(self, table: int, number: int) -> int | None:
        """Where a field of a table lies; None if it has its default."""
        vtable = table - struct.unpack_from("<i", self._data, table)[0]
        slot = 4 + 2 * number
        if slot >= struct.unpack_from("<H", self._data, vtable)[0]:
            return None
        offset: int = struct.unpack_from("<H", self._data, vtable + slot)[0]
        return table + offset if offset else None

    def _follow(self, place: int) -> int:
        return place + int(struct.unpack_from("<I", self._data, place)[0])

    @property
    def body_nbytes(self) -> int:
        place = self._field(self._root, 3) if self._data else None
        return 0 if place is None else int(struct.unpack_from("<q", self._data, place)[0])

    def set_body_nbytes(self, nbytes: int) -> None:
        place = self._field(self._root, 3)
        if place is not None:
            struct.pack_into("<q", self._data, place, nbytes)

    @property
    def kind(self) -> int:
        """Of what it has, a number of MessageHeader."""
        place = self._field(self._root, 1)
        return 0 if place is None else self._data[place]

    def set_blocks(self, number: int, places: Sequence[tuple[int, int, int]]) -> None:
        """Say, in the field of a footer, where the messages lie."""
        field = self._field(self._root, number)
        if field is None:
            return
        vector = self._follow(field)
        (count,) = struct.unpack_from("<I", self._data, vector)
        if count != len(places):
            raise InvalidObjectError("Arrow wrote a file of another form than this release knows")
        for i, place in enumerate(places):
            _BLOCK.pack_into(self._data, vector + 4 + i * _BLOCK.size, *place)

    def buffer_places(self) -> range:
        """Where the entries of the buffers lie: two int64 each, offset and length."""
        header = self._field(self._root, 2)
        if header is None or self.kind not in (_DICTIONARY_BATCH, _RECORD_BATCH):
            return range(0)
        table = self._follow(header)
        if self.kind == _DICTIONARY_BATCH:
            inner = self._field(table, 1)
            assert inner is not None  # Arrow always writes it
            table = self._follow(inner)
        buffers = self._field(table, 2)
        if buffers is None:
            return range(0)
        vector = self._follow(buffers)
        count = struct.unpack_from("<I", self._data, vector)[0]
        return range(vector + 4, vector + 4 + 16 * count, 16)


def nbytes_of(chunks: Iterable[Chunk]) -> int:
    """Size of all of them."""
    return sum(map(len, chunks))


def pieces(chunks: Iterable[Chunk]) -> Iterator[pa.RecordBatch]:
    """The same bytes as batches of one column of uint8, none over 4 MiB; large ones not copied."""
    small: list[Chunk] = []
    gathered = 0
    for chunk in chunks:
        if len(chunk) < GATHER_NBYTES:
            small.append(chunk)
            gathered += len(chunk)
        if gathered and (gathered >= GATHER_NBYTES or len(chunk) >= GATHER_NBYTES):
            yield byte_batch(b"".join(map(memoryview, small)))
            small, gathered = [], 0
        if len(chunk) >= GATHER_NBYTES:
            buffer = pa.py_buffer(chunk)
            for at in range(0, buffer.size, PIECE_NBYTES):
                yield byte_batch(buffer[at : at + PIECE_NBYTES])
    if gathered:
        yield byte_batch(b"".join(map(memoryview, small)))


def tables_of(data: pa.Buffer, sizes: Sequence[int]) -> list[pa.Table]:
    """The streams of these sizes in ``data``, as tables over its memory.

    Raises
    ------
    InvalidObjectError
        If they are no Arrow IPC streams, or a column reaches out of its buffers.
    """
    if any(size < 0 for size in sizes) or sum(sizes) != data.size:
        raise ProtocolError(f"{data.size:,} bytes came for parts of {sum(sizes):,}")
    tables, at = [], 0
    for size in sizes:
        try:
            table = pa.ipc.open_stream(data.slice(at, size)).read_all()
            table.validate()
        except (pa.ArrowException, OSError, ValueError) as error:
            raise InvalidObjectError(f"a part that came is no Arrow stream: {error}") from None
        tables.append(table)
        at += size
    return tables


def batches_in(table: pa.Table) -> list[pa.RecordBatch]:
    """The batches that a table was read from; those without rows, too."""
    if not table.num_columns:
        batches: list[pa.RecordBatch] = table.to_batches()
        return batches
    chunks = zip(*(column.chunks for column in table.columns), strict=True)
    return [pa.RecordBatch.from_arrays(list(each), schema=table.schema) for each in chunks]


def piece_bytes(batch: Any) -> pa.Buffer:
    """The bytes of a batch that `pieces` made; ProtocolError if it is no such batch."""
    if batch.num_columns != 1 or batch.column(0).type != pa.uint8():
        raise ProtocolError(f"a piece of {batch.schema.to_string()!r} where bytes were expected")
    column = batch.column(0)
    return (
        column.buffers()[1].slice(column.offset, len(column)) if len(column) else pa.py_buffer(b"")
    )
