# cython: autotestdict=False
"""The front lane for Python: the reactor's events as calls, and the limiter's cells.

Here is only what turns C into Python objects and back; what happens is told in front_reactor.h
and the headers that it includes. Python may be in a lane from one thread only, and keeps the GIL
there: a turn is short, getting the GIL back may take longer. The threads of `Lanes.start` never
want it.

Twins: relay/gcra.py for `Cells`; relay.http.serve and Hypercorn for `Lane`.
Parity: tests/parity/test_front.py, tests/integration/test_front_lane.py.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc cimport errno as libc_errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

import errno
import os
import socket
from math import isfinite
from os import urandom

from relay.gcra import KEYS_MAX as _KEYS_MAX
from relay.gcra import Decision

# By the folder's own name: the compiler does not know that it is installed as relay._speedups.
from _speedups.front cimport (
    FD_BYTES, FL_ASKS, FL_IS_GONE, FL_IS_LENT, FL_NO_NEWS, FL_SPANS, FR_HAND_OVER, FR_MORE,
    FR_REQUEST, PT_CAPSULE, fc_clear, fc_decision, fc_from_s, fc_high, fc_init, fc_key, fc_low,
    fd_read, fd_write, fk_check, fk_destroy, fk_enter, fk_init, fk_leave, fk_limiter, fk_waits,
    fl_answer_warm, fl_begin_threads, fl_clear, fl_config, fl_connection, fl_counts, fl_drain_all,
    fl_drop_buffers, fl_end_threads, fl_enter, fl_free, fl_give_back, fl_init, fl_lanes, fl_leave,
    fl_listen, fl_next_news, fl_reactor, fl_set_clocks, fl_span, fl_spans, fl_stop_accepting,
    fl_sweep, fl_token, fl_turn, fl_watch_listeners, fp_address, fp_network, fr_parse, fr_request,
    fr_slice, fr_verdict, fw_client, fw_find, fw_judge, fw_peer, fw_rules, pt_table, pt_waits,
)

cdef:
    object _KINDS = ("get", "head", "put")
    object _STATUSES = (200, 304, 429)
    object _UINT32_MAX = 2**32 - 1
    object _INTERVAL_MAX_NS = 2**62
    object _KEYS_MOST = 2**30
    object _NS = 1_000_000_000


@cython.final
cdef class Cells:
    """A rate limiter whose cells the lane counts in, too: `relay.gcra.Gcra`, but for its keys.

    Args:
        interval_s: until one cell comes back, seconds.
        burst: cells of a client that has been away, 1 to 2**32 - 1.
        max_keys: clients remembered, at least 1.

    Raises:
        ValueError: an argument is out of range.
    """
    cdef:
        fk_limiter _limiter
        readonly object burst

    def __cinit__(self, interval_s, burst, max_keys=_KEYS_MAX):
        cdef bytes seed = urandom(16)
        interval_ns = max(round(interval_s * _NS), 1)
        if (
            not 0 < interval_s * _NS <= _INTERVAL_MAX_NS
            or not 1 <= burst <= _UINT32_MAX
            or not 1 <= max_keys <= _KEYS_MOST
        ):
            raise ValueError(f"not a rate: {interval_s} s, burst {burst}, {max_keys} keys")
        self.burst = burst
        if not fk_init(&self._limiter.lock) or not fc_init(
            &self._limiter.cells,
            interval_ns,
            burst,
            max_keys,
            <const uint64_t *> PyBytes_AS_STRING(seed),
        ):
            raise MemoryError

    def __dealloc__(self):
        fc_clear(&self._limiter.cells)
        fk_destroy(&self._limiter.lock)

    def __len__(self):
        cdef uint32_t count
        fk_enter(&self._limiter.lock)
        count = self._limiter.cells.count
        fk_leave(&self._limiter.lock)
        return count

    def check(self, key, double now):
        """Count one request of `key` at `now`, monotonic seconds; a refused one costs nothing.

        Args:
            key: of a `relay.http.clients.Client`: 4 bytes, (prefix, number) or a short text.
            now: finite.
        """
        cdef fc_key octets
        cdef fc_decision decision
        if not isfinite(now):
            raise ValueError(f"no time: {now}")
        _read_key(key, &octets)
        decision = fk_check(&self._limiter, &octets, fc_from_s(now))
        if decision.allowed:
            return Decision(True, decision.remaining, 0.0)
        wait_ns = <object> fc_high(decision.wait) << 64 | <object> fc_low(decision.wait)
        return Decision(False, 0, wait_ns / _NS)


cdef int _read_key(object key, fc_key *out) except -1:
    """Bring a client's key into the form that the reactor makes of a socket's address."""
    cdef bytes octets
    if isinstance(key, tuple):
        prefix, number = key
        octets = (number << (128 - prefix)).to_bytes(16, "big")
    elif isinstance(key, str):
        octets = b""  # a peer without an address; there is one such client
    else:
        octets = key
    if PyBytes_GET_SIZE(octets) not in (0, 4, 16):
        raise ValueError(f"no client's key: {key!r}")
    memset(out, 0, sizeof(fc_key))
    memcpy(out.octets, PyBytes_AS_STRING(octets), PyBytes_GET_SIZE(octets))
    out.size = <uint8_t> PyBytes_GET_SIZE(octets)
    return 0


@cython.final
cdef class Lanes:
    """What the lanes of one server have together: the caps, and when they begin to be threads.

    Args:
        total: connections in all.
        per_address: connections of one client, where it is counted; 0 is no cap.
    """
    cdef:
        fl_lanes _lanes
        object _total, _per_address

    def __cinit__(self, total, per_address):
        self._total = min(total, _UINT32_MAX)
        self._per_address = min(per_address, _UINT32_MAX)
        if not fk_init(&self._lanes.lock):
            raise MemoryError

    def __dealloc__(self):
        fk_destroy(&self._lanes.lock)

    @property
    def open(self):
        """How many connections there are, lent ones included."""
        cdef uint32_t count
        fk_enter(&self._lanes.lock)
        count = self._lanes.open
        fk_leave(&self._lanes.lock)
        return count

    @property
    def waits(self):
        """How often a lane had to wait for another's use of the caps."""
        return fk_waits(&self._lanes.lock)

    def start(self, double now, double limiter_now, int news):
        """Let every lane work in a thread of its own from now on, until `stop`.

        Args:
            now: seconds, by a clock that runs as time.perf_counter does.
            limiter_now: likewise.
            news: an eventfd that becomes readable when `Lane.tell` is to be called.

        Raises:
            OSError: there are no threads to be had.
        """
        if not fl_begin_threads(&self._lanes, now, limiter_now, news):
            raise OSError(f"no thread for the front lane: {os.strerror(libc_errno.errno)}")

    def stop(self):
        """End the threads; the lanes stay as they are."""
        with nogil:
            fl_end_threads(&self._lanes)


@cython.final
@cython.no_gc_clear  # its threads end with it, and need what it refers to until then
cdef class Lane:
    """One reactor. What it cannot do itself it tells `listener`, from within the calls below.

    Owns its connections and its epoll descriptor, not the listening sockets. `listener` has:

        asked(token, head, body, peer)    a request; body is None: it did not come in time;
                                          bits 24 to 31 of a token are the lane's number
        lent(token, descriptor, data, address, opened_at, head_since)   whose it is now
        gone(token)                       nobody waits for the answer to that request any more
        refused()                         connections are closed because there are too many
        cannot_accept(error)              call `accept_again` after a while

    Args:
        listener: as above; kept alive.
        listeners: descriptors of listening TCP sockets that do not block.
        table: a capsule with the packet table, or None.
        limiter: the HTTP limiter's cells, or None.
        ttl_s: bounds of a packet's time to live.
        lanes: whose caps it keeps to; stop these before `close`.
        deadlines_s: head, body, idle, write, age, drain, linger.
        trusted, exempt: networks as packed address and prefix length.
        behind_proxy: any peer may be a proxy.
        ipv6_prefix: leading bits that make IPv6 addresses one client.
    """
    cdef:
        fl_reactor *_reactor
        object _listener, _table, _limiter
        Lanes _lanes

    def __cinit__(
        self, listener, *, listeners, table, limiter, ttl_s, Lanes lanes not None, deadlines_s,
        trusted, exempt, behind_proxy, ipv6_prefix,
    ):
        cdef fl_config *config
        cdef bytes seed = urandom(16)
        self._listener = listener
        self._lanes = lanes
        self._table = table
        self._limiter = limiter
        self._reactor = <fl_reactor *> PyMem_Calloc(1, sizeof(fl_reactor))
        if self._reactor is NULL:
            raise MemoryError
        memcpy(self._reactor.seed, PyBytes_AS_STRING(seed), 16)
        if not fl_init(self._reactor, &lanes._lanes):
            raise OSError("epoll_create1")
        config = &self._reactor.config
        config.max_connections = lanes._total
        config.max_per_address = lanes._per_address
        _read_rules(&config.rules, trusted, exempt, behind_proxy, ipv6_prefix)
        config.bounds.ttl_min_s, config.bounds.ttl_max_s = ttl_s
        (
            config.deadlines.head_s,
            config.deadlines.body_s,
            config.deadlines.idle_s,
            config.deadlines.write_s,
            config.deadlines.age_s,
            config.deadlines.drain_s,
            config.deadlines.linger_s,
        ) = deadlines_s
        if table is not None:
            self._reactor.table = <pt_table *> PyCapsule_GetPointer(table, PT_CAPSULE)
        if limiter is not None:
            self._reactor.limiter = &(<Cells?> limiter)._limiter
        self._reactor.listeners = <int *> calloc(max(len(listeners), 1), sizeof(int))
        if self._reactor.listeners is NULL:
            raise MemoryError
        for descriptor in listeners:
            if not fl_listen(self._reactor, descriptor):
                raise OSError("epoll_ctl")

    def __dealloc__(self):
        self._end()

    cdef void _end(self) noexcept:
        if self._reactor is not NULL:
            fl_end_threads(self._reactor.lanes)
            fl_clear(self._reactor)
            PyMem_Free(self._reactor)
            self._reactor = NULL

    def close(self):
        """End all connections at once, but for lent ones; other calls are errors from then on."""
        self._end()
        self._listener = self._table = self._limiter = None

    cdef fl_reactor *_alive(self) except NULL:
        if self._reactor is NULL:
            raise ValueError("the lane is closed")
        return self._reactor

    def retune(
        self, *, limiter, ttl_s, trusted, exempt, behind_proxy, ipv6_prefix,
    ):
        """Take other settings than it was made with, from the next request on.

        Connections that are open stay the client's as which they were accepted. Cells that
        another limiter has replaced may be shared no more.
        """
        cdef fl_reactor *reactor = self._alive()
        cdef Cells cells = limiter
        cdef fw_rules rules
        cdef fw_rules before
        cdef uint64_t ttl_min_s, ttl_max_s
        ttl_min_s, ttl_max_s = ttl_s
        memset(&rules, 0, sizeof(fw_rules))
        try:
            _read_rules(&rules, trusted, exempt, behind_proxy, ipv6_prefix)
        except BaseException:
            free(rules.trusted)
            free(rules.exempt)
            raise
        if cells is not None and reactor.own.runs and not cells._limiter.lock.shared:
            cells._limiter.lock.shared = True  # no other thread knows it yet
        fl_enter(reactor)
        before = reactor.config.rules
        reactor.config.rules = rules
        reactor.config.bounds.ttl_min_s = ttl_min_s
        reactor.config.bounds.ttl_max_s = ttl_max_s
        reactor.limiter = NULL if cells is None else &cells._limiter
        fl_leave(reactor)
        free(before.trusted)
        free(before.exempt)
        self._limiter = cells

    def fileno(self):
        """Return the epoll descriptor: readable when there is something to do."""
        return self._alive().epoll

    @property
    def rounds(self):
        """How often the lane has handled what came up."""
        cdef uint64_t rounds
        fl_enter(self._alive())
        rounds = self._reactor.rounds
        fl_leave(self._reactor)
        return rounds

    @property
    def waits(self):
        """How often threads have waited: for this lane, for the limiter's cells, for the table."""
        cdef fl_reactor *reactor = self._alive()
        return (
            reactor.own.waits,
            0 if reactor.limiter is NULL else fk_waits(&reactor.limiter.lock),
            0 if reactor.table is NULL else pt_waits(reactor.table),
        )

    cdef fl_reactor *_enter(self, double now, double limiter_now) except NULL:
        """Keep the lane's thread out until `_leave`; nothing in between may call Python code."""
        fl_enter(self._alive())
        fl_set_clocks(self._reactor, now, fc_from_s(limiter_now))
        return self._reactor

    def turn(self, double now, double limiter_now, bint alone):
        """Do what there is to do, for a bounded time.

        Args:
            now: seconds, by its own clock.
            limiter_now: likewise.
            alone: nobody else is known to want the thread; the time may be longer.

        Not where the lane has a thread of its own, which does that.
        """
        fl_turn(self._enter(now, limiter_now), alone)
        self._leave()

    def tell(self):
        """Tell what is new; for a lane with a thread of its own. The other calls do that, too."""
        fl_enter(self._alive())
        self._leave()

    def sweep(self, double now, double limiter_now):
        """Keep the deadlines of all connections."""
        fl_sweep(self._enter(now, limiter_now))
        self._leave()

    def drain(self, double now, double limiter_now):
        """Take no new request: end connections, those with one under way after its answer."""
        fl_drain_all(self._enter(now, limiter_now))
        self._leave()

    def answer(
        self, uint64_t token, bytes head not None, bytes body not None, bint close, double now,
        double limiter_now,
    ):
        """Answer a request that was told of; nothing happens if its client has gone.

        Args:
            token: the request's.
            head: status line and fields, without `date`, `connection` and the empty line.
            body: follows the head.
            close: end the connection with this answer.
            now: seconds, as for `turn`.
            limiter_now: likewise.
        """
        fl_answer_warm(
            self._enter(now, limiter_now),
            token,
            <const uint8_t *> PyBytes_AS_STRING(head),
            PyBytes_GET_SIZE(head),
            <const uint8_t *> PyBytes_AS_STRING(body),
            PyBytes_GET_SIZE(body),
            close,
        )
        self._leave()

    def give_back(self, uint64_t token):
        """Say that a lent connection has ended."""
        fl_enter(self._alive())
        fl_give_back(self._reactor, token)
        fl_leave(self._reactor)

    def stop_accepting(self):
        """Leave the listening sockets alone from now on."""
        fl_enter(self._alive())
        fl_stop_accepting(self._reactor)
        fl_leave(self._reactor)

    def accept_again(self):
        """Try again after `cannot_accept`."""
        fl_enter(self._alive())
        fl_watch_listeners(self._reactor, True)
        fl_leave(self._reactor)

    def take_counts(self):
        """Return what has been counted since the last call, or None if nothing has.

        Returns:
            Cache hits, answers by (kind, status), and what happened to connections.
        """
        cdef fl_counts counts
        cdef int method, status
        cdef bint counted
        fl_enter(self._alive())
        counted = self._reactor.counted
        if counted:
            counts = self._reactor.counts
            memset(&self._reactor.counts, 0, sizeof(fl_counts))
            self._reactor.counted = False
        fl_leave(self._reactor)
        if not counted:
            return None
        answers = [
            ((_KINDS[method], _STATUSES[status]), counts.answers[method][status])
            for method in range(3)
            for status in range(3)
            if counts.answers[method][status]
        ]
        connections = (
            ("accepted", counts.accepted),
            ("refused_total", counts.refused_total),
            ("refused_address", counts.refused_address),
        )
        return counts.hits, answers, [event for event in connections if event[1]]

    def take_spans(self):
        """Return how long our answers took since the last call: of hits, then of refusals.

        Each as counts by steps of time, those of `relay.histogram.SPANS_S`, and seconds in all.
        """
        cdef fl_spans spans[2]      # FL_SORTS
        cdef int i, k
        fl_enter(self._alive())
        memcpy(spans, self._reactor.spans, sizeof(spans))
        memset(self._reactor.spans, 0, sizeof(spans))
        fl_leave(self._reactor)
        return [([spans[i].counts[k] for k in range(FL_SPANS)], spans[i].ns / 1e9) for i in (0, 1)]

    cdef object _leave(self):
        """Let the lane's thread in again, and tell what is new."""
        cdef list news = None
        cdef bint full = self._reactor.full
        cdef int accept_error = self._reactor.accept_error
        try:
            news = self._take_news()
        finally:
            self._reactor.full = False
            self._reactor.accept_error = 0
            fl_leave(self._reactor)
        for what, arguments in news:
            if what == FL_ASKS:
                self._listener.asked(*arguments)
            elif what == FL_IS_LENT:
                self._listener.lent(*arguments)
            else:
                self._listener.gone(*arguments)
        if full:
            self._listener.refused()
        if accept_error:
            name = errno.errorcode.get(accept_error)
            self._listener.cannot_accept(OSError(accept_error, name))

    cdef list _take_news(self):
        """Return what happened, as pairs of the event and what the listener is told."""
        cdef fl_connection *connection
        cdef uint64_t token
        cdef list found = []
        while True:
            connection = fl_next_news(self._reactor)
            if connection is NULL:
                return found
            token = fl_token(self._reactor, connection)
            news = connection.news
            connection.news = FL_NO_NEWS
            if news == FL_ASKS:
                head = (<char *> connection.in_)[:connection.head_bytes]
                body = None
                if not connection.body_late:
                    body = (<char *> connection.in_)[connection.head_bytes:connection.request_bytes]
                found.append((news, (token, head, body, _address(connection)[0])))
            elif news == FL_IS_LENT:
                data = (<char *> connection.in_)[:connection.in_bytes]
                fl_drop_buffers(connection)
                head_since = connection.head_since if connection.served else connection.opened
                if head_since < 0:  # it came whole
                    head_since = self._reactor.now
                arguments = (
                    token, connection.fd, data, _address(connection), connection.opened, head_since
                )
                found.append((news, arguments))
            elif news == FL_IS_GONE:
                fl_free(self._reactor, connection)
                found.append((news, (token,)))


cdef object _address(const fl_connection *connection):
    cdef bytes octets = (
        (<const char *> connection.peer.address.octets)[:connection.peer.address.size]
    )
    family = socket.AF_INET if len(octets) == 4 else socket.AF_INET6
    return socket.inet_ntop(family, octets), connection.peer.port


cdef int _read_rules(
    fw_rules *rules, object trusted, object exempt, bint behind_proxy, unsigned ipv6_prefix
) except -1:
    rules.behind_proxy = behind_proxy
    rules.ipv6_prefix = ipv6_prefix
    rules.trusted = _networks(trusted, &rules.trusted_count)
    rules.exempt = _networks(exempt, &rules.exempt_count)
    return 0


cdef fp_network *_networks(object networks, size_t *count) except? NULL:
    cdef fp_network *array = <fp_network *> calloc(max(len(networks), 1), sizeof(fp_network))
    cdef bytes octets
    if array is NULL:
        raise MemoryError
    for octets, prefix in networks:
        memcpy(array[count[0]].octets, PyBytes_AS_STRING(octets), min(len(octets), 16))
        array[count[0]].size = <uint8_t> len(octets)
        array[count[0]].prefix = prefix
        count[0] += 1
    return array


include "front_probes.pxi"
