"""What ``backup``, ``check``, ``export``, ``import`` and ``purge`` share: which cache they mean."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from relay.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from relay.control.access import CacheAccess

EPILOG = (
    "Asks the running relay, over a socket in the cache folder, or, where none runs, opens the"
    " database itself. Exit code 0: done. 1: not, or something is wrong; standard error says what."
)


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    summary: str,
    run: Callable[[argparse.Namespace], int],
) -> argparse.ArgumentParser:
    """Add the parser of a command that works on a cache, with the options that say which."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=EPILOG,
        allow_abbrev=False,
    )
    parser.add_argument(
        "-c",
        "--config",
        type=Path,
        metavar="PATH",
        default=argparse.SUPPRESS,  # may stand before the command as well
        help="the relay's configuration file, which names the cache folder",
    )
    parser.add_argument(
        "--cache", type=Path, metavar="FOLDER", help="the cache folder, whatever the file says"
    )
    parser.set_defaults(run=run)
    return parser


def absolute(path: Path) -> Path:
    """Return where `path` is, seen from here.

    Raises:
        CommandError: the working directory is gone.
    """
    try:
        return path.absolute()
    except OSError as error:
        raise CommandError(
            f"{path} is relative, and there is no working directory: {error.strerror}"
        ) from error


@contextmanager
def cache_of(arguments: argparse.Namespace, *, create: bool = False) -> Iterator[CacheAccess]:
    """Open the cache that the options mean.

    Args:
        arguments: of a parser made by `add_command`.
        create: make the folder and the database if there are none.

    Raises:
        ConfigError: the configuration cannot be read.
        CommandError: it names no folder, or one that cannot be found.
        StoreError: the cache cannot be used.
    """
    from relay.config import load_config

    config = load_config(arguments.config, os.environ)
    folder: Path | None = arguments.cache or config.cache.path
    if folder is None:
        for warning in config.warnings:
            print(f"Warning: {warning}", file=sys.stderr)
        raise CommandError(
            "there is no cache folder: name the relay's configuration with -c, or the folder"
            " with --cache"
            if config.source is None
            else f"{config.source} has no cache.path: this relay keeps packets in memory only"
        )
    from relay.control.access import open_cache

    try:
        with open_cache(absolute(folder), config.cache.capacity_packets, create=create) as cache:
            yield cache
    except KeyboardInterrupt:
        raise CommandError("interrupted") from None
