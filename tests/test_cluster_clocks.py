"""Instances whose wall clocks are hours apart, and step while they run.

Leases and deadlines are by monotonic clocks, of each host its own, and what came first is by
etcd's revisions. So only what `created` says is off. The clocks are those of whole daemons: a
library that is loaded before all others answers for the C library, Python's and grpc's calls
included.
"""

from __future__ import annotations

import mmap
import os
import shlex
import struct
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cluster_harness import SMALL, TABLE, agree, until
from conftest import Daemon
from metadata_conformance import WAIT_S
from net_harness import Relay
from test_cluster_partition import fenced_at, gone_at, shared_by

from vineyard_arrow.client import Client
from vineyard_arrow.metadata.etcd.backend import EtcdBackend
from vineyard_arrow.metadata.etcd.client import rpc
from vineyard_arrow.metadata.etcd.server import EtcdServers
from vineyard_arrow.objects import ObjectMeta

LEASE_S = 4
HOUR_S, DAY_S = 3600, 86400

SKEW = r"""
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile long *skew_s;

__attribute__((constructor)) static void open_skew(void) {
  int fd = open(getenv("SKEW_FILE"), O_RDONLY | O_CLOEXEC);
  skew_s = (const volatile long *)mmap(0, sizeof(long), PROT_READ, MAP_SHARED, fd, 0);
  if (fd < 0 || skew_s == MAP_FAILED) abort();
  close(fd);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  int result = (int)syscall(SYS_clock_gettime, clock, now);
  if (result == 0 && skew_s && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
    now->tv_sec += *skew_s;
  return result;
}

int gettimeofday(struct timeval *now, void *zone) {
  struct timespec t;
  (void)zone;
  clock_gettime(CLOCK_REALTIME, &t);
  now->tv_sec = t.tv_sec;
  now->tv_usec = t.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *out) {
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  if (out) *out = t.tv_sec;
  return t.tv_sec;
}
"""


class Clock:
    """By how many seconds the wall clock of daemons is off; may change while they run."""

    def __init__(self, path: Path, seconds: int) -> None:
        self.path = path
        path.write_bytes(struct.pack("l", seconds))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)

    def set(self, seconds: int) -> None:
        self._map[:] = struct.pack("l", seconds)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("skew")
    (folder / "skew.c").write_text(SKEW)
    compiler = shlex.split(os.environ.get("CXX", "g++"))
    subprocess.run(
        [*compiler, "-x", "c", "-shared", "-fPIC", "-o", folder / "skew.so", folder / "skew.c"],
        check=True,
    )
    return folder / "skew.so"


@pytest.fixture
def join(
    etcd: EtcdServers,
    make_daemon: Callable[..., Daemon],
    library: Path,
    tmp_path: Path,
) -> Callable[..., tuple[Daemon, Clock]]:
    """Start an instance with a clock of its own."""
    made: list[Clock] = []

    def make(seconds: int, at: object = etcd.address) -> tuple[Daemon, Clock]:
        clock = Clock(tmp_path / f"skew{len(made)}", seconds)
        made.append(clock)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LD_PRELOAD", str(library))
            patch.setenv("SKEW_FILE", str(clock.path))
            where = f"etcd://{at}/{tmp_path.name}"
            options = (*SMALL, "--meta", where, "--meta-lease-s", str(LEASE_S))
            return make_daemon(*options), clock

    return make


def off_s(client: Client) -> float:
    """How far the clock of a client's instance is off, as what it makes there says."""
    with client.create_stream(TABLE.schema, name="clock") as writer:
        writer.write(TABLE)
    (info,) = client.list_streams()
    client.drop_stream("clock")
    return (info.created - datetime.now(UTC)).total_seconds()


def renewed(backend: EtcdBackend, clients: list[Client], times: int) -> None:
    """Return once the leases of all have run down and been renewed so often."""
    client = backend.client

    def left_s(lease: int) -> int:
        request = rpc.LeaseTimeToLiveRequest(ID=lease)
        left = client.call(client.leasestub.LeaseTimeToLive, request, WAIT_S).TTL
        assert left >= 0, "the lease has ended"
        return left

    leases = {info.lease for info in clients[0].instances()}
    assert len(leases) == len(clients)
    for _ in range(times):
        for lease in leases:
            until(lambda lease=lease: left_s(lease) < LEASE_S - 1)
        for lease in leases:
            until(lambda lease=lease: left_s(lease) >= LEASE_S - 1)


def test_instances_whose_clocks_differ_by_hours(join, etcd, connect_etcd) -> None:
    backend = connect_etcd(etcd.address)
    (slow, its), (right, _), (fast, clock) = join(-5 * HOUR_S), join(0), join(5 * HOUR_S)
    with slow.connect() as a, right.connect() as b, fast.connect() as c:
        clients = [a, b, c]
        assert [round(off_s(each) / HOUR_S) for each in clients] == [-5, 0, 5]
        ids = [each.put(TABLE, name=f"of {i}") for i, each in enumerate(clients)]
        for each, oid in zip(clients, ids, strict=True):
            each.persist(oid)
        until(lambda: all(each.exists(oid) for each in clients for oid in ids))
        # What is created says the clock of its host, and that it is off matters to nothing else.
        assert a.get_meta(ids[2]).created - a.get_meta(ids[0]).created > timedelta(hours=4)
        meta = ObjectMeta("shop.sales")
        for i, oid in enumerate(ids):
            meta.add_member(str(i), oid)
        made = c.create_global(meta, name="sales")
        until(lambda: all(each.exists("sales") for each in clients))
        renewed(backend, clients, 1)
        agree(clients, backend)
        # Steps of days, both ways, in between two keep-alives.
        its.set(3 * DAY_S)
        clock.set(-3 * DAY_S)
        assert [round(off_s(each) / DAY_S) for each in (a, c)] == [3, -3]
        late = [each.put(TABLE) for each in clients]
        for each, oid in zip(clients, late, strict=True):
            each.persist(oid, timeout_s=WAIT_S)
        renewed(backend, clients, 2)
        assert not any(each.status().fenced for each in clients)
        until(lambda: all(each.exists(oid) for each in clients for oid in late))
        for each in clients:
            listed = [m.id for m in each.list_objects(cluster=True)]
            assert listed == sorted([*ids, *late, made.id])
        agree(clients, backend)
        a.delete("sales")
        for each, oid in zip(clients, ids, strict=True):
            until(lambda each=each: not each.exists(made.id))
            each.delete(oid)
        agree(clients, backend)


@pytest.mark.parametrize("step_s", [DAY_S, -DAY_S])
def test_who_is_cut_off_fences_itself_by_no_wall_clock(join, etcd, connect_etcd, step_s) -> None:
    relay = Relay(etcd.members[0].endpoint)
    try:
        (lone, clock), (other, _) = join(5 * HOUR_S, relay.address), join(0)
        with lone.connect() as a, other.connect() as b:
            kept, _ = shared_by(a, b)
            relay.cut()
            clock.set(step_s)
            gone = gone_at(b, a.instance)
            assert fenced_at(a) <= gone
            relay.heal()
            until(lambda: not a.status().fenced and b.exists(kept))
            agree([a, b], connect_etcd(etcd.address))
    finally:
        relay.close()
