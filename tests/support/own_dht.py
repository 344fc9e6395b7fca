"""A loopback Mainline DHT made of our own nodes, in a process of its own.

    python -m tests.support.own_dht --nodes 10

prints one JSON line with the nodes' addresses once they have found one another, then runs
until its stdin ends, as the networks of ``../shared/peers`` do.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Final

import trio

from relay.net.start import open_driver

HOST: Final = "127.0.0.1"
KNOWN_MIN: Final = 8
"""As many others, or all of a smaller network, must be in every node's table at the start."""
START_S: Final = 20.0
POLL_S: Final = 0.02


async def run(count: int) -> None:
    """Run the network until stdin ends."""
    async with trio.open_nursery() as nursery:
        drivers = [
            open_driver(port=0, bind_address=HOST, bootstrap=(), server_mode=True)
            for _ in range(count)
        ]
        addresses = [driver.local_address for driver in drivers]
        for driver in drivers:
            # All others, as only answers fill a routing table: nodes that join one by one
            # know those who came before them and not those who came after.
            others = [address for address in addresses if address != driver.local_address]
            driver.node.add_bootstrap(others, trio.current_time())
            await nursery.start(driver.run)
        with trio.fail_after(START_S):
            known = min(KNOWN_MIN, count - 1)
            while any(d.node.table_size < known for d in drivers):  # noqa: ASYNC110 - no event
                await trio.sleep(POLL_S)
        bootstrap = [f"{host}:{port}" for host, port in addresses]
        print(json.dumps({"event": "ready", "impl": "ours", "bootstrap": bootstrap}), flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nodes", type=int, default=10)
    trio.run(run, parser.parse_args().nodes)


if __name__ == "__main__":
    main()
