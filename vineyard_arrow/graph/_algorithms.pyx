# distutils: language = c++
# cython: language_level=3, embedsignature=True, freethreading_compatible=False
# cython: boundscheck=False, wraparound=False
"""Algorithms on the index: the C++ templates, called for the index type at hand.

Arrays come in as they lie and results go out as NumPy arrays; the GIL is released meanwhile.
Nothing is checked here: sizes, ids and weights are the caller's, `algorithms.py`.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t, uint32_t
from libc.string cimport memcpy
from libcpp cimport bool as cbool
from libcpp.vector cimport vector

import numpy as np


ctypedef fused index_t:
    uint32_t
    uint64_t

ctypedef fused number_t:
    uint32_t
    uint64_t
    int64_t


cdef extern from "kernel.h" namespace "vineyard::graph" nogil:
    cdef cppclass Rows[I]:
        int64_t size
        const int64_t* indptr
        const I* indices
    cdef cppclass Ids:
        const void* data
        cbool wide
    cdef cppclass Weights:
        const void* data
        char kind
        Ids ids
    cdef cppclass CRun "vineyard::graph::Run":
        CRun(int)
        const int threads
    int threads_of(int)
    int64_t number_densely[I](vector[I]&) except +


cdef extern from "pagerank.h" namespace "vineyard::graph" nogil:
    cdef struct Convergence:
        int64_t iterations
        double change
    Convergence c_pagerank "vineyard::graph::pagerank"[I](
        CRun&, const Rows[I]&, const double*, const double*, const double*, double, int64_t, double,
        double*) except +
    void c_sum_rows "vineyard::graph::sum_rows"(
        CRun&, int64_t, const int64_t*, const Weights&, double*) except +
    void c_gather "vineyard::graph::gather"(
        CRun&, int64_t, const Ids&, const Weights&, double*) except +
    int64_t c_find_bad "vineyard::graph::find_bad"(CRun&, int64_t, const Weights&) except +


cdef extern from "traversal.h" namespace "vineyard::graph" nogil:
    void c_bfs "vineyard::graph::bfs"[I](
        CRun&, const Rows[I]&, const Rows[I]&, vector[I], int32_t*, I*) except +


cdef extern from "shortest.h" namespace "vineyard::graph" nogil:
    void c_shortest_paths "vineyard::graph::shortest_paths"[I](
        CRun&, const Rows[I]&, const Weights&, vector[I], double, double*) except +
    void c_path_parents "vineyard::graph::path_parents"[I](
        CRun&, const Rows[I]&, const Rows[I]&, const Ids&, const Weights&, const vector[I]&,
        const double*, I*) except +


cdef extern from "components.h" namespace "vineyard::graph" nogil:
    vector[I] c_weak "vineyard::graph::weak_components"[I](
        CRun&, const Rows[I]&, const Rows[I]&) except +
    vector[I] c_strong "vineyard::graph::strong_components"[I](
        CRun&, const Rows[I]&, const Rows[I]&) except +


cdef extern from "undirected.h" namespace "vineyard::graph" nogil:
    void c_count_triangles "vineyard::graph::count_triangles"[I](
        CRun&, const Rows[I]&, const Rows[I]&, cbool, int64_t*, int64_t*) except +
    void c_core_numbers "vineyard::graph::core_numbers"[I](
        CRun&, const Rows[I]&, const Rows[I]&, cbool, int64_t*) except +


cdef extern from "labels.h" namespace "vineyard::graph" nogil:
    void c_propagate "vineyard::graph::propagate_labels"[I](
        CRun&, const Rows[I]&, const Rows[I]&, cbool, uint64_t, int64_t, vector[I]&) except +


cdef extern from "sampling.h" namespace "vineyard::graph" nogil:
    cdef cppclass Hop:
        int64_t targets
        int64_t size
        vector[int64_t] row
        vector[int64_t] col
        vector[int64_t] edge
    void c_prefix_sums "vineyard::graph::prefix_sums"[I](
        CRun&, const Rows[I]&, const Weights&, double*) except +
    void c_random_walks "vineyard::graph::random_walks"[I](
        CRun&, const Rows[I]&, const double*, const int64_t*, int64_t, int64_t, uint64_t,
        I*) except +
    vector[Hop] c_sample "vineyard::graph::sample_neighbors"[I](
        CRun&, const Rows[I]&, const Ids&, const vector[int64_t]&, const vector[int64_t]&, cbool,
        uint64_t, vector[int64_t]&) except +


cdef Rows[index_t] rows_of(const int64_t[::1] indptr, const index_t[::1] indices) noexcept:
    cdef Rows[index_t] rows
    rows.size = indptr.shape[0] - 1
    rows.indptr = &indptr[0]
    rows.indices = &indices[0] if indices.shape[0] else NULL
    return rows


cdef Ids ids_of(array):
    """Of a uint32 or uint64 array that the caller keeps; None: positions."""
    cdef Ids ids
    cdef const uint8_t[::1] view
    ids.data = NULL
    ids.wide = False
    if array is not None and array.size:
        view = array.view(np.uint8)
        ids.data = &view[0]
        ids.wide = array.itemsize == 8
    return ids


cdef Weights weights_of(array, ids):
    """Of an array of numbers that the caller keeps; None: all weigh 1."""
    cdef Weights weights
    cdef const uint8_t[::1] view
    weights.data = NULL
    weights.kind = b"d"
    if array is not None and array.size:
        view = array.view(np.uint8)
        weights.data = &view[0]
        weights.kind = ord({"l": "q", "L": "Q"}.get(array.dtype.char, array.dtype.char))
    weights.ids = ids_of(ids)
    return weights


cdef vector[number_t] vector_of(const number_t[::1] values) except *:
    cdef vector[number_t] result
    result.resize(values.shape[0])
    if values.shape[0]:
        memcpy(result.data(), &values[0], values.shape[0] * sizeof(number_t))
    return result


cdef array_of(vector[number_t]& values, dtype):
    result = np.empty(values.size(), dtype)
    cdef number_t[::1] view = result
    if values.size():
        memcpy(&view[0], values.data(), values.size() * sizeof(number_t))
    return result


cdef class Run:
    """One call of an algorithm: its threads (0: the default), and a look for Ctrl-C now and then."""

    cdef CRun* run

    def __cinit__(self, int threads):
        self.run = new CRun(threads_of(threads))

    def __dealloc__(self):
        del self.run

    @property
    def threads(self):
        return self.run.threads


def find_bad(Run run, weights):
    """The position of the first weight that is negative, infinite or not a number, or -1."""
    cdef Weights w = weights_of(weights, None)
    cdef int64_t n = weights.size, first
    with nogil:
        first = c_find_bad(run.run[0], n, w)
    return first


def pagerank(Run run, const int64_t[::1] out_indptr, const int64_t[::1] indptr,
             const index_t[::1] indices, edge_ids, in_edge_ids, weights,
             const double[::1] teleport, double[::1] ranks, double alpha, int64_t max_iter,
             double tol):
    """Turn the start in ``ranks`` into the result; returns iterations and the last change."""
    cdef Rows[index_t] rows = rows_of(indptr, indices)
    cdef Weights w = weights_of(weights, edge_ids)
    cdef Ids in_ids = ids_of(in_edge_ids)
    cdef int64_t n = rows.size, m = indices.shape[0]
    cdef double[::1] sums = np.empty(n)
    cdef double[::1] in_weights
    cdef double* in_data = NULL
    cdef Convergence done
    if weights is not None and m:
        in_weights = np.empty(m)
        in_data = &in_weights[0]
    with nogil:
        c_sum_rows(run.run[0], n, &out_indptr[0], w, &sums[0])
        if in_data:
            c_gather(run.run[0], m, in_ids, w, in_data)
        done = c_pagerank(run.run[0], rows, &sums[0], in_data,
                          &teleport[0] if teleport is not None else NULL, alpha, max_iter, tol,
                          &ranks[0])
    return done.iterations, done.change


def bfs(Run run, const int64_t[::1] out_indptr, const index_t[::1] out_indices,
        const int64_t[::1] in_indptr, const index_t[::1] in_indices, const index_t[::1] sources,
        bint with_parents):
    """Levels, and parents or None; -1 and the largest id stand for none."""
    cdef Rows[index_t] out = rows_of(out_indptr, out_indices), into = rows_of(in_indptr, in_indices)
    cdef vector[index_t] frontier = vector_of[index_t](sources)
    levels = np.full(out.size, -1, np.int32)
    cdef int32_t[::1] level_view = levels
    cdef index_t[::1] parent_view
    cdef index_t* above = NULL
    parents = None
    if with_parents:
        dtype = np.asarray(out_indices).dtype
        parent_view = parents = np.full(out.size, np.iinfo(dtype).max, dtype)
        above = &parent_view[0]
    with nogil:
        c_bfs(run.run[0], out, into, frontier, &level_view[0], above)
    return levels, parents


def shortest_paths(Run run, const int64_t[::1] out_indptr, const index_t[::1] out_indices,
                   const int64_t[::1] in_indptr, const index_t[::1] in_indices, edge_ids,
                   in_edge_ids, weights, const index_t[::1] sources, double delta,
                   bint with_parents):
    """Distances, and parents or None; infinity and the largest id stand for none."""
    cdef Rows[index_t] out = rows_of(out_indptr, out_indices), into = rows_of(in_indptr, in_indices)
    cdef Weights w = weights_of(weights, edge_ids)
    cdef Ids in_ids = ids_of(in_edge_ids)
    cdef vector[index_t] frontier = vector_of[index_t](sources)
    distances = np.full(out.size, np.inf)
    cdef double[::1] distance_view = distances
    cdef index_t[::1] parent_view
    parents = None
    if with_parents:
        parents = np.full(out.size, -1, np.int64).astype(np.asarray(out_indices).dtype)
        parent_view = parents
    with nogil:
        c_shortest_paths(run.run[0], out, w, frontier, delta, &distance_view[0])
        if with_parents:
            c_path_parents(run.run[0], out, into, in_ids, w, frontier, &distance_view[0],
                           &parent_view[0])
    return distances, parents


def components(Run run, const int64_t[::1] out_indptr, const index_t[::1] out_indices,
               const int64_t[::1] in_indptr, const index_t[::1] in_indices, bint strong):
    """The component of each vertex, numbered by their first vertices."""
    cdef Rows[index_t] out = rows_of(out_indptr, out_indices), into = rows_of(in_indptr, in_indices)
    cdef vector[index_t] roots
    with nogil:
        if strong:
            roots = c_strong(run.run[0], out, into)
        else:
            roots = c_weak(run.run[0], out, into)
        number_densely(roots)
    return array_of[index_t](roots, np.asarray(out_indices).dtype)


def triangles(Run run, const int64_t[::1] out_indptr, const index_t[::1] out_indices,
              const int64_t[::1] in_indptr, const index_t[::1] in_indices, bint symmetric):
    """Triangles at each vertex and its degree, both in the simple undirected view."""
    cdef Rows[index_t] out = rows_of(out_indptr, out_indices), into = rows_of(in_indptr, in_indices)
    counts, degrees = np.zeros(out.size, np.int64), np.empty(out.size, np.int64)
    cdef int64_t[::1] count_view = counts, degree_view = degrees
    with nogil:
        c_count_triangles(run.run[0], out, into, symmetric, &count_view[0], &degree_view[0])
    return counts, degrees


def core_numbers(Run run, const int64_t[::1] out_indptr, const index_t[::1] out_indices,
                 const int64_t[::1] in_indptr, const index_t[::1] in_indices, bint symmetric):
    """The core number of each vertex in the simple undirected view."""
    cdef Rows[index_t] out = rows_of(out_indptr, out_indices), into = rows_of(in_indptr, in_indices)
    cores = np.empty(out.size, np.int64)
    cdef int64_t[::1] view = cores
    with nogil:
        c_core_numbers(run.run[0], out, into, symmetric, &view[0])
    return cores


def propagate_labels(Run run, const int64_t[::1] out_indptr, const index_t[::1] out_indices,
                     const int64_t[::1] in_indptr, const index_t[::1] in_indices, bint symmetric,
                     uint64_t seed, int64_t max_iter):
    """The community of each vertex, numbered by their first vertices."""
    cdef Rows[index_t] out = rows_of(out_indptr, out_indices), into = rows_of(in_indptr, in_indices)
    cdef vector[index_t] labels = vector_of[index_t](
        np.arange(out.size, dtype=np.asarray(out_indices).dtype))
    with nogil:
        c_propagate(run.run[0], out, into, symmetric, seed, max_iter, labels)
        number_densely(labels)
    return array_of[index_t](labels, np.asarray(out_indices).dtype)


def random_walks(Run run, const int64_t[::1] indptr, const index_t[::1] indices, edge_ids, weights,
                 const int64_t[::1] starts, int64_t length, uint64_t seed):
    """One walk a row; the largest id where there is no step left."""
    cdef Rows[index_t] rows = rows_of(indptr, indices)
    cdef Weights w = weights_of(weights, edge_ids)
    cdef double[::1] sums
    cdef double* sums_data = NULL
    walks = np.empty((starts.shape[0], length + 1), np.asarray(indices).dtype)
    cdef index_t[:, ::1] view = walks
    if weights is not None and indices.shape[0]:
        sums = np.empty(indices.shape[0])
        sums_data = &sums[0]
    with nogil:
        if sums_data:
            c_prefix_sums(run.run[0], rows, w, sums_data)
        c_random_walks(run.run[0], rows, sums_data, &starts[0], starts.shape[0], length, seed,
                       &view[0, 0])
    return walks


def sample_neighbors(Run run, const int64_t[::1] indptr, const index_t[::1] indices, edge_ids,
                     const int64_t[::1] nodes, const int64_t[::1] fanouts, bint replace,
                     uint64_t seed):
    """All vertices met, and for each hop row, col, edge ids, and vertices after and before."""
    cdef Rows[index_t] rows = rows_of(indptr, indices)
    cdef Ids ids = ids_of(edge_ids)
    cdef vector[int64_t] first = vector_of[int64_t](nodes), each = vector_of[int64_t](fanouts), met
    cdef vector[Hop] hops
    with nogil:
        hops = c_sample(run.run[0], rows, ids, first, each, replace, seed, met)
    found = []
    for i in range(hops.size()):
        found.append((array_of[int64_t](hops[i].row, np.int64),
                      array_of[int64_t](hops[i].col, np.int64),
                      array_of[int64_t](hops[i].edge, np.int64), (hops[i].size, hops[i].targets)))
    return array_of[int64_t](met, np.int64), found
