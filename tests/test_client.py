"""The client's whole surface against a real daemon: values by id and name, listings, faults."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import DEADLINE_S, Daemon, run_daemon
from test_fork import in_child, until

import vineyard_arrow
from vineyard_arrow import ObjectID
from vineyard_arrow.client import Client, connect
from vineyard_arrow.errors import (
    AccessDeniedError,
    ConfigError,
    ConnectionLostError,
    DeadlineExceededError,
    InvalidObjectError,
    ObjectExistsError,
    ObjectNotFoundError,
    StoreFullError,
    VineyardArrowError,
)
from vineyard_arrow.ipc import protocol as p
from vineyard_arrow.ipc.connection import Connection

ROWS = 100_000
NOBODY = 65534
UNKNOWN = ObjectID("o0000010000000001")
SMALL = ("--memory-limit", "64MiB", "--pages", "small")


def table_of(value: int = 1, rows: int = ROWS) -> pa.Table:
    return pa.table({"a": np.full(rows, value)})


def python(code: str, *arguments: object, **environment: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **environment},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---- put and get


def test_a_table_comes_back_as_a_table(client: Client) -> None:
    oid = client.put(table_of())
    assert isinstance(oid, ObjectID)
    assert oid.instance == client.instance
    for key in (oid, int(oid), str(oid)):
        got = client.get(key)
        assert type(got) is pa.Table
        assert got.equals(table_of())


def test_round_trips_of_a_writer(client: Client, requests: list[str]) -> None:
    client.put(0)
    assert requests == ["LeaseSegment"]  # the put itself is left, and waits for nobody
    requests.clear()
    client.put_many([table_of(i) for i in range(20)])
    assert requests == []
    ids = client.put_many([table_of(i) for i in range(20)], names=[f"t{i}" for i in range(20)])
    assert requests == ["Put"]
    requests.clear()
    assert [t["a"][0].as_py() for t in client.get_many(ids)] == list(range(20))
    assert client.get("t7").equals(table_of(7))
    assert client.get_name("t7") == ids[7]
    assert requests == []
    client.put(0, name="t7", overwrite=True)
    assert requests == ["Put"]


def test_round_trips_of_a_reader(daemon: Daemon, requests: list[str]) -> None:
    def put() -> list[ObjectID]:
        with daemon.connect() as writer:
            return writer.put_many([table_of(i) for i in range(20)], names=["x"] + [None] * 19)

    ids = in_child(put)
    with daemon.connect() as client:
        requests.clear()
        client.get("x")
        assert requests == ["GetSegments"]
        requests.clear()
        assert [t["a"][0].as_py() for t in client.get_many([*ids, "x"])] == [*range(20), 0]
        assert requests == []


def test_put_many_is_all_or_none(client: Client) -> None:
    client.put(1, name="taken")
    before = client.status()
    for names in (["a", "taken"], ["a", "a"], ["a", ""]):
        with pytest.raises(ValueError, match=r"taken|bytes"):
            client.put_many([table_of(), table_of()], names=names)
    after = client.status()
    assert (after.objects, after.names, after.memory_used) == (1, 1, before.memory_used)
    with pytest.raises(InvalidObjectError, match="2 values but 1 names"):
        client.put_many([1, 2], names=["x"])
    assert client.put_many([]) == []
    first, second = client.put_many(iter([1, 2]), names=[None, "b"])
    assert (client.get(first), client.get(second), client.get("b")) == (1, 2, 2)


def test_what_cannot_be_stored_leaves_nothing(client: Client) -> None:
    with pytest.raises(VineyardArrowError):
        client.put([1, threading.Lock()])
    with pytest.raises(VineyardArrowError):
        client.put_many([1, lambda: 1])
    assert client.status().objects == 0
    assert client.get(client.put(1)) == 1


def test_delete(client: Client) -> None:
    a, b, c, d = client.put_many([1, 2, 3, 4], names=["a", "b", "c", "d"])
    client.delete(a)
    client.delete("b")
    assert [client.exists(k) for k in (a, "a", b, "b", str(c), "d")] == [False] * 4 + [True] * 2
    for keys in ([c, UNKNOWN], ["nobody", c], [c, a]):
        with pytest.raises(ObjectNotFoundError):
            client.delete(keys)
    assert client.get_many([c, d]) == [3, 4]
    client.delete([str(c), "d"])
    client.delete([])
    assert client.list_objects() == []
    assert client.list_names() == {}


def test_an_object_of_many_segments(client: Client) -> None:
    """Each strictly sealed object is a segment: a table over many needs them all mapped."""
    columns = [client.get(client.put(pa.array(np.full(ROWS, i)), seal="strict")) for i in range(12)]
    oid = client.put(pa.table(columns, names=[f"c{i}" for i in range(12)]))
    assert client.get_meta(oid).shared == 12 * 8 * ROWS
    code = """
import sys
from vineyard_arrow.client import connect
with connect(sys.argv[1], autostart=False) as client:
    print([c[-1].as_py() for c in client.get(sys.argv[2]).columns], client.get_meta(sys.argv[2]))
"""
    assert python(code, client._a.socket, oid).startswith(str(list(range(12))))


def test_unknown_and_impossible_keys(client: Client) -> None:
    for key in (UNKNOWN, 1, (1 << 64) - 1, str(UNKNOWN), "nobody", "\ud800", "o123", ""):
        for use in (client.get, client.get_meta, client.delete, client.get_blob):
            with pytest.raises(LookupError):
                use(key)
        assert not client.exists(key)
    for key in (-1, 1 << 64, 1.5, None):
        for use in (client.get, client.get_meta, client.delete, client.exists, client.get_blob):
            with pytest.raises(InvalidObjectError):
                use(key)


def test_errors_are_the_promised_builtins(client: Client) -> None:
    client.put(1, name="x")
    with pytest.raises(LookupError):
        client.get("y")
    with pytest.raises(ValueError, match="taken"):
        client.put(2, name="x")
    with pytest.raises(TimeoutError):
        client.get_name("y", wait=True, timeout_s=0.001)
    with pytest.raises(MemoryError):
        client.put(np.zeros(2 << 30, dtype=np.uint8))
    for error, builtin in {
        AccessDeniedError: PermissionError,
        ConnectionLostError: ConnectionError,
        StoreFullError: MemoryError,
        ConfigError: ValueError,
    }.items():
        assert issubclass(error, builtin)
        assert issubclass(error, VineyardArrowError)
        again = pickle.loads(pickle.dumps(error("what", "do this")))
        assert (again.message, again.hint, str(again)) == (
            "what",
            "do this",
            "what (hint: do this)",
        )


# ---- waiting

PUT_LATER = """
import sys
from vineyard_arrow.client import connect
with connect(sys.argv[1], autostart=False) as client:
    print(client.put([1, 2], name="late"))
"""


def test_get_waits_for_a_put_of_another_process(client: Client) -> None:
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(client.get, "late", timeout_s=DEADLINE_S)
        python(PUT_LATER, client._a.socket)
        assert waiting.result(DEADLINE_S) == [1, 2]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Released for each question for an object or a name that is sent."""
    asked = threading.Semaphore(0)
    send = Connection._send

    def telling(self: Connection, frame: bytes) -> None:
        send(self, frame)
        if b"find" in frame:
            asked.release()

    monkeypatch.setattr(Connection, "_send", telling)
    return asked


def test_waiting_for_names_and_ids(client: Client, asked: threading.Semaphore) -> None:
    # ids are given in order, so the next but one is known
    later = ObjectID(client.put(0) + 2)
    with ThreadPoolExecutor() as pool:
        by_name = pool.submit(client.get_name, "n", wait=True)
        by_both = pool.submit(client.get, "n", timeout_s=DEADLINE_S)
        by_id = pool.submit(client.get, later, timeout_s=DEADLINE_S)
        given_up = pool.submit(client.get, "never", timeout_s=0.01)
        for _ in range(6):  # each of the four asks for what it does not find, three then wait
            assert asked.acquire(timeout=DEADLINE_S)
        oid = client.put(1)
        assert client.put(2) == later
        client.put_name(oid, "n")
        assert by_name.result(DEADLINE_S) == oid
        assert by_both.result(DEADLINE_S) == 1
        assert by_id.result(DEADLINE_S) == 2
        with pytest.raises(DeadlineExceededError, match="never"):
            given_up.result(DEADLINE_S)


def test_waiting_in_vain(client: Client, daemon: Daemon) -> None:
    for wait in (
        lambda: client.get("x", timeout_s=0.01),
        lambda: client.get(UNKNOWN, timeout_s=0.01),
        lambda: client.get_name("x", wait=True, timeout_s=0.01),
        lambda: client.get_name("x", wait=True, timeout_s=0),
        lambda: client.get_name("x", wait=True, timeout_s=-1),
    ):
        with pytest.raises(DeadlineExceededError):
            wait()
    with pytest.raises(ObjectNotFoundError):
        client.get_name("x", timeout_s=1000)
    with pytest.raises(ObjectNotFoundError):
        client.get("x", timeout_s=0)
    assert client.get(client.put(1, name="x"), timeout_s=1000) == 1
    assert client.get_name("x", wait=True, timeout_s=0) == client.get_name("x")


# ---- metadata


def test_meta(client: Client, daemon: Daemon) -> None:
    schema = pa.schema([pa.field("<b>", pa.int64())], metadata={"k": "v"})
    table = pa.table([pa.chunked_array([[1, 2], [3]])], schema=schema)
    before = datetime.now(UTC) - timedelta(seconds=1)
    oid = client.put(table, name="<i>")
    client.put_name(oid, "also")
    meta = client.get_meta("also")
    assert (meta.id, meta.typename, meta.nbytes) == (oid, "vineyard.table", 24)
    assert meta.schema.equals(schema, check_metadata=True)
    assert (meta.num_rows, meta.parts[0].num_batches) == (3, 2)
    assert meta.names == ("<i>", "also")
    assert meta.instance == client.instance == daemon.status().instance
    assert before <= meta.created <= datetime.now(UTC)
    assert (meta.copied, meta.gathered, meta.shared) == (0, 24, 0)
    html = meta._repr_html_()
    assert "<table" in html
    assert str(oid) in html
    assert "&lt;b&gt;" in html
    assert "&lt;i&gt;, also" in html
    assert "<b>" not in html
    nested = client.get_meta(client.put([pa.table({"x": [1]}), 2]))
    assert len(nested.parts) > 1
    assert "parts" in nested._repr_html_()
    with pytest.raises(AttributeError):
        meta.nbytes = 1


def test_list_objects(client: Client) -> None:
    ids = [
        client.put(v, name=n)
        for v, n in (
            (table_of(), "sales/2024"),
            (table_of(), None),
            (pa.array([1]), "sales/2025"),
            (1, "[x]"),
        )
    ]
    client.put_name(ids[0], "best")

    def found(*arguments: Any, **options: Any) -> list[ObjectID]:
        return [m.id for m in client.list_objects(*arguments, **options)]

    assert found() == ids
    assert found(limit=2) == ids[:2]
    assert found(limit=0) == found(limit=-1) == []
    assert found("sales/*") == [ids[0], ids[2]]
    assert found(pattern="vineyard.table") == ids[:2]
    assert found("SALES/*") == []
    assert found("sales/202[56]") == [ids[2]]
    assert found("[[]x]") == [ids[3]]
    assert found("best") == [ids[0]]
    assert found("") == []


# ---- names


def test_names(client: Client) -> None:
    one, two = client.put(1, name="one"), client.put(2)
    with pytest.raises(ObjectExistsError, match=f"'one' is taken.*{one}"):
        client.put_name(two, "one")
    with pytest.raises(ObjectNotFoundError):
        client.put_name(UNKNOWN, "x")
    client.put_name("one", "uno")
    client.put_name(str(two), "deux")
    assert client.list_names() == {"deux": two, "one": one, "uno": one}
    assert list(client.list_names("o??")) == ["one"]
    client.drop_name("one")
    assert client.get("uno") == client.get(one) == 1
    with pytest.raises(ObjectNotFoundError):
        client.drop_name("one")
    with pytest.raises(ObjectNotFoundError):
        client.get_name("one")
    client.put_name(two, "one")
    assert client.get("one") == 2
    client.delete(two)
    assert client.list_names() == {"uno": one}


def test_a_name_moves(client: Client) -> None:
    one, two = client.put(1, name="it"), client.put(2)
    assert client.put_name(two, "it", overwrite=True) == one
    assert client.get("it") == 2
    assert client.get_meta(one).names == ()
    client.delete(one)
    assert client.put_name(two, "it", overwrite=True) == two  # where it is already
    assert client.put_name(two, "free", overwrite=True) is None
    with pytest.raises(ObjectNotFoundError):
        client.put_name(one, "it", overwrite=True)
    assert client.list_names() == {"free": two, "it": two}


def test_a_name_that_moves_is_always_found(client: Client, daemon: Daemon) -> None:
    ids = [client.put(i) for i in range(2)]
    client.put_name(ids[0], "it")
    done = threading.Event()

    def move() -> None:
        for i in range(2000):
            client.put_name(ids[i % 2], "it", overwrite=True)
        done.set()

    thread = threading.Thread(target=move)
    with daemon.connect() as other:
        thread.start()
        while not done.is_set():
            assert other.get_name("it") in ids
        thread.join()
    assert client.status().objects == 2


def test_a_full_index_still_moves_names(make_daemon) -> None:
    with make_daemon("--max-objects", "65").connect() as client:
        one, two = client.put(1, name="it"), client.put(2)
        for i in range(62):
            client.put_name(one, str(i))
        with pytest.raises(StoreFullError):
            client.put_name(one, "more")
        assert client.put_name(two, "it", overwrite=True) == one
        assert client.get("it") == 2
        client.drop_name("0")
        assert client.get(client.put(3, name="it", overwrite=True)) == client.get("it") == 3
        with pytest.raises(StoreFullError):
            client.put(4, name="it", overwrite=True)
        assert client.get("it") == 3


@pytest.mark.parametrize("name", ["", "x" * 4097, "é" * 2049, "\ud800", "a\udfffb"])
def test_invalid_names(client: Client, name: str) -> None:
    oid = client.put(1)
    with pytest.raises(InvalidObjectError):
        client.put(2, name=name)
    with pytest.raises(InvalidObjectError):
        client.put_name(oid, name)
    assert client.status().objects == 1
    assert client.list_names() == {}
    with pytest.raises(VineyardArrowError):
        client.drop_name(name)
    with pytest.raises(VineyardArrowError):
        client.get_name(name, wait=True, timeout_s=0.001)


@pytest.mark.parametrize(
    "name", ["x" * 4096, "é" * 2048, "a\0b", " ", "日本/語", "\U0001f377", "*"]
)
def test_odd_names(client: Client, name: str) -> None:
    oid = client.put(1, name=name)
    assert client.get(name) == 1
    assert client.get_name(name) == oid
    assert client.list_names() == {name: oid}
    assert not client.exists(name + "x")
    client.drop_name(name)
    assert not client.exists(name)


def test_many_names(client: Client) -> None:
    ids = client.put_many(range(1000), names=[f"n{i}" for i in range(1000)])
    assert [client.get_name(f"n{i}") for i in range(1000)] == ids
    for i in range(0, 1000, 2):
        client.drop_name(f"n{i}")
    assert [client.exists(f"n{i}") for i in range(1000)] == [False, True] * 500
    assert [client.get(f"n{i}") for i in range(1, 1000, 2)] == list(range(1, 1000, 2))


# ---- the store as a whole


def test_status(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon("--memory-limit", "1GiB", "--pages", "small")  # others tell lies in theirs
    with daemon.connect() as client:
        client.put_many([table_of(), 1], names=["a", None])
        status = client.status()
        assert status.pid == daemon.pid
        assert status.version == vineyard_arrow.__version__
        assert (status.objects, status.names) == (2, 1)
        assert status.memory_limit == 1 << 30
        assert status.memory_used <= status.memory_charged <= status.memory_limit
        assert status.memory_committed >= status.memory_used > 8 * ROWS
        assert status.page_kind == "memfd"
        assert status.protection
        (own,) = status.clients
        assert (own.pid, own.pins) == (os.getpid(), 0)
        table = client.get("a")
        assert client.status().clients[0].pins == 1
        assert table.num_rows == ROWS
        del table
        assert client.status().clients[0].pins == 0
        assert {s.kind for s in status.segments} == {"catalog", "lease"}
        before = client.status()
        client.put(table_of())
        after = client.status()
        assert after.copied - before.copied == 8 * ROWS
        assert after.puts - before.puts == 1


def test_clear(client: Client) -> None:
    client.put_many([table_of(), 1], names=["a", "b"])
    held = client.get("a")
    client.clear()
    assert (client.list_objects(), client.list_names()) == ([], {})
    assert client.status().deleted_pinned == 1
    assert held.equals(table_of())
    client.clear()
    del held
    assert client.status().memory_used == 0


def test_memory_trim(client: Client) -> None:
    client.delete(client.put(table_of()))
    assert client.status().memory_committed >= 8 * ROWS
    client.memory_trim()
    assert client.status().memory_committed < 8 * ROWS


def test_a_closed_client(daemon: Daemon) -> None:
    with daemon.connect() as client:
        table = client.get(client.put(table_of()))
        assert "instance" in repr(client)
    assert "closed" in repr(client)
    client.close()
    assert table.equals(table_of())
    for use in (
        lambda: client.put(1),
        lambda: client.get(1),
        lambda: client.status(),
        lambda: client.memory_pool,
        lambda: client.create_blob(1),
        lambda: client.list_objects(),
        lambda: client.instance,
    ):
        with pytest.raises(VineyardArrowError, match="closed"):
            use()
    assert [c.pins for c in daemon.status().clients] == [1]
    del table
    until(lambda: not daemon.status().clients)


def test_clients_of_a_process_share_one_attachment(daemon: Daemon) -> None:
    first, second = daemon.connect(), daemon.connect()
    assert first._a is second._a
    oid = first.put(1)
    assert len(daemon.status().clients) == 1
    first.close()
    assert second.get(oid) == 1
    second.close()
    until(lambda: not daemon.status().clients)


def test_two_daemons_at_once(client: Client, make_daemon: Callable[..., Daemon]) -> None:
    with make_daemon(*SMALL).connect() as other:
        assert other.instance != client.instance
        here = client.put(table_of(1), name="x")
        table = client.get(here)
        there = other.put(table, name="x")
        assert other.get_meta(there).copied == table.nbytes
        client.delete(here)
        del table
        assert other.get("x").equals(table_of(1))
        with pytest.raises(ObjectNotFoundError):
            client.get(there)
        with pytest.raises(ObjectNotFoundError):
            other.get(here)
        with client.memory_pool:
            built = pa.array([1] * ROWS)
        assert other.get_meta(other.put(built)).copied == built.nbytes


# ---- connecting


@pytest.fixture
def own_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="va-") as folder:
        yield Path(folder)


def stop(socket: Path) -> None:
    """Stop the daemon at a socket, if there is one."""
    try:
        connection = Connection.open(socket, DEADLINE_S)
    except OSError:
        return
    pid = connection.request(p.GetStatus())[0].pid
    connection.close()
    Daemon(socket, pid).kill()


CONNECT = """
import sys
from vineyard_arrow.client import connect
with connect(sys.argv[1]) as client:
    client.put(1, name=sys.argv[2])
    print(client.status().pid)
"""


def test_processes_that_connect_at_once_start_one_daemon(own_folder: Path) -> None:
    socket = own_folder / "at-once"
    options = {"VINEYARD_ARROW_MEMORY_LIMIT": "64MiB", "VINEYARD_ARROW_PAGES": "small"}
    try:
        with ThreadPoolExecutor() as pool:
            made = [pool.submit(python, CONNECT, socket, f"n{i}", **options) for i in range(4)]
            pids = {m.result(60) for m in made}
        assert len(pids) == 1
        with connect(str(socket), autostart=False) as client:
            assert sorted(client.list_names()) == ["n0", "n1", "n2", "n3"]
            status = client.status()
            assert (status.memory_limit, status.page_kind) == (64 << 20, "memfd")
    finally:
        stop(socket)


def test_no_daemon_and_none_wanted(own_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"no daemon listens.*vineyard-arrow start"):
        connect(str(own_folder / "s"), autostart=False)
    assert list(own_folder.iterdir()) == []


def test_a_daemon_that_cannot_start_says_why(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VINEYARD_ARROW_MEMORY_LIMIT", "1000TiB")
    with pytest.raises(ConfigError, match=r"1000 TiB.*are available"):
        connect(str(own_folder / "s"))
    monkeypatch.delenv("VINEYARD_ARROW_MEMORY_LIMIT")
    (own_folder / "file").write_text("")
    with pytest.raises((ConfigError, OSError)):
        connect(str(own_folder / "file"))


def test_settings_from_environment_and_file(
    daemon: Daemon, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VINEYARD_ARROW_SOCKET", str(daemon.socket))
    with vineyard_arrow.connect() as client:
        assert client.status().pid == daemon.pid
    monkeypatch.delenv("VINEYARD_ARROW_SOCKET")
    config = own_folder / "config.toml"
    config.write_text(f'socket = "{daemon.socket}"\nautostart = false\ntimeout_s = 7\n')
    monkeypatch.setenv("VINEYARD_ARROW_CONFIG", str(config))
    with vineyard_arrow.connect() as client:
        assert client.status().pid == daemon.pid
        assert client._a.timeout_s == 7
    with pytest.raises(ConfigError, match="no daemon listens"):
        vineyard_arrow.connect(own_folder / "s")
    config.write_text("sockets = 1")
    with pytest.raises(ConfigError, match="sockets is no setting"):
        vineyard_arrow.connect()
    with pytest.raises(ConfigError, match="timeout_s"):
        vineyard_arrow.connect(daemon.socket, timeout_s=-1)
    with pytest.raises(TypeError):
        vineyard_arrow.connect(daemon.socket, sockets=1)


@pytest.fixture
def no_default(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(vineyard_arrow, "_default", None)
    yield
    if vineyard_arrow._default is not None:
        vineyard_arrow._default.close()


def test_the_default_client(
    daemon: Daemon, no_default: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VINEYARD_ARROW_SOCKET", str(daemon.socket))
    oid = vineyard_arrow.put(table_of(), name="x")
    assert vineyard_arrow.get(oid).equals(table_of())
    assert vineyard_arrow.get("x", mode="copy").equals(table_of())
    assert vineyard_arrow.default_client() is vineyard_arrow.default_client()
    vineyard_arrow.delete("x")
    with pytest.raises(LookupError):
        vineyard_arrow.get(oid)
    vineyard_arrow.default_client().close()
    assert vineyard_arrow.get(vineyard_arrow.put(1)) == 1


# ---- a daemon that dies


def test_a_killed_daemon_is_an_error_at_once(
    make_daemon: Callable[..., Daemon], asked: threading.Semaphore
) -> None:
    daemon = make_daemon(*SMALL)
    client = daemon.connect(timeout_s=1000)  # whatever waits, waits too long for this test
    oid = client.put(table_of(), name="x")
    table, cow = client.get(oid), client.get(oid, mode="cow")
    built = pa.array([1] * ROWS, memory_pool=client.memory_pool)
    blob = client.create_blob(1 << 20)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(client.get_name, "never", wait=True)
        for _ in range(2):
            assert asked.acquire(timeout=DEADLINE_S)
        daemon.kill()
        with pytest.raises(ConnectionLostError):
            waiting.result(DEADLINE_S)
    for use in (
        lambda: client.get(oid),
        lambda: client.get("x"),
        lambda: client.get("x", timeout_s=1000),
        lambda: client.put(1),
        lambda: client.put(built),
        lambda: client.put(1, seal="strict"),
        lambda: client.put_many([1, 2]),
        lambda: client.delete(oid),
        lambda: client.exists(oid),
        lambda: client.get_meta(oid),
        lambda: client.get_name("y", wait=True, timeout_s=1000),
        lambda: client.list_objects(),
        lambda: client.status(),
        lambda: client.create_blob(40 << 20),
        lambda: blob.seal(),
        lambda: client.clear(),
        lambda: client.memory_trim(),
    ):
        with pytest.raises(ConnectionLostError):
            use()
    with pytest.raises(MemoryError, match="daemon is gone"):
        pa.allocate_buffer(63 << 20, memory_pool=client.memory_pool)
    with pytest.raises(ConfigError, match="no daemon listens"):
        daemon.connect()
    assert table.equals(table_of())
    assert cow.equals(table_of())
    assert built.equals(pa.array([1] * ROWS))
    client.close()
    assert table.equals(table_of())


@pytest.mark.usefixtures("no_default")
def test_the_socket_of_a_dead_daemon_is_replaced(
    folder: Path, make_daemon: Callable[..., Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = make_daemon(*SMALL)
    monkeypatch.setenv("VINEYARD_ARROW_SOCKET", str(dead.socket))
    table = vineyard_arrow.get(vineyard_arrow.put(table_of()))
    old = dead.connect()
    dead.kill()
    assert dead.socket.is_socket()
    fresh = run_daemon(folder, dead.socket.name, *SMALL)
    try:
        assert vineyard_arrow.get(vineyard_arrow.put(2)) == 2
        with fresh.connect() as client:
            assert client.status().pid == fresh.pid
            assert client.instance != old.instance
            assert client.get(client.put(table)).equals(table_of())
            with pytest.raises(ConnectionLostError):
                old.put(1)
            old.close()
            with pytest.raises(ConfigError, match="already serving"):
                run_daemon(folder, dead.socket.name, *SMALL)
            assert client.status().pid == fresh.pid
        assert table.equals(table_of())
    finally:
        vineyard_arrow.default_client().close()
        fresh.kill()


# ---- other users


def as_nobody(function: Callable[[], Any], group: int = NOBODY) -> Any:
    def change() -> Any:
        os.setgroups([])
        os.setresgid(group, group, group)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        os.environ["HOME"] = "/nonexistent"
        return function()

    return in_child(change)


@pytest.fixture
def open_folder(own_folder: Path) -> Path:
    """A folder that any user can enter."""
    own_folder.chmod(0o755)
    return own_folder


root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@root_only
def test_another_user_is_refused(open_folder: Path) -> None:
    daemon = run_daemon(open_folder, "s", *SMALL)
    try:

        def attempt() -> str:
            with pytest.raises(AccessDeniedError) as caught:
                daemon.connect()
            return str(caught.value)

        assert "may not connect" in as_nobody(attempt)
        daemon.socket.chmod(0o666)  # then the daemon itself looks at who it is
        assert f"not to user {NOBODY}" in as_nobody(attempt)
        with daemon.connect() as client:
            assert client.get(client.put(1)) == 1
    finally:
        daemon.kill()


@root_only
def test_a_group_is_let_in(open_folder: Path) -> None:
    daemon = run_daemon(open_folder, "s", *SMALL, "--mode", "0660", "--group", "54321")
    try:

        def work() -> int:
            with daemon.connect() as client:
                assert client.get("x").equals(table_of())
                built = pa.array([1] * ROWS, memory_pool=client.memory_pool)
                return int(client.put(built))

        def attempt() -> str:
            with pytest.raises(AccessDeniedError) as caught:
                daemon.connect()
            return str(caught.value)

        with daemon.connect() as client:
            client.put(table_of(), name="x")
        oid = as_nobody(work, 54321)
        assert "may not connect" in as_nobody(attempt)
        with daemon.connect() as client:
            assert client.get(oid).equals(pa.array([1] * ROWS))
    finally:
        daemon.kill()


# ---- object ids


def test_object_ids() -> None:
    oid = ObjectID("o00000a0000000bff")
    assert oid == ObjectID(oid) == ObjectID(int(oid)) == int(oid)
    assert (str(oid), repr(oid)) == ("o00000a0000000bff", "ObjectID('o00000a0000000bff')")
    assert f"{oid}|{oid:>20}" == "o00000a0000000bff|   o00000a0000000bff"
    assert "%s" % oid == str(oid)  # noqa: UP031
    assert oid.instance == 0xA
    assert {oid: 1}[int(oid)] == 1
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(oid, protocol))
        assert (again, type(again)) == (oid, ObjectID)
    assert sorted([ObjectID(3), ObjectID(1)]) == [1, 3]
    for wrong in (
        "",
        "o",
        "00000a0000000bff1",
        "o00000a0000000bfg",
        "o00000a0000000bf",
        -1,
        1 << 64,
    ):
        with pytest.raises(ValueError, match="not an object id"):
            ObjectID(wrong)


@pytest.mark.parametrize("text", ["o+0000a0000000bff", "o0x000a0000000bff", "o0000_a000000bff1"])
def test_object_ids_are_hexadecimal_digits_only(text: str) -> None:
    with pytest.raises(ValueError, match="not an object id"):
        ObjectID(text)


# ---- the import

IMPORTS = """
import sys, pyarrow
before = set(sys.modules)
import vineyard_arrow, os
print(*sorted(set(sys.modules) - before))
print(len(os.listdir("/proc/self/task")), *os.listdir("/proc/self/fd"))
"""


def test_the_import_is_light() -> None:
    modules, _ = python(IMPORTS).splitlines()
    ours = {m.partition(".")[0] for m in modules.split()} - sys.stdlib_module_names
    assert ours == {"vineyard_arrow"}
    assert "vineyard_arrow.client" not in modules.split()
    assert not {"asyncio", "socket", "subprocess"} & set(modules.split())


def test_the_import_starts_nothing() -> None:
    _, found = python(IMPORTS).splitlines()
    plain = python(IMPORTS.replace("import vineyard_arrow, os", "import os")).splitlines()[1]
    assert found == plain


@pytest.mark.parametrize("name", [5, b"x", ("a",)])
def test_a_name_that_is_no_string(client: Client, name: Any) -> None:
    for call in (
        lambda: client.put(1, name=name),
        lambda: client.put_many([1], names=[name]),
        lambda: client.get_name(name),
        lambda: client.drop_name(name),
    ):
        with pytest.raises(InvalidObjectError, match="a name is a str"):
            call()
    assert client.get(client.put(1)) == 1


def test_a_name_like_an_id_is_refused(client: Client) -> None:
    oid = client.put(1)
    with pytest.raises(InvalidObjectError, match="form of an object id"):
        client.put(2, name=str(oid))
    assert client.get(str(oid)) == 1


def test_a_socket_in_a_folder_that_is_not_there(folder: Path) -> None:
    with pytest.raises(ConfigError, match="cannot start"):
        connect(str(folder / "missing" / "socket"))
    assert not (folder / "missing").exists()


def test_an_id_of_another_instance_says_so(client: Client) -> None:
    with pytest.raises(ObjectNotFoundError, match="another instance"):
        client.get(ObjectID((client.instance ^ 1) << 40))


def test_an_extension_type_registered_after_a_first_look(client: Client) -> None:
    code = """
import sys
import pyarrow as pa
from vineyard_arrow.client import connect

class Metres(pa.ExtensionType):
    def __init__(self):
        super().__init__(pa.int32(), "tests.metres")
    def __arrow_ext_serialize__(self):
        return b""
    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type, serialized):
        return cls()

client = connect(sys.argv[1], autostart=False)
plain = client.get("metres").schema.field(0).type
pa.register_extension_type(Metres())
print(plain, client.get("metres").schema.field(0).type == Metres())
"""
    schema = pa.schema(
        [
            pa.field(
                "x",
                pa.int32(),
                metadata={
                    b"ARROW:extension:name": b"tests.metres",
                    b"ARROW:extension:metadata": b"",
                },
            )
        ]
    )
    client.put(pa.table([[1, 2]], schema=schema), name="metres")
    assert python(code, client._a.socket).split() == ["int32", "True"]


def test_arguments_of_a_wrong_type_are_not_sent(client: Client, daemon: Daemon) -> None:
    key = client.put(1)
    calls: list[tuple[str, Callable[[], Any]]] = [
        ("pattern: expected str, got int", lambda: client.list_objects(5)),
        ("limit: expected int, got str", lambda: client.list_objects("*", limit="5")),
        ("limit: can't serialize", lambda: client.list_objects("*", limit=1 << 70)),
        ("labels: got object", lambda: client.list_objects("*", labels=object())),
        ("signature: expected int", lambda: client.list_objects("*", signature="x")),
        ("pattern: expected str", lambda: client.list_names(5)),
        ("pattern: expected str", lambda: client.list_streams(5)),
        ("labels: expected str, got int", lambda: client.label(key, {"a": 1})),
        ("labels: expected", lambda: client.label(key, 5)),
        ("force: expected bool", lambda: client.delete(key, force="yes")),
        ("timeout_s is a number", lambda: client.get("absent", timeout_s="1")),
        ("timeout_s is a number", lambda: client.get_name("absent", wait=True, timeout_s="1")),
        ("timeout_s is a number", lambda: client.open_stream("absent", timeout_s="1")),
        ("this int makes no schema", lambda: client.create_stream(5)),
        ("this dict makes no schema", lambda: client.create_stream({"a": "int"})),
        ("keep: expected bool", lambda: client.create_stream(pa.schema([]), keep="no")),
        ("nbytes is an int", lambda: client.create_blob("5")),
    ]
    for said, call in calls:
        with pytest.raises(InvalidObjectError, match=said):
            call()
    assert client.get(key) == 1
    assert client.list_objects("*", limit=np.int64(1), signature=key)[0].id == key
    with pytest.raises(DeadlineExceededError):
        client.get("absent", timeout_s=np.float32(0.01))
    assert not client.list_streams()


def test_hints_of_names(client: Client) -> None:
    for name in ("flights", "airports"):
        client.put(1, name=name)
    with pytest.raises(ObjectNotFoundError, match=r"nearest: 'flights'; get\(\.\.\., timeout_s=\)"):
        client.get("fligths")
    client.put(1, name="fligths/2")
    with pytest.raises(ObjectNotFoundError, match="nearest: 'fligths/2', 'flights'"):
        client.get("fligths")
    with pytest.raises(ObjectNotFoundError, match="nearest: 'airports'"):
        client.drop_name("airport")
    with pytest.raises(ObjectExistsError, match="overwrite=True"):
        client.put(1, name="flights")
    with client.create_stream(pa.schema([]), name="live") as writer:
        for key in ("live", writer.id):
            with pytest.raises(ObjectNotFoundError, match=rf"'{key}' is a stream: open_stream"):
                client.get(key)
        with pytest.raises(ObjectNotFoundError, match="nearest: 'live'"):
            client.open_stream("alive")
    client.drop_stream(writer.id)


def test_hints_of_streams(client: Client) -> None:
    oid = client.put(1, name="flights")
    for key in ("flights", str(oid)):
        with pytest.raises(ObjectNotFoundError, match=rf"'{key}' is an object: get\('{key}'\)"):
            client.open_stream(key)
    with pytest.raises(ObjectNotFoundError, match=rf"'{oid}' is an object"):
        client.open_stream(oid)
    with pytest.raises(ObjectNotFoundError, match=r"timeout_s=\) waits"):
        client.open_stream("later")
    with pytest.raises(ObjectNotFoundError, match="goes with its last reader"):
        client.open_stream(int(oid) + 1000)


def test_what_is_larger_than_the_store_says_so(client: Client) -> None:
    with pytest.raises(StoreFullError, match="larger than the store"):
        client.create_blob(2 << 30)
    with pytest.raises(StoreFullError, match="larger than the store"):
        client.put(pa.py_buffer(np.zeros(1 << 31, np.uint8)))


def test_a_typename_is_listed_with_and_without_its_prefix(client: Client) -> None:
    key = client.put(table_of())
    for pattern in ("table", "vineyard.table", "t?ble"):
        assert [m.id for m in client.list_objects(pattern)] == [key]


def test_reprs(client: Client) -> None:
    blob = client.create_blob(1000)
    assert repr(blob) == "<Blob of 1,000 bytes, not sealed>"
    blob.drop()
    assert repr(blob) == "<Blob, sealed or dropped>"
    key = client.put(pa.array([1, 2]), name="pair")
    assert repr(client.get_meta(key)) == f"<ObjectMeta {key} vineyard.array 16 bytes 'pair'>"
    with client.create_stream(pa.schema([])) as writer, client.open_stream(writer.id) as reader:
        assert repr(writer) == f"<StreamWriter {writer.id}: 0 batches written>"
        assert repr(reader) == f"<StreamReader {writer.id}: at batch 0>"
