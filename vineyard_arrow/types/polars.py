"""polars frames and series, by the Arrow memory they already lie in.

A LazyFrame is a plan over data that other processes may not have, so what is stored is
its result; it comes back lazy, over the mapped columns.

The part is a table; polars keeps what Arrow cannot say (categories, enums) in field
metadata. Columns that Arrow would not give back with the same dtype (128-bit integers,
objects) are set aside in a nested value, ``[[position, values], ...]``.
"""

from __future__ import annotations

from typing import Any

import polars as pl
import pyarrow as pa

from ..errors import InvalidObjectError
from ..registry import Encoder, Part, StoredObject, StoredPart, builtin_registry
from .arrow import resolve_chunked, resolve_table
from .pickling import pickle_part
from .strings import with_views

__all__: list[str] = []

FRAME = "vineyard.polars.frame"
SERIES = "vineyard.polars.series"
LAZY = "vineyard.polars.lazyframe"
_NEWEST = pl.CompatLevel.newest()
# Dtypes found to survive Arrow, or not. They are few; the bound is against generated enums.
_survives: dict[Any, bool] = {}
_MAX_KNOWN = 1024


@builtin_registry.builder(pl.DataFrame)
def build_frame(frame: pl.DataFrame, encoder: Encoder) -> Part:
    """A frame as the table it is in Arrow, strings as views."""
    if type(frame) is not pl.DataFrame:
        return pickle_part(frame, encoder)
    return _build(FRAME, frame, encoder)


@builtin_registry.builder(pl.Series)
def build_series(series: pl.Series, encoder: Encoder) -> Part:
    """A series as a table of one column."""
    if type(series) is not pl.Series:
        return pickle_part(series, encoder)
    return _build(SERIES, series.to_frame(), encoder)


@builtin_registry.builder(pl.LazyFrame)
def build_lazy(frame: pl.LazyFrame, encoder: Encoder) -> Part:
    """The result of a lazy frame, which is collected for it."""
    if type(frame) is not pl.LazyFrame:
        return pickle_part(frame, encoder)
    return _build(LAZY, frame.collect(), encoder)


@builtin_registry.resolver(FRAME)
def resolve_frame(part: StoredPart, stored: StoredObject) -> pl.DataFrame:
    """The frame over mapped memory (booleans and numbers as they are, codes copied)."""
    table = part.table
    frame = pl.from_arrow(table, rechunk=False) if table.num_columns else None
    if not isinstance(frame, pl.DataFrame):
        frame = pl.DataFrame(height=table.num_rows)
    if frame.columns != table.column_names:  # from_arrow gives the nameless a name
        frame.columns = table.column_names
    aside = part.params.get("aside")
    if aside is not None:
        for position, name, values in stored.resolve(aside):
            if not isinstance(values, pl.Series):
                values = pl.Series(name, values, dtype=pl.Object)
            frame.insert_column(position, values)
    return frame


@builtin_registry.resolver(SERIES)
def resolve_series(part: StoredPart, stored: StoredObject) -> pl.Series:
    """The series over mapped memory."""
    series: pl.Series = resolve_frame(part, stored).to_series(0)
    return series


@builtin_registry.resolver(LAZY)
def resolve_lazy(part: StoredPart, stored: StoredObject) -> pl.LazyFrame:
    """A lazy frame that scans the mapped columns."""
    frame: pl.LazyFrame = resolve_frame(part, stored).lazy()
    return frame


# -- as and from Arrow -------------------------------------------------------------------


@builtin_registry.resolver(FRAME, as_=pa.Table)
def table_of(part: StoredPart, stored: StoredObject) -> pa.Table:
    """The table that a frame is stored as."""
    aside = part.params.get("aside")
    if aside is not None:
        names = ", ".join(repr(name) for _, name, _ in stored.resolve(aside))
        raise InvalidObjectError(
            f"Arrow has no type for columns of this {part.typename}: {names}",
            "get it as it was put, without as_",
        )
    return part.table


@builtin_registry.resolver(SERIES, as_=pa.ChunkedArray)
def column_of(part: StoredPart, stored: StoredObject) -> pa.ChunkedArray:
    """The column that a series is stored as."""
    return table_of(part, stored).column(0)


@builtin_registry.resolver("vineyard.table", "vineyard.record_batch", as_=pl.DataFrame)
def frame_of(part: StoredPart, stored: StoredObject) -> pl.DataFrame:
    """A table as a frame; the types that polars knows otherwise are copied."""
    table = with_views(resolve_table(part, stored), part, stored)
    frame: pl.DataFrame = resolve_frame(StoredPart(FRAME, {}, table, part.writable), stored)
    return frame


@builtin_registry.resolver("vineyard.table", as_=pl.LazyFrame)
def lazy_of(part: StoredPart, stored: StoredObject) -> pl.LazyFrame:
    """A table as a lazy frame that scans its columns."""
    lazy: pl.LazyFrame = frame_of(part, stored).lazy()
    return lazy


@builtin_registry.resolver("vineyard.chunked_array", "vineyard.array", as_=pl.Series)
def series_of(part: StoredPart, stored: StoredObject) -> pl.Series:
    """A column as a series without a name."""
    column = pa.table([resolve_chunked(part, stored)], ["data"])
    series = pl.from_arrow(with_views(column, part, stored).column(0), rechunk=False)
    assert isinstance(series, pl.Series)
    return series.alias("")


def _build(typename: str, frame: pl.DataFrame, encoder: Encoder) -> Part:
    aside = [i for i, dtype in enumerate(frame.dtypes) if not _arrow_keeps(dtype)]
    params = {}
    if aside:
        columns = [(i, frame.to_series(i)) for i in aside]
        frame = frame.drop([series.name for _, series in columns])
        params["aside"] = encoder.add([(i, s.name, _set_aside(s)) for i, s in columns])
    table = frame.to_arrow(compat_level=_NEWEST)
    return Part(typename, table.schema, table.to_batches(), params)


def _set_aside(series: pl.Series) -> Any:
    if series.dtype == pl.Object:
        return series.to_list()
    return _Pickled(series)


class _Pickled:
    """Keeps polars' own pickle of a series from coming back to this builder."""

    def __init__(self, series: pl.Series) -> None:
        self._series = series

    def __reduce__(self) -> tuple[Any, ...]:
        try:
            return _unpickled, (self._series.name, self._series.__getstate__())
        except pl.exceptions.PolarsError as error:
            raise InvalidObjectError(
                f"polars cannot store a series of {self._series.dtype}: {error}",
                "cast it to a dtype of Arrow",
            ) from error


def _unpickled(name: str, state: Any) -> pl.Series:
    series = pl.Series.__new__(pl.Series)
    series.__setstate__(state)
    return series.alias(name)


def _arrow_keeps(dtype: Any) -> bool:
    known = _survives.get(dtype)
    if known is None:
        frame = pl.DataFrame(schema={"x": dtype})
        try:
            back = pl.from_arrow(frame.to_arrow(compat_level=_NEWEST))
        except pa.ArrowException:
            back = None
        known = isinstance(back, pl.DataFrame) and back.schema == frame.schema
        if len(_survives) >= _MAX_KNOWN:
            _survives.clear()
        _survives[dtype] = known
    return known
