"""What an IPv4 address says about a node: exempt, unicast, and which identifiers fit it (BEP 42).

Source: BEP 42; design/protocol.md, section 7.3. Used by `relay.dht.node_id`, which tells more,
and by the twin of the candidates' kernel.
"""

from collections.abc import Collection
from functools import lru_cache
from typing import Final, TypeAlias

Address: TypeAlias = tuple[str, int]
"""IPv4 address in dotted form (no leading zeros, as `inet_ntop` writes it) and UDP port."""

_IP_CACHE: Final = 4096
"""Addresses whose facts are remembered: a look-up asks again and again about some hundred."""

_SECURE_MASK: Final = bytes.fromhex("030f3fff")
"""Bits of an IPv4 address that go into a secure identifier (BEP 42)."""


@lru_cache(maxsize=_IP_CACHE)
def ip_octets(ip: str) -> bytes:
    """Return the four bytes of a dotted IPv4 address.

    Raises:
        ValueError: `ip` is not four decimal numbers below 256.

    >>> ip_octets("127.0.0.1").hex()
    '7f000001'
    """
    parts = ip.split(".")
    if len(parts) != 4 or not all(part.isascii() and part.isdecimal() for part in parts):
        raise ValueError(f"not an IPv4 address: {ip!r}")
    return bytes(map(int, parts))


@lru_cache(maxsize=_IP_CACHE)
def is_exempt(ip: str) -> bool:
    """Whether `ip` is loopback (127/8), private (RFC 1918) or link-local (169.254/16).

    BEP 42 exempts these from secure identifiers; we exempt them also from the limits per
    address and per /24, from budgets and from pacing, because whole networks live there.

    >>> is_exempt("192.168.1.7"), is_exempt("100.64.0.1")
    (True, False)
    """
    first, second = ip_octets(ip)[:2]
    return (
        first in (10, 127)
        or (first == 172 and 16 <= second <= 31)
        or (first, second) in ((192, 168), (169, 254))
    )


@lru_cache(maxsize=_IP_CACHE)
def is_unicast(ip: str) -> bool:
    """Whether a host may have `ip`: not 0/8, multicast (224/4) or reserved (240/4)."""
    return 1 <= ip_octets(ip)[0] <= 223


def usable_address(address: Address, learned_from: Address, own: Collection[Address]) -> bool:
    """Whether an address that a remote node told us about may be sent to.

    Args:
        address: the address found in a message.
        learned_from: the sender of that message. Only a node that itself has an exempt
            address may name exempt ones; anybody else could make us knock inside our own
            network.
        own: our addresses, local and public; a node never talks to itself.

    Returns:
        True for unicast IPv4 with a port, not our own, and exempt only from an exempt sender.
    """
    ip, port = address
    if not 1 <= port <= 65535 or not is_unicast(ip) or address in own:
        return False
    return not is_exempt(ip) or is_exempt(learned_from[0])


def is_secure(node_id: bytes, ip: str) -> bool:
    """Whether the first 21 bits of `node_id` are those BEP 42 derives from `ip`.

    Always true for exempt addresses.

    Args:
        node_id: 20 bytes.
        ip: the IPv4 address the node answers from.
    """
    if is_exempt(ip):
        return True
    prefix = secure_prefix(ip, node_id[19] & 7)
    return (int.from_bytes(node_id[:3], "big") ^ prefix) >> 3 == 0


@lru_cache(maxsize=_IP_CACHE)
def secure_prefix(ip: str, r: int) -> int:
    """The leading 24 bits of the CRC that BEP 42 prescribes for an address and `r` in 0..7."""
    masked = bytearray(
        octet & mask for octet, mask in zip(ip_octets(ip), _SECURE_MASK, strict=True)
    )
    masked[0] |= r << 5
    return _crc32c(bytes(masked)) >> 8


def _crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli, RFC 3720 appendix B.4). Bit by bit: it only ever sees four bytes."""
    crc = 0xFFFFFFFF
    for octet in data:
        crc ^= octet
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF
