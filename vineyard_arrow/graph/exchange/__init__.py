"""Graphs from and to files of other programs, a module a format. Importing this loads little."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .edge_list import read_edge_list, write_edge_list
    from .graphar_read import read_graphar
    from .graphar_write import write_graphar
    from .graphml import write_graphml
    from .matrix_market import read_matrix_market, write_matrix_market

__all__ = [
    "read_edge_list",
    "read_graphar",
    "read_matrix_market",
    "write_edge_list",
    "write_graphar",
    "write_graphml",
    "write_matrix_market",
]

_HOME = {
    "read_edge_list": "edge_list",
    "write_edge_list": "edge_list",
    "read_graphar": "graphar_read",
    "write_graphar": "graphar_write",
    "read_matrix_market": "matrix_market",
    "write_matrix_market": "matrix_market",
    "write_graphml": "graphml",
}


def __getattr__(name: str) -> Any:
    module = _HOME.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
    return value
