"""Keys and items between our terms and etcd's messages. No I/O."""

from __future__ import annotations

from typing import Any

from ..backend import Item


def encode(key: str) -> bytes:
    """A key as etcd has it; keys of others that are no text come back as they were."""
    return key.encode("utf-8", "surrogateescape")


def decode(key: bytes) -> str:
    """A key of etcd's as text."""
    return key.decode("utf-8", "surrogateescape")


def span(prefix: str) -> tuple[bytes, bytes]:
    """First key and end of the range of all keys that start with ``prefix``."""
    first = encode(prefix)
    stem = first.rstrip(b"\xff")
    end = stem[:-1] + bytes([stem[-1] + 1]) if stem else b"\0"
    return first or b"\0", end


def item_of(kv: Any) -> Item:
    """A KeyValue message as an item."""
    return Item(decode(kv.key), kv.value, kv.mod_revision, kv.lease)
