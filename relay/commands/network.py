"""Whom the client commands ask: relays, the DHT, or both, each by a client of its own.

So each can be told apart in what is printed, and one that is silent costs no other its answer.
"""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from relay.errors import CommandError, RelayError

if TYPE_CHECKING:
    from relay.client import Client
    from relay.pkarr.keys import PublicKey
    from relay.pkarr.packet import SeenPacket, SignedPacket
    from relay.pkarr.policy import ResolvePolicy

TIMEOUT_S: Final = 20.0
"""A look-up on the public DHT takes a few seconds, a publish through a relay has two of them."""
FRESH_S: Final = 2**31
"""Nothing is too old to be shown: when it was seen stands beside it."""
DHT: Final = "the DHT"


@dataclass(frozen=True, slots=True)
class Way:
    """One relay, or the DHT."""

    name: str
    open: Callable[[], Client]


@dataclass(slots=True)
class Outcome:
    """What came of one way: a packet, a number of nodes, an error, or nothing."""

    name: str
    seen: SeenPacket | None = None
    stored: int = 0
    error: str = ""

    @property
    def text(self) -> str:
        """The error, with the name of the way unless it is in there."""
        return self.error if self.name in self.error else f"{self.name}: {self.error}"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--relay``, ``--bootstrap``, ``--timeout`` and ``--json``."""
    parser.add_argument(
        "--relay",
        action="append",
        default=[],
        metavar="URL",
        help="ask this relay, over http or https, and not the DHT; may be repeated",
    )
    parser.add_argument(
        "--bootstrap",
        action="append",
        default=[],
        metavar="HOST:PORT",
        type=_host_port,
        help="ask the DHT that this node belongs to; may be repeated. Without this and --relay"
        " the public DHT is asked",
    )
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=TIMEOUT_S,
        metavar="SECONDS",
        help=f"how long each may take to answer (default: {TIMEOUT_S:g})",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _host_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or len(port) > 5 or not 0 < int(port) < 1 << 16:
        raise argparse.ArgumentTypeError(f"not HOST:PORT: {text!r}")
    return host, int(port)


def _seconds(text: str) -> float:
    with suppress(ValueError):
        seconds = float(text)
        if 0 < seconds <= 3600:
            return seconds
    raise argparse.ArgumentTypeError(f"a number of seconds, at most 3600, and not {text!r}")


def ways(arguments: argparse.Namespace, *, patience: float = 1.0) -> list[Way]:
    """Return the relays and the DHT that the options name.

    Args:
        arguments: with those of `add_options`.
        patience: by how much `relay.client.Client` stretches its time-out for a relay.

    Raises:
        CommandError: a URL is no relay's.
    """
    from relay._http_request import BaseUrl
    from relay.client import Client

    timeout_s: float = arguments.timeout
    relays: list[str] = arguments.relay
    bootstrap: list[tuple[str, int]] | None = arguments.bootstrap or None

    def through(url: str) -> Callable[[], Client]:
        return lambda: Client(
            [url],
            dht=False,
            timeout_s=timeout_s / patience,
            ttl_min_s=FRESH_S,
            ttl_max_s=FRESH_S,
        )

    found = {}
    for url in relays:
        try:
            found[str(BaseUrl.parse(url))] = through(url)
        except ValueError as error:
            raise CommandError(f"--relay: {error}") from None
    if bootstrap or not relays:
        found[DHT] = lambda: Client(bootstrap=bootstrap, ttl_min_s=FRESH_S, ttl_max_s=FRESH_S)
    return [Way(name, open_) for name, open_ in found.items()]


def resolve(
    ways: list[Way], key: PublicKey, policy: ResolvePolicy, timeout_s: float
) -> list[Outcome]:
    """Ask all at once; unless the policy is to wait for all, one packet is enough.

    Returns:
        An outcome for each way that came to one, in their order.
    """
    import trio

    from relay.pkarr.policy import ResolvePolicy

    outcomes: dict[str, Outcome] = {}

    async def ask(way: Way, enough: Callable[[], None]) -> None:
        outcome = Outcome(way.name)
        try:
            async with way.open() as client:
                with trio.move_on_after(timeout_s) as patience:
                    await client.resolve(key, policy)
                outcome.seen = client.known(key)
                if patience.cancelled_caught and outcome.seen is None:
                    outcome.error = f"no answer within {timeout_s:g} s"
        except RelayError as error:
            outcome.error = str(error)
        outcomes[way.name] = outcome
        if outcome.seen is not None and policy is ResolvePolicy.CACHE_FIRST:
            enough()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for way in ways:
                nursery.start_soon(ask, way, nursery.cancel_scope.cancel)

    _run(main)
    return [outcomes[way.name] for way in ways if way.name in outcomes]


def publish(ways: list[Way], packet: SignedPacket, timeout_s: float) -> list[Outcome]:
    """Publish a packet everywhere.

    Returns:
        An outcome for each way, in their order.
    """
    import trio

    outcomes: dict[str, Outcome] = {}

    async def tell(way: Way) -> None:
        outcome = outcomes[way.name] = Outcome(way.name)
        try:
            async with way.open() as client:
                with trio.move_on_after(timeout_s) as patience:
                    outcome.stored = await client.publish(packet)
                if patience.cancelled_caught:
                    outcome.error = f"no answer within {timeout_s:g} s"
        except RelayError as error:
            outcome.error = str(error)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for way in ways:
                nursery.start_soon(tell, way)

    _run(main)
    return [outcomes[way.name] for way in ways]


def _run(main: Callable[[], Awaitable[None]]) -> None:
    """Run an event loop; Ctrl-C ends it with one line instead of a traceback."""
    import trio

    interrupted = False
    try:
        trio.run(main)
    except* KeyboardInterrupt:
        interrupted = True
    if interrupted:
        raise CommandError("interrupted")
