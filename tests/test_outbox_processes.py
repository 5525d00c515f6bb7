"""Puts left in an outbox, between real processes: found by all, whoever is killed, stopped,
interrupted or forked, and whatever is deleted meanwhile.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import DEADLINE_S, stopped
from test_faults import Child, Lines, helper, spawn, until  # noqa: F401  # fixtures
from test_fork import in_child
from test_ipc_memory import MIB, PAGE
from test_outbox import OUT_ALLOWANCE, Box
from test_protocol import Wire, stream_of

from vineyard_arrow.client import Client, connect
from vineyard_arrow.errors import (
    ConnectionLostError,
    DeadlineExceededError,
    ObjectNotFoundError,
    StoreFullError,
    VineyardArrowError,
)
from vineyard_arrow.ipc import protocol as p
from vineyard_arrow.puts import ALLOWANCE

# ---- others find what was put


def child_serve(lines: Lines, path: str) -> None:
    """Put an int64 array of one value for each line; say its id. Or do as told."""
    client = connect(path, autostart=False)
    held: Any = None
    while (asked := lines.hear()) is not None:
        what, *args = asked
        if what == "put":
            lines.say(client.put(np.full(args[1], args[0], np.int64)))
        elif what == "put and die":
            lines.say(client.put(np.full(args[1], args[0], np.int64)))
            os.kill(os.getpid(), signal.SIGKILL)
        elif what == "build":
            with client.memory_pool:
                held = pa.table({"x": pa.array(np.full(args[1], args[0])).take(range(args[1]))})
            lines.say(True)
        elif what == "put built":
            lines.say(client.put(held))
        elif what == "delete":
            client.delete(args)
            lines.say(True)
        elif what == "check":
            lines.say([bool((client.get(oid) == value).all()) for oid, value in args])


def child_stop_halfway(lines: Lines, path: str) -> None:
    """Die with an entry written, and the head not moved."""
    w = Wire(Path(path))
    w.hello()
    w.lease()
    box = Box(w.fds[1])
    whole, half = (w.item(stream_of((at, 8)), [(at, PAGE)]) for at in (w.at, w.at + PAGE))
    assert box.put(whole)
    body = p.encode_body(p.Put([half]))
    box.store(OUT_ALLOWANCE, box.allowance - 1)
    box.write(struct.pack("<Q", len(body)) + body)
    lines.say(whole.id, half.id)
    os.kill(os.getpid(), signal.SIGKILL)


def test_everybody_finds_it_at_once(
    client: Client,
    daemon: Any,
    spawn: Callable[..., Child],  # noqa: F811
) -> None:
    writer = spawn("test_outbox_processes.serve", str(daemon.socket))
    looks: list[Callable[[Any], bool]] = [
        lambda oid: client.get(oid)[0] == oid % 1000,
        lambda oid: client.exists(oid),
        lambda oid: oid in [m.id for m in client.list_objects()],
        lambda oid: client.get_meta(oid).nbytes == 80_000,
        lambda oid: client.put_name(oid, "it") is None and client.get_name("it") == oid,
        lambda oid: client.status().objects == 1,
        lambda oid: daemon.status().memory_used >= 80_000,
        lambda oid: client.delete(oid) is None,
        lambda oid: client.clear() is None and client.status().objects == 0,
        lambda oid: client.get(oid, timeout_s=60.0)[0] == oid % 1000,
        lambda oid: client.put_many([1, 2]) is not None and client.exists(oid),
    ]
    last = client.put(0)
    client.clear()
    writer.say("put", 1, 10)
    (last,) = writer.hear()
    client.delete(last)
    for look in looks * 3:
        writer.say("put", (last + 1) % 1000, 10_000)
        (last,) = writer.hear()
        assert look(last)
        client.clear()
    assert (client.status().objects, client.status().metadata_used) == (0, 0)


def test_a_get_that_waits_hears_of_every_put(
    client: Client,
    daemon: Any,
    spawn: Callable[..., Child],  # noqa: F811
) -> None:
    """Begun before the put, while the daemon serves others as fast as it can, or nobody."""
    writer = spawn("test_outbox_processes.serve", str(daemon.socket))
    writer.say("put", 1, 10)
    (last,) = writer.hear()
    busy = threading.Event()

    def hammer() -> None:
        while busy.is_set():
            daemon.status()

    for round_ in range(300):
        if round_ == 200:
            busy.set()
            threads = [threading.Thread(target=hammer) for _ in range(2)]
            for thread in threads:
                thread.start()
        got: list[Any] = []
        waiter = threading.Thread(
            # Longer than the test may take: it hears of the put, or the test fails.
            target=lambda oid=last + 1, got=got: got.append(client.get(oid, timeout_s=1000.0)[0])
        )
        waiter.start()
        writer.say("put", round_, 10)
        (last,) = writer.hear()
        waiter.join()
        assert got == [round_]
    busy.clear()
    for thread in threads:
        thread.join()


def test_kill_right_after_a_put(
    client: Client,
    daemon: Any,
    spawn: Callable[..., Child],  # noqa: F811
) -> None:
    for value in range(6):
        writer = spawn("test_outbox_processes.serve", str(daemon.socket))
        writer.say("put and die", value, 100_000)
        (oid,) = writer.hear()
        if value % 2:
            writer.wait()
        assert (client.get(oid) == value).all()
        writer.wait()
        assert (client.get(oid) == value).all()
        client.delete(oid)
    until(lambda: len(daemon.status().clients) == 1, "a session stays")
    status = client.status()
    assert (status.objects, status.memory_used, status.metadata_used) == (0, 0, 0)


def test_kill_in_the_middle_of_an_entry(
    client: Client,
    daemon: Any,
    spawn: Callable[..., Child],  # noqa: F811
) -> None:
    writer = spawn("test_outbox_processes.stop_halfway", str(daemon.socket))
    whole, half = writer.hear()
    writer.wait()
    until(lambda: len(daemon.status().clients) == 1, "a session stays")
    assert [m.id for m in client.list_objects()] == [whole]
    with pytest.raises(ObjectNotFoundError):
        client.get(half)


# ---- races


def child_share(lines: Lines, path: str) -> None:
    """Put anew what each object holds, and let go of it at once; tell what could be had.

    And say so when it comes to the object of the number that comes first.
    """
    client = connect(path, autostart=False)
    while (asked := lines.hear()) is not None:
        shared = []
        number, *ids = asked
        for i, oid in enumerate(ids):
            if i == number:
                lines.say("there")
            with contextlib.suppress(ObjectNotFoundError):
                got = client.get(oid)
                shared.append((int(got["v"][0].as_py()), client.put(got.select(["x"]))))
                del got
        lines.say(*shared)


def test_what_was_shared_stays_right_though_its_source_is_deleted(
    client: Client,
    daemon: Any,
    spawn: Callable[..., Child],  # noqa: F811
) -> None:
    """The source is deleted, and its memory used anew, while another process shares it."""
    sharer, deleter = (
        spawn(f"test_outbox_processes.{n}", str(daemon.socket)) for n in ("share", "serve")
    )
    rng = random.Random(3)
    batch, rows, shared = 40, 10_000, 0
    for first in range(0, 3000, batch):
        ids = [
            client.put(pa.table({"x": np.full(rows, v), "v": np.full(rows, v, np.int16)}))
            for v in range(first, first + batch)
        ]
        sharer.say(rng.randrange(batch), *ids)
        assert sharer.hear() == ["there"]
        for some in range(0, batch, k := rng.choice([1, 5, batch])):
            deleter.say("delete", *ids[some : some + k])
        for _ in range(batch):
            client.delete(client.put(np.full(rows, -1)))
        for _ in range(0, batch, k):
            assert deleter.hear() == [True]
        answer = sharer.hear()
        overwriting = [client.put(np.full(rows, -2)) for _ in range(batch)]
        for value, oid in answer:
            assert (client.get(oid)["x"].to_numpy() == value).all()
            client.delete(oid)
        shared += len(answer)
        client.delete(overwriting)
    assert 500 < shared < 3000
    status = client.status()
    assert (status.objects, status.memory_used, status.metadata_used) == (0, 0, 0)


def test_a_built_table_put_twice_while_another_process_deletes_it(
    client: Client,
    daemon: Any,
    spawn: Callable[..., Child],  # noqa: F811
) -> None:
    deleter = spawn("test_outbox_processes.serve", str(daemon.socket))
    for value in range(300):
        with client.memory_pool:
            table = pa.table({"x": np.full(20_000, value)}).take(pa.array(range(20_000)))
        first = client.put(table)
        deleter.say("delete", first)
        second = client.put(table)
        assert deleter.hear() == [True]
        third = client.put(table)
        del table
        for oid in (second, third):
            assert (client.get(oid)["x"].to_numpy() == value).all()
        assert not client.exists(first)
        client.delete([second, third])
    assert client.status().memory_used == 0


def test_threads_put_small_and_large(client: Client) -> None:
    """Around the ring many times; what does not fit goes by the socket."""
    made: dict[int, Any] = {}

    def work(seed: int) -> None:
        rng = random.Random(seed)
        for i in range(60):
            value = {f"{seed} {i} {c}": c for c in range(rng.choice([1, 10, 1000]))}
            table = pa.table({k: [v] for k, v in value.items()})
            made[client.put(table)] = value
            if rng.random() < 0.2:
                ids = client.put_many([(seed, i, j) for j in range(rng.choice([3, ALLOWANCE + 1]))])
                made.update((oid, (seed, i, j)) for j, oid in enumerate(ids))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert client.status().objects == len(made)
    for oid, value in made.items():
        got = client.get(oid)
        assert (got.to_pylist()[0] if isinstance(got, pa.Table) else got) == value


def test_forks_while_threads_put(client: Client) -> None:
    with client.memory_pool:
        built = pa.table({"x": np.arange(30_000)}).take(pa.array(range(30_000)))
    source = client.put(pa.table({"y": np.arange(30_000)}))
    pinned = client.get(source)
    left: dict[int, int] = {}
    stop = threading.Event()

    def work(first: int) -> None:
        for i in itertools.count(first, 2):
            if stop.is_set():
                return
            left[client.put(i)] = i

    def in_the_child() -> list[int]:
        ids = [client.put(pinned), client.put(built), client.put(5)]
        ids += [client.put(client.get(ids[0])), client.put(client.get(ids[1]).slice(7))]
        return [int(i) for i in ids]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    try:
        answers = [in_child(in_the_child) for _ in range(10)]
        client.delete(source)
        client.put(built)
        answers += [in_child(in_the_child) for _ in range(10)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    for a, b, five, again, cut in answers:
        assert client.get(a).equals(pinned)
        assert client.get(b).equals(built)
        assert client.get(five) == 5
        assert client.get(again).equals(pinned)
        assert client.get(cut).equals(built.slice(7))
    assert {oid: client.get(oid) for oid in left} == left


# ---- a full index


def child_fill_index(lines: Lines, path: str) -> None:
    client = connect(path, autostart=False)
    lines.hear()
    ids = []
    with contextlib.suppress(StoreFullError):
        while True:
            ids.append(client.put(len(ids)))
    lines.say(*ids)
    lines.hear()


@pytest.mark.parametrize("max_objects", [100, 1000])
def test_the_index_fills_up_exactly(
    make_daemon: Callable[..., Any],
    spawn: Callable[..., Child],  # noqa: F811
    max_objects: int,
) -> None:
    """While 64 clients that put nothing have allowances, or would have."""
    daemon = make_daemon("--memory-limit", "64MiB", "--max-objects", str(max_objects))
    with contextlib.ExitStack() as stack:
        for _ in range(64):
            stack.enter_context(Wire(daemon.socket)).hello()
        children = [spawn("test_outbox_processes.fill_index", str(daemon.socket)) for _ in range(3)]
        client = stack.enter_context(daemon.connect())
        client.put(0, name="a")
        for child in children:
            child.say()
        answers = [child.hear() for child in children]
        assert client.status().objects == max_objects - 1
        assert sum(len(ids) for ids in answers) == max_objects - 2
        for ids in answers:
            assert client.get_many(ids) == list(range(len(ids)))
        client.drop_name("a")
        oid = client.put("one more")
        for refused in (lambda: client.put(0), lambda: client.put_name(oid, "b")):
            with pytest.raises(StoreFullError, match="--max-objects"):
                refused()
        client.clear()
        client.put_many(range(max_objects // 2))
        assert client.status().objects == max_objects // 2
        for child in children:
            child.close()
        client.clear()
        assert client.status().memory_used == 0


# ---- a silent daemon, a dead one, and interrupts


@pytest.mark.parametrize(("nbytes", "least"), [(8, 100), (4 * MIB, 3)])
def test_a_stopped_daemon_finds_all_that_was_put(
    make_daemon: Callable[..., Any], nbytes: int, least: int
) -> None:
    """Until there is no room, no allowance or no credit left; then puts end in the deadline."""
    daemon = make_daemon("--memory-limit", "256MiB")
    with daemon.connect(timeout_s=0.3) as client:
        client.put(b"")
        client.clear()
        ids = []
        with stopped(daemon.pid):
            with pytest.raises(DeadlineExceededError):  # noqa: PT012
                for i in itertools.count():
                    ids.append(client.put(np.full(nbytes, i % 256, np.uint8)))
            for _ in range(2):
                begun = time.monotonic()
                with pytest.raises(DeadlineExceededError):
                    client.put(np.zeros(nbytes, np.uint8))
                assert time.monotonic() - begun < DEADLINE_S
        assert len(ids) >= least
        until(lambda: client.exists(ids[-1]), "the daemon does not go on")
        for i, oid in enumerate(ids):
            assert (client.get(oid) == i % 256).all()
        assert client.status().objects - len(ids) <= 3  # of which nobody heard the end
        client.clear()
        assert client.status().memory_used == 0
        assert client.get(client.put(1)) == 1


def test_a_dead_daemon_is_an_error(make_daemon: Callable[..., Any]) -> None:
    daemon = make_daemon("--memory-limit", "64MiB")
    with daemon.connect() as client:
        client.put(1)
        daemon.kill()
        for _ in range(2):
            with pytest.raises(ConnectionLostError):
                client.put(2)


def test_a_refused_client_is_told(daemon: Any) -> None:
    """The error of a put that was left comes with the next request."""
    with daemon.connect() as client:
        client.put(0)
        assert client._a._core.leave(b"\xc1", [])
        assert daemon.status().objects == 1
        with pytest.raises(VineyardArrowError, match="left to it"):
            client.put(np.zeros(MIB))
        with pytest.raises(ConnectionLostError):
            client.put(2)


def test_interrupts_at_any_point_of_a_put(client: Client, daemon: Any) -> None:
    """An exception out of a signal handler: nothing is torn, and no byte leaks."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    rng = random.Random(5)
    previous = signal.signal(signal.SIGALRM, interrupt)
    done: dict[int, int] = {}
    interrupted = 0
    client.put_many([0, np.zeros(1), pa.table({"x": [0]})])  # imports what is needed
    client.clear()
    try:
        for i in range(1000):
            with client.memory_pool:
                built = pa.table({"x": np.full(10_000, i)}).take(pa.array(range(10_000)))
            values = [i, np.full(50 + 10_000 * (i % 2), i), built]
            try:
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(2e-5, 6e-4))
                for value in values:
                    done[client.put(value)] = i
            except KeyboardInterrupt:
                interrupted += 1
            finally:
                while True:
                    try:
                        signal.setitimer(signal.ITIMER_REAL, 0)
                        break
                    except KeyboardInterrupt:
                        interrupted += 1
            built = values = value = None
            if i % 50 == 49:
                for oid, expected in done.items():
                    got = client.get(oid)
                    got = got["x"].to_numpy() if isinstance(got, pa.Table) else np.array(got)
                    assert (got == expected).all()
                    del got
                done.clear()
                client.clear()
                status = client.status()
                assert (status.objects, status.memory_used, status.metadata_used) == (0, 0, 0)
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert interrupted > 100
