"""What floods are made of: the generator, hot and honest clients beside it, what they saw."""

from __future__ import annotations

import json
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Iterable
from contextlib import closing, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from relay._kernels import Value, decode, encode
from tests.support.packets import Packet
from tests.support.relay import RelayProcess, exchange

FIRST_SOURCE: Final = "198.18.0.1"
ID: Final = b"a" * 20
GRACE_S: Final = 60.0


def query(method: bytes, transaction_id: bytes = b"abcd", **arguments: Value) -> bytes:
    """A KRPC query with these arguments."""
    named = {name.encode(): value for name, value in arguments.items()}
    return encode({b"a": {b"id": ID, **named}, b"q": method, b"t": transaction_id, b"y": b"q"})


def ask(relay: RelayProcess, datagram: bytes, source: str = "127.0.0.1") -> bytes:
    """Send one query from an address and return the reply, undecoded."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.bind((source, 0))
        sock.connect(relay.dht_address)
        sock.send(datagram)
        return sock.recv(65536)


def values_of(reply: bytes) -> dict[bytes, Value]:
    """The values of a response."""
    message = decode(reply)
    assert isinstance(message, dict)
    values = message[b"r"]
    assert isinstance(values, dict)
    return values


@dataclass(frozen=True, slots=True)
class Flood:
    """What was sent, and what came back; bytes are those of UDP payloads."""

    seconds: float
    sent: int
    sent_bytes: int
    refused: int
    """Not taken by the system."""
    replies: int
    reply_bytes: int
    largest: int


class Generator:
    """Runs `udp_flood.c`."""

    def __init__(self, program: Path, folder: Path) -> None:
        self._program = program
        self._folder = folder

    def run(
        self,
        relay: RelayProcess,
        datagrams: Iterable[bytes],
        *,
        seconds: float,
        rate: int = 0,
        sources: int = 1,
        first: str = FIRST_SOURCE,
    ) -> Flood:
        """Flood a relay and return when all answers have come."""
        return self.start(
            relay, datagrams, seconds=seconds, rate=rate, sources=sources, first=first
        ).result()

    def start(
        self,
        relay: RelayProcess,
        datagrams: Iterable[bytes],
        *,
        seconds: float,
        rate: int = 0,
        sources: int = 1,
        first: str = FIRST_SOURCE,
    ) -> RunningFlood:
        """Begin to flood a relay."""
        path = self._folder / f"datagrams-{time.monotonic_ns()}"
        path.write_bytes(b"".join(len(one).to_bytes(4, "little") + one for one in datagrams))
        command = [self._program, relay.dht_port, seconds, rate, first, sources, path]
        process = subprocess.Popen(
            [str(part) for part in command], stdout=subprocess.PIPE, text=True
        )
        return RunningFlood(process, seconds, path)


@dataclass(frozen=True, slots=True)
class RunningFlood:
    """One that goes on beside the test."""

    process: subprocess.Popen[str]
    seconds: float
    path: Path

    def result(self) -> Flood:
        """Wait for its end."""
        try:
            output, _ = self.process.communicate(timeout=self.seconds + GRACE_S)
        finally:
            self.process.kill()
            self.process.wait()
            self.path.unlink()
        assert self.process.returncode == 0
        return Flood(**json.loads(output))


class _Client:
    """A thread that asks one thing after the other until it is told to stop."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._error: BaseException | None = None

    def _ask(self) -> None:
        raise NotImplementedError

    def _run(self) -> None:
        try:
            self._ask()
        except BaseException as error:
            self._error = error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self._error is not None and error is None:
            raise self._error


class Hot(_Client):
    """Asks over one connection for packets that are in the cache; each must come, as it is."""

    PAUSE_S: Final = 0.002

    def __init__(self, relay: RelayProcess, packets: list[Packet]) -> None:
        super().__init__()
        self._relay = relay
        self._packets = packets
        self.spans_s: list[float] = []

    def _ask(self) -> None:
        connection = HTTPConnection("127.0.0.1", self._relay.port, timeout=30)
        with closing(connection):
            while not self._stop.is_set():
                packet = self._packets[len(self.spans_s) % len(self._packets)]
                began = time.perf_counter()
                answer = exchange(connection, "GET", f"/{packet.key}")
                self.spans_s.append(time.perf_counter() - began)
                assert answer.status == 200
                assert answer.body == packet.payload
                self._stop.wait(self.PAUSE_S)

    def percentile_ms(self, percent: int) -> float:
        """Of the time that answers took."""
        return 1000 * statistics.quantiles(self.spans_s, n=100)[percent - 1]


@dataclass(slots=True)
class _Count:
    asked: int = 0
    answered: int = 0


class Honest(_Client):
    """Pings all the while, from an address of its own, and counts the answers.

    Far more often than a stranger is answered: what the kernel drops costs no budget, so that
    even where most of it goes as many get through as may be answered.
    """

    PAUSE_S: Final = 0.05
    PATIENCE_S: Final = 2.0

    def __init__(self, relay: RelayProcess, source: str) -> None:
        super().__init__()
        self._relay = relay
        self._source = source
        self.count = _Count()

    def _ask(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((self._source, 0))
            sock.connect(self._relay.dht_address)
            while not self._stop.is_set():
                self.count.asked += 1
                sock.send(query(b"ping"))
                self._hear(sock, self.PAUSE_S)
            self._hear(sock, self.PATIENCE_S)

    def _hear(self, sock: socket.socket, seconds: float) -> None:
        """Count the answers that come within so long."""
        until = time.monotonic() + seconds
        with suppress(TimeoutError):
            while self.count.answered < self.count.asked:
                sock.settimeout(max(until - time.monotonic(), 0.001))
                sock.recv(2048)
                self.count.answered += 1
                if time.monotonic() > until:
                    return
        self._stop.wait(max(until - time.monotonic(), 0.0))


class Peak(_Client):
    """Watches the resident memory of a relay."""

    PAUSE_S: Final = 0.2

    def __init__(self, relay: RelayProcess) -> None:
        super().__init__()
        self._relay = relay
        self.rss_bytes = 0

    def _ask(self) -> None:
        while True:
            self.rss_bytes = max(self.rss_bytes, self._relay.rss_bytes())
            if self._stop.wait(self.PAUSE_S):
                return
