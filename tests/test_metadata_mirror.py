"""How long the list of a mirror may take: any time, as long as pages come."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from metadata_conformance import WAIT_S, put

from vineyard_arrow.errors import MetadataUnavailableError
from vineyard_arrow.metadata.backend import Snapshot
from vineyard_arrow.metadata.embedded import EmbeddedBackend
from vineyard_arrow.metadata.mirror import PAGE_S, Mirror

KEYS = [f"/{i}" for i in range(5)]


class Paged(EmbeddedBackend):
    """Lists one key a page, each when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.let = threading.Semaphore(0)
        self.timeouts: list[float] = []

    def pages(self, prefix: str, timeout_s: float = 5.0) -> Iterator[Snapshot]:
        self.timeouts.append(timeout_s)
        listed = self.range(prefix, prefix=True)
        for item in listed.items:
            assert self.let.acquire(timeout=WAIT_S)
            yield Snapshot((item,), listed.revision)
        assert self.let.acquire(timeout=WAIT_S)


@pytest.fixture
def backend() -> Iterator[Paged]:
    backend = Paged()
    for key in KEYS:
        backend.commit(put(key))
    yield backend
    backend.close()


@pytest.fixture
def mirror(backend: Paged) -> Iterator[Mirror]:
    mirror = Mirror(backend, "/")
    yield mirror
    backend.let.release(len(KEYS) + 1)
    mirror.close()


def test_a_list_that_stands_still_is_told(backend: Paged, mirror: Mirror) -> None:
    with pytest.raises(MetadataUnavailableError, match=r"not listed within 0\.2 s"):
        mirror.wait_listed(0.2)


def test_each_page_gives_more_time(backend: Paged, mirror: Mirror, monkeypatch) -> None:
    """By a clock of the test's: all takes five times as long as is given without a page."""
    now = 1000.0
    monkeypatch.setattr("vineyard_arrow.metadata.mirror.time.monotonic", lambda: now)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(mirror.wait_listed, 10.0)
        for page in range(len(KEYS)):
            now += 9.0
            backend.let.release()
            while mirror._paged != now:
                assert not waiting.done(), page
            assert mirror.snapshot().items == ()  # all or nothing
        backend.let.release()  # to see that there is no more
        waiting.result(WAIT_S)
    assert [item.key for item in mirror.snapshot().items] == KEYS
    assert backend.timeouts == [PAGE_S]


def test_who_waits_for_a_list_is_told_of_its_end(backend: Paged, mirror: Mirror) -> None:
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(mirror.wait_listed, 1000.0)
        closing = pool.submit(mirror.close)
        with pytest.raises(MetadataUnavailableError):
            waiting.result(WAIT_S)
        backend.let.release()  # the page under way is the last
        closing.result(WAIT_S)
    mirror._thread.join(WAIT_S)
    assert not mirror._thread.is_alive()
    assert mirror.snapshot().items == ()
