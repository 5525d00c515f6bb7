"""The demo of graphs, run as its users run it, with an ``apt-cache`` that knows few packages."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "docs" / "examples" / "demo_graph.py"
TIMEOUT_S = 170

PACKAGES = """\
Package: gimp
Version: 2.10
Section: graphics
Installed-Size: 2048
Pre-Depends: dpkg:any (>= 1.15)
Depends: libc6 (>= 2.34), libgimp | libgimp-old [amd64], perl
Description: pictures
 Depends: not a field

Package: libc6
Version: 2.36
Section: libs
Installed-Size: 1024
Depends: libgcc-s1

Package: libgcc-s1
Version: 12
Section: libs
Installed-Size: 512
Depends: libc6 (>= 2.14)

Package: libgimp
Version: 2.10
Section: libs
Depends: libc6
Provides: libgimp-any (= 2.10)

Package: libgimp
Version: 2.9
Depends: perl
"""


def run(folder: Path, packages: str) -> subprocess.CompletedProcess[str]:
    tools = folder / "bin"
    tools.mkdir()
    tool = tools / "apt-cache"
    tool.write_text(f"#!/bin/sh\nprintf %s {shlex.quote(packages)}\n")
    tool.chmod(0o755)
    work = folder / "work"
    work.mkdir()
    env = {"TMPDIR": str(work), "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    done = subprocess.run(
        [sys.executable, str(DEMO)],
        env=os.environ | env | {"PATH": str(tools)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert list(work.iterdir()) == []
    return done


def row(text: str, start: str) -> list[str]:
    """The cells of the one line that starts like that."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"   {start}  ")]
    return re.split(r"  +", line.strip())


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short path: a UNIX socket's may not exceed 107 bytes."""
    return tmp_path_factory.mktemp("demo")


def test_demo_answers_and_copies_nothing(folder):
    ran = run(folder, PACKAGES)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    out = ran.stdout
    assert max(map(len, out.splitlines())) <= 100

    # Flights: the ends that no airport has, built with them, and known answers.
    assert "names no vertex of 'airport' 7602 times: 'BQN' (row 3)" in out
    assert row(out, "(airport)")[1] == "1,462"
    assert row(out, "(airport)-[flight]->(airport)")[1] == "336,776"
    assert re.search(r"Newark Liberty Intl +120,835 +0\n", out)
    assert row(out, "two hops: where one gets from there")[1:3] == ["68", "104,662"]
    assert re.search(r"John F Kennedy Intl +8,204 +347\.4 +UA, DL, AA, VX, B6\n", out)
    assert re.search(r"Newark Liberty Intl +Columbia Metropolitan +602 +104 +44\.6\n", out)

    # Packages: the first version of each, virtual ones, alternatives, relations apart.
    assert row(out, "(package)")[1] == "8"
    assert row(out, "(package)-[Depends]->(package)")[1] == "7"
    assert row(out, "(package)-[Provides]->(package)")[1] == "1"
    assert row(out, "need it, directly or not")[1:] == ["3", "75 % of all: 3"]
    assert re.search(r"^ +1 +libc6 +3 ", out, re.M)
    assert row(out, "all")[1:] == ["6", "3.5 MiB installed"]
    assert re.search(r"^ +2 +libc6, libgcc-s1$", out, re.M)
    assert re.search(r"graphics +libs +2$", out, re.M)

    # Both were put, and got by another process, without a copy.
    assert len(re.findall(r"[\d.]+ [KM]iB +0 B\n", out)) == 2  # shared, gathered, copied
    assert len(re.findall(r"[mµ]s +[\d.]+ [mµ]s +0 B +\+ [\d.]+ [KM]?i?B", out)) == 2


def test_demo_goes_on_without_package_lists(folder):
    ran = run(folder, "")
    assert ran.returncode == 0, ran.stderr
    assert "No package lists are here" in ran.stdout
    assert "Which routes are the latest?" in ran.stdout


def test_there_may_be_no_apt(folder, monkeypatch):
    monkeypatch.syspath_prepend(DEMO.parent)
    monkeypatch.setenv("PATH", str(folder))
    assert __import__("debian").lines() == []
