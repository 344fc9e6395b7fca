"""Owners of keys with signed packets in stock: made once, used in thousands of histories."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache

from relay.dht.items import MutableItem
from relay.pkarr import dns_build
from relay.pkarr.keys import Keypair
from relay.pkarr.packet import SignedPacket

EPOCH_US = 1_800_000_000_000_000
VERSIONS = 8


@dataclass(frozen=True)
class Author:
    """A key and its packets, oldest first."""

    keypair: Keypair
    packets: tuple[SignedPacket, ...]
    items: tuple[MutableItem, ...]
    """The same, as the DHT carries them."""

    @property
    def octets(self) -> bytes:
        return self.keypair.public_key.octets

    @property
    def target(self) -> bytes:
        return self.items[0].target


@cache
def author(number: int) -> Author:
    """Return the author of a number: `VERSIONS` packets, the last two with one timestamp."""
    keypair = Keypair.from_seed(hashlib.sha256(b"author %d" % number).digest())
    packets = []
    for version in range(VERSIONS):
        text = f"{version} " + "x" * (number * 37 % 200)
        records = [dns_build.txt("_v", text, ttl_s=(30, 300, 3600)[number % 3])]
        # Microseconds after each other, seconds, and twice the same: all must be told apart.
        timestamp_us = EPOCH_US + min(version, VERSIONS - 2) ** 3 * 1000
        packets.append(SignedPacket.build(keypair, records, timestamp_us))
    return Author(keypair, tuple(packets), tuple(map(item_of, packets)))


def item_of(packet: SignedPacket) -> MutableItem:
    """Return a packet as the DHT carries it."""
    return MutableItem.from_value(
        packet.public_key.octets, packet.timestamp_us, packet.dns, packet.signature
    )
