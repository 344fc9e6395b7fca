"""Floods of requests for keys that nobody has: one key for all, and another key for each.

Each look-up costs datagrams to other nodes, so they are shared, remembered for a second, limited in
number, and paced on the wire; whoever asks for what is in the cache notices nothing.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from relay.service import ABSENT_S
from tests.support import peers
from tests.support.packets import Author, Packet
from tests.support.relay import RelayProcess, status_of

pytestmark = pytest.mark.slow

CLIENTS: Final = 1_000
NODES: Final = 5
GROWTH_MAX: Final = 96 * 1024 * 1024
"""What a thousand connections with a task and a look-up each may take, with what the allocator
keeps; in this small network a look-up knows few nodes."""
QUERIES_PER_LOOKUP_MAX: Final = 2 * (NODES + 2)
"""Each node is asked once, and once more if it is slow."""


@dataclass(frozen=True, slots=True)
class World:
    """A relay with a packet in its cache."""

    relay: RelayProcess
    packet: Packet


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    sections = {"http": "max_connections = 2000\nmax_connections_per_address = 0"}
    with (
        peers.own_net(NODES) as net,
        RelayProcess(tmp_path, bootstrap=net.bootstrap, sections=sections) as relay,
    ):
        relay.wait_bootstrapped()
        packet = Author().packet("hot")
        assert relay.put(packet.key, packet.payload).status == 204
        assert relay.get(Author().key).status == 404
        yield World(relay, packet)


def told(growth: int) -> str:
    return f"{growth / 2**20:.1f} MiB grown"


def ask_all(world: World, keys: Sequence[str]) -> list[int]:
    """Ask for all keys at once, each on a connection of its own; return the statuses.

    Beside that ask for what is in the cache, until all are answered.
    """
    statuses = []
    with world.relay.asked(keys) as socks:
        for number, sock in enumerate(socks):
            if number % 100 == 0:
                assert world.relay.get(world.packet.key).body == world.packet.payload
            statuses.append(status_of(sock))
    return statuses


def test_one_missing_key_asked_for_by_all(world: World) -> None:
    relay, key = world.relay, Author().key
    before, rss_before = relay.dht_stats(), relay.rss_bytes()
    began = time.monotonic()
    statuses = ask_all(world, [key] * CLIENTS)
    took_s = time.monotonic() - began
    after = relay.dht_stats()
    lookups = after["lookups"] - before["lookups"]
    queries = after["queries_out"] + after["queries_repeated"] - before["queries_out"]
    growth = relay.rss_bytes() - rss_before
    found = Counter(statuses)
    print(f"{CLIENTS} clients: {found}, {lookups} look-ups, {queries} queries,", told(growth))
    assert set(statuses) <= {404, 503}  # 503: too few nodes answered one of the look-ups in time
    assert lookups <= 2 + took_s / ABSENT_S
    assert growth < GROWTH_MAX


def test_another_missing_key_for_each(world: World) -> None:
    relay = world.relay
    keys = [Author().key for _ in range(CLIENTS)]
    before, rss_before = relay.dht_stats(), relay.rss_bytes()
    statuses = ask_all(world, keys)
    after = relay.dht_stats()
    lookups = after["lookups"] - before["lookups"]
    sent = ("queries_out", "queries_repeated")
    queries = sum(after[name] - before[name] for name in sent)
    growth = relay.rss_bytes() - rss_before
    found = Counter(statuses)
    print(f"{CLIENTS} keys: {found}, {lookups} look-ups, {queries} queries,", told(growth))
    assert set(statuses) <= {404, 503}
    assert statuses.count(404) >= CLIENTS // 2
    assert 0 < lookups <= CLIENTS + 2
    assert queries <= lookups * QUERIES_PER_LOOKUP_MAX
    assert growth < GROWTH_MAX
    assert "Traceback" not in relay.log()
    assert relay.get(Author().key).status == 404
