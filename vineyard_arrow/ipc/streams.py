"""The daemon's book of *streams*: ordered logs of batches, and how far each reader has come.

A batch is sealed and pinned like any object, but belongs to its stream alone. A stream has
one writer; readers come and go. What all present readers are past is *let go*, unless the
stream keeps everything; without a reader nothing is. Numbers of batches count from 0, from
the stream's beginning.

Knows no sessions and no messages; single-threaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..metadata.catalog import Record
from .memory import Writer


@dataclass(slots=True, eq=False)
class Reader:
    """One reader of a stream."""

    pid: int
    owner: Writer  # the client whose pins hold what it reads
    word: Callable[[], int]  # which batch it needs next, by its own word
    at: int  # the same, as far as can be
    told: int  # batches before this one are known to it

    def update(self) -> int:
        """Read its word, and return which batch it needs next."""
        self.at = max(self.at, min(self.word(), self.told))
        return self.at


@dataclass(slots=True, eq=False)
class Stream:
    """A stream, with the batches of it that are in the store, by number."""

    id: int
    name: str | None
    schema: bytes
    max_batches: int | None
    max_nbytes: int | None
    keep: bool
    pid: int  # of its writer
    owner: Writer  # the client that puts its batches
    created_ns: int
    tell: Callable[[int, int], None]  # its writer how many batches and bytes were let go
    ephemeral: bool = False  # what nobody reads any more is for nobody, once it is over
    batches: dict[int, Record] = field(default_factory=dict)
    written: int = 0  # batches ever
    written_nbytes: int = 0
    gone: int = 0  # of them, let go: the number of the oldest that is left
    gone_nbytes: int = 0
    over: bool = False  # no more will be written
    failure: str | None = None  # why it came to no proper end
    readers: set[Reader] = field(default_factory=set)
    was_read: bool = False

    @property
    def label(self) -> str:
        """What it is called in errors."""
        return f"stream {self.name!r}" if self.name is not None else f"stream o{self.id:016x}"

    @property
    def state(self) -> str:
        """One of "open", "ended", "failed"."""
        return "failed" if self.failure is not None else "ended" if self.over else "open"

    @property
    def stored(self) -> int:
        """Bytes of the extents of its batches."""
        return sum(record.stored for record in self.batches.values())

    @property
    def finished(self) -> bool:
        """Whether nobody will miss it: it is over, and was read by whoever came."""
        if self.keep or self.readers or not (self.over and self.was_read):
            return False
        return self.ephemeral or not self.batches

    def facts(self) -> tuple[Any, ...]:
        """What is told of it, in the order of the message `StreamState`."""
        return (
            self.id,
            self.name,
            self.schema,
            self.state,
            self.failure,
            self.keep,
            self.max_batches,
            self.max_nbytes,
            self.pid,
            self.created_ns,
            self.written,
            self.written_nbytes,
            len(self.batches),
            self.written_nbytes - self.gone_nbytes,
            self.stored,
            sorted((reader.pid, reader.update()) for reader in self.readers),
        )

    def append(self, record: Record) -> None:
        """Add a batch at its end."""
        self.batches[self.written] = record
        self.written += 1
        self.written_nbytes += record.nbytes

    def join(self, pid: int, owner: Writer, word: Callable[[], int]) -> Reader:
        """A new reader, which begins with the oldest batch that is left."""
        reader = Reader(pid, owner, word, self.gone, self.gone)
        self.readers.add(reader)
        self.was_read = True
        return reader

    def ids_from(self, number: int, most: int) -> list[int]:
        """Ids of the batches from ``number`` on, up to ``most`` of them."""
        return [self.batches[i].id for i in range(number, min(self.written, number + most))]

    def let_go(self) -> list[Record]:
        """Take out the batches that all readers are past, and return them."""
        if self.keep or not self.readers:
            return []
        return self._take_out(min([reader.update() for reader in self.readers]))

    def empty(self) -> list[Record]:
        """Take out all batches, and return them."""
        return self._take_out(self.written)

    def _take_out(self, end: int) -> list[Record]:
        out = [self.batches.pop(number) for number in range(self.gone, end)]
        self.gone = max(self.gone, end)
        self.gone_nbytes += sum(record.nbytes for record in out)
        if not self.over:
            self.tell(self.gone, self.gone_nbytes)
        return out

    def end(self, failure: str | None = None) -> None:
        """No more will be written."""
        self.over, self.failure = True, failure
