"""Plain Python values by the form of `plain`, everything else by `pickling`.

The plain form also carries the descriptions of pandas objects and object arrays
(`value_part`, `value_of`), under typenames of their own.
"""

from __future__ import annotations

from typing import Any

from ..errors import BuilderNotFoundError, InvalidObjectError, VineyardArrowError
from ..registry import Encoder, Part, StoredObject, StoredPart, builtin_registry
from .memory import BYTES, byte_batch, data_buffer
from .pickling import (
    PICKLE,
    becomes_part,
    kept_in_pickles,
    path_to,
    pickle_part,
    refused,
    too_deep,
    unpicklable,
    unpickle_part,
)
from .plain import VERSION, NotPlainError, Reader, Writer, packb, unpackb

__all__ = ["VALUE", "build_python", "value_of", "value_part"]

VALUE = "vineyard.python.value"


@builtin_registry.builder(object)
@kept_in_pickles
def build_python(value: Any, encoder: Encoder) -> Part:
    """Any value: plain if its exact type is, else pickled."""
    try:
        return value_part(VALUE, value, encoder)
    except NotPlainError:
        return pickle_part(value, encoder)


def value_part(
    typename: str, value: Any, encoder: Encoder, params: dict[str, Any] | None = None
) -> Part:
    """Store ``value`` in the plain form as a part of ``typename``.

    Raises
    ------
    NotPlainError
        If the value contains itself or nests too deeply; nothing is added then.
    InvalidObjectError
        If something in it cannot be stored.
    """
    try:
        writer, tree = _write(value, encoder, careful=False)
    except (OverflowError, UnicodeEncodeError):
        writer, tree = _write(value, encoder, careful=True)
    if writer.pickles and writer.pickles[0] is value:
        return pickle_part(value, encoder)
    # A way through the description of an array or a frame would tell its user nothing.
    shown = value if typename == VALUE else None
    children = [_add(shown, child, encoder) for child in writer.children]
    pickles = None
    if writer.pickles:
        pickles = encoder.add_part(_pickles(shown, writer.pickles, encoder))
    # msgpack of [VERSION, tree, children, pickles]
    body = b"".join((_HEAD, tree, packb(children), packb(pickles)))
    return Part(typename, BYTES, [byte_batch(body)], params or {})


_HEAD = bytes([0x94, VERSION])


def _write(value: Any, encoder: Encoder, careful: bool) -> tuple[Writer, bytes]:
    writer = Writer(lambda leaf: becomes_part(leaf, encoder), careful)
    return writer, packb(writer.write(value))


def _add(value: Any, child: Any, encoder: Encoder) -> int:
    try:
        return encoder.add(child)
    except RecursionError as error:
        raise too_deep(child) from error
    except VineyardArrowError as error:
        path = path_to(value, child)
        if not path or isinstance(error.__cause__, RecursionError):
            raise
        kind = (
            BuilderNotFoundError if isinstance(error, BuilderNotFoundError) else InvalidObjectError
        )
        raise kind(f"value{path}: {error.message}", error.hint) from error


def _pickles(value: Any, leaves: list[Any], encoder: Encoder) -> Part:
    try:
        return pickle_part(leaves, encoder)
    except InvalidObjectError:
        for leaf in leaves:
            found = unpicklable(leaf)
            if found is not None:
                path, culprit, why = found
                raise refused((path_to(value, leaf) or "") + path, culprit, why, encoder) from why
        raise


@builtin_registry.resolver(VALUE)
def value_of(part: StoredPart, stored: StoredObject) -> Any:
    """The value that `value_part` stored."""
    version, tree, parts, pickles = unpackb(data_buffer(part.table.column(0)))
    if version != VERSION:
        raise InvalidObjectError(
            f"a {part.typename} of format {version}, this is format {VERSION}",
            "use the version of vineyard_arrow that wrote it",
        )
    if not parts and pickles is None:
        return Reader(_no_part, _no_part, part.writable).read(tree)
    cache: dict[int, Any] = {}

    def resolve(place: int) -> Any:
        if place not in cache:
            cache[place] = stored.resolve(parts[place])
        return cache[place]

    def leaves() -> Any:
        if -1 not in cache:
            cache[-1] = stored.resolve(pickles)
        return cache[-1]

    return Reader(resolve, leaves, part.writable).read(tree)


def _no_part(*_: int) -> Any:
    raise InvalidObjectError("the value refers to parts that the object does not have")


@builtin_registry.resolver(PICKLE)
def resolve_pickle(part: StoredPart, stored: StoredObject) -> Any:
    """A pickled value."""
    return unpickle_part(part, stored)
