"""Values by name, as managers of workflows keep them: moved, read meanwhile, fetched, deleted."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from cluster_harness import SMALL, until
from conftest import Daemon, run_daemon

from vineyard_arrow.client import Client
from vineyard_arrow.errors import BuilderNotFoundError, ObjectNotFoundError
from vineyard_arrow.integrations.outputs import Outputs
from vineyard_arrow.objects import ObjectMeta

N = 100_000


@pytest.fixture
def outputs(daemon: Daemon) -> Iterator[Outputs]:
    outputs = Outputs(str(daemon.socket))
    yield outputs
    outputs.close()


def test_a_new_value_takes_the_name_and_the_old_one_goes(daemon: Daemon, outputs: Outputs) -> None:
    first = outputs.put("o", np.arange(N))
    held = outputs.get("o")
    second = outputs.put("o", np.arange(N) + 1)
    assert outputs.client().get_name("o") == second.id != first.id
    assert daemon.status().objects == 1
    assert daemon.status().deleted_pinned == 1  # as long as it is read
    assert held[-1] == N - 1
    assert outputs.get("o")[-1] == N
    del held
    assert daemon.status().deleted_pinned == 0


def test_what_is_derived_shares_memory(outputs: Outputs) -> None:
    outputs.put("o", pa.table({"a": np.arange(N)}))
    meta = outputs.put("p", outputs.get("o").append_column("b", pa.nulls(N, pa.int8())))
    assert meta.shared >= 8 * N > meta.copied + meta.gathered
    assert outputs.get("o", mode="copy", as_="pandas")["a"].sum() == N * (N - 1) // 2


def test_a_put_that_fails_leaves_the_old_one(daemon: Daemon, outputs: Outputs) -> None:
    outputs.put("o", 1)
    with pytest.raises(BuilderNotFoundError):
        outputs.put("o", lambda: 2)
    assert outputs.get("o") == 1
    assert daemon.status().objects == 1


def test_what_another_is_composed_of_stays(daemon: Daemon, outputs: Outputs) -> None:
    old = outputs.put("o", 1)
    whole = ObjectMeta("tests.whole")
    whole.add_member("part", old.id)
    outputs.client().create_metadata(whole)
    outputs.put("o", 2)
    assert outputs.get("o") == 2
    assert outputs.client().get(old.id) == 1
    assert outputs.client().get_meta(old.id).names == ()


def test_lists_and_removals(daemon: Daemon, outputs: Outputs) -> None:
    outputs.client().put(0, name="a/0")  # not an output
    for name in ("a/1", "a/2", "b/1"):
        outputs.put(name, name)
    assert [meta.names for meta in outputs.list("a/*")] == [("a/1",), ("a/2",)]
    outputs.remove("a/1")
    outputs.remove("a/1")  # no matter
    assert not outputs.exists("a/1")
    with pytest.raises(ObjectNotFoundError, match="a/1"):
        outputs.get("a/1")


def test_without_a_daemon_there_is_nothing(folder: Path) -> None:
    outputs = Outputs(str(folder / "nobody"))
    assert not outputs.exists("o")
    assert outputs.list("*") == []
    outputs.remove("o")
    with pytest.raises(ObjectNotFoundError, match="no daemon"):
        outputs.get("o")
    assert not (folder / "nobody").exists()  # none was started


def test_a_store_that_was_started_anew(folder: Path) -> None:
    first = run_daemon(folder, "again", *SMALL)
    outputs = Outputs(str(first.socket))
    outputs.put("o", 1)
    first.kill()
    second = run_daemon(folder, "again", *SMALL)
    try:
        with pytest.raises(ObjectNotFoundError, match="run what makes it again"):
            outputs.get("o")
        outputs.put("o", 2)
        assert outputs.get("o") == 2
    finally:
        outputs.close()
        second.stop()


def test_another_process_by_a_pickle(daemon: Daemon, outputs: Outputs) -> None:
    outputs.put("o", np.arange(N))
    code = f"import pickle; print(pickle.loads({pickle.dumps(outputs)!r}).get('o').sum())"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert int(said.stdout) == N * (N - 1) // 2


def test_writers_and_readers_at_once(daemon: Daemon, outputs: Outputs) -> None:
    outputs.put("o", (0, 0))
    done = threading.Event()
    errors: list[BaseException] = []

    def write(number: int) -> None:
        each = Outputs(outputs.socket)
        try:
            for i in range(25):
                each.put("o", (number, i))
        except BaseException as error:
            errors.append(error)
        finally:
            each.close()

    def read() -> None:
        each = Outputs(outputs.socket)
        try:
            while not done.is_set():
                number, i = each.get("o")
                assert 0 <= number < 3
                assert 0 <= i < 25
        except BaseException as error:
            errors.append(error)
        finally:
            each.close()

    writers = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    reader = threading.Thread(target=read)
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert errors == []
    assert outputs.get("o")[1] == 24
    assert daemon.status().objects == 1


@pytest.fixture
def pair(etcd, make_daemon: Callable[..., Daemon]) -> Iterator[tuple[Outputs, Outputs]]:
    """In the stores of two instances of a cluster."""
    meta = ("--meta", f"etcd://{etcd.address}/outputs")
    made = [Outputs(str(make_daemon(*SMALL, *meta).socket)) for _ in range(2)]
    until(lambda: [len(each.client().instances()) for each in made] == [2, 2])
    yield made[0], made[1]
    for outputs in made:
        outputs.close()


def objects_of(client: Client) -> int:
    return client.status().objects


def test_two_instances(pair: tuple[Outputs, Outputs]) -> None:
    a, b = pair
    a.put("o", np.arange(N))
    until(lambda: b.exists("o"))
    assert b.get("o")[-1] == N - 1
    assert objects_of(b.client()) == 1  # a copy, which later gets find
    assert b.get("o")[0] == 0
    assert objects_of(b.client()) == 1
    # A task elsewhere replaces it: the value is there now, and of the old one nothing is left.
    b.put("o", np.arange(N) + 1)
    until(lambda: a.get("o")[-1] == N)
    until(lambda: objects_of(b.client()) == 1)
    b.remove("o")
    until(lambda: not a.exists("o"))
    assert [objects_of(each.client()) for each in pair] == [0, 0]
