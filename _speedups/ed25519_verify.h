/* Ed25519 verification by the rule of ZIP-215, one signature or many at once.
 *
 * A signature (R, S) of message M under key A is valid when S < L, A and R decode
 * (non-canonical y, small order and "negative zero" included) and
 *
 *     [8] X = 0   with   X = [S] B - R - [k] A,   k = SHA-512(R || A || M) mod L.
 *
 * The cofactor 8 moves X into the group of prime order L. There [c] [8] X = 0 holds
 * for every X at once or for no X but 0, whatever c that L does not divide, which
 * single verification uses to shorten its scalars; and a sum of [z_i] [8] X_i with
 * random z_i of 128 bits is 0 although some X_i is not with probability 2^-128: batch
 * and single verification accept the same signatures. (Without the cofactor they
 * would not: torsion components cancel in sums with probability up to 1/2.)
 *
 * Variable time throughout; nothing here is secret but the coefficients z, and those
 * only until the batch they were drawn for has been handed in.
 */
#ifndef RELAY_ED25519_VERIFY_H
#define RELAY_ED25519_VERIFY_H

#include "ed25519_lanes_sum.h"
#include "ed25519_multiscalar.h"
#include "ed25519_sha512.h"

typedef struct {
    const uint8_t *public_key; /* 32 bytes, borrowed */
    const uint8_t *signature;  /* 64 bytes, borrowed */
    const uint8_t *message;    /* `message_bytes`, borrowed */
    size_t message_bytes;
} ed_item;

/* Members of a batch, at most. Bounds the memory of one call to about 2 MB. */
#define ED_BATCH_MAX 1024

/* Terms (keys and R's) from which on Pippenger's method wins, and from which on lanes win
 * over one addition at a time. Measured.
 */
#ifndef ED_PIPPENGER_TERMS
#define ED_PIPPENGER_TERMS 128
#endif
#ifndef ED_LANES_TERMS_MIN
#define ED_LANES_TERMS_MIN 8
#endif

static int ed_lanes_enabled; /* usable and not switched off by a test */

/* Once, before anything else. Takes less than a millisecond. */
static inline void ed_setup(void)
{
    ed_base_setup();
#ifdef ED_HAVE_LANES
    ed_lanes_setup();
    ed_lanes_enabled = ed_lanes_usable;
#endif
}

/* For tests: lets batches use lanes or not. Returns whether they do now. */
static inline int ed_allow_lanes(int allowed)
{
#ifdef ED_HAVE_LANES
    ed_lanes_enabled = allowed && ed_lanes_usable;
#else
    (void)allowed;
#endif
    return ed_lanes_enabled;
}

#define ED_DECODE_MAX 4

/* ed_decompress for up to four encodings. Returns the mask of those that are points. */
static inline unsigned ed_decode(ed_fe x[ED_DECODE_MAX], ed_fe y[ED_DECODE_MAX],
                                 const uint8_t *const *encodings, int count)
{
    unsigned found = 0;
#ifdef ED_HAVE_LANES
    if (ed_lanes_enabled && count > 1) {
        const uint8_t *four[4];
        for (int j = 0; j < 4; j++)
            four[j] = j < count ? encodings[j] : encodings[0];
        return ed_lanes_decompress(x, y, four) & ((1u << count) - 1);
    }
#endif
    for (int j = 0; j < count; j++)
        found |= (unsigned)ed_decompress(&x[j], &y[j], encodings[j]) << j;
    return found;
}

static inline int ed_is_point(const uint8_t public_key[32])
{
    ed_fe x, y;
    return ed_decompress(&x, &y, public_key);
}

/* k = SHA-512(R || A || M) mod L */
static inline void ed_challenge(ed_sc *k, const ed_item *item)
{
    uint8_t digest[64];
    ed_sha512 hash;
    ed_sha512_start(&hash);
    ed_sha512_update(&hash, item->signature, 32);
    ed_sha512_update(&hash, item->public_key, 32);
    ed_sha512_update(&hash, item->message, item->message_bytes);
    ed_sha512_finish(&hash, digest);
    ed_sc_reduce_wide(k, digest);
}

/* q = -(x, y) */
static inline void ed_affine_set_negated(ed_affine *q, const ed_fe *x, const ed_fe *y)
{
    ed_affine_set(q, x, y);
    ed_affine_negate(q);
}

/* Whether [8] X = 0 for X = [s] B - R - [k] A.
 *
 * Judged by [t] X = [t s] B - [t] R - [r] A with r = t k and both t and r short. For a negative
 * t take [-t] X instead: then it is r that changes its sign.
 */
static inline int ed_equation_holds(const ed_sc *s, const ed_affine *minus_r, const ed_sc *k,
                                    const ed_affine *minus_a)
{
    ed_addend addends[2 * ED_TABLE_MAX];
    ed_event events[2 * ED_EVENTS_PER_TERM + 1];
    ed_straus_room room = {addends, events};
    ed_term terms[2];
    ed_sc base;
    ed_point sum;
    int negative;
    terms[0].point = *minus_r;
    terms[1].point = *minus_a;
    ed_sc_halve(&terms[0].scalar, &negative, &terms[1].scalar, k);
    if (negative)
        ed_affine_negate(&terms[1].point);
    ed_sc_mul(&base, s, &terms[0].scalar);
    ed_straus(&sum, terms, 2, &base, &room);
    return ed_point_is_torsion(&sum);
}

/* Returns 1 for a valid signature, else 0. */
static inline int ed_verify(const ed_item *item)
{
    const uint8_t *encodings[2] = {item->signature, item->public_key};
    ed_fe x[ED_DECODE_MAX], y[ED_DECODE_MAX];
    ed_affine minus_r, minus_a;
    ed_sc s, k;
    ed_sc_load(&s, item->signature + 32);
    if (!ed_sc_is_reduced(&s) || ed_decode(x, y, encodings, 2) != 3)
        return 0;
    ed_challenge(&k, item);
    ed_affine_set_negated(&minus_r, &x[0], &y[0]);
    ed_affine_set_negated(&minus_a, &x[1], &y[1]);
    return ed_equation_holds(&s, &minus_r, &k, &minus_a);
}

/* A signature of a batch that is not refused for its form. */
typedef struct {
    ed_affine minus_r;
    ed_sc s, k;  /* of its equation */
    ed_sc z;     /* its random coefficient */
    ed_sc zk;    /* z k, the coefficient of -A */
    ed_sc zs;    /* z S, its share in the coefficient of B */
    size_t item; /* index in the call's items */
    size_t key;  /* index in `keys` */
} ed_member;

/* A distinct public key of a batch: decoded once, one term however often it signs. */
typedef struct {
    const uint8_t *encoding;
    ed_affine minus_a;
    size_t term;    /* its term in the sum of round `round` */
    uint32_t round;
    int decodes;
} ed_key;

/* Keys are found again through a small hash table. At most ED_PROBES places are looked at: a
 * key that does not find room is simply not shared, so crafted collisions cost nothing.
 */
#define ED_KEY_PLACES (4 * ED_BATCH_MAX)
#define ED_PROBES 4

typedef struct {
    ed_member *members; /* one for each item, `member_count` in use */
    ed_key *keys;       /* one for each item, `key_count` in use */
    ed_term *terms;     /* two for each item */
    uint16_t *places;   /* ED_KEY_PLACES: index of a key plus 1, or 0 */
    size_t member_count, key_count;
    uint32_t round;     /* number of sums made */
#ifdef ED_HAVE_LANES
    ed_lanes_room lanes;
#endif
    ed_straus_room straus;
    ed_pippenger_room pippenger;
    uint8_t *verdicts;  /* the caller's, one for each item */
} ed_batch;

static inline void ed_batch_free(ed_batch *batch)
{
    free(batch->members);
    free(batch->keys);
    free(batch->terms);
    free(batch->places);
#ifdef ED_HAVE_LANES
    free(batch->lanes.tables);
    free(batch->lanes.events);
#endif
    free(batch->straus.addends);
    free(batch->straus.events);
    free(batch->pippenger.digits);
    free(batch->pippenger.buckets);
    free(batch->pippenger.occupied);
}

/* Whether sums of so many terms are made in lanes. */
static inline int ed_in_lanes(size_t terms)
{
    return ed_lanes_enabled && terms >= ED_LANES_TERMS_MIN;
}

/* Room for sums of up to so many terms, by whichever method; they are made with any number
 * of terms below, too. Returns 0, or -1 if memory is short.
 */
static inline int ed_batch_allocate_sums(ed_batch *batch, size_t terms)
{
    ed_straus_room *straus = &batch->straus;
    ed_pippenger_room *pippenger = &batch->pippenger;
    size_t in_straus = terms < ED_PIPPENGER_TERMS ? terms : ED_PIPPENGER_TERMS;
#ifdef ED_HAVE_LANES
    if (ed_in_lanes(terms)) {
        const size_t in_lanes = terms < ED_LANES_TERMS ? (terms + 3) / 4 * 4 : ED_LANES_TERMS;
        const size_t events = in_lanes * ED_EVENTS_PER_TERM + 2 * ED_DIGITS_MAX + 1;
        batch->lanes.tables = malloc(in_lanes * ED_TABLE_MAX * sizeof *batch->lanes.tables);
        batch->lanes.events = malloc(events * sizeof *batch->lanes.events);
        if (!batch->lanes.tables || !batch->lanes.events)
            return -1;
        in_straus = ED_LANES_TERMS_MIN;
    }
#endif
    straus->addends = malloc(in_straus * ED_TABLE_MAX * sizeof *straus->addends);
    straus->events = malloc((in_straus * ED_EVENTS_PER_TERM + 1) * sizeof *straus->events);
    if (!straus->addends || !straus->events)
        return -1;
    if (terms < ED_PIPPENGER_TERMS || ed_in_lanes(terms))
        return 0;
    pippenger->width = ed_pippenger_width(terms);
    pippenger->windows = 253 / pippenger->width + 1;
    pippenger->digits =
        malloc((terms + 1) * (size_t)pippenger->windows * sizeof *pippenger->digits);
    pippenger->buckets =
        malloc(((size_t)1 << (pippenger->width - 1)) * sizeof *pippenger->buckets);
    pippenger->occupied = malloc((size_t)1 << (pippenger->width - 1));
    return pippenger->digits && pippenger->buckets && pippenger->occupied ? 0 : -1;
}

/* Returns 0, or -1 if memory is short; ed_batch_free is due in both cases. */
static inline int ed_batch_allocate(ed_batch *batch, size_t count)
{
    memset(batch, 0, sizeof *batch);
    batch->members = malloc(count * sizeof *batch->members);
    batch->keys = malloc(count * sizeof *batch->keys);
    batch->terms = malloc(2 * count * sizeof *batch->terms);
    batch->places = calloc(ED_KEY_PLACES, sizeof *batch->places);
    if (!batch->members || !batch->keys || !batch->terms || !batch->places)
        return -1;
    return ed_batch_allocate_sums(batch, 2 * count);
}

/* The index in `keys` of an encoding, entering it if it is new. */
static inline size_t ed_batch_key(ed_batch *batch, const uint8_t encoding[32])
{
    const uint64_t hash = ed_load_64(encoding) * UINT64_C(0x9e3779b97f4a7c15);
    uint16_t *free_place = NULL;
    for (unsigned i = 0; i < ED_PROBES && free_place == NULL; i++) {
        uint16_t *place = &batch->places[((hash >> 32) + i) % ED_KEY_PLACES];
        if (*place == 0)
            free_place = place;
        else if (memcmp(batch->keys[*place - 1].encoding, encoding, 32) == 0)
            return *place - 1u;
    }
    ed_key *key = &batch->keys[batch->key_count];
    key->encoding = encoding;
    key->round = 0;
    key->decodes = 0;
    if (free_place != NULL)
        *free_place = (uint16_t)(batch->key_count + 1);
    return batch->key_count++;
}

/* Decodes, by fours, all keys (first) and the R of all members; a member with one that does
 * not decode leaves the batch.
 */
static inline void ed_batch_decode(ed_batch *batch, const ed_item *items)
{
    const size_t keys = batch->key_count, points = keys + batch->member_count;
    size_t kept = 0;
    for (size_t i = 0; i < points; i += ED_DECODE_MAX) {
        const uint8_t *encodings[ED_DECODE_MAX] = {NULL};
        const int count = points - i < ED_DECODE_MAX ? (int)(points - i) : ED_DECODE_MAX;
        ed_fe x[ED_DECODE_MAX], y[ED_DECODE_MAX];
        for (int j = 0; j < count; j++)
            encodings[j] = i + j < keys ? batch->keys[i + j].encoding
                                        : items[batch->members[i + j - keys].item].signature;
        const unsigned found = ed_decode(x, y, encodings, count);
        for (int j = 0; j < count; j++) {
            const int decodes = found >> j & 1;
            if (i + j < keys) {
                batch->keys[i + j].decodes = decodes;
                if (decodes)
                    ed_affine_set_negated(&batch->keys[i + j].minus_a, &x[j], &y[j]);
            } else {
                ed_member *member = &batch->members[i + j - keys];
                if (!decodes || !batch->keys[member->key].decodes)
                    continue;
                batch->members[kept] = *member; /* kept <= i + j - keys: not read again */
                ed_affine_set_negated(&batch->members[kept].minus_r, &x[j], &y[j]);
                kept++;
            }
        }
    }
    batch->member_count = kept;
}

/* Fills the batch from the items: forms first, then points, then coefficients. */
static inline void ed_batch_enter(ed_batch *batch, const ed_item *items, size_t count,
                                  const uint8_t *coefficients)
{
    for (size_t i = 0; i < count; i++) {
        ed_member *member = &batch->members[batch->member_count];
        ed_sc_load(&member->s, items[i].signature + 32);
        if (!ed_sc_is_reduced(&member->s))
            continue;
        member->item = i;
        member->key = ed_batch_key(batch, items[i].public_key);
        batch->member_count++;
    }
    ed_batch_decode(batch, items);
    for (size_t i = 0; i < batch->member_count; i++) {
        ed_member *member = &batch->members[i];
        const uint8_t *random = coefficients + 16 * member->item;
        member->z = (ed_sc){{ed_load_64(random), ed_load_64(random + 8), 0, 0}};
        if ((member->z.word[0] | member->z.word[1]) == 0)
            member->z.word[0] = 1; /* 0 would leave this signature out of the sum */
        ed_challenge(&member->k, &items[member->item]);
        ed_sc_mul(&member->zk, &member->k, &member->z);
        ed_sc_mul(&member->zs, &member->s, &member->z);
    }
}

/* sum = sum of the batch's first `count` terms and [base] B */
static inline void ed_batch_sum_terms(ed_batch *batch, ed_point *sum, size_t count,
                                      const ed_sc *base)
{
#ifdef ED_HAVE_LANES
    if (ed_in_lanes(count)) {
        static const ed_sc zero = {{0, 0, 0, 0}};
        for (size_t i = 0; i < count; i += ED_LANES_TERMS) {
            const size_t piece = count - i < ED_LANES_TERMS ? count - i : ED_LANES_TERMS;
            ed_point part;
            ed_lanes_straus(&part, batch->terms + i, piece, i == 0 ? base : &zero, &batch->lanes);
            if (i == 0)
                *sum = part;
            else
                ed_point_accumulate(sum, &part);
        }
        return;
    }
#endif
    if (count < ED_PIPPENGER_TERMS)
        ed_straus(sum, batch->terms, count, base, &batch->straus);
    else
        ed_pippenger(sum, batch->terms, count, base, &batch->pippenger);
}

/* sum = sum of [z] X over the members low .. high - 1. Terms of R come first, since all their
 * scalars are short, then those of the keys.
 */
static inline void ed_batch_sum(ed_batch *batch, ed_point *sum, size_t low, size_t high)
{
    ed_sc base = {{0, 0, 0, 0}};
    size_t count = high - low;
    batch->round++;
    for (size_t i = low; i < high; i++) {
        const ed_member *member = &batch->members[i];
        ed_key *key = &batch->keys[member->key];
        batch->terms[i - low].point = member->minus_r;
        batch->terms[i - low].scalar = member->z;
        if (key->round == batch->round) {
            ed_sc *scalar = &batch->terms[key->term].scalar;
            ed_sc_add(scalar, scalar, &member->zk);
        } else {
            key->round = batch->round;
            key->term = count;
            batch->terms[count].point = key->minus_a;
            batch->terms[count].scalar = member->zk;
            count++;
        }
        ed_sc_add(&base, &base, &member->zs);
    }
    ed_batch_sum_terms(batch, sum, count, &base);
}

/* Groups of so many or fewer are judged one by one: for one bad member that costs as much as
 * more halving, for many it costs less. Measured.
 */
#ifndef ED_SETTLE_SINGLY
#define ED_SETTLE_SINGLY 8
#endif

/* Gives the members low .. high - 1, whose sum is known, their verdicts.
 *
 * A sum that does not vanish is halved: the left half is summed anew, the right one is the
 * difference. Sums of other subsets may use the same coefficients, since nobody who made the
 * signatures knew them. In the end each member of a small group is judged by itself.
 */
static inline void ed_batch_settle(ed_batch *batch, const ed_point *sum, size_t low, size_t high)
{
    const int good = ed_point_is_torsion(sum);
    if (good || high - low <= ED_SETTLE_SINGLY) {
        for (size_t i = low; i < high; i++) {
            const ed_member *member = &batch->members[i];
            batch->verdicts[member->item] =
                good || ed_equation_holds(&member->s, &member->minus_r, &member->k,
                                          &batch->keys[member->key].minus_a);
        }
        return;
    }
    const size_t middle = low + (high - low) / 2;
    ed_point left, right;
    ed_addend addend;
    ed_product difference;
    ed_batch_sum(batch, &left, low, middle);
    ed_point_to_addend(&addend, &left);
    ed_point_add(&difference, sum, &addend, 1);
    ed_product_to_point(&right, &difference);
    ed_batch_settle(batch, &left, low, middle);
    ed_batch_settle(batch, &right, middle, high);
}

/* verdicts[i] = 1 if items[i] is valid, else 0; `count` at most ED_BATCH_MAX. `coefficients`
 * are 16 unpredictable bytes for each item. Returns 0, or -1 if memory is short.
 */
static inline int ed_verify_batch(uint8_t *verdicts, const ed_item *items, size_t count,
                                  const uint8_t *coefficients)
{
    ed_batch batch;
    memset(verdicts, 0, count);
    const int failed = ed_batch_allocate(&batch, count);
    if (!failed) {
        batch.verdicts = verdicts;
        ed_batch_enter(&batch, items, count, coefficients);
        if (batch.member_count != 0) {
            ed_point sum;
            ed_batch_sum(&batch, &sum, 0, batch.member_count);
            ed_batch_settle(&batch, &sum, 0, batch.member_count);
        }
    }
    ed_batch_free(&batch);
    return failed;
}
#endif
