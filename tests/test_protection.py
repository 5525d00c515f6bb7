"""What is sealed, the kernel lets nobody write: one test for each kind of protection."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import Daemon
from test_fork import in_child

from vineyard_arrow.client import Client
from vineyard_arrow.errors import InvalidObjectError

ROWS = 100_000
SEALED_SIZE = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
SEALED_FOR_GOOD = fcntl.F_SEAL_WRITE | SEALED_SIZE | fcntl.F_SEAL_SEAL


@pytest.fixture(params=["small", "huge"])
def store(request: pytest.FixtureRequest) -> Daemon:
    """A daemon on each kind of page."""
    return request.getfixturevalue({"small": "daemon", "huge": "huge_daemon"}[request.param])


def files(pid: int | str = "self", kind: str = "lease") -> list[int]:
    """Descriptors of segments of one kind that a process has."""
    found = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            name = os.path.basename(os.readlink(f"/proc/{pid}/fd/{fd}"))
        except FileNotFoundError:
            continue  # of the listing itself
        if name.removeprefix("memfd:").startswith(f"{kind}-"):
            found.append(int(fd))
    return found


def refusal(function: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    """Name of the error that the operating system answers with."""
    try:
        function(*arguments, **options)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "allowed"


def map_for_writing(fd: int) -> None:
    mmap.mmap(fd, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE).close()


def kernel_writes(address: int) -> str:
    """What the kernel says to writing one byte there, at the request of this process."""
    zero = os.open("/dev/zero", os.O_RDONLY)
    try:
        return refusal(os.readv, zero, [(ctypes.c_char * 1).from_address(address)])
    finally:
        os.close(zero)


def address_of(table: pa.Table) -> int:
    return table.column(0).chunk(0).buffers()[1].address


def table_of(value: int = 1) -> pa.Table:
    return pa.table({"a": np.full(ROWS, value)})


def put_by_another(store: Daemon, **options: Any) -> int:
    """An object whose writer is gone."""

    def put() -> int:
        with store.connect() as client:
            return int(client.put(table_of(), **options))

    oid = in_child(put)
    assert isinstance(oid, int)
    return oid


# ---- what a reader was given


def test_a_readers_descriptor_refuses_a_writable_map(store: Daemon) -> None:
    oid = put_by_another(store)
    before = files()
    with store.connect() as client:
        table = client.get(oid)
        fds = sorted(set(files()) - set(before))
        assert fds
        for fd in fds:
            assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
            assert refusal(map_for_writing, fd) == "EACCES"
            assert refusal(os.pwrite, fd, b"x", 0) == "EBADF"
            assert refusal(os.ftruncate, fd, 0) == "EINVAL"
            assert refusal(fcntl.fcntl, fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE) in (
                "EPERM",
                "EINVAL",
            )
            punch = 0x01 | 0x02  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
            libc = ctypes.CDLL(None, use_errno=True)
            assert libc.fallocate64(fd, punch, ctypes.c_int64(0), ctypes.c_int64(1 << 40)) == -1
            assert ctypes.get_errno() == errno.EBADF
        assert table.equals(table_of())
        del table


def test_a_readers_descriptor_cannot_be_reopened_on_huge_pages(huge_daemon: Daemon) -> None:
    oid = put_by_another(huge_daemon)
    before = files()
    with huge_daemon.connect() as client:
        assert client.status().page_kind == "huge-tmpfs"
        client.get(oid)
        for fd in set(files()) - set(before):
            assert refusal(os.open, f"/proc/self/fd/{fd}", os.O_RDWR) == "EROFS"
            assert refusal(os.open, f"/proc/self/fd/{fd}", os.O_WRONLY) == "EROFS"
            assert refusal(os.truncate, f"/proc/self/fd/{fd}", 0) == "EROFS"
            assert refusal(os.chmod, f"/proc/self/fd/{fd}", 0o666) == "EROFS"


def test_nobody_changes_the_size_of_a_memfd(daemon: Daemon) -> None:
    oid = put_by_another(daemon)
    before = files()
    with daemon.connect() as client:
        client.get(oid)
        for fd in set(files()) - set(before):
            assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & SEALED_SIZE == SEALED_SIZE
        for fd in files(daemon.pid):
            own = os.open(f"/proc/{daemon.pid}/fd/{fd}", os.O_RDWR)
            try:
                assert refusal(os.ftruncate, own, 0) == "EPERM"
                assert refusal(os.ftruncate, own, os.fstat(own).st_size + 1) == "EPERM"
            finally:
                os.close(own)


def test_the_writer_keeps_no_writable_descriptor(store: Daemon) -> None:
    before = set(files())
    with store.connect() as client:
        client.put(table_of())
        pa.array(range(ROWS), memory_pool=client.memory_pool)
        fds = set(files()) - before
        assert fds
        for fd in fds:
            assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY


def test_the_index_and_the_catalog_are_read_only(client: Client) -> None:
    client.put(table_of(), name="x")
    code = """
import sys
from vineyard_arrow.client import connect
client = connect(sys.argv[1], autostart=False)
client.get("x")
for line in open("/proc/self/maps"):
    if "vineyard-index" in line or "catalog-" in line:
        print(line.split()[1])
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(client._a.socket)],
        capture_output=True,
        text=True,
        check=True,
        timeout=150,
        cwd=Path(__file__).parents[1],
    )
    assert set(done.stdout.split()) == {"r--s"}


# ---- addresses: the reader's and the writer's own view


def views(store: Daemon, kind: str) -> tuple[Client, Any, int]:
    """A client, what keeps the memory, and the address of a sealed byte in its view."""
    if kind == "reader":
        oid = put_by_another(store)
        client = store.connect()
        table = client.get(oid)
    else:
        client = store.connect()
        if kind == "strict":
            table = client.get(client.put(table_of(), seal="strict"))
        elif kind == "copied":
            table = client.get(client.put(table_of()))
        else:
            table = pa.table({"a": pa.array([1] * ROWS, memory_pool=client.memory_pool)})
            assert kernel_writes(address_of(table)) == "allowed"
            oid = client.put(table)
            assert client.get_meta(oid).copied == 0
            if kind == "pool-read":
                table = client.get(oid)
    return client, table, address_of(table)


KINDS = ["reader", "copied", "pool", "pool-read", "strict"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_kernel_refuses_a_write_to_sealed_memory(store: Daemon, kind: str) -> None:
    client, table, address = views(store, kind)
    with client:
        for at in (address, address + 8 * ROWS // 2, address + 8 * ROWS - 1):
            assert kernel_writes(at) == "EFAULT"
        assert client._a._core.offset_of(address) is not None
        del table


@pytest.mark.parametrize("kind", KINDS)
def test_a_write_to_sealed_memory_is_the_end_of_its_process(store: Daemon, kind: str) -> None:
    def write(really: bool) -> str:
        _, table, address = views(store, kind)
        byte = ctypes.c_char.from_address(address)
        assert table.num_rows == ROWS
        if really:
            byte.value = b"x"
        return "alive"

    assert in_child(write, False) == "alive"
    assert in_child(write, True) == signal.SIGSEGV
    with store.connect() as client:
        for meta in client.list_objects():
            assert set(client.get(meta.id)["a"].to_numpy()[1:]) == {1}


def test_a_forked_child_cannot_write_what_it_inherited(client: Client) -> None:
    built = pa.array([1] * ROWS, memory_pool=client.memory_pool)
    table = client.get(client.put(table_of()))

    def write(address: int) -> None:
        ctypes.c_char.from_address(address).value = b"x"

    assert in_child(write, address_of(table)) == signal.SIGSEGV
    assert in_child(write, built.buffers()[1].address) == signal.SIGSEGV
    assert table.equals(table_of())
    assert built.equals(pa.array([1] * ROWS))


def test_memory_is_writable_again_once_it_is_free(client: Client) -> None:
    pool = client.memory_pool
    table = pa.table({"a": pa.array([1] * ROWS, memory_pool=pool)})
    address = address_of(table)
    client.delete(client.put(table))
    assert table.equals(table_of())
    del table
    again = pa.allocate_buffer(8 * ROWS, memory_pool=pool)
    assert kernel_writes(again.address) == "allowed"
    assert again.address == address


# ---- seal="strict"


def test_strictly_sealed_memory_is_sealed_for_everyone(daemon: Daemon) -> None:
    oid = put_by_another(daemon, seal="strict")
    before = set(files(kind="strict"))
    with daemon.connect() as client:
        table = client.get(oid)
        (fd,) = set(files(kind="strict")) - before
        assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & SEALED_FOR_GOOD == SEALED_FOR_GOOD
        assert refusal(map_for_writing, fd) in ("EACCES", "EPERM")
        paths = [f"/proc/self/fd/{fd}"]
        paths += [f"/proc/{daemon.pid}/fd/{n}" for n in files(daemon.pid, "strict")]
        assert len(paths) == 3
        for path in paths:
            reopened = os.open(path, os.O_RDWR)  # the store's own user, or root, may
            try:
                assert refusal(map_for_writing, reopened) == "EPERM"
                assert refusal(os.pwrite, reopened, b"x", 0) == "EPERM"
                assert refusal(os.write, reopened, b"x") == "EPERM"
                assert refusal(os.ftruncate, reopened, 0) == "EPERM"
                assert refusal(os.posix_fallocate, reopened, 0, 1 << 30) == "EPERM"
                seals = fcntl.fcntl(reopened, fcntl.F_GET_SEALS)
                assert refusal(fcntl.fcntl, reopened, fcntl.F_ADD_SEALS, 0x10) == "EPERM"
                assert seals == fcntl.fcntl(fd, fcntl.F_GET_SEALS)
            finally:
                os.close(reopened)
        assert table.equals(table_of())
        del table


def test_strict_puts_copy_everything_and_give_it_back(client: Client, daemon: Daemon) -> None:
    table = pa.table({"a": pa.array([1] * ROWS, memory_pool=client.memory_pool), "b": ["x"] * ROWS})
    oid = client.put(table, seal="strict")
    meta = client.get_meta(oid)
    assert (meta.copied, meta.shared, meta.gathered) == (meta.nbytes, 0, 0)
    assert "strict" in [s.kind for s in client.status().segments]
    got = client.get(oid)
    assert got.equals(table)
    client.delete(oid)
    assert got.equals(table)
    del got, table
    status = client.status()
    assert status.memory_used == 0
    assert "strict" not in [s.kind for s in status.segments]


@pytest.mark.parametrize("value", [pa.table({}), pa.table({"a": []}), None, [], b""])
def test_strict_puts_of_next_to_nothing(client: Client, value: Any) -> None:
    oid = client.put(value, seal="strict")
    got = client.get(oid)
    assert got.equals(value) if isinstance(value, pa.Table) else got == value
    client.delete(oid)
    del got
    assert "strict" not in [s.kind for s in client.status().segments]


def test_a_refused_strict_put_leaves_nothing(client: Client) -> None:
    client.put(1, name="taken")
    before = client.status()
    for values, names in (([table_of()], ["taken"]), ([table_of()] * 3, ["a", "b", "a"])):
        with pytest.raises(ValueError, match="taken"):
            client.put_many(values, names=names, seal="strict")
    after = client.status()
    assert (after.objects, after.names, after.memory_used) == (1, 1, before.memory_used)
    assert "strict" not in [s.kind for s in after.segments]


def test_seal_has_two_values(client: Client) -> None:
    with pytest.raises(InvalidObjectError, match="'very'"):
        client.put(1, seal="very")


# ---- private copies


@pytest.mark.parametrize("mode", ["cow", "copy"])
def test_writes_to_a_private_copy_stay_private(store: Daemon, mode: str) -> None:
    with store.connect() as client:
        original = np.arange(ROWS, dtype=np.float64)
        oid = client.put(original)
        first, second = client.get(oid, mode=mode), client.get(oid, mode=mode)
        assert first.flags.writeable
        first[:] = -1
        assert (first == -1).all()
        np.testing.assert_array_equal(second, original)
        np.testing.assert_array_equal(client.get(oid), original)

        def read() -> bool:
            with store.connect() as other:
                return bool((other.get(oid) == original).all())

        assert in_child(read) is True
        client.delete(oid)
        again = client.put(np.full(ROWS, 9.0))
        np.testing.assert_array_equal(second, original)
        assert (first == -1).all()
        client.delete(again)


@pytest.mark.parametrize("mode", ["cow", "copy"])
def test_a_private_tables_memory_is_writable(client: Client, mode: str) -> None:
    oid = client.put(table_of())
    table = client.get(oid, mode=mode)
    ctypes.c_int64.from_address(address_of(table)).value = 5
    assert table["a"][0].as_py() == 5
    assert client.get(oid).equals(table_of())
    assert client.get(oid, mode=mode).equals(table_of())


def test_arrays_from_get_are_not_writeable(client: Client) -> None:
    array = client.get(client.put(np.arange(ROWS)))
    assert not array.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.flags.writeable = True
    assert not client.get(client.put(table_of()))["a"].to_numpy().flags.writeable
    with pytest.raises(InvalidObjectError, match="'rw'"):
        client.get(client.put(1), mode="rw")


def test_status_says_which_protection_holds(daemon: Daemon, huge_daemon: Daemon) -> None:
    for store, kind, word in ((daemon, "memfd", "root"), (huge_daemon, "huge-tmpfs", "EROFS")):
        status = store.status()
        assert status.page_kind == kind
        assert word in status.protection
