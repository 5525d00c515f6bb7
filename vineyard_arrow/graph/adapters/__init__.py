"""Graphs as other libraries have them, and back. Importing this imports none of them.

Each function says what it copies. Those that take one triple need it to be named, by ``triple``,
unless the graph has one; those that take a whole graph can be given some ``triples``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .igraph import from_igraph, to_igraph
    from .networkx import from_networkx, networkx_view, to_networkx
    from .numpy import to_numpy
    from .pyg import from_pyg, to_pyg, to_pyg_hetero
    from .rustworkx import from_rustworkx, to_rustworkx
    from .scipy import from_scipy, to_scipy
    from .tables import Tables, register_duckdb, to_polars, to_tables
    from .tensors import to_tensors

__all__ = [
    "Tables",
    "from_igraph",
    "from_networkx",
    "from_pyg",
    "from_rustworkx",
    "from_scipy",
    "networkx_view",
    "register_duckdb",
    "to_igraph",
    "to_networkx",
    "to_numpy",
    "to_polars",
    "to_pyg",
    "to_pyg_hetero",
    "to_rustworkx",
    "to_scipy",
    "to_tables",
    "to_tensors",
]

_MODULES = {
    "igraph": ("from_igraph", "to_igraph"),
    "networkx": ("from_networkx", "networkx_view", "to_networkx"),
    "numpy": ("to_numpy",),
    "pyg": ("from_pyg", "to_pyg", "to_pyg_hetero"),
    "rustworkx": ("from_rustworkx", "to_rustworkx"),
    "scipy": ("from_scipy", "to_scipy"),
    "tables": ("Tables", "register_duckdb", "to_polars", "to_tables"),
    "tensors": ("to_tensors",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    module = _HOME.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
    return value
