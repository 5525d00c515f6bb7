"""What graphs are compared with: other libraries, each used in its own best way.

A `Library` makes a graph of two arrays of dense ids, with sorted rows of out-edges and of
in-edges where it has such. Those that need dense ids get them by polars' joins, the fastest of
what NumPy, pandas and polars offer. Methods that a library lacks are None here. Knows nothing
of the store.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import numpy as np
import pyarrow as pa

ALPHA = 0.85
Method = Callable[..., Any] | None


def dense(vertices: pa.Table, edges: pa.Table) -> tuple[Any, Any]:
    """Rows of the vertex table for both ends of each edge, int64; the order is not kept."""
    import polars as pl

    index = pl.from_arrow(vertices).lazy().with_columns(id=pl.int_range(pl.len()))
    both = pl.from_arrow(edges).lazy()
    for end in ("src", "dst"):
        both = both.join(index.rename({"id": f"{end}_id"}), left_on=end, right_on="oid")
    both = both.select("src_id", "dst_id").collect()
    return both["src_id"].to_numpy(), both["dst_id"].to_numpy()


class Library:
    """One library.

    Attributes
    ----------
    name : str
        Of its distribution.
    module : str
    smaller : int
        By how much it has to be compared at a smaller scale, to end in time.
    """

    name = module = ""
    smaller = 0
    pagerank: Method = None
    bfs: Method = None
    parents: Method = None
    weak: Method = None
    strong: Method = None
    triangles: Method = None
    loop: Method = None
    row: Method = None
    expand: Method = None

    def make(self, src: Any, dst: Any, n: int) -> Any:
        """A graph of dense ids, which are int64."""
        raise NotImplementedError

    def build(self, vertices: pa.Table, edges: pa.Table) -> Any:
        """A graph of oids."""
        return self.make(*dense(vertices, edges), vertices.num_rows)

    def undirected(self, src: Any, dst: Any, n: int) -> Any:
        """What `triangles` takes: of pairs ``src < dst``, each there once."""
        return self.make(np.append(src, dst), np.append(dst, src), n)


class NetworKit(Library):
    name = module = "networkit"

    def __init__(self) -> None:
        self.nk = import_module("networkit")
        self.nk.setNumberOfThreads(2)

    def make(self, src: Any, dst: Any, n: int, directed: bool = True) -> Any:
        ends = (src.astype(np.uint64), dst.astype(np.uint64))
        graph = self.nk.GraphFromCoo(ends, n=n, directed=directed)
        graph.sortEdges()
        return graph

    def undirected(self, src: Any, dst: Any, n: int) -> Any:
        return self.make(src, dst, n, directed=False)

    def pagerank(self, graph: Any, iterations: int) -> Any:
        sinks = self.nk.centrality.SinkHandling.DistributeSinks
        run = self.nk.centrality.PageRank(graph, ALPHA, tol=1e-300, distributeSinks=sinks)
        run.maxIterations = iterations
        return run.run().scores()

    def bfs(self, graph: Any, source: int) -> Any:
        run = self.nk.distance.BFS(graph, source, storePaths=False)
        return run.run().getDistances(asarray=True)

    def weak(self, graph: Any) -> Any:
        return self.nk.components.WeaklyConnectedComponents(graph).run().getPartition().getVector()

    def strong(self, graph: Any) -> Any:
        run = self.nk.components.StronglyConnectedComponents(graph)
        return run.run().getPartition().getVector()

    def triangles(self, graph: Any) -> Any:
        return self.nk.centrality.LocalClusteringCoefficient(graph).run().scores()

    def loop(self, graph: Any, v: int) -> Any:
        return graph.iterNeighbors(v)


class SciPy(Library):
    name = module = "scipy"

    def __init__(self) -> None:
        self.sparse = import_module("scipy.sparse")
        self.csgraph = import_module("scipy.sparse.csgraph")

    def make(self, src: Any, dst: Any, n: int) -> tuple[Any, Any]:
        small = (src.astype(np.int32), dst.astype(np.int32))
        ones = np.ones(len(src), np.float64)  # what csgraph takes without a copy
        rows = self.sparse.csr_array((ones, small), shape=(n, n))  # sums up parallel edges
        return rows, rows.tocsc()

    def pagerank(self, graph: Any, iterations: int) -> Any:
        rows, columns = graph
        n = rows.shape[0]
        degrees = np.asarray(rows.sum(axis=1)).ravel()
        inverse = np.divide(1, degrees, out=np.zeros(n), where=degrees > 0)
        into, dangling, ranks = columns.T, degrees == 0, np.full(n, 1 / n)
        for _ in range(iterations):
            lost = ranks[dangling].sum() / n
            ranks = ALPHA * (into @ (ranks * inverse) + lost) + (1 - ALPHA) / n
        return ranks

    def parents(self, graph: Any, source: int) -> Any:
        return self.csgraph.breadth_first_order(graph[0], source)

    def weak(self, graph: Any) -> Any:
        return self.csgraph.connected_components(graph[0], connection="weak")[1]

    def triangles(self, graph: Any) -> Any:
        rows = graph[0]
        return ((rows @ rows) * rows).sum(axis=1) / 2

    def row(self, graph: Any, v: int) -> Any:
        rows = graph[0]
        return rows.indices[rows.indptr[v] : rows.indptr[v + 1]]

    def expand(self, graph: Any, frontier: Any) -> Any:
        return graph[0][frontier]


class SciPyStrong(Library):
    """SciPy's strongly connected components, which take long."""

    name = module = "scipy"
    smaller = 4
    build = None

    def __init__(self) -> None:
        self.whole = SciPy()
        self.make = self.whole.make

    def strong(self, graph: Any) -> Any:
        return self.whole.csgraph.connected_components(graph[0], connection="strong")[1]


class GraphBLAS(Library):
    name, module = "python-graphblas", "graphblas"

    def __init__(self) -> None:
        self.gb = import_module("graphblas")
        self.gb.ss.config["nthreads"] = 2

    def make(self, src: Any, dst: Any, n: int) -> tuple[Any, Any]:
        """Parallel edges are counted in the values."""
        gb = self.gb
        ends = (src.astype(np.uint64), dst.astype(np.uint64))
        rows = gb.Matrix.from_coo(
            *ends, np.ones(len(src), np.float64), nrows=n, ncols=n, dup_op=gb.binary.plus
        )
        into = rows.T.new()
        rows.wait()
        into.wait()
        return rows, into

    def pagerank(self, graph: Any, iterations: int) -> Any:
        gb, (rows, into) = self.gb, graph
        n = rows.nrows
        degrees = rows.reduce_rowwise(gb.monoid.plus).new()
        ranks = gb.Vector.from_scalar(1 / n, n)
        for _ in range(iterations):
            sent = gb.binary.truediv(ranks & degrees).new()
            sent << gb.binary.times(sent, ALPHA)
            kept = ranks.dup(mask=degrees.S).reduce(gb.monoid.plus).new().value
            lost = ranks.reduce(gb.monoid.plus).new().value - (kept or 0.0)
            ranks = gb.Vector.from_scalar((1 - ALPHA + ALPHA * lost) / n, n)
            ranks(gb.binary.plus) << gb.semiring.plus_times(into @ sent)
        return ranks

    def bfs(self, graph: Any, source: int) -> Any:
        gb, rows = self.gb, graph[0]
        levels = gb.Vector(gb.dtypes.INT32, rows.nrows)
        frontier = gb.Vector.from_coo([source], True, size=rows.nrows)
        level = 0
        while frontier.nvals:
            levels(frontier.S) << level
            frontier(~levels.S, replace=True) << gb.semiring.any_pair(frontier @ rows)
            level += 1
        return levels

    def triangles(self, graph: Any) -> Any:
        gb = self.gb
        low = gb.select.tril(graph[0]).new()
        out = gb.Matrix(gb.dtypes.INT64, low.nrows, low.ncols)
        out(low.S) << gb.semiring.plus_pair(low @ low.T)
        return out.reduce_scalar().new().value

    def row(self, graph: Any, v: int) -> Any:
        return graph[0][v, :].new()

    def expand(self, graph: Any, frontier: Any) -> Any:
        return graph[0][frontier, :].new().wait()


class IGraph(Library):
    name = module = "igraph"
    smaller = 4

    def __init__(self) -> None:
        self.ig = import_module("igraph")

    def make(self, src: Any, dst: Any, n: int, directed: bool = True) -> Any:
        return self.ig.Graph(n, np.column_stack([src, dst]), directed=directed)

    def undirected(self, src: Any, dst: Any, n: int) -> Any:
        return self.make(src, dst, n, directed=False)

    def bfs(self, graph: Any, source: int) -> Any:
        return graph.distances(source, mode="out")

    def parents(self, graph: Any, source: int) -> Any:
        return graph.bfs(source, mode="out")

    def weak(self, graph: Any) -> Any:
        return graph.connected_components("weak").membership

    def strong(self, graph: Any) -> Any:
        return graph.connected_components("strong").membership

    def triangles(self, graph: Any) -> Any:
        return graph.transitivity_local_undirected()

    def loop(self, graph: Any, v: int) -> Any:
        return iter(graph.vs[v].out_edges())

    def row(self, graph: Any, v: int) -> Any:
        return graph.neighbors(v, mode="out")


class RustworkX(Library):
    name = module = "rustworkx"
    smaller = 4

    def __init__(self) -> None:
        self.rx = import_module("rustworkx")

    def make(self, src: Any, dst: Any, n: int, kind: str = "PyDiGraph") -> Any:
        graph = getattr(self.rx, kind)()
        graph.add_nodes_from(range(n))
        graph.add_edges_from_no_data(list(zip(src.tolist(), dst.tolist(), strict=True)))
        return graph

    def undirected(self, src: Any, dst: Any, n: int) -> Any:
        return self.make(src, dst, n, "PyGraph")

    def pagerank(self, graph: Any, iterations: int) -> Any:
        with contextlib.suppress(self.rx.FailedToConverge):  # that it stops there is wanted
            return self.rx.pagerank(graph, ALPHA, max_iter=iterations, tol=1e-300)

    def parents(self, graph: Any, source: int) -> Any:
        return self.rx.bfs_successors(graph, source)

    def weak(self, graph: Any) -> Any:
        return self.rx.weakly_connected_components(graph)

    def strong(self, graph: Any) -> Any:
        return self.rx.strongly_connected_components(graph)

    def triangles(self, graph: Any) -> Any:
        return self.rx.transitivity(graph)

    def loop(self, graph: Any, v: int) -> Any:
        return iter(graph.out_edges(v))

    def row(self, graph: Any, v: int) -> Any:
        return graph.successor_indices(v)


class NetworkX(Library):
    name = module = "networkx"
    smaller = 6

    def __init__(self) -> None:
        self.nx = import_module("networkx")

    def make(self, src: Any, dst: Any, n: int, kind: str = "MultiDiGraph") -> Any:
        graph = getattr(self.nx, kind)()
        graph.add_nodes_from(range(n))
        graph.add_edges_from(zip(src.tolist(), dst.tolist(), strict=True))
        return graph

    def undirected(self, src: Any, dst: Any, n: int) -> Any:
        return self.make(src, dst, n, "Graph")

    def pagerank(self, graph: Any, iterations: int) -> Any:
        with contextlib.suppress(self.nx.PowerIterationFailedConvergence):  # as above
            return self.nx.pagerank(graph, ALPHA, max_iter=iterations, tol=1e-300)

    def bfs(self, graph: Any, source: int) -> Any:
        return self.nx.single_source_shortest_path_length(graph, source)

    def parents(self, graph: Any, source: int) -> Any:
        return list(self.nx.bfs_predecessors(graph, source))

    def weak(self, graph: Any) -> Any:
        return list(self.nx.weakly_connected_components(graph))

    def strong(self, graph: Any) -> Any:
        return list(self.nx.strongly_connected_components(graph))

    def triangles(self, graph: Any) -> Any:
        return self.nx.triangles(graph)

    def loop(self, graph: Any, v: int) -> Any:
        return iter(graph.out_edges(v))

    def row(self, graph: Any, v: int) -> Any:
        return list(graph.adj[v])


class Polars(Library):
    """Sorted tables of edges both ways, and joins."""

    name = module = "polars"

    def __init__(self) -> None:
        self.pl = import_module("polars")

    def make(self, src: Any, dst: Any, n: int) -> tuple[Any, Any]:
        edges = self.pl.DataFrame({"src": src, "dst": dst}).cast(self.pl.UInt32)
        return edges.sort("src", "dst"), edges.sort("dst", "src")

    def expand(self, graph: Any, frontier: Any) -> Any:
        wanted = self.pl.DataFrame({"src": frontier.astype(np.uint32)})
        return wanted.join(graph[0], on="src")


class DuckDB(Library):
    """Sorted tables of edges both ways, and joins."""

    name = module = "duckdb"

    def __init__(self) -> None:
        self.connection = import_module("duckdb").connect()
        self.connection.sql("SET threads = 2")
        self.connection.sql("SET preserve_insertion_order = true")

    def build(self, vertices: pa.Table, edges: pa.Table) -> Any:
        ids = "(SELECT oid, (row_number() OVER ())::UINTEGER - 1 AS id FROM given_vertices)"
        run = self.connection
        run.register("given_vertices", vertices)
        run.register("given_edges", edges)
        run.execute(
            f"CREATE OR REPLACE TABLE into_rows AS WITH index AS MATERIALIZED {ids} "
            "SELECT s.id AS src, d.id AS dst FROM given_edges e JOIN index s ON e.src = s.oid "
            "JOIN index d ON e.dst = d.oid ORDER BY d.id, s.id"
        )
        run.execute("CREATE OR REPLACE TABLE out_rows AS FROM into_rows ORDER BY src, dst")
        return run

    def make(self, src: Any, dst: Any, n: int) -> Any:
        self.connection.register("given_edges", pa.table({"src": src, "dst": dst}))
        self.connection.execute(
            "CREATE OR REPLACE TABLE out_rows AS SELECT src::UINTEGER AS src, dst::UINTEGER AS dst "
            "FROM given_edges ORDER BY src, dst"
        )
        return self.connection

    def expand(self, graph: Any, frontier: Any) -> Any:
        graph.register("frontier", pa.table({"src": frontier.astype(np.uint32)}))
        return graph.sql("SELECT src, dst FROM frontier JOIN out_rows USING (src)").to_arrow_table()


KINDS: tuple[type[Library], ...] = (
    *(NetworKit, SciPy, SciPyStrong, GraphBLAS, Polars, DuckDB),
    *(IGraph, RustworkX, NetworkX),
)


def installed() -> list[Library]:
    """All of them that are here; the `peers` extra has them all."""
    return [kind() for kind in KINDS if find_spec(kind.module) is not None]


def versions() -> dict[str, str]:
    """The version of each that is here."""
    return {kind.name: version(kind.name) for kind in KINDS if find_spec(kind.module) is not None}
