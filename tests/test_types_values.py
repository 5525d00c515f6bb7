"""Every value of `values` comes back as it went."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from types_harness import assert_same, roundtrip
from values import ALL_VALUES


@pytest.mark.parametrize("make", [make for _, make in ALL_VALUES], ids=[i for i, _ in ALL_VALUES])
def test_value_comes_back_exactly(make: Callable[[], Any]) -> None:
    assert_same(make(), roundtrip(make()))


@pytest.mark.parametrize("make", [make for _, make in ALL_VALUES], ids=[i for i, _ in ALL_VALUES])
def test_value_comes_back_exactly_into_private_memory(make: Callable[[], Any]) -> None:
    assert_same(make(), roundtrip([make()], writable=True)[0])
