"""How a packet is shown to people and to machines."""

import pytest

from relay.commands.packet_report import (
    age,
    moment,
    packet_fields,
    packet_lines,
    signed_at,
    zone_lines,
)
from relay.pkarr import dns_build
from relay.pkarr.keys import Keypair
from relay.pkarr.packet import TIMESTAMP_MAX_US, SignedPacket

ALICE = Keypair.from_seed(bytes(range(32)))
KEY = ALICE.public_key
NOW_US = 1_700_000_000_000_000


@pytest.mark.parametrize(
    ("timestamp_us", "text"),
    [
        (0, "1970-01-01 00:00:00.000000 UTC"),
        (253_402_300_799_999_999, "9999-12-31 23:59:59.999999 UTC"),
        (253_402_300_800_000_000, None),
        (TIMESTAMP_MAX_US, None),
    ],
)
def test_moments(timestamp_us, text):
    assert moment(timestamp_us) == text


def test_times_for_people():
    assert age(NOW_US, NOW_US) == "0 s ago"
    assert age(NOW_US + 90_000_000, NOW_US) == "1 min 30 s in the future"
    assert signed_at(NOW_US, NOW_US + 5_000_000) == "2023-11-14 22:13:20.000000 UTC, 5 s ago"
    assert signed_at(TIMESTAMP_MAX_US, NOW_US) == f"{TIMESTAMP_MAX_US} microseconds after 1970"


def test_zone_lines():
    message = dns_build.message(
        KEY,
        [
            dns_build.a("@", "192.0.2.1"),
            dns_build.txt("x" * 40, "long", ttl_s=5),
            dns_build.raw("empty", 1, b"", ttl_s=86_400),
        ],
    )
    assert zone_lines(KEY, message) == [
        f"$ORIGIN {KEY}.",
        f"@{' ' * 29}    300 IN  A    192.0.2.1",
        f'{"x" * 40}      5 IN  TXT  "long"',
        rf"empty{' ' * 25}  86400 IN  A    \# 0",
    ]
    whole = zone_lines(None, message)
    assert whole[0].startswith(f"{KEY}. ")
    assert zone_lines(KEY, dns_build.message(KEY, [])) == [f"$ORIGIN {KEY}."]


def test_a_packet_for_people():
    packet = SignedPacket.build(ALICE, [dns_build.txt("_iroh", "relay=https://r/")], NOW_US)
    lines = packet_lines(packet, NOW_US + 5_000_000, last_seen_us=NOW_US + 2_000_000)
    assert lines[0] == f"; pk:{KEY}"
    assert lines[1].endswith(", 5 s ago, last seen 3 s ago")
    assert lines[3:5] == [f"; iroh endpoint {KEY.octets.hex()}", ";   relay  https://r/"]


@pytest.mark.parametrize(
    ("signed_us", "seen_us", "told"),
    [
        (NOW_US - 500_000, NOW_US - 1_000_000, "0 s ago, last seen 0 s ago"),  # whole seconds
        (NOW_US + 9_000_000, NOW_US - 1_000_000, "9 s in the future, last seen 0 s ago"),
    ],
)
def test_nobody_saw_it_before_it_was_signed(signed_us, seen_us, told):
    packet = SignedPacket.build(ALICE, [], signed_us)
    assert packet_lines(packet, NOW_US, last_seen_us=seen_us)[1].endswith(told)


def test_a_packet_for_machines():
    packet = SignedPacket.build(ALICE, [dns_build.a("@", "192.0.2.1")], TIMESTAMP_MAX_US)
    fields = packet_fields(packet)
    assert "iroh" not in fields
    assert (fields["signed_at"], fields["timestamp_us"]) == (None, TIMESTAMP_MAX_US)
    assert bytes.fromhex(fields["payload"]) == packet.to_relay_payload()
    (record,) = fields["records"]
    assert record == {
        "name": str(KEY), "type": "A", "class": "IN", "ttl_s": 300, "value": "192.0.2.1",
    }  # fmt: skip
