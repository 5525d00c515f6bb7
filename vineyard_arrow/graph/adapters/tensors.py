"""Columns and edges as tensors of PyTorch.

A tensor has no read-only state, and writing to one over a read-only map would kill the process.
So memory is shared only if it is private to a get (``mode="cow"``), and never the index's:
kernels follow that wherever it leads.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pyarrow as pa

from ...errors import InvalidGraphError
from ..adjacency import edge_rows
from ..arrays import values_of
from ..graph import Graph
from ..schema import Triple
from .common import imported, one_chunk

__all__ = ["has_tensor", "tensor_of", "to_tensors"]


def to_tensors(
    graph: Graph,
    triple: Triple | str | None = None,
    *,
    format: Literal["coo", "csr", "csc"] = "coo",
) -> tuple[Any, ...]:
    """The edges of a triple as int64 tensors of vertex ids; all of them are copied.

    In the shape that ``dgl.graph((format, tensors))`` takes, and whose first two
    ``torch.stack`` makes an ``edge_index`` of PyTorch Geometric. Undirected, each edge is there
    both ways (a self-loop once), as both libraries have it.

    Parameters
    ----------
    format : {"coo", "csr", "csc"}
        Sources and destinations, by source; or by out-edges; or by in-edges.

    Returns
    -------
    tuple of torch.Tensor
        ``coo``: source and destination of each edge, sorted by both, so an edge's place is its
        id if edges have a direction. ``csr``, ``csc``: pointers, indices, edge ids; ids of
        undirected edges are there twice.

    Raises
    ------
    LibraryNotFoundError
        If PyTorch is not installed.
    """
    torch = imported("torch")
    edges = graph.adjacency(triple)
    if format == "coo":
        arrays: tuple[Any, ...] = edge_rows(edges), edges.out_indices
    elif format == "csr":
        ids = np.arange(edges.num_edges) if edges.edge_ids is None else edges.edge_ids
        arrays = edges.out_indptr, edges.out_indices, ids
    elif format == "csc":
        arrays = edges.in_indptr, edges.in_indices, edges.in_edge_ids
    else:
        raise InvalidGraphError(f"format={format!r} is not one of 'coo', 'csr', 'csc'")
    return tuple(torch.from_numpy(array.astype(np.int64)) for array in arrays)


def has_tensor(column: pa.ChunkedArray | pa.Array) -> bool:
    """Whether `tensor_of` takes a column."""
    return not column.null_count and _is_numeric(column.type) and not _inner_nulls(column)


def tensor_of(column: pa.ChunkedArray | pa.Array, what: str, private: bool) -> Any:
    """A tensor of a column of numbers, booleans, or lists or tensors of one size of these.

    Over the column's memory, if that is private and in one chunk, but for booleans; else a copy.

    Raises
    ------
    InvalidGraphError
        If it is of other values, or has nulls.
    """
    torch = imported("torch")
    if not has_tensor(column):
        raise InvalidGraphError(
            f"{what} is {column.type} with {column.null_count} nulls, of which no tensor is made",
            "tensors are of numbers and booleans; fill the nulls",
        )
    private = private and not (isinstance(column, pa.ChunkedArray) and column.num_chunks > 1)
    array, shape = one_chunk(column), [len(column)]
    while not _is_number(array.type):
        if isinstance(array, pa.FixedShapeTensorArray):
            if list(array.type.permutation or ()) not in ([], list(range(len(array.type.shape)))):
                raise InvalidGraphError(f"{what} has axes in an order of its own")
            shape += array.type.shape
            array = array.storage.flatten()
        else:
            shape.append(array.type.list_size)
            array = array.flatten()
    if pa.types.is_boolean(array.type):
        return torch.from_numpy(array.to_numpy(zero_copy_only=False).copy()).reshape(shape)
    values = values_of(array)
    if not private or not len(values):
        return torch.from_numpy(values.copy()).reshape(shape)
    from ...types.memory import data_buffer, memory_of

    memory = memory_of(data_buffer(array), True)
    return torch.from_numpy(np.frombuffer(memory, values.dtype)).reshape(shape)


def _is_number(type_: pa.DataType) -> bool:
    return bool(
        pa.types.is_boolean(type_) or pa.types.is_integer(type_) or pa.types.is_floating(type_)
    )


def _is_numeric(type_: pa.DataType) -> bool:
    if isinstance(type_, pa.FixedShapeTensorType):
        return _is_number(type_.value_type)
    if pa.types.is_fixed_size_list(type_):
        return _is_numeric(type_.value_type)
    return _is_number(type_)


def _inner_nulls(column: pa.ChunkedArray | pa.Array) -> bool:
    if isinstance(column, pa.ChunkedArray):
        return any(_inner_nulls(chunk) for chunk in column.chunks)
    if isinstance(column, pa.FixedShapeTensorArray):
        column = column.storage
    if not pa.types.is_fixed_size_list(column.type):
        return bool(column.null_count)
    return _inner_nulls(column.flatten())
