"""What a cluster keeps of instances and objects: keys, values, and transactions that change them.

Below ``/vineyard/<cluster>/``, with instances and ids as hexadecimal digits:

==========================  ======================================  ====================
key                         value                                   ends with
==========================  ======================================  ====================
``i/<iid>``                 the instance, as JSON                   its lease, id ``iid``
``o/<iid>/<oid>``           a persisted object and its members      its owner's lease
``s/<signature>/<iid>``     id of the newest object of that content its owner's lease
``n/<name>``                id, and instance                        its owner's lease
``r/<member>/<oid>``        empty: the member is referred to        the member's lease
``g/<oid>``                 a global object, and where its parts are  nothing
``number``                  the last number that an instance got    nothing
==========================  ======================================  ====================

Names of global objects have no lease either. The value of an object begins with its Arrow IPC
stream, so any Arrow implementation reads the schema off it; a JSON text about the object follows,
its length in 4 bytes (little-endian), and ``VYA1``.

Every write of an owner compares that its instance is still registered, so one that was counted
out changes nothing. All functions are pure.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from ..errors import ConfigError, InvalidObjectError
from ..objects import ObjectID
from .backend import (
    MAX_COMPARES,
    MAX_OPERATIONS,
    Item,
    Put,
    Transaction,
    absent,
    empty,
    exists,
    unchanged,
)

_CLUSTER = re.compile(r"[A-Za-z0-9._-]{1,64}")
_FOOTER = struct.Struct("<I4s")
_MAGIC = b"VYA1"
_T = TypeVar("_T")


class InstanceRecord(msgspec.Struct, frozen=True):
    """An instance that is up: ``iid`` is its lease, ``number`` the top 24 bits of its ids."""

    iid: int
    number: int
    host: str
    pid: int
    socket: str = ""
    rpc: str = ""
    version: str = ""


class Reference(msgspec.Struct, frozen=True):
    """A member or a partition: its id, and the instance that owns it."""

    id: int
    iid: int
    typename: str = ""
    nbytes: int = 0


class ObjectRecord(msgspec.Struct, frozen=True):
    """An object that the cluster knows, local to an instance or global.

    ``members`` of a global object are its partitions, in order. ``data`` is the Arrow IPC stream
    of the object itself.
    """

    id: int
    iid: int  # the owner; of a global object, who created it
    typename: str
    nbytes: int
    created_ns: int
    signature: int = 0
    labels: dict[str, str] = {}
    names: tuple[str, ...] = ()  # that it was given when it was persisted
    members: tuple[Reference, ...] = ()
    data: bytes = b""


class GlobalRecord(msgspec.Struct, frozen=True):
    """A global object: no lease, members anywhere."""

    object: ObjectRecord


class NameRecord(msgspec.Struct, frozen=True):
    """A name, what it points to and the instance it lives with; ``iid`` 0: a global object's."""

    name: str
    id: int
    iid: int


class SignatureRecord(msgspec.Struct, frozen=True):
    """The newest object of a content that an instance has."""

    signature: int
    iid: int
    id: int


class EdgeRecord(msgspec.Struct, frozen=True):
    """``member`` is referred to by ``parent``, so it can't be deleted."""

    member: int
    parent: int


Record = InstanceRecord | ObjectRecord | GlobalRecord | NameRecord | SignatureRecord | EdgeRecord


class Layout:
    """The keys of one cluster.

    Raises
    ------
    ConfigError
        If the cluster's name is not 1 to 64 letters, digits, dots, dashes and underscores.
    """

    def __init__(self, cluster: str) -> None:
        if not _CLUSTER.fullmatch(cluster):
            raise ConfigError(
                f"{cluster!r} is no name of a cluster",
                "use 1 to 64 letters, digits, dots, dashes and underscores",
            )
        self.prefix = f"/vineyard/{cluster}/"

    def instance(self, iid: int) -> str:
        """Of an instance."""
        return f"{self.prefix}i/{iid:016x}"

    def object(self, iid: int, object_id: int) -> str:
        """Of a persisted object."""
        return f"{self.prefix}o/{iid:016x}/{ObjectID(object_id)}"

    def signature(self, signature: int, iid: int) -> str:
        """Of the newest object of a content on an instance."""
        return f"{self.prefix}s/{ObjectID(signature)}/{iid:016x}"

    def name(self, name: str) -> str:
        """Of a name."""
        return f"{self.prefix}n/{name}"

    def edges(self, member: int) -> str:
        """What all references to a member start with."""
        return f"{self.prefix}r/{ObjectID(member)}/"

    def edge(self, member: int, parent: int) -> str:
        """Of a reference."""
        return f"{self.edges(member)}{ObjectID(parent)}"

    def globals(self, object_id: int) -> str:
        """Of a global object."""
        return f"{self.prefix}g/{ObjectID(object_id)}"

    @property
    def counter(self) -> str:
        """Of the last number that an instance was given."""
        return f"{self.prefix}number"


# ---- transactions


def register(layout: Layout, instance: InstanceRecord) -> Transaction:
    """Make an instance known; a conflict means that this lease is registered already."""
    key = layout.instance(instance.iid)
    return Transaction((absent(key),), (Put(key, _json(instance), instance.iid),))


def announce(layout: Layout, instance: InstanceRecord) -> Transaction:
    """Say something new of an instance; a conflict means that it isn't registered."""
    key = layout.instance(instance.iid)
    return Transaction((exists(key),), (Put(key, _json(instance), instance.iid),))


def persist(layout: Layout, record: ObjectRecord) -> Transaction:
    """Make an object known, with its names, and refer to its members.

    Members of other instances must be known themselves; those of the owner are part of the tree.
    """
    key, lease = layout.object(record.iid, record.id), record.iid
    foreign = [m for m in record.members if m.iid != record.iid]
    compares = [exists(layout.instance(record.iid)), absent(key)]
    compares += [absent(layout.name(name)) for name in record.names]
    compares += [exists(layout.object(m.iid, m.id)) for m in foreign]
    puts = [Put(key, _value(record), lease)]
    puts += [_name_put(layout, name, record.id, lease) for name in record.names]
    puts += [Put(layout.edge(m.id, record.id), b"", m.iid) for m in _once(record.members)]
    if record.signature:
        puts.append(_signature_put(layout, record))
    return Transaction(tuple(dict.fromkeys(compares)), tuple(puts))


def delete(
    layout: Layout, record: ObjectRecord, names: Sequence[Item] = (), signature: Item | None = None
) -> Transaction:
    """Make an object unknown, unless something refers to it.

    Parameters
    ----------
    names : sequence of Item
        The keys of names that point to it; a conflict if one of them (of the first 60) was moved.
    signature : Item, optional
        The key of its signature, if that points to this object.
    """
    key = layout.object(record.iid, record.id)
    compares = [exists(layout.instance(record.iid)), exists(key), empty(layout.edges(record.id))]
    deletes = [key, *(item.key for item in names)]
    deletes += [layout.edge(m.id, record.id) for m in _once(record.members)]
    if signature is not None:
        compares.append(unchanged(signature))
        deletes.append(signature.key)
    compares += [unchanged(item) for item in names[: MAX_COMPARES - len(compares)]]
    return Transaction(tuple(compares), deletes=tuple(deletes))


def put_name(
    layout: Layout, name: str, record: ObjectRecord | GlobalRecord, taken: Item | None = None
) -> Transaction:
    """Give a known object a name that is free, or that still is as ``taken``, its key, was read."""
    if isinstance(record, GlobalRecord):
        key, lease = layout.globals(record.object.id), 0
        object_id, fence = record.object.id, []
    else:
        key, lease = layout.object(record.iid, record.id), record.iid
        object_id, fence = record.id, [exists(layout.instance(record.iid))]
    place = absent(layout.name(name)) if taken is None else unchanged(taken)
    compares = (*fence, exists(key), place)
    return Transaction(compares, (_name_put(layout, name, object_id, lease),))


def relabel(layout: Layout, item: Item, record: ObjectRecord) -> Transaction:
    """Give an object, whose key was read, other labels: those of ``record``."""
    fence = (exists(layout.instance(record.iid)),) if item.lease else ()
    return Transaction((*fence, unchanged(item)), (Put(item.key, _value(record), item.lease),))


def drop_name(item: Item) -> Transaction:
    """Free a name, if it still is as ``item``, its key, was read."""
    return Transaction((unchanged(item),), deletes=(item.key,))


def create_global(layout: Layout, record: ObjectRecord) -> tuple[Transaction, ...]:
    """Make a global object of known objects: transactions to commit in this order.

    Few members take one. For more, references come first, on the creator's lease, so members stay
    from then on and a creator that dies leaves nothing; the last transaction makes the object and
    gives each reference to its member's owner. If one conflicts, commit `abandon_global`.

    Raises
    ------
    InvalidObjectError
        If it has more members than one transaction can refer to, or is the member of itself.
    """
    key = layout.globals(record.id)
    members = _once(record.members)
    if any(member.id == record.id for member in members):
        raise InvalidObjectError(f"{ObjectID(record.id)} cannot be a member of itself")
    if len(members) + len(record.names) + 1 > MAX_OPERATIONS:
        raise InvalidObjectError(
            f"a global object has {len(members):,} members, {MAX_OPERATIONS - 100:,} at most",
            "make fewer, larger partitions",
        )
    fence = exists(layout.instance(record.iid))
    known = [exists(layout.object(m.iid, m.id)) for m in members]
    names = [absent(layout.name(name)) for name in record.names]
    own = (fence, absent(key), *names)
    made = [Put(key, _value(record))]
    made += [_name_put(layout, name, record.id, 0) for name in record.names]
    made += [Put(layout.edge(m.id, record.id), b"", m.iid) for m in members]
    if len(own) + len(known) <= MAX_COMPARES:
        return (Transaction((*own, *known), tuple(made)),)
    steps = []
    size = MAX_COMPARES - 2
    for i in range(0, len(members), size):
        edges = [Put(layout.edge(m.id, record.id), b"", record.iid) for m in members[i : i + size]]
        compares = (fence, absent(key), *known[i : i + size])
        steps.append(Transaction(compares, tuple(edges)))
    return (*steps, Transaction(own, tuple(made)))


def abandon_global(layout: Layout, record: ObjectRecord) -> Transaction:
    """Take back the references of a global object that didn't come about."""
    edges = tuple(layout.edge(m.id, record.id) for m in _once(record.members))
    return Transaction((absent(layout.globals(record.id)),), deletes=edges)


def delete_global(layout: Layout, record: ObjectRecord, names: Sequence[Item] = ()) -> Transaction:
    """Make a global object unknown, unless something refers to it; any instance may.

    ``names`` are as in `delete`.
    """
    key = layout.globals(record.id)
    edges = [layout.edge(m.id, record.id) for m in _once(record.members)]
    deletes = (key, *(item.key for item in names), *edges)
    compares = [exists(key), empty(layout.edges(record.id))]
    compares += [unchanged(item) for item in names[: MAX_COMPARES - len(compares)]]
    return Transaction(tuple(compares), deletes=deletes)


def republish(layout: Layout, item: Item, iid: int) -> Transaction:
    """Put back a key of an instance that the cluster lost; a conflict if it is there again."""
    compares = (exists(layout.instance(iid)), absent(item.key))
    return Transaction(compares, (Put(item.key, item.value, item.lease),))


def refer_again(layout: Layout, item: Item, iid: int) -> dict[str, Transaction]:
    """What puts back references of an own object to members of others, by the keys of these.

    An owner puts its object back, and the references to it that it knows of; one that was made just
    before the loss it may not know.
    """
    try:
        found = parse(layout, item)
    except InvalidObjectError:
        return {}
    record = found.object if isinstance(found, GlobalRecord) else found
    if not isinstance(record, ObjectRecord):
        return {}
    out = {}
    for member in _once(record.members):
        if member.iid != iid:
            key, edge = layout.object(member.iid, member.id), layout.edge(member.id, record.id)
            compares = (exists(layout.instance(iid)), exists(key), exists(item.key), absent(edge))
            out[key] = Transaction(compares, (Put(edge, b"", member.iid),))
    return out


def is_owned(layout: Layout, item: Item, instance: InstanceRecord) -> bool:
    """Whether an instance is to put a key back: on its lease, or of a global object it made."""
    if item.lease:
        return item.lease == instance.iid
    try:
        match parse(layout, item):
            case GlobalRecord(object=made):
                return made.iid == instance.iid
            case NameRecord(id=object_id):
                return ObjectID(object_id).instance == instance.number
    except InvalidObjectError:
        pass
    return False


def _name_put(layout: Layout, name: str, object_id: int, lease: int) -> Put:
    return Put(layout.name(name), f"{ObjectID(object_id)} {lease:016x}".encode(), lease)


def _signature_put(layout: Layout, record: ObjectRecord) -> Put:
    key = layout.signature(record.signature, record.iid)
    return Put(key, str(ObjectID(record.id)).encode(), record.iid)


def _once(members: Sequence[Reference]) -> list[Reference]:
    """Each member once: it may be at several places."""
    return list({member.id: member for member in members}.values())


# ---- values


def _json(value: object) -> bytes:
    return msgspec.json.encode(value)


_instance_decoder = msgspec.json.Decoder(InstanceRecord)
_object_decoder = msgspec.json.Decoder(ObjectRecord)


def _from_json(data: bytes, decoder: msgspec.json.Decoder[_T]) -> _T:
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidObjectError(f"not what was expected: {error}") from None


def _value(record: ObjectRecord) -> bytes:
    about = _json(replace(record, data=b""))
    return record.data + about + _FOOTER.pack(len(about), _MAGIC)


def parse_object(value: bytes) -> ObjectRecord:
    """An object's record of its value; InvalidObjectError if it is none."""
    if len(value) < _FOOTER.size:
        raise InvalidObjectError("the value of an object ends too early")
    size, magic = _FOOTER.unpack(value[-_FOOTER.size :])
    start = len(value) - _FOOTER.size - size
    if magic != _MAGIC or start < 0:
        raise InvalidObjectError("the value of an object has no valid end")
    about = _from_json(value[start : -_FOOTER.size], _object_decoder)
    return replace(about, data=value[:start])


def parse(layout: Layout, item: Item) -> Record:
    """The record that a key and its value are.

    Raises
    ------
    InvalidObjectError
        If they are none, or do not agree.
    """
    kind, _, rest = item.key.removeprefix(layout.prefix).partition("/")
    record: Record
    try:
        match kind:
            case "i":
                record = _from_json(item.value, _instance_decoder)
                key = layout.instance(record.iid)
            case "o":
                record = parse_object(item.value)
                key = layout.object(record.iid, record.id)
            case "g":
                record = GlobalRecord(parse_object(item.value))
                key = layout.globals(record.object.id)
            case "n":
                object_id, iid = item.value.decode().split(" ")
                record = NameRecord(rest, ObjectID(object_id), int(iid, 16))
                key = layout.name(rest)
            case "s":
                signature, iid = rest.split("/")
                record = SignatureRecord(
                    ObjectID(signature), int(iid, 16), ObjectID(item.value.decode())
                )
                key = layout.signature(record.signature, record.iid)
            case "r":
                record = EdgeRecord(*map(ObjectID, rest.split("/")))
                key = layout.edge(record.member, record.parent)
            case _:
                raise InvalidObjectError(f"{item.key!r} is no key of a cluster")
    except (ValueError, TypeError) as error:
        raise InvalidObjectError(f"{item.key!r} has no valid value: {error}") from None
    if key != item.key:
        raise InvalidObjectError(f"{item.key!r} has the value of {key!r}")
    return record
