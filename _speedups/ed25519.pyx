# cython: autotestdict=False
"""Ed25519 verification by the rule of ZIP-215, in C. Specification: relay/_pure/ed25519.py.

Verdicts and errors are the twin's. This module checks arguments and keeps their memory alive;
the arithmetic is in the headers that ed25519.pxd lists. It verifies public data only and runs
in variable time; it never signs.

A batch runs without the GIL. A single verification keeps it: some 30 microseconds are less than
the wait for getting it back from a busy thread.

Parity: tests/parity/test_ed25519.py; vectors and parts: tests/unit/test_ed25519_vectors.py.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_Check, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport uint8_t

# By the folder's own name: the compiler does not know that it is installed as relay._speedups.
from _speedups.ed25519 cimport (
    ED_BATCH_MAX,
    ed_allow_lanes,
    ed_field_products,
    ed_is_point,
    ed_item,
    ed_sc,
    ed_sc_halve,
    ed_sc_load,
    ed_sc_mul,
    ed_sc_reduce_wide,
    ed_setup,
    ed_sha512,
    ed_sha512_finish,
    ed_sha512_start,
    ed_sha512_update,
    ed_verify,
    ed_verify_batch,
)

BATCH_MAX = ED_BATCH_MAX
COEFFICIENT_BYTES = 16

cdef Py_ssize_t _BATCH_MAX = ED_BATCH_MAX
cdef Py_ssize_t _COEFFICIENT_BYTES = COEFFICIENT_BYTES

ed_setup()


cdef const uint8_t *_octets(object value, str name, Py_ssize_t size) except NULL:
    """The bytes of `value`, which must have `size` of them (-1: any number)."""
    if not PyBytes_Check(value):
        raise TypeError(f"{name} must be bytes, not {type(value).__name__}")
    if size >= 0 and PyBytes_GET_SIZE(value) != size:
        raise ValueError(f"{name} must be {size} bytes, not {PyBytes_GET_SIZE(value)}")
    return <const uint8_t *> PyBytes_AS_STRING(value)


cdef int _fill(ed_item *item, object public_key, object signature, object message) except -1:
    """Point `item` into the three objects, which the caller keeps alive."""
    item.public_key = _octets(public_key, "public key", 32)
    item.signature = _octets(signature, "signature", 64)
    item.message = _octets(message, "message", -1)
    item.message_bytes = <size_t> PyBytes_GET_SIZE(message)
    return 0


def verify(public_key, signature, message):
    """Whether `signature` is one of `message` under `public_key`, by ZIP-215."""
    cdef ed_item item
    _fill(&item, public_key, signature, message)
    return bool(ed_verify(&item))


def is_point(public_key):
    """Whether 32 bytes decode to a point of the curve, by the rule of ZIP-215."""
    return bool(ed_is_point(_octets(public_key, "public key", 32)))


def verify_batch(items, random):
    """The verdict of `verify` on each (public key, signature, message), in order."""
    # Flat, so that every object is held whatever becomes of `items` meanwhile.
    cdef list held = []
    cdef list verdicts = []
    cdef Py_ssize_t start, count, index = 0
    cdef ed_item *pointers
    for item in items:
        parts = tuple(item)
        if len(parts) != 3:
            raise ValueError(f"item {index} has {len(parts)} parts, not 3")
        _check(index, parts[0], parts[1], parts[2])
        held += parts
        index += 1
    if index == 0:
        return verdicts
    pointers = <ed_item *> PyMem_Malloc(min(index, _BATCH_MAX) * sizeof(ed_item))
    if pointers == NULL:
        raise MemoryError
    try:
        for start in range(0, index, _BATCH_MAX):
            count = min(index - start, _BATCH_MAX)
            _verify_piece(verdicts, held, start, count, pointers, random)
    finally:
        PyMem_Free(pointers)
    return verdicts


cdef int _check(Py_ssize_t index, object public_key, object signature, object message) except -1:
    cdef ed_item unused
    if (
        PyBytes_Check(public_key) and PyBytes_GET_SIZE(public_key) == 32
        and PyBytes_Check(signature) and PyBytes_GET_SIZE(signature) == 64
        and PyBytes_Check(message)
    ):
        return 0
    try:
        _fill(&unused, public_key, signature, message)
    except (TypeError, ValueError) as error:
        raise type(error)(f"item {index}: {error}") from None
    return 0


cdef int _verify_piece(
    list verdicts, list held, Py_ssize_t start, Py_ssize_t count, ed_item *pointers, object random
) except -1:
    """Append the verdicts of `count` items from `start` on; `pointers` has room for them."""
    cdef uint8_t good[1024]  # ED_BATCH_MAX
    cdef const uint8_t *coefficients
    cdef Py_ssize_t i, part
    cdef int failed
    for i in range(count):
        part = 3 * (start + i)
        _fill(&pointers[i], held[part], held[part + 1], held[part + 2])
    if count == 1:
        verdicts.append(bool(ed_verify(pointers)))
        return 0
    entropy = random(_COEFFICIENT_BYTES * count)
    coefficients = _octets(entropy, "randomness", _COEFFICIENT_BYTES * count)
    with nogil:
        failed = ed_verify_batch(good, pointers, <size_t> count, coefficients)
    if failed:
        raise MemoryError
    for i in range(count):
        verdicts.append(bool(good[i]))
    return 0


# The parts of the kernel, each by itself, for their tests.

def _allow_lanes(bint allowed):
    """Let batches use AVX2, or not; whether they do now. Not while another thread verifies."""
    return bool(ed_allow_lanes(allowed))


def _sha512(data, Py_ssize_t split):
    """SHA-512 of `data`, taken in two pieces: `split` bytes and the rest."""
    cdef ed_sha512 hash_
    cdef uint8_t digest[64]
    cdef const uint8_t *octets = _octets(data, "data", -1)
    ed_sha512_start(&hash_)
    ed_sha512_update(&hash_, octets, <size_t> split)
    ed_sha512_update(&hash_, octets + split, <size_t> (PyBytes_GET_SIZE(data) - split))
    ed_sha512_finish(&hash_, digest)
    return (<const char *> digest)[:64]


def _field_products(left, right, int m, int n):
    """Four products (m left)(n right) and squares (n right)^2 modulo 2^255 - 19.

    Elements are 32 bytes, the top bit ignored, one after the other. The factors' limbs are m and
    n times as large as those of their elements; 7 and 7 are allowed, in lanes 5 and 3.
    """
    cdef uint8_t products[128]
    cdef uint8_t squares[128]
    ed_field_products(
        products, squares, _octets(left, "left", 128), _octets(right, "right", 128), m, n
    )
    return (<const char *> products)[:128], (<const char *> squares)[:128]


def _scalar_product(left, right):
    """left * right modulo L; 32 and 64 bytes."""
    cdef ed_sc a, b
    ed_sc_load(&a, _octets(left, "left", 32))
    ed_sc_reduce_wide(&b, _octets(right, "right", 64))
    ed_sc_mul(&a, &a, &b)
    return _scalar_to_int(&a)


def _scalar_halves(wide):
    """(t, r) with t k = r modulo L, both short, for k = 64 bytes modulo L."""
    cdef ed_sc k, t, r
    cdef int negative
    ed_sc_reduce_wide(&k, _octets(wide, "wide", 64))
    ed_sc_halve(&t, &negative, &r, &k)
    return (-_scalar_to_int(&t) if negative else _scalar_to_int(&t)), _scalar_to_int(&r)


cdef object _scalar_to_int(const ed_sc *a):
    value = 0
    for i in range(4):
        value |= <object> a.word[i] << (64 * i)
    return value
