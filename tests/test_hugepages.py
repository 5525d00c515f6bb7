"""Both sources of shared-memory files keep the same promises; the huge one may be unavailable."""

import errno
import fcntl
import mmap
import os
import time
from pathlib import Path

import pytest

from vineyard_arrow.ipc import hugepages, mounts
from vineyard_arrow.ipc.hugepages import (
    HUGE_PAGE_NBYTES,
    HugePagesUnavailable,
    MemFiles,
    open_huge_files,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")

SIZE = 8 * HUGE_PAGE_NBYTES


def descriptors():
    return sorted(int(fd) for fd in os.listdir("/proc/self/fd"))


def children():
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


@pytest.fixture(autouse=True)
def nothing_leaks():
    before = descriptors(), children(), Path("/proc/self/mountinfo").read_text()
    yield
    assert (descriptors(), children(), Path("/proc/self/mountinfo").read_text()) == before


def huge_files_or_reason(size_nbytes):
    """The huge source and "", or None and why this machine has none: no test is skipped."""
    try:
        return open_huge_files(size_nbytes), ""
    except HugePagesUnavailable as error:
        return None, error.reason


@pytest.fixture(params=["memfd", "huge"])
def files(request):
    """Each source; where huge pages are unavailable its stand-in is another memfd one."""
    if request.param == "memfd":
        source = MemFiles()
    else:
        source, reason = huge_files_or_reason(SIZE)
        assert source or reason
        source = source or MemFiles()
    yield source
    source.close()
    source.close()


@pytest.fixture
def pair(files):
    rw_fd, ro_fd = files.create("segment-1")
    os.ftruncate(rw_fd, HUGE_PAGE_NBYTES)
    yield rw_fd, ro_fd
    os.close(rw_fd)
    os.close(ro_fd)


def test_the_machine_gives_huge_pages_or_says_why():
    files, reason = huge_files_or_reason(SIZE)
    assert (files is None) == bool(reason.strip())
    if files is not None:
        assert (files.page_kind, files.huge) == ("huge-tmpfs", True)
        files.close()


def test_both_descriptors_show_one_file(files, pair):
    rw_fd, ro_fd = pair
    with mmap.mmap(ro_fd, 0, prot=mmap.PROT_READ) as reader, mmap.mmap(rw_fd, 0) as writer:
        writer[:5] = b"hello"
        assert reader[:5] == b"hello"
    assert os.fstat(rw_fd).st_ino == os.fstat(ro_fd).st_ino


def test_a_reader_cannot_write(files, pair):
    _, ro_fd = pair
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.pwrite(ro_fd, b"x", 0)
    with pytest.raises(PermissionError):
        mmap.mmap(ro_fd, 4096)
    with pytest.raises(OSError, match="Invalid argument"):
        os.ftruncate(ro_fd, 0)
    if files.huge and files.page_kind == "huge-tmpfs":
        with pytest.raises(OSError, match="Read-only") as caught:
            os.open(f"/proc/self/fd/{ro_fd}", os.O_RDWR)
        assert caught.value.errno == errno.EROFS
    assert "refuses" in files.protection


def test_descriptors_close_on_exec(files, pair):
    sealable = files.create_sealable("strict")
    for fd in (*pair, *sealable):
        assert not os.get_inheritable(fd)
    for fd in sealable:
        os.close(fd)


def test_a_touched_page_is_huge_where_the_source_says_so(files, pair):
    assert hugepages._gives_huge_page(pair[0]) is files.huge


def test_seal_size(files, pair):
    rw_fd, _ = pair
    files.seal_size(rw_fd)
    if files.page_kind != "huge-tmpfs":
        with pytest.raises(PermissionError):
            os.ftruncate(rw_fd, 0)
    os.pwrite(rw_fd, b"still writable", 0)


def test_sealable_files_take_a_write_seal(files):
    rw_fd, ro_fd = files.create_sealable("strict")
    os.pwrite(rw_fd, b"x", 0)
    fcntl.fcntl(rw_fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    with pytest.raises(PermissionError):
        os.pwrite(rw_fd, b"y", 0)
    assert os.pread(ro_fd, 2, 0) == b"x"
    os.close(rw_fd)
    os.close(ro_fd)


def test_files_outlive_their_source_and_names_can_return(files):
    pairs = [files.create("same"), files.create("same")]
    files.close()
    for number, (rw_fd, _) in enumerate(pairs):
        os.pwrite(rw_fd, b"%d" % number, 0)
    assert [os.pread(ro_fd, 9, 0) for _, ro_fd in pairs] == [b"0", b"1"]
    for fd in (*pairs[0], *pairs[1]):
        os.close(fd)


def test_a_full_mount_refuses_more():
    files, reason = huge_files_or_reason(HUGE_PAGE_NBYTES)
    if files is None:
        assert reason
        return
    rw_fd, ro_fd = files.create("big")
    with pytest.raises(OSError, match="No space"):
        os.posix_fallocate(rw_fd, 0, SIZE)
    os.close(rw_fd)
    os.close(ro_fd)
    files.close()


def refuse(code):
    def enter_namespaces(libc):
        raise OSError(code, "unshare(NEWUSER): refused")

    return enter_namespaces


def hang(libc):
    time.sleep(60)


@pytest.mark.parametrize(
    ("helper", "reason"),
    [
        (refuse(errno.EPERM), r"^unshare\(NEWUSER\): refused$"),
        (lambda libc: os._exit(3), "helper process died"),
        (lambda libc: 1 / 0, "helper process died"),
        (hang, r"did not answer in 0\.2 s"),
    ],
    ids=["refused", "killed", "crashed", "hung"],
)
def test_a_failing_helper_is_a_reason(monkeypatch, helper, reason):
    monkeypatch.setattr(mounts, "_enter_namespaces", helper)
    timeout_s = 0.2 if helper is hang else 60.0
    with pytest.raises(HugePagesUnavailable, match=reason):
        open_huge_files(SIZE, timeout_s=timeout_s)


def test_a_mount_without_huge_pages_is_found_out(monkeypatch):
    monkeypatch.setattr(hugepages, "_gives_huge_page", lambda fd: False)
    with pytest.raises(HugePagesUnavailable):
        open_huge_files(SIZE)


def test_an_unprivileged_user_gets_the_same_answers():
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.getuid() == 0:
                os.setgroups([])
                os.setresgid(65534, 65534, 65534)
                os.setresuid(65534, 65534, 65534)
                mounts.load_libc().prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, lost with the user
            files, reason = huge_files_or_reason(SIZE)
            answer = f"{files.page_kind} {len(files.create('a'))}" if files else f"why: {reason}"
            os.write(write_end, answer.encode())
        finally:
            os._exit(0)
    os.close(write_end)
    with open(read_end) as stream:
        answer = stream.read()
    os.waitpid(child, 0)
    assert answer == "huge-tmpfs 2" or len(answer) > len("why: ")
