"""What does the DHT node itself cost for each answer to its look-ups and puts?

A `DhtNode` in this process and scripted nodes around it: no sockets, no driver, no network. The
scripted nodes read queries and make answers outside of what is timed, so the figure is the
node's own: taking an answer in, acting on it, and making the queries that follow.

    python -m bench.node [--nodes 12] [--rounds 20] [--at-once 64] [--profile]
"""

from __future__ import annotations

import argparse
import cProfile
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha1
from typing import Final

from nacl.signing import SigningKey

from relay import _kernels
from relay.dht import krpc
from relay.dht.events import GetFinished, PutFinished
from relay.dht.items import MutableItem
from relay.dht.krpc import Query
from relay.dht.node import DhtNode
from relay.dht.node_id import Address, NodeInfo
from relay.net.udp import BATCH_DATAGRAMS
from tests.support.packets import signable

VALUE: Final = random.Random(7).randbytes(250)
NAMED_MAX: Final = 20
"""Nodes named in an answer."""


@dataclass
class Scripted:
    """A remote node that knows all others and stores what it is given."""

    info: NodeInfo
    nodes: list[NodeInfo]
    stored: dict[bytes, dict[bytes, _kernels.Value]] = field(default_factory=dict)

    def answer(self, payload: bytes, asker: Address) -> bytes:
        """Return the reply to a query."""
        query = krpc.decode(payload)
        assert isinstance(query, Query)
        arguments = query.arguments
        values: dict[bytes, _kernels.Value] = {b"id": self.info.id}
        if query.method == b"put":
            key = arguments[b"k"]
            assert isinstance(key, bytes)
            self.stored[sha1(key, usedforsecurity=False).digest()] = {
                name: arguments[name] for name in (b"k", b"seq", b"sig", b"v")
            }
        elif query.method != b"ping":
            target = arguments[b"target"]
            assert isinstance(target, bytes)
            centre = int.from_bytes(target, "big")
            closest = sorted(self.nodes, key=lambda n: int.from_bytes(n.id, "big") ^ centre)
            values[b"nodes"] = krpc.pack_nodes(closest[:NAMED_MAX])
            if query.method == b"get":
                values[b"token"] = self.info.id[:8]
                values.update(self.stored.get(target, {}))
        return krpc.encode(krpc.Response(query.transaction_id, values, requester=asker))


@dataclass
class Cost:
    """CPU seconds inside the node, and what it did in them."""

    seconds: float = 0.0
    answers: int = 0
    operations: int = 0

    def __str__(self) -> str:
        return (
            f"{self.seconds / self.answers * 1e6:6.1f} µs an answer, "
            f"{self.answers / self.operations:5.1f} answers and "
            f"{self.seconds / self.operations * 1e6:7.1f} µs an operation"
        )


class World:
    """One node under measurement among scripted ones, in virtual time."""

    def __init__(self, count: int, seed: int = 1) -> None:
        rng = random.Random(seed)
        self.now = 0.0
        self.own: Address = ("127.0.0.1", 6881)
        infos = [NodeInfo(rng.randbytes(20), ("127.0.0.1", 7000 + at)) for at in range(count)]
        self.others = {info.address: Scripted(info, infos) for info in infos}
        self.profile: cProfile.Profile | None = None
        self.node = DhtNode(
            rng=rng,
            secret=bytes(32),
            now=0.0,
            local_address=self.own,
            server_mode=False,
            bootstrap=[infos[0].address],
        )
        self.settle(Cost())

    def timed(self, cost: Cost, work: Callable[[], object]) -> None:
        """Do some of the node's work on its account."""
        if self.profile is not None:
            self.profile.enable()
        begun = time.process_time()
        work()
        cost.seconds += time.process_time() - begun
        if self.profile is not None:
            self.profile.disable()

    def settle(self, cost: Cost) -> int:
        """Carry datagrams to and fro until nothing moves; return how many operations ended."""
        node, ended = self.node, 0
        datagrams: list[tuple[bytes, Address]] = []
        arrivals: list[tuple[bytes, Address]] = []

        def turn() -> None:
            nonlocal ended
            for at in range(0, len(arrivals), BATCH_DATAGRAMS):
                node.receive_datagrams(arrivals[at : at + BATCH_DATAGRAMS], self.now)
            datagrams[:] = node.datagrams_to_send()
            for event in node.take_events():
                ended += isinstance(event, GetFinished | PutFinished)
            node.next_deadline()

        while True:
            self.timed(cost, turn)
            cost.answers += len(arrivals)
            if not datagrams:
                cost.operations += ended
                return ended
            arrivals = [
                (self.others[address].answer(payload, self.own), address)
                for payload, address in datagrams
                if address in self.others  # our own address gets a ping, too
            ]
            arrivals.sort(key=lambda arrival: arrival[1])  # each node answers all it was asked
            self.now += 0.001


def items(count: int, seed: int) -> list[MutableItem]:
    """Return signed items of distinct keys."""
    made = []
    for at in range(count):
        key = SigningKey(random.Random(seed * 1_000_003 + at).randbytes(32))
        signature = key.sign(signable(1, VALUE)).signature
        made.append(MutableItem.from_value(bytes(key.verify_key), 1, VALUE, signature))
    return made


def measure(nodes: int, rounds: int, at_once: int, *, profile: bool) -> dict[str, Cost]:
    """Return the cost of puts, of look-ups that find the item and of those that find nothing."""
    world = World(nodes)
    if profile:
        world.profile = cProfile.Profile()
    costs = {name: Cost() for name in ("put", "put again", "look-up", "look-up of nothing")}
    for number in range(rounds):
        batch = items(at_once, number)
        absent = items(at_once, number + 10**6)

        def put(batch: list[MutableItem] = batch) -> None:
            for item in batch:
                world.node.start_put(item, now=world.now)

        def get(batch: list[MutableItem]) -> None:
            for item in batch:
                world.node.start_get(item.public_key, now=world.now)

        world.timed(costs["put"], put)
        world.settle(costs["put"])
        world.timed(costs["put again"], put)
        world.settle(costs["put again"])
        world.timed(costs["look-up"], partial(get, batch))
        world.settle(costs["look-up"])
        world.timed(costs["look-up of nothing"], partial(get, absent))
        world.settle(costs["look-up of nothing"])
    if world.profile is not None:
        world.profile.print_stats("tottime")
    return costs


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nodes", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--at-once", type=int, default=64)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    print(f"{_kernels.IMPLEMENTATION}, {options.nodes} nodes, {options.at_once} at once")
    costs = measure(options.nodes, options.rounds, options.at_once, profile=options.profile)
    for name, cost in costs.items():
        print(f"{name:20} {cost}")


if __name__ == "__main__":
    main()
