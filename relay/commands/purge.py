"""``pkarr-relay purge KEY``: take one packet out of the cache, from memory and from the disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.commands.cache import add_command, cache_of
from relay.errors import CommandError, PublicKeyError

if TYPE_CHECKING:
    import argparse


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``purge``."""
    parser = add_command(commands, "purge", "remove one packet from memory and disk", run)
    parser.add_argument("key", metavar="KEY", help="52 letters of z-base-32, or a URI with them")


def run(arguments: argparse.Namespace) -> int:
    """Remove the packet of a key; its timestamp stays, so that no older one takes its place.

    Raises:
        CommandError: this is no key, or it has no packet here.
    """
    from relay.pkarr.keys import PublicKey

    try:
        key = PublicKey.parse(arguments.key)
    except PublicKeyError as error:
        raise CommandError(f"{arguments.key!r}: {error}") from None
    with cache_of(arguments) as cache:
        timestamp_us = cache.purge(key)
    if timestamp_us is None:
        raise CommandError(f"{key} is not in the cache")
    print(f"{key}: removed the packet of {timestamp_us}; older ones are refused for 30 days")
    return 0
