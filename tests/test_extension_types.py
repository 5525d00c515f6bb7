"""What stored parts say of themselves to pyarrow: with our types, and without them."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse as sp
from conftest import Daemon

from vineyard_arrow import ObjectID, ObjectMeta, Part, extension_types
from vineyard_arrow.client import Client
from vineyard_arrow.composition import members_part
from vineyard_arrow.errors import InvalidObjectError
from vineyard_arrow.extension_types import TensorArray, TensorType
from vineyard_arrow.ipc._core import stored_schema
from vineyard_arrow.ipc.attached import _json
from vineyard_arrow.objects import Member
from vineyard_arrow.registry import Encoder, Registry

TENSORS = {
    "C": np.arange(6.0).reshape(2, 3),
    "Fortran": np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
    "no axes": np.array(1.5),
    "empty": np.zeros((0, 3)),
    "complex": np.arange(4) * 1j,
    "bools": np.array([[True, False], [False, True]]),
    "times": np.array(["2020-01-01", "NaT"], "M8[us]"),
    "big-endian": np.arange(3, dtype=">i4"),
    "records": np.array([(1, 2.5), (3, 4.5)], [("a", "i2"), ("b", "f8")]),
}


@pytest.fixture
def registered() -> Iterator[None]:
    extension_types.register()
    yield
    extension_types.unregister()


def parts_of(value: Any) -> list[Part]:
    encoder = Encoder(Registry(), lambda _: "shop.x")
    encoder.add(value)
    return encoder.parts


def stream_of(part: Part) -> bytes:
    """The part as an IPC stream with bodies: the very schema message that a put stores."""
    params = _json.encode(part.params) if part.params else None
    schema = stored_schema(part.schema, part.typename, params)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in part.batches:
            writer.write_batch(batch.replace_schema_metadata(schema.metadata).cast(schema))
    return bytes(sink.getvalue())


def read(part: Part) -> pa.Table:
    return pa.ipc.open_stream(stream_of(part)).read_all()


def stored_messages(client: Client, value: Any) -> list[pa.Schema]:
    """The schemas of a value's parts, as Arrow reads the messages that are stored."""
    client._a.lease()
    plan = client._a._plan(parts_of(value))
    plan.place(True)
    data, schemas = plan.streams(), []
    while data:
        length = int.from_bytes(data[4:8], "little")
        if length:
            with contextlib.suppress(OSError):  # a batch's body is not here, but in the store
                schemas.append(pa.ipc.read_schema(pa.ipc.read_message(data[: 8 + length])))
        data = data[8 + length :]
    plan.abandon()
    return schemas


# ---- with pyarrow


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("kind", TENSORS)
def test_a_tensor_is_read_as_one(kind: str) -> None:
    value = TENSORS[kind]
    (part,) = parts_of(value)
    column = read(part).column(0)
    array = column.chunk(0)
    assert isinstance(array, TensorArray)
    assert (array.shape, array.type.dtype) == (value.shape, value.dtype)
    back = array.to_numpy()
    assert back.dtype == value.dtype
    assert back.tobytes("A") == value.tobytes("A")
    assert back.flags.fnc == value.flags.fnc
    if value.nbytes:
        assert back.__array_interface__["data"][0] == array.storage.buffers()[1].address
    assert not back.flags.writeable
    assert array.to_numpy(writable=True).flags.writeable


@pytest.mark.usefixtures("registered")
def test_a_slice_is_no_tensor() -> None:
    array = read(parts_of(TENSORS["C"])[0]).column(0).chunk(0)
    with pytest.raises(InvalidObjectError, match="slice"):
        array[1:].to_numpy()


@pytest.mark.usefixtures("registered")
def test_other_kinds_have_their_names_and_parameters() -> None:
    frame = pd.DataFrame({"a": range(1000), "b": ["x"] * 1000})
    values = {
        "vineyard.pickle": re.compile("x"),
        "vineyard.python.value": {"a": [1, 2]},
        "vineyard.pandas.dataframe": frame,
        "vineyard.pandas.series": frame["a"],
        "vineyard.pandas.index": pd.Index(["a"]),
        "vineyard.scipy.csr_array": sp.csr_array(np.eye(3)),
        "vineyard.blob": pa.py_buffer(b"bytes"),
    }
    for typename, value in values.items():
        (field,) = read(parts_of(value)[0]).schema
        assert field.type.extension_name == typename
        assert field.type.params == parts_of(value)[0].params
    sparse = read(parts_of(values["vineyard.scipy.csr_array"])[0]).schema.field(0).type
    assert sparse.shape == (3, 3)
    assert pa.types.is_null(sparse.storage_type)
    blob = read(parts_of(values["vineyard.blob"])[0]).column(0).chunk(0)
    assert bytes(blob.data) == b"bytes"


def test_one_dimensional_bools_are_arrows_own() -> None:
    value = np.array([True, False, True])
    column = read(parts_of(value)[0]).column(0)
    assert column.type == pa.bool8()
    assert column.to_numpy().tolist() == value.tolist()
    frame = pd.DataFrame({"a": np.arange(2000) % 3 == 0, "b": range(2000)})
    tables = [p for p in parts_of(frame) if p.typename == "vineyard.table"]
    assert pa.bool8() in [f.type for p in tables for f in p.schema]


# ---- without our types


def test_a_reader_without_our_types_sees_the_storage() -> None:
    code = """
import pyarrow as pa, sys
table = pa.ipc.open_stream(sys.stdin.buffer.read()).read_all()
print(table.column("data").to_pylist(), table.schema.field(0).metadata)
assert "vineyard_arrow" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=stream_of(parts_of(TENSORS["C"])[0]),
        capture_output=True,
        check=True,
        timeout=150,
    )
    values, metadata = done.stdout.decode().strip().split("] ")
    assert values == "[0.0, 1.0, 2.0, 3.0, 4.0, 5.0"
    assert "b'ARROW:extension:name': b'vineyard.tensor'" in metadata
    assert '"shape":[2,3]' in metadata


# ---- what is stored, and got


@pytest.mark.parametrize("n", [5, 7])
def test_a_get_gives_the_same_whether_they_are_registered(client: Client, n: int) -> None:
    """Shapes of its own for each case: what was read once is not read again."""
    values = [
        np.arange(n * 2.0).reshape(2, n),
        np.arange(n) % 2 == 0,
        np.zeros(n, "M8[s]"),
        sp.csr_array(np.eye(n)),
        pd.DataFrame({"a": np.arange(1000) % 2 == 0, "b": ["x"] * 1000}),
    ]
    oids = client.put_many(values)
    meta = ObjectMeta()
    meta.add_member("tensor", oids[0])
    root = client.create_metadata(meta).id
    assert root is not None
    if n == 7:
        extension_types.register()
    try:
        for oid, value in zip(oids, values, strict=True):
            got = client.get(oid)
            assert type(got) is type(value)
            if isinstance(value, np.ndarray):
                assert (got.dtype, got.tobytes()) == (value.dtype, value.tobytes())
            schema = client.get_meta(oid).schema
            assert not any(isinstance(f.type, pa.ExtensionType) or f.metadata for f in schema)
        assert client.get_meta(oids[3]).schema == pa.schema([])
        assert (client.get(oids[3]) != values[3]).nnz == 0
        assert client.get(oids[4]).equals(values[4])
        assert client.get_meta(root).members["tensor"].typename == "vineyard.tensor"
        assert client.get(root).tensor.get().tolist() == values[0].tolist()
    finally:
        extension_types.unregister()


def test_the_stored_messages_have_them(client: Client) -> None:
    extension_types.register()
    try:
        first, *members = stored_messages(client, sp.csr_array(np.eye(3)))
        assert first.field("data").type.extension_name == "vineyard.scipy.csr_array"
        assert [m.field("data").type.shape for m in members] == [(3,), (3,), (4,)]
    finally:
        extension_types.unregister()
    first, *members = stored_messages(client, sp.csr_array(np.eye(3)))
    assert pa.types.is_null(first.field("data").type)
    assert [m.field("data").type for m in members] == [pa.float64(), pa.int32(), pa.int32()]


def test_members_are_fields_of_a_registered_type() -> None:
    extension_types.register()
    try:
        part = members_part({"x": Member(ObjectID(5), "shop.basket")})
        field = pa.ipc.read_schema(part.schema.serialize()).field("x")
        assert isinstance(field.type, extension_types.ObjectType)
        assert field.type.params == {"typename": "shop.basket"}
    finally:
        extension_types.unregister()


def test_plain_tables_with_columns_of_our_types_come_back(client: Client) -> None:
    """Also where nobody has registered the types: by the names in the schema."""
    extension_types.register()
    try:
        array = read(parts_of(TENSORS["C"])[0]).column(0).chunk(0)
    finally:
        extension_types.unregister()
    table = pa.table({"x": array, "y": range(6)})
    for value in (table, array):
        got = client.get(client.put(value))
        assert type(got) is type(value)
        assert got.equals(value)
    assert client.get(client.put(table))["x"].chunk(0).to_numpy().tolist() == [[0, 1, 2], [3, 4, 5]]


def test_users_parts_have_a_type_as_well(client: Client) -> None:
    schema = pa.schema([pa.field("data", pa.int32(), nullable=False)])
    part = Part(
        "fleet.position", schema, [pa.record_batch([pa.array([1], pa.int32())], schema)], {"n": 1}
    )
    extension_types.register("fleet.position")
    try:
        type_ = read(part).schema.field("data").type
        assert (type_.extension_name, type_.params) == ("fleet.position", {"n": 1})
        assert type(type_) is extension_types.type_of("fleet.position")
    finally:
        extension_types.unregister()
    oid = client._put_parts([part], {})
    assert client.get(oid, resolver=lambda part, stored: part.table.schema) == schema
    for other in (
        pa.schema([pa.field("data", pa.int32())]),
        pa.schema([pa.field("data", pa.string(), nullable=False)]),
        pa.schema([pa.field("value", pa.int32(), nullable=False)]),
        pa.schema([pa.field("data", pa.int32(), nullable=False, metadata={"a": "b"})]),
        pa.schema([("a", pa.int32()), ("b", pa.int32())]),
    ):
        assert (
            b"ARROW:extension:name"
            not in stored_schema(other, "fleet.t", b"{}").serialize().to_pybytes()
        )


# ---- registering


def test_registering_twice_and_after_others() -> None:
    class Theirs(pa.ExtensionType):
        """As another release of this library might have registered it."""

        def __init__(self) -> None:
            super().__init__(pa.float64(), "vineyard.tensor")

        def __arrow_ext_serialize__(self) -> bytes:
            return b""

        @classmethod
        def __arrow_ext_deserialize__(cls, storage: pa.DataType, data: bytes) -> Theirs:
            return cls()

    extension_types.unregister()  # none is there: no error
    pa.register_extension_type(Theirs())
    try:
        for _ in range(2):
            extension_types.register()
        value = np.arange(8.0).reshape(4, 2)
        assert isinstance(read(parts_of(value)[0]).schema.field(0).type, Theirs)
    finally:
        extension_types.unregister()
    assert pa.types.is_float64(read(parts_of(value)[0]).schema.field(0).type)


def test_a_client_registers_and_loads_none_of_it(daemon: Daemon) -> None:
    code = f"""
import sys, numpy as np, vineyard_arrow
with vineyard_arrow.connect({str(daemon.socket)!r}, autostart=False) as client:
    assert client.get(client.put(np.arange(3))).tolist() == [0, 1, 2]
    assert client.get(client.put(np.array([True]))).tolist() == [True]
assert "vineyard_arrow.extension_types" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=150)


@pytest.mark.parametrize("serialized", [b"", b"{", b"[1]", b'{"shape": 3}', b"\xff"])
def test_parameters_that_make_no_sense(serialized: bytes) -> None:
    type_ = TensorType(pa.float64(), serialized)
    array = pa.ExtensionArray.from_storage(type_, pa.array([1.0]))
    with pytest.raises(InvalidObjectError):
        array.to_numpy()
    assert "vineyard.tensor" in str(type_)
    repr(array)


def test_a_dtype_of_pointers_is_refused() -> None:
    for dtype in ("|O", "T", "O,i8"):
        data = f'{{"shape":[1],"dtype":"{dtype}","order":"C"}}'.encode()
        array = pa.ExtensionArray.from_storage(TensorType(pa.int64(), data), pa.array([1]))
        with pytest.raises(InvalidObjectError):
            array.to_numpy()
