"""Records of a cluster: keys, values and the transactions that change them."""

from __future__ import annotations

import random
import threading

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from metadata_conformance import fail
from msgspec.structs import replace

from vineyard_arrow.errors import ConfigError, InvalidObjectError
from vineyard_arrow.metadata.backend import (
    Committed,
    Conflict,
    Item,
    Transaction,
    check_transaction,
)
from vineyard_arrow.metadata.embedded import EmbeddedBackend
from vineyard_arrow.metadata.groups import GroupCommit
from vineyard_arrow.metadata.records import (
    EdgeRecord,
    GlobalRecord,
    InstanceRecord,
    Layout,
    NameRecord,
    ObjectRecord,
    Reference,
    SignatureRecord,
    abandon_global,
    create_global,
    delete,
    delete_global,
    drop_name,
    is_owned,
    parse,
    persist,
    put_name,
    register,
    republish,
)
from vineyard_arrow.objects import ObjectID

LAYOUT = Layout("c1")
TABLE = pa.table({"a": pa.array([1, 2], pa.int32()), "b": ["x", "y"]})


def stream() -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, TABLE.schema) as writer:
        writer.write_table(TABLE)
    return sink.getvalue().to_pybytes()


def record(number: int, iid: int, **more: object) -> ObjectRecord:
    return ObjectRecord(number, iid, "vineyard.table", 100, 5, data=b"data", **more)


class Cluster:
    """A store with instances on it."""

    def __init__(self, instances: int = 2) -> None:
        self.backend = EmbeddedBackend()
        self.iids = []
        for i in range(instances):
            lease = self.backend.grant(60, fail)
            self.iids.append(lease.id)
            self.ok(register(LAYOUT, InstanceRecord(lease.id, i + 1, f"host{i}", 1)))

    def ok(self, transaction: Transaction) -> None:
        verdict = self.backend.commit(transaction)
        assert isinstance(verdict, Committed), verdict

    def refused(self, transaction: Transaction) -> set[str]:
        """Kinds of the keys that it failed by."""
        before = self.left()
        verdict = self.backend.commit(transaction)
        assert isinstance(verdict, Conflict)
        assert self.left() == before
        return {c.key.removeprefix(LAYOUT.prefix).split("/")[0] for c in verdict.failed}

    def left(self) -> set[str]:
        items = self.backend.range(LAYOUT.prefix, prefix=True).items
        return {i.key.removeprefix(LAYOUT.prefix) for i in items} - self.instances

    def item(self, key: str) -> Item:
        return self.backend.range(key).items[0]

    def end(self, iid: int) -> None:
        self.backend.end_lease(iid)
        self.iids.remove(iid)

    @property
    def instances(self) -> set[str]:
        return {f"i/{iid:016x}" for iid in self.iids}


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def test_the_keys_of_a_persisted_object(cluster) -> None:
    a, b = cluster.iids
    cluster.ok(persist(LAYOUT, record(2, b)))
    members = (Reference(2, b), Reference(3, a), Reference(3, a))
    cluster.ok(persist(LAYOUT, record(1, a, names=("n/1", "é"), signature=9, members=members)))
    one = f"{ObjectID(1)}"
    assert cluster.left() == {
        f"o/{a:016x}/{one}",
        f"o/{b:016x}/{ObjectID(2)}",
        "n/n/1",
        "n/é",
        f"s/{ObjectID(9)}/{a:016x}",
        f"r/{ObjectID(2)}/{one}",
        f"r/{ObjectID(3)}/{one}",
    }
    # What refers to a member goes with that member's owner, all else with the object's.
    cluster.end(b)
    assert f"r/{ObjectID(2)}/{one}" not in cluster.left()
    assert f"r/{ObjectID(3)}/{one}" in cluster.left()
    cluster.end(a)
    assert cluster.left() == set()


def test_persist_is_refused(cluster) -> None:
    a, b = cluster.iids
    cluster.ok(persist(LAYOUT, record(1, a, names=("n",))))
    assert cluster.refused(persist(LAYOUT, record(1, a))) == {"o"}
    assert cluster.refused(persist(LAYOUT, record(2, b, names=("n",)))) == {"n"}
    assert cluster.refused(persist(LAYOUT, record(2, b, members=(Reference(7, a),)))) == {"o"}
    # One that was counted out writes nothing, though it holds a lease.
    stray = cluster.backend.grant(60, fail)
    assert cluster.refused(persist(LAYOUT, record(2, stray.id))) == {"i"}


def test_delete_waits_for_what_refers_to_it(cluster) -> None:
    a, b = cluster.iids
    member, parent = record(1, a, signature=8), record(2, b, members=(Reference(1, a),))
    cluster.ok(persist(LAYOUT, member))
    cluster.ok(persist(LAYOUT, parent))
    signature = cluster.item(LAYOUT.signature(8, a))
    assert cluster.refused(delete(LAYOUT, member, (), signature)) == {"r"}
    cluster.ok(delete(LAYOUT, parent))
    cluster.ok(delete(LAYOUT, member, (), signature))
    assert cluster.left() == set()
    assert cluster.refused(delete(LAYOUT, member)) == {"o"}


def test_a_signature_that_points_elsewhere_stays(cluster) -> None:
    a, _ = cluster.iids
    first, second = record(1, a, signature=8), record(2, a, signature=8)
    cluster.ok(persist(LAYOUT, first))
    stale = cluster.item(LAYOUT.signature(8, a))
    cluster.ok(persist(LAYOUT, second))
    assert cluster.refused(delete(LAYOUT, first, (), stale)) == {"s"}
    cluster.ok(delete(LAYOUT, first))
    assert parse(LAYOUT, cluster.item(LAYOUT.signature(8, a))) == SignatureRecord(8, a, 2)


def test_names(cluster) -> None:
    a, _ = cluster.iids
    cluster.ok(persist(LAYOUT, record(1, a)))
    cluster.ok(put_name(LAYOUT, "n", record(1, a)))
    assert cluster.refused(put_name(LAYOUT, "n", record(1, a))) == {"n"}
    assert cluster.refused(put_name(LAYOUT, "m", record(2, a))) == {"o"}
    item = cluster.item(LAYOUT.name("n"))
    assert parse(LAYOUT, item) == NameRecord("n", 1, a)
    cluster.ok(drop_name(item))
    assert cluster.refused(drop_name(item)) == {"n"}
    cluster.ok(put_name(LAYOUT, "n", record(1, a)))
    item = cluster.item(LAYOUT.name("n"))
    cluster.ok(persist(LAYOUT, record(2, a)))
    cluster.ok(put_name(LAYOUT, "n", record(2, a), item))
    assert cluster.refused(put_name(LAYOUT, "n", record(1, a), item)) == {"n"}
    # Whoever deletes has not heard of it.
    assert cluster.refused(delete(LAYOUT, record(1, a), (item,))) == {"n"}
    cluster.ok(delete(LAYOUT, record(1, a)))
    cluster.ok(delete(LAYOUT, record(2, a), (cluster.item(LAYOUT.name("n")),)))
    assert cluster.left() == set()


@pytest.mark.parametrize("members", [1, 60, 200])
def test_a_global_object_comes_whole_or_not_at_all(cluster, members) -> None:
    a, b = cluster.iids
    parts = [record(i, (a, b)[i % 2]) for i in range(1, members + 1)]
    for part in parts:
        cluster.ok(persist(LAYOUT, part))
    before = cluster.left()
    whole = record(
        1000, a, names=("g",), members=tuple(Reference(p.id, p.iid, p.typename, 7) for p in parts)
    )
    steps = create_global(LAYOUT, whole)
    assert (len(steps) == 1) == (members <= 60)
    for step in steps:
        cluster.ok(step)
    assert cluster.refused(steps[-1]) == {"g", "n"}
    assert cluster.refused(delete(LAYOUT, parts[-1])) == {"r"}
    assert parse(LAYOUT, cluster.item(LAYOUT.globals(1000))) == GlobalRecord(whole)
    assert len(cluster.left() - before) == 2 + members
    # It outlives who made it; references to the members that are left stay.
    cluster.end(a)
    assert f"g/{ObjectID(1000)}" in cluster.left()
    assert sum(k.startswith("r/") for k in cluster.left()) == (members + 1) // 2
    cluster.ok(delete_global(LAYOUT, whole, (cluster.item(LAYOUT.name("g")),)))
    assert cluster.left() == {f"o/{b:016x}/{ObjectID(p.id)}" for p in parts if p.iid == b}


def test_a_large_global_object_with_a_member_that_is_not_there(cluster) -> None:
    a, b = cluster.iids
    parts = [record(i, b) for i in range(1, 201)]
    for part in parts[:-1]:
        cluster.ok(persist(LAYOUT, part))
    before = cluster.left()
    whole = record(1000, a, members=tuple(Reference(p.id, p.iid) for p in parts))
    *steps, _last = create_global(LAYOUT, whole)
    for step in steps[:-1]:
        cluster.ok(step)
    assert cluster.refused(steps[-1]) == {"o"}
    cluster.ok(abandon_global(LAYOUT, whole))
    assert cluster.left() == before
    # A creator that dies between two steps leaves nothing either.
    cluster.ok(steps[0])
    cluster.end(a)
    assert cluster.left() == before


def test_global_objects_that_are_refused(cluster) -> None:
    a, _ = cluster.iids
    with pytest.raises(InvalidObjectError, match="itself"):
        create_global(LAYOUT, record(1, a, members=(Reference(1, a),)))
    with pytest.raises(InvalidObjectError, match="at most"):
        create_global(LAYOUT, record(1, a, members=tuple(Reference(i, a) for i in range(2, 5000))))
    largest = record(1, a, members=tuple(Reference(i, a) for i in range(2, 3998)))
    for step in create_global(LAYOUT, largest):
        check_transaction(step)


def test_any_arrow_reader_finds_the_schema(cluster) -> None:
    a, _ = cluster.iids
    stored = replace(record(1, a, labels={"k": "v"}), data=stream())
    cluster.ok(persist(LAYOUT, stored))
    value = cluster.item(LAYOUT.object(a, 1)).value
    with pa.ipc.open_stream(value) as reader:
        assert reader.schema == TABLE.schema
        assert reader.read_all() == TABLE
    assert parse(LAYOUT, cluster.item(LAYOUT.object(a, 1))) == stored


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=10)
U64 = st.integers(0, 2**64 - 1)
LEASES = st.integers(1, 2**63 - 1)
RECORDS = st.builds(
    ObjectRecord,
    U64,
    LEASES,
    TEXTS,
    st.integers(0, 2**63),
    st.integers(0, 2**63 - 1),
    U64,
    st.dictionaries(TEXTS, TEXTS, max_size=2),
    st.lists(TEXTS, max_size=2, unique=True).map(tuple),
    st.lists(st.builds(Reference, U64, LEASES, TEXTS, U64), max_size=3).map(tuple),
    st.binary(max_size=50),
)


@given(RECORDS)
def test_every_put_is_parsed_back(record) -> None:
    found = [
        parse(LAYOUT, Item(put.key, put.value, 1, put.lease))
        for put in persist(LAYOUT, record).puts
    ]
    assert found[0] == record
    names = [f for f in found if isinstance(f, NameRecord)]
    assert names == [NameRecord(name, record.id, record.iid) for name in record.names]
    edges = {f for f in found if isinstance(f, EdgeRecord)}
    assert edges == {EdgeRecord(m.id, record.id) for m in record.members}


@given(RECORDS, st.data())
def test_a_damaged_value_is_refused_or_harmless(record, data) -> None:
    value = persist(LAYOUT, record).puts[0].value
    cut = data.draw(st.integers(0, len(value) - 1))
    for damaged in (value[:cut], value[:cut] + b"\xff" + value[cut + 1 :]):
        try:
            found = parse(LAYOUT, Item(LAYOUT.object(record.iid, record.id), damaged, 1))
        except InvalidObjectError:
            continue
        assert isinstance(found, ObjectRecord)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("x/1", b""),
        ("", b""),
        ("i/1", b"{}"),
        ("i/0000000000000001", b'{"iid":2,"number":1,"host":"","pid":1}'),
        ("o/1/2", b""),
        ("n/a", b"o0000000000000001"),
        ("n/a", b"\xff \xff"),
        ("s/o0000000000000001/zz", b""),
        ("r/o0000000000000001", b""),
        ("r/o0000000000000001/2", b""),
    ],
)
def test_what_is_no_record(key, value) -> None:
    with pytest.raises(InvalidObjectError):
        parse(LAYOUT, Item(LAYOUT.prefix + key, value, 1))


@pytest.mark.parametrize("name", ["", "a/b", "a b", "é", "x" * 65, "..\n"])
def test_names_of_clusters(name) -> None:
    with pytest.raises(ConfigError, match="no name of a cluster"):
        Layout(name)


def test_what_an_instance_puts_back(cluster) -> None:
    a, b = cluster.iids
    me = InstanceRecord(a, 1, "host0", 1)
    mine = record(1 << 40, a)
    cluster.ok(persist(LAYOUT, mine))
    cluster.ok(persist(LAYOUT, record(2, b)))
    whole = record(1 << 40 | 5, a, names=("g",), members=(Reference(1 << 40, a), Reference(2, b)))
    (step,) = create_global(LAYOUT, whole)
    cluster.ok(step)
    items = cluster.backend.range(LAYOUT.prefix, prefix=True).items
    owned = [i for i in items if is_owned(LAYOUT, i, me)]
    kinds = sorted(i.key.removeprefix(LAYOUT.prefix)[0] for i in owned)
    assert kinds == ["g", "i", "n", "o", "r"]
    item = cluster.item(LAYOUT.object(a, mine.id))
    assert cluster.refused(republish(LAYOUT, item, a)) == {"o"}
    cluster.ok(Transaction(deletes=(item.key,)))
    cluster.ok(republish(LAYOUT, item, a))
    assert cluster.item(item.key).value == item.value


def test_persists_race_deletes_and_leave_no_reference_to_nothing(cluster) -> None:
    """The parents of one instance race the deletes of their members by another."""
    a, b = cluster.iids
    groups = GroupCommit(cluster.backend)
    members = [record(i, a) for i in range(1, 201)]
    for future in [groups.submit(persist(LAYOUT, m)) for m in members]:
        assert isinstance(future.result(), Committed)
    outcomes = {}

    def act(kind: str, seed: int) -> None:
        order = members.copy()
        random.Random(seed).shuffle(order)
        futures = []
        for member in order:
            parent = record(member.id + 1000, b, members=(Reference(member.id, a),))
            made = persist(LAYOUT, parent) if kind == "persist" else delete(LAYOUT, member)
            futures.append((member.id, groups.submit(made)))
        outcomes[kind] = {i: isinstance(f.result(), Committed) for i, f in futures}

    threads = [threading.Thread(target=act, args=each) for each in (("persist", 1), ("delete", 2))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    groups.close()
    for member in members:
        # Either the reference came first and the member stays, or the delete did.
        assert outcomes["persist"][member.id] != outcomes["delete"][member.id]
    keys = cluster.left()
    for key in keys:
        if key.startswith("r/"):
            member = ObjectID(key.split("/")[1])
            assert f"o/{a:016x}/{member}" in keys
