/* Ghosts: which keys were evicted lately without ever having been used, by the hash of each.
 *
 * A ring of the last evictions and chains through it. Numbers of places in the ring begin at 1.
 * Zero pages cost nothing until they are used; then a ghost takes 16 bytes. */
#ifndef RELAY_PACKET_GHOSTS_H
#define RELAY_PACKET_GHOSTS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#define PT_GHOSTS_MAX (1u << 24)
#define PT_NO_GHOST UINT32_MAX

typedef struct {
    uint64_t *hashes;
    uint32_t *chains;  /* the next of the bucket; PT_NO_GHOST: it has come back */
    uint32_t *buckets;
    uint32_t mask;
    uint32_t room;     /* for so many */
    uint32_t last;     /* where the last one was put */
    bool round;        /* every place has been used */
} pt_ghosts;

static inline bool pt_ghosts_init(pt_ghosts *ghosts, uint32_t room)
{
    uint32_t buckets = 1;
    ghosts->room = room;
    while (buckets < room)
        buckets *= 2;
    ghosts->mask = buckets - 1;
    ghosts->hashes = calloc((size_t)room + 1, sizeof *ghosts->hashes);
    ghosts->chains = calloc((size_t)room + 1, sizeof *ghosts->chains);
    ghosts->buckets = calloc(buckets, sizeof *ghosts->buckets);
    return ghosts->hashes != NULL && ghosts->chains != NULL && ghosts->buckets != NULL;
}

static inline void pt_ghosts_clear(pt_ghosts *ghosts)
{
    free(ghosts->hashes);
    free(ghosts->chains);
    free(ghosts->buckets);
}

/* Takes the ghost at `*link`, which leads to it, out of its chain. */
static inline void pt_ghost_out(pt_ghosts *ghosts, uint32_t *link)
{
    uint32_t place = *link;
    *link = ghosts->chains[place];
    ghosts->chains[place] = PT_NO_GHOST;
}

/* Remembers an eviction, and forgets the one that is `room` older. */
static inline void pt_ghost_add(pt_ghosts *ghosts, uint64_t hash)
{
    if (ghosts->room == 0)
        return;
    uint32_t place = ghosts->last == ghosts->room ? 1 : ghosts->last + 1;
    if (ghosts->round && ghosts->chains[place] != PT_NO_GHOST) {
        uint32_t *link = &ghosts->buckets[ghosts->hashes[place] & ghosts->mask];
        while (*link != place)
            link = &ghosts->chains[*link];
        pt_ghost_out(ghosts, link);
    }
    uint32_t *bucket = &ghosts->buckets[hash & ghosts->mask];
    ghosts->hashes[place] = hash;
    ghosts->chains[place] = *bucket;
    *bucket = place;
    ghosts->last = place;
    ghosts->round |= place == ghosts->room;
}

/* Whether a key was evicted lately; it is forgotten by that. */
static inline bool pt_ghost_take(pt_ghosts *ghosts, uint64_t hash)
{
    uint32_t *link = &ghosts->buckets[hash & ghosts->mask];
    while (*link != 0 && ghosts->hashes[*link] != hash)
        link = &ghosts->chains[*link];
    if (*link == 0)
        return false;
    pt_ghost_out(ghosts, link);
    return true;
}

#endif
