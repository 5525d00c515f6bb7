"""Streams on the wire: peers that ask for what is not theirs, or make no sense."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pytest
from test_ipc_memory import PAGE
from test_outbox import Box
from test_protocol import Wire, innocent, stream_of, wire  # noqa: F401  # fixtures

from vineyard_arrow.client import Client
from vineyard_arrow.ipc import protocol as p

SCHEMA = pa.schema([("x", pa.int64())]).serialize().to_pybytes()


def create(client: int, name: str | None = None, **fields: Any) -> p.CreateStream:
    message = p.CreateStream(client, (300, 301), name, SCHEMA, 4, None, False)
    for field, value in fields.items():
        setattr(message, field, value)
    return message


def code_of(reply: Any) -> str:
    assert isinstance(reply, p.Failure), reply
    return reply.code


@pytest.fixture
def number(wire: Wire) -> int:  # noqa: F811
    """The wire's client number; it has a lease."""
    welcome = wire.hello()
    wire.lease()
    return welcome.client


def test_what_a_connection_is_not(daemon: Any, wire: Wire, number: int) -> None:  # noqa: F811
    with Wire(daemon.socket) as side, Wire(daemon.socket) as other:
        for early in (p.NextBatches(0, 1.0), p.AwaitRoom(0, 0, 1.0), p.EndStream()):
            assert code_of(side.request(early)) == "protocol"
        assert code_of(side.request(create(number + 1000))) == "protocol"
        assert code_of(wire.request(create(number))) == "protocol"  # it is a client's
        opened = side.request(create(number, "mine"))
        assert isinstance(opened, p.Opened)
        assert code_of(side.request(create(number))) == "protocol"
        assert code_of(side.request(p.OpenStream(number, 0, opened.id, None, 0.0))) == "protocol"
        assert code_of(side.request(p.NextBatches(0, 1.0))) == "protocol"
        assert code_of(other.request(create(number, "mine"))) == "exists"
        reader = p.OpenStream(number, 0, opened.id, None, 0.0)
        assert isinstance(other.request(reader), p.Opened)
        assert code_of(other.request(p.AwaitRoom(0, 0, 1.0))) == "protocol"
        assert code_of(other.request(p.EndStream())) == "protocol"
        for cursor in (1, 1 << 62):
            assert code_of(other.request(p.NextBatches(cursor, 1.0))) == "protocol"
        assert code_of(other.request(p.NextBatches(0, math.nan))) == "deadline"


def test_words_beyond_the_table(daemon: Any, wire: Wire, number: int) -> None:  # noqa: F811
    """They are taken round: a client can only harm what is in its own table."""
    with Wire(daemon.socket) as side, Wire(daemon.socket) as other:
        opened = side.request(create(number, words=(65535, 65534)))
        assert isinstance(opened, p.Opened)
        assert isinstance(other.request(p.OpenStream(number, 65535, opened.id, None, 0)), p.Opened)
        assert isinstance(wire.request(p.ListStreams("*")), p.Streams)
        assert isinstance(wire.request(p.DropStream(opened.id, None)), p.Done)
        assert isinstance(other.request(p.NextBatches(0, 1.0)), p.Batches)


def test_appends_to_what_is_not_the_callers(
    daemon: Any,
    wire: Wire,  # noqa: F811
    number: int,
    client: Client,
) -> None:
    foreign = client.create_stream(pa.schema([("x", pa.int64())]), name="foreign")
    used = daemon.status().memory_used
    for stream, fields in (
        (int(foreign.id), {}),
        (12345, {}),
        (int(foreign.id), {"name": "n"}),
        (int(foreign.id), {"members": [1]}),
    ):
        item = wire.item(stream_of((wire.at, 8)), [(wire.at, PAGE)], stream=stream, **fields)
        assert isinstance(wire.request(p.Put([item])), p.Failure)
    assert daemon.status().memory_used == used
    assert client.list_streams()[0].batches == 0
    foreign.close()
    client.drop_stream("foreign")


def test_left_for_a_stream_that_was_dropped(
    daemon: Any,
    wire: Wire,  # noqa: F811
    number: int,
    client: Client,
) -> None:
    """It is nobody's fault: what was left is freed, and the client goes on."""
    box = Box(wire.fds[1])
    used = daemon.status().memory_used
    with Wire(daemon.socket) as side:
        opened = side.request(create(number, "brief"))
        assert wire.request(p.DropStream(None, "brief")) == p.Done()
        item = wire.item(stream_of((wire.at, 8)), [(wire.at, PAGE)], stream=opened.id)
        assert box.put(item)
        assert daemon.status().memory_used == used
        assert code_of(side.request(p.AwaitRoom(0, 0, 1.0))) == "stream-failed"
        assert isinstance(wire.request(p.GetStatus()), p.Status)


def test_a_reader_that_lies_about_its_place(
    daemon: Any,
    wire: Wire,  # noqa: F811
    number: int,
    client: Client,
) -> None:
    """It loses batches itself, at most those it was told of."""
    writer = client.create_stream(pa.schema([("x", pa.int64())]), name="lied")
    honest = client.open_stream("lied")
    box = Box(wire.fds[1])
    with Wire(daemon.socket) as side:
        opened = side.request(p.OpenStream(number, 3, None, "lied", 0.0))
        box.store(384 + 8 * 3, (1 << 64) - 1)
        for i in range(4):
            writer.write(pa.table({"x": [i]}))
        assert [at for _, at in client.list_streams()[0].readers] == [0, 0]
        batches = side.request(p.NextBatches(opened.first, 1.0))
        assert len(batches.ids) == 4
        assert sorted(at for _, at in client.list_streams()[0].readers) == [0, 4]
        assert client.list_streams()[0].backlog == 4
        writer.close()
        assert honest.read_all()["x"].to_pylist() == [0, 1, 2, 3]
        box.store(384 + 8 * 3, 0)  # and back again
        reply = side.request(p.NextBatches(4, 1.0))
        assert (reply.ids, reply.ended, reply.failure) == ([], True, None)
    assert client.list_streams() == []
