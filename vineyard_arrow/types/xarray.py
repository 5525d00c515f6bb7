"""xarray's labelled arrays and datasets, by the arrays and indexes they are made of.

``vineyard.xarray.dataset`` and ``vineyard.xarray.dataarray`` are plain values, a `_Content` each.
What is over other than NumPy's arrays (Dask's, files not read yet), has an index of another kind
(of several levels, say), or is of a subclass is pickled; arrays inside of it are shared too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from xarray.indexes import PandasIndex

from ..registry import Encoder, Part, StoredObject, StoredPart, builtin_registry
from .pickling import pickle_part
from .plain import NotPlainError
from .python import value_of, value_part

__all__: list[str] = []

DATASET = "vineyard.xarray.dataset"
DATAARRAY = "vineyard.xarray.dataarray"


class _Content(NamedTuple):
    coords: list[Any]  # (name, dims, array, or None where an index has it, attrs, encoding)
    data: list[Any]  # the like, of a dataset's variables or of the array itself
    indexes: list[Any]  # (name, dim, pandas.Index, see _carrier)
    about: Any  # (attrs, encoding) of a dataset; the name of an array


@builtin_registry.builder(xr.Dataset)
def build_dataset(dataset: xr.Dataset, encoder: Encoder) -> Part:
    """A dataset: arrays and indexes are handed over as they lie."""
    about = (dict(dataset.attrs), dict(dataset.encoding))
    variables = [(name, dataset.variables[name]) for name in dataset.data_vars]
    return _build(DATASET, dataset, xr.Dataset, variables, about, encoder)


@builtin_registry.builder(xr.DataArray)
def build_dataarray(array: xr.DataArray, encoder: Encoder) -> Part:
    """A labelled array: its memory and indexes are handed over as they lie."""
    variables = [(None, array.variable)]
    return _build(DATAARRAY, array, xr.DataArray, variables, array.name, encoder)


def _build(
    typename: str, value: Any, cls: type, data: Iterable[Any], about: Any, encoder: Encoder
) -> Part:
    indexes = dict(value.xindexes)
    coords = [(name, value.coords[name].variable) for name in value.coords]
    content = None
    if type(value) is cls and all(type(index) is PandasIndex for index in indexes.values()):
        content = _Content(
            [_described(name, variable, name in indexes) for name, variable in coords],
            [_described(name, variable, False) for name, variable in data],
            [
                (name, index.dim, index.index, _carrier(index.coord_dtype))
                for name, index in indexes.items()
            ],
            about,
        )
    if content is None or None in content.coords or None in content.data:
        return pickle_part(value, encoder)
    try:
        return value_part(typename, tuple(content), encoder)
    except NotPlainError:
        return pickle_part(value, encoder)


def _carrier(dtype: Any) -> np.ndarray[Any, Any] | None:
    """Something storable that tells a coordinate's dtype; pandas' own are those of their index."""
    return np.empty(0, dtype) if isinstance(dtype, np.dtype) else None


def _described(name: Any, variable: xr.Variable, indexed: bool) -> Any:
    """A variable in the form of `_Content`; None if its data is no NumPy array in memory."""
    data = None if indexed else variable._data
    if not indexed and not isinstance(data, np.ndarray):
        return None
    return name, variable.dims, data, dict(variable.attrs), dict(variable.encoding)


@builtin_registry.resolver(DATASET)
def resolve_dataset(part: StoredPart, stored: StoredObject) -> xr.Dataset:
    """The dataset over mapped memory."""
    content = _Content(*value_of(part, stored))
    attrs, encoding = content.about
    variables = {name: _variable(*rest) for name, *rest in content.data}
    dataset = xr.Dataset(variables, _coordinates(content), attrs)
    dataset.encoding = encoding
    return dataset


@builtin_registry.resolver(DATAARRAY)
def resolve_dataarray(part: StoredPart, stored: StoredObject) -> xr.DataArray:
    """The labelled array over mapped memory."""
    content = _Content(*value_of(part, stored))
    ((_, *rest),) = content.data
    array = xr.DataArray(_variable(*rest), _coordinates(content), name=content.about)
    array.encoding = rest[-1]
    return array


@builtin_registry.resolver(DATAARRAY, as_=np.ndarray)
def values_of(part: StoredPart, stored: StoredObject) -> np.ndarray[Any, Any]:
    """The values of a labelled array, without the labels."""
    values: np.ndarray[Any, Any] = resolve_dataarray(part, stored).values
    return values


def _variable(dims: Any, data: Any, attrs: Any, encoding: Any) -> xr.Variable:
    return xr.Variable(dims, data, attrs, encoding, fastpath=True)


def _coordinates(content: _Content) -> xr.Coordinates:
    indexes = {
        name: PandasIndex(index, dim, index.dtype if carrier is None else carrier.dtype)
        for name, dim, index, carrier in content.indexes
    }
    variables = {}
    for name, dims, data, attrs, encoding in content.coords:
        if name in indexes:
            (variable,) = indexes[name].create_variables().values()
            variable.attrs, variable.encoding = attrs, encoding
        else:
            variable = _variable(dims, data, attrs, encoding)
        variables[name] = variable
    return xr.Coordinates(variables, indexes)
