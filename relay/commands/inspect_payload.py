"""``pkarr-relay inspect FILE|-``: take a payload apart and say whether its signature is good."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import argparse

    from relay.commands.payloads import Payload

_VERDICTS: Final = {
    True: "good",
    False: "BAD: not made by this key over these bytes",
    None: "not verified: give the key with --key",
}
_BENCODED_BYTES_MAX: Final = 1000
"""libtorrent counts the length and the colon before a string, other nodes do not."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``inspect``."""
    parser = commands.add_parser(
        "inspect",
        help="decode a payload",
        description="Decodes a payload: when it was signed, its BEP 44 item, its records, and"
        " whether the signature is good. Exit codes: 0 decoded, and the signature is good or"
        " there was no key to verify it with; 1 anything else.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "file",
        metavar="FILE",
        help="what a relay answers or is sent (signature, timestamp, DNS message), or the same with"
        " the key before it; as bytes or as hexadecimal digits; - is standard input",
    )
    parser.add_argument(
        "--key",
        metavar="KEY",
        help="whose it is; without this the key is looked for in the payload",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Decode the payload.

    Raises:
        CommandError: no key, or nothing that could be a payload.
    """
    from relay.commands.payloads import read_payload
    from relay.errors import CommandError, PublicKeyError
    from relay.pkarr.keys import PublicKey

    try:
        key = None if arguments.key is None else PublicKey.parse_any(arguments.key)
    except PublicKeyError as error:
        raise CommandError(f"no public key: {error}") from None
    payload = read_payload(arguments.file, key)
    if arguments.json:
        print(json.dumps(_fields(payload)))
    else:
        print("\n".join(_lines(payload)))
    return 1 if payload.fault or payload.verified is False else 0


def _lines(payload: Payload) -> list[str]:
    from relay.clock import wall_clock_us
    from relay.commands.packet_report import iroh_lines, signed_at, zone_lines
    from relay.pkarr.dns_text import records

    key, size = payload.key, len(payload.dns)
    whose = "none in the payload"
    if key is not None and payload.key_source is not None:
        whose = f"{key.uri}, {payload.key_source.value}"
    bencoded = len(str(size)) + 1 + size
    refused = ", too long for libtorrent's nodes" if bencoded > _BENCODED_BYTES_MAX else ""
    lines = [
        f"; {payload.size} bytes, {size} of them DNS",
        f"; key        {whose}",
        f"; signature  {_VERDICTS[payload.verified]}",
        f"; signed     {signed_at(payload.timestamp_us, wall_clock_us())}",
        f"; BEP 44     seq {payload.timestamp_us}, v of {size} bytes, {bencoded} bencoded{refused}",
    ]
    if key is not None:
        lines.append(f";            target {key.target.hex()}, k {key.octets.hex()}")
    lines.append(f";            sig {payload.signature.hex()}")
    if payload.fault:
        return [*lines, f"; DNS        no message: {payload.fault}"]
    lines.append(f"; DNS        {_head(payload.dns)}")
    iroh = [] if key is None else iroh_lines(key, records(payload.dns))
    return [*lines, *iroh, *zone_lines(key, payload.dns)]


def _head(dns: bytes) -> str:
    number, flags, *counts = (int.from_bytes(dns[at : at + 2], "big") for at in range(0, 12, 2))
    sections = ("questions", "answers", "authorities", "additionals")
    what = "reply" if flags & 0x8000 else "query"
    listed = ", ".join(f"{count} {name}" for count, name in zip(counts, sections, strict=True))
    return f"{what}, id {number}, {listed}"


def _fields(payload: Payload) -> dict[str, Any]:
    from relay.commands.packet_report import key_fields, moment, record_fields
    from relay.pkarr.dns_text import records
    from relay.pkarr.iroh import iroh_attributes

    key = payload.key
    shown = [] if payload.fault else records(payload.dns)
    fields: dict[str, Any] = {
        "bytes": payload.size,
        **({} if key is None else key_fields(key)),
        "key_source": None if payload.key_source is None else payload.key_source.name.lower(),
        "verified": payload.verified,
        "timestamp_us": payload.timestamp_us,
        "signed_at": moment(payload.timestamp_us),
        "signature": payload.signature.hex(),
        "bep44": {
            "target": None if key is None else key.target.hex(),
            "seq": payload.timestamp_us,
            "v": payload.dns.hex(),
        },
        "fault": payload.fault or None,
        "records": record_fields(shown),
    }
    iroh = {} if key is None else iroh_attributes(key, shown)
    return {**fields, "iroh": iroh} if iroh else fields
