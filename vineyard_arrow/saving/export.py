"""Objects out of a store: whole trees, each object once, as Arrow files.

Everything is pinned before the first byte is written, so deletions meanwhile change nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pyarrow as pa

from ..composition import VALUES
from ..errors import InvalidObjectError, ObjectNotFoundError
from ..fetching import owner_of, reached
from ..migration.landing import ORIGIN
from ..objects import ObjectID, members_first
from ..registry import StoredPart
from ..rpc.transit import batches_in, file_of
from . import manifest as m
from .files import Target, writing

if TYPE_CHECKING:
    from ..client import Client
    from ..objects import ObjectMeta

TYPE, PARAMS = b"vineyard.type", b"vineyard.params"
COMPRESSIONS = ("zstd", "lz4")
_ALL = 1 << 40

Progress = Callable[[int, int], Any]


def serialize(
    keys: int | str | Iterable[int | str] | None,
    url: str | os.PathLike[str],
    *,
    client: Client | None = None,
    compression: str | None = None,
    progress: Progress | None = None,
) -> list[ObjectID]:
    """Write objects with all their members to a new folder of Arrow files; return their ids.

    What is in several trees is written once. Names and labels go along. Partitions and members
    that live on other instances are read from there.

    Parameters
    ----------
    keys : ObjectID, int or str, or several, or None
        Ids or names; None is everything in the store.
    url : str or path
        The folder: a path, or a URL such as ``s3://bucket/name``. It must not be there yet.
    client : Client, optional
        Of the store; that of `put` and `get` by default.
    compression : {"zstd", "lz4"}, optional
        Of the buffers in the files. An import of uncompressed ones is faster.
    progress : callable, optional
        Called with bytes done and bytes in all, the latter an estimate.

    Raises
    ------
    ObjectNotFoundError
        If an object or a member is gone.
    PathExistsError
        If there is something already.
    FileError
        If it cannot be written. Nothing is left then.

    Examples
    --------
    >>> vineyard_arrow.serialize("flights", "/backup/flights")  # doctest: +SKIP
    [ObjectID('o0000010000000002')]
    """
    if client is None:
        from .. import default_client

        client = default_client()
    if compression is not None and compression not in COMPRESSIONS:
        raise InvalidObjectError(f"compression {compression!r} is not one of 'zstd', 'lz4'")
    with contextlib.ExitStack() as stack:
        walk = _Walk(client, stack)
        roots = _roots(client, keys)
        if keys is None:
            roots = walk.still_there(roots)
        found = walk.trees(roots)
        total = sum(each.nbytes for each in found.values())
        done = 0

        def told(nbytes: int) -> None:
            nonlocal done
            done += nbytes
            if progress is not None:
                progress(min(done, total), total)

        target = stack.enter_context(writing(url, told))
        objects = [_saved(target, key, each, compression) for key, each in found.items()]
        content = m.Content([str(root) for root in roots], objects)
        target.write(m.NAME, [m.encode(content)])
    return roots


def _roots(client: Client, keys: Any) -> list[ObjectID]:
    if keys is None:
        metas = client.list_objects(limit=_ALL)
        return [
            meta.id for meta in metas if meta.id is not None and (meta.names or not meta.parents)
        ]
    if isinstance(keys, str) or not isinstance(keys, Iterable):
        keys = [keys]
    return list(dict.fromkeys(ObjectID(client._resolve(key)) for key in keys))


class _Found(NamedTuple):
    """An object of a tree; ``parts`` reads it."""

    typename: str
    nbytes: int
    members: dict[str, int]
    names: tuple[str, ...]
    labels: dict[str, str]
    parts: Callable[[], list[StoredPart]]
    is_global: bool = False


class _Walk:
    """From objects to all that they are composed of, on whatever instances that is."""

    def __init__(self, client: Client, stack: contextlib.ExitStack) -> None:
        self._clients = {client.instance: client}
        self._client = client
        self._stack = stack
        self._found: dict[int, _Found] = {}

    def still_there(self, keys: Iterable[ObjectID]) -> list[ObjectID]:
        """Those that are, and stay."""
        for key in keys:
            with contextlib.suppress(ObjectNotFoundError):
                self._found[key] = self._open(key)
        return [key for key in keys if key in self._found]

    def trees(self, roots: Iterable[int]) -> dict[int, _Found]:
        """All objects, each once, members first."""
        found = self._found

        def members(key: int) -> Iterable[int]:
            if key not in found:
                found[key] = self._open(ObjectID(key))
            return found[key].members.values()

        return {key: found[key] for key in members_first(map(int, roots), members)}

    def _open(self, key: ObjectID) -> _Found:
        try:
            meta: ObjectMeta | None = self._client.get_meta(key)
        except ObjectNotFoundError:
            meta = None  # deleted meanwhile, or of an instance that has not persisted it
        if meta is not None and meta.is_global:
            return _of_cluster(meta)
        client = self._owner(key)
        store = client._a
        pin = store.hold(key)
        if meta is None or client is not self._client:
            with contextlib.suppress(ObjectNotFoundError):
                meta = client.get_meta(key)
        nbytes, *_, parts, composed, _ = store.describe(key, pin)
        members = {name: number for name, (number, _) in composed.items()}

        def read() -> list[StoredPart]:
            return list(store.read(key, "ro", None, pin).parts)

        names, labels = ((), {}) if meta is None else (meta.names, meta.labels)
        labels = {k: v for k, v in labels.items() if k != ORIGIN}
        return _Found(parts[0][0], nbytes, members, names, labels, read)

    def _owner(self, key: ObjectID) -> Client:
        if key.instance not in self._clients:
            info = owner_of(self._client, key)
            self._clients[key.instance] = self._stack.enter_context(reached(self._client, info))
        return self._clients[key.instance]


def _of_cluster(meta: ObjectMeta) -> _Found:
    """An object of no instance: values and members."""
    if meta.missing:
        raise ObjectNotFoundError(
            f"members of {meta.id} are gone: {', '.join(meta.missing)}", "export the others"
        )
    params = {VALUES: dict(meta._values)} if meta._values else {}
    part = StoredPart(meta.typename, params, pa.schema([]).empty_table(), False)
    members = {name: int(member.id) for name, member in meta.members.items()}
    return _Found(meta.typename, 0, members, meta.names, meta.labels, lambda: [part], True)


def _saved(target: Target, key: int, found: _Found, compression: str | None) -> m.Saved:
    """Write the files of an object."""
    parts = []
    for i, part in enumerate(found.parts()):
        schema = _named(part)
        # Arrow dies of compressing unions.
        codec = None if _holds(schema, pa.types.is_union) else compression
        options = pa.ipc.IpcWriteOptions(compression=codec)
        files = [
            target.write(m.file_name(key, i, j), file_of(schema, batches, options))
            for j, batches in enumerate(_groups(part.table))
        ]
        parts.append(files)
    members = {name: str(ObjectID(number)) for name, number in found.members.items()}
    return m.Saved(
        str(ObjectID(key)),
        found.typename,
        found.nbytes,
        parts,
        members,
        list(found.names),
        dict(found.labels),
        found.is_global,
    )


def _named(part: StoredPart) -> pa.Schema:
    """The schema of a part's files, which says what it is."""
    metadata = dict(part.table.schema.metadata or {})
    metadata[TYPE] = part.typename.encode()
    metadata[PARAMS] = msgspec.json.encode(part.params)
    return part.table.schema.with_metadata(metadata)


def _groups(table: pa.Table) -> Iterator[list[pa.RecordBatch]]:
    """Batches that fit in one file: which has, of each dictionary, one."""
    batches = batches_in(table)
    if len(batches) > 1 and _holds(table.schema, pa.types.is_dictionary):
        yield from ([batch] for batch in batches)
    else:
        yield batches


def _holds(schema: pa.Schema, is_it: Callable[[pa.DataType], bool]) -> bool:
    """Whether a column is of a type, or has one of it inside."""
    types = list(schema.types)
    while types:
        type_ = types.pop()
        if is_it(type_):
            return True
        if isinstance(type_, pa.BaseExtensionType):
            types.append(type_.storage_type)
        elif pa.types.is_dictionary(type_):
            types.append(type_.value_type)
        else:
            types += [type_.field(i).type for i in range(type_.num_fields)]
    return False
