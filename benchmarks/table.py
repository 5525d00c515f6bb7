"""Print the results of the benchmarks as one table of ratios.

Usage: python benchmarks/table.py RESULTS.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HEADER = ["what", "ours", "yardstick", "ratio", "target", "ok?"]
VERDICT = {True: "ok", False: "MISS", None: ""}


def main(path: str) -> None:
    results = json.loads(Path(path).read_text())
    machine = results["machine_info"]
    cpu = machine.get("cpu", {})
    print(
        f"Python {machine['python_version']}, Linux {machine['release']},"
        f" {cpu.get('count', '?')} x {cpu.get('brand_raw', machine['machine'])}"
    )
    print(", ".join(f"{name} {number}" for name, number in machine["libraries"].items()))
    print("Medians; ratios are taken round by round, ours and yardstick interleaved.")
    print("Graphs: best times, ours and theirs in turns.\n")
    rows: list[list[str]] = []
    verdicts: list[bool] = []
    group = None
    for benchmark in results["benchmarks"]:
        for row in benchmark["extra_info"].get("rows", []):
            if benchmark["group"] != group:
                group = benchmark["group"]
                rows.append([group or ""])
            rows.append(cells_of(row))
            verdicts += [] if row["ok"] is None else [row["ok"]]
    widths = [max(len(row[i]) for row in [HEADER, *rows] if len(row) > 1) for i in range(6)]
    print(line_of(HEADER, widths))
    print(line_of(["-" * width for width in widths], widths))
    for row in rows:
        print(f"[{row[0]}]" if len(row) == 1 else line_of(row, widths))
    print(f"\n{sum(verdicts)} of {len(verdicts)} targets met.")


def cells_of(row: dict[str, Any]) -> list[str]:
    ratio = f"{row['ratio']:.3f}" if abs(row["ratio"]) < 10 else f"{row['ratio']:.1f}"
    return [row["what"], row["ours"], row["yardstick"], ratio, row["target"], VERDICT[row["ok"]]]


def line_of(cells: list[str], widths: list[int]) -> str:
    first = cells[0].ljust(widths[0])
    return "  ".join([first, *map(str.rjust, cells[1:5], widths[1:5]), cells[5]]).rstrip()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
