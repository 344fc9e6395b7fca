"""C-level contract of the DHT's tables; the code is in headers, one concern each.

    dht_ids.h       identifiers, and which are closest to a target
    dht_records.h   what is stored for others
    dht_budget.h    what each address may cost and have
    dht_query.h     reads plain queries
    dht_answer.h    answers them
    datagram_answerer.h   how the datagram lane calls that
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t


cdef extern from "siphash.h" nogil:
    uint64_t sh_hash(
        const uint64_t *key, const uint8_t *data, size_t size, int rounds, int final_rounds,
    )


cdef extern from "dht_ids.h" nogil:
    enum:
        DI_ID_BYTES
        DI_NODE_BYTES
        DI_ORDINARY
        DI_PREFERRED

    ctypedef struct di_slot:
        uint8_t node[26]

    ctypedef struct di_table:
        di_slot *slots
        uint32_t capacity
        uint32_t counts[2]

    bint di_init(di_table *table, uint32_t capacity)
    void di_free(di_table *table)
    void di_clear_all(di_table *table)
    void di_clear(di_table *table, uint32_t slot)
    void di_set(di_table *table, uint32_t slot, const uint8_t *node, bint preferred)
    uint32_t di_closest(
        const di_table *table, const uint8_t *target, uint32_t *out, uint32_t wanted,
    )


cdef extern from "dht_records.h" nogil:
    enum:
        DR_TARGET_BYTES
        DR_RECORD_MAX

    ctypedef struct dr_entry:
        uint32_t size
        uint8_t *record

    ctypedef struct dr_table:
        uint32_t count

    void dr_init(dr_table *table, uint32_t capacity, const uint64_t *key)
    void dr_free(dr_table *table)
    const dr_entry *dr_get(dr_table *table, const uint8_t *target)
    bint dr_put(dr_table *table, const uint8_t *target, const uint8_t *record, uint32_t size)
    void dr_drop_oldest(dr_table *table)


cdef extern from "dht_budget.h" nogil:
    ctypedef struct db_pace:
        double packets_per_s
        double packets_burst
        double to_proven
        double to_strangers
        double queries_per_s
        double queries_burst
        double queries_spare

    ctypedef struct db_table:
        uint64_t key[2]
        uint64_t count
        db_pace pace
        double bytes_per_s
        double bytes_burst
        double in_all_per_s
        double in_all_burst
        double credit_ratio
        double proof_lasts_s

    bint db_prepare(db_table *table)
    void db_free(db_table *table)
    bint db_admit(db_table *table, const uint8_t *octets, size_t bytes_in, double now)
    bint db_charge(db_table *table, const uint8_t *octets, size_t bytes_out, double now)
    double db_reserve(db_table *table, const uint8_t *octets, double wait_max_s, double now)
    bint db_busy(const db_table *table, const uint8_t *octets, double now)
    void db_prove(db_table *table, const uint8_t *octets, double now)


cdef extern from "front_cells.h" nogil:
    ctypedef struct fc_key:
        uint8_t octets[16]
        uint8_t size

    ctypedef struct fc_table:
        pass

    ctypedef struct fc_decision:
        bint allowed

    ctypedef long fc_ns     # 128 bits, in truth; Cython only passes it on

    bint fc_init(
        fc_table *table, int64_t interval, uint32_t burst, uint32_t max_keys, const uint64_t *seed,
    )
    void fc_clear(fc_table *table)
    fc_ns fc_from_s(double seconds)
    fc_decision fc_check(fc_table *table, const fc_key *key, fc_ns now)


cdef extern from "datagram_answerer.h":
    const char *LA_CAPSULE
    enum:
        LA_REPLY_MAX

    ctypedef enum la_verdict:
        LA_NOT_MINE
        LA_SILENT
        LA_REPLY

    ctypedef struct la_answerer:
        void *state
        int (*begin)(void *state) except -1
        la_verdict (*answer)(
            void *state, const uint8_t *payload, size_t size, const uint8_t *source, double now,
            uint8_t *reply, size_t *reply_bytes,
        ) noexcept nogil
        int (*end)(void *state) except -1


cdef extern from "dht_answer.h" nogil:
    ctypedef struct da_counts:
        uint64_t queries_in
        uint64_t replies_out
        uint64_t dropped_budget
        uint64_t dropped_filter

    ctypedef struct da_responder:
        di_table *ids
        dr_table *values
        dr_table *items
        dr_table *swarms
        db_table *budgets
        fc_table *limit
        uint64_t token_key[2]
        uint8_t own_id[20]
        bint serves
        bint on_trial
        uint8_t trial[6]
        uint32_t greets_below
        da_counts counts
        uint64_t outcomes[4][3]

    la_verdict da_answer(
        da_responder *responder, const uint8_t *payload, size_t size, const uint8_t *source,
        double now, uint8_t *reply, size_t *reply_bytes,
    )
