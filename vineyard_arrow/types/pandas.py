"""pandas frames by their blocks, series and indexes by their arrays.

The root part is a description in the plain form (see `plain`, `pandas_arrays`):
``[groups, form]``, where a frame's form is ``[blocks, index, columns, attrs, unique]``
with a pair of values and column positions for each block. A 2-D block is one tensor, so
a frame of 200 float columns is a handful of parts and comes back as the block it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas.api.internals import create_dataframe_from_blocks

from ..errors import InvalidObjectError
from ..registry import Encoder, Part, StoredObject, StoredPart, builtin_registry
from .arrow import resolve_chunked, resolve_table
from .pandas_arrays import ARRAY_TYPES, INDEX_TYPES, ArrayReader, ArrayWriter
from .pickling import pickle_part
from .plain import NotPlainError
from .python import value_of, value_part
from .strings import with_offsets

__all__: list[str] = []

FRAME = "vineyard.pandas.dataframe"
SERIES = "vineyard.pandas.series"
INDEX = "vineyard.pandas.index"
ARRAY = "vineyard.pandas.array"


def _build(
    typename: str, value: Any, describe: Callable[[ArrayWriter], Any], encoder: Encoder
) -> Part:
    writer = ArrayWriter()
    form = describe(writer)
    try:
        return value_part(typename, [writer.groups(), form], encoder)
    except NotPlainError:  # attrs or labels that contain themselves
        return pickle_part(value, encoder)


def _read(part: StoredPart, stored: StoredObject) -> tuple[ArrayReader, Any]:
    groups, form = value_of(part, stored)
    return ArrayReader(groups, part.writable, stored.validate), form


@builtin_registry.builder(pd.DataFrame)
def build_frame(frame: pd.DataFrame, encoder: Encoder) -> Part:
    """A frame by its blocks, as consolidated as it is."""
    if type(frame) is not pd.DataFrame:
        return pickle_part(frame, encoder)

    def describe(writer: ArrayWriter) -> Any:
        blocks = [
            [writer.array(block.values), block.mgr_locs.indexer] for block in frame._mgr.blocks
        ]
        axes = writer.index(frame.index), writer.index(frame.columns)
        return [blocks, *axes, frame.attrs, frame.flags.allows_duplicate_labels]

    return _build(FRAME, frame, describe, encoder)


@builtin_registry.resolver(FRAME)
def resolve_frame(part: StoredPart, stored: StoredObject) -> pd.DataFrame:
    """The frame, its blocks over mapped memory."""
    reader, (blocks, index, columns, attrs, duplicates) = _read(part, stored)
    frame = create_dataframe_from_blocks(
        [(reader.array(values), where) for values, where in blocks],
        index=reader.index(index),
        columns=reader.index(columns),
    )
    return _with_flags(frame, attrs, duplicates)


@builtin_registry.builder(pd.Series)
def build_series(series: pd.Series[Any], encoder: Encoder) -> Part:
    """A series by its array and index."""
    if type(series) is not pd.Series:
        return pickle_part(series, encoder)

    def describe(writer: ArrayWriter) -> Any:
        values = writer.array(series._mgr.blocks[0].values)
        index = writer.index(series.index)
        flags = series.attrs, series.flags.allows_duplicate_labels
        return [values, index, series.name, *flags]

    return _build(SERIES, series, describe, encoder)


@builtin_registry.resolver(SERIES)
def resolve_series(part: StoredPart, stored: StoredObject) -> pd.Series[Any]:
    """The series over mapped memory."""
    reader, (form, index, name, attrs, duplicates) = _read(part, stored)
    values = reader.array(form)
    series: Any = pd.Series(values, reader.index(index), dtype=values.dtype, name=name, copy=False)
    return _with_flags(series, attrs, duplicates)


def _with_flags(value: Any, attrs: dict[Any, Any], duplicates: bool) -> Any:
    if attrs:
        value.attrs = attrs
    if not duplicates:
        value.flags.allows_duplicate_labels = False
    return value


# -- as and from Arrow and NumPy ---------------------------------------------------------


@builtin_registry.resolver(FRAME, as_=pa.Table)
def table_of(part: StoredPart, stored: StoredObject) -> pa.Table:
    """The frame as a table, its index too where it is more than a range; NaN as null."""
    with _telling(part):
        return pa.Table.from_pandas(resolve_frame(part, stored))


@builtin_registry.resolver(SERIES, INDEX, ARRAY, as_=pa.ChunkedArray)
def column_of(part: StoredPart, stored: StoredObject) -> pa.ChunkedArray:
    """A series without its index, an index or an array as a column; NaN as null."""
    with _telling(part):
        values = pa.array(stored.registry.resolver_for(part.typename)(part, stored))
    return values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([values])


@builtin_registry.resolver(FRAME, SERIES, INDEX, ARRAY, as_=np.ndarray)
def values_of(part: StoredPart, stored: StoredObject) -> np.ndarray[Any, Any]:
    """What ``to_numpy()`` makes of it; pandas shows it read-only where it is not a copy."""
    values = stored.registry.resolver_for(part.typename)(part, stored).to_numpy()
    copy = part.writable and not values.flags.writeable
    return values.copy() if copy else values  # type: ignore[no-any-return]


@builtin_registry.resolver("vineyard.table", as_=pd.DataFrame)
def frame_of(part: StoredPart, stored: StoredObject) -> pd.DataFrame:
    """A table as a frame of Arrow's dtypes: nothing is copied but texts that are views."""
    table = resolve_table(part, stored)
    for i, column in enumerate(table.columns):
        made = with_offsets(column)
        if made is not column:
            table = table.set_column(i, table.field(i).with_type(made.type), made)
    return table.to_pandas(types_mapper=pd.ArrowDtype)


@builtin_registry.resolver("vineyard.chunked_array", as_=pd.Series)
def series_of(part: StoredPart, stored: StoredObject) -> pd.Series[Any]:
    """A column as a series of Arrow's dtype: nothing is copied but texts that are views."""
    return pd.Series(pd.arrays.ArrowExtensionArray(with_offsets(resolve_chunked(part, stored))))


@contextmanager
def _telling(part: StoredPart) -> Iterator[None]:
    try:
        yield
    except pa.ArrowException as error:
        raise InvalidObjectError(
            f"Arrow has no type for what is in this {part.typename}: {error}",
            "get it as it was put, without as_",
        ) from error


# -- indexes and extension arrays ----------------------------------------------------------


@builtin_registry.builder(pd.Index)
def build_index(index: pd.Index[Any], encoder: Encoder) -> Part:
    """Any index of pandas' own."""
    if type(index) not in INDEX_TYPES:
        return pickle_part(index, encoder)
    return _build(INDEX, index, lambda writer: writer.index(index), encoder)


@builtin_registry.resolver(INDEX)
def resolve_index(part: StoredPart, stored: StoredObject) -> Any:
    """The index over mapped memory."""
    reader, form = _read(part, stored)
    return reader.index(form)


@builtin_registry.builder(*ARRAY_TYPES)
def build_array(array: Any, encoder: Encoder) -> Part:
    """An extension array of pandas' own."""
    if type(array) not in ARRAY_TYPES:
        return pickle_part(array, encoder)
    return _build(ARRAY, array, lambda writer: writer.array(array), encoder)


@builtin_registry.resolver(ARRAY)
def resolve_array(part: StoredPart, stored: StoredObject) -> Any:
    """The array over mapped memory."""
    reader, form = _read(part, stored)
    return reader.array(form)
