"""What algorithms are asked with, made ready for the kernels: edges, weights, vertices, threads.

Arrays are taken as they lie; what cannot be read in place is said where it is converted.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from ..errors import InvalidGraphError, InvalidObjectError, LabelNotFoundError, VertexNotFoundError
from ._algorithms import Run, find_bad
from .adjacency import Adjacency
from .arrays import Array, as_ids
from .schema import Triple

__all__ = ["HasAdjacency", "Source", "edges_of", "nullable", "run_of", "vertices_of", "weights_of"]

_MAX_THREADS = 1024


class HasAdjacency(Protocol):
    """A graph: something that gives the edges of a triple."""

    def adjacency(self, triple: Triple | str | None = None) -> Adjacency:
        """The edges of a triple, or of the only one."""
        ...


Source = Adjacency | HasAdjacency


def edges_of(graph: Source, triple: Triple | str | None) -> Adjacency:
    """The edges to work on, between vertices of one label.

    Raises
    ------
    LabelNotFoundError
        If the graph has no such triple.
    InvalidGraphError
        If the triple joins two labels.
    """
    if isinstance(graph, Adjacency):
        if triple is not None and triple not in (graph.triple, graph.triple[1]):
            raise LabelNotFoundError(f"these are edges of {graph.triple}, not of {triple!r}")
        edges = graph
    else:
        edges = graph.adjacency(triple)
    src, label, dst = edges.triple
    if src != dst:
        raise InvalidGraphError(
            f"edges {label!r} lead from {src!r} to {dst!r}, but this algorithm needs both ends"
            " of one label",
            "project the graph to edges between vertices of one label",
        )
    return edges


def run_of(threads: int | None) -> Run:
    """A run on so many threads; None: two, or one if there is one core."""
    if threads is None:
        return Run(0)
    if not 1 <= threads <= _MAX_THREADS:
        raise InvalidObjectError(f"{threads} threads", f"take 1 to {_MAX_THREADS}")
    return Run(threads)


def vertices_of(edges: Adjacency, ids: Any, what: str) -> Array:
    """Vertex ids as int64, all of them inside the label; one alone makes an array too."""
    array = as_ids([ids] if isinstance(ids, int | np.integer) else ids)
    outside = (array < 0) | (array >= edges.num_src)
    if outside.any():
        bad = array[outside][0]
        raise VertexNotFoundError(
            f"{what} {bad} is no vertex of label {edges.triple[0]!r}"
            f" ({int(outside.sum())} of {array.size} are not)",
            f"ids are 0 to {edges.num_src - 1}" if edges.num_src else "the label has no vertices",
        )
    return array


def weights_of(edges: Adjacency, weight: Any, run: Run) -> Array | None:
    """Weights by edge id, finite and not negative; None: all edges weigh 1.

    A column of integers or floats in one chunk is read in place. Several chunks, float16 and
    what is no Arrow or NumPy array are copied.
    """
    if weight is None:
        return None
    name = repr(weight) if isinstance(weight, str) else "these weights"
    if isinstance(weight, str):
        if weight not in edges.columns:
            names = ", ".join(map(repr, edges.columns)) or "none"
            raise LabelNotFoundError(f"edges have no property {weight!r}", f"they have {names}")
        weight = edges.columns[weight]
    if not isinstance(weight, pa.Array | pa.ChunkedArray):
        weight = pa.array(np.asarray(weight))
    if not (pa.types.is_integer(weight.type) or pa.types.is_floating(weight.type)):
        raise InvalidGraphError(
            f"{name}: {weight.type} is no type of weights", "cast to an integer or float type"
        )
    if len(weight) != edges.num_edges:
        raise InvalidGraphError(f"{name}: {len(weight)} values for {edges.num_edges} edges")
    if weight.null_count:
        raise InvalidGraphError(
            f"{name}: {weight.null_count} of {len(weight)} values are null",
            "fill them, or drop the edges that have no weight",
        )
    if isinstance(weight, pa.ChunkedArray):
        weight = weight.chunk(0) if weight.num_chunks == 1 else weight.combine_chunks()
    if pa.types.is_float16(weight.type):
        weight = weight.cast(pa.float32())
    values: Array = np.ascontiguousarray(weight.to_numpy())
    bad = find_bad(run, values)
    if bad >= 0:
        raise InvalidGraphError(
            f"{name}: edge {bad} weighs {values[bad]}, but weights are finite and not negative"
        )
    return values


def nullable(values: Array, valid: Array) -> pa.Array:
    """An Arrow array over ``values``, with a bitmap of its own where not all are valid."""
    bitmap = None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))
    kind = pa.from_numpy_dtype(values.dtype)
    return pa.Array.from_buffers(kind, len(values), [bitmap, pa.py_buffer(values)])
