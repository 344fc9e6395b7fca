/* front_parse.h: the beginning of a connection is one of our requests, may become one, or is
 * handed over; which of them does not depend on how the bytes were cut into pieces.
 *
 * The same for whose budget it draws on (front_forwarded.h), under all kinds of rules. */
#include <arpa/inet.h>
#include <assert.h>
#include <stdlib.h>
#include "front_forwarded.h"

static void within(fr_slice slice, const uint8_t *data, size_t size)
{
    assert(slice.at == NULL
           || (slice.at >= data && slice.size <= size && (size_t)(slice.at - data) <= size - slice.size));
}

/* Reads the first `size` bytes from memory that ends with them. */
static fr_verdict parse_alone(const uint8_t *data, size_t size, fr_request *request)
{
    uint8_t *alone = malloc(size);
    assert(alone);
    memcpy(alone, data, size);
    fr_verdict verdict = fr_parse(alone, size, request);
    free(alone);
    return verdict;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fr_request request, part;
    if (size == 0)
        return 0;
    fr_verdict verdict = fr_parse(data, size, &request);
    /* Once it is clear that it is none of ours, more bytes change nothing; before the end of the
     * head nothing is decided for it. */
    fr_verdict before = FR_MORE;
    for (size_t bytes = 1; bytes <= size; bytes += bytes < 64 || size - bytes < 64 ? 1 : 7) {
        fr_verdict now = parse_alone(data, bytes, &part);
        assert(before == FR_MORE || now == before);
        if (now == FR_REQUEST)
            assert(verdict == FR_REQUEST && bytes >= request.head_bytes
                   && part.head_bytes == request.head_bytes);
        before = now;
    }
    assert(parse_alone(data, size, &part) == verdict);
    if (verdict != FR_REQUEST)
        return 0;
    assert(request.head_bytes <= size && request.head_bytes <= FR_HEAD_MAX);
    assert(request.body_bytes <= (request.method == FR_PUT ? FR_BODY_MAX : 0));
    assert(request.has_key || request.method != FR_PUT);
    assert(!memcmp(data + request.head_bytes - 4, "\r\n\r\n", 4));
    within(request.origin, data, request.head_bytes);
    within(request.none_match, data, request.head_bytes);
    within(request.since, data, request.head_bytes);
    for (unsigned i = 0; i < request.forwarded && i < FR_FORWARDED_MAX; i++)
        within(request.hops[i].value, data, request.head_bytes);
    assert(parse_alone(data, request.head_bytes, &part) == FR_REQUEST);
    assert(part.has_key == request.has_key && !memcmp(part.key, request.key, FR_KEY_BYTES));
    static const uint8_t peer_octets[4] = {10, 0, 0, 1};
    fc_key peer = fp_address(peer_octets, 4);
    fp_network ten = {.octets = {10}, .size = 4, .prefix = 8};
    for (unsigned rules_number = 0; rules_number < 4; rules_number++) {
        fw_rules rules = {.ipv6_prefix = rules_number & 1 ? 64 : 128,
                          .behind_proxy = true,
                          .trusted = &ten,
                          .trusted_count = rules_number >> 1};
        fw_peer judged = fw_judge(&rules, peer);
        fw_client client = judged.itself;
        assert(judged.forwards);
        if (fw_find(&rules, &request, peer, &client))
            assert(client.client.size == 4 || client.client.size == 16);
    }
    return 0;
}
