"""Messages are built byte for byte as the reference's client builds them."""

import json
from pathlib import Path

import pytest

from relay.errors import PacketError
from relay.pkarr import dns_build
from relay.pkarr.keys import Keypair, PublicKey
from relay.pkarr.packet import SignedPacket

VECTORS = Path(__file__).parents[4] / "shared" / "vectors"
CASES = json.loads((VECTORS / "packets.json").read_text())["cases"]
KEY = PublicKey(bytes(32))


def service(make):
    def build(record, **common):
        params = {3: record["port"].to_bytes(2, "big")} if "port" in record else {}
        return make(record["name"], record["priority"], record["target"], params, **common)

    return build


BUILDERS = {
    "A": lambda r, **common: dns_build.a(r["name"], r["address"], **common),
    "AAAA": lambda r, **common: dns_build.aaaa(r["name"], r["address"], **common),
    "TXT": lambda r, **common: dns_build.txt(r["name"], *r["strings"], **common),
    "CNAME": lambda r, **common: dns_build.cname(r["name"], r["target"], **common),
    "NS": lambda r, **common: dns_build.ns(r["name"], r["target"], **common),
    "MX": lambda r, **common: dns_build.mx(r["name"], r["preference"], r["target"], **common),
    # The vectors give no fields for these two; they were read from the bytes.
    "SOA": lambda r, **common: dns_build.soa(
        r["name"], "ns1.example", "admin.example", (7, 3600, 600, 86400, 60), **common
    ),
    "CAA": lambda r, **common: dns_build.caa(r["name"], "issue", "letsencrypt.org", **common),
    "HTTPS": service(dns_build.https),
    "SVCB": service(dns_build.svcb),
}


def build(case):
    records = [
        BUILDERS[record["type"]](record, ttl_s=record["ttl"]) for record in case["records_in"]
    ]
    return SignedPacket.build(
        Keypair.from_seed(bytes.fromhex(case["seed"])), records, int(case["timestamp"])
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_packet_vector(case):
    if case["ok"]:
        packet = build(case)
        assert packet.dns.hex() == case["dns_hex"]
        assert packet.to_relay_payload().hex() == case["payload_hex"]
        shown = [
            {"name": r.name, "ttl": r.ttl_s, "class": r.class_, "type": r.type}
            for r in packet.records()
        ]
        assert shown == case["records_out"]
    else:
        with pytest.raises(PacketError) as caught:
            build(case)
        assert (caught.value.fault, str(caught.value)) == (case["error"], case["message"])


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("", "{key}"),
        (".", "{key}"),
        ("@", "{key}"),
        ("@.", "{key}"),
        ("foo.@", "{key}"),
        ("foo", "foo.{key}"),
        ("foo.", "foo.{key}"),
        ("foo..", "{key}"),
        ("a.b", "a.b.{key}"),
        ("a.{key}", "a.{key}"),
        ("a.{key}.", "a.{key}"),
        ("{key}.a", "{key}.a.{key}"),
    ],
)
def test_owner_names(name, owner):
    assert dns_build.owner_name(name.format(key=KEY), KEY) == owner.format(key=KEY)


def test_names_in_rdata_are_compressed_where_allowed():
    records = [dns_build.cname("a", f"b.{KEY}"), dns_build.srv("s", 1, 2, 3, f"a.{KEY}")]
    message = dns_build.message(KEY, records)
    assert message.count(str(KEY).encode()) == 2  # once as owner, once in the SRV record
    packet = SignedPacket.sign(Keypair.from_seed(bytes(32)), message, 1)
    assert [record.value for record in packet.records()] == [f"b.{KEY}", f"1 2 3 a.{KEY}"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: dns_build.txt("x", "y" * 256),
        lambda: dns_build.mx("x", 65536, "y"),
        lambda: dns_build.a("x", "300.1.1.1"),
        lambda: dns_build.a("x", "1.1.1.1", ttl_s=-1),
        lambda: dns_build.a("x", "1.1.1.1", ttl_s=2**32),
        lambda: dns_build.message(KEY, [dns_build.cname("x", "l" * 64)]),
        lambda: dns_build.message(KEY, [dns_build.cname("x", ".".join(["ab"] * 85))]),
        lambda: dns_build.message(KEY, [dns_build.a("x", "1.1.1.1")] * 65536),
    ],
)
def test_what_dns_cannot_say_is_the_callers_error(make):
    with pytest.raises(ValueError):  # noqa: PT011 -- several texts, one kind
        make()


def test_far_names_are_not_pointed_at():
    """A compression pointer has 14 bits; later names are written out, and still decode."""
    filler = [dns_build.raw("f", 65280, bytes(16000)), dns_build.raw("g", 65280, bytes(1000))]
    far = [dns_build.cname("x", "far.example"), dns_build.cname("y", "far.example")]
    message = dns_build.message(KEY, [*filler, *far])
    assert message.count(b"\x03far\x07example\x00") == 2
