"""Memory figures from made-up /proc and /sys/fs/cgroup trees, and from the real ones."""

import mmap
from pathlib import Path

import pytest

from vineyard_arrow import machine
from vineyard_arrow.errors import ConfigError

GIB = 1 << 30


@pytest.fixture
def roots(tmp_path):
    """A machine of 64 GiB, 48 of them available, in no limited control group."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "cgroup").mkdir()
    (tmp_path / "proc/meminfo").write_text(
        f"MemTotal: {64 * GIB // 1024} kB\nMemFree: 1 kB\nMemAvailable: {48 * GIB // 1024} kB\n"
    )
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    return tmp_path / "proc", tmp_path / "cgroup"


def write_group(folder: Path, version: int, limit: object, usage: int, cache: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        2: ("memory.max", "memory.current", "inactive_file"),
    }[version]
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{usage}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{names[2]} {cache}\n")


def test_without_limits_the_machine_counts(roots):
    assert machine.total_memory(*roots) == 64 * GIB
    assert machine.available_memory(*roots) == 48 * GIB


def test_v2_takes_the_tightest_limit_up_the_hierarchy(roots):
    proc, cgroup = roots
    (proc / "self/cgroup").write_text("0::/slice/job\n")
    write_group(cgroup / "slice/job", 2, "max", 3 * GIB)
    write_group(cgroup / "slice", 2, 8 * GIB, 5 * GIB, cache=GIB)
    assert machine.total_memory(*roots) == 8 * GIB
    assert machine.available_memory(*roots) == 4 * GIB


def test_v1_beside_a_v2_folder(roots):
    proc, cgroup = roots
    (proc / "self/cgroup").write_text("9:name=systemd:/\n4:cpu,memory:/job\n0::/\n")
    (cgroup / "unified").mkdir()
    write_group(cgroup / "memory/job", 1, 2 * GIB, GIB, cache=GIB // 2)
    write_group(cgroup / "memory", 1, 9223372036854771712, 20 * GIB)
    assert machine.total_memory(*roots) == 2 * GIB
    assert machine.available_memory(*roots) == 3 * GIB // 2


def test_a_container_sees_the_hosts_path_but_its_own_root(roots):
    proc, cgroup = roots
    (proc / "self/cgroup").write_text("4:memory:/docker/0123\n")
    write_group(cgroup / "memory", 1, 2 * GIB, GIB)
    assert machine.total_memory(*roots) == 2 * GIB


def test_a_group_over_its_limit_has_nothing_available(roots):
    proc, cgroup = roots
    (proc / "self/cgroup").write_text("0::/job\n")
    write_group(cgroup / "job", 2, GIB, 2 * GIB)
    assert machine.available_memory(*roots) == 0
    assert machine.check_memory_limit(None, *roots) == mmap.PAGESIZE


@pytest.mark.parametrize("junk", ["", "max", "not a number"])
def test_unreadable_groups_are_passed_over(roots, junk):
    proc, cgroup = roots
    (proc / "self/cgroup").write_text("0::/job\n")
    write_group(cgroup / "job", 2, junk, GIB)
    assert machine.total_memory(*roots) == 64 * GIB
    (proc / "self/cgroup").unlink()
    assert machine.total_memory(*roots) == 64 * GIB


def test_meminfo_without_a_field_is_a_plain_error(roots):
    (roots[0] / "meminfo").write_text("MemTotal: 4 kB\n")
    with pytest.raises(ConfigError, match="MemAvailable"):
        machine.available_memory(*roots)


def test_the_default_limit_is_half_or_nine_tenths_of_what_is_left(roots):
    assert machine.check_memory_limit(None, *roots) == 32 * GIB
    (roots[0] / "meminfo").write_text("MemTotal: 1000000 kB\nMemAvailable: 100000 kB\n")
    assert machine.check_memory_limit(None, *roots) == 90000 * 1024 // mmap.PAGESIZE * mmap.PAGESIZE


def test_a_requested_limit_is_rounded_up_to_pages_and_checked(roots):
    assert machine.check_memory_limit(1, *roots) == mmap.PAGESIZE
    assert machine.check_memory_limit(48 * GIB, *roots) == 48 * GIB
    with pytest.raises(ConfigError, match=r"48\.5 GiB.*48 GiB.*hint"):
        machine.check_memory_limit(48 * GIB + GIB // 2, *roots)
    with pytest.raises(ConfigError, match="at least 1"):
        machine.check_memory_limit(0, *roots)


def test_this_machine():
    assert 0 < machine.available_memory() <= machine.total_memory()
    assert machine.check_memory_limit(None) % mmap.PAGESIZE == 0


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [(0, 0), ("17", 17), ("512MB", 512_000_000), ("4GiB", 4 * GIB), (" 1.5 gib ", 3 * GIB // 2)],
)
def test_parse_size(text, nbytes):
    assert machine.parse_size(text) == nbytes


@pytest.mark.parametrize("text", ["", "GiB", "-1", "4 G", "1e9", "0x10", "4GiB4", True, "٣"])
def test_parse_size_says_what_is_allowed(text):
    with pytest.raises(ValueError, match="powers of 1024"):
        machine.parse_size(text)


def test_sizes_are_rounded_to_the_unit_above():
    sizes = [1023, 1024, 1000 << 10, (1 << 20) - 52, (1 << 20) - 51, 0, -(1 << 20)]
    said = ["1023 B", "1 KiB", "1000 KiB", "1023.9 KiB", "1 MiB", "0 B", "-1 MiB"]
    assert [machine.format_size(n) for n in sizes] == said


@pytest.mark.parametrize("nbytes", [0, 12, 1024, 4 * GIB, 5 << 40])
def test_what_format_size_prints_can_be_read(nbytes):
    assert machine.parse_size(machine.format_size(nbytes)) == nbytes
