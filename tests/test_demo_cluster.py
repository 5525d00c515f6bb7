"""The demo of a cluster, run as its users run it, in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("distributed")

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "docs" / "examples" / "demo_cluster.py"
TIMEOUT_S = 170


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    env = os.environ | {"TMPDIR": str(folder), "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    return subprocess.Popen(
        [sys.executable, *arguments],
        env=env,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def left(folder: Path) -> list[str]:
    """Command lines of processes whose files are below ``folder``: daemons, and etcd."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue  # ended meanwhile
    return [line for line in lines if str(folder) in line]


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short path: a UNIX socket's may not exceed 107 bytes."""
    return tmp_path_factory.mktemp("demo")


def test_demo_tells_the_story(folder):
    with start(folder, str(DEMO)) as process:
        out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, err
    assert err == ""
    assert max(map(len, out.splitlines())) <= 100

    numbers = re.findall(r"^   (?:first|second|third) +([0-9a-f]{6}) ", out, re.M)[:3]
    for name, count, number in zip(
        ("EWR", "JFK", "LGA"), ("120,835", "111,279", "104,662"), numbers, strict=True
    ):
        assert re.search(rf"^   {name} \(\w+\) +{number} +{count} ", out, re.M)
        assert re.search(rf"^   worker \d, pid \d+ +{number} +{count} +\d.* 0 B$", out, re.M)
    assert re.search(r"worst months: July 21\.\d, June 20\.\d, December 16\.\d", out)

    assert f"Instance {numbers[2]} is gone" in out
    for name in ("first", "second"):
        told = re.search(rf"^   {name} +\d\S* m?s +([0-9a-f, ]+?) +LGA$", out, re.M)
        assert sorted(told[1].split(", ")) == sorted(numbers[:2])
    assert "partition 2 (" in out
    assert "232,114 of 336,776 flights" in out

    oid = re.search(rf"^   'planes', as it was +{numbers[0]} +(\S+)$", out, re.M)[1]
    assert re.search(rf"^   its copy +{numbers[1]} +\S+ +{oid}$", out, re.M)
    assert "3,322 planes" in out

    assert list(folder.iterdir()) == []
    assert left(folder) == []


@pytest.mark.parametrize("number", [None, signal.SIGINT, signal.SIGTERM])
def test_demo_cleans_up_when_it_ends_early(folder, number):
    stop = "raise OSError('no such luck')" if number is None else f"os.kill(os.getpid(), {number})"
    broken = (
        f"import os, sys; sys.path.insert(0, {str(DEMO.parent)!r})\n"
        "import demo_cluster\n"
        f"def fail(*_): {stop}\n"
        "demo_cluster.partition = fail\n"
        "demo_cluster.main()\n"
    )
    with start(folder, "-c", broken) as process:
        _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode != 0
    assert ("no such luck" in err) == (number is None)
    assert list(folder.iterdir()) == []
    assert left(folder) == []
