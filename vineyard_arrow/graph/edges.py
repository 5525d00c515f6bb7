"""Edges of one triple: sorted rows both ways, and property columns in the order of edge ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ..errors import InvalidGraphError
from . import _kernels
from .adjacency import Adjacency
from .arrays import Array, allocate, combined, taken, values_of
from .schema import EdgeTriple, Triple
from .vertices import id_dtype, none_of

__all__ = ["Edges", "Report", "build_edges", "index_of_rows"]

Report = Callable[[str], None]
"""Is told what was just done."""


def _silent(what: str) -> None:
    """Tell nobody."""


_DIRECTED = ("out.indptr", "out.indices", "in.indptr", "in.indices", "in.edge_ids")
_UNDIRECTED = ("out.indptr", "out.indices", "out.edge_ids")


@dataclass(frozen=True, slots=True, eq=False)
class Edges:
    """Edges of one triple, as they are stored.

    Attributes
    ----------
    triple : tuple of str
    count : int
        Edges; undirected, each counts once.
    arrays : dict of str to pyarrow.Array
        ``out.indptr``, ``out.indices``, ``in.indptr``, ``in.indices`` and ``in.edge_ids``;
        undirected ``out.indptr``, ``out.indices`` and ``out.edge_ids``, of both directions.
        Also ``orig_row``, the row of the table that an edge came from, if it was kept.
    columns : dict of str to pyarrow.Array
        Properties in the order of edge ids.
    """

    triple: Triple
    count: int
    directed: bool
    arrays: dict[str, pa.Array]
    columns: dict[str, pa.Array | pa.ChunkedArray]

    @staticmethod
    def names(directed: bool) -> tuple[str, ...]:
        """Of the arrays that must be there."""
        return _DIRECTED if directed else _UNDIRECTED

    @property
    def schema(self) -> EdgeTriple:
        """Triple, count and properties."""
        fields = [pa.field(name, column.type) for name, column in self.columns.items()]
        return EdgeTriple(*self.triple, self.count, pa.schema(fields))

    def adjacency(self) -> Adjacency:
        """The same as NumPy views."""
        views = {
            name: values_of(array, np.int64 if name.endswith("indptr") else None)
            for name, array in self.arrays.items()
        }
        indptr, indices = views["out.indptr"], views["out.indices"]
        if self.directed:
            incoming, edge_ids = [views[name] for name in _DIRECTED[2:]], None
        else:
            edge_ids = views["out.edge_ids"]
            incoming = [indptr, indices, edge_ids]
        return Adjacency(
            self.triple,
            len(indptr) - 1,
            len(incoming[0]) - 1,
            self.count,
            self.directed,
            indptr,
            indices,
            incoming[0],
            incoming[1],
            incoming[2],
            self.columns,
            edge_ids,
        )


def build_edges(
    triple: Triple,
    src: Array,
    dst: Array,
    counts: tuple[int, int],
    properties: Mapping[str, pa.ChunkedArray],
    *,
    directed: bool,
    keep_rows: bool,
    pool: Any,
    threads: int,
    report: Report = _silent,
) -> Edges:
    """Sort edges both ways, and bring their properties into that order.

    Parameters
    ----------
    src, dst : numpy.ndarray
        Vertex ids, of one type; all ones where an edge is to be left out. They are overwritten
        if the graph is undirected.
    counts : (int, int)
        Vertices of the two labels.
    properties
        Columns with a row for each edge that was given.
    """
    ids = src.dtype
    num_src, num_dst = counts
    none = none_of(ids)
    left = len(src)
    if none in (src.max(initial=0), dst.max(initial=0)):
        missing = (src == none) | (dst == none)
        left -= int(np.count_nonzero(missing))
        src[missing] = none  # or else the lower end of an undirected edge would be there
        dst[missing] = none
    row_dtype = id_dtype(len(src))
    if not directed:
        lower = np.minimum(src, dst)
        np.maximum(src, dst, out=dst)
        src = lower
        del lower
    scratch = pool if directed else pa.default_memory_pool()
    wants_rows = bool(keep_rows or properties)
    indptr, indptr_view = allocate(np.int64, num_src + 1, scratch)
    indices, indices_view = allocate(ids, left, scratch)
    rows_pool = pool if keep_rows else pa.default_memory_pool()
    rows, rows_view = allocate(row_dtype, left if wants_rows else 0, rows_pool)
    built = _kernels.build_csr(src, dst, indptr_view, indices_view, rows_view, num_dst, threads)
    assert built == left
    del src, dst
    report("sort by source")
    arrays = index_of_rows(
        indptr, indices, num_dst, directed=directed, pool=pool, threads=threads, report=report
    )
    columns = {}
    for name, column in properties.items():
        columns[name] = taken(combined(column, pa.default_memory_pool()), rows_view, pool, threads)
        report(f"take {name!r}")
    if keep_rows:
        arrays["orig_row"] = rows
    return Edges(triple, left, directed, arrays, columns)


def index_of_rows(
    indptr: pa.Array,
    indices: pa.Array,
    num_dst: int,
    *,
    directed: bool,
    pool: Any,
    threads: int,
    report: Report = _silent,
) -> dict[str, pa.Array]:
    """All index arrays, of the sorted rows of the out-edges.

    Undirected, each edge is in the row of its lower end alone; the arrays returned have both.
    """
    scratch = pool if directed else pa.default_memory_pool()
    indptr_view, indices_view = values_of(indptr, np.int64), values_of(indices)
    in_indptr, in_indptr_view = allocate(np.int64, num_dst + 1, scratch)
    in_indices, in_indices_view = allocate(indices_view.dtype, len(indices), scratch)
    in_ids, in_ids_view = allocate(id_dtype(len(indices)), len(indices), scratch)
    _kernels.build_csc(
        indptr_view, indices_view, in_indptr_view, in_indices_view, in_ids_view, threads
    )
    report("sort by destination")
    if directed:
        return dict(zip(_DIRECTED, (indptr, indices, in_indptr, in_indices, in_ids), strict=True))
    one_way = (indptr_view, indices_view, in_indptr_view, in_indices_view, in_ids_view)
    arrays = _both_ways(one_way, pool, threads)
    report("join both directions")
    return arrays


def _both_ways(
    one_way: tuple[Array, Array, Array, Array, Array], pool: Any, threads: int
) -> dict[str, pa.Array]:
    out_indptr, out_indices, _, _, in_ids = one_way
    num = len(out_indptr) - 1
    rows = np.repeat(np.arange(num, dtype=out_indices.dtype), np.diff(out_indptr))
    loops = int(np.count_nonzero(rows == out_indices))
    del rows
    positions = 2 * len(out_indices) - loops
    indptr, indptr_view = allocate(np.int64, num + 1, pool)
    indices, indices_view = allocate(out_indices.dtype, positions, pool)
    edge_ids, edge_ids_view = allocate(in_ids.dtype, positions, pool)
    _kernels.merge_both(*one_way, indptr_view, indices_view, edge_ids_view, threads)
    return dict(zip(_UNDIRECTED, (indptr, indices, edge_ids), strict=True))


def check_edges(edges: Edges, num_src: int, num_dst: int, threads: int = 0) -> None:
    """Raise InvalidGraphError unless the arrays make sorted rows of edges within the labels."""
    name = "-".join(edges.triple)
    kinds = {"indptr": (np.int64,), "indices": (np.uint32, np.uint64)}
    for key in Edges.names(edges.directed):
        array = edges.arrays.get(key)
        wanted = kinds.get(key.partition(".")[2], (np.uint32, np.uint64))
        if array is None or array.type not in map(pa.from_numpy_dtype, wanted) or array.null_count:
            raise InvalidGraphError(f"{name}: {key} is missing, or of a wrong type")
    for key, column in edges.columns.items():
        if len(column) != edges.count:
            raise InvalidGraphError(f"{name}: {key!r} has {len(column)} values, not {edges.count}")
    a = edges.adjacency()
    if a.out_indices.dtype != a.in_indices.dtype:
        raise InvalidGraphError(f"{name}: indices of two types")

    def check(what: str, found: tuple[int, int]) -> None:
        if found[0]:
            raise InvalidGraphError(f"{name}, {what}: {_kernels.FAULTS[found[0]]} (at {found[1]})")

    sides = [("out", a.out_indptr, a.out_indices, num_src, num_dst)]
    if edges.directed:
        sides.append(("in", a.in_indptr, a.in_indices, num_dst, num_src))
    for side, indptr, indices, num_rows, num_cols in sides:
        if len(indptr) != num_rows + 1:
            raise InvalidGraphError(f"{name}, {side}: {len(indptr) - 1} rows, not {num_rows}")
        check(side, _kernels.check_indptr(indptr, len(indices)))
        check(side, _kernels.check_indices(indptr, indices, num_cols, threads))
    if len(a.in_edge_ids) != len(a.in_indices) or (
        edges.directed and not len(a.in_indices) == len(a.out_indices) == edges.count
    ):
        raise InvalidGraphError(f"{name}: in- and out-edges are not as many")
    if not edges.directed and not 0 <= edges.count <= len(a.in_edge_ids) <= 2 * edges.count:
        raise InvalidGraphError(f"{name}: {len(a.in_edge_ids)} positions of {edges.count} edges")
    check("edge ids", _kernels.check_edge_ids(a.in_edge_ids, edges.count, not edges.directed))
    if not edges.directed and not _is_symmetric(a):
        raise InvalidGraphError(f"{name}: an edge is not in the rows of both its ends")
    if edges.directed:
        check(
            "edge ids",
            _kernels.check_transpose(
                a.out_indptr, a.out_indices, a.in_indptr, a.in_indices, a.in_edge_ids
            ),
        )


def _is_symmetric(a: Adjacency) -> bool:
    """Whether each edge of an undirected graph goes there under its id, and back."""
    rows = np.repeat(np.arange(a.num_src, dtype=a.out_indices.dtype), np.diff(a.out_indptr))
    ways = []
    for way in (rows <= a.out_indices, rows >= a.out_indices):  # a loop is both
        order = np.argsort(a.in_edge_ids[way], kind="stable")
        ways.append([each[way][order] for each in (a.in_edge_ids, rows, a.out_indices)])
    (ids, src, dst), (back_ids, back_src, back_dst) = ways
    return (
        np.array_equal(ids, np.arange(a.num_edges, dtype=ids.dtype))
        and np.array_equal(ids, back_ids)
        and np.array_equal(src, back_dst)
        and np.array_equal(dst, back_src)
    )
