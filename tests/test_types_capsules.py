"""Values of unknown libraries, by the Arrow PyCapsule interface and DLPack."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from types_harness import assert_same, encode, part_addresses, roundtrip, typenames

from vineyard_arrow.client import Client
from vineyard_arrow.registry import Registry

N = 64 << 10
TABLE = pa.table({"a": np.arange(N), "s": ["x"] * N}).replace_schema_metadata({"k": "v"})
ARRAY = pa.array([1, None, 3])
BATCH = pa.record_batch({"a": [1, 2]})
NULLS = pa.array([{"a": 1}, None])


class Stream:
    def __init__(self, held: Any) -> None:
        self.held = held

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self.held.__arrow_c_stream__(requested_schema)


class Array:
    def __init__(self, held: Any) -> None:
        self.held = held

    def __arrow_c_array__(self, requested_schema: Any = None) -> Any:
        return self.held.__arrow_c_array__(requested_schema)


class Tensor:
    def __init__(self, held: Any) -> None:
        self.held = held

    def __dlpack__(self, **options: Any) -> Any:
        return self.held.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.held.__dlpack_device__()


class Both(Array, Stream):
    pass


class Elsewhere(Tensor):
    """Of a device that NumPy cannot reach."""

    def __dlpack__(self, **options: Any) -> Any:
        raise BufferError("on another device")


CASES = {
    "table": (Stream(TABLE), TABLE),
    "chunks": (Stream(pa.chunked_array([[1], [2, None]])), pa.chunked_array([[1], [2, None]])),
    "array": (Array(ARRAY), ARRAY),
    "batch": (Array(BATCH), BATCH),
    "structs-with-nulls": (Array(NULLS), NULLS),
    "both": (Both(BATCH), pa.table(BATCH)),
    "tensor": (Tensor(np.arange(6.0).reshape(2, 3)), np.arange(6.0).reshape(2, 3)),
}


@pytest.mark.parametrize(("value", "expected"), CASES.values(), ids=CASES)
def test_memory_comes_back_as_arrow_or_numpy(value: Any, expected: Any) -> None:
    assert_same(roundtrip(value), expected)
    assert_same(roundtrip({"k": [value]}), {"k": [expected]})


def test_nothing_is_pickled_or_copied() -> None:
    array = np.arange(N)
    parts = encode([Stream(TABLE), Tensor(array)])
    assert [part.typename for part in parts[1:]] == ["vineyard.table", "vineyard.tensor"]
    addresses = part_addresses(parts)
    assert array.ctypes.data in addresses
    assert TABLE.column(0).chunk(0).buffers()[1].address in addresses


class Holder:
    def __init__(self, held: Any) -> None:
        self.held = held


def test_values_inside_a_pickle_keep_their_class() -> None:
    back = roundtrip(Holder([Stream(TABLE)]))
    assert type(back.held[0]) is Stream
    assert_same(back.held[0].held, TABLE)


def test_a_stream_is_stored(client: Client) -> None:
    assert_same(client.get(client.put(Stream(TABLE))), TABLE)


def test_tensors_that_numpy_cannot_view_are_pickled() -> None:
    value = Elsewhere(np.arange(3))
    assert typenames(value) == ["vineyard.pickle"]
    assert roundtrip(value).held.tolist() == [0, 1, 2]


def test_classes_and_builders_go_first() -> None:
    assert roundtrip(Stream) is Stream
    registry = Registry()
    registry.builder(Stream)(lambda value, encoder: None)
    assert registry.builder_for(Both(TABLE)) is registry.builder_for(Stream(TABLE))
