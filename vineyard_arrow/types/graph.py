"""Graphs: an object whose members are its vertex tables, indices and edge columns.

Members are put with the graph, all or none; those that are objects of the store already (of a
graph that this one was derived from, or of an earlier put) are shared. The graph's own part has
no data, only ``{"vertices", "edges", "directed"}``: labels, keys and counts.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from ..errors import InvalidGraphError, VineyardArrowError
from ..graph.edges import Edges
from ..graph.graph import Graph, Origin
from ..graph.vertices import Vertices
from ..objects import ObjectID
from ..registry import Encoder, Part, StoredObject, StoredPart, builtin_registry

__all__ = ["origin_of"]

GRAPH = "vineyard.graph"


@builtin_registry.builder(Graph)
def build_graph(graph: Graph, encoder: Encoder) -> Part:
    """The description; tables and arrays become members."""
    # Other graphs may be parts of the same object.
    prefix = f"{len(encoder.parts)}/" if encoder.members else ""
    for name, value in graph.members().items():
        encoder.share_member(prefix + name, value, graph._stored)
    params = {
        "vertices": [
            [v.label, v.count, list(v.key), sorted(v.index), v.id_bits]
            for v in graph._vertices.values()
        ],
        "edges": [
            [list(e.triple), e.count, list(e.arrays), list(e.columns)]
            for e in graph._edges.values()
        ],
        "directed": graph.directed,
    }
    if prefix:
        params["prefix"] = prefix
    return Part(GRAPH, pa.schema([]), [], params)


@builtin_registry.resolver(GRAPH)
def resolve_graph(part: StoredPart, stored: StoredObject) -> Graph:
    """The graph over mapped memory: nothing is copied, nor looked at if its maker is trusted."""
    params, prefix = part.params, part.params.get("prefix", "")
    known: dict[int, tuple[Any, int]] = {}

    def member(name: str, *kinds: type) -> Any:
        name = prefix + name
        value = stored.member(name)
        if not isinstance(value, kinds):
            raise InvalidGraphError(f"member {name!r} is a {type(value).__name__}")
        known[id(value)] = value, stored.composed_of[name][0]
        return value

    try:
        vertices = {
            label: Vertices(
                label,
                member(f"{label}/vertices", pa.Table),
                tuple(key),
                {name: member(f"{label}/oids/{name}", pa.Array) for name in index},
                id_bits,
            )
            for label, _, key, index, id_bits in params["vertices"]
        }
        edges = {
            tuple(triple): Edges(
                tuple(triple),
                count,
                params["directed"],
                {name: member(f"{'/'.join(triple)}/{name}", pa.Array) for name in arrays},
                {
                    name: member(f"{'/'.join(triple)}/columns/{name}", pa.Array, pa.ChunkedArray)
                    for name in columns
                },
            )
            for triple, count, arrays, columns in params["edges"]
        }
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, VineyardArrowError):
            raise
        raise InvalidGraphError(
            f"the description of this graph makes no sense: {error!r}"
        ) from None
    ends = {label for src, _, dst in edges for label in (src, dst)}
    if not ends <= vertices.keys() or not all(0 < v.id_bits < 64 for v in vertices.values()):
        raise InvalidGraphError("the description of this graph makes no sense")
    graph = Graph(vertices, edges, params["directed"], known)
    graph._private = part.writable
    graph.origin = origin_of(part, stored)
    trusted = stored.is_trusted and stored.members_trusted
    if stored.validate or not trusted:  # kernels follow the indices wherever they lead
        graph.validate()
    return graph


def origin_of(part: StoredPart, stored: StoredObject) -> Origin | None:
    """The object that is just this part and what it refers to."""
    if stored.source is None or part is not stored.parts[0]:
        return None
    return Origin(stored.source.socket, ObjectID(stored.id))
