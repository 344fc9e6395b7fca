"""Signed packets: a DNS message, when it was made, and the key owner's signature.

    relay payload = signature (64) || timestamp (8) || dns (0..1000)
    canonical     = public key (32) || relay payload
    signable      = "3:seqi" timestamp "e1:v" length ":" dns        (BEP 44)

The timestamp counts microseconds since 1970, big endian and unsigned; it is the
sequence number of the item on the DHT. Packets of one key are totally ordered,
by timestamp and then by DNS bytes, so merging what several sources say is safe
in any order.

Source: protocol.md, sections 2 and 3; BEP 44.
Sans-IO: the wall clock is an argument, `now_us`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from relay import _kernels
from relay.errors import PacketError
from relay.pkarr import dns as dns_message
from relay.pkarr.keys import KEY_BYTES, Keypair, PublicKey

if TYPE_CHECKING:
    from relay.pkarr.dns_build import NewRecord
    from relay.pkarr.dns_text import Record

SIGNATURE_BYTES: Final = 64
TIMESTAMP_BYTES: Final = 8
_DNS_AT: Final = SIGNATURE_BYTES + TIMESTAMP_BYTES
DNS_BYTES_MAX: Final = 1000
"""BEP 44 limits a value to 1000 bytes."""
PAYLOAD_BYTES_MIN: Final = _DNS_AT
PAYLOAD_BYTES_MAX: Final = _DNS_AT + DNS_BYTES_MAX
CANONICAL_BYTES_MIN: Final = KEY_BYTES + PAYLOAD_BYTES_MIN
CANONICAL_BYTES_MAX: Final = KEY_BYTES + PAYLOAD_BYTES_MAX
TIMESTAMP_MAX_US: Final = 2**64 - 1
_US_PER_S: Final = 1_000_000
CLOCK_CORRECTION_US: Final = 60 * _US_PER_S
"""By how much the wall clock may be set back without any packet being of unknown age."""


def signable(timestamp_us: int, dns: bytes) -> bytes:
    """Return the bytes that the owner signs: bencoded ``seq`` and ``v`` (BEP 44)."""
    return b"3:seqi%de1:v%d:%b" % (timestamp_us, len(dns), dns)


@dataclass(frozen=True, slots=True)
class SignedPacket:
    """A packet whose signature and DNS message were checked, or that we signed ourselves.

    The constructor believes its arguments; `from_relay_payload` and `from_item`
    are the ways in for what strangers send. Equality compares all bytes.
    """

    public_key: PublicKey
    signature: bytes
    """64 bytes over `signable`."""
    timestamp_us: int
    """When the owner made it, microseconds since 1970, any unsigned 64-bit number."""
    dns: bytes
    """A DNS message of at most 1000 bytes."""

    @classmethod
    def from_relay_payload(cls, key: PublicKey, payload: bytes, *, verify: bool = True) -> Self:
        """Check what a relay or its client sent.

        Args:
            key: whose packet it claims to be.
            payload: signature, timestamp and DNS message, 72 to 1072 bytes.
            verify: False only for bytes that were verified before.

        Raises:
            PacketError: the first failing check, in the order too_short, too_large,
                signature, dns; the texts are the reference's.
        """
        packet = cls._unpack(key, payload)
        if verify and not _kernels.verify(key.octets, packet.signature, packet.signable):
            raise _bad_signature()
        dns_message.check(packet.dns)
        return packet

    @classmethod
    def from_relay_payloads(
        cls, payloads: Iterable[tuple[PublicKey, bytes]], *, random: Callable[[int], bytes]
    ) -> list[Self | PacketError]:
        """Check many payloads at once, which costs about half as much for each.

        Args:
            payloads: pairs as for `from_relay_payload`.
            random: `os.urandom` or alike; the coefficients of a batch must be unknown to
                whoever signs.

        Returns:
            For each pair, in order, the packet or the error that `from_relay_payload`
            would have raised; one bad member spoils no other.
        """
        results: list[Self | PacketError] = []
        for key, payload in payloads:
            try:
                results.append(cls._unpack(key, payload))
            except PacketError as error:
                results.append(error)
        candidates = [entry for entry in results if isinstance(entry, cls)]
        verdicts = iter(_verify_all(candidates, random))
        return [
            cls._judged(entry, signed=next(verdicts)) if isinstance(entry, cls) else entry
            for entry in results
        ]

    @classmethod
    def _judged(cls, packet: Self, *, signed: bool) -> Self | PacketError:
        if not signed:
            return _bad_signature()
        try:
            dns_message.check(packet.dns)
        except PacketError as error:
            return error
        return packet

    @classmethod
    def _unpack(cls, key: PublicKey, payload: bytes) -> Self:
        size = len(payload) + KEY_BYTES  # the reference counts the key, also in its texts
        if size < CANONICAL_BYTES_MIN:
            raise PacketError(
                "too_short",
                f"Invalid SignedPacket bytes length, expected at least {CANONICAL_BYTES_MIN} "
                f"bytes but got: {size}",
            )
        if size > CANONICAL_BYTES_MAX:
            raise _too_large(size)
        return cls(
            key,
            payload[:SIGNATURE_BYTES],
            int.from_bytes(payload[SIGNATURE_BYTES:_DNS_AT], "big"),
            payload[_DNS_AT:],
        )

    @classmethod
    def from_item(cls, key: PublicKey, seq: int, signature: bytes, value: bytes) -> Self:
        """Take a DHT item whose signature the node has verified.

        Raises:
            PacketError: the value is too large or no DNS message, or `seq` is negative
                and so no timestamp (then as a bad signature: the reference reads it as a
                huge unsigned number, which was not what the owner signed).
        """
        if seq < 0:
            raise _bad_signature()
        if len(value) > DNS_BYTES_MAX:
            raise _too_large(len(value) + CANONICAL_BYTES_MIN)
        dns_message.check(value)
        return cls(key, signature, seq, value)

    @classmethod
    def sign(cls, keypair: Keypair, dns: bytes, timestamp_us: int) -> Self:
        """Sign a finished DNS message.

        Raises:
            PacketError: it is over 1000 bytes, or no DNS message.
            ValueError: the timestamp does not fit unsigned 64 bits.
        """
        if not 0 <= timestamp_us <= TIMESTAMP_MAX_US:
            raise ValueError(f"a timestamp is in 0..{TIMESTAMP_MAX_US}, not {timestamp_us}")
        if len(dns) > DNS_BYTES_MAX:
            raise _too_large(len(dns))
        dns_message.check(dns)
        return cls(keypair.public_key, keypair.sign(signable(timestamp_us, dns)), timestamp_us, dns)

    @classmethod
    def build(cls, keypair: Keypair, records: Sequence[NewRecord], timestamp_us: int) -> Self:
        """Make and sign a DNS message of `records`, in this order.

        Raises:
            PacketError: the message is over 1000 bytes.
            ValueError: the timestamp does not fit unsigned 64 bits.

        >>> from relay.pkarr import dns_build
        >>> keypair = Keypair.from_seed(bytes(32))
        >>> packet = SignedPacket.build(keypair, [dns_build.txt("_foo", "hello", ttl_s=30)], 1)
        >>> [record.value for record in packet.records()]
        ['"hello"']
        >>> packet == SignedPacket.from_relay_payload(
        ...     keypair.public_key, packet.to_relay_payload()
        ... )
        True
        """
        from relay.pkarr.dns_build import message  # a relay builds no packets

        return cls.sign(keypair, message(keypair.public_key, records), timestamp_us)

    @property
    def signable(self) -> bytes:
        """What the signature covers."""
        return signable(self.timestamp_us, self.dns)

    def to_relay_payload(self) -> bytes:
        """Return the body of a relay's answer, 72 to 1072 bytes."""
        return b"%b%b%b" % (
            self.signature,
            self.timestamp_us.to_bytes(TIMESTAMP_BYTES, "big"),
            self.dns,
        )

    def ttl(self, ttl_min_s: int, ttl_max_s: int) -> int:
        """Return the smallest TTL among the answers, within the bounds; all in seconds.

        Without answers it is `ttl_min_s`. Other sections do not count.
        """
        smallest_s = dns_message.min_answer_ttl_s(self.dns)
        if smallest_s is None:
            return ttl_min_s
        return min(max(smallest_s, ttl_min_s), ttl_max_s)

    def more_recent_than(self, other: SignedPacket) -> bool:
        """Tell whether this one replaces `other`: later timestamp, then larger DNS bytes.

        The signature takes no part, and of two equal packets neither is more recent.
        """
        if self.timestamp_us != other.timestamp_us:
            return self.timestamp_us > other.timestamp_us
        return self.dns > other.dns

    def records(self) -> list[Record]:
        """Return the answer records, decoded for people."""
        from relay.pkarr.dns_text import records  # only pages and tools show records

        return records(self.dns)


@dataclass(frozen=True, slots=True)
class SeenPacket:
    """A packet and when it was last received: from a PUT, or from the DHT."""

    packet: SignedPacket
    last_seen_us: int
    """Our wall clock, microseconds since 1970."""

    def elapsed_s(self, now_us: int) -> int:
        """Return the whole seconds since it was seen, rounded down; 0 if the clock went back."""
        return max(now_us - self.last_seen_us, 0) // _US_PER_S

    def is_from_the_future(self, now_us: int) -> bool:
        """Tell whether the clock went back since it was seen, by more than it may be corrected.

        Nobody knows how old such a packet is.
        """
        return self.last_seen_us > now_us + CLOCK_CORRECTION_US

    def expires_in_s(self, ttl_min_s: int, ttl_max_s: int, now_us: int) -> int:
        """Return the seconds of life left, 0 when expired, or of unknown age."""
        if self.is_from_the_future(now_us):
            return 0
        return max(self.packet.ttl(ttl_min_s, ttl_max_s) - self.elapsed_s(now_us), 0)

    def is_expired(self, ttl_min_s: int, ttl_max_s: int, now_us: int) -> bool:
        """Tell whether its TTL has passed; at exactly the TTL it has."""
        return self.expires_in_s(ttl_min_s, ttl_max_s, now_us) == 0


def merge(old: SeenPacket | None, new: SeenPacket) -> SeenPacket:
    """Return what a cache keeps when it holds `old` and sees `new`. It never downgrades.

    The new one wins if there was nothing, if it is more recent, or if it is the same
    packet, seen later. Source: protocol.md, section 3, "Cache update rule".
    """
    if old is None or new.packet.more_recent_than(old.packet):
        return new
    if new.packet == old.packet and new.last_seen_us > old.last_seen_us:
        return new
    return old


def _bad_signature() -> PacketError:
    return PacketError("signature", "signature error")


def _too_large(size: int) -> PacketError:
    return PacketError(
        "too_large", f"DNS Packet is too large, expected max {DNS_BYTES_MAX} bytes but got: {size}"
    )


def _verify_all(packets: Sequence[SignedPacket], random: Callable[[int], bytes]) -> list[bool]:
    return _kernels.verify_batch(
        [(packet.public_key.octets, packet.signature, packet.signable) for packet in packets],
        random,
    )
