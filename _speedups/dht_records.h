/* Records under 20-byte targets, least recently used first out. Memory: at most `capacity`
 * records of DR_RECORD_MAX bytes, asked for record by record; the rest on first use.
 * The hash is keyed: strangers choose targets. Twin: `RecordTable` in relay/_pure/dht.py. */
#ifndef RELAY_DHT_RECORDS_H
#define RELAY_DHT_RECORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "siphash.h"

#define DR_TARGET_BYTES 20
#define DR_RECORD_MAX 1280 /* a mutable item with the longest salt and value has 1174 */
#define DR_NONE UINT32_MAX

typedef struct {
    uint8_t target[DR_TARGET_BYTES];
    uint32_t chain;        /* the next of the bucket, or of the unused entries */
    uint32_t newer, older; /* in the order of use */
    uint32_t size;
    uint8_t *record;
} dr_entry;

typedef struct {
    uint64_t key[2];
    uint32_t capacity, count;
    uint32_t newest, oldest, unused;
    uint32_t bucket_mask;
    uint32_t *buckets; /* NULL until the first record */
    dr_entry *entries;
} dr_table;

/* `capacity` is at least 1 and below 2^30. */
static inline void dr_init(dr_table *table, uint32_t capacity, const uint64_t key[2])
{
    memset(table, 0, sizeof *table);
    memcpy(table->key, key, sizeof table->key);
    table->capacity = capacity;
    table->newest = table->oldest = table->unused = DR_NONE;
}

static inline void dr_free(dr_table *table)
{
    if (table->entries)
        for (uint32_t at = table->newest; at != DR_NONE; at = table->entries[at].older)
            free(table->entries[at].record);
    free(table->entries), free(table->buckets);
    memset(table, 0, sizeof *table);
}

static inline uint32_t *dr_bucket(const dr_table *table, const uint8_t *target)
{
    return &table->buckets[sh_hash(table->key, target, DR_TARGET_BYTES, 1, 3)
                           & table->bucket_mask];
}

/* The link that names the entry of `target`, or the DR_NONE at the end of its chain. */
static inline uint32_t *dr_link(const dr_table *table, const uint8_t *target)
{
    uint32_t *link = dr_bucket(table, target);
    while (*link != DR_NONE && memcmp(table->entries[*link].target, target, DR_TARGET_BYTES) != 0)
        link = &table->entries[*link].chain;
    return link;
}

static inline void dr_detach(dr_table *table, uint32_t at)
{
    dr_entry *entry = &table->entries[at];
    *(entry->newer == DR_NONE ? &table->newest : &table->entries[entry->newer].older)
        = entry->older;
    *(entry->older == DR_NONE ? &table->oldest : &table->entries[entry->older].newer)
        = entry->newer;
}

static inline void dr_attach_newest(dr_table *table, uint32_t at)
{
    dr_entry *entry = &table->entries[at];
    entry->newer = DR_NONE;
    entry->older = table->newest;
    *(table->newest == DR_NONE ? &table->oldest : &table->entries[table->newest].newer) = at;
    table->newest = at;
}

/* Looks without using: the order stays. */
static inline const dr_entry *dr_peek(const dr_table *table, const uint8_t *target)
{
    uint32_t at = table->count ? *dr_link(table, target) : DR_NONE;
    return at == DR_NONE ? NULL : &table->entries[at];
}

static inline const dr_entry *dr_get(dr_table *table, const uint8_t *target)
{
    const dr_entry *entry = dr_peek(table, target);
    if (entry && entry->newer != DR_NONE) {
        uint32_t at = (uint32_t)(entry - table->entries);
        dr_detach(table, at);
        dr_attach_newest(table, at);
    }
    return entry;
}

static inline bool dr_prepare(dr_table *table)
{
    uint32_t places = 2;
    while (places < table->capacity)
        places *= 2;
    table->entries = calloc(table->capacity, sizeof *table->entries);
    table->buckets = malloc(places * sizeof *table->buckets);
    if (!table->entries || !table->buckets) {
        free(table->entries), free(table->buckets);
        table->entries = NULL, table->buckets = NULL;
        return false;
    }
    memset(table->buckets, 0xff, places * sizeof *table->buckets); /* DR_NONE */
    table->bucket_mask = places - 1;
    for (uint32_t at = 0; at < table->capacity; at++)
        table->entries[at].chain = at + 1 < table->capacity ? at + 1 : DR_NONE;
    table->unused = 0;
    return true;
}

static inline void dr_drop_oldest(dr_table *table)
{
    uint32_t at = table->oldest;
    dr_entry *entry = &table->entries[at];
    *dr_link(table, entry->target) = entry->chain;
    dr_detach(table, at);
    free(entry->record);
    entry->record = NULL;
    entry->chain = table->unused;
    table->unused = at;
    table->count--;
}

/* Puts a record of at most DR_RECORD_MAX bytes in place of the target's; false: no memory. */
static inline bool dr_put(dr_table *table, const uint8_t *target, const uint8_t *record,
                          uint32_t size)
{
    if (!table->entries && !dr_prepare(table))
        return false;
    uint8_t *copy = malloc(size ? size : 1);
    if (!copy)
        return false;
    memcpy(copy, record, size);
    uint32_t at = *dr_link(table, target);
    if (at != DR_NONE) {
        free(table->entries[at].record);
        dr_detach(table, at);
    } else {
        if (table->count == table->capacity)
            dr_drop_oldest(table);
        at = table->unused;
        dr_entry *entry = &table->entries[at];
        table->unused = entry->chain;
        memcpy(entry->target, target, DR_TARGET_BYTES);
        uint32_t *bucket = dr_bucket(table, target);
        entry->chain = *bucket;
        *bucket = at;
        table->count++;
    }
    table->entries[at].record = copy;
    table->entries[at].size = size;
    dr_attach_newest(table, at);
    return true;
}

#endif
