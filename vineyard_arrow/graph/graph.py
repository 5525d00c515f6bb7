"""Graphs: labelled vertices and edges over Arrow tables, with an index both ways.

A `Graph` is immutable. What it holds lies in a store's memory when it was got from one or
built in its pool; every view it gives out keeps that memory, whatever becomes of the graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pyarrow as pa

from ..errors import InvalidGraphError
from ._edges import EdgeIndex, EdgeIterator, EdgeSlice
from .adjacency import Adjacency
from .arrays import Array, memory_of
from .build import Columns, Missing, Progress, build
from .derive import Derivable
from .edges import Edges
from .expand import expand
from .schema import Triple
from .vertices import Vertices

if TYPE_CHECKING:
    from ..client import Client
    from .fragments import VirtualFragment

__all__ = ["Direction", "Graph", "Origin"]

Direction = Literal["out", "in"]


class Origin(NamedTuple):
    """The object that a value was got from: the store's socket, and the object's id."""

    socket: str
    id: int


class Graph(Derivable):
    """A property graph. Made by `from_tables` or `from_edges`, or got from a store.

    Vertices of a label have the ids 0 to n - 1, the rows of the label's table. Where the graph
    has one label, or one triple, it need not be named; a triple may also be named by its edge
    label alone, if no other triple has that.

    Parameters
    ----------
    vertices : dict of str to Vertices
    edges : dict of triple to Edges
    directed : bool
    stored : dict of int to (object, ObjectID)
        Which of its tables and arrays (by ``id()``) are objects of a store already.

    Attributes
    ----------
    origin : Origin or None
        The object it was got from.
    """

    _private = False  # whether its memory was got copy-on-write, so nobody else sees a write
    origin: Origin | None = None

    def __init__(
        self,
        vertices: Mapping[str, Vertices],
        edges: Mapping[Triple, Edges],
        directed: bool = True,
        stored: Mapping[int, tuple[Any, int]] | None = None,
    ) -> None:
        super().__init__(vertices, edges, directed, stored)
        self._indices: dict[Triple, EdgeIndex] = {}
        self._only: EdgeIndex | None = None

    # ---- making

    @classmethod
    def from_tables(
        cls,
        vertices: Mapping[str, Any],
        edges: Mapping[Triple, Any],
        *,
        oid: Columns | Mapping[str, Columns] = "oid",
        src: Columns | Mapping[Triple, Columns] = "src",
        dst: Columns | Mapping[Triple, Columns] = "dst",
        directed: bool = True,
        missing: Missing = "error",
        orig_row: bool = False,
        client: Client | None = None,
        threads: int = 0,
        progress: Progress | None = None,
    ) -> Graph:
        """Build a graph of tables, in the memory that a put of it shares without a copy.

        Parameters
        ----------
        vertices : mapping of label to table
        edges : mapping of (source label, edge label, destination label) to table
            Tables: anything with Arrow columns, or the path of a Parquet file. Parallel edges
            and self-loops are kept. Columns that name no ends become properties.
        oid : str, or several, or a mapping of label to either
            The column of the original ids of vertices: integers or texts, dictionary-encoded
            or not; several columns make one id together.
        src, dst : str, or several, or a mapping of triple to either
            Columns of the oids of the ends of edges.
        directed : bool
            If not, edges lie in the rows of both ends under one id; both have one label then.
        missing : {"error", "drop", "add"}
            What becomes of edges whose ends are in no vertex table: nothing is built; they are
            left out (so are those with a null end); or the vertices are added, all other
            properties null, in the order the edges name them.
        orig_row : bool
            Keep the row of its table that each edge came from, see `orig_row`.
        client : Client, optional
            In whose pool to build; the default client's, if not given.
        threads : int
            Two by default.
        progress : callable, optional
            Called as ``progress(done, total, what)`` after each step. What it raises ends the
            build.

        Raises
        ------
        InvalidGraphError
            If something makes no table or no order of its rows, oids are null or repeated, ends
            are null or in no table, or types do not match.
        LabelNotFoundError
            If a label has no table, or a table lacks a column.
        PathNotFoundError, AccessDeniedError, FileError
            If a file cannot be read.
        StoreFullError
            If the graph does not fit; nothing of it is kept.
        """
        with memory_of(client) as pool:
            made, rows = build(
                vertices,
                edges,
                oid=oid,
                src=src,
                dst=dst,
                directed=directed,
                missing=missing,
                orig_row=orig_row,
                pool=pool,
                threads=threads,
                progress=progress,
            )
        return cls(made, rows, directed)

    @classmethod
    def from_edges(
        cls,
        edges: Any,
        *,
        vertex_label: str = "vertex",
        edge_label: str = "edge",
        **options: Any,
    ) -> Graph:
        """Build a graph of one table of edges; its vertices are the ends there are.

        Vertex ids follow the first appearance as a source, then as a destination. Options are
        those of `from_tables`; the column of oids in the vertex table is called ``oid``.
        """
        triple = (vertex_label, edge_label, vertex_label)
        return cls.from_tables({}, {triple: edges}, **{"missing": "add", **options})

    # ---- the parts

    def adjacency(self, triple: Triple | str | None = None) -> Adjacency:
        """All edges of a triple as read-only arrays; nothing is copied."""
        return self._index(triple).adjacency

    def adjacency_lists(self, triple: Triple | str | None = None) -> pa.LargeListArray:
        """A list for each source of structs of ``dst``, ``eid`` if undirected, and properties.

        Over the same buffers: nothing is copied, but for undirected graphs the properties.
        """
        edges = self._edges_of(triple)
        fields = {"dst": edges.arrays["out.indices"]}
        ids = edges.arrays.get("out.edge_ids")
        if ids is not None:
            fields["eid"] = ids
        for name, column in edges.columns.items():
            if ids is not None:
                column = column.take(ids)
            fields[name] = (
                column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
            )
        items = pa.StructArray.from_arrays(list(fields.values()), list(fields))
        return pa.LargeListArray.from_arrays(edges.arrays["out.indptr"], items)

    def _index(self, triple: Triple | str | None) -> EdgeIndex:
        if triple is None and self._only is not None:
            return self._only
        edges = self._edges_of(triple)
        index = self._indices.get(edges.triple)
        if index is None:
            index = self._indices[edges.triple] = EdgeIndex(edges.adjacency())
        if len(self._edges) == 1:
            self._only = index
        return index

    # ---- ids

    def ids(
        self, label: str | None, oids: Any, *, unknown: Literal["raise", "null"] = "raise"
    ) -> Any:
        """Vertex ids of oids.

        Parameters
        ----------
        label : str or None
        oids
            One oid (a tuple if it has several columns), or many: a list, NumPy or Arrow array,
            or a table of the key's columns.
        unknown : {"raise", "null"}
            What becomes of oids that no vertex has.

        Returns
        -------
        int or None, or pyarrow.Array of uint32 or uint64

        Raises
        ------
        VertexNotFoundError
        """
        return self._vertices[self.schema.vertex(label).name].ids(oids, unknown)

    def oids(
        self, label: str | None, ids: Any, *, unknown: Literal["raise", "null"] = "raise"
    ) -> Any:
        """Oids of vertex ids: the inverse of `ids`.

        Returns
        -------
        One oid (a tuple if it has several columns); of many ids a pyarrow.ChunkedArray, or a
        pyarrow.Table of the key's columns if there are several.
        """
        return self._vertices[self.schema.vertex(label).name].oids(ids, unknown)

    # ---- edges

    def out_edges(self, v: int, triple: Triple | str | None = None) -> EdgeIterator:
        """Iterate over the edges out of a vertex, by destination: `Edge` objects."""
        return self._index(triple).edges_of(v, False)

    def in_edges(self, v: int, triple: Triple | str | None = None) -> EdgeIterator:
        """Iterate over the edges into a vertex, by source: `Edge` objects."""
        return self._index(triple).edges_of(v, True)

    def edges(self, triple: Triple | str | None = None) -> EdgeIterator:
        """Iterate over all edges of a triple, by source and destination: `Edge` objects."""
        return self._index(triple).edges()

    def neighbors(
        self, v: int, triple: Triple | str | None = None, *, direction: Direction = "out"
    ) -> Array:
        """The other ends of a vertex's edges, ascending: a read-only view.

        A neighbour is there once for each parallel edge.
        """
        return self._index(triple).neighbors(v, _incoming(direction))

    def degree(
        self, v: int, triple: Triple | str | None = None, *, direction: Direction = "out"
    ) -> int:
        """How many edges a vertex has in a direction; undirected, a self-loop counts once."""
        return self._index(triple).degree(v, _incoming(direction))

    def has_edge(self, u: int, v: int, triple: Triple | str | None = None) -> bool:
        """Whether there is an edge from ``u`` to ``v``: a binary search in the shorter row."""
        return self._index(triple).has_edge(u, v)

    def out_slice(self, v: int, triple: Triple | str | None = None) -> EdgeSlice:
        """The out-edges of a vertex as an `EdgeSlice` of NumPy and Arrow views."""
        return self._index(triple).slice_of(v, False)

    def in_slice(self, v: int, triple: Triple | str | None = None) -> EdgeSlice:
        """The in-edges of a vertex as an `EdgeSlice` of NumPy and Arrow views."""
        return self._index(triple).slice_of(v, True)

    def expand(
        self,
        frontier: Any,
        *,
        direction: Direction = "out",
        label: Triple | str | None = None,
        props: Sequence[str] = (),
        limit: int | None = None,
        sample: int | None = None,
        seed: int | None = None,
        batch_size: int | None = None,
        triple: Triple | str | None = None,
        threads: int = 0,
    ) -> pa.RecordBatch | pa.RecordBatchReader:
        """The edges of many vertices, in their order: columns ``src``, ``dst``, ``eid``, ``props``.

        Parameters
        ----------
        frontier : array_like of int
            Vertex ids: NumPy, Arrow or a list; repeats are expanded again.
        direction : {"out", "in"}
        label, triple : str or triple, optional
            Which edges; either will do.
        props : sequence of str
            Edge properties to add.
        limit : int, optional
            Stop after that many edges.
        sample : int, optional
            At most that many edges of each vertex, drawn without replacement.
        seed : int, optional
            Of the samples: equal seeds draw alike, on any number of threads.
        batch_size : int, optional
            Give a `pyarrow.RecordBatchReader` of batches of that many edges, made one by one
            as it is read.

        Returns
        -------
        pyarrow.RecordBatch or pyarrow.RecordBatchReader
            Copies, in Arrow's default pool.

        Raises
        ------
        VertexNotFoundError
            If a vertex is outside its label.
        """
        return expand(
            self._index(label if triple is None else triple).adjacency,
            frontier,
            incoming=_incoming(direction),
            props=props,
            limit=limit,
            sample=sample,
            seed=seed,
            batch_size=batch_size,
            threads=threads,
        )

    # ---- parts

    def fragments(self, k: int) -> list[VirtualFragment]:
        """Cut the graph into ``k`` ranges of vertices with about as many edges each.

        Nothing is copied: all of them share this graph. They are for processes of one host; see
        `partition` for fragments that may part. O(vertices).

        Raises
        ------
        InvalidGraphError
            If ``k`` is no number from 1 on.
        """
        from .fragments import virtual_fragments

        return virtual_fragments(self, k)

    # ---- the whole

    def neighbourhood_svg(
        self, v: int, hops: int = 1, *, limit: int = 40, triple: Triple | str | None = None
    ) -> str:
        """A drawing of what is around a vertex, as SVG; ``limit`` vertices at most."""
        from .drawing import neighbourhood_svg

        return neighbourhood_svg(self, v, hops, limit, triple)

    def __repr__(self) -> str:
        return f"<Graph: {self.num_vertices():,} vertices, {self.num_edges():,} edges>"

    def _repr_html_(self) -> str:
        from .drawing import schema_html

        return schema_html(self)


def _incoming(direction: str) -> bool:
    if direction == "out":
        return False
    if direction == "in":
        return True
    raise InvalidGraphError(f"direction {direction!r} is not one of 'out', 'in'")
