"""A hundred look-ups at once, and hardly a reply is lost.

Each look-up asks every node of a 20-node network, and all replies come to one UDP socket
within milliseconds. The reference loses most of them to its full receive buffer.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pytest

from tests.interop.conftest import JoinRelay, World
from tests.support import peers
from tests.support.packets import Author
from tests.support.relay import Answer

pytestmark = pytest.mark.interop

NODES: Final = 20
LOOKUPS: Final = 100
PUBLISHED: Final = 20
REPLIES_MIN: Final = 0.99

NETWORKS: Final = {
    "rust": lambda: peers.rust_net("--nodes", NODES),
    "ours": lambda: peers.own_net(NODES),
}


@pytest.fixture(params=NETWORKS)
def crowd(request: pytest.FixtureRequest, join_relay: JoinRelay) -> Iterator[World]:
    with NETWORKS[request.param]() as net:
        yield World(net, join_relay(net.bootstrap[:2]))


def test_a_hundred_lookups_at_once_get_their_replies(
    crowd: World,
) -> None:
    packets = [Author().packet(f"number {number}") for number in range(PUBLISHED)]
    for packet in packets:
        assert crowd.relay.put(packet.key, packet.payload).status == 204
    unknown = [Author().key for _ in range(LOOKUPS - PUBLISHED)]
    before = crowd.relay.dht_stats()

    def ask(key: str) -> Answer:
        return crowd.relay.get(key, "NetworkOnly")

    with ThreadPoolExecutor(LOOKUPS) as threads:
        found = threads.map(ask, [packet.key for packet in packets])
        absent = threads.map(ask, unknown)
        assert [answer.body for answer in found] == [packet.payload for packet in packets]
        assert {answer.status for answer in absent} == {404}

    after = crowd.relay.dht_stats()
    asked = after["queries_out"] - before["queries_out"]
    replied = after["responses_in"] - before["responses_in"]
    print(f"{replied} replies to {asked} queries")  # shown by -rP
    assert asked >= LOOKUPS * NODES, "every look-up asks every node"
    assert replied >= REPLIES_MIN * asked, (replied, asked, after)
    assert after["datagrams"]["kernel_drops"] == before["datagrams"]["kernel_drops"]
