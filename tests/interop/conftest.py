"""Networks of real peers with our relay on them.

A network is fresh wherever a test leaves dead nodes behind: libtorrent keeps whoever put
with a token in its table, and then every look-up waits 15 s for the program that has gone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.support import peers
from tests.support.packets import Author, Packet
from tests.support.peers import Json, Peer
from tests.support.relay import RelayProcess

JoinRelay = Callable[..., RelayProcess]

NETWORKS: Final[dict[str, Callable[[], Peer]]] = {
    "libtorrent": lambda: peers.libtorrent_net("--nodes", 8),
    "rust": lambda: peers.rust_net("--nodes", 10),
    "ours": lambda: peers.own_net(10),
}
ARTIFACTS: Final = Path(__file__).resolve().parents[2] / "artifacts"
"""Where tests leave pictures."""
ENTRY_NODES: Final = 2
"""How many nodes of a network a relay is told of; it has to find the others by itself."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say where the pictures are, which are part of what a run puts out."""
    for picture in sorted(ARTIFACTS.glob("*.png")):
        terminalreporter.write_line(f"picture: {picture}")


@dataclass(frozen=True, slots=True)
class World:
    """A network and a relay of ours that has joined it."""

    net: Peer
    relay: RelayProcess

    @property
    def size(self) -> int:
        """Number of nodes besides the relay's."""
        return len(self.net.bootstrap)

    def put(self, author: Author, packet: Packet) -> Json:
        """Let a node of the network publish a packet, without the relay."""
        return self.net("put", seed=author.seed.hex(), seq=packet.timestamp_us, v=packet.dns.hex())

    def find(self, author: Author, node: int) -> Json:
        """Let a node of the network look a key up, without the relay."""
        return self.net("get", k=author.public_key.hex(), node=node)


@pytest.fixture
def join_relay(tmp_path: Path) -> Iterator[JoinRelay]:
    """Start relays of ours that join a network and have found some of its nodes."""
    with ExitStack() as stack:

        def start(bootstrap: Sequence[str]) -> RelayProcess:
            folder = tmp_path / f"relay-{os.urandom(4).hex()}"
            folder.mkdir()
            relay = stack.enter_context(RelayProcess(folder, bootstrap=bootstrap))
            return relay.wait_bootstrapped()

        yield start


@pytest.fixture
def fresh_world(join_relay: JoinRelay, request: pytest.FixtureRequest) -> Iterator[World]:
    """A network of the kind named by the parameter, that no other test has used."""
    with NETWORKS[request.param]() as net:
        yield World(net, join_relay(net.bootstrap[:ENTRY_NODES]))


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[World]:
    """A network of the kind named by the parameter, shared by the tests of a module."""
    folder = tmp_path_factory.mktemp(request.param)
    with (
        NETWORKS[request.param]() as net,
        RelayProcess(folder, bootstrap=net.bootstrap[:ENTRY_NODES]) as relay,
    ):
        yield World(net, relay.wait_bootstrapped())
