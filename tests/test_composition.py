"""Objects made of other objects: values, members, handles, references, labels, signatures."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from conftest import Daemon
from test_fork import in_child

import vineyard_arrow
from vineyard_arrow import ObjectID, ObjectMeta
from vineyard_arrow.client import Client
from vineyard_arrow.composition import MEMBERS, members_part
from vineyard_arrow.errors import (
    InvalidObjectError,
    ObjectInUseError,
    ObjectNotFoundError,
    ResolverNotFoundError,
    StoreFullError,
)
from vineyard_arrow.objects import Member
from vineyard_arrow.registry import Part, Registry
from vineyard_arrow.store import Draft

ROWS = 20_000


def table_of(i: int = 0) -> pa.Table:
    return pa.table({"a": np.arange(ROWS) + i, "b": np.random.default_rng(i).random(ROWS)})


def compose(client: Client, typename: str = "vineyard.object", **members: Any) -> ObjectID:
    meta = ObjectMeta(typename)
    for name, member in members.items():
        meta.add_member(name, member)
    oid = client.create_metadata(meta).id
    assert oid is not None
    return oid


# ---- values and members


def test_values_and_members_are_there_for_others(daemon: Daemon, client: Client) -> None:
    left, right = client.put(table_of(1)), client.put(np.arange(12.0).reshape(3, 4))
    meta = ObjectMeta("shop.pair")
    meta["owner"], meta["sizes"], meta["deep"] = "Ann", (1, 2**63, -3), {"x": [None, True, 1.5]}
    meta.add_member("left", left)
    meta.add_member("right", str(right))
    made = client.create_metadata(meta, name="pair")

    def look() -> list[Any]:
        with daemon.connect() as other:
            seen = other.get_meta("pair")
            handle = other.get_object("pair")
            return [
                (seen.id, seen.typename, dict(seen), seen.names, seen["typename"]),
                {name: (m.id, m.typename) for name, m in seen.members.items()},
                handle.left.get().equals(table_of(1)),
                handle.right.get().tolist(),
                list(handle),
            ]

    first, members, left_is_right, right_value, names = in_child(look)
    values = {"owner": "Ann", "sizes": [1, 2**63, -3], "deep": {"x": [None, True, 1.5]}}
    assert first == (made.id, "shop.pair", values, ("pair",), "shop.pair")
    assert members == {"left": (left, "vineyard.table"), "right": (right, "vineyard.tensor")}
    assert left_is_right
    assert right_value == np.arange(12.0).reshape(3, 4).tolist()
    assert names == ["left", "right"]
    assert client.get_meta(left).parents == 1
    assert meta.id is None  # what was sealed is another
    with pytest.raises(InvalidObjectError, match="sealed"):
        made["owner"] = "Bob"
    with pytest.raises(InvalidObjectError, match="sealed"):
        made.add_member("more", left)


def test_metadata_among_members_is_sealed_too(client: Client) -> None:
    inner = ObjectMeta("shop.inner", {"depth": 2})
    inner.add_member("table", client.put(table_of()))
    outer = ObjectMeta()
    outer.add_member("inner", inner)
    outer.add_member("again", client.get_object(client.create_metadata(inner).id))
    handle = client.get_object(client.create_metadata(outer).id)
    assert handle.inner.meta["depth"] == 2
    assert handle.inner.table.get().equals(table_of())
    assert handle.inner.table.id == handle.again.table.id
    assert client.get_meta(handle.again.table.id).parents == 2


def test_without_a_resolver_the_error_says_what_to_do(client: Client) -> None:
    oid = compose(client, "shop.unknown", x=client.put(1))
    with pytest.raises(ResolverNotFoundError, match=r"shop\.unknown"):
        client.get(oid)
    assert client.get_object(oid).x.get() == 1
    plain = compose(client, x=client.put(1))
    assert client.get(plain).x.get() == 1  # a handle, where no type was given


def test_a_resolver_makes_values_of_members(daemon: Daemon) -> None:
    registry = Registry()

    @registry.builder(Sale)
    def build(sale: Sale, encoder: Any) -> Any:
        encoder.add_member("lines", sale.lines)
        part = vineyard_arrow.Part("shop.sale", pa.schema([]), [], {"by": sale.by})
        return part

    @registry.resolver("shop.sale")
    def resolve(part: Any, stored: Any) -> Sale:
        return Sale(stored.member("lines", as_=pl.DataFrame), part.params["by"])

    with daemon.connect(registry=registry) as client:
        lines = client.put(table_of(3))
        oid = client.put(Sale(lines, "Ann"))
        got = client.get(oid)
        assert (type(got), got.by) == (Sale, "Ann")
        assert got.lines.equals(pl.from_arrow(table_of(3)))
        client.delete(oid, deep=False)
        assert client.get(lines).equals(table_of(3))
        client.delete(client.put(Sale(lines, "Bob")))
        assert not client.exists(lines)


class Sale:
    def __init__(self, lines: Any, by: str) -> None:
        self.lines, self.by = lines, by


# ---- deletion counts references


def test_a_member_is_kept_until_its_last_object_goes(client: Client) -> None:
    shared, own = client.put(table_of(1)), client.put(table_of(2))
    first = compose(client, shared=shared, own=own)
    second = compose(client, shared=shared)
    with pytest.raises(ObjectInUseError, match="2 other"):
        client.delete(shared)
    client.delete(first)
    assert not client.exists(own)
    assert client.exists(shared)
    client.delete(second)
    assert not client.exists(shared)
    assert client.status().memory_used == 0


def test_a_named_member_stays(client: Client) -> None:
    member = client.put(table_of(), name="kept")
    client.delete(compose(client, member=member))
    assert client.get("kept").equals(table_of())
    assert client.get_meta(member).parents == 0


def test_a_shallow_delete_leaves_the_members(client: Client) -> None:
    member = client.put(table_of())
    client.delete(compose(client, member=member), deep=False)
    assert client.get(member).equals(table_of())


def test_force_deletes_a_member_and_its_object_says_so(client: Client) -> None:
    member = client.put(table_of())
    root = compose(client, "shop.root", member=member)
    client.delete(member, force=True)
    with pytest.raises(ObjectNotFoundError):
        client.get_object(root).member("member")

    def resolve(part: Any, stored: Any) -> Any:
        return stored.member("member")

    with pytest.raises(ObjectNotFoundError, match=r"'member'.*is gone"):
        client.get(root, resolver=resolve)
    client.delete(root)


def test_together_object_and_member_can_go(client: Client) -> None:
    member = client.put(table_of())
    root = compose(client, member=member, twice=member)
    client.delete([member, root])
    assert client.status().objects == 0


def test_a_handle_keeps_a_deleted_tree(client: Client) -> None:
    member = client.put(table_of())
    handle = client.get_object(compose(client, inner=compose(client, table=member)))
    client.delete(handle.id)
    assert not client.exists(handle.id)
    assert handle.inner.table.get().equals(table_of())
    inner = handle.inner
    del handle
    assert inner.table.get().equals(table_of())
    del inner
    client.status()  # by now the daemon has been told
    assert not client.exists(member)


def test_a_deep_chain_goes_at_once(client: Client) -> None:
    oid = client.put(table_of())
    for _ in range(1500):
        oid = compose(client, next=oid)
    assert client.status().objects == 1501
    client.delete(oid)
    assert client.status().objects == 0
    assert client.status().metadata_used == 0


# ---- round trips


def test_a_tree_is_got_in_one_round_trip(
    daemon: Daemon, client: Client, requests: list[str]
) -> None:
    def put(i: int) -> ObjectID:
        with daemon.connect() as writer:  # a segment of its own for each member
            return writer.put(table_of(i))

    members = {f"m{i}": in_child(put, i) for i in range(5)}
    leaf = compose(client, **members)
    root = compose(client, "shop.tree", leaf=leaf, also=members["m0"])
    code = f"""
import vineyard_arrow
from vineyard_arrow.ipc.connection import Connection
made, request = [], Connection.request
def counting(self, message, timeout_s=None):
    made.append(type(message).__name__)
    return request(self, message, timeout_s)
Connection.request = counting
client = vineyard_arrow.connect({str(daemon.socket)!r}, autostart=False)
for _ in range(2):
    made.clear()
    leaf, also = client.get({int(root)}, resolver=lambda part, stored: (
        stored.member("leaf"), stored.member("also")))
    firsts = [leaf.member(name).get()["a"][0].as_py() for name in leaf]
    print(firsts, also["a"][0].as_py(), made)
client.close()
client = vineyard_arrow.connect({str(daemon.socket)!r}, autostart=False)
made.clear()
members = client.get({int(leaf)}, resolver=lambda part, stored: stored.members())
print([table["a"][0].as_py() for table in members.values()], made)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines() == [
        "[0, 1, 2, 3, 4] 0 ['GetSegments']",
        "[0, 1, 2, 3, 4] 0 []",
        "[0, 1, 2, 3, 4] ['GetSegments']",
    ]


# ---- bad input


def test_what_is_no_member(client: Client) -> None:
    meta = ObjectMeta()
    with pytest.raises(InvalidObjectError, match="put it first"):
        meta.add_member("x", table_of())
    with pytest.raises(InvalidObjectError, match="not an object id"):
        meta.add_member("x", "nonsense")
    with pytest.raises(InvalidObjectError, match="no name"):
        meta.add_member("", 1)
    meta.add_member("x", client.put(1))
    with pytest.raises(InvalidObjectError, match="already"):
        meta.add_member("x", client.put(2))
    with pytest.raises(InvalidObjectError, match="no metadata holds"):
        meta["x"] = {"deep": object()}
    with pytest.raises(InvalidObjectError, match="not for its user"):
        meta["id"] = 3
    with pytest.raises(InvalidObjectError, match="create_metadata"):
        client.put(meta)


def test_a_member_that_is_gone(client: Client) -> None:
    oid = client.put(1)
    client.delete(oid)
    before = client.status()
    inner, outer = ObjectMeta(), ObjectMeta()
    inner.add_member("fine", client.put(2))
    outer.add_member("inner", inner)
    outer.add_member("gone", oid)
    with pytest.raises(ObjectNotFoundError):
        client.create_metadata(outer)
    assert client.status().objects == before.objects + 1  # nothing of it was kept


def test_a_cycle_is_refused(client: Client) -> None:
    a, b = ObjectMeta("shop.a"), ObjectMeta("shop.b")
    a.add_member("b", b)
    b.add_member("a", a)
    with pytest.raises(InvalidObjectError, match=r"shop\.a -> shop\.b -> shop\.a"):
        client.create_metadata(a)
    assert client.status().objects == 0


def test_an_unknown_member_names_the_nearest(client: Client) -> None:
    handle = client.get_object(compose(client, vertices=client.put(1), edges=client.put(2)))
    with pytest.raises(ObjectNotFoundError, match="vertices"):
        handle.member("vertex")
    with pytest.raises(AttributeError, match="vertex"):
        handle.vertex  # noqa: B018
    assert {"vertices", "edges"} <= set(dir(handle))


def test_an_index_without_room_keeps_nothing(make_daemon: Any) -> None:
    daemon = make_daemon("--max-objects", "6", "--memory-limit", "64MiB")
    with daemon.connect() as client:
        kept = [client.put(i) for i in range(4)]
        outer, inner = ObjectMeta(), ObjectMeta()
        outer.add_member("inner", inner)
        for name in ("x", "y"):
            deeper = ObjectMeta()
            deeper.add_member("value", kept[0])
            inner.add_member(name, deeper)
        with pytest.raises(StoreFullError):
            client.create_metadata(outer)
        assert client.status().objects == 4
        assert client.get_meta(kept[0]).parents == 0
        client.delete(kept)


# ---- copies, labels, signatures


@pytest.fixture(params=["table", "frame", "composite"])
def some(request: pytest.FixtureRequest, client: Client) -> Iterator[ObjectID]:
    if request.param == "table":
        yield client.put(table_of())
    elif request.param == "frame":
        yield client.put(table_of().to_pandas())
    else:
        yield compose(client, x=client.put(table_of()))


def test_a_shallow_copy_shares_all(client: Client, some: ObjectID) -> None:
    copy = client.shallow_copy(some, {"note": "hello", "n": 3})
    again = client.shallow_copy(copy, {"n": 4})
    before, meta, last = map(client.get_meta, (some, copy, again))
    assert dict(before) == {}
    assert dict(meta) == {"note": "hello", "n": 3}
    assert dict(last) == {"note": "hello", "n": 4}
    assert meta.members == before.members
    assert (meta.copied, meta.gathered) == (0, 0)
    assert before.signature == meta.signature == last.signature == some
    assert client.get_meta(client.put(1)).signature != some
    assert client.get_object(again).meta.signature == some
    assert [m.id for m in client.list_objects(signature=some)] == [some, copy, again]
    if before.members:
        assert client.get(again).x.get().equals(table_of())
    else:
        assert client.get(copy, as_=pa.Table).equals(client.get(some, as_=pa.Table))
    client.delete(some)
    assert client.exists(again)
    assert [m.id for m in client.list_objects(signature=before.signature)] == [copy, again]
    assert client.list_objects(signature=1) == []


def test_labels_change_and_select(client: Client) -> None:
    one, two = client.put(1), client.put(2)
    client.label(one, {"stage": "raw", "owner": "Ann"})
    client.label(two, {"stage": "raw"})
    client.label(one, {"stage": "clean"})
    assert client.get_meta(one).labels == {"stage": "clean", "owner": "Ann"}
    assert [m.id for m in client.list_objects(labels={"stage": "raw"})] == [two]
    client.label(one, {"owner": ""})
    assert client.get_meta(one).labels == {"stage": "clean"}
    with pytest.raises(InvalidObjectError):
        client.label(one, {"x": "y" * 100_000})
    with pytest.raises(ObjectNotFoundError):
        client.label(ObjectID(1), {"x": "y"})


# ---- handles


def test_a_handle_is_arrow_data(client: Client) -> None:
    handle = client.get_object(client.put(table_of()))
    address = client.get(handle.id)["a"].chunk(0).buffers()[1].address
    assert pl.DataFrame(handle).equals(pl.from_arrow(table_of()))
    assert pa.table(handle)["a"].chunk(0).buffers()[1].address == address
    assert handle.to_arrow().equals(table_of())
    assert handle.to_reader().read_all().equals(table_of())
    assert pa.schema(handle) == table_of().schema
    duckdb = pytest.importorskip("duckdb")
    with duckdb.connect() as connection:
        connection.register("t", handle)
        for _ in range(2):  # a fresh stream for each query
            rows = connection.sql("SELECT count(*), sum(a) FROM t").fetchall()
            assert rows == [(ROWS, ROWS * (ROWS - 1) // 2)]
    assert "20,000" in handle._repr_html_()
    assert "vineyard.table" in repr(handle)


def test_a_handle_of_a_tensor_is_an_array(client: Client) -> None:
    value = np.arange(ROWS, dtype=np.float32).reshape(100, -1)
    handle = client.get_object(client.put(value))
    assert np.array_equal(np.asarray(handle), value)
    view = np.from_dlpack(handle)
    assert np.array_equal(view, value)


def test_a_handle_of_a_column_is_a_stream_of_arrays(client: Client) -> None:
    column = pa.chunked_array([[1, None], [3]])
    for value in (column, pa.array([1, None, 3]), pl.Series([1, None, 3])):
        handle = client.get_object(client.put(value))
        assert pa.chunked_array(handle).to_pylist() == [1, None, 3]
        assert pl.Series(handle).to_list() == [1, None, 3]


def test_the_schema_of_a_handle_is_that_of_its_stream(client: Client) -> None:
    for value in (table_of(), table_of().to_pandas(), pl.DataFrame(table_of()), pa.array([1])):
        handle = client.get_object(client.put(value))
        streamed = pa.chunked_array(handle)
        schema = pa.DataType._import_from_c_capsule(handle.__arrow_c_schema__())
        assert schema == streamed.type


def test_dlpack_of_whatever_has_numbers(client: Client) -> None:
    for value in (np.arange(3), pa.array([0, 1, 2]), pa.chunked_array([[0], [1, 2]])):
        handle = client.get_object(client.put(value))
        view = np.from_dlpack(handle)
        assert view.tolist() == [0, 1, 2]
        assert np.asarray(handle).tolist() == [0, 1, 2]


def test_a_handle_of_what_is_no_table(client: Client) -> None:
    handle = client.get_object(client.put({"a": [1, 2]}))
    assert handle.get() == {"a": [1, 2]}
    with pytest.raises(ResolverNotFoundError):
        handle.to_table()
    handle._repr_html_()


def test_wide_composites(client: Client) -> None:
    oids = client.put_many([np.arange(i) for i in range(1000)])
    root = compose(client, **{f"m{i}": oid for i, oid in enumerate(oids)})
    handle = client.get(root)
    assert list(handle) == [f"m{i}" for i in range(1000)]
    assert all(handle.member(f"m{i}").id == oid for i, oid in enumerate(itertools.islice(oids, 20)))
    del handle  # it keeps the members of what is deleted
    client.delete(root)
    assert client.status().objects == 0


def test_a_damaged_list_of_members(client: Client) -> None:
    good = "o0000010000000002"
    root = Part("shop.root", pa.schema([]), [])
    fields = members_part({"x": Member(ObjectID(1), "shop.x")}).schema
    for ids in (
        *(None, 3, [], [good] * 2, [None], ["nonsense"]),
        *(["o-000010000000002"], [good[:-1]], [good + "0"], ["o" + "\u0664" * 16]),
    ):
        params = {} if ids is None else {"ids": ids}
        (oid,) = client._a.put([Draft([root, Part(MEMBERS, fields, [], params)])])
        with pytest.raises(InvalidObjectError):
            client.get(oid, resolver=lambda part, stored: None)
        with pytest.raises(InvalidObjectError):
            client.get_meta(oid)
    client.list_objects()


def test_all_members_in_one_step(client: Client) -> None:
    def take(part: Any, stored: Any) -> Any:
        return stored.members()

    root = compose(client, "shop.root", one=client.put(1), table=client.put(table_of()))
    values = client.get(root, resolver=take)
    assert list(values) == ["one", "table"]
    assert values["one"] == 1
    assert values["table"].equals(table_of())
    assert client.get(client.put(3), resolver=take) == {}
    private = client.get(root, resolver=take, mode="cow")["table"].to_pandas()
    private.iloc[0, 0] = -1
    client.delete(client.get_meta(root).members["one"].id, force=True)
    with pytest.raises(ObjectNotFoundError, match=r"'one'.*is gone"):
        client.get(root, resolver=take)
