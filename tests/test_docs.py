"""The code in the pages for users runs as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Runs a command of a page by this interpreter, and holds what it says to the page.
COMMAND = """
def _command(text):
    import subprocess, sys
    command, said = text.removeprefix("$ vineyard-arrow ").split("\\n", 1)
    done = subprocess.run(
        [sys.executable, "-m", "vineyard_arrow", *command.split()],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )
    assert done.stdout == said, done.stdout
"""


@pytest.mark.parametrize(
    "page",
    ["types", "codegen", "streams", "graph", "distributed", "drivers", "export", "partition"],
)
def test_page(page: str, daemon: Any, tmp_path: Path) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text()
    script = [COMMAND]
    for kind, block in re.findall(r"^```(python|console)\n(.*?)^```$", text, re.M | re.S):
        file = re.match(r"# (\w+\.py)\n", block)
        if file:  # a file of its own, line for line
            (tmp_path / file[1]).write_text(block)
        else:
            script.append(block if kind == "python" else f"_command({block!r})")
    assert len(script) > 4
    env = os.environ | {
        "VINEYARD_ARROW_SOCKET": str(daemon.socket),
        "PYTHONPATH": f"{ROOT}:{tmp_path}",
    }
    # A process of its own: what the page registers by default stays there.
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(script)],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
