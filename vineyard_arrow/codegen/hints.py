"""Annotations, evaluated, as types of the model; what cannot be one, with what to write instead.

The same for live classes and for those read from a file's text (`source`), where stand-ins
take the place of the file's own classes.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime as dt
import enum
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, Union

import pyarrow as pa

from ..objects import ObjectID
from .model import (
    USUAL,
    Choice,
    Class,
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
)

__all__ = ["SharedOf", "UnsupportedError", "check_class", "renamed_from", "type_of_hint"]

SharedOf = Callable[[type], tuple[str, str] | None]
"""Typename and name of a shared class; None for any other."""


class UnsupportedError(Exception):
    """An annotation that no field can have, and what to write instead."""

    def __init__(self, message: str, instead: str) -> None:
        super().__init__(message)
        self.message = message
        self.instead = instead


_PLAIN: dict[Any, str] = {
    bool: "bool",
    int: "int",
    float: "float",
    str: "str",
    bytes: "bytes",
    dt.date: "date",
    dt.time: "time",
    dt.timedelta: "timedelta",
    dt.datetime: "datetime",
}
_ROWS = {pa.Table: "Table", pa.RecordBatch: "RecordBatch"}
_COLUMNS = {pa.Array: "Array", pa.ChunkedArray: "ChunkedArray"}
# What a field cannot be, by its qualified name or its origin's, and what it can be instead.
_INSTEAD: dict[str, str] = {
    "typing.Any": "write the type itself",
    "builtins.object": "write the type itself",
    "builtins.list": "write list[T]",
    "builtins.dict": "write dict[str, T]",
    "builtins.tuple": "write tuple[A, B] or tuple[T, ...]",
    "builtins.set": "write list[T]",
    "builtins.frozenset": "write list[T]",
    "builtins.complex": "write tuple[float, float], or an array of complex128",
    "builtins.bytearray": "write bytes",
    "builtins.memoryview": "write bytes",
    "collections.abc.Sequence": "write list[T]",
    "collections.abc.Iterable": "write list[T]",
    "collections.abc.Mapping": "write dict[str, T]",
    "collections.OrderedDict": "write dict[str, T]",
    "collections.defaultdict": "write dict[str, T]",
    "collections.deque": "write list[T]",
    "typing.Literal": "write an enum.Enum, or str",
    "decimal.Decimal": "write str, or a pyarrow.Array of decimals",
    "fractions.Fraction": "write tuple[int, int]",
    "uuid.UUID": "write bytes or str",
    "pathlib.Path": "write str",
    "pathlib._local.Path": "write str",
    "polars.dataframe.frame.LazyFrame": "write polars.DataFrame, and collect it",
    "polars.lazyframe.frame.LazyFrame": "write polars.DataFrame, and collect it",
}


def type_of_hint(hint: Any, shared_of: SharedOf) -> Type:
    """The model's type of an evaluated annotation.

    Raises
    ------
    UnsupportedError
        If no field can be of it.
    """
    origin = typing.get_origin(hint)
    if origin is Annotated:
        base, *details = typing.get_args(hint)
        return _annotated(base, details, shared_of)
    if type(origin or hint).__name__ == "TypeAliasType":
        return type_of_hint(_alias_value(hint), shared_of)
    if isinstance(hint, type):
        if hint in _PLAIN:
            return Plain(_PLAIN[hint], USUAL[_PLAIN[hint]])
        if hint in _ROWS:
            return Rows(_ROWS[hint])
        if hint in _COLUMNS:
            return Column(_COLUMNS[hint])
    if origin in (Union, types.UnionType):
        return _union(hint, shared_of)
    if origin in (list, tuple, dict):
        return _container(hint, origin, typing.get_args(hint), shared_of)
    if isinstance(origin or hint, type):
        found = _class(hint, origin or hint, shared_of)
        if found is not None:
            return found
    raise _unsupported(hint, origin)


def _alias_value(hint: Any) -> Any:
    """What ``type X[T] = ...`` (of Python 3.12; NumPy's NDArray is one there) stands for."""
    alias = typing.get_origin(hint) or hint
    given = dict(zip(alias.__type_params__, typing.get_args(hint), strict=False))
    parameters = getattr(alias.__value__, "__parameters__", ())
    if not given or not parameters:
        return alias.__value__
    return alias.__value__[tuple(given.get(each, Any) for each in parameters)]


def _class(hint: Any, cls: type, shared_of: SharedOf) -> Type | None:
    shared = shared_of(cls)
    if shared is not None:
        return Ref(*shared)
    if issubclass(cls, enum.Enum) and not issubclass(cls, enum.Flag):
        return _choice(cls)
    library = cls.__module__.partition(".")[0]
    if library in ("polars", "pandas") and cls.__name__ in ("DataFrame", "Series"):
        return Frame(library, cls.__name__)
    if library == "numpy" and cls.__name__ == "ndarray":
        return _ndarray(typing.get_args(hint))
    return None


def _union(hint: Any, shared_of: SharedOf) -> Type:
    given = typing.get_args(hint)
    left = [each for each in given if each not in (type(None), ObjectID)]
    if len(left) != 1:
        raise UnsupportedError(
            f"{_name(hint)} is several types", "write T | None, or a shared class for each case"
        )
    found = type_of_hint(left[0], shared_of)
    optional = type(None) in given
    if isinstance(found, Maybe):  # an alias that is optional itself
        found, optional = found.item, True
    if ObjectID in given:
        if not isinstance(found, Ref):
            raise UnsupportedError(
                f"{_name(hint)}: only objects of a shared class may be given by id",
                "leave ObjectID out; what was got from the store is shared, not copied",
            )
        found = Ref(found.typename, found.name, or_id=True)
    return Maybe(found) if optional else found


def _container(hint: Any, origin: Any, arguments: tuple[Any, ...], shared_of: SharedOf) -> Type:
    if origin is list:
        return Sequence(type_of_hint(arguments[0], shared_of))
    if origin is dict:
        if arguments[0] is not str:
            raise UnsupportedError(f"{_name(hint)}: keys are str", "write dict[str, T]")
        return Mapping(type_of_hint(arguments[1], shared_of))
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return Sequence(type_of_hint(arguments[0], shared_of), "tuple")
    return Tuple(tuple(type_of_hint(each, shared_of) for each in arguments))


def _choice(cls: type[enum.Enum]) -> Choice:
    members = tuple((member.name, member.value) for member in cls)
    for name, value in members:
        if type(value) not in (int, str):
            raise UnsupportedError(
                f"the value of {cls.__name__}.{name} is a {type(value).__name__}",
                "give the enum's members values of int or str",
            )
    base = next(
        (b.__name__ for b in cls.__mro__ if b in (enum.StrEnum, enum.IntEnum)), enum.Enum.__name__
    )
    return Choice(cls.__name__, base, members, cls)


# ---- with details: Annotated[...], NDArray[...]


def _annotated(base: Any, details: list[Any], shared_of: SharedOf) -> Type:
    found = type_of_hint(base, shared_of)
    if isinstance(found, Maybe):
        return Maybe(_detailed(found.item, base, details))
    return _detailed(found, base, details)


def _detailed(found: Type, base: Any, details: list[Any]) -> Type:
    for detail in details:
        match found:
            case NdArray():
                found = _detailed_array(found, detail)
            case Column() if isinstance(detail, pa.DataType):
                found = Column(found.python, detail)
            case Rows() if isinstance(detail, pa.Schema):
                found = Rows(found.python, detail)
            case Plain() if isinstance(detail, pa.DataType):
                found = _detailed_plain(found, detail)
            case _ if isinstance(detail, (pa.DataType, pa.Schema, tuple)):
                raise UnsupportedError(
                    f"{_name(base)} cannot be annotated with {detail!r}", _details_of(found)
                )
            # Anything else is meant for other readers of annotations.
    return found


def _details_of(type_: Type) -> str:
    match type_:
        case Column():
            return "write a type, as in Annotated[pa.Array, pa.int64()]"
        case Rows():
            return "write a schema, as in Annotated[pa.Table, pa.schema(...)]"
    return "leave it out"


def _detailed_plain(plain: Plain, arrow: pa.DataType) -> Plain:
    usual = plain.arrow
    fits = (
        pa.types.is_integer(arrow)
        if plain.python == "int"
        else pa.types.is_timestamp(arrow) and arrow.unit == "us"
        if plain.python == "datetime"
        else arrow == usual
    )
    if not fits:
        instead = {
            "int": "write an integer type, such as pa.int32()",
            "datetime": "write pa.timestamp('us', 'UTC'), or of another zone",
        }
        raise UnsupportedError(
            f"{plain.python} cannot be stored as {arrow}",
            instead.get(plain.python, f"leave it out: it is stored as {usual}"),
        )
    return Plain(plain.python, arrow)


def _detailed_array(array: NdArray, detail: Any) -> NdArray:
    if isinstance(detail, tuple):
        if not all(n is None or (type(n) is int and n >= 0) for n in detail):
            raise UnsupportedError(
                f"{detail!r} is no shape", "write lengths, None for any: (None, 3)"
            )
        if array.shape is not None and len(array.shape) != len(detail):
            raise UnsupportedError(f"{detail!r} has other dimensions than the array", "write one")
        return NdArray(array.dtype, detail)
    if not (isinstance(detail, (str, type)) or type(detail).__module__.startswith("numpy")):
        return array  # meant for others
    dtype = _dtype(detail)
    if array.dtype not in (None, dtype):
        raise UnsupportedError(f"it has two dtypes, {array.dtype} and {dtype}", "write one")
    return NdArray(dtype, array.shape)


def _dtype(detail: Any) -> str:
    import numpy as np

    try:
        dtype = np.dtype(detail)
    except TypeError:
        raise UnsupportedError(
            f"{detail!r} is no dtype of NumPy", "write one, such as np.float64"
        ) from None
    if dtype.kind not in "biufcmMSU":
        raise UnsupportedError(
            f"arrays of {dtype} cannot be fields", "write a dtype of numbers, times or fixed text"
        )
    if not dtype.itemsize or dtype.str[1:] in ("M8", "m8"):
        raise UnsupportedError(
            f"{dtype} has no length, or no unit", "write one, such as 'U16' or 'M8[us]'"
        )
    return str(dtype.str)


def _ndarray(arguments: tuple[Any, ...]) -> NdArray:
    """``np.ndarray[shape, np.dtype[scalar]]``, which `NDArray[scalar]` is short for."""
    if not arguments:
        return NdArray()
    shape, dtype = arguments
    scalars = typing.get_args(dtype)
    scalar = scalars[0] if scalars else Any
    lengths = typing.get_args(shape)
    return NdArray(
        None if scalar is Any or isinstance(scalar, typing.TypeVar) else _dtype(scalar),
        (None,) * len(lengths) if lengths and Ellipsis not in lengths else None,
    )


# ---- what it cannot be


def _unsupported(hint: Any, origin: Any) -> UnsupportedError:
    cls = origin or hint
    name = _name(hint)
    if isinstance(cls, type):
        key = f"{cls.__module__}.{cls.__qualname__}"
        if key not in _INSTEAD:
            return UnsupportedError(f"{name} cannot be a field", _instead_of_class(cls))
        return UnsupportedError(f"{name} cannot be a field", _INSTEAD[key])
    for key in (str(cls), f"typing.{getattr(cls, '_name', None)}"):
        if key in _INSTEAD:
            return UnsupportedError(f"{name} cannot be a field", _INSTEAD[key])
    return UnsupportedError(
        f"{name} is no type that a field can have", "docs/codegen.md has those it can"
    )


def _instead_of_class(cls: type) -> str:
    library = cls.__module__.partition(".")[0]
    if issubclass(cls, enum.Enum):
        return "write int for flags"
    if dataclasses.is_dataclass(cls):
        return f"decorate {cls.__name__} with @vineyard_arrow.shared"
    if issubclass(cls, pa.Array):
        return "write Annotated[pa.Array, type], such as pa.int64()"
    if library == "numpy":
        return "write bool, int, float or str, or an array"
    if library in ("torch", "scipy", "sparse"):
        return "write arrays, such as Annotated[NDArray[np.float64], (None, 3)]"
    if issubclass(cls, (collections.abc.Mapping, collections.abc.Iterable)):
        return "write list[T] or dict[str, T]"
    return f"write a dataclass with @vineyard_arrow.shared in place of {cls.__name__}"


def _name(hint: Any) -> str:
    if isinstance(hint, type) and not typing.get_args(hint):
        return hint.__qualname__
    return str(hint).replace("typing.", "")


def renamed_from(value: Any) -> tuple[str, ...]:
    """The names that ``field(metadata={"renamed_from": ...})`` gives."""
    names = (value,) if isinstance(value, str) else value
    if not (isinstance(names, (tuple, list)) and all(isinstance(n, str) for n in names)):
        raise UnsupportedError(f"renamed_from is {value!r}", "write a name, or a tuple of names")
    return tuple(names)


def check_class(model: Class) -> None:
    """Refuse what no class can have besides its fields' types.

    Raises
    ------
    UnsupportedError
        If typename or version are none, or a field has had another's name.
    """
    typename, version = model.typename, model.version
    if not isinstance(typename, str) or not typename or typename.startswith("vineyard."):
        raise UnsupportedError(
            f"{typename!r} is no typename for it", "begin it with the name of your package"
        )
    if type(version) is not int or version < 1:
        raise UnsupportedError(f"version {version!r} is none", "count from 1")
    names = {field.name for field in model.fields}
    for field in model.fields:
        for old in field.renamed_from:
            if old in names:
                raise UnsupportedError(
                    f"{field.name} was renamed from {old!r}, which is a field too",
                    "give that one another name",
                )
