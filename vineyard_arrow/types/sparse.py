"""Sparse arrays of PyData's ``sparse``, by the arrays they are made of.

``vineyard.sparse.COO`` and ``GCXS`` are descriptors, ``{"shape", "axes"?, "members"}``; the
members are tensors over the array's own memory and, last, the fill value. A ``DOK`` is
stored as coordinates and values, and its dictionary made anew by a get.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from ..errors import InvalidObjectError
from ..registry import Encoder, Part, StoredObject, StoredPart, builtin_registry
from .pickling import pickle_part

try:
    from sparse import COO, DOK, GCXS
except ImportError:  # some other module of that name
    COO = DOK = GCXS = None

__all__: list[str] = []

_COO = "vineyard.sparse.COO"
_GCXS = "vineyard.sparse.GCXS"
_DOK = "vineyard.sparse.DOK"
_NO_COLUMNS = pa.schema([])


def _part(typename: str, value: Any, members: list[Any], encoder: Encoder, **params: Any) -> Part:
    params["shape"] = list(map(int, value.shape))
    params["members"] = [encoder.add(member) for member in (*members, value.fill_value)]
    return Part(typename, _NO_COLUMNS, [], params)


def build_coo(value: Any, encoder: Encoder) -> Part:
    """Coordinates, one row an axis, and values."""
    if type(value) is not COO:
        return pickle_part(value, encoder)
    return _part(_COO, value, [value.coords, value.data], encoder)


def build_gcxs(value: Any, encoder: Encoder) -> Part:
    """Values, indices and index pointers of the compressed axes."""
    if type(value) is not GCXS:
        return pickle_part(value, encoder)
    axes = list(map(int, value.compressed_axes))
    members = [value.data, value.indices, value.indptr]
    return _part(_GCXS, value, members, encoder, axes=axes)


def build_dok(value: Any, encoder: Encoder) -> Part:
    """The dictionary's keys and values as two arrays."""
    if type(value) is not DOK:
        return pickle_part(value, encoder)
    entries = value.data
    flat = np.fromiter(chain.from_iterable(entries), "i8", len(entries) * value.ndim)
    data = np.fromiter(entries.values(), value.dtype, len(entries))
    return _part(_DOK, value, [flat.reshape(len(entries), value.ndim), data], encoder)


@builtin_registry.resolver(_COO)
def resolve_coo(part: StoredPart, stored: StoredObject) -> Any:
    """The array over mapped memory, checked no further."""
    coords, data, fill = map(stored.resolve, part.params["members"])
    shape = tuple(part.params["shape"])
    if stored.validate and coords.size:
        bounds = np.array(shape).reshape(-1, 1)
        if coords.shape[0] != len(shape) or (coords < 0).any() or (coords >= bounds).any():
            raise InvalidObjectError("the coordinates of this array lie outside of it")
    return COO(coords, data, shape, has_duplicates=False, sorted=True, fill_value=fill)


@builtin_registry.resolver(_GCXS)
def resolve_gcxs(part: StoredPart, stored: StoredObject) -> Any:
    """The array over mapped memory."""
    *arrays, fill = map(stored.resolve, part.params["members"])
    axes, shape = tuple(part.params["axes"]), tuple(part.params["shape"])
    return GCXS(tuple(arrays), shape, axes, fill_value=fill)


@builtin_registry.resolver(_DOK)
def resolve_dok(part: StoredPart, stored: StoredObject) -> Any:
    """The array, its dictionary made anew."""
    keys, data, fill = map(stored.resolve, part.params["members"])
    value = DOK(tuple(part.params["shape"]), dtype=data.dtype, fill_value=fill)
    value.data = dict(zip(map(tuple, keys.tolist()), data, strict=True))
    return value


if COO is not None:
    builtin_registry.builder(COO)(build_coo)
    builtin_registry.builder(GCXS)(build_gcxs)
    builtin_registry.builder(DOK)(build_dok)
