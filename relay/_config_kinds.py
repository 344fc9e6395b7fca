"""What the settings of `relay.config` may be: one `Kind` for each form of value.

A kind judges one TOML value on its own; what two settings owe each other is
checked where the section is put together. Ranges are the reference relay's
integer types, so that a file means the same to both.

Source: design/protocol.md, sections 4.5, 5 and 11.
"""

from __future__ import annotations

import re
from ipaddress import (
    AddressValueError,
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeVar

from relay._config_table import Kind, shown

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
Network = IPv4Network | IPv6Network
HostAndPort = tuple[str, int]

U16_MAX: Final = 2**16 - 1
U32_MAX: Final = 2**32 - 1
I64_MAX: Final = 2**63 - 1
SECONDS_MAX: Final = 86_400 * 365
"""A year: longer than any connection or query, and far from every overflow."""
AGE_MIN_S: Final = 1
"""Connections are looked at as often as this: with less even an idle relay would be busy."""
_NS_PER_UNIT: Final = {"s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9, "d": 86_400 * 10**9}
_MAPPED_IPV4: Final = IPv6Network("::ffff:0:0/96")
_HOST_NAME: Final = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")


class Rate(NamedTuple):
    """A quota text: so many `cells` in its unit of time, so one every `interval_s`."""

    cells: int
    interval_s: float


def integer(low: int, high: int) -> Kind[int]:
    """Return the kind of whole numbers in ``[low, high]``; a boolean is none of them."""

    def parse(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError
        return value

    return Kind(f"an integer from {low} to {high}", parse)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{shown(value)} is no string")
    return value


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _list_of(parse: Callable[[object], T]) -> Callable[[object], tuple[T, ...]]:
    def parse_all(value: object) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise ValueError
        return tuple(parse(element) for element in value)

    return parse_all


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError
    if not 0 < value <= SECONDS_MAX:  # not-a-number fails too
        raise ValueError
    return float(value)


def _age(value: object) -> float:
    seconds = _seconds(value)
    if seconds < AGE_MIN_S:
        raise ValueError("too short")
    return seconds


def _server_mode(value: object) -> bool | Literal["auto"]:
    return "auto" if value == "auto" else _boolean(value)


def _bind(value: object) -> tuple[str, ...]:
    addresses = _list_of(lambda element: str(_address(element)))(value)
    if not addresses:
        raise ValueError("an empty list would listen nowhere")
    return tuple(dict.fromkeys(addresses))


def _address(value: object) -> IPv4Address | IPv6Address:
    address = ip_address(_text(value))
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_multicast or (isinstance(address, IPv4Address) and address.is_reserved):
        raise AddressValueError(f"{address} is the address of no single machine")
    return address


def _ipv4(value: object) -> IPv4Address:
    address = _address(value)
    if not isinstance(address, IPv4Address):
        raise AddressValueError("the DHT node speaks IPv4 only")
    return address


def _public_ip(value: object) -> IPv4Address:
    address = _ipv4(value)
    if address.is_unspecified:
        raise AddressValueError(f"{address} is the address of no single machine")
    return address


def _network(value: object) -> Network:
    """Read a CIDR range; an IPv4-mapped one is the IPv4 range it stands for."""
    network = ip_network(_text(value))
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED_IPV4):
        first = IPv4Address(int(network.network_address) & U32_MAX)
        return IPv4Network((first, network.prefixlen - _MAPPED_IPV4.prefixlen))
    return network


def _host_and_port(value: object) -> HostAndPort:
    text = _text(value)
    host, _, port = text.rpartition(":")
    if not re.fullmatch(r"[0-9]{1,5}", port, re.ASCII) or not 0 < int(port) <= U16_MAX:
        raise ValueError(f"{shown(text)} does not end in a port from 1 to 65535")
    if not _HOST_NAME.fullmatch(host):
        raise ValueError(f"{shown(text)} does not begin with a name or an IPv4 address")
    return host, int(port)


def _listen_address(value: object) -> HostAndPort:
    text = _text(value)
    host, _, port = text.rpartition(":")
    if not re.fullmatch(r"[0-9]{1,5}", port, re.ASCII) or int(port) > U16_MAX:
        raise ValueError(f"{shown(text)} does not end in a port from 0 to {U16_MAX}")
    bracketed = host.startswith("[") and host.endswith("]")
    address = _address(host[1:-1] if bracketed else host)
    if bracketed != (":" in host):
        raise ValueError("an IPv6 address stands in brackets, an IPv4 address does not")
    return str(address), int(port)


def _log_filter(value: object) -> str:
    text = _text(value)
    if not text.strip():
        raise ValueError("empty")
    return text


def _client_addresses(value: object) -> Literal["short", "full", "none"]:
    if value == "short" or value == "full" or value == "none":
        return value
    raise ValueError


def _path(value: object) -> Path:
    text = _text(value)
    if not text or "\0" in text:
        raise ValueError("empty, or with a zero byte")
    return Path(text)


def _rate(value: object) -> Rate:
    text = _text(value)
    found = re.fullmatch(r"([0-9]{1,10})r/(.*)", text, re.ASCII | re.DOTALL)
    if found is None or not 0 < (count := int(found[1])) <= U32_MAX:
        raise ValueError("no rate")
    period_ns = _NS_PER_UNIT.get(found[2])
    if period_ns is None:
        raise ValueError(f"no such unit of time: {shown(found[2])}")
    # The reference counts in whole nanoseconds, and a period of none is no limit.
    if period_ns // count == 0:
        raise ValueError("the rate is too high")
    return Rate(count, period_ns / count / 1e9)


PORT: Final = integer(0, U16_MAX)
U32: Final = integer(0, U32_MAX)
POSITIVE_U32: Final = integer(1, U32_MAX)
SIZE: Final = integer(0, I64_MAX)
IPV6_PREFIX: Final = integer(1, 128)
BOOLEAN: Final = Kind("true or false", _boolean)
SECONDS: Final = Kind(f"a number of seconds above 0, at most {SECONDS_MAX}", _seconds)
AGE: Final = Kind(f"a number of seconds from {AGE_MIN_S} to {SECONDS_MAX}", _age)
SERVER_MODE: Final = Kind('"auto", true or false', _server_mode)
BIND: Final = Kind('a list of IP addresses, such as ["0.0.0.0", "::"]', _bind)
IPV4: Final = Kind('an IPv4 address, such as "203.0.113.7"', _ipv4, is_text=True)
PUBLIC_IP: Final = Kind(IPV4.allowed, _public_ip, is_text=True)
NETWORKS: Final = Kind(
    'a list of addresses or CIDR ranges, such as ["10.0.0.0/8", "2001:db8::/32"]',
    _list_of(_network),
)
BOOTSTRAP: Final = Kind(
    'a list of "host:port", such as ["router.bittorrent.com:6881"]; [] for none',
    _list_of(_host_and_port),
)
LISTEN_ADDRESS: Final = Kind(
    'an IP address and a port, such as "127.0.0.1:9100" or "[::1]:9100"',
    _listen_address,
    is_text=True,
)
PATH: Final = Kind("the path of a folder, as a string", _path, is_text=True)
LOG_FILTER: Final = Kind(
    'a level, or target=level, separated by commas, such as "warn,pkarr_relay=debug"',
    _log_filter,
    is_text=True,
)
CLIENT_ADDRESSES: Final = Kind('"short", "full" or "none"', _client_addresses, is_text=True)
RATE: Final = Kind(
    '"<n>r/<unit>" with n from 1 to 4294967295 (1000000000 for s) and unit s, m, h or d,'
    ' such as "2r/s"',
    _rate,
    is_text=True,
)
