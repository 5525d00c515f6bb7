"""Objects that were not made by us, or of others' members: read in bounds, or refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import Daemon
from test_fork import in_child

import vineyard_arrow as va
from vineyard_arrow import ObjectID, ObjectMeta, Part, dual_strings
from vineyard_arrow.client import Client
from vineyard_arrow.errors import (
    InvalidGraphError,
    InvalidObjectError,
    ObjectExistsError,
)
from vineyard_arrow.graph import Graph
from vineyard_arrow.graph.vertices import Vertices
from vineyard_arrow.types.memory import BYTES, byte_batch
from vineyard_arrow.types.plain import SET, SHARED, TUPLE, VERSION, packb

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


@va.shared(typename="test.knot")
@dataclasses.dataclass
class Knot:
    left: Knot | ObjectID | None = None
    right: Knot | ObjectID | None = None


def plain(tree: Any, parts: list[int] | None = None) -> Part:
    body = packb([VERSION, tree, parts or [], None])
    return Part("vineyard.python.value", BYTES, [byte_batch(body)])


def graph_of(client: Client, count: int = 20) -> Graph:
    names = [f"v{i:03d}" for i in range(count)]
    edges = pa.table({"src": names[:5], "dst": names[3:8]})
    return Graph.from_tables(
        {"p": pa.table({"oid": names})}, {("p", "e", "p"): edges}, client=client
    )


# ---- members


def test_members_that_are_there_twice_are_read_once(client: Client) -> None:
    oid = client.put(Knot())
    for _ in range(40):  # 2**40 ways from the last to the first
        oid = client.put(Knot(oid, oid))
    knot = client.get(oid)
    assert knot.left is knot.right
    for _ in range(39):
        knot = knot.left
    assert knot.left.left is None


def test_so_are_all_members_in_one_step(client: Client) -> None:
    client_registry = va.resolver_context(
        {"test.both": lambda part, stored: list(stored.members().values())}
    )
    oid = client.put(pa.table({"a": [1]}))
    for _ in range(40):
        meta = ObjectMeta("test.both")
        meta.add_member("left", oid)
        meta.add_member("right", oid)
        oid = client.create_metadata(meta).id
    with client_registry:
        value = client.get(oid)
    for _ in range(40):
        assert value[0] is value[1]
        value = value[0]
    assert value.num_rows == 1


def test_a_chain_without_end_is_told(client: Client) -> None:
    oid = client.put(Knot())
    for _ in range(3000):
        oid = client.put(Knot(oid))
    with pytest.raises(InvalidObjectError, match="nests too deeply"):
        client.get(oid)


def test_a_refused_strict_put_leaves_members_that_were_there(client: Client) -> None:
    inner = client.put(Knot())
    client.put(1, name="taken")
    with pytest.raises(ObjectExistsError):
        client.put_many([Knot(inner), 5], names=[None, "taken"], seal="strict")
    assert client.get(inner) == Knot()
    assert client.status().objects == 2


def test_a_forked_child_puts_a_graph_that_it_inherited(client: Client) -> None:
    graph = graph_of(client)
    oid = in_child(lambda: int(client.put(graph)))
    assert client.get(oid).num_edges() == 5


# ---- parts


def test_parts_that_refer_to_each_other_over_and_over(client: Client) -> None:
    parts = [plain([{0: 0}, {0: 1}], [i + 1, i + 1]) for i in range(40)]
    oid = client._put_parts([*parts, plain(1)], {})
    with pytest.raises(InvalidObjectError, match="over and over"):
        client.get(oid)


def test_a_part_that_is_its_own(client: Client) -> None:
    oid = client._put_parts([plain({0: 0}, [0])], {})
    with pytest.raises(InvalidObjectError, match="nests too deeply"):
        client.get(oid)


def test_a_schema_is_not_anothers_word(client: Client) -> None:
    """Retyped, eight bytes would be read as eight integers of eight bytes."""
    schema = pa.schema([("a", pa.int8())])
    batch = pa.record_batch([pa.array([1] * 8, pa.int8())], schema=schema)
    other = Part("vineyard.schema", pa.schema([("a", pa.int64())]), [])
    oid = client._put_parts([Part("vineyard.table", schema, [batch], {"schema": 1}), other], {})
    with pytest.raises(InvalidObjectError, match="not put by us"):
        client.get(oid)


def test_keys_that_take_for_ever_to_hash(client: Client) -> None:
    deep = [{TUPLE: [1]}, *({TUPLE: [{SHARED: i}]} for i in range(5000)), {SET: [{SHARED: 5000}]}]
    wide = [{TUPLE: [1]}, *({TUPLE: [{SHARED: i}] * 2} for i in range(60)), {SET: [{SHARED: 60}]}]
    for tree in (deep, wide):
        oid = client._put_parts([plain(tree)], {})
        with pytest.raises(InvalidObjectError, match="without end"):
            client.get(oid)
    t = (1,)
    for value in ([t, {t: 1}, {(t, 2)}, (t, t)], {(t, t), t}, [{frozenset({t}): t}]):
        assert client.get(client.put(value)) == value


def test_a_tensor_without_its_bytes(client: Client) -> None:
    pytest.importorskip("torch")
    params = {"dtype": "float32", "shape": [1000]}
    oid = client._put_parts([Part("vineyard.torch.tensor", BYTES, [byte_batch(b"")], params)], {})
    with pytest.raises(InvalidObjectError, match="no bytes"):
        client.get(oid)


def test_coordinates_outside_of_a_sparse_array(client: Client) -> None:
    sparse = pytest.importorskip("sparse")
    array = sparse.COO(np.array([[1, 2], [0, 1]]), np.array([1.0, 2.0]), shape=(5, 5))
    array.coords[0, 1] = 10_000_000
    with pytest.raises(InvalidObjectError, match="outside"):
        client.get(client.put(array), validate="full")


# ---- graphs


@pytest.mark.parametrize("how", ["offsets", "chunks"])
def test_texts_of_a_graph_that_lead_elsewhere(client: Client, how: str) -> None:
    graph = graph_of(client)
    vertices = graph._vertices["p"]
    (column,) = vertices.table.select(vertices.key).columns
    texts = column.combine_chunks()
    if how == "offsets":
        offsets = np.frombuffer(
            texts.buffers()[1], np.int32 if texts.type == pa.string() else np.int64
        )
        offsets = offsets.copy()
        offsets[1:-1] = 2_000_000_000
        texts = pa.Array.from_buffers(
            texts.type, len(texts), [None, pa.py_buffer(offsets), texts.buffers()[2]]
        )
        column = pa.chunked_array([texts])
    else:
        column = pa.chunked_array([texts.slice(0, 1), texts.slice(1)])
    table = pa.table({"oid": column})
    bad = Vertices("p", table, vertices.key, vertices.index, vertices.id_bits)
    oid = client.put(Graph({"p": bad}, graph._edges, True))
    with pytest.raises(InvalidGraphError, match=r"damaged|several chunks"):
        client.get(oid, trusted=False)


@pytest.mark.parametrize("change", ["label", "key", "no key", "bits", "count"])
def test_graphs_that_make_no_sense(client: Client, change: str) -> None:
    meta = client.get_meta(client.put(graph_of(client)))
    params = client._a.read(meta.id).parts[0].params
    vertices, edges = [list(v) for v in params["vertices"]], [list(e) for e in params["edges"]]
    members = dict(meta.members)
    if change == "label":
        edges[0][0] = ["q", "e", "p"]
        members |= {k.replace("p/e/p", "q/e/p"): m for k, m in meta.members.items()}
    elif change == "count":
        edges[0][1] = "x"
    else:
        vertices[0][{"key": 2, "no key": 2, "bits": 4}[change]] = {
            "key": ["z"],
            "no key": [],
            "bits": 70,
        }[change]
    params = params | {"vertices": vertices, "edges": edges}
    oid = client._put_parts([Part("vineyard.graph", pa.schema([]), [], params)], members)
    with pytest.raises(InvalidGraphError):
        client.get(oid, trusted=False)


# ---- extension types without a hash


class Unhashable(pa.ExtensionType):
    """As pyarrow makes them: with ``__eq__`` and no ``__hash__``."""

    def __init__(self) -> None:
        super().__init__(pa.int64(), "test.unhashable")

    __hash__ = None  # type: ignore[assignment]

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: pa.DataType, data: bytes) -> Unhashable:
        return cls()


def test_types_that_have_no_hash(client: Client, daemon: Daemon) -> None:
    column = pa.ExtensionArray.from_storage(Unhashable(), pa.array([1, 2]))
    table = pa.table({"x": column, "s": ["a", "b"]})
    oid = client.put(dual_strings(table))
    assert client.get(oid, trusted=True).column("s").to_pylist() == ["a", "b"]
    assert client.get(client.put(pa.chunked_array([column])), as_="numpy", trusted=True).sum() == 3
