/* The packet table: what answers are made from. Bounded, ordered by last use, in memory.
 *
 * Plain C without any Python object, so that the front lane answers from it without the GIL.
 * Semantics are those of its pure twin in relay/store/table.py; the Python face is table.pyx.
 *
 * Another extension gets at a table through `PacketTable.capsule`, a PyCapsule named PT_CAPSULE
 * that holds a `pt_table *` and keeps the table alive, and includes this header: all functions
 * are static. The name ends in the version of the layout, so an extension built from another
 * version of this file is refused by PyCapsule_GetPointer.
 *
 *     pt_packet packet;
 *     if (pt_lookup(table, key, &packet)) ...    packet.payload, .tag, .ttl_s, .last_seen_us
 *
 * Threads. A table belongs to one thread, the one that holds the GIL, and takes no lock: until
 * `pt_share`, which comes before other threads start. From then on every function below locks
 * for its own duration, which is never longer than a few copies of one packet; a pointer into
 * the table is good only as long as the caller itself holds the lock (`pt_lock`, which is not
 * recursive: between it and `pt_unlock` only the functions named pt_*_locked may be called), so
 * other threads use `pt_lookup_copy`.
 */
#ifndef RELAY_PACKET_TABLE_H
#define RELAY_PACKET_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PT_CAPSULE "relay.packet_table.1"
#define PT_KEY_BYTES 32
#define PT_TAG_BYTES 16
#define PT_SEEN_BYTES 8 /* a record is the time it was last seen, and the payload */
#define PT_PAYLOAD_MIN 72
#define PT_PAYLOAD_MAX 1072
#define PT_RECORD_MIN (PT_SEEN_BYTES + PT_PAYLOAD_MIN)
#define PT_RECORD_MAX (PT_SEEN_BYTES + PT_PAYLOAD_MAX)

typedef struct pt_table pt_table;

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

/* Finds the packet of a key (32 bytes) and marks it as used now; O(1). False, and `out` is left
 * alone, if there is none, or only a place held for one that is not loaded yet.
 * `out->payload` points into the table: good until it is next changed (put, load, expect, evict,
 * forget_expected; looking up changes nothing). Only for a table that is not shared. */
static bool pt_lookup(pt_table *table, const uint8_t *key, pt_packet *out);

/* The same between `pt_lock` and `pt_unlock`; the pointer is good until `pt_unlock`. */
static bool pt_lookup_locked(pt_table *table, const uint8_t *key, pt_packet *out);

/* The same for any thread: locks, and copies the payload to `payload`, which has room for
 * PT_PAYLOAD_MAX bytes; `out->payload` is that copy. */
static bool pt_lookup_copy(pt_table *table, const uint8_t *key, pt_packet *out, uint8_t *payload);

/* From now on (or no longer) other threads look up too. Call while there are none. */
static void pt_share(pt_table *table, bool shared);

/* Keeps other threads out of a shared table; nothing at all where it is not shared. */
static void pt_lock(pt_table *table);
static void pt_unlock(pt_table *table);

/* How often `pt_lock` had to wait for another thread, since the start. */
static uint64_t pt_waits(pt_table *table);

#endif
