"""Handing a request's body over never waits and never grows."""

import trio
import trio.testing

from relay.http.exchange import UNREAD_BYTES_MAX, Exchange


async def nowhere(message: object) -> None:
    """A client that takes everything."""


def body(data: bytes, *, more: bool = True) -> dict[str, object]:
    return {"type": "http.request", "body": data, "more_body": more}


async def test_body_and_end_are_delivered_once() -> None:
    exchange = Exchange(nowhere)
    await exchange.put(body(b"one"))
    await exchange.put(body(b"two"))
    assert await exchange.receive() == body(b"onetwo")
    await exchange.put(body(b"", more=False))
    assert await exchange.receive() == body(b"", more=False)
    await exchange.put({"type": "http.disconnect"})
    assert await exchange.receive() == {"type": "http.disconnect"}


async def test_a_reader_is_woken(autojump_clock: trio.testing.MockClock) -> None:
    exchange = Exchange(nowhere)
    got: list[object] = []

    async def read() -> None:
        got.append(await exchange.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        await exchange.put(body(b"x", more=False))
    assert got == [body(b"x", more=False)]


async def test_what_nobody_reads_is_dropped() -> None:
    exchange = Exchange(nowhere)
    for _ in range(1000):
        await exchange.put(body(bytes(10_000)))
    message = await exchange.receive()
    assert len(message["body"]) == UNREAD_BYTES_MAX
    assert message["more_body"]


async def test_a_client_that_leaves_cancels_the_application() -> None:
    exchange = Exchange(nowhere)
    await exchange.put({"type": "http.disconnect"})
    with exchange.scope:
        await trio.sleep_forever()
    assert exchange.scope.cancelled_caught


async def test_a_complete_answer_is_not_cancelled() -> None:
    exchange = Exchange(nowhere)
    await exchange.send({"type": "http.response.start", "status": 200, "headers": []})
    assert not exchange.complete
    await exchange.send({"type": "http.response.body", "body": b""})
    assert exchange.complete
    await exchange.put({"type": "http.disconnect"})
    assert exchange.client_gone
    assert not exchange.scope.cancel_called
