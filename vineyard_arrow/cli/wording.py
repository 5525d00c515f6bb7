"""Errors as the shell says them: their hints are written for Python, which has other words.

Knows no command: which options there are it is told.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Container

from ..errors import VineyardArrowError

__all__ = ["said"]

_ARGUMENT = re.compile(r"""(?<![-\w.?&/])([a-z_]+)=(?!=)('[^']*'|"[^"]*"|True\b|)""")
_CALL = re.compile(r"\w\([^)]*\)")


def said(error: Exception, options: Container[str]) -> str:
    """An error and its notes, in lines; ``options`` are those of the command, as Python has them.

    Examples
    --------
    >>> print(said(VineyardArrowError("'x' is taken", "overwrite=True moves it"), ["overwrite"]))
    'x' is taken (hint: --overwrite moves it)
    """
    text = str(error)
    if isinstance(error, OSError) and error.filename and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    if isinstance(error, VineyardArrowError) and error.hint:
        hint = "; ".join(_clause(clause, options) for clause in error.hint.split("; "))
        text = f"{error.message} (hint: {hint})"
    return "\n".join([text, *(_flagged(note, options) for note in getattr(error, "__notes__", ()))])


def _clause(text: str, options: Container[str]) -> str:
    text = _flagged(text, options)
    return f"in Python: {text}" if _ARGUMENT.search(text) or _CALL.search(text) else text


def _flagged(text: str, options: Container[str]) -> str:
    """The text with arguments that are options of the command as these."""

    def flag(found: re.Match[str]) -> str:
        name, value = found[1], found[2]
        if name not in options:
            return found[0]
        option = "--" + name.replace("_", "-")
        return option if value in ("", "True") else f"{option} {shlex.quote(value[1:-1])}"

    return _ARGUMENT.sub(flag, text)
