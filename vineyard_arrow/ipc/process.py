"""One attachment a process and socket, shared by its clients, and carried over a fork."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from pathlib import Path

from ..config import ClientConfig
from .attached import Attached
from .fork import Remnant

_attached: dict[Path, Attached] = {}
_all: weakref.WeakSet[Attached] = weakref.WeakSet()
_remnants: list[Remnant] = []  # of those that are closed
_forking: list[Attached | Remnant] = []  # that the fork under way is about
_registry_lock = threading.Lock()
_fork_lock = threading.Lock()
_hooked = False


def attach(config: ClientConfig) -> Attached:
    """The process's attachment to the store at ``config.socket``, shared and counted."""
    global _hooked
    with _registry_lock:
        if not _hooked:
            os.register_at_fork(
                before=_before_fork,
                after_in_parent=_after_in_parent,
                after_in_child=_after_in_child,
            )
            _hooked = True
        found = _attached.get(config.socket)
        if found is None or not found.alive:
            found = Attached(config, released=release)
            _attached[config.socket] = found
            _all.add(found)
        found.users += 1
        return found


def release(attached: Attached) -> None:
    """One user less; the last one closes it."""
    with _registry_lock:
        attached.users -= 1
        if attached.users == 0:
            if _attached.get(attached.socket) is attached:
                del _attached[attached.socket]
            _all.discard(attached)
            remnant = attached.close()
            _remnants[:] = [r for r in _remnants if r.alive]
            if remnant is not None:
                _remnants.append(remnant)


def _before_fork() -> None:
    _fork_lock.acquire()  # one fork at a time: until its after-hook
    _forking[:] = [*_all, *_remnants]
    for each in _forking:
        each.before_fork()


def _after_in_parent() -> None:
    for each in _forking:
        each.after_fork_in_parent()
    _forking.clear()
    _fork_lock.release()


def _after_in_child() -> None:
    global _registry_lock, _fork_lock
    _registry_lock = threading.Lock()
    _fork_lock = threading.Lock()
    with contextlib.ExitStack() as stack:
        for each in _forking:
            stack.callback(each.after_fork_in_child)
    _forking.clear()
