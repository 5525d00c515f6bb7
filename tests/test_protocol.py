"""Whatever a peer sends: the daemon lives on and innocent clients see the right bytes.

`Wire` is a client of the bare protocol, made of the messages alone.
"""

from __future__ import annotations

import array
import contextlib
import os
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from conftest import stopped
from hypothesis import given, settings
from hypothesis import strategies as st

from vineyard_arrow.client import Client
from vineyard_arrow.errors import (
    ConnectionLostError,
    DeadlineExceededError,
    ObjectNotFoundError,
    ProtocolError,
    VineyardArrowError,
)
from vineyard_arrow.ipc import protocol as p
from vineyard_arrow.ipc.connection import Connection
from vineyard_arrow.ipc.server import accept_all

PAGE = 4096
U64 = (1 << 64) - 1
DEADLINE_S = 60.0


class Wire:
    """A raw connection; everything it sends is up to the test."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(DEADLINE_S)
        self.sock.connect(os.fspath(path))
        self.frames = p.FrameReader(requests=False)
        self.number = 0
        self.fds: list[int] = []

    def send(self, message: Any) -> None:
        self.number += 1
        self.sock.sendall(p.encode(self.number, message))

    def frame(self, value: Any) -> None:
        """Send any msgpack value as a frame."""
        self.raw_frame(msgspec.msgpack.encode(value))

    def raw_frame(self, body: bytes) -> None:
        self.number += 1
        self.sock.sendall(p.HEADER.pack(len(body), self.number) + body)

    def receive(self) -> tuple[int, Any]:
        """The next message; ConnectionError at the end of the stream."""
        while True:
            data, ancillary, _, _ = self.sock.recvmsg(1 << 16, socket.CMSG_SPACE(64))
            for _, _, payload in ancillary:
                fds = array.array("i")
                fds.frombytes(payload)
                self.fds += fds
            if not data:
                raise ConnectionError
            for found in self.frames.feed(data):
                return found

    def request(self, message: Any) -> Any:
        self.send(message)
        return self.answer()

    def answer(self) -> Any:
        number, reply = self.receive()
        assert number == self.number
        return reply

    def is_cut(self) -> bool:
        """Whether the daemon closes this connection."""
        try:
            while True:
                self.receive()
        except ConnectionError:
            return True
        except TimeoutError:
            return False

    def hello(self) -> p.Welcome:
        welcome = self.request(p.Hello(p.VERSION, os.getpid(), "wire"))
        assert isinstance(welcome, p.Welcome)
        self.ids = iter(range(welcome.ids[0], sum(welcome.ids)))
        return welcome

    def lease(self) -> p.Leased:
        leased = self.request(p.LeaseSegment())
        assert isinstance(leased, p.Leased)
        self.leased, self.rw_fd = leased, self.fds[-2]
        self.at = leased.free[0][0]  # an adopted segment may hold others' objects
        return leased

    def write(self, offset: int, data: bytes) -> None:
        """Put bytes at an offset of the store, which must be of the own segment."""
        assert os.pwrite(self.rw_fd, data, offset - self.leased.offset) == len(data)

    def item(self, streams: bytes, claims: list[p.Extent], **fields: Any) -> p.PutItem:
        item = p.PutItem(next(self.ids), "vineyard.table", streams, claims, 0, 0, 0, 0, 0)
        for name, value in fields.items():
            setattr(item, name, value)
        return item

    def close(self) -> None:
        self.sock.close()
        while self.fds:
            os.close(self.fds.pop())

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def message(metadata: bytes) -> bytes:
    """The encapsulated form of an IPC message without its body."""
    padded = metadata + b"\0" * (-len(metadata) % 8)
    return struct.pack("<II", 0xFFFFFFFF, len(padded)) + padded


def stream_of(*buffers: tuple[int, int]) -> bytes:
    """A part with one int64 column whose chunks lie at these (offset, nbytes) of the store."""
    schema = pa.schema([("x", pa.int64())])
    out = message(bytes(pa.ipc.read_message(schema.serialize()).metadata))
    for offset, nbytes in buffers:
        # A length that no other field has, to be found and patched in the flatbuffer.
        batch = pa.record_batch([pa.array(range(999), pa.int64())], schema=schema)
        metadata = bytearray(pa.ipc.read_message(batch.serialize()).metadata)
        old = struct.pack("<qqqq", 0, 0, 0, 999 * 8)
        assert metadata.count(old) == 1
        at = metadata.index(old)
        metadata[at : at + 32] = struct.pack("<qqqq", 0, 0, offset, nbytes)
        rows = struct.pack("<q", 999)
        bounded = nbytes // 8 if 0 <= nbytes < 1 << 40 else 0
        metadata = metadata.replace(rows, struct.pack("<q", bounded))
        out += message(bytes(metadata))
    return out + struct.pack("<II", 0xFFFFFFFF, 0)


@pytest.fixture
def innocent(client: Client) -> Iterator[Client]:
    """A client with data in the store, which must come to no harm."""
    table = pa.table({"x": range(100_000), "s": [str(i) for i in range(100_000)]})
    kept = client.put(table, name="innocent")
    yield client
    other = client.put(table.slice(5))
    assert client.get(kept).equals(table)
    assert client.get("innocent", mode="copy").equals(table)
    assert client.get(other).equals(table.slice(5))
    assert [m.names for m in client.list_objects()] != []
    status = client.status()
    assert status.memory_used == sum(s.sealed for s in status.segments) + sum(
        c.unsealed for c in status.clients
    )


@pytest.fixture
def wire(innocent: Client, daemon: Any) -> Iterator[Wire]:
    with Wire(daemon.socket) as wire:
        yield wire


# ---- frames, without a socket


MESSAGES = [
    p.Hello(1, 2, "name"),
    p.GetStatus(),
    p.Put([p.PutItem(1, "t", b"abc", [(0, 4096)], 1, 2, 3, 4, 5, "n", None)]),
    p.Delete([1, 2, 3]),
    p.Find(None, "naïve", 0.5),
]


def frames_of(messages: list[Any]) -> bytes:
    return b"".join(p.encode(n, m) for n, m in enumerate(messages, 1))


def test_frames_come_out_alike_in_any_pieces() -> None:
    data = frames_of(MESSAGES)
    for step in (1, 2, 3, 7, 64, len(data)):
        reader = p.FrameReader(requests=True)
        got = [f for i in range(0, len(data), step) for f in reader.feed(data[i : i + step])]
        assert got == list(enumerate(MESSAGES, 1))


def test_a_truncated_frame_gives_nothing_and_waits() -> None:
    data = frames_of(MESSAGES[2:3])
    for end in range(len(data)):
        reader = p.FrameReader(requests=True)
        assert list(reader.feed(data[:end])) == []
        assert list(reader.feed(data[end:])) == [(1, MESSAGES[2])]


def test_replies_and_requests_are_not_mixed_up() -> None:
    with pytest.raises(ProtocolError):
        list(p.FrameReader(requests=True).feed(p.encode(1, p.Done())))
    with pytest.raises(ProtocolError):
        list(p.FrameReader(requests=False).feed(p.encode(1, p.Clear())))


def body(value: Any) -> bytes:
    return msgspec.msgpack.encode(value)


GARBAGE = {
    "empty": b"",
    "reserved byte": b"\xc1",
    "random": random.Random(1).randbytes(300),
    "cut short": body(["find", 1, None])[:-1],
    "not an array": body({"find": 1}),
    "no tag": body([1, 2, 3]),
    "unknown tag": body(["launch", 1]),
    "a reply": body(["done"]),
    "too few fields": body(["hello", 1]),
    "wrong types": body(["hello", "one", "two", 3]),
    "float for int": body(["delete", [1.5]]),
    "null for list": body(["put", None]),
    "bad UTF-8": b"\x92\xa9drop-name\xa2\xff\xfe",
    "lying array length": b"\x92\xa6delete\xdd\xff\xff\xff\xff",
    "lying string length": b"\x92\xa9drop-name\xdb\xff\xff\xff\xff",
    "deep nesting": b"\x92\xa5clear" + b"\x91" * 200_000 + b"\xc0",
    "negative id": body(["delete", [-1]]),
    "negative find": body(["find", -1, None, 0.0]),
    "negative describe": body(["describe", -1]),
}


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_in_a_frame_is_a_protocol_error(kind: str) -> None:
    frame = p.HEADER.pack(len(GARBAGE[kind]), 7) + GARBAGE[kind]
    with pytest.raises(ProtocolError):
        list(p.FrameReader(requests=True).feed(frame))


def test_an_oversized_frame_is_refused_by_its_header() -> None:
    with pytest.raises(ProtocolError, match="over the limit"):
        list(p.FrameReader(requests=True).feed(p.HEADER.pack(0xFFFFFFFF, 1)))


@settings(derandomize=True, deadline=None, max_examples=300, database=None)
@given(st.binary(max_size=200))
def test_any_bytes_give_messages_or_a_protocol_error(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        for _ in p.FrameReader(requests=True).feed(p.HEADER.pack(len(data), 1) + data):
            pass


# ---- garbage on the socket


@pytest.mark.parametrize("kind", GARBAGE)
@pytest.mark.parametrize("attached", [False, True], ids=["stranger", "attached"])
def test_garbage_cuts_off_its_sender(wire: Wire, kind: str, attached: bool) -> None:
    if attached:
        wire.hello()
        wire.lease()
    wire.raw_frame(GARBAGE[kind])
    number, reply = wire.receive()
    assert (number, type(reply)) == (p.UNASKED, p.Failure)
    assert reply.code == "protocol"
    assert wire.is_cut()


def test_an_oversized_header_cuts_off_its_sender(wire: Wire) -> None:
    wire.sock.sendall(p.HEADER.pack(0xFFFFFFFF, 1))
    assert wire.is_cut()


def test_requests_bytes_at_a_time(wire: Wire) -> None:
    for byte in p.encode(1, p.Hello(p.VERSION, 1, "slow")) + p.encode(2, p.GetStatus()):
        wire.sock.sendall(bytes([byte]))
    assert isinstance(wire.receive()[1], p.Welcome)
    assert wire.receive()[0] == 2


def test_requests_in_one_piece_are_answered_in_order(wire: Wire) -> None:
    wire.sock.sendall(b"".join(p.encode(n, p.GetStatus()) for n in range(1, 51)))
    got = p.FrameReader(requests=False)
    numbers: list[int] = []
    while len(numbers) < 50:
        numbers += [n for n, _ in got.feed(wire.sock.recv(1 << 16))]
    assert numbers == list(range(1, 51))


def test_half_a_frame_then_the_end(wire: Wire, daemon: Any) -> None:
    wire.hello()
    wire.lease()
    wire.sock.sendall(p.encode(9, p.Find(None, "x" * 1000, 1.0))[:500])
    wire.close()
    wire.fds.clear()
    assert len(daemon.status().clients) == 1


def test_a_client_that_says_nothing_disturbs_nobody(daemon: Any, innocent: Client) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(Wire(daemon.socket))
        assert innocent.status().objects == 1


def test_200_connections_opened_and_closed(daemon: Any, innocent: Client) -> None:
    fds = daemon.fds
    for i in range(200):
        with Wire(daemon.socket) as wire:
            if i % 4 == 1:
                wire.hello()
            elif i % 4 == 2:
                wire.hello()
                wire.lease()
            elif i % 4 == 3:
                wire.send(p.Hello(p.VERSION, 1, "gone before the answer"))
    assert daemon.fds == fds
    assert len(innocent.status().clients) == 1


def test_a_client_that_never_reads_is_cut_off(daemon: Any, innocent: Client) -> None:
    """Its replies pile up to a limit; others are served meanwhile."""
    innocent.put_many(list(range(500)), names=[f"{i:0200}" for i in range(500)])
    with Wire(daemon.socket) as wire:
        count = 20_000
        wire.sock.sendall(p.encode(1, p.ListNames("*")) * count)
        reply = len(p.encode(1, p.Names({f"{i:0200}": 1 << 60 for i in range(500)})))
        received = 0
        while data := wire.sock.recv(1 << 20):  # what was sent before, then the end
            received += len(data)
        assert received < count * reply // 2
        assert innocent.status().objects == 501
    assert len(daemon.status().clients) == 1


def test_uninvited_descriptors_do_not_stay_in_the_daemon(daemon: Any, wire: Wire) -> None:
    fds = daemon.fds
    rights = array.array("i", [wire.sock.fileno()] * 50)
    for n in range(1, 21):
        frame = p.encode(n, p.GetStatus())
        wire.sock.sendmsg([frame], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        assert wire.receive()[0] == n
    assert daemon.fds == fds


# ---- order of messages


@pytest.mark.parametrize(
    "early",
    [
        p.LeaseSegment(),
        p.GetSegments(1),
        p.MakeStrict(4096),
        p.Put([]),
        p.Delete([]),
        p.PutName("n", 1),
        p.DropName("innocent"),
        p.Describe(1),
        p.LeaseIds(),
        p.Fork([]),
    ],
    ids=lambda m: type(m).__name__,
)
def test_requests_before_hello_are_refused(wire: Wire, early: Any) -> None:
    reply = wire.request(early)
    assert isinstance(reply, p.Failure)
    assert reply.code == "protocol"
    wire.hello()


def test_a_second_hello_is_refused(wire: Wire) -> None:
    wire.hello()
    reply = wire.request(p.Hello(p.VERSION, 1, "again"))
    assert (type(reply), reply.code) == (p.Failure, "protocol")
    wire.lease()


@pytest.mark.parametrize("version", [0, p.VERSION - 1, -1, U64])
def test_another_version_is_named_and_refused(wire: Wire, version: int) -> None:
    reply = wire.request(p.Hello(version, 1, "other"))
    assert (type(reply), reply.code) == (p.Failure, "protocol")
    assert str(version) in reply.message
    assert str(p.VERSION) in reply.message


def test_a_second_lease_is_refused(wire: Wire) -> None:
    wire.hello()
    wire.lease()
    assert wire.request(p.LeaseSegment()).code == "protocol"


def test_unknown_things(wire: Wire) -> None:
    wire.hello()
    for segment in (0, 10**6, U64, -1):
        assert wire.request(p.GetSegments(segment)).code == "not-found"
    for key in (0, U64):
        assert wire.request(p.Delete([key])).code == "not-found"
        assert wire.request(p.Describe(key)).code == "not-found"
        assert wire.request(p.Find(key, None, 0.0)).code == "not-found"
        assert wire.request(p.PutName("x", key)).code == "not-found"
    assert wire.request(p.DropName("none")).code == "not-found"
    assert wire.request(p.Find(None, None, 0.0)).code == "protocol"
    assert wire.request(p.PutName("", 1)).code == "invalid"
    assert wire.request(p.PutName("x" * 5000, 1)).code == "invalid"
    assert isinstance(wire.request(p.ListObjects("*", -5)), p.Objects)
    assert isinstance(wire.request(p.ListObjects("*", U64)), p.Objects)
    for pattern in ("[", "[]", "[!]", "[z-a]", "*" * 200, "\\", "(?"):
        assert isinstance(wire.request(p.ListObjects(pattern, 5)), p.Objects)
        assert isinstance(wire.request(p.ListNames(pattern)), p.Names)


@pytest.mark.parametrize("timeout_s", [float("nan"), float("inf"), 1e300, -1.0, float("-inf")])
def test_odd_timeouts_of_a_wait(daemon: Any, wire: Wire, timeout_s: float) -> None:
    """They end at once or wait, and no other timer stops for them."""
    wire.send(p.Find(None, "never", timeout_s))
    with Wire(daemon.socket) as other:
        assert other.request(p.Find(None, "never either", 0.02)).code == "deadline"
    if timeout_s > 0:
        assert isinstance(wire.request(p.GetStatus()), p.Status)
    else:
        assert wire.answer().code in ("not-found", "deadline", "protocol")


# ---- sizes that are none


@pytest.mark.parametrize("nbytes", [0, -1, -(1 << 63), U64, 1 << 62, 2 << 30])
def test_a_strict_file_of_no_possible_size(wire: Wire, daemon: Any, nbytes: int) -> None:
    wire.hello()
    charged = daemon.status().memory_charged
    assert wire.request(p.MakeStrict(nbytes)).code in ("invalid", "store-full", "protocol")
    assert daemon.status().memory_charged <= charged  # unused credit may have been taken back


BAD_CLAIMS: dict[str, Callable[[Wire], list[p.Extent]]] = {
    "outside of the store": lambda w: [(1 << 62, PAGE)],
    "past 64 bits": lambda w: [(U64 - PAGE + 1, PAGE)],
    "in the catalog": lambda w: [(0, PAGE)],
    "before the lease": lambda w: [(w.leased.offset - PAGE, PAGE)],
    "after the lease": lambda w: [(w.leased.offset + w.leased.nbytes, PAGE)],
    "over its end": lambda w: [(w.leased.offset + w.leased.nbytes - PAGE, 2 * PAGE)],
    "unaligned": lambda w: [(w.at + 64, PAGE)],
    "unaligned size": lambda w: [(w.at, PAGE + 1)],
    "empty": lambda w: [(w.at, 0)],
    "negative": lambda w: [(w.at + PAGE, -PAGE)],
    "negative offset": lambda w: [(-PAGE, PAGE)],
    "huge": lambda w: [(w.at, U64 - PAGE + 1)],
    "twice": lambda w: [(w.at, PAGE), (w.at, PAGE)],
    "overlapping": lambda w: [(w.at, 2 * PAGE), (w.at + PAGE, PAGE)],
    "of nobody's use": lambda w: [(w.at, PAGE), (w.at + PAGE, PAGE)],
}


def check_refused(wire: Wire, put: p.Put) -> p.Failure:
    """The put leaves nothing behind, and a right one succeeds at the same place."""
    before = wire.request(p.GetStatus())
    reply = wire.request(put)
    assert isinstance(reply, p.Failure), reply
    assert reply.code == "invalid"
    assert "internal" not in reply.message
    after = wire.request(p.GetStatus())
    for figure in ("objects", "names", "memory_used", "memory_charged", "metadata_used", "puts"):
        assert getattr(after, figure) == getattr(before, figure), figure
    return reply


def put_well(wire: Wire, daemon: Any, at: int, data: bytes) -> int:
    """Put ``data`` at ``at`` of the own segment, and have somebody else read it."""
    wire.write(at, data)
    nbytes = -(-len(data) // PAGE) * PAGE
    item = wire.item(stream_of((at, len(data))), [(at, nbytes)], nbytes=len(data))
    assert wire.request(p.Put([item])) == p.Done()
    with daemon.connect() as reader:
        assert bytes(reader.get(item.id)["x"].chunk(0).buffers()[1]) == data
    return item.id


@pytest.mark.parametrize("kind", BAD_CLAIMS)
def test_bad_claims_are_refused_whole(wire: Wire, daemon: Any, kind: str) -> None:
    wire.hello()
    wire.lease()
    bad = BAD_CLAIMS[kind](wire)
    check_refused(wire, p.Put([wire.item(stream_of((wire.at, 800)), bad, name="half")]))
    put_well(wire, daemon, wire.at, os.urandom(PAGE))


def replace_item(item: p.PutItem, **fields: Any) -> p.PutItem:
    return msgspec.structs.replace(item, **fields)


def test_extents_of_another_client(wire: Wire, daemon: Any) -> None:
    """Neither claimed, nor used while they are not sealed."""
    wire.hello()
    wire.lease()
    with Wire(daemon.socket) as other:
        other.hello()
        other.lease()
        at = other.at
        check_refused(wire, p.Put([wire.item(stream_of((at, 800)), [(at, PAGE)])]))
        check_refused(wire, p.Put([wire.item(stream_of((at, 800)), [])]))
        data = os.urandom(800)
        put_well(other, daemon, at, data)
        # Sealed memory is everybody's to use, but not to claim.
        check_refused(wire, p.Put([wire.item(stream_of((at, 800)), [(at, PAGE)])]))
        shared = wire.item(stream_of((at, 800)), [])
        assert wire.request(p.Put([shared])) == p.Done()
    put_well(wire, daemon, wire.at, b"mine    ")
    with daemon.connect() as reader:
        assert bytes(reader.get(shared.id)["x"].chunk(0).buffers()[1]) == data


def test_a_sealed_extent_is_not_claimed_again(wire: Wire, daemon: Any) -> None:
    wire.hello()
    wire.lease()
    at = wire.at
    put_well(wire, daemon, at, b"8 bytes.")
    for claims in ([(at, PAGE)], [(at, 2 * PAGE)]):
        check_refused(wire, p.Put([wire.item(stream_of((at, 8)), claims)]))


BAD_BUFFERS = {
    "outside of the store": (1 << 55, 8),
    "past 63 bits": ((1 << 63) - 8, 8),
    "negative offset": (-8, 8),
    "negative length": (0, -8),
    "endless": (0, (1 << 63) - 1),
    "in the catalog": (0, 8),
    "no segment there": (1 << 41, 8),
}


@pytest.mark.parametrize("kind", BAD_BUFFERS)
def test_buffers_that_lie_nowhere(wire: Wire, daemon: Any, kind: str) -> None:
    wire.hello()
    wire.lease()
    at = wire.at
    check_refused(wire, p.Put([wire.item(stream_of(BAD_BUFFERS[kind]), [])]))
    mixed = wire.item(stream_of((at, 8), BAD_BUFFERS[kind]), [(at, PAGE)])
    check_refused(wire, p.Put([mixed]))
    put_well(wire, daemon, at, b"8 bytes.")


def test_buffers_that_end_outside_of_their_extent(wire: Wire, daemon: Any) -> None:
    wire.hello()
    wire.lease()
    at = wire.at
    check_refused(wire, p.Put([wire.item(stream_of((at, PAGE + 8)), [(at, PAGE)])]))
    check_refused(wire, p.Put([wire.item(stream_of((at - 8, 16)), [(at, PAGE)])]))
    put_well(wire, daemon, at, b"8 bytes.")


FIGURES = ("nbytes", "copied", "gathered", "shared")


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.parametrize("value", [-1, 1 << 63, U64])
def test_figures_that_do_not_fit(wire: Wire, daemon: Any, figure: str, value: int) -> None:
    """No figure of a client breaks the daemon's own, nor leaves the put half done."""
    wire.hello()
    wire.lease()
    at = wire.at
    item = wire.item(stream_of((at, 8)), [(at, PAGE)], **{figure: value})
    before = daemon.status()
    wire.send(p.Put([item]))
    assert wire.receive()[1].code in ("invalid", "protocol")
    after = daemon.status()
    assert (after.memory_used, after.objects) == (before.memory_used, before.objects)
    with Wire(daemon.socket) as other:
        other.hello()
        other.lease()
        put_well(other, daemon, other.at, b"8 bytes.")
        assert isinstance(other.request(p.GetStatus()), p.Status)


def test_figures_cannot_add_up_to_too_much(wire: Wire, daemon: Any) -> None:
    wire.hello()
    wire.lease()
    at = wire.at
    put_well(wire, daemon, at, b"8 bytes.")
    most = (1 << 63) - 1
    for _ in range(3):
        item = wire.item(stream_of((at, 8)), [], copied=most, gathered=most, shared=most)
        assert isinstance(wire.request(p.Put([item])), p.Done | p.Failure)
    assert isinstance(wire.request(p.GetStatus()), p.Status)


def test_ids_that_are_not_the_callers(wire: Wire, daemon: Any) -> None:
    wire.hello()
    wire.lease()
    at = wire.at
    with Wire(daemon.socket) as other:
        other.hello()
        for object_id in (0, U64, next(other.ids)):
            item = wire.item(stream_of((at, 8)), [(at, PAGE)], id=object_id)
            check_refused(wire, p.Put([item]))
    same = wire.item(stream_of((at, 8)), [(at, PAGE)])
    reply = wire.request(p.Put([same, replace_item(same, claims=[])]))
    assert (type(reply), reply.code) == (p.Failure, "exists")
    put_well(wire, daemon, at, b"8 bytes.")


def test_a_put_sent_again_is_refused_and_harmless(wire: Wire, daemon: Any) -> None:
    wire.hello()
    wire.lease()
    at = wire.at
    wire.write(at, b"8 bytes.")
    put = p.Put([wire.item(stream_of((at, 8)), [(at, PAGE)], name="once")])
    frame = p.encode(5, put)
    wire.sock.sendall(frame * 3)
    replies: list[tuple[int, Any]] = []
    while len(replies) < 3:
        replies += wire.frames.feed(wire.sock.recv(1 << 16))
    assert replies[0] == (5, p.Done())
    assert [r.code for _, r in replies[1:]] == ["exists", "exists"]
    with daemon.connect() as reader:
        assert bytes(reader.get("once")["x"].chunk(0).buffers()[1]) == b"8 bytes."


def test_replayed_after_a_delete_is_refused(wire: Wire, daemon: Any) -> None:
    """The extent may be somebody else's by then: the claim must be checked anew."""
    wire.hello()
    wire.lease()
    at = wire.at
    object_id = put_well(wire, daemon, at, b"8 bytes.")
    with daemon.connect() as reader:
        pinned = reader.get(object_id)
        assert wire.request(p.Delete([object_id])) == p.Done()
        again = p.PutItem(object_id, "t", stream_of((at, 8)), [(at, PAGE)], 8, 0, 0, 0, 0)
        assert wire.request(p.Put([again])).code == "invalid"
        assert pinned["x"].to_pylist() == [int.from_bytes(b"8 bytes.", "little")]
        del pinned


# ---- strict segments


def test_the_strict_file_of_another_client(wire: Wire, daemon: Any) -> None:
    """It is neither sealed nor dropped by anybody else."""
    wire.hello()
    with Wire(daemon.socket) as owner:
        owner.hello()
        segment = owner.request(p.MakeStrict(PAGE))
        os.pwrite(owner.fds[-1], b"8 bytes.", 0)
        for _ in range(2):
            item = wire.item(stream_of((segment.offset, 8)), [], strict=segment.segment)
            check_refused(wire, p.Put([item]))
        mine = owner.item(stream_of((segment.offset, 8)), [], strict=segment.segment)
        assert owner.request(p.Put([mine])) == p.Done()
        check_refused(wire, p.Put([wire.item(b"", [], strict=segment.segment)]))
    with daemon.connect() as reader:
        assert bytes(reader.get(mine.id)["x"].chunk(0).buffers()[1]) == b"8 bytes."


@pytest.mark.parametrize("segment", [0, 1, 10**6, U64, -1])
def test_strict_segments_that_are_none(wire: Wire, segment: int) -> None:
    wire.hello()
    wire.lease()
    at = wire.at
    item = wire.item(stream_of((at, 8)), [(at, PAGE)], strict=segment)
    check_refused(wire, p.Put([item]))


def test_a_strict_file_of_nobodys_use(wire: Wire, daemon: Any) -> None:
    wire.hello()
    wire.lease()
    charged = daemon.status().memory_charged
    segment = wire.request(p.MakeStrict(PAGE))
    item = wire.item(stream_of((wire.at, 8)), [(wire.at, PAGE)], strict=segment.segment)
    assert wire.request(p.Put([item])) == p.Done()
    assert daemon.status().memory_charged == charged
    assert not [s for s in daemon.status().segments if s.kind == "strict"]
    put_well(wire, daemon, wire.at + PAGE, b"8 bytes.")


def test_one_strict_file_for_two_objects(wire: Wire, daemon: Any) -> None:
    wire.hello()
    segment = wire.request(p.MakeStrict(PAGE))
    streams = stream_of((segment.offset, 8))
    items = [wire.item(streams, [], strict=segment.segment) for _ in range(2)]
    charged = daemon.status().memory_charged
    assert wire.request(p.Put(items)).code == "invalid"
    status = daemon.status()
    assert status.memory_charged == charged - PAGE
    assert not [s for s in status.segments if s.kind == "strict"]


@pytest.mark.parametrize("name", ["innocent", ""], ids=["taken", "empty"])
def test_a_strict_put_that_fails_gives_its_file_back(
    wire: Wire, innocent: Client, name: str
) -> None:
    charged = innocent.status().memory_charged
    with pytest.raises(ValueError):
        innocent.put(b"x" * 100_000, name=name, seal="strict")
    assert innocent.status().memory_charged == charged


def test_a_strict_file_cannot_shrink_under_its_readers(wire: Wire, daemon: Any) -> None:
    """A reader would die of SIGBUS."""
    wire.hello()
    segment = wire.request(p.MakeStrict(16 * PAGE))
    with contextlib.suppress(OSError):
        os.ftruncate(wire.fds[-1], 0)
    item = wire.item(stream_of((segment.offset, 16 * PAGE)), [], strict=segment.segment)
    reply = wire.request(p.Put([item]))
    if reply == p.Done():
        assert os.fstat(wire.fds[-1]).st_size == 16 * PAGE
    else:
        assert reply.code == "invalid"


def test_a_client_table_cannot_shrink_under_the_daemon(wire: Wire, daemon: Any) -> None:
    """The daemon would die of SIGBUS at the next look at the pins."""
    wire.hello()
    table_fd = wire.fds[1]
    with contextlib.suppress(OSError):
        os.ftruncate(table_fd, 0)
    assert os.fstat(table_fd).st_size > PAGE
    assert isinstance(wire.request(p.GetStatus()), p.Status)


def test_no_shared_file_is_open_to_reopening_by_others(wire: Wire) -> None:
    """A descriptor that was passed can be reopened through /proc as the mode allows."""
    wire.hello()
    index_fd, _table, _event, catalog_fd = wire.fds
    assert os.fstat(index_fd).st_mode & 0o022 == 0
    assert os.fstat(catalog_fd).st_mode & 0o022 == 0
    for fd in (index_fd, catalog_fd):
        with pytest.raises(OSError):
            os.pwrite(fd, b"x", 0)


# ---- damaged metadata


def valid_stream(at: int) -> bytes:
    return stream_of((at, 80), (at + 128, 80), (at, 800))


@pytest.mark.parametrize("seed", range(4))
def test_damaged_metadata_harms_nobody(
    daemon: Any, wire: Wire, innocent: Client, seed: int
) -> None:
    """Flipped, cut and spliced bytes of a valid stream: refused or stored, never fatal."""
    rng = random.Random(seed)
    wire.hello()
    wire.lease()
    at = wire.at
    put_well(wire, daemon, at, os.urandom(PAGE))
    good = valid_stream(at)
    stored: list[int] = []
    for _ in range(250):
        streams = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            kind, i = rng.randrange(4), rng.randrange(len(streams))
            if kind == 0:
                streams[i] ^= 1 << rng.randrange(8)
            elif kind == 1:
                streams[i : i + 4] = rng.choice([b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f"])
            elif kind == 2:
                del streams[max(i, 8) :]
            else:
                streams[i:i] = streams[rng.randrange(len(streams)) :][: rng.randrange(64)]
        item = wire.item(bytes(streams), [])
        reply = wire.request(p.Put([item]))
        if reply == p.Done():
            stored.append(item.id)
        else:
            assert reply.code == "invalid", reply
    # Nobody's list stops at a damaged object, and all can be deleted.
    assert len(innocent.list_objects()) == 2 + len(stored)
    innocent.delete(stored)
    assert innocent.status().objects == 2


@settings(derandomize=True, deadline=None, max_examples=500, database=None)
@given(st.binary(max_size=300))
def test_any_bytes_as_metadata(data: bytes) -> None:
    from vineyard_arrow.ipc import _core

    with contextlib.suppress(RuntimeError):
        for offset, nbytes in _core.buffer_ranges(data, 1 << 42):
            assert 0 <= offset <= offset + nbytes <= 1 << 42


def test_a_damaged_object_is_one_clear_error_to_its_reader(wire: Wire, innocent: Client) -> None:
    wire.hello()
    schema = pa.schema([("x", pa.int64())], {"vineyard.params": "{not json"})
    schemas = {
        "params": message(bytes(pa.ipc.read_message(schema.serialize()).metadata)),
        "type": message(
            bytes(
                pa.ipc.read_message(
                    pa.schema([], {b"vineyard.type": b"\xff\xfe"}).serialize()
                ).metadata
            )
        ),
        "zeros": message(b"\0" * 64),
        "no end": message(bytes(pa.ipc.read_message(pa.schema([]).serialize()).metadata)),
    }
    end = struct.pack("<II", 0xFFFFFFFF, 0)
    for kind, streams in schemas.items():
        item = wire.item(streams + (b"" if kind == "no end" else end), [])
        reply = wire.request(p.Put([item]))
        if reply == p.Done():
            with pytest.raises(VineyardArrowError):
                innocent.get(item.id)
            with pytest.raises(VineyardArrowError):
                innocent.get_meta(item.id)
            innocent.list_objects()
        else:
            assert reply.code == "invalid", kind


# ---- waiting


def test_waiters_that_leave_do_not_disturb_the_put_they_wait_for(
    daemon: Any, innocent: Client
) -> None:
    """The daemon finds out that they are gone in the middle of the put that wakes them."""

    waiting = [Wire(daemon.socket) for _ in range(3)]
    for wire in waiting:
        for _ in range(3):
            wire.send(p.Find(None, "wanted", 60.0))
        wire.send(p.GetStatus())
        wire.receive()
    with Wire(daemon.socket) as writer:
        writer.hello()
        writer.lease()
        at = writer.at
        writer.write(at, b"8 bytes.")
        item = writer.item(stream_of((at, 8)), [(at, PAGE)], name="wanted")
        with stopped(daemon.pid):
            writer.send(p.Put([item]))  # lies before the ends of the others
            for wire in waiting:
                wire.close()
        assert writer.answer() == p.Done()
    assert int(innocent.get_name("wanted")) == item.id
    assert innocent.get("wanted")["x"].to_pylist() == [int.from_bytes(b"8 bytes.", "little")]


def test_a_connection_waits_for_one_thing(daemon: Any, innocent: Client) -> None:
    """A later wait ends an earlier one; others that wait for the same are not concerned."""
    with Wire(daemon.socket) as one, Wire(daemon.socket) as other, Wire(daemon.socket) as third:
        one.send(p.Find(None, "first", 60.0))
        one.send(p.Find(None, "second", 60.0))
        other.send(p.Find(None, "first", 60.0))
        third.send(p.Find(None, "first", 0.01))
        assert third.answer().code == "deadline"
        for wire in (one, other):
            assert isinstance(wire.request(p.GetStatus()), p.Status)  # what came before is read
        first, second = innocent.put(1, name="first"), innocent.put(2)
        assert other.receive() == (1, p.Found(first))
        innocent.put_name(second, "second")
        assert one.receive() == (2, p.Found(second))
        assert isinstance(one.request(p.GetStatus()), p.Status)  # and nothing else has come


def test_a_fork_request_keeps_no_descriptor(daemon: Any, wire: Wire) -> None:
    wire.hello()
    fds, clients = daemon.fds, len(daemon.status().clients)
    for extents in ([], [(0, PAGE)], [(-PAGE, U64), (U64, U64), (1 << 41, -5)]):
        forked = wire.request(p.Fork(extents))
        assert isinstance(forked, p.Forked)
        assert len(daemon.status().clients) == clients + 1
        for _ in range(3):
            os.close(wire.fds.pop())
        assert len(daemon.status().clients) == clients
    assert daemon.fds == fds


def test_an_idle_accept_does_not_stop_the_listener(tmp_path: Path) -> None:
    """Readiness without a connection (it was aborted) is no error."""

    class Loop:
        reader: Any = None
        removed = False

        def add_reader(self, _: Any, ready: Any) -> None:
            self.reader = ready

        def remove_reader(self, _: Any) -> None:
            self.removed = True

        def call_later(self, *_: Any) -> None:
            pass

    loop = Loop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.setblocking(False)
        listener.bind(os.fspath(tmp_path / "s"))
        listener.listen()
        accept_all(loop, listener, lambda sock: sock.close())  # type: ignore[arg-type]
        loop.reader()
    assert not loop.removed


# ---- the client, against daemons that are none


class Fake:
    """The daemon's end of a socket pair, played by a test in a thread."""

    def __init__(self, play: Callable[[socket.socket], None], timeout_s: float = 5.0) -> None:
        ours, theirs = socket.socketpair()
        ours.settimeout(DEADLINE_S)
        self.connection = Connection(theirs, timeout_s)
        self._sock = ours
        self._thread = threading.Thread(target=self._run, args=(play,))
        self.failed: BaseException | None = None

    def _run(self, play: Callable[[socket.socket], None]) -> None:
        try:
            play(self._sock)
        except BaseException as error:
            self.failed = error

    def __enter__(self) -> Connection:
        self._thread.start()
        return self.connection

    def __exit__(self, *_: object) -> None:
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()
        self._sock.close()
        self.connection.close()
        assert self.failed is None


def test_a_daemon_that_answers_garbage() -> None:
    def play(sock: socket.socket) -> None:
        sock.recv(1000)
        sock.sendall(p.HEADER.pack(5, 1) + b"\xc1abcd")

    with Fake(play) as connection:
        with pytest.raises(ConnectionLostError):
            connection.request(p.GetStatus())
        with pytest.raises(ConnectionLostError):
            connection.request(p.GetStatus())


def test_a_daemon_that_answers_an_oversized_frame() -> None:
    def play(sock: socket.socket) -> None:
        sock.recv(1000)
        sock.sendall(p.HEADER.pack(0xFFFFFFFF, 1))

    with Fake(play) as connection, pytest.raises(ConnectionLostError):
        connection.request(p.GetStatus())


def test_a_daemon_that_closes_midway() -> None:
    def play(sock: socket.socket) -> None:
        sock.recv(1000)
        sock.sendall(p.encode(1, p.Found(5))[:-1])
        sock.close()

    with Fake(play) as connection, pytest.raises(ConnectionLostError):
        connection.request(p.GetStatus())


def test_a_daemon_that_answers_nothing_ends_in_the_deadline() -> None:
    with Fake(lambda sock: None, timeout_s=0.2) as connection:
        with pytest.raises(DeadlineExceededError):
            connection.request(p.GetStatus())
        with pytest.raises(DeadlineExceededError):
            connection.request(p.GetStatus(), 0.05)


def test_a_daemon_that_trickles_ends_in_the_deadline() -> None:
    """Every byte comes in time; the answer does not."""
    stop = threading.Event()

    def play(sock: socket.socket) -> None:
        frame = p.encode(1, p.Names({"x" * 10_000: 1}))
        with contextlib.suppress(OSError):
            for byte in frame:
                if stop.wait(0.005):
                    return
                sock.sendall(bytes([byte]))

    with Fake(play, timeout_s=0.2) as connection:
        with pytest.raises(DeadlineExceededError):
            connection.request(p.GetStatus())
        stop.set()


def test_a_daemon_that_stops_reading_ends_in_the_deadline() -> None:
    with Fake(lambda sock: None, timeout_s=0.2) as connection:
        with pytest.raises(DeadlineExceededError):
            connection.request(p.DropName("x" * (8 << 20)))
        # Half a frame is out: nothing can follow it.
        with pytest.raises(ConnectionLostError):
            connection.request(p.GetStatus())


def test_answers_of_other_numbers_are_passed_over() -> None:
    def play(sock: socket.socket) -> None:
        sock.recv(1000)
        for number in (77, 2, 0xFFFFFFFF):
            sock.sendall(p.encode(number, p.Found(13)))
        sock.sendall(p.encode(1, p.Found(42)))

    with Fake(play) as connection:
        assert connection.request(p.Find(42, None, 0.0)) == (p.Found(42), [])


def test_a_late_answer_is_not_taken_for_the_next() -> None:
    go = threading.Event()

    def play(sock: socket.socket) -> None:
        sock.recv(1000)
        assert go.wait(DEADLINE_S)
        sock.sendall(p.encode(1, p.Found(1)))
        sock.recv(1000)
        sock.sendall(p.encode(2, p.Found(2)))

    with Fake(play) as connection:
        with pytest.raises(DeadlineExceededError):
            connection.request(p.Find(1, None, 0.0), 0.05)
        go.set()
        assert connection.request(p.Find(2, None, 0.0))[0] == p.Found(2)


def send_fds(sock: socket.socket, frame: bytes, *fds: int) -> None:
    rights = array.array("i", fds)
    sock.sendmsg([frame], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])


def same_file(a: int, b: int) -> bool:
    return os.path.samestat(os.fstat(a), os.fstat(b))


def test_descriptors_after_a_late_answer_are_not_lost() -> None:
    """A late answer without descriptors and the awaited one with them arrive together."""
    passed = os.memfd_create("passed")
    mapped = p.Segment(1, 0, PAGE, False)

    def play(sock: socket.socket) -> None:
        sock.recv(1000)
        sock.recv(1000)  # the second request: the first one has given up
        sock.sendall(p.encode(1, p.Found(1)))
        send_fds(sock, p.encode(2, mapped), passed)

    try:
        with Fake(play) as connection:
            with pytest.raises(DeadlineExceededError):
                connection.request(p.Find(1, None, 0.0), 0.05)
            reply, fds = connection.request(p.GetSegments(1))
            assert reply == mapped
            assert len(fds) == 1
            assert same_file(fds[0], passed)
            os.close(fds[0])
    finally:
        os.close(passed)


def test_descriptors_of_a_late_answer_are_closed() -> None:
    """Even when its first half came before the deadline and its second after."""
    late, passed = os.memfd_create("late"), os.memfd_create("passed")
    mapped = p.Segment(1, 0, PAGE, False)
    before = len(os.listdir("/proc/self/fd"))

    def play(sock: socket.socket) -> None:
        sock.recv(1000)
        frame = p.encode(1, p.Segment(9, 0, PAGE, False))
        send_fds(sock, frame[:10], late)
        sock.recv(1000)
        sock.sendall(frame[10:])
        send_fds(sock, p.encode(2, mapped), passed)

    try:
        with Fake(play) as connection:
            with pytest.raises(DeadlineExceededError):
                connection.request(p.GetSegments(9), 0.1)
            reply, fds = connection.request(p.GetSegments(1))
            assert reply == mapped
            assert len(fds) == 1
            assert same_file(fds[0], passed)
            os.close(fds[0])
        assert len(os.listdir("/proc/self/fd")) <= before
    finally:
        os.close(late)
        os.close(passed)


def test_an_unasked_failure_says_why_the_daemon_hung_up() -> None:
    def play(sock: socket.socket) -> None:
        sock.recv(1000)
        sock.sendall(p.encode(p.UNASKED, p.Failure("access-denied", "not for you")))
        sock.close()

    with Fake(play) as connection, pytest.raises(PermissionError, match="not for you"):
        connection.request(p.GetStatus())


@pytest.mark.parametrize("answer", [b"", b"\xc1" * 50, p.encode(1, p.Found(1))])
def test_connect_to_what_is_no_daemon(folder: Path, answer: bytes) -> None:
    from vineyard_arrow.client import connect

    path = folder / "fake"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(os.fspath(path))
        listener.listen()

        def play() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.recv(1000)
                sock.sendall(answer)

        thread = threading.Thread(target=play)
        thread.start()
        try:
            with pytest.raises(VineyardArrowError):
                connect(path, autostart=False, timeout_s=5.0)
        finally:
            thread.join(DEADLINE_S)
            path.unlink()


def test_odd_keys_and_timeouts_of_a_client(client: Client) -> None:
    for key in (-1, 1 << 64, 1 << 200):
        for call in (client.get, client.delete, client.exists, client.get_meta):
            with pytest.raises(VineyardArrowError):
                call(key)
    for name in ("\ud800", "", "x" * 5000, "a\0b"):
        with pytest.raises(ObjectNotFoundError):
            client.get(name)
    for name in ("\ud800", "", "x" * 5000):
        with pytest.raises(VineyardArrowError):
            client.put(1, name=name)
    assert client.status().objects == 0
    oid = client.put(7, name="seven")
    assert client.get_name("seven", wait=True, timeout_s=float("inf")) == oid
    thread = threading.Thread(target=lambda: client.put(8, name="eight"))
    thread.start()
    assert client.get(client.get_name("eight", wait=True, timeout_s=float("inf"))) == 8
    thread.join(DEADLINE_S)
    for timeout_s in (0.0, -1.0):
        with pytest.raises(DeadlineExceededError):
            client.get_name("never", wait=True, timeout_s=timeout_s)
