"""What the graphar package reads and writes; a process of its own, since it brings its own Arrow.

``python graphar_peer.py read GRAPH.yml`` prints what its reader sees of a graph, as JSON.
``python graphar_peer.py write DIRECTORY`` lets its writer make a graph.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import graphar
from graphar import high_level, types


def rows(elements: Any, ends: tuple[str, ...], names: list[str]) -> list[list[Any]]:
    out = []
    for each in elements:
        row = [getattr(each, end)() for end in ends]
        for name in names:
            try:
                row.append(each.property(name))
            except RuntimeError:  # of a type that its Python side has not
                row.append(None)
        out.append(row)
    return out


def names_of(info: Any) -> list[str]:
    return [p.name for group in info.get_property_groups() for p in group.get_properties()]


def read(path: str) -> dict[str, Any]:
    info = graphar.GraphInfo.load(path)
    out: dict[str, Any] = {"valid": info.is_validated(), "vertices": {}, "edges": {}}
    for vertex in info.get_vertex_infos():
        found = high_level.VerticesCollection.Make(info, vertex.get_type())
        seen = rows(found, ("id",), names_of(vertex)) if found.size() else []
        out["vertices"][vertex.get_type()] = seen
    for edge in info.get_edge_infos():
        triple = edge.get_src_type(), edge.get_edge_type(), edge.get_dst_type()
        for order in (types.AdjListType.ordered_by_source, types.AdjListType.ordered_by_dest):
            found = high_level.EdgesCollection.Make(info, *triple, order)
            seen = rows(found, ("source", "destination"), names_of(edge)) if found.size() else []
            out["edges"][f"{'-'.join(triple)} {order.name}"] = [edge.is_directed(), seen]
    return out


def write(directory: str) -> None:
    """Ten vertices in chunks of 4, edges in chunks of 3, none from vertices 4 to 7."""
    name = graphar.Property("name", graphar.DataType(types.Type.STRING))
    key = graphar.Property("id", graphar.DataType(types.Type.INT64), True, False)
    since = graphar.Property("since", graphar.DataType(types.Type.INT64))
    parquet, root = types.FileType.PARQUET, directory + "/"
    groups = [graphar.PropertyGroup([each], parquet, "") for each in (key, name)]
    person = graphar.VertexInfo("person", 4, groups, [], "vertex/person/")
    orders = [types.AdjListType.ordered_by_source, types.AdjListType.unordered_by_dest]
    lists = [graphar.AdjacentList(order, parquet, "") for order in orders]
    since_group = graphar.PropertyGroup([since], parquet, "")
    knows = graphar.EdgeInfo(
        "person", "knows", "person", 3, 4, 4, True, lists, [since_group], "edge/pkp/"
    )
    builder = high_level.VerticesBuilder.Make(person, root, 0)
    for i in range(10):
        vertex = high_level.BuilderVertex()
        vertex.AddProperty("id", i * 7)
        if i != 3:
            vertex.AddProperty("name", f"n{i}")
        builder.AddVertex(vertex)
    builder.Dump()
    for order in orders:
        edges = high_level.EdgesBuilder.Make(knows, root, order, 10)
        for i in (0, 1, 2, 3, 8, 9):
            for step in (3, 1, 3):
                edge = high_level.BuilderEdge(i, (i + step) % 10)
                edge.AddProperty("since", 100 * i + step)
                edges.AddEdge(edge)
        edges.Dump()
    info = graphar.GraphInfo("g", [person], [knows], [], root)
    person.save(root + "person.vertex.yaml")
    knows.save(root + "person_knows_person.edge.yaml")
    info.save(root + "g.graph.yml")


if __name__ == "__main__":
    command, path = sys.argv[1:]
    if command == "read":
        json.dump(read(path), sys.stdout)
    else:
        write(path)
