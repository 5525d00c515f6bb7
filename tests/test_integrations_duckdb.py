"""Stored objects as tables of a DuckDB connection, scanned in place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from vineyard_arrow import dual_strings
from vineyard_arrow.client import Client
from vineyard_arrow.errors import InvalidObjectError, ObjectNotFoundError
from vineyard_arrow.integrations.duckdb import register

duckdb = pytest.importorskip("duckdb", minversion="1.4.4")

N = 4 << 20
TABLE = pa.table({"a": [1, 2, 3], "s": ["x", "y", None]})
VALUES = {
    "table": TABLE,
    "batch": TABLE.to_batches()[0],
    "reader": TABLE.to_reader(),
    "polars": pl.DataFrame(TABLE),
    "lazy": pl.DataFrame(TABLE).lazy(),
    "pandas": TABLE.to_pandas(),
    "dual": dual_strings(TABLE),
}
_WIDE = pl.DataFrame({"i": [1]}, schema={"i": pl.Int128})


@pytest.fixture
def connection() -> Iterator[Any]:
    with duckdb.connect() as connection:
        yield connection


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_tables_of_any_kind(client: Client, connection: Any, value: Any) -> None:
    key = client.put(value, name="stored")
    for key_ in (key, "stored", str(key)):
        register(connection, "t", key_, client)
        for _ in range(2):
            rows = connection.sql("SELECT a, s FROM t ORDER BY a").fetchall()
            assert rows == [(1, "x"), (2, "y"), (3, None)]


def test_relations_keep_their_types(client: Client, connection: Any) -> None:
    sql = "SELECT 'b'::ENUM('a', 'b') AS e, '101'::BIT AS b, 1::HUGEINT AS h"
    client.put(duckdb.sql(sql), name="r")
    register(connection, "r", "r", client)
    found = connection.table("r")
    assert found.types == connection.sql(sql).types
    assert found.fetchall() == [("b", "101", 1)]


def test_a_name_can_be_used_again(client: Client, connection: Any) -> None:
    register(connection, "t", client.put(TABLE), client)
    register(connection, "t", client.put(duckdb.sql("SELECT 7::HUGEINT AS b")), client)
    assert connection.sql("SELECT * FROM t").fetchall() == [(7,)]
    register(connection, "t", client.put(pd.DataFrame({"c": [8]})), client)
    assert connection.sql("SELECT * FROM t").fetchall() == [(8,)]


def test_a_view_holds_its_pages_until_it_goes(client: Client, connection: Any) -> None:
    for value in (
        pa.table({"a": np.arange(N)}),
        duckdb.sql(f"SELECT range::HUGEINT a FROM range({N})"),
    ):
        key = client.put(value)
        register(connection, "t", key, client)
        client.delete(key)
        assert connection.sql("SELECT sum(a) FROM t").fetchall() == [(N * (N - 1) // 2,)]
        assert client.status().deleted_pinned == 1
        connection.unregister("t")
        assert client.status().deleted_pinned == 0


def private_bytes() -> int:
    """Memory of this process's own: not the store's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) << 10
    raise AssertionError


def test_scans_take_no_memory(client: Client, connection: Any) -> None:
    connection.execute("SET threads = 1")
    key = client.put(pa.table({"a": np.arange(8 * N)}))  # 256 MiB
    register(connection, "t", key, client)
    connection.sql("SELECT sum(a) FROM t LIMIT 1").fetchall()
    before = private_bytes()
    register(connection, "t", key, client)
    relation = connection.sql("SELECT sum(a), max(a) FROM t WHERE a % 3 <> 1")
    assert relation.fetchall()[0][1] == 8 * N - 1 - (8 * N - 1) % 3 % 2
    assert private_bytes() - before < 16 << 20


@pytest.mark.parametrize(
    "value", [1, np.arange(3), pa.array([1]), pa.chunked_array([[1]]), [TABLE], _WIDE]
)
def test_what_is_no_table_is_refused(client: Client, connection: Any, value: Any) -> None:
    key = client.put(value)
    with pytest.raises(InvalidObjectError, match="not a table"):
        register(connection, "t", key, client)


def test_an_unknown_key_is_an_error(client: Client, connection: Any) -> None:
    with pytest.raises(ObjectNotFoundError):
        register(connection, "t", "nothing", client)
