"""Types of the model that are one thing in C++ as well, and the literals of their defaults."""

from __future__ import annotations

import datetime as dt
import math
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from .cpp_arrow import UnknownTypeError, array_class, quoted, schema_code, type_code
from .model import Column, Frame, NdArray, Plain, Rows, text_of

__all__ = [
    "NUMBERS",
    "Code",
    "NoCodeError",
    "array_code",
    "arrow_code",
    "frame_code",
    "identifier",
    "integer",
    "literal",
    "plain_code",
]

# fmt: off
_KEYWORDS = frozenset("""
    alignas alignof and and_eq asm auto bitand bitor bool break case catch char char8_t char16_t
    char32_t class compl concept const consteval constexpr constinit const_cast continue co_await
    co_return co_yield decltype default delete do double dynamic_cast else enum explicit export
    extern false float for friend goto if inline int long mutable namespace new noexcept not not_eq
    nullptr operator or or_eq private protected public register reinterpret_cast requires return
    short signed sizeof static static_assert static_cast struct switch template this thread_local
    throw true try typedef typeid typename union unsigned using virtual void volatile wchar_t while
    xor xor_eq
""".split())  # noqa: SIM905
# fmt: on
# What else a name cannot be here: macros of usual headers, and what generated code says itself.
_TAKEN = _KEYWORDS | {
    *("NULL", "EOF", "NAN", "INFINITY", "assert", "errno", "stdin", "stdout", "stderr"),
    *("major", "minor", "linux", "unix", "std", "arrow", "vineyard_arrow"),
    *("Get", "Read", "kKnown", "kName", "out", "read", "row"),
}


class Code(msgspec.Struct, frozen=True):
    """A field's type in C++, and the expression that makes its reader."""

    type: str
    reader: str


class NoCodeError(Exception):
    """What C++ has nothing for, and what to write instead."""

    def __init__(self, message: str, instead: str) -> None:
        super().__init__(message)
        self.message = message
        self.instead = instead


def identifier(name: str) -> str:
    """The name, or one like it where C++ has another use for it."""
    return f"{name}_" if name in _TAKEN else name


NUMBERS = frozenset(
    {"bool", "double", *(f"{u}int{n}_t" for u in ("", "u") for n in (8, 16, 32, 64))}
)
"""Types that have no value of their own until they are given one."""
_CLOCKS = {
    "date": "std::chrono::sys_days",
    "time": "std::chrono::microseconds",
    "timedelta": "std::chrono::microseconds",
    "datetime": "std::chrono::local_time<std::chrono::microseconds>",
}
_MOMENT = "std::chrono::sys_time<std::chrono::microseconds>"


def plain_code(type_: Plain) -> Code:
    """That of a plain value."""
    match type_.python:
        case "bool" | "float" | "int":
            cpp = {"bool": "bool", "float": "double"}.get(type_.python, f"{type_.arrow}_t")
            return Code(cpp, f"read::plain<{cpp}>()")
        case "str" | "bytes":
            return Code("std::string", "read::text()" if type_.python == "str" else "read::bytes()")
        case "datetime" if type_.arrow.tz is not None:
            return Code(_MOMENT, f"read::datetime({quoted(type_.arrow.tz)})")
    return Code(_CLOCKS[type_.python], f"read::{type_.python}()")


_UNITS = {
    "ns": "std::nano", "us": "std::micro", "ms": "std::milli", "s": "std::ratio<1>",
    "m": "std::ratio<60>", "h": "std::ratio<3600>", "D": "std::ratio<86400>",
}  # fmt: skip
_ELEMENTS = {
    "b1": "bool", "i1": "int8_t", "i2": "int16_t", "i4": "int32_t", "i8": "int64_t",
    "u1": "uint8_t", "u2": "uint16_t", "u4": "uint32_t", "u8": "uint64_t",
    "f2": "arrow::util::Float16", "f4": "float", "f8": "double",
    "c8": "std::complex<float>", "c16": "std::complex<double>",
}  # fmt: skip


def array_code(type_: NdArray) -> Code:
    """That of an array."""
    shape = ""
    if type_.shape is not None:
        lengths = ", ".join("read::any" if n is None else str(n) for n in type_.shape)
        shape = f"std::vector<int64_t>{{{lengths}}}"
    if type_.dtype is None:
        return Code("vineyard_arrow::AnyArray", f"read::any_array({shape})")
    dtype = np.dtype(type_.dtype)
    element = _ELEMENTS.get(dtype.str[1:])
    if dtype.kind in "mM":
        unit, count = np.datetime_data(dtype)
        if unit in _UNITS and count == 1:
            element = f"std::chrono::duration<int64_t, {_UNITS[unit]}>"
            element = f"std::chrono::sys_time<{element}>" if dtype.kind == "M" else element
    if element is None or not dtype.isnative:
        raise NoCodeError(
            f"C++ code has nothing for arrays of {dtype} ({dtype.str})",
            "leave the dtype out, or write one of numbers or times in the machine's own byte order",
        )
    return Code(f"vineyard_arrow::Array<{element}>", f"read::array<{element}>({shape})")


def frame_code(type_: Frame) -> Code:
    """That of a frame or a series."""
    if type_.library != "polars":
        instead = "pyarrow.Table" if type_.python == "DataFrame" else "pyarrow.ChunkedArray"
        raise NoCodeError(
            f"C++ code has nothing for {text_of(type_)}",
            f"write {instead}, or polars.{type_.python}",
        )
    if type_.python == "DataFrame":
        return Code("std::shared_ptr<arrow::Table>", "read::polars_frame()")
    return Code("std::shared_ptr<arrow::ChunkedArray>", "read::polars_series()")


def arrow_code(type_: Column | Rows) -> Code:
    """That of a value of pyarrow's."""
    try:
        return _arrow_code(type_)
    except UnknownTypeError as error:
        raise NoCodeError(f"C++ code has nothing for {error}", "leave the type out") from None


def _arrow_code(type_: Column | Rows) -> Code:
    if isinstance(type_, Rows):
        schema = "" if type_.schema is None else schema_code(type_.schema)
        reader = "table" if type_.python == "Table" else "record_batch"
        return Code(f"std::shared_ptr<arrow::{type_.python}>", f"read::{reader}({schema})")
    arrow = "" if type_.arrow is None else type_code(type_.arrow)
    if type_.python == "ChunkedArray":
        return Code("std::shared_ptr<arrow::ChunkedArray>", f"read::chunked_array({arrow})")
    if type_.arrow is None:
        return Code("std::shared_ptr<arrow::Array>", "read::column()")
    cls = f"arrow::{array_class(type_.arrow)}"
    return Code(f"std::shared_ptr<{cls}>", f"read::column<{cls}>({arrow})")


# ---- values


def integer(value: int) -> str:
    """An integer as a literal."""
    if value == -(1 << 63):
        return "INT64_MIN"  # its literal would be the negation of one that is too large
    return f"{value}u" if value >= 1 << 63 else str(value)


def literal(type_: Plain, value: Any) -> str:
    """A plain value as an initialiser."""
    kind = type_.python
    if kind == "bool" and isinstance(value, bool):
        return "true" if value else "false"
    if kind == "int" and type(value) is int and _fits(value, type_.arrow):
        return integer(value)
    if kind == "float" and type(value) in (int, float):
        if math.isfinite(value):
            return repr(float(value))
        limits = "std::numeric_limits<double>"
        if math.isnan(value):
            return f"{limits}::quiet_NaN()"
        return f"{'-' if value < 0 else ''}{limits}::infinity()"
    if kind in ("str", "bytes") and isinstance(value, (str, bytes)):
        try:
            data = value.encode() if isinstance(value, str) else value
        except UnicodeEncodeError:
            raise NoCodeError(f"the default {value!r} is not valid Unicode", "mend it") from None
        return f"std::string({quoted(data)}, {len(data)})" if b"\0" in data else quoted(data)
    if kind in _CLOCKS and isinstance(value, (dt.date, dt.time, dt.timedelta)):
        return _clock(type_, value)
    raise NoCodeError(f"the default {value!r} is no {text_of(type_)}", "give it one that is")


def _fits(value: int, arrow: pa.DataType) -> bool:
    try:
        return pa.scalar(value, arrow) is not None
    except (pa.ArrowInvalid, OverflowError):
        return False


def _clock(type_: Plain, value: Any) -> str:
    count = pa.scalar(value, type_.arrow).value
    cpp = plain_code(type_).type
    if type_.python == "date":
        return f"{cpp}(std::chrono::days({count}))"
    if type_.python == "datetime":
        return f"{cpp}(std::chrono::microseconds({count}))"
    return f"{cpp}({count})"
