"""What the two processes of a migration say to each other, and how it is framed. No I/O.

A frame is a header (`HEADER`: magic, kind, bytes of the body, position) and a body. Its kind is
that of a message (msgpack, an array that begins with the message's name), of a block of payload,
or of a packed one. The *payload* is one row of bytes, in which the ranges of the manifest follow
each other without gaps; ``position`` says where in it a block begins. Blocks end at multiples of
`BLOCK` and at the end, so that a packed one need not say how long it is unpacked.

`Inbound` says where the next bytes of a peer go, so payload is received where it is to stay.
"""

from __future__ import annotations

import hmac
import struct
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import msgspec

from ..errors import ProtocolError
from ..ipc.protocol import Figure, Id

VERSION = 1
MAGIC = 0x4D56
HEADER = struct.Struct("<HHIQ")
MESSAGE, RAW, PACKED = 1, 2, 3
BLOCK = 4 << 20
MAX_STRANGER = 4 << 10  # bytes of a message of somebody who has proved nothing yet
MAX_MESSAGE = 64 << 20
MAX_PIECES = 512  # of memory in one system call; the kernel takes 1,024
NONCE_NBYTES = 32


class _Message(msgspec.Struct, array_like=True, gc=False):
    pass


class Challenge(_Message, tag="challenge"):
    """The receiver's first words."""

    version: int
    nonce: bytes


class Proof(_Message, tag="proof"):
    """The sender knows the token, and asks the receiver whether it does."""

    version: int
    nonce: bytes
    mac: bytes


class Welcome(_Message, tag="welcome"):
    """So does the receiver."""

    mac: bytes


class Offer(_Message, tag="offer"):
    """What there is to send: the object `root` with its members, `objects` in all."""

    root: Id
    objects: Figure
    nbytes: Figure  # of the payload
    codec: str | None


class Ready(_Message, tag="ready"):
    """Send the payload from here on; before it the manifest, if that is not here yet."""

    position: Figure
    manifest: bool


class Entry(_Message, tag="entry"):
    """One object: its messages as they are stored at the source, and the ranges it brings.

    Ids and offsets are those of the source. A range that several objects need is brought by the
    first of them. Members come before what they are members of.
    """

    id: Id
    typename: str
    streams: bytes
    ranges: list[tuple[Figure, Figure]]  # offset, bytes
    members: list[Id]
    nbytes: Figure
    signature: Id
    own: bool  # put by the user who migrates, and nobody else could write it


class Manifest(_Message, tag="manifest"):
    """Some of the entries, in order."""

    entries: list[Entry]


class Done(_Message, tag="done"):
    """The object is there, under this id."""

    id: Id


class Failure(_Message, tag="failure"):
    """It will not be. Codes are those of `vineyard_arrow.errors`."""

    code: str
    message: str
    hint: str | None


Message = Challenge | Proof | Welcome | Offer | Ready | Manifest | Done | Failure
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)


def encode(message: Any) -> bytes:
    """The frame of a message."""
    body = _encoder.encode(message)
    if len(body) > MAX_MESSAGE:
        raise ProtocolError(f"a message of {len(body):,} bytes is too long to be sent")
    return HEADER.pack(MAGIC, MESSAGE, len(body), 0) + body


def block_header(kind: int, nbytes: int, position: int) -> bytes:
    """What comes before the bytes of a block."""
    return HEADER.pack(MAGIC, kind, nbytes, position)


def block_end(position: int, total: int) -> int:
    """Where the block that begins at ``position`` ends."""
    return min(total, (position // BLOCK + 1) * BLOCK)


def prove(token: bytes, role: str, asked: bytes, asking: bytes) -> bytes:
    """The answer of ``role`` to the other one's nonce, which also covers its own."""
    return hmac.digest(token, role.encode() + b"\0" + asked + asking, "sha256")


def is_proof(mac: bytes, token: bytes, role: str, asked: bytes, asking: bytes) -> bool:
    """Whether who sent ``mac`` knows the token."""
    expected = prove(token, role, asked, asking)
    return len(asked) == len(asking) == NONCE_NBYTES and hmac.compare_digest(mac, expected)


class Payload:
    """The pieces of memory that the payload comes from, or goes to, as one row of bytes."""

    def __init__(self, pieces: Sequence[memoryview]) -> None:
        self._pieces = pieces
        self._ends = list(accumulate(map(len, pieces)))
        self.nbytes = self._ends[-1] if pieces else 0

    def pieces(self, begin: int, end: int) -> list[memoryview]:
        """Memory of [begin, end)."""
        out = []
        i = bisect_right(self._ends, begin)
        while begin < end:
            start = self._ends[i] - len(self._pieces[i])
            stop = min(end, self._ends[i])
            out.append(self._pieces[i][begin - start : stop - start])
            begin = stop
            i += 1
        return out


class Packed:
    """A block that came compressed, to be unpacked to its place."""

    def __init__(self, body: memoryview, targets: list[memoryview]) -> None:
        self.body = body
        self.targets = targets


class Inbound:
    """What a peer sends, byte by byte if need be.

    Attributes
    ----------
    limit : int
        The longest message that is taken.
    payload : Payload or None
        Where blocks go; until it is set, none may come.
    position : int
        So much of it has come, whole blocks alone.
    """

    def __init__(self) -> None:
        self.limit = MAX_STRANGER
        self.payload: Payload | None = None
        self.position = 0
        self._header = memoryview(bytearray(HEADER.size))
        self._kind = 0  # of the frame whose body is awaited; 0 while its header is
        self._await([self._header])

    def _await(self, targets: list[memoryview]) -> None:
        self._targets = targets
        self._first = 0  # the one that is being filled
        self._body = targets[0]

    @property
    def targets(self) -> list[memoryview]:
        """Where the next bytes go, at most so many."""
        return self._targets[self._first : self._first + MAX_PIECES]

    def received(self, nbytes: int) -> Message | Packed | None:
        """So many bytes came to `targets`. Returns the message or packed block they complete.

        Raises
        ------
        ProtocolError
            If they make no sense. Nothing more is to be read of this peer then.
        """
        while nbytes:
            target = self._targets[self._first]
            if nbytes < len(target):
                self._targets[self._first] = target[nbytes:]
                return None
            nbytes -= len(target)
            self._first += 1
        if self._first < len(self._targets):
            return None
        if not self._kind:
            self._open_body()
            return None
        return self._close_body()

    def _open_body(self) -> None:
        magic, kind, nbytes, position = HEADER.unpack(self._header)
        if magic != MAGIC:
            raise ProtocolError("the other end does not speak this protocol")
        if kind == MESSAGE:
            if not 0 < nbytes <= self.limit:
                raise ProtocolError(f"a message of {nbytes:,} bytes")
        elif kind in (RAW, PACKED):
            self._check_block(kind, nbytes, position)
        else:
            raise ProtocolError(f"a frame of unknown kind {kind}")
        self._kind = kind
        if kind == RAW:
            assert self.payload is not None
            self._await(self.payload.pieces(position, position + nbytes))
        else:
            self._await([memoryview(bytearray(nbytes))])

    def _check_block(self, kind: int, nbytes: int, position: int) -> None:
        if self.payload is None or position != self.position:
            raise ProtocolError("a block of payload that was not asked for")
        size = block_end(position, self.payload.nbytes) - position
        if not size or not (nbytes == size if kind == RAW else 0 < nbytes < size):
            raise ProtocolError(f"a block of {nbytes:,} bytes, where {size:,} are left")

    def _close_body(self) -> Message | Packed | None:
        kind, self._kind = self._kind, 0
        body = self._body
        self._await([self._header])
        if kind == MESSAGE:
            try:
                message: Message = _decoder.decode(body)
            except (msgspec.MsgspecError, ValueError) as error:  # texts that are not UTF-8, too
                raise ProtocolError(f"a message that makes no sense: {error}") from None
            return message
        assert self.payload is not None
        begin = self.position
        self.position = block_end(begin, self.payload.nbytes)
        if kind == RAW:
            return None
        return Packed(body, self.payload.pieces(begin, self.position))
