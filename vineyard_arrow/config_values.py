"""How the raw value of each setting (of an argument, a variable or a TOML file) is read.

A parser returns the typed value or raises ValueError whose message says what is allowed. It
doesn't know where the value came from; see `config` for that.
"""

from __future__ import annotations

import contextlib
import functools
import grp
import ipaddress
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from vineyard_arrow.machine import SIZE_SYNTAX, parse_size, total_memory

__all__ = ["PARSERS", "EtcdPlace", "is_loopback", "meta_place", "rpc_address", "socket_path"]

WILDCARDS = ("0.0.0.0", "::")  # hosts that stand for all addresses of a machine
_SOCKET_PATH_NBYTES = 107  # sun_path of unix(7), less its final NUL


def socket_path(value: object) -> Path:
    """Read the path of a UNIX socket, made absolute."""
    path = _path(value)
    if len(os.fsencode(path)) > _SOCKET_PATH_NBYTES:
        raise ValueError(f"a path of at most {_SOCKET_PATH_NBYTES} bytes, as UNIX sockets need")
    return path


def rpc_address(value: object) -> tuple[str, int]:
    """Read ``host:port``, with brackets around a host that has colons."""
    if isinstance(value, str):
        host, colon, port = value.rpartition(":")
        bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        if (
            colon
            and bare
            and not set(bare) & set("/[] \t")
            and (host != bare or ":" not in bare)
            and port.isdecimal()
            and int(port) < 1 << 16
        ):
            return bare, int(port)
    raise ValueError("host:port, such as 127.0.0.1:7070")


def advertised(value: object) -> tuple[str, int | None]:
    """Read ``host`` or ``host:port``."""
    for text, port in ((value, True), (f"{value}:1", False)):
        with contextlib.suppress(ValueError):
            host, number = rpc_address(text)
            if host not in WILDCARDS:
                return host, number if port else None
    raise ValueError("host or host:port that others can reach")


class EtcdPlace(NamedTuple):
    """A cluster in an etcd."""

    endpoints: tuple[str, ...]  # host:port each
    cluster: str


def meta_place(value: object) -> EtcdPlace | None:
    """Read where metadata is: None for the daemon itself."""
    if value == "embedded":
        return None
    if value == "etcd":
        return EtcdPlace(("127.0.0.1:2379",), "default")
    if isinstance(value, str) and value.startswith("etcd://"):
        hosts, _, cluster = value.removeprefix("etcd://").partition("/")
        try:
            places = [rpc_address(host) for host in hosts.split(",")]
        except ValueError:
            places = []
        if places and re.fullmatch(r"[A-Za-z0-9._-]{0,64}", cluster):
            return EtcdPlace(tuple(hosts.split(",")), cluster or "default")
    raise ValueError("embedded, etcd, or etcd://host:port,host:port/cluster")


def is_loopback(host: str) -> bool:
    """Whether only processes of this machine reach it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _path(value: object) -> Path:
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise ValueError("a path")
    path = os.path.expanduser(value)
    return _absolute(path if os.path.isabs(path) else os.path.join(os.getcwd(), path))


@functools.lru_cache(maxsize=64)
def _absolute(path: str) -> Path:
    """One Path for each path: it keeps its text and hash, which `connect` needs every time."""
    return Path(path)


def _memory_limit(value: object) -> int:
    allowed = f"{SIZE_SYNTAX}, or a percentage of the machine's memory such as 50%"
    if not isinstance(value, int | str):
        raise ValueError(allowed)
    try:
        if isinstance(value, str) and value.rstrip().endswith("%"):
            percent = float(value.rstrip()[:-1])
            if 0 < percent <= 100:
                return int(total_memory() * percent / 100)
        elif (nbytes := parse_size(value)) > 0:
            return nbytes
    except ValueError:
        pass
    raise ValueError(allowed)


def _one_of(*allowed: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        for choice in allowed:
            if isinstance(value, str) and value.lower() == choice.lower():
                return choice
        raise ValueError(", ".join(allowed))

    return parse


def _group(value: object) -> int:
    try:
        if isinstance(value, str) and not value.isdecimal():
            return grp.getgrnam(value).gr_gid
        return _whole(0)(value)
    except (KeyError, ValueError):
        raise ValueError("the name of a group of this machine, or a group's number") from None


def _seconds(*, zero: bool) -> Callable[[object], float]:
    def parse(value: object) -> float:
        allowed = f"a number of seconds {'from 0' if zero else 'above 0'}"
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError(allowed)
        try:
            seconds = float(value)
        except ValueError:
            raise ValueError(allowed) from None
        if not math.isfinite(seconds) or seconds < 0 or (seconds == 0 and not zero):
            raise ValueError(allowed)
        return seconds

    return parse


def _whole(least: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        if isinstance(value, str) and value.isdecimal():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"a whole number from {least}")
        return value

    return parse


def _switch(value: object) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True}
    words |= {"0": False, "false": False, "no": False, "off": False}
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    raise ValueError("true or false")


PARSERS: dict[str, Callable[[object], object]] = {
    "socket": socket_path,
    "memory_limit": _memory_limit,
    "mode": _one_of("0600", "0660"),
    "group": _group,
    "log_level": _one_of("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"),
    "log_format": _one_of("text", "json"),
    "log_file": _path,
    "pages": _one_of("auto", "huge", "small"),
    "idle_trim_s": _seconds(zero=True),
    "max_objects": _whole(1),
    "timeout_s": _seconds(zero=False),
    "autostart": _switch,
    "rpc": rpc_address,
    "rpc_token_file": _path,
    "rpc_cert_file": _path,
    "rpc_key_file": _path,
    "rpc_open": _switch,
    "rpc_advertise": advertised,
    "rpc_ca_file": _path,
    "dashboard": rpc_address,
    "dashboard_open": _switch,
    "meta": meta_place,
    "meta_ca_file": _path,
    "meta_cert_file": _path,
    "meta_key_file": _path,
    "meta_login_file": _path,
    "meta_token_file": _path,
    "meta_lease_s": _seconds(zero=False),
    "start_etcd": _switch,
}
