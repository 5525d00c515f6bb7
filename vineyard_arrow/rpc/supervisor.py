"""Keeps a process that serves the store over TCP: starts it, starts it again, ends it.

For the daemon's event loop; it knows of the process no more than two pipes and its end.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..config import DaemonConfig
from ..config_values import WILDCARDS, is_loopback, rpc_address
from ..errors import VineyardArrowError, from_code
from ..ipc.loop import Loop, Timer

log = logging.getLogger("vineyard_arrow.rpc")

BACK_OFF_S = 0.1  # before the second start after a death; then twice that, and so on
MAX_BACK_OFF_S = 10.0
CALM_S = 60.0  # who lived that long died of something else


class Supervisor:
    """See the module's docstring.

    Parameters
    ----------
    what : str
        What it is to say of itself: RPC, or the dashboard.
    module : str
        To run as a program. It is told `settings` with ``socket``, ``host`` and ``port`` in a
        line of JSON, and answers by one with its ``port``, or with an error.
    socket : Path
        The daemon's.
    address : (str, int)
        Host and port to serve at.
    settings : mapping
        What else the program wants to know, in JSON's types.
    loop : Loop
    on_first : callable
        Called once, with None when the first process serves, or with why it cannot.
    """

    def __init__(
        self,
        what: str,
        module: str,
        socket: Path,
        address: tuple[str, int],
        settings: Mapping[str, object],
        loop: Loop,
        on_first: Callable[[VineyardArrowError | None], None],
    ) -> None:
        self._what = what
        self._module = module
        self._settings = {"socket": str(socket), **settings}
        self._loop = loop
        self._on_first: Callable[[VineyardArrowError | None], None] | None = on_first
        self._host, self._port = address
        self._process: subprocess.Popen[bytes] | None = None
        self._said = b""
        self.serves = False
        self._why = "starting"
        self._delay_s = BACK_OFF_S
        self._started = 0.0
        self._timer: Timer | None = None

    @property
    def state(self) -> str:
        """Where it serves, or why it does not."""
        return self.place if self.serves else f"not at {self.place}: {self._why}"

    @property
    def place(self) -> str:
        """Where it is to serve, the port given by the system once it did."""
        return _place(self._host, self._port)

    def advertised(self, config: DaemonConfig) -> str:
        """What to tell other instances of where it serves."""
        host, port = config.rpc_advertise or (self._host, None)
        if host in WILDCARDS:
            host = _own_address(config)
        return _place(host, port or self._port)

    def start(self) -> None:
        """Start a process."""
        settings = {**self._settings, "host": self._host, "port": self._port}
        package = str(Path(__file__).resolve().parents[2])
        paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._started = time.monotonic()
        self._said = b""
        process = self._process = subprocess.Popen(
            [sys.executable, "-m", self._module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # a terminal's Ctrl-C is for the daemon, which ends it
            cwd="/",
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        )
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # dead already, as we shall hear
            process.stdin.write(json.dumps(settings).encode() + b"\n")
            process.stdin.flush()
        os.set_blocking(process.stdout.fileno(), False)
        self._loop.add_reader(process.stdout.fileno(), self._heard)

    def _heard(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        data = os.read(self._process.stdout.fileno(), 4096)
        self._said += data
        if not data:
            self._ended()
        elif not self.serves and self._said.endswith(b"\n"):
            said = json.loads(self._said)
            if "port" in said:
                self._port, self.serves = said["port"], True
                log.info("%s: serving at %s", self._what, self.state)
                self._first(None)
            else:
                self._why = said["message"]
                self._first(from_code(said["code"], said["message"], said["hint"]))

    def _first(self, error: VineyardArrowError | None) -> None:
        told, self._on_first = self._on_first, None
        if told is not None:
            told(error)

    def _ended(self) -> None:
        """Its standard output is closed: it is dead, or as good as that."""
        served, self.serves = self.serves, False
        status = self._forget(kill=True)
        if served:
            how = f"by signal {-status}" if status < 0 else f"with status {status}"
            self._why = f"its process ended {how}"
        if self._on_first is not None:
            self._first(
                VineyardArrowError(f"{self._what} does not start: {self._why}", "see the log")
            )
            return
        if time.monotonic() - self._started > CALM_S:
            self._delay_s = BACK_OFF_S
        log.error("%s: %s; next start in %g s", self._what, self.state, self._delay_s)
        self._timer = self._loop.call_later(self._delay_s, self.start)
        self._delay_s = min(2 * self._delay_s, MAX_BACK_OFF_S)

    def _forget(self, *, kill: bool) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        assert process.stdin is not None
        assert process.stdout is not None
        self._loop.remove_reader(process.stdout.fileno())
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.stdout.close()
        if kill:
            process.send_signal(signal.SIGKILL)
        return process.wait()

    def stop(self) -> None:
        """End it, and start none any more."""
        if self._timer is not None:
            self._timer.cancel()
        self.serves, self._why = False, "stopped"
        self._forget(kill=True)


def rpc_supervisor(
    config: DaemonConfig, loop: Loop, on_first: Callable[[VineyardArrowError | None], None]
) -> Supervisor:
    """That of the process that serves clients over RPC; the settings have an address for it."""
    assert config.rpc is not None
    settings = {
        "token_file": _text(config.rpc_token_file),
        "cert_file": _text(config.rpc_cert_file),
        "key_file": _text(config.rpc_key_file),
    }
    module = "vineyard_arrow.rpc.server"
    return Supervisor("RPC", module, config.socket, config.rpc, settings, loop, on_first)


def _place(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _own_address(config: DaemonConfig) -> str:
    """The address that the way to etcd begins with; the machine's name if that is on this one."""
    with contextlib.suppress(OSError):
        if config.meta is not None:
            host, port = rpc_address(config.meta.endpoints[0])
            family, kind, proto, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[
                0
            ]
            with socket.socket(family, kind, proto) as sock:
                sock.connect(place)  # sends nothing
                own: str = sock.getsockname()[0]
            if not is_loopback(own):
                return own
    return socket.gethostname()


def _text(path: Any) -> str | None:
    return None if path is None else str(path)
