"""The languages that code is generated in: a module beside this one for each.

Such a module has a function ``generate(file)``, which returns the text of a source file. What
it cannot say in its language it collects as `model.Problem` and raises as `model.refusal`.
"""

from __future__ import annotations

import importlib
from typing import Protocol, cast

from ..errors import ConfigError
from .model import File

__all__ = ["LANGUAGES", "Backend", "backend_of"]

LANGUAGES = ("python", "cpp")


class Backend(Protocol):
    """What a language's module is used by."""

    def generate(self, file: File) -> str:
        """The text of a source file that declares what ``file`` does.

        Raises
        ------
        AnnotationError
            For what the language has nothing for, all of it at once.
        """


def backend_of(language: str) -> Backend:
    """The module of a language.

    Raises
    ------
    ConfigError
        If there is none.
    """
    if language in LANGUAGES:
        try:
            return cast("Backend", importlib.import_module(f"{__package__}.{language}"))
        except ModuleNotFoundError as error:
            if error.name != f"{__package__}.{language}":
                raise
    raise ConfigError(f"no code is generated in {language!r}", f"there is {', '.join(LANGUAGES)}")
