"""Write tokens: proof that a node can receive at the address it claims.

A node that wants to store something first asks (`get`, `get_peers`), is handed a token, and
must show it when it writes (`put`, `announce_peer`); a spoofed sender never sees the token.

    token = SipHash-2-4(key, interval_index || ip)

Deriving tokens from the interval they were issued in, instead of storing them, leaves nothing
to expire and nothing to look up. The port takes no part: NATs change it. SipHash is made for
this: short, fast, and not to be predicted without its key, however many tokens one has seen. The
datagram lane makes the same tokens (`_speedups/dht_answer.h`).

Source: BEP 5, "announce_peer"; BEP 44 uses the same token for `put`; design/protocol.md,
section 7.2 (the reference's CRC can be computed from any one token; a keyed hash cannot).
Sans-IO: callers pass `now`.
"""

from hashlib import blake2s
from hmac import compare_digest
from typing import Final

from relay._kernels import siphash
from relay.dht.node_id import Address, ip_octets

ROTATE_INTERVAL_S: Final = 300.0
"""BEP 5: tokens change every five minutes and stay good for up to ten."""

TOKEN_BYTES: Final = 8
"""Long enough not to be guessed: a guess costs a datagram and lives ten minutes."""

SECRET_BYTES_MIN: Final = 16


class TokenIssuer:
    """Issues tokens and recognises them again.

    Args:
        secret: 16 to 32 random bytes, known to nobody else.

    Raises:
        ValueError: `secret` is too short or too long.
    """

    def __init__(self, secret: bytes) -> None:
        if not SECRET_BYTES_MIN <= len(secret) <= blake2s.MAX_KEY_SIZE:
            raise ValueError("the secret of a token issuer has 16 to 32 bytes")
        self.key: Final = derive_key(secret, b"token")
        """16 bytes: who has them can issue tokens."""

    def issue(self, address: Address, now: float) -> bytes:
        """Return the 8-byte token of `address` for the interval that `now` falls in.

        Args:
            address: of the asking node; only the IP address counts.
            now: monotonic seconds.
        """
        return self._derive(address, int(now // ROTATE_INTERVAL_S))

    def valid(self, token: bytes, address: Address, now: float) -> bool:
        """Whether `token` was issued to `address` in this interval or the one before.

        Args:
            token: whatever the other node sent, of any length.
            address: where that came from; only the IP address counts.
            now: monotonic seconds.
        """
        interval = int(now // ROTATE_INTERVAL_S)
        return any(
            compare_digest(token, self._derive(address, candidate))
            for candidate in (interval, interval - 1)
        )

    def _derive(self, address: Address, interval: int) -> bytes:
        claim = interval.to_bytes(8, "big", signed=True) + ip_octets(address[0])
        return siphash(self.key, claim).to_bytes(TOKEN_BYTES, "little")


def derive_key(secret: bytes, purpose: bytes) -> bytes:
    """Return the 16-byte key of one use of a node's secret.

    Args:
        secret: at most 32 bytes.
        purpose: at most 8 bytes; other purposes have other keys.
    """
    return blake2s(digest_size=16, key=secret, person=purpose).digest()
