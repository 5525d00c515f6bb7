"""Dagster's assets and ops, kept in the store by our IO manager."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import managers_harness as harness
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from conftest import Daemon

from vineyard_arrow.client import Client
from vineyard_arrow.graph import Graph

dg = pytest.importorskip("dagster")
from vineyard_arrow.integrations.dagster import VineyardIOManager  # noqa: E402

# What Dagster warns of is not ours.
pytestmark = [pytest.mark.managers, pytest.mark.filterwarnings("default")]

N = 100_000
# Steps are processes of their own, but load the libraries once.
FORKING = """
execution:
  config:
    multiprocess:
      start_method:
        forkserver:
          preload_modules: [dagster, polars, pyarrow.compute, vineyard_arrow.integrations.dagster]
"""
TABLE = pa.table({"a": np.arange(N), "s": ["x|y", None] * (N // 2)})
DAYS = dg.StaticPartitionsDefinition(["mon", "tue", "wed"])


class Runs:
    """Materializations of one instance of Dagster, in this process, by one IO manager."""

    def __init__(self, daemon: Daemon, instance: Any) -> None:
        self.socket, self.instance = str(daemon.socket), instance

    def manager(self, **options: Any) -> VineyardIOManager:
        return VineyardIOManager(socket=self.socket, **options)

    def __call__(
        self,
        *assets: Any,
        partition: str | None = None,
        tags: Any = None,
        fails: bool = False,
        **options: Any,
    ) -> Any:
        return dg.materialize(
            list(assets),
            selection=[each for each in assets if not isinstance(each, dg.SourceAsset)],
            instance=self.instance,
            partition_key=partition,
            resources={"io_manager": self.manager(**options)},
            tags=tags,
            raise_on_error=not fails,
        )


@pytest.fixture
def runs(daemon: Daemon) -> Iterator[Runs]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Runs(daemon, instance)


def cause(result: Any, step: str) -> str:
    """Why a step has failed, which it must."""
    assert not result.success
    error = result.failure_data_for_node(step).error
    while error.cause is not None:
        error = error.cause
    return error.message


def metadata_of(result: Any, name: str) -> dict[str, Any]:
    [found] = result.asset_materializations_for_node(name)
    return {key: value.value for key, value in found.metadata.items()}


@pytest.mark.parametrize(
    ("stored", "annotation", "given"),
    [
        (TABLE, pl.DataFrame, pl.DataFrame),
        (TABLE, pl.LazyFrame, pl.LazyFrame),
        (TABLE, pd.DataFrame, pd.DataFrame),
        (TABLE, Any, pa.Table),
        (pl.DataFrame(TABLE), pa.Table, pa.Table),
        (pl.DataFrame(TABLE), None, pl.DataFrame),
        (pd.DataFrame({"a": [1]}), pl.DataFrame, pl.DataFrame),
        (pl.LazyFrame(TABLE), pl.LazyFrame, pl.LazyFrame),
        (np.arange(3), np.ndarray, np.ndarray),
        ({"a": [1, 2]}, dict, dict),
        ([1, 2], list[int], list),
        (5, int, int),
    ],
)
def test_the_annotation_decides(runs: Runs, stored: Any, annotation: Any, given: type) -> None:
    @dg.asset
    def made() -> Any:
        return stored

    def taken(made):
        got.append(type(made))

    got: list[type] = []  # not the value: Dagster keeps assets, and what they refer to
    if annotation is not None:
        taken.__annotations__ = {"made": annotation}
    assert runs(made, dg.asset(taken)).success
    assert got == [given]


def test_a_graph(runs: Runs, client: Client) -> None:
    @dg.asset
    def graph() -> Graph:
        people = pa.table({"oid": [1, 2, 3]})
        knows = pa.table({"src": [1, 2], "dst": [2, 3]})
        return Graph.from_tables({"person": people}, {("person", "knows", "person"): knows})

    @dg.asset
    def edges(graph: Graph) -> int:
        return graph.num_edges()

    assert runs(graph, edges).success
    assert client.get("dagster/edges") == 2


def test_what_a_materialization_tells(runs: Runs, client: Client) -> None:
    @dg.asset(key=["shop", "sold"])
    def sold() -> pa.Table:
        return TABLE

    told = metadata_of(runs(sold, preview_rows=2), "shop__sold")
    meta = client.get_meta("dagster/shop/sold")
    assert (told["id"], told["name"]) == (str(meta.id), "dagster/shop/sold")
    assert told["bytes"] == told["copied_bytes"] == meta.nbytes
    assert told["dagster/row_count"] == N
    columns = told["dagster/column_schema"].columns
    assert [(c.name, c.type) for c in columns] == [("a", "int64"), ("s", "string")]
    assert told["preview"] == "| a | s |\n| --- | --- |\n| 0 | x\\|y |\n| 1 | None |"

    @dg.asset
    def objects() -> pd.DataFrame:
        return pd.DataFrame({"mixed": pd.Series([1, "a"], dtype=object)})

    told = metadata_of(runs(objects, prefix="x"), "objects")  # Arrow has no schema for it
    assert told["name"] == "x/objects"
    assert "preview" not in told


def test_materialized_anew(runs: Runs, daemon: Daemon) -> None:
    @dg.asset
    def made() -> Any:
        return np.arange(N) + round

    round = 1
    runs(made)
    with daemon.connect() as client:
        held = client.get("dagster/made")
        round = 2
        runs(made)
        assert held[0] == 1
        assert client.get("dagster/made")[0] == 2
        assert client.status().objects == 1
        assert client.status().deleted_pinned == 1
        del held


@dg.asset(partitions_def=DAYS)
def sales(context) -> pa.Table:
    day = DAYS.get_partition_keys().index(context.partition_key)
    return pa.table({"day": [day], "n": [10 * day]})


@pytest.mark.parametrize(
    ("annotation", "given"),
    [
        (Any, lambda got: {day: table["n"].to_pylist() for day, table in got.items()}),
        (dict, lambda got: {day: table["n"].to_pylist() for day, table in got.items()}),
        (
            dict[str, pl.DataFrame],
            lambda got: {day: frame.get_column("n").to_list() for day, frame in got.items()},
        ),
        (pa.Table, lambda got: got["n"].to_pylist()),
        (pl.DataFrame, lambda got: got.get_column("n").to_list()),
        (pd.DataFrame, lambda got: got.n.loc[[0, 1, 2]].tolist()),
    ],
)
def test_partitions_of_an_asset(runs: Runs, client: Client, annotation: Any, given: Any) -> None:
    got: list[Any] = []

    def total(sales):
        got.append(given(sales))

    total.__annotations__ = {"sales": annotation}
    for day in DAYS.get_partition_keys():
        assert runs(sales, partition=day).success
    assert sorted(client.list_names()) == [f"dagster/sales@{day}" for day in ("mon", "tue", "wed")]
    assert runs(sales.to_source_asset(), dg.asset(total)).success
    lists = [[0], [10], [20]]
    whole = dict(zip(["mon", "tue", "wed"], lists, strict=True)) if isinstance(got[0], dict) else 0
    assert got[0] == (whole or [0, 10, 20])


def test_one_partition_from_another(runs: Runs, client: Client) -> None:
    @dg.asset(partitions_def=DAYS)
    def doubled(sales: pl.DataFrame) -> pl.DataFrame:
        return sales * 2

    assert runs(sales, doubled, partition="tue").success
    assert client.get("dagster/doubled@tue")["n"].to_list() == [20]


def test_partitions_that_are_missing(runs: Runs) -> None:
    @dg.asset
    def strict(sales: pa.Table) -> int:
        return sales.num_rows

    @dg.asset(ins={"sales": dg.AssetIn(metadata={"allow_missing_partitions": True})})
    def lenient(sales: pa.Table) -> int:
        return sales.num_rows

    assert runs(sales, partition="tue").success
    assert runs(sales.to_source_asset(), lenient).success
    assert "dagster/sales@mon" in cause(runs(sales.to_source_asset(), strict, fails=True), "strict")


def test_many_partitions_in_one_run(runs: Runs, client: Client) -> None:
    @dg.asset(partitions_def=DAYS, backfill_policy=dg.BackfillPolicy.single_run())
    def all_days(context) -> dict[str, int]:
        keys = context.partition_keys
        return dict.fromkeys(keys if good else keys[:1], 7)

    good = True
    range_ = {
        "dagster/asset_partition_range_start": "mon",
        "dagster/asset_partition_range_end": "tue",
    }
    assert runs(all_days, tags=range_).success
    assert client.list_names().keys() == {"dagster/all_days@mon", "dagster/all_days@tue"}
    good = False
    failed = runs(all_days, tags=range_, fails=True)
    assert "context.partition_keys" in cause(failed, "all_days")


def job_of(manager: VineyardIOManager) -> Any:
    @dg.op
    def first() -> int:
        return 1

    @dg.op
    def second(first: int) -> int:
        return first + 1

    @dg.job(resource_defs={"io_manager": manager})
    def job():
        second(first())

    return job


def test_outputs_of_ops_end_with_their_run_or_by_age(runs: Runs, client: Client) -> None:
    @dg.asset
    def asset() -> int:
        return 0

    runs(asset)
    ran = [job_of(runs.manager()).execute_in_process(instance=runs.instance) for _ in range(2)]
    names = [f"dagster/runs/{r.run_id}/{op}/result" for r in ran for op in ("first", "second")]
    assert set(client.list_names()) == {"dagster/asset", *names}
    assert client.get(names[1]) == 2
    manager = runs.manager()
    manager.delete_run(ran[0].run_id)
    manager.teardown_after_execution(None)
    assert set(client.list_names()) == {"dagster/asset", *names[2:]}
    # Every output is older than none: of this run, too.
    job = job_of(runs.manager(ttl_s=3600.0))
    assert job.execute_in_process(instance=runs.instance).success
    assert len(client.list_names()) == 5
    job = job_of(runs.manager(ttl_s=0.0))
    failed = job.execute_in_process(instance=runs.instance, raise_on_error=False)
    assert "dagster/runs/" in cause(failed, "second")
    assert list(client.list_names()) == ["dagster/asset"]


@pytest.mark.timeout(960)
def test_the_page_in_processes_of_their_own(daemon: Daemon, client: Client, tmp_path: Path) -> None:
    file = harness.write_example("assets.py", tmp_path)
    (tmp_path / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    (tmp_path / "run.yaml").write_text(FORKING)
    job = ["job", "execute", "-f", file, "-j", "__ASSET_JOB", "-c", "run.yaml"]
    harness.run(
        sys.executable,
        "-m",
        "dagster",
        *job,
        socket=daemon.socket,
        cwd=tmp_path,
        DAGSTER_HOME=str(tmp_path),
    )
    assert client.get("flights/late_by_day").rows() == [(1, 9000), (2, 9000)]
    made, rated = (client.get_meta(f"flights/{name}") for name in ("flights", "rated"))
    assert (made.copied, made.gathered, made.shared) == (0, 0, made.nbytes)
    # Another process has put all that it was given as it lay there, and a column of its own.
    assert rated.shared == made.nbytes
    assert len({each.id >> 16 for each in (made, rated)}) == 2
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        [run] = instance.get_runs()
        pids = {
            int(entry.event_specific_data.metadata["pid"].value)
            for entry in (e.dagster_event for e in instance.all_logs(run.run_id))
            if entry
            and entry.event_type_value == "STEP_WORKER_STARTED"
            and "pid" in getattr(entry.event_specific_data, "metadata", {})
        }
    assert len(pids) == 3
