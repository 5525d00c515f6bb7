"""Airflow's XComs, kept in the store by our backend."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import managers_harness as harness
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from conftest import Daemon, run_daemon

from vineyard_arrow.client import Client
from vineyard_arrow.errors import ObjectNotFoundError

# What Airflow warns of is not ours.
pytestmark = [pytest.mark.managers, pytest.mark.filterwarnings("default")]

N = 100_000
BACKEND = "vineyard_arrow.integrations.airflow.VineyardXCom"
TABLE = pa.table({"a": [1, 2, 3]})


def environment(home: Path) -> dict[str, str]:
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__XCOM_BACKEND": BACKEND,
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
    }


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Our module; Airflow reads its settings, and makes its folder, when it is imported."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(tmp_path_factory.mktemp("home")).items():
            patch.setenv(name, value)
        import vineyard_arrow.integrations.airflow as module

        yield module


class Backend:
    """The backend as a task of a run has it, over the store of a test."""

    def __init__(self, module: Any) -> None:
        self.cls = module.VineyardXCom

    def set(self, value: Any, task: str = "t") -> Any:
        """What the database is given."""
        put = self.cls.serialize_value(
            value, key="return_value", task_id=task, dag_id="d", run_id="r", map_index=-1
        )
        return json.loads(json.dumps(put))

    def get(self, kept: Any) -> Any:
        return self.cls.deserialize_value(SimpleNamespace(value=kept))

    def purge(self, kept: Any) -> None:
        self.cls.purge(SimpleNamespace(value=kept))


@pytest.fixture
def at_socket(module: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes a backend of the store at a socket."""

    def make(socket: Path) -> Backend:
        monkeypatch.setenv("AIRFLOW__VINEYARD_ARROW__XCOM_SOCKET", str(socket))
        module._outputs.cache_clear()
        return Backend(module)

    yield make
    module._outputs().close()
    module._outputs.cache_clear()


@pytest.fixture
def backend(daemon: Daemon, at_socket: Any) -> Backend:
    return at_socket(daemon.socket)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        5,
        "text",
        [1, "a", None],
        {"a": {"b": [1.5]}},
        (1, 2),
        datetime(2026, 1, 2, tzinfo=UTC),
        np.float64(1.5),
    ],
)
def test_small_values_stay_with_airflow(backend: Backend, client: Client, value: Any) -> None:
    assert backend.get(backend.set(value)) == value
    assert client.status().objects == 0


@dataclasses.dataclass
class Plain:
    a: int


class Opaque:
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Opaque)


@pytest.mark.parametrize(
    "value",
    [
        TABLE,
        TABLE.to_batches()[0],
        pl.DataFrame(TABLE),
        pd.DataFrame({"a": [1, 2]}),
        np.arange(3),
        {"frames": [pl.DataFrame(TABLE)], "n": 1},
        "x" * 70_000,
        list(range(20_000)),
        Opaque(),
        {"__vineyard_arrow__": "of the user's own"},
    ],
)
def test_what_goes_to_the_store(backend: Backend, client: Client, value: Any) -> None:
    kept = backend.set(value)
    assert kept["name"] == "airflow/d/r/t/-1/return_value"
    assert client.get_name(kept["name"]) == client.get_meta(kept["__vineyard_arrow__"]).id
    assert kept["bytes"] == client.get_meta(kept["name"]).nbytes
    got = backend.get(kept)
    assert type(got) is type(value)
    if isinstance(value, dict) and "frames" in value:
        got, value = got["frames"][0], value["frames"][0]
    if isinstance(value, pd.DataFrame | pl.DataFrame):
        assert got.equals(value)
    else:
        assert np.all(got == value)


def test_what_is_derived_shares_memory(backend: Backend, client: Client) -> None:
    table = backend.get(backend.set(pa.table({"a": np.arange(N)})))
    kept = backend.set(table.append_column("b", pa.nulls(N, pa.int8())), task="u")
    meta = client.get_meta(kept["__vineyard_arrow__"])
    assert meta.shared == 8 * N
    assert meta.nbytes < 10 * N


def test_the_threshold_is_a_setting(
    backend: Backend, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__VINEYARD_ARROW__XCOM_THRESHOLD", "10")
    assert backend.set("12345") == "12345"
    assert backend.get(backend.set("1234567890")) == "1234567890"
    assert client.status().objects == 1


def test_lifetimes(module: Any, backend: Backend, client: Client) -> None:
    first = backend.set(TABLE)
    second = backend.set(TABLE)  # a retry
    assert first["name"] == second["name"]
    with pytest.raises(ObjectNotFoundError, match="clear the task"):
        backend.get(first)
    assert backend.get(second) == TABLE
    backend.purge(second)
    backend.purge(second)
    backend.purge("plain")
    assert client.status().objects == 0
    for task in ("t", "u"):
        backend.set(TABLE, task)
    other = client.put(1, name="airflow/d/other/t/-1/return_value")
    module.delete_run("d", "r")
    assert client.list_names() == {"airflow/d/other/t/-1/return_value": other}


def test_values_that_outlive_the_store(at_socket: Any, folder: Path) -> None:
    first = run_daemon(folder, "airflow", *harness.SMALL)
    backend = at_socket(first.socket)
    kept = backend.set(TABLE)
    first.kill()
    with pytest.raises(ObjectNotFoundError, match="airflow/d/r/t/-1/return_value"):
        backend.get(kept)
    backend.purge(kept)  # nothing to delete
    second = run_daemon(folder, "airflow", *harness.SMALL)
    try:
        with pytest.raises(ObjectNotFoundError, match="clear the task"):
            backend.get(kept)
        backend.purge(kept)
    finally:
        second.stop()


# Airflow takes long to load: it is loaded once, and each step is a process forked from that.
RUN = """
import os, shutil, sys
import airflow.__main__, airflow.api_fastapi.execution_api.app, airflow.models

def run():
    sys.path.insert(0, "dags")
    from late_flights import dag
    done = dag.test()
    assert done.state == "success", done.state
    open("run", "w").write(done.run_id)

def step(function):
    pid = os.fork()
    if not pid:
        function()
        sys.exit()
    assert os.waitpid(pid, 0)[1] == 0

def command(*words):
    sys.argv = ["airflow", *words]
    step(airflow.__main__.main)

command("db", "migrate")
step(run)
shutil.copy("airflow.db", "first.db")
# One task anew, in another process.
command("tasks", "test", "late_flights", "rated", open("run").read())
"""


def kept_in(path: Path) -> dict[str, Any]:
    """What a database has of each task."""
    database = sqlite3.connect(path)
    rows = database.execute("SELECT task_id, value FROM xcom WHERE key = 'return_value'")
    found = {task: json.loads(value) for task, value in rows.fetchall()}
    database.close()
    return found


@pytest.mark.timeout(960)
def test_the_page_by_airflow(daemon: Daemon, client: Client, tmp_path: Path) -> None:
    harness.write_example("late_flights.py", tmp_path / "dags")
    command = [sys.executable, "-c", RUN]
    harness.run(*command, socket=daemon.socket, cwd=tmp_path, **environment(tmp_path))
    first, last = (kept_in(tmp_path / f"{name}.db") for name in ("first", "airflow"))
    assert first["late_by_day"] == [[1, 9000], [2, 9000]]
    assert first["flights"] == last["flights"]
    assert first["rated"] != last["rated"]  # the old object is gone
    assert client.status().objects == 2
    made, rated = (
        client.get_meta(last[task]["__vineyard_arrow__"]) for task in ("flights", "rated")
    )
    run_id = (tmp_path / "run").read_text()
    assert made.names == (f"airflow/late_flights/{run_id}/flights/-1/return_value",)
    # The other process has put what it was given as it lay there, and a column of its own.
    assert rated.shared == made.nbytes
    assert rated.copied + rated.gathered == rated.nbytes - made.nbytes
