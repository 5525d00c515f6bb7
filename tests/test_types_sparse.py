"""PyData's sparse arrays: types, fill values and index types kept, memory shared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from lazily import lazily
from types_harness import assert_same as same_value
from types_harness import (
    check_in_other_process,
    encode,
    part_addresses,
    place_of,
    roundtrip,
    typenames,
)

from vineyard_arrow.client import Client

sparse = lazily("sparse")

DENSE = (np.arange(60).reshape(3, 4, 5) % 4 == 0) * np.arange(60).reshape(3, 4, 5)
CLASSES = ("COO", "GCXS", "DOK")


def assert_same(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    assert vars(a).keys() == vars(b).keys()
    for name, mine in vars(a).items():
        back = vars(b)[name]
        if isinstance(mine, dict):
            assert list(mine) == list(back)
            for x, y in zip(mine.values(), back.values(), strict=True):
                same_value(x, y)
        elif isinstance(mine, np.ndarray):
            same_value(mine, back)
        else:
            assert mine == back or (mine != mine and back != back)


def make(cls: str, dense: Any) -> Any:
    coo = sparse.COO.from_numpy(dense)
    return coo if cls == "COO" else getattr(sparse, cls).from_coo(coo)


VALUES = [
    (f"{cls}-{dtype}", lambda c=cls, d=dtype: make(c, DENSE.astype(d)))
    for cls in CLASSES
    # Parts are made alike of all; for GCXS the package compiles code for each that takes seconds.
    for dtype in (("?", "i2", "i8", "f4", "f8", "c16") if cls != "GCXS" else ("i8", "c16"))
]
VALUES += [
    (
        f"{cls}-{n}d",
        lambda c=cls, n=n: make(c, DENSE.reshape((60,) if n == 1 else (6, 10))),
    )
    for cls in CLASSES
    for n in (1, 2)
]
VALUES += [
    ("fill", lambda: sparse.COO([[0, 2]], [1.0, 2.0], (5,), fill_value=np.nan)),
    ("fill-gcxs", lambda: sparse.GCXS.from_coo(sparse.COO([[0, 2]], [1, 2], (5,), fill_value=7))),
    ("axes", lambda: sparse.GCXS.from_coo(make("COO", DENSE), compressed_axes=(1, 2))),
    ("none", lambda: sparse.COO(np.zeros((2, 0), "i8"), np.zeros(0), (3, 4))),
    ("narrow", lambda: sparse.COO(make("COO", DENSE).coords, np.ones(14), (3, 4, 5),
                                  idx_dtype=np.uint8)),
]  # fmt: skip


@pytest.mark.parametrize("make_value", [m for _, m in VALUES], ids=[name for name, _ in VALUES])
@pytest.mark.parametrize("writable", [False, True])
def test_arrays_come_back_exactly(make_value: Any, writable: bool) -> None:
    back = roundtrip(make_value(), writable)
    assert_same(make_value(), back)
    np.testing.assert_array_equal(make_value().todense(), back.todense())


def test_arrays_come_back_in_another_process(client: Client) -> None:
    check_in_other_process(client, __name__)


@pytest.mark.parametrize("cls", CLASSES[:2])
def test_memory_is_shared_both_ways(client: Client, cls: str) -> None:
    value = make(cls, np.arange(40_000.0).reshape(40, 50, 20))
    names = ("coords", "data") if cls == "COO" else ("indices", "data")
    own = {getattr(value, name).ctypes.data for name in names}
    assert own <= part_addresses(encode(value))
    back = client.get(client.put(value))
    for name in names:
        assert place_of(client, getattr(back, name).ctypes.data) == "store"


def test_typenames_and_subclasses() -> None:
    assert [typenames(make(cls, DENSE))[0] for cls in CLASSES] == [
        "vineyard.sparse.COO", "vineyard.sparse.GCXS", "vineyard.sparse.DOK",
    ]  # fmt: skip


def test_arrays_got_from_the_store_compute(client: Client) -> None:
    value = make("COO", DENSE.astype("f8"))
    back = client.get(client.put(value))
    np.testing.assert_array_equal((back * 2 + back).todense(), DENSE * 3)
    np.testing.assert_array_equal(back.sum(axis=0).todense(), DENSE.sum(axis=0))
