"""Values of the fields of shared classes: checked and written, read and widened.

A *writer* turns a value into what `pyarrow.array` takes for the field's storage; a *reader*
does the opposite. Both are made once for a field, of its type in the model. See
`codegen.model` for the layout, `shared` for classes.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from ..codegen.model import (
    PART,
    Choice,
    Column,
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
    storage_of,
    text_of,
)
from ..errors import InvalidObjectError
from ..objects import ObjectID
from ..registry import Encoder, Part, StoredObject
from .pickling import PICKLE

__all__ = ["MEMBER", "MismatchError", "Reader", "Writer", "reader_of", "widens", "writer_of"]

MEMBER = "vineyard.shared.member"

Writer = Callable[[Any, Encoder], Any]
Reader = Callable[[Any, StoredObject], Any]
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


# ---- writing


def writer_of(type_: Type, name: str, find: Find) -> Writer:
    """The writer of a field called ``name``."""
    match type_:
        case Plain():
            return _plain_writer(type_)
        case Choice():
            return _choice_writer(type_)
        case Maybe():
            write = writer_of(type_.item, name, find)
            return lambda value, encoder: None if value is None else write(value, encoder)
        case Tuple() | Sequence() | Mapping():
            return _container_writer(type_, name, find)
        case Ref():
            return _ref_writer(type_, name, find)
    return _part_writer(type_)


_CLASSES: dict[str, type] = {
    "bool": bool,
    "int": int,
    "float": float,
    "str": str,
    "bytes": bytes,
    "date": dt.date,
    "time": dt.time,
    "timedelta": dt.timedelta,
    "datetime": dt.datetime,
}
_MAX_EXACT = 1 << 53  # integers up to here are doubles too


def _plain_writer(type_: Plain) -> Writer:
    cls, wanted = _CLASSES[type_.python], text_of(type_)
    fits = _FITS.get(type_.python)
    test = None if fits is None else fits(type_.arrow)

    def write(value: Any, encoder: Encoder) -> Any:
        # Exactly: a bool is no int, and what a subclass adds would be lost.
        if type(value) is not cls:
            if cls is float and _is_exact_float(value):
                return float(value)
            raise MismatchError(_found(value), wanted)
        if test is not None and not test(value):
            raise MismatchError(repr(value), wanted, _HINTS[type_.python])
        return value

    return write


def _is_exact_float(value: Any) -> bool:
    if type(value) is int:
        return -_MAX_EXACT <= value <= _MAX_EXACT
    return isinstance(value, float)


def _int_fits(arrow: pa.DataType) -> Callable[[int], bool]:
    low, high = int_range(arrow)
    return lambda value: low <= value <= high


def _time_fits(arrow: pa.DataType) -> Callable[[dt.datetime], bool]:
    return lambda value: (value.tzinfo is None) == (arrow.tz is None)


# What a value of the right class must be besides.
_FITS: dict[str, Callable[[pa.DataType], Callable[[Any], bool]]] = {
    "int": _int_fits,
    "datetime": _time_fits,
    "time": lambda arrow: lambda value: value.tzinfo is None,
}
_HINTS = {
    "int": "annotate a wider type, such as Annotated[int, pa.uint64()]",
    "datetime": "with a zone: Annotated[datetime, pa.timestamp('us', 'UTC')]; else without",
    "time": "times have no zone here",
}


def int_range(arrow: pa.DataType) -> tuple[int, int]:
    """The least and the greatest value of an integer type."""
    bits = arrow.bit_width
    if pa.types.is_unsigned_integer(arrow):
        return 0, (1 << bits) - 1
    return -(1 << bits - 1), (1 << bits - 1) - 1


def _choice_writer(type_: Choice) -> Writer:
    cls, wanted = type_.cls, text_of(type_)

    def write(value: Any, encoder: Encoder) -> str:
        if type(value) is not cls:
            raise MismatchError(_found(value), wanted)
        name: str = value.name
        return name

    return write


def _container_writer(type_: Tuple | Sequence | Mapping, name: str, find: Find) -> Writer:
    wanted = text_of(type_)
    if isinstance(type_, Tuple):
        writers = [writer_of(item, name, find) for item in type_.items]

        def write_tuple(value: Any, encoder: Encoder) -> Any:
            if type(value) is not tuple or len(value) != len(writers):
                raise MismatchError(_found(value), wanted)
            items = zip(writers, value, strict=True)
            return {str(i): _at(i, write, item, encoder) for i, (write, item) in enumerate(items)}

        return write_tuple
    if isinstance(type_, Mapping):
        write = writer_of(type_.value, name, find)

        def write_dict(value: Any, encoder: Encoder) -> Any:
            if not isinstance(value, dict):
                raise MismatchError(_found(value), wanted)
            for key in value:
                if type(key) is not str:
                    raise MismatchError(f"a key of {_found(key)}", wanted)
            return [(key, _at(key, write, item, encoder)) for key, item in value.items()]

        return write_dict
    cls = list if type_.python == "list" else tuple
    write = writer_of(type_.item, name, find)

    def write_list(value: Any, encoder: Encoder) -> Any:
        if type(value) is not cls:
            raise MismatchError(_found(value), wanted)
        return [_at(i, write, item, encoder) for i, item in enumerate(value)]

    return write_list


def _at(key: Any, function: Callable[[Any, Any], Any], value: Any, where: Any) -> Any:
    try:
        return function(value, where)
    except MismatchError as error:
        raise error.at(key) from None


def _part_writer(type_: Type) -> Writer:
    typename = _TYPENAMES[_kind(type_)][0]

    def write(value: Any, encoder: Encoder) -> Any:
        return _add(_checked(type_, value), encoder, typename, type_)

    return write


def _add(value: Any, encoder: Encoder, typename: str, type_: Type) -> dict[str, int]:
    start = len(encoder.parts)
    index = encoder.add(value)
    stored = encoder.parts[index].typename
    if stored != typename or any(part.typename == PICKLE for part in encoder.parts[start:]):
        raise MismatchError(
            f"{_found(value)}, which is stored as {stored}"
            + (" with pickled values" if stored == typename else ""),
            text_of(type_),
            "give numbers, text, times, or what else Arrow has a type for",
        )
    return {"part": index}


def _ref_writer(type_: Ref, name: str, find: Find) -> Writer:
    wanted = text_of(type_)

    def write(value: Any, encoder: Encoder) -> Any:
        if type_.or_id and type(value) is ObjectID:
            return _add_member(value, encoder, name, type_, find)
        cls = find(type_.typename)
        if cls is None or not isinstance(value, cls):
            hint = None
            if type(value) is ObjectID:
                hint = f"declare it {type_.name} | ObjectID"
            raise MismatchError(_found(value), wanted, hint)
        return {"part": encoder.add(value)}

    return write


def _add_member(value: ObjectID, encoder: Encoder, name: str, type_: Ref, find: Find) -> Any:
    member, n = name, 1
    while member in encoder.members:
        n += 1
        member = f"{name}_{n}"
    encoder.add_member(member, value)
    typename = encoder.members[member].typename
    if not _is_kind_of(typename, type_.typename, find):
        raise MismatchError(f"{value}, a {typename}", text_of(type_))
    return {"part": encoder.add_part(Part(MEMBER, pa.schema([]), [], {"member": member}))}


def _is_kind_of(typename: str, wanted: str, find: Find) -> bool:
    if typename == wanted:
        return True
    cls, base = find(typename), find(wanted)
    return cls is not None and base is not None and issubclass(cls, base)


# ---- values that are parts: what they must be, put or got


# By type in the model: the typename it is stored by, and others it can be read from.
_TYPENAMES: dict[tuple[str, ...], tuple[str, ...]] = {
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


def _kind(type_: Type) -> tuple[str, ...]:
    match type_:
        case Column() | Rows():
            return type(type_).__name__, type_.python
        case Frame():
            return "Frame", type_.library, type_.python
    return (type(type_).__name__,)


def _checked(type_: Type, value: Any, widen: bool = False) -> Any:
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
    raise MismatchError(_found(value), text_of(type_))


def _checked_ndarray(type_: NdArray, value: Any, widen: bool) -> Any:
    import numpy as np

    wanted = text_of(type_)
    if not isinstance(value, np.ndarray) or isinstance(value, np.ma.MaskedArray):
        raise MismatchError(_found(value), wanted)
    shape, dtype = type_.shape, type_.dtype
    if shape is not None and (
        len(shape) != value.ndim
        or any(n not in (None, m) for n, m in zip(shape, value.shape, strict=True))
    ):
        raise MismatchError(_found(value), wanted)
    if dtype is None or value.dtype == dtype:
        return value
    if widen:
        try:
            safe = widens(pa.from_numpy_dtype(value.dtype), pa.from_numpy_dtype(dtype))
        except pa.ArrowNotImplementedError:
            safe = False
        if safe:
            return value.astype(dtype)
    scalar = np.dtype(dtype)
    raise MismatchError(_found(value), wanted, f'.astype("{scalar}") makes one')


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
    raise MismatchError(_found(value), text_of(type_), hint)


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


# ---- reading


def reader_of(type_: Type, arrow: pa.DataType, find: Find) -> Reader:
    """The reader of values of ``type_`` that are stored as ``arrow``.

    Raises
    ------
    MismatchError
        If these are no values of ``type_``, nor of one that is safe to widen to it.
    """
    if isinstance(type_, Maybe):
        read = reader_of(type_.item, arrow, find)
        return lambda value, stored: None if value is None else read(value, stored)
    read = _present_reader(type_, arrow, find)
    wanted = text_of(type_)

    def read_present(value: Any, stored: StoredObject) -> Any:
        if value is None:
            raise MismatchError("None", wanted)
        return read(value, stored)

    return read_present


def _present_reader(type_: Type, arrow: pa.DataType, find: Find) -> Reader:
    t = pa.types
    match type_:
        case Plain() if _reads_plain(type_, arrow):
            if type_.python == "float":
                return lambda value, stored: float(value)
            return lambda value, stored: value
        case Choice() if arrow == pa.string():
            return _choice_reader(type_)
        case Tuple() if t.is_struct(arrow) and [f.name for f in arrow] == [
            str(i) for i in range(len(type_.items))
        ]:
            readers = [
                reader_of(item, field.type, find)
                for item, field in zip(type_.items, arrow, strict=True)
            ]
            return lambda value, stored: tuple(
                _at(i, read, value[str(i)], stored) for i, read in enumerate(readers)
            )
        case Sequence() if t.is_list(arrow):
            cls = list if type_.python == "list" else tuple
            item = reader_of(type_.item, arrow.value_type, find)
            return lambda value, stored: cls(
                _at(i, item, each, stored) for i, each in enumerate(value)
            )
        case Mapping() if t.is_map(arrow) and arrow.key_type == pa.string():
            item = reader_of(type_.value, arrow.item_type, find)
            return lambda value, stored: {
                key: _at(key, item, each, stored) for key, each in value.items()
            }
        case _ if storage_of(type_) == PART and arrow == PART:
            return _ref_reader(type_, find) if isinstance(type_, Ref) else _part_reader(type_)
    raise MismatchError(str(arrow), text_of(type_))


def _reads_plain(type_: Plain, arrow: pa.DataType) -> bool:
    return widens(arrow, type_.arrow)


def _choice_reader(type_: Choice) -> Reader:
    members = type_.cls.__members__
    wanted = text_of(type_)

    def read(value: str, stored: StoredObject) -> Any:
        if value not in members:
            raise MismatchError(repr(value), wanted, "members of an enum may be added, not removed")
        return members[value]

    return read


def _part(value: Any, stored: StoredObject) -> int:
    index: int = value["part"]
    if not 0 < index < len(stored.parts):
        raise InvalidObjectError(
            f"it refers to part {index}, and has {len(stored.parts)}", "it was not put by us"
        )
    return index


def _part_reader(type_: Type) -> Reader:
    typenames = _TYPENAMES[_kind(type_)]
    as_ = getattr(pa, type_.python) if isinstance(type_, (Column, Rows)) else None

    def read(value: Any, stored: StoredObject) -> Any:
        index = _part(value, stored)
        typename = stored.parts[index].typename
        # Before it is resolved: what else it may be (a pickle, say) nobody asked for.
        if typename not in typenames:
            raise MismatchError(typename, text_of(type_))
        found = stored.resolve(index, None if typename == typenames[0] else as_)
        return _checked(type_, found, widen=True)

    return read


def _ref_reader(type_: Ref, find: Find) -> Reader:
    wanted = text_of(type_)

    def read(value: Any, stored: StoredObject) -> Any:
        index = _part(value, stored)
        typename = stored.parts[index].typename
        if typename.startswith("vineyard.") and typename != MEMBER:
            raise MismatchError(typename, wanted)
        found = stored.resolve(index)
        cls = find(type_.typename)
        if cls is None or not isinstance(found, cls):
            raise MismatchError(_found(found), wanted)
        return found

    return read


# ---- words


def _found(value: Any) -> str:
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
