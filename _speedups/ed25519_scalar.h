/* Scalars: integers modulo the group order L = 2^252 + 27742317777372353535851937790883648493.
 *
 * Four words, least significant first, always fully reduced (below L) unless a
 * comment says otherwise. Products use Montgomery's reduction with R = 2^256.
 * Variable time: everything here is public.
 */
#ifndef RELAY_ED25519_SCALAR_H
#define RELAY_ED25519_SCALAR_H

#include "ed25519_field.h"

typedef struct {
    uint64_t word[4];
} ed_sc;

static const ed_sc ED_ORDER = {{0x5812631a5cf5d3ed, 0x14def9dea2f79cd6, 0, 0x1000000000000000}};
/* R mod L and R^2 mod L. */
static const ed_sc ED_R = {
    {0xd6ec31748d98951d, 0xc6ef5bf4737dcf70, 0xfffffffffffffffe, 0x0fffffffffffffff}};
static const ed_sc ED_RR = {
    {0xa40611e3449c0f01, 0xd00e1ba768859347, 0xceec73d217f5be65, 0x0399411b7c309a3d}};
/* -1 / L modulo 2^64. */
#define ED_ORDER_NEGATED_INVERSE UINT64_C(0xd2b51da312547e1b)

/* Index of the lowest set bit; word is not 0. */
static inline int ed_lowest_bit(uint64_t word)
{
#if defined(__GNUC__) || defined(__clang__)
    return __builtin_ctzll(word);
#else
    int index = 0;
    while (!(word >> index & 1))
        index++;
    return index;
#endif
}

/* Number of bits of a word that is not 0. */
static inline int ed_bit_length(uint64_t word)
{
#if defined(__GNUC__) || defined(__clang__)
    return 64 - __builtin_clzll(word);
#else
    int bits = 64;
    while (!(word >> (bits - 1) & 1))
        bits--;
    return bits;
#endif
}

/* -1, 0 or 1 as a < b, a = b, a > b; `words` words each. */
static inline int ed_words_compare(const uint64_t *a, const uint64_t *b, int words)
{
    for (int i = words - 1; i >= 0; i--)
        if (a[i] != b[i])
            return a[i] < b[i] ? -1 : 1;
    return 0;
}

/* a -= b; returns the borrow out of the last word. */
static inline uint64_t ed_words_subtract(uint64_t *a, const uint64_t *b, int words)
{
    uint64_t borrow = 0;
    for (int i = 0; i < words; i++) {
        const uint64_t x = a[i], y = x - b[i];
        a[i] = y - borrow;
        borrow = (uint64_t)(x < b[i]) | (uint64_t)(y < borrow);
    }
    return borrow;
}

/* a += b; returns the carry out of the last word. */
static inline uint64_t ed_words_add(uint64_t *a, const uint64_t *b, int words)
{
    uint64_t carry = 0;
    for (int i = 0; i < words; i++) {
        const uint64_t x = a[i] + b[i], y = x + carry;
        carry = (uint64_t)(x < b[i]) | (uint64_t)(y < x);
        a[i] = y;
    }
    return carry;
}

/* Reads 32 bytes; the result need not be below L. */
static inline void ed_sc_load(ed_sc *out, const uint8_t bytes[32])
{
    for (int i = 0; i < 4; i++)
        out->word[i] = ed_load_64(bytes + 8 * i);
}

static inline int ed_sc_is_reduced(const ed_sc *a)
{
    return ed_words_compare(a->word, ED_ORDER.word, 4) < 0;
}

/* out = a + b modulo L. The sum is below 2^254: no carry leaves the fourth word. */
static inline void ed_sc_add(ed_sc *out, const ed_sc *a, const ed_sc *b)
{
    ed_sc sum = *a;
    ed_words_add(sum.word, b->word, 4);
    if (!ed_sc_is_reduced(&sum))
        ed_words_subtract(sum.word, ED_ORDER.word, 4);
    *out = sum;
}

/* out = a b / R modulo L, for any a below 2^256 and b below L.
 *
 * (a b + m L) / R with m < R is below (2^256 L + 2^256 L) / 2^256 = 2L, so one
 * conditional subtraction reduces it, and no intermediate sum exceeds five words.
 */
static inline void ed_sc_montgomery(ed_sc *out, const ed_sc *a, const ed_sc *b)
{
    uint64_t t[5] = {0, 0, 0, 0, 0};
    for (int i = 0; i < 4; i++) {
        uint64_t carry = 0;
        ed_wide sum;
        for (int j = 0; j < 4; j++) { /* t += a[i] b; each step is below 2^128 */
            sum = ed_add_word(ed_add_word(ed_mul_wide(a->word[i], b->word[j]), t[j]), carry);
            t[j] = ed_low(sum);
            carry = ed_high(sum);
        }
        t[4] += carry; /* below 2^64: t < 2L before, a[i] b < 2^64 L */
        const uint64_t m = t[0] * ED_ORDER_NEGATED_INVERSE;
        sum = ed_add_word(ed_mul_wide(m, ED_ORDER.word[0]), t[0]); /* low word becomes 0 */
        carry = ed_high(sum);
        for (int j = 1; j < 4; j++) {
            sum = ed_add_word(ed_add_word(ed_mul_wide(m, ED_ORDER.word[j]), t[j]), carry);
            t[j - 1] = ed_low(sum);
            carry = ed_high(sum);
        }
        t[3] = t[4] + carry;
        t[4] = 0; /* t < 2L < 2^254 again */
    }
    for (int i = 0; i < 4; i++)
        out->word[i] = t[i];
    if (!ed_sc_is_reduced(out))
        ed_words_subtract(out->word, ED_ORDER.word, 4);
}

/* out = a b modulo L, for any a below 2^256 and b below L. */
static inline void ed_sc_mul(ed_sc *out, const ed_sc *a, const ed_sc *b)
{
    ed_sc product;
    ed_sc_montgomery(&product, a, b);
    ed_sc_montgomery(out, &product, &ED_RR);
}

/* out = a 512-bit little-endian integer modulo L: high 2^256 + low, with R = 2^256. */
static inline void ed_sc_reduce_wide(ed_sc *out, const uint8_t bytes[64])
{
    ed_sc low, high;
    ed_sc_load(&low, bytes);
    ed_sc_load(&high, bytes + 32);
    ed_sc_montgomery(&low, &low, &ED_R);
    ed_sc_montgomery(&high, &high, &ED_RR);
    ed_sc_add(out, &low, &high);
}

/* One digit of a sparse signed expansion: `value` times 2^position, value odd. */
typedef struct {
    int16_t position;
    int16_t value;
} ed_digit;

/* A scalar below 2^254 has at most 255 / 4 + 1 digits of width 4 or more. */
#define ED_DIGITS_MAX 65

/* Width-w non-adjacent form, least significant digit first: a = sum value 2^position,
 * |value| < 2^(width-1), positions at least `width` apart and at most 254. Returns the
 * number of digits. Takes width 4 to 9 and a below 2^254.
 */
static inline int ed_sc_wnaf(ed_digit digits[ED_DIGITS_MAX], const ed_sc *a, int width)
{
    const uint64_t words[5] = {a->word[0], a->word[1], a->word[2], a->word[3], 0};
    const int64_t size = (int64_t)1 << width;
    int position = 0, count = 0, carry = 0;
    while (position < 256) {
        const int word = position >> 6, shift = position & 63;
        uint64_t bits = words[word] >> shift;
        if (shift != 0)
            bits |= words[word + 1] << (64 - shift);
        /* With a carry pending, a run of ones passes it on: the next digit is at a zero. */
        const uint64_t stops = carry ? ~bits : bits;
        if (stops == 0) {
            position += 64;
            continue;
        }
        const int skip = ed_lowest_bit(stops);
        if (skip != 0) { /* look again: the window may need bits not loaded yet */
            position += skip;
            continue;
        }
        int64_t value = (int64_t)(bits & (uint64_t)(size - 1)) + carry;
        carry = value > size / 2;
        if (carry)
            value -= size;
        digits[count].position = (int16_t)position;
        digits[count].value = (int16_t)value;
        count++;
        position += width;
    }
    return count;
}

/* Two half-length numbers (t, r) with t k = r modulo L, 0 < |t| < 2^126, 0 <= r < 2^127.
 *
 * Multiplying the verification equation by such a t halves the length of every
 * scalar in it, and so the number of doublings (Antipa et al., "Accelerated
 * verification of ECDSA signatures", SAC 2005; for this curve Pornin, eprint
 * 2020/454). t is not 0 modulo the prime L: multiples of a point of order L
 * vanish exactly when the point does.
 *
 * Euclid's algorithm on (L, k), stopped at the first remainder r below 2^127. Its
 * cofactors satisfy r_i |t_{i+1}| + r_{i+1} |t_i| = L, hence |t_{i+1}| <= L / r_i
 * <= L / 2^127 < 2^126 for the last one; their signs alternate. Quotients are
 * found by shifting and subtracting, since they are nearly always tiny.
 */
static inline void ed_sc_halve(ed_sc *t, int *t_is_negative, ed_sc *r, const ed_sc *k)
{
    uint64_t values[2][4], factors[2][2] = {{0, 0}, {1, 0}};
    uint64_t *u = values[0], *v = values[1], *tu = factors[0], *tv = factors[1], *swapped;
    int negative = 0;
    memcpy(u, ED_ORDER.word, sizeof values[0]);
    memcpy(v, k->word, sizeof values[1]);
    while (v[3] | v[2] | v[1] >> 63) {
        const int v_top = v[3] ? 3 : v[2] ? 2 : 1;
        const int v_bits = 64 * v_top + ed_bit_length(v[v_top]);
        while (ed_words_compare(u, v, 4) >= 0) {
            const int u_top = u[3] ? 3 : u[2] ? 2 : 1; /* u >= v, so it is not 0 either */
            int shift = 64 * u_top + ed_bit_length(u[u_top]) - v_bits;
            uint64_t shifted[4] = {0, 0, 0, 0}, shifted_factor[2];
            for (;; shift--) { /* at most twice */
                const int skip = shift >> 6, rest = shift & 63;
                for (int i = 3; i >= skip; i--)
                    shifted[i] = v[i - skip] << rest |
                                 (rest && i > skip ? v[i - skip - 1] >> (64 - rest) : 0);
                for (int i = 0; i < skip; i++)
                    shifted[i] = 0;
                if (ed_words_compare(shifted, u, 4) <= 0)
                    break;
            }
            ed_words_subtract(u, shifted, 4);
            /* |t_{i+1}| < 2^126 is the sum of these, so nothing is shifted out. */
            shifted_factor[0] = shift < 64 ? tv[0] << shift : 0;
            shifted_factor[1] = shift == 0   ? tv[1]
                                : shift < 64 ? tv[1] << shift | tv[0] >> (64 - shift)
                                             : tv[0] << (shift - 64);
            ed_words_add(tu, shifted_factor, 2);
        }
        swapped = u, u = v, v = swapped;
        swapped = tu, tu = tv, tv = swapped;
        negative = !negative;
    }
    *t = (ed_sc){{tv[0], tv[1], 0, 0}};
    *r = (ed_sc){{v[0], v[1], 0, 0}};
    *t_is_negative = negative;
}
#endif
