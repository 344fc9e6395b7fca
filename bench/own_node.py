"""A DHT node of ours without a relay, its routing table filled by hand.

    python -m bench.own_node PORT NODES NODES_PORT

Driver and node are what the relay runs. A node of ours asks at most 64 bootstrap nodes, and no
look-up comes by 500, so a table that large grows within hours; here nodes on 127.1.X.Y:NODES_PORT,
20 in each of the first buckets, are added directly. Prints its address as a line of JSON, then a
line with the size of its table for each line of stdin; ends when stdin does.
"""

from __future__ import annotations

import json
import random
import sys

import trio

from relay.dht.node_id import NodeInfo
from relay.dht.routing_table import K, RoutingTable
from relay.net.start import open_driver
from relay.net.udp import DhtDriver


async def run(port: int, nodes: int, nodes_port: int) -> None:
    """Serve until stdin ends."""
    driver = open_driver(
        port=port,
        bind_address="127.0.0.1",
        bootstrap=[("127.1.0.1", nodes_port)],
        server_mode=True,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(driver.run)
        _fill(_table(driver), nodes, nodes_port)
        _say({"bootstrap": [f"127.0.0.1:{port}"]})
        while await trio.to_thread.run_sync(sys.stdin.readline):
            _say({"ok": True, "table": driver.node.table_size})
        nursery.cancel_scope.cancel()


def _table(driver: DhtDriver) -> RoutingTable:
    # Nobody but a bench needs a way to do this, so the node has none.
    return driver.node._table


def _fill(table: RoutingTable, count: int, port: int) -> None:
    """Add nodes whose ids leave ours at the first bit, the second, and so on, 20 for each."""
    own = int.from_bytes(table.own_id)
    for number in range(count):
        depth = number // K
        distance = 1 << (159 - depth) | random.getrandbits(159 - depth)
        address = f"127.1.{number // 250}.{number % 250 + 1}", port
        table.add(NodeInfo((own ^ distance).to_bytes(20), address), trio.current_time())


def _say(words: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    trio.run(run, int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
