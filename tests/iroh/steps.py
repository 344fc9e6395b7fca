"""What iroh programs do at a place, in either version."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from tests.iroh.places import Containers, Loopback, Relay
from tests.support.peers import Json, Peer
from tests.support.relay import wait_until

WAIT_S: Final = 20
"""How long a dial tries, and how long a record may take."""

Somewhere = Loopback | Containers


@dataclass(frozen=True, slots=True)
class Iroh:
    """A version of iroh, and the two programs that speak it."""

    version: str
    pair: str
    sync: str


VERSIONS = (
    Iroh("0.91.1", "iroh-pair-0-91", "iroh-sync-0-91"),
    Iroh("1.4.1", "iroh-pair", "iroh-sync"),
)


def listen(
    place: Somewhere, machine: int, iroh: Iroh, way: tuple[str, str], *options: object
) -> Peer:
    bind = ("--bind", place.bind(machine))
    return place.listen(machine, iroh.pair, *way, *bind, "listen", *options)


def dial(place: Somewhere, machine: int, iroh: Iroh, way: tuple[str, str], key: object) -> Json:
    met = place.run(
        machine, iroh.pair, *way, "--bind", place.bind(machine), "dial", key, "--wait", WAIT_S
    )
    assert met["ok"], met
    return met


def through(relay: Relay) -> tuple[str, str]:
    return "--pkarr", relay.url


def published(relay: Relay, key: object, former: bytes = b"", timeout_s: float = WAIT_S) -> float:
    """Wait until a relay has a record other than `former`; return the seconds that took."""
    started = time.monotonic()

    def there() -> bool:
        with suppress(OSError):  # it may be cut off
            answer = relay.get(str(key), "CacheOnly")
            return answer.status == 200 and answer.body != former
        return False

    wait_until(there, "the record", timeout_s)
    return time.monotonic() - started
