"""Tables of databases, read, scanned and written: the same on each kind there is."""

from __future__ import annotations

import datetime
import decimal
import itertools
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from drivers_harness import got
from drivers_harness import nothing_left as nothing_left

from vineyard_arrow.client import Client
from vineyard_arrow.errors import (
    ConfigError,
    DatabaseUnavailableError,
    InvalidObjectError,
    LibraryNotFoundError,
    PathNotFoundError,
    QueryFailedError,
    SchemaMismatchError,
    StoreFullError,
    StreamFailedError,
    TableExistsError,
    VineyardArrowError,
)

ROWS = 100_000
TABLE = pa.table(
    {
        "id": np.arange(ROWS),
        "x": np.random.default_rng(1).random(ROWS),
        "s": pa.array([f"row {n}" if n % 7 else None for n in range(ROWS)]),
    }
)
_names = (f"table {n}" for n in itertools.count())


@dataclass
class Place:
    """A database: its url, a url to write to, how it says parameters, and a name that is free."""

    url: str
    into: str
    marks: Callable[[int], str]
    table: str = ""

    def fill(self, client: Client, table: Any = TABLE) -> None:
        client.write(table, self.into, table=self.table)


def _in_postgres(prefix: str, mark: Callable[[int], str], request: pytest.FixtureRequest) -> Place:
    url = request.getfixturevalue("postgres").url()
    return Place(url.replace("postgresql://", prefix), url, mark)


KINDS: list[Any] = [
    "sqlite",
    "duckdb",
    "sqlalchemy+sqlite",
    pytest.param("postgresql", marks=pytest.mark.postgresql),
    pytest.param("sqlalchemy+postgresql", marks=pytest.mark.postgresql),
]


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    kind, path = request.param, tmp_path / "a b.db"
    if kind == "postgresql":
        made = _in_postgres("postgresql://", lambda n: f"${n}", request)
    elif kind == "sqlalchemy+postgresql":
        made = _in_postgres("sqlalchemy+postgresql+psycopg://", lambda n: "%s", request)
    elif kind == "sqlalchemy+sqlite":
        made = Place(f"sqlalchemy+sqlite:///{path}", f"sqlite:///{path}", lambda n: "?")
    else:
        made = Place(f"{kind}:///{path}", f"{kind}:///{path}", lambda n: "?")
    made.table = next(_names)
    return made


def test_what_is_written_is_read(client: Client, place: Place) -> None:
    place.fill(client)
    done: list[int] = []
    oid = client.read(place.url, table=place.table, name="n", progress=lambda d, _: done.append(d))
    assert client.get("n").sort_by("id") == TABLE
    assert client.get_meta(oid).copied == 0
    assert done[-1] == pytest.approx(TABLE.nbytes, rel=0.2)
    some = got(client, place.url, table=(place.table,), columns=["s", "id"])
    assert some.sort_by("id") == TABLE.select(["s", "id"])


def test_a_scan_holds_little(client: Client, place: Place) -> None:
    place.fill(client)
    with client.scan(place.url, table=place.table) as reader:
        assert reader.read_all().sort_by("id") == TABLE
    with client.scan(place.url, query="SELECT 1 AS a WHERE 1 = 0") as reader:
        assert reader.read_all().num_rows == 0
    with client.scan(place.url, table=place.table) as reader:
        assert reader.schema.names == TABLE.column_names  # and nobody reads it to its end


def test_parameters_are_bound(client: Client, place: Place) -> None:
    evil = "'; DROP TABLE x; -- $1 ? :a %s"
    place.fill(client, pa.table({"id": [1, 2, 3], "s": [evil, "b", 'quo"te']}))
    name, mark = f'"{place.table}"', place.marks
    query = f"SELECT id FROM {name} WHERE s = {mark(1)} AND id < {mark(2)}"
    for text, limit, ids in (
        (evil, 9, [1]),
        ('quo"te', 9, [3]),
        (evil, 1, []),
        ("' OR 1=1", 9, []),
    ):
        found = got(client, place.url, query=query, parameters=[text, limit])
        assert found["id"].to_pylist() == ids
        with client.scan(place.url, query=query, parameters=[text, limit]) as reader:
            assert reader.read_all()["id"].to_pylist() == ids


def test_parameters_that_databases_lack(client: Client, place: Place) -> None:
    place.fill(client, TABLE.slice(0, 1))
    query = f'SELECT id FROM "{place.table}" WHERE id = {place.marks(1)}'
    with pytest.raises(VineyardArrowError):
        client.read(place.url, query=query, parameters=[object()])
    with suppress(VineyardArrowError):  # some have integers of any size
        assert not got(client, place.url, query=query, parameters=[1 << 70])


def test_parameters_by_name(client: Client, place: Place) -> None:
    place.fill(client, TABLE.slice(0, 10))
    sign = "$" if place.url.startswith("duckdb") else ":"
    query = f'SELECT id FROM "{place.table}" WHERE id > {sign}least AND id < {sign}most'
    options: dict[str, Any] = {"query": query, "parameters": {"least": 3, "most": 6}}
    if place.url.startswith("postgresql"):
        with pytest.raises(ConfigError, match=r"\$1, \$2 in the query"):
            client.read(place.url, **options)
    else:
        assert got(client, place.url, **options)["id"].to_pylist() == [4, 5]


def test_more_than_a_batch_by_parameters(client: Client, place: Place) -> None:
    place.fill(client)
    query = f'SELECT * FROM "{place.table}" WHERE id >= {place.marks(1)}'
    assert got(client, place.url, query=query, parameters=[5]).sort_by("id") == TABLE.slice(5)


def test_names_are_quoted(client: Client, place: Place) -> None:
    place.table = 'a "b"; DROP TABLE c; --' + place.table
    odd = pa.table({'se"lect': [1], "Ünï": [2], "from": [3]})
    place.fill(client, odd)
    assert got(client, place.url, table=place.table) == odd
    columns = ["from", 'se"lect']
    assert got(client, place.url, table=place.table, columns=columns) == odd.select(columns)


def test_modes(client: Client, place: Place) -> None:
    url, table = place.into, place.table
    one, two = pa.table({"a": [1], "b": ["x"]}), pa.table({"b": ["y"], "a": [2]})
    client.write(one, url, table=table, mode="append")  # makes it
    for mode in ("fail", "create"):
        with pytest.raises(TableExistsError, match=r"already exists.*mode='append'"):
            client.write(two, url, table=table, mode=mode)
    client.write(two, url, table=table, mode="append")
    read = got(client, url, table=table).sort_by("a")
    assert read.to_pydict() == {"a": [1, 2], "b": ["x", "y"]}
    client.put(two, name="n")
    client.write("n", url, table=table, mode="replace")
    assert got(client, url, table=table) == two
    with pytest.raises(ConfigError, match="fail, create, append, replace"):
        client.write(two, url, table=table, mode="upsert")


def failing(batches: int) -> pa.RecordBatchReader:
    def made() -> Iterator[pa.RecordBatch]:
        for _ in range(batches):
            yield from TABLE.to_batches()
        raise RuntimeError("the source failed")

    return pa.RecordBatchReader.from_batches(TABLE.schema, made())


def test_a_name_is_that_of_one_column(client: Client, place: Place) -> None:
    with pytest.raises(InvalidObjectError, match=r"the name 'a'.*rename"):
        place.fill(client, pa.table([[1], [2]], names=["a", "a"]))


@pytest.mark.parametrize("names", [["a", "A"], ["", "a"]])
def test_duckdb_renames_nothing(client: Client, tmp_path: Path, names: list[str]) -> None:
    url = f"duckdb:///{tmp_path}/a.duckdb"
    with pytest.raises(InvalidObjectError, match="rename it"):
        client.write(pa.table([[1], [2]], names=names), url, table="t")


@pytest.mark.parametrize("mode", ["fail", "append", "replace"])
def test_a_write_that_fails_changes_nothing(client: Client, place: Place, mode: str) -> None:
    if mode != "fail":
        place.fill(client, TABLE.slice(0, 5))
    with pytest.raises(RuntimeError, match="the source failed"):
        client.write(failing(2), place.into, table=place.table, mode=mode)
    if mode == "fail":
        place.fill(client, TABLE.slice(0, 5))
    assert got(client, place.url, table=place.table) == TABLE.slice(0, 5)


def test_types(client: Client, place: Place) -> None:
    day, moment = datetime.date(2024, 2, 29), datetime.datetime(2024, 2, 29, 12, 30, 1)
    table = pa.table(
        {
            "small": pa.array([1, None], pa.int16()),
            "yes": pa.array([True, None]),
            "word": pa.array(["a", None]).dictionary_encode(),
            "raw": pa.array([b"\x00\xff", None]),
            "day": pa.array([day, None]),
            "moment": pa.array([moment, None], pa.timestamp("ns")),
        }
    )
    place.fill(client, table)
    row, none = got(client, place.url, table=place.table).to_pylist()
    assert set(none.values()) == {None}
    assert (row["small"], row["yes"], row["word"], row["raw"]) == (1, True, "a", b"\x00\xff")
    if "sqlite" not in place.url:  # it has none for time
        assert (row["day"], row["moment"]) == (day, moment)


def test_nothing_is_a_table_too(client: Client, place: Place) -> None:
    place.fill(client, TABLE.slice(0, 0))
    read = got(client, place.url, table=place.table)
    assert (read.num_rows, read.column_names) == (0, TABLE.column_names)


def test_a_schema_may_be_said(client: Client, place: Place) -> None:
    place.fill(client, pa.table({"a": [1, 2], "b": ["1.5", None]}))
    schema = pa.schema({"b": pa.float64(), "a": pa.int32()})
    read = got(client, place.url, table=place.table, schema=schema)
    assert read == pa.table({"b": [1.5, None], "a": [1, 2]}, schema=schema)
    with pytest.raises(SchemaMismatchError, match=r"column 'b'.*cannot be"):
        client.read(place.url, table=place.table, schema=pa.schema({"b": pa.date32()}))
    twice = {"query": "SELECT 1 AS a, 2 AS a", "schema": pa.schema({"a": pa.int8()})}
    with pytest.raises(QueryFailedError, match="several columns have one name"):
        client.read(place.url, **twice)


def test_sql_that_fails(client: Client, place: Place) -> None:
    place.fill(client, TABLE.slice(0, 5))
    for query, said in (
        ("SELECT *\nFRO x", "syntax error"),
        ("SELECT nocolumn", "nocolumn"),
        ("SELECT * FROM nothere", "nothere"),
    ):
        for read in (client.read, client.scan):
            with pytest.raises(QueryFailedError, match=said) as failed:
                read(place.url, query=query)
            assert "se:cr" not in str(failed.value)
    with pytest.raises(QueryFailedError, match="not there"):
        client.read(place.url, table="not there")


def test_what_makes_no_sense(client: Client, place: Place) -> None:
    place.fill(client, TABLE.slice(0, 1))
    for options, said in (
        ({}, "table=.*query="),
        ({"query": "SELECT 1", "table": "t"}, "table=.*query="),
        ({"query": " "}, "it is SQL"),
        ({"query": "SELECT 1", "columns": ["a"]}, "names its columns itself"),
        ({"table": "t", "parameters": [1]}, "a table has no parameters"),
        ({"query": "SELECT 1", "parameters": 5}, "parameters= is a int"),
        ({"query": "SELECT 1", "parameters": "text"}, "parameters= is a str"),
        ({"table": ()}, "a name"),
        ({"table": "a\0b"}, "NUL"),
    ):
        with pytest.raises(ConfigError, match=said):
            client.read(place.url, **options)


def test_what_does_not_fit_leaves_nothing(
    client: Client, make_daemon: Callable[..., Any], place: Place
) -> None:
    rows = 400_000  # of 100 bytes, 40 MB in all
    place.fill(client, pa.table({"id": np.arange(rows), "s": ["x" * 92] * rows}))
    with make_daemon("--memory-limit", "32MiB").connect() as own:
        with pytest.raises(StoreFullError, match=r"does not fit.*scan it"):
            own.read(place.url, table=place.table)
        assert own.memory_pool.bytes_allocated() == 0
        assert own.status().objects == 0
        scanned = own.scan(place.url, table=place.table, max_bytes=8 << 20)
        assert sum(len(batch) for batch in scanned) == rows


def test_types_that_a_database_has_not(client: Client, place: Place) -> None:
    if place.into.startswith("duckdb"):
        return
    for column in (pa.array([{"a": 1}]), pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64()))):
        with pytest.raises(InvalidObjectError, match="column 'odd' is"):
            place.fill(client, pa.table({"ok": [1], "odd": column}))


# ---- files


@pytest.mark.parametrize("kind", ["sqlite", "duckdb"])
def test_files_that_are_none(client: Client, tmp_path: Path, kind: str) -> None:
    with pytest.raises(PathNotFoundError, match="no such file"):
        client.read(f"{kind}:///{tmp_path}/none.db", table="t")
    assert not list(tmp_path.iterdir())
    (tmp_path / "text.db").write_text("this is no database, " * 500)
    with pytest.raises(DatabaseUnavailableError, match="database"):
        client.read(f"{kind}:///{tmp_path}/text.db", table="t")
    for url in (f"{kind}://", f"{kind}:///:memory:", f"{kind}://host/a.db"):
        with pytest.raises(ConfigError, match="names no file"):
            client.read(url, table="t")


def test_duckdb_has_types_of_its_own(client: Client, tmp_path: Path) -> None:
    url = f"duckdb:///{tmp_path}/a.db?threads=1"
    table = pa.table({"st": [{"a": [1, 2]}], "m": [decimal.Decimal("1.25")]})
    client.write(table, url, table="t")
    assert got(client, url, table="t") == table
    read = got(client, url, query="SELECT 'x'::ENUM('x', 'y') AS e FROM range(200000)")
    assert set(read["e"].to_pylist()) == {"x"}


def test_values_of_sqlite_that_change_their_type(client: Client, tmp_path: Path) -> None:
    import sqlite3

    path = tmp_path / "a.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (a)")
        rows = [(n if n < 20_000 else n + 0.5,) for n in range(40_000)]
        connection.executemany("INSERT INTO t VALUES (?)", rows)
        connection.execute("INSERT INTO t VALUES ('word')")
    connection.close()
    numbers = "SELECT a FROM t WHERE typeof(a) <> 'text'"
    read = got(client, f"sqlalchemy+sqlite:///{path}", query=numbers)
    assert read["a"].to_pylist() == [row[0] for row in rows]  # int64, then double
    reader = client.scan(f"sqlalchemy+sqlite:///{path}", query=numbers)
    with reader, pytest.raises(StreamFailedError, match=r"column 'a'.*cannot be int64"):
        reader.read_all()
    with pytest.raises(QueryFailedError, match="column 'a' has values of float, str"):
        client.read(f"sqlalchemy+sqlite:///{path}", table="t")


# ---- paths


@pytest.mark.parametrize("kind", ["sqlite", "duckdb"])
def test_the_path_of_a_file_is_its_url(client: Client, tmp_path: Path, kind: str) -> None:
    new, old = tmp_path / f"50% new?.{kind}", tmp_path / "old.db"
    client.write(TABLE[:9], new, table="t")
    client.write(TABLE[:9], f"{kind}:///{old}", table="t")
    for path in (new, old):  # what is in it tells what it is
        assert got(client, path, table="t") == TABLE[:9]
    assert client.scan(old, query="SELECT id FROM t").read_all().num_rows == 9
    with pytest.raises(ConfigError, match=r"table=.*query="):
        client.read(old)
    with pytest.raises(PathNotFoundError, match=r"none\.db"):
        client.read(tmp_path / "none.db", table="t")


# ---- SQLAlchemy


def test_what_sqlalchemy_does_not_know(client: Client) -> None:
    with pytest.raises(LibraryNotFoundError, match="MySQLdb"):
        client.read("mysql://user:hush@host/db", table="t")
    for url in ("sqlalchemy+nothing://user:hush@host/db", "sqlalchemy+nothing"):
        with pytest.raises((ConfigError, FileNotFoundError)) as failed:
            client.read(url, table="t")
        assert "hush" not in str(failed.value)
    assert "sqlalchemy" in {s for d in client.drivers("read") for s in d.schemes or ()}
