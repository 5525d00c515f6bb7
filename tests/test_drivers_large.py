"""Datasets of many times the store's limit flow through it: each row once, within bounds."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Daemon
from test_faults import Child, Lines, helper, spawn  # noqa: F401  # fixtures

from vineyard_arrow.client import Client, connect

pytestmark = [pytest.mark.stress, pytest.mark.timeout(300)]

MIB = 1 << 20
FILES, ROWS = 64, MIB  # of a file, which has 64 MiB once it is decoded
GROUP = ROWS // 4
LIMIT = 512 * MIB
BOUND = 320 * MIB  # 64 MiB that wait in the stream, as much that is decoded, what is being read
TOLD = 16  # batches, after which the child says how far it is


def texts() -> pa.Array:
    """Of the rows of a file: 52 bytes each."""
    codes = pa.array(np.arange(ROWS) % 97, pa.int32())
    return pa.DictionaryArray.from_arrays(codes, [f"{n:052}" for n in range(97)])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """4 GiB in 64 files of Parquet, which are small: rows are numbered, texts repeat."""
    folder = tmp_path_factory.mktemp("large")
    numbers, values = np.arange(ROWS), texts()
    for n in range(FILES):
        pq.write_table(
            pa.table({"id": numbers + n * ROWS, "text": values}),
            folder / f"{n:02}.parquet",
            row_group_size=GROUP,
            use_dictionary=["text"],
            column_encoding={"id": "DELTA_BINARY_PACKED"},
            store_schema=False,  # so texts are read as such
        )
    assert sum(path.stat().st_size for path in folder.iterdir()) < 256 * MIB
    yield folder
    shutil.rmtree(folder)  # pytest keeps folders for a while


@pytest.fixture
def narrow(make_daemon: Callable[..., Daemon]) -> Daemon:
    """A store of an eighth of the dataset."""
    return make_daemon("--memory-limit", str(LIMIT), "--pages", "small")


class Seen:
    """What came of the dataset: all rows so far, each once and in order, or it fails."""

    def __init__(self) -> None:
        self.rows = self.nbytes = 0
        self._texts = texts().cast(pa.string())

    def add(self, batch: pa.RecordBatch) -> None:
        count, at = len(batch), self.rows % ROWS
        assert np.array_equal(batch["id"], np.arange(self.rows, self.rows + count))
        assert batch["text"] == self._texts.slice(at, count)
        self.rows += count
        self.nbytes += batch.nbytes


def child_consume(lines: Lines, path: str, name: str) -> None:
    client = connect(path, autostart=False)
    seen = Seen()
    with client.open_stream(name, timeout_s=60) as reader:
        lines.say("opened")
        for n, batch in enumerate(reader, 1):
            seen.add(batch)
            if n % TOLD == 0:
                lines.say("at", seen.rows)
    lines.say("end", seen.rows, seen.nbytes)


class Peak:
    """The most that was in use, of what is asked now and then."""

    def __init__(self, client: Client) -> None:
        self._client, self.looks, self.used, self.charged = client, 0, 0, 0

    def look(self) -> None:
        status = self._client.status()
        self.looks += 1
        self.used = max(self.used, status.memory_used)
        self.charged = max(self.charged, status.memory_charged)  # with what is kept warm

    def check(self) -> None:
        assert self.looks >= 10
        assert self.used <= BOUND
        assert self.charged <= LIMIT


def test_a_scan_read_by_another_process(
    dataset: Path,
    narrow: Daemon,
    spawn: Callable[..., Child],  # noqa: F811
) -> None:
    with narrow.connect() as client:
        peak = Peak(client)
        reader = client.scan(dataset, name="large")
        child = spawn("test_drivers_large.consume", str(narrow.socket), "large")
        assert child.hear() == ["opened"]
        reader.close()  # the child alone reads on
        while (heard := child.hear())[0] == "at":
            peak.look()
        child.wait()
    _, rows, nbytes = heard
    assert rows == FILES * ROWS
    assert nbytes >= 4 << 30
    peak.check()


def test_a_scan_written_to_a_file(dataset: Path, narrow: Daemon, tmp_path: Path) -> None:
    path = tmp_path / "all.parquet"
    with narrow.connect() as client:
        peak = Peak(client)
        client.write(
            client.scan(dataset), path, compression="zstd", progress=lambda *_: peak.look()
        )
    peak.check()
    seen = Seen()
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(GROUP):
            seen.add(batch)
    assert seen.rows == FILES * ROWS
    path.unlink()
