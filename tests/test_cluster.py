"""Instances of one cluster: real daemons that meet in a real etcd."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from cluster_harness import SMALL, TABLE, heard, until
from cluster_harness import daemons as daemons
from cluster_harness import pair as pair
from conftest import DEADLINE_S, Daemon

from vineyard_arrow import ObjectID, __version__
from vineyard_arrow.client import Client, connect
from vineyard_arrow.errors import ObjectExistsError, ObjectInUseError, ObjectNotFoundError
from vineyard_arrow.metadata.etcd.server import EtcdServers
from vineyard_arrow.objects import InstanceInfo, ObjectMeta


@pytest.fixture
def join(
    etcd: EtcdServers, make_daemon: Callable[..., Daemon], request: pytest.FixtureRequest
) -> Callable[..., Daemon]:
    """Start an instance of a cluster of the test's own."""

    def make(*options: str) -> Daemon:
        name = f"c{abs(hash(request.node.nodeid))}"
        return make_daemon(*SMALL, "--meta", f"etcd://{etcd.address}/{name}", *options)

    return make


class TestInstances:
    def test_alone(self, client) -> None:
        [info] = client.instances()
        assert isinstance(info, InstanceInfo)
        assert (info.number, info.version, info.rpc) == (client.instance, __version__, "")
        assert info.pid == client.status().pid
        assert client.status().meta == "embedded"
        assert client.status().cluster_instances == 1

    def test_two(self, join) -> None:
        first, second = join(), join("--rpc", "127.0.0.1:0")
        with first.connect() as a, second.connect() as b:
            infos = {info.number: info for info in b.instances()}
            assert set(infos) == {a.instance, b.instance}
            assert infos[a.instance].socket == str(first.socket)
            assert infos[b.instance].rpc == b.status().rpc
            assert (infos[b.instance].pid, infos[b.instance].rpc[:10]) == (second.pid, "127.0.0.1:")

    def test_own_etcd(self, make_daemon) -> None:
        first = make_daemon(*SMALL, "--meta", "etcd", "--start-etcd")
        where = first.status().meta
        second = make_daemon(*SMALL, "--meta", where)
        with second.connect() as client:
            assert [info.pid for info in client.instances()] == [first.pid, second.pid]


class TestPersist:
    def test_transient_objects_stay_here(self, pair) -> None:
        a, b = pair
        oid = a.put(TABLE, name="mine")
        assert not a.get_meta(oid).persisted
        assert not b.exists(oid)
        with pytest.raises(ObjectNotFoundError):
            b.get_name("mine")

    def test_metadata_is_everywhere(self, pair) -> None:
        a, b = pair
        oid = a.put(TABLE, name="shared")
        a.label(oid, {"stage": "raw"})
        a.persist(oid)
        a.persist(oid)
        here, there = a.get_meta(oid), heard(b, oid)
        assert here.persisted
        assert there.persisted
        for name in ("typename", "nbytes", "schema", "num_rows", "created", "labels", "names"):
            assert getattr(here, name) == getattr(there, name), name
        assert (there.instance, there.signature) == (a.instance, here.signature)
        assert b.get_name("shared") == oid
        assert b.list_names() == {"shared": oid} == a.list_names()
        with pytest.raises(ObjectNotFoundError, match=f"instance {a.instance:06x}"):
            b.get(oid)
        assert a.get("shared") == TABLE

    def test_a_tree(self, pair) -> None:
        a, b = pair
        meta = ObjectMeta("shop.basket", {"owner": "Ann"})
        meta.add_member("items", a.put(TABLE))
        root = a.create_metadata(meta)
        a.persist(root.id)
        there = heard(b, root.id)
        assert (there["owner"], there.members) == ("Ann", root.members)
        assert heard(b, there.members["items"].id).num_rows == 3
        with pytest.raises(ObjectInUseError):
            a.delete(there.members["items"].id)
        a.delete(root.id)
        until(lambda: not b.exists(root.id) and not b.exists(there.members["items"].id))
        assert a.list_objects() == []

    def test_members_that_others_need_stay(self, pair) -> None:
        a, _ = pair
        items = a.put(TABLE)
        roots = []
        for _ in range(2):
            meta = ObjectMeta("shop.basket")
            meta.add_member("items", items)
            roots.append(a.create_metadata(meta).id)
        a.persist(roots)
        a.delete(roots[0])
        assert a.get_meta(items).persisted
        a.delete(roots[1])
        assert not a.exists(items)

    def test_lists(self, pair) -> None:
        a, b = pair
        first, copy = a.put(TABLE), None
        copy = a.shallow_copy(first)
        a.persist([first, copy])
        heard(b, copy)
        mine = b.put(TABLE)
        assert [m.id for m in b.list_objects()] == [mine]
        assert {m.id for m in b.list_objects(cluster=True)} == {first, copy, mine}
        assert {m.id for m in b.list_objects(cluster=True, signature=first)} == {first, copy}
        assert len(b.list_objects("table", cluster=True, limit=2)) == 2
        a.label(copy, {"kind": "copy"})
        until(lambda: b.get_meta(copy).labels)
        assert [m.id for m in b.list_objects(cluster=True, labels={"kind": "copy"})] == [copy]

    def test_unknown(self, pair) -> None:
        with pytest.raises(ObjectNotFoundError):
            pair[0].persist(12345)

    def test_over_rpc(self, join) -> None:
        first, second = join("--rpc", "127.0.0.1:0"), join()
        with first.connect() as a, second.connect() as b, connect(rpc=a.instances()[0].rpc) as far:
            assert len(far.instances()) == 2
            oid = far.put(TABLE)
            far.persist(oid)
            assert heard(b, oid).num_rows == 3
            meta = ObjectMeta("x")
            meta.add_member("0", oid)
            made = far.create_global(meta, name="all")
            assert heard(b, "all").members == made.members
            far.delete([made.id])
            far.delete(oid)
            assert not far.exists(oid)

    def test_alone(self, make_daemon) -> None:
        with make_daemon(*SMALL).connect() as client:
            oid = client.put(TABLE, name="one")
            client.persist(oid)
            assert client.get_meta(oid).persisted
            client.put_name(oid, "two")
            assert client.get_meta("two").names == ("one", "two")
            client.clear()
            assert (client.list_objects(cluster=True), client.list_names()) == ([], {})


class TestNames:
    def test_from_anywhere(self, pair) -> None:
        a, b = pair
        oid = a.put(TABLE)
        a.persist(oid)
        heard(b, oid)
        b.put_name(oid, "given by b")
        assert a.get_name("given by b", wait=True) == oid
        assert a.get("given by b") == TABLE
        b.drop_name("given by b")
        until(lambda: "given by b" not in a.list_names())
        assert a.get_meta(oid).names == ()

    def test_a_wait_ends_when_another_instance_names(self, pair) -> None:
        a, b = pair
        with ThreadPoolExecutor() as pool:
            waiting = pool.submit(b.get_name, "soon", wait=True)
            oid = a.put(TABLE, name="soon")
            a.persist(oid)
            assert waiting.result(DEADLINE_S) == oid

    def test_taken(self, pair) -> None:
        a, b = pair
        oid = a.put(TABLE, name="x")
        a.persist(oid)
        heard(b, oid)
        with pytest.raises(ObjectExistsError, match=str(oid)):
            b.put(1, name="x")
        other = b.put(2)
        with pytest.raises(ObjectExistsError):
            b.put_name(other, "x")

    def test_moved_from_anywhere(self, pair) -> None:
        a, b = pair
        ours, theirs = a.put(1, name="x"), b.put(2)
        with pytest.raises(ObjectNotFoundError):
            a.put_name(theirs, "x", overwrite=True)
        b.persist(theirs)
        heard(a, theirs)
        # It was that of an object that only this instance knew.
        assert a.put_name(theirs, "x", overwrite=True) == ours
        assert a.get_meta(ours).names == ()
        assert b.get_name("x", wait=True) == a.get_name("x") == theirs
        with pytest.raises(ObjectExistsError, match="not persisted"):
            a.put_name(ours, "x", overwrite=True)
        a.persist(ours)
        assert a.put_name(ours, "x", overwrite=True) == theirs
        until(lambda: b.get_name("x") == ours)
        b.delete(theirs)
        assert (a.get("x"), b.get_name("x")) == (1, ours)

    def test_a_put_moves_no_name_of_a_persisted_object(self, pair) -> None:
        a, b = pair
        shared = a.put(1, name="x")
        a.persist(shared)
        heard(b, shared)
        own = a.put(2, name="y")
        for client in pair:
            with pytest.raises(ObjectExistsError, match="persisted"):
                client.put(3, name="x", overwrite=True)
            assert client.get_name("x") == shared
        assert a.get(a.put(4, name="y", overwrite=True)) == a.get("y") == 4
        assert a.get(own) == 2

    def test_two_move_it_at_once(self, pair) -> None:
        a, b = pair
        ids = [a.put(0, name="x"), a.put(1), b.put(2)]
        a.persist(ids[:2])
        b.persist(ids[2])
        heard(a, ids[2])
        heard(b, ids[1])
        with ThreadPoolExecutor() as pool:

            def move(client: Client, oid: ObjectID) -> list[ObjectID | None]:
                return [client.put_name(oid, "x", overwrite=True) for _ in range(30)]

            one, two = pool.submit(move, a, ids[1]), pool.submit(move, b, ids[2])
            before = one.result(DEADLINE_S) + two.result(DEADLINE_S)
        assert before.count(ids[0]) == 1  # each is told what it has moved it from
        until(lambda: a.get_name("x") == b.get_name("x"))
        assert a.get_name("x") in ids[1:]

    def test_two_transient_objects_of_one_name(self, pair) -> None:
        a, b = pair
        mine, other = a.put(1, name="x"), b.put(2, name="x")
        a.persist(mine)
        with pytest.raises(ObjectExistsError, match="'x' is taken in the cluster"):
            b.persist(other)
        assert not b.get_meta(other).persisted
        assert b.get("x") == 2
        b.delete(other)
        until(lambda: b.exists("x") and b.get_name("x") == mine)

    def test_go_with_the_object(self, pair) -> None:
        a, b = pair
        oid = a.put(1)
        a.persist(oid)
        heard(b, oid)
        b.put_name(oid, "x")
        a.delete(oid)
        until(lambda: not b.list_names())


class TestGlobal:
    @pytest.fixture
    def made(self, pair) -> ObjectMeta:
        a, b = pair
        there = b.put(TABLE)
        b.persist(there)
        heard(a, there)
        meta = ObjectMeta("shop.sales", {"index": ["0", "1"]})
        meta.add_member("0", a.put(TABLE))
        meta.add_member("1", there)
        return a.create_global(meta, name="sales", labels={"year": "2026"})

    def test_everywhere(self, pair, made) -> None:
        a, b = pair
        for meta in (a.get_meta("sales"), heard(b, "sales")):
            assert (meta.is_global, meta.persisted, meta.missing) == (True, True, ())
            assert (meta.typename, meta["index"]) == ("shop.sales", ["0", "1"])
            assert {n: m.typename for n, m in meta.members.items()} == dict.fromkeys(
                "01", "vineyard.table"
            )
            assert [m.id.instance for m in meta.members.values()] == [a.instance, b.instance]
            assert meta.nbytes == 2 * a.get_meta(meta.members["0"].id).nbytes
            assert meta.labels == {"year": "2026"}
        assert [m.id for m in b.list_objects("shop.*", cluster=True)] == [made.id]

    def test_members_stay(self, pair, made) -> None:
        a, b = pair
        part = made.members["1"].id
        for force in (False, True):
            with pytest.raises(ObjectInUseError, match=f"'sales' {made.id} of instance"):
                b.delete(part, force=force)
        assert b.get(part) == TABLE
        with pytest.raises(ObjectNotFoundError, match="delete it there"):
            a.delete(part)
        heard(b, made.id)
        b.delete("sales")
        until(lambda: not a.exists(made.id))
        b.delete(part)
        assert a.get(made.members["0"].id) == TABLE

    def test_labels_from_anywhere(self, pair, made) -> None:
        a, b = pair
        heard(b, made.id)
        b.label(made.id, {"year": "", "month": "5"})
        until(lambda: a.get_meta(made.id).labels == {"month": "5"})

    def test_of_many(self, pair) -> None:
        a, _ = pair
        meta = ObjectMeta("many")
        for i, oid in enumerate(a.put_many(range(200))):
            meta.add_member(str(i), oid)
        made = a.create_global(meta)
        assert len(made.members) == 200
        with pytest.raises(ObjectInUseError):
            a.delete(made.members["199"].id)
        a.delete(made.id)
        a.delete([m.id for m in made.members.values()])

    def test_bad_ones_leave_nothing(self, pair) -> None:
        a, _ = pair
        oid = a.put(1)
        meta = ObjectMeta("x")
        meta.add_member("0", oid)
        meta.add_member("1", 12345)
        with pytest.raises(ObjectNotFoundError):
            a.create_global(meta)
        good = ObjectMeta("x")
        good.add_member("0", oid)
        a.create_global(good, name="x")
        with pytest.raises(ObjectExistsError):
            a.create_global(good, name="x")
        assert len([m for m in a.list_objects(cluster=True) if m.is_global]) == 1

    def test_clear(self, pair, made) -> None:
        a, b = pair
        heard(b, made.id)
        a.clear()
        assert a.list_objects() == []
        until(lambda: not b.exists(made.id))
        b.clear()
        assert b.list_objects(cluster=True) == []
