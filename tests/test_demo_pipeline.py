"""The demo of a pipeline, run as its users run it, in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "docs" / "examples" / "demo_pipeline.py"
TIMEOUT_S = 170


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
    """Processes that the demo has started: each has the folder in its environment."""
    names = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if f"TMPDIR={folder}".encode() in (path / "environ").read_bytes().split(b"\0"):
                names.append((path / "comm").read_text())
        except OSError:
            continue  # ended meanwhile, or another user's
    return names


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short path: a UNIX socket's may not exceed 107 bytes."""
    return tmp_path_factory.mktemp("demo")


@pytest.mark.parametrize("torch", [True, False])
def test_demo_tells_the_story(folder, tmp_path, torch):
    if not torch:
        (tmp_path / "torch.py").write_text("raise ImportError('not here')\n")
    with start(folder, str(DEMO), path="" if torch else str(tmp_path)) as process:
        out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, err
    assert err == ""
    assert max(map(len, out.splitlines())) <= 100
    engine = "NumPy" if "PyTorch is not installed" in out else "PyTorch"
    assert torch or engine == "NumPy"

    row = r"^   (\S+ -> \S+) +(\S+) +([\d,]+) +(?:[\d.]+ \S+) +([\d.]+ \S+) *(.*)$"
    rows = {step: rest for step, *rest in re.findall(row, out, re.M)}
    assert len(rows) == 16
    for step, by, count in (
        ("store -> join", "DuckDB", "366,213"),
        ("store -> features", "polars", "328,521"),
        ("store -> tensors", engine, "328,521"),
        ("risk -> store", engine, "328,521"),
        ("store -> graph", "graph", "329,979"),
        ("risks -> S3", "Parquet", "328,521"),
    ):
        assert rows[step][:3] == [by, count, "0 B"]
    assert rows["SQLite -> flights"][1] == "336,776"
    assert rows["S3 -> weather"][1] == "26,115"
    for step in ("S3 -> weather", "S3 -> airports", "graph -> store", "ranks -> store"):
        assert rows[step][3] == "small buffers, packed together"
    for _, _, copied, why in rows.values():
        assert (copied == "0 B") == (why == "")

    late, worst = map(int, re.search(r"(\d+) % of all flights,\s+and (\d+) % of", out).groups())
    assert worst > 1.5 * late
    assert re.search(r"^   SQLite, by Python's sqlite3 +ranks +1,462 +EWR$", out, re.M)
    assert re.search(r"^   S3, by pyarrow +ranks.parquet +1,462 +EWR$", out, re.M)
    assert re.search(r"^   S3, by pyarrow +risks.parquet +328,521 ", out, re.M)

    assert list(folder.iterdir()) == []
    assert left(folder) == []


@pytest.mark.parametrize("number", [None, signal.SIGINT, signal.SIGTERM])
def test_demo_cleans_up_when_it_ends_early(folder, number):
    stop = "raise OSError('no such luck')" if number is None else f"os.kill(os.getpid(), {number})"
    broken = (
        f"import os, sys; sys.path.insert(0, {str(DEMO.parent)!r})\n"
        "import demo_pipeline\n"
        f"def fail(*_): {stop}\n"
        "demo_pipeline.read_sources = fail\n"
        "demo_pipeline.main()\n"
    )
    with start(folder, "-c", broken) as process:
        _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode != 0
    assert ("no such luck" in err) == (number is None)
    assert list(folder.iterdir()) == []
    assert left(folder) == []
