"""Print what graphs cost beside other libraries, as the table of docs/graph.md.

Usage: python benchmarks/graph_table.py RESULTS.json

A cell says how many times as long as ours a library takes; in brackets are smaller scales.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main(path: str) -> None:
    results = json.loads(Path(path).read_text())
    versions = results["machine_info"]["libraries"]
    cpu = results["machine_info"]["cpu"]
    print(
        f"{cpu['count']} x {cpu['brand_raw']}, Python {results['machine_info']['python_version']}"
    )
    print(", ".join(f"{name} {number}" for name, number in versions.items()), end="\n\n")
    operations = {
        each["group"].removeprefix("graph: "): by_library(each["extra_info"]["rows"])
        for each in results["benchmarks"]
        if "test_graph_peers" in each["fullname"]
    }
    top = max(scale for cells in operations.values() for scale, _ in cells.values())
    print("| | ours | " + " | ".join(versions) + " |")
    print("|---|--:|" + "--:|" * len(versions))
    for what, cells in operations.items():
        scale, row = max(cells.values(), key=lambda cell: cell[0])
        line = [what, row["ours"] + ("" if scale == top else f" ({scale})")]
        line += [cell_of(*cells[name], scale) if name in cells else "" for name in versions]
        print("| " + " | ".join(line) + " |")


def by_library(rows: list[dict[str, Any]]) -> dict[str, tuple[int, dict[str, Any]]]:
    out = {}
    for row in rows:
        name, scale = row["what"].split(", scale ")
        out[name] = (int(scale), row)
    return out


def cell_of(scale: int, row: dict[str, Any], largest: int) -> str:
    times = 1 / row["ratio"]
    text = f"{times:,.0f} x" if times >= 10 else f"{times:.1f} x"
    return text if scale == largest else f"{text} ({scale})"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
