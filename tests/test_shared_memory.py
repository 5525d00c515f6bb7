"""Blocks of shared memory: what the standard library's do, and what only the store's do."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import mmap
import multiprocessing
import os
import pickle
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from multiprocessing import shared_memory as stdlib
from typing import Any

import numpy as np
import pytest
from conftest import Daemon, stopped

import vineyard_arrow
from vineyard_arrow import shared_memory as ours
from vineyard_arrow.cli.doctor import in_store
from vineyard_arrow.client import Client
from vineyard_arrow.errors import (
    BlockExistsError,
    BlockNotFoundError,
    ConnectionLostError,
    InvalidObjectError,
    StoreFullError,
)
from vineyard_arrow.ipc import protocol as p
from vineyard_arrow.ipc.blocks import Blocks
from vineyard_arrow.ipc.hugepages import MemFiles
from vineyard_arrow.ipc.memory import Memory

MIB = 1 << 20
PAGE = mmap.PAGESIZE
JOIN_S = 150

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


# ---- what children do


def child_fills(block: Any, value: int, start: int, stop: int) -> None:
    block.buf[start:stop] = bytes([value]) * (stop - start)
    block.close()


def child_attaches(module: str, name: str, options: dict[str, str]) -> None:
    """Attach by name, reverse the bytes."""
    if module == "ours":
        with vineyard_arrow.connect(options["socket"], autostart=False) as client:
            block: Any = ours.SharedMemory(name, client=client)
    else:
        block = stdlib.SharedMemory(name)
    block.buf[:] = bytes(block.buf)[::-1]
    block.close()


def child_edits(items: Any) -> None:
    assert list(items) == [1, 2.5, "three", b"four", None, True]
    items[0] = 100
    items[2] = "drei"
    items.shm.close()


def child_sends(conn: Any, block: Any) -> None:
    """Send back a pickle of a block that came in one."""
    conn.send_bytes(pickle.dumps(block))
    block.close()


def run(start: str, function: Callable[..., None], *arguments: Any) -> None:
    """Run a function in a child, to its end."""
    child = multiprocessing.get_context(start).Process(target=function, args=arguments)
    child.start()
    child.join(JOIN_S)
    assert child.exitcode == 0
    child.close()


# ---- what both do


class Conformance:
    """The same for the standard library's blocks and the store's; subclasses make them."""

    module = ""

    @pytest.fixture(autouse=True)
    def _unlinked(self) -> Iterator[None]:
        self.made: list[Any] = []
        yield
        for block in self.made:
            block.close()
            with contextlib.suppress(FileNotFoundError):
                block.unlink()
        self.made.clear()

    def options(self) -> dict[str, Any]:
        """Further arguments of both classes."""
        return {}

    def child_options(self) -> dict[str, str]:
        return {}

    def block(self, *args: Any, **kwargs: Any) -> Any:
        module = ours if self.module == "ours" else stdlib
        self.made.append(module.SharedMemory(*args, **kwargs, **self.options()))
        return self.made[-1]

    def list(self, *args: Any, **kwargs: Any) -> Any:
        module = ours if self.module == "ours" else stdlib
        made = module.ShareableList(*args, **kwargs, **self.options())
        self.made.append(made.shm)
        return made

    def name(self) -> str:
        return f"va-test-{os.getpid()}-{len(self.made)}"

    @pytest.mark.parametrize("size", [1, 100, PAGE, PAGE + 1, 3 * MIB])
    def test_create_and_attach(self, size: int) -> None:
        block = self.block(create=True, size=size)
        assert block.size == len(block.buf) == size
        assert not block.buf.readonly
        assert block.buf.format == "B"
        assert bytes(block.buf) == bytes(size)
        other = self.block(block.name)
        assert (other.name, other.size) == (block.name, size)
        block.buf[0] = 1
        assert other.buf[0] == 1
        other.buf[size - 1] = 2
        assert block.buf[size - 1] == 2

    def test_arguments(self) -> None:
        name = self.name()
        assert self.block(name, True, 10).name == name
        assert self.block(name).size == 10
        assert self.block(name, False, 99).size == 10
        assert self.block(name=name, create=False, size=0).size == 10

    def test_names_of_their_own(self) -> None:
        names = {self.block(create=True, size=1).name for _ in range(20)}
        assert len(names) == 20
        assert all(isinstance(name, str) and name for name in names)

    def test_a_slash_before_the_name_does_not_count(self) -> None:
        name = self.name()
        block = self.block("/" + name, True, 10)
        assert block.name == "/" + name
        block.buf[0] = 7
        assert self.block(name).buf[0] == 7
        with pytest.raises(FileExistsError):
            self.block(name, True, 10)

    def test_a_name_that_is_taken(self) -> None:
        block = self.block(self.name(), create=True, size=10)
        block.buf[0] = 5
        with pytest.raises(FileExistsError) as caught:
            self.block(block.name, create=True, size=10)
        assert caught.value.errno == errno.EEXIST
        assert block.buf[0] == 5

    def test_a_name_that_is_unknown(self) -> None:
        with pytest.raises(FileNotFoundError) as caught:
            self.block(self.name())
        assert caught.value.errno == errno.ENOENT

    def test_wrong_arguments(self) -> None:
        for size in (0, -1):
            with pytest.raises(ValueError):
                self.block(create=True, size=size)
        with pytest.raises(ValueError):
            self.block("name", size=-1)
        with pytest.raises(ValueError):
            self.block()
        with pytest.raises(TypeError):
            self.block(create=True, size="10")
        with pytest.raises(TypeError):
            self.block(5)

    def test_who_tracks_it_is_said_by_keyword(self) -> None:
        if self.module == "stdlib" and sys.version_info < (3, 13):
            pytest.skip("the library's came with Python 3.13")
        block = self.block(create=True, size=10, track=False)
        assert self.block(block.name, track=False).size == 10
        with pytest.raises(TypeError):
            self.block(self.name(), True, 10, False)

    def test_unlink_while_open(self) -> None:
        name = self.name()
        block = self.block(name, create=True, size=10)
        other = self.block(name)
        block.buf[0] = 1
        block.unlink()
        with pytest.raises(FileNotFoundError):
            self.block(name)
        other.buf[1] = 2
        assert bytes(block.buf[:2]) == b"\1\2"
        new = self.block(name, create=True, size=20)
        assert bytes(new.buf) == bytes(20)
        assert (block.size, new.size) == (10, 20)

    def test_unlink_twice(self) -> None:
        block = self.block(create=True, size=10)
        block.unlink()
        with pytest.raises(FileNotFoundError):
            block.unlink()
        block.buf[0] = 1

    def test_close(self) -> None:
        block = self.block(create=True, size=10)
        other = self.block(block.name)
        name = block.name
        block.buf[0] = 9
        block.close()
        block.close()
        assert block.buf is None
        assert (block.name, block.size) == (name, 10)
        with pytest.raises(TypeError):
            block.buf[0]
        assert other.buf[0] == 9
        other.close()
        assert self.block(name).buf[0] == 9
        block.unlink()

    def test_close_under_an_array(self) -> None:
        block = self.block(create=True, size=80)
        array = np.frombuffer(block.buf, np.int64)
        with pytest.raises(BufferError):
            block.close()
        array[3] = 5
        assert self.block(block.name).buf[24] == 5
        del array
        block.close()

    def test_close_under_a_slice(self) -> None:
        block = self.block(create=True, size=80)
        part = block.buf[10:20]
        with pytest.raises(BufferError):
            block.close()
        part[0] = 5
        assert self.block(block.name).buf[10] == 5
        part.release()
        block.close()

    def test_repr(self) -> None:
        block = self.block(create=True, size=10)
        assert repr(block) == f"SharedMemory({block.name!r}, size=10)"

    def test_an_array_over_it(self) -> None:
        block = self.block(create=True, size=800)
        array = np.ndarray((10, 10), np.float64, buffer=block.buf)
        array[:] = np.arange(100).reshape(10, 10)
        other = self.block(block.name)
        again = np.frombuffer(other.buf, np.float64).reshape(10, 10)
        again[5, 5] = -1
        assert array[5, 5] == -1
        assert array.sum() == 4950 - 55 - 1
        del array, again

    @pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
    def test_a_pickle_is_the_name(self, protocol: int) -> None:
        block = self.block(create=True, size=PAGE * 4)
        data = pickle.dumps(block, protocol)
        assert len(data) < 300
        other = pickle.loads(data)
        assert type(other) is type(block)
        assert (other.name, other.size) == (block.name, block.size)
        other.buf[0] = 3
        assert block.buf[0] == 3
        other.close()
        block.unlink()
        with pytest.raises(FileNotFoundError):
            pickle.loads(data)

    @pytest.mark.parametrize("start", ["spawn", "fork"])
    def test_a_child_gets_it(self, start: str) -> None:
        block = self.block(create=True, size=1000)
        block.buf[:3] = b"abc"
        run(start, child_fills, block, 7, 3, 6)
        assert bytes(block.buf[:7]) == b"abc\7\7\7\0"

    @pytest.mark.parametrize("start", ["spawn", "fork"])
    def test_a_child_attaches_by_name(self, start: str) -> None:
        block = self.block(self.name(), create=True, size=256)
        block.buf[:] = bytes(range(256))
        run(start, child_attaches, self.module, block.name, self.child_options())
        assert bytes(block.buf) == bytes(range(256))[::-1]

    def test_many_children_write(self) -> None:
        context = multiprocessing.get_context("fork")
        n, each = 4, 100_000
        block = self.block(create=True, size=n * each)
        children = [
            context.Process(target=child_fills, args=(block, i + 1, i * each, (i + 1) * each))
            for i in range(n)
        ]
        for child in children:
            child.start()
        for child in children:
            child.join(JOIN_S)
            assert child.exitcode == 0
            child.close()
        assert bytes(block.buf) == b"".join(bytes([i + 1]) * each for i in range(n))

    # ---- lists

    def test_a_list(self) -> None:
        values = [1, -(1 << 63), 2.5, True, None, "text", "naïve", b"bytes", ""]
        items = self.list(values)
        assert list(items) == values
        assert [type(v) for v in items] == [type(v) for v in values]
        assert len(items) == len(values)
        assert items[-1] == ""
        assert (items.count(2.5), items.index("text")) == (1, 5)
        assert 2.5 in items
        with pytest.raises(ValueError):
            items.index("absent")
        with pytest.raises(IndexError):
            items[len(values)]
        assert repr(items) == f"ShareableList({values}, name={items.shm.name!r})"

    def test_changes_of_a_list(self) -> None:
        items = self.list([1, "12345678", b"x", None])
        other = self.list(name=items.shm.name)
        items[0] = 2.5
        items[1] = "ab"
        items[3] = True
        assert list(other) == [2.5, "ab", b"x", True]
        other[-2] = b"1234567"
        assert items[2] == b"1234567"
        with pytest.raises(ValueError):
            items[1] = "x" * 100
        with pytest.raises(IndexError):
            items[4] = 1
        with pytest.raises(KeyError):
            items[0] = [1]
        assert items.format == other.format

    def test_an_empty_list(self) -> None:
        items = self.list([])
        assert list(self.list(name=items.shm.name)) == list(items) == []

    def test_a_list_of_what_cannot_be_shared(self) -> None:
        with pytest.raises(KeyError):
            self.list([{}])
        with pytest.raises(FileNotFoundError):
            self.list(name=self.name())

    def test_a_named_list(self) -> None:
        name = self.name()
        items = self.list(range(5), name=name)
        assert items.shm.name == name
        with pytest.raises(FileExistsError):
            self.list([1], name=name)
        assert list(self.list(name=name)) == [0, 1, 2, 3, 4]

    def test_a_list_pickled(self) -> None:
        items = self.list([1, "abc"])
        other = pickle.loads(pickle.dumps(items))
        assert type(other) is type(items)
        other[0] = 9
        assert items[0] == 9
        other.shm.close()

    @pytest.mark.parametrize("start", ["spawn", "fork"])
    def test_a_child_edits_a_list(self, start: str) -> None:
        items = self.list([1, 2.5, "three", b"four", None, True])
        run(start, child_edits, items)
        assert list(items) == [100, 2.5, "drei", b"four", None, True]


class TestStandardLibrary(Conformance):
    module = "stdlib"


class TestStore(Conformance):
    module = "ours"

    @pytest.fixture(autouse=True)
    def _client(self, client: Client, daemon: Daemon, _unlinked: None) -> Iterator[None]:
        self.client, self.daemon = client, daemon
        yield
        for block in self.made:
            block.close()
        client.clear()
        assert client.status().block_nbytes == 0

    def options(self) -> dict[str, Any]:
        return {"client": self.client}

    def child_options(self) -> dict[str, str]:
        return {"socket": str(self.daemon.socket)}


# ---- accounting


@pytest.mark.parametrize("size", [1, PAGE, PAGE + 1, 10 * MIB + 3])
def test_every_byte_is_accounted_for(client: Client, size: int) -> None:
    charged = -(-size // PAGE) * PAGE

    def figures() -> tuple[int, ...]:
        s = client.status()
        return s.blocks, s.block_nbytes, s.memory_used, s.memory_charged

    assert figures() == (0, 0, 0, 0)
    base = client.status().memory_committed
    block = ours.SharedMemory(create=True, size=size, client=client)
    other = ours.SharedMemory(block.name, client=client)
    assert figures() == (1, charged, charged, charged)
    assert client.status().memory_committed == base
    block.buf[0] = 1
    assert client.status().memory_committed == base + PAGE
    block.buf[:] = bytes(size)
    assert client.status().memory_committed == base + charged
    block.close()
    other.close()
    assert figures() == (1, charged, charged, charged)  # until it is unlinked
    last = ours.SharedMemory(block.name, client=client)
    block.unlink()
    assert figures() == (1, charged, charged, charged)  # until nobody has it open
    last.close()
    assert figures() == (0, 0, 0, 0)
    assert client.status().memory_committed == base


def test_an_unlinked_block_goes_with_its_name_if_nobody_has_it(client: Client) -> None:
    block = ours.SharedMemory(create=True, size=MIB, client=client)
    block.close()
    block.unlink()
    assert client.status().blocks == 0


def test_memory_is_free_again_without_a_further_request(
    make_daemon: Callable[..., Daemon],
) -> None:
    daemon = make_daemon("--memory-limit", "64MiB", "--pages", "small")
    with daemon.connect() as client:
        for _ in range(5):  # each takes most of the store
            block = ours.SharedMemory(create=True, size=60 * MIB, client=client)
            block.unlink()
            block.close()
            client.delete(client.put(np.ones(50 * MIB, np.int8)))


HOLDER = """
import sys, numpy as np, vineyard_arrow
client = vineyard_arrow.connect(sys.argv[1], autostart=False)
client.delete(client.put(np.ones(50 << 20, np.int8)))
print(flush=True)
sys.stdin.read()
"""


def test_memory_comes_from_a_process_that_has_no_turn(
    make_daemon: Callable[..., Daemon],
) -> None:
    daemon = make_daemon(
        *("--memory-limit", "64MiB", "--pages", "small", "--idle-trim-s", "1000"),
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    command = [sys.executable, "-c", HOLDER, str(daemon.socket)]
    with (
        daemon.connect() as client,
        ThreadPoolExecutor(1) as pool,
        subprocess.Popen(command, **pipes) as holder,
    ):
        holder.stdout.readline()
        with stopped(holder.pid):
            made = pool.submit(ours.SharedMemory, create=True, size=60 * MIB, client=client)
            assert not wait([made], 0.5).done  # refused, unless it waits
        block = made.result(60)
        block.unlink()
        block.close()
        holder.stdin.close()


def test_a_full_store(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon("--memory-limit", "64MiB", "--pages", "small")
    with daemon.connect() as client:
        with pytest.raises(StoreFullError, match="no room for 65 MiB"):
            ours.SharedMemory(create=True, size=65 * MIB, client=client)
        first = ours.SharedMemory("first", create=True, size=40 * MIB, client=client)
        with pytest.raises(MemoryError, match="40 MiB in blocks") as caught:
            ours.SharedMemory("second", create=True, size=40 * MIB, client=client)
        assert isinstance(caught.value, StoreFullError)
        assert "unlink blocks" in (caught.value.hint or "")
        with pytest.raises(BlockNotFoundError):
            ours.SharedMemory("second", client=client)
        with pytest.raises(StoreFullError, match="40 MiB in blocks"):
            client.put(np.ones(30 * MIB, np.int8))
        assert client.status().memory_used == 40 * MIB
        first.unlink()
        with pytest.raises(StoreFullError):  # still open
            ours.SharedMemory("second", create=True, size=40 * MIB, client=client)
        first.close()
        second = ours.SharedMemory("second", create=True, size=64 * MIB, client=client)
        second.buf[-1] = 1
        second.close()


def test_warm_memory_makes_way(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon("--memory-limit", "64MiB", "--pages", "small", "--idle-trim-s", "1000")
    with daemon.connect() as client:
        client.delete(client.put(np.ones(50 * MIB, np.int8)))
        assert client.status().memory_charged >= 50 * MIB
        block = ours.SharedMemory(create=True, size=50 * MIB, client=client)
        block.buf[:] = b"x" * (50 * MIB)
        block.close()


def test_clear_unlinks(client: Client) -> None:
    blocks = [ours.SharedMemory(create=True, size=MIB, client=client) for _ in range(3)]
    blocks[0].close()
    client.clear()
    assert client.status().blocks == 2
    for block in blocks:
        with pytest.raises(FileNotFoundError):
            ours.SharedMemory(block.name, client=client)
    blocks[1].buf[0] = 1
    for block in blocks:
        block.close()
    assert client.status().block_nbytes == 0


def test_the_doctor_names_blocks(client: Client) -> None:
    assert not list(in_store(client.status(), [], []))
    block = ours.SharedMemory(create=True, size=MIB, client=client)
    (found,) = in_store(client.status(), [], [])
    assert found.what == "1 block of shared memory: 1 MiB"
    block.close()


# ---- who has a block open


def child_holds(conn: Any, block: Any) -> None:
    """Write what is asked for, until killed."""
    conn.send("open")
    while True:
        block.buf[0] = conn.recv()
        conn.send("written")


@pytest.mark.parametrize("start", ["spawn", "fork"])
def test_kill_of_a_user(client: Client, start: str) -> None:
    context = multiprocessing.get_context(start)
    block = ours.SharedMemory(create=True, size=MIB, client=client)
    kept = ours.SharedMemory("kept", create=True, size=PAGE, client=client)
    ends, children = [], []
    for _ in range(2):
        here, there = context.Pipe()
        child = context.Process(target=child_holds, args=(there, block))
        child.start()
        there.close()
        assert here.recv() == "open"
        ends.append(here)
        children.append(child)
    block.unlink()
    for i, (here, child) in enumerate(zip(ends, children, strict=True)):
        here.send(i + 10)
        assert here.recv() == "written"
        if i == 0:
            assert block.buf[0] == 10
            block.close()  # only the children have it now
        assert client.status().block_nbytes == MIB + PAGE
        os.kill(child.pid or 0, signal.SIGKILL)
        child.join(JOIN_S)
        assert child.exitcode == -signal.SIGKILL
        child.close()
        here.close()
    assert client.status().block_nbytes == PAGE
    kept.close()
    assert client.status().block_nbytes == PAGE
    kept.unlink()


def test_a_killed_creator_leaves_its_block(client: Client, daemon: Daemon) -> None:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        with daemon.connect() as own:
            block = ours.SharedMemory("left", create=True, size=PAGE, client=own)
            block.buf[:4] = b"left"
            os.write(write, b"x")
            signal.pause()
    assert os.read(read, 1) == b"x"
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(read)
    os.close(write)
    block = ours.SharedMemory("left", client=client)
    assert bytes(block.buf[:4]) == b"left"
    block.close()
    block.unlink()
    assert client.status().memory_used == 0


def test_a_forked_child_has_open_what_its_parent_had(client: Client, daemon: Daemon) -> None:
    block = ours.SharedMemory(create=True, size=MIB, client=client)
    name = block.name
    ours_, theirs = multiprocessing.Pipe()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            theirs.recv()  # the parent has unlinked and closed
            block.buf[:5] = b"child"
            new = ours.SharedMemory(create=True, size=PAGE, client=client)  # it reconnects
            new.buf[:5] = block.buf[:5]
            theirs.send(new.name)
            theirs.recv()
        os._exit(0)
    block.unlink()
    block.close()
    assert client.status().block_nbytes == MIB
    ours_.send("go")
    new = ours.SharedMemory(ours_.recv(), client=client)
    assert bytes(new.buf[:5]) == b"child"
    with pytest.raises(BlockNotFoundError):
        ours.SharedMemory(name, client=client)
    assert client.status().block_nbytes == MIB + PAGE
    ours_.send("end")
    os.waitpid(pid, 0)
    assert client.status().block_nbytes == PAGE
    new.unlink()
    new.close()
    for end in (ours_, theirs):
        end.close()


def test_a_block_outlives_its_client(daemon: Daemon) -> None:
    own = daemon.connect()
    block = ours.SharedMemory("b", create=True, size=MIB, client=own)
    own.close()
    assert not daemon.status().clients
    with daemon.connect() as other:
        again = ours.SharedMemory("b", client=other)
        again.unlink()
        again.close()
    block.buf[0] = 1
    assert daemon.status().block_nbytes == MIB
    block.close()
    assert daemon.status().block_nbytes == 0


def test_an_array_keeps_its_memory(client: Client) -> None:
    block = ours.SharedMemory(create=True, size=MIB, client=client)
    array = np.frombuffer(block.buf, np.int64)
    block.unlink()
    del block
    gc.collect()
    array[:] = 7
    assert client.status().block_nbytes == MIB
    del array
    gc.collect()
    assert client.status().block_nbytes == 0


def test_a_dropped_block_is_closed(client: Client) -> None:
    gc.collect()
    fds = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        ours.SharedMemory(create=True, size=PAGE, client=client).unlink()
    gc.collect()
    assert client.status().blocks == 0
    assert len(os.listdir("/proc/self/fd")) == fds


def test_a_pickle_goes_round(daemon: Daemon, client: Client) -> None:
    """Through a child, to a process that has no client of the store any more."""
    block = ours.SharedMemory(create=True, size=PAGE, client=client)
    here, there = multiprocessing.Pipe()
    run("spawn", child_sends, there, block)
    client.close()
    again = pickle.loads(here.recv_bytes())
    again.buf[0] = 3
    assert block.buf[0] == 3
    again.unlink()  # by the client that came with it
    for end in (here, there):
        end.close()
    block.close()
    again.close()


# ---- objects


@pytest.mark.parametrize("nbytes", [800, 8 * MIB])
def test_a_put_of_a_block_copies(client: Client, nbytes: int) -> None:
    """Mutable memory never becomes an object."""
    block = ours.SharedMemory(create=True, size=nbytes, client=client)
    array = np.frombuffer(block.buf, np.int64)
    array[:] = np.arange(len(array))
    for value in (array, block.buf):
        oid = client.put(value)
        meta = client.get_meta(oid)
        assert meta.shared == 0
        assert meta.copied + meta.gathered >= nbytes
        stored = np.frombuffer(client.get(oid), np.int64)
        array[0] = -1
        assert stored[0] == 0
        assert not np.shares_memory(stored, array)
        array[0] = 0
    del array, value
    block.close()


# ---- the daemon's death


def test_a_dead_daemon(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon("--memory-limit", "64MiB", "--pages", "small")
    client = daemon.connect()
    block = ours.SharedMemory("b", create=True, size=MIB, client=client)
    other = ours.SharedMemory("b", client=client)
    items = ours.ShareableList([1, 2], client=client)
    daemon.kill()
    block.buf[:] = b"x" * MIB
    assert bytes(other.buf) == b"x" * MIB
    items[0] = 5
    assert list(items) == [5, 2]
    with pytest.raises(ConnectionLostError):
        ours.SharedMemory("b", client=client)
    with pytest.raises(ConnectionLostError):
        ours.SharedMemory(create=True, size=PAGE, client=client)
    with pytest.raises(ConnectionLostError):
        block.unlink()
    for each in (block, other, items.shm):
        each.close()
    client.close()


# ---- names, the default client, the wire


def test_names(client: Client) -> None:
    for name in ("x" * 255, "naïve ☃", "with/slash", "with space"):
        block = ours.SharedMemory(name, create=True, size=1, client=client)
        assert ours.SharedMemory(name, client=client).name == name
        block.unlink()
    for name in ("", "/", "x" * 256, "☃" * 86, "\udc80"):
        with pytest.raises(InvalidObjectError):
            ours.SharedMemory(name, create=True, size=1, client=client)
    block = ours.SharedMemory("x", create=True, size=1, client=client)
    with pytest.raises(BlockExistsError, match="'x' already") as caught:
        ours.SharedMemory("x", create=True, size=1, client=client)
    assert pickle.loads(pickle.dumps(caught.value)).hint == caught.value.hint
    block.close()


def test_the_default_client(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vineyard_arrow, "_default", None)
    monkeypatch.setenv("VINEYARD_ARROW_SOCKET", str(daemon.socket))
    block = ours.SharedMemory("b", create=True, size=10, track=False)
    items = ours.ShareableList([1, 2])
    assert isinstance(items.shm, ours.SharedMemory)
    assert isinstance(items, stdlib.ShareableList)
    assert daemon.status().blocks == 2
    for each in (block, items.shm):
        each.close()
        each.unlink()
    vineyard_arrow.default_client().close()


def test_nobody_can_spoil_it_for_the_others(client: Client) -> None:
    block = ours.SharedMemory("b", create=True, size=10 * PAGE, client=client)
    _, (fd, hold_fd) = client._a.request(p.OpenBlock("b"))
    for size in (0, 20 * PAGE):
        with pytest.raises(PermissionError):
            os.ftruncate(fd, size)
    with pytest.raises(PermissionError):
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 0x10)  # F_SEAL_FUTURE_WRITE
    assert fcntl.fcntl(hold_fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
    os.close(fd)
    os.close(hold_fd)
    with pytest.raises(InvalidObjectError):
        client._a.request(p.CreateBlock("c", 0))
    # The standard library's raises the same, but leaves an empty file behind.
    with pytest.raises(OverflowError):
        ours.SharedMemory("c", create=True, size=1 << 63, client=client)
    block.close()


def test_a_stranger_gets_no_block(daemon: Daemon) -> None:
    for message in (p.CreateBlock(None, 1), p.OpenBlock("b"), p.UnlinkBlock("b")):
        with pytest.raises(vineyard_arrow.ProtocolError, match="not allowed"):
            daemon.request(message)


# ---- the book


@pytest.fixture
def memory() -> Iterator[Memory]:
    memory = Memory(MemFiles(False), 64 * MIB, 1.0, MIB)
    yield memory
    memory.close()


def test_descriptors_run_out(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (60, 60))
    blocks = Blocks(memory, MemFiles(False), lambda *_: None, lambda: None)
    gc.collect()
    fds = len(os.listdir("/proc/self/fd"))
    for i in range(10):
        blocks.create(f"b{i}", 1)
    with pytest.raises(StoreFullError, match="10 blocks take half"):
        blocks.create(None, 1)
    blocks.unlink("b0")
    assert len(blocks) == 9

    def no_pipe(_: int) -> tuple[int, int]:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "pipe2", no_pipe)
    with pytest.raises(StoreFullError, match="Too many open files"):
        blocks.create("b0", 1)
    assert memory.charged == memory.reserved == 9 * PAGE
    blocks.close()
    assert len(os.listdir("/proc/self/fd")) == fds
