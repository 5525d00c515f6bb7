"""No copies: parts show the value's own memory, values the store's."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from types_harness import encode, lies_within, part_addresses, roundtrip, store

from vineyard_arrow.types.memory import data_buffer, memory_of

N = 64 << 10
ARRAYS = {
    "float": np.arange(N, dtype="f8"),
    "fortran": np.asfortranarray(np.arange(N, dtype="f8").reshape(64, -1)),
    "swapped": np.arange(N, dtype=">i4"),
    "complex": np.arange(N, dtype="c16"),
    "bool": np.arange(N) % 2 == 0,
    "moment": np.arange(N).astype("M8[s]"),
    "record": np.zeros(N, [("a", "i4"), ("b", "f8")]),
    "text": np.full(N, "abc"),
}


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)
def test_arrays_are_not_copied(array: np.ndarray[Any, Any]) -> None:
    parts = encode(array)
    assert array.ctypes.data in part_addresses(parts)
    stored, buffers = store(parts)
    back = stored.resolve()
    assert lies_within(back.ctypes.data, buffers)
    assert not back.flags.writeable


@pytest.mark.parametrize(
    "wrap", [lambda a: {"k": [a]}, np.ma.array, lambda a: pd.Series(a, copy=False)]
)
def test_arrays_in_other_values_are_not_copied(wrap: Any) -> None:
    array = np.arange(N)
    assert array.ctypes.data in part_addresses(encode(wrap(array)))


class Model:
    def __init__(self, **parts: Any) -> None:
        vars(self).update(parts)


def test_things_inside_a_pickle_are_not_copied() -> None:
    array, table = np.arange(N), pa.table({"a": np.arange(N)})
    frame = pl.DataFrame({"a": np.arange(N)})
    parts = encode(Model(array=array, again=[array], table=table, frame=frame))
    kinds = ["vineyard.pickle", "vineyard.tensor", "vineyard.table", "vineyard.polars.frame"]
    assert [part.typename for part in parts] == kinds
    addresses = part_addresses(parts)
    assert array.ctypes.data in addresses
    assert table.column(0).chunk(0).buffers()[1].address in addresses
    stored, buffers = store(parts)
    back = stored.resolve()
    assert back.array is back.again[0]
    assert lies_within(back.array.ctypes.data, buffers)
    assert back.table.equals(table)


def test_tables_are_not_copied() -> None:
    table = pa.table({"a": np.arange(N), "b": ["x" * 8] * N})
    parts = encode(table)
    own = {b.address for c in table.columns for b in c.chunk(0).buffers() if b is not None}
    assert own == part_addresses(parts)
    stored, buffers = store(parts)
    for column in stored.resolve().columns:
        found = [b for b in column.chunk(0).buffers() if b is not None]
        assert all(lies_within(b.address, buffers) for b in found)


def test_buffers_and_bytes_are_not_copied() -> None:
    data = bytes(N)
    buffer = pa.py_buffer(data)
    assert encode(buffer)[0].batches[0].column(0).buffers()[1].address == buffer.address
    assert buffer.address in part_addresses(encode([data]))
    stored, buffers = store(encode(buffer))
    assert lies_within(stored.resolve().address, buffers)
    stored, buffers = store(encode([memoryview(data)]))
    view = np.frombuffer(stored.resolve()[0], "u1")
    assert lies_within(view.ctypes.data, buffers)


def test_frames_are_not_copied() -> None:
    block = np.arange(N * 2.0).reshape(2, N)
    text = pd.array(["some text"] * N, dtype="str")
    whole = pd.array(np.arange(N), dtype="Int64")
    frame = pd.concat(
        [pd.DataFrame(block.T, copy=False), pd.DataFrame({"t": text, "w": whole}, copy=False)],
        axis=1,
    )
    assert frame._mgr.blocks[0].values.ctypes.data == block.ctypes.data
    parts = encode(frame)
    own = {block.ctypes.data, whole._data.ctypes.data, whole._mask.ctypes.data}
    own |= {b.address for b in text._pa_array.chunk(0).buffers() if b is not None}
    assert own <= part_addresses(parts)
    stored, buffers = store(parts)
    back = stored.resolve()
    assert lies_within(back[0].to_numpy().ctypes.data, buffers)
    assert lies_within(back["w"].array._data.ctypes.data, buffers)
    assert lies_within(back["w"].array._mask.ctypes.data, buffers)
    assert lies_within(back["t"].array._pa_array.chunk(0).buffers()[2].address, buffers)


def test_polars_columns_are_not_copied() -> None:
    frame = pl.DataFrame({"a": np.arange(N), "s": ["a string that is long enough"] * N})
    own = frame["a"].to_numpy().ctypes.data
    parts = encode(frame)
    assert own in part_addresses(parts)
    stored, buffers = store(parts)
    assert lies_within(stored.resolve()["a"].to_numpy().ctypes.data, buffers)


def test_lazy_frames_are_their_result_and_scan_it_in_place() -> None:
    frame = pl.DataFrame({"a": np.arange(N)})
    parts = encode(frame.lazy())
    assert [part.typename for part in parts] == ["vineyard.polars.lazyframe"]
    assert frame["a"].to_numpy().ctypes.data in part_addresses(parts)
    stored, buffers = store(parts)
    back = stored.resolve().select("a").collect()
    assert lies_within(back["a"].to_numpy().ctypes.data, buffers)


def test_read_only_frames_work_for_reading() -> None:
    n = 2000
    frame = pd.DataFrame({"k": np.arange(n) % 7, "v": np.arange(n) * 0.5, "w": np.arange(n)})
    back = roundtrip(frame)
    for work in (
        lambda f: f.groupby("k").sum(),
        lambda f: f.sort_values(["k", "w"], ascending=False),
        lambda f: f.merge(f[:10], on="w"),
        lambda f: f.describe(),
        lambda f: f.rolling(3).mean(),
        lambda f: f[f["k"] > 3].assign(z=1).pivot_table(index="k", values="v"),
        lambda f: f.fillna(0).T,
    ):
        pd.testing.assert_frame_equal(work(frame), work(back))
    back["k"] = 1
    back = back.copy()
    back.iloc[0, 1] = 5.0
    assert back.iloc[0, 1] == 5.0


@pytest.mark.parametrize("make", [lambda a: a, lambda a: [a], pd.Series, lambda a: a[:5]])
def test_private_memory_is_writable(make: Any) -> None:
    back = roundtrip(make(np.arange(N)), writable=True)
    array = back[0] if isinstance(back, list) else np.asarray(getattr(back, "array", back))
    assert array.flags.writeable or isinstance(back, pd.Series)


def test_memory_of_keeps_the_buffer_alive() -> None:
    data = bytearray(b"abc" * 1000)
    array = np.frombuffer(memory_of(pa.py_buffer(memoryview(data).toreadonly()), True), "u1")
    array[0] = 7
    assert data[0] == 7
    view = np.frombuffer(memory_of(pa.py_buffer(np.full(100_000, 3, "u1")), True), "u1")
    gc.collect()
    assert view.sum() == 300_000
    assert memory_of(pa.py_buffer(b""), True) == b""


def test_data_buffer_of_slices() -> None:
    column = pa.chunked_array([pa.array([1, 2, 3], pa.int16())[1:]])
    assert np.frombuffer(data_buffer(column), "i2").tolist() == [2, 3]
    assert data_buffer(pa.chunked_array([], pa.int8())).size == 0


def test_frames_are_few_parts_with_little_metadata() -> None:
    wide = pd.DataFrame(np.zeros((100, 200)), columns=[f"c{i}" for i in range(200)])
    assert len(encode(wide)) <= 4
    kinds = ["i8", "f8", "str", "category", "Int64", "bool", "M8[ns]", "datetime64[us, UTC]"]
    columns = {f"c{i}": pd.Series(range(400)).astype(kinds[i % 8]) for i in range(200)}
    parts = encode(pd.DataFrame(columns))
    assert len(parts) <= 16
    nbytes = 0
    for part in parts:
        nbytes += part.schema.serialize().size
        for batch in part.batches:
            nbytes += pa.ipc.read_message(pa.py_buffer(batch.serialize())).metadata.size
    assert nbytes <= 40_000
