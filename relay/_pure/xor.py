"""Kademlia's metric in pure Python: the specification of `relay._speedups.xor`.

Identifiers are 20 bytes; the distance of two is their XOR read as a big-endian integer.
Both twins give the same values, the same order and the same error texts.

Source: Maymounkov & Mazières, "Kademlia" (2002), section 2.1; BEP 5.
Parity: tests/parity/test_xor.py.
"""

from heapq import nsmallest
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


class IdTable:
    """Identifiers in numbered slots, and the question which of them are closest to a target.

    The storage under the routing table: a slot holds an identifier and one bit, `preferred`
    (for us: the identifier is secure). What else is known about a node stays with the caller,
    under the same slot number. Everything is allocated at construction.

    Args:
        capacity: number of slots, at least 1.

    >>> table = IdTable(8)
    >>> for slot in range(8):
    ...     table.set(slot, bytes(19) + bytes([slot]), preferred=slot == 7)
    >>> table.closest(bytes(19) + bytes([5]), 3)
    [7, 5, 4]
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError("an identifier table has at least one slot")
        self._capacity = capacity
        self._entries: dict[int, tuple[bool, int]] = {}

    def __len__(self) -> int:
        """Return the number of slots in use."""
        return len(self._entries)

    def set(self, slot: int, identifier: bytes, preferred: bool) -> None:
        """Put an identifier into a slot, over whatever was there.

        Raises:
            IndexError: there is no such slot.
            ValueError: `identifier` is not 20 bytes long.
        """
        self._check(slot)
        if len(identifier) != ID_BYTES:
            raise ValueError("an identifier has 20 bytes")
        self._entries[slot] = (not preferred, int.from_bytes(identifier, "big"))

    def clear(self, slot: int) -> None:
        """Empty a slot; one that is empty stays so.

        Raises:
            IndexError: there is no such slot.
        """
        self._check(slot)
        self._entries.pop(slot, None)

    def closest(self, target: bytes, count: int) -> list[int]:
        """Return at most `count` slots: preferred ones first, then by distance to `target`.

        Equal identifiers come in the order of their slots.

        Raises:
            ValueError: `target` is not 20 bytes long.
        """
        if len(target) != ID_BYTES:
            raise ValueError("an identifier has 20 bytes")
        centre = int.from_bytes(target, "big")
        ranked = (
            (late, identifier ^ centre, slot) for slot, (late, identifier) in self._entries.items()
        )
        return [slot for _, _, slot in nsmallest(count, ranked)]

    def _check(self, slot: int) -> None:
        if not 0 <= slot < self._capacity:
            raise IndexError(f"no slot {slot} in a table of {self._capacity}")
