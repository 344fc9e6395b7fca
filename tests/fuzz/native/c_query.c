/* dht_query.h: a datagram is a plain query or is not; what is read lies within it.
 *
 * A query that was read is read the same when it is spelled anew from what was read. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include "dht_query.h"

static void within(const uint8_t *at, size_t bytes, const uint8_t *data, size_t size)
{
    assert(at >= data && bytes <= size && (size_t)(at - data) <= size - bytes);
}

static size_t spell(uint8_t *out, const dq_query *query)
{
    static const char *const names[] = {"4:ping", "9:find_node", "9:get_peers", "3:get"};
    char *at = (char *)out;
    at += sprintf(at, "d1:ad2:id20:");
    memcpy(at, query->querier, DQ_ID_BYTES);
    at += DQ_ID_BYTES;
    if (query->has_seq)
        at += sprintf(at, "3:seqi%llde", (long long)query->seq);
    if (query->target) {
        at += sprintf(at, query->method == DQ_GET_PEERS ? "9:info_hash20:" : "6:target20:");
        memcpy(at, query->target, DQ_ID_BYTES);
        at += DQ_ID_BYTES;
    }
    at += sprintf(at, "e1:q%s2:roi%de1:t%zu:", names[query->method], query->read_only,
                  query->transaction.size);
    memcpy(at, query->transaction.bytes, query->transaction.size);
    at += query->transaction.size;
    at += sprintf(at, "1:y1:qe");
    return (size_t)(at - (char *)out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    dq_query query, again;
    uint8_t spelled[512];
    if (!dq_read(data, size, &query))
        return 0;
    assert(query.method < DQ_METHODS && query.transaction.size <= DQ_TRANSACTION_MAX);
    within(query.transaction.bytes, query.transaction.size, data, size);
    within(query.querier, DQ_ID_BYTES, data, size);
    assert((query.target == NULL) == (query.method == DQ_PING));
    if (query.target)
        within(query.target, DQ_ID_BYTES, data, size);
    size_t bytes = spell(spelled, &query);
    assert(dq_read(spelled, bytes, &again));
    assert(again.method == query.method && again.read_only == query.read_only);
    assert(again.has_seq == query.has_seq && again.seq == query.seq);
    assert(again.transaction.size == query.transaction.size);
    assert(!memcmp(again.transaction.bytes, query.transaction.bytes, query.transaction.size));
    assert(!memcmp(again.querier, query.querier, DQ_ID_BYTES));
    assert(!query.target || !memcmp(again.target, query.target, DQ_ID_BYTES));
    for (size_t shorter = 0; shorter < bytes; shorter++)
        assert(!dq_read(spelled, shorter, &again));
    return 0;
}
