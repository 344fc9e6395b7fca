/* Four field elements and four points at a time, in the lanes of AVX2 registers.
 *
 * The same arithmetic as ed25519_field.h and ed25519_group.h, for batches on x86-64 processors
 * that have AVX2; whether they do is asked once, when the program runs. Everything else, and
 * every other processor, uses the portable code, and both give the same points.
 *
 * An element is ten limbs of alternately 26 and 25 bits: limb i has weight 2^ceil(25.5 i).
 * Each limb is a vector of four 64-bit lanes, one for each element. The multiplier takes the
 * lower 32 bits of a lane, so limbs of factors must stay below 2^32, and what is above bit 31
 * of a factor does not matter. Bounds are multiples of w = 2^26 or 2^25, the limb's weight:
 *
 *   tight     every limb below w + 2^18             what multiplication returns
 *   size n    every limb below n (w + 2^18)         a sum of n tight elements, for instance;
 *                                                   a subtraction adds 2, for the 2p in it
 *
 * A product of sizes m and n has columns below 124.5 m n 2^52, but for the 2^18: column 0 is
 * one plain product and nine with the factor 19, five of them of odd limbs and doubled, which
 * at half the size of even ones makes 1 + 19 (4 + 5/2). So m n <= 16 keeps every column below
 * 2^63, with the carries added on the way. The right factor is also multiplied by 19 first,
 * so n <= 3: 19 * 3 * (2^26 + 2^18) < 2^32.
 */
#ifndef RELAY_ED25519_LANES_H
#define RELAY_ED25519_LANES_H

#include "ed25519_group.h"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__)) && !defined(ED25519_NO_LANES)
#define ED_HAVE_LANES 1

#include <immintrin.h>

#define ED_LANES_INLINE __attribute__((target("avx2"), always_inline)) static inline
#define ED_LANES_CODE __attribute__((target("avx2"), noinline, unused)) static

#if defined(__clang__)
#define ED_UNROLL _Pragma("clang loop unroll(full)")
#else
#define ED_UNROLL _Pragma("GCC unroll 10")
#endif

typedef struct {
    __m256i limb[10];
} ed_lanes;

typedef struct {
    ed_lanes x, y, z, t; /* tight */
} ed_lanes_point;

/* As ed_product. Sizes at most 5, 3, 3, 2; so f and h can be right factors. */
typedef struct {
    ed_lanes e, f, g, h;
} ed_lanes_product;

/* As ed_addend: y - x, y + x, 2z, 2dt. Used as right factors, tight. */
typedef struct {
    ed_lanes yx[2], z2, t2d;
} ed_lanes_addend;

/* Does nothing, but keeps the compiler from moving the rows of a product past each other: it
 * would compute all products first and has no registers to hold them.
 */
#define ED_LANES_FENCE(h)                                                                     \
    __asm__("" : "+x"(h[0]), "+x"(h[1]), "+x"(h[2]), "+x"(h[3]), "+x"(h[4]), "+x"(h[5]),      \
                 "+x"(h[6]), "+x"(h[7]), "+x"(h[8]), "+x"(h[9]))

#define ED_LANES_BITS(i) ((i) % 2 ? 25 : 26)

/* The bits of limb i above its size move to the next limb. */
ED_LANES_INLINE void ed_lanes_carry_limb(__m256i h[10], int i)
{
    const __m256i mask = _mm256_set1_epi64x((1 << ED_LANES_BITS(i)) - 1);
    __m256i carry = _mm256_srli_epi64(h[i], ED_LANES_BITS(i));
    h[i] = _mm256_and_si256(h[i], mask);
    if (i == 9) /* times 19: (1 + 2 + 16) */
        carry = _mm256_add_epi64(_mm256_add_epi64(carry, _mm256_slli_epi64(carry, 1)),
                                 _mm256_slli_epi64(carry, 4));
    h[(i + 1) % 10] = _mm256_add_epi64(h[(i + 1) % 10], carry);
}

/* From columns below 2^63 to a tight element, in two interleaved chains. The carry out of
 * limb 9 is below 2^39, 19 times it below 2^43.3, and what then leaves limb 0 below 2^18.
 */
ED_LANES_INLINE void ed_lanes_carry_columns(ed_lanes *out, __m256i h[10])
{
    ed_lanes_carry_limb(h, 0);
    ed_lanes_carry_limb(h, 4);
    ed_lanes_carry_limb(h, 1);
    ed_lanes_carry_limb(h, 5);
    ed_lanes_carry_limb(h, 2);
    ed_lanes_carry_limb(h, 6);
    ed_lanes_carry_limb(h, 3);
    ed_lanes_carry_limb(h, 7);
    ed_lanes_carry_limb(h, 4);
    ed_lanes_carry_limb(h, 8);
    ed_lanes_carry_limb(h, 9);
    ed_lanes_carry_limb(h, 0);
    ED_UNROLL
    for (int i = 0; i < 10; i++)
        out->limb[i] = h[i];
}

/* out = a b for sizes m and n with m n <= 16 and n <= 3; tight. */
ED_LANES_CODE void ed_lanes_mul(ed_lanes *out, const ed_lanes *a, const ed_lanes *b)
{
    const __m256i nineteen = _mm256_set1_epi64x(19);
    __m256i h[10], b_19[10];
    ED_UNROLL
    for (int j = 1; j < 10; j++)
        b_19[j] = _mm256_mul_epu32(b->limb[j], nineteen);
    ED_UNROLL
    for (int j = 0; j < 10; j++)
        h[j] = _mm256_mul_epu32(a->limb[0], b->limb[j]);
    ED_LANES_FENCE(h);
    ED_UNROLL
    for (int i = 1; i < 10; i++) {
        const __m256i once = a->limb[i], twice = _mm256_add_epi64(once, once);
        ED_UNROLL
        for (int j = 0; j < 10; j++) { /* two odd limbs: their weights give twice the column's */
            const __m256i left = i & j & 1 ? twice : once;
            const __m256i right = i + j < 10 ? b->limb[j] : b_19[j];
            h[(i + j) % 10] = _mm256_add_epi64(h[(i + j) % 10], _mm256_mul_epu32(left, right));
        }
        ED_LANES_FENCE(h);
    }
    ed_lanes_carry_columns(out, h);
}

/* out = a^2 for a of at most size 3; tight. Columns as those of ed_lanes_mul. */
ED_LANES_CODE void ed_lanes_square(ed_lanes *out, const ed_lanes *a)
{
    const __m256i nineteen = _mm256_set1_epi64x(19);
    __m256i h[10], a_19[10];
    ED_UNROLL
    for (int j = 5; j < 10; j++)
        a_19[j] = _mm256_mul_epu32(a->limb[j], nineteen);
    ED_UNROLL
    for (int j = 0; j < 10; j++)
        h[j] = _mm256_setzero_si256();
    ED_UNROLL
    for (int i = 0; i < 10; i++) {
        const __m256i once = a->limb[i], twice = _mm256_add_epi64(once, once);
        const __m256i four_times = _mm256_add_epi64(twice, twice); /* below 2^29 */
        ED_UNROLL
        for (int j = i; j < 10; j++) {
            const __m256i odd = i == j ? twice : four_times, even = i == j ? once : twice;
            const __m256i left = i & j & 1 ? odd : even;
            const __m256i right = i + j < 10 ? a->limb[j] : a_19[j];
            h[(i + j) % 10] = _mm256_add_epi64(h[(i + j) % 10], _mm256_mul_epu32(left, right));
        }
        ED_LANES_FENCE(h);
    }
    ed_lanes_carry_columns(out, h);
}

/* out = a + b: sizes add. */
ED_LANES_INLINE void ed_lanes_add(ed_lanes *out, const ed_lanes *a, const ed_lanes *b)
{
    ED_UNROLL
    for (int i = 0; i < 10; i++)
        out->limb[i] = _mm256_add_epi64(a->limb[i], b->limb[i]);
}

/* Limb i of 2p, so spread that no limb of a tight element exceeds it. */
#define ED_LANES_2P(i) ((i) == 0 ? 0x7ffffda : (i) % 2 ? 0x3fffffe : 0x7fffffe)

/* out = a - b: the size of a, plus 2 * multiple. b is tight for multiple 1; for 2, of size 2. */
ED_LANES_INLINE void ed_lanes_sub(ed_lanes *out, const ed_lanes *a, const ed_lanes *b, int multiple)
{
    ED_UNROLL
    for (int i = 0; i < 10; i++) {
        const __m256i bias = _mm256_set1_epi64x(multiple * ED_LANES_2P(i));
        out->limb[i] = _mm256_sub_epi64(_mm256_add_epi64(a->limb[i], bias), b->limb[i]);
    }
}

/* Makes a tight if it is of size 2^6 at most: each limb hands on less than 2^7. */
ED_LANES_INLINE void ed_lanes_carry(ed_lanes *a)
{
    __m256i carry[10];
    ED_UNROLL
    for (int i = 0; i < 10; i++) {
        carry[i] = _mm256_srli_epi64(a->limb[i], ED_LANES_BITS(i));
        a->limb[i] = _mm256_and_si256(a->limb[i],
                                      _mm256_set1_epi64x((1 << ED_LANES_BITS(i)) - 1));
    }
    carry[9] = _mm256_mul_epu32(carry[9], _mm256_set1_epi64x(19));
    ED_UNROLL
    for (int i = 0; i < 10; i++)
        a->limb[i] = _mm256_add_epi64(a->limb[i], carry[(i + 9) % 10]);
}

ED_LANES_INLINE void ed_lanes_set_small(ed_lanes *out, int value)
{
    out->limb[0] = _mm256_set1_epi64x(value);
    ED_UNROLL
    for (int i = 1; i < 10; i++)
        out->limb[i] = _mm256_setzero_si256();
}

/* Four tight elements. A limb of 51 bits is two of 26 and 25. */
ED_LANES_INLINE void ed_lanes_load(ed_lanes *out, const ed_fe *a, const ed_fe *b, const ed_fe *c,
                                   const ed_fe *d)
{
    const __m256i mask = _mm256_set1_epi64x((1 << 26) - 1);
    for (int i = 0; i < 5; i++) {
        const __m256i limbs =
            _mm256_set_epi64x((long long)d->limb[i], (long long)c->limb[i],
                              (long long)b->limb[i], (long long)a->limb[i]);
        out->limb[2 * i] = _mm256_and_si256(limbs, mask);
        out->limb[2 * i + 1] = _mm256_srli_epi64(limbs, 26); /* at most 2^25 */
    }
}

/* The inverse, from tight to tight. */
ED_LANES_INLINE void ed_lanes_store(ed_fe out[4], const ed_lanes *a)
{
    for (int i = 0; i < 5; i++) {
        uint64_t limbs[4];
        _mm256_storeu_si256((__m256i *)limbs,
                            _mm256_add_epi64(a->limb[2 * i],
                                             _mm256_slli_epi64(a->limb[2 * i + 1], 26)));
        for (int j = 0; j < 4; j++)
            out[j].limb[i] = limbs[j]; /* below 2^52 */
    }
    for (int j = 0; j < 4; j++)
        ed_fe_carry(&out[j], &out[j]);
}

/* All but T. */
ED_LANES_INLINE void ed_lanes_to_projective(ed_lanes_point *p, const ed_lanes_product *r)
{
    ed_lanes_mul(&p->x, &r->e, &r->f);
    ed_lanes_mul(&p->y, &r->g, &r->h);
    ed_lanes_mul(&p->z, &r->g, &r->f);
}

ED_LANES_INLINE void ed_lanes_to_point(ed_lanes_point *p, const ed_lanes_product *r)
{
    ed_lanes_to_projective(p, r);
    ed_lanes_mul(&p->t, &r->e, &r->h);
}

/* r = p + q in each lane: e and f of size 3, g and h of size 2. */
ED_LANES_INLINE void ed_lanes_point_add(ed_lanes_product *r, const ed_lanes_point *p,
                                        const ed_lanes_addend *q)
{
    ed_lanes a, b, c, d;
    ed_lanes_sub(&a, &p->y, &p->x, 1);
    ed_lanes_add(&b, &p->y, &p->x);
    ed_lanes_mul(&a, &a, &q->yx[0]);
    ed_lanes_mul(&b, &b, &q->yx[1]);
    ed_lanes_mul(&c, &p->t, &q->t2d);
    ed_lanes_mul(&d, &p->z, &q->z2);
    ed_lanes_sub(&r->e, &b, &a, 1);
    ed_lanes_add(&r->h, &b, &a);
    ed_lanes_sub(&r->f, &d, &c, 1);
    ed_lanes_add(&r->g, &d, &c);
}

/* r = 2p in each lane: e of size 5, f tight, g of size 3, h of size 2. */
ED_LANES_INLINE void ed_lanes_point_double(ed_lanes_product *r, const ed_lanes_point *p)
{
    ed_lanes xx, yy, zz;
    ed_lanes_square(&xx, &p->x);
    ed_lanes_square(&yy, &p->y);
    ed_lanes_square(&zz, &p->z);
    ed_lanes_add(&r->e, &p->x, &p->y);
    ed_lanes_square(&r->e, &r->e);
    ed_lanes_add(&r->h, &yy, &xx);
    ed_lanes_sub(&r->e, &r->e, &r->h, 2);
    ed_lanes_sub(&r->g, &yy, &xx, 1);
    ed_lanes_add(&zz, &zz, &zz);
    ed_lanes_add(&zz, &zz, &xx);
    ed_lanes_sub(&r->f, &zz, &yy, 1); /* size 5 */
    ed_lanes_carry(&r->f);
}

/* out = a^(2^times) b */
ED_LANES_INLINE void ed_lanes_square_times_mul(ed_lanes *out, const ed_lanes *a, int times,
                                               const ed_lanes *b)
{
    ed_lanes power;
    ed_lanes_square(&power, a);
    for (int i = 1; i < times; i++)
        ed_lanes_square(&power, &power);
    ed_lanes_mul(out, &power, b);
}

/* out = a^(2^252 - 3); the steps of ed_fe_power_252_3. Tight in and out. */
ED_LANES_CODE void ed_lanes_power_252_3(ed_lanes *out, const ed_lanes *a)
{
    ed_lanes x, x_10, x_50;
    ed_lanes_square_times_mul(&x, a, 1, a);             /* x_2 */
    ed_lanes_square_times_mul(&x, &x, 2, &x);           /* x_4 */
    ed_lanes_square_times_mul(&x, &x, 1, a);            /* x_5 */
    ed_lanes_square_times_mul(&x_10, &x, 5, &x);        /* x_10 */
    ed_lanes_square_times_mul(&x, &x_10, 10, &x_10);    /* x_20 */
    ed_lanes_square_times_mul(&x, &x, 20, &x);          /* x_40 */
    ed_lanes_square_times_mul(&x_50, &x, 10, &x_10);    /* x_50 */
    ed_lanes_square_times_mul(&x, &x_50, 50, &x_50);    /* x_100 */
    ed_lanes_square_times_mul(&x, &x, 100, &x);         /* x_200 */
    ed_lanes_square_times_mul(&x, &x, 50, &x_50);       /* x_250 */
    ed_lanes_square_times_mul(out, &x, 2, a);
}

/* ed_decompress for four encodings: a mask of those on the curve. */
ED_LANES_CODE unsigned ed_lanes_decompress(ed_fe x[4], ed_fe y[4],
                                           const uint8_t *const encodings[4])
{
    ed_lanes yy, u, v, v2, uv3, root, constant;
    ed_fe vxx[4];
    unsigned found = 0;
    for (int j = 0; j < 4; j++)
        ed_fe_from_bytes(&y[j], encodings[j]);
    ed_lanes_load(&yy, &y[0], &y[1], &y[2], &y[3]);
    ed_lanes_square(&yy, &yy);
    ed_lanes_set_small(&constant, 1);
    ed_lanes_sub(&u, &yy, &constant, 1); /* size 3 */
    ed_lanes_load(&v, &ED_D, &ED_D, &ED_D, &ED_D);
    ed_lanes_mul(&v, &v, &yy);
    ed_lanes_add(&v, &v, &constant); /* size 2 */
    ed_lanes_square(&v2, &v);
    ed_lanes_mul(&uv3, &u, &v);
    ed_lanes_mul(&uv3, &uv3, &v2);
    ed_lanes_square(&v2, &v2);
    ed_lanes_mul(&v2, &uv3, &v2); /* u v^7 */
    ed_lanes_power_252_3(&root, &v2);
    ed_lanes_mul(&root, &root, &uv3);
    ed_lanes_store(x, &root);
    ed_lanes_square(&root, &root);
    ed_lanes_mul(&root, &root, &v);
    ed_lanes_store(vxx, &root);
    for (int j = 0; j < 4; j++) {
        ed_fe numerator;
        ed_set_numerator(&numerator, &y[j]);
        found |= (unsigned)ed_choose_root(&x[j], &numerator, &vxx[j], encodings[j][31] >> 7) << j;
    }
    return found;
}
#endif
#endif
