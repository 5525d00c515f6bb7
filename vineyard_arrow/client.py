"""The client: values in, values out, names, listings. It knows no bytes and no sockets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, cast

from .blobs import Blob
from .clustering import ClusterCalls
from .composition import create_metadata, members_part, shallow_copy
from .config import NO_KEYS, Keys, checked_keys, client_config
from .config_values import rpc_address
from .contexts import current_registry
from .describing import catalogued_meta, unreadable_meta
from .errors import (
    ConfigError,
    DeadlineExceededError,
    InvalidObjectError,
    ObjectNotFoundError,
    VineyardArrowError,
)
from .handles import ObjectHandle
from .ipc import protocol as p
from .ipc.connection import seconds
from .ipc.process import attach
from .objects import Member, ObjectID, ObjectMeta
from .partition_calls import PartitionCalls
from .reading import Check, global_object, stored_object, value_of
from .registry import (
    Encoder,
    Form,
    Part,
    Registry,
    Resolver,
    default_registry,
)
from .store import Draft, Store
from .streams import (
    DEFAULT_MAX_BYTES,
    StreamInfo,
    StreamReader,
    StreamWriter,
    drop_stream,
    list_streams,
    open_stream,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from .drivers.registry import Driver, Progress
    from .ipc.attached import Attached
    from .store import Raw

Mode = Literal["ro", "cow", "copy"]
Key = int | str | ObjectID


class Client(ClusterCalls, PartitionCalls):
    """A connection to the store of this host. Made by `vineyard_arrow.connect`.

    Thread-safe. After a fork the child may go on using it: it reconnects by itself, and
    the values it inherited stay valid. (Pool memory that was not sealed by a put is still
    the parent's: the child sees it change.) A context manager: leaving it closes the client.

    Notes
    -----
    Values got from the store stay valid after `close`, after `delete`, and after the
    daemon's death, for as long as they are referenced: each holds its pages. Every call
    that needs the daemon has a deadline (``timeout_s`` of `connect`) and raises
    `ConnectionLostError` at once when the daemon is gone; so does `get`, even of objects
    that are mapped, since a dead daemon's index may be out of date.
    """

    def __init__(
        self,
        store: Store,
        registry: Registry = default_registry,
        trusted: bool | None = None,
        keys: Keys = NO_KEYS,
    ) -> None:
        self._keys = keys
        self._roads: Any = None  # to other instances: `fetching`'s
        self._registry = registry
        self._trusted = trusted
        self._attached: Store | None = store

    @property
    def _a(self) -> Store:
        if self._attached is None:
            raise VineyardArrowError("this client is closed", "connect() anew")
        return self._attached

    # ---- values

    def put(
        self,
        value: Any,
        *,
        name: str | None = None,
        overwrite: bool = False,
        labels: Mapping[str, str] | None = None,
        seal: Literal["shared", "strict"] = "shared",
    ) -> ObjectID:
        """Store a value; return its id.

        Arrow buffers that lie in the store already are shared, not copied; so are pool-built
        ones of 64 KiB and more, whose pages turn read-only. All others are copied once.

        Parameters
        ----------
        value
            Anything: docs/concepts.md says what comes back exactly; the rest is pickled.
        name : str, optional
            A free name to point to it, set in the same step.
        overwrite : bool
            Or one that is taken, which moves in that step, as by `put_name`. The object that it
            pointed to stays, until it is deleted.
        labels : mapping, optional
            Its first labels, set in the same step; see `label`.
        seal : {"shared", "strict"}
            "strict" copies everything to a file of its own that nobody on this machine can
            ever write again (F_SEAL_WRITE).

        Raises
        ------
        StoreFullError
            If it does not fit. Nothing is kept.
        ObjectExistsError
            If the name is taken; with ``overwrite``, only if it is that of a persisted object.
        InvalidObjectError
            If the value cannot be stored.
        """
        names, known = [_checked(name)], _checked_labels(labels)
        return self._put([value], names, _is_strict(seal), known, overwrite)[0]

    def put_many(
        self,
        values: Iterable[Any],
        *,
        names: Sequence[str | None] | None = None,
        seal: Literal["shared", "strict"] = "shared",
    ) -> list[ObjectID]:
        """Store many values in one round trip, all or none; return their ids in order.

        Parameters
        ----------
        values : iterable
        names : sequence of str or None, optional
            A free name for each value, or None for one that gets none.
        seal : {"shared", "strict"}
            As in `put`.

        Raises
        ------
        InvalidObjectError
            If there are more names than values, or fewer.
        StoreFullError, ObjectExistsError
            As `put`.
        """
        values = list(values)
        names = [None] * len(values) if names is None else list(names)
        if len(names) != len(values):
            raise InvalidObjectError(f"{len(values)} values but {len(names)} names")
        if not values:
            return []
        return self._put(values, [_checked(name) for name in names], _is_strict(seal))

    def _put(
        self,
        values: list[Any],
        names: list[str | None],
        strict: bool,
        labels: Mapping[str, str] | None = None,
        overwrite: bool = False,
    ) -> list[ObjectID]:
        encoders = [self._encoded(value) for value in values]
        while True:
            drafts: list[Draft] = []
            last = []  # places of the values themselves: their members come before
            for encoder, name in zip(encoders, names, strict=True):
                drafts += _drafts(encoder, name, labels or {}, overwrite)
                last.append(len(drafts) - 1)
            try:
                ids = self._a.put(drafts, strict=strict)
            except ObjectNotFoundError:  # somebody deletes members that the values share
                renewed = [encoder.renew() for encoder in encoders]
                if not any(renewed):
                    raise
            else:
                return [ObjectID(ids[i]) for i in last]

    def _encoded(self, value: Any) -> Encoder:
        encoder = Encoder(current_registry(self._registry), self._typename, new_id=self._new_id)
        encoder.add(value)
        return encoder

    def _new_id(self) -> int:
        return self._a.take_id()

    def _put_parts(
        self,
        parts: list[Part],
        members: Mapping[str, Member],
        name: str | None = None,
        signature: int = 0,
    ) -> ObjectID:
        """Put parts that are made already, with members."""
        return ObjectID(self._a.put([_draft(parts, members, _checked(name), signature)])[0])

    def get(
        self,
        key: Key,
        *,
        mode: Mode = "ro",
        timeout_s: float | None = None,
        as_: Form | None = None,
        resolver: Resolver | None = None,
        trusted: bool | None = None,
        validate: Check = "structure",
        fetch: bool = False,
    ) -> Any:
        """The value of an object, over the store's own memory: nothing is copied.

        Parameters
        ----------
        key : ObjectID, int or str
            An id, its printed form, or a name.
        mode : {"ro", "cow", "copy"}
            "ro" maps read-only; "cow" maps privately, pages are copied as they are written;
            "copy" copies to memory of this process. With the last two, NumPy arrays, and what
            is made of them, are writable; Arrow's own values never are. PyTorch tensors, which
            cannot be read-only, are mapped privately with "ro" too.
        timeout_s : float, optional
            Wait that long for the object or name to appear, with ``fetch`` on its instance; not
            at all by default.
        as_ : type or str, optional
            Not what was put but this: a type such as ``polars.DataFrame``, or a library
            (``"arrow"``, ``"numpy"``, ``"pandas"``, ``"polars"``, ``"duckdb"``, ...) for what
            is natural there. Copied only where that library cannot do without.
        resolver : callable, optional
            Make the value by ``resolver(part, stored)``, this time.
        trusted : bool, optional
            Whether pickles may be loaded, which may run any code: True loads all, False
            refuses all. By default (here and of `connect`) those are loaded that a process of
            this user put, in memory that only this user's processes can write.
        validate : {"structure", "full"}
            "structure" checks, the first time, that no column reaches out of its buffers, which
            costs nothing to speak of; "full" that no offset and no index does either, which
            looks at all of them. Whoever may write the store's memory can do so after the
            check, unless ``mode="copy"``: then what is checked is the copy.
        fetch : bool
            If the object lives on another instance of the cluster, copy it to this one's
            memory first, once: later gets find the copy. See docs/distributed.md.

        Raises
        ------
        ObjectNotFoundError
            If there is none, or DeadlineExceededError when waiting was in vain.
        ResolverNotFoundError
            If nobody knows the object's typename, or how to give it as ``as_``.
        AccessDeniedError
            If there is a pickle in it that may not be loaded.
        InvalidObjectError
            If what is stored makes no sense.
        """
        if as_ is not None and resolver is not None:
            raise InvalidObjectError("get takes as_ or resolver, not both")
        named = self._read_named(key, mode)
        if named is not None:
            object_id, raw = named
            return value_of(
                stored_object(self, object_id, raw, mode, trusted, validate), as_, resolver
            )
        object_id = self._resolve(key, timeout_s)
        attached = self._a
        try:
            raw = attached.read(object_id, mode)
        except ObjectNotFoundError:
            whole = global_object(self, object_id, mode, trusted, validate)
            if whole is not None:
                return value_of(whole, as_, resolver)
            if fetch and ObjectID(object_id).instance != self.instance:
                from .fetching import fetched

                object_id = fetched(self, ObjectID(object_id), timeout_s)
            elif timeout_s:
                object_id = attached.wait_for(object_id, timeout_s)
            else:
                raise
            raw = attached.read(object_id, mode)
        stored = stored_object(self, object_id, raw, mode, trusted, validate)
        return value_of(stored, as_, resolver)

    def get_many(
        self, keys: Iterable[Key], *, mode: Mode = "ro", trusted: bool | None = None
    ) -> list[Any]:
        """The values of many objects; no round trip once their segments are mapped.

        Parameters
        ----------
        keys : iterable of ObjectID, int or str
        mode, trusted
            As in `get`, and so are the errors.
        """
        return [self.get(key, mode=mode, trusted=trusted) for key in keys]

    def _read_named(self, key: Key, mode: str) -> tuple[int, Raw] | None:
        """What has a name, where looking that up takes a round trip of its own; None elsewhere."""
        return None

    def _resolve(self, key: Key, timeout_s: float | None = None) -> int:
        """The id that ``key`` stands for."""
        if isinstance(key, int):
            if not 0 <= key < 1 << 64:
                raise InvalidObjectError(f"{key} is no object id", "an id has 64 bits")
            return int(key)
        if not isinstance(key, str):
            raise InvalidObjectError(
                f"{type(key).__name__} is no key", "use an ObjectID, its printed form, or a name"
            )
        try:
            return self._a.find_name(key)
        except ObjectNotFoundError:
            try:
                return int(ObjectID(key))
            except ValueError:
                pass
            if timeout_s:
                return self._a.wait_for(key, timeout_s)
            raise

    def delete(self, keys: Key | Iterable[Key], *, force: bool = False, deep: bool = True) -> None:
        """Delete objects with their names, all or none.

        They are gone at once. Memory is reused only when the last reader lets go of it.

        Parameters
        ----------
        keys : ObjectID, int or str, or several
        force : bool
            Also those that are members of objects that stay (whose readers will miss them).
        deep : bool
            Their members go with them, however deep, as soon as nobody reads the object any
            more: those that are members of nothing else and have no name.

        Raises
        ------
        ObjectNotFoundError
            If one is unknown; nothing is deleted then.
        ObjectInUseError
            If one is a member of an object that stays.
        """
        several: Any = keys
        if isinstance(keys, str) or not isinstance(keys, Iterable):
            several = [keys]
        ids = [self._resolve(key) for key in several]
        self._a.request(p.Delete(ids, force, deep))

    def exists(self, key: Key) -> bool:
        """Whether there is such an object or name, here or in the cluster."""
        try:
            object_id = self._resolve(key)
            try:
                self._a.request(p.Find(object_id, None, 0.0))
            except ObjectNotFoundError:
                self._a.request(p.Describe(object_id))  # on another instance, or global
        except ObjectNotFoundError:
            return False
        return True

    # ---- blobs

    def create_blob(self, nbytes: int) -> Blob:
        """A writable buffer in the store, to fill and then seal; else a StoreFullError."""
        return Blob(self, nbytes)

    def get_blob(self, key: Key) -> pa.Buffer:
        """The bytes of an object made by `create_blob` or `put` of a buffer, not copied.

        Raises
        ------
        ObjectNotFoundError
            If there is no such object.
        InvalidObjectError
            If it is something else.
        """
        import pyarrow as pa

        value = self.get(key)
        if not isinstance(value, pa.Buffer):
            raise InvalidObjectError(
                f"{key} is a {type(value).__name__}, not a blob", "get() returns it as it is"
            )
        return value

    @property
    def memory_pool(self) -> Any:
        """The store's `pyarrow.MemoryPool`: build in it, and `put` publishes without a copy.

        Pass it as ``memory_pool=``, or ``with client.memory_pool:`` to make it the process's
        default for a block (`pq.read_table` and others have no such argument).
        """
        return self._a.pool

    # ---- metadata

    def get_meta(self, key: Key) -> ObjectMeta:
        """What the catalog, or the cluster, knows of an object. No data is touched.

        Of persisted objects of other instances it is told from what this one has heard, without
        a round trip to anything but the daemon. ObjectNotFoundError if there is no such object.
        """
        object_id = self._resolve(key)
        info, _ = self._a.request(p.Describe(object_id))
        return catalogued_meta(self._a, info)

    def _typename(self, object_id: int) -> str:
        return str(self._a.describe(object_id)[-3][0][0])

    def create_metadata(self, meta: ObjectMeta, *, name: str | None = None) -> ObjectMeta:
        """Seal an object that is composed of values and members; return its metadata.

        Members stay objects of their own, and may be members of others. Metadata among them
        that is not sealed yet is sealed first; all of it, or nothing.

        Raises
        ------
        ObjectNotFoundError
            If a member is gone.
        InvalidObjectError
            If metadata is a member of itself.
        """
        return create_metadata(self, meta, name)

    def get_object(self, key: Key) -> ObjectHandle:
        """A handle on an object, with its members as attributes. Nothing is mapped yet."""
        return ObjectHandle(self, ObjectID(self._resolve(key)))

    def shallow_copy(self, key: Key, extra: Mapping[str, Any] | None = None) -> ObjectID:
        """A new object with the same data and members, and ``extra`` among its values.

        Nothing is copied but metadata. Both have the same signature, by which `list_objects`
        finds them.
        """
        return shallow_copy(self, key, extra)

    def label(self, key: Key, labels: Mapping[str, str]) -> None:
        """Set labels of an object: short texts about it that, unlike all else, may change.

        An empty text drops one. `get_meta` and `list_objects` show them.
        """
        self._a.request(p.Label(self._resolve(key), labels))

    def list_objects(
        self,
        pattern: str = "*",
        *,
        labels: Mapping[str, str] | None = None,
        signature: int = 0,
        limit: int = 1000,
        cluster: bool = False,
    ) -> list[ObjectMeta]:
        """Objects with a name or typename that ``pattern`` matches (as in a shell), by id.

        Parameters
        ----------
        pattern : str
            Typenames of this package match with and without their prefix: ``"table"`` is
            ``"vineyard.table"``.
        labels : mapping, optional
            Only those that have all of these.
        signature : ObjectID or int
            Only the copies of one content, see `ObjectMeta`.
        limit : int
            At most that many.
        cluster : bool
            Those too that the cluster knows of other instances, and global ones.
        """
        message = p.ListObjects(pattern, limit, labels or {}, signature, cluster=cluster)
        reply, _ = self._a.request(message)
        out = []
        for info in reply.objects:
            try:
                out.append(catalogued_meta(self._a, info))
            except ObjectNotFoundError:
                continue  # deleted meanwhile
            except InvalidObjectError:
                out.append(unreadable_meta(info))
        return out

    # ---- drivers

    def read(
        self,
        url: Any,
        *,
        format: str | None = None,
        name: str | None = None,
        overwrite: bool = False,
        labels: Mapping[str, str] | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> ObjectID:
        """Store what is behind a url; return its id, as `put` does.

        Which driver does it, and what its options are, docs/drivers.md says; files come in by
        being decoded in shared memory, so nothing is copied.

        Parameters
        ----------
        url : str or path
            A path, ``file://``, ``s3://``, ``https://``, or whatever has a driver. For files: a
            file, a directory, or a glob.
        format : str, optional
            What the url's ending tells by default.
        name, overwrite
            As in `put`.
        labels : mapping, optional
            First labels, see `label`.
        progress : callable, optional
            Called with bytes done and bytes in all, as they come.
        **options
            The driver's own: for files ``columns``, ``filter``, ``schema``, ``filesystem``,
            ``retries``, and ``resume``, a name under which what is done is kept should it fail,
            for the next call to go on from.

        Raises
        ------
        DriverNotFoundError
            If there is no driver; the hint lists those that are near.
        PathNotFoundError, AccessDeniedError, FileError, DamagedFileError, SchemaMismatchError
            If it cannot be read. Without ``resume`` nothing is kept, as with all errors.
        StoreFullError
            If it does not fit.
        """
        from . import drivers

        return drivers.read(
            self,
            url,
            format=format,
            name=name,
            overwrite=overwrite,
            labels=labels,
            progress=progress,
            options=options,
        )

    def scan(
        self,
        url: Any,
        *,
        format: str | None = None,
        name: str | None = None,
        max_bytes: int = DEFAULT_MAX_BYTES,
        progress: Progress | None = None,
        **options: Any,
    ) -> StreamReader:
        """Stream what is behind a url: a new stream of the store, and a reader of it.

        A thread of this process writes it for as long as anybody reads, here or, by its name,
        elsewhere. Of the data no more than ``max_bytes`` and what is being decoded are in memory.

        Parameters
        ----------
        url, format, progress, **options
            As `read`.
        name : str, optional
            As in `create_stream`.
        max_bytes : int
            So much may be unread before reading on waits.

        Raises
        ------
        DriverNotFoundError
            And what else `read` raises.
        StreamFailedError
            From the reader, if something goes wrong later.
        """
        from . import drivers

        return drivers.scan(
            self,
            url,
            format=format,
            name=_checked(name),
            max_bytes=max_bytes,
            progress=progress,
            options=options,
        )

    def write(
        self,
        value: Any,
        url: Any,
        *,
        format: str | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> None:
        """Write an object of the store, or a value, to a url: all of it, or nothing.

        Parameters
        ----------
        value : ObjectID, int or str, or a value
            An id, its printed form, a name; or a table, a frame, a reader (of a stream, say).
        url, format, progress
            As `read`.
        **options
            The driver's own: for files ``overwrite``, ``compression``, ``row_group_rows``,
            ``partition_by``, ``file_rows``, ``filesystem``.

        Raises
        ------
        DriverNotFoundError
            If there is no driver.
        PathExistsError
            If it is there already.
        InvalidObjectError
            If the format cannot hold the value.
        FileError
            If it cannot be written.
        """
        from . import drivers

        drivers.write(self, value, url, format=format, progress=progress, options=options)

    def drivers(self, kind: str | None = None) -> list[Driver]:
        """All drivers there are, or those of a kind: what they are for, and their options."""
        from .drivers import drivers

        return drivers(kind)

    # ---- streams

    def create_stream(
        self,
        schema: Any,
        *,
        name: str | None = None,
        max_bytes: int | None = DEFAULT_MAX_BYTES,
        max_batches: int | None = None,
        keep: bool = False,
        timeout_s: float | None = None,
    ) -> StreamWriter:
        """A new stream of record batches, to be written by this process alone.

        Parameters
        ----------
        schema : pyarrow.Schema, or what makes one
            Of every batch.
        name : str, optional
            To open it by. Streams have names of their own, apart from those of objects.
        max_bytes, max_batches : int, optional
            So much may be unread before `StreamWriter.write` waits; None is no bound. A batch
            larger than ``max_bytes`` comes alone. Without a reader nothing is read.
        keep : bool
            Keep what was read, until the stream is dropped: a reader that comes late sees all
            of it. The writer then never waits, and the store's limit is the only bound.
        timeout_s : float, optional
            Deadline of a wait for room, the client's own by default.

        Raises
        ------
        ObjectExistsError
            If there is a stream of that name.
        """
        return self._make_writer(
            schema,
            name=_checked(name),
            max_bytes=max_bytes,
            max_batches=max_batches,
            keep=keep,
            timeout_s=timeout_s,
        )

    def open_stream(
        self,
        key: Key,
        *,
        timeout_s: float | None = None,
        batch_timeout_s: float | None = None,
    ) -> StreamReader:
        """A reader of a stream, from the oldest batch that is still there.

        Parameters
        ----------
        key : ObjectID, int or str
            Its id, or its name.
        timeout_s : float, optional
            Wait that long for the stream to appear; not at all by default.
        batch_timeout_s : float, optional
            Deadline of a wait for a batch, the client's own by default.

        Raises
        ------
        ObjectNotFoundError
            If there is none, or DeadlineExceededError when waiting was in vain.
        """
        return self._make_reader(key, timeout_s, batch_timeout_s)

    def _make_writer(self, schema: Any, **options: Any) -> StreamWriter:
        return StreamWriter(cast("Attached", self._a), schema, **options)

    def _make_reader(
        self, key: Key, timeout_s: float | None, batch_timeout_s: float | None
    ) -> StreamReader:
        return open_stream(cast("Attached", self._a), key, timeout_s, batch_timeout_s)

    def drop_stream(self, key: Key) -> None:
        """Take a stream away, from its writer and readers too; ObjectNotFoundError.

        Batches that were read stay for as long as anything refers to them.
        """
        drop_stream(self._a, key)

    def list_streams(self, pattern: str = "*") -> list[StreamInfo]:
        """Streams with a name that ``pattern`` matches (as in a shell); all by default."""
        return list_streams(self._a, pattern)

    # ---- names

    def put_name(self, key: Key, name: str, *, overwrite: bool = False) -> ObjectID | None:
        """Point a name to an object.

        Parameters
        ----------
        key : ObjectID, int or str
            The object, or another name of it.
        name : str
            A free one.
        overwrite : bool
            Or one that is taken: it moves in one step, so whoever asks for it meanwhile finds the
            one object or the other. Of two that move it at once, the last one wins.

        Returns
        -------
        ObjectID or None
            What the name pointed to before. That object stays, until it is deleted.

        Raises
        ------
        ObjectExistsError
            If the name is taken; with ``overwrite``, only if it is that of a persisted object, and
            this one is not persisted.
        ObjectNotFoundError
            If there is no such object.
        """
        reply, _ = self._a.request(p.PutName(_checked(name), self._resolve(key), overwrite))
        return None if reply.id is None else ObjectID(reply.id)

    def get_name(
        self, name: str, *, wait: bool = False, timeout_s: float | None = None
    ) -> ObjectID:
        """The id a name points to.

        Parameters
        ----------
        name : str
        wait : bool
            Wait for a name that is not there yet.
        timeout_s : float, optional
            How long, the client's own timeout by default.

        Raises
        ------
        ObjectNotFoundError
            If there is none; with ``wait``, DeadlineExceededError when it does not come in time.
        """
        try:
            return ObjectID(self._a.find_name(_checked(name)))
        except ObjectNotFoundError:
            if not wait:
                raise
        limit = self._a.timeout_s if timeout_s is None else seconds(timeout_s)
        if limit <= 0:
            raise DeadlineExceededError(f"{name!r} is not there")
        return ObjectID(self._a.wait_for(name, limit))

    def drop_name(self, name: str) -> None:
        """Free a name; the object stays."""
        self._a.request(p.DropName(_checked(name)))

    def list_names(self, pattern: str = "*") -> dict[str, ObjectID]:
        """Names that ``pattern`` (as in a shell) matches, and what they point to."""
        reply, _ = self._a.request(p.ListNames(pattern))
        return {name: ObjectID(i) for name, i in reply.names.items()}

    # ---- the store

    @property
    def instance(self) -> int:
        """Number of the instance this client is attached to."""
        return self._a.instance

    def status(self) -> p.Status:
        """The daemon's figures; see `vineyard_arrow.ipc.protocol.Status`. Sizes are in bytes."""
        reply, _ = self._a.request(p.GetStatus())
        return reply  # type: ignore[no-any-return]

    def memory_trim(self) -> None:
        """Give free warm memory back to the machine, everywhere in the store."""
        self._a.trim()

    def clear(self) -> None:
        """Delete every object and name, drop every stream, unlink every block of shared memory."""
        self._a.request(p.Clear())

    def close(self) -> None:
        """Close the client; what it got stays valid, in children forked later too.

        May be called twice.
        """
        roads, self._roads = self._roads, None
        if roads is not None:
            roads.close()
        attached, self._attached = self._attached, None
        if attached is not None:
            attached.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._attached is None:
            return "<vineyard_arrow.Client closed>"
        return f"<vineyard_arrow.Client {self._attached.socket} instance {self.instance:06x}>"

    def _repr_html_(self) -> str:
        from .notebook import client_html

        return client_html(self)


def _drafts(
    encoder: Encoder, name: str | None, labels: Mapping[str, str], overwrite: bool
) -> list[Draft]:
    """What to put: members that are new, then the value."""
    if not encoder.members:
        return [Draft(encoder.parts, name, labels=labels, overwrite=overwrite)]
    drafts = [_draft(o.parts, o.members, None, id=int(o.id)) for o in encoder.objects]
    whole = _draft(encoder.parts, encoder.members, name, labels=labels, overwrite=overwrite)
    return [*drafts, whole]


def _draft(
    parts: list[Part],
    members: Mapping[str, Member],
    name: str | None,
    signature: int = 0,
    id: int | None = None,
    labels: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> Draft:
    ids = [int(member.id) for member in members.values()]
    parts = [*parts, members_part(members)] if members else parts
    return Draft(parts, name, ids, signature, id, labels or {}, overwrite=overwrite)


_Name = TypeVar("_Name", str, str | None)


def _checked(name: _Name) -> _Name:
    if name is not None and not isinstance(name, str):
        raise InvalidObjectError(f"a name is a str, this one a {type(name).__name__}")
    return name


def _checked_labels(labels: Mapping[str, str] | None) -> Mapping[str, str]:
    for key, text in (labels or {}).items():
        if not isinstance(key, str) or not isinstance(text, str):
            raise InvalidObjectError(f"a label is two strs, this one {key!r}: {text!r}")
    return labels or {}


def _is_strict(seal: str) -> bool:
    if seal not in ("shared", "strict"):
        raise InvalidObjectError(f"seal {seal!r} is not one of 'shared', 'strict'")
    return seal == "strict"


_HOST = re.compile(r"localhost|\d+(\.\d+){3}|\[[0-9a-f:]+\]", re.IGNORECASE)


def _is_address(text: str) -> bool:
    """Whether it is ``host:port``; ConfigError if it is a host alone."""
    if _HOST.fullmatch(text):
        raise ConfigError(
            f"{text} names no port", f"such as {text}:7070; a socket in this folder is ./{text}"
        )
    try:
        rpc_address(text)
    except ValueError:
        return False
    return True


def reconnect_options(client: Client) -> dict[str, Any]:
    """What `connect` takes to connect to the same store from another process; has the token."""
    keys, place = client._keys, client._a.socket
    options = {
        "rpc" if isinstance(place, str) else "socket": place,
        "token": keys.token,
        "tls_root_certs": keys.tls_root_certs,
        "timeout_s": client._a.timeout_s,
        "autostart": False,
    }
    return {name: value for name, value in options.items() if value is not None}


def connect(
    socket: Any = None,
    *,
    rpc: str | None = None,
    token: str | None = None,
    tls_root_certs: Any = None,
    timeout_s: float | None = None,
    autostart: bool | None = None,
    registry: Registry = default_registry,
    trusted: bool | None = None,
) -> Client:
    """Connect to the store of this host, starting a daemon if none runs; or to one elsewhere.

    Parameters
    ----------
    socket : str or path, optional
        The daemon's UNIX socket. By default ``VINEYARD_ARROW_SOCKET``, the configuration
        file, or the user's own default socket. A text such as ``"host:port"``, without a
        slash, is taken as ``rpc``.
    rpc : str, optional
        ``host:port`` of a store that serves over TCP (docs/rpc.md). With a socket, this is
        where to go if no daemon serves there; none is started.
    token : str, optional
        The token of a store over TCP; beside a socket, that of the other instances of its
        cluster, by default the one in the file that the setting ``rpc_token_file`` names.
    tls_root_certs : path or bytes, optional
        Certificates (PEM) that its own is signed by: connects over TLS. By default for other
        instances: the file that the setting ``rpc_ca_file`` names.
    timeout_s : float, optional
        Deadline of every call, 30 s by default.
    autostart : bool, optional
        Start a daemon if none listens (the default). It lives until it is stopped.
    registry : Registry, optional
        Builders and resolvers of this client, on top of those that all clients have.
    trusted : bool, optional
        Whether pickles may be loaded, see `Client.get`.

    Raises
    ------
    ConfigError
        If a setting is wrong or no daemon could be started.
    AccessDeniedError
        If the store is another user's, or the token not its own.
    ConnectionLostError
        If none answers at ``rpc``.
    """
    if rpc is None and isinstance(socket, str) and "/" not in socket and _is_address(socket):
        socket, rpc = None, socket
    if rpc is not None:
        from .rpc.client import connect_remote

        return connect_remote(
            socket,
            rpc,
            registry,
            trusted,
            timeout_s=timeout_s,
            token=token,
            tls_root_certs=tls_root_certs,
        )
    config = client_config(socket=socket, timeout_s=timeout_s, autostart=autostart)
    keys = checked_keys(token, tls_root_certs)
    return Client(attach(config), registry, trusted, keys)
