"""Streams between real processes: whole and in order, whoever is killed, stopped or forked."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import stopped
from test_faults import Child, Doomed, Lines, forgotten, helper, spawn, until  # noqa: F401  # fixtures
from test_fork import in_child

from vineyard_arrow.client import Client, connect
from vineyard_arrow.errors import (
    ConnectionLostError,
    DeadlineExceededError,
    InvalidObjectError,
    StreamFailedError,
    VineyardArrowError,
)

SCHEMA = pa.schema([("x", pa.int64()), ("k", pa.int8())])
ROWS = 16 << 10  # x is sealed where it is built, k is gathered


def build(client: Client, i: int) -> pa.RecordBatch:
    """A batch of which every value is ``i``, built in the pool."""
    buffer = pa.allocate_buffer(ROWS * 8, memory_pool=client.memory_pool)
    np.frombuffer(buffer, np.int64)[:] = i
    x = pa.Array.from_buffers(pa.int64(), ROWS, [None, buffer])
    return pa.record_batch([x, pa.array(np.full(ROWS, i % 100, np.int8))], schema=SCHEMA)


def number_of(batch: pa.RecordBatch) -> int:
    """What ``build`` was given, if the batch is whole."""
    x, k = batch["x"].to_numpy(), batch["k"].to_numpy()
    assert len(x) == ROWS
    assert (x == x[0]).all()
    assert (k == x[0] % 100).all()
    return int(x[0])


def child_read(lines: Lines, path: str, name: str, hold: int = 0) -> None:
    """Say the number of each batch, and hold the last few; then how it ended."""
    client = connect(path, autostart=False)
    reader = client.open_stream(name, timeout_s=60)
    lines.say("opened")
    held: list[tuple[int, pa.RecordBatch]] = []
    got = []
    try:
        for batch in reader:
            got.append(number_of(batch))
            held.append((got[-1], batch))
            del batch
            if len(held) > hold:
                i, old = held.pop(0)
                assert number_of(old) == i
                del old
        end = "end"
    except VineyardArrowError as error:
        end = f"{type(error).__name__}: {error}"
    lines.say(end, got, all(number_of(batch) == i for i, batch in held))


@pytest.mark.parametrize("bounds", [{"max_batches": 1}, {"max_bytes": 1 << 20}])
def test_every_reader_gets_every_batch(
    client: Client,
    daemon: Any,
    spawn: Callable[..., Child],  # noqa: F811
    bounds: dict[str, int],
) -> None:
    readers = [
        spawn("test_streams_processes.read", str(daemon.socket), "all", k) for k in (0, 0, 5)
    ]
    with client.create_stream(SCHEMA, name="all", **bounds) as writer:
        assert [reader.hear() for reader in readers] == [["opened"]] * 3
        for i in range(60):
            writer.write(build(client, i))
    for reader in readers:
        assert reader.hear() == ["end", list(range(60)), True]
        reader.wait()
        forgotten(client, reader)
    status = client.status()
    assert (status.streams, status.deleted_pinned, status.memory_used) == (0, 0, 0)


# ---- kill -9


def child_write(lines: Lines, path: str, last: int, batches: int = 3) -> None:
    """Write a stream named "doomed", and die at step ``last``."""
    taken = iter(range(last))

    def step(what: str) -> None:
        if next(taken, None) is None:
            lines.say(what)
            os.kill(os.getpid(), signal.SIGKILL)

    client = connect(path, autostart=False)
    writer = client.create_stream(SCHEMA, name="doomed", max_batches=2)
    step("created")
    attached, connection = client._a, writer._line.connection
    plan_of, leave, request = attached._plan, attached._leave, connection.request

    def left(plans: Any, items: Any) -> bool:
        step("before leaving")
        done = leave([plan._plan for plan in plans], items)
        step("after leaving")
        return done

    def asked(message: Any, timeout_s: float | None = None) -> Any:
        step(f"before {type(message).__name__}")
        reply = request(message, timeout_s)
        step(f"after {type(message).__name__}")
        return reply

    attached._plan = lambda parts: Doomed(plan_of(parts), step)  # type: ignore[method-assign,assignment,return-value]
    attached._leave, connection.request = left, asked  # type: ignore[method-assign]
    for i in range(batches):
        batch = build(client, i)
        step("built")
        writer.write(batch)
        step("written")
        del batch
    writer.close()
    step("closed")
    lines.say("done")


def test_kill_of_a_writer_at_any_step(
    client: Client,
    daemon: Any,
    spawn: Callable[..., Child],  # noqa: F811
) -> None:
    base = client.status()
    steps: list[str] = []
    for last in itertools.count():
        writer = spawn("test_streams_processes.write", str(daemon.socket), last)
        reader = client.open_stream("doomed", timeout_s=60, batch_timeout_s=60)
        got: list[int] = []
        failed = False
        try:
            for batch in reader:
                got.append(number_of(batch))
                del batch
        except StreamFailedError as error:
            failed = f"process {writer.pid}, went away" in str(error)
        (step,) = writer.hear()
        writer.wait()
        steps.append(step)
        assert got == list(range(len(got)))
        assert failed == (step not in ("after EndStream", "closed", "done")), step
        if not failed:
            assert len(got) == 3
        assert client.list_streams() == []
        until(lambda: len(client.status().clients) == 1, step)
        status = client.status()
        assert (status.memory_used, status.memory_charged) == (
            base.memory_used,
            base.memory_charged,
        ), step
        assert (status.deleted_pinned, status.stream_batches) == (0, 0)
        writer.close()
        if step == "done":
            break
    # Whether it must wait for room, and so the number of a step, depends on the reader.
    assert {"before leaving", "after leaving", "before place", "written"} <= set(steps)


def child_take(lines: Lines, path: str, last: int) -> None:
    """Open the stream "taken"; once told, read it, and die at step ``last``, or when told."""
    taken = iter(range(last))

    def step(what: str) -> None:
        if next(taken, None) is None:
            lines.say(what)
            os.kill(os.getpid(), signal.SIGKILL)

    client = connect(path, autostart=False)
    reader = client.open_stream("taken", timeout_s=60)
    lines.say("there")
    lines.hear()
    step("opened")
    attached, connection = client._a, reader._source.line.connection
    request, read = connection.request, attached.read_batch

    def asked(message: Any, timeout_s: float | None = None) -> Any:
        step(f"before {type(message).__name__}")
        reply = request(message, timeout_s)
        step(f"after {type(message).__name__}")
        return reply

    def got(key: int) -> Any:
        step("before pinning")
        batch = read(key)
        step("pinned")
        return batch

    connection.request, attached.read_batch = asked, got  # type: ignore[method-assign]
    held = []
    for _ in range(3):
        held.append(reader.read())
        step("read")
    reader.close()
    step("closed")
    held.clear()
    step("dropped")
    lines.say("done")
    lines.hear()


def test_kill_of_a_reader_at_any_step(
    client: Client,
    daemon: Any,
    spawn: Callable[..., Child],  # noqa: F811
) -> None:
    steps: list[str] = []
    for last in itertools.count():
        with client.create_stream(SCHEMA, name="taken", max_batches=2) as writer:
            other = client.open_stream("taken")
            doomed = spawn("test_streams_processes.take", str(daemon.socket), last)
            assert doomed.hear() == ["there"]
            assert len(client.list_streams()[0].readers) == 2
            doomed.say("read")
            for i in range(6):  # no further than two batches while the doomed one lives
                writer.write(build(client, i), timeout_s=60)
                if i == 3:
                    (step,) = doomed.hear()
                    steps.append(step)
                    doomed.close()
                assert number_of(other.read()) == i
        assert other.read() is None
        assert client.list_streams() == []
        until(lambda: len(client.status().clients) == 1, step)
        status = client.status()
        assert (status.memory_used, status.deleted_pinned) == (0, 0), step
        if step == "done":
            break
    assert {"after NextBatches", "before pinning", "pinned", "read"} <= set(steps)


def test_a_killed_reader_leaves_the_backlog_to_the_next(
    client: Client,
    daemon: Any,
    spawn: Callable[..., Child],  # noqa: F811
) -> None:
    with client.create_stream(SCHEMA, name="taken", max_batches=3) as writer:
        for i in range(2):
            writer.write(build(client, i))
        first = spawn("test_streams_processes.take", str(daemon.socket), 4)
        assert first.hear() == ["there"]
        first.say("read")
        assert first.hear() == ["pinned"]
        first.wait()
        writer.write(build(client, 2))
        with pytest.raises(DeadlineExceededError, match="nobody came to read it"):
            writer.write(build(client, 3), timeout_s=0.01)
        reader = client.open_stream("taken")
        assert [number_of(reader.read()) for _ in range(3)] == [0, 1, 2]
        writer.write(build(client, 3))


def test_a_failure_reaches_other_processes(
    client: Client,
    daemon: Any,
    spawn: Callable[..., Child],  # noqa: F811
) -> None:
    readers = [spawn("test_streams_processes.read", str(daemon.socket), "f") for _ in range(2)]
    with contextlib.suppress(KeyError), client.create_stream(SCHEMA, name="f") as writer:
        assert [reader.hear() for reader in readers] == [["opened"]] * 2
        writer.write(build(client, 0))
        raise KeyError("gone")
    for reader in readers:
        end, got, _ = reader.hear()
        assert end.startswith("StreamFailedError: ")
        assert "KeyError: 'gone'" in end
        assert got == [0]


def child_wait(lines: Lines, path: str, write: bool) -> None:
    """Wait for room, or for a batch, in vain."""
    client = connect(path, autostart=False)
    writer = client.create_stream(SCHEMA, max_batches=1)
    reader = client.open_stream(writer.id)
    writer.write(build(client, 0))
    if not write:
        reader.read()
    lines.say("waiting")
    try:
        if write:
            writer.write(build(client, 1))
        else:
            reader.read()
    except ConnectionLostError:
        lines.say("lost")


def test_a_daemon_killed_while_both_wait(
    make_daemon: Callable[..., Any],
    spawn: Callable[..., Child],  # noqa: F811
) -> None:
    daemon = make_daemon("--memory-limit", "64MiB")
    children = [
        spawn("test_streams_processes.wait", str(daemon.socket), write) for write in (True, False)
    ]
    assert [child.hear() for child in children] == [["waiting"]] * 2
    daemon.kill()
    assert [child.hear() for child in children] == [["lost"]] * 2


def test_a_stopped_reader_holds_the_writer_up(
    client: Client,
    daemon: Any,
    spawn: Callable[..., Child],  # noqa: F811
) -> None:
    reader = spawn("test_streams_processes.read", str(daemon.socket), "s")
    with client.create_stream(SCHEMA, name="s", max_batches=2) as writer:
        assert reader.hear() == ["opened"]
        written = 0
        with stopped(reader.pid):
            try:
                for written in range(10):
                    writer.write(build(client, written), timeout_s=0.2)
            except DeadlineExceededError as error:
                why = str(error)
        assert f"process {reader.pid} read no further" in why
        for i in range(written, 10):
            writer.write(build(client, i))
    assert reader.hear() == ["end", list(range(10)), True]


# ---- fork


def test_a_forked_child(client: Client) -> None:
    with client.create_stream(SCHEMA, name="parents") as writer:
        reader = client.open_stream("parents")
        writer.write(build(client, 5))
        writer.write(build(client, 6))
        held = reader.read()

        def refused() -> list[str]:
            out = []
            for call in (
                reader.read,
                lambda: writer.write(build(client, 7)),
                lambda: writer.fail("no"),
            ):
                try:
                    call()
                    out.append("done")
                except InvalidObjectError as error:
                    out.append(str(error))
            return out

        for said in in_child(refused):
            assert f"opened by process {os.getpid()}" in said
        assert in_child(lambda: number_of(held)) == 5

        def write_another() -> list[int]:
            with client.create_stream(SCHEMA, name="childs") as own:
                own.write(build(client, 1))
                got = client.open_stream("childs")
            return [number_of(batch) for batch in got]

        assert in_child(write_another) == [1]
        assert number_of(reader.read()) == 6  # neither end was touched
        writer.write(build(client, 8))
        assert number_of(reader.read()) == 8


def child_fork_and_die(lines: Lines, path: str) -> None:
    """Write, leave a child that lives on, and die."""
    client = connect(path, autostart=False)
    writer = client.create_stream(SCHEMA, name="forked")
    writer.write(build(client, 1))
    pid = os.fork()
    if pid == 0:
        lines.hear()
        os._exit(0)
    lines.say("dying")
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_dead_writer_whose_child_lives(
    client: Client,
    daemon: Any,
    spawn: Callable[..., Child],  # noqa: F811
) -> None:
    writer = spawn("test_streams_processes.fork_and_die", str(daemon.socket))
    reader = client.open_stream("forked", timeout_s=60, batch_timeout_s=60)
    assert number_of(reader.read()) == 1
    with pytest.raises(StreamFailedError, match="went away"):
        reader.read()
    assert writer.hear() == ["dying"]
