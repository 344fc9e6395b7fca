/* Reading requests strictly: a few forms of HTTP/1.1 are understood, completely, and no others.
 *
 *     GET|HEAD|PUT /{key} | /pkarr/{key} | /pkarr//{key}      [?policy=CacheFirst|CacheOnly|NetworkOnly]
 *     GET|HEAD     /health | /healthz | / | /stats      the latter two with any query
 *
 * followed by well-formed fields, each line ended by CR LF. Whatever is anything else, be it
 * wrong, rare or only unusual, is FR_HAND_OVER: then somebody with more patience reads the same
 * bytes from their beginning. So nothing here may be more lenient than h11, which does that, and
 * nothing is ever answered because of a guess.
 *
 * A request points into the bytes it was read from. Nothing is allocated.
 *
 * Source: RFC 9112, sections 2 to 6; design/protocol.md, section 4. The stricter side is always
 * right here: obs-fold, bare LF, control characters in values are handed over.
 */
#ifndef RELAY_FRONT_PARSE_H
#define RELAY_FRONT_PARSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define FR_HEAD_MAX 8192 /* a longer head is not for the lane; Hypercorn takes twice that */
#define FR_BODY_MAX 1104 /* relay/http/packets.py: BODY_BYTES_MAX */
#define FR_KEY_LETTERS 52
#define FR_KEY_BYTES 32
#define FR_FORWARDED_MAX 8 /* fields that name a proxy's client, read without help */

typedef enum { FR_MORE, FR_REQUEST, FR_HAND_OVER } fr_verdict;
typedef enum { FR_GET, FR_HEAD, FR_PUT } fr_method;
typedef enum { FR_CACHE_FIRST, FR_CACHE_ONLY, FR_NETWORK_ONLY } fr_policy;

typedef struct {
    const uint8_t *at; /* NULL: there is no such field */
    size_t size;
} fr_slice;

/* In the order in which they are believed. */
typedef enum { FR_FORWARDED_FOR, FR_REAL_IP, FR_FORWARDED } fr_forwarded_kind;

typedef struct {
    fr_forwarded_kind kind;
    fr_slice value;
} fr_forwarded;

typedef struct {
    fr_method method;
    bool has_key; /* false: one of the other paths */
    bool plain;   /* no field asks for more than the lane's own answers can say */
    bool close; /* the client wants no other answer on this connection */
    fr_policy policy;
    uint8_t key[FR_KEY_BYTES];
    fr_slice origin, none_match, since; /* values without blanks around them; the first counts */
    size_t head_bytes;
    size_t body_bytes;
    unsigned forwarded; /* how many fields are in `hops`; if more than fit, they are not */
    fr_forwarded hops[FR_FORWARDED_MAX]; /* last: what is beyond `forwarded` is not even cleared */
} fr_request;

/* ---- Characters ---- */

static inline bool fr_is_token(uint8_t octet)
{
    static const uint32_t set[8] = {
        /* !#$%&'*+-. 0-9 */ 0, 0x03ff6cfau,
        /* A-Z ^_ */ 0xc7fffffeu,
        /* ` a-z | ~ */ 0x57ffffffu,
    };
    return set[octet >> 5] >> (octet & 31) & 1;
}

/* h11 lets some control characters through; who needs them may have them there. */
static inline bool fr_is_text(uint8_t octet)
{
    return (octet >= ' ' && octet != 0x7f) || octet == '\t';
}

static inline bool fr_is_blank(uint8_t octet)
{
    return octet == ' ' || octet == '\t';
}

static inline uint8_t fr_lower(uint8_t octet)
{
    return octet >= 'A' && octet <= 'Z' ? (uint8_t)(octet | 0x20) : octet;
}

static inline bool fr_is(fr_slice text, const char *lower_case)
{
    size_t size = strlen(lower_case);
    if (text.size != size)
        return false;
    for (size_t i = 0; i < size; i++)
        if (fr_lower(text.at[i]) != (uint8_t)lower_case[i])
            return false;
    return true;
}

static inline fr_slice fr_trimmed(fr_slice text)
{
    while (text.size && fr_is_blank(text.at[0]))
        text.at++, text.size--;
    while (text.size && fr_is_blank(text.at[text.size - 1]))
        text.size--;
    return text;
}

/* ---- The request line ---- */

/* z-base-32; the last letter carries one bit of the key and four that are ignored. */
static inline bool fr_read_key(const uint8_t *letters, uint8_t *key)
{
    static const int8_t values[128] = {
        -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
        -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
        -1, -1, -1, -1, -1, 18, -1, 25, 26, 27, 30, 29, 7,  31, -1, -1, -1, -1, -1, -1, -1, -1,
        -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
        -1, -1, -1, -1, -1, -1, -1, -1, -1, 24, 1,  12, 3,  8,  5,  6,  28, 21, 9,  10, -1, 11,
        2,  16, 13, 14, 4,  22, 17, 19, -1, 20, 15, 0,  23, -1, -1, -1, -1, -1};
    uint32_t bits = 0;
    int held = 0;
    size_t at = 0;
    for (int i = 0; i < FR_KEY_LETTERS; i++) {
        int value = letters[i] < 128 ? values[letters[i]] : -1;
        if (value < 0)
            return false;
        bits = bits << 5 | (uint32_t)value;
        held += 5;
        if (held >= 8 && at < FR_KEY_BYTES) {
            held -= 8;
            key[at++] = (uint8_t)(bits >> held);
        }
    }
    return true;
}

static inline bool fr_skip(fr_slice *text, const char *prefix)
{
    size_t size = strlen(prefix);
    if (text->size < size || memcmp(text->at, prefix, size) != 0)
        return false;
    text->at += size;
    text->size -= size;
    return true;
}

/* Passes over a query, which is somebody else's to read, and the blank behind it. */
static inline bool fr_skip_query(fr_slice *line)
{
    while (line->size && line->at[0] > ' ' && line->at[0] < 0x7f)
        line->at++, line->size--;
    return fr_skip(line, " ");
}

static inline bool fr_skip_page(fr_slice *line)
{
    return fr_skip(line, "/healthz ") || fr_skip(line, "/health ") || fr_skip(line, "/ ") ||
           fr_skip(line, "/stats ") ||
           ((fr_skip(line, "/?") || fr_skip(line, "/stats?")) && fr_skip_query(line));
}

static inline bool fr_read_target(fr_slice *line, fr_request *request)
{
    if (request->method != FR_PUT && fr_skip_page(line)) {
        request->has_key = false;
        return true;
    }
    if (!fr_skip(line, "/pkarr//") && !fr_skip(line, "/pkarr/") && !fr_skip(line, "/"))
        return false;
    if (line->size < FR_KEY_LETTERS || !fr_read_key(line->at, request->key))
        return false;
    line->at += FR_KEY_LETTERS;
    line->size -= FR_KEY_LETTERS;
    request->has_key = true;
    request->policy = FR_CACHE_FIRST;
    if (fr_skip(line, " ") || fr_skip(line, "?policy=CacheFirst "))
        return true;
    request->policy = FR_CACHE_ONLY;
    if (fr_skip(line, "?policy=CacheOnly "))
        return true;
    request->policy = FR_NETWORK_ONLY;
    return fr_skip(line, "?policy=NetworkOnly ");
}

static inline bool fr_read_request_line(fr_slice line, fr_request *request)
{
    if (fr_skip(&line, "GET "))
        request->method = FR_GET;
    else if (fr_skip(&line, "HEAD "))
        request->method = FR_HEAD;
    else if (fr_skip(&line, "PUT "))
        request->method = FR_PUT;
    else
        return false;
    return fr_read_target(&line, request) && line.size == 8 && memcmp(line.at, "HTTP/1.1", 8) == 0;
}

/* Whether these bytes can still become one of our request lines: what is none of them should
 * not have to wait for a line end that never comes (TLS, HTTP/2). */
static inline bool fr_may_begin(const uint8_t *data, size_t size)
{
    static const char *const beginnings[] = {"GET /", "HEAD /", "PUT /"};
    for (size_t i = 0; i < 3; i++) {
        size_t length = strlen(beginnings[i]);
        if (memcmp(data, beginnings[i], size < length ? size : length) == 0)
            return true;
    }
    return false;
}

/* ---- Fields ---- */

static inline bool fr_asks_to_close(fr_slice value)
{
    while (value.size) {
        const uint8_t *comma = memchr(value.at, ',', value.size);
        size_t size = comma ? (size_t)(comma - value.at) : value.size;
        if (fr_is(fr_trimmed((fr_slice){value.at, size}), "close"))
            return true;
        size += comma != NULL;
        value.at += size;
        value.size -= size;
    }
    return false;
}

static inline bool fr_read_length(fr_slice value, size_t *length)
{
    if (value.size == 0 || value.size > 4)
        return false;
    *length = 0;
    for (size_t i = 0; i < value.size; i++) {
        if (value.at[i] < '0' || value.at[i] > '9')
            return false;
        *length = *length * 10 + (size_t)(value.at[i] - '0');
    }
    return true;
}

typedef struct {
    bool host, length;
} fr_seen;

static inline void fr_note_first(fr_slice *field, fr_slice value)
{
    if (field->at == NULL)
        *field = value;
}

static inline void fr_note_forwarded(fr_forwarded_kind kind, fr_slice value, fr_request *request)
{
    if (request->forwarded < FR_FORWARDED_MAX)
        request->hops[request->forwarded] = (fr_forwarded){kind, value};
    request->forwarded++;
}

/* False: hand over. A field that is not named here changes no answer of ours. */
static inline bool fr_note_field(fr_slice name, fr_slice value, fr_seen *seen, fr_request *request)
{
    switch (name.size) {
    case 4:
        if (fr_is(name, "host")) {
            if (seen->host)
                return false;
            seen->host = true;
        }
        return true;
    case 6:
        if (fr_is(name, "origin")) {
            if (memchr(value.at, '\t', value.size) != NULL)
                request->plain = false; /* it is not mirrored then; see cors.py */
            fr_note_first(&request->origin, value);
        }
        return !fr_is(name, "expect");
    case 9:
    case 15:
        if (fr_is(name, "x-forwarded-for"))
            fr_note_forwarded(FR_FORWARDED_FOR, value, request);
        else if (fr_is(name, "x-real-ip"))
            fr_note_forwarded(FR_REAL_IP, value, request);
        else if (fr_is(name, "forwarded"))
            fr_note_forwarded(FR_FORWARDED, value, request);
        return true;
    case 10:
        if (fr_is(name, "connection") && fr_asks_to_close(value))
            request->close = true;
        return true;
    case 13:
        if (fr_is(name, "if-none-match")) {
            if (request->none_match.at != NULL)
                request->plain = false; /* several are one list */
            fr_note_first(&request->none_match, value);
        }
        return true;
    case 14:
        if (fr_is(name, "content-length")) {
            if (seen->length || !fr_read_length(value, &request->body_bytes))
                return false;
            seen->length = true;
            return request->body_bytes <= (request->method == FR_PUT ? FR_BODY_MAX : 0);
        }
        return true;
    case 17:
        if (fr_is(name, "if-modified-since"))
            fr_note_first(&request->since, value);
        return !fr_is(name, "transfer-encoding");
    default:
        return true;
    }
}

static inline bool fr_read_field(fr_slice line, fr_seen *seen, fr_request *request)
{
    size_t size = 0;
    while (size < line.size && fr_is_token(line.at[size]))
        size++;
    if (size == 0 || size == line.size || line.at[size] != ':')
        return false;
    fr_slice name = {line.at, size};
    fr_slice value = {line.at + size + 1, line.size - size - 1};
    for (size_t i = 0; i < value.size; i++)
        if (!fr_is_text(value.at[i]))
            return false;
    return fr_note_field(name, fr_trimmed(value), seen, request);
}

/* ---- The whole ---- */

/* Reads a request from the beginning of `data`. FR_REQUEST: its head is complete; of its body
 * `size - head_bytes` bytes, perhaps fewer than `body_bytes`, are there. FR_MORE: so far it may
 * become one. `size` is at least 1. */
static inline fr_verdict fr_parse(const uint8_t *data, size_t size, fr_request *request)
{
    if (!fr_may_begin(data, size))
        return FR_HAND_OVER;
    size_t within = size < FR_HEAD_MAX ? size : FR_HEAD_MAX;
    fr_seen seen = {false, false};
    memset(request, 0, offsetof(fr_request, hops));
    request->plain = true;
    for (size_t at = 0;;) {
        const uint8_t *end = memchr(data + at, '\n', within - at);
        if (end == NULL)
            return size < FR_HEAD_MAX ? FR_MORE : FR_HAND_OVER;
        fr_slice line = {data + at, (size_t)(end - data) - at};
        if (line.size == 0 || line.at[line.size - 1] != '\r')
            return FR_HAND_OVER;
        line.size--;
        bool first = at == 0;
        at = (size_t)(end - data) + 1;
        if (first ? !fr_read_request_line(line, request)
                  : line.size && !fr_read_field(line, &seen, request))
            return FR_HAND_OVER;
        if (!first && line.size == 0) {
            request->head_bytes = at;
            return FR_REQUEST;
        }
    }
}

#endif
