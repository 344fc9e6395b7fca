"""Payloads: whose they are, and what is no payload."""

import pytest

from relay.commands.payloads import KeySource, read_payload
from relay.errors import CommandError
from relay.pkarr import dns_build
from relay.pkarr.keys import Keypair
from relay.pkarr.packet import SignedPacket

ALICE = Keypair.from_seed(bytes(range(32)))
BOB = Keypair.from_seed(b"\x21" * 32)
PACKET = SignedPacket.build(ALICE, [dns_build.txt("_x", "y")], 1_700_000_000_000_000)
KEY = PACKET.public_key
PAYLOAD = PACKET.to_relay_payload()
FOREIGN = SignedPacket.sign(BOB, PACKET.dns, 7)
"""Bob signed a message in which all names are Alice's."""
NAMELESS = SignedPacket.sign(ALICE, bytes.fromhex("000080000000000000000000"), 7)


@pytest.fixture
def read(tmp_path):
    def read(octets, key=None):
        path = tmp_path / "payload"
        path.write_bytes(octets)
        return read_payload(str(path), key)

    return read


@pytest.mark.parametrize(
    ("octets", "given", "source"),
    [
        (PAYLOAD, None, KeySource.IN_NAMES),
        (PAYLOAD, KEY, KeySource.GIVEN),
        (KEY.octets + PAYLOAD, None, KeySource.IN_PAYLOAD),
        (KEY.octets + PAYLOAD, KEY, KeySource.IN_PAYLOAD),
        (PAYLOAD.hex().encode(), None, KeySource.IN_NAMES),
        (b" " + PAYLOAD.hex(" ", 8).upper().encode() + b"\n", None, KeySource.IN_NAMES),
        (KEY.octets + NAMELESS.to_relay_payload(), None, KeySource.IN_PAYLOAD),
    ],
)
def test_whose_it_is(read, octets, given, source):
    payload = read(octets, given)
    assert (payload.verified, payload.key, payload.key_source) == (True, KEY, source)
    assert payload.packet() in (PACKET, NAMELESS)


@pytest.mark.parametrize(
    ("octets", "given", "verified", "why"),
    [
        (PAYLOAD, BOB.public_key, False, "not signed by"),
        (KEY.octets + PAYLOAD, BOB.public_key, False, "not signed by"),
        (FOREIGN.to_relay_payload(), None, False, "not signed by"),
        (NAMELESS.to_relay_payload(), None, None, "give the key with --key"),
        (PAYLOAD[:-1], None, None, "no packet"),
        (PAYLOAD[:-1] + b"z", None, False, "not signed by"),
        (bytes(72), None, None, "no packet"),
    ],
)
def test_what_is_not_verified(read, octets, given, verified, why):
    payload = read(octets, given)
    assert payload.verified is verified
    with pytest.raises(CommandError, match=why):
        payload.packet()


@pytest.mark.parametrize("size", [0, 71, 1073, 1105, 4416, 4417, 100_000])
def test_what_has_no_size_of_one(read, size):
    with pytest.raises(CommandError, match="holds no payload"):
        read(b"\x01" * size)


def test_files_that_cannot_be_read(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(CommandError, match=f"failed to read {path}: "):
            read_payload(str(path), None)
