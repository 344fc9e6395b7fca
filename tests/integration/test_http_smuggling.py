"""No request is ever read out of the body of another, whoever reads: the lane, or Hypercorn.

Each case is one request whose end could be told in two ways, and behind its head or within its
body a second one, that an attacker would like to be answered. It is asked of a server with a front
lane and of one without, whole and cut in two at every byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import pytest
import trio

from relay.http import front, messages
from relay.http.app import Response
from relay.http.deadlines import Deadlines
from relay.http.http1 import HEAD_BYTES_MAX
from relay.http.messages import Request
from tests.integration.front_world import FrontWorld
from tests.integration.http_client import Answer, ServersEnd, answers
from tests.integration.http_world import author

pytestmark = [pytest.mark.compiled, pytest.mark.slow]

ALICE = author(1)
PACKET = ALICE.packet(timestamp_us=1_755_302_400_000_000, ttl_s=3600)
PATH = f"/{ALICE.key}".encode()
SECOND = b"/second"
HIDDEN = b"GET " + SECOND + b" HTTP/1.1\r\nHost: a\r\n\r\n"
PATIENT = Deadlines(head_s=20.0, idle_s=75.0, linger_s=20.0)
"""So that an exchange ends because its client or its request does, and not by a deadline."""
WHOLE_S = 60.0
AT_ONCE = 40


def head(method: str, *fields: str, version: str = "1.1", end: str = "\r\n") -> bytes:
    lines = [f"{method} {PATH.decode()} HTTP/{version}", "Host: a", *fields, "", ""]
    return end.join(lines).encode("latin-1")


SIZE = len(HIDDEN)
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (SIZE, HIDDEN)
REFUSED = {
    "two lengths": head("PUT", f"Content-Length: {SIZE}", "Content-Length: 0") + HIDDEN,
    "two lengths, the first 0": head("PUT", "Content-Length: 0", f"Content-Length: {SIZE}")
    + HIDDEN,
    "a list of lengths": head("PUT", f"Content-Length: 0, {SIZE}") + HIDDEN,
    "length and chunked": head(
        "PUT", f"Content-Length: {len(CHUNKED)}", "Transfer-Encoding: chunked"
    )
    + CHUNKED,
    "chunked and length": head("PUT", "Transfer-Encoding: chunked", "Content-Length: 3") + CHUNKED,
    "chunked and length 0": head("GET", "Transfer-Encoding: chunked", "Content-Length: 0")
    + CHUNKED,
    "length and an end at once": head(
        "PUT", f"Content-Length: {SIZE + 5}", "Transfer-Encoding: chunked"
    )
    + b"0\r\n\r\n"
    + HIDDEN,
    "chunked twice": head("PUT", "Transfer-Encoding: chunked", "Transfer-Encoding: chunked")
    + CHUNKED,
    "chunked and another": head("PUT", "Transfer-Encoding: chunked", "Transfer-Encoding: cow")
    + CHUNKED,
    "chunked in a list": head("PUT", "Transfer-Encoding: identity, chunked") + CHUNKED,
    "chunked after a tab": head("PUT", "Transfer-Encoding:\tchunked\x0b") + CHUNKED,
    "chunked in HTTP/1.0": head("PUT", "Transfer-Encoding: chunked", version="1.0") + CHUNKED,
    "chunked, named with a blank": head("PUT", "Transfer-Encoding : chunked", "Content-Length: 0")
    + CHUNKED,
    "length, named with a blank": head("PUT", f"Content-Length : {SIZE}") + HIDDEN,
    "length, named with a tab": head("PUT", f"Content-Length\t: {SIZE}") + HIDDEN,
    "length, continued": head("PUT", "Content-Length: 0", f" {SIZE}") + HIDDEN,
    "encoding, continued": head("PUT", "Transfer-Encoding:", " chunked, x") + CHUNKED,
    "a field that continues nothing": b"PUT %b HTTP/1.1\r\n Transfer-Encoding: chunked\r\n\r\n"
    % PATH
    + CHUNKED,
    "a length that continues nothing": b"PUT %b HTTP/1.1\r\n\tContent-Length: %d\r\n\r\n"
    % (PATH, SIZE)
    + HIDDEN,
    "a negative length": head("PUT", "Content-Length: -1") + HIDDEN,
    "a length with a sign": head("PUT", f"Content-Length: +{SIZE}") + HIDDEN,
    "a length in hexadecimal": head("PUT", f"Content-Length: 0x{SIZE:x}") + HIDDEN,
    "a length with an underscore": head("PUT", "Content-Length: 0_0") + HIDDEN,
    "a length in other digits": head("PUT", "Content-Length: \xb2\xb3") + HIDDEN,
    "a length beyond all numbers": head("PUT", f"Content-Length: {2**64 + SIZE}000") + HIDDEN,
    "an empty length": head("PUT", "Content-Length:") + HIDDEN,
    "NUL in a field": head("PUT", "X: a\0b", f"Content-Length: {SIZE}") + HIDDEN,
    "NUL in a name": head("PUT", "X\0: a", "Content-Length: 0") + HIDDEN,
    "CR in a field": head("PUT", f"X: a\rContent-Length: {SIZE}") + HIDDEN,
    "a name of nothing": head("PUT", ": a", "Content-Length: 0") + HIDDEN,
    "a line that is no field": head("PUT", "Content-Length", "X: y") + HIDDEN,
    "a chunk with a sign": head("PUT", "Transfer-Encoding: chunked")
    + b"+%x\r\n%b\r\n0\r\n\r\n" % (SIZE, HIDDEN),
    "a chunk with 0x": head("PUT", "Transfer-Encoding: chunked")
    + b"0x%x\r\n%b\r\n0\r\n\r\n" % (SIZE, HIDDEN),
    "a chunk beyond all numbers": head("PUT", "Transfer-Encoding: chunked")
    + b"%x\r\n%b\r\n0\r\n\r\n" % (2**80 + SIZE, HIDDEN),
    "a chunk longer than it says": head("PUT", "Transfer-Encoding: chunked")
    + b"1\r\nabc\r\n0\r\n\r\n"
    + HIDDEN,
    "a chunk without an end": head("PUT", "Transfer-Encoding: chunked")
    + b"3\r\nabcXY0\r\n\r\n"
    + HIDDEN,
    "a chunk that ends with LF": head("PUT", "Transfer-Encoding: chunked")
    + b"3\nabc\n0\n\n"
    + HIDDEN,
    "a giant head": head("PUT", "X: " + "x" * HEAD_BYTES_MAX, f"Content-Length: {SIZE}") + HIDDEN,
}
"""What is not answered but with an error, after which the connection ends."""
TAKEN = {
    "a body of that length": head("PUT", f"Content-Length: {SIZE}") + HIDDEN,
    "the same length twice": head("PUT", f"Content-Length: {SIZE}", f"Content-Length: {SIZE}")
    + HIDDEN,
    "a length with zeros": head("PUT", f"Content-Length: 00{SIZE}") + HIDDEN,
    "a chunked body": head("PUT", "Transfer-Encoding: chunked") + CHUNKED,
    "chunked in capitals": head("PUT", "TRANSFER-ENCODING: Chunked") + CHUNKED,
    "chunks with extensions": head("PUT", "Transfer-Encoding: chunked")
    + b"%x;a=b\r\n%b\r\n0;c\r\n\r\n" % (SIZE, HIDDEN),
    "chunks with trailers": head("PUT", "Transfer-Encoding: chunked")
    + b"%x\r\n%b\r\n0\r\nX: y\r\n\r\n" % (SIZE, HIDDEN),
    "a GET with a body": head("GET", f"Content-Length: {SIZE}") + HIDDEN,
    "a HEAD with a body": head("HEAD", f"Content-Length: {SIZE}") + HIDDEN,
    "an OPTIONS with a body": head("OPTIONS", f"Content-Length: {SIZE}") + HIDDEN,
    "a GET with chunks": head("GET", "Transfer-Encoding: chunked") + CHUNKED,
    "lines that end with LF": head("PUT", f"Content-Length: {SIZE}", end="\n") + HIDDEN,
    "a field that is continued": head("PUT", "X: a", "\tb", f"Content-Length: {SIZE}") + HIDDEN,
    "a body that is awaited": head("PUT", "Expect: 100-continue", f"Content-Length: {SIZE}")
    + HIDDEN,
    "a body too large": head("PUT", "Content-Length: 5000") + HIDDEN * 200,
    "one that is the last": head("GET", "Connection: close") + HIDDEN,
    "an upgrade": head("GET", "Connection: Upgrade", "Upgrade: x", f"Content-Length: {SIZE}")
    + HIDDEN,
}
"""What is answered, once."""
CUT = ("length and chunked", "length, continued", "a field that continues nothing",
       "a body of that length", "a chunked body", "a GET with a body", "one that is the last",
       "chunks with trailers", "lines that end with LF")  # fmt: skip
"""Cut at every byte; all others whole."""


class Watched(FrontWorld):
    """A world that notes which paths have been asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.keep(PACKET.payload, ALICE.key)
        self.asked: set[bytes] = set()
        respond = self.app.respond

        async def noting(request: Request) -> Response | None:
            self.asked.add(request.path)
            return await respond(request)

        self.app.respond = noting  # type: ignore[method-assign]


@pytest.fixture(autouse=True)
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "BODY_TIMEOUT_S", 20.0)
    monkeypatch.setattr(front, "BODY_TIMEOUT_S", 20.0)


async def exchange(port: int, *pieces: bytes, count: int = 1) -> list[Answer]:
    """Send pieces, each read before the next is sent; return all answers until the end.

    When `count` answers are complete and everything is read, we end our side. Before the server
    sees that, it has begun on whatever it has kept; and nothing comes later than its own end.
    """
    received, sent = b"", 0
    with trio.fail_after(WHOLE_S):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            server = ServersEnd(stream)
            with suppress(trio.BrokenResourceError):  # it may end before it has read everything
                for piece in pieces:
                    await read_by(server, sent)
                    await stream.send_all(piece)
                    sent += len(piece)
            half_closed = False
            with suppress(trio.BrokenResourceError):
                while data := await stream.receive_some():
                    received += data
                    if not half_closed and has_whole(received, count, pieces[0][:5]):
                        await read_by(server, sent)
                        await stream.send_eof()
                        half_closed = True
    return [answer for answer in answers(received) if answer.status != 100]


async def read_by(server: ServersEnd, count: int) -> None:
    while not server.has_read(count):  # noqa: ASYNC110  # the kernel's counters have no event
        await trio.sleep(0.001)


def has_whole(received: bytes, count: int, method: bytes) -> bool:
    """Whether there are so many answers, and the body of the last, if it has one."""
    head_, end, body = received.rpartition(b"\r\n\r\n")
    found = answers(head_ + end) if end else []
    final = [answer for answer in found if answer.status != 100]
    if len(final) < count:
        return False
    return method == b"HEAD " or len(body) >= int(final[-1].headers.get("content-length", 0))


async def outcomes(
    world: Watched, cases: Sequence[Sequence[bytes]], *, lane: bool, count: int = 1
) -> list[list[Answer]]:
    found: list[list[Answer]] = [[] for _ in cases]
    limit = trio.CapacityLimiter(AT_ONCE)
    async with world.serving(deadlines=PATIENT, lane=lane) as port, trio.open_nursery() as nursery:

        async def one(number: int, pieces: Sequence[bytes]) -> None:
            async with limit:
                found[number] = await exchange(port, *pieces, count=count)

        for number, pieces in enumerate(cases):
            nursery.start_soon(one, number, pieces)
    return found


def cut(request: bytes) -> list[tuple[bytes, ...]]:
    return [(request,), *((request[:at], request[at:]) for at in range(1, len(request)))]


@pytest.mark.parametrize("lane", [True, False], ids=["lane", "alone"])
async def test_a_request_of_two_lengths_is_the_last(lane: bool) -> None:
    world = Watched()
    found = await outcomes(world, [(request,) for request in REFUSED.values()], lane=lane)
    for name, given in zip(REFUSED, found, strict=True):
        assert [answer.status for answer in given] in ([400], [413], [431], [501]), name
    assert SECOND not in world.asked


@pytest.mark.parametrize("lane", [True, False], ids=["lane", "alone"])
async def test_a_body_is_no_request(lane: bool) -> None:
    world = Watched()
    found = await outcomes(world, [(request,) for request in TAKEN.values()], lane=lane)
    for name, given in zip(TAKEN, found, strict=True):
        assert len(given) == 1, name
        assert len(given[0].fields) == len(given[0].headers), name  # none of them twice
    assert SECOND not in world.asked


@pytest.mark.parametrize("lane", [True, False], ids=["lane", "alone"])
@pytest.mark.parametrize("name", CUT)
async def test_wherever_it_is_cut(name: str, lane: bool) -> None:
    request = {**REFUSED, **TAKEN}[name]
    world = Watched()
    found = await outcomes(world, cut(request), lane=lane)
    assert {len(given) for given in found} == {1}
    assert len({(given[0].status, given[0].body) for given in found}) == 1
    assert SECOND not in world.asked


@pytest.mark.parametrize("name", ["a chunked body", "a GET with a body", "the same length twice"])
async def test_what_follows_is_asked_again_after_the_lane_has_handed_over(name: str) -> None:
    """It is answered on a new connection only; alone, Hypercorn goes on with it."""
    request = TAKEN[name] + HIDDEN
    world = Watched()
    ((only,),) = await outcomes(world, [(request,)], lane=True)
    assert only.headers["connection"] == "close"
    assert SECOND not in world.asked
    (both,) = await outcomes(world, [(request,)], lane=False, count=2)
    assert len(both) == 2
    assert SECOND in world.asked


async def test_what_follows_is_answered_where_the_lane_understands() -> None:
    world = Watched()
    (given,) = await outcomes(
        world, [(head("GET") + TAKEN["a body of that length"] + HIDDEN,)], lane=True, count=3
    )
    assert [answer.status for answer in given] == [200, 400, 400]
    assert SECOND in world.asked
