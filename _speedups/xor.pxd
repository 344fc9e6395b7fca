"""C-level contract of the metric kernel: identifiers as numbers, and their order.

Cimport it as `_speedups.xor`: Cython looks for it by folders, not by installed names.
"""

from libc.stdint cimport uint32_t, uint64_t

cdef enum State:
    EMPTY = 0
    ORDINARY = 1
    PREFERRED = 2

cdef struct Id160:
    # 160 bits as numbers, most significant first, whatever the machine's byte order.
    uint64_t high
    uint64_t middle
    uint32_t low

cdef struct Entry:
    Id160 identifier
    State state

cdef struct Ranked:
    Id160 distance
    bint late               # not preferred
    Py_ssize_t slot


cdef inline Id160 load(const unsigned char *octets) noexcept nogil:
    """Read 20 bytes as an identifier."""
    cdef Id160 identifier
    cdef int at
    identifier.high = 0
    identifier.middle = 0
    identifier.low = 0
    for at in range(8):
        identifier.high = identifier.high << 8 | octets[at]
    for at in range(8, 16):
        identifier.middle = identifier.middle << 8 | octets[at]
    for at in range(16, 20):
        identifier.low = identifier.low << 8 | octets[at]
    return identifier


cdef inline bint before(const Ranked *left, const Ranked *right) noexcept nogil:
    """Whether `left` belongs strictly in front of `right`; slots take no part."""
    if left.late != right.late:
        return right.late
    if left.distance.high != right.distance.high:
        return left.distance.high < right.distance.high
    if left.distance.middle != right.distance.middle:
        return left.distance.middle < right.distance.middle
    return left.distance.low < right.distance.low
