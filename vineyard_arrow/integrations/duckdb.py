"""Stored objects as tables of a DuckDB connection, scanned where they lie.

Examples
--------
>>> import duckdb, vineyard_arrow.integrations.duckdb as vd
>>> connection = duckdb.connect()
>>> vd.register(connection, "flights", "flights")  # doctest: +SKIP
>>> connection.sql("SELECT count(*) FROM flights")  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from .. import default_client
from ..errors import InvalidObjectError

if TYPE_CHECKING:
    from ..client import Client, Key

__all__ = ["register"]

RELATION = "vineyard.duckdb.relation"
# What is a table in the store, whatever a get makes of it.
_TABLES = frozenset(
    {
        "vineyard.table",
        "vineyard.record_batch",
        "vineyard.arrow.reader",
        "vineyard.polars.frame",
        "vineyard.polars.lazyframe",
    }
)


def register(connection: Any, name: str, key: Key, client: Client | None = None) -> None:
    """Make a stored object a view of ``connection``, by a name.

    Queries scan the mapped memory; nothing is copied. The view holds the object's pages
    until ``connection.unregister(name)``, another object of that name, or the connection's
    end, also if the object is deleted.

    Parameters
    ----------
    connection : duckdb.DuckDBPyConnection
        Any; the relation a get gives is bound to DuckDB's default one.
    name : str
        Of the view; one that exists is replaced.
    key : ObjectID, int or str
        Of a table, record batch, reader, polars frame, pandas frame or DuckDB relation, or
        of anything else that has the Arrow PyCapsule interface.
    client : Client, optional
        The default client by default.

    Raises
    ------
    ObjectNotFoundError
        If there is no such object.
    InvalidObjectError
        If it is no table.
    """
    client = default_client() if client is None else client
    part = client._a.read(client._resolve(key)).parts[0]
    typename, params, table = part.typename, part.params, part.table
    if typename == RELATION:
        from ..types.duckdb import relation_over

        connection.register(name, relation_over(table, params, connection))
    elif typename in _TABLES and not params:
        connection.register(name, table)
    else:
        connection.register(name, _as_table(client.get(key), key))


def _as_table(value: Any, key: Key) -> Any:
    # DuckDB itself would take arrays and dictionaries of them, too, column by column.
    if type(value).__module__.partition(".")[0] == "pandas" and hasattr(value, "columns"):
        return value
    why: Exception | None = None
    if hasattr(value, "__arrow_c_stream__"):
        try:
            return pa.table(value)
        except (pa.ArrowInvalid, TypeError) as error:
            why = error
    raise InvalidObjectError(
        f"{key} is a {type(value).__name__}, not a table that Arrow knows",
        "register takes tables, record batches, frames and DuckDB relations",
    ) from why
