"""What databases have in common: what is asked of them, quoting, and their errors in our words.

It knows no database. No password gets into what it says.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pyarrow as pa

from ..errors import (
    AccessDeniedError,
    ConfigError,
    DatabaseError,
    DatabaseUnavailableError,
    PathNotFoundError,
    QueryFailedError,
    TableExistsError,
    VineyardArrowError,
)
from .libraries import fits
from .registry import shown

__all__ = [
    "THERE_HINT",
    "Database",
    "Parameters",
    "TableName",
    "check_mode",
    "database_errors",
    "empty",
    "path_of",
]

THERE_HINT = "mode='append' adds to it, mode='replace' replaces it"
_MODES = ("fail", "create", "append", "replace")

Parameters = Sequence[Any] | Mapping[str, Any] | None
TableName = tuple[str, ...]  # (name,), (schema, name), ...

_SECRET = re.compile(r"pass|secret|token|key", re.IGNORECASE)
_DENIED = re.compile(
    r"authentication failed|no password supplied|access denied|no pg_hba\.conf entry"
    r'|role "[^"]*" does not exist|permission denied',
    re.IGNORECASE,
)
_GONE = re.compile(
    r"failed to connect|connection refused|closed the connection|connection reset|broken pipe"
    r"|connection (is )?(not open|closed|lost)|no connection to the server|terminating connection"
    r'|could not receive data|database "[^"]*" does not exist|not a (valid \w+ )?database'
    r"|failed to open|unable to open|cannot open (file|database)|could not set lock",
    re.IGNORECASE,
)


_THERE = re.compile(r"\b(relation|table)\b.* already exists", re.IGNORECASE)


class Database(ABC):
    """A connection that is used by one thread; what was not written whole goes as it is closed."""

    @abstractmethod
    def query(self, sql: str, parameters: Parameters) -> Iterator[pa.RecordBatch]:
        """Batches of a result, at least one: an empty one tells the columns, too."""

    def wanted(self, schema: pa.Schema, table: TableName, mode: str) -> pa.Schema:
        """The types in which rows of ``schema`` are to be written."""
        return schema

    @abstractmethod
    def write(self, rows: pa.RecordBatchReader, table: TableName, mode: str) -> None:
        """Write all, in one transaction; ``mode`` is one of fail, create, append or replace."""

    @abstractmethod
    def cancel(self) -> None:
        """Break off what runs; called by another thread."""

    @abstractmethod
    def close(self) -> None:
        """Let go of it."""

    def quote(self, name: str) -> str:
        """A name as SQL has it."""
        return '"' + name.replace('"', '""') + '"'

    def name_of(self, table: TableName) -> str:
        """The name of a table as SQL has it."""
        return ".".join(map(self.quote, table))

    def select(self, table: TableName, columns: Sequence[str] | None) -> str:
        """The query for a table."""
        what = "*" if columns is None else ", ".join(map(self.quote, columns))
        return f"SELECT {what} FROM {self.name_of(table)}"


def check_mode(mode: str) -> None:
    """Raise ConfigError unless this is a mode of writing."""
    if mode not in _MODES:
        raise ConfigError(f"there is no mode {mode!r}", f"mode= one of {', '.join(_MODES)}")


def empty(schema: pa.Schema) -> pa.RecordBatch:
    """A batch of no rows."""
    return pa.RecordBatch.from_arrays([pa.nulls(0, type) for type in schema.types], schema=schema)


def path_of(url: str, *, writing: bool) -> str:
    """The path of a file of a database: relative after three slashes, absolute after four."""
    parts = urlsplit(url)
    path = unquote(parts.path)[1:]
    if parts.netloc or not path or path == ":memory:":
        scheme = parts.scheme
        raise ConfigError(
            f"{shown(url)} names no file", f"{scheme}:///a.db, or {scheme}:////tmp/a.db"
        )
    if not writing and not os.path.exists(path):
        raise PathNotFoundError(f"{shown(url)}: there is no such file")
    return path


# ---- errors


@contextmanager
def database_errors(url: str) -> Iterator[None]:
    """Say what goes wrong with a database in the block, as errors of our tree.

    Raises
    ------
    AccessDeniedError, DatabaseUnavailableError, TableExistsError, QueryFailedError
        For what the database says; a DatabaseError for the rest.
    StoreFullError
        For what the pool says.
    """
    with fits(shown(url)):
        try:
            yield
        except (VineyardArrowError, MemoryError):
            raise
        except Exception as error:
            if not _is_of_database(error):
                raise
            # Not chained: what the library said itself may have the password.
            raise _said(url, error) from None


def _is_of_database(error: Exception) -> bool:
    names = {cls.__module__.partition(".")[0] for cls in type(error).__mro__}
    return not names.isdisjoint(
        {"adbc_driver_manager", "_duckdb", "duckdb", "sqlalchemy", "pyarrow"}
    ) or isinstance(error, OSError | OverflowError)  # the latter of a parameter


def _said(url: str, error: Exception) -> VineyardArrowError:
    state = getattr(error, "sqlstate", None) or getattr(
        getattr(error, "orig", None), "sqlstate", None
    )
    text = f"{shown(url)}: {_without_secrets(_words(error), url)}"
    if state:
        text += f" (SQLSTATE {state}{_position(error)})"
    state = state or ""
    if state.startswith("28") or state == "42501" or (not state and _DENIED.search(text)):
        return AccessDeniedError(
            text, "passwords come from the url, or from where the database's own tools look"
        )
    if state.startswith(("08", "57P")) and state != "08P01":
        return DatabaseUnavailableError(text)
    if not state and _GONE.search(text):
        return DatabaseUnavailableError(text)
    if state == "42P07" or (not state and _THERE.search(text)):
        return TableExistsError(text, THERE_HINT)
    if isinstance(error, pa.ArrowException | OSError) and "ERROR:" not in str(error):
        return DatabaseError(text)
    return QueryFailedError(text)


def _words(error: Exception) -> str:
    """What the database said, without what libraries say around it."""
    text = str(getattr(error, "orig", None) or error)
    text = re.sub(r"\. SQLSTATE: \w+$", "", text)
    text = re.split(r"\n+(?:Query was|query): ", text, flags=re.IGNORECASE)[0]
    text = re.sub(r"^.*?\b(?:ERROR|FATAL):\s+", "", text, flags=re.DOTALL)
    return re.sub(r"^[A-Z_]+: (\[\w+\] )?", "", text).strip()


def _position(error: Exception) -> str:
    for name, value in getattr(error, "details", None) or ():
        if name == b"PG_DIAG_STATEMENT_POSITION":
            return f", at character {value.decode()}"
    return ""


def _without_secrets(text: str, url: str) -> str:
    """``text`` without the url and the passwords that it has."""
    secrets = [m[1] for m in re.finditer(r"://[^/@]*?:([^/]*)@", url)]
    query = url.partition("?")[2]
    secrets += [v for k, v in parse_qsl(query) if _SECRET.search(k)]
    secrets += [p.partition("=")[2] for p in query.split("&") if _SECRET.search(p.split("=")[0])]
    text = text.replace(url, shown(url))
    for secret in sorted({*secrets, *map(unquote, secrets)} - {""}, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text
