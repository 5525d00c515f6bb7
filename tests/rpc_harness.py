"""Daemons that serve over TCP, with a token and TLS where asked for."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme
from conftest import DEADLINE_S, Daemon, run_daemon

from vineyard_arrow.client import Client, connect

TOKEN = "a-token/of+visible=characters"


@dataclass
class Served:
    """A daemon that serves over TCP."""

    daemon: Daemon
    token: str | None = None
    tls_root_certs: bytes | None = None

    @property
    def address(self) -> str:
        return self.daemon.status().rpc

    def connect(self, **options: object) -> Client:
        options = {"token": self.token, "tls_root_certs": self.tls_root_certs} | options
        return connect(self.address, **options)

    @property
    def rpc_pid(self) -> int:
        """Of the process that serves."""
        (pid,) = [c.pid for c in self.daemon.status().clients if c.pid in self.children]
        return pid

    @property
    def children(self) -> set[int]:
        path = f"/proc/{self.daemon.pid}/task/{self.daemon.pid}/children"
        return set(map(int, Path(path).read_text().split()))


def serve(folder: Path, name: str, *options: str, token: bool = False, tls: bool = False) -> Served:
    """Start one; stop its `daemon` in the end."""
    more, certs = [], None
    if token:
        path = folder / f"{name}.token"
        path.write_text(TOKEN + "\n")
        more += ["--rpc-token-file", str(path)]
    if tls:
        authority = trustme.CA()
        certs = authority.cert_pem.bytes()
        issued = authority.issue_cert("localhost", "127.0.0.1")
        issued.private_key_pem.write_to_path(str(folder / f"{name}.key"))
        (folder / f"{name}.pem").write_bytes(b"".join(b.bytes() for b in issued.cert_chain_pems))
        more += [
            "--rpc-cert-file",
            f"{folder}/{name}.pem",
            "--rpc-key-file",
            f"{folder}/{name}.key",
        ]
    daemon = run_daemon(folder, name, "--pages", "small", "--rpc", "127.0.0.1:0", *more, *options)
    return Served(daemon, TOKEN if token else None, certs)


@pytest.fixture(scope="module")
def shared_served(folder: Path) -> Iterator[Served]:
    """A daemon with a token and TLS."""
    name = f"served-{os.getpid()}"
    served = serve(folder, name, "--memory-limit", "512MiB", token=True, tls=True)
    yield served
    served.daemon.stop(signal.SIGTERM)


def until(true: Callable[[], Any]) -> Any:
    """Wait for what another process does, by asking the daemon again and again."""
    deadline = time.monotonic() + DEADLINE_S
    while not (found := true()):
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.002)
    return found


def check_empty(served: Served) -> None:
    """Fail unless nothing is left in the store, or held of it."""
    gc.collect()
    with served.daemon.connect() as client:
        client.clear()
        client.memory_trim()
    rpc = served.rpc_pid

    def is_empty() -> bool:
        s = served.daemon.status()  # what lines held goes soon after they end
        held = (s.objects, s.deleted_pinned, s.names, s.streams, s.memory_used)
        return not any(held) and [c.pid for c in s.clients] == [rpc]

    until(is_empty)


@pytest.fixture
def served(shared_served: Served) -> Iterator[Served]:
    """The module's daemon that serves over TCP, empty before and after."""
    yield shared_served
    check_empty(shared_served)
