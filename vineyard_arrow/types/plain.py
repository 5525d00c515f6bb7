"""The plain form: Python values as msgpack, exactly typed, with no pickle in it.

Format
------
The bytes are one msgpack array ``[1, tree, parts, pickles]``: the version; the value;
the indices of the parts (of the same stored object) that it refers to; and the index of
the pickled part that holds a list of its other leaves, or nil.

In the tree nil, booleans, 64-bit integers, float64, str and bin stand for None, bool,
int, float, str and bytes; an array is a list; a map whose keys are all str (an empty one
too) is a dict. Everything else is a map of one integer key, its tag:

==  ==============================================================================
 0  value of ``parts[k]``: k
 1  tuple: array                    2  int: bytes, little-endian two's complement
 3  complex: [re, im]               4  bytearray: bytes
 5  str with lone surrogates: bytes, UTF-8 that encodes surrogates like any other
 6  set: array                      7  frozenset: array
 8  dict: [key, value, key, value ...]
 9  range: [start, stop, step]     10  slice: [start, stop, step]
11  Ellipsis: nil                  12  Decimal: str
13  Fraction: [num, den]           14  UUID: 16 bytes, big-endian
15  the container that was finished n-th (from 0) in reading order: n. Containers are
    lists, tuples, sets, frozensets and dicts; each counts when its end is reached
16  date: [year, month, day]       17  time: [h, m, s, us, fold, tz]
18  datetime: [year, month, day, h, m, s, us, fold, tz]; tz is nil, tag 20 or tag 21
19  timedelta: [days, s, us]       20  timezone: [days, s, us, name or nil]
21  ZoneInfo: key                  22  bytes of the blob ``parts[k]``: k
23  bytearray, likewise            24  str (UTF-8 as in 5), likewise
25  memoryview, likewise: [k, struct format, shape]
26  leaf ``pickles[i]``: i
27  small numpy.ndarray: [dtype.str, shape, "C" or "F", bytes]
28  NumPy scalar: [dtype.str, bytes], or ["U", str], or ["S", bytes]
==  ==============================================================================
"""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID, SafeUUID
from zoneinfo import ZoneInfo

import msgspec
import pyarrow as pa

from ..errors import InvalidObjectError

__all__ = ["INLINE_NBYTES", "LARGE_NBYTES", "NotPlainError", "Reader", "Writer", "packb", "unpackb"]

VERSION = 1
LARGE_NBYTES = 64 << 10
"""Strings and bytes of this size become parts of their own."""
INLINE_NBYTES = 1 << 10
"""Arrays below this size stay in the tree."""
# Pickle, which reads back without recursion, takes over below this depth.
_MAX_DEPTH = 100
_MAX_HASH_DEPTH, _MAX_HASH_COST = 1000, 1 << 24

(PART, TUPLE, BIGINT, COMPLEX, BYTEARRAY, SURROGATES, SET, FROZENSET, DICT, RANGE, SLICE,
 ELLIPSIS, DECIMAL, FRACTION, UUID_, SHARED, DATE, TIME, DATETIME, TIMEDELTA, TIMEZONE, ZONE,
 BYTES_PART, BYTEARRAY_PART, STR_PART, MEMORYVIEW, PICKLED, NDARRAY,
 NPSCALAR) = range(29)  # fmt: skip

_ATOMS = frozenset({type(None), bool, int, float})
_STR = frozenset({str})
_OPEN = -1

packb = msgspec.msgpack.Encoder().encode
unpackb = msgspec.msgpack.Decoder().decode


class NotPlainError(Exception):
    """The value refers to itself, or nests too deeply for the plain form."""


class Writer:
    """Turns one value into a tree for msgpack, setting aside what is no plain value.

    Parameters
    ----------
    is_part : callable
        Whether a value that is not plain becomes a part of its own (else it is pickled).
    careful : bool
        Check every int and str for what msgpack refuses. Without it the encoder raises
        OverflowError or UnicodeEncodeError for those, and one starts over with it.

    Attributes
    ----------
    children : list
        Values of the parts, in the order of their references.
    pickles : list
        The leaves to be pickled.
    """

    __slots__ = ("_aside", "_careful", "_count", "_is_part", "_memo", "children", "pickles")

    def __init__(self, is_part: Callable[[Any], bool], careful: bool = False) -> None:
        self._is_part = is_part
        self._careful = careful
        self._memo: dict[int, int] = {}
        self._aside: dict[int, dict[int, Any]] = {}
        self._count = 0
        self.children: list[Any] = []
        self.pickles: list[Any] = []

    def write(self, value: Any, depth: int = 0) -> Any:
        """The msgpack-ready form of ``value``."""
        kind = type(value)
        if kind in _ATOMS:
            if self._careful and kind is int and not -(1 << 63) <= value < 1 << 63:
                return {BIGINT: _int_bytes(value)}
            return value
        if kind is str:
            return self._str(value)
        if kind in _CONTAINERS:
            return self._container(value, kind, depth)
        leaf = _LEAVES.get(kind)
        return leaf(self, value) if leaf is not None else self._other(value)

    def _str(self, value: str) -> Any:
        if len(value) >= LARGE_NBYTES:
            return self._blob(STR_PART, value, value.encode("utf-8", "surrogatepass"))
        if self._careful:
            data = value.encode("utf-8", "surrogatepass")
            try:
                data.decode("utf-8")
            except UnicodeDecodeError:
                return {SURROGATES: data}
        return value

    def _container(self, value: Any, kind: type, depth: int) -> Any:
        seen = self._memo.get(id(value))
        if seen is not None:
            if seen == _OPEN:
                raise NotPlainError("it contains itself")
            return {SHARED: seen}
        if depth >= _MAX_DEPTH:
            raise NotPlainError(f"it nests deeper than {_MAX_DEPTH} levels")
        self._memo[id(value)] = _OPEN
        form = self._dict(value, depth + 1) if kind is dict else self._items(value, depth + 1)
        self._memo[id(value)] = self._count
        self._count += 1
        tag = _CONTAINERS[kind]
        return form if tag is None else {tag: form}

    def _items(self, value: Any, depth: int) -> Any:
        if not self._careful and _ATOMS.issuperset(map(type, value)):
            return value if type(value) in (list, tuple) else list(value)
        write = self.write
        return [write(item, depth) for item in value]

    def _dict(self, value: dict[Any, Any], depth: int) -> Any:
        write = self.write
        if _STR.issuperset(map(type, value)):
            keys = value if not self._careful else [self._str(k) for k in value]
            if _STR.issuperset(map(type, keys)) and (
                not value or max(map(len, value)) < LARGE_NBYTES
            ):
                return {key: write(item, depth) for key, item in value.items()}
        form: list[Any] = []
        for key, item in value.items():
            form.append(write(key, depth))
            form.append(write(item, depth))
        return {DICT: form}

    def _other(self, value: Any) -> Any:
        if type(value).__module__ == "numpy":
            form = _numpy_form(value)
            if form is not None:
                return form
        if not self._is_part(value):
            return self._set_aside(PICKLED, value, self.pickles, value)
        return self._set_aside(PART, value, self.children, value)

    def _blob(self, tag: int, value: Any, data: Any) -> Any:
        return self._set_aside(tag, value, self.children, pa.py_buffer(data))

    def _set_aside(self, tag: int, value: Any, where: list[Any], child: Any) -> Any:
        form = self._aside.get(id(value))
        if form is None:
            form = self._aside[id(value)] = {tag: len(where)}
            where.append(child)
        return form

    def _bytes(self, value: bytes) -> Any:
        return value if len(value) < LARGE_NBYTES else self._blob(BYTES_PART, value, value)

    def _bytearray(self, value: bytearray) -> Any:
        if len(value) < LARGE_NBYTES:
            return {BYTEARRAY: bytes(value)}
        return self._blob(BYTEARRAY_PART, value, value)

    def _memoryview(self, value: memoryview) -> Any:
        castable = len(value.format.lstrip("@")) == 1 and (value.nbytes or value.ndim == 1)
        if not (castable and value.c_contiguous):
            return self._set_aside(PICKLED, value, self.pickles, value)
        flat = value.cast("B") if value.nbytes else b""
        self.children.append(pa.py_buffer(flat))
        return {MEMORYVIEW: [len(self.children) - 1, value.format, list(value.shape or ())]}

    def _uuid(self, value: UUID) -> Any:
        if value.is_safe is not SafeUUID.unknown:
            return self._set_aside(PICKLED, value, self.pickles, value)
        return {UUID_: value.bytes}

    def _zone(self, value: ZoneInfo) -> Any:
        if value.key is None:
            return self._set_aside(PICKLED, value, self.pickles, value)
        return {ZONE: value.key}

    def _numbers(self, tag: int, *values: Any) -> Any:
        return {tag: [self.write(value) for value in values]}

    def _time(self, value: Any) -> Any:
        tz = value.tzinfo
        if tz is not None and (type(tz) not in _LEAVES or (type(tz) is ZoneInfo and not tz.key)):
            return self._set_aside(PICKLED, value, self.pickles, value)
        clock = [value.hour, value.minute, value.second, value.microsecond, value.fold]
        clock.append(self.write(tz))
        if type(value) is dt.time:
            return {TIME: clock}
        return {DATETIME: [value.year, value.month, value.day, *clock]}


def _int_bytes(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)


def _timezone_form(value: dt.timezone) -> Any:
    offset, *name = value.__getinitargs__()  # type: ignore[attr-defined]
    return {TIMEZONE: [offset.days, offset.seconds, offset.microseconds, *(name or [None])]}


def _numpy_form(value: Any) -> Any:
    """Tree form of a NumPy scalar or a small array of a simple dtype, else None."""
    np = sys.modules["numpy"]
    kind = type(value)
    if kind is np.str_:
        text = value[:]  # str() would strip trailing NULs
        return {NPSCALAR: ["U", text]} if len(text) < INLINE_NBYTES and text.isascii() else None
    if kind is np.bytes_:
        return {NPSCALAR: ["S", bytes(value)]} if len(value) < INLINE_NBYTES else None
    if kind is not np.ndarray and not issubclass(kind, np.generic):
        return None
    dtype = value.dtype
    if dtype.kind not in "biufcmMSU" or dtype.metadata is not None:
        return None
    if kind is not np.ndarray:
        return {NPSCALAR: [dtype.str, value.tobytes()]}
    if value.nbytes >= INLINE_NBYTES:
        return None
    order = "F" if value.flags.fnc else "C"
    return {NDARRAY: [dtype.str, list(value.shape), order, value.tobytes(order)]}


_CONTAINERS: dict[type, int | None] = {
    list: None, dict: None, tuple: TUPLE, set: SET, frozenset: FROZENSET,
}  # fmt: skip

_LEAVES: dict[type, Callable[[Writer, Any], Any]] = {
    bytes: Writer._bytes,
    bytearray: Writer._bytearray,
    memoryview: Writer._memoryview,
    UUID: Writer._uuid,
    ZoneInfo: Writer._zone,
    dt.datetime: Writer._time,
    dt.time: Writer._time,
    complex: lambda w, v: {COMPLEX: [v.real, v.imag]},
    range: lambda w, v: w._numbers(RANGE, v.start, v.stop, v.step),
    type(...): lambda w, v: {ELLIPSIS: None},
    Decimal: lambda w, v: {DECIMAL: str(v)},
    Fraction: lambda w, v: w._numbers(FRACTION, v.numerator, v.denominator),
    dt.date: lambda w, v: {DATE: [v.year, v.month, v.day]},
    dt.timedelta: lambda w, v: {TIMEDELTA: [v.days, v.seconds, v.microseconds]},
    dt.timezone: lambda w, v: _timezone_form(v),
}


def _slice_form(writer: Writer, value: slice) -> Any:
    return {SLICE: [writer.write(x, _MAX_DEPTH - 1) for x in (value.start, value.stop, value.step)]}


_LEAVES[slice] = _slice_form


class Reader:
    """Turns a tree back into the value.

    Parameters
    ----------
    part : callable
        The value of a part by its place in the tree's list of parts.
    pickles : callable
        The list of pickled leaves.
    writable : bool
        Whether arrays of the tree are to be writable.
    """

    __slots__ = ("_costs", "_memo", "_part", "_pickles", "_writable")

    def __init__(
        self, part: Callable[[int], Any], pickles: Callable[[], list[Any]], writable: bool
    ) -> None:
        self._part = part
        self._pickles = pickles
        self._writable = writable
        self._memo: list[Any] = []
        # Of tuples, from the first one on that may be in another twice: (depth, items in all).
        self._costs: dict[int, tuple[int, int]] | None = None

    def read(self, tree: Any) -> Any:
        """The value of ``tree``; consumes the tree."""
        kind = type(tree)
        if kind is list:
            self._list(tree)
        elif kind is dict:
            if len(tree) == 1:
                ((tag, form),) = tree.items()
                if type(tag) is int:
                    return self._tagged(tag, form)
            for key, item in tree.items():
                if type(item) in _NESTING:
                    tree[key] = self.read(item)  # an existing key: the order stays
        else:
            return tree
        self._memo.append(tree)
        return tree

    def _list(self, items: list[Any]) -> list[Any]:
        if not _NESTING.isdisjoint(map(type, items)):
            read = self.read
            items[:] = [read(item) if type(item) in _NESTING else item for item in items]
        return items

    def _tagged(self, tag: int, form: Any) -> Any:
        if tag in _FINISH:
            items = self._list(form)
            if self._costs is not None and tag != TUPLE:
                self._check_keys(items[::2] if tag == DICT else items)
            value = _FINISH[tag](items)
            if self._costs is not None and tag == TUPLE:
                inner = [self._costs.get(id(item), (0, 1)) for item in items]
                depth = 1 + max((depth for depth, _ in inner), default=0)
                self._costs[id(value)] = depth, sum(cost for _, cost in inner)
            self._memo.append(value)
            return value
        if tag in _LOOK_UP:
            return _LOOK_UP[tag](self, form)
        return _READ[tag](self._list(form) if type(form) is list else form)

    def _shared(self, place: int) -> Any:
        if self._costs is None:
            self._costs = {}
        return self._memo[place]

    def _check_keys(self, keys: list[Any]) -> None:
        """Raise if one takes too long to hash, or too much of the C stack: tuples keep no hash."""
        assert self._costs is not None
        for key in keys:
            depth, cost = self._costs.get(id(key), (0, 1))
            if depth > _MAX_HASH_DEPTH or cost > _MAX_HASH_COST:
                raise InvalidObjectError("a key is a tuple of tuples without end")

    def _view(self, form: list[Any]) -> memoryview:
        index, code, shape = form
        view = memoryview(self._part(index))
        # memoryview.cast takes no shape with a zero in it
        return view.cast(code, shape) if view.nbytes else view.cast(code)

    def _ndarray(self, form: list[Any]) -> Any:
        from .numpy import array_over

        dtype, shape, order, data = form
        return array_over(bytearray(data) if self._writable else data, shape, dtype, order)


def _pairs(form: list[Any]) -> dict[Any, Any]:
    it = iter(form)
    return dict(zip(it, it, strict=True))


def _read_timezone(form: list[Any]) -> dt.timezone:
    days, seconds, microseconds, name = form
    offset = dt.timedelta(days, seconds, microseconds)
    if name is not None:
        return dt.timezone(offset, name)
    return dt.timezone(offset)


def _read_clock(cls: type, form: list[Any]) -> Any:
    *numbers, fold, tz = form
    return cls(*numbers, tzinfo=tz, fold=fold)


def _read_scalar(form: list[Any]) -> Any:
    import numpy as np

    dtype, data = form
    if dtype in ("U", "S"):
        return np.str_(data) if dtype == "U" else np.bytes_(data)
    return np.frombuffer(data, dtype)[0]


_NESTING = frozenset({list, dict})
# What a tag means that ...
# ... refers to something else,
_LOOK_UP: dict[int, Callable[[Reader, Any], Any]] = {
    PART: lambda r, f: r._part(f),
    SHARED: Reader._shared,
    BYTES_PART: lambda r, f: r._part(f).to_pybytes(),
    BYTEARRAY_PART: lambda r, f: bytearray(r._part(f)),
    STR_PART: lambda r, f: str(r._part(f), "utf-8", "surrogatepass"),
    MEMORYVIEW: Reader._view,
    PICKLED: lambda r, f: r._pickles()[f],
    NDARRAY: Reader._ndarray,
}
# ... is a container,
_FINISH: dict[int, Callable[[Any], Any]] = {
    TUPLE: tuple, SET: set, FROZENSET: frozenset, DICT: _pairs,
}  # fmt: skip
# ... stands for itself.
_READ: dict[int, Callable[[Any], Any]] = {
    BIGINT: lambda f: int.from_bytes(f, "little", signed=True),
    COMPLEX: lambda f: complex(*f),
    BYTEARRAY: bytearray,
    SURROGATES: lambda f: str(f, "utf-8", "surrogatepass"),
    RANGE: lambda f: range(*f),
    SLICE: lambda f: slice(*f),
    ELLIPSIS: lambda f: ...,
    DECIMAL: Decimal,
    FRACTION: lambda f: Fraction(*f),
    UUID_: lambda f: UUID(bytes=f),
    DATE: lambda f: dt.date(*f),
    TIME: lambda f: _read_clock(dt.time, f),
    DATETIME: lambda f: _read_clock(dt.datetime, f),
    TIMEDELTA: lambda f: dt.timedelta(*f),
    TIMEZONE: _read_timezone,
    ZONE: ZoneInfo,
    NPSCALAR: _read_scalar,
}
