"""Messages of a topic of Kafka: from where to where, in batches, and how far a group has come.

It knows no store and no formats. Bounded reads take one partition after the other, so their rows
are in the same order each time; endless ones take all at once.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import BrokerError, ConfigError
from .kafka_link import LOOK_S, Link, Options, Topic

__all__ = ["Batch", "Point", "Size", "Source", "point_of"]

Point = str | int | dict[int, int]  # "earliest", "latest", milliseconds, or offsets
_FIRST = 16  # messages asked for while it is not known how large they are
_CHUNK = 1024  # messages asked for at a time


@dataclass(frozen=True, slots=True)
class Size:
    """How large a batch gets: it is whole with the first of these. ``seconds`` for endless ones."""

    rows: int
    nbytes: int
    seconds: float = 1.0

    def __post_init__(self) -> None:
        if self.rows < 1 or self.nbytes < 1 or not self.seconds > 0:
            raise ConfigError("batch_rows, batch_bytes and batch_s are positive numbers")


@dataclass(slots=True)
class Batch:
    """Messages, how long their values are, and with which offsets partitions go on after them."""

    messages: list[Any] = field(default_factory=list)
    offsets: dict[int, int] = field(default_factory=dict)
    nbytes: int = 0
    begun: float = 0.0

    def add(self, messages: Sequence[Any]) -> None:
        if messages and not self.messages:
            self.begun = time.monotonic()
        self.messages += messages
        self.nbytes += sum(map(len, messages))
        self.offsets |= {m.partition(): m.offset() + 1 for m in messages}

    def forget(self, partitions: set[int]) -> None:
        """Leave out what is another member's now: it comes again there."""
        self.messages = [m for m in self.messages if m.partition() not in partitions]
        self.offsets = {p: o for p, o in self.offsets.items() if p not in partitions}
        self.nbytes = sum(map(len, self.messages))


def point_of(given: Any, what: str) -> Point:
    """A point to start or to end at, as it was given."""
    if isinstance(given, str) and given.lstrip().startswith("{"):  # a label
        with contextlib.suppress(ValueError):
            given = json.loads(given)
    if isinstance(given, datetime.datetime):
        if given.tzinfo is None:
            raise ConfigError(f"{what}={given!r} has no time zone", "datetime.now(timezone.utc)")
        return round(given.timestamp() * 1000)
    if isinstance(given, int) and not isinstance(given, bool):
        return given
    if given in ("earliest", "latest"):
        return str(given)
    if isinstance(given, Mapping):
        with contextlib.suppress(TypeError, ValueError):
            offsets = {int(p): int(o) for p, o in given.items()}
            if all(offset >= 0 for offset in offsets.values()):
                return offsets
    raise ConfigError(
        f"{what}={given!r}",
        "'earliest', 'latest', a datetime, milliseconds since 1970, or {partition: offset}",
    )


class Source(Link):
    """A consumer of one topic. Close it: that leaves its group."""

    def __init__(
        self,
        topic: Topic,
        options: Options,
        timeout_s: float,
        *,
        group: str | None,
        start: Point = "earliest",
        partitions: Sequence[int] | None = None,
        follow: bool = False,
    ) -> None:
        if follow and group is not None and partitions is not None:
            raise ConfigError("a group shares out all partitions", "partitions= without group=")
        super().__init__(topic, options, timeout_s)
        self._group, self._start, self._chosen = group, start, partitions
        self._held = Batch()
        self._largest = 0  # of the messages so far
        self._ended: dict[int, int] = {}  # where a partition had no more
        defaults = {"queued.max.messages.kbytes": 16 << 10, "isolation.level": "read_committed"}
        if not follow:  # an end that is reached is not waited at
            defaults["fetch.wait.max.ms"] = 10
            # So long a commit waits for the group's coordinator; here nobody is a member.
            defaults["session.timeout.ms"] = min(45_000, max(1, round(timeout_s * 1000)))
        ours = {
            "group.id": group or "vineyard-arrow",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "enable.partition.eof": True,
        }
        self._consumer = self._opened("Consumer", defaults, ours)

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the group, and let go of the brokers."""
        self._consumer.close()

    # ---- where

    def ranges(self, end: Point) -> dict[int, tuple[int, int]]:
        """From where to where each partition is to be read, as it is now."""
        partitions = self._partitions()
        ends = self._resolved(partitions, end, "end")
        starts = self._starts(partitions)
        return {p: (starts[p], max(starts[p], ends[p])) for p in partitions}

    def _partitions(self) -> list[int]:
        there = self.partitions(self._consumer)
        if self._chosen is None:
            return there
        chosen = sorted({int(p) for p in self._chosen})
        self._check_there(chosen, there)
        return chosen

    def _check_there(self, named: Sequence[int], there: Sequence[int]) -> None:
        if unknown := set(named) - set(there):
            raise ConfigError(
                f"{self.topic.url} has no partition {min(unknown)}",
                f"it has {len(there)}: {there[0]} to {there[-1]}",
            )

    def _starts(self, partitions: Sequence[int]) -> dict[int, int]:
        """Where the group is, else where to start."""
        starts = self._resolved(partitions, self._start, "start")
        if self._group is not None:
            for each in self._asked("committed", self._pairs(partitions)):
                if each.offset >= 0:
                    starts[each.partition] = each.offset
        return starts

    def _resolved(self, partitions: Sequence[int], point: Point, what: str) -> dict[int, int]:
        low, high = {}, {}
        for pair in self._pairs(partitions):
            low[pair.partition], high[pair.partition] = self._asked("get_watermark_offsets", pair)
        if point == "earliest":
            return low
        if point == "latest":
            return high
        if isinstance(point, dict):
            self._check_there(list(point), self.partitions(self._consumer))
            for p in set(point) & set(partitions) if what == "start" else ():
                self._check_offset(p, point[p], low[p], high[p])
            return {
                p: min(point[p], high[p]) if p in point else (low if what == "start" else high)[p]
                for p in partitions
            }
        found = self._asked("offsets_for_times", self._pairs(partitions, point))
        return {t.partition: t.offset if t.offset >= 0 else high[t.partition] for t in found}

    def _check_offset(self, partition: int, offset: int, low: int, high: int) -> None:
        if offset < low:
            raise BrokerError(
                f"{self.topic.url}: offsets {offset} to {low - 1} of partition {partition} are"
                " no longer kept",
                "start='earliest' begins with what is left",
            )
        if offset > high:
            raise BrokerError(
                f"{self.topic.url}: partition {partition} ends at offset {high}, and was to be"
                f" read from {offset}",
                "is it the topic that the offset was of?",
            )

    def _pairs(self, partitions: Sequence[int], offset: int | str | None = None) -> list[Any]:
        from confluent_kafka import TopicPartition

        more = () if offset is None else (offset,)
        return [TopicPartition(self.topic.name, p, *more) for p in partitions]

    def _asked(self, what: str, about: Any) -> Any:
        from confluent_kafka import KafkaException

        try:
            found = getattr(self._consumer, what)(about, timeout=self.timeout_s)
        except KafkaException as error:
            raise self.said(error) from None
        if found is None:
            raise self.gone()
        for each in found if isinstance(found, list) else ():
            if each.error is not None:
                raise self.said(each.error)
        return found

    # ---- messages

    def bounded(self, ranges: Mapping[int, tuple[int, int]], size: Size) -> Iterator[Batch]:
        """Batches of what is in ranges, in the order of partitions and offsets."""
        for partition, (start, end) in sorted(ranges.items()):
            yield from self._bounded(partition, start, end, size)
        if self._held.offsets:
            yield self._taken()

    def _bounded(self, partition: int, start: int, end: int, size: Size) -> Iterator[Batch]:
        if start < end:
            self._ended.clear()
            self._consumer.assign(self._pairs([partition], start))
        next_, heard = start, time.monotonic()
        while max(next_, self._ended.get(partition, 0)) < end:
            got = self._more(end - next_, size)
            if got:
                next_ = got[-1].offset() + 1
                self._held.add(got if next_ <= end else [m for m in got if m.offset() < end])
                heard = time.monotonic()
            elif time.monotonic() - heard > self.timeout_s:
                raise self.gone()
            if self._is_full(size):
                yield self._taken()
        self._held.offsets[partition] = (
            end  # past what no reader sees, such as ends of transactions
        )

    def endless(self, size: Size) -> Iterator[Batch]:
        """Batches of what comes; empty ones while nothing does, so that the caller can look up."""
        self._begin()
        looked = time.monotonic()
        while True:
            self._held.add(self._more(_CHUNK, size))
            self._check_up()
            now = time.monotonic()
            if self._held.messages:
                if self._is_full(size) or now - self._held.begun >= size.seconds:
                    yield self._taken()
                    looked = now
            elif now - looked >= 1.0:
                yield Batch()
                looked = now

    def _begin(self) -> None:
        if self._group is None:
            starts = self._starts(self._partitions())
            self._consumer.assign([self._pairs([p], o)[0] for p, o in starts.items()])
            return
        self._partitions()  # or it is told that there is no such topic

        def assigned(consumer: Any, pairs: list[Any]) -> None:
            starts = self._starts([pair.partition for pair in pairs])
            consumer.assign([self._pairs([p], o)[0] for p, o in starts.items()])

        def revoked(consumer: Any, pairs: list[Any]) -> None:
            self._held.forget({pair.partition for pair in pairs})

        self._consumer.subscribe([self.topic.name], on_assign=assigned, on_revoke=revoked)

    def _is_full(self, size: Size) -> bool:
        return len(self._held.messages) >= size.rows or self._held.nbytes >= size.nbytes

    def _taken(self) -> Batch:
        batch, self._held = self._held, Batch()
        return batch

    def _more(self, most: int, size: Size) -> list[Any]:
        """What has come, at most about what a batch has room for."""
        from confluent_kafka import KafkaException

        room = (size.nbytes - self._held.nbytes) // max(1, self._largest)
        chunk = _CHUNK if self._largest else _FIRST
        most = min(most, chunk, size.rows - len(self._held.messages), room)
        try:
            got = self._consumer.consume(max(1, most), LOOK_S)
        except KafkaException as error:
            raise self.said(error) from None
        failed = [message for message in got if message.error() is not None]
        for message in failed:
            self._check(message, message.error())
        if got:
            self.down_since = None
        good = [message for message in got if message.error() is None] if failed else got
        self._largest = max(self._largest, *map(len, good), 1)
        return good

    def _check(self, message: Any, error: Any) -> None:
        from confluent_kafka import KafkaError

        if error.code() == KafkaError._PARTITION_EOF:
            self._ended[message.partition()] = message.offset()
        elif error.code() == KafkaError._AUTO_OFFSET_RESET:
            raise BrokerError(
                f"{self.topic.url}: {error.str()}",
                "what was to be read is no longer kept: start= says where to go on",
            )
        elif not error.retriable() and error.code() not in _other_members():
            raise self.said(error)

    def _check_up(self) -> None:
        """Nothing need come, but brokers that are gone for long are an error."""
        from confluent_kafka import KafkaException

        if self.down_since is None or time.monotonic() - self.down_since < self.timeout_s:
            return
        try:
            self._consumer.list_topics(self.topic.name, timeout=1.0)
        except KafkaException as error:
            raise self.gone(error.args[0]) from None
        self.down_since = None

    # ---- groups

    def commit(self, offsets: Mapping[int, int]) -> None:
        """Let the group go on from these offsets.

        Of partitions that became another member's meanwhile nothing is said: they come again there.
        """
        from confluent_kafka import KafkaException

        if self._group is None or not offsets:
            return
        pairs = [self._pairs([p], o)[0] for p, o in sorted(offsets.items())]
        try:
            done = self._consumer.commit(offsets=pairs, asynchronous=False)
            errors = [each.error for each in done if each.error is not None]
        except KafkaException as error:
            errors = [error.args[0]]
        for failed in errors:
            if not (self._consumer.memberid() and failed.code() in _other_members()):
                raise self.said(failed)


def _other_members() -> set[int]:
    """Codes that tell that partitions were shared out anew."""
    from confluent_kafka import KafkaError

    return {
        KafkaError._MAX_POLL_EXCEEDED,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.FENCED_INSTANCE_ID,
    }
