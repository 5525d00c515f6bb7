"""Arrow's types and schemas as expressions of C++, and text as literals."""

from __future__ import annotations

import pyarrow as pa

__all__ = ["UnknownTypeError", "array_class", "quoted", "schema_code", "type_code"]


class UnknownTypeError(Exception):
    """A type that no expression here makes."""


_SIMPLE = {
    pa.null(): ("null", "Null"),
    pa.bool_(): ("boolean", "Boolean"),
    pa.float16(): ("float16", "HalfFloat"),
    pa.float32(): ("float32", "Float"),
    pa.float64(): ("float64", "Double"),
    pa.string(): ("utf8", "String"),
    pa.large_string(): ("large_utf8", "LargeString"),
    pa.string_view(): ("utf8_view", "StringView"),
    pa.binary(): ("binary", "Binary"),
    pa.large_binary(): ("large_binary", "LargeBinary"),
    pa.binary_view(): ("binary_view", "BinaryView"),
    pa.date32(): ("date32", "Date32"),
    pa.date64(): ("date64", "Date64"),
    pa.month_day_nano_interval(): ("month_day_nano_interval", "MonthDayNanoInterval"),
} | {
    getattr(pa, f"{u}int{bits}")(): (f"{u}int{bits}", f"{u.upper()}Int{bits}")
    for u in ("", "u")
    for bits in (8, 16, 32, 64)
}
"""The functions that make them, and the classes of their arrays without ``Array``."""
_LISTS = {
    "list": "List",
    "large_list": "LargeList",
    "list_view": "ListView",
    "large_list_view": "LargeListView",
}
_UNITS = {"s": "SECOND", "ms": "MILLI", "us": "MICRO", "ns": "NANO"}


def array_class(type_: pa.DataType) -> str:
    """The class of a type's arrays, in the namespace ``arrow``."""
    t = pa.types
    if type_ in _SIMPLE:
        return f"{_SIMPLE[type_][1]}Array"
    for name, cls in _LISTS.items():
        if getattr(t, f"is_{name}")(type_):
            return f"{cls}Array"
    for test, cls in (
        (t.is_timestamp, "Timestamp"),
        (t.is_duration, "Duration"),
        (t.is_time32, "Time32"),
        (t.is_time64, "Time64"),
        (t.is_decimal128, "Decimal128"),
        (t.is_decimal256, "Decimal256"),
        (t.is_fixed_size_binary, "FixedSizeBinary"),
        (t.is_dictionary, "Dictionary"),
        (t.is_struct, "Struct"),
        (t.is_map, "Map"),
        (t.is_fixed_size_list, "FixedSizeList"),
    ):
        if test(type_):
            return f"{cls}Array"
    raise UnknownTypeError(str(type_))


def type_code(type_: pa.DataType) -> str:
    """The expression that makes a type.

    Examples
    --------
    >>> type_code(pa.list_(pa.int32()))
    'arrow::list(arrow::int32())'

    Raises
    ------
    UnknownTypeError
        If none does.
    """
    t = pa.types
    if type_ in _SIMPLE:
        return f"arrow::{_SIMPLE[type_][0]}()"
    if t.is_timestamp(type_):
        zone = f", {quoted(type_.tz)}" if type_.tz else ""
        return f"arrow::timestamp({_unit(type_)}{zone})"
    if t.is_time(type_) or t.is_duration(type_):
        name = "duration" if t.is_duration(type_) else f"time{type_.bit_width}"
        return f"arrow::{name}({_unit(type_)})"
    if t.is_decimal128(type_) or t.is_decimal256(type_):
        return f"arrow::decimal{type_.bit_width}({type_.precision}, {type_.scale})"
    if t.is_fixed_size_binary(type_) and not t.is_decimal(type_):
        return f"arrow::fixed_size_binary({type_.byte_width})"
    if t.is_dictionary(type_):
        types = f"{type_code(type_.index_type)}, {type_code(type_.value_type)}"
        return f"arrow::dictionary({types}{', true' if type_.ordered else ''})"
    if t.is_struct(type_):
        return f"arrow::struct_({{{', '.join(map(_field_code, type_))}}})"
    if t.is_map(type_):
        item = _item_code(type_.item_field, "value")
        return f"arrow::map({type_code(type_.key_type)}, {item})"
    if t.is_fixed_size_list(type_):
        return f"arrow::fixed_size_list({_item_code(type_.value_field, 'item')}, {type_.list_size})"
    for name in _LISTS:
        if getattr(t, f"is_{name}")(type_):
            return f"arrow::{name}({_item_code(type_.value_field, 'item')})"
    raise UnknownTypeError(str(type_))


def schema_code(schema: pa.Schema) -> str:
    """The expression that makes a schema, without its metadata."""
    return f"arrow::schema({{{', '.join(map(_field_code, schema))}}})"


def _unit(type_: pa.DataType) -> str:
    return f"arrow::TimeUnit::{_UNITS[type_.unit]}"


def _field_code(field: pa.Field) -> str:
    nullable = "" if field.nullable else ", false"
    return f"arrow::field({quoted(field.name)}, {type_code(field.type)}{nullable})"


def _item_code(field: pa.Field, usual: str) -> str:
    plain = field.name == usual and field.nullable
    return type_code(field.type) if plain else _field_code(field)


def quoted(text: str | bytes) -> str:
    """A string literal of the text in UTF-8, or of the bytes.

    Examples
    --------
    >>> print(quoted('say "é"?'))
    "say \\"\\303\\251\\"\\?"
    """
    data = text.encode() if isinstance(text, str) else text
    return f'"{"".join(map(_escaped, data))}"'


def _escaped(byte: int) -> str:
    # Three octal digits end an escape, whatever follows; "??" may begin a trigraph.
    if chr(byte) in '"\\?':
        return f"\\{chr(byte)}"
    return chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}"
