"""The messages of a line: those of `ipc.protocol` that need no shared memory, and a few more.

A line is a DoExchange call that stays open. Each message on it travels as metadata of Flight
data: its length and how many bytes of payload come with it, then the message in msgpack. A small
payload follows right there; another comes as batches of one uint8 column, the first of them beside
the message. This module does no I/O.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from ..errors import ProtocolError
from ..ipc import protocol as p

VERSION = 2
LINE = b"vineyard-arrow line"  # the command of a DoExchange that opens one
MIGRATION = b"vineyard-arrow migration"  # and of one that starts an end of a migration
MAX_MESSAGE = 64 << 20
_SIZES = struct.Struct("<IQ")  # of the message, and of the payload


class _Message(msgspec.Struct, array_like=True, gc=False):
    pass


class PartHead(_Message):
    """One part in the payload: an Arrow IPC stream of so many bytes."""

    typename: str
    params: dict[str, Any]
    nbytes: p.Figure


class DraftHead(_Message):
    """One object to be put, whose parts are in the payload."""

    parts: list[PartHead]
    name: str | None = None
    members: list[p.Id] = []
    signature: p.Id = 0
    id: p.Id | None = None
    labels: dict[str, str] = {}
    vouched: bool = True
    overwrite: bool = False


# ---- requests


class Greet(_Message, tag="greet"):
    """The first word of a line. Comes as `Greeted`.

    `peer`: the same for all lines of a client, whose pins are gone with its last line.
    `instance`: the one it knows, 0 at first; another one is refused.
    """

    version: int
    peer: bytes
    instance: int


class Read(_Message, tag="read"):
    """Comes as `Parts`, with payload. `pin`: by which it is found even if it was deleted."""

    id: p.Id | None  # or by name
    pin: int | None
    name: str | None = None


class Look(_Message, tag="look"):
    """Comes as `Described`."""

    id: p.Id
    pin: int | None


class Hold(_Message, tag="hold"):
    """Pin an object. Comes as `Held`."""

    id: p.Id


class LetGo(_Message, tag="let-go"):
    pins: list[int]


class Put(_Message, tag="put-parts"):
    """With payload. Comes as `Sealed`."""

    objects: list[DraftHead]
    strict: bool


class NewStream(_Message, tag="new-stream"):
    """Make a stream; this line is now its writer's. Comes as `ipc.protocol.Opened`."""

    name: str | None
    schema: bytes
    max_batches: p.Figure | None
    max_nbytes: p.Figure | None
    keep: bool
    ephemeral: bool = False


class Write(_Message, tag="write"):
    """Append the one batch of the Arrow IPC stream in the payload."""

    timeout_s: float


class OldStream(_Message, tag="old-stream"):
    """Read a stream; this line is now its reader's. Comes as `ipc.protocol.Opened`."""

    id: p.Id | None
    name: str | None
    timeout_s: float


class Next(_Message, tag="next-batch"):
    """Comes as `Batch`, with payload: an Arrow IPC stream of no more than one batch."""

    timeout_s: float


# ---- replies


class Greeted(_Message, tag="greeted"):
    """`uid`: whose pickles the client may take as its own user's; -1 for nobody's."""

    instance: int
    uid: int


class Parts(_Message, tag="parts"):
    parts: list[PartHead]
    members: dict[str, tuple[int, str]]
    uid: int | None
    id: p.Id


class Described(_Message, tag="described"):
    figures: tuple[int, int, int, int, int, int | None, int]
    parts: list[tuple[str, bytes, int, int, dict[str, Any]]]
    members: dict[str, tuple[int, str]]


class Held(_Message, tag="held"):
    pin: int


class Sealed(_Message, tag="sealed"):
    ids: list[int]


class Batch(_Message, tag="stream-batch"):
    """`position`: of the batch after it. `ended`: none comes; if it failed, this is why."""

    ended: bool
    position: int
    failure: str | None = None


Own = Greet | Read | Look | Hold | LetGo | Put | NewStream | Write | OldStream | Next
Passed = (
    p.Delete
    | p.Persist
    | p.CreateGlobal
    | p.Find
    | p.PutName
    | p.DropName
    | p.Label
    | p.ListNames
    | p.ListObjects
    | p.Describe
    | p.LeaseIds
    | p.EndStream
    | p.DropStream
    | p.ListStreams
    | p.ListInstances
    | p.GetStatus
    | p.Trim
    | p.Clear
)
PASSED = Passed.__args__
Reply = Greeted | Parts | Described | Held | Sealed | Batch | p.Reply

_request_decoder = msgspec.msgpack.Decoder(Own | Passed)
_reply_decoder = msgspec.msgpack.Decoder(Reply)


def encode(message: Any, nbytes: int = 0) -> bytes:
    """A message that comes with so many bytes of payload; InvalidObjectError if it cannot be."""
    body = p.encode_checked(message) if isinstance(message, PASSED) else p.encode_body(message)
    if len(body) > MAX_MESSAGE:
        raise ProtocolError(
            f"a message of {len(body):,} bytes is over the limit of {MAX_MESSAGE:,}",
            "ask for less at a time",
        )
    return _SIZES.pack(len(body), nbytes) + body


def decode(data: Any, *, requests: bool) -> tuple[Any, int, memoryview]:
    """A message, how many bytes of payload come with it, and those that are here already.

    Raises
    ------
    ProtocolError
        If it is no message.
    """
    if data is None or len(data) < _SIZES.size:
        raise ProtocolError("data came where a message was expected")
    view = memoryview(data)
    try:
        decoder: Any = _request_decoder if requests else _reply_decoder
        size, nbytes = _SIZES.unpack_from(view)
        end = _SIZES.size + size
        if len(view) > end and len(view) - end != nbytes:
            raise ProtocolError(f"{len(view) - end:,} bytes came for a payload of {nbytes:,}")
        return decoder.decode(view[_SIZES.size : end]), nbytes, view[end:]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"not a message: {error}") from None
