"""Messages as tables and tables as messages: JSON, Arrow IPC, or keys and values as they are.

A message has the methods of `confluent_kafka.Message`: ``key``, ``value``, ``partition``,
``offset``, ``timestamp``, ``headers``. It knows no broker and no store.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ..errors import ConfigError, DamagedMessageError, InvalidObjectError, SchemaMismatchError
from .nesting import is_deep
from .schemas import Policy, fitted, merged

__all__ = ["FORMATS", "Decoder", "Outgoing", "encoder"]

FORMATS = ("arrow", "json", "raw")
_HEADERS = pa.list_(pa.struct({"key": pa.string(), "value": pa.binary()}))
_COLUMNS: dict[str, tuple[pa.DataType, Callable[[Any], Any]]] = {
    "key": (pa.binary(), lambda m: m.key()),
    "value": (pa.binary(), lambda m: m.value()),
    "partition": (pa.int32(), lambda m: m.partition()),
    "offset": (pa.int64(), lambda m: m.offset()),
    "timestamp": (pa.timestamp("ms", "UTC"), lambda m: _time_of(*m.timestamp())),
    "headers": (_HEADERS, lambda m: m.headers()),
}
_OPEN, _CLOSE = b"{}"
_HINT = "schema=pa.schema(...) says what the columns are to be"
_PIECE_ROWS = 1 << 16
_PIECE_NBYTES = 1 << 19  # of an Arrow message; brokers take 1 MiB by default

_log = logging.getLogger("vineyard_arrow.kafka")


def _where(message: Any) -> str:
    return f"partition {message.partition()}, offset {message.offset()}"


def _time_of(kind: int, milliseconds: int) -> int | None:
    return milliseconds if kind else None  # 0: there is none


class Decoder:
    """Makes tables of messages.

    Parameters
    ----------
    format : {"arrow", "json", "raw"}
    schema : {"strict", "first", "unify"} or pyarrow.Schema
        Of the payload. What is not said is inferred, each time until `settle`.
    metadata : bool or None
        Whether to add what is known of a message, as ``_key``, ``_partition``, ...; ``raw`` has it.
    malformed : {"error", "skip"}
        What to do with messages that are not of the format, or do not fit a schema that was said.
    pool : pyarrow.MemoryPool
        Where to build.
    """

    def __init__(
        self,
        format: str | None,
        schema: Policy,
        metadata: bool | None,
        malformed: str,
        pool: pa.MemoryPool,
    ) -> None:
        self._format = format or "json"
        if self._format not in FORMATS:
            raise ConfigError(
                f"{format!r} is no format of messages", f"format= one of {', '.join(FORMATS)}"
            )
        if malformed not in ("error", "skip"):
            raise ConfigError(f"malformed={malformed!r}", "it is 'error' or 'skip'")
        merged([("", pa.schema([]))], schema)  # or it is no policy
        if self._format == "raw" and isinstance(schema, pa.Schema):
            raise ConfigError("raw messages have columns of their own", "schema= with json, arrow")
        self._policy, self._skips, self._pool = schema, malformed == "skip", pool
        self._said: pa.Schema | None = schema if isinstance(schema, pa.Schema) else None
        self._strict = schema == "strict" if self._said is None else False
        with_metadata = self._format == "raw" if metadata is None else metadata
        names = [name for name in _COLUMNS if name != "value"] if with_metadata else []
        self._metadata = {"_" + name: name for name in names}
        if self._format == "raw":
            names = list(_COLUMNS) if with_metadata else ["key", "value"]
            self._metadata = {name: name for name in names}
        self.skipped = 0

    def table(self, messages: Sequence[Any]) -> pa.Table:
        """The rows of messages, in their order.

        Raises
        ------
        DamagedMessageError, SchemaMismatchError
            That say which message it is.
        """
        if self._format == "raw":
            payload, rows_of = None, list(messages)
        elif self._format == "json":
            payload, rows_of = self._of_json(messages)
        else:
            payload, rows_of = self._of_arrow(messages)
        columns = dict(zip(payload.column_names, payload.columns, strict=True)) if payload else {}
        for name, what in self._metadata.items():
            if name in columns:
                raise ConfigError(f"messages have a column {name!r} too", "metadata=False")
            columns[name] = self._array(what, rows_of)
        return pa.table(columns)

    @property
    def infers(self) -> bool:
        """Whether the columns are not known before the first messages."""
        return self._said is None and self._format != "raw"

    def settle(self, schema: pa.Schema) -> None:
        """Take the types of the payload from a table that was made of the first messages."""
        if self.infers:
            self._said = pa.schema([f for f in schema if f.name not in self._metadata])

    def one(self, tables: Sequence[pa.Table]) -> pa.Table:
        """One table of several of this decoder's, by the policy."""
        if not tables:
            return self._empty()
        schema = tables[0].schema
        if self._said is None and any(each.schema != schema for each in tables):
            named = [(f"batch {n}", each.schema) for n, each in enumerate(tables)]
            if self._policy == "strict" and self._format == "json":
                # What is left out, or null throughout, is no drift.
                schema = _unified([each.schema for each in tables])
            else:
                schema = merged(named, self._policy)
            tables = [fitted(t, schema, {}, self._pool, "later messages") for t in tables]
        return pa.concat_tables(tables)

    def _empty(self) -> pa.Table:
        fields = [] if self._said is None else list(self._said)
        fields += [pa.field(name, _COLUMNS[what][0]) for name, what in self._metadata.items()]
        return pa.schema(fields).empty_table()

    def _array(self, what: str, messages: Sequence[Any]) -> pa.Array:
        type, of = _COLUMNS[what]
        try:
            return pa.array([of(m) for m in messages], type, memory_pool=self._pool)
        except pa.ArrowInvalid as error:
            raise DamagedMessageError(f"the {what} of a message: {error}") from None

    def _bad(self, message: Any, why: object) -> None:
        """Raise, or count it."""
        reason = str(why).partition("\n")[0]
        if not self._skips:
            raise DamagedMessageError(
                f"{_where(message)}: this is no message in {self._format}: {reason}",
                "malformed='skip' leaves such messages out",
            )
        self.skipped += 1
        _log.warning("skipped: %s: %s", _where(message), reason)

    # ---- JSON

    def _of_json(self, messages: Sequence[Any]) -> tuple[pa.Table, list[Any]]:
        values = [m.value() for m in messages]
        if all(v and v[0] == _OPEN and v[-1] == _CLOSE and not self._is_deep(v) for v in values):
            try:
                return self._parsed(values), list(messages)
            except pa.ArrowInvalid:
                pass
        held = [(m, _object_in(value)) for m, value in zip(messages, values, strict=True)]
        good = [(m, text) for m, text in held if self._is_json(m, text)]
        try:
            return self._parsed([text for _, text in good]), [m for m, _ in good]
        except pa.ArrowInvalid:
            pass
        fit = [(m, text) for m, text in good if self._fits(m, text)]
        try:
            return self._parsed([text for _, text in fit]), [m for m, _ in fit]
        except pa.ArrowInvalid as error:
            raise self._conflict(fit, error) from None

    def _parsed(self, objects: Sequence[bytes | None], **changes: Any) -> pa.Table:
        """A row for each object. As each begins and ends with a brace, none runs into another."""
        import pyarrow.json

        if not objects:
            return (self._said or pa.schema([])).empty_table()
        text = b"\n".join(objects)  # type: ignore[arg-type]
        unexpected = "infer" if self._said is None else "error" if self._strict else "ignore"
        parsing = {
            "explicit_schema": self._said,
            "unexpected_field_behavior": unexpected,
            **changes,
        }
        table = pyarrow.json.read_json(
            pa.BufferReader(text),
            read_options=pyarrow.json.ReadOptions(block_size=len(text) + 1, use_threads=False),
            parse_options=pyarrow.json.ParseOptions(newlines_in_values=True, **parsing),
            memory_pool=self._pool,
        )
        if table.num_rows != len(objects):
            raise pa.ArrowInvalid("more or less than one object in a message")
        return table

    def _is_json(self, message: Any, text: bytes | None) -> bool:
        try:
            if text is None or self._is_deep(text) or not isinstance(json.loads(text), dict):
                raise ValueError("it is no object, or one too deep")
        except (ValueError, RecursionError) as error:
            self._bad(message, error)
            return False
        return True

    def _is_deep(self, text: bytes) -> bool:
        """Whether a type would be made of it that nobody can store; Arrow crashes in the end."""
        return self._said is None and is_deep(text)

    def _fits(self, message: Any, text: bytes | None) -> bool:
        """Whether it can be read by itself."""
        unexpected = "infer" if self._said is None else "ignore"
        try:
            self._parsed([text], unexpected_field_behavior=unexpected)
        except pa.ArrowInvalid as error:
            self._bad(message, error)
            return False
        if self._strict and self._said is not None:
            try:
                self._parsed([text])
            except pa.ArrowInvalid:
                there = json.loads(text or b"{}")
                new = [k for k in there if self._said and k not in self._said.names]
                raise SchemaMismatchError(
                    f"{_where(message)}: the first messages had no field"
                    f" {', '.join(map(repr, new)) or 'such as are in it'}",
                    "schema='first' leaves it out; " + _HINT,
                ) from None
        return True

    def _conflict(self, good: Sequence[tuple[Any, Any]], error: Exception) -> Exception:
        """The first message whose types do not go with those before it."""
        low, high = 0, len(good)  # the first `low` go together, the first `high` do not
        while high - low > 1:
            middle = (low + high) // 2
            try:
                self._parsed([text for _, text in good[:middle]])
                low = middle
            except pa.ArrowInvalid as found:
                high, error = middle, found
        return SchemaMismatchError(
            f"{_where(good[high - 1][0])}: it does not go with the messages before it: {error}",
            _HINT,
        )

    # ---- Arrow

    def _of_arrow(self, messages: Sequence[Any]) -> tuple[pa.Table, Any]:
        parts: list[tuple[Any, pa.Table]] = []
        for message in messages:
            if message.value() is None:  # a tombstone has no rows
                continue
            try:
                parts.append((message, _ipc_in(message.value(), self._said)))
            except (pa.ArrowException, OSError, ValueError) as error:
                self._bad(message, error)
        distinct: dict[pa.Schema, str] = {}
        for message, table in parts:
            distinct.setdefault(table.schema, _where(message))
        schema = self._wanted([(name, each) for each, name in distinct.items()])
        tables = [
            table
            if table.schema.equals(schema)
            else fitted(table, schema, {}, self._pool, _where(message))
            for message, table in parts
        ]
        if not tables:
            return schema.empty_table(), []
        counts = [table.num_rows for table in tables]
        rows_of = np.repeat(np.array([m for m, _ in parts], dtype=object), counts)
        return pa.concat_tables(tables).combine_chunks(memory_pool=self._pool), rows_of

    def _wanted(self, found: list[tuple[str, pa.Schema]]) -> pa.Schema:
        if self._said is None:
            return merged(found, self._policy) if found else pa.schema([])
        if self._strict:
            merged([("the first messages", self._said), *found], "strict")
        return self._said


def _object_in(value: bytes | None) -> bytes | None:
    """The text of an object; None if it is none. No value at all is one of nulls."""
    if value is None:
        return b"{}"
    if value[:1] != b"{" or value[-1:] != b"}":
        value = value.strip()
    return value if value[:1] == b"{" and value[-1:] == b"}" and len(value) > 1 else None


def _unified(schemas: Sequence[pa.Schema]) -> pa.Schema:
    try:
        return pa.unify_schemas(schemas)
    except pa.ArrowException as error:
        raise SchemaMismatchError(
            f"later messages do not go with those before: {error}",
            "schema='unify' widens; " + _HINT,
        ) from None


def _ipc_in(value: bytes, schema: pa.Schema | None) -> pa.Table:
    """A stream, or a bare record batch if it is known of which schema."""
    buffer = pa.py_buffer(value)
    if schema is not None and pa.ipc.read_message(buffer).type == "record batch":
        table = pa.Table.from_batches([pa.ipc.read_record_batch(buffer, schema)])
    else:
        with pa.ipc.open_stream(buffer) as reader:
            table = reader.read_all()
    table.validate(full=True)
    return table


# ---- tables as messages


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to send, of so many rows from ``row`` on."""

    row: int
    rows: int
    value: bytes | None
    key: bytes | None = None
    headers: list[tuple[str, bytes | None]] | None = None
    timestamp: int | None = None


def encoder(
    format: str | None, key: str | None, schema: pa.Schema
) -> Callable[[pa.RecordBatch, int], Iterator[Outgoing]]:
    """What makes messages of batches of a schema, given the number of their first row."""
    if (format or "json") not in FORMATS:
        raise ConfigError(
            f"{format!r} is no format of messages", f"format= one of {', '.join(FORMATS)}"
        )
    if key is not None:
        _check_key(schema, key)
    if format == "raw":
        return _raw(schema, key)
    if format == "arrow":
        return lambda batch, row: _arrow_messages(batch, row, key)
    for field in schema:
        if _has_binary(field.type):
            raise InvalidObjectError(
                f"column {field.name!r} is {field.type}, which JSON has not", "format='arrow' has"
            )
    return lambda batch, row: _json_messages(batch, row, key)


def _check_key(schema: pa.Schema, key: str) -> None:
    if schema.get_field_index(key) < 0:
        raise ConfigError(
            f"there is no column {key!r} for keys", f"there are {', '.join(schema.names)}"
        )
    type, is_ = schema.field(key).type, pa.types
    if is_.is_dictionary(type):
        type = type.value_type
    if not (is_.is_integer(type) or _is_text(type) or _is_binary(type)):
        raise ConfigError(f"column {key!r} is {type}", "keys are strings, bytes or integers")


def _is_text(type: pa.DataType) -> bool:
    is_ = pa.types
    return bool(is_.is_string(type) or is_.is_large_string(type) or is_.is_string_view(type))


def _is_binary(type: pa.DataType) -> bool:
    is_ = pa.types
    return bool(
        is_.is_binary(type)
        or is_.is_large_binary(type)
        or is_.is_fixed_size_binary(type)
        or is_.is_binary_view(type)
    )


def _has_binary(type: pa.DataType) -> bool:
    if pa.types.is_dictionary(type):
        return _has_binary(type.value_type)
    return _is_binary(type) or any(_has_binary(type.field(n).type) for n in range(type.num_fields))


def _bytes_of(value: Any) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    return str(value).encode()


def _keys_of(batch: pa.RecordBatch, key: str | None) -> list[bytes | None]:
    """Keys as bytes: text in UTF-8, integers in decimal."""
    if key is None:
        return [None] * batch.num_rows
    return [_bytes_of(value) for value in batch.column(key).to_pylist()]


def _json_messages(batch: pa.RecordBatch, row: int, key: str | None) -> Iterator[Outgoing]:
    import polars

    for start in range(0, batch.num_rows, _PIECE_ROWS):
        piece = batch.slice(start, _PIECE_ROWS)
        lines = io.BytesIO()
        frame = polars.from_arrow(pa.Table.from_batches([piece]))
        assert isinstance(frame, polars.DataFrame)
        try:
            frame.write_ndjson(lines)
        except Exception as error:
            raise InvalidObjectError(f"JSON cannot hold this table: {error}") from None
        values = lines.getvalue().splitlines()
        for n, (k, value) in enumerate(zip(_keys_of(piece, key), values, strict=True)):
            yield Outgoing(row + start + n, 1, value, k)


def _arrow_messages(batch: pa.RecordBatch, row: int, key: str | None) -> Iterator[Outgoing]:
    """Several rows in a message, or one if messages have keys."""
    if not batch.num_rows:
        return
    rows = 1 if key is not None else max(1, _PIECE_NBYTES * batch.num_rows // (batch.nbytes + 1))
    keys = _keys_of(batch, key)
    for start in range(0, batch.num_rows, rows):
        piece = batch.slice(start, rows)
        yield from _arrow_message(piece, row + start, keys[start])


def _arrow_message(piece: pa.RecordBatch, row: int, key: bytes | None) -> Iterator[Outgoing]:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, piece.schema) as writer:
        writer.write_batch(piece)
    value = sink.getvalue()
    if value.size > 2 * _PIECE_NBYTES - 4096 and piece.num_rows > 1:  # rows are not alike
        half = piece.num_rows // 2
        yield from _arrow_message(piece.slice(0, half), row, key)
        yield from _arrow_message(piece.slice(half), row + half, key)
    else:
        yield Outgoing(row, piece.num_rows, value.to_pybytes(), key)


def _raw(schema: pa.Schema, key: str | None) -> Callable[[pa.RecordBatch, int], Iterator[Outgoing]]:
    """As `Decoder` has them: a column ``value``, and ``key``, ``headers``, ``timestamp`` if any."""
    names = set(schema.names)
    type = schema.field("value").type if "value" in names else pa.null()
    if not (_is_text(type) or _is_binary(type)):
        raise InvalidObjectError(
            "a raw message needs a column 'value' of bytes or text",
            "format='json' or 'arrow' makes messages of any columns",
        )
    by = key or ("key" if "key" in names else None)
    if by is not None:
        _check_key(schema, by)
    if "headers" in names and schema.field("headers").type != _HEADERS:
        raise InvalidObjectError(f"the column 'headers' is not {_HEADERS}", "leave it out")
    if "timestamp" in names and not pa.types.is_timestamp(schema.field("timestamp").type):
        raise InvalidObjectError("the column 'timestamp' is no timestamp", "leave it out")

    def messages(batch: pa.RecordBatch, row: int) -> Iterator[Outgoing]:
        values = [_bytes_of(value) for value in batch.column("value").to_pylist()]
        headers: list[Any] = [None] * batch.num_rows
        if "headers" in names:
            headers = [
                h and [(p["key"], p["value"]) for p in h] for h in batch["headers"].to_pylist()
            ]
        times: list[Any] = [None] * batch.num_rows
        if "timestamp" in names:
            cast = batch["timestamp"].cast(pa.timestamp("ms", "UTC"), safe=False)
            times = cast.cast(pa.int64()).to_pylist()
        whole = zip(_keys_of(batch, by), values, headers, times, strict=True)
        for n, (k, value, header, when) in enumerate(whole):
            yield Outgoing(row + n, 1, value, k, header, when)

    return messages
