"""The fallback: pickle, with every large thing inside it kept out of the stream.

A part of typename ``vineyard.pickle``: its first batch is the stream (protocol 5), the
others are the stream's out-of-band buffers in order. Objects anywhere in the value that
have a builder of their own (Arrow's, arrays, frames, tensors) become parts of their own;
in the stream each is a call of `nested_part` with the part's index.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterator
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from ..errors import BuilderNotFoundError, InvalidObjectError, VineyardArrowError
from ..registry import (
    Builder,
    Encoder,
    Part,
    Registry,
    StoredObject,
    StoredPart,
    default_registry,
)
from .memory import BYTES, byte_batch, data_buffers, memory_of
from .plain import INLINE_NBYTES

__all__ = [
    "PICKLE",
    "becomes_part",
    "changes_class",
    "kept_in_pickles",
    "nested_part",
    "path_to",
    "pickle_part",
    "refused",
    "too_deep",
    "unpicklable",
    "unpickle_part",
]  # fmt: skip

PICKLE = "vineyard.pickle"
_IN_STREAM = (type, FunctionType, BuiltinFunctionType)
_MAX_SEARCH_DEPTH = 20
# Builders whose values gain nothing from a part of their own: the generic one, schemas.
_kept: set[Builder] = set()
# Builders whose values come back as something else.
_changing: set[Builder] = set()


def kept_in_pickles(builder: Builder) -> Builder:
    """Decorate a builder of small values, that stay in the stream when inside a pickle."""
    _kept.add(builder)
    return builder


def changes_class(builder: Builder) -> Builder:
    """Decorate a builder whose values come back as another class.

    Inside a pickle they are left as they are: what holds them there counts on their class.
    """
    _changing.add(builder)
    return builder


def becomes_part(value: Any, encoder: Encoder) -> bool:
    """Whether ``value``, met inside another, is stored as a part of its own."""
    return encoder.registry.builder_for(value) not in _kept


def nested_part(index: int) -> Any:
    """Stand for part ``index`` in a pickle stream; only `unpickle_part` can resolve it."""
    raise InvalidObjectError(
        f"part {index} of a stored object was unpickled outside of its store",
        "read it by client.get",
    )


def _is_part_of_pickle(value: Any, registry: Registry) -> bool:
    builder = registry.builder_for(value)
    return builder not in _kept and builder not in _changing


class _Pickler(pickle.Pickler):
    def __init__(self, root: Any, encoder: Encoder, to: io.BytesIO, buffers: list[Any]) -> None:
        super().__init__(to, protocol=5, buffer_callback=self._take)
        self._root = root
        self._encoder = encoder
        self._buffers = buffers
        self._by_type: dict[type, bool] = {}

    def _take(self, buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < INLINE_NBYTES:
            return True
        self._buffers.append(raw)
        return False

    def reducer_override(self, obj: Any) -> Any:
        # The root is here because its own builder cannot store it otherwise.
        if obj is self._root or isinstance(obj, _IN_STREAM):
            return NotImplemented
        kind = type(obj)
        known = self._by_type.get(kind)
        if known is None:
            known = self._by_type[kind] = _is_part_of_pickle(obj, self._encoder.registry)
        if not known or (kind.__module__ == "numpy" and obj.nbytes < INLINE_NBYTES):
            return NotImplemented
        return nested_part, (self._encoder.add(obj),)


def pickle_part(value: Any, encoder: Encoder, nested: bool = True) -> Part:
    """Pickle ``value`` into a part.

    Parameters
    ----------
    value, encoder
        As for any builder.
    nested : bool
        Whether things inside become parts of their own.

    Raises
    ------
    InvalidObjectError
        If it, or something in it, cannot be pickled.
    """
    stream = io.BytesIO()
    buffers: list[Any] = []
    try:
        if nested:
            _Pickler(value, encoder, stream, buffers).dump(value)
        else:
            pickle.Pickler(stream, protocol=5).dump(value)
    except VineyardArrowError:
        raise
    except Exception as error:  # a __reduce__ may raise anything
        raise _refusal(value, error, encoder) from error
    return Part(PICKLE, BYTES, [byte_batch(data) for data in (stream.getbuffer(), *buffers)])


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: Any, buffers: list[Any], resolve: Callable[[int], Any]) -> None:
        super().__init__(stream, buffers=buffers)
        self._resolve = resolve

    def find_class(self, module: str, name: str) -> Any:
        if name == "nested_part" and module == __name__:
            return self._resolve
        return super().find_class(module, name)


def unpickle_part(part: StoredPart, stored: StoredObject) -> Any:
    """The value that `pickle_part` stored; AccessDeniedError if its maker is not trusted."""
    stored.check_trusted()
    stream, *buffers = data_buffers(part.table.column(0))
    memory = [memory_of(buffer, part.writable) for buffer in buffers]
    try:
        return _Unpickler(io.BytesIO(memoryview(stream)), memory, stored.resolve).load()
    except (ImportError, AttributeError) as error:
        raise InvalidObjectError(
            f"cannot make the stored object: {error}",
            "its class must be importable here under the name it had where it was put",
        ) from error


def unpicklable(value: Any, depth: int = 0) -> tuple[str, Any, Exception] | None:
    """What in ``value`` cannot be pickled: its path, itself, and why. Slow; for errors only."""
    try:
        _Probe(io.BytesIO(), protocol=5).dump(value)
    except Exception as error:  # a __reduce__ may raise anything
        if depth < _MAX_SEARCH_DEPTH:
            for step, child in _children(value):
                found = unpicklable(child, depth + 1)
                if found is not None:
                    return step + found[0], found[1], found[2]
        return "", value, error
    return None


class _Probe(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, _IN_STREAM) or not _is_part_of_pickle(obj, default_registry):
            return NotImplemented
        return nested_part, (0,)


def path_to(value: Any, target: Any, depth: int = 0) -> str | None:
    """How to get from ``value`` to ``target`` inside it, as ``[2]['key'].name``."""
    if value is target:
        return ""
    if depth < _MAX_SEARCH_DEPTH:
        for step, child in _children(value):
            path = path_to(child, target, depth + 1)
            if path is not None:
                return step + path
    return None


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((f"[{key!r}]", item) for key, item in value.items())
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from ((f"[{i}]", item) for i, item in enumerate(value))
    elif not isinstance(value, (*_IN_STREAM, ModuleType)):
        yield from ((f".{name}", item) for name, item in getattr(value, "__dict__", {}).items())


def _refusal(value: Any, error: Exception, encoder: Encoder) -> InvalidObjectError:
    if isinstance(error, RecursionError):
        return too_deep(value)
    path, culprit, why = unpicklable(value) or ("", value, error)
    return refused(path, culprit, why, encoder)


def too_deep(value: Any) -> InvalidObjectError:
    """The error for a value at which Python's recursion limit was met."""
    return InvalidObjectError(
        f"a {_name(value)} nests too deeply to be stored, or contains itself",
        "flatten it, or raise sys.setrecursionlimit",
    )


def refused(path: str, culprit: Any, why: Exception, encoder: Encoder) -> BuilderNotFoundError:
    """The error for a ``culprit`` that pickle refuses, found at ``path`` in the value."""
    where = f" (at value{path})" if path else ""
    return BuilderNotFoundError(
        f"a {_name(culprit)} cannot be stored{where}: {why}",
        f"leave it out, or register a builder and a resolver for {_name(culprit)}"
        + encoder.registry.nearest_builders(type(culprit)),
    )


def _name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
