"""What holds memory in a store, and what of it or of the machine is in the way.

Needs no attachment: it asks the daemon and reads proc(5). Not looked at, since nothing here
depends on it: the size of /dev/shm (memory is in memfds) and RLIMIT_MEMLOCK (nothing is locked).
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import resource
import socket
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from ..config import TMP
from ..ipc import protocol as p
from ..ipc.hugepages import HugePagesUnavailable, open_huge_files
from ..machine import available_memory, counted, format_size
from ..objects import ObjectID
from .listing import ALL, memory_head
from .process import get_status, open_running, reader_config
from .report import Block, Line, NoDaemonError, Report

PROC = Path("/proc")
ADDRESS_SPACE = 4 << 40  # bytes of addresses that every client reserves, at least
FULL = 0.9
SHOWN = 5  # streams
WRONG, NOTE = "wrong", "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to know; ``level`` is "wrong" where it should be mended, else "note"."""

    level: str
    what: str
    advice: str


def doctor(args: Namespace) -> Report:
    """Look at store, machine and left-over files; exit status 1 if something is wrong."""
    config = reader_config(args)
    findings: list[Finding] = []
    status: p.Status | None = None
    problem = None
    try:
        connection = open_running(config)
        try:
            status = get_status(connection)
            reply, _ = connection.request(p.ListObjects("*", ALL))
            streams = connection.request(p.ListStreams("*"))[0].streams
        finally:
            connection.close()
        findings += in_store(status, reply.objects, streams)
        findings += of_machine_for(status)
    except NoDaemonError as error:
        problem = str(error)
    findings += of_machine()
    for path in dict.fromkeys([config.socket, *_default_sockets()]):
        findings += left_over(path)
    findings.sort(key=lambda f: f.level != WRONG)
    wrong = any(f.level == WRONG for f in findings)
    data = {
        "ok": not wrong and status is not None,
        "socket": str(config.socket),
        "pid": status.pid if status else None,
        "findings": [asdict(f) for f in findings],
    }
    lines = _head(status, problem)
    if findings or status is not None:
        lines += _finding_lines(findings)
    return Report(lines, data, status=3 if status is None else int(wrong))


def _head(status: p.Status | None, problem: str | None) -> list[Block]:
    return memory_head(status) if status else [Line(str(problem), "bold")]


def _finding_lines(findings: list[Finding]) -> list[Block]:
    if not findings:
        return [Line(), Line("nothing wrong", "green")]
    lines: list[Block] = []
    for f in findings:
        style = "bold red" if f.level == WRONG else "bold"
        lines += [Line(), Line(f"{f.level.upper()}: {f.what}", style), Line(f"  -> {f.advice}")]
    if all(f.level == NOTE for f in findings):
        lines += [Line(), Line(f"nothing wrong; {counted(len(findings), 'note')}", "green")]
    return lines


# ---- the store


def in_store(
    s: p.Status, objects: list[p.ObjectInfo], streams: list[p.StreamState]
) -> Iterator[Finding]:
    """What holds memory. Only a store that is nearly full makes that wrong."""
    held = max(s.memory_used, s.memory_charged - s.memory_warm)
    level = WRONG if held >= FULL * s.memory_limit else NOTE
    if level == WRONG:
        yield Finding(
            WRONG,
            f"the store is nearly full: {format_size(held)} of {format_size(s.memory_limit)} are"
            " in use or promised to writers",
            "rm objects (du shows the largest), or start it with a larger --memory-limit",
        )
    if s.deleted_pinned:
        pids = ", ".join(pids_of_deleted(s, objects)) or "no client that is left"
        known = sum(o.stored for o in objects) + s.stream_nbytes
        least = sum(x.sealed for x in s.segments) - known
        size = f" (at least {format_size(least)})" if least > 0 else ""
        yield Finding(
            level,
            f"deleted but still read: {counted(s.deleted_pinned, 'object')}{size} by {pids}",
            "drop what was got of them there (arrays, slices, frames), or end the process",
        )
    for c in s.clients:
        if c.unsealed:
            yield Finding(
                level,
                f"{_who(c)} holds {format_size(c.unsealed)} that it has not put",
                "put what it builds in client.memory_pool, or drop it there",
            )
    if s.blocks:
        yield Finding(
            level,
            f"{counted(s.blocks, 'block')} of shared memory: {format_size(s.block_nbytes)}",
            "they stay until unlinked (SharedMemory(name).unlink(), Client.clear()) and closed",
        )
    if s.stream_batches:
        yield Finding(
            level,
            f"streams hold {format_size(s.stream_nbytes)} in"
            f" {counted(s.stream_batches, 'batch')}: {_named(streams)}",
            "batches go as they are read, unless kept; at once by rm NAME_OR_ID"
            " (Client.drop_stream)",
        )
    if s.memory_warm:
        warm = ", ".join(f"{_who(c)}: {format_size(c.warm)}" for c in s.clients if c.warm)
        yield Finding(
            NOTE,
            f"{format_size(s.memory_warm)} are free but kept warm ({warm})",
            "they go by themselves when idle; at once by Client.memory_trim()",
        )


def pids_of_deleted(s: p.Status, objects: list[p.ObjectInfo]) -> list[str]:
    """Processes that have more pins than objects left to pin, as text.

    A process that pins a live object several times looks the same, so where it pins live
    ones too it is only said to be perhaps one.
    """
    live = Counter(pid for o in objects for pid in o.pinned_by)
    pins: Counter[int] = Counter()
    program = {}
    for c in s.clients:
        pins[c.pid] += c.pins
        program[c.pid] = c.program
    return [
        f"pid {pid} ({program[pid]})" + (" perhaps" if live[pid] else "")
        for pid, n in sorted(pins.items())
        if n > live[pid]
    ]


def _named(streams: list[p.StreamState]) -> str:
    """The streams that hold batches; those without a name by their ids."""
    names = [s.name or str(ObjectID(s.id)) for s in streams if s.backlog]
    more = [f"{len(names) - SHOWN:,} more"] * (len(names) > SHOWN)
    return ", ".join(names[:SHOWN] + more)


def _who(c: p.ClientInfo) -> str:
    return f"pid {c.pid} ({c.program})"


# ---- the machine


def of_machine_for(s: p.Status) -> Iterator[Finding]:
    """Limits that the running daemon and its clients are near."""
    may_grow = max(0, s.memory_limit - s.memory_committed)
    available = available_memory()
    if may_grow > available:
        yield Finding(
            WRONG,
            f"the store may take {format_size(may_grow)} more, but only {format_size(available)}"
            " of memory are available",
            "free memory, or start it with a smaller --memory-limit",
        )
    yield from _overcommit(s)
    yield from _descriptors(s)
    for pid in sorted({s.pid, *(c.pid for c in s.clients)}):
        yield from _mappings(pid)
    if s.page_kind == "memfd":
        yield _no_huge_pages()


def _overcommit(s: p.Status) -> Iterator[Finding]:
    if _read_number(PROC / "sys/vm/overcommit_memory") != 2:
        return
    lines = (PROC / "meminfo").read_text("ascii").splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    kib = {k: int(fields[k].split()[0]) for k in ("CommitLimit", "Committed_AS")}
    left = max(0, kib["CommitLimit"] - kib["Committed_AS"]) * 1024
    if left < s.memory_limit - s.memory_committed:
        yield Finding(
            WRONG,
            f"vm.overcommit_memory is 2, and only {format_size(left)} can still be committed:"
            " a writer that needs more is killed by SIGBUS",
            "sysctl vm.overcommit_memory=0, raise vm.overcommit_ratio, or a smaller --memory-limit",
        )


def _descriptors(s: p.Status) -> Iterator[Finding]:
    try:
        limits = (PROC / str(s.pid) / "limits").read_text("ascii").splitlines()
        used = len(os.listdir(PROC / str(s.pid) / "fd"))
    except OSError:  # the daemon of another user
        return
    line = next(line for line in limits if line.startswith("Max open files"))
    limit = int(line.split()[3].replace("unlimited", str(1 << 40)))
    if limit < 1024 or used > FULL * limit:
        yield Finding(
            WRONG,
            f"the daemon has {used:,} descriptors open and may have {limit:,}; each client takes"
            " five",
            "raise the hard limit before starting it: ulimit -Hn 65536, or LimitNOFILE= in systemd",
        )


def _mappings(pid: int) -> Iterator[Finding]:
    limit = _read_number(PROC / "sys/vm/max_map_count")
    try:
        with open(PROC / str(pid) / "maps", "rb") as file:
            used = sum(1 for _ in file)
    except OSError:
        return
    if used > FULL * limit:
        yield Finding(
            WRONG,
            f"pid {pid} has {used:,} memory mappings of {limit:,}; past that it cannot seal",
            "sysctl vm.max_map_count=1048576, or put fewer, larger objects from one process",
        )


def _no_huge_pages() -> Finding:
    try:
        open_huge_files(64 << 20).close()
    except HugePagesUnavailable as error:
        return Finding(
            NOTE,
            f"no huge pages, so the first touch of memory is slow: {error.reason}",
            "allow user namespaces (sysctl user.max_user_namespaces), or as root"
            " echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled",
        )
    return Finding(
        NOTE,
        "the machine has huge pages, but this store does without",
        "start it with --pages huge, or --pages auto and a limit of 1 GiB or more",
    )


def of_machine() -> Iterator[Finding]:
    """Limits that are too small for any client or daemon started from here."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and min(soft, hard) < 256:
        yield Finding(
            WRONG,
            f"a process started here may open only {soft:,} files; a client keeps one for each"
            " writer whose data it reads",
            "ulimit -n 1024 or more",
        )
    maps = _read_number(PROC / "sys/vm/max_map_count")
    if maps < 65530:
        yield Finding(
            WRONG,
            f"vm.max_map_count is {maps:,}; each sealed range of a writer takes one or two",
            "sysctl vm.max_map_count=65530 or more",
        )
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and limit < 2 * ADDRESS_SPACE:
        yield Finding(
            WRONG,
            f"the address space is limited to {format_size(limit)} (RLIMIT_AS); a client reserves"
            f" {format_size(ADDRESS_SPACE)} or more, without using memory for it",
            "ulimit -v unlimited",
        )
    elif (error := _reserve_error()) is not None:
        yield Finding(
            WRONG,
            f"{format_size(ADDRESS_SPACE)} of addresses cannot be reserved: {error}",
            "lift what limits the address space: a container's policy, or a 32-bit system",
        )


def _reserve_error() -> str | None:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE
    try:
        mmap.mmap(-1, ADDRESS_SPACE, flags=flags, prot=0).close()
    except (OSError, ValueError) as error:
        return str(error)
    return None


def _read_number(path: Path) -> int:
    try:
        return int(path.read_text("ascii"))
    except OSError:  # proc is masked: nothing can be said
        return 1 << 40


# ---- left-over files


def _default_sockets() -> list[Path]:
    """Where daemons of this user listen if they are told nothing."""
    found = [TMP / f"vineyard-arrow-{os.geteuid()}" / "store.sock"]
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/"):
        found.append(Path(runtime, "vineyard-arrow.sock"))
    return found


def left_over(path: Path) -> Iterator[Finding]:
    """A socket or a lock beside it that no living daemon stands behind."""
    if _refuses(path):
        yield Finding(
            NOTE,
            f"{path} is the socket of a daemon that died",
            f"the next start replaces it; or: rm {path}",
        )
    listens = path.exists() and not _refuses(path)
    for suffix, doing in ((".lock", "serve there"), (".start", "be starting one")):
        lock = Path(f"{path}{suffix}")
        if not listens and _is_held(lock):
            yield Finding(
                WRONG,
                f"{lock} is held{_holders(lock)}, but nobody listens at {path.name}",
                f"that process claims to {doing}: wait for it, or kill it",
            )


def _refuses(path: Path) -> bool:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    sock.setblocking(False)
    try:
        return sock.connect_ex(os.fspath(path)) == errno.ECONNREFUSED
    finally:
        sock.close()


def _is_held(lock: Path) -> bool:
    try:
        fd = os.open(lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _holders(lock: Path) -> str:
    """Who holds a lock, as /proc/locks says it."""
    try:
        inode = str(lock.stat().st_ino)
        lines = [line.split() for line in (PROC / "locks").read_text("ascii").splitlines()]
    except OSError:
        return ""
    pids = {f[4] for f in lines if len(f) > 5 and f[1] == "FLOCK" and f[5].endswith(":" + inode)}
    return f" by pid {', '.join(sorted(pids))}" if pids else ""
