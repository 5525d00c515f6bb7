"""DuckDB relations by their result: names, types and values kept."""

from __future__ import annotations

from typing import Any

import pytest
from types_harness import check_in_other_process, roundtrip, typenames

from vineyard_arrow.client import Client
from vineyard_arrow.errors import InvalidObjectError

duckdb = pytest.importorskip("duckdb", minversion="1.4.4")

EXPRESSIONS = [
    "1", "1::UTINYINT", "170141183460469231731687303715884105727", "1::UHUGEINT", "1.5::DOUBLE",
    "1.25::DECIMAL(5,2)", "'x'", "'x'::BLOB", "true", "NULL", "DATE '2024-01-01'",
    "TIMESTAMP '2024-01-01 10:00:00'", "TIMESTAMP_NS '2024-01-01 10:00:00.123456789'",
    "TIMESTAMP_S '2024-01-01 10:00:00'", "TIMESTAMPTZ '2024-01-01 10:00:00+02'", "TIME '10:00'",
    "TIMETZ '10:00:00+02'", "INTERVAL 1 DAY", "'e2a6b1b0-0000-4000-8000-000000000001'::UUID",
    "'101'::BIT", "'b'::ENUM('a', 'b')", "'[1]'::JSON", "[1, 2]", "[[1], NULL]",
    "{'a': 1, 'b': 'x'}", "MAP {1: 'a'}", "[1, 2, 3]::INT[3]", "union_value(n := 2)",
    "[{'u': 'e2a6b1b0-0000-4000-8000-000000000001'::UUID}]",
]  # fmt: skip


def made(expression: str) -> Any:
    return duckdb.sql(f"SELECT {expression} AS x UNION ALL SELECT NULL AS x")


def assert_same(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    assert (a.columns, a.types) == (b.columns, b.types)
    assert a.fetchall() == b.fetchall()


VALUES = [(expression, lambda e=expression: made(e)) for expression in EXPRESSIONS]
VALUES += [
    ("many", lambda: duckdb.sql("SELECT range AS i, i::VARCHAR AS s FROM range(300000)")),
    ("empty", lambda: duckdb.sql("SELECT 1 AS a, '1'::BIT AS b WHERE false")),
    ("twice", lambda: duckdb.sql("""SELECT 1 AS a, 2 AS a, '1'::JSON AS "quo""te\"""")),
]


@pytest.mark.parametrize("make", [m for _, m in VALUES], ids=[name for name, _ in VALUES])
def test_relations_come_back_exactly(make: Any) -> None:
    assert typenames(make()) == ["vineyard.duckdb.relation"]
    assert_same(make(), roundtrip(make()))


def test_relations_come_back_in_another_process(client: Client) -> None:
    check_in_other_process(client, __name__)


def test_relations_of_any_connection(client: Client) -> None:
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE t AS SELECT range AS i FROM range(10)")
        key = client.put([connection.table("t"), connection.sql("SELECT sum(i) AS s FROM t")])
    table, total = client.get(key)
    assert total.fetchall() == [(45,)]
    assert table.filter("i > 7").fetchall() == [(8,), (9,)]


@pytest.mark.parametrize("value", ["['101'::BIT]", "{'t': TIMETZ '10:00:00+02'}"])
def test_types_that_duckdb_garbles_are_refused(value: str) -> None:
    with pytest.raises(InvalidObjectError, match=r"column 'x' is a .* cast what is of type BIT"):
        roundtrip(made(value))
