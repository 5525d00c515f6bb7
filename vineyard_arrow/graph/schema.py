"""What a graph is made of: vertex labels, triples, their properties and counts. No data."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

from ..errors import LabelNotFoundError

__all__ = ["EdgeTriple", "GraphSchema", "Triple", "VertexLabel"]

Triple = tuple[str, str, str]
"""Source label, edge label, destination label."""


@dataclass(frozen=True, slots=True)
class VertexLabel:
    """One kind of vertices.

    Attributes
    ----------
    name : str
    count : int
        Vertices; their ids are 0 to ``count - 1``, the rows of their table.
    schema : pyarrow.Schema
        Properties, the primary key's columns among them.
    primary_key : tuple of str
        Columns that make the original id (*oid*) of a vertex.
    """

    name: str
    count: int
    schema: pa.Schema
    primary_key: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EdgeTriple:
    """One kind of edges between two kinds of vertices.

    Attributes
    ----------
    src, label, dst : str
        Label of the sources, of the edges, of the destinations.
    count : int
        Edges, parallel ones counted each.
    schema : pyarrow.Schema
        Properties of the edges.
    """

    src: str
    label: str
    dst: str
    count: int
    schema: pa.Schema

    @property
    def triple(self) -> Triple:
        """The three labels."""
        return self.src, self.label, self.dst


@dataclass(frozen=True, slots=True)
class GraphSchema:
    """Labels, triples, properties and counts of a graph.

    Attributes
    ----------
    vertices : tuple of VertexLabel
    edges : tuple of EdgeTriple
    directed : bool
        If not, each edge lies in the rows of both its ends, under one edge id.
    """

    vertices: tuple[VertexLabel, ...]
    edges: tuple[EdgeTriple, ...]
    directed: bool = True

    def vertex(self, label: str | None = None) -> VertexLabel:
        """A vertex label by its name; None stands for the only one.

        Raises
        ------
        LabelNotFoundError
            If there is none of that name, or ``label`` is None and there are several.
        """
        for each in self.vertices:
            if each.name == label or (label is None and len(self.vertices) == 1):
                return each
        names = [each.name for each in self.vertices]
        if label is None:
            raise LabelNotFoundError(
                f"the graph has {len(names)} vertex labels, none was named", _listed(names)
            )
        raise LabelNotFoundError(f"no vertex label {label!r}", _nearest(label, names))

    def edge(self, triple: Triple | str | None = None) -> EdgeTriple:
        """A triple; its edge label alone will do if no other triple has it.

        None stands for the only triple.

        Raises
        ------
        LabelNotFoundError
            If there is none like it, or more than one.
        """
        if triple is None:
            found = list(self.edges)
        elif isinstance(triple, str):
            found = [each for each in self.edges if each.label == triple]
        else:
            found = [each for each in self.edges if each.triple == tuple(triple)]
        if len(found) == 1:
            return found[0]
        names = ["-".join(each.triple) for each in self.edges]
        if found:
            which = "the graph has" if triple is None else f"edge label {triple!r} has"
            some = ", ".join(str(each.triple) for each in found[:8])
            raise LabelNotFoundError(
                f"{which} {len(found)} triples", f"pass triple=, one of {some}"
            )
        if triple is None:
            raise LabelNotFoundError("the graph has no edges", "it was built without any triple")
        name = triple if isinstance(triple, str) else "-".join(map(str, triple))
        raise LabelNotFoundError(f"no triple {triple!r}", _nearest(name, names))

    def part(self, name: Triple | str) -> VertexLabel | EdgeTriple:
        """A vertex label, or else a triple as `edge` finds it, by its name.

        Raises
        ------
        LabelNotFoundError
        """
        labels, edges = [v.name for v in self.vertices], {e.label for e in self.edges}
        if isinstance(name, str):
            if name in labels:
                return self.vertex(name)
            if name not in edges:
                raise LabelNotFoundError(
                    f"no vertex label and no edges {name!r}", _nearest(name, [*labels, *edges])
                )
        return self.edge(name)

    def __str__(self) -> str:
        lines = [f"{'directed' if self.directed else 'undirected'} graph"]
        for v in self.vertices:
            key = ", ".join(v.primary_key)
            lines.append(f"  ({v.name}) {v.count:,} vertices, key {key}; {_fields(v.schema)}")
        arrow = "->" if self.directed else "-"
        for e in self.edges:
            ends = f"({e.src})-[{e.label}]{arrow}({e.dst})"
            lines.append(f"  {ends} {e.count:,} edges; {_fields(e.schema)}")
        return "\n".join(lines)


def _fields(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name}: {field.type}" for field in schema) or "no properties"


def _listed(names: Iterable[str]) -> str:
    return "it has " + (", ".join(map(repr, names)) or "none")


def _nearest(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(str(name), names, cutoff=0.5)
    return f"nearest: {', '.join(near)}" if near else _listed(names)
