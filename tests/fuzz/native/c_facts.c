/* packet_facts.h: no byte beyond a message's end decides what its TTL is. */
#include <assert.h>
#include <stdlib.h>
#include "packet_facts.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t tag[PT_TAG_BYTES], again[PT_TAG_BYTES];
    uint32_t ttl_s, ttl_again_s;
    uint8_t *longer = malloc(size + 64);
    assert(longer);
    memcpy(longer, data, size);
    memset(longer + size, 0xff, 64);
    bool has_answers = pt_min_answer_ttl_s(data, size, &ttl_s);
    assert(has_answers == pt_min_answer_ttl_s(longer, size, &ttl_again_s) && ttl_s == ttl_again_s);
    assert(has_answers || ttl_s == 0);
    pt_entity_tag(tag, data, size);
    pt_entity_tag(again, longer, size);
    assert(!memcmp(tag, again, sizeof tag));
    free(longer);
    return 0;
}
