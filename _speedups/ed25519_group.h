/* Points of -x^2 + y^2 = 1 + d x^2 y^2, in extended twisted Edwards coordinates.
 *
 * x = X/Z, y = Y/Z, T = XY/Z (Hisil, Wong, Carter, Dawson, "Twisted Edwards curves
 * revisited", 2008). With a = -1 a square and d not one, the addition used here is
 * complete: it holds for every pair of points of the curve, equal ones, the
 * identity and those of small order included, and Z never becomes 0. No case
 * needs a branch, whatever points a stranger sends.
 *
 * Bounds: coordinates of ed_point are tight, those of the other forms loose
 * (ed25519_field.h).
 */
#ifndef RELAY_ED25519_GROUP_H
#define RELAY_ED25519_GROUP_H

#include "ed25519_field.h"

/* X, Y, Z, T; tight. T is left unset where a doubling is all that follows. */
typedef struct {
    ed_fe x, y, z, t;
} ed_point;

/* The factors whose products are the coordinates: X = EF, Y = GH, Z = FG, T = EH. Loose. */
typedef struct {
    ed_fe e, f, g, h;
} ed_product;

/* A point with Z = 1, ready to be added: y - x, y + x, 2dxy. Tight.
 * The first two are an array so that negation is an index: -P has them swapped.
 */
typedef struct {
    ed_fe yx[2];
    ed_fe xy2d;
} ed_affine;

/* Any point, ready to be added: Y - X, Y + X, 2Z, 2dT. Loose. */
typedef struct {
    ed_fe yx[2];
    ed_fe z2;
    ed_fe t2d;
} ed_addend;

static inline void ed_point_set_identity(ed_point *p)
{
    p->x = ED_ZERO;
    p->y = ED_ONE;
    p->z = ED_ONE;
    p->t = ED_ZERO;
}

/* All but T: enough for a doubling. */
static inline void ed_product_to_projective(ed_point *p, const ed_product *r)
{
    ed_fe_mul(&p->x, &r->e, &r->f);
    ed_fe_mul(&p->y, &r->g, &r->h);
    ed_fe_mul(&p->z, &r->f, &r->g);
}

static inline void ed_product_to_point(ed_point *p, const ed_product *r)
{
    ed_product_to_projective(p, r);
    ed_fe_mul(&p->t, &r->e, &r->h);
}

/* The common end of both additions, from A = (Y1-X1)(Y2-X2), B = (Y1+X1)(Y2+X2),
 * C = 2d T1 T2 and D = 2 Z1 Z2: E = B - A, H = B + A, F = D - C, G = D + C. The negated
 * point has -C for C, so `negate` (0 or 1) swaps F and G. A, B, C are tight, D is at
 * most twice that: F < 2^52 + 2^14 + 2^53 is loose.
 */
static inline void ed_sum_from_products(ed_product *r, const ed_fe *a, const ed_fe *b,
                                        const ed_fe *c, const ed_fe *d, unsigned negate)
{
    ed_fe fg[2];
    ed_fe_sub(&r->e, b, a);
    ed_fe_add(&r->h, b, a);
    ed_fe_sub(&fg[negate], d, c);
    ed_fe_add(&fg[1 - negate], d, c);
    r->f = fg[0];
    r->g = fg[1];
}

/* r = p + q, or p - q if `negate` is 1 rather than 0. */
static inline void ed_point_add(ed_product *r, const ed_point *p, const ed_addend *q,
                                unsigned negate)
{
    ed_fe a, b, c, d;
    ed_fe_sub(&a, &p->y, &p->x);
    ed_fe_add(&b, &p->y, &p->x);
    ed_fe_mul(&a, &a, &q->yx[negate]);
    ed_fe_mul(&b, &b, &q->yx[1 - negate]);
    ed_fe_mul(&c, &p->t, &q->t2d);
    ed_fe_mul(&d, &p->z, &q->z2);
    ed_sum_from_products(r, &a, &b, &c, &d, negate);
}

/* The same for a point with Z = 1: one multiplication less. */
static inline void ed_point_add_affine(ed_product *r, const ed_point *p, const ed_affine *q,
                                       unsigned negate)
{
    ed_fe a, b, c, d;
    ed_fe_sub(&a, &p->y, &p->x);
    ed_fe_add(&b, &p->y, &p->x);
    ed_fe_mul(&a, &a, &q->yx[negate]);
    ed_fe_mul(&b, &b, &q->yx[1 - negate]);
    ed_fe_mul(&c, &p->t, &q->xy2d);
    ed_fe_add(&d, &p->z, &p->z);
    ed_sum_from_products(r, &a, &b, &c, &d, negate);
}

/* r = 2p; T of p is not used.
 *
 * H = X^2 + Y^2, G = Y^2 - X^2, E = (X + Y)^2 - H, F = 2 Z^2 - G: the formulas with the
 * signs of F and H turned, which turns all four coordinates and so changes nothing.
 * F is computed as (2 Z^2 + X^2) - Y^2, below 2^51 (2 + 1 + 4) + 2^15: loose.
 */
static inline void ed_point_double(ed_product *r, const ed_point *p)
{
    ed_fe xx, yy, zz;
    ed_fe_square(&xx, &p->x);
    ed_fe_square(&yy, &p->y);
    ed_fe_square(&zz, &p->z);
    ed_fe_add(&r->e, &p->x, &p->y);
    ed_fe_square(&r->e, &r->e);
    ed_fe_add(&r->h, &yy, &xx);
    ed_fe_sub(&r->e, &r->e, &r->h);
    ed_fe_sub(&r->g, &yy, &xx);
    ed_fe_add(&zz, &zz, &zz);
    ed_fe_add(&zz, &zz, &xx);
    ed_fe_sub(&r->f, &zz, &yy);
}

static inline void ed_point_to_addend(ed_addend *q, const ed_point *p)
{
    ed_fe_sub(&q->yx[0], &p->y, &p->x);
    ed_fe_add(&q->yx[1], &p->y, &p->x);
    ed_fe_add(&q->z2, &p->z, &p->z);
    ed_fe_mul(&q->t2d, &p->t, &ED_2D);
}

/* From tight x and y. */
static inline void ed_affine_set(ed_affine *q, const ed_fe *x, const ed_fe *y)
{
    ed_fe_sub(&q->yx[0], y, x);
    ed_fe_carry(&q->yx[0], &q->yx[0]);
    ed_fe_add(&q->yx[1], y, x);
    ed_fe_carry(&q->yx[1], &q->yx[1]);
    ed_fe_mul(&q->xy2d, x, y);
    ed_fe_mul(&q->xy2d, &q->xy2d, &ED_2D);
}

static inline void ed_affine_to_addend(ed_addend *q, const ed_affine *p)
{
    q->yx[0] = p->yx[0];
    q->yx[1] = p->yx[1];
    ed_fe_add(&q->z2, &ED_ONE, &ED_ONE);
    q->t2d = p->xy2d;
}

/* p = q, or -q if `negate` is 1: X = 2x, Y = 2y, Z = 2, T = 2xy. */
static inline void ed_affine_to_point(ed_point *p, const ed_affine *q, unsigned negate)
{
    ed_fe_sub(&p->x, &q->yx[1 - negate], &q->yx[negate]);
    ed_fe_carry(&p->x, &p->x);
    ed_fe_add(&p->y, &q->yx[1], &q->yx[0]);
    ed_fe_carry(&p->y, &p->y);
    ed_fe_add(&p->z, &ED_ONE, &ED_ONE);
    ed_fe_mul(&p->t, &q->xy2d, &ED_D_INVERSE);
    if (negate) {
        ed_fe_negate(&p->t, &p->t);
        ed_fe_carry(&p->t, &p->t);
    }
}

/* Whether [8]p is the identity, X = 0 and Y = Z: p has only a torsion component.
 * T of p is not used.
 */
static inline int ed_point_is_torsion(const ed_point *p)
{
    ed_point q = *p;
    ed_product doubled;
    for (int i = 0; i < 3; i++) {
        ed_point_double(&doubled, &q);
        ed_product_to_projective(&q, &doubled);
    }
    ed_fe_sub(&q.y, &q.y, &q.z);
    return ed_fe_is_zero(&q.x) && ed_fe_is_zero(&q.y);
}

/* a[0..count-1] squared `times` times, in place. A chain of squarings leaves the
 * multiplier half idle, since each step awaits the one before: two chains side by side
 * take hardly longer than one.
 */
static inline void ed_fe_square_times(ed_fe *a, int count, int times)
{
    for (int i = 0; i < times; i++)
        for (int j = 0; j < count; j++)
            ed_fe_square(&a[j], &a[j]);
}

static inline void ed_fe_mul_each(ed_fe *a, const ed_fe *b, int count)
{
    for (int j = 0; j < count; j++)
        ed_fe_mul(&a[j], &a[j], &b[j]);
}

#define ED_ROOTS_MAX 2

/* a[j] = a[j]^((p - 5) / 8), with (p - 5) / 8 = 2^252 - 3; tight in and out.
 *
 * With x_n = a^(2^n - 1): x_(m+n) = x_m^(2^n) x_n.
 */
static inline void ed_fe_power_252_3(ed_fe *a, int count)
{
    ed_fe x[ED_ROOTS_MAX], x_10[ED_ROOTS_MAX], x_50[ED_ROOTS_MAX], saved[ED_ROOTS_MAX];
    const size_t bytes = (size_t)count * sizeof(ed_fe);
    memcpy(x, a, bytes); /* x_1 */
    ed_fe_square_times(x, count, 1);
    ed_fe_mul_each(x, a, count); /* x_2 */
    memcpy(saved, x, bytes);
    ed_fe_square_times(x, count, 2);
    ed_fe_mul_each(x, saved, count); /* x_4 */
    ed_fe_square_times(x, count, 1);
    ed_fe_mul_each(x, a, count); /* x_5 */
    memcpy(saved, x, bytes);
    ed_fe_square_times(x, count, 5);
    ed_fe_mul_each(x, saved, count); /* x_10 */
    memcpy(x_10, x, bytes);
    ed_fe_square_times(x, count, 10);
    ed_fe_mul_each(x, x_10, count); /* x_20 */
    memcpy(saved, x, bytes);
    ed_fe_square_times(x, count, 20);
    ed_fe_mul_each(x, saved, count); /* x_40 */
    ed_fe_square_times(x, count, 10);
    ed_fe_mul_each(x, x_10, count); /* x_50 */
    memcpy(x_50, x, bytes);
    ed_fe_square_times(x, count, 50);
    ed_fe_mul_each(x, x_50, count); /* x_100 */
    memcpy(saved, x, bytes);
    ed_fe_square_times(x, count, 100);
    ed_fe_mul_each(x, saved, count); /* x_200 */
    ed_fe_square_times(x, count, 50);
    ed_fe_mul_each(x, x_50, count); /* x_250 */
    ed_fe_square_times(x, count, 2);
    ed_fe_mul_each(x, a, count); /* 4 (2^250 - 1) + 1 = 2^252 - 3 */
    memcpy(a, x, bytes);
}

/* out = 1 / a, or 0 for 0: a^(p-2), with p - 2 = 8 (2^252 - 3) + 3. Tight in and out. */
static inline void ed_fe_invert(ed_fe *out, const ed_fe *a)
{
    ed_fe power = *a;
    ed_fe_power_252_3(&power, 1);
    ed_fe_square_times(&power, 1, 3);
    ed_fe_mul(&power, &power, a);
    ed_fe_mul(&power, &power, a);
    ed_fe_mul(out, &power, a);
}

/* u = y^2 - 1, tight */
static inline void ed_set_numerator(ed_fe *u, const ed_fe *y)
{
    ed_fe_square(u, y);
    ed_fe_sub(u, u, &ED_ONE);
    ed_fe_carry(u, u);
}

/* Turns the candidate x, with vxx = v x^2, into the root of u / v of the wanted parity (0 or
 * 1; a root 0 has no other). Returns 0 if u / v is no square. All tight.
 */
static inline int ed_choose_root(ed_fe *x, const ed_fe *u, const ed_fe *vxx, int parity)
{
    ed_fe test;
    ed_fe_sub(&test, vxx, u);
    if (!ed_fe_is_zero(&test)) {
        ed_fe_add(&test, vxx, u);
        if (!ed_fe_is_zero(&test))
            return 0;
        ed_fe_mul(x, x, &ED_SQRT_M1);
    }
    if (ed_fe_is_odd(x) != parity) {
        ed_fe_negate(x, x);
        ed_fe_carry(x, x);
    }
    return 1;
}

/* Decodes `count` points as ZIP-215 wants: y is taken modulo p, and a sign bit with
 * x = 0 is accepted. Returns a mask of those that are on the curve; the others are unset.
 *
 * With x^2 = u / v for u = y^2 - 1 and v = d y^2 + 1 (never 0: -1/d is no square), the
 * candidate x = u v^3 (u v^7)^((p-5)/8) has v x^2 = u, -u or neither; -u is mended by a
 * root of -1, neither means that u / v is no square (RFC 8032, section 5.1.3).
 */
static inline unsigned ed_decompress(ed_fe *x, ed_fe *y, const uint8_t *const *encodings, int count)
{
    ed_fe u[ED_ROOTS_MAX], v[ED_ROOTS_MAX], uv3[ED_ROOTS_MAX];
    unsigned found = 0;
    for (int j = 0; j < count; j++) {
        ed_fe power;
        ed_fe_from_bytes(&y[j], encodings[j]);
        ed_set_numerator(&u[j], &y[j]);
        ed_fe_square(&power, &y[j]);
        ed_fe_mul(&v[j], &power, &ED_D);
        ed_fe_add(&v[j], &v[j], &ED_ONE);
        ed_fe_square(&power, &v[j]);
        ed_fe_mul(&uv3[j], &u[j], &v[j]);
        ed_fe_mul(&uv3[j], &uv3[j], &power);
        ed_fe_square(&power, &power);
        ed_fe_mul(&x[j], &uv3[j], &power);
    }
    ed_fe_power_252_3(x, count);
    for (int j = 0; j < count; j++) {
        ed_fe vxx;
        ed_fe_mul(&x[j], &x[j], &uv3[j]);
        ed_fe_square(&vxx, &x[j]);
        ed_fe_mul(&vxx, &vxx, &v[j]);
        found |= (unsigned)ed_choose_root(&x[j], &u[j], &vxx, encodings[j][31] >> 7) << j;
    }
    return found;
}
#endif
