/* SipHash (Aumasson and Bernstein, 2012): a keyed hash for tables whose keys strangers choose
 * (1-3, as hash tables elsewhere), and for short proofs that they must not guess (2-4).
 * Twin: `siphash` in relay/_pure/dht.py. */
#ifndef RELAY_SIPHASH_H
#define RELAY_SIPHASH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint64_t sh_load(const uint8_t *bytes, size_t size)
{
    uint64_t word = 0;
    for (size_t i = size; i-- > 0;)
        word = word << 8 | bytes[i];
    return word;
}

static inline uint64_t sh_rotate_left(uint64_t x, int n) { return x << n | x >> (64 - n); }

static inline void sh_round(uint64_t v[4])
{
    v[0] += v[1];
    v[2] += v[3];
    v[1] = sh_rotate_left(v[1], 13) ^ v[0];
    v[3] = sh_rotate_left(v[3], 16) ^ v[2];
    v[0] = sh_rotate_left(v[0], 32);
    v[2] += v[1];
    v[0] += v[3];
    v[1] = sh_rotate_left(v[1], 17) ^ v[2];
    v[3] = sh_rotate_left(v[3], 21) ^ v[0];
    v[2] = sh_rotate_left(v[2], 32);
}

/* `rounds` for each word, `final_rounds` at the end: 1 and 3, or 2 and 4. */
static inline uint64_t sh_hash(const uint64_t key[2], const uint8_t *bytes, size_t size,
                               int rounds, int final_rounds)
{
    uint64_t v[4] = {
        key[0] ^ 0x736f6d6570736575, key[1] ^ 0x646f72616e646f6d,
        key[0] ^ 0x6c7967656e657261, key[1] ^ 0x7465646279746573,
    };
    for (size_t at = 0; at <= size; at += 8) {
        uint64_t word = size - at >= 8 ? sh_load(bytes + at, 8)
                                       : sh_load(bytes + at, size - at) | (uint64_t)size << 56;
        v[3] ^= word;
        for (int i = 0; i < rounds; i++)
            sh_round(v);
        v[0] ^= word;
    }
    v[2] ^= 0xff;
    for (int i = 0; i < final_rounds; i++)
        sh_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

#endif
