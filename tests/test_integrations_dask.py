"""Dask over global objects: real workers in processes of their own, beside two real daemons."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from cluster_harness import daemons as daemons
from cluster_harness import pair as pair
from cluster_harness import persisted, rows
from conftest import Daemon
from lazily import lazily

import vineyard_arrow
from vineyard_arrow.client import Client
from vineyard_arrow.errors import ObjectExistsError

dask = lazily("dask")
distributed = lazily("distributed")
vd = lazily("vineyard_arrow.integrations.dask", "dask")


def attach(socket: str) -> int:
    os.environ["VINEYARD_ARROW_SOCKET"] = socket
    return vineyard_arrow.default_client().instance


def place(frame: pd.DataFrame) -> pd.DataFrame:
    """Where a partition was seen, and by whom."""
    column = frame["k"].array.__arrow_array__().chunk(0)
    values = np.frombuffer(column.buffers()[1], np.int64)
    client = vineyard_arrow.default_client()
    for meta in client.list_objects("table"):
        memory = client.get(meta.id)["k"].chunk(0).buffers()[1]
        if memory.address == values.ctypes.data:
            return pd.DataFrame({"instance": [client.instance], "shared": [True]})
    return pd.DataFrame({"instance": [client.instance], "shared": [False]})


@pytest.fixture(scope="module", autouse=True)
def scheduler(daemons: tuple[Daemon, Daemon]) -> Iterator[object]:
    """Of two workers, each beside one of the daemons."""
    with (
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},  # else 8787, or a warning
            memory_limit="1GiB",
        ) as local,
        distributed.Client(local) as scheduler,
    ):
        workers = sorted(scheduler.scheduler_info()["workers"])
        for worker, daemon in zip(workers, daemons, strict=True):
            scheduler.run(attach, str(daemon.socket), workers=[worker])
        yield scheduler


def test_partitions_are_read_in_place(pair: tuple[Client, Client]) -> None:
    a, b = pair
    oid = a.create_global([a.put(rows(0, 1000)), persisted(b, rows(1000, 2000))]).id
    frame = vd.from_global(a, oid)
    assert frame.npartitions == 2
    assert int(frame["k"].sum().compute()) == 2999 * 3000 // 2
    meta = pd.DataFrame({"instance": pd.Series(dtype=int), "shared": pd.Series(dtype=bool)})
    seen = frame.map_partitions(place, meta=meta).compute()
    assert seen["instance"].tolist() == [a.instance, b.instance]
    assert seen["shared"].all()


def test_results_stay_where_they_are_computed(pair: tuple[Client, Client]) -> None:
    a, b = pair
    oid = a.create_global([a.put(rows(0, 10)), persisted(b, rows(10, 10))]).id
    frame = vd.from_global(str(a._a.socket), oid)
    vd.to_global(frame.assign(w=frame["v"] * 2), name="doubled", client=a)
    g = a.get("doubled")
    assert [p.instance for p in g.partitions] == [a.instance, b.instance]
    assert g.partitions[1].get(fetch=True)["w"].tolist() == [float(i) for i in range(10)]


def test_an_array_and_back(pair: tuple[Client, Client]) -> None:
    a, b = pair
    whole = np.arange(35.0).reshape(5, 7)
    ids = [a.put(whole[:2].copy()), persisted(b, whole[2:].copy())]
    array = vd.from_global(a, a.create_global(ids).id)
    assert array.chunks == ((2, 3), (7,))
    np.testing.assert_array_equal(array.compute(), whole)
    g = a.get(vd.to_global(array + 1, client=a))
    assert (g.shape, g.chunks) == ((5, 7), ((2, 3), (7,)))
    np.testing.assert_array_equal(
        np.concatenate([p.get(fetch=True) for p in g.partitions]), whole + 1
    )


def test_ranges_are_divisions(pair: tuple[Client, Client]) -> None:
    a, b = pair
    table = pa.table({"k": np.arange(1000) * 7 % 1000, "v": np.arange(1000)})
    oid = a.partition(table, 4, by="k", how="range", over=[a.instance, b.instance])
    frame = vd.from_global(a, oid)
    assert frame.divisions == (0, 250, 500, 750, 999)
    assert frame.loc[500:501].npartitions == 1
    assert frame.loc[500:501].compute()["v"].tolist() == [500, 643]


def test_bounds_are_divisions(pair: tuple[Client, Client]) -> None:
    a, b = pair
    ids = [a.put(rows(0, 10)), persisted(b, rows(10, 10))]
    whole = a.create_global(ids, key="k", bounds=[(0, 9), (10, 19)]).id
    frame = vd.from_global(a, whole)
    assert (frame.known_divisions, frame.divisions) == (True, (0, 10, 19))
    some = frame.loc[12:15]
    assert some.npartitions == 1  # the other is not looked at
    assert some.compute()["v"].tolist() == [1.0, 1.5, 2.0, 2.5]
    other = frame.rename(columns={"v": "w"})
    merged = frame.merge(other, left_index=True, right_index=True)
    assert merged.divisions == (0, 10, 19)  # by partitions, without a shuffle
    pd.testing.assert_series_equal(merged.compute()["w"], frame.compute()["v"], check_names=False)
    # There and back, with an empty partition: bounds are what is really there.
    g = a.get(vd.to_global(frame[frame["v"] > 2], client=a))
    assert [place.bounds for place in g.places] == [(5, 9), (15, 19)]
    assert vd.from_global(a, vd.to_global(frame[frame["v"] > 9], client=a)).divisions == (0, 10, 10)


def test_unsorted_partitions_are_sorted() -> None:
    frame = vd._indexed(pd.DataFrame({"k": [3, 1, 2], "v": [0, 1, 2]}), "k")
    assert frame.index.tolist() == [1, 2, 3]


def test_a_worker_elsewhere_fetches(pair: tuple[Client, Client], scheduler) -> None:
    a, b = pair
    oid = b.put(rows(0, 7))
    worker = next(w for w, (number, _) in scheduler.run(vd._worker).items() if number == a.instance)
    got = scheduler.submit(vd._read, int(oid), workers=[worker], pure=False).result()
    assert got["k"].tolist() == list(range(7))


def test_thresholds_that_shared_pages_reach(pair: tuple[Client, Client]) -> None:
    a, _ = pair
    whole = a.get(a.create_global([a.put(rows(0, 1000))]).id)
    with pytest.warns(vd.SharedPagesWarning, match=r"16,000 bytes"):
        vd._warn_of_pages({"x": (a.instance, 15_999.0)}, whole.partitions)
    vd._warn_of_pages({"x": (a.instance, 16_000.0)}, whole.partitions)


def broken(block: np.ndarray) -> np.ndarray:
    if block[0] >= 6:
        raise RuntimeError("no such block")
    return block


def test_what_fails_leaves_nothing_behind(pair: tuple[Client, Client]) -> None:
    import dask.array as da

    a = pair[0]
    a.put_name(a.put(1), "taken")
    before = [client.status().objects for client in pair]
    whole = da.arange(8, chunks=2)
    with pytest.raises(RuntimeError, match="no such block"):
        vd.to_global(whole.map_blocks(broken, dtype=whole.dtype, meta=np.empty(0, int)), client=a)
    assert [client.status().objects for client in pair] == before
    with pytest.raises(ObjectExistsError):
        vd.to_global(whole, name="taken", client=a)
    assert [client.status().objects for client in pair] == before


def test_without_workers(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    import dask.array as da

    monkeypatch.setattr("vineyard_arrow.integrations.dask._scheduler", lambda: None)
    monkeypatch.setattr("vineyard_arrow.integrations.dask.default_client", lambda: client)
    whole = da.arange(8, chunks=2)
    oid = vd.to_global(whole, client=client)
    with dask.config.set(scheduler="sync"):
        np.testing.assert_array_equal(vd.from_global(client, oid).compute(), np.arange(8))
    before = client.status().objects
    with pytest.raises(RuntimeError, match="no such block"):
        vd.to_global(
            whole.map_blocks(broken, dtype=whole.dtype, meta=np.empty(0, int)), client=client
        )
    assert client.status().objects == before
