"""What the tests of drivers share: that nothing is left after each, and the way in and out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pytest

from vineyard_arrow.client import Client


@pytest.fixture(autouse=True)
def nothing_left(client: Client) -> Iterator[None]:
    """No test leaves a stream, or memory that is not sealed; of the modules that import this."""
    yield
    end_scans()
    client.clear()
    assert not client.list_streams()
    assert gone(lambda: client.memory_pool.bytes_allocated() == 0)


def got(client: Client, url: str, **options: Any) -> pa.Table:
    return client.get(client.read(url, **options))


def end_scans() -> None:
    """Wait for the threads that scan."""
    for thread in threading.enumerate():
        if thread.name == "vineyard-arrow-scan":
            thread.join(60)
            assert not thread.is_alive()


def gone(true: Callable[[], bool]) -> bool:
    """Wait for it, for as long as a busy machine may take."""
    deadline = time.monotonic() + 60
    while not true() and time.monotonic() < deadline:
        time.sleep(0.01)
    return true()
