"""Shared classes of every kind: put by the tests, and read by codegen as a file."""

from __future__ import annotations

import datetime as dt
import enum
from dataclasses import KW_ONLY, dataclass, field, fields, is_dataclass
from typing import Annotated, Any, ClassVar, Optional
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray
from types_harness import assert_same as assert_same_value

import vineyard_arrow
from vineyard_arrow import ObjectID, shared

# Longer than a line of code may be, with types within types.
PLATE = pa.field("plate", pa.binary(4), nullable=False)
STOP = pa.struct({"at": pa.timestamp("ms", "UTC"), "km": pa.float32(), "plates": pa.list_(PLATE)})
WAYBILL = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("stops", pa.list_(STOP)),
        pa.field("kind", pa.dictionary(pa.int8(), pa.string())),
        pa.field("extra", pa.map_(pa.string(), pa.decimal128(10, 2))),
        pa.field("a_column_with_quite_a_long_name_of_its_own", pa.large_list(PLATE), nullable=True),
    ]
)
Points = Annotated[NDArray[np.float64], (None, 3)]


class Color(enum.Enum):
    """Of a vehicle."""

    RED = 1
    GREEN = 2
    BLUE = GREEN  # another name of it


class Mood(enum.StrEnum):
    GOOD = enum.auto()
    BAD = "so-so"


@shared(typename="test.plain", version=3)
@dataclass(frozen=True)
class Plain:
    """Values of one cell.

    Its default texts have "quotes", and a \\ in them.
    """

    flag: bool
    count: int
    share: float
    text: str
    data: bytes
    day: dt.date
    clock: dt.time
    span: dt.timedelta
    moment: dt.datetime
    instant: Annotated[dt.datetime, pa.timestamp("us", "Europe/Berlin")]
    small: Annotated[int, pa.int8()]
    large: Annotated[int, pa.uint64()]
    color: Color
    mood: Mood = Mood.GOOD
    quoted: str = 'say "hi"'
    both: str = 'it\'s "so"\n'
    empty: bytes = b"\x00'"
    limit: float = float("inf")
    since: dt.date = dt.date(2026, 1, 31)
    pair: tuple[int, str] = (1, "a")
    one: tuple[int] = (1,)
    maybe: int | None = None
    unit: ClassVar[str] = "km"

    def not_generated(self) -> int:
        """A method: of this module alone."""
        return self.count


@shared(typename="test.arrays")
@dataclass(kw_only=True, slots=True, frozen=True)
class Arrays:
    points: Points
    column: Annotated[pa.Array, pa.int32()]
    chunks: Annotated[pa.ChunkedArray, pa.string()]
    waybill: Annotated[pa.Table, WAYBILL]
    times: Annotated[np.ndarray, "M8[us]"]
    anything: np.ndarray
    batch: pa.RecordBatch | None = None
    frame: pl.DataFrame | None = None
    series: Optional[pl.Series] = None  # noqa: UP045
    old_frame: "pd.DataFrame | None" = None  # noqa: UP037
    old_series: pd.Series | None = None
    plane: NDArray[np.bool_] | None = None
    more: dict[str, list[Annotated[NDArray[np.float32], (None, None, 4)]]] = field(
        default_factory=dict
    )


@dataclass
class NotShared:
    """A base that is no type of the store."""

    inherited: int
    _: KW_ONLY
    named: str = "n"


@shared(typename="test.base", version=2)
@dataclass
class Base(NotShared):
    note: str = field(default="", metadata={"renamed_from": "remark"})


@shared(typename="test.derived")
@dataclass
class Derived(Base):
    note: str = "derived"
    length: float = field(default=0.0, kw_only=True, metadata={"renamed_from": ("len", "l")})


@vineyard_arrow.shared(typename="test.nest")
@dataclass
class Nest:
    name: str
    leaf: Leaf
    base: Base
    leaves: list[Leaf] = field(default_factory=list)
    by_name: dict[str, Leaf | None] = field(default_factory=dict)
    pairs: tuple[tuple[Leaf, int], ...] = ()
    deep: list[dict[str, list[int | None]]] = field(default_factory=list)
    below: list[Nest] = field(default_factory=list, repr=False)
    other: Leaf | ObjectID | None = None
    seen: int = field(default=0, init=False)


@shared(typename="test.leaf")
@dataclass
class Leaf:
    values: NDArray[np.int64] | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Leaf) and np.array_equal(self.values, other.values)


@shared(typename="test.empty")
@dataclass
class Empty:
    pass


def plain() -> Plain:
    return Plain(
        flag=True,
        count=-(2**63),
        share=1.2345,
        text="Grüße\x00",
        data=b"\xff\x00",
        day=dt.date(1, 1, 1),
        clock=dt.time(23, 59, 59, 999999),
        span=dt.timedelta(days=-1, microseconds=1),
        moment=dt.datetime(9999, 12, 31, 23, 59, 59, 999999),
        instant=dt.datetime(2026, 1, 31, 12, tzinfo=ZoneInfo("Europe/Berlin")),
        small=-128,
        large=2**64 - 1,
        color=Color.BLUE,
        mood=Mood.BAD,
        maybe=0,
    )


def waybill() -> pa.Table:
    stop = {"at": dt.datetime(2026, 1, 1, tzinfo=dt.UTC), "km": 1.5, "plates": [b"abcd"]}
    row = {"id": 1, "stops": [stop, None], "kind": "post", "extra": [("x", 3)]}
    row["a_column_with_quite_a_long_name_of_its_own"] = [b"abcd"]
    return pa.Table.from_pylist([row] * 3, WAYBILL)


def arrays() -> Arrays:
    return Arrays(
        points=np.arange(30_000.0).reshape(-1, 3),
        column=pa.array([1, None, 3], pa.int32()),
        chunks=pa.chunked_array([["a"], [], ["b", None]], pa.string()),
        waybill=waybill(),
        times=np.array(["2026-01-31", "NaT"], "M8[us]"),
        anything=np.asfortranarray(np.arange(6, dtype=">i2").reshape(2, 3)),
        batch=pa.record_batch({"x": [1, 2]}),
        frame=pl.DataFrame({"x": ["a", None]}),
        series=pl.Series("s", [1, 2, 3]),
        old_frame=pd.DataFrame({"x": [1.5, 2.5]}, index=[3, 4]),
        old_series=pd.Series([1, 2], name="old"),
        plane=np.array([True, False]),
        more={"a": [np.ones((2, 3, 4), "f4")], "b": []},
    )


def leaf(n: int = 3) -> Leaf:
    return Leaf(np.arange(n))


def nest() -> Nest:
    return Nest(
        name="root",
        leaf=leaf(),
        base=Derived(7, note="as it is", length=2.5),
        leaves=[leaf(0), Leaf(), leaf(2)],
        by_name={"x": leaf(), "": None},
        pairs=((leaf(), 1), (leaf(1), 2)),
        deep=[{"a": [1, None], "b": []}, {}],
        below=[Nest("child", leaf(), Base(1, note="b", named="m"), below=[])],
    )


def assert_same(a: Any, b: Any) -> None:
    """As the harness's, for dataclasses with slots too."""
    assert type(a) is type(b)
    if is_dataclass(a):
        a, b = ([getattr(each, f.name) for f in fields(each)] for each in (a, b))
    assert_same_value(a, b)


VALUES = [
    ("plain", plain),
    ("arrays", arrays),
    ("nest", nest),
    ("leaf", leaf),
    ("empty", Empty),
    ("among others", lambda: [leaf(), {"k": (Empty(), 1)}]),
]
