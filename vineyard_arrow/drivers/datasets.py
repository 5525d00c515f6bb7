"""Files that make one table: which they are, what columns they have, and their units in order.

What is decoded goes straight to the given pool. With a filter it is decoded in private memory,
and the rows that stay are built in the pool.
"""

from __future__ import annotations

import os
import pickle
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow import fs as pafs

from ..errors import ConfigError, DamagedFileError, SchemaMismatchError, VineyardArrowError
from .filesystems import File, file_errors, list_files, place, version_of
from .formats import FORMATS, Format, Unit, format_by_content, make_format
from .registry import Request, format_of, shown
from .resuming import key_of
from .schemas import Policy, expression_of, fitted, may_hold, merged, needed_for, rows_where

__all__ = ["Dataset", "chosen", "in_order", "joined", "open_dataset", "picked", "retried"]

_S = TypeVar("_S")
_T = TypeVar("_T")
_THREADS = min(8, os.cpu_count() or 1)
_RETRY_S = 0.1  # before the second attempt; twice as long before each further one
_SMALL_BYTES = 64 << 10  # what is smaller, a put copies anyway
_JOINED_BYTES = 1 << 20
_NUMBER = re.compile(r"-?[0-9]{1,18}")
_TYPES_HINT = "schema=pa.schema(...) says what the columns are; or it is damaged"


@dataclass(frozen=True, slots=True)
class Dataset:
    """Files that make one table; made by `open_dataset`.

    ``schema`` has all columns, those of directories too; ``names`` are asked for, ``needed`` are
    these and what the filter looks at. ``columns`` has what each file has itself. ``infers``: the
    types in ``schema`` are guesses, and those of what is read decide.
    """

    files: Sequence[File]
    format: Format
    schema: pa.Schema
    names: Sequence[str]
    needed: Sequence[str]
    filter: ds.Expression | None
    keys: Mapping[str, pa.DataType]
    columns: Mapping[str, Sequence[str]]
    infers: bool
    every: bool  # column was asked for
    retries: int
    options: Mapping[str, Any]  # of the format

    @property
    def result(self) -> pa.Schema:
        """The schema of what comes out."""
        return picked(self.schema, self.names)

    def units(self, split: bool) -> list[Unit]:
        """The units of all files but those that the filter rules out."""
        out: list[Unit] = []
        for file in self.files:
            if self.filter is not None and not self._may_match(file):
                continue
            with file_errors(shown(file.path)):
                split_ = split or self.filter is not None or not _is_local(file)
                out += self.format.units(file, split_, self.filter, self.schema)
        return out

    def _may_match(self, file: File) -> bool:
        """Whether what its directories say goes with the filter. Nothing is read."""
        said = None
        for name, value in self._keys_of(file).items():
            one = ds.field(name).is_null() if value is None else ds.field(name) == value
            said = one if said is None else said & one
        if said is None or self.filter is None:
            return True
        return may_hold(said, self.filter, self.schema)

    def _keys_of(self, file: File) -> dict[str, Any]:
        return {
            key: int(value) if value is not None and pa.types.is_integer(self.keys[key]) else value
            for key, value in file.keys
        }

    def keys_of(self, units: Sequence[Unit]) -> dict[tuple[str, str], str]:
        """A key of each unit, by path and part: another if the file is, or what is made of it."""
        needed = b"" if self.infers else picked(self.schema, self.needed).serialize().to_pybytes()
        how = repr((type(self.format).__name__, self.every, self.names, self.needed)).encode()
        try:
            given = pickle.dumps((self.filter, sorted(self.options.items())))
        except Exception as error:
            raise ConfigError(
                f"these options cannot be told from others: {error}", "read it without resume"
            ) from None
        versions = {unit.file.path: "" for unit in units}
        out = {}
        for unit in units:
            file = unit.file
            versions[file.path] = versions[file.path] or version_of(file)
            what = repr((file.path, file.nbytes, versions[file.path], file.keys, unit.part))
            out[file.path, unit.part] = key_of(what.encode(), needed, how, given)
        return out

    # ---- units as tables

    def decoded(self, unit: Unit, pool: Any) -> pa.Table:
        """A unit as it is in the file. One that breaks off is read again, up to ``retries``."""

        def once() -> pa.Table:
            with file_errors(unit.name, _TYPES_HINT if self.format.infers else None):
                types = None if self.infers else self.schema
                found_out = self.infers and (self.every or self.format.open_ended)
                names = None if found_out else self._names_in(unit.file)
                return self.format.read(unit, types, names, pool)

        return retried(once, unit.file, self.retries)

    def finished(self, table: pa.Table, unit: Unit, pool: Any) -> pa.Table:
        """What was decoded, made to fit, filtered, with the columns that were asked for."""
        keys = self._keys_of(unit.file)
        with file_errors(unit.name):
            if self.filter is None:
                return fitted(table, self.result, keys, pool, unit.name)
            private = pa.default_memory_pool()
            needed = picked(self.schema, self.needed)
            table = fitted(table, needed, keys, private, unit.name)
            return rows_where(table, self.filter, pool).select(list(self.names))

    def with_types_of(self, tables: Sequence[tuple[str, pa.Table]], policy: Policy) -> Dataset:
        """This, with types that were found by reading."""
        schemas = [(name, table.schema) for name, table in tables]
        if self.every:
            schemas = [(name, _with_names_once(found, None, name)) for name, found in schemas]
        else:
            schemas = [
                (name, picked(found, [n for n in self.names if n in found.names]))
                for name, found in schemas
            ]
        found = merged(schemas, policy)
        if self.every:
            whole = _with_keys(found, self.keys)
            return replace(self, schema=whole, names=whole.names)
        fields = [
            found.field(f.name)
            if found.get_field_index(f.name) >= 0 and f.name not in self.keys
            else f
            for f in self.schema
        ]
        return replace(self, schema=pa.schema(fields, self.schema.metadata))

    def _names_in(self, file: File) -> list[str]:
        there = self.needed if self.format.open_ended else self.columns[file.path]
        return [n for n in self.needed if n in there and n not in self.keys]

    def batches(self, pool: Any, told: Callable[[Unit], None]) -> Iterator[pa.RecordBatch]:
        """All rows, with few of them in memory at a time; ``told`` of units that are done."""
        private = pool if self.filter is None else pa.default_memory_pool()
        for unit in self.units(split=True):
            sent = 0  # what came before a break is not sent again
            for attempt in range(self.retries + 1):
                try:
                    for n, table in enumerate(self._pieces(unit, private)):
                        if n < sent:
                            continue
                        yield from self.finished(table, unit, pool).to_batches()
                        sent = n + 1
                    break
                except VineyardArrowError as error:
                    if attempt == self.retries or not _may_pass(error, unit.file):
                        raise
                    time.sleep(_RETRY_S * 2**attempt)
            told(unit)

    def _pieces(self, unit: Unit, pool: Any) -> Iterator[pa.Table]:
        with file_errors(unit.name, _TYPES_HINT if self.format.infers else None):
            names = self._names_in(unit.file)
            for batch in self.format.batches(unit, self.schema, names, pool):
                yield pa.Table.from_batches([batch])


def in_order(
    items: Sequence[_S], function: Callable[[_S], _T], threads: int = _THREADS
) -> Iterator[_T]:
    """What a function makes of each item, in order; some are done ahead, by threads."""
    if len(items) < 2 or threads < 2:
        yield from map(function, items)
        return
    waiting: deque[Future[_T]] = deque()
    rest = iter(items)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="vineyard-arrow-read")
    try:
        for item in rest:
            waiting.append(pool.submit(function, item))
            if len(waiting) == threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        waiting.clear()
        pool.shutdown(cancel_futures=True)


def joined(tables: list[pa.Table], pool: Any) -> list[pa.Table]:
    """The same rows, small tables side by side made one, so that many files make few chunks.

    ``tables`` is emptied as it goes, so that little of it is there twice.
    """
    rest, out = deque(tables), list[pa.Table]()
    tables.clear()
    while rest:
        held, nbytes = [rest.popleft()], 0
        while rest and (nbytes := nbytes + held[-1].nbytes) < _JOINED_BYTES:
            if max(held[-1].nbytes, rest[0].nbytes) >= _SMALL_BYTES:
                break
            held.append(rest.popleft())
        out.append(held[0] if len(held) == 1 else _combined(pa.concat_tables(held), pool))
    return out


def _combined(table: pa.Table, pool: Any) -> pa.Table:
    try:
        return table.combine_chunks(memory_pool=pool)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):  # types that Arrow cannot put together
        return table


def retried(function: Callable[[], _T], file: File, retries: int) -> _T:
    """Call it, and again if reading from elsewhere broke off."""
    for attempt in range(retries):
        try:
            return function()
        except VineyardArrowError as error:
            if not _may_pass(error, file):
                raise
            time.sleep(_RETRY_S * 2**attempt)
    return function()


def _may_pass(error: VineyardArrowError, file: File) -> bool:
    """Whether it may go better next time: connections break off, and short reads look damaged."""
    return not _is_local(file) and type(error).code in ("file", "damaged-file")


def _is_local(file: File) -> bool:
    return isinstance(file.fs, pafs.LocalFileSystem)


# ---- opening


def open_dataset(
    request: Request,
    *,
    columns: Sequence[str] | None,
    filter: Any,
    schema: Policy,
    filesystem: Any,
    retries: int,
    csv: Mapping[str, Any],
    scanning: bool,
) -> Dataset:
    """Look at the files of a request: their columns, not their rows."""
    where = place(request.url, filesystem)
    files, name = _of_one_format(request.format, list_files(where), where.name)
    is_said = columns is not None or isinstance(schema, pa.Schema)
    format = _made(name, csv, "ignore" if is_said else "error")
    expression = expression_of(filter)

    infers = format.infers and not (
        scanning or expression is not None or isinstance(schema, pa.Schema)
    )

    wanted = schema.names if columns is None and isinstance(schema, pa.Schema) else columns

    def look(file: File) -> pa.Schema:
        with file_errors(shown(file.path), _TYPES_HINT if format.infers else None):
            return _with_names_once(format.schema(file, infers), wanted, shown(file.path))

    keys = _key_types(files)
    if infers and columns is None:  # reading tells
        looked, whole = [], pa.schema([])
    else:
        found = in_order(files, lambda file: retried(lambda: look(file), file, retries))
        looked = list(zip(files, found, strict=True))
        named = [(shown(file.path), own) for file, own in looked]
        whole = _names_of(named, schema) if infers else merged(named, schema)
    whole = _with_keys(whole, keys)
    names = chosen(columns, whole)
    needed = list(names)
    if expression is not None:
        looks_at = needed_for(expression, whole)
        needed += [name for name in whole.names if name in looks_at and name not in names]
    return Dataset(
        files,
        format,
        whole,
        names,
        needed,
        expression,
        keys,
        {file.path: own.names for file, own in looked},
        infers,
        columns is None,
        retries,
        csv,
    )


def _made(name: str, csv: Mapping[str, Any], others: str) -> Format:
    given = {key: value for key, value in csv.items() if value is not None}
    if given and name not in ("csv", "tsv"):
        raise ConfigError(f"{', '.join(given)} are options of CSV files, not of {name}")
    return make_format(name, **({"others": others} if name == "json" else given))


def _of_one_format(given: str | None, files: list[File], name: str) -> tuple[Sequence[File], str]:
    """The files of a format, and which; that of the first by default."""
    if given is not None:
        if given not in FORMATS:
            raise ConfigError(
                f"{name}: {given!r} is no format of files", f"there are {', '.join(FORMATS)}"
            )
        return files, given
    told = {file.path: format_of(file.path) for file in files}
    first = told[files[0].path]
    if first is None:
        first = format_by_content(files[0])
    others = sorted({f or "unknown" for f in told.values()} - {first})
    if others and len(files) > 1 and others != ["unknown"]:
        raise DamagedFileError(
            f"{name} has files of several formats: {first}, {', '.join(others)}",
            "take them by a glob, such as '*.parquet'",
        )
    return files, first


def _names_of(looked: Sequence[tuple[str, pa.Schema]], policy: Policy) -> pa.Schema:
    """The columns there are, by name alone."""
    (_, out), *others = looked
    merged(looked[:1], policy)  # checks the policy
    for _, found in others if policy != "first" else ():
        for field in found:
            if out.get_field_index(field.name) < 0:
                out = out.append(field)
    return out


def chosen(columns: Sequence[str] | None, schema: pa.Schema) -> list[str]:
    """The columns that were asked for, if they are there."""
    if columns is None:
        return list(schema.names)
    if isinstance(columns, str):
        raise ConfigError(f"columns={columns!r}", f"a list of names: columns=[{columns!r}]")
    for name in columns:
        if schema.get_field_index(name) < 0:
            raise SchemaMismatchError(
                f"there is no column {name!r}", f"there are {', '.join(schema.names)}"
            )
    names = list(columns)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        raise ConfigError(
            f"columns={names!r} {f'names {twice[0]!r} twice' if twice else 'names none'}",
            "name each column that is wanted, once",
        )
    return names


def _with_names_once(schema: pa.Schema, wanted: Sequence[str] | None, name: str) -> pa.Schema:
    """The columns that a file names once, if all that are ``wanted`` are among them."""
    names = schema.names
    if len(set(names)) == len(names):
        return schema
    twice = {column for column in names if names.count(column) > 1}
    asked = sorted(twice if wanted is None else twice & set(wanted))
    if asked:
        raise SchemaMismatchError(
            f"{name} has more than one column {asked[0]!r}",
            "columns=[...] chooses among the others",
        )
    return pa.schema([field for field in schema if field.name not in twice], schema.metadata)


def picked(schema: pa.Schema, names: Sequence[str]) -> pa.Schema:
    """The schema of some columns."""
    return pa.schema([schema.field(name) for name in names], schema.metadata)


def _key_types(files: Sequence[File]) -> dict[str, pa.DataType]:
    """Types of what directories say: int64 if all are numbers, else string."""
    said: dict[str, list[str | None]] = {}
    for file in files:
        for key, value in file.keys:
            said.setdefault(key, []).append(value)
    for key, values in said.items():
        if len(values) != len(files):
            raise SchemaMismatchError(
                f"not all files lie in a directory {key}=...", "take those that do by a glob"
            )
    return {
        key: pa.int64()
        if all(v is None or _NUMBER.fullmatch(v) for v in values) and any(values)
        else pa.string()
        for key, values in said.items()
    }


def _with_keys(schema: pa.Schema, keys: Mapping[str, pa.DataType]) -> pa.Schema:
    for key, type_ in keys.items():
        index = schema.get_field_index(key)
        field = pa.field(key, type_)
        schema = schema.append(field) if index < 0 else schema.set(index, field)
    return schema
