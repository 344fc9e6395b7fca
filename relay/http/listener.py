"""Listening sockets: bound before anything slow is imported, so that clients can connect."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from ipaddress import IPv6Address, ip_address
from typing import Final

from relay.errors import StartupError

BACKLOG: Final = 1024
BUFFER_BYTES: Final = 64 * 1024
"""Of the kernel's, each way, for each connection; it takes twice that for its own needs. By itself
it would give a client that does not read up to some MiB, and one whose bytes nobody reads yet."""
_ALL_IPV4: Final = "0.0.0.0"  # noqa: S104  # a relay serves the world
_ALL: Final = "::"
_NO_IPV6: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
"""The kernel knows IPv6, but the machine (often a container) has it switched off."""


def open_listeners(bind: Sequence[str] | None, port: int) -> list[socket.socket]:
    """Return listening TCP sockets, not blocking.

    Args:
        bind: IP addresses; None: all of them by one dual-stack socket, or all of IPv4
            where the machine has no IPv6.
        port: 0 takes any free one, the same for every address.

    Raises:
        StartupError: an address cannot be had; the text names it and says why.
    """
    if bind is None:
        return [_listen_everywhere(port)]
    with ExitStack() as opened:
        listeners: list[socket.socket] = []
        for host in bind:
            listener = opened.enter_context(_listen(host, port))
            listeners.append(listener)
            port = listener.getsockname()[1]
        opened.pop_all()
        return listeners


def _listen_everywhere(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        try:
            return _bound(_ALL, port, dual_stack=True)
        except OSError as error:
            if error.errno not in _NO_IPV6:
                raise _refusal(_ALL, port, error) from error
    return _listen(_ALL_IPV4, port)


def _listen(host: str, port: int) -> socket.socket:
    try:
        return _bound(host, port, dual_stack=False)
    except OSError as error:
        raise _refusal(host, port, error) from error


def _bound(host: str, port: int, *, dual_stack: bool) -> socket.socket:
    with ExitStack() as opened:
        is_ipv6 = _is_ipv6(host)
        sock = opened.enter_context(socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):  # whoever is accepted inherits them
            sock.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
        if is_ipv6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not dual_stack)
        sock.bind((host, port))
        sock.listen(BACKLOG)
        sock.setblocking(False)
        opened.pop_all()
        return sock


def _is_ipv6(host: str) -> bool:
    return isinstance(ip_address(host.partition("%")[0]), IPv6Address)


def shown_address(host: str, port: int) -> str:
    """Return an address and port as URLs spell them.

    >>> shown_address("::", 8080)
    '[::]:8080'
    """
    return f"[{host}]:{port}" if _is_ipv6(host) else f"{host}:{port}"


def _refusal(host: str, port: int, error: OSError) -> StartupError:
    return StartupError(f"cannot listen on {shown_address(host, port)} (TCP): {error.strerror}")
