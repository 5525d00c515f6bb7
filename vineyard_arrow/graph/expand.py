"""The edges of many vertices at once, as one record batch or a stream of them."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ..errors import InvalidGraphError, LabelNotFoundError, VertexNotFoundError
from . import _kernels
from .adjacency import Adjacency
from .arrays import Array, allocate, as_ids, combined, taken

__all__ = ["expand"]


def expand(
    adjacency: Adjacency,
    frontier: Any,
    *,
    incoming: bool,
    props: Sequence[str],
    limit: int | None,
    sample: int | None,
    seed: int | None,
    batch_size: int | None,
    threads: int,
) -> pa.RecordBatch | pa.RecordBatchReader:
    """See `Graph.expand`."""
    made = _Expansion(adjacency, as_ids(frontier), incoming, props, sample, seed, threads)
    for name, number in (("limit", limit), ("sample", sample), ("batch_size", batch_size)):
        if number is not None and number < (name == "batch_size"):
            raise InvalidGraphError(f"{name}={number}")
    total = made.total if limit is None else min(made.total, limit)
    if batch_size is None:
        return made.batch(0, total)
    return pa.RecordBatchReader.from_batches(made.schema, made.batches(total, batch_size))


class _Expansion:
    def __init__(
        self,
        adjacency: Adjacency,
        frontier: Array,
        incoming: bool,
        props: Sequence[str],
        sample: int | None,
        seed: int | None,
        threads: int,
    ) -> None:
        a = adjacency
        self._incoming, self._frontier, self._threads = incoming, frontier, threads
        self._sample = -1 if sample is None else sample
        self._seed = secrets.randbits(64) if seed is None else seed & (1 << 64) - 1
        self._indptr = a.in_indptr if incoming else a.out_indptr
        self._indices = a.in_indices if incoming else a.out_indices
        ids = a.in_edge_ids if incoming else a.edge_ids
        self._edge_ids = np.empty(0, a.in_edge_ids.dtype) if ids is None else ids
        self._columns = [_property(a, name) for name in props]
        self._offsets = np.empty(len(frontier) + 1, np.int64)
        outside = _kernels.expand_offsets(
            self._indptr, frontier, self._offsets, self._sample, threads
        )
        if outside >= 0:
            count = len(self._indptr) - 1
            raise VertexNotFoundError(
                f"no vertex {frontier[outside]} in {a.triple[2 if incoming else 0]!r}, which has"
                f" {count} (frontier[{outside}])"
            )
        self.total = int(self._offsets[-1])
        vertex = pa.from_numpy_dtype(self._indices.dtype)
        self.schema = pa.schema(
            [
                ("src", vertex),
                ("dst", vertex),
                ("eid", pa.from_numpy_dtype(self._edge_ids.dtype)),
                *((name, column.type) for name, column in zip(props, self._columns, strict=True)),
            ]
        )

    def batch(self, begin: int, end: int) -> pa.RecordBatch:
        pool, count = pa.default_memory_pool(), end - begin
        src, src_view = allocate(self._indices.dtype, count, pool)
        dst, dst_view = allocate(self._indices.dtype, count, pool)
        eid, eid_view = allocate(self._edge_ids.dtype, count, pool)
        if self._incoming:  # the frontier is where the edges go
            src_view, dst_view = dst_view, src_view
        _kernels.expand_fill(
            self._indptr,
            self._indices,
            self._edge_ids,
            self._frontier,
            self._offsets,
            begin,
            self._sample,
            self._seed,
            src_view,
            dst_view,
            eid_view,
            self._threads,
        )
        columns = [taken(column, eid_view, pool, self._threads) for column in self._columns]
        return pa.record_batch([src, dst, eid, *columns], self.schema.names)

    def batches(self, total: int, size: int) -> Iterator[pa.RecordBatch]:
        for begin in range(0, total, size):
            yield self.batch(begin, min(begin + size, total))


def _property(adjacency: Adjacency, name: str) -> pa.Array:
    column = adjacency.columns.get(name)
    if column is None:
        raise LabelNotFoundError(
            f"edges {'-'.join(adjacency.triple)} have no property {name!r}",
            f"they have {', '.join(adjacency.columns) or 'none'}",
        )
    if isinstance(column, pa.ChunkedArray):
        return combined(column, pa.default_memory_pool())
    return column
