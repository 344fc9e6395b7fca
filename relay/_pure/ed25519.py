"""Ed25519 verification by the rule of ZIP-215, in plain integers: the specification.

A signature (R, S) of a message M under a public key A is valid exactly when

- S, read little-endian, is less than the group order L;
- A and R decode to points of the curve: y counts modulo p, so spellings of y from p to
  2^255 - 1 are welcome, and so are points of small order and a sign bit beside x = 0;
- the cofactored equation holds: ``[8][S]B = [8]R + [8][k]A`` with
  ``k = SHA-512(R || A || M) mod L`` over the bytes as sent.

Why cofactored: multiplication by 8 leaves a group of prime order, in which a sum of
``[z_i] X_i`` with unpredictable z_i of 128 bits vanishes, up to chance 2^-128, only if every X_i
does. So a batch accepts what its members accept one by one. Without the factor 8, components
of small order would cancel in sums that hold for no member alone.

Everything handled here is public, so nothing is done in constant time. Signing is PyNaCl's.

Sources: RFC 8032, section 5.1; ZIP 215, "Explicitly Defining and Modifying Ed25519 Validation
Rules"; Bernstein et al., "High-speed high-security signatures", section 5 (batches).
Compiled twin: _speedups/ed25519.pyx. Parity: tests/parity/test_ed25519.py.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple, TypeAlias

BATCH_MAX: Final = 1024
"""Members of one sum; a longer batch is checked in pieces of so many, so memory stays bounded."""

COEFFICIENT_BYTES: Final = 16
"""Of a random coefficient: a forged batch passes with probability 2^-128."""

P: Final = 2**255 - 19
"""The field's prime."""

L: Final = 2**252 + 27742317777372353535851937790883648493
"""The prime order of the base point; the curve has 8 L points."""

_D: Final = -121665 * pow(121666, -1, P) % P
_SQRT_M1: Final = pow(2, (P - 1) // 4, P)

_Point: TypeAlias = tuple[int, int, int, int]
"""X, Y, Z, T with x = X/Z, y = Y/Z, xy = T/Z, on -x^2 + y^2 = 1 + d x^2 y^2."""

_IDENTITY: Final[_Point] = (0, 1, 1, 0)


class _Member(NamedTuple):
    """A well-formed signature: where its verdict belongs, and X = [S]B - R - [k]A as terms."""

    item: int
    s: int
    k: int
    minus_r: _Point
    minus_a: _Point


def verify(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Return whether `signature` is one of `message` under `public_key`, by ZIP-215.

    Args:
        public_key: 32 bytes; any, also such that are no point (never valid).
        signature: 64 bytes, R and S.
        message: what was signed, of any length.

    Raises:
        TypeError: an argument is not bytes.
        ValueError: the key is not 32 or the signature not 64 bytes long.

    >>> key = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    >>> signature = bytes.fromhex(
    ...     "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
    ...     "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
    ... )
    >>> verify(key, signature, b""), verify(key, signature, b"another message")
    (True, False)
    """
    _check(public_key, signature, message)
    member = _enter(0, public_key, signature, message)
    return member is not None and _vanishes(_weighted_sum([member], [1]))


def verify_batch(
    items: Sequence[tuple[bytes, bytes, bytes]], random: Callable[[int], bytes]
) -> list[bool]:
    """Return the verdict of `verify` on each (public key, signature, message), in order.

    Faster than one by one: a batch is a single sum of multiples of points; only if that
    does not vanish are its halves looked at, and so on down to the bad ones. Batches of
    more than `BATCH_MAX` are checked in pieces.

    Args:
        items: as the arguments of `verify`.
        random: ``random(n)`` gives n unpredictable bytes; pass `os.urandom`. Whoever knew
            them beforehand could make bad signatures that pass together. Called once for
            each piece of two or more.

    Raises:
        TypeError: something that should be bytes is not.
        ValueError: an item has not three parts or a part has the wrong length, or `random`
            gave another number of bytes. Nothing has been checked then.

    >>> import os
    >>> verify_batch([(bytes(32), bytes(64), b"")], os.urandom)
    [True]
    """
    held = [_unpack(index, item) for index, item in enumerate(items)]
    verdicts: list[bool] = []
    for start in range(0, len(held), BATCH_MAX):
        verdicts += _verify_piece(held[start : start + BATCH_MAX], random)
    return verdicts


def is_point(public_key: bytes) -> bool:
    """Return whether 32 bytes decode to a point of the curve, by the rule of ZIP-215.

    Raises:
        TypeError: not bytes.
        ValueError: not 32 bytes long.

    >>> is_point(bytes(32)), is_point(bytes([2]) + bytes(31))
    (True, False)
    """
    _check_octets(public_key, "public key", 32)
    return _decompress(public_key) is not None


def _check_octets(value: object, name: str, size: int | None) -> None:
    if not isinstance(value, bytes):
        raise TypeError(f"{name} must be bytes, not {type(value).__name__}")
    if size is not None and len(value) != size:
        raise ValueError(f"{name} must be {size} bytes, not {len(value)}")


def _check(public_key: object, signature: object, message: object, prefix: str = "") -> None:
    _check_octets(public_key, prefix + "public key", 32)
    _check_octets(signature, prefix + "signature", 64)
    _check_octets(message, prefix + "message", None)


def _unpack(index: int, item: Iterable[bytes]) -> tuple[bytes, bytes, bytes]:
    parts = tuple(item)
    if len(parts) != 3:
        raise ValueError(f"item {index} has {len(parts)} parts, not 3")
    public_key, signature, message = parts
    _check(public_key, signature, message, f"item {index}: ")
    return public_key, signature, message


def _verify_piece(
    items: Sequence[tuple[bytes, bytes, bytes]], random: Callable[[int], bytes]
) -> list[bool]:
    if len(items) == 1:
        return [verify(*items[0])]
    entropy = random(COEFFICIENT_BYTES * len(items))
    _check_octets(entropy, "randomness", COEFFICIENT_BYTES * len(items))
    entered = [_enter(index, *item) for index, item in enumerate(items)]
    members = [member for member in entered if member is not None]
    # A coefficient of 0 would leave its signature unchecked.
    coefficients = [
        int.from_bytes(entropy[COEFFICIENT_BYTES * m.item :][:COEFFICIENT_BYTES], "little") or 1
        for m in members
    ]
    verdicts = [False] * len(items)
    if members:
        _settle(members, coefficients, _weighted_sum(members, coefficients), verdicts)
    return verdicts


def _settle(
    members: Sequence[_Member], coefficients: Sequence[int], total: _Point, verdicts: list[bool]
) -> None:
    """Write the verdicts of `members`, whose weighted sum is `total`.

    The coefficients serve again for the halves: nobody who made the signatures knew them.
    """
    if _vanishes(total):
        for member in members:
            verdicts[member.item] = True
    elif len(members) > 1:
        middle = len(members) // 2
        left = _weighted_sum(members[:middle], coefficients[:middle])
        _settle(members[:middle], coefficients[:middle], left, verdicts)
        right = _add(total, _negate(left))
        _settle(members[middle:], coefficients[middle:], right, verdicts)


def _enter(index: int, public_key: bytes, signature: bytes, message: bytes) -> _Member | None:
    """Return the signature's equation; None if it is refused for its form alone."""
    s = int.from_bytes(signature[32:], "little")
    r = _decompress(signature[:32])
    a = _decompress(public_key)
    if s >= L or r is None or a is None:
        return None
    digest = hashlib.sha512(signature[:32] + public_key + message).digest()
    return _Member(index, s, int.from_bytes(digest, "little") % L, _negate(r), _negate(a))


def _weighted_sum(members: Sequence[_Member], coefficients: Sequence[int]) -> _Point:
    """Return the sum of [z] X over the members, z being their coefficients."""
    base = 0
    terms: list[tuple[int, _Point]] = []
    for member, z in zip(members, coefficients, strict=True):
        base += z * member.s
        terms += [(z, member.minus_r), (z * member.k % L, member.minus_a)]
    return _sum_of_multiples([(base % L, _BASE), *terms])


def _sum_of_multiples(terms: Iterable[tuple[int, _Point]]) -> _Point:
    """Return the sum of [scalar] point: double and add, the doublings shared by all terms."""
    terms = list(terms)
    total = _IDENTITY
    for bit in reversed(range(max(scalar.bit_length() for scalar, _ in terms))):
        total = _add(total, total)
        for scalar, point in terms:
            if scalar >> bit & 1:
                total = _add(total, point)
    return total


def _vanishes(point: _Point) -> bool:
    """Return whether [8] point is the identity."""
    for _ in range(3):
        point = _add(point, point)
    x, y, z, _ = point
    return x == 0 and y == z


def _decompress(encoding: bytes) -> _Point | None:
    """Return the point that 32 bytes encode; None if there is none (RFC 8032, 5.1.3).

    Unlike there, y may be p or more, and x = 0 may carry a sign.
    """
    number = int.from_bytes(encoding, "little")
    sign, y = number >> 255, (number & 2**255 - 1) % P
    u, v = (y * y - 1) % P, (_D * y * y + 1) % P
    # v is never 0, because -1/d is no square. If u/v is a square, this is a root of it or of
    # its negative; the latter is mended by a root of -1.
    x = u * pow(v, 3, P) * pow(u * pow(v, 7, P), (P - 5) // 8, P) % P
    if v * x * x % P == P - u:
        x = x * _SQRT_M1 % P
    if v * x * x % P != u:
        return None
    if x & 1 != sign:
        x = -x % P
    return x, y, 1, x * y % P


def _add(left: _Point, right: _Point) -> _Point:
    """Return the sum; holds for all points, equal or of small order too (RFC 8032, 5.1.4)."""
    x1, y1, z1, t1 = left
    x2, y2, z2, t2 = right
    a = (y1 - x1) * (y2 - x2) % P
    b = (y1 + x1) * (y2 + x2) % P
    c = 2 * _D * t1 * t2 % P
    d = 2 * z1 * z2 % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def _negate(point: _Point) -> _Point:
    x, y, z, t = point
    return -x % P, y, z, -t % P


def _base_point() -> _Point:
    """Return B: y = 4/5, x even."""
    point = _decompress((4 * pow(5, -1, P) % P).to_bytes(32, "little"))
    assert point is not None  # noqa: S101 (a constant of the curve)
    return point


_BASE: Final = _base_point()
