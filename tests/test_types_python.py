"""Plain Python values: the documented form, what it refuses, and values made at random."""

from __future__ import annotations

import datetime as dt
import threading
from decimal import Decimal
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from types_harness import assert_same, encode, roundtrip, typenames

from vineyard_arrow.errors import InvalidObjectError
from vineyard_arrow.types.memory import data_buffer

VALUE = ["vineyard.python.value"]


def form_of(value: Any) -> Any:
    (part,) = encode(value)
    return msgspec.msgpack.decode(data_buffer(part.batches[0].column(0)))


def test_the_form_is_the_documented_one() -> None:
    assert form_of({"a": [1, 2.5, "x", None, True, b"b"]}) == [
        1, {"a": [1, 2.5, "x", None, True, b"b"]}, [], None,
    ]  # fmt: skip
    assert form_of((1, {2: 3}))[1] == {1: [1, {8: [2, 3]}]}
    assert form_of(1 << 64)[1] == {2: (1 << 64).to_bytes(9, "little")}
    assert form_of(Decimal("1.10"))[1] == {12: "1.10"}
    assert form_of(dt.datetime(2024, 1, 2, tzinfo=dt.UTC))[1] == {
        18: [2024, 1, 2, 0, 0, 0, 0, 0, {20: [0, 0, 0, None]}]
    }
    assert form_of([np.arange(2, dtype="i1")])[1] == [{27: ["|i1", [2], "C", b"\0\1"]}]
    assert form_of([np.int8(3)])[1] == [{28: ["|i1", b"\x03"]}]


@pytest.mark.parametrize(
    "value", [1, (1, 2), {"a": {1: [dt.date(2024, 1, 1)]}}, [np.float64(1)], [np.arange(3)], ...]
)
def test_plain_values_are_not_pickled(value: Any) -> None:
    assert typenames(value) == VALUE


def test_subclasses_of_builtins_share_one_pickle() -> None:
    assert typenames([pd.Timestamp("2024")] * 3 + [pd.NaT]) == [*VALUE, "vineyard.pickle"]


def test_large_leaves_are_parts() -> None:
    table = pa.table({"a": [1]})
    value = [table, {"again": table}, np.arange(1000), "x" * 70_000, bytes(70_000)]
    kinds = [*VALUE, "vineyard.table", "vineyard.tensor", "vineyard.blob", "vineyard.blob"]
    assert typenames(value) == kinds
    back = roundtrip(value)
    assert back[0] is back[1]["again"]


def test_shared_containers_stay_shared() -> None:
    inner: list[Any] = [1]
    back = roundtrip([inner, (inner,), {"k": inner}])
    assert back[0] is back[1][0] is back[2]["k"]
    doubling: Any = [1]
    for _ in range(60):
        doubling = [doubling, doubling]
    assert typenames(doubling) == VALUE
    assert roundtrip(doubling)[0][0][1][0] is not None


def test_cycles_come_back_as_cycles() -> None:
    value: list[Any] = [1, np.arange(1000)]
    value.append(value)
    back = roundtrip(value)
    assert back[2] is back
    assert_same(back[1], value[1])
    frame = pd.DataFrame({"a": [1]})
    frame.attrs["self"] = value
    back = roundtrip(frame).attrs["self"]
    assert back[2] is back


@pytest.mark.parametrize("wrap", [lambda v: [v], lambda v: (v, 1), lambda v: {"a": v}])
def test_deep_nests_give_a_clear_error(wrap: Any) -> None:
    value: Any = 1
    for _ in range(5000):
        value = wrap(value)
    with pytest.raises(InvalidObjectError, match="nests too deeply"):
        encode(value)


def test_an_object_array_in_itself_gives_a_clear_error() -> None:
    array = np.empty(1, dtype=object)
    array[0] = array
    with pytest.raises(InvalidObjectError, match="contains itself"):
        encode(array)


class Holder:
    def __init__(self, held: Any) -> None:
        self.held = held


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (threading.Lock(), r"a _thread.lock cannot be stored: "),
        ({"a": [1, {"k": threading.Lock()}]}, r"lock .* \(at value\['a'\]\[1\]\['k'\]"),
        ([Holder(threading.Lock())], r"lock cannot be stored \(at value\[0\].held"),
        ((i for i in ()), "a builtins.generator cannot be stored"),
        ([lambda: 1], r"a builtins.function cannot be stored \(at value\[0\]"),
        ({"x": np.array([lambda: 1], dtype=object)}, r"value\['x'\]: a builtins.function"),
        (pd.DataFrame({"a": [threading.Lock()]}), "a _thread.lock cannot be stored"),
        (memoryview(bytes(6))[::2], "a builtins.memoryview cannot be stored"),
        (pl.Series([threading.Lock()], dtype=pl.Object), "a _thread.lock cannot be stored"),
    ],
)  # fmt: skip
def test_what_cannot_be_stored_is_named(value: Any, message: str) -> None:
    with pytest.raises(InvalidObjectError, match=message) as caught:
        encode(value)
    assert caught.value.hint


def test_a_class_that_is_gone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from types_harness import store

    stored, _ = store(encode(Holder(1)))
    monkeypatch.delattr(f"{__name__}.Holder")
    with pytest.raises(InvalidObjectError, match="Holder"):
        stored.resolve()


_ATOMS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.complex_numbers()
    | st.text(st.characters(exclude_categories=())) | st.binary() | st.decimals(allow_nan=False)
    | st.fractions() | st.uuids() | st.dates() | st.times() | st.timedeltas()
    | st.datetimes(timezones=st.none() | st.timezones())
)  # fmt: skip
_KEYS = st.recursive(
    st.none() | st.integers() | st.text() | st.binary(),
    lambda keys: st.tuples(keys, keys) | st.frozensets(keys, max_size=3),
    max_leaves=3,
)
_VALUES = st.recursive(
    _ATOMS,
    lambda values: (
        st.lists(values, max_size=4)
        | st.lists(values, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=3), values, max_size=3)
        | st.dictionaries(_KEYS, values, max_size=3)
        | st.sets(_KEYS, max_size=3)
    ),
    max_leaves=12,
)
_SETTINGS = settings(
    derandomize=True,
    deadline=None,
    max_examples=80,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@_SETTINGS
@given(_VALUES)
def test_nested_values_come_back_exactly(value: Any) -> None:
    assert_same(value, roundtrip(value))


_DTYPES = (hnp.scalar_dtypes() | hnp.array_dtypes() | hnp.nested_dtypes(max_itemsize=400)).filter(
    lambda dtype: dtype.char not in "gG"
)


@_SETTINGS
@given(st.data(), _DTYPES, st.sampled_from("CF"))
def test_arrays_of_any_dtype_come_back_exactly(data: Any, dtype: Any, order: Any) -> None:
    if dtype.subdtype is not None:
        dtype = np.dtype([("only", dtype)])
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    rng = np.random.default_rng(len(shape))
    noise = np.abs(rng.integers(0, 100, shape))
    array = np.zeros(shape, dtype, order=order)
    if dtype.kind in "biufcmM":
        with np.errstate(all="ignore"):
            array[...] = noise.astype(dtype)
    back = roundtrip(array)
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert back.dtype.str == array.dtype.str
    assert back.tobytes() == array.tobytes()
    if array.size > 1:
        assert back.flags.f_contiguous == array.flags.f_contiguous
