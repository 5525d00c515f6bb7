"""Object identity and metadata: plain frozen values, no connection behind them."""

from __future__ import annotations

import html
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["MemberMeta", "ObjectID", "ObjectMeta"]

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
class MemberMeta:
    """One part of an object: its typename, Arrow schema, rows and batches."""

    typename: str
    schema: pa.Schema
    num_rows: int
    num_batches: int


@dataclass(frozen=True, slots=True)
class ObjectMeta:
    """What the catalog knows of one sealed object.

    Attributes
    ----------
    id : ObjectID
    typename : str
        Kind of the root part, e.g. ``"vineyard.table"``.
    nbytes : int
        Payload in bytes: the sum of the object's buffers, shared ones counted in full.
    members : tuple of MemberMeta
        The object's parts; the root first.
    instance : int
        Number of the owning instance.
    created : datetime
        When it was sealed (UTC).
    names : tuple of str
        Names that point to it.
    copied, gathered, shared : int
        How its put came by the payload, in bytes: copied into the store, small buffers
        gathered by copy, and buffers taken as they lay in the store.
    """

    id: ObjectID
    typename: str
    nbytes: int
    members: tuple[MemberMeta, ...]
    instance: int
    created: datetime
    names: tuple[str, ...] = ()
    copied: int = 0
    gathered: int = 0
    shared: int = 0

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of the root part."""
        return self.members[0].schema

    @property
    def num_rows(self) -> int:
        """Rows of the root part."""
        return self.members[0].num_rows

    def _repr_html_(self) -> str:
        rows = [
            ("id", f"<code>{self.id}</code>"),
            ("type", html.escape(self.typename)),
            ("bytes", f"{self.nbytes:,}"),
            ("rows", f"{self.num_rows:,}"),
            ("names", html.escape(", ".join(self.names)) or "&mdash;"),
            ("instance", f"{self.instance:06x}"),
            ("created", html.escape(self.created.isoformat(" ", "seconds"))),
            ("schema", f"<pre>{html.escape(self.schema.to_string())}</pre>"),
        ]
        if len(self.members) > 1:
            kinds = ", ".join(m.typename for m in self.members[1:])
            rows.insert(4, ("parts", html.escape(kinds)))
        body = "".join(f"<tr><th>{k}</th><td>{v}</td></tr>" for k, v in rows)
        return f"<table class='vineyard-object'>{body}</table>"
