"""Files and tables into the store and out of it, against their libraries with private memory.

Of reading, ours includes the put, so any number of processes can map the result. Of writing, the
table is one of the store; ours includes finding it, and moving what is whole to its place. Files
lie in the page cache.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from measure import GIB, MIB, once, paired, rate_of, ratio_of, report, seconds, time_of
from stores import start_store, stop

import vineyard_arrow

ROWS = 4_000_000


def some_table(rows: int) -> pa.Table:
    random = np.random.default_rng(1)
    return pa.table(
        {
            "id": np.arange(rows),
            "price": random.random(rows),
            "count": random.integers(0, 1000, rows),
            "city": pa.array([f"city {n}" for n in random.integers(0, 500, rows)]),
        }
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same rows as Parquet, and a quarter of them as CSV."""
    folder, table = tmp_path_factory.mktemp("files"), some_table(ROWS)
    pq.write_table(table, folder / "t.parquet", row_group_size=1 << 20)
    pyarrow.csv.write_csv(table.slice(0, ROWS // 4), folder / "t.csv")
    return {"parquet": folder / "t.parquet", "csv": folder / "t.csv"}


PLAIN: dict[str, Callable[[Path], pa.Table]] = {
    "parquet": pq.read_table,
    "csv": pyarrow.csv.read_csv,
}


@pytest.mark.benchmark(group="a file into the store / pyarrow's reader into private memory")
@pytest.mark.parametrize("kind", PLAIN)
def test_read(benchmark: Any, any_store: Any, files: dict[str, Path], kind: str) -> None:
    client, path = any_store.client, files[kind]

    def ours() -> float:
        taken = seconds(client.read, path)
        (meta,) = client.list_objects()
        assert meta.copied == 0
        client.delete(meta.id)
        return taken

    def plain() -> float:
        return seconds(PLAIN[kind], path)

    ours()  # pages are warm from here on, as the plain reader's are
    mine, theirs = paired(benchmark, ours, plain, rounds=9)
    report(
        benchmark,
        f"{kind}, {any_store.pages}",
        time_of(mine),
        time_of(theirs),
        ratio_of(mine, theirs),
        "<= 1.1",
    )


def delta_files(path: Path) -> pa.Table:
    import deltalake

    return deltalake.DeltaTable(path).to_pyarrow_table()


def delta_engine(path: Path) -> pa.Table:
    """Strings stay views, of which pyarrow can do little."""
    import deltalake

    return pa.table(deltalake.DeltaTable(path).scan())


def lance_table(path: Path) -> pa.Table:
    import lance

    return lance.dataset(path).to_table()


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same rows, twice as many, as tables of Delta and Lance."""
    import deltalake
    import lance

    folder, table = tmp_path_factory.mktemp("tables"), some_table(2 * ROWS)
    deltalake.write_deltalake(folder / "t", table)
    lance.write_dataset(table, folder / "t.lance")
    return folder


@pytest.mark.benchmark(group="a table into the store / its library's reader into private memory")
@pytest.mark.parametrize("plain", [delta_files, delta_engine, lance_table])
def test_read_table(benchmark: Any, store: Any, tables: Path, plain: Any) -> None:
    path = tables / ("t.lance" if plain is lance_table else "t")

    def ours() -> float:
        taken = seconds(store.client.read, path)
        (meta,) = store.client.list_objects()
        assert meta.copied == 0
        store.client.delete(meta.id)
        return taken

    def theirs() -> float:
        return seconds(plain, path)

    ours()
    mine, others = paired(benchmark, ours, theirs, rounds=5)
    report(
        benchmark,
        plain.__name__.replace("_", ", "),
        time_of(mine),
        time_of(others),
        ratio_of(mine, others),
    )


def write_arrow(table: pa.Table, path: Path) -> None:
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)


def write_duckdb(table: pa.Table, path: Path) -> None:
    import duckdb

    with duckdb.connect(str(path)) as connection:
        connection.register("rows", table)
        connection.execute("CREATE TABLE t AS FROM rows")


def write_sqlite(table: pa.Table, path: Path) -> None:
    from adbc_driver_sqlite import dbapi

    with dbapi.connect(str(path)) as connection, connection.cursor() as cursor:
        cursor.adbc_ingest("t", table)
        connection.commit()


# How many rows, and what writes them.
WRITERS: dict[str, tuple[int, Callable[[pa.Table, Path], Any]]] = {
    "parquet": (ROWS // 4, pq.write_table),
    "csv": (ROWS // 8, pyarrow.csv.write_csv),
    "arrow": (ROWS, write_arrow),
    "duckdb": (ROWS // 4, write_duckdb),
    "sqlite": (ROWS // 32, write_sqlite),
}


@pytest.mark.benchmark(group="a table of the store to a file / the library's writer")
@pytest.mark.parametrize("kind", WRITERS)
def test_write(benchmark: Any, store: Any, tmp_path: Path, kind: str) -> None:
    rows, write = WRITERS[kind]
    table = some_table(rows)
    oid = store.client.put(table)
    paths = (tmp_path / f"ours.{kind}", tmp_path / f"theirs.{kind}")
    database = kind in ("duckdb", "sqlite")
    url = f"{kind}:///{paths[0]}" if database else str(paths[0])
    options = {"table": "t"} if database else {}

    def ours() -> float:
        paths[0].unlink(missing_ok=True)
        return seconds(lambda: store.client.write(oid, url, **options))

    def plain() -> float:
        paths[1].unlink(missing_ok=True)
        return seconds(write, table, paths[1])

    mine, theirs = paired(benchmark, ours, plain, rounds=5)
    sizes = [path.stat().st_size for path in paths]
    assert max(sizes) < 1.05 * min(sizes)  # the same is in both
    report(
        benchmark,
        f"{kind}, {rows:,} rows",
        time_of(mine),
        time_of(theirs),
        ratio_of(mine, theirs),
        "<= 1.1",
    )


@pytest.mark.benchmark(group="4 GiB of decoded Parquet through a store of 512 MiB")
def test_scan(benchmark: Any, tmp_path: Path) -> None:
    table = pa.table({f"c{i}": np.random.default_rng(i).random(1 << 20) for i in range(8)})
    pq.write_table(table, tmp_path / "0.parquet", row_group_size=1 << 18, use_dictionary=False)
    files = 4 * GIB // table.nbytes
    for n in range(1, files):
        (tmp_path / f"{n}.parquet").hardlink_to(tmp_path / "0.parquet")
    socket = str(tmp_path / "s")
    pid = start_store(socket, "auto", "--memory-limit", "512MiB")
    client = vineyard_arrow.connect(socket, autostart=False)
    peak = 0

    def scanned() -> float:
        nonlocal peak
        total = 0

        def run() -> None:
            nonlocal total, peak
            for n, batch in enumerate(client.scan(tmp_path / "*.parquet")):
                total += batch.nbytes
                if n % 16 == 0:
                    peak = max(peak, client.status().memory_charged)

        taken = seconds(run)
        assert total == 4 * GIB
        return taken

    def plain() -> float:
        return sum(seconds(pq.read_table, tmp_path / f"{n}.parquet") for n in range(files))

    yardstick = plain()
    mine = once(benchmark, scanned)
    client.close()
    stop(pid)
    assert peak <= 512 * MIB
    report(
        benchmark,
        f"speed / file by file into private memory; at most {peak // MIB} MiB in use",
        rate_of(4 * GIB, [mine]),
        rate_of(4 * GIB, [yardstick]),
        yardstick / mine,
    )
