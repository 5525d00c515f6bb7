"""How a part's kind is written into its Arrow schema, and taken out of it again.

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

__all__ = ["EXTENSION_NAME", "EXTENSION_PARAMS", "stored_schema", "user_schema"]

EXTENSION_NAME, EXTENSION_PARAMS = b"ARROW:extension:name", b"ARROW:extension:metadata"
_COLUMN = "data"
# Parts whose fields are the user's own, or, for the last, members'.
_PLAIN = frozenset(
    f"vineyard.{name}"
    for name in (
        "table", "record_batch", "chunked_array", "array", "scalar", "schema", "arrow.reader",
        "arrow.field", "arrow.type", "object", "members",
    )
)  # fmt: skip
_NO_COLUMNS = pa.schema([])

_decode = msgspec.json.Decoder().decode


def stored_schema(schema: pa.Schema, typename: str, params: bytes | None) -> pa.Schema:
    """``schema`` as a part of ``typename`` is stored, ``params`` being the JSON of its descriptor.

    Types stay what they are, an extension type is in the field's metadata alone.
    """
    metadata = dict(schema.metadata or {})
    metadata[b"vineyard.type"] = typename.encode()
    if params is not None:
        metadata[b"vineyard.params"] = params
    if len(schema) > 1 or typename in _PLAIN:
        return schema.with_metadata(metadata)
    column = schema.field(0) if len(schema) else pa.field(_COLUMN, pa.null())
    if len(schema) and not _is_ours(column):
        return schema.with_metadata(metadata)
    extension = {EXTENSION_NAME: typename.encode(), EXTENSION_PARAMS: params or b""}
    return pa.schema([column.with_metadata(extension)], metadata)


def _is_ours(column: pa.Field) -> bool:
    return (
        column.name == _COLUMN
        and not column.nullable
        and column.metadata is None
        and pa.types.is_primitive(column.type)
    )


def user_schema(schema: pa.Schema, extensions: int) -> tuple[str, dict[str, Any], pa.Schema, bool]:
    """Typename, descriptor and schema of a part, undoing `stored_schema`.

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
    metadata = dict(schema.metadata or {})
    typename = metadata.pop(b"vineyard.type", b"vineyard.table").decode()
    data = metadata.pop(b"vineyard.params", None)
    params = _decode(data) if data else {}
    if extensions and len(schema) == 1 and typename not in _PLAIN:
        column = schema.field(0)
        if column.name == _COLUMN and _extension_name(column) == typename:
            type_ = getattr(column.type, "storage_type", column.type)
            if pa.types.is_null(type_):
                return typename, params, _NO_COLUMNS, extensions == 1
            schema = pa.schema([pa.field(_COLUMN, type_, nullable=False)])
            extensions -= 1
    lasting = not extensions or extensions == sum(_is_arrows_own(field.type) for field in schema)
    if not lasting:
        from ..extension_types import with_types

        schema = with_types(schema)
    return typename, params, schema.with_metadata(metadata or None), lasting


def _extension_name(field: pa.Field) -> str | None:
    if isinstance(field.type, pa.BaseExtensionType):
        return str(field.type.extension_name)
    name = (field.metadata or {}).get(EXTENSION_NAME)
    return None if name is None else name.decode()


def _is_arrows_own(type_: pa.DataType) -> bool:
    # One written in C++, such as arrow.bool8, which is always registered.
    return isinstance(type_, pa.BaseExtensionType) and not isinstance(type_, pa.ExtensionType)
