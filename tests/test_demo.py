"""The demo, run as its users run it, in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "docs" / "examples" / "demo.py"
TIMEOUT_S = 170


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"TMPDIR": str(folder), "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    return subprocess.run(
        [sys.executable, *arguments],
        env=env,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


def daemons(folder: Path) -> list[str]:
    """Command lines of daemons that serve a socket below ``folder``."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue  # ended meanwhile
    return [line for line in lines if str(folder) in line and " serve " in line]


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short path: a UNIX socket's may not exceed 107 bytes."""
    return tmp_path_factory.mktemp("demo")


def test_demo_shows_zero_copies_and_answers(folder):
    ran = run(folder, str(DEMO))
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    lines = ran.stdout.splitlines()
    assert max(map(len, lines)) <= 100

    # A writer that copies nothing: shared, gathered, copied are the last three columns.
    flights = next(line for line in lines if line.startswith("   flights "))
    assert "336,776" in flights
    assert flights.endswith("   0 B")
    assert re.search(r"48\.\d MiB +48\.\d MiB +\d+\.\d KiB +0 B$", flights)

    # Readers that copy nothing, all of it in the writer's pages.
    for engine in ("polars", "duckdb", "pandas"):
        row = next(line for line in lines if line.startswith(f"   {engine} "))
        cells = re.split(r"  +", row.strip())
        assert cells[3] == "0 B"
        assert cells[5] == "100 %"
        assert nbytes_of(cells[4].removeprefix("+ ")) < 1 << 20
    pickled = next(line for line in lines if line.startswith("   pickle "))
    assert re.search(r"48\.\d MiB +\+ (4[89]|5\d)\.?\d* MiB +0 %$", pickled)
    assert "times as long" in ran.stdout

    # The answers, as known from the data set.
    assert re.search(r"Frontier Airlines Inc\. +685 +20\.2", ran.stdout)
    assert re.search(r"MCDONNELL +[\d,]+ +\d+\.\d +\d+\.\d", ran.stdout)
    assert re.search(r"JFK +Los Angeles Intl +11,262", ran.stdout)

    assert list(folder.iterdir()) == []
    assert daemons(folder) == []


def test_demo_cleans_up_after_a_failure(folder):
    broken = (
        f"import sys; sys.path.insert(0, {str(DEMO.parent)!r})\n"
        "import demo\n"
        "def fail(client, folder): raise OSError('no such luck')\n"
        "demo.read_and_put = fail\n"
        "demo.main()\n"
    )
    ran = run(folder, "-c", broken)
    assert ran.returncode == 1
    assert "no such luck" in ran.stderr
    assert list(folder.iterdir()) == []
    assert daemons(folder) == []


def nbytes_of(text: str) -> float:
    number, unit = text.split()
    return float(number) * {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}[unit]
