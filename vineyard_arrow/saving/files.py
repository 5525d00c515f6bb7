"""The folder of an export: on this machine, or wherever a URL leads. Knows nothing of objects.

What is written has its name when it is whole: a local folder is renamed at the end, elsewhere
the manifest comes last. Bytes are summed up piece by piece, while a core's cache still has them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import xxhash
from pyarrow import fs

from ..drivers.filesystems import place
from ..errors import (
    FileError,
    InvalidObjectError,
    PathExistsError,
    PathNotFoundError,
    VineyardArrowError,
)
from .manifest import MAX_NBYTES, NAME, File, checksum

PIECE_NBYTES = 512 << 10  # half of a core's own cache: summing up then costs a twentieth or so
REQUEST_NBYTES = 32 << 20  # of a file that is not on this machine, where each read is a request
GATHER_NBYTES = 64 << 10  # smaller writes are gathered


class Told(Protocol):
    """Who is told of bytes that have moved."""

    def __call__(self, nbytes: int, /) -> None: ...


class Target:
    """A folder that is being written; see `writing`."""

    def __init__(
        self, filesystem: fs.FileSystem, path: str, written: list[str], told: Told
    ) -> None:
        self._fs, self._path, self._written, self._told = filesystem, path, written, told

    def write(self, name: str, chunks: Iterable[Any]) -> File:
        """Write a file of these bytes, in order."""
        path = f"{self._path}/{name}"
        self._written.append(path)
        total = xxhash.xxh3_64()
        nbytes = 0
        with translated(path), self._open(path) as stream:
            for chunk in chunks:
                whole = memoryview(chunk).cast("B")
                for at in range(0, len(whole), PIECE_NBYTES):
                    piece = whole[at : at + PIECE_NBYTES]
                    stream.write(piece)
                    total.update(piece)
                    nbytes += len(piece)
                    self._told(len(piece))
        return File(name, nbytes, checksum(total.intdigest()))

    def _open(self, path: str) -> Any:
        return self._fs.open_output_stream(path, compression=None, buffer_size=GATHER_NBYTES)


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """Errors of filesystems as ours."""
    try:
        yield
    except VineyardArrowError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise PathNotFoundError(f"{what}: {error.strerror or error}") from None
    except OSError as error:
        raise FileError(f"{what}: {error.strerror or error}") from None


@contextlib.contextmanager
def writing(url: str | os.PathLike[str], told: Told) -> Iterator[Target]:
    """A new folder; all of it is there at the end, or nothing.

    Raises
    ------
    PathExistsError
        If there is something already, or another process is writing it.
    """
    where = place(os.fspath(url))
    filesystem, path = where.fs, where.path.rstrip("/")
    inside = _in_local if where.is_local else _elsewhere
    with inside(filesystem, path) as (folder, written):
        yield Target(filesystem, folder, written, told)


@contextlib.contextmanager
def _in_local(_: fs.FileSystem, path: str) -> Iterator[tuple[str, list[str]]]:
    """A folder beside the final one, locked while its writer lives."""
    final = Path(path)
    partial = final.with_name(f".{final.name}.partial")
    with translated(path):
        if final.exists() and not (final.is_dir() and not any(final.iterdir())):
            raise PathExistsError(f"{path} is there already", "choose another place, or remove it")
        partial.mkdir(0o700, exist_ok=True)  # as private as the store's socket
        lock = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PathExistsError(f"{path} is being written by another process") from None
        with translated(path):
            about = os.fstat(lock)
            if about.st_uid != os.geteuid() or not os.path.samestat(about, partial.stat()):
                raise PathExistsError(f"{partial} is another's", "choose another place")
            for left in partial.iterdir():  # of a writer that was killed
                left.unlink()
        try:
            yield str(partial), []
            with translated(path):
                partial.rename(final)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    finally:
        os.close(lock)


@contextlib.contextmanager
def _elsewhere(filesystem: fs.FileSystem, path: str) -> Iterator[tuple[str, list[str]]]:
    """The final place; without a manifest, which comes last, it is no export."""
    written: list[str] = []
    with translated(path):
        if filesystem.get_file_info(f"{path}/{NAME}").type != fs.FileType.NotFound:
            raise PathExistsError(f"{path} is an export already", "choose another place")
        filesystem.create_dir(path)
    try:
        yield path, written
    except BaseException:
        for each in written:
            with contextlib.suppress(OSError):
                filesystem.delete_file(each)
        raise


class Source:
    """A folder that was written, to be read."""

    def __init__(self, url: str | os.PathLike[str]) -> None:
        where = place(os.fspath(url))
        self._fs, self._path, self._local = where.fs, where.path.rstrip("/"), where.is_local

    def manifest(self) -> bytes:
        """The text of the manifest.

        Raises
        ------
        PathNotFoundError
            If there is none.
        """
        path = f"{self._path}/{NAME}"
        try:
            with translated(path), self._open(NAME) as (file, nbytes):
                if nbytes > MAX_NBYTES:
                    raise InvalidObjectError(f"{path} has {nbytes:,} bytes, which is too much")
                return bytes(file.read(nbytes))
        except PathNotFoundError:
            raise PathNotFoundError(
                f"{self._path} is no export: it has no {NAME}",
                "it is the folder that export has made, once that has ended; `put` stores files",
            ) from None

    def check(self, file: File) -> None:
        """Raise InvalidObjectError unless a file is there with the size that it should have."""
        with self._found(file):
            pass

    def read(self, file: File, pool: Any, told: Told) -> pa.Buffer:
        """The bytes of a file, in one block of ``pool``.

        Raises
        ------
        InvalidObjectError
            If they are not those that were written.
        """
        with self._found(file) as stream:
            block = pa.allocate_buffer(file.nbytes, memory_pool=pool)
            memory = memoryview(block).cast("B")
            total = xxhash.xxh3_64()
            at, most = 0, PIECE_NBYTES if self._local else REQUEST_NBYTES
            while at < file.nbytes:
                with translated(file.name):
                    count = stream.readinto(memory[at : at + most])
                if not count:
                    raise _damaged(file, f"it ends after {at:,} of {file.nbytes:,} bytes")
                total.update(memory[at : at + count])
                at += count
                told(count)
        if checksum(total.intdigest()) != file.checksum:
            raise _damaged(file, "its checksum is another")
        return block

    @contextlib.contextmanager
    def _found(self, file: File) -> Iterator[Any]:
        try:
            with translated(file.name), self._open(file.name) as (stream, nbytes):
                if nbytes != file.nbytes:
                    raise _damaged(file, f"it has {nbytes:,} bytes, not {file.nbytes:,}")
                yield stream
        except PathNotFoundError:
            raise _damaged(file, "it is not there") from None

    @contextlib.contextmanager
    def _open(self, name: str) -> Iterator[tuple[Any, int]]:
        path = f"{self._path}/{name}"
        if not self._local:
            with self._fs.open_input_file(path) as stream:
                yield stream, stream.size()
            return
        # A link might lead anywhere, a pipe might never end.
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise InvalidObjectError(f"{path} is no file", "copy or export it anew")
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb", buffering=0) as stream:
            yield stream, os.fstat(fd).st_size


def _damaged(file: File, why: str) -> InvalidObjectError:
    return InvalidObjectError(
        f"the file {file.name} of the export is damaged: {why}", "copy or export it anew"
    )
