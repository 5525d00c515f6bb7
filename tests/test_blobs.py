"""Blobs: writable buffers in the store that are filled, then sealed or dropped."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import Daemon
from test_fork import in_child

from vineyard_arrow.client import Client
from vineyard_arrow.errors import (
    InvalidObjectError,
    ObjectExistsError,
    ObjectNotFoundError,
    StoreFullError,
)

SHARED = 64 << 10
SIZES = [0, 1, SHARED - 1, SHARED, 10 << 20]
READ = """
import hashlib, sys
from vineyard_arrow.client import connect

client = connect(sys.argv[1], autostart=False)
for key in sys.argv[2:]:
    blob = client.get_blob(key)
    offset = client._a._core.offset_of(blob.address) if blob.size else None
    print(blob.size, offset, hashlib.sha256(blob).hexdigest())
"""


def pattern(nbytes: int) -> np.ndarray:
    return np.random.default_rng(nbytes).integers(0, 256, nbytes, dtype=np.uint8)


def test_other_processes_see_the_same_bytes_at_the_same_offset(client: Client) -> None:
    import hashlib

    expected, ids = [], []
    for nbytes in SIZES:
        blob = client.create_blob(nbytes)
        assert blob.nbytes == nbytes
        with blob.view() as view:
            assert not view.readonly
            view[:] = pattern(nbytes).tobytes()
        address = blob.buffer.address if nbytes else 0
        oid = blob.seal()
        own = client.get_blob(oid)
        assert own.size == nbytes
        offset = client._a._core.offset_of(own.address) if nbytes else None
        if nbytes >= SHARED:
            assert client._a._core.offset_of(address) == offset
            assert client.get_meta(oid).copied == client.get_meta(oid).gathered == 0
        digest = hashlib.sha256(pattern(nbytes)).hexdigest()
        assert hashlib.sha256(own).hexdigest() == digest
        expected.append(f"{nbytes} {offset} {digest}")
        ids.append(str(oid))
    done = subprocess.run(
        [sys.executable, "-c", READ, str(client._a.socket), *ids],
        env={"PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.stdout.splitlines() == expected, done.stderr


def test_numpy_fills_and_reads_a_blob(client: Client) -> None:
    blob = client.create_blob(8 * 100_000)
    array = np.frombuffer(blob.view(), dtype=np.int64)
    assert array.flags.writeable
    array[:] = np.arange(100_000)
    del array
    oid = blob.seal(name="numbers")
    read = np.frombuffer(client.get_blob("numbers"), dtype=np.int64)
    assert not read.flags.writeable
    np.testing.assert_array_equal(read, np.arange(100_000))
    assert client.get_blob(str(oid)).equals(client.get_blob(oid))


@pytest.mark.parametrize("nbytes", [SHARED, 10 << 20])
def test_a_write_after_the_seal_faults(daemon: Daemon, nbytes: int) -> None:
    def write(after_seal: bool) -> str:
        client = daemon.connect()
        blob = client.create_blob(nbytes)
        array = np.frombuffer(blob.view(), dtype=np.uint8)
        array[-1] = 1
        oid = blob.seal()
        if after_seal:
            array[-1] = 2
        client.delete(oid)
        return "done"

    assert in_child(write, False) == "done"
    assert in_child(write, True) == signal.SIGSEGV


def test_a_small_blob_is_the_writers_own_after_the_seal(client: Client) -> None:
    blob = client.create_blob(100)
    array = np.frombuffer(blob.view(), dtype=np.uint8)
    array[:] = 1
    oid = blob.seal()
    array[:] = 2
    assert set(client.get_blob(oid).to_pybytes()) == {1}


def test_drop_gives_the_memory_back(client: Client) -> None:
    blob = client.create_blob(1 << 20)
    assert client.status().memory_used == 1 << 20
    blob.drop()
    assert client.status().memory_used == 0
    blob.drop()
    for use in (blob.seal, blob.view, lambda: blob.nbytes):
        with pytest.raises(InvalidObjectError, match="sealed or dropped"):
            use()


def test_a_sealed_blob_is_done(client: Client) -> None:
    blob = client.create_blob(1 << 20)
    blob.seal()
    for use in (blob.seal, blob.view, lambda: blob.nbytes):
        with pytest.raises(InvalidObjectError, match="sealed or dropped"):
            use()


@pytest.mark.parametrize("nbytes", [100, 1 << 20])
def test_a_seal_that_fails_can_be_repeated(client: Client, nbytes: int) -> None:
    client.put(1, name="taken")
    blob = client.create_blob(nbytes)
    with blob.view() as view:
        view[:] = bytes([1]) * nbytes
    with pytest.raises(ObjectExistsError):
        blob.seal(name="taken")
    assert client.status().objects == 1
    assert client.get_blob(blob.seal(name="free")).to_pybytes() == bytes([1]) * nbytes


def test_a_blob_stays_writable_when_its_seal_fails(daemon: Daemon) -> None:
    def write() -> str:
        with daemon.connect() as client:
            client.put(1, name="taken")
            blob = client.create_blob(1 << 20)
            with pytest.raises(ObjectExistsError):
                blob.seal(name="taken")
            blob.view()[0] = 1
            client.clear()
        return "done"

    assert in_child(write) == "done"


def test_wrong_sizes_and_wrong_kinds(client: Client) -> None:
    with pytest.raises(InvalidObjectError, match="-1 bytes"):
        client.create_blob(-1)
    with pytest.raises(StoreFullError, match="no room for 1 TiB"):
        client.create_blob(1 << 40)
    oid = client.put([1, 2])
    with pytest.raises(InvalidObjectError, match="list, not a blob"):
        client.get_blob(oid)
    with pytest.raises(ObjectNotFoundError):
        client.get_blob("o0000000000000001")


def test_a_put_buffer_is_a_blob(client: Client) -> None:
    oid = client.put(pa.py_buffer(b"abc"))
    assert client.get_blob(oid).to_pybytes() == b"abc"
    assert client.get_meta(oid).typename == "vineyard.blob"
