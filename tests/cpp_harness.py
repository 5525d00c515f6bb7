"""Builds native/reader.cpp once a session, with a header that was generated of native/fleet.py."""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa

import vineyard_arrow
from vineyard_arrow.cli import main

HERE = Path(__file__).resolve().parent
NATIVE = HERE / "native"
DEADLINE_S = 20.0
COMPILE_S = 150.0

_folder = tempfile.TemporaryDirectory(prefix="va-cpp-")


class Reader:
    """The compiled program; see native/reader.cpp for its commands."""

    def __init__(self, program: Path) -> None:
        self._program = program

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


def compile_flags() -> list[str]:
    """As docs/cpp.md has them; Arrow's headers as the system's, since warnings are errors."""
    lib = pa.get_library_dirs()[0]
    return [
        f"-I{vineyard_arrow.get_include()}",
        f"-isystem{pa.get_include()}",
        f"-L{lib}",
        f"-l:libarrow.so.{pa.cpp_build_info.so_version}",
        f"-Wl,-rpath,{lib}",
    ]


@functools.cache
def build_reader() -> Reader:
    folder = Path(_folder.name)
    header = folder / "fleet.h"
    assert main(["codegen", str(NATIVE / "fleet.py"), "--lang", "cpp", "-o", str(header)]) == 0
    program = folder / "reader"
    source = NATIVE / "reader.cpp"
    warnings = ["-Wall", "-Wextra", "-Werror", f"-I{folder}"]
    subprocess.run(
        ["g++", "-std=c++20", "-O1", *warnings, str(source), "-o", str(program), *compile_flags()],
        check=True,
        timeout=COMPILE_S,
    )
    return Reader(program)


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
