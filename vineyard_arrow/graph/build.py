"""Graphs from tables: ends looked up, edges sorted, all of it in the pool it is to be shared by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import InvalidGraphError, LabelNotFoundError
from .arrays import Array, as_table
from .edges import Edges, build_edges
from .schema import Triple
from .vertices import Vertices, none_of, oid_text

__all__ = [
    "Columns",
    "Missing",
    "Progress",
    "build",
    "checked_label",
    "checked_triple",
    "distinct",
    "several",
]

Missing = Literal["error", "drop", "add"]
Progress = Callable[[int, int, str], None]
"""``progress(done, total, what)``: steps done, of how many, and the last one."""
Columns = str | Sequence[str]
_EXAMPLES = 5


class _Steps:
    """Counts steps for a progress callback."""

    def __init__(self, progress: Progress | None) -> None:
        self.total = self.done = 0
        self._progress = progress

    def __call__(self, what: str) -> None:
        self.done += 1
        if self._progress is not None:
            self._progress(self.done, max(self.total, self.done), what)


class _EdgeTable:
    """The table of a triple, with its ends and properties told apart."""

    def __init__(self, triple: Triple, table: pa.Table, src: Columns, dst: Columns) -> None:
        self.triple = triple
        self.name = "-".join(triple)
        self.num_rows = table.num_rows
        self.ends = []
        for side, names in (("src", several(src)), ("dst", several(dst))):
            for name in names:
                if table.schema.get_field_index(name) < 0:
                    raise LabelNotFoundError(
                        f"the edges {self.name} have no column {name!r}",
                        f"they have {', '.join(table.column_names)}; name it by {side}=",
                    )
            self.ends.append([table.column(name) for name in names])
        ends = {*several(src), *several(dst)}
        self.properties = {n: table.column(n) for n in table.column_names if n not in ends}
        self.labels = (triple[0], triple[2])
        self.end_names = tuple(", ".join(several(each)) for each in (src, dst))


def build(
    vertices: Mapping[str, Any],
    edges: Mapping[Triple, Any],
    *,
    oid: Columns | Mapping[str, Columns],
    src: Columns | Mapping[Triple, Columns],
    dst: Columns | Mapping[Triple, Columns],
    directed: bool,
    missing: Missing,
    orig_row: bool,
    pool: Any,
    threads: int,
    progress: Progress | None,
    known: Mapping[str, Vertices] | None = None,
) -> tuple[dict[str, Vertices], dict[Triple, Edges]]:
    """Vertices and edges of a graph; see `Graph.from_tables`.

    Edges may end at vertices that are ``known`` already; these are given back with the others,
    and with more of them if ``missing`` adds some.
    """
    if missing not in get_args(Missing):
        raise InvalidGraphError(f"missing={missing!r} is not one of 'error', 'drop', 'add'")
    report = _Steps(progress)
    tables = [
        _EdgeTable(
            checked_triple(triple, directed),
            as_table(source, pool),
            _chosen(src, triple),
            _chosen(dst, triple),
        )
        for triple, source in edges.items()
    ]
    given = {checked_label(label): as_table(source, pool) for label, source in vertices.items()}
    made = dict(known or {})
    for each in tables:
        for end in range(2):
            if each.labels[end] not in made:
                _add_label(given, each, end, oid, missing)
    report.total = len(given) + sum(4 + (not directed) + len(each.properties) for each in tables)
    for label, table in given.items():
        made[label] = Vertices.build(label, table, several(_chosen(oid, label)), pool)
        report(f"index {label!r}")
    if missing == "add":
        made = {v.label: _with_missing(v, tables, pool, threads) for v in made.values()}
    out = {}
    for each in tables:
        ids = _ends_of(each, made, missing, threads, report)
        out[each.triple] = build_edges(
            each.triple,
            *ids,
            (made[each.triple[0]].count, made[each.triple[2]].count),
            each.properties,
            directed=directed,
            keep_rows=orig_row,
            pool=pool,
            threads=threads,
            report=report,
        )
    return made, out


# ---- what was asked for


def several(names: Columns) -> list[str]:
    """Names of columns, if there is but one, too."""
    return [names] if isinstance(names, str) else list(names)


def _chosen(columns: Any, which: Any) -> Columns:
    """Columns that were named for all, or for each by itself."""
    if not isinstance(columns, Mapping):
        return columns  # type: ignore[no-any-return]
    if which not in columns:
        raise InvalidGraphError(f"no columns are named for {which!r}, only for {[*columns]}")
    return columns[which]  # type: ignore[no-any-return]


def checked_label(label: Any) -> str:
    """A text that names vertices or edges."""
    if not isinstance(label, str) or not label or "/" in label:
        raise InvalidGraphError(f"{label!r} is no label", "a label is a text without '/'")
    return label


def checked_triple(triple: Any, directed: bool) -> Triple:
    """Three labels that edges can be between."""
    if not isinstance(triple, tuple) or len(triple) != 3:
        raise InvalidGraphError(
            f"{triple!r} names no edges", "use (source label, edge label, destination label)"
        )
    src, label, dst = map(checked_label, triple)
    if not directed and src != dst:
        raise InvalidGraphError(
            f"undirected edges between two labels: {triple}",
            "build it directed: in-edges and out-edges are both there",
        )
    return src, label, dst


def _add_label(
    given: dict[str, pa.Table], edges: _EdgeTable, end: int, oid: Any, missing: Missing
) -> None:
    """Make an empty table for a label that only edges mention, if vertices are to be added."""
    label = edges.labels[end]
    if label in given:
        return
    if missing != "add":
        raise LabelNotFoundError(
            f"the edges {edges.name} need vertices of {label!r}, for which there is no table",
            'missing="add" makes the vertices of the ends of edges',
        )
    key = several(_chosen(oid, label))
    types = []
    for type_ in (column.type for column in edges.ends[end]):
        if pa.types.is_dictionary(type_):
            type_ = type_.value_type
        small = pa.types.is_integer(type_) and not pa.types.is_uint64(type_)
        types.append(pa.int64() if small or pa.types.is_null(type_) else type_)
    if len(types) != len(key):
        raise InvalidGraphError(
            f"{edges.end_names[end]}: {len(types)} columns, but oids of {label!r} have {len(key)}"
        )
    given[label] = pa.schema(list(zip(key, types, strict=True))).empty_table()


# ---- ends of edges


def _ends_of(
    edges: _EdgeTable,
    vertices: Mapping[str, Vertices],
    missing: Missing,
    threads: int,
    report: Callable[[str], None],
) -> tuple[Array, Array]:
    out = []
    for label, columns, name in zip(edges.labels, edges.ends, edges.end_names, strict=True):
        what = f"{name!r} of {edges.name}"
        if missing != "drop":
            _check_no_nulls(columns, what)
        ids = vertices[label].find(columns, what, threads)
        report(f"look up {name!r} of {edges.name}")
        if missing == "error":
            _check_found(ids, vertices[label], columns, what)
        out.append(ids)
    src, dst = out
    if src.dtype != dst.dtype:
        src, dst = _widened(src), _widened(dst)
    return src, dst


def _widened(ids: Array) -> Array:
    if ids.dtype == np.uint64:
        return ids
    wide = ids.astype(np.uint64)
    wide[ids == none_of(ids.dtype)] = none_of(wide.dtype)
    return wide


def _check_no_nulls(columns: Sequence[pa.ChunkedArray], what: str) -> None:
    for column in columns:
        if column.null_count:
            rows = pc.indices_nonzero(column.is_null())[:_EXAMPLES].to_pylist()
            raise InvalidGraphError(
                f"{what} is null {column.null_count} times, first in rows {rows}",
                'missing="drop" leaves these edges out',
            )


def _check_found(
    ids: Array, vertices: Vertices, columns: Sequence[pa.ChunkedArray], what: str
) -> None:
    none = none_of(ids.dtype)
    if ids.max(initial=0) != none:
        return
    rows = np.flatnonzero(ids == none)
    some = ", ".join(
        f"{oid_text([column[row] for column in columns])} (row {row})"
        for row in rows[:_EXAMPLES].tolist()
    )
    raise InvalidGraphError(
        f"{what} names no vertex of {vertices.label!r} {len(rows)} times: {some}",
        'missing="drop" leaves these edges out, missing="add" adds the vertices',
    )


def _with_missing(
    vertices: Vertices, tables: Sequence[_EdgeTable], pool: Any, threads: int
) -> Vertices:
    """With those that only edges mention, in the order of the edges."""
    key = vertices.key
    found: list[pa.Table] = []
    for edges in tables:
        for label, columns, name in zip(edges.labels, edges.ends, edges.end_names, strict=True):
            if label != vertices.label:
                continue
            what = f"{name!r} of {edges.name}"
            _check_no_nulls(columns, what)
            ids = vertices.find(columns, what, threads)
            ends = pa.table([_without_views(column) for column in columns], list(key))
            if vertices.count:
                ends = ends.filter(pa.array(ids == none_of(ids.dtype)))
            found.append(distinct(ends))
    if not any(each.num_rows for each in found):
        return vertices
    more = distinct(pa.concat_tables(found, promote_options="permissive"))
    schema = pa.schema([vertices.table.schema.field(name) for name in key])
    try:
        more = more.cast(pa.schema([pa.field(f.name, f.type) for f in schema]))
    except pa.ArrowInvalid as error:
        raise InvalidGraphError(
            f"oids that edges name do not fit those of {vertices.label!r}: {error}"
        ) from None
    return vertices.with_rows(more, pool)


def _without_views(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column that Arrow can filter and group."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.cast(pa.large_string()) if pa.types.is_string_view(column.type) else column


def distinct(table: pa.Table) -> pa.Table:
    """Each row once, in the order of their first appearance."""
    names = table.column_names
    if len(names) == 1:
        return pa.table([table.column(0).unique()], names)
    columns = [*table.columns, pa.array(np.arange(table.num_rows))]
    keys = [str(i) for i in range(len(names))]
    groups = pa.table(columns, [*keys, "row"]).group_by(keys, use_threads=False)
    first = groups.aggregate([("row", "min")]).sort_by("row_min")  # groups come in any order
    return first.select(keys).rename_columns(names)
