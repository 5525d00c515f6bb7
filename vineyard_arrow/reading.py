"""How objects that were read become values: what resolvers ask of the store on the way.

A resolver has a `StoredObject`; where members, private memory and handles come from, and whom
the client trusts, is its `Source`, one for each get.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from .contexts import current_registry
from .errors import InvalidObjectError, ObjectNotFoundError
from .ipc import protocol as p
from .ipc.stored import read_parts
from .objects import ObjectID
from .registry import Form, Resolver, StoredObject, StoredPart

if TYPE_CHECKING:
    from .client import Client
    from .handles import ObjectHandle
    from .store import Raw

Check = Literal["structure", "full"]


def stored_object(
    client: Client,
    object_id: int,
    raw: Raw,
    mode: str,
    trusted: bool | None = None,
    validate: str = "structure",
) -> StoredObject:
    """What was read of an object, for its resolver; see `Client.get` for the rest."""
    stored = StoredObject(
        raw.parts,
        current_registry(client._registry),
        Source(client),
        object_id,
        mode,
        client._trusted if trusted is None else trusted,
        raw.uid,
        raw.members,
    )
    if validate != "structure":
        _validate(stored, validate)
    return stored


def global_object(
    client: Client, object_id: int, mode: str, trusted: bool | None, validate: str
) -> StoredObject | None:
    """What the cluster knows of an object without data, for its resolver; None if it has data."""
    try:
        info, _ = client._a.request(p.Describe(object_id))
    except ObjectNotFoundError:
        return None
    if not info.is_global:
        return None
    parts, members = read_parts(info.data)
    stored = StoredObject(
        [StoredPart(each.typename, each.params, each.schema.empty_table()) for each in parts],
        current_registry(client._registry),
        Source(client),
        object_id,
        mode,
        client._trusted if trusted is None else trusted,
        None,  # any user of the cluster may have made it
        members,
    )
    if validate != "structure":
        _validate(stored, validate)
    return stored


def value_of(
    stored: StoredObject, as_: Form | None = None, resolver: Resolver | None = None
) -> Any:
    """The value of what `stored_object` returned."""
    try:
        return stored.resolve(0, as_) if resolver is None else resolver(stored.parts[0], stored)
    except RecursionError:
        raise InvalidObjectError(
            f"{ObjectID(stored.id)} nests too deeply to be read, or contains itself"
        ) from None
    finally:
        if stored.source is not None:
            stored.source.done()


class Source:
    """Of the members, private memory and handles of what one get of a client has read."""

    __slots__ = ("_client", "_values")

    def __init__(self, client: Client) -> None:
        self._client = client
        # Of members, and whether they are trusted, by id and form, while the get lasts: objects
        # that are composed of the same ones over and over are read in no time.
        self._values: dict[tuple[int, Form | None], tuple[Any, bool]] | None = {}

    def done(self) -> None:
        """The get is over: what resolvers ask for later is read anew."""
        self._values = None

    @property
    def uid(self) -> int:
        """The user that this process (or one it was forked from) connected as."""
        return self._client._a.uid

    @property
    def socket(self) -> str:
        """Of the client's store."""
        return str(self._client._a.socket)

    def get_object(self, key: int) -> ObjectHandle:
        """A handle on an object."""
        return self._client.get_object(key)

    def get_fetched(self, stored: StoredObject, key: int) -> Any:
        """The value of another object, got as this one; copied here if it lives elsewhere."""
        return self._client.get(
            key,
            mode=stored.mode,  # type: ignore[arg-type]
            trusted=stored.trusted,
            validate="full" if stored.validate else "structure",
            fetch=True,
        )

    def read_private(self, stored: StoredObject) -> Sequence[StoredPart]:
        """The parts of an object once more, in memory that may be written."""
        return self._client._a.private(stored.id, stored.parts)

    def get_member(self, stored: StoredObject, name: str, as_: Form | None = None) -> Any:
        """The value of a member; see `StoredObject.member`.

        The first one whose memory is not mapped yet has all of the object's mapped.
        """
        if name not in stored.composed_of:
            raise ObjectNotFoundError(f"{ObjectID(stored.id)} has no member {name!r}")
        number, _ = stored.composed_of[name]
        if self._values is not None and (number, as_) in self._values:
            value, trusted = self._values[number, as_]
            stored.members_trusted &= trusted
            return value
        try:
            raw = self._client._a.read(number, stored.mode, stored.id)
        except ObjectNotFoundError:
            raise _gone(stored, name) from None
        member = self._made(stored, number, raw)
        value, believed = member.resolve(0, as_), member.is_trusted
        stored.members_trusted &= believed
        if self._values is not None and not isinstance(value, pa.RecordBatchReader):
            self._values[number, as_] = value, believed
        return value

    def get_members(self, stored: StoredObject, as_: Form | None = None) -> dict[str, Any]:
        """The values of all members, by name."""
        numbers = [number for number, _ in stored.composed_of.values()]
        cache = {} if self._values is None else self._values
        if cache or len(set(numbers)) < len(numbers):  # some may be there already
            return {name: self.get_member(stored, name, as_) for name in stored.composed_of}
        own, trusted = self.uid, stored.trusted
        reading = self._client._a.read_each(numbers, stored.mode, stored.id)
        values: dict[str, Any] = {}
        for name, number in zip(stored.composed_of, numbers, strict=True):
            try:
                raw = next(reading)
            except ObjectNotFoundError:
                raise _gone(stored, name) from None
            value = values[name] = self._made(stored, number, raw).resolve(0, as_)
            believed = raw.uid == own if trusted is None else trusted
            stored.members_trusted &= believed
            if not isinstance(value, pa.RecordBatchReader):  # that can be read once
                cache[number, as_] = value, believed
        return values

    def _made(self, whole: StoredObject, number: int, raw: Raw) -> StoredObject:
        """A member, read as the object was that has it."""
        member = StoredObject(
            raw.parts,
            whole.registry,
            self,
            number,
            whole.mode,
            whole.trusted,
            raw.uid,
            raw.members,
        )
        if whole.validate:
            _validate(member, "full")
        return member


def _gone(stored: StoredObject, name: str) -> ObjectNotFoundError:
    number = ObjectID(stored.composed_of[name][0])
    return ObjectNotFoundError(
        f"member {name!r} ({number}) of {ObjectID(stored.id)} is gone", "it was deleted by force"
    )


def _validate(stored: StoredObject, how: str) -> None:
    """Check all values of an object, see `Client.get`; its resolvers are to go on with that."""
    if how != "full":
        raise InvalidObjectError(f"validate {how!r} is not one of 'structure', 'full'")
    stored.validate = True
    for part in stored.parts:
        try:
            part.table.validate(full=True)
        except pa.ArrowInvalid as error:
            raise InvalidObjectError(f"{ObjectID(stored.id)} is damaged: {error}") from None
