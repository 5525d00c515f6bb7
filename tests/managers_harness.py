"""What the tests of workflow managers share: the page's examples, and processes of their own."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "managers.md"
SMALL = ("--memory-limit", "64MiB", "--pages", "small")
DEADLINE_S = 900.0  # of a tool's processes, which take seconds each to load


def write_example(name: str, folder: Path) -> Path:
    """A file of the page, by the name in its first line."""
    blocks = re.findall(r"^```\w+\n(# (\S+\.\w+)\n.*?)^```$", PAGE.read_text(), re.M | re.S)
    [text] = [text for text, found in blocks if found == name]
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def run(*command: str | Path, socket: Path, cwd: Path, **env: str) -> str:
    """What a command says, that uses the store behind a socket; it must succeed."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=os.environ
        | {"VINEYARD_ARROW_SOCKET": str(socket), "PYTHONPATH": str(ROOT), "DO_NOT_TRACK": "1"}
        | env,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-8000:]
    return done.stdout
