"""How much memory there is here, as the kernel and the control groups around us see it.

Also reads and prints byte sizes. It knows nothing of settings or of the store. Figures come
from proc(5), and from cgroup v2 (memory.max, memory.current) or v1 (limit_in_bytes,
usage_in_bytes) of this process's group and every group above it.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from pathlib import Path

from vineyard_arrow.errors import ConfigError

__all__ = [
    "available_memory",
    "check_memory_limit",
    "counted",
    "format_size",
    "parse_size",
    "total_memory",
]

PROC, CGROUP = Path("/proc"), Path("/sys/fs/cgroup")
SIZE_SYNTAX = (
    "bytes as an integer, or a number with B, KB, MB, GB, TB (powers of 1000)"
    " or KiB, MiB, GiB, TiB (powers of 1024)"
)

_UNITS = {"": 1, "B": 1} | {
    letter + suffix: base**power
    for power, letter in enumerate("KMGT", start=1)
    for suffix, base in (("B", 1000), ("iB", 1024))
}
_UNIT_OF = {unit.lower(): nbytes for unit, nbytes in _UNITS.items()}


def parse_size(text: str | int) -> int:
    """Read a size as `SIZE_SYNTAX` describes it; fractions of a byte are dropped.

    Raises
    ------
    ValueError
        If `text` is no size, with a message that says what is allowed.

    Examples
    --------
    >>> parse_size("4GiB"), parse_size("1.5 kb"), parse_size(4096)
    (4294967296, 1500, 4096)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", str(text).strip(), re.IGNORECASE | re.ASCII)
    unit = _UNIT_OF.get(match[2].lower()) if match else None
    if isinstance(text, bool) or match is None or unit is None:
        raise ValueError(SIZE_SYNTAX)
    return int(match[1]) * unit if match[1].isdigit() else int(float(match[1]) * unit)


def format_size(nbytes: int) -> str:
    """Print a size with a binary unit and at most one decimal.

    Examples
    --------
    >>> format_size(4 << 30), format_size(1536), format_size((1 << 20) - 1), format_size(12)
    ('4 GiB', '1.5 KiB', '1 MiB', '12 B')
    """
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        # What would be rounded to 1024 of the unit below is 1 of this one.
        if round(abs(nbytes) / (_UNITS[unit] >> 10), 1) >= 1024:
            return f"{nbytes / _UNITS[unit]:.1f}".removesuffix(".0") + f" {unit}"
    return f"{nbytes} B"


def counted(count: int, noun: str) -> str:
    """So many of something.

    Examples
    --------
    >>> counted(1, "batch"), counted(2000, "batch"), counted(0, "block")
    ('1 batch', '2,000 batches', '0 blocks')
    """
    plural = noun + ("es" if noun.endswith("ch") else "s")
    return f"{count:,} {noun if count == 1 else plural}"


def total_memory(proc: Path = PROC, cgroup: Path = CGROUP) -> int:
    """Bytes of memory that this process may ever use: the machine's or its cgroups' limit."""
    limits = (limit for limit, _ in _cgroups(proc, cgroup))
    return min([_meminfo(proc, "MemTotal"), *limits])


def available_memory(proc: Path = PROC, cgroup: Path = CGROUP) -> int:
    """Bytes that can be used right now without swapping or meeting a cgroup's limit.

    In a cgroup that is what its limit leaves, its inactive file cache counted as free.
    """
    left = (max(0, limit - usage) for limit, usage in _cgroups(proc, cgroup))
    return min([_meminfo(proc, "MemAvailable"), *left])


def check_memory_limit(requested: int | None, proc: Path = PROC, cgroup: Path = CGROUP) -> int:
    """Settle how many bytes a store may take, in whole pages.

    Parameters
    ----------
    requested : int or None
        Bytes asked for. None takes half of the total memory, or nine tenths of what is
        available if that is less.

    Raises
    ------
    ConfigError
        If more is requested than is available, or less than a byte.
    """
    available = available_memory(proc, cgroup)
    if requested is None:
        chosen = min(total_memory(proc, cgroup) // 2, available * 9 // 10)
        return max(mmap.PAGESIZE, chosen // mmap.PAGESIZE * mmap.PAGESIZE)
    if requested < 1:
        raise ConfigError(f"memory_limit is {requested} bytes; it must be at least 1")
    if requested > available:
        raise ConfigError(
            f"memory_limit is {format_size(requested)}, but only {format_size(available)} of memory"
            " are available now",
            hint="ask for less, free memory first, or leave memory_limit out to have it chosen",
        )
    return -(-requested // mmap.PAGESIZE) * mmap.PAGESIZE


def _meminfo(proc: Path, key: str) -> int:
    for line in (proc / "meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024
    raise ConfigError(f"{proc}/meminfo has no {key}", hint="set memory_limit to a number of bytes")


def _cgroups(proc: Path, cgroup: Path) -> Iterator[tuple[int, int]]:
    """Yield (limit, usage less inactive file cache) in bytes of every limited group above us."""
    try:
        lines = (proc / "self/cgroup").read_text().splitlines()
    except OSError:  # a kernel without control groups
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            # Beside v1 hierarchies systemd mounts v2 in a folder of its own.
            root = cgroup / "unified" if (cgroup / "unified").is_dir() else cgroup
            names = ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root = cgroup / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        group = root / path.lstrip("/")
        # In a container the path may be the host's, absent here: its parents still are looked at.
        while group.is_relative_to(root):
            yield from _limit_and_usage(group, *names)
            if group == root:
                break
            group = group.parent


def _limit_and_usage(group: Path, limit: str, usage: str, cache: str) -> Iterator[tuple[int, int]]:
    try:
        limit_nbytes = int((group / limit).read_text())  # "max" in v2 if there is none
        used = int((group / usage).read_text())
        fields = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return
    yield limit_nbytes, used - int(fields.get(cache, 0))
