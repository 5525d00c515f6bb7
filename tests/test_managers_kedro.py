"""Kedro's datasets, kept in the store by ours."""

from __future__ import annotations

import os
import pickle
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

kedro = pytest.importorskip("kedro")
from kedro.io import (  # noqa: E402
    AbstractDataset,
    DataCatalog,
    DatasetError,
    SharedMemoryDataCatalog,
)
from kedro.pipeline import node, pipeline  # noqa: E402
from kedro.runner import ParallelRunner, SequentialRunner, ThreadRunner  # noqa: E402

from vineyard_arrow.integrations.kedro import VineyardDataset  # noqa: E402

# What Kedro warns of is not ours.
pytestmark = [pytest.mark.managers, pytest.mark.filterwarnings("default")]

N = 100_000
TYPE = "vineyard_arrow.integrations.kedro.VineyardDataset"


@pytest.fixture
def catalog(daemon: Daemon, runner: Any) -> Iterator[DataCatalog]:
    socket = str(daemon.socket)
    kind = SharedMemoryDataCatalog if runner is ParallelRunner else DataCatalog
    catalog = kind.from_config(
        {
            "made": {"type": TYPE, "name": "k/made", "socket": socket},
            "pid": {"type": TYPE, "name": "k/pid", "socket": socket},
            "{rest}": {"type": TYPE, "name": "k/{rest}", "socket": socket, "transient": True},
        }
    )
    yield catalog
    for name in catalog.keys():  # noqa: SIM118
        catalog.release(name)


def make() -> tuple[pa.Table, int]:
    return pa.table({"a": np.arange(N)}), os.getpid()


def widen(made: pa.Table) -> pa.Table:
    return made.append_column("b", pa.nulls(len(made), pa.int8()))


def count(widened: pa.Table, pid: int) -> dict[str, int]:
    return {"rows": len(widened), "first": pid, "this": os.getpid()}


PIPELINE = pipeline(
    [
        node(make, None, ["made", "pid"]),
        node(widen, "made", "widened"),
        node(count, ["widened", "pid"], "counted"),
    ]
)


@pytest.mark.parametrize("runner", [SequentialRunner, ThreadRunner, ParallelRunner])
def test_runners(catalog: DataCatalog, client: Client, runner: Any) -> None:
    ran = runner().run(PIPELINE, catalog)
    counted = ran["counted"].load()
    assert counted["rows"] == N
    if runner is ParallelRunner:
        assert os.getpid() not in (counted["first"], counted["this"])
    # What no node needs any more is gone if it is transient, and not an output of the pipeline.
    assert client.list_names().keys() == {"k/made", "k/pid", "k/counted"}
    before = client.get_name("k/made")
    runner().run(PIPELINE, catalog)
    assert client.get_name("k/made") != before
    assert client.status().objects == 3


def test_what_comes_from_the_store_is_not_copied(daemon: Daemon, client: Client) -> None:
    first, second = (VineyardDataset(name=n, socket=str(daemon.socket)) for n in ("1", "2"))
    first.save(make()[0])
    second.save(widen(first.load()))
    meta = client.get_meta("2")
    assert meta.shared == 8 * N
    assert meta.copied + meta.gathered == meta.nbytes - 8 * N
    first.release()
    second.release()
    assert client.exists("1")


def test_forms_and_modes(daemon: Daemon, client: Client) -> None:
    client.put(pd.DataFrame({"a": [1.0, 2.0]}), name="f")

    def load(**options: Any) -> Any:
        dataset = VineyardDataset(name="f", socket=str(daemon.socket), **options)
        try:
            return dataset.load()
        finally:
            dataset.release()

    assert isinstance(load(), pd.DataFrame)
    assert isinstance(load(as_="polars"), pl.DataFrame)
    assert isinstance(load(as_="arrow"), pa.Table)
    writable = load(mode="cow")
    writable.loc[0, "a"] = 9.0
    assert load()["a"].tolist() == [1.0, 2.0]


def test_a_dataset_by_itself(daemon: Daemon, client: Client) -> None:
    config = {"type": TYPE, "name": "d", "socket": str(daemon.socket), "metadata": {"x": 1}}
    dataset = AbstractDataset.from_config("d", config)
    assert not dataset.exists()
    with pytest.raises(DatasetError, match="run what makes it"):
        dataset.load()
    dataset.save(5)
    assert dataset.exists()
    again = pickle.loads(pickle.dumps(dataset))
    assert again.load() == 5
    assert f"name='d', socket='{daemon.socket}'" in str(again)
    again.release()
    dataset.release()
    assert client.get("d") == 5


def test_versions_are_refused() -> None:
    with pytest.raises(DatasetError, match="versioned"):
        AbstractDataset.from_config("d", {"type": TYPE, "name": "d", "versioned": True})


@pytest.mark.timeout(960)
def test_the_page_by_a_session(daemon: Daemon, client: Client, tmp_path: Path) -> None:
    harness.write_example("catalog.yml", tmp_path / "conf" / "base")
    (tmp_path / "conf" / "local").mkdir()
    package = tmp_path / "src" / "flights"
    harness.write_example("pipeline_registry.py", package)
    (package / "__init__.py").touch()
    (package / "settings.py").touch()
    (tmp_path / "pyproject.toml").write_text(
        '[tool.kedro]\npackage_name = "flights"\nproject_name = "flights"\n'
        f'kedro_init_version = "{kedro.__version__}"\n'
    )
    command = [sys.executable, "-m", "kedro", "run", "--runner", "ParallelRunner"]
    harness.run(*command, socket=daemon.socket, cwd=tmp_path)
    assert client.list_names().keys() == {"flights", "late_by_day"}
    assert client.get("late_by_day").rows() == [(1, 9000), (2, 9000)]
