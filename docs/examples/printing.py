"""How the demos print: tables, times and numbers. It knows nothing of stores."""

from __future__ import annotations

from typing import Any

WIDTH = 99


def time_of(seconds: float) -> str:
    for unit, factor in (("s", 1), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.{0 if seconds * factor >= 10 else 1}f} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def print_table(
    header: list[str], rows: list[list[str]], *, rule_before_last: bool = False
) -> None:
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    rule = "   " + "-" * (sum(widths) + 3 * (len(widths) - 1))
    lines = [[header[0].ljust(widths[0]), *map(str.rjust, header[1:], widths[1:])]]
    lines += [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows]
    for i, line in enumerate(lines):
        if i == 1 or (rule_before_last and i == len(lines) - 1):
            print(rule)
        print("   " + "   ".join(line).rstrip()[: WIDTH - 3])


def print_rows(header: list[str], rows: list[list[Any]]) -> None:
    """Print a table; columns of numbers, and of texts that start like one, to the right."""
    right = [
        all(not isinstance(v, str) or v[:1].isdigit() or v[:1] == "+" for v in column)
        for column in zip(*rows, strict=True)
    ]
    lines = [header, *([cell_of(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    for line in lines:
        cells = zip(line, widths, right, strict=True)
        text = "   ".join(c.rjust(w) if to_right else c.ljust(w) for c, w, to_right in cells)
        print(f"   {text}".rstrip())


def cell_of(value: Any) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.1f}" if isinstance(value, float) else f"{value:,}"
