/* What a stored packet's answer needs besides its bytes: the entity tag, and the TTL.
 *
 * BLAKE2b-128 (RFC 7693, unkeyed) is what relay/http/responses.py makes its tags of; the TTL is
 * `min_answer_ttl_s` of relay/pkarr/dns.py. Packets were checked before they were stored; still,
 * no length is believed here, and a message that ends too early has no answers.
 */
#ifndef RELAY_PACKET_FACTS_H
#define RELAY_PACKET_FACTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define PT_TAG_BYTES 16
#define PT_BLAKE2B_BLOCK 128

static const uint64_t PT_BLAKE2B_IV[8] = {
    0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
    0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179,
};

/* The order of message words in each round; rounds 10 and 11 are 0 and 1 again. */
static const uint8_t PT_BLAKE2B_SIGMA[10][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
    {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4},
    {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13},
    {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11},
    {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5},
    {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
};

static inline uint64_t pt_load_64_little(const uint8_t *bytes)
{
    uint64_t word = 0;
    for (int i = 7; i >= 0; i--)
        word = word << 8 | bytes[i];
    return word;
}

static inline uint64_t pt_load_64_big(const uint8_t *bytes)
{
    uint64_t word = 0;
    for (int i = 0; i < 8; i++)
        word = word << 8 | bytes[i];
    return word;
}

static inline unsigned pt_load_16_big(const uint8_t *bytes)
{
    return (unsigned)bytes[0] << 8 | bytes[1];
}

static inline uint64_t pt_rotate_right(uint64_t x, int n) { return x >> n | x << (64 - n); }

static inline void pt_blake2b_mix(uint64_t v[16], int a, int b, int c, int d, uint64_t x,
                                  uint64_t y)
{
    v[a] += v[b] + x;
    v[d] = pt_rotate_right(v[d] ^ v[a], 32);
    v[c] += v[d];
    v[b] = pt_rotate_right(v[b] ^ v[c], 24);
    v[a] += v[b] + y;
    v[d] = pt_rotate_right(v[d] ^ v[a], 16);
    v[c] += v[d];
    v[b] = pt_rotate_right(v[b] ^ v[c], 63);
}

/* `bytes`: how many there were up to the end of this block, padding not counted. */
static inline void pt_blake2b_compress(uint64_t state[8], const uint8_t *block, uint64_t bytes,
                                       bool last)
{
    uint64_t m[16], v[16];
    for (int i = 0; i < 16; i++)
        m[i] = pt_load_64_little(block + 8 * i);
    for (int i = 0; i < 8; i++) {
        v[i] = state[i];
        v[i + 8] = PT_BLAKE2B_IV[i];
    }
    v[12] ^= bytes;
    if (last)
        v[14] = ~v[14];
    for (int round = 0; round < 12; round++) {
        const uint8_t *s = PT_BLAKE2B_SIGMA[round % 10];
        pt_blake2b_mix(v, 0, 4, 8, 12, m[s[0]], m[s[1]]);
        pt_blake2b_mix(v, 1, 5, 9, 13, m[s[2]], m[s[3]]);
        pt_blake2b_mix(v, 2, 6, 10, 14, m[s[4]], m[s[5]]);
        pt_blake2b_mix(v, 3, 7, 11, 15, m[s[6]], m[s[7]]);
        pt_blake2b_mix(v, 0, 5, 10, 15, m[s[8]], m[s[9]]);
        pt_blake2b_mix(v, 1, 6, 11, 12, m[s[10]], m[s[11]]);
        pt_blake2b_mix(v, 2, 7, 8, 13, m[s[12]], m[s[13]]);
        pt_blake2b_mix(v, 3, 4, 9, 14, m[s[14]], m[s[15]]);
    }
    for (int i = 0; i < 8; i++)
        state[i] ^= v[i] ^ v[i + 8];
}

/* The BLAKE2b-128 of a payload; of any length, though it is made for short ones. */
static inline void pt_entity_tag(uint8_t tag[PT_TAG_BYTES], const uint8_t *payload, size_t bytes)
{
    uint64_t state[8];
    uint8_t block[PT_BLAKE2B_BLOCK] = {0};
    size_t done = 0;
    memcpy(state, PT_BLAKE2B_IV, sizeof state);
    state[0] ^= 0x01010000 ^ PT_TAG_BYTES; /* fan-out 1, depth 1, no key, 16 bytes of digest */
    for (; bytes - done > PT_BLAKE2B_BLOCK; done += PT_BLAKE2B_BLOCK)
        pt_blake2b_compress(state, payload + done, done + PT_BLAKE2B_BLOCK, false);
    if (bytes > done)
        memcpy(block, payload + done, bytes - done);
    pt_blake2b_compress(state, block, bytes, true);
    for (int i = 0; i < PT_TAG_BYTES; i++)
        tag[i] = (uint8_t)(state[i / 8] >> 8 * (i % 8));
}

/* The offset after the name at `at`, at most `bytes`. */
static inline size_t pt_pass_name(const uint8_t *dns, size_t bytes, size_t at)
{
    while (at < bytes) {
        unsigned size = dns[at];
        at += size >= 0xC0 ? 2 : size + 1; /* a pointer ends the name, as does the root */
        if (size == 0 || size >= 0xC0)
            break;
    }
    return at < bytes ? at : bytes;
}

/* Whether the message has answers; if so `ttl_s` is their smallest TTL, else 0. */
static inline bool pt_min_answer_ttl_s(const uint8_t *dns, size_t bytes, uint32_t *ttl_s)
{
    *ttl_s = 0;
    if (bytes < 12)
        return false;
    unsigned questions = pt_load_16_big(dns + 4), answers = pt_load_16_big(dns + 6);
    uint32_t smallest = UINT32_MAX;
    size_t at = 12;
    for (; questions > 0 && at < bytes; questions--)
        at = pt_pass_name(dns, bytes, at) + 4;
    for (unsigned i = 0; i < answers; i++) {
        at = pt_pass_name(dns, bytes, at);
        if (at > bytes || bytes - at < 10)
            return false;
        uint32_t ttl = pt_load_16_big(dns + at + 4) << 16 | pt_load_16_big(dns + at + 6);
        if (ttl < smallest)
            smallest = ttl;
        at += 10 + pt_load_16_big(dns + at + 8);
    }
    if (answers > 0)
        *ttl_s = smallest;
    return answers > 0;
}

#endif
