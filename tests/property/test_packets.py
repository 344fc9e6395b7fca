"""Round trips, and what arbitrary bytes may do: raise PacketError or PublicKeyError, no more."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.errors import PacketError, PublicKeyError
from relay.pkarr import dns, dns_build, zbase32
from relay.pkarr.dns_text import records
from relay.pkarr.keys import KEY_BYTES, Keypair, PublicKey
from relay.pkarr.packet import TIMESTAMP_MAX_US, SeenPacket, SignedPacket, merge

KEYPAIR = Keypair.from_seed(b"\x2a" * 32)

labels = st.text("abcxyz0189-_", min_size=1, max_size=12)
names = st.lists(labels, min_size=1, max_size=3).map(".".join)
ttls = st.integers(0, dns_build.TTL_MAX_S)
new_records = st.one_of(
    st.builds(dns_build.a, names, st.ip_addresses(v=4), ttl_s=ttls),
    st.builds(dns_build.aaaa, names, st.ip_addresses(v=6), ttl_s=ttls),
    st.builds(dns_build.cname, names, names, ttl_s=ttls),
    st.builds(lambda n, s, t: dns_build.txt(n, *s, ttl_s=t), names, st.lists(labels), ttls),
    st.builds(dns_build.srv, names, *[st.integers(0, 65535)] * 3, names, ttl_s=ttls),
    st.builds(
        lambda n, p, t: dns_build.raw(n, p, t),
        names,
        st.integers(65280, 65534),
        st.binary(max_size=40),
    ),
)
messages = st.lists(new_records, max_size=5).map(
    lambda some: dns_build.message(KEYPAIR.public_key, some)
)


def mutated(source):
    """Real messages with a few bytes changed and a tail cut off: deeper than noise gets."""

    def mutate(parts):
        message, edits, cut = parts
        octets = bytearray(message)
        for position, octet in edits:
            octets[position % len(octets)] = octet
        return bytes(octets[: len(octets) - cut % 8])

    edits = st.lists(st.tuples(st.integers(0, 999), st.integers(0, 255)), max_size=4)
    return st.tuples(source, edits, st.integers(0, 100)).map(mutate)


@given(st.binary(max_size=64))
def test_zbase32_round_trip(octets):
    assert zbase32.decode(zbase32.encode(octets)) == octets


@given(st.text(max_size=80) | st.text(zbase32.ALPHABET + ":/.@?#", max_size=80))
def test_any_text_is_a_key_or_a_key_error(text):
    try:
        key = PublicKey.parse(text)
    except PublicKeyError:
        return
    assert PublicKey.parse(str(key)) == key


@given(st.binary(min_size=32, max_size=32).map(Keypair.from_seed))
@settings(max_examples=30)
def test_spellings_of_a_key(keypair):
    key = keypair.public_key
    for text in (str(key), key.uri, f"https://a.b.{key}:80/x?y#z", f"{key}.", f"u@{key}"):
        assert PublicKey.parse(text) == key


@given(st.lists(new_records, max_size=4), st.integers(0, TIMESTAMP_MAX_US))
@settings(max_examples=50)
def test_build_and_parse(some, timestamp_us):
    packet = SignedPacket.build(KEYPAIR, some, timestamp_us)
    key, payload = packet.public_key, packet.to_relay_payload()
    assert SignedPacket.from_relay_payload(key, payload) == packet
    assert SignedPacket.from_relay_payloads([(key, payload)], random=os.urandom) == [packet]
    assert [record.ttl_s for record in packet.records()] == [record.ttl_s for record in some]
    smallest_s = min((record.ttl_s for record in some), default=None)
    assert dns.min_answer_ttl_s(packet.dns) == smallest_s


@given(st.binary(max_size=1200) | mutated(messages))
@settings(max_examples=400)
def test_any_bytes_are_a_message_or_a_packet_error(message):
    try:
        dns.check(message)
    except PacketError:
        with pytest.raises(PacketError):
            records(message)
        return
    shown = records(message)
    assert dns.min_answer_ttl_s(message) == min((r.ttl_s for r in shown), default=None)
    assert all(r.name.isprintable() and r.value.isprintable() for r in shown)


@given(st.binary(min_size=KEY_BYTES, max_size=KEY_BYTES), st.binary(max_size=1100))
@settings(max_examples=50)
def test_any_payload_is_a_packet_or_a_packet_error(octets, payload):
    try:
        key = PublicKey.from_octets(octets)
    except PublicKeyError:
        key = KEYPAIR.public_key
    with pytest.raises(PacketError):
        SignedPacket.from_relay_payload(key, payload)


unsigned_packets = st.builds(
    lambda timestamp_us, message, signature: SignedPacket(
        KEYPAIR.public_key, bytes([signature]) * 64, timestamp_us, message
    ),
    st.integers(0, 2),
    st.binary(max_size=2),
    st.integers(0, 1),
)
seen_packets = st.builds(SeenPacket, unsigned_packets, st.integers(0, 3))


@given(st.lists(seen_packets, min_size=1, max_size=6), st.randoms())
def test_merging_in_any_order_ends_with_the_same_content(seen, random):
    """The winner has the greatest (timestamp, dns), whatever the order of arrival."""

    def merged(sequence):
        winner = None
        for entry in sequence:
            winner = merge(winner, entry)
        return winner.packet.timestamp_us, winner.packet.dns

    shuffled = random.sample(seen, len(seen))
    best = max((entry.packet.timestamp_us, entry.packet.dns) for entry in seen)
    assert merged(seen) == merged(shuffled) == best
