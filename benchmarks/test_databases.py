"""Tables of PostgreSQL into the store and out of it, against its ADBC driver and private memory.

The server is a throwaway one on this machine; without its programs there is nothing to measure.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from measure import paired, ratio_of, report, seconds, time_of

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

ROWS = 10_000_000


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server with one table ``t`` of four columns."""
    from postgres import Postgres, programs

    try:
        programs()
    except RuntimeError as error:
        pytest.skip(str(error))
    server = Postgres()
    try:
        server.execute(
            f"""CREATE TABLE t AS SELECT n::int8 AS id, random() AS price,
            (n % 1000)::int4 AS count, 'city ' || n % 500 AS city
            FROM generate_series(1, {ROWS}) n"""
        )
        yield server.local
    finally:
        server.stop()


@pytest.mark.benchmark(group="a table of PostgreSQL into the store / ADBC into private memory")
def test_read(benchmark: Any, store: Any, url: str) -> None:
    from adbc_driver_postgresql import dbapi

    def ours() -> float:
        taken = seconds(lambda: store.client.read(url, table="t"))
        (meta,) = store.client.list_objects()
        assert meta.copied == 0
        store.client.delete(meta.id)
        return taken

    def plain() -> float:
        with dbapi.connect(url) as connection, connection.cursor() as cursor:

            def fetch() -> None:
                cursor.execute("SELECT * FROM t")
                assert cursor.fetch_arrow_table().num_rows == ROWS

            return seconds(fetch)

    mine, theirs = paired(benchmark, ours, plain, rounds=2)
    report(
        benchmark,
        f"{ROWS:,} rows of four columns",
        time_of(mine),
        time_of(theirs),
        ratio_of(mine, theirs),
        "<= 1.2",
    )


@pytest.mark.benchmark(group="a table of the store to PostgreSQL / ADBC of private memory")
def test_write(benchmark: Any, store: Any, url: str) -> None:
    from adbc_driver_postgresql import dbapi

    with dbapi.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM t LIMIT {ROWS // 10}")
        table = cursor.fetch_arrow_table()
    oid = store.client.put(table)

    def ours() -> float:
        return seconds(lambda: store.client.write(oid, url, table="ours", mode="replace"))

    def fill() -> None:
        with dbapi.connect(url) as connection, connection.cursor() as cursor:
            assert cursor.adbc_ingest("theirs", table, "replace") == table.num_rows
            connection.commit()

    def plain() -> float:
        return seconds(fill)

    mine, theirs = paired(benchmark, ours, plain, rounds=3)
    report(
        benchmark,
        f"{table.num_rows:,} rows of four columns",
        time_of(mine),
        time_of(theirs),
        ratio_of(mine, theirs),
        "<= 1.2",
    )
