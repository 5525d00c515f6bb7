"""On which instance a partition is to live: even shares, and as little moved as that leaves.

It knows weights and numbers alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["placed"]

_SLACK = 1.1  # so much more than its share an instance may get if it saves a move


def placed(weights: Sequence[Mapping[int, float]], over: Sequence[int]) -> list[int]:
    """The instance of each partition.

    The heaviest are placed first, each where most of it is already, among the instances that
    have room for it in their share; where none has, with the one that has least.

    Parameters
    ----------
    weights : sequence of mapping
        For each partition, what of it lies on which instance.
    over : sequence of int
        Instances to choose from.

    Examples
    --------
    >>> placed([{1: 10}, {2: 10}, {1: 10}, {1: 10}], [1, 2])
    [1, 2, 1, 2]
    """
    totals = [sum(each.values()) for each in weights]
    share = sum(totals) / len(over) * _SLACK
    loads = dict.fromkeys(over, 0.0)
    counts = dict.fromkeys(over, 0)
    out = [0] * len(weights)
    for i in sorted(range(len(weights)), key=lambda i: -totals[i]):
        room = [n for n in over if loads[n] + totals[i] <= share]
        if room:
            best = max(room, key=lambda n: (weights[i].get(n, 0), -loads[n], -counts[n]))
        else:
            best = min(over, key=lambda n: (loads[n], -weights[i].get(n, 0)))
        out[i] = best
        loads[best] += totals[i]
        counts[best] += 1
    return out
