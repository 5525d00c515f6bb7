"""pyarrow values: tables, batches, arrays, buffers, scalars, schemas.

Batches are handed over as they are; Arrow's own IPC writer trims slices and writes
dictionaries. Only extension types that pyarrow itself could not read back (classes of
this process that were never registered) need help: their schema travels pickled.
"""

from __future__ import annotations

import ctypes
from typing import Any

import pyarrow as pa

from ..errors import InvalidObjectError
from ..registry import Encoder, Part, StoredObject, StoredPart, builtin_registry
from .memory import BYTES, byte_batch, data_buffer
from .pickling import PICKLE, pickle_part

__all__: list[str] = []

_builder = builtin_registry.builder
_resolver = builtin_registry.resolver
_SCHEMA = "schema"
# What a table gives back, and an array, by whatever name it was put.
_TABLES = ("vineyard.table", "vineyard.record_batch", "vineyard.arrow.reader")
_COLUMNS = ("vineyard.chunked_array", "vineyard.array")
# sizeof(struct ArrowArray) of the Arrow C data interface
_SIZEOF_ARROW_ARRAY = 80


# -- tables and batches ----------------------------------------------------------------


@_builder(pa.Table)
def build_table(table: pa.Table, encoder: Encoder) -> Part:
    """A table by its batches; a chunk boundary in one column splits the others, not copied."""
    schema = table.schema
    return Part("vineyard.table", schema, table.to_batches(), _params(schema, encoder))


@_resolver("vineyard.table")
@_resolver(*_TABLES, as_=pa.Table)
def resolve_table(part: StoredPart, stored: StoredObject) -> pa.Table:
    """The mapped table itself."""
    return _typed_table(part, stored) if part.params else part.table


@_resolver("vineyard.table", as_=pa.RecordBatchReader)
def reader_of(part: StoredPart, stored: StoredObject) -> pa.RecordBatchReader:
    """A reader over the batches of a table."""
    return resolve_table(part, stored).to_reader()


@_builder(pa.RecordBatch)
def build_batch(batch: pa.RecordBatch, encoder: Encoder) -> Part:
    """A record batch as it is."""
    schema = batch.schema
    return Part("vineyard.record_batch", schema, [batch], _params(schema, encoder))


@_resolver("vineyard.record_batch")
def resolve_batch(part: StoredPart, stored: StoredObject) -> pa.RecordBatch:
    """The one batch of the part."""
    return _batches(_typed_table(part, stored))[0]


@_builder(pa.RecordBatchReader)
def build_reader(reader: pa.RecordBatchReader, encoder: Encoder) -> Part:
    """Everything a reader still has to give; it is exhausted afterwards."""
    schema = reader.schema
    return Part("vineyard.arrow.reader", schema, list(reader), _params(schema, encoder))


@_resolver("vineyard.arrow.reader")
def resolve_reader(part: StoredPart, stored: StoredObject) -> pa.RecordBatchReader:
    """A fresh reader over the stored batches."""
    table = _typed_table(part, stored)
    return pa.RecordBatchReader.from_batches(table.schema, _batches(table))


def _batches(table: pa.Table) -> list[pa.RecordBatch]:
    batches = table.to_batches()
    if batches or (table.num_columns and not table.column(0).num_chunks):
        return batches  # type: ignore[no-any-return]
    # to_batches gives nothing for one empty batch
    columns = [column.chunk(0) for column in table.columns]
    return [pa.RecordBatch.from_arrays(columns, schema=table.schema)]


# -- arrays ------------------------------------------------------------------------------


def _array_part(typename: str, type_: pa.DataType, chunks: list[Any], encoder: Encoder) -> Part:
    schema = pa.schema([pa.field("data", type_)])
    batches = [pa.RecordBatch.from_arrays([chunk], schema=schema) for chunk in chunks]
    return Part(typename, schema, batches, _params(schema, encoder))


@_builder(pa.ChunkedArray)
def build_chunked(array: pa.ChunkedArray, encoder: Encoder) -> Part:
    """A chunked array, a batch for each chunk."""
    return _array_part("vineyard.chunked_array", array.type, array.chunks, encoder)


@_resolver("vineyard.chunked_array")
@_resolver(*_COLUMNS, as_=pa.ChunkedArray)
def resolve_chunked(part: StoredPart, stored: StoredObject) -> pa.ChunkedArray:
    """The part's column, with the chunks it was put with."""
    return _typed_table(part, stored).column(0)


@_resolver("vineyard.chunked_array", as_=pa.Array)
def array_of(part: StoredPart, stored: StoredObject) -> pa.Array:
    """The only chunk; several are copied together."""
    column = resolve_chunked(part, stored)
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


@_builder(pa.Array)
def build_array(array: pa.Array, encoder: Encoder) -> Part:
    """An array of any type, extension arrays too."""
    return _array_part("vineyard.array", array.type, [array], encoder)


@_resolver("vineyard.array")
def resolve_array(part: StoredPart, stored: StoredObject) -> pa.Array:
    """The part's only chunk."""
    return _typed_table(part, stored).column(0).chunk(0)


@_builder(pa.Scalar)
def build_scalar(scalar: pa.Scalar, encoder: Encoder) -> Part:
    """A scalar, null ones too, as an array of one."""
    return _array_part("vineyard.scalar", scalar.type, [pa.repeat(scalar, 1)], encoder)


@_resolver("vineyard.scalar")
def resolve_scalar(part: StoredPart, stored: StoredObject) -> pa.Scalar:
    """The scalar."""
    return resolve_array(part, stored)[0]


@_builder(pa.Buffer)
def build_buffer(buffer: pa.Buffer, encoder: Encoder) -> Part:
    """A buffer as a column of bytes over it."""
    if not buffer.is_cpu:
        raise InvalidObjectError(
            f"a pyarrow.Buffer of {buffer.size} bytes is not in main memory",
            "copy it there first: buffer.copy(pa.default_cpu_memory_manager())",
        )
    return Part("vineyard.blob", BYTES, [byte_batch(buffer)])


@_resolver("vineyard.blob")
def resolve_buffer(part: StoredPart, stored: StoredObject) -> pa.Buffer:
    """The shared buffer itself."""
    return data_buffer(part.table.column(0))


# -- schemas -----------------------------------------------------------------------------


@_builder(pa.Schema)
def build_schema(schema: pa.Schema, encoder: Encoder) -> Part:
    """A schema: a part without batches."""
    return Part("vineyard.schema", schema, [], _params(schema, encoder))


@_resolver("vineyard.schema")
def resolve_schema(part: StoredPart, stored: StoredObject) -> pa.Schema:
    """The schema."""
    return _typed_table(part, stored).schema


@_builder(pa.Field)
def build_field(field: pa.Field, encoder: Encoder) -> Part:
    """A field, as the schema with that field alone."""
    schema = pa.schema([field])
    return Part("vineyard.arrow.field", schema, [], _params(schema, encoder))


@_resolver("vineyard.arrow.field")
def resolve_field(part: StoredPart, stored: StoredObject) -> pa.Field:
    """The field."""
    return resolve_schema(part, stored).field(0)


@_builder(pa.DataType)
def build_type(type_: pa.DataType, encoder: Encoder) -> Part:
    """A data type, as that of the one field of a schema."""
    schema = pa.schema([pa.field("type", type_)])
    return Part("vineyard.arrow.type", schema, [], _params(schema, encoder))


@_resolver("vineyard.arrow.type")
def resolve_type(part: StoredPart, stored: StoredObject) -> pa.DataType:
    """The type."""
    return resolve_schema(part, stored).field(0).type


# -- extension types that nobody registered ------------------------------------------------


def _params(schema: pa.Schema, encoder: Encoder) -> dict[str, Any]:
    """Descriptor of a part: empty, unless the schema has types that IPC would lose."""
    # Walking a schema costs more than all the rest, and only classes defined outside of
    # pyarrow, pandas and ours, which register their own, can be unregistered.
    global _registered
    classes = pa.ExtensionType.__subclasses__()
    if classes == _registered:
        return {}
    if all(cls.__module__.partition(".")[0] in _REGISTERING for cls in classes):
        _registered = classes
        return {}
    if all(_is_readable(field.type) for field in schema):
        return {}
    return {_SCHEMA: encoder.add_part(pickle_part(schema, encoder, nested=False))}


# Packages whose extension types are registered.
_REGISTERING = ("pyarrow", "pandas", "vineyard_arrow")
# The extension types there were when last there was none of a third party.
_registered: list[type] = []


def _is_readable(type_: pa.DataType) -> bool:
    if isinstance(type_, pa.ExtensionType):
        schema = pa.schema([pa.field("", type_)])
        return bool(pa.ipc.read_schema(schema.serialize()).equals(schema))
    if pa.types.is_dictionary(type_):
        return _is_readable(type_.value_type)
    return all(_is_readable(type_.field(i).type) for i in range(type_.num_fields))


def _typed_table(part: StoredPart, stored: StoredObject) -> pa.Table:
    index = part.params.get(_SCHEMA)
    if index is None:
        return part.table
    if stored.parts[index].typename != PICKLE:  # a maker's word for what the buffers are
        raise InvalidObjectError(f"the schema of this {part.typename} was not put by us")
    schema = stored.resolve(index)
    batches = _batches(part.table)
    return pa.Table.from_batches([_retyped(batch, schema) for batch in batches], schema)


def _retyped(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """``batch`` of storage types as one of ``schema``: the same buffers, other types.

    The C data interface keeps data and types apart, so exporting the one and importing
    it with another schema reaches nested types as well, which no cast does.
    """
    array = ctypes.create_string_buffer(_SIZEOF_ARROW_ARRAY)
    batch._export_to_c(ctypes.addressof(array))
    return pa.RecordBatch._import_from_c(ctypes.addressof(array), schema)
