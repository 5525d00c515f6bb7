"""Python: the same shared classes in a module that needs nothing of the original's.

It has the fields, defaults, options, docstrings and enumerations, not the methods. It is
formatted as ruff would, for lines of 88 columns and more.
"""

from __future__ import annotations

import datetime as dt
import enum
import math
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from .model import (
    USUAL,
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
    Ref,
    Rows,
    Sequence,
    Tuple,
    Type,
)

__all__ = ["generate"]

WIDTH = 88
_CLOCK = (dt.date, dt.time, dt.timedelta)  # a datetime is a date
_CLOCK_NAMES = ("date", "time", "timedelta", "datetime")

_HEAD = '''\
"""Shared classes, generated from {name} by vineyard-arrow codegen."""

from __future__ import annotations
'''


class Call(msgspec.Struct, frozen=True):
    """``head(a, b)``, or with other brackets: on one line, or an argument a line."""

    head: str
    arguments: tuple[Code, ...]
    brackets: str = "()"
    always: bool = False  # an argument a line

    def __str__(self) -> str:
        return (
            f"{self.head}{self.brackets[0]}{', '.join(map(str, self.arguments))}{self.brackets[1]}"
        )


class Either(msgspec.Struct, frozen=True):
    """``code | more``."""

    code: Code
    more: str

    def __str__(self) -> str:
        return f"{self.code} | {self.more}"


Code = str | Call | Either


def layout(code: Code, indent: int = 0, before: int = 0, after: int = 0) -> str:
    """The text of an expression, broken where it is too long for a line.

    ``before`` and ``after`` are the columns that stand on its line besides.
    """
    flat = str(code)
    if not isinstance(code, Call) or not code.arguments:
        return flat
    if before + len(flat) + after <= WIDTH and not code.always:
        return flat
    inner = " " * (indent + 4)
    lines = [layout(each, indent + 4, indent + 4, 1) for each in code.arguments]
    # A comma would make a tuple of the only thing in a subscript.
    comma = "" if code.brackets == "[]" and code.head and len(lines) == 1 else ","
    body = "".join(f"{inner}{line}{comma}\n" for line in lines)
    return f"{code.head}{code.brackets[0]}\n{body}{' ' * indent}{code.brackets[1]}"


def generate(file: File) -> str:
    """The text of the module; see `languages.Backend`."""
    writer = _Writer()
    body = [*map(writer.choice, file.choices()), *map(writer.declaration, file.classes)]
    name = file.path.replace("\\", "/").rpartition("/")[2]
    # Constants stand before the classes, whose annotations name them.
    constants = "\n".join(writer.constants)
    code = "\n\n\n".join(filter(None, [constants, *body]))
    gap = "" if constants else "\n"
    return "\n".join([_HEAD.format(name=name), *_imports(writer.uses), f"{gap}\n{code}", ""])


def _imports(uses: set[str]) -> Iterator[str]:
    yield from (f"import {name}" for name in ("datetime", "enum") if name in uses)
    yield f"from dataclasses import dataclass{', field' if 'field' in uses else ''}"
    if "Annotated" in uses:
        yield "from typing import Annotated"
    yield ""
    yield from (f"import {name} as {short}" for short, name in _LIBRARIES if short in uses)
    yield "import vineyard_arrow"
    if "NDArray" in uses:
        yield "from numpy.typing import NDArray"
    if "ObjectID" in uses:
        yield "from vineyard_arrow import ObjectID"


_LIBRARIES = (("np", "numpy"), ("pd", "pandas"), ("pl", "polars"), ("pa", "pyarrow"))


class _Writer:
    """Writes declarations; keeps the constants they name, and what is to be imported."""

    def __init__(self) -> None:
        self.constants: list[str] = []
        self.uses: set[str] = set()
        self._names: dict[str, str] = {}  # of constants, by their text

    def _constant(self, name: str, code: Code) -> str:
        text = str(code)
        if text not in self._names:
            unique, n = name, 1
            while unique in self._names.values():
                n += 1
                unique = f"{name}_{n}"
            self._names[text] = unique
            self.constants.append(f"{unique} = {layout(code, 0, len(unique) + 3)}")
        return self._names[text]

    # ---- declarations

    def choice(self, choice: Choice) -> str:
        """The declaration of an enumeration."""
        self.uses.add("enum")
        lines = [f"class {choice.name}(enum.{choice.base}):"]
        lines += [f"    {name} = {_literal(value)}" for name, value in choice.members]
        return "\n".join(lines)

    def declaration(self, made: Class) -> str:
        """The declaration of a class."""
        shared = Call(
            "@vineyard_arrow.shared",
            (f"typename={_literal(made.typename)}", f"version={made.version}"),
        )
        options = tuple(f"{name}={value}" for name, value in made.options.items())
        head = [
            layout(shared),
            layout(Call("@dataclass", options)) if options else "@dataclass",
            f"class {made.name}({made.base}):" if made.base else f"class {made.name}:",
        ]
        kw_only = made.options.get("kw_only", False)
        fields = [self._field(made, field, kw_only) for field in made.fields if field.own]
        doc = _docstring(made.doc)
        body = ([doc] if doc else []) + ([""] if doc and fields else []) + fields
        return "\n".join([*head, *(body or ["    pass"])])

    def _field(self, made: Class, field: Field, all_kw_only: bool) -> str:
        name = f"{made.name}_{field.name}".upper()
        default = _default(field, all_kw_only)
        after = "" if default is None else f" = {default}"
        values = field.default if isinstance(field.default, tuple) else (field.default,)
        if any(isinstance(value, _CLOCK) for value in values):
            self.uses.add("datetime")
        if isinstance(default, Call):
            self.uses.add("field")
        for aside in (False, True):
            annotation = self._type(field.type, name, aside)
            start = f"    {field.name}: "
            if len(start) + len(str(annotation)) + len(after) <= WIDTH:
                return f"{start}{annotation}{after}"
        if isinstance(default, Call) and len(start) + len(str(annotation)) + 9 <= WIDTH:
            start = f"{start}{annotation} = "
            return start + layout(default, 4, len(start))
        return f"{start}{layout(annotation, 4, len(start), len(after))}{after}"

    # ---- types

    def _type(self, type_: Type, name: str, aside: bool) -> Code:
        """An annotation; with ``aside``, what is ``Annotated`` in it becomes a constant."""
        match type_:
            case Maybe():
                return Either(self._type(type_.item, name, aside), "None")
            case Sequence():
                item = self._type(type_.item, name, aside)
                arguments = (item,) if type_.python == "list" else (item, "...")
                return Call(type_.python, arguments, "[]")
            case Mapping():
                return Call("dict", ("str", self._type(type_.value, name, aside)), "[]")
            case Tuple():
                items = tuple(self._type(item, name, aside) for item in type_.items)
                return Call("tuple", items or ("()",), "[]")
            case Choice():
                return type_.name
            case Frame():
                library = "pl" if type_.library == "polars" else "pd"
                self.uses.add(library)
                return f"{library}.{type_.python}"
            case Ref():
                if not type_.or_id:
                    return type_.name
                self.uses.add("ObjectID")
                return Either(type_.name, "ObjectID")
        code = self._leaf(type_, name)
        return self._constant(name, code) if aside and isinstance(code, Call) else code

    def _leaf(self, type_: Plain | NdArray | Column | Rows, name: str) -> Code:
        base: Code
        details: list[Code] = []
        match type_:
            case Plain():
                base = type_.python
                if type_.python in _CLOCK_NAMES:
                    self.uses.add("datetime")
                    base = f"datetime.{base}"
                if type_.arrow != USUAL[type_.python]:
                    self.uses.add("pa")
                    details.append(_arrow(type_.arrow))
            case Column():
                self.uses.add("pa")
                base = f"pa.{type_.python}"
                if type_.arrow is not None:
                    details.append(_arrow(type_.arrow))
            case Rows():
                self.uses.add("pa")
                base = f"pa.{type_.python}"
                if type_.schema is not None:
                    fields = tuple(_arrow_field(field) for field in type_.schema)
                    columns = Call("", fields, "[]", always=True)
                    schema = Call("pa.schema", (columns,), always=True)
                    details.append(self._constant(name, schema))
            case NdArray():
                base, details = _array(type_)
                self.uses |= {"np", "NDArray"} if isinstance(base, Call) else {"np"}
        if not details:
            return base
        self.uses.add("Annotated")
        return Call("Annotated", (base, *details), "[]")


def _array(type_: NdArray) -> tuple[Code, list[Code]]:
    base: Code = "np.ndarray"
    details: list[Code] = []
    if type_.dtype is not None:
        dtype = np.dtype(type_.dtype)
        if dtype.kind in "biufc" and dtype.isnative:
            name = "bool_" if dtype.kind == "b" else dtype.name
            base = Call("NDArray", (f"np.{name}",), "[]")
        else:
            details.append(f"np.dtype({_literal(type_.dtype)})")
    if type_.shape is not None:
        details.append(repr(type_.shape))
    return base, details


# ---- Arrow's types

_SIMPLE = {
    getattr(pa, name)(): f"pa.{name}()"
    for name in (
        *("null", "bool_", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"),
        *("uint64", "float16", "float32", "float64", "date32", "date64", "string", "binary"),
        *("large_string", "large_binary", "string_view", "binary_view"),
        "month_day_nano_interval",
    )
}


def _arrow(type_: pa.DataType) -> Code:
    """The expression that makes a type."""
    t = pa.types
    if type_ in _SIMPLE:
        return _SIMPLE[type_]
    if t.is_timestamp(type_):
        zone = (f"tz={_literal(type_.tz)}",) if type_.tz else ()
        return Call("pa.timestamp", (f'"{type_.unit}"', *zone))
    if t.is_time(type_) or t.is_duration(type_):
        kind = "duration" if t.is_duration(type_) else f"time{type_.bit_width}"
        return f'pa.{kind}("{type_.unit}")'
    if t.is_fixed_size_binary(type_) and not t.is_decimal(type_):
        return f"pa.binary({type_.byte_width})"
    if t.is_decimal(type_):
        return f"pa.decimal{type_.bit_width}({type_.precision}, {type_.scale})"
    if t.is_dictionary(type_):
        ordered = ("ordered=True",) if type_.ordered else ()
        return Call("pa.dictionary", (_arrow(type_.index_type), _arrow(type_.value_type), *ordered))
    if t.is_struct(type_):
        return Call("pa.struct", (Call("", tuple(map(_arrow_field, type_)), "[]"),))
    if t.is_map(type_):
        return Call("pa.map_", (_arrow(type_.key_type), _item(type_.item_field, "value")))
    if t.is_fixed_size_list(type_):
        return Call("pa.list_", (_item(type_.value_field, "item"), str(type_.list_size)))
    for name in ("list", "large_list", "list_view", "large_list_view"):
        if getattr(t, f"is_{name}")(type_):
            name = "list_" if name == "list" else name
            return Call(f"pa.{name}", (_item(type_.value_field, "item"),))
    raise AssertionError(f"no annotation of a file is of {type_}")


def _item(field: pa.Field, usual: str) -> Code:
    plain = field.name == usual and field.nullable
    return _arrow(field.type) if plain else _arrow_field(field)


def _arrow_field(field: pa.Field) -> Call:
    nullable = () if field.nullable else ("nullable=False",)
    return Call("pa.field", (_literal(field.name), _arrow(field.type), *nullable))


# ---- values


def _default(field: Field, all_kw_only: bool) -> Code | None:
    arguments: list[Code] = []
    if isinstance(field.default, Factory):
        arguments.append(f"default_factory={field.default.name}")
    elif not field.required:
        arguments.append(f"default={_literal(field.default)}")
    bare = arguments and not isinstance(field.default, Factory)
    if field.renamed_from:
        arguments.append(f'metadata={{"renamed_from": {_literal(field.renamed_from)}}}')
        bare = False
    if field.kw_only and not all_kw_only:
        arguments.append("kw_only=True")
        bare = False
    if bare:
        return _literal(field.default)
    return Call("field", tuple(arguments)) if arguments else None


def _literal(value: Any) -> str:
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, tuple):
        items = ", ".join(map(_literal, value))
        return f"({items},)" if len(value) == 1 else f"({items})"
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if isinstance(value, (str, bytes)):
        return _quoted(value)
    return repr(value)  # also of dates and times: datetime.date(2026, 1, 31)


def _quoted(value: str | bytes) -> str:
    text = repr(value)
    start = text.index(text[-1])
    if text[-1] == "'" and '"' not in text:
        return f'{text[:start]}"{text[start + 1 : -1]}"'
    return text


def _docstring(doc: str) -> str:
    if not doc:
        return ""
    escaped = doc.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    if escaped.endswith('"'):
        escaped = escaped[:-1] + '\\"'
    lines = [line.rstrip() for line in escaped.splitlines()]
    first, *others = lines
    indented = [f"    {line}" if line else "" for line in others]
    text = "\n".join([f'    """{first}', *indented])
    return f'{text}\n    """' if others else f'{text}"""'
