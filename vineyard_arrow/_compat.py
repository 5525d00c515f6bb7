"""Refuses to load the native extension beside a pyarrow that it was not built against.

The extension links to libarrow by its versioned name, so a mismatch would end in a loader's
message that names neither version. Knows nothing of what the extension does.
"""

from __future__ import annotations

import importlib

import pyarrow as pa

from vineyard_arrow.errors import BuildMismatchError

__all__ = ["check_pyarrow"]


def check_pyarrow() -> None:
    """Compare the major version of the imported pyarrow with the one built against.

    To be called before `vineyard_arrow.ipc._core` is imported.

    Raises
    ------
    BuildMismatchError
        If the majors differ, or the extension was never built; the hint is the command to run.
    """
    try:
        built: str = importlib.import_module("vineyard_arrow._build_info").PYARROW_VERSION
    except ModuleNotFoundError:
        raise BuildMismatchError(
            "the native extension of vineyard_arrow is not built",
            hint="run 'python -m pip install -e .' (or 'make build') in the source folder",
        ) from None
    installed: str = pa.__version__
    major = built.partition(".")[0]
    if installed.partition(".")[0] != major:
        raise BuildMismatchError(
            f"vineyard_arrow was built against pyarrow {built}, but pyarrow {installed} is"
            " installed",
            hint=f"run 'python -m pip install \"pyarrow=={major}.*\"'",
        )
