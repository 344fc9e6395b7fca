# cython: autotestdict=False
"""The DHT node's tables in C, and the responder that answers plain queries from them.

Here is only what turns C into Python objects and back; what happens is told in the headers that
dht.pxd lists. The tables' twin and specification is relay/_pure/dht.py, that of the responder
relay/dht/responder.py behind the limits of relay/dht/node.py. Nothing here does I/O, reads a
clock or is safe to share between threads.

Parity: tests/parity/test_dht.py, tests/parity/test_dht_lane.py.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.pycapsule cimport PyCapsule_GetContext, PyCapsule_New, PyCapsule_SetContext
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from os import urandom

# By the folder's own name: the compiler does not know that it is installed as relay._speedups.
from _speedups.dht cimport (
    DI_ID_BYTES,
    DI_NODE_BYTES,
    DI_ORDINARY,
    DI_PREFERRED,
    DR_RECORD_MAX,
    DR_TARGET_BYTES,
    LA_CAPSULE,
    LA_REPLY,
    LA_REPLY_MAX,
    LA_SILENT,
    da_answer,
    da_responder,
    db_admit,
    db_busy,
    db_charge,
    db_free,
    db_prepare,
    db_prove,
    db_reserve,
    db_table,
    di_clear,
    di_clear_all,
    di_closest,
    di_free,
    di_init,
    di_set,
    di_table,
    dr_drop_oldest,
    dr_entry,
    dr_free,
    dr_get,
    dr_init,
    dr_put,
    dr_table,
    fc_check,
    fc_clear,
    fc_from_s,
    fc_init,
    fc_key,
    fc_table,
    la_answerer,
    la_verdict,
    sh_hash,
)

RECORD_BYTES_MAX = DR_RECORD_MAX

cdef:
    object _NS = 1_000_000_000
    object _INTERVAL_MAX_NS = 2**62
    object _KEYS_MOST = 2**30
    object _UINT32_MAX = 2**32 - 1
    tuple _METHODS = ("ping", "find_node", "get_peers", "get")      # dq_method
    tuple _OUTCOMES = ("answered", "over_budget", "rate_limited")   # da_outcome

cdef enum:
    _KEY_BYTES = 16
    _OCTETS = 4
    _WANTED_ON_STACK = 32


def siphash(bytes key not None, bytes data not None):
    """Return SipHash-2-4 of `data`, a number of 64 bits; ValueError unless `key` has 16 bytes."""
    return _hash_under(key, data)


@cython.final
@cython.internal
cdef class _Slots:
    """Room for an answer of an IdTable."""
    cdef:
        uint32_t on_stack[_WANTED_ON_STACK]
        uint32_t *slots
        uint32_t count

    def __cinit__(self, uint32_t count):
        self.count = count
        self.slots = self.on_stack
        if count > _WANTED_ON_STACK:
            self.slots = <uint32_t *> PyMem_Malloc(count * sizeof(uint32_t))
            if self.slots is NULL:
                raise MemoryError

    def __dealloc__(self):
        if self.slots is not self.on_stack:
            PyMem_Free(self.slots)


@cython.final
cdef class IdTable:
    """Nodes in numbered slots, and the question which are closest to a target.

    Owns the C table, whose memory is that of its capacity. Holds no Python references.
    """
    cdef di_table _table

    def __cinit__(self, Py_ssize_t capacity):
        if capacity < 1:
            raise ValueError("an identifier table has at least one slot")
        if capacity > _KEYS_MOST or not di_init(&self._table, capacity):
            raise MemoryError

    def __dealloc__(self):
        di_free(&self._table)

    def __len__(self):
        """Return the number of slots in use."""
        return self._table.counts[DI_ORDINARY] + self._table.counts[DI_PREFERRED]

    def set(self, Py_ssize_t slot, bytes node not None, bint preferred):
        """Put a node's 26 bytes into a slot, over whatever was there."""
        self._check(slot)
        if PyBytes_GET_SIZE(node) != DI_NODE_BYTES:
            raise ValueError("compact node info has 26 bytes")
        di_set(&self._table, slot, _octets(node), preferred)

    def clear(self, Py_ssize_t slot):
        """Empty a slot; one that is empty stays so."""
        self._check(slot)
        di_clear(&self._table, slot)

    def clear_all(self):
        """Empty all slots."""
        di_clear_all(&self._table)

    def closest(self, bytes target not None, Py_ssize_t count):
        """Return at most `count` slots: preferred ones first, then by distance to `target`."""
        cdef uint32_t at
        cdef list slots = []
        cdef _Slots found = self._find(target, count)
        for at in range(found.count):
            slots.append(found.slots[at])
        return slots

    def closest_compact(self, bytes target not None, Py_ssize_t count):
        """Return the nodes of `closest`, 26 bytes each, in one string."""
        cdef uint32_t at
        cdef _Slots found = self._find(target, count)
        cdef bytes nodes = PyBytes_FromStringAndSize(NULL, found.count * DI_NODE_BYTES)
        cdef uint8_t *out = <uint8_t *> PyBytes_AS_STRING(nodes)
        for at in range(found.count):
            memcpy(
                out + at * DI_NODE_BYTES, self._table.slots[found.slots[at]].node, DI_NODE_BYTES,
            )
        return nodes

    cdef _Slots _find(self, bytes target, Py_ssize_t count):
        cdef _Slots found
        if PyBytes_GET_SIZE(target) != DI_ID_BYTES:
            raise ValueError("an identifier has 20 bytes")
        found = _Slots(max(min(count, len(self)), 0))
        found.count = di_closest(&self._table, _octets(target), found.slots, found.count)
        return found

    cdef int _check(self, Py_ssize_t slot) except -1:
        if not 0 <= slot < self._table.capacity:
            raise IndexError(f"no slot {slot} in a table of {self._table.capacity}")
        return 0


@cython.final
cdef class RecordTable:
    """Records under 20-byte targets, least recently used first out."""
    cdef dr_table _table

    def __cinit__(self, Py_ssize_t capacity):
        cdef uint64_t key[2]
        if not 1 <= capacity < _KEYS_MOST:
            raise ValueError("a record table has room for at least one record")
        memcpy(key, PyBytes_AS_STRING(<bytes> urandom(_KEY_BYTES)), _KEY_BYTES)
        dr_init(&self._table, capacity, key)

    def __dealloc__(self):
        dr_free(&self._table)

    def __len__(self):
        return self._table.count

    def get(self, bytes target not None):
        """Return the record under `target`, which counts as a use of it; None if there is none."""
        cdef const dr_entry *entry = dr_get(&self._table, _target(target))
        if entry is NULL:
            return None
        return PyBytes_FromStringAndSize(<const char *> entry.record, entry.size)

    def put(self, bytes target not None, bytes record not None):
        """Store a record in place of whatever its target held; ValueError if it is too long."""
        if PyBytes_GET_SIZE(record) > DR_RECORD_MAX:
            raise ValueError(f"a record has at most {DR_RECORD_MAX} bytes")
        if not dr_put(&self._table, _target(target), _octets(record), PyBytes_GET_SIZE(record)):
            raise MemoryError

    def drop_oldest(self):
        """Forget the record used least recently, if there is one."""
        if self._table.count:
            dr_drop_oldest(&self._table)


@cython.final
cdef class BudgetCells:
    """What each IPv4 address may still cost and have; see the twin for arguments."""
    cdef db_table _table

    def __cinit__(
        self, bytes key not None, Py_ssize_t cells, *, tuple pace not None,
        tuple unproven not None, tuple strangers not None, double credit_ratio,
        double proof_lasts_s,
    ):
        memset(&self._table, 0, sizeof(self._table))
        _read_key(key, self._table.key)
        if not 1 <= cells < _KEYS_MOST:
            raise ValueError("a table of budgets has at least one cell")
        self._table.count = cells
        (
            self._table.pace.packets_per_s, self._table.pace.packets_burst,
            self._table.pace.to_proven, self._table.pace.to_strangers,
            self._table.pace.queries_per_s, self._table.pace.queries_burst,
            self._table.pace.queries_spare,
        ) = pace
        self._table.bytes_per_s, self._table.bytes_burst = unproven
        self._table.in_all_per_s, self._table.in_all_burst = strangers
        self._table.credit_ratio = credit_ratio
        self._table.proof_lasts_s = proof_lasts_s

    def __dealloc__(self):
        db_free(&self._table)

    def admit(self, bytes octets not None, Py_ssize_t bytes_in, double now):
        """Count the answer to a query of `bytes_in`; False if it is beyond the budget."""
        return db_admit(self._prepared(), _address(octets), bytes_in, now)

    def charge(self, bytes octets not None, Py_ssize_t bytes_out, double now):
        """Count the bytes of a reply; False if they are beyond the budget."""
        return db_charge(self._prepared(), _address(octets), bytes_out, now)

    def reserve(self, bytes octets not None, double wait_max_s, double now):
        """Count a query of ours; returns the seconds until it may go, see the twin."""
        return db_reserve(self._prepared(), _address(octets), wait_max_s, now)

    def busy(self, bytes octets not None, double now):
        """Whether a query beyond those that go by right would have to wait."""
        return db_busy(self._prepared(), _address(octets), now)

    def prove(self, bytes octets not None, double now):
        """Note that the address receives what is sent to it."""
        db_prove(self._prepared(), _address(octets), now)

    cdef db_table *_prepared(self) except NULL:
        if not db_prepare(&self._table):
            raise MemoryError
        return &self._table


@cython.final
cdef class RateCells:
    """A rate limit by IPv4 address; see the twin for arguments."""
    cdef fc_table _table

    def __cinit__(self, interval_s, burst, max_keys):
        cdef bytes seed = urandom(_KEY_BYTES)
        cdef uint64_t words[2]
        interval_ns = max(round(interval_s * _NS), 1)
        if (
            not 0 < interval_s * _NS <= _INTERVAL_MAX_NS
            or not 1 <= burst <= _UINT32_MAX
            or not 1 <= max_keys <= _KEYS_MOST
        ):
            raise ValueError(f"not a rate: {interval_s} s, burst {burst}, {max_keys} keys")
        memcpy(words, PyBytes_AS_STRING(seed), _KEY_BYTES)
        if not fc_init(&self._table, interval_ns, burst, max_keys, words):
            raise MemoryError

    def __dealloc__(self):
        fc_clear(&self._table)

    def check(self, bytes octets not None, double now):
        """Count one query of an address; False if it is refused, which costs nothing."""
        cdef fc_key client
        memset(&client, 0, sizeof(client))
        memcpy(client.octets, _address(octets), _OCTETS)
        client.size = _OCTETS
        return fc_check(&self._table, &client, fc_from_s(now)).allowed


@cython.final
cdef class Responder:
    """Answers plain queries from the tables of a node, as the node would, or not at all.

    Args:
        identity: a `relay.dht.identity.Identity`: who answers, and whether at all.
        public: a `relay.dht.public_address.PublicAddress`, for the ping that it waits for.
        counters: a `relay.dht.counters.NodeCounters`, counted into.
        ids: of the routing table.
        values: immutable values by target, bencoded.
        items: mutable items by target, as `relay.dht.items` packs them.
        swarms: the info hashes that have peers.
        budgets: of sources.
        limit: a further limit on queries, or None.
        token_key: 16 bytes, as `relay.dht.tokens` uses it.
        greets_below: size of the routing table from which on newcomers are not asked back.
    """
    cdef:
        da_responder _responder
        la_answerer _answerer
        object _identity
        object _public
        object _counters
        tuple _tables
        RateCells _limit

    def __cinit__(
        self, *, identity, public, counters, IdTable ids not None, RecordTable values not None,
        RecordTable items not None, RecordTable swarms not None, BudgetCells budgets not None,
        RateCells limit, bytes token_key not None, uint32_t greets_below,
    ):
        memset(&self._responder, 0, sizeof(self._responder))
        _read_key(token_key, self._responder.token_key)
        self._identity = identity
        self._public = public
        self._counters = counters
        self._tables = (ids, values, items, swarms, budgets)     # kept alive
        self._responder.ids = &ids._table
        self._responder.values = &values._table
        self._responder.items = &items._table
        self._responder.swarms = &swarms._table
        self._responder.budgets = &budgets._table
        self.set_limit(limit)
        self._responder.greets_below = greets_below
        self._answerer.state = <void *> self
        self._answerer.begin = _begin
        self._answerer.answer = _answer
        self._answerer.end = _end

    def set_limit(self, RateCells limit):
        """Take another further limit on queries, or None."""
        self._responder.limit = NULL if limit is None else &limit._table
        self._limit = limit

    @property
    def capsule(self):
        """A capsule for the datagram lane, as datagram_answerer.h tells; keeps this alive."""
        capsule = PyCapsule_New(&self._answerer, LA_CAPSULE, _let_go)
        PyCapsule_SetContext(capsule, <void *> self)
        Py_INCREF(self)
        return capsule

    def answer(self, bytes payload not None, bytes source not None, double now):
        """Answer one datagram.

        Args:
            payload: the datagram.
            source: 6 bytes, as in compact peer info.
            now: monotonic seconds.

        Returns:
            The reply; b"" if there shall be none; None if the node is to decide.
        """
        cdef uint8_t reply[LA_REPLY_MAX]
        cdef size_t reply_bytes = 0
        cdef la_verdict verdict
        if PyBytes_GET_SIZE(source) != _OCTETS + 2:
            raise ValueError("compact peer info has 6 bytes")
        _begin(<void *> self)
        verdict = da_answer(
            &self._responder, _octets(payload), PyBytes_GET_SIZE(payload), _octets(source), now,
            reply, &reply_bytes,
        )
        _end(<void *> self)
        if verdict == LA_REPLY:
            return PyBytes_FromStringAndSize(<const char *> reply, reply_bytes)
        return b"" if verdict == LA_SILENT else None

    def outcomes(self):
        """Return how many queries it took by method and outcome, as `relay.dht.traffic` says."""
        return {
            (method, outcome): self._responder.outcomes[row][column]
            for row, method in enumerate(_METHODS)
            for column, outcome in enumerate(_OUTCOMES)
            if self._responder.outcomes[row][column]
        }


cdef int _begin(void *state) except -1:
    """Ask who we are now."""
    cdef Responder self = <Responder> state
    cdef bytes own_id = self._identity.node_id
    cdef bytes trial = self._public.trial_source
    if PyBytes_GET_SIZE(own_id) != DI_ID_BYTES:
        raise ValueError("an identifier has 20 bytes")
    memcpy(self._responder.own_id, _octets(own_id), DI_ID_BYTES)
    self._responder.serves = self._identity.server_mode
    self._responder.on_trial = PyBytes_GET_SIZE(trial) == _OCTETS + 2
    if self._responder.on_trial:
        memcpy(self._responder.trial, _octets(trial), _OCTETS + 2)
    return 0


cdef la_verdict _answer(
    void *state, const uint8_t *payload, size_t size, const uint8_t *source, double now,
    uint8_t *reply, size_t *reply_bytes,
) noexcept nogil:
    return da_answer(
        &(<Responder> state)._responder, payload, size, source, now, reply, reply_bytes,
    )


cdef int _end(void *state) except -1:
    """Count what was done where the node counts."""
    cdef Responder self = <Responder> state
    if self._responder.counts.queries_in:
        self._counters.queries_in += self._responder.counts.queries_in
        self._counters.replies_out += self._responder.counts.replies_out
        self._counters.dropped_budget += self._responder.counts.dropped_budget
        self._counters.dropped_filter += self._responder.counts.dropped_filter
        memset(&self._responder.counts, 0, sizeof(self._responder.counts))
    return 0


cdef void _let_go(object capsule) noexcept:
    Py_DECREF(<object> PyCapsule_GetContext(capsule))


cdef uint64_t _hash_under(bytes key, bytes data) except? 0:
    cdef uint64_t words[2]
    _read_key(key, words)
    return sh_hash(words, _octets(data), PyBytes_GET_SIZE(data), 2, 4)


cdef int _read_key(bytes key, uint64_t *words) except -1:
    """Two words, least significant byte first."""
    cdef int at
    cdef const uint8_t *octets = _octets(key)
    if PyBytes_GET_SIZE(key) != _KEY_BYTES:
        raise ValueError("a SipHash key has 16 bytes")
    words[0] = 0
    words[1] = 0
    for at in range(_KEY_BYTES):
        words[at // 8] |= <uint64_t> octets[at] << (8 * (at % 8))
    return 0


cdef const uint8_t *_target(bytes target) except NULL:
    if PyBytes_GET_SIZE(target) != DR_TARGET_BYTES:
        raise ValueError("a target has 20 bytes")
    return _octets(target)


cdef const uint8_t *_address(bytes octets) except NULL:
    if PyBytes_GET_SIZE(octets) != _OCTETS:
        raise ValueError("an IPv4 address has 4 bytes")
    return _octets(octets)


cdef inline const uint8_t *_octets(bytes data) noexcept:
    """The bytes of a bytes object, owned by it."""
    return <const uint8_t *> PyBytes_AS_STRING(data)
