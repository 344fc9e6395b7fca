/* The packet table: what answers are made from. Bounded, in memory; the least wanted goes first.
 *
 * Plain C without any Python object, so that the front lane answers from it without the GIL.
 * Semantics are those of its pure twin in relay/store/table.py; the Python face is table.pyx.
 *
 * Another extension gets at a table through `PacketTable.capsule`, a PyCapsule named PT_CAPSULE
 * that holds a `pt_table *` and keeps the table alive, and includes this header: all functions
 * are static. The name ends in a digest of these headers, so an extension built from another
 * version of them is refused by PyCapsule_GetPointer instead of reading astray.
 *
 *     pt_packet packet;
 *     if (pt_lookup(table, key, &packet)) ...    packet.payload, .tag, .ttl_s, .last_seen_us
 *
 * Threads. A table belongs to one thread, the one that holds the GIL, and takes no lock: until
 * `pt_share`, which comes before other threads start. From then on everything happens between
 * `pt_lock` and `pt_unlock`, the owner's changes too, and takes no longer than a few copies of
 * one packet. Other threads call `pt_lookup_copy`, which locks by itself, or `pt_lookup_locked`.
 * The lock is not recursive, and nobody may wait for the GIL while holding it.
 */
#ifndef RELAY_PACKET_TABLE_H
#define RELAY_PACKET_TABLE_H

#include "packet_blocks.h"

#ifndef PT_LAYOUT
#define PT_LAYOUT "unknown" /* setup.py gives a digest of the headers that lay out the table */
#endif
#define PT_CAPSULE "relay.packet_table." PT_LAYOUT

#define PT_LINE_BYTES 64 /* what the processor fetches at once */
#define PT_FETCH_BYTES 448 /* the facts and a packet of 253 bytes, wherever in a line they begin */

/* What an answer is made of. */
typedef struct {
    const uint8_t *payload;    /* signature (64), timestamp (8), DNS message: the body */
    size_t payload_bytes;      /* PT_PAYLOAD_MIN .. PT_PAYLOAD_MAX */
    uint64_t timestamp_us;     /* when the owner made it, since 1970 */
    uint64_t last_seen_us;     /* when we last received it, our wall clock, since 1970 */
    uint32_t ttl_s;            /* the smallest TTL of its answer records, before any bounds; */
    bool has_answers;          /* false: there are none, ttl_s is 0 and means nothing */
    uint8_t tag[PT_TAG_BYTES]; /* BLAKE2b-128 of the payload; in hex and quotes the entity tag */
} pt_packet;

/* ---- For readers ---- */

/* Finds the packet of a key (32 bytes) and counts it as used; O(1). False, and `out` is left
 * alone, if there is none, or only a place held for one that is not loaded yet.
 * `out->payload` points into the table: good until it is next changed (put, load, expect, evict,
 * forget_expected; looking up changes nothing). Only for a table that is not shared. */
static inline bool pt_lookup(pt_table *table, const uint8_t *key, pt_packet *out);

/* The same between `pt_lock` and `pt_unlock`; the pointer is good until `pt_unlock`. */
static inline bool pt_lookup_locked(pt_table *table, const uint8_t *key, pt_packet *out);

/* The same for any thread: locks, and copies the payload to `payload`, which has room for
 * PT_PAYLOAD_MAX bytes; `out->payload` is that copy. */
static inline bool pt_lookup_copy(pt_table *table, const uint8_t *key, pt_packet *out,
                                  uint8_t *payload);

/* For who has several keys to look up: has the processor fetch, first where a key is looked for,
 * then what is found there, while the caller does something else. Each takes memory some 0.3 us
 * where there are many packets, and all keys' at once take no longer. Nothing depends on it. */
static inline uint64_t pt_foresee(pt_table *table, const uint8_t *key);
static inline void pt_fetch(pt_table *table, uint64_t foreseen);

/* From now on (or no longer) other threads look up too. Call while there are none. */
static inline void pt_share(pt_table *table, bool shared);

/* Keeps other threads out of a shared table; nothing at all where it is not shared. */
static inline void pt_lock(pt_table *table);
static inline void pt_unlock(pt_table *table);

/* How often a thread had to wait for another in `pt_lock`, since the start. */
static inline uint64_t pt_waits(pt_table *table);

/* ---- For the owner, table.pyx; to be called between pt_lock and pt_unlock ---- */

typedef enum { PT_NO_MEMORY = -1, PT_NO_ROOM = 0, PT_DONE = 1 } pt_outcome;

/* A table of at most `capacity` places, with 16 secret bytes for its hash. NULL: no memory. */
static inline pt_table *pt_new(uint64_t capacity, const uint8_t secret[16]);
static inline void pt_free(pt_table *table);

/* How many packets there are; places held for expected ones do not count. */
static inline uint64_t pt_count(const pt_table *table);
/* How often the order of a walk has changed, or a packet came or went. */
static inline uint64_t pt_changes(const pt_table *table);

/* The packet of a key, or NULL; the order stays as it is. */
static inline const pt_block *pt_peek(const pt_table *table, const uint8_t *key);
/* The same, and it is used now. */
static inline const pt_block *pt_get(pt_table *table, const uint8_t *key);

/* What the methods of the twin do. Sizes of records are PT_RECORD_MIN .. PT_RECORD_MAX. */
static inline pt_outcome pt_put(pt_table *table, const uint8_t *key, const uint8_t *record,
                                size_t bytes);
static inline pt_outcome pt_expect(pt_table *table, const uint8_t *key);
static inline pt_outcome pt_load(pt_table *table, const uint8_t *key, const uint8_t *record,
                                 size_t bytes);
static inline void pt_forget_expected(pt_table *table);
/* Another capacity. Nothing is evicted by it; `pt_spread` until it is false. Who was evicted is
 * forgotten; what it was remembered in is returned, to be cleared when the table is not locked. */
static inline pt_ghosts pt_resize(pt_table *table, uint64_t capacity);
/* Some steps on the way to as many buckets as the capacity asks for; true: there is more to do. */
static inline bool pt_spread(pt_table *table);
/* Passes over used packets that would be the next to go, a few at most; true: the next to go may
 * be a used one, call again. False: it is not, or there is none. */
static inline bool pt_spare(pt_table *table);
/* Eviction in two steps, so that the caller can keep a copy: the packet that is to go, for which
 * places on the way are given up, or NULL; and its removal. Spares as many as `pt_spare`, and then
 * whoever is next goes, used or not. */
static inline const pt_block *pt_choose(pt_table *table, uint32_t *handle);
static inline void pt_evict(pt_table *table, uint32_t handle);
/* Removes the packet of a key, if there is one. */
static inline void pt_drop(pt_table *table, const uint8_t *key);

/* Goes over all packets, from the least wanted one: a cursor begins as `pt_begin`, and `pt_next`
 * is NULL at the end. It is good until the table changes, also in its order. */
static inline pt_cursor pt_begin(const pt_table *table);
static inline const pt_block *pt_next(const pt_table *table, pt_cursor *cursor);

/* The same with a cursor of the table's own, which bears changes: what is used or kept meanwhile
 * may come once more, and later; what goes is left out, and so may be what is new or loaded. */
static inline void pt_walk_begin(pt_table *table);
static inline const pt_block *pt_walk_next(pt_table *table);

/* ---- The table as a whole ---- */

static inline uint32_t pt_buckets_for(uint64_t capacity)
{
    uint32_t buckets = PT_BUCKETS_MIN;
    while (buckets / 2 < capacity && buckets < PT_BUCKETS_MAX)
        buckets *= 2;
    return buckets;
}

#define PT_NEW_PART 32 /* of the capacity */
#define PT_SPARED_MAX 16 /* in one call, which is to take no longer than that */

/* Large enough to find out which new packets are wanted, and less than what a flood may cost. */
static inline uint32_t pt_new_share(uint64_t capacity)
{
    uint64_t share = capacity / PT_NEW_PART;
    return share < 1 ? 1 : share < UINT32_MAX ? (uint32_t)share : UINT32_MAX;
}

/* As many ghosts as there may be kept ones. */
static inline uint32_t pt_ghosts_room(uint64_t capacity, uint32_t new_share)
{
    uint64_t room = capacity > new_share ? capacity - new_share : 0;
    return room < PT_GHOSTS_MAX ? (uint32_t)room : PT_GHOSTS_MAX;
}

static inline pt_table *pt_new(uint64_t capacity, const uint8_t secret[16])
{
    pt_table *table = calloc(1, sizeof *table);
    if (table == NULL)
        return NULL;
    uint32_t buckets = pt_buckets_for(capacity);
    table->bucket_mask = table->spread_mask = buckets - 1;
    table->capacity = capacity;
    table->new_share = pt_new_share(capacity);
    table->secret[0] = pt_load_64_little(secret);
    table->secret[1] = pt_load_64_little(secret + 8);
    table->pages_made = 1;
    table->buckets = calloc(buckets, sizeof *table->buckets);
    uint32_t ghosts = pt_ghosts_room(capacity, table->new_share);
    if (!pt_ghosts_init(&table->ghosts, ghosts) || table->buckets == NULL
        || pthread_mutex_init(&table->mutex, NULL) != 0) {
        pt_ghosts_clear(&table->ghosts);
        free(table->buckets);
        free(table);
        return NULL;
    }
    return table;
}

static inline void pt_free(pt_table *table)
{
    for (uint32_t chunk = 0; chunk < table->chunks_made; chunk++)
        free(table->chunks[chunk]);
    for (size_t units = 0; units <= PT_UNITS_MAX; units++)
        free(table->classes[units].pages);
    free(table->chunks);
    free(table->buckets);
    pt_ghosts_clear(&table->ghosts);
    pthread_mutex_destroy(&table->mutex);
    free(table);
}

static inline void pt_share(pt_table *table, bool shared) { table->shared = shared; }

static inline void pt_lock(pt_table *table)
{
    if (table->shared && pthread_mutex_trylock(&table->mutex) != 0) {
        pthread_mutex_lock(&table->mutex);
        table->waits++;
    }
}

static inline void pt_unlock(pt_table *table)
{
    if (table->shared)
        pthread_mutex_unlock(&table->mutex);
}

static inline uint64_t pt_waits(pt_table *table)
{
    pt_lock(table);
    uint64_t waits = table->waits;
    pt_unlock(table);
    return waits;
}

static inline uint64_t pt_count(const pt_table *table)
{
    return table->count - table->classes[PT_PLACE_UNITS].count;
}

static inline uint64_t pt_changes(const pt_table *table) { return table->changes; }

/* ---- Changing ---- */

/* Adds a block that is in no order yet; `bytes` is 0 for a place. 0: no memory. */
static inline uint32_t pt_add(pt_table *table, const uint8_t *key, const uint8_t *record,
                              size_t bytes)
{
    uint32_t handle = pt_allocate(table, (uint32_t)PT_UNITS(bytes));
    if (handle == 0)
        return 0;
    pt_block *block = pt_at(table, handle);
    uint32_t *bucket = pt_bucket(table, key);
    memcpy(block->key, key, PT_KEY_BYTES);
    block->chain = *bucket;
    block->record_bytes = (uint16_t)bytes;
    block->has_facts = block->was_used = false;
    block->uses = 0;
    if (bytes > 0)
        memcpy(block->record, record, bytes);
    *bucket = handle;
    table->count++;
    return handle;
}

/* Gives a block another record. Its handle afterwards; 0, and nothing has changed: no memory. */
static inline uint32_t pt_replace(pt_table *table, uint32_t handle, const uint8_t *record,
                                  size_t bytes)
{
    pt_block *block = pt_at(table, handle);
    uint32_t units = (uint32_t)PT_UNITS(bytes);
    uint32_t units_before = (uint32_t)PT_UNITS(block->record_bytes);
    if (block->record_bytes != bytes
        || memcmp(block->record + PT_SEEN_BYTES, record + PT_SEEN_BYTES,
                  bytes - PT_SEEN_BYTES) != 0)
        block->has_facts = false;
    if (units == units_before) {
        block->record_bytes = (uint16_t)bytes;
        memcpy(block->record, record, bytes);
        return handle;
    }
    uint32_t moved = pt_allocate(table, units);
    if (moved == 0)
        return 0;
    pt_block *target = pt_at(table, moved);
    memcpy(target, block, sizeof *block);
    target->record_bytes = (uint16_t)bytes;
    memcpy(target->record, record, bytes);
    pt_mend_links(table, handle, moved);
    pt_release(table, handle, units_before); /* of another size: cannot move the new one */
    return moved;
}

static inline pt_outcome pt_put(pt_table *table, const uint8_t *key, const uint8_t *record,
                                size_t bytes)
{
    uint32_t handle = pt_find(table, key);
    if (handle != 0) {
        /* One that comes before it was loaded is new in the order. */
        table->changes += pt_at(table, handle)->record_bytes == 0;
        handle = pt_replace(table, handle, record, bytes);
        if (handle == 0)
            return PT_NO_MEMORY;
        pt_use(table, pt_at(table, handle));
        return PT_DONE;
    }
    handle = pt_add(table, key, record, bytes);
    if (handle == 0)
        return PT_NO_MEMORY;
    bool is_back = pt_ghost_take(&table->ghosts, pt_hash(table->secret, key));
    pt_put_newest(table, handle, !is_back);
    if (table->count <= table->capacity && table->queues[true].count > table->new_share)
        pt_keep(table, table->queues[true].oldest);
    return PT_DONE;
}

static inline pt_outcome pt_expect(pt_table *table, const uint8_t *key)
{
    if (table->count >= table->capacity || pt_find(table, key) != 0)
        return PT_NO_ROOM;
    uint32_t handle = pt_add(table, key, NULL, 0);
    if (handle == 0)
        return PT_NO_MEMORY;
    pt_put_oldest(table, handle);
    return PT_DONE;
}

static inline pt_outcome pt_load(pt_table *table, const uint8_t *key, const uint8_t *record,
                                 size_t bytes)
{
    uint32_t handle = pt_find(table, key);
    if (handle != 0) {
        if (pt_at(table, handle)->record_bytes != 0)
            return PT_DONE;
        table->changes++;
        return pt_replace(table, handle, record, bytes) != 0 ? PT_DONE : PT_NO_MEMORY;
    }
    if (table->count >= table->capacity)
        return PT_NO_ROOM;
    handle = pt_add(table, key, record, bytes);
    if (handle == 0)
        return PT_NO_MEMORY;
    pt_put_oldest(table, handle);
    return PT_DONE;
}

static inline void pt_forget_expected(pt_table *table)
{
    pt_class *places = &table->classes[PT_PLACE_UNITS];
    while (places->count > 0)
        pt_remove(table, pt_handle(places, places->count - 1, PT_PLACE_UNITS));
}

/* Whether there are too many new ones, or at least not too many kept ones. */
static inline bool pt_are_new_to_go(const pt_table *table)
{
    uint32_t new = table->queues[true].count;
    uint64_t kept = table->queues[false].count;
    return new > 0 && (new > table->new_share || kept == 0
                       || kept + table->new_share <= table->capacity);
}

/* The packet that is the next to go, NULL if there is none. Places on the way are given up. */
static inline pt_block *pt_next_to_go(pt_table *table, uint32_t *handle)
{
    for (;;) {
        *handle = table->queues[pt_are_new_to_go(table)].oldest;
        if (*handle == 0)
            return NULL;
        pt_block *block = pt_at(table, *handle);
        if (block->record_bytes != 0)
            return block;
        pt_remove(table, *handle);
    }
}

static inline bool pt_spare(pt_table *table)
{
    uint32_t handle;
    for (int spared = 0; spared < PT_SPARED_MAX; spared++) {
        pt_block *block = pt_next_to_go(table, &handle);
        if (block == NULL || block->uses == 0)
            return false;
        block->uses--;
        pt_keep(table, handle);
    }
    return true;
}

static inline const pt_block *pt_choose(pt_table *table, uint32_t *handle)
{
    pt_spare(table);
    return pt_next_to_go(table, handle);
}

static inline void pt_drop(pt_table *table, const uint8_t *key)
{
    uint32_t handle = pt_find_packet(table, key);
    if (handle != 0)
        pt_remove(table, handle);
}

static inline void pt_evict(pt_table *table, uint32_t handle)
{
    const pt_block *block = pt_at(table, handle);
    if (block->is_new)
        pt_ghost_add(&table->ghosts, pt_hash(table->secret, block->key));
    pt_remove(table, handle);
}

static inline pt_cursor pt_begin(const pt_table *table)
{
    return (pt_cursor){table->queues[true].oldest, 0};
}

static inline const pt_block *pt_next(const pt_table *table, pt_cursor *cursor)
{
    for (;;) {
        while (cursor->next != 0) {
            const pt_block *block = pt_at(table, cursor->next);
            cursor->next = block->newer;
            if (block->record_bytes != 0 && block->was_used == (cursor->part >= 2))
                return block;
        }
        if (cursor->part >= PT_CURSOR_PARTS - 1)
            return NULL;
        cursor->part++;
        cursor->next = table->queues[cursor->part % 2 == 0].oldest;
    }
}

static inline void pt_walk_begin(pt_table *table) { table->walker = pt_begin(table); }

static inline const pt_block *pt_walk_next(pt_table *table)
{
    return pt_next(table, &table->walker);
}

/* ---- Another size ---- */

#define PT_SPREAD_STEPS 512 /* links set in one go: some microseconds to some tens of them */

static inline pt_ghosts pt_resize(pt_table *table, uint64_t capacity)
{
    pt_ghosts others = {0};
    table->capacity = capacity;
    table->new_share = pt_new_share(capacity);
    uint32_t room = pt_ghosts_room(capacity, table->new_share);
    if (room == table->ghosts.room)
        return others;
    if (!pt_ghosts_init(&others, room))
        return others; /* no memory: those there are will do */
    pt_ghosts old = table->ghosts;
    table->ghosts = others;
    return old;
}

/* Spreads the chain of one bucket; how many links were set. */
static inline uint32_t pt_spread_chain(pt_table *table, uint32_t bucket)
{
    uint32_t handle = table->buckets[bucket], links = 0;
    for (uint64_t to = bucket; to <= table->bucket_mask; to += (uint64_t)table->spread_mask + 1) {
        table->buckets[to] = 0;
        links++;
    }
    while (handle != 0) {
        pt_block *block = pt_at(table, handle);
        uint32_t next = block->chain;
        uint32_t *to = &table->buckets[pt_hash(table->secret, block->key) & table->bucket_mask];
        block->chain = *to;
        *to = handle;
        handle = next;
        links++;
    }
    return links;
}

static inline bool pt_spread(pt_table *table)
{
    if (table->spread_mask == table->bucket_mask) {
        uint32_t buckets = pt_buckets_for(table->capacity);
        if (buckets - 1 <= table->bucket_mask)
            return false;
        uint32_t *grown = realloc(table->buckets, buckets * sizeof *grown);
        if (grown == NULL)
            return false; /* then it stays with longer chains */
        table->buckets = grown;
        table->bucket_mask = buckets - 1;
        return true;
    }
    for (uint32_t links = 0; links < PT_SPREAD_STEPS && table->spread <= table->spread_mask;)
        links += pt_spread_chain(table, table->spread++);
    if (table->spread > table->spread_mask) {
        table->spread_mask = table->bucket_mask;
        table->spread = 0;
    }
    return true;
}

/* ---- Reading ---- */

static inline const pt_block *pt_peek(const pt_table *table, const uint8_t *key)
{
    uint32_t handle = pt_find_packet(table, key);
    return handle != 0 ? pt_at(table, handle) : NULL;
}

static inline const pt_block *pt_get(pt_table *table, const uint8_t *key)
{
    uint32_t handle = pt_find_packet(table, key);
    if (handle == 0)
        return NULL;
    pt_use(table, pt_at(table, handle));
    return pt_at(table, handle);
}

static inline uint64_t pt_foresee(pt_table *table, const uint8_t *key)
{
    uint64_t hash = pt_hash(table->secret, key);
    pt_lock(table);
    __builtin_prefetch(pt_bucket_of(table, hash));
    pt_unlock(table);
    return hash;
}

static inline void pt_fetch(pt_table *table, uint64_t foreseen)
{
    pt_lock(table);
    uint32_t handle = *pt_bucket_of(table, foreseen);
    if (handle != 0) {
        const uint8_t *block = (const uint8_t *)pt_at(table, handle);
        for (size_t at = 0; at < PT_FETCH_BYTES; at += PT_LINE_BYTES)
            __builtin_prefetch(block + at);
    }
    pt_unlock(table);
}

static inline void pt_make_facts(pt_block *block)
{
    const uint8_t *payload = block->record + PT_SEEN_BYTES;
    size_t bytes = block->record_bytes - PT_SEEN_BYTES;
    pt_entity_tag(block->tag, payload, bytes);
    block->has_answers
        = pt_min_answer_ttl_s(payload + PT_DNS_AT, bytes - PT_DNS_AT, &block->ttl_s);
    block->has_facts = true;
}

static inline bool pt_lookup_locked(pt_table *table, const uint8_t *key, pt_packet *out)
{
    uint32_t handle = pt_find_packet(table, key);
    if (handle == 0)
        return false;
    pt_block *block = pt_at(table, handle);
    pt_use(table, block);
    if (!block->has_facts)
        pt_make_facts(block);
    const uint8_t *record = block->record;
    out->payload = record + PT_SEEN_BYTES;
    out->payload_bytes = block->record_bytes - PT_SEEN_BYTES;
    out->timestamp_us = pt_load_64_big(out->payload + PT_TIMESTAMP_AT);
    out->last_seen_us = pt_load_64_big(record);
    out->ttl_s = block->ttl_s;
    out->has_answers = block->has_answers;
    memcpy(out->tag, block->tag, PT_TAG_BYTES);
    return true;
}

static inline bool pt_lookup(pt_table *table, const uint8_t *key, pt_packet *out)
{
    return pt_lookup_locked(table, key, out);
}

static inline bool pt_lookup_copy(pt_table *table, const uint8_t *key, pt_packet *out,
                                  uint8_t *payload)
{
    pt_lock(table);
    bool found = pt_lookup_locked(table, key, out);
    if (found) {
        memcpy(payload, out->payload, out->payload_bytes);
        out->payload = payload;
    }
    pt_unlock(table);
    return found;
}

#endif
