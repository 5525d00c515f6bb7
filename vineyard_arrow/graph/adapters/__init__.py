"""Graphs as other libraries have them, and back. Importing this imports none of them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .networkx import from_networkx, networkx_view, to_networkx

__all__ = ["from_networkx", "networkx_view", "to_networkx"]

_HOME = dict.fromkeys(("from_networkx", "networkx_view", "to_networkx"), "networkx")


def __getattr__(name: str) -> Any:
    module = _HOME.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
    return value
