"""PyTorch tensors, by the memory of their elements.

A dense tensor on the CPU is one column: numbers where Arrow has them, bytes for the other
dtypes (bfloat16, complex, bool, float8). Its descriptor is ``{"dtype", "shape",
"strides"?, "class"?, "requires_grad"?, "state"?}``; strides are there for tensors that
have no gaps but another order than C, such as transposed ones. Sparse tensors are a
descriptor without columns, and their indices and values parts of their own.

A tensor has no read-only state, and writing to one on a read-only map would kill the
process. So what a get gives lies in a copy-on-write map: pages are shared until they are
written, and what one process writes no other sees.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from ..errors import InvalidObjectError
from ..registry import Encoder, Part, StoredObject, StoredPart, builtin_registry
from .memory import BYTES, byte_batch, data_buffer, memory_of
from .numpy import ARROW_TYPES, TENSOR, flat_buffer, resolve_array
from .pickling import pickle_part

__all__: list[str] = []

DENSE = "vineyard.torch.tensor"
SPARSE = "vineyard.torch.sparse"
_CLASSES: dict[type, str | None] = {torch.Tensor: None, torch.nn.Parameter: "parameter"}
_NUMBERS = {
    getattr(torch, dtype.name): arrow_type
    for dtype, arrow_type in ARROW_TYPES.items()
    if hasattr(torch, dtype.name)
}
_SCHEMAS = {t: pa.schema([pa.field("data", t, nullable=False)]) for t in _NUMBERS.values()}
_NO_COLUMNS = pa.schema([])
_AS_PUT = "get it as it was put, without as_"
# Layouts of compressed sparse tensors, and whether they compress rows.
_COMPRESSED = {
    torch.sparse_csr: True,
    torch.sparse_bsr: True,
    torch.sparse_csc: False,
    torch.sparse_bsc: False,
}


@builtin_registry.builder(torch.Tensor)
def build_tensor(tensor: torch.Tensor, encoder: Encoder) -> Part:
    """A tensor or parameter without its history and its ``grad``, as `torch.save` does it.

    Tensors without gaps are handed over as they lie, others are made contiguous first.
    Those of other devices and kinds (quantized, nested, subclasses) are pickled.
    """
    if type(tensor) not in _CLASSES or _is_special(tensor):
        return pickle_part(tensor, encoder)
    params: dict[str, Any] = {"dtype": _name(tensor.dtype), "shape": list(tensor.shape)}
    if _CLASSES[type(tensor)] is not None:
        params["class"] = _CLASSES[type(tensor)]
    if tensor.requires_grad:
        params["requires_grad"] = True
    if vars(tensor):
        params["state"] = encoder.add(dict(vars(tensor)))
    plain = tensor.detach()
    if plain.layout is not torch.strided:
        return _build_sparse(plain, params, encoder)
    return _build_dense(plain.resolve_conj().resolve_neg(), params)


def _is_special(tensor: torch.Tensor) -> bool:
    if tensor.device.type != "cpu" or tensor.is_quantized or tensor.is_nested:
        return True
    return tensor.layout not in (torch.strided, torch.sparse_coo, *_COMPRESSED)


def _name(value: Any) -> str:
    return str(value).removeprefix("torch.")


# -- dense --------------------------------------------------------------------------------


def _build_dense(tensor: torch.Tensor, params: dict[str, Any]) -> Part:
    # Outermost axis first: contiguous then means that the elements lie without gaps.
    axes = sorted(range(tensor.ndim), key=lambda axis: -tensor.stride(axis))
    ordered = tensor.permute(axes)
    if not ordered.is_contiguous():
        ordered = tensor.contiguous()
    elif not tensor.is_contiguous():
        params["strides"] = list(tensor.stride())
    flat = ordered.reshape(-1)
    type_ = _NUMBERS.get(tensor.dtype)
    if type_ is None:
        return Part(DENSE, BYTES, [byte_batch(_bytes_of(flat))], params)
    schema = _SCHEMAS[type_]
    column = pa.Array.from_buffers(type_, flat.numel(), [None, flat_buffer(flat.numpy(), "C")], 0)
    return Part(DENSE, schema, [pa.RecordBatch.from_arrays([column], schema=schema)], params)


def _bytes_of(flat: torch.Tensor) -> pa.Buffer:
    return flat_buffer(flat.view(torch.uint8).numpy(), "C")


@builtin_registry.resolver(DENSE)
def resolve_dense(part: StoredPart, stored: StoredObject) -> torch.Tensor:
    """A tensor over memory that is private to this get."""
    part = stored.private(part)
    params = part.params
    buffer = data_buffer(part.table.column(0))
    dtype = getattr(torch, params["dtype"])
    if not buffer.size:
        if math.prod(params["shape"]):  # of memory that nobody has filled
            raise InvalidObjectError(f"no bytes are no tensor of shape {params['shape']}")
        return _finished(torch.empty(params["shape"], dtype=dtype), params, stored)
    memory = memory_of(buffer, True) if part.writable else bytearray(buffer)
    flat = torch.frombuffer(memory, dtype=dtype)
    strides = params.get("strides")
    shape = params["shape"]
    tensor = flat.view(shape) if strides is None else flat.as_strided(shape, strides)
    return _finished(tensor, params, stored)


def _finished(tensor: Any, params: dict[str, Any], stored: StoredObject) -> torch.Tensor:
    needs_grad = params.get("requires_grad", False)
    if params.get("class") == "parameter":
        tensor = torch.nn.Parameter(tensor, requires_grad=needs_grad)
    elif needs_grad:
        tensor.requires_grad_()
    state = params.get("state")
    if state is not None:
        vars(tensor).update(stored.resolve(state))
    return tensor


# -- sparse -------------------------------------------------------------------------------


def _build_sparse(tensor: torch.Tensor, params: dict[str, Any], encoder: Encoder) -> Part:
    params["layout"] = _name(tensor.layout)
    if tensor.layout is torch.sparse_coo:
        params["coalesced"] = tensor.is_coalesced()
        members = [tensor._indices(), tensor._values()]
    elif _COMPRESSED[tensor.layout]:
        members = [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    else:
        members = [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    params["members"] = [encoder.add(member) for member in members]
    return Part(SPARSE, _NO_COLUMNS, [], params)


@builtin_registry.resolver(SPARSE)
def resolve_sparse(part: StoredPart, stored: StoredObject) -> torch.Tensor:
    """A sparse tensor whose indices and values lie in memory private to this get."""
    params = part.params
    members = [stored.resolve(index) for index in params["members"]]
    options: dict[str, Any] = {"size": params["shape"], "check_invariants": stored.validate}
    try:
        if params["layout"] == "sparse_coo":
            tensor = torch.sparse_coo_tensor(*members, is_coalesced=params["coalesced"], **options)
        else:
            layout = getattr(torch, params["layout"])
            tensor = torch.sparse_compressed_tensor(*members, layout=layout, **options)
    except RuntimeError as error:
        raise InvalidObjectError(f"this sparse tensor is damaged: {error}") from None
    return _finished(tensor, params, stored)


# -- from and as NumPy --------------------------------------------------------------------


@builtin_registry.resolver(TENSOR, as_=torch.Tensor)
def tensor_of(part: StoredPart, stored: StoredObject) -> torch.Tensor:
    """A NumPy array as a tensor, over memory private to this get."""
    part = stored.private(part)
    array = resolve_array(part, stored)
    try:
        return torch.from_numpy(array if part.writable else array.copy())
    except TypeError as error:
        raise InvalidObjectError(f"PyTorch has no tensors of {array.dtype}", _AS_PUT) from error


@builtin_registry.resolver(DENSE, as_=np.ndarray)
def array_of(part: StoredPart, stored: StoredObject) -> np.ndarray[Any, Any]:
    """A tensor as a NumPy array over the same memory; none of bfloat16 and the like."""
    tensor = resolve_dense(part, stored).detach()
    try:
        array: np.ndarray[Any, Any] = tensor.numpy()
    except TypeError as error:
        raise InvalidObjectError(f"NumPy has no arrays of {tensor.dtype}", _AS_PUT) from error
    return array
