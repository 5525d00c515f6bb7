"""The messages between client and daemon, and how they are framed.

A frame is a length and a request number (two little-endian uint32) and a msgpack array
whose first item names the message. A reply carries the number of its request; number 0
marks what the daemon says unasked. Descriptors travel with the first byte of a frame
(SCM_RIGHTS). This module does no I/O: `FrameReader` takes bytes, gives messages.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec

from ..errors import InvalidObjectError, ProtocolError, VineyardArrowError

VERSION = 3
HEADER = struct.Struct("<II")
MAX_FRAME = 256 << 20
UNASKED = 0

Extent = tuple[int, int]  # offset in the store, bytes
# Of 64 bits, as the native core has them; msgpack has no larger ones.
Id = Annotated[int, msgspec.Meta(ge=0)]
Figure = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class _Message(msgspec.Struct, array_like=True, gc=False):
    pass


# ---- requests


class Hello(_Message, tag="hello"):
    """Attach a process. Comes with: index, table, event and catalog descriptors."""

    version: int
    pid: int
    program: str


class LeaseSegment(_Message, tag="lease"):
    """Ask for a segment to write in, none of those in `avoid`."""

    avoid: list[int] = []


class GetSegments(_Message, tag="segments"):
    """Ask for read-only descriptors: of a segment, and of all others that an object needs.

    `object` is a root: what it and its members, however deep, lie in comes with it.
    """

    segment: int
    object: Id | None = None


class MakeStrict(_Message, tag="strict"):
    """Ask for a file of its own for one object, writable until it is put."""

    nbytes: int


class DropStrict(_Message, tag="drop-strict"):
    """Give up such a file without a put."""

    segment: int


class PutItem(_Message, tag="item"):
    """One object to seal: its messages, and the extents it claims of the caller's lease."""

    id: Id
    typename: str
    streams: bytes
    claims: list[Extent]
    nbytes: Figure
    copied: Figure
    gathered: Figure
    shared: Figure
    created_ns: Figure
    name: str | None = None
    strict: int | None = None
    members: list[Id] = []  # objects that this one is composed of; they must be there
    signature: Id = 0  # that of the object it is a copy of, if it is one


class Put(_Message, tag="put"):
    """Seal and publish objects, all or none. Also left in an outbox, without a frame."""

    items: list[PutItem]


class Delete(_Message, tag="delete"):
    """Delete objects by id, all or none: not if one is unknown, or (but for `force`) a member.

    `deep`: members that no other object has, and no name, go with them.
    """

    ids: list[Id]
    force: bool = False
    deep: bool = True


class Find(_Message, tag="find"):
    """Wait up to `timeout_s` for an object, by id or by name."""

    id: Id | None
    name: str | None
    timeout_s: float


class PutName(_Message, tag="put-name"):
    name: str
    id: Id


class DropName(_Message, tag="drop-name"):
    name: str


class Label(_Message, tag="label"):
    """Set labels of an object; an empty text drops one."""

    id: Id
    labels: dict[str, str]


class ListNames(_Message, tag="names"):
    pattern: str


class ListObjects(_Message, tag="objects"):
    pattern: str
    limit: int
    labels: dict[str, str] = {}
    signature: Id = 0  # only those of it, if it is not 0


class Describe(_Message, tag="describe"):
    id: Id


class LeaseIds(_Message, tag="ids"):
    """Ask for a range of fresh object ids."""


class Fork(_Message, tag="fork"):
    """Prepare a connection for a child: it holds the caller's pins and these extents.

    Comes with: connection, table and event descriptors.
    """

    extents: list[Extent]


class CreateBlock(_Message, tag="create-block"):
    """Make a block of shared memory; without a name it gets one. Comes as `Block`."""

    name: str | None
    nbytes: Figure


class OpenBlock(_Message, tag="open-block"):
    name: str


class UnlinkBlock(_Message, tag="unlink-block"):
    name: str


class GetStatus(_Message, tag="status"):
    pass


class Trim(_Message, tag="trim"):
    pass


class Clear(_Message, tag="clear"):
    pass


class Stop(_Message, tag="stop"):
    pass


# ---- replies


class Welcome(_Message, tag="welcome"):
    instance: int
    client: int
    catalog: int  # segment id of the daemon's own
    ids: Extent
    seal_threshold: int
    uid: int  # of the client, as the daemon sees it


class Leased(_Message, tag="leased"):
    segment: int
    offset: int
    nbytes: int
    huge: bool
    idle_s: float
    free: list[Extent]


class Segment(_Message, tag="mapped"):
    segment: int
    offset: int
    nbytes: int
    huge: bool


class Segments(_Message, tag="all-mapped"):
    """Comes with a descriptor for each."""

    segments: list[Segment]


class Ids(_Message, tag="range"):
    ids: Extent


class Forked(_Message, tag="forked"):
    client: int
    ids: Extent


class Block(_Message, tag="block"):
    """Comes with its read-write descriptor, and one to hold for as long as it is mapped."""

    name: str
    nbytes: int


class Found(_Message, tag="found"):
    id: int


class Names(_Message, tag="named"):
    names: dict[str, int]


class ObjectInfo(_Message, tag="object"):
    id: int
    typename: str
    nbytes: int
    stored: int
    created_ns: int
    pid: int
    names: list[str]
    pinned_by: list[int]
    members: list[int]
    parents: int  # objects that it is a member of
    labels: dict[str, str]
    signature: int


class Objects(_Message, tag="listed"):
    objects: list[ObjectInfo]
    total: int


class ClientInfo(_Message, tag="client"):
    client: int
    pid: int
    program: str
    sealed: int
    unsealed: int
    warm: int
    charged: int
    pins: int


class SegmentInfo(_Message, tag="place"):
    segment: int
    kind: str
    owner: int | None
    offset: int
    sealed: int
    committed: int
    extents: int


class Status(_Message, tag="state"):
    instance: int
    pid: int
    version: str
    uptime_s: float
    memory_limit: int
    memory_used: int
    memory_committed: int
    memory_charged: int
    memory_warm: int
    metadata_used: int
    objects: int
    deleted_pinned: int
    names: int
    puts: int
    copied: int
    gathered: int
    shared: int
    page_kind: str
    protection: str
    clients: list[ClientInfo]
    segments: list[SegmentInfo]
    blocks: int  # of shared memory: those with a name, and those somebody still has open
    block_nbytes: int


class Done(_Message, tag="done"):
    pass


class Retired(_Message, tag="retired"):
    """Unasked: these segments are gone; unmap them."""

    segments: list[int]


class Failure(_Message, tag="failure"):
    code: str
    message: str
    hint: str | None = None


Request = (
    Hello
    | LeaseSegment
    | GetSegments
    | MakeStrict
    | DropStrict
    | Put
    | Delete
    | Find
    | PutName
    | DropName
    | Label
    | ListNames
    | ListObjects
    | Describe
    | LeaseIds
    | Fork
    | CreateBlock
    | OpenBlock
    | UnlinkBlock
    | GetStatus
    | Trim
    | Clear
    | Stop
)
Reply = (
    Welcome
    | Leased
    | Segment
    | Segments
    | Ids
    | Forked
    | Block
    | Found
    | Names
    | Objects
    | ObjectInfo
    | Status
    | Done
    | Retired
    | Failure
)

# How many descriptors travel with a reply; Segments brings as many as it names.
DESCRIPTORS: dict[type, int] = {Welcome: 4, Leased: 2, Segment: 1, Forked: 3, Block: 2}

_encoder = msgspec.msgpack.Encoder()
_request_decoder = msgspec.msgpack.Decoder(Request)
_reply_decoder = msgspec.msgpack.Decoder(Reply)
_put_decoder = msgspec.msgpack.Decoder(Put)


def encode_body(message: Any) -> bytes:
    """A message without a frame."""
    try:
        return _encoder.encode(message)
    except UnicodeEncodeError as error:
        raise InvalidObjectError(f"{error.object!r} is not valid Unicode") from None


def decode_put(body: bytes) -> Put:
    """A put found in an outbox; ProtocolError if it is none."""
    try:
        return _put_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"not a put: {error}") from None


def encode(number: int, message: Any) -> bytes:
    """A frame."""
    body = encode_body(message)
    if len(body) > MAX_FRAME:
        raise ProtocolError(
            f"a message of {len(body):,} bytes is over the limit of {MAX_FRAME:,}",
            "store it in several objects, or with fewer columns and chunks",
        )
    return HEADER.pack(len(body), number) + body


def failure(error: VineyardArrowError) -> Failure:
    """The error as a message."""
    return Failure(error.code, error.message, error.hint)


class FrameReader:
    """Turns bytes, in any pieces, into (request number, message) pairs."""

    def __init__(self, *, requests: bool) -> None:
        self._decoder: Any = _request_decoder if requests else _reply_decoder
        self._buffer = bytearray()

    def feed(self, data: bytes | bytearray | memoryview) -> Iterator[tuple[int, Any]]:
        """Yield the messages completed by ``data``.

        Raises
        ------
        ProtocolError
            On a frame that is oversized or no known message.
        """
        if self._buffer:
            self._buffer += data
            data = self._buffer
        at = 0
        with memoryview(data) as view:
            while len(view) - at >= HEADER.size:
                length, number = HEADER.unpack_from(view, at)
                if length > MAX_FRAME:
                    raise ProtocolError(f"a frame of {length:,} bytes is over the limit")
                end = at + HEADER.size + length
                if len(view) < end:
                    break
                try:
                    message = self._decoder.decode(view[at + HEADER.size : end])
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                    raise ProtocolError(f"not a message: {error}") from None
                at = end
                yield number, message
            if at or data is not self._buffer:
                self._buffer = bytearray(view[at:])
