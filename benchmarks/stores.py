"""A daemon of the benchmarks' own, on a socket in a temporary folder."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path
from typing import Any

import vineyard_arrow
from vineyard_arrow.ipc.hugepages import (
    HugePagesUnavailable,
    MemFiles,
    SharedFiles,
    open_huge_files,
)
from vineyard_arrow.ipc.starter import start_daemon

START_TIMEOUT_S = 30.0


class Store:
    """A running daemon with a client of this process, and files to compare with.

    Parameters
    ----------
    folder : Path
        For the socket.
    pages : {"auto", "small"}
        As the daemon knows them.
    files : SharedFiles
        What the daemon's own segments are made of, for yardsticks.
    """

    def __init__(self, folder: Path, pages: str, files: SharedFiles) -> None:
        self.files = files
        self.socket = str(folder / f"{pages}.sock")
        self.pid = start_store(self.socket, pages)
        self.client: Any = vineyard_arrow.connect(self.socket, autostart=False)
        self.huge = files.huge
        self.pages = "huge pages" if files.huge else "4 KiB pages"
        self.page_kind = self.client.status().page_kind

    def connect(self) -> Any:
        """A further client."""
        return vineyard_arrow.connect(self.socket, autostart=False)

    def close(self) -> None:
        """Stop the daemon and wait for its end."""
        self.client.close()
        stop(self.pid)


def start_store(socket: str, pages: str = "auto", *options: str) -> int:
    """Start a daemon; return its pid once clients can connect."""
    arguments = ["--socket", socket, "--pages", pages, *options]
    return start_daemon(arguments, Path(socket), START_TIMEOUT_S)


def stop(pid: int, timeout_s: float = 10.0) -> None:
    """End a process that need not be our child, and wait for it."""
    fd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(fd, signal.SIGTERM)
        select.select([fd], [], [], timeout_s)
    finally:
        os.close(fd)


def auto_files(nbytes: int) -> SharedFiles:
    """The files that a daemon with ``--pages auto`` would use. Forks: call it early."""
    try:
        return open_huge_files(nbytes)
    except HugePagesUnavailable:
        return MemFiles()


def descriptors(pid: int) -> int:
    """Open descriptors of a process."""
    return len(os.listdir(f"/proc/{pid}/fd"))
