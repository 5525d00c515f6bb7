"""What notebooks show of clients, metadata and handles: HTML in the colours of the page.

All text is escaped. Colours are the page's own, or grey and blue that are readable on light and
dark alike. Nothing here raises for the sake of a picture: what cannot be told is left out.
"""

from __future__ import annotations

import contextlib
import html
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from .errors import VineyardArrowError
from .ipc import protocol as p
from .machine import format_size
from .objects import ObjectID

if TYPE_CHECKING:
    import pyarrow as pa

    from .client import Client
    from .handles import ObjectHandle
    from .objects import ObjectMeta

__all__ = ["client_html", "handle_html", "meta_html"]

NEWEST = 8  # objects of a client
MAX_FIELDS = 16  # of a schema
PREVIEW_ROWS, PREVIEW_LINES, PREVIEW_CHARS = 5, 12, 24
# Making a table of what is stored otherwise may take time.
PREVIEW_NBYTES = 64 << 20
# What is tables as it lies, and what is columns.
_MAPPED = (
    "vineyard.table",
    "vineyard.record_batch",
    "vineyard.arrow.reader",
    "vineyard.polars.",
    "vineyard.duckdb.",
)
_COLUMNS = ("vineyard.array", "vineyard.chunked_array", "vineyard.pandas.series")
_SHOWN = (*_MAPPED, *_COLUMNS, "vineyard.tensor", "vineyard.pandas.dataframe")

_STYLE = """<style>
.va-box {display:inline-block; max-width:100%; overflow-x:auto; padding:.5em .8em; font-size:13px;
 line-height:1.4; border:1px solid rgba(128,128,128,.4); border-radius:6px; text-align:left}
.va-box .va-title {font-weight:600; margin-bottom:.35em}
.va-box .va-title span, .va-box .va-more, .va-box th {font-weight:400; opacity:.65}
.va-box.va-box table {border-collapse:collapse; margin:0; font-size:inherit; border:none;
 table-layout:auto}
.va-box.va-box tbody tr:nth-child(n) {background:none}
.va-box.va-box :is(th, td) {padding:.1em 1.1em .1em 0; border:none; text-align:left; max-width:none;
 vertical-align:top; white-space:nowrap; color:inherit; background:none}
.va-box.va-box :is(th, td).va-n {text-align:right; font-variant-numeric:tabular-nums}
.va-box.va-box td.va-wide {white-space:normal; max-width:40em}
.va-box.va-box table.va-grid {margin-top:.45em}
.va-box.va-box table.va-grid th {border-bottom:1px solid rgba(128,128,128,.4)}
.va-box code {background:none; color:inherit; padding:0; font-size:.95em}
.va-box pre {background:none; color:inherit; margin:.45em 0 0; padding:0; font-size:.95em}
.va-box .va-null {opacity:.5}
.va-bar {display:inline-block; width:16em; height:.7em; margin-right:.6em; border-radius:3px;
 overflow:hidden; background:rgba(128,128,128,.25); white-space:nowrap; font-size:inherit}
.va-bar i {display:inline-block; height:100%; vertical-align:top; background:#3d85c6}
.va-bar i.va-warm {background:rgba(61,133,198,.4)}
</style>"""


def client_html(client: Client) -> str:
    """The store that a client is attached to: who and where, memory, the newest objects."""
    try:
        status = client.status()
        reply, _ = client._a.request(p.ListObjects("*", NEWEST, newest=True))
    except VineyardArrowError as error:
        return _box("vineyard_arrow.Client", "", _facts([("", _text(error.message))]))
    clients = _count(len(status.clients), "client")
    facts = [
        ("socket", f"<code>{_text(client._a.socket)}</code>"),
        ("daemon", _text(f"pid {status.pid}, version {status.version}, {status.page_kind} pages")),
        ("memory", _memory(status)),
        (
            "objects",
            f"{_count(status.objects, 'object')} with {_count(status.names, 'name')}, {clients}",
        ),
    ]
    rows = [
        (
            f"<code>{ObjectID(o.id)}</code>",
            _text(_short(", ".join(o.names), 40)),
            _text(_kind(o.typename)),
            format_size(o.nbytes),
            _ago(datetime.fromtimestamp(o.created_ns / 1e9, UTC)),
        )
        for o in reply.objects
    ]
    body = _facts(facts)
    if rows:
        body += _grid(("newest", "name", "type", ">size", ">put"), rows)
        body += _more(reply.total - len(rows), "object")
    return _box("vineyard_arrow", f"instance {status.instance:06x}", body)


def meta_html(meta: ObjectMeta) -> str:
    """Metadata: what the object is, its size, values, members and schema."""
    return _box(_title(meta), _text(meta.id or "not sealed"), _meta_body(meta, []))


def handle_html(handle: ObjectHandle) -> str:
    """An object: its metadata, where it lies, its first values."""
    try:
        meta, place = handle.meta, []
    except VineyardArrowError as error:
        return _box("ObjectHandle", _text(handle.id), _facts([("", _text(error.message))]))
    with contextlib.suppress(VineyardArrowError):  # deleted, or its daemon is gone
        place = _place(handle)
        meta = handle._client.get_meta(handle.id)  # with names and labels
    return _box(_title(meta), _text(meta.id), _meta_body(meta, place, _preview(handle)))


# ---- of metadata


def _title(meta: ObjectMeta) -> str:
    names = _short(", ".join(meta.names), 60)
    return _text(f"{names}: {_kind(meta.typename)}" if names else _kind(meta.typename))


def _meta_body(meta: ObjectMeta, place: list[tuple[str, str]], preview: str = "") -> str:
    facts = []
    is_table = bool(meta.parts) and len(meta.schema) > 0 and _has_columns(meta.typename)
    if is_table:
        facts.append(("rows", f"{meta.num_rows:,} in {_count(meta.parts[0].num_batches, 'batch')}"))
    facts.append(("size", _flow(meta)))
    if meta.id is not None:
        made = meta.created.isoformat(" ", "seconds").removesuffix("+00:00")
        user = "" if meta.uid is None else f" by user {meta.uid}"
        facts.append(("put", f"{_text(made)} UTC{user}, instance {meta.instance:06x}"))
    facts += place
    facts += [(_text(key), _text(_short(repr(meta[key]), 80))) for key in meta]
    facts += [(f"label {_text(key)}", _text(value)) for key, value in meta.labels.items()]
    if len(meta.parts) > 1:
        facts.append(("parts", _text(_tally(_kind(part.typename) for part in meta.parts[1:]))))
    body = _facts(facts)
    if meta.members:
        members = list(meta.members.items())[:MAX_FIELDS]
        rows = [(_text(n), _text(_kind(m.typename)), _member_id(m)) for n, m in members]
        body += _grid(("member", "type", "id"), rows)
        body += _more(len(meta.members) - len(rows), "member")
    if preview or not is_table:
        return body + preview
    return body + _columns_of(meta.schema, None)


def _has_columns(typename: str) -> bool:
    """Whether the schema tells its user more than how we store what it is."""
    return not typename.startswith("vineyard.") or typename.startswith(_MAPPED)


def _member_id(member: Any) -> str:
    return f"<code>{_text(member.id)}</code>" if member.id is not None else "not sealed"


def _flow(meta: ObjectMeta) -> str:
    """The size, and how the put came by it, in as few words as tell it."""
    ways = {"copied": meta.copied, "gathered": meta.gathered, "shared": meta.shared}
    said = [f"{format_size(nbytes)} {way}" for way, nbytes in ways.items() if nbytes]
    if len(said) == 1:
        said = [word for word, nbytes in ways.items() if nbytes]
    return format_size(meta.nbytes) + (f" ({', '.join(said)})" if said else "")


def _columns_of(schema: pa.Schema, rows: pa.Table | None) -> str:
    """A line a column: its name, its type, its first values if there are ``rows``."""
    lines = [
        (_text(_short(f.name, 40)), _text(_short(str(f.type), 50)))
        for f in list(schema)[:MAX_FIELDS]
    ]
    heads: tuple[str, ...] = ("column", "type")
    if rows is not None and rows.num_rows:
        heads = (*heads, "first values")
        lines = [
            (*line, _cells(rows.column(i)))  # type: ignore[misc]
            for i, line in enumerate(lines)
        ]
    return _grid(heads, lines) + _more(len(schema) - len(lines), "column")


def _place(handle: ObjectHandle) -> list[tuple[str, str]]:
    """In what segments an object lies, and on what kind of pages."""
    *_, ranges = handle._client._a.describe(handle.id, handle._pin)
    status = handle._client.status()
    segments = sorted(status.segments, key=lambda s: s.offset)
    starts = [s.offset for s in segments]
    held = sorted({bisect_right(starts, offset) - 1 for offset, _ in ranges} - {-1})
    if not held:
        return []
    strict = any(segments[i].kind == "strict" for i in held)
    numbers = ", ".join(str(segments[i].segment) for i in held[:NEWEST])
    word = "segment" if len(held) == 1 else "segments"
    pages = "sealed for good" if strict else f"{status.page_kind} pages"
    return [("lies in", _text(f"{word} {numbers} of {handle._client._a.socket}, {pages}"))]


# ---- previews


def _preview(handle: ObjectHandle) -> str:
    meta = handle.meta
    mapped = meta.typename.startswith(_MAPPED)
    if not mapped and meta.nbytes > PREVIEW_NBYTES:
        return ""
    if meta.typename.startswith("vineyard.") and not meta.typename.startswith(_SHOWN):
        return ""
    if any(part.typename == "vineyard.pickle" for part in meta.parts):
        return ""  # to look at an object must not run what somebody put into it
    try:
        if meta.typename == "vineyard.tensor":
            return _values(handle.get(as_="numpy", trusted=False))
        table = _column(handle) if meta.typename.startswith(_COLUMNS) else _table(handle)
    except Exception:  # a resolver of anybody's may raise anything
        return ""
    rows = "" if _has_columns(meta.typename) else _facts([("rows", f"{table.num_rows:,}")])
    return rows + _columns_of(table.schema, table.slice(0, PREVIEW_ROWS))


def _column(handle: ObjectHandle) -> pa.Table:
    import pyarrow as pa

    return pa.table([handle.get(as_=pa.ChunkedArray, trusted=False)], ["data"])


def _table(handle: ObjectHandle) -> pa.Table:
    import pyarrow as pa

    return handle.get(as_=pa.Table, trusted=False)


def _values(array: Any) -> str:
    import numpy as np

    shape = " x ".join(map(str, array.shape)) or "one value"
    corner = array[(0,) * max(array.ndim - 2, 0)] if array.size else array
    lines = np.array2string(corner, threshold=40, edgeitems=2, max_line_width=80).splitlines()
    facts = _facts([("shape", f"{shape} of {_text(array.dtype)}")])
    return f"{facts}<pre>{_text(chr(10).join(lines[:PREVIEW_LINES]))}</pre>"


def _cells(column: pa.ChunkedArray) -> str:
    return ", ".join(
        _text(_short(_said(value), PREVIEW_CHARS))
        if value.is_valid
        else "<span class='va-null'>null</span>"
        for value in column
    )


def _said(value: pa.Scalar) -> str:
    """A value in few words, however much is in it."""
    import pyarrow as pa

    if isinstance(value, pa.ExtensionScalar):
        value = value.value
    if not value.is_valid:
        return "null"
    try:
        if isinstance(value, (pa.StructScalar, pa.ListScalar)):
            return _said_nested(value)
        if isinstance(value, (pa.StringScalar, pa.BinaryScalar)):
            start = value.as_buffer()[: 8 * PREVIEW_CHARS].to_pybytes()
            is_text = isinstance(value, pa.StringScalar)
            return start.decode(errors="ignore") if is_text else repr(start)
        plain = value.as_py()
    except (ValueError, OverflowError, pa.ArrowException):  # a date in the year 20,000, say
        return "?"
    return f"{plain:.6g}" if isinstance(plain, float) else str(plain)


def _said_nested(value: Any) -> str:
    import pyarrow as pa

    if isinstance(value, pa.StructScalar):
        items = [f"{name}: {_said(value[i])}" for i, name in enumerate(list(value)[:PREVIEW_ROWS])]
        return f"{{{', '.join(items)}}}"
    items = [_said(item) for item in value.values[:PREVIEW_ROWS]]
    rest = f", … {len(value.values):,}" if len(value.values) > len(items) else ""
    return f"[{', '.join(items)}{rest}]"


# ---- of a store


def _memory(status: p.Status) -> str:
    limit = max(status.memory_limit, 1)
    used, warm = status.memory_used / limit, status.memory_warm / limit
    bar = (
        f"<span class='va-bar'><i style='width:{min(used, 1):.1%}'></i>"
        f"<i class='va-warm' style='width:{min(warm, max(1 - used, 0)):.1%}'></i></span>"
    )
    kept = f", {format_size(status.memory_warm)} warm" if status.memory_warm else ""
    return (
        f"{bar}{format_size(status.memory_used)} of {format_size(status.memory_limit)}"
        f" ({used:.0%}){kept}"
    )


def _ago(moment: datetime) -> str:
    seconds = max((datetime.now(UTC) - moment).total_seconds(), 0)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit} ago"
    return f"{int(seconds)} s ago"


# ---- pieces


def _box(title: str, about: str, body: str) -> str:
    head = f"<div class='va-title'>{title} <span>{about}</span></div>"
    return f"{_STYLE}<div class='va-box'>{head}{body}</div>"


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    rows = "".join(f"<tr><th>{k}</th><td class='va-wide'>{v}</td></tr>" for k, v in facts)
    return f"<table>{rows}</table>"


def _grid(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of HTML cells; columns whose head begins with > stand to the right."""
    kinds = [" class='va-n'" if head.startswith(">") else "" for head in heads]

    def line(tag: str, cells: Sequence[str]) -> str:
        inner = (f"<{tag}{k}>{c}</{tag}>" for k, c in zip(kinds, cells, strict=True))
        return f"<tr>{''.join(inner)}</tr>"

    head = line("th", [head.removeprefix(">") for head in heads])
    return f"<table class='va-grid'>{head}{''.join(line('td', row) for row in rows)}</table>"


def _more(count: int, what: str) -> str:
    return f"<div class='va-more'>and {_count(count, what, 'more ')}</div>" if count > 0 else ""


def _count(count: int, what: str, more: str = "") -> str:
    plural = "es" if what.endswith("ch") else "s"
    return f"{count:,} {more}{what}{'' if count == 1 else plural}"


def _tally(words: Iterable[str]) -> str:
    counts: dict[str, int] = {}
    for word in words:
        counts[word] = counts.get(word, 0) + 1
    return ", ".join(word if n == 1 else f"{n} {word}" for word, n in counts.items())


def _kind(typename: str) -> str:
    return typename.removeprefix("vineyard.")


def _short(text: str, length: int) -> str:
    text = text if len(text) <= length else text[: length - 1] + "…"
    return text.replace("\n", "⏎")


def _text(value: object) -> str:
    return html.escape(str(value))
