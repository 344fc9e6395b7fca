"""Relay payloads: parsed, verified and written back, one by one and many together.

The first 32 bytes are the key, the second byte's low bit says whether the rest is signed anew,
with the key of a seed that those 32 bytes are: so what lies behind the signature is reached too.
"""

from __future__ import annotations

from collections.abc import Iterable

from relay.errors import PacketError, PublicKeyError
from relay.pkarr.keys import Keypair, PublicKey
from relay.pkarr.packet import PAYLOAD_BYTES_MAX, SeenPacket, SignedPacket, merge
from relay.store import records
from tests.fuzz import vectors
from tests.support.chance import seeded

KEY_BYTES, SIGNATURE_BYTES, TIMESTAMP_BYTES = 32, 64, 8
AS_IT_IS, SIGNED = b"\x00", b"\x01"
INPUT_BYTES_MAX = 1 + KEY_BYTES + PAYLOAD_BYTES_MAX + 10


def seeds() -> Iterable[bytes]:
    """Good and bad payloads of all vectors."""
    for name in ("invalid", "dns", "ed25519-edge"):
        for case in vectors.cases(name):
            if "payload_hex" in case:
                key = bytes.fromhex(case["key_hex"]) if "key_hex" in case else _octets(case["key"])
                yield AS_IT_IS + key + bytes.fromhex(case["payload_hex"])
    for case in vectors.cases("packets"):
        if case["ok"]:
            yield SIGNED + bytes.fromhex(case["seed"]) + bytes.fromhex(case["payload_hex"])


def target(data: bytes) -> None:
    """Take a payload in by every way there is; all say the same."""
    how, key_octets, payload = data[:1], data[1 : 1 + KEY_BYTES], data[1 + KEY_BYTES :]
    if len(key_octets) != KEY_BYTES:
        return
    if how == SIGNED:
        keypair = Keypair.from_seed(key_octets)
        key = keypair.public_key
        timestamp = payload[SIGNATURE_BYTES : SIGNATURE_BYTES + TIMESTAMP_BYTES]
        dns = payload[SIGNATURE_BYTES + TIMESTAMP_BYTES :]
        if len(timestamp) == TIMESTAMP_BYTES:
            try:
                packet = SignedPacket.sign(keypair, dns, int.from_bytes(timestamp, "big"))
            except PacketError as error:
                assert error.fault in {"dns", "too_large"}
                return
            payload = packet.to_relay_payload()
            assert SignedPacket.from_relay_payload(key, payload) == packet
    else:
        try:
            key = PublicKey.from_octets(key_octets)
        except PublicKeyError as error:
            assert error.fault == "not_a_point"
            return
    _take_in(key, payload)


def _take_in(key: PublicKey, payload: bytes) -> None:
    batch = SignedPacket.from_relay_payloads(
        [(key, payload), (key, payload[:100])], random=seeded(1).randbytes
    )
    try:
        packet = SignedPacket.from_relay_payload(key, payload)
    except PacketError as error:
        assert error.fault in {"too_short", "too_large", "signature", "dns"}
        assert str(error).isprintable()
        assert repr(batch[0]) == repr(error)
        return
    assert batch[0] == packet
    assert packet.to_relay_payload() == payload
    assert 10 <= packet.ttl(10, 20) <= 20
    packet.records()
    seen = SeenPacket(packet, 1)
    record = records.encode(seen)
    assert records.decode(key, record) == seen
    assert merge(seen, SeenPacket(packet, 2)).last_seen_us == 2
    good, pack = records.pack_rows(_row_as_hex(key.octets, record))
    assert good == 1
    assert list(records.unpack(pack)) == [(key.octets, record)]


def _row_as_hex(key: bytes, record: bytes) -> str:
    _, last_seen_us, payload, checksum = records.row(key, record)
    return f"{checksum:08x}{key.hex()}{last_seen_us:016x}{payload.hex()}"


def _octets(text: str) -> bytes:
    try:
        return PublicKey.parse(text).octets
    except PublicKeyError:
        return bytes(KEY_BYTES)
