"""A loopback Mainline DHT made of our own nodes, in a process of its own.

    python -m tests.support.own_dht --nodes 10

prints one JSON line with the nodes' addresses once they have found one another, then runs
until its stdin ends, as the networks of ``../shared/peers`` do.
"""

from __future__ import annotations

import argparse
import json
import random
import secrets
import socket
import sys
from typing import Final

import trio

from relay.dht.node import DhtNode
from relay.net.udp import DhtDriver
from relay.net.udp_socket import bind_udp

HOST: Final = "127.0.0.1"
KNOWN_MIN: Final = 8
"""As many others, or all of a smaller network, must be in every node's table at the start."""
START_S: Final = 20.0
POLL_S: Final = 0.02


def make_driver(sock: socket.socket, everybody: list[tuple[str, int]]) -> DhtDriver:
    """Build a node that serves and begins with all others.

    Only answers fill a routing table, so nodes that join one by one know those who came
    before them and not those who came after.
    """
    own = sock.getsockname()
    node = DhtNode(
        rng=random.SystemRandom(),
        secret=secrets.token_bytes(32),
        now=trio.current_time(),
        local_address=own,
        server_mode=True,
        bootstrap=[address for address in everybody if address != own],
    )
    return DhtDriver(node, sock)


async def run(count: int) -> None:
    """Run the network until stdin ends."""
    async with trio.open_nursery() as nursery:
        socks = [bind_udp(0, HOST) for _ in range(count)]
        everybody: list[tuple[str, int]] = [sock.getsockname() for sock in socks]
        drivers = [make_driver(sock, everybody) for sock in socks]
        for driver in drivers:
            await nursery.start(driver.run)
        with trio.fail_after(START_S):
            known = min(KNOWN_MIN, count - 1)
            while any(d.node.table_size < known for d in drivers):  # noqa: ASYNC110 - no event
                await trio.sleep(POLL_S)
        addresses = [f"{host}:{port}" for host, port in (d.local_address for d in drivers)]
        print(json.dumps({"event": "ready", "impl": "ours", "bootstrap": addresses}), flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nodes", type=int, default=10)
    trio.run(run, parser.parse_args().nodes)


if __name__ == "__main__":
    main()
