"""Tables of Lance, by pylance."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from ..errors import ConfigError, InvalidObjectError
from .libraries import library
from .pieces import PIECE_BYTES
from .schemas import needed_for
from .table_delta import object_store_options, remove_empty
from .table_formats import Table, TablePlace, Writing, no_version

__all__ = ["LanceTable"]


class LanceTable(Table):
    """See `Table`."""

    kind = "Lance"

    def __init__(self, place: TablePlace) -> None:
        with library("lance"):
            import lance
        self._library: Any = lance
        if place.url.startswith("s3://"):
            place = place.with_defaults(**object_store_options())
        super().__init__(place)

    def open(self) -> bool:
        if self.place.is_local and not os.path.isdir(self.place.url):
            return False
        try:
            self._data = self._library.dataset(
                self.place.url, storage_options=dict(self.place.options)
            )
        except ValueError as error:
            if "was not found" in str(error):
                return False
            raise
        self.schema = self._data.schema
        return True

    def travel(self, version: int | str | None, timestamp: datetime | None) -> None:
        if timestamp is not None:
            # Its times have no zone, and are those of this machine.
            known = [(v["timestamp"].astimezone(), v["version"]) for v in self._data.versions()]
            fitting = [n for at, n in known if at <= timestamp]
            if not fitting:
                raise no_version(self, timestamp)
            version = max(fitting)
        try:
            self._data = self._data.checkout_version(version)
        except (ValueError, OSError, OverflowError) as error:
            raise no_version(self, version, error) from None
        self.schema = self._data.schema

    # ---- reading

    def batches(
        self, columns: Sequence[str], filter: ds.Expression | None
    ) -> tuple[Iterator[pa.RecordBatch], bool]:
        options = {"columns": list(columns), "batch_size_bytes": PIECE_BYTES}
        if filter is not None and self._takes(filter):
            try:
                scanner = self._data.scanner(filter=filter, **options)
                return iter(scanner.to_reader()), True
            except (pa.ArrowInvalid, NotImplementedError):
                pass  # what Substrait cannot say
        return iter(self._data.scanner(**options).to_reader()), False

    def _takes(self, filter: ds.Expression) -> bool:
        """Whether the library takes filters about columns of such types. It says so late."""
        types = [self.schema.field(name).type for name in needed_for(filter, self.schema)]
        return all(
            pa.types.is_signed_integer(type)
            or pa.types.is_boolean(type)
            or pa.types.is_string(type)
            or pa.types.is_date32(type)
            or (pa.types.is_timestamp(type) and type.unit == "us")
            for type in types
        )

    # ---- writing

    def stored(self, type: pa.DataType) -> pa.DataType | None:
        if pa.types.is_string_view(type):
            return pa.string()
        if pa.types.is_binary_view(type):
            return pa.binary()
        if pa.types.is_struct(type):
            fields = [(field, self.stored(field.type)) for field in type]
            if not fields or any(found is None for _, found in fields):
                return None
            return pa.struct([field.with_type(found) for field, found in fields])
        if pa.types.is_list(type) or pa.types.is_large_list(type):
            made = pa.list_ if pa.types.is_list(type) else pa.large_list
            found = self.stored(type.value_type)
            return None if found is None else made(type.value_field.with_type(found))
        odd = pa.types.is_union, pa.types.is_run_end_encoded, pa.types.is_interval
        views = pa.types.is_list_view, pa.types.is_large_list_view
        return None if any(is_one(type) for is_one in (*odd, *views)) else type

    def write(self, writing: Writing) -> None:
        if writing.partition_by:
            raise ConfigError("tables of Lance have no partitions", "leave partition_by out")
        if "" in writing.rows.schema.names:  # it could not be read
            raise InvalidObjectError("columns of Lance have names", "rename the one without")
        if writing.widened and writing.mode == "append":
            raise ConfigError(
                f"{self.place.name} gets no columns by rows",
                "lance.LanceDataset.add_columns adds them before",
            )
        mode = {"append": "append", "replace": "overwrite"}.get(writing.mode, "create")
        there = hasattr(self, "_data")
        was = os.path.isdir(self.place.url) if self.place.is_local else True
        try:
            self._library.write_dataset(
                writing.rows,
                self._data if there else self.place.url,
                mode=mode if there else "create",
                storage_options=dict(self.place.options),
            )
        except BaseException:
            if not was:
                remove_empty(self.place.url)
            raise
