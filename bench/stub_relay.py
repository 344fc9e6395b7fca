"""A relay of ours whose DHT is a stub: every publication is acknowledged by 20 nodes at once.

    python -m bench.stub_relay FOLDER [CAPACITY]

Front lane, Hypercorn, service and store are the product's; the cache in FOLDER is as durable as
ever, for CAPACITY packets, a million if left out. Prints its URL as a line of JSON and runs until
stdin ends.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Final

import trio

from relay.clock import wall_clock_us
from relay.config import HttpConfig
from relay.http.app import create_app
from relay.http.front import front_lane
from relay.http.limits import HttpLimits
from relay.http.listener import open_listeners
from relay.http.serve import serve_http
from relay.pkarr.keys import PublicKey
from relay.pkarr.packet import SignedPacket
from relay.service import RelayService
from relay.store.worker import PacketStore

CAPACITY_PACKETS: Final = 1_000_000
STORED_NODES: Final = 20


class StubDht:
    """Knows nothing and takes everything; see `relay.service.Dht`."""

    def __init__(self) -> None:
        self.on_packet: Callable[[SignedPacket], None] | None = None

    async def resolve(
        self,
        key: PublicKey,
        *,
        newer_than_us: int | None = None,
        accept: Callable[[SignedPacket], bool] | None = None,
    ) -> SignedPacket | None:
        """Find nothing."""
        await trio.lowlevel.checkpoint()
        return None

    async def publish(
        self, packet: SignedPacket, *, on_assured: Callable[[], None] | None = None
    ) -> int:
        """Take it."""
        await trio.lowlevel.checkpoint()
        return STORED_NODES


async def run(folder: Path, capacity: int) -> None:
    """Serve until stdin ends."""
    store = PacketStore(folder, capacity, wall_clock_us)
    store.open()
    service = RelayService(
        store,
        StubDht(),
        ttl_min_s=300,
        ttl_max_s=86_400,
        serve_stale_s=0,
        wall_clock_us=wall_clock_us,
        facts=lambda: {"cache": asdict(store.stats())},
        troubles=lambda: {"cache": store.health().reason},
    )
    limits = HttpLimits(None)
    app = create_app(service, wall_clock_us=wall_clock_us, limits=limits)
    listeners = open_listeners(("127.0.0.1",), 0)
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        await nursery.start(
            partial(
                serve_http,
                app,
                listeners,
                HttpConfig(max_connections_per_address=0),
                rules=limits.rules,
                counters=app.counters,
                shutdown=stop,
                front=front_lane(app, store.table_capsule),
            )
        )
        port = listeners[0].getsockname()[1]
        sys.stdout.write(json.dumps({"url": f"http://127.0.0.1:{port}/"}) + "\n")
        sys.stdout.flush()
        await trio.to_thread.run_sync(sys.stdin.read)
        stop.set()
        await store.close()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(run, Path(sys.argv[1]), int(sys.argv[2]) if sys.argv[2:] else CAPACITY_PACKETS)
