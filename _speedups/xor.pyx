# cython: autotestdict=False
"""Kademlia's metric in C. Twin and specification: relay/_pure/xor.py.

Parity: tests/parity/test_xor.py.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

ID_BYTES = 20

cdef enum:
    _ID_BYTES = 20

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


cdef const unsigned char *_octets(bytes identifier) except NULL:
    """The bytes of an identifier, owned by it."""
    if PyBytes_GET_SIZE(identifier) != _ID_BYTES:
        raise ValueError("an identifier has 20 bytes")
    return <const unsigned char *> PyBytes_AS_STRING(identifier)
