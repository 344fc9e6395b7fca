"""HTTP/2 with prior knowledge, on a real socket, with a client that may misbehave."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
import trio
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from relay.http.deadlines import Deadlines
from relay.http.http2 import HEADER_LIST_BYTES_MAX, RESETS_MAX, STREAMS_MAX
from tests.integration.http_world import World, author

ALICE = author()
PACKET = ALICE.packet(timestamp_us=1_755_302_400_000_000)
PATH = f"/{ALICE.key}"
ENDED_S = 30.0
Fields = list[tuple[str, str]]


class Client:
    """An h2 connection whose events are kept by stream."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        # Without outbound checks: some tests send what no client should.
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(
                header_encoding="utf-8",
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self.headers: dict[int, dict[str, str]] = {}
        self.bodies: defaultdict[int, bytes] = defaultdict(bytes)
        self.done: set[int] = set()
        self.resets: dict[int, int] = {}
        self.goaway: int | None = None
        self.closed = False

    async def flush(self) -> None:
        await self.stream.send_all(self.h2.data_to_send())

    def ask(self, method: str, path: str, *more: tuple[str, str], end: bool = True) -> int:
        stream_id = self.h2.get_next_available_stream_id()
        fields = [(":method", method), (":scheme", "http"), (":authority", "a"), (":path", path)]
        self.h2.send_headers(stream_id, [*fields, *more], end_stream=end)
        return stream_id

    async def until(self, condition: Callable[[], bool]) -> None:
        with trio.fail_after(ENDED_S):
            while not condition():
                try:
                    data = await self.stream.receive_some()
                except trio.BrokenResourceError:
                    data = b""
                if not data:
                    self.closed = True
                    assert condition(), "closed too early"
                    return
                for event in self.h2.receive_data(data):
                    self.take(event)
                await self.flush()

    def take(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.ResponseReceived():
                self.headers[event.stream_id] = dict(event.headers)
            case h2.events.DataReceived():
                self.bodies[event.stream_id] += event.data
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.StreamEnded():
                self.done.add(event.stream_id)
            case h2.events.StreamReset():
                self.resets[event.stream_id] = event.error_code
            case h2.events.ConnectionTerminated():
                self.goaway = event.error_code
            case _:
                pass

    async def answer(self, stream_id: int) -> tuple[int, bytes]:
        await self.flush()
        await self.until(lambda: stream_id in self.done or stream_id in self.resets)
        assert stream_id not in self.resets
        return int(self.headers[stream_id][":status"]), self.bodies[stream_id]


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Client]:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        client = Client(stream)
        client.h2.initiate_connection()
        await client.flush()
        yield client


@pytest.fixture
def world() -> World:
    world = World()
    world.keep(PACKET.payload, ALICE.key)
    return world


async def quiet(world: World) -> None:
    """Wait until no request waits for the DHT any more; the connections are still open."""
    with trio.fail_after(ENDED_S):
        while world.dht.waiting:  # noqa: ASYNC110  # the other side of a socket has no event
            await trio.sleep(0.005)


async def test_requests_side_by_side(world: World) -> None:
    async with world.serving() as port, connected(port) as client:
        get = client.ask("GET", PATH + "?policy=CacheOnly")
        head = client.ask("HEAD", PATH)
        missing = client.ask("GET", "/a/b")
        put = client.ask("PUT", PATH, end=False)
        client.h2.send_data(put, PACKET.payload, end_stream=True)
        assert await client.answer(get) == (200, PACKET.payload)
        assert await client.answer(head) == (200, b"")
        assert await client.answer(missing) == (404, b"")
        assert await client.answer(put) == (204, b"")
        assert client.headers[get]["content-length"] == str(len(PACKET.payload))
        assert not {"server", "connection"} & client.headers[get].keys()
        assert client.headers[put]["pkarr-dht-stored-nodes"] == "11"


async def test_settings_say_what_is_allowed(world: World) -> None:
    async with world.serving() as port, connected(port) as client:
        assert await client.answer(client.ask("GET", PATH)) == (200, PACKET.payload)
        settings = client.h2.remote_settings
        assert settings[SettingCodes.MAX_CONCURRENT_STREAMS] == STREAMS_MAX
        assert settings[SettingCodes.MAX_HEADER_LIST_SIZE] == HEADER_LIST_BYTES_MAX
        assert settings.enable_connect_protocol == 0


async def test_one_slow_request_holds_up_no_other(world: World) -> None:
    world.dht.gate = trio.Event()
    async with world.serving() as port, connected(port) as client:
        slow = client.ask("GET", f"/{author(2).key}")
        assert await client.answer(client.ask("GET", PATH)) == (200, PACKET.payload)
        world.dht.gate.set()
        assert await client.answer(slow) == (404, b"")


async def test_bodies_after_the_answer_are_ignored(world: World) -> None:
    async with world.serving() as port, connected(port) as client:
        put = client.ask("PUT", PATH, end=False)
        client.h2.send_data(put, bytes(2000))
        status, _ = await client.answer(put)
        assert status == 413
        for _ in range(20):
            client.h2.send_data(put, bytes(1000))
        await client.flush()
        client.h2.send_data(put, b"", end_stream=True)
        assert await client.answer(client.ask("GET", PATH)) == (200, PACKET.payload)


async def test_a_reset_cancels_the_request(world: World) -> None:
    world.dht.gate = trio.Event()
    async with world.serving() as port, connected(port) as client:
        slow = client.ask("GET", f"/{author(2).key}")
        assert await client.answer(client.ask("GET", PATH)) == (200, PACKET.payload)
        client.h2.reset_stream(slow, ErrorCodes.CANCEL)
        assert await client.answer(client.ask("GET", PATH)) == (200, PACKET.payload)
        assert (world.dht.cancelled, world.dht.waiting) == (1, 0)


async def test_rapid_resets_end_the_connection(world: World) -> None:
    world.dht.gate = trio.Event()
    async with world.serving() as port, connected(port) as client:
        for _ in range(RESETS_MAX * 3):
            stream_id = client.ask("GET", f"/{author(2).key}")
            client.h2.reset_stream(stream_id, ErrorCodes.CANCEL)
        await client.flush()
        await client.until(lambda: client.goaway is not None)
        assert client.goaway == ErrorCodes.ENHANCE_YOUR_CALM
        await quiet(world)
        async with connected(port) as other:
            assert await other.answer(other.ask("GET", PATH)) == (200, PACKET.payload)


async def test_too_many_streams(world: World) -> None:
    world.dht.gate = trio.Event()
    async with world.serving() as port, connected(port) as client:
        for _ in range(STREAMS_MAX + 1):  # before the server's settings were read
            client.ask("GET", f"/{author(2).key}")
        await client.flush()
        await client.until(lambda: client.goaway is not None)
        assert client.goaway == ErrorCodes.PROTOCOL_ERROR
        await quiet(world)


async def test_a_large_header_list_is_refused(world: World) -> None:
    async with world.serving() as port, connected(port) as client:
        client.ask("GET", PATH, ("x-filler", "x" * HEADER_LIST_BYTES_MAX))
        await client.flush()
        await client.until(lambda: client.goaway is not None)
        assert client.goaway == ErrorCodes.ENHANCE_YOUR_CALM


@pytest.mark.parametrize(
    "fields",
    [
        [(":method", "CONNECT"), (":authority", "a:1")],
        [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/\xff")],
        [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/a b")],
        [(":method", "G T"), (":scheme", "http"), (":authority", "a"), (":path", "/")],
    ],
)
async def test_what_hypercorn_would_stumble_over_is_reset(world: World, fields: Fields) -> None:
    async with world.serving() as port, connected(port) as client:
        bad = client.h2.get_next_available_stream_id()
        client.h2.send_headers(bad, fields, end_stream=True)
        good = client.ask("GET", PATH)
        await client.flush()
        await client.until(lambda: good in client.done or client.goaway is not None)
        if client.goaway is None:
            assert client.resets == {bad: ErrorCodes.PROTOCOL_ERROR}


async def test_methods_are_case_sensitive(world: World) -> None:
    async with world.serving() as port, connected(port) as client:
        for method in ("get", "HEaD", "options"):
            assert await client.answer(client.ask(method, PATH)) == (405, b"")


async def test_priorities_are_ignored(world: World) -> None:
    async with world.serving() as port, connected(port) as client:
        for stream_id in range(1001, 4001, 2):
            client.h2.prioritize(stream_id, depends_on=stream_id + 2, exclusive=True)
        assert await client.answer(client.ask("GET", PATH)) == (200, PACKET.payload)


async def test_a_client_with_a_closed_window_is_cut_off(world: World) -> None:
    quick = Deadlines(write_s=0.3)
    async with world.serving(deadlines=quick) as port, connected(port) as client:
        client.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 0})
        asked = client.ask("GET", PATH)
        await client.flush()
        with pytest.raises(AssertionError, match="closed too early"):
            await client.until(lambda: False)
        assert client.headers[asked][":status"] == "200"


async def test_an_idle_connection_ends_with_a_goaway(world: World) -> None:
    quick = Deadlines(head_s=0.2, idle_s=0.3)
    async with world.serving(deadlines=quick) as port, connected(port) as client:
        assert await client.answer(client.ask("GET", PATH)) == (200, PACKET.payload)
        await client.until(lambda: client.goaway is not None)
        assert client.goaway == ErrorCodes.NO_ERROR


async def test_an_old_connection_finishes_its_streams_and_takes_no_more(world: World) -> None:
    aged = Deadlines(age_s=0.3, drain_s=5.0)
    world.dht.gate = trio.Event()
    async with world.serving(deadlines=aged) as port, connected(port) as client:
        slow = client.ask("GET", f"/{author(2).key}")
        await client.flush()
        frames = b""
        with trio.fail_after(ENDED_S):
            while (7, 0) not in frame_kinds(frames):  # read raw: h2's client refuses to go on
                frames += await client.stream.receive_some()
        late = client.ask("GET", PATH)
        await client.flush()
        world.dht.gate.set()
        with trio.fail_after(ENDED_S):
            while data := await client.stream.receive_some():
                frames += data
        kinds = frame_kinds(frames)
        assert (7, 0) in kinds  # GOAWAY
        assert (1, slow) in kinds  # the answer to the open stream
        assert (3, late) in kinds  # RST_STREAM for the late one
        assert (1, late) not in kinds


def frame_kinds(data: bytes) -> set[tuple[int, int]]:
    """Return (type, stream id) of each frame."""
    kinds = set()
    while len(data) >= 9:
        kinds.add((data[3], int.from_bytes(data[5:9]) & 0x7FFFFFFF))
        data = data[9 + int.from_bytes(data[:3]) :]
    return kinds


async def test_shutdown_sends_a_goaway(world: World) -> None:
    shutdown = trio.Event()
    async with world.serving(shutdown=shutdown) as port, connected(port) as client:
        assert await client.answer(client.ask("GET", PATH)) == (200, PACKET.payload)
        shutdown.set()
        await client.until(lambda: client.goaway is not None)
        assert client.goaway == ErrorCodes.NO_ERROR


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        (bytes.fromhex("000000" + "00" + "00" + "00000001"), ErrorCodes.PROTOCOL_ERROR),
        (bytes.fromhex("000001" + "06" + "00" + "00000000" + "00"), ErrorCodes.FRAME_SIZE_ERROR),
        (bytes.fromhex("004001" + "00" + "04" + "00000001"), ErrorCodes.FRAME_SIZE_ERROR),
        (
            bytes.fromhex("004000" + "01" + "00" + "00000001")
            + bytes(0x4000)
            + (bytes.fromhex("004000" + "09" + "00" + "00000001") + bytes(0x4000)) * 2,
            ErrorCodes.ENHANCE_YOUR_CALM,
        ),
        (
            bytes.fromhex("000004" + "01" + "05" + "00000001") + b"\xff\xff\xff\xff",
            ErrorCodes.PROTOCOL_ERROR,
        ),
        (b"\0" * 200, ErrorCodes.PROTOCOL_ERROR),
    ],
    ids=[
        *("data-on-an-idle-stream", "ping-of-a-byte", "a-frame-too-large-not-yet-here"),
        *("an-endless-block", "bad-hpack", "zeros"),
    ],
)
async def test_broken_frames_are_survived(world: World, frames: bytes, reason: ErrorCodes) -> None:
    async with world.serving() as port:
        async with connected(port) as client:
            await client.stream.send_all(frames)
            await client.until(lambda: client.goaway is not None)
            assert client.goaway == reason
            with pytest.raises(AssertionError, match="closed too early"):
                await client.until(lambda: False)
        async with connected(port) as client:
            assert await client.answer(client.ask("GET", PATH)) == (200, PACKET.payload)
