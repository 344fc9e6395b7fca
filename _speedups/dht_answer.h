/* Answers plain queries from the node's tables: what relay.dht.node and relay.dht.responder would
 * answer, byte for byte and with the same counts, or nothing at all.
 *
 * The tables are the node's own, used by both. Whether a query is answered here is decided before
 * anything is changed: one that is left to the node has not been seen yet.
 *
 * Left to it are: everything while we do not serve; the ping by which we try our own address; a
 * find_node by a node that the node may want to ask back; get_peers where peers are stored.
 *
 * Parity: tests/parity/test_dht_lane.py. */
#ifndef RELAY_DHT_ANSWER_H
#define RELAY_DHT_ANSWER_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "datagram_answerer.h"
#include "dht_budget.h"
#include "dht_ids.h"
#include "dht_query.h"
#include "dht_records.h"
#include "front_cells.h"
#include "siphash.h"

#define DA_NODES 20
#define DA_PAYLOAD_MAX 1452 /* relay.dht.responder.PAYLOAD_BYTES_MAX */
#define DA_TOKEN_BYTES 8
#define DA_TOKEN_INTERVAL_S 300.0

/* A mutable item as relay.dht.items packs it. */
#define DA_KEY_AT 0
#define DA_SIGNATURE_AT 32
#define DA_SEQ_AT 96       /* signed, most significant byte first */
#define DA_SALT_AT 104     /* its length, or DA_NO_SALT; then the salt, then the value */
#define DA_NO_SALT 255

typedef struct {
    uint64_t queries_in, replies_out, dropped_budget, dropped_filter;
} da_counts;

typedef enum { DA_ANSWERED, DA_OVER_BUDGET, DA_RATE_LIMITED, DA_OUTCOMES } da_outcome;

typedef struct {
    di_table *ids;
    dr_table *values, *items, *swarms;
    db_table *budgets;
    fc_table *limit; /* NULL: none */
    uint64_t token_key[2];
    /* Told before each batch. */
    uint8_t own_id[DQ_ID_BYTES];
    bool serves;
    bool on_trial;
    uint8_t trial[6]; /* with on_trial: where our own ping will come from */
    uint32_t greets_below;
    /* Taken after each batch. */
    da_counts counts;
    uint64_t outcomes[DQ_METHODS][DA_OUTCOMES]; /* since the start */
} da_responder;

/* Loopback, RFC 1918 and link-local: relay.dht.node_id.is_exempt. */
static inline bool da_is_exempt(const uint8_t octets[4])
{
    return octets[0] == 10 || octets[0] == 127 || (octets[0] == 172 && octets[1] >> 4 == 1)
           || (octets[0] == 192 && octets[1] == 168) || (octets[0] == 169 && octets[1] == 254);
}

/* relay.dht.tokens: SipHash-2-4 of the interval's number, 8 bytes, and the address. */
static inline void da_token(const uint64_t key[2], const uint8_t octets[4], double now,
                            uint8_t out[DA_TOKEN_BYTES])
{
    uint8_t claim[12];
    uint64_t interval = (uint64_t)rint((now - fmod(now, DA_TOKEN_INTERVAL_S))
                                       / DA_TOKEN_INTERVAL_S);
    for (int i = 0; i < 8; i++)
        claim[i] = (uint8_t)(interval >> (56 - 8 * i));
    memcpy(claim + 8, octets, 4);
    uint64_t hash = sh_hash(key, claim, sizeof claim, 2, 4);
    for (int i = 0; i < DA_TOKEN_BYTES; i++)
        out[i] = (uint8_t)(hash >> (8 * i));
}

/* ---- Writing ---- */

static inline uint8_t *da_write(uint8_t *at, const void *bytes, size_t size)
{
    memcpy(at, bytes, size);
    return at + size;
}

#define DA_WRITE(at, literal) da_write(at, literal, sizeof literal - 1)

static inline uint8_t *da_write_number(uint8_t *at, uint64_t number)
{
    uint8_t digits[20];
    size_t first = sizeof digits;
    do
        digits[--first] = (uint8_t)('0' + number % 10);
    while (number /= 10);
    return da_write(at, digits + first, sizeof digits - first);
}

static inline uint8_t *da_write_text(uint8_t *at, const void *bytes, size_t size)
{
    at = da_write_number(at, size);
    *at++ = ':';
    return da_write(at, bytes, size);
}

/* What a reply holds beside the identifier; NULL or 0 is left out. */
typedef struct {
    bool has_nodes, has_token, has_seq;
    uint32_t nodes;
    uint32_t slots[DA_NODES];
    uint8_t token[DA_TOKEN_BYTES];
    int64_t seq;
    const uint8_t *key, *signature;
    dq_text value; /* bencoded */
} da_values;

/* Writes a reply; `out` has room for LA_REPLY_MAX bytes. Returns its size. */
static inline size_t da_compose(const da_responder *responder, const dq_query *query,
                                const uint8_t requester[6], const da_values *values, uint8_t *out)
{
    uint8_t *at = DA_WRITE(out, "d2:ip6:");
    at = da_write(at, requester, 6);
    at = DA_WRITE(at, "1:rd2:id20:");
    at = da_write(at, responder->own_id, DQ_ID_BYTES);
    if (values->key) {
        at = DA_WRITE(at, "1:k32:");
        at = da_write(at, values->key, 32);
    }
    if (values->has_nodes) {
        at = DA_WRITE(at, "5:nodes");
        at = da_write_number(at, values->nodes * DI_NODE_BYTES);
        *at++ = ':';
        for (uint32_t i = 0; i < values->nodes; i++)
            at = da_write(at, responder->ids->slots[values->slots[i]].node, DI_NODE_BYTES);
    }
    if (values->has_seq) {
        at = DA_WRITE(at, "3:seqi");
        if (values->seq < 0)
            *at++ = '-';
        at = da_write_number(at, values->seq < 0 ? 0 - (uint64_t)values->seq
                                                 : (uint64_t)values->seq);
        *at++ = 'e';
    }
    if (values->signature) {
        at = DA_WRITE(at, "3:sig64:");
        at = da_write(at, values->signature, 64);
    }
    if (values->has_token) {
        at = DA_WRITE(at, "5:token8:");
        at = da_write(at, values->token, DA_TOKEN_BYTES);
    }
    if (values->value.bytes) {
        at = DA_WRITE(at, "1:v");
        at = da_write(at, values->value.bytes, values->value.size);
    }
    at = DA_WRITE(at, "e2:roi0e1:t");
    at = da_write_text(at, query->transaction.bytes, query->transaction.size);
    at = DA_WRITE(at, "1:v4:PK\0\1" "1:y1:re");
    return (size_t)(at - out);
}

/* ---- Deciding ---- */

static inline int64_t da_seq(const uint8_t *record)
{
    uint64_t seq = 0;
    for (int i = 0; i < 8; i++)
        seq = seq << 8 | record[DA_SEQ_AT + i];
    return (int64_t)seq;
}

/* With `seq` only mutable items are looked at, and one that is no newer stays unsent. */
static inline void da_find(const da_responder *responder, const dq_query *query,
                           da_values *values)
{
    const dr_entry *entry = query->has_seq ? NULL : dr_get(responder->values, query->target);
    if (entry) {
        values->value = (dq_text){entry->record, entry->size};
        return;
    }
    entry = dr_get(responder->items, query->target);
    if (!entry)
        return;
    const uint8_t *record = entry->record;
    values->has_seq = true;
    values->seq = da_seq(record);
    if (query->has_seq && values->seq <= query->seq)
        return;
    size_t salt_bytes = record[DA_SALT_AT] == DA_NO_SALT ? 0 : record[DA_SALT_AT];
    const uint8_t *value = record + DA_SALT_AT + 1 + salt_bytes;
    values->key = record + DA_KEY_AT;
    values->signature = record + DA_SIGNATURE_AT;
    values->value = (dq_text){value, (size_t)(record + entry->size - value)};
}

static inline bool da_is_mine(const da_responder *responder, const dq_query *query,
                              const uint8_t source[6])
{
    switch (query->method) {
    case DQ_PING:
        return !responder->on_trial || memcmp(source, responder->trial, 6) != 0;
    case DQ_FIND_NODE:
        if (!query->read_only
            && responder->ids->counts[DI_PREFERRED] + responder->ids->counts[DI_ORDINARY]
                   < responder->greets_below) {
            uint8_t node[DI_NODE_BYTES];
            memcpy(node, query->querier, DI_ID_BYTES);
            memcpy(node + DI_ID_BYTES, source, 6);
            return di_knows(responder->ids, node);
        }
        return true;
    case DQ_GET_PEERS:
        return dr_peek(responder->swarms, query->target) == NULL;
    case DQ_GET:
        return true;
    case DQ_METHODS:
        break;
    }
    return false;
}

/* Answers a datagram from `source` (4 bytes of address, 2 of port) into `reply`, which has room
 * for LA_REPLY_MAX bytes. */
static inline la_verdict da_answer(da_responder *responder, const uint8_t *payload, size_t size,
                                   const uint8_t source[6], double now, uint8_t *reply,
                                   size_t *reply_bytes)
{
    dq_query query;
    if (!responder->serves || (source[4] | source[5]) == 0 || now < 0.0
        || !dq_read(payload, size, &query) || !da_is_mine(responder, &query, source))
        return LA_NOT_MINE;
    bool bounded = !da_is_exempt(source);
    if (bounded && !db_prepare(responder->budgets))
        return LA_NOT_MINE;
    responder->counts.queries_in++;
    uint64_t *outcomes = responder->outcomes[query.method];
    if (bounded && !db_admit(responder->budgets, source, size, now)) {
        responder->counts.dropped_budget++;
        outcomes[DA_OVER_BUDGET]++;
        return LA_SILENT;
    }
    if (bounded && responder->limit) {
        fc_key client = {.size = 4};
        memcpy(client.octets, source, 4);
        if (!fc_check(responder->limit, &client, fc_from_s(now)).allowed) {
            responder->counts.dropped_filter++;
            outcomes[DA_RATE_LIMITED]++;
            return LA_SILENT;
        }
    }
    da_values values = {0};
    if (query.target) {
        values.has_nodes = true;
        values.nodes = di_closest(responder->ids, query.target, values.slots, DA_NODES);
    }
    if (query.method == DQ_GET || query.method == DQ_GET_PEERS) {
        values.has_token = true;
        da_token(responder->token_key, source, now, values.token);
    }
    if (query.method == DQ_GET)
        da_find(responder, &query, &values);
    *reply_bytes = da_compose(responder, &query, source, &values, reply);
    if (*reply_bytes > DA_PAYLOAD_MAX) { /* the farthest nodes are left out */
        uint32_t excess = (uint32_t)*reply_bytes - DA_PAYLOAD_MAX;
        uint32_t fewer = (excess + DI_NODE_BYTES - 1) / DI_NODE_BYTES;
        values.nodes = values.nodes > fewer ? values.nodes - fewer : 0;
        *reply_bytes = da_compose(responder, &query, source, &values, reply);
    }
    if (bounded && !db_charge(responder->budgets, source, *reply_bytes, now)) {
        responder->counts.dropped_budget++;
        outcomes[DA_OVER_BUDGET]++;
        return LA_SILENT;
    }
    responder->counts.replies_out++;
    outcomes[DA_ANSWERED]++;
    return LA_REPLY;
}

#endif
