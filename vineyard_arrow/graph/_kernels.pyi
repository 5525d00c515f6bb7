"""Types of the native parts; see `_kernels.pyx`."""

from collections.abc import Sequence
from typing import Any

from .arrays import Array

FAULTS: tuple[str, ...]

def default_threads() -> int: ...
def fill_ints(oids: Array, keys: Array, ids: Array, again: Array) -> int: ...
def find_ints(oids: Array, keys: Array, ids: Array, out: Array, threads: int = 0) -> int: ...

class KeyColumns:
    num_rows: int
    def __init__(
        self, columns: Sequence[tuple[int, int, int, Sequence[int], Any]], num_rows: int
    ) -> None: ...

def fill_rows(columns: KeyColumns, slots: Array, id_bits: int, again: Array) -> int: ...
def find_rows(
    wanted: KeyColumns,
    slots: Array,
    id_bits: int,
    columns: KeyColumns,
    out: Array,
    threads: int = 0,
) -> int: ...
def hash_rows(columns: KeyColumns, out: Array, threads: int = 0) -> None: ...
def build_csr(
    src: Array,
    dst: Array,
    indptr: Array,
    indices: Array,
    rows: Array,
    num_dst: int,
    threads: int = 0,
) -> int: ...
def build_csc(
    indptr: Array,
    indices: Array,
    out_indptr: Array,
    out_indices: Array,
    out_positions: Array,
    threads: int = 0,
) -> None: ...
def merge_both(
    out_indptr: Array,
    out_indices: Array,
    in_indptr: Array,
    in_indices: Array,
    in_positions: Array,
    indptr: Array,
    indices: Array,
    edge_ids: Array,
    threads: int = 0,
) -> None: ...
def gather(values: int, width: int, ids: Array, out: int, threads: int = 0) -> None: ...
def expand_offsets(
    indptr: Array, frontier: Array, offsets: Array, most: int = -1, threads: int = 0
) -> int: ...
def count_cut(
    indptr: Array, indices: Array, src_fids: Array, dst_fids: Array, once: bool, counts: Array
) -> None: ...
def fill_cut(
    indptr: Array,
    indices: Array,
    src_fids: Array,
    dst_fids: Array,
    once: bool,
    at: Array,
    src_places: Array,
    dst_places: Array,
    src: Array,
    dst: Array,
    ids: Array,
) -> None: ...
def expand_fill(
    indptr: Array,
    indices: Array,
    edge_ids: Array,
    frontier: Array,
    offsets: Array,
    begin: int,
    sample: int,
    seed: int,
    src: Array,
    dst: Array,
    ids: Array,
    threads: int = 0,
) -> None: ...
def check_indptr(indptr: Array, positions: int) -> tuple[int, int]: ...
def check_indices(
    indptr: Array, indices: Array, num_cols: int, threads: int = 0
) -> tuple[int, int]: ...
def check_edge_ids(ids: Array, count: int, twice: bool) -> tuple[int, int]: ...
def check_transpose(
    out_indptr: Array, out_indices: Array, in_indptr: Array, in_indices: Array, ids: Array
) -> tuple[int, int]: ...
