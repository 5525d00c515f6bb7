"""Programs over fragments, in real processes: results of the whole graph, and deaths."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import bsp_programs as programs
import numpy as np
import pyarrow as pa
import pytest
from conftest import Daemon
from graph_edges import rmat
from graph_oracle import LOCAL

from vineyard_arrow.client import Client
from vineyard_arrow.errors import (
    ConnectionLostError,
    DeadlineExceededError,
    InvalidGraphError,
    NotConvergedError,
    ObjectNotFoundError,
    VertexNotFoundError,
    WorkerFailedError,
)
from vineyard_arrow.graph import GlobalGraph, Graph, algorithms, bsp, bsp_algorithms
from vineyard_arrow.graph.bsp_exchange import Exchange, view_of_fragment, view_of_ranges
from vineyard_arrow.graph.partition import partition

TRIPLE = ("v", "e", "v")


def make(client: Any, directed: bool = True) -> Graph:
    """Hubs, self-loops, parallel edges, vertices without out-edges and some without any."""
    pairs = rmat(9, 6)
    nodes = pa.table({"oid": np.arange(600)})
    edges = pa.table({"src": pairs[:, 0], "dst": pairs[:, 1]})
    return Graph.from_tables({"v": nodes}, {TRIPLE: edges}, client=client, directed=directed)


def tied(client: Client, whole: GlobalGraph) -> Any:
    """The id of the global object of all fragments."""
    return client.create_global(whole).id


def check(client: Client, graph: Graph, key: Any, k: int | None) -> None:
    source = int(np.diff(graph.adjacency().out_indptr).argmax())
    sources = np.array([source, 599])
    found = bsp.run(programs.both, key, k, arguments={"sources": sources}, client=client)
    ranks, levels = (bsp_algorithms._joined(each) for each in zip(*found, strict=True))
    expected = algorithms.pagerank(graph, tol=1e-10)
    assert np.abs(ranks - expected.to_numpy()).max() < 1e-9
    reached = algorithms.bfs(graph, sources, parents=False).levels
    assert levels.tolist() == reached.fill_null(-1).to_pylist()
    assert reached.null_count
    assert levels.max() > 2


@pytest.mark.parametrize("directed", [True, False])
def test_virtual_fragments_give_what_the_graph_gives(client: Client, directed: bool) -> None:
    graph = make(client, directed)
    client.put(graph, name="graph")
    check(client, graph, "graph", 3)


@pytest.mark.parametrize(("by", "directed"), [("hash", True), ("segment", False)])
def test_an_edge_cut_gives_what_the_graph_gives(client: Client, directed: bool, by: Any) -> None:
    graph = make(client, directed)
    check(client, graph, tied(client, partition(graph, 2, by, client=client)), None)


def test_values_that_were_got_do_for_keys(client: Client) -> None:
    pairs = rmat(7, 4)
    edges = pa.table({"src": pairs[:, 0], "dst": pairs[:, 1]})
    graph = Graph.from_tables(
        {"w": {"oid": range(200)}, "v": {"oid": range(150)}},
        {("v", "f", "w"): edges, ("v", "e", "v"): edges},
        client=client,
    )
    whole = client.get(tied(client, partition(graph, 2, client=client)))
    expected = algorithms.bfs(graph, 1, triple="e", parents=False).levels
    assert bsp_algorithms.bfs(whole, 1, triple="e", client=client).equals(expected)
    got = client.get(client.put(graph))
    assert bsp_algorithms.bfs(got, 1, 2, triple="e", client=client).equals(expected)
    with pytest.raises(InvalidGraphError, match="both ends"):
        view_of_fragment(whole[0], "f")


@pytest.mark.parametrize("nodes", [1, 0])
def test_few_vertices(client: Client, nodes: int) -> None:
    """More fragments than vertices, of which there may be none."""
    ends = {"src": [7] * nodes, "dst": [7] * nodes}
    table = {"oid": pa.array([7] * nodes, pa.int64())}
    graph = Graph.from_tables({"v": table}, {TRIPLE: ends}, client=client)
    whole = tied(client, partition(graph, 2, client=client))
    ranks = bsp_algorithms.pagerank(client.put(graph), 2, client=client)
    assert ranks.to_pylist() == [1.0] * nodes
    assert bsp_algorithms.bfs(whole, [0] * nodes, client=client).to_pylist() == [0] * nodes


def test_what_is_asked_wrongly(client: Client) -> None:
    graph = make(client)
    key, whole = client.put(graph), tied(client, partition(graph, 2, client=client))
    with pytest.raises(InvalidGraphError, match="into how many"):
        bsp_algorithms.bfs(key, 0, client=client)
    with pytest.raises(InvalidGraphError, match="3 processes for 2 fragments"):
        bsp_algorithms.bfs(whole, 0, 3, client=client)
    with pytest.raises(InvalidGraphError, match="is a int, no graph"):
        bsp_algorithms.bfs(client.put(5), 0, 2, client=client)
    with pytest.raises(InvalidGraphError, match="not got from this store"):
        bsp_algorithms.bfs(graph, 0, 2, client=client)
    with pytest.raises(ObjectNotFoundError):
        bsp_algorithms.bfs("nothing", 0, 2, client=client)
    with pytest.raises(ValueError, match="alpha"):
        bsp_algorithms.pagerank(key, 2, alpha=2.0, client=client)
    with pytest.raises(ValueError, match="max_iter"):
        bsp_algorithms.pagerank(key, 2, max_iter=0, client=client)


def test_errors_of_ours_are_raised_as_they_are(client: Client) -> None:
    key = client.put(make(client))
    with pytest.raises(VertexNotFoundError, match=r"worker [01]: 1 of the sources"):
        bsp_algorithms.bfs(key, [0, 600], 2, client=client)
    with pytest.raises(NotConvergedError, match=r"worker [01]: after 2 iterations"):
        bsp_algorithms.pagerank(key, 2, max_iter=2, client=client)


# ---- exchange, in one process


class Memory:
    def __init__(self, nbytes: int) -> None:
        self.buf = memoryview(bytearray(nbytes))


@pytest.mark.parametrize("virtual", [True, False])
def test_values_and_flags_arrive(virtual: bool) -> None:
    graph, k = make(LOCAL), 4
    if virtual:
        parts = graph.fragments(k)
        views = [view_of_ranges(parts, fid, None) for fid in range(k)]
    else:
        views = [view_of_fragment(f, None) for f in partition(graph, k, client=LOCAL)]
    blocks: Any = [Memory(Exchange.nbytes(view)) for view in views]
    exchanges = [Exchange(view, blocks) for view in views]
    for each in exchanges:
        each.open()
    whole = [np.full(view.num_local, -1) for view in views]  # ids in the whole graph, by local id
    for view, ids in zip(views, whole, strict=True):
        ids[view.inner] = view.ids
    for turn in range(4):  # both halves of the blocks, twice
        values = [ids * 10.0 + turn for ids in whole]
        for each, mine in zip(exchanges, values, strict=True):
            each.write_inner(mine)
        for each, mine in zip(exchanges, values, strict=True):
            each.read_outer(mine)
        known = [((mine - turn) / 10).astype(int) for mine in values]
        assert all((ids >= 0).all() for ids in known)
        rng = np.random.default_rng(turn)
        flags = [rng.random(len(ids)) < 0.1 for ids in known]
        expected = {int(v) for ids, f in zip(known, flags, strict=True) for v in ids[f]}
        for each, mine in zip(exchanges, flags, strict=True):
            each.write_flags(mine)
        for each, mine in zip(exchanges, flags, strict=True):
            each.read_flags(mine)
        found = {
            int(v) for view, f in zip(views, flags, strict=True) for v in view.ids[f[view.inner]]
        }
        assert found == expected


# ---- programs that go wrong


def nothing_is_left(daemon: Daemon, client: Client) -> bool:
    """Whether only this client is there, and no block."""
    return [c.pid for c in daemon.status().clients] == [os.getpid()]


def until(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.002)


def test_programs_of_ones_own(client: Client) -> None:
    key = client.put(make(client))
    found = bsp.run(programs.summed, key, 2, arguments={"base": 0.5}, client=client)
    assert found == [(fid, [0.5, 2.0]) for fid in range(2)]


@pytest.mark.parametrize(
    ("program", "arguments", "error", "message"),
    [
        (
            programs.fail,
            {},
            WorkerFailedError,
            r"worker 1: KeyError: 'lost' \(bsp_programs.py:\d+\)",
        ),
        (programs.die, {"number": signal.SIGKILL}, WorkerFailedError, r"worker 1 of 2 died .*-9"),
        (
            programs.die,
            {"number": signal.SIGSTOP},
            DeadlineExceededError,
            r"workers \[.*\] of 2 did not end",
        ),
        (programs.part, {}, WorkerFailedError, "out of step"),
    ],
)
def test_a_worker_that_fails_ends_the_run(
    daemon: Daemon, client: Client, program: Any, arguments: Any, error: Any, message: str
) -> None:
    key = client.put(make(client))
    used = daemon.status().memory_charged
    timeout_s = 3.0 if error is DeadlineExceededError else 60.0
    with pytest.raises(error, match=message):
        bsp.run(program, key, 2, arguments=arguments, client=client, timeout_s=timeout_s)
    until(lambda: nothing_is_left(daemon, client) and daemon.status().memory_charged <= used)


def test_workers_end_with_their_coordinator(daemon: Daemon, client: Client, tmp_path: Any) -> None:
    key = client.put(make(client))
    used = daemon.status().memory_charged
    pid = os.fork()
    if pid == 0:
        try:
            with daemon.connect() as own:
                bsp.run(
                    programs.tell, key, 2, arguments={"told": str(tmp_path / "told")}, client=own
                )
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    workers = [int(line) for line in (tmp_path / "told").read_text().split()]
    assert len(workers) == 2
    until(lambda: not any(os.path.exists(f"/proc/{each}") and _lives(each) for each in workers))
    until(lambda: nothing_is_left(daemon, client) and daemon.status().memory_charged <= used)


def _lives(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_store_that_is_gone(make_daemon: Any) -> None:
    daemon = make_daemon("--memory-limit", "64MiB")
    with daemon.connect() as client:
        got = client.get(client.put(make(client)))
        daemon.kill()
        with pytest.raises(ConnectionLostError):
            bsp_algorithms.bfs(got, 0, 2, client=client)
