"""C-level contract of the packet table; the code is in headers, one concern each.

    packet_table.h    what a table does, and how another extension reads from it
    packet_blocks.h   where packets lie, how they are found, the queues they stand in
    packet_ghosts.h   which were evicted before anybody used them
    packet_facts.h    entity tag and TTL
    table_rows.h      rows of the database, on their way into the table

An extension that only reads needs packet_table.h and the capsule, nothing of this.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "packet_table.h" nogil:
    const char *PT_CAPSULE
    enum:
        PT_KEY_BYTES
        PT_TAG_BYTES
        PT_PAYLOAD_MAX
        PT_RECORD_MIN
        PT_RECORD_MAX

    ctypedef struct pt_table:
        pass

    ctypedef struct pt_ghosts:
        pass

    ctypedef struct pt_block:
        uint8_t key[32]
        uint16_t record_bytes
        uint8_t record[]

    ctypedef struct pt_cursor:
        pass

    ctypedef struct pt_packet:
        const uint8_t *payload
        size_t payload_bytes
        uint64_t timestamp_us
        uint64_t last_seen_us
        uint32_t ttl_s
        bint has_answers
        uint8_t tag[16]

    ctypedef enum pt_outcome:
        PT_NO_MEMORY
        PT_NO_ROOM
        PT_DONE

    uint64_t pt_foresee(pt_table *table, const uint8_t *key)
    void pt_fetch(pt_table *table, uint64_t foreseen)
    bint pt_lookup_copy(pt_table *table, const uint8_t *key, pt_packet *out, uint8_t *payload)
    void pt_share(pt_table *table, bint shared)
    void pt_lock(pt_table *table)
    void pt_unlock(pt_table *table)
    uint64_t pt_waits(pt_table *table)

    pt_table *pt_new(uint64_t capacity, const uint8_t *secret)
    void pt_free(pt_table *table)
    uint64_t pt_count(const pt_table *table)
    uint64_t pt_changes(const pt_table *table)
    const pt_block *pt_peek(const pt_table *table, const uint8_t *key)
    const pt_block *pt_get(pt_table *table, const uint8_t *key)
    pt_outcome pt_put(pt_table *table, const uint8_t *key, const uint8_t *record, size_t size)
    pt_outcome pt_expect(pt_table *table, const uint8_t *key)
    pt_outcome pt_load(pt_table *table, const uint8_t *key, const uint8_t *record, size_t size)
    void pt_forget_expected(pt_table *table)
    pt_ghosts pt_resize(pt_table *table, uint64_t capacity)
    void pt_ghosts_clear(pt_ghosts *ghosts)
    bint pt_spread(pt_table *table)
    void *pt_full_chunk(const pt_table *table, uint32_t number)
    void pt_collapse(void *chunk)
    bint pt_spare(pt_table *table)
    const pt_block *pt_choose(pt_table *table, uint32_t *handle)
    void pt_evict(pt_table *table, uint32_t handle)
    void pt_drop(pt_table *table, const uint8_t *key)
    pt_cursor pt_begin(const pt_table *table)
    const pt_block *pt_next(const pt_table *table, pt_cursor *cursor)
    void pt_walk_begin(pt_table *table)
    const pt_block *pt_walk_next(pt_table *table)


cdef extern from "table_rows.h" nogil:
    enum:
        TR_SIZE_BYTES
        TR_HEAD_BYTES

    ctypedef struct tr_constants:
        pass

    void tr_prepare(tr_constants *constants)
    size_t tr_pack(
        const tr_constants *constants, const char *text, size_t length, uint8_t *pack, size_t *good
    )
    size_t tr_packed_bytes(const uint8_t *pack, size_t left)
