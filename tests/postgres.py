"""A server of PostgreSQL for tests: a throwaway one, by a user that is not root.

Its programs are those in $VINEYARD_POSTGRES, else of Debian's package, else of PATH.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any

USER, PASSWORD = "vineyard", "se:cr/et"
START_S = 60.0


def programs() -> Path:
    """The directory of initdb and postgres."""
    if named := os.environ.get("VINEYARD_POSTGRES"):
        return Path(named)
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: float(p.parent.name))
    if debian:
        return debian[-1]
    found = shutil.which("postgres")
    if found is None:
        raise RuntimeError("there is no PostgreSQL: name its programs in $VINEYARD_POSTGRES")
    return Path(found).resolve().parent


class Postgres:
    """A running server, on loopback with a password and on a UNIX socket without."""

    def __init__(self) -> None:
        self.bin = programs()
        self.folder = Path(tempfile.mkdtemp(prefix="va-pg-"))
        self._as_user: dict[str, Any] = {"cwd": self.folder, "env": self._environment()}
        if os.getuid() == 0:  # it refuses to run as root
            user = pwd.getpwnam("nobody")
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self._as_user |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self.data = self.folder / "data"
        self.log = self.folder / "log"
        password = self.folder / "password"
        password.write_text(PASSWORD)
        self._run("initdb", "-D", self.data, "-U", USER, f"--pwfile={password}", *_INITDB)
        self.port = 0
        self.start()

    def _environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
        libraries = [str(p) for p in self.bin.parents[2].glob("*-linux-gnu")]
        return kept | {"LD_LIBRARY_PATH": ":".join(libraries), "LC_ALL": "C", "TZ": "UTC"}

    def _run(self, program: str, *arguments: Any) -> None:
        command = [self.bin / program, *arguments]
        ran = subprocess.run(command, capture_output=True, text=True, **self._as_user)
        assert ran.returncode == 0, ran.stderr

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        for _ in range(5):  # a port may be taken by others between two lines
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", self.port))
                port = probe.getsockname()[1]
            options = f"-k {self.folder} -h 127.0.0.1 -p {port} -F"
            try:
                self._ctl("start", "-o", options, "-l", self.log, "-t", str(START_S))
            except AssertionError:
                if "could not bind" not in self.log.read_text():
                    raise
            else:
                self.port = port
                return
        raise RuntimeError("no port is free")

    def _ctl(self, what: str, *arguments: Any) -> None:
        # Its output is not piped: the server would keep the pipe open.
        command = [self.bin / "pg_ctl", what, "-w", "-D", self.data, *arguments]
        with open(self.folder / "ctl", "w") as out:
            code = subprocess.call(command, stdout=out, stderr=out, **self._as_user)
        assert code == 0, (self.folder / "ctl").read_text()

    def kill(self) -> None:
        """End it and all its processes at once, as a crash would."""
        self._ctl("stop", "-m", "immediate")

    def stop(self) -> None:
        """End it, and leave nothing."""
        try:
            if (self.data / "postmaster.pid").exists():
                self.kill()
        finally:
            shutil.rmtree(self.folder)

    def url(self, database: str = "postgres", password: str = PASSWORD) -> str:
        """By loopback, with the password."""
        from urllib.parse import quote

        return f"postgresql://{USER}:{quote(password, safe='')}@127.0.0.1:{self.port}/{database}"

    @property
    def local(self) -> str:
        """By the UNIX socket."""
        return f"postgresql://{USER}@/postgres?host={self.folder}&port={self.port}"

    def execute(self, sql: str, database: str = "postgres") -> list[Any]:
        """Run SQL by another library than the one that is tested."""
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []


_INITDB = (
    "--auth-local=trust",
    "--auth-host=scram-sha-256",
    "--encoding=UTF8",
    "--locale=C",
    "--no-sync",
)
