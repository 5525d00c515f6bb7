"""A real server of PostgreSQL: passwords, types, errors, and servers and readers that go away."""

from __future__ import annotations

import datetime
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pytest
from drivers_harness import gone, got
from drivers_harness import nothing_left as nothing_left
from postgres import PASSWORD, USER, Postgres

from vineyard_arrow.client import Client
from vineyard_arrow.errors import (
    AccessDeniedError,
    ConfigError,
    DatabaseError,
    DatabaseUnavailableError,
    InvalidObjectError,
    QueryFailedError,
    StreamFailedError,
)

pytestmark = pytest.mark.postgresql

MANY = "SELECT n, n::text AS s FROM generate_series(1, 30000000) n"


# ---- who may


def test_passwords_are_found_where_libpq_finds_them(
    client: Client, postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = f"postgresql://{USER}@127.0.0.1:{postgres.port}/postgres"
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "none"))
    with pytest.raises(AccessDeniedError, match="no password supplied"):
        client.read(bare, query="SELECT 1")
    for url in (postgres.url(), postgres.local, f"{bare}?password={quote(PASSWORD, safe='')}"):
        assert got(client, url, query="SELECT 1 AS a")["a"].to_pylist() == [1]
    with monkeypatch.context() as patch:
        patch.setenv("PGPASSWORD", PASSWORD)
        assert got(client, bare, query="SELECT 2 AS a")["a"].to_pylist() == [2]
    passwords = tmp_path / "pgpass"
    escaped = PASSWORD.replace(":", r"\:")
    passwords.write_text(f"127.0.0.1:{postgres.port}:*:{USER}:{escaped}\n")
    passwords.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(passwords))
    assert got(client, bare, query="SELECT 3 AS a")["a"].to_pylist() == [3]


@pytest.mark.parametrize("prefix", ["postgresql://", "sqlalchemy+postgresql+psycopg://"])
def test_errors_keep_passwords(client: Client, postgres: Postgres, prefix: str) -> None:
    port = postgres.port
    for rest, error in (
        (f"{USER}:h%75sh@127.0.0.1:{port}/postgres", AccessDeniedError),
        (f"nobody:h%75sh@127.0.0.1:{port}/postgres", AccessDeniedError),
        (f"{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/none", DatabaseUnavailableError),
        (f"{USER}:h%75sh@127.0.0.1:1/postgres", DatabaseUnavailableError),
        (f"{USER}:h%75sh@[::1/postgres", ConfigError),
    ):
        for read in (client.read, client.scan):
            with pytest.raises(error) as failed:
                read(prefix + rest, query="SELECT 1")
            for secret in ("hush", "h%75sh", PASSWORD, quote(PASSWORD, safe="")):
                assert secret not in f"{failed.value}{failed.value.__cause__}"
    with pytest.raises(DatabaseError) as odd:
        client.read("postgresql://u:hu sh@host/db?password=hush", query="SELECT 1")
    assert "hu sh" not in str(odd.value)
    assert "hush" not in str(odd.value)


def test_who_may_not(client: Client, postgres: Postgres) -> None:
    postgres.execute("CREATE ROLE guest LOGIN; CREATE TABLE closed (a int)")
    url = postgres.local.replace(USER, "guest")
    with pytest.raises(AccessDeniedError, match=r"permission denied for table closed.*42501"):
        client.read(url, table="closed")
    with pytest.raises(QueryFailedError, match="read-only transaction"):
        client.read(postgres.url(), query="DELETE FROM closed RETURNING a")


# ---- what is there


def test_types(client: Client, postgres: Postgres) -> None:
    zone = datetime.UTC
    moment = datetime.datetime(2024, 2, 29, 12, 30, tzinfo=zone)
    key = uuid.UUID(int=5)
    row = got(
        client,
        postgres.url(),
        query=f"""SELECT 1::int2 AS a, true AS b, 'x'::varchar AS c, '\\x00ff'::bytea AS d,
        12.50::numeric(10, 2) AS e, '2024-02-29 13:30+01'::timestamptz AS f, time '01:02' AS g,
        '{{"k": 1}}'::jsonb AS h, '{key}'::uuid AS i, ARRAY[1, NULL, 3] AS j, NULL AS k""",
    ).to_pylist()[0]
    assert row["e"] == "12.50"  # as exact as it is there
    assert row["i"] == key
    assert [row[c] for c in "abcdfj"] == [1, True, "x", b"\x00\xff", moment, [1, None, 3]]
    assert (row["g"], row["k"]) == (datetime.time(1, 2), None)
    schema = pa.schema({"e": pa.decimal128(10, 2)})
    read = got(client, postgres.url(), query="SELECT 1.5::numeric AS e", schema=schema)
    assert read.schema == schema


@pytest.mark.parametrize(
    ("value", "type"),
    [("'::1'::inet", "inet"), ("ARRAY['::1'::inet]", "inet"), ("point(1, 2)", "point")],
)
def test_types_that_arrow_has_not(
    client: Client, postgres: Postgres, value: str, type: str
) -> None:
    for read in (client.read, client.scan):
        with pytest.raises(QueryFailedError, match=rf"'odd' is of PostgreSQL's type {type}.*text"):
            read(postgres.url(), query=f"SELECT 1 AS ok, {value} AS odd")
    assert got(client, postgres.url(), query="SELECT '::1'::inet::text AS odd").num_rows == 1


def test_a_table_keeps_its_types(client: Client, postgres: Postgres) -> None:
    postgres.execute("CREATE TABLE narrow (q int2, n numeric(10, 2), d text DEFAULT 'd', u text)")
    url = postgres.url()
    table = pa.table({"n": [1, 2], "q": [3, None], "u": pa.array(["a", "b"]).dictionary_encode()})
    client.write(table, url, table="narrow", mode="append")
    there = postgres.execute("SELECT q, n::text, d, u FROM narrow")
    assert there == [(3, "1.00", "d", "a"), (None, "2.00", "d", "b")]
    for bad, said in (
        ({"q": [1 << 20]}, "column 'q' of narrow is int64 and cannot be int16"),
        ({"none": [1]}, "none"),
    ):
        with pytest.raises((InvalidObjectError, QueryFailedError), match=said):
            client.write(pa.table(bad), url, table="narrow", mode="append")
    huge = pa.table({"h": pa.array([1 << 63], pa.uint64())})
    with pytest.raises(InvalidObjectError, match="column 'h' of huge is uint64"):
        client.write(huge, url, table="huge")
    assert postgres.execute("SELECT to_regclass('huge')") == [(None,)]


def test_schemas(client: Client, postgres: Postgres) -> None:
    postgres.execute('CREATE SCHEMA "my schema"')
    url, table = postgres.url(), ("my schema", "t.t")
    one = pa.table({"a": [1]})
    for _ in range(2):
        client.write(one, url, table=table, mode="append")
    assert got(client, url, table=table)["a"].to_pylist() == [1, 1]
    with pytest.raises(QueryFailedError, match=r'relation "t\.t" does not exist'):
        client.read(url, table="t.t")


# ---- what goes wrong


def test_the_server_says_where(client: Client, postgres: Postgres) -> None:
    url = postgres.url()
    for query, parameters in (
        ("SELECT 1 +\n  nothere", None),
        ("SELECT $1::int +\n  nothere", [1]),
    ):
        at = query.index("nothere") + 1
        match = rf'column "nothere" does not exist\nLINE 2: .*\n.*\^.*42703, at character {at}\)'
        with pytest.raises(QueryFailedError, match=match):
            client.read(url, query=query, parameters=parameters)
    for query, parameters in (
        ("SELECT 1 / (n - 5) FROM generate_series(1, 9) n", None),
        ("SELECT 1 / (n - $1) FROM generate_series(1, 9) n", [5]),
    ):
        with pytest.raises(QueryFailedError, match="division by zero"):
            client.read(url, query=query, parameters=parameters)
    with pytest.raises(QueryFailedError, match="requires 2"):
        client.read(url, query="SELECT $1::int, $2::int", parameters=[1])
    with pytest.raises(QueryFailedError, match="multiple commands"):
        client.read(url, query="SELECT 1; DROP TABLE x")


def test_a_write_is_one_transaction(client: Client, postgres: Postgres) -> None:
    url = postgres.url()
    postgres.execute("CREATE TABLE whole (a int8 UNIQUE); INSERT INTO whole VALUES (250000)")
    seen: list[Any] = []

    def look(done: int, total: int) -> None:
        seen.append(postgres.execute("SELECT count(*) FROM whole")[0][0])

    batches = [pa.record_batch({"a": np.arange(n, n + 50_000)}) for n in range(0, 300_000, 50_000)]
    rows = pa.Table.from_batches(batches)
    with pytest.raises(QueryFailedError, match=r"duplicate key.*\n.*\(250000\)"):
        client.write(rows, url, table="whole", mode="append", progress=look)
    assert set(seen) == {1}
    assert postgres.execute("SELECT * FROM whole") == [(250_000,)]
    client.write(rows, url, table="whole", mode="replace")
    assert postgres.execute("SELECT count(*), sum(a) FROM whole") == [
        (300_000, sum(range(300_000)))
    ]


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    server = Postgres()
    yield server
    server.stop()


def test_a_server_that_goes_away(client: Client, own_postgres: Postgres) -> None:
    url, query = own_postgres.url(), MANY
    own_postgres.execute("CREATE TABLE kept (n int); INSERT INTO kept VALUES (1)")
    for parameters in (None, [0]):
        told: list[int] = []

        def kill(done: int, total: int, told: list[int] = told) -> None:
            if not told:
                own_postgres.kill()
            told.append(done)

        if parameters:
            query = f"{MANY} WHERE n > $1"
        with pytest.raises(DatabaseUnavailableError):
            client.read(url, query=query, parameters=parameters, progress=kill)
        assert told
        assert client.status().objects == 0
        with pytest.raises(DatabaseUnavailableError):
            client.read(url, query=query)
        own_postgres.start()
    with client.scan(url, query=MANY, max_bytes=1 << 20) as reader:
        assert reader.read_next_batch().num_rows
        own_postgres.kill()
        with pytest.raises(StreamFailedError, match="postgresql://127"):
            reader.read_all()
    own_postgres.start()

    def ending() -> Iterator[pa.RecordBatch]:
        batch = pa.record_batch({"n": np.arange(100_000, dtype=np.int32)})
        yield batch
        own_postgres.kill()
        while True:
            yield batch

    rows = pa.RecordBatchReader.from_batches(pa.schema({"n": pa.int32()}), ending())
    with pytest.raises(DatabaseUnavailableError):
        client.write(rows, url, table="kept", mode="replace")
    own_postgres.start()
    assert own_postgres.execute("SELECT * FROM kept") == [(1,)]


def test_a_scan_that_nobody_reads_ends(client: Client, postgres: Postgres) -> None:
    with client.scan(postgres.url(), query=MANY) as reader:
        assert reader.read_next_batch().num_rows
    del reader
    assert gone(lambda: not running(postgres, "generate_series"))


def running(postgres: Postgres, what: str) -> bool:
    """Whether the server runs a statement of others that has ``what`` in it."""
    query = f"""SELECT count(*) FROM pg_stat_activity
        WHERE state = 'active' AND query LIKE '%{what}%' AND pid <> pg_backend_pid()"""
    return bool(postgres.execute(query)[0][0])


INTERRUPTED = """
import sys, pyarrow as pa, vineyard_arrow
_, socket, url, what = sys.argv
client = vineyard_arrow.connect(socket, autostart=False)
def endless():
    while True:
        yield pa.record_batch({"n": pa.array([1] * 100_000)})
if what == "write":
    rows = pa.RecordBatchReader.from_batches(pa.schema({"n": pa.int64()}), endless())
    client.write(rows, url, table="interrupted", mode="replace")
else:
    client.read(url, query=what)
"""


@pytest.mark.parametrize(
    ("what", "seen"),
    [
        ("SELECT pg_sleep(1000)", "pg_sleep"),
        (f"{MANY} OFFSET 77", "OFFSET 77"),
        ("write", "COPY%interrupted"),
    ],
)
def test_an_interrupt_ends_it(
    daemon: Any, client: Client, postgres: Postgres, what: str, seen: str
) -> None:
    postgres.execute("DROP TABLE IF EXISTS interrupted; CREATE TABLE interrupted AS SELECT 1 AS n")
    command = [sys.executable, "-c", INTERRUPTED, str(daemon.socket), postgres.url(), what]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(os.environ)) as c:
        assert gone(lambda: running(postgres, seen) or c.poll() is not None)
        c.send_signal(signal.SIGINT)
        assert c.stderr is not None
        said = c.stderr.read()
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert gone(lambda: not running(postgres, seen))
    assert postgres.execute("SELECT * FROM interrupted") == [(1,)]
    assert gone(lambda: len(client.status().clients) == 1)
