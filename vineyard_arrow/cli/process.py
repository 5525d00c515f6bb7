"""The commands about the daemon's process: start, serve, stop; and finding a running one.

`start` forks what will be the daemon from this very process, which has imported pyarrow
already: starting another interpreter would double what a start takes.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import sys
from argparse import Namespace

from ..config import ClientConfig, DaemonConfig, client_config, daemon_config
from ..errors import DeadlineExceededError, VineyardArrowError
from ..ipc import protocol as p
from ..ipc.connection import Connection
from ..ipc.starter import await_ready, starting
from ..machine import format_size
from .parser import DAEMON_SETTINGS
from .report import Line, NoDaemonError, Pairs, Report

GONE = (FileNotFoundError, ConnectionRefusedError)


def reader_config(args: Namespace) -> ClientConfig:
    """Settings of a client that never starts a daemon."""
    return client_config(socket=args.socket, autostart=False)


def open_running(config: ClientConfig) -> Connection:
    """Connect to the daemon that runs, without attaching its memory.

    Raises
    ------
    NoDaemonError
        If none does.
    """
    try:
        return Connection.open(config.socket, config.timeout_s)
    except GONE:
        raise NoDaemonError(
            f"no daemon listens at {config.socket}",
            f"start one: vineyard-arrow start --socket {config.socket}",
        ) from None


def get_status(connection: Connection) -> p.Status:
    """The daemon's figures."""
    reply, _ = connection.request(p.GetStatus())
    assert isinstance(reply, p.Status)
    return reply


def _settings(args: Namespace) -> DaemonConfig:
    return daemon_config(socket=args.socket, **{k: getattr(args, k) for k in DAEMON_SETTINGS})


# ---- serve


def serve(args: Namespace) -> Report:
    """Run the daemon in this process until it is told to stop."""
    try:
        config = _settings(args)
        from ..daemon import main_from_config
    except VineyardArrowError as error:
        if args.ready_fd is not None:  # a starting client passes the reason on
            said = f"{error.code}\n{error.message}\n{error.hint or ''}\n"
            os.write(args.ready_fd, said.encode())
        raise
    return Report(status=main_from_config(config, args.ready_fd))


# ---- start


def start(args: Namespace) -> Report:
    """Start a daemon in the background, unless one runs."""
    config = _settings(args)
    timeout_s = client_config(socket=config.socket, autostart=False).timeout_s
    with contextlib.suppress(*GONE):
        return _started(config, timeout_s, fresh=False)
    with starting(config.socket):
        with contextlib.suppress(*GONE):
            return _started(config, timeout_s, fresh=False)
        _fork_daemon(config, timeout_s)
        return _started(config, timeout_s, fresh=True)


def _started(config: DaemonConfig, timeout_s: float, *, fresh: bool) -> Report:
    path = config.socket
    connection = Connection.open(path, timeout_s)
    try:
        status = get_status(connection)
    finally:
        connection.close()
    data = {
        "started": fresh,
        "socket": str(path),
        "pid": status.pid,
        "memory_limit": status.memory_limit,
        "log": f"{path}.log",
    }
    told = "started a daemon" if fresh else "a daemon runs there already; it stays as it is"
    wanted = -(-(config.memory_limit or status.memory_limit) // mmap.PAGESIZE) * mmap.PAGESIZE
    if wanted != status.memory_limit:
        told += f", with a limit other than {format_size(wanted)}: stop it first to change that"
    rows = [
        ("socket", str(path)),
        ("pid", str(status.pid)),
        ("limit", format_size(status.memory_limit)),
    ]
    return Report([Line(told), Pairs(rows)], data)


def _fork_daemon(config: DaemonConfig, timeout_s: float) -> None:
    """Fork a daemon that is no child of ours; return once it is up.

    Raises
    ------
    VineyardArrowError
        What it says went wrong.
    """
    ready, told = os.pipe()
    log_fd = os.open(f"{config.socket}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setsid()
            status = 0 if os.fork() else _become_daemon(config, told, log_fd)
        finally:
            os._exit(status)
    os.close(told)
    os.close(log_fd)
    os.waitpid(child, 0)
    await_ready(ready, config.socket, timeout_s)


def _become_daemon(config: DaemonConfig, told: int, log_fd: int) -> int:
    """Let go of all that was the starting process's, then serve."""
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log_fd, 1), (log_fd, 2)):
        os.dup2(source, target)
    # The lock of the start is among them: it must not live as long as the daemon.
    os.closerange(3, told)
    os.closerange(told + 1, os.sysconf("SC_OPEN_MAX"))
    os.chdir("/")
    from ..daemon import main_from_config

    return main_from_config(config, told)


# ---- stop


def stop(args: Namespace) -> Report:
    """Ask the daemon to stop and wait until its process is gone."""
    config = reader_config(args)
    timeout_s = config.timeout_s if args.timeout_s is None else args.timeout_s
    data = {"stopped": False, "socket": str(config.socket), "pid": None}
    try:
        connection = open_running(config)
    except NoDaemonError:
        return Report([Line(f"no daemon runs at {config.socket}")], data)
    try:
        # By the kernel: a daemon of another release may say things we cannot read.
        pid = connection.peer_pid() or get_status(connection).pid
        gone = _watch_end(pid, connection)
        try:
            connection.request(p.Stop())
            if not select.select([gone], [], [], max(timeout_s, 0.0))[0]:
                raise DeadlineExceededError(
                    f"the daemon (pid {pid}) was asked to stop but is still there after"
                    f" {timeout_s:g} s",
                    f"wait longer, or kill it: kill -9 {pid}",
                )
        finally:
            os.close(gone)
    finally:
        connection.close()
    return Report([Line(f"stopped the daemon (pid {pid})")], data | {"stopped": True, "pid": pid})


def _watch_end(pid: int, connection: Connection) -> int:
    """A descriptor that is readable once process ``pid`` (else only its socket) is gone."""
    try:
        return os.pidfd_open(pid)
    except OSError:  # in another pid namespace
        return os.dup(connection.fileno())
