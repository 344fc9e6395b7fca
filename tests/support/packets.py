"""Signed packets made without any code of the relay, so that they can judge it.

A packet is one TXT record at the apex of its key; `size` pads the DNS message with a
second record. Source: design/protocol.md, sections 1 and 2.
"""

from __future__ import annotations

import hashlib
import struct
import time
from dataclasses import dataclass
from typing import Final

from nacl.signing import SigningKey, VerifyKey

ALPHABET: Final = "ybndrfg8ejkmcpqxot1uwisza345h769"
KEY_LETTERS: Final = 52
TXT: Final = 16
CLASS_IN: Final = 1
SERVICE_PARAMETERS: Final = {
    0: b"\0\1\0\3",
    1: b"\x02h2\x05a,b c",
    2: b"",
    3: b"\x01\xbb",
    4: bytes([192, 0, 2, 1, 192, 0, 2, 2]),
    5: b"\x00\x02\xab\xcd",
    6: bytes(15) + b"\1",
    7: b"/q{?dns}",
    65280: b"",
}
"""Of an HTTPS record (RFC 9460): each that has a notation of its own, and 65280, which has none."""


def zbase32(octets: bytes) -> str:
    """Return the 52 letters of a 32-byte key."""
    value = int.from_bytes(octets) << (KEY_LETTERS * 5 - len(octets) * 8)
    letters = [ALPHABET[value >> (5 * at) & 31] for at in reversed(range(KEY_LETTERS))]
    return "".join(letters)


def now_us() -> int:
    """Return the wall clock in microseconds, the unit of packet timestamps."""
    return time.time_ns() // 1000


@dataclass(frozen=True, slots=True)
class Packet:
    """A signed packet as a client sends it: `payload` is the body of a PUT."""

    public_key: bytes
    timestamp_us: int
    payload: bytes

    @property
    def key(self) -> str:
        """The key as URLs spell it."""
        return zbase32(self.public_key)

    @property
    def dns(self) -> bytes:
        """The DNS message, which is `v` of the BEP 44 item."""
        return self.payload[72:]


class Author:
    """A key that signs packets; the seed may be given to repeat a run."""

    def __init__(self, seed: bytes | None = None) -> None:
        self._signing = SigningKey.generate() if seed is None else SigningKey(seed)
        self.seed = bytes(self._signing)
        self.public_key = bytes(self._signing.verify_key)
        self.key = zbase32(self.public_key)
        self.target = hashlib.sha1(self.public_key, usedforsecurity=False).digest()

    @classmethod
    def numbered(cls, number: int, label: str = "author") -> Author:
        """Return the same author for the same number in every run."""
        return cls(hashlib.sha256(f"{label} {number}".encode()).digest())

    def packet(
        self,
        text: str = "hello",
        *,
        timestamp_us: int | None = None,
        ttl_s: int = 300,
        size: int | None = None,
    ) -> Packet:
        """Sign a packet with one TXT record; `size` is that of the DNS message, bytes."""
        return self.sign(dns_message(self.key, text, ttl_s, size), timestamp_us)

    def sign(self, dns: bytes, timestamp_us: int | None = None) -> Packet:
        """Sign any bytes as a DNS message."""
        stamp = now_us() if timestamp_us is None else timestamp_us
        signature = self._signing.sign(signable(stamp, dns)).signature
        return Packet(self.public_key, stamp, signature + stamp.to_bytes(8) + dns)


def signable(timestamp_us: int, dns: bytes) -> bytes:
    """Return what a BEP 44 signature without salt covers."""
    return b"3:seqi%de1:v%d:%b" % (timestamp_us, len(dns), dns)


def verifies(public_key: bytes, payload: bytes) -> bool:
    """Tell whether a relay's answer is signed by the key, judged by libsodium."""
    stamp, dns = int.from_bytes(payload[64:72]), payload[72:]
    message = VerifyKey(public_key).verify(signable(stamp, dns), payload[:64])
    return message == signable(stamp, dns)


def dns_message(key: str, text: str, ttl_s: int, size: int | None) -> bytes:
    """Return a DNS reply with one TXT record, padded by another one to `size` bytes."""
    owner = bytes([KEY_LETTERS]) + key.encode() + b"\0"
    answers = [_txt(owner, text.encode(), ttl_s)]
    head = struct.Struct(">6H")
    if size is not None:
        # The padding's own name points at the owner's, which starts right after the header.
        used = head.size + len(answers[0]) + len(_txt(b"\xc0\x0c", b"", ttl_s))
        answers.append(_padding(size - used + 1, ttl_s))
    return head.pack(0, 0x8000, 0, len(answers), 0, 0) + b"".join(answers)


def _txt(owner: bytes, text: bytes, ttl_s: int) -> bytes:
    data = bytes([len(text)]) + text
    return owner + struct.pack(">HHIH", TXT, CLASS_IN, ttl_s, len(data)) + data


def _padding(length: int, ttl_s: int) -> bytes:
    """A TXT record whose data takes `length` bytes, at least 1, in strings of up to 255."""
    strings = bytearray()
    while length > 0:
        text = min(length, 256) - 1
        strings += bytes([text]) + b"p" * text
        length -= text + 1
    return b"\xc0\x0c" + struct.pack(">HHIH", TXT, CLASS_IN, ttl_s, len(strings)) + strings
