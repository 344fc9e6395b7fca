"""Two iroh endpoints find each other through our relay and the DHT, and exchange bytes.

One side knows only the relay, the other only the DHT, so the record has really crossed from
one to the other. iroh 0.91.1 speaks transaction ids of two bytes: Rust `mainline` 8 is deaf
to it, libtorrent and our own nodes are not.
"""

from __future__ import annotations

from typing import Final

import pytest

from tests.interop.conftest import World
from tests.support import peers
from tests.support.packets import Author
from tests.support.peers import Peer

pytestmark = pytest.mark.interop

CURRENT: Final = "iroh-pair"
OLD: Final = "iroh-pair-0-91"
WAIT_S: Final = 45
"""A libtorrent look-up takes 15 s once a publisher has gone, and a dial may meet one."""

current = pytest.mark.parametrize("fresh_world", ["rust", "libtorrent"], indirect=True)
old = pytest.mark.parametrize("fresh_world", ["libtorrent", "ours"], indirect=True)


def through_relay(world: World) -> tuple[str, str]:
    return "--pkarr", world.relay.url


def through_dht(world: World) -> tuple[str, str]:
    # Not one of the nodes that the relay was told of.
    return "--dht", world.net.bootstrap[5]


def meet(name: str, listen: tuple[str, str], dial: tuple[str, str]) -> None:
    """One endpoint publishes one way, the other looks it up another way and gets its echo."""
    with Peer(peers.program(name), *listen, "listen") as far:
        met = peers.run(
            name, *dial, "dial", far.ready["key"], "ping", "--wait", WAIT_S, timeout_s=120
        )
        assert met["ok"], met
        assert met["echo"] == "ping"


@current
def test_published_to_the_relay_and_found_in_the_dht(fresh_world: World) -> None:
    meet(CURRENT, through_relay(fresh_world), through_dht(fresh_world))


@current
def test_published_to_the_dht_and_found_through_the_relay(fresh_world: World) -> None:
    meet(CURRENT, through_dht(fresh_world), through_relay(fresh_world))


@pytest.mark.parametrize("fresh_world", ["rust"], indirect=True)
@pytest.mark.parametrize("name", [CURRENT, OLD])
def test_both_sides_use_the_relay_under_either_path(fresh_world: World, name: str) -> None:
    """iroh's default base URL ends in ``/pkarr``."""
    meet(name, through_relay(fresh_world), ("--pkarr", f"{fresh_world.relay.url}pkarr"))
    stranger = Author().key
    report = peers.run(name, *through_relay(fresh_world), "dial", stranger, "--wait", 0)
    assert not report["ok"]


@old
def test_old_published_to_the_relay_and_found_in_the_dht(fresh_world: World) -> None:
    meet(OLD, through_relay(fresh_world), through_dht(fresh_world))


@old
def test_old_published_to_the_dht_and_found_through_the_relay(fresh_world: World) -> None:
    meet(OLD, through_dht(fresh_world), through_relay(fresh_world))
