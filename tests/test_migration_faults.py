"""Either process of a migration meets a peer that lies, stops or dies, or is killed itself.

One end is the real process; the test is the other, so it decides how far things have come.
Whatever happens, nothing is half there, and no memory is held.
"""

from __future__ import annotations

import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import Daemon, check_clean, run_daemon, stopped

from vineyard_arrow import ObjectID, ObjectMeta
from vineyard_arrow.client import Client
from vineyard_arrow.errors import (
    AccessDeniedError,
    ConnectionLostError,
    DeadlineExceededError,
    InvalidObjectError,
    ProtocolError,
    StoreFullError,
)
from vineyard_arrow.migration import endpoint as e
from vineyard_arrow.migration import protocol as m
from vineyard_arrow.migration.ends import ForkServer
from vineyard_arrow.migration.line import Line
from vineyard_arrow.migration.pair import follow, listening
from vineyard_arrow.migration.tcp import TcpListener, TcpTransport
from vineyard_arrow.migration.tree import Tree

TIMEOUT_S = 60.0
MIB = 1 << 20
TOKEN = secrets.token_hex(32)


@pytest.fixture(scope="module")
def forks() -> Iterator[ForkServer]:
    server = ForkServer()
    yield server
    server.close()


def receive_order(timeout_s: float = TIMEOUT_S, peer: e.Peer | None = None) -> e.ReceiveOrder:
    return e.ReceiveOrder(TOKEN, "tcp", timeout_s, peer)


def send_order(root: int, peer: e.Peer | None = None, timeout_s: float = TIMEOUT_S) -> e.SendOrder:
    return e.SendOrder(root, TOKEN, "tcp", None, timeout_s, peer)


def job(daemon: Daemon, order: e.Order, **place: Any) -> e.Job:
    return e.Job(order, e.Place(str(daemon.socket), **place))


@pytest.fixture(scope="module")
def other_daemon(folder: Path) -> Iterator[Daemon]:
    daemon = run_daemon(folder, "far", "--memory-limit", "256MiB", "--pages", "small")
    yield daemon
    daemon.kill()


@pytest.fixture
def far(other_daemon: Daemon) -> Iterator[Daemon]:
    """The destination, empty before and after."""
    fds = other_daemon.fds
    yield other_daemon
    check_clean(other_daemon, fds)


class Stack(ExitStack):
    """What a test leaves open, and where its ends come from."""

    forks: ForkServer


@pytest.fixture
def stack(forks: ForkServer) -> Iterator[Stack]:
    with Stack() as stack:
        stack.forks = forks
        yield stack


def deadline() -> float:
    return time.monotonic() + TIMEOUT_S


class Far:
    """A real receiver, whose sender is the test."""

    def __init__(self, stack: Stack, daemon: Daemon, timeout_s: float = TIMEOUT_S) -> None:
        self._stack = stack
        self.end = stack.enter_context(
            stack.forks.start("receiver", job(daemon, receive_order(timeout_s)))
        )
        self.address = listening(self.end, deadline())

    def connect(self, token: str = TOKEN) -> Line:
        line = Line(TcpTransport().connect(self.address, TIMEOUT_S))
        self._stack.callback(line.close)
        line.prove(bytes.fromhex(token))
        return line

    def offer(self, tree: Tree) -> Line:
        """As far as the payload."""
        line = self.connect()
        line.send(offer_of(tree))
        ready = line.expect(m.Ready)
        assert ready == m.Ready(0, True)
        line.send(m.Manifest(tree.entries))
        self.progress(0)
        return line

    def progress(self, at_least: int) -> None:
        """Wait until so much has come."""
        while self.end.next(deadline()).done < at_least:
            pass


def offer_of(tree: Tree) -> m.Offer:
    return m.Offer(tree.root, len(tree.entries), tree.payload.nbytes, None)


def send(line: Line, tree: Tree, begin: int, end: int) -> None:
    """Blocks from one multiple of their size to another."""
    while begin < end:
        stop = m.block_end(begin, tree.payload.nbytes)
        pieces = tree.payload.pieces(begin, stop)
        line.channel.send([m.block_header(m.RAW, stop - begin, begin), *pieces])
        begin = stop


@pytest.fixture
def tree(client: Client) -> Iterator[Tree]:
    """Three blocks and a bit, of two objects."""
    data = client.put(pa.table({"x": np.arange(3 * m.BLOCK // 8), "y": [1] * (3 * m.BLOCK // 8)}))
    meta = ObjectMeta("test.composite")
    meta.add_member("data", data)
    tree = Tree(client._a, int(client.create_metadata(meta).id))
    yield tree
    tree.__dict__.clear()  # its pins, whoever still has it


def check_arrived(daemon: Daemon, object_id: int) -> None:
    with daemon.connect() as client:
        table = client.get(client.get_meta(ObjectID(object_id)).members["data"].id)
        assert table["x"].to_numpy().tolist() == list(range(3 * m.BLOCK // 8))


def check_nothing(daemon: Daemon) -> None:
    """Nothing is visible, nothing is held."""
    assert daemon.fds  # the daemon has seen who went
    status = daemon.status()
    assert (status.objects, status.memory_used, status.memory_charged) == (0, 0, 0)


# ---- connections that break off


def test_a_sender_that_comes_again_goes_on(far: Daemon, tree: Tree, stack: Stack) -> None:
    receiver = Far(stack, far)
    line = receiver.offer(tree)
    send(line, tree, 0, 2 * m.BLOCK)
    line.channel.send([m.block_header(m.RAW, m.BLOCK, 2 * m.BLOCK), b"half a block"])
    line.close()
    line = receiver.connect()
    line.send(offer_of(tree))
    assert line.expect(m.Ready) == m.Ready(2 * m.BLOCK, False)
    send(line, tree, 2 * m.BLOCK, tree.payload.nbytes)
    done = line.expect(m.Done).id
    assert done >> 40 != tree.root >> 40
    check_arrived(far, done)


def test_a_sender_that_comes_again_with_another_object(
    far: Daemon, tree: Tree, stack: Stack
) -> None:
    receiver = Far(stack, far)
    receiver.offer(tree).close()
    line = receiver.connect()
    line.send(m.Offer(1, 1, 1, None))
    with pytest.raises(ProtocolError, match="another object"):
        line.expect(m.Ready)
    with pytest.raises(ProtocolError, match="another object"):
        receiver.progress(1)


def test_a_sender_may_listen(far: Daemon, daemon: Daemon, tree: Tree, stack: Stack) -> None:
    sender = stack.enter_context(stack.forks.start("sender", job(daemon, send_order(tree.root))))
    peer = e.Peer(listening(sender, deadline()))
    order = receive_order(peer=peer)
    receiver = stack.enter_context(stack.forks.start("receiver", job(far, order)))
    check_arrived(far, follow(receiver, sender, None, TIMEOUT_S))


def test_two_migrations_of_one_object_at_a_time(far: Daemon, tree: Tree, stack: Stack) -> None:
    receivers = [Far(stack, far), Far(stack, far)]
    lines = [receiver.offer(tree) for receiver in receivers]
    ids = []
    for line in lines:
        send(line, tree, 0, tree.payload.nbytes)
        ids.append(line.expect(m.Done).id)
    assert ids[0] == ids[1]
    for receiver in receivers:
        receiver.end.close()
    assert far.fds
    assert far.status().memory_used <= tree.payload.nbytes + 2 * 4096
    check_arrived(far, ids[0])


class Near:
    """A real sender, whose receiver is the test."""

    def __init__(
        self, stack: Stack, daemon: Daemon, root: int, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._stack = stack
        self._listener = TcpListener("127.0.0.1")
        stack.callback(self._listener.close)
        self.end = stack.enter_context(
            stack.forks.start(
                "sender", job(daemon, send_order(root, e.Peer(self._listener.address), timeout_s))
            )
        )

    def accept(self, token: str = TOKEN) -> Line:
        line = Line(self._listener.accept(TIMEOUT_S))
        self._stack.callback(line.close)
        line.admit(bytes.fromhex(token))
        return line

    def manifest(self) -> tuple[Line, bytearray]:
        """As far as the payload, and where it goes."""
        line = self.accept()
        offer = line.expect(m.Offer)
        line.send(m.Ready(0, True))
        objects = 0
        while objects < offer.objects:
            objects += len(line.expect(m.Manifest).entries)
        memory = bytearray(offer.nbytes)
        line.inbound.payload = m.Payload([memoryview(memory)])
        return line, memory


def receive(line: Line, end: int) -> None:
    while line.inbound.position < end:
        line.receive_payload(None)


def content_of(tree: Tree) -> bytes:
    return b"".join(tree.payload.pieces(0, tree.payload.nbytes))


def test_a_sender_reconnects(daemon: Daemon, tree: Tree, stack: Stack) -> None:
    sender = Near(stack, daemon, tree.root)
    line, memory = sender.manifest()
    receive(line, m.BLOCK)
    line.channel._sock.close()
    again = sender.accept()
    assert again.expect(m.Offer) == offer_of(tree)
    again.send(m.Ready(m.BLOCK, False))
    again.inbound.payload, again.inbound.position = line.inbound.payload, m.BLOCK
    receive(again, len(memory))
    assert memory == content_of(tree)
    again.send(m.Done(77))
    assert sender.end.next(deadline()) == e.Finished(77)


def test_a_receiver_that_is_gone(daemon: Daemon, tree: Tree, stack: Stack) -> None:
    sender = Near(stack, daemon, tree.root)
    line, _ = sender.manifest()
    sender._listener.close()
    line.channel._sock.close()
    with pytest.raises(ConnectionLostError, match="no receiver listens"):
        sender.end.next(deadline())


def test_what_the_receiver_says_is_what_the_sender_says(
    daemon: Daemon, tree: Tree, stack: Stack
) -> None:
    sender = Near(stack, daemon, tree.root)
    line, _ = sender.manifest()
    line.fail(StoreFullError("no room at all"))
    line.close()
    with pytest.raises(StoreFullError, match="no room at all"):
        sender.end.next(deadline())


# ---- processes that are killed


def before_manifest(receiver: Far, tree: Tree) -> None:
    receiver.connect()


def before_payload(receiver: Far, tree: Tree) -> None:
    receiver.offer(tree)


def amid_payload(receiver: Far, tree: Tree) -> None:
    line = receiver.offer(tree)
    send(line, tree, 0, 2 * m.BLOCK)
    receiver.progress(2 * m.BLOCK)


@pytest.mark.parametrize("point", [before_manifest, before_payload, amid_payload])
def test_a_receiver_is_killed(
    far: Daemon, tree: Tree, stack: Stack, point: Callable[[Far, Tree], None]
) -> None:
    receiver = Far(stack, far)
    point(receiver, tree)
    if point is not before_manifest:
        assert far.status().memory_charged >= tree.payload.nbytes
    receiver.end.close()
    check_nothing(far)


def test_a_receiver_is_killed_before_its_put(far: Daemon, tree: Tree, stack: Stack) -> None:
    receiver = Far(stack, far)
    line = receiver.offer(tree)
    with stopped(far.pid):
        send(line, tree, 0, tree.payload.nbytes)
        receiver.progress(tree.payload.nbytes)
        receiver.end.close()
    check_nothing(far)


@pytest.mark.parametrize("payload", [False, True])
def test_a_sender_is_killed(daemon: Daemon, client: Client, stack: Stack, payload: bool) -> None:
    oid = client.put(np.arange(3 * m.BLOCK // 8))
    sender = Near(stack, daemon, int(oid))
    if payload:
        line, _ = sender.manifest()
        receive(line, m.BLOCK)
    else:
        sender.accept()
    client.delete(oid)
    assert daemon.status().deleted_pinned == 1
    sender.end.close()
    assert daemon.fds
    assert daemon.status().deleted_pinned == 0


@pytest.mark.parametrize("role", ["sender", "receiver"])
def test_who_migrates_hears_of_a_death(
    daemon: Daemon, far: Daemon, tree: Tree, stack: Stack, role: str
) -> None:
    receiver = Far(stack, far).end
    sender = stack.enter_context(stack.forks.start("sender"))  # waits for its job
    os.kill({"sender": sender, "receiver": receiver}[role].pid, signal.SIGKILL)
    with pytest.raises(ConnectionLostError, match=rf"the {role} of a migration .* died"):
        follow(receiver, sender, None, TIMEOUT_S)


def test_processes_end_with_who_started_them(far: Daemon) -> None:
    code = f"""if 1:
        import time
        from vineyard_arrow.migration import endpoint as e
        from vineyard_arrow.migration.ends import ForkServer
        forks = ForkServer()
        order = e.ReceiveOrder("00", "tcp", 9)
        ends = [forks.start("receiver", e.Job(order, e.Place({str(far.socket)!r})))]
        ends[0].next(time.monotonic() + 60)
        ends.append(forks.start("sender"))
        print(*[end.pid for end in ends], forks._process.pid, flush=True)
        input()
    """
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        ends = [os.pidfd_open(pid) for pid in pids]
        parent.kill()
    for end in ends:
        assert select.select([end], [], [], TIMEOUT_S)[0]
        os.close(end)


# ---- peers that do nothing, or anything


def test_strangers_do_not_disturb(far: Daemon, tree: Tree, stack: Stack) -> None:
    receiver = Far(stack, far)
    host, port = receiver.address.split(":")
    for greeting in (b"", b"GET / HTTP/1.1\r\n\r\n", os.urandom(5000), m.encode(m.Done(1))):
        with socket.create_connection((host, int(port)), TIMEOUT_S) as stranger:
            stranger.sendall(greeting)
            stranger.shutdown(socket.SHUT_WR)
            heard = b""
            while chunk := stranger.recv(4096):
                heard += chunk
            assert TOKEN.encode() not in heard
            assert bytes.fromhex(TOKEN) not in heard
    with pytest.raises(AccessDeniedError, match="sender does not know"):
        receiver.connect(secrets.token_hex(32)).expect(m.Ready)
    line = receiver.offer(tree)
    send(line, tree, 0, tree.payload.nbytes)
    check_arrived(far, line.expect(m.Done).id)


def test_a_receiver_with_a_wrong_token(daemon: Daemon, tree: Tree, stack: Stack) -> None:
    sender = Near(stack, daemon, tree.root)
    line = Line(sender._listener.accept(TIMEOUT_S))
    stack.callback(line.close)
    line.send(m.Challenge(m.VERSION, bytes(32)))
    proof = line.expect(m.Proof)
    line.send(m.Welcome(m.prove(b"wrong", "receiver", proof.nonce, bytes(32))))
    with pytest.raises(AccessDeniedError, match="receiver does not know"):
        line.expect(m.Offer)
    with pytest.raises(AccessDeniedError, match="receiver does not know"):
        sender.end.next(deadline())


def test_the_token_is_in_no_listing(far: Daemon, stack: Stack) -> None:
    pid = Far(stack, far).end.pid
    for name in ("cmdline", "environ"):
        assert TOKEN.encode() not in Path(f"/proc/{pid}/{name}").read_bytes()


def test_a_sender_that_stops(far: Daemon, tree: Tree, stack: Stack) -> None:
    receiver = Far(stack, far, timeout_s=1.0)
    line = receiver.offer(tree)
    send(line, tree, 0, m.BLOCK)
    with pytest.raises(DeadlineExceededError):
        receiver.progress(tree.payload.nbytes)
    receiver.end.close()
    check_nothing(far)


def test_no_sender_at_all(far: Daemon, stack: Stack) -> None:
    with pytest.raises(DeadlineExceededError, match="no sender came"):
        Far(stack, far, timeout_s=1.0).end.next(deadline())


def test_a_receiver_that_stops(daemon: Daemon, client: Client, stack: Stack) -> None:
    oid = client.put(np.zeros(32 * MIB, np.uint8))  # more than sockets hold
    sender = Near(stack, daemon, int(oid), timeout_s=1.0)
    sender.manifest()
    with pytest.raises(DeadlineExceededError):
        sender.end.next(deadline())


def entry(**changes: Any) -> m.Entry:
    fields: dict[str, Any] = {
        "id": 5,
        "typename": "t",
        "streams": b"",
        "ranges": [(64, 10)],
        "members": [],
        "nbytes": 10,
        "signature": 5,
        "own": True,
    }
    return m.Entry(**(fields | changes))


HOSTILE = {
    "no messages": ([entry()], InvalidObjectError),
    "garbage": ([entry(streams=b"\xff" * 64)], InvalidObjectError),
    "more bytes": ([entry(ranges=[(64, 11)])], ProtocolError),
    "fewer bytes": ([entry(ranges=[(64, 9)])], ProtocolError),
    "no range": ([entry(ranges=[(64, 10), (128, 0)])], ProtocolError),
    "another object": ([entry(id=6)], ProtocolError),
    "too many": ([entry(id=6, ranges=[]), entry()], ProtocolError),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_manifest_that_lies(far: Daemon, stack: Stack, case: str) -> None:
    entries, error = HOSTILE[case]
    receiver = Far(stack, far)
    line = receiver.connect()
    line.send(m.Offer(5, 1, 10, None))
    line.expect(m.Ready)
    line.send(m.Manifest(entries))
    if error is InvalidObjectError:
        line.channel.send([m.block_header(m.RAW, 10, 0), bytes(10)])
    with pytest.raises(error):
        line.expect(m.Done)
    receiver.end.close()
    check_nothing(far)


def test_messages_about_memory_that_did_not_come(far: Daemon, client: Client, stack: Stack) -> None:
    """Buffers of a lying manifest never point to what is somebody else's there."""
    whole = Tree(client._a, int(client.put(np.arange(50_000))))
    (honest,) = whole.entries
    offset, nbytes = honest.ranges[0]
    for place in ((offset, nbytes - 1), (offset + 1, nbytes), (offset + (1 << 30), nbytes)):
        receiver = Far(stack, far)
        line = receiver.connect()
        line.send(m.Offer(5, 1, place[1], None))
        line.expect(m.Ready)
        line.send(m.Manifest([entry(streams=honest.streams, ranges=[place])]))
        line.channel.send([m.block_header(m.RAW, place[1], 0), bytes(place[1])])
        with pytest.raises(InvalidObjectError, match="nothing was received"):
            line.expect(m.Done)
        receiver.end.close()
        check_nothing(far)


def test_members_that_did_not_come(far: Daemon, tree: Tree, stack: Stack) -> None:
    receiver = Far(stack, far)
    line = receiver.connect()
    line.send(m.Offer(tree.root, 1, 0, None))
    line.expect(m.Ready)
    line.send(m.Manifest([tree.entries[-1]]))
    with pytest.raises(InvalidObjectError, match="came damaged"):
        line.expect(m.Done)


# ---- instances


def test_the_object_is_deleted_meanwhile(daemon: Daemon, client: Client, stack: Stack) -> None:
    values = np.arange(3 * m.BLOCK // 8)
    oid = client.put(values)
    sender = Near(stack, daemon, int(oid))
    line, memory = sender.manifest()
    client.delete(oid)
    client.put(np.zeros(3 * m.BLOCK // 8))  # would take its place
    receive(line, len(memory))
    assert memory == values.tobytes()
    line.send(m.Done(1))
    assert sender.end.next(deadline()) == e.Finished(1)


def test_the_daemon_there_dies(
    make_daemon: Callable[..., Daemon], tree: Tree, stack: Stack
) -> None:
    there = make_daemon("--memory-limit", "128MiB", "--pages", "small")
    receiver = Far(stack, there)
    line = receiver.offer(tree)
    there.kill()
    send(line, tree, 0, tree.payload.nbytes)
    with pytest.raises(ConnectionLostError):
        line.expect(m.Done)
    with pytest.raises(ConnectionLostError):
        receiver.progress(tree.payload.nbytes + 1)


def test_the_daemon_here_dies(make_daemon: Callable[..., Daemon], stack: Stack) -> None:
    """What is mapped stays readable: the object arrives."""
    here = make_daemon("--memory-limit", "128MiB", "--pages", "small")
    values = np.arange(3 * m.BLOCK // 8)
    with here.connect() as client:
        sender = Near(stack, here, int(client.put(values)))
        line, memory = sender.manifest()
        here.kill()
        receive(line, len(memory))
    assert memory == values.tobytes()
    line.send(m.Done(9))
    assert sender.end.next(deadline()) == e.Finished(9)
