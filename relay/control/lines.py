"""Packets as JSON lines: what ``export`` writes and ``import`` reads.

    {"key": "<z-base-32>", "timestamp_us": 1767225600000000, "last_seen_us": 1767225601000000,
     "payload": "<base64>"}

on one line. `payload` is the body of a relay's answer (signature, timestamp, DNS message), and
the only part besides `key` that must be there. `timestamp_us` is for people and ``jq``: what
counts is signed. Without `last_seen_us` a packet counts as seen long ago. Other names are ignored.
Sans-IO.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from typing import Final

from relay.pkarr import zbase32
from relay.pkarr.packet import PAYLOAD_BYTES_MAX, PAYLOAD_BYTES_MIN
from relay.store.records import KEY_BYTES, timestamp_us

LINE_BYTES_MAX: Final = 64 * 1024
"""A packet takes 1.7 KB at most; what others add may be more."""
_LAST_SEEN_BYTES: Final = 8
_LAST_SEEN_MAX_US: Final = 2**63 - 1


def to_line(key: bytes, record: bytes) -> str:
    r"""Return the line of a packet, with its end.

    >>> to_line(bytes(32), bytes(7) + b"\x01" + bytes(72))[64:107]
    '"timestamp_us": 0, "last_seen_us": 1, "payl'
    """
    return (
        f'{{"key": "{zbase32.encode(key)}", "timestamp_us": {timestamp_us(record)}, '
        f'"last_seen_us": {int.from_bytes(record[:_LAST_SEEN_BYTES])}, '
        f'"payload": "{b64encode(record[_LAST_SEEN_BYTES:]).decode("ascii")}"}}\n'
    )


def from_line(line: bytes) -> tuple[bytes, bytes]:
    """Return key and record of a line; the signature is not looked at.

    Raises:
        ValueError: says what is wrong with it.
    """
    if len(line.rstrip(b"\r\n")) > LINE_BYTES_MAX:
        raise ValueError(f"is longer than {LINE_BYTES_MAX} bytes")
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("is not JSON") from None
    if not isinstance(entry, dict):
        raise ValueError("is not a JSON object")
    last_seen_us = entry.get("last_seen_us", 0)
    if type(last_seen_us) is not int or not 0 <= last_seen_us <= _LAST_SEEN_MAX_US:
        raise ValueError('"last_seen_us" is no time in microseconds')
    return _key(entry), last_seen_us.to_bytes(_LAST_SEEN_BYTES) + _payload(entry)


def _key(entry: dict[str, object]) -> bytes:
    text = entry.get("key")
    if not isinstance(text, str):
        raise ValueError('has no "key"')
    try:
        key = zbase32.decode(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ValueError('"key" is not 52 letters of z-base-32')
    return key


def _payload(entry: dict[str, object]) -> bytes:
    text = entry.get("payload")
    if not isinstance(text, str):
        raise ValueError('has no "payload"')
    try:
        payload = b64decode(text, validate=True)
    except ValueError:
        raise ValueError('"payload" is not base64') from None
    if not PAYLOAD_BYTES_MIN <= len(payload) <= PAYLOAD_BYTES_MAX:
        raise ValueError(
            f'"payload" has {len(payload)} bytes, not {PAYLOAD_BYTES_MIN} to {PAYLOAD_BYTES_MAX}'
        )
    return payload
