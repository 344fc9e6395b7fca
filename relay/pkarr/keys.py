"""Ed25519 keys, and the many spellings of one that a URL may carry.

A packet is published under its public key: 32 bytes on the wire, 52 letters of
z-base-32 in text. Clients put whole URIs where a key is expected
(``pk:KEY``, ``https://sub.KEY/path``), so the parser peels those off.

Source: protocol.md, section 1; the order of peeling is the reference's, and
part of the interface: ``KEY:8080`` is an error because the first colon is
taken for that of a scheme.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha1
from typing import TYPE_CHECKING, Final, Self

from relay._kernels import is_point
from relay.errors import PublicKeyError
from relay.pkarr import zbase32

if TYPE_CHECKING:
    from nacl.signing import SigningKey

KEY_BYTES: Final = 32
KEY_LETTERS: Final = 52
"""ceil(256 / 5); the last letter carries one bit of the key and four that are ignored."""

_HEX: Final = frozenset("0123456789abcdefABCDEF")


def _after(text: str, separator: str) -> str:
    return text[text.find(separator) + 1 :]


def _before(text: str, separator: str) -> str:
    return text.partition(separator)[0]


def _last_label(text: str) -> str:
    if text.endswith("."):
        text = text.strip(".")
    return text[text.rfind(".") + 1 :]


_PEEL: Final[tuple[Callable[[str], str], ...]] = (
    lambda text: _after(text, ":"),  # a scheme
    lambda text: text.removeprefix("//"),
    lambda text: _after(text, "@"),  # user information
    lambda text: _before(text, ":"),  # a port
    lambda text: _before(text, "/"),  # a path
    lambda text: _before(text, "?"),  # a query
    lambda text: _before(text, "#"),  # a fragment
    _last_label,  # a subdomain
)


def _peel(text: str) -> str:
    """Take a URI apart until what is left can be a key: 52 bytes of UTF-8 or fewer.

    A character takes one to four bytes, so a text without non-ASCII characters,
    which is every honest one, is measured without being encoded.
    """
    for step in _PEEL:
        size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
        if size <= KEY_LETTERS:
            break
        text = step(text)
    return text


@dataclass(frozen=True, slots=True)
class PublicKey:
    """The ed25519 key a packet is published under.

    32 bytes on the wire (`octets`), 52 letters of z-base-32 in URLs (``str(key)``).
    Only the length is checked here; `parse` and `from_octets`, the ways in for
    what strangers send, also make sure that the bytes encode a curve point.
    """

    octets: bytes

    def __post_init__(self) -> None:
        if len(self.octets) != KEY_BYTES:
            raise PublicKeyError(
                "length",
                f"Invalid PublicKey length, expected 32 bytes but got: {len(self.octets)}",
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a key, or a URI that contains one; percent-decoding is the caller's.

        Small-order points and non-canonical encodings are accepted (ZIP-215);
        of the 16 texts that name one key all are, and `str` gives the canonical.

        Raises:
            PublicKeyError: `fault` is ``encoding``, ``length`` or ``not_a_point``.

        >>> key = PublicKey.parse("https://foo.47pjoycnsrfmxikm95jh13y88e8qnhzu5kungjpxyepgt7a8krpy/")
        >>> str(key)
        '47pjoycnsrfmxikm95jh13y88e8qnhzu5kungjpxyepgt7a8krpy'
        >>> PublicKey.parse("stats")
        Traceback (most recent call last):
            ...
        relay.errors.PublicKeyError: Invalid PublicKey length, expected 32 bytes but got: 3
        """
        try:
            octets = zbase32.decode(_peel(text))
        except ValueError:
            raise PublicKeyError("encoding", "Invalid PublicKey encoding") from None
        return cls.from_octets(octets)

    @classmethod
    def parse_any(cls, text: str) -> Self:
        """Read a key as a person gives it: as `parse`, or as the 64 hexadecimal digits of iroh.

        Raises:
            PublicKeyError: as `parse`.

        >>> str(PublicKey.parse_any(bytes(32).hex())) == str(PublicKey(bytes(32)))
        True
        """
        text = text.strip()
        if len(text) == 2 * KEY_BYTES and _HEX.issuperset(text):
            return cls.from_octets(bytes.fromhex(text))
        return cls.parse(text)

    @classmethod
    def from_octets(cls, octets: bytes) -> Self:
        """Check 32 bytes that came from outside.

        Raises:
            PublicKeyError: wrong length, or no curve point has this encoding.
        """
        key = cls(octets)
        if not is_point(octets):
            raise PublicKeyError(
                "not_a_point", "Invalid Ed25519 publickey; Cannot decompress Edwards point"
            )
        return key

    @property
    def target(self) -> bytes:
        """Where the DHT keeps this key's item: 20 bytes, SHA-1 of the key (BEP 44, no salt)."""
        return sha1(self.octets, usedforsecurity=False).digest()

    @property
    def uri(self) -> str:
        """The key as a URI: ``pk:`` and 52 letters."""
        return f"pk:{self}"

    def __str__(self) -> str:
        return zbase32.encode(self.octets)


@dataclass(frozen=True, slots=True)
class Keypair:
    """A private key and its public half. Signing is libsodium's, through PyNaCl.

    PyNaCl is loaded by the first use: a relay only verifies.

    >>> keypair = Keypair.from_seed(bytes(32))
    >>> str(keypair.public_key)
    '8pinxxgqs41n4aididenw5apqp1urfmzdztr8jt4abrkdn435ewo'
    """

    public_key: PublicKey
    _signing_key: "SigningKey" = field(repr=False, compare=False)

    @classmethod
    def generate(cls) -> Self:
        """Make a new pair from the operating system's randomness."""
        from nacl.signing import SigningKey

        return cls._of(SigningKey.generate())

    @classmethod
    def from_seed(cls, seed: bytes) -> Self:
        """Restore a pair from its 32-byte secret seed (RFC 8032, section 5.1.5).

        Raises:
            ValueError: the seed is not 32 bytes long.
        """
        from nacl.signing import SigningKey

        if len(seed) != KEY_BYTES:
            raise ValueError(f"an ed25519 seed has {KEY_BYTES} bytes, not {len(seed)}")
        return cls._of(SigningKey(seed))

    @classmethod
    def _of(cls, signing_key: "SigningKey") -> Self:
        return cls(PublicKey(bytes(signing_key.verify_key)), signing_key)

    @property
    def seed(self) -> bytes:
        """The 32 secret bytes from which `from_seed` restores the pair."""
        return bytes(self._signing_key)

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature of `message`; deterministic (RFC 8032)."""
        return self._signing_key.sign(message).signature
