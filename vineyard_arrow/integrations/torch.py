"""Stored objects as PyTorch datasets, for `torch.utils.data.DataLoader` and its workers.

Examples
--------
>>> from vineyard_arrow.integrations.torch import Dataset
>>> data = Dataset("flights", columns=["distance", "air_time"])  # doctest: +SKIP
>>> loader = torch.utils.data.DataLoader(data, 256, num_workers=4)  # doctest: +SKIP
"""

from __future__ import annotations

import weakref
from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from .. import default_client
from ..client import connect, reconnect_options
from ..errors import InvalidObjectError, ResolverNotFoundError
from ..types.memory import data_buffer, memory_of
from ..types.numpy import ARROW_TYPES

if TYPE_CHECKING:
    from ..client import Client, Key

__all__ = ["Dataset"]

_DTYPES = {type_: dtype for dtype, type_ in ARROW_TYPES.items()}


class Dataset(torch.utils.data.Dataset):  # type: ignore[misc]
    """A map-style dataset over a stored object: nothing is copied but the samples.

    Workers of a loader read the same pages, forked or spawned: what is pickled is the
    object's id, and how to connect to its store, with the token if there is one. Tensors lie in
    a copy-on-write map, as all that a get gives: a transform may write to what it is given, and
    nobody else sees it.

    A sample of a table is a dict of tensors by column; of a tensor, an array, a
    ``TensorDataset``, or a tuple, list or dict of tensors, all of one length, it is the like
    of that. ``dataset[i]`` takes

    - an int: a sample;
    - a slice: samples in one, as views (copied together if it spans chunks of a table);
    - a list, array or tensor of ints: samples in one, copied together. That is the fast way
      to batches: ``DataLoader(dataset, sampler=BatchSampler(...), batch_size=None)``.

    Parameters
    ----------
    key : ObjectID, int or str
        Of the object. It may be deleted while the dataset lives, but not be sent to spawned
        workers then.
    columns : sequence of str, optional
        Those to take, of a table or a dict. By default all.
    client : Client, optional
        The default client by default.

    Raises
    ------
    ObjectNotFoundError
        If there is no such object.
    InvalidObjectError
        If it is nothing of the above; if a column has nulls, or is not of numbers, booleans
        or fixed-size lists of them.
    """

    def __init__(
        self, key: Key, columns: Sequence[str] | None = None, client: Client | None = None
    ) -> None:
        client = default_client() if client is None else client
        self._handle = client.get_object(key)  # deleted or not, workers that are forked find it
        self._options = reconnect_options(client)
        self._columns = None if columns is None else list(columns)
        self._shape, self._members = _members(self._handle, self._columns)
        lengths = {len(member) for member in self._members}
        if len(lengths) != 1:
            raise InvalidObjectError(
                f"{self._handle.id} has members of {len(lengths)} lengths",
                "a dataset's are of one length",
            )
        self._length = lengths.pop()

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, slice):
            index = _checked(index, self._length)
        return self._shape([member[index] for member in self._members])

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Many samples at once, as PyTorch's loaders ask for them."""
        taken = _checked(indices, self._length)
        rows = zip(*(member[taken] for member in self._members), strict=True)
        return [self._shape(list(row)) for row in rows]

    def __reduce__(self) -> tuple[Any, ...]:
        return _attach, (type(self), self._handle.id, self._columns, self._options)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._length:,} samples over {self._handle!r}>"


class _Chunks:
    """A column of several chunks, indexed as a tensor is."""

    def __init__(self, chunks: list[torch.Tensor]) -> None:
        self._chunks = chunks
        self._starts = np.cumsum([0, *map(len, chunks)]).tolist()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: Any) -> torch.Tensor:
        if isinstance(index, slice):
            begin, end, step = index.indices(len(self))
            at = bisect_right(self._starts, begin) - 1
            start = self._starts[at]
            if step > 0 and begin < end <= start + len(self._chunks[at]):
                return self._chunks[at][begin - start : end - start : step]
            if step < 0:
                raise ValueError("step must be greater than zero")  # as of tensors
            index = torch.arange(begin, end, step) if begin < end else torch.arange(0)
        if isinstance(index, int):
            at = bisect_right(self._starts, index) - 1
            return self._chunks[at][index - self._starts[at]]
        out = self._chunks[0].new_empty((len(index), *self._chunks[0].shape[1:]))
        for start, chunk in zip(self._starts, self._chunks, strict=False):
            there = (index >= start) & (index < start + len(chunk))
            out[there] = chunk[index[there] - start]
        return out


def _members(handle: Any, columns: list[str] | None) -> tuple[Any, list[Any]]:
    """How a sample is put together, and the tensors that it is put together of."""
    try:
        table = handle.get(as_=pa.Table, mode="cow")
    except ResolverNotFoundError:
        table = None
    if isinstance(table, pa.Table):
        names = table.column_names if columns is None else columns
        _check_names(names, table.column_names, handle)
        return _by_name(names), [_tensor_of(table[name], name) for name in names]
    value = handle.get(mode="cow")
    if isinstance(value, dict):
        names = list(value) if columns is None else columns
        _check_names(names, value, handle)
        return _by_name(names), [_member(value[name], handle) for name in names]
    if columns is not None:
        raise InvalidObjectError(f"{handle.id} is a {type(value).__name__}: it has no columns")
    if isinstance(value, torch.utils.data.TensorDataset):
        value = value.tensors
    if isinstance(value, (tuple, list)):
        return type(value), [_member(each, handle) for each in value]
    return _only, [_member(value, handle)]


def _by_name(names: list[str]) -> Any:
    return lambda row: dict(zip(names, row, strict=True))


def _only(row: list[Any]) -> Any:
    return row[0]


def _check_names(names: list[str], known: Any, handle: Any) -> None:
    missing = [name for name in names if name not in known]
    if missing or not names:
        raise InvalidObjectError(
            f"{handle.id} has no column {missing[0]!r}" if missing else "a dataset of no columns",
            f"it has {', '.join(map(repr, known))}",
        )


def _member(value: Any, handle: Any) -> torch.Tensor:
    if isinstance(value, (pa.Array, pa.ChunkedArray)):
        column = value if isinstance(value, pa.ChunkedArray) else pa.chunked_array([value])
        return _tensor_of(column, "data")
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc" and value.dtype.isnative:
        value = torch.from_numpy(value)
    if isinstance(value, torch.Tensor) and value.ndim and value.layout is torch.strided:
        return value
    raise InvalidObjectError(
        f"{handle.id} is or holds a {type(value).__name__}, which is no member of a dataset",
        "a dataset is over a table, or tensors and arrays with an axis of samples",
    )


def _tensor_of(column: pa.ChunkedArray, name: str) -> Any:
    """The tensor over the memory of a column, which is private; booleans are unpacked."""
    chunks = [chunk for chunk in column.chunks if len(chunk)] or [pa.nulls(0, column.type)]
    tensors = [_chunk(chunk, name) for chunk in chunks]
    return tensors[0] if len(tensors) == 1 else _Chunks(tensors)


def _chunk(array: pa.Array, name: str) -> torch.Tensor:
    if isinstance(array, pa.FixedShapeTensorArray):
        shape, array = array.type.shape, array.storage
        return _chunk(array, name).reshape(len(array), *shape)
    if array.null_count:
        raise InvalidObjectError(
            f"column {name!r} has nulls, which tensors have not",
            "fill them before the put (NaN of pandas counts as null), or choose other columns",
        )
    if pa.types.is_fixed_size_list(array.type):
        inner = _chunk(array.flatten(), name)
        return inner.reshape(len(array), array.type.list_size, *inner.shape[1:])
    if pa.types.is_boolean(array.type):
        return torch.from_numpy(array.to_numpy(zero_copy_only=False))
    # Extension types written in Python need not have a hash.
    ours = not isinstance(array.type, pa.ExtensionType)
    dtype = _DTYPES.get(array.type) if ours else None
    if dtype is None:
        raise InvalidObjectError(
            f"column {name!r} is of {array.type}, which tensors have not",
            "choose others by columns=, or cast it to numbers before the put",
        )
    return torch.from_numpy(np.frombuffer(memory_of(data_buffer(array), True), dtype))


def _checked(index: Any, length: int) -> Any:
    """An int, or a tensor of ints, from the start; IndexError if it is out of bounds."""
    if isinstance(index, (int, np.integer)):
        at = int(index) + (length if index < 0 else 0)
        if not 0 <= at < length:
            raise IndexError(f"sample {index} of {length}")
        return at
    taken = torch.as_tensor(index)
    if taken.shape == (0,):
        taken = taken.to(torch.int64)
    if taken.dtype is torch.bool or taken.is_floating_point() or taken.ndim > 1:
        raise InvalidObjectError(
            f"samples are not chosen by a {taken.ndim}-dimensional {taken.dtype}",
            "use an int, a slice, or a list of ints",
        )
    taken = taken.to(torch.int64)
    if not taken.ndim:
        return _checked(int(taken), length)
    taken = torch.where(taken < 0, taken + length, taken)
    if len(taken) and not 0 <= int(taken.min()) <= int(taken.max()) < length:
        raise IndexError(f"samples {int(taken.min())} to {int(taken.max())} of {length}")
    return taken


def _attach(kind: Any, key: int, columns: list[str] | None, options: dict[str, Any]) -> Any:
    """What a pickle of a dataset stands for, in any process that reaches the store."""
    client = connect(**options)
    try:
        made = kind(key, columns, client)
    except BaseException:
        client.close()
        raise
    weakref.finalize(made, client.close)
    return made
