"""A handle on a stored object: its members by name, its data when asked for.

Made by `Client.get_object`. It holds a pin, so object and members can be read for as long as
it lives, deleted or not. Nothing is mapped or made before it is used.

Pickled, it is the id alone. Where it is loaded it is a handle of the default client's store, so
the data is read beside the process that asks for it; a copy is fetched if it lives elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .describing import sealed_meta
from .errors import ObjectNotFoundError, ResolverNotFoundError, VineyardArrowError
from .objects import ObjectID, ObjectMeta
from .reading import stored_object, value_of

if TYPE_CHECKING:
    import pyarrow as pa

    from .client import Client, Mode
    from .reading import Check
    from .registry import Form


class ObjectHandle:
    """Made by `Client.get_object`; see the module's docstring.

    Members are attributes, themselves handles: ``client.get_object(oid).vertices.person``.
    One whose name is no identifier, or is that of a method here: `member`.

    Consumers of Arrow streams take a handle of a table or column as it is (``pyarrow.table``,
    ``polars.DataFrame``; ``pyarrow.chunked_array``, ``polars.Series``), NumPy and consumers of
    DLPack one of an array. (There is no ``__arrow_c_array__``: who finds it prefers it, and
    tables of several chunks have none.)
    """

    __slots__ = ("__weakref__", "_client", "_meta", "_pin", "_root", "id")

    def __init__(self, client: Client, object_id: ObjectID, root: ObjectHandle | None = None):
        self.id = object_id
        self._client = client
        self._root = root  # keeps our pin's cause: a root that is deleted keeps its members
        self._pin = client._a.hold(object_id)
        self._meta: ObjectMeta | None = None

    @property
    def meta(self) -> ObjectMeta:
        """Metadata, read once and without a round trip; names, labels and parents are unknown."""
        if self._meta is None:
            self._meta = sealed_meta(self._client._a, self.id, self._pin)
        return self._meta

    @property
    def typename(self) -> str:
        """What the object is."""
        return self.meta.typename

    @property
    def nbytes(self) -> int:
        """Payload in bytes, that of members not counted."""
        return self.meta.nbytes

    def __reduce__(self) -> tuple[Any, ...]:
        return _loaded, (int(self.id),)

    def __copy__(self) -> ObjectHandle:
        return self  # not by way of the default client, whose store may be another

    def __deepcopy__(self, memo: dict[int, Any]) -> ObjectHandle:
        return self

    # ---- members

    def member(self, name: str) -> ObjectHandle:
        """A handle on a member; ObjectNotFoundError if there is none, or it is gone."""
        return ObjectHandle(self._client, self.meta.get_member(name).id, self)

    def __getattr__(self, name: str) -> ObjectHandle:
        if name.startswith("_") or name not in self.meta.members:
            raise AttributeError(
                f"{type(self).__name__!r} object has no attribute or member {name!r}"
            )
        return self.member(name)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.meta.members]

    def __iter__(self) -> Iterator[str]:
        """Names of the members."""
        return iter(self.meta.members)

    # ---- data

    def get(
        self,
        *,
        mode: Mode = "ro",
        as_: Form | None = None,
        trusted: bool | None = None,
        validate: Check = "structure",
    ) -> Any:
        """The value, as `Client.get` makes it."""
        root = None if self._root is None else self._root.id
        raw = self._client._a.read(self.id, mode, root, self._pin)
        stored = stored_object(self._client, self.id, raw, mode, trusted, validate)
        return value_of(stored, as_)

    def to_arrow(self) -> Any:
        """The data as what is natural in Arrow: a `pyarrow.Table`, array, scalar or buffer."""
        return self.get(as_="arrow")

    def to_table(self) -> pa.Table:
        """The data as a `pyarrow.Table`."""
        import pyarrow as pa

        return self.get(as_=pa.Table)

    def to_reader(self) -> pa.RecordBatchReader:
        """The data batch by batch, each over the store's memory where that of `to_table` is."""
        import pyarrow as pa

        return self.get(as_=pa.RecordBatchReader)

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self._streamable().__arrow_c_stream__(requested_schema)

    def __arrow_c_schema__(self) -> Any:
        value = self._streamable()
        kind = value.type if hasattr(value, "type") else value.schema
        return kind.__arrow_c_schema__()

    def _streamable(self) -> Any:
        """The data as what Arrow streams: a table, or a chunked array."""
        import pyarrow as pa

        try:
            return self.to_table()
        except ResolverNotFoundError:
            return self.get(as_=pa.ChunkedArray)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        import numpy as np

        return np.array(self.get(as_="numpy"), dtype=dtype, copy=copy)

    def __dlpack__(self, **options: Any) -> Any:
        # Private pages: consumers write, and not all of them know that they must not.
        value = self.get(mode="cow")
        if not hasattr(value, "__dlpack__"):
            value = self.get(as_="numpy", mode="cow")
        return value.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0  # kDLCPU of DLPack's header

    def __repr__(self) -> str:
        try:
            members = f", members {', '.join(self)}" if self.meta.members else ""
        except VineyardArrowError as error:  # the client is closed, or the object is damaged
            return f"<{type(self).__name__} {self.id}: {error.message}>"
        return f"<{self.typename} {self.id}: {self.nbytes:,} bytes{members}>"

    def _repr_html_(self) -> str:
        from .notebook import handle_html

        return handle_html(self)


def _loaded(object_id: int) -> ObjectHandle:
    """A handle that was pickled, perhaps beside another instance."""
    from . import default_client

    client = default_client()
    try:
        return client.get_object(object_id)
    except ObjectNotFoundError:
        if ObjectID(object_id).instance == client.instance:
            raise
        from .fetching import fetched

        return client.get_object(fetched(client, ObjectID(object_id), None))
