"""Starting a daemon, and connecting to one."""

from __future__ import annotations

import statistics
import subprocess
import sys

import peers
import pytest
from measure import paired, ratio_of, report, seconds, time_of
from stores import start_store, stop

pytestmark = pytest.mark.benchmark(group="start")


def test_daemon(benchmark, stores, tmp_path_factory, monkeypatch):
    # As where it was installed: nobody compiles at each start.
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path_factory.mktemp("bytecode")))
    socket = str(tmp_path_factory.mktemp("s") / "s.sock")
    pids = []

    def start() -> float:
        taken = seconds(lambda: pids.append(start_store(socket)))
        stop(pids.pop())
        return taken

    def import_pyarrow() -> float:
        return seconds(subprocess.check_call, [sys.executable, "-c", "import pyarrow"])

    start()  # this once they are compiled
    ours, theirs = paired(benchmark, start, import_pyarrow, rounds=7)
    extra = statistics.median([a - b for a, b in zip(ours, theirs, strict=True)])
    report(
        benchmark,
        f"daemon up ({time_of(ours)}) less `import pyarrow` ({time_of(theirs)}) / 0.2 s",
        time_of(extra),
        "200 ms",
        extra / 0.2,
        "<= 1",
    )


def test_connect(benchmark, store, echo, peer):
    def connect() -> float:
        return statistics.median(peer.call(peers.connect_times, store.socket, 10))

    ours, trips = paired(benchmark, connect, echo.p50, rounds=5)
    report(
        benchmark,
        "connect, imports done / round trip",
        time_of(ours),
        time_of(trips),
        ratio_of(ours, trips),
        "<= 20",
    )
