"""Formats of files in columns: what is in a file, and its units as tables in a given pool.

A *unit* is what is read in one go and again after a failure: a file, or a row group of it. It
knows no store, and neither which files there are nor what their columns are to become.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.dataset as ds

from ..errors import DamagedFileError
from .filesystems import File, file_errors
from .registry import shown

__all__ = [
    "FORMATS",
    "PACKINGS",
    "Format",
    "Unit",
    "format_by_content",
    "make_format",
    "packing_of",
]

_ALL_ROWS = 1 << 30  # a batch: as many as there are
_ORC_ROWS = 1 << 17  # ORC's reader takes memory for a whole batch before it has any
_HEAD_NBYTES = 64 << 10  # of text, to find the names of columns in


@dataclass(frozen=True, slots=True)
class Unit:
    """What is read in one go: a file, or the part ``fragment`` of it, called ``part``."""

    file: File
    nbytes: int
    part: str = ""
    fragment: Any = None

    @property
    def name(self) -> str:
        """The file, and which part of it."""
        return f"{shown(self.file.path)}{self.part and ', ' + self.part}"


class Format(Protocol):
    """A format.

    ``infers``: types are guessed from the values. ``open_ended``: columns may turn up anywhere.
    """

    infers: bool
    open_ended: bool

    def schema(self, file: File, quick: bool = False) -> pa.Schema:
        """The columns of a file, by looking at little of it; ``quick`` if types do not matter."""

    def units(self, file: File, split: bool, filter: Any, schema: pa.Schema) -> list[Unit]:
        """The units of a file: if ``split``, small ones, without those that a filter rules out."""

    def read(self, unit: Unit, schema: pa.Schema | None, names: Any, pool: Any) -> pa.Table:
        """A unit as a table with the columns ``names``; ``schema`` says of which types."""

    def batches(
        self, unit: Unit, schema: pa.Schema | None, names: Any, pool: Any
    ) -> Iterator[pa.RecordBatch]:
        """A unit as batches, of which few are in memory at a time."""


class _Whole:
    """A format whose unit is the file."""

    infers = False
    open_ended = False

    def units(self, file: File, split: bool, filter: Any, schema: pa.Schema) -> list[Unit]:
        return [Unit(file, file.nbytes)]


# ---- by way of datasets: Parquet, ORC


class _Dataset(_Whole):
    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._rows = _ALL_ROWS if kind == "parquet" else _ORC_ROWS

    def _fragment(self, file: File) -> Any:
        made = ds.ParquetFileFormat() if self._kind == "parquet" else ds.OrcFileFormat()
        return made.make_fragment(file.path, file.fs)

    def schema(self, file: File, quick: bool = False) -> pa.Schema:
        return self._fragment(file).physical_schema

    def read(self, unit: Unit, schema: pa.Schema | None, names: Any, pool: Any) -> pa.Table:
        fragment = unit.fragment or self._fragment(unit.file)
        return fragment.to_table(columns=names, memory_pool=pool, batch_size=self._rows)

    def batches(
        self, unit: Unit, schema: pa.Schema | None, names: Any, pool: Any
    ) -> Iterator[pa.RecordBatch]:
        fragment = unit.fragment or self._fragment(unit.file)
        return iter(
            fragment.to_batches(
                columns=names, memory_pool=pool, batch_readahead=1, fragment_readahead=1
            )
        )


class _Parquet(_Dataset):
    def units(self, file: File, split: bool, filter: Any, schema: pa.Schema) -> list[Unit]:
        fragment = self._fragment(file)
        if not split:
            return [Unit(file, file.nbytes, fragment=fragment)]
        try:
            parts = fragment.split_by_row_group(filter, schema)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # statistics that do not compare
            parts = fragment.split_by_row_group()
        return [
            Unit(file, part.row_groups[0].total_byte_size, f"row group {n}", part)
            for part in parts
            for n in [part.row_groups[0].id]
        ]

    def read(self, unit: Unit, schema: pa.Schema | None, names: Any, pool: Any) -> pa.Table:
        try:
            return super().read(unit, schema, names, pool)
        except (pa.ArrowException, OSError) as error:
            if unit.part or isinstance(error, MemoryError):
                raise
            self._name_damage(unit, names)
            raise

    def _name_damage(self, unit: Unit, names: Any) -> None:
        """Raise for the row group that cannot be read: Arrow does not say which it was."""
        for part in self.units(unit.file, True, None, pa.schema([])):
            with file_errors(part.name):
                for _ in part.fragment.to_batches(columns=names):
                    pass

    def batches(
        self, unit: Unit, schema: pa.Schema | None, names: Any, pool: Any
    ) -> Iterator[pa.RecordBatch]:
        yield from self.read(unit, schema, names, pool).to_batches()


# ---- text: CSV, JSON lines


def _stream(file: File) -> Any:
    return file.fs.open_input_stream(file.path, compression=packing_of(shown(file.path)))


def _spilling(pool: Any) -> Any:
    """A pool for Arrow's CSV reader, which aborts when it is refused memory.

    So it is refused none: what the store has no room for is private, and a put that finds room
    copies it. While types are guessed the reader holds all text that it has parsed, which may be
    more than comes out of it.
    """
    return pool.spilling() if hasattr(pool, "spilling") else pool  # else it is private anyway


class _Csv(_Whole):
    infers = True

    def __init__(self, delimiter: str, read: Any = None, parse: Any = None, convert: Any = None):
        import pyarrow.csv

        self._csv = pyarrow.csv
        self._read = read or pyarrow.csv.ReadOptions()
        self._parse = parse or pyarrow.csv.ParseOptions(delimiter=delimiter)
        self._convert = convert or pyarrow.csv.ConvertOptions()

    def _options(self, schema: pa.Schema | None, names: Any) -> dict[str, Any]:
        convert = copy.copy(self._convert)
        if names is not None:
            convert.include_columns = list(names)
        if schema is not None:
            types = {name: schema.field(name).type for name in names or schema.names}
            convert.column_types = {**types, **(convert.column_types or {})}
        return {
            "read_options": self._read,
            "parse_options": self._parse,
            "convert_options": convert,
        }

    def schema(self, file: File, quick: bool = False) -> pa.Schema:
        read = copy.copy(self._read)
        read.use_threads = False
        options = self._options(None, None) | {"read_options": read}
        if quick and read.block_size > _HEAD_NBYTES:
            shorter = copy.copy(read)
            shorter.block_size = _HEAD_NBYTES
            with contextlib.suppress(pa.ArrowInvalid):  # a row longer than that, maybe
                return self._head(file, options | {"read_options": shorter})
        return self._head(file, options)

    def _head(self, file: File, options: dict[str, Any]) -> pa.Schema:
        with _stream(file) as stream, self._csv.open_csv(stream, **options) as reader:
            return reader.schema

    def read(self, unit: Unit, schema: pa.Schema | None, names: Any, pool: Any) -> pa.Table:
        options = self._options(schema, names)
        with _stream(unit.file) as stream:
            return self._csv.read_csv(stream, memory_pool=_spilling(pool), **options)

    def batches(
        self, unit: Unit, schema: pa.Schema | None, names: Any, pool: Any
    ) -> Iterator[pa.RecordBatch]:
        options = self._options(schema, names)
        with (
            _stream(unit.file) as stream,
            self._csv.open_csv(stream, memory_pool=_spilling(pool), **options) as reader,
        ):
            yield from reader


class _Json(_Whole):
    infers = True
    open_ended = True

    def __init__(self, others: str) -> None:
        self._others = others  # what to do with fields that the schema does not have

    def _options(self, schema: pa.Schema | None, names: Any) -> dict[str, Any]:
        import pyarrow.json

        if schema is None:
            return {}
        explicit = pa.schema([schema.field(name) for name in names or schema.names])
        return {
            "parse_options": pyarrow.json.ParseOptions(
                explicit_schema=explicit, unexpected_field_behavior=self._others
            )
        }

    def schema(self, file: File, quick: bool = False) -> pa.Schema:
        import pyarrow.json

        try:
            with _stream(file) as stream, pyarrow.json.open_json(stream) as reader:
                return reader.schema
        except pa.ArrowInvalid:
            if self._others == "error" or not _is_blank(file):  # nobody says what there should be
                raise
            return pa.schema([])

    def read(self, unit: Unit, schema: pa.Schema | None, names: Any, pool: Any) -> pa.Table:
        import pyarrow.json

        options = self._options(schema, names)
        try:
            with _stream(unit.file) as stream:
                table = pyarrow.json.read_json(stream, memory_pool=pool, **options)
        except pa.ArrowInvalid:
            if schema is None or not _is_blank(unit.file):
                raise
            table = schema.empty_table()
        return table if names is None else table.select(list(names))

    def batches(
        self, unit: Unit, schema: pa.Schema | None, names: Any, pool: Any
    ) -> Iterator[pa.RecordBatch]:
        import pyarrow.json

        options = self._options(schema, names)
        if _is_blank(unit.file):
            return
        with (
            _stream(unit.file) as stream,
            pyarrow.json.open_json(stream, memory_pool=pool, **options) as reader,
        ):
            for batch in reader:
                yield batch if names is None else batch.select(list(names))


def _is_blank(file: File) -> bool:
    """Whether there are no lines, which Arrow's reader takes for damage."""
    with _stream(file) as stream:
        while (block := stream.read(_HEAD_NBYTES)).isspace():
            pass
        return not block


# ---- Arrow's own


class _Arrow(_Whole):
    """IPC files (Feather is one) and streams, told apart by how they begin."""

    @contextlib.contextmanager
    def _reader(self, source: Any, names: Any = None, pool: Any = None) -> Iterator[Any]:
        is_file = source.read(6) == b"ARROW1"
        source.seek(0)
        opener = pa.ipc.open_file if is_file else pa.ipc.open_stream
        options: dict[str, Any] = {}
        if names is not None:
            with opener(source) as reader:
                found = sorted(reader.schema.get_field_index(name) for name in names)
            source.seek(0)
            options["options"] = pa.ipc.IpcReadOptions(included_fields=found)
        with opener(source, memory_pool=pool, **options) as reader:
            yield reader

    def schema(self, file: File, quick: bool = False) -> pa.Schema:
        with file.fs.open_input_file(file.path) as source, self._reader(source) as reader:
            return reader.schema

    def read(self, unit: Unit, schema: pa.Schema | None, names: Any, pool: Any) -> pa.Table:
        with unit.file.fs.open_input_file(unit.file.path) as source:
            every = names is None or set(names) == set(self.schema(unit.file).names)
            # What is not compressed stays where it is: so all of it is read to the pool.
            opened = pa.BufferReader(_bytes_of(source, pool)) if every else source
            with self._reader(opened, None if every else names or None, pool) as reader:
                table = reader.read_all()
        return table if names is None else table.select(list(names))

    def batches(
        self, unit: Unit, schema: pa.Schema | None, names: Any, pool: Any
    ) -> Iterator[pa.RecordBatch]:
        with (
            unit.file.fs.open_input_file(unit.file.path) as source,
            self._reader(source, names or None, pool) as reader,
        ):
            if isinstance(reader, pa.RecordBatchReader):
                every: Iterator[pa.RecordBatch] = iter(reader)
            else:
                every = (reader.get_batch(i) for i in range(reader.num_record_batches))
            for batch in every:
                yield batch if names is None else batch.select(list(names))


def _bytes_of(source: Any, pool: Any) -> pa.Buffer:
    """All bytes of an open file, in memory of the pool."""
    nbytes = source.size()
    buffer = pa.allocate_buffer(nbytes, memory_pool=pool)
    done, view = 0, memoryview(buffer).cast("B")
    while done < nbytes:
        got = source.readinto(view[done:])
        if not got:
            raise pa.ArrowInvalid(f"it ends after {done} of {nbytes} bytes")
        done += got
    return buffer


FORMATS: dict[str, Sequence[str]] = {
    "parquet": (".parquet", ".pq"),
    "csv": (".csv",),
    "tsv": (".tsv",),
    "json": (".jsonl", ".ndjson", ".json"),
    "arrow": (".arrow", ".ipc", ".feather"),
    "arrows": (".arrows",),
    "orc": (".orc",),
}
"""Names of formats, and endings of files."""


PACKINGS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4", ".br": "brotli"}
"""Endings of files that are compressed as a whole, and how."""


def packing_of(name: str) -> str | None:
    """How a file of this name is compressed as a whole."""
    return next((how for ending, how in PACKINGS.items() if name.lower().endswith(ending)), None)


def make_format(name: str, **options: Any) -> Format:
    """The format of this name, one of `FORMATS`."""
    if name == "parquet":
        return _Parquet(name)
    if name == "orc":
        return _Dataset(name)
    if name in ("csv", "tsv"):
        return _Csv("\t" if name == "tsv" else ",", **options)
    return _Json(**options) if name == "json" else _Arrow()


def format_by_content(file: File) -> str:
    """The format of a file whose name does not tell.

    Raises
    ------
    DamagedFileError
        If it begins like none that can be told.
    """
    with file.fs.open_input_file(file.path) as source:
        head = source.read(8)
    for magic, name in ((b"PAR1", "parquet"), (b"ARROW1", "arrow"), (b"ORC", "orc")):
        if head.startswith(magic):
            return name
    if head.startswith(b"\xff\xff\xff\xff"):
        return "arrows"
    raise DamagedFileError(
        f"{shown(file.path)}: neither its name nor its first bytes tell a format",
        f"format= one of {', '.join(FORMATS)}",
    )
