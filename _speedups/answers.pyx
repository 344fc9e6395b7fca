# cython: autotestdict=False
"""Responses to our queries, read in C. Twin and specification: relay/_pure/answers.py.

One pass over the datagram without a dictionary; whatever is out of the ordinary, or wrong, is
left to the general decoder by returning None. Holds no state: safe in any thread.

Parity: tests/parity/test_answers.py.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcmp

PAYLOAD_BYTES_MIN = 15
TRANSACTION_ID_BYTES_MAX = 32

cdef Py_ssize_t _PAYLOAD_BYTES_MIN = PAYLOAD_BYTES_MIN
cdef Py_ssize_t _TRANSACTION_ID_BYTES_MAX = TRANSACTION_ID_BYTES_MAX

cdef enum:
    _ID_BYTES = 20
    _ADDRESS_BYTES = 6
    _LENGTH_DIGITS_MAX = 9
    _DIGITS_MAX = 18        # any number of so many digits fits a long long

ctypedef const unsigned char Octet

cdef struct Span:
    # A string in the datagram, or with `start` its whole spelling; data is NULL for none.
    Octet *start
    Octet *data
    Py_ssize_t size

cdef struct Reading:
    # The datagram and what of it has been read.
    Octet *at
    Octet *end
    Span transaction_id
    Span kind
    Span requester
    Span node_id
    Span nodes
    Span token
    Span public_key
    Span signature
    Span value
    long long flag
    long long seq
    bint has_seq
    bint has_values


@cython.final
@cython.freelist(64)
cdef class Answer:
    """A response to a query of ours, in the terms of look-ups and puts."""
    cdef readonly bytes transaction_id
    cdef readonly bytes node_id
    cdef readonly bytes nodes
    cdef readonly bytes token
    cdef readonly bytes public_key
    cdef readonly object seq
    cdef readonly bytes signature
    cdef readonly bytes v_encoded
    cdef readonly object peers
    cdef readonly bytes requester
    cdef readonly bint read_only

    def __init__(
        self,
        bytes transaction_id not None,
        bytes node_id=None,
        bytes nodes=None,
        bytes token=None,
        bytes public_key=None,
        object seq=None,
        bytes signature=None,
        bytes v_encoded=None,
        object peers=None,
        bytes requester=None,
        bint read_only=False,
    ):
        self.transaction_id = transaction_id
        self.node_id = node_id
        self.nodes = nodes
        self.token = token
        self.public_key = public_key
        self.seq = seq
        self.signature = signature
        self.v_encoded = v_encoded
        self.peers = peers
        self.requester = requester
        self.read_only = read_only


def read_answer(bytes payload not None):
    """Read a plain response; None for everything else."""
    cdef Reading reading
    cdef Py_ssize_t size = PyBytes_GET_SIZE(payload)
    cdef Answer answer
    if size < _PAYLOAD_BYTES_MIN:
        return None
    reading.at = <Octet *> PyBytes_AS_STRING(payload)
    reading.end = reading.at + size
    if not _read_envelope(&reading):
        return None
    answer = Answer.__new__(Answer)
    answer.transaction_id = _text(&reading.transaction_id)
    answer.node_id = _text(&reading.node_id)
    answer.nodes = _text(&reading.nodes)
    answer.token = _text(&reading.token)
    answer.public_key = _text(&reading.public_key)
    if reading.has_seq:
        answer.seq = reading.seq
    answer.signature = _text(&reading.signature)
    if reading.value.data is not NULL:
        answer.v_encoded = PyBytes_FromStringAndSize(
            <const char *> reading.value.start,
            reading.value.data + reading.value.size - reading.value.start,
        )
    answer.requester = _text(&reading.requester)
    answer.read_only = reading.flag > 0
    return answer


cdef bytes _text(const Span *span):
    if span.data is NULL:
        return None
    return PyBytes_FromStringAndSize(<const char *> span.data, span.size)


cdef bint _read_envelope(Reading *reading) noexcept nogil:
    """Read the outer dictionary; whether it is that of a plain response."""
    cdef Span key, value
    cdef Span previous = Span(NULL, NULL, 0)
    cdef Span none = Span(NULL, NULL, 0)
    cdef long long number
    reading.transaction_id = reading.kind = reading.requester = none
    reading.has_values = False
    reading.flag = 0
    if reading.at[0] != c"d":
        return False
    reading.at += 1
    while True:
        if reading.at >= reading.end:
            return False
        if reading.at[0] == c"e":
            break
        if not _read_key(reading, &key, &previous) or reading.at >= reading.end:
            return False
        if reading.at[0] == c"d":
            if not _is(&key, b"r", 1) or not _read_values(reading):
                return False
        elif reading.at[0] == c"i":
            if not _read_integer(reading, &number):
                return False
            if _is(&key, b"ro", 2):
                reading.flag = number
            elif _is(&key, b"t", 1) or _is(&key, b"y", 1) or _is(&key, b"r", 1) or (
                _is(&key, b"ip", 2)
            ):
                return False
        else:
            if not _read_string(reading, &value):
                return False
            if _is(&key, b"t", 1):
                reading.transaction_id = value
            elif _is(&key, b"y", 1):
                reading.kind = value
            elif _is(&key, b"ip", 2):
                reading.requester = value
            elif _is(&key, b"r", 1) or _is(&key, b"ro", 2):
                return False
    return (
        reading.has_values
        and _is(&reading.kind, b"r", 1)
        and reading.transaction_id.data is not NULL
        and reading.transaction_id.size <= _TRANSACTION_ID_BYTES_MAX
        and (reading.requester.data is NULL or reading.requester.size == _ADDRESS_BYTES)
        and (reading.node_id.data is NULL or reading.node_id.size == _ID_BYTES)
    )


cdef bint _read_values(Reading *reading) noexcept nogil:
    """Read the dictionary `r`; whether it is plain."""
    cdef Span key, value
    cdef Span previous = Span(NULL, NULL, 0)
    cdef Span none = Span(NULL, NULL, 0)
    cdef Span *place
    cdef long long number
    reading.node_id = reading.nodes = reading.token = none
    reading.public_key = reading.signature = reading.value = none
    reading.seq = 0
    reading.has_seq = False
    reading.has_values = True
    reading.at += 1
    while True:
        if reading.at >= reading.end:
            return False
        if reading.at[0] == c"e":
            reading.at += 1
            return True
        if not _read_key(reading, &key, &previous) or reading.at >= reading.end:
            return False
        if _is(&key, b"values", 6):
            return False
        place = _place(reading, &key)
        if reading.at[0] == c"i":
            if place is not NULL or not _read_integer(reading, &number):
                return False
            if _is(&key, b"seq", 3):
                reading.seq = number
                reading.has_seq = True
        else:
            if _is(&key, b"seq", 3) or not _read_string(reading, &value):
                return False
            if place is not NULL:
                place[0] = value


cdef Span *_place(Reading *reading, const Span *key) noexcept nogil:
    """Where the string under a key belongs; NULL for a key that is not one of ours."""
    if _is(key, b"id", 2):
        return &reading.node_id
    if _is(key, b"nodes", 5):
        return &reading.nodes
    if _is(key, b"token", 5):
        return &reading.token
    if _is(key, b"k", 1):
        return &reading.public_key
    if _is(key, b"sig", 3):
        return &reading.signature
    if _is(key, b"v", 1):
        return &reading.value
    return NULL


cdef inline bint _is(const Span *span, const char *text, Py_ssize_t size) noexcept nogil:
    return span.data is not NULL and span.size == size and memcmp(span.data, text, size) == 0


cdef bint _read_key(Reading *reading, Span *key, Span *previous) noexcept nogil:
    """Read a key that is larger than the one before it, which it replaces."""
    cdef Py_ssize_t common
    cdef int order
    if not _read_string(reading, key):
        return False
    if previous.data is not NULL:
        common = min(previous.size, key.size)
        order = memcmp(previous.data, key.data, common)
        if order > 0 or (order == 0 and previous.size >= key.size):
            return False
    previous[0] = key[0]
    return True


cdef bint _read_string(Reading *reading, Span *span) noexcept nogil:
    """Read a string by the rules of bencode.pyx."""
    cdef Octet *at = reading.at
    cdef Py_ssize_t length = 0
    while (
        at < reading.end and at - reading.at < _LENGTH_DIGITS_MAX and c"0" <= at[0] <= c"9"
    ):
        length = length * 10 + (at[0] - c"0")
        at += 1
    if (
        at >= reading.end
        or at == reading.at
        or at[0] != c":"
        or (reading.at[0] == c"0" and at - reading.at > 1)
    ):
        return False
    at += 1
    if length > reading.end - at:
        return False
    span.start = reading.at
    span.data = at
    span.size = length
    reading.at = at + length
    return True


cdef bint _read_integer(Reading *reading, long long *number) noexcept nogil:
    """Read an integer of at most `_DIGITS_MAX` digits by the rules of bencode.pyx."""
    cdef Octet *at = reading.at + 1
    cdef Octet *digits
    cdef bint negative = at < reading.end and at[0] == c"-"
    if negative:
        at += 1
    digits = at
    number[0] = 0
    while at < reading.end and at - digits < _DIGITS_MAX and c"0" <= at[0] <= c"9":
        number[0] = number[0] * 10 + (at[0] - c"0")
        at += 1
    if (
        at >= reading.end
        or at[0] != c"e"
        or at == digits
        or (digits[0] == c"0" and (negative or at - digits > 1))
    ):
        return False
    if negative:
        number[0] = -number[0]
    reading.at = at + 1
    return True
