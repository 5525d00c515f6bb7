"""Composite objects without a type of their own: got as a handle."""

from __future__ import annotations

from typing import Any

from ..errors import InvalidObjectError
from ..objects import ObjectMeta
from ..registry import Encoder, Part, StoredObject, StoredPart, builtin_registry


@builtin_registry.builder(ObjectMeta)
def build_meta(meta: ObjectMeta, encoder: Encoder) -> Part:
    """Metadata is sealed, not put: it would lose its members."""
    raise InvalidObjectError("metadata is no value", "use client.create_metadata(meta)")


@builtin_registry.resolver("vineyard.object")
def resolve_object(part: StoredPart, stored: StoredObject) -> Any:
    """A handle on the object."""
    if stored.source is None:
        raise InvalidObjectError("a handle needs a client")
    return stored.source.get_object(stored.id)
