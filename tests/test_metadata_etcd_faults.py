"""Servers of etcd that are killed, stopped and emptied under those who use them."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Iterator

import pytest
from conftest import QUICK_ETCD, stop_process
from metadata_conformance import WAIT_S, fail, put
from metadata_members import ABOUT, record, wait_for, within

from vineyard_arrow.errors import (
    LeaseLostError,
    MetadataCompactedError,
    MetadataUnavailableError,
)
from vineyard_arrow.metadata.backend import (
    Changes,
    Committed,
    Put,
    Transaction,
    Watch,
    absent,
)
from vineyard_arrow.metadata.etcd import backend as backend_module
from vineyard_arrow.metadata.etcd import client as client_module
from vineyard_arrow.metadata.etcd import watch as watch_module
from vineyard_arrow.metadata.etcd.backend import EtcdBackend
from vineyard_arrow.metadata.etcd.client import rpc
from vineyard_arrow.metadata.etcd.server import EtcdServers
from vineyard_arrow.metadata.membership import Membership
from vineyard_arrow.metadata.records import Layout, Reference, create_global, persist


def drain(watch: Watch, until: int) -> list[Changes]:
    seen: list[Changes] = []
    while not seen or seen[-1].revision < until:
        changes = watch.next(WAIT_S)
        assert changes is not None, f"nothing after {seen[-1:]}, {until} was to come"
        seen.append(changes)
    return seen


# ---- servers that go away


def test_a_watch_resumes_over_a_restart(own_etcd, connect_etcd) -> None:
    backend = connect_etcd(own_etcd.address)
    start = backend.commit(put("/a", b"0")).revision
    watch = backend.watch("/", start - 1)
    assert watch.next(WAIT_S).revision == start
    (member,) = own_etcd.members
    member.stop()
    assert watch.next(0.3) is None
    assert watch.unavailable_since is not None
    member.start()
    last = backend.commit(put("/a", b"1"), timeout_s=WAIT_S).revision
    assert [c.revision for c in drain(watch, last)] == [last]
    assert watch.unavailable_since is None


def test_a_watch_does_not_spin_while_the_server_is_down(own_etcd, connect_etcd) -> None:
    backend = connect_etcd(own_etcd.address)
    watch = backend.watch("/", 1)
    own_etcd.stop()
    before = time.process_time()
    opened = []
    real = watch._open
    watch._open = lambda: (opened.append(1), real())
    assert watch.next(1.0) is None
    assert len(opened) <= 5
    assert time.process_time() - before < 0.5


def test_calls_fail_within_their_deadline_and_heal(own_etcd, connect_etcd) -> None:
    backend = connect_etcd(own_etcd.address)
    backend.commit(put("/a"))
    (member,) = own_etcd.members
    member.stop()
    within(lambda: backend.range("/a", timeout_s=0.3), MetadataUnavailableError)
    within(lambda: backend.commit(put("/a"), timeout_s=0.3), MetadataUnavailableError)
    within(lambda: backend.commit_each([put("/a")], timeout_s=0.3), MetadataUnavailableError)
    within(lambda: backend.grant(5, fail, timeout_s=0.3), MetadataUnavailableError)
    member.start()
    assert backend.range("/a", timeout_s=WAIT_S).items
    assert isinstance(backend.commit(put("/a")), Committed)


def test_a_server_that_stops_answering(own_etcd, connect_etcd) -> None:
    backend = connect_etcd(own_etcd.address)
    backend.commit(put("/a", b"1"))
    (member,) = own_etcd.members
    stop_process(member.pid)
    within(lambda: backend.range("/a", timeout_s=0.3), MetadataUnavailableError)
    late = Transaction((absent("/b"),), (Put("/b", b"2"),))
    within(lambda: backend.commit(late, timeout_s=0.3), MetadataUnavailableError)
    member.send_signal(signal.SIGCONT)
    # It may have been carried out meanwhile: that is what the error leaves open.
    assert backend.range("/a", timeout_s=WAIT_S).items[0].value == b"1"


def test_a_commit_whose_answer_was_lost_is_recognized(own_etcd, connect_etcd) -> None:
    backend = connect_etcd(own_etcd.address)
    real = backend.client.kvstub.Txn
    lost = []

    def losing(request, timeout, metadata):
        reply = real(request, timeout=timeout, metadata=metadata)
        if not lost:
            lost.append(reply)
            # The connection breaks under a second call, whose error is a real one.
            own_etcd.members[0].stop()
            own_etcd.members[0].start()
            return real(request, timeout=timeout, metadata=metadata)
        return reply

    backend.client.kvstub.Txn = losing
    transaction = Transaction((absent("/k"),), (Put("/k", b"mine"), Put("/l", b"mine")))
    verdict = backend.commit(transaction, timeout_s=WAIT_S)
    assert verdict == Committed(lost[0].header.revision)


def test_a_lease_is_lost_by_the_clock_when_nothing_answers(own_etcd, connect_etcd) -> None:
    backend = connect_etcd(own_etcd.address)
    told = threading.Event()
    lease = backend.grant(2, told.set)
    assert not lease.lost
    stop_process(own_etcd.members[0].pid)
    silent = time.monotonic()
    assert told.wait(WAIT_S)
    assert lease.lost
    # Its clock started when a keep-alive was sent, so it's over no later than etcd's.
    assert lease.alive_until <= silent + lease.ttl_s


def test_a_lease_outlives_a_restart_of_the_server(own_etcd, connect_etcd) -> None:
    backend = connect_etcd(own_etcd.address)
    lost = threading.Event()
    lease = backend.grant(5, lost.set)
    backend.commit(put("/k", b"", lease.id))
    granted_until = lease.alive_until
    (member,) = own_etcd.members
    member.stop()
    member.start()
    own_etcd.wait(WAIT_S)
    deadline = time.monotonic() + WAIT_S
    while lease.alive_until == granted_until and time.monotonic() < deadline:
        assert not lost.wait(0.05)
    assert lease.alive_until > granted_until
    assert backend.range("/k").items


def test_an_etcd_that_lost_its_data_is_noticed(own_etcd, connect_etcd) -> None:
    backend = connect_etcd(own_etcd.address)
    told = threading.Event()
    lease = backend.grant(5, told.set)
    last = backend.commit(put("/a", b"", lease.id)).revision
    watch = backend.watch("/", last - 1)
    drain(watch, last)
    (member,) = own_etcd.members
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


@pytest.mark.stress
@pytest.mark.timeout(300)
def test_a_member_puts_back_more_than_one_deadline_is_enough_for(own_etcd, connect_etcd) -> None:
    layout = Layout("c")
    one = Membership(connect_etcd(own_etcd.address), layout, ABOUT, 3.0)
    # Commits of a large cluster take their time: 1,500 of them take longer than one may take.
    slow = one._groups._backend = SlowBackend(connect_etcd(own_etcd.address))
    done = [one.submit(persist(layout, record(one, i)), 60.0) for i in range(1, 1501)]
    one.mirror.wait(max(each.result().revision for each in done), WAIT_S)
    before = shown(one)
    slow.pause_s = 0.3
    (member,) = own_etcd.members
    member.stop()
    shutil.rmtree(member.folder)
    member.start()
    del before[layout.counter]
    wait_for(lambda: one.fenced)
    one.wait_joined(120.0)
    slow.pause_s = 0.0
    wait_for(lambda: shown(one) == before)
    one.close()


class SlowBackend:
    def __init__(self, backend: EtcdBackend) -> None:
        self.backend, self.pause_s = backend, 0.0
        self.commit = backend.commit

    def commit_each(self, transactions, timeout_s):
        time.sleep(self.pause_s)
        return self.backend.commit_each(transactions, timeout_s)


@pytest.mark.parametrize("busy", [0, 50])
def test_a_member_puts_back_what_an_emptied_etcd_lost(own_etcd, connect_etcd, busy) -> None:
    layout = Layout("c")
    one = Membership(connect_etcd(own_etcd.address), layout, ABOUT, 3.0)
    two = Membership(connect_etcd(own_etcd.address), layout, ABOUT, 3.0)
    made = record(one, 1, names=("n",), signature=7)
    one.commit(persist(layout, made))
    theirs = record(two, 1)
    verdict = two.commit(persist(layout, theirs))
    one.mirror.wait(verdict.revision, WAIT_S)
    members = (Reference(made.id, made.iid), Reference(theirs.id, theirs.iid))
    (step,) = create_global(layout, record(one, 2, names=("g",), members=members))
    one.commit(step)
    before = shown(one)
    (member,) = own_etcd.members
    member.stop()
    shutil.rmtree(member.folder)
    wait_for(lambda: one.mirror.unavailable_since is not None)
    # What was known stays readable meanwhile.
    assert one.mirror.get(layout.name("n"))
    member.start()
    # Its revisions get past those it lost before the watches look.
    stranger = connect_etcd(own_etcd.address)
    for i in range(busy):
        stranger.commit(put(f"/other/{i}"), WAIT_S)
    del before[layout.counter]  # it begins somewhere else
    for each in (one, two):
        wait_for(lambda each=each: shown(each) == before)
        each.wait_joined(WAIT_S)
        wait_for(lambda each=each: each.mirror.unavailable_since is None)
    one.close()
    two.close()


def test_a_member_that_is_cut_off_fences_itself_and_heals(own_etcd, connect_etcd) -> None:
    layout = Layout("c")
    one = Membership(connect_etcd(own_etcd.address), layout, ABOUT, 3.0)
    made = record(one, 1, names=("n",))
    assert isinstance(one.commit(persist(layout, made)), Committed)
    (member,) = own_etcd.members
    stop_process(member.pid)
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
    assert (
        connect_etcd(own_etcd.address).range(layout.prefix, prefix=True).items[0].key
        == layout.counter
    )


def test_joining_fails_within_its_deadline(own_etcd, connect_etcd) -> None:
    backend = connect_etcd(own_etcd.address)
    stop_process(own_etcd.members[0].pid)
    within(
        lambda: Membership(backend, Layout("c"), ABOUT, 5.0, timeout_s=0.5),
        MetadataUnavailableError,
    )


# ---- several members


@pytest.fixture
def three() -> Iterator[EtcdServers]:
    with EtcdServers(
        3, unsafe=True, options=[*QUICK_ETCD, "--heartbeat-interval=50", "--election-timeout=500"]
    ) as servers:
        yield servers


def leader_of(servers: EtcdServers, backend: EtcdBackend) -> int:
    client = backend.client
    listed = client.call(client.clusterstub.MemberList, rpc.MemberListRequest(), WAIT_S)
    names = {member.ID: member.name for member in listed.members}
    deadline = time.monotonic() + WAIT_S
    while True:  # there is none while they elect one
        leader = client.call(client.maintenancestub.Status, rpc.StatusRequest(), WAIT_S).leader
        if leader in names:
            return int(names[leader].removeprefix("m"))
        assert time.monotonic() < deadline, "no leader is elected"


def test_the_leader_of_three_is_killed(three, connect_etcd) -> None:
    backend = connect_etcd(three.address)
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
    within(lambda: backend.commit(put("/x"), 1.0), MetadataUnavailableError)
    within(lambda: backend.range("/x", timeout_s=1.0), MetadataUnavailableError)
    three.members[other].start()
    last = backend.commit(put("/y"), WAIT_S)
    assert drain(watch, last.revision)[-1].revision == last.revision


def test_a_member_that_stops_answering_is_left(three, connect_etcd, monkeypatch) -> None:
    monkeypatch.setattr(client_module, "ATTEMPT_S", 0.5)
    monkeypatch.setattr(backend_module, "ATTEMPT_S", 0.5)
    monkeypatch.setattr(watch_module, "SILENT_S", 0.3)
    monkeypatch.setattr(watch_module, "ANSWER_S", 0.7)
    backend = connect_etcd(three.address)
    leader = leader_of(three, backend)
    stopped = (leader + 1) % 3
    backend.client.channel._current = stopped
    start = backend.commit(put("/0")).revision
    watch = backend.watch("/", start - 1)
    assert watch.next(WAIT_S).revision == start
    stop_process(three.members[stopped].pid)
    last = backend.commit(put("/1"), WAIT_S).revision
    assert backend.client.channel.current != stopped
    assert drain(watch, last)[-1].revision == last
