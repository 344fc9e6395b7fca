# cython: autotestdict=False
"""The packet table in C, for Python. Twin and specification: relay/store/table.py.

This module checks sizes, keeps lock and memory right, and turns records into bytes; the rest is
in the headers that table.pxd lists. Every method takes the table's lock, which costs nothing
until `share` and then excludes the front lane's threads.

Parity: tests/parity/test_table.py, tests/property/test_packet_table.py.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.pycapsule cimport (
    PyCapsule_GetContext,
    PyCapsule_New,
    PyCapsule_SetContext,
)
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from os import urandom

# By the folder's own name: the compiler does not know that it is installed as relay._speedups.
from _speedups.table cimport (
    PT_CAPSULE,
    PT_DONE,
    PT_KEY_BYTES,
    PT_NO_MEMORY,
    PT_NO_ROOM,
    PT_PAYLOAD_MAX,
    PT_RECORD_MAX,
    PT_RECORD_MIN,
    PT_TAG_BYTES,
    TR_HEAD_BYTES,
    TR_SIZE_BYTES,
    pt_begin,
    pt_block,
    pt_changes,
    pt_choose,
    pt_collapse,
    pt_count,
    pt_cursor,
    pt_drop,
    pt_evict,
    pt_expect,
    pt_fetch,
    pt_foresee,
    pt_forget_expected,
    pt_free,
    pt_full_chunk,
    pt_get,
    pt_ghosts,
    pt_ghosts_clear,
    pt_load,
    pt_lock,
    pt_lookup_copy,
    pt_new,
    pt_next,
    pt_outcome,
    pt_packet,
    pt_peek,
    pt_put,
    pt_resize,
    pt_share,
    pt_spare,
    pt_spread,
    pt_table,
    pt_unlock,
    pt_waits,
    pt_walk_begin,
    pt_walk_next,
    tr_constants,
    tr_pack,
    tr_packed_bytes,
    tr_prepare,
)

cdef tr_constants CONSTANTS
tr_prepare(&CONSTANTS)


@cython.final
cdef class PacketTable:
    """Records by key, least wanted first out.

    Owns the C table. Until `share` it belongs to the thread that holds the GIL; from then on
    other threads may look up through `capsule` without it.
    """
    cdef:
        pt_table *_table
        readonly uint64_t capacity

    def __cinit__(self, uint64_t capacity):
        cdef bytes secret = urandom(16)
        self._table = pt_new(capacity, <const uint8_t *> PyBytes_AS_STRING(secret))
        if self._table is NULL:
            raise MemoryError
        self.capacity = capacity

    def __dealloc__(self):
        if self._table is not NULL:
            pt_free(self._table)

    def __len__(self):
        """Return the number of packets; places held for expected ones do not count."""
        cdef uint64_t count
        pt_lock(self._table)
        count = pt_count(self._table)
        pt_unlock(self._table)
        return count

    def __contains__(self, bytes key not None):
        cdef bint found
        if PyBytes_GET_SIZE(key) != PT_KEY_BYTES:
            return False
        pt_lock(self._table)
        found = pt_peek(self._table, _octets(key)) is not NULL
        pt_unlock(self._table)
        return found

    @property
    def capsule(self):
        """A capsule for other extensions, as packet_table.h tells; it keeps the table alive."""
        capsule = PyCapsule_New(self._table, PT_CAPSULE, _let_go)
        PyCapsule_SetContext(capsule, <void *> self)
        Py_INCREF(self)
        return capsule

    @property
    def changes(self):
        """How often the order of use has changed, or a packet came or went."""
        cdef uint64_t changes
        pt_lock(self._table)
        changes = pt_changes(self._table)
        pt_unlock(self._table)
        return changes

    @property
    def waits(self):
        """How often a thread had to wait for another's use of the table."""
        return pt_waits(self._table)

    def share(self, bint shared):
        """Let other threads look up, or no longer; call it while there are none."""
        pt_share(self._table, shared)

    def get(self, bytes key not None):
        """Return the record and count it as used."""
        if PyBytes_GET_SIZE(key) != PT_KEY_BYTES:
            return None
        pt_lock(self._table)
        try:
            return _record(pt_get(self._table, _octets(key)))
        finally:
            pt_unlock(self._table)

    def peek(self, bytes key not None):
        """Return the record, and leave the order alone."""
        if PyBytes_GET_SIZE(key) != PT_KEY_BYTES:
            return None
        pt_lock(self._table)
        try:
            return _record(pt_peek(self._table, _octets(key)))
        finally:
            pt_unlock(self._table)

    def put(self, bytes key not None, bytes record not None):
        """Insert a record, or replace and use one. ValueError for sizes that cannot be."""
        _check_key(key)
        _check_record(record)
        pt_lock(self._table)
        self._changed(
            pt_put(self._table, _octets(key), _octets(record), PyBytes_GET_SIZE(record))
        )

    def expect(self, bytes keys not None):
        """Hold places for packets on the disk, each as the oldest of the kept ones so far."""
        cdef Py_ssize_t at
        if PyBytes_GET_SIZE(keys) % PT_KEY_BYTES != 0:
            raise ValueError(f"a key has {PT_KEY_BYTES} bytes")
        for at in range(0, PyBytes_GET_SIZE(keys), PT_KEY_BYTES):
            pt_lock(self._table)
            self._changed(pt_expect(self._table, _octets(keys) + at))

    def load(self, bytes key not None, bytes record not None):
        """Put a record from the disk in its place, or as the oldest kept one if none was held."""
        _check_key(key)
        _check_record(record)
        pt_lock(self._table)
        return self._changed(
            pt_load(self._table, _octets(key), _octets(record), PyBytes_GET_SIZE(record))
        )

    def load_pack(self, bytes pack not None):
        """Load many rows; return keys and records of those that have a record, or found no room."""
        cdef:
            const uint8_t *row = _octets(pack)
            size_t left = PyBytes_GET_SIZE(pack)
            size_t row_bytes
            const uint8_t *key
            pt_outcome outcome
            list refused = []
        _check_pack(row, left)
        while left > 0:
            row_bytes = tr_packed_bytes(row, left)
            key = row + TR_SIZE_BYTES
            pt_lock(self._table)
            outcome = PT_NO_ROOM
            if pt_peek(self._table, key) is NULL:
                outcome = pt_load(self._table, key, row + TR_HEAD_BYTES, row_bytes - TR_HEAD_BYTES)
            if not self._changed(outcome):
                refused.append((
                    PyBytes_FromStringAndSize(<const char *> key, PT_KEY_BYTES),
                    (<const char *> row)[TR_HEAD_BYTES:row_bytes],
                ))
            row += row_bytes
            left -= row_bytes
        return refused

    cdef bint _changed(self, pt_outcome outcome) except -1:
        """Unlock the table after a change. False: there was no room for it."""
        pt_unlock(self._table)
        if outcome == PT_NO_MEMORY:
            raise MemoryError
        return outcome == PT_DONE

    def forget_expected(self):
        """Give up the places of packets that the disk did not deliver."""
        pt_lock(self._table)
        pt_forget_expected(self._table)
        pt_unlock(self._table)

    def resize(self, uint64_t capacity):
        """Take another capacity; the owner evicts what is too much, and calls `spread`."""
        cdef pt_ghosts forgotten
        pt_lock(self._table)
        forgotten = pt_resize(self._table, capacity)
        pt_unlock(self._table)
        pt_ghosts_clear(&forgotten)
        self.capacity = capacity

    def spread(self):
        """Bring the order of places nearer to the capacity; False: it is there."""
        cdef bint more
        pt_lock(self._table)
        more = pt_spread(self._table)
        pt_unlock(self._table)
        return more

    def settle(self):
        """Spread over as few pages of the processor's as there can be; for a thread with time."""
        cdef uint32_t number = 0
        cdef void *chunk
        while True:
            pt_lock(self._table)
            chunk = pt_full_chunk(self._table, number)
            pt_unlock(self._table)
            if chunk is NULL:
                break
            with nogil:
                pt_collapse(chunk)
            number += 1

    def spare(self):
        """Pass over a few used packets that would be next to go; False: the next was not used."""
        cdef bint more
        pt_lock(self._table)
        more = pt_spare(self._table)
        pt_unlock(self._table)
        return more

    def evict(self):
        """Remove and return the least wanted packet; None when there is none."""
        cdef uint32_t handle
        cdef const pt_block *block
        cdef bytes key = None
        cdef bytes record = None
        pt_lock(self._table)
        try:
            block = pt_choose(self._table, &handle)
            if block is not NULL:
                key = _key(block)
                record = _record(block)
                pt_evict(self._table, handle)
        finally:
            pt_unlock(self._table)
        return None if key is None else (key, record)

    def remove(self, bytes key not None):
        """Remove and return the record of `key`; None if there is none: a place stays."""
        cdef bytes record
        if PyBytes_GET_SIZE(key) != PT_KEY_BYTES:
            return None
        pt_lock(self._table)
        try:
            record = _record(pt_peek(self._table, _octets(key)))
            if record is not None:
                pt_drop(self._table, _octets(key))
        finally:
            pt_unlock(self._table)
        return record

    def keys(self):
        """Return all keys that have a record, most wanted first; see `walk` for many."""
        cdef list keys = []
        cdef const pt_block *block
        cdef pt_cursor cursor
        pt_lock(self._table)
        try:
            cursor = pt_begin(self._table)
            block = pt_next(self._table, &cursor)
            while block is not NULL:
                keys.append(_key(block))
                block = pt_next(self._table, &cursor)
        finally:
            pt_unlock(self._table)
        keys.reverse()
        return keys

    def records(self):
        """Return all records by key; the dictionary is the caller's."""
        cdef dict records = {}
        cdef const pt_block *block
        cdef pt_cursor cursor
        pt_lock(self._table)
        try:
            cursor = pt_begin(self._table)
            block = pt_next(self._table, &cursor)
            while block is not NULL:
                records[_key(block)] = _record(block)
                block = pt_next(self._table, &cursor)
        finally:
            pt_unlock(self._table)
        return records

    def begin_walk(self):
        """Start a walk over all keys; one under way is given up."""
        pt_lock(self._table)
        pt_walk_begin(self._table)
        pt_unlock(self._table)

    def walk(self, Py_ssize_t count):
        """Return the next keys of the walk, at most `count`, in one string; empty at the end."""
        cdef const pt_block *block
        cdef bytes keys
        cdef char *start
        cdef char *end
        if count < 1:
            raise ValueError("a piece has at least one key")
        keys = PyBytes_FromStringAndSize(NULL, count * PT_KEY_BYTES)
        end = PyBytes_AS_STRING(keys) + count * PT_KEY_BYTES
        start = end
        pt_lock(self._table)
        while start > PyBytes_AS_STRING(keys):
            block = pt_walk_next(self._table)
            if block is NULL:
                break
            start -= PT_KEY_BYTES
            memcpy(start, block.key, PT_KEY_BYTES)
        pt_unlock(self._table)
        return keys if start == PyBytes_AS_STRING(keys) else start[:end - start]


def pack_rows(str rows not None):
    """Decode rows of the database and leave out the spoiled ones; without the GIL.

    Returns:
        How many rows were good, and their pack.
    """
    cdef:
        Py_ssize_t length
        const char *text = PyUnicode_AsUTF8AndSize(rows, &length)
        bytes pack = PyBytes_FromStringAndSize(NULL, length // 2)
        uint8_t *start = <uint8_t *> PyBytes_AS_STRING(pack)
        size_t packed, good
    with nogil:
        packed = tr_pack(&CONSTANTS, text, length, start, &good)
    return good, pack[:packed]


def lookup(PacketTable table not None, bytes key not None):
    """Look up as the front lane does, without the GIL; for tests.

    Returns:
        Payload, timestamp_us, last_seen_us, the smallest TTL of the answers (None without
        any), and the digest in the entity tag; or None if there is no packet.
    """
    cdef pt_packet packet
    cdef uint8_t payload[PT_PAYLOAD_MAX]
    cdef const uint8_t *octets
    cdef pt_table *c_table = table._table
    cdef bint found
    _check_key(key)
    octets = _octets(key)
    with nogil:
        pt_fetch(c_table, pt_foresee(c_table, octets))
        found = pt_lookup_copy(c_table, octets, &packet, payload)
    if not found:
        return None
    return (
        (<char *> packet.payload)[:packet.payload_bytes],
        packet.timestamp_us,
        packet.last_seen_us,
        packet.ttl_s if packet.has_answers else None,
        (<char *> packet.tag)[:PT_TAG_BYTES],
    )


cdef void _let_go(object capsule) noexcept:
    """The destructor of a capsule: it held one reference to its table."""
    Py_DECREF(<PacketTable> PyCapsule_GetContext(capsule))


cdef inline const uint8_t *_octets(bytes value) noexcept:
    return <const uint8_t *> PyBytes_AS_STRING(value)


cdef inline bytes _key(const pt_block *block):
    return PyBytes_FromStringAndSize(<const char *> block.key, PT_KEY_BYTES)


# No tuple or other container may be made while the table is locked: that can start the garbage
# collector, which runs any code and may give the GIL away. Bytes are safe.
cdef inline bytes _record(const pt_block *block):
    if block is NULL:
        return None
    return PyBytes_FromStringAndSize(<const char *> block.record, block.record_bytes)


cdef int _check_key(bytes key) except -1:
    if PyBytes_GET_SIZE(key) != PT_KEY_BYTES:
        raise ValueError(f"a key has {PT_KEY_BYTES} bytes")
    return 0


cdef int _check_pack(const uint8_t *row, size_t left) except -1:
    cdef size_t row_bytes
    while left > 0:
        row_bytes = tr_packed_bytes(row, left)
        if row_bytes == 0:
            raise ValueError("these are no packed rows")
        row += row_bytes
        left -= row_bytes
    return 0


cdef int _check_record(bytes record) except -1:
    if not PT_RECORD_MIN <= PyBytes_GET_SIZE(record) <= PT_RECORD_MAX:
        raise ValueError(f"a record has {PT_RECORD_MIN} to {PT_RECORD_MAX} bytes")
    return 0
