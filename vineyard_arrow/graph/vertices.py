"""Vertices of one label: their table, and the index from original ids (*oids*) to vertex ids.

An oid is an integer, a text, or several such columns together. The index is Arrow arrays that
any process can use as they lie; `oid_index.h` has their format.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import InvalidGraphError, LabelNotFoundError, VertexNotFoundError
from . import _kernels
from .arrays import Array, allocate, as_ids, as_table, combined, roomy, table_of, taken, values_of

__all__ = ["MAX_VERTICES", "Vertices", "check_vertices", "id_dtype", "none_of"]

# Counts from which on ids have 64 bits: all ones stand for no vertex. Tests lower it.
WIDE_FROM = (1 << 32) - 1
MAX_VERTICES = 1 << 36  # what sorting edges has bits for
_EXAMPLES = 5
_TEXT_KINDS = {pa.string(): 1, pa.large_string(): 2, pa.string_view(): 3}


def id_dtype(count: int) -> np.dtype[Any]:
    """Type of ids below ``count``."""
    return np.dtype(np.uint32 if count <= WIDE_FROM else np.uint64)


def none_of(dtype: np.dtype[Any]) -> int:
    """What stands for no vertex."""
    return int(np.iinfo(dtype).max)


@dataclass(frozen=True, slots=True, eq=False)
class Vertices:
    """Vertices of one label.

    Attributes
    ----------
    label : str
    table : pyarrow.Table
        One row a vertex, every column in one chunk; the row is the vertex id.
    key : tuple of str
        Columns of the oid.
    index : dict of str to pyarrow.Array
        ``keys`` and ``ids`` if the oid is one integer, ``slots`` if not.
    id_bits : int
        Low bits of a slot that are the id.
    """

    label: str
    table: pa.Table
    key: tuple[str, ...]
    index: dict[str, pa.Array]
    id_bits: int = 32

    @property
    def count(self) -> int:
        """Number of vertices."""
        return int(self.table.num_rows)

    @classmethod
    def build(cls, label: str, table: pa.Table, key: Sequence[str], pool: Any) -> Vertices:
        """Index the vertices of a table.

        Raises
        ------
        InvalidGraphError
            If oids are null, repeated, or of a type that is none.
        """
        for name in key:
            if table.schema.get_field_index(name) < 0:
                raise LabelNotFoundError(
                    f"the vertices of {label!r} have no column {name!r} for the oid",
                    f"they have {', '.join(table.column_names)}; name it by oid=",
                )
        if table.num_rows > MAX_VERTICES:
            raise InvalidGraphError(f"{table.num_rows} vertices: no label has more than 2^36")
        table = _in_one_piece(table, key, pool)
        columns = [table.column(name).chunk(0) for name in key]
        _check_no_nulls(label, key, columns)
        normal = [
            normalized(column, f"oid {name!r} of {label!r}")
            for column, name in zip(columns, key, strict=True)
        ]
        again = np.empty(_EXAMPLES, np.int64)
        count, cap = table.num_rows, table.num_rows * 3 // 2 + 8
        dtype, id_bits = id_dtype(count), 32 if count <= WIDE_FROM else 40
        if len(key) == 1 and pa.types.is_integer(normal[0].type):
            keys, keys_view = allocate(np.int64, cap, pool)
            ids, ids_view = allocate(dtype, cap, pool)
            repeated = _kernels.fill_ints(values_of(normal[0]), keys_view, ids_view, again)
            index = {"keys": keys, "ids": ids}
        else:
            slots, slots_view = allocate(np.uint64, cap, pool)
            repeated = _kernels.fill_rows(key_columns(normal, count), slots_view, id_bits, again)
            index = {"slots": slots}
        if repeated:
            raise InvalidGraphError(
                f"{repeated} duplicate oids in {label!r}: "
                + ", ".join(
                    f"{oid_text([c[row] for c in columns])} (row {row})" for row in again[:repeated]
                ),
                "an oid names one vertex; drop or merge the others",
            )
        return cls(label, table, tuple(key), index, id_bits)

    def with_rows(self, rows: pa.Table, pool: Any) -> Vertices:
        """With more vertices, of oids that are new; columns that these lack are null."""
        table = pa.concat_tables([self.table, rows], promote_options="default")
        return Vertices.build(self.label, table, self.key, pool)

    def taken(self, rows: Array, pool: Any) -> Vertices:
        """Some of the vertices, all different, in another order: they are numbered anew."""
        heap = pa.default_memory_pool()
        columns = [taken(combined(each, heap), rows, pool) for each in self.table.columns]
        return Vertices.build(self.label, table_of(columns, self.table.schema), self.key, pool)

    def find(self, columns: Sequence[pa.ChunkedArray], what: str, threads: int = 0) -> Array:
        """Vertex ids of many oids, all ones where there is none (nulls too).

        Parameters
        ----------
        columns
            As many as the key has, of types like theirs.
        what : str
            What they are, for errors.
        """
        self._check_like(columns, what)
        out = np.empty(len(columns[0]), id_dtype(self.count))
        if self.count == 0:
            out[:] = none_of(out.dtype)
            return out
        names = [str(i) for i in range(len(columns))]
        at = 0
        for batch in pa.table(list(columns), names).to_batches():
            piece = out[at : at + batch.num_rows]
            at += batch.num_rows
            arrays = batch.columns
            if len(arrays) == 1 and pa.types.is_dictionary(arrays[0].type):
                self._find_codes(arrays[0], piece, what, threads)
            else:
                self._find_in(arrays, piece, what, threads)
        return out

    def _find_codes(self, array: pa.DictionaryArray, out: Array, what: str, threads: int) -> None:
        """Look up each value of the dictionary once."""
        ids = np.empty(len(array.dictionary) + 1, out.dtype)
        ids[-1] = none_of(out.dtype)
        if len(ids) > 1:
            self._find_in([array.dictionary], ids[:-1], what, threads)
        codes = array.indices.cast(pa.int64()).fill_null(len(ids) - 1)
        np.take(ids, values_of(codes), out=out)

    def _find_in(self, arrays: Sequence[pa.Array], out: Array, what: str, threads: int) -> None:
        if not len(out):
            return
        wanted = [normalized(array, what) for array in arrays]
        if "keys" in self.index:
            oids = values_of(wanted[0])
            keys, ids = values_of(self.index["keys"]), values_of(self.index["ids"])
            _kernels.find_ints(oids, keys, ids, out, threads)
            if pa.types.is_uint64(arrays[0].type) != self._is_unsigned:
                out[oids < 0] = none_of(out.dtype)  # one bit pattern, two numbers
        else:
            own = [normalized(self.table.column(n).chunk(0), n) for n in self.key]
            _kernels.find_rows(
                key_columns(wanted, len(out)),
                values_of(self.index["slots"]),
                self.id_bits,
                key_columns(own, self.count),
                out,
                threads,
            )
        for array in arrays:
            if array.null_count:
                out[values_of(array.is_null().cast(pa.uint8())) == 1] = none_of(out.dtype)

    def ids(self, oids: Any, unknown: str) -> Any:
        """See `Graph.ids`."""
        _check_unknown(unknown)
        scalar = _is_one(oids)
        what = f"oids for {self.label!r}"
        columns = self._columns_of([oids] if scalar else oids, what)
        found = self.find(columns, what)
        missing = found == none_of(found.dtype)
        if unknown == "raise" and missing.any():
            rows = np.flatnonzero(missing)[:_EXAMPLES].tolist()
            some = ", ".join(oid_text([column[row] for column in columns]) for row in rows)
            raise VertexNotFoundError(
                f"{int(np.count_nonzero(missing))} of {len(found)} oids are not in"
                f" {self.label!r}: {some}",
                'unknown="null" gives null for them',
            )
        if scalar:
            return None if missing[0] else int(found[0])
        return pa.array(found, mask=missing) if missing.any() else pa.array(found)

    def oids(self, ids: Any, unknown: str) -> Any:
        """See `Graph.oids`."""
        _check_unknown(unknown)
        scalar = isinstance(ids, int | np.integer)
        rows = np.array([ids if 0 <= ids < self.count else -1]) if scalar else as_ids(ids)
        outside = (rows < 0) | (rows >= self.count)
        if outside.any():
            if unknown == "raise":
                place = int(np.flatnonzero(outside)[0])
                raise VertexNotFoundError(
                    f"no vertex {ids if scalar else rows[place]} in {self.label!r}, which has"
                    f" {self.count}" + ("" if scalar else f" (ids[{place}])"),
                    'unknown="null" gives null for it',
                )
            taken = pa.array(rows, mask=outside)
        else:
            taken = pa.array(rows)
        table = self.table.select(self.key)
        columns = [_taken(column.chunk(0), taken) for column in table.columns]
        if scalar:
            values = [column[0].as_py() for column in columns]
            return values[0] if len(values) == 1 or outside[0] else tuple(values)
        return columns[0] if len(columns) == 1 else pa.table(columns, list(self.key))

    def _columns_of(self, oids: Any, what: str) -> list[pa.ChunkedArray]:
        """Many oids as columns like those of the key."""
        if isinstance(oids, pa.Table | pa.RecordBatch) or hasattr(oids, "__arrow_c_stream__"):
            return self._columns_of_stream(oids)
        if isinstance(oids, pa.Array):
            return [pa.chunked_array([oids])]
        try:
            if len(self.key) == 1:
                return [pa.chunked_array([pa.array(oids)])]
            rows = [tuple(oid) for oid in oids]
            if any(len(row) != len(self.key) for row in rows):
                raise InvalidGraphError(f"{what} are tuples of {', '.join(self.key)}")
            columns = zip(*rows, strict=True) if rows else [[]] * len(self.key)
            return [pa.chunked_array([pa.array(list(column))]) for column in columns]
        except (pa.ArrowException, TypeError) as error:
            raise InvalidGraphError(f"{what}: {error}") from None

    def _columns_of_stream(self, oids: Any) -> list[pa.ChunkedArray]:
        if isinstance(oids, pa.ChunkedArray):
            return [oids]
        try:
            table = as_table(oids, pa.default_memory_pool())
        except InvalidGraphError:  # its type is no struct: one column
            return [pa.chunked_array(oids)]
        if len(self.key) == 1 and table.num_columns == 1:
            return [table.column(0)]
        return [table.column(name) for name in self.key]

    def hashes(self) -> Array:
        """A hash of each oid, uint64: the same for equal oids, in any graph and process.

        Integers of all types are hashed as 64 bits, texts of all types as their bytes.
        """
        out = np.empty(self.count, np.uint64)
        if self.count:
            own = [normalized(self.table.column(name).chunk(0), name) for name in self.key]
            _kernels.hash_rows(key_columns(own, self.count), out)
        return out

    @property
    def _is_unsigned(self) -> bool:
        return bool(pa.types.is_uint64(self.table.schema.field(self.key[0]).type))

    def _check_like(self, columns: Sequence[pa.ChunkedArray], what: str) -> None:
        if len(columns) != len(self.key):
            raise InvalidGraphError(
                f"{what}: {len(columns)} columns, but oids of {self.label!r} have {len(self.key)}",
                f"they are {', '.join(self.key)}",
            )
        for column, name in zip(columns, self.key, strict=True):
            own, type_ = self.table.schema.field(name).type, column.type
            if pa.types.is_null(type_):
                continue
            if is_text(own) != is_text(type_):
                raise InvalidGraphError(
                    f"{what} is {type_}, but {name!r}, the oid of {self.label!r}, is {own}",
                    "cast one to the type of the other",
                )


def check_vertices(vertices: Vertices) -> None:
    """Raise InvalidGraphError unless the index leads to every vertex and to nothing else."""
    label, count, index = vertices.label, vertices.count, vertices.index
    slots, keys, ids = index.get("slots"), index.get("keys"), index.get("ids")
    try:
        keys_table = vertices.table.select(vertices.key)
        keys_table.validate(full=True)  # texts are followed below, wherever their offsets lead
    except (KeyError, pa.ArrowInvalid) as error:
        raise InvalidGraphError(f"{label}: the oids are damaged: {error}") from None
    columns = keys_table.columns
    if not columns or any(column.num_chunks > 1 for column in columns):
        raise InvalidGraphError(f"{label}: the oids are in no column, or in several chunks")
    if any(column.null_count for column in columns):
        raise InvalidGraphError(f"{label}: oids are null")
    if slots is None:
        if keys is None or ids is None or len(keys) != len(ids) or not pa.types.is_int64(keys.type):
            raise InvalidGraphError(f"{label}: the oid index is not complete")
        if ids.type not in (pa.uint32(), pa.uint64()) or keys.null_count or ids.null_count:
            raise InvalidGraphError(f"{label}: the oid index has wrong types")
        found = values_of(ids)
        found = found[found != none_of(found.dtype)]
    else:
        if not pa.types.is_uint64(slots.type) or slots.null_count:
            raise InvalidGraphError(f"{label}: the oid index has wrong types")
        found = values_of(slots)
        found = found[found != none_of(found.dtype)] & np.uint64((1 << vertices.id_bits) - 1)
    if len(found) and int(found.max()) >= count:
        raise InvalidGraphError(f"{label}: the oid index points outside the {count} vertices")
    if len(found) != count or not np.array_equal(
        vertices.find(columns, label), np.arange(count, dtype=id_dtype(count))
    ):
        raise InvalidGraphError(f"{label}: the oid index does not lead to every vertex")


def oid_text(values: Sequence[pa.Scalar]) -> str:
    """An oid for people."""
    plain = [value.as_py() for value in values]
    return repr(plain[0] if len(plain) == 1 else tuple(plain))


def is_text(type_: pa.DataType) -> bool:
    """Whether oids of this type are texts, not integers."""
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    # Extension types written in Python need not have a hash.
    return not isinstance(type_, pa.ExtensionType) and type_ in _TEXT_KINDS


def normalized(array: pa.Array, what: str) -> pa.Array:
    """An oid column as the index has it: 64-bit integers, or text in one of three layouts.

    Raises
    ------
    InvalidGraphError
        For any other type.
    """
    type_ = array.type
    if isinstance(type_, pa.ExtensionType):  # some of them have no hash
        raise InvalidGraphError(f"{what} is {type_}, which makes no oid", "give its storage")
    if pa.types.is_dictionary(type_):
        return normalized(array.dictionary_decode(), what)
    if type_ in _TEXT_KINDS or pa.types.is_int64(type_):
        return array
    if pa.types.is_uint64(type_):
        return array.view(pa.int64())
    if pa.types.is_integer(type_) or pa.types.is_null(type_):
        return array.cast(pa.int64())
    raise InvalidGraphError(
        f"{what} is {type_}, which makes no oid", "oids are integers, texts, or columns of these"
    )


def key_columns(columns: Sequence[pa.Array], count: int) -> _kernels.KeyColumns:
    """Columns that are `normalized`, for the kernels."""
    out = []
    for column in columns:
        kind = _TEXT_KINDS.get(column.type, 0)
        _, values, *texts = column.buffers()
        addresses = [0 if text is None else text.address for text in texts]
        width = (8, 4, 8, 16)[kind]
        first = 0 if values is None else values.address + column.offset * width
        text = addresses[0] if kind in (1, 2) else 0
        out.append((kind, first, text, addresses if kind == 3 else [], column))
    return _kernels.KeyColumns(out, count)


def _in_one_piece(table: pa.Table, key: Sequence[str], pool: Any) -> pa.Table:
    """Each column as one chunk; keys without dictionaries."""
    columns = []
    for field, column in zip(table.schema, table.columns, strict=True):
        array = combined(column, pool)
        if field.name in key:
            if pa.types.is_dictionary(array.type):
                array = array.cast(array.type.value_type, memory_pool=pool)
            elif pa.types.is_null(array.type) and not len(array):
                array = array.cast(pa.int64())
        columns.append(array)
    return table_of(columns, table.schema)


def _check_no_nulls(label: str, key: Sequence[str], columns: Sequence[pa.Array]) -> None:
    for name, column in zip(key, columns, strict=True):
        if column.null_count:
            rows = pc.indices_nonzero(column.is_null())[:_EXAMPLES].to_pylist()
            raise InvalidGraphError(
                f"{column.null_count} oids of {label!r} are null ({name!r}, first in rows {rows})",
                "every vertex has an oid: drop these rows",
            )


def _is_one(oids: Any) -> bool:
    return isinstance(oids, int | str | tuple | np.integer | np.str_)


def _check_unknown(unknown: str) -> None:
    if unknown not in ("raise", "null"):
        raise InvalidGraphError(f"unknown={unknown!r} is not one of 'raise', 'null'")


def _taken(array: pa.Array, rows: pa.Array) -> pa.Array:
    if pa.types.is_string_view(array.type):  # which Arrow cannot take
        return pc.take(array.cast(pa.large_string()), rows)
    return pc.take(roomy(array, rows), rows)
