"""Fragments of graphs, and graphs in fragments.

A fragment is composed of its graph over local ids, and of tables and ids for each label. A global
graph is metadata that the cluster keeps: figures of its fragments, which are its members.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from ..composition import VALUES
from ..errors import InvalidGraphError, VineyardArrowError
from ..graph.edge_cut import Figures, Fragment
from ..graph.global_graph import GlobalGraph, kinds_of
from ..graph.graph import Graph
from ..graph.vertex_map import VertexMap
from ..objects import ObjectID, ObjectMeta
from ..registry import Encoder, Part, StoredObject, StoredPart, builtin_registry
from .graph import origin_of
from .partitions import opener, prefix_of, refuse

__all__ = ["FRAGMENT", "described_graph"]

FRAGMENT = "vineyard.fragment"
GLOBAL_GRAPH = "vineyard.global_graph"

_FIGURES = ("inner", "outer", "edges", "cut")


@builtin_registry.builder(Fragment)
def build_fragment(fragment: Fragment, encoder: Encoder) -> Part:
    """The description; graph, tables and ids become members."""
    prefix = prefix_of(encoder)
    for name, value in fragment.members().items():
        encoder.put_member(prefix.get("prefix", "") + name, value)
    labels = [each.name for each in fragment.graph.schema.vertices]
    figures = fragment.figures()
    params = {
        "fid": fragment.fid,
        "fnum": fragment.fnum,
        "labels": labels,
        "figures": [getattr(figures, name) for name in _FIGURES],
        "kinds": kinds_of(fragment.graph.schema),
        **prefix,
    }
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


builtin_registry.builder(GlobalGraph)(refuse)


def described_graph(figures: Sequence[Figures | None]) -> ObjectMeta:
    """Metadata of a global graph of these fragments, but for its members."""
    meta = ObjectMeta(GLOBAL_GRAPH)
    meta["fragments"] = {name: [int(getattr(each, name)) for each in figures] for name in _FIGURES}
    return meta


@builtin_registry.resolver(GLOBAL_GRAPH)
def resolve_global_graph(part: StoredPart, stored: StoredObject) -> GlobalGraph:
    """What metadata tells; no fragment is opened."""
    try:
        told = part.params[VALUES]["fragments"]
        columns = [list(map(int, told[name])) for name in _FIGURES]
        figures = [Figures(*row) for row in zip(*columns, strict=True)]
        ids = [ObjectID(stored.composed_of[str(fid)][0]) for fid in range(len(figures))]
    except (KeyError, TypeError, ValueError) as error:
        raise _no_sense(repr(error)) from None
    if not ids:
        raise _no_sense("there are no fragments")
    graph = GlobalGraph.stored(ids, figures, opener(stored))
    graph.origin = origin_of(part, stored)
    return graph


def _no_sense(why: str) -> InvalidGraphError:
    return InvalidGraphError(f"the description of this graph makes no sense: {why}")
