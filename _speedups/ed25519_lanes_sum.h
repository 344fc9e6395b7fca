/* Sums of many multiples of points by Straus' method, four additions at a time.
 *
 * Each lane keeps a sum of its own, and all are doubled together. What is to be added at some
 * bit position may go to any lane, so the additions of all terms and of B are dealt out to the
 * lanes four by four, the identity where the number is no multiple of four. In the end the
 * four sums are added. Sparse digits stay as useful as they are without lanes.
 */
#ifndef RELAY_ED25519_LANES_SUM_H
#define RELAY_ED25519_LANES_SUM_H

#include "ed25519_lanes.h"
#include "ed25519_multiscalar.h"

#ifdef ED_HAVE_LANES

/* A point ready to be added, in memory: y - x, y + x, 2z, 2dt, tight, two limbs to a word (the
 * even one below). Words 0 to 3 of each are a row; word 4 of all four is the last row.
 */
typedef struct {
    uint64_t row[5][4];
} ed_packed;

/* One addition to be made at some position. */
typedef struct {
    const ed_packed *addend;
    uint32_t next; /* index of the next event at this position; 0 ends the list */
    uint32_t negate;
} ed_lanes_event;

/* Terms that are summed at once, a multiple of 4; tables and events then take about 1 MB. */
#define ED_LANES_TERMS 512

typedef struct {
    ed_packed *tables;      /* ED_TABLE_MAX for each term */
    ed_lanes_event *events; /* ED_EVENTS_PER_TERM for each term, those of B, one unused */
} ed_lanes_room;

static ed_packed ED_BASE_PACKED[2][ED_BASE_MULTIPLES]; /* ED_BASE, filled with it */
static ed_packed ED_IDENTITY_PACKED;
static int ed_lanes_usable; /* whether this processor has AVX2; set with the tables */

/* Rows of a 4x4 matrix become its columns. */
ED_LANES_INLINE void ed_transpose(__m256i row[4])
{
    const __m256i a = _mm256_unpacklo_epi64(row[0], row[1]);
    const __m256i b = _mm256_unpackhi_epi64(row[0], row[1]);
    const __m256i c = _mm256_unpacklo_epi64(row[2], row[3]);
    const __m256i d = _mm256_unpackhi_epi64(row[2], row[3]);
    row[0] = _mm256_permute2x128_si256(a, c, 0x20);
    row[1] = _mm256_permute2x128_si256(b, d, 0x20);
    row[2] = _mm256_permute2x128_si256(a, c, 0x31);
    row[3] = _mm256_permute2x128_si256(b, d, 0x31);
}

/* Writes the points of the four lanes, `stride` apart. */
ED_LANES_CODE void ed_pack(ed_packed *out, size_t stride, const ed_lanes_addend *q)
{
    const ed_lanes *parts[4] = {&q->yx[0], &q->yx[1], &q->z2, &q->t2d};
    __m256i last[4];
    for (int part = 0; part < 4; part++) {
        __m256i words[5];
        ED_UNROLL
        for (int i = 0; i < 5; i++)
            words[i] = _mm256_or_si256(parts[part]->limb[2 * i],
                                       _mm256_slli_epi64(parts[part]->limb[2 * i + 1], 32));
        ed_transpose(words);
        for (size_t j = 0; j < 4; j++)
            _mm256_storeu_si256((__m256i *)out[stride * j].row[part], words[j]);
        last[part] = words[4];
    }
    ed_transpose(last);
    for (size_t j = 0; j < 4; j++)
        _mm256_storeu_si256((__m256i *)out[stride * j].row[4], last[j]);
}

/* Words as limbs; what an even limb has above bit 31 does not matter to multiplications. */
ED_LANES_INLINE void ed_unpack_words(ed_lanes *out, const __m256i words[4], __m256i last)
{
    ED_UNROLL
    for (int i = 0; i < 4; i++) {
        out->limb[2 * i] = words[i];
        out->limb[2 * i + 1] = _mm256_srli_epi64(words[i], 32);
    }
    out->limb[8] = last;
    out->limb[9] = _mm256_srli_epi64(last, 32);
}

/* Reads four points from anywhere into the lanes; those with `negate` 1 rather than 0 are
 * negated: y - x and y + x change places, and 2p - 2dt (size 2) replaces 2dt. No limb of a
 * tight element exceeds that of 2p, so two limbs of a word are subtracted as one number.
 */
ED_LANES_INLINE void ed_gather(ed_lanes_addend *q, const ed_packed *const points[4],
                               const uint32_t negate[4])
{
    const __m256i mask =
        _mm256_set_epi64x(-(long long)negate[3], -(long long)negate[2], -(long long)negate[1],
                          -(long long)negate[0]);
    __m256i part[4][4], last[4];
    for (int j = 0; j < 4; j++) {
        part[0][j] = _mm256_loadu_si256((const __m256i *)points[j]->row[negate[j]]);
        part[1][j] = _mm256_loadu_si256((const __m256i *)points[j]->row[1 - negate[j]]);
        part[2][j] = _mm256_loadu_si256((const __m256i *)points[j]->row[2]);
        part[3][j] = _mm256_loadu_si256((const __m256i *)points[j]->row[3]);
        last[j] = _mm256_loadu_si256((const __m256i *)points[j]->row[4]);
    }
    ed_transpose(last);
    for (int i = 0; i < 4; i++)
        ed_transpose(part[i]);
    ED_UNROLL
    for (int i = 0; i < 5; i++) {
        __m256i *word = i < 4 ? &part[3][i] : &last[3];
        const __m256i twice_p = _mm256_set1_epi64x(
            (long long)ED_LANES_2P(2 * i) | (long long)ED_LANES_2P(2 * i + 1) << 32);
        *word = _mm256_blendv_epi8(*word, _mm256_sub_epi64(twice_p, *word), mask);
    }
    ed_unpack_words(&q->yx[0], part[0], _mm256_blendv_epi8(last[0], last[1], mask));
    ed_unpack_words(&q->yx[1], part[1], _mm256_blendv_epi8(last[1], last[0], mask));
    ed_unpack_words(&q->z2, part[2], last[2]);
    ed_unpack_words(&q->t2d, part[3], last[3]);
}

/* Tight, so that it can be packed. */
ED_LANES_INLINE void ed_lanes_to_addend(ed_lanes_addend *q, const ed_lanes_point *p)
{
    ed_lanes factor;
    ed_lanes_sub(&q->yx[0], &p->y, &p->x, 1);
    ed_lanes_carry(&q->yx[0]);
    ed_lanes_add(&q->yx[1], &p->y, &p->x);
    ed_lanes_carry(&q->yx[1]);
    ed_lanes_add(&q->z2, &p->z, &p->z);
    ed_lanes_carry(&q->z2);
    ed_lanes_load(&factor, &ED_2D, &ED_2D, &ED_2D, &ED_2D);
    ed_lanes_mul(&q->t2d, &p->t, &factor);
}

/* Tables of `count` odd multiples of four points, ED_TABLE_MAX apart. */
ED_LANES_CODE void ed_lanes_odd_multiples(ed_packed *tables, int count,
                                          const ed_affine *const points[4])
{
    ed_lanes_addend first, twice, addend;
    ed_lanes_point point;
    ed_lanes_product sum;
    for (int i = 0; i < 2; i++)
        ed_lanes_load(&first.yx[i], &points[0]->yx[i], &points[1]->yx[i], &points[2]->yx[i],
                      &points[3]->yx[i]);
    ed_lanes_load(&first.t2d, &points[0]->xy2d, &points[1]->xy2d, &points[2]->xy2d,
                  &points[3]->xy2d);
    ed_lanes_set_small(&first.z2, 2);
    ed_pack(tables, ED_TABLE_MAX, &first);
    /* X = 2x, Y = 2y, Z = 2; a doubling needs no T */
    ed_lanes_sub(&point.x, &first.yx[1], &first.yx[0], 1);
    ed_lanes_carry(&point.x);
    ed_lanes_add(&point.y, &first.yx[1], &first.yx[0]);
    ed_lanes_carry(&point.y);
    point.z = first.z2;
    ed_lanes_point_double(&sum, &point);
    ed_lanes_to_point(&point, &sum);
    ed_lanes_to_addend(&twice, &point);
    ed_lanes_point_add(&sum, &point, &first);
    for (int i = 1; i < count; i++) {
        ed_lanes_to_point(&point, &sum);
        ed_lanes_to_addend(&addend, &point);
        ed_pack(tables + i, ED_TABLE_MAX, &addend);
        if (i + 1 < count)
            ed_lanes_point_add(&sum, &point, &twice);
    }
}

/* The additions still to be made, by position. */
typedef struct {
    ed_lanes_event *events;
    uint32_t used;
    int top;             /* highest position in use, or -1 */
    uint32_t first[256]; /* index of the first event at each position, or 0 */
} ed_schedule;

static inline void ed_schedule_digits(ed_schedule *schedule, const ed_packed *table,
                                      const ed_digit *digits, int count)
{
    for (int i = 0; i < count; i++) {
        const int value = digits[i].value, position = digits[i].position;
        ed_lanes_event *event = &schedule->events[schedule->used];
        event->addend = table + (value < 0 ? -value : value) / 2;
        event->negate = value < 0;
        event->next = schedule->first[position];
        schedule->first[position] = schedule->used++;
    }
    if (count != 0 && digits[count - 1].position > schedule->top)
        schedule->top = digits[count - 1].position;
}

/* Makes the tables of all terms and schedules all digits, B's included. */
static inline void ed_lanes_prepare(ed_schedule *schedule, const ed_term *terms, size_t count,
                                    const ed_sc *base, ed_lanes_room *room)
{
    static const ed_affine identity = {{{{1}}, {{1}}}, {{0}}};
    ed_digit digits[ED_DIGITS_MAX];
    ed_sc halves[2];
    memset(schedule, 0, sizeof *schedule);
    schedule->events = room->events;
    schedule->used = 1;
    schedule->top = -1;
    for (size_t i = 0; i < count; i += 4) {
        const ed_affine *points[4];
        int width = ED_SHORT_WIDTH;
        for (size_t j = 0; j < 4; j++) {
            points[j] = i + j < count ? &terms[i + j].point : &identity;
            if (i + j < count && !ed_sc_is_short(&terms[i + j].scalar))
                width = ED_LONG_WIDTH;
        }
        ed_lanes_odd_multiples(room->tables + ED_TABLE_MAX * i, 1 << (width - 2), points);
        for (size_t j = i; j < i + 4 && j < count; j++) {
            const int found = ed_sc_wnaf(digits, &terms[j].scalar, width);
            ed_schedule_digits(schedule, room->tables + ED_TABLE_MAX * j, digits, found);
        }
    }
    ed_sc_split_127(halves, base);
    for (int half = 0; half < 2; half++) {
        const int found = ed_sc_wnaf(digits, &halves[half], ED_BASE_WIDTH);
        ed_schedule_digits(schedule, ED_BASE_PACKED[half], digits, found);
    }
}

/* sum = the sum of the four lanes */
ED_LANES_CODE void ed_lanes_collapse(ed_point *sum, const ed_lanes_product *running)
{
    ed_lanes_point point;
    ed_fe x[4], y[4], z[4], t[4];
    ed_lanes_to_point(&point, running);
    ed_lanes_store(x, &point.x);
    ed_lanes_store(y, &point.y);
    ed_lanes_store(z, &point.z);
    ed_lanes_store(t, &point.t);
    *sum = (ed_point){x[0], y[0], z[0], t[0]};
    for (int j = 1; j < 4; j++) {
        const ed_point other = {x[j], y[j], z[j], t[j]};
        ed_point_accumulate(sum, &other);
    }
}

/* sum = sum of at most ED_LANES_TERMS terms and [base] B */
ED_LANES_CODE void ed_lanes_straus(ed_point *sum, const ed_term *terms, size_t count,
                                   const ed_sc *base, ed_lanes_room *room)
{
    ed_schedule schedule;
    ed_lanes_product running;
    ed_lanes_point point;
    ed_lanes_addend addend;
    ed_lanes_prepare(&schedule, terms, count, base, room);
    ed_lanes_set_small(&running.e, 0);
    ed_lanes_set_small(&running.f, 1);
    running.g = running.f;
    running.h = running.f;
    for (int position = schedule.top; position >= 0; position--) {
        ed_lanes_to_projective(&point, &running);
        ed_lanes_point_double(&running, &point);
        for (uint32_t i = schedule.first[position]; i != 0;) {
            const ed_packed *points[4];
            uint32_t negate[4];
            for (int j = 0; j < 4; j++) {
                const ed_lanes_event *event = &schedule.events[i];
                points[j] = i != 0 ? event->addend : &ED_IDENTITY_PACKED;
                negate[j] = i != 0 ? event->negate : 0;
                i = i != 0 ? event->next : 0;
            }
            ed_gather(&addend, points, negate);
            ed_lanes_to_point(&point, &running);
            ed_lanes_point_add(&running, &point, &addend);
        }
    }
    ed_lanes_collapse(sum, &running);
}

/* Fills ED_BASE_PACKED from ED_BASE, if the processor can use it. */
ED_LANES_CODE void ed_lanes_fill_base(void)
{
    ed_lanes_addend addend;
    ed_packed four[4];
    ed_lanes_set_small(&addend.yx[0], 1);
    ed_lanes_set_small(&addend.yx[1], 1);
    ed_lanes_set_small(&addend.z2, 2);
    ed_lanes_set_small(&addend.t2d, 0);
    ed_pack(four, 1, &addend);
    ED_IDENTITY_PACKED = four[0];
    for (int half = 0; half < 2; half++)
        for (int i = 0; i < ED_BASE_MULTIPLES; i += 4) {
            const ed_affine *p = &ED_BASE[half][i];
            for (int j = 0; j < 2; j++)
                ed_lanes_load(&addend.yx[j], &p[0].yx[j], &p[1].yx[j], &p[2].yx[j], &p[3].yx[j]);
            ed_lanes_load(&addend.t2d, &p[0].xy2d, &p[1].xy2d, &p[2].xy2d, &p[3].xy2d);
            ed_pack(&ED_BASE_PACKED[half][i], 1, &addend);
        }
}

static inline void ed_lanes_setup(void)
{
    __builtin_cpu_init();
    ed_lanes_usable = __builtin_cpu_supports("avx2") != 0;
    if (ed_lanes_usable)
        ed_lanes_fill_base();
}
#endif
#endif
