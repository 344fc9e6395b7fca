"""C-level contract of the bencode kernel: what is read from and what is written to.

Cimport it as `_speedups.bencode`: Cython looks for it by folders, not by installed names.
"""

cdef struct Source:
    # The bytes being read; whoever fills this keeps their owner alive.
    const unsigned char *data
    Py_ssize_t size
    Py_ssize_t position     # invariant: 0 <= position <= size

cdef struct Sink:
    # The bytes being written; `data` is PyMem memory, freed by whoever filled this.
    char *data
    Py_ssize_t size         # invariant: 0 <= size <= capacity
    Py_ssize_t capacity
