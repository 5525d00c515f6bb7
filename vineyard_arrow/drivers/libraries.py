"""What drivers that call other libraries have in common: one is missing, or sends too much.

It knows no library.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import LibraryNotFoundError, StoreFullError, VineyardArrowError

__all__ = ["fits", "library"]


@contextmanager
def library(extra: str) -> Iterator[None]:
    """Say which extra of this package is missing, if an import in the block fails."""
    try:
        yield
    except ImportError as error:
        raise LibraryNotFoundError(
            f"a library that this needs is not installed: {error}",
            f"pip install 'vineyard-arrow[{extra}]'",
        ) from None


@contextmanager
def fits(name: str, less: str = "choose columns, filter") -> Iterator[None]:
    """Say that what comes from ``name`` does not fit, if the pool has no room in the block.

    ``less``: how to take less of it, for the hint.
    """
    try:
        yield
    except VineyardArrowError:
        raise
    except MemoryError as error:
        raise StoreFullError(
            f"what {name} sends does not fit in the store: {error}",
            f"{less}, or scan it: that holds little at a time",
        ) from None
