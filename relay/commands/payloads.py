"""Payloads in files: what a relay carries, and the same with its key before it.

    relay payload = signature (64) || timestamp (8) || dns (0..1000)
    with its key  = public key (32) || relay payload

Both may be given as bytes, or as the hexadecimal digits of these bytes. Neither says which it
is: the signature does. A payload has no key in it, but the names of its records end in one;
when the signature is that key's, the key was found.

Source: protocol.md, section 2.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from relay import _kernels
from relay.errors import CommandError, PacketError, PublicKeyError
from relay.pkarr import dns as dns_message
from relay.pkarr import dns_text
from relay.pkarr.keys import KEY_BYTES, KEY_LETTERS, PublicKey
from relay.pkarr.packet import (
    CANONICAL_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    PAYLOAD_BYTES_MIN,
    SIGNATURE_BYTES,
    TIMESTAMP_BYTES,
    SignedPacket,
    signable,
)

STANDARD_INPUT: Final = "-"
FILE_BYTES_MAX: Final = 4 * CANONICAL_BYTES_MAX
"""Hexadecimal digits and line ends take twice and a little more; a longer file is no payload."""
_HEX: Final = frozenset(b"0123456789abcdefABCDEF")
_DNS_AT: Final = SIGNATURE_BYTES + TIMESTAMP_BYTES


class KeySource(Enum):
    """Where the key of a payload came from."""

    GIVEN = "given"
    IN_PAYLOAD = "in the payload"
    IN_NAMES = "in the names of the records"


@dataclass(frozen=True, slots=True)
class Payload:
    """A payload taken apart; nothing about it need be right but its size."""

    signature: bytes
    timestamp_us: int
    dns: bytes
    size: int
    """Of what was given, in bytes."""
    key: PublicKey | None
    key_source: KeySource | None
    verified: bool | None
    """Whether the signature is the key's; None without a key."""
    fault: str
    """Why `dns` is no DNS message; empty if it is one."""

    def packet(self) -> SignedPacket:
        """Return it as a packet. Raises CommandError if it is none, or its key is not known."""
        if self.fault:
            raise CommandError(f"the payload is no packet: {self.fault}")
        if self.key is None:
            raise CommandError("the payload does not tell whose it is: give the key with --key")
        if not self.verified:
            raise CommandError(f"the payload is not signed by {self.key}")
        return SignedPacket(self.key, self.signature, self.timestamp_us, self.dns)


def read_payload(source: str, key: PublicKey | None) -> Payload:
    """Read a payload from a file, or from standard input if `source` is ``-``.

    Args:
        source: a path, or ``-``.
        key: whose it is, if that is known.

    Raises:
        CommandError: it cannot be read, or has not the size of a payload.
    """
    where = "standard input" if source == STANDARD_INPUT else source
    octets = _octets(source, where)
    if not PAYLOAD_BYTES_MIN <= len(octets) <= CANONICAL_BYTES_MAX:
        raise CommandError(
            f"{where} holds no payload: that has {PAYLOAD_BYTES_MIN} to {CANONICAL_BYTES_MAX}"
            f" bytes, and this has {len(octets)}"
        )
    whole = _with_key(octets, key)
    if whole is not None:
        return whole
    if len(octets) > PAYLOAD_BYTES_MAX:
        raise CommandError(
            f"{where} holds no payload: {len(octets)} bytes would be one that begins with its"
            " key, and it is not signed by that"
        )
    return _without_key(octets, key)


def _octets(source: str, where: str) -> bytes:
    try:
        if source == STANDARD_INPUT:
            octets = sys.stdin.buffer.read(FILE_BYTES_MAX + 1)
        else:
            with Path(source).open("rb") as file:
                octets = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise CommandError(f"failed to read {where}: {error.strerror}") from error
    if len(octets) > FILE_BYTES_MAX:
        raise CommandError(f"{where} holds no payload: it has more than {FILE_BYTES_MAX} bytes")
    digits = b"".join(octets.split())
    if digits and len(digits) % 2 == 0 and _HEX.issuperset(digits):
        return bytes.fromhex(digits.decode("ascii"))  # no signature has only such bytes
    return octets


def _with_key(octets: bytes, given: PublicKey | None) -> Payload | None:
    """Take it for one that begins with its key; None unless the signature agrees."""
    if len(octets) < KEY_BYTES + PAYLOAD_BYTES_MIN:
        return None
    try:
        key = PublicKey.from_octets(octets[:KEY_BYTES])
    except PublicKeyError:
        return None
    found = _judged(octets[KEY_BYTES:], len(octets), key, KeySource.IN_PAYLOAD)
    if not found.verified:
        return None
    if given is not None and given != key:
        return _judged(octets[KEY_BYTES:], len(octets), given, KeySource.GIVEN)
    return found


def _without_key(octets: bytes, given: PublicKey | None) -> Payload:
    if given is not None:
        return _judged(octets, len(octets), given, KeySource.GIVEN)
    dns = octets[_DNS_AT:]
    candidates = _keys_in_names(dns)
    judged = [_judged(octets, len(octets), key, KeySource.IN_NAMES) for key in candidates]
    for payload in judged:
        if payload.verified:
            return payload
    return judged[0] if judged else _judged(octets, len(octets), None, None)


def _judged(octets: bytes, size: int, key: PublicKey | None, source: KeySource | None) -> Payload:
    signature, dns = octets[:SIGNATURE_BYTES], octets[_DNS_AT:]
    timestamp_us = int.from_bytes(octets[SIGNATURE_BYTES:_DNS_AT], "big")
    verified = None
    if key is not None:
        verified = _kernels.verify(key.octets, signature, signable(timestamp_us, dns))
    try:
        dns_message.check(dns)
        fault = ""
    except PacketError as error:
        fault = str(error)
    return Payload(signature, timestamp_us, dns, size, key, source, verified, fault)


def _keys_in_names(dns: bytes) -> list[PublicKey]:
    """Return the keys that the records' names end in, the first first; few, as names are."""
    try:
        records = dns_text.records(dns)
    except PacketError:
        return []
    keys: dict[PublicKey, None] = {}
    for record in records:
        label = record.name.rpartition(".")[2]
        if len(label) == KEY_LETTERS:
            try:
                keys[PublicKey.parse(label)] = None
            except PublicKeyError:
                continue
    return list(keys)
