"""Global objects over two real daemons of one cluster."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from cluster_harness import ETCDCTL, LEASE_S, layout_of, persisted, rows, until
from cluster_harness import daemons as daemons
from cluster_harness import pair as pair
from conftest import Daemon

from vineyard_arrow.client import Client, connect
from vineyard_arrow.distributed import GlobalDataFrame, GlobalTable, GlobalTensor
from vineyard_arrow.errors import (
    InvalidObjectError,
    ObjectExistsError,
    ObjectInUseError,
    ObjectNotFoundError,
)
from vineyard_arrow.graph import GlobalGraph, Graph, algorithms, bsp_algorithms
from vineyard_arrow.graph.partition import partition
from vineyard_arrow.metadata.etcd.server import EtcdServers
from vineyard_arrow.objects import InstanceInfo, ObjectMeta
from vineyard_arrow.rpc.remote import Remote

SMALL = ("--memory-limit", "128MiB", "--pages", "small")


def address(table: pa.Table) -> int:
    return table["k"].chunk(0).buffers()[1].address


def test_a_table_on_two_instances(pair: tuple[Client, Client]) -> None:
    a, b = pair
    ids = [a.put(rows(0, 10_000)), persisted(b, rows(10_000, 20_000))]
    meta = a.create_global(
        ids, key="k", bounds=[(0, 9_999), (10_000, 29_999)], name="whole", labels={"year": "2026"}
    )
    assert (meta.typename, meta.is_global, meta.labels) == (
        "vineyard.global_table",
        True,
        {"year": "2026"},
    )
    assert meta["partitions"]["nbytes"] == [160_000, 320_000]  # for who has no client of ours
    assert meta.nbytes == 480_000
    g = a.get("whole")
    assert isinstance(g, GlobalTable)
    assert (g.num_rows, g.schema, g.object_ids) == (30_000, rows(0, 0).schema, ids)
    assert [p.num_rows for p in g.partitions] == [10_000, 20_000]
    assert [p.nbytes for p in g.partitions] == [160_000, 320_000]
    assert [p.place.bounds for p in g.partitions] == [(0, 9_999), (10_000, 29_999)]
    assert [p.index for p in g.local_partitions(a)] == [0]
    assert [p.index for p in g.local_partitions(b)] == [1]
    assert g.where(ids[1]) == b.instance
    assert a.where(ids[1]).number == b.instance
    assert g._opened == {}  # all of this from the metadata alone
    # A local one is the memory itself; a remote one comes when it is asked for, once.
    assert address(g[0]) == address(a.get(ids[0]))
    with pytest.raises(ObjectNotFoundError, match="partition 1"):
        g[1]
    assert g.partitions[1].get(fetch=True) == rows(10_000, 20_000)
    used = a.status().memory_used
    assert address(a.get(ids[1], fetch=True)) == address(g[1])
    assert a.status().memory_used == used


def test_over_tcp_alone(
    pair: tuple[Client, Client], monkeypatch: pytest.MonkeyPatch, make_daemon
) -> None:
    a, _ = pair
    meta = ("--meta", a.status().meta)
    with make_daemon(*SMALL, *meta, "--rpc", "127.0.0.1:0").connect() as far:
        oid = far.put(rows(3, 5))
        infos = over_tcp(a, far)
        monkeypatch.setattr(Client, "instances", lambda self: infos)
        assert a.get(oid, fetch=True) == rows(3, 5)
        assert address(a.get(oid, fetch=True)) == address(a.get(oid, fetch=True))


def test_partitions_elsewhere_are_not_read(
    pair: tuple[Client, Client], monkeypatch: pytest.MonkeyPatch, make_daemon
) -> None:
    """Metadata tells what they are, over TCP alone as well; no payload moves."""
    a, _ = pair

    def copies() -> list[ObjectMeta]:
        return [m for m in a.list_objects() if "vineyard.origin" in m.labels]

    reads: list[int] = []
    read = Remote.read
    monkeypatch.setattr(
        Remote, "read", lambda *given, **more: reads.append(1) or read(*given, **more)
    )
    meta = ("--meta", a.status().meta)
    with make_daemon(*SMALL, *meta, "--rpc", "127.0.0.1:0").connect() as far:
        infos = over_tcp(a, far)
        monkeypatch.setattr(Client, "instances", lambda self: infos)
        graph = Graph.from_edges({"src": [0, 1, 2], "dst": [1, 2, 0]}, client=a)
        halves = partition(graph, 2, client=a)
        for first, second in [
            (rows(0, 5), rows(5, 7)),
            (rows(0, 5).to_batches()[0], rows(5, 7)),
            (pl.DataFrame(COLUMNS), pl.DataFrame(COLUMNS)),
            (np.zeros((2, 3), "M8[s]"), np.ones((4, 3), "M8[s]")),
            (np.zeros(2, [("x", "f4"), ("y", "i8")]), np.ones(4, [("x", "f4"), ("y", "i8")])),
            (halves[0], halves[1]),
        ]:
            g = a.get(a.create_global([first, persisted(far, second)]).id)
            assert (len(g), reads, copies()) == (2, [], [])
            if isinstance(g, GlobalDataFrame):
                assert g.empty.schema == second.schema
        assert g.figures == halves.figures
        assert g.fragment(1, fetch=True).fid == 1
        assert copies()


COLUMNS = {
    "i": pl.Series([1], dtype=pl.Int8),
    "s": pl.Series(["a"], dtype=pl.String),
    "e": pl.Series(["a"], dtype=pl.Enum(["a", "b"])),
    "c": pl.Series(["a"], dtype=pl.Categorical),
    "t": pl.Series([0], dtype=pl.Datetime("us", "UTC")),
}


def test_fragments_of_several_instances(pair: tuple[Client, Client]) -> None:
    a, b = pair
    edges = {"src": np.arange(50), "dst": (np.arange(50) * 7 + 1) % 50}
    graph = Graph.from_edges(edges, client=a)
    halves = partition(graph, 2, client=a)
    ids = [a.put(halves[0]), persisted(b, halves[1])]
    meta = a.create_global(ids, name="cut")
    assert (meta.typename, meta["fragments"]["inner"]) == (
        "vineyard.global_graph",
        [each.inner for each in halves.figures],
    )
    assert b.get_name("cut", wait=True) == meta.id
    for client in pair:
        whole = client.get(meta.id)
        assert isinstance(whole, GlobalGraph)
        assert (whole.object_ids, whole.figures, whole._opened) == (ids, halves.figures, {})
        assert [whole.where(each) for each in ids] == [a.instance, b.instance]
    with pytest.raises(ObjectNotFoundError, match="fragment 0"):
        whole[0]
    with pytest.raises(ObjectInUseError, match="'cut'"):
        b.delete(ids[1])
    expected = algorithms.bfs(graph, 0, parents=False).levels
    assert bsp_algorithms.bfs("cut", 0, client=b).equals(expected)  # fetches what is not there
    again = whole.fragment(0, fetch=True), whole.fragment(1)
    assert [f.fid for f in again] == [0, 1]
    assert whole.to_graph(client=b).num_edges() == 50


def test_what_etcd_keeps_is_read_as_the_page_says(
    pair: tuple[Client, Client], capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = pair
    made = a.create_global([a.put(rows(0, 5)), persisted(b, rows(5, 7))])
    key = layout_of(a).globals(made.id)
    address = a.status().meta.removeprefix("etcd://").partition("/")[0]
    told = subprocess.run(
        [ETCDCTL, "--endpoints", address, "get", key, "--print-value-only"],
        env={"ETCDCTL_API": "3"},
        capture_output=True,
        check=True,
        timeout=60,
    )
    page = (Path(__file__).parents[1] / "docs/format.md").read_text()
    code = page.split("```\n")[-2]
    assert "size, magic" in code
    capsys.readouterr()
    exec(code, {"value": told.stdout.removesuffix(b"\n")})
    leases = {info.number: info.lease for info in a.instances()}
    assert capsys.readouterr().out.splitlines() == [
        f"{leases[a.instance]} 80 [5]",
        f"{leases[b.instance]} 112 [7]",
    ]


# ---- an instance that is killed


@pytest.fixture
def bereft(
    etcd: EtcdServers, make_daemon: Callable[..., Daemon], request: pytest.FixtureRequest
) -> Iterator[tuple[Client, ObjectMeta]]:
    """A client, and a global table of which another instance had a partition when it was killed."""
    where = f"etcd://{etcd.address}/{request.node.name}"
    meta = ("--meta", where, "--meta-lease-s", LEASE_S)
    daemons = [make_daemon(*SMALL, *meta) for _ in range(2)]
    with daemons[0].connect() as a:
        with daemons[1].connect() as b:
            ids = [a.put(rows(0, 5)), persisted(b, rows(5, 5)), a.put(rows(10, 5))]
            made = a.create_global(ids, name="sales")
        daemons[1].kill()
        until(lambda: a.get_meta("sales").missing)
        yield a, made


def test_a_partition_of_a_killed_instance(bereft: tuple[Client, ObjectMeta]) -> None:
    a, made = bereft
    assert a.get_meta("sales").missing == ("1",)
    g = a.get("sales")
    assert (g.num_rows, [g[0], g[2]]) == (15, [rows(0, 5), rows(10, 5)])
    gone = made.members["1"].id
    for fetch in (False, True):
        with pytest.raises(ObjectNotFoundError, match=rf"partition 1 \({gone}\)"):
            g.partitions[1].get(fetch=fetch)
    with pytest.raises(ObjectNotFoundError, match="partition 1"):
        a.create_global([rows(0, 5), gone])


def test_dask_names_what_is_gone(bereft: tuple[Client, ObjectMeta]) -> None:
    pytest.importorskip("dask.dataframe")
    from vineyard_arrow.integrations.dask import from_global

    a, made = bereft
    gone = made.members["1"].id
    with pytest.raises(ObjectNotFoundError, match=rf"partition 1 \({gone}\) of sales") as caught:
        from_global(a, "sales")
    assert caught.value.hint


def over_tcp(client: Client, far: Client) -> list[InstanceInfo]:
    """The instances, once it is heard where that of ``far`` serves, as if over TCP alone."""
    number = far.status().instance
    until(lambda: any(info.rpc for info in client.instances() if info.number == number))
    return [replace(info, socket="/nowhere/at/all") for info in client.instances()]


def test_the_whole_on_the_other_instance(pair: tuple[Client, Client]) -> None:
    a, b = pair
    ids = [a.put(rows(0, 10)), persisted(b, rows(10, 10))]
    oid = a.create_global(ids, name="whole").id
    assert b.get_name("whole", wait=True) == oid
    g = b.get(oid)
    assert (g.object_ids, [p.index for p in g.local_partitions(b)]) == (ids, [1])
    assert address(g[1]) == address(b.get(ids[1]))
    assert g.partitions[0].get(fetch=True) == rows(0, 10)
    with pytest.raises(ObjectInUseError, match="'whole'"):
        b.delete(ids[1])
    b.delete("whole")
    b.delete(ids[1])  # partitions stayed until then


def test_gone(pair: tuple[Client, Client]) -> None:
    a, b = pair
    ids = [a.put(rows(0, 5)), persisted(b, rows(5, 5))]
    oid = a.create_global(ids).id
    g = a.get(oid)
    a.delete(oid)
    with pytest.raises(ObjectNotFoundError):
        a.get(oid)
    b.delete(ids[1])
    with pytest.raises(ObjectNotFoundError, match="partition 1"):
        g.partitions[1].get(fetch=True)
    with pytest.raises(ObjectNotFoundError):
        a.get(int(ids[1]) ^ (1 << 60), fetch=True)


def test_partitions_that_the_cluster_does_not_know(pair: tuple[Client, Client]) -> None:
    a, b = pair
    before = [client.status().objects for client in pair]
    oid = b.put(rows(0, 5))
    with pytest.raises(ObjectNotFoundError, match=r"partition 1: .* not persisted") as caught:
        a.create_global([rows(0, 1), oid])
    assert "persist it there" in caught.value.hint
    b.delete(oid)
    with pytest.raises(ObjectNotFoundError, match="partition 0"):
        a.create_global([oid])
    a.put_name(a.put(1), "taken")
    a.persist("taken")
    with pytest.raises(ObjectExistsError):
        a.create_global([rows(0, 1)], name="taken")
    a.delete("taken")
    assert [client.status().objects for client in pair] == before


def test_over_rpc(make_daemon: Callable[..., Daemon]) -> None:
    with (
        make_daemon(*SMALL, "--rpc", "127.0.0.1:0").connect() as client,
        connect(rpc=client.instances()[0].rpc) as far,
    ):
        meta = far.create_global(
            [far.put(rows(0, 5)), rows(5, 5)], key="k", bounds=[(0, 4), (5, 9)], name="w"
        )
        for each in (client, far):
            g = each.get("w")
            assert isinstance(g, GlobalTable)
            assert each.get_meta("w").members == meta.members
            assert [p.place.bounds for p in g.partitions] == [(0, 4), (5, 9)]
            assert list(g) == [rows(0, 5), rows(5, 5)]


def test_types_of_users(client: Client) -> None:
    meta = ObjectMeta("shop.sales", {"year": 2026})
    meta.add_member("north", client.put(rows(0, 3)))
    made = client.create_global(meta)
    assert (made["year"], made.is_global) == (2026, True)
    with pytest.raises(InvalidObjectError):
        client.create_global(meta, key="k")
    assert client.get(made.id, resolver=lambda part, stored: stored.member("north")) == rows(0, 3)


@pytest.mark.parametrize(
    "bounds",
    [
        [(Decimal("0.5"), Decimal("1.5")), (Decimal("2.5"), Decimal("3.5"))],
        [(date(2026, 1, 1), date(2026, 1, 31)), (date(2026, 2, 1), date(2026, 2, 28))],
        [("a", "f"), ("g", "z")],
    ],
)
def test_bounds_of_any_type(client: Client, bounds) -> None:
    tables = [pa.table({"k": list(each)}) for each in bounds]
    g = client.get(client.create_global(tables, key="k", bounds=bounds).id)
    assert [place.bounds for place in g.places] == bounds


def test_is_not_put(client: Client) -> None:
    g = client.get(client.create_global([rows(0, 1)]).id)
    with pytest.raises(InvalidObjectError, match="create_global"):
        client.put(g)


@pytest.mark.parametrize("library", [pd, pl])
def test_frames(client: Client, library) -> None:
    frames = [
        library.DataFrame({"x": [1, 2], "s": ["a", "b"]}),
        library.DataFrame({"x": [3], "s": ["c"]}),
    ]
    g = client.get(client.create_global(frames).id)
    assert isinstance(g, GlobalDataFrame)
    assert g.num_rows == 3
    assert type(g.empty) is library.DataFrame
    assert g.empty.shape == (0, 2)
    assert all(got.equals(frame) for got, frame in zip(g, frames, strict=True))
    assert len(list(g.local_partitions(client))) == 2


def test_a_grid(client: Client) -> None:
    whole = np.arange(35.0).reshape(5, 7)
    offsets = [(0, 0), (0, 3), (2, 0), (2, 3)]
    chunks = [whole[:2, :3], whole[:2, 3:], whole[2:, :3], whole[2:, 3:]]
    g = client.get(client.create_global([c.copy() for c in chunks], offsets=offsets).id)
    assert isinstance(g, GlobalTensor)
    assert (g.shape, g.chunks, g.dtype) == ((5, 7), ((2, 3), (3, 4)), whole.dtype)
    for each in g.partitions:
        (i, j), (m, n) = each.place.offset, each.place.shape
        np.testing.assert_array_equal(each.get(), whole[i : i + m, j : j + n])


def test_what_makes_no_whole(client: Client) -> None:
    used = client.status().objects
    x = np.zeros((2, 2))
    for bad, options in [
        ([], {}),
        ([rows(0, 1), rows(0, 1).select(["k"])], {}),
        ([rows(0, 1), x], {}),
        ([x, x], {"offsets": [(0, 0), (1, 1)]}),
        ([x, x], {"offsets": [(0, 0), (0, 0)]}),
        ([x], {"offsets": []}),
        ([rows(0, 1)], {"bounds": [(0, 1)]}),
        ([rows(0, 1)], {"key": "k"}),
        ([rows(0, 1)], {"key": "z", "bounds": [(0, 1)]}),
        ([rows(0, 1)], {"key": "k", "bounds": [(0, 1, 2)]}),
        ([rows(0, 1)], {"key": "k", "bounds": [(1, 0)]}),
        ([rows(0, 1)] * 2, {"key": "k", "bounds": [(0, 1)]}),
        ([rows(0, 1)] * 2, {"key": "k", "bounds": [(0, 1), (1, 2)]}),
        ([rows(0, 1)] * 2, {"key": "k", "bounds": [(5, 6), (0, 1)]}),
        ([rows(0, 1)] * 2, {"key": "k", "bounds": [(0, 1), ("a", "b")]}),
        ([x], {"bounds": [(0, 1)]}),
        ([object()], {}),
    ]:
        with pytest.raises(InvalidObjectError):
            client.create_global(bad, **options)
    assert client.status().objects == used
