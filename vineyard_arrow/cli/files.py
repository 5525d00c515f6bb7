"""Tables from files and into files, by the ending of the name. Knows no store.

What is read comes from pyarrow's default pool of the moment, so that a caller can have it
built in shared memory.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..errors import InvalidObjectError
from .parser import PACKED, READABLE, WRITABLE
from .report import clean, rich_console

PROGRESS_NBYTES = 64 << 20
BATCH_ROWS = 1 << 18
ROW_GROUP_ROWS = 1 << 20
_PACKED = set(PACKED.split(", "))


def read_table(path: Path) -> pa.Table:
    """Read a file of tabular data.

    Raises
    ------
    InvalidObjectError
        If its ending or its content is not of a known format.
    OSError
        If it cannot be read.
    MemoryError
        If it does not fit in the pool.
    """
    suffixes = [s.lower() for s in path.suffixes]
    packed = bool(suffixes) and suffixes[-1] in _PACKED
    kind = (suffixes[-2:-1] if packed else suffixes[-1:]) or [""]
    reader = _READERS.get(kind[0])
    if reader is None or (packed and kind[0] not in _STREAMED):
        raise InvalidObjectError(f"{path}: the name does not tell a format", f"use {READABLE}")
    nbytes = os.stat(path).st_size
    try:
        with reading(path.name, nbytes):
            return reader(path)
    except (MemoryError, OSError):
        raise
    except pa.ArrowException as error:
        raise InvalidObjectError(f"{path} cannot be read as {kind[0][1:]}: {error}") from None


def _read_parquet(path: Path) -> pa.Table:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        return file.read()


def _read_csv(path: Path) -> pa.Table:
    import pyarrow.csv

    options = pyarrow.csv.ParseOptions(delimiter="\t" if ".tsv" in path.suffixes else ",")
    with pa.input_stream(str(path), compression="detect") as stream:
        return pyarrow.csv.read_csv(
            stream, parse_options=options, memory_pool=pa.default_memory_pool()
        )


def _read_json(path: Path) -> pa.Table:
    import pyarrow.json

    with pa.input_stream(str(path), compression="detect") as stream:
        return pyarrow.json.read_json(stream, memory_pool=pa.default_memory_pool())


def _read_arrow(path: Path) -> pa.Table:
    with pa.OSFile(str(path)) as file:
        magic = file.read(6)
        file.seek(0)
        options: dict[str, Any] = {"memory_pool": pa.default_memory_pool()}
        opener = pa.ipc.open_file if magic == b"ARROW1" else pa.ipc.open_stream
        with opener(file, **options) as reader:
            return reader.read_all()


_READERS: dict[str, Callable[[Path], pa.Table]] = {
    ".parquet": _read_parquet,
    ".pq": _read_parquet,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_json,
    ".ndjson": _read_json,
    ".json": _read_json,
    ".arrow": _read_arrow,
    ".ipc": _read_arrow,
    ".feather": _read_arrow,
}
_STREAMED = {".csv", ".tsv", ".jsonl", ".ndjson", ".json"}


def check_writable(path: Path) -> None:
    """Raise InvalidObjectError unless the ending of ``path`` tells a format to write."""
    if path.suffix.lower() not in _WRITERS:
        raise InvalidObjectError(f"{path}: the name does not tell a format", f"use {WRITABLE}")


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table to a file, which appears once it is whole.

    Raises
    ------
    InvalidObjectError
        If the ending is of no known format, or the format cannot hold the table.
    OSError
        If it cannot be written.
    """
    check_writable(path)
    opener, rows = _WRITERS[path.suffix.lower()]
    mode = 0o666 & ~_umask()
    fd, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(fd, "wb") as file:
            with writing(path.name, table) as advance, opener(file, table) as writer:
                for start in range(0, table.num_rows, rows):
                    piece = table.slice(start, rows)
                    writer.write_table(piece)
                    advance(piece.num_rows)
            os.fchmod(file.fileno(), mode)
        os.replace(partial, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        if isinstance(error, pa.ArrowException) and not isinstance(error, OSError | MemoryError):
            message = f"a {path.suffix[1:]} file cannot hold this table: {error}"
            raise InvalidObjectError(message, f"use one of {WRITABLE}") from None
        raise


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _parquet_writer(file: Any, table: pa.Table) -> Any:
    import pyarrow.parquet as pq

    return pq.ParquetWriter(file, table.schema)


def _csv_writer(file: Any, table: pa.Table) -> Any:
    import pyarrow.csv

    return pyarrow.csv.CSVWriter(file, table.schema)


def _arrow_writer(file: Any, table: pa.Table) -> Any:
    # The file format has one dictionary a column, a table may have one a chunk.
    options = pa.ipc.IpcWriteOptions(unify_dictionaries=True)
    return pa.ipc.new_file(file, table.schema, options=options)


def _feather_writer(file: Any, table: pa.Table) -> Any:
    options = pa.ipc.IpcWriteOptions(unify_dictionaries=True, compression="lz4")
    return pa.ipc.new_file(file, table.schema, options=options)


_WRITERS: dict[str, tuple[Callable[[Any, pa.Table], Any], int]] = {
    ".parquet": (_parquet_writer, ROW_GROUP_ROWS),
    ".csv": (_csv_writer, BATCH_ROWS),
    ".arrow": (_arrow_writer, 1 << 62),
    ".feather": (_feather_writer, BATCH_ROWS),
}


# ---- progress, on standard error and for people only


@contextlib.contextmanager
def reading(label: str, nbytes: int) -> Iterator[None]:
    """Show how much of a file of ``nbytes`` this process has read, if that takes a while."""
    with bar(label, nbytes, nbytes) as update:
        if update is None:
            yield
            return
        before, done = _bytes_read(), threading.Event()

        def watch() -> None:
            while not done.wait(0.1):
                update(min(_bytes_read() - before, nbytes))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()
            update(nbytes)


def _bytes_read() -> int:
    """What this process has had by read() and pread() so far; readers of Arrow don't say."""
    with open("/proc/self/io", encoding="ascii") as file:
        return int(file.readline().split()[1])


@contextlib.contextmanager
def writing(label: str, table: pa.Table) -> Iterator[Callable[[int], None]]:
    """Show how many rows of a large table are written; yields what to tell them."""
    written = 0
    with bar(label, table.num_rows, table.nbytes) as update:

        def advance(rows: int) -> None:
            nonlocal written
            written += rows
            if update is not None:
                update(written)

        yield advance


@contextlib.contextmanager
def bar(label: str, total: int, nbytes: int) -> Iterator[Callable[[int], None] | None]:
    """A progress bar's setter, or None where there is nobody to look or little to wait for."""
    console = rich_console(stderr=True) if sys.stderr.isatty() else None
    if nbytes < PROGRESS_NBYTES or console is None:
        yield None
        return
    from rich.markup import escape
    from rich.progress import Progress

    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(escape(clean(label)), total=total)
        yield lambda done: progress.update(task, completed=done)


class Transfer:
    """What `serialize` and others call with bytes done and in all, shown if it takes a while."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._stack = contextlib.ExitStack()
        self._update: Callable[[int], None] | None = None
        self._begun = False

    def __enter__(self) -> Transfer:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __call__(self, done: int, total: int) -> None:
        """So much is done."""
        if not self._begun:
            self._begun = True
            self._update = self._stack.enter_context(bar(self._label, total, total))
        if self._update is not None:
            self._update(done)
