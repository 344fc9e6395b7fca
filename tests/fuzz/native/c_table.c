/* packet_table.h: a table against a plain list of what it must hold.
 *
 * An input is a byte of capacity, then steps of four bytes: an operation, a key's number, and the
 * size of a record. Nothing goes but what was dropped or chosen to go. */
#include <assert.h>
#include <stdlib.h>
#include "packet_table.h"

#define KEYS 48

enum { PUT, LOAD, EXPECT, GET, DROP, EVICT, RESIZE, SPREAD, WALK, FORGET, LOOK_UP, COPY, OPERATIONS };

typedef struct {
    uint8_t record[PT_RECORD_MAX];
    size_t bytes; /* 0: not there */
} held;

static void key_of(unsigned number, uint8_t key[PT_KEY_BYTES])
{
    memset(key, 0x55, PT_KEY_BYTES);
    key[0] = (uint8_t)number;
}

static void fill(held *entry, unsigned number, unsigned step, size_t bytes)
{
    entry->bytes = bytes;
    for (size_t i = 0; i < bytes; i++)
        entry->record[i] = (uint8_t)(number * 31 + step * 7 + i * (step & 3));
}

static void compare(pt_table *table, const held *model)
{
    uint64_t count = 0;
    for (unsigned number = 0; number < KEYS; number++) {
        uint8_t key[PT_KEY_BYTES];
        key_of(number, key);
        const pt_block *block = pt_peek(table, key);
        assert((block != NULL) == (model[number].bytes != 0));
        if (block) {
            assert(block->record_bytes == model[number].bytes);
            assert(!memcmp(block->record, model[number].record, model[number].bytes));
            count++;
        }
    }
    assert(pt_count(table) == count);
    pt_cursor cursor = pt_begin(table);
    while (pt_next(table, &cursor))
        count--;
    assert(count == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t secret[16] = {1, 2, 3};
    static held model[KEYS];
    if (size == 0)
        return 0;
    pt_table *table = pt_new(data[0], secret);
    assert(table);
    memset(model, 0, sizeof model);
    pt_share(table, data[0] & 1);
    unsigned step = 0;
    for (data++, size--; size >= 4 && step < 400; data += 4, size -= 4, step++) {
        unsigned number = data[1] % KEYS;
        size_t bytes = PT_RECORD_MIN + ((size_t)data[2] << 8 | data[3]) % (PT_RECORD_MAX - PT_RECORD_MIN + 1);
        uint8_t key[PT_KEY_BYTES];
        uint32_t handle;
        held entry;
        pt_ghosts forgotten;
        pt_packet packet;
        uint8_t payload[PT_PAYLOAD_MAX];
        const pt_block *block;
        key_of(number, key);
        if (data[0] % OPERATIONS == COPY) { /* it locks by itself */
            assert(pt_lookup_copy(table, key, &packet, payload) == (model[number].bytes != 0));
            if (model[number].bytes)
                assert(!memcmp(payload, model[number].record + PT_SEEN_BYTES, packet.payload_bytes));
            continue;
        }
        pt_lock(table);
        switch (data[0] % OPERATIONS) {
        case PUT:
            fill(&model[number], number, step, bytes);
            assert(pt_put(table, key, model[number].record, bytes) == PT_DONE);
            break;
        case LOAD:
            fill(&entry, number, step, bytes);
            if (pt_load(table, key, entry.record, bytes) == PT_DONE && !model[number].bytes)
                model[number] = entry;
            break;
        case EXPECT:
            (void)pt_expect(table, key);
            break;
        case GET:
            assert((pt_get(table, key) != NULL) == (model[number].bytes != 0));
            break;
        case DROP:
            pt_drop(table, key);
            model[number].bytes = 0;
            break;
        case EVICT:
            block = pt_choose(table, &handle);
            if (block) {
                model[block->key[0]].bytes = 0;
                pt_evict(table, handle);
            } else
                assert(pt_count(table) == 0);
            break;
        case RESIZE:
            forgotten = pt_resize(table, (uint64_t)data[2] * data[3]);
            pt_ghosts_clear(&forgotten);
            break;
        case SPREAD:
            (void)pt_spread(table);
            break;
        case WALK:
            if (number & 1)
                pt_walk_begin(table);
            for (unsigned i = 0; i < number; i++)
                if (!pt_walk_next(table))
                    break;
            break;
        case FORGET:
            pt_forget_expected(table);
            break;
        default:
            assert(pt_lookup_locked(table, key, &packet) == (model[number].bytes != 0));
        }
        pt_unlock(table);
        pt_fetch(table, pt_foresee(table, key));
        if (step % 16 == 0)
            compare(table, model);
    }
    compare(table, model);
    pt_free(table);
    return 0;
}
