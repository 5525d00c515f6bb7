"""Edges of one label made by NumPy alone: what the builder makes, in the slow and obvious way."""

from __future__ import annotations

from typing import Any

import networkx as nx
import numpy as np
import pyarrow as pa

from vineyard_arrow.graph.adjacency import Adjacency


def adjacency(
    n: int,
    pairs: Any,
    *,
    directed: bool = True,
    wide: bool = False,
    wide_ids: bool = False,
    **columns: Any,
) -> Adjacency:
    """Edges of label ``e`` between vertices of label ``v``; columns are in the order of `pairs`."""
    dtype, id_dtype = (np.uint64 if each else np.uint32 for each in (wide, wide_ids))
    src, dst = np.array(pairs, np.int64).reshape(-1, 2).T
    m = len(src)
    order = np.lexsort((dst, src)) if directed else np.arange(m)
    src, dst = src[order], dst[order]
    properties = {name: pa.array(np.asarray(c)[order]) for name, c in columns.items()}
    ids = np.arange(m)
    if not directed:
        other = src != dst
        ids = np.concatenate([ids, ids[other]])
        src, dst = np.concatenate([src, dst[other]]), np.concatenate([dst, src[other]])
        order = np.lexsort((ids, dst, src))
        src, dst, ids = src[order], dst[order], ids[order]
    into = np.lexsort((src, dst))

    def frozen(values: np.ndarray, kind: Any = dtype) -> np.ndarray:
        values = np.ascontiguousarray(values.astype(kind))
        values.flags.writeable = False
        return values

    def indptr(ends: np.ndarray) -> np.ndarray:
        return frozen(np.append(0, np.cumsum(np.bincount(ends, minlength=n))), np.int64)

    return Adjacency(
        ("v", "e", "v"), n, n, m, directed, indptr(src), frozen(dst), indptr(dst),
        frozen(src[into]), frozen(ids[into], id_dtype), properties,
        None if directed else frozen(ids, id_dtype),
    )  # fmt: skip


def networkx_of(edges: Adjacency) -> Any:
    """The same as a multigraph of networkx; edges are keyed by id and carry their columns."""
    graph = nx.MultiDiGraph() if edges.directed else nx.MultiGraph()
    graph.add_nodes_from(range(edges.num_src))
    src = np.repeat(np.arange(edges.num_src), np.diff(edges.out_indptr))
    ids = np.arange(len(src)) if edges.edge_ids is None else edges.edge_ids
    for u, v, i in zip(src.tolist(), edges.out_indices.tolist(), ids.tolist(), strict=True):
        if not graph.has_edge(u, v, i):
            graph.add_edge(u, v, i, **{k: c[i].as_py() for k, c in edges.columns.items()})
    return graph


def rmat(scale: int, degree: int = 16, seed: int = 1) -> np.ndarray:
    """Pairs of a graph with hubs (Chakrabarti, Zhan and Faloutsos 2004), vertices shuffled."""
    rng = np.random.default_rng(seed)
    ends = np.zeros((2, degree << scale), np.int64)
    for _ in range(scale):
        quadrant = np.searchsorted([0.57, 0.76, 0.95], rng.random(ends.shape[1]), "right")
        ends = 2 * ends + np.stack([quadrant // 2, quadrant % 2])
    return rng.permutation(1 << scale)[ends].T
