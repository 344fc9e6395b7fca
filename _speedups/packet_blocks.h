/* The blocks of the packet table: how they lie in memory, are found, and stand in queues.
 *
 * A packet is one block: links, facts, record. Blocks of one size, in steps of 16 bytes, lie in
 * pages without gaps: the last one is moved into the place of one that goes. So memory is that
 * of the packets and less than a page for each size, whatever order they come and go in.
 *
 * Pages come from chunks as large as a huge page of the system: with a million packets a fourth
 * of a look-up is finding out where small ones lie. The system is asked for huge pages only when
 * a chunk is in use, and makes them in the background, some eight in ten seconds, or when a thread
 * that has the time asks for it (pt_collapse): one that had to be made at once took up to 9 ms. Nothing goes back to the system.
 *
 * A handle names a block by its page and where in the page it begins; 0 is none. All links are
 * handles, and whoever moves a block mends those to it. Places held for expected packets are
 * blocks without a record, the only ones of their size.
 *
 * The hash is keyed: who publishes may choose keys. Its buckets are laid out for the capacity, as
 * zero pages that cost nothing until they are used; more packets than `capacity` make the chains
 * longer, no more. For a larger capacity there are to be more of them: then the chains are spread
 * over the new ones a few at a time (linear hashing), those of the buckets below `spread` first.
 * They never become fewer. */
#ifndef RELAY_PACKET_BLOCKS_H
#define RELAY_PACKET_BLOCKS_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "packet_facts.h" /* PT_TAG_BYTES, and how to read numbers */
#include "packet_ghosts.h"
#include "siphash.h"

#define PT_KEY_BYTES 32
#define PT_SEEN_BYTES 8 /* a record is the time it was last seen, and the payload */
#define PT_TIMESTAMP_AT 64 /* in the payload */
#define PT_DNS_AT 72
#define PT_PAYLOAD_MIN PT_DNS_AT
#define PT_PAYLOAD_MAX (PT_DNS_AT + 1000)
#define PT_RECORD_MIN (PT_SEEN_BYTES + PT_PAYLOAD_MIN)
#define PT_RECORD_MAX (PT_SEEN_BYTES + PT_PAYLOAD_MAX)

#define PT_UNIT 16
#define PT_PAGE_BYTES 65536
#define PT_PAGE_UNITS_LOG 12
#define PT_PAGE_UNITS (1u << PT_PAGE_UNITS_LOG)
#define PT_PAGES_MAX (1u << (32 - PT_PAGE_UNITS_LOG)) /* 64 GiB */
#define PT_CHUNK_PAGES_LOG 5
#define PT_CHUNK_PAGES (1u << PT_CHUNK_PAGES_LOG)
#define PT_CHUNK_UNITS_LOG (PT_PAGE_UNITS_LOG + PT_CHUNK_PAGES_LOG)
#define PT_CHUNK_BYTES ((size_t)PT_CHUNK_PAGES * PT_PAGE_BYTES) /* 2 MiB */
#define PT_USES_MAX 3
#define PT_BUCKETS_MIN (1u << 8)
#define PT_BUCKETS_MAX (1u << 26)

typedef struct {
    uint8_t key[PT_KEY_BYTES];
    uint8_t tag[PT_TAG_BYTES]; /* with has_facts */
    uint32_t ttl_s;            /* with has_facts */
    uint32_t chain;            /* the next of the bucket */
    uint32_t newer, older;     /* in its queue */
    uint16_t record_bytes;     /* 0: an expected packet's place */
    bool has_answers : 1;      /* with has_facts */
    bool has_facts : 1;        /* made when somebody first asks for them */
    bool is_new : 1;           /* in the queue of the new ones */
    bool was_used : 1;         /* ever, since it is here */
    uint8_t uses;              /* how often it will be spared, at most PT_USES_MAX */
    uint8_t record[];
} pt_block;

#define PT_UNITS(record_bytes) ((sizeof(pt_block) + (record_bytes) + PT_UNIT - 1) / PT_UNIT)
#define PT_PLACE_UNITS PT_UNITS(0)
#define PT_UNITS_MAX PT_UNITS(PT_RECORD_MAX)

/* All blocks of one size. */
typedef struct {
    uint32_t *pages; /* their numbers; the blocks fill them in this order */
    uint32_t pages_used, pages_room;
    uint32_t count;  /* of blocks */
} pt_class;

typedef struct {
    uint32_t newest, oldest;
    uint32_t count; /* of blocks */
} pt_queue;

/* Where a walk over all blocks is: before `next`, which is 0 at the end of a part. */
typedef struct {
    uint32_t next;
    int part; /* new ones never used, kept ones never used, new ones used, kept ones used */
} pt_cursor;

#define PT_CURSOR_PARTS 4

typedef struct {
    pthread_mutex_t mutex;
    bool shared;
    uint64_t waits;
    uint64_t secret[2];
    uint64_t capacity;
    uint64_t changes;
    uint32_t *buckets;
    uint32_t bucket_mask;
    uint32_t spread_mask;      /* of the buckets there were before; else that of all */
    uint32_t spread;           /* below it, chains have been spread over the new buckets */
    uint32_t count;            /* of blocks, packets' and places */
    uint32_t new_share;        /* with more new ones than that they go first */
    pt_queue queues[2];        /* by is_new */
    pt_ghosts ghosts;
    pt_cursor walker;
    uint32_t pages_made;       /* numbered from 1 on, so that no handle is 0 */
    uint32_t free_page;        /* first of a list through the first bytes of pages; 0: none */
    uint32_t chunks_made, chunks_room;
    uint8_t **chunks;          /* chunk i has the pages from number i * PT_CHUNK_PAGES on */
    pt_class classes[PT_UNITS_MAX + 1]; /* by units of the block */
} pt_table;

static inline pt_block *pt_at(const pt_table *table, uint32_t handle)
{
    return (pt_block *)(table->chunks[handle >> PT_CHUNK_UNITS_LOG]
                        + (size_t)(handle & ((1u << PT_CHUNK_UNITS_LOG) - 1)) * PT_UNIT);
}

/* ---- Finding ---- */

static inline uint64_t pt_hash(const uint64_t secret[2], const uint8_t *key)
{
    return sh_hash(secret, key, PT_KEY_BYTES, 1, 3);
}

static inline uint32_t *pt_bucket_of(const pt_table *table, uint64_t hash)
{
    uint32_t before = hash & table->spread_mask;
    return &table->buckets[before < table->spread ? hash & table->bucket_mask : before];
}

static inline uint32_t *pt_bucket(const pt_table *table, const uint8_t *key)
{
    return pt_bucket_of(table, pt_hash(table->secret, key));
}

static inline uint32_t pt_find(const pt_table *table, const uint8_t *key)
{
    uint32_t handle = *pt_bucket(table, key);
    while (handle != 0) {
        const pt_block *block = pt_at(table, handle);
        if (memcmp(block->key, key, PT_KEY_BYTES) == 0)
            break;
        handle = block->chain;
    }
    return handle;
}

static inline uint32_t pt_find_packet(const pt_table *table, const uint8_t *key)
{
    uint32_t handle = pt_find(table, key);
    return handle != 0 && pt_at(table, handle)->record_bytes != 0 ? handle : 0;
}

/* The link of the bucket's chain that leads to a block. */
static inline uint32_t *pt_link_to(const pt_table *table, uint32_t handle)
{
    uint32_t *link = pt_bucket(table, pt_at(table, handle)->key);
    while (*link != handle)
        link = &pt_at(table, *link)->chain;
    return link;
}

/* ---- Queues ---- */

static inline pt_queue *pt_queue_of(pt_table *table, const pt_block *block)
{
    return &table->queues[block->is_new];
}

/* `like` is a block of the same queue. */
static inline void pt_set_newer(pt_table *table, const pt_block *like, uint32_t of, uint32_t newer)
{
    if (of != 0)
        pt_at(table, of)->newer = newer;
    else
        pt_queue_of(table, like)->oldest = newer;
}

static inline void pt_set_older(pt_table *table, const pt_block *like, uint32_t of, uint32_t older)
{
    if (of != 0)
        pt_at(table, of)->older = older;
    else
        pt_queue_of(table, like)->newest = older;
}

static inline void pt_take_out(pt_table *table, uint32_t handle)
{
    const pt_block *block = pt_at(table, handle);
    if (table->walker.next == handle)
        table->walker.next = block->newer;
    pt_set_newer(table, block, block->older, block->newer);
    pt_set_older(table, block, block->newer, block->older);
    pt_queue_of(table, block)->count--;
    table->changes++;
}

static inline void pt_put_newest(pt_table *table, uint32_t handle, bool is_new)
{
    pt_block *block = pt_at(table, handle);
    block->is_new = is_new;
    block->newer = 0;
    block->older = pt_queue_of(table, block)->newest;
    pt_set_newer(table, block, block->older, handle);
    pt_queue_of(table, block)->newest = handle;
    pt_queue_of(table, block)->count++;
    table->changes++;
}

/* For what comes from the disk, which has been kept before. */
static inline void pt_put_oldest(pt_table *table, uint32_t handle)
{
    pt_block *block = pt_at(table, handle);
    block->is_new = false;
    block->older = 0;
    block->newer = table->queues[false].oldest;
    pt_set_older(table, block, block->newer, handle);
    table->queues[false].oldest = handle;
    table->queues[false].count++;
    table->changes++;
}

/* Keeps a block: it becomes the newest of the kept ones. */
static inline void pt_keep(pt_table *table, uint32_t handle)
{
    const pt_block *block = pt_at(table, handle);
    /* A walk that is at the newest one already finds it there again. */
    bool stays = table->walker.next == handle && !block->is_new && block->newer == 0;
    pt_take_out(table, handle);
    pt_put_newest(table, handle, false);
    if (stays)
        table->walker.next = handle;
}

/* Only the block itself is written to, and that only until it has uses enough: moving it in an
 * order would touch two others, which lie anywhere. */
static inline void pt_use(pt_table *table, pt_block *block)
{
    if (block->uses == PT_USES_MAX)
        return;
    block->uses++;
    if (!block->was_used) {
        block->was_used = true;
        table->changes++;
    }
}

/* ---- Memory ---- */

/* An array made twice as large, `room` with it; NULL, and the array is as it was: no memory. */
static inline void *pt_grown(void *array, uint32_t *room, size_t element_bytes)
{
    uint32_t wanted = *room != 0 ? 2 * *room : 8;
    void *grown = realloc(array, wanted * element_bytes);
    if (grown != NULL)
        *room = wanted;
    return grown;
}

static inline bool pt_add_chunk(pt_table *table)
{
    if (table->chunks_made == table->chunks_room) {
        uint8_t **grown = pt_grown(table->chunks, &table->chunks_room, sizeof *grown);
        if (grown == NULL)
            return false;
        table->chunks = grown;
    }
    uint8_t *chunk = aligned_alloc(PT_CHUNK_BYTES, PT_CHUNK_BYTES);
    if (chunk == NULL)
        return false;
#ifdef MADV_HUGEPAGE
    if (table->chunks_made > 0) /* the one before is in use now; it does no harm to be refused */
        (void)madvise(table->chunks[table->chunks_made - 1], PT_CHUNK_BYTES, MADV_HUGEPAGE);
#endif
    table->chunks[table->chunks_made++] = chunk;
    return true;
}

#if defined(__linux__) && !defined(MADV_COLLAPSE)
#define MADV_COLLAPSE 25 /* since Linux 6.1 */
#endif

/* The chunk of a number; NULL for the last one, which is being filled, and beyond. It stays where
 * it is as long as the table lives. */
static inline void *pt_full_chunk(const pt_table *table, uint32_t number)
{
    return number + 1 < table->chunks_made ? table->chunks[number] : NULL;
}

/* Puts a chunk on a huge page now. Takes some 0.3 ms, for which a reader of the chunk may have
 * to wait; it does no harm to be refused. */
static inline void pt_collapse(void *chunk)
{
#ifdef MADV_COLLAPSE
    (void)madvise(chunk, PT_CHUNK_BYTES, MADV_COLLAPSE);
#else
    (void)chunk;
#endif
}

static inline void *pt_page(const pt_table *table, uint32_t page)
{
    return pt_at(table, page << PT_PAGE_UNITS_LOG);
}

/* The number of a page to use; 0: no memory. */
static inline uint32_t pt_new_page(pt_table *table)
{
    uint32_t page = table->free_page;
    if (page != 0) {
        memcpy(&table->free_page, pt_page(table, page), sizeof page);
        return page;
    }
    page = table->pages_made;
    if (page == PT_PAGES_MAX)
        return 0;
    if (page >> PT_CHUNK_PAGES_LOG == table->chunks_made && !pt_add_chunk(table))
        return 0;
    table->pages_made++;
    return page;
}

static inline uint32_t pt_handle(const pt_class *class, uint32_t position, uint32_t units)
{
    uint32_t in_page = PT_PAGE_UNITS / units;
    return class->pages[position / in_page] << PT_PAGE_UNITS_LOG | (position % in_page) * units;
}

/* A block of this size whose content is the caller's to set; 0: no memory. Moves nothing. */
static inline uint32_t pt_allocate(pt_table *table, uint32_t units)
{
    pt_class *class = &table->classes[units];
    if (class->count == class->pages_used * (PT_PAGE_UNITS / units)) {
        if (class->pages_used == class->pages_room) {
            uint32_t *grown = pt_grown(class->pages, &class->pages_room, sizeof *grown);
            if (grown == NULL)
                return 0;
            class->pages = grown;
        }
        uint32_t page = pt_new_page(table);
        if (page == 0)
            return 0;
        class->pages[class->pages_used++] = page;
    }
    return pt_handle(class, class->count++, units);
}

/* Makes all links to a block that was copied from `from` lead to `to`. */
static inline void pt_mend_links(pt_table *table, uint32_t from, uint32_t to)
{
    const pt_block *block = pt_at(table, to);
    *pt_link_to(table, from) = to; /* compares handles, and reads the key, which is still there */
    pt_set_newer(table, block, block->older, to);
    pt_set_older(table, block, block->newer, to);
    if (table->walker.next == from)
        table->walker.next = to;
}

/* Gives back a block that nothing links to: the last one of its size takes its place. */
static inline void pt_release(pt_table *table, uint32_t handle, uint32_t units)
{
    pt_class *class = &table->classes[units];
    uint32_t last = pt_handle(class, --class->count, units);
    if (last != handle) {
        memcpy(pt_at(table, handle), pt_at(table, last), (size_t)units * PT_UNIT);
        pt_mend_links(table, last, handle);
    }
    if (class->count % (PT_PAGE_UNITS / units) == 0) {
        uint32_t page = class->pages[--class->pages_used];
        memcpy(pt_page(table, page), &table->free_page, sizeof page);
        table->free_page = page;
    }
}

static inline void pt_remove(pt_table *table, uint32_t handle)
{
    const pt_block *block = pt_at(table, handle);
    pt_take_out(table, handle);
    *pt_link_to(table, handle) = block->chain;
    table->count--;
    pt_release(table, handle, (uint32_t)PT_UNITS(block->record_bytes));
}

#endif
