"""Ray over stored objects: two nodes with workers of their own, each beside a real daemon."""

from __future__ import annotations

import copy
import gc
import logging
import os
import pickle
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from cluster_harness import rows
from conftest import Daemon
from lazily import lazily

import vineyard_arrow
from vineyard_arrow.client import Client
from vineyard_arrow.errors import ConfigError, InvalidObjectError, ObjectExistsError
from vineyard_arrow.metadata.etcd.server import EtcdServers
from vineyard_arrow.objects import ObjectID

ray = lazily("ray")
vr = lazily("vineyard_arrow.integrations.ray", "ray")

SMALL = ("--memory-limit", "128MiB", "--pages", "small")
# Of Ray's own: it leaves pipes and logs of its processes to the collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning:ray"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore:.*:FutureWarning:ray"),
]


@pytest.fixture(scope="module")
def cluster(folder: Path, etcd: EtcdServers) -> Iterator[tuple[Daemon, Daemon]]:
    from conftest import run_daemon

    with (
        tempfile.TemporaryDirectory(prefix="va-") as scratch,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("RAY_TMPDIR", scratch)  # of all that Ray writes
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *paths()]))
        Path(scratch, "ray").mkdir()
        meta = ("--meta", f"etcd://{etcd.address}/ray")
        daemons = [run_daemon(folder, f"ray{i}", *SMALL, *meta) for i in range(2)]
        from ray.cluster_utils import Cluster

        nodes = Cluster()
        try:
            for daemon in daemons:
                nodes.add_node(
                    num_cpus=1,
                    include_dashboard=False,
                    object_store_memory=80 << 20,
                    env_vars={"VINEYARD_ARROW_SOCKET": str(daemon.socket)},
                )
            ray.init(address=nodes.address, logging_level=logging.ERROR, log_to_driver=False)
            ray.data.DataContext.get_current().enable_progress_bars = False
            yield daemons[0], daemons[1]
        finally:
            ray.shutdown()
            nodes.shutdown()
            for daemon in daemons:
                daemon.kill()
            gc.collect()


def paths() -> list[str]:
    return [each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]


@pytest.fixture
def pair(cluster) -> Iterator[tuple[Client, Client]]:
    with cluster[0].connect() as a, cluster[1].connect() as b:
        yield a, b


def whole_of(*parts: tuple[Client, object]) -> ObjectID:
    """A global object; the first client makes it."""
    ids = [client.put(value) for client, value in parts]
    for (client, _), each in zip(parts, ids, strict=True):
        client.persist(each)
    return parts[0][0].create_global(ids).id


def beside(client: Client) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(vr._nodes()[client.instance], soft=False)


def is_stored(column: pa.ChunkedArray) -> bool:
    """Whether its memory is that of an object of the store beside this process."""
    client = vineyard_arrow.default_client()
    address = column.chunk(0).buffers()[1].address
    return any(
        client.get(meta.id)["k"].chunk(0).buffers()[1].address == address
        for meta in client.list_objects("table")
    )


def look(handle) -> tuple[int, int, bool]:
    table = handle.to_table()
    client = vineyard_arrow.default_client()
    return client.instance, pc.sum(table["k"]).as_py(), is_stored(table["k"])


def place(batch: pa.Table) -> pa.Table:
    """Where a block was seen, and whether it was the store's memory."""
    number = vineyard_arrow.default_client().instance
    return pa.table(
        {"instance": [number], "rows": [batch.num_rows], "stored": [is_stored(batch["k"])]}
    )


def test_a_task_reads_a_handle_in_place(pair: tuple[Client, Client]) -> None:
    a, _ = pair
    handle = a.get_object(a.put(rows(0, 100_000)))
    assert len(pickle.dumps(handle)) < 100
    task = ray.remote(look).options(scheduling_strategy=beside(a))
    assert ray.get(task.remote(handle)) == (a.instance, sum(range(100_000)), True)


def test_an_actor_elsewhere_fetches(pair: tuple[Client, Client]) -> None:
    a, b = pair

    class Reader:
        def look(self, handle) -> tuple[int, int, bool]:
            return look(handle)

    handle = a.get_object(a.put(rows(0, 10)))
    reader = ray.remote(Reader).options(num_cpus=0, scheduling_strategy=beside(b)).remote()
    assert ray.get(reader.look.remote(handle)) == (b.instance, 45, True)
    assert ray.get(reader.look.remote(handle)) == (b.instance, 45, True)
    copies = [m for m in b.list_objects("table") if m.labels.get("vineyard.origin") or m.labels]
    assert sum(str(handle.id) in m.labels.values() for m in copies) == 1
    ray.kill(reader)


def read(object_id: int) -> bool:
    return is_stored(vr._Read(object_id)()[0]["k"])


def test_partitions_are_read_in_place_and_leave_as_copies(pair: tuple[Client, Client]) -> None:
    a, b = pair
    ids = [a.put(rows(0, 1000)), b.put(rows(1000, 2000))]
    for client, each in zip(pair, ids, strict=True):
        task = ray.remote(read).options(scheduling_strategy=beside(client))
        assert ray.get(task.remote(int(each)))
    for client, each in zip(pair, ids, strict=True):
        client.persist(each)
    dataset = vr.from_global(a.create_global(ids).id, client=a).materialize()
    assert dataset.schema().names == ["k", "v"]
    assert (dataset.count(), dataset.size_bytes()) == (3000, 48_000)
    assert dataset.sum("k") == 2999 * 3000 // 2
    seen = dataset.map_batches(place, batch_format="pyarrow", batch_size=None).take_all()
    assert sorted(s["rows"] for s in seen) == [1000, 2000]
    assert not any(s["stored"] for s in seen)  # of Ray's own object store


def test_results_stay_where_they_are_computed(pair: tuple[Client, Client]) -> None:
    a, b = pair
    oid = whole_of((a, rows(0, 10)), (b, rows(10, 10)))

    def doubled(batch: pa.Table) -> pa.Table:
        here = pa.repeat(vineyard_arrow.default_client().instance, len(batch))
        batch = batch.append_column("w", pc.multiply(batch["k"], 2))
        return batch.append_column("instance", here)

    dataset = vr.from_global(oid, client=a).map_batches(
        doubled, batch_format="pyarrow", batch_size=None
    )
    vr.to_global(dataset, name="doubled", client=a)
    whole = a.get("doubled")
    parts = [part.get(fetch=True) for part in whole.partitions]
    for part, table in zip(whole.partitions, parts, strict=True):  # Ray chose where that is
        assert set(table["instance"].to_pylist()) == {part.instance}
    found = pa.concat_tables(parts)
    assert sorted(found["w"].to_pylist()) == [2 * i for i in range(20)]
    assert not any(vr.WRITE in m.labels for client in pair for m in client.list_objects())


def test_frames(pair: tuple[Client, Client]) -> None:
    a, _ = pair
    frame = pd.DataFrame({"k": [1, 2, 3]})
    dataset = vr.from_global(whole_of((a, frame), (a, frame + 3)), client=a)
    assert sorted(dataset.to_pandas()["k"]) == [1, 2, 3, 4, 5, 6]
    import polars

    dataset = vr.from_global(whole_of((a, polars.DataFrame({"s": ["x", "y"]}))), client=a)
    assert [row["s"] for row in dataset.take_all()] == ["x", "y"]
    with pytest.raises(InvalidObjectError, match="not a global table or frame"):
        vr.from_global(a.put(1), client=a)


def test_what_fails_leaves_nothing_behind(pair: tuple[Client, Client]) -> None:
    a = pair[0]
    a.put_name(a.put(1), "taken")
    dataset = vr.from_global(whole_of((a, rows(0, 5)), (pair[1], rows(5, 5))), client=a)
    before = [client.status().objects for client in pair]
    with pytest.raises(ObjectExistsError):
        vr.to_global(dataset, name="taken", client=a)
    assert [client.status().objects for client in pair] == before

    def broken(batch: pa.Table) -> pa.Table:
        if batch["k"][0].as_py() == 5:
            raise RuntimeError("no such block")
        return batch

    with pytest.raises(Exception, match="no such block"):
        vr.to_global(dataset.map_batches(broken, batch_format="pyarrow", batch_size=None), client=a)
    assert [client.status().objects for client in pair] == before


def test_a_node_without_a_store_starts_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VINEYARD_ARROW_SOCKET", str(folder / "nobody"))
    with pytest.raises(ConfigError, match="no instance beside it"):
        vr._Read(1)()
    assert not (folder / "nobody").exists()


def test_a_copy_of_a_handle_stays_with_its_client(client: Client) -> None:
    handle = client.get_object(client.put(rows(0, 3)))
    for each in (copy.copy(handle), copy.deepcopy([handle])[0]):
        assert each._client is client
        assert each.to_table().num_rows == 3
