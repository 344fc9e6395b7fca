"""Records as people write them: read back what is shown, refuse what means nothing."""

import json
from pathlib import Path

import pytest

from relay.pkarr import dns_build as build
from relay.pkarr.dns_parse import parse_line, parse_record
from relay.pkarr.dns_text import records
from relay.pkarr.keys import PublicKey
from tests.support.packets import SERVICE_PARAMETERS

KEY = PublicKey(bytes(32))
VECTORS = Path(__file__).parents[4] / "shared" / "vectors"
DNS = [c for c in json.loads((VECTORS / "dns.json").read_text())["cases"] if c["ok"]]


def wire(record):
    return build.message(KEY, [record])


@pytest.mark.parametrize(
    ("record", "type_name", "value"),
    [
        (build.a("x", "192.0.2.1"), "A", "192.0.2.1"),
        (build.aaaa("x", "2001:db8::1"), "aaaa", "2001:db8::1"),
        (build.cname("x", "example.com"), "CNAME", "example.com."),
        (build.cname("x", str(KEY)), "CNAME", "@"),
        (build.ns("x", "ns.example.com"), "NS", "ns.example.com"),
        (build.ptr("x", "example.com"), "PTR", "example.com"),
        (build.mx("x", 10, "mail.example.com"), "MX", "10 mail.example.com."),
        (build.srv("x", 1, 2, 443, "h.example"), "SRV", "1 2 443 h.example."),
        (build.caa("x", "issue", "ca.example"), "CAA", '0 issue "ca.example"'),
        (build.txt("x", "a b", 'say "hi" \\'), "TXT", r'"a b" "say \"hi\" \\"'),
        (build.txt("x", "héllo", b"\xff\n"), "TXT", r"héllo \255\010"),
        (build.txt("x"), "TXT", '""'),
        (build.txt("x"), "TXT", ""),
        (build.https("x", 0, "alias.example"), "HTTPS", "0 alias.example."),
        (
            build.https("x", 1, ".", SERVICE_PARAMETERS),
            "HTTPS",
            '1 . port=443 mandatory=port,alpn alpn="h2,a\\,b c" no-default-alpn '
            'ipv4hint=192.0.2.1,192.0.2.2 ech=AAKrzQ== ipv6hint=::1 dohpath="/q{?dns}" key65280',
        ),
        (build.raw("x", 65280, b"\xab\xcd"), "TYPE65280", r"\# 2 ab cd"),
        (build.raw("x", 44, b""), "SSHFP", r"\# 0"),
        (build.a("x", "192.0.2.1"), "TYPE1", "192.0.2.1"),
        (build.a("x", "192.0.2.1"), "A", r"\# 4 c0000201"),
    ],
)
def test_values(record, type_name, value):
    assert wire(parse_record("x", type_name, value, KEY)) == wire(record)


UNREADABLE = ("SOA", "MD", "MF", "MB", "MG", "MR", "HINFO", "MINFO", "RP", "AFSDB", "ISDN", "RT",
              "NSAP-PTR", "NAPTR", "KX", "CERT", "DS", "DNSKEY", "DHCID", "ZONEMD")  # fmt: skip
"""Types that are shown field by field, but only read in the generic form."""
SENSELESS = ("rdata-257-40z", "svcb-v4-empty", "https-v4-empty", "https-no-default-alpn-data")
"""What only a broken program writes is shown, and not taken from a person."""


@pytest.mark.parametrize("case", DNS, ids=lambda case: case["id"])
def test_what_is_shown_is_read_back(case):
    """Every answer of the reference's vectors, but for names that need escapes."""
    for shown in records(bytes.fromhex(case["dns_hex"]), zone_file=True):
        if case["id"] in SENSELESS:
            with pytest.raises(ValueError):  # noqa: PT011 -- several texts, one kind
                parse_record("x", shown.type, shown.value, KEY)
            continue
        if shown.type in UNREADABLE or shown.class_ != "IN" or "\\" in shown.name:
            continue
        name = shown.name if shown.name != "." else "@"
        again = parse_record(name, shown.type, shown.value, KEY, ttl_s=shown.ttl_s)
        (read,) = records(wire(again), zone_file=True)
        assert (read.type, read.ttl_s, read.value) == (shown.type, shown.ttl_s, shown.value)


def test_lines():
    line = parse_line(" _foo  60 IN txt  a\tb ", KEY)
    assert line == build.txt("_foo", "a", "b", ttl_s=60)
    assert parse_line("@ A 192.0.2.1", KEY, ttl_s=7) == build.a("@", "192.0.2.1", ttl_s=7)
    assert parse_line("x TXT", KEY) == build.txt("x")


@pytest.mark.parametrize(
    ("type_name", "value", "why"),
    [
        ("NONSENSE", "x", "no record type"),
        ("TYPE65536", r"\# 0", "no record type"),
        ("A", "", "the address is missing"),
        ("A", "192.0.2.256", r"192\.0\.2\.256"),
        ("A", "192.0.2.1 x", "too many words: x"),
        ("AAAA", "192.0.2.1", r"192\.0\.2\.1"),
        ("CNAME", r"a\.b", "escapes in names"),
        ("MX", "65536 x", "at most 16 bits"),
        ("MX", "-1 x", "at most 16 bits"),
        ("CAA", "256 issue x", "at most 8 bits"),
        ("TXT", '"open', "never closed"),
        ("TXT", "x\\", "backslash"),
        ("TXT", r"\256", "no octet"),
        ("TXT", "x" * 256, "255"),
        ("SSHFP", "1 2 ab", r"LENGTH HEX"),
        ("TYPE65280", r"\# 3 abcd", "2 octets where 3"),
        ("TYPE65280", r"\# x abcd", "generic form"),
        ("TYPE65280", r"\#", "generic form"),
        ("HTTPS", "1", "the target is missing"),
        ("HTTPS", "1 . foo=1", "no service parameter"),
        ("HTTPS", "1 . port=1 port=2", "twice"),
        ("HTTPS", "1 . port=65536", "16 bits"),
        ("HTTPS", "1 . port", "needs =VALUE"),
        ("HTTPS", "1 . alpn=", "needs a value"),
        ("HTTPS", "1 . no-default-alpn=1", "no value"),
        ("HTTPS", "1 . ipv4hint=x", "x"),
        ("HTTPS", "1 . ech=!", "base64"),
        ("HTTPS", "1 . mandatory=foo", "no service parameter"),
    ],
)
def test_what_means_nothing(type_name, value, why):
    with pytest.raises(ValueError, match=why):
        parse_record("x", type_name, value, KEY)


@pytest.mark.parametrize("line", ["", "x", "x 1", "x 192.0.2.1", "a\\.b A 192.0.2.1"])
def test_lines_that_are_none(line):
    with pytest.raises(ValueError, match=r"NAME|escapes"):
        parse_line(line, KEY)
