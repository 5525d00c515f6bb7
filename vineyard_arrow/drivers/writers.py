"""The driver that writes tables to files: whole or not at all, alone or as a partitioned dataset.

What is written lies beside its place, under a hidden name, and is moved once it is done.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs as pafs

from ..errors import ConfigError, InvalidObjectError, PathExistsError, PathNotFoundError
from .filesystems import (
    NULL,
    WRITE_SCHEMES,
    Place,
    check_no_delta,
    file_errors,
    is_hidden,
    listed,
    place,
)
from .formats import FORMATS, PACKINGS, packing_of
from .local_files import exchange, move_new, partial
from .registry import Request, driver, format_of, shown

_TEXT = ("csv", "tsv", "json")
_COMPRESSIONS = {
    "parquet": ("none", "snappy", "gzip", "brotli", "lz4", "lz4_raw", "zstd"),
    "orc": ("uncompressed", "snappy", "zlib", "lz4", "zstd"),
    "arrow": ("lz4", "zstd"),
    "arrows": ("lz4", "zstd"),
} | dict.fromkeys(_TEXT, tuple(PACKINGS.values()))
_ROWS = 1 << 20  # of a row group, unless it is said
_IN_DATASETS = {"parquet": "parquet", "csv": "csv", "arrow": "ipc"}


@driver("write", scheme=WRITE_SCHEMES)
@driver("write", scheme=WRITE_SCHEMES, format=tuple(FORMATS))
def write_files(
    request: Request,
    *,
    overwrite: bool = False,
    compression: str | None = None,
    row_group_rows: int | None = None,
    partition_by: Sequence[str] = (),
    file_rows: int | None = None,
    filesystem: Any = None,
) -> None:
    """Write a table to a file, or with ``partition_by`` or ``file_rows`` to a directory."""
    to_directory = bool(partition_by) or file_rows is not None
    name = request.format or ("parquet" if to_directory else None)
    if name not in FORMATS:
        told = "tells no format" if name is None else f"{name!r} is no format of files"
        raise ConfigError(f"{shown(request.url)}: {told}", f"format= one of {', '.join(FORMATS)}")
    if any(rows is not None and rows < 1 for rows in (row_group_rows, file_rows)):
        raise ConfigError("row_group_rows and file_rows are positive numbers")
    if compression is not None and str(compression).lower() not in _COMPRESSIONS[name]:
        raise ConfigError(
            f"compression={compression!r}", f"{name} has {', '.join(_COMPRESSIONS[name])}"
        )
    where = place(request.url.rstrip("/") or "/", filesystem)
    reader = reader_of(request)
    with file_errors(where.name):
        if not to_directory:
            _write_file(where, reader, request, name, overwrite, compression, row_group_rows)
        else:
            by = [partition_by] if isinstance(partition_by, str) else list(partition_by)
            _check_partitions(by, reader.schema)
            told = pa.RecordBatchReader.from_batches(reader.schema, _told(reader, by, request))
            _write_directory(
                where, told, name, overwrite, compression, row_group_rows or _ROWS, by, file_rows
            )


def reader_of(request: Request) -> pa.RecordBatchReader:
    """The rows of a request; what their source raises, the caller gets as it is.

    Raises
    ------
    InvalidObjectError
        If it is no table, or several columns have one name.
    """
    reader = _reader_of(request)
    twice = [name for name, count in Counter(reader.schema.names).items() if count > 1]
    if twice:
        raise InvalidObjectError(
            f"several columns have the name {twice[0]!r}", "rename them before"
        )
    return reader


def _reader_of(request: Request) -> pa.RecordBatchReader:
    value = request.value(as_=pa.Table) if request.key is not None else request.value()
    if isinstance(value, pa.RecordBatch):
        value = pa.Table.from_batches([value])
    if isinstance(value, pa.Table):
        return value.to_reader()
    if isinstance(value, pa.RecordBatchReader):
        return value
    if hasattr(value, "__arrow_c_stream__"):
        return request.watched(pa.RecordBatchReader.from_stream(value))
    raise InvalidObjectError(
        f"a {type(value).__name__} is no table", "tables, frames and readers can be written"
    )


# ---- a file


def _write_file(
    where: Place,
    reader: pa.RecordBatchReader,
    request: Request,
    name: str,
    overwrite: bool,
    compression: str | None,
    rows: int | None,
) -> None:
    packing = packing_of(where.path)
    if packing and format_of(where.path) not in _TEXT:
        raise ConfigError(f"{where.name}: only text is packed whole", "compression= for the rest")
    if name in _TEXT and compression is not None:
        packing, compression = compression, None
    where = _free(where, overwrite, pafs.FileType.File)
    written = 0
    with _beside(where, pafs.FileType.File) as beside:
        with (
            where.fs.open_output_stream(beside, compression=packing) as sink,
            _fits(name),
            _open_writer(name, sink, reader.schema, compression, rows) as write,
        ):
            for table in _pieces(reader, rows or _ROWS):
                write(table)
                written += table.nbytes
                request.done(written, written)
        _take_file_place(where, beside, overwrite)


def _take_file_place(where: Place, beside: str, overwrite: bool) -> None:
    """Move a file to its place; without ``overwrite`` not over what has come there meanwhile."""
    if overwrite or not where.is_local:
        where.fs.move(beside, where.path)
        return
    try:
        move_new(beside, where.path)
    except FileExistsError:
        raise _there_already(where) from None


@contextlib.contextmanager
def _fits(name: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise _cannot_hold(name, error) from error


def _cannot_hold(name: str, error: BaseException) -> InvalidObjectError:
    return InvalidObjectError(
        f"a {name} file cannot hold this table: {error}", "arrow holds all that there is"
    )


@contextlib.contextmanager
def _open_writer(
    name: str, sink: Any, schema: pa.Schema, compression: str | None, rows: int | None
) -> Iterator[Any]:
    """What writes tables of ``schema`` to ``sink``, one after the other."""
    if name == "parquet":
        import pyarrow.parquet as pq

        with pq.ParquetWriter(sink, schema, compression=compression or "snappy") as parquet:
            yield lambda table: parquet.write_table(table, row_group_size=rows or _ROWS)
    elif name in ("csv", "tsv"):
        import pyarrow.csv

        options = pyarrow.csv.WriteOptions(delimiter="\t" if name == "tsv" else ",")
        with pyarrow.csv.CSVWriter(sink, schema, write_options=options) as text:
            yield text.write_table
    elif name == "json":
        yield lambda table: _write_lines(sink, table)
    elif name == "orc":
        from pyarrow import orc

        if not schema.names:  # pyarrow 26 crashes
            raise InvalidObjectError("an orc file needs a column", "arrow holds all that there is")
        kept = _Kept(sink)
        with orc.ORCWriter(kept, compression=compression or "uncompressed") as writer:
            writer.write(schema.empty_table())

            def write(table: pa.Table) -> None:
                writer.write(table)
                kept.check()

            yield write
        kept.check()
    else:
        # The file format has one dictionary a column, a table may have one a chunk.
        options = pa.ipc.IpcWriteOptions(
            compression=compression, unify_dictionaries=name == "arrow"
        )
        opener = pa.ipc.new_file if name == "arrow" else pa.ipc.new_stream
        with opener(sink, schema, options=options) as ipc:
            yield lambda table: ipc.write_table(table, max_chunksize=rows)


class _Kept:
    """A sink that keeps to itself how it fails until it is asked: ORC's writer ends the process."""

    closed = False

    def __init__(self, sink: Any) -> None:
        self._sink = sink
        self._error: Exception | None = None

    def write(self, data: Any) -> int:
        """Write, or say so, once something has failed."""
        if self._error is None:
            try:
                self._sink.write(data)
            except Exception as error:
                self._error = error
        return len(data)

    def check(self) -> None:
        """Raise what has failed."""
        if self._error is not None:
            raise self._error

    def flush(self) -> None:
        """See `check`."""

    def close(self) -> None:
        """The sink is closed by who opened it."""


def _write_lines(sink: Any, table: pa.Table) -> None:
    import io

    import polars

    lines = io.BytesIO()
    numbered = table.rename_columns([str(n) for n in range(table.num_columns)])
    try:
        frame = polars.from_arrow(numbered)
        assert isinstance(frame, polars.DataFrame)
        frame.columns = table.column_names  # it would name what has no name
        frame.write_ndjson(lines)
    except (polars.exceptions.PolarsError, polars.exceptions.PanicException) as error:
        raise _cannot_hold("json", error) from error
    sink.write(lines.getbuffer())


def _pieces(reader: pa.RecordBatchReader, rows: int) -> Iterator[pa.Table]:
    """Tables of at least ``rows`` rows, but for the last: small batches make no small groups."""
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in reader:
        held.append(batch)
        count += batch.num_rows
        if count >= rows:
            table = pa.Table.from_batches(held, reader.schema)
            whole = count - count % rows
            yield table.slice(0, whole)
            held = table.slice(whole).to_batches() if whole < count else []
            count -= whole
    if count:
        yield pa.Table.from_batches(held, reader.schema)


# ---- a directory


def _check_partitions(by: Sequence[str], schema: pa.Schema) -> None:
    for column in by:
        if schema.get_field_index(column) < 0:
            raise ConfigError(
                f"there is no column {column!r} to partition by",
                f"there are {', '.join(schema.names)}",
            )
        if not column or column[0] in "._" or set("/=%") & set(column):
            raise ConfigError(
                f"no directory can be called {column!r}=...",
                "its name must have no '/', '=' or '%', and no '.' or '_' first",
            )
    if len(set(by)) < len(by) or (by and len(by) >= len(schema.names)):
        raise ConfigError(
            f"partition_by={by}", "each column once, and not all: the files must have one, too"
        )


def _told(
    reader: pa.RecordBatchReader, by: Sequence[str], request: Request
) -> Iterator[pa.RecordBatch]:
    """Batches that can be told by directories, and of which `progress` is told."""
    written = 0
    for batch in reader:
        for column in by:
            if _says_null(batch.column(column)):
                raise InvalidObjectError(
                    f"column {column!r} has the text {NULL!r}",
                    "as the name of a directory it stands for null: use another word",
                )
        yield batch
        written += batch.nbytes
        request.done(written, written)


def _says_null(array: pa.Array) -> bool:
    if isinstance(array, pa.DictionaryArray):
        array = array.dictionary_decode()
    type = array.type
    if not (pa.types.is_string(type) or pa.types.is_large_string(type)):
        return False
    return bool(pc.any(pc.equal(array, NULL)).as_py())


def _write_directory(
    where: Place,
    reader: pa.RecordBatchReader,
    name: str,
    overwrite: bool,
    compression: str | None,
    rows: int,
    by: Sequence[str],
    file_rows: int | None,
) -> None:
    import pyarrow.dataset as ds

    if name not in _IN_DATASETS:
        raise ConfigError(
            f"no directories are written of {name}", f"of {', '.join(_IN_DATASETS)} they are"
        )
    if compression is not None and name in _TEXT:
        raise ConfigError(f"{name} in directories is not packed", "leave compression out")
    where = _free(where, overwrite, pafs.FileType.Directory)
    format = ds._ensure_format(_IN_DATASETS[name])
    options = {"compression": compression} if compression else {}
    keys = pa.schema([reader.schema.field(column) for column in by])
    with _beside(where, pafs.FileType.Directory) as beside:
        with _fits(name):
            ds.write_dataset(
                reader,
                beside,
                filesystem=where.fs,
                format=format,
                file_options=format.make_write_options(**options),
                partitioning=ds.partitioning(keys, flavor="hive") if by else None,
                basename_template=f"part-{secrets.token_hex(4)}-{{i}}{FORMATS[name][0]}",
                max_rows_per_file=file_rows or 0,
                max_rows_per_group=min(rows, file_rows or rows),
            )
        where.fs.create_dir(beside)  # of no rows there are no files
        if where.is_local:
            _take_place(where, beside, overwrite)
        else:
            _move_each(where, beside)


def _take_place(where: Place, beside: str, overwrite: bool) -> None:
    """Move a directory of this machine to its place; what was there is then beside it."""
    while True:
        try:
            move_new(beside, where.path)
            return
        except FileExistsError:
            if not overwrite:
                raise _there_already(where) from None
        _check_replaceable(where, overwrite, pafs.FileType.Directory)  # as it is by now
        with contextlib.suppress(FileNotFoundError, FileExistsError):  # another was faster
            exchange(beside, where.path)
            return
        os.stat(beside)  # it is still there


def _move_each(where: Place, beside: str) -> None:
    """Move all files of a directory to its place; those that were there go."""
    # Object stores move no directories: each file appears whole, the former ones go last.
    former = [i.path for i in listed(where, where.path) if i.type == pafs.FileType.File]
    for info in listed(where, beside):
        if info.type == pafs.FileType.File:
            target = where.path + info.path[len(beside) :]
            where.fs.create_dir(target.rpartition("/")[0], recursive=True)
            where.fs.move(info.path, target)
    for path in former:
        where.fs.delete_file(path)
    where.fs.delete_dir(beside)


def _free(where: Place, overwrite: bool, kind: pafs.FileType) -> Place:
    """Where to write: the place, or what it is a link to, if that is to be replaced."""
    if where.is_local and overwrite:
        where = replace(where, path=os.path.realpath(where.path))
    parent = where.path.rstrip("/").rpartition("/")[0] or "/"
    if where.is_local and not os.path.isdir(parent):
        raise PathNotFoundError(f"{parent}: there is no such directory", "make it first")
    _check_replaceable(where, overwrite, kind)
    return where


def _check_replaceable(where: Place, overwrite: bool, kind: pafs.FileType) -> None:
    found = where.fs.get_file_info(where.path).type
    if not overwrite and where.is_local and os.path.islink(where.path):  # to nothing, maybe
        raise _there_already(where)
    if found == pafs.FileType.NotFound:
        return
    if not overwrite:
        raise _there_already(where)
    if found != kind:
        raise PathExistsError(f"{where.name} is no {kind.name.lower()}", "take another path")
    if kind == pafs.FileType.Directory and _has_others(where):
        raise PathExistsError(
            f"{where.name} has files that are no tables",
            "it is left alone, overwrite=True or not: take another path",
        )


def _there_already(where: Place) -> PathExistsError:
    return PathExistsError(f"{where.name} is there already", "overwrite=True replaces it")


def _has_others(where: Place) -> bool:
    """Whether a directory has what `list_files` does not take for tables, hidden files too."""

    def is_other(info: pafs.FileInfo) -> bool:
        if info.type == pafs.FileType.Directory:
            return False
        hidden = info.type == pafs.FileType.Unknown or is_hidden(info.path, where.path)
        return hidden or format_of(info.path) is None

    infos = listed(where, where.path, until=is_other)
    check_no_delta(where, infos)
    return any(map(is_other, infos))


@contextlib.contextmanager
def _beside(where: Place, kind: pafs.FileType) -> Iterator[str]:
    """The hidden path to write to; nothing is left there."""
    if where.is_local:
        with partial(where.path, directory=kind == pafs.FileType.Directory) as path:
            yield path
        return
    parent = where.path.rpartition("/")[0]
    path = f"{parent}{parent and '/'}.{secrets.token_hex(8)}.partial"
    try:
        yield path
    except BaseException:
        remove = where.fs.delete_file if kind == pafs.FileType.File else where.fs.delete_dir
        with contextlib.suppress(OSError, pa.ArrowException):
            remove(path)
        raise
