"""Tables of Delta Lake, by deltalake (delta-rs)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow import fs as pafs

from ..errors import ConfigError
from .libraries import library
from .table_formats import (
    Table,
    TablePlace,
    Writing,
    lake_type,
    milliseconds,
    nested,
    no_version,
    plain,
)

__all__ = ["DeltaTable", "object_store_options"]


def object_store_options() -> Mapping[str, str]:
    """What makes Rust's ``object_store`` look where the rest looks: plain HTTP, files with keys."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    return {"allow_http": "true"} if endpoint.startswith("http://") else {}


def _delta_options(given: Mapping[str, str]) -> Mapping[str, str]:
    options = dict(object_store_options())
    has_key = any("access_key_id" in name.lower() for name in (*given, *os.environ))
    if "AWS_ENDPOINT_URL" in os.environ and not has_key:
        options["aws_force_credential_load"] = "true"  # else it looks at no files
    return options


class DeltaTable(Table):
    """See `Table`."""

    kind = "Delta"

    def __init__(self, place: TablePlace) -> None:
        with library("delta"):
            import deltalake
        self._library: Any = deltalake
        if place.url.startswith(("s3://", "s3a://")):
            place = place.with_defaults(**_delta_options(place.options))
        super().__init__(place)

    def open(self) -> bool:
        if self.place.is_local and not os.path.isdir(self.place.url):
            return False
        try:
            self._table = self._library.DeltaTable(
                self.place.url, storage_options=dict(self.place.options)
            )
        except self._library.exceptions.TableNotFoundError:
            return False
        self._look()
        return True

    def _look(self) -> None:
        found = pa.schema(self._table.schema().to_arrow())
        self.schema = pa.schema(
            [pa.field(f.name, plain(f.type), f.nullable) for f in found]  # no ids of columns
        )
        self.partitions = self._table.metadata().partition_columns

    def travel(self, version: int | str | None, timestamp: datetime | None) -> None:
        if isinstance(version, str):
            raise ConfigError(f"version={version!r}", "a version of Delta is a number")
        # Of an older version, history tells times of others.
        known = self._table.history() if timestamp is not None else []
        try:
            self._table.load_as_version(version if timestamp is None else timestamp)
        except (self._library.exceptions.DeltaError, ValueError, OverflowError) as error:
            raise no_version(self, timestamp or version, error) from None
        if timestamp is not None:  # before all of them, the library takes the first
            times = [each.get("timestamp", 0) for each in known]
            if times and min(times) > milliseconds(timestamp):
                raise no_version(self, timestamp)
        self._look()

    # ---- reading

    def batches(
        self, columns: Sequence[str], filter: ds.Expression | None
    ) -> tuple[Iterator[pa.RecordBatch], bool]:
        if filter is not None and self._is_plain():
            data = self._table.to_pyarrow_dataset()
            scanner = data.scanner(
                columns=list(columns), filter=filter, batch_readahead=4, fragment_readahead=1
            )
            return scanner.to_batches(), True
        found = self._table.scan(columns=list(columns))
        return iter(pa.RecordBatchReader.from_stream(found)), False

    def _is_plain(self) -> bool:
        """Whether its files are to be read as they are: not all of its rows may count, and names
        of columns may be others, which the library's data sets do not always see."""
        features = set(self._table.protocol().reader_features or ())
        mapping = self._table.metadata().configuration.get("delta.columnMapping.mode", "none")
        return mapping == "none" and features <= {"timestampNtz"}

    # ---- writing

    def stored(self, type: pa.DataType) -> pa.DataType | None:
        found = nested(type, lake_type)
        return None if found is None else nested(found, _without_sizes)

    def write(self, writing: Writing) -> None:
        there = hasattr(self, "_table")
        before = set() if there else self._files()
        mode = {"append": "append", "replace": "overwrite"}.get(writing.mode, "error")
        how = {"overwrite": "overwrite", "append": "merge" if writing.widened else None}
        try:
            self._library.write_deltalake(
                self._table if there else self.place.url,
                writing.rows,
                mode=mode,
                schema_mode=how.get(mode),
                partition_by=list(writing.partition_by) or None,
                storage_options=dict(self.place.options),
            )
        except BaseException:
            if not there:
                self._take_away(before)
            raise

    # What a commit did not come to, the library leaves. Of a table that is there nobody can tell
    # it from what others are about to commit, and vacuum takes it; of one that never came to be,
    # it goes here.

    def _store(self) -> pafs.FileSystem:
        from deltalake.fs import DeltaStorageHandler

        handler = DeltaStorageHandler(self.place.url, dict(self.place.options))
        return pafs.PyFileSystem(handler)

    def _files(self) -> set[str]:
        if self.place.is_local and not os.path.isdir(self.place.url):
            return set()
        selector = pafs.FileSelector("", recursive=True, allow_not_found=True)
        infos = self._store().get_file_info(selector)
        return {info.path for info in infos if info.type == pafs.FileType.File}

    def _take_away(self, before: set[str]) -> None:
        with contextlib.suppress(Exception):
            after = self._files()
            if any(path.lstrip("/").startswith("_delta_log/") for path in after):
                return  # others have made it meanwhile
            store = self._store()
            for path in after - before:
                store.delete_file(path)
            if self.place.is_local and not before:
                remove_empty(self.place.url)


def remove_empty(path: str) -> None:
    """Remove a directory of this machine with those in it, as far as they are empty."""
    for folder, _, _ in os.walk(path, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(folder)


def _without_sizes(type: pa.DataType) -> pa.DataType:
    return pa.binary() if pa.types.is_fixed_size_binary(type) else type
