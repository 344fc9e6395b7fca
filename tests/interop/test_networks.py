"""Packets go through our relay onto networks of other implementations, and come back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.interop.conftest import JoinRelay, World
from tests.support import peers
from tests.support.packets import Author, now_us, verifies
from tests.support.relay import RelayProcess, wait_until

pytestmark = pytest.mark.interop

SECOND_US: Final = 1_000_000
LIBTORRENT_V_MAX: Final = 996
"""libtorrent counts the length prefix ``996:`` into its 1,000 bytes; Rust nodes do not."""

on_both = pytest.mark.parametrize("world", ["libtorrent", "rust"], indirect=True)


@on_both
def test_what_the_relay_publishes_is_found_by_every_node(world: World) -> None:
    author = Author()
    packet = author.packet("through the relay", size=LIBTORRENT_V_MAX)

    answer = world.relay.put(author.key, packet.payload)

    assert answer.status == 204, answer
    assert int(answer.headers["pkarr-dht-stored-nodes"]) == world.size
    for node in range(world.size):
        found = world.find(author, node)
        assert (found["seq"], found["v"]) == (packet.timestamp_us, packet.dns.hex())
        assert found["sig"] == packet.payload[:64].hex()


@on_both
@pytest.mark.parametrize("policy", [None, "CacheFirst", "NetworkOnly"])
def test_what_a_node_publishes_is_found_through_the_relay(world: World, policy: str | None) -> None:
    author = Author()
    packet = author.packet("past the relay")
    world.put(author, packet)

    assert world.relay.get(author.key, "CacheOnly").status == 404
    answer = world.relay.get(author.key, policy)

    assert answer.status == 200, answer
    if policy == "NetworkOnly":
        assert answer.body == packet.payload
    else:
        # The first valid packet is the answer. On a libtorrent network that may be the one with
        # the sequence number before, which the publishing node itself still holds; the look-up
        # goes on and brings the newest into the cache.
        assert verifies(author.public_key, answer.body)
        wait_until(
            lambda: world.relay.get(author.key, "CacheOnly").body == packet.payload,
            "the newest packet in the cache",
        )


@on_both
def test_the_network_only_policy_sees_what_was_published_past_the_cache(world: World) -> None:
    author = Author()
    first = author.packet("first", timestamp_us=now_us() - SECOND_US)
    second = author.packet("second")
    assert world.relay.put(author.key, first.payload).status == 204
    world.put(author, second)

    assert world.relay.get(author.key).body == first.payload
    assert world.relay.get(author.key, "NetworkOnly").body == second.payload
    assert world.relay.get(author.key, "CacheOnly").body == second.payload


@on_both
def test_an_older_packet_than_the_network_has_is_refused(world: World) -> None:
    author = Author()
    old = author.packet("old", timestamp_us=now_us() - SECOND_US)
    new = author.packet("new")
    world.put(author, new)

    answer = world.relay.put(author.key, old.payload)

    assert (answer.status, answer.body) == (409, b"packet is not the most recent")
    assert world.find(author, 0)["seq"] == new.timestamp_us
    assert world.relay.get(author.key).body == new.payload


@on_both
def test_a_key_that_nobody_published_is_not_found(world: World) -> None:
    for policy in ("CacheFirst", "CacheOnly", "NetworkOnly"):
        answer = world.relay.get(Author().key, policy)
        assert (answer.status, answer.body) == (404, b"")


@pytest.mark.parametrize("world", ["rust"], indirect=True)
def test_a_value_of_1000_bytes_is_stored_by_rust_nodes(world: World) -> None:
    author = Author()
    packet = author.packet(size=1000)
    answer = world.relay.put(author.key, packet.payload)
    assert answer.headers["pkarr-dht-stored-nodes"] == str(world.size), answer
    assert world.find(author, world.size - 1)["v"] == packet.dns.hex()


@pytest.mark.parametrize("world", ["libtorrent"], indirect=True)
def test_a_value_that_every_node_refuses_is_an_error_and_not_kept(world: World) -> None:
    """libtorrent answers 205; the reference counts its own node and says 204, we do not."""
    author = Author()
    packet = author.packet(size=LIBTORRENT_V_MAX + 1)
    answer = world.relay.put(author.key, packet.payload)
    assert (answer.status, answer.body) == (500, b"DHT query timed out")
    assert world.relay.get(author.key, "CacheOnly").status == 404


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, World]]:
    """libtorrent and Rust nodes in one network, entered by the relay from both sides."""
    folder = tmp_path_factory.mktemp("mixed")
    with (
        peers.libtorrent_net("--nodes", 6) as cpp,
        peers.rust_net("--nodes", 6, *peers.with_bootstrap(cpp.bootstrap[:2])) as rust,
        RelayProcess(folder, bootstrap=[cpp.bootstrap[0], rust.bootstrap[0]]) as relay,
    ):
        relay.wait_bootstrapped()
        yield World(cpp, relay), World(rust, relay)


def test_a_mixed_network_stores_on_both_kinds(mixed: tuple[World, World]) -> None:
    author = Author()
    packet = author.packet("for everybody")
    answer = mixed[0].relay.put(author.key, packet.payload)
    assert answer.status == 204, answer
    assert int(answer.headers["pkarr-dht-stored-nodes"]) > max(mixed[0].size, mixed[1].size)
    for side in mixed:
        assert side.find(author, 3)["v"] == packet.dns.hex()


@pytest.mark.parametrize("writer", [0, 1], ids=["libtorrent", "rust"])
def test_a_mixed_network_is_read_from_either_kind(mixed: tuple[World, World], writer: int) -> None:
    author = Author()
    packet = author.packet("from one side")
    mixed[writer].put(author, packet)
    assert mixed[0].relay.get(author.key).body == packet.payload


LIBTORRENT_K: Final = 8
PUTS_UNDER_STRICT_LIMITS: Final = 12
"""Two packets each to every node within seconds: half of libtorrent's ban at 50 in ten."""


def test_libtorrents_real_limits_do_not_ban_the_relay(join_relay: JoinRelay) -> None:
    """One address in a /24 each, default limits: what a node on the Internet applies."""
    with peers.libtorrent_net("--nodes", 12, "--distinct-ips", "--strict") as net:
        world = World(net, join_relay(net.bootstrap[:2]))
        stored: list[int] = []
        for number in range(PUTS_UNDER_STRICT_LIMITS):
            author = Author()
            packet = author.packet(f"packet {number}")
            answer = world.relay.put(author.key, packet.payload)
            assert answer.status == 204, (stored, answer)
            stored.append(int(answer.headers["pkarr-dht-stored-nodes"]))
        # A libtorrent node names its 8 closest: the first look-ups may not see all twelve.
        # Were the relay banned anywhere, the count would fall.
        assert stored == sorted(stored), stored
        assert stored[0] >= LIBTORRENT_K
        assert world.find(author, 11)["v"] == packet.dns.hex()
        assert world.relay.get(author.key, "NetworkOnly").body == packet.payload


def test_a_restarted_relay_finds_its_network_without_bootstrap_names(
    join_relay: JoinRelay, tmp_path: Path
) -> None:
    """The routing table is saved, so that routers that have gone do not matter."""
    with peers.rust_net("--nodes", 10) as net:
        relay = join_relay(net.bootstrap[:1])
        author = Author()
        packet = author.packet()
        assert relay.put(author.key, packet.payload).status == 204
        assert relay.stop() == 0
        again = tmp_path / "again"
        again.mkdir()
        with RelayProcess(again, cache=relay.cache) as second:
            second.wait_bootstrapped()
            assert second.get(author.key, "NetworkOnly").body == packet.payload
