"""The OpenAPI document that the relay serves says what the code does."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest
import trio

from relay import __version__
from relay.config import Quota, RateLimiterConfig
from relay.errors import (
    InvalidItemError,
    NoNodesQueriedError,
    NotMostRecentError,
    PublishTimedOutError,
)
from relay.http import messages
from relay.http.app import DESCRIPTION
from relay.http.errors import STATUS_OF
from relay.http.limits import HttpLimits
from relay.http.packets import BODY_BYTES_MAX
from relay.http.responses import PAYLOAD_TYPE
from relay.http.routes import METHODS, Kind, route_of
from relay.pkarr.policy import ResolvePolicy
from tests.integration.http_world import STATS, Reply, World, author

DOCUMENT: dict[str, Any] = json.loads(DESCRIPTION.read_text())
ALICE = author(1)
PACKET = ALICE.packet(timestamp_us=1_755_302_400_000_000, ttl_s=3600)
OLDER = ALICE.packet(timestamp_us=1_755_302_300_000_000, ttl_s=3600)
PATH = f"/{ALICE.key}"
FRAMING = {"content-length", "date"}
"""Of HTTP itself; told once for all answers."""


def resolved(node: Any) -> Any:
    """Follow a reference to where the thing is told."""
    while isinstance(node, Mapping) and "$ref" in node:
        target: Any = DOCUMENT
        for name in node["$ref"].removeprefix("#/").split("/"):
            target = target[name]
        node = target
    return node


def operation(method: str, target: str) -> Any:
    path = target.partition("?")[0]
    template = {Kind.PACKET: "/pkarr/{key}" if path.startswith("/pkarr/") else "/{key}"}
    return DOCUMENT["paths"][template.get(route_of(path.encode()).kind, path)][method.lower()]


def assert_told(method: str, target: str, reply: Reply) -> None:
    """The document knows this answer: status, every field, type of the body."""
    told = resolved(operation(method, target)["responses"][str(reply.status)])
    fields = {name: resolved(field) for name, field in told["headers"].items()}
    sent = reply.headers
    assert sent.keys() - FRAMING - {"content-type"} - fields.keys() == set()
    required = {name for name, field in fields.items() if field.get("required")}
    assert required - sent.keys() == set()
    for name in sent.keys() & fields.keys():
        schema = fields[name]["schema"]
        assert sent[name] == schema.get("const", sent[name])
        assert sent[name] in schema.get("enum", [sent[name]])
        assert re.search(schema.get("pattern", ""), sent[name]), name
    if "content" in told and method != "HEAD":
        assert list(told["content"]) == [sent["content-type"]]
    elif reply.body:
        assert reply.status in (404, 429)  # with a body, or a type, now and then
        assert sent.get("content-type", "without a content type") in told["description"]


def test_it_is_of_this_version() -> None:
    assert DOCUMENT["openapi"] == "3.1.0"
    assert DOCUMENT["info"]["version"] == __version__


def test_it_has_every_path_and_method() -> None:
    kinds = {
        route_of(path.replace("{key}", ALICE.key).encode()).kind: set(methods)
        for path, methods in DOCUMENT["paths"].items()
    }
    assert kinds == {
        kind: {method.lower() for method in methods} | {"options"}
        for kind, methods in METHODS.items()
        if kind is not Kind.UNKNOWN
    }
    fixed = {path for path in DOCUMENT["paths"] if "{" not in path}
    assert fixed == {"/", "/health", "/healthz", "/stats", "/openapi.json"}


def test_every_reference_leads_somewhere_and_everything_is_referred_to() -> None:
    found = set(re.findall(r'"#/(components/\w+/\w+)"', DESCRIPTION.read_text()))
    parts = DOCUMENT["components"]
    assert found == {f"components/{part}/{name}" for part in parts for name in parts[part]}


def test_it_has_the_same_bounds() -> None:
    parts = DOCUMENT["components"]
    (policy,) = (p for p in parts["parameters"].values() if p["name"] == "policy")
    assert policy["schema"]["enum"] == [policy.value for policy in ResolvePolicy]
    assert policy["schema"]["default"] == ResolvePolicy.CACHE_FIRST.value
    payload = parts["schemas"]["Payload"]
    key = parts["parameters"]["Key"]
    assert re.fullmatch(key["schema"]["pattern"], ALICE.key)
    assert re.fullmatch(key["schema"]["pattern"], key["examples"]["key"]["value"])
    assert (payload["minLength"], payload["maxLength"]) == (72, 1072)
    assert str(BODY_BYTES_MAX) in parts["responses"]["TooLarge"]["description"]
    assert list(parts["responses"]["Packet"]["content"]) == [PAYLOAD_TYPE.decode()]


def test_every_status_of_an_error_is_told() -> None:
    told = {
        status
        for method in ("get", "put")
        for status in DOCUMENT["paths"]["/{key}"][method]["responses"]
    }
    assert {str(status) for status in STATUS_OF.values()} - told == set()


async def test_it_is_served() -> None:
    world = World()
    reply = await world.request("GET", "/openapi.json")
    assert reply.status == 200
    assert reply.json() == DOCUMENT
    assert_told("GET", "/openapi.json", reply)
    head = await world.request("HEAD", "/openapi.json")
    assert (head.fields, head.body) == (reply.fields, b"")


@pytest.mark.parametrize("prefix", ["/", "/pkarr/"])
@pytest.mark.parametrize("fields", [[], [("Origin", "https://pkarr.test")]])
async def test_what_it_tells_of_packets(prefix: str, fields: list[tuple[str, str]]) -> None:
    world = World()
    path = prefix + ALICE.key

    async def ask(method: str, target: str, body: bytes = b"", *more: tuple[str, str]) -> int:
        reply = await world.request(method, target, [*fields, *more], body)
        assert_told(method, target, reply)
        return reply.status

    assert await ask("PUT", path, PACKET.payload) == 204
    assert await ask("PUT", path, OLDER.payload) == 409
    assert await ask("PUT", path, b"") == 400
    assert await ask("PUT", path, bytes(BODY_BYTES_MAX + 1)) == 413
    assert await ask("OPTIONS", path, b"", ("Access-Control-Request-Method", "PUT")) == 200
    for method in ("GET", "HEAD"):
        assert await ask(method, path) == 200
        assert await ask(method, path, b"", ("If-None-Match", "*")) == 304
        assert await ask(method, path + "?policy=x") == 400
        assert await ask(method, prefix + "key") == 400
        assert await ask(method, prefix + author(2).key) == 404
        world.dht.error = InvalidItemError(7)
        assert await ask(method, path + "?policy=NetworkOnly") == 404
        world.dht.error = NoNodesQueriedError()
        assert await ask(method, path + "?policy=NetworkOnly") == 503
        world.dht.error = RuntimeError("ours")
        assert await ask(method, path + "?policy=NetworkOnly") == 500
        world.dht.error = None
    for error, status in ((PublishTimedOutError(), 500), (NotMostRecentError(), 409)):
        world.dht.error = error
        assert await ask("PUT", path, PACKET.payload) == status


async def test_what_it_tells_of_a_body_that_does_not_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(messages, "BODY_TIMEOUT_S", 0.01)
    world = World()
    request = messages.Request("PUT", PATH.encode(), b"", [], None, trio.sleep_forever)
    response = await world.app.respond(request)
    assert response is not None
    fields = [(name.decode(), value.decode()) for name, value in response.headers]
    assert response.status == 408
    assert_told("PUT", PATH, Reply(response.status, fields, response.body))


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
@pytest.mark.parametrize("target", ["/", "/?key=x", "/health", "/healthz", "/stats"])
async def test_what_it_tells_of_the_relay_itself(method: str, target: str) -> None:
    world = World(stats=lambda: STATS, troubles=lambda: {"cache": "disk full"})
    reply = await world.request(method, target)
    assert reply.status == 200
    assert_told(method, target, reply)
    if method == "GET" and "health" in target:
        world.service.serving = False
        assert_told(method, target, await world.request(method, target))


@pytest.mark.parametrize(
    ("method", "target"),
    [
        *(("GET", path) for path in ("/", "/stats", "/openapi.json", PATH)),
        *(("HEAD", path) for path in ("/", PATH)),
        *(("OPTIONS", path) for path in ("/", "/stats", PATH)),
        ("PUT", PATH),
    ],
)
async def test_what_it_tells_of_limits(method: str, target: str) -> None:
    quota = Quota(interval_s=60.0, burst=1)
    config = RateLimiterConfig(behind_proxy=False, http=quota, user_dht=None, dht=None)
    world = World(limits=HttpLimits(config))
    world.keep(PACKET.payload, ALICE.key)
    statuses = []
    for _ in range(2):
        reply = await world.request(method, target, body=PACKET.payload)
        assert_told(method, target, reply)
        statuses.append(reply.status)
    assert statuses[1] == 429


async def test_what_it_tells_of_the_quota_of_the_dht() -> None:
    quota = Quota(interval_s=60.0, burst=1)
    config = RateLimiterConfig(behind_proxy=False, http=None, user_dht=quota, dht=None)
    world = World(limits=HttpLimits(config))
    for method in ("GET", "PUT"):
        await world.request("GET", PATH)
        reply = await world.request(method, PATH, body=PACKET.payload)
        assert (reply.status, reply.body) == (429, b"Too many requests to DHT nodes")
        assert_told(method, PATH, reply)
