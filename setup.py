"""Builds the native modules against the pyarrow at hand; everything else is in pyproject.toml."""

import os
import shutil
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

try:
    import numpy as np
    import pyarrow as pa
    from Cython.Build import cythonize
except ModuleNotFoundError as error:
    raise SystemExit(
        f"vineyard-arrow: building needs {error.name}; 'pip install .' brings it, unless it is"
        " told --no-build-isolation"
    ) from None

ROOT = Path(__file__).parent
INCLUDE = Path("vineyard_arrow", "include")  # the headers that are packaged
NATIVE = {".h", ".pxd", ".pyx"}  # a change rebuilds, and the source distribution has them


def check_toolchain() -> None:
    """Stop with a plain sentence where the compiler would with pages of errors."""
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.exists():
        raise SystemExit(
            f"vineyard-arrow: building needs the headers of Python, but {header} is missing"
            " (Debian and Ubuntu: apt-get install python3-dev)"
        )
    compiler = (os.environ.get("CXX") or sysconfig.get_config_var("CXX") or "g++").split()[0]
    if shutil.which(compiler) is None:
        raise SystemExit(
            f"vineyard-arrow: building needs a C++20 compiler, but {compiler} is missing"
            " (Debian and Ubuntu: apt-get install g++; another one: set CXX)"
        )


def record_build() -> None:
    """Write which pyarrow this is built against, for vineyard_arrow._compat."""
    path = ROOT / "vineyard_arrow" / "_build_info.py"
    text = (
        '"""Written by setup.py when the extension was built."""\n\n'
        f'PYARROW_VERSION = "{pa.__version__}"\n'
    )
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


class BuildPy(build_py):
    """Packages the record of the build with the modules."""

    def run(self) -> None:
        check_toolchain()
        record_build()
        super().run()


class BuildExt(build_ext):
    """Records the build for 'setup.py build_ext --inplace' too, which builds no modules."""

    def initialize_options(self) -> None:
        super().initialize_options()
        self.parallel = os.cpu_count()  # several compilers at once

    def run(self) -> None:
        check_toolchain()
        record_build()
        super().run()


# The environment may say otherwise, as a build for sanitizers does.
OPTIMIZE = [] if "-O" in os.environ.get("CXXFLAGS", "") else ["-O3", "-g0"]


def extension(package: str, module: str) -> Extension:
    """One native module, with what all of them need."""
    folder = Path("vineyard_arrow", package)
    so_version = pa.cpp_build_info.so_version
    return Extension(
        f"vineyard_arrow.{package}.{module}",
        sources=[str(folder / f"{module}.pyx")],
        depends=sorted(
            str(path.relative_to(ROOT))
            for each in (folder, INCLUDE)
            for path in (ROOT / each).rglob("*")
            if path.suffix in NATIVE
        ),
        language="c++",
        include_dirs=[str(INCLUDE), pa.get_include(), np.get_include()],
        library_dirs=pa.get_library_dirs(),
        # Cython declares all of what it imports from pyarrow, used or not.
        extra_compile_args=[
            "-std=c++20",
            *OPTIMIZE,
            "-fvisibility=hidden",
            "-Wall",
            "-Wno-unused-variable",
            "-Wno-unused-function",
        ],
        # pyarrow's wheels ship only the versioned names. No rpath: importing vineyard_arrow imports
        # pyarrow first, which loads them.
        extra_link_args=[f"-l:libarrow.so.{so_version}", f"-l:libarrow_python.so.{so_version}"],
    )


MODULES = [
    extension("ipc", "_core"),
    extension("graph", "_kernels"),
    extension("graph", "_edges"),
    extension("graph", "_algorithms"),
]

setup(
    ext_modules=cythonize(
        MODULES, build_dir="build/cython", language_level=3, nthreads=len(MODULES)
    ),
    cmdclass={"build_py": BuildPy, "build_ext": BuildExt},
)
