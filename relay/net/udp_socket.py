"""The UDP socket below the driver: binding, its receive buffer, moving many datagrams at once.

Answers come in bursts: a look-up asks some twenty nodes within a millisecond, a hundred
look-ups two thousand. What does not fit the kernel's buffer is lost without a trace, so the
buffer is large, it is emptied with plain non-blocking reads before anything is processed, and
what the kernel dropped nevertheless can be asked for.

Sockets are never shared (no SO_REUSEADDR): two nodes on one port would steal each other's
answers.

`open_datagrams` chooses who moves them: the lane in C (`_speedups/datagrams.pyx`), which also has
others' queries answered on the way, or its twin here, with a system call for each.
"""

import contextlib
import errno
import socket
from dataclasses import dataclass
from struct import error as StructError  # noqa: N812 - its own name says nothing
from struct import unpack
from typing import TYPE_CHECKING, Final, Protocol

from relay.errors import StartupError
from relay.net import native

if TYPE_CHECKING:
    from relay.dht.native import Responder

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
Datagrams = list[tuple[bytes, Address]]
"""Payloads, each with where it came from or goes to."""
Received = tuple[Datagrams, Datagrams, int, bool, bool]
"""What `DatagramMover.receive` returns."""


@dataclass(slots=True)
class DatagramCounters:
    """Numbers of datagrams since the start, unless the name says otherwise."""

    received: int = 0
    sent: int = 0
    receive_errors: int = 0
    """Errors, not datagrams: ICMP messages that the system reports to readers."""
    send_errors: int = 0
    """The network or the system refused to take a datagram."""
    send_overflows: int = 0
    """Dropped because too many were waiting to be sent."""


class DatagramMover(Protocol):
    """Moves datagrams between a socket and Python, and counts them. Never waits."""

    def receive(self, limit: int, seconds: float, now: float) -> Received:
        """Take what has arrived.

        Args:
            limit: the most datagrams, and the most errors, to hand on.
            seconds: what is answered on the way takes hardly longer than that.
            now: monotonic seconds.

        Returns:
            The datagrams with their senders; replies that the socket had no room for; how many
            datagrams were answered on the way (or deserved no answer), and are not among the
            first; whether there may be more at once; whether there was something else than errors.

        Raises:
            OSError: the socket is used wrongly; what concerns others is counted.
        """
        ...

    def send(self, datagrams: Datagrams) -> int:
        """Send datagrams in order.

        Returns:
            How many are done with: sent, or counted as errors. Fewer than all: the others have
            to wait until the socket is writable.

        Raises:
            OSError: the socket is used wrongly.
        """
        ...


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


def open_datagrams(
    sock: socket.socket, counters: DatagramCounters, responder: "Responder | None"
) -> DatagramMover:
    """Return what moves the datagrams of a socket: the lane where the compiled kernels are in use.

    Args:
        sock: bound and non-blocking; stays open as long as the lane is used.
        counters: counted into.
        responder: answers plain queries on the way (`DhtNode.native_responder`); None: nobody.
    """
    if native.Lane is None:
        return SocketDatagrams(sock, counters)
    return native.Lane(sock.fileno(), counters, responder)


class SocketDatagrams:
    """A `DatagramMover` with a system call for each datagram; answers none by itself."""

    def __init__(self, sock: socket.socket, counters: DatagramCounters) -> None:
        self._sock = sock
        self._counters = counters

    def receive(self, limit: int, seconds: float, now: float) -> Received:
        """Take what has arrived."""
        datagrams: Datagrams = []
        errors = 0
        while len(datagrams) + errors < limit:
            try:
                datagrams.append(self._sock.recvfrom(DATAGRAM_BYTES_MAX))
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                if error.errno in _OUR_FAULT:
                    raise
                errors += 1
        self._counters.received += len(datagrams)
        self._counters.receive_errors += errors
        more = len(datagrams) + errors == limit
        return datagrams, [], 0, more, errors == 0 or errors < limit

    def send(self, datagrams: Datagrams) -> int:
        """Send datagrams in order; returns how many are done with."""
        for done, (payload, address) in enumerate(datagrams):
            try:
                self._sock.sendto(payload, address)
            except (BlockingIOError, InterruptedError):
                return done
            except OSError as error:
                if error.errno in (errno.EBADF, errno.ENOTSOCK):
                    raise
                self._counters.send_errors += 1
            else:
                self._counters.sent += 1
        return len(datagrams)


_OUR_FAULT: Final = frozenset({errno.EBADF, errno.ENOTSOCK, errno.EINVAL, errno.EFAULT})
"""Errors that say that we use the socket wrongly; retrying would only hide it."""
