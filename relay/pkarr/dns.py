"""Is this a DNS message? The reader of the reference relay, rule by rule.

A signed packet carries at most 1000 bytes that must parse as a DNS message.
What parses, and which text refuses the rest, is defined by the reference's
library (simple-dns 0.11): looser than RFC 1035 in trailing bytes, oversize
RDATA and flags, stricter in classes and one header bit. Clients republish what
they got from here, so accepting or refusing differently would split the network.

RDATA layouts are data (`_LAYOUTS`), not code; only the five types that no list
of fields describes have a function. Cost is bounded by the message: names are
at most 254 bytes, and every compression pointer points backwards.

For people, see `relay.pkarr.dns_text`; for building, `relay.pkarr.dns_build`.

Source: protocol.md, section 2.1; RFC 1035, section 4; RFC 9460, section 2.2.
"""

from collections.abc import Callable, Mapping
from struct import Struct
from typing import Final, NoReturn

from relay.errors import PacketError

HEADER_BYTES: Final = 12
NAME_SUM_LIMIT: Final = 255
"""The sum over labels of (length + 1) must stay below this, pointers followed."""
LABEL_BYTES_MAX: Final = 63
POINTER: Final = 0xC0
"""A length byte with both top bits set starts a two-byte compression pointer."""

RESERVED_FLAG: Final = 0x0040
CLASS_MASK: Final = 0x7FFF
"""Without the top bit: cache-flush in records, unicast-response in questions (RFC 6762)."""
RECORD_CLASSES: Final = frozenset({1, 2, 3, 4, 254})
QUESTION_CLASSES: Final = RECORD_CLASSES | {255}

INCOMPLETE: Final = "Incomplete dns packet"
INVALID_HEADER: Final = "Provided header information is invalid"
INVALID_PACKET: Final = "Provided information is not a valid DNS packet"
INVALID_LABEL: Final = "Provied service name contains invalid label"  # spelt as the reference does
INVALID_OPERATION: Final = "Attempted to perform an invalid operation"

_HEADER: Final = Struct(">6H")
_QUESTION: Final = Struct(">2H")
_RECORD: Final = Struct(">HHIH")

OPT: Final = 41

_NAME: Final = 0
_STRING: Final = -1
_STRINGS: Final = -2
"""Steps of a layout; a positive step is that many bytes of any content."""

_LAYOUTS: Final[Mapping[int, tuple[int, ...]]] = {
    1: (4,),  # A
    2: (_NAME,),  # NS
    3: (_NAME,),  # MD
    4: (_NAME,),  # MF
    5: (_NAME,),  # CNAME
    6: (_NAME, _NAME, 20),  # SOA
    7: (_NAME,),  # MB
    8: (_NAME,),  # MG
    9: (_NAME,),  # MR
    10: (),  # NULL
    11: (5,),  # WKS
    12: (_NAME,),  # PTR
    13: (_STRING, _STRING),  # HINFO
    14: (_NAME, _NAME),  # MINFO
    15: (2, _NAME),  # MX
    16: (_STRINGS,),  # TXT
    17: (_NAME, _NAME),  # RP
    18: (2, _NAME),  # AFSDB
    20: (_STRING, _STRING),  # ISDN
    21: (2, _NAME),  # RT
    22: (20,),  # NSAP
    23: (_NAME,),  # NSAP-PTR
    28: (16,),  # AAAA
    33: (6, _NAME),  # SRV
    35: (4, _STRING, _STRING, _STRING, _NAME),  # NAPTR
    36: (2, _NAME),  # KX
    37: (5,),  # CERT
    43: (4,),  # DS
    46: (18, _NAME),  # RRSIG
    48: (4,),  # DNSKEY
    49: (3,),  # DHCID
    63: (6,),  # ZONEMD
    108: (6,),  # EUI48
    109: (8,),  # EUI64
    257: (1, _STRING),  # CAA
}


def _refuse(text: str) -> NoReturn:
    raise PacketError("dns", text)


def _skip_name(dns: bytes, position: int, end: int) -> int:
    """Check the name at `position`, which may not reach `end`; return the offset after it."""
    name_sum = 0
    after = -1  # the end of the name where it stands, once a pointer has led elsewhere
    while True:
        if position >= end:
            _refuse(INCOMPLETE)
        size = dns[position]
        if size == 0:
            return position + 1 if after < 0 else after
        if size >= POINTER:
            if position + 2 > end:
                _refuse(INCOMPLETE)
            target = (size & ~POINTER) << 8 | dns[position + 1]
            if target >= position:
                _refuse(INVALID_PACKET)
            if after < 0:
                after = position + 2
            position = target
            continue
        # A loop through backward pointers passes a label each time round, so it ends here.
        name_sum += size + 1
        if name_sum >= NAME_SUM_LIMIT:
            _refuse(INVALID_PACKET)
        if size > LABEL_BYTES_MAX:
            _refuse(INVALID_LABEL)
        position += size + 1
        if position > end:
            _refuse(INCOMPLETE)


def _skip_string(dns: bytes, position: int, end: int) -> int:
    if position >= end:
        _refuse(INCOMPLETE)
    position += 1 + dns[position]
    if position > end:
        _refuse(INCOMPLETE)
    return position


def _walk(dns: bytes, position: int, end: int, layout: tuple[int, ...]) -> int:
    """Check RDATA against its layout; bytes after the last field are ignored."""
    for step in layout:
        if step > 0:
            position += step
            if position > end:
                _refuse(INCOMPLETE)
        elif step == _NAME:
            position = _skip_name(dns, position, end)
        elif step == _STRING:
            position = _skip_string(dns, position, end)
        else:
            while position < end:
                position = _skip_string(dns, position, end)
    return position


def _uint16(dns: bytes, position: int, end: int) -> int:
    if position + 2 > end:
        _refuse(INCOMPLETE)
    return dns[position] << 8 | dns[position + 1]


def _check_loc(dns: bytes, position: int, end: int) -> None:
    if dns[position] != 0:  # the version; only 0 is defined (RFC 1876)
        _refuse(INVALID_PACKET)
    _walk(dns, position, end, (16,))


def _check_ipseckey(dns: bytes, position: int, end: int) -> None:
    position = _walk(dns, position, end, (3,))
    gateway = _IPSECKEY_GATEWAYS.get(dns[position - 2])
    if gateway is None:
        _refuse(INVALID_OPERATION)
    _walk(dns, position, end, gateway)


_IPSECKEY_GATEWAYS: Final = {0: (), 1: (4,), 2: (16,), 3: (_NAME,)}


def _check_nsec(dns: bytes, position: int, end: int) -> None:
    position = _skip_name(dns, position, end)
    previous = -1
    while position < end:
        window = dns[position]
        if window <= previous:
            _refuse(INVALID_PACKET)
        previous = window
        if position + 2 > end:
            _refuse(INCOMPLETE)
        size = dns[position + 1]
        if size > 32:
            _refuse(INVALID_PACKET)
        position = _walk(dns, position + 1, end, (_STRING,))


def _check_svcb(dns: bytes, position: int, end: int) -> None:
    position = _walk(dns, position, end, (2, _NAME))
    previous = -1
    while position < end:
        key = _uint16(dns, position, end)
        value = position + 4
        position = value + _uint16(dns, position + 2, end)
        if position > end:
            _refuse(INCOMPLETE)
        _check_svc_param(dns, key, value, position)
        if key <= previous:
            _refuse(INVALID_PACKET)
        previous = key


_SVC_ELEMENT_BYTES: Final = {0: 2, 4: 4, 6: 16}
"""mandatory, ipv4hint, ipv6hint: lists whose elements have this many bytes."""


def _check_svc_param(dns: bytes, key: int, position: int, end: int) -> None:
    if key in _SVC_ELEMENT_BYTES:
        if (end - position) % _SVC_ELEMENT_BYTES[key]:
            _refuse(INCOMPLETE)
    elif key == 1:  # alpn
        _walk(dns, position, end, (_STRINGS,))
    elif key == 3:  # port
        _uint16(dns, position, end)
    elif key == 5 and _uint16(dns, position, end) != end - position - 2:  # ech
        _refuse(INVALID_PACKET)


def _check_opt(dns: bytes, position: int, end: int) -> None:
    while position < end:
        position += 4 + _uint16(dns, position + 2, end)
        if position > end:
            _refuse(INCOMPLETE)


_CHECKS: Final[Mapping[int, Callable[[bytes, int, int], None]]] = {
    29: _check_loc,
    OPT: _check_opt,
    45: _check_ipseckey,
    47: _check_nsec,
    64: _check_svcb,
    65: _check_svcb,
}

QUESTION_TYPES: Final = _LAYOUTS.keys() | _CHECKS.keys() | {251, 252, 253, 254, 255}


def _check_question(dns: bytes, position: int) -> int:
    position = _skip_name(dns, position, len(dns))
    if position + 4 > len(dns):
        _refuse(INCOMPLETE)
    question_type, question_class = _QUESTION.unpack_from(dns, position)
    if question_type not in QUESTION_TYPES:
        _refuse(f"Provided QType is invalid: {question_type}")
    if question_class & CLASS_MASK not in QUESTION_CLASSES:
        _refuse(f"Provided class is invalid: {question_class & CLASS_MASK}")
    return position + 4


def _check_record(dns: bytes, position: int) -> int:
    position = _skip_name(dns, position, len(dns))
    if position + 10 > len(dns):
        _refuse(INCOMPLETE)
    record_type, record_class, _ttl, size = _RECORD.unpack_from(dns, position)
    position += 10
    end: int = position + size
    if end > len(dns):
        _refuse(INCOMPLETE)
    if size:
        layout = _LAYOUTS.get(record_type)
        if layout is not None:
            _walk(dns, position, end, layout)
        elif record_type in _CHECKS:
            _CHECKS[record_type](dns, position, end)
    # In OPT these bits are a datagram size (RFC 6891); elsewhere a class, judged after the RDATA.
    if record_class & CLASS_MASK not in RECORD_CLASSES and record_type != OPT:
        _refuse(f"Provided class is invalid: {record_class & CLASS_MASK}")
    return end


def check(dns: bytes) -> None:
    """Make sure that `dns` parses as a DNS message; bytes after its last record may be anything.

    Raises:
        PacketError: `fault` is ``dns``, the text is the reference's.

    >>> check(bytes(12))
    >>> check(bytes(11))
    Traceback (most recent call last):
        ...
    relay.errors.PacketError: Incomplete dns packet
    """
    if len(dns) < HEADER_BYTES:
        if len(dns) >= 4 and dns[3] & RESERVED_FLAG:
            _refuse(INVALID_HEADER)
        _refuse(INCOMPLETE)
    _id, flags, questions, answers, authorities, additional = _HEADER.unpack_from(dns)
    if flags & RESERVED_FLAG:
        _refuse(INVALID_HEADER)
    position = HEADER_BYTES
    for _ in range(questions):
        position = _check_question(dns, position)
    for _ in range(answers + authorities + additional):
        position = _check_record(dns, position)


def _pass_name(dns: bytes, position: int) -> int:
    """Return the offset after a name that `check` has accepted."""
    while size := dns[position]:
        if size >= POINTER:
            return position + 2
        position += size + 1
    return position + 1


def min_answer_ttl_s(dns: bytes) -> int | None:
    """Return the smallest TTL among the answer records, seconds; None without answers.

    Args:
        dns: a message that `check` accepts.
    """
    _id, _flags, questions, answers, _authorities, _additional = _HEADER.unpack_from(dns)
    position = HEADER_BYTES
    for _ in range(questions):
        position = _pass_name(dns, position) + 4
    smallest: int | None = None
    for _ in range(answers):
        position = _pass_name(dns, position)
        _type, _class, ttl_s, size = _RECORD.unpack_from(dns, position)
        if smallest is None or ttl_s < smallest:
            smallest = ttl_s
        position += 10 + size
    return smallest
