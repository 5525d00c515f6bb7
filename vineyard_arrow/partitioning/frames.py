"""Rows of tables and of pandas' and polars' frames: sliced, gathered, joined; columns as keys.

One place for what differs between them. Slices share memory; gathered rows are in the pool that
is given, as far as the library allows it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..distributed import kind_of
from ..errors import InvalidGraphError, InvalidObjectError
from ..graph.arrays import Array, combined, taken

__all__ = ["column_names", "gathered", "joined", "key_of", "row_nbytes", "sliced"]

_TEXTS = (pa.string(), pa.binary(), pa.large_string(), pa.large_binary())
_VIEWS = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}


def sliced(value: Any, start: int, stop: int) -> Any:
    """Rows from ``start`` to ``stop``, over the same memory."""
    kind = kind_of(value)
    if (start, stop) == (0, value.shape[0]):
        return value
    if kind != "pandas":
        return value.slice(start, stop - start)
    return _blockwise(value, value.index[start:stop], lambda v: v[..., start:stop], split=True)


def gathered(value: Any, rows: Array, pool: Any) -> Any:
    """Rows by position: of tables, and of NumPy's columns in frames, copied once to the pool."""
    kind = kind_of(value)
    if kind == "polars":
        return value[rows]
    if kind == "table":
        columns = [_taken(column, rows, pool) for column in value.columns]
        fields = [
            field.with_type(column.type)
            for field, column in zip(value.schema, columns, strict=True)
        ]
        schema = pa.schema(fields, value.schema.metadata)
        if not columns:
            return sliced(pa.table(value), 0, len(rows))
        return pa.Table.from_arrays(columns, schema=schema)

    def take(values: Any) -> Any:
        if not isinstance(values, np.ndarray) or values.dtype.hasobject:
            return values.take(rows, axis=values.ndim - 1) if values.ndim > 1 else values.take(rows)
        shape = (*values.shape[:-1], len(rows))
        buffer = pa.allocate_buffer(values.dtype.itemsize * int(np.prod(shape)), memory_pool=pool)
        out: Array = np.ndarray(shape, values.dtype, buffer)
        np.take(values, rows, axis=-1, out=out, mode="clip")  # else it is buffered
        return out

    return _blockwise(value, value.index.take(rows), take)


def _taken(column: pa.ChunkedArray, rows: Array, pool: Any) -> pa.Array:
    view = _VIEWS.get(column.type) if not isinstance(column.type, pa.ExtensionType) else None
    if view is not None:  # else all texts of the column would come along
        column = column.cast(view)
    array = combined(column, pa.default_memory_pool())
    try:
        out = taken(array, rows, pool)
    except InvalidGraphError as error:
        raise InvalidObjectError(error.message, error.hint) from None
    if view is not None:
        return pc.cast(out, _view_of(view), memory_pool=pool)
    if out.type != array.type:
        raise InvalidObjectError(
            f"a partition would have more text than {array.type} can hold",
            f"make more partitions, or cast the column to {out.type}",
        )
    return out


def _view_of(large: pa.DataType) -> pa.DataType:
    return next(view for view, other in _VIEWS.items() if other == large)


def _blockwise(frame: Any, index: Any, change: Callable[[Any], Any], split: bool = False) -> Any:
    """A frame of the changed blocks; with ``split`` of single columns, which slices share."""
    from pandas.api.internals import create_dataframe_from_blocks

    blocks: list[tuple[Any, Any]] = []
    for block in frame._mgr.blocks:
        values, places = change(block.values), block.mgr_locs.indexer
        is_plain = isinstance(values, np.ndarray) and values.ndim == 2
        if split and is_plain and not values.flags.forc and values.shape[1]:
            at = np.arange(frame.shape[1])[places]
            blocks += [(values[i : i + 1], at[i : i + 1]) for i in range(len(at))]
        else:
            blocks.append((values, places))
    out = create_dataframe_from_blocks(blocks, index=index, columns=frame.columns)
    out.attrs = dict(frame.attrs)
    return out


def joined(values: Sequence[Any]) -> Any:
    """All rows, one value after the other: of tables and polars' frames over the same memory."""
    if len(values) == 1:
        return values[0]
    kind = kind_of(values[0])
    try:
        if kind == "table":
            tables = [
                pa.Table.from_batches([v]) if isinstance(v, pa.RecordBatch) else v for v in values
            ]
            return pa.concat_tables(tables)
        if kind == "polars":
            import polars as pl

            return pl.concat(values, rechunk=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InvalidObjectError(f"these tables make no whole: {error}") from None
    import pandas as pd

    return pd.concat(values)


# ---- keys


def column_names(value: Any) -> list[str]:
    """Names of the columns."""
    return list(value.schema.names if kind_of(value) == "table" else value.columns)


def key_of(value: Any, name: str | None) -> pa.Array:
    """A column in one piece, of a type that Arrow orders; without a name pandas' index.

    Raises
    ------
    InvalidObjectError
        If there is no such column.
    """
    kind = kind_of(value)
    if name is None:
        if kind != "pandas":
            raise InvalidObjectError("of which column is this?", "name it: by=...")
        column: Any = value.index
    else:
        names = column_names(value)
        if names.count(name) != 1:
            if kind == "pandas" and name == value.index.name:
                return key_of(value, None)
            raise InvalidObjectError(
                f"{names.count(name) or 'no'} columns are called {name!r}", f"there are {names}"
            )
        column = value.column(name) if kind == "table" else value[name]
    try:
        if kind == "pandas":
            column = pa.array(column, from_pandas=True)
        elif kind == "polars":
            column = column.to_arrow()
    except pa.ArrowException as error:
        raise InvalidObjectError(f"column {name!r} cannot be a key: {error}") from None
    if isinstance(column, pa.ChunkedArray):
        column = combined(column, pa.default_memory_pool())
    return plain_key(column, name)


def plain_key(array: pa.Array, name: str | None) -> pa.Array:
    """Without dictionary, views or extension."""
    if isinstance(array, pa.ExtensionArray):
        return plain_key(array.storage, name)
    if pa.types.is_dictionary(array.type):
        return plain_key(array.dictionary_decode(), name)
    view = _VIEWS.get(array.type)
    if view is not None:
        return array.cast(view)
    if pa.types.is_nested(array.type) or pa.types.is_run_end_encoded(array.type):
        raise InvalidObjectError(
            f"column {name!r} is {array.type}, which is no key", "keys are plain values"
        )
    return array


def row_nbytes(value: Any) -> Array:
    """About the bytes of each row, int64: texts by their lengths, all else alike."""
    count = value.shape[0]
    if not count:
        return np.zeros(0, np.int64)
    if kind_of(value) == "polars":
        value = value.to_arrow()
    if kind_of(value) == "pandas":
        total = int(value.memory_usage(index=True).sum())
        texts = [
            pa.array(value[name]) for name in value if str(value.dtypes[name]) in ("str", "string")
        ]
    else:
        total = value.nbytes
        texts = [c for c in value.columns if c.type in _TEXTS]
    lengths = np.zeros(count, np.int64)
    for text in texts:
        filled = pc.fill_null(pc.binary_length(text), 0)
        lengths += np.asarray(
            filled.combine_chunks() if isinstance(filled, pa.ChunkedArray) else filled
        )
    lengths += max(1, (total - int(lengths.sum())) // count)
    return lengths
