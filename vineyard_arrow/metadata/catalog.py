"""The catalog of one instance: objects and names, published in the shared index.

It alone writes the index, and knows which deleted objects are still pinned. Deleting
removes an object at once; its extents and its slot are given up when the last pin goes.

Knows no sockets. Single-threaded.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase

from msgspec import Struct

from ..errors import (
    InvalidObjectError,
    ObjectExistsError,
    ObjectInUseError,
    ObjectNotFoundError,
    StoreFullError,
)
from ..ipc import _core
from ..ipc.memory import ExtentKey
from ..machine import counted
from ..objects import ObjectID

MAX_NAME_NBYTES = 4096
MAX_LABELS_NBYTES = 64 << 10
MAX_COMPARED = 50  # names: with more, a miss would take milliseconds
OURS = "vineyard."
TAKEN_HINT = "overwrite=True moves it (of put, read and put_name), or choose another"
_ID = re.compile("o[0-9a-fA-F]{16}")


class Record(Struct, eq=False):
    """One object in the catalog."""

    id: int
    typename: str
    nbytes: int
    stored: int  # bytes of its extents
    created_ns: int
    pid: int
    extents: list[ExtentKey]
    place: tuple[int, int]  # of its metadata, in the arena
    name_place: tuple[int, int] | None = None  # of the name it is to get
    slot: int = -1
    names: set[str] = set()
    members: list[int] = []
    parents: int = 0  # places at which it is a member
    labels: dict[str, str] = {}
    signature: int = 0
    persisted: bool = False  # the cluster knows it, or may: it goes by its word alone
    deep: bool = False  # once deleted: members that nothing else needs go with it


def check_labels(labels: Mapping[str, str]) -> None:
    """InvalidObjectError if these labels are too many for one object."""
    if sum(len(k) + len(v) for k, v in labels.items()) > MAX_LABELS_NBYTES:
        raise InvalidObjectError(f"labels of over {MAX_LABELS_NBYTES} characters")


class _Name(Struct):
    id: int
    slot: int
    place: tuple[int, int]


class Catalog:
    """Objects and names of one instance.

    Parameters
    ----------
    index, arena
        The shared index, and the segment of metadata behind it.
    base : int
        Logical offset of that segment.
    pins : callable
        ``pins(slot) -> bool``: does any client pin it?
    dropped : callable
        Called with the extents of an object when neither it nor a pin holds them any more.
    """

    def __init__(
        self,
        index: _core.HostIndex,
        arena: _core.MetadataArena,
        base: int,
        max_objects: int,
        pins: Callable[[int], bool],
        dropped: Callable[[Iterable[ExtentKey]], None],
    ) -> None:
        self._index = index
        self._arena = arena
        self._base = base
        self._max = max_objects
        self._pins = pins
        self._dropped = dropped
        self._objects: dict[int, Record] = {}
        self._names: dict[str, _Name] = {}
        self._near: dict[str, str] = {}  # names like the one that was missed last
        self._deleted: dict[int, Record] = {}  # by slot: still pinned
        self._unlisted: dict[int, Record] = {}  # to be read, but no objects by themselves

    def __len__(self) -> int:
        return len(self._objects)

    @property
    def names(self) -> int:
        """How many names there are."""
        return len(self._names)

    @property
    def room(self) -> int:
        """How many more objects and names the index takes."""
        objects = len(self._objects) + len(self._unlisted) + len(self._deleted)
        return self._max - objects - len(self._names)

    @property
    def spare_nbytes(self) -> int:
        """Bytes of the largest piece of the metadata segment that is given to nothing."""
        return self._arena.spare

    @property
    def deleted_pinned(self) -> int:
        """Deleted objects whose memory a reader still holds."""
        return len(self._deleted)

    # ---- objects

    def check_new(
        self, ids: Iterable[int], names: Iterable[str], moving: Iterable[str] = ()
    ) -> None:
        """Raise unless all of these ids and names can be published together.

        ``moving``: names that may be taken.
        """
        fresh: set[int | str] = set()
        for object_id in ids:
            if object_id in self._objects or object_id in self._unlisted or object_id in fresh:
                raise ObjectExistsError(f"object {ObjectID(object_id)} exists")
            fresh.add(object_id)
        for name in names:
            check_name(name)
            if name in self._names or name in fresh:
                raise self._taken(name)
            fresh.add(name)
        for name in moving:
            check_name(name)
            if name in fresh:
                raise self._taken(name)
            if name not in self._names:  # its room in the index is enough
                fresh.add(name)
        if len(fresh) > self.room:
            raise self.full()

    def full(self) -> StoreFullError:
        """The error for an index without room."""
        return StoreFullError(
            f"the index holds {self._max - self.room:,} objects and names, {self._max:,} at most",
            "delete some, or start the daemon with a larger --max-objects",
        )

    def _taken(self, name: str) -> ObjectExistsError:
        current = self._names.get(name)
        to = f" (it points to {ObjectID(current.id)})" if current else ""
        return ObjectExistsError(
            f"name {name!r} is taken{to}",
            TAKEN_HINT,
        )

    def store(
        self, data: bytes, segments: list[int], figures: tuple[int, ...], name: str | None
    ) -> tuple[tuple[int, int], tuple[int, int] | None]:
        """Write an object's metadata and name; return both places. StoreFullError if full.

        ``figures``: payload bytes, creation time, bytes copied, gathered, shared, the user, the
        signature.
        """
        place = self._arena.store_object(data, segments, *figures)
        if place is None:
            raise self.arena_full()
        try:
            return place, None if name is None else self._store_name(name)
        except StoreFullError:
            self._arena.free(*place)
            raise

    def _store_name(self, name: str) -> tuple[int, int]:
        data = name.encode()
        offset = self._arena.store(data)
        if offset < 0:
            raise self.arena_full()
        return offset, len(data)

    def arena_full(self) -> StoreFullError:
        """The error for a metadata segment without room."""
        return StoreFullError(
            f"no room for metadata: {self._arena.used:,} bytes are in use",
            "delete objects, or store the same data in fewer columns and chunks",
        )

    def discard(self, record: Record) -> None:
        """Free metadata that was stored and will not be published."""
        self._arena.free(*record.place)
        if record.name_place is not None:
            self._arena.free(*record.name_place)

    def publish(self, record: Record, name: str | None) -> None:
        """Make a checked and stored object visible, and its name: moved, if taken. Cannot fail."""
        for member in record.members:
            self._objects[member].parents += 1
        offset, nbytes = record.place
        record.slot = self._index.insert(record.id, _core.KIND_OBJECT, self._base + offset, nbytes)
        self._objects[record.id] = record
        if name is not None and record.name_place is not None:
            self._move_name(name, record, record.name_place)

    def publish_unlisted(self, record: Record) -> None:
        """Make a checked and stored batch of a stream readable. Cannot fail.

        It can be got by its id, but not listed, named, deleted or made a member.
        """
        offset, nbytes = record.place
        record.slot = self._index.insert(record.id, _core.KIND_OBJECT, self._base + offset, nbytes)
        self._unlisted[record.id] = record

    def withdraw(self, records: Iterable[Record]) -> None:
        """Delete what was published unlisted; memory goes when the last reader lets go of it."""
        for record in records:
            del self._unlisted[record.id]
            self._index.kill(record.slot)
            self._give_up(record)

    def get(self, object_id: int) -> Record | None:
        """The object, or None."""
        return self._objects.get(object_id)

    def is_readable(self, object_id: int) -> bool:
        """Whether there is an object, or a batch of a stream, of that id."""
        return object_id in self._objects or object_id in self._unlisted

    def check_members(self, members: Iterable[int], others: Iterable[int] = ()) -> None:
        """Raise unless all members are objects; ``others`` are about to be."""
        fresh = set(others)
        for member in members:
            if member not in self._objects and member not in fresh:
                raise ObjectNotFoundError(
                    f"member {ObjectID(member)} is no object of this store",
                    "put members before what is composed of them, and keep them until then",
                )

    def delete(self, ids: Iterable[int], *, force: bool = False, deep: bool = True) -> None:
        """Delete objects and their names; all or, if one is refused, none.

        Raises
        ------
        ObjectNotFoundError
            If one is unknown.
        ObjectInUseError
            If one is a member of an object that stays, unless ``force``.
        """
        for record in self.check_delete(ids, force=force):
            if record.id in self._objects:  # not gone with another of them already
                self._remove(record, deep)

    def check_delete(self, ids: Iterable[int], *, force: bool = False) -> list[Record]:
        """What `delete` would delete; raises what it would raise."""
        records: dict[int, Record] = {}
        for object_id in ids:
            record = self._objects.get(object_id)
            if record is None:
                raise ObjectNotFoundError(f"no object {ObjectID(object_id)}")
            records[object_id] = record
        if not force:
            self._check_free(records)
        return list(records.values())

    def tree(self, ids: Iterable[int]) -> list[Record]:
        """Objects and their members, however deep, each once and after its members."""
        found: dict[int, Record] = {}
        pending = [(object_id, False) for object_id in ids]
        while pending:
            object_id, ready = pending.pop()
            record = self._objects.get(object_id)
            if record is None or object_id in found:
                continue
            if ready:
                found[object_id] = record
            else:
                pending.append((object_id, True))
                pending += [(member, False) for member in record.members]
        return list(found.values())

    def doomed(self, ids: Iterable[int], *, deep: bool) -> list[Record]:
        """These objects and the members that would go with them, parents before members."""
        given = set(ids)
        lost: Counter[int] = Counter()
        out = []
        for record in reversed(self.tree(given)):
            goes_along = deep and not record.names and lost[record.id] == record.parents
            if record.id in given or goes_along:
                out.append(record)
                lost.update(record.members)
        return out

    def _check_free(self, records: dict[int, Record]) -> None:
        """Raise if one of them is a member of an object outside of them."""
        inside = Counter(m for record in records.values() for m in record.members)
        for record in records.values():
            if record.parents > inside[record.id]:
                others = record.parents - inside[record.id]
                raise ObjectInUseError(
                    f"{ObjectID(record.id)} is a member of {counted(others, 'other object')}",
                    "delete those first, which takes their members along, or use force=True",
                )

    def _remove(self, record: Record, deep: bool) -> None:
        for name in list(record.names):
            self.drop_name(name)
        del self._objects[record.id]
        self._index.kill(record.slot)
        record.deep = deep
        self._give_up(record)

    def _give_up(self, record: Record) -> None:
        if self._pins(record.slot):
            self._deleted[record.slot] = record
        else:
            self._reclaim(record)

    def reap(self) -> None:
        """Reclaim deleted objects that nobody pins any more."""
        for slot, record in list(self._deleted.items()):
            # Looking at pins takes up puts, which may end a session, which reaps as well.
            if not self._pins(slot) and self._deleted.get(slot) is record:
                del self._deleted[slot]
                self._reclaim(record)

    def _reclaim(self, record: Record) -> None:
        """Give up what a deleted object holds: only now, so that its readers find its members."""
        pending = [record]
        while pending:
            gone = pending.pop()
            self._index.release(gone.slot)
            self._arena.free(*gone.place)
            self._dropped(gone.extents)
            for object_id in gone.members:
                member = self._objects.get(object_id)
                if member is None:
                    continue  # deleted by force
                member.parents -= 1
                if gone.deep and not (member.parents or member.names or member.persisted):
                    del self._objects[member.id]
                    self._index.kill(member.slot)
                    member.deep = True
                    if self._pins(member.slot):
                        self._deleted[member.slot] = member
                    else:
                        pending.append(member)

    def closure(self, object_id: int) -> list[Record]:
        """An object and its members, however deep; empty if it is unknown."""
        found: dict[int, Record] = {}
        pending = [object_id]
        while pending:
            each = pending.pop()
            record = self._objects.get(each) or self._unlisted.get(each)
            if record is not None and record.id not in found:
                found[record.id] = record
                pending += record.members
        return list(found.values())

    def clear(self) -> int:
        """Delete everything; return how many objects there were."""
        n = len(self._objects)
        self.delete(list(self._objects), force=True)
        return n

    def match(self, pattern: str) -> Iterator[Record]:
        """Objects with a name or typename that ``pattern`` (as in a shell) matches, by id.

        Our own typenames match with their prefix and without.
        """
        for _, record in sorted(self._objects.items()):
            if matches(pattern, record.typename, record.names):
                yield record

    # ---- names

    def put_name(self, name: str, object_id: int, *, overwrite: bool = False) -> None:
        """Point a name to an object: a free one, or any if ``overwrite``."""
        self.check_new([], [] if overwrite else [name], [name] if overwrite else [])
        record = self._objects.get(object_id)
        if record is None:
            raise ObjectNotFoundError(f"no object {ObjectID(object_id)}")
        self._move_name(name, record, self._store_name(name))

    def _move_name(self, name: str, record: Record, place: tuple[int, int]) -> None:
        if name in self._names:
            self.drop_name(name)
        offset, nbytes = place
        slot = self._index.insert(
            _core.name_key(name.encode()),
            _core.KIND_NAME,
            self._base + offset,
            nbytes,
            record.id,
        )
        self._names[name] = _Name(record.id, slot, place)
        self._near = {}
        record.names.add(name)

    def find_name(self, name: str) -> int | None:
        """The object a name points to, or None."""
        entry = self._names.get(name)
        return entry.id if entry else None

    def no_name(self, name: str, advice: str | None = None) -> ObjectNotFoundError:
        """The error for a name that is not there; its hint has the nearest names."""
        near = self._near.get(name)
        if near is None:  # who waits for a name by asking again and again must cost little
            near = nearest(name, self._names)
            self._near = {name: near}
        return ObjectNotFoundError(
            f"no name {name!r}", "; ".join(filter(None, [near, advice])) or None
        )

    def drop_name(self, name: str) -> None:
        """Free a name."""
        entry = self._names.pop(name, None)
        self._near = {}
        if entry is None:
            raise self.no_name(name)
        self._index.kill(entry.slot)
        self._index.release(entry.slot)
        self._arena.free(*entry.place)
        record = self._objects.get(entry.id)
        if record is not None:
            record.names.discard(name)

    def list_names(self, pattern: str) -> dict[str, int]:
        """Names that ``pattern`` matches, with the ids they point to, sorted."""
        return {n: e.id for n, e in sorted(self._names.items()) if fnmatchcase(n, pattern)}


def matches(pattern: str, typename: str, names: Iterable[str]) -> bool:
    """Whether a pattern (as in a shell) is that of a typename, ours without prefix, or a name."""
    return pattern == "*" or any(
        fnmatchcase(s, pattern) for s in (typename, typename.removeprefix(OURS), *names)
    )


def nearest(name: str, names: Collection[str]) -> str:
    """What a hint says of names that are like one that is not there; empty if none is."""
    near = difflib.get_close_matches(name, names if len(names) <= MAX_COMPARED else ())
    return f"nearest: {', '.join(map(repr, near))}" if near else ""


def check_name(name: str) -> None:
    """Raise unless this can be the name of an object, or of a stream."""
    try:
        nbytes = len(name.encode())
    except UnicodeEncodeError:
        raise InvalidObjectError(f"name {name!r} is not valid Unicode") from None
    if _ID.fullmatch(name):
        raise InvalidObjectError(f"name {name!r} has the form of an object id")
    if not 0 < nbytes <= MAX_NAME_NBYTES:
        raise InvalidObjectError(
            f"a name has 1 to {MAX_NAME_NBYTES} bytes of UTF-8, this one has {nbytes}"
        )
