"""Arrow arrays and NumPy views of the same memory: allocated in a pool, taken apart, reordered.

It knows nothing of graphs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import InvalidGraphError, StoreFullError, VineyardArrowError
from . import _kernels
from .files import file_errors

if TYPE_CHECKING:
    from ..client import Client

__all__ = [
    "Array",
    "allocate",
    "as_array",
    "as_ids",
    "as_table",
    "combined",
    "memory_of",
    "placed",
    "roomy",
    "table_of",
    "taken",
    "values_of",
]

Array = np.ndarray[Any, Any]
_TEXT_LIMIT = (1 << 31) - 1  # bytes that 32-bit offsets reach
_SMALL = {pa.string(): pa.large_string(), pa.binary(): pa.large_binary()}


def _large_of(type_: pa.DataType) -> pa.DataType | None:
    # Extension types written in Python need not have a hash.
    return None if isinstance(type_, pa.ExtensionType) else _SMALL.get(type_)


@contextmanager
def memory_of(client: Client | None) -> Iterator[Any]:
    """The memory pool of a client, or the default one's; StoreFullError if there is no room."""
    if client is None:
        from .. import default_client

        client = default_client()
    try:
        yield client.memory_pool
    except StoreFullError:
        raise
    except MemoryError as error:  # the pool's words, or NumPy's
        raise StoreFullError(str(error)) from None


def allocate(dtype: Any, count: int, pool: Any) -> tuple[pa.Array, Array]:
    """An Arrow array of ``count`` values, not initialised, and a writable view to fill it by."""
    dtype = np.dtype(dtype)
    buffer = pa.allocate_buffer(count * dtype.itemsize, memory_pool=pool)
    view = np.frombuffer(buffer, dtype) if count else np.empty(0, dtype)
    return pa.Array.from_buffers(pa.from_numpy_dtype(dtype), count, [None, buffer]), view


def values_of(array: pa.Array, dtype: Any = None) -> Array:
    """A read-only view of the values of a fixed-width array; those of nulls mean nothing."""
    dtype = np.dtype(array.type.to_pandas_dtype() if dtype is None else dtype)
    buffer = array.buffers()[1]
    if buffer is None or not len(array):
        return np.frombuffer(b"", dtype)
    memory = memoryview(buffer).toreadonly()  # not even its flag can be set back
    return np.frombuffer(memory, dtype, len(array), array.offset * dtype.itemsize)


def as_array(values: Any) -> Array:
    """A NumPy array of anything that makes one."""
    try:
        return np.asarray(values)
    except ValueError as error:  # rows of different lengths
        raise InvalidGraphError(f"values that make no array: {error}") from None


def as_ids(values: Any) -> Array:
    """Vertex ids as a contiguous int64 array; those past 63 bits as -1, which is outside.

    Raises
    ------
    InvalidGraphError
        If they are no integers, or null.
    """
    if isinstance(values, pa.Array | pa.ChunkedArray):
        if values.null_count:
            raise InvalidGraphError(f"{values.null_count} of the vertex ids are null")
        values = values.to_numpy() if len(values) else []
    array = as_array(values)
    if array.size == 0:
        return np.empty(0, np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InvalidGraphError(
            f"vertex ids of {array.ndim} dimensions and dtype {array.dtype}",
            "ids are integers in one dimension; of a mask take numpy.flatnonzero",
        )
    if array.dtype == np.uint64:
        return np.where(array > np.iinfo(np.int64).max, -1, array.astype(np.int64))
    return np.ascontiguousarray(array, np.int64)


def as_table(source: Any, pool: Any) -> pa.Table:
    """Anything with Arrow columns, of different names, as a table.

    Parameters
    ----------
    source
        A table, record batch or reader, a frame of polars or pandas, a DuckDB relation, whatever
        else has ``__arrow_c_stream__``, a mapping of names to columns, or the path of a Parquet
        file (read into the pool).

    Raises
    ------
    InvalidGraphError
        If it makes no table, two columns have one name, or the file is damaged.
    PathNotFoundError, AccessDeniedError, FileError
        If the file cannot be read.
    """
    try:
        table = _as_table(source, pool)
    except (VineyardArrowError, pa.ArrowMemoryError):
        raise
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise InvalidGraphError(f"a {type(source).__name__} makes no table: {error}") from error
    if len(set(table.column_names)) != table.num_columns:
        raise InvalidGraphError(f"two columns have one name: {', '.join(table.column_names)}")
    return table


def _as_table(source: Any, pool: Any) -> pa.Table:
    if isinstance(source, pa.Table):
        return source
    if isinstance(source, pa.RecordBatch):
        return pa.Table.from_batches([source])
    if isinstance(source, str | os.PathLike):
        import pyarrow.dataset as ds

        with file_errors(source):
            return ds.dataset(source, format="parquet").to_table(memory_pool=pool)
    if type(source).__name__ == "LazyFrame":  # a plan; polars may not even be imported
        source = source.collect()
    if hasattr(source, "__arrow_c_stream__"):
        return pa.RecordBatchReader.from_stream(source).read_all()
    if hasattr(source, "__arrow_c_array__"):
        return pa.Table.from_batches([pa.record_batch(source)])
    if isinstance(source, dict):
        return pa.table(source)
    raise InvalidGraphError(
        f"a {type(source).__name__} has no Arrow columns",
        "pass a table, a frame, a reader, a relation or the path of a Parquet file",
    )


def combined(column: pa.ChunkedArray, pool: Any) -> pa.Array:
    """A column in one piece: as it lies if it is one chunk, else copied to the pool."""
    if column.num_chunks == 1:
        return column.chunk(0)
    if column.num_chunks == 0:
        return pa.array([], column.type)
    large = _large_of(column.type)
    if large is not None and column.nbytes > _TEXT_LIMIT:
        column = column.cast(large)
    array = pa.concat_arrays(column.unify_dictionaries().chunks, memory_pool=pool)
    return array


def table_of(columns: Sequence[pa.Array], schema: pa.Schema) -> pa.Table:
    """A table with the names of a schema, the columns' types and all metadata."""
    fields = [
        field if field.type == array.type else field.with_type(array.type)
        for field, array in zip(schema, columns, strict=True)
    ]
    return pa.Table.from_arrays(columns, schema=pa.schema(fields, schema.metadata))


def placed(column: pa.ChunkedArray, pool: Any) -> pa.Array:
    """A column in one piece, copied to the pool."""
    if column.num_chunks == 1:
        return pa.concat_arrays(column.chunks, memory_pool=pool)
    return combined(column, pool)


def roomy(array: pa.Array, rows: pa.Array) -> pa.Array:
    """The array, with wider offsets if its own do not reach all the text of ``array[rows]``."""
    large = _large_of(array.type)
    if large is None:
        return array
    lengths = pc.binary_length(array)
    if (pc.max(lengths).as_py() or 0) * len(rows) <= _TEXT_LIMIT:
        return array
    total = pc.sum(pc.take(lengths, rows, boundscheck=False)).as_py() or 0
    return array.cast(large) if total > _TEXT_LIMIT else array


def taken(array: pa.Array, rows: Array, pool: Any, threads: int = 0) -> pa.Array:
    """``array[rows]`` in the pool: on several threads where values have a fixed width.

    Raises
    ------
    InvalidGraphError
        If Arrow cannot take rows of this type: run-end encoded, or views within others.
    """
    type_ = array.type
    width = _width_of(type_)
    if width is None:
        places = pa.array(rows)
        array = roomy(array, places)
        try:
            return pc.take(array, places, memory_pool=pool, boundscheck=False)
        except pa.ArrowNotImplementedError as error:
            raise InvalidGraphError(
                f"rows of {type_} cannot be brought into another order: {error}",
                "cast the column: views to large_string, run-end encoded values to plain ones",
            ) from None
    values, *others = array.buffers()[1:]
    out = pa.allocate_buffer(len(rows) * width, memory_pool=pool)
    if len(rows):
        _kernels.gather(values.address + array.offset * width, width, rows, out.address, threads)
    valid = None
    if array.null_count:
        # Arrow takes bits; of a mask all are valid, so there is one buffer to have.
        mask = pc.take(array.is_valid(), pa.array(rows), memory_pool=pool, boundscheck=False)
        valid = mask.buffers()[1]
    return _rebuilt(type_, len(rows), [valid, out, *others])


def _width_of(type_: pa.DataType) -> int | None:
    """Bytes of a value where rows of the second buffer are all that must move."""
    if pa.types.is_string_view(type_) or pa.types.is_binary_view(type_):
        return 16
    if isinstance(type_, pa.ExtensionType):
        return _width_of(type_.storage_type)
    if pa.types.is_fixed_size_binary(type_) or pa.types.is_decimal(type_):
        return int(type_.byte_width) or None
    if pa.types.is_primitive(type_) and type_.bit_width % 8 == 0:
        return int(type_.bit_width) // 8
    return None


def _rebuilt(type_: pa.DataType, count: int, buffers: Sequence[pa.Buffer | None]) -> pa.Array:
    if isinstance(type_, pa.ExtensionType):
        return type_.wrap_array(_rebuilt(type_.storage_type, count, buffers))
    return pa.Array.from_buffers(type_, count, list(buffers))
