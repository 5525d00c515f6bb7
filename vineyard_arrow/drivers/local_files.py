"""Files of this machine: what is below a directory, and what takes its place in one step.

What is not done yet lies beside its place, under a hidden name, and is locked while its writer
lives: what a writer that was killed has left is told by that, and removed by the next one.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from pyarrow import fs as pafs

__all__ = ["below", "exchange", "move_new", "partial"]

_NO_RENAMEAT2 = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)
_LOOKS = 10  # at a directory that is replaced all the while
_NEW = os.O_CREAT | os.O_EXCL | os.O_RDWR
_AT_FDCWD = -100
_NOREPLACE, _EXCHANGE = 1, 2


# ---- what is there


def below(
    base: str,
    deep: int | None = None,
    until: Callable[[pafs.FileInfo], bool] | None = None,
) -> list[pafs.FileInfo]:
    """What is in a directory and in those below it, as of one time; nothing, if it is not there.

    Links are followed, as by ``find -L``: what several links lead to is there by each path, and a
    link to a directory that it lies in is left out. Hidden names are told as of an unknown type,
    and not entered; so is whatever is neither file nor directory, as a link to nothing.

    Parameters
    ----------
    base : str
        A path.
    deep : int, optional
        How many directories to go down; by default any number.
    until : callable, optional
        Of what it is true is the last to be looked at.

    Raises
    ------
    OSError
        Such as a PermissionError: nothing is left out for that.
    """
    for _ in range(_LOOKS):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            before = _identity(base)
            found = []
            for info in _walked(base, deep):
                found.append(info)
                if until is not None and until(info):
                    break
            if before == _identity(base):
                return found
        if not os.path.isdir(base):
            return []
    raise FileNotFoundError(errno.ENOENT, "it changes all the time", base)


def _walked(base: str, deep: int | None) -> Iterator[pafs.FileInfo]:
    ahead: list[tuple[str, tuple[tuple[int, int], ...]]] = [(base, ())]
    while ahead:
        folder, above = ahead.pop()
        known = _identity(folder)
        if known in above:
            continue
        with os.scandir(folder) as entries:
            for entry in entries:
                info = _info(entry)
                yield info
                if info.type == pafs.FileType.Directory and (deep is None or len(above) < deep):
                    ahead.append((entry.path, (*above, known)))


def _identity(path: str) -> tuple[int, int]:
    about = os.stat(path)
    return about.st_dev, about.st_ino


def _info(entry: os.DirEntry[str]) -> pafs.FileInfo:
    if entry.name[:1] not in ("_", "."):
        try:
            if entry.is_dir():
                return pafs.FileInfo(entry.path, pafs.FileType.Directory)
            if entry.is_file():
                about = entry.stat()
                nbytes, mtime_ns = about.st_size, about.st_mtime_ns
                return pafs.FileInfo(entry.path, pafs.FileType.File, size=nbytes, mtime_ns=mtime_ns)
        except OSError as error:
            if error.errno != errno.ELOOP:  # a link to itself
                raise
    return pafs.FileInfo(entry.path, pafs.FileType.Unknown)


# ---- what is not done yet


@contextlib.contextmanager
def partial(target: str, *, directory: bool) -> Iterator[str]:
    """A new file or directory beside ``target``, under a hidden name.

    What is there under that name at the end of the block is removed: what was not moved to its
    place, or what was there before. So is what writers of this machine left that were killed.
    """
    parent = os.path.dirname(target)
    _remove_left(parent)
    path, lock = _made(parent, directory)
    try:
        yield path
    finally:
        try:
            _remove(path)
        finally:
            os.close(lock)


def _made(parent: str, directory: bool) -> tuple[str, int]:
    """A partial file or directory, and the descriptor by which it is locked."""
    while True:
        path = os.path.join(parent, f".{_boot()}-{secrets.token_hex(8)}.partial")
        if directory:
            os.mkdir(path)
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(path, os.O_RDONLY if directory else _NEW, 0o666)
            if _locks(lock) is not False and os.path.exists(path):
                return path, lock
            os.close(lock)  # another took it for one that was left


def _locks(descriptor: int) -> bool | None:
    """Lock it; whether nobody else has, or None if there are no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _boot() -> str:
    """What this run of this kernel is known by: locks tell nothing of writers elsewhere."""
    return Path("/proc/sys/kernel/random/boot_id").read_text()[:8]


def _remove_left(parent: str) -> None:
    """Remove what writers have left that were killed; of those that live it is locked."""
    ours = re.compile(rf"\.{_boot()}-[0-9a-f]{{16}}\.partial")
    names: list[str] = []
    with contextlib.suppress(PermissionError):  # a directory may be written to, but not listed
        names = os.listdir(parent)
    for name in filter(ours.fullmatch, names):
        path = os.path.join(parent, name)
        with contextlib.suppress(OSError):  # another's, or gone
            lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                if _locks(lock):
                    _remove(path)
            finally:
                os.close(lock)


def _remove(path: str) -> None:
    """Remove a file or a directory, as far as that can be done; what links lead to stays."""
    if os.path.islink(path) or not os.path.isdir(path):
        with contextlib.suppress(OSError):
            os.unlink(path)
        return
    shutil.rmtree(path, ignore_errors=True)
    if os.path.isdir(path):  # some of it was not to be written to
        for folder, _, _ in os.walk(path):
            with contextlib.suppress(OSError):
                os.chmod(folder, 0o700)
        shutil.rmtree(path, ignore_errors=True)


# ---- what takes its place


def move_new(source: str, target: str) -> None:
    """Rename a file or a directory, but not over anything.

    Raises
    ------
    FileExistsError
        If anything is there.
    """
    if _renamed(source, target, _NOREPLACE):
        return
    if os.path.isdir(source):
        os.mkdir(target)
        _rename_over_empty(source, target)
        return
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        os.rename(source, target)
    else:
        os.unlink(source)


def exchange(source: str, target: str) -> None:
    """Have two directories take each other's place, in one step if the file system can.

    Raises
    ------
    FileNotFoundError
        If one is not there.
    FileExistsError
        If another came first, where it takes several steps.
    """
    if _renamed(source, target, _EXCHANGE):
        return
    # Not called a partial one: if this process is killed now, it is all that there is.
    aside = os.path.join(os.path.dirname(target), f".{secrets.token_hex(8)}.replaced")
    os.rename(target, aside)
    try:
        _rename_over_empty(source, target)
    except BaseException:
        if os.path.lexists(target):
            _remove(aside)
        else:
            os.rename(aside, target)
        raise
    os.rename(aside, source)


def _rename_over_empty(source: str, target: str) -> None:
    """Rename a directory, maybe over an empty one: no other would be replaced."""
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno == errno.ENOTEMPTY:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target) from None
        raise


def _renamed(source: str, target: str, flags: int) -> bool:
    """Rename by renameat2; False if there is none, or the file system knows no such flags."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    if not call(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flags):
        return True
    number = ctypes.get_errno()
    if number in _NO_RENAMEAT2:
        return False
    raise OSError(number, os.strerror(number), source, None, target)
