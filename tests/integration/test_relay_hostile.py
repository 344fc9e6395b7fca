"""Hostile bytes at every door of a running relay: datagrams, requests, the database file.

After each attack the process is alive, says so on ``/health``, answers an honest DHT query
and an honest request, has logged no traceback and has not grown. Seeds are in the test
names, so a failure can be repeated.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from relay._kernels import Value, decode, encode
from tests.support import peers
from tests.support.chance import seeded
from tests.support.packets import Author, Packet, now_us
from tests.support.relay import RelayProcess

pytestmark = pytest.mark.slow

GROWTH_MAX: Final = 32 * 1024 * 1024
"""Bytes of resident memory that all attacks together may cost: buffers, tables, allocator."""
DATAGRAM_MAX: Final = 65_507
DATAGRAMS: Final = 4_000
DATABASE: Final = "pkarr-relay.sqlite3"
ID: Final = b"a" * 20


@dataclass(frozen=True, slots=True)
class Target:
    """A relay under attack, and a packet that it must go on serving."""

    relay: RelayProcess
    packet: Packet
    rss_before: int

    def assert_unharmed(self) -> None:
        assert self.relay.alive, self.relay.log()[-4000:]
        assert self.relay.health().status == 200
        assert self.relay.get(self.packet.key).body == self.packet.payload
        assert krpc(self.relay, query(b"ping"))[b"y"] == b"r"
        assert "Traceback" not in self.relay.log()
        growth = self.relay.rss_bytes() - self.rss_before
        print(f"{growth / 2**20:.1f} MiB grown")  # shown by -rP
        assert growth < GROWTH_MAX


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with (
        peers.own_net(3) as net,
        RelayProcess(tmp_path_factory.mktemp("hostile"), bootstrap=net.bootstrap) as relay,
    ):
        relay.wait_bootstrapped()
        packet = Author().packet("an honest packet")
        assert relay.put(packet.key, packet.payload).status == 204
        assert relay.get("").status == 200  # everything that is imported late is there
        yield Target(relay, packet, relay.rss_bytes())


# --- the DHT socket -------------------------------------------------------------------------


def query(method: bytes, transaction_id: bytes = b"abcd", **arguments: Value) -> bytes:
    named = {name.encode(): value for name, value in arguments.items()}
    message: Value = {b"a": {b"id": ID, **named}, b"q": method, b"t": transaction_id, b"y": b"q"}
    return encode(message)


def krpc(relay: RelayProcess, datagram: bytes) -> dict[bytes, Value]:
    """Send one query from a new socket and return the answer."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.connect(relay.dht_address)
        sock.send(datagram)
        reply = decode(sock.recv(65536))
    assert isinstance(reply, dict)
    return reply


def flood(relay: RelayProcess, datagrams: Iterator[bytes]) -> int:
    """Send everything, with a ping now and then so that it is read and not merely dropped.

    And one at the end: when that is answered, everything before it has been read.
    """
    number = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        for number, datagram in enumerate(datagrams):
            sock.sendto(datagram[:DATAGRAM_MAX], relay.dht_address)
            if number % 50 == 0:
                krpc(relay, query(b"ping"))
    krpc(relay, query(b"ping"))
    return number + 1


HONEST: Final = (
    query(b"ping"),
    query(b"find_node", target=ID),
    query(b"get_peers", info_hash=ID),
    query(b"announce_peer", info_hash=ID, port=6881, token=b"12345678"),
    query(b"get", target=ID, seq=1),
    query(b"put", target=ID, token=b"12345678", v=b"value"),
    query(b"put", target=ID, token=b"12345678", v=b"v", k=bytes(32), seq=1, sig=bytes(64)),
    encode({b"t": b"abcd", b"y": b"r", b"r": {b"id": ID, b"nodes": bytes(26 * 8)}}),
    encode({b"t": b"abcd", b"y": b"e", b"e": [203, b"no"]}),
)


def mutated(seed: int) -> Iterator[bytes]:
    """Honest messages with bits flipped, parts cut out, doubled and swapped."""
    rng = seeded(seed)
    for _ in range(DATAGRAMS):
        data = bytearray(rng.choice(HONEST))
        for _ in range(rng.randint(1, 4)):
            start = rng.randrange(len(data))
            end = min(len(data), start + rng.randint(1, 12))
            match rng.randrange(4):
                case 0:
                    data[start] ^= 1 << rng.randrange(8)
                case 1 if end - start < len(data) - 1:
                    del data[start:end]
                case 2:
                    data[start:start] = data[start:end] * rng.randint(1, 20)
                case _:
                    data[start:end] = rng.choice(
                        [b"i-0e", b"99999999999:", b"d", b"l", b"e", b"0:"]
                    )
        yield bytes(data)


def noise(seed: int) -> Iterator[bytes]:
    rng = seeded(seed)
    for _ in range(DATAGRAMS):
        yield rng.randbytes(rng.choice([0, 1, 14, 15, 100, 1500, 8000]))


def nonsense() -> Iterator[bytes]:
    """Well-formed and wrong: each kind of argument in every place, and sizes beyond reason."""
    values: list[Value] = [0, -1, 2**63, -(2**66), b"", b"x" * 1000, [], [[[]]], {}, {b"a": {}}]
    fields = (b"id", b"target", b"token", b"v", b"k", b"seq", b"sig", b"cas", b"salt", b"port")
    for method in (b"ping", b"find_node", b"get_peers", b"announce_peer", b"get", b"put", b"?"):
        for name in fields:
            for value in values:
                arguments = {b"id": ID, b"target": ID, b"info_hash": ID, name: value}
                yield encode({b"a": arguments, b"q": method, b"t": b"abcd", b"y": b"q"})
    for name in (b"a", b"q", b"t", b"y", b"r", b"e", b"ro", b"ip", b"v"):
        for value in values:
            yield encode({b"a": {b"id": ID}, b"q": b"ping", b"t": b"abcd", b"y": b"q", name: value})
            yield encode({b"r": {b"id": ID}, b"t": b"abcd", b"y": b"r", name: value})
    yield b"d" + b"l" * 30_000
    yield b"l" * DATAGRAM_MAX
    yield b"i" + b"9" * 60_000 + b"e"
    yield b"d1:t4:abcd1:y1:q" + b"1:a" * 20_000
    yield query(b"get", target=ID, padding=bytes(60_000))
    yield query(b"find_node", transaction_id=b"t" * 60_000, target=ID)


def giants() -> Iterator[bytes]:
    rng = seeded("giants")
    for _ in range(200):
        yield rng.randbytes(DATAGRAM_MAX)
        yield query(b"put", target=ID, token=b"12345678", v=rng.randbytes(60_000))


FLOODS: Final[dict[str, Callable[[], Iterator[bytes]]]] = {
    "noise-1": lambda: noise(1),
    "mutated-1": lambda: mutated(1),
    "mutated-2": lambda: mutated(2),
    "nonsense": nonsense,
    "giants": giants,
}


@pytest.mark.parametrize("name", FLOODS)
def test_datagrams(target: Target, name: str) -> None:
    before = target.relay.dht_stats()["datagrams"]["received"]
    sent = flood(target.relay, FLOODS[name]())
    assert target.relay.dht_stats()["datagrams"]["received"] - before > sent
    target.assert_unharmed()


@pytest.mark.parametrize("missing", [b"sig", b"seq", b"k"])
def test_the_put_that_killed_rust_nodes(target: Target, missing: bytes) -> None:
    """A mutable put without one of its fields, with a good token, ended mainline 7's thread."""
    author = Author()
    packet = author.packet("value")
    token = token_of(target.relay, author)
    arguments: dict[bytes, Value] = {
        b"id": ID,
        b"k": author.public_key,
        b"seq": packet.timestamp_us,
        b"sig": packet.payload[:64],
        b"target": author.target,
        b"token": token,
        b"v": packet.dns,
    }
    del arguments[missing]
    message: Value = {b"a": arguments, b"q": b"put", b"t": b"abcd", b"y": b"q"}
    reply = krpc(target.relay, encode(message))
    assert reply[b"y"] == b"e"
    assert isinstance(reply[b"e"], list)
    assert reply[b"e"][0] == 203
    target.assert_unharmed()


def token_of(relay: RelayProcess, author: Author) -> bytes:
    values = krpc(relay, query(b"get", target=author.target))[b"r"]
    assert isinstance(values, dict)
    token = values[b"token"]
    assert isinstance(token, bytes)
    return token


def test_a_thousand_strangers_fill_no_table_for_ever(target: Target) -> None:
    """Every source is new, each asks, none answers a ping: nothing is remembered of them."""
    with ExitStack() as stack:
        for number in range(1000):
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.bind((f"127.{1 + number // 250}.{number % 250}.9", 0))
            sock.sendto(
                query(b"get", target=seeded(number).randbytes(20)), target.relay.dht_address
            )
            if number % 50 == 0:
                krpc(target.relay, query(b"ping"))
    assert target.relay.dht_stats()["table_size"] < 20
    target.assert_unharmed()


# --- the HTTP socket ------------------------------------------------------------------------


def attack(relay: RelayProcess, data: bytes, *, patience_s: float = 1.0) -> bytes:
    """Send raw bytes, half-close, and return what comes back until the relay closes."""
    received = bytearray()
    with (
        socket.create_connection(("127.0.0.1", relay.port), timeout=patience_s) as sock,
        contextlib.suppress(OSError),  # the relay may well hang up in the middle, or just wait
    ):
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        while chunk := sock.recv(65536):
            received += chunk
    return bytes(received)


def request(line: str, *fields: str, body: bytes = b"") -> bytes:
    """An HTTP/1.1 request with a Host header and these fields."""
    lines = [f"{line} HTTP/1.1", "Host: relay", *fields, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


KEY: Final = Author.numbered(0).key
PUT: Final = f"PUT /{KEY}"
CHUNKED: Final = "Transfer-Encoding: chunked"
REQUESTS: Final[dict[str, bytes]] = {
    "no-line": b"\r\n" * 50_000,
    "long-line": request("GET /" + "a" * 200_000),
    "endless-name": b"GET / HTTP/1.1\r\n" + b"x" * 200_000,
    "many-headers": request("GET /", *["x: y"] * 50_000),
    "nul": request("GET /\x00", "X: x\x00y"),
    "folded": request("GET /", "X: x", " folded: y"),
    "smuggled": request(PUT, "Content-Length: 5", CHUNKED, body=b"0\r\n\r\nGET"),
    "two-lengths": request(PUT, "Content-Length: 5", "Content-Length: 6", body=b"123456"),
    "negative": request(PUT, "Content-Length: -1"),
    "huge-length": request(PUT, f"Content-Length: {'9' * 40}", body=b"x"),
    "bad-chunk": request(PUT, CHUNKED, body=b"zz\r\nhello\r\n0\r\n\r\n"),
    "huge-chunk": request(PUT, CHUNKED, body=b"FFFFFFFFFFFFFFFF\r\n" + b"x" * 200_000),
    "endless-chunks": request(PUT, CHUNKED, body=b"1\r\nx\r\n" * 50_000),
    "cut-body": request(PUT, "Content-Length: 1000", body=b"x"),
    "pipeline": request("GET /health") * 500,
    "mixed-pipeline": (request("GET /") + b"\x00\xff garbage \r\n\r\n") * 100,
    "websocket": request(
        "GET /",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
    ),
    "h2c": request(
        "GET /", "Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: ////"
    ),
    "connect": request("CONNECT example.com:443"),
    "absolute": request("GET http://[::1/%00"),
    "version": request("GET / HTTP/9.9\r\nX: x"),
    "percent": request("GET /%%%zz%ff%00%2e%2e?policy=%ff&policy"),
    "tls": bytes.fromhex("16030100ba010000b60303") + bytes(180),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_requests(target: Target, name: str) -> None:
    for _ in range(5):
        answer = attack(target.relay, REQUESTS[name])
        assert not answer.startswith(b"HTTP/1.1 5"), answer[:200]
    target.assert_unharmed()


@pytest.mark.parametrize("seed", range(2))
def test_random_requests(target: Target, seed: int) -> None:
    rng = seeded(seed)
    whole = [data[:4000] for data in REQUESTS.values()]
    for _ in range(300):
        data = bytearray(rng.choice(whole))
        for _ in range(rng.randint(0, 5)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        attack(target.relay, bytes(data[: rng.randint(1, len(data))]), patience_s=0.05)
    target.assert_unharmed()


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


DATA, HEADERS, RST, SETTINGS, PING, WINDOW, CONTINUATION = 0, 1, 3, 4, 6, 8, 9
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0)
# GET / over http, all from the static table, with an empty authority.
GET_ROOT: Final = b"\x82\x86\x84\x41\x00"
ODD_STREAMS: Final = range(1, 2001, 2)

HTTP2: Final[dict[str, bytes]] = {
    "noise": PREFACE + seeded("h2").randbytes(100_000),
    "giant-frame": PREFACE + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01" + bytes(200_000),
    "rapid-reset": PREFACE
    + b"".join(frame(HEADERS, 5, s, GET_ROOT) + frame(RST, 0, s, bytes(4)) for s in ODD_STREAMS),
    "streams": PREFACE + b"".join(frame(HEADERS, 5, s, GET_ROOT) for s in ODD_STREAMS),
    "open-streams": PREFACE + b"".join(frame(HEADERS, 4, s, GET_ROOT) for s in ODD_STREAMS),
    "continuation": PREFACE
    + frame(HEADERS, 0, 1, GET_ROOT)
    + frame(CONTINUATION, 0, 1, b"\x40\x01x\x01y" * 1000) * 100,
    "hpack-bomb": PREFACE
    + frame(HEADERS, 0, 1, GET_ROOT + b"\x40\x01x\x7f\xa1\x1e" + b"y" * 4000)
    + frame(CONTINUATION, 4, 1, b"\xbe" * 16_000),
    "pings": PREFACE + frame(PING, 0, 0, bytes(8)) * 20_000,
    "settings": PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HI", 3, 1)) * 20_000,
    "zero-window": PREFACE + frame(WINDOW, 0, 0, bytes(4)),
    "overflowing-window": PREFACE + frame(WINDOW, 0, 0, b"\x7f\xff\xff\xff") * 3,
    "body-without-request": PREFACE + frame(DATA, 0, 1, bytes(16_000)) * 20,
    "cut-preface": PREFACE[:20],
}


@pytest.mark.parametrize("name", HTTP2)
def test_http2(target: Target, name: str) -> None:
    for _ in range(3):
        attack(target.relay, HTTP2[name])
    target.assert_unharmed()


SLOW_CONNECTIONS: Final = 200


def test_slow_and_silent_connections_block_nobody(target: Target) -> None:
    """Held open in every state: silent, half a header, half a body, an unread answer."""
    states = (
        b"",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow:",
        request(PUT, "Content-Length: 1000", body=b"x"),
        request("GET /") * 100,
        PREFACE[:10],
    )
    with ExitStack() as stack:
        for number in range(SLOW_CONNECTIONS):
            sock = socket.create_connection(("127.0.0.1", target.relay.port), timeout=30)
            stack.enter_context(sock)
            with contextlib.suppress(OSError):  # refused by the cap per address: fair enough
                sock.sendall(states[number % len(states)])
        target.assert_unharmed()
    target.assert_unharmed()


# --- packets that nobody signed -------------------------------------------------------------


def forgeries(packet: Packet, other: Packet) -> dict[str, bytes]:
    """What somebody without the key can make of its packet, and of another's."""
    signature, timestamp, dns = packet.payload[:64], packet.payload[64:72], packet.payload[72:]
    found = {
        "another key's": other.payload,
        "another key's signature": other.payload[:64] + timestamp + dns,
        "another key's time and records": signature + other.payload[64:],
        "no signature": bytes(64) + timestamp + dns,
        "later": signature + (packet.timestamp_us + 1).to_bytes(8) + dns,
    }
    places = {"signature": (0, 31, 32, 63), "timestamp": range(64, 72), "records": (72, 84, -1)}
    for part, offsets in places.items():
        for at in offsets:
            changed = bytearray(packet.payload)
            changed[at] ^= 1
            found[f"{part}, byte {at}"] = bytes(changed)
    return found


@pytest.mark.parametrize("lane", [pytest.param("task", marks=pytest.mark.compiled), "0"])
def test_a_packet_signed_by_another_key_is_refused_and_stored_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lane: str
) -> None:
    """Neither for a key that has no packet, nor over the packet that it has."""
    monkeypatch.setenv("RELAY_FRONT_LANE", lane)
    honest, without = Author(), Author()
    stored = honest.packet("the owner's", timestamp_us=now_us() - 1_000_000)
    tried = [
        *((without.key, name, payload)
          for name, payload in forgeries(without.packet(), stored).items()),
        *((honest.key, name, payload)
          for name, payload in forgeries(honest.packet("newer"), without.packet()).items()),
    ]  # fmt: skip
    with peers.own_net(3) as net, RelayProcess(tmp_path, bootstrap=net.bootstrap) as relay:
        relay.wait_bootstrapped()
        assert relay.put(stored.key, stored.payload).status == 204
        before: Any = relay.stats()
        for key, name, payload in tried:
            assert relay.put(key, payload).status == 400, name
            assert relay.get(without.key, "CacheOnly").status == 404, name
        after: Any = relay.stats()
        assert relay.get(honest.key, "CacheOnly").body == stored.payload
        assert after["cache"]["packets"] == before["cache"]["packets"] == 1
        assert after["dht"]["puts"] == before["dht"]["puts"] == 1
        # One may have been for the routing table.
        assert after["dht"]["lookups"] - before["dht"]["lookups"] <= 1
        assert relay.get(without.key, "NetworkOnly").status == 404
        assert relay.get(honest.key, "NetworkOnly").body == stored.payload
        assert "Traceback" not in relay.log()
        assert relay.stop() == 0
        relay.start().wait_bootstrapped()  # nothing of it was written, either
        assert relay.get(without.key, "CacheOnly").status == 404
        assert relay.get(honest.key, "CacheOnly").body == stored.payload


# --- the database file ----------------------------------------------------------------------

GARBAGE: Final[dict[str, bytes]] = {
    "empty": b"",
    "random": seeded("database").randbytes(200_000),
    "header-only": b"SQLite format 3\x00" + seeded("header").randbytes(84),
    "header-and-noise": b"SQLite format 3\x00" + seeded("pages").randbytes(40_944),
    "zeros": bytes(65_536),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_database_files(tmp_path: Path, name: str) -> None:
    relay = RelayProcess(tmp_path)
    relay.cache.mkdir()
    (relay.cache / DATABASE).write_bytes(GARBAGE[name])
    (relay.cache / f"{DATABASE}-wal").write_bytes(seeded(name).randbytes(40_000))
    with relay:
        assert relay.health().status == 200
        assert relay.get(KEY, "CacheOnly").status == 404
        assert "Traceback" not in relay.log()
        assert relay.stop() == 0
