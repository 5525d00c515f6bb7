"""How the benchmarks measure and report: interleaved rounds, medians, rows of ratios.

A figure is never judged by itself: what it is compared with (the *yardstick*) runs in the
same round, before it, so that noise of the machine meets both. Knows nothing of the store.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import operator
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vineyard_arrow.ipc.hugepages import SharedFiles
from vineyard_arrow.ipc.mounts import load_libc

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
PAGE, HUGE_PAGE = 4 * KIB, 2 * MIB
_libc = load_libc()
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_OPERATORS = {"<=": operator.le, ">=": operator.ge}


def seconds(function: Callable[..., Any], *arguments: Any) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def p50(function: Callable[[], Any], calls: int) -> float:
    """Median of the times of single calls."""
    return statistics.median([seconds(function) for _ in range(calls)])


def paired(
    benchmark: Any, ours: Callable[[], float], *yardsticks: Callable[[], float], rounds: int
) -> tuple[list[float], ...]:
    """Run all functions once a round; return the times that each reported.

    The functions time themselves, so that they can prepare and tidy up untimed. One round
    more than asked for is run, and its times are dropped.
    """
    times: list[list[float]] = [[] for _ in range(1 + len(yardsticks))]

    def measure_yardsticks() -> None:
        for yardstick, taken in zip(yardsticks, times[1:], strict=True):
            taken.append(yardstick())

    gc.collect()
    benchmark.pedantic(lambda: times[0].append(ours()), setup=measure_yardsticks, rounds=rounds + 1)
    return tuple(taken[1:] for taken in times)


def ratio_of(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median of the ratios round by round."""
    return statistics.median([a / b for a, b in zip(ours, theirs, strict=True)])


def report(
    benchmark: Any, what: str, ours: str, yardstick: str, ratio: float, target: str = ""
) -> None:
    """Add a row to the table; ``target`` is ``<= x`` or ``>= x``, or empty for no judgement."""
    ok = None
    if target:
        sign, bound = target.split()
        ok = bool(_OPERATORS[sign](ratio, float(bound)))
    row = {
        "what": what,
        "ours": ours,
        "yardstick": yardstick,
        "ratio": ratio,
        "target": target,
        "ok": ok,
    }
    benchmark.extra_info.setdefault("rows", []).append(row)


def once(benchmark: Any, function: Callable[[], Any]) -> Any:
    """Run a function one time, as the whole of a benchmark; return what it returns."""
    return benchmark.pedantic(function, rounds=1)


def time_of(times: float | Sequence[float]) -> str:
    """A time, or the median of several, for people."""
    s = times if isinstance(times, float) else statistics.median(times)
    for unit, factor in (("s", 1), ("ms", 1e3), ("µs", 1e6)):
        if abs(s) * factor >= 1:
            return (
                f"{s * factor:.3g} {unit}"
                if abs(s) * factor < 999.5
                else f"{s * factor:.0f} {unit}"
            )
    return f"{s * 1e9:.0f} ns"


def rate_of(nbytes: int, times: Sequence[float]) -> str:
    """Bytes a second, for people."""
    return f"{nbytes / statistics.median(times) / 1e9:.1f} GB/s"


def rss_anon(pid: int | str = "self") -> int:
    """Memory that belongs to a process alone."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * KIB
    raise OSError(f"/proc/{pid}/status has no RssAnon")


def back_memory(nbytes: int) -> None:
    """Touch memory and free it, just before a measurement on fresh pages.

    A virtual machine's memory may be backed by its host only when it is first touched, at
    0.6 GB/s here, and be taken back when it has been free for a while: without this, any
    copy to fresh pages looks the same, ours or not.
    """
    with mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        for offset in range(0, nbytes, PAGE):
            memory[offset] = 1


def protect(ranges: Sequence[tuple[int, int]], access: int) -> None:
    """Set the protection of memory (address, nbytes)."""
    for address, nbytes in ranges:
        if _libc.mprotect(address, nbytes, access) != 0:
            raise OSError(ctypes.get_errno(), "mprotect")


class Pages:
    """A shared mapping to compare with: same files, same advice, but plainly ours.

    Parameters
    ----------
    files : SharedFiles
        Where the file comes from.
    nbytes : int
        Size, rounded up to whole huge pages.
    """

    def __init__(self, files: SharedFiles, nbytes: int) -> None:
        self.nbytes = -(-nbytes // HUGE_PAGE) * HUGE_PAGE
        rw, ro = files.create("yardstick")
        os.close(ro)
        os.ftruncate(rw, self.nbytes)
        reserve = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self._wide = _libc.mmap(None, self.nbytes + HUGE_PAGE, 0, reserve, -1, 0)
        self.address = -(-self._wide // HUGE_PAGE) * HUGE_PAGE
        access, fixed = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | 0x10
        if _libc.mmap(self.address, self.nbytes, access, fixed, rw, 0) != self.address:
            raise OSError("cannot map the yardstick's pages")
        os.close(rw)
        if files.huge:
            _libc.madvise(self.address, self.nbytes, mmap.MADV_HUGEPAGE)
        memory = (ctypes.c_uint8 * self.nbytes).from_address(self.address)
        self.bytes = np.frombuffer(memory, np.uint8)

    def cool(self) -> None:
        """Give the pages back, so that the next touch finds fresh ones."""
        _libc.madvise(self.address, self.nbytes, mmap.MADV_REMOVE)

    def close(self) -> None:
        """Unmap; ``bytes`` must not be used any more."""
        del self.bytes
        _libc.munmap(self._wide, self.nbytes + HUGE_PAGE)
