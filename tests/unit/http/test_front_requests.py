"""What Python does for the lane: requests out of heads, answers into bytes, and the switch."""

from __future__ import annotations

import pytest
import trio

from relay.errors import StartupError
from relay.http import front
from relay.http.app import Response
from relay.http.front import FrontLane, front_lane
from relay.http.messages import BodyTimeoutError
from relay.http.stream import ClientStream
from tests.integration.http_world import World

HEAD = b"PUT /pkarr/key?policy=x?y HTTP/1.1\r\nHost:a\r\nX-Two: \t b: c \r\nEmpty:\r\n\r\n"


async def test_a_request_is_read_from_its_head() -> None:
    request = front._request(HEAD, b"body", "192.0.2.1")
    assert (request.method, request.path, request.query) == ("PUT", b"/pkarr/key", b"policy=x?y")
    assert request.headers == [(b"host", b"a"), (b"x-two", b"b: c"), (b"empty", b"")]
    assert request.peer == "192.0.2.1"
    assert await request.body(4) == b"body"


async def test_a_head_without_fields() -> None:
    request = front._request(b"GET /health HTTP/1.1\r\n\r\n", b"", "::1")
    assert (request.method, request.path, request.query) == ("GET", b"/health", b"")
    assert request.headers == []
    assert await request.body(0) == b""


async def test_a_body_that_did_not_come() -> None:
    with pytest.raises(BodyTimeoutError):
        await front._request(HEAD, None, "192.0.2.1").body(4)


def test_an_answer_is_composed_without_what_the_lane_adds() -> None:
    fields = [(b"a", b"b"), (b"connection", b"close"), (b"content-length", b"1")]
    head = b"HTTP/1.1 408 \r\na: b\r\ncontent-length: 1\r\n"
    assert front._composed(Response(408, fields, b"x")) == (head, b"x", True)
    head = b"HTTP/1.1 204 \r\na: b\r\n"
    assert front._composed(Response(204, fields[:1], b"")) == (head, b"", False)


@pytest.mark.compiled
@pytest.mark.parametrize(
    ("text", "threads"),
    [("", 0), ("1", 0), ("task", 0), ("threads:1", 1), ("threads:64", 64), ("0", None)],
)
def test_the_environment_says_how_the_lane_runs(
    text: str, threads: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = World().app
    monkeypatch.setenv("RELAY_FRONT_LANE", text)
    wanted = None if threads is None else FrontLane(app, None, threads)
    assert front_lane(app, None) == wanted
    monkeypatch.delenv("RELAY_FRONT_LANE")
    assert front_lane(app, None) == FrontLane(app, None)


@pytest.mark.parametrize(
    "text", ["threads", "threads:", "threads:0", "threads:65", "threads:2 ", "threads:²", "no"]
)
def test_what_the_environment_cannot_say(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAY_FRONT_LANE", text)
    with pytest.raises(StartupError, match=r"RELAY_FRONT_LANE=.* is not 0, task or threads:N"):
        front_lane(World().app, None)


def test_without_the_extension_there_is_no_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "Lane", None)
    assert front_lane(World().app, None) is None


async def test_what_was_received_before_comes_first() -> None:
    ours, theirs = trio.socket.socketpair()
    with theirs:
        stream = ClientStream(ours, write_timeout_s=1.0, received=b"before")
        await theirs.send(b"after")
        assert [await stream.receive_some() for _ in range(2)] == [b"before", b"after"]
        stream.close()
