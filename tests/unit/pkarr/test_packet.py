"""Signed packets against the reference's vectors: bytes, verdicts, times, order."""

import json
import os
from pathlib import Path

import pytest

from relay.errors import PacketError, PublicKeyError
from relay.pkarr import dns_build
from relay.pkarr.keys import Keypair, PublicKey
from relay.pkarr.packet import (
    CLOCK_CORRECTION_US,
    TIMESTAMP_MAX_US,
    SeenPacket,
    SignedPacket,
    merge,
)

VECTORS = Path(__file__).parents[4] / "shared" / "vectors"


def cases(name):
    return json.loads((VECTORS / f"{name}.json").read_text())["cases"]


PACKETS = [case for case in cases("packets") if case["ok"]]
INVALID = cases("invalid")
DNS = cases("dns")
RECENCY = cases("recency")
EDGE_SIGNATURES = [case for case in cases("ed25519-edge") if "payload_hex" in case]
KEYPAIR = Keypair.from_seed(b"\x07" * 32)


def parse(case):
    return SignedPacket.from_relay_payload(
        PublicKey.parse(case["key"]), bytes.fromhex(case["payload_hex"])
    )


def packet_of(text, timestamp_us=1):
    return SignedPacket.build(KEYPAIR, [dns_build.txt("_foo", text, ttl_s=30)], timestamp_us)


@pytest.mark.parametrize("case", PACKETS, ids=lambda case: case["id"])
def test_packet_vector(case):
    key = PublicKey(bytes.fromhex(case["public_key"]))
    payload = bytes.fromhex(case["payload_hex"])
    packet = SignedPacket.from_relay_payload(key, payload)
    assert packet.to_relay_payload() == payload
    assert packet.timestamp_us == int(case["timestamp"])
    assert packet.dns.hex() == case["dns_hex"]
    assert packet.signature.hex() == case["signature"]
    assert packet.signable.hex() == case["signable_hex"]
    for bounds in case["ttl_cases"]:
        assert packet.ttl(bounds["min"], bounds["max"]) == bounds["ttl"]
    now_us = 1_800_000_000_000_000
    for age in case["expiry_cases"]:
        seen = SeenPacket(packet, now_us - age["age_seconds"] * 1_000_000)
        assert seen.is_expired(age["min"], age["max"], now_us) == age["expired"]
        assert seen.expires_in_s(age["min"], age["max"], now_us) == age["expires_in"]


@pytest.mark.parametrize("case", INVALID, ids=lambda case: case["id"])
def test_invalid_vector(case):
    if case["ok"]:
        assert parse(case).timestamp_us == int(case["timestamp"])
    else:
        with pytest.raises((PacketError, PublicKeyError)) as caught:
            parse(case)
        assert str(caught.value) == case["message"]
        if isinstance(caught.value, PacketError):
            assert caught.value.fault == case["error"]
        else:
            assert case["error"] == "public_key"


def test_dns_vectors_in_one_batch():
    """All correctly signed, about a third no DNS messages: same verdicts as one by one."""
    pairs = [(PublicKey.parse(case["key"]), bytes.fromhex(case["payload_hex"])) for case in DNS]
    for case, result in zip(
        DNS, SignedPacket.from_relay_payloads(pairs, random=os.urandom), strict=True
    ):
        if case["ok"]:
            assert isinstance(result, SignedPacket)
            assert result.dns.hex() == case["dns_hex"]
        else:
            assert isinstance(result, PacketError)
            assert (result.fault, str(result)) == (case["error"], case["message"])


def test_invalid_vectors_in_one_batch():
    """One bad member spoils no other, and every error is that of the single check."""
    keyed = [case for case in INVALID if case["error" if not case["ok"] else "id"] != "public_key"]
    pairs = [(PublicKey.parse(case["key"]), bytes.fromhex(case["payload_hex"])) for case in keyed]
    results = SignedPacket.from_relay_payloads(pairs, random=os.urandom)
    assert [case["ok"] for case in keyed] == [isinstance(r, SignedPacket) for r in results]
    assert [case.get("message") for case in keyed] == [
        str(r) if isinstance(r, PacketError) else None for r in results
    ]


@pytest.mark.parametrize("case", EDGE_SIGNATURES, ids=lambda case: case["id"])
def test_adversarial_signatures(case):
    key = PublicKey(bytes.fromhex(case["key_hex"]))
    payload = bytes.fromhex(case["payload_hex"])
    if case["ok"]:
        assert SignedPacket.from_relay_payload(key, payload).to_relay_payload() == payload
    else:
        with pytest.raises(PacketError):
            SignedPacket.from_relay_payload(key, payload)


@pytest.mark.parametrize("case", RECENCY, ids=lambda case: case["id"])
def test_recency_vector(case):
    key = PublicKey.parse(case["key"])
    a, b = (SignedPacket.from_relay_payload(key, bytes.fromhex(case[side])) for side in "ab")
    assert a.more_recent_than(b) == case["a_more_recent_than_b"]
    assert b.more_recent_than(a) == case["b_more_recent_than_a"]
    assert (a == b) == case["same"]


def test_verification_can_be_left_out_for_bytes_verified_before():
    payload = bytearray(packet_of("x").to_relay_payload())
    payload[0] ^= 1
    key = KEYPAIR.public_key
    packet = SignedPacket.from_relay_payload(key, bytes(payload), verify=False)
    assert packet.to_relay_payload() == payload
    with pytest.raises(PacketError, match=r"^signature error$"):
        SignedPacket.from_relay_payload(key, bytes(payload))


def test_signature_is_checked_before_dns():
    with pytest.raises(PacketError) as caught:
        SignedPacket.from_relay_payload(KEYPAIR.public_key, bytes(80))
    assert caught.value.fault == "signature"


def test_item_of_the_dht():
    packet = packet_of("hello", timestamp_us=77)
    assert packet == SignedPacket.from_item(packet.public_key, 77, packet.signature, packet.dns)


@pytest.mark.parametrize(
    ("seq", "value", "fault"),
    [(1, b"not dns", "dns"), (1, bytes(1001), "too_large"), (-1, bytes(12), "signature")],
)
def test_items_that_are_no_packets(seq, value, fault):
    with pytest.raises(PacketError) as caught:
        SignedPacket.from_item(KEYPAIR.public_key, seq, bytes(64), value)
    assert caught.value.fault == fault


@pytest.mark.parametrize("timestamp_us", [-1, TIMESTAMP_MAX_US + 1])
def test_timestamps_are_unsigned_64_bit(timestamp_us):
    with pytest.raises(ValueError, match="timestamp"):
        SignedPacket.build(KEYPAIR, [], timestamp_us)


def test_largest_timestamp():
    packet = SignedPacket.build(KEYPAIR, [], TIMESTAMP_MAX_US)
    key, payload = packet.public_key, packet.to_relay_payload()
    assert SignedPacket.from_relay_payload(key, payload) == packet


@pytest.mark.parametrize(("dns", "fault"), [(bytes(1001), "too_large"), (bytes(3), "dns")])
def test_only_dns_messages_are_signed(dns, fault):
    with pytest.raises(PacketError) as caught:
        SignedPacket.sign(KEYPAIR, dns, 1)
    assert caught.value.fault == fault


def test_clock_that_went_back_does_not_expire_packets():
    seen = SeenPacket(packet_of("x"), last_seen_us=5_000_000)
    assert seen.elapsed_s(now_us=1_000_000) == 0
    assert seen.expires_in_s(300, 86400, now_us=1_000_000) == 300


def test_a_packet_of_unknown_age_is_expired():
    """Seen when the clock was far ahead: else it would be fresh until the clock is there again."""
    seen = SeenPacket(packet_of("x"), last_seen_us=CLOCK_CORRECTION_US + 5)
    assert not seen.is_expired(300, 86400, now_us=5)
    assert seen.is_expired(300, 86400, now_us=4)
    assert seen.elapsed_s(now_us=4) == 0


def test_zero_ttl_is_always_expired():
    packet = SignedPacket.build(KEYPAIR, [dns_build.a("@", "192.0.2.1", ttl_s=0)], 1)
    assert SeenPacket(packet, 10).is_expired(0, 86400, now_us=10)


def test_merge_never_downgrades():
    old = SeenPacket(packet_of("b", 5), 100)
    assert merge(None, old) is old
    assert merge(old, newer := SeenPacket(packet_of("a", 6), 50)) is newer
    assert merge(old, larger := SeenPacket(packet_of("c", 5), 50)) is larger
    assert merge(old, SeenPacket(packet_of("a", 5), 200)) is old
    assert merge(old, SeenPacket(packet_of("z", 4), 200)) is old


def test_merge_refreshes_the_same_packet_only():
    packet = packet_of("b", 5)
    old = SeenPacket(packet, 100)
    assert merge(old, later := SeenPacket(packet, 101)) is later
    assert merge(old, SeenPacket(packet, 99)) is old
    other_signature = SignedPacket(packet.public_key, bytes(64), packet.timestamp_us, packet.dns)
    assert merge(old, SeenPacket(other_signature, 101)) is old
