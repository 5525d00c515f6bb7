"""The daemon's book of *blocks*: shared memory that stays writable, known by name.

A block is a memfd that whoever opens it maps for writing; no object ever refers to it. Like
POSIX shared memory it lives until its name is unlinked and the last process that has it open
is gone, and is charged against the limit, in whole pages, from its creation until then.

Each block has a pipe that carries nothing. Whoever opens the block holds the pipe's read
end, and so does a child forked meanwhile. The kernel closes it with its process, however
that ends, and tells the write end, which is here, when the last one is gone.

Knows no sessions and no messages; single-threaded.
"""

from __future__ import annotations

import fcntl
import os
import resource
import select
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import BlockExistsError, BlockNotFoundError, InvalidObjectError, StoreFullError
from .hugepages import SharedFiles
from .memory import PAGE, Memory

MAX_NAME_NBYTES = 255  # as in POSIX
FDS_PER_BLOCK = 3
# Nobody may cut it short under the others (SIGBUS), or forbid them to write.
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


@dataclass(slots=True, eq=False)
class Block:
    """A block; the descriptors are the daemon's own."""

    name: str
    nbytes: int
    fd: int = -1  # read-write
    hold_fd: int = -1  # the pipe's read end, for those who open it; closed when unlinked
    gone_fd: int = -1  # its write end

    @property
    def charged(self) -> int:
        """Bytes of its pages."""
        return -(-self.nbytes // PAGE) * PAGE

    def close(self) -> None:
        """Close what is open of its descriptors."""
        for fd in (self.fd, self.hold_fd, self.gone_fd):
            if fd >= 0:
                os.close(fd)


class Blocks:
    """All blocks of a store.

    Parameters
    ----------
    memory : Memory
        Charged for them.
    files : SharedFiles
        Where they come from.
    watch : callable
        ``watch(fd, function)``: call when the peer of the descriptor is gone; None ends it.
    on_free : callable
        Called when the memory of a block was given back.
    """

    def __init__(
        self,
        memory: Memory,
        files: SharedFiles,
        watch: Callable[[int, Callable[[], None] | None], None],
        on_free: Callable[[], None],
    ) -> None:
        self._memory = memory
        self._files = files
        self._watch = watch
        self._on_free = on_free
        self._named: dict[str, Block] = {}
        self._unlinked: set[Block] = set()  # but open somewhere
        # Half of the descriptors are left to clients and segments.
        self._most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2 // FDS_PER_BLOCK

    def __len__(self) -> int:
        return len(self._named) + len(self._unlinked)

    @property
    def committed(self) -> int:
        """Bytes of pages that have been touched."""
        blocks = [*self._named.values(), *self._unlinked]
        return sum(os.fstat(block.fd).st_blocks * 512 for block in blocks)

    def create(self, name: str | None, nbytes: int) -> Block:
        """A new block of zeros, under a name of ours if it has none.

        Raises
        ------
        BlockExistsError
            If the name is taken.
        StoreFullError
            If there is no room, or the daemon has no descriptors for more.
        """
        if name is None:
            name = f"vab_{os.urandom(8).hex()}"
        if not 0 < len(name.encode()) <= MAX_NAME_NBYTES:
            raise InvalidObjectError(
                f"{name!r} cannot be the name of a block",
                f"it may have 1 to {MAX_NAME_NBYTES} bytes",
            )
        if nbytes <= 0:
            raise InvalidObjectError(f"a block of {nbytes} bytes")
        if name in self._named:
            raise BlockExistsError(f"there is a block {name!r} already", "open it, or unlink it")
        self.reap()
        if len(self) >= self._most:
            raise StoreFullError(
                f"{len(self):,} blocks take half of the daemon's descriptors",
                "unlink blocks, or start the daemon with more (ulimit -n)",
            )
        block = Block(name, nbytes)
        self._memory.reserve(block.charged)
        try:
            self._open(block)
        except OSError as error:
            block.close()
            self._memory.release(block.charged)
            raise StoreFullError(f"no file for a block of {nbytes:,} bytes: {error}") from None
        self._named[name] = block
        return block

    def _open(self, block: Block) -> None:
        block.fd, ro_fd = self._files.create_sealable("block")
        os.close(ro_fd)
        os.ftruncate(block.fd, block.nbytes)
        fcntl.fcntl(block.fd, fcntl.F_ADD_SEALS, _SEALS)
        block.hold_fd, block.gone_fd = os.pipe2(os.O_CLOEXEC)
        # A user's pipes are rationed by their size, and this one stays empty.
        fcntl.fcntl(block.gone_fd, fcntl.F_SETPIPE_SZ, PAGE)

    def get(self, name: str) -> Block:
        """The block of that name, or BlockNotFoundError."""
        block = self._named.get(name)
        if block is None:
            raise BlockNotFoundError(f"no block {name!r}", "it may have been unlinked")
        return block

    def unlink(self, name: str) -> None:
        """Free the name at once, the memory when nobody has it open; BlockNotFoundError."""
        block = self.get(name)
        del self._named[name]
        self._unlinked.add(block)
        os.close(block.hold_fd)
        block.hold_fd = -1
        self._watch(block.gone_fd, lambda: self._reap(block))
        self._reap(block)

    def clear(self) -> None:
        """Unlink all."""
        for name in list(self._named):
            self.unlink(name)

    def reap(self) -> None:
        """Free the memory of unlinked blocks that nobody has open any more."""
        for block in list(self._unlinked):
            self._reap(block)

    def _reap(self, block: Block) -> None:
        poll = select.poll()
        poll.register(block.gone_fd, 0)
        if not poll.poll(0):
            return
        self._unlinked.discard(block)
        self._watch(block.gone_fd, None)
        block.close()
        self._memory.release(block.charged)
        self._on_free()

    def close(self) -> None:
        """Close every descriptor; who has a block mapped keeps it."""
        for block in [*self._named.values(), *self._unlinked]:
            block.close()
        self._named.clear()
        self._unlinked.clear()
