"""Keeps leases of etcd alive, over one stream that is opened anew when it breaks.

A lease counts as lost when etcd says that it is gone, and when nothing was heard of it for its
whole time, counted from when the last answered keep-alive was *sent*: by then, other instances
may have seen it end. So an instance that is cut off knows it no later than they do.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from ...errors import LeaseLostError, VineyardArrowError
from ..backend import TIMEOUT_S, Lease
from .client import EtcdClient, rpc

log = logging.getLogger("vineyard_arrow.metadata")
SIGN_IN_S = 1.0


class EtcdLease(Lease):
    """A lease of etcd; made by `LeaseKeeper`."""

    def __init__(
        self,
        keeper: LeaseKeeper,
        lease: int,
        ttl_s: float,
        sent: float,
        on_lost: Callable[[], None],
    ) -> None:
        self._keeper = keeper
        self.id, self.ttl_s, self.on_lost = lease, ttl_s, on_lost
        self.alive_until = sent + ttl_s
        self.asked: list[float] = []  # when keep-alives were sent that have no answer yet
        self.ended = False

    @property
    def lost(self) -> bool:
        """See `Lease.lost`."""
        return self.ended or time.monotonic() >= self.alive_until

    def revoke(self, timeout_s: float = TIMEOUT_S) -> None:
        """See `Lease.revoke`."""
        self._keeper.forget(self)
        self._keeper.revoke(self.id, timeout_s)


class LeaseKeeper:
    """Grants leases and keeps them alive, in a thread that starts with the first of them."""

    def __init__(self, client: EtcdClient) -> None:
        self._client = client
        self._changed = threading.Condition()  # guards all below
        self._leases: dict[int, EtcdLease] = {}
        self._thread: threading.Thread | None = None
        self._closed = False

    def grant(
        self, ttl_s: float, on_lost: Callable[[], None], lease: int, timeout_s: float
    ) -> EtcdLease:
        """See `Backend.grant`. etcd counts whole seconds, and has a shortest time of its own."""
        ttl = max(1, round(ttl_s))
        sent = time.monotonic()
        request = rpc.LeaseGrantRequest(TTL=ttl, ID=lease)
        # Granted twice by a retry, a lease without an id leaves one that ends by itself.
        reply = self._client.call(
            self._client.leasestub.LeaseGrant, request, timeout_s, retry=not lease
        )
        granted = EtcdLease(self, reply.ID, float(reply.TTL), sent, on_lost)
        with self._changed:
            if self._closed:
                raise LeaseLostError("the connection to etcd was closed")
            self._leases[granted.id] = granted
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True, name="etcd-leases")
                self._thread.start()
            self._changed.notify_all()
        return granted

    def revoke(self, lease: int, timeout_s: float) -> None:
        """See `Backend.revoke`."""
        request = rpc.LeaseRevokeRequest(ID=lease)
        with contextlib.suppress(LeaseLostError):
            self._client.call(self._client.leasestub.LeaseRevoke, request, timeout_s)

    def forget(self, lease: EtcdLease) -> None:
        """Keep it alive no longer."""
        with self._changed:
            lease.ended = True
            self._leases.pop(lease.id, None)
            self._changed.notify_all()

    def close(self) -> None:
        """Keep none alive any longer."""
        with self._changed:
            self._closed = True
            for lease in self._leases.values():
                lease.ended = True
            self._leases.clear()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    # ---- the thread

    def _run(self) -> None:
        """Send what is due, end what was not answered, reconnect when nobody answers."""
        stream: _Stream | None = None
        while (wait_s := self._wait_until_due()) is not None:
            self._end_late()
            if stream is not None and (stream.broken or self._is_silent()):
                self._client.channel.move_on(stream.endpoint)
                stream.close()
                stream = None
            if wait_s > 0:
                continue
            if stream is None:
                stream = self._open()
            self._send_due(stream)
        if stream is not None:
            stream.close()

    def _wait_until_due(self) -> float | None:
        """Wait for the next keep-alive to send or lease to end; None once closed."""
        with self._changed:
            if self._closed:
                return None
            now = time.monotonic()
            due = min((_next_send(lease, now) for lease in self._leases.values()), default=now + 60)
            ends = min((lease.alive_until for lease in self._leases.values()), default=now + 60)
            if min(due, ends) > now:
                self._changed.wait(min(due, ends) - now)
            return None if self._closed else max(0.0, due - time.monotonic())

    def _end_late(self) -> None:
        with self._changed:
            late = [lease for lease in self._leases.values() if lease.lost]
        for lease in late:
            self._end(lease, "nothing was heard from etcd for its whole time")

    def _end(self, lease: EtcdLease, why: str) -> None:
        with self._changed:
            if lease.ended:
                return
            lease.ended = True
            self._leases.pop(lease.id, None)
        log.warning("lease %x is lost: %s", lease.id, why)
        try:
            lease.on_lost()
        except Exception:
            log.exception("what was to be told of a lost lease failed")

    def _is_silent(self) -> bool:
        now = time.monotonic()
        with self._changed:
            return any(
                lease.asked and now - lease.asked[0] > lease.ttl_s / 4
                for lease in self._leases.values()
            )

    def _open(self) -> _Stream | None:
        with self._changed:
            for lease in self._leases.values():
                lease.asked.clear()
        try:
            return _Stream(self._client, self._answered, self._wake)
        except (grpc.RpcError, VineyardArrowError) as error:
            log.debug("no stream for leases: %s", error)
            return None

    def _send_due(self, stream: _Stream | None) -> None:
        now = time.monotonic()
        with self._changed:
            for lease in self._leases.values():
                if _next_send(lease, now) <= now:
                    lease.asked.append(now)
                    if stream is not None:
                        stream.requests.put(rpc.LeaseKeepAliveRequest(ID=lease.id))

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _answered(self, reply: Any) -> None:
        with self._changed:
            lease = self._leases.get(reply.ID)
            if lease is None or not lease.asked:
                return
            sent = lease.asked.pop(0)
            if reply.TTL > 0:
                # Never longer than what etcd granted; a late answer counts from its question.
                lease.alive_until = max(lease.alive_until, sent + reply.TTL)
                return
        self._end(lease, "etcd does not know it any more")


def _next_send(lease: EtcdLease, now: float) -> float:
    """When its next keep-alive is due: a third of its time after the last, sooner if unanswered."""
    if lease.asked:
        return lease.asked[-1] + min(lease.ttl_s / 6, 1.0)
    return lease.alive_until - lease.ttl_s * 2 / 3


class _Stream:
    """One stream of keep-alives to one endpoint, with a thread that reads the answers."""

    def __init__(
        self, client: EtcdClient, answered: Callable[[Any], None], woken: Callable[[], None]
    ) -> None:
        self.requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.endpoint = client.channel.current
        self.broken = False
        self._client = client
        self._answered, self._woken = answered, woken
        metadata = client.sign_in(SIGN_IN_S)
        self._call = client.leasestub.LeaseKeepAlive(self._sent(), metadata=metadata)
        self._thread = threading.Thread(target=self._read, daemon=True, name="etcd-keep-alive")
        self._thread.start()

    def _sent(self) -> Iterator[Any]:
        return iter(self.requests.get, None)

    def _read(self) -> None:
        try:
            for reply in self._call:
                self._answered(reply)
        except grpc.RpcError as error:
            self._client.forget_token(error)
            log.debug("the stream of leases broke: %s", error)
        self.broken = True
        self._woken()

    def close(self) -> None:
        self.requests.put(None)
        self._call.cancel()
        self._thread.join()
