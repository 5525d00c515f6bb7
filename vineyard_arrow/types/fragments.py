"""Fragments of graphs, and graphs in fragments.

A fragment is composed of its graph over local ids, and of tables and ids for each label. A global
graph names its fragments by object id in a table of one row each. Those of its own store are its
members too: kept with it, and deleted with it.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from ..errors import InvalidGraphError, VineyardArrowError
from ..graph.edge_cut import Figures, Fragment
from ..graph.global_graph import GlobalGraph
from ..graph.graph import Graph
from ..graph.vertex_map import VertexMap
from ..registry import Encoder, Part, StoredObject, StoredPart, builtin_registry
from .graph import origin_of
from .partitions import prefix_of, put_partitions, stored_partitions

__all__: list[str] = []

FRAGMENT = "vineyard.fragment"
GLOBAL_GRAPH = "vineyard.global_graph"

_FIGURES = ("inner", "outer", "edges", "cut")
_SCHEMA = pa.schema([("object", pa.uint64()), *((name, pa.int64()) for name in _FIGURES)])


@builtin_registry.builder(Fragment)
def build_fragment(fragment: Fragment, encoder: Encoder) -> Part:
    """The description; graph, tables and ids become members."""
    prefix = prefix_of(encoder)
    for name, value in fragment.members().items():
        encoder.put_member(prefix.get("prefix", "") + name, value)
    labels = [each.name for each in fragment.graph.schema.vertices]
    params = {"fid": fragment.fid, "fnum": fragment.fnum, "labels": labels, **prefix}
    return Part(FRAGMENT, pa.schema([]), [], params)


@builtin_registry.resolver(FRAGMENT)
def resolve_fragment(part: StoredPart, stored: StoredObject) -> Fragment:
    """The fragment over mapped memory: nothing is copied, nor looked at if its maker is trusted."""
    params, prefix = part.params, part.params.get("prefix", "")

    def member(name: str, kind: type) -> Any:
        value = stored.member(prefix + name)
        if not isinstance(value, kind):
            raise InvalidGraphError(f"member {prefix + name!r} is a {type(value).__name__}")
        return value

    try:
        fid, fnum = int(params["fid"]), int(params["fnum"])
        names = ("ids", "outer", "mirrors")
        maps = {
            label: VertexMap(
                label, fid, fnum, *(member(f"{label}/{name}", pa.Array) for name in names)
            )
            for label in params["labels"]
        }
        tables = {label: member(f"{label}/vertices", pa.Table) for label in params["labels"]}
        origin = origin_of(part, stored)
        fragment = Fragment(member("graph", Graph), fid, fnum, maps, tables, origin)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, VineyardArrowError):
            raise
        raise _no_sense(repr(error)) from None
    trusted = stored.is_trusted and stored.members_trusted
    if stored.validate or not trusted:  # the graph has been, when it was read
        fragment.check_ids()
    return fragment


@builtin_registry.builder(GlobalGraph)
def build_global_graph(graph: GlobalGraph, encoder: Encoder) -> Part:
    """The table of fragments; those that are in no store yet are put."""
    prefix = prefix_of(encoder)
    ids = put_partitions(graph, encoder, prefix.get("prefix", ""))
    figures = [[getattr(each, name) for each in graph.figures] for name in _FIGURES]
    arrays = [pa.array(ids, pa.uint64()), *(pa.array(column, pa.int64()) for column in figures)]
    batch = pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA)
    return Part(GLOBAL_GRAPH, _SCHEMA, [batch], prefix)


@builtin_registry.resolver(GLOBAL_GRAPH)
def resolve_global_graph(part: StoredPart, stored: StoredObject) -> GlobalGraph:
    """The table of fragments; none of them is opened."""
    table, prefix = part.table, part.params.get("prefix", "")
    if table.schema != _SCHEMA or any(column.null_count for column in table.columns):
        raise _no_sense("its table is of another schema, or has nulls")
    if not table.num_rows or stored.source is None:
        raise _no_sense("there are no fragments")
    columns = [table[name].to_pylist() for name in _FIGURES]
    figures = [Figures(*row) for row in zip(*columns, strict=True)]
    ids, open_ = stored_partitions(table["object"].to_pylist(), stored, prefix)
    graph = GlobalGraph.stored(ids, figures, open_)
    graph.origin = origin_of(part, stored)
    return graph


def _no_sense(why: str) -> InvalidGraphError:
    return InvalidGraphError(f"the description of this graph makes no sense: {why}")
