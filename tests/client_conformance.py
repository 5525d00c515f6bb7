"""What every client does alike, however it reaches its store; subclassed for each way.

A subclass has fixtures ``client``, and ``other``: a second one of the same store.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from types_harness import assert_same
from values import ALL_VALUES

from vineyard_arrow import (
    AccessDeniedError,
    DeadlineExceededError,
    InvalidObjectError,
    ObjectExistsError,
    ObjectID,
    ObjectInUseError,
    ObjectMeta,
    ObjectNotFoundError,
    ResolverNotFoundError,
    StoreFullError,
    StreamClosedError,
    StreamFailedError,
)
from vineyard_arrow.client import Client
from vineyard_arrow.graph import Graph
from vineyard_arrow.graph.partition import partition
from vineyard_arrow.store import Draft

TABLE = pa.table({"i": np.arange(50_000), "s": [f"row {i}" for i in range(50_000)]})
SCHEMA = pa.schema([("i", pa.int64())])


def batch(first: int, n: int = 3) -> pa.RecordBatch:
    return pa.record_batch([np.arange(first, first + n)], schema=SCHEMA)


class Pickled:
    """Of no type that has a builder."""


class ClientConformance:
    """See the module's docstring."""

    # ---- values

    @pytest.mark.parametrize("mode", ["ro", "copy"])
    def test_values_come_back_exactly(self, client: Client, mode: str) -> None:
        failed: dict[str, str] = {}
        for name, make in ALL_VALUES:
            try:
                assert_same(make(), client.get(client.put(make()), mode=mode))
            except Exception as error:
                failed[name] = repr(error)
        assert not failed

    def test_chunks_stay_as_they_were(self, client: Client) -> None:
        table = pa.concat_tables([TABLE.slice(0, 10), TABLE.slice(3, 7), TABLE])
        got = client.get(client.put(table))
        assert got.equals(table)
        assert [len(c) for c in got["s"].chunks] == [10, 7, len(TABLE)]

    def test_buffers_are_aligned(self, client: Client) -> None:
        columns = client.get(client.put(TABLE)).columns
        buffers = [b for c in columns for b in c.chunk(0).buffers() if b is not None]
        assert len(buffers) == 3
        assert not any(b.address % 64 for b in buffers)

    def test_arrays_are_writable_by_mode_alone(self, client: Client) -> None:
        oid = client.put(np.arange(10))
        assert not client.get(oid).flags.writeable
        array = client.get(oid, mode="cow")
        array[0] = 7
        assert client.get(oid)[0] == 0

    def test_other_forms(self, client: Client) -> None:
        oid = client.put(TABLE)
        assert isinstance(client.get(oid, as_="polars"), pl.DataFrame)
        assert isinstance(client.get(oid, as_=pd.DataFrame), pd.DataFrame)
        with pytest.raises(ResolverNotFoundError, match="as 'xarray'"):
            client.get(oid, as_="xarray")

    def test_many_at_once(self, client: Client) -> None:
        ids = client.put_many([1, TABLE, "three"], names=[None, "t", None])
        assert client.get_many([ids[0], ids[2]]) == [1, "three"]
        assert client.get("t").equals(TABLE)
        with pytest.raises(ObjectExistsError, match="'t'"):
            client.put_many([4, 5], names=["u", "t"])
        assert client.list_names() == {"t": ids[1]}
        assert len(client.list_objects()) == 3

    def test_sealed_for_good(self, client: Client) -> None:
        assert client.get(client.put(TABLE, seal="strict")).equals(TABLE)

    def test_what_does_not_fit(self, client: Client) -> None:
        with pytest.raises(StoreFullError, match="no room") as caught:
            client.put(np.zeros(client.status().memory_limit // 8 + (1 << 20)))
        assert caught.value.hint
        assert not client.list_objects()

    def test_blobs(self, client: Client) -> None:
        blob = client.create_blob(100_000)
        blob.view()[:3] = b"abc"
        oid = blob.seal(name="blob")
        data = client.get_blob("blob")
        assert data.size == 100_000
        assert data.to_pybytes()[:3] == b"abc"
        with pytest.raises(InvalidObjectError, match="not a blob"):
            client.get_blob(client.put(1))
        assert client.get_name("blob") == oid

    def test_validation(self, client: Client) -> None:
        oid = client.put(TABLE)
        assert client.get(oid, validate="full").equals(TABLE)
        with pytest.raises(InvalidObjectError, match="validate"):
            client.get(oid, validate="perhaps")  # type: ignore[arg-type]

    # ---- names and waits

    def test_names(self, client: Client, other: Client) -> None:
        oid = client.put(1, name="one")
        other.put_name(oid, "uno")
        assert client.list_names("*n*") == {"one": oid, "uno": oid}
        assert other.get_name("one") == oid
        client.drop_name("one")
        with pytest.raises(ObjectNotFoundError) as caught:
            other.get("one")
        assert caught.value.hint
        with pytest.raises(ObjectExistsError):
            client.put(2, name="uno")

    def test_a_put_moves_a_name(self, client: Client, other: Client) -> None:
        old = client.put(1, name="latest")
        new = client.put({"x": TABLE}, name="latest", overwrite=True, labels={"a": "b"})
        assert other.get_name("latest") == new
        assert client.get_meta(new).names == ("latest",)
        assert other.get(old) == 1  # it stays
        assert client.get_meta(old).names == ()
        assert client.list_names() == {"latest": new}
        strict = client.put(TABLE, name="latest", overwrite=True, seal="strict")
        assert client.get_name("latest") == strict
        free = other.put(3, name="free", overwrite=True)
        assert client.list_names() == {"free": free, "latest": strict}

    def test_waits(self, client: Client, other: Client) -> None:
        with pytest.raises(DeadlineExceededError):
            client.get("later", timeout_s=0.01)
        with pytest.raises(DeadlineExceededError):
            client.get_name("later", wait=True, timeout_s=0.01)
        thread = threading.Thread(target=other.put, args=(5,), kwargs={"name": "later"})
        thread.start()
        assert client.get("later", timeout_s=60) == 5
        thread.join()

    def test_wrong_arguments(self, client: Client) -> None:
        with pytest.raises(InvalidObjectError):
            client.get(-1)
        with pytest.raises(InvalidObjectError):
            client.get("x", timeout_s="soon")  # type: ignore[arg-type]
        with pytest.raises(InvalidObjectError, match="labels"):
            client.label(client.put(1), {"a": 1})  # type: ignore[dict-item]
        with pytest.raises(InvalidObjectError, match="label"):
            client.put(1, labels={"a": 1})  # type: ignore[dict-item]

    # ---- metadata and members

    def test_metadata(self, client: Client) -> None:
        oid = client.put(TABLE, name="t")
        meta = client.get_meta("t")
        assert (meta.id, meta.typename, meta.names) == (oid, "vineyard.table", ("t",))
        assert (meta.num_rows, meta.schema) == (len(TABLE), TABLE.schema)
        assert (meta.instance, meta.nbytes) == (
            client.instance,
            pytest.approx(TABLE.nbytes, rel=0.01),
        )
        client.label(oid, {"owner": "Ann"})
        assert [m.id for m in client.list_objects("table", labels={"owner": "Ann"})] == [oid]
        assert client.list_objects(labels={"owner": "Bob"}) == []
        made = client.put([TABLE, 1], labels={"owner": "Bob", "dropped": ""})
        (bobs,) = client.list_objects(labels={"owner": "Bob"})
        assert (bobs.id, bobs.labels) == (made, {"owner": "Bob"})

    def test_a_put_says_whose_pickles_are(self, client: Client) -> None:
        (others,) = client._a.put([Draft(client._encoded(Pickled()).parts, vouched=False)])
        with pytest.raises(AccessDeniedError, match="trusted=True"):
            client.get(others)
        assert isinstance(client.get(others, trusted=True), Pickled)

    def test_composites(self, client: Client) -> None:
        member = client.put(TABLE)
        meta = ObjectMeta("shop.basket", {"owner": "Ann"})
        meta.add_member("items", member)
        sealed = client.create_metadata(meta, name="basket")
        assert client.get_meta("basket")["owner"] == "Ann"
        handle = client.get_object("basket")
        assert handle.items.get().equals(TABLE)
        copy = client.shallow_copy("basket", {"owner": "Bob"})
        assert client.get_meta(copy)["owner"] == "Bob"
        assert client.get_meta(copy).signature == sealed.id
        with pytest.raises(ObjectInUseError):
            client.delete(member)
        del handle
        client.delete(["basket", copy])
        assert not client.exists(member)

    def test_handles_hold_what_is_deleted(self, client: Client, other: Client) -> None:
        handle = client.get_object(client.put(TABLE))
        other.delete(handle.id)
        with pytest.raises(ObjectNotFoundError):
            client.get(handle.id)
        assert handle.meta.num_rows == len(TABLE)
        assert handle.get().equals(TABLE)

    def test_graphs(self, client: Client, other: Client) -> None:
        people = pa.table({"name": ["Ann", "Bob", "Cy"]})
        knows = pa.table({"a": ["Ann", "Bob"], "b": ["Bob", "Cy"], "since": [1, 2]})
        graph = Graph.from_tables(
            {"person": people},
            {("person", "knows", "person"): knows},
            oid="name",
            src="a",
            dst="b",
            client=client,
        )
        got = other.get(client.put(graph))
        assert got.edge_columns("knows").equals(graph.edge_columns("knows"))
        assert got.neighbors(0).tolist() == [1]

    # ---- global objects

    def test_global_tables(self, client: Client, other: Client) -> None:
        north = client.put(TABLE, name="north")
        meta = client.create_global(
            ["north", TABLE], key="i", bounds=[(0, 1), (2, 3)], name="all", labels={"year": "2026"}
        )
        assert (meta.is_global, meta.names, meta.labels) == (True, ("all",), {"year": "2026"})
        assert (meta.typename, len(meta.members), meta.missing) == ("vineyard.global_table", 2, ())
        for each in (client, other):
            got = each.get("all")
            assert (got.num_rows, got.schema) == (2 * len(TABLE), TABLE.schema)
            assert [p.place.bounds for p in got.partitions] == [(0, 1), (2, 3)]
            assert got.nbytes == each.get_meta("all").nbytes
            assert [p.index for p in got.local_partitions(each)] == [0, 1]
            assert got.where(north) == each.where(north).number == client.instance
            assert got.partitions[1].get(fetch=True).equals(TABLE)
            assert got[0].equals(TABLE)
        with pytest.raises(ObjectInUseError, match="all"):
            other.delete(north)
        other.delete("all")
        assert client.get(north).equals(TABLE)

    def test_global_frames_arrays_and_graphs(self, client: Client, other: Client) -> None:
        for frame in (pd.DataFrame({"x": [1, 2]}), pl.DataFrame({"x": [1, 2], "s": ["a", "b"]})):
            got = other.get(client.create_global([frame, client.put(frame)]).id)
            assert got.num_rows == 4
            assert all(each.equals(frame) for each in got)
        array = np.arange(6.0).reshape(2, 3)
        got = other.get(client.create_global([client.put(array), array]).id)
        assert (got.shape, got.dtype) == ((4, 3), array.dtype)
        np.testing.assert_array_equal(got[1], array)
        graph = Graph.from_edges({"src": [0, 1, 2], "dst": [1, 2, 0]}, client=client)
        parts = partition(graph, 2, client=client)
        got = other.get(client.create_global([client.put(parts[0]), parts[1]]).id)
        assert (got.figures, got.num_edges()) == (parts.figures, 3)
        assert got.to_graph(client=client).validate() is None

    def test_what_makes_no_global_object(self, client: Client) -> None:
        oid = client.put(TABLE)
        for bad, message in [
            ([oid, np.zeros(3)], "another kind than the first: numpy, not table"),
            ([oid, TABLE.select(["i"])], "columns"),
            ([oid, TABLE.set_column(0, "i", TABLE["i"].cast("int32"))], "'i' is int32, not int64"),
            ([oid, client.put("no partition")], "a str is no partition"),
            ([client.put(np.zeros((2, 2))), np.zeros(2)], "1 dimensions, not 2"),
            ([client.put(np.zeros(2)), np.zeros(2, "f4")], "float32, not float64"),
        ]:
            with pytest.raises(InvalidObjectError, match=message) as caught:
                client.create_global(bad)
            assert caught.value.hint
        with pytest.raises(ObjectNotFoundError, match="partition 1"):
            client.create_global([oid, ObjectID(oid + 99)])
        with pytest.raises(ObjectNotFoundError, match="not in the cluster"):
            client.get(ObjectID(oid ^ 1 << 60), fetch=True)
        with pytest.raises(ObjectNotFoundError, match="not in the cluster"):
            client.where(ObjectID(oid ^ 1 << 60))
        assert client.get(oid, fetch=True).equals(TABLE)  # it is here

    def test_deleting(self, client: Client) -> None:
        first, second = client.put_many([1, 2])
        with pytest.raises(ObjectNotFoundError):
            client.delete([first, ObjectID(first + 99)])
        assert client.exists(first)
        client.delete([first, second])
        assert not client.exists(first)
        client.put(3)
        client.clear()
        client.memory_trim()
        assert (client.list_objects(), client.status().objects) == ([], 0)

    # ---- streams

    def test_streams(self, client: Client, other: Client) -> None:
        with client.create_stream(SCHEMA, name="s") as writer:
            writer.write(batch(0))
            writer.write(pa.table({"i": [3]}, schema=SCHEMA))
            with pytest.raises(InvalidObjectError, match="'i' is string"):
                writer.write(pa.record_batch({"i": ["x"]}))
            reader = other.open_stream("s")
            assert (reader.schema, reader.position) == (SCHEMA, 0)
            assert reader.read(timeout_s=60).equals(batch(0))
            assert reader.position == 1
        assert [b.num_rows for b in reader] == [1]
        assert reader.read() is None
        with pytest.raises(StreamClosedError):
            writer.write(batch(0))
        assert client.list_streams() == []  # it went with its last reader

    def test_streams_are_listed_and_dropped(self, client: Client, other: Client) -> None:
        writer = client.create_stream(SCHEMA, name="s", keep=True)
        writer.write(batch(0))
        (info,) = other.list_streams()
        assert (info.id, info.name, info.state) == (writer.id, "s", "open")
        assert (info.batches, info.keep, info.schema) == (1, True, SCHEMA)
        other.drop_stream("s")
        with pytest.raises(StreamFailedError):
            writer.write(batch(0))
        with pytest.raises(ObjectNotFoundError):
            other.open_stream("s")

    def test_waits_for_streams(self, client: Client, other: Client) -> None:
        with pytest.raises(DeadlineExceededError):
            client.open_stream("s", timeout_s=0.01)
        writer = client.create_stream(SCHEMA, name="s", max_batches=1)
        with pytest.raises(ObjectExistsError):
            other.create_stream(SCHEMA, name="s")
        reader = other.open_stream("s")
        with pytest.raises(DeadlineExceededError):
            reader.read(timeout_s=0.01)
        writer.write(batch(0))
        with pytest.raises(DeadlineExceededError):
            writer.write(batch(3), timeout_s=0.01)
        assert reader.read(timeout_s=60).equals(batch(0))
        writer.fail("no more")
        with pytest.raises(StreamFailedError, match="no more"):
            reader.read(timeout_s=60)
        with pytest.raises(StreamFailedError, match="no more"):
            reader.read()

    def test_streams_in_event_loops(self, client: Client, other: Client) -> None:
        async def run() -> list[int]:
            reader = other.open_stream("s")
            async with client.create_stream(SCHEMA, name="t") as writer:
                await writer.write_async(batch(7))
            return [b.num_rows async for b in reader]

        with client.create_stream(SCHEMA, name="s") as writer:
            writer.write(batch(0, 5))
        assert asyncio.run(run()) == [5]
        client.drop_stream("t")

    def test_a_writer_that_is_dropped_fails_its_stream(self, client: Client, other: Client) -> None:
        writer: Any = client.create_stream(SCHEMA, name="s")
        reader = other.open_stream("s")
        del writer
        with pytest.raises(StreamFailedError):
            reader.read(timeout_s=60)

    # ---- threads

    def test_threads_share_a_client(self, client: Client) -> None:
        failed: list[BaseException] = []

        def work(i: int) -> None:
            try:
                for j in range(5):
                    value = {"i": i, "a": np.full(20_000, j)}
                    got = client.get(client.put(value))
                    assert_same(value, got)
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed
