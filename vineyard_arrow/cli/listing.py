"""The commands that look at the store as a whole: status, ls, du. They read no data."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from ..ipc import protocol as p
from ..machine import counted, format_size
from ..objects import ObjectID
from .process import get_status, open_running, reader_config
from .report import Bar, Block, Grid, Line, Pairs, Report, duration

ALL = 1 << 40  # as the limit of a listing


def kind(typename: str) -> str:
    """The typename as people say it, without the prefix that all have."""
    return typename.removeprefix("vineyard.")


def joined(items: Sequence[object]) -> str:
    """The items with commas, or a dash."""
    return ", ".join(map(str, items)) or "-"


# ---- status


def status(args: Namespace) -> Report:
    """Figures of the daemon and its clients."""
    config = reader_config(args)
    connection = open_running(config)
    try:
        s = get_status(connection)
    finally:
        connection.close()
    data = {"socket": str(config.socket)} | struct_dict(s)
    return Report(_status_lines(str(config.socket), s), data)


def struct_dict(message: Any) -> dict[str, Any]:
    """A message, and those in its lists, as a dictionary (its own encoding is an array)."""

    def plain(value: Any) -> Any:
        if isinstance(value, msgspec.Struct):
            return struct_dict(value)
        return [plain(v) for v in value] if isinstance(value, list) else value

    return {name: plain(getattr(message, name)) for name in message.__struct_fields__}


def _status_lines(socket: str, s: p.Status) -> list[Block]:
    deleted = f" ({s.deleted_pinned} deleted ones still read)" if s.deleted_pinned else ""
    rows = [
        ("socket", socket),
        ("committed", f"{format_size(s.memory_committed)} of pages in memory"),
        ("promised", f"{format_size(s.memory_charged)} to writers and objects"),
        ("warm", f"{format_size(s.memory_warm)} free, kept for the next put"),
        ("metadata", format_size(s.metadata_used)),
        ("objects", f"{s.objects:,}{deleted}"),
        ("blocks", f"{s.blocks:,} of shared memory, {format_size(s.block_nbytes)}"),
        (
            "streams",
            f"{s.streams:,} with {counted(s.stream_batches, 'batch')},"
            f" {format_size(s.stream_nbytes)}",
        ),
        ("names", f"{s.names:,}"),
        ("puts", f"{s.puts:,}: {_flow(s)}"),
        ("pages", s.page_kind),
        ("protection", s.protection),
    ]
    rows.insert(1, ("cluster", _cluster(s)))
    if s.dashboard:
        rows.insert(1, ("dashboard", s.dashboard))
    if s.rpc:
        rows.insert(1, ("rpc", s.rpc))
    return [*memory_head(s), Pairs(rows), Line(), *client_grid(s)]


def _cluster(s: p.Status) -> str:
    told = f"{s.meta}, {counted(s.cluster_instances, 'instance')}"
    if s.fenced:
        told += "; FENCED: the cluster counted this instance out, it joins again by itself"
    if s.unavailable_s is not None:
        told += f"; metadata not reached for {duration(s.unavailable_s)}"
    return told


def _flow(s: p.Status) -> str:
    return (
        f"{format_size(s.copied)} copied, {format_size(s.gathered)} gathered,"
        f" {format_size(s.shared)} shared"
    )


def memory_head(s: p.Status) -> list[Block]:
    """Who the daemon is, and how full it is."""
    share = s.memory_used / max(s.memory_limit, 1)
    used, limit = format_size(s.memory_used), format_size(s.memory_limit)
    title = (
        f"vineyard-arrow {s.version}, instance {s.instance:06x}, pid {s.pid},"
        f" up {duration(s.uptime_s)}"
    )
    return [Line(title, "bold"), Bar(share, f"{used} of {limit} ({share:.0%})")]


def client_grid(s: p.Status) -> list[Block]:
    """The clients and what they hold."""
    if not s.clients:
        return [Line("no clients")]
    rows = [
        (
            str(c.pid),
            format_size(c.sealed),
            format_size(c.unsealed),
            format_size(c.warm),
            f"{c.pins:,}",
            c.program,
        )
        for c in s.clients
    ]
    return [Grid((">PID", ">SEALED", ">UNSEALED", ">WARM", ">PINS", "PROGRAM"), rows)]


# ---- ls


def ls(args: Namespace) -> Report:
    """Objects whose name or typename matches, or streams."""
    connection = open_running(reader_config(args))
    try:
        if args.streams:
            return _ls_streams(connection.request(p.ListStreams(args.pattern))[0].streams)
        reply, _ = connection.request(p.ListObjects(args.pattern, args.limit))
        objects: list[p.ObjectInfo] = reply.objects
        everything = {o.id: o for o in objects}
        if any(o.members for o in objects):
            reply_all, _ = connection.request(p.ListObjects("*", ALL))
            everything = {o.id: o for o in reply_all.objects}
    finally:
        connection.close()
    data = {"objects": [_object_data(o) for o in objects], "total": reply.total}
    inside = {o.id: in_members(o, everything) for o in objects}
    lines = _long_lines(objects, inside) if args.long else _short_lines(objects, inside)
    if reply.total > len(objects):
        lines.append(Line(f"{reply.total - len(objects):,} more; --limit shows them", "dim"))
    if reply.total == 0:
        lines = [Line("no objects" if args.pattern == "*" else f"no object is {args.pattern}")]
    return Report(lines, data)


def _object_data(o: p.ObjectInfo) -> dict[str, Any]:
    data = struct_dict(o)
    del data["created_ns"]
    return data | {"id": str(ObjectID(o.id)), "created": _created(o).isoformat()}


def _created(o: p.ObjectInfo) -> datetime:
    return datetime.fromtimestamp(o.created_ns / 1e9, UTC)


def _ls_streams(streams: Sequence[p.StreamState]) -> Report:
    data = {
        "streams": [
            struct_dict(s) | {"id": str(ObjectID(s.id)), "schema": s.schema.hex()} for s in streams
        ]
    }
    if not streams:
        return Report([Line("no streams")], data)
    rows = [
        (
            str(ObjectID(s.id)),
            s.state,
            f"{s.batches:,}",
            format_size(s.nbytes),
            f"{s.backlog:,}",
            f"{len(s.readers):,}",
            s.name or "-",
        )
        for s in streams
    ]
    heads = ("ID", "STATE", ">BATCHES", ">SIZE", ">STORED", ">READERS", "NAME")
    return Report([Grid(heads, rows)], data)


def in_members(o: p.ObjectInfo, known: dict[int, p.ObjectInfo]) -> str:
    """What the members of an object have, however deep, to go after its size."""
    members: set[int] = set()
    pending = list(o.members)
    while pending:
        each = pending.pop()
        if each in known and each not in members:
            members.add(each)
            pending += known[each].members
    if not members:
        return ""
    inside = format_size(sum(known[each].nbytes for each in members))
    return f" +{inside} in {counted(len(members), 'member')}"


def _short_lines(objects: Sequence[p.ObjectInfo], inside: dict[int, str]) -> list[Block]:
    now = time.time()
    rows = [
        (
            str(ObjectID(o.id)),
            format_size(o.nbytes) + inside[o.id],
            duration(now - o.created_ns / 1e9),
            kind(o.typename),
            joined(o.names),
        )
        for o in objects
    ]
    return [Grid(("ID", ">SIZE", ">AGE", "TYPE", "NAMES"), rows)]


def _long_lines(objects: Sequence[p.ObjectInfo], inside: dict[int, str]) -> list[Block]:
    lines: list[Block] = []
    for o in objects:
        rows = [
            ("  type", o.typename),
            ("  size", f"{format_size(o.nbytes)} ({o.nbytes:,} bytes){inside[o.id]}"),
            ("  stored", f"{format_size(o.stored)} in the extents it uses"),
            ("  created", f"{_created(o):%Y-%m-%d %H:%M:%S} UTC by pid {o.pid}"),
            ("  read by", joined(o.pinned_by)),
            ("  names", joined(o.names)),
        ]
        lines += [Line(str(ObjectID(o.id)), "bold"), Pairs(rows)]
    return lines


# ---- du


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes of one object's buffers: all, and by whether another object has them too."""

    id: str
    typename: str
    names: list[str]
    nbytes: int
    exclusive: int
    shared: int
    inside: str  # what its members have


def du(args: Namespace) -> Report:
    """Bytes of each object, those it has alone and those it shares, the largest first."""
    config = reader_config(args)
    open_running(config).close()
    from ..errors import ObjectNotFoundError
    from ..ipc.process import attach, release

    attached = attach(config)
    try:
        reply, _ = attached.request(p.ListObjects("*", ALL))
        found: dict[int, list[tuple[int, int]]] = {}
        for o in reply.objects:
            try:
                found[o.id] = attached.describe(o.id)[-1]
            except ObjectNotFoundError:
                continue  # deleted meanwhile
    finally:
        release(attached)
    alone, distinct = exclusive_nbytes(found)
    usages = []
    known = {o.id: o for o in reply.objects}
    for o in reply.objects:
        if o.id in found:
            total = sum(n for _, n in union(found[o.id]))
            parts = (total, alone[o.id], total - alone[o.id])
            inside = in_members(o, known)
            usages.append(Usage(str(ObjectID(o.id)), o.typename, o.names, *parts, inside))
    usages.sort(key=lambda u: (-u.nbytes, u.id))
    return _du_report(usages, distinct)


def _du_report(usages: Sequence[Usage], distinct: int) -> Report:
    apparent = sum(u.nbytes for u in usages)
    data = {
        "objects": [asdict(u) for u in usages],
        "total": {"objects": len(usages), "apparent": apparent, "distinct": distinct},
    }
    rows = [
        (
            u.id,
            format_size(u.nbytes) + u.inside,
            format_size(u.exclusive),
            format_size(u.shared),
            _label(u),
        )
        for u in usages
    ]
    total = f"{counted(len(usages), 'object')}, {format_size(distinct)} of memory"
    if apparent > distinct:
        total += f" ({format_size(apparent)} if nothing were shared)"
    grid = [Grid(("ID", ">SIZE", ">EXCLUSIVE", ">SHARED", "NAME OR TYPE"), rows)] if rows else []
    return Report([*grid, Line(total, "bold")], data)


def _label(u: Usage) -> str:
    return joined(u.names) if u.names else kind(u.typename)


def union(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same places as ``ranges`` of (offset, nbytes), sorted and without overlaps.

    Examples
    --------
    >>> union([(8, 4), (0, 10), (20, 1)])
    [(0, 12), (20, 1)]
    """
    out: list[tuple[int, int]] = []
    for offset, nbytes in sorted(ranges):
        if out and offset <= out[-1][0] + out[-1][1]:
            start, length = out[-1]
            out[-1] = (start, max(length, offset + nbytes - start))
        elif nbytes:
            out.append((offset, nbytes))
    return out


def exclusive_nbytes(found: dict[int, list[tuple[int, int]]]) -> tuple[dict[int, int], int]:
    """Bytes that each object alone has, and the bytes of all of them, each counted once.

    Parameters
    ----------
    found : dict
        Ranges (offset, nbytes) of each object's buffers.

    Examples
    --------
    >>> exclusive_nbytes({1: [(0, 10)], 2: [(5, 10)]})
    ({1: 5, 2: 5}, 15)
    """
    edges: list[tuple[int, int, int]] = []  # place, +1 or -1, object
    for object_id, ranges in found.items():
        for offset, nbytes in union(ranges):
            edges += [(offset, 1, object_id), (offset + nbytes, -1, object_id)]
    alone = dict.fromkeys(found, 0)
    here: set[int] = set()
    distinct = at = 0
    for place, step, object_id in sorted(edges):
        if here:
            distinct += place - at
        if len(here) == 1:
            alone[next(iter(here))] += place - at
        if step > 0:
            here.add(object_id)
        else:
            here.discard(object_id)
        at = place
    return alone, distinct
