"""A packet cache of one dictionary, for tests of what stands above it."""

from __future__ import annotations

from dataclasses import dataclass, field

from relay.pkarr.keys import PublicKey
from relay.pkarr.packet import SeenPacket, merge


@dataclass
class MemoryCache:
    """`relay.service.Cache` without a disk, a bound or an order of use."""

    stored: dict[PublicKey, SeenPacket] = field(default_factory=dict)
    floors: dict[PublicKey, int] = field(default_factory=dict)

    async def get(self, key: PublicKey) -> SeenPacket | None:
        """Return what is stored."""
        return self.stored.get(key)

    async def put_if_newer(self, seen: SeenPacket) -> SeenPacket:
        """Apply the cache update rule; return the winner."""
        self.put_soon(seen)
        return self.stored[seen.packet.public_key]

    def put_soon(self, seen: SeenPacket) -> None:
        """Apply the cache update rule."""
        key = seen.packet.public_key
        self.stored[key] = merge(self.stored.get(key), seen)

    def floor_us(self, key: PublicKey) -> int | None:
        """Return the floor that the test has set."""
        return self.floors.get(key)
