"""A writable buffer in the store, on its way to become an object."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

import pyarrow as pa

from .errors import InvalidObjectError
from .objects import ObjectID

if TYPE_CHECKING:
    from .client import Client


class Blob:
    """A writable buffer in the store until it is sealed.

    Attributes
    ----------
    buffer : pyarrow.Buffer
        Mutable, ``nbytes`` long, not initialised. Invalid for writing after `seal`.
    """

    def __init__(self, client: Client, nbytes: int) -> None:
        try:
            nbytes = operator.index(nbytes)
        except TypeError:
            raise InvalidObjectError(f"nbytes is an int, not a {type(nbytes).__name__}") from None
        if nbytes < 0:
            raise InvalidObjectError(f"a blob of {nbytes} bytes")
        self._client = client
        try:
            self.buffer: pa.Buffer | None = pa.allocate_buffer(
                nbytes, memory_pool=client.memory_pool
            )
        except MemoryError:
            raise client._a.full(nbytes) from None

    def __repr__(self) -> str:
        if self.buffer is None:
            return "<Blob, sealed or dropped>"
        return f"<Blob of {self.nbytes:,} bytes, not sealed>"

    def __buffer__(self, flags: int) -> memoryview:
        return self.view()

    def _live(self) -> pa.Buffer:
        if self.buffer is None:
            raise InvalidObjectError("this blob is sealed or dropped")
        return self.buffer

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return int(self._live().size)

    def view(self) -> memoryview:
        """The bytes, writable.

        Release it, and every array made of it, before `seal`: a write after that is a SIGSEGV.
        """
        view = memoryview(self._live())
        # Arrow's are of signed bytes, to which no bytes can be assigned; empty ones cannot be cast.
        return view.cast("B") if view.nbytes else memoryview(bytearray())

    def seal(self, *, name: str | None = None) -> ObjectID:
        """Publish the blob; from here on its pages refuse writes."""
        object_id = self._client.put(self._live(), name=name)
        self.buffer = None
        return object_id

    def drop(self) -> None:
        """Give the memory back without publishing."""
        self.buffer = None
