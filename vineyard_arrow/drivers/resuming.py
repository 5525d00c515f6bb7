"""What a read that broke off leaves for the next of its name: fragments that were done.

Each is an object with two labels, which come with its put: so it is there whole or not at all,
whenever the reader dies. It knows fragments and their keys, but neither formats nor schemas.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pyarrow as pa

from ..errors import ConfigError, ObjectNotFoundError
from ..machine import format_size

if TYPE_CHECKING:
    from ..client import Client
    from ..objects import ObjectID

__all__ = ["FRAGMENT", "RESUME", "Fragments", "key_of", "resuming"]

RESUME = "vineyard.resume"  # a label: the name under which fragments are kept
FRAGMENT = "vineyard.fragment"  # a label: the key of what a fragment was read from, and how
_ALL = 1 << 40


def key_of(*parts: bytes) -> str:
    """The key of a fragment: equal only if all that it was made of and by is."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


class Fragments:
    """The fragments of one read, by their keys; made by `resuming`. Thread-safe.

    Parameters
    ----------
    client : Client
        Of the store that keeps them.
    name : str
        Of the read. What is kept under it and is not among ``keys`` is deleted.
    keys : iterable of str
        Of all fragments of the read.
    """

    def __init__(self, client: Client, name: str, keys: Iterable[str]) -> None:
        self._client, self._name, self._keys = client, name, set(keys)
        self._ids: list[ObjectID] = []
        self._found: dict[str, pa.Table] = {}
        self.nbytes = 0
        for meta in client.list_objects(labels={RESUME: name}, limit=_ALL):
            key = meta.labels.get(FRAGMENT, "")
            assert meta.id is not None
            with suppress(ObjectNotFoundError):  # another read of this name has ended
                if key not in self._keys or key in self._found:
                    client.delete(meta.id)
                else:
                    self._found[key] = self._mapped(meta.id)

    def _mapped(self, object_id: ObjectID) -> pa.Table:
        table: pa.Table = self._client.get(object_id)
        self._ids.append(object_id)
        self.nbytes += table.nbytes
        return table

    def table(self, key: str, make: Callable[[], pa.Table]) -> pa.Table:
        """The fragment as it is in the store; it is made and put unless it is there."""
        if key not in self._found:
            labels = {RESUME: self._name, FRAGMENT: key}
            self._found[key] = self._mapped(self._client.put(make(), labels=labels))
        return self._found[key]

    def drop(self) -> None:
        """Delete them: what was made of their memory stays."""
        for object_id in self._ids:
            with suppress(ObjectNotFoundError):
                self._client.delete(object_id)

    def __str__(self) -> str:
        return (
            f"{len(self._ids)} of {len(self._keys)} fragments ({format_size(self.nbytes)}) are kept"
            f" under resume={self._name!r}"
        )


@contextmanager
def resuming(client: Client, name: str, keys: Iterable[str]) -> Iterator[Fragments]:
    """The fragments of a read called ``name``; an error that leaves the block says what is kept."""
    if not isinstance(name, str) or not name:
        raise ConfigError(f"resume={name!r}", "a name, such as resume='flights'")
    fragments = Fragments(client, name, keys)
    try:
        yield fragments
    except BaseException as error:
        if fragments._ids:
            error.add_note(f"{fragments}: the same call goes on from there")
        raise
