"""Registries for a block of code: nestable, by thread and by asyncio task.

A client asks `current_registry` at every put and get; outside of contexts that is its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar

from .registry import Builder, Registry, Resolver

__all__ = ["builder_context", "current_registry", "resolver_context"]


class _Stack:
    """The registries of the contexts around a call, the innermost first."""

    __slots__ = ("_over", "layers")

    def __init__(self, layers: tuple[Registry, ...]) -> None:
        self.layers = layers
        self._over: dict[Registry, Registry] = {}

    def over(self, registry: Registry) -> Registry:
        found = self._over.get(registry)
        if found is None:
            found = self._over[registry] = Registry(registry)
            found._chain = (*self.layers, *registry._chain)
        return found


_stack: ContextVar[_Stack | None] = ContextVar("vineyard_arrow_contexts", default=None)


def current_registry(registry: Registry) -> Registry:
    """``registry`` as seen from here: under those of the contexts around this call."""
    stack = _stack.get()
    return registry if stack is None else stack.over(registry)


@contextmanager
def _context(layer: Registry) -> Iterator[Registry]:
    outer = _stack.get()
    token = _stack.set(_Stack((layer, *(outer.layers if outer else ()))))
    try:
        yield layer
    finally:
        _stack.reset(token)


def builder_context(
    builders: Mapping[type, Builder] | None = None,
) -> AbstractContextManager[Registry]:
    """Use other builders within a ``with`` block.

    Contexts nest, the inner one first; they hold for the thread or asyncio task that is in
    the block (and tasks it makes there), whichever client it uses.

    Parameters
    ----------
    builders : dict of type to builder, optional

    Yields
    ------
    Registry
        Register more on it: ``@registry.builder(SomeType)``, ``@registry.resolver("name")``.
    """
    layer = Registry()
    layer._builders.update(builders or {})
    return _context(layer)


def resolver_context(
    resolvers: Mapping[str, Resolver] | None = None,
) -> AbstractContextManager[Registry]:
    """Use other resolvers within a ``with`` block; see `builder_context`.

    Parameters
    ----------
    resolvers : dict of typename to resolver, optional

    Yields
    ------
    Registry
    """
    layer = Registry()
    layer._resolvers.update(resolvers or {})
    return _context(layer)
