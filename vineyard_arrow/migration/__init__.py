"""Objects with all their members from one instance to another, by a process at each end.

See docs/migration.md. Importing this starts nothing and imports little.
"""

from __future__ import annotations

from .transports import transport

__all__ = ["transport"]
