"""C-level contract of the ed25519 kernel; the code is in ed25519_*.h, one concern a header.

    ed25519_field.h        arithmetic modulo 2^255 - 19, with the bounds of every limb
    ed25519_scalar.h       arithmetic modulo the group order, signed digits, half-length scalars
    ed25519_group.h        points: addition, doubling, decoding
    ed25519_multiscalar.h  sums of multiples: Straus, Pippenger
    ed25519_lanes.h        the field and points once more, four at a time, for AVX2
    ed25519_lanes_sum.h    Straus' sum with four additions at a time
    ed25519_sha512.h       the hash
    ed25519_verify.h       the rule (ZIP-215), single and batch
    ed25519_parts.h        what only tests need

Nothing here touches a Python object or needs the GIL. After `ed_setup` there is no shared
mutable state: any number of threads may verify at once.

Which code runs is decided by the compiler (128-bit integers or two words), by the processor
(AVX2 or not, asked by `ed_setup`) and by the size of the sum. The verdict never depends on it.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint64_t


cdef extern from "ed25519_verify.h" nogil:
    # Most members of one batch: what bounds the memory of a call.
    const size_t ED_BATCH_MAX

    # One signature to check. All memory is the caller's and must outlive the call.
    ctypedef struct ed_item:
        const uint8_t *public_key       # 32 bytes
        const uint8_t *signature        # 64 bytes: R, then S
        const uint8_t *message
        size_t message_bytes

    # Fills the table of the base point; once, before anything else.
    void ed_setup()
    # Whether 32 bytes decode to a point.
    bint ed_is_point(const uint8_t *public_key)
    # Whether a signature is valid. No memory is allocated.
    bint ed_verify(const ed_item *item)
    # verdicts[i] = whether items[i] is valid, for 1 <= count <= ED_BATCH_MAX. `coefficients`:
    # 16 unpredictable bytes for each item. Returns -1 if memory is short, else 0.
    int ed_verify_batch(uint8_t *verdicts, const ed_item *items, size_t count,
                        const uint8_t *coefficients)


cdef extern from "ed25519_parts.h" nogil:
    # The parts, named here for their own tests.
    # Whether batches may use AVX2 from now on; returns whether they do. Not while others verify.
    bint ed_allow_lanes(bint allowed)

    ctypedef struct ed_sc:
        uint64_t word[4]
    ctypedef struct ed_sha512:
        uint64_t bytes                  # hashed so far
    # Four products and squares modulo p, with factors m and n times as large as need be.
    void ed_field_products(uint8_t *products, uint8_t *squares, const uint8_t *left,
                           const uint8_t *right, int m, int n)
    void ed_sc_load(ed_sc *out, const uint8_t *octets)
    void ed_sc_reduce_wide(ed_sc *out, const uint8_t *octets)
    void ed_sc_mul(ed_sc *out, const ed_sc *a, const ed_sc *b)
    void ed_sc_halve(ed_sc *t, int *t_is_negative, ed_sc *r, const ed_sc *k)
    void ed_sha512_start(ed_sha512 *hash)
    void ed_sha512_update(ed_sha512 *hash, const uint8_t *data, size_t size)
    void ed_sha512_finish(ed_sha512 *hash, uint8_t *digest)
