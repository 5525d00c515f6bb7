"""Graphs in a store: put with their members, got elsewhere without a copy, shared, deleted."""

from __future__ import annotations

import dataclasses
import gc
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import Daemon
from graph_oracle import LOCAL
from test_fork import in_child

from vineyard_arrow import builder_context
from vineyard_arrow.client import Client
from vineyard_arrow.errors import (
    InvalidGraphError,
    InvalidObjectError,
    ObjectExistsError,
    ObjectNotFoundError,
    StoreFullError,
)
from vineyard_arrow.graph import Graph, _kernels
from vineyard_arrow.registry import Encoder, Part, default_registry

TRIPLE = ("v", "e", "v")
NUM, COUNT = 30_000, 100_000  # every index array is larger than what a put gathers


class Thing:
    """Of no library."""


def make(client: Any, **options: Any) -> Graph:
    rng = np.random.default_rng(0)
    src, dst = rng.integers(0, NUM, (2, COUNT)) * 11
    edges = pa.table({"src": src, "dst": dst, "w": rng.random(COUNT)})
    vertices = pa.table({"oid": np.arange(NUM) * 11, "x": rng.random(NUM)})
    return Graph.from_tables({"v": vertices}, {TRIPLE: edges}, client=client, **options)


def answers(graph: Graph) -> Any:
    a = graph.adjacency()
    return (
        str(graph.schema),
        [(e.src, e.dst, e.eid, e["w"]) for e in graph.in_edges(77)],
        graph.ids("v", [770, 22]).to_pylist(),
        graph.vertices()["x"][5].as_py(),
        [int(np.sum(x, dtype=np.int64)) for x in (a.out_indptr, a.in_indices, a.in_edge_ids)],
    )


def test_a_graph_is_had_as_what_it_is(client: Client) -> None:
    assert isinstance(client.get(client.put(make(client)), as_=Graph), Graph)


@pytest.mark.parametrize("directed", [True, False])
def test_another_process_gets_the_same_graph(
    daemon: Daemon, client: Client, directed: bool
) -> None:
    graph = make(client, directed=directed)
    oid = client.put(graph, name="graph")

    def look() -> Any:
        with daemon.connect() as other:
            seen = other.get("graph")
            seen.validate()
            return answers(seen)

    assert in_child(look) == answers(graph)
    assert client.get_meta(oid).typename == "vineyard.graph"


def requests_of_two_gets(daemon: Daemon, oid: int) -> str:
    """Those that a fresh process makes."""
    code = f"""if 1:
        from vineyard_arrow.client import connect
        from vineyard_arrow.ipc.connection import Connection
        made, request = [], Connection.request
        Connection.request = lambda s, m, *a: made.append(type(m).__name__) or request(s, m, *a)
        client = connect({str(daemon.socket)!r})
        client.get({int(oid)}), client.get({int(oid)})
        print(*made)
        """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_nothing_is_copied(daemon: Daemon, client: Client) -> None:
    graph = make(client)
    oid = client.put(graph)
    members = client.get_meta(oid).members
    for name, value in graph.members().items():
        meta = client.get_meta(members[name].id)
        assert meta.copied == (value.nbytes if name == "v/vertices" else 0), name
    assert requests_of_two_gets(daemon, oid) == "Hello GetSegments"  # those of all members
    with daemon.connect() as other:
        got, again = other.get(oid), other.get(oid)
        # It all lies in the store: what is put of it is taken as it is, even by new members.
        assert {m.id for m in other.get_meta(other.put(got)).members.values()} == {
            m.id for m in members.values()
        }
        fresh = other.put(Graph(got._vertices, got._edges))
        for name, member in other.get_meta(fresh).members.items():
            meta = other.get_meta(member.id)
            assert (meta.copied, meta.gathered) == (0, 0), name
        addresses = [g.members()["v/e/v/out.indices"].buffers()[1].address for g in (got, again)]
        assert addresses[0] == addresses[1]


def test_puts_and_derived_graphs_share_members(client: Client) -> None:
    graph = make(client)
    first, second = client.put(graph), client.put(graph)
    ids = [{n: m.id for n, m in client.get_meta(oid).members.items()} for oid in (first, second)]
    assert ids[0] == ids[1]
    (edges,) = graph._edges.values()
    bare = dataclasses.replace(edges, columns={})
    derived = Graph(graph._vertices, {TRIPLE: bare}, stored=graph._stored)
    third = client.get_meta(client.put(derived)).members
    assert {name: member.id for name, member in third.items()} == {
        name: id_ for name, id_ in ids[0].items() if name != "v/e/v/columns/w"
    }
    client.delete([first, second])
    (left,) = client.list_objects("vineyard.graph")
    client.get(left.id).validate()
    assert client.list_objects("vineyard.array") != []


def test_members_go_with_the_graph(client: Client) -> None:
    oid = client.put(make(client))
    client.delete(oid)
    gc.collect()
    assert client.list_objects("*") == []


@pytest.mark.parametrize("within", [lambda g: g, lambda g: [g, g], lambda g: {"g": (1, g)}])
def test_members_that_are_deleted_while_a_put_shares_them(
    client: Client, monkeypatch: pytest.MonkeyPatch, within: Callable[[Graph], Any]
) -> None:
    """As when several threads put one graph and delete it: what is gone is put anew."""
    graph = make(client)
    doomed = [client.put(graph)]
    kept = client.get_meta(client.put(graph.members()["v/vertices"])).id
    put = client._a.put

    def interrupted(*args: Any, **options: Any) -> Any:
        while doomed:
            client.delete(doomed.pop())
        return put(*args, **options)

    monkeypatch.setattr(client._a, "put", interrupted)
    oid = client.put(within(graph))
    monkeypatch.undo()
    got = client.get(oid)
    while not isinstance(got, Graph):
        got = got["g"] if isinstance(got, dict) else got[-1]
    assert answers(got) == answers(graph)
    again = client.put(graph)  # what was put anew is remembered
    assert client.put(graph) != again
    members = {m.id for o in (oid, again) for m in client.get_meta(o).members.values()}
    assert members == {m.id for m in client.get_meta(oid).members.values()}
    client.delete([oid, again, *(o.id for o in client.list_objects("vineyard.graph"))])
    del got
    gc.collect()
    assert [o.id for o in client.list_objects("*")] == [kept]


def test_a_member_that_is_gone_and_not_shared(client: Client) -> None:
    """Nothing tells how to make it again."""
    part = Part("shop.root", pa.schema([]), [])

    def build(value: Any, encoder: Encoder) -> Part:
        oid = client.put(np.arange(5))
        encoder.add_member("x", oid)
        client.delete(oid)
        return part

    with builder_context({Thing: build}), pytest.raises(ObjectNotFoundError, match="no object"):
        client.put(Thing())
    assert client.list_objects("*") == []


def test_a_put_is_all_or_nothing(client: Client, make_daemon: Callable[..., Daemon]) -> None:
    client.put(1, name="taken")
    graph = make(client)
    before = client.status().objects
    with pytest.raises(ObjectExistsError):
        client.put(graph, name="taken")
    assert client.status().objects == before
    oid = client.put(graph)  # what it remembers of the failed put is not believed
    assert client.get(oid).num_edges() == COUNT
    with make_daemon("--memory-limit", "16MiB").connect() as small:
        big = make(LOCAL, orig_row=True)
        padded = big._vertices["v"].table.append_column(
            "pad", [np.zeros(NUM * 100, "S5").reshape(NUM, 100)[:, 0].tolist()]
        )
        vertices = dataclasses.replace(big._vertices["v"], table=padded)
        blob = small.put(np.zeros(14 << 20, np.uint8))
        with pytest.raises(StoreFullError):
            small.put(Graph({"v": vertices}, big._edges))
        assert small.status().objects == 1
        small.delete(blob)


def test_several_at_once_and_for_good(client: Client) -> None:
    graph, other = make(client), make(client, directed=False)
    ids = client.put_many([graph, 5, other, graph], names=["a", None, "b", "c"])
    assert [client.get_meta(i).names for i in ids] == [("a",), (), ("b",), ("c",)]
    for name in "abc":
        client.get(name).validate()
    assert client.get(ids[1]) == 5
    strict = client.put(make(client), seal="strict")
    assert answers(client.get(strict)) == answers(graph)
    with pytest.raises(ObjectExistsError):
        client.put_many([make(client), 1], names=[None, "a"], seal="strict")
    assert len(client.list_objects("vineyard.graph")) == 4


def test_a_graph_of_one_store_is_put_into_another(
    client: Client, make_daemon: Callable[..., Daemon]
) -> None:
    graph = make(client)
    client.put(graph)
    with make_daemon("--memory-limit", "64MiB").connect() as other:
        assert answers(other.get(other.put(graph))) == answers(graph)
    assert answers(client.get(client.put(graph))) == answers(graph)


def test_views_outlive_object_and_client(daemon: Daemon, client: Client) -> None:
    oid = client.put(make(client))
    expected = answers(client.get(oid))
    other = daemon.connect()
    graph = other.get(oid)
    edge, made = next(graph.edges()), graph.out_slice(0)
    first = (edge.dst, edge["w"], made.neighbors.tolist())
    client.delete(oid)
    other.close()
    gc.collect()
    assert client.list_objects("*") == []
    assert answers(graph) == expected
    del graph
    gc.collect()
    assert (edge.dst, edge["w"], made.neighbors.tolist()) == first
    assert daemon.status().deleted_pinned > 0
    del edge, made
    gc.collect()
    assert daemon.status().deleted_pinned == 0


def test_graphs_within_other_values(client: Client) -> None:
    graph, other = make(client), make(client, directed=False)
    got = client.get(client.put({"graphs": [graph, other, graph], "n": 1}))
    assert list(map(answers, got["graphs"])) == list(map(answers, (graph, other, graph)))
    assert answers(pickle.loads(pickle.dumps(graph))) == answers(graph)


@pytest.mark.parametrize("mode", ["cow", "copy"])
def test_other_modes(client: Client, mode: Any) -> None:
    graph = make(client)
    assert answers(client.get(client.put(graph), mode=mode)) == answers(graph)


def test_empty_graphs_come_back(client: Client) -> None:
    for directed in (True, False):
        nothing = {"src": [], "dst": []}
        graph = Graph.from_edges(nothing, client=client, directed=directed)
        got = client.get(client.put(graph))
        got.validate()
        assert (got.num_vertices(), got.num_edges(), list(got.edges())) == (0, 0, [])
    got = client.get(client.put(Graph.from_tables({}, {}, client=client)))
    assert got.schema.vertices == ()


def test_members_are_objects(client: Client) -> None:
    handle = client.get_object(client.put(make(client)))
    assert list(handle) == [
        "v/vertices", "v/oids/keys", "v/oids/ids", "v/e/v/out.indptr", "v/e/v/out.indices",
        "v/e/v/in.indptr", "v/e/v/in.indices", "v/e/v/in.edge_ids", "v/e/v/columns/w",
    ]  # fmt: skip
    assert handle.member("v/vertices").to_table().num_rows == NUM
    assert len(handle.member("v/e/v/columns/w").get()) == COUNT


def test_a_member_that_was_deleted_is_named(client: Client) -> None:
    oid = client.put(make(client))
    client.delete(client.get_meta(oid).members["v/e/v/in.indices"].id, force=True)
    with pytest.raises(ObjectNotFoundError, match=r"member 'v/e/v/in.indices' .* is gone"):
        client.get(oid)


def test_texts_and_wide_slots_come_back(client: Client) -> None:
    names = pa.array([f"vertex {i}" for i in range(500)], pa.string_view())
    edges = pa.table({"src": names, "dst": names})
    graph = Graph.from_tables({"v": pa.table({"oid": names})}, {TRIPLE: edges}, client=client)
    got = client.get(client.put(graph))
    got.validate()
    assert got.ids("v", names).to_pylist() == list(range(500))
    keys = Graph.from_tables(
        {"v": pa.table({"a": names, "b": range(500)})}, {}, oid=["a", "b"], client=client
    )
    got = client.get(client.put(keys))
    got.validate()
    assert got.ids("v", ("vertex 7", 7)) == 7


# ---- hostile ones


def small(directed: bool = True) -> Graph:
    edges = {"src": [0, 0, 1, 2, 2], "dst": [1, 2, 2, 2, 0]}
    return Graph.from_tables(
        {"v": {"oid": [0, 1, 2]}}, {TRIPLE: edges}, client=LOCAL, directed=directed
    )


def spoiled(graph: Graph, name: str, values: Any, type_: Any = None) -> Graph:
    (edges,) = graph._edges.values()
    array = pa.array(values, type_ or edges.arrays[name].type)
    arrays = {**edges.arrays, name: array}
    return Graph(
        graph._vertices, {TRIPLE: dataclasses.replace(edges, arrays=arrays)}, graph.directed
    )


@pytest.mark.parametrize(
    ("directed", "name", "values", "message"),
    [
        (True, "out.indptr", [1, 2, 3, 5], "out: indptr does not ascend.*at 0"),
        (True, "out.indptr", [0, 3, 2, 5], "out: indptr does not ascend.*at 1"),
        (True, "out.indptr", [0, 2, 3, 4], "out: indptr does not ascend.*at 3"),
        (True, "in.indptr", [0, -1, 2, 5], "in: indptr does not ascend"),
        (True, "in.indptr", [0, 2**62, 2, 5], "in: indptr does not ascend"),
        (True, "out.indptr", [0, 2, 5], "out: 2 rows, not 3"),
        (True, "out.indptr", [], "out: -1 rows, not 3"),
        (True, "out.indices", [1, 3, 2, 0, 2], "out: a neighbour is outside"),
        (True, "out.indices", [2, 1, 2, 0, 2], "out: neighbours of a row are not in order"),
        (True, "in.indices", [2, 0, 0, 1, 2**32 - 1], "in: a neighbour is outside"),
        (True, "in.edge_ids", [3, 0, 1, 2, 5], "edge ids do not match"),
        (True, "in.edge_ids", [3, 0, 1, 2, 2], "an edge id is there too often"),
        (True, "in.edge_ids", [0, 3, 1, 2, 4], "edge ids do not match"),
        (True, "in.edge_ids", [3, 0, 1, 2], "not as many"),
        (True, "out.indices", [1, 2, 2, 0], "does not ascend"),
        (False, "out.edge_ids", [0, 1, 2, 0, 3, 1, 2, 3, 9], "edge ids do not match"),
        (False, "out.edge_ids", [0, 1, 2], "positions of|not as many"),
        (False, "out.edge_ids", [0] * 9, "positions of|too often"),
        (False, "out.indices", [1, 2, 2, 0, 2, 0, 1, 1, 2], "not in the rows of both its ends"),
    ],
)  # fmt: skip
def test_spoiled_arrays_are_found(
    client: Client, directed: bool, name: str, values: Any, message: str
) -> None:
    graph = small(directed)
    graph.validate()
    bad = client.get(client.put(spoiled(graph, name, values)))
    with pytest.raises(InvalidGraphError, match=message):
        bad.validate()


def test_an_untrusted_graph_is_validated_before_it_is_got(client: Client) -> None:
    oid = client.put(spoiled(small(), "out.indices", [1, 3, 2, 0, 2]))
    assert client.get(oid).schema  # one's own is trusted
    for options in ({"trusted": False}, {"validate": "full"}):
        with pytest.raises(InvalidGraphError):
            client.get(oid, **options)


def test_spoiled_types_and_vertices_are_found() -> None:
    graph = small()
    for name, type_ in (("out.indptr", pa.int32()), ("in.edge_ids", pa.int64())):
        values = graph.arrow()[name].to_pylist()
        with pytest.raises(InvalidGraphError, match=f"{name} is missing, or of a wrong type"):
            spoiled(graph, name, values, type_).validate()
    with pytest.raises(InvalidGraphError, match="wrong type"):
        spoiled(graph, "in.indices", [2, 0, 0, 1, None]).validate()
    vertices = graph._vertices["v"]
    keys, ids = vertices.index["keys"], vertices.index["ids"]
    for index in (
        {"keys": keys, "ids": pa.array([7] * len(ids), ids.type)},
        {"keys": keys, "ids": pa.array([2**32 - 1] * len(ids), ids.type)},
        {"keys": pa.array([1] * len(keys)), "ids": ids},
        {"keys": keys[:3], "ids": ids},
        {"keys": keys},
        {"keys": keys, "ids": ids.cast(pa.int64())},
        {"slots": pa.array([5] * 9, pa.uint64())},
        {"slots": pa.array([2**63] * 9, pa.uint64())},
    ):
        bad = Graph({"v": dataclasses.replace(vertices, index=index)}, graph._edges)
        with pytest.raises(InvalidGraphError, match="v: "):
            bad.validate()


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"vertices": 5, "edges": [], "directed": True},
        {"vertices": [["v"]], "edges": [], "directed": True},
        {"vertices": [["v", 1, ["oid"], ["keys"], 32]], "edges": [], "directed": True},
    ],
)
def test_descriptions_that_make_no_sense(client: Client, params: dict[str, Any]) -> None:
    oid = client._put_parts([Part("vineyard.graph", pa.schema([]), [], params)], {})
    with pytest.raises((InvalidGraphError, ObjectNotFoundError)):
        client.get(oid)


# ---- what others may build upon


def test_builders_put_members(client: Client) -> None:
    class Pair:
        def __init__(self, left: Any, right: Any) -> None:
            self.left, self.right = left, right

    registry = client._registry.__class__()

    @registry.builder(Pair)
    def build(pair: Pair, encoder: Encoder) -> Part:
        encoder.put_member("left", pair.left)
        encoder.put_member("right", pair.right)
        return Part("test.pair", pa.schema([]), [])

    @registry.resolver("test.pair")
    def resolve(part: Any, stored: Any) -> Pair:
        return Pair(stored.member("left"), stored.member("right"))

    from vineyard_arrow.client import connect

    with connect(str(client._a.socket), registry=registry) as own:
        nested = own.get(own.put(Pair(Pair(1, 2), "x")))
        assert (nested.left.left, nested.left.right, nested.right) == (1, 2, "x")
    assert client.status().objects == 5

    @registry.builder(dict)
    def twice(value: Any, encoder: Encoder) -> Part:
        encoder.put_member("same", 1)
        encoder.put_member("same", 2)
        raise AssertionError

    twofold = pytest.raises(InvalidObjectError, match="there is a member 'same' already")
    with connect(str(client._a.socket), registry=registry) as own, twofold:
        own.put({})
    with pytest.raises(InvalidObjectError, match="no members"):
        Encoder(default_registry).put_member("x", 1)


def test_default_threads() -> None:
    assert _kernels.default_threads() in (1, 2)
