"""Objects made of other objects: how members are written, and read back.

The members of an object are one more Arrow stream beside its own, the last: a schema with a
field for each member, whose name is the member's and whose type is the extension type
``vineyard.object`` with the member's typename as its parameter, and no batches. The ids are in
the stream's descriptor, in the order of the fields.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa

from .errors import InvalidObjectError
from .ipc import _core
from .ipc import protocol as p
from .objects import Member, ObjectID, ObjectMeta
from .registry import Part

if TYPE_CHECKING:
    from .client import Client

MEMBERS = "vineyard.members"
VALUES = "vineyard.meta"  # a user's values, in the descriptor of the root part


def members_part(members: Mapping[str, Member]) -> Part:
    """The stream that says what an object is composed of."""
    fields = [
        pa.field(
            name,
            pa.null(),
            metadata={
                "ARROW:extension:name": "vineyard.object",
                "ARROW:extension:metadata": member.typename,
            },
        )
        for name, member in members.items()
    ]
    ids = [str(member.id) for member in members.values()]
    return Part(MEMBERS, pa.schema(fields), [], {"ids": ids})


def members_of(found: Mapping[str, tuple[int, str]]) -> dict[str, Member]:
    """Members by name, as they were read."""
    # Their ids are of 64 bits, and there may be thousands.
    return {
        name: Member(int.__new__(ObjectID, number), typename)
        for name, (number, typename) in found.items()
    }


def create_metadata(client: Client, meta: ObjectMeta, name: str | None = None) -> ObjectMeta:
    """Seal an object of values and members; see `Client.create_metadata`."""
    created: list[ObjectID] = []
    try:
        return client.get_meta(_create(client, meta, name, created, []))
    except BaseException:
        for object_id in reversed(created):  # parents before their members
            client.delete(object_id, deep=False)
        raise


def _create(
    client: Client,
    meta: ObjectMeta,
    name: str | None,
    created: list[ObjectID],
    path: list[ObjectMeta],
) -> ObjectID:
    if any(meta is other for other in path):
        names = " -> ".join(m.typename for m in [*path, meta])
        raise InvalidObjectError(
            f"a cycle among members: {names}", "an object cannot be a member of itself"
        )
    members: dict[str, Member] = {}
    for member_name, member in meta.members.items():
        if isinstance(member, ObjectMeta):
            object_id = member.id
            if object_id is None:
                object_id = _create(client, member, None, created, [*path, meta])
            members[member_name] = Member(object_id, member.typename)
        else:
            members[member_name] = Member(member.id, client._typename(member.id))
    params = {VALUES: dict(meta._values)} if meta._values else {}
    parts = [Part(meta.typename, pa.schema([]), [], params)]
    object_id = client._put_parts(parts, members, name)
    created.append(object_id)
    return object_id


def create_global(
    client: Client, meta: ObjectMeta, name: str | None, labels: Mapping[str, str], timeout_s: float
) -> ObjectMeta:
    """Make an object of the cluster; see `Client.create_global`."""
    if meta.id is not None:
        raise InvalidObjectError(f"object {meta.id} is sealed", "make metadata anew")
    ids: list[int] = []
    for member in meta.members.values():
        if member.id is None:
            raise InvalidObjectError("a member that is not sealed yet", "create_metadata seals it")
        ids.append(int(member.id))
    if ids:
        client._a.ask(p.Persist(ids, timeout_s), timeout_s)
    members = {
        name: Member(ObjectID(member.id), client.get_meta(member.id).typename)
        for name, member in meta.members.items()
    }
    params = {VALUES: dict(meta._values)} if meta._values else {}
    parts = [Part(meta.typename, pa.schema([]), [], params)]
    if members:
        parts.append(members_part(members))
    message = p.CreateGlobal(
        meta.typename,
        b"".join(map(_without_data, parts)),
        ids,
        time.time_ns(),
        name,
        labels,
        timeout_s,
    )
    return client.get_meta(int(client._a.ask(message, timeout_s).id))


def _without_data(part: Part) -> bytes:
    """The messages of a part that has no batches, as a store would have them."""
    params = msgspec.json.encode(part.params) if part.params else None
    sink = pa.BufferOutputStream()
    pa.ipc.new_stream(sink, _core.stored_schema(part.schema, part.typename, params)).close()
    return bytes(sink.getvalue())


def shallow_copy(client: Client, key: Any, values: Mapping[str, Any] | None) -> ObjectID:
    """A new object over the same parts and members; see `Client.shallow_copy`."""
    meta = client.get_meta(key)
    assert meta.id is not None
    merged = ObjectMeta(meta.typename, {**{k: meta[k] for k in meta}, **(values or {})})
    raw = client._a.read(meta.id).parts
    parts = [
        Part(part.typename, part.table.schema, part.table.to_batches(), part.params) for part in raw
    ]
    params = {k: v for k, v in parts[0].params.items() if k != VALUES}
    if merged._values:
        params[VALUES] = merged._values
    parts[0] = Part(merged.typename, parts[0].schema, parts[0].batches, params)
    return client._put_parts(parts, meta.members, None, int(meta.signature or meta.id))
