"""The dashboard: what it says over HTTP, and whom it refuses."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import DEADLINE_S, Daemon, check_clean, run_daemon

from vineyard_arrow import ConfigError
from vineyard_arrow.client import Client
from vineyard_arrow.config import daemon_config
from vineyard_arrow.dashboard.server import CONNECTIONS, is_ours
from vineyard_arrow.ipc import protocol as p

OPTIONS = ("--memory-limit", "256MiB", "--pages", "small", "--dashboard", "127.0.0.1:0")


@pytest.fixture(scope="module")
def shown(folder: Path) -> Iterator[Daemon]:
    daemon = run_daemon(folder, "dashboard", *OPTIONS)
    yield daemon
    daemon.stop(signal.SIGTERM)


@pytest.fixture
def client(shown: Daemon) -> Iterator[Client]:
    get(shown, "/figures.json")
    fds = shown.fds
    with shown.connect() as client:
        yield client
    check_clean(shown, fds)


def ask(
    daemon: Daemon, path: str, method: str = "GET", headers: dict[str, str] | None = None
) -> tuple[HTTPResponse, str]:
    connection = HTTPConnection(daemon.status().dashboard, timeout=60)
    try:
        connection.request(method, path, headers=headers or {})
        reply = connection.getresponse()
        return reply, reply.read().decode()
    finally:
        connection.close()


def get(daemon: Daemon, path: str) -> str:
    reply, text = ask(daemon, path)
    assert reply.status == 200, text
    return text


def figures(daemon: Daemon, until: Any = lambda seen: True) -> dict[str, Any]:
    deadline = time.monotonic() + 3 * DEADLINE_S
    while True:
        seen = json.loads(get(daemon, "/figures.json"))
        if until(seen):
            return seen
        assert time.monotonic() < deadline, seen


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=60).close()
    except urllib.error.HTTPError:  # without the daemon, and about to end
        return True
    except OSError:
        return False
    return True


class TestFigures:
    def test_objects_and_who_holds_them(self, shown: Daemon, client: Client) -> None:
        key = client.put(pa.table({"x": np.arange(100_000)}), name="table")
        held = client.get("table")
        seen = figures(shown, lambda d: any(o["pinned_by"] for o in d["objects"]))
        (one,) = seen["objects"]
        assert (one["id"], one["names"], one["kind"]) == (str(key), ["table"], "table")
        assert one["pinned_by"] == [os.getpid()]
        assert one["here"]
        assert [c["pid"] for c in seen["status"]["clients"]] == [os.getpid()]
        mine = [e for e in seen["extents"] if str(key) in e[2]]
        assert sum(nbytes for _, nbytes, _ in mine) == one["stored"] >= 800_000
        del held

    def test_streams_and_their_readers(self, shown: Daemon, client: Client) -> None:
        batch = pa.record_batch({"t": [1, 2, 3]})
        with client.create_stream(batch.schema, name="ticks") as writer:
            writer.write(batch)
            seen = figures(shown, lambda d: d["streams"] and d["streams"][0]["batches"])
            assert seen["streams"][0]["name"] == "ticks"
            assert seen["streams"][0]["pid"] == os.getpid()
        client.drop_stream("ticks")

    def test_the_instance_is_told(self, shown: Daemon) -> None:
        assert [i["pid"] for i in figures(shown)["instances"]] == [shown.pid]

    def test_largest_extents_come_in_order_of_place(self, shown: Daemon, client: Client) -> None:
        for n in (1, 3, 2):
            client.put(np.zeros(n * 100_000))
        reply = shown.request(p.ListExtents(2))
        assert isinstance(reply, p.Extents)
        assert reply.total == 3
        assert [nbytes // 800_000 for _, nbytes, _ in reply.extents] == [3, 2]
        assert shown.request(p.ListExtents(-1)).extents == []  # type: ignore[attr-defined]


class TestMetrics:
    def test_format(self, shown: Daemon, client: Client) -> None:
        client.put(np.zeros(1000))
        reply, text = ask(shown, "/metrics")
        assert reply.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        values = {}
        lines = text.splitlines()
        assert text.endswith("\n")
        for about, kind, sample in zip(lines[::3], lines[1::3], lines[2::3], strict=True):
            name = re.fullmatch(r"# HELP (vineyard_arrow_[a-z_]+) \S.*", about)[1]  # type: ignore[index]
            typed = "counter" if name.endswith("_total") else "gauge"
            assert kind == f"# TYPE {name} {typed}"
            found = re.fullmatch(name + r'(?:\{\w+="[^"]*"(?:,\w+="[^"]*")*\})? (\S+)', sample)
            assert found, sample
            values[name.removeprefix("vineyard_arrow_")] = float(found[1])
        assert values["memory_limit_bytes"] == 256 << 20
        assert values["objects"] == 1
        assert values["puts_total"] >= 1
        assert values["clients"] == 1


class TestRefusals:
    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "NONSENSE"])
    def test_only_get(self, shown: Daemon, method: str) -> None:
        reply, _ = ask(shown, "/figures.json", method)
        assert (reply.status, reply.headers["Allow"]) == (405, "GET")

    def test_names_of_others(self, shown: Daemon) -> None:
        for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "[", "@", ""):
            assert ask(shown, "/figures.json", headers={"Host": host})[0].status == 403, host
        for host in ("localhost", "LOCALHOST:1", "127.0.0.1:80", "[::1]:80", "10.0.0.1"):
            assert ask(shown, "/figures.json", headers={"Host": host})[0].status == 200, host
        assert not is_ours("127.0.0.1@evil.example", frozenset())

    def test_what_is_not_there(self, shown: Daemon) -> None:
        for path in ("/nothing", "/../server.py", "/%2e%2e/server.py", "//etc/passwd"):
            assert ask(shown, path)[0].status == 404, path

    def test_headers(self, shown: Daemon) -> None:
        for path in ("/", "/script.js", "/figures.json", "/metrics", "/nothing"):
            headers = ask(shown, path)[0].headers
            assert headers["Content-Security-Policy"].startswith("default-src 'none'")
            assert headers["X-Content-Type-Options"] == "nosniff"

    def test_other_machines_only_if_that_is_meant(self) -> None:
        with pytest.raises(ConfigError, match="would show everybody"):
            daemon_config(dashboard="0.0.0.0:8080")
        config = daemon_config(dashboard="0.0.0.0:8080", dashboard_open=True)
        assert config.dashboard == ("0.0.0.0", 8080)

    def test_silent_and_garbage_clients_are_cut_off(self, shown: Daemon) -> None:
        host, port = shown.status().dashboard.split(":")
        with contextlib.ExitStack() as stack:

            def opened() -> socket.socket:
                return stack.enter_context(socket.create_connection((host, int(port)), timeout=60))

            garbage = opened()
            garbage.sendall(os.urandom(1 << 12) + b"\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                while garbage.recv(1 << 16):
                    pass
            silent = [opened() for _ in range(2 * CONNECTIONS)]
            for each in silent:  # those too many at once, the others when their time is over
                with contextlib.suppress(ConnectionError):
                    assert each.recv(1) == b""
        assert figures(shown)


class TestProcess:
    def test_a_taken_port_is_an_error(self, shown: Daemon, folder: Path) -> None:
        options = (*OPTIONS[:-1], shown.status().dashboard)
        with pytest.raises(ConfigError, match="cannot listen"):
            run_daemon(folder, "taken", *options)

    def test_it_comes_back(self, folder: Path) -> None:
        daemon = run_daemon(folder, "killed", *OPTIONS)
        try:
            place = daemon.status().dashboard
            path = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children")
            (pid,) = map(int, path.read_text().split())
            os.kill(pid, signal.SIGKILL)
            deadline = time.monotonic() + 3 * DEADLINE_S
            while daemon.status().dashboard == place and path.read_text().split() == [str(pid)]:
                assert time.monotonic() < deadline
            while daemon.status().dashboard != place:
                assert time.monotonic() < deadline
            assert figures(daemon)["status"]["pid"] == daemon.pid
        finally:
            daemon.stop(signal.SIGTERM)

    def test_it_ends_with_the_daemon(self, folder: Path) -> None:
        daemon = run_daemon(folder, "ended", *OPTIONS)
        url = f"http://{daemon.status().dashboard}/metrics"
        with urllib.request.urlopen(url, timeout=60) as reply:
            assert reply.status == 200
        daemon.kill()
        deadline = time.monotonic() + 3 * DEADLINE_S
        while answers(url):
            assert time.monotonic() < deadline
