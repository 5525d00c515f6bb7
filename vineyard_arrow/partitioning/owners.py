"""Which partition each row goes to: by hash, range, values, turn, place, or a function.

A rule looks at all pieces once, then says for each piece which partition its rows go to. It
knows nothing of where pieces lie.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import InvalidObjectError
from ..graph.arrays import Array
from ..graph.balance import balanced_cuts
from ..graph.vertices import id_dtype
from .frames import key_of, row_nbytes
from .hashing import hashes

__all__ = [
    "Bounds",
    "Rule",
    "Runs",
    "by_function",
    "by_hash",
    "by_range",
    "by_values",
    "in_turn",
    "ordered",
    "slices",
]

_SAMPLE = 200_000  # keys that quantiles are taken of
_MOST = 65_536
_BLOCK = 1 << 16

Bounds = list[tuple[Any, Any]] | None


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """Owners of rows that are in their order: where those of each partition start, and the end."""

    starts: Array


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """Where rows go, by piece.

    Attributes
    ----------
    count : int
        Partitions.
    owners : list of numpy.ndarray or Runs
        For each piece, the partition of each row, of the narrowest type for their count.
    bounds : list or None
        The least and the greatest key of each partition, if they are ranges of keys.
    """

    count: int
    owners: list[Array | Runs]
    bounds: Bounds = None


def slices(pieces: Sequence[Any], n: int | None, balance: str) -> Rule:
    """Rows in order, cut into runs of about the same size; without ``n``, each piece is one."""
    sizes = [piece.shape[0] for piece in pieces]
    if n is None:
        return slices_at(sizes, np.cumsum([0, *sizes]))
    if balance == "bytes":
        cuts = balanced_cuts(np.concatenate([row_nbytes(piece) for piece in pieces]), n)
    else:
        cuts = np.array([sum(sizes) * i // n for i in range(n + 1)])
    return slices_at(sizes, cuts)


def slices_at(sizes: Sequence[int], cuts: Array) -> Rule:
    """Rows in order, cut at places in the whole."""
    owners: list[Array | Runs] = []
    start = 0
    for size in sizes:
        owners.append(Runs(np.clip(cuts - start, 0, size)))
        start += size
    return Rule(len(cuts) - 1, owners)


def in_turn(pieces: Sequence[Any], n: int) -> Rule:
    """Row after row to the next partition."""
    owners: list[Array | Runs] = []
    start = 0
    for piece in pieces:
        owners.append(narrow(np.arange(start, start + piece.shape[0]) % n, n))
        start += piece.shape[0]
    return Rule(n, owners)


def by_hash(pieces: Sequence[Any], n: int, by: Sequence[str | None]) -> Rule:
    """By the hash of columns, modulo ``n``."""
    owners: list[Array | Runs] = []
    for piece in pieces:
        keys = [key_of(piece, name) for name in by]
        owner = np.empty(piece.shape[0], np.min_scalar_type(n - 1))
        for start in range(0, len(owner), _BLOCK):  # hashes that stay in the processor's cache
            found = hashes([array[start : start + _BLOCK] for array in keys])
            owner[start : start + _BLOCK] = found % np.uint64(n)
        owners.append(owner)
    return Rule(n, owners)


def by_function(pieces: Sequence[Any], n: int, function: Callable[[Any], Any]) -> Rule:
    """By what a function of each piece gives: the partition of each row."""
    owners: list[Array | Runs] = []
    for i, piece in enumerate(pieces):
        given = function(piece)
        if isinstance(given, pa.Array | pa.ChunkedArray):
            given = None if given.null_count else given.to_numpy(zero_copy_only=False)
        try:
            found = np.asarray(given)
        except ValueError as error:  # rows of different lengths
            raise InvalidObjectError(f"how gave no array: {error}") from None
        count = piece.shape[0]
        if found.shape != (count,) or (count and found.dtype.kind not in "iu"):
            raise InvalidObjectError(
                f"how gave {found.dtype}{list(found.shape)} for the {count} rows of piece {i}",
                f"it returns an integer for each row, 0 to {n - 1}, without nulls",
            )
        wrong = np.flatnonzero((found < 0) | (found >= n))
        if len(wrong):
            raise InvalidObjectError(
                f"how gave {found[wrong[0]]} for row {wrong[0]} of piece {i}",
                f"partitions are 0 to {n - 1}",
            )
        owners.append(narrow(found, n))
    return Rule(n, owners)


def narrow(owner: Array, count: int) -> Array:
    """Owners in the narrowest type, which NumPy sorts by digits."""
    return owner.astype(np.min_scalar_type(count - 1), copy=False)


# ---- ranges


def by_range(
    pieces: Sequence[Any], n: int | None, by: str | None, bounds: Any, balance: str
) -> Rule:
    """By ranges of a column, that equal keys never leave; nulls and NaN go to the last.

    Without bounds, those are quantiles of a sample, and fewer than ``n`` ranges if keys are few.
    """
    keys = [_ordered_key(piece, by) for piece in pieces]
    if bounds is not None:
        cuts = _given(bounds, keys[0].type)
        if n is not None and n != len(cuts) + 1:
            raise InvalidObjectError(
                f"{len(cuts)} bounds make {len(cuts) + 1} partitions, not {n}", "leave n out"
            )
    else:
        assert n is not None
        cuts = _quantiles(pieces, keys, n, balance)
    return _ranges(keys, cuts)


def _ordered_key(piece: Any, name: str | None) -> pa.Array:
    """A column of which equal values are equal in every way: without -0.0."""
    keys = key_of(piece, name)
    if pa.types.is_float16(keys.type):
        keys = keys.cast(pa.float32())
    return pc.add(keys, pa.scalar(0.0, keys.type)) if pa.types.is_floating(keys.type) else keys


def _ranges(keys: Sequence[pa.Array], cuts: pa.Array) -> Rule:
    owners = [_owners(array, cuts) for array in keys]
    return Rule(len(cuts) + 1, owners, _bounds(keys, owners, cuts))


def _owners(keys: pa.Array, cuts: pa.Array) -> Array | Runs:
    """The range of each key: how many of the cuts are not above it."""
    type_ = keys.type
    if not keys.null_count and (pa.types.is_integer(type_) or pa.types.is_floating(type_)):
        # In NumPy's order NaN is above all, too.
        values, steps = keys.to_numpy(), cuts.to_numpy()
        if (values[1:] >= values[:-1]).all():
            return Runs(np.array([0, *np.searchsorted(values, steps), len(values)]))
        return narrow(np.searchsorted(steps, values, side="right"), len(cuts) + 1)
    return narrow(_above(keys, cuts), len(cuts) + 1)


def _given(bounds: Any, type_: pa.DataType) -> pa.Array:
    try:
        cuts = pa.array(list(bounds), from_pandas=True).cast(type_)
    except (pa.ArrowException, TypeError) as error:
        raise InvalidObjectError(f"bounds={bounds!r} are no {type_}: {error}") from None
    ascends = pc.less(cuts[:-1], cuts[1:])
    if not len(cuts) or cuts.null_count or not (pc.all(ascends, min_count=0).as_py()):
        raise InvalidObjectError(
            f"bounds={bounds!r} do not ascend", "they are the least keys of all but the first"
        )
    return cuts


def _known(array: pa.Array) -> pa.Array:
    """Without nulls and NaN."""
    if pa.types.is_floating(array.type):
        return array.filter(pc.invert(pc.is_null(array, nan_is_null=True)))
    return array.drop_null()


def _quantiles(pieces: Sequence[Any], keys: Sequence[pa.Array], n: int, balance: str) -> pa.Array:
    total = sum(map(len, keys))
    step = max(1, total // _SAMPLE)
    sampled, weighed = [], []
    for piece, array in zip(pieces, keys, strict=True):
        rows = np.arange(0, len(array), step)
        weights = row_nbytes(piece)[rows] if balance == "bytes" else np.ones(len(rows), np.int64)
        sample = array.take(pa.array(rows))
        valid = pc.invert(pc.is_null(sample, nan_is_null=True))
        sampled.append(sample.filter(valid))
        weighed.append(weights[valid.to_numpy(zero_copy_only=False)])
    sample = pa.concat_arrays(sampled)
    if not len(sample):
        return sample
    order = _sorted(sample)
    sample = sample.take(order)
    firsts = balanced_cuts(np.concatenate(weighed)[order.to_numpy()], n)[1:-1]
    picked = sample.take(pa.array(np.minimum(firsts, len(sample) - 1))).unique()
    return picked.filter(pc.greater(picked, sample[0]))


def _sorted(array: pa.Array) -> pa.Array:
    try:
        return pc.array_sort_indices(array)
    except pa.ArrowNotImplementedError as error:
        raise InvalidObjectError(f"{array.type} has no order: {error}") from None


def _above(keys: pa.Array, cuts: pa.Array) -> Array:
    """How many of the cuts are not above each key; all of them for nulls and NaN."""
    low = np.zeros(len(keys), np.int64)
    high = np.full(len(keys), len(cuts), np.int64)
    unknown = pc.is_null(keys, nan_is_null=True).to_numpy(zero_copy_only=False)
    for _ in range(len(cuts).bit_length()):
        middle = (low + high) // 2
        at = cuts.take(pa.array(np.minimum(middle, len(cuts) - 1)))
        reaches = pc.fill_null(pc.greater_equal(keys, at), False).to_numpy(zero_copy_only=False)
        reaches &= low < high
        low = np.where(reaches, middle + 1, low)
        high = np.where(reaches, high, np.minimum(middle, high))
    low[unknown] = len(cuts)
    return low


def _bounds(keys: Sequence[pa.Array], owners: Sequence[Array | Runs], cuts: pa.Array) -> Bounds:
    """The least and greatest of each; of one without keys, its own cut, which no other has."""
    count = len(cuts) + 1
    found: list[list[Any]] = [[] for _ in range(count)]
    for array, owner in zip(keys, owners, strict=True):
        order, starts = ordered(owner, count)
        rows = array if order is None else array.take(pa.array(order))
        for i in range(count):
            part = _known(rows[int(starts[i]) : int(starts[i + 1])])
            if len(part):
                found[i].append(pc.min_max(part))
    if not found[0]:
        return None  # nothing is below the others
    out = []
    for i, each in enumerate(found):
        if each:
            least = pc.min(pa.array([m["min"] for m in each], cuts.type)).as_py()
            out.append((least, pc.max(pa.array([m["max"] for m in each], cuts.type)).as_py()))
        else:
            out.append((cuts[i - 1].as_py(),) * 2)
    return out


def ordered(owner: Array | Runs, count: int) -> tuple[Array | None, Array]:
    """Rows by their owners, and where those of each start; no rows if they lie so already."""
    if isinstance(owner, Runs):
        return None, owner.starts
    starts = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=count))])
    if (owner[1:] >= owner[:-1]).all():
        return None, starts
    order = np.argsort(owner, kind="stable")
    return order.astype(id_dtype(len(order))), starts


# ---- values


def by_values(pieces: Sequence[Any], by: Sequence[str]) -> Rule:
    """A partition for each value, or combination of values, in order; nulls are last.

    Raises
    ------
    InvalidObjectError
        If there are too many.
    """
    ends = np.cumsum([piece.shape[0] for piece in pieces])[:-1]
    whole: Array = np.zeros(sum(piece.shape[0] for piece in pieces), np.int64)
    bounds: Bounds = None
    for name in by:
        keys = pa.concat_arrays([_ordered_key(piece, name) for piece in pieces])
        values = keys.unique()
        values = values.take(_sorted(values))
        codes = pc.index_in(keys, value_set=values).to_numpy(zero_copy_only=False)
        _, whole = np.unique(whole * max(1, len(values)) + codes, return_inverse=True)
        if len(by) == 1 and len(values) and len(_known(values)) == len(values):
            bounds = [(value, value) for value in values.to_pylist()]
    count = int(whole.max(initial=0)) + 1
    if count > _MOST:
        raise InvalidObjectError(
            f"{', '.join(by)} have {count:,} values", f"{_MOST:,} partitions are the most: give n"
        )
    return Rule(count, [*np.split(narrow(whole, count), ends)], bounds)
