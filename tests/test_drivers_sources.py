"""What the source of rows or `progress` raises: the caller gets just that, and nothing is left."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from drivers_harness import end_scans
from drivers_harness import nothing_left as nothing_left

from vineyard_arrow.client import Client
from vineyard_arrow.errors import StreamFailedError

TABLE = pa.table({"a": [1, 2, 3]})
FILES: dict[str, dict[str, Any]] = {
    "a.parquet": {},
    "a.csv": {},
    "a.jsonl": {},
    "a.orc": {},
    "a.arrow": {},
    "a.arrows": {},
    "d": {"file_rows": 2},
}
TABLES: dict[str, dict[str, Any]] = {
    "delta": {"format": "delta"},
    "a.lance": {},
    "sqlite:///a.db": {"table": "t"},
    "duckdb:///a.duckdb": {"table": "t"},
    "sqlalchemy+sqlite:///b.db": {"table": "t"},
}
ERRORS = {
    "OSError": lambda: OSError(5, "mine"),
    "FileNotFoundError": lambda: FileNotFoundError(2, "mine"),
    "ArrowInvalid": lambda: pa.ArrowInvalid("mine"),
    "MemoryError": lambda: MemoryError("mine"),
    "LookupError": lambda: LookupError("mine"),
}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(params=ERRORS)
def error(request: pytest.FixtureRequest) -> BaseException:
    return ERRORS[request.param]()


def raising(error: BaseException) -> pa.RecordBatchReader:
    def rows_of_mine() -> Iterator[pa.RecordBatch]:
        yield from TABLE.to_batches()
        raise error

    return pa.RecordBatchReader.from_batches(TABLE.schema, rows_of_mine())


def telling(error: BaseException) -> Callable[[int, int], None]:
    def progress_of_mine(done: int, total: int) -> None:
        raise error

    return progress_of_mine


def told(do: Callable[[], Any], error: BaseException) -> None:
    """It raises that very error, which tells where it came from, and nothing besides."""
    assert raised_by(do) is error
    names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert names[-1].endswith("of_mine")
    assert error.__context__ is None
    error.__traceback__ = None  # else it keeps what was read


def raised_by(do: Callable[[], Any]) -> Exception | None:
    try:
        do()
    except Exception as error:
        return error
    return None


@pytest.mark.parametrize("url", [*FILES, "delta", "a.lance"])
def test_files(client: Client, tmp_path: Path, url: str, error: BaseException) -> None:
    options = {**FILES, **TABLES}[url]
    told(lambda: client.write(raising(error), url, **options), error)
    told(lambda: client.write(TABLE, url, progress=telling(error), **options), error)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("url", [url for url in TABLES if "://" in url])
def test_databases(client: Client, url: str, error: BaseException) -> None:
    client.write(TABLE, url, **TABLES[url])
    options = {"mode": "append", **TABLES[url]}
    told(lambda: client.write(raising(error), url, **options), error)
    told(lambda: client.write(TABLE, url, progress=telling(error), **options), error)
    assert client.get(client.read(url, **TABLES[url])) == TABLE


@pytest.mark.parametrize("url", ["a.parquet", "delta", "sqlite:///a.db"])
def test_progress_of_reads(client: Client, url: str, error: BaseException) -> None:
    options = {**FILES, **TABLES}[url]
    client.write(TABLE, url, **options)
    told(lambda: client.read(url, progress=telling(error), **options), error)
    assert client.status().objects == 0
    name = type(error).__name__
    with (
        client.scan(url, progress=telling(error), **options) as reader,
        pytest.raises(StreamFailedError, match=f": {name}: ") as raised,
    ):
        reader.read_all()
    assert url.rpartition("/")[2] not in str(raised.value)
    end_scans()
    error.__traceback__ = error.__context__ = None


def test_what_says_itself_in_c_is_told_too(client: Client, tmp_path: Path) -> None:
    class Foreign:
        def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
            return raising(LookupError("mine")).__arrow_c_stream__()

    with pytest.raises(Exception, match="mine") as raised:
        client.write(Foreign(), "a.parquet")
    assert "a.parquet" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_progress_is_told_of_directories(client: Client) -> None:
    done: list[tuple[int, int]] = []
    client.write(TABLE, "d", file_rows=2, progress=lambda *told: done.append(told))
    assert done == [(TABLE.nbytes, TABLE.nbytes)]
