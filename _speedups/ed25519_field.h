/* Arithmetic modulo p = 2^255 - 19, for verifying public data only.
 *
 * An element is five limbs of radix 2^51. Limbs may exceed 51 bits; how far is
 * part of each function's contract, in two classes:
 *
 *   tight   every limb <= 2^51 + 2^13           what multiplication returns
 *   loose   every limb <  2^54                  what multiplication takes
 *
 * Addition does not carry: tight + tight <= 2^52 + 2^14. Subtraction adds 4p
 * first: its subtrahend may have limbs up to 2^53 - 76, its result is below
 * the minuend + 2^53. So one addition and one subtraction, in any order, of
 * tight values stay loose, and point formulas need no carries of their own:
 *     (tight + tight) + 4p - tight < 2^52 + 2^14 + 2^53 < 2^54.
 *
 * Time depends on values nowhere here, but nothing relies on that: there are no
 * secrets in a verification.
 */
#ifndef RELAY_ED25519_FIELD_H
#define RELAY_ED25519_FIELD_H

#include <stdint.h>
#include <string.h>

/* 128-bit accumulators: the compiler's own where it has them; otherwise two
 * words, slower by about four times but right on any C99 compiler (MSVC, 32 bit).
 */
#if defined(__SIZEOF_INT128__) && !defined(ED25519_PORTABLE_WIDE)
__extension__ typedef unsigned __int128 ed_wide;

static inline ed_wide ed_mul_wide(uint64_t a, uint64_t b) { return (ed_wide)a * b; }
static inline ed_wide ed_add_wide(ed_wide a, ed_wide b) { return a + b; }
static inline ed_wide ed_add_word(ed_wide a, uint64_t b) { return a + b; }
static inline uint64_t ed_low(ed_wide a) { return (uint64_t)a; }
static inline uint64_t ed_high(ed_wide a) { return (uint64_t)(a >> 64); }
static inline uint64_t ed_shift_51(ed_wide a) { return (uint64_t)(a >> 51); }
#else
typedef struct {
    uint64_t low, high;
} ed_wide;

static inline ed_wide ed_mul_wide(uint64_t a, uint64_t b)
{
    const uint64_t a0 = (uint32_t)a, a1 = a >> 32, b0 = (uint32_t)b, b1 = b >> 32;
    const uint64_t cross = (a0 * b0 >> 32) + (uint32_t)(a1 * b0) + a0 * b1; /* < 2^64: no wrap */
    ed_wide product;
    product.low = cross << 32 | (uint32_t)(a0 * b0);
    product.high = a1 * b1 + (a1 * b0 >> 32) + (cross >> 32);
    return product;
}

static inline ed_wide ed_add_word(ed_wide a, uint64_t b)
{
    a.low += b;
    a.high += a.low < b;
    return a;
}

static inline ed_wide ed_add_wide(ed_wide a, ed_wide b)
{
    a = ed_add_word(a, b.low);
    a.high += b.high;
    return a;
}

static inline uint64_t ed_low(ed_wide a) { return a.low; }
static inline uint64_t ed_high(ed_wide a) { return a.high; }
static inline uint64_t ed_shift_51(ed_wide a) { return a.low >> 51 | a.high << 13; }
#endif

/* Kept out of line: inlined into long formulas, GCC has too few registers for them and puts
 * carries through memory, which costs a third of the speed.
 */
#if defined(__GNUC__) || defined(__clang__)
#define ED_OUT_OF_LINE __attribute__((noinline, unused)) static
#else
#define ED_OUT_OF_LINE static
#endif

#define ED_MASK_51 ((UINT64_C(1) << 51) - 1)

typedef struct {
    uint64_t limb[5];
} ed_fe;

static const ed_fe ED_ZERO = {{0, 0, 0, 0, 0}};
static const ed_fe ED_ONE = {{1, 0, 0, 0, 0}};

/* d = -121665/121666 of the curve equation -x^2 + y^2 = 1 + d x^2 y^2. */
static const ed_fe ED_D = {{0x34dca135978a3, 0x1a8283b156ebd, 0x5e7a26001c029,
                            0x739c663a03cbb, 0x52036cee2b6ff}};
static const ed_fe ED_D_INVERSE = {{0x0f276cdc9f843, 0x3084f2a85c4bc, 0x6e73d982d775a,
                                     0x721958b108a66, 0x40907ed214d5c}};
static const ed_fe ED_2D = {{0x69b9426b2f159, 0x35050762add7a, 0x3cf44c0038052,
                             0x6738cc7407977, 0x2406d9dc56dff}};
/* A square root of -1: 2^((p-1)/4). */
static const ed_fe ED_SQRT_M1 = {{0x61b274a0ea0b0, 0x0d5a5fc8f189d, 0x7ef5e9cbd0c60,
                                  0x78595a6804c9e, 0x2b8324804fc1d}};

static inline uint64_t ed_load_64(const uint8_t bytes[8])
{
    uint64_t word = 0;
    for (int i = 7; i >= 0; i--)
        word = word << 8 | bytes[i];
    return word;
}

static inline void ed_store_64(uint8_t bytes[8], uint64_t word)
{
    for (int i = 0; i < 8; i++)
        bytes[i] = (uint8_t)(word >> 8 * i);
}

/* out = a + b, without carry: limbs add. */
static inline void ed_fe_add(ed_fe *out, const ed_fe *a, const ed_fe *b)
{
    for (int i = 0; i < 5; i++)
        out->limb[i] = a->limb[i] + b->limb[i];
}

/* out = a - b, limbs of b at most 2^53 - 76; limbs of out below those of a plus 2^53. */
static inline void ed_fe_sub(ed_fe *out, const ed_fe *a, const ed_fe *b)
{
    out->limb[0] = a->limb[0] + 0x1fffffffffffb4 - b->limb[0]; /* 4 (2^51 - 19) */
    for (int i = 1; i < 5; i++)
        out->limb[i] = a->limb[i] + 0x1ffffffffffffc - b->limb[i]; /* 4 (2^51 - 1) */
}

static inline void ed_fe_negate(ed_fe *out, const ed_fe *a) { ed_fe_sub(out, &ED_ZERO, a); }

/* Carries five accumulators, each below 2^115, into a tight element.
 *
 * Every carry then fits 64 bits: a shift by 51 leaves less than 2^64. The callers
 * keep column 4, which has no factor 19, below 2^110.4: its carry is below 2^59.4,
 * 19 times that below 2^63.7, and adding it to limb 0 cannot wrap. What limb 0
 * hands to limb 1 is below 2^13.
 */
static inline void ed_fe_carry_wide(ed_fe *out, ed_wide c0, ed_wide c1, ed_wide c2, ed_wide c3,
                                    ed_wide c4)
{
    uint64_t r0, r1, r2, r3, r4;
    c1 = ed_add_word(c1, ed_shift_51(c0));
    r0 = ed_low(c0) & ED_MASK_51;
    c2 = ed_add_word(c2, ed_shift_51(c1));
    r1 = ed_low(c1) & ED_MASK_51;
    c3 = ed_add_word(c3, ed_shift_51(c2));
    r2 = ed_low(c2) & ED_MASK_51;
    c4 = ed_add_word(c4, ed_shift_51(c3));
    r3 = ed_low(c3) & ED_MASK_51;
    r0 += 19 * ed_shift_51(c4);
    r4 = ed_low(c4) & ED_MASK_51;
    r1 += r0 >> 51;
    out->limb[0] = r0 & ED_MASK_51;
    out->limb[1] = r1;
    out->limb[2] = r2;
    out->limb[3] = r3;
    out->limb[4] = r4;
}

/* out = a b; loose in, tight out.
 *
 * The largest column is 0: one plain product and four with the factor 19,
 * (1 + 4 * 19) 2^108 < 2^114.3. Column 4 is five plain products and a carry:
 * 5 * 2^108 + 2^64 < 2^110.4. 19 b < 2^58.3 fits a word.
 */
ED_OUT_OF_LINE void ed_fe_mul(ed_fe *out, const ed_fe *a, const ed_fe *b)
{
    const uint64_t a0 = a->limb[0], a1 = a->limb[1], a2 = a->limb[2], a3 = a->limb[3],
                   a4 = a->limb[4];
    const uint64_t b0 = b->limb[0], b1 = b->limb[1], b2 = b->limb[2], b3 = b->limb[3],
                   b4 = b->limb[4];
    const uint64_t b1_19 = 19 * b1, b2_19 = 19 * b2, b3_19 = 19 * b3, b4_19 = 19 * b4;
#define ED_SUM_5(p, q, r, s, t) \
    ed_add_wide(ed_add_wide(ed_add_wide(p, q), ed_add_wide(r, s)), t)
    const ed_wide c0 = ED_SUM_5(ed_mul_wide(a0, b0), ed_mul_wide(a1, b4_19),
                                ed_mul_wide(a2, b3_19), ed_mul_wide(a3, b2_19),
                                ed_mul_wide(a4, b1_19));
    const ed_wide c1 = ED_SUM_5(ed_mul_wide(a0, b1), ed_mul_wide(a1, b0), ed_mul_wide(a2, b4_19),
                                ed_mul_wide(a3, b3_19), ed_mul_wide(a4, b2_19));
    const ed_wide c2 = ED_SUM_5(ed_mul_wide(a0, b2), ed_mul_wide(a1, b1), ed_mul_wide(a2, b0),
                                ed_mul_wide(a3, b4_19), ed_mul_wide(a4, b3_19));
    const ed_wide c3 = ED_SUM_5(ed_mul_wide(a0, b3), ed_mul_wide(a1, b2), ed_mul_wide(a2, b1),
                                ed_mul_wide(a3, b0), ed_mul_wide(a4, b4_19));
    const ed_wide c4 = ED_SUM_5(ed_mul_wide(a0, b4), ed_mul_wide(a1, b3), ed_mul_wide(a2, b2),
                                ed_mul_wide(a3, b1), ed_mul_wide(a4, b0));
#undef ED_SUM_5
    ed_fe_carry_wide(out, c0, c1, c2, c3, c4);
}

/* out = a^2; loose in, tight out. The columns are those of ed_fe_mul, equal products
 * taken once and doubled: 38 a < 2^59.3 fits a word.
 */
ED_OUT_OF_LINE void ed_fe_square(ed_fe *out, const ed_fe *a)
{
    const uint64_t a0 = a->limb[0], a1 = a->limb[1], a2 = a->limb[2], a3 = a->limb[3],
                   a4 = a->limb[4];
    const uint64_t a0_2 = 2 * a0, a1_2 = 2 * a1, a3_19 = 19 * a3, a4_19 = 19 * a4;
#define ED_SUM_3(p, q, r) ed_add_wide(ed_add_wide(p, q), r)
    const ed_wide c0 = ED_SUM_3(ed_mul_wide(a0, a0), ed_mul_wide(a1_2, a4_19),
                                ed_mul_wide(2 * a2, a3_19));
    const ed_wide c1 = ED_SUM_3(ed_mul_wide(a0_2, a1), ed_mul_wide(2 * a2, a4_19),
                                ed_mul_wide(a3, a3_19));
    const ed_wide c2 = ED_SUM_3(ed_mul_wide(a0_2, a2), ed_mul_wide(a1, a1),
                                ed_mul_wide(2 * a3, a4_19));
    const ed_wide c3 = ED_SUM_3(ed_mul_wide(a0_2, a3), ed_mul_wide(a1_2, a2),
                                ed_mul_wide(a4, a4_19));
    const ed_wide c4 = ED_SUM_3(ed_mul_wide(a0_2, a4), ed_mul_wide(a1_2, a3),
                                ed_mul_wide(a2, a2));
#undef ED_SUM_3
    ed_fe_carry_wide(out, c0, c1, c2, c3, c4);
}

/* Reads 255 bits; bit 255 is ignored, a value of p or more is taken modulo p. Tight. */
static inline void ed_fe_from_bytes(ed_fe *out, const uint8_t bytes[32])
{
    const uint64_t w0 = ed_load_64(bytes), w1 = ed_load_64(bytes + 8);
    const uint64_t w2 = ed_load_64(bytes + 16), w3 = ed_load_64(bytes + 24);
    out->limb[0] = w0 & ED_MASK_51;
    out->limb[1] = (w0 >> 51 | w1 << 13) & ED_MASK_51;
    out->limb[2] = (w1 >> 38 | w2 << 26) & ED_MASK_51;
    out->limb[3] = (w2 >> 25 | w3 << 39) & ED_MASK_51;
    out->limb[4] = w3 >> 12 & ED_MASK_51;
}

/* Brings limbs below 2^63 back under 2^51 + 2^17, loose ones (below 2^54) to tight. */
static inline void ed_fe_carry(ed_fe *out, const ed_fe *a)
{
    const ed_fe in = *a;
    out->limb[0] = (in.limb[0] & ED_MASK_51) + 19 * (in.limb[4] >> 51);
    for (int i = 1; i < 5; i++)
        out->limb[i] = (in.limb[i] & ED_MASK_51) + (in.limb[i - 1] >> 51);
}

/* Limbs of the one representative below p. Takes limbs below 2^63. */
static inline void ed_fe_canonical(ed_fe *out, const ed_fe *a)
{
    uint64_t quotient;
    ed_fe_carry(out, a);
    /* Now the value is below 2p, so floor(value / p) is 0 or 1: the carry out of value + 19. */
    quotient = (out->limb[0] + 19) >> 51;
    for (int i = 1; i < 5; i++)
        quotient = (out->limb[i] + quotient) >> 51;
    out->limb[0] += 19 * quotient;
    for (int i = 0; i < 4; i++) {
        out->limb[i + 1] += out->limb[i] >> 51;
        out->limb[i] &= ED_MASK_51;
    }
    out->limb[4] &= ED_MASK_51; /* drops 2^255 = p + 19 */
}

static inline void ed_fe_to_bytes(uint8_t bytes[32], const ed_fe *a)
{
    ed_fe c;
    ed_fe_canonical(&c, a);
    ed_store_64(bytes, c.limb[0] | c.limb[1] << 51);
    ed_store_64(bytes + 8, c.limb[1] >> 13 | c.limb[2] << 38);
    ed_store_64(bytes + 16, c.limb[2] >> 26 | c.limb[3] << 25);
    ed_store_64(bytes + 24, c.limb[3] >> 39 | c.limb[4] << 12);
}

/* Whether a = 0 modulo p; limbs below 2^63. */
static inline int ed_fe_is_zero(const ed_fe *a)
{
    ed_fe c;
    ed_fe_canonical(&c, a);
    return (c.limb[0] | c.limb[1] | c.limb[2] | c.limb[3] | c.limb[4]) == 0;
}

/* The parity of the representative below p: RFC 8032's sign of x. */
static inline int ed_fe_is_odd(const ed_fe *a)
{
    ed_fe c;
    ed_fe_canonical(&c, a);
    return (int)(c.limb[0] & 1);
}

#endif
