"""The process that senders and receivers are forked from.

It has imported what they need, and nothing else: no store, no connection, no thread of ours. So a
fork of it is an end of a migration within milliseconds, where an interpreter of its own takes a
quarter of a second. It ends when who started it does, or has asked for nothing for a while.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import warnings

IDLE_S = 60.0  # who asks gives up on it earlier, see `ends.KEEP_S`


# Importing pyarrow imports NumPy, if there is one, which takes as long again and is not needed.
COMMAND = """import sys
sys.modules["numpy"] = None
from vineyard_arrow.migration.forkserver import main
del sys.modules["numpy"]
main()
"""


def _end(sock: socket.socket) -> None:
    """Be an end, whose job comes on ``sock``."""
    from .endpoint import SendOrder, Starter, run
    from .receiver import receive
    from .sender import send

    def work(starter: Starter) -> int:
        sends = isinstance(starter.job.order, SendOrder)
        sys.argv = ["migration " + ("sender" if sends else "receiver")]  # what `status` shows
        return (send if sends else receive)(starter)

    run(sock, work)


def main() -> None:
    """Fork an end for each socket that comes over standard input."""
    control = socket.socket(fileno=os.dup(0))
    # What each end would import itself otherwise; the codec is of names of hosts.
    import encodings.idna  # noqa: F401

    from . import landing, receiver, sender, tcp, tree  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who asked for an end sees it end
    warnings.simplefilter("ignore", DeprecationWarning)  # Arrow's allocator has a thread, and forks
    gc.freeze()
    control.settimeout(IDLE_S)
    while True:
        try:
            _, fds, _, _ = socket.recv_fds(control, 1, 1)
        except TimeoutError:
            return
        if not fds:
            return
        sock = socket.socket(fileno=fds[0])
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            control.close()
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, 0)
            os.close(null)
            _end(sock)
        sock.close()
