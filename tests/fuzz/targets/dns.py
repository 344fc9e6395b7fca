"""DNS messages: parsed or refused; what is accepted is shown, timed and read back alike.

The first byte chooses what is done besides: read the rest as lines of a zone file instead.
"""

from __future__ import annotations

from collections.abc import Iterable

from relay.errors import PacketError
from relay.pkarr import dns, dns_build, dns_parse, dns_text
from relay.pkarr.keys import PublicKey
from tests.fuzz import vectors

KEY = PublicKey.parse("ofds7kj3wh67cxmwc5o5a1toeejggncj5ea3s3xhrmh949eeutgo")
MESSAGE, LINES = 0, 1
DICTIONARY = (b"\xc0\x0c", b"\x00\x01", b"\x00\x10", b"\x00\x40", b"\x00\x41", b"\x00\x29", b" IN ",
              b" TXT ", b" SVCB ", b"alpn=", b"\\# ", b"mandatory=", b"ipv4hint=", b"\\255",
              b"key65535=", b" CAA ", b" NAPTR ", b" SOA ")  # fmt: skip
INPUT_BYTES_MAX = 1100


def seeds() -> Iterable[bytes]:
    """Messages of all vectors, and each of their records as a line."""
    lines = set()
    for message in vectors.octets("dns", "dns_hex") + vectors.octets("packets", "dns_hex"):
        yield bytes([MESSAGE]) + message
        for record in _records(message):
            lines.add(f"{record.name or '@'} {record.ttl_s} {record.type} {record.value}")
    for line in sorted(lines):
        yield bytes([LINES]) + line.encode("utf-8", "surrogateescape")


def target(data: bytes) -> None:
    """Check and show a message, or read lines."""
    if data[:1] == bytes([LINES]):
        _read_lines(data[1:].decode("utf-8", "replace"))
    else:
        _read_message(data[1:])


def _read_message(message: bytes) -> None:
    try:
        dns.check(message)
    except PacketError as error:
        assert error.fault == "dns"
        assert str(error).isprintable()
        return
    ttl_s = dns.min_answer_ttl_s(message)
    assert ttl_s is None or 0 <= ttl_s < 2**32
    records = dns_text.records(message)
    answers = int.from_bytes(message[6:8], "big")
    assert len(records) == answers
    assert ttl_s == min((record.ttl_s for record in records), default=None)
    for record in records:
        assert record.value.isprintable(), record
        assert record.name.isprintable(), record
    for record in dns_text.records(message, zone_file=True):
        _read_back(record)


def _read_back(record: dns_text.Record) -> None:
    """What is shown of a record and can be read shows the same again."""
    try:
        line = f"@ {record.ttl_s} {record.type} {record.value}"
        again = dns_build.message(KEY, [dns_parse.parse_line(line, KEY)])
        [shown] = dns_text.records(again, zone_file=True)
    except ValueError:  # of names with escapes, of types without a reader, of what is misshapen
        return
    assert (shown.type, shown.ttl_s) == (record.type, record.ttl_s)
    if "mandatory=" not in record.value:  # it is sorted when it is written
        assert shown.value == record.value


def _records(message: bytes) -> list[dns_text.Record]:
    try:
        dns.check(message)
        return dns_text.records(message)
    except Exception:  # the message is a seed too: with it the target says what is wrong
        return []


def _read_lines(text: str) -> None:
    records = []
    for line in text.split("\n"):
        try:
            records.append(dns_parse.parse_line(line, KEY))
        except ValueError as error:
            assert str(error)
    if not records:
        return
    try:
        message = dns_build.message(KEY, records)
    except ValueError:
        return
    try:
        dns.check(message)
    except PacketError:  # values in the generic form may be anything
        return
    assert len(dns_text.records(message)) == len(records)
