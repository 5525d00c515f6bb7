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


@pytest.mark.parametrize("name", ["types.md", "graph.md"])
def test_pages(daemon: Any, name: str) -> None:
    page = (ROOT / "docs" / name).read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) > 3
    env = os.environ | {"VINEYARD_ARROW_SOCKET": str(daemon.socket), "PYTHONPATH": str(ROOT)}
    # A process of its own: what the page registers by default stays there.
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(blocks)],
        env=env,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
