/* Answers, as bytes. What they say is told in relay/http/responses.py, app.py, cors.py and
 * limits.py; tests/integration/test_front_lane.py holds the two together.
 */
#ifndef RELAY_FRONT_ANSWER_H
#define RELAY_FRONT_ANSWER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "front_cells.h"
#include "front_dates.h"
#include "front_parse.h"
#include "packet_table.h"

/* An answer is its fields, an origin out of a head, and a payload. */
#define FA_BYTES_MAX (1024 + FR_HEAD_MAX + PT_PAYLOAD_MAX)
#define FA_TAG_BYTES (2 + 2 * PT_TAG_BYTES) /* quotes and hex */

typedef struct {
    uint64_t ttl_min_s, ttl_max_s;
} fa_bounds;

static inline uint8_t *fa_put(uint8_t *out, const void *octets, size_t size)
{
    memcpy(out, octets, size);
    return out + size;
}

#define FA_TEXT(out, text) fa_put(out, text, sizeof(text) - 1)

static inline uint8_t *fa_number(uint8_t *out, uint64_t value)
{
    uint8_t digits[20];
    size_t at = sizeof digits;
    do
        digits[--at] = (uint8_t)('0' + value % 10);
    while (value /= 10);
    return fa_put(out, digits + at, sizeof digits - at);
}

static inline uint8_t *fa_date(uint8_t *out, uint64_t timestamp_us)
{
    fd_write(out, timestamp_us);
    return FA_TEXT(out + FD_BYTES, "\r\n");
}

static inline void fa_write_tag(uint8_t *out, const uint8_t tag[PT_TAG_BYTES])
{
    static const char digits[] = "0123456789abcdef";
    *out++ = '"';
    for (int i = 0; i < PT_TAG_BYTES; i++) {
        *out++ = (uint8_t)digits[tag[i] >> 4];
        *out++ = (uint8_t)digits[tag[i] & 15];
    }
    *out = '"';
}

/* ---- Judging a packet ---- */

static inline uint64_t fa_ttl_s(const pt_packet *packet, const fa_bounds *bounds)
{
    if (!packet->has_answers || packet->ttl_s < bounds->ttl_min_s)
        return bounds->ttl_min_s;
    return packet->ttl_s < bounds->ttl_max_s ? packet->ttl_s : bounds->ttl_max_s;
}

static inline uint64_t fa_age_s(const pt_packet *packet, uint64_t now_us)
{
    return now_us > packet->last_seen_us ? (now_us - packet->last_seen_us) / FD_US : 0;
}

/* Whether its time has passed, or the clock went back so far that nobody knows: `is_expired` in
 * relay/pkarr/packet.py. */
#define FA_CLOCK_CORRECTION_US (60 * (uint64_t)FD_US)

static inline bool fa_is_expired(const pt_packet *packet, uint64_t ttl_s, uint64_t now_us)
{
    return fa_age_s(packet, now_us) >= ttl_s ||
           packet->last_seen_us > now_us + FA_CLOCK_CORRECTION_US;
}

typedef enum { FA_MET, FA_NOT_MET, FA_UNCLEAR } fa_condition;

static inline bool fa_lists_tag(fr_slice list, const uint8_t tag[FA_TAG_BYTES])
{
    for (;;) {
        const uint8_t *begin = memchr(list.at, '"', list.size);
        if (begin == NULL)
            return false;
        size_t left = list.size - (size_t)(begin - list.at);
        const uint8_t *end = memchr(begin + 1, '"', left - 1);
        if (end == NULL)
            return false;
        if (end - begin + 1 == FA_TAG_BYTES && memcmp(begin, tag, FA_TAG_BYTES) == 0)
            return true;
        list = (fr_slice){end + 1, left - (size_t)(end + 1 - begin)};
    }
}

/* Whether the client's copy is still good; FA_UNCLEAR: a date in a form not read here. */
static inline fa_condition fa_judge(const fr_request *request, const uint8_t tag[FA_TAG_BYTES],
                             uint64_t timestamp_us)
{
    uint64_t since_us;
    if (request->none_match.at != NULL) {
        bool any = request->none_match.size == 1 && request->none_match.at[0] == '*';
        return any || fa_lists_tag(request->none_match, tag) ? FA_MET : FA_NOT_MET;
    }
    if (request->since.at == NULL)
        return FA_NOT_MET;
    if (!fd_read(request->since.at, request->since.size, &since_us))
        return FA_UNCLEAR;
    return timestamp_us <= since_us ? FA_MET : FA_NOT_MET;
}

/* ---- Composing ---- */

static inline uint8_t *fa_cors(uint8_t *out, const fr_request *request)
{
    out = FA_TEXT(out, "vary: origin, access-control-request-method, access-control-request-headers"
                       "\r\naccess-control-allow-credentials: true"
                       "\r\naccess-control-expose-headers: "
                       "pkarr-invalid-signed-packet-seq,pkarr-dht-stored-nodes\r\n");
    if (request->origin.at != NULL) {
        out = FA_TEXT(out, "access-control-allow-origin: ");
        out = fa_put(out, request->origin.at, request->origin.size);
        out = FA_TEXT(out, "\r\n");
    }
    return out;
}

static inline uint8_t *fa_quota(uint8_t *out, uint32_t burst, uint32_t remaining)
{
    out = FA_TEXT(out, "x-ratelimit-limit: ");
    out = fa_number(out, burst);
    out = FA_TEXT(out, "\r\nx-ratelimit-remaining: ");
    out = fa_number(out, remaining);
    return FA_TEXT(out, "\r\n");
}

/* The last fields of any answer, and the line that ends its head. */
static inline uint8_t *fa_end(uint8_t *out, uint64_t now_us, bool close)
{
    out = FA_TEXT(out, "date: ");
    out = fa_date(out, now_us);
    if (close)
        out = FA_TEXT(out, "connection: close\r\n");
    return FA_TEXT(out, "\r\n");
}

/* 200 or 304. `burst` is 0 where nothing is limited. */
static inline uint8_t *fa_packet(uint8_t *out, const fr_request *request, const pt_packet *packet,
                          const uint8_t tag[FA_TAG_BYTES], bool met, uint64_t ttl_s,
                          uint64_t now_us, uint32_t burst, uint32_t remaining)
{
    out = met ? FA_TEXT(out, "HTTP/1.1 304 \r\n") : FA_TEXT(out, "HTTP/1.1 200 \r\n");
    out = FA_TEXT(out, "content-type: application/pkarr.org/relays#payload"
                       "\r\ncache-control: public, max-age=");
    out = fa_number(out, ttl_s);
    out = FA_TEXT(out, "\r\nage: ");
    out = fa_number(out, fa_age_s(packet, now_us));
    out = FA_TEXT(out, "\r\netag: ");
    out = fa_put(out, tag, FA_TAG_BYTES);
    out = FA_TEXT(out, "\r\nlast-modified: ");
    out = fa_date(out, packet->timestamp_us);
    out = FA_TEXT(out, "memento-datetime: ");
    out = fa_date(out, packet->last_seen_us);
    out = fa_cors(out, request);
    if (burst)
        out = fa_quota(out, burst, remaining);
    if (!met || request->method == FR_HEAD) {
        out = FA_TEXT(out, "content-length: ");
        out = fa_number(out, met ? 0 : packet->payload_bytes);
        out = FA_TEXT(out, "\r\n");
    }
    out = fa_end(out, now_us, request->close);
    if (!met && request->method != FR_HEAD)
        out = fa_put(out, packet->payload, packet->payload_bytes);
    return out;
}

/* 429 of the HTTP limiter: rounded up, and never 0. */
static inline uint8_t *fa_too_many(uint8_t *out, const fr_request *request, fc_ns wait, uint32_t burst,
                            uint64_t now_us)
{
    uint64_t wait_s = (uint64_t)((wait + FC_NS - 1) / FC_NS);
    uint8_t body[64];
    uint8_t *body_end = FA_TEXT(body, "Too Many Requests! Wait for ");
    body_end = fa_number(body_end, wait_s ? wait_s : 1);
    body_end = FA_TEXT(body_end, "s");
    size_t digits = (size_t)(body_end - body) - sizeof "Too Many Requests! Wait for ";
    const uint8_t *number = body + sizeof "Too Many Requests! Wait for " - 1;
    out = FA_TEXT(out, "HTTP/1.1 429 \r\n");
    out = fa_cors(out, request);
    out = FA_TEXT(out, "x-ratelimit-after: ");
    out = fa_put(out, number, digits);
    out = FA_TEXT(out, "\r\nretry-after: ");
    out = fa_put(out, number, digits);
    out = FA_TEXT(out, "\r\n");
    out = fa_quota(out, burst, 0);
    out = FA_TEXT(out, "content-length: ");
    out = fa_number(out, (uint64_t)(body_end - body));
    out = FA_TEXT(out, "\r\n");
    out = fa_end(out, now_us, request->close);
    if (request->method != FR_HEAD)
        out = fa_put(out, body, (size_t)(body_end - body));
    return out;
}

#endif
