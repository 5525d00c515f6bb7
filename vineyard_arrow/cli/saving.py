"""The commands that write objects to folders of files, and read them back."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from ..client import Client
from ..config import client_config
from ..ipc.process import attach
from ..machine import counted, format_size
from ..objects import ObjectID
from ..saving.export import serialize
from ..saving.load import deserialize
from .progress import progress_bar
from .report import Grid, Line, Report, UsageError
from .values import running_client


def export(args: Namespace) -> Report:
    """Write objects with all their members to a new folder, all or nothing."""
    if bool(args.key) == args.all:
        raise UsageError("name the objects to export" + (", or --all" * (not args.all)))
    with running_client(args) as client, progress_bar(args.url) as progress:
        ids = serialize(
            None if args.all else args.key,
            args.url,
            client=client,
            compression=args.compression,
            progress=progress,
        )
        return _report(client, f"exported {counted(len(ids), 'object')} to {args.url}", ids)


def import_(args: Namespace) -> Report:
    """Store what `export` wrote, all or nothing."""
    with (
        Client(attach(client_config(socket=args.socket))) as client,
        progress_bar(args.url) as progress,
    ):
        ids = deserialize(
            args.url,
            client=client,
            names=args.names,
            trusted=args.trusted,
            over=_instances(client, args.over),
            progress=progress,
        )
        return _report(client, f"imported {counted(len(ids), 'object')} from {args.url}", ids)


def _instances(client: Client, text: str | None) -> list[int] | None:
    """The instances that ``--over`` names, by number."""
    if text is None:
        return None
    numbers = [info.number for info in client.instances()]
    if text == "all":
        return numbers
    try:
        over = [int(number, 16) for number in text.split(",")]
    except ValueError:
        raise UsageError(f"--over {text}: give numbers as status prints them, or all") from None
    if strangers := [n for n in over if n not in numbers]:
        raise UsageError(f"--over: there is no instance {strangers[0]:06x}")
    return over


def _report(client: Client, told: str, ids: Sequence[ObjectID]) -> Report:
    metas = [client.get_meta(i) for i in ids]
    data = [
        {"id": str(m.id), "typename": m.typename, "nbytes": m.nbytes, "names": list(m.names)}
        for m in metas
    ]
    cells = [
        (str(m.id), m.typename.removeprefix("vineyard."), format_size(m.nbytes), ", ".join(m.names))
        for m in metas
    ]
    return Report([Grid(("ID", "TYPE", ">SIZE", "NAMES"), cells), Line(told)], data)
