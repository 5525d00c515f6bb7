"""On which instances the objects of an export are to be: planned before a byte is read.

Only global objects have members on several instances. Each partition goes to one, with all that
it is composed of; what partitions on different instances share is on each. All else stays
together. It knows ids, sizes and members, and reads nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..objects import ObjectID
from ..partitioning.placing import placed
from .manifest import Content, Saved

__all__ = ["Deal", "all_here", "dealt"]


@dataclass(slots=True)
class Deal:
    """Where objects go.

    Attributes
    ----------
    objects : dict of int to list of Saved
        By the number of the instance, members first; one may be on several.
    globals : list of Saved
        Those that are to be objects of the cluster.
    home : dict of str to int
        For each of the others, by id, the instance of the copy that has its names.
    """

    objects: dict[int, list[Saved]] = field(default_factory=dict)
    globals: list[Saved] = field(default_factory=list)
    home: dict[str, int] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Of all files that are to be read."""
        saved = [each for several in self.objects.values() for each in several] + self.globals
        return sum(file.nbytes for each in saved for file in each.files)

    @property
    def partitions(self) -> dict[str, int]:
        """The instance of each member of a global object."""
        return {key: self.home[key] for each in self.globals for key in each.members.values()}


def all_here(content: Content, here: int) -> Deal:
    """Everything on one instance; global objects become ordinary ones."""
    return Deal({here: content.objects}, [], {saved.id: here for saved in content.objects})


def dealt(
    content: Content, here: int, instances: Sequence[int], over: Sequence[int] | None
) -> Deal:
    """Partitions on the instances of a cluster, all else here.

    Parameters
    ----------
    content : Content
        Its objects with members first.
    here : int
        The instance that imports.
    instances : sequence of int
        All of the cluster.
    over : sequence of int, optional
        Partitions are dealt out over these, by bytes. By default those that were on one instance
        are on one again: on the same, if it is there, else on another.
    """
    found = {saved.id: saved for saved in content.objects}
    inner = {key for s in content.objects if not s.is_global for key in s.members.values()}
    deal = Deal({}, [s for s in content.objects if s.is_global and s.id not in inner])
    whole = {saved.id for saved in deal.globals}
    keys = list(dict.fromkeys(key for each in deal.globals for key in each.members.values()))
    sizes = [_tree_nbytes(found, key) for key in keys]
    if over is None:
        places = _as_they_were(keys, sizes, [here, *(n for n in instances if n != here)])
    else:
        places = placed([{-1: size + 1} for size in sizes], over)
    deal.home = dict(zip(keys, places, strict=True))
    wanted = {key: {number} for key, number in deal.home.items()}
    for saved in reversed(content.objects):  # parents first
        if saved.id in whole:
            continue
        on = wanted.setdefault(saved.id, {here})
        deal.home.setdefault(saved.id, here if here in on else min(on))
        for key in saved.members.values():
            wanted.setdefault(key, set()).update(on)
    for saved in content.objects:
        for number in sorted(wanted.get(saved.id, ())):
            deal.objects.setdefault(number, []).append(saved)
    return deal


def _tree_nbytes(found: dict[str, Saved], key: str) -> int:
    tree = {key: found[key]}
    line = [key]
    while line:
        for member in tree[line.pop()].members.values():
            if member not in tree:
                tree[member] = found[member]
                line.append(member)
    return sum(file.nbytes for saved in tree.values() for file in saved.files)


def _as_they_were(keys: Sequence[str], sizes: Sequence[int], instances: Sequence[int]) -> list[int]:
    """What was together stays so; the largest first, each where there is least."""
    groups: dict[int, int] = {}
    for key, size in zip(keys, sizes, strict=True):
        number = ObjectID(key).instance
        groups[number] = groups.get(number, 0) + size + 1
    new = {number: number for number in groups if number in instances}
    loads = {number: groups.get(number, 0) for number in instances}
    for number in sorted(groups.keys() - new.keys(), key=lambda n: (-groups[n], n)):
        new[number] = min(instances, key=loads.__getitem__)
        loads[new[number]] += groups[number]
    return [new[ObjectID(key).instance] for key in keys]
