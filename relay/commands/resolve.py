"""``pkarr-relay resolve KEY``: find a key's packet and print its records."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Final

from relay.commands import network

if TYPE_CHECKING:
    import argparse

    from relay.commands.network import Outcome
    from relay.pkarr.keys import PublicKey
    from relay.pkarr.packet import SeenPacket

NOT_FOUND: Final = 3
"""Exit code: somebody answered, and nobody has a packet."""
_POLICIES: Final = ("CacheFirst", "CacheOnly", "NetworkOnly")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``resolve``."""
    parser = commands.add_parser(
        "resolve",
        help="find the packet of a key and print its records",
        description="Finds the packet of a key, on the DHT or through relays, verifies it and"
        " prints its records as lines of a zone file. Exit codes: 0 found, 3 nobody has one,"
        " 1 nobody could tell.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "key",
        metavar="KEY",
        help="52 letters of z-base-32, a URI that holds them, or iroh's 64 hexadecimal digits",
    )
    network.add_options(parser)
    parser.add_argument(
        "--policy",
        choices=_POLICIES,
        default=_POLICIES[0],
        help="CacheFirst (the default): the first answer; CacheOnly: what relays have in their"
        " caches; NetworkOnly: the most recent of all answers, past all caches",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Look the key up.

    Raises:
        CommandError: no key, no relay's URL, or nobody could tell.
    """
    from relay.errors import CommandError, PublicKeyError
    from relay.pkarr.keys import PublicKey
    from relay.pkarr.packet import merge
    from relay.pkarr.policy import ResolvePolicy

    try:
        key = PublicKey.parse_any(arguments.key)
    except PublicKeyError as error:
        raise CommandError(f"no public key: {error}") from None
    policy = ResolvePolicy(arguments.policy)
    if policy is ResolvePolicy.CACHE_ONLY and not arguments.relay:
        raise CommandError("--policy CacheOnly is about relays' caches: name one with --relay")
    outcomes = network.resolve(network.ways(arguments), key, policy, arguments.timeout)
    best: SeenPacket | None = None
    for outcome in outcomes:
        if outcome.seen is not None:
            best = merge(best, outcome.seen)
    if best is None and all(outcome.error for outcome in outcomes):
        raise CommandError("; ".join(outcome.text for outcome in outcomes))
    for outcome in outcomes:
        if outcome.error:
            print(f"Warning: {outcome.text}", file=sys.stderr)
    if arguments.json:
        _print_json(key, best, outcomes)
    elif best is None:
        print(f"nobody has a packet of {key}", file=sys.stderr)
    else:
        _print_text(best, outcomes)
    return NOT_FOUND if best is None else 0


def _print_text(best: SeenPacket, outcomes: list[Outcome]) -> None:
    from relay.clock import wall_clock_us
    from relay.commands.packet_report import packet_lines

    now_us = wall_clock_us()
    holders = [outcome.name for outcome in outcomes if _has(outcome, best)]
    lines = packet_lines(best.packet, now_us, last_seen_us=best.last_seen_us)
    print("\n".join([*lines[:1], f"; from {', '.join(holders)}", *lines[1:]]))


def _print_json(key: PublicKey, best: SeenPacket | None, outcomes: list[Outcome]) -> None:
    from relay.commands.packet_report import key_fields, packet_fields

    fields: dict[str, object] = {"found": best is not None, **key_fields(key)}
    if best is not None:
        fields |= {"last_seen_us": best.last_seen_us, **packet_fields(best.packet)}
    fields["asked"] = [
        {
            "name": outcome.name,
            "found": outcome.seen is not None,
            "error": outcome.error or None,
        }
        for outcome in outcomes
    ]
    print(json.dumps(fields))


def _has(outcome: Outcome, best: SeenPacket) -> bool:
    return outcome.seen is not None and outcome.seen.packet == best.packet
