"""The code in the pages for users runs as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from conftest import Daemon
from test_fork import until

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


PAGES = [
    "getting-started",
    "concepts",
    "types",
    "codegen",
    "streams",
    "graph",
    "distributed",
    "drivers",
    "export",
    "kafka",
    "partition",
    "pipelines",
    "tables",
]
RECIPES = [
    f"recipes/{path.stem}"
    for path in sorted((ROOT / "docs/recipes").glob("*.md"))
    if path.stem != "index"
]
LIMIT_S = 150  # some import much, some start a cluster of processes
NEEDED = {  # not on every machine
    "pipelines": ("torch", "dask.dataframe", "distributed"),
    "recipes/pytorch": ("torch",),
}
# Python warns of forks beside threads, which Arrow has; Ray and its libraries warn of themselves.
WARNINGS = ["-W", "error", "-W", "ignore:This process (pid=:DeprecationWarning"]
WARNINGS_OF = {"recipes/ray": []}


@pytest.mark.parametrize("page", PAGES + RECIPES)
def test_page(page: str, daemon: Daemon, tmp_path: Path) -> None:
    for name in NEEDED.get(page, ()):
        pytest.importorskip(name)
    text = (ROOT / "docs" / f"{page}.md").read_text()
    script = [COMMAND]
    for kind, block in re.findall(r"^```(python|console)\n(.*?)^```$", text, re.M | re.S):
        file = re.match(r"# (\w+\.py)\n", block)
        if file:  # a file of its own, line for line
            (tmp_path / file[1]).write_text(block)
        else:
            script.append(block if kind == "python" else f"_command({block!r})")
    assert len(script) > 4
    # Ray's sockets need a short path.
    with tempfile.TemporaryDirectory(prefix="va-") as scratch:
        env = os.environ | {
            "VINEYARD_ARROW_SOCKET": str(daemon.socket),
            "PYTHONPATH": f"{ROOT}:{tmp_path}",
            "RAY_TMPDIR": scratch,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        }
        # A process of its own: what the page registers by default stays there.
        done = subprocess.run(
            [sys.executable, *WARNINGS_OF.get(page, WARNINGS), "-c", "\n".join(script)],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
        assert done.returncode == 0, done.stderr
        until(lambda: not daemon.status().clients)  # workers of a cluster end after it
