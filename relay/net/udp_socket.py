"""The UDP socket below the driver: binding, its receive buffer, reading many datagrams at once.

Answers come in bursts: a look-up asks some twenty nodes within a millisecond, a hundred
look-ups two thousand. What does not fit the kernel's buffer is lost without a trace, so the
buffer is large, it is emptied with plain non-blocking reads before anything is processed, and
what the kernel dropped nevertheless can be asked for.

Sockets are never shared (no SO_REUSEADDR): two nodes on one port would steal each other's
answers.
"""

import contextlib
import errno
import socket
from struct import error as StructError  # noqa: N812 - its own name says nothing
from struct import unpack
from typing import Final

from relay.errors import StartupError

DHT_PORT: Final = 6881
"""Tried first when no port is configured: the customary port of Mainline nodes."""
RECEIVE_BUFFER_BYTES: Final = 4 * 1024 * 1024
"""Asked for; without CAP_NET_ADMIN the kernel grants at most net.core.rmem_max."""
DATAGRAM_BYTES_MAX: Final = 2048
"""Longer datagrams are cut; no KRPC message of ours or of a known node comes close."""

CHARGE_BYTES: Final = 4096
"""What a reply of up to 1452 bytes costs of the receive buffer, by an estimate on the safe side."""

_SO_RCVBUFFORCE: Final = 33
_SO_MEMINFO: Final = 55
_MEMINFO_FORMAT: Final = "9I"
_MEMINFO_DROPS: Final = 8
"""Linux; Python has no names for these. See include/uapi/linux/sock_diag.h."""

Address = tuple[str, int]


def bind_udp(port: int | None, address: str | None = None) -> socket.socket:
    """Return a bound, non-blocking IPv4 UDP socket with a large receive buffer.

    Args:
        port: None tries 6881 and then any free one; 0 takes any free one at once.
        address: an IPv4 address of this host; None is all of them.

    Raises:
        StartupError: the port or the address cannot be had; the text says which and why.
    """
    host = "0.0.0.0" if address is None else address  # noqa: S104 - a DHT node is public
    if port is None:
        with contextlib.suppress(StartupError):
            return _bind(host, DHT_PORT)
        port = 0
    return _bind(host, port)


def _bind(host: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        _enlarge_receive_buffer(sock)
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        reason = error.strerror or str(error)
        raise StartupError(f"cannot bind the DHT to UDP {host} port {port}: {reason}") from error
    return sock


def _enlarge_receive_buffer(sock: socket.socket) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
    except OSError:  # not privileged, or not Linux: take what everybody may have
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)


def datagrams_held(sock: socket.socket) -> int:
    """Return how many datagrams the receive buffer surely holds while nobody reads.

    The kernel charges a datagram with the memory it occupies, up to `CHARGE_BYTES`, not with
    its length.
    """
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // CHARGE_BYTES


def kernel_drops(sock: socket.socket) -> int | None:
    """Return how many datagrams the kernel dropped for lack of buffer space; None: unknown."""
    try:
        answer = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 64)
        drops: int = unpack(_MEMINFO_FORMAT, answer[:36])[_MEMINFO_DROPS]
    except (OSError, StructError):
        return None
    return drops


def receive_datagrams(sock: socket.socket, limit: int) -> tuple[list[tuple[bytes, Address]], int]:
    """Read what has arrived, without waiting.

    Args:
        sock: bound and non-blocking.
        limit: the most datagrams, and the most errors, to take.

    Returns:
        The datagrams with their senders, and the number of errors that concern others (ICMP
        messages that some system reports here); fewer than `limit` together: nothing is left.
    """
    datagrams: list[tuple[bytes, Address]] = []
    errors = 0
    while len(datagrams) + errors < limit:
        try:
            datagrams.append(sock.recvfrom(DATAGRAM_BYTES_MAX))
        except (BlockingIOError, InterruptedError):
            break
        except OSError as error:
            if error.errno in _OUR_FAULT:
                raise
            errors += 1
    return datagrams, errors


_OUR_FAULT: Final = frozenset({errno.EBADF, errno.ENOTSOCK, errno.EINVAL, errno.EFAULT})
"""Errors that say that we use the socket wrongly; retrying would only hide it."""
