"""What other packages bring by entry points, loaded when something is not found in ours.

An entry point of a group is a module that registers as it is imported, or a callable that
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
_states: dict[str, Literal["loading", "loaded"]] = {}


def load_plugins(registry: Any, group: str = GROUP) -> None:
    """Load every entry point of a group, once in a process; later calls cost nothing.

    One that fails is skipped with a RuntimeWarning that names it.
    """
    if _states.get(group) == "loaded":
        return
    with _lock:
        if group in _states:
            return
        _states[group] = "loading"
        failures = _load_all(registry, group)
        _states[group] = "loaded"
    for failure in failures:
        warnings.warn(f"skipped in {group}: {failure}", RuntimeWarning, stacklevel=2)


def _load_all(registry: Any, group: str) -> list[str]:
    from importlib.metadata import entry_points  # 10 ms

    failures = []
    for entry in entry_points(group=group):
        try:
            loaded = entry.load()
            if callable(loaded):
                loaded(registry)
        except Exception as error:  # not ours: it may raise anything
            failures.append(f"entry point {entry.name!r} ({entry.value}): {error!r}")
    return failures
