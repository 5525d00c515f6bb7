"""The demo of a pipeline, run as its users run it, in a process of its own."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
from demo_harness import DEMOS, TIMEOUT_S, check_early_end, left, start
from demo_harness import folder as folder

DEMO = DEMOS / "demo_pipeline.py"


def without_torch(folder: Path) -> str:
    """A folder to be looked into first, where PyTorch fails to be imported."""
    (folder / "torch.py").write_text("raise ImportError('not here')\n")
    return str(folder)


@pytest.mark.parametrize("torch", [True, False])
def test_demo_tells_the_story(folder, tmp_path, torch):
    with start(folder, str(DEMO), path="" if torch else without_torch(tmp_path)) as process:
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


# An error unwinds what SIGTERM does, and is tried at the demo of a cluster.
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_demo_cleans_up_when_it_ends_early(folder, tmp_path, number):
    check_early_end(folder, "demo_pipeline", "read_sources", number, without_torch(tmp_path))
