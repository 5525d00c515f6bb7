"""The process that shows a store over HTTP: a page, its figures in JSON, Prometheus' metrics.

A process of its own, kept by the daemon as that of RPC is, see `rpc.supervisor`. It answers GET
alone, to requests that name this machine (a page of another site can reach it by a name of its own,
by no other), and gives each connection a few seconds, and all of them a number.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import socket
import sys
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..cli.report import jsonable
from ..errors import ConfigError, VineyardArrowError
from .figures import Figures
from .metrics import CONTENT_TYPE, metrics

CONNECTIONS = 32  # at a time
PATIENCE_S = 10.0  # for a connection, from its first byte to its last
FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/script.js": ("script.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What the daemon tells the process, in JSON."""

    socket: str
    host: str
    port: int


def is_ours(host: str, names: frozenset[str]) -> bool:
    """Whether the ``Host`` of a request is an address, or one of ``names``.

    Any other name may be another site's, led here by its own DNS.

    Examples
    --------
    >>> is_ours("[::1]:80", frozenset()), is_ours("evil.example:80", frozenset())
    (True, False)
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
        ipaddress.ip_address(name)
    except ValueError:
        return name_of(host) in names
    return True


def name_of(host: str) -> str:
    """The name in ``host``, which may have a port."""
    return host.partition(":")[0].rstrip(".").lower()


class Server(ThreadingHTTPServer):
    """See the module's docstring."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, settings: Settings) -> None:
        self.address_family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        self.figures = Figures(Path(settings.socket))
        own = {"localhost", settings.host.lower(), socket.gethostname().lower()}
        self.names = frozenset(own)
        page = resources.files(__package__) / "page"
        self.files = {
            path: ((page / name).read_bytes(), kind) for path, (name, kind) in FILES.items()
        }
        self._open: dict[Any, float] = {}
        self._lock = threading.Lock()
        super().__init__((settings.host, settings.port), Handler)

    def server_bind(self) -> None:
        """Bind, without the look-up of the host's name that `HTTPServer` makes."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether there is room for one more connection."""
        with self._lock:
            if len(self._open) >= CONNECTIONS:
                return False
            self._open[request] = time.monotonic()
            return True

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        with self._lock:
            self._open.pop(request, None)
            super().shutdown_request(request)

    def service_actions(self) -> None:
        """Every half a second: end the connections that took too long."""
        late = time.monotonic() - PATIENCE_S
        with self._lock:
            for request, since in self._open.items():
                if since < late:
                    with contextlib.suppress(OSError):
                        request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that hang up; all else as ever."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One request, and one answer."""

    server: Server
    timeout = PATIENCE_S
    server_version = "vineyard-arrow"
    sys_version = ""

    def parse_request(self) -> bool:
        """Refuse what is no GET, or not for us, before anything else is looked at."""
        if not super().parse_request():
            return False
        if self.command != "GET":
            self._answer(405, b"only GET is allowed\n", allow="GET")
            return False
        if not is_ours(self.headers.get("Host", "127.0.0.1"), self.server.names):
            self._answer(403, b"this is another host; use its address\n")
            return False
        return True

    def do_GET(self) -> None:
        """Answer with a file of the page, or figures."""
        path = urlsplit(self.path).path
        try:
            if path in self.server.files:
                self._answer(200, *self.server.files[path])
            elif path == "/figures.json":
                body = json.dumps(jsonable(self.server.figures.page())).encode()
                self._answer(200, body, "application/json")
            elif path == "/metrics":
                body = metrics(self.server.figures.status()).encode()
                self._answer(200, body, CONTENT_TYPE)
            else:
                self._answer(404, b"there is nothing here\n")
        except VineyardArrowError as error:
            self._answer(503, f"{error}\n".encode())

    def _answer(
        self,
        status: int,
        body: bytes,
        kind: str = "text/plain; charset=utf-8",
        allow: str | None = None,
    ) -> None:
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(body)), **HEADERS}
        for name, value in (headers | ({"Allow": allow} if allow else {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a page asks every two seconds."""


def main() -> None:
    """Serve until standard input ends; tell on standard output where, or why not."""
    settings = Settings(**json.loads(sys.stdin.readline()))
    try:
        server = Server(settings)
    except OSError as error:
        message = f"cannot listen at {settings.host}:{settings.port}: {error.strerror or error}"
        hint = "use another --dashboard address; port 0 takes a free one"
        print(json.dumps({"code": ConfigError.code, "message": message, "hint": hint}), flush=True)
        raise SystemExit(1) from None
    print(json.dumps({"port": server.server_port}), flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()  # returns when the daemon ends, or wants us to
    os._exit(0)


if __name__ == "__main__":
    main()
