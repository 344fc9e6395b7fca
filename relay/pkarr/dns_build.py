"""Makes the DNS message of a packet, byte for byte as the reference's client does.

A reply with id 0 that has only answers, in the given order, with name
compression. Owner names are relative to the key: ``_foo`` becomes
``_foo.<key>``, ``@`` (or ``.``, or nothing) the key itself.

    records = [txt("_foo", "hello", ttl_s=30), a("@", "192.0.2.1")]
    dns = message(public_key, records)

Names inside RDATA are compressed where RFC 3597, section 4 allows it (the
types of RFC 1035); SRV and SVCB targets never are.

Source: protocol.md, section 2.2; RFC 1035, section 4.1.4.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from struct import pack
from typing import Final

from relay.pkarr import dns as dns_message
from relay.pkarr.keys import PublicKey

DEFAULT_TTL_S: Final = 300
TTL_MAX_S: Final = 2**32 - 1
STRING_BYTES_MAX: Final = 255
_FLAGS_RESPONSE: Final = 0x8000
_CLASS_IN: Final = 1
_POINTER_MAX: Final = 0x3FFF


@dataclass(frozen=True, slots=True)
class DomainName:
    """A name inside RDATA. Dots separate its labels; a trailing dot changes nothing."""

    text: str
    compressed: bool = True


@dataclass(frozen=True, slots=True)
class NewRecord:
    """A record to be written: class IN; RDATA in pieces, because names in it may be compressed."""

    name: str
    type_code: int
    ttl_s: int
    rdata: tuple[bytes | DomainName, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.ttl_s <= TTL_MAX_S:
            raise ValueError(f"a TTL is in 0..{TTL_MAX_S} seconds, not {self.ttl_s}")


def a(name: str, address: str | IPv4Address, *, ttl_s: int = DEFAULT_TTL_S) -> NewRecord:
    r"""Return an IPv4 address record.

    >>> a("@", "192.0.2.1").rdata
    (b'\xc0\x00\x02\x01',)
    """
    return NewRecord(name, 1, ttl_s, (IPv4Address(address).packed,))


def aaaa(name: str, address: str | IPv6Address, *, ttl_s: int = DEFAULT_TTL_S) -> NewRecord:
    """Return an IPv6 address record."""
    return NewRecord(name, 28, ttl_s, (IPv6Address(address).packed,))


def ns(name: str, target: str, *, ttl_s: int = DEFAULT_TTL_S) -> NewRecord:
    """Return a record that names an authoritative server."""
    return NewRecord(name, 2, ttl_s, (DomainName(target),))


def cname(name: str, target: str, *, ttl_s: int = DEFAULT_TTL_S) -> NewRecord:
    """Return an alias."""
    return NewRecord(name, 5, ttl_s, (DomainName(target),))


def ptr(name: str, target: str, *, ttl_s: int = DEFAULT_TTL_S) -> NewRecord:
    """Return a pointer."""
    return NewRecord(name, 12, ttl_s, (DomainName(target),))


def mx(name: str, preference: int, target: str, *, ttl_s: int = DEFAULT_TTL_S) -> NewRecord:
    """Return a mail exchange; lower preferences are tried first."""
    return NewRecord(name, 15, ttl_s, (_uint16(preference), DomainName(target)))


def soa(
    name: str,
    mname: str,
    rname: str,
    times: tuple[int, int, int, int, int],
    *,
    ttl_s: int = DEFAULT_TTL_S,
) -> NewRecord:
    """Return a start of authority.

    Args:
        name: the zone.
        mname: its primary server.
        rname: its mailbox, as a name.
        times: serial, refresh, retry, expire and minimum; the last four in seconds.
        ttl_s: seconds.
    """
    return NewRecord(name, 6, ttl_s, (DomainName(mname), DomainName(rname), pack(">5I", *times)))


def txt(name: str, *strings: str | bytes, ttl_s: int = DEFAULT_TTL_S) -> NewRecord:
    r"""Return a text record of one or more strings of at most 255 bytes each (UTF-8).

    >>> txt("_foo", "hello", ttl_s=30).rdata
    (b'\x05hello',)
    """
    return NewRecord(name, 16, ttl_s, (b"".join(map(_string, strings or [b""])),))


def srv(
    name: str, priority: int, weight: int, port: int, target: str, *, ttl_s: int = DEFAULT_TTL_S
) -> NewRecord:
    """Return a service location (RFC 2782)."""
    fields = _uint16(priority) + _uint16(weight) + _uint16(port)
    return NewRecord(name, 33, ttl_s, (fields, DomainName(target, compressed=False)))


def caa(
    name: str, tag: str, value: str | bytes, *, flags: int = 0, ttl_s: int = DEFAULT_TTL_S
) -> NewRecord:
    """Return a certification authority authorization (RFC 8659)."""
    return NewRecord(name, 257, ttl_s, (bytes([flags]), _string(tag), _octets(value)))


def svcb(
    name: str,
    priority: int,
    target: str = ".",
    params: Mapping[int, bytes] | None = None,
    *,
    ttl_s: int = DEFAULT_TTL_S,
) -> NewRecord:
    r"""Return a service binding (RFC 9460).

    Args:
        name: the service.
        priority: 0 makes it an alias.
        target: ``.`` is the owner itself.
        params: service parameters, key to wire value, for instance ``{3: b"\x01\xbb"}``
            for port 443; written in increasing order of their keys.
        ttl_s: seconds.
    """
    return NewRecord(name, 64, ttl_s, _service(priority, target, params or {}))


def https(
    name: str,
    priority: int,
    target: str = ".",
    params: Mapping[int, bytes] | None = None,
    *,
    ttl_s: int = DEFAULT_TTL_S,
) -> NewRecord:
    """Return a service binding for HTTPS; arguments as for `svcb`."""
    return NewRecord(name, 65, ttl_s, _service(priority, target, params or {}))


def raw(name: str, type_code: int, rdata: bytes, *, ttl_s: int = DEFAULT_TTL_S) -> NewRecord:
    """Return a record of any type, its RDATA as given."""
    return NewRecord(name, type_code, ttl_s, (rdata,))


def _service(
    priority: int, target: str, params: Mapping[int, bytes]
) -> tuple[bytes | DomainName, ...]:
    written = b"".join(
        _uint16(key) + _uint16(len(value)) + value for key, value in sorted(params.items())
    )
    return (_uint16(priority), DomainName(target, compressed=False), written)


def _uint16(value: int) -> bytes:
    if not 0 <= value <= 0xFFFF:
        raise ValueError(f"{value} does not fit 16 bits")
    return value.to_bytes(2, "big")


def _octets(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


def _string(text: str | bytes) -> bytes:
    octets = _octets(text)
    if len(octets) > STRING_BYTES_MAX:
        raise ValueError(f"a DNS string has at most {STRING_BYTES_MAX} bytes, not {len(octets)}")
    return bytes([len(octets)]) + octets


def owner_name(name: str, key: PublicKey) -> str:
    """Return the full name that `name` stands for in the packet of `key`.

    >>> key = PublicKey(bytes(32))
    >>> owner_name("_foo", key) == f"_foo.{key}", owner_name("@", key) == str(key)
    (True, True)
    """
    name = name.removesuffix(".")
    last_label = name.rpartition(".")[2]
    if last_label == str(key):
        return name
    return str(key) if last_label in ("", "@") else f"{name}.{key}"


def message(key: PublicKey, records: Iterable[NewRecord]) -> bytes:
    """Return the DNS message of `records`, of any size.

    Raises:
        ValueError: a label is longer than 63 bytes, a name than 254, or there are more
            than 65,535 records.
    """
    writer = _Writer()
    count = 0
    for record in records:
        writer.name(owner_name(record.name, key))
        writer.octets += pack(">HHI", record.type_code, _CLASS_IN, record.ttl_s)
        writer.rdata(record.rdata)
        count += 1
    writer.octets[: dns_message.HEADER_BYTES] = pack(
        ">2H4s4x", 0, _FLAGS_RESPONSE, b"\0\0" + _uint16(count)
    )
    return bytes(writer.octets)


class _Writer:
    """The message so far, and where each name suffix was written first."""

    def __init__(self) -> None:
        self.octets = bytearray(dns_message.HEADER_BYTES)
        self._offsets: dict[tuple[bytes, ...], int] = {}

    def rdata(self, pieces: tuple[bytes | DomainName, ...]) -> None:
        start = len(self.octets)
        self.octets += b"\0\0"  # the length, known only after compression
        for piece in pieces:
            if isinstance(piece, DomainName):
                self.name(piece.text, compressed=piece.compressed)
            else:
                self.octets += piece
        self.octets[start : start + 2] = _uint16(len(self.octets) - start - 2)

    def name(self, text: str, *, compressed: bool = True) -> None:
        labels = _labels(text)
        for index, label in enumerate(labels):
            if compressed:
                suffix = labels[index:]
                offset = self._offsets.get(suffix)
                if offset is not None:
                    self.octets += (offset | dns_message.POINTER << 8).to_bytes(2, "big")
                    return
                if len(self.octets) <= _POINTER_MAX:
                    self._offsets[suffix] = len(self.octets)
            self.octets.append(len(label))
            self.octets += label
        self.octets.append(0)


def _labels(text: str) -> tuple[bytes, ...]:
    labels = tuple(label.encode() for label in text.split(".") if label)
    if any(len(label) > dns_message.LABEL_BYTES_MAX for label in labels):
        raise ValueError(f"a label has at most {dns_message.LABEL_BYTES_MAX} bytes: {text!r}")
    if sum(len(label) + 1 for label in labels) >= dns_message.NAME_SUM_LIMIT:
        raise ValueError(f"the name is too long: {text!r}")
    return labels
