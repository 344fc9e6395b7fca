"""Kademlia's metric in pure Python: the specification of `relay._speedups.xor`.

Identifiers are 20 bytes; the distance of two is their XOR read as a big-endian integer.
Both twins give the same values and the same error texts.

Source: Maymounkov & Mazières, "Kademlia" (2002), section 2.1; BEP 5.
Parity: tests/parity/test_xor.py.
"""

from typing import Final

ID_BYTES: Final = 20
"""Length of an identifier."""


def distance(left: bytes, right: bytes) -> int:
    """Return the Kademlia distance between two identifiers.

    XOR read as a big-endian integer: symmetric, zero only between equals, and for each `left`
    every distance names exactly one `right`.

    Args:
        left: 20 bytes, a node identifier or a target.
        right: 20 bytes, likewise.

    Returns:
        An integer in ``range(2**160)``; smaller is closer.

    Raises:
        ValueError: an argument is not 20 bytes long.

    >>> distance(bytes(20), bytes(19) + bytes([5]))
    5
    """
    if len(left) != ID_BYTES or len(right) != ID_BYTES:
        raise ValueError("an identifier has 20 bytes")
    return int.from_bytes(left, "big") ^ int.from_bytes(right, "big")


def bucket_index(left: bytes, right: bytes) -> int:
    """Return 160 minus the number of leading bits that two identifiers share.

    Args:
        left: 20 bytes.
        right: 20 bytes.

    Returns:
        0 for equal identifiers, otherwise 1 (they differ in the last bit only) to 160.

    Raises:
        ValueError: an argument is not 20 bytes long.

    >>> bucket_index(bytes(20), bytes(19) + bytes([5]))
    3
    """
    return distance(left, right).bit_length()
