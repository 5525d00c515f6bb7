"""A watch of etcd that outlives its connections: it resumes after the revision it saw last.

The thread that calls `EtcdWatch.next` does all the work: it opens the stream, asks for a sign of
life when it is silent, and goes to the next endpoint when there is none. A second thread only
reads the stream. Knows nothing of what the keys mean.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator
from operator import attrgetter
from typing import Any

import grpc

from ...errors import (
    AccessDeniedError,
    ConfigError,
    MetadataCompactedError,
    MetadataUnavailableError,
)
from ..backend import Changes, Event, Watch
from .client import EtcdClient, error_of, rpc
from .keys import decode, item_of, span

SILENT_S = 3.0  # without a word; then a sign of life is asked for
ANSWER_S = 3.0  # to give one
RECONNECT_S = 0.1  # doubled up to the next
SLOWEST_RECONNECT_S = 1.0
_REVISION = attrgetter("kv.mod_revision")


class EtcdWatch(Watch):
    """See `Watch`. Made by `EtcdBackend.watch`."""

    def __init__(self, client: EtcdClient, prefix: str, after: int) -> None:
        self._client = client
        self._prefix = prefix
        self._after = after
        self._seen: deque[Changes] = deque()
        self._inbox: queue.SimpleQueue[tuple[_Stream | None, Any]] = queue.SimpleQueue()
        self._stream: _Stream | None = None
        self._pause_s = 0.0
        self._not_before = 0.0  # to reconnect
        self._cluster = 0
        self._was_refused = False
        self.closed = False
        self.broken_since: float | None = time.monotonic()

    @property
    def unavailable_since(self) -> float | None:
        """See `Watch.unavailable_since`."""
        return self.broken_since

    def next(self, timeout_s: float) -> Changes | None:
        """See `Watch.next`."""
        deadline = time.monotonic() + timeout_s
        while not self.closed:
            if self._seen:
                return self._seen.popleft()
            now = time.monotonic()
            if self._stream is None and now >= self._not_before:
                self._open()
            until = deadline if self._stream is None else min(deadline, self._stream.due)
            if self._stream is None:
                until = min(until, self._not_before)
            try:
                stream, said = self._inbox.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                if self._stream is not None and time.monotonic() >= self._stream.due:
                    self._ask(self._stream)
                elif time.monotonic() >= deadline:
                    break
                continue
            if stream is not None and stream is self._stream:
                self._hear(stream, said)
        self._drop_if_closed()
        return None

    def close(self) -> None:
        """See `Watch.close`."""
        self.closed = True
        self._inbox.put((None, None))
        stream = self._stream
        if stream is not None:
            stream.close()

    # ---- the stream

    def _open(self) -> None:
        start, end = span(self._prefix)
        # From the last revision seen, not the one after: a compaction up to it that took away
        # a later delete is noticed so.
        request = rpc.WatchCreateRequest(
            key=start, range_end=end, start_revision=max(1, self._after), progress_notify=True
        )
        try:
            self._stream = _Stream(self._client, request, self._inbox)
        except grpc.RpcError as error:
            self._client.forget_token(error)
            self._wait_before_next()
        except (MetadataUnavailableError, ConfigError):
            self._wait_before_next()

    def _drop(self) -> None:
        """Give the stream up; another endpoint is next."""
        if self._stream is not None:
            self._client.channel.move_on(self._stream.endpoint)
            self._stream.close()
            self._stream = None
        if self.broken_since is None:
            self.broken_since = time.monotonic()
        self._wait_before_next()

    def _wait_before_next(self) -> None:
        self._not_before = time.monotonic() + self._pause_s
        self._pause_s = min(max(RECONNECT_S, 2 * self._pause_s), SLOWEST_RECONNECT_S)

    def _drop_if_closed(self) -> None:
        if self.closed and self._stream is not None:
            self._stream.close()

    def _ask(self, stream: _Stream) -> None:
        """Ask for a sign of life, or give up if that was done already."""
        if stream.asked:
            self._drop()
        else:
            stream.ask()

    def _hear(self, stream: _Stream, said: Any) -> None:
        if said is None or isinstance(said, grpc.RpcError):
            self._drop()
            if said is not None:
                failure = error_of(said, f"etcd at {self._client.address}", 0)
                if isinstance(failure, AccessDeniedError):
                    self._refused(failure)
            return
        stream.heard()
        if said.canceled:
            self._cancelled(said)
        elif said.created:
            self._check_kept(said.header)
            self.broken_since, self._pause_s, self._was_refused = None, 0.0, False
        elif said.events:
            self._take(said.events)
        elif said.watch_id >= 0:
            # The server's own notice, sent in order after all events. (Its answer to a request
            # may overtake events, and says nothing but that it is there.)
            self._after = max(self._after, said.header.revision)

    def _cancelled(self, said: Any) -> None:
        compacted = said.compact_revision
        reason = said.cancel_reason
        self._drop()
        if compacted or "compacted" in reason:
            raise self._lost(f"changes after revision {self._after} are no longer kept")
        # What the servers of 3.5 and 3.4 say of a token they don't know, and of no right.
        if "permission denied" in reason or "invalid auth token" in reason:
            self._refused(
                AccessDeniedError(
                    f"etcd at {self._client.address}: {reason}",
                    "grant this user the prefix of the cluster",
                )
            )

    def _refused(self, error: AccessDeniedError) -> None:
        """Sign in anew, since a token that has ended looks like no right; then raise."""
        if self._was_refused:
            self._was_refused = False
            raise error
        self._was_refused = True
        self._client.metadata = None

    def _check_kept(self, header: Any) -> None:
        """Raise if this is an etcd that lost its data: it is behind what was seen of it."""
        cluster, self._cluster = self._cluster, header.cluster_id
        behind = header.revision < self._after and self._newest() < self._after
        if behind or cluster not in (0, header.cluster_id):
            self._drop()
            raise self._lost("this etcd is not the one that was watched, or lost its data")

    def _newest(self) -> int:
        """The revision that the members agree on; that of one may lag behind."""
        request = self._client.range_request(b"\0", b"", 1, 0)
        try:
            reply = self._client.call(self._client.kvstub.Range, request, ANSWER_S)
        except MetadataUnavailableError:
            return self._after  # not known; the watch goes on, and breaks again
        return int(reply.header.revision)

    def _lost(self, why: str) -> MetadataCompactedError:
        return MetadataCompactedError(why, "list the keys again, and watch from there")

    def _take(self, events: Any) -> None:
        for revision, group in itertools.groupby(events, _REVISION):
            if revision > self._after:
                found = (Event(decode(e.kv.key), None if e.type else item_of(e.kv)) for e in group)
                changes = tuple(sorted(found, key=attrgetter("key")))
                self._seen.append(Changes(revision, changes))
                self._after = revision


class _Stream:
    """One watch on one connection, with a thread that puts what it says into the inbox."""

    def __init__(
        self,
        client: EtcdClient,
        create: Any,
        inbox: queue.SimpleQueue[tuple[_Stream | None, Any]],
    ) -> None:
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._requests.put(rpc.WatchRequest(create_request=create))
        self._inbox = inbox
        self.endpoint = client.channel.current
        # A member that has lost its leader ends the stream then, instead of being silent.
        metadata = (*client.sign_in(ANSWER_S), ("hasleader", "true"))
        self.asked = True  # to create the watch, which is answered
        self.due = time.monotonic() + ANSWER_S
        self._call = client.watchstub.Watch(self._sent(), metadata=metadata)
        self._thread = threading.Thread(target=self._read, daemon=True, name="etcd-watch")
        self._thread.start()

    def _sent(self) -> Iterator[Any]:
        return iter(self._requests.get, None)

    def _read(self) -> None:
        end: Any = None
        try:
            for reply in self._call:
                self._inbox.put((self, reply))
        except grpc.RpcError as error:
            end = error
        self._inbox.put((self, end))

    def ask(self) -> None:
        """Send a request that is answered at once."""
        self._requests.put(rpc.WatchRequest(progress_request=rpc.WatchProgressRequest()))
        self.asked, self.due = True, time.monotonic() + ANSWER_S

    def heard(self) -> None:
        """It lives."""
        self.asked, self.due = False, time.monotonic() + SILENT_S

    def close(self) -> None:
        self._requests.put(None)
        self._call.cancel()
        self._thread.join()
