"""Objects into a store, from the folder that `export` wrote: all of them at once, or none.

Files are read into the store's own memory, and are summed up and checked there. Then one put
publishes everything; in a cluster one put on each instance, and what is global comes last. Nobody
sees anything before, and what fails leaves nothing.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import pyarrow as pa

from ..composition import MEMBERS, VALUES, create_global, members_part
from ..errors import (
    ConfigError,
    InvalidObjectError,
    ObjectExistsError,
    ObjectNotFoundError,
    VineyardArrowError,
)
from ..ipc.attached import Attached
from ..joined import await_known
from ..objects import Member, ObjectID, ObjectMeta
from ..partitioning.reach import Reach, numbers_of
from ..registry import Part
from ..store import Draft
from . import manifest as m
from .checking import check
from .dealing import Deal, all_here, dealt
from .export import PARAMS, TYPE, Progress
from .files import Source, Told

if TYPE_CHECKING:
    from ..client import Client

Names = Literal["error", "keep", "replace"]


def deserialize(
    url: str | os.PathLike[str],
    *,
    client: Client | None = None,
    names: Names = "error",
    trusted: bool = False,
    over: Any = None,
    progress: Progress | None = None,
) -> list[ObjectID]:
    """Read what `serialize` wrote into a store; return the new ids, in the order of its keys.

    Uncompressed files are read straight into the memory that stays theirs: buffers of 64 KiB
    and more are not copied again. All objects appear at once, with their names and labels. In a
    cluster global objects are global again, once their partitions are on their instances.

    Parameters
    ----------
    url : str or path
        As of `serialize`.
    client : Client, optional
        Of a store on this host; that of `put` and `get` by default.
    names : {"error", "keep", "replace"}
        What becomes of a name that is taken: nothing is imported, it stays with the object that
        has it, or it points to the imported one from then on. That other object stays.
    trusted : bool
        Whether pickles among it may be loaded like one's own: who made them may run any code. Their
        offsets, indices and texts are then believed, too.
    over : instances, optional
        In a cluster, the instances over which partitions of global objects are dealt out, by
        bytes: numbers or records of `Client.instances`, or clients. By default those that were
        on one instance are on one again, as far as there are enough.
    progress : callable, optional
        Called with bytes done and bytes in all.

    Raises
    ------
    PathNotFoundError
        If there is no export.
    InvalidObjectError
        If it is of another version, or damaged; the file is named.
    ObjectExistsError
        If a name is taken.
    StoreFullError
        If it does not fit.
    ConnectionLostError
        If an instance is not reached, or gone. Whatever is raised, nothing is kept on any.

    Examples
    --------
    >>> vineyard_arrow.deserialize("/backup/flights", names="keep")  # doctest: +SKIP
    [ObjectID('o0000020000000001')]
    """
    if client is None:
        from .. import default_client

        client = default_client()
    if not isinstance(client._a, Attached):
        raise ConfigError("an import goes by shared memory", "run it on the host of the store")
    if names not in ("error", "keep", "replace"):
        raise InvalidObjectError(f"names {names!r} is not one of 'error', 'keep', 'replace'")
    source = Source(url)
    content = m.decode(source.manifest())
    taken = _taken(client, content)
    if taken and names == "error":
        raise ObjectExistsError(
            f"name {next(iter(taken))!r} is taken",
            "names='keep' leaves it where it is, names='replace' moves it",
        )
    for saved in content.objects:
        for file in saved.files:
            source.check(file)
    with Reach(client) as reach:
        deal = _deal(client, content, numbers_of(over))
        load = _Load(client, reach, source, content, deal, taken, trusted, progress)
        return load.all(names == "replace")


def _deal(client: Client, content: m.Content, over: list[int] | None) -> Deal:
    if client.status().meta == "embedded":  # a store alone
        return all_here(content, client.instance)
    instances = [info.number for info in client.instances()]
    return dealt(content, client.instance, instances, over)


def _taken(client: Client, content: m.Content) -> dict[str, str]:
    """Names that are not free here, and the object of the export that has each."""
    wanted = {name: saved.id for saved in content.objects for name in saved.names}
    return {name: key for name, key in wanted.items() if _has_name(client, name)}


def _has_name(client: Client, name: str) -> bool:
    try:
        client.get_name(name)
    except ObjectNotFoundError:
        return False
    return True


def _teller(total: int, progress: Progress | None) -> Told:
    done = 0

    def told(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        if progress is not None:
            progress(done, total)

    return told


def _parts(source: Source, saved: m.Saved, pool: Any, told: Told, trusted: bool) -> list[Part]:
    """The parts of an object."""
    parts = [_part(source, files, pool, told, trusted) for files in saved.parts]
    if parts[0].typename != saved.typename:
        raise InvalidObjectError(
            f"the files of {saved.id} in the export are of another object", "export it anew"
        )
    return parts


def _part(source: Source, files: list[m.File], pool: Any, told: Told, trusted: bool) -> Part:
    """A part of its files, over the blocks of ``pool`` that they were read to."""
    part: Part | None = None
    for file in files:
        schema, batches = _read(file, source.read(file, pool, told), pool)
        _check(file, batches, trusted)
        found = _unnamed(file, schema, batches)
        if part is None:
            part = found
        elif (part.typename, part.params) != (found.typename, found.params) or not (
            part.schema.equals(found.schema, check_metadata=True)
        ):
            raise InvalidObjectError(f"the file {file.name} of the export is of another part")
        else:
            part.batches.extend(found.batches)  # type: ignore[attr-defined]
    assert part is not None  # an export without files is refused
    return part


def _read(file: m.File, block: pa.Buffer, pool: Any) -> tuple[pa.Schema, list[pa.RecordBatch]]:
    # What we have written is aligned; what another writer has is moved, in the pool.
    options = pa.ipc.IpcReadOptions(ensure_alignment=pa.ipc.Alignment.At64Byte)
    try:
        with pa.ipc.open_file(block, options=options, memory_pool=pool) as reader:
            batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
            return reader.schema, batches
    except MemoryError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InvalidObjectError(
            f"the file {file.name} of the export is no Arrow file: {error}"
        ) from None


def _check(file: m.File, batches: list[pa.RecordBatch], trusted: bool) -> None:
    """Refuse what might crash its readers. Who is trusted may crash them by a pickle as well."""
    try:
        for batch in batches:
            batch.validate()
            for column in () if trusted else batch.columns:
                check(column)
    except (ValueError, IndexError) as error:  # the former of names that are no UTF-8, too
        raise InvalidObjectError(
            f"the file {file.name} of the export makes no sense: {error}",
            "export it anew; trusted=True looks no closer than at lengths",
        ) from None


def _unnamed(file: m.File, schema: pa.Schema, batches: list[pa.RecordBatch]) -> Part:
    """The part that a file says it is of, its schema as it was."""
    metadata = dict(schema.metadata or {})
    try:
        typename = metadata.pop(TYPE).decode()
        params = msgspec.json.decode(metadata.pop(PARAMS), type=dict[str, Any])
    except (KeyError, UnicodeDecodeError, msgspec.DecodeError, RecursionError) as error:
        raise InvalidObjectError(
            f"the file {file.name} of the export does not say what it is of: {error!r}"
        ) from None
    if typename == MEMBERS:  # the manifest has those
        raise InvalidObjectError(f"the file {file.name} of the export is of no object's own")
    kept = metadata or None
    batches = [batch.replace_schema_metadata(kept) for batch in batches]
    return Part(typename, schema.with_metadata(kept), batches, params)


class _Load:
    """One import, once it is known what goes where."""

    def __init__(
        self,
        client: Client,
        reach: Reach,
        source: Source,
        content: m.Content,
        deal: Deal,
        taken: dict[str, str],
        trusted: bool,
        progress: Progress | None,
    ) -> None:
        self._client, self._reach, self._source = client, reach, source
        self._content, self._deal, self._taken, self._trusted = content, deal, taken, trusted
        self._told = _teller(deal.nbytes, progress)
        self._typenames = {saved.id: saved.typename for saved in content.objects}
        self._names: dict[str, str] = {}  # for which a put has no place
        self._new = {  # all instances are reached before anything is read
            (saved.id, number): ObjectID(reach.client(number)._a.take_id())
            for number, objects in deal.objects.items()
            for saved in objects
        }

    def all(self, replace: bool) -> list[ObjectID]:
        """Read, put and name everything; return the ids of the roots."""
        drafts = {number: self._read(number) for number in self._deal.objects}
        for number, several in drafts.items():
            if several:
                self._reach.note(int(draft.id or 0) for draft in several)
                self._reach.client(number)._a.put(several)
        ids = {key: self._new[key, number] for key, number in self._deal.home.items()}
        self._await_partitions(ids)
        for saved in self._deal.globals:
            ids[saved.id] = self._global(saved, ids)
        if replace:
            self._names |= self._taken
        _name(self._client, {name: ids[key] for name, key in self._names.items()}, replace)
        return [ids[root] for root in self._content.roots]

    def _read(self, number: int) -> list[Draft]:
        """The objects of an instance, in its memory. Over TCP each is put as it was read."""
        store = self._reach.client(number)._a
        drafts = []
        for saved in self._deal.objects[number]:
            try:
                draft = self._draft(saved, number, self._parts(saved, store.pool))
            except MemoryError as error:
                if isinstance(error, VineyardArrowError):
                    raise
                raise store.full(self._deal.nbytes) from None
            if isinstance(store, Attached):
                drafts.append(draft)
            else:
                self._reach.note(store.put([draft]))
        return drafts

    def _parts(self, saved: m.Saved, pool: Any) -> list[Part]:
        return _parts(self._source, saved, pool, self._told, self._trusted)

    def _draft(self, saved: m.Saved, number: int, own: list[Part]) -> Draft:
        """An object as it is to be put."""
        members = {
            name: Member(self._new[key, number], self._typenames[key])
            for name, key in saved.members.items()
        }
        free = self._free_names(saved) if self._deal.home[saved.id] == number else []
        return Draft(
            [*own, members_part(members)] if members else own,
            free[0] if free else None,
            [int(member.id) for member in members.values()],
            id=int(self._new[saved.id, number]),
            labels=saved.labels,
            vouched=self._trusted,
        )

    def _free_names(self, saved: m.Saved) -> list[str]:
        """Those that nobody has; all but the first are given later."""
        free = [name for name in saved.names if name not in self._taken]
        self._names |= dict.fromkeys(free[1:], saved.id)
        return free

    # ---- objects of the cluster

    def _await_partitions(self, ids: dict[str, ObjectID]) -> None:
        """Let the cluster know them, and hear of it."""
        client, by_instance = self._client, dict[int, list[ObjectID]]()
        for key, number in self._deal.partitions.items():
            by_instance.setdefault(number, []).append(ids[key])
        for number, several in by_instance.items():
            at = self._reach.client(number)
            at.persist(several)
            if at is not client:
                for each in several:
                    await_known(client, at.get_meta(each), client._a.timeout_s)

    def _global(self, saved: m.Saved, ids: dict[str, ObjectID]) -> ObjectID:
        (part,) = self._parts(saved, pa.default_memory_pool())
        if part.batches or not part.params.keys() <= {VALUES}:
            raise InvalidObjectError(f"the global object {saved.id} has data", "export it anew")
        meta = ObjectMeta(saved.typename, part.params.get(VALUES))
        for name, key in saved.members.items():
            meta.add_member(name, ids[key])
        first = next(iter(self._free_names(saved)), None)
        timeout_s = self._client._a.timeout_s
        made = create_global(self._client, meta, first, saved.labels, timeout_s).id
        assert made is not None
        self._reach.note([made])
        return made


def _name(client: Client, names: dict[str, ObjectID], overwrite: bool) -> None:
    """Point names to objects; with ``overwrite`` wherever they point now, without a gap."""
    before: dict[str, ObjectID | None] = {}
    try:
        for name, key in names.items():
            if overwrite and _is_persisted(client, name) and not _is_persisted(client, key):
                client.persist(key)  # a name of the cluster stays one
            before[name] = client.put_name(key, name, overwrite=overwrite)
    except BaseException:
        for name, old in before.items():
            if old is not None:
                with contextlib.suppress(VineyardArrowError):
                    client.put_name(old, name, overwrite=True)
        raise


def _is_persisted(client: Client, key: ObjectID | str) -> bool:
    try:
        return client.get_meta(key).persisted
    except ObjectNotFoundError:
        return False
