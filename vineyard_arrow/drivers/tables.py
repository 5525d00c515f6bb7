"""The drivers that read, scan and write tables of Delta Lake, Apache Iceberg and Lance.

They bring what the libraries read into the pool, and let them commit; `table_delta`,
`table_iceberg` and `table_lance` talk to the libraries. See docs/tables.md.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from importlib import import_module
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from ..errors import (
    CommitConflictError,
    ConfigError,
    PathNotFoundError,
    SchemaMismatchError,
    TableExistsError,
)
from .datasets import chosen, picked
from .pieces import ahead, packed, pieces, waited
from .registry import Request, driver, path_of, shown
from .schemas import expression_of, fitted, needed_for, rows_where
from .sql import THERE_HINT, check_mode
from .table_formats import Table, TablePlace, Writing, moment, stored_schema, table_errors
from .writers import reader_of

_FORMATS = {
    "delta": ("table_delta", "DeltaTable"),
    "iceberg": ("table_iceberg", "IcebergTable"),
    "lance": ("table_lance", "LanceTable"),
}
_ENDINGS = {"iceberg": (".metadata.json",), "lance": (".lance",)}
_MARKERS = {"delta": "_delta_log"}
_Options = Mapping[str, str] | None


def _register(kind: Any) -> Callable[[Any], Any]:
    """For urls by scheme, and for others by the format."""

    def register(function: Any) -> Any:
        driver(kind, scheme=tuple(_FORMATS))(function)
        for name in _FORMATS:
            driver(kind, format=name, endings=_ENDINGS.get(name, ()), marker=_MARKERS.get(name))(
                function
            )
        return function

    return register


@_register("read")
def read_table(
    request: Request,
    *,
    columns: Sequence[str] | None = None,
    filter: Any = None,
    version: int | str | None = None,
    timestamp: datetime | str | None = None,
    storage_options: _Options = None,
) -> pa.Table:
    """Read a table of Delta Lake, Iceberg or Lance, as of any version, into the shared pool."""
    with _opened(request, storage_options) as table:
        _travel(table, version, timestamp)
        rows = _Rows(table, columns, filter, request)
        tables = list(rows.tables())
        return pa.concat_tables(tables) if tables else rows.schema.empty_table()


@_register("scan")
def scan_table(
    request: Request,
    *,
    columns: Sequence[str] | None = None,
    filter: Any = None,
    version: int | str | None = None,
    timestamp: datetime | str | None = None,
    storage_options: _Options = None,
) -> pa.RecordBatchReader:
    """Scan a table of Delta Lake, Iceberg or Lance, as of any version: a batch at a time."""
    found = contextlib.ExitStack()
    with found:
        table = found.enter_context(_opened(request, storage_options))
        _travel(table, version, timestamp)
        rows = _Rows(table, columns, filter, request)
        kept = found.pop_all()

    def batches() -> Iterator[pa.RecordBatch]:
        with request.raising(), kept, table_errors(table.place):
            for each in rows.tables():
                yield from each.to_batches()

    return pa.RecordBatchReader.from_batches(rows.schema, batches())


@_register("write")
def write_table(
    request: Request,
    *,
    mode: str = "fail",
    partition_by: Sequence[str] = (),
    schema: str = "strict",
    storage_options: _Options = None,
) -> None:
    """Write rows to a table of Delta Lake, Iceberg or Lance, by one commit."""
    check_mode(mode)
    if schema not in ("strict", "unify"):
        raise ConfigError(f"schema={schema!r}", "'strict', or 'unify', which adds columns")
    by = [partition_by] if isinstance(partition_by, str) else list(partition_by)
    rows, place = reader_of(request), _place(request, storage_options)
    with (
        _made_meanwhile(mode),
        table_errors(place, writing=True),
        contextlib.closing(_table(request, place)) as table,
    ):
        there = table.open()
        if there and mode in ("fail", "create"):
            raise TableExistsError(f"{place.name} already exists", THERE_HINT)
        wanted = _wanted(table, rows.schema, there, mode, schema == "unify")
        _check_partitions(table, by, wanted, there, mode)
        widened = there and any(n not in table.schema.names for n in wanted.names)
        _Written(rows, wanted, request, place.name).by(
            lambda given: table.write(Writing(given, mode, by, widened))
        )


@contextlib.contextmanager
def _made_meanwhile(mode: str) -> Iterator[None]:
    """Say that others made the table, to who would have added to it or replaced it."""
    try:
        yield
    except TableExistsError as error:
        if mode not in ("append", "replace"):
            raise
        raise CommitConflictError(error.message, "nothing was written: write it again") from None


# ---- where


def _place(request: Request, options: _Options) -> TablePlace:
    """The place of a request: what is after ``delta+`` or ``delta://``, if it begins so."""
    given = {str(key): str(value) for key, value in (options or {}).items()}
    url = request.url
    head, _, rest = url.partition("://")
    first, _, inner = head.partition("+")
    if first.lower() in _FORMATS and rest:
        url = f"{inner}://{rest}" if inner else _without_scheme(url, first.lower(), rest)
        if not inner and first.lower() == "iceberg" and not rest.startswith("/"):
            catalog, _, name = rest.partition("/")
            if not name:
                raise ConfigError(f"{shown(request.url)} names no table", _AS["iceberg"])
            return TablePlace(shown(request.url), "", catalog, unquote(name), given)
    if "://" not in url or url.lower().startswith("file://"):
        url = os.path.abspath(os.path.expanduser(path_of(url)))
    elif "?" in url:
        raise ConfigError(f"{shown(url)}: tables take no query", "storage_options=")
    return TablePlace(shown(request.url), url, options=given)


_AS = {
    "delta": "delta:///path, delta+s3://bucket/path, or format='delta'",
    "iceberg": "iceberg://catalog/namespace.table, or a .metadata.json",
    "lance": "a path that ends with .lance, lance:///path, or lance+s3://bucket/path",
}


def _without_scheme(url: str, name: str, rest: str) -> str:
    if rest.startswith("/"):
        return f"file://{rest}"
    if name == "iceberg":
        return url
    raise ConfigError(f"{shown(url)} names no table", _AS[name])


def _table(request: Request, place: TablePlace) -> Table:
    scheme = request.scheme.partition("+")[0]
    module, name = _FORMATS[scheme if scheme in _FORMATS else request.format or ""]
    made: Table = getattr(import_module(f".{module}", __package__), name)(place)
    return made


@contextlib.contextmanager
def _opened(request: Request, options: _Options) -> Iterator[Table]:
    place = _place(request, options)
    with table_errors(place), contextlib.closing(_table(request, place)) as table:
        if not table.open():
            raise PathNotFoundError(f"{place.name}: there is no such {table.kind} table")
        yield table


def _travel(table: Table, version: int | str | None, timestamp: datetime | str | None) -> None:
    if version is not None and timestamp is not None:
        raise ConfigError("a version is told by its name or by a time", "leave one of them out")
    if isinstance(version, bool) or not isinstance(version, int | str | None):
        raise ConfigError(f"version={version!r}", "a number, or the name of a tag or a branch")
    if version is not None or timestamp is not None:
        table.travel(version, moment(timestamp))


# ---- reading


class _Rows:
    """Rows that are asked for; ``schema`` is what comes out."""

    def __init__(self, table: Table, columns: Any, filter: Any, request: Request) -> None:
        self._table, self._request = table, request
        self._filter = expression_of(filter)
        self._names = needed = chosen(columns, table.schema)
        self.schema = picked(table.schema, needed)
        if self._filter is not None:
            looks_at = needed_for(self._filter, table.schema)
            needed = [*needed, *(n for n in looks_at if n not in needed)]
        self._needed = needed

    def tables(self) -> Iterator[pa.Table]:
        """A table for each piece, built in the pool."""
        request, name = self._request, self._table.place.name
        pool = request.client.memory_pool
        batches, filtered = self._table.batches(
            self._needed, self._filter if self._compares_alike() else None
        )
        whole = self._filter is None or filtered
        done = 0
        for piece in ahead(pieces(batches)):
            if whole:
                table = packed(piece, self.schema, pool, name)
            else:
                private = packed(
                    piece, picked(self._table.schema, self._needed), pa.default_memory_pool(), name
                )
                table = rows_where(private, self._filter, pool).select(self._names)
            del piece
            done += table.nbytes
            if table.num_rows:
                yield table
            del table
            request.done(done, done)

    def _compares_alike(self) -> bool:
        """Whether the filter means the same to all: what is not a number does not, in floats."""
        if self._filter is None:
            return True
        looks_at = needed_for(self._filter, self._table.schema)
        types = [self._table.schema.field(name).type for name in looks_at]
        return not any(pa.types.is_floating(t) or pa.types.is_nested(t) for t in types)


# ---- writing


def _wanted(table: Table, given: pa.Schema, there: bool, mode: str, unify: bool) -> pa.Schema:
    """The columns as which rows are to be written."""
    stored = stored_schema(given, table.stored, table.kind)
    if not there or (mode == "replace" and table.replaces_columns):
        return stored
    known = table.schema
    new = [field for field in stored if known.get_field_index(field.name) < 0]
    if mode == "replace":
        return pa.schema([f if f in new else known.field(f.name) for f in stored])
    if new and not unify:
        raise SchemaMismatchError(
            f"{table.place.name} has no column {new[0].name!r}",
            f"schema='unify' adds it; there are {', '.join(known.names)}",
        )
    for field in known:
        if not field.nullable and stored.get_field_index(field.name) < 0:
            raise SchemaMismatchError(
                f"column {field.name!r} of {table.place.name} is missing", "it takes no nulls"
            )
    return pa.schema([*known, *(field.with_nullable(True) for field in new)])


def _check_partitions(
    table: Table, by: Sequence[str], wanted: pa.Schema, there: bool, mode: str
) -> None:
    for name in by:
        if wanted.get_field_index(name) < 0:
            raise ConfigError(
                f"there is no column {name!r} to partition by",
                f"there are {', '.join(wanted.names)}",
            )
    fixed = there and (mode == "append" or not table.replaces_columns)
    if by and fixed and list(by) != list(table.partitions):
        how = ", ".join(map(repr, table.partitions)) or "nothing"
        raise ConfigError(f"{table.place.name} is partitioned by {how}", "leave partition_by out")


class _Written:
    """Rows on their way to a library that writes them, by a thread that an interrupt breaks off."""

    def __init__(
        self, rows: pa.RecordBatchReader, wanted: pa.Schema, request: Request, name: str
    ) -> None:
        self._rows, self._wanted, self._request, self._name = rows, wanted, request, name
        self._stopped = threading.Event()

    def by(self, write: Callable[[pa.RecordBatchReader], None]) -> None:
        """Have them written."""
        reader = pa.RecordBatchReader.from_batches(self._wanted, self._batches())
        thread = ThreadPoolExecutor(1, "vineyard-arrow-table")
        try:
            waited(thread.submit(write, reader))
        finally:
            self._stopped.set()
            thread.shutdown()

    def _batches(self) -> Iterator[pa.RecordBatch]:
        written, pool = 0, pa.default_memory_pool()
        # By a thread of ours: in theirs, which run a loop, not all sources work.
        for batch in ahead(iter(self._rows)):
            if self._stopped.is_set():
                raise RuntimeError("the write was broken off")
            one = pa.Table.from_batches([batch])
            with self._request.as_raised(), _convertible():
                fitting = fitted(one, self._wanted, {}, pool, self._name)
            yield from fitting.to_batches()
            written += batch.nbytes
            self._request.done(written, written)


@contextlib.contextmanager
def _convertible() -> Iterator[None]:
    try:
        yield
    except SchemaMismatchError as error:
        raise SchemaMismatchError(error.message, "convert it before") from None
