"""Which fragment owns which vertex: by ranges of equal weight, by hash, and by moving few.

It knows weights and owners as arrays, nothing of edges.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import InvalidGraphError
from .arrays import Array

__all__ = ["balanced_cuts", "check_number", "moved_owners"]


def check_number(k: Any, most: int) -> int:
    """How many fragments were asked for.

    Raises
    ------
    InvalidGraphError
        If that is no number from 1 to ``most``.
    """
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= most:
        raise InvalidGraphError(f"{k!r} fragments", f"take 1 to {most}")
    return int(k)


def balanced_cuts(weights: Array, k: int) -> Array:
    """Where to cut a sequence into ``k`` ranges of about equal weight: int64[k + 1].

    No range weighs more than a ``k``-th of the whole and its heaviest item; with more ranges than
    items some are empty.
    """
    sums = np.cumsum(weights, dtype=np.int64)
    total = int(sums[-1]) if len(sums) else 0
    goals = [total * i // k for i in range(1, k)]
    inner = np.searchsorted(sums, goals, side="right")
    return np.concatenate([[0], inner, [len(sums)]]).astype(np.int64)


def moved_owners(owners: Array, weights: Array, k: int) -> Array:
    """Owners that are balanced, where as little as can be moved: int64, below ``k``.

    Fragments that weigh more than a ``k``-th give their last vertices, those past ``k`` all,
    to those that weigh less. Afterwards none weighs more than that and one of the vertices that
    came, or stayed, last.

    Parameters
    ----------
    owners : numpy.ndarray
        int64: the fragment of each vertex, in the order in which its fragment is to keep them.
    weights : numpy.ndarray
        int64: what each vertex weighs.
    """
    result = owners.copy()
    loads = np.bincount(owners, weights, max(k, int(owners.max(initial=0)) + 1)).astype(np.int64)
    goal = -(-int(loads.sum()) // k)
    leaving = _past(owners, weights, np.where(np.arange(len(loads)) < k, goal, 0))
    loads -= np.bincount(owners[leaving], weights[leaving], len(loads)).astype(np.int64)
    room = np.maximum(goal - loads[:k], 0)
    ends = np.cumsum(room)
    # Vertices stand in one line, fragments with room take of it in turn.
    begins = np.cumsum(weights[leaving]) - weights[leaving]
    takers = np.searchsorted(ends, begins, side="right")
    result[leaving] = np.minimum(takers, k - 1)
    return result


def _past(owners: Array, weights: Array, limits: Array) -> Array:
    """Places of the vertices that begin past the limit of their fragment."""
    order = np.argsort(owners, kind="stable")
    sums = np.cumsum(weights[order]) - weights[order]  # of all before it
    firsts = np.searchsorted(owners[order], np.arange(len(limits)))
    bases = np.append(sums, weights.sum())[firsts]
    over = sums - bases[owners[order]] >= limits[owners[order]]
    return np.sort(order[over])
