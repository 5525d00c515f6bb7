"""What all global objects are: partitions in stores of several instances, known by id and size.

A global object is metadata, of which partitions are members; it opens one when it is asked for.
This module knows neither what partitions are nor how they come from elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, TypeVar

from .errors import ConnectionLostError, ObjectNotFoundError
from .objects import ObjectID

__all__ = ["GlobalObject", "Open"]

T = TypeVar("T")
Open = Callable[[int, ObjectID, bool], Any]
"""What gets the partition of an index by its object id; from elsewhere if the flag says so."""


class GlobalObject(Sequence[T]):
    """A sequence that opens its partitions when asked for; see the module's docstring.

    Attributes
    ----------
    object_ids : list of ObjectID or None
        By index; None for what is in no store yet.
    """

    _word: ClassVar[str] = "partition"
    _whole: ClassVar[str] = "object"
    object_ids: list[ObjectID | None]
    _opened: dict[int, Any]
    _open: Open | None

    def _begin(
        self, object_ids: Sequence[ObjectID | None], opened: dict[int, Any], open_: Open | None
    ) -> None:
        self.object_ids, self._opened, self._open = list(object_ids), opened, open_

    def __len__(self) -> int:
        return len(self.object_ids)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self._one(i) for i in range(*index.indices(len(self)))]
        return self._one(index + len(self) if -len(self) <= index < 0 else index)

    def __iter__(self) -> Iterator[T]:
        return map(self._one, range(len(self)))

    def where(self, key: int | str) -> int:
        """The number of the instance that owns the partition of this object id.

        Raises
        ------
        ObjectNotFoundError
            If it is none of this object's.
        """
        object_id = ObjectID(key)
        if object_id not in self.object_ids:
            raise ObjectNotFoundError(f"{object_id} is no {self._word} of this {self._whole}")
        return object_id.instance

    def _one(self, index: int, fetch: bool = False) -> Any:
        """The value of one, got the first time."""
        if not 0 <= index < len(self):
            raise IndexError(f"no {self._word} {index}: there are {len(self)}")
        if index not in self._opened:
            object_id = self.object_ids[index]
            assert self._open is not None
            assert object_id is not None
            try:
                found = self._open(index, object_id, fetch)
            except ObjectNotFoundError as error:
                raise ObjectNotFoundError(
                    f"{self._word} {index} ({object_id}) of this {self._whole} is gone:"
                    f" {error.message}",
                    error.hint or "it was deleted, or lives elsewhere: fetch=True gets it",
                ) from None
            except ConnectionLostError as error:
                raise ConnectionLostError(
                    f"{self._word} {index} ({object_id}) of this {self._whole}: {error.message}",
                    error.hint,
                ) from None
            self._check(index, found)
            self._opened[index] = found
        return self._opened[index]

    def _check(self, index: int, found: Any) -> None:
        """Raise unless what was got is what belongs there."""
        raise NotImplementedError
