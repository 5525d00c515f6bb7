"""The dual layout of strings: one text, found by offsets and by views.

Arrow has two layouts of strings over UTF-8 text: offsets (``string``, ``large_string``), which
pandas, pyarrow and most others work on, and 16-byte views (``string_view``), which polars works
on. A value in the dual layout is stored as it is, and a further part beside it, `VIEWS`, has the
views of its string columns. Their text is that of the offsets, the very same buffer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import InvalidObjectError
from ..registry import Encoder, Part, StoredObject, StoredPart, builtin_registry

__all__ = ["DualStrings", "dual_strings", "with_offsets", "with_views"]

VIEWS = "vineyard.arrow.views"
_OFFSETS: dict[pa.DataType, np.dtype[Any]] = {
    pa.string(): np.dtype("i4"),
    pa.large_string(): np.dtype("i8"),
}
# What a view can reach: its offset is an int32.
_MAX_TEXT_NBYTES = (1 << 31) - 1


class DualStrings:
    """What `dual_strings` returns: a value that is to be stored with views of its strings."""

    __slots__ = ("value",)

    def __init__(self, value: pa.Table | pa.RecordBatch | pa.ChunkedArray | pa.Array) -> None:
        self.value = value

    def __repr__(self) -> str:
        return f"<dual strings of a {type(self.value).__name__}>"


def dual_strings(value: Any) -> DualStrings:
    """``value``, to be put with its strings in the dual layout: offsets and views over one text.

    ``client.put(dual_strings(table))`` is got as the table that it is, ``string`` and
    ``large_string`` as they were; ``get(as_="polars")`` then copies nothing of the strings,
    either. That takes 16 bytes a row and string column more in the store, and the time to make
    them at the put. Strings inside of lists, structs and dictionaries are stored as ever.

    Parameters
    ----------
    value : pyarrow.Table, RecordBatch, ChunkedArray or Array
        A chunk whose text exceeds 2 GiB, the reach of a view, comes back as several.

    Examples
    --------
    >>> oid = client.put(dual_strings(pa.table({"name": ["Ann", "Bob"]})))  # doctest: +SKIP
    >>> client.get(oid).schema.field("name").type  # doctest: +SKIP
    DataType(string)
    >>> client.get(oid, as_="polars")["name"].dtype  # doctest: +SKIP
    String

    Raises
    ------
    InvalidObjectError
        If it is anything else.
    """
    if not isinstance(value, (pa.Table, pa.RecordBatch, pa.ChunkedArray, pa.Array)):
        raise InvalidObjectError(
            f"a {type(value).__name__} has no strings in Arrow's layouts",
            "dual_strings takes pyarrow's tables, record batches and arrays; frames of polars "
            "have views only: put frame.to_arrow()",
        )
    return DualStrings(value)


@builtin_registry.builder(DualStrings)
def build_dual(dual: DualStrings, encoder: Encoder) -> Part:
    """The part that the value itself makes, and beside it one of the views."""
    part: Part = encoder.registry.builder_for(dual.value)(dual.value, encoder)
    columns = [
        i
        for i, field in enumerate(part.schema)
        # Extension types written in Python need not have a hash.
        if not isinstance(field.type, pa.ExtensionType) and field.type in _OFFSETS
    ]
    if not columns:
        return part
    batches = [_exact(piece, columns) for b in part.batches for piece in _pieces(b, columns)]
    if isinstance(dual.value, (pa.RecordBatch, pa.Array)) and len(batches) > 1:
        raise InvalidObjectError(
            f"a {type(dual.value).__name__} of over 2 GiB of text has no views",
            "put it as a table or a chunked array",
        )
    schema = pa.schema([pa.field(str(i), pa.string_view()) for i in columns])
    views = [
        pa.RecordBatch.from_arrays(
            [b.column(i).cast(pa.string_view()) for i in columns], schema=schema
        )
        for b in batches
    ]
    index = encoder.add_part(Part(VIEWS, schema, views))
    return Part(part.typename, part.schema, batches, {**part.params, "views": index})


def with_views(table: pa.Table, part: StoredPart, stored: StoredObject) -> pa.Table:
    """``table``, which is that of ``part``, with views of its strings if they are stored."""
    index = part.params.get("views")
    if index is None:
        return table
    try:
        views = stored.parts[index].table
        for name, column in zip(views.column_names, views.columns, strict=True):
            table = table.set_column(int(name), table.field(int(name)).name, column)
    except (IndexError, TypeError, ValueError) as error:
        raise InvalidObjectError(f"the views of these strings make no sense: {error}") from None
    return table


def with_offsets(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """``column`` with offsets where it has views, of its own or of its categories.

    For pandas, which neither compares nor sorts views. That copies texts; all else is as it was.
    """
    type_ = column.type
    if isinstance(type_, pa.ExtensionType):
        return column
    if pa.types.is_dictionary(type_) and pa.types.is_string_view(type_.value_type):
        chunks = [
            pa.DictionaryArray.from_arrays(
                chunk.indices, chunk.dictionary.cast(pa.large_string()), ordered=type_.ordered
            )
            for chunk in column.chunks
        ]
        return pa.chunked_array(
            chunks, pa.dictionary(type_.index_type, pa.large_string(), type_.ordered)
        )
    return column.cast(pa.large_string()) if pa.types.is_string_view(type_) else column


def _pieces(batch: pa.RecordBatch, columns: list[int]) -> list[pa.RecordBatch]:
    """The batch, halved until views reach all text of each column."""
    if all(_bounds(batch.column(i))[1] <= _MAX_TEXT_NBYTES for i in columns):
        return [batch]
    middle = batch.num_rows // 2
    if not middle:
        raise InvalidObjectError(
            "a string of over 2 GiB has no view", "put it without dual_strings"
        )
    halves = (batch.slice(0, middle), batch.slice(middle))
    return [piece for half in halves for piece in _pieces(half, columns)]


def _exact(batch: pa.RecordBatch, columns: list[int]) -> pa.RecordBatch:
    """The batch with string columns that start at the start of their buffers, and end there.

    Arrow's writer would cut text off a slice; then offsets and views no longer had the same.
    """
    arrays = list(batch.columns)
    for i in columns:
        arrays[i] = _exact_strings(arrays[i])
    return pa.RecordBatch.from_arrays(arrays, schema=batch.schema)


def _exact_strings(strings: pa.Array) -> pa.Array:
    text = strings.buffers()[2]
    begin, nbytes = _bounds(strings)
    if not nbytes or not (strings.offset or begin or text.size != nbytes):
        return strings
    offsets = _offsets(strings)
    if begin:
        offsets = offsets - begin
    validity = pc.is_valid(strings).buffers()[1] if strings.null_count else None
    buffers = [validity, pa.py_buffer(offsets), text.slice(begin, nbytes)]
    return pa.Array.from_buffers(strings.type, len(strings), buffers, strings.null_count)


def _offsets(strings: pa.Array) -> np.ndarray[Any, Any]:
    dtype = _OFFSETS[strings.type]
    offsets: np.ndarray[Any, Any] = np.frombuffer(
        strings.buffers()[1], dtype, len(strings) + 1, strings.offset * dtype.itemsize
    )
    return offsets


def _bounds(strings: pa.Array) -> tuple[int, int]:
    """Where the text of an array begins in its buffer, and its size in bytes."""
    if not len(strings):
        return 0, 0
    offsets = _offsets(strings)
    return int(offsets[0]), int(offsets[-1]) - int(offsets[0])
