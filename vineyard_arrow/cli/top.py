"""The live view of the store: memory, rates, clients, largest objects."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import time
import tty
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..ipc import protocol as p
from ..ipc.connection import Connection
from ..machine import format_size
from ..objects import ObjectID
from .listing import client_grid, joined, kind, memory_head, struct_dict
from .process import get_status, open_running, reader_config
from .report import Block, Grid, Line, Pairs, Report, plain, rich_console, rich_group

LISTED = 10_000  # objects looked at for the largest, each frame
LARGEST = 10


@dataclass(frozen=True, slots=True)
class Frame:
    """What was seen at one time, and the one before it for the rates."""

    at: float
    status: p.Status
    objects: list[p.ObjectInfo]
    total: int
    before: Frame | None

    def rate(self, figure: str) -> float:
        """Growth of one of the status's counters, a second."""
        if self.before is None:
            return 0.0
        elapsed = max(self.at - self.before.at, 1e-3)
        return float(getattr(self.status, figure) - getattr(self.before.status, figure)) / elapsed


def top(args: Namespace) -> Report:
    """Show frames until told to leave; one frame where that was asked for."""
    connection = open_running(reader_config(args))
    try:
        frame = _look(connection, None)
        if args.once or args.json:
            return Report(_blocks(frame), _data(frame))
        with _screen() as draw, _keys() as wait_key:
            while True:
                draw(_blocks(frame))
                if wait_key(args.interval):
                    return Report()
                frame = _look(connection, frame)
    finally:
        connection.close()


def _look(connection: Connection, before: Frame | None) -> Frame:
    reply, _ = connection.request(p.ListObjects("*", LISTED))
    objects = sorted(reply.objects, key=lambda o: -o.nbytes)[:LARGEST]
    status = get_status(connection)
    if before is not None and before.before is not None:
        before = Frame(before.at, before.status, [], 0, None)  # no chain of all frames
    return Frame(time.monotonic(), status, objects, reply.total, before)


def _data(frame: Frame) -> dict[str, Any]:
    largest = [struct_dict(o) | {"id": str(ObjectID(o.id))} for o in frame.objects]
    return {"status": struct_dict(frame.status), "largest": largest}


def _blocks(frame: Frame) -> list[Block]:
    s = frame.status
    moved = [f"{format_size(int(frame.rate(f)))}/s {f}" for f in ("copied", "gathered", "shared")]
    committed, warm = format_size(s.memory_committed), format_size(s.memory_warm)
    rows = [
        ("pages", f"{committed} committed, {warm} warm"),
        ("objects", f"{s.objects:,}, {s.deleted_pinned:,} deleted and still read"),
        ("puts", f"{frame.rate('puts'):,.0f}/s: {', '.join(moved)}"),
    ]
    lines: list[Block] = [*memory_head(s), Pairs(rows), Line(), *client_grid(s), Line()]
    if not frame.objects:
        return [*lines, Line("no objects")]
    cells = [
        (
            str(ObjectID(o.id)),
            format_size(o.nbytes),
            str(len(o.pinned_by)),
            kind(o.typename),
            joined(o.names),
        )
        for o in frame.objects
    ]
    lines.append(Grid(("LARGEST", ">SIZE", ">READERS", "TYPE", "NAMES"), cells))
    if frame.total > LISTED:
        lines.append(Line(f"among the oldest {LISTED:,} of {frame.total:,}", "dim"))
    return lines


@contextlib.contextmanager
def _screen() -> Iterator[Any]:
    """A function that draws a frame: in place on a terminal, one after the other elsewhere."""
    console = rich_console() if sys.stdout.isatty() else None
    if console is not None:
        from rich.live import Live

        with Live(console=console, screen=True, auto_refresh=False) as live:
            yield lambda blocks: live.update(
                rich_group([*blocks, Line(), Line("q leaves", "dim")]), refresh=True
            )
        return
    clear = "\x1b[H\x1b[2J" if sys.stdout.isatty() else ""
    after = "" if clear else "\n"

    def draw(blocks: list[Block]) -> None:
        print(clear + plain(blocks), end=after, flush=True)

    yield draw


@contextlib.contextmanager
def _keys() -> Iterator[Any]:
    """A function that waits some seconds and tells whether ``q`` was pressed."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):

        def pause(seconds: float) -> bool:
            select.select([], [], [], seconds)
            return False

        yield pause
        return
    fd = sys.stdin.fileno()
    saved = termios.tcgetattr(fd)

    def wait(seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
            if os.read(fd, 1) in (b"q", b"Q", b"\x04", b""):
                return True
        return False

    try:
        tty.setcbreak(fd)
        yield wait
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, saved)
