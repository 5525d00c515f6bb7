"""C++: a header with a struct for each class, read by ``vineyard_arrow/shared.h``.

A struct has the class's fields, those of its bases included, and reads objects by the rule
that Python has. Writing objects stays with Python.
"""

from __future__ import annotations

import datetime as dt
import enum
import math
import re
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from .cpp_arrow import UnknownTypeError, array_class, quoted, schema_code, type_code
from .model import (
    Choice,
    Class,
    Column,
    Factory,
    Field,
    File,
    Frame,
    Mapping,
    Maybe,
    NdArray,
    Plain,
    Problem,
    Ref,
    Rows,
    Sequence,
    Tuple,
    Type,
    refusal,
    text_of,
    walk,
)

__all__ = ["generate"]

_HEAD = """\
// Shared classes of {name}, to be read from C++. Written by vineyard-arrow codegen: change that
// file, not this one. Build it as docs/cpp.md says.
#pragma once

#include <vineyard_arrow/shared.h>

namespace {namespace} {{
"""

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


class Unsupported(Exception):
    """What C++ has nothing for, and what to write instead."""

    def __init__(self, message: str, instead: str) -> None:
        super().__init__(message)
        self.message = message
        self.instead = instead


def generate(file: File) -> str:
    """The text of the header; see `languages.Backend`."""
    writer = _Writer(file)
    body = list(writer.body())
    if writer.problems:
        raise refusal(writer.problems)
    name = file.path.replace("\\", "/").rpartition("/")[2]
    namespace = _identifier(re.sub(r"\W", "_", name.removesuffix(".py")).lstrip("_0123456789"))
    head = _HEAD.format(name=name, namespace=namespace or "shared")
    return "\n".join([head, *body, f"}}  // namespace {namespace or 'shared'}", ""])


def _identifier(name: str) -> str:
    return f"{name}_" if name in _TAKEN else name


class _Writer:
    def __init__(self, file: File) -> None:
        self.problems: list[Problem] = []
        self._file = file
        self._classes = {made.name: made for made in file.classes}
        self._types = {*self._classes, *(choice.name for choice in file.choices())}
        self._refers = {made.name: _refers(made, self._classes) for made in file.classes}

    def body(self) -> Iterator[str]:
        """The lines between the braces of the namespace."""
        names = [name for name in self._classes if self._is_circular(name)]
        yield from (f"struct {_identifier(name)};" for name in names)
        if names:
            yield ""
        for choice in self._file.choices():
            yield from self._choice(choice)
        for made in self._ordered():
            yield from self._struct(made)
        for made in self._file.classes:
            yield from self._reader(made)

    # ---- order

    def _reaches(self, name: str, wanted: str) -> bool:
        seen: set[str] = set()
        pending = [*self._refers[name]]
        while pending:
            found = pending.pop()
            if found == wanted:
                return True
            if found not in seen:
                seen.add(found)
                pending += self._refers[found]
        return False

    def _is_circular(self, name: str) -> bool:
        return self._reaches(name, name)

    def _ordered(self) -> list[Class]:
        """The classes, each after those that it has objects of (but for circles)."""
        done: dict[str, Class] = {}

        def add(name: str, above: tuple[str, ...]) -> None:
            if name in done or name in above:
                return
            for other in sorted(self._refers[name], key=list(self._classes).index):
                add(other, (*above, name))
            done[name] = self._classes[name]

        for name in self._classes:
            add(name, ())
        return list(done.values())

    # ---- declarations

    def _choice(self, choice: Choice) -> Iterator[str]:
        name = _identifier(choice.name)
        numbers = [value for _, value in choice.members if isinstance(value, int)]
        numbered = bool(numbers) and all(-(1 << 63) <= n < 1 << 63 for n in numbers)
        yield f"enum class {name}{' : int64_t' if numbered else ''} {{"
        for member, value in choice.members:
            given = f" = {_integer(value)}" if numbered and isinstance(value, int) else ""
            comment = "" if given else f"  // {value!r}"
            yield f"  {_identifier(member)}{given},{comment}"
        yield "};"
        yield f"constexpr std::pair<std::string_view, {name}> {_names_of(choice)}[] = {{"
        for member, _ in choice.members:
            yield f"    {{{quoted(member)}, {name}::{_identifier(member)}}},"
        yield from ("};", "")

    def _struct(self, made: Class) -> Iterator[str]:
        name = _identifier(made.name)
        yield from map(_comment, made.doc.splitlines())
        yield f"struct {name} {{"
        names: dict[str, str] = {}
        for field in made.fields:
            own = self._field_name(field)
            if own in names:
                self._problem(
                    field,
                    f"{made.name}.{field.name} and {names[own]} are one name in C++",
                    "call one otherwise",
                )
            names[own] = field.name
            try:
                code = self._code(field.type)
                default = "" if field.required else f" = {self._default(field.type, field.default)}"
            except Unsupported as error:
                self._problem(field, f"{made.name}.{field.name}: {error.message}", error.instead)
                continue
            simple = code.type in _NUMBERS or isinstance(field.type, (Plain, Choice))
            initial = default or ("{}" if simple and code.type != "std::string" else "")
            line, comment = f"  {code.type} {own}{initial};", _comment(text_of(field.type))
            yield from (
                [f"{line}  {comment}"] if len(line) + len(comment) < 99 else [f"  {comment}", line]
            )
        yield from (
            "",
            "  // By an id, a printed id, or a name.",
            "  template <typename Key>",
            f"  static arrow::Result<{name}> Get(const vineyard_arrow::Client& client, "
            "const Key& key) {",
            f"    return vineyard_arrow::get_shared<{name}>(client, key);",
            "  }",
            "",
            f"  static constexpr const char* kName = {quoted(made.name)};",
            "  static constexpr vineyard_arrow::read::Known kKnown[] = {",
        )
        for each in self._file.classes:
            if self._is_derived(each, made.name):
                yield f"      {{{quoted(each.typename)}, {each.version}}},"
        yield from (
            "  };",
            f"  static {name} Read(const vineyard_arrow::read::Row& row);",
            "};",
            "",
        )

    def _is_derived(self, made: Class, base: str) -> bool:
        name: str | None = made.name
        while name is not None:
            if name == base:
                return True
            name = self._classes[name].base if name in self._classes else None
        return False

    def _reader(self, made: Class) -> Iterator[str]:
        name = _identifier(made.name)
        yield f"inline {name} {name}::Read(const vineyard_arrow::read::Row& row) {{"
        yield "  namespace read = vineyard_arrow::read;"
        yield f"  {name} out;"
        for field in made.fields:
            try:
                code = self._code(field.type)
            except Unsupported:
                continue
            names = ", ".join(map(quoted, (field.name, *field.renamed_from)))
            kind = "required" if field.required else "optional"
            start = f"  row.{kind}({{{names}}}, {quoted(text_of(field.type))}, "
            end = f"{code.reader}, &out.{self._field_name(field)});"
            yield from (
                [start + end]
                if len(start + end) <= 100
                else [start.rstrip(), f"               {end}"]
            )
        yield from ("  return out;", "}", "")

    def _field_name(self, field: Field) -> str:
        # A member that is called like a type would change what the type's name means.
        return f"{field.name}_" if field.name in self._types else _identifier(field.name)

    def _problem(self, field: Field, message: str, instead: str) -> None:
        self.problems.append(Problem(self._file.path, field.line or 1, message, instead))

    # ---- types

    def _code(self, type_: Type) -> Code:
        match type_:
            case Plain():
                return _plain_code(type_)
            case Choice():
                if not type_.members:
                    raise Unsupported(f"{type_.name} has no members", "give it some")
                return Code(_identifier(type_.name), f"read::choice({_names_of(type_)})")
            case Maybe():
                item = self._code(type_.item)
                pointer = item.type.startswith("std::shared_ptr<")
                cpp = item.type if pointer else f"std::optional<{item.type}>"
                return Code(cpp, f"read::maybe({item.reader})")
            case Sequence():
                item = self._code(type_.item)
                return Code(f"std::vector<{item.type}>", f"read::list({item.reader})")
            case Mapping():
                item = self._code(type_.value)
                return Code(f"std::map<std::string, {item.type}>", f"read::map({item.reader})")
            case Tuple():
                items = [self._code(item) for item in type_.items]
                types = ", ".join(item.type for item in items)
                readers = ", ".join(item.reader for item in items)
                return Code(f"std::tuple<{types}>", f"read::tuple({readers})")
            case NdArray():
                return _array_code(type_)
            case Ref():
                return self._ref_code(type_)
            case Frame():
                return _frame_code(type_)
        try:
            return _arrow_code(type_)
        except UnknownTypeError as error:
            raise Unsupported(f"C++ code has nothing for {error}", "leave the type out") from None

    def _ref_code(self, type_: Ref) -> Code:
        name = _identifier(type_.name)
        if self._is_circular(type_.name):
            return Code(f"std::shared_ptr<const {name}>", f"read::pointer<{name}>()")
        return Code(name, f"read::ref<{name}>()")

    def _default(self, type_: Type, value: Any) -> str:
        """The initialiser that is a field's default."""
        if isinstance(value, Factory) or value is None:
            return "{}"
        match type_:
            case Maybe():
                return self._default(type_.item, value)
            case Choice() if isinstance(value, enum.Enum):
                return f"{_identifier(type_.name)}::{_identifier(value.name)}"
            case Plain():
                return _literal(type_, value)
            case Sequence() if isinstance(value, tuple):
                items = [self._default(type_.item, item) for item in value]
                return f"{self._code(type_).type}{{{', '.join(items)}}}"
            case Tuple() if isinstance(value, tuple) and len(value) == len(type_.items):
                pairs = zip(type_.items, value, strict=True)
                items = [self._default(item, each) for item, each in pairs]
                return f"{self._code(type_).type}{{{', '.join(items)}}}"
        raise Unsupported(f"the default {value!r} is none of its type", "give it another")


def _refers(made: Class, classes: dict[str, Class]) -> set[str]:
    types = (t for field in made.fields for t in walk(field.type))
    return {t.name for t in types if isinstance(t, Ref) and t.name in classes}


def _comment(text: str) -> str:
    line = " ".join(f"// {text}".split("\n")).rstrip()
    return f"{line}." if line.endswith("\\") else line  # else the next line were one too


def _names_of(choice: Choice) -> str:
    return f"k{choice.name}Names"


# ---- leaves

_NUMBERS = frozenset(
    {"bool", "double", *(f"{u}int{n}_t" for u in ("", "u") for n in (8, 16, 32, 64))}
)
_CLOCKS = {
    "date": "std::chrono::sys_days",
    "time": "std::chrono::microseconds",
    "timedelta": "std::chrono::microseconds",
    "datetime": "std::chrono::local_time<std::chrono::microseconds>",
}
_MOMENT = "std::chrono::sys_time<std::chrono::microseconds>"


def _plain_code(type_: Plain) -> Code:
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


def _array_code(type_: NdArray) -> Code:
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
        raise Unsupported(
            f"C++ code has nothing for arrays of {dtype} ({dtype.str})",
            "leave the dtype out, or write one of numbers or times in the machine's own byte order",
        )
    return Code(f"vineyard_arrow::Array<{element}>", f"read::array<{element}>({shape})")


def _frame_code(type_: Frame) -> Code:
    if type_.library != "polars":
        instead = "pyarrow.Table" if type_.python == "DataFrame" else "pyarrow.ChunkedArray"
        raise Unsupported(
            f"C++ code has nothing for {text_of(type_)}",
            f"write {instead}, or polars.{type_.python}",
        )
    if type_.python == "DataFrame":
        return Code("std::shared_ptr<arrow::Table>", "read::polars_frame()")
    return Code("std::shared_ptr<arrow::ChunkedArray>", "read::polars_series()")


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


def _integer(value: int) -> str:
    if value == -(1 << 63):
        return "INT64_MIN"  # its literal would be the negation of one that is too large
    return f"{value}u" if value >= 1 << 63 else str(value)


def _literal(type_: Plain, value: Any) -> str:
    """A plain value as an initialiser."""
    kind = type_.python
    if kind == "bool" and isinstance(value, bool):
        return "true" if value else "false"
    if kind == "int" and type(value) is int:
        return _integer(value)
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
            raise Unsupported(f"the default {value!r} is not valid Unicode", "mend it") from None
        return f"std::string({quoted(data)}, {len(data)})" if b"\0" in data else quoted(data)
    if kind in _CLOCKS and isinstance(value, (dt.date, dt.time, dt.timedelta)):
        return _clock(type_, value)
    raise Unsupported(f"the default {value!r} is no {kind}", "give it another")


def _clock(type_: Plain, value: Any) -> str:
    count = pa.scalar(value, type_.arrow).value
    cpp = _plain_code(type_).type
    if type_.python == "date":
        return f"{cpp}(std::chrono::days({count}))"
    if type_.python == "datetime":
        return f"{cpp}(std::chrono::microseconds({count}))"
    return f"{cpp}({count})"
