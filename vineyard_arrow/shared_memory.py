"""`multiprocessing.shared_memory` on the store: writable blocks, within its memory limit.

`SharedMemory` and `ShareableList` are used as the standard library's are. What differs: a
block counts against the store's limit, and one that does not fit is a `StoreFullError`
instead of a SIGBUS later; no resource tracker unlinks blocks behind the back of processes
that still use them.

Blocks are no objects: they have no ids, and a put of an array over one copies it, since
objects never change.
"""

from __future__ import annotations

import contextlib
import operator
import os
import sys
import weakref
from collections.abc import Iterable
from functools import partial
from mmap import mmap
from multiprocessing import shared_memory as _stdlib
from pathlib import Path
from types import FunctionType
from typing import Any

from .client import Client, connect
from .ipc import protocol as p

__all__ = ["ShareableList", "SharedMemory"]


class SharedMemory:
    """A block of memory that processes share by its name, and all of them may write.

    As `multiprocessing.shared_memory.SharedMemory`. A block lives until it is unlinked, also
    when nobody has it open, or until its daemon stops (or `Client.clear`). Memory and charge
    go when it is unlinked and the last process that has it open has closed it or ended,
    however it ended. A child forked while a block is open has it open too.

    Parameters
    ----------
    name : str, optional
        What to attach to, or to create; a new block without one gets one. Up to 255 bytes;
        slashes at its start do not count.
    create : bool
        Make a new block, of zeros.
    size : int
        Its size in bytes, at least 1. Charged in whole pages. Not used to attach.
    track : bool
        Without effect: there is nothing to track, as no process's end unlinks a block.
    client : Client, optional
        Of the store to use, by default `vineyard_arrow.default_client`. It may be closed
        before the block is, but not before `unlink`.

    Raises
    ------
    BlockExistsError
        If the name is taken (a FileExistsError).
    BlockNotFoundError
        If there is no such block (a FileNotFoundError).
    StoreFullError
        If there is no room for it (a MemoryError).
    ConnectionLostError
        If the daemon is gone. Blocks that are open stay as they are.
    ValueError
        If the size is not positive, or a name missing.

    Examples
    --------
    >>> block = SharedMemory(create=True, size=8)  # doctest: +SKIP
    >>> block.buf[:2] = b"hi"  # doctest: +SKIP
    >>> bytes(SharedMemory(block.name).buf[:2])  # in any process  # doctest: +SKIP
    b'hi'
    >>> block.close()  # doctest: +SKIP
    >>> block.unlink()  # doctest: +SKIP
    """

    _buf: memoryview | None = None
    _mapping: mmap | None = None

    def __init__(
        self,
        name: str | None = None,
        create: bool = False,
        size: int = 0,
        *,
        track: bool = True,
        client: Client | None = None,
    ) -> None:
        size = operator.index(size)
        if size > sys.maxsize:
            raise OverflowError(f"'size' is too large: {size}")
        if size < 0 or (create and size == 0):
            raise ValueError(f"'size' must be a positive number, not {size}")
        if name is None and not create:
            raise ValueError("'name' can only be None if create=True")
        key = _key(name)
        self._client = _default_client() if client is None else client
        self._socket = self._client._a.socket
        message = p.CreateBlock(key, size) if key is None or create else p.OpenBlock(key)
        reply, (fd, hold_fd) = self._client._a.request(message)
        self._name: str = reply.name if name is None else name
        self._size: int = reply.nbytes
        try:
            self._mapping = mmap(fd, self._size)
        except BaseException:
            os.close(hold_fd)
            if create:
                self.unlink()
            raise
        finally:
            os.close(fd)
        # With the mapping, which arrays over it may keep longer than this object lives.
        self._let_go = weakref.finalize(self._mapping, os.close, hold_fd)
        self._let_go.atexit = False
        self._buf = memoryview(self._mapping)

    def __del__(self) -> None:
        # An array over it keeps the mapping, which then goes with the array.
        with contextlib.suppress(BufferError):
            self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _attach, (type(self), self.name, self._socket)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, size={self.size})"

    @property
    def buf(self) -> memoryview:
        """The bytes, writable; None once closed."""
        return self._buf  # type: ignore[return-value]

    @property
    def name(self) -> str:
        """What other processes attach to."""
        return self._name

    @property
    def size(self) -> int:
        """Bytes of `buf`, as asked for at creation."""
        return self._size

    def close(self) -> None:
        """End this access to the block; the block stays. May be called twice.

        Raises
        ------
        BufferError
            If an array or a memoryview over `buf` still exists.
        """
        if self._buf is not None:
            self._buf.release()
            self._buf = None
        if self._mapping is not None:
            self._mapping.close()
            self._mapping = None
            self._let_go()

    def unlink(self) -> None:
        """Free the name at once, and the memory when the last access to it ends.

        Raises
        ------
        BlockNotFoundError
            If it is unlinked already.
        """
        key = _key(self._name)
        assert key is not None
        self._client._a.request(p.UnlinkBlock(key))


class ShareableList(_stdlib.ShareableList[Any]):
    """A list of fixed length in a block: `multiprocessing.shared_memory.ShareableList` itself.

    Parameters
    ----------
    sequence : iterable of int, float, bool, str, bytes or None, optional
        What to put into a new block.
    name : str, optional
        Of the new block, or of the one to attach to.
    client : Client, optional
        Of the store to use, by default `vineyard_arrow.default_client`.

    Attributes
    ----------
    shm : SharedMemory
        Its block, to close and to unlink.
    """

    shm: SharedMemory  # type: ignore[assignment]

    def __init__(
        self,
        sequence: Iterable[Any] | None = None,
        *,
        name: str | None = None,
        client: Client | None = None,
    ) -> None:
        # The library's own code, but for the class of the block that it makes.
        init = _stdlib.ShareableList.__init__
        names = {**init.__globals__, "SharedMemory": partial(SharedMemory, client=client)}
        FunctionType(init.__code__, names)(self, sequence, name=name)

    def __reduce__(self) -> tuple[Any, ...]:
        return _attach, (type(self), self.shm.name, self.shm._socket)


def _attach(kind: type, name: str, socket: Path) -> Any:
    """What a pickle of a block or list stands for, in any process on this host."""
    client = connect(os.fspath(socket), autostart=False)
    try:
        made = kind(name=name, client=client)
    except BaseException:
        client.close()
        raise
    weakref.finalize(made.shm if isinstance(made, ShareableList) else made, client.close)
    return made


def _key(name: str | None) -> str | None:
    """The name as the daemon knows it: POSIX has names with and without the slash."""
    if name is not None and not isinstance(name, str):
        raise TypeError(f"a name is a str, this one a {type(name).__name__}")
    return None if name is None else name.lstrip("/")


def _default_client() -> Client:
    from . import default_client

    return default_client()
