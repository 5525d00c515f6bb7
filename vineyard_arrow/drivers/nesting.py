"""How deep JSON nests: Arrow's reader ends the process over text that nests very deep."""

from __future__ import annotations

import re

import numpy as np

__all__ = ["MAX_DEPTH", "is_deep"]

MAX_DEPTH = 60
"""Of objects and lists, in what is stored: Arrow IPC has types of up to 64 levels."""

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def is_deep(text: bytes, depth: int = MAX_DEPTH) -> bool:
    """Whether an object or a list of some JSON lies more than ``depth`` deep."""
    if text.count(b"[") + text.count(b"{") <= depth:
        return False
    return _depth_of(text) > depth and _depth_of(_STRING.sub(b"", text)) > depth


def _depth_of(text: bytes) -> int:
    """How many more brackets open than close at most, up to anywhere in it; in strings, too."""
    marks = np.frombuffer(text.translate(None, _NO_BRACKETS), np.uint8)
    steps = np.where((marks == ord("[")) | (marks == ord("{")), np.int8(1), np.int8(-1))
    return int(steps.cumsum(dtype=np.int64).max(initial=0))
