"""z-base-32: the spelling of public keys in URLs.

32 letters chosen to be easy to read aloud and to type; five bits a letter,
most significant bit first, no padding sign. The last letter of a text may
carry bits that belong to no whole byte: encoding writes zeros there, decoding
ignores them, so several texts may name the same bytes.

Source: https://philzimmermann.com/docs/human-oriented-base-32-encoding.txt;
the treatment of the last letter is the reference relay's (protocol.md,
section 1).
"""

from base64 import b32encode
from typing import Final

ALPHABET: Final = "ybndrfg8ejkmcpqxot1uwisza345h769"
"""The letter of value 0 first."""

_INT_DIGITS: Final = b"0123456789abcdefghijklmnopqrstuv"
"""How `int(text, 32)` spells the same 32 values; it reads a text in one C call."""

_NOT_A_DIGIT: Final = ord("!")

_TO_INT_DIGITS: Final = bytes(
    _INT_DIGITS[ALPHABET.index(chr(octet))] if chr(octet) in ALPHABET else _NOT_A_DIGIT
    for octet in range(256)
)
"""Every byte outside the alphabet becomes one that `int` refuses: signs, blanks and underscores,
which it would otherwise tolerate, included."""

_FROM_RFC4648: Final = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", ALPHABET.encode())


def encode(octets: bytes) -> str:
    r"""Return the z-base-32 text of `octets`; five bytes make eight letters.

    >>> encode(b"\xff\xff")
    '999o'
    """
    return b32encode(octets).rstrip(b"=").translate(_FROM_RFC4648).decode("ascii")


def decode(text: str) -> bytes:
    """Return the whole bytes that `text` spells: floor(5n/8) of n letters.

    Raises:
        ValueError: a character is outside the alphabet; upper case counts as outside.

    >>> decode("999o").hex(), decode("9999").hex(), decode("y").hex()
    ('ffff', 'ffff', '')
    """
    if not text:
        return b""
    letters = text.encode("ascii").translate(_TO_INT_DIGITS)  # UnicodeEncodeError is a ValueError
    bits = 5 * len(letters)
    return (int(letters, 32) >> (bits % 8)).to_bytes(bits // 8, "big")
