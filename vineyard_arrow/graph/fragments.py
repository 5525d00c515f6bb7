"""Virtual fragments: ranges of vertices of one graph, for the processes of one host.

There is one index that all share, so nothing is copied, there are no outer vertices, and local
ids are the graph's own. What is cut for several hosts is in `partition`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InvalidGraphError
from .arrays import Array
from .balance import balanced_cuts, check_number
from .schema import Triple
from .vertex_map import MAX_FRAGMENTS

if TYPE_CHECKING:
    import pyarrow as pa

    from .graph import Direction, Graph

__all__ = ["VirtualFragment", "vertex_weights", "virtual_fragments"]


@dataclass(frozen=True, slots=True, eq=False)
class VirtualFragment:
    """One of ``fnum`` parts of a graph: a range of vertices of each label, and their edges.

    Pickled, it is a few hundred bytes: the graph's object id and the ranges. So the graph has to
    come from a store; the process that loads the pickle gets it from there.

    Attributes
    ----------
    graph : Graph
        The whole graph, whose ids and arrays this fragment uses.
    fid, fnum : int
        The number of this fragment, and of how many.
    ranges : dict of str to range
        Its inner vertices, by label.
    """

    graph: Graph
    fid: int
    fnum: int
    ranges: dict[str, range]

    def inner(self, label: str | None = None) -> range:
        """Ids of the inner vertices of a label."""
        return self.ranges[self.graph.schema.vertex(label).name]

    def num_inner(self, label: str | None = None) -> int:
        """Inner vertices of a label."""
        return len(self.inner(label))

    def vertices(self, label: str | None = None) -> pa.Table:
        """The rows of the inner vertices; nothing is copied."""
        own = self.inner(label)
        return self.graph.vertices(label).slice(own.start, len(own))

    def rows(
        self, triple: Triple | str | None = None, *, direction: Direction = "out"
    ) -> tuple[Array, Array]:
        """The edges of the inner vertices: ``indptr`` and ``indices``, views of the graph's.

        The neighbours of the i-th inner vertex are ``indices[indptr[i]:indptr[i + 1]]``, and
        `positions` is where ``indices[indptr[0]:indptr[-1]]`` lies among the graph's positions.
        """
        a = self.graph.adjacency(triple)
        out = direction == "out"
        own = self.ranges[a.triple[0 if out else 2]]
        indptr = a.out_indptr if out else a.in_indptr
        return indptr[own.start : own.stop + 1], a.out_indices if out else a.in_indices

    def positions(
        self, triple: Triple | str | None = None, *, direction: Direction = "out"
    ) -> range:
        """Positions of the edges of inner vertices; directed, out-positions are edge ids."""
        indptr, _ = self.rows(triple, direction=direction)
        return range(int(indptr[0]), int(indptr[-1]))

    def __reduce__(self) -> tuple[Any, ...]:
        origin = self.graph.origin
        if origin is None:
            raise InvalidGraphError(
                "this graph was not got from a store, so its fragments cannot be sent",
                "put the graph, get it, and send fragments of that; or send the graph itself",
            )
        return _fetched, (*origin, self.fid, self.fnum, self.ranges)

    def __repr__(self) -> str:
        count = sum(map(len, self.ranges.values()))
        return f"<VirtualFragment {self.fid} of {self.fnum}: {count:,} vertices of {self.graph!r}>"


def virtual_fragments(graph: Graph, k: int) -> list[VirtualFragment]:
    """See `Graph.fragments`."""
    k = check_number(k, MAX_FRAGMENTS)
    cuts = {
        label.name: balanced_cuts(vertex_weights(graph, label.name), k).tolist()
        for label in graph.schema.vertices
    }
    return [
        VirtualFragment(
            graph, fid, k, {label: range(*cut[fid : fid + 2]) for label, cut in cuts.items()}
        )
        for fid in range(k)
    ]


def vertex_weights(graph: Graph, label: str) -> Array:
    """What each vertex weighs: its edges in all triples, both ways, and one for itself; int64."""
    weights: Array = np.ones(graph.num_vertices(label), np.int64)
    for each in graph.schema.edges:
        a = graph.adjacency(each.triple)
        if each.src == label:
            weights += np.diff(a.out_indptr)
        if each.dst == label and a.directed:
            weights += np.diff(a.in_indptr)
    return weights


def _fetched(
    socket: str, object_id: int, fid: int, fnum: int, ranges: dict[str, range]
) -> VirtualFragment:
    """What a pickle stands for, in any process on this host."""
    from ..client import connect

    with connect(socket, autostart=False) as client:  # what is got outlives the client
        return VirtualFragment(client.get(object_id), fid, fnum, ranges)
