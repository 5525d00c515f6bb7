"""Round trips of values without a store, and the strict equality they are held to.

`roundtrip` sends every part through real Arrow IPC bytes that lie in read-only memory,
as a store would. `assert_same` compares types, dtypes, orders and metadata too.
"""

from __future__ import annotations

import dataclasses
import decimal
import importlib
import io
import json
import math
import mmap
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import polars.testing
import pyarrow as pa

from vineyard_arrow.client import Client
from vineyard_arrow.objects import ObjectID, ObjectMeta
from vineyard_arrow.registry import Encoder, Part, StoredObject, StoredPart, default_registry


def encode(value: Any) -> list[Part]:
    encoder = Encoder(default_registry)
    assert encoder.add(value) == 0
    return encoder.parts


def ipc_bytes(part: Part) -> pa.Buffer:
    """The part as an IPC stream, in a page-aligned mapping that nobody can write."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, part.schema) as writer:
        for batch in part.batches:
            writer.write_batch(batch)
    data = sink.getvalue()
    memory = mmap.mmap(-1, len(data))
    memory.write(data)
    return pa.py_buffer(memoryview(memory).toreadonly())


def store(parts: list[Part], writable: bool = False) -> tuple[StoredObject, list[pa.Buffer]]:
    buffers = [ipc_bytes(part) for part in parts]
    stored = []
    for part, buffer in zip(parts, buffers, strict=True):
        params = json.loads(json.dumps(part.params))
        table = pa.ipc.open_stream(buffer).read_all()
        stored.append(StoredPart(part.typename, params, table, writable))
    return StoredObject(stored, default_registry), buffers


def roundtrip(value: Any, writable: bool = False) -> Any:
    return store(encode(value), writable)[0].resolve()


def typenames(value: Any) -> list[str]:
    return [part.typename for part in encode(value)]


def part_addresses(parts: list[Part]) -> set[int]:
    """Where the buffers lie that a put would be handed."""
    found: set[int] = set()
    for part in parts:
        for batch in part.batches:
            for column in batch.columns:
                found |= {b.address for b in column.buffers() if b is not None}
    return found


def lies_within(address: int, buffers: list[pa.Buffer]) -> bool:
    return any(b.address <= address < b.address + b.size for b in buffers)


def assert_same(a: Any, b: Any) -> None:
    """Assert that ``b`` is what ``a`` was, to the type."""
    assert type(a) is type(b), (type(a), type(b))
    if isinstance(a, np.ndarray):
        _same_array(a, b)
    elif isinstance(a, np.generic):
        assert a.dtype == b.dtype
        assert repr(a) == repr(b)
    elif type(a).__module__.startswith("pyarrow"):
        _same_arrow(a, b)
    elif type(a).__module__.startswith("pandas"):
        _same_pandas(a, b)
    elif isinstance(a, pl.DataFrame):
        assert a.schema == b.schema
        assert a.height == b.height
        for x, y in zip(a, b, strict=True):
            if x.dtype == pl.Object:
                assert_same(x.to_list(), y.to_list())
            else:
                polars.testing.assert_series_equal(x, y, check_exact=True)
    elif isinstance(a, pl.LazyFrame):
        assert_same(a.collect(), b.collect())
    elif isinstance(a, pl.Series):
        assert a.name == b.name
        assert_same(a.to_frame(), b.to_frame())
    else:
        _same_python(a, b)


def _same_python(a: Any, b: Any) -> None:
    if isinstance(a, float):
        assert (math.isnan(a) and math.isnan(b)) or a.hex() == b.hex()
    elif isinstance(a, complex):
        _same_python(a.real, b.real)
        _same_python(a.imag, b.imag)
    elif isinstance(a, dict):
        assert len(a) == len(b)
        for (ka, va), (kb, vb) in zip(a.items(), b.items(), strict=True):
            assert_same(ka, kb)
            assert_same(va, vb)
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, (set, frozenset)):
        # equal members may print in another order, and NaN is only found by its print
        assert a == b or sorted(map(repr, a)) == sorted(map(repr, b))
        assert sorted(type(x).__name__ for x in a) == sorted(type(x).__name__ for x in b)
    elif dataclasses.is_dataclass(a) and not isinstance(a, type):
        assert_same(vars(a), vars(b))
    elif hasattr(a, "fold"):
        assert a == b
        assert (a.fold, a.tzinfo) == (b.fold, b.tzinfo)
        assert type(a.tzinfo) is type(b.tzinfo)
        assert repr(a) == repr(b)
    elif isinstance(a, decimal.Decimal):
        assert repr(a) == repr(b)  # signalling NaN cannot be compared
    else:
        assert a == b or repr(a) == repr(b)


def _same_array(a: Any, b: Any) -> None:
    assert a.dtype == b.dtype
    assert a.dtype.str == b.dtype.str
    assert a.dtype.isalignedstruct == b.dtype.isalignedstruct
    assert a.dtype.type is b.dtype.type
    assert a.shape == b.shape
    if a.size > 1 and a.dtype != object and (a.flags.c_contiguous or a.flags.f_contiguous):
        assert a.flags.c_contiguous == b.flags.c_contiguous
        assert a.flags.f_contiguous == b.flags.f_contiguous
    if isinstance(a, np.ma.MaskedArray):
        assert (a.mask is np.ma.nomask) == (b.mask is np.ma.nomask)
        _same_array(a.data, b.data)
        np.testing.assert_array_equal(a.mask, b.mask)
        assert a.hardmask == b.hardmask
        assert_same(a._fill_value, b._fill_value)
    elif a.dtype == object:
        for x, y in zip(a.ravel().tolist(), b.ravel().tolist(), strict=True):
            assert_same(x, y)
    elif a.dtype.kind == "T":
        assert a.tolist() == b.tolist()
    else:
        # tobytes does not know -0.0 from 0.0 apart only where the bytes are the same; the
        # padding of long doubles and of records holds no value, though
        np.testing.assert_array_equal(a, b, strict=True)
        if a.dtype.kind in "iufcMmSU" and a.dtype.itemsize not in (16, 32):
            assert a.tobytes() == b.tobytes()


def _same_arrow(a: Any, b: Any) -> None:
    if isinstance(a, pa.RecordBatchReader):
        assert a.schema.equals(b.schema, check_metadata=True)
        return
    if isinstance(a, (pa.Table, pa.RecordBatch)):
        assert a.schema.equals(b.schema, check_metadata=True)
        assert (a.num_rows, a.num_columns) == (b.num_rows, b.num_columns)
        b.validate(full=True)
        for x, y in zip(a.columns, b.columns, strict=True):
            _same_values(x, y)
    elif isinstance(a, (pa.Schema, pa.Field)):
        assert a.equals(b, check_metadata=True)
        assert str(a) == str(b)
    elif isinstance(a, pa.ChunkedArray):
        assert a.type == b.type
        assert [len(c) for c in a.chunks] == [len(c) for c in b.chunks]
        _same_values(a, b)
    elif isinstance(a, (pa.Array, pa.Scalar)):
        b.validate(full=True)
        _same_values(a, b)
    else:
        assert a.equals(b)


def _same_values(a: Any, b: Any) -> None:
    assert a.type == b.type
    if a.equals(b):
        return
    # NaN is not equal to itself
    x, y = (v.as_py() if isinstance(v, pa.Scalar) else v.to_pylist() for v in (a, b))
    assert repr(x) == repr(y)


def _same_pandas(a: Any, b: Any) -> None:
    if isinstance(a, pd.DataFrame):
        pd.testing.assert_frame_equal(a, b, **_STRICT)
        assert len(a._mgr.blocks) == len(b._mgr.blocks)
    elif isinstance(a, pd.Series):
        pd.testing.assert_series_equal(a, b, **_STRICT)
    elif isinstance(a, pd.Index):
        pd.testing.assert_index_equal(a, b, exact=True, check_exact=True)
        assert a.names == b.names
        assert getattr(a, "freq", None) == getattr(b, "freq", None)
        if isinstance(a, pd.MultiIndex):
            assert a.sortorder == b.sortorder
            assert [code.dtype for code in a.codes] == [code.dtype for code in b.codes]
            for x, y in zip(a.levels, b.levels, strict=True):
                _same_pandas(x, y)
        return
    elif isinstance(a, pd.api.extensions.ExtensionArray):
        assert a.dtype == b.dtype
        pd.testing.assert_extension_array_equal(a, b, check_exact=True)
        return
    else:
        assert a is b or a is pd.NaT or a == b
        assert repr(a) == repr(b)
        return
    for x, y in zip(a.axes, b.axes, strict=True):
        _same_pandas(x, y)
    assert_same(a.attrs, b.attrs)
    assert a.flags.allows_duplicate_labels == b.flags.allows_duplicate_labels


_STRICT: dict[str, Any] = {
    "check_exact": True,
    "check_index_type": "equiv",
    "check_freq": True,
    "check_flags": True,
}


_OTHER_PROCESS = """
import importlib, sys
from vineyard_arrow.client import connect

module = importlib.import_module(sys.argv[2])
client = connect(sys.argv[1], autostart=False)
for name, make in module.VALUES:
    try:
        module.assert_same(make(), client.get(name))
    except BaseException as error:
        raise AssertionError(name) from error
"""


def run_other_process(client: Any, code: str, *arguments: str) -> str:
    """Run ``code`` with the tests on its path, the store's socket as argument 1; its output."""
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", code, str(client._a.socket), *arguments],
        env={"PYTHONPATH": f"{here.parent}:{here}"},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check_in_other_process(client: Any, module: str) -> None:
    """Hold what another process gets to the module's ``VALUES``, by its ``assert_same``."""
    values = importlib.import_module(module).VALUES
    client.put_many([make() for _, make in values], names=[name for name, _ in values])
    run_other_process(client, _OTHER_PROCESS, module)


def place_of(client: Any, address: int) -> str:
    """Where memory lies: "store", "private map" of a file (copy-on-write), or "own"."""
    if client._a._core.offset_of(address) is not None:
        return "store"
    with open("/proc/self/maps") as maps:
        for line in maps:
            bounds, access, _, _, inode, *_ = line.split()
            begin, end = (int(bound, 16) for bound in bounds.split("-"))
            if begin <= address < end:
                return "private map" if inode != "0" and access == "rw-p" else "own"
    raise ValueError(f"{address:#x} is not mapped")


def composite(client: Client, members: dict[str, Any], **values: Any) -> ObjectID:
    meta = ObjectMeta("test.composite", values)
    for name, member in members.items():
        meta.add_member(name, member)
    return client.create_metadata(meta).id
