"""A graph in fragments: which they are and where, whole again, and cut anew to balance.

It has no data of theirs. A fragment of a store is known by its object id and opened when asked
for, so fragments may lie on any instances. `Client.create_global` records it in the cluster.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from ..errors import InvalidGraphError, StoreFullError, VertexNotFoundError
from ..objects import ObjectID
from ..partitions import GlobalObject, Open
from .arrays import Array, allocate, combined, taken, values_of
from .balance import check_number, moved_owners
from .edge_cut import Figures, Fragment
from .edges import Edges, build_edges
from .fragments import vertex_weights
from .graph import Graph, Origin
from .partition import Placement, split
from .schema import GraphSchema, Triple
from .vertex_map import MAX_FRAGMENTS, pack_gids, unpack_gids
from .vertices import Vertices, id_dtype

if TYPE_CHECKING:
    from ..client import Client

__all__ = ["GlobalGraph", "check_fragments", "kinds_of"]


class GlobalGraph(GlobalObject[Fragment]):
    """A graph in fragments, by fid: a sequence that opens them when asked for.

    Made by `partition`, got from a store, or of fragments that were put one by one, each got
    from wherever it lives. One that was got opens fragments as long as its client is open; those
    that are open stay as they are.

    Parameters
    ----------
    fragments : sequence of Fragment
        All of one partition, by fid.

    Attributes
    ----------
    figures : list of Figures
        By fid.
    object_ids : list of ObjectID or None
        By fid; None for what is in no store yet.
    origin : Origin or None
        The object it was got from.

    Raises
    ------
    InvalidGraphError
        If they are not all of one partition.
    """

    _word, _whole = "fragment", "graph"
    origin: Origin | None = None

    def __init__(self, fragments: Sequence[Fragment]) -> None:
        check_fragments([(fragment.fid, fragment.fnum) for fragment in fragments])
        for fid, fragment in enumerate(fragments):
            if kinds_of(fragment.graph.schema) != kinds_of(fragments[0].graph.schema):
                raise InvalidGraphError(
                    f"fragment {fid} has other labels than fragment 0",
                    "give the fragments of one partition",
                )
        self.figures = [fragment.figures() for fragment in fragments]
        origins = (fragment.origin for fragment in fragments)
        ids = [origin and ObjectID(origin.id) for origin in origins]
        self._begin(ids, dict(enumerate(fragments)), None)

    @classmethod
    def stored(
        cls, object_ids: Sequence[ObjectID], figures: Sequence[Figures], open_: Open
    ) -> GlobalGraph:
        """Of fragments that are got by ``open_`` when they are asked for."""
        self = cls.__new__(cls)
        self.figures = list(figures)
        self._begin(object_ids, {}, open_)
        return self

    # ---- fragments

    @property
    def fnum(self) -> int:
        """How many fragments there are."""
        return len(self.figures)

    def fragment(self, fid: int, *, fetch: bool = False) -> Fragment:
        """Fragment ``fid``: got from its store the first time.

        Parameters
        ----------
        fid : int
        fetch : bool
            Copy it to the client's store if it lives on another instance, see `Client.get`.

        Raises
        ------
        VertexNotFoundError
            If there is none of that number (an IndexError).
        ObjectNotFoundError
            If it was deleted.
        InvalidGraphError
            If another object is in its place.
        """
        found: Fragment = self._one(fid, fetch)
        return found

    def _one(self, index: int, fetch: bool = False) -> Any:
        if not 0 <= index < self.fnum:
            raise VertexNotFoundError(f"no fragment {index}: there are {self.fnum}")
        return super()._one(index, fetch)

    def _check(self, index: int, found: Any) -> None:
        if not isinstance(found, Fragment) or (found.fid, found.fnum) != (index, self.fnum):
            raise InvalidGraphError(f"{self.object_ids[index]} is {found!r}, not fragment {index}")

    def num_vertices(self) -> int:
        """Vertices of the whole graph, of all labels. No fragment is opened."""
        return sum(each.inner for each in self.figures)

    def num_edges(self) -> int:
        """Edges of the whole graph, of all triples, each counted once. No fragment is opened."""
        return sum(each.edges for each in self.figures)

    # ---- ids

    def gids(self, label: str | None, oids: Any) -> pa.Array:
        """Global ids of many oids, uint64, null where no vertex has it. Asks every fragment."""
        gids: Array = np.empty(0, np.uint64)
        known: Array = np.empty(0, bool)
        for fragment in self:
            lids = fragment.ids(label, oids, unknown="null")
            found = lids.fill_null(0).to_numpy().astype(np.int64)
            own = lids.is_valid().to_numpy(zero_copy_only=False)
            own &= found < fragment.num_inner(label)
            if fragment.fid == 0:
                gids, known = np.zeros(len(found), np.uint64), np.zeros(len(found), bool)
            gids[own] = pack_gids(fragment.fid, found[own])
            known |= own
        return pa.array(gids, mask=~known)

    def oids(self, label: str | None, gids: Any) -> pa.ChunkedArray | pa.Table:
        """Oids of many global ids. Asks the fragments that own them.

        Raises
        ------
        VertexNotFoundError
            If there is no such vertex.
        """
        fids, places = unpack_gids(gids)
        order = np.argsort(fids, kind="stable")
        parts = []
        for fid in np.unique(fids).tolist():
            fragment, own = self.fragment(fid), places[fids == fid]
            if (own >= fragment.num_inner(label)).any():
                raise VertexNotFoundError(
                    f"no vertex {own.max()} in fragment {fid}, which has"
                    f" {fragment.num_inner(label)} of {label!r}"
                )
            parts.append(fragment.oids(label, own))
        if not parts:
            return self.fragment(0).oids(label, [])
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        if isinstance(parts[0], pa.Table):
            return pa.concat_tables(parts).take(back)
        chunks = [c for p in parts for c in (p.chunks if isinstance(p, pa.ChunkedArray) else [p])]
        return pa.chunked_array(chunks).take(pa.array(back))

    # ---- the whole

    def to_graph(self, *, client: Client | None = None, threads: int = 0) -> Graph:
        """The graph that was partitioned: the same vertex ids, rows and edge ids.

        Copies everything, to the pool of ``client`` or the default client's.
        """
        if client is None:
            from .. import default_client

            client = default_client()
        try:
            return _joined(list(self), client.memory_pool, threads)
        except pa.ArrowMemoryError as error:  # the pool's words
            raise StoreFullError(str(error)) from None

    def repartition(
        self,
        k: int | None = None,
        *,
        balance: Literal["edges", "vertices"] = "edges",
        client: Client | None = None,
        threads: int = 0,
    ) -> GlobalGraph:
        """The same graph in ``k`` fragments of about the same size, moving as few as need be.

        Of each label, fragments that have more than their share give vertices to those that have
        less; all others stay where they are, under their local ids. A fragment that neither
        gives nor takes, nor has an outer vertex that moved, keeps its arrays, so that a put of
        the result shares them. The others are made anew in the client's pool. It takes the
        memory of the whole graph while it works.

        Parameters
        ----------
        k : int, optional
            As many as there are by default. Fragments past ``k`` give everything.
        balance : {"edges", "vertices"}
            What is to be even: edges (of both directions) and vertices together, or vertices.
        client : Client, optional
            In whose pool to build; the default client's, if not given.

        Returns
        -------
        GlobalGraph
            As `partition` gives it. This one stays as it is.
        """
        k = check_number(self.fnum if k is None else k, MAX_FRAGMENTS)
        if balance not in ("edges", "vertices"):
            raise InvalidGraphError(f"balance={balance!r} is not one of 'edges', 'vertices'")
        if client is None:
            from .. import default_client

            client = default_client()
        old = list(self)
        try:
            whole = _joined(old, pa.default_memory_pool(), threads)
            placements = {
                label.name: _moved_placement(whole, old, label.name, k, balance)
                for label in whole.schema.vertices
            }
            made = split(whole, k, placements, client.memory_pool, threads)
        except pa.ArrowMemoryError as error:
            raise StoreFullError(str(error)) from None
        return GlobalGraph([_kept(new, old) for new in made])

    def __repr__(self) -> str:
        return (
            f"<GlobalGraph: {self.fnum} fragments, {self.num_vertices():,} vertices,"
            f" {self.num_edges():,} edges>"
        )


def kinds_of(schema: GraphSchema) -> list[Any]:
    """What all fragments of a partition have in common, as plain JSON."""
    vertices = [[each.name, _plain(each.primary_key)] for each in schema.vertices]
    return [vertices, [list(each.triple) for each in schema.edges], schema.directed]


def _plain(key: Any) -> Any:
    return list(key) if isinstance(key, tuple) else key


def check_fragments(numbers: Sequence[Sequence[int]]) -> None:
    """Raise unless these are the (fid, fnum) of all fragments of a partition, in order."""
    for place, (fid, fnum) in enumerate(numbers):
        if (fid, fnum) != (place, len(numbers)):
            raise InvalidGraphError(
                f"fragment {fid} of {fnum} is number {place} of {len(numbers)} here",
                "give all fragments of one partition, in the order of their fids",
            )
    if not numbers:
        raise InvalidGraphError("a graph in no fragments")


# ---- joining


def _joined(fragments: Sequence[Fragment], pool: Any, threads: int) -> Graph:
    schema = fragments[0].graph.schema
    vertices = {
        label.name: _joined_vertices(fragments, label.name, pool, threads)
        for label in schema.vertices
    }
    edges = {
        each.triple: _joined_edges(fragments, each.triple, vertices, pool, threads)
        for each in schema.edges
    }
    return Graph(vertices, edges, schema.directed)


def _whole_ids(fragments: Sequence[Fragment], label: str) -> list[Array]:
    """Ids in the whole graph of each fragment's inner vertices: checked, each there once."""
    ids = [values_of(fragment.vertex_map(label).ids) for fragment in fragments]
    every = np.concatenate(ids)
    if not np.array_equal(np.sort(every), np.arange(len(every))):
        raise InvalidGraphError(
            f"the fragments do not own each vertex of {label!r} once",
            "they are not all of one partition",
        )
    return ids


def _joined_vertices(
    fragments: Sequence[Fragment], label: str, pool: Any, threads: int
) -> Vertices:
    ids = np.concatenate(_whole_ids(fragments, label))
    rows = np.argsort(ids, kind="stable").astype(id_dtype(len(ids)))
    table = pa.concat_tables([fragment.vertices(label) for fragment in fragments])
    columns = [
        taken(combined(column, pa.default_memory_pool()), rows, pool, threads)
        for column in table.columns
    ]
    key = fragments[0].graph.schema.vertex(label).primary_key
    return Vertices.build(label, pa.Table.from_arrays(columns, schema=table.schema), key, pool)


def _joined_edges(
    fragments: Sequence[Fragment],
    triple: Triple,
    vertices: dict[str, Vertices],
    pool: Any,
    threads: int,
) -> Edges:
    src, _, dst = triple
    counts = vertices[src].count, vertices[dst].count
    dtype = id_dtype(max(counts))
    known = {label: _whole_ids(fragments, label) for label in {src, dst}}
    sources: list[Array] = []
    targets: list[Array] = []
    columns, rows = [], []
    for fragment in fragments:
        owned = fragment.owned_edges(triple)
        ends = fragment.edge_ends(triple)
        for label, lids, out in zip((src, dst), ends, (sources, targets), strict=True):
            out.append(_ids_by_lid(fragment, label, known[label])[lids[owned]].astype(dtype))
        own = fragment.graph._edges[triple]
        picked = owned.astype(id_dtype(own.count))
        columns.append({name: _picked(c, picked, threads) for name, c in own.columns.items()})
        if "orig_row" in own.arrays:
            rows.append(values_of(own.arrays["orig_row"])[owned])
    made = build_edges(
        triple,
        np.concatenate(sources),
        np.concatenate(targets),
        counts,
        {name: pa.chunked_array([each[name] for each in columns]) for name in columns[0]},
        directed=fragments[0].graph.directed,
        keep_rows=bool(rows),
        pool=pool,
        threads=threads,
    )
    if rows:  # of the table that the graph was built from, not of these
        array, view = allocate(rows[0].dtype, made.count, pool)
        np.take(np.concatenate(rows), values_of(made.arrays["orig_row"]), out=view)
        made.arrays["orig_row"] = array
    return made


def _picked(column: pa.Array | pa.ChunkedArray, rows: Array, threads: int) -> pa.Array:
    pool = pa.default_memory_pool()
    if isinstance(column, pa.ChunkedArray):
        column = combined(column, pool)
    return taken(column, rows, pool, threads)


def _ids_by_lid(fragment: Fragment, label: str, ids: Sequence[Array]) -> Array:
    """Ids in the whole graph by local id, where ``ids`` has those of each fragment."""
    starts = np.cumsum([0, *map(len, ids)])
    fids, places = unpack_gids(fragment.vertex_map(label).outer)
    if (places >= np.diff(starts)[fids]).any():
        raise InvalidGraphError(
            f"fragment {fragment.fid} has outer vertices of {label!r} that their owner has not",
            "the fragments are not all of one partition",
        )
    return np.concatenate([ids[fragment.fid], np.concatenate(ids)[starts[fids] + places]])


# ---- balancing


def _moved_placement(
    whole: Graph, fragments: Sequence[Fragment], label: str, k: int, balance: str
) -> Placement:
    ids = _whole_ids(fragments, label)
    order = np.concatenate(ids)
    now = np.repeat(np.arange(len(ids)), list(map(len, ids)))  # in that order
    weights = np.ones(len(order), np.int64)
    if balance == "edges":
        weights = vertex_weights(whole, label)[order]
    then = moved_owners(now, weights, k)
    owners = np.empty(len(order), np.int64)
    owners[order] = then
    # Those that stay come before those that arrive, so they keep their local ids.
    stays = then == now
    return Placement.of_owners(owners, k, np.concatenate([order[stays], order[~stays]]))


def _kept(new: Fragment, old: Sequence[Fragment]) -> Fragment:
    """The old fragment of that number if the new one is the same."""
    if new.fid >= len(old):
        return new
    before = old[new.fid]
    labels = [each.name for each in new.graph.schema.vertices]
    maps = {label: new.vertex_map(label) for label in labels}
    for label, m in maps.items():
        was = before.vertex_map(label)
        if not m.ids.equals(was.ids) or not m.outer.equals(was.outer):
            return new
    if new.fnum == before.fnum and all(
        m.mirrors.equals(before.vertex_map(label).mirrors) for label, m in maps.items()
    ):
        return before
    return before.with_maps(maps, new.fnum)
