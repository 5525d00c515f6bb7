"""Messages to a topic of Kafka: all of them, or an error that says which were not taken.

It knows no store and no formats.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from ..errors import DeliveryFailedError
from .kafka_link import LOOK_S, Link, Options, Topic
from .messages import Outgoing

__all__ = ["Sink"]

_SHOWN = 10  # rows that are named in an error
_EVERY = 1024  # messages between looks at what was delivered
_GRACE_S = 5.0  # beyond the time in which each should fail by itself: librdkafka forgets some


class Sink(Link):
    """A producer for one topic: idempotent, acknowledged by all replicas in sync."""

    _creates = True

    def __init__(
        self, topic: Topic, options: Options, timeout_s: float, transactional_id: str | None
    ) -> None:
        super().__init__(topic, options, timeout_s)
        self._in_transaction = transactional_id is not None
        self._failed: list[tuple[range, str]] = []
        timeout_ms = max(1, round(timeout_s * 1000))
        defaults = {
            "partitioner": "murmur2_random",  # as Java's, so that a key has one partition
            "queue.buffering.max.kbytes": 64 << 10,
            "linger.ms": 20,
            "message.timeout.ms": timeout_ms,
            "transaction.timeout.ms": max(60_000, timeout_ms),
        }
        ours: dict[str, Any] = {"enable.idempotence": True, "acks": "all"}
        if transactional_id is not None:
            ours["transactional.id"] = transactional_id
        self._producer = self._opened("Producer", defaults, ours)

    def write(self, messages: Iterator[Outgoing]) -> None:
        """Send all messages, and wait until all are taken.

        Raises
        ------
        DeliveryFailedError
            If some are not: it says which rows. In a transaction none are then seen.
        """
        self.partitions(self._producer)
        try:
            if self._in_transaction:
                self._asked("init_transactions", self.timeout_s)
                self._asked("begin_transaction")
            self._send(messages)
            if self._in_transaction:
                self._asked("commit_transaction", self.timeout_s)
        except BaseException:
            self._drop()
            raise

    def _send(self, messages: Iterator[Outgoing]) -> None:
        rest: int | None = None
        for number, message in enumerate(messages):
            if number % _EVERY == 0:
                self._producer.poll(0)
            self._produce(message)
            if self._failed:
                rest = message.row + message.rows
                break
        if not self._flushed(self.timeout_s + _GRACE_S):
            self._producer.purge()  # each fails now
            self._flushed(_GRACE_S)
        if self._failed:
            raise self._undelivered(rest)

    def _flushed(self, timeout_s: float) -> bool:
        """Whether it is known of all messages what became of them."""
        deadline = time.monotonic() + timeout_s
        while self._producer.flush(LOOK_S):
            if time.monotonic() > deadline:
                return False
        return True

    def _produce(self, message: Outgoing) -> None:
        from confluent_kafka import KafkaException

        options = {} if message.timestamp is None else {"timestamp": message.timestamp}
        rows = range(message.row, message.row + message.rows)
        while True:
            try:
                self._producer.produce(
                    self.topic.name,
                    message.value,
                    message.key,
                    headers=message.headers,
                    on_delivery=partial(self._delivered, rows),
                    **options,
                )
                return
            except BufferError:  # until there is room
                self._producer.poll(LOOK_S)
                if self._failed:
                    return
            except KafkaException as error:
                self._delivered(rows, error.args[0], None)
                return

    def _delivered(self, rows: range, error: Any, message: Any) -> None:
        if error is not None:
            self._failed.append((rows, error))

    def _undelivered(self, rest: int | None) -> Exception:
        error: Any = self._failed[0][1]
        known = self.said(self._heard or error)
        ranges = sorted((r.start, r.stop) for r, _ in self._failed)
        named = [f"{a}" if b - a == 1 else f"{a} to {b - 1}" for a, b in _joined(ranges)]
        more = f" and {len(named) - _SHOWN} more" if len(named) > _SHOWN else ""
        text = f"{self.topic.url}: not delivered: rows {', '.join(named[:_SHOWN])}{more}"
        if rest is not None:
            text += f"; from row {rest} on none were sent"
        if self._in_transaction:
            text += "; the transaction was aborted, so none of the others is seen either"
        return DeliveryFailedError(f"{text}: {self._without_secrets(error.str())}", known.hint)

    def _asked(self, what: str, *arguments: Any) -> None:
        from confluent_kafka import KafkaException

        begun = time.monotonic()
        while True:
            try:
                getattr(self._producer, what)(*arguments)
                return
            except KafkaException as error:
                late = time.monotonic() - begun > self.timeout_s
                if late or not error.args[0].retriable():
                    raise self.said(error) from None

    def _drop(self) -> None:
        """Forget what is not sent; what is sent cannot be taken back, but in a transaction."""
        with contextlib.suppress(Exception):
            self._producer.purge()
            self._producer.flush(LOOK_S)
            if self._in_transaction:
                self._producer.abort_transaction(self.timeout_s)


def _joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for start, stop in ranges:
        if joined and joined[-1][1] == start:
            joined[-1] = joined[-1][0], stop
        else:
            joined.append((start, stop))
    return joined
