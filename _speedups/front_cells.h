/* The rate limiter's cells: GCRA for many clients in bounded memory. Twin: relay/gcra.py, which
 * tells how it works; here only what differs in the means.
 *
 * Exact like the twin, in nanoseconds of 128 bits: a burst of 2^32 days overflows 64. A cell lies
 * in `cells`, is found through `index` (open addressing, a keyed hash: clients choose addresses)
 * and has one entry in the heap `oldest`, under a lower bound of its arrival time.
 *
 * Belongs to one thread. Allocates only in fc_init and when the number of clients doubles; where
 * that fails it goes on with the room it has.
 */
#ifndef RELAY_FRONT_CELLS_H
#define RELAY_FRONT_CELLS_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define FC_KEY_BYTES 16
#define FC_FORGET_PER_CHECK 2
#define FC_CELLS_AT_FIRST 64
#define FC_NONE UINT32_MAX
#define FC_NS INT64_C(1000000000)

typedef __int128 fc_ns;

/* A client: 4 bytes for an IPv4 address, 16 for an IPv6 prefix, none for a local peer. */
typedef struct {
    uint8_t octets[FC_KEY_BYTES]; /* zero beyond `size` */
    uint8_t size;
} fc_key;

typedef struct {
    fc_ns arrival; /* TAT */
    fc_key key;
} fc_cell;

typedef struct {
    fc_ns bound;
    uint64_t serial; /* breaks ties */
    uint32_t cell;
} fc_entry;

typedef struct {
    fc_ns interval, tolerance;
    uint32_t burst;
    uint32_t max_keys, count, capacity; /* count <= capacity <= max_keys */
    uint64_t serial, seed[2];
    fc_cell *cells;
    uint32_t *free; /* capacity - count unused cells */
    fc_entry *oldest;
    uint32_t *index; /* cell or FC_NONE; at least twice `capacity` places */
    uint32_t mask;
} fc_table;

typedef struct {
    bool allowed;
    uint32_t remaining; /* at most burst - 1 */
    fc_ns wait;         /* until the next one is allowed; 0 when this one was */
} fc_decision;

static inline uint32_t fc_hash(const uint64_t seed[2], const fc_key *key)
{
    uint64_t words[2];
    memcpy(words, key->octets, sizeof words);
    words[1] += key->size;
    unsigned __int128 mixed = (unsigned __int128)(words[0] ^ seed[0]) * (words[1] ^ seed[1]);
    uint64_t folded = (uint64_t)mixed ^ (uint64_t)(mixed >> 64);
    mixed = (unsigned __int128)(folded ^ seed[1]) * UINT64_C(0xe7037ed1a0b428db);
    return (uint32_t)((uint64_t)mixed ^ (uint64_t)(mixed >> 64));
}

static inline bool fc_same(const fc_key *left, const fc_key *right)
{
    return left->size == right->size && memcmp(left->octets, right->octets, FC_KEY_BYTES) == 0;
}

/* The place of a key in the index, or the empty place where it would stand. */
static inline uint32_t fc_place(const fc_table *table, const fc_key *key)
{
    uint32_t place = fc_hash(table->seed, key) & table->mask;
    while (table->index[place] != FC_NONE && !fc_same(&table->cells[table->index[place]].key, key))
        place = (place + 1) & table->mask;
    return place;
}

static inline bool fc_grow(fc_table *table)
{
    uint32_t capacity = table->capacity ? table->capacity * 2 : FC_CELLS_AT_FIRST;
    if (capacity > table->max_keys)
        capacity = table->max_keys;
    uint32_t places = 2;
    while (places < 2 * (uint64_t)capacity)
        places *= 2;
    uint32_t *index = malloc(places * sizeof *index);
    uint32_t *unused = malloc(capacity * sizeof *unused);
    fc_cell *cells = malloc(capacity * sizeof *cells);
    fc_entry *oldest = malloc(capacity * sizeof *oldest);
    if (!index || !unused || !cells || !oldest) {
        free(index), free(unused), free(cells), free(oldest);
        return false;
    }
    if (table->count) { /* full: every cell is used */
        memcpy(cells, table->cells, table->count * sizeof *cells);
        memcpy(oldest, table->oldest, table->count * sizeof *oldest);
    }
    free(table->index), free(table->free), free(table->cells), free(table->oldest);
    table->index = index, table->free = unused, table->cells = cells, table->oldest = oldest;
    table->mask = places - 1;
    for (uint32_t place = 0; place < places; place++)
        index[place] = FC_NONE;
    for (uint32_t cell = 0; cell < table->count; cell++)
        index[fc_place(table, &cells[cell].key)] = cell;
    for (uint32_t cell = table->count; cell < capacity; cell++)
        unused[capacity - 1 - cell] = cell;
    table->capacity = capacity;
    return true;
}

/* False: no memory. `interval` in ns, `burst` and `max_keys` at least 1. */
static inline bool fc_init(fc_table *table, int64_t interval, uint32_t burst, uint32_t max_keys,
                    const uint64_t seed[2])
{
    memset(table, 0, sizeof *table);
    table->interval = interval;
    table->tolerance = (fc_ns)(burst - 1) * interval;
    table->burst = burst;
    table->max_keys = max_keys;
    memcpy(table->seed, seed, sizeof table->seed);
    return fc_grow(table);
}

static inline void fc_clear(fc_table *table)
{
    free(table->index), free(table->free), free(table->cells), free(table->oldest);
    memset(table, 0, sizeof *table);
}

/* ---- The heap ---- */

static inline bool fc_before(const fc_entry *left, const fc_entry *right)
{
    return left->bound != right->bound ? left->bound < right->bound : left->serial < right->serial;
}

static inline void fc_sink(fc_table *table, fc_entry entry, uint32_t count)
{
    uint32_t at = 0;
    for (uint32_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && fc_before(&table->oldest[child + 1], &table->oldest[child]))
            child++;
        if (!fc_before(&table->oldest[child], &entry))
            break;
        table->oldest[at] = table->oldest[child];
    }
    table->oldest[at] = entry;
}

static inline void fc_rise(fc_table *table, fc_entry entry, uint32_t at)
{
    while (at && fc_before(&entry, &table->oldest[(at - 1) / 2])) {
        table->oldest[at] = table->oldest[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    table->oldest[at] = entry;
}

/* ---- Remembering and forgetting ---- */

static inline void fc_unlink(fc_table *table, uint32_t cell)
{
    uint32_t hole = fc_place(table, &table->cells[cell].key);
    for (uint32_t place = hole;;) {
        place = (place + 1) & table->mask;
        if (table->index[place] == FC_NONE)
            break;
        uint32_t home = fc_hash(table->seed, &table->cells[table->index[place]].key) & table->mask;
        if (((place - home) & table->mask) >= ((place - hole) & table->mask)) {
            table->index[hole] = table->index[place];
            hole = place;
        }
    }
    table->index[hole] = FC_NONE;
}

static inline void fc_drop_or_correct_top(fc_table *table)
{
    fc_entry top = table->oldest[0];
    if (table->cells[top.cell].arrival != top.bound) {
        top.bound = table->cells[top.cell].arrival;
        fc_sink(table, top, table->count);
        return;
    }
    fc_unlink(table, top.cell);
    table->count--;
    table->free[table->capacity - table->count - 1] = top.cell;
    if (table->count)
        fc_sink(table, table->oldest[table->count], table->count);
}

static inline void fc_forget(fc_table *table, fc_ns now)
{
    for (int step = 0; step < FC_FORGET_PER_CHECK; step++) {
        if (!table->count || table->oldest[0].bound > now)
            return;
        fc_drop_or_correct_top(table);
    }
}

static inline void fc_remember(fc_table *table, const fc_key *key, fc_ns arrival)
{
    if (table->count == table->capacity && (table->capacity == table->max_keys || !fc_grow(table)))
        while (table->count == table->capacity)
            fc_drop_or_correct_top(table);
    uint32_t cell = table->free[table->capacity - table->count - 1];
    table->cells[cell] = (fc_cell){arrival, *key};
    table->index[fc_place(table, key)] = cell;
    fc_rise(table, (fc_entry){arrival, ++table->serial, cell}, table->count++);
}

/* ---- Deciding ---- */

/* As the twin rounds: half to even. Seconds far beyond any clock's. */
static inline fc_ns fc_from_s(double seconds)
{
    return (fc_ns)nearbyint(seconds * (double)FC_NS);
}

static inline uint64_t fc_high(fc_ns value)
{
    return (uint64_t)(value >> 64);
}

static inline uint64_t fc_low(fc_ns value)
{
    return (uint64_t)value;
}

static inline fc_ns fc_early(const fc_table *table, uint32_t cell, fc_ns now)
{
    return (cell == FC_NONE ? now : table->cells[cell].arrival) - table->tolerance - now;
}

/* What fc_check would say if it says no, else `allowed`; changes nothing. */
static inline fc_decision fc_foresee(const fc_table *table, const fc_key *key, fc_ns now)
{
    fc_ns early = fc_early(table, table->index[fc_place(table, key)], now);
    return (fc_decision){early <= 0, 0, early > 0 ? early : 0};
}

/* Counts one request; a refused one costs nothing. */
static inline fc_decision fc_check(fc_table *table, const fc_key *key, fc_ns now)
{
    fc_forget(table, now);
    uint32_t cell = table->index[fc_place(table, key)];
    fc_ns early = fc_early(table, cell, now);
    if (early > 0)
        return (fc_decision){false, 0, early};
    fc_ns arrival = cell == FC_NONE ? now : table->cells[cell].arrival;
    arrival = (arrival > now ? arrival : now) + table->interval;
    if (cell == FC_NONE)
        fc_remember(table, key, arrival);
    else
        table->cells[cell].arrival = arrival;
    fc_ns left = now + table->tolerance + table->interval - arrival;
    return (fc_decision){true, (uint32_t)(left / table->interval), 0};
}

#endif
