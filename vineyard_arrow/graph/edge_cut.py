"""A fragment of an edge-cut: some vertices of a graph, with all edges that have an end there.

A fragment is complete by itself. It holds a `Graph` over local ids (see `vertex_map`), so all that
works on graphs works on it; the rows of inner vertices are complete, those of outer ones hold the
edges to inner vertices only. `partition` makes fragments, this module knows what they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from ..errors import InvalidGraphError
from .adjacency import Adjacency
from .arrays import Array
from .graph import Graph, Origin
from .schema import Triple
from .vertex_map import MAX_FRAGMENTS, VertexMap, check_vertex_map, unpack_gids

__all__ = ["Figures", "Fragment"]


@dataclass(frozen=True, slots=True)
class Figures:
    """What is known of a fragment without opening it, over all labels and triples.

    Attributes
    ----------
    inner, outer : int
        Vertices.
    edges : int
        Edges that count as this fragment's: over all fragments, each edge once.
    cut : int
        Edges with one end elsewhere, which both fragments hold.
    """

    inner: int
    outer: int
    edges: int
    cut: int


class Fragment:
    """Fragment ``fid`` of ``fnum``. Made by `partition`, or got from a store.

    Local ids of a label are 0 to n - 1: inner vertices first, then outer ones, grouped by owner.
    Edge ids are those of `graph`; an edge with one end elsewhere is in both fragments, under an
    id and with the properties in each.

    Parameters
    ----------
    graph : Graph
        Over local ids. Its vertex tables have only the columns of the oids, for inner and outer
        vertices.
    fid, fnum : int
    maps : dict of str to VertexMap
    tables : dict of str to pyarrow.Table
        All properties of the inner vertices.
    origin : Origin, optional
        Where it was got from.
    """

    def __init__(
        self,
        graph: Graph,
        fid: int,
        fnum: int,
        maps: Mapping[str, VertexMap],
        tables: Mapping[str, pa.Table],
        origin: Origin | None = None,
    ) -> None:
        self.graph, self.fid, self.fnum, self.origin = graph, fid, fnum, origin
        self._maps, self._tables = dict(maps), dict(tables)

    # ---- vertices

    def vertex_map(self, label: str | None = None) -> VertexMap:
        """Ids of a label: local, global, and in the graph that was partitioned."""
        return self._maps[self.graph.schema.vertex(label).name]

    def inner(self, label: str | None = None) -> range:
        """Local ids of the inner vertices: those that this fragment owns."""
        return range(self.num_inner(label))

    def outer(self, label: str | None = None, owner: int | None = None) -> range:
        """Local ids of the outer vertices, of all owners or of one."""
        m = self.vertex_map(label)
        if owner is None:
            return range(m.num_inner, m.num_inner + m.num_outer)
        return m.outer_of(owner)

    def num_inner(self, label: str | None = None) -> int:
        """Inner vertices of a label."""
        return self.vertex_map(label).num_inner

    def num_outer(self, label: str | None = None) -> int:
        """Outer vertices of a label."""
        return self.vertex_map(label).num_outer

    def vertices(self, label: str | None = None) -> pa.Table:
        """The properties of the inner vertices; the row is the local id. Nothing is copied."""
        return self._tables[self.graph.schema.vertex(label).name]

    def gids(self, label: str | None, lids: Any) -> Array:
        """Global ids, uint64, of local ids; VertexNotFoundError if one is outside."""
        return self.vertex_map(label).gids(lids)

    def lids(self, label: str | None, gids: Any) -> Array:
        """Local ids, int64, of global ids; -1 for vertices that are not here."""
        return self.vertex_map(label).lids(gids)

    def owner(self, label: str | None, lids: Any) -> Array:
        """The fid of the fragment that owns each vertex, int64."""
        return unpack_gids(self.gids(label, lids))[0]

    def ids(
        self, label: str | None, oids: Any, *, unknown: Literal["raise", "null"] = "raise"
    ) -> Any:
        """Local ids of oids, of inner and outer vertices; see `Graph.ids`."""
        return self.graph.ids(label, oids, unknown=unknown)

    def oids(
        self, label: str | None, lids: Any, *, unknown: Literal["raise", "null"] = "raise"
    ) -> Any:
        """Oids of local ids, of inner and outer vertices; see `Graph.oids`."""
        return self.graph.oids(label, lids, unknown=unknown)

    # ---- edges

    def adjacency(self, triple: Triple | str | None = None) -> Adjacency:
        """All edges of a triple as read-only arrays of local ids; nothing is copied."""
        return self.graph.adjacency(triple)

    def edge_columns(self, triple: Triple | str | None = None) -> pa.Table:
        """Properties of inner and cut edges, a row for each edge id; nothing is copied."""
        return self.graph.edge_columns(triple)

    def inner_edges(self, triple: Triple | str | None = None) -> Array:
        """Ids, int64 and ascending, of the edges with both ends among the inner vertices."""
        src, dst = self._ends(triple)
        return np.flatnonzero((src < 0) & (dst < 0))

    def cut_edges(
        self, triple: Triple | str | None = None, *, direction: Literal["out", "in"] = "out"
    ) -> Array:
        """Ids, int64 and ascending, of the edges that lead to outer vertices, or come from them.

        Undirected, these are the same.
        """
        if direction not in ("out", "in"):
            raise InvalidGraphError(f"direction {direction!r} is not one of 'out', 'in'")
        src, dst = self._ends(triple)
        if not self.graph.directed:
            return np.flatnonzero((src >= 0) | (dst >= 0))
        return np.flatnonzero((dst if direction == "out" else src) >= 0)

    def owned_edges(self, triple: Triple | str | None = None) -> Array:
        """Ids, int64 and ascending, of the edges that count as this fragment's.

        Those with an inner source; undirected, those whose ends no lower fragment owns. So each
        edge of the whole graph is owned once, and parallel ones together.
        """
        src, dst = self._ends(triple)
        if self.graph.directed:
            return np.flatnonzero(src < 0)
        m = self.vertex_map(self.graph.schema.edge(triple).src)
        higher = m.outer_of(self.fid).start - m.num_inner
        return np.flatnonzero(((src < 0) | (src >= higher)) & ((dst < 0) | (dst >= higher)))

    def edge_ends(self, triple: Triple | str | None = None) -> tuple[Array, Array]:
        """Local ids of source and destination of each edge, by its id. Both are copies.

        Undirected, the source is the end with the lower local id.
        """
        a = self.graph.adjacency(triple)
        rows = np.repeat(np.arange(a.num_src, dtype=a.out_indices.dtype), np.diff(a.out_indptr))
        if a.directed:
            return rows, a.out_indices.copy()
        once = rows <= a.out_indices  # in the order of edge ids
        return rows[once], a.out_indices[once]

    def _ends(self, triple: Triple | str | None) -> tuple[Array, Array]:
        """Places of both ends of each edge among the outer vertices, int64; negative if inner."""
        src, dst = self.edge_ends(triple)
        each = self.graph.schema.edge(triple)
        return (
            src.astype(np.int64) - self.num_inner(each.src),
            dst.astype(np.int64) - self.num_inner(each.dst),
        )

    # ---- the whole

    def figures(self) -> Figures:
        """Counts over all labels and triples. O(edges)."""
        edges, cut = 0, 0
        for each in self.graph.schema.edges:
            a, src, dst = (
                self.graph.adjacency(each.triple),
                self._maps[each.src],
                self._maps[each.dst],
            )
            own = int(a.out_indptr[src.num_inner])  # positions of edges out of inner vertices
            outer = a.out_indices[:own] >= dst.num_inner
            out = int(np.count_nonzero(outer))
            if a.directed:
                edges += own
                cut += out + a.num_edges - own
            else:
                lower = np.count_nonzero(a.out_indices[:own] < src.outer_of(self.fid).start)
                edges += a.num_edges - (int(lower) - (own - out))
                cut += out
        maps = self._maps.values()
        return Figures(sum(m.num_inner for m in maps), sum(m.num_outer for m in maps), edges, cut)

    def members(self) -> dict[str, Any]:
        """All that it consists of, by name: what a store keeps as objects of their own."""
        out: dict[str, Any] = {"graph": self.graph}
        for label, m in self._maps.items():
            out[f"{label}/vertices"] = self._tables[label]
            out |= {f"{label}/{name}": getattr(m, name) for name in ("ids", "outer", "mirrors")}
        return out

    def with_maps(self, maps: Mapping[str, VertexMap], fnum: int) -> Fragment:
        """The same vertices and edges, where other fragments have become others."""
        return Fragment(self.graph, self.fid, fnum, maps, self._tables)

    def validate(self, threads: int = 0) -> None:
        """Check all arrays, for fragments whose writer is not trusted; it reads all of them.

        Raises
        ------
        InvalidGraphError
            As `Graph.validate`, and if ids make no sense or an edge has no inner end.
        """
        self.graph.validate(threads)
        self.check_ids()

    def check_ids(self) -> None:
        """Check what the graph, which is sound, does not say of itself: see `validate`."""
        if not 0 <= self.fid < self.fnum <= MAX_FRAGMENTS:
            raise InvalidGraphError(f"fragment {self.fid} of {self.fnum}")
        if {each.name for each in self.graph.schema.vertices} != self._maps.keys():
            raise InvalidGraphError(f"fragment {self.fid}: ids of other labels than the graph's")
        for label, m in self._maps.items():
            check_vertex_map(m)
            if m.num_inner + m.num_outer != self.graph.num_vertices(label):
                raise InvalidGraphError(
                    f"fragment {self.fid}: {m.num_inner} inner and {m.num_outer} outer vertices of"
                    f" {label!r}, but the graph has {self.graph.num_vertices(label)}"
                )
            if self._tables[label].num_rows != m.num_inner:
                raise InvalidGraphError(
                    f"fragment {self.fid}: {self._tables[label].num_rows} rows of properties for"
                    f" {m.num_inner} inner vertices of {label!r}"
                )
        for each in self.graph.schema.edges:
            src, dst = self._ends(each.triple)
            if ((src >= 0) & (dst >= 0)).any():
                raise InvalidGraphError(
                    f"fragment {self.fid}, {'-'.join(each.triple)}: an edge has no inner end"
                )

    def __reduce__(self) -> tuple[Any, ...]:
        return Fragment, (self.graph, self.fid, self.fnum, self._maps, self._tables)

    def __repr__(self) -> str:
        inner, outer = (
            sum(getattr(m, name) for m in self._maps.values())
            for name in ("num_inner", "num_outer")
        )
        return (
            f"<Fragment {self.fid} of {self.fnum}: {inner:,} inner and {outer:,} outer vertices,"
            f" {self.graph.num_edges():,} edges>"
        )
