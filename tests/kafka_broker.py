"""Brokers of Kafka for tests.

librdkafka brings a cluster for tests of its own: brokers that speak the protocol over TCP and keep
messages in memory (5 MiB of a partition), and that fail as they are told. They know no transactions
(what was aborted is seen) and no times of messages: what hangs on these is tested where
$VINEYARD_KAFKA names a real broker. A group that its last member left goes on only after a
session's time. Functions are those of rdkafka_mock.h, by their names.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import confluent_kafka as ck
from confluent_kafka.admin import AdminClient, NewTopic

REAL = os.environ.get("VINEYARD_KAFKA")
WAIT_S = 60.0
_PRODUCER = 0
_names = (f"t{os.getpid()}-{n}" for n in itertools.count())
# Requests by their numbers in the protocol.
PRODUCE, FETCH, METADATA, OFFSET_COMMIT, LEAVE_GROUP = 0, 1, 3, 8, 13


class Broker:
    """A running broker: the mock cluster, or the one that is named."""

    servers = REAL or ""

    def topic(self, partitions: int = 1) -> str:
        """The url of a new topic."""
        name = next(_names)
        admin = AdminClient({"bootstrap.servers": self.servers})
        for made in admin.create_topics([NewTopic(name, partitions, 1)]).values():
            made.result(WAIT_S)
        return f"kafka://{self.servers}/{name}"

    def produce(self, url: str, messages: Sequence[Any], partition: int = 0, **more: Any) -> None:
        """Put messages into a partition, by another way than the one that is tested."""
        producer = ck.Producer({"bootstrap.servers": self.servers})
        for message in messages:
            producer.produce(url.rpartition("/")[2], message, partition=partition, **more)
        assert producer.flush(WAIT_S) == 0

    def consumed(self, url: str, partitions: int = 1) -> list[Any]:
        """All messages of a topic, likewise."""
        consumer = ck.Consumer(
            {"bootstrap.servers": self.servers, "group.id": "x", "enable.partition.eof": True}
        )
        name = url.rpartition("/")[2]
        try:
            consumer.assign([ck.TopicPartition(name, p, 0) for p in range(partitions)])
            found, ended = [], 0
            while ended < partitions:
                message = consumer.poll(WAIT_S)
                if message.error() is None:
                    found.append(message)
                else:
                    assert message.error().code() == ck.KafkaError._PARTITION_EOF
                    ended += 1
            return sorted(found, key=lambda m: (m.partition(), m.offset()))
        finally:
            consumer.close()

    def committed(self, url: str, group: str, partition: int = 0) -> int:
        """Where a group is; -1001 if nowhere."""
        consumer = ck.Consumer({"bootstrap.servers": self.servers, "group.id": group})
        try:
            pair = ck.TopicPartition(url.rpartition("/")[2], partition)
            return consumer.committed([pair], timeout=WAIT_S)[0].offset
        finally:
            consumer.close()

    def stop(self) -> None:
        pass


class MockBroker(Broker):
    """A cluster of one broker in this process."""

    def __init__(self) -> None:
        self._lib = lib = _library()
        conf = lib.rd_kafka_conf_new()
        lib.rd_kafka_conf_set(conf, b"log_level", b"0", None, 0)
        self._handle = lib.rd_kafka_new(_PRODUCER, conf, None, 0)
        self._cluster = lib.rd_kafka_mock_cluster_new(self._handle, 1)
        lib.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, 100)
        self.servers = lib.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()

    def topic(self, partitions: int = 1) -> str:
        name = next(_names)
        assert not self._lib.rd_kafka_mock_topic_create(self._cluster, name.encode(), partitions, 1)
        return f"kafka://{self.servers}/{name}"

    def fail(self, request: int, code: int, times: int = 1) -> None:
        """Have the next requests of a kind answered by an error."""
        self._lib.rd_kafka_mock_push_request_errors_array(
            self._cluster, request, times, (ctypes.c_int * times)(*[code] * times)
        )

    def requested(self) -> set[int]:
        """The kinds of requests that came since this was last asked."""
        count = ctypes.c_size_t()
        requests = self._lib.rd_kafka_mock_get_requests(self._cluster, ctypes.byref(count))
        kinds = {self._lib.rd_kafka_mock_request_api_key(requests[n]) for n in range(count.value)}
        self._lib.rd_kafka_mock_request_destroy_array(requests, count)
        self._lib.rd_kafka_mock_clear_requests(self._cluster)
        self._lib.rd_kafka_mock_start_request_tracking(self._cluster)
        return kinds

    def down(self) -> None:
        """Drop connections, and take none."""
        assert not self._lib.rd_kafka_mock_broker_set_down(self._cluster, 1)

    def up(self) -> None:
        assert not self._lib.rd_kafka_mock_broker_set_up(self._cluster, 1)

    def stop(self) -> None:
        self._lib.rd_kafka_mock_cluster_destroy(self._cluster)
        self._lib.rd_kafka_destroy(self._handle)


def _library() -> Any:
    """The librdkafka that the client has: beside it in its wheel, or the system's."""
    beside = Path(ck.__file__).parents[1] / "confluent_kafka.libs"
    found = [str(path) for path in beside.glob("librdkafka*.so*")]
    lib = ctypes.CDLL(
        found[0] if found else ctypes.util.find_library("rdkafka") or "librdkafka.so.1"
    )
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    for name, result, arguments in (
        ("conf_new", pointer, []),
        ("conf_set", number, [pointer, text, text, pointer, ctypes.c_size_t]),
        ("new", pointer, [number, pointer, pointer, ctypes.c_size_t]),
        ("destroy", None, [pointer]),
        ("mock_cluster_new", pointer, [pointer, number]),
        ("mock_cluster_destroy", None, [pointer]),
        ("mock_cluster_bootstraps", text, [pointer]),
        ("mock_group_initial_rebalance_delay_ms", None, [pointer, ctypes.c_int32]),
        ("mock_start_request_tracking", None, [pointer]),
        ("mock_clear_requests", None, [pointer]),
        (
            "mock_get_requests",
            ctypes.POINTER(pointer),
            [pointer, ctypes.POINTER(ctypes.c_size_t)],
        ),
        ("mock_request_api_key", ctypes.c_int16, [pointer]),
        ("mock_request_destroy_array", None, [ctypes.POINTER(pointer), ctypes.c_size_t]),
        ("mock_topic_create", number, [pointer, text, number, number]),
        ("mock_broker_set_down", number, [pointer, ctypes.c_int32]),
        ("mock_broker_set_up", number, [pointer, ctypes.c_int32]),
        (
            "mock_push_request_errors_array",
            None,
            [pointer, ctypes.c_int16, ctypes.c_size_t, pointer],
        ),
    ):
        function = getattr(lib, f"rd_kafka_{name}")
        function.restype, function.argtypes = result, arguments
    return lib
