/* Reads a KRPC query where it lies: ping, find_node, get_peers and get in plain form.
 *
 * "Plain" means: the whole datagram is one dictionary by the rules of relay/_pure/bencode.py, no
 * key that matters comes twice, and everything the method needs is there in its right shape. Such
 * a query means here what it means to relay.dht.krpc and relay.dht.responder. Whatever else
 * arrives, well-formed or not, is refused: those two decide what it is. Nothing is guessed.
 *
 * Source: BEP 3, BEP 5, BEP 44. Parity: tests/parity/test_dht_lane.py. */
#ifndef RELAY_DHT_QUERY_H
#define RELAY_DHT_QUERY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define DQ_ID_BYTES 20
#define DQ_TRANSACTION_MAX 32
#define DQ_LENGTH_DIGITS_MAX 9
#define DQ_SEQ_DIGITS_MAX 18 /* any number of so many digits fits 64 bits; longer ones are refused */
#define DQ_INTEGER_DIGITS_MAX 20
#define DQ_DEPTH_MAX 6 /* of values that nobody asks for: `want` is a list */

typedef struct {
    const uint8_t *bytes;
    size_t size;
} dq_text;

typedef struct {
    const uint8_t *at, *end;
} dq_source;

typedef enum { DQ_PING, DQ_FIND_NODE, DQ_GET_PEERS, DQ_GET, DQ_METHODS } dq_method;

typedef struct {
    dq_method method;
    dq_text transaction;
    const uint8_t *querier; /* 20 bytes */
    const uint8_t *target;  /* 20 bytes, or an info hash; NULL for a ping */
    bool has_seq;           /* of a get */
    int64_t seq;
    bool read_only;
} dq_query;

static inline bool dq_is(dq_text text, const char *name)
{
    return text.size == strlen(name) && memcmp(text.bytes, name, text.size) == 0;
}

static inline bool dq_digit(uint8_t octet) { return octet >= '0' && octet <= '9'; }

/* (0|[1-9][0-9]{0,8}): and so many bytes */
static inline bool dq_read_text(dq_source *source, dq_text *out)
{
    const uint8_t *at = source->at;
    size_t size = 0;
    while (at < source->end && at - source->at < DQ_LENGTH_DIGITS_MAX && dq_digit(*at))
        size = size * 10 + (*at++ - '0');
    if (at == source->at || at == source->end || *at != ':'
        || (*source->at == '0' && at - source->at > 1))
        return false;
    at++;
    if (size > (size_t)(source->end - at))
        return false;
    *out = (dq_text){at, size};
    source->at = at + size;
    return true;
}

/* i(0|-?[1-9][0-9]{0,19})e; gives the digits and whether there is a minus before them. */
static inline bool dq_read_digits(dq_source *source, dq_text *digits, bool *negative)
{
    const uint8_t *at = source->at;
    if (at == source->end || *at++ != 'i')
        return false;
    *negative = at < source->end && *at == '-';
    at += *negative;
    const uint8_t *first = at;
    while (at < source->end && at - first < DQ_INTEGER_DIGITS_MAX && dq_digit(*at))
        at++;
    if (at == first || at == source->end || *at != 'e'
        || (*first == '0' && (*negative || at - first > 1)))
        return false;
    *digits = (dq_text){first, (size_t)(at - first)};
    source->at = at + 1;
    return true;
}

static inline bool dq_read_seq(dq_source *source, int64_t *out)
{
    dq_text digits;
    bool negative;
    if (!dq_read_digits(source, &digits, &negative) || digits.size > DQ_SEQ_DIGITS_MAX)
        return false;
    int64_t number = 0;
    for (size_t i = 0; i < digits.size; i++)
        number = number * 10 + (digits.bytes[i] - '0');
    *out = negative ? -number : number;
    return true;
}

static inline bool dq_skip(dq_source *source, int depth)
{
    dq_text text;
    bool negative;
    if (source->at == source->end)
        return false;
    uint8_t octet = *source->at;
    if (dq_digit(octet))
        return dq_read_text(source, &text);
    if (octet == 'i')
        return dq_read_digits(source, &text, &negative);
    if ((octet != 'l' && octet != 'd') || depth == DQ_DEPTH_MAX)
        return false;
    source->at++;
    while (source->at < source->end && *source->at != 'e')
        if ((octet == 'd' && !dq_read_text(source, &text)) || !dq_skip(source, depth + 1))
            return false;
    if (source->at == source->end)
        return false;
    source->at++;
    return true;
}

/* A string of 20 bytes, the first under its key. */
static inline bool dq_read_id(dq_source *source, const uint8_t **out)
{
    dq_text text;
    if (*out || !dq_read_text(source, &text) || text.size != DQ_ID_BYTES)
        return false;
    *out = text.bytes;
    return true;
}

/* A string, the first under its key. */
static inline bool dq_read_once(dq_source *source, dq_text *out)
{
    return !out->bytes && dq_read_text(source, out);
}

typedef struct {
    const uint8_t *id, *target, *info_hash;
    bool has_seq;
    int64_t seq;
} dq_arguments;

static inline bool dq_read_arguments(dq_source *source, dq_arguments *out)
{
    if (source->at == source->end || *source->at != 'd')
        return false;
    source->at++;
    while (source->at < source->end && *source->at != 'e') {
        dq_text key;
        bool read;
        if (!dq_read_text(source, &key))
            return false;
        if (dq_is(key, "id"))
            read = dq_read_id(source, &out->id);
        else if (dq_is(key, "target"))
            read = dq_read_id(source, &out->target);
        else if (dq_is(key, "info_hash"))
            read = dq_read_id(source, &out->info_hash);
        else if (dq_is(key, "seq")) {
            read = !out->has_seq && dq_read_seq(source, &out->seq);
            out->has_seq = true;
        } else
            read = dq_skip(source, 0);
        if (!read)
            return false;
    }
    if (source->at == source->end)
        return false;
    source->at++;
    return out->id != NULL;
}

/* False for whatever is not a plain query. What `out` points to lies in `bytes`. */
static inline bool dq_read(const uint8_t *bytes, size_t size, dq_query *out)
{
    dq_source source = {bytes, bytes + size};
    dq_arguments arguments = {0};
    dq_text method = {0}, kind = {0}, transaction = {0};
    bool has_arguments = false, has_read_only = false;
    memset(out, 0, sizeof *out);
    if (size == 0 || *source.at++ != 'd')
        return false;
    while (source.at < source.end && *source.at != 'e') {
        dq_text key, digits;
        bool read, negative;
        if (!dq_read_text(&source, &key))
            return false;
        if (dq_is(key, "a")) {
            read = !has_arguments && dq_read_arguments(&source, &arguments);
            has_arguments = true;
        } else if (dq_is(key, "q"))
            read = dq_read_once(&source, &method);
        else if (dq_is(key, "t"))
            read = dq_read_once(&source, &transaction);
        else if (dq_is(key, "y"))
            read = dq_read_once(&source, &kind);
        else if (dq_is(key, "ro")) {
            read = !has_read_only && dq_read_digits(&source, &digits, &negative);
            has_read_only = true;
            out->read_only = read && !negative && digits.bytes[0] != '0';
        } else
            read = dq_skip(&source, 0);
        if (!read)
            return false;
    }
    if (source.end - source.at != 1 || !has_arguments || !dq_is(kind, "q")
        || !transaction.bytes || transaction.size > DQ_TRANSACTION_MAX)
        return false;
    out->transaction = transaction;
    out->querier = arguments.id;
    if (dq_is(method, "ping")) {
        out->method = DQ_PING;
        return true;
    }
    if (dq_is(method, "find_node"))
        out->method = DQ_FIND_NODE, out->target = arguments.target;
    else if (dq_is(method, "get_peers"))
        out->method = DQ_GET_PEERS, out->target = arguments.info_hash;
    else if (dq_is(method, "get")) {
        out->method = DQ_GET, out->target = arguments.target;
        out->has_seq = arguments.has_seq, out->seq = arguments.seq;
    }
    return out->target != NULL;
}

#endif
