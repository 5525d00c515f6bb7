"""Objects whose messages lie about their buffers: an error at get, never a read outside of them."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse as sp
from conftest import Daemon

from vineyard_arrow import ObjectMeta, Part
from vineyard_arrow.client import Client
from vineyard_arrow.errors import InvalidObjectError
from vineyard_arrow.ipc import protocol as p
from vineyard_arrow.registry import Encoder, Registry

ROWS = 1_009  # in no other field of a message


def put_edited(
    client: Client, part: Part, edit: Callable[[bytes], bytes], number: int | None = None
) -> int:
    """Put a part whose messages were edited on the way; the daemon knows no types, and takes it."""
    client._a.lease()
    plan = client._a._plan([part])
    plan.place(True)
    streams, *figures = plan.figures()
    if number is None:
        (number,) = client._a._take_ids(1)
    edited = edit(streams)
    assert edited != streams
    item = p.PutItem(number, part.typename, edited, *figures, time.time_ns())
    client._a.request(p.Put([item]))
    plan.confirm()
    return number


def table_part(**columns: pa.Array) -> Part:
    batch = pa.record_batch(columns)
    return Part("vineyard.table", batch.schema, [batch])


def more_rows(streams: bytes) -> bytes:
    old, new = struct.pack("<q", ROWS), struct.pack("<q", 1 << 40)
    assert streams.count(old) >= 2  # of the batch, and of its nodes
    return streams.replace(old, new)


def shorter(length: int, to: int) -> Callable[[bytes], bytes]:
    """Let a buffer be shorter than it is."""

    def edit(streams: bytes) -> bytes:
        old = struct.pack("<q", length)
        assert old in streams
        return streams.replace(old, struct.pack("<q", to))

    return edit


TEXTS = [f"text {i}" for i in range(ROWS)]
NULLS = [None, *range(ROWS - 1)]
LIES: dict[str, tuple[Part, Callable[[bytes], bytes]]] = {
    "more rows": (table_part(a=pa.array(range(ROWS))), more_rows),
    "more rows of text": (table_part(a=pa.array(TEXTS)), more_rows),
    "more rows of views": (table_part(a=pa.array(TEXTS, pa.string_view())), more_rows),
    "more rows of dictionaries": (table_part(a=pa.array(TEXTS).dictionary_encode()), more_rows),
    "more rows of lists": (table_part(a=pa.array([[1]] * ROWS)), more_rows),
    "fewer values": (table_part(a=pa.array(range(ROWS))), shorter(ROWS * 8, 64)),
    "fewer bits": (table_part(a=pa.array(NULLS)), shorter(-(-ROWS // 8), 1)),
    "less text": (table_part(a=pa.array(TEXTS)), shorter(len("".join(TEXTS)), 5)),
    "fewer offsets": (table_part(a=pa.array(TEXTS)), shorter(4 * (ROWS + 1), 8)),
}


@pytest.mark.parametrize("mode", ["ro", "cow", "copy"])
@pytest.mark.parametrize("kind", LIES)
def test_a_schema_that_lies_about_its_buffers(client: Client, kind: str, mode: Any) -> None:
    oid = put_edited(client, *LIES[kind])
    for _ in range(2):  # what was refused once is not let through then
        with pytest.raises(InvalidObjectError, match="cannot be read"):
            client.get(oid, mode=mode)
    handle = client.get_object(oid)
    with pytest.raises(InvalidObjectError):
        handle.to_arrow()
    meta = ObjectMeta("shop.root")
    meta.add_member("x", oid)
    root = client.create_metadata(meta).id
    assert root is not None
    for take in (lambda p, s: s.member("x"), lambda p, s: s.members()):
        with pytest.raises(InvalidObjectError):
            client.get(root, resolver=take)


def test_an_id_that_was_good_before(daemon: Daemon, client: Client) -> None:
    """What was checked of an object is not true of another that comes by its id."""
    good = client.put(table_part(a=pa.array(range(ROWS))).batches[0])
    with daemon.connect() as reader:
        assert reader.get(good).num_rows == ROWS
        client.delete(good)
        assert put_edited(client, *LIES["more rows"], int(good)) == good
        with pytest.raises(InvalidObjectError):
            reader.get(good)


def test_other_types_than_the_buffers_are_of(client: Client) -> None:
    """int64 columns that call themselves something wider, or with children."""
    part = table_part(a=pa.array(range(ROWS)))
    for type_ in (pa.string(), pa.decimal128(10), pa.list_(pa.int8()), pa.struct({"x": pa.int8()})):
        schema = pa.schema({"a": type_}).serialize().to_pybytes()

        def edit(streams: bytes, schema: bytes = schema) -> bytes:
            return schema + streams[8 + int.from_bytes(streams[4:8], "little") :]

        oid = put_edited(client, part, edit)
        with pytest.raises(InvalidObjectError):
            client.get(oid)


# ---- what only a look at all values shows


def bad_offsets() -> pa.Array:
    offsets = np.arange(0, 4 * 100, 4, dtype=np.int32)
    offsets[50] = 1 << 30
    return pa.StringArray.from_buffers(99, pa.py_buffer(offsets), pa.py_buffer(b"text" * 99))


def bad_views() -> pa.Array:
    views = np.zeros((8, 4), np.int32)
    views[3] = 100, 0, 7, 1 << 20  # a buffer that is not there
    buffers = [None, pa.py_buffer(views), pa.py_buffer(b"x" * 100)]
    return pa.Array.from_buffers(pa.string_view(), 8, buffers)


def bad_indices() -> pa.Array:
    indices = pa.array([0, 1, 1 << 20], pa.int32())
    return pa.DictionaryArray.from_arrays(indices, pa.array(["a", "b"]), safe=False)


@pytest.mark.parametrize("make", [bad_offsets, bad_views, bad_indices])
def test_full_validation_looks_at_all_values(client: Client, make: Callable[[], Any]) -> None:
    oid = client.put(pa.table({"a": make()}))
    for mode in ("ro", "copy"):
        with pytest.raises(InvalidObjectError, match="is damaged"):
            client.get(oid, mode=mode, validate="full")
    meta = ObjectMeta("shop.root")
    meta.add_member("x", oid)
    root = client.create_metadata(meta).id
    assert root is not None
    for take in (lambda p, s: s.member("x"), lambda p, s: s.members()):
        with pytest.raises(InvalidObjectError):
            client.get(root, resolver=take, validate="full")


def matrix(form: str) -> Any:
    value = sp.csr_array(np.eye(50)).asformat(form)
    if form == "coo":
        value.coords[0][3] = 1 << 20
    elif form == "dia":
        value.offsets = np.array([0, 1])
    else:
        value.indices[3] = 1 << 20
    return value


@pytest.mark.parametrize("form", ["csr", "csc", "bsr", "coo", "dia"])
def test_indices_of_sparse_matrices(client: Client, form: str) -> None:
    with pytest.raises(InvalidObjectError, match="damaged"):
        client.get(client.put(matrix(form)), validate="full")


def test_codes_of_frames(client: Client) -> None:
    codes = np.zeros(1000, np.int8)
    codes[7] = 99
    dtype = pd.CategoricalDtype(["a", "b"])
    series = pd.Series(pd.Categorical._simple_new(codes, dtype))
    index = pd.MultiIndex([["a", "b"]], [codes], verify_integrity=False)
    for value in (series, index):
        oid = client.put(value)
        with pytest.raises(InvalidObjectError, match="code"):
            client.get(oid, validate="full")


def test_sparse_tensors(client: Client) -> None:
    torch = pytest.importorskip("torch")
    bad = torch.sparse_coo_tensor([[0, 99]], [1.0, 2.0], [5], check_invariants=False)
    with pytest.raises(InvalidObjectError, match="damaged"):
        client.get(client.put(bad), validate="full")


def test_what_is_well_passes(client: Client) -> None:
    values = [
        pa.table({"a": TEXTS}), np.arange(9.0), sp.csr_array(np.eye(3)), {"a": [1, np.arange(999)]},
        pd.DataFrame({"a": pd.Categorical(["x", "y"] * 500), "b": TEXTS[:1000]}),
    ]  # fmt: skip
    for value in values:
        client.get(client.put(value), validate="full")
    with pytest.raises(InvalidObjectError, match="validate"):
        client.get(client.put(1), validate="most")


# ---- descriptors that lie


def tensor(**params: Any) -> Part:
    batch = pa.record_batch(
        [pa.array([1 << 40, 2])], pa.schema([pa.field("data", pa.int64(), False)])
    )
    return Part("vineyard.tensor", batch.schema, [batch], params)


GOOD = {"shape": [2], "dtype": "<i8", "order": "C"}


@pytest.mark.parametrize(
    "params",
    [
        {},
        GOOD | {"shape": [3]},
        GOOD | {"shape": "ab"},
        GOOD | {"shape": [1 << 62, 1 << 62]},
        GOOD | {"dtype": "|O"},
        GOOD | {"dtype": "T"},
        GOOD | {"dtype": "nonsense"},
        GOOD | {"dtype": {"base": "|O", "shape": [1]}},
        GOOD | {"dtype": {"names": ["a"], "formats": ["|O"], "offsets": [0], "itemsize": 8}},
        GOOD | {"order": "Z"},
    ],
    ids=str,
)
def test_tensors_that_are_none(client: Client, params: dict[str, Any]) -> None:
    """One of object pointers would have Python follow whatever the bytes are."""
    oid = client._put_parts([tensor(**params)], {})
    with pytest.raises(InvalidObjectError):
        client.get(oid)


def test_pointers_within_plain_values_and_frames(client: Client) -> None:
    from vineyard_arrow.types.memory import BYTES, byte_batch
    from vineyard_arrow.types.plain import NDARRAY, VERSION, packb

    body = packb([VERSION, {NDARRAY: ["|O", [1], "C", b"\x01" * 8]}, [], None])
    oid = client._put_parts([Part("vineyard.python.value", BYTES, [byte_batch(body)])], {})
    with pytest.raises(InvalidObjectError, match="cannot lie in"):
        client.get(oid)
    encoder = Encoder(Registry())
    encoder.add(pd.Series(np.arange(1000)))
    root, *others = encoder.parts
    (data,) = (bytes(batch.column(0).buffers()[1]) for batch in root.batches)
    assert data.count(b"<i8") == 1
    edited = Part(root.typename, BYTES, [byte_batch(data.replace(b"<i8", b"|O8"))])
    oid = client._put_parts([edited, *others], {})
    with pytest.raises(InvalidObjectError):
        client.get(oid)


@pytest.mark.parametrize("types", [["INTEGER) , (SELECT 1"], ["nonsense"], [3], None])
def test_types_of_a_relation_are_no_statements(client: Client, types: Any) -> None:
    part = table_part(a=pa.array([1]))
    params = {"names": ["a"], "types": types}
    oid = client._put_parts(
        [Part("vineyard.duckdb.relation", part.schema, part.batches, params)], {}
    )
    with pytest.raises(InvalidObjectError):
        client.get(oid)
