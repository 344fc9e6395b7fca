"""The application without a socket: routes, order of checks, layers, errors."""

import logging
from ipaddress import ip_network

import pytest
import trio
import trio.testing

from relay.config import Quota, RateLimiterConfig
from relay.errors import (
    InvalidItemError,
    NoNodesQueriedError,
    NoNodesRespondedError,
    PublishTimedOutError,
    StoreError,
)
from relay.http.limits import HttpLimits
from relay.http.messages import BODY_TIMEOUT_S
from tests.integration.http_world import Reply, World, author

ALICE = author()
PACKET = ALICE.packet(timestamp_us=1_755_302_400_000_000)
PATH = f"/{ALICE.key}"
CORS = {
    "vary": "origin, access-control-request-method, access-control-request-headers",
    "access-control-allow-credentials": "true",
}
EXPOSE = {"access-control-expose-headers": "pkarr-invalid-signed-packet-seq,pkarr-dht-stored-nodes"}


def limited(**changes: object) -> HttpLimits:
    settings: dict[str, object] = {
        "behind_proxy": False,
        "http": Quota(interval_s=60.0, burst=2),
        "user_dht": None,
        "dht": None,
        **changes,
    }
    return HttpLimits(RateLimiterConfig(**settings))  # type: ignore[arg-type]


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize("prefix", ["/", "/pkarr/", "/pkarr//", "/pk:", "/foo."])
async def test_put_then_get(world: World, prefix: str) -> None:
    path = prefix + ALICE.key
    put = await world.request("PUT", path, body=PACKET.payload)
    assert (put.status, put.body) == (204, b"")
    assert put.headers == {"pkarr-dht-stored-nodes": "11", **CORS, **EXPOSE}
    got = await world.request("GET", path)
    assert (got.status, got.body) == (200, PACKET.payload)
    assert got.headers["content-length"] == str(len(PACKET.payload))
    assert got.headers["age"] == "0"


async def test_head_is_get_without_the_body(world: World) -> None:
    world.keep(PACKET.payload, ALICE.key)
    got, head = [await world.request(method, PATH) for method in ("GET", "HEAD")]
    assert (head.status, head.body, head.fields) == (200, b"", got.fields)
    condition = [("If-None-Match", got.headers["etag"])]
    got, head = [await world.request(method, PATH, condition) for method in ("GET", "HEAD")]
    assert (got.status, head.status) == (304, 304)
    assert "content-length" not in got.headers
    assert head.headers["content-length"] == "0"


async def test_etag_of_a_new_packet_is_new(world: World) -> None:
    world.keep(PACKET.payload, ALICE.key)
    old = await world.request("GET", PATH)
    world.keep(ALICE.packet("changed").payload, ALICE.key)
    new = await world.request("GET", PATH, [("If-None-Match", old.headers["etag"])])
    assert new.status == 200
    assert new.headers["etag"] != old.headers["etag"]


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("/abc", "Invalid URL: Invalid PublicKey length, expected 32 bytes but got: 1"),
        ("/%FF", "Invalid URL: Invalid UTF-8 in `key`"),
        ("/favicon.ico", "Invalid URL: Invalid PublicKey encoding"),
        (
            "/pkarr/abc?policy=foo",
            "Invalid URL: Invalid PublicKey length, expected 32 bytes but got: 1",
        ),
        (
            PATH + "?policy=cachefirst",
            "Failed to deserialize query string: policy: invalid resolve policy: cachefirst",
        ),
    ],
)
async def test_bad_requests(world: World, target: str, body: str) -> None:
    reply = await world.request("GET", target)
    assert (reply.status, reply.body.decode()) == (400, body)
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"


async def test_order_of_put_checks(world: World) -> None:
    for target, payload, status in [
        ("/abc", bytes(5000), 400),  # the key before the size
        (PATH, bytes(1105), 413),
        (PATH, bytes(1104), 400),
        (PATH, bytes(1072), 400),
        (PATH, bytes(71), 400),
    ]:
        assert (await world.request("PUT", target, body=payload)).status == status


async def test_a_body_is_refused_by_its_declared_size_and_while_it_comes(world: World) -> None:
    text = b"Failed to buffer the request body: length limit exceeded"
    declared = await world.request("PUT", PATH, [("Content-Length", "9" * 5000)])
    pieces = await world.request("PUT", PATH, body=[bytes(600), bytes(600), bytes(10**6)])
    for reply in (declared, pieces):
        assert (reply.status, reply.body) == (413, text)
        assert reply.headers["connection"] == "close"
    http2 = await world.request("PUT", PATH, body=bytes(1105), http_version="2")
    assert http2.status == 413
    assert "connection" not in http2.headers


async def test_a_body_that_stops_coming(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    sent: list[dict[str, object]] = []

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "PUT",
        "raw_path": PATH.encode(),
        "query_string": b"",
        "http_version": "1.1",
        "headers": [],
        "client": None,
    }
    await world.app(scope, trio.sleep_forever, send)  # type: ignore[arg-type]
    assert sent[0]["status"] == 408
    assert trio.current_time() >= BODY_TIMEOUT_S


async def test_a_client_that_hangs_up_in_its_body_gets_no_answer(world: World) -> None:
    with pytest.raises(ValueError, match="not enough values"):
        await world.request("PUT", PATH, body=[])  # the next message is a disconnect
    assert world.counters.requests["put"] == {499: 1}


@pytest.mark.parametrize("payload", [PACKET.payload[:-1] + b"?", bytes(72)])
async def test_bad_packets(world: World, payload: bytes) -> None:
    reply = await world.request("PUT", PATH, body=payload)
    assert reply.status == 400
    assert not world.dht.items


async def test_newer_packet_in_the_cache(world: World) -> None:
    world.keep(ALICE.packet().payload, ALICE.key)
    reply = await world.request("PUT", PATH, body=PACKET.payload)
    assert (reply.status, reply.body) == (409, b"packet is not the most recent")


async def test_a_timestamp_no_dht_can_carry(world: World) -> None:
    payload = ALICE.packet(timestamp_us=2**63).payload
    reply = await world.request("PUT", PATH, body=payload)
    assert (reply.status, reply.body) == (400, b"timestamp does not fit a BEP 44 sequence number")


@pytest.mark.parametrize("name", ["If-Match", "If-Unmodified-Since", "Content-Type", "Range"])
async def test_old_clients_conditions_are_ignored(world: World, name: str) -> None:
    reply = await world.request("PUT", PATH + "?policy=bogus", [(name, "nonsense")], PACKET.payload)
    assert reply.status == 204


@pytest.mark.parametrize(
    ("method", "error", "status", "body"),
    [
        ("GET", NoNodesQueriedError(), 503, "No DHT nodes were queried"),
        ("GET", NoNodesRespondedError(), 503, "No queried DHT nodes responded"),
        (
            "GET",
            InvalidItemError(77),
            404,
            "DHT mutable item at seq 77 is not a valid signed packet",
        ),
        ("PUT", PublishTimedOutError(), 500, "DHT query timed out"),
        ("PUT", StoreError("secret path"), 500, ""),
        ("GET", RuntimeError("a bug"), 500, ""),
    ],
)
async def test_failures(
    world: World,
    caplog: pytest.LogCaptureFixture,
    method: str,
    error: Exception,
    status: int,
    body: str,
) -> None:
    world.dht.error = error
    with caplog.at_level(logging.ERROR):
        reply = await world.request(method, PATH, body=PACKET.payload if method == "PUT" else b"")
    assert (reply.status, reply.body.decode()) == (status, body)
    assert reply.headers.get("pkarr-invalid-signed-packet-seq") == (
        "77" if isinstance(error, InvalidItemError) else None
    )
    assert bool(caplog.records) is (body == "")  # only what is our fault is logged
    assert CORS.items() <= reply.headers.items()


async def test_stale_packets_say_so() -> None:
    world = World(serve_stale_s=1000)
    world.keep(PACKET.payload, ALICE.key, age_s=500)
    world.dht.error = NoNodesRespondedError()
    reply = await world.request("GET", PATH)
    assert reply.status == 200
    assert reply.headers["cache-control"] == "public, max-age=0"
    assert reply.headers["age"] == "500"


async def test_not_found_is_empty(world: World) -> None:
    reply = await world.request("GET", PATH)
    assert (reply.status, reply.body) == (404, b"")
    assert reply.headers == {**CORS, **EXPOSE, "content-length": "0"}


@pytest.mark.parametrize("method", ["DELETE", "PATCH", "TRACE", "FOO", "POST"])
async def test_other_methods(world: World, method: str) -> None:
    for path, allow in [("/", "GET,HEAD"), ("/stats", "GET,HEAD"), ("/abc", "GET,HEAD,PUT")]:
        reply = await world.request(method, path)
        assert (reply.status, reply.headers["allow"]) == (405, allow)
    assert (await world.request(method, "/a/b")).status == 404


async def test_put_of_a_page_is_not_allowed(world: World) -> None:
    for path in ("/", "/health", "/healthz", "/stats"):
        assert (await world.request("PUT", path)).status == 405


@pytest.mark.parametrize(
    ("target", "allow"),
    [("/", "GET,HEAD"), ("/abc", "GET,HEAD,PUT"), ("/pkarr/abc", "GET,HEAD,PUT"), ("*", None)],
)
async def test_preflight_mirrors(world: World, target: str, allow: str | None) -> None:
    asked = [
        ("Origin", "https://app.example"),
        ("Access-Control-Request-Method", "DELETE"),
        ("Access-Control-Request-Headers", "x-one, x-two"),
    ]
    reply = await world.request("OPTIONS", target, asked)
    expected = {
        **CORS,
        "access-control-allow-origin": "https://app.example",
        "access-control-allow-methods": "DELETE",
        "access-control-allow-headers": "x-one, x-two",
        "content-length": "0",
    } | ({} if allow is None else {"allow": allow})
    assert (reply.status, reply.headers) == (200, expected)


async def test_bytes_that_would_split_a_response_are_not_mirrored(world: World) -> None:
    reply = await world.request("GET", PATH, [("Origin", "x\r\nset-cookie: a=b")])
    assert "access-control-allow-origin" not in reply.headers


async def test_absolute_targets(world: World) -> None:
    world.keep(PACKET.payload, ALICE.key)
    reply = await world.request("GET", f"http://relay.test{PATH}?policy=CacheOnly")
    assert reply.status == 200


async def test_health() -> None:
    troubles: dict[str, str | None] = {"cache": None, "dht": None}
    world = World(troubles=lambda: troubles)
    reply = await world.request("GET", "/health")
    ok = {"status": "ok"}
    assert reply.status == 200
    assert reply.json() == {"status": "ok", "parts": {"http": ok, "cache": ok, "dht": ok}}
    troubles["cache"] = "the disk is full"
    reply = await world.request("GET", "/healthz")
    assert reply.status == 200
    assert reply.json()["status"] == "degraded"
    assert reply.json()["parts"]["cache"] == {"status": "degraded", "reason": "the disk is full"}
    world.service.serving = False
    reply = await world.request("GET", "/health")
    assert (reply.status, reply.json()["status"]) == (503, "unavailable")


async def test_stats_count_requests_by_kind_and_status(world: World) -> None:
    await world.request("PUT", PATH, body=PACKET.payload)
    await world.request("GET", PATH)
    await world.request("GET", "/abc")
    await world.request("BREW", "/abc")
    reply = await world.request("GET", "/stats")
    assert reply.headers["content-type"] == "application/json"
    assert reply.json()["http"]["requests"] == {
        "get": {"200": 1, "400": 1},
        "packet": {"405": 1},
        "put": {"204": 1},
    }


async def test_the_limiter_is_outermost() -> None:
    world = World(limits=limited())
    origin = [("Origin", "https://app.example")]
    first = await world.request("OPTIONS", "/abc", origin)
    second = await world.request("GET", "/a/b", origin)
    third = await world.request("PUT", PATH, origin, PACKET.payload)
    assert [reply.status for reply in (first, second, third)] == [200, 404, 429]
    assert first.headers["x-ratelimit-remaining"] == "1"
    assert second.headers["x-ratelimit-remaining"] == "0"
    assert third.body == b"Too Many Requests! Wait for 60s"
    assert third.headers == {
        **CORS,
        **EXPOSE,
        "access-control-allow-origin": "https://app.example",
        "x-ratelimit-after": "60",
        "retry-after": "60",
        "x-ratelimit-limit": "2",
        "x-ratelimit-remaining": "0",
        "content-length": str(len(third.body)),
    }
    head = await world.request("HEAD", PATH)
    assert (head.status, head.body, head.headers["content-length"]) == (429, b"", "31")


async def test_health_is_outside_the_limiter() -> None:
    world = World(limits=limited())
    for _ in range(10):
        reply = await world.request("GET", "/health")
        assert reply.status == 200
        assert "x-ratelimit-limit" not in reply.headers
    assert (await world.request("GET", PATH)).status == 404


async def test_user_dht_quota() -> None:
    quota = Quota(interval_s=3600.0, burst=1)
    world = World(limits=limited(http=Quota(interval_s=1.0, burst=100), user_dht=quota))
    put = await world.request("PUT", PATH, body=PACKET.payload)
    cached = await world.request("GET", PATH)
    refused = await world.request("GET", PATH + "?policy=NetworkOnly")
    assert [reply.status for reply in (put, cached, refused)] == [204, 200, 429]
    assert refused.body == b"Too many requests to DHT nodes"
    assert "retry-after" not in refused.headers
    assert refused.headers["x-ratelimit-limit"] == "100"
    other = await world.request("GET", PATH + "?policy=NetworkOnly", peer=("127.0.0.2", 1))
    assert other.status == 200


async def test_budgets_follow_the_client_behind_a_trusted_proxy() -> None:
    config = RateLimiterConfig(
        behind_proxy=False, http=Quota(interval_s=60.0, burst=1), user_dht=None, dht=None
    )
    limits = HttpLimits(config, trusted_proxies=(ip_network("127.0.0.1/32"),))
    world = World(limits=limits)

    async def ask(client: str) -> Reply:
        return await world.request("GET", "/a/b", [("X-Forwarded-For", client)])

    statuses = [(await ask(client)).status for client in ("192.0.2.1", "192.0.2.2", "192.0.2.1")]
    assert statuses == [404, 404, 429]


async def test_websockets_are_refused(world: World) -> None:
    sent: list[dict[str, object]] = []

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    await world.app({"type": "websocket"}, trio.sleep_forever, send)  # type: ignore[arg-type]
    assert sent == [{"type": "websocket.close"}]
