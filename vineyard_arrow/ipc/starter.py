"""Starts a daemon for a client that finds none: detached, and only one however many ask."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from ..config import private_folder
from ..errors import ConfigError, DeadlineExceededError, from_code
from .connection import Connection


def connect_or_start(path: Path, timeout_s: float, *, autostart: bool) -> Connection:
    """Connect to the daemon at ``path``; start one first if there is none.

    Raises
    ------
    ConfigError
        If there is none and ``autostart`` is false, or it cannot start.
    """
    with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
        return Connection.open(path, timeout_s)
    if not autostart:
        raise ConfigError(
            f"no daemon listens at {path}", f"start one: vineyard-arrow start --socket {path}"
        )
    with starting(path):
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            return Connection.open(path, timeout_s)  # somebody else was faster
        start_daemon(["--socket", str(path)], path, timeout_s)
        return Connection.open(path, timeout_s)


@contextlib.contextmanager
def starting(path: Path) -> Iterator[None]:
    """Hold the right to start the daemon at ``path``; the kernel frees it if we die."""
    if path.parent == private_folder():
        path.parent.mkdir(mode=0o700, exist_ok=True)
    try:
        fd = os.open(f"{path}.start", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileNotFoundError:
        raise no_folder(path) from None
    except OSError as error:
        raise ConfigError(f"cannot start a daemon at {path}: {error}") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)  # the holder waits for its daemon with a deadline
        yield
    finally:
        os.close(fd)


def no_folder(path: Path) -> ConfigError:
    """The error for a socket whose folder is not there."""
    return ConfigError(
        f"cannot start a daemon at {path}: folder {path.parent} does not exist",
        f"mkdir -p {path.parent}, or set socket to a path in another one",
    )


def start_daemon(arguments: list[str], path: Path, timeout_s: float) -> int:
    """Start ``vineyard-arrow serve`` detached from this process; return its pid once it is up.

    Its log goes to the socket's path with ``.log`` added.

    Raises
    ------
    VineyardArrowError
        What it says went wrong.
    DeadlineExceededError
        If it is not up in time.
    """
    ready, told = os.pipe2(os.O_CLOEXEC)
    log = os.open(f"{path}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "vineyard_arrow", "serve", *arguments, "--ready-fd", str(told)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[told],
            start_new_session=True,
            cwd="/",
            env=child_environment(),
        )
    finally:
        os.close(told)
        os.close(log)
    # The process forks at once and its parent ends: init reaps the daemon, not we.
    process.wait()
    return await_ready(ready, path, timeout_s)


def child_environment() -> dict[str, str]:
    """That of a process that runs this very package, wherever it was imported from."""
    package = str(Path(__file__).resolve().parents[2])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


def await_ready(fd: int, path: Path, timeout_s: float) -> int:
    """Wait for the line that a starting daemon writes to ``fd`` (closed here); return its pid.

    Raises
    ------
    VineyardArrowError
        What it says went wrong.
    DeadlineExceededError
        If it is not up in time.
    """
    deadline = time.monotonic() + timeout_s
    said = b""
    with open(fd, "rb", buffering=0) as pipe:
        while not (said.startswith(b"ready") and said.endswith(b"\n")):
            left = max(0.0, deadline - time.monotonic())
            if not select.select([pipe], [], [], left)[0]:
                raise DeadlineExceededError(
                    f"the daemon at {path} was not up within {timeout_s:g} s", f"see {path}.log"
                )
            chunk = pipe.read(4096)
            if not chunk:
                break
            said += chunk
    if said.startswith(b"ready"):
        return int(said.split()[1])
    code, message, hint = (said.decode(errors="replace") + "\n\n").split("\n")[:3]
    if not message:
        raise ConfigError(f"the daemon at {path} did not start", f"see {path}.log")
    raise from_code(code, message, hint or None)
