"""Labelled property graphs over Arrow tables: built once, shared, iterated through an index.

Importing this loads little; the first graph does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._edges import Edge, EdgeSlice
    from .adjacency import Adjacency
    from .edge_cut import Fragment
    from .fragments import VirtualFragment
    from .global_graph import GlobalGraph
    from .graph import Graph
    from .schema import EdgeTriple, GraphSchema, VertexLabel

__all__ = [
    "Adjacency",
    "Edge",
    "EdgeSlice",
    "EdgeTriple",
    "Fragment",
    "GlobalGraph",
    "Graph",
    "GraphSchema",
    "VertexLabel",
    "VirtualFragment",
]

_HOME = {
    "Adjacency": "adjacency",
    "Edge": "_edges",
    "EdgeSlice": "_edges",
    "Fragment": "edge_cut",
    "GlobalGraph": "global_graph",
    "Graph": "graph",
    "VirtualFragment": "fragments",
} | dict.fromkeys(("EdgeTriple", "GraphSchema", "VertexLabel"), "schema")


def __getattr__(name: str) -> Any:
    module = _HOME.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
    return value
