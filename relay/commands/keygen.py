"""``pkarr-relay keygen FILE|-``: make a secret key, and say which public key belongs to it."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``keygen``."""
    parser = commands.add_parser(
        "keygen",
        help="make a secret key and print its public key",
        description="Makes a secret key and prints its public key. The file is new, its mode 0600,"
        " and holds the key as 64 hexadecimal digits, as those of the reference's library do.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "file",
        metavar="FILE",
        help="where the secret key goes; - is standard output, and the public key then goes to"
        " standard error",
    )
    parser.add_argument("--json", action="store_true", help="print the public key as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Make the key.

    Raises:
        CommandError: the file exists already, or cannot be written.
    """
    from relay.commands.secret_keys import (
        STANDARD_STREAM,
        keep_memory_private,
        write_secret_key,
    )
    from relay.pkarr.keys import Keypair

    file: str = arguments.file
    keep_memory_private()
    keypair = Keypair.generate()
    if file == STANDARD_STREAM:
        print(keypair.seed.hex())
    else:
        write_secret_key(keypair, file)
    key = keypair.public_key
    names = {"key": str(key), "uri": key.uri, "key_hex": key.octets.hex()}
    print(
        json.dumps(names) if arguments.json else str(key),
        file=sys.stderr if file == STANDARD_STREAM else sys.stdout,
    )
    return 0
