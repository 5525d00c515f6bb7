"""The commands about values: put what drivers read, get (show or write) one, rm."""

from __future__ import annotations

import os
import reprlib
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from ..client import Client
from ..config import client_config
from ..drivers.registry import find_driver, request_of
from ..errors import (
    InvalidObjectError,
    ObjectExistsError,
    ObjectNotFoundError,
    PathNotFoundError,
)
from ..ipc import protocol as p
from ..ipc.process import attach
from ..machine import counted, format_size
from ..objects import ObjectID, ObjectMeta
from .listing import joined, kind
from .process import get_status, open_running, reader_config
from .progress import progress_bar
from .report import Block, Grid, Line, Pairs, Report, UsageError, jsonable, shorten, width

CELL = 24  # characters of a value in a preview
SCHEMA_ROWS = 40
REPR = 1500  # characters of the repr of what is no table


def running_client(args: Namespace) -> Client:
    """A client of the daemon that runs; NoDaemonError if none does."""
    config = reader_config(args)
    open_running(config).close()
    return Client(attach(config))


# ---- put


def put(args: Namespace) -> Report:
    """Read files into shared memory and publish them, all or none."""
    if args.name is not None and len(args.file) > 1:
        raise UsageError(f"--name is for one file, not for {len(args.file)}")
    if args.overwrite and args.name is None:
        raise UsageError("--overwrite moves a name", "say which by --name")
    if args.resume is not None and len(args.file) > 1:
        raise UsageError("--resume is for one path, which may be a directory or a glob")
    options = {"overwrite": args.overwrite}
    options |= _given(args, "name", "format", "table", "query", "resume")
    for file in args.file:  # before a daemon is started for it
        if "://" not in file and not any(c in file for c in "*?[") and not os.path.exists(file):
            raise PathNotFoundError(f"{file} does not exist")
    with Client(attach(client_config(socket=args.socket))) as client:
        if args.name is not None and not args.overwrite and client.exists(args.name):
            raise ObjectExistsError(
                f"name {args.name!r} is taken", "overwrite=True moves it, or choose another"
            )
        ids: list[ObjectID] = []
        try:
            for file in args.file:
                with progress_bar(os.path.basename(file)) as tell:
                    ids.append(client.read(file, progress=tell, **options))
        except BaseException:
            client.delete(ids)
            raise
        metas = [client.get_meta(i) for i in ids]
        return _put_report(args.file, metas, [_rows_of(client, i) for i in ids])


def _given(args: Namespace, *names: str) -> dict[str, Any]:
    """Options of a call that were given to the command."""
    return {name: value for name in names if (value := getattr(args, name)) is not None}


def _rows_of(client: Client, object_id: ObjectID) -> int:
    rows: int = client.get(object_id).num_rows
    return rows


def _put_report(files: Sequence[str], metas: Sequence[ObjectMeta], rows: Sequence[int]) -> Report:
    data = [
        {
            "file": file,
            "id": str(m.id),
            "names": list(m.names),
            "rows": n,
            "nbytes": m.nbytes,
            "copied": m.copied,
            "gathered": m.gathered,
            "shared": m.shared,
        }
        for file, m, n in zip(files, metas, rows, strict=True)
    ]
    cells = [
        (
            str(d["id"]),
            f"{d['rows']:,}",
            *(format_size(n) for n in (m.nbytes, m.copied + m.gathered)),
            os.path.basename(str(d["file"])),
        )
        for d, m in zip(data, metas, strict=True)
    ]
    return Report([Grid(("ID", ">ROWS", ">SIZE", ">COPIED", "FILE"), cells)], data)


# ---- get


def get(args: Namespace) -> Report:
    """Show a value, or write it to a file if it is a table."""
    with running_client(args) as client:
        meta = client.get_meta(args.key)
        value = client.get(str(meta.id), trusted=args.trusted or None)
        if args.to is not None:
            return _write(client, meta, value, args.to, _given(args, "format", "table"))
        lines, data = _preview(value, args.head)
        rows = [
            ("id", str(meta.id)),
            ("type", meta.typename),
            ("size", f"{format_size(meta.nbytes)} ({meta.nbytes:,} bytes)"),
            ("created", f"{meta.created:%Y-%m-%d %H:%M:%S} UTC"),
            ("names", joined(meta.names)),
        ]
        head = {
            "id": str(meta.id),
            "typename": meta.typename,
            "nbytes": meta.nbytes,
            "created": meta.created.isoformat(),
            "names": list(meta.names),
        }
        return Report([Pairs(rows), *lines], head | data)


def _write(
    client: Client, meta: ObjectMeta, value: Any, url: str, options: dict[str, Any]
) -> Report:
    table = as_table(value)
    if table is None:
        raise InvalidObjectError(
            f"{meta.id} is a {kind(meta.typename)}, not a table", "only tables go to files"
        )
    with progress_bar(os.path.basename(url), table.nbytes) as tell:
        options |= _replacing(client, url, options.get("format"))
        client.write(table, url, progress=tell, **options)
    data: dict[str, Any] = {"id": str(meta.id), "file": url, "rows": table.num_rows}
    told = f"wrote {table.num_rows:,} rows to {url}"
    if os.path.isfile(url):
        data["file_nbytes"] = os.path.getsize(url)
        told += f" ({format_size(data['file_nbytes'])})"
    return Report([Line(told)], data)


def _replacing(client: Client, url: str, format: str | None) -> dict[str, Any]:
    """The option by which a driver replaces what is there."""
    taken = find_driver("write", request_of(client, url, format)).options
    return {"mode": "replace"} if "mode" in taken else {"overwrite": True}


def as_table(value: Any, head: int | None = None) -> pa.Table | None:
    """The (first ``head``) rows of a frame of any library as an Arrow table, or None."""
    if isinstance(value, pa.RecordBatchReader):
        value = value.read_all()
    if isinstance(value, pa.RecordBatch):
        value = pa.Table.from_batches([value])
    if isinstance(value, pa.Table):
        return value if head is None else value.slice(0, head)
    library = type(value).__module__.partition(".")[0]
    if type(value).__name__ != "DataFrame" or library not in ("pandas", "polars"):
        return None
    rows = value if head is None else value.head(head)
    try:
        return rows.to_arrow() if library == "polars" else pa.Table.from_pandas(rows)
    except (pa.ArrowException, TypeError):  # columns of arbitrary objects
        return None


def _preview(value: Any, head: int) -> tuple[list[Block], dict[str, Any]]:
    if isinstance(value, pa.RecordBatchReader):
        value = value.read_all()
    table = as_table(value, head)
    if table is None:
        text = _repr(value)
        return [Line(), *(Line(line) for line in text.splitlines())], {"repr": text}
    num_rows = getattr(value, "num_rows", None)
    num_rows = len(value) if num_rows is None else num_rows
    fields = [(field.name, str(field.type)) for field in table.schema]
    lines: list[Block] = [
        Pairs([("rows", f"{num_rows:,}"), ("columns", f"{len(fields):,}")]),
        Line(),
        Grid(("COLUMN", "TYPE"), fields[:SCHEMA_ROWS]),
    ]
    if len(fields) > SCHEMA_ROWS:
        lines.append(Line(f"{len(fields) - SCHEMA_ROWS:,} more columns; --json has all", "dim"))
    columns = [[_plain(v) for v in column] for column in table.columns]
    data = {
        "num_rows": num_rows,
        "schema": [{"name": n, "type": t} for n, t in fields],
        "rows": [list(row) for row in zip(*columns, strict=True)],
    }
    return [*lines, *_rows(fields, columns, num_rows, head)], data


def _rows(
    fields: Sequence[tuple[str, str]], columns: Sequence[list[Any]], num_rows: int, head: int
) -> list[Block]:
    """As many columns as fit the line, of the rows asked for."""
    shown = [[shorten(_cell(v), CELL) for v in column] for column in columns]
    heads, left = [], width()
    for (name, type_), cells in zip(fields, shown, strict=True):
        need = max(map(len, [shorten(name, CELL), *cells])) + 2
        if need > left:
            break
        left -= need
        right = type_.startswith(("int", "uint", "float", "double", "decimal", "half"))
        heads.append(">" * right + shorten(name, CELL))
    if not heads or not shown[0]:
        return []
    lines: list[Block] = [Line(), Grid(heads, list(zip(*shown[: len(heads)], strict=True)))]
    more = []
    if num_rows > head:
        more.append(f"{num_rows - head:,} more rows")
    if len(fields) > len(heads):
        more.append(f"{len(fields) - len(heads):,} more columns")
    return [*lines, Line(" and ".join(more), "dim")] if more else lines


def _plain(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except (pa.ArrowException, ValueError, OverflowError):  # out of the range of Python's own type
        return str(scalar)


def _cell(value: Any) -> str:
    if value is None:
        return "null"
    return value if isinstance(value, str) else str(jsonable(value))


def _repr(value: Any) -> str:
    """The repr of any value, shortened without making all of it first where that is possible."""
    if isinstance(value, pa.Buffer):
        start = value.slice(0, min(value.size, 64)).to_pybytes()
        return f"{value.size:,} bytes: {start!r}{'...' * (value.size > 64)}"
    short = reprlib.Repr()
    short.maxlist = short.maxtuple = short.maxset = short.maxfrozenset = short.maxdict = 20
    short.maxarray, short.maxstring, short.maxlong, short.maxother = 20, 200, 100, REPR
    return short.repr(value)


# ---- rm


def rm(args: Namespace) -> Report:
    """Delete objects, all or none, and then drop streams."""
    if bool(args.key) == args.all:
        raise UsageError("name the objects to delete" + (", or --all" * (not args.all)))
    if args.all:
        return _remove_all(args)
    with running_client(args) as client:
        found = dict.fromkeys(_identify(client, key) for key in args.key)
        ids = [number for number, what in found if what == "object"]
        streams = [number for number, what in found if what == "stream"]
        client.delete(ids, force=args.force)
        for number in streams:
            client.drop_stream(number)
    told = ids[0] if len(ids) == 1 else counted(len(ids), "object")
    told = ", ".join([told] * bool(ids) + [f"stream {number}" for number in streams])
    return Report([Line(f"deleted {told}")], {"deleted": len(ids), "ids": ids, "streams": streams})


def _identify(client: Client, key: str) -> tuple[str, str]:
    """The id of an object, or else of a stream, and which of them it is."""
    try:
        return str(client.get_meta(key).id), "object"
    except ObjectNotFoundError:
        for stream in client.list_streams():
            if key in (stream.name, str(stream.id)):
                return str(stream.id), "stream"
        raise


def _remove_all(args: Namespace) -> Report:
    connection = open_running(reader_config(args))
    try:
        s = get_status(connection)
        told = (
            f"{counted(s.objects, 'object')} (those without a name and members too),"
            f" {counted(s.streams, 'stream')}, {counted(s.blocks, 'block')} of shared memory"
        )
        if not args.yes and not _confirm(f"delete everything: {told}?"):
            return Report([Line("nothing deleted")], {"deleted": 0}, status=1)
        connection.request(p.Clear())
    finally:
        connection.close()
    data = {"deleted": s.objects, "streams": s.streams, "blocks": s.blocks}
    return Report([Line(f"deleted {told}")], data)


def _confirm(question: str) -> bool:
    if not sys.stdin.isatty():
        raise UsageError("there is nobody to ask", "--yes deletes everything without asking")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
