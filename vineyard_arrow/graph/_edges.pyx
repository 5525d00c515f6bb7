# distutils: language = c++
# cython: language_level=3, embedsignature=True, freethreading_compatible=False
# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""What Python loops touch of a graph: edges one by one, the rows of one vertex, single answers.

Vertices are checked against their label on every call: the arrays are trusted to be sound.
"""

cimport cython
from cpython.ref cimport PyObject
from libc.stdint cimport (
    int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t,
)

import numpy as np
import pyarrow as pa

from ..errors import LabelNotFoundError, VertexNotFoundError


cdef extern from "Python.h":
    Py_ssize_t clipped "PyNumber_AsSsize_t"(object, PyObject*) except? -1


cdef enum Kind:
    OTHER, BOOL, INT8, INT16, INT32, INT64, UINT8, UINT16, UINT32, UINT64, FLOAT32, FLOAT64


_KINDS = {
    pa.bool_(): BOOL, pa.int8(): INT8, pa.int16(): INT16, pa.int32(): INT32, pa.int64(): INT64,
    pa.uint8(): UINT8, pa.uint16(): UINT16, pa.uint32(): UINT32, pa.uint64(): UINT64,
    pa.float32(): FLOAT32, pa.float64(): FLOAT64,
}


@cython.final
cdef class Column:
    """A property column, read a value at a time: numbers from memory, all else by Arrow."""

    cdef Kind kind
    cdef const uint8_t* values
    cdef const uint8_t* valid
    cdef int64_t offset
    cdef object array

    def __init__(self, array):
        self.array = array
        self.kind = OTHER
        if isinstance(array, pa.ChunkedArray):
            if array.num_chunks != 1:
                return
            self.array = array = array.chunk(0)
        valid, values = (array.buffers() + [None])[:2]
        if values is None:
            return
        self.kind = _KINDS.get(array.type, OTHER)
        self.values = <const uint8_t*><uintptr_t>values.address
        if valid is not None:
            self.valid = <const uint8_t*><uintptr_t>valid.address
        self.offset = array.offset

    cdef get(self, uint64_t row):
        cdef uint64_t i = row + self.offset
        if self.kind == OTHER:
            return self.array[row].as_py()
        if self.valid != NULL and not self.valid[i >> 3] >> (i & 7) & 1:
            return None
        if self.kind == FLOAT64:
            return (<const double*>self.values)[i]
        if self.kind == INT64:
            return (<const int64_t*>self.values)[i]
        if self.kind == INT32:
            return (<const int32_t*>self.values)[i]
        if self.kind == FLOAT32:
            return (<const float*>self.values)[i]
        if self.kind == BOOL:
            return bool(self.values[i >> 3] >> (i & 7) & 1)
        if self.kind == INT16:
            return (<const int16_t*>self.values)[i]
        if self.kind == INT8:
            return (<const int8_t*>self.values)[i]
        if self.kind == UINT64:
            return (<const uint64_t*>self.values)[i]
        if self.kind == UINT32:
            return (<const uint32_t*>self.values)[i]
        if self.kind == UINT16:
            return (<const uint16_t*>self.values)[i]
        return self.values[i]


cdef struct Side:
    const int64_t* indptr
    const void* indices
    const void* ids  # NULL where the position is the id
    int64_t num_rows


@cython.final
cdef class EdgeIndex:
    """The rows of one triple; holds its arrays.

    Parameters
    ----------
    adjacency : Adjacency
    """

    cdef Side out, into
    cdef bint wide, wide_ids, directed
    cdef readonly object adjacency
    cdef readonly tuple triple
    cdef readonly int64_t num_edges
    cdef dict columns
    cdef object out_indices, in_indices, out_ids, in_ids

    def __init__(self, adjacency):
        a = adjacency
        self.adjacency = a
        self.triple, self.num_edges, self.directed = a.triple, a.num_edges, a.directed
        self.wide = a.out_indices.dtype == np.uint64
        self.wide_ids = a.in_edge_ids.dtype == np.uint64
        self.out_indices, self.in_indices = a.out_indices, a.in_indices
        self.out_ids, self.in_ids = a.edge_ids, a.in_edge_ids
        self.columns = {name: Column(column) for name, column in a.columns.items()}
        self.out = side_of(a.out_indptr, a.out_indices, a.edge_ids)
        self.into = side_of(a.in_indptr, a.in_indices, a.in_edge_ids)

    cdef int64_t row_of(self, v, bint incoming) except -1:
        cdef Py_ssize_t row = clipped(v, NULL)
        if 0 <= row < (self.into.num_rows if incoming else self.out.num_rows):
            return row
        label = self.triple[2 if incoming else 0]
        count = self.into.num_rows if incoming else self.out.num_rows
        raise VertexNotFoundError(
            f"no vertex {v} in {label!r}, which has {count}",
            f"ids are 0 to {count - 1}; ids() gives them for oids" if count else "it is empty",
        )

    cdef inline uint64_t index_at(self, const Side* side, int64_t at) noexcept:
        if self.wide:
            return (<const uint64_t*>side.indices)[at]
        return (<const uint32_t*>side.indices)[at]

    cdef inline uint64_t id_at(self, const Side* side, int64_t at) noexcept:
        if side.ids == NULL:
            return at
        if self.wide_ids:
            return (<const uint64_t*>side.ids)[at]
        return (<const uint32_t*>side.ids)[at]

    cdef inline Column column(self, name):
        found = self.columns.get(name)
        if found is None:
            raise LabelNotFoundError(
                f"edges {'-'.join(self.triple)} have no property {name!r}",
                f"they have {', '.join(self.columns) or 'none'}",
            )
        return <Column>found

    def edges_of(self, v, bint incoming):
        """An iterator of the edges out of a vertex, or into one."""
        cdef int64_t row = self.row_of(v, incoming)
        cdef EdgeIterator it = EdgeIterator.__new__(EdgeIterator)
        it.index, it.row, it.incoming = self, row, incoming
        it.side = &self.into if incoming else &self.out
        it.at, it.stop = it.side.indptr[row], it.side.indptr[row + 1]
        return it

    def edges(self):
        """An iterator of all edges, each once, by source."""
        cdef EdgeIterator it = EdgeIterator.__new__(EdgeIterator)
        it.index, it.row, it.whole = self, 0, True
        it.side = &self.out
        it.at, it.stop = 0, self.out.indptr[self.out.num_rows]
        it.upper = not self.directed
        it.left = self.num_edges
        return it

    def slice_of(self, v, bint incoming):
        """The row of one vertex."""
        cdef int64_t row = self.row_of(v, incoming)
        cdef const Side* side = &self.into if incoming else &self.out
        cdef EdgeSlice out = EdgeSlice.__new__(EdgeSlice)
        out.index, out.vertex, out.incoming = self, row, incoming
        out.start, out.stop = side.indptr[row], side.indptr[row + 1]
        return out

    def neighbors(self, v, bint incoming):
        """View of the neighbours in one direction."""
        cdef int64_t row = self.row_of(v, incoming)
        cdef const Side* side = &self.into if incoming else &self.out
        indices = self.in_indices if incoming else self.out_indices
        return indices[side.indptr[row]:side.indptr[row + 1]]

    def degree(self, v, bint incoming):
        """Edges of one vertex in one direction."""
        cdef int64_t row = self.row_of(v, incoming)
        cdef const Side* side = &self.into if incoming else &self.out
        return side.indptr[row + 1] - side.indptr[row]

    def has_edge(self, u, v):
        """Whether there is an edge from u to v: two binary searches at most, in the shorter row."""
        cdef int64_t src = self.row_of(u, False), dst = self.row_of(v, True)
        cdef const Side* side = &self.out
        cdef int64_t row = src, wanted = dst, low, high, middle
        if (
            self.into.indptr[dst + 1] - self.into.indptr[dst]
            < self.out.indptr[src + 1] - self.out.indptr[src]
        ):
            side, row, wanted = &self.into, dst, src
        low, high = side.indptr[row], side.indptr[row + 1]
        stop = high
        while low < high:
            middle = (low + high) // 2
            if <int64_t>self.index_at(side, middle) < wanted:
                low = middle + 1
            else:
                high = middle
        return low < stop and <int64_t>self.index_at(side, low) == wanted


cdef Side side_of(const int64_t[::1] indptr, indices, ids) except *:
    cdef Side side
    cdef uintptr_t address = indices.__array_interface__["data"][0]
    side.indptr, side.num_rows = &indptr[0], indptr.shape[0] - 1
    side.indices = <const void*>address
    side.ids = NULL
    if ids is not None:
        address = ids.__array_interface__["data"][0]
        side.ids = <const void*>address
    return side


@cython.final
@cython.freelist(256)
@cython.no_gc
cdef class Edge:
    """One edge: ``src``, ``dst`` and ``eid``, and its properties by name.

    Frozen, equal by value, and cheap: properties are read when they are asked for. It keeps the
    graph alive.

    Attributes
    ----------
    src, dst : int
        Vertex ids. Of an undirected graph ``src`` is the vertex that was asked about.
    eid : int
        Edge id: the row of the edge in the property columns.
    """

    cdef readonly uint64_t src, dst, eid
    cdef EdgeIndex index

    def __init__(self):
        raise TypeError("edges are made by iterating over a graph")

    @property
    def triple(self):
        """Source label, edge label, destination label."""
        return self.index.triple

    def __getitem__(self, name):
        return self.index.column(name).get(self.eid)

    def keys(self):
        """Names of the properties; so ``dict(edge)`` has them all."""
        return self.index.columns.keys()

    def __eq__(self, other):
        if not isinstance(other, Edge):
            return NotImplemented
        cdef Edge that = other
        return (
            self.src == that.src and self.dst == that.dst and self.eid == that.eid
            and (self.index is that.index or self.index.triple == that.index.triple)
        )

    def __hash__(self):
        return hash((self.src, self.dst, self.eid))

    def __repr__(self):
        return f"Edge({self.src}, {self.dst}, eid={self.eid})"

    def __reduce__(self):
        raise TypeError("an Edge is a view of its graph: send src, dst and eid")


cdef inline Edge make_edge(EdgeIndex index, uint64_t src, uint64_t dst, uint64_t eid):
    cdef Edge edge = Edge.__new__(Edge)
    edge.src, edge.dst, edge.eid, edge.index = src, dst, eid, index
    return edge


@cython.final
@cython.no_gc
cdef class EdgeIterator:
    """Edges one by one; `len` of what is left by ``operator.length_hint``."""

    cdef EdgeIndex index
    cdef const Side* side
    cdef int64_t at, stop, row, left
    cdef bint incoming, whole, upper

    def __iter__(self):
        return self

    def __length_hint__(self):
        return self.left if self.whole else self.stop - self.at

    def __next__(self):
        cdef int64_t at = self.at
        cdef uint64_t there
        if at >= self.stop:
            raise StopIteration
        if self.whole:
            while True:
                while self.side.indptr[self.row + 1] <= at:
                    self.row += 1
                if not self.upper or <int64_t>self.index.index_at(self.side, at) >= self.row:
                    break
                at += 1  # the same edge was in the row of its other end
                if at >= self.stop:
                    self.at = at
                    raise StopIteration
            self.left -= 1
        self.at = at + 1
        there = self.index.index_at(self.side, at)
        if self.incoming:
            return make_edge(self.index, there, self.row, self.index.id_at(self.side, at))
        return make_edge(self.index, self.row, there, self.index.id_at(self.side, at))


@cython.final
@cython.freelist(64)
@cython.no_gc
cdef class EdgeSlice:
    """The out- or in-edges of one vertex, as views: nothing is copied but where it says so.

    Attributes
    ----------
    vertex : int
    incoming : bool
    start, stop : int
        Positions among all out- (or in-) edges of the triple.
    """

    cdef EdgeIndex index
    cdef readonly int64_t vertex, start, stop
    cdef readonly bint incoming

    def __init__(self):
        raise TypeError("slices are made by a graph")

    def __len__(self):
        return self.stop - self.start

    def __iter__(self):
        return self.index.edges_of(self.vertex, self.incoming)

    @property
    def neighbors(self):
        """The other ends, ascending: a read-only view."""
        indices = self.index.in_indices if self.incoming else self.index.out_indices
        return indices[self.start:self.stop]

    @property
    def edge_ids(self):
        """Edge ids: a read-only view; made for directed out-edges, whose ids are a range."""
        ids = self.index.in_ids if self.incoming else self.index.out_ids
        if ids is None:
            return np.arange(
                self.start, self.stop, dtype=np.uint64 if self.index.wide_ids else np.uint32
            )
        return ids[self.start:self.stop]

    def __getitem__(self, name):
        """A property of these edges as an Arrow array; a view for directed out-edges, else taken."""
        self.index.column(name)
        column = self.index.adjacency.columns[name]
        if self.index.directed and not self.incoming:
            return column.slice(self.start, self.stop - self.start)
        return column.take(pa.array(self.edge_ids))

    def to_arrow(self, props=None):
        """A `pyarrow.RecordBatch` of neighbours, edge ids and properties (all by default)."""
        names = list(self.index.columns) if props is None else list(props)
        columns = [pa.array(self.neighbors), pa.array(self.edge_ids)]
        for name in names:
            column = self[name]
            columns.append(
                column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
            )
        return pa.record_batch(columns, ["src" if self.incoming else "dst", "eid", *names])

    def __repr__(self):
        word = "in-edges" if self.incoming else "out-edges"
        return f"<{len(self)} {word} of vertex {self.vertex}>"

    def __reduce__(self):
        raise TypeError("an EdgeSlice is a view of its graph: send what to_arrow() gives")
