/* dht_answer.h: whatever is stored and whoever asks, a reply is well-formed, fits a datagram and
 * is only given while we serve; and no public address gets more than 45 packets in 10 s, queries of
 * ours among them.
 *
 * An input is steps: an operation, a number, two bytes of size, and so many octets. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include "dht_answer.h"

#define NODES 64
#define RECORDS 8
#define PACKETS_MAX 45 /* libtorrent bans who sends it more than 50 */
#define WINDOW_S 10.0

enum { STORE_VALUE, STORE_ITEM, KNOW_NODE, FORGET_NODE, PROVE, TELL, QUERY, OPERATIONS };

static const uint8_t sources[4][6] = {
    {203, 0, 113, 7, 26, 225}, {10, 0, 0, 2, 0, 1}, {127, 0, 0, 1, 15, 160}, {198, 51, 100, 1, 0, 0}};

static void target_of(uint8_t number, uint8_t target[DR_TARGET_BYTES])
{
    memset(target, number % 16, DR_TARGET_BYTES);
}

static void store_value(dr_table *table, uint8_t number, const uint8_t *octets, size_t size)
{
    uint8_t record[DR_RECORD_MAX], target[DR_TARGET_BYTES];
    size = size < 1000 ? size : 1000;
    target_of(number, target);
    int head = sprintf((char *)record, "%zu:", size);
    memcpy(record + head, octets, size);
    assert(dr_put(table, target, record, (uint32_t)(head + size)));
}

/* As relay.dht.items packs one. */
static void store_item(dr_table *table, uint8_t number, const uint8_t *octets, size_t size)
{
    uint8_t record[DR_RECORD_MAX], target[DR_TARGET_BYTES];
    size_t salt = size ? octets[0] % 66 : 0;
    size = size < 1000 ? size : 1000;
    target_of(number, target);
    memset(record, number, DA_SALT_AT);
    if (size >= 8)
        memcpy(record + DA_SEQ_AT, octets, 8);
    record[DA_SALT_AT] = salt == 65 ? DA_NO_SALT : (uint8_t)salt;
    salt = salt == 65 ? 0 : salt;
    memset(record + DA_SALT_AT + 1, 's', salt);
    uint8_t *value = record + DA_SALT_AT + 1 + salt;
    int head = sprintf((char *)value, "%zu:", size);
    memcpy(value + head, octets, size);
    assert(dr_put(table, target, record, (uint32_t)(value + head + size - record)));
}

/* When the last 45 packets went to an address: one more needs that the first is 10 s ago. */
typedef struct {
    double at[PACKETS_MAX];
    unsigned count;
} pace_log;

static void note_packet(pace_log *log, uint8_t number, double now)
{
    if (da_is_exempt(sources[number % 4]))
        return;
    double *oldest = &log->at[log->count % PACKETS_MAX];
    assert(log->count < PACKETS_MAX || now - *oldest > WINDOW_S);
    *oldest = now;
    log->count++;
}

static void query(da_responder *responder, pace_log *log, uint8_t number, const uint8_t *octets,
                  size_t size, double now)
{
    uint8_t *reply = malloc(LA_REPLY_MAX), *payload = malloc(size ? size : 1);
    size_t bytes = 0;
    da_counts before = responder->counts;
    assert(reply && payload);
    memcpy(payload, octets, size);
    la_verdict verdict = da_answer(responder, payload, size, sources[number % 4], now, reply, &bytes);
    da_counts after = responder->counts;
    if (verdict == LA_NOT_MINE)
        assert(!memcmp(&before, &after, sizeof before));
    else
        assert(responder->serves && after.queries_in == before.queries_in + 1);
    if (verdict == LA_REPLY) {
        dq_source source = {reply, reply + bytes};
        assert(bytes <= DA_PAYLOAD_MAX && reply[0] == 'd');
        assert(dq_skip(&source, 0) && source.at == source.end);
        assert(after.replies_out == before.replies_out + 1);
        note_packet(log, number, now);
    } else
        assert(after.replies_out == before.replies_out);
    free(reply);
    free(payload);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint64_t key[2] = {1, 2};
    di_table ids;
    dr_table values, items, swarms;
    db_table budgets = {.key = {3, 4}, .count = 16, .credit_ratio = 2, .proof_lasts_s = 600,
                        .pace = {2, 25, 20, 10, 1, 15, 5}, .bytes_per_s = 512,
                        .bytes_burst = 8192, .in_all_per_s = 65536, .in_all_burst = 262144};
    pace_log logs[4] = {{{0}, 0}};
    fc_table limit;
    double now = 0;
    assert(di_init(&ids, NODES) && fc_init(&limit, FC_NS / 2, 3, 4, key));
    dr_init(&values, RECORDS, key);
    dr_init(&items, RECORDS, key);
    dr_init(&swarms, RECORDS, key);
    da_responder responder = {.ids = &ids, .values = &values, .items = &items, .swarms = &swarms,
                              .budgets = &budgets, .token_key = {5, 6}, .serves = true,
                              .greets_below = 8};
    while (size >= 4) {
        uint8_t operation = data[0] % OPERATIONS, number = data[1];
        size_t bytes = (size_t)data[2] << 8 | data[3];
        data += 4, size -= 4;
        bytes = bytes % 2048 < size ? bytes % 2048 : size;
        uint8_t target[DR_TARGET_BYTES], node[DI_NODE_BYTES] = {0};
        target_of(number, target);
        now += number / 64.0;
        switch (operation) {
        case STORE_VALUE:
            store_value(number & 16 ? &swarms : &values, number, data, bytes);
            break;
        case STORE_ITEM:
            store_item(&items, number, data, bytes);
            break;
        case KNOW_NODE:
            memcpy(node, data, bytes < sizeof node ? bytes : sizeof node);
            di_set(&ids, number % NODES, node, number & 64);
            assert(di_knows(&ids, node));
            break;
        case FORGET_NODE:
            di_clear(&ids, number % NODES);
            break;
        case PROVE:
            assert(db_prepare(&budgets));
            db_prove(&budgets, sources[number % 4], now);
            if (number & 8 && !(db_reserve(&budgets, sources[number % 4], 0.0, now) > 0.0))
                note_packet(&logs[number % 4], number, now);
            break;
        case TELL:
            responder.serves = !(number & 1);
            responder.limit = number & 2 ? &limit : NULL;
            responder.on_trial = number & 4;
            memcpy(responder.trial, sources[number >> 3 & 3], 6);
            responder.greets_below = number & 32 ? 0 : 8;
            now += number & 64 ? 1000 : 0;
            break;
        default:
            query(&responder, &logs[number % 4], number, data, bytes, now);
        }
        data += bytes, size -= bytes;
    }
    assert(values.count <= RECORDS && items.count <= RECORDS && swarms.count <= RECORDS);
    assert(ids.counts[DI_ORDINARY] + ids.counts[DI_PREFERRED] <= NODES);
    di_free(&ids);
    dr_free(&values);
    dr_free(&items);
    dr_free(&swarms);
    db_free(&budgets);
    fc_clear(&limit);
    return 0;
}
