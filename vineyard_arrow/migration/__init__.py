"""Objects with all their members from one instance to another, by a process at each end.

See docs/migration.md. Importing this starts nothing and imports little.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .transports import transport

if TYPE_CHECKING:
    from .pair import migrate

__all__ = ["migrate", "transport"]


def __getattr__(name: str) -> Any:
    if name == "migrate":
        from .pair import migrate

        return migrate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
