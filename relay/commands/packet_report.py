"""A signed packet as the client commands show it: as lines of a zone file, or as JSON.

What strangers wrote reaches a terminal here: `relay.pkarr.dns_text` escapes all that cannot be
printed, line ends and control sequences among it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from relay.http.figures import span
from relay.pkarr import dns_text
from relay.pkarr.iroh import iroh_attributes

if TYPE_CHECKING:
    from relay.pkarr.dns_text import Record
    from relay.pkarr.keys import PublicKey
    from relay.pkarr.packet import SignedPacket

_US_PER_S: Final = 1_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NAME_WIDTH_MAX: Final = 30


def moment(timestamp_us: int) -> str | None:
    """Return a packet's time in UTC; None beyond the year 9999.

    >>> moment(1_700_000_000_123_456)
    '2023-11-14 22:13:20.123456 UTC'
    """
    try:
        time = _EPOCH + timedelta(microseconds=timestamp_us)
    except OverflowError:
        return None
    return f"{time:%Y-%m-%d %H:%M:%S.%f} UTC"


def age(timestamp_us: int, now_us: int) -> str:
    """Return how long ago something was, or how far ahead it is.

    >>> age(0, 61_000_000), age(3_000_000, 0)
    ('1 min 1 s ago', '3 s in the future')
    """
    if timestamp_us > now_us:
        return f"{span((timestamp_us - now_us) // _US_PER_S)} in the future"
    return f"{span((now_us - timestamp_us) // _US_PER_S)} ago"


def signed_at(timestamp_us: int, now_us: int) -> str:
    """Return when a packet was signed, for people."""
    time = moment(timestamp_us)
    number = f"{timestamp_us} microseconds after 1970"
    return number if time is None else f"{time}, {age(timestamp_us, now_us)}"


def zone_lines(key: PublicKey | None, dns: bytes) -> list[str]:
    """Return the answers of a DNS message as lines of a zone file, which begins with its origin.

    Args:
        key: names that end in it are shown relative to it; None: all are shown whole.
        dns: a message that `relay.pkarr.dns.check` accepts.
    """
    rows = [
        (_relative(record.name, key), f"{record.ttl_s} {record.class_}", record.type, record.value)
        for record in dns_text.records(dns, zone_file=True)
    ]
    name_width = min(max((len(row[0]) for row in rows), default=0), _NAME_WIDTH_MAX)
    ttl_width = max((len(row[1]) for row in rows), default=0)
    type_width = max((len(row[2]) for row in rows), default=0)
    origin = [] if key is None else [f"$ORIGIN {key}."]
    return origin + [
        f"{name:<{name_width}}  {ttl:>{ttl_width}}  {type_:<{type_width}}  {value}"
        for name, ttl, type_, value in rows
    ]


def _relative(name: str, key: PublicKey | None) -> str:
    if key is None:
        return name
    if name == f"{key}.":
        return "@"
    return name.removesuffix(f".{key}.")


def iroh_lines(key: PublicKey, records: Sequence[Record]) -> list[str]:
    """Return comment lines about an iroh endpoint, named as iroh names it; none if it is none."""
    attributes = iroh_attributes(key, records)
    if not attributes:
        return []
    width = max(map(len, attributes))
    return [
        f"; iroh endpoint {key.octets.hex()}",
        *(f";   {name:<{width}}  {', '.join(values)}" for name, values in attributes.items()),
    ]


def packet_lines(packet: SignedPacket, now_us: int, *, last_seen_us: int | None) -> list[str]:
    """Return a packet for people: comments that say what it is, then its records."""
    key = packet.public_key
    seen = ""
    if last_seen_us is not None:
        # A relay tells whole seconds; nobody has seen a packet before it was signed.
        seen_us = max(last_seen_us, min(packet.timestamp_us, now_us))
        seen = f", last seen {age(seen_us, now_us)}"
    return [
        f"; {key.uri}",
        f"; signed {signed_at(packet.timestamp_us, now_us)}{seen}",
        f"; {len(packet.dns)} of 1000 bytes",
        *iroh_lines(key, packet.records()),
        *zone_lines(key, packet.dns),
    ]


def packet_fields(packet: SignedPacket) -> dict[str, Any]:
    """Return a packet for machines; bytes are hexadecimal, names without a dot at their end."""
    key, records = packet.public_key, packet.records()
    fields = {
        **key_fields(key),
        "timestamp_us": packet.timestamp_us,
        "signed_at": moment(packet.timestamp_us),
        "signature": packet.signature.hex(),
        "payload": packet.to_relay_payload().hex(),
        "records": record_fields(records),
    }
    iroh = iroh_attributes(key, records)
    return {**fields, "iroh": iroh} if iroh else fields


def key_fields(key: PublicKey) -> dict[str, str]:
    """Return the spellings of a key; iroh uses the hexadecimal one."""
    return {"key": str(key), "uri": key.uri, "key_hex": key.octets.hex()}


def record_fields(records: Sequence[Record]) -> list[dict[str, object]]:
    """Return records for machines."""
    return [
        {
            "name": record.name,
            "type": record.type,
            "class": record.class_,
            "ttl_s": record.ttl_s,
            "value": record.value,
        }
        for record in records
    ]
