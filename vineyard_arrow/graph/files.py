"""Files that appear whole or not at all, and errors of the operating system in our words.

It knows no format. What is written lies beside its place, under a hidden name, until it is done.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..errors import (
    AccessDeniedError,
    FileError,
    InvalidGraphError,
    PathExistsError,
    PathNotFoundError,
    VineyardArrowError,
)

__all__ = ["PathLike", "file_errors", "new_directory", "new_file"]

PathLike = str | os.PathLike[str]


@contextmanager
def file_errors(path: Any) -> Iterator[None]:
    """Say the path with what goes wrong in the block, as errors of our tree.

    Raises
    ------
    PathNotFoundError, AccessDeniedError, FileError
        For errors of the operating system.
    InvalidGraphError
        For what Arrow says of damaged files.
    """
    try:
        yield
    except VineyardArrowError:  # some are OSErrors, too
        raise
    except FileNotFoundError as error:
        raise PathNotFoundError(f"{error.filename or error}: there is no such file") from error
    except PermissionError as error:
        raise AccessDeniedError(f"{error.filename or path}: permission denied") from error
    except pa.ArrowMemoryError:
        raise
    except (OSError, pa.ArrowException) as error:
        kind = InvalidGraphError if getattr(error, "errno", None) is None else FileError
        raise kind(f"{path}: {error}") from error


@contextmanager
def new_file(path: PathLike, overwrite: bool) -> Iterator[Path]:
    """A path to write to, which takes the place of ``path`` at the end of the block.

    Raises
    ------
    PathExistsError
        If the file is there and is not to be overwritten, or a directory is.
    """
    target = Path(os.path.realpath(path) if overwrite else path)  # a link stays
    _check_free(target, overwrite and not target.is_dir())
    beside = _beside(target)
    try:
        with file_errors(target):
            yield beside
            os.replace(beside, target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


@contextmanager
def new_directory(
    path: PathLike, overwrite: bool, is_ours: Callable[[Path], bool]
) -> Iterator[Path]:
    """A new directory to write to, which takes the place of ``path`` at the end of the block.

    Parameters
    ----------
    is_ours : callable
        Whether a directory looks like what is written here: no other is ever replaced.

    Raises
    ------
    PathExistsError
    """
    target = Path(os.path.realpath(path) if overwrite else path)  # a link stays
    if overwrite and target.exists() and not (target.is_dir() and is_ours(target)):
        raise PathExistsError(
            f"{target} is there, and is nothing that this would have written",
            "it is left alone, overwrite=True or not: take another path",
        )
    _check_free(target, overwrite)
    beside, old = _beside(target), _beside(target)
    with file_errors(target):
        beside.mkdir()
        try:
            yield beside
            if target.exists():
                os.rename(target, old)
            os.rename(beside, target)
        except BaseException:
            if old.exists() and not target.exists():
                os.rename(old, target)
            shutil.rmtree(beside, ignore_errors=True)
            raise
        shutil.rmtree(old, ignore_errors=True)


def _check_free(target: Path, overwrite: bool) -> None:
    if not target.parent.is_dir():
        raise PathNotFoundError(f"{target.parent}: there is no such directory", "make it first")
    if not overwrite and os.path.lexists(target):
        raise PathExistsError(f"{target} is there already", "overwrite=True replaces files")


def _beside(target: Path) -> Path:
    return target.parent / f".{secrets.token_hex(8)}.partial"
