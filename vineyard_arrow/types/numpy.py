"""NumPy arrays as tensors: one column of Arrow numbers, or of raw bytes, over their memory.

A tensor's descriptor is ``{"shape": [...], "dtype": ..., "order": "C" or "F"}`` and
``"class"`` for the two subclasses of NumPy's own. ``dtype`` is `numpy.dtype.str`, for
records a dict (see `describe_dtype`). What no descriptor tells exactly (object arrays,
StringDType, dtypes with metadata, foreign subclasses) goes the way of Python values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from ..errors import InvalidObjectError
from ..registry import Encoder, Part, StoredObject, StoredPart, builtin_registry
from .memory import BYTES, byte_batch, data_buffer, memory_of
from .pickling import pickle_part
from .plain import NotPlainError
from .python import build_python, value_of, value_part

__all__ = ["ARROW_TYPES", "BOOL8", "array_over", "describe_dtype", "dtype_of", "flat_buffer"]

TENSOR = "vineyard.tensor"
OBJECTS = "vineyard.numpy.objects"
MASKED = "vineyard.numpy.masked"

ARROW_TYPES: dict[np.dtype[Any], pa.DataType] = {
    np.dtype(t): pa.from_numpy_dtype(t)
    for t in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
}
"""Types of Arrow whose values lie in memory just as NumPy's."""
_DTYPES = {type_: dtype for dtype, type_ in ARROW_TYPES.items()}
_INT64 = pa.int64()
BOOL8 = pa.bool8()
"""Arrow's own type for booleans of a byte each: what other readers take for what it is."""
_SCHEMAS = {
    t: pa.schema([pa.field("data", t, nullable=False)])
    for t in {*ARROW_TYPES.values(), _INT64, BOOL8}
}
_NO_BYTES = pa.py_buffer(b"")
# Kinds that dtype.str tells exactly.
_SIMPLE_KINDS = frozenset("biufcmMSU")
# A memmap is its file's array here: the file is not stored.
_PLAIN_CLASSES = {np.ndarray: None, np.memmap: None, np.recarray: "recarray", np.matrix: "matrix"}
_CLASSES = {"recarray": np.recarray, "matrix": np.matrix}

builtin_registry.builder(np.generic)(build_python)


# -- dtypes -------------------------------------------------------------------------------


def describe_dtype(dtype: np.dtype[Any]) -> Any:
    """What of JSON `dtype_of` makes the same dtype of, or None if nothing does.

    `numpy.dtype.str`; ``{"base", "shape"}`` for a sub-array; for a record ``{"names",
    "formats", "offsets", "titles", "itemsize", "aligned", "record"}``.
    """
    if dtype.metadata is not None or dtype.hasobject:
        return None
    if dtype.kind in _SIMPLE_KINDS:
        return dtype.str
    if dtype.subdtype is not None:
        base = describe_dtype(dtype.subdtype[0])
        return base and {"base": base, "shape": list(dtype.shape)}
    if dtype.kind != "V":
        return None
    if dtype.names is None or dtype.fields is None:
        return dtype.str
    fields = [dtype.fields[name] for name in dtype.names]
    formats = [describe_dtype(field[0]) for field in fields]
    titles = [field[2] if len(field) > 2 else None for field in fields]
    if None in formats or any(type(title) not in (str, type(None)) for title in titles):
        return None
    return {
        "names": list(dtype.names),
        "formats": formats,
        "offsets": [field[1] for field in fields],
        "titles": titles if any(titles) else None,
        "itemsize": dtype.itemsize,
        "aligned": dtype.isalignedstruct,
        "record": dtype.type is np.record,
    }


def dtype_of(description: Any) -> np.dtype[Any]:
    """The dtype that `describe_dtype` described.

    Raises
    ------
    InvalidObjectError
        If it described none, or one whose elements are pointers: made of stored bytes they
        would lead anywhere.
    """
    try:
        dtype = _dtype_of(description)
    except (TypeError, ValueError, KeyError) as error:
        raise InvalidObjectError(f"{description!r} is no dtype: {error}") from None
    if dtype.hasobject or (dtype.kind not in _SIMPLE_KINDS and dtype.kind != "V"):
        raise InvalidObjectError(f"an array of {dtype} cannot lie in shared memory")
    return dtype


def _dtype_of(description: Any) -> np.dtype[Any]:
    if isinstance(description, str):
        return np.dtype(description)
    if "base" in description:
        return np.dtype((dtype_of(description["base"]), tuple(description["shape"])))
    spec: Any = {key: description[key] for key in ("names", "offsets", "itemsize")}
    spec["formats"] = [dtype_of(form) for form in description["formats"]]
    if description["titles"] is not None:
        spec["titles"] = description["titles"]
    dtype = np.dtype(spec, align=description["aligned"])
    return np.dtype((np.record, dtype)) if description["record"] else dtype


def array_over(memory: Any, shape: Any, description: Any, order: Any = "C") -> Any:
    """An array over ``memory``, which exports the buffer protocol and is kept alive by it.

    Raises
    ------
    InvalidObjectError
        If the memory is too small for it, or the description makes no sense.
    """
    dtype = description if isinstance(description, np.dtype) else dtype_of(description)
    try:
        return np.ndarray(shape, dtype, memory, order=order)
    except (TypeError, ValueError) as error:
        nbytes = memoryview(memory).nbytes
        raise InvalidObjectError(
            f"{nbytes} bytes hold no array of {dtype} and shape {shape}: {error}"
        ) from None


# -- arrays -------------------------------------------------------------------------------


def flat_buffer(array: np.ndarray[Any, Any], order: str) -> pa.Buffer:
    """The memory of a contiguous array, not copied, as a buffer that keeps it alive."""
    if array.nbytes == 0:
        return _NO_BYTES
    if array.dtype in ARROW_TYPES:
        return pa.py_buffer(array)
    # Not every dtype exports the buffer protocol, but its bytes do.
    return pa.py_buffer(array.reshape(-1, order=order).view(np.uint8))  # type: ignore[call-overload]


@builtin_registry.builder(np.ndarray)
def build_array(array: np.ndarray[Any, Any], encoder: Encoder) -> Part:
    """An array: C and Fortran contiguous ones by their memory, others made C first."""
    cls = type(array)
    if cls not in _PLAIN_CLASSES:
        return pickle_part(array, encoder)
    if cls is not np.ndarray:
        array = array.view(np.ndarray)
    dtype = array.dtype
    if dtype.kind == "O" and cls is np.ndarray:
        return _build_objects(array, encoder)
    description = describe_dtype(dtype)
    if description is None:
        return pickle_part(array if cls is np.ndarray else array.view(cls), encoder)
    flags = array.flags
    order = "F" if flags.fnc else "C"
    if not flags.forc:
        array = array.copy(order="C")
    params: dict[str, Any] = {"shape": list(array.shape), "dtype": description, "order": order}
    name = _PLAIN_CLASSES[cls]
    if name is not None:
        params["class"] = name
    buffer = flat_buffer(array, order)
    if dtype.kind == "b" and array.ndim == 1:
        type_: pa.DataType | None = BOOL8
    else:
        type_ = _INT64 if dtype.kind in "mM" and dtype.isnative else ARROW_TYPES.get(dtype)
    if type_ is None:
        return Part(TENSOR, BYTES, [byte_batch(buffer)], params)
    schema = _SCHEMAS[type_]
    column = pa.Array.from_buffers(type_, array.size, [None, buffer], 0)
    return Part(TENSOR, schema, [pa.RecordBatch.from_arrays([column], schema=schema)], params)


@builtin_registry.resolver(TENSOR)
def resolve_array(part: StoredPart, stored: StoredObject) -> np.ndarray[Any, Any]:
    """An array over the mapped memory, read-only unless that is private."""
    params = part.params
    memory = memory_of(data_buffer(part.table.column(0)), part.writable)
    array: np.ndarray[Any, Any] = array_over(
        memory, params.get("shape"), params.get("dtype"), params.get("order")
    )
    name = params.get("class")
    return array if name is None else array.view(_CLASSES[name])


# -- as and from Arrow ----------------------------------------------------------------------


@builtin_registry.resolver(TENSOR, as_="arrow")
def arrow_of(part: StoredPart, stored: StoredObject) -> pa.Array | pa.Tensor:
    """An array of one dimension, a tensor of more; booleans and texts are copied."""
    if len(part.params["shape"]) != 1:
        return tensor_of(part, stored)
    return pa.array(resolve_array(part, stored))


@builtin_registry.resolver(TENSOR, as_=pa.Tensor)
def tensor_of(part: StoredPart, stored: StoredObject) -> pa.Tensor:
    """A tensor over the same memory."""
    array = resolve_array(part, stored)
    if array.dtype not in ARROW_TYPES:
        raise InvalidObjectError(
            f"Arrow has no tensors of {array.dtype}", "get it as it was put, without as_"
        )
    return pa.Tensor.from_numpy(array)


@builtin_registry.resolver(TENSOR, as_=pa.ChunkedArray)
def column_of(part: StoredPart, stored: StoredObject) -> pa.ChunkedArray:
    """An array of one dimension as a column."""
    shape = part.params["shape"]
    if len(shape) != 1:
        raise InvalidObjectError(
            f"an array of shape {tuple(shape)} is no column", "get it with as_=pyarrow.Tensor"
        )
    return pa.chunked_array([arrow_of(part, stored)])


@builtin_registry.resolver("vineyard.blob", as_=np.ndarray)
def bytes_of(part: StoredPart, stored: StoredObject) -> np.ndarray[Any, Any]:
    """The bytes of a blob as uint8."""
    return np.frombuffer(memory_of(data_buffer(part.table.column(0)), part.writable), np.uint8)


@builtin_registry.resolver("vineyard.chunked_array", as_=np.ndarray)
def values_of(part: StoredPart, stored: StoredObject) -> np.ndarray[Any, Any]:
    """A column: null-free numbers in one chunk over their memory, all others copied."""
    column = part.table.column(0)
    # Extension types written in Python need not have a hash.
    dtype = None if isinstance(column.type, pa.ExtensionType) else _DTYPES.get(column.type)
    if dtype is None or column.null_count or column.num_chunks > 1:
        return column.to_numpy()  # type: ignore[no-any-return]
    return np.frombuffer(memory_of(data_buffer(column), part.writable), dtype)


# -- object arrays ------------------------------------------------------------------------


def _build_objects(array: np.ndarray[Any, Any], encoder: Encoder) -> Part:
    order = "F" if array.flags.fnc else "C"
    value = (list(array.shape), order, array.ravel(order=order).tolist())  # type: ignore[arg-type]
    if array.ndim == 0:
        value = ([], "C", [array.item()])
    try:
        return value_part(OBJECTS, value, encoder)
    except NotPlainError:
        return pickle_part(array, encoder)


@builtin_registry.resolver(OBJECTS)
def resolve_objects(part: StoredPart, stored: StoredObject) -> np.ndarray[Any, Any]:
    """An array of the objects, made anew."""
    shape, order, items = value_of(part, stored)
    flat = np.empty(len(items), dtype=object)
    for i, item in enumerate(items):  # NumPy would unpack sequences in an assignment
        flat[i] = item
    return flat.reshape(shape, order=order)


# -- masked arrays ------------------------------------------------------------------------


@builtin_registry.builder(np.ma.MaskedArray)
def build_masked(array: Any, encoder: Encoder) -> Part:
    """A masked array as its data, mask and fill value."""
    data = array.data
    if type(array) is not np.ma.MaskedArray or type(data) is not np.ndarray:
        return pickle_part(array, encoder)
    mask = None if array.mask is np.ma.nomask else array.mask
    # The attribute, since the property sets a default as it is read.
    fill_value: Any = vars(array)["_fill_value"]
    value = (data, mask, fill_value, array.hardmask)
    try:
        return value_part(MASKED, value, encoder)
    except NotPlainError:
        return pickle_part(array, encoder)


@builtin_registry.resolver(MASKED)
def resolve_masked(part: StoredPart, stored: StoredObject) -> Any:
    """The masked array over mapped data and mask."""
    data, mask, fill_value, hard_mask = value_of(part, stored)
    array: Any = np.ma.MaskedArray(
        data, np.ma.nomask if mask is None else mask, copy=False, hard_mask=hard_mask
    )
    array._fill_value = fill_value
    return array
