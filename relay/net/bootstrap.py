"""Finds the first nodes: names of bootstrap routers become addresses, in the background.

Nothing waits for this: a relay starts, and serves its cache, without any name server. Names
are resolved at the start, and again when the node says that it has run out of nodes; both
with growing pauses, so that neither routers nor name servers are pestered by a relay that is
merely offline.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from relay.dht.node_id import Address

_log: Final = logging.getLogger("relay.net")

PUBLIC_ROUTERS: Final[tuple[tuple[str, int], ...]] = (
    ("router.bittorrent.com", 6881),
    ("dht.transmissionbt.com", 6881),
    ("dht.libtorrent.org", 25401),
    ("relay.pkarr.org", 6881),
)
"""Those of the reference (protocol.md, section 7.5)."""

PAUSE_MIN_S: Final = 1.0
PAUSE_MAX_S: Final = 60.0
"""The pause before the next attempt doubles each time, up to this."""
CALM_S: Final = 900.0
"""When nothing was asked of us for so long, the next attempt waits only the shortest pause."""


class BootstrapNames:
    """The configured bootstrap nodes, as (host, port) pairs.

    A host may be an IPv4 address or a name; only IPv4 addresses of it are used.
    """

    def __init__(self, names: Sequence[tuple[str, int]]) -> None:
        self._names = tuple(names)
        self._wanted = trio.Event()
        self._failing = False

    @property
    def configured(self) -> bool:
        """Whether there is any."""
        return bool(self._names)

    def resolve_again(self) -> None:
        """Ask for fresh addresses soon. Asking again before they have come changes nothing."""
        self._wanted.set()

    async def run(self, deliver: Callable[[list[Address]], None]) -> None:
        """Resolve now, and then whenever `resolve_again` asks for it, until cancelled.

        Args:
            deliver: gets the addresses of each attempt that found any.
        """
        if not self._names:
            return
        pause_s = PAUSE_MIN_S
        while True:
            addresses = await self._resolve()
            self._wanted = trio.Event()
            if addresses:
                deliver(addresses)
                started = trio.current_time()
                await self._wanted.wait()
                if trio.current_time() - started > CALM_S:
                    pause_s = PAUSE_MIN_S
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_MAX_S)

    async def _resolve(self) -> list[Address]:
        """Resolve all names at once; those that fail are left out, and told of once."""
        found: dict[Address, None] = {}
        failures: list[str] = []

        async def resolve_one(host: str, port: int) -> None:
            try:
                entries = await trio.socket.getaddrinfo(
                    host, port, family=socket.AF_INET, type=socket.SOCK_DGRAM
                )
            # UnicodeError: no valid host name. RuntimeError: there is no thread for it.
            except (OSError, UnicodeError, RuntimeError) as error:
                failures.append(f"{host} ({error})")
                return
            found.update(((str(entry[4][0]), port), None) for entry in entries)

        async with trio.open_nursery() as nursery:
            for host, port in self._names:
                nursery.start_soon(resolve_one, host, port)
        self._tell(found=len(found), failures=failures)
        return list(found)

    def _tell(self, *, found: int, failures: list[str]) -> None:
        """Log a change for the worse or the better, not every attempt."""
        failing = found == 0
        if failing and not self._failing:
            _log.warning("no bootstrap node's name can be resolved: %s", ", ".join(failures))
        elif self._failing and not failing:
            _log.info("names of bootstrap nodes can be resolved again")
        self._failing = failing
