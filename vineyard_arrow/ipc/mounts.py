"""A tmpfs with huge pages and its read-only twin, made without root by a forked helper process.

Knows the mount system calls and namespaces; nothing of files, probes or fallbacks, for which
see `hugepages`. Nothing is attached to a directory tree that anybody else can see.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import struct
from typing import NoReturn

__all__ = ["load_libc", "mount_huge_tmpfs"]

# asm-generic/unistd.h: numbered alike on x86_64, aarch64 and every younger port.
_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT, _MOUNT_SETATTR = 428, 429, 430, 431, 432, 442
_CLONE_NEWNS, _CLONE_NEWUSER = 0x0002_0000, 0x1000_0000
_MS_REC, _MS_PRIVATE = 0x4000, 0x4_0000
_FSOPEN_CLOEXEC, _FSMOUNT_CLOEXEC = 1, 1
_FSCONFIG_SET_STRING, _FSCONFIG_CMD_CREATE = 1, 6
_OPEN_TREE_CLONE, _MOVE_MOUNT_F_EMPTY_PATH, _AT_EMPTY_PATH = 1, 4, 0x1000
_AT_FDCWD = -100
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV, _ATTR_NOEXEC = 1, 2, 4, 8


def mount_huge_tmpfs(size_nbytes: int, timeout_s: float) -> tuple[int, int]:
    """Make the mounts in a forked helper; return their directories, owned by the caller.

    Parameters
    ----------
    size_nbytes : int
        Most bytes that the files in the mount may take together.
    timeout_s : float
        Deadline for the helper, in seconds; it is killed then.

    Returns
    -------
    tuple of int
        O_PATH descriptors, close-on-exec: of the writable mount and of its read-only twin.

    Raises
    ------
    OSError
        Naming the step that the kernel refused, or how the helper failed.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        libc = load_libc()  # loaded before the fork: the child should need no lock
        pid = os.fork()
        if pid == 0:
            _helper(libc, theirs, size_nbytes)
        try:
            theirs.close()
            ours.settimeout(timeout_s)
            reason, fds, _, _ = socket.recv_fds(ours, 4096, 2, socket.MSG_CMSG_CLOEXEC)
        except TimeoutError:
            reason, fds = f"the helper process did not answer in {timeout_s:g} s".encode(), []
        finally:
            _reap(pid)
    if len(fds) == 2:
        return fds[0], fds[1]
    for fd in fds:
        os.close(fd)
    raise OSError(reason.decode(errors="replace") or "the helper process died")


def _reap(pid: int) -> None:
    """Wait for the helper. It has nothing left to do that matters, so don't wait long: kill it."""
    with contextlib.suppress(ChildProcessError):  # SIGCHLD is ignored: the kernel reaped it
        if os.waitpid(pid, os.WNOHANG) == (0, 0):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _helper(libc: ctypes.CDLL, channel: socket.socket, size_nbytes: int) -> NoReturn:
    try:
        try:
            socket.send_fds(channel, [b"ok"], _make_mounts(libc, size_nbytes))
        except OSError as error:
            channel.send((error.strerror or str(error)).encode())
    finally:
        os._exit(0)


def _make_mounts(libc: ctypes.CDLL, size_nbytes: int) -> tuple[int, int]:
    """Make the tmpfs and its read-only twin, both detached from any directory tree."""

    def call(what: str, number: int, *arguments: int | bytes) -> int:
        words = [ctypes.c_long(a) if isinstance(a, int) else ctypes.c_char_p(a) for a in arguments]
        return _checked(what, libc.syscall(ctypes.c_long(number), *words))

    _enter_namespaces(libc)
    fs = call("fsopen tmpfs", _FSOPEN, b"tmpfs", _FSOPEN_CLOEXEC)
    for key, value in ((b"size", b"%d" % size_nbytes), (b"huge", b"advise"), (b"mode", b"0700")):
        call(f"tmpfs {key.decode()}=", _FSCONFIG, fs, _FSCONFIG_SET_STRING, key, value, 0)
    call("creating a tmpfs", _FSCONFIG, fs, _FSCONFIG_CMD_CREATE, 0, 0, 0)
    rw = call("fsmount", _FSMOUNT, fs, _FSMOUNT_CLOEXEC, _ATTR_NOSUID | _ATTR_NODEV | _ATTR_NOEXEC)
    clone = (_OPEN_TREE, rw, b"", _OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_EMPTY_PATH)
    try:
        ro = call("open_tree", *clone)
    except OSError:  # before Linux 6.15 only a mount in our namespace's tree can be cloned
        private = libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None)
        _checked("mount --make-rprivate /", private)
        call("move_mount", _MOVE_MOUNT, rw, b"", _AT_FDCWD, b"/", _MOVE_MOUNT_F_EMPTY_PATH)
        ro = call("open_tree", *clone)
    read_only = struct.pack("=4Q", _ATTR_RDONLY, 0, 0, 0)  # struct mount_attr
    call("mount_setattr", _MOUNT_SETATTR, ro, b"", _AT_EMPTY_PATH, read_only, len(read_only))
    return rw, ro


def _enter_namespaces(libc: ctypes.CDLL) -> None:
    """Become able to mount: as root of a user namespace of our own, or as root itself."""
    uid, gid = os.geteuid(), os.getegid()
    try:
        _checked("unshare(NEWUSER)", libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS))
    except OSError:
        if uid != 0:
            raise
        _checked("unshare(NEWNS)", libc.unshare(_CLONE_NEWNS))
    else:
        for file, line in (
            ("setgroups", "deny"),
            ("uid_map", f"{uid} {uid} 1"),
            ("gid_map", f"{gid} {gid} 1"),
        ):
            with open(f"/proc/self/{file}", "w") as stream:
                stream.write(line)


def _checked(what: str, result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def load_libc() -> ctypes.CDLL:
    """The C library with the signatures of what is called here and in `hugepages`."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    libc.mmap.restype = ctypes.c_void_p
    pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    libc.mmap.argtypes = [pointer, size, number, number, number, ctypes.c_long]
    libc.madvise.argtypes = [pointer, size, number]
    libc.munmap.argtypes = [pointer, size]
    libc.mount.argtypes = [ctypes.c_char_p] * 3 + [ctypes.c_ulong, pointer]
    return libc
