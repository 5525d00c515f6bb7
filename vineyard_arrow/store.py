"""The waist between values and wires: what a client asks of a store, wherever that is.

A store moves parts (schemas with batches) in and out by id, and answers the messages of
`ipc.protocol`. It doesn't know what the parts mean. `ipc.attached.Attached` is one on this host,
over shared memory; `rpc.remote.Remote` one that is reached over TCP.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from .errors import StoreFullError
from .registry import Part, StoredPart

NOBODY = -1
"""The user of a process that no store vouches for: equal to that of no object."""


class Draft(msgspec.Struct, frozen=True, eq=False):
    """One object to be put: its parts, the root first, and what the catalog is to know of it."""

    parts: Sequence[Part]
    name: str | None = None
    members: list[int] = []
    signature: int = 0
    id: int | None = None  # if it was taken already (`Store.take_id`)
    labels: Mapping[str, str] = {}  # its first labels
    vouched: bool = True  # if not, its pickles are nobody's own
    overwrite: bool = False  # its name moves to it if it is taken


class Raw(Protocol):
    """An object as it was read."""

    @property
    def parts(self) -> Sequence[StoredPart]:
        """Its parts, the root first; members are not among them."""

    @property
    def members(self) -> dict[str, tuple[int, str]]:
        """Ids and typenames of its members, by name."""

    @property
    def uid(self) -> int | None:
        """The user who put it; None if several did."""


class Store(Protocol):
    """See the module's docstring."""

    timeout_s: float
    uid: int
    """The user whose pickles are this process's own; `NOBODY` if none are."""

    @property
    def socket(self) -> Path | str:
        """What to `connect` to."""

    @property
    def instance(self) -> int:
        """Number of the instance."""

    @property
    def alive(self) -> bool:
        """Whether it can still be asked."""

    def request(self, message: Any, timeout_s: float | None = None) -> tuple[Any, list[int]]:
        """The reply to a message, and the descriptors that came with it."""

    def ask(self, message: Any, timeout_s: float) -> Any:
        """The reply to a message that waits so long by itself; other requests don't wait for it."""

    def take_id(self) -> int:
        """An id for an object to be put."""

    def put(self, objects: Sequence[Draft], *, strict: bool = False) -> list[int]:
        """Store and publish objects, all or none; return their ids."""

    def read(
        self, key: int, mode: str = "ro", root: int | None = None, pin: Any | None = None
    ) -> Raw:
        """The parts of an object; with ``pin``, one of `hold`, even if it was deleted."""

    def read_each(self, keys: Iterable[int], mode: str, root: int) -> Iterator[Raw]:
        """`read` of each of many members of ``root``."""

    def private(self, key: int, parts: Sequence[StoredPart]) -> Sequence[StoredPart]:
        """The same parts of an object in memory that this process may write."""

    def hold(self, key: int) -> Any:
        """A pin: the object can be read for as long as it lives."""

    def describe(self, key: int, pin: Any | None = None) -> tuple[Any, ...]:
        """Header and parts of an object without its data."""

    def find_name(self, name: str) -> int:
        """The id that a name points to."""

    def wait_for(self, key: int | str, timeout_s: float) -> int:
        """Wait for an object or a name; return the id."""

    @property
    def pool(self) -> Any:
        """The memory pool to build in what is to be put."""

    def full(self, nbytes: int) -> StoreFullError:
        """The error for what finds no room."""

    def trim(self) -> None:
        """Give free memory back to the machine."""

    def release(self) -> None:
        """A client of it is closed."""
