"""How the store keeps a packet: one `bytes` object, in memory and on the disk.

    record = last seen (8, big endian, microseconds) || relay payload
    payload = signature (64) || timestamp (8, big endian, microseconds) || dns (0..1000)

A record costs a quarter of the memory of the value objects it stands for, which are made when
somebody asks. Rows on the disk hold the same bytes with a CRC-32 over key and record: enough
against a spoiled disk, and nothing here defends against an enemy who may write to the file.

Sans-IO.
"""

from binascii import unhexlify
from collections.abc import Iterator
from typing import Final
from zlib import crc32

from relay.pkarr.keys import PublicKey
from relay.pkarr.packet import PAYLOAD_BYTES_MAX, PAYLOAD_BYTES_MIN, SeenPacket, SignedPacket

KEY_BYTES: Final = 32
_LAST_SEEN_BYTES: Final = 8
_SIGNATURE_END: Final = _LAST_SEEN_BYTES + 64
_TIMESTAMP_END: Final = _SIGNATURE_END + 8
_RECORD_BYTES_MIN: Final = _LAST_SEEN_BYTES + PAYLOAD_BYTES_MIN
_RECORD_BYTES_MAX: Final = _LAST_SEEN_BYTES + PAYLOAD_BYTES_MAX
_LAST_SEEN_MAX_US: Final = 2**63 - 1
"""SQLite integers are signed; a clock that says more is wrong by 290,000 years anyway."""


def encode(seen: SeenPacket) -> bytes:
    """Return the record of `seen`; a clock outside 0..2**63-1 is clamped."""
    last_seen_us = min(max(seen.last_seen_us, 0), _LAST_SEEN_MAX_US)
    return last_seen_us.to_bytes(_LAST_SEEN_BYTES, "big") + seen.packet.to_relay_payload()


def decode(key: PublicKey, record: bytes) -> SeenPacket:
    """Return what `encode` was given; `record` must come from there or from `checked_row`."""
    packet = SignedPacket(
        key,
        record[_LAST_SEEN_BYTES:_SIGNATURE_END],
        int.from_bytes(record[_SIGNATURE_END:_TIMESTAMP_END], "big"),
        record[_TIMESTAMP_END:],
    )
    return SeenPacket(packet, int.from_bytes(record[:_LAST_SEEN_BYTES], "big"))


def timestamp_us(record: bytes) -> int:
    """Return the packet's timestamp, microseconds since 1970."""
    return int.from_bytes(record[_SIGNATURE_END:_TIMESTAMP_END], "big")


def last_seen_us(record: bytes) -> int:
    """Return when the packet was last seen, our wall clock, microseconds since 1970."""
    return int.from_bytes(record[:_LAST_SEEN_BYTES], "big")


def same_packet(one: bytes, other: bytes) -> bool:
    """Tell whether two records of a key differ in nothing but when they were seen."""
    return one[_LAST_SEEN_BYTES:] == other[_LAST_SEEN_BYTES:]


def newer(new: bytes, old: bytes) -> bool:
    """Tell whether `new` replaces `old`: `relay.pkarr.packet.merge`, without making objects.

    Timestamps are big endian and DNS bytes follow them, so recency is the order of the bytes.
    """
    if new[_LAST_SEEN_BYTES:] == old[_LAST_SEEN_BYTES:]:
        return new[:_LAST_SEEN_BYTES] > old[:_LAST_SEEN_BYTES]
    return new[_SIGNATURE_END:] > old[_SIGNATURE_END:]


def row(key: bytes, record: bytes) -> tuple[bytes, int, bytes, int]:
    """Return the columns key, last_seen_us, payload and checksum of table ``packets``."""
    return (
        key,
        int.from_bytes(record[:_LAST_SEEN_BYTES], "big"),
        record[_LAST_SEEN_BYTES:],
        crc32(record, crc32(key)),
    )


ROW_AS_HEX: Final = (
    "printf('%08x', checksum) || hex(key) || printf('%016x', last_seen_us) || hex(payload)"
)
"""SQL for a whole row of ``packets`` as text, to be given to `checked_row`.

Many rows then come out of SQLite as one string. Fetched one by one, each would give the
interpreter lock away and wait to get it back: 40 µs a row when the Trio thread is busy.
"""


def checked_row(text: str) -> tuple[bytes, bytes] | None:
    """Return key and record of a row in the form `ROW_AS_HEX`, or None if it is spoiled."""
    try:
        octets = unhexlify(text)
    except ValueError:
        return None
    checked = octets[4:]
    record = checked[KEY_BYTES:]
    if not _RECORD_BYTES_MIN <= len(record) <= _RECORD_BYTES_MAX:
        return None
    if crc32(checked) != int.from_bytes(octets[:4], "big"):
        return None
    return checked[:KEY_BYTES], record


def pack_rows(rows: str) -> tuple[int, bytes]:
    """Decode rows in the form `ROW_AS_HEX`, a space between two, and leave out the spoiled ones.

    A pack is what the table loads: the size of the record (2 bytes, big endian), key and
    record, of one row after the other. The twin in C gives the interpreter lock away meanwhile.

    Returns:
        How many rows were good, and their pack.
    """
    checked = (checked_row(row) for row in rows.split(" "))
    pieces = [packed(*row) for row in checked if row is not None]
    return len(pieces), b"".join(pieces)


def packed(key: bytes, record: bytes) -> bytes:
    """Return the pack of a single row."""
    return b"%b%b%b" % (len(record).to_bytes(2, "big"), key, record)


def unpack(pack: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Return keys and records of a pack.

    Raises:
        ValueError: `pack_rows` did not make it; whoever wants to know before anything else
            happens makes a list.
    """
    at = 0
    while at < len(pack):
        start = at + 2 + KEY_BYTES
        size = int.from_bytes(pack[at : at + 2], "big")
        end = start + size
        if not _RECORD_BYTES_MIN <= size <= _RECORD_BYTES_MAX or end > len(pack):
            raise ValueError("these are no packed rows")
        yield pack[at + 2 : start], pack[start:end]
        at = end


def floor_row(key: bytes, floor_us: int, evicted_us: int) -> tuple[bytes, bytes, int, int]:
    """Return the columns key, timestamp, evicted_us and checksum of table ``floors``."""
    timestamp = floor_us.to_bytes(8, "big")
    return key, timestamp, evicted_us, _floor_checksum(key, timestamp, evicted_us)


def checked_floor(
    key: object, timestamp: object, evicted_us: object, checksum: object
) -> tuple[bytes, int, int] | None:
    """Return key, floor and time of eviction of a ``floors`` row, or None if it is spoiled."""
    if not (isinstance(key, bytes) and isinstance(timestamp, bytes)):
        return None
    if not isinstance(evicted_us, int) or evicted_us < 0:
        return None
    if len(timestamp) != 8 or checksum != _floor_checksum(key, timestamp, evicted_us):
        return None
    return key, int.from_bytes(timestamp, "big"), evicted_us


def _floor_checksum(key: bytes, timestamp: bytes, evicted_us: int) -> int:
    return crc32(evicted_us.to_bytes(8, "big"), crc32(timestamp, crc32(key)))


def node_row(position: int, node_id: bytes, ip: str, port: int) -> tuple[int, bytes, str, int, int]:
    """Return the columns of table ``nodes``."""
    return position, node_id, ip, port, _node_checksum(node_id, ip, port)


def checked_node(
    node_id: object, ip: object, port: object, checksum: object
) -> tuple[bytes, str, int] | None:
    """Return a ``nodes`` row, or None if it is spoiled."""
    if not (isinstance(node_id, bytes) and isinstance(ip, str) and isinstance(port, int)):
        return None
    if not (0 < port < 2**16 and ip.isascii() and checksum == _node_checksum(node_id, ip, port)):
        return None
    return node_id, ip, port


def _node_checksum(node_id: bytes, ip: str, port: int) -> int:
    return crc32(port.to_bytes(2, "big"), crc32(ip.encode("ascii"), crc32(node_id)))
