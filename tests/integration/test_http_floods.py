"""Clients that hold connections, read nothing, or pile up what they want: others are answered.

A relay of its own, and its memory as the system sees it. Larger ones: `nox -s floods`.
"""

from __future__ import annotations

import json
import selectors
import socket
import statistics
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any, Final, cast

import pytest
from h2.settings import SettingCodes
from hpack import Encoder

from relay.http.listener import BUFFER_BYTES
from tests.support.http_floods import (
    ANSWERED_S,
    ENDS,
    HEADERS,
    PING,
    RST,
    SETTINGS,
    Hot,
    Target,
    attacked,
    connect,
    frame,
    http2,
    queued_bytes,
)
from tests.support.idle_connections import HANDED_ON, LANE, measure
from tests.support.relay import wait_until

pytestmark = pytest.mark.slow

COUNT: Final = 800
CAP: Final = 256
"""Of connections from one address, by default."""
PIPELINED: Final = 2000
MEGA: Final = 1_000_000
ELSEWHERE: Final = "127.0.0.2"


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with attacked(tmp_path_factory.mktemp("flooded")) as target:
        yield target


@pytest.fixture(scope="module")
def open_to_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    caps = "max_connections = 20_000\nmax_connections_per_address = 0"
    with attacked(tmp_path_factory.mktemp("open"), caps) as target:
        yield target


EACH_MAX: Final = 4_000
"""Bytes of resident memory for a connection on the lane: some 330, with half a body 820, and what
the allocator takes at a time."""
HANDED_ON_EACH_MAX: Final = 60_000
"""One of HTTP/2 takes some 23 kB."""


@pytest.mark.parametrize("kind", [*LANE, *HANDED_ON])
def test_idle_connections(open_to_all: Target, kind: str) -> None:
    """What the second half of them costs beyond the first."""
    half = COUNT // 2 if kind in LANE else COUNT // 16
    each = measure(open_to_all, kind, half, beyond=half)
    assert each < (EACH_MAX if kind in LANE else HANDED_ON_EACH_MAX)


def refused(target: Target) -> int:
    connections = target.relay.stats()["http"]["connections"]  # type: ignore[index]
    return int(connections.get("refused_address", 0))


def test_one_address_cannot_have_all_connections(target: Target) -> None:
    """It is closed at its cap, and nobody else notices."""
    before = refused(target)
    with ExitStack() as stack:
        socks = [stack.enter_context(connect(target, b"", ELSEWHERE)) for _ in range(CAP + 60)]
        wait_until(lambda: refused(target) - before >= 60, "refusals", 60.0)
        with Hot(target) as hot:
            for _ in range(20):
                target.assert_unharmed()
        print(hot.told())
        over = 0
        for sock in socks:
            sock.setblocking(False)
            with suppress(BlockingIOError, ConnectionResetError):
                over += sock.recv(1) == b""
        assert over == 60
    wait_until(lambda: target.open_connections() < 10, "the end of connections", 60.0)


UNREAD_CLIENTS: Final = 60
KEPT_MAX: Final = 32 * 1024
"""Of answers, for a connection on the lane; then one more is added."""
AHEAD_MAX: Final = 16 * 1024
"""Of requests, read ahead."""
KERNEL_MAX: Final = 2 * BUFFER_BYTES + 16 * 1024
"""In the relay's buffer, which Linux makes twice as large, and in the client's small one."""
QUIET_S: Final = 0.5
ROUNDS_MAX: Final = 4
"""How often another client has its turn while one waits, mostly; a turn is what is read ahead."""


def ask_without_reading(socks: list[socket.socket], wanted: bytes) -> int:
    """Ask on all connections until none takes anything for a while; the bytes that were taken."""
    taken = 0
    offered = dict.fromkeys(socks, b"")
    selector = selectors.DefaultSelector()
    with selector:
        for sock in socks:
            selector.register(sock, selectors.EVENT_WRITE)
        while ready := selector.select(QUIET_S):
            for key, _ in ready:
                sock = cast("socket.socket", key.fileobj)
                rest = offered[sock] or wanted
                sent = sock.send(rest)
                offered[sock] = rest[sent:]
                taken += sent
    return taken


def answered(target: Target) -> int:
    """How many GETs the relay has answered with a packet."""
    requests: Any = target.relay.stats()["http"]["requests"]  # type: ignore[index]
    return int(requests.get("get", {}).get("200", 0))


def test_clients_that_ask_and_do_not_read(target: Target) -> None:
    """Each asks until nothing more is taken; what it is owed is not made before it reads."""
    before, answered_before = target.relay.rss_bytes(), answered(target)
    with ExitStack() as stack:
        socks = []
        for _ in range(UNREAD_CLIENTS):
            sock = stack.enter_context(socket.socket())
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):  # before a window is announced
                sock.setsockopt(socket.SOL_SOCKET, option, 4096)
            sock.bind((ELSEWHERE, 0))
            sock.connect(("127.0.0.1", target.relay.port))
            sock.setblocking(False)
            socks.append(sock)
        with Hot(target) as hot:
            taken = ask_without_reading(socks, target.get * 200)
            target.assert_unharmed()
        made = answered(target) - answered_before - len(hot.spans_s) - 1
        to_relay, to_clients = queued_bytes(target.relay.port)
        grown = target.relay.rss_bytes() - before
    with connect(target, target.get) as sock:
        size = len(sock.recv(4096))  # no answer before was larger: its age has no fewer digits now
    kept, ahead = made * size - to_clients, taken - to_relay - made * len(target.get)
    print(
        f"{taken / UNREAD_CLIENTS:.0f} bytes of requests taken from each, {made} answers made; of "
        f"each {kept / UNREAD_CLIENTS:.0f} bytes kept, {ahead / UNREAD_CLIENTS:.0f} read ahead, "
        f"{to_relay / UNREAD_CLIENTS:.0f} and {to_clients / UNREAD_CLIENTS:.0f} in the kernel; "
        f"{grown / MEGA:.1f} MB grown; {hot.told()}"
    )
    assert taken > UNREAD_CLIENTS * BUFFER_BYTES  # until everything was full
    assert 0 <= kept <= UNREAD_CLIENTS * (KEPT_MAX + size)
    assert 0 <= ahead <= UNREAD_CLIENTS * AHEAD_MAX
    assert to_relay <= UNREAD_CLIENTS * KERNEL_MAX
    assert to_clients <= UNREAD_CLIENTS * KERNEL_MAX
    assert grown < UNREAD_CLIENTS * (KEPT_MAX + AHEAD_MAX + size) + MEGA


def answered_between(target: Target) -> int:
    """How many GETs are answered between two requests that the relay was sent at once.

    It is the relay that counts: how soon this process gets its turn does not matter.
    """
    request = b"GET /stats HTTP/1.1\r\nHost: a\r\n"
    with connect(target, request + b"\r\n" + request + b"Connection: close\r\n\r\n") as sock:
        received = b""
        while data := sock.recv(65536):
            received += data
    first, second = (
        json.loads(piece.partition(b"\r\n\r\n")[2])["http"]["requests"]["get"]["200"]
        for piece in received.split(b"HTTP/1.1 200 ")[1:]
    )
    return int(second - first)


def test_pipelined_requests_do_not_hold_up_others(target: Target) -> None:
    """Eight clients with thousands of requests under way each, which they read as they come."""
    wanted = target.get * PIPELINED
    enough = threading.Event()

    def ask(sock: socket.socket) -> None:
        while not enough.is_set():
            writer = threading.Thread(target=sock.sendall, args=(wanted,))
            writer.start()
            found, rest = 0, b""
            while found < PIPELINED:
                data = rest + sock.recv(65536)
                found += data.count(b"HTTP/1.1 200 ")
                rest = data[-12:] if not data.endswith(b"HTTP/1.1 200 ") else b""
            writer.join()

    with ExitStack() as stack, Hot(target) as hot:
        socks = [stack.enter_context(connect(target)) for _ in range(8)]
        threads = [threading.Thread(target=ask, args=(sock,)) for sock in socks]
        for thread in threads:
            thread.start()
        try:
            between = [answered_between(target) for _ in range(40)]
            target.assert_unharmed()
        finally:
            enough.set()
            for thread in threads:
                thread.join()
    print(f"answered between two requests: {between}; {hot.told()}")
    usual = statistics.median(between)
    turns = len(socks) * (AHEAD_MAX // len(target.get) + 1)
    assert usual > len(socks)  # there was something to hold them up
    # Were each client served until it has nothing more to ask, it would be 16,000 and more.
    assert usual <= ROUNDS_MAX * turns


ENCODER: Final = Encoder()


def request(path: str) -> bytes:
    fields = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", path)]
    return ENCODER.encode(fields)


def unknown_settings() -> bytes:
    every = [code.to_bytes(2) + (1).to_bytes(4) for code in range(max(SettingCodes) + 1, 65536)]
    payloads = [b"".join(every[begin : begin + 100]) for begin in range(0, len(every), 100)]
    return b"".join(frame(SETTINGS, payload) for payload in payloads)


def unread_answers(path: str) -> bytes:
    """A hundred of them, with windows of 0."""
    headers = [
        frame(HEADERS, fields, flags=ENDS, stream=1 + 2 * number)
        for number, fields in enumerate([request(path)] * 100)
    ]
    return frame(SETTINGS, bytes.fromhex("0004 00000000")) + b"".join(headers)


def rapid_resets() -> bytes:
    pairs = [
        frame(HEADERS, request("/openapi.json"), flags=ENDS, stream=1 + 2 * number)
        + frame(RST, (8).to_bytes(4), stream=1 + 2 * number)
        for number in range(1000)
    ]
    return b"".join(pairs)


@pytest.mark.parametrize(
    ("flood", "growth_max"),
    [
        (unknown_settings(), 15 * MEGA),
        (unread_answers("/openapi.json"), 30 * MEGA),
        (rapid_resets(), 15 * MEGA),
        (frame(PING, bytes(8)) * 5000, 15 * MEGA),
    ],
    ids=["settings", "window", "resets", "pings"],
)
def test_floods_of_http2(target: Target, flood: bytes, growth_max: int) -> None:
    """Twenty connections, each of which could once take more than all may take now."""
    before = target.relay.rss_bytes()
    with ExitStack() as stack, Hot(target) as hot:
        socks = [stack.enter_context(http2(target, [])) for _ in range(20)]
        for sock in socks:
            sock.settimeout(ANSWERED_S)
            with suppress(BrokenPipeError, ConnectionResetError):
                sock.sendall(flood)
        last = stack.enter_context(http2(target, []))  # after what came before, or amid it
        for _ in range(10):
            target.assert_unharmed()
        last.close()
        grown = target.relay.rss_bytes() - before
    print(f"{20 * len(flood) / MEGA:.2f} MB sent, {grown / MEGA:.1f} MB grown; {hot.told()}")
    assert grown < growth_max
    target.assert_unharmed()
