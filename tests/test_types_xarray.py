"""xarray's labelled arrays: exact with coordinates, attributes and encoding, and not copied."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from lazily import lazily
from types_harness import check_in_other_process, place_of, roundtrip, typenames

from vineyard_arrow.client import Client

xr = lazily("xarray")

N = 40_000


def labelled(**options: Any) -> Any:
    coords = {
        "time": pd.date_range("2013-01-01", periods=4, freq="h"),
        "city": ["JFK", "LGA", "EWR"],
        "height": ("city", [4.0, 6.1, 5.5], {"units": "m"}),
        "run": 7,
    }
    data = np.arange(12.0).reshape(4, 3)
    return xr.DataArray(data, coords, ("time", "city"), attrs={"units": "K", "n": 3}, **options)


def encoded() -> Any:
    array = labelled(name="t")
    array.encoding = {"scale_factor": 0.1, "dtype": np.dtype("i2")}
    array.time.encoding["units"] = "hours since 1970-01-01"
    array.coords["city"].attrs["long_name"] = "airport"
    return array


def dataset() -> Any:
    values = {
        "t": labelled(),
        "n": ("x", np.arange(5)),
        "s": ((), np.array("text")),
        "objects": ("x", np.array([1, "a", None, 2.5, b"b"], dtype=object)),
        "f": (("x", "y"), np.asfortranarray(np.arange(20.0).reshape(5, 4))),
    }
    made = xr.Dataset(values, attrs={"title": "all", "list": [1, 2]})
    made.encoding["source"] = "nowhere"
    return made


def levels() -> Any:
    index = pd.MultiIndex.from_product([["a", "b"], [1, 2]], names=["k", "l"])
    coords = xr.Coordinates.from_pandas_multiindex(index, "z")
    return xr.Dataset({"v": ("z", np.arange(4))}, coords)


VALUES = [
    ("labelled", labelled),
    ("named", lambda: labelled(name="t")),
    ("odd-name", lambda: labelled(name=("a", 1))),
    ("encoded", encoded),
    ("dataset", dataset),
    ("float32-index", lambda: xr.DataArray([1, 2], {"x": np.array([0.5, 1.5], "f4")}, "x")),
    ("text-index", lambda: xr.DataArray([1, 2], {"x": np.array(["a", "bc"])}, "x")),
    ("categories", lambda: xr.DataArray([1, 2], {"x": pd.CategoricalIndex(["a", "b"])}, "x")),
    ("no-index", lambda: xr.DataArray(np.arange(3), dims="x")),
    ("scalar", lambda: xr.DataArray(1.5)),
    ("empty", lambda: xr.Dataset()),
    ("no-rows", lambda: xr.Dataset({"a": ("x", [])}, {"x": np.array([], "i8")})),
    ("levels", levels),
    ("nested", lambda: {"a": [labelled()]}),
]


def assert_same(a: Any, b: Any) -> None:
    if isinstance(a, dict):
        return assert_same(a["a"][0], b["a"][0])
    assert type(a) is type(b)
    xr.testing.assert_identical(a, b)
    assert list(a.coords) == list(b.coords)
    assert a.encoding == b.encoding
    assert list(a.xindexes) == list(b.xindexes)
    for name in a.indexes:
        pd.testing.assert_index_equal(a.indexes[name], b.indexes[name], exact=True)
        assert getattr(a.indexes[name], "freq", None) == getattr(b.indexes[name], "freq", None)
    if isinstance(a, xr.Dataset):
        assert list(a.data_vars) == list(b.data_vars)
    variables = (*a.coords, *(a.data_vars if isinstance(a, xr.Dataset) else ()))
    for name in variables:
        assert a[name].dtype == b[name].dtype
        assert a[name].dims == b[name].dims
        assert a[name].attrs == b[name].attrs
        assert a[name].encoding == b[name].encoding


@pytest.mark.parametrize("make", [make for _, make in VALUES], ids=[name for name, _ in VALUES])
@pytest.mark.parametrize("writable", [False, True])
def test_comes_back_exactly(make: Any, writable: bool) -> None:
    assert_same(make(), roundtrip(make(), writable))


def test_in_another_process(client: Client) -> None:
    check_in_other_process(client, __name__)


def test_no_pickle_is_needed() -> None:
    for make in (encoded, dataset, lambda: xr.DataArray(1.5)):
        assert "vineyard.pickle" not in typenames(make())[:1]
    assert typenames(levels())[0] == "vineyard.pickle"


def test_memory_is_shared(client: Client) -> None:
    index = pd.Index(np.arange(N) * 3)
    array = xr.DataArray(np.random.default_rng(0).random((N, 2)), {"x": index}, ("x", "y"))
    oid = client.put(xr.Dataset({"a": array, "b": array * 2}))
    meta = client.get_meta(oid)
    assert meta.copied == (2 * 2 + 1) * 8 * N
    back = client.get(oid)
    for values in (back["a"].values, back["b"].values, back.indexes["x"].values):
        assert place_of(client, values.ctypes.data) == "store"
        assert not values.flags.writeable
    assert back["a"].sel(x=30).identical(array.sel(x=30).rename("a"))
    assert client.get_meta(client.put(back)).copied == 0
    mine = client.get(oid, mode="cow")
    mine["a"][0, 0] = -1.0
    assert client.get(oid)["a"][0, 0] == array[0, 0]


def test_as_numpy(client: Client) -> None:
    oid = client.put(labelled())
    assert client.get(oid, as_="numpy").tolist() == labelled().values.tolist()
    assert client.get(oid, as_="xarray").identical(labelled())
