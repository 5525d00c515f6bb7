"""Demos, run as their users run them: each in a process of its own, below a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DEMOS = ROOT / "docs" / "examples"
TIMEOUT_S = 170


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short path: a UNIX socket's may not exceed 107 bytes."""
    return tmp_path_factory.mktemp("demo")


def start(folder: Path, *arguments: str, path: str = "") -> subprocess.Popen[str]:
    env = os.environ | {"TMPDIR": str(folder), "PYTHONUTF8": "1"}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [path, str(ROOT)]))
    return subprocess.Popen(
        [sys.executable, *arguments],
        env=env,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def left(folder: Path) -> list[str]:
    """Processes that a demo has started: each has the folder in its environment."""
    names = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if f"TMPDIR={folder}".encode() in (path / "environ").read_bytes().split(b"\0"):
                names.append((path / "comm").read_text())
        except OSError:
            continue  # ended meanwhile, or another user's
    return names


def check_early_end(folder: Path, demo: str, step: str, number: int | None, path: str = "") -> None:
    """That nothing is left of a demo that a signal, or else an error, ends at one of its steps."""
    stop = "raise OSError('no such luck')" if number is None else f"os.kill(os.getpid(), {number})"
    broken = (
        f"import os, sys; sys.path.insert(0, {str(DEMOS)!r})\n"
        f"import {demo}\n"
        f"def fail(*_): {stop}\n"
        f"{demo}.{step} = fail\n"
        f"{demo}.main()\n"
    )
    with start(folder, "-c", broken, path=path) as process:
        _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode != 0
    assert ("no such luck" in err) == (number is None)
    assert list(folder.iterdir()) == []
    assert left(folder) == []
