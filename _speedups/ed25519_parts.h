/* Parts of the kernel that only tests call by themselves. */
#ifndef RELAY_ED25519_PARTS_H
#define RELAY_ED25519_PARTS_H

#include "ed25519_verify.h"

/* a multiplied by a small number through additions alone, so that its limbs grow likewise. */
static inline void ed_grow(ed_fe *a, int times)
{
    const ed_fe once = *a;
    for (int i = 1; i < times; i++)
        ed_fe_add(a, a, &once);
}

#ifdef ED_HAVE_LANES
ED_LANES_CODE void ed_lanes_products(ed_fe products[4], ed_fe squares[4], const ed_fe left[4],
                                     const ed_fe right[4], int m, int n)
{
    ed_lanes a, b, a_once, b_once, result;
    ed_lanes_load(&a_once, &left[0], &left[1], &left[2], &left[3]);
    ed_lanes_load(&b_once, &right[0], &right[1], &right[2], &right[3]);
    a = a_once;
    b = b_once;
    for (int i = 1; i < m; i++)
        ed_lanes_add(&a, &a, &a_once);
    for (int i = 1; i < n; i++)
        ed_lanes_add(&b, &b, &b_once);
    ed_lanes_mul(&result, &a, &b);
    ed_lanes_store(products, &result);
    ed_lanes_square(&result, &b);
    ed_lanes_store(squares, &result);
}
#endif

/* Four products (m a)(n b) and squares (n b)^2 of elements of 32 bytes, with factors that have
 * the size m and n: how large is the caller's choice, up to the multiplication's bounds, which
 * are 7 and 7, in lanes 5 and 3.
 */
static inline void ed_field_products(uint8_t *products, uint8_t *squares, const uint8_t *left,
                                     const uint8_t *right, int m, int n)
{
    ed_fe a[4], b[4], product[4], square[4];
    for (int i = 0; i < 4; i++) {
        ed_fe_from_bytes(&a[i], left + 32 * i);
        ed_fe_from_bytes(&b[i], right + 32 * i);
    }
#ifdef ED_HAVE_LANES
    if (ed_lanes_enabled)
        ed_lanes_products(product, square, a, b, m, n);
#endif
    for (int i = 0; i < 4; i++) {
        if (!ed_lanes_enabled) {
            ed_grow(&a[i], m);
            ed_grow(&b[i], n);
            ed_fe_mul(&product[i], &a[i], &b[i]);
            ed_fe_square(&square[i], &b[i]);
        }
        ed_fe_to_bytes(products + 32 * i, &product[i]);
        ed_fe_to_bytes(squares + 32 * i, &square[i]);
    }
}
#endif
