"""One connection as the service sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .errors import VineyardArrowError
from .ipc.memory import Writer


class NoReply(Exception):
    """The reply comes later."""


@dataclass(slots=True, eq=False)
class Session:
    """One connection. ``writer`` is None until it says hello (a waiting one never does)."""

    pid: int
    uid: int
    send: Callable[[int, Any, list[int]], None]  # number, reply, descriptors
    refuse: Callable[[VineyardArrowError], None]  # say why, and serve it no more
    number: int = 0
    program: str = ""
    writer: Writer | None = None
    event_fd: int = -1
    table_fd: int = -1
    ids: list[range] = field(default_factory=list)
    heard: bool = False  # its event descriptor is watched
    asking: bool = False  # waits for credit
    vouched: bool = True  # its puts are its user's word
    refused: bool = False  # left a bad put: its outbox is looked at no more
