"""The settings of daemon and client: arguments, then environment, then file, then defaults.

Resolved once, at start, into frozen values; nothing else reads the environment. A setting
``name`` is the variable ``VINEYARD_ARROW_NAME`` and the top-level key ``name`` of the TOML file
that ``VINEYARD_ARROW_CONFIG`` names, or else of ``$XDG_CONFIG_HOME/vineyard-arrow/config.toml``.
An empty variable counts as not set.
"""

from __future__ import annotations

import contextlib
import functools
import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from vineyard_arrow.config_values import (
    PARSERS,
    EtcdPlace,
    is_loopback,
    rpc_address,
    socket_path,
)
from vineyard_arrow.errors import ConfigError
from vineyard_arrow.machine import format_size, parse_size

__all__ = [
    "ClientConfig",
    "DaemonConfig",
    "RemoteConfig",
    "client_config",
    "daemon_config",
    "format_size",
    "parse_size",
    "remote_config",
]

ENV_PREFIX = "VINEYARD_ARROW_"
TMP = Path("/tmp")  # for every process alike, so not $TMPDIR


@dataclass(frozen=True, slots=True)
class DaemonConfig:
    """What a daemon needs to know; made by `daemon_config`.

    Attributes
    ----------
    socket : Path
        Absolute path of the UNIX socket.
    memory_limit : int or None
        Bytes the store may take; None leaves the choice to `machine.check_memory_limit`.
    mode : {"0600", "0660"}
        Permissions of the socket; "0660" lets the members of `group` in.
    group : int or None
        Numeric id of the group; given by name or number.
    log_level : {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}
        As `logging` knows them; lower case is accepted.
    log_format : {"text", "json"}
        One line or one JSON object an event.
    log_file : Path or None
        None logs to standard error.
    pages : {"auto", "huge", "small"}
        Kind of shared memory; "huge" fails where there is none, "auto" falls back.
    idle_trim_s : float
        Seconds of idleness after which warm free memory goes back to the machine.
    max_objects : int
        Objects that the index has room for.
    rpc : (str, int) or None
        Host and port to serve clients over TCP at; port 0 takes a free one. Given as
        ``host:port``.
    rpc_token_file : Path or None
        A file with the token that they must show.
    rpc_cert_file, rpc_key_file : Path or None
        Files with certificate chain and key in PEM: they are served over TLS.
    rpc_open : bool
        Serve other machines without a token.
    rpc_advertise : (str, int or None) or None
        What the cluster is told of where that is: a host that others reach it by, and a port if
        it is another one. Given as ``host`` or ``host:port``.
    dashboard : (str, int) or None
        Host and port to show the store at, by HTTP, to whoever reaches them. Given as
        ``host:port``.
    dashboard_open : bool
        Show it to other machines.
    meta : EtcdPlace or None
        Where the metadata of the cluster is: None keeps it in the daemon, which is then a
        cluster by itself. Given as ``embedded``, ``etcd://host:port,host:port/cluster``, or
        ``etcd`` for ``etcd://127.0.0.1:2379/default``.
    meta_ca_file, meta_cert_file, meta_key_file : Path or None
        PEM files: the authority that etcd's certificates are checked by, which makes the
        connection an encrypted one, and the daemon's own certificate with its key.
    meta_login_file, meta_token_file : Path or None
        A file of one line: ``user:password``, or a token, to be let in to etcd by.
    meta_lease_s : float
        Seconds without a word after which the cluster counts this instance out.
    start_etcd : bool
        Start an etcd of one member, which ends with the daemon, and its data with it.
    """

    socket: Path
    memory_limit: int | None = None
    mode: Literal["0600", "0660"] = "0600"
    group: int | None = None
    log_level: str = "INFO"
    log_format: Literal["text", "json"] = "text"
    log_file: Path | None = None
    pages: Literal["auto", "huge", "small"] = "auto"
    idle_trim_s: float = 2.0
    max_objects: int = 1 << 20
    rpc: tuple[str, int] | None = None
    rpc_token_file: Path | None = None
    rpc_cert_file: Path | None = None
    rpc_key_file: Path | None = None
    rpc_open: bool = False
    rpc_advertise: tuple[str, int | None] | None = None
    dashboard: tuple[str, int] | None = None
    dashboard_open: bool = False
    meta: EtcdPlace | None = None
    meta_ca_file: Path | None = None
    meta_cert_file: Path | None = None
    meta_key_file: Path | None = None
    meta_login_file: Path | None = None
    meta_token_file: Path | None = None
    meta_lease_s: float = 10.0
    start_etcd: bool = False


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """What a client needs to know; made by `client_config`.

    Attributes
    ----------
    socket : Path
        Absolute path of the daemon's UNIX socket.
    timeout_s : float
        Deadline of every blocking call, in seconds.
    autostart : bool
        Whether to start a daemon on `socket` if none listens there.
    rpc_token_file, rpc_ca_file : Path or None
        Files with the token that other instances of the cluster want, and with the certificates
        (PEM) that theirs are signed by.
    """

    socket: Path
    timeout_s: float = 30.0
    autostart: bool = True
    rpc_token_file: Path | None = None
    rpc_ca_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Keys:
    """What a client shows, and trusts, to be let in over TCP; made by `checked_keys`.

    Attributes
    ----------
    token : str or None
    tls_root_certs : bytes or None
        PEM; None connects without TLS.
    """

    token: str | None = field(default=None, repr=False)
    tls_root_certs: bytes | None = None


NO_KEYS = Keys()


@dataclass(frozen=True, slots=True)
class RemoteConfig:
    """What a client over TCP needs to know; made by `remote_config`.

    Attributes
    ----------
    address : str
        ``host:port``.
    timeout_s : float
        The longest that nothing may come or go, in seconds.
    token : str or None
        The store's.
    tls_root_certs : bytes or None
        Certificates in PEM that the store's is signed by; None connects without TLS.
    """

    address: str
    timeout_s: float = 30.0
    token: str | None = None
    tls_root_certs: bytes | None = None


# The settings of each, with their environment variables.
_NAMES: dict[type, dict[str, str]] = {
    cls: {field.name: ENV_PREFIX + field.name.upper() for field in fields(cls)}
    for cls in (DaemonConfig, ClientConfig)
}


def daemon_config(**arguments: object) -> DaemonConfig:
    """Resolve a daemon's settings.

    Makes the private folder of the default socket if that is in /tmp.

    Parameters
    ----------
    **arguments
        Attributes of `DaemonConfig`; None stands for "not given".

    Raises
    ------
    ConfigError
        If a value, the file or the place of the socket is wrong.
    TypeError
        If there is no such setting.
    """
    values, origins = _resolve(DaemonConfig, arguments)
    if values.get("mode") == "0660":
        if "group" not in values:
            raise ConfigError(
                f"mode 0660 (from {origins['mode']}) needs a group to let in",
                hint="set group to a name or number: --group NAME",
            )
        if "socket" not in values:
            raise ConfigError(
                f"mode 0660 (from {origins['mode']}) needs a socket outside of the default folder,"
                " which only its owner can enter",
                hint="set socket to a path in a folder that the group can enter",
            )
    elif "group" in values:
        raise ConfigError(
            f"group (from {origins['group']}) has no effect with mode 0600", hint="set mode to 0660"
        )
    if "socket" not in values:
        values["socket"] = _default_socket(create=True)
    _check_rpc(values, origins)
    _check_dashboard(values, origins)
    _check_meta(values, origins)
    return DaemonConfig(**values)


def _check_rpc(values: Mapping[str, Any], origins: Mapping[str, str]) -> None:
    if "rpc" not in values:
        return
    host = values["rpc"][0]
    if ("rpc_cert_file" in values) != ("rpc_key_file" in values):
        raise ConfigError(
            "TLS needs both a certificate and its key", "set rpc_cert_file and rpc_key_file"
        )
    if not is_loopback(host) and "rpc_token_file" not in values and not values.get("rpc_open"):
        raise ConfigError(
            f"rpc (from {origins['rpc']}) would let everybody who reaches {host} read and delete"
            " all data",
            "set rpc_token_file to a file with a token, or rpc_open to true if that is meant",
        )


def _check_dashboard(values: Mapping[str, Any], origins: Mapping[str, str]) -> None:
    host = values["dashboard"][0] if "dashboard" in values else "localhost"
    if not is_loopback(host) and not values.get("dashboard_open"):
        raise ConfigError(
            f"dashboard (from {origins['dashboard']}) would show everybody who reaches {host} the"
            " names of all objects and programs",
            "set dashboard_open to true if that is meant, or use 127.0.0.1",
        )


def _check_meta(values: Mapping[str, Any], origins: Mapping[str, str]) -> None:
    if ("meta_cert_file" in values) != ("meta_key_file" in values):
        raise ConfigError(
            "a certificate needs its key", "set meta_cert_file and meta_key_file, or none"
        )
    if "meta_login_file" in values and "meta_token_file" in values:
        raise ConfigError("etcd takes a login or a token, not both", "set one of the two files")
    if values.get("meta") is not None:
        return
    for name in ("start_etcd", *(n for n in values if n.startswith("meta_"))):
        if values.get(name):
            raise ConfigError(
                f"{name} (from {origins[name]}) has no effect without an etcd",
                "set meta to etcd://host:port/cluster",
            )


def client_config(**arguments: object) -> ClientConfig:
    """Resolve a client's settings.

    Parameters
    ----------
    **arguments
        Attributes of `ClientConfig`; None stands for "not given".

    Raises
    ------
    ConfigError
        If a value, the file or the place of the socket is wrong.
    TypeError
        If there is no such setting.
    """
    values, _ = _resolve(ClientConfig, arguments)
    if "socket" not in values:
        values["socket"] = _default_socket(create=False)
    return ClientConfig(**values)


def remote_config(
    address: object,
    *,
    timeout_s: object = None,
    token: object = None,
    tls_root_certs: object = None,
) -> RemoteConfig:
    """Check what a client over TCP was told; see `RemoteConfig`.

    ``tls_root_certs`` may also be the path of a file.

    Raises
    ------
    ConfigError
        If a value is wrong, or the file cannot be read.
    """
    try:
        host, port = rpc_address(address)
    except ValueError as error:
        raise ConfigError(f"rpc is {address!r}; allowed: {error}") from None
    keys = checked_keys(token, tls_root_certs)
    values, _ = _resolve(ClientConfig, {"timeout_s": timeout_s})
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return RemoteConfig(place, values.get("timeout_s", 30.0), keys.token, keys.tls_root_certs)


def checked_keys(token: object, tls_root_certs: object) -> Keys:
    """What a client was given to be let in by; ConfigError if that is wrong or cannot be read."""
    if token is not None and not (isinstance(token, str) and token.isascii() and token.strip()):
        raise ConfigError("token is a text of visible ASCII characters, or None")
    if isinstance(tls_root_certs, str | os.PathLike):
        try:
            tls_root_certs = Path(tls_root_certs).read_bytes()
        except OSError as error:
            raise ConfigError(f"tls_root_certs cannot be read: {error}") from None
    if not isinstance(tls_root_certs, bytes | None):
        raise ConfigError("tls_root_certs is the path of a PEM file, its bytes, or None")
    return Keys(token.strip() if isinstance(token, str) else None, tls_root_certs)


def cluster_keys(given: Keys) -> Keys:
    """Those for other instances of a cluster: what was given, else what the settings name.

    Raises
    ------
    ConfigError
        If a file cannot be read, or holds no token.
    """
    values, _ = _resolve(ClientConfig, {})
    token, certs = given.token, given.tls_root_certs
    if token is None and "rpc_token_file" in values:
        token = read_token(values["rpc_token_file"])
    return checked_keys(token, certs or values.get("rpc_ca_file"))


def read_token(path: str | Path) -> str:
    """The token in a file: its text, without white space around it.

    Raises
    ------
    ConfigError
        If there is none.
    """
    token = read_file(path).strip()
    if not token or not token.isascii() or any(byte <= 32 for byte in token):
        raise ConfigError(f"{path} holds no token", "one line of visible ASCII characters")
    return token.decode()


def read_file(path: str | Path) -> bytes:
    """The bytes of a file that a setting names; ConfigError if it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None


def _resolve(
    cls: type[DaemonConfig | ClientConfig], arguments: Mapping[str, object]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Parse the values given for settings of ``cls`` and say where each came from."""
    names = _NAMES[cls]
    for unknown in arguments:
        if unknown not in names:
            raise TypeError(f"no setting {unknown!r}; there are {', '.join(names)}")
    path, table = _read_file()
    values, origins = {}, {}
    for name, variable in names.items():
        raw, origin = arguments.get(name), f"argument {name}"
        if raw is None:
            raw, origin = os.environ.get(variable) or None, f"environment variable {variable}"
        if raw is None:
            raw, origin = table.get(name), f"{path}: {name}"
        if raw is None:
            continue
        try:
            values[name], origins[name] = PARSERS[name](raw), origin
        except (ValueError, TypeError) as error:
            message = f"setting {name} is {raw!r} (from {origin}); allowed: {error}"
            raise ConfigError(message) from None
    return values, origins


def _read_file() -> tuple[str | None, Mapping[str, object]]:
    # Every `connect` comes here: a Path, or open(), would take longer than the look itself.
    named = os.environ.get(ENV_PREFIX + "CONFIG")
    xdg = os.environ.get("XDG_CONFIG_HOME", "")
    # A relative $XDG_CONFIG_HOME is to be ignored, says the XDG specification.
    home = xdg if xdg.startswith("/") else os.path.expanduser("~/.config")
    path = named or f"{home}/vineyard-arrow/config.toml"
    try:
        with open(os.open(path, os.O_RDONLY), "rb") as file:
            data = file.read()
    except (FileNotFoundError, NotADirectoryError):
        if not named:
            return None, {}
        raise ConfigError(f"{path} (from {ENV_PREFIX}CONFIG) does not exist") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    return path, _parse_file(path, data)


@functools.lru_cache(maxsize=8)
def _parse_file(path: str, data: bytes) -> Mapping[str, object]:
    """The settings in a file of these bytes; kept by them, so that a changed file is seen."""
    try:
        table = tomllib.loads(data.decode())
    except ValueError as error:
        raise ConfigError(f"{path} cannot be read as TOML: {error}") from error
    for key in sorted(table.keys() - PARSERS.keys()):
        raise ConfigError(f"{path}: {key} is no setting; allowed: {', '.join(sorted(PARSERS))}")
    return MappingProxyType(table)


def private_folder() -> Path:
    """The folder in /tmp of this user's default socket, where there is no XDG_RUNTIME_DIR."""
    return TMP / f"vineyard-arrow-{os.geteuid()}"


def _default_socket(*, create: bool) -> Path:
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/"):
        # Missing, or too long for a socket's path: the folder in /tmp serves as well.
        with contextlib.suppress(OSError, ValueError):
            found = os.stat(runtime)
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
                return socket_path(f"{runtime}/vineyard-arrow.sock")
    folder = private_folder()
    _check_private(folder, create=create)
    return folder / "store.sock"


def _check_private(folder: Path, *, create: bool) -> None:
    """Refuse a folder in /tmp that somebody else made or can enter; make it if it is missing."""
    if create:
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o700)
    try:
        found = os.lstat(folder)  # lstat: a symbolic link could lead anywhere
    except FileNotFoundError:
        return
    mode = stat.S_IMODE(found.st_mode)
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and mode & 0o077 == 0:
        return
    raise ConfigError(
        f"{folder}, the default folder of the socket, must be a folder that only this user can"
        f" enter; it is {stat.filemode(found.st_mode)} of user {found.st_uid}",
        hint="remove it, set XDG_RUNTIME_DIR, or set socket to a path of your own",
    )
