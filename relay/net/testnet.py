"""A small DHT of our own nodes on one machine, for tests and for trying things out.

    async with open_testnet(10) as testnet:
        async with Client(bootstrap=testnet.bootstrap) as client:
            ...

Every node is a real one, on a socket of its own, in the calling program's event loop. They
know nobody outside, so nothing leaves the machine.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import trio

from relay.dht.lookup import K
from relay.net.start import open_driver
from relay.net.udp import DhtDriver

LOOPBACK: Final = "127.0.0.1"
REQUEST_TIMEOUT_S: Final = 0.5
"""Nobody on the loopback interface needs longer, except on a machine that is very busy."""
JOIN_TIMEOUT_S: Final = 10.0
JOIN_POLL_S: Final = 0.01
_ENTRANCES: Final = 3
"""How many nodes newcomers are told of; more than one, so that any one may go."""


@dataclass(frozen=True, slots=True)
class Testnet:
    """Running nodes. Each may be used like any other, for instance to publish on its behalf."""

    __test__ = False  # for pytest: not a test class

    drivers: tuple[DhtDriver, ...]

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Where the nodes listen."""
        return tuple(driver.local_address for driver in self.drivers)

    @property
    def bootstrap(self) -> tuple[tuple[str, int], ...]:
        """The addresses that a newcomer begins with."""
        return self.addresses[:_ENTRANCES]


@asynccontextmanager
async def open_testnet(
    count: int = 10, *, request_timeout_s: float = REQUEST_TIMEOUT_S
) -> AsyncIterator[Testnet]:
    """Run `count` nodes on 127.0.0.1, on free ports, until the block is left.

    When the block is entered all of them know one another, or at least the `K` that a look-up
    needs. Errors of the block come out of it wrapped in an exception group, as with any nursery.
    """
    async with trio.open_nursery() as nursery:
        drivers = [
            open_driver(
                port=0,
                bind_address=LOOPBACK,
                bootstrap=(),
                server_mode=True,
                request_timeout_s=request_timeout_s,
            )
            for _ in range(count)
        ]
        addresses = [driver.local_address for driver in drivers]
        for driver in drivers:
            # All others: only an answer fills a routing table, so that nodes that join one by
            # one know those who came before them and not those who came after.
            others = [address for address in addresses if address != driver.local_address]
            driver.node.add_bootstrap(others, trio.current_time())
            await nursery.start(driver.run)
        with trio.move_on_after(JOIN_TIMEOUT_S):
            known = min(K, count - 1)
            while any(driver.node.table_size < known for driver in drivers):  # noqa: ASYNC110
                await trio.sleep(JOIN_POLL_S)  # no event tells the size of a table
        yield Testnet(tuple(drivers))
        nursery.cancel_scope.cancel()
