"""SciPy's sparse matrices and arrays, by the arrays they are made of.

The part, ``vineyard.scipy.csr_array`` and so on, is a descriptor without columns:
``{"shape", "members", "facts"}``. The members are parts of their own, tensors
over the matrix's own memory, in the order of `_MEMBERS`; ``coo`` has its coordinates, one
an axis, and then its values. Lists (lil) and dictionaries (dok) of Python objects are
stored as the same kinds of arrays, and made anew by a get.
"""

from __future__ import annotations

from itertools import accumulate, chain, pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import scipy.sparse as sp

from ..errors import InvalidObjectError
from ..registry import Encoder, Part, StoredObject, StoredPart, builtin_registry
from .pickling import pickle_part

__all__: list[str] = []

_COMPRESSED = ("data", "indices", "indptr")
# Attributes that hold the arrays of a format.
_MEMBERS: dict[str, tuple[str, ...]] = {
    "csr": _COMPRESSED,
    "csc": _COMPRESSED,
    "bsr": _COMPRESSED,
    "dia": ("data", "offsets"),
}
# Facts that SciPy keeps once it has found them out; unknown ones are left to be found out.
_FACTS = ("_has_sorted_indices", "_has_canonical_format", "has_canonical_format", "maxprint")
_ATTRIBUTES = {*_COMPRESSED, *_FACTS, "_shape", "_dict", "coords", "dtype", "offsets", "rows"}
_FORMATS = (*_MEMBERS, "coo", "lil", "dok")
_CLASSES: dict[str, Any] = {
    f"vineyard.scipy.{form}_{kind}": getattr(sp, f"{form}_{kind}")
    for form in _FORMATS
    for kind in ("matrix", "array")
}
_TYPENAMES = {cls: typename for typename, cls in _CLASSES.items()}
_NO_COLUMNS = pa.schema([])


@builtin_registry.builder(*_TYPENAMES)
def build_sparse(matrix: Any, encoder: Encoder) -> Part:
    """A sparse matrix or array: its arrays are handed over as they are."""
    typename, state = _TYPENAMES.get(type(matrix)), vars(matrix)
    if typename is None or not state.keys() <= _ATTRIBUTES:
        return pickle_part(matrix, encoder)
    params = {
        "shape": list(map(int, matrix.shape)),
        "facts": {name: int(state[name]) for name in _FACTS if name in state},
        "members": [encoder.add(array) for array in _arrays(matrix)],
    }
    return Part(typename, _NO_COLUMNS, [], params)


def _arrays(matrix: Any) -> list[Any]:
    if matrix.format == "coo":
        return [*matrix.coords, matrix.data]
    if matrix.format == "lil":
        return _of_lists(matrix)
    if matrix.format == "dok":
        return _of_dict(matrix)
    return [getattr(matrix, name) for name in _MEMBERS[matrix.format]]


def _resolve(part: StoredPart, stored: StoredObject) -> Any:
    params = part.params
    shape = tuple(params["shape"])
    arrays = [stored.resolve(index) for index in params["members"]]
    # The constructors that take arrays would look at every index, and narrow them.
    matrix = _CLASSES[part.typename]((1,) * len(shape))
    matrix._shape = shape
    form = matrix.format
    if form in ("lil", "dok"):
        matrix.dtype = arrays[-1].dtype
    if form == "coo":
        *coords, matrix.data = arrays
        matrix.coords = tuple(coords)
    elif form == "lil":
        matrix.rows, matrix.data = _lists(*arrays)
    elif form == "dok":
        matrix._dict = _dict(*arrays)
    else:
        for name, array in zip(_MEMBERS[form], arrays, strict=True):
            setattr(matrix, name, array)
    for name, fact in params["facts"].items():
        vars(matrix)[name] = fact if name == "maxprint" else bool(fact)
    if stored.validate:
        _check(matrix)
    return matrix


def _check(matrix: Any) -> None:
    """Raise unless all indices lie within the matrix: SciPy's own routines trust them."""
    try:
        if matrix.format in ("csr", "csc", "bsr"):
            matrix.check_format(full_check=True)
        elif matrix.format == "coo":
            matrix._check()
        elif matrix.format == "dia":
            type(matrix)((matrix.data, matrix.offsets), shape=matrix.shape)
    except (ValueError, TypeError) as error:
        raise InvalidObjectError(f"this {matrix.format} matrix is damaged: {error}") from None


for _typename in _CLASSES:
    builtin_registry.resolver(_typename)(_resolve)


# -- lists and dictionaries ----------------------------------------------------------------


def _of_lists(matrix: Any) -> list[Any]:
    lengths = map(len, matrix.rows)
    indptr = np.fromiter(accumulate(lengths, initial=0), "i8", len(matrix.rows) + 1)
    count = int(indptr[-1])
    indices = np.fromiter(chain.from_iterable(matrix.rows), "i8", count)
    data = np.fromiter(chain.from_iterable(matrix.data), matrix.dtype, count)
    return [indptr, indices, data]


def _lists(indptr: Any, indices: Any, data: Any) -> tuple[Any, Any]:
    columns = np.empty(len(indptr) - 1, dtype=object)
    values = columns.copy()
    for i, (begin, end) in enumerate(pairwise(indptr.tolist())):
        columns[i] = indices[begin:end].tolist()
        values[i] = data[begin:end].tolist()
    return columns, values


def _of_dict(matrix: Any) -> list[Any]:
    entries = matrix._dict
    keys = entries if matrix.ndim == 1 else chain.from_iterable(entries)
    flat = np.fromiter(keys, "i8", len(entries) * matrix.ndim)
    return [
        flat.reshape(-1, matrix.ndim),
        np.fromiter(entries.values(), matrix.dtype, len(entries)),
    ]


def _dict(keys: Any, data: Any) -> dict[Any, Any]:
    if keys.shape[1] == 1:
        return dict(zip(keys[:, 0].tolist(), data, strict=True))
    return dict(zip(map(tuple, keys.tolist()), data, strict=True))
