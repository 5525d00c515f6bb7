"""Files of this machine: links, what takes its place in one step, and what killed writers leave."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs as pafs

from vineyard_arrow.client import Client
from vineyard_arrow.drivers import local_files
from vineyard_arrow.errors import FileError, PathExistsError, PathNotFoundError

TABLE = pa.table({"a": [1, 2, 3, 4]})


@pytest.fixture(params=["in one step", "in several"])
def steps(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With renameat2, and as on file systems that know none of its flags."""
    if request.param == "in several":
        monkeypatch.setattr(local_files, "_renamed", lambda *_: False)


def rows(client: Client, path: Any, **options: Any) -> list[int]:
    return sorted(client.get(client.read(path, **options))["a"].to_pylist())


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


# ---- links


def test_links_to_directories_above_end(client: Client, tmp_path: Path) -> None:
    inner = tmp_path / "d" / "inner"
    inner.mkdir(parents=True)
    pq.write_table(TABLE, tmp_path / "d" / "0.parquet")
    pq.write_table(TABLE, inner / "1.parquet")
    (tmp_path / "d" / "self").symlink_to(tmp_path / "d")
    (inner / "up").symlink_to("..")
    (tmp_path / "d" / "nowhere.parquet").symlink_to("none")
    (tmp_path / "d" / "loop.parquet").symlink_to("loop.parquet")
    os.mkfifo(tmp_path / "d" / "pipe.parquet")
    both = sorted(TABLE["a"].to_pylist() * 2)
    assert rows(client, tmp_path / "d") == both
    assert rows(client, f"{tmp_path}/d/**/*.parquet") == both
    assert rows(client, f"{tmp_path}/d/*.parquet") == TABLE["a"].to_pylist()
    with client.scan(tmp_path / "d") as reader:
        assert reader.read_all().num_rows == len(both)


def test_links_elsewhere_are_followed(client: Client, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "d").mkdir()
    pq.write_table(TABLE, tmp_path / "far" / "0.parquet")
    (tmp_path / "d" / "year=1").symlink_to(tmp_path / "far")
    assert rows(client, tmp_path / "d") == TABLE["a"].to_pylist()
    (tmp_path / "d" / "year=2").symlink_to(tmp_path / "far")  # each path counts
    found = client.get(client.read(tmp_path / "d"))
    assert found["year"].to_pylist() == [1] * 4 + [2] * 4


def test_hidden_directories_are_not_entered(client: Client, tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "0.parquet")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "1.parquet").write_text("no parquet")
    found = local_files.below(str(tmp_path))
    assert sorted((Path(info.path).name, info.type) for info in found) == [
        (".hidden", pafs.FileType.Unknown),
        ("0.parquet", pafs.FileType.File),
    ]
    assert rows(client, tmp_path) == TABLE["a"].to_pylist()


def test_a_glob_looks_no_deeper_than_it_says(tmp_path: Path) -> None:
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    depths = [len(local_files.below(str(tmp_path), deep)) for deep in (0, 1, 2, None)]
    assert depths == [1, 2, 3, 3]


def test_a_pipe_is_no_file(client: Client, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.parquet")
    with pytest.raises(FileError, match="neither a file nor a directory"):
        client.read(tmp_path / "a.parquet")
    with pytest.raises(PathExistsError):
        client.write(TABLE, tmp_path / "a.parquet", overwrite=True)


@pytest.mark.usefixtures("steps")
def test_what_links_lead_to_is_not_deleted(client: Client, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    pq.write_table(TABLE, tmp_path / "far" / "0.parquet")
    client.write(TABLE, tmp_path / "d", file_rows=9)
    (tmp_path / "d" / "file.parquet").symlink_to(tmp_path / "far" / "0.parquet")
    (tmp_path / "d" / "folder").symlink_to(tmp_path / "far")
    (tmp_path / "d" / "up").symlink_to(tmp_path / "d")
    client.write(TABLE, tmp_path / "d", file_rows=9, overwrite=True)
    assert rows(client, tmp_path / "d") == TABLE["a"].to_pylist()
    assert rows(client, tmp_path / "far") == TABLE["a"].to_pylist()
    # What is no table is not lost, by a link or not.
    (tmp_path / "far" / "notes.txt").write_text("mine")
    (tmp_path / "d" / "folder").symlink_to(tmp_path / "far")
    with pytest.raises(PathExistsError, match="no tables"):
        client.write(TABLE, tmp_path / "d", file_rows=9, overwrite=True)


@pytest.mark.usefixtures("steps")
@pytest.mark.parametrize("options", [{}, {"file_rows": 9}])
def test_a_link_stays_and_what_it_leads_to_is_replaced(
    client: Client, tmp_path: Path, options: Any
) -> None:
    far = tmp_path / "far"
    far.mkdir()
    client.write(TABLE, far / "t.parquet", **options)
    link = tmp_path / "link.parquet"
    link.symlink_to(far / "t.parquet")
    with pytest.raises(PathExistsError):
        client.write(TABLE, link, **options)
    client.write(TABLE.slice(0, 1), link, overwrite=True, **options)
    assert link.is_symlink()
    assert rows(client, far / "t.parquet", format="parquet") == [1]
    assert (names(far), names(tmp_path)) == (["t.parquet"], ["far", "link.parquet"])


@pytest.mark.parametrize("options", [{}, {"file_rows": 9}])
def test_a_link_to_nothing(client: Client, tmp_path: Path, options: Any) -> None:
    link = tmp_path / "link.parquet"
    link.symlink_to(tmp_path / "t.parquet")
    with pytest.raises(PathExistsError):
        client.write(TABLE, link, **options)
    client.write(TABLE, link, overwrite=True, **options)
    assert names(tmp_path) == ["link.parquet", "t.parquet"]
    link.unlink()
    link.symlink_to(tmp_path / "none" / "t.parquet")
    with pytest.raises(PathNotFoundError, match="no such directory"):
        client.write(TABLE, link, overwrite=True, **options)


# ---- several writers


def in_two_threads(function: Callable[[int], None]) -> list[Exception]:
    """What it raises, called at once by two threads."""
    start, failed = threading.Barrier(2), []

    def one(number: int) -> None:
        start.wait()
        try:
            function(number)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=one, args=[number]) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failed


@pytest.mark.usefixtures("steps")
@pytest.mark.parametrize("options", [{}, {"file_rows": 2}])
def test_two_that_replace_both_succeed(client: Client, tmp_path: Path, options: Any) -> None:
    path = tmp_path / "t.parquet"
    client.write(TABLE, path, **options)
    for _ in range(20):
        assert not in_two_threads(
            lambda n: client.write(TABLE.slice(n, 3), path, overwrite=True, **options)
        )
        assert rows(client, path, format="parquet") in ([1, 2, 3], [2, 3, 4])
        assert names(tmp_path) == ["t.parquet"]


@pytest.mark.usefixtures("steps")
@pytest.mark.parametrize("options", [{}, {"file_rows": 2}])
def test_of_two_that_are_first_one_is_refused(client: Client, tmp_path: Path, options: Any) -> None:
    for n in range(20):
        path = tmp_path / f"{n}.parquet"
        failed = in_two_threads(
            lambda n, path=path: client.write(TABLE.slice(n, 3), path, **options)
        )
        assert [type(error) for error in failed] == [PathExistsError]
        assert rows(client, path, format="parquet") in ([1, 2, 3], [2, 3, 4])
        assert len(names(tmp_path)) == n + 1


@pytest.mark.usefixtures("steps")
def test_what_comes_while_it_is_written_is_not_lost(client: Client, tmp_path: Path) -> None:
    client.write(TABLE, tmp_path / "d", file_rows=9)

    def batches() -> Iterator[pa.RecordBatch]:
        yield from TABLE.to_batches()
        (tmp_path / "d" / "notes.txt").write_text("mine")

    reader = pa.RecordBatchReader.from_batches(TABLE.schema, batches())
    with pytest.raises(PathExistsError, match="no tables"):
        client.write(reader, tmp_path / "d", file_rows=9, overwrite=True)
    assert (tmp_path / "d" / "notes.txt").exists()
    assert names(tmp_path) == ["d"]


# ---- writers that are killed

KILLED = """
import os, signal, sys
import pyarrow as pa, vineyard_arrow
client = vineyard_arrow.connect(sys.argv[1], autostart=False)
path, event, count = sys.argv[2], sys.argv[3], int(sys.argv[4])
def batches():
    if event == "source":
        os.kill(os.getpid(), signal.SIGKILL)
    yield pa.record_batch({"a": [5]})
def hook(name, arguments):
    global count
    if name == event and path in str(arguments) + str(os.path.dirname(path)):
        count -= 1
        if not count:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
reader = pa.RecordBatchReader.from_batches(pa.schema([("a", pa.int64())]), batches())
client.write(reader, path, format="parquet", overwrite=True, **eval(sys.argv[5]))
"""


def killed_at(event: str, count: int, daemon: Any, path: Path, options: Any) -> int:
    """The end of a process that writes a 5, and kills itself as it comes to some event."""
    command = [sys.executable, "-c", KILLED, str(daemon.socket), str(path), event, str(count)]
    return subprocess.run([*command, repr(options)], check=False).returncode


@pytest.mark.parametrize(("event", "count"), [("os.rename", 2), ("shutil.rmtree", 1)])
def test_a_kill_at_any_step_loses_nothing(
    daemon: Any, client: Client, tmp_path: Path, event: str, count: int
) -> None:
    path = tmp_path / "d"
    client.write(TABLE, path, file_rows=9)
    ended = killed_at(event, count, daemon, path, {"file_rows": 9})
    assert ended in (0, -signal.SIGKILL)
    assert rows(client, path) in (TABLE["a"].to_pylist(), [5])
    client.write(TABLE, path, file_rows=9, overwrite=True)
    assert names(tmp_path) == ["d"]


@pytest.mark.parametrize("options", [{}, {"file_rows": 9}])
def test_what_a_killed_writer_left_is_removed(
    daemon: Any, client: Client, tmp_path: Path, options: Any
) -> None:
    assert killed_at("source", 1, daemon, tmp_path / "d", options) == -signal.SIGKILL
    (left,) = names(tmp_path)
    assert left.startswith(".")
    assert left.endswith(".partial")
    # Of another machine, or of another's making, nobody knows whether it is still written.
    elsewhere = f".{'0' * 8}{left[9:]}"
    (tmp_path / elsewhere).write_text("")
    (tmp_path / ".mine.partial").write_text("")
    client.write(TABLE, tmp_path / "t.parquet")
    assert names(tmp_path) == sorted([elsewhere, ".mine.partial", "t.parquet"])


@pytest.mark.parametrize("options", [{}, {"file_rows": 9}])
def test_what_is_still_written_is_not_removed(client: Client, tmp_path: Path, options: Any) -> None:
    def batches() -> Iterator[pa.RecordBatch]:
        yield from TABLE.to_batches()
        client.write(TABLE, tmp_path / "other.parquet")
        assert len(names(tmp_path)) == 2

    reader = pa.RecordBatchReader.from_batches(TABLE.schema, batches())
    client.write(reader, tmp_path / "t", format="parquet", **options)
    assert rows(client, tmp_path / "t", format="parquet") == TABLE["a"].to_pylist()
    assert names(tmp_path) == ["other.parquet", "t"]


@pytest.mark.parametrize("directory", [False, True])
def test_what_was_taken_for_left_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, directory: bool
) -> None:
    lock, taken = local_files._locks, list[str]()

    def late(descriptor: int) -> bool | None:
        if not taken:
            taken.extend(names(tmp_path))
            local_files._remove(str(tmp_path / taken[0]))
        return lock(descriptor)

    monkeypatch.setattr(local_files, "_locks", late)
    with local_files.partial(str(tmp_path / "t"), directory=directory) as path:
        assert names(tmp_path) == [Path(path).name] != taken
    assert names(tmp_path) == []


PROTECTED = """
import os, sys
from vineyard_arrow.drivers import local_files
with local_files.partial(sys.argv[1], directory=True) as path:
    os.mkdir(f"{path}/inner")
    os.mkdir(f"{path}/inner/most")
    os.chmod(f"{path}/inner", 0o555)
"""


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="nothing here takes rights from root")
def test_what_is_protected_is_removed_too(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROTECTED, str(tmp_path / "t")]
    if os.geteuid() == 0:
        rights = "--bounding-set=-dac_override,-dac_read_search"
        command = ["setpriv", rights, "--inh-caps=-all", *command]
    subprocess.run(command, check=True)
    assert names(tmp_path) == []
