"""What the daemon knows of streams, and what they are called."""

from __future__ import annotations

import contextlib
import html
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from ..errors import InvalidObjectError, VineyardArrowError
from ..ipc import protocol as p
from ..machine import counted
from ..objects import ObjectID
from ..store import Store


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What the daemon knows of a stream; see `Client.list_streams`.

    Attributes
    ----------
    state : {"open", "ended", "failed"}
    failure : str or None
        Why it failed.
    keep : bool
        Whether what was read stays.
    max_bytes, max_batches : int or None
        What may be unread before the writer waits.
    pid : int
        Of the writer.
    batches, nbytes : int
        Ever written; payload in bytes.
    backlog, backlog_nbytes : int
        Of them in the store.
    stored : int
        Bytes of shared memory that these take.
    readers : tuple of (int, int)
        The pid of each reader, and the number of the batch it needs next.
    """

    id: ObjectID
    name: str | None
    schema: pa.Schema
    state: str
    failure: str | None
    keep: bool
    max_bytes: int | None
    max_batches: int | None
    pid: int
    created: datetime
    batches: int
    nbytes: int
    backlog: int
    backlog_nbytes: int
    stored: int
    readers: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, s: p.StreamState) -> StreamInfo:
        """What a message of the daemon says."""
        return cls(
            ObjectID(s.id),
            s.name,
            pa.ipc.read_schema(pa.py_buffer(s.schema)),
            s.state,
            s.failure,
            s.keep,
            s.max_nbytes,
            s.max_batches,
            s.pid,
            datetime.fromtimestamp(s.created_ns / 1e9, UTC),
            s.batches,
            s.nbytes,
            s.backlog,
            s.backlog_nbytes,
            s.stored,
            tuple(s.readers),
        )

    def _repr_html_(self) -> str:
        bounds = [
            counted(bound, what)
            for bound, what in ((self.max_batches, "batch"), (self.max_bytes, "byte"))
            if bound is not None
        ]
        readers = [f"process {pid}, at batch {at:,}" for pid, at in self.readers]
        rows = [
            ("id", str(self.id)),
            ("name", self.name or "\N{EM DASH}"),
            ("state", self.state + (f": {self.failure}" if self.failure else "")),
            (
                "written",
                f"{counted(self.batches, 'batch')}, {self.nbytes:,} bytes, by process {self.pid}",
            ),
            ("in the store", f"{counted(self.backlog, 'batch')}, {self.stored:,} bytes of memory"),
            ("bounded by", "nothing: kept" if self.keep else " and ".join(bounds) or "nothing"),
            ("readers", "; ".join(readers) or "none"),
            ("created", self.created.isoformat(" ", "seconds")),
        ]
        cells = [(key, html.escape(value)) for key, value in rows]
        cells.append(("schema", f"<pre>{html.escape(self.schema.to_string())}</pre>"))
        body = "".join(f"<tr><th>{key}</th><td>{value}</td></tr>" for key, value in cells)
        return f"<table class='vineyard-stream'>{body}</table>"


def drop_stream(store: Store, key: int | str) -> None:
    """See `Client.drop_stream`."""
    store.request(p.DropStream(*id_and_name(key)))


def list_streams(store: Store, pattern: str) -> list[StreamInfo]:
    """See `Client.list_streams`."""
    reply, _ = store.request(p.ListStreams(pattern))
    return [StreamInfo.of(state) for state in reply.streams]


def id_and_name(key: Any) -> tuple[int | None, str | None]:
    """What a key may stand for: an id, a name, or a name that looks like an id."""
    if isinstance(key, str):
        try:
            return int(ObjectID(key)), key
        except ValueError:
            return None, key
    if isinstance(key, bool) or not isinstance(key, int) or not 0 <= key < 1 << 64:
        raise InvalidObjectError(f"{key!r} is no stream", "use its id or its name")
    return int(key), None


def html_of(store: Store, stream_id: int, otherwise: str) -> str:
    with contextlib.suppress(VineyardArrowError):
        for info in list_streams(store, "*"):
            if info.id == stream_id:
                return info._repr_html_()
    return f"<code>{html.escape(otherwise)}</code>"
