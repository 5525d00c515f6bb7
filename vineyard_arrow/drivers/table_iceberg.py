"""Tables of Apache Iceberg, by pyiceberg: of a catalog, or as a metadata file says."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from ..errors import (
    ConfigError,
    FileError,
    InvalidObjectError,
    LibraryNotFoundError,
    PathNotFoundError,
    SchemaMismatchError,
)
from .libraries import library
from .schemas import may_hold
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

__all__ = ["IcebergTable"]

_APPEND_BYTES = 128 << 20  # of rows for partitions, which are sorted out in memory


class IcebergTable(Table):
    """See `Table`."""

    kind = "Iceberg"
    replaces_columns = False
    _catalog: Any = None
    _table: Any = None
    _snapshot: int | None = None

    def __init__(self, place: TablePlace) -> None:
        with library("iceberg"):
            import pyiceberg.catalog
            import pyiceberg.exceptions
            import pyiceberg.io.pyarrow
            import pyiceberg.table
        self._library: Any = pyiceberg
        super().__init__(place)

    def close(self) -> None:
        if self._catalog is not None:
            self._catalog.close()

    def open(self) -> bool:
        errors = self._library.exceptions
        if not self.place.catalog:
            self._table = self._static()
        else:
            self._catalog = self._opened_catalog()
            try:
                self._table = self._catalog.load_table(self.place.identifier)
            except (errors.NoSuchTableError, errors.NoSuchNamespaceError):
                return False
        names = {field.field_id: field.name for field in self._table.schema().fields}
        self.partitions = [
            names.get(each.source_id, each.name) if str(each.transform) == "identity" else each.name
            for each in self._table.spec().fields
        ]
        self._look()
        return True

    def _static(self) -> Any:
        options = _file_options(self.place.options, self.place.url)
        try:
            return self._library.table.StaticTable.from_metadata(self.place.url, options)
        except FileNotFoundError as error:
            is_file = self.place.url.endswith(".metadata.json")
            hint = (
                None
                if is_file
                else "without metadata/version-hint.text it takes a catalog, or a .metadata.json"
            )
            raise PathNotFoundError(f"{self.place.name}: {error}", hint) from None

    def _opened_catalog(self) -> Any:
        name = self.place.catalog
        try:
            made = self._library.catalog.load_catalog(name, **self.place.options)
        except self._library.exceptions.NotInstalledError as error:
            raise LibraryNotFoundError(str(error), "pip install what pyiceberg asks for") from None
        except ValueError as error:
            if "URI missing" not in str(error):
                raise
            raise ConfigError(
                f"there is no catalog {name!r} of Iceberg: {error}",
                "~/.pyiceberg.yaml or PYICEBERG_CATALOG__... says where it is, or storage_options=",
            ) from None
        for key, value in _file_options(made.properties, "s3://").items():
            made.properties.setdefault(key, value)
        return made

    def _look(self) -> None:
        projection = self._scan().projection()  # of the snapshot: names may have changed since
        self._fields = projection.fields
        found = self._library.io.pyarrow.schema_to_pyarrow(projection, include_field_ids=False)
        self.schema = pa.schema([field.with_type(plain(field.type)) for field in found])

    def _scan(self, columns: Sequence[str] = ("*",)) -> Any:
        return self._table.scan(selected_fields=tuple(columns), snapshot_id=self._snapshot)

    def travel(self, version: int | str | None, timestamp: datetime | None) -> None:
        if timestamp is not None:
            found = self._table.snapshot_as_of_timestamp(milliseconds(timestamp))
        elif isinstance(version, str):  # a branch or a tag
            found = self._table.snapshot_by_name(version)
        else:
            found = self._table.snapshot_by_id(version)
        if found is None:
            raise no_version(self, timestamp or version)
        self._snapshot = found.snapshot_id
        self._look()

    # ---- reading

    def batches(
        self, columns: Sequence[str], filter: ds.Expression | None
    ) -> tuple[Iterator[pa.RecordBatch], bool]:
        scan = self._scan(columns)
        tasks = [t for t in scan.plan_files() if filter is None or self._may_match(t, filter)]
        from pyiceberg.expressions import AlwaysTrue

        reader = self._library.io.pyarrow.ArrowScan(
            self._table.metadata, self._table.io, scan.projection(), AlwaysTrue()
        )
        fragile = [
            f for f in scan.projection().fields if _loses_nulls(self.schema.field(f.name).type)
        ]

        def found() -> Iterator[pa.RecordBatch]:
            # A file at a time: of several, the library would hold all that it has read.
            for task in tasks:
                self._check_nulls(task, fragile)
                yield from reader.to_record_batches([task])

        return found(), False

    def _check_nulls(self, task: Any, fields: Sequence[Any]) -> None:
        """Refuse a file with nulls that the library would make empty lists and maps of."""
        if not fields:
            return
        import pyarrow.parquet as pq

        with self._table.io.new_input(task.file.file_path).open() as source:
            file = pq.ParquetFile(source)
            ids = {
                int((each.metadata or {}).get(b"PARQUET:field_id", -1)): each.name
                for each in file.schema_arrow
            }
            for field in fields:
                name = ids.get(field.field_id, field.name)
                if name not in file.schema_arrow.names:
                    continue
                for batch in file.iter_batches(columns=[name]):
                    if _has_lost_nulls(batch.column(0)):
                        raise FileError(_NULLS.format(field.name, task.file.file_path), _NULLS_HINT)

    def _may_match(self, task: Any, filter: ds.Expression) -> bool:
        """Whether what the metadata say of a file goes with a filter."""
        known = None
        for field in self._fields:
            bounds = _bounds(task.file, field)
            if bounds is None:
                continue
            type = self.schema.field(field.name).type
            least, most = (pa.scalar(each).cast(type) for each in bounds)
            one = (ds.field(field.name) >= least) & (ds.field(field.name) <= most)
            if (task.file.null_value_counts or {}).get(field.field_id) != 0:
                one |= ds.field(field.name).is_null()
            known = one if known is None else known & one
        return known is None or may_hold(known, filter, self.schema)

    # ---- writing

    def stored(self, type: pa.DataType) -> pa.DataType | None:
        return nested(type, _stored)

    def write(self, writing: Writing) -> None:
        if not self.place.catalog:
            raise ConfigError(
                f"{self.place.name}: tables of Iceberg are written by a catalog",
                "iceberg://catalog/namespace.table",
            )
        files = _Recorded()
        try:
            if self._table is None:
                change = self._created(writing, files)
            else:
                self._table.io = files.of(self._table.io)
                change = self._changed(writing)
            for rows in self._appendable(writing, change):
                change.append(rows)
        except BaseException:
            files.delete()
            raise
        errors = self._library.exceptions
        try:
            change.commit_transaction()
        except (
            errors.CommitFailedException,
            errors.TableAlreadyExistsError,
            errors.ValidationException,
        ):
            files.delete()  # of other failures nobody knows whether it came to be
            raise

    def _created(self, writing: Writing, files: _Recorded) -> Any:
        errors = self._library.exceptions
        try:
            change = self._catalog.create_table_transaction(
                self.place.identifier, writing.rows.schema
            )
        except errors.NoSuchNamespaceError as error:
            raise PathNotFoundError(
                f"{self.place.name}: {error}", "the catalog's create_namespace makes it"
            ) from None
        change._table.io = files.of(change._table.io)
        if writing.partition_by:
            with change.update_spec() as spec:
                for name in writing.partition_by:
                    spec.add_identity(name)
        return change

    def _changed(self, writing: Writing) -> Any:
        change = self._table.transaction()
        names = writing.rows.schema.names
        gone = [n for n in self.schema.names if writing.mode == "replace" and n not in names]
        if writing.widened or gone:
            with change.update_schema(allow_incompatible_changes=True) as schema:
                schema.union_by_name(writing.rows.schema)
                for name in gone:
                    if name in self.partitions:
                        raise SchemaMismatchError(
                            f"{self.place.name} is partitioned by {name!r}, which is missing",
                            "give it, or drop the table first",
                        )
                    schema.delete_column(name)
        if writing.mode == "replace" and any(True for _ in self._scan().plan_files()):
            from pyiceberg.expressions import AlwaysTrue

            change.delete(AlwaysTrue())
        return change

    def _appendable(self, writing: Writing, change: Any) -> Iterator[Any]:
        """The rows, as the library takes them: a stream only if there are no partitions."""
        rows = _without_lost_nulls(writing.rows)
        if change.table_metadata.spec().is_unpartitioned():
            yield rows
            return
        held: list[pa.RecordBatch] = []
        for batch in rows:
            held.append(batch)
            if sum(each.nbytes for each in held) >= _APPEND_BYTES:
                yield pa.Table.from_batches(held)
                held = []
        if held or self._table is None:
            yield pa.Table.from_batches(held, writing.rows.schema)


class _Recorded:
    """What is written by the library's file access, to be taken away if nothing comes of it."""

    def __init__(self) -> None:
        self._made: list[tuple[Any, str]] = []

    def of(self, io: Any) -> Any:
        """File access that is recorded."""
        made = self._made

        class Recording:
            def __getattr__(self, name: str) -> Any:
                return getattr(io, name)

            def new_output(self, location: str) -> Any:
                made.append((io, location))
                return io.new_output(location)

        return Recording()

    def delete(self) -> None:
        for io, location in self._made:
            with contextlib.suppress(Exception):
                io.delete(location)


# ---- nulls in lists and maps of structs, of which pyiceberg makes empty ones, both ways:
# https://github.com/apache/iceberg-python/issues/3833

_NULLS = "column {!r} of {} has null lists or maps of structs, of which pyiceberg makes empty ones"
_NULLS_HINT = "leave the column out, or take the table by another engine, such as DuckDB"


def _loses_nulls(type: pa.DataType) -> bool:
    if pa.types.is_struct(type):
        return any(_loses_nulls(field.type) for field in type)
    if pa.types.is_map(type):
        return pa.types.is_struct(type.item_type) or _loses_nulls(type.item_type)
    if pa.types.is_nested(type):
        return pa.types.is_struct(type.value_type) or _loses_nulls(type.value_type)
    return False


def _has_lost_nulls(array: pa.Array) -> bool:
    if not _loses_nulls(array.type):
        return False
    if pa.types.is_struct(array.type):
        return any(map(_has_lost_nulls, array.flatten()))
    is_map = pa.types.is_map(array.type)
    inner = array.items if is_map else array.flatten()
    return bool(pa.types.is_struct(inner.type) and array.null_count) or _has_lost_nulls(inner)


def _without_lost_nulls(rows: pa.RecordBatchReader) -> pa.RecordBatchReader:
    """The same; an error where there are such nulls."""
    names = [field.name for field in rows.schema if _loses_nulls(field.type)]
    if not names:
        return rows

    def checked() -> Iterator[pa.RecordBatch]:
        for batch in rows:
            for name in names:
                if _has_lost_nulls(batch.column(name)):
                    raise InvalidObjectError(_NULLS.format(name, "what is to be written"), _EMPTY)
            yield batch

    return pa.RecordBatchReader.from_batches(rows.schema, checked())


_EMPTY = "make them empty before, or leave the column out"


def _file_options(known: Any, url: str) -> dict[str, str]:
    """Options for S3 that are not known: the library does not look for them where others do."""
    out = dict(known)
    if url.startswith(("s3://", "s3a://")):
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        if endpoint:
            out.setdefault("s3.endpoint", endpoint)
        if region:
            out.setdefault("s3.region", region)
    return out


def _bounds(file: Any, field: Any) -> tuple[Any, Any] | None:
    """The least and the most value of a column in a file, if its metadata say and they compare."""
    from pyiceberg import conversions
    from pyiceberg.types import DateType, IntegerType, LongType, StringType

    least = (file.lower_bounds or {}).get(field.field_id)
    most = (file.upper_bounds or {}).get(field.field_id)
    type = field.field_type
    if least is None or most is None:
        return None
    if isinstance(type, StringType):
        try:
            return conversions.from_bytes(type, least), conversions.from_bytes(type, most)
        except UnicodeDecodeError:  # cut off within a letter
            return None
    wide = len(least) == len(most) == 8 and isinstance(type, LongType)
    if not wide and not (len(least) == len(most) == 4 and isinstance(type, IntegerType | DateType)):
        return None
    numbers = conversions.from_bytes(type, least), conversions.from_bytes(type, most)
    made = pa.int64() if wide else pa.int32()
    return tuple(pa.scalar(number, made) for number in numbers)


def _stored(type: pa.DataType) -> pa.DataType | None:
    if pa.types.is_time(type):
        return pa.time64("us")
    found = lake_type(type)
    small = found is not None and found in (pa.int8(), pa.int16())
    return pa.int32() if small else found
