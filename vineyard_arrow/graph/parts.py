"""What a graph is made of: its vertices and edges, and which of them a store has already.

It knows nothing of questions about edges, nor how graphs are made of one another.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import pyarrow as pa

from .arrays import Array, values_of
from .edges import Edges, check_edges
from .schema import GraphSchema, Triple, VertexLabel
from .vertices import Vertices, check_vertices

__all__ = ["GraphParts"]


class GraphParts:
    """Vertices by label, and edges by triple: what `Graph` is built upon.

    Parameters
    ----------
    vertices : dict of str to Vertices
    edges : dict of triple to Edges
    directed : bool
    stored : dict of int to (object, ObjectID)
        Which of its tables and arrays (by ``id()``) are objects of a store already.
    """

    def __init__(
        self,
        vertices: Mapping[str, Vertices],
        edges: Mapping[Triple, Edges],
        directed: bool = True,
        stored: Mapping[int, tuple[Any, int]] | None = None,
    ) -> None:
        self._vertices = dict(vertices)
        self._edges = dict(edges)
        self.schema = GraphSchema(
            tuple(VertexLabel(v.label, v.count, v.table.schema, v.key) for v in vertices.values()),
            tuple(each.schema for each in edges.values()),
            directed,
        )
        ours = {id(value) for value in self.members().values()}
        self._stored = {key: value for key, value in (stored or {}).items() if key in ours}

    @property
    def directed(self) -> bool:
        """Whether edges have a direction."""
        return self.schema.directed

    def vertices(self, label: str | None = None) -> pa.Table:
        """The vertex table of a label; the row is the vertex id."""
        return self._vertices[self.schema.vertex(label).name].table

    def num_vertices(self, label: str | None = None) -> int:
        """Vertices of a label, of all by default."""
        if label is None:
            return sum(each.count for each in self.schema.vertices)
        return self.schema.vertex(label).count

    def num_edges(self, triple: Triple | str | None = None) -> int:
        """Edges of a triple, of all by default."""
        if triple is None:
            return sum(each.count for each in self.schema.edges)
        return self.schema.edge(triple).count

    def edge_columns(self, triple: Triple | str | None = None) -> pa.Table:
        """The properties of the edges of a triple, a row for each edge id; nothing is copied."""
        return pa.table(self._edges_of(triple).columns)

    def arrow(self, triple: Triple | str | None = None) -> dict[str, pa.Array]:
        """The index arrays of a triple as Arrow arrays, by their names in the store.

        ``out.indptr``, ``out.indices``, ``in.indptr``, ``in.indices``, ``in.edge_ids``; of an
        undirected graph ``out.indptr``, ``out.indices`` and ``out.edge_ids``.
        """
        return dict(self._edges_of(triple).arrays)

    def orig_row(self, triple: Triple | str | None = None) -> Array | None:
        """For each edge id its row in the table it was built from, if that was kept."""
        rows = self._edges_of(triple).arrays.get("orig_row")
        return None if rows is None else values_of(rows)

    def _edges_of(self, triple: Triple | str | None) -> Edges:
        return self._edges[self.schema.edge(triple).triple]

    def _derived(
        self,
        vertices: Mapping[str, Vertices],
        edges: Mapping[Triple, Edges],
        directed: bool | None = None,
    ) -> Self:
        directed = self.directed if directed is None else directed
        return type(self)(vertices, edges, directed, self._stored)

    def members(self) -> dict[str, pa.Table | pa.Array | pa.ChunkedArray]:
        """All that the graph consists of, by name: what a store keeps as objects of their own."""
        out: dict[str, Any] = {}
        for label, vertices in self._vertices.items():
            out[f"{label}/vertices"] = vertices.table
            for name, array in vertices.index.items():
                out[f"{label}/oids/{name}"] = array
        for triple, edges in self._edges.items():
            where = "/".join(triple)
            for name, array in edges.arrays.items():
                out[f"{where}/{name}"] = array
            for name, column in edges.columns.items():
                out[f"{where}/columns/{name}"] = column
        return out

    @property
    def nbytes(self) -> int:
        """Bytes of all tables and arrays."""
        return sum(each.nbytes for each in self.members().values())

    def validate(self, threads: int = 0) -> None:
        """Check every index array, for graphs whose writer is not trusted; it reads all of them.

        Raises
        ------
        InvalidGraphError
            If something points outside, rows are not sorted, edge ids are no permutation, or
            in- and out-edges are not the same: with the member and the place.
        """
        for vertices in self._vertices.values():
            check_vertices(vertices)
        for (src, _, dst), edges in self._edges.items():
            check_edges(edges, self._vertices[src].count, self._vertices[dst].count, threads)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._vertices, self._edges, self.directed)
