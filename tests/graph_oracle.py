"""Random multigraphs, and a slow graph of dictionaries that says what is right."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from vineyard_arrow.graph import Graph

# Builds where no daemon is: only the pool of a client matters.
LOCAL: Any = SimpleNamespace(memory_pool=pa.default_memory_pool())


def examples(count: int) -> settings:
    """So many, however long they take: the machine may be busy."""
    return settings(max_examples=count, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@dataclass
class Slow:
    """One label ``v``, one triple ``(v, e, v)``: pairs of ids in the order of their table."""

    num: int
    pairs: list[tuple[int, int]]
    directed: bool = True
    out: dict[int, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
    into: dict[int, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        ends = self.pairs if self.directed else [(min(p), max(p)) for p in self.pairs]
        # The id of an edge is its place when sorted by ends, then by row.
        self.rows = sorted(range(len(ends)), key=lambda row: (*ends[row], row))
        for eid, row in enumerate(self.rows):
            src, dst = ends[row]
            self.out[src].append((dst, eid))
            self.into[dst].append((src, eid))
            if not self.directed and src != dst:
                self.out[dst].append((src, eid))
                self.into[src].append((dst, eid))
        for each in (self.out, self.into):
            for row in each.values():
                row.sort()


@st.composite
def multigraphs(draw: st.DrawFn, directed: bool | None = None) -> Slow:
    """Few vertices, so many parallel edges and self-loops; up to none at all."""
    num = draw(st.integers(0, 12))
    vertex = st.integers(0, max(0, num - 1))
    pairs = draw(st.lists(st.tuples(vertex, vertex), max_size=40 if num else 0))
    return Slow(num, pairs, draw(st.booleans()) if directed is None else directed)


def fast(slow: Slow, oids: Any = None, **options: Any) -> Graph:
    """The same as a `Graph`, with the row of each edge as its property ``row``."""
    oids = np.arange(slow.num) * 7 - 3 if oids is None else oids
    oids = oids if isinstance(oids, pa.Array) else pa.array(oids)
    src, dst = ([pair[side] for pair in slow.pairs] for side in (0, 1))
    table = pa.table(
        {
            "src": oids.take(pa.array(src, pa.int64())),
            "dst": oids.take(pa.array(dst, pa.int64())),
            "row": pa.array(range(len(src)), pa.int64()),
        }
    )
    options = {"client": LOCAL, "directed": slow.directed, **options}
    return Graph.from_tables({"v": pa.table({"oid": oids})}, {("v", "e", "v"): table}, **options)


def assert_same(graph: Graph, slow: Slow) -> None:
    """Every row and every id, through the arrays."""
    a = graph.adjacency()
    assert (a.num_src, a.num_dst, a.num_edges) == (slow.num, slow.num, len(slow.pairs))
    out_ids = np.arange(a.num_edges) if a.edge_ids is None else a.edge_ids
    for indptr, indices, ids, rows in (
        (a.out_indptr, a.out_indices, out_ids, slow.out),
        (a.in_indptr, a.in_indices, a.in_edge_ids, slow.into),
    ):
        assert not any(x.flags.writeable for x in (indptr, indices))
        for v in range(slow.num):
            row = slice(indptr[v], indptr[v + 1])
            found = list(zip(indices[row].tolist(), ids[row].tolist(), strict=True))
            assert found == rows[v]
        assert len(indices) == sum(map(len, rows.values()))
    if "row" in a.columns:
        assert a.columns["row"].to_pylist() == slow.rows
    graph.validate()
