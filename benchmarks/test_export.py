"""Export and import of 512 MiB, against bare writes and reads of the same bytes in the same round.

To memory (/dev/shm) the bound is the kernel's copying of pages; to the temporary folder it is
that, too, for as long as the page cache takes it all: nobody here waits for the disk, neither
side calls fsync. Where a disk is the bound, whatever sums bytes up beside it costs nothing.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from measure import MIB, Pages, back_memory, paired, rate_of, ratio_of, report, seconds

from vineyard_arrow import deserialize, serialize

ROUNDS = 5
PIECE = 4 * MIB
COLUMNS = 8
NBYTES = 512 * MIB


@pytest.fixture(params=["/dev/shm", "the temporary folder"])
def folder(request: pytest.FixtureRequest) -> Iterator[Path]:
    where = request.param if request.param.startswith("/") else None
    with tempfile.TemporaryDirectory(dir=where) as path:
        yield Path(path)


def write_raw(path: Path, data: memoryview) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for at in range(0, len(data), PIECE):
        os.write(fd, data[at : at + PIECE])
    os.close(fd)


def read_raw(path: Path, into: memoryview) -> None:
    fd = os.open(path, os.O_RDONLY)
    done = 0
    while done < len(into):
        done += os.readv(fd, [into[done : done + PIECE]])
    os.close(fd)


def table() -> pa.Table:
    rows = NBYTES // 8 // COLUMNS
    return pa.table({f"c{i}": np.arange(i, i + rows) for i in range(COLUMNS)})


@pytest.mark.benchmark(group="export and import of 512 MiB")
def test_export(benchmark, stores, folder):
    store = stores["auto"]
    oid = store.client.put(table())
    data = memoryview(np.arange(NBYTES // 8)).cast("B")

    def export() -> float:
        os.sync()  # neither waits for what the other left to the disk
        back_memory(NBYTES)
        taken = seconds(lambda: serialize(oid, folder / "out", client=store.client))
        shutil.rmtree(folder / "out")
        return taken

    def raw() -> float:
        os.sync()
        back_memory(NBYTES)
        taken = seconds(write_raw, folder / "raw", data)
        (folder / "raw").unlink()
        return taken

    ours, theirs = paired(benchmark, export, raw, rounds=ROUNDS)
    row(benchmark, f"export to {named(folder)} / write()", ours, theirs)


@pytest.mark.benchmark(group="export and import of 512 MiB")
def test_import(benchmark, stores, folder):
    store = stores["auto"]
    serialize(store.client.put(table()), folder / "out", client=store.client)
    store.client.clear()
    (path,) = (folder / "out").glob("*.arrow")
    yardstick = Pages(store.files, NBYTES)
    copied: list[int] = []

    def load() -> float:
        store.client.memory_trim()
        back_memory(NBYTES)
        new: list[int] = []
        taken = seconds(lambda: new.extend(deserialize(folder / "out", client=store.client)))
        copied.append(store.client.get_meta(new[0]).copied)
        store.client.delete(new)
        return taken

    def raw() -> float:
        back_memory(NBYTES)
        yardstick.cool()
        return seconds(read_raw, path, memoryview(yardstick.bytes)[:NBYTES])

    ours, theirs = paired(benchmark, load, raw, rounds=ROUNDS)
    yardstick.close()
    row(benchmark, f"import from {named(folder)} / read() to such pages", ours, theirs)
    report(benchmark, "bytes copied after that", f"{max(copied)} B", "", max(copied), "<= 0")


def named(folder: Path) -> str:
    return "/dev/shm" if str(folder).startswith("/dev/shm") else "a folder on disk"


def row(benchmark, what: str, ours: list[float], theirs: list[float]) -> None:
    report(
        benchmark,
        what,
        rate_of(NBYTES, ours),
        rate_of(NBYTES, theirs),
        ratio_of(theirs, ours),
        ">= 0.8",
    )
