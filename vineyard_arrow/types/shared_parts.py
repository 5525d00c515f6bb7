"""Values of shared classes that are parts of their own: what they must be, put or got."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from ..codegen.model import Column, Frame, NdArray, Rows, Type, text_of

__all__ = [
    "MEMBER",
    "TYPENAMES",
    "Find",
    "MismatchError",
    "at_key",
    "checked",
    "found_in",
    "int_range",
    "kind_of",
    "widens",
]

MEMBER = "vineyard.shared.member"
Find = Callable[[str], type | None]
"""The shared class of a typename."""


class MismatchError(Exception):
    """A value, or a stored one, is not what its field is declared to be."""

    def __init__(self, found: str, wanted: str, hint: str | None = None) -> None:
        super().__init__(found, wanted)
        self.found = found
        self.wanted = wanted
        self.hint = hint
        self.path = ""  # within the field, such as [3]['x']

    def at(self, key: Any) -> MismatchError:
        """The same, found at ``key`` of a container."""
        self.path = f"[{key!r}]{self.path}"
        return self


def at_key(key: Any, function: Callable[[Any, Any], Any], value: Any, where: Any) -> Any:
    """``function(value, where)`` of what a container has at ``key``, which errors then tell."""
    try:
        return function(value, where)
    except MismatchError as error:
        raise error.at(key) from None


TYPENAMES: dict[tuple[str, ...], tuple[str, ...]] = {
    ("NdArray",): ("vineyard.tensor",),
    ("Column", "Array"): ("vineyard.array",),
    ("Column", "ChunkedArray"): ("vineyard.chunked_array", "vineyard.array"),
    ("Rows", "Table"): ("vineyard.table", "vineyard.record_batch"),
    ("Rows", "RecordBatch"): ("vineyard.record_batch",),
    ("Frame", "polars", "DataFrame"): ("vineyard.polars.frame",),
    ("Frame", "polars", "Series"): ("vineyard.polars.series",),
    ("Frame", "pandas", "DataFrame"): ("vineyard.pandas.dataframe",),
    ("Frame", "pandas", "Series"): ("vineyard.pandas.series",),
}
"""By `kind_of` a type: the typename that it is stored by, and others it can be read from."""


def kind_of(type_: Type) -> tuple[str, ...]:
    """The key of a type in `TYPENAMES`."""
    match type_:
        case Column() | Rows():
            return type(type_).__name__, type_.python
        case Frame():
            return "Frame", type_.library, type_.python
    return (type(type_).__name__,)


def checked(type_: Type, value: Any, widen: bool = False) -> Any:
    """``value`` if it is of ``type_``; with ``widen``, cast to it where that is safe."""
    match type_:
        case NdArray():
            return _checked_ndarray(type_, value, widen)
        case Column():
            if isinstance(value, getattr(pa, type_.python)):
                found = value.type
                if type_.arrow is None or found == type_.arrow:
                    return value
                if widen and widens(found, type_.arrow):
                    return value.cast(type_.arrow)
        case Rows():
            if isinstance(value, getattr(pa, type_.python)):
                return _checked_rows(type_, value, widen)
        case Frame():
            cls = type(value)
            if (cls.__module__.partition(".")[0], cls.__name__) == (type_.library, type_.python):
                return value
    raise MismatchError(found_in(value), text_of(type_))


def _checked_ndarray(type_: NdArray, value: Any, widen: bool) -> Any:
    import numpy as np

    if not isinstance(value, np.ndarray) or isinstance(value, np.ma.MaskedArray):
        raise MismatchError(found_in(value), text_of(type_))
    shape, dtype = type_.shape, type_.dtype
    if shape is not None and (
        len(shape) != value.ndim
        or any(n not in (None, m) for n, m in zip(shape, value.shape, strict=True))
    ):
        raise MismatchError(found_in(value), text_of(type_))
    if dtype is None or value.dtype.str == dtype:
        return value
    wanted = np.dtype(dtype)
    if widen and _widens_dtype(value.dtype, wanted):
        return value.astype(wanted)
    raise MismatchError(found_in(value), text_of(type_), f'.astype("{wanted}") makes one')


def _widens_dtype(found: Any, wanted: Any) -> bool:
    if found.kind == wanted.kind and found.kind in "cSU":
        return bool(found.itemsize <= wanted.itemsize)
    if {found.kind, wanted.kind} <= {"i", "u", "f"} and max(found.itemsize, wanted.itemsize) <= 8:
        return widens(pa.from_numpy_dtype(found), pa.from_numpy_dtype(wanted))
    return False


def _checked_rows(type_: Rows, value: Any, widen: bool) -> Any:
    schema = type_.schema
    if schema is None:
        return value
    found = value.schema
    if found.names == schema.names:
        same = found.types == schema.types
        safe = same or (widen and all(map(widens, found.types, schema.types)))
        nulls = [
            field.name
            for field, column in zip(schema, value.columns, strict=True)
            if not field.nullable and column.null_count
        ]
        if nulls:
            raise MismatchError(f"nulls in {', '.join(map(repr, nulls))}", text_of(type_))
        if same:
            return value
        if safe:
            return value.cast(schema)
    differing = [
        f"{a.name}: {a.type}"
        for a in found
        if a.name not in schema.names or schema.field(a.name).type != a.type
    ]
    missing = [name for name in schema.names if name not in found.names]
    hint = None
    if missing:
        hint = f"missing: {', '.join(missing)}"
    elif not differing:
        hint = "the columns are in another order: select() puts them right"
    raise MismatchError(found_in(value), text_of(type_), hint)


def widens(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether every value of ``found`` is exactly one of ``wanted``.

    Integers to wider ones, and to floats that hold them exactly; floats to wider ones; text
    and bytes to their large kinds.

    Examples
    --------
    >>> widens(pa.int32(), pa.float64()), widens(pa.int64(), pa.float64())
    (True, False)
    """
    t = pa.types
    if found == wanted:
        return True
    if t.is_integer(found) and t.is_integer(wanted):
        (low, high), (least, most) = int_range(found), int_range(wanted)
        return bool(least <= low and high <= most)
    if t.is_integer(found) and t.is_floating(wanted):
        return bool(int_range(found)[1] <= 1 << _MANTISSA[wanted.bit_width])
    if t.is_floating(found) and t.is_floating(wanted):
        return bool(found.bit_width <= wanted.bit_width)
    return (found, wanted) in (
        (pa.string(), pa.large_string()),
        (pa.binary(), pa.large_binary()),
    )


_MANTISSA = {16: 11, 32: 24, 64: 53}  # bits of IEEE 754's numbers, the hidden one counted


def int_range(arrow: pa.DataType) -> tuple[int, int]:
    """The least and the greatest value of an integer type."""
    bits = arrow.bit_width
    if pa.types.is_unsigned_integer(arrow):
        return 0, (1 << bits) - 1
    return -(1 << bits - 1), (1 << bits - 1) - 1


# ---- words


def found_in(value: Any) -> str:
    """What a value is, in the words of `text_of` where that has any."""
    cls = type(value)
    library = cls.__module__.partition(".")[0]
    if library == "numpy" and cls.__name__ == "ndarray":
        return f"ndarray[{value.dtype}, {value.shape}]"
    if isinstance(value, (pa.Table, pa.RecordBatch)):
        return text_of(Rows(cls.__name__, value.schema))
    if isinstance(value, pa.ChunkedArray):
        return text_of(Column("ChunkedArray", value.type))
    if isinstance(value, pa.Array):
        return text_of(Column("Array", value.type))
    if cls in (tuple, list, dict):
        return f"{cls.__name__} of {len(value)}"
    if library in ("builtins", "datetime"):
        return "None" if value is None else cls.__name__
    if library in ("polars", "pandas", "numpy", "pyarrow"):
        return f"{library}.{cls.__name__}"
    return cls.__qualname__
