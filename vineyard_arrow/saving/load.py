"""Objects into a store, from the folder that `export` wrote: all of them at once, or none.

Files are read into the store's own memory, and are summed up and checked there. Then one put
publishes everything. Nobody sees anything before, and what fails leaves nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Container
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import pyarrow as pa

from ..composition import MEMBERS, members_part
from ..errors import (
    ConfigError,
    InvalidObjectError,
    ObjectExistsError,
    ObjectNotFoundError,
    VineyardArrowError,
)
from ..ipc.attached import Attached
from ..objects import Member, ObjectID
from ..registry import Part
from ..store import Draft
from . import manifest as m
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
    progress: Progress | None = None,
) -> list[ObjectID]:
    """Read what `serialize` wrote into a store; return the new ids, in the order of its keys.

    Uncompressed files are read straight into the memory that stays theirs: buffers of 64 KiB
    and more are not copied again. All objects appear at once, with their names and labels.

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
        Whether pickles among it may be loaded like one's own: who made them may run any code.
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
        If it does not fit. Whatever is raised, nothing is kept.

    Examples
    --------
    >>> vineyard_arrow.deserialize("/backup/flights", names="keep")  # doctest: +SKIP
    [ObjectID('o0000020000000001')]
    """
    if client is None:
        from .. import default_client

        client = default_client()
    attached = client._a
    if not isinstance(attached, Attached):
        raise ConfigError("an import goes by shared memory", "run it on the host of the store")
    if names not in ("error", "keep", "replace"):
        raise InvalidObjectError(f"names {names!r} is not one of 'error', 'keep', 'replace'")
    source = Source(url)
    content = m.decode(source.manifest())
    taken = _taken(client, content)
    if taken and names == "error":
        raise ObjectExistsError(
            f"name {next(iter(taken))!r} is taken", "import with names='keep' or 'replace'"
        )
    files = [file for saved in content.objects for file in saved.files]
    for file in files:
        source.check(file)
    told = _teller(sum(file.nbytes for file in files), progress)
    new = {saved.id: ObjectID(attached.take_id()) for saved in content.objects}
    try:
        parts = [_parts(source, saved, attached.pool, told) for saved in content.objects]
    except MemoryError:
        raise attached.full(sum(file.nbytes for file in files)) from None
    drafts, more = _drafts(content, parts, new, taken, trusted)
    if names == "replace":
        more |= {name: new[key] for name, key in taken.items()}
    _publish(client, attached, drafts, more)
    return [new[root] for root in content.roots]


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


def _parts(source: Source, saved: m.Saved, pool: Any, told: Told) -> list[Part]:
    """The parts of an object."""
    parts = [_part(source, files, pool, told) for files in saved.parts]
    if parts[0].typename != saved.typename:
        raise InvalidObjectError(
            f"the files of {saved.id} in the export are of another object", "export it anew"
        )
    return parts


def _part(source: Source, files: list[m.File], pool: Any, told: Told) -> Part:
    """A part of its files, over the blocks of ``pool`` that they were read to."""
    part: Part | None = None
    for file in files:
        schema, batches = _read(file, source.read(file, pool, told), pool)
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
            for batch in batches:
                batch.validate()
            return reader.schema, batches
    except MemoryError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InvalidObjectError(
            f"the file {file.name} of the export is no Arrow file: {error}"
        ) from None


def _unnamed(file: m.File, schema: pa.Schema, batches: list[pa.RecordBatch]) -> Part:
    """The part that a file says it is of, its schema as it was."""
    metadata = dict(schema.metadata or {})
    try:
        typename = metadata.pop(TYPE).decode()
        params = msgspec.json.decode(metadata.pop(PARAMS), type=dict[str, Any])
    except (KeyError, UnicodeDecodeError, msgspec.DecodeError) as error:
        raise InvalidObjectError(
            f"the file {file.name} of the export does not say what it is of: {error!r}"
        ) from None
    if typename == MEMBERS:  # the manifest has those
        raise InvalidObjectError(f"the file {file.name} of the export is of no object's own")
    kept = metadata or None
    batches = [batch.replace_schema_metadata(kept) for batch in batches]
    return Part(typename, schema.with_metadata(kept), batches, params)


def _drafts(
    content: m.Content,
    parts: list[list[Part]],
    new: dict[str, ObjectID],
    taken: Container[str],
    trusted: bool,
) -> tuple[list[Draft], dict[str, ObjectID]]:
    """The objects as they are to be put, and names for which a put has no place."""
    typenames = {saved.id: saved.typename for saved in content.objects}
    drafts: list[Draft] = []
    more: dict[str, ObjectID] = {}
    for saved, own in zip(content.objects, parts, strict=True):
        members = {name: Member(new[key], typenames[key]) for name, key in saved.members.items()}
        free = [name for name in saved.names if name not in taken]
        more |= dict.fromkeys(free[1:], new[saved.id])
        draft = Draft(
            [*own, members_part(members)] if members else own,
            free[0] if free else None,
            [int(member.id) for member in members.values()],
            id=int(new[saved.id]),
            labels=saved.labels,
            vouched=trusted,
        )
        drafts.append(draft)
    return drafts, more


def _publish(
    client: Client, attached: Attached, drafts: list[Draft], names: dict[str, ObjectID]
) -> None:
    """Put all objects, then point ``names`` to them, wherever those pointed before."""
    attached.put(drafts)
    before: dict[str, ObjectID] = {}
    try:
        for name, key in names.items():
            with contextlib.suppress(ObjectNotFoundError):
                before[name] = client.get_name(name)
                client.drop_name(name)
            client.put_name(key, name)
    except BaseException:
        with contextlib.suppress(VineyardArrowError):
            client.delete([draft.id for draft in drafts if draft.id is not None], force=True)
            for name, key in before.items():
                if not _has_name(client, name):
                    client.put_name(key, name)
        raise
