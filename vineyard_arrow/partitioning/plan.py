"""What a partitioning will do, before it does it: to be printed, and to be run.

It knows neither rows nor blocks nor graphs: `Plan` is what these plans have in common.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..client import Client
from ..objects import ObjectID
from .reach import Reach

__all__ = ["Plan", "PlannedPartition"]

_SKEW = 2.0


@dataclass(slots=True)
class PlannedPartition:
    """One partition that is to be: where, how large, and how it comes there.

    Attributes
    ----------
    instance : int
        Number of the instance that it will live on.
    rows : int
        Rows, elements of an array, or vertices of a graph that it owns.
    nbytes : int
        About its payload: what its rows are on average where they are not next to each other.
    in_place, shared, copied, moved : int
        Parts of ``nbytes``: of objects that are taken as they are; of slices that share memory
        with what they are cut from; of rows that are gathered, once, into new memory; and of
        what comes from another instance.
    """

    instance: int
    rows: int = 0
    nbytes: int = 0
    in_place: int = 0
    shared: int = 0
    copied: int = 0
    moved: int = 0

    def add(self, way: str, rows: int, nbytes: int) -> None:
        """Count what comes in one of these ways."""
        self.rows += rows
        self.nbytes += nbytes
        setattr(self, way, getattr(self, way) + nbytes)


class Plan(ABC):
    """What will be made of what: print it, then `run` it, any number of times.

    Made by `Client.partition`, `repartition` and `concat` with ``plan=True``. It holds which row
    goes where (8 bytes a row, unless they are slices), and nothing in the store. What it was made
    of must still be there when it runs.

    Attributes
    ----------
    what : str
        What it makes, of what.
    partitions : list of PlannedPartition
    warnings : list of str
        Such as that one partition is much larger than the others.
    """

    what: str
    unit = "rows"
    partitions: list[PlannedPartition]
    warnings: list[str]

    def __init__(self, client: Client, what: str, partitions: Sequence[PlannedPartition]) -> None:
        self._client = client
        self.what, self.partitions, self.warnings = what, list(partitions), []

    def run(self, *, name: str | None = None, labels: Mapping[str, str] | None = None) -> ObjectID:
        """Make it: all of it, or nothing is left, whatever goes wrong.

        Parameters
        ----------
        name : str, optional
            A free name to point to the result.
        labels : mapping, optional
            Its first labels.

        Raises
        ------
        ObjectNotFoundError
            If what it is made of is gone.
        ConnectionLostError
            If an instance is gone.
        StoreFullError
            If it does not fit.
        """
        with Reach(self._client) as reach:
            return self._made(reach, name, dict(labels or {}))

    @abstractmethod
    def _made(self, reach: Reach, name: str | None, labels: dict[str, str]) -> ObjectID: ...

    @property
    def in_place(self) -> int:
        """Bytes that stay as they are, in objects that are there."""
        return sum(p.in_place for p in self.partitions)

    @property
    def shared(self) -> int:
        """Bytes of new objects that share memory with what is there."""
        return sum(p.shared for p in self.partitions)

    @property
    def copied(self) -> int:
        """Bytes that are copied on the instance where they are."""
        return sum(p.copied for p in self.partitions)

    @property
    def moved(self) -> int:
        """Bytes that come from another instance."""
        return sum(p.moved for p in self.partitions)

    def _warn_of_skew(self) -> None:
        sizes = [p.rows for p in self.partitions]
        total, most = sum(sizes), max(sizes)
        if len(sizes) > 1 and most * len(sizes) > _SKEW * total:
            self.warnings.append(
                f"skewed: partition {sizes.index(most)} has {most:,} of {total:,} {self.unit}"
            )
        if total and 0 in sizes:
            self.warnings.append(f"{sizes.count(0)} of {len(sizes)} partitions are empty")

    def __str__(self) -> str:
        head = ["", "instance", self.unit, "bytes", "in place", "shared", "copied", "moved"]
        table = [head]
        for i, p in enumerate(self.partitions):
            ways = (p.rows, p.nbytes, p.in_place, p.shared, p.copied, p.moved)
            table.append([str(i), f"{p.instance:06x}", *(f"{n:,}" for n in ways)])
        sums = (sum(p.rows for p in self.partitions), sum(p.nbytes for p in self.partitions))
        ways = (*sums, self.in_place, self.shared, self.copied, self.moved)
        table.append(["sum", "", *(f"{n:,}" for n in ways)])
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ["  ".join(map(str.rjust, row, widths)) for row in table]
        return "\n".join([self.what, *lines, *(f"warning: {w}" for w in self.warnings)])

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__}: {self.what}: {len(self.partitions)} partitions,"
            f" {self.moved:,} bytes move>"
        )
