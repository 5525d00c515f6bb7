"""Builds native/reader.cpp once for all workers, with a header generated of native/fleet.py."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import importlib.util
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pytest

from vineyard_arrow.cli import main

HERE = Path(__file__).resolve().parent
NATIVE = HERE / "native"
DEADLINE_S = 60.0
COMPILE_S = 400.0  # it takes seconds, but of a machine that may be busy


class Reader:
    """The compiled program; see native/reader.cpp for its commands."""

    def __init__(self, program: Path) -> None:
        self._program = program
        self.folder = program.parent

    def start(self, command: str, daemon: Any, *keys: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(self._program), command, str(getattr(daemon, "socket", daemon)), *keys],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | env,
        )

    def __call__(self, command: str, daemon: Any, *keys: str, **env: str) -> list[str]:
        with self.start(command, daemon, *keys, **env) as process:
            out, _ = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0
        return out.splitlines()


def blocks_of(page: str) -> dict[str, str]:
    """The blocks of a page that are files of their own, by name."""
    text = (HERE.parent / "docs" / page).read_text()
    blocks = re.findall(r"^```(?:python|cpp)\n((?:#|//) (\w+\.\w+)\n.*?)^```$", text, re.M | re.S)
    return {name: block for block, name in blocks}


def compile_flags() -> list[str]:
    """Those of docs/cpp.md, with Arrow's headers as the system's, since warnings are errors."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(blocks_of("cpp.md")["flags.py"], {})
    return [
        flag.replace("-I", "-isystem") if flag == f"-I{pa.get_include()}" else flag
        for flag in said.getvalue().split()
    ]


@pytest.fixture(scope="session")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """The program, with the programs of docs/cpp.md in it; built by one of the workers."""
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    folder /= "cpp"
    folder.mkdir(exist_ok=True)
    program = folder / "reader"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            _build(program)
    return Reader(program)


def _build(program: Path) -> None:
    folder = program.parent
    pages = blocks_of("cpp.md")
    (folder / "shop.py").write_text(blocks_of("codegen.md")["shop.py"])
    for name in ("delays.cpp", "order.cpp"):
        (folder / name).write_text(pages[name])
    for source in (NATIVE / "fleet.py", folder / "shop.py"):
        header = folder / f"{source.stem}.h"
        assert main(["codegen", str(source), "--lang", "cpp", "-o", str(header)]) == 0
    made = folder / "whole"
    source = NATIVE / "reader.cpp"
    warnings = ["-Wall", "-Wextra", "-Werror", f"-I{folder}"]
    subprocess.run(
        ["g++", "-std=c++20", "-O1", *warnings, str(source), "-o", str(made), *compile_flags()],
        check=True,
        timeout=COMPILE_S,
    )
    made.rename(program)


@functools.cache
def fleet() -> ModuleType:
    """The module that the header was generated of."""
    spec = importlib.util.spec_from_file_location("fleet", NATIVE / "fleet.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fleet"] = module
    spec.loader.exec_module(module)
    return module
