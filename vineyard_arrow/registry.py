"""Builders and resolvers: how a Python value becomes Arrow parts, and comes back.

A *builder* turns one value into a `Part`: an Arrow schema with record batches, a typename
and a small JSON-able descriptor. A value with nested values adds a part for each. A
*resolver* turns a `StoredPart` of one typename back into the value. The registry finds
the builder by the value's type along its MRO, the resolver by exact typename. It knows
no sockets and no shared memory; where the buffers lie is somebody else's business.

A lookup goes through a chain of registries: those of the contexts it is made in, the
client's own, `default_registry` for what a program registers, `builtin_registry` for ours.
The modules of `vineyard_arrow.types` register themselves when the first value of their
library (or the first object of their typename) turns up, so no engine is imported early;
other packages are loaded by their entry points when something is found in none of these.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

import msgspec
import pyarrow as pa

from .errors import (
    AccessDeniedError,
    InvalidObjectError,
    ObjectNotFoundError,
    ResolverNotFoundError,
    VineyardArrowError,
)
from .objects import Member, ObjectID
from .plugins import load_plugins

__all__ = [
    "Builder",
    "Encoder",
    "Form",
    "Part",
    "Registry",
    "Resolver",
    "StoredObject",
    "StoredPart",
    "builder",
    "builtin_registry",
    "default_registry",
    "resolver",
]


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


class NewObject(msgspec.Struct, frozen=True, eq=False):
    """An object to be stored together with the one that it's a member of."""

    id: ObjectID
    parts: list[Part]
    members: dict[str, Member]


class StoredPart(msgspec.Struct, frozen=True, eq=False, gc=False):
    """One Arrow stream of a stored object, mapped.

    Attributes
    ----------
    typename : str
    params : dict
        As its builder gave them.
    table : pyarrow.Table
        The part's batches as chunks, with the user's schema.
    writable : bool
        True for ``get(mode="cow" | "copy")``: the buffers are then private to this get and a
        resolver should make writable arrays of them (see `types.memory.memory_of`).
    """

    typename: str
    params: dict[str, Any]
    table: pa.Table
    writable: bool = False


class Source(Protocol):
    """Where a stored object's members come from."""

    @property
    def uid(self) -> int:
        """The user of this process, by the same count as objects' users."""

    @property
    def socket(self) -> str:
        """Of the store that objects are read from."""

    def done(self) -> None:
        """The value is made."""

    def get_member(self, stored: StoredObject, name: str, as_: Form | None) -> Any:
        """The value of a member."""

    def get_members(self, stored: StoredObject, as_: Form | None) -> dict[str, Any]:
        """The values of all members by name."""

    def get_object(self, key: int) -> Any:
        """A handle on an object."""

    def get_fetched(self, stored: StoredObject, key: int) -> Any:
        """The value of another object, got as this one; copied here if it lives elsewhere."""

    def read_private(self, stored: StoredObject) -> Sequence[StoredPart]:
        """The same parts over memory private to this get, copy-on-write."""


Builder = Callable[[Any, "Encoder"], Part]
Resolver = Callable[[StoredPart, "StoredObject"], Any]
Form = type | str
"""What a stored object is asked for as: a type, or a library by its name."""


Known = dict[int, tuple[Any, int]]
"""Values that are objects of the store, with their ids, by ``id(value)``."""


class _Shared(msgspec.Struct, frozen=True, eq=False):
    """A member that is an object already, and what to put if it is not when it is needed."""

    members: dict[str, Member]
    name: str
    value: Any
    known: Known


class Encoder(msgspec.Struct, eq=False):
    """Collects the parts of one object: the root is part 0, nested values follow.

    Made by `Client.put`, and given to the builder.
    A builder calls ``encoder.add(child)`` and keeps the returned index in its descriptor
    or payload; the resolver hands that index to `StoredObject.resolve`.
    """

    registry: Registry
    typename_of: Callable[[int], str] | None = None
    parts: list[Part] = []
    members: dict[str, Member] = {}
    new_id: Callable[[], int] | None = None
    objects: list[NewObject] = []  # to be put first
    shared: list[_Shared] = []  # members that may be gone before the put

    def add(self, value: Any) -> int:
        """Encode ``value`` as a part of its own; return the part's index."""
        parts = self.parts
        index = len(parts)
        parts.append(None)  # type: ignore[arg-type]  # its place, before those of its children
        build = self.registry.builder_for(value)
        part = parts[index] = build(value, self)
        if type(part) is not Part:
            raise InvalidObjectError(
                f"the builder of {_name(type(value))} returned a {_name(type(part))}",
                "a builder returns a vineyard_arrow.Part",
            )
        return index

    def add_part(self, part: Part) -> int:
        """Add a part made by hand; return its index."""
        self.parts.append(part)
        return len(self.parts) - 1

    def add_member(self, name: str, key: int | str) -> None:
        """Make a stored object a member of this one: kept with it, not copied.

        Parameters
        ----------
        name : str
            By which the resolver asks for it: `StoredObject.member`.
        key : ObjectID, int or str
            The member's id, or its printed form.
        """
        if name in self.members:
            raise InvalidObjectError(f"there is a member {name!r} already")
        object_id = ObjectID(key)
        typename = self.typename_of(object_id) if self.typename_of is not None else ""
        self.members[name] = Member(object_id, typename)

    def put_member(self, name: str, value: Any) -> ObjectID:
        """Store ``value`` as an object of its own, and make it a member of this one.

        Both are put in one step, or neither. Returns the id that it is going to have; see
        `add_member`.
        """
        if name in self.members:
            raise InvalidObjectError(f"there is a member {name!r} already")
        if self.new_id is None:
            raise InvalidObjectError("nothing is put here: there are no members")
        return self._put(self.members, name, value)

    def _put(self, members: dict[str, Member], name: str, value: Any) -> ObjectID:
        assert self.new_id is not None
        inner = Encoder(self.registry, self.typename_of, new_id=self.new_id, shared=self.shared)
        inner.add(value)
        object_id = ObjectID(self.new_id())
        self.objects += [*inner.objects, NewObject(object_id, inner.parts, inner.members)]
        members[name] = Member(object_id, inner.parts[0].typename)
        return object_id

    def share_member(self, name: str, value: Any, known: Known) -> None:
        """Make ``value`` a member: the object that it is already, else as `put_member` does.

        Parameters
        ----------
        name : str
        value
            A value that does not change.
        known : dict
            Values that are objects, with their ids, by ``id(value)``. What is put is added;
            it is there once the put is done.
        """
        if id(value) in known:
            try:
                self.add_member(name, known[id(value)][1])
                self.shared.append(_Shared(self.members, name, value, known))
                return
            except ObjectNotFoundError:  # deleted, or of another store
                pass
        known[id(value)] = value, self.put_member(name, value)

    def renew(self) -> bool:
        """Put those shared members that are gone by now as new ones; whether there were any.

        For a put that was refused because members are missing. What is new goes before all else.
        """
        assert self.typename_of is not None
        before, self.objects = self.objects, []
        for each in list(self.shared):
            try:
                self.typename_of(each.members[each.name].id)
            except ObjectNotFoundError:
                self.shared.remove(each)
                new = self._put(each.members, each.name, each.value)
                each.known[id(each.value)] = each.value, new
        renewed = bool(self.objects)
        self.objects += before
        return renewed


_MAX_READINGS = 64  # of each part, on average, in one reading of another
_OURS = "vineyard."  # what the typenames of our resolvers begin with
_OF_OTHERS = "_vineyard_arrow_of_others"  # marks errors that no resolver of ours raised


class StoredObject(msgspec.Struct, eq=False, gc=False):
    """The mapped parts of one stored object, on the way back to a value.

    Attributes
    ----------
    parts : sequence of StoredPart
        The root first.
    id : int
    mode : str
        That of the get, as is ``trusted``.
    uid : int or None
        The user who put the object, None if several did.
    composed_of : dict
        Ids and typenames of the members by name.
    validate : bool
        A resolver is to check that its indices lie within what they point to; Arrow's own data was
        checked already.
    """

    parts: Sequence[StoredPart]
    registry: Registry
    source: Source | None = None
    id: int = 0
    mode: str = "ro"
    trusted: bool | None = None
    uid: int | None = None
    composed_of: dict[str, tuple[int, str]] = {}
    validate: bool = False
    remapped: dict[int, StoredPart] | None = None  # copy-on-write, by identity of the part
    members_trusted: bool = True  # of those that were asked for
    resolving: int = 0
    resolved: int = 0

    def member(self, name: str, as_: Form | None = None) -> Any:
        """The value of a member, got as the object itself was.

        Raises
        ------
        ObjectNotFoundError
            If there is no member of that name, or it was deleted by force.
        """
        if self.source is None:
            raise InvalidObjectError("these parts came from no store: they have no members")
        return self.source.get_member(self, name, as_)

    def members(self, as_: Form | None = None) -> dict[str, Any]:
        """The values of all members by name, in one step: for an object of very many."""
        if self.source is None:
            return {}
        return self.source.get_members(self, as_)

    @property
    def is_trusted(self) -> bool:
        """Whether what the object says may be believed: as the get has it, or by who put it."""
        if self.trusted is None:
            return self.source is None or self.uid == self.source.uid
        return self.trusted

    def check_trusted(self) -> None:
        """To be called before anything in the object is unpickled, which may run any code.

        Raises
        ------
        AccessDeniedError
            If the get trusts nothing, or, where it does not say, if the object was put by a
            process of another user, or another user can write to memory that it lies in.
        """
        if not self.is_trusted:
            maker = "several users" if self.uid is None else f"user {self.uid}"
            raise AccessDeniedError(
                f"{ObjectID(self.id)} holds a pickle made by {maker}, and loading one runs"
                " whatever code it names",
                "if you trust who made it: trusted=True, of get or connect",
            )

    def resolve(self, index: int = 0, as_: Form | None = None) -> Any:
        """Make the value of part ``index``, as it was put or as another type.

        Raises
        ------
        ResolverNotFoundError
            If nobody knows the part's typename, or how to give it as ``as_``.
        InvalidObjectError
            If a resolver of ours finds no sense in it. What another raises comes as it is.
        """
        part = self.parts[index]
        return self._nested(part, as_) if index else self._value(part, as_)

    def _value(self, part: StoredPart, as_: Form | None) -> Any:
        try:
            if as_ is None:
                return self.registry.resolver_for(part.typename)(part, self)
            return self.registry._resolve_as(part, self, as_)
        except (VineyardArrowError, MemoryError, RecursionError, ImportError):
            raise
        except Exception as error:
            # Ours check no more of a description than they need, and trip over the rest of it.
            # Those of others know best what to raise, also for what our values hold of theirs.
            if not part.typename.startswith(_OURS) or hasattr(error, _OF_OTHERS):
                setattr(error, _OF_OTHERS, True)
                raise
            raise InvalidObjectError(
                f"{ObjectID(self.id)} cannot be read as a {part.typename}:"
                f" {type(error).__name__}: {error}",
                "it is damaged, or no value of this kind",
            ) from error

    def _nested(self, part: StoredPart, as_: Form | None) -> Any:
        # Our builders make trees. Parts that refer to each other twice, and these again, would
        # take until the end of time.
        self.resolving += 1
        self.resolved += 1
        try:
            if self.resolved > _MAX_READINGS * len(self.parts):
                raise InvalidObjectError(
                    f"the parts of {ObjectID(self.id)} refer to each other over and over",
                    "it was not put by us",
                )
            return self._value(part, as_)
        finally:
            self.resolving -= 1
            if not self.resolving:
                self.resolved = 0

    def private(self, part: StoredPart) -> StoredPart:
        """``part`` mapped copy-on-write, for values that have no read-only state.

        ``part`` itself comes back if it is writable already, or if nothing can map it
        anew (the object was deleted meanwhile): look at ``writable``, and copy.
        """
        if part.writable or self.source is None:
            return part
        if self.remapped is None:
            try:
                parts = self.source.read_private(self)
            except ObjectNotFoundError:
                return part
            self.remapped = {id(old): new for old, new in zip(self.parts, parts, strict=True)}
        return self.remapped[id(part)]


# Which of our modules holds the builders of a library's types, by top-level package ...
_BUILDER_MODULES = {
    "pyarrow": "arrow",
    "numpy": "numpy",
    "pandas": "pandas",
    "polars": "polars",
    "duckdb": "duckdb",
    "_duckdb": "duckdb",
    "scipy": "scipy",
    "sparse": "sparse",
    "torch": "torch",
    "vineyard_arrow": "object",
    "xarray": "xarray",
    # Modules of ours, loaded with the first such value alone.
    "vineyard_arrow.distributed": "distributed",
    "vineyard_arrow.graph.graph": "graph",
    "vineyard_arrow.graph.edge_cut": "fragments",
    "vineyard_arrow.graph.global_graph": "fragments",
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
    "xarray": "xarray",
    "python": "python",
    "pickle": "python",
}
# Typenames of the two hot kinds and of blobs have no library in them.
_RESOLVER_MODULES |= dict.fromkeys(
    ("table", "record_batch", "chunked_array", "array", "scalar", "schema", "blob"), "arrow"
)
_RESOLVER_MODULES |= dict.fromkeys(("tensor",), "numpy")
_RESOLVER_MODULES |= {"object": "object", "shared": "shared", "graph": "graph"}
_RESOLVER_MODULES |= dict.fromkeys(("fragment", "global_graph"), "fragments")
_RESOLVER_MODULES |= dict.fromkeys(
    ("global_table", "global_dataframe", "global_tensor"), "distributed"
)


# Forms through which any other is reached, and the typename whose resolvers start there.
_HUBS = ((pa.Table, "vineyard.table"), (pa.ChunkedArray, "vineyard.chunked_array"))
# Loaded to tell what can be had, since all of them are installed.
_ENGINES = ("arrow", "numpy", "pandas", "polars")


class _Found(msgspec.Struct, frozen=True, eq=False):
    """Results of earlier searches, true while ``changes`` is what it was."""

    changes: object
    builders: dict[type, Builder]
    resolvers: dict[str, Resolver]


class Registry:
    """Builders by type and resolvers by typename, on top of another registry.

    Parameters
    ----------
    parent : Registry, optional
        Where what is not found here is looked up; the default registry if not given. What
        is registered there later is found too, nothing is copied.

    Examples
    --------
    >>> site = Registry()
    >>> @site.resolver("shop.basket")
    ... def resolve_basket(part, stored):
    ...     return part.table.to_pylist()
    >>> site.resolver_for("shop.basket") is resolve_basket
    True
    """

    # Another one whenever anything was registered anywhere: what was found before is not certain.
    _changes: ClassVar[object] = object()

    def __init__(self, parent: Registry | None = None) -> None:
        self._builders: dict[type, Builder] = {}
        self._protocols: dict[str, Builder] = {}
        self._resolvers: dict[str, Resolver] = {}
        self._forms: dict[str, dict[Form, Resolver]] = {}
        self._chain: tuple[Registry, ...] = (self, *(parent._chain if parent else _base))
        self._found = _Found(None, {}, {})

    def builder(self, *types: type) -> Callable[[Builder], Builder]:
        """Register the decorated function as the builder of ``types`` and subclasses."""

        def register(function: Builder) -> Builder:
            self._builders.update(dict.fromkeys(types, function))
            Registry._changes = object()
            return function

        return register

    def protocol(self, method: str) -> Callable[[Builder], Builder]:
        """Register the builder of values that only their ``method`` tells anything of."""

        def register(function: Builder) -> Builder:
            self._protocols[method] = function
            Registry._changes = object()
            return function

        return register

    def resolver(self, *typenames: str, as_: Form | None = None) -> Callable[[Resolver], Resolver]:
        """Register the decorated function as the resolver of ``typenames``.

        Parameters
        ----------
        *typenames : str
            Exact names.
        as_ : type or str, optional
            Not what `get` returns of itself, but what ``get(as_=...)`` does. The first type
            of a library that is registered for a typename also answers to the library's name.
        """

        def register(function: Resolver) -> Resolver:
            for typename in typenames:
                if as_ is None:
                    self._resolvers[typename] = function
                else:
                    self._forms.setdefault(typename, {})[_checked(as_)] = function
            Registry._changes = object()
            return function

        return register

    def builder_for(self, value: Any) -> Builder:
        """The builder of the first class in the MRO of ``type(value)`` that has one.

        There always is one: that of ``object`` pickles. Before it come the Arrow PyCapsule
        protocol and DLPack.
        """
        cls = type(value)
        known = self._found
        if known.changes is Registry._changes:
            found = known.builders.get(cls)
            if found is not None:
                return found
        return self._find_builder(cls)

    def _find_builder(self, cls: type) -> Builder:
        if _is_foreign(cls) and not any(cls in each._builders for each in self._chain):
            load_plugins(default_registry)
        for base in cls.__mro__:
            home = _BUILDER_MODULES.get(_library(base), "python")
            _load(_BUILDER_MODULES.get(base.__module__, home))
        known = self._known()
        for base in cls.__mro__:
            found = self._protocol_builder(cls) if base is object else None
            for each in self._chain:
                found = found or each._builders.get(base)
            if found is not None:
                known.builders[cls] = found
                return found
        raise AssertionError("types/python.py has a builder of object")

    def _protocol_builder(self, cls: type) -> Builder | None:
        for method in _PROTOCOLS:
            if hasattr(cls, method):
                _load("capsules")
                for each in self._chain:
                    if method in each._protocols:
                        return each._protocols[method]
        return None

    def resolver_for(self, typename: str) -> Resolver:
        """The resolver of ``typename``.

        Raises
        ------
        ResolverNotFoundError
            If none is registered under that exact name.
        """
        known = self._found
        if known.changes is Registry._changes:
            found = known.resolvers.get(typename)
            if found is not None:
                return found
        return self._find_resolver(typename)

    def _find_resolver(self, typename: str) -> Resolver:
        found = self._resolver(typename)
        if found is None:
            _load(_RESOLVER_MODULES.get(_kind(typename)))
            found = self._resolver(typename)
        if found is None:
            load_plugins(default_registry)
            found = self._resolver(typename)
        if found is None:
            raise ResolverNotFoundError(f"no resolver for {typename!r}", self._advice(typename))
        return found

    def _resolver(self, typename: str) -> Resolver | None:
        known = self._known()
        for each in self._chain:
            found = each._resolvers.get(typename)
            if found is not None:
                known.resolvers[typename] = found
                return found
        return None

    def _known(self) -> _Found:
        """What was found since the last change; take it before looking."""
        known = self._found
        if known.changes is not Registry._changes:
            # Replaced, not cleared: another thread may be about to add what it found earlier.
            known = self._found = _Found(Registry._changes, {}, {})
        return known

    def _advice(self, typename: str) -> str:
        package = typename.partition(".")[0]
        names = {name for each in self._chain for name in list(each._resolvers)}
        near = ", ".join(map(repr, difflib.get_close_matches(typename, names)))
        near = near and f"nearest: {near}; "
        if package == "vineyard":
            return f"{near}was it put by another release of vineyard_arrow?"
        return (
            f"{near}register one with @vineyard_arrow.resolver({typename!r}), or import or "
            f"install the package that does, perhaps {package!r}"
        )

    def nearest_builders(self, cls: type) -> str:
        """The end of a hint: types with a builder that are called much like ``cls``."""
        types = {t for each in self._chain for t in list(each._builders)}
        near = difflib.get_close_matches(cls.__name__, {t.__name__ for t in types})
        names = ", ".join(sorted(_name(t) for t in types if t.__name__ in near))
        return f"; nearest with a builder: {names}" if names else ""

    # ---- other forms

    def _resolve_as(self, part: StoredPart, stored: StoredObject, as_: Form) -> Any:
        as_ = _checked(as_)
        typename = part.typename
        own = _RESOLVER_MODULES.get(_kind(typename))
        home = as_ if isinstance(as_, str) else _home(as_)
        _load(own)
        if home in _BUILDER_MODULES.values():
            _load(home)
        # What is stored may be what is asked for: of its own library, or of anybody's.
        maybe_itself = own in (home, "python", None)
        resolve = None
        if own != as_:  # a library's name means first of all what was put
            resolve = self._direct_form(typename, as_)
        if resolve is None and maybe_itself:
            value = self.resolver_for(typename)(part, stored)
            if _fits(value, as_):
                return value
        resolve = resolve or self._form(typename, as_)
        if resolve is None:
            load_plugins(default_registry)
            resolve = self._form(typename, as_)
        if resolve is None:
            stored_as = type(self.resolver_for(typename)(part, stored))
            raise self._no_form(typename, as_, stored_as)
        return resolve(part, stored)

    def _form(self, typename: str, as_: Form) -> Resolver | None:
        """What gives ``typename`` as ``as_``, be it by way of a table or a column."""
        found = self._direct_form(typename, as_)
        if found is not None:
            return found
        for hub, hub_typename in _HUBS:
            there = self._direct_form(typename, hub)
            onward = self._direct_form(hub_typename, as_)
            if there is not None and onward is not None:
                return _by_way_of(hub_typename, there, onward)
        return None

    def _direct_form(self, typename: str, as_: Form) -> Resolver | None:
        for each in self._chain:
            forms = each._forms.get(typename, {})
            if as_ in forms:
                return forms[as_]
            if isinstance(as_, str):
                for form, function in list(forms.items()):
                    if not isinstance(form, str) and _home(form) == as_:
                        return function
        return None

    def _no_form(self, typename: str, as_: Form, stored_as: type) -> ResolverNotFoundError:
        for module in _ENGINES:
            _load(module)
        names = [typename, *(name for hub, name in _HUBS if self._direct_form(typename, hub))]
        forms = {
            form for each in self._chain for name in names for form in each._forms.get(name, ())
        }
        types = {_name(form) for form in forms if isinstance(form, type)} - {_name(stored_as)}
        words = {form if isinstance(form, str) else _home(form) for form in [*forms, stored_as]}
        words &= set(_BUILDER_MODULES.values()) - {"object"}
        known = [*map(repr, sorted(words)), _name(stored_as) + " (as stored)", *sorted(types)]
        hint = f"it can be had as {', '.join(known)}"
        wanted = as_ if isinstance(as_, str) else _home(as_)
        if "vineyard.table" in names and wanted in ("numpy", "torch"):
            hint += "; a column can be had as numpy, and integrations.torch.Dataset takes a table"
        elif "vineyard.chunked_array" in names and wanted == "torch":
            hint += "; torch.from_dlpack takes a handle of numbers, of get_object"
        elif typename.startswith("vineyard.global_"):
            hint = f"client.concat makes one object of its partitions; {hint}"
        return ResolverNotFoundError(f"no resolver gives {typename!r} as {_form_name(as_)}", hint)


def _by_way_of(typename: str, there: Resolver, onward: Resolver) -> Resolver:
    def resolve(part: StoredPart, stored: StoredObject) -> Any:
        value = there(part, stored)
        table = value if isinstance(value, pa.Table) else pa.table([value], ["data"])
        return onward(StoredPart(typename, {}, table, part.writable), stored)

    return resolve


# ---- names and candidates


def _library(cls: type) -> str:
    return cls.__module__.partition(".")[0]


def _home(cls: type) -> str:
    """Name of the library of ``cls``, as ``as_=`` has it."""
    library = _library(cls)
    return _BUILDER_MODULES.get(cls.__module__) or _BUILDER_MODULES.get(library, library)


def _kind(typename: str) -> str:
    return (typename + ".").split(".")[1] if typename.startswith("vineyard.") else ""


def _is_foreign(cls: type) -> bool:
    library = _library(cls)
    return library not in _BUILDER_MODULES and library not in sys.stdlib_module_names


def _fits(value: Any, as_: Form) -> bool:
    return _home(type(value)) == as_ if isinstance(as_, str) else isinstance(value, as_)


def _checked(as_: Form) -> Form:
    if isinstance(as_, str):
        return _BUILDER_MODULES.get(as_, as_)
    if isinstance(as_, type):
        return as_
    raise InvalidObjectError(
        f"as_={as_!r} is neither a type nor the name of a library",
        "for example as_=polars.DataFrame or as_='polars'",
    )


def _name(cls: type) -> str:
    """What it is called where it is found first: by the outermost package that has it."""
    module = ""
    for step in cls.__module__.split("."):
        module = f"{module}.{step}".lstrip(".")
        if getattr(sys.modules.get(module), cls.__qualname__, None) is cls:
            return f"{module}.{cls.__qualname__}"
    return f"{cls.__module__}.{cls.__qualname__}"


def _form_name(as_: Form) -> str:
    return repr(as_) if isinstance(as_, str) else _name(as_)


# ---- loading


def _load(module: str | None) -> None:
    if module is None:
        return
    try:
        importlib.import_module(f"{__package__}.types.{module}")
    except ModuleNotFoundError as error:
        library = (error.name or module).partition(".")[0]
        raise ResolverNotFoundError(
            f"{error.name} is needed for this, but it is not installed", f"pip install {library}"
        ) from error


# ---- the registries there are

_base: tuple[Registry, ...] = ()
builtin_registry = Registry()
_base = builtin_registry._chain
default_registry = Registry()
_base = default_registry._chain

builder = default_registry.builder
resolver = default_registry.resolver
