"""The drivers that read and scan files: Parquet, CSV, JSON lines, ORC, Feather and Arrow IPC.

They know what to do in which order; `datasets` has the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from .datasets import Dataset, in_order, joined, open_dataset
from .filesystems import READ_SCHEMES, file_errors
from .formats import FORMATS, PACKINGS, Unit
from .registry import Request, driver, shown
from .resuming import resuming
from .schemas import Policy

_TEXT = ("csv", "tsv", "json")


def _register(kind: Any, function: Any, schemes: Sequence[str]) -> None:
    """For urls whose format is known by ``format`` or the ending, and for those without."""
    driver(kind, scheme=schemes)(function)
    for name, endings in FORMATS.items():
        packed = ("", *PACKINGS) if name in _TEXT else ("",)
        every = [ending + more for ending in endings for more in packed]
        driver(kind, scheme=schemes, format=name, endings=every)(function)


def read_files(
    request: Request,
    *,
    columns: Sequence[str] | None = None,
    filter: Any = None,
    schema: Policy = "strict",
    filesystem: Any = None,
    retries: int = 2,
    resume: str | None = None,
    read_options: Any = None,
    parse_options: Any = None,
    convert_options: Any = None,
) -> pa.Table:
    """Read a file, a directory or a glob as one table, decoded into the shared pool."""
    csv = {"read": read_options, "parse": parse_options, "convert": convert_options}
    data = open_dataset(
        request,
        columns=columns,
        filter=filter,
        schema=schema,
        filesystem=filesystem,
        retries=retries,
        csv=csv,
        scanning=False,
    )
    pool = request.client.memory_pool
    first = pool if data.filter is None else pa.default_memory_pool()
    units = data.units(split=request.progress is not None or resume is not None)
    told = _Told(request, units)

    def one(unit: Unit) -> pa.Table:
        table = data.decoded(unit, first)
        return table if data.infers else data.finished(table, unit, pool)

    tables = []
    with _kept(request, resume, data, units, one) as kept:
        for unit, table in zip(units, in_order(units, kept), strict=True):
            tables.append(table)
            told(unit)
    if data.infers:
        data = data.with_types_of(
            [(unit.name, t) for unit, t in zip(units, tables, strict=True)], schema
        )
        tables = [data.finished(t, unit, pool) for t, unit in zip(tables, units, strict=True)]
    with file_errors(shown(request.url)):
        if resume is None:  # else it is made of what is kept
            tables = joined(tables, pool)
        return pa.concat_tables(tables) if tables else data.result.empty_table()


@contextmanager
def _kept(
    request: Request,
    resume: str | None,
    data: Dataset,
    units: Sequence[Unit],
    one: Callable[[Unit], pa.Table],
) -> Iterator[Callable[[Unit], pa.Table]]:
    """What makes a table of a unit, and with ``resume`` keeps it until the whole is put."""
    if resume is None:
        yield one
        return
    keys = data.keys_of(units)
    with resuming(request.client, resume, keys.values()) as fragments:
        request.then(fragments.drop)
        yield lambda unit: fragments.table(keys[unit.file.path, unit.part], lambda: one(unit))


def scan_files(
    request: Request,
    *,
    columns: Sequence[str] | None = None,
    filter: Any = None,
    schema: Policy = "strict",
    filesystem: Any = None,
    retries: int = 2,
    read_options: Any = None,
    parse_options: Any = None,
    convert_options: Any = None,
) -> pa.RecordBatchReader:
    """Scan a file, a directory or a glob: a row group or a block at a time."""
    csv = {"read": read_options, "parse": parse_options, "convert": convert_options}
    data: Dataset = open_dataset(
        request,
        columns=columns,
        filter=filter,
        schema=schema,
        filesystem=filesystem,
        retries=retries,
        csv=csv,
        scanning=True,
    )
    told = _Told(request, data.units(split=True))
    batches = data.batches(request.client.memory_pool, told)
    return pa.RecordBatchReader.from_batches(data.result, batches)


class _Told:
    """Tells the request's progress, in bytes of units."""

    def __init__(self, request: Request, units: Sequence[Unit]) -> None:
        self._request, self._done = request, 0
        self._total = sum(unit.nbytes for unit in units)

    def __call__(self, unit: Unit) -> None:
        self._done += unit.nbytes
        self._request.done(self._done, self._total)


_register("read", read_files, READ_SCHEMES)
_register("scan", scan_files, READ_SCHEMES)
