"""HTTP/2 clients that flood: sent away in time, in bounded memory, while others are answered."""

from __future__ import annotations

import gc
import weakref
from contextlib import suppress
from unittest.mock import patch

import pytest
import trio
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from hpack import Encoder

from relay.http.http2 import (
    BUFFERED_BYTES_MAX,
    CLOSED_STREAMS_MAX,
    ENCODER_TABLE_BYTES,
    IDLE_FRAMES_MAX,
    IDLE_FRAMES_PER_REQUEST,
    RESETS_MAX,
    STREAMS_MAX,
    BriefConnection,
    Http2,
    PeerSettings,
    SmallEncoder,
)
from tests.integration.http_world import World, author
from tests.integration.test_http_http2 import ENDED_S, PACKET, PATH, Client, connected, quiet

pytestmark = pytest.mark.slow

ALICE = author()
DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS = 1, 1, 4
FLOOD = IDLE_FRAMES_MAX + 10 * IDLE_FRAMES_PER_REQUEST
ASKING = ((":method", "GET"), (":scheme", "http"), (":authority", "a"))
OPEN, OTHER = 1, 3
"""A stream whose body has not ended, and one that nothing is known of."""


def frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0) -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


@pytest.fixture
def world() -> World:
    world = World()
    world.keep(PACKET.payload, ALICE.key)
    return world


async def ended(client: Client) -> ErrorCodes:
    """Read until the server's end; return the reason of its GOAWAY, without which it may not end.

    A reset may follow the GOAWAY where we go on sending, but it discards nothing that has come.
    """
    received = b""
    with trio.fail_after(ENDED_S), suppress(trio.BrokenResourceError):
        while data := await client.stream.receive_some():
            received += data
    reasons = []
    while len(received) >= 9:
        length, kind = int.from_bytes(received[:3]), received[3]
        if kind == GOAWAY:
            reasons.append(ErrorCodes(int.from_bytes(received[13:17])))
        received = received[9 + length :]
    (reason,) = reasons
    return reason


async def flooded(client: Client, frames: bytes) -> ErrorCodes:
    """Send frames, and read meanwhile; return why the server ended."""
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            with suppress(trio.BrokenResourceError):  # ended amid them
                await client.stream.send_all(frames)

        nursery.start_soon(send)
        reason = await ended(client)
        nursery.cancel_scope.cancel()
    return reason


async def open_stream(client: Client) -> None:
    assert client.ask("PUT", PATH, end=False) == OPEN
    await client.flush()


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        (frame(PING, bytes(8)), ErrorCodes.ENHANCE_YOUR_CALM),
        (frame(PING, bytes(8), flags=ACK), ErrorCodes.ENHANCE_YOUR_CALM),
        (frame(SETTINGS), ErrorCodes.ENHANCE_YOUR_CALM),
        (
            frame(SETTINGS, bytes.fromhex("0001 00000000"))  # the table for fields: off and on
            + frame(SETTINGS, bytes.fromhex("0001 ffffffff")),
            ErrorCodes.ENHANCE_YOUR_CALM,
        ),
        (
            frame(SETTINGS, bytes.fromhex("0004 00000000"))  # the windows of all streams
            + frame(SETTINGS, bytes.fromhex("0004 7fffffff")),
            ErrorCodes.ENHANCE_YOUR_CALM,
        ),
        (frame(PRIORITY, bytes(4) + b"\x10", stream=OTHER), ErrorCodes.ENHANCE_YOUR_CALM),
        (frame(WINDOW, (1).to_bytes(4)), ErrorCodes.ENHANCE_YOUR_CALM),
        (frame(WINDOW, (1).to_bytes(4), stream=OPEN), ErrorCodes.ENHANCE_YOUR_CALM),
        (frame(DATA, stream=OPEN), ErrorCodes.ENHANCE_YOUR_CALM),
        (frame(DATA, b"x", stream=OPEN), ErrorCodes.ENHANCE_YOUR_CALM),
        (frame(0xFA, bytes(8)), ErrorCodes.ENHANCE_YOUR_CALM),
        (frame(SETTINGS, bytes.fromhex("ffff 00000001") * 101), ErrorCodes.ENHANCE_YOUR_CALM),
        (frame(WINDOW, bytes(4)), ErrorCodes.PROTOCOL_ERROR),
        (frame(WINDOW, b"\x7f\xff\xff\xff"), ErrorCodes.FLOW_CONTROL_ERROR),
        (frame(PUSH, bytes(8), stream=OPEN), ErrorCodes.PROTOCOL_ERROR),
        (
            frame(HEADERS, b"\x82", stream=OTHER, flags=END_STREAM)
            + frame(CONTINUATION, stream=OTHER) * FLOOD,
            ErrorCodes.PROTOCOL_ERROR,
        ),
        (
            frame(HEADERS, b"\x82", stream=OTHER, flags=END_STREAM)
            + frame(CONTINUATION, bytes(1000), stream=OTHER) * 50,
            ErrorCodes.ENHANCE_YOUR_CALM,
        ),
        (frame(CONTINUATION, stream=OPEN), ErrorCodes.PROTOCOL_ERROR),
    ],
    ids=[
        *("ping", "ping-ack", "settings", "settings-table", "settings-window", "priority"),
        *("window", "window-of-a-stream", "empty-data", "single-bytes", "unknown"),
        "many-settings",
        *("no-increment", "overflow", "push", "continuation", "large-continuation"),
        "naked-continuation",
    ],
)
async def test_a_flood_of_frames_is_ended(world: World, frames: bytes, reason: ErrorCodes) -> None:
    async with world.serving() as port, connected(port) as client:
        await open_stream(client)
        async with trio.open_nursery() as nursery:

            async def ask_beside_it() -> None:
                async with connected(port) as other:
                    assert await other.answer(other.ask("GET", PATH)) == (200, PACKET.payload)

            nursery.start_soon(ask_beside_it)
            whole = frames if len(frames) > FLOOD else frames * FLOOD
            assert await flooded(client, whole) is reason
        async with connected(port) as other:
            assert await other.answer(other.ask("GET", PATH)) == (200, PACKET.payload)


async def test_the_bound_of_idle_frames_is_exact(world: World) -> None:
    """The preface's SETTINGS, and our acknowledgement of the server's, are two of them."""
    async with world.serving() as port, connected(port) as client:
        await client.until(lambda: client.h2.remote_settings.max_concurrent_streams == STREAMS_MAX)
        await client.stream.send_all(frame(PING, bytes(8)) * (IDLE_FRAMES_MAX - 2))
        assert await client.answer(client.ask("GET", PATH)) == (200, PACKET.payload)
        await client.stream.send_all(frame(PING, bytes(8)) * IDLE_FRAMES_PER_REQUEST)
        assert await client.answer(client.ask("GET", PATH)) == (200, PACKET.payload)
        more = frame(PING, bytes(8)) * (IDLE_FRAMES_PER_REQUEST + 1)
        assert await flooded(client, more) is ErrorCodes.ENHANCE_YOUR_CALM


async def test_a_packet_may_come_in_single_bytes(world: World) -> None:
    async with world.serving() as port, connected(port) as client:
        await open_stream(client)
        pieces = [frame(DATA, bytes([octet]), stream=OPEN) for octet in PACKET.payload]
        await client.stream.send_all(b"".join(pieces))
        await client.stream.send_all(frame(DATA, flags=END_STREAM, stream=OPEN))
        await client.until(lambda: OPEN in client.headers)
        assert client.headers[OPEN][":status"] == "204"


async def test_frames_that_go_with_requests_are_welcome(world: World) -> None:
    """A client that asks a thousand times, and pings and opens windows each time."""
    async with world.serving() as port, connected(port) as client:
        for _ in range(10):
            for _ in range(STREAMS_MAX):
                last = client.ask("GET", PATH)
                client.h2.ping(bytes(8))
                for _ in range(5):
                    client.h2.increment_flow_control_window(1)
            assert await client.answer(last) == (200, PACKET.payload)
            await client.until(lambda: len(client.done) % STREAMS_MAX == 0)
        assert client.goaway is None


@pytest.mark.parametrize("fields", [[(":method", "CONNECT"), (":authority", "a:1")]])
async def test_refused_streams_count_as_resets(world: World, fields: list[tuple[str, str]]) -> None:
    async with world.serving() as port, connected(port) as client:
        for asked in range(1, RESETS_MAX + 1):
            client.h2.send_headers(
                client.h2.get_next_available_stream_id(), fields, end_stream=True
            )
            if asked % (STREAMS_MAX // 2) == 0:  # more at once would be too many streams
                await client.flush()
                await client.until(lambda n=asked: len(client.resets) == n)  # type: ignore[misc]
        assert client.goaway is None
        client.h2.send_headers(client.h2.get_next_available_stream_id(), fields, end_stream=True)
        assert await flooded(client, client.h2.data_to_send()) is ErrorCodes.ENHANCE_YOUR_CALM


async def test_resets_that_the_client_provokes_count_as_its_own(world: World) -> None:
    """CVE-2025-8671: our side resets, because a stream's window overflows."""
    world.dht.gate = trio.Event()
    async with world.serving() as port, connected(port) as client:
        pairs = []
        for number in range(RESETS_MAX * 3):
            fields = client.h2.encoder.encode([*ASKING, (":path", f"/{author(2).key}")])
            stream = 1 + 2 * number
            pairs += [
                frame(HEADERS, fields, flags=END_STREAM | END_HEADERS, stream=stream),
                frame(WINDOW, b"\x7f\xff\xff\xff", stream=stream),
            ]
        assert await flooded(client, b"".join(pairs)) is ErrorCodes.ENHANCE_YOUR_CALM
        await quiet(world)


async def test_a_header_bomb_is_found_out(world: World) -> None:
    """One large field in the table, named again and again: 16 MB out of 8 kB."""
    encoder = Encoder()
    large = encoder.encode([*ASKING, (":path", PATH), ("x", "y" * 4000)])
    again = b"\xbe" * 4000  # the newest entry of the table
    async with world.serving() as port, connected(port) as client:
        bomb = frame(HEADERS, large, flags=END_STREAM | END_HEADERS, stream=1) + frame(
            HEADERS, b"\x82\x86\x84" + again, flags=END_STREAM | END_HEADERS, stream=3
        )
        assert await flooded(client, bomb) is ErrorCodes.ENHANCE_YOUR_CALM
        async with connected(port) as other:
            assert await other.answer(other.ask("GET", PATH)) == (200, PACKET.payload)


def test_of_a_clients_settings_only_known_ones_are_kept() -> None:
    settings = PeerSettings(client=True)
    settings.update(dict.fromkeys(range(100, 65536), 1))
    settings.update({SettingCodes.INITIAL_WINDOW_SIZE: 7, SettingCodes.HEADER_TABLE_SIZE: 8})
    settings.acknowledge()
    assert len(settings) <= len(SettingCodes)
    assert (settings.initial_window_size, settings.header_table_size) == (7, 8)


async def test_all_settings_that_there_can_be(world: World) -> None:
    """The connection goes on as if they had not been sent."""
    known = max(SettingCodes)
    settings = [code.to_bytes(2) + (1).to_bytes(4) for code in range(known + 1, 65536)]
    async with world.serving() as port, connected(port) as client:
        for begin in range(0, len(settings), 100):
            payload = b"".join(settings[begin : begin + 100])
            await client.stream.send_all(frame(SETTINGS, payload))
        assert await client.answer(client.ask("GET", PATH)) == (200, PACKET.payload)


def test_the_encoders_table_is_small() -> None:
    encoder = SmallEncoder()
    for wanted, size in ((2**31, 4096), (0, 0), (2**31, 4096), (1000, 1000)):
        encoder.header_table_size = wanted
        assert encoder.header_table_size == size
        for number in range(1000):
            encoder.encode([("name", f"value {number}")])
        assert encoder.header_table._current_size <= size


async def test_a_client_that_wants_a_large_table_gets_the_usual_one(world: World) -> None:
    async with world.serving() as port, connected(port) as client:
        client.h2.update_settings({SettingCodes.HEADER_TABLE_SIZE: 2**31 - 1})
        for number in range(3 * STREAMS_MAX):
            stream = client.ask("GET", PATH, ("origin", f"https://{number}.test"))
            assert await client.answer(stream) == (200, PACKET.payload)
            assert client.headers[stream]["access-control-allow-origin"] == f"https://{number}.test"
        assert client.h2.decoder.header_table.maxsize == ENCODER_TABLE_BYTES


async def test_streams_that_have_ended_are_forgotten_and_what_comes_late_for_them_is_let_be(
    world: World,
) -> None:
    remembered = 0
    send_data = Http2._send_data

    async def watching(engine: Http2, stream_id: int) -> None:
        nonlocal remembered
        remembered = len(engine.connection._closed_streams)
        await send_data(engine, stream_id)

    assert BriefConnection.MAX_CLOSED_STREAMS == CLOSED_STREAMS_MAX == 1024
    few = patch.object(BriefConnection, "MAX_CLOSED_STREAMS", 64)
    with few, patch.object(Http2, "_send_data", watching):
        async with world.serving() as port, connected(port) as client:
            for _ in range(4):
                streams = [client.ask("GET", PATH) for _ in range(50)]
                for stream in streams:
                    assert await client.answer(stream) == (200, PACKET.payload)
            assert remembered == 64
            late = frame(WINDOW, (1).to_bytes(4), stream=1) + frame(RST, bytes(4), stream=3)
            await client.stream.send_all(late)
            assert await client.answer(client.ask("GET", PATH)) == (200, PACKET.payload)


async def test_a_connection_that_has_ended_does_not_wait_for_the_collector(world: World) -> None:
    seen: list[weakref.ref[object]] = []
    send_data = Http2._send_data

    async def watching(engine: Http2, stream_id: int) -> None:
        seen.append(weakref.ref(engine.connection._closed_streams))
        await send_data(engine, stream_id)

    gc.disable()
    try:
        with patch.object(Http2, "_send_data", watching):
            async with world.serving() as port:
                async with connected(port) as client:
                    assert await client.answer(client.ask("GET", PATH)) == (200, PACKET.payload)
                assert seen
                with trio.fail_after(ENDED_S):
                    while seen[0]() is not None:  # noqa: ASYNC110  # no event tells
                        await trio.sleep(0.01)
    finally:
        gc.enable()


async def test_answers_that_nobody_takes_are_kept_in_bounds(world: World) -> None:
    """With windows of 0: a hundred large answers; later they all arrive."""
    most = 0
    target = "/openapi.json"
    whole = (await world.request("GET", target)).body
    send_data = Http2._send_data

    async def watching(engine: Http2, stream_id: int) -> None:
        nonlocal most
        most = max(most, engine._buffered_bytes)
        await send_data(engine, stream_id)

    with patch.object(Http2, "_send_data", watching):
        async with world.serving() as port, connected(port) as client:
            client.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 0})
            await client.flush()
            asked = [client.ask("GET", target) for _ in range(STREAMS_MAX)]
            await client.flush()
            await client.until(lambda: len(client.headers) == STREAMS_MAX)
            client.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 2**20})
            client.h2.increment_flow_control_window(2**24)
            await client.flush()
            await client.until(lambda: client.done == set(asked))
            assert {client.bodies[stream] for stream in asked} == {whole}
    assert BUFFERED_BYTES_MAX <= most < BUFFERED_BYTES_MAX + len(whole)
