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
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from vineyard_arrow.config_values import PARSERS, socket_path
from vineyard_arrow.errors import ConfigError
from vineyard_arrow.machine import format_size, parse_size

__all__ = [
    "ClientConfig",
    "DaemonConfig",
    "client_config",
    "daemon_config",
    "format_size",
    "parse_size",
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
    """

    socket: Path
    timeout_s: float = 30.0
    autostart: bool = True


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
    return DaemonConfig(**values)


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
