"""Values of the fields of shared classes, checked and written.

A *writer* turns a value into what `pyarrow.array` takes for the field's storage, and adds the
parts it refers to. See `codegen.model` for the layout.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from ..codegen.model import Choice, Mapping, Maybe, Plain, Ref, Sequence, Tuple, Type, text_of
from ..objects import ObjectID
from ..registry import Encoder, Part
from .pickling import PICKLE
from .shared_parts import (
    MEMBER,
    TYPENAMES,
    Find,
    MismatchError,
    at_key,
    checked,
    found_in,
    int_range,
    kind_of,
)

__all__ = ["Writer", "writer_of"]

Writer = Callable[[Any, Encoder], Any]


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
            hint = ".item() makes one" if type(value).__module__ == "numpy" else None
            raise MismatchError(found_in(value), wanted, hint)
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


def _choice_writer(type_: Choice) -> Writer:
    cls, wanted = type_.cls, text_of(type_)

    def write(value: Any, encoder: Encoder) -> str:
        if type(value) is not cls:
            raise MismatchError(found_in(value), wanted)
        name: str = value.name
        return name

    return write


def _container_writer(type_: Tuple | Sequence | Mapping, name: str, find: Find) -> Writer:
    wanted = text_of(type_)
    if isinstance(type_, Tuple):
        writers = [writer_of(item, name, find) for item in type_.items]

        def write_tuple(value: Any, encoder: Encoder) -> Any:
            if type(value) is not tuple or len(value) != len(writers):
                raise MismatchError(found_in(value), wanted)
            items = zip(writers, value, strict=True)
            return {
                str(i): at_key(i, write, item, encoder) for i, (write, item) in enumerate(items)
            }

        return write_tuple
    if isinstance(type_, Mapping):
        write = writer_of(type_.value, name, find)

        def write_dict(value: Any, encoder: Encoder) -> Any:
            if type(value) is not dict:
                raise MismatchError(found_in(value), wanted)
            for key in value:
                if type(key) is not str:
                    raise MismatchError(f"a key of {found_in(key)}", wanted)
            return [(key, at_key(key, write, item, encoder)) for key, item in value.items()]

        return write_dict
    cls = list if type_.python == "list" else tuple
    write = writer_of(type_.item, name, find)

    def write_list(value: Any, encoder: Encoder) -> Any:
        if type(value) is not cls:
            raise MismatchError(found_in(value), wanted)
        return [at_key(i, write, item, encoder) for i, item in enumerate(value)]

    return write_list


def _part_writer(type_: Type) -> Writer:
    typename = TYPENAMES[kind_of(type_)][0]

    def write(value: Any, encoder: Encoder) -> Any:
        return _add(checked(type_, value), encoder, typename, type_)

    return write


def _add(value: Any, encoder: Encoder, typename: str, type_: Type) -> dict[str, int]:
    start = len(encoder.parts)
    index = encoder.add(value)
    stored = encoder.parts[index].typename
    if stored != typename or any(part.typename == PICKLE for part in encoder.parts[start:]):
        raise MismatchError(
            f"{found_in(value)}, which is stored as {stored}"
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
            raise MismatchError(found_in(value), wanted, hint)
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
