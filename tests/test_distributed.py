"""Global objects over two real daemons of one cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from conftest import Daemon

from vineyard_arrow.client import Client, connect
from vineyard_arrow.distributed import GlobalDataFrame, GlobalTable, GlobalTensor
from vineyard_arrow.errors import (
    InvalidObjectError,
    ObjectExistsError,
    ObjectInUseError,
    ObjectNotFoundError,
)
from vineyard_arrow.metadata.etcd.server import EtcdServers
from vineyard_arrow.objects import ObjectID, ObjectMeta

SMALL = ("--memory-limit", "128MiB", "--pages", "small")


@pytest.fixture
def pair(make_daemon: Callable[..., Daemon]) -> Iterator[tuple[Client, Client]]:
    """Clients of two instances of one cluster."""
    with EtcdServers(options=["--unsafe-no-fsync"]) as etcd:
        meta = ("--meta", f"etcd://{etcd.address}/globals")
        first, second = make_daemon(*SMALL, *meta), make_daemon(*SMALL, *meta)
        with first.connect() as a, second.connect() as b:
            yield a, b


def rows(start: int, count: int) -> pa.Table:
    return pa.table(
        {"k": pa.array(range(start, start + count), pa.int64()), "v": np.arange(count) * 0.5}
    )


def there(client: Client, value: object) -> ObjectID:
    """Put and persisted: what another instance can make a partition of."""
    object_id = client.put(value)
    client.persist(object_id)
    return object_id


def address(table: pa.Table) -> int:
    return table["k"].chunk(0).buffers()[1].address


def test_a_table_on_two_instances(pair: tuple[Client, Client]) -> None:
    a, b = pair
    ids = [a.put(rows(0, 10_000)), there(b, rows(10_000, 20_000))]
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
        infos = [replace_socket(info) for info in a.instances()]
        monkeypatch.setattr(Client, "instances", lambda self: infos)
        assert a.get(oid, fetch=True) == rows(3, 5)
        assert address(a.get(oid, fetch=True)) == address(a.get(oid, fetch=True))


def replace_socket(info):
    from dataclasses import replace

    return replace(info, socket="/nowhere/at/all")


def test_the_whole_on_the_other_instance(pair: tuple[Client, Client]) -> None:
    a, b = pair
    ids = [a.put(rows(0, 10)), there(b, rows(10, 10))]
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
    ids = [a.put(rows(0, 5)), there(b, rows(5, 5))]
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
    for partition in g.partitions:
        (i, j), (m, n) = partition.place.offset, partition.place.shape
        np.testing.assert_array_equal(partition.get(), whole[i : i + m, j : j + n])


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
