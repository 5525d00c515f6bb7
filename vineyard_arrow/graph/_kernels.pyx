# distutils: language = c++
# cython: language_level=3, embedsignature=True, freethreading_compatible=False
"""Native parts of graphs: building, look-ups, iterators, expansion. Input is checked above it."""

cdef extern from "parallel.h" namespace "vineyard::graph" nogil:
    int threads_of(int)


def default_threads() -> int:
    """How many threads work where nothing else was asked for."""
    return threads_of(0)
