"""Graphs from and to Parquet files of edges, in batches: files, or the directory of a dataset."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...errors import InvalidGraphError, LabelNotFoundError
from ..arrays import Array, as_table, memory_of, placed
from ..build import Columns, checked_label, checked_triple, distinct, several
from ..edges import build_edges
from ..files import PathLike, file_errors, new_directory, new_file
from ..graph import Graph
from ..schema import Triple
from ..vertices import Vertices, id_dtype, none_of, oid_text
from .pieces import pieces, rows_of

if TYPE_CHECKING:
    from ...client import Client

__all__ = ["read_edge_list", "write_edge_list"]

_EXAMPLES = 5
_MERGE = 1 << 20  # oids from which on repeated ones are thrown out; tests lower it


def read_edge_list(
    source: PathLike | Sequence[PathLike],
    *,
    src: Columns = "src",
    dst: Columns = "dst",
    vertices: Mapping[str, Any] | None = None,
    oid: Columns = "oid",
    triple: Triple = ("vertex", "edge", "vertex"),
    directed: bool = True,
    client: Client | None = None,
    threads: int = 0,
) -> Graph:
    """A graph of the edges in Parquet files, as `Graph.from_edges` makes it of a table.

    The files are read in passes: for the vertices, for the ends of the edges, then for one
    property at a time. So beside the graph there are 12 bytes an edge in memory, and twice the
    values of one property.

    Parameters
    ----------
    source : path, or several
        Files of one schema, or the directory of a dataset; directories named ``key=value`` in it
        (as Hive has them) make a property of each key.
    src, dst : str, or several
        Columns of the oids of the ends; all others are properties.
    vertices : mapping of label to table, optional
        Vertices, as for `Graph.from_tables`. Those of a label that is not given are the ends
        there are: sources first, then destinations, in the order of the edges; integers of
        less than 64 bits become int64.
    oid : str, or several
        Columns of the oids in the vertex tables.
    triple : (str, str, str)
        Source label, edge label, destination label.

    Raises
    ------
    PathNotFoundError
    InvalidGraphError
        If a file is damaged (the message has its path), or an end is null or no vertex.
    """
    import pyarrow.dataset as ds

    triple = checked_triple(triple, directed)
    paths: Any = source
    partitioning = None
    if not isinstance(source, str | os.PathLike):
        paths = [os.fspath(each) for each in source]
    elif not Path(source).is_file():  # else directories above the file would count
        partitioning = "hive"
    oids = several(oid)
    ends = (several(src), several(dst))
    with file_errors(source), memory_of(client) as pool:
        dataset = ds.dataset(paths, format="parquet", partitioning=partitioning)
        for name in (*ends[0], *ends[1]):
            if dataset.schema.get_field_index(name) < 0:
                raise LabelNotFoundError(
                    f"{source}: there is no column {name!r}",
                    f"there are {', '.join(dataset.schema.names)}; name it by src= or dst=",
                )
        given = {checked_label(label): each for label, each in (vertices or {}).items()}
        made = {}
        for label in dict.fromkeys((*given, triple[0], triple[2])):
            if label in given:
                table = as_table(given[label], pool)
            else:
                sides = [
                    names for names, each in zip(ends, triple[::2], strict=True) if each == label
                ]
                found = _distinct_ends(dataset, sides, oids)
                columns = {name: placed(found[name], pool) for name in oids}
                table = pa.table(columns)
            made[label] = Vertices.build(label, table, oids, pool)
        ids = _ids_of(dataset, ends, (made[triple[0]], made[triple[2]]), threads)
        edges = build_edges(
            triple,
            *ids,
            (made[triple[0]].count, made[triple[2]].count),
            _Properties(dataset, {*ends[0], *ends[1]}, len(ids[0])),
            directed=directed,
            keep_rows=False,
            pool=pool,
            threads=threads,
        )
    return Graph(made, {triple: edges}, directed)


def write_edge_list(
    graph: Graph,
    path: PathLike,
    *,
    triple: Triple | str | None = None,
    src: str = "src",
    dst: str = "dst",
    partition_by: Sequence[str] = (),
    overwrite: bool = False,
) -> None:
    """Write the edges of a triple to Parquet, in pieces: memory does not grow with the graph.

    A row holds the oids of both ends (columns ``src`` and ``dst``, or ``src_KEY`` and
    ``dst_KEY`` for each column of a key of several) and the properties, in the order of edge
    ids; undirected, each edge is there once. Types are kept, but what an edge list does not
    hold is vertices without edges, properties of vertices, and whether edges are directed: write
    `Graph.vertices` to a file of its own, to be given to `read_edge_list`.

    Parameters
    ----------
    path : path
        A file; a directory if ``partition_by`` is given. It appears when it is complete.
    partition_by : sequence of str
        Properties to sort rows into directories by, named ``key=value``; their types are
        guessed when they are read. Without edges there are no files, so nothing to read.
    overwrite : bool
        Replace a file, or a directory of Parquet files.

    Raises
    ------
    PathExistsError
    LabelNotFoundError
        If edges have no property of that name.
    InvalidGraphError
        If Parquet has no place for the type of a property (it is named), or two columns have
        one name. Nothing is written then.
    """
    import pyarrow.parquet as pq

    edges = graph.adjacency(triple)
    schema = _schema_of(graph, edges.triple, src, dst)
    for name in partition_by:
        if name not in edges.columns:
            raise LabelNotFoundError(
                f"edges have no property {name!r}", "only those make partitions"
            )
    batches = _batches(graph, edges.triple, schema)
    if partition_by:
        _write_dataset(batches, schema, path, list(partition_by), overwrite)
        return
    with new_file(path, overwrite) as file, pq.ParquetWriter(file, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


# ---- reading


def _distinct_ends(dataset: Any, sides: Sequence[list[str]], oids: list[str]) -> pa.Table:
    """The oids there are, in the order of their first appearance on a side, then on the next."""
    found = []
    for names in sides:
        if len(names) != len(oids):
            raise InvalidGraphError(
                f"ends of {len(names)} columns ({', '.join(names)}), but oids have {len(oids)}",
                "name as many columns by oid=",
            )
        seen: list[pa.Table] = []
        known = pending = 0
        for _, batch in _batches_of(dataset, names):
            columns = [_comparable(column) for column in batch.columns]
            seen.append(pa.table(columns, oids))
            pending += batch.num_rows
            if pending > max(known, _MERGE):  # so that the work stays linear
                seen = [distinct(pa.concat_tables(seen))]
                known, pending = seen[0].num_rows, 0
        if not seen:
            columns = [dataset.schema.field(name).type for name in names]
            empty = [_comparable(pa.array([], type_)) for type_ in columns]
            seen = [pa.table(empty, oids)]
        found.append(distinct(pa.concat_tables(seen)))
    if len(found) > 1:
        found[1] = found[1].cast(found[0].schema)
    return distinct(pa.concat_tables(found))


def _batches_of(dataset: Any, names: list[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Batches of columns without nulls, each with its first row."""
    at = 0
    for batch in dataset.to_batches(columns=names):
        for name, column in zip(names, batch.columns, strict=True):
            if column.null_count:
                row = at + pc.index(column.is_null(), True).as_py()
                raise InvalidGraphError(f"{name!r} is null, first in row {row}", "drop such edges")
        yield at, batch
        at += batch.num_rows


def _comparable(column: pa.Array) -> pa.Array:
    """Oids of types that make groups, and of one type however the files have them."""
    type_ = column.type
    if pa.types.is_dictionary(type_):
        column, type_ = column.cast(type_.value_type), type_.value_type
    if pa.types.is_string_view(type_):
        return column.cast(pa.large_string())
    small = pa.types.is_integer(type_) and not pa.types.is_uint64(type_)
    return column.cast(pa.int64()) if small else column


def _ids_of(
    dataset: Any, ends: tuple[list[str], list[str]], labels: tuple[Vertices, Vertices], threads: int
) -> tuple[Array, Array]:
    """Vertex ids of both ends of all edges, in one type."""
    rows = dataset.count_rows()
    src, dst = (
        _ids_of_side(dataset, names, label, rows, threads)
        for names, label in zip(ends, labels, strict=True)
    )
    dtype = np.promote_types(src.dtype, dst.dtype)
    return src.astype(dtype, copy=False), dst.astype(dtype, copy=False)


def _ids_of_side(dataset: Any, names: list[str], label: Vertices, rows: int, threads: int) -> Array:
    what = ", ".join(names)
    ids = np.empty(rows, id_dtype(label.count))
    none = none_of(ids.dtype)
    missing = 0
    some: list[str] = []
    read = 0
    for at, batch in _batches_of(dataset, names):
        columns = [pa.chunked_array([column]) for column in batch.columns]
        found = label.find(columns, what, threads)
        if found.max(initial=0) == none:
            absent = np.flatnonzero(found == none)
            missing += len(absent)
            for row in absent[: _EXAMPLES - len(some)].tolist():
                some.append(f"{oid_text([column[row] for column in columns])} (row {at + row})")
        if at + len(found) <= rows:
            ids[at : at + len(found)] = found
        read = at + len(found)
    _check_unchanged(what, read, rows)
    if missing:
        raise InvalidGraphError(
            f"{what!r} names no vertex of {label.label!r} {missing} times: {', '.join(some)}",
            "without a table in vertices= the ends there are make the vertices",
        )
    return ids


def _check_unchanged(what: str, read: int, rows: int) -> None:
    if read != rows:
        raise InvalidGraphError(
            f"the files have changed while they were read: {read} rows of {what!r}, not {rows}"
        )


class _Properties(Mapping[str, pa.ChunkedArray]):
    """Columns that are read when they are asked for, and kept nowhere."""

    def __init__(self, dataset: Any, ends: set[str], rows: int) -> None:
        self._dataset = dataset
        self._names = [name for name in dataset.schema.names if name not in ends]
        self._rows = rows

    def __getitem__(self, name: str) -> pa.ChunkedArray:
        column = self._dataset.to_table(columns=[name]).column(0)
        _check_unchanged(name, len(column), self._rows)
        return column

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


# ---- writing


def _schema_of(graph: Graph, triple: Triple, src: str, dst: str) -> pa.Schema:
    """Fields of the rows; raises for what Parquet cannot hold."""
    import pyarrow.parquet as pq

    fields = []
    for side, label in ((src, triple[0]), (dst, triple[2])):
        vertex = graph.schema.vertex(label)
        for name in vertex.primary_key:
            to = side if len(vertex.primary_key) == 1 else f"{side}_{name}"
            fields.append(pa.field(to, vertex.schema.field(name).type, nullable=False))
    fields += graph.schema.edge(triple).schema
    schema = pa.schema(fields)
    twice = [name for name in schema.names if schema.names.count(name) > 1]
    if twice:
        raise InvalidGraphError(
            f"two columns would be called {twice[0]!r}", "call the ends otherwise by src= and dst="
        )
    for field in schema:
        try:
            pq.ParquetWriter(pa.BufferOutputStream(), pa.schema([field])).close()
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
            raise InvalidGraphError(
                f"Parquet cannot hold {field.name!r}, which is {field.type}: {error}",
                "cast the property, or leave it out of the graph",
            ) from None
    return schema


def _batches(graph: Graph, triple: Triple, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    edges = graph.adjacency(triple)
    keys = [
        [graph.vertices(label)[name] for name in graph.schema.vertex(label).primary_key]
        for label in (triple[0], triple[2])
    ]
    for src, dst, ids in pieces(edges):
        columns = [rows_of(c, v) for side, v in zip(keys, (src, dst), strict=True) for c in side]
        columns += [rows_of(column, ids) for column in edges.columns.values()]
        yield pa.record_batch(columns, schema=schema)


def _write_dataset(
    batches: Iterator[pa.RecordBatch],
    schema: pa.Schema,
    path: PathLike,
    keys: list[str],
    overwrite: bool,
) -> None:
    import pyarrow.dataset as ds

    def is_ours(directory: Path) -> bool:
        files = [each for each in directory.rglob("*") if each.is_file()]
        return all(each.suffix == ".parquet" for each in files)

    partitioning = ds.partitioning(pa.schema([schema.field(key) for key in keys]), flavor="hive")
    with new_directory(path, overwrite, is_ours) as directory:
        ds.write_dataset(
            batches, directory, schema=schema, format="parquet", partitioning=partitioning
        )
