"""Edges as sparse matrices of SciPy, over the index's own arrays where their types allow it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from ...errors import InvalidGraphError
from ..arrays import Array, values_of
from ..graph import Graph
from ..schema import Triple
from .common import column_of, imported, one_chunk, property_of

if TYPE_CHECKING:
    from ...client import Client

__all__ = ["from_scipy", "to_scipy"]

NARROW_BELOW = 1 << 31  # counts that int32 indices reach; tests lower it


def to_scipy(
    graph: Graph,
    triple: Triple | str | None = None,
    *,
    format: Literal["csr", "csc"] = "csr",
    weight: str | None = None,
    parallel: Literal["sum", "keep"] = "sum",
) -> Any:
    """The edges of a triple as a sparse array: rows are sources, columns destinations.

    Rows and columns are vertex ids. Undirected, each edge is there both ways, as in networkx's
    matrices.

    SciPy wants indices of one signed type. With less than 2^31 vertices and edges, these are
    the index's own as int32, and its pointers are copied, 4 bytes a row. From there on all is
    int64: pointers are the index's own, and so are indices of 64 bits; those of 32 are copied.

    Shared arrays are read-only: methods that sort or sum in place raise ValueError, on a
    ``copy()`` they work.

    Parameters
    ----------
    format : {"csr", "csc"}
        By out-edges, or by in-edges.
    weight : str, optional
        A property to be the values. In ``"csr"`` of a directed graph it is read in place, if it
        is one chunk without nulls; else copied. By default all are 1.0, which takes 8 bytes an
        edge.
    parallel : {"sum", "keep"}
        Whether parallel edges become one entry, as in networkx's matrices; all arrays are copies
        then, if there are any, which takes a pass over the indices to see; sums have the type that
        ``numpy.sum`` gives them, so those of integers and booleans have 64 bits. Kept, each is an
        entry of its own. SciPy adds these up where it knows that it must; but some of its
        algorithms (``csgraph.connected_components`` of strong ones, in 1.17) never end on them.

    Returns
    -------
    scipy.sparse.csr_array or csc_array

    Raises
    ------
    LibraryNotFoundError
        If SciPy is not installed.
    LabelNotFoundError
        If edges have no such property.
    InvalidGraphError
        If it is not of numbers or booleans, or has nulls.
    """
    sparse = imported("scipy.sparse", "scipy")
    edges = graph.adjacency(triple)
    if format == "csr":
        kind, indptr, indices = sparse.csr_array, edges.out_indptr, edges.out_indices
        order = edges.edge_ids
    elif format == "csc":
        kind, indptr, indices = sparse.csc_array, edges.in_indptr, edges.in_indices
        order = edges.in_edge_ids
    else:
        raise InvalidGraphError(f"format={format!r} is not one of 'csr', 'csc'")
    if parallel not in ("sum", "keep"):
        raise InvalidGraphError(f"parallel={parallel!r} is not one of 'sum', 'keep'")
    made = kind((edges.num_src, edges.num_dst))
    # The constructors that take arrays would look at every index, and narrow them.
    if weight is None:
        made.data = np.ones(len(indices))
    else:
        made.data = _weights(property_of(edges.columns, weight), repr(weight), order)
    made.indptr, made.indices = _signed(indptr, indices, max(made.shape))
    made.has_sorted_indices = True
    if parallel == "keep" or made.has_canonical_format:
        return made
    made = made.copy()
    made.data = _summable(made.data)
    made.sum_duplicates()
    return made


def _signed(indptr: Array, indices: Array, size: int) -> tuple[Array, Array]:
    if max(size, len(indices)) < NARROW_BELOW:
        if indices.dtype == np.uint32:
            return indptr.astype(np.int32), indices.view(np.int32)
        return indptr.astype(np.int32), indices.astype(np.int32)
    if indices.dtype == np.uint64:
        return indptr, indices.view(np.int64)
    return indptr, indices.astype(np.int64)


def _summable(values: Array) -> Array:
    """Values in the type that numpy.sum has for them, so that small integers do not overflow."""
    return values.astype(np.sum(values[:0]).dtype, copy=False)


def _weights(column: Any, what: str, order: Array | None) -> Array:
    type_ = column.type
    if column.null_count:
        raise InvalidGraphError(f"{what}: {column.null_count} values are null", "fill them")
    array = one_chunk(column)
    if pa.types.is_boolean(type_):
        values: Array = array.to_numpy(zero_copy_only=False)
    elif pa.types.is_integer(type_) or pa.types.is_float32(type_) or pa.types.is_float64(type_):
        values = values_of(array)
    else:
        raise InvalidGraphError(f"{what}: SciPy has no matrices of {type_}")
    return values if order is None else values[order]


def from_scipy(
    matrix: Any,
    *,
    weight: str = "weight",
    directed: bool = True,
    vertex_label: str = "vertex",
    edge_label: str = "edge",
    client: Client | None = None,
    **options: Any,
) -> Graph:
    """A graph with an edge for each stored entry of a square sparse matrix; all is copied.

    Vertex i is row and column i, its oid is i. Entries for one place become parallel edges, and
    stored zeros edges, too.

    Parameters
    ----------
    matrix : sparse array or matrix of SciPy, in any format
    weight : str
        The property to keep values in.
    directed : bool
        If not, entries of the upper triangle, with the diagonal, are the edges.
    client : Client, optional
        In whose pool to build.
    **options
        Others of `Graph.from_tables`.

    Raises
    ------
    InvalidGraphError
        If the matrix is not square, or undirected and not symmetric; if its values make no Arrow
        column, or ``weight`` is ``"src"`` or ``"dst"``, which name the ends.
    """
    if weight in ("src", "dst"):
        raise InvalidGraphError(f"weight={weight!r} is to name the ends", "name another property")
    entries = matrix.tocoo()
    if entries.ndim != 2 or entries.shape[0] != entries.shape[1]:
        raise InvalidGraphError(f"a matrix of shape {entries.shape} is no graph of one label")
    (src, dst), values = (entries.row, entries.col), entries.data
    if not directed:
        if (matrix != matrix.T).nnz:
            raise InvalidGraphError("the matrix is not symmetric", "build it directed")
        upper = src <= dst
        src, dst, values = src[upper], dst[upper], values[upper]
    table = {"src": src, "dst": dst, weight: column_of(values, "values of the matrix")}
    return Graph.from_tables(
        {vertex_label: pa.table({"oid": np.arange(entries.shape[0])})},
        {(vertex_label, edge_label, vertex_label): table},
        directed=directed,
        client=client,
        **options,
    )
