/* Identifiers in numbered slots, and which of them are closest to a target.
 *
 * A slot holds compact node info, 26 bytes of which the first 20 are the identifier, in one of two
 * sets: preferred and ordinary. Each set is kept sorted. Identifiers that share a prefix lie side
 * by side then, and those on the target's side of the first bit in which a range differs are all
 * closer to it than the others: so ranges are halved by that bit, the near half first, until few
 * enough are left to sort. Some 20 comparisons for a target instead of one with every identifier.
 *
 * Allocates in di_init only. Twin: `IdTable` in relay/_pure/dht.py. */
#ifndef RELAY_DHT_IDS_H
#define RELAY_DHT_IDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define DI_ID_BYTES 20
#define DI_NODE_BYTES 26
#define DI_BITS 160
#define DI_SORTED_AT_ONCE 8

/* 160 bits as numbers, most significant first, whatever the machine's byte order. */
typedef struct {
    uint64_t high, middle;
    uint32_t low;
    uint32_t slot;
} di_member;

typedef enum { DI_ORDINARY, DI_PREFERRED, DI_SETS, DI_EMPTY = DI_SETS } di_state;

typedef struct {
    uint8_t node[DI_NODE_BYTES];
    uint8_t state;
} di_slot;

typedef struct {
    di_slot *slots;
    uint32_t capacity;
    uint32_t counts[DI_SETS];
    di_member *sets[DI_SETS]; /* by identifier and slot; room for `capacity` each */
} di_table;

static inline di_member di_read(const uint8_t *octets, uint32_t slot)
{
    di_member member = {0, 0, 0, slot};
    for (int i = 0; i < 8; i++)
        member.high = member.high << 8 | octets[i];
    for (int i = 8; i < 16; i++)
        member.middle = member.middle << 8 | octets[i];
    for (int i = 16; i < 20; i++)
        member.low = member.low << 8 | octets[i];
    return member;
}

static inline int di_compare(const di_member *left, const di_member *right)
{
    if (left->high != right->high)
        return left->high < right->high ? -1 : 1;
    if (left->middle != right->middle)
        return left->middle < right->middle ? -1 : 1;
    return left->low == right->low ? 0 : left->low < right->low ? -1 : 1;
}

static inline void di_clear_all(di_table *table)
{
    for (uint32_t slot = 0; slot < table->capacity; slot++)
        table->slots[slot].state = DI_EMPTY;
    table->counts[DI_ORDINARY] = table->counts[DI_PREFERRED] = 0;
}

static inline void di_free(di_table *table)
{
    free(table->slots), free(table->sets[DI_ORDINARY]), free(table->sets[DI_PREFERRED]);
    memset(table, 0, sizeof *table);
}

/* False: no memory. `capacity` is at least 1. */
static inline bool di_init(di_table *table, uint32_t capacity)
{
    memset(table, 0, sizeof *table);
    table->capacity = capacity;
    table->slots = calloc(capacity, sizeof *table->slots);
    for (int set = 0; set < DI_SETS; set++)
        table->sets[set] = calloc(capacity, sizeof *table->sets[set]);
    if (!table->slots || !table->sets[DI_ORDINARY] || !table->sets[DI_PREFERRED]) {
        di_free(table);
        return false;
    }
    di_clear_all(table);
    return true;
}

/* How many members of a set come before `member`; in order of identifier, then slot. */
static inline uint32_t di_rank(const di_table *table, int set, const di_member *member)
{
    uint32_t low = 0, high = table->counts[set];
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        const di_member *other = &table->sets[set][middle];
        int order = di_compare(other, member);
        if (order < 0 || (order == 0 && other->slot < member->slot))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* `slot` is below the capacity, here and in di_set. */
static inline void di_clear(di_table *table, uint32_t slot)
{
    int set = table->slots[slot].state;
    if (set == DI_EMPTY)
        return;
    di_member member = di_read(table->slots[slot].node, slot);
    di_member *place = &table->sets[set][di_rank(table, set, &member)];
    di_member *end = &table->sets[set][table->counts[set]--];
    memmove(place, place + 1, (size_t)(end - place - 1) * sizeof *place);
    table->slots[slot].state = DI_EMPTY;
}

static inline void di_set(di_table *table, uint32_t slot, const uint8_t *node, bool preferred)
{
    di_clear(table, slot);
    int set = preferred ? DI_PREFERRED : DI_ORDINARY;
    di_member member = di_read(node, slot);
    di_member *place = &table->sets[set][di_rank(table, set, &member)];
    di_member *end = &table->sets[set][table->counts[set]++];
    memmove(place + 1, place, (size_t)(end - place) * sizeof *place);
    *place = member;
    memcpy(table->slots[slot].node, node, DI_NODE_BYTES);
    table->slots[slot].state = (uint8_t)set;
}

/* Whether a slot holds exactly this node, identifier and address. */
static inline bool di_knows(const di_table *table, const uint8_t *node)
{
    di_member wanted = di_read(node, 0);
    for (int set = 0; set < DI_SETS; set++)
        for (uint32_t at = di_rank(table, set, &wanted); at < table->counts[set]; at++) {
            const di_member *member = &table->sets[set][at];
            if (di_compare(member, &wanted) != 0)
                break;
            if (memcmp(table->slots[member->slot].node, node, DI_NODE_BYTES) == 0)
                return true;
        }
    return false;
}

/* ---- Closest ---- */

/* The first bit in which two identifiers differ, counted from the most significant. */
static inline int di_first_difference(const di_member *left, const di_member *right)
{
    if (left->high != right->high)
        return __builtin_clzll(left->high ^ right->high);
    if (left->middle != right->middle)
        return 64 + __builtin_clzll(left->middle ^ right->middle);
    if (left->low != right->low)
        return 128 + __builtin_clz(left->low ^ right->low);
    return DI_BITS;
}

static inline bool di_bit(const di_member *member, int bit)
{
    if (bit < 64)
        return member->high >> (63 - bit) & 1;
    if (bit < 128)
        return member->middle >> (127 - bit) & 1;
    return member->low >> (159 - bit) & 1;
}

/* Puts the slots of all `count` members in order of distance; equal ones stay as they are. */
static inline uint32_t di_sort(const di_member *members, uint32_t count, const di_member *target,
                               uint32_t *out, uint32_t wanted)
{
    di_member sorted[DI_SORTED_AT_ONCE];
    for (uint32_t i = 0; i < count; i++) {
        di_member distance = {
            members[i].high ^ target->high, members[i].middle ^ target->middle,
            members[i].low ^ target->low, members[i].slot,
        };
        uint32_t at = i;
        for (; at > 0 && di_compare(&distance, &sorted[at - 1]) < 0; at--)
            sorted[at] = sorted[at - 1];
        sorted[at] = distance;
    }
    if (count > wanted)
        count = wanted;
    for (uint32_t i = 0; i < count; i++)
        out[i] = sorted[i].slot;
    return count;
}

/* The slots of at most `wanted` members of a sorted range, closest first; returns how many.
 * Each call of itself has a range that shares at least one bit more: 160 deep at most. */
static inline uint32_t di_collect(const di_member *members, uint32_t count,
                                  const di_member *target, uint32_t *out, uint32_t wanted)
{
    uint32_t found = 0;
    while (count > DI_SORTED_AT_ONCE && found < wanted) {
        int bit = di_first_difference(&members[0], &members[count - 1]);
        if (bit == DI_BITS) { /* all equal */
            while (count > 0 && found < wanted)
                out[found++] = members++->slot, count--;
            return found;
        }
        uint32_t split = 1, high = count - 1; /* the first member with that bit set */
        while (split < high) {
            uint32_t middle = (split + high) / 2;
            if (di_bit(&members[middle], bit))
                high = middle;
            else
                split = middle + 1;
        }
        bool ones = di_bit(target, bit);
        const di_member *near = ones ? members + split : members;
        uint32_t near_count = ones ? count - split : split;
        found += di_collect(near, near_count, target, out + found, wanted - found);
        members = ones ? members : members + split;
        count -= near_count;
    }
    if (found < wanted)
        found += di_sort(members, count, target, out + found, wanted - found);
    return found;
}

/* Fills `out` with at most `wanted` slots: preferred ones first, then by distance to `target`;
 * equal identifiers in the order of their slots. Returns how many. */
static inline uint32_t di_closest(const di_table *table, const uint8_t *target, uint32_t *out,
                                  uint32_t wanted)
{
    di_member centre = di_read(target, 0);
    uint32_t found = di_collect(table->sets[DI_PREFERRED], table->counts[DI_PREFERRED], &centre,
                                out, wanted);
    return found + di_collect(table->sets[DI_ORDINARY], table->counts[DI_ORDINARY], &centre,
                              out + found, wanted - found);
}

#endif
