"""Types that other packages bring by entry points, loaded when something is not found in ours.

An entry point of the group is a module that registers as it is imported, or a callable that
is given the registry. It knows nothing of what these register.
"""

from __future__ import annotations

import threading
import warnings
from typing import Any, Literal

__all__ = ["GROUP", "load_plugins"]

GROUP = "vineyard_arrow.types"

# Reentrant: a plugin may look up a builder as it loads.
_lock = threading.RLock()
_state: Literal["new", "loading", "loaded"] = "new"


def load_plugins(registry: Any) -> None:
    """Load every entry point, once in a process; later calls cost nothing.

    One that fails is skipped with a RuntimeWarning that names it.
    """
    global _state
    if _state == "loaded":
        return
    with _lock:
        if _state != "new":
            return
        _state = "loading"
        failures = _load_all(registry)
        _state = "loaded"
    for failure in failures:
        warnings.warn(f"skipped in {GROUP}: {failure}", RuntimeWarning, stacklevel=2)


def _load_all(registry: Any) -> list[str]:
    from importlib.metadata import entry_points  # 10 ms

    failures = []
    for entry in entry_points(group=GROUP):
        try:
            loaded = entry.load()
            if callable(loaded):
                loaded(registry)
        except Exception as error:  # not ours: it may raise anything
            failures.append(f"entry point {entry.name!r} ({entry.value}): {error!r}")
    return failures
