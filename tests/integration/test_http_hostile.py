"""Hostile clients of both versions at once: no error of ours, nothing left behind.

Valid conversations are cut, glued together and spoilt in places, sent in pieces of any size
to a server whose deadlines are so short that they strike in the middle of everything.
"""

from __future__ import annotations

import random
from contextlib import suppress

import pytest
import trio
from h2.connection import H2Connection
from h2.errors import ErrorCodes

from relay.http.deadlines import Deadlines
from tests.integration.http_world import World, author

ALICE = author()
PACKET = ALICE.packet(timestamp_us=1_755_302_400_000_000)
PATH = f"/{ALICE.key}"
CONVERSATIONS = 250
AT_ONCE = 40
IMPATIENT = Deadlines(head_s=0.1, idle_s=0.1, write_s=0.3, age_s=0.5, drain_s=0.1, linger_s=0.1)

HTTP1 = [
    f"GET {PATH} HTTP/1.1\r\nHost: a\r\n\r\n".encode(),
    f"GET {PATH}?policy=NetworkOnly HTTP/1.1\r\n\r\n".encode(),
    f"PUT {PATH} HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\n".encode() + bytes(20),
    f"PUT {PATH} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".encode(),
    f"PUT {PATH} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n".encode(),
    f"GET {PATH} HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n".encode(),
    b"GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"HEAD /stats HTTP/1.0\r\n\r\n",
    b"CONNECT a:1 HTTP/1.1\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nOrigin: a\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\r\n\r\n",
]


def http1(chance: random.Random) -> bytes:
    return b"".join(chance.choices(HTTP1, k=3))


def http2(chance: random.Random) -> bytes:
    client = H2Connection()
    client.initiate_connection()
    for _ in range(chance.randrange(1, 5)):
        stream_id = client.get_next_available_stream_id()
        start = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", PATH)]
        match chance.randrange(5):
            case 0:
                client.send_headers(stream_id, start, end_stream=True)
            case 1:
                client.send_headers(stream_id, [(":method", "PUT"), *start[1:]])
                part = PACKET.payload[: chance.randrange(len(PACKET.payload))]
                client.send_data(stream_id, part, end_stream=chance.random() < 0.5)
            case 2:
                client.send_headers(stream_id, start, end_stream=True)
                client.reset_stream(stream_id, ErrorCodes.CANCEL)
            case 3:
                client.ping(b"12345678")
            case _:
                client.prioritize(stream_id, weight=7)
    return client.data_to_send()


def spoilt(chance: random.Random) -> bytes:
    data = bytearray((http2 if chance.random() < 0.6 else http1)(chance))
    for _ in range(chance.randrange(4)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(data)


async def converse(port: int, pieces: list[bytes]) -> None:
    with suppress(trio.BrokenResourceError):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            for piece in pieces:
                await stream.send_all(piece)
            while await stream.receive_some():
                pass


def cut(data: bytes, chance: random.Random) -> list[bytes]:
    pieces = []
    while data:
        size = chance.randrange(1, len(data) + 1)
        pieces.append(data[:size])
        data = data[size:]
    return pieces


@pytest.mark.parametrize("seed", range(3))
async def test_nothing_a_client_sends_is_an_error_of_ours(
    seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    chance = random.Random(seed)  # noqa: S311  # the same bytes for the same seed
    world = World()
    world.keep(PACKET.payload, ALICE.key)
    at_once = trio.CapacityLimiter(AT_ONCE)

    async def one(port: int) -> None:
        async with at_once:
            await converse(port, cut(spoilt(chance), chance))

    async with world.serving(deadlines=IMPATIENT) as port:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for _ in range(CONVERSATIONS):
                    nursery.start_soon(one, port)
        assert world.counters.connections["accepted"] == CONVERSATIONS
        assert (await world.request("GET", PATH)).status == 200
    assert [record.getMessage() for record in caplog.records] == []
    assert world.dht.waiting == 0
    assert world.counters.connections_open == 0
