"""Real daemons on sockets of their own; every test must leave its store empty."""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vineyard_arrow.client import Client, connect
from vineyard_arrow.ipc import protocol as p
from vineyard_arrow.ipc.connection import Connection
from vineyard_arrow.ipc.starter import start_daemon

if TYPE_CHECKING:
    from postgres import Postgres

    from vineyard_arrow.metadata.etcd.backend import EtcdBackend
    from vineyard_arrow.metadata.etcd.client import EtcdAddress
    from vineyard_arrow.metadata.etcd.server import EtcdServers

START_S = 60.0
DEADLINE_S = 60.0  # of whatever another process is to do


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-docs", action="store_true", help="write measured tables into docs/ anew"
    )


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Without collections of garbage: all that imports make stays, and is gone through in vain."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


# Files that take long, mostly by waiting: begun first, so that no worker is left with one of them.
LONGEST = (
    "test_demo_pipeline",
    "test_demo_cluster",
    "test_integrations_ray",
    "test_codegen_cpp",
    "test_integrations_dask",
    "test_cluster_partition",
    "test_cluster_clocks",
    "test_metadata_etcd_faults",
    "test_cluster_ends",
    "test_rpc",
    "test_cluster_access",
    "test_migration_remote",
    "test_docs",
    "test_cpp",
    "test_migration_faults",
    "test_graph_exchange",
    "test_metadata_etcd",
    "test_cluster_faults",
    "test_shared_memory",
    "test_stateful",
    "test_cli",
    "test_drivers_databases",
    "test_demo_graph",
    "test_notebook",
    "test_memory",
    "test_types_sparse",
    "test_outbox_processes",
    "test_graph_bsp",
    "test_export",
    "test_faults",
    "test_deploy",
    "test_rpc_cpp",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(ranks)))


@dataclass
class Daemon:
    """A daemon process of a test."""

    socket: Path
    pid: int

    def connect(self, **options: object) -> Client:
        return connect(str(self.socket), autostart=False, **options)

    def request(self, message: object) -> object:
        connection = Connection.open(self.socket, 10.0)
        try:
            return connection.request(message)[0]
        finally:
            connection.close()

    def status(self) -> p.Status:
        """Figures seen without attaching a client."""
        return self.request(p.GetStatus())

    @property
    def fds(self) -> int:
        """Descriptors of the daemon, once it has seen every connection that was closed."""
        connection = Connection.open(self.socket, 10.0)
        try:
            connection.request(p.GetStatus())
            connection.request(p.GetStatus())
            return len(os.listdir(f"/proc/{self.pid}/fd"))
        finally:
            connection.close()

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Kill it and wait until it is gone."""
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(self.pid)
            try:
                os.kill(self.pid, number)
                assert select.select([pidfd], [], [], DEADLINE_S)[0], "the daemon does not die"
            finally:
                os.close(pidfd)

    stop = kill


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """A short path: a socket's may have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="va-") as path:
        yield Path(path)


@pytest.fixture(scope="session", autouse=True)
def _default_store() -> Iterator[None]:
    """What a test starts by no client of its own is this process's alone, and ends with it."""
    with tempfile.TemporaryDirectory(prefix="va-") as folder, pytest.MonkeyPatch.context() as patch:
        socket = Path(folder, "default")
        patch.setenv("VINEYARD_ARROW_SOCKET", str(socket))
        yield
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):  # none was started
            daemon = Daemon(socket, 0)
            daemon.pid = daemon.status().pid
            daemon.stop()


def run_daemon(folder: Path, name: str, *options: str) -> Daemon:
    socket = folder / name
    arguments = ["--socket", str(socket), *options]
    return Daemon(socket, start_daemon(arguments, socket, START_S))


@pytest.fixture(scope="session")
def shared_daemon(folder: Path) -> Iterator[Daemon]:
    daemon = run_daemon(folder, "shared", "--memory-limit", "1GiB", "--pages", "small")
    yield daemon
    daemon.stop(signal.SIGTERM)


@pytest.fixture(scope="session")
def shared_huge_daemon(folder: Path) -> Iterator[Daemon]:
    daemon = run_daemon(folder, "huge", "--memory-limit", "2GiB", "--pages", "huge")
    yield daemon
    daemon.stop(signal.SIGTERM)


def check_clean(daemon: Daemon, fds: int) -> None:
    """Fail unless the store is empty: no bytes, no pins, no descriptors too many."""
    with daemon.connect() as client:
        client.clear()
    status = daemon.status()
    if status.clients or status.memory_charged or daemon.fds > fds:
        gc.collect()  # what cycles hold is no leak; mostly there is none
        deadline = time.monotonic() + 10  # until the daemon has seen what that has closed
        while status.clients or status.memory_charged or daemon.fds > fds:
            if time.monotonic() > deadline:
                break
            time.sleep(0.01)
            status = daemon.status()
    assert not status.clients
    assert (status.objects, status.deleted_pinned, status.names) == (0, 0, 0)
    assert (status.memory_used, status.memory_charged) == (0, 0)
    assert daemon.fds <= fds


@pytest.fixture
def daemon(shared_daemon: Daemon) -> Iterator[Daemon]:
    """The session's daemon, empty before and after."""
    fds = shared_daemon.fds
    yield shared_daemon
    check_clean(shared_daemon, fds)


@pytest.fixture
def huge_daemon(shared_huge_daemon: Daemon) -> Iterator[Daemon]:
    """The session's daemon on huge pages, empty before and after."""
    fds = shared_huge_daemon.fds
    yield shared_huge_daemon
    check_clean(shared_huge_daemon, fds)


@pytest.fixture(scope="module")
def other_daemon(request: pytest.FixtureRequest, folder: Path) -> Iterator[Daemon]:
    """A daemon beside the session's; of a module's ``OTHER_LIMIT``, if it has one."""
    limit = getattr(request.module, "OTHER_LIMIT", "512MiB")
    daemon = run_daemon(
        folder, f"other-{request.module.__name__}", "--memory-limit", limit, "--pages", "small"
    )
    yield daemon
    daemon.kill()


@pytest.fixture
def there(other_daemon: Daemon) -> Iterator[Client]:
    """A client of another store, which is empty before and after."""
    fds = other_daemon.fds
    with other_daemon.connect() as client:
        yield client
    check_clean(other_daemon, fds)


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    with daemon.connect() as client:
        yield client


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Kinds of the requests that connections make from here on."""
    made: list[str] = []
    request = Connection.request

    def counting(self: Connection, message: object, timeout_s: float | None = None) -> object:
        made.append(type(message).__name__)
        return request(self, message, timeout_s)

    monkeypatch.setattr(Connection, "request", counting)
    return made


@pytest.fixture
def make_daemon(folder: Path) -> Iterator[Callable[..., Daemon]]:
    """Start daemons of the test's own: ``make_daemon("--memory-limit", "64MiB")``."""
    made: list[Daemon] = []

    def make(*options: str) -> Daemon:
        name = f"own-{os.getpid()}-{make.count}"
        make.count += 1
        made.append(run_daemon(folder, name, *options))
        return made[-1]

    make.count = 0
    yield make
    for daemon in made:
        daemon.stop()
        for path in folder.glob(daemon.socket.name + "*"):
            path.unlink()


# So a single server elects itself at once, and gives leases of 1 s.
QUICK_ETCD = ("--unsafe-no-fsync", "--heartbeat-interval=10", "--election-timeout=100")
# The same, for one that mostly waits: each heartbeat takes time from the tests that run meanwhile.
IDLE_ETCD = ("--unsafe-no-fsync", "--heartbeat-interval=100", "--election-timeout=500")


@pytest.fixture(scope="session")
def etcd() -> Iterator[EtcdServers]:
    """One server for all tests that do it no harm."""
    from vineyard_arrow.metadata.etcd.server import EtcdServers

    with EtcdServers(options=IDLE_ETCD) as servers:
        yield servers


@pytest.fixture
def own_etcd(request: pytest.FixtureRequest) -> Iterator[EtcdServers]:
    """A server of the test's own; options by ``indirect``."""
    from vineyard_arrow.metadata.etcd.server import EtcdServers

    with EtcdServers(options=[*QUICK_ETCD, *getattr(request, "param", [])]) as servers:
        yield servers


@pytest.fixture
def connect_etcd() -> Iterator[Callable[[EtcdAddress], EtcdBackend]]:
    from vineyard_arrow.metadata.etcd.backend import EtcdBackend

    made: list[EtcdBackend] = []

    def make(address: EtcdAddress) -> EtcdBackend:
        made.append(EtcdBackend(address))
        return made[-1]

    yield make
    for each in made:
        each.close()


def stop_process(pid: int) -> None:
    """SIGSTOP, and wait until every thread stands still: until then it may still answer."""
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + DEADLINE_S
    while any(_state(task) not in "TtXZ" for task in Path(f"/proc/{pid}/task").iterdir()):
        assert time.monotonic() < deadline, f"process {pid} does not stop"


def _state(task: Path) -> str:
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that does nothing for as long as the block runs."""
    stop_process(pid)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


class Gate:
    """Something to wait for, across processes: opened once, by one of them."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()

    def open(self) -> None:
        os.write(self._write, b"x")

    def wait(self) -> None:
        assert select.select([self._read], [], [], DEADLINE_S)[0], "the gate stays shut"
        os.read(self._read, 1)

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)


@pytest.fixture
def make_gate() -> Iterator[Callable[[], Gate]]:
    gates: list[Gate] = []

    def make() -> Gate:
        gates.append(Gate())
        return gates[-1]

    yield make
    for gate in gates:
        gate.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server of PostgreSQL for all tests that ask for it."""
    from postgres import Postgres

    server = Postgres()
    yield server
    server.stop()
