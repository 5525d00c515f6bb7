"""What a graph in the GraphAr format says of itself: its YAML files, types and paths.

It reads and writes no data. Format: GraphAr specification, version 1,
https://graphar.apache.org/docs/specification/format; what that leaves open (counts as 8 bytes,
names of chunks and of index columns, default prefixes) is as its C++ library has it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from ...errors import InvalidGraphError
from ..adapters.common import imported
from ..files import PathLike, file_errors
from ..schema import Triple

__all__ = [
    "DST_INDEX",
    "OFFSET",
    "SRC_INDEX",
    "VERTEX_INDEX",
    "AdjacencyInfo",
    "EdgeInfo",
    "GraphInfo",
    "GroupInfo",
    "PropertyInfo",
    "VertexInfo",
    "arrow_type",
    "chunks",
    "dump_yaml",
    "inside",
    "load_graph_info",
    "type_name",
]

VERTEX_INDEX, SRC_INDEX, DST_INDEX = "_graphArVertexIndex", "_graphArSrcIndex", "_graphArDstIndex"
OFFSET = "_graphArOffset"
VERSION = "gar/v1"
FILE_TYPES = ("parquet", "orc", "csv")

_TYPES = {
    "bool": pa.bool_(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "string": pa.string(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("ms"),
}
_LISTS = {
    f"list<{name}>": pa.list_(_TYPES[name])
    for name in ("int32", "int64", "float", "double", "string")
}


@dataclass(frozen=True, slots=True)
class PropertyInfo:
    """A property: its name, the format's name of its type, whether it is (part of) the oid."""

    name: str
    data_type: str
    is_primary: bool = False
    is_nullable: bool = True


@dataclass(frozen=True, slots=True)
class GroupInfo:
    """Properties that share files; those of vertices have the vertex index too, if indexed."""

    properties: tuple[PropertyInfo, ...]
    file_type: str
    prefix: str
    indexed: bool = True


@dataclass(frozen=True, slots=True)
class VertexInfo:
    """Vertices of one label."""

    label: str
    chunk_size: int
    prefix: str
    groups: tuple[GroupInfo, ...]


@dataclass(frozen=True, slots=True)
class AdjacencyInfo:
    """Edges in one order: aligned by "src" or "dst", sorted by it or not."""

    ordered: bool
    aligned_by: str
    file_type: str
    prefix: str


@dataclass(frozen=True, slots=True)
class EdgeInfo:
    """Edges of one triple."""

    triple: Triple
    chunk_size: int
    src_chunk_size: int
    dst_chunk_size: int
    directed: bool
    prefix: str
    lists: tuple[AdjacencyInfo, ...]
    groups: tuple[GroupInfo, ...]


@dataclass(frozen=True, slots=True)
class GraphInfo:
    """A whole graph, and where its files are."""

    name: str
    root: Path
    vertices: tuple[VertexInfo, ...]
    edges: tuple[EdgeInfo, ...]
    extra: Mapping[str, str] = field(default_factory=dict)


# ---- types


def type_name(type_: pa.DataType) -> str | None:
    """The type of the format that holds the values of an Arrow type, or None.

    Smaller integers are held by int32 and int64, unsigned ones by the next wider (uint64 by
    int64, as far as it goes), and timestamps of other units by milliseconds if they are whole.
    """
    t = pa.types
    if isinstance(type_, pa.ExtensionType):
        return None
    if t.is_dictionary(type_):
        return type_name(type_.value_type)
    if t.is_integer(type_):
        small = type_.bit_width < 32 or t.is_int32(type_)
        return "int32" if small else "int64"
    if t.is_boolean(type_):
        return "bool"
    if t.is_floating(type_):
        return "double" if t.is_float64(type_) else "float"
    if t.is_string(type_) or t.is_large_string(type_) or t.is_string_view(type_):
        return "string"
    if t.is_date(type_):
        return "date"
    if t.is_timestamp(type_):
        return "timestamp"
    if t.is_list(type_) or t.is_large_list(type_) or t.is_fixed_size_list(type_):
        name = f"list<{type_name(type_.value_type)}>"
        return name if name in _LISTS else None
    return None


def arrow_type(name: str, what: str) -> pa.DataType:
    """The Arrow type of one of the format."""
    type_ = _TYPES.get(name) or _LISTS.get(name)
    if type_ is None:
        raise InvalidGraphError(f"{what} is of type {name!r}, which is not known here")
    return type_


# ---- paths


def inside(root: Path, *parts: str) -> Path:
    """A path below a directory.

    Raises
    ------
    InvalidGraphError
        If it leads out of it.
    """
    path = Path(os.path.realpath(root.joinpath(*parts)))  # takes links in a circle, too
    if not path.is_relative_to(os.path.realpath(root)):
        raise InvalidGraphError(
            f"{'/'.join(parts)!r} leads out of {root}",
            "the files of a graph lie below the directory of its .graph.yml",
        )
    return path


def chunks(directory: Path, count: int, size: int) -> Iterator[tuple[Path, int]]:
    """Paths of the chunks of so many rows, and the rows of each."""
    for i, begin in enumerate(range(0, count, size)):
        yield directory / f"chunk{i}", min(size, count - begin)


# ---- YAML


def dump_yaml(info: Any) -> str:
    """The text of a YAML file, plain enough for the small parser of GraphAr's C++ library."""
    yaml = imported("yaml", "vineyard-arrow[graphar]")

    class Dumper(yaml.SafeDumper):  # type: ignore[name-defined, misc]
        def increase_indent(self, flow: bool = False, indentless: bool = False) -> Any:
            return super().increase_indent(flow, False)  # it needs lists indented

    text = yaml.dump(info, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=float("inf"))
    return str(text)


def load_graph_info(path: PathLike) -> GraphInfo:
    """Read the YAML files of a graph: a ``.graph.yml``, or the directory that has one."""
    file = _graph_file(Path(path))
    root = file.parent
    node = _Node.load(file)
    version = node.text("version", VERSION)
    if version.split()[:1] != [VERSION]:
        raise InvalidGraphError(f"{file}: version {version!r} of the format", f"{VERSION} is read")
    data = inside(root, node.text("prefix", "."))
    extra = {each.text("key"): each.text("value") for each in node.nodes("extra_info")}
    vertices = tuple(_vertex(_Node.load(inside(root, name))) for name in node.texts("vertices"))
    edges = tuple(_edge(_Node.load(inside(root, name))) for name in node.texts("edges"))
    for what in ([v.label for v in vertices], [e.triple for e in edges]):
        if len(set(what)) != len(what):
            raise InvalidGraphError(f"{file}: a label or triple is there twice: {what}")
    labels = {v.label for v in vertices}
    for edge in edges:
        absent = {edge.triple[0], edge.triple[2]} - labels
        if absent:
            raise InvalidGraphError(f"{file}: no vertices of {absent.pop()!r}, which edges have")
    return GraphInfo(node.text("name", "graph"), data, vertices, edges, extra)


def _graph_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    with file_errors(path):
        found = sorted(p for p in path.iterdir() if p.name.endswith((".graph.yml", ".graph.yaml")))
    if len(found) != 1:
        names = ", ".join(p.name for p in found) or "none"
        raise InvalidGraphError(
            f"{path}: one file ending in .graph.yml is needed, there are: {names}",
            "give the path of the file",
        )
    return found[0]


class _Node:
    """A mapping of a YAML file, all scalars texts, that says where it is wrong."""

    def __init__(self, file: Path, value: Any) -> None:
        self.file = file
        if not isinstance(value, dict):
            raise InvalidGraphError(f"{file}: this is no YAML mapping")
        self._value = value

    @classmethod
    def load(cls, file: Path) -> _Node:
        yaml = imported("yaml", "vineyard-arrow[graphar]")
        with file_errors(file):
            content = file.read_bytes()
        try:
            return cls(file, yaml.load(content, yaml.BaseLoader))  # a label may be called "no"
        except (yaml.YAMLError, RecursionError) as error:
            raise InvalidGraphError(f"{file}: {error}") from None

    def text(self, key: str, default: str | None = None) -> str:
        value = self._value.get(key, default)
        if not isinstance(value, str) or not value:
            raise InvalidGraphError(f"{self.file}: {key!r} is {value!r}, but should be a text")
        return value

    def flag(self, key: str, default: str | None = None) -> bool:
        value = self.text(key, default).lower()
        if value not in ("true", "false"):
            raise InvalidGraphError(
                f"{self.file}: {key!r} is {value!r}, but should be true or false"
            )
        return value == "true"

    def size(self, key: str) -> int:
        value = self.text(key)
        if not (value.isascii() and value.isdigit() and 0 < int(value) < 1 << 62):
            raise InvalidGraphError(f"{self.file}: {key!r} is {value!r}, but should be a size")
        return int(value)

    def choice(self, key: str, known: tuple[str, ...]) -> str:
        value = self.text(key)
        if value not in known:
            raise InvalidGraphError(
                f"{self.file}: {key!r} is {value!r}", f"known here: {', '.join(known)}"
            )
        return value

    def texts(self, key: str) -> list[str]:
        values = self._value.get(key) or []
        if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
            raise InvalidGraphError(f"{self.file}: {key!r} should be a list of texts")
        return values

    def nodes(self, key: str) -> list[_Node]:
        values = self._value.get(key) or []
        if not isinstance(values, list):
            raise InvalidGraphError(f"{self.file}: {key!r} should be a list")
        return [_Node(self.file, each) for each in values]


def _vertex(node: _Node) -> VertexInfo:
    label = _label(node, "type")
    groups = [_group(each) for each in node.nodes("property_groups")]
    if node.texts("labels"):  # columns of booleans, one for each further label
        flags = tuple(PropertyInfo(name, "bool") for name in node.texts("labels"))
        groups.append(GroupInfo(flags, "parquet", "labels", indexed=False))
    _check_unique(node, groups)
    return VertexInfo(
        label, node.size("chunk_size"), node.text("prefix", f"{label}/"), tuple(groups)
    )


def _edge(node: _Node) -> EdgeInfo:
    triple = (_label(node, "src_type"), _label(node, "edge_type"), _label(node, "dst_type"))
    groups = [_group(each) for each in node.nodes("property_groups")]
    _check_unique(node, groups)
    return EdgeInfo(
        triple,
        node.size("chunk_size"),
        node.size("src_chunk_size"),
        node.size("dst_chunk_size"),
        node.flag("directed"),
        node.text("prefix", "_".join(triple) + "/"),
        tuple(_adjacency(each) for each in node.nodes("adj_lists")),
        tuple(groups),
    )


def _label(node: _Node, key: str) -> str:
    label = node.text(key)
    if "/" in label:
        raise InvalidGraphError(f"{node.file}: {label!r} is no label here, for its '/'")
    return label


def _adjacency(node: _Node) -> AdjacencyInfo:
    ordered, side = node.flag("ordered"), node.choice("aligned_by", ("src", "dst"))
    usual = f"{'' if ordered else 'un'}ordered_by_{'source' if side == 'src' else 'dest'}/"
    return AdjacencyInfo(
        ordered, side, node.choice("file_type", FILE_TYPES), node.text("prefix", usual)
    )


def _group(node: _Node) -> GroupInfo:
    properties = tuple(_property(each) for each in node.nodes("properties"))
    usual = "_".join(each.name for each in properties) + "/"
    return GroupInfo(properties, node.choice("file_type", FILE_TYPES), node.text("prefix", usual))


def _property(node: _Node) -> PropertyInfo:
    name, type_ = node.text("name"), node.text("data_type")
    if node.text("cardinality", "single") != "single":
        type_ = f"list<{type_}>"
    arrow_type(type_, f"{node.file}: {name!r}")
    return PropertyInfo(
        name, type_, node.flag("is_primary", "false"), node.flag("is_nullable", "true")
    )


def _check_unique(node: _Node, groups: list[GroupInfo]) -> None:
    names = [each.name for group in groups for each in group.properties]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InvalidGraphError(f"{node.file}: the property {twice[0]!r} is there twice")
