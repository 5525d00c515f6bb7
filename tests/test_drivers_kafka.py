"""Topics of Kafka, read, scanned and written: on librdkafka's own cluster for tests.

Where $VINEYARD_KAFKA names a broker, all but what has to fail on command runs on that.
"""

from __future__ import annotations

import datetime
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from drivers_harness import end_scans, gone, got
from drivers_harness import nothing_left as nothing_left

pytest.importorskip("confluent_kafka")

import confluent_kafka as ck
from kafka_broker import (
    FETCH,
    LEAVE_GROUP,
    METADATA,
    OFFSET_COMMIT,
    PRODUCE,
    REAL,
    Broker,
    MockBroker,
)

from vineyard_arrow.client import Client
from vineyard_arrow.errors import (
    AccessDeniedError,
    BrokerError,
    BrokerUnavailableError,
    ConfigError,
    DamagedMessageError,
    DeliveryFailedError,
    InvalidObjectError,
    LibraryNotFoundError,
    ObjectExistsError,
    PathNotFoundError,
    SchemaMismatchError,
    StreamFailedError,
    TopicNotFoundError,
)

ROWS = 5_000
TABLE = pa.table(
    {
        "id": pa.array(range(ROWS)),
        "s": pa.array([f"row {n}\n" if n % 7 else None for n in range(ROWS)]),
        "x": pa.array([n / 8 for n in range(ROWS)]),
    }
)


@pytest.fixture(scope="module")
def mock() -> Iterator[MockBroker]:
    broker = MockBroker()
    yield broker
    broker.stop()


@pytest.fixture
def broker(mock: MockBroker) -> Broker:
    return Broker() if REAL else mock


def objects(*ids: int) -> list[bytes]:
    return [json.dumps({"id": n}).encode() for n in ids]


def ids_of(table: pa.Table) -> list[int]:
    return table["id"].to_pylist()


def scanned(client: Client, url: str, **options: Any) -> pa.Table:
    with client.scan(url, **options) as reader:
        return reader.read_all()


# ---- formats


@pytest.mark.parametrize("format", ["json", "arrow"])
@pytest.mark.parametrize("read", [got, scanned])
def test_what_is_written_is_read(client: Client, broker: Broker, format: str, read: Any) -> None:
    url = broker.topic(3)
    done: list[int] = []
    client.write(TABLE, url, format=format, key="id", progress=lambda d, _: done.append(d))
    assert done[-1] == TABLE.nbytes
    assert read(client, url, format=format).sort_by("id") == TABLE


def test_arrow_messages_hold_many_rows_and_all_types(client: Client, broker: Broker) -> None:
    url = broker.topic()
    table = TABLE.append_column("d", TABLE["s"].dictionary_encode()).append_column(
        "b", pa.array([{"x": [n]} if n % 3 else None for n in range(ROWS)])
    )
    client.put(table, name="kept")
    client.write("kept", url, format="arrow")
    assert len(broker.consumed(url)) < 10
    assert got(client, url, format="arrow") == table
    wide = pa.table({"s": ["x" * (100_000 if n % 50 == 0 else 1) for n in range(500)]})
    client.write(wide, other := broker.topic(), format="arrow")
    assert got(client, other, format="arrow") == wide


def test_arrow_batches_without_their_schema(client: Client, broker: Broker) -> None:
    url = broker.topic()
    batch = pa.record_batch({"id": [1, 2]})
    broker.produce(url, [batch.serialize().to_pybytes(), None])
    assert got(client, url, format="arrow", schema=batch.schema) == pa.table(batch)
    with pytest.raises(DamagedMessageError, match="partition 0, offset 0"):
        client.read(url, format="arrow")


def test_raw_messages(client: Client, broker: Broker) -> None:
    url, other = broker.topic(), broker.topic()
    when = datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC)
    table = pa.table(
        {
            "key": pa.array([b"k", None]),
            "value": pa.array([b"\xff\x00", None]),
            "timestamp": pa.array([when, when], pa.timestamp("ms", "UTC")),
            "headers": pa.array(
                [[{"key": "h", "value": b"1"}], None],
                pa.list_(pa.struct({"key": pa.string(), "value": pa.binary()})),
            ),
        }
    )
    client.write(table, url, format="raw")
    read = got(client, url, format="raw")
    assert read["partition"].to_pylist() == [0, 0]
    assert read["offset"].to_pylist() == [0, 1]
    assert read.select(["key", "value"]) == table.select(["key", "value"])
    if not isinstance(broker, MockBroker):  # which tells no headers and times of its own
        assert read.select(table.column_names) == table
    client.write(read, other, format="raw")
    assert got(client, other, format="raw", metadata=False) == table.select(["key", "value"])
    client.write(pa.table({"value": ["text"]}), other, format="raw", key=None)
    assert got(client, other, format="raw")["value"].to_pylist()[-1] == b"text"


def test_metadata_goes_with_rows(client: Client, broker: Broker) -> None:
    url = broker.topic(2)
    client.write(TABLE.slice(0, 50), url, key="id")
    read = got(client, url, metadata=True)
    assert read.column_names[3:] == ["_key", "_partition", "_offset", "_timestamp", "_headers"]
    assert [int(k) for k in read["_key"].to_pylist()] == read["id"].to_pylist()
    assert set(read["_partition"].to_pylist()) == {0, 1}
    assert read["_timestamp"].null_count == 0
    arrow = broker.topic()
    client.write(pa.table({"id": [7, 8]}), arrow, format="arrow")
    assert got(client, arrow, format="arrow", metadata=True)["_offset"].to_pylist() == [0, 0]
    broker.produce(url, [b'{"_key": 1}'])
    with pytest.raises(ConfigError, match="'_key' too"):
        client.read(url, metadata=True)


def test_keys_tell_the_partition_as_java_has_it(client: Client, broker: Broker) -> None:
    url = broker.topic(4)
    client.write(pa.table({"k": ["apple", "banana", "cherry"] * 5}), url, key="k")
    read = got(client, url, metadata=True)
    places = {(r["k"], r["_partition"]) for r in read.to_pylist()}
    # (murmur2(key) & 0x7fffffff) % 4
    assert places == {(k, (murmur2(k.encode()) & 0x7FFFFFFF) % 4) for k in read["k"].to_pylist()}


def murmur2(data: bytes) -> int:
    """As org.apache.kafka.common.utils.Utils has it: MurmurHash2 of 32 bits."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = 0x9747B28C ^ len(data)
    whole = len(data) & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * m & mask
        h = (h * m & mask) ^ ((k ^ k >> 24) * m & mask)
    if tail := data[whole:]:
        h = (h ^ int.from_bytes(tail, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15


def test_objects_as_they_come(client: Client, broker: Broker) -> None:
    url = broker.topic()
    broker.produce(url, [b' {"id": 1}\n', b'{\n "id": 2,\n "s": "}{"}', None, b'{"id": 4.5}'])
    oid = client.read(url)
    assert client.get(oid).to_pydict() == {
        "id": [1.0, 2.0, None, 4.5],
        "s": [None, "}{", None, None],
    }
    assert client.get_meta(oid).copied == 0


def test_a_schema_may_be_said(client: Client, broker: Broker) -> None:
    url = broker.topic()
    broker.produce(url, [b'{"id": 1, "t": "2024-02-29T00:00:00Z"}', b'{"id": 2, "more": 1}'])
    schema = pa.schema({"t": pa.timestamp("us", "UTC"), "id": pa.int8()})
    for read in (got, scanned):
        table = read(client, url, schema=schema)
        assert table.schema == schema
        assert ids_of(table) == [1, 2]


def test_fields_that_turn_up_later(client: Client, broker: Broker) -> None:
    url = broker.topic()
    broker.produce(url, [*objects(1, 2), b'{"id": 3, "new": true}', b'{"new": false}'])
    assert got(client, url)["new"].to_pylist() == [None, None, True, False]
    reader = client.scan(url, batch_rows=2)
    with reader, pytest.raises(StreamFailedError, match=r"offset 2: .*'new'.*schema='first'"):
        reader.read_all()
    assert scanned(client, url, batch_rows=2, schema="first")["id"].to_pylist() == [1, 2, 3, None]
    with pytest.raises(ConfigError, match="one schema"):
        client.scan(url, schema="unify")


def test_types_that_change(client: Client, broker: Broker) -> None:
    url = broker.topic()
    broker.produce(url, [*objects(*range(20)), b'{"id": "x"}'])
    with pytest.raises(SchemaMismatchError, match=r"offset 20.*schema=pa\.schema"):
        client.read(url)
    arrow = broker.topic()
    client.write(pa.table({"id": [1]}), arrow, format="arrow")
    client.write(pa.table({"id": [2.5]}), arrow, format="arrow")
    with pytest.raises(SchemaMismatchError, match="offset 1"):
        client.read(arrow, format="arrow")
    assert ids_of(got(client, arrow, format="arrow", schema="unify")) == [1.0, 2.5]


MALFORMED = [
    *(b'{"id": 1', b"null", b"[1]", b"", b"{}{}", b"\xff", b'{"id": 1}{'),
    *(b'{"id": 1, "id": 2}', b'{"id": 1e999}', rb'{"id": 1, "x": "\ud800"}'),  # to Arrow alone
    pytest.param(b'{"x": ' * 61 + b"1" + b"}" * 61, id="deep"),
    pytest.param(b'{"x":' + b"[" * 1500 + b"]" * 1500 + b"}", id="deep for Python"),
    pytest.param(b'{"x":' * 100_000 + b"1" + b"}" * 100_000, id="deep for Arrow"),
]


@pytest.mark.parametrize("bad", MALFORMED)
def test_malformed_objects(client: Client, broker: Broker, bad: bytes) -> None:
    url = broker.topic()
    broker.produce(url, [*objects(1), bad, *objects(2)])
    with pytest.raises(DamagedMessageError, match=r"partition 0, offset 1.*malformed='skip'"):
        client.read(url)
    oid = client.read(url, malformed="skip", metadata=True)
    assert client.get(oid)["_offset"].to_pylist() == [0, 2]
    assert client.get_meta(oid).labels["kafka.skipped"] == "1"
    assert ids_of(scanned(client, url, malformed="skip")) == [1, 2]


def test_brackets_that_make_nothing_deep(client: Client, broker: Broker) -> None:
    url = broker.topic()
    texts = ["{[" * 90 + '"]}\\', "]}" * 90]
    flat = [{"id": n, "x": [{"y": [n]}] * 90, "s": text} for n, text in enumerate(texts)]
    broker.produce(url, [json.dumps(each).encode() for each in flat])
    assert got(client, url).to_pylist() == flat
    broker.produce(url, [b'{"id": 2, "z": ' + b"[" * 90 + b"]" * 90 + b"}"])
    assert got(client, url, schema=pa.schema({"id": pa.int8()}))["id"].to_pylist() == [0, 1, 2]


def test_messages_that_do_not_fit_a_schema(client: Client, broker: Broker) -> None:
    url = broker.topic()
    broker.produce(url, [*objects(1, 1000), b'{"id": "x"}', *objects(2)])
    schema = pa.schema({"id": pa.int8()})
    with pytest.raises(DamagedMessageError, match="offset 1"):
        client.read(url, schema=schema)
    oid = client.read(url, schema=schema, malformed="skip")
    assert ids_of(client.get(oid)) == [1, 2]
    assert client.get_meta(oid).labels["kafka.skipped"] == "2"


def test_malformed_arrow(client: Client, broker: Broker) -> None:
    url = broker.topic()
    client.write(pa.table({"id": [1, 2]}), url, format="arrow")
    whole = broker.consumed(url)[0].value()
    broker.produce(url, [whole[:-20], b"no arrow", b"", whole])
    with pytest.raises(DamagedMessageError, match="partition 0, offset 1"):
        client.read(url, format="arrow")
    oid = client.read(url, format="arrow", malformed="skip")
    assert ids_of(client.get(oid)) == [1, 2, 1, 2]
    assert client.get_meta(oid).labels["kafka.skipped"] == "3"


# ---- from where to where


def test_offsets(client: Client, broker: Broker) -> None:
    url = broker.topic(2)
    broker.produce(url, objects(*range(10)), 0)
    broker.produce(url, objects(*range(10, 15)), 1)
    oid = client.read(url)
    assert ids_of(client.get(oid)) == list(range(15))  # partition after partition
    assert json.loads(client.get_meta(oid).labels["kafka.offsets"]) == {"0": 10, "1": 5}
    assert ids_of(got(client, url, start={0: 7}, partitions=[0])) == [7, 8, 9]
    assert ids_of(got(client, url, start={0: 8, 1: 4}, end={0: 9})) == [8, 14]
    assert ids_of(scanned(client, url, start={0: 8, 1: 4}, end={0: 99, 1: 4})) == [8, 9]
    broker.produce(url, objects(99), 1)
    later = client.read(url, start=client.get_meta(oid).labels["kafka.offsets"])
    assert ids_of(client.get(later)) == [99]
    for read in (got, scanned):
        assert read(client, url, start="latest").num_rows == 0
        assert read(client, url, start="latest", format="raw").num_rows == 0


def test_offsets_that_are_none(client: Client, broker: Broker) -> None:
    url = broker.topic(2)
    broker.produce(url, objects(1))
    with pytest.raises(BrokerError, match="ends at offset 1"):
        client.read(url, start={0: 9})
    with pytest.raises(ConfigError, match=r"no partition 5.*0 to 1"):
        client.read(url, partitions=[5])
    with pytest.raises(ConfigError, match="no partition 5"):
        client.read(url, start={5: 1})
    for start in ("first", True, {0: -1}, {"a": 1}, "{", datetime.datetime(2024, 1, 1)):
        with pytest.raises(ConfigError, match="start="):
            client.read(url, start=start)


@pytest.mark.skipif(not REAL, reason="needs a real broker: the mock knows no times")
def test_times(client: Client, broker: Broker) -> None:
    url = broker.topic()
    for hour in range(5):
        broker.produce(url, objects(hour), timestamp=hour * 3_600_000)
    at_two = datetime.datetime(1970, 1, 1, 2, tzinfo=datetime.UTC)
    assert ids_of(got(client, url, start=at_two)) == [2, 3, 4]
    assert ids_of(got(client, url, start=3_600_000, end=at_two)) == [1]


def test_after_all_there_is_nothing(client: Client, broker: Broker) -> None:
    url = broker.topic()
    broker.produce(url, objects(1))
    tomorrow = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
    assert got(client, url, start=tomorrow).num_rows == 0


def test_bounds_of_batches(client: Client, broker: Broker) -> None:
    url = broker.topic()
    broker.produce(url, objects(*range(100)))
    with client.scan(url, batch_rows=30) as reader:
        assert [batch.num_rows for batch in reader] == [30, 30, 30, 10]
    with client.scan(url, batch_bytes=1) as reader:
        assert {batch.num_rows for batch in reader} == {1}
    with pytest.raises(ConfigError, match="positive"):
        client.scan(url, batch_rows=0)


# ---- groups


def test_a_group_goes_on_where_it_was(client: Client, broker: Broker) -> None:
    url = broker.topic(2)
    broker.produce(url, objects(1, 2), 0)
    broker.produce(url, objects(3), 1)
    assert ids_of(got(client, url, group="g")) == [1, 2, 3]
    assert (broker.committed(url, "g", 0), broker.committed(url, "g", 1)) == (2, 1)
    broker.produce(url, objects(4, 5), 1)
    assert ids_of(scanned(client, url, group="g")) == [4, 5]
    assert gone(lambda: broker.committed(url, "g", 1) == 3)
    assert got(client, url, group="g").num_rows == 0
    assert ids_of(got(client, url, group="other")) == [1, 2, 3, 4, 5]


def test_nothing_is_committed_of_what_is_not_kept(client: Client, broker: Broker) -> None:
    url = broker.topic()
    broker.produce(url, objects(1))
    client.put(pa.table({"a": [1]}), name="taken")
    with pytest.raises(ObjectExistsError):
        client.read(url, group="g", name="taken")
    assert len(client.list_objects()) == 1
    assert broker.committed(url, "g") < 0
    broker.produce(url, [b"bad"])
    reader = client.scan(url, group="g", batch_rows=1)
    with reader, pytest.raises(StreamFailedError, match="offset 1"):
        reader.read_all()
    assert broker.committed(url, "g") == 1  # what was before it is in the stream


def test_a_commit_that_fails_loses_nothing(client: Client, mock: MockBroker) -> None:
    url = mock.topic()
    mock.produce(url, objects(1))
    mock.fail(OFFSET_COMMIT, ck.KafkaError.GROUP_AUTHORIZATION_FAILED)
    with pytest.raises(AccessDeniedError, match="is stored, but the group 'g' was not told"):
        client.read(url, group="g", name="kept")
    assert ids_of(client.get("kept")) == [1]
    assert ids_of(got(client, url, group="g")) == [1]


def test_a_commit_waits_for_brokers_no_longer_than_asked(client: Client, mock: MockBroker) -> None:
    url = mock.topic()
    mock.produce(url, objects(1))
    begun = time.monotonic()
    try:
        with pytest.raises(BrokerUnavailableError, match="the group 'g' was not told"):
            client.read(url, group="g", timeout_s=1, progress=lambda *done: mock.down())
    finally:
        mock.up()
    assert time.monotonic() - begun < 40  # the library's own is 45
    assert ids_of(got(client, url, group="g")) == [1]


# ---- without end


def test_following(client: Client, broker: Broker) -> None:
    url = broker.topic(2)
    broker.produce(url, objects(1))
    with client.scan(url, follow=True, batch_s=0.05, name="live") as reader:
        assert ids_of(pa.table(reader.read_next_batch())) == [1]
        broker.produce(url, objects(2, 3), 1)
        found: list[int] = []
        while len(found) < 2:
            found += ids_of(pa.table(reader.read_next_batch()))
        assert found == [2, 3]
    # The thread ends as nobody reads: the fixture waits for it.


def test_what_the_source_of_rows_raises(client: Client, broker: Broker) -> None:
    error = OSError(5, "mine")

    def batches() -> Iterator[pa.RecordBatch]:
        yield pa.record_batch({"a": [1]})
        raise error

    reader = pa.RecordBatchReader.from_batches(pa.schema([("a", pa.int64())]), batches())
    with pytest.raises(OSError, match="mine") as raised:
        client.write(reader, broker.topic(), format="json")
    assert raised.value is error


def test_following_as_a_group(client: Client, broker: Broker) -> None:
    url = broker.topic(2)
    broker.produce(url, objects(1, 2), 1)
    options: dict[str, Any] = {
        "group": f"g-{url}",
        "follow": True,
        "batch_s": 0.05,
        "schema": pa.schema({"id": pa.int64()}),
        "options": {"session.timeout.ms": 6000, "heartbeat.interval.ms": 500},
    }
    with client.scan(url, **options) as reader:
        assert ids_of(pa.table(reader.read_next_batch())) == [1, 2]
        assert gone(lambda: broker.committed(url, options["group"], 1) == 2)
        if isinstance(broker, MockBroker):
            broker.requested()
    end_scans()
    if isinstance(broker, MockBroker):
        assert LEAVE_GROUP in broker.requested()
    broker.produce(url, objects(3), 1)
    with client.scan(url, **options) as reader:
        assert ids_of(pa.table(reader.read_next_batch())) == [3]
    with pytest.raises(ConfigError, match="partitions= without group="):
        client.scan(url, partitions=[0], **options)


FOLLOWS = """
import sys, pyarrow as pa, vineyard_arrow as va
client = va.connect(sys.argv[1], autostart=False)
schema = pa.schema({"id": pa.int64()})
reader = client.scan(sys.argv[2], group="g", follow=True, batch_s=0.05, schema=schema)
for batch in reader:
    print(batch.num_rows, flush=True)
"""


def test_an_interrupt_leaves_the_group(client: Client, daemon: Any, mock: MockBroker) -> None:
    url = mock.topic()
    mock.produce(url, objects(1))
    with subprocess.Popen(
        [sys.executable, "-c", FOLLOWS, str(daemon.socket), url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "1\n"
            mock.requested()
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
            assert "KeyboardInterrupt" in said
        finally:
            process.kill()
    assert LEAVE_GROUP in mock.requested()
    for info in client.list_streams():
        client.drop_stream(info.id)


def test_followed_by_nobody_it_waits(client: Client, broker: Broker) -> None:
    """A stream that is full holds the consumer back: little is in memory."""
    url = broker.topic()
    broker.produce(url, [json.dumps({"s": "x" * 10_000}).encode()] * 300)
    with client.scan(url, follow=True, batch_bytes=1 << 17, max_bytes=1 << 19) as reader:
        first = reader.read_next_batch()
        assert gone(lambda: client.list_streams()[0].backlog > 1)
        assert client.list_streams()[0].backlog_nbytes <= 1 << 19
        rows = first.num_rows
        while rows < 300:
            rows += reader.read_next_batch().num_rows
        assert rows == 300


def test_an_interrupted_read_leaves_nothing(client: Client, broker: Broker) -> None:
    url = broker.topic()
    broker.produce(url, objects(*range(10)))

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.read(url, group="g", progress=stop)
    assert not client.list_objects()
    assert broker.committed(url, "g") < 0
    with pytest.raises(KeyboardInterrupt):
        client.write(TABLE, url, progress=stop)


# ---- writing


def test_streams_are_written(client: Client, broker: Broker) -> None:
    url = broker.topic()
    with client.create_stream(TABLE.schema) as writer:
        reader = client.open_stream(writer.id)
        for start in range(0, ROWS, 1000):
            writer.write(TABLE.slice(start, 1000))
    client.write(reader, url)
    assert got(client, url) == TABLE


def test_messages_that_are_too_large(client: Client, broker: Broker) -> None:
    url = broker.topic()
    table = pa.table({"s": ["a", "x" * 2_000_000, "b", "c"]})
    with pytest.raises(DeliveryFailedError, match=r"rows 1; from row 2 on none were sent"):
        client.write(table, url)
    assert got(client, url)["s"].to_pylist() == ["a"]


def test_what_brokers_refuse(client: Client, mock: MockBroker) -> None:
    url = mock.topic()
    mock.fail(PRODUCE, ck.KafkaError.TOPIC_AUTHORIZATION_FAILED)
    with pytest.raises(DeliveryFailedError, match=r"rows 0 to 2.*options="):
        client.write(pa.table({"id": [1, 2, 3]}), url, options={"linger.ms": 1000})
    mock.fail(PRODUCE, ck.KafkaError.NOT_ENOUGH_REPLICAS, 2)  # passes by itself
    client.write(pa.table({"id": [1]}), url)
    assert ids_of(got(client, url)) == [1]


def test_transactions(client: Client, broker: Broker) -> None:
    url = broker.topic()
    client.write(TABLE.slice(0, 5), url, transactional_id="one")
    assert got(client, url) == TABLE.slice(0, 5)

    def failing() -> Iterator[pa.RecordBatch]:
        yield from TABLE.slice(5, 5).to_batches()
        raise RuntimeError("the source failed")

    reader = pa.RecordBatchReader.from_batches(TABLE.schema, failing())
    with pytest.raises(RuntimeError, match="the source failed"):
        client.write(reader, url, transactional_id="one")
    if not isinstance(broker, MockBroker):
        assert got(client, url) == TABLE.slice(0, 5)
    client.write(TABLE.slice(5, 5), url, transactional_id="one")  # the next is not in its way


def test_what_makes_no_messages(client: Client) -> None:
    url = "kafka://127.0.0.1:1/t"
    for table, options, said in (
        (pa.table({"b": [b"x"]}), {}, "format='arrow' has"),
        (pa.table({"a": [1]}), {"format": "raw"}, "needs a column 'value'"),
        (pa.table({"value": ["x"], "headers": [1]}), {"format": "raw"}, "'headers' is not"),
    ):
        with pytest.raises(InvalidObjectError, match=said):
            client.write(table, url, **options)
    for options, said in (
        ({"key": "b"}, "no column 'b'"),
        ({"key": "x"}, "keys are strings"),
        ({"format": "csv"}, "one of arrow, json, raw"),
        ({"timeout_s": 0}, "timeout_s"),
    ):
        with pytest.raises(ConfigError, match=said):
            client.write(pa.table({"a": [1], "x": [1.5]}), url, **options)
    assert "kafka" in {s for d in client.drivers("scan") for s in d.schemes or ()}


# ---- what fails


def test_no_such_topic(client: Client, broker: Broker) -> None:
    for call in (client.read, client.scan):
        with pytest.raises(TopicNotFoundError, match="no such topic"):
            call(f"kafka://{broker.servers}/not-there")


def test_no_broker(client: Client) -> None:
    url = "kafka://127.0.0.1:1/t"
    for call in (client.read, client.scan, lambda *a, **k: client.write(TABLE, *a, **k)):
        with pytest.raises(BrokerUnavailableError, match=r"0\.5 s.*running broker"):
            call(url, timeout_s=0.5)


def test_urls_that_are_none(client: Client) -> None:
    for url in (
        "kafka://",
        "kafka://h",
        "kafka://u:hush@h/t",
        "kafka://h/a/b",
        "kafka://h/t?x=hush",
    ):
        with pytest.raises(ConfigError, match="names no topic") as failed:
            client.read(url)
        assert "hush" not in str(failed.value)


def test_brokers_that_go_in_the_middle(client: Client, mock: MockBroker) -> None:
    url = mock.topic(2)
    mock.produce(url, objects(*range(100)), 0)
    mock.produce(url, objects(*range(100)), 1)
    try:
        with client.scan(url, batch_rows=10, max_bytes=1, timeout_s=2) as reader:
            reader.read_next_batch()
            mock.down()
            with pytest.raises(StreamFailedError, match="no broker answered for 2 s"):
                reader.read_all()
        with pytest.raises(DeliveryFailedError, match="rows 0 to 2"):
            write_as_it_goes(client, mock)
    finally:
        mock.up()
    assert got(client, url).num_rows == 200


def write_as_it_goes(client: Client, mock: MockBroker) -> None:
    mock.up()

    def batches() -> Iterator[pa.RecordBatch]:
        mock.down()
        yield pa.record_batch({"id": [1, 2, 3]})

    schema = pa.schema({"id": pa.int64()})
    reader = pa.RecordBatchReader.from_batches(schema, batches())
    client.write(reader, mock.topic(), timeout_s=2)


def test_following_brokers_that_go(client: Client, mock: MockBroker) -> None:
    url = mock.topic()
    mock.produce(url, objects(1))
    try:
        with client.scan(url, follow=True, batch_s=0.05, timeout_s=2) as reader:
            reader.read_next_batch()
            mock.down()
            with pytest.raises(StreamFailedError, match="no broker answered"):
                reader.read_next_batch()
    finally:
        mock.up()


def test_errors_that_pass(client: Client, mock: MockBroker) -> None:
    url = mock.topic()
    mock.produce(url, objects(*range(100)))
    mock.fail(FETCH, ck.KafkaError.NOT_LEADER_FOR_PARTITION, 3)
    mock.fail(METADATA, ck.KafkaError.LEADER_NOT_AVAILABLE)
    assert ids_of(got(client, url)) == list(range(100))


# ---- options


def test_options_are_librdkafkas(
    client: Client, broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = broker.topic()
    client.write(pa.table({"id": [1]}), url, options={"compression.type": "gzip"})
    secret = {"sasl.password": "hush-hush", "sasl.mechanism": "hush-hush"}
    with pytest.raises(ConfigError) as failed:
        client.read(url, options={**secret, "security.protocol": "SASL_PLAINTEXT"})
    assert "hush" not in str(failed.value)
    for options, said in (
        ({"no.such.option": 1}, r"no\.such\.option"),
        ({"group.id": "g"}, "group= says it"),
    ):
        with pytest.raises(ConfigError, match=said):
            client.read(url, options=options)
    file = tmp_path / "client.properties"
    file.write_text("# of this site\n\nclient.id = me\nfetch.max.bytes=1000000\n")
    assert ids_of(got(client, url, options=file)) == [1]
    with pytest.raises(PathNotFoundError, match="No such file"):
        client.read(url, options=tmp_path / "none")
    file.write_text("no.such.option=1\n")
    monkeypatch.setenv("VINEYARD_ARROW_KAFKA", str(file))
    with pytest.raises(ConfigError, match=r"no\.such\.option"):
        client.read(url)
    file.write_text("what\n")
    with pytest.raises(ConfigError, match="line 1 is no option"):
        client.read(url)


def test_nothing_secret_is_kept(client: Client, broker: Broker) -> None:
    url = broker.topic()
    client.write(pa.table({"id": [1]}), url)
    oid = client.read(url, options={"ssl.key.password": "hush-hush"})
    meta = client.get_meta(oid)
    assert set(meta.labels) == {"kafka.topic", "kafka.offsets"}
    assert "hush" not in repr(meta)


def test_without_the_library(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    with pytest.raises(LibraryNotFoundError, match=r"vineyard-arrow\[kafka\]"):
        client.read("kafka://127.0.0.1:1/t")
