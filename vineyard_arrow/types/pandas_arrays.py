"""Descriptions of pandas' arrays and indexes, in terms of NumPy and Arrow memory.

A description is a plain value (see `plain`): an array itself, or a list that starts with
a word. Long 1-D arrays in it are not parts of their own, of which a frame would have
hundreds; those of equal chunk lengths are the columns of one table.

==================================================  ====================================
``["column", group, i, dtype, shape, order]``       a numpy.ndarray, in a group
``["chunk", group, i]``                             a pyarrow.ChunkedArray, likewise
``["masked", data, mask]``                          Integer-, Floating-, BooleanArray
``["arrow", chunked]``                              ArrowExtensionArray
``["str", storage, na_is_nan, values]``             the string arrays
``["categorical", codes, categories, ordered]``     Categorical
``["datetime", values, tz]``, ``["timedelta", v]``  DatetimeArray, TimedeltaArray
``["period", ordinals, dtype name]``                PeriodArray
``["interval", left, right, closed]``               IntervalArray
``["sparse", values, fill value, length, index]``   SparseArray; index one or two arrays
``["numpy", values]``                               NumpyExtensionArray
``["range", start, stop, step, name]``              RangeIndex
``["multi", levels, codes, names, sortorder]``      MultiIndex
``["index", values, name, freq]``                   any other index of pandas' own
==================================================  ====================================

pandas' private constructors are used where the public ones would copy or validate; they
are those that pandas' own unpickling uses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas._libs.sparse import BlockIndex, IntIndex
from pandas.tseries.frequencies import to_offset

from ..errors import InvalidObjectError
from .memory import data_buffer, memory_of
from .numpy import ARROW_TYPES, BOOL8, array_over, flat_buffer
from .plain import INLINE_NBYTES

__all__ = ["ARRAY_TYPES", "INDEX_TYPES", "ArrayReader", "ArrayWriter"]

_INT64 = pa.int64()
arrays = pd.arrays


class ArrayWriter:
    """Describes arrays and indexes of one object, gathering the long arrays by length."""

    def __init__(self) -> None:
        self._groups: dict[tuple[int, ...], tuple[int, list[Any]]] = {}

    def groups(self) -> list[pa.Table]:
        """The tables that the descriptions refer to."""
        return [
            pa.Table.from_arrays(columns, names=[str(i) for i in range(len(columns))])
            for _, columns in self._groups.values()
        ]

    def array(self, values: Any) -> Any:
        """Description of an array; the array itself if this module knows no better."""
        describe = _DESCRIBE.get(type(values))
        return values if describe is None else describe(self, values)

    def index(self, index: pd.Index[Any]) -> Any:
        """Description of an index; the index itself if it is of a foreign class."""
        cls = type(index)
        if cls is pd.RangeIndex:
            return ["range", index.start, index.stop, index.step, index.name]
        if cls is pd.MultiIndex:
            levels = [self.index(level) for level in index.levels]
            codes = [self._numpy(np.asarray(code)) for code in index.codes]
            return ["multi", levels, codes, list(index.names), index.sortorder]
        if cls not in INDEX_TYPES:
            return index
        values: Any = index.array
        if type(values) is arrays.NumpyExtensionArray:
            values = index.to_numpy()
        return ["index", self.array(values), index.name, _freq_form(index)]

    def _column(self, column: Any, lengths: tuple[int, ...]) -> list[Any]:
        number, columns = self._groups.setdefault(lengths, (len(self._groups), []))
        columns.append(column)
        return [number, len(columns) - 1]

    def _numpy(self, array: np.ndarray[Any, Any]) -> Any:
        dtype, flags = array.dtype, array.flags
        if array.nbytes < INLINE_NBYTES or not flags.forc or (array.ndim == 2 and len(array) > 1):
            return array
        if dtype.kind in "mM" and dtype.isnative:
            type_ = _INT64
        else:
            type_ = BOOL8 if dtype.kind == "b" else ARROW_TYPES.get(dtype)
        if type_ is None:
            return array
        order = "F" if flags.fnc else "C"
        buffer = flat_buffer(array, order)
        column = pa.Array.from_buffers(type_, array.size, [None, buffer], 0)
        return ["column", *self._column(column, (array.size,)), dtype.str, list(array.shape), order]

    def _arrow(self, chunked: pa.ChunkedArray) -> Any:
        if chunked.num_chunks == 0:
            return chunked
        lengths = tuple(map(len, chunked.iterchunks()))
        return ["chunk", *self._column(chunked, lengths)]

    def _str(self, values: Any) -> Any:
        data = values._pa_array if values.dtype.storage == "pyarrow" else None
        data = values._ndarray if data is None else self._arrow(data)
        return ["str", values.dtype.storage, values.dtype.na_value is not pd.NA, data]

    def _categorical(self, values: Any) -> Any:
        categories = self.index(values.categories)
        return ["categorical", self._numpy(values._codes), categories, values.ordered]

    def _sparse(self, values: Any) -> Any:
        index = values.sp_index
        form = [index.indices] if type(index) is IntIndex else [index.blocs, index.blengths]
        form = [self._numpy(np.asarray(positions)) for positions in form]
        return ["sparse", self.array(values.sp_values), values.fill_value, index.length, form]


def _freq_form(index: Any) -> Any:
    freq = getattr(index, "_freq", None)
    if freq is None:
        return None
    try:
        same = to_offset(freq.freqstr) == freq
    except ValueError:  # custom offsets have names that are not aliases
        same = False
    return freq.freqstr if same else freq


_DESCRIBE: dict[type, Callable[[ArrayWriter, Any], Any]] = {
    np.ndarray: ArrayWriter._numpy,
    arrays.NumpyExtensionArray: lambda w, v: ["numpy", w._numpy(v._ndarray)],
    arrays.ArrowExtensionArray: lambda w, v: ["arrow", w._arrow(v._pa_array)],
    arrays.ArrowStringArray: ArrayWriter._str,
    arrays.StringArray: ArrayWriter._str,
    pd.Categorical: ArrayWriter._categorical,
    arrays.DatetimeArray: lambda w, v: ["datetime", w._numpy(v._ndarray), v.tz],
    arrays.TimedeltaArray: lambda w, v: ["timedelta", w._numpy(v._ndarray)],
    arrays.PeriodArray: lambda w, v: ["period", w._numpy(v._ndarray), v.dtype.name],
    arrays.IntervalArray: lambda w, v: ["interval", w.array(v._left), w.array(v._right), v.closed],
    arrays.SparseArray: ArrayWriter._sparse,
} | dict.fromkeys(
    (arrays.IntegerArray, arrays.FloatingArray, arrays.BooleanArray),
    lambda w, v: ["masked", w._numpy(v._data), w._numpy(v._mask)],
)

ARRAY_TYPES = tuple(cls for cls in _DESCRIBE if cls is not np.ndarray)
"""pandas' array classes that have a description."""
INDEX_TYPES = frozenset(
    (pd.Index, pd.RangeIndex, pd.MultiIndex, pd.CategoricalIndex, pd.DatetimeIndex,
     pd.TimedeltaIndex, pd.PeriodIndex, pd.IntervalIndex)
)  # fmt: skip
"""pandas' index classes; subclasses of others are pickled."""


class ArrayReader:
    """Makes arrays and indexes of descriptions and their groups.

    Parameters
    ----------
    groups : list of pyarrow.Table
        As `ArrayWriter.groups` gave them.
    writable : bool
        Whether the memory is private, so that NumPy arrays may be writable.
    validate : bool
        Whether to check that codes lie within their categories and levels.
    """

    def __init__(self, groups: list[pa.Table], writable: bool, validate: bool = False) -> None:
        self._groups = groups
        self._writable = writable
        self._validate = validate

    def array(self, form: Any) -> Any:
        """The array of a description, over the same memory."""
        return _MAKE[form[0]](self, *form[1:]) if type(form) is list else form

    def index(self, form: Any) -> Any:
        """The index of a description."""
        return _MAKE_INDEX[form[0]](self, *form[1:]) if type(form) is list else form

    def _column(self, group: int, i: int, dtype: str, shape: list[int], order: Any) -> Any:
        buffer = data_buffer(self._groups[group].column(i))
        return array_over(memory_of(buffer, self._writable), shape, dtype, order)

    def _chunk(self, group: int, i: int) -> pa.ChunkedArray:
        return self._groups[group].column(i)

    def _masked(self, data: Any, mask: Any) -> Any:
        values = self.array(data)
        return _MASKED[values.dtype.kind](values, self.array(mask), copy=False)

    def _str(self, storage: str, na_is_nan: bool, data: Any) -> Any:
        dtype: Any = pd.StringDtype(storage, na_value=np.nan if na_is_nan else pd.NA)
        cls: Any = arrays.ArrowStringArray if storage == "pyarrow" else arrays.StringArray
        return cls(self.array(data), dtype=dtype)

    def _categorical(self, codes: Any, categories: Any, ordered: bool) -> Any:
        dtype = pd.CategoricalDtype._from_fastpath(self.index(categories), ordered)
        values = self.array(codes)
        self._check_codes(values, dtype.categories)
        return pd.Categorical._simple_new(values, dtype)

    def _check_codes(self, codes: Any, values: Any) -> None:
        if self._validate and len(codes) and not -1 <= codes.min() <= codes.max() < len(values):
            raise InvalidObjectError(f"a code of this object is of none of {len(values)} values")

    def _datetime(self, data: Any, tz: Any) -> Any:
        values = self.array(data)
        dtype = values.dtype
        if tz is not None:
            dtype = pd.DatetimeTZDtype(np.datetime_data(dtype)[0], tz)
        return arrays.DatetimeArray._simple_new(values, dtype=dtype)

    def _timedelta(self, data: Any) -> Any:
        values = self.array(data)
        return arrays.TimedeltaArray._simple_new(values, dtype=values.dtype)

    def _period(self, data: Any, name: str) -> Any:
        dtype = pd.PeriodDtype.construct_from_string(name)
        return arrays.PeriodArray._simple_new(self.array(data), dtype)

    def _interval(self, left: Any, right: Any, closed: Any) -> Any:
        lower, upper = self.array(left), self.array(right)
        dtype = pd.IntervalDtype(lower.dtype, closed)
        return arrays.IntervalArray._simple_new(lower, upper, dtype)

    def _sparse(self, data: Any, fill: Any, length: int, form: list[Any]) -> Any:
        values = self.array(data)
        index = (IntIndex if len(form) == 1 else BlockIndex)(length, *map(self.array, form))
        dtype: Any = pd.SparseDtype(values.dtype, fill)
        return arrays.SparseArray._simple_new(values, index, dtype)

    def _multi(self, levels: Any, codes: Any, names: Any, sortorder: Any) -> Any:
        made = [self.index(level) for level in levels]
        positions = [self.array(code) for code in codes]
        for level, code in zip(made, positions, strict=True):
            self._check_codes(code, level)
        return pd.MultiIndex(
            levels=made,
            codes=positions,
            names=names,
            sortorder=sortorder,
            verify_integrity=False,
        )

    def _index(self, data: Any, name: Any, freq: Any) -> Any:
        values = self.array(data)
        index = pd.Index(values, dtype=values.dtype, copy=False)
        index._name = name  # a list is a name too
        if freq is not None:
            # The property would validate it against all values.
            index._freq = to_offset(freq)
        return index


def _make_range(_: ArrayReader, start: int, stop: int, step: int, name: Any) -> Any:
    return pd.RangeIndex(start, stop, step, name=name)


_MASKED: dict[str, Any] = {
    "b": arrays.BooleanArray, "i": arrays.IntegerArray, "u": arrays.IntegerArray,
    "f": arrays.FloatingArray,
}  # fmt: skip
_MAKE: dict[str, Callable[..., Any]] = {
    "column": ArrayReader._column,
    "chunk": ArrayReader._chunk,
    "masked": ArrayReader._masked,
    "arrow": lambda r, data: arrays.ArrowExtensionArray(r.array(data)),
    "numpy": lambda r, data: arrays.NumpyExtensionArray(r.array(data)),
    "str": ArrayReader._str,
    "categorical": ArrayReader._categorical,
    "datetime": ArrayReader._datetime,
    "timedelta": ArrayReader._timedelta,
    "period": ArrayReader._period,
    "interval": ArrayReader._interval,
    "sparse": ArrayReader._sparse,
}
_MAKE_INDEX: dict[str, Callable[..., Any]] = {
    "range": _make_range,
    "multi": ArrayReader._multi,
    "index": ArrayReader._index,
}
