"""What the store's tests share: packets that need no valid signature, and a clock that stands."""

from collections.abc import Callable

import pytest

from relay.pkarr.keys import PublicKey
from relay.pkarr.packet import SeenPacket, SignedPacket

NOW_US = 1_750_000_000_000_000


@pytest.fixture
def packet() -> Callable[..., SeenPacket]:
    """Make a packet: the store believes what it is given."""

    def make(number: int, timestamp_us: int = 1, dns: bytes = b"dns", seen_us: int = NOW_US):
        key = PublicKey(number.to_bytes(32, "big"))
        return SeenPacket(SignedPacket(key, bytes(64), timestamp_us, dns), seen_us)

    return make
