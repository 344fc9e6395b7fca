"""The compiled ed25519 kernel against its twin, and both against PyNaCl and against attacks.

Verdicts and errors of the twins are equal on anything; batches accept exactly what their
members accept alone. `TORSION_VERDICTS` lists the signatures on which this relay and the reference
differ: those with a small-order component in R or A that the cofactorless equation refuses.
The pure twin takes milliseconds a signature, so its examples are few.
"""

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from types import ModuleType
from typing import Any, TypeAlias

import nacl.exceptions
import nacl.signing
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay._pure import ed25519 as pure
from relay._speedups import ed25519 as compiled
from tests.support.chance import seeded

Item: TypeAlias = tuple[bytes, bytes, bytes]

L = pure.L
ORDER_8 = bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05")
"""A generator of the eight points of small order."""

IDENTITY = (0, 1, 1, 0)


def multiply(scalar: int, point: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    return pure._sum_of_multiples([(scalar, point)]) if scalar else IDENTITY


def compress(point: tuple[int, int, int, int]) -> bytes:
    x, y, z, _ = point
    inverse = pow(z, -1, pure.P)
    x, y = x * inverse % pure.P, y * inverse % pure.P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def challenge(r: bytes, key: bytes, message: bytes) -> int:
    return int.from_bytes(hashlib.sha512(r + key + message).digest(), "little") % L


@cache
def torsion_point(index: int) -> tuple[int, int, int, int]:
    generator = pure._decompress(ORDER_8)
    assert generator is not None
    return multiply(index, generator)


@cache
def with_torsion(in_r: int, in_key: int, seed: int = 1) -> Item:
    """Sign with small-order points (multiples of `ORDER_8`) added to R and to the key."""
    chance = seeded(f"torsion {seed}")
    secret, nonce = chance.randrange(1, L), chance.randrange(1, L)
    message = b"message %d" % seed
    key = compress(pure._add(multiply(secret, pure._BASE), torsion_point(in_key)))
    r = compress(pure._add(multiply(nonce, pure._BASE), torsion_point(in_r)))
    s = (nonce + challenge(r, key, message) * secret) % L
    return key, r + s.to_bytes(32, "little"), message


def accepted_without_cofactor(item: Item) -> bool:
    """Judge as the reference does: [S]B - [k]A, encoded, must be R byte for byte."""
    key, signature, message = item
    point = pure._decompress(key)
    s = int.from_bytes(signature[32:], "little")
    if point is None or s >= L:
        return False
    k = challenge(signature[:32], key, message)
    minus = pure._sum_of_multiples([(s, pure._BASE), (k, pure._negate(point))])
    return compress(minus) == signature[:32]


def accepted_by_libsodium(item: Item) -> bool:
    key, signature, message = item
    try:
        nacl.signing.VerifyKey(key).verify(message, signature)
    except nacl.exceptions.BadSignatureError:
        return False
    return True


@cache
def honest(index: int) -> Item:
    chance = seeded(index)
    signer = nacl.signing.SigningKey(chance.randbytes(32))
    message = chance.randbytes(chance.choice([0, 1, 47, 48, 64, 111, 250, 1000]))
    return bytes(signer.verify_key), signer.sign(message).signature, message


def flipped(data: bytes, bit: int) -> bytes:
    number = int.from_bytes(data, "little") ^ 1 << bit % (8 * len(data))
    return number.to_bytes(len(data), "little")


ODD_ENCODINGS = sorted(
    {(y | sign << 255).to_bytes(32, "little") for y in range(pure.P, 2**255) for sign in (0, 1)}
    | {compress(torsion_point(index)) for index in range(8)}
    | {(y | 1 << 255).to_bytes(32, "little") for y in (0, 1, pure.P - 1)}
)
"""Every non-canonical y, every point of small order, and "negative zero"; some are no points."""


def octets(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


bits = st.integers(0, 511)
honest_items = st.builds(honest, st.integers(0, 7))
torsion_items = st.builds(
    with_torsion, st.integers(0, 7), st.integers(0, 7), st.integers(1, 2)
)  # 128 of them, made once


@st.composite
def mangled_items(draw: st.DrawFn) -> Item:
    """Draw an honest item with one thing wrong, or everything random."""
    key, signature, message = draw(honest_items)
    r, s = signature[:32], int.from_bytes(signature[32:], "little")
    match draw(st.integers(0, 8)):
        case 0:
            key = flipped(key, draw(bits))
        case 1:
            signature = flipped(signature, draw(bits))
        case 2:
            message = draw(st.binary(max_size=200))
        case 3:  # the same point, but out of range
            multiple = draw(st.integers(1, (2**256 - 1 - s) // L))
            signature = r + (s + multiple * L).to_bytes(32, "little")
        case 4:
            s = draw(st.sampled_from([0, 1, L - 1, L, L + 1, 2**252, 2**255, 2**256 - 1]))
            signature = r + s.to_bytes(32, "little")
        case 5:
            signature = draw(st.sampled_from(ODD_ENCODINGS)) + signature[32:]
        case 6:
            key = draw(st.sampled_from(ODD_ENCODINGS))
        case 7:  # small order in both places and S = 0 is often valid
            key = draw(st.sampled_from(ODD_ENCODINGS))
            signature = draw(st.sampled_from(ODD_ENCODINGS)) + bytes(32)
        case _:
            key, signature = draw(octets(32)), draw(octets(64))
    return key, signature, message


any_item = honest_items | torsion_items | mangled_items()


def in_batch(items: list[Item]) -> list[bool]:
    """Return the compiled verdicts, which are the same with AVX2 and without."""
    try:
        compiled._allow_lanes(False)
        portable = compiled.verify_batch(items, os.urandom)
    finally:
        compiled._allow_lanes(True)
    assert compiled.verify_batch(items, os.urandom) == portable
    return portable


def outcome(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a call gives: its value, or the type and text of its error."""
    try:
        return function(*arguments)
    except Exception as error:
        return type(error), str(error)


@settings(max_examples=60)
@given(any_item)
def test_twins_agree_on_a_signature(item: Item) -> None:
    verdict = compiled.verify(*item)
    assert verdict is pure.verify(*item)
    assert compiled.verify_batch([item], os.urandom) == [verdict]


@settings(max_examples=20)
@given(st.lists(any_item, max_size=8))
def test_twins_agree_on_a_batch(items: list[Item]) -> None:
    verdicts = in_batch(items)
    assert verdicts == pure.verify_batch(items, os.urandom)
    assert verdicts == [compiled.verify(*item) for item in items]


@settings(max_examples=100)
@given(st.lists(any_item, max_size=100))
def test_a_batch_accepts_what_its_members_accept(items: list[Item]) -> None:
    """In order, whatever is mixed: valid, forged, malformed, with torsion, repeated."""
    assert in_batch(items) == [compiled.verify(*item) for item in items]


@settings(max_examples=200)
@given(st.sampled_from(ODD_ENCODINGS) | octets(32))
def test_twins_agree_on_points(encoding: bytes) -> None:
    assert compiled.is_point(encoding) is pure.is_point(encoding)


def test_odd_encodings() -> None:
    """ZIP-215 judges the decoded point, not its spelling."""
    points = [encoding for encoding in ODD_ENCODINGS if compiled.is_point(encoding)]
    assert points == [encoding for encoding in ODD_ENCODINGS if pure.is_point(encoding)]
    assert len(ODD_ENCODINGS) == 48
    assert len(points) == 34
    # Of small order, R and key make a valid signature of anything with S = 0.
    small = [encoding for encoding in points if of_small_order(encoding)]
    items = [(key, r + bytes(32), b"anything") for key in small for r in small]
    assert len(small) == 14
    assert all(compiled.verify(*item) for item in items)
    assert all(in_batch(items))
    assert all(pure.verify(*item) for item in items[::10])


def of_small_order(encoding: bytes) -> bool:
    point = pure._decompress(encoding)
    return point is not None and pure._vanishes(point)


@settings(max_examples=200)
@given(honest_items, bits, st.sampled_from(["key", "signature", "message", "nothing"]))
def test_libsodium_agrees_on_ordinary_and_mangled_signatures(
    item: Item, bit: int, where: str
) -> None:
    key, signature, message = item
    if where == "key":
        key = flipped(key, bit)
    elif where == "signature":
        signature = flipped(signature, bit)
    elif where == "message":
        message = flipped(message or b"?", bit)
    item = (key, signature, message)
    assert compiled.verify(*item) is accepted_by_libsodium(item)
    assert in_batch([item] * 2) == [accepted_by_libsodium(item)] * 2


# Row: multiple of ORDER_8 added to R; column: multiple added to the key. "=": the reference and
# libsodium accept it too; "x": they refuse it, ZIP-215 does not. "=" off the first cell is where
# the small-order parts happen to cancel, T_R + [k] T_A = 0.
TORSION_VERDICTS = [
    "=xxxx=xx",
    "xxxxxxxx",
    "xxxxxx=x",
    "xxxxx=xx",
    "xxx===xx",
    "xxxxxxxx",
    "xxx=xxxx",
    "xxxxxxxx",
]


@pytest.mark.parametrize("in_r", range(8))
@pytest.mark.parametrize("in_key", range(8))
def test_signatures_with_torsion(in_r: int, in_key: int) -> None:
    """ZIP-215 accepts every one; the cofactorless rule of the reference only those marked "="."""
    item = with_torsion(in_r, in_key)
    accepted_by_others = TORSION_VERDICTS[in_r][in_key] == "="
    assert accepted_without_cofactor(item) is accepted_by_others
    assert accepted_by_libsodium(item) is accepted_by_others
    assert compiled.verify(*item)
    assert pure.verify(*item)
    key, signature, message = item
    assert not compiled.verify(key, signature, message + b"!")


def test_torsion_in_batches() -> None:
    """Also where the small-order parts of a whole batch do not cancel, or only in pairs."""
    items = [with_torsion(in_r, in_key) for in_r in range(8) for in_key in range(8)]
    for size in (2, 3, 63, 64):
        assert in_batch(items[-size:]) == [True] * size
    assert pure.verify_batch(items[-6:], os.urandom) == [True] * 6


def signed(count: int, keys: int) -> list[Item]:
    """Return `count` valid signatures under `keys` different keys, in turn."""
    signers = [nacl.signing.SigningKey(hashlib.sha256(b"%d" % n).digest()) for n in range(keys)]
    items = []
    for index in range(count):
        signer, message = signers[index % keys], b"%d" % index
        items.append((bytes(signer.verify_key), signer.sign(message).signature, message))
    return items


@pytest.mark.parametrize("keys", [1, 7, 2000])
@pytest.mark.parametrize(
    "count",
    [0, 1, 2, 3, 4, 6, 7, 8, 63, 64, 126, 127, 128, 255, 256, 257, 511, 512, 1024, 1025, 2051],
)
def test_sizes_around_every_change_of_method(count: int, keys: int) -> None:
    """Straus, Pippenger, lanes; one piece and several; few keys and many; all good, some bad."""
    items = signed(count, keys)
    assert in_batch(items) == [True] * count
    chance = seeded(count)
    for bad in (1, 3):
        positions = {chance.randrange(count) for _ in range(bad)} if count else set()
        forged = [
            (key, flipped(signature, chance.randrange(512)), message)
            if index in positions
            else (key, signature, message)
            for index, (key, signature, message) in enumerate(items)
        ]
        expected = [index not in positions for index in range(count)]
        assert in_batch(forged) == expected


@pytest.mark.parametrize("twin", [compiled, pure], ids=["compiled", "pure"])
class TestEitherTwin:
    def test_forgeries_that_cancel_pass_only_if_coefficients_are_known(
        self, twin: ModuleType
    ) -> None:
        """S + 1 in one signature and S - 1 in another: a plain sum does not notice."""
        items = [honest(0), honest(1), honest(2)]
        forged = [shifted(items[0], 1), shifted(items[1], -1), items[2]]
        assert not any(twin.verify(*item) for item in forged[:2])
        equal = lambda size: (bytes([1]) + bytes(15)) * (size // 16)  # noqa: E731
        assert twin.verify_batch(forged, equal) == [True] * 3  # the attack is real
        for _ in range(3):
            assert twin.verify_batch(forged, os.urandom) == [False, False, True]

    def test_identical_items(self, twin: ModuleType) -> None:
        good, bad = honest(3), shifted(honest(3), 5)
        assert twin.verify_batch([good] * 5, os.urandom) == [True] * 5
        assert twin.verify_batch([bad] * 5, os.urandom) == [False] * 5
        mixed = [good, bad, good, good, bad]
        assert twin.verify_batch(mixed, os.urandom) == [item is good for item in mixed]

    def test_a_coefficient_of_zero_leaves_nothing_unchecked(self, twin: ModuleType) -> None:
        items = [honest(0), shifted(honest(1), 1), honest(2)]
        assert twin.verify_batch(items, bytes) == [True, False, True]

    def test_items_are_held_while_they_are_checked(self, twin: ModuleType) -> None:
        items = [honest(0), shifted(honest(1), 1)]

        def clears(size: int) -> bytes:
            items.clear()
            return os.urandom(size)

        assert twin.verify_batch(items, clears) == [True, False]

    def test_randomness_is_asked_for_once_a_piece(self, twin: ModuleType) -> None:
        asked = []

        def counts(size: int) -> bytes:
            asked.append(size)
            return os.urandom(size)

        malformed = (bytes(32), bytes([255]) * 64, b"")  # refused for its form: cheap
        assert twin.verify_batch([malformed] * 2050, counts) == [False] * 2050
        assert twin.verify_batch([malformed], counts) == [False]
        assert twin.verify_batch([], counts) == []
        assert asked == [16 * 1024, 16 * 1024, 16 * 2]

    def test_errors_of_the_source_of_randomness_come_through(self, twin: ModuleType) -> None:
        def fails(size: int) -> bytes:
            raise OSError(size)

        with pytest.raises(OSError, match="32"):
            twin.verify_batch([honest(0)] * 2, fails)


def shifted(item: Item, by: int) -> Item:
    key, signature, message = item
    s = (int.from_bytes(signature[32:], "little") + by) % L
    return key, signature[:32] + s.to_bytes(32, "little"), message


WRONG_ARGUMENTS: list[Any] = [
    (bytes(31), bytes(64), b""),
    (bytes(33), bytes(63), b""),
    (bytes(32), bytes(65), b""),
    (b"", b"", b""),
    ("0" * 32, bytes(64), b""),
    (bytes(32), bytearray(64), b""),
    (bytes(32), bytes(64), "text"),
    (bytes(32), bytes(64), None),
    (None, bytes(64), b""),
]


@pytest.mark.parametrize("arguments", WRONG_ARGUMENTS)
def test_twins_raise_the_same_for_wrong_arguments(arguments: Any) -> None:
    error = outcome(pure.verify, *arguments)
    assert error[0] in (TypeError, ValueError)
    assert outcome(compiled.verify, *arguments) == error
    batch = [honest(0), arguments]
    error = outcome(pure.verify_batch, batch, os.urandom)
    assert error[0] in (TypeError, ValueError)
    assert error[1].startswith("item 1: ")
    assert outcome(compiled.verify_batch, batch, os.urandom) == error


@pytest.mark.parametrize("octets", [b"", bytes(31), bytes(33), "0" * 32, None])
def test_twins_raise_the_same_for_wrong_keys(octets: Any) -> None:
    error = outcome(pure.is_point, octets)
    assert error[0] in (TypeError, ValueError)
    assert outcome(compiled.is_point, octets) == error


@pytest.mark.parametrize("items", [[(bytes(32), bytes(64))], [honest(0), ()], [5], 5, [[]]])
def test_twins_raise_the_same_for_wrong_items(items: Any) -> None:
    error = outcome(pure.verify_batch, items, os.urandom)
    assert error[0] in (TypeError, ValueError)
    assert outcome(compiled.verify_batch, items, os.urandom) == error


@pytest.mark.parametrize("source", [lambda _: b"", lambda n: bytes(n + 1), bytearray, lambda _: 0])
def test_twins_raise_the_same_for_wrong_randomness(source: Any) -> None:
    items = [honest(0), honest(1)]
    error = outcome(pure.verify_batch, items, source)
    assert error[0] in (TypeError, ValueError)
    assert outcome(compiled.verify_batch, items, source) == error


def test_the_wrong_text() -> None:
    with pytest.raises(ValueError, match=r"^public key must be 32 bytes, not 31$"):
        compiled.verify(bytes(31), bytes(64), b"")
    with pytest.raises(ValueError, match=r"^item 1: signature must be 64 bytes, not 2$"):
        compiled.verify_batch([honest(0), (bytes(32), b"12", b"")], os.urandom)
    with pytest.raises(TypeError, match=r"^message must be bytes, not str$"):
        compiled.verify(bytes(32), bytes(64), "text")  # type: ignore[arg-type]


def test_constants_agree() -> None:
    assert compiled.BATCH_MAX == pure.BATCH_MAX
    assert compiled.COEFFICIENT_BYTES == pure.COEFFICIENT_BYTES


def test_threads_do_not_disturb_each_other() -> None:
    """Batches run without the GIL and share nothing but constants."""
    items = signed(40, 40)
    items[7] = shifted(items[7], 1)
    expected = [index != 7 for index in range(40)]
    with ThreadPoolExecutor(4) as pool:
        results = pool.map(lambda _: compiled.verify_batch(items, os.urandom), range(40))
        assert list(results) == [expected] * 40
