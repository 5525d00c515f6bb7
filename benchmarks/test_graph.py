"""Graphs: building, attaching, and what a Python loop, a slice and an expansion cost.

Rates are compared with the rates that are aimed at on a quiet machine with two cores.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from measure import KIB, once, p50, paired, report, seconds, time_of
from rmat import frontier_of, tables

from vineyard_arrow.graph import Graph

SCALE = 20
TRIPLE = ("v", "e", "v")
LOOP = 200_000  # steps of a timed loop
CALLS = 2000


def rate(count: int, seconds: float) -> str:
    return f"{count / seconds / 1e6:.1f} M/s"


def build(client: Any, given: Any) -> Graph:
    vertices, edges = given
    return Graph.from_tables({"v": vertices}, {TRIPLE: edges}, client=client)


@pytest.fixture(scope="module")
def integers() -> Any:
    return tables(SCALE)


@pytest.fixture
def graph(store: Any, integers: Any) -> Iterator[Graph]:
    """Built with a weight on each edge, put, and got back."""
    vertices, edges = integers
    edges = edges.append_column("w", [np.random.default_rng(0).random(edges.num_rows)])
    oid = store.client.put(build(store.client, (vertices, edges)))
    yield store.client.get(oid)
    gc.collect()


# ---- building


@pytest.mark.timeout(600)
@pytest.mark.benchmark(group=f"graph: build, RMAT scale {SCALE} x 16")
@pytest.mark.parametrize(("kind", "target"), [("int64", 35), ("text", 15)])
def test_build(benchmark: Any, store: Any, integers: Any, kind: str, target: int) -> None:
    given = integers if kind == "int64" else tables(SCALE, texts=True)
    count = given[1].num_rows
    times = paired(benchmark, lambda: seconds(build, store.client, given), rounds=4)[0]
    best = min(times)
    report(
        benchmark, f"{kind} oids, best of {len(times)}", rate(count, best), f"{target} M/s",
        count / best / 1e6 / target, ">= 1",
    )  # fmt: skip


def peak_of(function: Callable[[], Any]) -> int:
    """Bytes of memory, shared too, that a call needs beyond what there is before."""
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM

    def status(key: str) -> int:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(key):
                return int(line.split()[1]) * KIB
        raise OSError(f"/proc/self/status has no {key}")

    before = status("VmRSS")
    kept = function()
    peak = status("VmHWM")
    del kept
    return peak - before


@pytest.mark.benchmark(group=f"graph: memory, RMAT scale {SCALE} x 16")
def test_memory(benchmark: Any, store: Any, integers: Any) -> None:
    count = integers[1].num_rows
    store.client.memory_trim()
    peak = once(benchmark, lambda: peak_of(lambda: build(store.client, integers)))
    report(
        benchmark, "peak of a build, an edge", f"{peak / count:.1f} B", "40 B",
        peak / count / 40, "<= 1",
    )  # fmt: skip
    made = build(store.client, integers)
    stored = sum(each.nbytes for name, each in made.members().items() if name != "v/vertices")
    vertices = made.num_vertices()
    index = sum(each.nbytes for each in made._vertices["v"].index.values())
    report(
        benchmark, "stored, an edge", f"{(stored - index - 16 * (vertices + 1)) / count:.1f} B",
        "12 B", (stored - index - 16 * (vertices + 1)) / count / 12, "<= 1",
    )  # fmt: skip
    report(benchmark, "oid index, a vertex", f"{index / vertices:.1f} B", "", index / vertices, "")


# ---- attaching


def attach(socket: str, oid: int) -> tuple[float, float]:
    """In another process: the first get, whose segments are not mapped, and a later one."""
    import vineyard_arrow

    with vineyard_arrow.connect(socket, autostart=False) as client:
        first = seconds(client.get, oid)
        again = p50(lambda: client.get(oid), 50)
    return first, again


@pytest.mark.benchmark(group="graph: attach from another process")
def test_attach(benchmark: Any, store: Any, peer: Any, graph: Graph) -> None:
    oid = store.client.put(graph)
    peer.call(attach, store.socket, oid)  # it has to import what graphs need
    times = once(benchmark, lambda: [peer.call(attach, store.socket, oid) for _ in range(21)])
    for what, taken in zip(("first get", "get"), zip(*times, strict=True), strict=True):
        median = sorted(taken)[len(taken) // 2]
        report(benchmark, what, time_of(median), "1 ms", median / 1e-3, "<= 1")


# ---- access


def empty_loop() -> float:
    """An empty loop over ints, a step."""
    start = time.thread_time()
    for _ in range(LOOP):
        pass
    return (time.thread_time() - start) / LOOP


@pytest.mark.benchmark(group="graph: access")
def test_loop(benchmark: Any, graph: Graph) -> None:
    """Over the edges of the largest hub, again and again."""
    hub = int(np.argmax(np.diff(graph.adjacency().out_indptr)))
    degree = graph.degree(hub)

    def loop() -> float:
        start = time.thread_time()
        for _ in range(LOOP // degree + 1):
            for _edge in graph.out_edges(hub):
                pass
        return (time.thread_time() - start) / ((LOOP // degree + 1) * degree)

    ours, empty = paired(benchmark, loop, empty_loop, rounds=49)
    report(
        benchmark, "loop over Edge objects / over ints", time_of(min(ours)), time_of(min(empty)),
        min(ours) / min(empty), "<= 2",
    )  # fmt: skip


@pytest.mark.benchmark(group="graph: access")
def test_slice(benchmark: Any, graph: Graph) -> None:
    def each(call: Callable[[], Any]) -> float:
        start = time.thread_time()
        for _ in range(CALLS):
            call()
        return (time.thread_time() - start) / CALLS

    (ours,) = paired(benchmark, lambda: each(lambda: graph.out_slice(12345).neighbors), rounds=49)
    best = min(ours)
    report(benchmark, "slice of a vertex, as NumPy", time_of(best), "0.3 µs", best / 0.3e-6, "<= 1")


@pytest.mark.benchmark(group="graph: access")
@pytest.mark.parametrize("wanted", [100_000, 1_000_000])
def test_expand(benchmark: Any, graph: Graph, wanted: int) -> None:
    frontier = frontier_of(graph.adjacency().out_indptr, wanted)
    count = graph.expand(frontier).num_rows
    (ours,) = paired(benchmark, lambda: seconds(graph.expand, frontier), rounds=49)
    best = min(ours)
    report(
        benchmark, f"expand, {count:,} edges of {len(frontier):,} vertices", rate(count, best),
        "300 M/s", count / best / 300e6, ">= 1",
    )  # fmt: skip
