"""The daemon process: settings, logging, signals, and a service on an event loop.

It ends by itself on SIGTERM, SIGINT or a stop request. It never reads or writes payload.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .cluster import Cluster
from .config import DaemonConfig
from .errors import ConfigError, VineyardArrowError
from .ipc import server
from .ipc.hugepages import HugePagesUnavailable, MemFiles, SharedFiles, open_huge_files
from .ipc.loop import Loop
from .ipc.protocol import UNASKED, encode, failure
from .ipc.starter import no_folder
from .joining import open_cluster
from .machine import check_memory_limit, format_size, total_memory
from .rpc.supervisor import Supervisor, rpc_supervisor
from .service import Service
from .sessions import Session

log = logging.getLogger("vineyard_arrow.daemon")


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        event = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return json.dumps(event)


def _start_logging(config: DaemonConfig) -> None:
    handler = logging.FileHandler(config.log_file) if config.log_file else logging.StreamHandler()
    handler.setFormatter(
        _JsonFormatter()
        if config.log_format == "json"
        else logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    )
    root = logging.getLogger("vineyard_arrow")
    root.addHandler(handler)
    root.setLevel(config.log_level)
    root.propagate = False


def _open_files(config: DaemonConfig, limit: int) -> SharedFiles:
    """Huge pages where the machine has them and the limit is worth them, else memfds."""
    if config.pages == "small" or (config.pages == "auto" and limit < 1 << 30):
        return MemFiles(huge=False)
    try:
        # The books keep to the limit; the mount's own size is only the last fence.
        return open_huge_files(total_memory())
    except HugePagesUnavailable as error:
        if config.pages == "huge":
            raise ConfigError(f"no huge pages: {error.reason}", "use --pages auto") from None
        log.info("no huge pages by tmpfs (%s), using memfds", error.reason)
        return MemFiles()


@contextlib.contextmanager
def _sole_owner(path: Path) -> Any:
    """Hold the lock beside the socket, so that two daemons never race for it."""
    try:
        fd = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileNotFoundError:
        raise no_folder(path) from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise ConfigError(f"a daemon is already serving {path}") from None
    try:
        yield
    finally:
        os.close(fd)


def serve(config: DaemonConfig, ready: Callable[[], None] | None = None) -> None:
    """Serve until told to stop.

    Parameters
    ----------
    config : DaemonConfig
    ready : callable, optional
        Called once clients can connect.

    Raises
    ------
    ConfigError
        If the socket is taken or the machine cannot give what was asked for.
    MetadataUnavailableError, AccessDeniedError, MetadataFullError
        If the cluster cannot be joined.
    """
    limit = check_memory_limit(config.memory_limit)
    with _sole_owner(config.socket):
        files = _open_files(config, limit)  # forks: before anything starts a thread
        _start_logging(config)
        _raise_descriptor_limit()
        with open_cluster(config) as cluster:
            listener = server.listen(config.socket, config.mode, config.group)
            try:
                _run(config, files, limit, listener, cluster, ready)
            finally:
                listener.close()
                config.socket.unlink(missing_ok=True)


def _raise_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _run(
    config: DaemonConfig,
    files: SharedFiles,
    limit: int,
    listener: socket.socket,
    cluster: Cluster,
    ready: Callable[[], None] | None,
) -> None:
    loop = Loop()

    def watch(fd: int, function: Callable[[], None] | None) -> None:
        if function is None:
            loop.remove_reader(fd)
        else:
            loop.add_reader(fd, function)

    def serve_socket(sock: socket.socket, pid: int, uid: int) -> Session:
        session = Session(
            pid,
            uid,
            lambda number, reply, fds: connection.send(number, reply, fds),
            lambda error: connection.refuse(error),
        )

        def on_message(number: int, message: Any) -> None:
            try:
                service.handle(session, number, message)
            except Exception as error:
                log.exception("request %s failed", type(message).__name__)
                internal = VineyardArrowError(f"internal error of the daemon: {error!r}")
                connection.send(number, failure(internal), [])

        def on_close() -> None:
            connections.discard(connection)
            service.left(session)

        connection = server.Connection(loop, sock, on_message, on_close)
        connections.add(connection)
        service.joined(session)
        return session

    def accepted(sock: socket.socket) -> None:
        pid, uid = server.peer_of(sock)
        try:
            server.check_peer(uid, config.mode)
        except VineyardArrowError as error:
            log.warning("refused process %d: %s", pid, error)
            with contextlib.suppress(OSError):
                sock.send(encode(UNASKED, failure(error)), socket.MSG_DONTWAIT)
            sock.close()
            return
        serve_socket(sock, pid, uid)

    def connect(parent: Session) -> tuple[Session, int]:
        ours, theirs = socket.socketpair()
        return serve_socket(ours, parent.pid, parent.uid), theirs.detach()

    failed: VineyardArrowError | None = None

    def began(error: VineyardArrowError | None) -> None:
        nonlocal failed
        if error is not None:
            failed = error
            loop.stop()
        elif not all(child.serves for child in children):
            return  # the last one comes here, too
        elif rpc is not None:
            cluster.announce(rpc.advertised(config), announced)
        else:
            announced(None)

    def announced(error: VineyardArrowError | None) -> None:
        if error is not None:
            began(error)
        elif ready is not None:
            ready()

    rpc = None if config.rpc is None else rpc_supervisor(config, loop, began)
    dashboard = None if config.dashboard is None else _dashboard(config, loop, began)
    children = [child for child in (rpc, dashboard) if child is not None]
    connections: set[server.Connection] = set()
    service = Service(
        files,
        limit,
        config.max_objects,
        config.idle_trim_s,
        loop.call_later,
        watch,
        connect,
        loop.stop,
        cluster,
        lambda: "" if rpc is None else rpc.state,
        lambda: "" if dashboard is None else dashboard.state,
    )
    server.accept_all(loop, listener, accepted)
    log.info(
        "serving %s: instance %06x, up to %s on %s pages",
        config.socket,
        service.instance,
        format_size(limit),
        files.page_kind,
    )
    # What is here stays; records come and go by counting alone, so collect seldom.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    try:
        with loop.stopped_by(signal.SIGTERM, signal.SIGINT):
            for child in children:
                child.start()
            if not children and ready is not None:
                ready()
            loop.run()
    finally:
        log.info("stopping")
        for child in children:
            child.stop()
        loop.remove_reader(listener.fileno())
        service.stop_serving()
        for connection in list(connections):
            connection.close()
        service.close()
        loop.close()
    if failed is not None:
        raise failed


def _dashboard(
    config: DaemonConfig, loop: Loop, began: Callable[[VineyardArrowError | None], None]
) -> Supervisor:
    assert config.dashboard is not None
    module = "vineyard_arrow.dashboard.server"
    return Supervisor("the dashboard", module, config.socket, config.dashboard, {}, loop, began)


def main_from_config(config: DaemonConfig, ready_fd: int | None = None) -> int:
    """Run `serve` as a process: exit status, and one line to ``ready_fd`` when it is up.

    The line is ``ready`` or the error; the descriptor is closed then, which is what a
    starting client waits for.
    """

    def tell(line: str) -> None:
        nonlocal ready_fd
        if ready_fd is not None:
            with contextlib.suppress(OSError):
                os.write(ready_fd, line.encode())
            os.close(ready_fd)
            ready_fd = None

    try:
        serve(config, lambda: tell(f"ready {os.getpid()}\n"))
    except VineyardArrowError as error:
        tell(f"{error.code}\n{error.message}\n{error.hint or ''}\n")
        print(f"vineyard-arrow: {error}", file=sys.stderr)
        return 1
    return 0
