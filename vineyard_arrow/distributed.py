"""Tables, frames and tensors made of partitions on several instances.

Each is a sequence of its partitions, and knows where and how large they are without touching
them. The partitions are ordinary objects; what they have in common with the fragments of a
graph is in `partitions`; `joined` makes them. It schedules nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from .errors import InvalidObjectError
from .objects import ObjectID
from .partitions import GlobalObject, Open

if TYPE_CHECKING:
    from .client import Client

__all__ = [
    "GlobalDataFrame",
    "GlobalTable",
    "GlobalTensor",
    "Partition",
    "Place",
    "kind_of",
    "shape_of",
]


@dataclass(frozen=True, slots=True)
class Place:
    """What is known of a partition without opening it.

    Attributes
    ----------
    nbytes : int
        Its payload.
    shape : tuple of int
        Its rows; of a tensor, its extent in each dimension.
    offset : tuple of int
        Where its first row or element lies in the whole.
    bounds : tuple or None
        Least and greatest key, as its maker told.
    """

    nbytes: int
    shape: tuple[int, ...]
    offset: tuple[int, ...]
    bounds: tuple[Any, Any] | None = None


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition of a global object: where it is, and what gets it.

    Attributes
    ----------
    index : int
    id : ObjectID or None
        None while it is in no store.
    place : Place
    """

    index: int
    id: ObjectID | None
    place: Place
    _whole: GlobalObject[Any]

    @property
    def instance(self) -> int | None:
        """Number of the instance that owns it."""
        return None if self.id is None else self.id.instance

    @property
    def nbytes(self) -> int:
        """Payload in bytes."""
        return self.place.nbytes

    @property
    def num_rows(self) -> int:
        """Its extent in the first dimension."""
        return self.place.shape[0]

    def get(self, *, fetch: bool = False) -> Any:
        """Its value: of the client's own store not copied; with ``fetch``, from anywhere.

        Raises
        ------
        ObjectNotFoundError
            If it is gone, or lives elsewhere and is not to be fetched.
        """
        return self._whole._one(self.index, fetch)


class _Distributed(GlobalObject[Any]):
    """What tables, frames and tensors have in common.

    Attributes
    ----------
    empty
        A value without rows, of the type and schema of the partitions.
    places : list of Place
    key : str or None
        The column that bounds are of; None if there are none, or they are of pandas' index.
    """

    _kinds: ClassVar[frozenset[str]]
    empty: Any
    places: list[Place]
    key: str | None = None

    @classmethod
    def of(
        cls,
        object_ids: Sequence[ObjectID],
        places: Sequence[Place],
        empty: Any,
        key: str | None,
        open_: Open | None,
    ) -> Any:
        """Of partitions that are got by ``open_`` when they are asked for."""
        self = cls()
        self._begin(object_ids, {}, open_)
        self.places, self.empty, self.key = list(places), empty, key
        self._check_places()
        return self

    @property
    def partitions(self) -> list[Partition]:
        """All partitions, by index; none is opened."""
        return [
            Partition(i, object_id, place, self)
            for i, (object_id, place) in enumerate(zip(self.object_ids, self.places, strict=True))
        ]

    def local_partitions(self, client: Client) -> Iterator[Partition]:
        """Those that the instance of ``client`` owns."""
        return (p for p in self.partitions if p.instance == client.instance)

    @property
    def nbytes(self) -> int:
        """Payload of all partitions, in bytes."""
        return sum(place.nbytes for place in self.places)

    def _check_places(self) -> None:
        """Raise unless the partitions make a whole."""
        start, upper = 0, None
        for place in self.places:
            if place.bounds is not None:
                _check_bounds(place.bounds, upper)
                upper = place.bounds[1]
            if len(place.shape) != 1 or place.offset != (start,) or place.shape[0] < 0:
                raise InvalidObjectError("the partitions of this object do not follow each other")
            start += place.shape[0]

    def _check(self, index: int, found: Any) -> None:
        place = self.places[index]
        if kind_of(found) not in self._kinds or shape_of(found)[: len(place.shape)] != place.shape:
            raise InvalidObjectError(
                f"{self.object_ids[index]} is a {type(found).__name__}, not partition {index}"
            )

    def __repr__(self) -> str:
        instances = len({object_id.instance for object_id in self.object_ids if object_id})
        return (
            f"<{type(self).__name__}: {len(self)} partitions on {instances} instances,"
            f" {self.nbytes:,} bytes>"
        )


class GlobalTable(_Distributed):
    """A table in partitions that are tables or record batches of pyarrow's, of one schema."""

    _kinds = frozenset({"table"})

    @property
    def num_rows(self) -> int:
        """Rows of all partitions."""
        return sum(place.shape[0] for place in self.places)

    @property
    def schema(self) -> pa.Schema:
        """Of every partition."""
        return self.empty.schema


class GlobalDataFrame(_Distributed):
    """A frame in partitions that are all pandas' or all polars'."""

    _kinds = frozenset({"pandas", "polars"})

    @property
    def num_rows(self) -> int:
        """Rows of all partitions."""
        return sum(place.shape[0] for place in self.places)


class GlobalTensor(_Distributed):
    """An array in chunks that make a grid."""

    _kinds = frozenset({"numpy"})

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of every chunk."""
        return self.empty.dtype  # type: ignore[no-any-return]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole."""
        return tuple(sum(sizes) for sizes in self.chunks)

    @property
    def chunks(self) -> tuple[tuple[int, ...], ...]:
        """Sizes of the chunks along each axis, as Dask has them."""
        axes = range(len(self.places[0].shape))
        sizes = [{p.offset[axis]: p.shape[axis] for p in self.places} for axis in axes]
        return tuple(tuple(size for _, size in sorted(each.items())) for each in sizes)

    def _check_places(self) -> None:
        if any(place.bounds is not None for place in self.places):
            raise InvalidObjectError("bounds of a tensor", "they are of tables and frames")
        ndim = len(self.places[0].shape)
        found = {place.offset: place.shape for place in self.places}
        if not ndim or any(len(o) != ndim or len(s) != ndim for o, s in found.items()):
            raise InvalidObjectError("the chunks of this tensor differ in their dimensions")
        starts = [np.cumsum([0, *sizes]).tolist() for sizes in self.chunks]
        grid = {
            tuple(starts[a][i] for a, i in enumerate(at)): tuple(
                self.chunks[a][i] for a, i in enumerate(at)
            )
            for at in product(*(range(len(sizes)) for sizes in self.chunks))
        }
        if found != grid or len(found) != len(self.places):
            raise InvalidObjectError(
                "the chunks of this tensor make no grid", "give offsets that leave no gap"
            )


def kind_of(value: Any) -> str:
    if isinstance(value, pa.Table | pa.RecordBatch):
        return "table"
    if isinstance(value, np.ndarray) and value.ndim:
        return "numpy"
    library = type(value).__module__.partition(".")[0]
    if library in ("pandas", "polars") and type(value).__name__ == "DataFrame":
        return library
    raise InvalidObjectError(
        f"a {type(value).__name__} is no partition", "use tables, frames or arrays"
    )


def shape_of(value: Any) -> tuple[int, ...]:
    return value.shape if kind_of(value) == "numpy" else (value.shape[0],)


def _check_bounds(bounds: tuple[Any, Any], before: Any) -> None:
    """Raise unless they follow ``before``, the greatest key of the partition before."""
    try:
        lower, upper = bounds
        ascend = bool(lower <= upper and (before is None or before < lower))
    except (TypeError, ValueError) as error:
        raise InvalidObjectError(
            f"{bounds!r} are no bounds: {error}", "give (least, greatest) of each partition"
        ) from None
    if not ascend:
        after = "" if before is None else f" after {before!r}"
        raise InvalidObjectError(
            f"bounds {lower!r} to {upper!r}{after} overlap or do not ascend",
            "order partitions by their keys; a key is in one partition alone",
        )
