"""PostgreSQL and SQLite by their drivers of ADBC: results come in columns. Knows no store."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import pyarrow as pa

from ..errors import ConfigError, InvalidObjectError, QueryFailedError
from .libraries import library
from .pieces import PIECE_BYTES
from .sql import Database, Parameters, TableName, empty, path_of

__all__ = ["open_postgresql", "open_sqlite"]

_OPTION = "adbc.postgresql."
_NO_TABLE = "42P01"
_INGEST = {"fail": "create", "create": "create", "replace": "replace", "append": "create_append"}


class _Adbc(Database):
    """What the two have in common."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._cursor: Any = None  # the one that runs

    def cancel(self) -> None:
        with contextlib.suppress(Exception):  # it may have ended just now
            if self._cursor is not None:
                self._cursor.adbc_cancel()

    def close(self) -> None:
        self._connection.close()

    def query(self, sql: str, parameters: Parameters) -> Iterator[pa.RecordBatch]:
        return self._batches(sql, parameters, {})

    @contextlib.contextmanager
    def _cursor_of(self, options: Mapping[str, str]) -> Iterator[Any]:
        self._cursor = cursor = self._connection.cursor()
        try:
            if options:
                cursor.adbc_statement.set_options(**options)
            yield cursor
        finally:
            self._cursor = None
            cursor.close()

    def _batches(
        self, sql: str, parameters: Parameters, options: Mapping[str, str]
    ) -> Iterator[pa.RecordBatch]:
        with self._cursor_of(options) as cursor:
            cursor.execute(sql, parameters or None)
            reader = cursor.fetch_record_batch()
            yield empty(reader.schema)
            yield from reader

    def _run(self, sql: str) -> None:
        with self._cursor_of({}) as cursor:
            cursor.execute(sql)

    def wanted(self, schema: pa.Schema, table: TableName, mode: str) -> pa.Schema:
        return pa.schema([_written(field) for field in schema])

    def write(self, rows: pa.RecordBatchReader, table: TableName, mode: str) -> None:
        where = {"db_schema_name": table[-2]} if len(table) > 1 else {}
        with self._cursor_of({}) as cursor:
            cursor.adbc_ingest(table[-1], rows, _INGEST[mode], **where)
        self._connection.commit()


# ---- PostgreSQL


def open_postgresql(url: str, *, writing: bool) -> Database:
    """A connection to a server; its url as libpq takes it, also with ``+psycopg`` and the like."""
    with library("postgresql"):
        from adbc_driver_postgresql import dbapi
    scheme, _, rest = url.partition("://")
    connection = dbapi.connect(f"postgresql://{rest}" if scheme else url)
    database = _PostgreSQL(connection)
    if not writing:
        database._run("SET TRANSACTION READ ONLY")
    return database


class _PostgreSQL(_Adbc):
    def query(self, sql: str, parameters: Parameters) -> Iterator[pa.RecordBatch]:
        if isinstance(parameters, Mapping):
            raise ConfigError(
                "parameters of PostgreSQL have no names", "$1, $2 in the query, and a list here"
            )
        hint = {f"{_OPTION}batch_size_hint_bytes": str(PIECE_BYTES)}
        found = self._fetched(sql, parameters) if parameters else self._batches(sql, None, hint)
        return (_plain(batch) for batch in found)

    def _fetched(self, sql: str, parameters: Any) -> Iterator[pa.RecordBatch]:
        """By a cursor of the server: COPY takes no parameters, and else all came at once."""
        with self._cursor_of({}) as cursor:
            cursor.adbc_prepare(sql)  # errors tell positions in what was given
        with self._cursor_of({}) as cursor:
            cursor.execute(f"DECLARE vineyard_rows NO SCROLL CURSOR FOR {sql}", parameters)
        rows, come = 1024, -1
        while come:
            come, nbytes = 0, 0
            fetch = f"FETCH FORWARD {rows} FROM vineyard_rows"
            for batch in self._batches(fetch, None, {f"{_OPTION}use_copy": "false"}):
                come, nbytes = come + batch.num_rows, nbytes + batch.nbytes
                yield batch
            rows = max(1, min(1 << 20, rows * 8, PIECE_BYTES * come // max(nbytes, 1)))

    def wanted(self, schema: pa.Schema, table: TableName, mode: str) -> pa.Schema:
        schema = super().wanted(schema, table, mode)
        there = self._schema_of(table) if mode == "append" else None
        return schema if there is None else pa.schema([_as_there(f, there) for f in schema])

    def _schema_of(self, table: TableName) -> pa.Schema | None:
        """Of a table, if it is there."""
        from adbc_driver_manager import ProgrammingError

        try:
            (found, *_) = self._batches(f"{self.select(table, None)} LIMIT 0", None, {})
        except ProgrammingError as error:
            if error.sqlstate != _NO_TABLE:
                raise
            self._connection.rollback()
            return None
        return found.schema


def _as_there(field: pa.Field, there: pa.Schema) -> pa.Field:
    """The field in the type that a table has: binary COPY converts nothing."""
    index = there.get_field_index(field.name)
    if index < 0:
        return field
    type = there.field(index).type
    if not isinstance(type, pa.OpaqueType):
        return field.with_type(type)
    if type.type_name == "numeric" and pa.types.is_integer(field.type):
        return field.with_type(pa.decimal128(38, 0))
    return field


def _plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Without what only the driver knows; types that Arrow lacks are strings, or an error."""
    columns, fields = [], []
    for field, column in zip(batch.schema, batch.columns, strict=True):
        if isinstance(field.type, pa.OpaqueType) and pa.types.is_string(field.type.storage_type):
            column = column.storage  # numeric: as exact as it is there
        elif (unknown := _opaque_in(field.type)) is not None:
            raise QueryFailedError(
                f"column {field.name!r} is of PostgreSQL's type {unknown}, which Arrow has not",
                f'cast it in the query: "{field.name}"::text',
            )
        columns.append(column)
        fields.append(pa.field(field.name, column.type, field.nullable))
    if not columns:
        return batch
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields))


def _opaque_in(type: pa.DataType) -> str | None:
    if isinstance(type, pa.OpaqueType):
        return str(type.type_name)
    parts = [type.field(i).type for i in range(type.num_fields)]
    return next((name for part in parts if (name := _opaque_in(part))), None)


# ---- SQLite


def open_sqlite(url: str, *, writing: bool) -> Database:
    """A file; ``sqlite:///a.db``."""
    with library("sqlite"):
        from adbc_driver_sqlite import dbapi
    options = urlsplit(url).query
    mode = "" if "mode=" in options else f"mode={'rwc' if writing else 'ro'}"
    tail = "&".join(filter(None, (mode, options)))
    return _SQLite(dbapi.connect(f"file:{quote(path_of(url, writing=writing))}?{tail}"))


class _SQLite(_Adbc):
    def query(self, sql: str, parameters: Parameters) -> Iterator[pa.RecordBatch]:
        if isinstance(parameters, Mapping):
            parameters = {
                name if name[:1] in ":@$" else f":{name}": v for name, v in parameters.items()
            }
        return self._batches(sql, parameters, {"adbc.sqlite.query.batch_rows": str(1 << 16)})


# ---- types that are written


def _written(field: pa.Field) -> pa.Field:
    """The field in a type that a database of rows can hold."""
    type = field.type
    if pa.types.is_dictionary(type) or pa.types.is_run_end_encoded(type):
        type = type.value_type
    if pa.types.is_date64(type):
        type = pa.date32()
    elif pa.types.is_uint64(type):
        type = pa.int64()
    elif pa.types.is_timestamp(type) and type.unit == "ns":
        type = pa.timestamp("us", type.tz)
    elif pa.types.is_struct(type) or pa.types.is_map(type) or pa.types.is_union(type):
        raise InvalidObjectError(
            f"column {field.name!r} is {type}, which this database has not",
            "leave it out, or make it text",
        )
    return field.with_type(type)
