"""Clients that hold connections, read nothing, or pile up what they want: others are answered.

A relay of its own, and its memory as the system sees it. Larger ones: `nox -s floods`.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Final

import pytest
from h2.settings import SettingCodes
from hpack import Encoder

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
)
from tests.support.idle_connections import GROWTH_MAX, HANDED_ON, LANE, measure
from tests.support.relay import wait_until

pytestmark = pytest.mark.slow

COUNT: Final = 800
CAP: Final = 256
"""Of connections from one address, by default."""
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


@pytest.mark.parametrize("kind", [*LANE, *HANDED_ON])
def test_idle_connections(open_to_all: Target, kind: str) -> None:
    count = COUNT if kind in LANE else COUNT // 8
    grown = measure(open_to_all, kind, count) * count
    assert grown < GROWTH_MAX * COUNT / 10_000 + 10 * MEGA  # what the allocator takes at a time


def refused(target: Target) -> int:
    connections = target.relay.stats()["http"]["connections"]  # type: ignore[index, call-overload]
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


def test_clients_that_ask_and_do_not_read(target: Target) -> None:
    """Each asks until nothing more is taken; what it is owed is not made before it reads."""
    before = target.relay.rss_bytes()
    wanted = target.get * 200
    with ExitStack() as stack, Hot(target) as hot:
        taken = 0
        for _ in range(60):
            sock = stack.enter_context(connect(target, source=ELSEWHERE))
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                sock.setsockopt(socket.SOL_SOCKET, option, 4096)
            sock.setblocking(False)
            with suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
                while True:
                    taken += sock.send(wanted)
        target.assert_unharmed()
        grown = target.relay.rss_bytes() - before
    print(f"{taken / MEGA:.1f} MB of requests taken, {grown / MEGA:.1f} MB grown; {hot.told()}")
    assert grown < 20 * MEGA


def test_pipelined_requests_do_not_hold_up_others(target: Target) -> None:
    """Eight clients with thousands of requests under way each, which they read as they come."""
    wanted = target.get * 2000

    def ask(sock: socket.socket) -> None:
        writer = threading.Thread(target=sock.sendall, args=(wanted,))
        writer.start()
        found, rest = 0, b""
        while found < 2000:
            data = rest + sock.recv(65536)
            found += data.count(b"HTTP/1.1 200 ")
            rest = data[-12:] if not data.endswith(b"HTTP/1.1 200 ") else b""
        writer.join()

    with ExitStack() as stack, Hot(target) as hot:
        socks = [stack.enter_context(connect(target)) for _ in range(8)]
        threads = [threading.Thread(target=ask, args=(sock,)) for sock in socks]
        for thread in threads:
            thread.start()
        target.assert_unharmed()
        for thread in threads:
            thread.join()
    print(hot.told())


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
