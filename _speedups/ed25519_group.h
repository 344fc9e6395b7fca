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

static inline void ed_affine_negate(ed_affine *q)
{
    const ed_fe swapped = q->yx[0];
    q->yx[0] = q->yx[1];
    q->yx[1] = swapped;
    ed_fe_negate(&q->xy2d, &q->xy2d);
    ed_fe_carry(&q->xy2d, &q->xy2d);
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

/* out = a^(2^times) b */
static inline void ed_fe_square_times_mul(ed_fe *out, const ed_fe *a, int times, const ed_fe *b)
{
    ed_fe power;
    ed_fe_square(&power, a);
    for (int i = 1; i < times; i++)
        ed_fe_square(&power, &power);
    ed_fe_mul(out, &power, b);
}

/* out = a^((p - 5) / 8), with (p - 5) / 8 = 2^252 - 3; tight in and out.
 *
 * With x_n = a^(2^n - 1): x_(m+n) = x_m^(2^n) x_n.
 */
static inline void ed_fe_power_252_3(ed_fe *out, const ed_fe *a)
{
    ed_fe x, x_10, x_50;
    ed_fe_square_times_mul(&x, a, 1, a);            /* x_2 */
    ed_fe_square_times_mul(&x, &x, 2, &x);          /* x_4 */
    ed_fe_square_times_mul(&x, &x, 1, a);           /* x_5 */
    ed_fe_square_times_mul(&x_10, &x, 5, &x);       /* x_10 */
    ed_fe_square_times_mul(&x, &x_10, 10, &x_10);   /* x_20 */
    ed_fe_square_times_mul(&x, &x, 20, &x);         /* x_40 */
    ed_fe_square_times_mul(&x_50, &x, 10, &x_10);   /* x_50 */
    ed_fe_square_times_mul(&x, &x_50, 50, &x_50);   /* x_100 */
    ed_fe_square_times_mul(&x, &x, 100, &x);        /* x_200 */
    ed_fe_square_times_mul(&x, &x, 50, &x_50);      /* x_250 */
    ed_fe_square_times_mul(out, &x, 2, a);          /* 4 (2^250 - 1) + 1 = 2^252 - 3 */
}

/* out = 1 / a, or 0 for 0: a^(p-2), with p - 2 = 8 (2^252 - 3) + 3. Tight in and out. */
static inline void ed_fe_invert(ed_fe *out, const ed_fe *a)
{
    ed_fe power, square;
    ed_fe_power_252_3(&power, a);
    ed_fe_square(&square, a);
    ed_fe_square_times_mul(&power, &power, 3, a);
    ed_fe_mul(out, &power, &square);
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

/* Decodes a point as ZIP-215 wants: y is taken modulo p, and a sign bit with x = 0 is
 * accepted. Returns 0 if there is no such point on the curve.
 *
 * With x^2 = u / v for u = y^2 - 1 and v = d y^2 + 1 (never 0: -1/d is no square), the
 * candidate x = u v^3 (u v^7)^((p-5)/8) has v x^2 = u, -u or neither; -u is mended by a
 * root of -1, neither means that u / v is no square (RFC 8032, section 5.1.3).
 */
static inline int ed_decompress(ed_fe *x, ed_fe *y, const uint8_t encoding[32])
{
    ed_fe u, v, uv3, power;
    ed_fe_from_bytes(y, encoding);
    ed_set_numerator(&u, y);
    ed_fe_square(&power, y);
    ed_fe_mul(&v, &power, &ED_D);
    ed_fe_add(&v, &v, &ED_ONE);
    ed_fe_square(&power, &v);
    ed_fe_mul(&uv3, &u, &v);
    ed_fe_mul(&uv3, &uv3, &power);
    ed_fe_square(&power, &power);
    ed_fe_mul(&power, &uv3, &power);
    ed_fe_power_252_3(x, &power);
    ed_fe_mul(x, x, &uv3);
    ed_fe_square(&power, x);
    ed_fe_mul(&power, &power, &v);
    return ed_choose_root(x, &u, &power, encoding[31] >> 7);
}
#endif
