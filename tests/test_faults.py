"""Death and silence: kill -9 and SIGSTOP of clients and daemons at every step.

Children come from one helper process that has imported everything and attached nothing,
so that each costs a fork. A child runs one `child_*` function and talks over a socket.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from conftest import stop_process, stopped

from vineyard_arrow.client import Client, connect
from vineyard_arrow.errors import (
    ConfigError,
    ConnectionLostError,
    DeadlineExceededError,
    ObjectNotFoundError,
    StoreFullError,
    VineyardArrowError,
)
from vineyard_arrow.ipc import protocol as p
from vineyard_arrow.registry import Encoder, default_registry

DEADLINE_S = 60.0
MIB = 1 << 20


# ---- children


class Lines:
    """JSON lines over a socket, with a deadline."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(DEADLINE_S)
        self._sock = sock
        self._file = sock.makefile("rb")

    def say(self, *value: Any) -> None:
        self._sock.sendall(json.dumps(value).encode() + b"\n")

    def hear(self) -> Any:
        """The next value; None once the other end is gone."""
        line = self._file.readline()
        return json.loads(line) if line else None

    def close(self) -> None:
        self._file.close()
        self._sock.close()


class Child:
    """A child process that runs ``child_<name>(lines, *args)``."""

    def __init__(self, pid: int, lines: Lines) -> None:
        self.pid, self._lines = pid, lines
        self.say, self.hear = lines.say, lines.hear
        try:
            self._pidfd = os.pidfd_open(pid)
        except ProcessLookupError:  # it has died already
            self._pidfd = -1

    def wait(self) -> None:
        """Wait until it is gone."""
        if self._pidfd >= 0:
            ended = select.select([self._pidfd], [], [], DEADLINE_S)[0]
            os.close(self._pidfd)
            self._pidfd = -1
            assert ended, "a child does not end"

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def close(self) -> None:
        self.kill()
        self._lines.close()


def nursery(sock: socket.socket) -> None:
    """The helper: forks a child for each line, whose socket comes with it."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    Encoder(default_registry).add(table_of(0))  # imports what children will need
    while True:
        line, fds, _, _ = socket.recv_fds(sock, 65536, 1)
        if not line:
            return
        pid = os.fork()
        if pid == 0:
            sock.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            name, *args = json.loads(line)
            lines = Lines(socket.socket(fileno=fds[0]))
            code = 1
            try:
                module, _, function = name.rpartition(".")
                functions = vars(importlib.import_module(module)) if module else globals()
                functions[f"child_{function}"](lines, *args)
                code = 0
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        os.close(fds[0])
        sock.sendall(b"%d\n" % pid)


@pytest.fixture(scope="session")
def helper() -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    here = Path(__file__).resolve().parent
    code = (
        f"import sys; sys.path[:0] = {[str(here), str(here.parent)]!r}\n"
        "import socket, test_faults\n"
        f"test_faults.nursery(socket.socket(fileno={theirs.fileno()}))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], pass_fds=[theirs.fileno()])
    theirs.close()
    ours.settimeout(DEADLINE_S)
    yield ours
    ours.close()
    assert process.wait(DEADLINE_S) == 0


@pytest.fixture
def spawn(helper: socket.socket) -> Iterator[Callable[..., Child]]:
    children: list[Child] = []

    def spawn(name: str, *args: Any) -> Child:
        ours, theirs = socket.socketpair()
        socket.send_fds(helper, [json.dumps([name, *args]).encode()], [theirs.fileno()])
        theirs.close()
        children.append(Child(int(helper.recv(100)), Lines(ours)))
        return children[-1]

    yield spawn
    for child in children:
        child.close()


def table_of(seed: int, nbytes: int = 1 << 20) -> pa.Table:
    """Two columns of which one is gathered by a put, the other one not."""
    rng = np.random.default_rng(seed)
    numbers = rng.integers(0, 1 << 60, nbytes // 8)
    return pa.table({"x": numbers, "k": pa.nulls(len(numbers), pa.int8())})


def until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.002)


def forgotten(client: Client, child: Child) -> None:
    """Wait until the daemon has seen that a child is dead: it may hear of others before."""
    dead = child.pid
    until(lambda: all(c.pid != dead for c in client.status().clients), "a dead client stays")


# ---- kill -9 at every step of a put


class Doomed:
    """Stands for a plan; every use of it is a step of the put."""

    def __init__(self, plan: Any, step: Callable[[str], None]) -> None:
        self._plan, self._step = plan, step

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._plan, name)
        if not callable(found):
            return found

        def call(*args: Any) -> Any:
            self._step(f"before {name}")
            result = found(*args)
            self._step(f"after {name}")
            return result

        return call


def child_put(lines: Lines, path: str, kind: str, last: int) -> None:
    """Put a table named "doomed", and die at step ``last`` of it."""
    taken = iter(range(last))

    def step(what: str) -> None:
        if next(taken, None) is None:
            lines.say(what)
            os.kill(os.getpid(), signal.SIGKILL)

    client = connect(path, autostart=False)
    step("attached")
    if kind == "pool":
        with client.memory_pool:
            table = table_of(1).take(pa.array(range(1 << 17)))
    else:
        table = table_of(1)
    step("built")
    attached = client._a
    plan_of, connection = attached._plan, attached.connection
    attached._plan = lambda parts: Doomed(plan_of(parts), step)  # type: ignore[method-assign,assignment,return-value]
    receive = connection._receive

    def send(frame: bytes) -> None:
        step("before sending")
        connection._sock.sendall(frame[:7])
        step("in the header")
        connection._sock.sendall(frame[7 : len(frame) // 2])
        step("half sent")
        connection._sock.sendall(frame[len(frame) // 2 :])
        step("sent")

    def received(number: int, deadline: float) -> Any:
        reply = receive(number, deadline)
        step("answered")
        return reply

    connection._send, connection._receive = send, received  # type: ignore[method-assign]
    client.put(table, name="doomed", seal="strict" if kind == "strict" else "shared")
    step("put")
    got = client.get("doomed")
    step("pinned")
    client.delete("doomed")
    step("deleted while pinned")
    del got
    step("unpinned")
    lines.say("done")


@pytest.mark.parametrize("kind", ["copied", "pool", "strict"])
def test_kill_between_any_two_steps_of_a_put(
    client: Client, daemon: Any, spawn: Callable[..., Child], kind: str
) -> None:
    kept = client.put(table_of(2), name="kept")
    base = client.status()
    steps: list[str] = []
    for last in itertools.count():
        child = spawn("put", str(daemon.socket), kind, last)
        heard = child.hear()
        assert heard is not None, (steps, "the child failed by itself")
        child.wait()
        steps.append(heard[0])
        status = daemon.status()
        assert [c.pid for c in status.clients] == [os.getpid()], steps[-1]
        if client.exists("doomed"):
            assert client.get("doomed").equals(table_of(1)), steps[-1]
            client.delete("doomed")
            status = daemon.status()
        assert status.objects == 1, steps[-1]
        assert status.deleted_pinned == 0, steps[-1]
        assert status.memory_used == base.memory_used, steps[-1]
        assert status.memory_charged == base.memory_charged, steps[-1]
        if steps[-1] == "done":
            break
        child.close()
    assert {"attached", "half sent", "sent", "answered", "pinned"} <= set(steps)
    assert len(steps) >= 15
    assert client.get(kept).equals(table_of(2))


def child_hold(lines: Lines, path: str, *names: str) -> None:
    """Hold values and tell whether they are unchanged, as often as asked."""
    client = connect(path, autostart=False)
    tables = [client.get(name) for name in names]
    copies = [client.get(name, mode="copy") for name in names]
    lines.say("holding")
    while (asked := lines.hear()) is not None:
        if asked == ["drop"]:
            tables, copies = [], []
        lines.say(all(a.equals(b) for a, b in zip(tables, copies, strict=True)))


def test_kill_while_holding_pins(client: Client, daemon: Any, spawn: Callable[..., Child]) -> None:
    """Deleted memory comes back with the last reader, however it ends."""
    client.put(table_of(3), name="a")
    used = client.status().memory_used
    readers = [spawn("hold", str(daemon.socket), "a") for _ in range(3)]
    assert [r.hear() for r in readers] == [["holding"]] * 3
    client.delete("a")
    for i, reader in enumerate(readers):
        status = client.status()
        assert (status.objects, status.deleted_pinned, status.memory_used) == (0, 1, used)
        # What the writer writes now must not land under the readers.
        client.delete([client.put(table_of(100 + j)) for j in range(3)])
        for other in readers[i:]:
            other.say("check")
            assert other.hear() == [True]
        reader.kill()
        forgotten(client, reader)
    status = client.status()
    assert (status.deleted_pinned, status.memory_used) == (0, 0)


def test_dropping_the_last_pin_frees_without_a_further_request(
    client: Client, daemon: Any, spawn: Callable[..., Child]
) -> None:
    client.put(table_of(4), name="a")
    reader = spawn("hold", str(daemon.socket), "a")
    assert reader.hear() == ["holding"]
    client.delete("a")
    assert daemon.status().deleted_pinned == 1
    reader.say("drop")
    assert reader.hear() == [True]
    until(lambda: daemon.status().deleted_pinned == 0, "a pin stays")
    assert daemon.status().memory_used == 0


def child_sit(lines: Lines, path: str, what: str) -> None:
    """Hold something unsealed until killed."""
    client = connect(path, autostart=False)
    if what == "pool":
        held: Any = client.create_blob(8 * MIB)
        held.view()[:] = b"x" * (8 * MIB)
    elif what == "extent":
        client._a.lease()
        encoder = Encoder(default_registry)
        encoder.add(table_of(5, 8 * MIB))
        held = client._a._plan(encoder.parts)
        held.place(True)
    elif what == "strict":
        held = client._a.request(p.MakeStrict(8 * MIB))
    lines.say(what)
    lines.hear()
    del held


@pytest.mark.parametrize("what", ["pool", "extent", "strict"])
def test_kill_while_holding_unsealed_memory(
    client: Client, daemon: Any, spawn: Callable[..., Child], what: str
) -> None:
    client.put(table_of(6))
    before = client.status()
    child = spawn("sit", str(daemon.socket), what)
    assert child.hear() == [what]
    assert client.status().memory_charged >= before.memory_charged + 8 * MIB
    child.kill()
    forgotten(client, child)
    after = client.status()
    for figure in ("memory_used", "memory_charged", "memory_committed"):
        assert getattr(after, figure) <= getattr(before, figure), figure
    assert len(after.clients) == 1


def child_fill(lines: Lines, path: str, nbytes: int) -> None:
    """Put until the store is full; then go on with one more when told."""
    client = connect(path, autostart=False)
    n = 0
    with contextlib.suppress(StoreFullError):
        while True:
            client.put(np.full(nbytes, n, np.uint8))
            n += 1
    blob = None
    with contextlib.suppress(StoreFullError):
        blob = client.create_blob(nbytes // 4)
    lines.say(n)
    lines.hear()
    lines.say("asking")
    with contextlib.suppress(StoreFullError):
        client.put(np.zeros(nbytes * 2, np.uint8))
    lines.say("refused")
    lines.hear()
    del blob


def test_a_full_store_after_its_writer_died(
    make_daemon: Callable[..., Any], spawn: Callable[..., Child]
) -> None:
    """Sealed objects stay, and what it had not sealed is others' to use at once."""
    daemon = make_daemon("--memory-limit", "64MiB")
    child = spawn("fill", str(daemon.socket), 4 * MIB)
    (n,) = child.hear()
    assert 10 <= n <= 16
    with daemon.connect() as client:
        assert client.status().memory_charged <= 64 * MIB
        child.kill()
        forgotten(client, child)
        assert client.status().objects == n
        left = 64 * MIB - client.status().memory_used
        client.delete([m.id for m in client.list_objects()][2:])
        oid = client.put(np.arange(40 * MIB // 8))
        assert left < 24 * MIB
        assert client.get(oid)[-1] == 40 * MIB // 8 - 1
        values = {int(client.get(m.id)[0]) for m in client.list_objects() if m.id != oid}
        assert values == {0, 1}
        client.clear()
        del values
        status = client.status()
        assert status.memory_used == 0
        assert status.memory_charged <= 64 * MIB


def in_futex(pid: int) -> bool:
    """Whether the main thread waits in a futex."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/syscall").read_text().split()[0] == "202"
    return False


def test_kill_while_waiting_for_credit(
    make_daemon: Callable[..., Any], spawn: Callable[..., Child]
) -> None:
    daemon = make_daemon("--memory-limit", "64MiB")
    child = spawn("fill", str(daemon.socket), 4 * MIB)
    child.hear()
    with daemon.connect() as client:
        client.clear()
        client.memory_trim()
        client.put(np.zeros(57 * MIB, np.uint8), name="mine")  # hardly any credit is left
        used = client.status().memory_used
        with stopped(daemon.pid):
            child.say("go")
            assert child.hear() == ["asking"]
            until(lambda: in_futex(child.pid), "the child does not wait")
            child.kill()
        until(lambda: len(client.status().clients) == 1, "the dead client stays")
        assert client.status().memory_used <= used
        oid = client.put(np.ones(4 * MIB, np.uint8))
        assert client.get(oid).sum() == 4 * MIB
        client.clear()


def test_waiting_writers_get_what_a_dead_one_leaves(
    make_daemon: Callable[..., Any], spawn: Callable[..., Child]
) -> None:
    """A put that finds no room succeeds if the room comes within its wait."""
    daemon = make_daemon("--memory-limit", "64MiB")
    child = spawn("sit", str(daemon.socket), "pool")
    child.hear()
    with daemon.connect() as client:
        stop_process(daemon.pid)
        timer = threading.Timer(0.05, lambda: (child.kill(), os.kill(daemon.pid, signal.SIGCONT)))
        timer.start()
        try:
            oid = client.put(np.ones(60 * MIB, np.uint8))
        finally:
            timer.join()
        assert client.get(oid)[-1] == 1
        client.clear()


# ---- deletes


def test_delete_in_one_process_while_others_read(
    client: Client, daemon: Any, spawn: Callable[..., Child]
) -> None:
    for i in range(4):
        client.put(table_of(10 + i), name=f"t{i}")
    names = [f"t{i}" for i in range(4)]
    reader = spawn("hold", str(daemon.socket), *names)
    assert reader.hear() == ["holding"]
    client.delete(names)
    for i in range(12):  # much more than what was freed
        client.delete(client.put(table_of(50 + i)))
    client.memory_trim()
    reader.say("check")
    assert reader.hear() == [True]
    reader.kill()
    forgotten(client, reader)
    assert client.status().deleted_pinned == 0
    assert client.status().memory_used == 0


def child_fork(lines: Lines, path: str) -> None:
    """Read what was inherited over a fork, after it was deleted and the parent is gone."""
    client = connect(path, autostart=False)
    table, expected = client.get("t"), client.get("t", mode="copy")
    if os.fork():
        os._exit(0)
    lines.say("forked", os.getpid())
    while lines.hear() is not None:
        lines.say(table.equals(expected))


def test_delete_between_a_fork_and_the_childs_read(
    client: Client, daemon: Any, spawn: Callable[..., Child]
) -> None:
    client.put(table_of(20), name="t")
    used = client.status().memory_used
    parent = spawn("fork", str(daemon.socket))
    heard = parent.hear()
    assert heard[0] == "forked"
    parent.wait()
    pidfd = os.pidfd_open(heard[1])
    try:
        client.delete("t")
        client.delete([client.put(table_of(60 + i)) for i in range(4)])
        parent.say("check")
        assert parent.hear() == [True]
        assert client.status().memory_used == used
        assert client.status().deleted_pinned == 1
        os.kill(heard[1], signal.SIGKILL)
        assert select.select([pidfd], [], [], DEADLINE_S)[0]
    finally:
        os.close(pidfd)
    status = client.status()
    assert (len(status.clients), status.deleted_pinned, status.memory_used) == (1, 0, 0)


def child_stale(lines: Lines, path: str) -> None:
    """A child without pins keeps no mapping that answers for a later segment."""
    client = connect(path, autostart=False)
    client.get("old")  # maps its segment, pins nothing for long
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        return
    client.status()  # attaches the child
    lines.say("ready")
    lines.hear()
    got = [int(client.get("new", mode=mode)[0]) for mode in ("cow", "copy", "ro")]
    lines.say(got)
    lines.hear()


def test_a_forked_child_reads_no_retired_segment(
    client: Client, daemon: Any, spawn: Callable[..., Child]
) -> None:
    client.put(np.full(1 << 20, 1, np.uint8), name="old", seal="strict")
    child = spawn("stale", str(daemon.socket))
    assert child.hear() == ["ready"]
    client.delete("old")
    client.put(np.full(1 << 20, 2, np.uint8), name="new", seal="strict")
    child.say("go")
    assert child.hear() == [[2, 2, 2]]
    child.say("end")
    child.wait()


# ---- the daemon dies


def test_kill_of_the_daemon(make_daemon: Callable[..., Any]) -> None:
    daemon = make_daemon("--memory-limit", "64MiB")
    # Whatever waits for an answer waits too long for this test.
    with daemon.connect(timeout_s=1000.0) as client:
        table = table_of(30)
        oid = client.put(table, name="t")
        got = client.get(oid)
        blob = client.create_blob(100_000)
        daemon.kill()
        calls: list[Callable[[], Any]] = [
            lambda: client.get(oid),
            lambda: client.get("t"),
            lambda: client.get(oid, mode="copy"),
            lambda: client.get("none", timeout_s=1000.0),
            lambda: client.get_name("none", wait=True, timeout_s=1000.0),
            lambda: client.get_name("t"),
            lambda: client.put(1),
            lambda: client.put_many([1, table]),
            lambda: client.put(b"x" * 100_000, seal="strict"),
            lambda: client.delete(oid),
            lambda: client.exists(oid),
            lambda: client.get_meta(oid),
            lambda: client.list_objects(),
            lambda: client.list_names(),
            lambda: client.put_name(oid, "u"),
            lambda: client.drop_name("t"),
            lambda: client.status(),
            lambda: client.memory_trim(),
            lambda: client.clear(),
            lambda: blob.seal(),
        ]
        for call in calls:
            with pytest.raises(ConnectionLostError):
                call()
        assert got.equals(table)
        blob.drop()
        # What needs credit fails; it does not wait for an answer.
        with pytest.raises(MemoryError):
            pa.allocate_buffer(48 * MIB, memory_pool=client.memory_pool)
        with pytest.raises((ConnectionLostError, MemoryError)):
            client.create_blob(48 * MIB)
    assert got.equals(table)
    with pytest.raises(ConfigError):
        daemon.connect()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_orderly_end_with_clients_attached(
    make_daemon: Callable[..., Any], number: signal.Signals
) -> None:
    daemon = make_daemon("--memory-limit", "64MiB")
    with daemon.connect() as client, daemon.connect():
        table = table_of(31)
        oid = client.put(table, name="t")
        got = client.get("t")
        daemon.kill(number)
        assert not daemon.socket.exists()
        for key in (oid, "t"):
            with pytest.raises(ConnectionLostError):
                client.get(key)
        assert not client._a.alive
        with pytest.raises(ConnectionLostError):
            client.put(1)
        assert got.equals(table)


def test_the_end_of_the_daemon_ends_every_wait(make_daemon: Callable[..., Any]) -> None:
    daemon = make_daemon("--memory-limit", "64MiB")
    ended: list[BaseException] = []
    with daemon.connect() as client:

        def wait(call: Callable[[], Any]) -> None:
            try:
                call()
            except BaseException as error:
                ended.append(error)

        calls = [
            lambda: client.get_name("never", wait=True, timeout_s=60),
            lambda: client.get("never", timeout_s=60),
        ]
        fds = len(os.listdir(f"/proc/{daemon.pid}/fd"))
        threads = [threading.Thread(target=wait, args=(call,)) for call in calls]
        for thread in threads:
            thread.start()
        until(lambda: len(os.listdir(f"/proc/{daemon.pid}/fd")) >= fds + 2, "no wait begins")
        daemon.kill()
        for thread in threads:
            thread.join(DEADLINE_S)
            assert not thread.is_alive()
    assert [type(e) for e in ended] == [ConnectionLostError] * 2


def test_a_new_daemon_on_the_socket_of_a_dead_one(make_daemon: Callable[..., Any]) -> None:
    from conftest import run_daemon

    old = make_daemon("--memory-limit", "64MiB")
    with old.connect() as before:
        oid = before.put(table_of(32), name="t")
        got = before.get(oid)
        old.kill()
        assert old.socket.exists()
        new = run_daemon(old.socket.parent, old.socket.name, "--memory-limit", "64MiB")
        try:
            with new.connect() as client:
                assert client.instance != before.instance
                assert client.status().objects == 0
                with pytest.raises(ObjectNotFoundError):
                    client.get(oid)
                assert client.get(client.put(5)) == 5
                # What the old one's memory holds is data like any other.
                kept = client.put(got)
                assert client.get(kept).equals(table_of(32))
                with pytest.raises(ConnectionLostError):
                    before.get(oid)
                with pytest.raises(ConnectionLostError):
                    before.put(1)
                assert got.equals(table_of(32))
        finally:
            new.stop()


def test_a_second_daemon_is_refused(make_daemon: Callable[..., Any]) -> None:
    from conftest import run_daemon

    daemon = make_daemon("--memory-limit", "64MiB")
    with daemon.connect() as client:
        oid = client.put(7)
        with pytest.raises(ConfigError, match="already"):
            run_daemon(daemon.socket.parent, daemon.socket.name, "--memory-limit", "64MiB")
        assert client.get(oid) == 7
    with daemon.connect() as client:
        assert client.get(oid) == 7
        client.clear()


# ---- the daemon is silent


def test_a_stopped_daemon_ends_in_the_deadline_and_goes_on(
    make_daemon: Callable[..., Any],
) -> None:
    daemon = make_daemon("--memory-limit", "64MiB")
    with daemon.connect(timeout_s=0.3) as client:
        table = table_of(33)
        oid = client.put(table, name="t")
        with stopped(daemon.pid):
            assert client.get(oid).equals(table)  # needs no daemon
            assert client.get("t", mode="copy").equals(table)
            for call in (
                lambda: client.status(),
                lambda: client.get("none"),
                lambda: client.put(2, name="two"),
                lambda: client.put(b"x" * 100_000, seal="strict"),
                lambda: client.delete(oid),
                lambda: client.get_name("none", wait=True, timeout_s=0.1),
            ):
                begun = time.monotonic()
                with pytest.raises(DeadlineExceededError):
                    call()
                assert time.monotonic() - begun < DEADLINE_S
            begun = time.monotonic()
            with pytest.raises((MemoryError, DeadlineExceededError)):
                client.create_blob(48 * MIB)
            assert time.monotonic() - begun < DEADLINE_S
        # The late answers are passed over; what was asked for may have happened.
        client.put(table, name="u")
        assert client.get("u").equals(table)
        for meta in client.list_objects():
            value = client.get(meta.id)
            assert value in (2, b"x" * 100_000) or value.equals(table)
            del value
        client.clear()
        status = client.status()
        assert (status.objects, status.memory_used) == (0, 0)


def test_a_put_interrupted_by_a_signal_keeps_what_the_daemon_sealed(
    make_daemon: Callable[..., Any],
) -> None:
    """Ctrl-C while the answer is awaited: the extents are the daemon's, not free again."""
    daemon = make_daemon("--memory-limit", "64MiB")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        with daemon.connect(timeout_s=1000.0) as client:
            client.put(0)  # has a lease
            values = [np.full(MIB, i, np.uint8) for i in range(1, 6)]
            for value in values[:3]:
                with stopped(daemon.pid):
                    alarm = threading.Thread(target=alarm_who_waits)
                    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
                        alarm.start()
                        client.put(value, name=f"v{value[0]}")
                    alarm.join()
            for value in values[3:]:  # the same client goes on
                client.put(value, name=f"v{value[0]}")
            for value in values:
                assert (client.get(f"v{value[0]}") == value).all()
            client.clear()
            assert client.status().memory_used == 0
    finally:
        signal.signal(signal.SIGALRM, previous)


def alarm_who_waits() -> None:
    """SIGALRM, once the main thread waits for an answer: what it asked for is on its way."""
    thread = threading.main_thread().native_id
    path = Path(f"/proc/self/task/{thread}/syscall")
    until(lambda: path.read_text().split()[0] == "47", "it does not wait")  # in recvmsg
    os.kill(os.getpid(), signal.SIGALRM)


def test_connecting_to_a_stopped_daemon_ends_in_the_deadline(
    make_daemon: Callable[..., Any],
) -> None:
    daemon = make_daemon("--memory-limit", "64MiB")
    with stopped(daemon.pid):
        begun = time.monotonic()
        with pytest.raises(DeadlineExceededError):
            daemon.connect(timeout_s=0.2)
        assert time.monotonic() - begun < DEADLINE_S
    with daemon.connect() as client:
        assert client.get(client.put(3)) == 3
        client.clear()


# ---- refusals leave nothing behind


def test_a_put_that_fails_leaves_the_source_writable(client: Client) -> None:
    client.put(1, name="taken")
    blob = client.create_blob(200_000)
    view = blob.view()
    view[:] = b"a" * 200_000
    del view
    used = client.status().memory_used
    with pytest.raises(VineyardArrowError):
        blob.seal(name="taken")
    assert client.status().memory_used == used
    view = blob.view()
    view[:] = b"b" * 200_000  # not a fault
    del view
    oid = blob.seal(name="free")
    assert client.get(oid).to_pybytes() == b"b" * 200_000


def test_an_object_over_many_segments_is_mapped_at_its_first_get(
    client: Client, daemon: Any
) -> None:
    columns = {}
    for i in range(10):
        got = client.get(client.put(pa.table({"x": np.full(10_000, i)}), seal="strict"))
        columns[f"c{i}"] = got["x"]
    table = pa.table(columns)
    oid = client.put(table)
    assert client.get_meta(oid).copied == 0
    script = (
        "import sys; from vineyard_arrow.client import connect\n"
        f"c = connect({str(daemon.socket)!r}, autostart=False)\n"
        f"t = c.get({int(oid)}); print([t.column(i)[0].as_py() for i in range(10)])\n"
        f"m = c.get_meta({int(oid)})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert done.stdout.strip() == str(list(range(10))), done.stderr
    del got, columns, table


def test_neighbouring_strict_segments_are_shared_whole(client: Client) -> None:
    """Buffers that touch across two segments are two ranges, not one that nobody has."""
    tables = [
        client.get(client.put(pa.table({"x": np.full((2 << 20) // 8, i)}), seal="strict"))
        for i in range(4)
    ]
    together = pa.concat_tables(tables)
    meta = client.get_meta(client.put(together))
    assert (meta.copied, meta.gathered) == (0, 0)
    assert meta.shared == 4 * (2 << 20)
    del tables, together


def test_strict_put_many_is_all_or_none(client: Client) -> None:
    client.put(1, name="taken")
    charged = client.status().memory_charged
    with pytest.raises(VineyardArrowError):
        client.put_many([b"x" * 100_000] * 3, names=["a", "b", "taken"], seal="strict")
    assert client.list_names() == {"taken": client.get_name("taken")}
    assert client.status().objects == 1
    assert client.status().memory_charged == charged


def test_threads_that_put_build_and_delete_while_memory_is_trimmed(
    make_daemon: Callable[..., Any],
) -> None:
    """The pool, the ring home, the trimmer and credit under four threads and little room."""
    daemon = make_daemon("--memory-limit", "64MiB")
    failed: list[BaseException] = []

    def work(client: Client, seed: int) -> None:
        try:
            for i in range(40):
                value = np.full(100_000 + 4096 * (i % 7), seed * 1000 + i)
                if i % 2:
                    oid = client.put(pa.array(value.tolist(), memory_pool=client.memory_pool))
                    assert client.get(oid)[-1].as_py() == seed * 1000 + i
                else:
                    oid = client.put(value)
                    got = client.get(oid)
                    client.delete(oid)
                    other = client.put(value + 1)
                    assert (got == value).all()
                    oid = other
                if i % 5 == 0:
                    client.memory_trim()
                client.delete(oid)
        except BaseException as error:
            failed.append(error)

    with daemon.connect() as client:
        threads = [threading.Thread(target=work, args=(client, seed)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_S)
            assert not thread.is_alive()
        assert not failed
        status = client.status()
        assert (status.objects, status.memory_used) == (0, 0)


def test_an_orderly_stop_leaves_unsealed_memory_alone(make_daemon: Any) -> None:
    """Its pages are the client's, whether the daemon is killed or stops by itself."""
    own = make_daemon("--memory-limit", "64MiB")
    with own.connect() as client:
        built = pc.add(pa.array(np.arange(1 << 17)), 1, memory_pool=client.memory_pool)
        sealed = client.get(client.put(pa.array(np.arange(1 << 17))))
        own.stop(signal.SIGTERM)
        assert built.equals(pa.array(np.arange(1, (1 << 17) + 1)))
        assert sealed.equals(pa.array(np.arange(1 << 17)))
        del built, sealed
