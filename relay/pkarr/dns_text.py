r"""DNS records as people read them: the presentation format of zone files.

Types whose fields are known are written field by field, everything else in the
generic form ``\# length hex`` of RFC 3597. Names carry no trailing dot unless
the lines are for a zone file, and text that is valid, printable UTF-8 is shown
as it is, which zone files would not do. What comes out may contain any
printable character: whoever puts it into HTML must escape it.

Source: RFC 1035, section 5.1; RFC 3597, section 5; RFC 9460, section 2.1.
"""

from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from struct import unpack_from
from typing import Final, TypeVar

from relay.pkarr import dns as dns_message

_T = TypeVar("_T")

_CLASS_NAMES: Final = {1: "IN", 2: "CS", 3: "CH", 4: "HS", 254: "NONE"}


@dataclass(frozen=True, slots=True)
class Record:
    """One resource record, decoded."""

    name: str
    """Its owner, without trailing dot; ``.`` is the root."""
    type: str
    """``A``, ``TXT``, ..., or ``TYPE65280`` when it has no name here."""
    class_: str
    """``IN`` but for exotic packets."""
    ttl_s: int
    value: str
    """RDATA in presentation format; empty when there is none."""


class _Rdata:
    """Reads RDATA that `dns.check` has accepted; each method takes one field."""

    def __init__(self, dns: bytes, position: int, end: int, *, dotted: bool = False) -> None:
        self._dns = dns
        self.position = position
        self.end = end
        self._dotted = dotted

    def take(self, size: int) -> bytes:
        self.position += size
        return self._dns[self.position - size : self.position]

    def rest(self) -> bytes:
        return self.take(self.end - self.position)

    def uint8(self) -> str:
        return str(self.take(1)[0])

    def uint16(self) -> str:
        return str(int.from_bytes(self.take(2), "big"))

    def uint32(self) -> str:
        return str(int.from_bytes(self.take(4), "big"))

    def ipv4(self) -> str:
        return str(IPv4Address(self.take(4)))

    def ipv6(self) -> str:
        return str(IPv6Address(self.take(16)))

    def name(self) -> str:
        text, self.position = _name(self._dns, self.position)
        return _with_dot(text) if self._dotted else text

    def string(self) -> str:
        return _quoted(self._string_octets())

    def word(self) -> str:
        return _escaped(self._string_octets(), special=' "\\;')

    def _string_octets(self) -> bytes:
        return self.take(self.take(1)[0])

    def strings(self) -> str:
        return " ".join(self._until_end(self.string))

    def text(self) -> str:
        return _quoted(self.rest())

    def hexadecimal(self) -> str:
        return self.rest().hex()

    def base64(self) -> str:
        return b64encode(self.rest()).decode("ascii")

    def service_params(self) -> str:
        return " ".join(self._until_end(self._service_param))

    def _service_param(self) -> str:
        key = int.from_bytes(self.take(2), "big")
        start = self.position + 2
        param = _Rdata(self._dns, start, start + int(self.uint16()))
        self.position = param.end
        value = param.service_value(key)
        return f"{_service_key(key)}={value}" if value else _service_key(key)

    def service_value(self, key: int) -> str:
        if key == 0:  # mandatory
            keys = self._until_end(lambda: int.from_bytes(self.take(2), "big"))
            return ",".join(map(_service_key, keys))
        if key == 1:  # alpn
            return ",".join(
                self._until_end(lambda: _escaped(self._string_octets(), special=' "\\;,'))
            )
        if key == 3:  # port
            return self.uint16()
        if key == 4:  # ipv4hint
            return ",".join(self._until_end(self.ipv4))
        if key == 5:  # ech
            return self.base64()
        if key == 6:  # ipv6hint
            return ",".join(self._until_end(self.ipv6))
        octets = self.rest()
        return _quoted(octets) if octets else ""

    def _until_end(self, read: Callable[[], _T]) -> Iterator[_T]:
        while self.position < self.end:
            yield read()


_Field = Callable[[_Rdata], str]

_TYPES: Final[Mapping[int, tuple[str, tuple[_Field, ...]]]] = {
    1: ("A", (_Rdata.ipv4,)),
    2: ("NS", (_Rdata.name,)),
    3: ("MD", (_Rdata.name,)),
    4: ("MF", (_Rdata.name,)),
    5: ("CNAME", (_Rdata.name,)),
    6: ("SOA", (_Rdata.name, _Rdata.name, *[_Rdata.uint32] * 5)),
    7: ("MB", (_Rdata.name,)),
    8: ("MG", (_Rdata.name,)),
    9: ("MR", (_Rdata.name,)),
    12: ("PTR", (_Rdata.name,)),
    13: ("HINFO", (_Rdata.string, _Rdata.string)),
    14: ("MINFO", (_Rdata.name, _Rdata.name)),
    15: ("MX", (_Rdata.uint16, _Rdata.name)),
    16: ("TXT", (_Rdata.strings,)),
    17: ("RP", (_Rdata.name, _Rdata.name)),
    18: ("AFSDB", (_Rdata.uint16, _Rdata.name)),
    20: ("ISDN", (_Rdata.string, _Rdata.string)),
    21: ("RT", (_Rdata.uint16, _Rdata.name)),
    23: ("NSAP-PTR", (_Rdata.name,)),
    28: ("AAAA", (_Rdata.ipv6,)),
    33: ("SRV", (_Rdata.uint16, _Rdata.uint16, _Rdata.uint16, _Rdata.name)),
    35: (
        "NAPTR",
        (_Rdata.uint16, _Rdata.uint16, *[_Rdata.string] * 3, _Rdata.name),
    ),
    36: ("KX", (_Rdata.uint16, _Rdata.name)),
    37: ("CERT", (_Rdata.uint16, _Rdata.uint16, _Rdata.uint8, _Rdata.base64)),
    43: ("DS", (_Rdata.uint16, _Rdata.uint8, _Rdata.uint8, _Rdata.hexadecimal)),
    48: ("DNSKEY", (_Rdata.uint16, _Rdata.uint8, _Rdata.uint8, _Rdata.base64)),
    49: ("DHCID", (_Rdata.base64,)),
    63: ("ZONEMD", (_Rdata.uint32, _Rdata.uint8, _Rdata.uint8, _Rdata.hexadecimal)),
    64: ("SVCB", (_Rdata.uint16, _Rdata.name, _Rdata.service_params)),
    65: ("HTTPS", (_Rdata.uint16, _Rdata.name, _Rdata.service_params)),
    257: ("CAA", (_Rdata.uint8, _Rdata.word, _Rdata.text)),
}
"""Types that are written field by field. Only types whose layout `dns.check` knows may be here."""

_OTHER_NAMES: Final = {
    10: "NULL", 11: "WKS", 19: "X25", 22: "NSAP", 29: "LOC", 39: "DNAME", 41: "OPT", 44: "SSHFP",
    45: "IPSECKEY", 46: "RRSIG", 47: "NSEC", 52: "TLSA", 61: "OPENPGPKEY", 99: "SPF",
    108: "EUI48", 109: "EUI64", 256: "URI",
}  # fmt: skip
"""Types that have a name, but are written in the generic form."""

_SERVICE_KEYS: Final = (
    "mandatory", "alpn", "no-default-alpn", "port", "ipv4hint", "ech", "ipv6hint",
    "dohpath", "ohttp",
)  # fmt: skip


def _service_key(key: int) -> str:
    return _SERVICE_KEYS[key] if key < len(_SERVICE_KEYS) else f"key{key}"


def _escaped(octets: bytes, *, special: str) -> str:
    r"""Put a backslash before `special` characters; write what cannot be printed as ``\DDD``."""
    try:
        text = octets.decode()
    except UnicodeDecodeError:
        text = octets.decode("ascii", "surrogateescape")
    return "".join(
        f"\\{letter}" if letter in special else letter if letter.isprintable() else _ddd(letter)
        for letter in text
    )


def _ddd(letter: str) -> str:
    return "".join(f"\\{octet:03}" for octet in letter.encode("utf-8", "surrogateescape"))


def _quoted(octets: bytes) -> str:
    return f'"{_escaped(octets, special=_QUOTED_SPECIAL)}"'


_QUOTED_SPECIAL: Final = '"\\'
_NAME_SPECIAL: Final = ' ."\\;()@$'


def _name(dns: bytes, position: int) -> tuple[str, int]:
    """Return the name at `position`, pointers followed, and the offset after it."""
    labels: list[str] = []
    after = -1
    while size := dns[position]:
        if size >= dns_message.POINTER:
            if after < 0:
                after = position + 2
            position = (size & ~dns_message.POINTER) << 8 | dns[position + 1]
            continue
        labels.append(_escaped(dns[position + 1 : position + 1 + size], special=_NAME_SPECIAL))
        position += 1 + size
    return ".".join(labels) or ".", position + 1 if after < 0 else after


def _with_dot(name: str) -> str:
    return name if name == "." else f"{name}."


def _value(dns: bytes, type_code: int, position: int, size: int, *, dotted: bool) -> str:
    if size == 0:
        return "\\# 0" if dotted else ""
    rdata = _Rdata(dns, position, position + size, dotted=dotted)
    if type_code in _TYPES:
        return " ".join(filter(None, (read(rdata) for read in _TYPES[type_code][1])))
    return f"\\# {size} {rdata.hexadecimal()}"


def type_name(type_code: int) -> str:
    """Return the usual name of a record type, or ``TYPE`` and its number (RFC 3597).

    >>> type_name(16), type_name(65280)
    ('TXT', 'TYPE65280')
    """
    if type_code in _TYPES:
        return _TYPES[type_code][0]
    return _OTHER_NAMES.get(type_code, f"TYPE{type_code}")


def type_number(name: str) -> int | None:
    """Return the number of a record type, whatever the case of its letters; None: unknown.

    >>> type_number("txt"), type_number("TYPE65280"), type_number("nonsense")
    (16, 65280, None)
    """
    name = name.upper()
    digits = name.removeprefix("TYPE")
    if digits != name and digits.isdecimal() and len(digits) <= 5 and int(digits) <= 0xFFFF:
        return int(digits)
    return _NUMBERS.get(name)


_NUMBERS: Final = {
    **{name: number for number, (name, _) in _TYPES.items()},
    **{name: number for number, name in _OTHER_NAMES.items()},
}


def service_key_number(name: str) -> int | None:
    """Return the number of a service parameter's key, ``alpn`` or ``key65280``; None: unknown."""
    if name in _SERVICE_KEYS:
        return _SERVICE_KEYS.index(name)
    digits = name.removeprefix("key")
    if digits != name and digits.isdecimal() and len(digits) <= 5 and int(digits) <= 0xFFFF:
        return int(digits)
    return None


def records(dns: bytes, *, zone_file: bool = False) -> list[Record]:
    r"""Return the answer records of a DNS message, in order.

    Args:
        dns: the message.
        zone_file: end every name with a dot, and show empty RDATA as ``\# 0``, so that the
            fields make lines of a zone file.

    Raises:
        PacketError: `dns` is no DNS message.

    >>> records(bytes.fromhex("000080000000000100000000" "0178000001000100000005" "0004c0000201"))
    [Record(name='x', type='A', class_='IN', ttl_s=5, value='192.0.2.1')]
    """
    dns_message.check(dns)
    questions, answers = unpack_from(">2H", dns, 4)
    position = dns_message.HEADER_BYTES
    for _ in range(questions):
        position = _name(dns, position)[1] + 4
    decoded = []
    for _ in range(answers):
        name, position = _name(dns, position)
        type_code, class_code, ttl_s, size = unpack_from(">HHIH", dns, position)
        class_code &= dns_message.CLASS_MASK
        position += 10
        decoded.append(
            Record(
                _with_dot(name) if zone_file else name,
                type_name(type_code),
                _CLASS_NAMES.get(class_code, f"CLASS{class_code}"),
                ttl_s,
                _value(dns, type_code, position, size, dotted=zone_file),
            )
        )
        position += size
    return decoded
