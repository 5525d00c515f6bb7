"""How a part's kind is taken out of its Arrow schema, into which the native core has written it.

Typename and descriptor are metadata of the schema: ``vineyard.type`` and, in JSON,
``vineyard.params``. A part that is no plain Arrow data, but one column ``data`` of numbers or
bytes over which the value is made, says the same by the column's extension type, of the
typename's name and with the descriptor as its parameters; one without columns has a column
``data`` of nulls for it. What a user gets, and a resolver, has nothing of all this.

Nothing here needs the extension types to be registered, or minds when they are.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pyarrow as pa

__all__ = ["EXTENSION_NAME", "EXTENSION_PARAMS", "PLAIN", "user_schema"]

EXTENSION_NAME, EXTENSION_PARAMS = b"ARROW:extension:name", b"ARROW:extension:metadata"
_COLUMN = "data"
PLAIN = frozenset(
    f"vineyard.{name}"
    for name in (
        "table", "record_batch", "chunked_array", "array", "scalar", "schema", "arrow.reader",
        "arrow.field", "arrow.type", "object", "members",
    )
)  # fmt: skip
"""Parts whose fields are the user's own, or members, or that are no more than their members."""
_NO_COLUMNS = pa.schema([])

_decode = msgspec.json.Decoder().decode


def user_schema(schema: pa.Schema, extensions: int) -> tuple[str, dict[str, Any], pa.Schema, bool]:
    """Typename, descriptor and schema of a part, undoing `_core.stored_schema`.

    Parameters
    ----------
    schema : pyarrow.Schema
        As Arrow reads it: a field of an extension type that is registered has that type.
    extensions : int
        How often the name of an extension type is in the message.

    Returns
    -------
    tuple
        The three, and whether the same message will always read so: what becomes of others'
        extension types depends on what is registered just then.
    """
    metadata = schema.metadata or {}
    typename = metadata.pop(b"vineyard.type", b"vineyard.table").decode()
    data = metadata.pop(b"vineyard.params", None)
    params = _decode(data) if data else {}
    if extensions and len(schema) == 1 and typename not in PLAIN:
        column = schema.field(0)
        if column.name == _COLUMN and _extension_name(column) == typename:
            type_ = getattr(column.type, "storage_type", column.type)
            schema = _without_extension(type_)
            extensions -= 1
    lasting = not extensions or extensions == sum(_is_arrows_own(field.type) for field in schema)
    if not lasting:
        from ..extension_types import with_types

        schema = with_types(schema)
    if metadata or schema.metadata:
        schema = schema.with_metadata(metadata or None)
    return typename, params, schema, lasting


# By the number of a type, of those that have no parameters: tensors of ever new shapes come by.
_known: dict[int, pa.Schema] = {}


def _without_extension(type_: pa.DataType) -> pa.Schema:
    found = _known.get(type_.id)
    if found is None:
        if pa.types.is_null(type_):
            return _NO_COLUMNS
        found = pa.schema([pa.field(_COLUMN, type_, nullable=False)])
        if pa.types.is_integer(type_) or pa.types.is_floating(type_):
            _known[type_.id] = found
    return found


def _extension_name(field: pa.Field) -> str:
    name = (field.metadata or {}).get(EXTENSION_NAME)
    return name.decode() if name is not None else getattr(field.type, "extension_name", "")


def _is_arrows_own(type_: pa.DataType) -> bool:
    # One written in C++, such as arrow.bool8, which is always registered.
    return isinstance(type_, pa.BaseExtensionType) and not isinstance(type_, pa.ExtensionType)
