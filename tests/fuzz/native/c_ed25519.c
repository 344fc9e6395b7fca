/* ed25519_verify.h: a batch accepts exactly what its members accept alone, by whichever method.
 *
 * An input is signatures: a size of message, key, signature, message; or, with a size above 63,
 * one that came before with an octet changed. The sums for large batches begin early here. */
#define ED_PIPPENGER_TERMS 24
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include "ed25519_verify.h"

#define ITEMS_MAX 40
#define ITEM_BYTES (32 + 64 + 64)

static uint8_t octets[ITEMS_MAX][ITEM_BYTES];
static ed_item items[ITEMS_MAX];

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int ready;
    uint8_t alone[ITEMS_MAX], together[ITEMS_MAX], coefficients[16 * ITEMS_MAX];
    size_t count = 0;
    if (!ready)
        ed_setup(), ready = 1;
    while (size >= 4 && count < ITEMS_MAX) {
        size_t head = data[0];
        if (head < 64) {
            size_t bytes = 96 + head < size - 1 ? 96 + head : size - 1;
            memset(octets[count], 0, ITEM_BYTES);
            memcpy(octets[count], data + 1, bytes);
            items[count].message_bytes = head;
            data += 1 + bytes, size -= 1 + bytes;
        } else {
            size_t other = count ? head % count : 0;
            if (count) {
                memcpy(octets[count], octets[other], ITEM_BYTES);
                items[count].message_bytes = items[other].message_bytes;
                octets[count][data[1] % ITEM_BYTES] ^= data[2];
            }
            data += 3, size -= 3;
            if (!count)
                continue;
        }
        items[count].public_key = octets[count];
        items[count].signature = octets[count] + 32;
        items[count].message = octets[count] + 96;
        count++;
    }
    for (size_t i = 0; i < count; i++) {
        alone[i] = (uint8_t)ed_verify(&items[i]);
        assert(!alone[i] || ed_is_point(items[i].public_key));
    }
    for (size_t i = 0; i < 16 * count; i++)
        coefficients[i] = (uint8_t)(i * 167 + 13 + (i >> 4) * 59);
    for (int lanes = 0; lanes < 2; lanes++) {
        ed_allow_lanes(lanes);
        assert(!ed_verify_batch(together, items, count, coefficients));
        assert(!memcmp(alone, together, count));
    }
    return 0;
}
