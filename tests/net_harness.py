"""Ways to cut an instance off from its etcd: two hosts of network namespaces, and a TCP relay.

Neither needs more than a kernel that gives user namespaces. Nothing here knows of clusters.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import START_S, Daemon

from vineyard_arrow.ipc.starter import await_ready, child_environment

NEAR, FAR = "10.77.0.1", "10.77.0.2"

# Run inside of a namespace. Netlink by hand, so no program for it is needed.
_SETUP = r"""
import fcntl, socket, struct, sys

def attribute(kind, data):
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)

def make_pair(name, peer, pid):
    link = struct.pack("=BxHiII", 0, 0, 0, 0, 0)  # ifinfomsg
    far = link + attribute(3, peer.encode() + b"\0") + attribute(19, struct.pack("=I", pid))
    info = attribute(1, b"veth\0") + attribute(2, attribute(1, far))  # IFLA_INFO_KIND, _DATA
    body = link + attribute(3, name.encode() + b"\0") + attribute(18, info)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        # RTM_NEWLINK; REQUEST, ACK, CREATE, EXCL
        netlink.send(struct.pack("=IHHII", 16 + len(body), 16, 0x605, 1, 0) + body)
        code = struct.unpack_from("=i", netlink.recv(4096), 16)[0]
        assert code == 0, f"no pair of devices: error {-code}"

def set_up(name, address=None, up=True):
    def ioctl(what, data):
        return fcntl.ioctl(sock, what, struct.pack("16s", name.encode()) + data.ljust(24, b"\0"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        if address:
            ioctl(0x8916, struct.pack("=HH4s", 2, 0, socket.inet_aton(address)))  # SIOCSIFADDR
            ioctl(0x891C, struct.pack("=HH4s", 2, 0, socket.inet_aton("255.255.255.0")))
        flags, = struct.unpack_from("=H", ioctl(0x8913, b""), 16)
        ioctl(0x8914, struct.pack("=H", flags | 1 if up else flags & ~1))  # IFF_UP

what, *rest = sys.argv[1:]
if what == "pair":
    make_pair("near", "far", int(rest[0]))
    set_up("near", rest[1])
    set_up("lo")
elif what == "far":
    set_up("far", rest[0])
    set_up("lo")
else:
    set_up("near", up=what == "up")
"""


class _Namespace:
    """A process that does nothing but keep its namespaces, and ends when this one does."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            [*command, "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        # What comes back has passed through a `cat` that is in the namespace.
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(b"?")
            self._process.stdin.flush()
        if self._process.stdout.read(1) != b"?":
            pytest.skip("the kernel gives no network namespaces; the relay's tests remain")
        self.pid = self._process.pid
        self.enter = ["nsenter", f"--target={self.pid}", "-U", "-n", "--preserve-credentials"]

    def run(self, *arguments: str) -> None:
        command = [*self.enter, sys.executable, "-c", _SETUP, *arguments]
        subprocess.run(command, check=True)

    def close(self) -> None:
        self._process.communicate()


class Hosts:
    """Two hosts, ``near`` and ``far``, with a cable that can be pulled; close it in the end."""

    def __init__(self) -> None:
        with contextlib.ExitStack() as stack:
            self.near = _Namespace(["unshare", "--map-root-user", "--net"])
            stack.callback(self.near.close)
            self.far = _Namespace([*self.near.enter, "unshare", "--net"])
            stack.callback(self.far.close)
            self.near.run("pair", str(self.far.pid), NEAR)
            self.far.run("far", FAR)
            self._stack = stack.pop_all()

    def cut(self) -> None:
        """Pull the cable: packets go nowhere, and nobody is told."""
        self.near.run("down")

    def heal(self) -> None:
        self.near.run("up")

    def close(self) -> None:
        self._stack.close()


class Relay:
    """Passes TCP on to an address, until a direction is cut: then it keeps what comes.

    Connections stay, as they do where a network is cut, and get what was kept when it heals.
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._there, self._back = threading.Event(), threading.Event()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._closed = False
        self.heal()
        self._start(self._accept)

    def cut(self, *, there: bool = True, back: bool = True) -> None:
        if there:
            self._there.clear()
        if back:
            self._back.clear()

    def heal(self) -> None:
        self._there.set()
        self._back.set()

    def close(self) -> None:
        self._closed = True
        self.heal()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for each in self._sockets:
            each.close()

    def _start(self, function: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=function, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client = self._listener.accept()[0]
            except OSError:
                return
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            self._sockets += [client, server]
            self._start(self._pass, client, server, self._there)
            self._start(self._pass, server, client, self._back)

    def _pass(self, source: socket.socket, target: socket.socket, way: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                way.wait()
                target.sendall(data)
        way.wait()
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


def own_files(folder: Path, real: Path) -> list[str]:
    """What to start a program by for which ``folder`` is what ``real`` is here."""
    mount = 'mount --bind "$0" "$1" && shift && exec "$@"'
    trial = ["unshare", "--map-root-user", "--mount", "true"]
    if subprocess.run(trial, capture_output=True, check=False).returncode:
        pytest.skip("the kernel gives no mount namespaces")
    return ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, str(real), str(folder)]


def start_in(enter: Sequence[str], command: Sequence[str], **how: Any) -> subprocess.Popen[bytes]:
    """Start a program by way of another that makes namespaces, or enters them."""
    return subprocess.Popen(
        [*enter, *command], stdin=subprocess.DEVNULL, env=child_environment(), cwd="/", **how
    )


def run_in(enter: Sequence[str], socket: Path, *options: str) -> Daemon:
    """A daemon that is started so."""
    ready, told = os.pipe2(os.O_CLOEXEC)
    command = [sys.executable, "-m", "vineyard_arrow", "serve", "--socket", str(socket), *options]
    with open(f"{socket}.log", "ab") as log:
        process = start_in(
            enter, [*command, "--ready-fd", str(told)], stdout=log, stderr=log, pass_fds=[told]
        )
    os.close(told)
    process.wait()  # it forks, and goes on as the daemon
    return Daemon(socket, await_ready(ready, socket, START_S))
