"""What a fork does to an attachment: the child's connection is made before it, and taken over.

The parent asks the daemon for a connection with a copy of its own pins, so nothing that the
child inherits can be reclaimed under it. That holds for open attachments and, by `Remnant`,
for closed ones whose values live on.
"""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass

from ..errors import VineyardArrowError
from . import _core
from . import protocol as p
from .connection import Connection


@dataclass(slots=True)
class Prepared:
    """What the child will need, made before the fork."""

    fds: list[int]  # connection, table, event
    reply: p.Forked

    def discard(self) -> None:
        """In the parent: leave it to the child."""
        for fd in self.fds:
            os.close(fd)


def prepare(core: _core.Attachment, connection: Connection) -> Prepared | None:
    """Make the child's connection, if it will inherit anything of the store."""
    extents = core.sealed_in_use()
    if not core.pinned and not extents:
        return None
    # A fork must not fail for our sake: without a connection the child's inherited
    # values are unprotected, as they would be were the daemon dead.
    with contextlib.suppress(VineyardArrowError):
        reply, fds = connection.request(p.Fork(extents))
        return Prepared(fds, reply)
    return None


def take_over(core: _core.Attachment, prepared: Prepared | None) -> int:
    """In the child: let go of what is the parent's; return the new connection, or -1.

    The mapping owns that descriptor.
    """
    if prepared is None:
        core.after_fork(-1, False)
        return -1
    sock_fd, table_fd, event_fd = prepared.fds
    core.after_fork(sock_fd, True)
    core.set_table(table_fd, event_fd)
    os.close(table_fd)
    return sock_fd


class Remnant:
    """A closed attachment, as long as buffers need its mapping; it keeps nothing alive.

    The mapping owns a descriptor of the connection, over which the daemon can still be asked.
    """

    def __init__(self, core: _core.Attachment, connection: Connection, timeout_s: float) -> None:
        self._find = _core.WeakAttachment(core)
        self._connection = connection  # closed, but it knows where in the stream we are
        self._timeout_s = timeout_s
        self._core: _core.Attachment | None = None  # held during a fork
        self._prepared: Prepared | None = None

    @property
    def alive(self) -> bool:
        """Whether anything still needs it."""
        return self._find() is not None

    def before_fork(self) -> None:
        """Make the child's connection."""
        self._prepared = None
        core = self._core = self._find()
        connection = self._connection
        if core is None or core.socket < 0 or connection.lost != "closed":
            return
        connection.resume(os.dup(core.socket))
        connection.on_retired = core.remove_segments
        self._prepared = prepare(core, connection)
        connection.close()

    def after_fork_in_parent(self) -> None:
        """Leave the child's connection to the child."""
        if self._prepared is not None:
            self._prepared.discard()
        self._prepared = self._core = None

    def after_fork_in_child(self) -> None:
        """Take over the connection made for us."""
        prepared, self._prepared = self._prepared, None
        core, self._core = self._core, None
        if core is None:
            return
        sock_fd = take_over(core, prepared)
        if prepared is not None:
            sock = socket.socket(fileno=os.dup(sock_fd))
            self._connection = Connection(sock, self._timeout_s)
            self._connection.close()
