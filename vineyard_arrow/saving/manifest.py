"""What an export says of itself: the objects in it, and their files. It reads and writes none.

A manifest comes from anywhere, so all that it says is checked before anything is done by it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec
import xxhash

from ..errors import InvalidObjectError
from ..objects import ObjectID

FORMAT, VERSION = "vineyard-arrow", 1
NAME = "manifest.json"
MAX_NBYTES = 1 << 30  # of a manifest
MAX_DEPTH = 1000  # of members in members
_FILE = re.compile(r"o[0-9a-f]{16}(-\d{1,9}){2}\.arrow")
_CHECKSUM = re.compile(r"xxh3_64:[0-9a-f]{16}")


class File(msgspec.Struct):
    """A file beside the manifest: some batches of one part of an object."""

    name: str
    nbytes: int
    checksum: str


class Saved(msgspec.Struct):
    """An object: ``parts`` has the files of each of its parts, the root first.

    Its id tells the instance that it was on.
    """

    id: str
    typename: str
    nbytes: int
    parts: list[list[File]]
    members: dict[str, str] = {}
    names: list[str] = []
    labels: dict[str, str] = {}
    is_global: bool = False

    @property
    def files(self) -> list[File]:
        """Of all parts."""
        return [file for part in self.parts for file in part]


class Content(msgspec.Struct):
    """All that was exported; ``roots`` are the ids that were asked for."""

    roots: list[str]
    objects: list[Saved]


class _Head(msgspec.Struct):
    format: str
    version: int
    checksum: str
    content: msgspec.Raw


def checksum(digest: int) -> str:
    """How a manifest writes the XXH3 (64 bits) of some bytes."""
    return f"xxh3_64:{digest:016x}"


def file_name(object_id: int, part: int, number: int) -> str:
    """Of the file with the batches ``number`` of a part."""
    return f"{ObjectID(object_id)}-{part}-{number}.arrow"


def encode(content: Content) -> bytes:
    """The text of a manifest."""
    text = msgspec.json.format(msgspec.json.encode(content), indent=1)
    digest = checksum(xxhash.xxh3_64_intdigest(text))
    head = _Head(FORMAT, VERSION, digest, msgspec.Raw(text))
    return msgspec.json.encode(head) + b"\n"


def decode(text: bytes) -> Content:
    """The content of a manifest, its objects in an order in which members come first.

    Raises
    ------
    InvalidObjectError
        If it is none, of a later version, damaged, or makes no sense.
    """
    try:
        loose: Any = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        version = msgspec.json.decode(loose["version"], type=int)
        known = msgspec.json.decode(loose["format"], type=str) == FORMAT
    except (msgspec.DecodeError, KeyError, UnicodeDecodeError, RecursionError) as error:
        raise _wrong(f"it cannot be read: {error!r}") from None
    if not known or version != VERSION:
        raise InvalidObjectError(
            f"the manifest is of version {version}, and this release reads version {VERSION}",
            "import it with the release that exported it, or a later one",
        )
    try:
        head = msgspec.json.decode(text, type=_Head)
        if head.checksum != checksum(xxhash.xxh3_64_intdigest(bytes(head.content))):
            raise _wrong("its checksum is another: it was damaged or changed")
        content = msgspec.json.decode(head.content, type=Content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _wrong(f"it cannot be read: {error}") from None
    _check_files(content.objects)
    return Content(content.roots, _in_order(content))


def _wrong(why: str) -> InvalidObjectError:
    return InvalidObjectError(f"the manifest makes no sense: {why}", "export it anew")


def _check_files(objects: Sequence[Saved]) -> None:
    seen: set[str] = set()
    names: set[str] = set()
    for saved in objects:
        if not saved.parts or not all(saved.parts):
            raise _wrong(f"object {saved.id!r} has no files")
        for file in saved.files:
            if not _FILE.fullmatch(file.name):
                raise _wrong(f"{file.name!r} is no name of a file of an export")
            if file.name in seen:
                raise _wrong(f"the file {file.name} is there twice")
            if file.nbytes <= 0 or not _CHECKSUM.fullmatch(file.checksum):
                raise _wrong(f"size or checksum of {file.name} is none")
            seen.add(file.name)
        if saved.is_global and (len(saved.parts) != 1 or len(saved.files) != 1):
            raise _wrong(f"the global object {saved.id!r} has data")
        for name in saved.names:
            if name in names:
                raise _wrong(f"the name {name!r} is there twice")
            names.add(name)


def _in_order(content: Content) -> list[Saved]:
    """All objects, members first; InvalidObjectError for cycles, and members that are not there."""
    found = {saved.id: saved for saved in content.objects}
    if len(found) != len(content.objects):
        raise _wrong("an object is there twice")
    for key in [*found, *content.roots]:
        try:
            known = str(ObjectID(key)) == key
        except ValueError:
            known = False
        if not known or key not in found:
            raise _wrong(f"{key!r} is no object of it")
    wholes = {saved.id for saved in content.objects if saved.is_global}
    for saved in content.objects:
        if saved.is_global and not wholes.isdisjoint(saved.members.values()):
            raise _wrong(f"the global object {saved.id} has another in it")
    depths: dict[str, int] = {}
    path: set[str] = set()
    stack = [(key, False) for key in found]
    while stack:
        key, is_done = stack.pop()
        members = found[key].members.values()
        if is_done:
            path.discard(key)
            depths[key] = 1 + max((depths[member] for member in members), default=0)
            if depths[key] > MAX_DEPTH:
                raise _wrong(f"members in members, over {MAX_DEPTH:,} deep")
        elif key in path:
            raise _wrong(f"object {key} is a member of itself")
        elif key not in depths:
            path.add(key)
            stack.append((key, True))
            for member in members:
                if member not in found:
                    raise _wrong(f"{member!r}, a member of {key}, is not in it")
                if member not in depths:
                    stack.append((member, False))
    return [found[key] for key in depths]
