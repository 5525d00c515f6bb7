"""Shared classes with fields of every kind, which C++ reads in test_codegen_cpp.py."""

from __future__ import annotations

import datetime as dt
import enum
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

import vineyard_arrow
from vineyard_arrow import ObjectID


class Color(enum.Enum):
    red = 1
    default = 2  # a keyword of C++


class Mood(enum.StrEnum):
    good = "good"
    bad = "bad"


@vineyard_arrow.shared(typename="fleet.vehicle", version=2)
@dataclass
class Vehicle:
    """What moves.

    A docstring of some lines, one of which ends in a backslash \\
    """

    name: str
    wheels: Annotated[int, pa.int8()] = 4


@vineyard_arrow.shared(typename="fleet.truck")
@dataclass
class Truck(Vehicle):
    load: float = 0.5


@vineyard_arrow.shared(typename="fleet.node")
@dataclass
class Node:
    value: int
    left: Node | None = None
    right: Node | None = None
    others: list[Node] = field(default_factory=list)


@vineyard_arrow.shared(typename="fleet.track", version=3)
@dataclass
class Track:
    """One day of a vehicle."""

    vehicle: Vehicle
    points: Annotated[NDArray[np.float64], (None, 3)]
    fixes: Annotated[pa.Table, pa.schema([("lat", pa.float64()), ("at", pa.timestamp("us"))])]
    grid: Annotated[NDArray[np.int32], (None, None)]
    whatever: np.ndarray
    codes: Annotated[pa.Array, pa.int64()]
    words: Annotated[pa.ChunkedArray, pa.large_string()]
    batch: pa.RecordBatch
    frame: pl.DataFrame
    series: pl.Series
    stamps: Annotated[np.ndarray, "M8[us]"]
    flags: NDArray[np.bool_]
    waves: NDArray[np.complex128]
    color: Color
    born: dt.date
    lunch: dt.time
    lasts: dt.timedelta
    seen: dt.datetime
    sent: Annotated[dt.datetime, pa.timestamp("us", "Europe/Berlin")]
    raw: bytes
    pairs: tuple[int, str]
    counts: list[int]
    limits: dict[str, float]
    by_day: dict[str, list[NDArray[np.float32]]]
    tree: Node
    parked: Truck | ObjectID
    note: str | None = None
    extra: pa.Table | None = None
    mood: Mood | None = Mood.bad
    label: str = ""
    delete: bool = True
    stops: list[str] = field(default_factory=list, metadata={"renamed_from": ("halts",)})


@vineyard_arrow.shared(typename="fleet.defaults", version=2)
@dataclass
class Defaults:
    rows: Annotated[NDArray[np.float64], (None,)]
    ratio: float = 1e999
    speed: Annotated[int, pa.uint64()] = 18446744073709551615
    least: int = -9223372036854775808
    label: str = 'say "hi"?\0é'
    edge: tuple[int, ...] = (1, 2)
    corner: tuple[int, float] | None = (1, 2)
    day: dt.date = dt.date(2026, 1, 31)
    noon: dt.time = dt.time(12)
    week: dt.timedelta = dt.timedelta(days=7)
    start: dt.datetime = dt.datetime(2026, 1, 31, 12)
    stops: list[str] = field(default_factory=list, metadata={"renamed_from": ("halts",)})
