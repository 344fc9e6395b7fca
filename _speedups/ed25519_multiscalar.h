/* Sums of many multiples of points, sum [scalar_i] point_i + [base] B.
 *
 * Two methods, both in variable time (all inputs are public):
 *
 *   Straus      every term has a small table of odd multiples and a sparse signed
 *               expansion; all share one chain of doublings. Best for few terms.
 *   Pippenger   every window of every scalar throws its point into a bucket; the
 *               buckets are summed up once per window. Best for many terms.
 */
#ifndef RELAY_ED25519_MULTISCALAR_H
#define RELAY_ED25519_MULTISCALAR_H

#include <stdlib.h>

#include "ed25519_group.h"
#include "ed25519_scalar.h"

/* Odd multiples 1, 3, ..., 127 of B and of 2^127 B, so that a scalar of 253 bits is two of
 * 127 and needs half the doublings. Filled once by ed_base_setup, constant afterwards.
 */
#define ED_BASE_WIDTH 8
#define ED_BASE_MULTIPLES (1 << (ED_BASE_WIDTH - 2))
static ed_affine ED_BASE[2][ED_BASE_MULTIPLES];

typedef struct {
    ed_affine point;
    ed_sc scalar;
} ed_term;

/* One addition to be made at some position of Straus' chain. */
typedef struct {
    uint32_t next;   /* index of the next event at this position; 0 ends the list */
    uint32_t choice; /* index into `addends`, times 2, plus 1 to subtract */
} ed_event;

/* Short scalars (the random coefficients, and all of a single verification) have 128 bits:
 * there, a table of 4 costs as much as it saves to have 8.
 */
#define ED_SHORT_WIDTH 4
#define ED_LONG_WIDTH 5
#define ED_TABLE_MAX 8         /* addends of a term: 2^(width - 2) */
#define ED_EVENTS_PER_TERM 52  /* at most: ceil(255 / 5) = 51 long, ceil(130 / 4) = 33 short */

/* Memory for Straus' method, owned by the caller. */
typedef struct {
    ed_addend *addends; /* ED_TABLE_MAX for each term */
    ed_event *events;   /* ED_EVENTS_PER_TERM for each term, and one unused in front */
} ed_straus_room;

static inline int ed_sc_is_short(const ed_sc *a) { return (a->word[2] | a->word[3]) == 0; }

/* addends[i] = (2 i + 1) p, for i below `count`. */
static inline void ed_odd_multiples(ed_addend *addends, int count, const ed_affine *p)
{
    ed_point point;
    ed_addend twice;
    ed_product sum;
    ed_affine_to_point(&point, p, 0);
    ed_point_double(&sum, &point);
    ed_product_to_point(&point, &sum);
    ed_point_to_addend(&twice, &point);
    ed_affine_to_addend(&addends[0], p);
    ed_point_add_affine(&sum, &point, p, 0);
    for (int i = 1; i < count; i++) {
        ed_product_to_point(&point, &sum);
        ed_point_to_addend(&addends[i], &point);
        if (i + 1 < count)
            ed_point_add(&sum, &point, &twice, 0);
    }
}

/* Makes the table of each term and files each digit under its position. Returns the highest
 * position in use, -1 if there is none.
 */
static inline int ed_straus_prepare(ed_straus_room *room, uint32_t first[256],
                                    const ed_term *terms, size_t count)
{
    uint32_t used = 1;
    int top = -1;
    memset(first, 0, 256 * sizeof *first);
    for (size_t i = 0; i < count; i++) {
        ed_digit digits[ED_DIGITS_MAX];
        const int width = ed_sc_is_short(&terms[i].scalar) ? ED_SHORT_WIDTH : ED_LONG_WIDTH;
        const int found = ed_sc_wnaf(digits, &terms[i].scalar, width);
        ed_odd_multiples(room->addends + ED_TABLE_MAX * i, 1 << (width - 2), &terms[i].point);
        for (int j = 0; j < found; j++) {
            const unsigned negative = digits[j].value < 0;
            const uint32_t size = (uint32_t)(negative ? -digits[j].value : digits[j].value);
            ed_event *event = &room->events[used];
            event->choice = (uint32_t)(2 * (ED_TABLE_MAX * i + size / 2) + negative);
            event->next = first[digits[j].position];
            first[digits[j].position] = used++;
        }
        if (found != 0 && digits[found - 1].position > top)
            top = digits[found - 1].position;
    }
    return top;
}

/* Splits a scalar below L at bit 127. */
static inline void ed_sc_split_127(ed_sc halves[2], const ed_sc *a)
{
    halves[0] = (ed_sc){{a->word[0], a->word[1] & ~(UINT64_C(1) << 63), 0, 0}};
    halves[1] = (ed_sc){{a->word[1] >> 63 | a->word[2] << 1, a->word[2] >> 63 | a->word[3] << 1,
                         0, 0}};
}

/* sum = sum of the terms and [base] B, by Straus' method. */
static inline void ed_straus(ed_point *sum, const ed_term *terms, size_t count, const ed_sc *base,
                             ed_straus_room *room)
{
    uint32_t first[256];
    ed_sc halves[2];
    ed_digit digits[2][ED_DIGITS_MAX];
    int left[2];
    ed_product running = {ED_ZERO, ED_ONE, ED_ONE, ED_ONE}; /* the identity */
    ed_point point;
    int top = ed_straus_prepare(room, first, terms, count);
    ed_sc_split_127(halves, base);
    for (int half = 0; half < 2; half++) {
        left[half] = ed_sc_wnaf(digits[half], &halves[half], ED_BASE_WIDTH);
        if (left[half] != 0 && digits[half][left[half] - 1].position > top)
            top = digits[half][left[half] - 1].position;
    }
    for (int position = top; position >= 0; position--) {
        ed_product_to_projective(&point, &running);
        ed_point_double(&running, &point);
        for (uint32_t i = first[position]; i != 0; i = room->events[i].next) {
            const uint32_t choice = room->events[i].choice;
            ed_product_to_point(&point, &running);
            ed_point_add(&running, &point, &room->addends[choice >> 1], choice & 1);
        }
        for (int half = 0; half < 2; half++)
            if (left[half] != 0 && digits[half][left[half] - 1].position == position) {
                const int value = digits[half][--left[half]].value;
                const ed_affine *multiple = &ED_BASE[half][(value < 0 ? -value : value) / 2];
                ed_product_to_point(&point, &running);
                ed_point_add_affine(&running, &point, multiple, value < 0);
            }
    }
    ed_product_to_point(sum, &running);
}

/* Memory for Pippenger's method, owned by the caller, and the width it is made for. */
typedef struct {
    int width;          /* bits of a window */
    int windows;        /* enough of them for 254 bits */
    int16_t *digits;    /* `windows` for each term and B, window by window */
    ed_point *buckets;  /* 2^(width - 1) */
    uint8_t *occupied;  /* one for each bucket */
} ed_pippenger_room;

#define ED_PIPPENGER_WIDTH_MAX 10

/* The width with the fewest multiplications for `count` terms, half of them short:
 * 7 for each digit that meets a filled bucket, 18 to sum up a bucket.
 */
static inline int ed_pippenger_width(size_t count)
{
    int best = 4;
    size_t least = (size_t)-1;
    for (int width = 4; width <= ED_PIPPENGER_WIDTH_MAX; width++) {
        const size_t windows = (size_t)(253 / width + 1);
        const size_t cost = windows * (count * 3 / 4 * 7 + ((size_t)18 << (width - 1)));
        if (cost < least) {
            least = cost;
            best = width;
        }
    }
    return best;
}

/* Signed digits of `width` bits, in -2^(width-1) .. 2^(width-1), `stride` apart. The top
 * window has a bit to spare (width * windows >= 254), so the last carry stays in it.
 */
static inline void ed_sc_radix(int16_t *digits, size_t stride, int width, int windows,
                               const ed_sc *a)
{
    const int32_t size = (int32_t)1 << width;
    int32_t carry = 0;
    for (int i = 0; i < windows; i++) {
        const int position = i * width, word = position >> 6, shift = position & 63;
        uint64_t bits = a->word[word] >> shift;
        if (shift != 0 && word < 3)
            bits |= a->word[word + 1] << (64 - shift);
        int32_t value = (int32_t)(bits & (uint64_t)(size - 1)) + carry;
        carry = value > size / 2;
        if (carry)
            value -= size;
        digits[(size_t)i * stride] = (int16_t)value;
    }
}

/* p += q */
static inline void ed_point_accumulate(ed_point *p, const ed_point *q)
{
    ed_addend addend;
    ed_product sum;
    ed_point_to_addend(&addend, q);
    ed_point_add(&sum, p, &addend, 0);
    ed_product_to_point(p, &sum);
}

/* total = sum of (i + 1) bucket_i, the empty ones being the identity: from the last bucket
 * down, the sum of all partial sums.
 */
static inline void ed_sum_buckets(ed_point *total, const ed_pippenger_room *room)
{
    ed_point running;
    int started = 0;
    ed_point_set_identity(total);
    for (int i = (1 << (room->width - 1)) - 1; i >= 0; i--) {
        if (room->occupied[i]) {
            if (started)
                ed_point_accumulate(&running, &room->buckets[i]);
            else
                running = room->buckets[i];
            started = 1;
        }
        if (started)
            ed_point_accumulate(total, &running);
    }
}

static inline void ed_fill_bucket(ed_pippenger_room *room, const ed_affine *point, int digit)
{
    const unsigned negative = digit < 0;
    const int index = (negative ? -digit : digit) - 1;
    ed_product sum;
    if (index < 0)
        return;
    if (room->occupied[index]) {
        ed_point_add_affine(&sum, &room->buckets[index], point, negative);
        ed_product_to_point(&room->buckets[index], &sum);
    } else {
        ed_affine_to_point(&room->buckets[index], point, negative);
        room->occupied[index] = 1;
    }
}

/* sum = sum of the terms and [base] B, by Pippenger's method. */
static inline void ed_pippenger(ed_point *sum, const ed_term *terms, size_t count,
                                const ed_sc *base, ed_pippenger_room *room)
{
    const size_t stride = count + 1;
    ed_product doubled;
    ed_point window;
    for (size_t i = 0; i < count; i++)
        ed_sc_radix(room->digits + i, stride, room->width, room->windows, &terms[i].scalar);
    ed_sc_radix(room->digits + count, stride, room->width, room->windows, base);
    ed_point_set_identity(sum);
    for (int w = room->windows - 1; w >= 0; w--) {
        const int16_t *digits = room->digits + (size_t)w * stride;
        memset(room->occupied, 0, (size_t)1 << (room->width - 1));
        for (size_t i = 0; i < count; i++)
            ed_fill_bucket(room, &terms[i].point, digits[i]);
        ed_fill_bucket(room, &ED_BASE[0][0], digits[count]);
        ed_sum_buckets(&window, room);
        for (int i = 0; i < room->width; i++) {
            ed_point_double(&doubled, sum);
            ed_product_to_point(sum, &doubled);
        }
        ed_point_accumulate(sum, &window);
    }
}

/* Fills the table of B. Call once, before anything else here; takes about 0.5 ms. */
static inline void ed_base_setup(void)
{
    /* y = 4/5, x even (RFC 8032, section 5.1) */
    static const uint8_t encoding[32] = {
        0x58, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
        0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
        0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66};
    ed_fe x, y, inverse;
    ed_affine affine;
    ed_point point;
    ed_addend twice;
    ed_product sum;
    (void)ed_decompress(&x, &y, encoding);
    ed_affine_set(&affine, &x, &y);
    ed_affine_to_point(&point, &affine, 0);
    for (int half = 0; half < 2; half++) {
        ed_point multiple = point;
        ed_point_double(&sum, &point);
        ed_product_to_point(&point, &sum);
        ed_point_to_addend(&twice, &point);
        for (int i = 0; i < ED_BASE_MULTIPLES; i++) {
            ed_fe_invert(&inverse, &multiple.z);
            ed_fe_mul(&x, &multiple.x, &inverse);
            ed_fe_mul(&y, &multiple.y, &inverse);
            ed_affine_set(&ED_BASE[half][i], &x, &y);
            ed_point_add(&sum, &multiple, &twice, 0);
            ed_product_to_point(&multiple, &sum);
        }
        for (int i = 1; i < 127; i++) { /* point is 2B already; 2^127 B for the second half */
            ed_point_double(&sum, &point);
            ed_product_to_point(&point, &sum);
        }
    }
}
#endif
