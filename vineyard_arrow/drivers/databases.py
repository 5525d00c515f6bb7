"""The drivers that read, scan and write tables of databases.

They bring what a database sends into the pool; `sql_adbc`, `sql_duckdb` and `sql_alchemy` talk to
databases. All that is done with one is done by a thread of its own, so that an interrupt can
break it off, and so that a batch is fetched while the one before it is copied.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from importlib import import_module
from importlib.metadata import entry_points
from itertools import chain
from typing import Any, TypeVar
from urllib.parse import quote

import pyarrow as pa

from ..errors import (
    ConfigError,
    DatabaseError,
    InvalidObjectError,
    QueryFailedError,
    SchemaMismatchError,
)
from .pieces import pieces, waited
from .registry import Request, driver, shown
from .schemas import fitted, merged
from .sql import Database, Parameters, TableName, check_mode, database_errors
from .writers import reader_of

_T = TypeVar("_T")
_ADBC = {
    "postgresql": ("sql_adbc", "open_postgresql"),
    "postgres": ("sql_adbc", "open_postgresql"),
    "sqlite": ("sql_adbc", "open_sqlite"),
    "duckdb": ("sql_duckdb", "open_duckdb"),
}
_ALCHEMY = ("sql_alchemy", "open_sqlalchemy")
_DIALECTS = {e.name.partition(".")[0] for e in entry_points(group="sqlalchemy.dialects")}
SCHEMES = (
    *_ADBC,
    *sorted({"sqlalchemy", "mysql", "mariadb", "oracle", "mssql", *_DIALECTS} - set(_ADBC)),
)
_Table = str | Sequence[str]
_Files = tuple[str, bytes, int, tuple[str, ...]]
_FILES: tuple[_Files, ...] = (  # of one database: how they begin, from which byte on; their names
    ("sqlite", b"SQLite format 3\0", 0, (".sqlite", ".sqlite3", ".db")),
    ("duckdb", b"DUCK", 8, (".duckdb", ".ddb")),
)


def _register(kind: Any) -> Callable[[Any], Any]:
    """For urls of databases, and for paths of their files."""

    def register(function: Any) -> Any:
        for each in _FILES:
            marker = partial(_is_database, each)
            driver(kind, scheme="file", format=each[0], marker=marker)(function)
        return driver(kind, scheme=SCHEMES)(function)

    return register


def _is_database(files: _Files, path: str) -> bool:
    """Whether a file is one of a database; one that is not there yet: by its name."""
    _, magic, at, endings = files
    if not os.path.exists(path):
        return path.lower().endswith(endings)
    with contextlib.suppress(OSError):
        if os.path.isfile(path):
            with open(path, "rb") as file:
                return file.read(at + len(magic)).endswith(magic)
    return False


def _url_of(request: Request) -> str:
    """The url of a database, or that for the path of its file."""
    if request.scheme != "file":
        return request.url
    path = os.path.abspath(os.path.expanduser(request.path))
    return f"{request.format}:///{quote(path)}"


@_register("read")
def read_database(
    request: Request,
    *,
    query: str | None = None,
    table: _Table | None = None,
    columns: Sequence[str] | None = None,
    parameters: Parameters = None,
    schema: pa.Schema | None = None,
) -> pa.Table:
    """Read a table of a database, or what a query finds, into the shared pool."""
    url, pool = _url_of(request), request.client.memory_pool
    name = shown(url)
    tables: list[pa.Table] = []
    done = 0
    with database_errors(url), _Session(url) as session:
        sql = _query_of(session.database, query, table, columns, parameters)
        for held in pieces(session.batches(sql, parameters)):
            # Copied once, while the next is fetched: drivers allocate memory of their own.
            kept = pa.concat_batches(held, memory_pool=pool)
            tables.append(pa.Table.from_batches([kept]))
            done += kept.nbytes
            request.done(done, done)
        del held
        one = schema or merged([(name, each.schema) for each in tables], "unify")
        return pa.concat_tables([_fitting(each, one, pool, name) for each in tables])


@_register("scan")
def scan_database(
    request: Request,
    *,
    query: str | None = None,
    table: _Table | None = None,
    columns: Sequence[str] | None = None,
    parameters: Parameters = None,
    schema: pa.Schema | None = None,
) -> pa.RecordBatchReader:
    """Scan a table of a database, or what a query finds: a batch at a time."""
    url, pool = _url_of(request), pa.default_memory_pool()
    name = shown(url)

    def batches() -> Iterator[pa.RecordBatch]:
        done = 0
        with request.raising(), database_errors(url), _Session(url) as session:
            sql = _query_of(session.database, query, table, columns, parameters)
            for batch in session.batches(sql, parameters):
                yield batch
                done += batch.nbytes
                request.done(done, done)

    found = batches()
    first = next(found)
    one = schema or first.schema

    def fitting() -> Iterator[pa.RecordBatch]:
        for batch in chain([first], found):
            yield from _fitting(pa.Table.from_batches([batch]), one, pool, name).to_batches()

    return pa.RecordBatchReader.from_batches(one, fitting())


@_register("write")
def write_database(request: Request, *, table: _Table, mode: str = "fail") -> None:
    """Write a table to one of a database, in one transaction."""
    check_mode(mode)
    url, name = _url_of(request), _name_of(table)
    with database_errors(url), _Session(url, writing=True) as session:
        session.write(reader_of(request), name, mode, request)


def _query_of(
    database: Database,
    query: str | None,
    table: _Table | None,
    columns: Sequence[str] | None,
    parameters: Parameters,
) -> str:
    if (query is None) == (table is None):
        raise ConfigError(
            "of a database one table is read, or what one query finds",
            "table= names it, or query= says it in SQL",
        )
    if isinstance(parameters, str | bytes) or not isinstance(parameters, Sequence | Mapping | None):
        raise ConfigError(
            f"parameters= is a {type(parameters).__name__}", "a list of values, or a dict by name"
        )
    if table is not None:
        if parameters:
            raise ConfigError("a table has no parameters", "query= with parameters=")
        return database.select(_name_of(table), columns)
    if columns is not None:
        raise ConfigError("a query names its columns itself", "table= with columns=")
    if not isinstance(query, str) or not query.strip():
        raise ConfigError(f"query={query!r}", "it is SQL")
    return query


def _name_of(table: _Table) -> TableName:
    parts = (table,) if isinstance(table, str) else tuple(table)
    if not parts or not all(isinstance(part, str) and part for part in parts):
        raise ConfigError(f"table={table!r}", "a name, or names, such as ('schema', 'table')")
    if any("\0" in part for part in parts):
        raise ConfigError(f"table={table!r}: no name has a NUL")
    return parts


def _fitting(table: pa.Table, schema: pa.Schema, pool: pa.MemoryPool, name: str) -> pa.Table:
    if table.schema.equals(schema):
        return table
    if len(set(table.column_names)) < table.num_columns:
        raise QueryFailedError("several columns have one name", "name them apart in the query: AS")
    return fitted(table, schema, {}, pool, name)


class _Session:
    """A database with the one thread that uses it."""

    def __init__(self, url: str, *, writing: bool = False) -> None:
        self._stopped = threading.Event()
        self._last: Future[Any] | None = None
        self._found: Iterator[pa.RecordBatch] = iter(())
        self._thread = ThreadPoolExecutor(1, "vineyard-arrow-database")
        module, opener = _ADBC.get(url.partition("://")[0].lower().partition("+")[0], _ALCHEMY)
        opened = getattr(import_module(f".{module}", __package__), opener)
        self._database: Database | None = None
        try:
            self._database = self._run(lambda: opened(url, writing=writing))
        except BaseException:
            self._thread.shutdown(wait=False)
            raise

    @property
    def database(self) -> Database:
        assert self._database is not None
        return self._database

    def __enter__(self) -> _Session:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop()
        with contextlib.suppress(Exception):  # of a broken connection; nothing was committed
            waited(self._thread.submit(self._close))
        self._thread.shutdown()
        self._last = None  # see waited

    def _stop(self) -> None:
        """Break off what still runs: the block was left early."""
        if self._last is not None and not self._last.done():
            self._stopped.set()
            self.database.cancel()

    def _close(self) -> None:
        if isinstance(self._found, Generator):
            self._found.close()
        self.database.close()

    def _submit(self, function: Callable[[], _T]) -> Future[_T]:
        self._last = future = self._thread.submit(function)
        return future

    def _run(self, function: Callable[[], _T]) -> _T:
        return waited(self._submit(function))

    def batches(self, sql: str, parameters: Parameters) -> Iterator[pa.RecordBatch]:
        """What a query finds, each batch fetched while the one before is used."""
        self._found = found = self.database.query(sql, parameters)
        ahead = self._submit(lambda: next(found, None))
        try:
            while (batch := waited(ahead)) is not None:
                ahead = self._submit(lambda: next(found, None))
                yield batch
                del batch
        finally:
            del ahead  # see waited

    def write(
        self, rows: pa.RecordBatchReader, table: TableName, mode: str, request: Request
    ) -> None:
        """Write all rows."""
        wanted = self._run(lambda: self.database.wanted(rows.schema, table, mode))

        def fitted_rows() -> Iterator[pa.RecordBatch]:
            written, pool = 0, pa.default_memory_pool()
            for batch in rows:
                if self._stopped.is_set():
                    raise DatabaseError("the write was broken off")
                one = pa.Table.from_batches([batch])
                with request.as_raised(), _convertible():
                    fitting = _fitting(one, wanted, pool, table[-1])
                yield from fitting.to_batches()
                written += batch.nbytes
                request.done(written, written)

        reader = pa.RecordBatchReader.from_batches(wanted, fitted_rows())
        self._run(lambda: self.database.write(reader, table, mode))


@contextlib.contextmanager
def _convertible() -> Iterator[None]:
    try:
        yield
    except SchemaMismatchError as error:
        raise InvalidObjectError(error.message, "convert it before") from None
