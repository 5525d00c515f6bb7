from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

class Run:
    def __init__(self, threads: int) -> None: ...
    @property
    def threads(self) -> int: ...

def find_bad(run: Run, weights: Array) -> int: ...
def pagerank(
    run: Run,
    out_indptr: Array,
    indptr: Array,
    indices: Array,
    edge_ids: Array | None,
    in_edge_ids: Array,
    weights: Array | None,
    teleport: Array | None,
    ranks: Array,
    alpha: float,
    max_iter: int,
    tol: float,
) -> tuple[int, float]: ...
def bfs(
    run: Run,
    out_indptr: Array,
    out_indices: Array,
    in_indptr: Array,
    in_indices: Array,
    sources: Array,
    with_parents: bool,
) -> tuple[Array, Array | None]: ...
def shortest_paths(
    run: Run,
    out_indptr: Array,
    out_indices: Array,
    in_indptr: Array,
    in_indices: Array,
    edge_ids: Array | None,
    in_edge_ids: Array,
    weights: Array | None,
    sources: Array,
    delta: float,
    with_parents: bool,
) -> tuple[Array, Array | None]: ...
def components(
    run: Run,
    out_indptr: Array,
    out_indices: Array,
    in_indptr: Array,
    in_indices: Array,
    strong: bool,
) -> Array: ...
def triangles(
    run: Run,
    out_indptr: Array,
    out_indices: Array,
    in_indptr: Array,
    in_indices: Array,
    symmetric: bool,
) -> tuple[Array, Array]: ...
def core_numbers(
    run: Run,
    out_indptr: Array,
    out_indices: Array,
    in_indptr: Array,
    in_indices: Array,
    symmetric: bool,
) -> Array: ...
def propagate_labels(
    run: Run,
    out_indptr: Array,
    out_indices: Array,
    in_indptr: Array,
    in_indices: Array,
    symmetric: bool,
    seed: int,
    max_iter: int,
) -> Array: ...
def random_walks(
    run: Run,
    indptr: Array,
    indices: Array,
    edge_ids: Array | None,
    weights: Array | None,
    starts: Array,
    length: int,
    seed: int,
) -> Array: ...
def sample_neighbors(
    run: Run,
    indptr: Array,
    indices: Array,
    edge_ids: Array | None,
    nodes: Array,
    fanouts: Array,
    replace: bool,
    seed: int,
) -> tuple[Array, list[tuple[Array, Array, Array, tuple[int, int]]]]: ...
