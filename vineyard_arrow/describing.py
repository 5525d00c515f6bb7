"""Metadata of stored objects: what they say themselves, and what the catalog knows of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from .composition import VALUES, members_of
from .ipc import protocol as p
from .ipc.stored import read_parts
from .objects import ObjectID, ObjectMeta, PartMeta
from .store import Store


def catalogued_meta(store: Store, info: p.ObjectInfo) -> ObjectMeta:
    """All there is to know of an object that the catalog told of."""
    if info.data:
        return elsewhere_meta(info)
    return sealed_meta(
        store,
        info.id,
        names=tuple(info.names),
        parents=info.parents,
        labels=info.labels,
        persisted=info.persisted,
    )


def parts_of(store: Store, info: p.ObjectInfo) -> list[tuple[Any, ...]]:
    """Typename, schema, rows, batches and descriptor of each part, the root first; no data."""
    if info.data:
        return list(read_parts(info.data)[0])
    return [tuple(part) for part in store.describe(info.id)[7]]


def elsewhere_meta(info: p.ObjectInfo) -> ObjectMeta:
    """What the cluster knows of an object of another instance, or of a global one."""
    parts, members = read_parts(info.data)
    lost = set(info.lost)
    return ObjectMeta.sealed(
        info.typename,
        parts[0].params.get(VALUES, {}),
        id=ObjectID(info.id),
        instance=ObjectID(info.id).instance,
        nbytes=info.nbytes,
        parts=tuple(PartMeta(*part[:4]) for part in parts),
        members=members_of(members),
        created=datetime.fromtimestamp(info.created_ns / 1e9, UTC),
        signature=ObjectID(info.signature),
        names=tuple(info.names),
        labels=info.labels,
        persisted=True,
        is_global=info.is_global,
        missing=tuple(name for name, (member, _) in members.items() if member in lost),
    )


def sealed_meta(store: Store, object_id: int, pin: Any = None, **catalogued: Any) -> ObjectMeta:
    """What the object itself says, and what the catalog knows; no round trip."""
    described = store.describe(object_id, pin)
    nbytes, created_ns, copied, gathered, shared, uid, signature, parts, members, _ = described
    root = parts[0]
    return ObjectMeta.sealed(
        root[0],
        root[4].get(VALUES, {}),
        id=ObjectID(object_id),
        instance=ObjectID(object_id).instance,
        nbytes=nbytes,
        parts=tuple(PartMeta(*part[:4]) for part in parts),
        members=members_of(members),
        created=datetime.fromtimestamp(created_ns / 1e9, UTC),
        copied=copied,
        gathered=gathered,
        shared=shared,
        uid=uid,
        signature=ObjectID(signature),
        **catalogued,
    )


def unreadable_meta(info: p.ObjectInfo) -> ObjectMeta:
    """What is known of an object whose stored schema makes no sense."""
    return ObjectMeta.sealed(
        info.typename,
        {},
        id=ObjectID(info.id),
        instance=ObjectID(info.id).instance,
        nbytes=info.nbytes,
        names=tuple(info.names),
        created=datetime.fromtimestamp(info.created_ns / 1e9, UTC),
    )
