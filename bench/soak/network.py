"""A DHT of our own nodes that come and go, in a process of its own.

    python -m bench.soak.network --nodes 20 --life 240

One node after another is stopped, without a word to anybody, and another one with a new id and a
new port takes its place, so that each lives for ``--life`` seconds. Prints a line of JSON with the
first nodes' addresses, and for each line of stdin one with how many have come and gone; ends when
stdin does.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import deque
from dataclasses import dataclass, field
from functools import partial

import trio

from relay.dht import node
from relay.dht.items import ItemStore
from relay.net.start import open_driver
from relay.net.testnet import LOOPBACK, REQUEST_TIMEOUT_S
from relay.net.udp import DhtDriver

INTRODUCTIONS = 5
"""How many living nodes a newcomer is told of."""
JOIN_S = 30.0
ITEMS_MAX = 5000
"""In a real network no node holds many packets of one relay. These few hold all of them."""


@dataclass
class Network:
    """The nodes that live, oldest first."""

    nursery: trio.Nursery
    living: deque[tuple[DhtDriver, trio.CancelScope]] = field(default_factory=deque)
    come: int = 0
    gone: int = 0

    async def add(self) -> None:
        """Start a node that knows a few of the others."""
        known = [driver.local_address for driver, _ in self.living][-INTRODUCTIONS:]
        driver = open_driver(
            port=0,
            bind_address=LOOPBACK,
            bootstrap=known,
            server_mode=True,
            request_timeout_s=REQUEST_TIMEOUT_S,
        )
        scope = trio.CancelScope()

        async def live(task_status: trio.TaskStatus[tuple[str, int]]) -> None:
            with scope:
                await driver.run(task_status=task_status)

        await self.nursery.start(live)
        self.living.append((driver, scope))
        self.come += 1

    def drop(self) -> None:
        """Stop the oldest node; it says good-bye to nobody."""
        _, scope = self.living.popleft()
        scope.cancel()
        self.gone += 1

    async def churn(self, period_s: float) -> None:
        """Replace a node every `period_s` seconds."""
        while True:
            await trio.sleep(period_s)
            await self.add()
            self.drop()


async def run(nodes: int, life_s: float) -> None:
    """Run the network until stdin ends."""
    async with trio.open_nursery() as nursery:
        network = Network(nursery)
        for _ in range(nodes):
            await network.add()
        with trio.move_on_after(JOIN_S):
            # No event tells the size of a table.
            while any(d.node.table_size < nodes // 2 for d, _ in network.living):  # noqa: ASYNC110
                await trio.sleep(0.05)
        addresses = [f"{LOOPBACK}:{driver.local_address[1]}" for driver, _ in network.living]
        _say({"event": "ready", "bootstrap": addresses})
        nursery.start_soon(network.churn, life_s / nodes)
        while await trio.to_thread.run_sync(sys.stdin.readline):
            living = [f"{LOOPBACK}:{driver.local_address[1]}" for driver, _ in network.living]
            _say({"ok": True, "come": network.come, "gone": network.gone, "living": living})
        nursery.cancel_scope.cancel()


def _say(words: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nodes", type=int, default=20)
    parser.add_argument("--life", type=float, default=240.0, help="seconds that a node lives")
    arguments = parser.parse_args()
    setattr(node, "ItemStore", partial(ItemStore, ITEMS_MAX))  # noqa: B010  # not for mypy to see
    trio.run(run, arguments.nodes, arguments.life)


if __name__ == "__main__":
    main()
