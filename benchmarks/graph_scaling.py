"""How the cost of graphs grows: scales 16, 18, 20 and 22, and one plot of the cost of an edge.

Usage: python benchmarks/graph_scaling.py [--scales 16 18 20 22] [--plot FILE.svg]

R-MAT graphs with 16 edges a vertex and sparse int64 oids, in a store of this run's own. Each
figure is the best of some repeats.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from measure import seconds
from rmat import frontier_of, tables
from stores import Store

from vineyard_arrow.graph import Graph, algorithms
from vineyard_arrow.ipc.hugepages import MemFiles

PLOT = Path(__file__).parents[1] / "docs" / "images" / "graph-scaling.svg"
REPEATS = 5
EXPANDED = 1_000_000  # edges, at most
# They tell themselves apart on white and on black, and for those who see few colours.
COLOURS = ("#3b82c4", "#d9822b", "#2f9e6e", "#c4507a", "#8a6fd1")
GREY = "#808080"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scales", type=int, nargs="+", default=[16, 18, 20, 22])
    parser.add_argument("--plot", type=Path, default=PLOT)
    given = parser.parse_args()
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder), "auto", MemFiles())
        try:
            for scale in given.scales:
                for what, cost in measure(store.client, scale).items():
                    found.setdefault(what, []).append(cost)
        finally:
            store.close()
    show(given.scales, found)
    draw(given.scales, found, given.plot)


def measure(client: Any, scale: int) -> dict[str, float]:
    """Nanoseconds an edge of each operation."""
    vertices, edges = tables(scale)

    def build() -> Graph:
        return Graph.from_tables({"v": vertices}, {("v", "e", "v"): edges}, client=client)

    costs = {"build": best(build, edges.num_rows), **measure_built(build())}
    gc.collect()
    client.memory_trim()
    return costs


def measure_built(graph: Graph) -> dict[str, float]:
    indptr, count = graph.adjacency().out_indptr, graph.num_edges()
    hub = int(np.argmax(np.diff(indptr)))
    frontier = frontier_of(indptr, min(EXPANDED, count))
    expanded = graph.expand(frontier).num_rows
    ranks = partial(algorithms.pagerank, graph, max_iter=10, tol=0)
    return {
        "PageRank, an iteration": best(ranks, 10 * count),
        "BFS": best(partial(algorithms.bfs, graph, hub), count),
        "weak components": best(partial(algorithms.weakly_connected_components, graph), count),
        "expand": best(partial(graph.expand, frontier), expanded),
    }


def best(call: Callable[[], Any], count: int) -> float:
    return min(seconds(call) for _ in range(REPEATS)) / count * 1e9


def show(scales: list[int], found: dict[str, list[float]]) -> None:
    print("ns an edge".ljust(24) + "".join(f"scale {scale}".rjust(10) for scale in scales))
    for what, costs in found.items():
        print(what.ljust(24) + "".join(f"{cost:10.2f}" for cost in costs))


def draw(scales: list[int], found: dict[str, list[float]], path: Path) -> None:
    """Write the plot, without a background, so that it suits light pages and dark ones."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "", "font.size": 11}
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for costs, colour in zip(found.values(), COLOURS, strict=True):
        axes.plot(scales, costs, "o-", color=colour, linewidth=2)
    axes.set_yscale("log")
    for (what, costs), colour, y in zip(found.items(), COLOURS, spread(found, axes), strict=True):
        axes.annotate(
            f"{what}  {costs[-1]:.1f}", (scales[-1], y), color=colour, va="center",
            xytext=(9, 0), textcoords="offset points",
        )  # fmt: skip
    axes.set_xticks(scales, [f"{scale}\n{(16 << scale) / 1e6:,.0f} M" for scale in scales])
    axes.set_xlabel("scale of the R-MAT graph, and its edges", color=GREY)
    axes.set_ylabel("ns an edge", color=GREY)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.tick_params(colors=GREY, which="both")
    axes.grid(True, color=GREY, alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, transparent=True, metadata={"Date": None, "Creator": None})


def spread(found: dict[str, list[float]], axes: Any) -> list[float]:
    """Where the names of the lines are readable: at their ends, but not over each other."""
    ends = [costs[-1] for costs in found.values()]
    low, high = axes.get_ylim()
    gap = (high / low) ** 0.06  # of the height, for one line of text
    places = {}
    for i in sorted(range(len(ends)), key=ends.__getitem__):
        low = places[i] = max(ends[i], low)
        low *= gap
    return [places[i] for i in range(len(ends))]


if __name__ == "__main__":
    main()
