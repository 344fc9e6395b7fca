"""What is read of a client's connection at a time, and in all."""

from __future__ import annotations

import socket

import trio

from relay.http.stream import LINGER_BYTES_MAX, RECEIVE_BYTES_MAX, ClientStream


def connected(*, received: bytes = b"") -> tuple[ClientStream, trio.SocketStream]:
    """Return the relay's side and the client's side of one connection."""
    ours, theirs = socket.socketpair()
    stream = ClientStream(
        trio.socket.from_stdlib_socket(ours), write_timeout_s=5.0, received=received
    )
    return stream, trio.SocketStream(trio.socket.from_stdlib_socket(theirs))


async def test_small_pieces_are_worked_on_so_that_others_have_a_turn(nursery):
    """Of what somebody else has read, too."""
    before, after = bytes(range(256)) * 40, b"x" * 100_000
    stream, client = connected(received=before)

    async def send() -> None:
        await client.send_all(after)
        await client.send_eof()

    nursery.start_soon(send)
    pieces = []
    with trio.fail_after(10):
        while piece := await stream.receive_some():
            pieces.append(piece)
    assert b"".join(pieces) == before + after
    assert max(map(len, pieces)) == RECEIVE_BYTES_MAX
    stream.close()
    await client.aclose()


async def test_who_never_stops_sending_is_not_read_without_end(nursery):
    stream, client = connected()
    sent = 0

    async def send() -> None:
        nonlocal sent
        while True:
            try:
                await client.send_all(bytes(RECEIVE_BYTES_MAX))
            except trio.BrokenResourceError:
                return
            sent += RECEIVE_BYTES_MAX

    with trio.fail_after(10):
        async with trio.open_nursery() as sending:
            sending.start_soon(send)
            await stream.linger()
            left = sent
            stream.close()
    await client.aclose()
    # One piece may be on its way; beyond that is what the kernel keeps, nothing of ours.
    assert LINGER_BYTES_MAX - RECEIVE_BYTES_MAX <= left < 4 * LINGER_BYTES_MAX
