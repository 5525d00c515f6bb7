"""Ends what does not come to an end by its deadline: one thread, asleep until something is due.

gRPC's calls of the kind used here have no deadlines of their own that could be renewed.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable


class Watch:
    """Deadlines by key; `cut` is called, in the watch's own thread, for what passed its own."""

    def __init__(self) -> None:
        self._due: dict[object, tuple[float, Callable[[], object]]] = {}
        self._changed = threading.Condition()
        self._wakes = math.inf
        self._thread: threading.Thread | None = None
        self._closed = False

    def set(self, key: object, timeout_s: float, cut: Callable[[], object]) -> None:
        """Expect an end within ``timeout_s`` from now, or another `set` for the key."""
        due = time.monotonic() + timeout_s
        self._due[key] = due, cut
        if due < self._wakes or self._thread is None:
            with self._changed:
                self._wakes = min(due, self._wakes)
                if self._thread is None and not self._closed:
                    self._thread = threading.Thread(
                        target=self._run, name="vineyard-arrow deadlines", daemon=True
                    )
                    self._thread.start()
                self._changed.notify()

    def clear(self, key: object) -> None:
        """It has ended."""
        self._due.pop(key, None)

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._wakes = min((due for due, _ in list(self._due.values())), default=math.inf)
                left = self._wakes - time.monotonic()
                if left > 0 and not self._closed:
                    self._changed.wait(min(left, 3600.0))
                if self._closed:
                    return
            now = time.monotonic()
            for key, (due, cut) in list(self._due.items()):
                if due <= now:
                    self._due.pop(key, None)
                    cut()
