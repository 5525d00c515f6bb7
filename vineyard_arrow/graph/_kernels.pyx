# distutils: language = c++
# cython: language_level=3, embedsignature=True, freethreading_compatible=False
# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""Native parts of graphs: oid indices, sorted rows, expansion, checks.

Arrays come allocated, of the right lengths and types: Python above sees to it. Nothing here
holds the GIL while it works. ``threads`` below one stands for the default.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libcpp cimport bool as cbool
from libcpp.vector cimport vector

ctypedef fused vertex_id:
    uint32_t
    uint64_t

ctypedef fused edge_id:
    uint32_t
    uint64_t


cdef extern from "parallel.h" namespace "vineyard::graph" nogil:
    int threads_of(int)


cdef extern from "oid_index.h" namespace "vineyard::graph" nogil:
    cdef cppclass IntIndex[Id]:
        int64_t* keys
        Id* ids
        int64_t cap
    int64_t c_fill_ints "vineyard::graph::fill_ints"[Id](IntIndex[Id], const int64_t*, int64_t, int64_t*, int64_t) except +
    int64_t c_find_ints "vineyard::graph::find_ints"[Id](IntIndex[Id], const int64_t*, int64_t, int, Id*) except +
    cdef struct KeyColumn:
        int kind
        const uint8_t* values
        const uint8_t* text
        const uint8_t** texts
    cdef struct RowIndex:
        uint64_t* slots
        int64_t cap
        int id_bits
    int64_t c_fill_rows "vineyard::graph::fill_rows"(RowIndex, const vector[KeyColumn]&, int64_t, int64_t*, int64_t) except +
    int64_t c_find_rows "vineyard::graph::find_rows"[Id](RowIndex, const vector[KeyColumn]&, int64_t, const vector[KeyColumn]&,
                          int64_t, int, Id*) except +
    void c_hash_rows "vineyard::graph::hash_rows"(const vector[KeyColumn]&, int64_t, int, uint64_t*) except +


cdef extern from "csr.h" namespace "vineyard::graph" nogil:
    int64_t c_build_csr "vineyard::graph::build_csr"[V, E](
        const V*, const V*, int64_t, int64_t, int64_t, int, int64_t*, V*, E*) except +
    void c_build_csc "vineyard::graph::build_csc"[V, E](
        const int64_t*, const V*, int64_t, int64_t, int, int64_t*, V*, E*) except +
    void c_merge_both "vineyard::graph::merge_both"[V, E](
        const int64_t*, const V*, const int64_t*, const V*, const E*, int64_t, int,
        int64_t*, V*, E*) except +


cdef extern from "cut.h" namespace "vineyard::graph" nogil:
    cdef cppclass CutRows[V]:
        const int64_t* indptr
        const V* indices
        int64_t num_rows
        const int32_t* src_fids
        const int32_t* dst_fids
        cbool once
    void c_count_cut "vineyard::graph::count_cut"[V](const CutRows[V]&, int64_t, int, int64_t*) except +
    void c_fill_cut "vineyard::graph::fill_cut"[V, E](
        const CutRows[V]&, int64_t, int, int64_t*, const V*, const V*, V*, V*, E*) except +


cdef extern from "expand.h" namespace "vineyard::graph" nogil:
    int64_t c_expand_offsets "vineyard::graph::expand_offsets"(
        const int64_t*, int64_t, const int64_t*, int64_t, int64_t, int, int64_t*) except +
    void c_expand_fill "vineyard::graph::expand_fill"[V, E](
        const int64_t*, const V*, const E*, int64_t, const int64_t*, const int64_t*, int64_t,
        int64_t, int64_t, int64_t, uint64_t, int, V*, V*, E*) except +
    void c_gather "vineyard::graph::gather"[E](
        const uint8_t*, int, const E*, int64_t, int, uint8_t*) except +


cdef extern from "check.h" namespace "vineyard::graph" nogil:
    cdef struct Verdict:
        int fault
        int64_t where
    Verdict c_check_indptr "vineyard::graph::check_indptr"(const int64_t*, int64_t, int64_t)
    Verdict c_check_indices "vineyard::graph::check_indices"[V](
        const int64_t*, int64_t, const V*, int64_t, int) except +
    Verdict c_check_edge_ids "vineyard::graph::check_edge_ids"[E](
        const E*, int64_t, int64_t, cbool) except +
    Verdict c_check_transpose "vineyard::graph::check_transpose"[V, E](
        const int64_t*, const V*, const int64_t*, const V*, const E*, int64_t)


FAULTS = (
    "",
    "indptr does not ascend from 0 to the number of positions",
    "a neighbour is outside its label",
    "neighbours of a row are not in order",
    "edge ids do not match the edges",
    "an edge id is there too often",
)


def default_threads() -> int:
    """How many threads work where nothing else was asked for."""
    return threads_of(0)


# ---- original ids

def fill_ints(const int64_t[::1] oids, int64_t[::1] keys, vertex_id[::1] ids, int64_t[::1] again):
    """Index ``oids`` by position; return how many repeat an earlier one (first rows: ``again``)."""
    cdef IntIndex[vertex_id] index
    cdef int64_t found
    index.keys, index.ids, index.cap = &keys[0], &ids[0], keys.shape[0]
    with nogil:
        found = c_fill_ints(index, &oids[0], oids.shape[0], &again[0], again.shape[0])
    return found


def find_ints(
    const int64_t[::1] oids, const int64_t[::1] keys, const vertex_id[::1] ids,
    vertex_id[::1] out, int threads=0,
):
    """Ids of ``oids``, all ones for those that are unknown; return how many are."""
    cdef IntIndex[vertex_id] index
    cdef int64_t found
    index.keys, index.ids, index.cap = <int64_t*>&keys[0], <vertex_id*>&ids[0], keys.shape[0]
    with nogil:
        found = c_find_ints(index, &oids[0], oids.shape[0], threads_of(threads), &out[0])
    return found


cdef class KeyColumns:
    """Key columns as they lie in Arrow's buffers, and what keeps these alive.

    Parameters
    ----------
    columns : list of (kind, values, text, texts, owner)
        Kind: 0 for 64-bit integers, 1 and 2 for text with 32- and 64-bit offsets, 3 for views.
        Addresses of the first row's value, of the text, and a list of those of views' texts.
    num_rows : int
    """

    cdef vector[KeyColumn] columns
    cdef vector[vector[uintptr_t]] texts
    cdef object owners
    cdef readonly int64_t num_rows

    def __init__(self, columns, num_rows):
        cdef KeyColumn column
        self.owners = columns
        self.num_rows = num_rows
        self.texts.resize(len(columns))
        for i, (kind, values, text, texts, _) in enumerate(columns):
            for address in texts:
                self.texts[i].push_back(<uintptr_t>address)
            column.kind = kind
            column.values = <const uint8_t*><uintptr_t>values
            column.text = <const uint8_t*><uintptr_t>text
            column.texts = <const uint8_t**>self.texts[i].data()
            self.columns.push_back(column)


def fill_rows(KeyColumns columns, uint64_t[::1] slots, int id_bits, int64_t[::1] again):
    """Index rows of key columns by position; as `fill_ints`."""
    cdef RowIndex index
    cdef int64_t found
    index.slots, index.cap, index.id_bits = &slots[0], slots.shape[0], id_bits
    with nogil:
        found = c_fill_rows(index, columns.columns, columns.num_rows, &again[0], again.shape[0])
    return found


def find_rows(
    KeyColumns wanted, const uint64_t[::1] slots, int id_bits, KeyColumns columns,
    vertex_id[::1] out, int threads=0,
):
    """Ids of the rows of ``wanted``; as `find_ints`."""
    cdef RowIndex index
    cdef int64_t found
    index.slots, index.cap, index.id_bits = <uint64_t*>&slots[0], slots.shape[0], id_bits
    with nogil:
        found = c_find_rows(
            index, columns.columns, columns.num_rows, wanted.columns, wanted.num_rows,
            threads_of(threads), &out[0],
        )
    return found


def hash_rows(KeyColumns columns, uint64_t[::1] out, int threads=0):
    """The hash of each row of the key columns, which is that of the index of texts."""
    with nogil:
        c_hash_rows(columns.columns, columns.num_rows, threads_of(threads), &out[0])


# ---- rows

def build_csr(
    const vertex_id[::1] src, const vertex_id[::1] dst, int64_t[::1] indptr,
    vertex_id[::1] indices, edge_id[::1] rows, int64_t num_dst, int threads=0,
):
    """Sorted rows of the pairs that have both ends; return how many these are.

    ``rows``: where in the input each came from, if it has room for them (else it is empty).
    """
    cdef int64_t found
    cdef edge_id* kept = &rows[0] if rows.shape[0] else NULL
    with nogil:
        found = c_build_csr(
            &src[0], &dst[0], src.shape[0], indptr.shape[0] - 1, num_dst, threads_of(threads),
            &indptr[0], &indices[0], kept,
        )
    return found


def build_csc(
    const int64_t[::1] indptr, const vertex_id[::1] indices, int64_t[::1] out_indptr,
    vertex_id[::1] out_indices, edge_id[::1] out_positions, int threads=0,
):
    """The transpose of sorted rows, and the positions of its edges in them."""
    with nogil:
        c_build_csc(
            &indptr[0], &indices[0], indptr.shape[0] - 1, out_indptr.shape[0] - 1,
            threads_of(threads), &out_indptr[0], &out_indices[0], &out_positions[0],
        )


def merge_both(
    const int64_t[::1] out_indptr, const vertex_id[::1] out_indices,
    const int64_t[::1] in_indptr, const vertex_id[::1] in_indices,
    const edge_id[::1] in_positions, int64_t[::1] indptr, vertex_id[::1] indices,
    edge_id[::1] edge_ids, int threads=0,
):
    """Rows with both directions, of edges whose source is not above their destination."""
    with nogil:
        c_merge_both(
            &out_indptr[0], &out_indices[0], &in_indptr[0], &in_indices[0], &in_positions[0],
            <int64_t>(out_indptr.shape[0] - 1), threads_of(threads), &indptr[0], &indices[0],
            &edge_ids[0],
        )


def gather(
    uintptr_t values, int width, const edge_id[::1] ids, uintptr_t out, int threads=0
):
    """Write ``values[ids]``, items of ``width`` bytes, to address ``out``."""
    with nogil:
        c_gather(<const uint8_t*>values, width, &ids[0], <int64_t>ids.shape[0],
                 threads_of(threads), <uint8_t*>out)


# ---- fragments

cdef CutRows[vertex_id] cut_rows(
    const int64_t[::1] indptr, const vertex_id[::1] indices, const int32_t[::1] src_fids,
    const int32_t[::1] dst_fids, cbool once,
) noexcept:
    cdef CutRows[vertex_id] rows
    rows.indptr, rows.indices, rows.num_rows = &indptr[0], &indices[0], indptr.shape[0] - 1
    rows.src_fids, rows.dst_fids, rows.once = &src_fids[0], &dst_fids[0], once
    return rows


def count_cut(
    const int64_t[::1] indptr, const vertex_id[::1] indices, const int32_t[::1] src_fids,
    const int32_t[::1] dst_fids, cbool once, int64_t[:, ::1] counts,
):
    """Add up the edges for each fragment (the last column: all), in as many parts as rows."""
    cdef CutRows[vertex_id] rows = cut_rows(indptr, indices, src_fids, dst_fids, once)
    with nogil:
        c_count_cut(rows, <int64_t>(counts.shape[1] - 1), <int>counts.shape[0], &counts[0, 0])


def fill_cut(
    const int64_t[::1] indptr, const vertex_id[::1] indices, const int32_t[::1] src_fids,
    const int32_t[::1] dst_fids, cbool once, int64_t[:, ::1] at, const vertex_id[::1] src_places,
    const vertex_id[::1] dst_places, vertex_id[::1] src, vertex_id[::1] dst, edge_id[::1] ids,
):
    """Write edges by fragment, from ``at`` on: places of both ends, and number."""
    cdef CutRows[vertex_id] rows = cut_rows(indptr, indices, src_fids, dst_fids, once)
    with nogil:
        c_fill_cut(
            rows, <int64_t>(at.shape[1] - 1), <int>at.shape[0], &at[0, 0], &src_places[0],
            &dst_places[0], &src[0], &dst[0], &ids[0],
        )


# ---- expansion

def expand_offsets(
    const int64_t[::1] indptr, const int64_t[::1] frontier, int64_t[::1] offsets,
    int64_t most=-1, int threads=0,
):
    """Where the edges of each vertex begin; return the place of one outside the rows, or -1."""
    cdef int64_t found
    with nogil:
        found = c_expand_offsets(
            &indptr[0], indptr.shape[0] - 1, &frontier[0], frontier.shape[0], most,
            threads_of(threads), &offsets[0],
        )
    return found


def expand_fill(
    const int64_t[::1] indptr, const vertex_id[::1] indices, const edge_id[::1] edge_ids,
    const int64_t[::1] frontier, const int64_t[::1] offsets, int64_t begin, int64_t sample,
    uint64_t seed, vertex_id[::1] src, vertex_id[::1] dst, edge_id[::1] ids, int threads=0,
):
    """Write edges from ``begin`` on of an expansion, as many as there is room for.

    ``edge_ids`` is empty where the position is the id; ``sample`` negative for all.
    """
    cdef const edge_id* own = &edge_ids[0] if edge_ids.shape[0] else NULL
    with nogil:
        c_expand_fill(
            &indptr[0], &indices[0], own, <int64_t>indices.shape[0], &frontier[0], &offsets[0],
            <int64_t>frontier.shape[0], begin, <int64_t>(begin + src.shape[0]), sample, seed,
            threads_of(threads), &src[0], &dst[0], &ids[0],
        )


# ---- checks

def check_indptr(const int64_t[::1] indptr, int64_t positions):
    """What is wrong with row offsets: an index of FAULTS, and the row."""
    cdef Verdict found
    with nogil:
        found = c_check_indptr(&indptr[0], indptr.shape[0] - 1, positions)
    return found.fault, found.where


def check_indices(
    const int64_t[::1] indptr, const vertex_id[::1] indices, int64_t num_cols, int threads=0
):
    """What is wrong with the neighbours in sound rows."""
    cdef Verdict found
    with nogil:
        found = c_check_indices(
            &indptr[0], <int64_t>(indptr.shape[0] - 1), &indices[0], num_cols,
            threads_of(threads),
        )
    return found.fault, found.where


def check_edge_ids(const edge_id[::1] ids, int64_t count, cbool twice):
    """What is wrong with edge ids, each to be there once (or once or ``twice``)."""
    cdef Verdict found
    with nogil:
        found = c_check_edge_ids(&ids[0], <int64_t>ids.shape[0], count, twice)
    return found.fault, found.where


def check_transpose(
    const int64_t[::1] out_indptr, const vertex_id[::1] out_indices,
    const int64_t[::1] in_indptr, const vertex_id[::1] in_indices, const edge_id[::1] ids,
):
    """Whether in-edges are the out-edges, all arrays being sound by themselves."""
    cdef Verdict found
    with nogil:
        found = c_check_transpose(
            &out_indptr[0], &out_indices[0], &in_indptr[0], &in_indices[0], &ids[0],
            <int64_t>(in_indptr.shape[0] - 1),
        )
    return found.fault, found.where
