"""Metadata in the process, with and without a file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from metadata_conformance import MetadataConformance, fail, put
from metadata_members import MembersConformance

from vineyard_arrow.errors import (
    AccessDeniedError,
    ConfigError,
    MetadataCompactedError,
    MetadataFullError,
)
from vineyard_arrow.metadata import embedded
from vineyard_arrow.metadata.backend import Backend, Transaction
from vineyard_arrow.metadata.embedded import EmbeddedBackend


class TestEmbedded(MetadataConformance, MembersConformance):
    @pytest.fixture(params=["memory", "file"])
    def backend(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
        backend = EmbeddedBackend(tmp_path / "meta.db" if request.param == "file" else None)
        yield backend
        backend.close()

    @pytest.fixture
    def other(self, backend: Backend) -> Backend:
        return backend  # one daemon is all that uses it


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "meta.db"


def reopen(backend: EmbeddedBackend, path: Path) -> EmbeddedBackend:
    backend.close()
    return EmbeddedBackend(path)


def test_keys_without_a_lease_survive_a_restart(path: Path) -> None:
    backend = EmbeddedBackend(path)
    backend.commit(put("/kept", b"\0\xff"))
    backend.commit(put("/changed", b"1"))
    changed = backend.commit(put("/changed", b"2"))
    backend.commit(put("/deleted"))
    lease = backend.grant(60, fail)
    backend.commit(put("/leased", b"", lease.id))
    backend.commit(put("/was kept"))
    backend.commit(put("/was kept", b"", lease.id))
    last = backend.commit(Transaction(deletes=("/deleted",)))
    before = backend.range("/", prefix=True)
    backend = reopen(backend, path)
    after = backend.range("/", prefix=True)
    assert after.items == tuple(item for item in before.items if not item.lease)
    assert [i.key for i in after.items] == ["/changed", "/kept"]
    assert after.items[0].mod_revision == changed.revision
    assert after.revision == last.revision
    assert backend.commit(put("/new")).revision == last.revision + 1
    backend.close()


def test_revisions_before_a_restart_are_compacted(path: Path) -> None:
    backend = EmbeddedBackend(path)
    first = backend.commit(put("/a")).revision
    backend.commit(put("/a"))
    backend = reopen(backend, path)
    with pytest.raises(MetadataCompactedError):
        backend.range("/a", revision=first)
    with pytest.raises(MetadataCompactedError):
        backend.watch("/", first).next(0)
    backend.close()


def test_a_file_has_one_user(path: Path) -> None:
    backend = EmbeddedBackend(path)
    backend.commit(put("/a"))
    with pytest.raises(ConfigError, match="only one daemon"):
        EmbeddedBackend(path)
    backend.close()
    EmbeddedBackend(path).close()


def test_files_that_are_none_of_ours(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_bytes(b"no database, but long enough to be looked at " * 100)
    with pytest.raises(ConfigError):
        EmbeddedBackend(text)
    with pytest.raises(AccessDeniedError):
        EmbeddedBackend(tmp_path / "no folder" / "meta.db")


def test_a_full_disk_changes_nothing(path: Path) -> None:
    backend = EmbeddedBackend(path)
    backend.commit(put("/a", b"1"))
    backend._file._db.execute("PRAGMA max_page_count = 1")
    with pytest.raises(MetadataFullError):
        backend.commit(put("/a", bytes(100_000)))
    assert backend.range("/a").items[0].value == b"1"
    assert backend.watch("/", backend.range("/a").revision).next(0) is None
    backend = reopen(backend, path)
    assert backend.range("/a").items[0].value == b"1"
    backend.close()


def test_what_an_interrupted_write_left_is_not_seen(path: Path) -> None:
    backend = EmbeddedBackend(path)
    backend.commit(put("/a", b"1"))
    backend.close()
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("BEGIN")
    db.execute("DELETE FROM item")
    db.close()
    backend = EmbeddedBackend(path)
    assert backend.range("/a").items[0].value == b"1"
    backend.close()


def test_history_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "KEPT_REVISIONS", 10)
    backend = EmbeddedBackend()
    start = backend.range("/").revision
    for _ in range(11):
        backend.commit(put("/a"))
    with pytest.raises(MetadataCompactedError):
        backend.watch("/", start).next(0)
    watch = backend.watch("/", start + 1)
    assert [watch.next(0).revision for _ in range(10)] == list(range(start + 2, start + 12))
    assert watch.next(0) is None
    backend.close()
