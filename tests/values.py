"""Values that must come back from a store exactly: ``ALL_VALUES``, pairs of id and maker."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import enum
import functools
import math
import uuid
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa

Values = list[tuple[str, Callable[[], Any]]]


class Colour(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    HIGH = 3


class Name(str):
    __slots__ = ()


Point = collections.namedtuple("Point", "x y")


@dataclasses.dataclass
class Model:
    name: str
    weights: Any
    table: Any = None


class Storage32(pa.ExtensionType):
    """An extension type that nobody registers."""

    def __init__(self) -> None:
        super().__init__(pa.int32(), "tests.storage32")

    def __arrow_ext_serialize__(self) -> bytes:
        return b"params"

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: Any, serialized: bytes) -> Storage32:
        assert serialized == b"params"
        return cls()


class Tagged(np.ndarray):
    """A foreign subclass of ndarray."""


def given(prefix: str, *values: Any) -> Values:
    """Values that exist already, with ids made of what they are."""
    return [
        (f"{prefix}-{i}-{type(value).__name__}", (lambda value=value: value))
        for i, value in enumerate(values)
    ]


def _unregistered() -> pa.Array:
    return pa.ExtensionArray.from_storage(Storage32(), pa.array([1, None, 3], pa.int32()))


_UNION_TYPES = pa.array([0, 1, 0], pa.int8())
_CHILDREN = [pa.array([1, 2, 3]), pa.array(["a", "b", "c"])]
_EXT = pa.array([b"0123456789abcdef", None], pa.uuid())
ARRAYS = [
    pa.array([1, None, 3], pa.int8()),
    pa.array([], pa.int64()),
    pa.array([1.5, math.nan, -0.0, None]),
    pa.array([1, 2], pa.float16()),
    pa.array([True, None, False]),
    pa.nulls(4),
    pa.array(["a", None, "ccc"]),
    pa.array(["a", None, "c" * 20], pa.large_string()),
    pa.array(["a", None, "c" * 20], pa.string_view()),
    pa.array([b"a", None], pa.binary_view()),
    pa.array([b"abc", None], pa.binary(3)),
    pa.array(["a", "b", None, "a"]).dictionary_encode(),
    pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int8()), ["x", "y"], ordered=True),
    pa.array([[1], None, []]),
    pa.array([[1], None, []], pa.large_list(pa.int8())),
    pa.array([[1, 2], None], pa.list_(pa.int8(), 2)),
    pa.array([[1], None, []], pa.list_view(pa.int8())),
    pa.array([{"a": 1, "b": "x"}, None]),
    pa.array([{}, {}], pa.struct([])),
    pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int64(), keys_sorted=True)),
    pa.UnionArray.from_sparse(_UNION_TYPES, _CHILDREN),
    pa.UnionArray.from_dense(_UNION_TYPES, pa.array([0, 0, 1], pa.int32()), _CHILDREN),
    pa.RunEndEncodedArray.from_arrays([2, 5], ["a", None]),
    pa.array([Decimal("1.23"), None]),
    pa.array([Decimal("1.23"), None], pa.decimal256(60, 2)),
    pa.array([0, None], pa.timestamp("us", "Europe/Berlin")),
    pa.array([0, None], pa.timestamp("ns")),
    pa.array([dt.date(2024, 1, 1)], pa.date64()),
    pa.array([0], pa.time32("s")),
    pa.array([0], pa.time64("ns")),
    pa.array([0], pa.duration("ms")),
    pa.array([pa.MonthDayNano([1, 2, 3])]),
    _EXT,
    pa.array(["{}"], pa.json_()),
    pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(pa.int8(), [2, 2]),
        pa.array([[1, 2, 3, 4]], pa.list_(pa.int8(), 4)),
    ),
    pa.array([[["a"]], None], pa.list_(pa.list_(pa.dictionary(pa.int8(), pa.string())))),
]
_TABLE = pa.table(
    {"a": [1, 2, None], "b": ["x", None, "z"], "c": [[1], [], None]}, metadata={"k": "v"}
)
_META = pa.schema(
    [
        pa.field("i", pa.int64(), nullable=False, metadata={"unit": "m"}),
        pa.field("i", pa.string(), metadata={b"\xff": b"\x00"}),
    ],
    metadata={"made": "by hand"},
)


def _dictionaries() -> pa.Table:
    chunks = [pa.array([f"{k}-{i}" for i in range(500)]).dictionary_encode() for k in range(3)]
    return pa.table({"d": pa.chunked_array(chunks)})


ARROW: Values = (
    given("arrow-array", *ARRAYS)
    + given("arrow-slice", *(a[1:] for a in ARRAYS if len(a) > 1))
    + given("arrow-chunked", *(pa.chunked_array([a, a[:0], a]) for a in ARRAYS))
    + given("arrow-nochunk", *(pa.chunked_array([], a.type) for a in ARRAYS))
    + given("arrow-scalar", *(a[0] for a in ARRAYS if len(a)))
    + given("arrow-null", *(a[1] for a in ARRAYS if len(a) > 1))
    + given("arrow-type", *(a.type for a in ARRAYS))
    + given(
        "arrow-table",
        _TABLE,
        _TABLE[1:2],
        _TABLE[:0],
        _TABLE.select([]),
        pa.table({}),
        pa.table({"a": pa.chunked_array([], pa.int64())}),
        pa.table({"a": pa.chunked_array([[1], [], [2, 3]]), "b": pa.chunked_array([[1, 2], [3]])}),
        pa.Table.from_arrays([pa.array([1]), pa.array(["x"])], schema=_META),
        pa.Table.from_batches([], _META),
        pa.Table.from_batches(pa.table({"a": [1]})[:0].to_batches(), pa.schema({"a": "int64"})),
        _META,
        _META.field(0),
        pa.schema([]),
    )
    + given(
        "arrow-batch",
        *_TABLE.to_batches(),
        pa.record_batch({"a": pa.array([], pa.string())}),
        pa.RecordBatch.from_struct_array(pa.array([{}] * 5, pa.struct([]))),
        pa.record_batch([]),
    )
    + given("arrow-buffer", pa.py_buffer(b""), pa.py_buffer(b"abc"), pa.py_buffer(b"abcdef")[2:4])
    + [
        ("arrow-dictionaries", _dictionaries),
        ("arrow-all", lambda: pa.table([a.slice(0, 1) for a in ARRAYS if len(a)], names=[
            str(i) for i, a in enumerate(ARRAYS) if len(a)])),
        ("arrow-reader", lambda: _TABLE.to_reader()),
        ("arrow-unregistered", _unregistered),
        ("arrow-unregistered-scalar", lambda: _unregistered()[0]),
        ("arrow-unregistered-type", Storage32),
        ("arrow-unregistered-slice", lambda: _unregistered()[1:]),
        ("arrow-unregistered-nested", lambda: pa.table(
            {"s": pa.StructArray.from_arrays([_unregistered(), pa.array([1, 2, 3])], ["e", "i"])})),
        ("arrow-unregistered-schema", lambda: pa.schema({"e": Storage32()})),
        ("arrow-unregistered-empty", lambda: pa.chunked_array([], Storage32())),
    ]
)  # fmt: skip

_NUMBER_DTYPES = "? i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8 g F D G >i4 >f8 >c16"
_OTHER_DTYPES = "S5 U3 >U3 V4 S0 U0 V0 M8[ns] M8[D] M8[25s] >M8[us] m8[ms] m8[h]"
_DTYPES = f"{_NUMBER_DTYPES} {_OTHER_DTYPES}".split()
_RECORD = np.dtype(
    [("a", "i1"), ("b", [("x", ">f4"), ("y", "U2", (2, 3))]), ("c", "M8[ms]")], align=True
)
_OFFSETS = np.dtype({"names": ["b", "a"], "formats": ["i4", "u1"], "offsets": [4, 1],
                     "itemsize": 12, "titles": ["the b", None]})  # fmt: skip


def _numbers(dtype: Any, *shape: int) -> np.ndarray[Any, Any]:
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if not size:
        return np.zeros(shape, dtype)
    if dtype.kind in "fcMm?UbS":  # any bytes would not do: invalid code points, long doubles
        numbers = np.arange(math.prod(shape)) - 2
        return numbers.astype("i8").astype(dtype).reshape(shape)
    return np.frombuffer(np.arange(size, dtype="u1").tobytes(), dtype).reshape(shape).copy()


def _object_array() -> np.ndarray[Any, Any]:
    array = np.empty((2, 2), dtype=object)
    array[0, 0], array[0, 1], array[1, 0] = [1, 2], (3, "x"), np.arange(300)
    return array


_STRINGS = np.array(["a", "é", "long enough to leave the array" * 2], np.dtypes.StringDType())
_NUMPY_SHAPES = [(6,), (2, 3), (0,), (0, 3), (1, 1, 1), (40, 50)]
NUMPY: Values = (
    [
        (f"numpy-{dtype}-{'x'.join(map(str, shape))}", (lambda d=dtype, s=shape: _numbers(d, *s)))
        for dtype in _DTYPES
        for shape in _NUMPY_SHAPES
        if np.dtype(dtype).itemsize or shape != (40, 50)
    ]
    + given(
        "numpy",
        np.array(1.5),
        np.array("x"),
        np.asfortranarray(_numbers("f8", 2, 3)),
        np.asfortranarray(_numbers("f8", 40, 50, 3)),
        np.asfortranarray(_numbers(">i4", 40, 50)),
        _numbers("f8", 40, 50)[::2, ::-1],
        _numbers("f8", 10, 20, 3).transpose(1, 0, 2),
        np.broadcast_to(np.arange(3), (400, 3)),
        np.array(["2024-01-01", "NaT"], "M8[D]"),
        np.array([1, "NaT"], "m8"),
        np.array([math.nan, -0.0, math.inf]),
        np.zeros(3, _RECORD),
        np.zeros((2, 300), _RECORD),
        np.zeros(3, _OFFSETS),
        np.zeros(3, [("o", object), ("i", "i4")]),
        np.zeros(3, [("i", "i4")]).view(np.recarray),
        np.zeros(3, np.dtype((np.record, [("i", "i4")]))),
        np.rec.array([(1, "a")], dtype=[("i", "i4"), ("s", "U1")])[0],
        np.zeros(3, _RECORD)[0],
        np.zeros(3, np.dtype("i4", metadata={"a": 1})),
        np.array([[1, 2], [3, 4]]).view(np.matrix),
        np.arange(3).view(Tagged),
        _STRINGS,
        _STRINGS.astype(np.dtypes.StringDType(na_object=None)),
        np.array([1, "x", None, 2.5, [1, 2]], dtype=object),
        np.array([[1, 2], [3, 4]], dtype=object, order="F"),
        np.array({"a": 1}, dtype=object),
        np.array([], dtype=object),
        _object_array(),
        np.ma.array([1, 2, 3], mask=[0, 1, 0]),
        np.ma.array([1.5, 2], fill_value=7.0, hard_mask=True),
        np.ma.array(np.arange(2000.0), mask=np.arange(2000) % 2),
        np.ma.array(np.zeros(3, [("a", "i4"), ("b", "f8")]), mask=[(0, 1), (1, 0), (0, 0)]),
        np.ma.masked,
        np.dtype("f8"),
        np.dtype(_RECORD),
        np.float64,
        np.sin,
    )
    + given("numpy-scalar", *(_numbers(d, 6)[3] for d in _DTYPES if np.dtype(d).itemsize))
    + given("numpy-scalar", np.str_("a\0"), np.str_("é"), np.bytes_(b"a\0"), np.datetime64("NaT"),
            np.str_(""), np.float64("nan"), np.float64(1), np.True_, np.str_("\ud800"))
)  # fmt: skip


def _mixed_frame() -> pd.DataFrame:
    n = 300
    frame = pd.DataFrame({name: s.array for name, s in _columns(n).items()})
    frame.attrs["source"] = {"made": (1, 2)}
    return frame


@functools.lru_cache
def _columns(n: int) -> dict[str, pd.Series[Any]]:
    number = pd.Series(np.arange(n))
    moment = pd.Series(pd.date_range("2024-01-01", periods=n))
    words = (number % 7).astype(str).where(number % 5 != 0)
    some = number.where(number % 3 != 0)
    return {
        "int": number,
        "float": number + 0.5,
        "float2": number * 1.5,
        "f32": number.astype("f4"),
        "bool": number % 2 == 0,
        "complex": number * 1j,
        "moment": moment,
        "moment_s": moment.astype("M8[s]"),
        "delta": moment - moment[:1].iloc[0],
        "tz": moment.dt.tz_localize("Europe/Berlin"),
        "utc": moment.dt.tz_localize("UTC"),
        "offset": moment.dt.tz_localize(dt.timezone(dt.timedelta(hours=2))),
        "period": moment.dt.to_period("M"),
        "interval": pd.Series(pd.interval_range(0, n, periods=n)),
        "interval_t": pd.Series(pd.IntervalIndex.from_breaks(
            pd.date_range("2024", periods=n + 1, tz="UTC"), closed="left")),
        "str": words,
        "string": words.astype("string"),
        "string_py": words.astype(pd.StringDtype("python")),
        "string_py_nan": words.astype(pd.StringDtype("python", na_value=np.nan)),
        "string_pa": words.astype(pd.StringDtype("pyarrow")),
        "Int64": some.astype("Int64"),
        "UInt8": (some % 50).astype("UInt8"),
        "Float32": some.astype("Float32"),
        "boolean": (some % 2 == 0).astype("boolean").where(some.notna()),
        "category": words.astype("category"),
        "ordered": words.astype(pd.CategoricalDtype([str(i) for i in range(7)], ordered=True)),
        "category_i": number.astype("category"),
        "pa_int": some.astype(pd.ArrowDtype(pa.int32())),
        "pa_list": pd.Series([[1, 2]] * n, dtype=pd.ArrowDtype(pa.list_(pa.int8()))),
        "pa_uuid": pd.Series([b"0" * 16] * n, dtype=pd.ArrowDtype(pa.uuid())),
        "pa_decimal": some.astype(pd.ArrowDtype(pa.decimal128(10, 2))),
        "sparse": some.astype(pd.SparseDtype("float", math.nan)),
        "sparse_i": (number % 5).astype(pd.SparseDtype("int", 0)),
        "object": pd.Series([1, "x", None] * (n // 3), dtype=object),
        "dates": pd.Series([dt.date(2024, 1, 1)] * n, dtype=object),
    }  # fmt: skip


def _series_of(name: str, n: int) -> Callable[[], Any]:
    return lambda: _columns(n)[name].rename(("a", 1))


def _array_of(name: str) -> Callable[[], Any]:
    return lambda: _columns(300)[name].array


def _index_of(name: str) -> Callable[[], Any]:
    return lambda: pd.Index(_columns(300)[name], name=name)


_NAMES = list(_columns(3))
_UNIQUE = pd.DataFrame({"a": [1]}).set_flags(allows_duplicate_labels=False)
_MULTI = pd.MultiIndex.from_product(
    [["a", "b"], pd.date_range("2024", periods=2), pd.CategoricalIndex(["x"])],
    names=["l", None, ("t", 1)],
)
_HOLIDAYS = pd.offsets.CustomBusinessDay(holidays=["2024-01-02"])
PANDAS: Values = (
    [(f"pandas-series-{name}", _series_of(name, 300)) for name in _NAMES]
    + [(f"pandas-short-{name}", _series_of(name, 3)) for name in _NAMES]
    + [(f"pandas-empty-{name}", lambda name=name: _columns(3)[name][:0]) for name in _NAMES]
    + [(f"pandas-array-{name}", _array_of(name)) for name in _NAMES]
    + [(f"pandas-index-{name}", _index_of(name)) for name in _NAMES if "sparse" not in name
       and name != "pa_list"]
    + [("pandas-mixed", _mixed_frame), ("pandas-mixed-slice", lambda: _mixed_frame()[10:200:3])]
    + given(
        "pandas",
        pd.DataFrame(),
        pd.DataFrame(index=[3, 4]),
        pd.DataFrame(columns=["a", "b"]),
        pd.DataFrame({"a": []}),
        pd.DataFrame(np.arange(2000.0).reshape(100, 20)),
        pd.DataFrame(np.arange(2000.0).reshape(100, 20, order="F")),
        pd.DataFrame(np.arange(2000.0).reshape(100, 20))[::2],
        pd.DataFrame([[1, 2.5, "x"]], columns=["a", "a", 3]),
        pd.DataFrame([[1, 2]], columns=pd.MultiIndex.from_tuples([("a", 1), ("b", 2)])),
        pd.DataFrame({"v": range(4)}, index=_MULTI),
        pd.DataFrame({"v": range(5)}, index=pd.date_range("2024", periods=5, freq="2h", name="t")),
        pd.DataFrame([[1]], columns=pd.Index([None], name="c"), index=pd.Index(["r"], name=7)),
        pd.concat([pd.DataFrame({"a": [1.0]}), pd.DataFrame({"b": [2.0]})], axis=1),
        pd.DataFrame({"a": pd.array([1, None], dtype="Int64"), 5: ["x", None]}),
        _UNIQUE,
        pd.Series([1, 2], name="s", index=["a", "b"]).set_flags(allows_duplicate_labels=False),
        pd.Series([], dtype="f4"),
        pd.Series([1, [2], "3"], name=None),
        pd.Series(pa.chunked_array([["a"], ["b", None]]), dtype=pd.ArrowDtype(pa.string())),
        pd.concat([pd.Series(["a"]), pd.Series(["b", None])]),
        pd.RangeIndex(3),
        pd.RangeIndex(10, 0, -3, name=("x", 1)),
        pd.Index([], dtype=object),
        pd.Index([1, "a", None, (1, 2)], tupleize_cols=False),
        pd.Index([True, False]),
        _MULTI,
        _MULTI[:0],
        _MULTI[[2, 0]],
        _MULTI.set_levels([["a", "c"]], level=[0]),
        pd.MultiIndex.from_arrays([[], []]),
        pd.date_range("2024", periods=3, freq="B"),
        pd.date_range("2024", periods=3, freq=_HOLIDAYS),
        pd.date_range("2024", periods=300, freq="h", tz=ZoneInfo("Asia/Tokyo")),
        pd.timedelta_range("1h", periods=3, freq="15min"),
        pd.period_range("2024Q1", periods=3, freq="Q-JAN"),
        pd.interval_range(pd.Timestamp("2024"), periods=3, closed="both"),
        pd.Timestamp("2024-01-01", tz="Europe/Berlin"),
        pd.Timestamp("2024-01-01 00:00:00.123456789"),
        pd.Timedelta("1ns"),
        pd.Period("2024-01"),
        pd.Interval(0, 1),
        pd.NaT,
        pd.NA,
        pd.CategoricalDtype(["a"], ordered=True),
        pd.StringDtype("python"),
        pd.offsets.MonthEnd(2),
    )
)  # fmt: skip

_MOMENT = dt.datetime(2024, 1, 2, 3, 4, 5, 6)
_POLARS_COLUMNS: dict[str, pl.Series] = {
    "int": pl.Series([1, None, 3]),
    "f4": pl.Series([1.5, None, math.nan], dtype=pl.Float32),
    "bool": pl.Series([True, None, False]),
    "str": pl.Series(["a", None, "long enough for a view"]),
    "binary": pl.Series([b"a", None, b"\xff" * 20]),
    "cat": pl.Series(["a", None, "b"], dtype=pl.Categorical),
    "enum": pl.Series(["a", None, "b"], dtype=pl.Enum(["b", "a", "never"])),
    "decimal": pl.Series([Decimal("1.23"), None, Decimal("4.5")], dtype=pl.Decimal(12, 3)),
    "date": pl.Series([_MOMENT.date(), None, _MOMENT.date()]),
    "time": pl.Series([_MOMENT.time(), None, _MOMENT.time()]),
    "moment": pl.Series([_MOMENT, None, _MOMENT], dtype=pl.Datetime("ms", "Europe/Berlin")),
    "delta": pl.Series([dt.timedelta(1), None, dt.timedelta(2)], dtype=pl.Duration("ns")),
    "list": pl.Series([[1], None, []], dtype=pl.List(pl.Int8)),
    "array": pl.Series([[1, 2], None, [3, 4]], dtype=pl.Array(pl.UInt8, 2)),
    "struct": pl.Series([{"a": 1, "b": "x"}, None, {"a": None, "b": "y"}]),
    "null": pl.Series([None, None, None]),
    "i128": pl.Series([1, None, -(1 << 100)], dtype=pl.Int128),
    "u128": pl.Series([1, None, 1 << 100], dtype=pl.UInt128),
    "list_i128": pl.Series([[1], None, [1 << 100]], dtype=pl.List(pl.Int128)),
    "list_cat": pl.Series([["a"], None, ["b"]], dtype=pl.List(pl.Categorical)),
    "object": pl.Series([{1}, None, ("x",)], dtype=pl.Object),
}
POLARS: Values = (
    [(f"polars-series-{n}", lambda s=s, n=n: s.alias(n)) for n, s in _POLARS_COLUMNS.items()]
    + [(f"polars-empty-{n}", lambda s=s: s.clear()) for n, s in _POLARS_COLUMNS.items()]
    + [(f"polars-slice-{n}", lambda s=s: s[1:]) for n, s in _POLARS_COLUMNS.items()]
    + [
        ("polars-mixed", lambda: pl.DataFrame(_POLARS_COLUMNS)),
        ("polars-aside-only", lambda: pl.DataFrame({"i": _POLARS_COLUMNS["i128"]})),
        ("polars-chunks", lambda: pl.concat(
            [pl.DataFrame({"c": [str(i)]}, schema={"c": pl.Categorical}) for i in range(3)],
            rechunk=False)),
        ("polars-lazy", lambda: pl.DataFrame(_POLARS_COLUMNS).lazy()),
        ("polars-plan", lambda: pl.LazyFrame({"a": [3, 1]}).sort("a").with_columns(b=pl.col("a"))),
        ("polars-none", pl.DataFrame),
        ("polars-height", lambda: pl.DataFrame(height=5)),
        ("polars-schema", lambda: pl.DataFrame(schema={"a": pl.Int8, "b": pl.String})),
    ]
)  # fmt: skip

_BERLIN = ZoneInfo("Europe/Berlin")
_SHARED_LIST = [1]
PYTHON: Values = given(
    "python",
    None, True, False, 0, -1, 1 << 63, (1 << 63) - 1, -(1 << 63), -(1 << 63) - 1, 1 << 5000,
    -(1 << 4000), 1.2345, -0.0, math.inf, -math.inf, math.nan, 5e-324, 1j, complex(math.nan, -0.0),
    "", "é\0", "\ud800 alone", "x" * 100_000, "\ud800" * 70_000, b"", b"\0\xff", bytes(70_000),
    bytearray(b"abc"), bytearray(70_000), memoryview(b"abc"),
    memoryview(np.arange(6.0).reshape(2, 3)), (), [], {}, set(), frozenset(),
    (1, [2, (3, {"a": {4, 5}})]), [True, 1, 1.0, None, "1"], [1, 1 << 70, "x"],
    {"b": 1, "a": 2}, {1: "a", "1": "b", None: 0, (1, 2): 3, 1.5: 4, b"x": 5, True + 1: 6},
    {"\ud800": 1}, {"x" * 70_000: 1}, {1, (2, 3), "x", None}, frozenset({frozenset({1})}),
    range(5), range(1 << 70, 0, -3), slice(None), slice(1, "x", [2]), ..., NotImplemented,
    Decimal("1.10"), Decimal("-0E+5"), Decimal("NaN"), Decimal("-Infinity"), Decimal("sNaN123"),
    Fraction(1, 3), Fraction(1 << 80, 3), uuid.UUID(int=5),
    uuid.UUID("c232ab00-9414-11ec-b3c8-9e6bdeced846"),
    _MOMENT, _MOMENT.replace(tzinfo=dt.UTC), _MOMENT.replace(tzinfo=_BERLIN, fold=1),
    _MOMENT.replace(tzinfo=dt.timezone(dt.timedelta(hours=-3, microseconds=1), "odd")),
    dt.datetime.max, _MOMENT.date(), _MOMENT.time(), dt.time(1, 2, tzinfo=dt.UTC, fold=1),
    dt.timedelta.min, dt.timedelta(1, 2, 3), dt.UTC, dt.timezone(dt.timedelta(0), "zero"), _BERLIN,
    Colour.RED, Level.HIGH, Name("x"), Point(1, [2]), [Point(1, 2), Colour.RED, Colour.RED],
    collections.OrderedDict(b=1, a=2), collections.defaultdict(list, {"a": [1]}),
    collections.Counter("abca"), collections.deque([1, 2], 3),
    Model("m", [1, 2], (3,)), Model("m", np.arange(1000.0), _TABLE), int, len, math.sin,
    [(1, 2), (1, 2)], [_SHARED_LIST, _SHARED_LIST, (_SHARED_LIST,)],
    [np.float64(1), np.int8(2), np.arange(3), np.arange(1000), np.datetime64("2024")],
    {"t": _TABLE, "a": np.arange(1000.0), "df": pd.DataFrame({"a": [1]}), "pl": pl.Series([1])},
    [pd.Timestamp("2024"), pd.NaT, pa.scalar(1), pl.DataFrame({"a": [1]})],
    {Level.HIGH: {Name("k"): [np.float64(2)]}},
)  # fmt: skip
PYTHON += [("python-deep", lambda: _nest(90)), ("python-deeper", lambda: _nest(300))]


def _nest(depth: int) -> Any:
    value: Any = 1
    for i in range(depth):
        value = [value] if i % 2 else {"k": value}
    return value


ALL_VALUES: Values = ARROW + NUMPY + PANDAS + POLARS + PYTHON
