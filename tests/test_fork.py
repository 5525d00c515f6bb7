"""A forked child reads what it inherited, whatever becomes of it in the parent, and works on."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import multiprocessing
import os
import pickle
import resource
import select
import signal
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import DEADLINE_S, Daemon, Gate

from vineyard_arrow.client import Client

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")

ROWS = 100_000


class Child:
    """A forked child that runs ``function(*arguments)`` and sends back what it returns."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._run(write, function, arguments)
            finally:
                os._exit(1)
        os.close(write)

    def _run(self, write: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        os.close(self._read)
        faulthandler.disable()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            answer = pickle.dumps((True, function(*arguments)))
        except BaseException:
            answer = pickle.dumps((False, traceback.format_exc()))
        while answer:
            answer = answer[os.write(write, answer) :]
        os._exit(0)

    def wait(self) -> Any:
        """What the function returned, once the child is gone; the number of a fatal signal."""
        answer = receive(self._read, self.pid)
        _, status = os.waitpid(self.pid, 0)
        if os.WIFSIGNALED(status):
            return signal.Signals(os.WTERMSIG(status))
        good, value = pickle.loads(answer)
        assert good, value
        return value


def receive(fd: int, pid: int) -> bytes:
    """Everything until the other end closes; ``pid`` is killed if that takes too long."""
    deadline = time.monotonic() + DEADLINE_S
    data = b""
    with open(fd, "rb", buffering=0) as pipe:
        while select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
            chunk = pipe.read(1 << 16)
            if not chunk:
                return data
            data += chunk
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    raise AssertionError(f"process {pid} hangs")


def in_child(function: Callable[..., Any], *arguments: Any) -> Any:
    """What ``function(*arguments)`` returns in a forked child."""
    return Child(function, *arguments).wait()


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another process is about to do."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.002)  # others need the machine


def table_of(value: int, rows: int = ROWS) -> pa.Table:
    return pa.table({"a": np.full(rows, value), "b": np.full(rows, value, dtype=np.int32)})


def values_of(table: pa.Table) -> set[int]:
    return {v for column in table.columns for v in np.unique(column.to_numpy()).tolist()}


def overwrite_free_memory(client: Client) -> None:
    """Put enough to use whatever memory counts as free."""
    client.delete([client.put(table_of(-1)) for _ in range(20)])
    del client


def check_in_child(gate: Gate, table: pa.Table) -> set[int]:
    gate.wait()
    return values_of(table)


def test_an_inherited_table_outlives_its_deletion(
    client: Client, daemon: Daemon, make_gate: Callable[[], Gate]
) -> None:
    gate = make_gate()
    oid = client.put(table_of(7))
    table = client.get(oid)
    child = Child(check_in_child, gate, table)
    client.delete(oid)
    del table
    overwrite_free_memory(client)
    assert client.status().deleted_pinned == 1
    gate.open()
    assert child.wait() == {7}
    until(lambda: daemon.status().deleted_pinned == 0)
    assert client.status().memory_used == 0


def test_an_inherited_table_outlives_the_parent(
    client: Client, daemon: Daemon, make_gate: Callable[[], Gate]
) -> None:
    gate, told = make_gate(), os.pipe()

    def grandchild(table: pa.Table) -> None:
        gate.wait()
        os.write(told[1], repr(values_of(table)).encode())

    def parent() -> None:
        own = daemon.connect()
        oid = own.put(table_of(8))
        table = own.get(oid)
        if os.fork() == 0:
            try:
                grandchild(table)
            finally:
                os._exit(0)
        own.delete(oid)
        os._exit(0)

    pid = os.fork()
    if pid == 0:
        try:
            parent()
        finally:
            os._exit(1)
    os.close(told[1])
    assert os.waitpid(pid, 0)[1] == 0
    until(lambda: pid not in {c.pid for c in daemon.status().clients if "forked" not in c.program})
    assert daemon.status().deleted_pinned == 1
    overwrite_free_memory(client)
    gate.open()
    assert receive(told[0], pid) == b"{8}"
    until(lambda: daemon.status().memory_used == 0)


def test_a_pool_built_table_outlives_its_deletion(
    client: Client, daemon: Daemon, make_gate: Callable[[], Gate]
) -> None:
    gate = make_gate()
    with client.memory_pool:
        table = pa.table({"a": pa.array([9] * ROWS), "b": pa.array([9] * ROWS)})
    oid = client.put(table)
    assert client.get_meta(oid).copied == 0
    child = Child(check_in_child, gate, table)
    client.delete(oid)
    del table
    overwrite_free_memory(client)
    gate.open()
    assert child.wait() == {9}
    until(lambda: daemon.status().memory_used == 0)


def built(client: Client, value: int) -> pa.Table:
    """A table whose buffers lie in the pool of the client."""
    with client.memory_pool:
        return pa.table({"a": pa.array([value] * ROWS), "b": pa.array([value] * ROWS)})


@pytest.mark.parametrize("kind", ["got", "built"])
def test_a_fork_after_close_protects_what_lives_on(
    daemon: Daemon, make_gate: Callable[[], Gate], kind: str
) -> None:
    gate, fds = make_gate(), len(os.listdir("/proc/self/fd"))
    with daemon.connect() as client:
        table = built(client, 9) if kind == "built" else table_of(9)
        oid = client.put(table)
        if kind == "got":
            table = client.get(oid)
    child = Child(check_in_child, gate, table)
    del table
    until(lambda: forked_only(daemon))
    with daemon.connect() as client:
        client.delete(oid)
        overwrite_free_memory(client)
        assert client.status().memory_used > 0
        gate.open()
        assert child.wait() == {9}
        until(lambda: daemon.status().memory_used == 0)
    assert len(os.listdir("/proc/self/fd")) == fds


def forked_only(daemon: Daemon) -> bool:
    """Whether the daemon's one client is a forked child."""
    return [c.program.endswith("(forked)") for c in daemon.status().clients] == [True]


@pytest.mark.parametrize("kind", ["got", "built"])
def test_a_fork_after_close_outlives_the_parent(
    client: Client, daemon: Daemon, make_gate: Callable[[], Gate], kind: str
) -> None:
    gate, told = make_gate(), os.pipe()

    def parent() -> None:
        client.close()
        own = daemon.connect()
        table = built(own, 8) if kind == "built" else table_of(8)
        oid = own.put(table, name="x")
        if kind == "got":
            table = own.get(oid)
        own.close()
        if os.fork() == 0:
            try:
                gate.wait()
                os.write(told[1], repr(values_of(table)).encode())
            finally:
                os._exit(0)
        os._exit(0)

    pid = os.fork()
    if pid == 0:
        try:
            parent()
        finally:
            os._exit(1)
    os.close(told[1])
    assert os.waitpid(pid, 0)[1] == 0
    until(lambda: pid not in {c.pid for c in daemon.status().clients if "forked" not in c.program})
    client.delete("x")
    overwrite_free_memory(client)
    gate.open()
    assert receive(told[0], pid) == b"{8}"
    until(lambda: daemon.status().memory_used == 0)


def test_forks_nest_after_close(daemon: Daemon, make_gate: Callable[[], Gate]) -> None:
    gate = make_gate()
    with daemon.connect() as client:
        oid = client.put(table_of(10))
        table = client.get(oid)

    def nested() -> set[int]:
        inner = Child(check_in_child, gate, table)  # noqa: F821  # deleted below
        return inner.wait() | values_of(table)  # noqa: F821

    child = Child(nested)
    until(lambda: len(daemon.status().clients) == 3)
    del table
    with daemon.connect() as client:
        client.delete(oid)
        overwrite_free_memory(client)
        gate.open()
        assert child.wait() == {10}
        until(lambda: daemon.status().memory_used == 0)


def test_a_child_closes_and_forks(client: Client, daemon: Daemon) -> None:
    oid = client.put(table_of(5))
    table = client.get(oid)

    def close() -> set[int]:
        client.close()
        client.close()
        assert in_child(values_of, table) == {5}
        with daemon.connect() as own:
            return values_of(table) | values_of(own.get(oid))

    assert in_child(close) == {5}


def test_the_hooks_keep_no_closed_attachment(daemon: Daemon) -> None:
    """Not one is alive without buffers, and each fork leaves as many descriptors as before."""
    with daemon.connect() as client:
        table = client.get(client.put(table_of(1)))
    fds, served = len(os.listdir("/proc/self/fd")), daemon.fds
    for _ in range(5):
        assert in_child(values_of, table) == {1}
    until(lambda: [c.pid for c in daemon.status().clients] == [os.getpid()])
    assert (len(os.listdir("/proc/self/fd")), daemon.fds) == (fds, served)
    del table
    until(lambda: not daemon.status().clients)
    assert in_child(lambda: len(daemon.status().clients)) == 0


def test_a_fork_after_close_and_the_daemons_end(make_daemon: Callable[..., Daemon]) -> None:
    own = make_daemon("--memory-limit", "64MiB", "--pages", "small")
    with own.connect() as client:
        table = client.get(client.put(table_of(2)))
    own.kill()
    assert in_child(values_of, table) == {2}


def test_a_child_puts_what_the_parent_built_and_did_not_seal(client: Client) -> None:
    array = pa.array(range(ROWS), memory_pool=client.memory_pool)

    def put() -> tuple[int, int]:
        oid = client.put(array)
        return int(oid), client.get_meta(oid).copied

    oid, copied = in_child(put)
    assert copied == array.nbytes
    assert client.get(oid).equals(array)


def test_a_child_works_on_with_what_it_inherited_pinned(client: Client) -> None:
    table = client.get(client.put(table_of(1)))

    def work() -> tuple[int, int]:
        oid = client.put(table_of(2))
        assert values_of(client.get(oid)) == {2}
        assert client.memory_pool.bytes_allocated() == 0
        built = pa.array(range(ROWS), memory_pool=client.memory_pool)
        from_pool = client.put(built)
        meta = client.get_meta(from_pool)
        assert (meta.copied, meta.shared) == (0, built.nbytes)
        assert client.get(from_pool).equals(built)
        assert values_of(table) == {1}
        again = client.put(table.append_column("c", pa.array([2] * ROWS)))
        assert client.get_meta(again).shared == table.nbytes
        return int(oid), int(again)

    oid, again = in_child(work)
    assert values_of(client.get(oid)) == {2}
    assert values_of(client.get(again)) == {1, 2}


def test_a_child_with_nothing_pinned_reconnects(client: Client, daemon: Daemon) -> None:
    assert in_child(lambda: values_of(client.get(client.put(table_of(3), name="x")))) == {3}
    assert values_of(client.get("x")) == {3}
    until(lambda: [c.pid for c in daemon.status().clients] == [os.getpid()])


def test_a_child_that_only_looks_needs_no_put(client: Client) -> None:
    oid = client.put(table_of(4), name="y")
    assert in_child(lambda: values_of(client.get("y"))) == {4}
    assert in_child(lambda: client.get_meta(oid).nbytes) == 12 * ROWS
    assert in_child(lambda: int(client.get_name("y"))) == oid
    assert in_child(lambda: client.status().objects) == 1


def test_a_child_closes_its_client_and_connects_anew(client: Client, daemon: Daemon) -> None:
    oid = client.put(table_of(5))
    table = client.get(oid)

    def reopen() -> set[int]:
        client.close()
        with daemon.connect() as own:
            assert values_of(table) == {5}
            return values_of(own.get(oid))

    assert in_child(reopen) == {5}
    assert values_of(client.get(oid)) == values_of(table) == {5}


def test_the_parents_pins_are_its_own(client: Client, daemon: Daemon) -> None:
    oid = client.put(table_of(6))
    held = [client.get(oid), client.get(oid)]

    def drop() -> None:
        held.clear()
        client.get(oid)
        gc.collect()

    in_child(drop)
    assert [c.pins for c in client.status().clients if c.pid == os.getpid()] == [2]
    client.delete(oid)
    overwrite_free_memory(client)
    assert client.status().deleted_pinned == 1
    assert [values_of(t) for t in held] == [{6}, {6}]
    held.clear()
    until(lambda: daemon.status().memory_used == 0)


def test_a_child_may_drop_first_or_last(
    client: Client, daemon: Daemon, make_gate: Callable[[], Gate]
) -> None:
    """The child lets go of its inheritance, and pins anew, while the parent has let go."""
    deleted, dropped = make_gate(), make_gate()
    oid = client.put(table_of(6))
    held = [client.get(oid)]

    def child() -> int:
        deleted.wait()
        assert values_of(held[0]) == {6}
        held.clear()
        dropped.open()
        until(lambda: client.status().deleted_pinned == 0)
        return client.status().memory_used

    process = Child(child)
    client.delete(oid)
    held.clear()
    assert daemon.status().deleted_pinned == 1
    deleted.open()
    dropped.wait()
    assert process.wait() == 0


def test_forks_nest(client: Client, make_gate: Callable[[], Gate]) -> None:
    gate = make_gate()
    oid = client.put(table_of(10))
    table = client.get(oid)

    def nested() -> tuple[set[int], set[int], int]:
        inner = Child(lambda: (values_of(table), int(client.put(table_of(11)))))  # noqa: F821  # deleted below
        gate.wait()
        seen, made = inner.wait()
        return seen, values_of(table), made  # noqa: F821

    child = Child(nested)
    client.delete(oid)
    del table
    overwrite_free_memory(client)
    gate.open()
    seen, own, made = child.wait()
    assert (seen, own) == ({10}, {10})
    assert values_of(client.get(made)) == {11}


def test_private_copies_are_inherited(client: Client) -> None:
    oid = client.put(np.full(ROWS, 12))
    cow, copy = client.get(oid, mode="cow"), client.get(oid, mode="copy")

    def write() -> tuple[int, int, int]:
        cow[0] = copy[0] = 13
        return int(cow.sum() - copy.sum()), int(cow[0]), int(client.get(oid)[0])

    assert in_child(write) == (0, 13, 12)
    assert cow[0] == copy[0] == 12


_inherited: list[pa.Table] = []


def _sum_of_slice(start: int) -> int:
    return int(_inherited[0]["a"].slice(start, 1000).to_numpy().sum())


def test_a_pool_of_forked_workers_maps_over_a_table(client: Client, daemon: Daemon) -> None:
    _inherited.append(client.get(client.put(pa.table({"a": np.arange(ROWS)}))))
    try:
        with multiprocessing.get_context("fork").Pool(2) as pool:
            sums = pool.map_async(_sum_of_slice, range(0, ROWS, 1000)).get(DEADLINE_S)
            pool.close()
            pool.join()
    finally:
        _inherited.clear()
    assert sum(sums) == ROWS * (ROWS - 1) // 2
    until(lambda: [c.pid for c in daemon.status().clients] == [os.getpid()])


def test_forks_while_threads_put_and_get(client: Client, daemon: Daemon) -> None:
    held = client.get(client.put(table_of(20), name="held"))
    stop, failed = threading.Event(), []

    def work(value: int) -> None:
        try:
            while not stop.is_set():
                oid = client.put(table_of(value, 10_000))
                assert values_of(client.get(oid)) == {value}
                client.delete(oid)
        except BaseException as error:
            failed.append(error)

    def child(value: int) -> set[int]:
        oid = client.put(table_of(value, 10_000))
        seen = values_of(client.get(oid)) | values_of(held) | values_of(client.get("held"))
        client.delete(oid)
        return seen

    threads = [threading.Thread(target=work, args=(100 + i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    try:
        for i in range(12):
            assert in_child(child, i) == {i, 20}
    finally:
        stop.set()
        for thread in threads:
            thread.join(DEADLINE_S)
    assert not failed
    until(lambda: [c.pid for c in daemon.status().clients] == [os.getpid()])
    until(lambda: daemon.status().deleted_pinned == 0)
    assert client.status().objects == 1


def test_nothing_is_left_of_many_children(client: Client, daemon: Daemon) -> None:
    table = client.get(client.put(table_of(1), name="z"))
    fds = daemon.fds
    for _ in range(10):
        assert in_child(lambda: values_of(table) | values_of(client.get("z"))) == {1}
    until(lambda: [c.pid for c in daemon.status().clients] == [os.getpid()])
    assert daemon.fds == fds
    assert [c.pins for c in daemon.status().clients] == [1]


def test_a_child_of_a_dead_daemon(make_daemon: Callable[..., Daemon]) -> None:
    own = make_daemon("--memory-limit", "64MiB", "--pages", "small")
    with own.connect() as client:
        oid = client.put(table_of(2))
        table = client.get(oid)
        own.kill()

        def child() -> tuple[set[int], str]:
            try:
                client.put(1)
            except ConnectionError as error:
                return values_of(table), type(error).__name__
            raise AssertionError

        assert in_child(child) == ({2}, "ConnectionLostError")
