"""The Rust `pkarr` client, through our relay and past it, with each of its policies."""

from __future__ import annotations

from typing import Final

import pytest

from tests.interop.conftest import World
from tests.support import peers
from tests.support.packets import Author
from tests.support.peers import Json

pytestmark = [
    pytest.mark.interop,
    pytest.mark.parametrize("world", ["rust"], indirect=True),
]

POLICIES: Final = ("CacheFirst", "CacheOnly", "NetworkOnly")
FAR_NODE: Final = 7
"""A node the relay was not told of: whatever it knows has gone through the network."""


def publish(*where: str) -> Json:
    report = peers.run("pkarr-client", *where, "publish", "--txt", "_test=1", "--size", 1000)
    assert report.get("stored"), report
    return report


def resolve(key: object, policy: str, *where: str) -> Json:
    return peers.run("pkarr-client", *where, "resolve", key, "--policy", policy)


def through(world: World) -> tuple[str, str]:
    return "--relay", world.relay.url


def past(world: World) -> tuple[str, str]:
    return "--bootstrap", world.net.bootstrap[FAR_NODE]


@pytest.mark.parametrize("policy", POLICIES)
def test_published_and_resolved_through_the_relay(world: World, policy: str) -> None:
    report = publish(*through(world))
    assert report["stored"] == world.size
    assert resolve(report["key"], policy, *through(world))["payload"] == report["payload"]


@pytest.mark.parametrize("policy", ["CacheFirst", "NetworkOnly"])
def test_published_through_the_relay_and_resolved_past_it(world: World, policy: str) -> None:
    report = publish(*through(world))
    assert resolve(report["key"], policy, *past(world))["payload"] == report["payload"]


@pytest.mark.parametrize("policy", ["CacheFirst", "NetworkOnly"])
def test_published_past_the_relay_and_resolved_through_it(world: World, policy: str) -> None:
    report = publish(*past(world))
    key = report["key"]
    assert "error" in resolve(key, "CacheOnly", *through(world))
    assert resolve(key, policy, *through(world))["payload"] == report["payload"]
    assert resolve(key, "CacheOnly", *through(world))["payload"] == report["payload"]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_key_without_a_packet_is_not_found(world: World, policy: str) -> None:
    report = resolve(Author().key, policy, *through(world))
    assert "not found" in str(report["error"]).lower()


def test_an_older_packet_is_refused(world: World) -> None:
    seed = Author().seed.hex()
    options = (*through(world), "publish", "--seed", seed, "--txt", "_test=1", "--timestamp")
    assert peers.run("pkarr-client", *options, 2_000_000)["stored"] == world.size
    report = peers.run("pkarr-client", *options, 1_000_000)
    assert "more recent" in str(report["error"])
