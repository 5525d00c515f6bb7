"""Many clients, threads and processes at once: nothing torn, nothing lost, nothing left."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest
from conftest import DEADLINE_S, Daemon, Gate
from test_fork import Child, until

from vineyard_arrow.client import Client
from vineyard_arrow.errors import ObjectExistsError, ObjectNotFoundError, StoreFullError

MIB = 1 << 20
SMALL = ("--pages", "small", "--memory-limit")


def constant(value: int, nbytes: int = MIB) -> np.ndarray:
    return np.full(nbytes // 8, value)


def value_of(array: np.ndarray) -> int:
    """The one value of a `constant`; fails if it is torn."""
    first = int(array[0])
    assert (array == first).all(), "torn"
    return first


def work(client: Client, number: int, rounds: int) -> int:
    """Put, get and delete, alone and in batches, with names of one's own; return the puts."""
    for i in range(rounds):
        value = number * 1000 + i
        name = f"{number}/{i}"
        oid = client.put(constant(value, 128 << 10), name=name)
        small = client.put_many([value, str(value)])
        assert value_of(client.get(name)) == value_of(client.get(oid)) == value
        assert client.get_many(small) == [value, str(value)]
        assert client.get_meta(oid).names == (name,)
        client.delete([oid, *small])
        assert not client.exists(name)
    return rounds


def test_threads_share_a_client(client: Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(lambda i: work(client, i, 25), range(8))) == 200
    status = client.status()
    assert (status.objects, status.names, status.memory_used) == (0, 0, 0)


def test_threads_build_in_one_pool(client: Client) -> None:
    def build(value: int) -> None:
        for _ in range(10):
            array = pa.array([value] * 20_000, memory_pool=client.memory_pool)
            oid = client.put(array)
            del array
            assert value_of(client.get(oid).to_numpy()) == value
            client.delete(oid)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(build, range(16)))
    assert client.status().memory_used == 0


def test_processes_of_threads(daemon: Daemon) -> None:
    def process(number: int) -> int:
        with daemon.connect() as client, ThreadPoolExecutor(8) as pool:
            return sum(pool.map(lambda i: work(client, number * 8 + i, 3), range(8)))

    children = [Child(process, i) for i in range(8)]
    assert [child.wait() for child in children] == [24] * 8
    until(lambda: not daemon.status().clients)
    assert daemon.status().memory_used == 0


def test_sixty_four_clients(daemon: Daemon, make_gate: Callable[[], Gate]) -> None:
    ready, go = make_gate(), make_gate()

    def process(number: int) -> int:
        with daemon.connect() as client:
            oid = client.put(constant(number, 64 << 10), name=f"c{number}")
            ready.open()
            go.wait()  # by now all 64 are attached
            neighbour = value_of(client.get(f"c{(number + 1) % 64}"))
            assert value_of(client.get(oid)) == number
            return neighbour

    children = [Child(process, i) for i in range(64)]
    for _ in children:
        ready.wait()
    status = daemon.status()
    assert (len(status.clients), status.objects) == (64, 64)
    for _ in children:
        go.open()
    assert [child.wait() for child in children] == [(i + 1) % 64 for i in range(64)]
    until(lambda: not daemon.status().clients)
    assert daemon.status().objects == 64


def test_one_of_many_gets_a_name(daemon: Daemon) -> None:
    def process() -> int:
        won = 0
        with daemon.connect() as client:
            for i in range(50):
                try:
                    client.put(os.getpid(), name=f"n{i}")
                    won += 1
                except ObjectExistsError:
                    assert client.exists(f"n{i}")
        return won

    children = [Child(process) for _ in range(4)]
    assert sum(child.wait() for child in children) == 50
    with daemon.connect() as client:
        assert (client.status().objects, client.status().names) == (50, 50)


def test_readers_while_objects_are_deleted_and_memory_reused(
    client: Client, daemon: Daemon
) -> None:
    def read() -> tuple[int, int]:
        seen = misses = 0
        held: list[tuple[int, np.ndarray]] = []
        with daemon.connect() as own:
            while not own.exists("stop"):
                for slot in range(4):
                    try:
                        array = own.get(f"slot{slot}")
                    except ObjectNotFoundError:
                        misses += 1
                        continue
                    held.append((value_of(array), array))
                    seen += 1
                if len(held) > 8:  # still right, after the deletion of all of them
                    for value, array in held:
                        assert value_of(array) == value
                    held.clear()
        return seen, misses

    readers = [Child(read) for _ in range(3)]
    try:
        for i in range(300):
            name = f"slot{i % 4}"
            if client.exists(name):
                client.delete(name)
            client.put(constant(i, 256 << 10), name=name)
    finally:
        client.put(1, name="stop")
    assert all(reader.wait()[0] > 0 for reader in readers)
    until(lambda: daemon.status().deleted_pinned == 0)


def test_threads_read_while_objects_are_deleted(client: Client) -> None:
    stop = threading.Event()

    def read() -> int:
        seen = 0
        while not stop.is_set():
            try:
                value_of(client.get("x"))
                seen += 1
            except ObjectNotFoundError:
                continue
        return seen

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(read) for _ in range(3)]
        try:
            for i in range(200):
                oid = client.put(constant(i, 128 << 10), name="x")
                client.delete(oid)
        finally:
            stop.set()
        for reader in readers:
            reader.result(DEADLINE_S)
    assert client.status().memory_used == 0


# ---- little memory


def test_warm_memory_of_one_goes_to_another(
    make_daemon: Callable[..., Daemon], make_gate: Callable[[], Gate]
) -> None:
    daemon = make_daemon(*SMALL, "64MiB", "--idle-trim-s", "1000")
    warm, done = make_gate(), make_gate()

    def first() -> int:
        with daemon.connect() as client:
            client.delete(client.put(constant(1, 48 * MIB)))
            held = client.status().memory_warm
            warm.open()
            done.wait()
            return held

    child = Child(first)
    warm.wait()
    with daemon.connect() as client:
        oid = client.put(constant(2, 48 * MIB))
        assert value_of(client.get(oid)) == 2
        done.open()
        assert child.wait() >= 0
        client.delete(oid)


def test_two_writers_under_pressure(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon(*SMALL, "32MiB")

    def write(number: int) -> int:
        full = 0
        with daemon.connect() as client:
            for i in range(60):
                try:
                    oid = client.put(constant(number * 100 + i, (8 + i % 8) * MIB))
                except StoreFullError:
                    full += 1
                    continue
                assert value_of(client.get(oid)) == number * 100 + i
                client.delete(oid)
        return full

    children = [Child(write, i) for i in range(2)]
    # 15 + 15 MiB always fit, so with deletes answered at once nobody is ever refused
    assert [child.wait() for child in children] == [0, 0]
    until(lambda: not daemon.status().clients)
    status = daemon.status()
    assert (status.memory_used, status.memory_charged, status.objects) == (0, 0, 0)


def test_a_full_store_says_so_and_loses_nothing(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon(*SMALL, "32MiB")
    with daemon.connect() as client:
        ids = []
        with pytest.raises(StoreFullError) as caught:  # noqa: PT012
            while True:
                ids.append(client.put(constant(len(ids), 3 * MIB)))
        error = caught.value
        assert len(ids) == 10
        assert isinstance(error, MemoryError)
        for part in ("no room for 3 MiB", "30 MiB of 32 MiB", "10 objects", f"pid {os.getpid()}"):
            assert part in error.message
        for part in ("delete objects", "--memory-limit", "vineyard-arrow doctor"):
            assert part in error.hint
        used = client.status().memory_used
        for refused in (
            lambda: client.put(constant(0, 3 * MIB), name="x"),
            lambda: client.put_many([1, constant(0, 3 * MIB)], names=["x", "y"]),
            lambda: client.put(constant(0, 3 * MIB), seal="strict"),
            lambda: client.create_blob(3 * MIB),
        ):
            with pytest.raises(StoreFullError, match="no room for 3 MiB"):
                refused()
        status = client.status()
        assert (status.memory_used, status.objects, status.names) == (used, 10, 0)
        assert [value_of(client.get(oid)) for oid in ids] == list(range(10))
        held = client.get(ids[0])
        client.delete(ids[0])
        with pytest.raises(StoreFullError, match="1 deleted ones still read"):
            client.put(constant(0, 3 * MIB))
        assert value_of(held) == 0
        del held
        assert value_of(client.get(client.put(constant(99, 3 * MIB)))) == 99
        client.clear()
        assert client.status().memory_used == 0
        client.delete(client.put(constant(1, 30 * MIB)))


def test_the_index_can_be_full(make_daemon: Callable[..., Daemon]) -> None:
    with make_daemon(*SMALL, "32MiB", "--max-objects", "10").connect() as client:
        ids = client.put_many(range(8))
        client.put_name(ids[0], "a")
        for refused in (
            lambda: client.put_many([8, 9]),
            lambda: client.put(8, name="b"),
        ):
            with pytest.raises(StoreFullError, match="--max-objects"):
                refused()
        client.put(8)
        with pytest.raises(StoreFullError, match="--max-objects"):
            client.put_name(ids[1], "b")
        assert client.get_many([*ids, "a"]) == [*range(8), 0]
        held = client.get(ids[0])
        client.delete(ids[0])
        assert held == 0
        client.put(9, name="b")
        assert client.get("b") == 9
