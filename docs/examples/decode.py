"""Reads objects out of a store without vineyard_arrow: the standard library and pyarrow only.

It is docs/format.md as a program. ``python docs/examples/decode.py SOCKET NAME_OR_ID`` prints
what an object is made of, and its first rows. Payload is not copied, but for buffers that
pyarrow would refuse as they lie (see `part_table`).
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
from collections.abc import Iterator
from mmap import PROT_READ, mmap
from typing import Any, NamedTuple

import pyarrow as pa

VERSION = 3  # of the protocol
PAGE = 4096
OBJECT, NAME = 1, 2  # kinds of entries of the index
HEADER = 72  # bytes of an object's header
PINS = 331776  # offset of the pins in a client table
U64 = (1 << 64) - 1


# ---- the socket: frames of msgpack -----------------------------------------------------------


def pack(value: Any) -> bytes:
    """The few kinds of msgpack that requests are made of."""
    if value is None:
        return b"\xc0"
    if isinstance(value, float):
        return b"\xcb" + struct.pack(">d", value)
    if isinstance(value, int):
        return b"\xcf" + struct.pack(">Q", value)
    if isinstance(value, str):
        data = value.encode()
        return b"\xdb" + struct.pack(">I", len(data)) + data
    return b"\xdd" + struct.pack(">I", len(value)) + b"".join(map(pack, value))


def unpack(data: bytes, at: int = 0) -> tuple[Any, int]:
    """The msgpack value at ``at``, and where it ends: the kinds that replies are made of."""
    tag, at = data[at], at + 1
    if tag < 0x80 or tag >= 0xE0:
        return (tag if tag < 0x80 else tag - 256), at
    if tag in _CONSTANTS:
        return _CONSTANTS[tag], at
    if tag in _NUMBERS:
        return struct.unpack_from(_NUMBERS[tag], data, at)[0], at + struct.calcsize(_NUMBERS[tag])
    if tag in _LENGTHS:
        n, at = struct.unpack_from(_LENGTHS[tag], data, at)[0], at + struct.calcsize(_LENGTHS[tag])
    else:
        n = tag & (31 if 0xA0 <= tag < 0xC0 else 15)
    if 0xA0 <= tag < 0xC0 or 0xD9 <= tag <= 0xDB:
        return data[at : at + n].decode(), at + n
    items = []
    for _ in range(n):
        item, at = unpack(data, at)
        items.append(item)
    return items, at


_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
_NUMBERS = {
    0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q",
    0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q",
}  # fmt: skip
_LENGTHS = {0xD9: ">B", 0xDA: ">H", 0xDB: ">I", 0xDC: ">H", 0xDD: ">I"}


class Daemon:
    """The connection: one request, one reply."""

    def __init__(self, path: str) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.settimeout(10.0)
        self._sock.connect(path)
        self._number = 0

    def ask(self, tag: str, *items: Any) -> tuple[list[Any], list[int]]:
        """The reply, without its tag, and the descriptors that came with it."""
        self._number += 1
        body = pack([tag, *items])
        self._sock.sendall(struct.pack("<II", len(body), self._number) + body)
        data, fds = b"", []
        while True:
            more, got, _, _ = socket.recv_fds(self._sock, 65536, 253)
            if not more:
                raise ConnectionError("the daemon closed the connection")
            data, fds = data + more, fds + got
            while len(data) >= 8:
                nbytes, number = struct.unpack_from("<II", data)
                if len(data) < 8 + nbytes:
                    break
                (name, *reply), _ = unpack(data[8 : 8 + nbytes])
                data = data[8 + nbytes :]
                if name == "failure":
                    raise LookupError(reply[1]) if reply[0] == "not-found" else OSError(*reply)
                if number == self._number:  # others come unasked: "retired" segments
                    return reply, fds

    def close(self) -> None:
        """Leave; the daemon drops what was pinned."""
        self._sock.close()


# ---- index, pins, catalog and segments -------------------------------------------------------


def mix64(x: int) -> int:
    """The finaliser of splitmix64."""
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & U64
    x = (x ^ x >> 27) * 0x94D049BB133111EB & U64
    return x ^ x >> 31


def hash_of(key: int, kind: int) -> int:
    """Hash of an entry; its upper half is the tag in the bucket."""
    return mix64(key + kind * 0x9E3779B97F4A7C15 & U64)


def home_of(key: int, kind: int) -> int:
    """Where probing begins: 64 ids in sequence share a stretch of the table."""
    return (mix64(key >> 6) << 6 | key & 63) if kind == OBJECT else hash_of(key, kind)


def hash_name(name: bytes) -> int:
    """FNV-1a of 64 bits."""
    h = 0xCBF29CE484222325
    for byte in name:
        h = (h ^ byte) * 0x100000001B3 & U64
    return h


class Slot(NamedTuple):
    """An entry of the index."""

    seq: int  # odd: dead
    kind: int
    key: int
    offset: int
    nbytes: int
    target: int


class Segment(NamedTuple):
    """A file of the store, mapped, and where it lies in the address space."""

    offset: int
    memory: mmap


class Header(NamedTuple):
    """What precedes an object's messages in the catalog."""

    magic: int
    num_segments: int
    stream_nbytes: int
    payload_nbytes: int
    created_ns: int
    copied: int
    gathered: int
    shared: int
    uid: int
    reserved: int
    signature: int


class Store:
    """A store as its readers map it."""

    def __init__(self, path: str) -> None:
        self.daemon = Daemon(path)
        welcome, fds = self.daemon.ask("hello", VERSION, os.getpid(), "decode.py")
        index_fd, table_fd, event_fd, catalog_fd = fds
        self._event_fd = event_fd
        self._index = mmap(index_fd, 0, prot=PROT_READ)
        self._table = mmap(table_fd, 0)
        (magic, self._buckets, _, _, self.catalog_offset, catalog_nbytes, self.instance) = (
            struct.unpack_from("<8s6Q", self._index)
        )
        assert magic == b"VYAIndx1"
        self._slots = PAGE + -(-self._buckets * 8 // PAGE) * PAGE
        catalog = mmap(catalog_fd, catalog_nbytes, prot=PROT_READ)
        self.segments = {welcome[2]: Segment(self.catalog_offset, catalog)}
        self._catalog = memoryview(catalog)
        for fd in (index_fd, table_fd, catalog_fd):
            os.close(fd)

    def slot(self, number: int) -> Slot:
        """Slot ``number`` as it is just now."""
        return Slot(*struct.unpack_from("<IIQQQQ", self._index, self._slots + 64 * number))

    def probe(self, key: int, kind: int) -> Iterator[int]:
        """Numbers of the slots that may hold the entry, as linear probing meets them."""
        tag, i = hash_of(key, kind) >> 32, home_of(key, kind)
        while entry := struct.unpack_from("<Q", self._index, PAGE + 8 * (i % self._buckets))[0]:
            if entry >> 32 == tag:
                yield (entry & 0xFFFFFFFF) - 1
            i += 1

    def find_name(self, name: str) -> int:
        """The id of the object that a name points to."""
        data = name.encode()
        for number in self.probe(hash_name(data), NAME):
            slot = self.slot(number)
            found = slot.seq % 2 == 0 and self.metadata(slot.offset, slot.nbytes) == data
            if found and self.slot(number) == slot:
                return slot.target
        return int(self.daemon.ask("find", None, name, 0.0)[0][0])

    def metadata(self, offset: int, nbytes: int) -> memoryview:
        """A piece of the catalog's segment."""
        start = offset - self.catalog_offset
        return self._catalog[start : start + nbytes]

    def pin(self, key: int) -> int:
        """Pin an object; return its slot. Its memory is not reused until `unpin`."""
        while True:
            for number in self.probe(key, OBJECT):
                before = self.slot(number)
                if before.key != key or before.seq % 2:
                    continue
                self._count(number, +1)
                if self.slot(number)[:3] == before[:3]:
                    return number
                self.unpin(number)
            self.daemon.ask("find", key, None, 0.0)  # LookupError if it is not there

    def unpin(self, number: int) -> None:
        """Drop a pin; the daemon is told if it waits for that."""
        self._count(number, -1)
        if self.slot(number).seq % 2:
            os.eventfd_write(self._event_fd, 1)

    def _count(self, number: int, change: int) -> None:
        # One thread alone writes here. Others need an atomic increment, and all a fence
        # before the slot is looked at again; the interpreter runs through several.
        at = PINS + 4 * number
        (n,) = struct.unpack_from("<I", self._table, at)
        struct.pack_into("<I", self._table, at, n + change)

    def open(self, key: int, number: int) -> tuple[Header, memoryview]:
        """Header and messages of a pinned object; maps the segments that it lies in."""
        slot = self.slot(number)
        blob = self.metadata(slot.offset, slot.nbytes)
        header = Header(*struct.unpack_from("<II6qIIQ", blob))
        assert header.magic == 0x32594156  # "VAY2"
        for segment in struct.unpack_from(f"<{header.num_segments}I", blob, HEADER):
            if segment not in self.segments:
                (places,), fds = self.daemon.ask("segments", segment, key)
                for (_, found, offset, nbytes, _), fd in zip(places, fds, strict=True):
                    self.segments[found] = Segment(offset, mmap(fd, nbytes, prot=PROT_READ))
                    os.close(fd)
        start = HEADER + -(-4 * header.num_segments // 8) * 8
        return header, blob[start : start + header.stream_nbytes]

    def bytes_at(self, offset: int, nbytes: int) -> memoryview:
        """A piece of a mapped segment."""
        for start, memory in self.segments.values():
            if start <= offset and offset + nbytes <= start + len(memory):
                return memoryview(memory)[offset - start : offset - start + nbytes]
        raise LookupError(f"no mapped segment holds {offset}")

    def close(self) -> None:
        """End the connection; mapped memory stays readable, but is no longer pinned."""
        os.close(self._event_fd)
        self.daemon.close()


# ---- parts: Arrow IPC messages whose body is the store ----------------------------------------


def split(messages: memoryview) -> list[list[memoryview]]:
    """The flatbuffers of each part."""
    parts: list[list[memoryview]] = [[]]
    at = 0
    while at < len(messages):
        continuation, nbytes = struct.unpack_from("<II", messages, at)
        assert continuation == 0xFFFFFFFF
        if nbytes:
            parts[-1].append(messages[at + 8 : at + 8 + nbytes])
        else:
            parts.append([])
        at += 8 + nbytes
    return parts[:-1]


class Flat:
    """A table of a flatbuffer."""

    def __init__(self, data: bytearray, at: int) -> None:
        self.data = data
        self._at = at + struct.unpack_from("<I", data, at)[0]
        self._vtable = self._at - struct.unpack_from("<i", data, self._at)[0]

    def place(self, field: int) -> int:
        """Where a field lies; 0 if it is not there."""
        (nbytes,) = struct.unpack_from("<H", self.data, self._vtable)
        if 4 + 2 * field >= nbytes:
            return 0
        (offset,) = struct.unpack_from("<H", self.data, self._vtable + 4 + 2 * field)
        return self._at + offset if offset else 0

    def table(self, field: int) -> Flat:
        """The table that a field refers to."""
        return Flat(self.data, self.place(field))


def buffer_places(message: bytearray) -> list[int]:
    """Where the Buffer{offset, length} entries of a batch lie in its flatbuffer."""
    root = Flat(message, 0)
    batch = root.table(2)
    if message[root.place(1)] == 2:  # a DictionaryBatch has a RecordBatch
        batch = batch.table(1)
    vector = batch.place(2)
    if not vector:
        return []
    vector += struct.unpack_from("<I", message, vector)[0]
    (count,) = struct.unpack_from("<I", message, vector)
    return [vector + 4 + 16 * i for i in range(count)]


def with_body(store: Store, message: memoryview) -> tuple[bytes, memoryview]:
    """A message of a batch, and the body that its buffers then lie in.

    The body is the whole segment where that is possible: nothing is copied. Otherwise (pyarrow
    takes one piece of memory, and no buffer that does not start on 8 bytes) the buffers are
    copied together.
    """
    data = bytearray(message)
    places = buffer_places(data)
    entries = [struct.unpack_from("<qq", data, at) for at in places]
    used = [
        (at, entry, nbytes) for at, (entry, nbytes) in zip(places, entries, strict=True) if nbytes
    ]
    for segment in store.segments.values():
        end = segment.offset + len(segment.memory)
        if all(segment.offset <= entry and entry + nbytes <= end for _, entry, nbytes in used):
            body = memoryview(segment.memory)
            for at, entry, _ in used:
                struct.pack_into("<q", data, at, entry - segment.offset)
            break
    else:
        copy = bytearray()
        for at, entry, nbytes in used:
            struct.pack_into("<q", data, at, len(copy))
            # A buffer that starts off 8 bytes: the rest is in bits 56 to 58.
            copy += store.bytes_at((entry & (1 << 56) - 1) + (entry >> 56 & 7), nbytes)
            copy += bytes(-len(copy) % 8)
        body = memoryview(copy)
    length = Flat(data, 0).place(3)  # Message.bodyLength
    if length:
        struct.pack_into("<q", data, length, len(body))
    return bytes(data), body if length else body[:0]


class Pieces:
    """A stream of bytes over pieces of memory, which `read_buffer` gives without copying."""

    closed = False

    def __init__(self, pieces: list[Any]) -> None:
        self._pieces = [memoryview(piece) for piece in pieces if len(piece)]

    def read_buffer(self, nbytes: int) -> memoryview:
        """The next ``nbytes``; what is asked for lies in one piece."""
        if not self._pieces:
            return memoryview(b"")
        first = self._pieces[0]
        self._pieces[0] = first[nbytes:]
        if not self._pieces[0]:
            del self._pieces[0]
        return first[:nbytes]

    def read(self, nbytes: int) -> bytes:
        """The same, copied."""
        return bytes(self.read_buffer(nbytes))

    def close(self) -> None:
        """Nothing is held."""


def part_schema(messages: list[memoryview]) -> pa.Schema:
    """The schema of a part; its metadata has ``vineyard.type`` and ``vineyard.params``."""
    head = struct.pack("<II", 0xFFFFFFFF, len(messages[0]))
    return pa.ipc.read_schema(pa.py_buffer(head + bytes(messages[0])))


def part_table(store: Store, messages: list[memoryview]) -> pa.Table:
    """The batches of a part, read by pyarrow's own reader."""
    pieces: list[Any] = []
    for i, message in enumerate(messages):
        data, body = with_body(store, message) if i else (bytes(message), memoryview(b""))
        pieces += [struct.pack("<II", 0xFFFFFFFF, len(data)), data, body]
    stream = pa.PythonFile(Pieces([*pieces, struct.pack("<II", 0xFFFFFFFF, 0)]), "r")
    return pa.ipc.open_stream(stream).read_all()


class Part(NamedTuple):
    """One Arrow stream of an object."""

    typename: str
    params: dict[str, Any]
    table: pa.Table


def read_parts(store: Store, key: int, number: int) -> list[Part]:
    """The parts of a pinned object. They are valid for as long as it is pinned."""
    _, messages = store.open(key, number)
    parts = []
    for part in split(messages):
        metadata = part_schema(part).metadata
        params = json.loads(metadata.get(b"vineyard.params", b"{}"))
        parts.append(Part(metadata[b"vineyard.type"].decode(), params, part_table(store, part)))
    return parts


def members(parts: list[Part]) -> dict[str, int]:
    """Ids of the objects that an object is composed of, by name."""
    if parts[-1].typename != "vineyard.members":
        return {}
    ids = [int(text[1:], 16) for text in parts[-1].params["ids"]]
    return dict(zip(parts[-1].table.schema.names, ids, strict=True))


def show(store: Store, key: int, indent: str = "") -> None:
    """Print an object and its members."""
    number = store.pin(key)
    parts = read_parts(store, key, number)
    print(f"{indent}o{key:016x}")
    for part in parts:
        print(f"{indent}  {part.typename} {part.params or ''} {part.table.num_rows} rows")
        for field in part.table.schema:
            values = part.table[field.name].slice(0, 5).to_pylist()
            print(f"{indent}    {field.name}: {field.type} {values}")
    for name, member in members(parts).items():
        print(f"{indent}  member {name}:")
        show(store, member, indent + "    ")
    del parts
    store.unpin(number)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python decode.py SOCKET NAME_OR_ID")
    opened = Store(sys.argv[1])
    wanted = sys.argv[2]
    is_id = len(wanted) == 17 and wanted[0] == "o"
    show(opened, int(wanted[1:], 16) if is_id else opened.find_name(wanted))
    opened.close()
