"""What commands print: blocks of text, and the same as data; rendered plainly or by rich.

To a terminal through rich where that is installed, plainly (and never cut) to anything else.
Knows nothing of stores.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigError, VineyardArrowError

__all__ = ["Bar", "Grid", "Line", "NoDaemonError", "Pairs", "Report", "UsageError", "show"]


class UsageError(VineyardArrowError):
    """The arguments do not go together."""

    code = "usage"


class NoDaemonError(ConfigError):
    """A command that never starts a daemon found none."""

    code = "no-daemon"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of text; ``style`` is rich's."""

    text: str = ""
    style: str = ""


@dataclass(frozen=True, slots=True)
class Pairs:
    """Labels and values, the values aligned."""

    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Bar:
    """A share of something, from 0 to 1, and what it is of."""

    share: float
    label: str


@dataclass(frozen=True, slots=True)
class Grid:
    """A table. A heading that starts with ``>`` aligns its column to the right.

    The last column is the one that gives way where the terminal is too narrow.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


Block = Line | Pairs | Bar | Grid


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of a command: blocks to read, the same for programs, the exit status."""

    lines: Sequence[Block] = ()
    data: Any = None
    status: int = field(default=0, kw_only=True)


def show(report: Report, *, as_json: bool) -> None:
    """Print a report to standard output."""
    if as_json:
        print(json.dumps(jsonable(report.data), indent=2, ensure_ascii=not _is_unicode()))
        return
    console = rich_console() if sys.stdout.isatty() else None
    if console is None:
        print(plain(report.lines), end="")
    else:
        console.print(rich_group(report.lines))


def rich_console(*, stderr: bool = False) -> Any:
    """A console of rich, or None where rich is not installed."""
    try:
        from rich.console import Console
    except ImportError:
        return None
    return Console(stderr=stderr, highlight=False)


def width() -> int:
    """Columns to fit in: the terminal's, or 80."""
    return shutil.get_terminal_size((80, 24)).columns if sys.stdout.isatty() else 80


def plain(blocks: Iterable[Block]) -> str:
    """The blocks as lines of text, nothing cut."""
    return "".join(line.rstrip() + "\n" for block in blocks for line in _plain_lines(block))


def _plain_lines(block: Block) -> Iterator[str]:
    match block:
        case Line(text):
            yield clean(text)
        case Pairs(rows):
            margin = max((len(k) for k, _ in rows), default=0) + 2
            for k, v in rows:  # whole words, so that a path stays one
                wrapper = textwrap.TextWrapper(
                    80 - margin, break_long_words=False, break_on_hyphens=False
                )
                first, *more = wrapper.wrap(clean(v)) or [""]
                yield f"{k:<{margin}}{first}"
                yield from (" " * margin + line for line in more)
        case Bar(share, label):
            filled = round(30 * min(max(share, 0.0), 1.0))
            yield f"[{'#' * filled}{'-' * (30 - filled)}] {label}"
        case Grid(heads, rows):
            table = [[h.lstrip(">") for h in heads], *([clean(c) for c in row] for row in rows)]
            widths = [max(len(row[i]) for row in table) for i in range(len(heads))]
            for row in table:
                cells = zip(row, widths, heads, strict=True)
                yield "  ".join(
                    c.rjust(w) if h.startswith(">") else c.ljust(w) for c, w, h in cells
                )


def rich_group(blocks: Iterable[Block]) -> Any:
    """The blocks as one thing for rich to print."""
    from rich.console import Group

    return Group(*(_rich(block) for block in blocks))


def _rich(block: Block) -> Any:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    match block:
        case Line(text, style):
            return Text(clean(text), style)
        case Pairs(rows):
            pairs = Table.grid(padding=(0, 2))
            for k, v in rows:
                pairs.add_row(Text(k, "dim"), Text(clean(v), overflow="fold"))
            return pairs
        case Bar(share, label):
            bar = Table.grid(padding=(0, 2))
            style = "red" if share >= 0.9 else "green"
            filled = min(max(share, 0.0), 1.0)
            done = ProgressBar(1.0, filled, 30, complete_style=style, finished_style=style)
            bar.add_row(done, Text(label))
            return bar
        case Grid(heads, rows):
            table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
            for i, head in enumerate(heads):
                last = i == len(heads) - 1
                justify: Any = "right" if head.startswith(">") else "left"
                table.add_column(
                    head.lstrip(">"), justify=justify, no_wrap=not last, overflow="fold"
                )
            for row in rows:
                table.add_row(*(Text(clean(cell)) for cell in row))
            return table


def clean(text: str) -> str:
    """``text`` with what could steer a terminal (or break a line) made visible.

    Examples
    --------
    >>> clean("a\\x1b[2Jb\\n")
    'a\\\\x1b[2Jb\\\\n'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def jsonable(value: Any) -> Any:
    """``value`` as JSON can say it: what it has no word for (NaN, dates, bytes) as text."""
    match value:
        case None | bool() | str():
            return value
        case float():
            return float(value) if math.isfinite(value) else str(value)
        case int():
            return int(value) if type(value) is int else str(value)  # an ObjectID prints itself
        case dict():
            return {str(k): jsonable(v) for k, v in value.items()}
        case list() | tuple():
            return [jsonable(v) for v in value]
    return str(value)


def _is_unicode() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


def shorten(text: str, length: int) -> str:
    """``text``, or as much of it as fits with three dots."""
    return text if len(text) <= length else text[: max(length - 3, 0)] + "..."


def duration(seconds: float) -> str:
    """Seconds in the largest unit that leaves at least one of it.

    Examples
    --------
    >>> duration(0.2), duration(150), duration(7300)
    ('0 s', '2 min', '2 h')
    """
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{max(int(seconds), 0)} s"
