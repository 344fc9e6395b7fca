"""The front lane answers as Hypercorn alone would, and gives away what it does not understand."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from ipaddress import IPv4Network, ip_network

import pytest
import trio

from relay.config import Quota, RateLimiterConfig
from relay.http import front, messages
from relay.http.deadlines import Deadlines
from relay.http.limits import HttpLimits
from tests.integration.front_world import FrontWorld
from tests.integration.http_client import Answer, exchange
from tests.integration.http_world import author
from tests.support.peers import SHARED

pytestmark = pytest.mark.compiled

ALICE = author(1)
BOB = author(2)
PACKET = ALICE.packet(timestamp_us=1_755_302_400_123_456, ttl_s=3600)
FAR = BOB.packet(timestamp_us=253_402_300_800_000_001, ttl_s=10)
HASTY = Deadlines(head_s=0.4, idle_s=0.4, write_s=5.0, linger_s=0.2)
"""So that every exchange ends by itself."""
MOVING = ("age", "date", "memento-datetime", "x-ratelimit-remaining")
"""The two ways are asked one after the other, and a PUT in between is seen anew."""
AT_ONCE = 48
ATTEMPTS = 10

TAG = '"{}"'


def get(path: str, *fields: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: relay.test", *fields, "", ""]).encode()


def put(payload: bytes, key: str, *fields: str) -> bytes:
    return get(f"/{key}", f"Content-Length: {len(payload)}", *fields, method="PUT") + payload


@pytest.fixture(autouse=True)
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """With bodies that do not come: 30 seconds are as good as half of one."""
    monkeypatch.setattr(messages, "BODY_TIMEOUT_S", 0.4)
    monkeypatch.setattr(front, "BODY_TIMEOUT_S", 0.4)


@pytest.fixture(autouse=True, params=[0, 2], ids=["task", "threads"])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FrontWorld, "threads", request.param)


@pytest.fixture
def world() -> FrontWorld:
    world = FrontWorld()
    for packet, owner in ((PACKET, ALICE), (FAR, BOB)):
        seen = world.keep(packet.payload, owner.key)
        world.dht.items[seen.packet.public_key] = seen.packet
    return world


def assert_same(lane: Sequence[Answer], alone: Sequence[Answer], request: bytes) -> None:
    """The same answers, but that the lane may want the rest of them asked on a new connection."""
    if len(lane) < len(alone) and lane:
        assert lane[-1].headers.get("connection") == "close", request
        alone = alone[: len(lane)]
    assert len(lane) == len(alone), (request, lane, alone)
    for ours, theirs in zip(lane, alone, strict=True):
        assert {n for n, _ in ours.fields if n in MOVING} == {
            n for n, _ in theirs.fields if n in MOVING
        }, request
        page = theirs.headers.get("content-type", "").startswith(("text/html", "application/json"))
        hidden = (*MOVING, "connection", *(["content-length"] if page else []))
        mine, other = ours.without(*hidden), theirs.without(*hidden)
        assert mine[: 2 if page else 3] == other[: 2 if page else 3], request
        if "connection" in theirs.headers:
            assert ours.headers["connection"] == theirs.headers["connection"], request


def racing(lane: Sequence[Answer], alone: Sequence[Answer]) -> bool:
    """Whether h11's word on what follows a request has overtaken the answer to it, in one of them.

    Hypercorn sends that 400 at once, while the application is still at work.
    """
    outcomes = [[(answer.status, answer.body) for answer in way] for way in (lane, alone)]
    return outcomes[0] != outcomes[1] and any((400, b"") in outcome for outcome in outcomes)


async def compare(world: FrontWorld, requests: Sequence[bytes]) -> None:
    """Send each request both ways, many at a time.

    On a busy machine a deadline may strike first, and an answer is missing. Then both are asked
    again: what is never answered is found all the same, and few may be late.
    """
    limit = trio.CapacityLimiter(AT_ONCE)
    late: list[bytes] = []
    world.service.stats = lambda: {"figures": "the same"}  # type: ignore[method-assign]
    await world.app.warm_up()
    async with (
        world.serving(deadlines=HASTY, lane=False) as alone_port,
        world.serving(deadlines=HASTY) as lane_port,
    ):

        async def one(request: bytes) -> None:
            async with limit:
                for _ in range(ATTEMPTS):
                    alone = await exchange(alone_port, request)
                    lane = await exchange(lane_port, request)
                    if racing(lane, alone):
                        continue
                    if bool(lane) == bool(alone):
                        break
                    late.append(request)
                assert_same(lane, alone, request)

        async with trio.open_nursery() as nursery:
            for request in requests:
                nursery.start_soon(one, request)
    assert len(late) <= 3 + len(requests) // 50, late


def recorded() -> list[bytes]:
    return [
        bytes.fromhex(step["request"]["raw_hex"])
        for path in sorted((SHARED / "transcripts").glob("v1-*.json"))
        for case in json.loads(path.read_text())["cases"]
        for step in case["steps"]
        if "raw_hex" in step.get("request", {})
    ]


def seeds() -> list[bytes]:
    """Requests of all the kinds that the lane tells apart."""
    key = f"/{ALICE.key}"
    last_modified = "Sat, 16 Aug 2025 00:00:00 GMT"
    conditions = [
        [],
        ["Origin: https://pkarr.test"],
        ["origin:null", "Origin: second"],
        ["Origin: a\tb"],
        ["Origin:"],
        ["If-None-Match: *"],
        ['If-None-Match: "x", W/' + TAG],
        [f"If-None-Match: {TAG}"],
        ['If-None-Match: "x"', f"If-None-Match: {TAG}"],
        [f'If-None-Match: "{TAG}', f"If-Modified-Since: {last_modified}"],
        ["If-None-Match:", "If-Modified-Since: Sat, 16 Aug 2025 00:00:01 GMT"],
        [f"If-Modified-Since: {last_modified}"],
        ["If-Modified-Since: Sat, 16 Aug 2025 00:00:01 GMT"],
        ["If-Modified-Since: Saturday, 16-Aug-25 00:00:01 GMT"],
        ["If-Modified-Since: Sat Aug 16 00:00:01 2025"],
        ["If-Modified-Since: Fri, 16 Aug 2025 00:00:01 GMT"],
        ["If-Modified-Since: never", "If-Modified-Since: Sat, 16 Aug 2025 00:00:01 GMT"],
        ["Connection: close"],
        ["Connection: keep-alive"],
        ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"],
        ["Content-Length: 0", "Accept: */*", "Cookie: a=b"],
        ["Host: again"],
        ["X-Forwarded-For: 192.0.2.1", "Forwarded: for=192.0.2.2"],
        ["Transfer-Encoding: chunked"],
    ]
    found = [
        get(key, *fields, method=method) for fields in conditions for method in ("GET", "HEAD")
    ]
    paths = [
        *(f"{key}?policy={policy}" for policy in ("CacheOnly", "CacheFirst", "NetworkOnly", "x")),
        f"/pkarr{key}?policy=CacheOnly",
        f"/pkarr/{key}",
        f"/{BOB.key}",
        f"/{BOB.key}?policy=CacheOnly",
        f"/{author(3).key}",
        f"/{author(3).key}?policy=CacheOnly",
        f"{key}?",
        f"{key}?most_recent=1",
        f"/{ALICE.key[:-1]}o",
        f"/{ALICE.key[:-1]}l",
        "/" + "y" * 51 + "b",
        "/pkarr/health",
        "/",
        "/?",
        f"/?key={ALICE.key}",
        "/?key=%zz+&key=x",
        "/stats",
        "/stats?x=y",
        "/statsx",
        "/health?x",
        "/a/b",
        "//",
    ]
    found += [get(path) for path in paths]
    found += [
        get(path, method=method)
        for path in ("/health", "/", "/stats", key)
        for method in ("HEAD", "OPTIONS", "HEaD", "get", "put")
    ]
    found += [get(path, "Origin: a", "Connection: close") for path in ("/", "/stats")]
    found += [
        put(PACKET.payload, ALICE.key),
        put(PACKET.payload, ALICE.key, "Origin: a", "Connection: close"),
        put(PACKET.payload[:-1], ALICE.key),
        put(b"", ALICE.key),
        get(key, method="PUT"),
        put(PACKET.payload, BOB.key),
        put(bytes(1104), ALICE.key),
        put(bytes(1105), ALICE.key),
        get("/health", method="PUT"),
        get(key, "Transfer-Encoding: chunked", method="PUT") + b"5\r\nhello\r\n0\r\n\r\n",
        get(key, "Expect: 100-continue", "Content-Length: 3", method="PUT") + b"abc",
        get(key, "Transfer-Encoding: chunked", method="PUT") + b"5\r\nhello-no",
        get(key, "Transfer-Encoding: chunked") + b"5\r\nhello-no",
        get("/f9h", "Transfer-Encoding: chunked", method="HEAD") + b"zz\r\n",
        get(key) + get(f"{key}?policy=NetworkOnly") + put(PACKET.payload, ALICE.key) + get(key),
        get(key) + get("/a/b") + get(key),
        get(key).replace(b"HTTP/1.1", b"HTTP/1.0"),
        get(key).replace(b"\r\n", b"\n"),
        b"\r\n" + get(key),
        get(key)[:-2],
        b"PRI * HTTP/2.0\r\n\r\n",
    ]
    return found


def with_tag(request: bytes, tag: str) -> bytes:
    return request.replace(TAG.encode(), tag.encode())


def spoilt(request: bytes, chance: random.Random) -> bytes:
    data = bytearray(request)
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(data))
        match chance.randrange(5):
            case 0:
                data[at] = chance.randrange(256)
            case 1:
                del data[at]
            case 2:
                data.insert(at, chance.choice(b'\r\n\t :;,"/?=%&0aA\x00\xff'))
            case 3:
                data[at:at] = data[at : at + chance.randrange(20)]
            case _:
                data = data[:at] + data[at + chance.randrange(1, 20) :] or bytearray(b"\r\n")
    return bytes(data)


async def tag_of_alice(world: FrontWorld) -> str:
    return (await world.request("GET", f"/{ALICE.key}?policy=CacheOnly")).headers["etag"]


async def test_requests_of_all_kinds_are_answered_alike(world: FrontWorld) -> None:
    tag = await tag_of_alice(world)
    await compare(world, [with_tag(request, tag) for request in seeds()])


@pytest.mark.parametrize("threads", [0], indirect=True)  # whose limiter's clock can stand still
@pytest.mark.parametrize("trusted", [(), (ip_network("127.0.0.0/8"),)])
async def test_requests_through_proxies_are_answered_alike(
    trusted: tuple[IPv4Network, ...],
) -> None:
    """Some clients have spent all that they have, some have never been seen, one has no limit."""
    config = RateLimiterConfig(
        behind_proxy=True,
        http=Quota(interval_s=3600.0, burst=1),
        user_dht=None,
        dht=None,
        exempt=(ip_network("192.0.2.128/25"),),
    )
    world = FrontWorld(limits=HttpLimits(config, trusted_proxies=trusted, clock=lambda: 9.0))
    world.keep(PACKET.payload, ALICE.key)
    spent = ["192.0.2.1", "2001:db8::1"]
    fields = [
        [name.format(hop) for name in names]
        for hop in (*spent, "192.0.2.200", "192.0.2.1:80", "127.0.0.1", "", "unknown", "\xa0")
        for names in (
            ["X-Forwarded-For: {}"],
            ["X-Forwarded-For: 192.0.2.200, {}"],
            ["X-Forwarded-For: {}, 192.0.2.200", "X-Real-IP: 192.0.2.1"],
            ["X-Forwarded-For: 192.0.2.9", "X-Forwarded-For: {}"],
            ["X-Real-IP: {}", "Forwarded: for=192.0.2.200"],
            ['Forwarded: for=192.0.2.200, by=a;For="[{}]:80"'],
        )
    ]
    requests = [
        "\r\n".join([f"GET /{ALICE.key} HTTP/1.1", *f, "Connection: close", "", ""]) for f in fields
    ]
    async with world.serving(deadlines=HASTY) as port:  # whoever is limited has spent its cell
        for request in requests:
            await exchange(port, request.encode("latin-1"))
    await compare(world, [request.encode("latin-1") for request in requests])
    statuses = world.counters.requests["get"]
    assert statuses[200]
    assert statuses[429]


async def test_recorded_requests_are_answered_alike(world: FrontWorld) -> None:
    requests = recorded()
    assert len(requests) >= 200
    for request in requests:  # so that they find the same, in whatever order they are asked
        if request.startswith(b"PUT"):
            method, path, _ = request.split(b" ", 2)
            await world.request(method.decode(), path, body=request.partition(b"\r\n\r\n")[2])
    await compare(world, requests)


@pytest.mark.parametrize("seed", range(2))
async def test_spoilt_requests_are_answered_alike(world: FrontWorld, seed: int) -> None:
    await compare_spoilt(world, seed, 400)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 6))
async def test_thousands_of_spoilt_requests_are_answered_alike(
    world: FrontWorld, seed: int
) -> None:
    await compare_spoilt(world, seed, 1500)


async def compare_spoilt(world: FrontWorld, seed: int, count: int) -> None:
    chance = random.Random(seed)  # noqa: S311  # the same bytes for the same seed
    tag = await tag_of_alice(world)
    # What comes after a request with `close` is an error to h11, whose answer races the right one.
    whole = [with_tag(request, tag) for request in seeds() if b"close" not in request]
    await compare(world, [spoilt(chance.choice(whole), chance) for _ in range(count)])
