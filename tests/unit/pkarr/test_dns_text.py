"""Records as people read them."""

import json
from pathlib import Path

import pytest

from relay.errors import PacketError
from relay.pkarr import dns_build as build
from relay.pkarr.dns_text import Record, records, type_name
from relay.pkarr.keys import PublicKey
from tests.support.packets import SERVICE_PARAMETERS

VECTORS = Path(__file__).parents[4] / "shared" / "vectors"
DNS = [c for c in json.loads((VECTORS / "dns.json").read_text())["cases"] if c["ok"]]
KEY = PublicKey(bytes(32))

REFERENCE_NAMES = {"RouteThrough": "RT", "NSAP_PTR": "NSAP-PTR"}


def value_of(record):
    return records(build.message(KEY, [record]))[0].value


@pytest.mark.parametrize("case", DNS, ids=lambda case: case["id"])
def test_every_accepted_message_can_be_shown(case):
    """As many answers, with the same types and times, as the reference sees; no exception."""
    shown = records(bytes.fromhex(case["dns_hex"]))
    assert [record.ttl_s for record in shown] == [answer["ttl"] for answer in case["answers"]]
    for record, answer in zip(shown, case["answers"], strict=True):
        if not answer["type"].startswith("Unknown("):
            assert record.type == REFERENCE_NAMES.get(answer["type"], answer["type"])


@pytest.mark.parametrize(
    ("record", "value"),
    [
        (build.a("x", "192.0.2.1"), "192.0.2.1"),
        (build.aaaa("x", "2001:db8::1"), "2001:db8::1"),
        (build.txt("x", "a b", 'say "hi" \\'), r'"a b" "say \"hi\" \\"'),
        (build.txt("x", "héllo 世界"), '"héllo 世界"'),
        (build.txt("x", b"\xff\x00\n"), r'"\255\000\010"'),
        (build.txt("x", "a\u202eb"), r'"a\226\128\174b"'),  # no bidirectional tricks on a page
        (build.txt("x"), '""'),
        (build.cname("x", "example.com"), "example.com"),
        (build.cname("x", "."), "."),
        (build.mx("x", 10, "mail.example.com"), "10 mail.example.com"),
        (build.soa("x", "n.e", "m.e", (1, 2, 3, 4, 5)), "n.e m.e 1 2 3 4 5"),
        (build.srv("x", 1, 2, 443, "h.example"), "1 2 443 h.example"),
        (build.caa("x", "issue", "ca.example"), '0 issue "ca.example"'),
        (build.https("x", 0, "alias.example"), "0 alias.example"),
        (
            build.https("x", 1, ".", SERVICE_PARAMETERS),
            "1 . mandatory=alpn,port alpn=h2,a\\,b\\ c no-default-alpn port=443 "
            'ipv4hint=192.0.2.1,192.0.2.2 ech=AAKrzQ== ipv6hint=::1 dohpath="/q{?dns}" key65280',
        ),
        (build.raw("x", 65280, b"\xab\xcd"), r"\# 2 abcd"),
        (build.raw("x", 1, b""), ""),
        (build.raw("x", 43, bytes.fromhex("0001080200ff")), "1 8 2 00ff"),
        (build.raw("x", 35, bytes.fromhex("000100020153000000")), '1 2 "S" "" "" .'),
    ],
)
def test_values(record, value):
    assert value_of(record) == value


def test_names_are_escaped():
    message = (
        bytes.fromhex("000080000000000100000000")
        + b"\x04a.<b\x01 \x00"
        + bytes([0, 1, 0x80, 1, 0, 0, 0, 9, 0, 0])
    )
    assert records(message) == [Record(r"a\.<b.\ ", "A", "IN", 9, "")]


def test_questions_are_passed_over():
    question = b"\x01q\x00" + bytes([0, 1, 0, 1])
    answer = b"\xc0\x0c" + bytes([0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 1, 2, 3, 4])
    message = bytes.fromhex("000000000001000100000000") + question + answer
    assert records(message) == [Record("q", "A", "IN", 9, "1.2.3.4")]


def test_no_message():
    with pytest.raises(PacketError):
        records(b"")


def test_type_names():
    assert [type_name(code) for code in (1, 44, 65280)] == ["A", "SSHFP", "TYPE65280"]
