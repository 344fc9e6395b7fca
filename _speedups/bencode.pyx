# cython: autotestdict=False
"""Bencode, read and written in C. Twin and specification: relay/_pure/bencode.py.

Values, error texts and error positions are the twin's, byte for byte. Recursion is bounded by
DEPTH_MAX, memory by the size of the input. Holds no state: safe in any thread.

Parity: tests/parity/test_bencode.py.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from libc.string cimport memcpy

from _speedups.bencode cimport Sink, Source

cdef extern from "Python.h":
    long long PyLong_AsLongLongAndOverflow(object value, int *overflow) except? -1

DEPTH_MAX = 32
DIGITS_MAX = 20

cdef int _DEPTH_MAX = DEPTH_MAX
cdef int _DIGITS_MAX = DIGITS_MAX
cdef object _INTEGER_LIMIT = 10**DIGITS_MAX

cdef enum:
    _LENGTH_DIGITS_MAX = 9
    _LONG_LONG_DIGITS = 18      # any number of so many digits fits
    _NUMBER_BYTES = 24          # room for a 64-bit number with sign and one more letter
    _SINK_BYTES = 512           # the start; most messages are smaller


class BencodeError(ValueError):
    """Bytes that are not bencode; `reason` without the place, `position` the place."""

    def __init__(self, reason: str, position: int) -> None:
        super().__init__(f"{reason} at byte {position}")
        self.reason = reason
        self.position = position


def decode(bytes data not None):
    """Read one value that is the whole of `data`; BencodeError if there is none."""
    cdef Source source
    source.data = <const unsigned char *> PyBytes_AS_STRING(data)
    source.size = PyBytes_GET_SIZE(data)
    source.position = 0
    value = _read_value(&source, 0)
    if source.position != source.size:
        raise BencodeError("trailing bytes", source.position)
    return value


def decode_prefix(bytes data not None):
    """Read one value from the front of `data`; return it and the offset behind it."""
    cdef Source source
    source.data = <const unsigned char *> PyBytes_AS_STRING(data)
    source.size = PyBytes_GET_SIZE(data)
    source.position = 0
    value = _read_value(&source, 0)
    return value, source.position


def encode(value):
    """Write a value of int, bytes, list and dict; TypeError or ValueError if it is another."""
    cdef Sink sink
    sink.size = 0
    sink.capacity = _SINK_BYTES
    sink.data = <char *> PyMem_Malloc(sink.capacity)
    if sink.data is NULL:
        raise MemoryError
    try:
        _write_value(value, &sink, 0)
        return PyBytes_FromStringAndSize(sink.data, sink.size)
    finally:
        PyMem_Free(sink.data)


cdef object _read_value(Source *source, int depth):
    """Read the value at the position, which `depth` containers enclose."""
    cdef Py_ssize_t start = source.position
    cdef unsigned char octet
    if start >= source.size:
        raise BencodeError("unexpected end", start)
    octet = source.data[start]
    if c"0" <= octet <= c"9":
        return _read_string(source)
    if octet == c"i":
        return _read_integer(source)
    if octet != c"d" and octet != c"l":
        raise BencodeError("unexpected byte", start)
    if depth == _DEPTH_MAX:
        raise BencodeError("nested too deeply", start)
    source.position = start + 1
    if octet == c"d":
        return _read_dictionary(source, depth + 1)
    return _read_list(source, depth + 1)


cdef bytes _read_string(Source *source):
    """Read the string whose length starts at the position, a digit."""
    cdef const unsigned char *data = source.data
    cdef Py_ssize_t start = source.position
    cdef Py_ssize_t at = start
    cdef Py_ssize_t length = 0
    while at < source.size and at - start < _LENGTH_DIGITS_MAX and c"0" <= data[at] <= c"9":
        length = length * 10 + (data[at] - c"0")
        at += 1
    if at >= source.size or data[at] != c":" or (data[start] == c"0" and at - start > 1):
        raise BencodeError("malformed string length", start)
    at += 1
    if length > source.size - at:
        raise BencodeError("string is cut off", start)
    source.position = at + length
    return PyBytes_FromStringAndSize(<const char *> data + at, length)


cdef object _read_integer(Source *source):
    """Read the integer whose ``i`` is at the position."""
    cdef const unsigned char *data = source.data
    cdef Py_ssize_t start = source.position
    cdef Py_ssize_t at = start + 1
    cdef Py_ssize_t digits
    cdef bint negative = at < source.size and data[at] == c"-"
    cdef long long number = 0
    if negative:
        at += 1
    digits = at
    while at < source.size and at - digits < _DIGITS_MAX and c"0" <= data[at] <= c"9":
        if at - digits < _LONG_LONG_DIGITS:
            number = number * 10 + (data[at] - c"0")
        at += 1
    if (
        at >= source.size
        or data[at] != c"e"
        or at == digits
        or (data[digits] == c"0" and (negative or at - digits > 1))
    ):
        raise BencodeError("malformed integer", start)
    source.position = at + 1
    if at - digits > _LONG_LONG_DIGITS:
        return int(PyBytes_FromStringAndSize(<const char *> data + start + 1, at - start - 1))
    return -number if negative else number


cdef list _read_list(Source *source, int depth):
    """Read the members of a list up to and including its ``e``."""
    cdef list members = []
    while source.position >= source.size or source.data[source.position] != c"e":
        members.append(_read_value(source, depth))
    source.position += 1
    return members


cdef dict _read_dictionary(Source *source, int depth):
    """Read the members of a dictionary up to and including its ``e``."""
    cdef dict members = {}
    cdef bytes key
    cdef unsigned char octet
    while True:
        if source.position >= source.size:
            raise BencodeError("unexpected end", source.position)
        octet = source.data[source.position]
        if octet == c"e":
            source.position += 1
            return members
        if not c"0" <= octet <= c"9":
            raise BencodeError("dictionary key is not a string", source.position)
        key = _read_string(source)
        members[key] = _read_value(source, depth)


cdef int _write_value(object value, Sink *sink, int depth) except -1:
    """Append the spelling of `value`, which `depth` containers enclose."""
    if type(value) is bytes:
        return _write_string(<bytes> value, sink)
    if type(value) is int:
        return _write_integer(value, sink)
    if type(value) is not list and type(value) is not dict:
        raise TypeError(f"bencode has no {type(value).__name__}")
    if depth == _DEPTH_MAX:
        raise ValueError(f"nested more than {DEPTH_MAX} deep")
    if type(value) is list:
        _append(sink, b"l", 1)
        for member in <list> value:
            _write_value(member, sink, depth + 1)
    else:
        for key in <dict> value:
            if type(key) is not bytes:
                raise TypeError(f"bencode has no {type(key).__name__} as a dictionary key")
        _append(sink, b"d", 1)
        for key in sorted(<dict> value):
            _write_string(<bytes> key, sink)
            _write_value((<dict> value)[key], sink, depth + 1)
    return _append(sink, b"e", 1)


cdef int _write_string(bytes value, Sink *sink) except -1:
    """Append a string: its length, a colon, its bytes."""
    cdef Py_ssize_t length = PyBytes_GET_SIZE(value)
    _append_number(sink, 0, length, c":")
    return _append(sink, PyBytes_AS_STRING(value), length)


cdef int _write_integer(object value, Sink *sink) except -1:
    """Append an integer. Those beyond 64 bits are rare and left to Python's formatting."""
    cdef int overflow = 0
    cdef long long number = PyLong_AsLongLongAndOverflow(value, &overflow)
    cdef bytes spelling
    if overflow:
        if not -_INTEGER_LIMIT < value < _INTEGER_LIMIT:
            raise ValueError(f"integer has more than {DIGITS_MAX} digits")
        spelling = b"i%de" % value
        return _append(sink, PyBytes_AS_STRING(spelling), PyBytes_GET_SIZE(spelling))
    _append(sink, b"i", 1)
    if number < 0:      # the negative of the smallest number exists only without a sign
        return _append_number(sink, c"-", 0 - <unsigned long long> number, c"e")
    return _append_number(sink, 0, <unsigned long long> number, c"e")


cdef int _append_number(
    Sink *sink, char sign, unsigned long long number, char terminator
) except -1:
    """Append a decimal number between `sign` (0: none) and `terminator`."""
    cdef char text[_NUMBER_BYTES]
    cdef int at = _NUMBER_BYTES - 1
    text[at] = terminator
    while True:
        at -= 1
        text[at] = <char> (c"0" + number % 10)
        number //= 10
        if number == 0:
            break
    if sign:
        at -= 1
        text[at] = sign
    return _append(sink, text + at, _NUMBER_BYTES - at)


cdef int _append(Sink *sink, const char *data, Py_ssize_t size) except -1:
    """Append bytes; the sink at least doubles when it is full."""
    cdef Py_ssize_t capacity
    cdef void *grown
    if size > sink.capacity - sink.size:
        capacity = 2 * sink.capacity + size
        grown = PyMem_Realloc(sink.data, capacity)
        if grown is NULL:
            raise MemoryError
        sink.data = <char *> grown
        sink.capacity = capacity
    memcpy(sink.data + sink.size, data, size)
    sink.size += size
    return 0
