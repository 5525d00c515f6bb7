"""Any database that SQLAlchemy knows: rows are fetched and written in batches. Knows no store."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from ..errors import ConfigError, InvalidObjectError, LibraryNotFoundError, QueryFailedError
from .libraries import library
from .sql import Database, Parameters, TableName

__all__ = ["open_sqlalchemy"]

_BATCH_ROWS = 1 << 14
# Those that take back a DROP TABLE: others commit what was before it.
_TRANSACTIONAL = ("postgresql", "cockroachdb", "mssql", "redshift")


def open_sqlalchemy(url: str, *, writing: bool) -> Database:
    """A connection by a url of SQLAlchemy, ``sqlalchemy+`` before it or not."""
    with library("sqlalchemy"):
        import sqlalchemy
    try:
        engine = sqlalchemy.create_engine(
            url.removeprefix("sqlalchemy+"), poolclass=sqlalchemy.pool.NullPool
        )
    except sqlalchemy.exc.NoSuchModuleError as error:
        raise ConfigError(f"{error}", "pip install what knows this database") from None
    except ImportError as error:
        raise LibraryNotFoundError(
            f"a library that this database needs is not installed: {error}",
            "pip install it, or name another in the url: mysql+pymysql://... takes PyMySQL",
        ) from None
    except (sqlalchemy.exc.ArgumentError, ValueError):
        raise ConfigError(
            "this is no url of SQLAlchemy", "dialect+library://user@host/database"
        ) from None
    return _Alchemy(engine.connect())


class _Alchemy(Database):
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def quote(self, name: str) -> str:
        return str(self._connection.dialect.identifier_preparer.quote_identifier(name))

    def query(self, sql: str, parameters: Parameters) -> Iterator[pa.RecordBatch]:
        import sqlalchemy

        connection = self._connection.execution_options(
            stream_results=True, max_row_buffer=_BATCH_ROWS, no_parameters=not parameters
        )
        if isinstance(parameters, Mapping):
            result = connection.execute(sqlalchemy.text(sql), parameters)
        else:
            given = (tuple(parameters),) if parameters else ()
            result = connection.exec_driver_sql(sql, *given)
        with contextlib.closing(result):
            if not result.returns_rows:
                raise QueryFailedError("the query returns no rows", "write() changes tables")
            names = list(result.keys())
            rows = result.fetchmany(_BATCH_ROWS)
            yield _batch_of(rows, names)
            while rows := result.fetchmany(_BATCH_ROWS):
                yield _batch_of(rows, names)

    def write(self, rows: pa.RecordBatchReader, table: TableName, mode: str) -> None:
        import sqlalchemy

        connection = self._connection
        takes_back = connection.dialect.name in _TRANSACTIONAL
        if mode == "replace" and not takes_back:
            raise ConfigError(
                f"{connection.dialect.name} replaces no table in one transaction",
                "append to it, or write another",
            )
        schema = ".".join(table[:-1]) or None
        columns = [sqlalchemy.Column(f.name, _type_of(f)) for f in rows.schema]
        target = sqlalchemy.Table(table[-1], sqlalchemy.MetaData(), *columns, schema=schema)
        makes = mode != "append" or not sqlalchemy.inspect(connection).has_table(
            table[-1], schema=schema
        )
        if mode == "replace":
            target.drop(connection, checkfirst=True)
        if makes:
            target.create(connection, checkfirst=False)
        try:
            for batch in rows:
                for start in range(0, batch.num_rows, _BATCH_ROWS):
                    connection.execute(target.insert(), batch.slice(start, _BATCH_ROWS).to_pylist())
            connection.commit()
        except BaseException:
            connection.rollback()
            if makes and not takes_back:
                target.drop(connection, checkfirst=True)
                connection.commit()
            raise

    def cancel(self) -> None:
        raw = self._connection.connection.dbapi_connection
        stop = getattr(raw, "cancel", None) or getattr(raw, "interrupt", None)
        if stop is not None:  # not all can
            with contextlib.suppress(Exception):
                stop()

    def close(self) -> None:
        self._connection.close()


def _batch_of(rows: Sequence[Any], names: Sequence[str]) -> pa.RecordBatch:
    columns = list(zip(*rows, strict=True)) or [()] * len(names)
    arrays = []
    for name, values in zip(names, columns, strict=True):
        try:
            arrays.append(pa.array(values))
        except (pa.ArrowException, OverflowError) as error:
            kinds = sorted({type(value).__name__ for value in values if value is not None})
            raise QueryFailedError(
                f"column {name!r} has values of {', '.join(kinds)}, which make no column: {error}",
                "cast it in the query",
            ) from None
    return pa.RecordBatch.from_arrays(arrays, names=list(names))


def _type_of(field: pa.Field) -> Any:
    import sqlalchemy as sa

    type = field.type
    if pa.types.is_dictionary(type):
        type = type.value_type
    is_ = pa.types
    for fits, made in (
        (is_.is_boolean, sa.Boolean),
        (lambda t: is_.is_int8(t) or is_.is_int16(t) or is_.is_uint8(t), sa.SmallInteger),
        (lambda t: is_.is_int32(t) or is_.is_uint16(t), sa.Integer),
        (lambda t: is_.is_int64(t) or is_.is_uint32(t), sa.BigInteger),
        (is_.is_uint64, lambda: sa.Numeric(20, 0)),
        (is_.is_floating, sa.Double),
        (is_.is_decimal, lambda: sa.Numeric(type.precision, type.scale)),
        (lambda t: is_.is_string(t) or is_.is_large_string(t) or is_.is_string_view(t), sa.Text),
        (lambda t: is_.is_binary(t) or is_.is_large_binary(t), sa.LargeBinary),
        (is_.is_date, sa.Date),
        (is_.is_time, sa.Time),
        (is_.is_timestamp, lambda: sa.DateTime(timezone=type.tz is not None)),
        (is_.is_duration, sa.Interval),
        (is_.is_null, sa.Text),
    ):
        if fits(type):
            return made()
    raise InvalidObjectError(
        f"column {field.name!r} is {type}, which not all databases have",
        "leave it out, or make it text",
    )
