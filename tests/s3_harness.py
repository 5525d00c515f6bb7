"""A real server of S3, as a process of its own, and new buckets on it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vineyard_arrow.metadata.etcd.server import free_ports

START_S = 60.0
KEY, SECRET = "AKIDEXAMPLE", "hush/hush+hush"
_buckets = iter(range(1000))


@contextlib.contextmanager
def serving(**settings: str) -> Iterator[str]:
    """The endpoint of a server that is a process of its own."""
    (port,) = free_ports(1)
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1"]
    with subprocess.Popen(
        [*command, "-p", str(port)],
        env=os.environ | settings,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        endpoint = f"http://127.0.0.1:{port}"
        try:
            _await(process, endpoint)
            yield endpoint
        finally:
            process.kill()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving() as endpoint:
        yield endpoint


def _await(process: Any, endpoint: str) -> None:
    deadline = time.monotonic() + START_S
    while True:
        assert process.poll() is None, "moto does not start"
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{endpoint}/moto-api/").close()
            return
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A new bucket, with endpoint and keys in the environment."""
    for name in [n for n in os.environ if n.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    name = f"bucket-{next(_buckets)}"
    request = urllib.request.Request(f"{server}/{name}", method="PUT")
    urllib.request.urlopen(request).close()
    return name
