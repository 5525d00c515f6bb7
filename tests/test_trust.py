"""Pickles of other users are refused, by whatever way they would be loaded."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import Daemon, run_daemon
from test_cli import Cli
from test_fork import in_child

from vineyard_arrow import ObjectID, ObjectMeta
from vineyard_arrow.client import Client, connect
from vineyard_arrow.errors import AccessDeniedError
from vineyard_arrow.graph import Graph
from vineyard_arrow.ipc import protocol as p

GROUP = 54321
NOBODY, OTHER = 65534, 54322
SMALL = ("--memory-limit", "256MiB", "--pages", "small")

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


class Bomb:
    """Says so when it is unpickled."""

    loaded = 0

    def __init__(self) -> None:
        self.payload = np.arange(1000)

    def __setstate__(self, state: dict[str, Any]) -> None:
        type(self).loaded += 1
        self.__dict__.update(state)


class UnknownType(pa.ExtensionType):
    """Registered nowhere, so that schemas with it travel pickled."""

    def __init__(self) -> None:
        super().__init__(pa.int64(), "test.unknown")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: pa.DataType, data: bytes) -> UnknownType:
        return cls()


def frame_with_objects() -> Any:
    import pandas as pd

    return pd.DataFrame({"x": [Bomb(), 2], "y": [1, 2]}, index=[3, 4])


def module() -> Any:
    torch = pytest.importorskip("torch")
    return torch.nn.Linear(2, 2)


VALUES: dict[str, Callable[[], Any]] = {
    "object": Bomb,
    "in a list": lambda: [1, Bomb()],
    "in a dict": lambda: {"a": {"b": (Bomb(), np.arange(5000))}},
    "object array": lambda: np.array([Bomb(), 1], dtype=object),
    "frame": frame_with_objects,
    "extension type": lambda: pa.table(
        {"x": pa.ExtensionArray.from_storage(UnknownType(), pa.array([1, 2]))}
    ),
    "module": module,
}


@pytest.fixture(scope="module")
def open_daemon() -> Iterator[Daemon]:
    """A daemon that a group may use."""
    with tempfile.TemporaryDirectory(prefix="va-") as path:
        folder = Path(path)
        folder.chmod(0o755)
        daemon = run_daemon(folder, "s", *SMALL, "--mode", "0660", "--group", str(GROUP))
        (folder / "s-again").symlink_to("s")
        yield daemon
        daemon.kill()


@pytest.fixture
def client(open_daemon: Daemon) -> Iterator[Client]:
    with open_daemon.connect() as client:
        yield client
        client.clear()


def run_as(daemon: Daemon, function: Callable[[Client], Any], uid: int = NOBODY) -> Any:
    """What ``function`` returns, called with a client of a process of another user."""

    def become() -> Any:
        os.setgroups([])
        os.setresgid(GROUP, GROUP, GROUP)
        os.setresuid(uid, uid, uid)
        os.environ["HOME"] = "/nonexistent"
        # By another path, or it would take the connection that it inherits.
        with connect(f"{daemon.socket}-again", autostart=False) as client:
            return function(client)

    return in_child(become)


def put_bomb(client: Client) -> int:
    return int(client.put(Bomb()))


@pytest.fixture(scope="module")
def theirs(open_daemon: Daemon) -> dict[str, int]:
    """Ids of all `VALUES`, put by another user; of one composite of them, too."""
    values: dict[str, Any] = {}
    for kind, make in VALUES.items():
        with contextlib.suppress(pytest.skip.Exception):
            values[kind] = make()

    def put(client: Client) -> dict[str, int]:
        ids = {kind: int(client.put(value)) for kind, value in values.items()}
        meta = ObjectMeta()
        meta.add_member("bomb", ids["object"])
        meta.add_member("table", client.put(pa.table({"a": range(50_000)})))
        return ids | {"composite": int(client.create_metadata(meta).id or 0)}

    return dict(run_as(open_daemon, put))


@pytest.fixture
def kept(open_daemon: Daemon) -> Iterator[Client]:
    """A client that leaves alone what `theirs` has put."""
    with open_daemon.connect() as client:
        yield client


@root_only
@pytest.mark.parametrize("mode", ["ro", "cow", "copy"])
@pytest.mark.parametrize("kind", VALUES)
def test_another_users_pickle_is_refused(
    kept: Client, theirs: dict[str, int], kind: str, mode: Any
) -> None:
    if kind not in theirs:
        pytest.skip("no PyTorch here")
    loaded = Bomb.loaded
    for options in ({}, {"trusted": False}):
        with pytest.raises(AccessDeniedError, match=f"made by user {NOBODY}") as caught:
            kept.get(theirs[kind], mode=mode, **options)
        assert isinstance(caught.value, PermissionError)
        assert "trusted=True" in str(caught.value)
    assert Bomb.loaded == loaded
    value = kept.get(theirs[kind], mode=mode, trusted=True)
    assert type(value) is type(VALUES[kind]())


@root_only
def test_by_members_and_handles_too(kept: Client, theirs: dict[str, int]) -> None:
    root = theirs["composite"]
    handle = kept.get(root)
    assert handle.table.get().num_rows == 50_000
    with pytest.raises(AccessDeniedError):
        handle.bomb.get()
    with pytest.raises(AccessDeniedError):
        handle.bomb.to_arrow()
    assert type(handle.bomb.get(trusted=True)) is Bomb

    def resolve(part: Any, stored: Any) -> Any:
        return stored.member("bomb")

    with pytest.raises(AccessDeniedError):
        kept.get(root, resolver=resolve)
    assert type(kept.get(root, resolver=resolve, trusted=True)) is Bomb


@root_only
def test_a_client_may_trust_all_or_nobody(open_daemon: Daemon, theirs: dict[str, int]) -> None:
    oid = theirs["object"]
    with open_daemon.connect(trusted=True) as client:
        assert type(client.get(oid)) is Bomb
        with pytest.raises(AccessDeniedError):
            client.get(oid, trusted=False)
    with open_daemon.connect(trusted=False) as client:
        mine = client.put(Bomb())
        with pytest.raises(AccessDeniedError):
            client.get(mine)
        assert type(client.get_many([mine, oid], trusted=True)[1]) is Bomb
        client.delete(mine)


@root_only
def test_the_command_line(open_daemon: Daemon, theirs: dict[str, int]) -> None:
    cli, key = Cli(open_daemon.socket), str(ObjectID(theirs["object"]))
    assert "made by user" in cli.fails("get", key)
    assert "Bomb" in cli.call("get", key, "--trusted")[0]


@root_only
def test_what_is_not_pickled_needs_no_trust(open_daemon: Daemon, client: Client) -> None:
    import pandas as pd

    values = [
        pa.table({"a": ["x", "y"]}),
        np.arange(10),
        {"a": [1, {2}]},
        pd.DataFrame({"a": range(1000), "b": ["x"] * 1000}),
    ]
    for oid in run_as(open_daemon, lambda other: list(map(int, other.put_many(values)))):
        client.get(oid, trusted=False)


@root_only
def test_a_copy_of_anothers_pickle_is_not_ones_own(client: Client, open_daemon: Daemon) -> None:
    """Who puts an object that lies in memory of another vouches for nothing."""
    oid = run_as(open_daemon, put_bomb)
    assert client.get_meta(oid).uid == NOBODY
    copy = client.shallow_copy(oid)
    assert client.get_meta(copy).uid is None
    with pytest.raises(AccessDeniedError, match="several users"):
        client.get(copy)
    assert type(client.get(copy, trusted=True)) is Bomb
    assert run_as(open_daemon, lambda other: type(other.get(oid)) is Bomb)  # it is theirs
    mine = client.put(Bomb())
    assert client.get_meta(mine).uid == os.geteuid()
    assert type(client.get(mine)) is Bomb
    assert client.get_object(mine).meta.uid == os.geteuid()


@root_only
def test_a_graph_of_anothers_members_is_not_ones_own(
    client: Client, open_daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its root is ours, but kernels follow indices that another user can write."""
    rng = np.random.default_rng(1)
    edges = pa.table({"src": rng.integers(0, 500, 20_000), "dst": rng.integers(0, 500, 20_000)})
    theirs = run_as(
        open_daemon, lambda other: int(other.put(Graph.from_edges(edges, client=other)))
    )
    validated: list[Graph] = []
    validate = Graph.validate
    monkeypatch.setattr(Graph, "validate", lambda g: (validated.append(g), validate(g))[1])
    graph = client.get(theirs)
    assert len(validated) == 1
    client.get(client.put(graph))
    assert len(validated) == 2
    client.get(client.put(Graph.from_edges(edges, client=client)))
    assert len(validated) == 2


@root_only
def test_no_other_user_gets_a_segment_with_ones_objects(open_daemon: Daemon) -> None:
    """A dead writer's segment is leased again, with what is in it: to its own user only."""
    places = []
    for uid in (NOBODY, OTHER, NOBODY):
        oid = run_as(open_daemon, put_bomb, uid)
        with open_daemon.connect() as client:
            assert client.get_meta(oid).uid == uid
            *_, ranges = client._a.describe(oid)
            places.append(next(s for s in segments_of(client) if lies_in(ranges[0][0], s)))
    first, other, again = (s.segment for s in places)
    assert first == again != other


def segments_of(client: Client) -> list[p.SegmentInfo]:
    return client.status().segments


def lies_in(offset: int, segment: p.SegmentInfo) -> bool:
    return segment.offset <= offset < segment.offset + (1 << 32)


def test_ones_own_pickles_load(daemon: Daemon) -> None:
    with daemon.connect() as client:
        assert client._a.uid == os.geteuid()
        oid = client.put([Bomb(), 1])
        assert type(client.get(oid)[0]) is Bomb
        with pytest.raises(AccessDeniedError, match="made by user"):
            client.get(oid, trusted=False)
        meta = ObjectMeta()
        meta.add_member("x", oid)
        assert client.create_metadata(meta).uid == os.geteuid()
