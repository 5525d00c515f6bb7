"""Partitions over two instances of one cluster: what moves, what stays, and what is left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from cluster_harness import daemons as daemons
from cluster_harness import emptied
from cluster_harness import pair as pair
from conftest import Daemon
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vineyard_arrow.client import Client
from vineyard_arrow.errors import ConnectionLostError, ObjectNotFoundError, StoreFullError
from vineyard_arrow.graph import GlobalGraph, Graph

SMALL = ("--memory-limit", "128MiB", "--pages", "small")
Pair = tuple[Client, Client]


def counts(*clients: Client) -> list[int]:
    return [client.status().objects for client in clients]


def rows(start: int, count: int) -> pa.Table:
    random = np.random.default_rng(start)
    return pa.table(
        {
            "k": np.arange(start, start + count),
            "g": random.integers(0, 50, count),
            "s": pa.array([f"text {i}" for i in range(count)], pa.string()),
        }
    )


def halves(pair: Pair, count: int = 20_000) -> tuple[Any, pa.Table]:
    """A global table with a partition on each instance."""
    a, b = pair
    tables = [rows(0, count), rows(count, count)]
    there = b.put(tables[1])
    b.persist(there)
    meta = a.create_global([a.put(tables[0]), there])
    return meta.id, pa.concat_tables(tables)


def fetched(client: Client, oid: Any) -> list[Any]:
    return [p.get(fetch=True) for p in client.get(oid).partitions]


def test_only_what_must_moves(pair: Pair) -> None:
    a, b = pair
    oid, table = halves(pair)
    stay = a.repartition(oid, 4, plan=True)
    assert (stay.moved, stay.copied) == (0, 0)
    assert [p.instance for p in stay.partitions] == [a.instance] * 2 + [b.instance] * 2
    made = stay.run()
    assert pa.concat_tables(fetched(b, made)) == table
    metas = [(a, b)[i // 2].get_meta(each) for i, each in enumerate(a.get(made).object_ids)]
    assert [m.copied for m in metas] == [0] * 4
    three = a.repartition(oid, 3, plan=True)  # the middle one is of both
    assert 0 < three.moved < table.nbytes / 3 * 0.6
    assert pa.concat_tables(fetched(a, three.run())) == table


def test_to_one_place(pair: Pair) -> None:
    a, b = pair
    oid, table = halves(pair)
    plan = a.repartition(oid, over=b, plan=True)
    assert abs(plan.moved * 2 - table.nbytes) < 100
    assert plan.in_place > 0
    made = plan.run()
    ids = b.get(made).object_ids
    assert {each.instance for each in ids} == {b.instance}
    assert ids[1] == a.get(oid).object_ids[1]
    assert pa.concat_tables(b.get(made)) == table
    assert a.get(a.repartition(oid, over=b)).object_ids == ids  # the copy is there already
    one = a.concat(oid, name="one")
    assert one.instance == a.instance
    assert a.get("one") == table
    assert b.get(a.concat(oid, over=b.instance)) == table


def test_spread(pair: Pair) -> None:
    a, b = pair
    table = rows(0, 30_000)
    oid = a.put(table)
    plan = a.partition(oid, 6, by="g", over=a.instances(), plan=True)
    assert sorted(p.instance for p in plan.partitions).count(a.instance) == 3
    assert plan.moved + plan.copied == sum(p.nbytes for p in plan.partitions)
    before = b.status().memory_used
    whole = a.get(plan.run())
    assert {p.instance for p in whole.partitions} == {a.instance, b.instance}
    frame = pa.concat_tables(fetched(a, plan.run())).to_pandas().sort_values("k")
    pd.testing.assert_frame_equal(frame.reset_index(drop=True), table.to_pandas())
    assert b.status().memory_used > before
    for p in whole.partitions:
        at = a if p.instance == a.instance else b
        assert at.get_meta(p.id).copied == 0  # gathered straight into its memory


def test_an_object_of_another_instance(pair: Pair) -> None:
    a, b = pair
    table = rows(0, 1000)
    oid = b.put(table, name="far")
    b.persist(oid)
    made = a.partition(oid, 2, by="g")
    assert {each.instance for each in a.get(made).object_ids} == {b.instance}
    assert counts(a) == [0]  # nothing came by here
    back = a.get(a.concat(made))
    assert sorted(back["k"].to_pylist()) == table["k"].to_pylist()


def test_frames_and_arrays(pair: Pair) -> None:
    a, b = pair
    frame = pd.DataFrame({"x": np.arange(1000.0), "y": ["a", "b"] * 500}).set_index("x")
    made = a.partition(a.put(frame), 4, over=[a.instance, b.instance])
    pd.testing.assert_frame_equal(pd.concat(fetched(b, made)), frame)
    array = np.arange(120_000.0).reshape(300, 400)
    first = a.partition(a.put(array), 4, over=[a, b])
    assert sorted(p.instance == a.instance for p in a.get(first).partitions) == [0, 0, 1, 1]
    plan = a.repartition(first, chunks=(-1, 100), plan=True)
    assert plan.moved == array.nbytes / 2
    second = plan.run()
    np.testing.assert_array_equal(np.hstack(fetched(b, second)), array)
    np.testing.assert_array_equal(b.get(b.concat(second)), array)


def test_graphs(pair: Pair) -> None:
    a, b = pair
    random = np.random.default_rng(1)
    edges = pa.table({"src": random.integers(0, 300, 2000), "dst": random.integers(0, 300, 2000)})
    graph = Graph.from_tables(
        {"v": pa.table({"oid": range(300)})}, {("v", "e", "v"): edges}, client=a
    )
    oid = a.put(graph)
    plan = a.partition(oid, 4, over=[a.instance, b.instance], plan=True)
    assert plan.moved > 0
    made = plan.run(name="g")
    whole = a.get("g")
    assert isinstance(whole, GlobalGraph)
    assert [i.instance for i in whole.object_ids] == [p.instance for p in plan.partitions]
    assert sum(each.edges for each in whole.figures) == 2000
    before = counts(a, b)
    assert a.repartition("g", 3, plan=True).moved == 0
    assert counts(a, b) == before
    back = a.get(a.concat("g", name="back"))
    assert not a.list_objects(labels={"vineyard.origin": str(whole.object_ids[-1])})
    assert (back.num_vertices(), back.num_edges()) == (300, 2000)
    again = a.get(a.repartition(made, 2, over=b))
    assert {i.instance for i in again.object_ids} == {b.instance}
    assert again.num_edges() == 2000
    del whole, back, again, graph


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    sizes=st.lists(st.tuples(st.integers(0, 40), st.booleans()), min_size=1, max_size=5),
    n=st.integers(1, 6),
    how=st.sampled_from(["slices", "hash", "range", "round_robin"]),
    both=st.booleans(),
)
def test_every_row_once(
    pair: Pair, sizes: list[tuple[int, bool]], n: int, how: str, both: bool
) -> None:
    a, b = pair
    ids, tables, start = [], [], 0
    for size, far in sizes:
        tables.append(rows(start, size))
        ids.append((b if far else a).put(tables[-1]))
        (b if far else a).persist(ids[-1])
        start += size
    oid = a.create_global(ids).id
    options: dict[str, Any] = {} if how in ("slices", "round_robin") else {"by": "g"}
    if both:
        options["over"] = [a, b]
    made = a.repartition(oid, n, how=how, **options)
    whole = pa.concat_tables(tables)
    alone = a.get(a.partition(whole, n, how=how, **{k: v for k, v in options.items() if k == "by"}))
    assert fetched(a, made) == list(alone)
    emptied(a, b)


# ---- what goes wrong


def test_a_store_that_is_full(pair: Pair, make_daemon: Callable[..., Daemon]) -> None:
    a, _ = pair
    tiny = make_daemon("--memory-limit", "2MiB", "--pages", "small", "--meta", a.status().meta)
    with tiny.connect() as c:
        table = pa.table({"k": np.arange(1 << 20)})
        oid = a.put(table)
        before = counts(a, c)
        with pytest.raises(StoreFullError):
            a.partition(oid, 4, by="k", over=[a.instance, c.instance])
        assert counts(a, c) == before
        assert c.status().memory_used == 0


def test_an_instance_that_is_gone(pair: Pair, make_daemon: Callable[..., Daemon]) -> None:
    a, b = pair
    daemon = make_daemon(*SMALL, "--meta", a.status().meta)
    with daemon.connect() as c:
        number = c.instance
        oid = a.put(rows(0, 10_000))
        plan = a.partition(oid, 6, by="g", over=[a.instance, b.instance, number], plan=True)
        daemon.kill()
        before = counts(a, b)
        with pytest.raises((ConnectionLostError, ObjectNotFoundError)):
            plan.run()
        assert counts(a, b) == before


def test_an_instance_that_dies_meanwhile(
    pair: Pair, make_daemon: Callable[..., Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vineyard_arrow.partitioning.reach import Reach

    a, b = pair
    daemon = make_daemon(*SMALL, "--meta", a.status().meta)
    with daemon.connect() as c:
        oid = a.put(rows(0, 10_000))
        plan = a.partition(oid, 6, by="g", over=[b.instance, c.instance, a.instance], plan=True)
        put, last = Reach.put, plan.partitions[-1].instance
        order = list(dict.fromkeys(p.instance for p in plan.partitions))
        done = []

        def deadly(self: Reach, number: int, values: Any) -> Any:
            done.append(number)
            if number == c.instance:
                daemon.kill()
            return put(self, number, values)

        monkeypatch.setattr(Reach, "put", deadly)
        before = counts(a, b)
        with pytest.raises(ConnectionLostError, match=f"instance {c.instance:06x}"):
            plan.run()
        assert done == order[: order.index(c.instance) + 1]
        assert last in order
        assert counts(a, b) == before


def test_over_tcp_alone(
    pair: Pair, make_daemon: Callable[..., Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, _ = pair
    far = make_daemon(*SMALL, "--meta", a.status().meta, "--rpc", "127.0.0.1:0")
    with far.connect() as c:
        number = c.instance
        instances = a.instances()
        there = [
            replace(i, socket="/nowhere/at/all") if i.number == number else i for i in instances
        ]
        monkeypatch.setattr(Client, "instances", lambda self: there)
        table = rows(0, 5000)
        made = a.partition(a.put(table), 4, by="g", over=[a.instance, number])
        assert {each.instance for each in a.get(made).object_ids} == {a.instance, number}
        slices = a.partition(a.put(table), 2, over=number)
        assert pa.concat_tables(c.get(slices)) == table
        back = a.get(a.concat(made))
        assert sorted(back["k"].to_pylist()) == table["k"].to_pylist()
