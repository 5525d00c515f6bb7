"""The Arrow extension type of shared classes, and the root of a stored object, which is of it."""

from __future__ import annotations

import json

import pyarrow as pa

from ..errors import InvalidObjectError
from ..registry import StoredPart

__all__ = ["OBJECT", "SharedType", "register_type", "root_of"]

OBJECT = "object"
"""Name of the one column of an object's root."""


class SharedType(pa.ExtensionType):  # type: ignore[misc]  # pyarrow has no types
    """The Arrow extension type of a shared class: a struct of its fields.

    Attributes
    ----------
    version : int
        That of the class; of a stored object, the one it was written with.
    fields : dict of str to str
        The types of the fields, as they were declared.
    """

    def __init__(
        self, storage: pa.DataType, typename: str, version: int, fields: dict[str, str]
    ) -> None:
        self.version = version
        self.fields = fields
        described = {"typename": typename, "version": version, "fields": fields}
        self._serialized = json.dumps(described).encode()
        super().__init__(storage, typename)

    def __eq__(self, other: object) -> bool:
        # pyarrow's own knows nothing of what is serialized: versions would be mixed up.
        return (
            isinstance(other, SharedType)
            and self._serialized == other._serialized
            and bool(self.storage_type == other.storage_type)
        )

    def __hash__(self) -> int:
        return hash(self._serialized)

    def __arrow_ext_serialize__(self) -> bytes:
        return self._serialized

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: pa.DataType, serialized: bytes) -> SharedType:
        # Arrow keeps no hold on what it is given, and would come back for each access.
        known = _known.get(serialized)
        if known is None or known.storage_type != storage:
            try:
                described = json.loads(serialized)
                typename, version = described["typename"], int(described["version"])
                known = cls(storage, typename, version, dict(described["fields"]))
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(
                    f"an extension type with the name of a shared class, but not its: {error!r}"
                ) from None
            if len(_known) >= _MAX_KNOWN:
                _known.clear()
            _known[serialized] = known
        return known


_MAX_KNOWN = 256
_known: dict[bytes, SharedType] = {}


def register_type(type_: SharedType, again: bool) -> None:
    """Make pyarrow read the type as what it is; ``again``: its class was defined before."""
    try:
        pa.register_extension_type(type_)
    except pa.ArrowKeyError:
        if not again:
            raise InvalidObjectError(
                f"pyarrow knows another extension type {type_.extension_name!r}",
                "give another name: @vineyard_arrow.shared(typename=...)",
            ) from None
        pa.unregister_extension_type(type_.extension_name)
        pa.register_extension_type(type_)


def root_of(part: StoredPart) -> tuple[SharedType, pa.StructArray]:
    """The type that an object was written as, and its one row."""
    table = part.table
    try:
        field, column = table.schema.field(OBJECT), table.column(OBJECT).chunk(0)
        type_ = field.type
        if not isinstance(type_, SharedType):  # read before its class was known
            type_ = SharedType.__arrow_ext_deserialize__(
                type_, field.metadata[b"ARROW:extension:metadata"]
            )
        else:
            column = column.storage
        if not (pa.types.is_struct(type_.storage_type) and len(column) == 1):
            raise ValueError(f"one row of {type_.storage_type}")
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise InvalidObjectError(
            f"this {part.typename} was not stored as a shared class: {error!r}"
        ) from None
    return type_, column
