"""What one worker writes for the others, and they read: values and flags in blocks of memory.

Each worker writes its own block only. Half of it is written while the other half is read, so one
barrier a superstep is enough: who writes a half again knows that all have read it. This module
knows no processes and no barriers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .adjacency import Adjacency
from .arrays import Array, values_of
from .edge_cut import Fragment
from .fragments import VirtualFragment
from .inputs import edges_of
from .schema import Triple

if TYPE_CHECKING:
    from ..shared_memory import SharedMemory

__all__ = ["Exchange", "View", "view_of_fragment", "view_of_ranges"]


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """One label's vertices and one triple's edges in a fragment, virtual or not.

    Attributes
    ----------
    fid, fnum : int
    adjacency : Adjacency
        Over local ids: those of the whole graph in virtual fragments.
    inner : slice
        Local ids of the vertices that are this fragment's own.
    ids : numpy.ndarray
        Of these, the ids in the whole graph.
    outer : list of slice
        By owner, local ids of other fragments' vertices that are known here.
    mirrors : list of slice or numpy.ndarray
        By fragment, local ids of inner vertices that are known there, in the order of its
        ``outer``.
    """

    fid: int
    fnum: int
    adjacency: Adjacency
    inner: slice
    ids: Array
    outer: list[slice]
    mirrors: list[slice | Array]

    @property
    def num_inner(self) -> int:
        """Vertices of one's own."""
        return len(self.ids)

    @property
    def num_local(self) -> int:
        """Vertices with a local id."""
        return self.adjacency.num_src


def view_of_fragment(fragment: Fragment, triple: Triple | str | None) -> View:
    """A fragment of an edge-cut."""
    edges = edges_of(fragment, triple)
    m = fragment.vertex_map(edges.triple[0])
    others = range(m.fnum)
    return View(
        m.fid,
        m.fnum,
        edges,
        slice(0, m.num_inner),
        values_of(m.ids),
        [slice(m.outer_of(fid).start, m.outer_of(fid).stop) for fid in others],
        [m.mirrors_for(fid) for fid in others],
    )


def view_of_ranges(fragments: Sequence[VirtualFragment], fid: int, triple: Any) -> View:
    """A virtual fragment, which knows all vertices of all others."""
    edges = edges_of(fragments[fid].graph, triple)
    slices = [slice(r.start, r.stop) for r in (f.inner(edges.triple[0]) for f in fragments)]
    own, none = slices[fid], slice(0, 0)
    return View(
        fid,
        len(fragments),
        edges,
        own,
        np.arange(own.start, own.stop),
        [none if other == fid else each for other, each in enumerate(slices)],
        [none if other == fid else own for other in range(len(fragments))],
    )


class Exchange:
    """The blocks of all workers, as one of them has them mapped.

    A block is int64 words, then float64 values twice, then flags of a byte twice. The words: how
    many values and flags there are; where among them those for each worker begin.

    Parameters
    ----------
    view : View
    blocks : sequence of SharedMemory
        By fid, each of `nbytes` of its worker's view.
    """

    def __init__(self, view: View, blocks: Sequence[SharedMemory]) -> None:
        self._view, self._blocks = view, blocks
        words = _words(view)
        np.frombuffer(blocks[view.fid].buf, np.int64, len(words))[:] = words
        self._step = 0
        self._boxes: list[_Box] = []

    @staticmethod
    def nbytes(view: View) -> int:
        """Size of the block of the worker that has this view."""
        words = _words(view)
        return int(8 * len(words) + 2 * (8 * words[0] + words[1]))

    def open(self) -> None:
        """To be called when all workers have made theirs."""
        fnum = self._view.fnum
        self._boxes = [_Box(block.buf, fnum) for block in self._blocks]

    def write_inner(self, values: Array) -> None:
        """Leave the values of inner vertices, float64 by local id, for who has them as outer."""
        view = self._view
        box = self._boxes[view.fid]
        out = box.values[self._step & 1]
        if _is_shared(view):
            out[:] = values[view.inner]
            return
        for mirrors, start in zip(view.mirrors, box.value_starts, strict=True):
            found = values[mirrors]
            out[start : start + len(found)] = found

    def read_outer(self, values: Array) -> None:
        """Take the values of outer vertices that their owners left."""
        for box, outer in zip(self._boxes, self._view.outer, strict=True):
            start = box.value_starts[self._view.fid]
            count = outer.stop - outer.start
            values[outer] = box.values[self._step & 1, start : start + count]
        self._step += 1

    def write_flags(self, flags: Array) -> None:
        """Leave the flags of outer vertices, bool by local id, for their owners."""
        box = self._boxes[self._view.fid]
        out = box.flags[self._step & 1]
        for outer, start in zip(self._view.outer, box.flag_starts, strict=True):
            out[start : start + outer.stop - outer.start] = flags[outer]

    def read_flags(self, flags: Array) -> None:
        """Set the flags of inner vertices that others left."""
        for box, mirrors in zip(self._boxes, self._view.mirrors, strict=True):
            start = box.flag_starts[self._view.fid]
            own = flags[mirrors]
            flags[mirrors] = own | box.flags[self._step & 1, start : start + len(own)]
        self._step += 1


class _Box:
    """A block of a worker, as arrays."""

    def __init__(self, memory: memoryview, fnum: int) -> None:
        words = np.frombuffer(memory, np.int64, 2 + 2 * fnum).tolist()
        num_values, num_flags = words[:2]
        self.value_starts, self.flag_starts = words[2 : 2 + fnum], words[2 + fnum :]
        at = 8 * (2 + 2 * fnum)
        self.values = np.frombuffer(memory, np.float64, 2 * num_values, at).reshape(2, num_values)
        at += self.values.nbytes
        self.flags = np.frombuffer(memory, np.bool_, 2 * num_flags, at).reshape(2, num_flags)


def _is_shared(view: View) -> bool:
    """Whether all others read the same values of this worker."""
    return all(isinstance(each, slice) for each in view.mirrors)


def _words(view: View) -> list[int]:
    """What a worker's block begins with."""
    counts = [] if _is_shared(view) else [len(each) for each in view.mirrors]  # type: ignore[arg-type]
    values = np.cumsum([0, *counts]).tolist() if counts else [0] * view.fnum + [view.num_inner]
    flags = np.cumsum([0, *(each.stop - each.start for each in view.outer)]).tolist()
    return [values[-1], flags[-1], *values[:-1], *flags[:-1]]
