"""Tables as relations of DuckDB, which scans them where they lie."""

from __future__ import annotations

from typing import Any

import duckdb

from ..registry import StoredObject, StoredPart, builtin_registry
from .arrow import resolve_table

__all__: list[str] = []


@builtin_registry.resolver("vineyard.table", as_=duckdb.DuckDBPyRelation)
def relation_of(part: StoredPart, stored: StoredObject) -> Any:
    """A table as a relation on the default connection: nothing is copied."""
    return duckdb.from_arrow(resolve_table(part, stored))
