"""What sender and receiver of a migration say: frames, pieces, proofs. No process, no socket."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vineyard_arrow.errors import (
    AccessDeniedError,
    ConfigError,
    ConnectionLostError,
    ProtocolError,
    StoreFullError,
)
from vineyard_arrow.migration import protocol as m
from vineyard_arrow.migration import transport, transports
from vineyard_arrow.migration.line import Line, find_codec
from vineyard_arrow.migration.tree import merge

MESSAGES = [
    m.Challenge(1, b"n" * 32),
    m.Proof(1, b"n" * 32, b"m" * 32),
    m.Welcome(b"m" * 32),
    m.Offer(1 << 63, 3, 10, None),
    m.Ready(5, True),
    m.Manifest([m.Entry(1, "t", b"abc", [(0, 64), (1 << 50, 8)], [2], 72, 1, False)]),
    m.Done(7),
    m.Failure("store-full", "no room", None),
]


def feed(inbound: m.Inbound, data: bytes, step: int = 1 << 30) -> list[object]:
    """What these bytes complete, so many at a time."""
    out = []
    while data:
        done = 0
        for target in inbound.targets:
            part = data[done : done + min(len(target), step - done)]
            target[: len(part)] = part
            done += len(part)
            if done == min(step, len(data)):
                break
        data = data[done:]
        if (found := inbound.received(done)) is not None:
            out.append(found)
    return out


def payload_of(*sizes: int) -> tuple[m.Payload, bytearray]:
    memory = bytearray(sum(sizes))
    pieces, at = [], 0
    for size in sizes:
        pieces.append(memoryview(memory)[at : at + size])
        at += size
    return m.Payload(pieces), memory


def trusting() -> m.Inbound:
    inbound = m.Inbound()
    inbound.limit = m.MAX_MESSAGE
    return inbound


# ---- frames


@pytest.mark.parametrize("step", [1, 3, 16, 1 << 20])
def test_messages_come_in_any_steps(step: int) -> None:
    data = b"".join(map(m.encode, MESSAGES))
    assert feed(trusting(), data, step) == MESSAGES


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 50), st.data())
def test_payload_lands_in_its_pieces(sizes: list[int], step: int, data: st.DataObject) -> None:
    payload, memory = payload_of(*sizes)
    content = os.urandom(payload.nbytes)
    inbound = trusting()
    inbound.payload = payload
    frame = m.block_header(m.RAW, payload.nbytes, 0) + content
    assert feed(inbound, frame + m.encode(m.Done(1)), step) == [m.Done(1)]
    assert memory == content
    assert inbound.position == payload.nbytes
    begin = data.draw(st.integers(0, payload.nbytes))
    end = data.draw(st.integers(begin, payload.nbytes))
    assert b"".join(payload.pieces(begin, end)) == content[begin:end]


def test_blocks_end_where_both_ends_expect() -> None:
    total = 2 * m.BLOCK + 5
    ends, at = [], 7
    while at < total:
        at = m.block_end(at, total)
        ends.append(at)
    assert ends == [m.BLOCK, 2 * m.BLOCK, total]


@given(st.binary(min_size=1, max_size=200), st.integers(1, 20))
def test_garbage_is_refused_or_waits_for_more(data: bytes, step: int) -> None:
    inbound = trusting()
    inbound.payload, memory = payload_of(10, 20)
    with contextlib.suppress(ProtocolError):
        feed(inbound, data, step)
    assert len(memory) == 30


@given(st.data())
def test_a_damaged_frame_is_refused_or_another_message(data: st.DataObject) -> None:
    frame = bytearray(m.encode(data.draw(st.sampled_from(MESSAGES))))
    at = data.draw(st.integers(0, len(frame) - 1))
    frame[at] ^= 1 << data.draw(st.integers(0, 7))
    inbound = m.Inbound()
    try:
        found = feed(inbound, bytes(frame))
    except ProtocolError:
        return
    assert all(isinstance(each, m.Message) for each in found)


@pytest.mark.parametrize(
    "header",
    [
        m.HEADER.pack(1, m.MESSAGE, 1, 0),
        m.HEADER.pack(m.MAGIC, 9, 1, 0),
        m.HEADER.pack(m.MAGIC, m.MESSAGE, 0, 0),
        m.HEADER.pack(m.MAGIC, m.MESSAGE, m.MAX_MESSAGE + 1, 0),
        m.block_header(m.RAW, 29, 0),
        m.block_header(m.RAW, 31, 0),
        m.block_header(m.RAW, 29, 1),
        m.block_header(m.PACKED, 30, 0),
        m.block_header(m.PACKED, 0, 0),
        m.block_header(m.RAW, 0, 30),
    ],
)
def test_headers_that_lie(header: bytes) -> None:
    inbound = trusting()
    inbound.payload, _ = payload_of(10, 20)
    with pytest.raises(ProtocolError):
        feed(inbound, header)


def test_strangers_send_little_and_no_payload() -> None:
    with pytest.raises(ProtocolError):
        feed(m.Inbound(), m.HEADER.pack(m.MAGIC, m.MESSAGE, m.MAX_STRANGER + 1, 0))
    with pytest.raises(ProtocolError):
        feed(m.Inbound(), m.block_header(m.RAW, 1, 0))


def test_no_block_comes_twice() -> None:
    inbound = trusting()
    inbound.payload, _ = payload_of(30)
    frame = m.block_header(m.RAW, 30, 0) + bytes(30)
    feed(inbound, frame)
    with pytest.raises(ProtocolError):
        feed(inbound, frame)


def test_many_pieces_are_offered_a_few_at_a_time() -> None:
    inbound = trusting()
    inbound.payload, memory = payload_of(*[1] * 2000)
    content = os.urandom(2000)
    feed(inbound, m.block_header(m.RAW, 2000, 0))
    assert len(inbound.targets) == m.MAX_PIECES
    feed(inbound, content)
    assert memory == content


# ---- lines


@dataclass
class Pipe:
    """A channel whose other end is a test: what it says lies ready."""

    incoming: bytearray = field(default_factory=bytearray)
    sent: bytearray = field(default_factory=bytearray)

    def send(self, pieces: list[bytes]) -> None:
        self.sent += b"".join(pieces)

    def receive_into(self, targets: list[memoryview]) -> int:
        target = targets[0]
        part = self.incoming[: len(target)]
        target[: len(part)] = part
        del self.incoming[: len(part)]
        return len(part)


def pair() -> tuple[Line, Pipe, Line, Pipe]:
    """Two lines on one pipe."""
    one, other = Pipe(), Pipe()
    one.sent = other.incoming
    other.sent = one.incoming
    return Line(one), one, Line(other), other


def test_a_failure_is_raised_as_what_it_was() -> None:
    here, _, there, _ = pair()
    there.fail(StoreFullError("no room", "delete"))
    with pytest.raises(StoreFullError, match="no room") as caught:
        here.expect(m.Ready)
    assert caught.value.hint == "delete"


def test_another_message_and_the_end() -> None:
    here, _, there, _ = pair()
    there.send(m.Done(1))
    with pytest.raises(ProtocolError):
        here.expect(m.Ready)
    with pytest.raises(ConnectionLostError):
        here.expect(m.Ready)


@pytest.mark.parametrize("codec", [None, "zstd", "lz4"])
def test_payload_goes_over_a_line(codec: str | None) -> None:
    here, _, there, pipe = pair()
    noise = os.urandom(m.BLOCK)  # does not shrink: goes as it is
    content = bytes(m.BLOCK) + noise + b"abc" * 1000
    cut = [content[:5], content[5 : m.BLOCK + 9], content[m.BLOCK + 9 :]]
    here.send_payload(m.Payload([memoryview(c) for c in cut]), 0, find_codec(codec))
    if codec is not None:
        assert len(pipe.incoming) < 1.1 * m.BLOCK
    there.inbound.payload, memory = payload_of(100, len(content) - 100)
    there.inbound.limit = m.MAX_MESSAGE
    while there.inbound.position < len(content):
        there.receive_payload(find_codec(codec))
    assert memory == content


def test_a_packed_block_that_is_none() -> None:
    for packed in (b"\0" * 20, bytes(pa.Codec("zstd").compress(bytes(29)))):
        here, pipe, _, _ = pair()
        here.inbound.payload, _ = payload_of(30)
        pipe.incoming += m.block_header(m.PACKED, len(packed), 0) + packed
        here.receive_payload(find_codec("zstd"))  # the header
        with pytest.raises(ProtocolError):
            here.receive_payload(find_codec("zstd"))
    with pytest.raises(ConfigError, match="zstd and lz4"):
        find_codec("rle")


def talk(sender_token: bytes, receiver_token: bytes) -> list[bytes]:
    """A whole handshake by way of hand; what either end said."""
    nonces = [os.urandom(32), os.urandom(32)]
    proof = m.prove(sender_token, "sender", nonces[0], nonces[1])
    here, pipe, _, _ = pair()
    pipe.incoming += m.encode(m.Proof(m.VERSION, nonces[1], proof))
    here.admit(receiver_token)
    return [bytes(pipe.sent)]


def test_a_token_is_proved_and_not_told() -> None:
    token = os.urandom(32)
    challenge, asking = os.urandom(32), os.urandom(32)
    mac = m.prove(token, "sender", challenge, asking)
    assert m.is_proof(mac, token, "sender", challenge, asking)
    assert not m.is_proof(mac, token, "receiver", challenge, asking)
    assert not m.is_proof(mac, token, "sender", asking, challenge)
    assert not m.is_proof(mac, os.urandom(32), "sender", challenge, asking)
    assert not m.is_proof(mac[:-1], token, "sender", challenge, asking)
    short = m.prove(token, "sender", challenge, b"")
    assert not m.is_proof(short, token, "sender", challenge, b"")


def test_a_proof_to_another_challenge_is_worth_nothing() -> None:
    token = os.urandom(32)
    with pytest.raises(AccessDeniedError):  # recorded earlier: its nonce is not today's
        talk(token, token)


def test_a_receiver_that_only_repeats_what_it_heard() -> None:
    here, pipe, _, _ = pair()
    nonce = os.urandom(32)
    token = os.urandom(32)
    pipe.incoming += m.encode(m.Challenge(m.VERSION, nonce))
    pipe.incoming += m.encode(m.Welcome(m.prove(token, "sender", nonce, nonce)))
    with pytest.raises(AccessDeniedError):
        here.prove(token)
    assert token not in pipe.sent


def test_versions_must_agree() -> None:
    here, pipe, _, _ = pair()
    pipe.incoming += m.encode(m.Challenge(m.VERSION + 1, bytes(32)))
    with pytest.raises(ProtocolError, match="version"):
        here.prove(b"t")


# ---- ranges and names


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=20))
def test_merged_ranges_are_the_bytes_of_all(places: list[tuple[int, int]]) -> None:
    merged = merge(places)
    assert {b for o, n in merged for b in range(o, o + n)} == {
        b for o, n in places for b in range(o, o + n)
    }
    assert all(a + n <= b for (a, n), (b, _) in pairwise(merged))
    for offset, nbytes in places:  # each lies in one
        assert any(a <= offset and offset + nbytes <= a + n for a, n in merged)


def test_transports_have_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transports, "_transports", dict(transports._transports))

    @transport("pigeon")
    class Pigeon:
        pass

    assert isinstance(transports.find_transport("pigeon"), Pigeon)
    with pytest.raises(ConfigError, match="flight, pigeon, tcp"):
        transports.find_transport("raven")


def test_a_transport_of_another_package(monkeypatch: pytest.MonkeyPatch) -> None:
    class Entry:
        @staticmethod
        def load() -> None:
            transport("ferry")(type("Ferry", (), {}))

    asked = []

    def entry_points(group: str) -> list[type]:
        asked.append(group)
        return [Entry]

    monkeypatch.setattr("importlib.metadata.entry_points", entry_points)
    monkeypatch.setattr(transports, "_transports", {})
    monkeypatch.setattr(transports, "_plugins_loaded", False)
    assert type(transports.find_transport("ferry")).__name__ == "Ferry"
    assert asked == ["vineyard_arrow.transports"]
