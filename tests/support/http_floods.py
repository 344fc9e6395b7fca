"""Floods of HTTP at a real relay, and what is looked at meanwhile: memory, and others' answers."""

from __future__ import annotations

import resource
import socket
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final

from tests.support import peers
from tests.support.packets import Author, Packet
from tests.support.relay import RelayProcess, exchange, wait_until

ANSWERED_S: Final = 30.0
"""For one answer beside a flood; far above what it takes, as tests share their cores."""
MANY: Final = "max_connections = 20_000\nmax_connections_per_address = 0"
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST, SETTINGS, PING, WINDOW = 0, 1, 3, 4, 6, 8
ENDS: Final = 5
"""Flags of a HEADERS frame that is a whole request."""
_SLABS: Final = ("TCP", "TCPv6", "sock_inode_cache", "filp", "eventpoll_epi", "eventpoll_pwq")


def frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0) -> bytes:
    """Return an HTTP/2 frame."""
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


@dataclass(frozen=True, slots=True)
class Target:
    """A relay under attack, and a packet that it must go on serving."""

    relay: RelayProcess
    packet: Packet

    @property
    def get(self) -> bytes:
        """A request for the packet."""
        return f"GET /{self.packet.key} HTTP/1.1\r\nHost: a\r\n\r\n".encode()

    def open_connections(self) -> int:
        """How many the relay has."""
        connections: Any = self.relay.stats()["http"]["connections"]
        return int(connections["open"])

    def assert_unharmed(self) -> None:
        """It lives, serves, and has found no fault of its own."""
        assert self.relay.alive, self.relay.log()[-4000:]
        assert self.relay.get(self.packet.key).body == self.packet.payload
        assert "Traceback" not in self.relay.log()


@contextmanager
def attacked(folder: Path, http: str = "") -> Iterator[Target]:
    """Run a relay with a packet in its cache and everything imported."""
    with (
        peers.own_net(3) as net,
        RelayProcess(folder, bootstrap=net.bootstrap, sections={"http": http}) as relay,
    ):
        relay.wait_bootstrapped()
        packet = Author().packet("an honest packet")
        assert relay.put(packet.key, packet.payload).status == 204
        assert relay.get("").status == 200
        target = Target(relay, packet)
        http2(target, [b""]).close()
        yield target


def allow_descriptors(count: int) -> None:
    """Let this process have so many; fails where the machine forbids it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, max(hard, count)))


def connect(target: Target, sent: bytes = b"", source: str = "127.0.0.1") -> socket.socket:
    """Open a connection and send something on it."""
    address = ("127.0.0.1", target.relay.port)
    sock = socket.create_connection(address, ANSWERED_S, (source, 0))
    sock.sendall(sent)
    return sock


def read_until(sock: socket.socket, wanted: bytes) -> None:
    """Read until something has come."""
    received = b""
    while wanted not in received:
        data = sock.recv(4096)
        assert data, "closed too early"
        received += data


def http2(target: Target, frames: Sequence[bytes]) -> socket.socket:
    """Open an HTTP/2 connection, wait until it is served, and send frames on it."""
    sock = connect(target, PREFACE + frame(SETTINGS))
    read_until(sock, frame(SETTINGS, flags=1))
    for piece in frames:
        sock.sendall(piece)
    return sock


@contextmanager
def idle(target: Target, count: int, sent: bytes, answer: bytes, beyond: int = 0) -> Iterator[None]:
    """Have so many connections, `beyond` others, that have sent something and do no more.

    Where there is an `answer`, they have read it.
    """
    allow_descriptors(beyond + count + 200)
    with ExitStack() as stack:
        socks: list[socket.socket] = []
        for _ in range(count):
            sock = stack.enter_context(connect(target, sent))
            socks.append(sock)
        for sock in socks if answer else ():
            read_until(sock, answer)
        wait_until(lambda: target.open_connections() >= beyond + count, "connections", ANSWERED_S)
        yield
    wait_until(lambda: target.open_connections() < beyond + 10, "the end of connections", 60.0)


def queued_bytes(port: int) -> tuple[int, int]:
    """What the kernel has on its way to a server on loopback, and to its clients; both ends."""
    to_server = to_clients = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, here, there, state, queues, *_ = line.split()
        sent, received = (int(size, 16) for size in queues.split(":"))
        if state == "0A":  # a listener: its queue is one of connections
            continue
        if int(here.partition(":")[2], 16) == port:
            to_server, to_clients = to_server + received, to_clients + sent
        elif int(there.partition(":")[2], 16) == port:
            to_server, to_clients = to_server + sent, to_clients + received
    return to_server, to_clients


def kernel_bytes() -> dict[str, int]:
    """What the kernel has for sockets, both ends: their objects where it says so, and buffers."""
    sockstat = Path("/proc/net/sockstat").read_text()
    pages = int(sockstat.partition("TCP: ")[2].split("\n")[0].split()[-1])
    found = {"buffers": pages * resource.getpagesize()}
    try:
        lines = Path("/proc/slabinfo").read_text().splitlines()
    except PermissionError:
        return found
    rows = [line.split() for line in lines]
    found["objects"] = sum(int(row[1]) * int(row[3]) for row in rows if row[0] in _SLABS)
    return found


class Hot:
    """A thread that asks for the packet, again and again; each answer is right."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._error: BaseException | None = None
        self.spans_s: list[float] = []

    def __enter__(self) -> Hot:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._error is not None and error[0] is None:
            raise self._error

    def told(self) -> str:
        """Return how long answers took."""
        spans = sorted(self.spans_s)
        tail = statistics.quantiles(spans, n=100)[-1] if len(spans) > 1 else spans[0]
        middle = statistics.median(spans)
        return f"{len(spans)} hot answers, p50 {middle * 1e3:.2f} ms, p99 {tail * 1e3:.2f} ms"

    def _run(self) -> None:
        try:
            packet = self._target.packet
            connection = HTTPConnection("127.0.0.1", self._target.relay.port, timeout=ANSWERED_S)
            with closing(connection):
                while not self._stop.is_set() or not self.spans_s:
                    began = time.perf_counter()
                    answer = exchange(connection, "GET", f"/{packet.key}")
                    self.spans_s.append(time.perf_counter() - began)
                    assert answer.body == packet.payload
                    self._stop.wait(0.005)
        except BaseException as error:
            self._error = error
