"""Object identity and metadata: plain frozen values, no connection behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, KeysView, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from .errors import InvalidObjectError, ObjectNotFoundError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["InstanceInfo", "Member", "ObjectID", "ObjectMeta", "PartMeta", "members_first"]

_DIGITS = frozenset("0123456789abcdefABCDEF")


class ObjectID(int):
    """A 64-bit object id, printed as ``o`` and 16 hexadecimal digits.

    The top 24 bits are the number of the instance that owns the object, the low 40 a
    sequence. It is an ``int`` for hashing, ordering and pickling.

    Examples
    --------
    >>> ObjectID("o0000010000000002")
    ObjectID('o0000010000000002')
    >>> ObjectID("o0000010000000002").instance
    1
    """

    __slots__ = ()

    def __new__(cls, value: int | str) -> ObjectID:
        """Make an id of an integer, or parse its printed form (ValueError if it is not one)."""
        if isinstance(value, str):
            if len(value) != 17 or value[0] != "o" or not _DIGITS.issuperset(value[1:]):
                raise ValueError(f"not an object id: {value!r} (expected 'o' and 16 hex digits)")
            value = int(value[1:], 16)
        if not 0 <= value < 1 << 64:
            raise ValueError(f"not an object id: {value} does not fit 64 bits")
        return super().__new__(cls, value)

    @property
    def instance(self) -> int:
        """Number of the instance that owns the object."""
        return int(self) >> 40

    def __str__(self) -> str:
        return f"o{int(self):016x}"

    def __repr__(self) -> str:
        return f"ObjectID('{self}')"

    def __reduce__(self) -> tuple[object, ...]:
        return ObjectID, (int(self),)

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)


@dataclass(frozen=True, slots=True)
class PartMeta:
    """One Arrow stream of an object: its typename, schema, rows and batches."""

    typename: str
    schema: pa.Schema
    num_rows: int
    num_batches: int


class Member(NamedTuple):
    """One object that another is composed of."""

    id: ObjectID
    typename: str


@dataclass(frozen=True, slots=True)
class InstanceInfo:
    """An instance of a cluster that is up.

    Attributes
    ----------
    number : int
        The top 24 bits of the ids of its objects; fresh whenever it starts.
    host : str
        Name of its machine.
    pid : int
        Of its daemon, there.
    socket : str
        Path of its socket, there.
    rpc : str
        ``host:port`` where it serves over TCP; empty if it does not.
    version : str
        Of this package.
    lease : int
        What the cluster knows it by: it is counted out when that ends.
    """

    number: int
    host: str
    pid: int
    socket: str
    rpc: str
    version: str
    lease: int


# What meta["..."] also answers to, as Vineyard's does; a user's own keys are others.
_RESERVED = ("id", "typename", "nbytes", "instance_id", "signature")


class ObjectMeta:
    """What describes an object: a typename, values of the user's, members; a mapping of values.

    Make one, fill it, and let `Client.create_metadata` seal it; `Client.get_meta` gives that of
    any object. A sealed one refuses changes.

    Parameters
    ----------
    typename : str
        Selects the resolver of the object, `Client.get`'s; without one it's got as a handle.
    values : mapping, optional
        First values, see `__setitem__`.

    Attributes
    ----------
    id : ObjectID or None
        None until it is sealed.
    nbytes : int
        Payload in bytes: the sum of the object's own buffers, shared ones counted in full.
    parts : tuple of PartMeta
        The object's own Arrow streams; the root first.
    members : dict of str to Member
        Objects that it is composed of, by name, in the order they were added.
    parents : int
        At how many places it is a member itself.
    instance : int
        Number of the owning instance.
    created : datetime
        When it was sealed (UTC).
    names : tuple of str
        Names that point to it.
    labels : dict of str to str
        See `Client.label`.
    signature : ObjectID or None
        Equal for copies of one content, made by `Client.shallow_copy`, however often and
        whether or not the first one is still there: that one's id. What is put anew, be it
        over the same memory, is a content of its own. It is the word of who put the copy.
    persisted : bool
        Whether the cluster knows it: `Client.persist`.
    is_global : bool
        Whether it is an object of the cluster, with members on any instance:
        `Client.create_global`.
    missing : tuple of str
        Members, by name, that are gone: deleted by force, or with their instance. Told of
        objects of the cluster that are not of this instance, and of global ones.
    uid : int or None
        The user whose process put it; None if that of another user can write it too (some of
        its payload lies in memory of theirs).
    copied, gathered, shared : int
        How its put came by the payload, in bytes: copied into the store, small buffers
        gathered by copy, and buffers taken as they lay in the store. What Arrow had to compute
        anew (offsets of sliced strings) was made in the store, and counts as shared.

    Examples
    --------
    >>> meta = ObjectMeta("shop.basket")
    >>> meta["owner"] = "Ann"
    >>> meta.add_member("items", ObjectID("o0000010000000002"))
    >>> meta["owner"], list(meta.members)
    ('Ann', ['items'])
    """

    def __init__(
        self, typename: str = "vineyard.object", values: Mapping[str, Any] | None = None
    ) -> None:
        self.id: ObjectID | None = None
        self.typename = typename
        self.nbytes = 0
        self.parts: tuple[PartMeta, ...] = ()
        self.members: dict[str, Any] = {}
        self.parents = 0
        self.instance = 0
        self.created = datetime.min
        self.names: tuple[str, ...] = ()
        self.labels: dict[str, str] = {}
        self.signature: ObjectID | None = None
        self.persisted = self.is_global = False
        self.missing: tuple[str, ...] = ()
        self.uid: int | None = None
        self.copied = self.gathered = self.shared = 0
        self._values: dict[str, Any] = {}
        for key, value in (values or {}).items():
            self[key] = value

    @classmethod
    def sealed(cls, typename: str, values: dict[str, Any], **attributes: Any) -> ObjectMeta:
        """That of an object in a store, ``id`` and all."""
        meta = cls(typename)
        meta.__dict__.update(attributes, _values=values)
        return meta

    def __setattr__(self, name: str, value: Any) -> None:
        if self.__dict__.get("id") is not None:
            raise AttributeError(f"object {self.id} is sealed: {name!r} cannot be set")
        super().__setattr__(name, value)

    # ---- values

    def __setitem__(self, key: str, value: Any) -> None:
        """Set a value: None, bool, int within 64 bits, float, str, lists and dicts of them.

        Raises
        ------
        InvalidObjectError
            For anything else, and once the object is sealed.
        """
        self._check_open()
        if not isinstance(key, str):
            raise InvalidObjectError(f"a key is a str, this one a {type(key).__name__}")
        if key == "typename" and isinstance(value, str):
            self.typename = value
        elif key in _RESERVED:
            raise InvalidObjectError(f"{key!r} is not for its user to set", "use another key")
        else:
            self._values[key] = _plain(value, key)

    def __getitem__(self, key: str) -> Any:
        if key in self._values:
            return self._values[key]
        if key in _RESERVED:
            return getattr(self, "instance" if key == "instance_id" else key)
        raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def keys(self) -> KeysView[str]:
        """Names of the values."""
        return self._values.keys()

    def get(self, key: str, default: Any = None) -> Any:
        """A value, or ``default``."""
        return self._values.get(key, default)

    # ---- members

    def add_member(self, name: str, member: Any) -> None:
        """Add an object that this one is to be composed of.

        Parameters
        ----------
        name : str
            Unique in this object.
        member : ObjectID, int, str, ObjectMeta or handle
            An object's id, its printed form, its metadata or handle. Metadata that is not
            sealed yet is sealed with this one.
        """
        self._check_open()
        if not isinstance(name, str) or not name:
            raise InvalidObjectError(f"{name!r} is no name of a member", "use a str")
        if name in self.members:
            raise InvalidObjectError(f"there is a member {name!r} already")
        if isinstance(member, ObjectMeta):
            self.members[name] = member
            return
        member = getattr(member, "id", member)
        if isinstance(member, bool) or not isinstance(member, int | str):
            raise InvalidObjectError(
                f"a {type(member).__name__} is no member",
                "put it first, and add the id that put returns",
            )
        try:
            self.members[name] = Member(ObjectID(member), "")
        except ValueError as error:
            raise InvalidObjectError(str(error)) from None

    def get_member(self, name: str) -> Member:
        """A member by its name; ObjectNotFoundError if there is none of that name."""
        found = self.members.get(name)
        if found is None:
            import difflib

            near = ", ".join(difflib.get_close_matches(name, self.members, cutoff=0.4))
            raise ObjectNotFoundError(
                f"{self.typename} {self.id or ''} has no member {name!r}",
                f"nearest: {near}" if near else "meta.members names those it has",
            )
        return found  # type: ignore[no-any-return]

    # ---- the whole

    def _check_open(self) -> None:
        if self.id is not None:
            raise InvalidObjectError(
                f"object {self.id} is sealed", "shallow_copy makes one with other values"
            )

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of the root part."""
        return self.parts[0].schema

    @property
    def num_rows(self) -> int:
        """Rows of the root part."""
        return self.parts[0].num_rows

    def __repr__(self) -> str:
        words = [str(self.id) if self.id is not None else "not sealed", self.typename]
        if self.id is not None:
            words += [f"{self.nbytes:,} bytes", *map(repr, self.names)]
        words += [f"{k}={v!r}" for k, v in self._values.items()]
        if self.members:
            words.append(f"members: {', '.join(self.members)}")
        return f"<ObjectMeta {' '.join(words)}>"

    def _repr_html_(self) -> str:
        from .notebook import meta_html

        return meta_html(self)


def _plain(value: Any, where: str) -> Any:
    """``value``, if it is one that JSON gives back as it was."""
    if value is None or isinstance(value, bool | float | str):
        return value
    if isinstance(value, int) and -(1 << 63) <= value < 1 << 64:
        return int(value)
    if isinstance(value, list | tuple):
        return [_plain(item, where) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(item, f"{where}.{key}") for key, item in value.items()}
    raise InvalidObjectError(
        f"{where!r} is a {type(value).__name__}, which no metadata holds",
        "put it, and add it as a member",
    )


def members_first(roots: Iterable[int], members: Callable[[int], Iterable[int]]) -> list[int]:
    """Ids of all objects below ``roots``, each once, members before what has them.

    ``members`` is asked once for each. Raises InvalidObjectError if one is a member of itself.
    """
    order: dict[int, None] = {}
    path: set[int] = set()
    stack = [(root, False) for root in roots]
    while stack:
        key, is_done = stack.pop()
        if is_done:
            path.discard(key)
            order[key] = None
        elif key in path:
            raise InvalidObjectError(f"object {ObjectID(key)} is a member of itself")
        elif key not in order:
            path.add(key)
            stack.append((key, True))
            stack += [(member, False) for member in members(key) if member not in order]
    return list(order)
