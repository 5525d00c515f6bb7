"""What a shared class is made of: the one description that stores, reads and generates code.

Made of a class by `hints`, of a file's text by `source`. Knows Arrow's types, no values.

Stored layout
-------------
An object of a shared class is a stored object of several parts. The root is a part of
``vineyard.type`` = the class's typename and ``vineyard.params`` = ``{}``, with one batch of
one row and one column ``object``, not null, of Arrow's extension type named by the typename:

- its storage is a struct with a field for each field of the class, in order, by its name;
- its metadata (``ARROW:extension:metadata``) is JSON, ``{"typename": ..., "version": ...,
  "fields": {name: declared}}``: the version it was written with, and each field's type as
  its writer declared it, for people to read (`text_of`).

The struct's fields have these types. A field is nullable if it is declared ``| None``.

=======================  ==================================================================
declared                 Arrow type
=======================  ==================================================================
bool, int, float         bool, int64 (or as annotated: int8 to uint64), double
str, bytes               string, binary
date, time, timedelta    date32, time64[us], duration[us]
datetime                 timestamp[us], without a zone (or as annotated: with one)
an Enum                  string: the member's name
tuple[A, B]              struct<"0": A, "1": B>
list[T], tuple[T, ...]   list<item: T>
dict[str, T]             map<string, value: T>
everything else          struct<part: uint32>: index of the part of the same object that
                         holds it
=======================  ==================================================================

Those parts are stored as such values are anywhere:

=======================  ==================================================================
declared                 typename of the part: its columns, its params
=======================  ==================================================================
numpy.ndarray            vineyard.tensor: the elements in one column, in one batch;
                         ``shape``, ``dtype`` (numpy.dtype.str), ``order`` (C or F)
pyarrow.Array            vineyard.array: one column ``data``, one batch
pyarrow.ChunkedArray     vineyard.chunked_array: one column ``data``, a batch for each chunk
pyarrow.Table            vineyard.table: its columns
pyarrow.RecordBatch      vineyard.record_batch: its columns, one batch
polars, pandas           vineyard.polars.frame, .series, vineyard.pandas.dataframe, .series
another shared class     that class's typename (or of a subclass): a root as above, whose
                         indices are also of the one list of parts of the stored object
the same, by ObjectID    vineyard.shared.member: no columns; ``member``, the name of the
                         member of the stored object that it is
=======================  ==================================================================

A part comes after the one that refers to it. Whoever does not know the extension type, or
none of this, still sees the struct and its columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import pyarrow as pa

from ..errors import AnnotationError

__all__ = [
    "PART",
    "USUAL",
    "AnnotationError",
    "Choice",
    "Class",
    "Column",
    "Factory",
    "Field",
    "File",
    "Frame",
    "Mapping",
    "Maybe",
    "NdArray",
    "Plain",
    "Problem",
    "Ref",
    "Rows",
    "Sequence",
    "Tuple",
    "Type",
    "refusal",
    "storage_of",
    "struct_of",
    "text_of",
    "walk",
]

PART = pa.struct([pa.field("part", pa.uint32(), nullable=False)])
"""Type of a field whose value is a part of its own: the part's index."""


class Plain(msgspec.Struct, frozen=True):
    """A value of one cell, by the name of its Python type (``"int"``) and its Arrow type."""

    python: str
    arrow: pa.DataType


class Choice(msgspec.Struct, frozen=True):
    """A member of an enumeration: its name, its base's (``"Enum"``), its members in order.

    ``cls`` is the enumeration itself; that of a file which was not imported is a stand-in.
    """

    name: str
    base: str
    members: tuple[tuple[str, int | str], ...]
    cls: Any = None


class Tuple(msgspec.Struct, frozen=True):
    """``tuple[A, B]``: as many items, each of its own type."""

    items: tuple[Type, ...]


class Sequence(msgspec.Struct, frozen=True):
    """``list[T]``, or ``tuple[T, ...]``, which is stored alike."""

    item: Type
    python: str = "list"


class Mapping(msgspec.Struct, frozen=True):
    """``dict[str, T]``."""

    value: Type


class Maybe(msgspec.Struct, frozen=True):
    """``T | None``."""

    item: Type


class NdArray(msgspec.Struct, frozen=True):
    """``numpy.ndarray``; None: any dtype (`numpy.dtype.str`), any shape, any length there."""

    dtype: str | None = None
    shape: tuple[int | None, ...] | None = None


class Column(msgspec.Struct, frozen=True):
    """``pyarrow.Array`` or ``ChunkedArray`` (``python`` is the name); None: of any type."""

    python: str
    arrow: pa.DataType | None = None


class Rows(msgspec.Struct, frozen=True):
    """``pyarrow.Table`` or ``RecordBatch`` (``python`` is the name); None: of any schema."""

    python: str
    schema: pa.Schema | None = None


class Frame(msgspec.Struct, frozen=True):
    """``DataFrame`` or ``Series`` (``python``) of polars or pandas (``library``)."""

    library: str
    python: str


class Ref(msgspec.Struct, frozen=True):
    """Another shared class, by typename and the class's own name.

    ``or_id``: ``T | ObjectID``, so a stored object may be given, to become a member.
    """

    typename: str
    name: str
    or_id: bool = False


Type = Plain | Choice | Tuple | Sequence | Mapping | Maybe | NdArray | Column | Rows | Frame | Ref


class Factory(msgspec.Struct, frozen=True):
    """A default that is made anew: ``list``, ``dict`` or ``tuple``, empty."""

    name: str


class Field(msgspec.Struct, frozen=True):
    """One field of a shared class.

    Parameters
    ----------
    name : str
    type : Type
    required : bool
        Whether it has no default, so that objects without it cannot be read.
    default : object
        A plain value, an enum's member, None, or a `Factory`; of no meaning if required, and
        not known of live classes, which know it themselves.
    renamed_from : tuple of str
        Names that it had in earlier versions, the latest first.
    kw_only : bool
    own : bool
        Whether it is the class's own, not that of a shared base.
    line : int
        Where it is declared, in a file's class; 0 in a live one.
    """

    name: str
    type: Type
    required: bool = True
    default: Any = None
    renamed_from: tuple[str, ...] = ()
    kw_only: bool = False
    own: bool = True
    line: int = 0


class Class(msgspec.Struct, frozen=True):
    """A shared class: its fields in order, those of its bases included.

    ``base`` is the name of the shared class it is derived from, ``options`` are the arguments
    of ``@dataclass``; both, and ``doc`` and ``line``, matter to generated code alone.
    """

    name: str
    typename: str
    version: int
    fields: tuple[Field, ...]
    base: str | None = None
    options: dict[str, bool] = {}
    doc: str = ""
    line: int = 0


class File(msgspec.Struct, frozen=True):
    """What a file declares: classes in an order in which each comes after its base.

    A class may be referred to before it is declared, by others or by itself. ``path`` is the
    file's, as it was given.
    """

    path: str
    classes: tuple[Class, ...]

    def choices(self) -> tuple[Choice, ...]:
        """The enumerations that fields have, each once, as they turn up."""
        types = (t for c in self.classes for f in c.fields for t in walk(f.type))
        return tuple(dict.fromkeys(t for t in types if isinstance(t, Choice)))


class Problem(msgspec.Struct, frozen=True):
    """Something in a file that no code can be generated from, and what to write instead."""

    file: str
    line: int
    message: str
    instead: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}; {self.instead}"


def refusal(problems: Iterable[Problem]) -> AnnotationError:
    """The error that lists all problems of a file, in the order of its lines."""
    lines = [str(problem) for problem in sorted(problems, key=lambda p: (p.file, p.line))]
    return AnnotationError("\n".join(["no code can be generated:", *lines]))


def storage_of(type_: Type) -> pa.DataType:
    """The Arrow type of a field's values in the struct; see the module's docstring."""
    match type_:
        case Plain():
            return type_.arrow
        case Choice():
            return pa.string()
        case Maybe():
            return storage_of(type_.item)
        case Tuple():
            return pa.struct([_field(str(i), item) for i, item in enumerate(type_.items)])
        case Sequence():
            return pa.list_(_field("item", type_.item))
        case Mapping():
            return pa.map_(pa.string(), _field("value", type_.value))
    return PART


def struct_of(fields: tuple[Field, ...]) -> pa.DataType:
    """The struct that objects of a class are stored as."""
    return pa.struct([_field(field.name, field.type) for field in fields])


def _field(name: str, type_: Type) -> pa.Field:
    return pa.field(name, storage_of(type_), nullable=isinstance(type_, Maybe))


def text_of(type_: Type) -> str:
    """The type in words, much as it would be written in Python.

    Examples
    --------
    >>> text_of(Sequence(Maybe(NdArray("<f8", (None, 3)))))
    'list[ndarray[float64, (None, 3)] | None]'
    """
    match type_:
        case Plain():
            usual = USUAL.get(type_.python) == type_.arrow
            return type_.python if usual else f"{type_.python}[{type_.arrow}]"
        case Choice():
            return f"{type_.name}[{', '.join(name for name, _ in type_.members)}]"
        case Maybe():
            return f"{text_of(type_.item)} | None"
        case Tuple():
            return f"tuple[{', '.join(map(text_of, type_.items))}]"
        case Sequence():
            item = text_of(type_.item)
            return f"list[{item}]" if type_.python == "list" else f"tuple[{item}, ...]"
        case Mapping():
            return f"dict[str, {text_of(type_.value)}]"
        case NdArray():
            return "ndarray" + _arguments(
                type_.dtype and _dtype_text(type_.dtype),
                None if type_.shape is None else repr(type_.shape),
            )
        case Column():
            return f"pyarrow.{type_.python}" + _arguments(type_.arrow and str(type_.arrow))
        case Rows():
            return f"pyarrow.{type_.python}" + _arguments(type_.schema and _columns(type_.schema))
        case Frame():
            return f"{type_.library}.{type_.python}"
        case Ref():
            return type_.typename + (" | ObjectID" if type_.or_id else "")


USUAL = {
    "bool": pa.bool_(),
    "int": pa.int64(),
    "float": pa.float64(),
    "str": pa.string(),
    "bytes": pa.binary(),
    "date": pa.date32(),
    "time": pa.time64("us"),
    "timedelta": pa.duration("us"),
    "datetime": pa.timestamp("us"),
}
"""The Arrow types of plain values that are not annotated further."""

_MAX_COLUMNS = 8  # that a text spells out


def _columns(schema: pa.Schema) -> str:
    if len(schema) > _MAX_COLUMNS:
        return f"{len(schema)} columns"
    return ", ".join(f"{field.name}: {field.type}" for field in schema)


def _arguments(*arguments: str | None) -> str:
    given = [argument for argument in arguments if argument]
    return f"[{', '.join(given)}]" if given else ""


def _dtype_text(dtype: str) -> str:
    import numpy as np

    return str(np.dtype(dtype))


def walk(type_: Type) -> Iterator[Type]:
    """The type and all types in it."""
    yield type_
    match type_:
        case Maybe() | Sequence():
            yield from walk(type_.item)
        case Mapping():
            yield from walk(type_.value)
        case Tuple():
            for item in type_.items:
                yield from walk(item)
