"""What stored parts are to pyarrow itself: the Arrow extension types ``vineyard.*``.

A part that is more than Arrow data (a tensor, a sparse matrix, a frame, an index, a pickle)
names its kind by the extension type of its one column, whose storage is what any Arrow reader
sees. A client needs none of these classes: they are for who reads the columns by other means,
as by `pyarrow.ipc`, and are registered only by `register`. docs/types.md has the list.

Examples
--------
>>> from vineyard_arrow import extension_types
>>> extension_types.register()
>>> type_ = extension_types.TensorType(pa.float64(), b'{"shape":[2,1],"dtype":"<f8","order":"C"}')
>>> pa.ExtensionArray.from_storage(type_, pa.array([1.0, 2.0])).to_numpy()
array([[1.],
       [2.]])
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from .errors import InvalidObjectError
from .ipc.schemas import EXTENSION_NAME, EXTENSION_PARAMS

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "ObjectType",
    "ShapedType",
    "TensorArray",
    "TensorType",
    "VineyardArray",
    "VineyardType",
    "register",
    "type_of",
    "unregister",
]


class VineyardArray(pa.ExtensionArray):  # type: ignore[misc]
    """The column of a part."""

    @property
    def data(self) -> pa.Buffer:
        """The bytes of the column, not copied: a pickle's stream, for one, that nobody loads."""
        from .types.memory import data_buffer

        return data_buffer(self.storage)


class VineyardType(pa.ExtensionType):  # type: ignore[misc]
    """A kind of part.

    Parameters
    ----------
    storage_type : pyarrow.DataType
        Of the column as it is stored; null for a part that has no data of its own.
    serialized : bytes
        The part's descriptor, in JSON.
    """

    typename = ""
    """Name of the kind, which is that of the extension type."""

    def __init__(self, storage_type: pa.DataType, serialized: bytes = b"") -> None:
        self._serialized = serialized
        super().__init__(storage_type, self.typename)

    @property
    def params(self) -> dict[str, Any]:
        """The part's descriptor."""
        try:
            params = json.loads(self._serialized or b"{}")
        except ValueError as error:
            raise InvalidObjectError(f"a {self.typename} has no descriptor: {error}") from None
        if not isinstance(params, dict):
            raise InvalidObjectError(f"a {self.typename} has no descriptor, but {params!r}")
        return params

    def _param(self, name: str, kind: type) -> Any:
        value = self.params.get(name)
        if not isinstance(value, kind):
            raise InvalidObjectError(f"the descriptor of a {self.typename} has no {name}")
        return value

    def __arrow_ext_serialize__(self) -> bytes:
        return self._serialized

    @classmethod
    def __arrow_ext_deserialize__(
        cls, storage_type: pa.DataType, serialized: bytes
    ) -> VineyardType:
        return cls(storage_type, serialized)

    def __arrow_ext_class__(self) -> type[pa.ExtensionArray]:
        return VineyardArray


class ShapedType(VineyardType):
    """A tensor or a sparse matrix of any library."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return tuple(self._param("shape", list))


class TensorType(ShapedType):
    """A NumPy array: all elements in one column, in the order in which they lie in memory."""

    typename = "vineyard.tensor"

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype, of which Arrow's storage type may know only the bytes."""
        from .types.numpy import dtype_of

        return dtype_of(self.params.get("dtype"))

    @property
    def order(self) -> str:
        """``"C"`` (the last axis is contiguous) or ``"F"`` (the first)."""
        return str(self._param("order", str))

    def __arrow_ext_class__(self) -> type[pa.ExtensionArray]:
        return TensorArray


class TensorArray(VineyardArray):
    """The column of a tensor: one row an element (or a byte, for dtypes that Arrow has not)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return self.type.shape  # type: ignore[no-any-return]

    def to_numpy(self, zero_copy_only: bool = True, writable: bool = False) -> Any:
        """The tensor, over the column's memory.

        Parameters
        ----------
        zero_copy_only : bool
            As pyarrow has it; nothing is ever copied but for ``writable``.
        writable : bool
            Make a copy that can be written.

        Raises
        ------
        InvalidObjectError
            If this is only a slice of the tensor's column.
        """
        from .types.numpy import array_over

        type_ = self.type
        if self.data.size != math.prod(type_.shape) * type_.dtype.itemsize:
            raise InvalidObjectError(
                f"{len(self)} rows are not the tensor of shape {type_.shape}",
                "a slice of its column is none: take it of to_numpy()",
            )
        array = array_over(self.data, type_.shape, type_.dtype, type_.order)
        return array.copy() if writable else array


class ObjectType(VineyardType):
    """A member of a composite object: a field without values, of the member's name."""

    typename = "vineyard.object"

    @property
    def params(self) -> dict[str, Any]:
        """``{"typename": ...}``, that of the member."""
        return {"typename": self._serialized.decode()}


_ours: dict[str, type[VineyardType]] = {
    "vineyard.tensor": TensorType,
    "vineyard.object": ObjectType,
}


def _add(base: type[VineyardType], *typenames: str) -> None:
    for typename in typenames:
        attributes = {"typename": typename, "__module__": __name__, "__doc__": base.__doc__}
        _ours[typename] = type(f"{base.__name__}[{typename}]", (base,), attributes)


_add(ShapedType, "vineyard.torch.tensor", "vineyard.torch.sparse")
_add(ShapedType, *(f"vineyard.sparse.{form}" for form in ("COO", "GCXS", "DOK")))
for _form in ("csr", "csc", "bsr", "dia", "coo", "lil", "dok"):
    _add(ShapedType, f"vineyard.scipy.{_form}_matrix", f"vineyard.scipy.{_form}_array")
_add(VineyardType, "vineyard.blob", "vineyard.pickle", "vineyard.python.value")
_add(VineyardType, "vineyard.numpy.objects", "vineyard.numpy.masked")
_add(VineyardType, *(f"vineyard.pandas.{k}" for k in ("dataframe", "series", "index", "array")))


def type_of(typename: str) -> type[VineyardType]:
    """The extension type of parts of ``typename``; made when first asked for, if not ours."""
    if typename not in _ours:
        _add(VineyardType, typename)
    return _ours[typename]


def register(*typenames: str) -> None:
    """Let pyarrow make these types of what it reads, in this process.

    May be called again. What is registered under one of the names already, by another release
    of this library, say, stays.

    Parameters
    ----------
    *typenames : str
        Kinds of parts of a package's own, besides those of this library.
    """
    for typename in typenames:
        type_of(typename)
    for cls in list(_ours.values()):
        try:
            pa.register_extension_type(cls(pa.null()))
        except pa.ArrowKeyError:
            continue  # there is one already


def unregister() -> None:
    """Undo `register`: from here on pyarrow reads the storage types."""
    for typename in list(_ours):
        try:
            pa.unregister_extension_type(typename)
        except pa.ArrowKeyError:
            continue


def with_types(schema: pa.Schema) -> pa.Schema:
    """``schema`` with the extension types of ours that were not registered when it was read."""
    fields = []
    for field in schema:
        metadata = dict(field.metadata or {})
        cls = _ours.get(metadata.pop(EXTENSION_NAME, b"").decode())
        if cls is not None:
            type_ = cls(field.type, metadata.pop(EXTENSION_PARAMS, b""))
            field = pa.field(field.name, type_, field.nullable, metadata or None)
        fields.append(field)
    return pa.schema(fields, schema.metadata)
