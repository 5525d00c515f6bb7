"""R-MAT graphs: few vertices with many edges, many with few, as real graphs have them.

Chakrabarti, Zhan and Faloutsos, "R-MAT: A Recursive Model for Graph Mining" (2004), with the
weights that Graph500 uses.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

A, B, C = 0.57, 0.19, 0.19


def rmat(scale: int, degree: int = 16, seed: int = 1) -> tuple[Any, Any]:
    """Sources and destinations of ``degree * 2**scale`` edges, int64, below ``2**scale``."""
    rng = np.random.default_rng(seed)
    count = degree << scale
    src, dst = np.zeros(count, np.int64), np.zeros(count, np.int64)
    for _ in range(scale):
        draw = rng.random(count, dtype=np.float32)
        src = src * 2 + (draw > A + B)
        dst = dst * 2 + (((draw > A) & (draw <= A + B)) | (draw > A + B + C))
    return src, dst


def sparse_oids(num: int, seed: int = 2) -> Any:
    """Different int64 from all over the range, in no order."""
    rng = np.random.default_rng(seed)
    oids = np.empty(0, np.int64)
    while len(oids) < num:
        oids = np.unique(np.append(oids, rng.integers(0, 1 << 62, num - len(oids))))
    rng.shuffle(oids)
    return oids


def tables(scale: int, texts: bool = False) -> tuple[pa.Table, pa.Table]:
    """Vertices (``oid``) and edges (``src``, ``dst``), by sparse int64 or by text."""
    src, dst = rmat(scale)
    oids = pa.array(sparse_oids(1 << scale))
    if texts:
        oids = pa.array([f"user-{oid}" for oid in oids.to_pylist()])
    edges = {"src": oids.take(pa.array(src)), "dst": oids.take(pa.array(dst))}
    return pa.table({"oid": oids}), pa.table(edges)


def frontier_of(indptr: Any, wanted: int) -> Any:
    """Vertices at random, as many as have so many edges."""
    degrees = np.diff(indptr)
    frontier = np.random.default_rng(0).permutation(len(degrees))
    return frontier[: 1 + int(np.searchsorted(np.cumsum(degrees[frontier]), wanted))]


def pairs(src: Any, dst: Any, num: int) -> tuple[Any, Any]:
    """The simple undirected view: each pair of neighbours once, the smaller first."""
    low, high = np.minimum(src, dst), np.maximum(src, dst)
    keys = np.unique((low * num + high)[low != high])
    return keys // num, keys % num
