"""Plans for tables and frames: what rows each partition takes from which piece.

A piece is an object, of any instance, or a value that is in no store. Rows that lie next to each
other are a slice, which shares memory on their instance; others are gathered straight into the
memory of the instance where they are to be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from ..client import Client
from ..distributed import kind_of
from ..errors import InvalidObjectError
from ..graph.arrays import Array, as_table
from ..joined import same_kind
from ..objects import ObjectID
from ..partitions import GlobalObject
from . import owners
from .frames import gathered, joined, sliced
from .placing import placed
from .plan import Plan, PlannedPartition
from .reach import Reach, check_count, numbers_of

__all__ = ["Piece", "RowsPlan", "named", "pieces_of", "plan_rows"]

How = str | Callable[[Any], Any] | None
_HOWS = ("slices", "hash", "range", "values", "round_robin")


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """What is cut: an object of an instance, or a value.

    Attributes
    ----------
    id : ObjectID or None
        None for a value.
    instance : int
        Where it lies; for a value, where it would be put.
    nbytes : int
    value
        None for an object.
    """

    id: ObjectID | None
    instance: int
    nbytes: int
    value: Any = None

    def get(self, reach: Reach) -> Any:
        return self.value if self.id is None else reach.get(self.id)


@dataclass(frozen=True, slots=True, eq=False)
class _Share:
    """Rows of a piece for a partition: from ``start`` on, or ``rows``."""

    piece: int
    start: int
    count: int
    rows: Array | None = None

    def of(self, value: Any, pool: Any) -> Any:
        if self.rows is None:
            return sliced(value, self.start, self.start + self.count)
        return gathered(value, self.rows, pool)


def pieces_of(reach: Reach, source: Any, instance: int) -> list[Piece]:
    """The pieces of a global object, of several objects or values, or the one there is."""
    if isinstance(source, GlobalObject):
        sources: list[Any] = list(source.object_ids)
    else:
        sources = [*source] if isinstance(source, list | tuple) else [source]
    if not sources:
        raise InvalidObjectError("there is nothing to cut", "give an object or a value")
    out = []
    for each in sources:
        if isinstance(each, int | str) and not isinstance(each, bool):
            object_id = ObjectID(reach.client(instance)._resolve(each))
            meta = reach.client(object_id.instance).get_meta(object_id)
            out.append(Piece(object_id, object_id.instance, meta.nbytes))
        else:
            value = each
            if not hasattr(each, "shape") and hasattr(each, "__arrow_c_stream__"):
                value = as_table(each, reach.pool(instance))  # a reader, a relation
            out.append(Piece(None, instance, _nbytes_of(value), value))
    return out


def _nbytes_of(value: Any) -> int:
    kind = kind_of(value)
    if kind == "pandas":
        return int(value.memory_usage(index=True).sum())
    return int(value.estimated_size() if kind == "polars" else value.nbytes)


def plan_rows(
    client: Client,
    source: Any,
    *,
    n: int | None = None,
    by: Any = None,
    how: How = None,
    bounds: Any = None,
    balance: str = "rows",
    over: Any = None,
    whole: bool = False,
) -> RowsPlan:
    """What partitions come of pieces; see `Client.partition`."""
    instances = numbers_of(over)
    columns = _columns(by)
    how = _how(how, columns, n, bounds)
    n = None if n is None else check_count(n)
    if balance not in ("rows", "bytes"):
        raise InvalidObjectError(f"balance={balance!r} is not one of 'rows', 'bytes'")
    with Reach(client) as reach:
        pieces = pieces_of(reach, source, client.instance)
        values = [piece.get(reach) for piece in pieces]
        if kind_of(values[0]) == "numpy":
            raise InvalidObjectError("an array has no rows to go by", "use n, axis or chunks")
        same_kind(values)
        for number in instances or ():
            reach.client(number)
        rule = _rule(values, n, columns, how, bounds, balance)
        key = columns[0] if len(columns) == 1 else None
        found: Any = None if rule.bounds is None else (key, rule.bounds)
        if how == "slices" and isinstance(source, GlobalObject) and n in (None, len(pieces)):
            found = _kept_bounds(source, rule)
        plan = RowsPlan(client, values, pieces, rule, found, whole)
        plan.what = _said(source, values, rule, how, columns, balance, whole)
        plan.place(instances or sorted({piece.instance for piece in pieces}), balance)
        return plan


def _columns(by: Any) -> list[Any]:
    columns = [by] if isinstance(by, str) else [] if by is None else by
    if not isinstance(columns, list | tuple) or not all(isinstance(c, str) for c in columns):
        raise InvalidObjectError(f"by={by!r} names no columns", "give a name, or a list of them")
    return list(columns)


def _how(how: How, columns: Sequence[str], n: Any, bounds: Any) -> How:
    if how is None:
        if bounds is not None:
            return "range"
        how = "slices" if not columns else "hash" if n is not None else "values"
    if not callable(how) and how not in _HOWS:
        raise InvalidObjectError(f"how={how!r} is none of {', '.join(_HOWS)} or a function")
    if bounds is not None and how != "range":
        raise InvalidObjectError(f"bounds are of ranges, not of how={how!r}")
    if n is None and how not in ("slices", "values") and bounds is None:
        raise InvalidObjectError("how many partitions?", "give n")
    if n is not None and how == "values":
        raise InvalidObjectError("values make as many partitions as there are", "leave n out")
    if columns and (callable(how) or how in ("slices", "round_robin")):
        raise InvalidObjectError("by is for hash, range and values", f"leave it out of {how!r}")
    if how in ("hash", "values") and not columns:
        raise InvalidObjectError(f"{how} of what?", "name columns: by=...")
    if how == "range" and len(columns) > 1:
        raise InvalidObjectError("ranges are of one column", "or take how='hash'")
    return how


def _rule(
    values: Sequence[Any], n: Any, columns: list[Any], how: How, bounds: Any, balance: str
) -> owners.Rule:
    if callable(how):
        return owners.by_function(values, n, how)
    if how == "range":
        return owners.by_range(values, n, columns[0] if columns else None, bounds, balance)
    if how == "values":
        return owners.by_values(values, columns)
    if how == "hash":
        return owners.by_hash(values, n, columns)
    return owners.in_turn(values, n) if how == "round_robin" else owners.slices(values, n, balance)


def _kept_bounds(source: Any, rule: owners.Rule) -> tuple[str | None, owners.Bounds] | None:
    """Those of a global object whose partitions stay as they are."""
    bounds = [place.bounds for place in source.places]
    parts = [np.diff(o.starts) for o in rule.owners if isinstance(o, owners.Runs)]
    same = all(part[i] == part.sum() for i, part in enumerate(parts))
    return (source.key, bounds) if same and None not in bounds else None


def _said(
    source: Any,
    values: Sequence[Any],
    rule: owners.Rule,
    how: How,
    columns: Sequence[str],
    balance: str,
    whole: bool,
) -> str:
    rows = sum(value.shape[0] for value in values)
    of = f"{rows:,} rows in {len(values)} pieces"
    if whole:
        return f"one {kind_of(values[0])} of {of}"
    way = getattr(how, "__name__", how)
    on = f" of {', '.join(columns)}" if columns else ""
    even = f", balanced by {balance}" if how in ("slices", "range") else ""
    return f"{rule.count} partitions of {of}, by {way}{on}{even}"


class RowsPlan(Plan):
    """See `Plan`."""

    def __init__(
        self,
        client: Client,
        values: Sequence[Any],
        pieces: Sequence[Piece],
        rule: owners.Rule,
        bounds: Any,
        whole: bool,
    ) -> None:
        super().__init__(client, "", [PlannedPartition(client.instance) for _ in range(rule.count)])
        self._pieces, self._bounds, self._whole = pieces, bounds, whole
        self._rows = [value.shape[0] for value in values]
        self._kind = kind_of(values[0])
        self._shares: list[list[_Share]] = [[] for _ in range(rule.count)]
        for i, owner in enumerate(rule.owners):
            for target, share in _shares(i, owner, rule.count):
                self._shares[target].append(share)
        for shares in self._shares:  # a partition without rows has a schema all the same
            if not shares:
                shares.append(_Share(0, 0, 0))

    def _nbytes(self, share: _Share) -> int:
        rows = self._rows[share.piece]
        return self._pieces[share.piece].nbytes * share.count // rows if rows else 0

    def place(self, over: Sequence[int], balance: str) -> None:
        """Choose instances, and work out what comes how."""
        weights: list[dict[int, float]] = []
        for shares in self._shares:
            weights.append(dict.fromkeys((self._pieces[s.piece].instance for s in shares), 0.0))
            for s in shares:
                size = s.count if balance == "rows" else self._nbytes(s)
                weights[-1][self._pieces[s.piece].instance] += size
        places = placed(weights, over)
        self.partitions = [PlannedPartition(number) for number in places]
        for partition, shares in zip(self.partitions, self._shares, strict=True):
            for share in shares:
                way = self._way(shares, share, partition.instance)
                partition.add(way, share.count, self._nbytes(share))
        self._warn_of_skew()

    def _way(self, shares: Sequence[_Share], share: _Share, number: int) -> str:
        piece = self._pieces[share.piece]
        if piece.instance != number:
            return "moved"
        if self._is_piece(shares) and not self._whole:
            return "in_place"
        joins = self._kind == "pandas" and len(shares) > 1  # which pandas does by copying
        return "copied" if share.rows is not None or piece.id is None or joins else "shared"

    def _is_piece(self, shares: Sequence[_Share]) -> bool:
        """Whether a partition is a stored piece, all of it and nothing else."""
        first = shares[0]
        return (
            len(shares) == 1
            and first.rows is None
            and self._pieces[first.piece].id is not None
            and first.count == self._rows[first.piece]
        )

    def _made(self, reach: Reach, name: str | None, labels: dict[str, str]) -> ObjectID:
        values: dict[int, Any] = {}

        def value_of(share: _Share) -> Any:
            if share.piece not in values:
                values[share.piece] = self._pieces[share.piece].get(reach)
                if values[share.piece].shape[0] != self._rows[share.piece]:
                    raise InvalidObjectError("what was planned has changed", "plan anew")
            return values[share.piece]

        ids: list[ObjectID | None] = [None] * len(self._shares)
        for number in dict.fromkeys(p.instance for p in self.partitions):
            new: list[int] = []
            built: list[Any] = []
            for i, shares in enumerate(self._shares):
                if self.partitions[i].instance != number:
                    continue
                if self._is_piece(shares) and not self._whole:
                    ids[i] = reach.placed(self._pieces[shares[0].piece].id, number)
                    continue
                pool = reach.pool(number)
                new.append(i)
                built.append(joined([s.of(value_of(s), pool) for s in shares]))
            for i, object_id in zip(new, reach.put(number, built), strict=True):
                ids[i] = object_id
            del built
        if self._whole:
            assert ids[0] is not None
            return named(reach, ids[0], name, labels)
        key, bounds = (None, None) if self._bounds is None else self._bounds
        meta = self._client.create_global(ids, key=key, bounds=bounds, name=name, labels=labels)
        assert meta.id is not None
        return meta.id


def named(reach: Reach, object_id: ObjectID, name: str | None, labels: dict[str, str]) -> ObjectID:
    """The object, with a name and labels."""
    client = reach.client(object_id.instance)
    if name is not None:
        client.put_name(object_id, name)
    if labels:
        client.label(object_id, labels)
    return object_id


def _shares(piece: int, owner: Array | owners.Runs, count: int) -> list[tuple[int, _Share]]:
    """What each partition takes of a piece, by partition; those that take nothing are left out."""
    order, starts = owners.ordered(owner, count)
    out = []
    for i, (a, b) in enumerate(pairwise(starts.tolist())):
        if a == b:
            continue
        if order is None:
            out.append((i, _Share(piece, a, b - a)))
        else:
            first, rows = int(order[a]), order[a:b]
            is_run = int(order[b - 1]) - first == b - 1 - a
            out.append((i, _Share(piece, first, b - a, None if is_run else rows)))
    return out
