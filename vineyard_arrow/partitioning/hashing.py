"""The hash by which rows are partitioned: of the value alone, on any machine, in any version.

Each column is made 64-bit integers or texts and hashed by the kernel that the index of a graph's
texts is stored with (docs/partition.md says how); columns are chained. No loop over rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import InvalidObjectError
from ..graph import _kernels
from ..graph.arrays import Array
from ..graph.vertices import key_columns

__all__ = ["hashes"]

_NULL = np.uint64(0x9E3779B97F4A7C15)
_CHAIN = np.uint64(0xFF51AFD7ED558CCD)


def hashes(columns: Sequence[pa.Array]) -> Array:
    """A hash of each row, uint64.

    Integers of all widths are hashed as 64 bits, floats as doubles (-0.0 as 0.0, all NaN alike),
    times, dates and durations as the number they are stored as, booleans as 0 and 1, texts and
    binaries as their bytes, decimals as their text. Nulls of all types have one hash.

    Examples
    --------
    >>> a, b = hashes([pa.array([1, 2], pa.int8())]), hashes([pa.array([1, 2], pa.int64())])
    >>> (a == b).all()
    np.True_
    """
    out = _column(columns[0])
    for column in columns[1:]:
        with np.errstate(over="ignore"):
            out = (out ^ (out >> np.uint64(33))) * _CHAIN + _column(column)
    return out


def _column(array: pa.Array) -> Array:
    if not len(array) or array.null_count == len(array):
        return np.full(len(array), _NULL, np.uint64)
    out = np.empty(len(array), np.uint64)
    _kernels.hash_rows(key_columns([_normalized(array)], len(array)), out)
    if array.null_count:
        out[array.is_null().to_numpy(zero_copy_only=False)] = _NULL
    return out


def _normalized(array: pa.Array) -> pa.Array:
    """Without nulls, as int64 or as text."""
    type_ = array.type
    if pa.types.is_floating(type_):
        values = array.cast(pa.float64()).fill_null(0.0).to_numpy(zero_copy_only=False) + 0.0
        values = np.where(np.isnan(values), np.nan, values)
        return pa.array(values.view(np.int64))
    if pa.types.is_boolean(type_) or pa.types.is_integer(type_):
        if pa.types.is_uint64(type_):
            array = array.view(pa.int64())
        return _filled(array.cast(pa.int64()), 0)
    if pa.types.is_temporal(type_) and type_ != pa.month_day_nano_interval():
        width = pa.int32() if type_.bit_width == 32 else pa.int64()
        return _filled(array.view(width).cast(pa.int64()), 0)
    if pa.types.is_decimal(type_):
        return _filled(array.cast(pa.string()), "")
    if pa.types.is_fixed_size_binary(type_):
        array = array.cast(pa.binary())
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        return _filled(array, "")
    if pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type):
        large = pa.types.is_large_binary(array.type)
        return _filled(array, b"").view(pa.large_string() if large else pa.string())
    raise InvalidObjectError(f"values of {type_} have no hash", "cast the column")


def _filled(array: pa.Array, value: object) -> pa.Array:
    return pc.fill_null(array, pa.scalar(value, array.type)) if array.null_count else array
