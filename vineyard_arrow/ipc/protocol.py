"""The messages between client and daemon, and how they are framed.

A frame is a length and a request number (two little-endian uint32) and a msgpack array
whose first item names the message. A reply carries the number of its request; number 0
marks what the daemon says unasked. Descriptors travel with the first byte of a frame
(SCM_RIGHTS). This module does no I/O: `FrameReader` takes bytes, gives messages.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from numbers import Integral, Real
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
Word = Annotated[int, msgspec.Meta(ge=0, lt=1 << 16)]
LOST = (1 << 64) - 1
Figure = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class _Message(msgspec.Struct, array_like=True, gc=False):
    pass


# ---- requests


class Hello(_Message, tag="hello"):
    """Attach a process. Comes with: index, table, event and catalog descriptors."""

    version: int
    pid: int
    program: str
    vouched: bool = True  # if not, what it puts counts as put by several users


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
    stream: Id = 0  # append it to this stream; it is then no object by itself
    labels: Mapping[str, str] = {}  # its first labels, there as soon as it is
    vouched: bool = True  # if not, it counts as put by several users
    overwrite: bool = False  # its name moves to it if it is taken


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


class Persist(_Message, tag="persist"):
    """Let the cluster know objects, with all their members."""

    ids: list[Id]
    timeout_s: float


class CreateGlobal(_Message, tag="create-global"):
    """Make an object of members that the cluster knows. Comes as `Created`."""

    typename: str
    data: bytes  # its messages, without payload
    members: list[Id]
    created_ns: Figure
    name: str | None
    labels: Mapping[str, str]
    timeout_s: float


class Find(_Message, tag="find"):
    """Wait up to `timeout_s` for an object, by id or by name.

    A connection waits for one thing: a later wait ends an earlier one without an answer.
    """

    id: Id | None
    name: str | None
    timeout_s: float


class PutName(_Message, tag="put-name"):
    """Point a name that is free, or with `overwrite` any, to an object; answered by `Moved`."""

    name: str
    id: Id
    overwrite: bool = False


class DropName(_Message, tag="drop-name"):
    name: str


class Label(_Message, tag="label"):
    """Set labels of an object; an empty text drops one."""

    id: Id
    labels: Mapping[str, str]


class ListNames(_Message, tag="names"):
    pattern: str


class ListObjects(_Message, tag="objects"):
    pattern: str
    limit: int
    labels: Mapping[str, str] = {}
    signature: Id = 0  # only those of it, if it is not 0
    newest: bool = False  # those put last, the last one first; by id if not
    cluster: bool = False  # those too that the cluster knows of other instances


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


class CreateStream(_Message, tag="create-stream"):
    """Make a stream; this connection is its writer's, whose end is the writer's.

    `client`: the number of the client that will put its batches; `words`: where in its table
    it is told how many batches and bytes were let go, or `LOST` when the stream was dropped.
    `ephemeral`: once it is over, its last reader leaves nothing. Comes as `Opened`.
    """

    client: int
    words: tuple[Word, Word]
    name: str | None
    schema: bytes  # an Arrow IPC message
    max_batches: Figure | None
    max_nbytes: Figure | None
    keep: bool
    ephemeral: bool = False


class OpenStream(_Message, tag="open-stream"):
    """Read a stream, by id or name, once it is there; this connection is now its reader's.

    `word`: where in the table of that client its reader says what it needs next. Comes as
    `Opened`.
    """

    client: int
    word: Word
    id: Id | None
    name: str | None
    timeout_s: float


class NextBatches(_Message, tag="next"):
    """Ask for the ids of batches from number `cursor` on, as soon as there are any."""

    cursor: Figure
    timeout_s: float


class AwaitRoom(_Message, tag="await-room"):
    """Wait until so many batches and bytes have been read and let go."""

    batches: Figure
    nbytes: Figure
    timeout_s: float


class EndStream(_Message, tag="end-stream"):
    """The writer's last word; with why, if it failed."""

    failure: str | None = None


class DropStream(_Message, tag="drop-stream"):
    id: Id | None
    name: str | None


class ListStreams(_Message, tag="streams"):
    pattern: str


class ListInstances(_Message, tag="instances"):
    """Instances of the cluster, as far as this one has heard."""


class ListExtents(_Message, tag="extents"):
    """What lies in sealed memory: the largest extents."""

    limit: int


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


class Opened(_Message, tag="opened"):
    """`first`: the number of the first batch that this reader can have."""

    id: int
    name: str | None
    schema: bytes
    first: int


class Batches(_Message, tag="batches"):
    """Ids of the next batches. `ended`: none come after these; if it failed, this is why."""

    ids: list[int]
    ended: bool
    failure: str | None


class StreamState(_Message, tag="stream"):
    id: int
    name: str | None
    schema: bytes
    state: str  # "open", "ended" or "failed"
    failure: str | None
    keep: bool
    max_batches: int | None
    max_nbytes: int | None
    pid: int  # of the writer
    created_ns: int
    batches: int  # ever written
    nbytes: int
    backlog: int  # batches that are in the store
    backlog_nbytes: int
    stored: int  # bytes of their extents
    readers: list[tuple[int, int]]  # pid, and the number of the batch it needs next


class Streams(_Message, tag="all-streams"):
    streams: list[StreamState]


class Created(_Message, tag="created"):
    id: int


class Found(_Message, tag="found"):
    id: int


class Moved(_Message, tag="moved"):
    """What the name pointed to before."""

    id: int | None


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
    persisted: bool = False
    is_global: bool = False
    lost: list[int] = []  # members that are no longer in the cluster
    data: bytes = b""  # the messages of an object that is not here


class Objects(_Message, tag="listed"):
    objects: list[ObjectInfo]
    total: int


class InstanceState(_Message, tag="instance"):
    number: int
    host: str
    pid: int
    socket: str
    rpc: str
    version: str
    lease: int


class Instances(_Message, tag="all-instances"):
    instances: list[InstanceState]


class Extents(_Message, tag="all-extents"):
    """Ascending: offset in the store, bytes, and the objects that use it.

    Batches of streams, and objects that are deleted and still read, are not among those.
    """

    extents: list[tuple[int, int, list[int]]]
    total: int


class ClientInfo(_Message, tag="client"):
    """A client that is attached, in `Status`. Sizes are in bytes.

    Attributes
    ----------
    client : int
        Its number, while it is attached.
    pid : int
    program : str
    sealed, unsealed, warm : int
        Of its segment: in objects, being written, and free but kept for the next put.
    charged : int
        Its credit: what counts against the limit on its behalf.
    pins : int
        Holds on objects.
    """

    client: int
    pid: int
    program: str
    sealed: int
    unsealed: int
    warm: int
    charged: int
    pins: int


class SegmentInfo(_Message, tag="place"):
    """A segment, in `Status`. Sizes are in bytes.

    Attributes
    ----------
    segment : int
        Its number.
    kind : {"catalog", "lease", "strict"}
        Metadata, payload of a writer, or one object that was put with ``seal="strict"``.
    owner : int or None
        Number of the client that writes it.
    offset : int
        Where it begins in the store's address space.
    sealed, committed : int
        In objects; of pages in memory.
    extents : int
        Ranges of pages that objects lie in.
    """

    segment: int
    kind: str
    owner: int | None
    offset: int
    sealed: int
    committed: int
    extents: int


class Status(_Message, tag="state"):
    """What `Client.status` gives: figures of a daemon. Sizes are in bytes.

    Attributes
    ----------
    instance, pid : int
        Number of the instance, and its daemon's process.
    version : str
        Of this package, there.
    uptime_s : float
    memory_limit : int
        Most that data may take.
    memory_used : int
        By objects, and by what is being written.
    memory_committed : int
        Pages in memory.
    memory_charged : int
        Promised to writers and objects; never more than the limit.
    memory_warm : int
        Free, and kept for the next put.
    metadata_used : int
    objects, names : int
    deleted_pinned : int
        Objects that are deleted and still read.
    puts : int
        Objects put so far.
    copied, gathered, shared : int
        How their payload came; see `ObjectMeta`.
    page_kind, protection : str
        What the memory is made of, and what keeps readers from writing to it.
    clients : list of ClientInfo
    segments : list of SegmentInfo
    blocks, block_nbytes : int
        Of shared memory: those with a name, and those somebody still has open.
    streams, stream_batches, stream_nbytes : int
        Streams, and what is of them in the store; batches are not among the objects.
    rpc, dashboard : str
        Where the store is served over TCP, and shown by HTTP, or why it is not at the moment.
    meta : str
        Where the metadata of the cluster is.
    cluster_instances : int
        In the cluster, as far as this one has heard.
    fenced_s : float or None
        For how long this instance has been counted out.
    unavailable_s : float or None
        For how long the cluster's metadata was not reached.
    """

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
    blocks: int
    block_nbytes: int
    streams: int
    stream_batches: int
    stream_nbytes: int
    rpc: str = ""
    meta: str = ""
    cluster_instances: int = 0
    fenced_s: float | None = None
    unavailable_s: float | None = None
    dashboard: str = ""

    @property
    def fenced(self) -> bool:
        """Whether the cluster counted this instance out, or must have done so by now."""
        return self.fenced_s is not None


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
    | Persist
    | CreateGlobal
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
    | CreateStream
    | OpenStream
    | NextBatches
    | AwaitRoom
    | EndStream
    | DropStream
    | ListStreams
    | ListInstances
    | ListExtents
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
    | Opened
    | Batches
    | StreamState
    | Streams
    | Created
    | Found
    | Moved
    | Names
    | Objects
    | ObjectInfo
    | Instances
    | Extents
    | Status
    | Done
    | Retired
    | Failure
)

# How many descriptors travel with a reply; Segments brings as many as it names.
DESCRIPTORS: dict[type, int] = {Welcome: 4, Leased: 2, Segment: 1, Forked: 3, Block: 2}


def _plainer(value: Any) -> Any:
    """What msgpack has for a number or mapping of another library or of a subclass."""
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"got {type(value).__name__}")


_encoder = msgspec.msgpack.Encoder(enc_hook=_plainer)
_request_decoder = msgspec.msgpack.Decoder(Request)
_reply_decoder = msgspec.msgpack.Decoder(Reply)
_put_decoder = msgspec.msgpack.Decoder(Put)


def encode_body(message: Any) -> bytes:
    """A message without a frame."""
    try:
        return _encoder.encode(message)
    except UnicodeEncodeError as error:
        raise InvalidObjectError(f"{error.object!r} is not valid Unicode") from None
    except (TypeError, OverflowError) as error:
        raise InvalidObjectError(f"{_unsaid(message)}: {error}") from None


def _unsaid(message: Any) -> str:
    """The first field that cannot be encoded."""
    for field in message.__struct_fields__:
        try:
            _encoder.encode(getattr(message, field))
        except (TypeError, OverflowError):
            return str(field)
    return type(message).__name__


def decode_put(body: bytes) -> Put:
    """A put found in an outbox; ProtocolError if it is none."""
    try:
        return _put_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"not a put: {error}") from None


def encode(number: int, message: Any) -> bytes:
    """A frame."""
    return _frame(number, encode_body(message))


def encode_request(number: int, message: Any) -> bytes:
    """A frame that the daemon can read: it hangs up on any other.

    A put, which may be large and has no argument of a user's that is not checked, is spared.

    Raises
    ------
    InvalidObjectError
        If a field has a value of another type: says which.
    """
    return _frame(number, encode_checked(message))


def encode_checked(message: Any) -> bytes:
    """A request without a frame, see `encode_request`."""
    body = encode_body(message)
    if type(message) is not Put:
        try:
            _request_decoder.decode(body)
        except msgspec.ValidationError as error:
            what, _, where = str(error).replace("`", "").partition(" - at ")
            place = re.search(r"\$\[(\d+)\]", where)
            field = message.__struct_fields__[int(place[1]) - 1] if place else where
            raise InvalidObjectError(f"{field}: {what[:1].lower()}{what[1:]}") from None
    return body


def _frame(number: int, body: bytes) -> bytes:
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
