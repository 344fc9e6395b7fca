"""``pkarr-relay publish``: sign records, or take a signed payload, and hand it out."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from relay.commands import network

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from relay.pkarr.dns_build import NewRecord
    from relay.pkarr.keys import PublicKey
    from relay.pkarr.packet import SignedPacket

_VALUES: Final = {
    "A": "ADDRESS",
    "AAAA": "ADDRESS",
    "CNAME": "TARGET",
    "NS": "SERVER",
    "TXT": "TEXT",
    "HTTPS": "VALUE",
    "SVCB": "VALUE",
}
_HELP: Final = {
    "TXT": "a TXT record; the text is taken as it is, and cut into strings of 255 bytes",
    "HTTPS": "an HTTPS record, e.g. '@=1 . alpn=h2 port=443'",
}
_ANY: Final = "RECORD"
_TEXT_BYTES_MAX: Final = 255
_PATIENCE: Final = 3.0
"""`relay.remote.PUBLISH_PATIENCE`, unimported: this module is loaded for every command."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``publish``."""
    parser = commands.add_parser(
        "publish",
        help="sign records and publish them, or publish a signed payload",
        description="Signs records with a secret key, or takes a payload that is signed already,"
        " and publishes the packet on the DHT or through relays. Names are relative to the key;"
        " @ is the key itself. Exit codes: 0 somebody stored it, 1 nobody did.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "secret_key",
        nargs="?",
        metavar="FILE",
        help="the file with the secret key (see keygen); - is standard input",
    )
    for name, value in _VALUES.items():
        parser.add_argument(
            f"--{name.lower()}",
            dest="records",
            action="append",
            default=[],
            type=_option(name),
            metavar=f"NAME={value}",
            help=_HELP.get(name, f"a record of type {name}"),
        )
    parser.add_argument(
        "--record",
        dest="records",
        action="append",
        default=[],
        type=_option(_ANY),
        metavar="LINE",
        help=r"a record as in a zone file: 'NAME [TTL] TYPE VALUE'; any type as \# LENGTH HEX",
    )
    parser.add_argument(
        "--ttl", type=int, default=300, metavar="SECONDS", help="of the records (default: 300)"
    )
    parser.add_argument(
        "--empty", action="store_true", help="publish no records, to take back what there was"
    )
    parser.add_argument(
        "--payload",
        metavar="FILE",
        help="publish this payload instead: signature, timestamp and DNS message, with or without"
        " the key before them; - is standard input",
    )
    parser.add_argument("--key", metavar="KEY", help="whose payload it is, if that is not in it")
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="write the payload there and publish nothing; - is standard output",
    )
    network.add_options(parser)
    parser.set_defaults(run=run)


def _option(type_name: str) -> Callable[[str], tuple[str, str]]:
    """Return what argparse calls on an option's text; the order of all records is kept so."""
    return lambda text: (type_name, text)


def run(arguments: argparse.Namespace) -> int:
    """Publish.

    Raises:
        CommandError: the options contradict each other, a record or payload is none, or nobody
            stored the packet.
    """
    from relay.errors import CommandError

    packet = _signed(arguments) if arguments.payload is None else _ready(arguments)
    if arguments.output is not None:
        _write(packet.to_relay_payload(), arguments.output)
        return 0
    outcomes = network.publish(
        network.ways(arguments, patience=_PATIENCE), packet, arguments.timeout
    )
    if arguments.json:
        _print_json(packet, outcomes)
    failed = [outcome for outcome in outcomes if outcome.error]
    if len(failed) == len(outcomes):
        raise CommandError("; ".join(outcome.text for outcome in failed))
    for outcome in failed:
        print(f"Warning: {outcome.text}", file=sys.stderr)
    if not arguments.json:
        print(packet.public_key)
        for outcome in outcomes:
            if not outcome.error:
                nodes = "node" if outcome.stored == 1 else "nodes"
                print(f"stored on {outcome.stored} DHT {nodes} by way of {outcome.name}")
    return 0


def _ready(arguments: argparse.Namespace) -> SignedPacket:
    """Return the packet that a file holds."""
    from relay.commands.payloads import read_payload
    from relay.errors import CommandError, PublicKeyError
    from relay.pkarr.keys import PublicKey

    if arguments.secret_key is not None or arguments.records or arguments.empty:
        raise CommandError("--payload is signed already: no secret key and no records beside it")
    try:
        key = None if arguments.key is None else PublicKey.parse_any(arguments.key)
    except PublicKeyError as error:
        raise CommandError(f"no public key: {error}") from None
    return read_payload(arguments.payload, key).packet()


def _signed(arguments: argparse.Namespace) -> SignedPacket:
    """Return a packet of the records given as options."""
    from relay.clock import wall_clock_us
    from relay.commands.secret_keys import read_secret_key
    from relay.errors import CommandError, PacketError
    from relay.pkarr.packet import SignedPacket

    if arguments.secret_key is None:
        raise CommandError("name the file that holds the secret key, or a --payload")
    if arguments.key is not None:
        raise CommandError("--key belongs to --payload: the secret key tells whose packet it is")
    if bool(arguments.records) == arguments.empty:
        raise CommandError("give records, e.g. --txt _foo=bar, or --empty, and not both")
    keypair = read_secret_key(arguments.secret_key)
    try:
        records = [
            _record(kind, text, keypair.public_key, arguments.ttl)
            for kind, text in arguments.records
        ]
        return SignedPacket.build(keypair, records, wall_clock_us())
    except (PacketError, ValueError) as error:
        raise CommandError(str(error)) from None


def _record(kind: str, text: str, key: PublicKey, ttl_s: int) -> NewRecord:
    """Make the record of an option. Raises ValueError, whose text names the option."""
    from relay.pkarr import dns_build, dns_parse

    option = f"--{kind.lower()} {text!r}"
    try:
        if kind == _ANY:
            return dns_parse.parse_line(text, key, ttl_s=ttl_s)
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"not NAME={_VALUES[kind]}")
        if kind == "TXT":
            octets = os.fsencode(value)
            cuts = range(0, len(octets), _TEXT_BYTES_MAX)
            strings = [octets[at : at + _TEXT_BYTES_MAX] for at in cuts]
            return dns_build.txt(name, *strings, ttl_s=ttl_s)
        return dns_parse.parse_record(name, kind, value, key, ttl_s=ttl_s)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from None


def _write(payload: bytes, output: str) -> None:
    from relay.errors import CommandError

    if output == "-":
        sys.stdout.buffer.write(payload)
        return
    try:
        Path(output).write_bytes(payload)
    except OSError as error:
        raise CommandError(f"failed to write {output}: {error.strerror}") from error


def _print_json(packet: SignedPacket, outcomes: list[network.Outcome]) -> None:
    from relay.commands.packet_report import packet_fields

    published = [
        {"name": outcome.name, "stored_nodes": outcome.stored, "error": outcome.error or None}
        for outcome in outcomes
    ]
    print(json.dumps({**packet_fields(packet), "published": published}))
