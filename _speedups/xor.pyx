# cython: autotestdict=False
"""Kademlia's metric in C. Twin and specification: relay/_pure/xor.py.

A target is compared with every identifier of a table: some 4 ns each, which for the few
hundred nodes of a real table beats any cleverer structure, and lets secure ones go first.

Parity: tests/parity/test_xor.py.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc
from libc.string cimport memmove

from _speedups.xor cimport (
    EMPTY, ORDINARY, PREFERRED, Entry, Id160, Ranked, before, load,
)

ID_BYTES = 20

cdef enum:
    _ID_BYTES = 20
    _RANKED_ON_STACK = 32

cdef object _from_bytes = int.from_bytes


def distance(bytes left not None, bytes right not None):
    """Return the XOR of two 20-byte identifiers as a number; ValueError if they are not that."""
    cdef unsigned char octets[_ID_BYTES]
    cdef const unsigned char *a = _octets(left)
    cdef const unsigned char *b = _octets(right)
    cdef int at
    for at in range(_ID_BYTES):
        octets[at] = a[at] ^ b[at]
    return _from_bytes((<char *> octets)[:_ID_BYTES], "big")


def bucket_index(bytes left not None, bytes right not None):
    """Return 160 minus the leading bits that two identifiers share; ValueError as `distance`."""
    cdef const unsigned char *a = _octets(left)
    cdef const unsigned char *b = _octets(right)
    cdef int at
    cdef int index
    cdef unsigned char difference
    for at in range(_ID_BYTES):
        difference = a[at] ^ b[at]
        if difference:
            index = 8 * (_ID_BYTES - 1 - at)
            while difference:
                difference >>= 1
                index += 1
            return index
    return 0


@cython.final
cdef class IdTable:
    """Identifiers in numbered slots, and the question which are closest to a target.

    Owns one C array, allocated here and freed with the object; setting and clearing never
    allocate. Holds no Python references. Not safe to share between threads.
    """
    cdef:
        Entry *_entries
        Py_ssize_t _capacity
        Py_ssize_t _used        # slots that are not EMPTY
        Py_ssize_t _end         # all slots from here on are EMPTY; _used <= _end <= _capacity

    def __cinit__(self, Py_ssize_t capacity):
        if capacity < 1:
            raise ValueError("an identifier table has at least one slot")
        self._entries = <Entry *> PyMem_Calloc(capacity, sizeof(Entry))
        if self._entries is NULL:
            raise MemoryError
        self._capacity = capacity
        self._used = 0
        self._end = 0

    def __dealloc__(self):
        PyMem_Free(self._entries)

    def __len__(self):
        """Return the number of slots in use."""
        return self._used

    def set(self, Py_ssize_t slot, bytes identifier not None, bint preferred):
        """Put an identifier into a slot, over whatever was there."""
        cdef Entry *entry = self._slot(slot)
        entry.identifier = load(_octets(identifier))
        if entry.state == EMPTY:
            self._used += 1
        entry.state = PREFERRED if preferred else ORDINARY
        if slot >= self._end:
            self._end = slot + 1

    def clear(self, Py_ssize_t slot):
        """Empty a slot; one that is empty stays so."""
        cdef Entry *entry = self._slot(slot)
        if entry.state == EMPTY:
            return
        entry.state = EMPTY
        self._used -= 1
        while self._end > 0 and self._entries[self._end - 1].state == EMPTY:
            self._end -= 1

    def closest(self, bytes target not None, Py_ssize_t count):
        """Return at most `count` slots: preferred ones first, then by distance to `target`."""
        cdef Ranked on_stack[_RANKED_ON_STACK]
        cdef Ranked *ranked = on_stack
        cdef Id160 centre = load(_octets(target))
        cdef Py_ssize_t at
        count = min(count, self._used)
        if count <= 0:
            return []
        if count > _RANKED_ON_STACK:
            ranked = <Ranked *> PyMem_Malloc(count * sizeof(Ranked))
            if ranked is NULL:
                raise MemoryError
        try:
            count = self._rank(&centre, ranked, count)
            return [ranked[at].slot for at in range(count)]
        finally:
            if ranked is not on_stack:
                PyMem_Free(ranked)

    cdef Py_ssize_t _rank(
        self, const Id160 *target, Ranked *ranked, Py_ssize_t count
    ) noexcept nogil:
        """Fill `ranked`, with room for `count` > 0, in order; return how many there are."""
        cdef Py_ssize_t filled = 0
        cdef Py_ssize_t slot, low, high, middle
        cdef Entry *entry
        cdef Ranked candidate
        for slot in range(self._end):
            entry = &self._entries[slot]
            if entry.state == EMPTY:
                continue
            candidate.late = entry.state == ORDINARY
            candidate.distance.high = entry.identifier.high ^ target.high
            candidate.distance.middle = entry.identifier.middle ^ target.middle
            candidate.distance.low = entry.identifier.low ^ target.low
            candidate.slot = slot
            if filled == count and not before(&candidate, &ranked[filled - 1]):
                continue
            low = 0
            high = filled
            while low < high:       # behind its equals, which came in earlier slots
                middle = (low + high) // 2
                if before(&candidate, &ranked[middle]):
                    high = middle
                else:
                    low = middle + 1
            if filled < count:
                filled += 1
            memmove(&ranked[low + 1], &ranked[low], (filled - 1 - low) * sizeof(Ranked))
            ranked[low] = candidate
        return filled

    cdef Entry *_slot(self, Py_ssize_t slot) except NULL:
        if not 0 <= slot < self._capacity:
            raise IndexError(f"no slot {slot} in a table of {self._capacity}")
        return &self._entries[slot]


cdef const unsigned char *_octets(bytes identifier) except NULL:
    """The bytes of an identifier, owned by it."""
    if PyBytes_GET_SIZE(identifier) != _ID_BYTES:
        raise ValueError("an identifier has 20 bytes")
    return <const unsigned char *> PyBytes_AS_STRING(identifier)
