"""Between Arrow buffers and raw bytes: one column of bytes out, an addressable view back.

Knows nothing of the libraries whose values lie in those bytes.
"""

from __future__ import annotations

import ctypes
from typing import Any

import pyarrow as pa

__all__ = ["BYTES", "byte_batch", "data_buffer", "data_buffers", "memory_of"]

BYTES = pa.schema([pa.field("data", pa.uint8(), nullable=False)])
"""Schema of every part that is bytes to Arrow: one column of uint8."""

_UINT8 = pa.uint8()
_EMPTY = pa.py_buffer(b"")


def byte_batch(data: Any) -> pa.RecordBatch:
    """One batch of schema `BYTES` over ``data``, without copying.

    Parameters
    ----------
    data : pyarrow.Buffer or contiguous object with the buffer protocol
        Kept alive by the batch.
    """
    buffer = data if isinstance(data, pa.Buffer) else pa.py_buffer(data)
    column = pa.Array.from_buffers(_UINT8, buffer.size, [None, buffer], 0)
    return pa.RecordBatch.from_arrays([column], schema=BYTES)


def data_buffer(column: pa.ChunkedArray | pa.Array) -> pa.Buffer:
    """The values of a null-free fixed-width column of at most one chunk, not copied."""
    if isinstance(column, pa.ChunkedArray):
        if column.num_chunks == 0:
            return _EMPTY
        column = column.chunk(0)
    buffer = column.buffers()[1]
    if buffer is None:
        return _EMPTY
    width = column.type.byte_width
    start, nbytes = column.offset * width, len(column) * width
    if start == 0 and buffer.size == nbytes:
        return buffer
    return buffer.slice(start, nbytes)


def data_buffers(column: pa.ChunkedArray) -> list[pa.Buffer]:
    """The buffers of a part whose batches are one buffer each."""
    return [data_buffer(chunk) for chunk in column.chunks]


def memory_of(buffer: pa.Buffer, writable: bool) -> Any:
    """An object exporting ``buffer`` by the buffer protocol, for ``numpy.frombuffer``.

    Parameters
    ----------
    buffer : pyarrow.Buffer
        Stays alive as long as anything made from the result.
    writable : bool
        Export it writable even though Arrow calls it immutable. Only for memory private
        to this process (`StoredPart.writable`): on a read-only map the first write is a
        SIGSEGV.

    Examples
    --------
    >>> memoryview(memory_of(pa.py_buffer(b"abc"), writable=False)).tobytes()
    b'abc'
    """
    if not writable or not buffer.is_cpu:
        return buffer
    if buffer.size == 0:
        return bytearray()
    memory = (ctypes.c_char * buffer.size).from_address(buffer.address)
    # from_address owns nothing; whoever views the memory keeps this object, and it the buffer
    memory.owner = buffer
    return memory
