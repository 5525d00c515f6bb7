"""Places for tables of each format, and what the libraries themselves say of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from vineyard_arrow.client import Client

KINDS = ["delta", "iceberg", "lance"]


@dataclass
class Place:
    """A place for a table: its url, the options that say more, and the directory of its files."""

    kind: str
    url: str
    folder: Path
    options: dict[str, Any] = field(default_factory=dict)

    def write(self, client: Client, rows: Any, **options: Any) -> None:
        client.write(rows, self.url, **self.options, **options)

    def files(self) -> list[Path]:
        return sorted(path for path in self.folder.rglob("*") if path.is_file())

    def data(self) -> list[Path]:
        return [path for path in self.files() if path.suffix in (".parquet", ".lance")]

    def metadata(self) -> list[Path]:
        endings = (".json", ".manifest")
        return [path for path in self.files() if path.suffix in endings]

    # ---- by the libraries themselves

    def table(self) -> Any:
        """As the library has it."""
        if self.kind == "delta":
            import deltalake

            return deltalake.DeltaTable(self.folder)
        if self.kind == "lance":
            import lance

            return lance.dataset(self.folder)
        with closing(self.catalog()) as catalog:
            return catalog.load_table("n.t")

    def catalog(self) -> Any:
        from pyiceberg.catalog import load_catalog

        return load_catalog("local", **self.options["storage_options"])

    def versions(self) -> list[int]:
        """Versions after each write, the first before."""
        if self.kind == "delta":
            return sorted(each["version"] for each in self.table().history())
        if self.kind == "lance":
            return [each["version"] for each in self.table().versions()]
        # A replacement is two snapshots of one commit: rows go, and others come.
        snapshots = self.table().snapshots()
        return [s.snapshot_id for s in snapshots if s.summary.operation.value == "append"]

    def tag(self, name: str, version: int) -> None:
        if self.kind == "lance":
            self.table().tags.create(name, version)
        elif self.kind == "iceberg":
            with (
                closing(self.catalog()) as catalog,
                catalog.load_table("n.t").manage_snapshots() as change,
            ):
                change.create_tag(version, name)


def make_place(kind: str, tmp_path: Path) -> Iterator[Place]:
    """A place in which nothing is."""
    if kind == "delta":
        yield Place(kind, f"{tmp_path}/a b", tmp_path / "a b", {"format": "delta"})
    elif kind == "lance":
        yield Place(kind, f"{tmp_path}/a b.lance", tmp_path / "a b.lance")
    else:
        options = {"uri": f"sqlite:///{tmp_path}/c.db", "warehouse": f"{tmp_path}/warehouse"}
        place = Place(
            kind, "iceberg://local/n.t", tmp_path / "warehouse", {"storage_options": options}
        )
        with closing(place.catalog()) as catalog:
            catalog.create_namespace("n")
        yield place


def failing(table: pa.Table, times: int) -> pa.RecordBatchReader:
    """A stream that gives a table some times, and fails."""

    def made() -> Iterator[pa.RecordBatch]:
        for _ in range(times):
            yield from table.to_batches()
        raise ValueError("the source failed")

    return pa.RecordBatchReader.from_batches(table.schema, made())
