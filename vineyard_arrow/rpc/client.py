"""The client of a store that is reached over TCP: `Client`, over another store."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, cast

from ..client import Client, Key
from ..config import Keys, RemoteConfig, client_config, remote_config
from ..errors import ConfigError, ObjectNotFoundError
from ..ipc.process import attach
from ..registry import Registry
from ..store import Raw
from ..streams import StreamReader, StreamWriter
from .remote import Remote
from .streams import RemoteWriter, open_remote_stream


class RemoteClient(Client):
    """A connection to a store elsewhere; made by `vineyard_arrow.connect`.

    As `Client`, but for what shared memory is there for: values are copied, once, to memory of
    this process, and `memory_pool` is the process's own.
    """

    def _read_named(self, key: Key, mode: str) -> tuple[int, Raw] | None:
        if not isinstance(key, str):
            return None
        try:
            return cast(Remote, self._a).read_named(key, mode)
        except ObjectNotFoundError:
            return None

    def _make_writer(self, schema: Any, **options: Any) -> StreamWriter:
        return RemoteWriter(cast(Remote, self._a), schema, **options)

    def _make_reader(
        self, key: Key, timeout_s: float | None, batch_timeout_s: float | None
    ) -> StreamReader:
        return open_remote_stream(cast(Remote, self._a), key, timeout_s, batch_timeout_s)


def connect_remote(
    socket: Any,
    rpc: Any,
    registry: Registry,
    trusted: bool | None,
    **options: Any,
) -> Client:
    """Connect to the store at address ``rpc``; or by ``socket``, if one is given and serves.

    ``options`` are those of `config.RemoteConfig`.
    """
    config: RemoteConfig = remote_config(address=rpc, **options)
    keys = Keys(config.token, config.tls_root_certs)
    if socket is not None:
        local = client_config(socket=socket, timeout_s=config.timeout_s, autostart=False)
        if Path(local.socket).exists():
            with contextlib.suppress(ConfigError):  # nobody listens there
                return Client(attach(local), registry, trusted, keys)
    return RemoteClient(Remote(config), registry, trusted, keys)
