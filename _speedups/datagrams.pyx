# cython: autotestdict=False
"""The datagram lane: moves datagrams in batches, and has plain queries answered on the way.

What the system calls do is told in datagram_lane.h. Here they meet Python: what is not answered
becomes objects, and objects become datagrams. Never waits. Not safe to share between threads.

Twin: `SocketDatagrams` in relay/net/udp_socket.py, which answers nothing by itself.
Tests: tests/unit/net/test_datagrams.py runs both.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.pycapsule cimport PyCapsule_GetPointer
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.errno cimport EBADF, EFAULT, EINVAL, ENOTSOCK
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.string cimport memcmp, memcpy

import os

# By the folder's own name: the compiler does not know that it is installed as relay._speedups.
from _speedups.datagrams cimport (
    DL_BATCH,
    DL_SOURCE_BYTES,
    LA_CAPSULE,
    LA_NOT_MINE,
    dl_address,
    dl_answer,
    dl_init,
    dl_lane,
    dl_now,
    dl_receive,
    dl_send,
    dl_sent,
    dl_size,
    dl_source,
    la_answerer,
)

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

cdef enum:
    _ADDRESSES_LOG = 10
    _ADDRESSES = 1 << _ADDRESSES_LOG
    _ADDRESS_TEXT = 16      # "255.255.255.255" and a zero


cdef struct _Spelled:
    uint8_t source[6]


@cython.final
cdef class Lane:
    """Moves datagrams between a socket and Python.

    Args:
        descriptor: of a bound, non-blocking UDP socket, which outlives this.
        counters: a `relay.net.udp_socket.DatagramCounters`, counted into.
        answerer: a `relay._speedups.dht.Responder` or None; sees each datagram first.
    """
    cdef:
        dl_lane *_lane
        const la_answerer *_answerer
        object _capsule
        object _counters
        # The last addresses, spelled for Python: making a text costs more than a whole answer.
        _Spelled _spelled[_ADDRESSES]
        list _addresses

    def __cinit__(self, int descriptor, counters, answerer):
        self._lane = <dl_lane *> PyMem_Calloc(1, sizeof(dl_lane))
        if self._lane is NULL:
            raise MemoryError
        dl_init(self._lane, descriptor)
        self._counters = counters
        self._addresses = [None] * _ADDRESSES
        if answerer is not None:
            self._capsule = answerer.capsule
            self._answerer = <const la_answerer *> PyCapsule_GetPointer(self._capsule, LA_CAPSULE)

    def __dealloc__(self):
        PyMem_Free(self._lane)

    def receive(self, Py_ssize_t limit, double seconds, double now):
        """Take what has arrived, and answer of it what the answerer takes.

        Args:
            limit: the most datagrams, and the most errors, to hand on.
            seconds: begin no further batch after so long.
            now: monotonic seconds, for the answerer.

        Returns:
            The datagrams that it does not take with their sources; replies that the socket has
            no room for with their destinations; how many it took; whether there may be more;
            whether not all were errors.

        Raises:
            OSError: the socket is used wrongly.
        """
        cdef:
            list others = []
            list unsent = []
            Py_ssize_t received = 0
            Py_ssize_t answered = 0
            Py_ssize_t errors = 0
            double end = dl_now() + seconds
            unsigned room
            bint more = True
            int count
            int at
        if self._answerer is not NULL:
            self._answerer.begin(self._answerer.state)
        try:
            while len(others) + errors < limit:
                room = min(limit - len(others), DL_BATCH)
                count = dl_receive(self._lane, room)
                if count < 0:
                    if count in (-EBADF, -ENOTSOCK, -EINVAL, -EFAULT):
                        raise OSError(-count, os.strerror(-count))
                    errors += 1
                    continue
                received += count
                for at in range(count):
                    if (
                        self._answerer is NULL
                        or dl_answer(self._lane, self._answerer, at, now) == LA_NOT_MINE
                    ):
                        others.append(self._datagram(at))
                    else:
                        answered += 1
                if self._lane.replies:
                    self._send_replies(unsent)
                more = count == <int> room
                if not more or dl_now() >= end:
                    break
        finally:
            self._counters.received += received
            self._counters.receive_errors += errors
            if self._answerer is not NULL:
                self._answerer.end(self._answerer.state)
        return others, unsent, answered, more, errors == 0 or errors < limit

    def send(self, list datagrams not None):
        """Send datagrams, each with its address, in order.

        Returns:
            How many are done with: sent, or counted as errors. The others have to wait until the
            socket is writable.

        Raises:
            OSError: the socket is used wrongly.
        """
        cdef Py_ssize_t first = 0
        cdef Py_ssize_t total = len(datagrams)
        cdef unsigned count
        cdef bytes payload
        cdef dl_sent sent
        while first < total:
            count = 0
            while count < DL_BATCH and first + count < total:
                payload, address = datagrams[first + count]
                if not _read_address(address, self._lane, count):
                    break
                self._lane.out_bytes[count].iov_base = PyBytes_AS_STRING(payload)
                self._lane.out_bytes[count].iov_len = PyBytes_GET_SIZE(payload)
                count += 1
            if count == 0:      # nobody has that address
                self._counters.send_errors += 1
                first += 1
                continue
            sent = self._send(count)
            first += sent.done
            if sent.done < count:
                break
        return first

    cdef dl_sent _send(self, unsigned count) except *:
        cdef dl_sent sent = dl_send(self._lane, count)
        self._counters.sent += sent.done - sent.errors
        if sent.errors:
            self._counters.send_errors += sent.errors
        if sent.fault:
            raise OSError(sent.fault, os.strerror(sent.fault))
        return sent

    cdef int _send_replies(self, list unsent) except -1:
        """Send what is queued; what the socket has no room for becomes objects in `unsent`."""
        cdef unsigned at
        cdef unsigned count = self._lane.replies
        self._lane.replies = 0
        for at in range(self._send(count).done, count):
            unsent.append((
                PyBytes_FromStringAndSize(
                    <const char *> self._lane.out_bytes[at].iov_base,
                    self._lane.out_bytes[at].iov_len,
                ),
                self._address(at, of_replies=True),
            ))
        return 0

    cdef tuple _datagram(self, unsigned at):
        return (
            PyBytes_FromStringAndSize(
                <const char *> self._lane.datagrams[at], dl_size(self._lane, at),
            ),
            self._address(at, of_replies=False),
        )

    cdef tuple _address(self, unsigned at, bint of_replies):
        """An address as Python has it: dotted text and port."""
        cdef uint8_t source[DL_SOURCE_BYTES]
        cdef char text[_ADDRESS_TEXT]
        cdef uint32_t place
        cdef int size
        if of_replies:
            dl_source(&self._lane.out_address[at], source)
        else:
            dl_source(&self._lane.in_address[at], source)
        place = _place(source)
        known = self._addresses[place]
        if known is None or memcmp(self._spelled[place].source, source, DL_SOURCE_BYTES) != 0:
            size = snprintf(
                text, _ADDRESS_TEXT, "%d.%d.%d.%d", source[0], source[1], source[2], source[3],
            )
            known = (PyUnicode_DecodeASCII(text, size, NULL), source[4] << 8 | source[5])
            self._addresses[place] = known
            memcpy(self._spelled[place].source, source, DL_SOURCE_BYTES)
        return <tuple> known


cdef uint32_t _place(const uint8_t *source) noexcept:
    cdef uint64_t number = 0
    cdef int at
    for at in range(DL_SOURCE_BYTES):
        number = number << 8 | source[at]
    return <uint32_t> ((number * <uint64_t> 0x9E3779B97F4A7C15) >> (64 - _ADDRESSES_LOG))


cdef bint _read_address(tuple address, dl_lane *lane, unsigned at) except -1:
    """Read (dotted IPv4 address, port) as where to send `at`; False if it is not one."""
    cdef uint8_t source[DL_SOURCE_BYTES]
    cdef Py_ssize_t size
    cdef Py_ssize_t here
    cdef const char *text
    cdef int part = 0
    cdef int digits = 0
    cdef int octet = 0
    ip, port = address
    text = PyUnicode_AsUTF8AndSize(ip, &size)
    if not 0 <= port <= 65535:
        return False
    for here in range(size + 1):
        if here < size and c"0" <= text[here] <= c"9":
            octet = octet * 10 + (text[here] - c"0")
            digits += 1
            if digits > 3:
                return False
        elif digits == 0 or octet > 255 or part == 4 or (here < size and text[here] != c"."):
            return False
        else:
            source[part] = octet
            part += 1
            digits = octet = 0
    if part != 4:
        return False
    source[4] = port >> 8
    source[5] = port & 255
    dl_address(source, &lane.out_address[at])
    return True
