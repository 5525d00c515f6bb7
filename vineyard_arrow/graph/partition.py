"""Edge-cuts: a graph cut into fragments, each complete by itself.

Vertices are given to fragments; an edge goes to the fragments of both its ends. All vertices of a
label are numbered anew by owner, so that a fragment's inner vertices are a range, and the outer
ones of each fragment, marked in that numbering, come out grouped by owner. `global_graph` ties
the fragments together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from ..errors import InvalidGraphError, StoreFullError
from . import _kernels
from .adjacency import Adjacency
from .arrays import Array, allocate, combined, taken, values_of
from .balance import balanced_cuts, check_number
from .edge_cut import Fragment
from .edges import Edges, build_edges
from .fragments import vertex_weights
from .graph import Graph
from .vertex_map import MAX_FRAGMENTS, VertexMap, pack_gids
from .vertices import Vertices, id_dtype

if TYPE_CHECKING:
    from ..client import Client
    from .global_graph import GlobalGraph

__all__ = ["By", "Placement", "owners_of", "partition", "split"]

_GRAIN = 1 << 17  # fewer positions are not worth a thread

By = Literal["hash", "segment"] | Callable[[str, pa.Table], Any]
"""How vertices are given to fragments, see `partition`."""


def partition(
    graph: Graph, k: int, by: By = "hash", *, client: Client | None = None, threads: int = 0
) -> GlobalGraph:
    """Cut a graph into ``k`` fragments, in the memory that a put of them shares without a copy.

    Each holds its inner vertices with their properties, all edges that have an end among them
    with theirs, and the oids of the other ends. So an edge between two fragments is in both.

    Parameters
    ----------
    graph : Graph
    k : int
        Some fragments are empty if there are fewer vertices.
    by : {"hash", "segment"} or callable
        "hash": by the oid, so equal oids of a key of one type go to the same fragment in any
        graph. "segment": ranges of vertex ids with about as many edges each. A callable is
        called as ``by(label, table)`` for each label with its vertex table, and gives the fid of
        each row: integers from 0 to ``k - 1``.
    client : Client, optional
        In whose pool to build; the default client's, if not given.
    threads : int
        Two by default.

    Returns
    -------
    GlobalGraph
        Of fragments that are in no store yet. Put it, and they are put with it; or put each
        where it is to live.

    Raises
    ------
    InvalidGraphError
        If ``k`` or ``by`` is none of these, or the callable gives other fids.
    StoreFullError
        If the fragments do not fit; nothing of them is kept.
    """
    from .global_graph import GlobalGraph

    if client is None:
        from .. import default_client

        client = default_client()
    k = check_number(k, MAX_FRAGMENTS)
    places = {
        label.name: Placement.of_owners(owners_of(graph, label.name, k, by), k)
        for label in graph.schema.vertices
    }
    try:
        return GlobalGraph(split(graph, k, places, client.memory_pool, threads))
    except pa.ArrowMemoryError as error:  # the pool's words
        raise StoreFullError(str(error)) from None


def owners_of(graph: Graph, label: str, k: int, by: By) -> Array:
    """The fragment that is to own each vertex of a label, see `partition`."""
    count = graph.num_vertices(label)
    if by == "hash":
        owners: Array = (graph._vertices[label].hashes() % np.uint64(k)).astype(np.int64)
        return owners
    if by == "segment":
        cuts = balanced_cuts(vertex_weights(graph, label), k)
        return np.repeat(np.arange(k), np.diff(cuts))
    if not callable(by):
        raise InvalidGraphError(f"by={by!r} is not 'hash', 'segment' or a function")
    given = by(label, graph.vertices(label))
    if isinstance(given, pa.Array | pa.ChunkedArray):
        given = given.to_numpy(zero_copy_only=False) if given.null_count == 0 else None
    fids = np.asarray(given)
    if fids.shape != (count,) or (count and fids.dtype.kind not in "iu"):
        raise InvalidGraphError(
            f"by gave no integer for each of the {count} vertices of {label!r}",
            f"it returns an array of {count} fids, without nulls",
        )
    wrong = np.flatnonzero((fids < 0) | (fids >= k))
    if len(wrong):
        raise InvalidGraphError(
            f"by gave fid {fids[wrong[0]]} for vertex {wrong[0]} of {label!r}",
            f"fids are 0 to {k - 1}",
        )
    return fids.astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """Where the vertices of one label go.

    Attributes
    ----------
    order : numpy.ndarray
        Vertex ids, by owner and local id.
    starts : numpy.ndarray
        int64[k + 1]: where each fragment's begin in ``order``.
    """

    order: Array
    starts: Array

    @classmethod
    def of_owners(cls, owners: Array, k: int, order: Array | None = None) -> Placement:
        """By owners, int64; inner vertices are in the order of their ids, or in ``order``."""
        small = owners.astype(np.min_scalar_type(k))  # which NumPy sorts by digits
        if order is None:
            order = np.argsort(small, kind="stable")
        else:
            order = order[np.argsort(small[order], kind="stable")]
        starts = np.concatenate([[0], np.cumsum(np.bincount(owners, minlength=k))])
        return cls(order.astype(id_dtype(len(owners))), starts.astype(np.int64))

    def inner(self, fid: int) -> Array:
        """Ids of the inner vertices of a fragment, by local id."""
        return self.order[self.starts[fid] : self.starts[fid + 1]]

    def fids(self) -> Array:
        """The owner of each vertex, int32."""
        fids = np.empty(len(self.order), np.int32)
        fids[self.order] = np.repeat(
            np.arange(len(self.starts) - 1, dtype=np.int32), np.diff(self.starts)
        )
        return fids

    def places(self) -> Array:
        """The place of each vertex in ``order``."""
        places = np.empty_like(self.order)
        places[self.order] = np.arange(len(self.order), dtype=self.order.dtype)
        return places

    def gids(self, places: Array) -> Array:
        """Global ids of the vertices at places of ``order``."""
        fids = np.searchsorted(self.starts, places, side="right") - 1
        return pack_gids(fids, places - self.starts[fids])


def split(
    graph: Graph, k: int, placements: Mapping[str, Placement], pool: Any, threads: int = 0
) -> list[Fragment]:
    """The fragments of a graph whose vertices are placed."""
    cuts = [
        _Cut(graph.adjacency(e.triple), placements[e.src], placements[e.dst], k, threads)
        for e in graph.schema.edges
    ]
    outer = {label: _outer(label, placement, cuts) for label, placement in placements.items()}
    room = {label: np.empty(len(p.order), p.order.dtype) for label, p in placements.items()}
    fragments = []
    for fid in range(k):
        vertices, maps, tables = {}, {}, {}
        for label, placement in placements.items():
            begin, end = placement.starts[fid : fid + 2].tolist()
            beyond = outer[label][fid]
            inner, lids = placement.inner(fid), room[label]
            lids[begin:end] = np.arange(end - begin)
            lids[beyond] = np.arange(end - begin, end - begin + len(beyond))
            maps[label] = VertexMap(
                label,
                fid,
                k,
                _in_pool(inner, pool),
                _in_pool(placement.gids(beyond), pool),
                _in_pool(_mirrors(outer[label], fid, begin, end), pool),
            )
            whole = graph._vertices[label]
            rows = np.concatenate([inner, placement.order[beyond]])
            vertices[label] = _keys(whole, rows, pool, threads)
            tables[label] = _table(whole, inner, vertices[label], pool, threads)
        edges = {cut.triple: _edges(cut, fid, graph, vertices, room, pool, threads) for cut in cuts}
        fragments.append(Fragment(Graph(vertices, edges, graph.directed), fid, k, maps, tables))
    return fragments


class _Cut:
    """The edges of a triple by fragment: the places of their ends, and their ids.

    Attributes
    ----------
    starts : numpy.ndarray
        int64[k + 1]: where each fragment's begin.
    sources, targets, ids : numpy.ndarray
        Those of a fragment are in the order of ids.
    """

    def __init__(self, a: Adjacency, src: Placement, dst: Placement, k: int, threads: int) -> None:
        self.triple = a.triple
        indices, once = a.out_indices, not a.directed
        parts = (threads or _kernels.default_threads()) if len(indices) >= _GRAIN else 1
        counts = np.zeros((parts, k + 1), np.int64)
        fids = src.fids(), dst.fids()
        if len(indices):
            _kernels.count_cut(a.out_indptr, indices, *fids, once, counts)
        totals = counts[:, :k].sum(0)
        self.starts = np.concatenate([[0], np.cumsum(totals)])
        at = np.cumsum(counts, axis=0) - counts  # of what earlier parts have
        at[:, :k] += self.starts[:k]
        count = int(self.starts[k])
        self.sources = np.empty(count, indices.dtype)
        self.targets = np.empty(count, indices.dtype)
        self.ids = np.empty(count, id_dtype(a.num_edges))
        from_, to = (p.places().astype(indices.dtype, copy=False) for p in (src, dst))
        if count:
            ends = self.sources, self.targets
            _kernels.fill_cut(a.out_indptr, indices, *fids, once, at, from_, to, *ends, self.ids)

    def of(self, fid: int) -> slice:
        """Where the edges of a fragment are."""
        return slice(*self.starts[fid : fid + 2].tolist())


def _outer(label: str, placement: Placement, cuts: list[_Cut]) -> list[Array]:
    """Places of the outer vertices of each fragment, ascending."""
    out = []
    for fid in range(len(placement.starts) - 1):
        seen = np.zeros(len(placement.order), bool)
        for cut in cuts:
            if cut.triple[0] == label:
                seen[cut.sources[cut.of(fid)]] = True
            if cut.triple[2] == label:
                seen[cut.targets[cut.of(fid)]] = True
        seen[placement.starts[fid] : placement.starts[fid + 1]] = False
        out.append(np.flatnonzero(seen))
    return out


def _mirrors(outer: list[Array], fid: int, begin: int, end: int) -> Array:
    """Those of each fragment's outer vertices that lie in the range: fid and local id."""
    found = [np.empty(0, np.uint64)]
    for other, places in enumerate(outer):
        first, last = np.searchsorted(places, [begin, end])
        if other != fid:
            found.append(pack_gids(other, places[first:last] - begin))
    return np.concatenate(found)


def _in_pool(values: Array, pool: Any) -> pa.Array:
    array, view = allocate(values.dtype, len(values), pool)
    view[:] = values
    return array


def _keys(whole: Vertices, rows: Array, pool: Any, threads: int) -> Vertices:
    """Some vertices, with nothing but their oids."""
    columns = [_moved(whole.table.column(name), rows, pool, threads) for name in whole.key]
    schema = pa.schema([whole.table.schema.field(name) for name in whole.key])
    return Vertices.build(
        whole.label, pa.Table.from_arrays(columns, schema=schema), whole.key, pool
    )


def _table(whole: Vertices, rows: Array, keys: Vertices, pool: Any, threads: int) -> pa.Table:
    """All properties of the inner vertices; oids are those of ``keys``."""
    columns = [
        keys.table.column(name).slice(0, len(rows))
        if name in whole.key
        else _moved(whole.table.column(name), rows, pool, threads)
        for name in whole.table.column_names
    ]
    return pa.Table.from_arrays(columns, schema=whole.table.schema)


def _edges(
    cut: _Cut,
    fid: int,
    graph: Graph,
    vertices: Mapping[str, Vertices],
    lids: Mapping[str, Array],
    pool: Any,
    threads: int,
) -> Edges:
    """The edges of one triple in one fragment."""
    src, _, dst = triple = cut.triple
    whole = graph._edges[triple]
    own = cut.of(fid)
    counts = vertices[src].count, vertices[dst].count
    dtype = id_dtype(max(counts))
    needs_rows = bool(whole.columns) or "orig_row" in whole.arrays
    made = build_edges(
        triple,
        _at(lids[src], cut.sources[own], threads).astype(dtype, copy=False),
        _at(lids[dst], cut.targets[own], threads).astype(dtype, copy=False),
        counts,
        {},
        directed=graph.directed,
        keep_rows=needs_rows,
        pool=pool,
        threads=threads,
        report=lambda what: None,
    )
    arrays, columns = dict(made.arrays), {}
    if needs_rows:
        order = _at(cut.ids[own], values_of(arrays.pop("orig_row")), threads)
        for name, column in whole.columns.items():
            columns[name] = _moved(column, order, pool, threads)
        if "orig_row" in whole.arrays:
            arrays["orig_row"] = _moved(whole.arrays["orig_row"], order, pool, threads)
    return Edges(triple, made.count, graph.directed, arrays, columns)


def _at(values: Array, places: Array, threads: int) -> Array:
    """``values[places]``; NumPy would copy the places to 64 bits first."""
    out = np.empty(len(places), values.dtype)
    if len(places):
        _kernels.gather(values.ctypes.data, values.itemsize, places, out.ctypes.data, threads)
    return out


def _moved(column: pa.Array | pa.ChunkedArray, rows: Array, pool: Any, threads: int) -> pa.Array:
    if isinstance(column, pa.ChunkedArray):
        column = combined(column, pa.default_memory_pool())
    return taken(column, rows, pool, threads)
