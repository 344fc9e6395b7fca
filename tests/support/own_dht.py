"""A loopback Mainline DHT made of our own nodes, in a process of its own.

    python -m tests.support.own_dht --nodes 10

prints one JSON line with the nodes' addresses once they have found one another, then runs
until its stdin ends, as the networks of ``../shared/peers`` do.
"""

from __future__ import annotations

import argparse
import json
import sys

import trio

from relay.net.testnet import open_testnet


async def run(count: int) -> None:
    """Run the network until stdin ends."""
    async with open_testnet(count) as testnet:
        bootstrap = [f"{host}:{port}" for host, port in testnet.addresses]
        print(json.dumps({"event": "ready", "impl": "ours", "bootstrap": bootstrap}), flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nodes", type=int, default=10)
    trio.run(run, parser.parse_args().nodes)


if __name__ == "__main__":
    main()
