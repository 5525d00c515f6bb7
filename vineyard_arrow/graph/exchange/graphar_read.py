"""Graphs from the GraphAr format, straight into the memory that they are shared by.

What files say is checked against each other before any of it is used.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ...errors import InvalidGraphError
from .. import _kernels
from ..arrays import Array, allocate, memory_of, placed
from ..edges import Edges, build_edges, index_of_rows
from ..files import PathLike
from ..graph import Graph
from ..vertices import MAX_VERTICES, Vertices, id_dtype
from .graphar_files import read_columns, read_count
from .graphar_info import (
    DST_INDEX,
    OFFSET,
    SRC_INDEX,
    VERTEX_INDEX,
    AdjacencyInfo,
    EdgeInfo,
    GroupInfo,
    VertexInfo,
    arrow_type,
    chunks,
    inside,
    load_graph_info,
)
from .graphar_write import SCHEMA_KEY

if TYPE_CHECKING:
    from ...client import Client

__all__ = ["read_graphar"]


def read_graphar(
    path: PathLike,
    *,
    directed: bool | None = None,
    client: Client | None = None,
    threads: int = 0,
) -> Graph:
    """A graph of files in the GraphAr format, version 1: Parquet, ORC or CSV.

    Oids are the properties that are primary keys, several of them together if there are; vertices
    without any have their index as ``oid``. Labels of single vertices (``labels`` of a vertex
    type) become booleans. Edges that are ordered by source are taken as they lie if their rows
    are sorted by destination too, as `write_graphar` has them; else they are sorted.

    Parameters
    ----------
    path : path
        A ``.graph.yml``, or the directory that has one. All files lie below that directory.
    directed : bool, optional
        Build a directed graph or an undirected one, whatever the edges say; by default as they
        say, which must be the same for all.
    client : Client, optional
        In whose pool to build; the default client's, if not given.

    Raises
    ------
    PathNotFoundError
        If a file is missing: with its path.
    InvalidGraphError
        With the path, if a file is damaged or has not what it should: rows, columns, vertex
        indices in their order, ends within their label, edges in their order, offsets that are
        those of the edges. If a path leads out of the directory.
    StoreFullError
        If the graph does not fit; nothing of it is kept.
    LibraryNotFoundError
        If PyYAML is not installed.
    """
    info = load_graph_info(path)
    if directed is None:
        said = {edge.directed for edge in info.edges}
        if len(said) > 1:
            raise InvalidGraphError(
                f"{path}: some edges are directed, some are not",
                "directed=True takes each edge in the direction it is written in",
            )
        directed = said.pop() if said else True
    with memory_of(client) as pool:
        vertices = {
            each.label: _vertices(info.root, each, info.extra, pool) for each in info.vertices
        }
        edges = {
            each.triple: _edges(info.root, each, info.extra, vertices, directed, pool, threads)
            for each in info.edges
        }
    return Graph(vertices, edges, directed)


class _Properties(Mapping[str, pa.ChunkedArray]):
    """Columns that are read when they are asked for, and kept nowhere."""

    def __init__(
        self, groups: Sequence[GroupInfo], files: Callable[[GroupInfo], list[tuple[Path, int]]]
    ) -> None:
        self._files = files
        self._places = {each.name: (group, each) for group in groups for each in group.properties}
        self.types = {
            name: arrow_type(each.data_type, name) for name, (_, each) in self._places.items()
        }
        self._names = list(self._places)

    def adapt(self, note: str | None, what: str) -> None:
        """Give columns the types and the order that they had when they were written."""
        if note is None:
            return
        try:
            schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(note, validate=True)))
        except (ValueError, OSError) as error:
            raise InvalidGraphError(
                f"the note of the types of {what} is damaged: {error}"
            ) from None
        if sorted(schema.names) == sorted(self._names):  # else others have changed the files
            self._names = list(schema.names)
            self.types = {field.name: field.type for field in schema}

    def __getitem__(self, name: str) -> pa.ChunkedArray:
        group, info = self._places[name]
        read = pa.schema([(name, arrow_type(info.data_type, name))])
        files = self._files(group)
        tables = [read_columns(path, group.file_type, read, rows) for path, rows in files]
        column = pa.concat_tables(tables or [read.empty_table()]).column(0)
        return _restored(column, self.types[name], name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _restored(column: pa.ChunkedArray, type_: pa.DataType, name: str) -> pa.ChunkedArray:
    if column.type == type_:
        return column
    try:
        if pa.types.is_dictionary(type_):
            values = column.cast(type_.value_type).combine_chunks().dictionary_encode()
            if isinstance(values, pa.ChunkedArray):
                values = values.combine_chunks()
            indices = values.indices.cast(type_.index_type)
            array = pa.DictionaryArray.from_arrays(
                indices, values.dictionary, ordered=type_.ordered
            )
            return pa.chunked_array([array])
        return column.cast(type_)
    except pa.ArrowException as error:
        raise InvalidGraphError(f"{name!r} is no {type_}, as is noted: {error}") from None


# ---- vertices


def _vertices(root: Path, info: VertexInfo, notes: Mapping[str, str], pool: Any) -> Vertices:
    base = inside(root, info.prefix)
    count = read_count(inside(base, "vertex_count"))
    if count > MAX_VERTICES:
        raise InvalidGraphError(f"{base}: {count} vertices: no label has more than 2^36")

    def files(group: GroupInfo) -> list[tuple[Path, int]]:
        return list(_existing(inside(base, group.prefix), count, info.chunk_size))

    for group in info.groups:
        if group.indexed:
            _check_index(files(group), group.file_type)
    properties = _Properties(info.groups, files)
    properties.adapt(notes.get(SCHEMA_KEY + info.label), info.label)
    columns = {name: placed(column, pool) for name, column in properties.items()}
    key = [each.name for group in info.groups for each in group.properties if each.is_primary]
    if not key:
        key = ["oid"]
        while key[0] in columns:
            key[0] += "_"
        column, view = allocate(np.int64, count, pool)
        view[:] = np.arange(count)
        columns = {key[0]: column, **columns}
    return Vertices.build(info.label, pa.table(columns), key, pool)


def _existing(directory: Path, count: int, size: int) -> Iterator[tuple[Path, int]]:
    """Chunks up to the first that is missing, so that no wrong count makes a long list."""
    for path, rows in chunks(directory, count, size):
        yield path, rows
        if not path.exists():
            return


def _check_index(files: Sequence[tuple[Path, int]], file_type: str) -> None:
    begin = 0
    schema = pa.schema([(VERTEX_INDEX, pa.int64())])
    for path, rows in files:
        column = read_columns(path, file_type, schema, rows).column(0)
        if column.null_count or not np.array_equal(
            column.to_numpy(), np.arange(begin, begin + rows)
        ):
            raise InvalidGraphError(
                f"{path}: {VERTEX_INDEX} is not {begin} to {begin + rows - 1} in this order"
            )
        begin += rows


# ---- edges


def _edges(
    root: Path,
    info: EdgeInfo,
    notes: Mapping[str, str],
    vertices: Mapping[str, Vertices],
    directed: bool,
    pool: Any,
    threads: int,
) -> Edges:
    src_label, _, dst_label = info.triple
    if not directed and src_label != dst_label:
        raise InvalidGraphError(
            f"undirected edges between two labels: {info.triple}", "read them by directed=True"
        )
    order = _chosen(info)
    base = inside(root, info.prefix, order.prefix)
    counts = (vertices[src_label].count, vertices[dst_label].count)
    src, indices, parts = _ends(base, info, order, counts, pool)
    view = np.frombuffer(indices.buffers()[1], src.dtype, len(src))

    def files(group: GroupInfo) -> list[tuple[Path, int]]:
        where = inside(base, group.prefix)
        return [
            chunk
            for part, count in enumerate(parts)
            for chunk in chunks(where / f"part{part}", count, info.chunk_size)
        ]

    properties = _Properties(info.groups, files)
    properties.adapt(notes.get(SCHEMA_KEY + "/".join(info.triple)), "-".join(info.triple))
    if order.ordered and order.aligned_by == "src" and (directed or (src <= view).all()):
        indptr, rows = allocate(np.int64, counts[0] + 1, pool)
        rows[:] = np.searchsorted(src, np.arange(counts[0] + 1).astype(src.dtype))
        if _kernels.check_indices(rows, view, counts[1], threads)[0] == 0:
            del src
            arrays = index_of_rows(
                indptr,
                indices,
                counts[1],
                directed=directed,
                pool=pool,
                threads=threads,
            )
            columns = {name: placed(column, pool) for name, column in properties.items()}
            return Edges(info.triple, len(view), directed, arrays, columns)
    return build_edges(
        info.triple,
        src,
        view,
        counts,
        properties,
        directed=directed,
        keep_rows=False,
        pool=pool,
        threads=threads,
    )


def _chosen(info: EdgeInfo) -> AdjacencyInfo:
    """The edges that need least work: by source, in order."""
    if not info.lists:
        raise InvalidGraphError(f"the edges {'-'.join(info.triple)} have no adj_lists")
    return max(info.lists, key=lambda each: (each.aligned_by == "src", each.ordered))


def _ends(
    base: Path, info: EdgeInfo, order: AdjacencyInfo, counts: tuple[int, int], pool: Any
) -> tuple[Array, pa.Array, list[int]]:
    """Sources, destinations (in the pool), and the edges of each vertex chunk."""
    own_side = 0 if order.aligned_by == "src" else 1
    num = counts[own_side]
    size = info.src_chunk_size if own_side == 0 else info.dst_chunk_size
    said = read_count(base / "vertex_count")
    if said != num:
        raise InvalidGraphError(f"{base / 'vertex_count'}: {said} vertices, but there are {num}")
    parts = [read_count(base / f"edge_count{i}") for i, _ in enumerate(range(0, num, size))]
    total = sum(parts)
    if total >= 1 << 48:
        raise InvalidGraphError(f"{base}: {total} edges, which is more than files can have")
    dtype = id_dtype(max(counts))
    src = np.empty(total, dtype)
    indices, dst = allocate(dtype, total, pool)
    at = 0
    for part, count in enumerate(parts):
        begin = part * size
        limits = [(0, counts[0]), (0, counts[1])]
        limits[own_side] = (begin, min(begin + size, num))
        start = at
        for path, rows in chunks(base / "adj_list" / f"part{part}", count, info.chunk_size):
            ends = _read_ends(path, order.file_type, rows, limits)
            src[at : at + rows], dst[at : at + rows] = ends
            at += rows
        if order.ordered:
            own = (src, dst)[own_side][start:at]
            _check_offsets(base, part, order.file_type, own, limits[own_side])
    return src, indices, parts


def _read_ends(
    path: Path, file_type: str, rows: int, limits: Sequence[tuple[int, int]]
) -> list[Array]:
    schema = pa.schema([(SRC_INDEX, pa.int64()), (DST_INDEX, pa.int64())])
    table = read_columns(path, file_type, schema, rows)
    out = []
    for name, (low, high) in zip(schema.names, limits, strict=True):
        column = table.column(name)
        if column.null_count:
            raise InvalidGraphError(f"{path}: {name} has nulls")
        values = column.to_numpy()
        if len(values) and not (low <= values.min() and values.max() < high):
            raise InvalidGraphError(
                f"{path}: {name} goes from {values.min()} to {values.max()}, but should be"
                f" {low} to {high - 1}"
            )
        out.append(values)
    return out


def _check_offsets(
    base: Path, part: int, file_type: str, own: Array, limits: tuple[int, int]
) -> None:
    """Whether edges are in the order of their vertices, and offsets say where each one's begin."""
    low, high = limits
    if (own[1:] < own[:-1]).any():
        raise InvalidGraphError(
            f"{base / 'adj_list' / f'part{part}'}: edges are not in the order of their vertices",
            "describe them by ordered: false",
        )
    path = base / "offset" / f"chunk{part}"
    table = read_columns(path, file_type, pa.schema([(OFFSET, pa.int64())]), None)
    found = table.column(0).to_numpy()
    wanted = np.searchsorted(own, np.arange(low, high + 1).astype(own.dtype))
    # The last chunk may go on with vertices that are not there.
    if len(found) < len(wanted) or not (
        np.array_equal(found[: len(wanted)], wanted) and (found[len(wanted) :] == len(own)).all()
    ):
        raise InvalidGraphError(f"{path}: the offsets do not fit the edges")
