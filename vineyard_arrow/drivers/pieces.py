"""What libraries fetch into memory of their own, brought into a pool a piece at a time.

A piece is some batches, enough for their copies to be worth it. It knows no sources.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from ..errors import SchemaMismatchError

__all__ = ["PIECE_BYTES", "ahead", "packed", "pieces", "waited"]

PIECE_BYTES = 16 << 20  # about what is held of a result at a time
_LOOK_S = 0.2  # how late an interrupt may be seen
_T = TypeVar("_T")


def pieces(batches: Iterator[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """Batches of one schema, together of about `PIECE_BYTES`; none if there are no batches."""
    held: list[pa.RecordBatch] = []
    nbytes = 0
    for batch in batches:
        if held and (nbytes + batch.nbytes > PIECE_BYTES or batch.schema != held[0].schema):
            yield held
            held, nbytes = [], 0
        held.append(batch)
        nbytes += batch.nbytes
    if held:
        yield held


def packed(
    batches: Sequence[pa.RecordBatch], schema: pa.Schema, pool: pa.MemoryPool, name: str
) -> pa.Table:
    """A piece as a table of ``schema``, each column built in ``pool`` as one chunk."""
    columns = []
    for field in schema:
        column = pa.chunked_array([batch.column(field.name) for batch in batches])
        if column.type == field.type:
            columns.append(pa.concat_arrays(column.chunks, memory_pool=pool))
            continue
        try:  # views and dictionaries are gathered for little, so that the cast is the one copy
            gathered = pa.concat_arrays(column.chunks)
            columns.append(pc.cast(gathered, field.type, memory_pool=pool))
        except pa.ArrowException as error:
            if isinstance(error, MemoryError):
                raise
            raise SchemaMismatchError(
                f"column {field.name!r} of {name} is {column.type} and cannot be {field.type}:"
                f" {error}"
            ) from None
    return pa.Table.from_arrays(columns, schema=schema)


def ahead(source: Iterator[_T]) -> Iterator[_T]:
    """The same, each fetched by a thread while the one before is used; interrupts break it off."""
    thread = ThreadPoolExecutor(1, "vineyard-arrow-fetch")
    coming = thread.submit(next, source, None)
    try:
        while (one := waited(coming)) is not None:
            coming = thread.submit(next, source, None)
            yield one
            del one
    finally:
        del coming  # see waited
        thread.shutdown()


def waited(future: Future[_T]) -> _T:
    """The result of a future. A signal that another thread takes wakes no lock of this one."""
    try:
        while not future.done():
            wait([future], _LOOK_S)
        return future.result()
    finally:
        del future  # its error has this frame, and with it all that the callers hold
