"""Stores, peers and yardsticks shared by all benchmarks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import libraries
import pytest
from measure import GIB
from peers import Echo, Peer
from stores import Store, auto_files

from vineyard_arrow.ipc.hugepages import MemFiles

CROWD = 8


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--graph-scale", type=int, default=20, help="of the graphs that peers build")


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: Any) -> None:
    machine_info["libraries"] = libraries.versions()


def pytest_configure(config: pytest.Config) -> None:
    config.option.benchmark_quiet = True  # benchmarks/table.py prints the one table


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Store]]:
    """One store on the best pages there are, one on 4 KiB pages."""
    files = auto_files(4 * GIB)  # first of all: it forks
    folder = tmp_path_factory.mktemp("s")
    with ExitStack() as stack:
        out = {}
        for pages, kind in (("auto", files), ("small", MemFiles(huge=False))):
            out[pages] = Store(folder, pages, kind)
            stack.callback(out[pages].close)
        yield out
    files.close()


@pytest.fixture(scope="session")
def store(stores: dict[str, Store]) -> Store:
    """The store on the best pages there are."""
    return stores["auto"]


@pytest.fixture(params=["auto", "small"])
def any_store(request: pytest.FixtureRequest, stores: dict[str, Store]) -> Store:
    """Each store in turn."""
    return stores[request.param]


@pytest.fixture(autouse=True)
def _clean(request: pytest.FixtureRequest) -> Iterator[None]:
    """No object and no warm page of one benchmark is there in the next."""
    yield
    if "stores" in request.fixturenames:
        for each in request.getfixturevalue("stores").values():
            each.client.clear()
            each.client.memory_trim()


@pytest.fixture(scope="session")
def echo(stores: Any) -> Iterator[Echo]:
    """The bare round trip."""
    out = Echo()
    yield out
    out.close()


@pytest.fixture(scope="session")
def peer(stores: Any) -> Iterator[Peer]:
    """One other process."""
    out = Peer()
    yield out
    out.close()


@pytest.fixture(scope="session")
def crowd(stores: Any) -> Iterator[list[Peer]]:
    """Many other processes."""
    out = [Peer() for _ in range(CROWD)]
    yield out
    for each in out:
        each.close()
