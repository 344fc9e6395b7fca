"""``pkarr-relay backup FILE``: a copy of the database, which a relay can use as its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from relay.commands.cache import absolute, add_command, cache_of

if TYPE_CHECKING:
    import argparse


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``backup``."""
    parser = add_command(commands, "backup", "copy the database, while the relay runs", run)
    parser.add_argument("--force", action="store_true", help="replace FILE if it is there")
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="the copy; written by the relay, if one runs"
    )


def run(arguments: argparse.Namespace) -> int:
    """Copy the database.

    Raises:
        RelayError: of those that the command line tells.
    """
    target = absolute(arguments.file)
    with cache_of(arguments) as cache:
        size = cache.backup(target, force=arguments.force)
    print(f"{target}: {size} bytes")
    return 0
