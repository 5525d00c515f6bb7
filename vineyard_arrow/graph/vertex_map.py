"""Ids of vertices in a graph that is cut into fragments: global ones, and those of one fragment.

A *global id* (gid) is a uint64: the owner's fid in the high 24 bits, the vertex's place among the
owner's inner vertices of its label in the low 40. A *local id* (lid) is the row of a vertex in one
fragment: inner vertices first, then outer ones, by ascending gid, which groups them by owner.
This module knows no edges and no store.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ..errors import InvalidGraphError, VertexNotFoundError
from .arrays import Array, as_ids, values_of

__all__ = ["MAX_FRAGMENTS", "VertexMap", "check_vertex_map", "pack_gids", "unpack_gids"]

LOCAL_BITS = 40
MAX_FRAGMENTS = 1 << 23  # gids stay positive as int64
_LOCAL_MASK = np.uint64((1 << LOCAL_BITS) - 1)


def pack_gids(fids: Any, places: Any) -> Array:
    """Global ids of the vertices at ``places`` among the inner ones of fragments ``fids``.

    Examples
    --------
    >>> pack_gids(1, [0, 5]).tolist()
    [1099511627776, 1099511627781]
    """
    high = np.asarray(fids).astype(np.uint64) << np.uint64(LOCAL_BITS)
    gids: Array = high | np.asarray(places).astype(np.uint64)
    return gids


def unpack_gids(gids: Any) -> tuple[Array, Array]:
    """The owner's fid of each global id, and the place among its inner vertices: both int64."""
    gids = as_ids(gids).astype(np.uint64)
    return (gids >> np.uint64(LOCAL_BITS)).astype(np.int64), (gids & _LOCAL_MASK).astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class VertexMap:
    """Vertices of one label in one fragment.

    Attributes
    ----------
    label : str
    fid, fnum : int
        The fragment, and of how many.
    ids : pyarrow.Array
        uint32 or uint64: the id of each inner vertex in the graph that was partitioned.
    outer : pyarrow.UInt64Array
        The gid of each outer vertex, ascending.
    mirrors : pyarrow.UInt64Array
        Which inner vertices are outer ones elsewhere: the fid of that fragment in the high 24
        bits, the local id here in the low 40, ascending. So those for fragment p are in the order
        that p has them in among its outer vertices.
    """

    label: str
    fid: int
    fnum: int
    ids: pa.Array
    outer: pa.Array
    mirrors: pa.Array

    @property
    def num_inner(self) -> int:
        """Vertices that this fragment owns; their local ids come first."""
        return len(self.ids)

    @property
    def num_outer(self) -> int:
        """Vertices of other fragments that edges of this one lead to or come from."""
        return len(self.outer)

    def outer_of(self, fid: int) -> range:
        """Local ids of the outer vertices that fragment ``fid`` owns."""
        begin, end = self._group(self.outer, fid)
        return range(self.num_inner + begin, self.num_inner + end)

    def mirrors_for(self, fid: int) -> Array:
        """Local ids, int64, of the inner vertices that are outer ones of fragment ``fid``.

        In the order that `outer_of` has them there.
        """
        begin, end = self._group(self.mirrors, fid)
        return (values_of(self.mirrors)[begin:end] & _LOCAL_MASK).astype(np.int64)

    def gids(self, lids: Any) -> Array:
        """Global ids, uint64, of local ids.

        Raises
        ------
        VertexNotFoundError
            If one is outside the fragment.
        """
        lids = as_ids(lids)
        outside = (lids < 0) | (lids >= self.num_inner + self.num_outer)
        if outside.any():
            raise VertexNotFoundError(
                f"no local id {lids[outside][0]} in fragment {self.fid}, which has"
                f" {self.num_inner} inner and {self.num_outer} outer vertices of {self.label!r}"
            )
        found = pack_gids(self.fid, lids)
        is_outer = lids >= self.num_inner
        found[is_outer] = values_of(self.outer)[lids[is_outer] - self.num_inner]
        return found

    def lids(self, gids: Any) -> Array:
        """Local ids, int64, of global ids; -1 for vertices that this fragment knows nothing of."""
        fids, places = unpack_gids(gids)
        wanted = pack_gids(fids, places)
        found = np.where((fids == self.fid) & (places < self.num_inner), places, -1)
        outer = values_of(self.outer)
        if len(outer):
            at = np.minimum(np.searchsorted(outer, wanted), len(outer) - 1)
            is_outer = outer[at] == wanted
            found[is_outer] = at[is_outer] + self.num_inner
        return found

    def _group(self, packed: pa.Array, fid: int) -> tuple[int, int]:
        if not 0 <= fid < self.fnum:
            raise InvalidGraphError(f"no fragment {fid}: there are {self.fnum}")
        begin, end = np.searchsorted(values_of(packed), pack_gids([fid, fid + 1], 0))
        return int(begin), int(end)


def check_vertex_map(vertex_map: VertexMap) -> None:
    """Raise InvalidGraphError unless the ids make sense by themselves."""
    m = vertex_map
    name = f"fragment {m.fid}, {m.label!r}"
    kinds = {
        "ids": (pa.uint32(), pa.uint64()),
        "outer": (pa.uint64(),),
        "mirrors": (pa.uint64(),),
    }
    for key, types in kinds.items():
        array = getattr(m, key)
        if array.type not in types or array.null_count:
            raise InvalidGraphError(f"{name}: {key} is of a wrong type, or null")
    if len(np.unique(values_of(m.ids))) != m.num_inner:
        raise InvalidGraphError(f"{name}: two inner vertices have one id")
    for key in ("outer", "mirrors"):
        packed = values_of(getattr(m, key))
        fids = packed >> np.uint64(LOCAL_BITS)
        if (packed[1:] <= packed[:-1]).any() or (fids == m.fid).any() or (fids >= m.fnum).any():
            raise InvalidGraphError(f"{name}: {key} are not in order, or of no other fragment")
    if ((values_of(m.mirrors) & _LOCAL_MASK) >= m.num_inner).any():
        raise InvalidGraphError(f"{name}: a mirror is no inner vertex")
