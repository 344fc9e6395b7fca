"""``pkarr-relay check-config PATH``: would the relay start with this configuration?"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``check-config``."""
    parser = commands.add_parser(
        "check-config",
        help="read a configuration file, report what is wrong with it, and end",
        description="Exit code 0: the relay would start with this file. 1: it would not.",
        allow_abbrev=False,
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="configuration file (TOML)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Read the file and say what is wrong with it.

    Raises:
        ConfigError: the relay would not start.
    """
    from relay.config import load_config
    from relay.logs import parse_filter

    path: Path = arguments.path
    config = load_config(path, os.environ)
    for warning in (*config.warnings, *parse_filter(config.log.filter or "")[1]):
        print(f"Warning: {warning}", file=sys.stderr)
    print(f"{path}: OK")
    return 0
