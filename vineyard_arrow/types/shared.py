"""Shared classes: dataclasses whose objects are stored by their fields, without pickling.

`shared` describes a class by its annotations (`codegen.hints`), and registers a builder, a
resolver and an Arrow extension type under its typename. The layout is in `codegen.model`.

Evolution
---------
An object keeps the version it was written with. A class reads objects of its own version and
of all earlier ones; a later one is refused, so a version is to be raised when earlier classes
would misread what is written from now on. Fields are found by name:

- one that was added needs a default, and gets it where the object has none;
- one that was removed is not looked at;
- one that was renamed says so, by ``field(metadata={"renamed_from": "old name"})``;
- one whose type changed is read if every old value is one of the new type, exactly
  (`shared_parts.widens`; ``T`` to ``T | None``; Array to ChunkedArray, RecordBatch to Table), or
  if both are stored alike (a list and a tuple, an Enum and str); else it is an error that has
  both types.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
import threading
import typing
from collections.abc import Callable
from typing import Any, TypeVar, overload

import pyarrow as pa

from ..codegen.hints import UnsupportedError, check_class, renamed_from, type_of_hint
from ..codegen.model import Class, Field, struct_of, text_of
from ..errors import AnnotationError, InvalidObjectError
from ..registry import (
    Encoder,
    Part,
    StoredObject,
    StoredPart,
    builtin_registry,
    default_registry,
)
from .shared_parts import MEMBER, MismatchError
from .shared_readers import Reader, reader_of
from .shared_type import OBJECT, SharedType, register_type, root_of
from .shared_writers import Writer, writer_of

__all__ = ["SharedClass", "SharedType", "shared", "shared_class"]

T = TypeVar("T")
_MARK = "__vineyard_shared__"
_MAX_PLANS = 64
_classes: dict[str, SharedClass] = {}
_lock = threading.RLock()  # of what is described at its first use, perhaps by two threads


class SharedClass:
    """What `shared` made of a class: its model, extension type, schema, builder and resolver."""

    def __init__(self, cls: type, typename: str, version: int) -> None:
        self.cls = cls
        self.typename = typename
        self.version = version
        self._model: Class | None = None
        self._plans: dict[SharedType, _Plan] = {}

    @property
    def model(self) -> Class:
        """The class's description.

        Raises
        ------
        AnnotationError
            If a field has a type that none can have, or that is not defined.
        """
        if self._model is None:
            try:
                with _lock:
                    self._describe()
            except NameError as error:
                raise AnnotationError(
                    f"the annotations of {self.cls.__qualname__} cannot be evaluated: {error}",
                    "define or import it in the module, not in a function or under TYPE_CHECKING",
                ) from None
        assert self._model is not None
        return self._model

    @property
    def type(self) -> SharedType:
        """The extension type, registered with pyarrow."""
        _ = self.model
        return self._type

    @property
    def schema(self) -> pa.Schema:
        """The schema of an object's root: one column, `type`."""
        _ = self.model
        return self._schema

    def _describe(self) -> None:
        cls = self.cls
        try:
            hints = typing.get_type_hints(cls, None, _names_near(cls), include_extras=True)
        except NameError:
            raise
        except Exception as error:
            raise AnnotationError(
                f"the annotations of {cls.__qualname__} cannot be evaluated: {error}"
            ) from error
        stored = [field for field in dataclasses.fields(cls) if field.init]
        _check_init(cls, {field.name for field in stored})
        model = Class(
            cls.__name__,
            self.typename,
            self.version,
            tuple(self._field(field, hints[field.name]) for field in stored),
        )
        _check(cls, model)
        self._type = SharedType(
            struct_of(model.fields),
            self.typename,
            self.version,
            {field.name: text_of(field.type) for field in model.fields},
        )
        self._schema = pa.schema([pa.field(OBJECT, self._type, nullable=False)])
        self._writers: list[tuple[str, Writer]] = [
            (field.name, writer_of(field.type, field.name, _find)) for field in model.fields
        ]
        register_type(self._type, self.typename in _classes)
        self._model = model

    def _field(self, field: dataclasses.Field[Any], hint: Any) -> Field:
        try:
            return Field(
                field.name,
                type_of_hint(hint, _shared_of),
                required=field.default is dataclasses.MISSING
                and field.default_factory is dataclasses.MISSING,
                renamed_from=renamed_from(field.metadata.get("renamed_from", ())),
                kw_only=bool(field.kw_only),
            )
        except UnsupportedError as error:
            raise AnnotationError(
                f"{self.cls.__qualname__}.{field.name}: {error.message}", error.instead
            ) from None

    # ---- the builder

    def build(self, value: Any, encoder: Encoder) -> Part:
        """The root part of an object; the rest is added to the encoder."""
        cls = self.cls
        if type(value) is not cls:
            raise InvalidObjectError(
                f"a {type(value).__qualname__} is not stored as the {cls.__qualname__} that it is "
                "derived from",
                "decorate it with @vineyard_arrow.shared too",
            )
        _ = self.model
        row = {}
        for name, write in self._writers:
            try:
                row[name] = write(getattr(value, name), encoder)
            except MismatchError as error:
                absent = f"declare it {error.wanted} | None" if error.found == "None" else None
                raise InvalidObjectError(
                    f"{cls.__qualname__}.{name}{error.path}: found {error.found}, "
                    f"wanted {error.wanted}",
                    error.hint or absent,
                ) from None
            except RecursionError as error:
                raise InvalidObjectError(
                    f"a {cls.__qualname__} contains itself, or nests too deeply",
                    "shared objects make a tree: leave a reference out, or flatten it",
                ) from error
        column = pa.ExtensionArray.from_storage(self._type, self._cells(row))
        return Part(
            self.typename,
            self._schema,
            [pa.RecordBatch.from_arrays([column], schema=self._schema)],
        )

    def _cells(self, row: dict[str, Any]) -> pa.StructArray:
        storage = self._type.storage_type
        try:
            return pa.array([row], storage)
        except (pa.ArrowException, UnicodeError, OverflowError):
            for field in storage:  # which one is it?
                try:
                    pa.array([row[field.name]], field.type)
                except (pa.ArrowException, UnicodeError, OverflowError) as error:
                    raise InvalidObjectError(
                        f"{self.cls.__qualname__}.{field.name} cannot be stored: {error}"
                    ) from None
            raise

    # ---- the resolver

    def resolve(self, part: StoredPart, stored: StoredObject) -> Any:
        """The object, over mapped memory."""
        _ = self.model
        type_, cells = root_of(part)
        plan = self._plans.get(type_)
        if plan is None:
            plan = self._plan(type_)
            if len(self._plans) >= _MAX_PLANS:
                self._plans.clear()
            self._plans[type_] = plan
        row = cells[0].as_py(maps_as_pydicts="strict")
        values = {}
        for name, stored_name, read in plan:
            try:
                values[name] = read(row[stored_name], stored)
            except MismatchError as error:
                raise self._misread(name + error.path, type_, error) from None
            except RecursionError as error:
                raise InvalidObjectError(
                    f"a {self.typename} nests too deeply to be read"
                ) from error
        return self.cls(**values)

    def _plan(self, type_: SharedType) -> _Plan:
        """How objects written as ``type_`` are read: field, its name there, reader."""
        version = type_.version
        if version > self.version:
            raise InvalidObjectError(
                f"a {self.typename} of version {version}, and this class is of version "
                f"{self.version}",
                "use the class that wrote it, or a later one",
            )
        there = {field.name: field.type for field in type_.storage_type}
        plan = []
        for field in self.model.fields:
            name = next((n for n in (field.name, *field.renamed_from) if n in there), None)
            if name is None:
                if field.required:
                    raise InvalidObjectError(
                        f"{self.cls.__qualname__}.{field.name}: an object of version {version} "
                        "has no such field, and the field no default",
                        "give it one, or say what it was called: "
                        'field(metadata={"renamed_from": ...})',
                    )
                continue
            try:
                plan.append((field.name, name, reader_of(field.type, there[name], _find)))
            except MismatchError as error:
                error.found = type_.fields.get(name, error.found)
                error.wanted = text_of(field.type)
                raise self._misread(field.name, type_, error) from None
        return plan

    def _misread(self, where: str, type_: SharedType, error: MismatchError) -> InvalidObjectError:
        return InvalidObjectError(
            f"{self.cls.__qualname__}.{where}: found {error.found} in an object of version "
            f"{type_.version}, wanted {error.wanted}",
            error.hint or "a type may only be widened: give the field another name, and a default",
        )


_Plan = list[tuple[str, str, Reader]]


@builtin_registry.resolver(MEMBER)
def resolve_member(part: StoredPart, stored: StoredObject) -> Any:
    """What was given by its id."""
    return stored.member(part.params["member"])


# ---- the decorator


@overload
def shared(cls: type[T], /) -> type[T]: ...
@overload
def shared(*, typename: str | None = None, version: int = 1) -> Callable[[type[T]], type[T]]: ...
def shared(cls: Any = None, /, *, typename: str | None = None, version: int = 1) -> Any:
    """Make a dataclass a shared class: stored by its fields, read in any process and language.

    Its objects are put and got like any value, alone or inside others. Arrays, tables and
    frames lie in the store as they would by themselves, not copied by a get; nothing is
    pickled. Fields are checked against their annotations by a put. A get calls the class, so
    ``__post_init__`` runs; fields with ``init=False`` are not stored.

    Parameters
    ----------
    cls : type
        A dataclass; frozen, with slots, derived, as you like. docs/codegen.md has the types
        that fields can be of.
    typename : str, optional
        What its objects are called in the store; by default the class's module and name.
    version : int
        To be raised when classes of earlier versions would misread new objects.

    Raises
    ------
    AnnotationError
        If a field cannot be of its type; the hint says what to write instead. (For
        annotations that refer to what is not defined yet, at the first use.)

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @shared(typename="fleet.track", version=1)
    ... @dataclass(frozen=True)
    ... class Track:
    ...     vehicle: str
    ...     points: pa.Table
    >>> shared_class(Track).type.storage_type
    StructType(struct<vehicle: string not null, points: struct<part: uint32 not null> not null>)
    """
    if cls is None:
        return lambda cls: _share(cls, typename, version)
    return _share(cls, typename, version)


def _share(cls: Any, typename: str | None, version: int) -> Any:
    if not isinstance(cls, type) or "__dataclass_fields__" not in vars(cls):
        raise AnnotationError(
            f"{getattr(cls, '__qualname__', cls)} is not a dataclass",
            "write @vineyard_arrow.shared above @dataclass",
        )
    typename = f"{cls.__module__}.{cls.__qualname__}" if typename is None else typename
    _check(cls, Class(cls.__name__, typename, version, ()))
    known = _classes.get(typename)
    if known is not None and _path_of(known.cls) != _path_of(cls):
        raise AnnotationError(
            f"{typename!r} is the typename of {'.'.join(_path_of(known.cls))} already",
            "give another one: @vineyard_arrow.shared(typename=...)",
        )
    made = SharedClass(cls, typename, version)
    setattr(cls, _MARK, made)
    try:
        made._describe()
    except NameError:
        pass  # of a class further down: at its first use it will be there
    except BaseException:
        delattr(cls, _MARK)
        raise
    _classes[typename] = made
    default_registry.builder(cls)(made.build)
    default_registry.resolver(typename)(made.resolve)
    return cls


def shared_class(cls: type) -> SharedClass:
    """What `shared` made of ``cls``; TypeError if it is not a shared class itself."""
    found = vars(cls).get(_MARK)
    if not isinstance(found, SharedClass):
        raise TypeError(f"{cls.__qualname__} is not a shared class")
    return found


def _path_of(cls: type) -> tuple[str, str]:
    return cls.__module__, cls.__qualname__


def _shared_of(cls: type) -> tuple[str, str] | None:
    made = vars(cls).get(_MARK)
    return (made.typename, cls.__name__) if isinstance(made, SharedClass) else None


def _find(typename: str) -> type | None:
    made = _classes.get(typename)
    return None if made is None else made.cls


def _names_near(cls: type) -> dict[str, Any]:
    """Names that its annotations may use though its module does not have them (yet)."""
    module = vars(sys.modules.get(cls.__module__, sys))
    near = (made.cls for made in _classes.values() if made.cls.__module__ == cls.__module__)
    return {c.__name__: c for c in near if c.__name__ not in module} | {cls.__name__: cls}


def _check(cls: type, model: Class) -> None:
    try:
        check_class(model)
    except UnsupportedError as error:
        raise AnnotationError(f"{cls.__qualname__}: {error.message}", error.instead) from None


def _check_init(cls: type, names: set[str]) -> None:
    parameters = list(inspect.signature(cls).parameters.values())
    taken = {parameter.name for parameter in parameters}
    for parameter in parameters:
        if parameter.name not in names and parameter.default is parameter.empty:
            raise AnnotationError(
                f"{cls.__qualname__} takes {parameter.name!r}, which is no field",
                "give it a default, or make it a field: a get calls the class with its fields",
            )
    if not names <= taken:
        raise AnnotationError(
            f"{cls.__qualname__} does not take {', '.join(sorted(names - taken))}",
            "leave __init__ to @dataclass: a get calls the class with its fields",
        )
