"""Plans for arrays: a grid of chunks, made of another grid.

A chunk that is a contiguous part of one piece shares its memory; others are filled, once, in the
memory of the instance where they are to be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

import numpy as np
import pyarrow as pa

from ..client import Client
from ..distributed import GlobalTensor, kind_of
from ..errors import InvalidObjectError
from ..graph.arrays import Array
from ..joined import same_kind
from ..objects import ObjectID
from .placing import placed
from .plan import Plan, PlannedPartition
from .reach import Reach, check_count, numbers_of
from .rows import Piece, named, pieces_of

__all__ = ["BlocksPlan", "plan_blocks"]

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Box:
    """A part of the whole."""

    offset: Shape
    shape: Shape

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    def common(self, other: _Box) -> _Box:
        """What lies in both; of size 0 if nothing does."""
        low = tuple(map(max, self.offset, other.offset))
        ends = [
            min(a + m, b + n)
            for a, m, b, n in zip(self.offset, self.shape, other.offset, other.shape, strict=True)
        ]
        return _Box(low, tuple(max(0, end - at) for at, end in zip(low, ends, strict=True)))

    def within(self, other: _Box) -> tuple[slice, ...]:
        """Its place in another box that holds it."""
        starts = [a - b for a, b in zip(self.offset, other.offset, strict=True)]
        return tuple(slice(a, a + n) for a, n in zip(starts, self.shape, strict=True))


def plan_blocks(
    client: Client,
    source: Any,
    *,
    n: int | None = None,
    axis: int = 0,
    chunks: Any = None,
    over: Any = None,
    whole: bool = False,
) -> BlocksPlan:
    """What chunks come of arrays; see `Client.partition`."""
    instances = numbers_of(over)
    with Reach(client) as reach:
        pieces = pieces_of(reach, source, client.instance)
        values = [piece.get(reach) for piece in pieces]
        if same_kind(values) != "numpy":
            raise InvalidObjectError(f"a {kind_of(values[0])} has no blocks", "use n or by")
        if any(isinstance(value, np.ma.MaskedArray) for value in values):
            raise InvalidObjectError("an array with a mask", "cut its data and its mask")
        for number in instances or ():
            reach.client(number)
    if isinstance(source, GlobalTensor):
        boxes = [_Box(place.offset, place.shape) for place in source.places]
        shape = source.shape
        now = source.chunks
    else:
        boxes, shape, now = _in_line(values, axis)
    if n is not None and chunks is not None:
        raise InvalidObjectError("n and chunks", "give one of them")
    sizes = now
    if n is not None:
        sizes = _cut(shape, axis, check_count(n))
    elif chunks is not None:
        sizes = _sizes(shape, chunks)
    plan = BlocksPlan(client, values, pieces, boxes, _grid(sizes), whole)
    said = f"{'x'.join(map(str, shape))} {values[0].dtype} in {len(values)} pieces"
    counts = "x".join(str(len(each)) for each in sizes)
    plan.what = f"one array of {said}" if whole else f"{counts} chunks of {said}"
    plan.place(instances or sorted({piece.instance for piece in pieces}))
    return plan


def _in_line(
    values: Sequence[Array], axis: int
) -> tuple[list[_Box], Shape, tuple[tuple[int, ...], ...]]:
    """Arrays that follow each other along an axis."""
    first = values[0].shape
    axis = _axis(axis, len(first))
    rest = [(*v.shape[:axis], *v.shape[axis + 1 :]) for v in values]
    if any(each != rest[0] for each in rest):
        raise InvalidObjectError(
            f"arrays of shapes {', '.join(str(v.shape) for v in values)} make no whole"
            f" along axis {axis}"
        )
    lengths = [v.shape[axis] for v in values]
    starts = np.cumsum([0, *lengths]).tolist()
    boxes = [
        _Box(tuple(start if a == axis else 0 for a in range(len(first))), value.shape)
        for start, value in zip(starts, values, strict=False)
    ]
    shape = tuple(starts[-1] if a == axis else size for a, size in enumerate(first))
    now = tuple(tuple(lengths) if a == axis else (size,) for a, size in enumerate(first))
    return boxes, shape, now


def _axis(axis: Any, ndim: int) -> int:
    if isinstance(axis, bool) or not isinstance(axis, int) or not -ndim <= axis < ndim:
        raise InvalidObjectError(f"axis {axis!r} of an array of {ndim} dimensions")
    return axis % ndim


def _cut(shape: Shape, axis: int, n: int) -> tuple[tuple[int, ...], ...]:
    axis = _axis(axis, len(shape))
    cuts = [shape[axis] * i // n for i in range(n + 1)]
    sizes = [end - start for start, end in pairwise(cuts)]
    sizes = [size for size in sizes if size] or [0]  # offsets tell chunks apart
    return tuple(tuple(sizes) if a == axis else (size,) for a, size in enumerate(shape))


def _sizes(shape: Shape, chunks: Any) -> tuple[tuple[int, ...], ...]:
    """Sizes along each axis: of a number, or of each axis a number, -1 for all, or the sizes."""
    each = [chunks] * len(shape) if isinstance(chunks, int) else list(chunks)
    if len(each) != len(shape):
        raise InvalidObjectError(
            f"chunks={chunks!r} for {len(shape)} dimensions", "give one entry for each axis"
        )
    out = []
    for size, given in zip(shape, each, strict=True):
        try:
            if given in (None, -1):
                sizes = [size]
            elif isinstance(given, int):
                sizes = [
                    min(given, size - at) for at in range(0, size, check_count(given, 1 << 62))
                ]
            else:
                sizes = [int(one) for one in given]
        except TypeError:
            raise InvalidObjectError(f"chunks={chunks!r} are no sizes") from None
        sizes = sizes or [0]
        if sum(sizes) != size or (min(sizes) < 1 and size):
            raise InvalidObjectError(f"chunks {given!r} do not make up {size}")
        out.append(tuple(sizes))
    return tuple(out)


def _grid(sizes: Sequence[Sequence[int]]) -> list[_Box]:
    check_count(int(np.prod([len(each) for each in sizes])))
    starts = [np.cumsum([0, *each]).tolist() for each in sizes]
    return [
        _Box(
            tuple(starts[a][i] for a, i in enumerate(at)),
            tuple(sizes[a][i] for a, i in enumerate(at)),
        )
        for at in product(*(range(len(each)) for each in sizes))
    ]


class BlocksPlan(Plan):
    """See `Plan`."""

    unit = "elements"

    def __init__(
        self,
        client: Client,
        values: Sequence[Array],
        pieces: Sequence[Piece],
        boxes: Sequence[_Box],
        targets: Sequence[_Box],
        whole: bool,
    ) -> None:
        if whole:
            ends = [max(t.offset[a] + t.shape[a] for t in targets) for a in range(values[0].ndim)]
            targets = [_Box((0,) * len(ends), tuple(ends))]
        super().__init__(client, "", [PlannedPartition(client.instance) for _ in targets])
        self._pieces, self._boxes, self._targets, self._whole = pieces, boxes, targets, whole
        self._dtype = values[0].dtype
        offsets = np.array([box.offset for box in boxes])
        ends_ = offsets + np.array([box.shape for box in boxes])
        self._sources: list[list[int]] = []
        for t in targets:
            low = np.maximum(offsets, t.offset)
            high = np.minimum(ends_, np.add(t.offset, t.shape))
            self._sources.append(np.flatnonzero((high > low).all(axis=1)).tolist())
        self._shares = [
            len(s) == 1 and bool(values[s[0]][t.within(boxes[s[0]])].flags.forc)
            for t, s in zip(targets, self._sources, strict=True)
        ]

    def place(self, over: Sequence[int]) -> None:
        """Choose instances, and work out what comes how."""
        weights: list[dict[int, float]] = []
        for target, sources in zip(self._targets, self._sources, strict=True):
            weights.append({})
            for i in sources:
                number = self._pieces[i].instance
                size = target.common(self._boxes[i]).size
                weights[-1][number] = weights[-1].get(number, 0) + size
        self.partitions = [PlannedPartition(number) for number in placed(weights, over)]
        for at, partition in enumerate(self.partitions):
            for i in self._sources[at]:
                size = self._targets[at].common(self._boxes[i]).size
                partition.add(self._way(at, i), size, size * self._dtype.itemsize)
        self._warn_of_skew()

    def _way(self, at: int, source: int) -> str:
        piece = self._pieces[source]
        if piece.instance != self.partitions[at].instance:
            return "moved"
        if self._is_piece(at) and not self._whole:
            return "in_place"
        return "shared" if self._shares[at] and piece.id is not None else "copied"

    def _is_piece(self, at: int) -> bool:
        sources = self._sources[at]
        return (
            len(sources) == 1
            and self._pieces[sources[0]].id is not None
            and self._boxes[sources[0]] == self._targets[at]
        )

    def _made(self, reach: Reach, name: str | None, labels: dict[str, str]) -> ObjectID:
        values: dict[int, Array] = {}
        ids: list[ObjectID | None] = [None] * len(self._targets)
        for number in dict.fromkeys(p.instance for p in self.partitions):
            new, built = [], []
            for at in range(len(self._targets)):
                if self.partitions[at].instance != number:
                    continue
                if self._is_piece(at) and not self._whole:
                    ids[at] = reach.placed(self._pieces[self._sources[at][0]].id, number)
                    continue
                for i in self._sources[at]:
                    if i not in values:
                        values[i] = self._pieces[i].get(reach)
                    if values[i].shape != self._boxes[i].shape:
                        raise InvalidObjectError("what was planned has changed", "plan anew")
                new.append(at)
                built.append(self._block(at, values, reach.pool(number)))
            for at, object_id in zip(new, reach.put(number, built), strict=True):
                ids[at] = object_id
            del built
        if self._whole:
            assert ids[0] is not None
            return named(reach, ids[0], name, labels)
        offsets = [target.offset for target in self._targets]
        meta = self._client.create_global(ids, offsets=offsets, name=name, labels=labels)
        assert meta.id is not None
        return meta.id

    def _block(self, at: int, values: dict[int, Array], pool: Any) -> Array:
        target, sources = self._targets[at], self._sources[at]
        if self._shares[at]:
            return values[sources[0]][target.within(self._boxes[sources[0]])]
        out: Array
        if self._dtype.hasobject:
            out = np.empty(target.shape, self._dtype)
        else:
            nbytes = target.size * self._dtype.itemsize
            buffer = pa.allocate_buffer(nbytes, memory_pool=pool)
            out = np.ndarray(target.shape, self._dtype, buffer)
        for i in sources:
            common = target.common(self._boxes[i])
            out[common.within(target)] = values[i][common.within(self._boxes[i])]
        return out
