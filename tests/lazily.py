"""Libraries that take seconds to import: by the first test that uses them, not by every worker."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest


class _Module:
    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_mock_name":  # pytest asks for them in all it finds
            raise AttributeError(name)
        return getattr(import_module(self._name), name)


def lazily(name: str, *needs: str) -> Any:
    """The module ``name``, imported when something of it is asked for.

    A file of tests skips itself where that library, or one of ``needs``, is not installed.
    """
    for each in (name, *needs):
        if find_spec(each.partition(".")[0]) is None:
            pytest.skip(f"needs {each}", allow_module_level=True)
    return _Module(name)
