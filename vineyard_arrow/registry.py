"""Builders and resolvers: how a Python value becomes Arrow parts, and comes back.

A *builder* turns one value into a `Part`: an Arrow schema with record batches, a typename
and a small JSON-able descriptor. A value with nested values adds a part for each. A
*resolver* turns a `StoredPart` of one typename back into the value. The registry finds
the builder by the value's type along its MRO, the resolver by exact typename. It knows
no sockets and no shared memory; where the buffers lie is somebody else's business.

The modules of `vineyard_arrow.types` register themselves when the first value of their
library (or the first object of their typename) turns up, so no engine is imported early.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from .errors import BuilderNotFoundError, ObjectNotFoundError, ResolverNotFoundError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Encoder", "Part", "Registry", "StoredObject", "StoredPart", "default_registry"]


class Part(msgspec.Struct, frozen=True, eq=False):
    """One Arrow stream of an object to be stored.

    Parameters
    ----------
    typename : str
        What the part is, e.g. ``"vineyard.table"``; selects the resolver.
    schema : pyarrow.Schema
        Schema of the batches, with the user's own metadata only.
    batches : sequence of pyarrow.RecordBatch
        The payload; may be empty. Buffers already in the store are shared, others copied.
    params : dict
        JSON-able descriptor (str keys; None, bool, int within 64 bits, float, str, lists,
        dicts). Equal descriptors are cached by readers, so keep values out of it that
        differ from object to object.
    """

    typename: str
    schema: pa.Schema
    batches: Sequence[pa.RecordBatch]
    params: dict[str, Any] = {}


class StoredPart(msgspec.Struct, frozen=True, eq=False):
    """One Arrow stream of a stored object, mapped.

    ``table`` holds the part's batches as chunks, with the user's schema. ``writable`` is
    true for ``get(mode="cow" | "copy")``: the buffers are then private to this get and a
    resolver should make writable arrays of them (see `types.memory.memory_of`).
    """

    typename: str
    params: dict[str, Any]
    table: pa.Table
    writable: bool = False


Builder = Callable[[Any, "Encoder"], Part]
Resolver = Callable[[StoredPart, "StoredObject"], Any]


class Encoder:
    """Collects the parts of one object: the root is part 0, nested values follow.

    A builder calls ``encoder.add(child)`` and keeps the returned index in its descriptor
    or payload; the resolver hands that index to `StoredObject.resolve`.
    """

    __slots__ = ("_parts", "_registry")

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._parts: list[Part | None] = []

    def add(self, value: Any) -> int:
        """Encode ``value`` as a part of its own; return the part's index."""
        index = len(self._parts)
        self._parts.append(None)
        self._parts[index] = self._registry.builder_for(value)(value, self)
        return index

    def add_part(self, part: Part) -> int:
        """Add a part made by hand; return its index."""
        self._parts.append(part)
        return len(self._parts) - 1

    @property
    def parts(self) -> list[Part]:
        """All parts, the root first."""
        return self._parts  # type: ignore[return-value]  # filled once add() has returned


class StoredObject:
    """The mapped parts of one stored object, on the way back to a value.

    Parameters
    ----------
    parts, registry
        The parts in their order, and who knows the resolvers.
    remap : callable, optional
        Reads the same parts over memory private to this process, copy-on-write.
    """

    __slots__ = ("_places", "_private", "_registry", "_remap", "parts")

    def __init__(
        self,
        parts: Sequence[StoredPart],
        registry: Registry,
        remap: Callable[[], Sequence[StoredPart]] | None = None,
    ) -> None:
        self.parts = parts
        self._registry = registry
        self._remap = remap
        self._private: Sequence[StoredPart] | None = None
        self._places: dict[int, int] = {}

    def resolve(self, index: int = 0) -> Any:
        """Make the value of part ``index``."""
        part = self.parts[index]
        return self._registry.resolver_for(part.typename)(part, self)

    def private(self, part: StoredPart) -> StoredPart:
        """``part`` mapped copy-on-write, for values that have no read-only state.

        ``part`` itself comes back if it is writable already, or if nothing can map it
        anew (the object was deleted meanwhile): look at ``writable``, and copy.
        """
        if part.writable or self._remap is None:
            return part
        if self._private is None:
            try:
                self._private = self._remap()
            except ObjectNotFoundError:
                return part
            self._places = {id(part): i for i, part in enumerate(self.parts)}
        return self._private[self._places[id(part)]]


# Which of our modules holds the builders of a library's types, by top-level package ...
_BUILDER_MODULES = {
    "pyarrow": "arrow",
    "numpy": "numpy",
    "pandas": "pandas",
    "polars": "polars",
    "scipy": "scipy",
    "sparse": "sparse",
    "duckdb": "duckdb",
    "_duckdb": "duckdb",
    "torch": "torch",
}
# ... of classes that no builder knows, by a method that hands out their memory ...
_PROTOCOLS = ("__arrow_c_stream__", "__arrow_c_array__", "__dlpack__")
# ... and the resolvers of a typename, by its second component.
_RESOLVER_MODULES = {
    "arrow": "arrow",
    "numpy": "numpy",
    "pandas": "pandas",
    "polars": "polars",
    "scipy": "scipy",
    "sparse": "sparse",
    "duckdb": "duckdb",
    "torch": "torch",
    "python": "python",
    "pickle": "python",
}
# Typenames of the two hot kinds and of blobs have no library in them.
_RESOLVER_MODULES |= dict.fromkeys(
    ("table", "record_batch", "chunked_array", "array", "scalar", "schema", "blob"), "arrow"
)
_RESOLVER_MODULES |= dict.fromkeys(("tensor",), "numpy")


class Registry:
    """Builders by type and resolvers by typename."""

    def __init__(self) -> None:
        self._builders: dict[type, Builder] = {}
        self._found: dict[type, Builder] = {}
        self._protocols: dict[str, Builder] = {}
        self._resolvers: dict[str, Resolver] = {}

    def builder(self, *types: type) -> Callable[[Builder], Builder]:
        """Register the decorated function as the builder of ``types`` and subclasses."""

        def register(function: Builder) -> Builder:
            for t in types:
                self._builders[t] = function
            self._found.clear()
            return function

        return register

    def protocol(self, method: str) -> Callable[[Builder], Builder]:
        """Register the builder of values that only their ``method`` tells anything of."""

        def register(function: Builder) -> Builder:
            self._protocols[method] = function
            self._found.clear()
            return function

        return register

    def resolver(self, typename: str) -> Callable[[Resolver], Resolver]:
        """Register the decorated function as the resolver of ``typename``."""

        def register(function: Resolver) -> Resolver:
            self._resolvers[typename] = function
            return function

        return register

    def builder_for(self, value: Any) -> Builder:
        """The builder of the first class in the MRO of ``type(value)`` that has one.

        Before ``object``, whose builder pickles, come the Arrow PyCapsule protocol and DLPack.

        Raises
        ------
        BuilderNotFoundError
            If no class in the MRO has one (``object`` has: pickling).
        """
        cls = type(value)
        found = self._found.get(cls)
        if found is not None:
            return found
        for base in cls.__mro__:
            module = _BUILDER_MODULES.get(base.__module__.partition(".")[0], "python")
            _load(module)
            found = self._builders.get(base)
            if base is object:
                found = self._protocol_builder(cls) or found
            if found is not None:
                self._found[cls] = found
                return found
        raise BuilderNotFoundError(
            f"no builder for {cls.__module__}.{cls.__qualname__}",
            "register one with @builder",
        )

    def _protocol_builder(self, cls: type) -> Builder | None:
        for method in _PROTOCOLS:
            if hasattr(cls, method):
                _load("capsules")
                return self._protocols.get(method)
        return None

    def resolver_for(self, typename: str) -> Resolver:
        """The resolver of ``typename``.

        Raises
        ------
        ResolverNotFoundError
            If none is registered under that exact name.
        """
        found = self._resolvers.get(typename)
        if found is None:
            module = _RESOLVER_MODULES.get((typename + ".").split(".")[1])
            if module is not None:
                _load(module)
                found = self._resolvers.get(typename)
        if found is None:
            raise ResolverNotFoundError(
                f"no resolver for typename {typename!r}",
                f"known here: {', '.join(sorted(self._resolvers))}",
            )
        return found


def _load(module: str) -> None:
    importlib.import_module(f"{__package__}.types.{module}")


default_registry = Registry()
