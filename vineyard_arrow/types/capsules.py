"""Values of any library that hand out their memory by a protocol.

What such a value *is* only its library knows; what its memory holds the protocols tell:
the Arrow PyCapsule interface a table, a record batch or an array, DLPack a tensor. That
is stored, shared if it lies in the store and copied once if not, and that comes back: a
pyarrow or NumPy value, not one of the library's class. (Inside an object that is pickled
such values keep their class, on which the object counts.)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from ..registry import Encoder, Part, builtin_registry
from . import arrow
from . import numpy as tensors
from .pickling import changes_class, pickle_part

__all__: list[str] = []


@builtin_registry.protocol("__arrow_c_stream__")
@changes_class
def build_stream(value: Any, encoder: Encoder) -> Part:
    """A stream of batches as a table, one of arrays as a chunked array."""
    try:
        reader = pa.RecordBatchReader.from_stream(value)
    except pa.ArrowInvalid:  # its type is no struct
        return arrow.build_chunked(pa.chunked_array(value), encoder)
    return arrow.build_table(reader.read_all(), encoder)


@builtin_registry.protocol("__arrow_c_array__")
@changes_class
def build_array(value: Any, encoder: Encoder) -> Part:
    """An array; one of structs without nulls is what a record batch looks like."""
    array = pa.array(value)
    if pa.types.is_struct(array.type) and not array.null_count:
        return arrow.build_batch(pa.record_batch(value), encoder)
    return arrow.build_array(array, encoder)


@builtin_registry.protocol("__dlpack__")
@changes_class
def build_tensor(value: Any, encoder: Encoder) -> Part:
    """A tensor that NumPy can view; another is pickled."""
    try:
        array = np.from_dlpack(value)
    except (BufferError, RuntimeError):  # on another device, or of a dtype NumPy has not
        return pickle_part(value, encoder)
    return tensors.build_array(array, encoder)
