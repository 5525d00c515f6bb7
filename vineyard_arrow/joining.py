"""Joins the cluster that the settings of a daemon name, or makes one of this instance alone.

The only place that imports the etcd backend, and with it grpc, and only for an etcd.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

from . import __version__
from .cluster import Cluster
from .config import DaemonConfig
from .errors import MetadataUnavailableError
from .metadata.records import InstanceRecord, Layout

if TYPE_CHECKING:
    from .metadata.backend import Backend
    from .metadata.etcd.client import EtcdAddress

log = logging.getLogger("vineyard_arrow.cluster")
_REACH = (
    "see that etcd serves there and has a leader: etcdctl endpoint health;"
    " one with TLS wants --meta-ca-file, and maybe --meta-cert-file with --meta-key-file"
)
ALONE = "local"  # name of a cluster that nobody else can join


@contextlib.contextmanager
def open_cluster(config: DaemonConfig) -> Iterator[Cluster]:
    """A member of the cluster, until the end of the block.

    Raises
    ------
    ConfigError
        If what was asked for cannot be had here.
    MetadataUnavailableError, AccessDeniedError, MetadataFullError
        If it cannot be joined.
    """
    about = InstanceRecord(
        0, 0, socket.gethostname(), os.getpid(), str(config.socket), "", __version__
    )
    with contextlib.ExitStack() as stack:
        backend, name, where = _backend(config, stack)
        try:
            cluster = Cluster(backend, Layout(name), about, config.meta_lease_s, where)
        except MetadataUnavailableError as error:
            message = f"cannot join {where}: {error.message}"
            raise MetadataUnavailableError(message, error.hint or _REACH) from None
        stack.callback(cluster.close)
        yield cluster


def _backend(config: DaemonConfig, stack: contextlib.ExitStack) -> tuple[Backend, str, str]:
    """The backend, the cluster's name, and where that is."""
    if config.meta is None:
        from .metadata.embedded import EmbeddedBackend

        return EmbeddedBackend(), ALONE, "embedded"
    from .metadata.etcd.backend import EtcdBackend

    address = _started(stack) if config.start_etcd else _address(config)
    name = config.meta.cluster
    return EtcdBackend(address), name, f"etcd://{address}/{name}"


def _address(config: DaemonConfig) -> EtcdAddress:
    from .metadata.etcd.client import EtcdAddress

    assert config.meta is not None
    return EtcdAddress(
        config.meta.endpoints,
        config.meta_ca_file,
        config.meta_cert_file,
        config.meta_key_file,
        config.meta_login_file,
        config.meta_token_file,
    )


def _started(stack: contextlib.ExitStack) -> EtcdAddress:
    from .metadata.etcd.server import EtcdServers

    servers = stack.enter_context(EtcdServers())
    log.info("started an etcd at %s, which ends with this daemon", servers.address)
    return servers.address
