"""Files for shared memory: on huge pages without root where the kernel allows it, else memfds.

A forked helper makes a tmpfs with ``huge=advise`` in user and mount namespaces of its own,
clones a read-only twin of the mount and hands both directories back as descriptors. It knows
nothing of segments, leases or sockets; whoever creates a file here owns its descriptors.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
from collections.abc import Iterator
from typing import Protocol

from vineyard_arrow.ipc.mounts import load_libc, mount_huge_tmpfs

__all__ = ["HugeFiles", "HugePagesUnavailable", "MemFiles", "SharedFiles", "open_huge_files"]

HUGE_PAGE_NBYTES = 2 << 20

_MFD_NOEXEC_SEAL = 8  # Linux 6.3; vm.memfd_noexec=2 refuses memfds without it


class HugePagesUnavailable(Exception):
    """This machine gives no huge-page files; ``reason`` says in one sentence why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class SharedFiles(Protocol):
    """A source of files for shared memory; the caller owns and closes the descriptors it gets."""

    @property
    def page_kind(self) -> str:
        """``huge-tmpfs``, ``memfd-huge`` or ``memfd``."""

    @property
    def huge(self) -> bool:
        """Whether memory advised with MADV_HUGEPAGE comes in huge pages."""

    @property
    def protection(self) -> str:
        """One sentence: what a reader's descriptor refuses."""

    def create(self, name: str) -> tuple[int, int]:
        """Make an empty file; return its read-write and its read-only descriptor."""

    def create_sealable(self, name: str) -> tuple[int, int]:
        """Like `create`, but always a memfd, so that F_SEAL_WRITE can be added."""

    def seal_size(self, rw_fd: int) -> None:
        """Fix the size of a file from `create` for good, where such a file takes seals."""

    def close(self) -> None:
        """Release the source; files made by it live on. May be called twice."""


class MemFiles:
    """Anonymous memfd files: they work everywhere and need no privilege.

    Parameters
    ----------
    huge : bool, optional
        Whether shared memory gets huge pages here; found out with a probe file if not given.
    """

    protection = (
        "a reader's descriptor refuses writes and writable shared mappings; the store's own user "
        "and root can still get a writable one through /proc"
    )

    def __init__(self, huge: bool | None = None) -> None:
        if huge is None:
            rw_fd, ro_fd = _create_memfd("vineyard-arrow-probe")
            with _closing(rw_fd, ro_fd):
                huge = _gives_huge_page(rw_fd)
        self.huge = huge
        self.page_kind = "memfd-huge" if huge else "memfd"

    def create(self, name: str) -> tuple[int, int]:
        """Make an empty file; return ``(rw_fd, ro_fd)``, owned by the caller.

        Raises
        ------
        OSError
            If the process has no descriptors left or /proc is not mounted.
        """
        return _create_memfd(name)

    def create_sealable(self, name: str) -> tuple[int, int]:
        """Like `create`."""
        return _create_memfd(name)

    def seal_size(self, rw_fd: int) -> None:
        """Forbid everybody to shrink or grow the file (F_SEAL_SHRINK | F_SEAL_GROW)."""
        fcntl.fcntl(rw_fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)

    def close(self) -> None:
        """Nothing to release."""


class HugeFiles:
    """Files in a private tmpfs with huge pages, read through a read-only twin of the mount.

    Takes ownership of both directory descriptors. Made by `open_huge_files`.
    """

    page_kind = "huge-tmpfs"
    huge = True
    protection = (
        "a reader's descriptor refuses writes, writable shared mappings and, on its read-only "
        "mount (EROFS), being reopened for writing; the size is not sealed"
    )

    def __init__(self, rw_dir: int, ro_dir: int) -> None:
        self._rw_dir, self._ro_dir = rw_dir, ro_dir

    def create(self, name: str) -> tuple[int, int]:
        """Make an empty, already unlinked file; return ``(rw_fd, ro_fd)``, owned by the caller.

        Parameters
        ----------
        name : str
            A plain file name, shown in /proc/PID/maps.

        Raises
        ------
        OSError
            If the mount or the process's table of descriptors is full, or after `close`.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        rw_fd = os.open(name, flags, 0o600, dir_fd=self._rw_dir)
        try:
            ro_fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._ro_dir)
        except BaseException:
            os.close(rw_fd)
            raise
        finally:
            os.unlink(name, dir_fd=self._rw_dir)
        return rw_fd, ro_fd

    def create_sealable(self, name: str) -> tuple[int, int]:
        """Make a memfd: files of a tmpfs mount take no seals."""
        return _create_memfd(name)

    def seal_size(self, rw_fd: int) -> None:
        """Do nothing: files of a tmpfs mount take no seals."""

    def close(self) -> None:
        """Let go of the mount; the kernel frees it with the last file in it."""
        for fd in {self._rw_dir, self._ro_dir} - {-1}:
            os.close(fd)
        self._rw_dir = self._ro_dir = -1


def open_huge_files(size_nbytes: int, timeout_s: float = 5.0) -> HugeFiles:
    """Make a huge-page tmpfs and verify by a probe file that it keeps its promises.

    Forks, so call it before the process starts threads.

    Parameters
    ----------
    size_nbytes : int
        Most bytes that the files may take together; rounded up to 2 MiB, plus one huge page.
    timeout_s : float
        Deadline for the helper process, in seconds; it is killed then.

    Raises
    ------
    HugePagesUnavailable
        If the kernel refuses a step or the probe finds no huge page.
    """
    size_nbytes = (size_nbytes // HUGE_PAGE_NBYTES + 2) * HUGE_PAGE_NBYTES
    try:
        files = HugeFiles(*mount_huge_tmpfs(size_nbytes, timeout_s))
        try:
            _verify(files)
        except BaseException:
            files.close()
            raise
    except OSError as error:
        raise HugePagesUnavailable(str(error)) from error
    return files


@contextlib.contextmanager
def _closing(*fds: int) -> Iterator[None]:
    try:
        yield
    finally:
        for fd in fds:
            os.close(fd)


def _create_memfd(name: str) -> tuple[int, int]:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        rw_fd = os.memfd_create(name, flags | _MFD_NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        rw_fd = os.memfd_create(name, flags)
    try:
        # A memfd starts as 0777: any user who is passed a descriptor could reopen it to write.
        os.fchmod(rw_fd, 0o400)
        return rw_fd, os.open(f"/proc/self/fd/{rw_fd}", os.O_RDONLY | os.O_CLOEXEC)
    except BaseException:
        os.close(rw_fd)
        raise


def _gives_huge_page(rw_fd: int) -> bool:
    """Whether touching one byte of an advised mapping brings 2 MiB; leaves the file empty."""
    os.ftruncate(rw_fd, HUGE_PAGE_NBYTES)
    libc, failed = load_libc(), ctypes.c_void_p(-1).value
    # Twice the size is reserved, as only an aligned mapping can get a huge page.
    private, shared = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.MAP_SHARED | 0x10  # MAP_FIXED
    start = libc.mmap(None, 2 * HUGE_PAGE_NBYTES, 0, private, -1, 0)
    if start == failed:
        raise OSError(ctypes.get_errno(), "no address space for a probe of huge pages")
    aligned = -(-start // HUGE_PAGE_NBYTES) * HUGE_PAGE_NBYTES
    try:
        access = mmap.PROT_READ | mmap.PROT_WRITE
        if libc.mmap(aligned, HUGE_PAGE_NBYTES, access, shared, rw_fd, 0) == failed:
            raise OSError(ctypes.get_errno(), "a probe file cannot be mapped")
        # A kernel without huge pages refuses the advice, which the blocks then show.
        libc.madvise(aligned, HUGE_PAGE_NBYTES, mmap.MADV_HUGEPAGE)
        # The kernel does the touching (reads the file's own zero byte into the mapping): it
        # reports EFAULT where a store of ours would end in SIGBUS.
        os.preadv(rw_fd, [(ctypes.c_char * 1).from_address(aligned)], 0)
        return os.fstat(rw_fd).st_blocks * 512 >= HUGE_PAGE_NBYTES
    finally:
        libc.munmap(start, 2 * HUGE_PAGE_NBYTES)
        os.ftruncate(rw_fd, 0)


def _verify(files: HugeFiles) -> None:
    rw_fd, ro_fd = files.create("probe")
    with _closing(rw_fd, ro_fd):
        if not _gives_huge_page(rw_fd):
            raise HugePagesUnavailable("the mount was made, but memory in it is not huge")
        try:
            os.close(os.open(f"/proc/self/fd/{ro_fd}", os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
        else:
            raise HugePagesUnavailable("a read-only descriptor could be reopened for writing")
        try:
            os.pwrite(ro_fd, b"x", 0)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
        else:
            raise HugePagesUnavailable("a read-only descriptor could be written through")
