"""Graphs from and to Matrix Market files (coordinate format), by SciPy's reader and writer.

An entry at row i and column j is an edge from vertex i - 1 to vertex j - 1. Format: NIST,
https://math.nist.gov/MatrixMarket/formats.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ...errors import InvalidGraphError
from ..adapters.common import imported, property_of
from ..adjacency import ends_of
from ..arrays import memory_of
from ..files import PathLike, file_errors, new_file
from ..graph import Graph
from ..schema import Triple

if TYPE_CHECKING:
    from ...client import Client

__all__ = ["read_matrix_market", "write_matrix_market"]


def read_matrix_market(
    path: PathLike,
    *,
    weight: str = "weight",
    triple: Triple = ("vertex", "edge", "vertex"),
    client: Client | None = None,
    threads: int = 0,
) -> Graph:
    """A graph of the entries of a sparse matrix; compressed files (.gz, .bz2) too.

    A general matrix makes a directed graph, a symmetric one an undirected graph with an edge for
    each entry in the file. Entries that are repeated make parallel edges. The oid of a vertex
    (int64) is its row or column, counted from 0.

    Parameters
    ----------
    weight : str
        Property for the values: int64 or uint64 of an integer matrix, float64 of a real one; a
        pattern has none.
    triple : (str, str, str)
        Labels. A matrix that is not square needs two of vertices: of its rows and its columns.

    Raises
    ------
    PathNotFoundError
    InvalidGraphError
        If the file is damaged, or its matrix is dense, complex, skew-symmetric or Hermitian.
    LibraryNotFoundError
        If SciPy is not installed.
    """
    io = imported("scipy.io", "vineyard-arrow[scipy]")
    with file_errors(path), memory_of(client):
        try:
            rows, columns, _, form, field, symmetry = io.mminfo(path)
            _check(path, form, field, symmetry)
            matrix = io.mmread(path, spmatrix=False)
        except (ValueError, OverflowError, EOFError) as error:
            if isinstance(error, InvalidGraphError):
                raise
            raise InvalidGraphError(f"{path}: {error}") from None
    if rows != columns and triple[0] == triple[2]:
        raise InvalidGraphError(
            f"{path}: {rows} rows and {columns} columns are no vertices of one label",
            'name two labels: triple=("row", "entry", "column")',
        )
    src, dst, values = matrix.row, matrix.col, matrix.data
    if symmetry == "symmetric":  # each entry was read twice, but those on the diagonal
        once = src >= dst
        src, dst, values = src[once], dst[once], values[once]
    table = {"src": pa.array(src), "dst": pa.array(dst)}
    if field != "pattern":
        table[weight if weight not in table else f"{weight}_"] = pa.array(values)
    with memory_of(client):
        counts = {triple[0]: rows, triple[2]: columns}
        vertices = {label: {"oid": np.arange(n, dtype=np.int64)} for label, n in counts.items()}
    return Graph.from_tables(
        vertices,
        {triple: table},
        directed=symmetry == "general",
        client=client,
        threads=threads,
    )


def write_matrix_market(
    graph: Graph,
    path: PathLike,
    *,
    triple: Triple | str | None = None,
    weight: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write the edges of a triple as a sparse matrix: general, or symmetric if undirected.

    Vertices are written by their ids (from 1 on, as the format counts); it holds no oids, no
    properties but one, and no types but int64, uint64 and float64, to which ``weight`` is cast.

    Parameters
    ----------
    weight : str, optional
        Property that makes the values: integers, booleans or floats, none of them null. A
        pattern if not given.

    Raises
    ------
    PathExistsError
    LabelNotFoundError
        If edges have no such property.
    InvalidGraphError
        If it has nulls, or is no number. Nothing is written then.
    LibraryNotFoundError
        If SciPy is not installed.
    """
    io = imported("scipy.io", "vineyard-arrow[scipy]")
    sparse = imported("scipy.sparse", "vineyard-arrow[scipy]")
    edges = graph.adjacency(triple)
    values = np.ones(edges.num_edges, np.int8) if weight is None else _values(edges, weight)
    src, dst = ends_of(edges)
    if not edges.directed:
        src, dst = dst, src  # the file has the lower triangle
    wide = np.int64 if max(edges.num_src, edges.num_dst) > np.iinfo(np.int32).max else np.int32
    ends = (src.astype(wide), dst.astype(wide))
    matrix = sparse.coo_array((values, ends), shape=(edges.num_src, edges.num_dst))
    with new_file(path, overwrite) as target, open(target, "wb") as file:
        io.mmwrite(
            file,
            matrix,
            field="pattern" if weight is None else None,
            symmetry="general" if edges.directed else "symmetric",
        )


def _check(path: PathLike, form: str, field: str, symmetry: str) -> None:
    for what, known in (
        (form, ("coordinate",)),
        (field, ("pattern", "integer", "unsigned-integer", "real", "double")),
        (symmetry, ("general", "symmetric")),
    ):
        if what not in known:
            raise InvalidGraphError(
                f"{path}: the matrix is {what}, which makes no graph",
                f"it may be {' or '.join(known)}",
            )


def _values(edges: Any, weight: str) -> Any:
    column = property_of(edges.columns, weight)
    type_ = column.type
    if pa.types.is_floating(type_):
        to = pa.float64()
    elif pa.types.is_uint64(type_):
        to = type_
    elif pa.types.is_integer(type_) or pa.types.is_boolean(type_):
        to = pa.int64()
    else:
        raise InvalidGraphError(f"{weight!r} is {type_}, which makes no values of a matrix")
    if column.null_count:
        raise InvalidGraphError(
            f"{weight!r} is null for {column.null_count} edges", "fill them, or write a pattern"
        )
    return np.asarray(column.cast(to))
