"""The mixed load of a soak, in a process of its own, at bounded rates.

    python -m bench.soak.load RELAY_PORT DHT_PORT SEED RATE WINDOW FILL

``RATE`` multiplies the rates of `RATES`; for the first ``FILL`` seconds `FILL_RATE` does, too, so
that what the relay fills up to a bound is full soon. Every answer is judged when it comes: its
status must be one that the request may have, and the packet in it must be the owner's, not older
than what was acknowledged before the request was sent. Prints, every ``WINDOW`` seconds and at its
end, a line of JSON: the answers by kind and status, the reasons, the latencies of hot GETs. Ends
when stdin does.

Kinds of requests:

- ``hot``: GET of a key whose owner publishes again and again: 200 or 304, always, if the owner is
  in time, every `FRESH_S`; that these rates are kept is judged. Over kept connections, fresh ones,
  and HTTP/2.
- ``cold``: GET of any key published before in this run. Once it is older than `SURE_S` it may
  have left the cache, and the nodes that had it the network: 404.
- ``gone``: GET of a key that nobody published in this run: 404, or 200 while the cache has it.
- ``miss``: GET of a key that nobody ever had: 404.
- ``bad``: no key: 400.
- ``new``, ``again``, ``older``: PUT of a new key (204), of a hot one's next packet (204), and of
  an older packet than the last (409).
- ``page``: index, stats, health: 200. ``options``: 204.
- ``dht``: queries of another node, over UDP: the right reply to each.
"""

from __future__ import annotations

import json
import math
import os
import random
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import trio

from relay import _kernels
from tests.support.packets import Author, now_us, verifies

DETAILS_MAX: Final = 20
"""In a window."""
ANSWER_S: Final = 30.0
"""A look-up of a key that nobody has ends after 10 s at the latest."""
DHT_ANSWER_S: Final = 10.0
DHT_TRIES: Final = 3
"""UDP may lose one."""
SURE_S: Final = 30.0
"""For so long a packet just published must be found, whatever else happens."""
FRESH_S: Final = 300.0
"""The relay answers from its cache for so long, whatever the packet's TTL (`cache.minimum_ttl`)."""
HOT_KEYS: Final = 1000
PUBLISHED_MAX: Final = 50_000
GONE_KEYS: Final = 20_000
RATES: Final = {
    "hot": 200.0,
    "hot, fresh connection": 40.0,
    "hot, HTTP/2": 60.0,
    "cold": 5.0,
    "gone": 2.0,
    "miss": 4.0,
    "bad": 1.0,
    "new": 12.0,
    "again": HOT_KEYS / 240,
    "older": 0.2,
    "page": 0.6,
    "options": 0.2,
    "dht": 20.0,
}
"""Requests a second; a hot key is published every 4 minutes, within the 5 that the cache waits."""
FILL_RATE: Final = 2.0
WORKERS: Final = {"hot": 8, "hot, fresh connection": 4, "hot, HTTP/2": 3, "new": 6, "again": 8}
"""Connections of a kind; two for the rest."""
CONDITIONAL: Final = 0.2
"""The share of hot GETs over kept connections that name what they have."""


_GOAWAY: Final = b"\x07\0\0\0\0\0"
"""Type, flags and stream of the frame: h2 may raise before it tells of one."""


class BrokenError(Exception):
    """The connection ended within an answer, or what came is no answer."""


class IdleClosedError(Exception):
    """The server closed a kept connection before it took the request, as it may."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, header fields in lower case, body."""

    status: int
    fields: dict[str, str]
    body: bytes


@dataclass
class Window:
    """What happened since the last line."""

    statuses: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    """Answers that are not 2xx or 304, or came on a second try, by their cause."""
    failures: Counter[str] = field(default_factory=Counter)
    """What should not have happened."""
    details: list[str] = field(default_factory=list)
    """Of the first of those: what helps to find out why."""
    hot_ms: list[float] = field(default_factory=list)

    def line(self) -> dict[str, object]:
        """Return the form for JSON."""
        times = sorted(self.hot_ms)
        return {
            "statuses": dict(self.statuses),
            "reasons": dict(self.reasons),
            "failures": dict(self.failures),
            "details": self.details,
            "hot_p50_ms": _quantile(times, 0.5),
            "hot_p99_ms": _quantile(times, 0.99),
            "hot_max_ms": times[-1] if times else None,
        }


def _quantile(ordered: list[float], share: float) -> float | None:
    return ordered[math.ceil(share * len(ordered)) - 1] if ordered else None


class Connection:
    """HTTP/1.1 over one socket, opened when it is needed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stream: trio.SocketStream | None = None

    async def ask(
        self, method: str, path: str, body: bytes | None = None, fields: str = ""
    ) -> Answer:
        """Send a request and wait for its answer.

        Raises:
            IdleClosedError: the server had closed the connection, which was kept, before.
            BrokenError: it ended within the answer.
        """
        kept = self._stream is not None
        if self._stream is None:
            self._stream = await trio.open_tcp_stream("127.0.0.1", self._port)
        head = f"{method} /{path} HTTP/1.1\r\nHost: soak\r\n{fields}"
        if body is not None:
            head += f"Content-Length: {len(body)}\r\n"
        received = b""
        try:
            await self._stream.send_all(f"{head}\r\n".encode() + (body or b""))
            while b"\r\n\r\n" not in received:
                received += await self._more(received, kept=kept)
        except trio.BrokenResourceError as error:
            await self.close()
            if kept and not received:
                raise IdleClosedError from error
            raise BrokenError(f"reset after {received[:80]!r}") from error
        top, _, rest = received.partition(b"\r\n\r\n")
        first, *lines = top.decode("latin-1").split("\r\n")
        pairs = (line.partition(": ") for line in lines)
        found = {name.lower(): value for name, _, value in pairs}
        status = int(first.split()[1])
        length = 0 if status in {204, 304} else int(found.get("content-length", 0))
        while len(rest) < length:
            rest += await self._more(rest, kept=False)
        if len(rest) > length:
            raise BrokenError(f"more than an answer: {rest[length:80]!r}")
        if found.get("connection") == "close":
            await self.close()
        return Answer(status, found, rest)

    async def close(self) -> None:
        """Close it; the next request opens another."""
        if self._stream is not None:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(self._stream)
            self._stream = None

    async def _more(self, received: bytes, *, kept: bool) -> bytes:
        assert self._stream is not None
        data = await self._stream.receive_some()
        if not data:
            await self.close()
            if kept and not received:
                raise IdleClosedError
            raise BrokenError(f"ended after {received[:80]!r}")
        return data


class Connection2:
    """HTTP/2 with prior knowledge, one stream at a time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stream: trio.SocketStream | None = None
        self._h2 = h2.connection.H2Connection()
        self._leaving = False
        """Whether a GOAWAY may have come."""

    async def ask(self, path: str) -> Answer:
        """Send a GET and wait for its answer; raises as `Connection.ask`."""
        kept = self._stream is not None
        if self._stream is None:
            self._stream = await trio.open_tcp_stream("127.0.0.1", self._port)
            config = h2.config.H2Configuration(header_encoding="utf-8")
            self._h2 = h2.connection.H2Connection(config)
            self._h2.initiate_connection()
            self._leaving = False
        try:
            return await self._exchange(path)
        except h2.exceptions.ProtocolError as error:
            await self.close()
            if self._leaving:  # RFC 9113, section 6.8: streams go on after GOAWAY; not with h2
                raise IdleClosedError from error
            raise BrokenError(f"HTTP/2: {error}") from error
        except (trio.BrokenResourceError, IdleClosedError) as error:
            await self.close()
            if kept:
                raise IdleClosedError from error
            raise BrokenError("a fresh HTTP/2 connection ended") from error

    async def _exchange(self, path: str) -> Answer:
        assert self._stream is not None
        number = self._h2.get_next_available_stream_id()
        head = [(":method", "GET"), (":scheme", "http"), (":authority", "soak")]
        self._h2.send_headers(number, [*head, (":path", f"/{path}")], end_stream=True)
        fields: dict[str, str] = {}
        body, ended, leaving = b"", False, False
        while not ended:
            await self._stream.send_all(self._h2.data_to_send())
            data = await self._stream.receive_some()
            if not data:
                if fields:
                    raise BrokenError(f"HTTP/2 ended within the answer to {path}")
                raise IdleClosedError
            self._leaving = self._leaving or _GOAWAY in data
            for event in self._h2.receive_data(data):
                match event:
                    case h2.events.ResponseReceived():
                        fields = {str(name): str(value) for name, value in event.headers}
                    case h2.events.DataReceived():
                        body += event.data
                        self._h2.acknowledge_received_data(
                            event.flow_controlled_length, event.stream_id
                        )
                    case h2.events.StreamEnded():
                        ended = True
                    case h2.events.StreamReset():
                        raise BrokenError(f"stream reset, code {event.error_code}")
                    case h2.events.ConnectionTerminated():
                        leaving = True
                        if (event.last_stream_id or 0) < number:
                            raise IdleClosedError
                    case _:
                        pass
        rest = self._h2.data_to_send()
        if rest:
            with suppress(trio.BrokenResourceError):
                await self._stream.send_all(rest)
        if leaving:
            await self.close()
        return Answer(int(fields[":status"]), fields, body)

    async def close(self) -> None:
        """Close it; the next request opens another."""
        if self._stream is not None:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(self._stream)
            self._stream = None


SIZES: Final = range(150, 900)
"""Of DNS messages, bytes."""


def gone_author(number: int) -> Author:
    """Return who published before this run; the cache begins with what the last of them did."""
    return Author.numbered(number, "soak, gone")


@dataclass
class Published:
    """A key of this run and the newest packet that was acknowledged."""

    author: Author
    acknowledged_us: int
    at: float
    """When, by the monotonic clock."""
    sending_us: int = 0
    """A newer packet may be on its way."""
    busy: bool = False
    tag: str = ""


class Load:
    """All workers and what they share."""

    def __init__(
        self,
        port: int,
        dht_port: int,
        *,
        seed: int,
        rate: float,
        window_s: float,
        fill_s: float,
    ) -> None:
        self.window_s = window_s
        self.fill_s = fill_s
        self.filled_at = math.inf
        self.port = port
        self.dht_port = dht_port
        self.rng = random.Random(seed)
        self.seed = seed
        self.rate = rate
        self.window = Window()
        self.hot: list[Published] = []
        self.published: deque[Published] = deque(maxlen=PUBLISHED_MAX)
        self.authors = 0
        self.turn = 0
        self.ready = False

    async def run(self) -> None:
        """Fill the hot set, then keep all workers going until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._report)
            await self._fill_hot()
            self.ready = True
            self._tell()
            self.filled_at = trio.current_time() + self.fill_s
            for kind, rate in RATES.items():
                workers = WORKERS.get(kind, 2)
                for number in range(workers):
                    work = self._worker(kind)
                    period = workers / (rate * self.rate)
                    nursery.start_soon(self._pace, kind, work, period, number / workers)

    def _worker(self, kind: str) -> Callable[[], Awaitable[None]]:
        match kind:
            case "hot":
                return partial(self._hot, Connection(self.port))
            case "hot, fresh connection":
                return self._hot_fresh
            case "hot, HTTP/2":
                return partial(self._hot_http2, Connection2(self.port))
            case "dht":
                return partial(self._dht, DhtAsker(self.dht_port))
            case _:
                job: Callable[[Connection], Awaitable[None]] = getattr(self, f"_{kind}")
                return partial(job, Connection(self.port))

    async def _pace(
        self, kind: str, work: Callable[[], Awaitable[None]], period_s: float, phase: float
    ) -> None:
        """Do `work` about every `period_s`; what goes wrong is counted, and the worker goes on."""
        due = trio.current_time() + phase * period_s
        while True:
            await trio.sleep_until(due)
            often = FILL_RATE if due < self.filled_at else 1.0
            due = max(due + self.rng.uniform(0.5, 1.5) * period_s / often, trio.current_time())
            try:
                with trio.fail_after(ANSWER_S):
                    await work()
            except trio.TooSlowError:
                self._fail(kind, f"no answer within {ANSWER_S:.0f} s")
            except BrokenError as error:
                self._fail(kind, f"connection broken: {error}")
            except OSError as error:
                self._fail(kind, f"no connection: {error}")
            except Exception as error:  # one worker's trouble must not end all of them in silence
                self._fail(kind, repr(error))

    async def _report(self) -> None:
        due = trio.current_time()
        try:
            while True:
                due += self.window_s
                await trio.sleep_until(due)
                self._tell()
        finally:
            self._tell()

    def _tell(self) -> None:
        window, self.window = self.window, Window()
        line = {"time": time.time(), "ready": self.ready, **window.line()}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()

    def _fail(self, kind: str, what: str) -> None:
        self.window.failures[f"{kind}: {what}"] += 1

    def _note(self, kind: str, status: int, reason: str = "") -> None:
        self.window.statuses[f"{kind} {status}"] += 1
        if reason:
            self.window.reasons[f"{kind} {status}: {reason}"] += 1

    async def _ask(
        self,
        kind: str,
        connection: Connection,
        method: str,
        path: str,
        body: bytes | None = None,
        fields: str = "",
    ) -> Answer:
        try:
            return await connection.ask(method, path, body, fields)
        except IdleClosedError:
            reason = f"{kind}: the server closed the kept connection first; asked again"
            self.window.reasons[reason] += 1
        except BaseException:
            await connection.close()
            raise
        return await connection.ask(method, path, body, fields)

    # ---- GET ----

    async def _hot(self, connection: Connection) -> None:
        key = self.rng.choice(self.hot)
        fields = ""
        if key.tag and self.rng.random() < CONDITIONAL:
            fields = f"If-None-Match: {key.tag}\r\n"
        floor_us, published, begun = key.acknowledged_us, key.at, time.perf_counter()
        answer = await self._ask("hot", connection, "GET", key.author.key, None, fields)
        self.window.hot_ms.append((time.perf_counter() - begun) * 1e3)
        key.tag = answer.fields.get("etag", "")
        await self._judge_hot("hot", key, floor_us, published, answer, conditional=bool(fields))

    async def _hot_fresh(self) -> None:
        kind = "hot, fresh connection"
        key = self.rng.choice(self.hot)
        floor_us, published, connection = key.acknowledged_us, key.at, Connection(self.port)
        try:
            answer = await connection.ask(
                "GET", key.author.key, fields="Connection: close\r\n" * self.rng.randrange(2)
            )
        finally:
            await connection.close()
        await self._judge_hot(kind, key, floor_us, published, answer)

    async def _hot_http2(self, connection: Connection2) -> None:
        kind = "hot, HTTP/2"
        key = self.rng.choice(self.hot)
        floor_us, published = key.acknowledged_us, key.at
        try:
            answer = await connection.ask(key.author.key)
        except IdleClosedError:
            reason = f"{kind}: the server closed the kept connection first; asked again"
            self.window.reasons[reason] += 1
            answer = await connection.ask(key.author.key)
        except BaseException:
            await connection.close()
            raise
        await self._judge_hot(kind, key, floor_us, published, answer)

    async def _judge_hot(
        self,
        kind: str,
        key: Published,
        floor_us: int,
        published: float,
        answer: Answer,
        *,
        conditional: bool = False,
    ) -> None:
        if answer.status == 304 and conditional:
            self._note(kind, 304)
        elif answer.status == 200:
            self._note(kind, 200)
            self._check_packet(kind, key, floor_us, answer.body)
        elif answer.status == 404 and time.monotonic() - published > FRESH_S:
            self._note(kind, 404, "its owner was late, and the nodes that had it have left")
        else:
            self._fail(kind, f"status {answer.status}: {answer.body[:80]!r}")
            await self._detail(kind, key, answer)

    async def _detail(self, kind: str, key: Published, answer: Answer) -> None:
        """Note when the packet was published, and what cache and network say a moment later."""
        if len(self.window.details) >= DETAILS_MAX:
            return
        words = [f"{kind} {key.author.key}: {answer.status} at {time.time():.3f}"]
        words.append(f"published {time.monotonic() - key.at:.3f} s before")
        for policy in ("CacheOnly", "NetworkOnly", "CacheFirst"):
            connection, begun = Connection(self.port), time.monotonic()
            try:
                again = await connection.ask("GET", f"{key.author.key}?policy={policy}")
                words.append(f"{policy} {again.status} in {time.monotonic() - begun:.3f} s")
            except (BrokenError, OSError) as error:
                words.append(f"{policy} {error!r}")
            finally:
                await connection.close()
        self.window.details.append(", ".join(words))

    def _check_packet(self, kind: str, key: Published, floor_us: int, payload: bytes) -> None:
        stamp = int.from_bytes(payload[64:72])
        if not verifies(key.author.public_key, payload):
            self._fail(kind, "a packet that its owner did not sign")
        elif stamp < floor_us:
            self._fail(kind, "an older packet than was acknowledged")
        elif stamp > max(key.acknowledged_us, key.sending_us):
            self._fail(kind, "a packet from the future")

    async def _cold(self, connection: Connection) -> None:
        key = self.rng.choice(self.published or self.hot)
        floor_us = key.acknowledged_us
        sure = time.monotonic() - key.at < SURE_S
        answer = await self._ask("cold", connection, "GET", key.author.key)
        if answer.status == 200:
            self._note("cold", 200)
            self._check_packet("cold", key, floor_us, answer.body)
        elif answer.status == 404 and not sure:
            self._note("cold", 404, "evicted, and the nodes that had it have left")
        else:
            self._fail("cold", f"status {answer.status}: {answer.body[:80]!r}")
            await self._detail("cold", key, answer)

    async def _gone(self, connection: Connection) -> None:
        author = gone_author(self.rng.randrange(GONE_KEYS))
        answer = await self._ask("gone", connection, "GET", author.key)
        if answer.status == 200 and verifies(author.public_key, answer.body):
            self._note("gone", 200)
        elif answer.status == 404:
            self._note("gone", 404, "no node has it, and what the cache has is too old")
        else:
            self._fail("gone", f"status {answer.status}: {answer.body[:80]!r}")

    async def _miss(self, connection: Connection) -> None:
        key = Author(self.rng.randbytes(32)).key
        answer = await self._ask("miss", connection, "GET", key)
        self._expect("miss", answer, 404, "nobody ever published it")

    async def _bad(self, connection: Connection) -> None:
        answer = await self._ask("bad", connection, "GET", f"{self.rng.getrandbits(64):x}")
        self._expect("bad", answer, 400, "no key")

    async def _page(self, connection: Connection) -> None:
        path = self.rng.choice(("", "stats", "health"))
        self._expect("page", await self._ask("page", connection, "GET", path), 200)

    async def _options(self, connection: Connection) -> None:
        fields = "Origin: https://soak.example\r\nAccess-Control-Request-Method: PUT\r\n"
        answer = await self._ask(
            "options", connection, "OPTIONS", self.rng.choice(self.hot).author.key, None, fields
        )
        if answer.status not in {200, 204}:
            self._fail("options", f"status {answer.status}")
        self._note("options", answer.status)

    def _expect(self, kind: str, answer: Answer, status: int, reason: str = "") -> None:
        if answer.status == status:
            self._note(kind, status, reason)
        else:
            self._fail(kind, f"status {answer.status}: {answer.body[:80]!r}")

    # ---- PUT ----

    def _new_author(self) -> Author:
        self.authors += 1
        return Author.numbered(self.authors, f"soak {self.seed}")

    async def _publish(self, kind: str, connection: Connection, key: Published) -> bool:
        packet = key.author.packet(f"soak {key.acknowledged_us}", size=self.rng.choice(SIZES))
        key.sending_us = packet.timestamp_us
        answer = await self._ask(kind, connection, "PUT", packet.key, packet.payload)
        if answer.status != 204:
            self._fail(kind, f"status {answer.status}: {answer.body[:80]!r}")
            return False
        self._note(kind, 204)
        key.acknowledged_us, key.at = packet.timestamp_us, time.monotonic()
        return True

    async def _fill_hot(self) -> None:
        connections = [Connection(self.port) for _ in range(8)]
        wanted = deque(self._new_author() for _ in range(max(int(HOT_KEYS * self.rate), 20)))

        async def fill(connection: Connection) -> None:
            while wanted:
                key = Published(wanted.popleft(), 0, 0.0)
                try:
                    with trio.fail_after(ANSWER_S):
                        if await self._publish("again", connection, key):
                            self.hot.append(key)
                except (trio.TooSlowError, BrokenError, OSError) as error:
                    self._fail("again", repr(error))
            await connection.close()

        async with trio.open_nursery() as nursery:
            for connection in connections:
                nursery.start_soon(fill, connection)

    async def _new(self, connection: Connection) -> None:
        key = Published(self._new_author(), 0, 0.0)
        if await self._publish("new", connection, key):
            self.published.append(key)

    async def _again(self, connection: Connection) -> None:
        self.turn += 1
        key = self.hot[self.turn % len(self.hot)]
        if not key.busy:
            key.busy = True
            try:
                await self._publish("again", connection, key)
            finally:
                key.busy = False

    async def _older(self, connection: Connection) -> None:
        key = self.rng.choice(self.hot)
        packet = key.author.packet("older", timestamp_us=key.acknowledged_us - 1_000_000)
        answer = await self._ask("older", connection, "PUT", packet.key, packet.payload)
        self._expect("older", answer, 409, "older than what is there, on purpose")

    # ---- DHT ----

    async def _dht(self, asker: DhtAsker) -> None:
        method = self.rng.choice((b"ping", b"find_node", b"get", b"get", b"get_peers", b"put"))
        for left in reversed(range(DHT_TRIES)):
            with trio.move_on_after(DHT_ANSWER_S):
                trouble = await asker.ask(method, self.rng)
                if trouble:
                    self._fail("dht", f"{method.decode()}: {trouble}")
                self.window.statuses[f"dht {method.decode()}"] += 1
                return
            if left:
                self.window.reasons["dht: no reply, asked again: UDP may lose one"] += 1
        self._fail("dht", f"{method.decode()}: no reply, {DHT_TRIES} times")


class DhtAsker:
    """Another node, as far as the relay can tell: a socket, an id, and tokens it was given."""

    ITEMS: Final = 200
    """Authors whose packets it puts on the relay's own node."""

    def __init__(self, port: int) -> None:
        self._address = "127.0.0.1", port
        self._socket = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._bound = False
        self._id = os.urandom(20)
        self._number = 0

    async def ask(self, method: bytes, rng: random.Random) -> str:
        """Send a query and wait for its reply; returns what was wrong with it."""
        if not self._bound:
            await self._socket.bind(("127.0.0.1", 0))
            self._bound = True
        author = Author.numbered(rng.randrange(self.ITEMS), "soak dht")
        match method:
            case b"ping":
                arguments: dict[bytes, _kernels.Value] = {}
            case b"get_peers":
                arguments = {b"info_hash": rng.randbytes(20)}
            case b"find_node":
                arguments = {b"target": rng.randbytes(20)}
            case _:
                arguments = {b"target": author.target}
        if method != b"put":
            reply = await self._exchange(method, arguments)
            values = reply.get(b"r")
            if not isinstance(values, dict):
                return f"no reply: {reply!r:.120}"
            wanted = {b"find_node": b"nodes", b"get": b"token", b"get_peers": b"token"}.get(method)
            return "" if wanted is None or values.get(wanted) else f"no {wanted!r}"
        values = (await self._exchange(b"get", arguments)).get(b"r")
        token = values.get(b"token") if isinstance(values, dict) else None
        if token is None:
            return "no token"
        packet = author.packet("dht", timestamp_us=now_us())
        reply = await self._exchange(
            b"put",
            {
                b"k": packet.public_key,
                b"seq": packet.timestamp_us,
                b"sig": packet.payload[:64],
                b"token": token,
                b"v": packet.dns,
            },
        )
        return "" if b"r" in reply else f"refused: {reply.get(b'e')!r}"

    async def _exchange(
        self, method: bytes, arguments: dict[bytes, _kernels.Value]
    ) -> dict[bytes, _kernels.Value]:
        self._number += 1
        transaction = self._number.to_bytes(4)
        await self._socket.sendto(
            _kernels.encode(
                {
                    b"a": {b"id": self._id, **arguments},
                    b"q": method,
                    b"ro": 1,
                    b"t": transaction,
                    b"y": b"q",
                }
            ),
            self._address,
        )
        while True:
            reply = _kernels.decode(await self._socket.recv(2048))
            if isinstance(reply, dict) and reply.get(b"t") == transaction:
                return reply


@asynccontextmanager
async def _until_stdin_ends() -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
            nursery.cancel_scope.cancel()

        nursery.start_soon(watch)
        yield


async def run(load: Load) -> None:
    """Load the relay until stdin ends."""
    async with _until_stdin_ends():
        await load.run()


def main(port: str, dht_port: str, seed: str, rate: str, window_s: str, fill_s: str) -> None:
    """Read the arguments and run."""
    load = Load(
        int(port),
        int(dht_port),
        seed=int(seed),
        rate=float(rate),
        window_s=float(window_s),
        fill_s=float(fill_s),
    )
    trio.run(run, load)


if __name__ == "__main__":
    main(*sys.argv[1:])
