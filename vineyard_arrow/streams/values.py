"""What a stream takes: values as record batches of its schema, or an error that says why not.

Arrow data must have the stream's types; frames of other libraries, which have types of their
own, are cast to them. Knows no stores.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from ..errors import InvalidObjectError


def batches_of(value: Any, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """``value`` as batches of ``schema``; nothing is copied that need not be cast.

    Raises
    ------
    InvalidObjectError
        If it is not of the schema; the message names the field.
    """
    if isinstance(value, pa.RecordBatch):
        yield _checked(value, schema)
    elif isinstance(value, pa.Table):
        _check_types(value.schema, schema)
        for batch in value.to_batches():
            yield _checked(batch, schema)
    elif isinstance(value, pa.RecordBatchReader):
        _check_types(value.schema, schema)
        for batch in value:
            yield _checked(batch, schema)
    elif isinstance(value, bytes | bytearray | memoryview | pa.Buffer):
        yield _of_bytes(pa.py_buffer(value), schema)
    else:
        yield from _of_frame(value, schema)


def _check_types(given: pa.Schema, schema: pa.Schema) -> None:
    if given is schema:
        return
    if len(given) != len(schema):
        raise _mismatch(
            f"{len(given)} fields ({', '.join(given.names)}) where the stream has"
            f" {len(schema)} ({', '.join(schema.names)})"
        )
    for i, (mine, field) in enumerate(zip(given, schema, strict=True)):
        if mine.name != field.name:
            raise _mismatch(f"field {i} is named {mine.name!r} where the stream has {field.name!r}")
        if mine.type != field.type:
            raise _mismatch(
                f"field {field.name!r} is {mine.type} where the stream has {field.type}"
            )


def _checked(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    if (given := batch.schema) is schema or given.equals(schema, check_metadata=True):
        return batch
    _check_types(batch.schema, schema)
    return _with_schema(batch.columns, schema)


def _with_schema(columns: list[pa.Array], schema: pa.Schema) -> pa.RecordBatch:
    for column, field in zip(columns, schema, strict=True):
        if not field.nullable and column.null_count:
            raise _mismatch(f"field {field.name!r} has nulls, which the stream's has not")
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _of_bytes(data: pa.Buffer, schema: pa.Schema) -> pa.RecordBatch:
    kind = schema.field(0).type if len(schema) == 1 else None
    if kind == pa.uint8():
        column = pa.Array.from_buffers(kind, data.size, [None, data])
    elif kind is not None and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        offset = pa.int32() if pa.types.is_binary(kind) else pa.int64()
        try:
            ends = pa.array([0, data.size], offset)
        except pa.ArrowInvalid:
            raise InvalidObjectError(
                f"{data.size:,} bytes are too many for one row of {kind}", "use large_binary"
            ) from None
        column = pa.Array.from_buffers(kind, 1, [None, ends.buffers()[1], data])
    else:
        raise InvalidObjectError(
            "this stream takes no bytes",
            "one of bytes has a single column, of type binary, large_binary or uint8",
        )
    return pa.RecordBatch.from_arrays([column], schema=schema)


def _of_frame(value: Any, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(value, pandas.DataFrame):
        _check_names(list(value.columns), schema)
        try:
            table = pa.Table.from_pandas(value, schema=schema, preserve_index=False)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            raise _mismatch(" ".join(str(word) for word in error.args)) from None
        yield from (_checked(batch, schema) for batch in table.to_batches())
    elif hasattr(value, "__arrow_c_stream__"):
        yield from (_cast(batch, schema) for batch in pa.RecordBatchReader.from_stream(value))
    elif hasattr(value, "__arrow_c_array__"):
        yield _cast(pa.record_batch(value), schema)
    else:
        raise InvalidObjectError(
            f"a {type(value).__name__} cannot be written to a stream",
            "it takes record batches, tables, frames (lazy ones collected), and bytes",
        )


def _check_names(names: list[Any], schema: pa.Schema) -> None:
    for name in schema.names:
        if name not in names:
            raise _mismatch(f"field {name!r} of the stream is missing")
    for name in names:
        if name not in schema.names:
            raise _mismatch(f"there is a field {name!r}, which the stream has not")


def _cast(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    _check_names(batch.schema.names, schema)
    columns = []
    for field in schema:
        column = batch.column(field.name)
        try:
            columns.append(column if column.type == field.type else column.cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise _mismatch(
                f"field {field.name!r} is {column.type} where the stream has {field.type},"
                f" and cannot be cast: {error}"
            ) from None
    return _with_schema(columns, schema)


def _mismatch(what: str) -> InvalidObjectError:
    return InvalidObjectError(f"not of the stream's schema: {what}")
