"""Data files of the GraphAr format: tables in Parquet, ORC or CSV, and counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from ...errors import InvalidGraphError
from ..files import file_errors

__all__ = ["read_columns", "read_count", "write_count", "write_table"]


def write_table(table: pa.Table, path: Path, file_type: str) -> None:
    """Write a table, and the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if file_type == "parquet":
        import pyarrow.parquet as pq

        ours = [name for name in table.column_names if name.startswith("_graphAr")]
        pq.write_table(
            table,
            path,
            compression="zstd",
            store_schema=False,
            use_dictionary=[name for name in table.column_names if name not in ours],
            # Indices and offsets mostly ascend: half the size, a fifth of the time.
            column_encoding=dict.fromkeys(ours, "DELTA_BINARY_PACKED"),
        )
    elif file_type == "orc":
        import pyarrow.orc as orc

        orc.write_table(table, path, compression="zstd")
    else:
        import pyarrow.csv as csv

        csv.write_csv(table, path)


def read_columns(path: Path, file_type: str, schema: pa.Schema, rows: int | None) -> pa.Table:
    """The columns of a schema, cast to its types.

    Raises
    ------
    PathNotFoundError
    InvalidGraphError
        With the path, if the file is damaged, has not so many rows, or not such columns.
    """
    with file_errors(path):
        table = _read(path, file_type, schema)
    for field in schema:
        if table.column_names.count(field.name) != 1:
            names = ", ".join(table.column_names)
            raise InvalidGraphError(f"{path}: no column {field.name!r}, or two: {names}")
        type_ = table.schema.field(field.name).type
        if pa.types.is_integer(field.type) and not pa.types.is_integer(type_):
            raise InvalidGraphError(f"{path}: {field.name!r} is {type_}, not {field.type}")
    if rows is not None and table.num_rows != rows:
        raise InvalidGraphError(f"{path}: {table.num_rows} rows, but there should be {rows}")
    with file_errors(path):
        return table.select(schema.names).cast(schema)


def _read(path: Path, file_type: str, schema: pa.Schema) -> pa.Table:
    if not path.is_file():
        raise FileNotFoundError(2, "missing", str(path))
    if file_type == "parquet":
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            return file.read(columns=schema.names)
    if file_type == "orc":
        import pyarrow.orc as orc

        file = orc.ORCFile(path)
        return file.read(columns=[n for n in schema.names if n in file.schema.names])
    import pyarrow.csv as csv

    return csv.read_csv(
        path,
        parse_options=csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
        convert_options=csv.ConvertOptions(
            column_types=schema,
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )


def write_count(count: int, path: Path) -> None:
    """Write a number, as 8 bytes, the lowest first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(np.array([count], "<i8").tobytes())


def read_count(path: Path) -> int:
    """Read a number."""
    with file_errors(path):
        content = path.read_bytes()
    if len(content) != 8 or (count := int.from_bytes(content, "little", signed=True)) < 0:
        raise InvalidGraphError(f"{path}: this is no count")
    return count
