"""Files of DuckDB, opened by DuckDB itself. Knows no store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pyarrow as pa

from ..errors import InvalidObjectError, QueryFailedError
from .libraries import library
from .sql import Database, Parameters, TableName, empty, path_of

__all__ = ["open_duckdb"]

_BATCH_ROWS = 1 << 18


def open_duckdb(url: str, *, writing: bool) -> Database:
    """A file; ``duckdb:///a.db``, with DuckDB's settings after a question mark."""
    with library("duckdb"):
        import duckdb
    settings: dict[str, Any] = dict(parse_qsl(urlsplit(url).query))
    return _DuckDB(
        duckdb.connect(path_of(url, writing=writing), read_only=not writing, config=settings)
    )


class _DuckDB(Database):
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def query(self, sql: str, parameters: Parameters) -> Iterator[pa.RecordBatch]:
        found = self._connection.sql(sql, params=parameters or None)
        if found is None:
            raise QueryFailedError("the query returns no rows", "write() changes tables")
        # Its name before DuckDB 2, which warns of it.
        to_reader = getattr(found, "to_arrow_reader", None) or found.fetch_arrow_reader
        reader = to_reader(_BATCH_ROWS)
        yield empty(reader.schema)
        yield from reader

    def wanted(self, schema: pa.Schema, table: TableName, mode: str) -> pa.Schema:
        known: set[str] = set()
        for name in schema.names:
            if not name or name.lower() in known:  # it would call them otherwise, and not say so
                raise InvalidObjectError(
                    f"DuckDB has no column {name!r} here",
                    "rename it: names are not empty, and differ by more than case",
                )
            known.add(name.lower())
        return schema

    def write(self, rows: pa.RecordBatchReader, table: TableName, mode: str) -> None:
        name = self.name_of(table)
        connection = self._connection
        connection.register("vineyard_rows", rows)
        connection.begin()
        if mode == "replace":
            connection.execute(f"DROP TABLE IF EXISTS {name}")
        if mode == "append":
            # Of a reader only its columns are looked at here, no row is taken.
            columns = pa.table({f.name: pa.array([], f.type) for f in rows.schema})
            connection.register("vineyard_columns", columns)
            connection.execute(f"CREATE TABLE IF NOT EXISTS {name} AS FROM vineyard_columns")
            connection.execute(f"INSERT INTO {name} BY NAME FROM vineyard_rows")
        else:
            connection.execute(f"CREATE TABLE {name} AS FROM vineyard_rows")
        connection.commit()

    def cancel(self) -> None:
        self._connection.interrupt()

    def close(self) -> None:
        self._connection.close()
