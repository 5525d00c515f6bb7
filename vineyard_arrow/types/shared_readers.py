"""Values of the fields of shared classes, read, and widened if an earlier version wrote them.

A *reader* turns what `pyarrow` gives for a field's storage, and the parts it refers to, into
the value. See `codegen.model` for the layout, `shared` for the rules.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from ..codegen.model import (
    PART,
    Choice,
    Column,
    Mapping,
    Maybe,
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
from ..registry import StoredObject
from .shared_parts import (
    MEMBER,
    TYPENAMES,
    Find,
    MismatchError,
    at_key,
    checked,
    found_in,
    kind_of,
    widens,
)

__all__ = ["Reader", "reader_of"]

Reader = Callable[[Any, StoredObject], Any]


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
        case Plain() if widens(arrow, type_.arrow):
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
                at_key(i, read, value[str(i)], stored) for i, read in enumerate(readers)
            )
        case Sequence() if t.is_list(arrow):
            cls = list if type_.python == "list" else tuple
            item = reader_of(type_.item, arrow.value_type, find)
            return lambda value, stored: cls(
                at_key(i, item, each, stored) for i, each in enumerate(value)
            )
        case Mapping() if t.is_map(arrow) and arrow.key_type == pa.string():
            item = reader_of(type_.value, arrow.item_type, find)
            return lambda value, stored: {
                key: at_key(key, item, each, stored) for key, each in value.items()
            }
        case _ if storage_of(type_) == PART and arrow == PART:
            return _ref_reader(type_, find) if isinstance(type_, Ref) else _part_reader(type_)
    raise MismatchError(str(arrow), text_of(type_))


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
    typenames = TYPENAMES[kind_of(type_)]
    as_ = getattr(pa, type_.python) if isinstance(type_, (Column, Rows)) else None

    def read(value: Any, stored: StoredObject) -> Any:
        index = _part(value, stored)
        typename = stored.parts[index].typename
        # Before it is resolved: what else it may be (a pickle, say) nobody asked for.
        if typename not in typenames:
            raise MismatchError(typename, text_of(type_))
        found = stored.resolve(index, None if typename == typenames[0] else as_)
        return checked(type_, found, widen=True)

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
            raise MismatchError(found_in(found), wanted)
        return found

    return read
