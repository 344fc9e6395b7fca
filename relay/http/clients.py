"""Who asks: the address that limits are counted by, proxies seen through or not.

Three ways, by configuration:

* plainly: the TCP peer;
* ``http.trusted_proxies``: when the peer is one of them, forwarded headers are walked from
  the right, over further trusted proxies, to the first address that is not one. What stands
  further left was written by that client and proves nothing;
* ``behind_proxy = true`` without trusted proxies: the reference's way, in which anybody may
  claim any address: first parsable element from the left.

IPv4-mapped addresses are IPv4. IPv6 clients count by prefix, because one subscriber owns
at least a /64. Exempt networks are matched against the address found, but a merely claimed
one (third way) exempts nobody: there the TCP peer is matched.

Source: issue 3, section 2; design/protocol.md, section 4.5; RFC 7239.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
)
from typing import Final, TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network
Headers: TypeAlias = Sequence[tuple[bytes, bytes]]

_IPV6_BITS: Final = 128
_ADDRESS_CHARACTERS_MAX: Final = 45
"""Eight groups of IPv6, the last two of them written as IPv4."""
_ADDRESSES_KEPT: Final = 1024
"""Reading one takes longer than anything else about a client."""
_LOCAL: Final = "local"
"""Key of peers without an IP address: whoever connects through a Unix socket."""


@dataclass(frozen=True, slots=True)
class Client:
    """One budget: every address with this `key` draws on it, unless `exempt`."""

    key: Hashable
    exempt: bool
    address: Address | None = field(default=None, compare=False)
    """For the log."""


@dataclass(frozen=True, slots=True)
class ClientRules:
    """How to tell clients apart.

    Args:
        behind_proxy: believe forwarded headers from anybody, if `trusted_proxies` is empty.
        trusted_proxies: the only ones whose forwarded headers are believed, if any.
        exempt: clients that no limit applies to.
        ipv6_prefix: leading bits that make IPv6 addresses one client, 1 to 128.
    """

    behind_proxy: bool = False
    trusted_proxies: tuple[Network, ...] = ()
    exempt: tuple[Network, ...] = ()
    ipv6_prefix: int = 64

    def client_of(self, peer: str | None, headers: Headers) -> Client:
        """Return whose budget a request draws on.

        Args:
            peer: the TCP peer's address; None for a Unix socket, which counts as a
                trusted proxy where there are any.
            headers: the request's, names in lower case.
        """
        address = None if peer is None else parse_address(peer)
        if self.trusted_proxies:
            if address is None or _within(address, self.trusted_proxies):
                address = self._forwarded_by_trusted(address, headers)
            return self._client(address, judged=address)
        if self.behind_proxy:
            return self._client(_claimed(headers) or address, judged=address)
        return self._client(address, judged=address)

    def trusts(self, peer: str | None) -> bool:
        """Tell whether what `peer` writes into headers is an operator's word."""
        if not self.trusted_proxies:
            return False
        address = None if peer is None else parse_address(peer)
        return address is None or _within(address, self.trusted_proxies)

    def peer_key(self, peer: str | None) -> Hashable | None:
        """Return what connections are counted by, or None for a peer without a limit.

        Behind a proxy that is not named every peer may be that proxy, so none has one.
        """
        if self.behind_proxy and not self.trusted_proxies:
            return None
        address = None if peer is None else parse_address(peer)
        if address is None or _within(address, (*self.trusted_proxies, *self.exempt)):
            return None
        return self._key(address)

    def _forwarded_by_trusted(self, peer: Address | None, headers: Headers) -> Address | None:
        """Walk from the right; whatever cannot be read ends the way at the last known hop."""
        found = peer
        for element in reversed(_forwarded_elements(headers)):
            hop = _address_with_port(element)
            if hop is None:
                break
            found = hop
            if not _within(hop, self.trusted_proxies):
                break
        return found

    def _client(self, address: Address | None, *, judged: Address | None) -> Client:
        exempt = judged is not None and _within(judged, self.exempt)
        return Client(_LOCAL if address is None else self._key(address), exempt, address)

    def _key(self, address: Address) -> Hashable:
        if isinstance(address, IPv4Address):
            return address.packed
        return self.ipv6_prefix, int(address) >> (_IPV6_BITS - self.ipv6_prefix)


def parse_address(text: str) -> Address | None:
    """Read a bare IP address; an IPv4-mapped one is returned as IPv4, a zone is dropped.

    >>> parse_address("::ffff:192.0.2.1")
    IPv4Address('192.0.2.1')
    """
    bare = text.partition("%")[0]
    return _address(bare) if len(bare) <= _ADDRESS_CHARACTERS_MAX else None


@lru_cache(_ADDRESSES_KEPT)
def _address(text: str) -> Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _within(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)


def _values(headers: Headers, name: bytes) -> list[str]:
    return [value.decode("latin-1") for header, value in headers if header == name]


def _elements(headers: Headers, name: bytes) -> list[str]:
    joined = ",".join(_values(headers, name))
    return [element.strip() for element in joined.split(",")] if joined else []


def _forwarded_elements(headers: Headers) -> Sequence[str]:
    """Return the hops of the one header a proxy writes, in the reference's order of trust."""
    return (
        _elements(headers, b"x-forwarded-for")
        or _values(headers, b"x-real-ip")
        or [_forwarded_for(element) or "" for element in _elements(headers, b"forwarded")]
    )


def _claimed(headers: Headers) -> Address | None:
    """Return the address that the reference believes: see protocol.md, 4.5, "Client IP"."""
    candidates = (
        *(parse_address(element) for element in _elements(headers, b"x-forwarded-for")),
        *(parse_address(value.strip()) for value in _values(headers, b"x-real-ip")[:1]),
        *(
            _address_with_port(_forwarded_for(element) or "")
            for element in _elements(headers, b"forwarded")
        ),
    )
    return next((address for address in candidates if address is not None), None)


def _forwarded_for(element: str) -> str | None:
    """Return the ``for`` parameter of one element of ``Forwarded``, without quotes."""
    for parameter in element.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "for":
            return value.strip().strip('"')
    return None


def _address_with_port(text: str) -> Address | None:
    """Read ``192.0.2.1``, ``192.0.2.1:80``, ``2001:db8::1``, ``[2001:db8::1]`` or with port."""
    text = text.strip()
    if text.startswith("["):
        return parse_address(text[1:].partition("]")[0])
    if text.count(":") == 1:
        text = text.partition(":")[0]
    return parse_address(text)
