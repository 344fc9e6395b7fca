"""Identifiers and addresses of remote nodes: which are believable, which may be used.

An identifier is 20 bytes. BEP 42 ties its first 21 bits to the node's IPv4 address, so that
nobody can choose a place near a target at will; an identifier that keeps the rule is *secure*.
Addresses that are no business of the public network (loopback, RFC 1918, link-local) are
*exempt*: every identifier is secure there, and no limit per address applies to them.

Source: BEP 5 (compact node info), BEP 42; design/protocol.md, section 7.3.
Sans-IO: randomness is an argument.
"""

from random import Random
from typing import Final, NamedTuple

from relay._pure.addresses import (
    Address,
    ip_octets,
    is_exempt,
    is_secure,
    is_unicast,
    secure_prefix,
    usable_address,
)

__all__ = [
    "ID_BYTES",
    "Address",
    "NodeInfo",
    "ip_octets",
    "is_exempt",
    "is_secure",
    "is_unicast",
    "random_id",
    "secure_id",
    "usable_address",
]

ID_BYTES: Final = 20
"""Length of a node identifier and of a target."""


class NodeInfo(NamedTuple):
    """A remote node: identifier and address. 26 bytes on the wire ("compact node info")."""

    id: bytes
    address: Address

    @property
    def secure(self) -> bool:
        """Whether the identifier fits the address, see `is_secure`."""
        return is_secure(self.id, self.address[0])


def random_id(rng: Random) -> bytes:
    """Return 20 random bytes: an identifier for a node that does not know its address yet."""
    return rng.randbytes(ID_BYTES)


def secure_id(ip: str, rng: Random) -> bytes:
    """Return a new identifier that is secure for `ip`: 21 bits given, the others random."""
    octets = bytearray(rng.randbytes(ID_BYTES))
    prefix = secure_prefix(ip, octets[19] & 7)
    octets[0] = prefix >> 16
    octets[1] = prefix >> 8 & 0xFF
    octets[2] = prefix & 0xF8 | octets[2] & 0x07
    return bytes(octets)
