"""Graphs as other libraries have them, and back: what they say, and what they copy."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import igraph
import networkx as nx
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import rustworkx
import scipy.sparse as sp
from graph_oracle import LOCAL, Slow, examples, fast, multigraphs
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csgraph

from vineyard_arrow.client import Client
from vineyard_arrow.errors import (
    InvalidGraphError,
    LabelNotFoundError,
    LibraryNotFoundError,
)
from vineyard_arrow.graph import Graph
from vineyard_arrow.graph.adapters import (
    common,
    from_igraph,
    from_networkx,
    from_rustworkx,
    from_scipy,
    networkx_view,
    register_duckdb,
    scipy,
    to_igraph,
    to_networkx,
    to_numpy,
    to_polars,
    to_pyg,
    to_pyg_hetero,
    to_rustworkx,
    to_scipy,
    to_tables,
    to_tensors,
)

KEYS = st.sampled_from(["oid", "id"])
NAMES: Any = {"vertex_label": "v", "edge_label": "e", "client": LOCAL}


def same_graph(a: Graph, b: Graph) -> None:
    assert a.directed == b.directed
    mine, others = a.members(), b.members()
    if a.num_edges() == 0:  # many have no properties then
        mine, others = (
            {name: each for name, each in members.items() if "/columns/" not in name}
            for members in (mine, others)
        )
    assert mine.keys() == others.keys()
    for name, member in mine.items():
        assert others[name].equals(member), name


def address(values: Any) -> int:
    return int(values.__array_interface__["data"][0])


def movies() -> Graph:
    """Two labels that share oids, three triples, nulls, and edges in parallel."""
    return Graph.from_tables(
        {
            "person": pa.table({"oid": [1, 2, 3], "age": [30, None, 50]}),
            "film": pa.table({"oid": [1, 2], "title": ["A", "B"]}),
        },
        {
            ("person", "saw", "film"): pa.table(
                {"src": [1, 1, 3], "dst": [2, 2, 1], "stars": [4.0, None, 5.0]}
            ),
            ("person", "likes", "film"): pa.table({"src": [1], "dst": [2]}),
            ("person", "knows", "person"): pa.table({"src": [1, 2], "dst": [2, 2]}),
        },
        client=LOCAL,
    )


# ---- networkx


@examples(25)
@given(multigraphs(), KEYS, st.booleans())
def test_networkx(slow: Slow, keys: Any, multigraph: bool) -> None:
    graph = fast(slow)
    made = to_networkx(graph, keys=keys, multigraph=multigraph)
    expected = (nx.MultiDiGraph if slow.directed else nx.MultiGraph)()
    names = range(slow.num) if keys == "id" else [7 * v - 3 for v in range(slow.num)]
    expected.add_nodes_from(
        (names[v], {"oid": 7 * v - 3} if keys == "id" else {}) for v in range(slow.num)
    )
    for eid, row in enumerate(slow.rows):
        src, dst = slow.pairs[row]
        expected.add_edge(names[src], names[dst], eid, row=row)
    assert nx.utils.graphs_equal(made, expected if multigraph else type(made)(expected))
    view = networkx_view(graph, keys=keys, multigraph=multigraph)
    assert type(view) is type(made)
    assert nx.utils.graphs_equal(view, made)
    assert nx.utils.graphs_equal(view.copy(), made)
    assert nx.utils.graphs_equal(
        view.reverse() if slow.directed else view, made.reverse() if slow.directed else made
    )
    assert [list(each) for each in (view, view.edges, view.degree)] == [
        list(view),
        list(view.edges),
        list(made.degree),
    ]
    assert view.number_of_edges() == made.number_of_edges()
    for u in made:
        assert list(view.neighbors(u)) == sorted(made.neighbors(u))
        for v in made:
            assert view.has_edge(u, v) == made.has_edge(u, v)
            assert view.number_of_edges(u, v) == made.number_of_edges(u, v)
            assert view.get_edge_data(u, v) == made.get_edge_data(u, v)
        if slow.directed:
            assert set(view.predecessors(u)) == set(made.predecessors(u))
            assert view.in_degree(u) == made.in_degree(u)


@examples(25)
@given(multigraphs())
def test_networkx_and_back(slow: Slow) -> None:
    graph = fast(slow)
    same_graph(graph, from_networkx(to_networkx(graph), **NAMES))
    same_graph(graph, from_networkx(networkx_view(graph), **NAMES))


def test_networkx_of_several_labels() -> None:
    graph = movies()
    made, view = to_networkx(graph), networkx_view(graph)
    assert nx.utils.graphs_equal(made, view)
    assert made.nodes["person", 2] == {"label": "person"}  # without the null
    ann, film = ("person", 1), ("film", 2)
    assert made[ann][film] == {
        ("saw", 0): {"label": "saw", "stars": 4.0},
        ("saw", 1): {"label": "saw"},
        ("likes", 0): {"label": "likes"},
    }
    assert view.has_edge(ann, film, ("saw", 1))
    assert not view.has_edge(ann, film, ("saw", 2))
    assert not view.has_edge(ann, film, ("likes", 1))
    assert not view.has_edge(ann, film, 0)
    assert dict(networkx_view(graph, multigraph=False)[ann][film]) == {"label": "likes"}
    assert nx.utils.graphs_equal(
        networkx_view(graph, multigraph=False), to_networkx(graph, multigraph=False)
    )
    back = from_networkx(made, label="label", client=LOCAL)
    assert back.schema == graph.schema
    for name, member in graph.members().items():
        assert back.members()[name].equals(member), name
    some = networkx_view(graph, triples=["knows"], keys="id")
    assert list(some.edges) == [(0, 1, 0), (1, 1, 1)]
    assert some.nodes[0] == {"oid": 1, "age": 30}
    assert list(to_networkx(graph, triples=["likes"])) == [
        ("person", 1), ("person", 2), ("person", 3), ("film", 1), ("film", 2)
    ]  # fmt: skip


def test_networkx_keys_of_several_columns() -> None:
    vertices = pa.table({"a": [1, 1, 2], "b": ["x", "y", "x"]})
    edges = pa.table({"sa": [1, 2], "sb": ["x", "x"], "da": [1, 1], "db": ["y", "x"]})
    graph = Graph.from_tables(
        {"v": vertices}, {("v", "e", "v"): edges}, oid=("a", "b"), src=("sa", "sb"),
        dst=("da", "db"), client=LOCAL,
    )  # fmt: skip
    made = to_networkx(graph)
    assert list(made.edges()) == [((1, "x"), (1, "y")), ((2, "x"), (1, "x"))]
    assert nx.utils.graphs_equal(networkx_view(graph), made)
    same_graph(graph, from_networkx(made, oid=("a", "b"), **NAMES))
    with pytest.raises(InvalidGraphError, match="no tuples"):
        from_networkx(nx.path_graph(3), oid=("a", "b"), **NAMES)
    tables = to_tables(graph)
    assert tables.edges["v", "e", "v"].column_names == ["src_a", "src_b", "dst_a", "dst_b"]
    same_graph(
        graph,
        Graph.from_tables(
            tables.vertices, tables.edges, oid=("a", "b"), src=("src_a", "src_b"),
            dst=("dst_a", "dst_b"), client=LOCAL,
        ),
    )  # fmt: skip


READING: dict[str, Any] = {
    "pagerank": nx.pagerank,
    "shortest_path": lambda g: dict(nx.all_pairs_shortest_path(g)),
    "dijkstra": lambda g: dict(nx.all_pairs_dijkstra_path_length(g, weight="w")),
    "bellman_ford": lambda g: nx.single_source_bellman_ford_path_length(g, 0, weight="w"),
    "astar": lambda g: nx.astar_path_length(g, 0, 7, weight="w") if nx.has_path(g, 0, 7) else None,
    "bfs": lambda g: list(nx.bfs_edges(g, 0)),
    "bfs_layers": lambda g: [sorted(each) for each in nx.bfs_layers(g, [0])],
    "dfs": lambda g: list(nx.dfs_preorder_nodes(g, 0)),
    "dfs_labelled": lambda g: list(nx.dfs_labeled_edges(g, 0)),
    "degree_centrality": nx.degree_centrality,
    "closeness": nx.closeness_centrality,
    "betweenness": lambda g: nx.betweenness_centrality(g, weight="w"),
    "density": nx.density,
    "size": lambda g: g.size(weight="w"),
    "to_scipy": lambda g: nx.to_scipy_sparse_array(g, weight="w").toarray().tolist(),
    "to_numpy": lambda g: nx.to_numpy_array(g).tolist(),
    "self_loops": lambda g: sorted(nx.selfloop_edges(g)),
    "isolates": lambda g: list(nx.isolates(g)),
    "subgraph": lambda g: sorted(g.subgraph([0, 1, 2, 5]).edges()),
    "edge_subgraph": lambda g: sorted(g.edge_subgraph(list(g.edges)[:5]).edges()),
    "undirected": lambda g: sorted(map(sorted, g.to_undirected().edges())),
    "ego": lambda g: sorted(nx.ego_graph(g, 0).edges()),
    "node_link": lambda g: sorted(map(str, nx.node_link_data(g, edges="links")["links"])),
}  # fmt: skip
UNDIRECTED: dict[str, Any] = {
    "components": lambda g: list(map(sorted, nx.connected_components(g))),
    "bridges": lambda g: sorted(map(sorted, nx.bridges(g))),
    "spanning_tree": lambda g: nx.minimum_spanning_tree(g, weight="w").size(weight="w"),
    "bipartite": nx.is_bipartite,
    "eulerian": nx.is_eulerian,
    "biconnected": lambda g: sorted(map(sorted, nx.biconnected_components(g))),
}
DIRECTED: dict[str, Any] = {
    "strong": lambda g: sorted(map(sorted, nx.strongly_connected_components(g))),
    "weak": lambda g: sorted(map(sorted, nx.weakly_connected_components(g))),
    "condensation": lambda g: sorted(nx.condensation(nx.DiGraph(g)).edges()),
    "descendants": lambda g: nx.descendants(g, 0),
    "ancestors": lambda g: nx.ancestors(g, 0),
    "acyclic": nx.is_directed_acyclic_graph,
    "reversed": lambda g: sorted(g.reverse(copy=False).edges()),
}
SIMPLE: dict[str, Any] = {
    "clustering": nx.clustering,
    "transitivity": nx.transitivity,
    "hits": lambda g: {k: round(v, 6) for k, v in nx.hits(g)[0].items()},
    "eigenvector": lambda g: nx.eigenvector_centrality_numpy(g) if nx.is_connected(g) else None,
    "greedy_color": nx.greedy_color,
    "assortativity": nx.average_neighbor_degree,
}


def random_graph(directed: bool) -> Graph:
    rng = np.random.default_rng(3)
    pairs = rng.integers(0, 12, (30, 2))
    edges = pa.table(
        {"src": pairs[:, 0], "dst": pairs[:, 1], "w": rng.integers(1, 5, 30), "n": ["t"] * 30}
    )
    vertices = pa.table({"oid": np.arange(13)})
    return Graph.from_tables(
        {"v": vertices}, {("v", "e", "v"): edges}, directed=directed, client=LOCAL
    )


@pytest.mark.parametrize("multigraph", [True, False], ids=["multi", "simple"])
@pytest.mark.parametrize("directed", [True, False], ids=["directed", "undirected"])
def test_networkx_reads_a_view_as_its_own(directed: bool, multigraph: bool) -> None:
    graph = random_graph(directed)
    own = to_networkx(graph, multigraph=multigraph)
    # Some results depend on the order of neighbours: give networkx's own the index's.
    own = sorted_like_an_index(own)
    view = networkx_view(graph, multigraph=multigraph)
    algorithms = READING | (DIRECTED if directed else UNDIRECTED)
    if not multigraph and not directed:
        algorithms = algorithms | SIMPLE
    for name, algorithm in algorithms.items():
        expected = algorithm(own)
        found = algorithm(view)
        if isinstance(expected, dict) and isinstance(next(iter(expected.values()), 0), float):
            assert found == pytest.approx(expected), name
        else:
            assert found == expected, name


def sorted_like_an_index(graph: Any) -> Any:
    made = type(graph)()
    made.add_nodes_from(sorted(graph.nodes(data=True), key=lambda node: node[0]))
    for side in ("_succ", "_pred") if graph.is_directed() else ("_adj",):
        rows = getattr(graph, side)
        setattr(made, side, {u: {v: rows[u][v] for v in sorted(rows[u])} for u in sorted(rows)})
    return made


def test_networkx_sorts_a_view_topologically() -> None:
    rng = np.random.default_rng(1)
    pairs = np.sort(rng.integers(0, 30, (60, 2)), axis=1)
    pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    graph = Graph.from_edges({"src": pairs[:, 0], "dst": pairs[:, 1]}, client=LOCAL)
    view = networkx_view(graph, keys="id")
    place = {v: at for at, v in enumerate(nx.topological_sort(view))}
    assert len(place) == graph.num_vertices()
    assert all(place[e.src] < place[e.dst] for e in graph.edges())
    assert nx.dag_longest_path_length(view) == nx.dag_longest_path_length(to_networkx(graph))


@pytest.mark.parametrize("directed", [True, False])
def test_a_view_is_frozen(directed: bool) -> None:
    graph = random_graph(directed)
    view = networkx_view(graph, keys="id")
    before = to_networkx(graph, keys="id")
    assert nx.is_frozen(view)
    u, v, key = next(iter(view.edges))
    for change in (
        lambda: view.add_node(99),
        lambda: view.add_edge(0, 1),
        lambda: view.remove_node(0),
        lambda: view.remove_edge(u, v),
        lambda: view.clear(),
        lambda: view.update(nodes=[99]),
        lambda: nx.add_path(view, [0, 1, 2]),
        lambda: nx.set_edge_attributes(view, 1, "w"),
        lambda: nx.set_node_attributes(view, 1, "w"),
        lambda: view.nodes[0].update(a=1),
        lambda: view[u][v][key].__setitem__("w", 3),
        lambda: view[u][v][key].pop("w"),
    ):
        with pytest.raises(nx.NetworkXError):
            change()
    with pytest.raises(TypeError):
        view[u][v] = {}
    assert nx.utils.graphs_equal(view, before)
    mine = view.copy()
    mine.add_edge(0, 99, w=1)
    assert mine.has_edge(0, 99)
    assert not view.has_edge(0, 99)


def test_a_view_is_asked_for_what_is_not_there() -> None:
    view = networkx_view(random_graph(True), keys="id")
    for node in (-1, 13, "0", None, (0,)):
        assert node not in view
        assert not view.has_edge(0, node)
    with pytest.raises(KeyError):
        view[13]
    with pytest.raises(nx.NetworkXError):
        view.neighbors(13)
    with pytest.raises(nx.NodeNotFound):
        nx.shortest_path(view, 0, 13)
    assert {} not in view  # networkx has False for what has no hash
    assert view.nodes[0].get("nothing", 7) == 7


def test_a_view_is_pickled_and_copied() -> None:
    graph = random_graph(False)
    view = networkx_view(graph)
    for other in (pickle.loads(pickle.dumps(view)), copy.deepcopy(view), nx.MultiGraph(view)):
        assert nx.utils.graphs_equal(other, view)


def test_a_view_of_a_stored_graph(client: Client) -> None:
    graph = random_graph(True)
    stored = client.get(client.put(graph))
    view = networkx_view(stored, keys="id")
    row = view._adj[1]
    side = row._rows.sides["v"][0]
    assert address(side.indices) == stored.arrow()["out.indices"].buffers()[1].address
    del stored
    assert nx.utils.graphs_equal(view, to_networkx(graph, keys="id"))


def test_networkx_graphs_that_make_none() -> None:
    graph = nx.Graph()
    graph.add_node(1, a=1)
    graph.add_node(2, a="x")
    with pytest.raises(InvalidGraphError, match="'a' of 'v'"):
        from_networkx(graph, **NAMES)
    with pytest.raises(InvalidGraphError):
        from_networkx(nx.Graph([(1, "a")]), **NAMES)
    with pytest.raises(InvalidGraphError, match="makes no oid"):
        from_networkx(nx.Graph([(1.5, 2.5)]), **NAMES)
    with pytest.raises(InvalidGraphError, match="'src'"):
        from_networkx(nx.Graph([(1, 2, {"src": 3})]), **NAMES)
    with pytest.raises(InvalidGraphError, match="no text"):
        from_networkx(nx.Graph([(1, 2, {3: 3})]), **NAMES)
    empty = from_networkx(nx.DiGraph(), **NAMES)
    assert (empty.num_vertices(), empty.num_edges()) == (0, 0)


def test_labels_need_their_attribute() -> None:
    graph = Graph.from_tables(
        {"a": pa.table({"oid": [1], "label": ["x"]}), "b": pa.table({"oid": [1]})},
        {("a", "e", "b"): pa.table({"src": [1], "dst": [1]})},
        client=LOCAL,
    )
    for convert in (to_networkx, networkx_view):
        with pytest.raises(InvalidGraphError, match="'label'"):
            convert(graph)
        with pytest.raises(InvalidGraphError, match="keys='name'"):
            convert(graph, keys="name")


# ---- SciPy and NumPy


@examples(25)
@given(
    multigraphs(), st.sampled_from(["csr", "csc"]), st.booleans(), st.sampled_from(["sum", "keep"])
)
def test_scipy(slow: Slow, format: Any, wide: bool, parallel: Any) -> None:
    graph = fast(slow)
    expected, weights = np.zeros((slow.num, slow.num)), np.zeros((slow.num, slow.num))
    for src, row in slow.out.items():
        for dst, eid in row:
            expected[src, dst] += 1
            weights[src, dst] += slow.rows[eid]
    with pytest.MonkeyPatch.context() as patch:
        if wide:
            patch.setattr(scipy, "NARROW_BELOW", 0)
        plain = to_scipy(graph, format=format, parallel=parallel)
        weighted = to_scipy(graph, format=format, weight="row", parallel=parallel)
    assert plain.format == format
    assert plain.indices.dtype == plain.indptr.dtype == (np.int64 if wide else np.int32)
    np.testing.assert_array_equal(plain.toarray(), expected)
    np.testing.assert_array_equal(weighted.toarray(), weights)
    plain.check_format(full_check=True)
    np.testing.assert_array_equal((plain @ plain).toarray(), expected @ expected)
    np.testing.assert_array_equal(plain @ np.ones(slow.num), expected.sum(axis=1))
    np.testing.assert_array_equal(plain.T.tocsr().toarray(), expected.T)
    counts = [np.count_nonzero(expected), int(expected.sum())]
    assert plain.nnz == counts[parallel == "keep"]


@pytest.mark.parametrize("directed", [True, False])
def test_scipy_computes_alike(directed: bool) -> None:
    graph = random_graph(directed)
    for format in ("csr", "csc"):
        matrix, view = to_scipy(graph, format=format), networkx_view(graph, keys="id")
        lengths = dict(nx.all_pairs_shortest_path_length(view))
        expected = [[lengths[u].get(v, np.inf) for v in range(13)] for u in range(13)]
        assert csgraph.shortest_path(matrix, unweighted=True).tolist() == expected
        strong = nx.number_strongly_connected_components(view if directed else view.to_directed())
        assert csgraph.connected_components(matrix, connection="strong")[0] == strong
        np.testing.assert_array_equal(
            matrix.toarray(), nx.to_scipy_sparse_array(view, weight=None).toarray()
        )


@examples(20)
@given(multigraphs())
def test_scipy_and_back(slow: Slow) -> None:
    graph = fast(slow, oids=pa.array(range(slow.num), pa.int64()))
    back = from_scipy(
        to_scipy(graph, weight="row", parallel="keep"),
        weight="row",
        directed=slow.directed,
        **NAMES,
    )
    same_graph(graph, back)
    np.testing.assert_array_equal(to_numpy(graph), to_numpy(back))


def test_scipy_shares_the_index(client: Client) -> None:
    graph = client.get(client.put(random_graph(True)))
    arrow = {name: array.buffers()[1].address for name, array in graph.arrow().items()}
    csr, csc = (
        to_scipy(graph, format=each, weight="w", parallel="keep") for each in ("csr", "csc")
    )
    assert address(csr.indices) == arrow["out.indices"]
    assert address(csc.indices) == arrow["in.indices"]
    column = graph.edge_columns()["w"].chunk(0)
    assert address(csr.data) == column.buffers()[1].address
    for array in (csr.indices, csr.data, csc.indices):
        assert not array.flags.writeable
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True
    with pytest.raises(ValueError, match="read-only"):
        csr.sum_duplicates()
    own = csr.copy()
    own.sum_duplicates()
    np.testing.assert_array_equal(own.toarray(), csr.toarray())
    summed = to_scipy(graph, weight="w")  # some edges are parallel
    np.testing.assert_array_equal(summed.indices, own.indices)
    assert summed.has_canonical_format
    src, dst = to_numpy(graph)
    assert address(dst) == arrow["out.indices"]
    assert not dst.flags.writeable
    assert src.tolist() == [e.src for e in graph.edges()]


def test_scipy_shares_an_index_without_parallel_edges() -> None:
    graph = Graph.from_edges({"src": [1, 2, 2], "dst": [2, 1, 2]}, client=LOCAL)
    assert address(to_scipy(graph).indices) == address(graph.adjacency().out_indices)


def test_scipy_shares_wide_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    from vineyard_arrow.graph import vertices

    monkeypatch.setattr(vertices, "WIDE_FROM", 1)
    monkeypatch.setattr(scipy, "NARROW_BELOW", 2)
    graph = random_graph(True)
    a, csr = graph.adjacency(), to_scipy(graph, parallel="keep")
    assert a.out_indices.dtype == np.uint64
    assert address(csr.indices) == address(a.out_indices)
    assert address(csr.indptr) == address(a.out_indptr)
    assert csr.indices.dtype == csr.indptr.dtype == np.int64
    np.testing.assert_array_equal(csr.toarray(), to_scipy(random_graph(True)).toarray())


def test_scipy_of_two_labels_and_bad_weights() -> None:
    graph = movies()
    assert to_scipy(graph, "saw").toarray().tolist() == [[0, 2], [0, 0], [1, 0]]
    assert to_scipy(graph, "saw", format="csc").toarray().tolist() == [[0, 2], [0, 0], [1, 0]]
    with pytest.raises(InvalidGraphError, match="1 values are null"):
        to_scipy(graph, "saw", weight="stars")
    with pytest.raises(LabelNotFoundError, match="'price'"):
        to_scipy(graph, "saw", weight="price")
    with pytest.raises(LabelNotFoundError, match="3 triples"):
        to_scipy(graph)
    with pytest.raises(InvalidGraphError, match="string"):
        to_scipy(random_graph(True), weight="n")
    with pytest.raises(InvalidGraphError, match="'coo'"):
        to_scipy(graph, "saw", format="coo")  # type: ignore[arg-type]
    with pytest.raises(InvalidGraphError, match="'drop'"):
        to_scipy(graph, "saw", parallel="drop")  # type: ignore[arg-type]
    with pytest.raises(InvalidGraphError, match="no graph of one label"):
        from_scipy(sp.csr_array((2, 3)), **NAMES)
    with pytest.raises(InvalidGraphError, match="not symmetric"):
        from_scipy(sp.csr_array([[0, 1], [0, 0]]), directed=False, **NAMES)


# ---- igraph and rustworkx


@examples(25)
@given(multigraphs())
def test_igraph(slow: Slow) -> None:
    graph = fast(slow)
    made = to_igraph(graph)
    assert made.is_directed() == slow.directed
    assert made.vs["oid"] == graph.vertices()["oid"].to_pylist()
    ends = [slow.pairs[row] for row in slow.rows]
    assert made.get_edgelist() == (ends if slow.directed else [(min(e), max(e)) for e in ends])
    assert made.es["row"] == slow.rows
    same_graph(graph, from_igraph(made, **NAMES))


def test_igraph_computes_alike() -> None:
    graph = random_graph(True)
    ranks = nx.pagerank(networkx_view(graph, keys="id"), tol=1e-12, weight=None)
    assert to_igraph(graph).pagerank() == pytest.approx([ranks[v] for v in range(13)], abs=1e-6)


def test_igraph_of_others() -> None:
    made = igraph.Graph([(0, 1), (1, 2)])
    made.vs["name"] = ["a", "b", "c"]
    made.es["w"] = [1.5, None]
    graph = from_igraph(made, oid="name", **NAMES)
    assert graph.ids("v", "c") == 2
    assert graph.edge_columns()["w"].to_pylist() == [1.5, None]
    assert from_igraph(made, **NAMES).vertices()["oid"].to_pylist() == [0, 1, 2]
    made.vs["name"] = ["a", "b", "a"]
    with pytest.raises(InvalidGraphError, match="duplicate"):
        from_igraph(made, oid="name", **NAMES)
    made.es["src"] = 1
    with pytest.raises(InvalidGraphError, match="'src'"):
        from_igraph(made, **NAMES)


@examples(25)
@given(multigraphs())
def test_rustworkx(slow: Slow) -> None:
    graph = fast(slow)
    made = to_rustworkx(graph)
    assert isinstance(made, rustworkx.PyDiGraph if slow.directed else rustworkx.PyGraph)
    assert list(made.nodes()) == [{"oid": 7 * v - 3} for v in range(slow.num)]
    assert [edge["row"] for edge in made.edges()] == slow.rows
    same_graph(graph, from_rustworkx(made, **NAMES))


def test_rustworkx_computes_alike() -> None:
    graph = random_graph(True)
    made = to_rustworkx(graph, weight="w")
    lengths = rustworkx.dijkstra_shortest_path_lengths(made, 0, float)
    expected = nx.single_source_dijkstra_path_length(networkx_view(graph, keys="id"), 0, weight="w")
    assert dict(lengths) == {v: d for v, d in expected.items() if v}
    with pytest.raises(LabelNotFoundError, match="'price'"):
        to_rustworkx(graph, weight="price")


def test_rustworkx_with_gaps() -> None:
    made = rustworkx.PyDiGraph()
    made.add_nodes_from(["a", "b", "c"])
    made.add_edges_from([(0, 1, 1.5), (2, 2, None)])
    made.remove_node(1)
    made.add_edge(2, 0, 2.5)
    graph = from_rustworkx(made, **NAMES)
    assert graph.vertices().to_pydict() == {"value": ["a", "c"], "oid": [0, 2]}
    assert [(e.src, e.dst, e["value"]) for e in graph.edges()] == [(1, 0, 2.5), (1, 1, None)]
    assert from_rustworkx(made, oid="value", **NAMES).ids("v", "c") == 1


@pytest.mark.parametrize("convert", [to_igraph, to_rustworkx])
def test_edges_between_two_labels(convert: Any) -> None:
    with pytest.raises(InvalidGraphError, match="both ends"):
        convert(movies(), "saw")
    assert convert(movies(), "knows") is not None


# ---- tables


@examples(20)
@given(multigraphs(), KEYS, st.sampled_from([to_tables, to_polars]))
def test_tables(slow: Slow, keys: Any, convert: Any) -> None:
    graph = fast(slow)
    tables = convert(graph, keys=keys)
    edges, vertices = tables.edges["v", "e", "v"], tables.vertices["v"]
    names = [7 * v - 3 if keys == "oid" else v for v in range(slow.num)]
    ends = [slow.pairs[row] for row in slow.rows]
    ends = ends if slow.directed else [(min(e), max(e)) for e in ends]
    rows = edges.to_pylist() if isinstance(edges, pa.Table) else edges.to_dicts()
    assert rows == [
        {"src": names[u], "dst": names[v], "row": row}
        for (u, v), row in zip(ends, slow.rows, strict=True)
    ]
    if keys == "oid":
        back = Graph.from_tables(
            tables.vertices, tables.edges, directed=slow.directed, client=LOCAL
        )
        same_graph(graph, back)
    else:
        ids = vertices["id"].to_pylist() if convert is to_tables else vertices["id"].to_list()
        assert ids == names


def test_tables_share_columns(client: Client) -> None:
    graph = client.get(client.put(random_graph(True)))
    column = graph.edge_columns()["w"].chunk(0).buffers()[1].address
    indices = graph.arrow()["out.indices"].buffers()[1].address
    oids = graph.vertices()["oid"].chunk(0).buffers()[1].address
    tables = to_tables(graph, keys="id")
    edges = tables.edges["v", "e", "v"]
    assert edges["dst"].chunk(0).buffers()[1].address == indices
    assert edges["w"].chunk(0).buffers()[1].address == column
    assert tables.vertices["v"]["oid"].chunk(0).buffers()[1].address == oids
    frames = to_polars(graph, keys="id")
    framed = frames.edges["v", "e", "v"]
    assert isinstance(framed, pl.DataFrame)
    assert address(framed["w"].to_numpy(allow_copy=False)) == column
    assert address(framed["dst"].to_numpy(allow_copy=False)) == indices
    assert address(frames.vertices["v"]["oid"].to_numpy(allow_copy=False)) == oids


def test_tables_with_names_that_are_taken() -> None:
    graph = Graph.from_tables(
        {"v": pa.table({"key": [1], "id": [2]})},
        {("v", "e", "v"): pa.table({"a": [1], "b": [1], "src": [3]})},
        oid="key", src="a", dst="b", client=LOCAL,
    )  # fmt: skip
    with pytest.raises(InvalidGraphError, match="'id'"):
        to_tables(graph, keys="id")
    with pytest.raises(InvalidGraphError, match="'src'"):
        to_tables(graph)
    with pytest.raises(InvalidGraphError, match="keys='name'"):
        to_tables(graph, keys="name")  # type: ignore[arg-type]


def test_duckdb(client: Client) -> None:
    graph = client.get(client.put(movies()))
    with duckdb.connect() as connection:
        assert register_duckdb(connection, graph) == ["person", "film", "saw", "likes", "knows"]
        rows = connection.sql(
            "SELECT person.oid, title, stars FROM saw JOIN person ON src = person.oid"
            " JOIN film ON dst = film.oid ORDER BY ALL"
        ).fetchall()
        assert rows == [(1, "B", 4.0), (1, "B", None), (3, "A", 5.0)]


@examples(20)
@given(multigraphs())
def test_duckdb_reaches(slow: Slow) -> None:
    graph = fast(slow)
    with duckdb.connect() as connection:
        register_duckdb(connection, graph, keys="id")
        edges = "SELECT src, dst FROM e" + (
            "" if slow.directed else " UNION SELECT dst, src FROM e"
        )
        found = connection.sql(
            f"WITH RECURSIVE edges AS ({edges}), reached(id) AS ("
            "SELECT id FROM v WHERE id = 0"
            " UNION SELECT edges.dst FROM reached JOIN edges ON edges.src = reached.id)"
            "SELECT id FROM reached ORDER BY id"
        ).fetchall()
    view = networkx_view(graph, keys="id")
    expected = sorted(nx.descendants(view, 0) | {0}) if slow.num else []
    assert [v for (v,) in found] == expected


def test_duckdb_names_that_are_taken() -> None:
    people = pa.table({"oid": [1]})
    edges = pa.table({"src": [1], "dst": [1]})
    graph = Graph.from_tables(
        {"a": people, "b": people},
        {("a", "e", "b"): edges, ("b", "e", "a"): edges, ("a", "b", "a"): edges},
        client=LOCAL,
    )
    with duckdb.connect() as connection:
        names = register_duckdb(connection, graph)
        assert names == ["a", "b", "a_e_b", "b_e_a", "a_b_a"]
        assert all(connection.sql(f"SELECT * FROM {each}").fetchall() for each in names)


# ---- all


@pytest.mark.parametrize(
    ("library", "package", "convert"),
    [
        ("networkx", "networkx", to_networkx),
        ("networkx", "networkx", networkx_view),
        ("scipy.sparse", "scipy", to_scipy),
        ("igraph", "igraph", to_igraph),
        ("rustworkx", "rustworkx", to_rustworkx),
        ("polars", "polars", to_polars),
        ("torch", "torch", to_tensors),
        ("torch", "torch", to_pyg),
        ("torch", "torch", to_pyg_hetero),
    ],
)
def test_a_library_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, library: str, package: str, convert: Any
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(LibraryNotFoundError, match=f"pip install {package}") as caught:
        convert(random_graph(True))
    assert isinstance(caught.value, ImportError)


def test_a_library_that_is_broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "broken_library.py").write_text("import no_such_library")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_library") as caught:
        common.imported("broken_library")
    assert not isinstance(caught.value, LibraryNotFoundError)
    with pytest.raises(LibraryNotFoundError, match="pip install no_such_library"):
        common.imported("no_such_library.part")


def test_adapters_import_no_library() -> None:
    code = (
        "import sys; from vineyard_arrow.graph.adapters import *;"
        "print(*sorted({m.split('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    libraries = {"networkx", "scipy", "igraph", "rustworkx", "torch", "torch_geometric"}
    assert not (libraries | {"polars", "duckdb"}) & set(done.stdout.split())


def test_the_package_keeps_its_functions_once_they_are_used() -> None:
    code = (
        "from vineyard_arrow.graph import adapters\n"
        "for name in adapters.__all__:\n"
        "    getattr(adapters, name)\n"
        "import pkgutil, importlib\n"
        "for module in pkgutil.iter_modules(adapters.__path__):\n"
        "    importlib.import_module(f'{adapters.__name__}.{module.name}')\n"
        "assert all(callable(getattr(adapters, name)) for name in adapters.__all__)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_directed_acyclic_graph_of_rustworkx_keeps_its_direction() -> None:
    given = rustworkx.PyDAG()
    given.add_nodes_from([None, None])
    given.add_edge(1, 0, None)
    graph = from_rustworkx(given, client=LOCAL)
    assert graph.directed
    assert [a.tolist() for a in to_numpy(graph)] == [[1], [0]]


def test_sums_of_small_weights_do_not_overflow() -> None:
    ends = {"src": [1, 1, 2], "dst": [2, 2, 2]}
    weights = {"w": pa.array([100, 100, 5], pa.int8()), "b": [True, True, True]}
    graph = Graph.from_tables(
        {"v": {"oid": [1, 2]}}, {("v", "e", "v"): ends | weights}, client=LOCAL
    )
    assert to_scipy(graph, weight="w").toarray().tolist() == [[0, 200], [0, 5]]
    assert to_scipy(graph, weight="b").toarray().tolist() == [[0, 2], [0, 1]]
    assert to_scipy(graph, weight="w", parallel="keep").dtype == np.int8


def test_matrices_that_make_no_graph() -> None:
    with pytest.raises(InvalidGraphError, match="'dst' is to name the ends"):
        from_scipy(sp.csr_array([[0, 2], [0, 0]]), weight="dst", client=LOCAL)
    with pytest.raises(InvalidGraphError, match="values of the matrix"):
        from_scipy(sp.csr_array([[0, 2j], [0, 0]]), client=LOCAL)


def test_nodes_that_are_no_unicode() -> None:
    with pytest.raises(InvalidGraphError, match=r"'oid' of 'vertex'.*surrogates"):
        from_networkx(nx.path_graph(["a\udc00", "b"]), client=LOCAL)
