"""Bencode, read and written in pure Python: the specification of `relay._speedups.bencode`.

Both twins agree on every value, every error text and every error position. The rules:

- An integer is ``i(0|-?[1-9][0-9]{0,19})e``: canonical, and of at most 20 digits, so that no
  stranger makes us compute with thousand-digit numbers.
- A string is ``(0|[1-9][0-9]{0,8}):`` and that many bytes. Nothing is allocated for a length
  that the input does not have.
- Lists and dictionaries nest at most `DEPTH_MAX` deep.
- Keys of a dictionary are strings; they may come unsorted, and of equal keys the last one
  counts (the reference node accepts unsorted keys too; design/protocol.md, section 7.1).
  Everything else has one spelling, so `encode` gives back the bytes of any input whose keys
  were sorted and distinct.

Source: BEP 3, "bencoding". Parity: tests/parity/test_bencode.py.
"""

import re
from typing import Final, TypeAlias

Value: TypeAlias = int | bytes | list["Value"] | dict[bytes, "Value"]
"""Anything bencode can carry. Integers, byte strings, lists and dictionaries, nothing else."""

DEPTH_MAX: Final = 32
"""Deepest nesting read or written; KRPC needs 4."""

DIGITS_MAX: Final = 20
"""Most digits of an integer, its sign not counted: enough for any 64-bit number."""

_INTEGER: Final = re.compile(rb"i(0|-?[1-9][0-9]{0,19})e")
_LENGTH: Final = re.compile(rb"(0|[1-9][0-9]{0,8}):")
_INTEGER_LIMIT: Final = 10**DIGITS_MAX


class BencodeError(ValueError):
    """Bytes that are not bencode, by the rules above.

    Attributes:
        reason: what is wrong, without the place.
        position: offset of the value, key or byte that is wrong; the length of the input where
            something is missing at its end.
    """

    def __init__(self, reason: str, position: int) -> None:
        super().__init__(f"{reason} at byte {position}")
        self.reason = reason
        self.position = position


def decode(data: bytes) -> Value:
    """Read one value that is the whole of `data`.

    Args:
        data: bencode; its size bounds the time and memory spent.

    Raises:
        BencodeError: `data` breaks a rule of this module or goes on after the value.

    Source: BEP 3.

    >>> decode(b"d1:ali1eee")
    {b'a': [1]}
    """
    value, end = _value(data, 0, 0)
    if end != len(data):
        raise BencodeError("trailing bytes", end)
    return value


def decode_prefix(data: bytes) -> tuple[Value, int]:
    """Read one value from the front of `data`; whatever follows is not looked at.

    Returns:
        The value, and the offset of the first byte after it.

    Raises:
        BencodeError: `data` does not start with a value.

    >>> decode_prefix(b"3:abcrest")
    (b'abc', 5)
    """
    return _value(data, 0, 0)


def encode(value: Value) -> bytes:
    """Write a value; keys of dictionaries are sorted.

    Args:
        value: of exactly the types of `Value`: no `bool`, `str`, tuple or subclass, which
            would not come back as they were.

    Raises:
        TypeError: something of another type is in `value`.
        ValueError: an integer has more than `DIGITS_MAX` digits, or the nesting exceeds
            `DEPTH_MAX`: `decode` would refuse the result.

    Source: BEP 3.

    >>> encode({b"b": 1, b"a": [b"x"]})
    b'd1:al1:xe1:bi1ee'
    """
    parts: list[bytes] = []
    _write(value, parts, 0)
    return b"".join(parts)


def _value(data: bytes, position: int, depth: int) -> tuple[Value, int]:
    """Read the value at `position`, which `depth` containers enclose."""
    if position >= len(data):
        raise BencodeError("unexpected end", position)
    octet = data[position]
    if 0x30 <= octet <= 0x39:
        return _string(data, position)
    if octet == 0x69:  # i
        found = _INTEGER.match(data, position)
        if found is None:
            raise BencodeError("malformed integer", position)
        return int(found[1]), found.end()
    if octet not in (0x64, 0x6C):  # d, l
        raise BencodeError("unexpected byte", position)
    if depth == DEPTH_MAX:
        raise BencodeError("nested too deeply", position)
    if octet == 0x64:
        return _dictionary(data, position + 1, depth + 1)
    return _list(data, position + 1, depth + 1)


def _string(data: bytes, position: int) -> tuple[bytes, int]:
    """Read the string whose length starts at `position`."""
    found = _LENGTH.match(data, position)
    if found is None:
        raise BencodeError("malformed string length", position)
    start = found.end()
    end = start + int(found[1])
    if end > len(data):
        raise BencodeError("string is cut off", position)
    return data[start:end], end


def _list(data: bytes, position: int, depth: int) -> tuple[list[Value], int]:
    """Read the members of a list up to and including its ``e``."""
    members: list[Value] = []
    while data[position : position + 1] != b"e":
        member, position = _value(data, position, depth)
        members.append(member)
    return members, position + 1


def _dictionary(data: bytes, position: int, depth: int) -> tuple[dict[bytes, Value], int]:
    """Read the members of a dictionary up to and including its ``e``."""
    members: dict[bytes, Value] = {}
    while True:
        if position >= len(data):
            raise BencodeError("unexpected end", position)
        octet = data[position]
        if octet == 0x65:  # e
            return members, position + 1
        if not 0x30 <= octet <= 0x39:
            raise BencodeError("dictionary key is not a string", position)
        key, position = _string(data, position)
        members[key], position = _value(data, position, depth)


def _write(value: Value, parts: list[bytes], depth: int) -> None:
    """Append the spelling of `value`, which `depth` containers enclose, to `parts`."""
    if type(value) is bytes:
        parts.append(b"%d:%b" % (len(value), value))
    elif type(value) is int:
        if not -_INTEGER_LIMIT < value < _INTEGER_LIMIT:
            raise ValueError(f"integer has more than {DIGITS_MAX} digits")
        parts.append(b"i%de" % value)
    elif type(value) is not list and type(value) is not dict:
        raise TypeError(f"bencode has no {type(value).__name__}")
    elif depth == DEPTH_MAX:
        raise ValueError(f"nested more than {DEPTH_MAX} deep")
    elif type(value) is list:
        parts.append(b"l")
        for member in value:
            _write(member, parts, depth + 1)
        parts.append(b"e")
    elif type(value) is dict:
        _write_dictionary(value, parts, depth + 1)


def _write_dictionary(members: dict[bytes, Value], parts: list[bytes], depth: int) -> None:
    """Append a dictionary, keys sorted as raw bytes."""
    for key in members:
        if type(key) is not bytes:
            raise TypeError(f"bencode has no {type(key).__name__} as a dictionary key")
    parts.append(b"d")
    for key in sorted(members):
        parts.append(b"%d:%b" % (len(key), key))
        _write(members[key], parts, depth)
    parts.append(b"e")
