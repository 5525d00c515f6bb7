"""Edges of one triple made of others: with more rows, more edges, other ends, the other way round.

Arrays that stay as they are are those of the edges given, so that a store shares them; new ones
lie in the pool. It knows edges and tables, not the graphs they make.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from ..errors import InvalidGraphError, LabelNotFoundError
from . import _kernels
from .adjacency import ends_of
from .arrays import Array, allocate, combined, taken, values_of
from .edges import Edges, build_edges
from .vertices import id_dtype, is_text

__all__ = ["fitting", "grown", "merged", "renumbered", "reversed_edges", "undirected"]


Column: TypeAlias = pa.Array | pa.ChunkedArray


def fitting(
    columns: Mapping[str, Column], count: int, schema: pa.Schema, what: str
) -> dict[str, pa.ChunkedArray]:
    """Columns as a schema has them, those that are not there being null.

    Parameters
    ----------
    columns
        Of ``count`` values each.
    what : str
        What has them, for errors.

    Raises
    ------
    LabelNotFoundError
        If there is a column that the schema lacks.
    InvalidGraphError
        If a column does not fit its type.
    """
    for name in columns:
        if schema.get_field_index(name) < 0:
            raise LabelNotFoundError(
                f"{what} have no property {name!r}",
                f"they have {', '.join(schema.names) or 'none'}; add_columns adds more",
            )
    out = {}
    for field in schema:
        column = columns.get(field.name)
        if column is None:
            column = pa.nulls(count, field.type)
        elif column.type != field.type:
            if is_text(column.type) != is_text(field.type) and not pa.types.is_null(column.type):
                raise InvalidGraphError(
                    f"{field.name!r} of {what} is {field.type}, not {column.type}",
                    "cast it to the type of the other",
                )
            try:
                column = column.cast(field.type)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
                raise InvalidGraphError(
                    f"{field.name!r} of {what} is {field.type}, not {column.type}: {error}"
                ) from None
        out[field.name] = _chunked(column)
    return out


def grown(edges: Edges, counts: tuple[int, int], pool: Any) -> Edges:
    """The same edges between labels of more vertices.

    Offsets of rows are copied, neighbours only if they need 64 bits now.
    """
    arrays = dict(edges.arrays)
    dtype = np.result_type(*map(id_dtype, counts))
    for side, count in zip(("out", "in"), counts, strict=True):
        if f"{side}.indptr" not in arrays:  # undirected
            continue
        indptr, indices = arrays[f"{side}.indptr"], arrays[f"{side}.indices"]
        if len(indptr) < count + 1:
            arrays[f"{side}.indptr"], view = allocate(np.int64, count + 1, pool)
            view[: len(indptr)] = values_of(indptr)
            view[len(indptr) :] = len(indices)
        if indices.type.bit_width < dtype.itemsize * 8:
            arrays[f"{side}.indices"], view = allocate(dtype, len(indices), pool)
            view[:] = values_of(indices)
    same = all(array is edges.arrays[name] for name, array in arrays.items())
    return edges if same else replace(edges, arrays=arrays)


def merged(edges: Edges, more: Edges, counts: tuple[int, int], pool: Any) -> Edges:
    """Edges of both, those of the first before their parallels; properties are of the first."""
    what = f"the edges {'-'.join(edges.triple)}"
    new = fitting(more.columns, more.count, edges.schema.schema, what)
    ends = [ends_of(each.adjacency()) for each in (edges, more)]
    dtype = np.result_type(*map(id_dtype, counts))
    src, dst = (np.concatenate(side, dtype=dtype) for side in zip(*ends, strict=True))
    columns = {
        name: pa.chunked_array([*_chunked(column).chunks, *new[name].chunks], column.type)
        for name, column in edges.columns.items()
    }
    return build_edges(
        edges.triple,
        src,
        dst,
        counts,
        columns,
        directed=edges.directed,
        keep_rows=False,
        pool=pool,
        threads=0,
    )


def renumbered(
    edges: Edges, maps: tuple[Array | None, Array | None], counts: tuple[int, int], pool: Any
) -> Edges:
    """Edges between vertices that have other ids.

    Parameters
    ----------
    maps : (numpy.ndarray or None, numpy.ndarray or None)
        int64 ids that sources and destinations have now, negative where the edges are to be left
        out; None if they are the same.
    counts : (int, int)
        Vertices of the two labels.
    """
    dtype = np.result_type(*map(id_dtype, counts))
    src, dst = (
        ids.astype(dtype) if new is None else _through(new.astype(dtype), ids)
        for new, ids in zip(maps, ends_of(edges.adjacency()), strict=True)
    )
    return _sorted(edges, src, dst, counts, edges.directed, pool)


def undirected(edges: Edges, count: int, pool: Any) -> Edges:
    """Directed edges between vertices of one label, without their direction."""
    src, dst = ends_of(edges.adjacency())
    return _sorted(edges, src, dst.copy(), (count, count), False, pool)


def reversed_edges(edges: Edges, pool: Any) -> Edges:
    """Directed edges the other way round: rows change places, edge ids and columns are new."""
    src, label, dst = edges.triple
    old, order = edges.arrays, values_of(edges.arrays["in.edge_ids"])
    edge_ids, view = allocate(order.dtype, len(order), pool)
    view[order] = np.arange(len(order), dtype=order.dtype)
    arrays = {
        "out.indptr": old["in.indptr"],
        "out.indices": old["in.indices"],
        "in.indptr": old["out.indptr"],
        "in.indices": old["out.indices"],
        "in.edge_ids": edge_ids,
    }
    if "orig_row" in old:
        arrays["orig_row"] = taken(old["orig_row"], order, pool)
    heap = pa.default_memory_pool()
    columns = {
        name: taken(combined(_chunked(column), heap), order, pool)
        for name, column in edges.columns.items()
    }
    return Edges((dst, label, src), edges.count, True, arrays, columns)


def _sorted(
    edges: Edges, src: Array, dst: Array, counts: tuple[int, int], directed: bool, pool: Any
) -> Edges:
    """Edges with other ends (all ones: left out), sorted anew; the ends are overwritten."""
    rows = edges.arrays.get("orig_row")
    made = build_edges(
        edges.triple,
        src,
        dst,
        counts,
        {name: _chunked(column) for name, column in edges.columns.items()},
        directed=directed,
        keep_rows=rows is not None,
        pool=pool,
        threads=0,
    )
    if rows is not None:
        order = values_of(made.arrays["orig_row"])
        made.arrays["orig_row"] = taken(rows, order, pool)
    return made


def _chunked(column: Column) -> pa.ChunkedArray:
    return column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])


def _through(new: Array, ids: Array) -> Array:
    out = np.empty(len(ids), new.dtype)
    if len(ids):
        _kernels.gather(new.ctypes.data, new.itemsize, ids, out.ctypes.data)
    return out
