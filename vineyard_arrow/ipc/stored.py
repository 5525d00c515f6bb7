"""What an object's stored messages say, read without a store: for objects of other instances.

Messages are as `messages.h` writes them: an Arrow IPC stream for each part, without bodies. Only
their schemas, and how many rows they have, are read here.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import pyarrow as pa

from ..errors import InvalidObjectError
from .schemas import EXTENSION_PARAMS, user_schema

_PREFIX = struct.Struct("<II")  # continuation, bytes of the message's flatbuffer
_RECORD_BATCH = 3
MEMBERS = "vineyard.members"


class Part(NamedTuple):
    """One stream of an object."""

    typename: str
    schema: pa.Schema
    num_rows: int
    num_batches: int
    params: dict[str, Any]


def read_parts(data: bytes) -> tuple[list[Part], dict[str, tuple[int, str]]]:
    """Parts of an object, the root first, and ids and typenames of its members by name.

    Raises
    ------
    InvalidObjectError
        If the messages make no sense.
    """
    try:
        raw = list(_streams(data))
        parts = [_part(*each) for each in raw]
        if len(parts) > 1 and parts[-1].typename == MEMBERS:
            return parts[:-1], _members(pa.ipc.read_schema(pa.py_buffer(raw[-1][0])), parts[-1])
    except (struct.error, ValueError, KeyError, IndexError, pa.ArrowException) as error:
        raise InvalidObjectError(f"stored messages cannot be read: {error}") from None
    if not parts:
        raise InvalidObjectError("an object without parts")
    return parts, {}


def _streams(data: bytes) -> list[tuple[bytes, list[int]]]:
    """The schema message of each stream, and the rows of its batches."""
    out: list[tuple[bytes, list[int]]] = []
    at, begins = 0, True
    while at < len(data):
        _, size = _PREFIX.unpack_from(data, at)
        end = at + _PREFIX.size + size
        if end > len(data):
            raise ValueError("a message is cut short")
        if not size:
            begins = True
        elif begins:
            out.append((data[at:end], []))
            begins = False
        else:
            rows = _rows(data[at + _PREFIX.size : end])
            if rows is not None:
                out[-1][1].append(rows)
        at = end
    return out


def _rows(message: bytes) -> int | None:
    """Rows of a record batch; None for other messages. See Arrow's Message.fbs."""
    table = struct.unpack_from("<I", message)[0]
    kind = _field(message, table, 1)
    if kind is None or message[kind] != _RECORD_BATCH:
        return None
    header = _field(message, table, 2)
    if header is None:
        raise ValueError("a message without a header")
    batch = header + struct.unpack_from("<I", message, header)[0]
    length = _field(message, batch, 0)
    return 0 if length is None else int(struct.unpack_from("<q", message, length)[0])


def _field(message: bytes, table: int, number: int) -> int | None:
    """Where a field of a flatbuffer's table lies; None if it has its default."""
    vtable = table - struct.unpack_from("<i", message, table)[0]
    size = struct.unpack_from("<H", message, vtable)[0]
    place = 4 + 2 * number
    offset = struct.unpack_from("<H", message, vtable + place)[0] if place < size else 0
    return table + offset if offset else None


def _part(message: bytes, rows: list[int]) -> Part:
    stored = pa.ipc.read_schema(pa.py_buffer(message))
    typename, params, schema, _ = user_schema(stored, message.count(b"ARROW:extension:name"))
    return Part(typename, schema, sum(rows), len(rows), params)


def _members(stored: pa.Schema, part: Part) -> dict[str, tuple[int, str]]:
    ids = part.params["ids"]
    if len(ids) != len(stored):
        raise ValueError("the members have lost their ids")
    found = {}
    for field, text in zip(stored, ids, strict=True):
        typename = (field.metadata or {}).get(EXTENSION_PARAMS)
        if typename is None:  # the extension type is registered
            typename = field.type.__arrow_ext_serialize__()
        found[field.name] = (int(text[1:], 16), typename.decode())
    return found
