"""What table formats have in common: what is asked of them, types, and their errors in our words.

It knows no format. No secret of the options gets into what it says.
"""

from __future__ import annotations

import re
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.dataset as ds

from ..errors import (
    AccessDeniedError,
    CommitConflictError,
    ConfigError,
    DamagedFileError,
    FileError,
    InvalidObjectError,
    PathNotFoundError,
    TableExistsError,
    VersionNotFoundError,
    VineyardArrowError,
)
from .libraries import fits
from .sql import THERE_HINT

__all__ = [
    "Table",
    "TablePlace",
    "Writing",
    "lake_type",
    "milliseconds",
    "moment",
    "nested",
    "no_version",
    "plain",
    "stored_schema",
    "table_errors",
]

_SECRET = re.compile(r"pass|secret|token|key|credential|sas", re.IGNORECASE)
_DENIED = re.compile(
    r"HTTP status 403|forbidden|access.?denied|permission denied|InvalidAccessKeyId"
    r"|SignatureDoesNotMatch|lacked the necessary privileges|unauthori[sz]ed",
    re.IGNORECASE,
)
_CONFLICT = re.compile(
    r"commit ?conflict|CommitFailed|ValidationException|concurrent|conflicting|too many"
    r" (concurrent|attempts)|incompatible transaction|failed to commit",
    re.IGNORECASE,
)
_UNSUPPORTED = re.compile(
    r"not (yet )?(be )?support|unsupported|not implemented|DeltaProtocolError|unknown feature",
    re.IGNORECASE,
)
_MISSING = re.compile(
    r"not found|no such (file|table|bucket|namespace)|does not exist|NoSuch|HTTP status 404"
    r"|no files in log",
    re.IGNORECASE,
)
_DAMAGED = re.compile(r"corrupt|magic (bytes|number)", re.IGNORECASE)
_LIBRARIES = {"_internal", "deltalake", "pyiceberg", "lance", "pyarrow", "pydantic_core"}
_FROM_REMOTE = {"sqlalchemy", "requests", "urllib3", "botocore", "google", "azure", "thrift"}


@dataclass(frozen=True, slots=True)
class TablePlace:
    """Where a table is.

    ``url`` is a path of this machine or a url, as the library takes it; ``catalog`` and
    ``identifier`` say which table of which catalog it is instead. ``name`` is for errors.
    """

    name: str
    url: str = ""
    catalog: str = ""
    identifier: str = ""
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_local(self) -> bool:
        """Whether it is a path of this machine."""
        return bool(self.url) and "://" not in self.url

    def with_defaults(self, **options: str) -> TablePlace:
        """This, with options that are not given."""
        return replace(self, options={**options, **self.options})


@dataclass(frozen=True, slots=True)
class Writing:
    """What is to be written: ``schema`` is that of ``rows``, ``widened`` if it has new columns."""

    rows: pa.RecordBatchReader
    mode: str
    partition_by: Sequence[str]
    widened: bool


class Table(ABC):
    """A table at a place, which may be there or not; used by one thread at a time.

    Attributes
    ----------
    kind : str
        The name of the format, as people write it.
    schema : pyarrow.Schema
        Of the version that was opened.
    partitions : list of str
        What it is partitioned by.
    """

    kind: ClassVar[str]
    replaces_columns = True  # by whatever else
    schema: pa.Schema
    partitions: Sequence[str] = ()

    def __init__(self, place: TablePlace) -> None:
        self.place = place

    @abstractmethod
    def open(self) -> bool:
        """Open the latest version, if there is a table."""

    @abstractmethod
    def travel(self, version: int | str | None, timestamp: datetime | None) -> None:
        """Go to another version of the open table, or to that as of a time, which has a zone."""

    @abstractmethod
    def batches(
        self, columns: Sequence[str], filter: ds.Expression | None
    ) -> tuple[Iterator[pa.RecordBatch], bool]:
        """Batches with at least ``columns``, and whether the filter was done.

        It is given if it goes by values that compare alike everywhere; what is left undone, the
        caller does.
        """

    @abstractmethod
    def stored(self, type: pa.DataType) -> pa.DataType | None:
        """The type as which one is stored; None if the format has none for it."""

    @abstractmethod
    def write(self, writing: Writing) -> None:
        """Write all, by one commit."""

    def close(self) -> None:
        """Let go of it."""
        return None


def moment(timestamp: datetime | str | None) -> datetime | None:
    """A time with its zone: UTC, if it says none."""
    if isinstance(timestamp, str):
        try:
            timestamp = datetime.fromisoformat(timestamp)
        except ValueError as error:
            raise ConfigError(
                f"timestamp={timestamp!r}: {error}", "such as '2024-02-29T12:30:00+01:00'"
            ) from None
    if timestamp is None:
        return None
    return timestamp if timestamp.tzinfo else timestamp.replace(tzinfo=UTC)


def milliseconds(timestamp: datetime) -> int:
    """A time as catalogs and logs have it: whole milliseconds since 1970."""
    return (timestamp - datetime.fromtimestamp(0, UTC)) // timedelta(milliseconds=1)


def no_version(table: Table, version: Any, why: object = None) -> VersionNotFoundError:
    """The error that a table has no such version, or none as of a time."""
    told = f"as of {version:%Y-%m-%d %H:%M:%S %Z}" if isinstance(version, datetime) else version
    text = f"{table.place.name} has no version {told}" + (f": {_words(why)}" if why else "")
    return VersionNotFoundError(text, "it came later, never was, or was cleaned up")


# ---- types


def stored_schema(
    schema: pa.Schema, stored: Callable[[pa.DataType], pa.DataType | None], kind: str
) -> pa.Schema:
    """The schema as which a format stores another.

    Raises
    ------
    InvalidObjectError
        If it has no type for a column.
    """
    fields = []
    for column in schema:
        found = stored(column.type)
        if found is None:
            raise InvalidObjectError(
                f"column {column.name!r} is {column.type}, and {kind} tables have no such type",
                "convert it before",
            )
        fields.append(pa.field(column.name, found, column.nullable, column.metadata))
    return pa.schema(fields)


def nested(
    type: pa.DataType, leaf: Callable[[pa.DataType], pa.DataType | None]
) -> pa.DataType | None:
    """A type whose innermost ones were replaced; lists of whatever size are lists."""
    if isinstance(type, pa.BaseExtensionType):
        return nested(type.storage_type, leaf)
    if pa.types.is_struct(type):
        inner = [(each, nested(each.type, leaf)) for each in type]
        if not inner or any(found is None for _, found in inner):
            return None
        return pa.struct([each.with_type(found) for each, found in inner])
    if pa.types.is_map(type):
        key, value = nested(type.key_type, leaf), nested(type.item_type, leaf)
        return None if key is None or value is None else pa.map_(key, value)
    if pa.types.is_nested(type):
        views = pa.types.is_list_view(type) or pa.types.is_large_list_view(type)
        if views or not hasattr(type, "value_field"):  # unions; Arrow 26 casts views wrongly
            return None
        found = nested(type.value_type, leaf)
        return None if found is None else pa.list_(type.value_field.with_type(found))
    return leaf(type)


def plain(type: pa.DataType) -> pa.DataType:
    """A type without views, and without those that are for large arrays."""
    return nested(type, _without_views) or type


def _without_views(type: pa.DataType) -> pa.DataType:
    if pa.types.is_string_view(type) or pa.types.is_large_string(type):
        return pa.string()
    if pa.types.is_binary_view(type) or pa.types.is_large_binary(type):
        return pa.binary()
    return type


_WIDER = {
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.int64(),  # as far as values fit
    pa.float16(): pa.float32(),
    pa.date64(): pa.date32(),
}


def lake_type(type: pa.DataType) -> pa.DataType | None:
    """What formats for Spark and its like have for a type that is not nested, if anything."""
    if pa.types.is_dictionary(type):
        return nested(type.value_type, lake_type)
    type = _without_views(_WIDER.get(type, type))
    if pa.types.is_timestamp(type):
        return pa.timestamp("us", "UTC" if type.tz else None)
    if pa.types.is_decimal(type):
        fits = type.precision <= 38 and 0 <= type.scale <= type.precision
        return pa.decimal128(type.precision, type.scale) if fits else None
    known = pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_date32
    text = pa.types.is_string, pa.types.is_binary, pa.types.is_fixed_size_binary
    return type if any(is_one(type) for is_one in (*known, *text)) else None


# ---- errors


@contextmanager
def table_errors(place: TablePlace, *, writing: bool = False) -> Iterator[None]:
    """Say what goes wrong with a table in the block, as errors of our tree.

    Raises
    ------
    PathNotFoundError, AccessDeniedError, TableExistsError, CommitConflictError, DamagedFileError
        For what the library says; a FileError for the rest.
    StoreFullError
        For what the pool says.
    """
    with fits(place.name):
        try:
            yield
        except (VineyardArrowError, MemoryError):
            raise
        except Exception as error:
            if not _is_of_library(error):
                raise
            # Not chained: what the library said itself may have secrets.
            raise _said(place, error, writing) from None


def _is_of_library(error: Exception) -> bool:
    if type(error) is Exception or isinstance(error, OSError | ValueError | struct.error):
        return True
    if isinstance(error, NotImplementedError):
        return True
    names = {cls.__module__.partition(".")[0] for cls in type(error).__mro__}
    return not names.isdisjoint(_LIBRARIES | _FROM_REMOTE)


def _said(place: TablePlace, error: Exception, writing: bool) -> VineyardArrowError:
    words = _without_secrets(_words(error), place.options)
    text = f"{place.name}: {words}"
    told = f"{type(error).__name__}: {words}".replace(place.url.strip("/") or "\0", "")
    if _DENIED.search(told):
        return AccessDeniedError(
            text, "credentials come from where the service's tools look, or from storage_options="
        )
    if _CONFLICT.search(told):
        return CommitConflictError(text, "nothing was written: write it again")
    if "already exists" in told:
        return TableExistsError(text, THERE_HINT)
    if _UNSUPPORTED.search(told):
        return FileError(text, f"a later release of the library may have it: {_library(error)}")
    missing = _MISSING.search(told) and not _DAMAGED.search(told)
    if missing or isinstance(error, FileNotFoundError):
        return PathNotFoundError(text, "a data file that is gone was cleaned up, or never copied")
    remote = "HTTP" in text or "Generic S3" in text or "AWS Error" in text
    if writing or remote or type(error).__module__.partition(".")[0] in _FROM_REMOTE:
        return FileError(text)
    return DamagedFileError(text, "it is damaged, or of another format")


def _library(error: Exception) -> str:
    name = type(error).__module__.partition(".")[0]
    return "deltalake" if name == "_internal" else name


def _words(error: object) -> str:
    """What a library said, without colours, its own stack and its source lines."""
    text = re.sub(r"\x1b\[[0-9;]*m|↳", "", str(error))
    text = re.split(r"\n\s+0: |\. Detail: Python exception|<\?xml", text)[0]
    text = re.sub(r",? ?(location: )?/\S+\.rs:\d+(:\d+)?", "", text)
    text = re.sub(r", /rustc/\w+", "", text)
    return " ".join(text.split())


def _without_secrets(text: str, options: Mapping[str, str]) -> str:
    for key, value in options.items():
        if _SECRET.search(key) and len(value) > 2:
            text = text.replace(value, "***")
    return text
