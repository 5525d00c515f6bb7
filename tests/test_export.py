"""Objects leave one real daemon as files, and come back in another as they were."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import Daemon, check_clean, run_daemon
from types_harness import assert_same
from values import ALL_VALUES

import vineyard_arrow
from vineyard_arrow import ObjectID, ObjectMeta, deserialize, serialize
from vineyard_arrow.client import Client
from vineyard_arrow.errors import (
    AccessDeniedError,
    ConfigError,
    InvalidObjectError,
    ObjectExistsError,
    ObjectNotFoundError,
    PathExistsError,
)
from vineyard_arrow.graph import Graph, partition
from vineyard_arrow.metadata.etcd.server import EtcdServers

MIB = 1 << 20


@pytest.fixture(scope="module")
def other_daemon(folder: Path) -> Iterator[Daemon]:
    daemon = run_daemon(folder, "exports", "--memory-limit", "512MiB", "--pages", "small")
    yield daemon
    daemon.kill()


@pytest.fixture
def there(other_daemon: Daemon) -> Iterator[Client]:
    """A client of another store, which is empty before and after."""
    fds = other_daemon.fds
    with other_daemon.connect() as client:
        yield client
    check_clean(other_daemon, fds)


def composite(client: Client, members: dict[str, Any], **values: Any) -> ObjectID:
    meta = ObjectMeta("test.composite", values)
    for name, member in members.items():
        meta.add_member(name, member)
    return client.create_metadata(meta).id


def manifest(folder: Path) -> Any:
    return json.loads((folder / "manifest.json").read_text())


def moved(key: Any, client: Client, there: Client, folder: Path, **options: Any) -> ObjectID:
    """The id of the copy of an object, by way of files."""
    serialize(key, folder, client=client, **options)
    (new,) = deserialize(folder, client=there, trusted=True)
    return new


# ---- values


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_every_value_comes_as_it_was(
    client: Client, there: Client, tmp_path: Path, compression: str | None
) -> None:
    ids = client.put_many([make() for _, make in ALL_VALUES])
    names = [name for name, _ in ALL_VALUES]
    root = composite(client, dict(zip(names, ids, strict=True)), a=1)
    new = moved(root, client, there, tmp_path / "out", compression=compression)
    client.clear()  # nothing of it is needed any more
    meta = there.get_meta(new)
    assert meta["a"] == 1
    assert list(meta.members) == names
    failed = {}
    for name, make in ALL_VALUES:
        try:
            assert_same(make(), there.get(meta.members[name].id))
        except Exception as error:
            failed[name] = repr(error)
    assert not failed
