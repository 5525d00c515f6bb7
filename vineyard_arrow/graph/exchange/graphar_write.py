"""Graphs to the GraphAr format: YAML files, and chunks of vertices, edges and offsets.

Edges are written twice, ordered by source and ordered by destination.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import quote

import numpy as np
import pyarrow as pa

from ...errors import InvalidGraphError
from ..adapters.common import imported
from ..adjacency import Adjacency
from ..files import PathLike, new_directory
from ..graph import Graph
from ..schema import Triple
from .graphar_files import write_count, write_table
from .graphar_info import (
    DST_INDEX,
    OFFSET,
    SRC_INDEX,
    VERSION,
    VERTEX_INDEX,
    AdjacencyInfo,
    EdgeInfo,
    GroupInfo,
    PropertyInfo,
    VertexInfo,
    arrow_type,
    chunks,
    dump_yaml,
    type_name,
)
from .pieces import PIECE, Piece, pieces, rows_of

__all__ = ["SCHEMA_KEY", "write_graphar"]

FileType = Literal["parquet", "orc", "csv"]
Groups = Mapping[str | Triple, Sequence[Sequence[str]]]
SCHEMA_KEY = "vineyard_arrow.schema."
_LISTS = (("src", "ordered_by_source/"), ("dst", "ordered_by_dest/"))


def write_graphar(
    graph: Graph,
    path: PathLike,
    *,
    name: str = "graph",
    groups: Groups | None = None,
    file_type: FileType = "parquet",
    vertex_chunk_size: int = 1 << 18,
    edge_chunk_size: int = 1 << 22,
    overwrite: bool = False,
) -> None:
    """Write a graph as a directory in the GraphAr format, version 1.

    It holds all vertices, edges and properties, and `read_graphar` makes an equal graph of it:
    types that the format has not, but a wider one (int8 and int16, unsigned integers, float16,
    other lists and texts, dictionaries, timestamps in other units or with a time zone), are noted
    in the ``extra_info`` of the graph, for this reader alone; others see the wider ones.
    Undirected, each edge is there once, with its lower end as source, and ``directed: false``.
    Metadata of schemas and fields is not kept, nor that a field has no nulls.

    Parameters
    ----------
    path : path
        A new directory. It appears when it is complete.
    name : str
        Of the graph: its description is the file ``NAME.graph.yml``.
    groups : mapping of label or triple to sequences of names, optional
        Property groups: which properties share files. By default the key of vertices is one, and
        all other properties are another.
    file_type : {"parquet", "orc", "csv"}
        CSV has no lists.
    vertex_chunk_size, edge_chunk_size : int
        Rows of a file. Memory beside the graph is in proportion to them.
    overwrite : bool
        Replace a directory that has a ``.graph.yml``; no other is ever replaced.

    Raises
    ------
    PathExistsError
    InvalidGraphError
        If the format cannot hold a property (it is named): structs, maps, binaries, decimals,
        times, durations, lists of other than numbers and texts; unsigned integers from 2^63 on;
        timestamps that are no whole milliseconds. Nothing is written then.
    LibraryNotFoundError
        If PyYAML is not installed.
    """
    imported("yaml", "vineyard-arrow[graphar]")
    if file_type not in get_args(FileType):
        raise InvalidGraphError(f"file_type={file_type!r} is not one of {get_args(FileType)}")
    if min(vertex_chunk_size, edge_chunk_size) < 1:
        raise InvalidGraphError("chunks have one row at least")
    if not name or "/" in name:
        raise InvalidGraphError(f"{name!r} is no name of a file")
    sizes = (vertex_chunk_size, edge_chunk_size)
    vertices, edges, notes = _described(graph, dict(groups or {}), file_type, sizes)
    with new_directory(path, overwrite, _is_ours) as root:
        _write_infos(root, name, vertices, edges, notes)
        for vertex in vertices:
            _write_vertices(root, vertex, graph.vertices(vertex.label))
        for edge in edges:
            for each in edge.lists:
                _write_edges(root, edge, each, graph.adjacency(edge.triple))


def _is_ours(directory: Path) -> bool:
    return any(directory.glob("*.graph.y*ml"))


# ---- what is to be written


def _described(
    graph: Graph, groups: dict[Any, Any], file_type: str, sizes: tuple[int, int]
) -> tuple[list[VertexInfo], list[EdgeInfo], dict[str, str]]:
    """Infos, and notes of the types that the format widens; raises for what it cannot hold."""
    vertices, edges = [], []
    notes: dict[str, str] = {}
    taken: set[str] = set()
    for vertex in graph.schema.vertices:
        rest = [n for n in vertex.schema.names if n not in vertex.primary_key]
        usual = [vertex.primary_key, *([rest] if rest else [])]
        table = graph.vertices(vertex.name)
        columns = {name: table[name] for name in table.column_names}
        made = _groups(vertex.name, columns, vertex, groups.pop(vertex.name, usual), file_type)
        vertices.append(
            VertexInfo(vertex.name, sizes[0], f"vertex/{_safe([vertex.name], taken)}/", made)
        )
        _note(notes, vertex.name, vertex.schema, made)
    for edge in graph.schema.edges:
        what = "-".join(edge.triple)
        columns = dict(graph.adjacency(edge.triple).columns)
        usual = [list(columns)] if columns else []
        made = _groups(what, columns, None, groups.pop(edge.triple, usual), file_type)
        lists = tuple(AdjacencyInfo(True, side, file_type, prefix) for side, prefix in _LISTS)
        prefix = f"edge/{_safe(edge.triple, taken)}/"
        edges.append(
            EdgeInfo(edge.triple, sizes[1], sizes[0], sizes[0], graph.directed, prefix, lists, made)
        )
        _note(notes, "/".join(edge.triple), edge.schema, made)
    if groups:
        raise InvalidGraphError(f"groups= has {[*groups]}, which the graph has not")
    return vertices, edges, notes


def _safe(labels: Sequence[str], taken: set[str]) -> str:
    """A name for files: labels joined, without what paths or other systems give a meaning."""
    name = "_".join(quote(label, safe=" ").replace("~", "%7E") for label in labels)
    if name.startswith("."):
        name = "%2E" + name[1:]
    while name in taken:  # "a_b" and "c", "a" and "b_c"
        name += "_"
    taken.add(name)
    return name


def _groups(
    what: str, columns: Mapping[str, Any], vertex: Any, groups: Any, file_type: str
) -> tuple[GroupInfo, ...]:
    named = [name for group in groups for name in group]
    if sorted(named) != sorted(columns) or not all(groups):
        raise InvalidGraphError(
            f"property groups of {what} name {named}, but there are {[*columns]}",
            "each property is in one group",
        )
    key = () if vertex is None else vertex.primary_key
    if [name for name in named if name in key] != list(key):
        raise InvalidGraphError(f"property groups of {what} have another order than its key {key}")
    return tuple(
        GroupInfo(
            tuple(_property(what, name, columns[name], name in key, file_type) for name in group),
            file_type,
            f"group{i}/",  # names of properties could be those of other directories
        )
        for i, group in enumerate(groups)
    )


def _property(what: str, name: str, column: Any, primary: bool, file_type: str) -> PropertyInfo:
    if name.startswith("_graphAr") or not name:
        raise InvalidGraphError(f"{what} has a property {name!r}: GraphAr has a use for this name")
    data_type = type_name(column.type)
    if data_type is None or (data_type.startswith("list") and file_type == "csv"):
        raise InvalidGraphError(
            f"GraphAr in {file_type} files cannot hold {name!r} of {what}, which is {column.type}",
            "cast the property, or project the graph to others",
        )
    try:
        for begin in range(0, len(column), PIECE):
            _held(column.slice(begin, PIECE), data_type)
    except pa.ArrowException as error:
        raise InvalidGraphError(
            f"GraphAr cannot hold all values of {name!r} of {what} ({column.type}) as {data_type}:"
            f" {error}",
            "round or cast the property first",
        ) from None
    return PropertyInfo(name, data_type, primary, not primary)


def _held(column: Any, data_type: str) -> Any:
    """Values in the type that files have them in."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.cast(arrow_type(data_type, data_type))


def _note(
    notes: dict[str, str], what: str, schema: pa.Schema, groups: tuple[GroupInfo, ...]
) -> None:
    """Note a schema, if reading would make another."""
    read = [(p.name, arrow_type(p.data_type, what)) for group in groups for p in group.properties]
    if read != [(field.name, field.type) for field in schema]:
        plain = pa.schema([pa.field(f.name, f.type) for f in schema])
        notes[SCHEMA_KEY + what] = base64.b64encode(plain.serialize()).decode()


# ---- YAML


def _write_infos(
    root: Path,
    name: str,
    vertices: Sequence[VertexInfo],
    edges: Sequence[EdgeInfo],
    notes: Mapping[str, str],
) -> None:
    graph: dict[str, Any] = {"name": name, "vertices": [], "edges": [], "version": VERSION}
    if notes:
        graph["extra_info"] = [{"key": key, "value": value} for key, value in notes.items()]
    for vertex in vertices:
        file = f"{Path(vertex.prefix).name}.vertex.yml"
        graph["vertices"].append(file)
        (root / file).write_text(dump_yaml(_vertex_node(vertex)), "utf-8")
    for edge in edges:
        file = f"{Path(edge.prefix).name}.edge.yml"
        graph["edges"].append(file)
        (root / file).write_text(dump_yaml(_edge_node(edge)), "utf-8")
    (root / f"{name}.graph.yml").write_text(dump_yaml(graph), "utf-8")


def _vertex_node(info: VertexInfo) -> dict[str, Any]:
    return {
        "type": info.label,
        "chunk_size": info.chunk_size,
        "prefix": info.prefix,
        "property_groups": [_group_node(group) for group in info.groups],
        "version": VERSION,
    }


def _edge_node(info: EdgeInfo) -> dict[str, Any]:
    src, label, dst = info.triple
    node: dict[str, Any] = {
        "src_type": src,
        "edge_type": label,
        "dst_type": dst,
        "chunk_size": info.chunk_size,
        "src_chunk_size": info.src_chunk_size,
        "dst_chunk_size": info.dst_chunk_size,
        "directed": info.directed,
        "prefix": info.prefix,
        "adj_lists": [
            {
                "ordered": each.ordered,
                "aligned_by": each.aligned_by,
                "file_type": each.file_type,
                "prefix": each.prefix,
            }
            for each in info.lists
        ],
    }
    if info.groups:
        node["property_groups"] = [_group_node(group) for group in info.groups]
    return node | {"version": VERSION}


def _group_node(group: GroupInfo) -> dict[str, Any]:
    return {
        "prefix": group.prefix,
        "file_type": group.file_type,
        "properties": [
            {
                "name": each.name,
                "data_type": each.data_type,
                "is_primary": each.is_primary,
                "is_nullable": each.is_nullable,
            }
            for each in group.properties
        ],
    }


# ---- data


def _write_vertices(root: Path, info: VertexInfo, table: pa.Table) -> None:
    base = root / info.prefix
    write_count(table.num_rows, base / "vertex_count")
    for group in info.groups:
        begin = 0
        for path, rows in chunks(base / group.prefix, table.num_rows, info.chunk_size):
            columns = {VERTEX_INDEX: pa.array(np.arange(begin, begin + rows, dtype=np.int64))}
            for each in group.properties:
                columns[each.name] = _held(table[each.name].slice(begin, rows), each.data_type)
            write_table(pa.table(columns), path, group.file_type)
            begin += rows


def _write_edges(root: Path, info: EdgeInfo, order: AdjacencyInfo, edges: Adjacency) -> None:
    """Write all edges in one order: for each vertex chunk its offsets and chunks of edges."""
    base = root / info.prefix / order.prefix
    incoming = order.aligned_by == "dst"
    num, size = (
        (edges.num_dst, info.dst_chunk_size) if incoming else (edges.num_src, info.src_chunk_size)
    )
    write_count(num, base / "vertex_count")
    for part, begin in enumerate(range(0, num, size)):
        end = min(begin + size, num)
        degrees = np.zeros(end - begin, np.int64)
        count = 0
        found = pieces(edges, incoming=incoming, vertices=(begin, end), size=info.chunk_size)
        for i, (own, other, ids) in enumerate(_filled(found, info.chunk_size)):
            degrees += np.bincount(
                (own - own.dtype.type(begin)).astype(np.int64), minlength=end - begin
            )
            count += len(own)
            _write_chunk(base, f"part{part}/chunk{i}", info, order, edges, (own, other, ids))
        write_count(count, base / f"edge_count{part}")
        offsets = pa.table({OFFSET: np.append(0, np.cumsum(degrees))})
        write_table(offsets, base / f"offset/chunk{part}", order.file_type)


def _write_chunk(
    base: Path, chunk: str, info: EdgeInfo, order: AdjacencyInfo, edges: Adjacency, piece: Piece
) -> None:
    own, other, ids = piece
    src, dst = (other, own) if order.aligned_by == "dst" else (own, other)
    ends = pa.table({SRC_INDEX: src.astype(np.int64), DST_INDEX: dst.astype(np.int64)})
    write_table(ends, base / "adj_list" / chunk, order.file_type)
    for group in info.groups:
        columns = {
            p.name: _held(rows_of(edges.columns[p.name], ids), p.data_type)
            for p in group.properties
        }
        write_table(pa.table(columns), base / group.prefix / chunk, group.file_type)


def _filled(parts: Iterator[Piece], size: int) -> Iterator[Piece]:
    """The same edges in pieces of exactly so many, but for the last."""
    kept: list[Piece] = []
    count = 0
    for piece in parts:
        kept.append(piece)
        count += len(piece[0])
        while count >= size:
            own, other, ids = _joined(kept)
            yield own[:size], other[:size], ids[:size]
            kept, count = [(own[size:], other[size:], ids[size:])], count - size
    if count:
        yield _joined(kept)


def _joined(kept: Sequence[Piece]) -> Piece:
    if len(kept) == 1:
        return kept[0]
    own, other, ids = (np.concatenate(each) for each in zip(*kept, strict=True))
    return own, other, ids
