"""How the bytes of a migration travel: the interface of transports, and their names.

A transport is a reliable, ordered row of bytes between two processes, no more: what is said
over it, and how, is `protocol`'s. It knows the memory that bytes come from and go to, so one
that registers memory with a network card can.

Other packages bring transports by entry points of the group `GROUP`: modules that call
`transport` as they are imported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Protocol, TypeVar

from ..errors import ConfigError, ConnectionLostError

GROUP = "vineyard_arrow.transports"


class DroppedError(ConnectionLostError):
    """A connection broke off. The sender makes a new one, and goes on where it was."""


class Channel(Protocol):
    """A connection. Used by one thread; every call has the deadline it was made with.

    Raises `DroppedError` when the connection is gone, and `DeadlineExceededError`.
    """

    def send(self, pieces: Sequence[memoryview | bytes]) -> None:
        """Send all of these, in order. Their memory stays as it is."""

    def receive_into(self, targets: Sequence[memoryview]) -> int:
        """Fill ``targets``, in order, with what is there, at least a byte; 0 at the end."""

    def set_timeout(self, timeout_s: float) -> None:
        """Change the deadline of each call."""

    def close(self) -> None:
        """End it. What was sent is still delivered."""


class Listener(Protocol):
    """Where a receiver awaits its sender."""

    address: str

    def accept(self, timeout_s: float) -> Channel:
        """The next connection; its calls have the same deadline."""

    def close(self) -> None:
        """Take no more."""


class Transport(Protocol):
    """What `transport` registers: a class, of which each process makes one."""

    def listen(self, host: str) -> Listener:
        """Await senders on an address of ``host``, free to choose any port."""

    def connect(self, address: str, timeout_s: float) -> Channel:
        """Connect to a `Listener` by its address.

        Raises ConnectionLostError if nobody listens there.
        """


_T = TypeVar("_T", bound=Callable[[], Transport])
_transports: dict[str, Callable[[], Transport]] = {}
_OURS = {"tcp": ".tcp", "flight": ".flight"}
_plugins_loaded = False


def transport(name: str) -> Callable[[_T], _T]:
    """Register a class as the transport ``name``.

    Examples
    --------
    >>> @transport("null")
    ... class NullTransport:
    ...     pass
    """

    def register(cls: _T) -> _T:
        _transports[name] = cls
        return cls

    return register


def find_transport(name: str) -> Transport:
    """The transport of this name, made.

    Raises
    ------
    ConfigError
        If there is none.
    """
    if name not in _transports and name in _OURS:
        import_module(_OURS[name], __package__)
    if name not in _transports:
        _load_plugins()
    if name not in _transports:
        known = ", ".join(sorted({*_OURS, *_transports}))
        raise ConfigError(f"there is no transport {name!r}", f"there are {known}")
    return _transports[name]()


def _load_plugins() -> None:
    global _plugins_loaded
    if _plugins_loaded:
        return
    _plugins_loaded = True
    from importlib.metadata import entry_points  # 10 ms

    for entry in entry_points(group=GROUP):
        entry.load()
