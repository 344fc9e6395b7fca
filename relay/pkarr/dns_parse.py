r"""DNS records as people write them: the presentation format of zone files, read.

The other direction of `relay.pkarr.dns_text`: what that module shows of the types below, this
one reads back to the same bytes. Every other type, and these too, may be given in the generic
form ``\# length hex`` of RFC 3597. Names inside values are complete, with or without a dot at
their end; ``@`` is the key itself.

Source: RFC 1035, section 5.1; RFC 3597, section 5; RFC 9460, section 2.1 and appendix A.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from relay.pkarr import dns_build
from relay.pkarr.dns_build import DEFAULT_TTL_S, NewRecord
from relay.pkarr.dns_text import service_key_number, type_number
from relay.pkarr.keys import PublicKey

_PIECES: Final = re.compile(r"\\(?:[0-9]{3}|.)|.", re.DOTALL)
"""An escape sequence, or a character."""
_RECORD: Final = re.compile(
    r"\s*(?P<name>\S+)\s+(?:(?P<ttl>[0-9]+)\s+)?(?:IN\s+)?(?P<type>[A-Za-z][A-Za-z0-9-]*)"
    r"(?:\s+(?P<value>.*))?",
    re.DOTALL,
)


def parse_line(line: str, key: PublicKey, *, ttl_s: int = DEFAULT_TTL_S) -> NewRecord:
    r"""Read ``NAME [TTL] [IN] TYPE VALUE``, a line of a zone file.

    Args:
        line: one record; comments and continued lines are not known.
        key: whose packet it is for.
        ttl_s: where the line has none.

    Raises:
        ValueError: the text says what is wrong.

    >>> parse_line("www 60 IN A 192.0.2.1", PublicKey(bytes(32)))
    NewRecord(name='www', type_code=1, ttl_s=60, rdata=(b'\xc0\x00\x02\x01',))
    """
    match = _RECORD.fullmatch(line)
    if match is None:
        raise ValueError("a record is NAME [TTL] [IN] TYPE VALUE")
    own_ttl_s = ttl_s if match["ttl"] is None else int(match["ttl"])
    return parse_record(match["name"], match["type"], match["value"] or "", key, ttl_s=own_ttl_s)


def parse_record(
    name: str, type_name: str, value: str, key: PublicKey, *, ttl_s: int = DEFAULT_TTL_S
) -> NewRecord:
    r"""Read a record.

    Args:
        name: its owner, relative to the key (``_foo``, ``@``) or ending in it.
        type_name: ``A``, ``TXT``, ``TYPE65280``, ...; in any case.
        value: its RDATA in presentation format.
        key: whose packet it is for.
        ttl_s: seconds.

    Raises:
        ValueError: the text says what is wrong.

    >>> parse_record("@", "HTTPS", "1 . alpn=h2 port=443", PublicKey(bytes(32))).rdata[0]
    b'\x00\x01'
    """
    code = type_number(type_name)
    if code is None:
        raise ValueError(f"{type_name} is no record type known here; TYPE and its number is")
    if "\\" in name:
        raise ValueError(f"escapes in names are not understood: {name}")
    words = _words(value)
    if words[:1] == ["\\#"]:
        return NewRecord(name, code, ttl_s, (_generic(words[1:]),))
    if code not in _TYPES:
        raise ValueError(rf"the value of {type_name.upper()} is given as \# LENGTH HEX")
    return NewRecord(name, code, ttl_s, _TYPES[code](_Words(words, key)))


def _words(text: str) -> list[str]:
    """Split at white space outside of quotation marks, which are dropped; escapes stay."""
    words: list[str] = []
    word: str | None = None
    quoted = False
    for piece in _PIECES.findall(text):
        if piece == '"':
            quoted, word = not quoted, word or ""
        elif piece.isspace() and not quoted:
            if word is not None:
                words.append(word)
            word = None
        elif piece == "\\":
            raise ValueError(f"nothing follows the last backslash: {text}")
        else:
            word = (word or "") + piece
    if quoted:
        raise ValueError(f"a quotation mark is never closed: {text}")
    return words if word is None else [*words, word]


def _unescaped(word: str) -> bytes:
    r"""Return the bytes of a word: ``\DDD`` is an octet, ``\X`` the character X."""
    octets = bytearray()
    for piece in _PIECES.findall(word):
        if len(piece) == 4:
            if int(piece[1:]) > 255:
                raise ValueError(f"{piece} is no octet: at most \\255")
            octets.append(int(piece[1:]))
        else:
            octets += piece[-1].encode("utf-8", "surrogateescape")
    return bytes(octets)


def _generic(words: Sequence[str]) -> bytes:
    r"""Read what follows ``\#``: a length and that many octets in hexadecimal."""
    try:
        length, octets = int(words[0]), bytes.fromhex("".join(words[1:]))
    except (IndexError, ValueError):
        raise ValueError(r"the generic form is \# LENGTH HEX") from None
    if length != len(octets):
        raise ValueError(f"{len(octets)} octets where {length} were announced")
    return octets


Rdata = tuple[bytes | dns_build.DomainName, ...]


class _Words:
    """Hands the words of a value out, each to the field that it is for."""

    def __init__(self, words: Sequence[str], key: PublicKey) -> None:
        self._words = list(words)
        self._key = key

    def take(self, what: str) -> str:
        if not self._words:
            raise ValueError(f"{what} is missing")
        return self._words.pop(0)

    def rest(self) -> list[str]:
        words, self._words = self._words, []
        return words

    def uint(self, what: str, bits: int = 16) -> bytes:
        return _uint(self.take(what), what, bits)

    def name(self, what: str, *, compressed: bool = True) -> dns_build.DomainName:
        word = self.take(what)
        if "\\" in word:
            raise ValueError(f"escapes in names are not understood: {word}")
        return dns_build.DomainName(str(self._key) if word == "@" else word, compressed)

    def string(self, what: str) -> bytes:
        return _string(_unescaped(self.take(what)))

    def end(self, rdata: Rdata) -> Rdata:
        if self._words:
            raise ValueError(f"too many words: {' '.join(self._words)}")
        return rdata


def _uint(word: str, what: str, bits: int = 16) -> bytes:
    if not word.isdecimal() or len(word) > 10 or int(word) >= 1 << bits:
        raise ValueError(f"{what} is a number of at most {bits} bits, not {word}")
    return int(word).to_bytes(bits // 8, "big")


def _string(octets: bytes) -> bytes:
    if len(octets) > dns_build.STRING_BYTES_MAX:
        raise ValueError(f"a DNS string has at most 255 bytes, not {len(octets)}")
    return bytes([len(octets)]) + octets


def _txt(words: _Words) -> Rdata:
    return (b"".join(_string(_unescaped(word)) for word in words.rest()) or b"\0",)


def _service(words: _Words) -> Rdata:
    """SVCB and HTTPS (RFC 9460, section 2.1): priority, target, ``key=value`` ..."""
    priority = words.uint("the priority")
    target = words.name("the target", compressed=False)
    params: dict[int, bytes] = {}
    for word in words.rest():
        key, equals, value = word.partition("=")
        number = service_key_number(key)
        if number is None:
            raise ValueError(f"{key} is no service parameter known here; key and its number is")
        if number in params:
            raise ValueError(f"{key} is given twice")
        read = _PARAMS.get(number)
        if read is None:
            params[number] = _unescaped(value)
        elif value or number == _NO_DEFAULT_ALPN:
            params[number] = read(value)
        else:
            raise ValueError(f"{key} needs a value" if equals else f"{key} needs =VALUE")
    written = b"".join(
        number.to_bytes(2, "big") + len(octets).to_bytes(2, "big") + octets
        for number, octets in sorted(params.items())
    )
    return (priority, target, written)


def _listed(value: str) -> list[str]:
    r"""Split at commas that no backslash is before (RFC 9460, appendix A.1)."""
    entries = [""]
    for piece in _PIECES.findall(value):
        if piece == ",":
            entries.append("")
        else:
            entries[-1] += piece
    return entries


def _mandatory(value: str) -> bytes:
    numbers = []
    for key in value.split(","):
        number = service_key_number(key)
        if number is None:
            raise ValueError(f"{key} is no service parameter known here; key and its number is")
        numbers.append(number)
    return b"".join(number.to_bytes(2, "big") for number in sorted(numbers))


def _nothing(value: str) -> bytes:
    if value:
        raise ValueError("no-default-alpn takes no value")
    return b""


_NO_DEFAULT_ALPN: Final = 2
_PARAMS: Final[Mapping[int, Callable[[str], bytes]]] = {
    0: _mandatory,
    1: lambda value: b"".join(_string(_unescaped(entry)) for entry in _listed(value)),
    2: _nothing,
    3: lambda value: _uint(value, "the port"),
    4: lambda value: b"".join(IPv4Address(entry).packed for entry in value.split(",")),
    5: lambda value: b64decode(value, validate=True),
    6: lambda value: b"".join(IPv6Address(entry).packed for entry in value.split(",")),
}

_TYPES: Final[Mapping[int, Callable[[_Words], Rdata]]] = {
    1: lambda words: words.end((IPv4Address(words.take("the address")).packed,)),
    2: lambda words: words.end((words.name("the server"),)),
    5: lambda words: words.end((words.name("the target"),)),
    12: lambda words: words.end((words.name("the target"),)),
    15: lambda words: words.end((words.uint("the preference"), words.name("the server"))),
    16: _txt,
    28: lambda words: words.end((IPv6Address(words.take("the address")).packed,)),
    33: lambda words: words.end(
        (
            words.uint("the priority") + words.uint("the weight") + words.uint("the port"),
            words.name("the target", compressed=False),
        )
    ),
    64: _service,
    65: _service,
    257: lambda words: words.end(
        (words.uint("the flags", 8) + words.string("the tag"), _unescaped(words.take("the value")))
    ),
}
